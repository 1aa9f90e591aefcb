//! The C interface from Rust and from a C program, against the engine that it wraps.

use std::ffi::{CStr, CString};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::ptr::{null, null_mut};
use std::sync::atomic::AtomicBool;
use std::sync::Arc;
use std::{env, fs, thread};

use quasar_core::logits::best;
use quasar_core::preprocess::{ImageView, PixelFormat, YuvMatrix};
use quasar_core::{Executor, Network, Subnet, Tier};
use quasar_rt::{
    quasar_engine_class_name, quasar_engine_classes, quasar_engine_close, quasar_engine_embed,
    quasar_engine_embedding_size, quasar_engine_infer, quasar_engine_open,
    quasar_engine_open_device, quasar_engine_top, quasar_last_error, quasar_version, QuasarEngine,
    QuasarImage, QuasarScore, QuasarStatus, QUASAR_BT709, QUASAR_NV12,
};

const CLASSES: usize = 10;

/// A mistake in an image.
type Change = fn(&mut QuasarImage);

fn subnet() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../python/quasar_rt/data/fashion-mnist.qvit")
}

fn c_string(path: &Path) -> CString {
    CString::new(path.to_str().expect("UTF-8")).expect("no zero byte")
}

fn open(threads: usize) -> *mut QuasarEngine {
    open_file(&subnet(), threads)
}

fn open_file(path: &Path, threads: usize) -> *mut QuasarEngine {
    let (path, mut engine) = (c_string(path), null_mut());
    // SAFETY: a C string and a place for the engine.
    let status = unsafe { quasar_engine_open(path.as_ptr(), threads, &raw mut engine) };
    assert_eq!(status, QuasarStatus::Ok, "{}", last_error());
    engine
}

fn last_error() -> String {
    // SAFETY: a C string, valid until the next failed call.
    let text = unsafe { CStr::from_ptr(quasar_last_error()) };
    text.to_str().expect("UTF-8").to_owned()
}

fn gray(pixels: &[u8]) -> QuasarImage {
    QuasarImage {
        data: pixels.as_ptr(),
        bytes: pixels.len(),
        chroma: null(),
        chroma_bytes: 0,
        width: 28,
        height: 28,
        stride: 0,
        format: 0,
        matrix: 0,
    }
}

/// Calls the interface with places for ten logits.
fn infer(engine: *const QuasarEngine, image: &QuasarImage) -> (QuasarStatus, [i32; CLASSES]) {
    let mut logits = [0; CLASSES];
    // SAFETY: an open engine or null, a live image, ten writable logits.
    let status = unsafe { quasar_engine_infer(engine, image, logits.as_mut_ptr(), CLASSES) };
    (status, logits)
}

fn expected(view: &ImageView) -> [i32; CLASSES] {
    let subnet = Subnet::load(subnet()).expect("the packaged subnet");
    let network = Arc::new(Network::new(&subnet, Tier::Scalar).expect("scalar"));
    let executor = Executor::new(network, Some(1)).expect("one thread");
    let mut logits = [0; CLASSES];
    executor
        .infer(view, &mut logits, &AtomicBool::new(false))
        .expect("an image");
    logits
}

fn picture(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|i| (i * i / 7 % 256) as u8).collect()
}

#[test]
fn logits_and_classes_are_the_engines() {
    let pixels = picture(28 * 28);
    let engine = open(2);
    let (status, logits) = infer(engine, &gray(&pixels));
    assert_eq!(status, QuasarStatus::Ok);
    let wanted = expected(&ImageView::packed(&pixels, 28, 28, 1).expect("28 x 28"));
    assert_eq!(logits, wanted);

    let mut scores = [QuasarScore {
        index: 0,
        probability: 0.0,
    }; 3];
    // SAFETY: an open engine, ten logits, three scores.
    let status =
        unsafe { quasar_engine_top(engine, logits.as_ptr(), CLASSES, scores.as_mut_ptr(), 3) };
    assert_eq!(status, QuasarStatus::Ok);
    let subnet = Subnet::load(subnet()).expect("the packaged subnet");
    let best = best(&wanted, subnet.config().logit_scale, 3);
    for (score, (index, probability)) in scores.iter().zip(best) {
        assert_eq!((score.index, score.probability), (index, probability));
        // SAFETY: an open engine; the name is a C string.
        let name = unsafe { CStr::from_ptr(quasar_engine_class_name(engine, index)) };
        assert_eq!(name.to_str(), Ok(subnet.config().classes[index].as_str()));
    }
    // SAFETY: an open engine.
    unsafe {
        assert_eq!(quasar_engine_classes(engine), CLASSES);
        assert!(quasar_engine_class_name(engine, CLASSES).is_null());
        quasar_engine_close(engine);
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Opens the packaged subnet on a device; returns the status and the engine.
fn open_device(
    device: &str,
    configuration: &Path,
    board: &Path,
) -> (QuasarStatus, *mut QuasarEngine) {
    let (path, mut engine) = (c_string(&subnet()), null_mut());
    let device = CString::new(device).expect("no zero byte");
    let (configuration, board) = (c_string(configuration), c_string(board));
    // SAFETY: C strings and a place for the engine.
    let status = unsafe {
        quasar_engine_open_device(
            path.as_ptr(),
            device.as_ptr(),
            configuration.as_ptr(),
            board.as_ptr(),
            &raw mut engine,
        )
    };
    (status, engine)
}

fn tiny() -> (PathBuf, PathBuf) {
    let board = root().join("python/quasar_rt/boards/pynq-z2.toml");
    (root().join("fpga/configs/tiny.toml"), board)
}

#[test]
fn a_simulated_accelerator_gives_the_cpus_logits() {
    let folder = env::var_os("QUASAR_SIM_DIR").map_or(root().join("build/sim"), PathBuf::from);
    let library = folder.join("tiny.so");
    if !library.exists() {
        eprintln!("skipped: there is no {}: make sim", library.display());
        return;
    }
    let (configuration, board) = tiny();
    let device = format!("sim:{}", library.display());
    let (status, engine) = open_device(&device, &configuration, &board);
    assert_eq!(status, QuasarStatus::Ok, "{}", last_error());
    let pixels = picture(28 * 28);
    let (status, logits) = infer(engine, &gray(&pixels));
    assert_eq!(status, QuasarStatus::Ok, "{}", last_error());
    let wanted = expected(&ImageView::packed(&pixels, 28, 28, 1).expect("28 x 28"));
    assert_eq!(logits, wanted);
    // SAFETY: an open engine.
    unsafe { quasar_engine_close(engine) };
}

#[test]
fn a_device_that_cannot_be_opened_is_named() {
    let (configuration, board) = tiny();
    let missing = Path::new("/no/such.toml");
    for (device, configuration, board, status, message) in [
        (
            "fpga",
            &*configuration,
            &*board,
            QuasarStatus::InvalidArgument,
            "\"uio\" or",
        ),
        ("uio", missing, &*board, QuasarStatus::File, "/no/such.toml"),
        (
            "uio",
            &*configuration,
            &*configuration,
            QuasarStatus::InvalidArgument,
            "board",
        ),
        (
            "sim:/no/such.so",
            &*configuration,
            &*board,
            QuasarStatus::Unavailable,
            "/no/such.so",
        ),
    ] {
        let (found, engine) = open_device(device, configuration, board);
        assert_eq!(found, status, "{device}: {}", last_error());
        assert!(engine.is_null());
        assert!(last_error().contains(message), "{}", last_error());
    }
}

#[test]
fn camera_frames_with_two_planes_are_taken() {
    let (luma, chroma) = (picture(64 * 40), picture(64 * 20));
    let image = QuasarImage {
        chroma: chroma.as_ptr(),
        chroma_bytes: chroma.len(),
        width: 60,
        height: 40,
        stride: 64,
        format: QUASAR_NV12,
        matrix: QUASAR_BT709,
        ..gray(&luma)
    };
    let view = ImageView::frame(&luma, Some(&chroma), (40, 60), PixelFormat::Nv12, 64);
    let wanted = expected(&view.expect("two planes").with_matrix(YuvMatrix::BT709));
    let engine = open(1);
    assert_eq!(infer(engine, &image), (QuasarStatus::Ok, wanted));
    // SAFETY: open, closed once.
    unsafe { quasar_engine_close(engine) };
}

#[test]
fn threads_share_an_engine() {
    let pixels = picture(28 * 28);
    let wanted = expected(&ImageView::packed(&pixels, 28, 28, 1).expect("28 x 28"));
    let engine = open(1) as usize;
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..25 {
                    let found = infer(engine as *const QuasarEngine, &gray(&pixels));
                    assert_eq!(found, (QuasarStatus::Ok, wanted));
                }
            });
        }
    });
    // SAFETY: open, closed once.
    unsafe { quasar_engine_close(engine as *mut QuasarEngine) };
}

#[test]
fn a_failed_call_has_a_status_and_a_message() {
    let engine = open(1);
    let pixels = picture(28 * 28);
    let image = |change: Change| {
        let mut image = gray(&pixels);
        change(&mut image);
        let (status, _) = infer(engine, &image);
        (status, last_error())
    };
    let cases: [(Change, QuasarStatus, &str); 7] = [
        (
            |i| i.data = null(),
            QuasarStatus::InvalidArgument,
            "image.data is null",
        ),
        (
            |i| i.format = 9,
            QuasarStatus::InvalidArgument,
            "image.format is 9",
        ),
        (
            |i| i.matrix = 2,
            QuasarStatus::InvalidArgument,
            "image.matrix is 2",
        ),
        (|i| i.bytes = 100, QuasarStatus::Image, "100 bytes"),
        (
            |i| i.bytes = usize::MAX,
            QuasarStatus::InvalidArgument,
            "elements",
        ),
        (
            |i| i.width = usize::MAX,
            QuasarStatus::Image,
            "sides are at most",
        ),
        (|i| i.height = 0, QuasarStatus::Image, "it is empty"),
    ];
    for (change, status, words) in cases {
        let found = image(change);
        assert_eq!(found.0, status, "{}", found.1);
        assert!(found.1.contains(words), "{}", found.1);
    }
    assert_eq!(
        infer(null(), &gray(&pixels)).0,
        QuasarStatus::InvalidArgument
    );
    assert_eq!(last_error(), "engine is null");

    let mut logits = [0; CLASSES];
    let mut score = QuasarScore {
        index: 0,
        probability: 0.0,
    };
    // SAFETY: live arguments, or null where the call must notice it.
    unsafe {
        let status = quasar_engine_infer(engine, &gray(&pixels), logits.as_mut_ptr(), 9);
        assert_eq!(status, QuasarStatus::InvalidArgument);
        assert_eq!(last_error(), "count is 9; the subnet has 10 classes");
        let status = quasar_engine_infer(engine, &gray(&pixels), null_mut(), CLASSES);
        assert_eq!(status, QuasarStatus::InvalidArgument);
        let status = quasar_engine_top(engine, logits.as_ptr(), CLASSES, &raw mut score, 11);
        assert_eq!(status, QuasarStatus::InvalidArgument);
        quasar_engine_close(engine);
        quasar_engine_close(null_mut());
        assert_eq!(quasar_engine_classes(null()), 0);
        assert!(!CStr::from_ptr(quasar_version()).is_empty());
    }
}

#[test]
fn an_engine_that_cannot_be_opened_is_null() {
    let folder = env::temp_dir().join(format!("quasar-capi-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a temporary folder");
    let broken = folder.join("broken.qvit");
    fs::write(&broken, b"no subnet").expect("a file");
    let cases = [
        (folder.join("none.qvit"), 1, QuasarStatus::File, "none.qvit"),
        (broken, 1, QuasarStatus::Subnet, "subnet"),
        (
            subnet(),
            1_000_000,
            QuasarStatus::InvalidArgument,
            "threads",
        ),
    ];
    for (path, threads, wanted, words) in cases {
        let (path, mut engine) = (c_string(&path), std::ptr::dangling_mut());
        // SAFETY: a C string and a place for the engine.
        let status = unsafe { quasar_engine_open(path.as_ptr(), threads, &raw mut engine) };
        assert_eq!(status, wanted, "{}", last_error());
        assert!(engine.is_null());
        assert!(last_error().contains(words), "{}", last_error());
    }
    // SAFETY: null where the call must notice it.
    let status = unsafe { quasar_engine_open(null(), 1, null_mut()) };
    assert_eq!(status, QuasarStatus::InvalidArgument);
    fs::remove_dir_all(folder).expect("the folder");
}

#[test]
fn the_example_in_c_compiles_and_names_the_class() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // The shared library lies with the tests.
    let libraries = env::current_exe()
        .expect("a test")
        .parent()
        .expect("deps")
        .to_owned();
    let folder = env::temp_dir().join(format!("quasar-example-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a temporary folder");
    let (program, raw) = (folder.join("classify"), folder.join("picture.raw"));
    // The program loads the library by its SONAME, and by no other name.
    symlink(
        libraries.join("libquasar_rt.so"),
        folder.join(env!("QUASAR_SONAME")),
    )
    .expect("a link");
    let compiled = Command::new("cc")
        .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic"])
        .arg(root.join("examples/classify.c"))
        .arg("-I")
        .arg(root.join("include"))
        .arg("-L")
        .arg(&libraries)
        .args(["-lquasar_rt", "-o"])
        .arg(&program)
        .arg(format!("-Wl,-rpath,{}", folder.display()))
        .status();
    let Ok(compiled) = compiled else {
        eprintln!("skipped: there is no C compiler (cc)");
        return;
    };
    assert!(compiled.success());

    let pixels = picture(28 * 28);
    fs::write(&raw, &pixels).expect("a file");
    let run = |subnet: &Path, picture: &Path| {
        let output = Command::new(&program).arg(subnet).arg(picture).output();
        output.expect("the example runs")
    };
    let found = run(&subnet(), &raw);
    assert!(found.status.success(), "{found:?}");
    let wanted = expected(&ImageView::packed(&pixels, 28, 28, 1).expect("28 x 28"));
    let subnet = Subnet::load(subnet()).expect("the packaged subnet");
    let (class, probability) = best(&wanted, subnet.config().logit_scale, 1)[0];
    let line = format!("{} {probability:.3}\n", subnet.config().classes[class]);
    assert_eq!(String::from_utf8_lossy(&found.stdout), line);

    let missing = run(&folder.join("none.qvit"), &raw);
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("none.qvit"));

    // What is no picture of that form is refused with a reason, shorter and longer files alike.
    let packaged = self::subnet();
    let samples = packaged.with_extension("").join("samples");
    let png = fs::read_dir(samples)
        .expect("samples")
        .map(|entry| entry.expect("a file").path());
    let png = png.filter(|path| path.extension().is_some_and(|e| e == "png"));
    for other in png.chain([folder.join("none.gray"), packaged.clone()]) {
        let refused = run(&packaged, &other);
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        let name = other.to_str().expect("UTF-8");
        assert!(String::from_utf8_lossy(&refused.stderr).contains(name));
    }
    let alone = Command::new(&program).output().expect("the example runs");
    assert_eq!(alone.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&alone.stderr).starts_with("usage: "));
    fs::remove_dir_all(folder).expect("the folder");
}

#[test]
fn an_embedding_is_the_vector_of_its_codes() {
    embedding_of("embedding", 27);
    embedding_of("patch-tokens-mean", 18);
}

/// Compares logits and vector of a golden subnet's image with the executor's outputs.
fn embedding_of(name: &str, size: usize) {
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors");
    let path = vectors.join(format!("{name}.qvit"));
    let subnet = Subnet::load(&path).expect("a golden subnet");
    let (config, side) = (subnet.config(), subnet.config().image.width);
    let pixels = picture(side * side);
    let network = Arc::new(Network::new(&subnet, Tier::Scalar).expect("scalar"));
    let executor = Executor::new(network, Some(1)).expect("one thread");
    let mut outputs = vec![0; config.outputs()];
    let view = ImageView::packed(&pixels, side, side, 1).expect("a square");
    executor
        .infer(&view, &mut outputs, &AtomicBool::new(false))
        .expect("an image");
    let (logits, codes) = outputs[..config.head_rows()].split_at(config.classes.len());
    let zero_point = i32::from(config.embedding.expect("an embedding").zero_point);
    let length = codes.iter().map(|&c| f64::from(c - zero_point).powi(2));
    let length = length.sum::<f64>().sqrt();

    let (engine, image) = (open_file(&path, 1), gray(&pixels));
    let image = QuasarImage {
        width: side,
        height: side,
        ..image
    };
    let mut found = vec![0; logits.len()];
    let mut vector = vec![0.0; codes.len()];
    // SAFETY: an open engine, a live image, arrays of the numbers given; closed once.
    unsafe {
        assert_eq!(quasar_engine_embedding_size(engine), codes.len());
        assert_eq!(quasar_engine_embedding_size(null()), 0);
        let status = quasar_engine_infer(engine, &raw const image, found.as_mut_ptr(), found.len());
        assert_eq!((status, &found[..]), (QuasarStatus::Ok, logits));
        let mut embed = |count: usize| {
            quasar_engine_embed(engine, &raw const image, vector.as_mut_ptr(), count)
        };
        assert_eq!(embed(codes.len() - 1), QuasarStatus::InvalidArgument);
        assert!(last_error().contains(&format!("the embedding has {size}")));
        assert_eq!(embed(codes.len()), QuasarStatus::Ok);
        quasar_engine_close(engine);
    }
    for (&value, &code) in vector.iter().zip(codes) {
        let wanted = f64::from(code - zero_point) / length;
        assert!(
            (f64::from(value) - wanted).abs() < 1e-7,
            "{value}, {wanted}"
        );
    }

    let (engine, pixels) = (open(1), picture(28 * 28));
    // SAFETY: an open engine, a live image, an array of the number given; closed once.
    unsafe {
        assert_eq!(quasar_engine_embedding_size(engine), 0);
        let status = quasar_engine_embed(engine, &gray(&pixels), vector.as_mut_ptr(), vector.len());
        assert_eq!(status, QuasarStatus::InvalidArgument);
        assert!(last_error().contains("--embedding"), "{}", last_error());
        quasar_engine_close(engine);
    }
}
