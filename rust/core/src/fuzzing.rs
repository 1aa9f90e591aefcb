//! The bodies of the fuzz targets in `rust/fuzz`, so that an ordinary test can replay their corpus.
//!
//! Each takes any bytes and must return: a panic, a hang or a large allocation is a bug.

mod edits;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quasar_kernels::image::YuvMatrix;
use quasar_kernels::Kernels;
use serde_json::json;

use crate::network::supported_tiers;
use crate::preprocess::PixelFormat::{Bgr, Nv12, Yuyv};
use crate::preprocess::{ImageView, PixelFormat, Preprocessor};
use crate::subnet::config::Config;
use crate::{Error, Executor, Network, Storage, Subnet, Tier};

/// Frames of subnets with more multiply-accumulates than this are not run, so that a target stays
/// fast.
const MAX_MACS: u64 = 5_000_000;

/// Reads a subnet file, sound or not. An accepted subnet must write, read back and run.
///
/// # Panics
/// On a bug.
pub fn subnet_bytes(bytes: &[u8]) {
    // The error's text is part of what must not fail.
    let verified = Subnet::from_bytes(bytes).map_err(|e: Error| (e.kind(), e.to_string()));
    let Ok(subnet) = Subnet::from_bytes_unverified(bytes) else {
        assert!(verified.is_err());
        return;
    };
    let written = subnet
        .to_bytes()
        .expect("a subnet that was read can be written");
    assert_eq!(
        Subnet::from_bytes(&written).expect("a written subnet can be read"),
        subnet
    );
    if subnet.summary().macs > MAX_MACS {
        return;
    }
    let best = Network::new(&subnet, Tier::best()).expect("this CPU has the tier");
    assert_eq!(logits(best), scalar_logits(&subnet));
}

/// Returns an image of a subnet's size.
fn image(config: &Config) -> Vec<u8> {
    let bytes = 0..config.image.bytes();
    bytes.map(|i| (i * 37 % 256) as u8).collect()
}

/// Returns the logits of [`image`] on the scalar tier.
///
/// # Panics
/// On a bug.
fn scalar_logits(subnet: &Subnet) -> Vec<i32> {
    logits(Network::new(subnet, Tier::Scalar).expect("every CPU has it"))
}

fn logits(network: Network) -> Vec<i32> {
    let image = image(network.config());
    let mut logits = vec![0; network.config().outputs()];
    let executor = Executor::new(Arc::new(network), Some(1)).expect("one thread");
    executor
        .run(&image, &mut logits)
        .expect("the image has the subnet's size");
    logits
}

/// Edits a golden subnet's configuration, tensors and header, and signs the result with its digest:
/// see `edits`. Every tier, with weights packed and unpacked, must give the scalar tier's logits.
/// Returns an accepted subnet that is small enough to run.
///
/// # Panics
/// On a bug.
pub fn signed_subnet(bytes: &[u8]) -> Option<Subnet> {
    let (file, covered) = edits::edited_subnet(bytes)?;
    let subnet = match Subnet::from_bytes(&file) {
        Ok(subnet) => subnet,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            assert!(!covered || error.kind() != "ChecksumMismatch", "{error}");
            return None;
        }
    };
    assert_eq!(
        Subnet::from_bytes(&subnet.to_bytes().expect("it was read")).expect("it was written"),
        subnet
    );
    if subnet.summary().macs > MAX_MACS / 10 {
        return None;
    }
    let expected = scalar_logits(&subnet);
    for tier in supported_tiers() {
        for storage in [Storage::Packed, Storage::Unpacked] {
            let network = Network::with_storage(&subnet, tier, storage).expect("a tier it has");
            assert_eq!(logits(network), expected, "{tier:?}, {storage:?}");
        }
    }
    Some(subnet)
}

/// Returns the configuration of a network for images of this size, in colour or not, if it is one.
fn image_config(
    (height, width): (usize, usize),
    colour: bool,
    resize: &serde_json::Value,
) -> Option<Config> {
    let channels = if colour { 3 } else { 1 };
    let config = json!({
        "name": "fuzz",
        "image": {"height": height, "width": width, "channels": channels},
        "patch": {"kernel": 1, "stride": 4096, "pad": 0, "pad_value": 0},
        "embed": 1, "prefix_tokens": 0,
        "blocks": [{"heads": 1, "head_dim": 1, "hidden": 1, "fc1_zero_point": 0}],
        "pool": "mean", "classes": ["a"], "logit_scale": 1.0, "trained": false, "provenance": {},
        "preprocess": {"resize": resize},
    });
    Config::from_json(&config.to_string()).ok()
}

/// The filters of resizing, by the bytes that choose them.
const FILTERS: [&str; 5] = ["nearest", "box", "bilinear", "hamming", "bicubic"];

/// Resizes an image: sizes, mode and filter are the first bytes, pixels the others.
///
/// # Panics
/// On a bug.
pub fn preprocess(bytes: &[u8]) {
    let Some((&[a, b, c, d, e, f, crop_h, crop_w, flags, filter], pixels)) =
        bytes.split_first_chunk()
    else {
        return;
    };
    let (height, width) = (
        usize::from(u16::from_le_bytes([a, b])),
        usize::from(u16::from_le_bytes([c, d])),
    );
    let channels = usize::from(flags & 3);
    let size = match flags >> 2 & 3 {
        0 => vec![],
        1 => vec![usize::from(e)],
        _ => vec![usize::from(e), usize::from(f)],
    };
    let mode = ["none", "shorter", "exact"][size.len()];
    let format = [None, Some(Bgr), Some(Nv12), Some(Yuyv)][usize::from(filter / 5 % 4)];
    let filter = FILTERS[usize::from(filter % 5)];
    let resize = json!({"mode": mode, "size": size, "filter": filter});
    let sides = (crop_h.into(), crop_w.into());
    let Some(config) = image_config(sides, flags & 16 != 0, &resize) else {
        return;
    };
    let bytes = match format {
        None => channels,
        Some(Nv12) => 1,
        Some(Yuyv) => 2,
        Some(_) => 3,
    };
    let stride = width * bytes + usize::from(flags >> 5);
    let rows = height + if format == Some(Nv12) { height / 2 } else { 0 };
    // Too few pixels are repeated, so that large images are reached too.
    let needed = (rows * stride).min(1 << 18);
    let pixels: Vec<u8> = pixels
        .iter()
        .copied()
        .chain(std::iter::once(255))
        .cycle()
        .take(needed)
        .collect();
    let view = match format {
        None => ImageView::new(&pixels, height, width, channels, stride),
        Some(format) => ImageView::frame(&pixels, None, (height, width), format, stride),
    };
    let Ok(view) = view else {
        return;
    };
    let mut out = Vec::new();
    if Preprocessor::new(&config).run(&view, &mut out).is_ok() {
        assert_eq!(out.len(), config.image.bytes());
        let scalar = Kernels::new(Tier::Scalar).expect("every CPU has it");
        let mut expected = Vec::new();
        let run = Preprocessor::new(&config)
            .with_kernels(scalar)
            .run(&view, &mut expected);
        assert!(run.is_ok() && out == expected, "tiers differ");
    }
}

/// Makes a camera's frame: format, sizes, stride and lengths of both planes from the first bytes,
/// pixels from the others. An accepted frame must give the scalar tier's image on every tier, as it
/// is and resized, and read nothing beyond its data, which ends where its memory does.
///
/// # Panics
/// On a bug.
pub fn camera_frame(bytes: &[u8]) {
    let Some((&[format, flags, h, w, more, stride, length, split, size, filter], pixels)) =
        bytes.split_first_chunk()
    else {
        return;
    };
    let format = PixelFormat::ALL[usize::from(format % 5)];
    let (bytes, planes) = match format {
        PixelFormat::Gray => (1, 1),
        Nv12 => (1, 2),
        Yuyv => (2, 1),
        PixelFormat::Rgb | Bgr => (3, 1),
    };
    // The larger sizes of `more` are beyond 16 bits.
    let side = |side: u8, more: u8| usize::from(side) + (usize::from(more) << 13);
    let (height, width) = (side(h, more & 15), side(w, more >> 4));
    let around = |value: usize, by: u8| value.saturating_add_signed(isize::from(by as i8));
    let stride = match flags >> 6 {
        3 => usize::MAX / (1 + usize::from(stride)),
        2 => around(width.saturating_mul(bytes), stride),
        _ => width * bytes + usize::from(stride & 63),
    };
    let rows = height + if planes == 2 { height / 2 } else { 0 };
    let luma = height.saturating_mul(stride);
    let needed = rows.saturating_mul(stride);
    let (luma, needed) = match flags & 3 {
        // As long as can be, or a few bytes off.
        0 => (luma, needed),
        1 => (around(luma, split), around(needed, length)),
        2 => (luma, around(needed, length)),
        _ => (around(luma, split), needed),
    };
    let data: Vec<u8> = (pixels.iter().copied().chain([255]).cycle())
        .take(needed.min(1 << 17))
        .collect();
    let (data, chroma) = if flags & 4 == 0 {
        (data.into_boxed_slice(), None)
    } else {
        let (luma, chroma) = data.split_at(luma.min(data.len()));
        (luma.into(), Some(Box::<[u8]>::from(chroma)))
    };
    let view = match ImageView::frame(&data, chroma.as_deref(), (height, width), format, stride) {
        Ok(view) => view,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let view = if flags & 8 == 0 {
        view
    } else {
        view.with_matrix(YuvMatrix::BT709)
    };
    let filter = FILTERS[usize::from(filter % 5)];
    let size = 1 + usize::from(size % 64);
    for (image, resize) in [
        ((height, width), json!({"mode": "none"})),
        (
            (size, size),
            json!({"mode": "exact", "size": [size, size], "filter": filter}),
        ),
    ] {
        let Some(config) = image_config(image, flags & 16 != 0, &resize) else {
            continue;
        };
        let run = |tier| {
            let kernels = Kernels::new(tier).expect("this CPU has the tier");
            let mut out = Vec::new();
            let mut preprocessor = Preprocessor::new(&config).with_kernels(kernels);
            preprocessor.run(&view, &mut out).map(|()| out)
        };
        let Ok(expected) = run(Tier::Scalar) else {
            assert!(supported_tiers().all(|tier| run(tier).is_err()));
            continue;
        };
        assert_eq!(expected.len(), config.image.bytes());
        for tier in supported_tiers() {
            assert!(
                run(tier).is_ok_and(|out| out == expected),
                "{tier:?} differs"
            );
        }
    }
}

/// Returns the names and bytes of a target's corpus, from its archive.
///
/// # Panics
/// If the corpus cannot be read.
pub fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(format!("{target}.tar.gz"));
    let file = File::open(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
    let read = |mut entry: tar::Entry<'_, _>| {
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        Ok((entry.path()?.display().to_string(), bytes))
    };
    let entries = archive.entries().unwrap();
    let inputs: io::Result<_> = entries.map(|entry| entry.and_then(read)).collect();
    inputs.unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Runs a target on its whole corpus.
///
/// # Panics
/// If the corpus is missing, or an input fails or hangs.
pub fn replay(target: &str, run: fn(&[u8])) {
    let corpus = corpus(target);
    assert!(corpus.len() > 5, "the corpus of {target} is missing");
    for (name, bytes) in corpus {
        let start = Instant::now();
        run(&bytes);
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "{target}/{name} hangs"
        );
    }
}
