//! The C interface of the engine: `include/quasar_rt.h`, which is generated from here.
//!
//! Each function checks its pointers for null and catches panics; what lies behind a pointer is the
//! caller's promise. A call that fails returns a status and leaves a message in the thread's
//! [`quasar_last_error`]. Depends on quasar-device.

use std::any::Any;
use std::cell::RefCell;
use std::ffi::{c_char, CStr, CString, OsStr};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::Path;
use std::ptr;
use std::slice;
use std::sync::Arc;

use quasar_accelerator::Program;
use quasar_core::cpu::NEVER;
use quasar_core::embedding;
use quasar_core::logits::best;
use quasar_core::preprocess::{ImageView, PixelFormat, YuvMatrix};
use quasar_core::subnet::config::Config;
use quasar_core::{Error, Executor, Network, Subnet, Tier};
use quasar_device::{open, Device};
use quasar_hardware::{Board, Hardware};

/// The outcome of a call.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuasarStatus {
    /// The call did what it is for.
    Ok = 0,
    /// A pointer is null, a number is out of its range, or an array is too small.
    InvalidArgument = 1,
    /// The subnet's file cannot be read.
    File = 2,
    /// The file is not a valid subnet.
    Subnet = 3,
    /// The image cannot be used.
    Image = 4,
    /// The engine cannot run here: threads, an instruction set or an accelerator are missing,
    /// another program uses the accelerator, or the subnet does not fit it.
    Unavailable = 5,
    /// A defect of the library. Please report it.
    Internal = 6,
    /// The process cannot have the memory that the subnet needs.
    Memory = 7,
    /// An accelerator failed in this frame. It is reset; the next call is not concerned.
    Device = 8,
}

/// A subnet, ready to run. Threads may share it; on the CPU, frames of several threads run at the
/// same time.
pub struct QuasarEngine {
    device: Arc<dyn Device>,
    config: Config,
    names: Vec<CString>,
}

/// One byte a pixel.
pub const QUASAR_GRAY: u32 = 0;
/// R, G, B.
pub const QUASAR_RGB: u32 = 1;
/// B, G, R.
pub const QUASAR_BGR: u32 = 2;
/// A plane of Y', then a plane of half the height with Cb, Cr for each two by two pixels.
pub const QUASAR_NV12: u32 = 3;
/// Y', Cb, Y', Cr for each two pixels of a row.
pub const QUASAR_YUYV: u32 = 4;

const FORMATS: [PixelFormat; 5] = [
    PixelFormat::Gray,
    PixelFormat::Rgb,
    PixelFormat::Bgr,
    PixelFormat::Nv12,
    PixelFormat::Yuyv,
];

/// BT.601, the default of `OpenCV`.
pub const QUASAR_BT601: u32 = 0;
/// BT.709.
pub const QUASAR_BT709: u32 = 1;

/// A picture in the caller's memory, which a call reads and never keeps. Zero is right for each
/// member that does not apply.
#[repr(C)]
pub struct QuasarImage {
    /// The pixels.
    pub data: *const u8,
    /// Number of bytes at `data`.
    pub bytes: usize,
    /// NV12's second plane, if it does not follow the first; else null.
    pub chroma: *const u8,
    /// Number of bytes at `chroma`.
    pub chroma_bytes: usize,
    /// Pixels of a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Bytes from a row to the next; 0 where nothing lies between rows.
    pub stride: usize,
    /// `QUASAR_GRAY`, `QUASAR_RGB`, ...
    pub format: u32,
    /// `QUASAR_BT601` or `QUASAR_BT709`, for NV12 and YUYV.
    pub matrix: u32,
}

/// A class and its probability.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QuasarScore {
    /// The class, from 0.
    pub index: usize,
    /// Its softmax probability, within [0, 1].
    pub probability: f64,
}

thread_local! {
    static LAST_ERROR: RefCell<Option<CString>> = const { RefCell::new(None) };
}

/// A failed call: its status and message.
struct Failure(QuasarStatus, String);

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let status = match &error {
            Error::Io { .. } => QuasarStatus::File,
            Error::InvalidImage(_) => QuasarStatus::Image,
            Error::InvalidValue(_) | Error::InvalidSettings { .. } => QuasarStatus::InvalidArgument,
            Error::OutOfMemory { .. } => QuasarStatus::Memory,
            Error::UnsupportedTier { .. }
            | Error::Threads { .. }
            | Error::DoesNotFit { .. }
            | Error::DeviceUnavailable { .. }
            | Error::DeviceBusy { .. }
            | Error::WrongBitstream { .. } => QuasarStatus::Unavailable,
            Error::DeviceTimeout { .. } | Error::DeviceFault { .. } | Error::CorruptOutput(_) => {
                QuasarStatus::Device
            }
            _ => QuasarStatus::Subnet,
        };
        Self(status, error.to_string())
    }
}

fn invalid(problem: impl Into<String>) -> Failure {
    Failure(QuasarStatus::InvalidArgument, problem.into())
}

/// Runs a call's body; its failure or panic becomes the thread's message.
fn call(body: impl FnOnce() -> Result<(), Failure>) -> QuasarStatus {
    let outcome = catch_unwind(AssertUnwindSafe(body));
    let Failure(status, message) = match outcome {
        Ok(Ok(())) => return QuasarStatus::Ok,
        Ok(Err(failure)) => failure,
        Err(panic) => Failure(QuasarStatus::Internal, panic_message(&*panic)),
    };
    // Messages have no control characters, a panic's may.
    let message = CString::new(message.replace('\0', "")).unwrap_or_default();
    LAST_ERROR.with(|last| *last.borrow_mut() = Some(message));
    status
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("a defect of quasar_rt: {}", text.unwrap_or("a panic"))
}

/// Borrows what `pointer` names.
///
/// # Safety
/// `pointer` is null or valid for as long as the result is used.
unsafe fn borrowed<'a, T>(pointer: *const T, name: &str) -> Result<&'a T, Failure> {
    // SAFETY: by the caller.
    unsafe { pointer.as_ref() }.ok_or_else(|| invalid(format!("{name} is null")))
}

/// Borrows an array.
///
/// # Safety
/// `data` is null or has `count` readable elements.
unsafe fn array<'a, T>(data: *const T, count: usize, name: &str) -> Result<&'a [T], Failure> {
    if data.is_null() {
        return Err(invalid(format!("{name} is null")));
    }
    check_size::<T>(count, name)?;
    // SAFETY: not null, of a size that a slice may have, and readable by the caller's promise.
    Ok(unsafe { slice::from_raw_parts(data, count) })
}

/// Borrows an array that the call writes.
///
/// # Safety
/// `data` is null or has `count` writable, initialized elements that nothing else uses.
unsafe fn array_mut<'a, T>(data: *mut T, count: usize, name: &str) -> Result<&'a mut [T], Failure> {
    if data.is_null() {
        return Err(invalid(format!("{name} is null")));
    }
    check_size::<T>(count, name)?;
    // SAFETY: as for `array`.
    Ok(unsafe { slice::from_raw_parts_mut(data, count) })
}

fn check_size<T>(count: usize, name: &str) -> Result<(), Failure> {
    let bytes = count.checked_mul(size_of::<T>());
    match bytes.map(isize::try_from) {
        Some(Ok(_)) => Ok(()),
        _ => Err(invalid(format!("{name} cannot have {count} elements"))),
    }
}

/// Returns the library's version, such as "0.1.0".
#[no_mangle]
pub extern "C" fn quasar_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}

/// Returns the message of this thread's last failed call: UTF-8, valid until the thread's next
/// failed call. Empty if none has failed.
#[no_mangle]
pub extern "C" fn quasar_last_error() -> *const c_char {
    LAST_ERROR.with(|last| {
        let last = last.borrow();
        last.as_ref()
            .map_or(c"".as_ptr(), |message| message.as_ptr())
    })
}

/// Opens a subnet for this CPU.
///
/// `path` names a .qvit file. `threads` is the number of threads of a frame; 0 takes all cores.
/// `*engine` receives the engine, or null if the call fails.
///
/// # Safety
/// `path` is null or a C string, `engine` is null or writable.
#[no_mangle]
pub unsafe extern "C" fn quasar_engine_open(
    path: *const c_char,
    threads: usize,
    engine: *mut *mut QuasarEngine,
) -> QuasarStatus {
    // SAFETY: by the caller.
    unsafe {
        opened(engine, || {
            let path = c_text(path, "path")?;
            QuasarEngine::open(path, threads)
        })
    }
}

/// Opens a subnet for an accelerator.
///
/// `path` names a .qvit file. `device` is "uio", the FPGA of this machine, whose bitstream is
/// loaded, or "sim:LIBRARY", a simulated accelerator such as "sim:build/sim/tiny.so".
/// `configuration` names the TOML file from which the accelerator was built, and `board` that of
/// its board. `*engine` receives the engine, or null if the call fails.
///
/// # Safety
/// `path`, `device`, `configuration` and `board` are null or C strings, `engine` is null or
/// writable.
#[no_mangle]
pub unsafe extern "C" fn quasar_engine_open_device(
    path: *const c_char,
    device: *const c_char,
    configuration: *const c_char,
    board: *const c_char,
    engine: *mut *mut QuasarEngine,
) -> QuasarStatus {
    // SAFETY: by the caller.
    unsafe {
        opened(engine, || {
            QuasarEngine::open_device(
                c_text(path, "path")?,
                c_text(device, "device")?,
                c_text(configuration, "configuration")?,
                c_text(board, "board")?,
            )
        })
    }
}

/// Borrows a C string.
///
/// # Safety
/// `text` is null or a C string for as long as the result is used.
unsafe fn c_text<'a>(text: *const c_char, name: &str) -> Result<&'a CStr, Failure> {
    if text.is_null() {
        return Err(invalid(format!("{name} is null")));
    }
    // SAFETY: a C string by the caller's promise.
    Ok(unsafe { CStr::from_ptr(text) })
}

/// Writes the engine that `open` returns to `*engine`, or null.
///
/// # Safety
/// `engine` is null or writable.
unsafe fn opened(
    engine: *mut *mut QuasarEngine,
    open: impl FnOnce() -> Result<QuasarEngine, Failure>,
) -> QuasarStatus {
    if !engine.is_null() {
        // SAFETY: writable by the caller's promise.
        unsafe { engine.write(ptr::null_mut()) };
    }
    call(|| {
        if engine.is_null() {
            return Err(invalid("engine is null"));
        }
        let opened = Box::new(open()?);
        // SAFETY: writable by the caller's promise.
        unsafe { engine.write(Box::into_raw(opened)) };
        Ok(())
    })
}

/// Closes an engine. Null is fine. No call may be using it.
///
/// # Safety
/// `engine` is null or comes from `quasar_engine_open` or `quasar_engine_open_device` and is closed
/// once.
#[no_mangle]
pub unsafe extern "C" fn quasar_engine_close(engine: *mut QuasarEngine) {
    if !engine.is_null() {
        call(|| {
            // SAFETY: from Box::into_raw, once, by the caller's promise.
            drop(unsafe { Box::from_raw(engine) });
            Ok(())
        });
    }
}

/// Returns the number of classes; 0 for null, and for a subnet that has an embedding only.
///
/// # Safety
/// `engine` is null or open.
#[no_mangle]
pub unsafe extern "C" fn quasar_engine_classes(engine: *const QuasarEngine) -> usize {
    // SAFETY: by the caller.
    unsafe { engine.as_ref() }.map_or(0, |engine| engine.names.len())
}

/// Returns a class's name: UTF-8, valid until the engine is closed. Null if there is no such class.
///
/// # Safety
/// `engine` is null or open.
#[no_mangle]
pub unsafe extern "C" fn quasar_engine_class_name(
    engine: *const QuasarEngine,
    index: usize,
) -> *const c_char {
    // SAFETY: by the caller.
    let engine = unsafe { engine.as_ref() };
    let name = engine.and_then(|engine| engine.names.get(index));
    name.map_or(ptr::null(), |name| name.as_ptr())
}

/// Runs one image: resizes, crops, and computes the integer model's logits.
///
/// `logits` receives `count` integers, one for each class: the same bits on every device.
///
/// # Safety
/// `engine` is null or open. `image` is null or readable, with the bytes that it names. `logits` is
/// null or has `count` writable elements.
#[no_mangle]
pub unsafe extern "C" fn quasar_engine_infer(
    engine: *const QuasarEngine,
    image: *const QuasarImage,
    logits: *mut i32,
    count: usize,
) -> QuasarStatus {
    call(|| {
        // SAFETY: by the caller, for all three.
        let (engine, image, logits) = unsafe {
            (
                borrowed(engine, "engine")?,
                borrowed(image, "image")?,
                array_mut(logits, count, "logits")?,
            )
        };
        engine.check_count(count)?;
        // SAFETY: the caller promises the bytes that the image names.
        let view = unsafe { image.view()? };
        if engine.config.outputs() == count {
            engine.device.infer(&view, logits, &NEVER)?;
        } else {
            logits.copy_from_slice(&engine.outputs(&view)?[..count]);
        }
        Ok(())
    })
}

/// Returns the number of the embedding's values; 0 for null, and for a subnet without one.
///
/// # Safety
/// `engine` is null or open.
#[no_mangle]
pub unsafe extern "C" fn quasar_engine_embedding_size(engine: *const QuasarEngine) -> usize {
    // SAFETY: by the caller.
    unsafe { engine.as_ref() }.map_or(0, |engine| engine.config.embedding_size())
}

/// Runs one image, as `quasar_engine_infer` does, and computes its embedding: a vector of length 1
/// that is close to those of similar images.
///
/// `vector` receives `count` values, `quasar_engine_embedding_size` of them: the same bits on every
/// device.
///
/// # Safety
/// `engine` is null or open. `image` is null or readable, with the bytes that it names. `vector` is
/// null or has `count` writable elements.
#[no_mangle]
pub unsafe extern "C" fn quasar_engine_embed(
    engine: *const QuasarEngine,
    image: *const QuasarImage,
    vector: *mut f32,
    count: usize,
) -> QuasarStatus {
    call(|| {
        // SAFETY: by the caller, for all three.
        let (engine, image, vector) = unsafe {
            (
                borrowed(engine, "engine")?,
                borrowed(image, "image")?,
                array_mut(vector, count, "vector")?,
            )
        };
        let config = &engine.config;
        let Some(grid) = config.embedding else {
            return Err(invalid(
                "the subnet has no embedding; quasar-rt export --embedding writes one that has",
            ));
        };
        let size = config.embedding_size();
        if count != size {
            let problem = format!("count is {count}; the embedding has {size}");
            return Err(invalid(problem));
        }
        // SAFETY: the caller promises the bytes that the image names.
        let view = unsafe { image.view()? };
        let codes = embedding::codes(
            &engine.outputs(&view)?,
            config.classes.len(),
            config.embedding_shift(),
        );
        vector.copy_from_slice(&embedding::unit_vector(&codes, grid.zero_point));
        Ok(())
    })
}

/// Computes the `k` most likely classes of logits, most likely first; of equals the lower class.
///
/// `logits` has `count` integers from `quasar_engine_infer`. `scores` receives `k` of them, at most
/// as many as there are classes.
///
/// # Safety
/// `engine` is null or open. `logits` is null or has `count` elements, `scores` is null or has `k`
/// writable ones.
#[no_mangle]
pub unsafe extern "C" fn quasar_engine_top(
    engine: *const QuasarEngine,
    logits: *const i32,
    count: usize,
    scores: *mut QuasarScore,
    k: usize,
) -> QuasarStatus {
    call(|| {
        // SAFETY: by the caller, for all three.
        let (engine, logits, scores) = unsafe {
            (
                borrowed(engine, "engine")?,
                array(logits, count, "logits")?,
                array_mut(scores, k, "scores")?,
            )
        };
        engine.check_count(count)?;
        if k > count {
            return Err(invalid(format!("k is {k}; there are {count} classes")));
        }
        let best = best(logits, engine.config.logit_scale, k);
        for (score, (index, probability)) in scores.iter_mut().zip(best) {
            *score = QuasarScore { index, probability };
        }
        Ok(())
    })
}

impl QuasarEngine {
    fn open(path: &CStr, threads: usize) -> Result<Self, Failure> {
        let subnet = Subnet::load(OsStr::from_bytes(path.to_bytes()))?;
        let network = Arc::new(Network::new(&subnet, Tier::best())?);
        let executor = Executor::new(network, (threads != 0).then_some(threads))?;
        Ok(Self::on(&subnet, Arc::new(executor)))
    }

    fn open_device(
        path: &CStr,
        device: &CStr,
        configuration: &CStr,
        board: &CStr,
    ) -> Result<Self, Failure> {
        let subnet = Arc::new(Subnet::load(OsStr::from_bytes(path.to_bytes()))?);
        let board = Board::from_toml(&settings(board)?)?;
        let hardware = Hardware::from_toml(&settings(configuration)?, board)?;
        let name = device.to_bytes();
        let device = if let Some(library) = name.strip_prefix(b"sim:") {
            let library = Path::new(OsStr::from_bytes(library));
            open::simulated(&subnet, &hardware, library, 0, None, &NEVER)?
        } else if name == b"uio" {
            let program = Arc::new(Program::compile(&subnet, &hardware)?);
            open::uio(&subnet, &program, None, None, None, None, &NEVER)?
        } else {
            let problem = format!("device is {device:?}; it is \"uio\" or \"sim:LIBRARY\"");
            return Err(invalid(problem));
        };
        Ok(Self::on(&subnet, device))
    }

    fn on(subnet: &Subnet, device: Arc<dyn Device>) -> Self {
        let config = subnet.config().clone();
        // A class's name may hold a zero byte, a C string cannot.
        let names = config.classes.iter();
        let names = names.map(|name| CString::new(name.replace('\0', "")).unwrap_or_default());
        Self {
            names: names.collect(),
            device,
            config,
        }
    }

    /// Runs one image to its logits and the codes of its embedding, without those of its patches.
    fn outputs(&self, view: &ImageView) -> Result<Vec<i32>, Failure> {
        let mut outputs = vec![0; self.config.outputs()];
        self.device.infer(view, &mut outputs, &NEVER)?;
        outputs.truncate(self.config.head_rows());
        Ok(outputs)
    }

    fn check_count(&self, count: usize) -> Result<(), Failure> {
        let classes = self.names.len();
        if count == classes {
            return Ok(());
        }
        let problem = format!("count is {count}; the subnet has {classes} classes");
        Err(invalid(problem))
    }
}

/// Bytes of a settings file, at most.
const MOST_SETTINGS: u64 = 1 << 20;

/// Reads a TOML file.
fn settings(path: &CStr) -> Result<String, Failure> {
    let path = Path::new(OsStr::from_bytes(path.to_bytes()));
    let mut text = String::new();
    let read = File::open(path)
        .and_then(|file| file.take(MOST_SETTINGS + 1).read_to_string(&mut text))
        .map_err(|source| Error::Io {
            path: path.into(),
            source,
        })?;
    if read as u64 > MOST_SETTINGS {
        let problem = format!("{} has more than {MOST_SETTINGS} bytes", path.display());
        return Err(invalid(problem));
    }
    Ok(text)
}

impl QuasarImage {
    /// # Safety
    /// `data` and `chroma` are null or have the bytes that the image names.
    unsafe fn view(&self) -> Result<ImageView<'_>, Failure> {
        let format = *FORMATS.get(self.format as usize).ok_or_else(|| {
            invalid(format!(
                "image.format is {}; the largest is {}",
                self.format,
                FORMATS.len() - 1
            ))
        })?;
        let matrix = match self.matrix {
            QUASAR_BT601 => YuvMatrix::BT601,
            QUASAR_BT709 => YuvMatrix::BT709,
            other => return Err(invalid(format!("image.matrix is {other}; it is 0 or 1"))),
        };
        // SAFETY: by the caller.
        let data = unsafe { array(self.data, self.bytes, "image.data")? };
        let chroma = if self.chroma.is_null() {
            None
        } else {
            // SAFETY: by the caller.
            Some(unsafe { array(self.chroma, self.chroma_bytes, "image.chroma")? })
        };
        let stride = match self.stride {
            0 => format.row_bytes(self.width),
            stride => stride,
        };
        let size = (self.height, self.width);
        Ok(ImageView::frame(data, chroma, size, format, stride)?.with_matrix(matrix))
    }
}
