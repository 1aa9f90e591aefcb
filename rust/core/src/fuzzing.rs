//! The bodies of the fuzz targets in `rust/fuzz`, so that an ordinary test can replay their corpus.
//!
//! Each takes any bytes and must return: a panic, a hang or a large allocation is a bug.

use std::sync::Arc;

use quasar_kernels::Kernels;
use serde_json::json;

use crate::hardware::{estimate, explore_space, Board, CostTable, Hardware, Mode, Workload};
use crate::preprocess::PixelFormat::{Bgr, Nv12, Yuyv};
use crate::preprocess::{ImageView, Preprocessor};
use crate::rows::{pack_rows, quantize_rows, row_bytes, unpack_rows, Method, PairedMatrix};
use crate::search::nsga2::Cost;
use crate::search::proxy::ProxyTable;
use crate::search::{CostModel, Genotype, Nsga2, Settings};
use crate::space::{Architecture, BlockShape, Space};
use crate::subnet::config::Config;
use crate::{Error, Executor, Network, Subnet, Tier};

/// Frames of subnets with more multiply-accumulates than this are not run, so that a target stays fast.
const MAX_MACS: u64 = 5_000_000;
/// Boards with more DSP slices than this get no design-space search, for the same reason.
const MAX_DSP: u64 = 16;

/// A subnet file, honest or not. What is accepted must write, read back and run.
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
    let config = subnet.config();
    let image: Vec<u8> = (0..config.image.bytes())
        .map(|i| (i * 37 % 256) as u8)
        .collect();
    let logits = |tier| {
        let network = Network::new(&subnet, tier).expect("this CPU has the tier");
        let executor = Executor::new(Arc::new(network), Some(1)).expect("one thread");
        let mut logits = vec![0; config.classes.len()];
        executor
            .run(&image, &mut logits)
            .expect("the image has the subnet's size");
        logits
    };
    assert_eq!(logits(Tier::Scalar), logits(Tier::best()));
}

/// An image and how to resize it: sizes, mode and filter from the first bytes, pixels from the others.
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
    let filter = ["nearest", "box", "bilinear", "hamming", "bicubic"][usize::from(filter % 5)];
    let config = json!({
        "name": "fuzz",
        "image": {"height": crop_h, "width": crop_w, "channels": if flags & 16 == 0 { 1 } else { 3 }},
        "patch": {"kernel": 1, "stride": 4096, "pad": 0, "pad_value": 0},
        "embed": 1, "prefix_tokens": 0,
        "blocks": [{"heads": 1, "head_dim": 1, "hidden": 1, "fc1_zero_point": 0}],
        "pool": "mean", "classes": ["a"], "logit_scale": 1.0, "trained": false, "provenance": {},
        "preprocess": {"resize": {
            "mode": mode,
            "size": size,
            "filter": filter,
        }},
    });
    let Ok(config) = Config::from_json(&config.to_string()) else {
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

/// Rows of weights and rows of packed codes: K and bits from the first bytes.
///
/// # Panics
/// On a bug.
pub fn rows(bytes: &[u8]) {
    let Some((&[k, count, mix], data)) = bytes.split_first_chunk() else {
        return;
    };
    let (k, count) = (usize::from(k), usize::from(count % 32));
    let bits: Vec<u8> = (0..count)
        .map(|row| {
            if mix.rotate_left(row as u32) & 1 == 0 {
                4
            } else {
                8
            }
        })
        .collect();

    let packed: usize = bits.iter().map(|&b| row_bytes(k, b)).sum();
    let data_or_less = &data[..packed.min(data.len())];
    if let Ok(codes) = unpack_rows(data_or_less, count, k, &bits) {
        assert_eq!(
            pack_rows(&codes, count, k, &bits).expect("unpacked codes can be packed"),
            data_or_less
        );
    }

    let floats = data.as_chunks().0.iter().map(|&f| f32::from_le_bytes(f));
    let weights: Vec<f32> = floats
        .chain(std::iter::repeat(0.5))
        .take(k * count)
        .collect();
    for method in [Method::MinMax, Method::Mse] {
        let Ok(quantized) = quantize_rows(&weights, count, k, &bits, None, method) else {
            return;
        };
        assert!(quantized.scales.iter().all(|s| s.is_normal() && *s > 0.0));
        let all = unpack_rows(&quantized.packed, count, k, &bits).expect("what was packed");
        let matrix = PairedMatrix::new(&all, count, k, &bits).expect("quantized codes are narrow");
        let input: Vec<i8> = data
            .iter()
            .map(|&b| b as i8)
            .chain(std::iter::repeat(-128))
            .take(k)
            .collect();
        let mut acc = vec![0; count];
        matrix.matvec(&input, &vec![0; count], &mut acc);
        for (row, &acc) in acc.iter().enumerate() {
            let codes = &all[row * k..(row + 1) * k];
            let plain: i32 = codes
                .iter()
                .zip(&input)
                .map(|(&w, &a)| i32::from(w) * i32::from(a))
                .sum();
            assert_eq!(acc, plain, "row {row}");
        }
    }
}

/// A space whose searches take no time.
const SPACE: &str = "name = 'fuzz'
classes = 4
head_dim = 4
eight_bit_per = 'block'
image = {height = 8, width = 8, channels = 1}
patch = {kernel = 4, stride = 4, pad = 0, pad_value = 0}
choices = {embed = [8, 12], depth = [1, 2, 3], heads = [1, 2], mlp_ratio = [1.0, 2.0], eight_bit = [0.0, 0.5, 1.0]}
";

fn small_space() -> Space {
    Space::from_toml(SPACE).expect("a sound space")
}

/// Costs by the sum of a genome's genes; some genomes do not fit.
#[derive(Clone, Copy, Debug)]
struct Sum;

impl CostModel for Sum {
    fn cost(&self, genome: &[u8]) -> Cost {
        let sum: f64 = genome.iter().copied().map(f64::from).sum();
        Cost {
            fps: 1000.0 / (1.0 + sum),
            violation: (sum - 12.0).max(0.0),
        }
    }

    fn fastest(&self) -> crate::error::Result<(Vec<u8>, f64)> {
        let smallest = vec![0; Genotype::of(&small_space()).genes()];
        Ok((smallest, 1000.0))
    }

    fn digest(&self) -> String {
        "fuzz".into()
    }
}

/// A saved search of [`small_space`], honest or not. What is accepted must be saved the same, and go on to its end.
///
/// # Panics
/// On a bug.
pub fn search_state(bytes: &[u8]) {
    const POPULATION: usize = 8;
    const GENERATIONS: usize = 5;
    let genotype = Genotype::of(&small_space());
    for oversample in [1, 2] {
        let settings = Settings {
            population: POPULATION,
            generations: GENERATIONS,
            targets: vec![100.0],
            seed: 1,
            oversample,
        };
        let resume = |bytes: &[u8]| {
            Nsga2::resume(
                genotype.clone(),
                Sum,
                settings.clone(),
                "space",
                "fuzz",
                bytes,
            )
            .map_err(|e| (e.kind(), e.to_string()))
        };
        let Ok(mut search) = resume(bytes) else {
            continue;
        };
        let written = search.to_bytes("space", "fuzz");
        let again = resume(&written).expect("a written state can be read");
        assert_eq!(again.to_bytes("space", "fuzz"), written);
        search
            .run_with(|genomes, scores| {
                for (genome, score) in genomes.rows().zip(scores) {
                    *score = genome.iter().copied().map(f64::from).sum();
                }
                Ok(())
            })
            .expect("sums are scores");
        assert!(search.done());
        assert_eq!(search.evaluated().len(), POPULATION * GENERATIONS);
        assert_eq!(search.history().len(), GENERATIONS);
        assert!(search
            .front()
            .windows(2)
            .all(|pair| pair[0].fps < pair[1].fps && pair[0].score > pair[1].score));
        let finished = search.to_bytes("space", "fuzz");
        let mut finished = resume(&finished).expect("a finished search can be read");
        assert!(finished.ask(None).is_empty());
        assert_eq!(finished.front(), search.front());
    }
}

/// A space file up to the first zero byte, then numbers for a genome and an architecture. What is accepted must write, read back, name its
/// networks one for one, and score and count them.
///
/// # Panics
/// On a bug.
pub fn space_toml(bytes: &[u8]) {
    let (text, numbers) = two_parts(bytes);
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    let Ok(space) = Space::from_toml(text).map_err(|e| e.to_string()) else {
        return;
    };
    let read = |text: &str| Space::from_toml(text).expect("a written space can be read");
    assert_eq!(read(&space.to_toml()), space);
    assert_eq!(read(&space.to_toml()).sha256(), space.sha256());
    assert!(space.size() >= 1.0);
    let genotype = Genotype::of(&space);
    let proxy = ProxyTable::new(&space);
    let mut drawn: Vec<u8> = (0..space.genes())
        .map(|at| {
            numbers
                .get(at)
                .map_or(0, |n| n % space.choices_of(at) as u8)
        })
        .collect();
    space.canonicalize(&mut drawn);
    for mut genome in [
        space.smallest(),
        space.largest(),
        space.sample(1, &[2]),
        drawn,
    ] {
        space.canonicalize(&mut genome);
        genotype.check(&genome).expect("a canonical genome");
        let architecture = space.decode(&genome).expect("a genome names a network");
        let encoded = space.encode(&architecture).expect("a network of the space");
        assert_eq!(
            space.decode(&encoded).expect("it names a network"),
            architecture
        );
        assert!(proxy.score(&genome) > 0.0);
    }
    // Any genome and any architecture are taken or refused.
    let _ = space.decode(numbers).map_err(|e| e.to_string());
    let number = |at: usize| numbers.get(at).copied().map_or(0, usize::from);
    let block = BlockShape {
        heads: number(1),
        head_dim: number(2),
        hidden: number(3) << (number(4) % 56),
        eight_bit: [5, 6, 7, 8].map(|at| number(at) as f64 / 255.0),
    };
    let architecture = Architecture {
        embed: number(0),
        blocks: vec![block; number(9) % 80],
    };
    if let Ok(genome) = space.encode(&architecture).map_err(|e| e.to_string()) {
        assert_eq!(space.decode(&genome).expect("it was encoded"), architecture);
    }
}

/// A board's file up to the first zero byte, then a configuration of the accelerator. What is accepted must write, read back and give
/// figures.
///
/// # Panics
/// On a bug.
pub fn hardware_toml(bytes: &[u8]) {
    let (board, configuration) = two_parts(bytes);
    let (Ok(board), Ok(configuration)) = (
        std::str::from_utf8(board),
        std::str::from_utf8(configuration),
    ) else {
        return;
    };
    let Ok(board) = Board::from_toml(board).map_err(|e| e.to_string()) else {
        return;
    };
    assert_eq!(
        Board::from_toml(&board.to_toml()).expect("a written board can be read"),
        board
    );
    let space = small_space();
    let mut found = vec![Hardware::from_toml(configuration, board.clone())];
    if board.resources.dsp <= MAX_DSP {
        let clock = board.clocks_mhz[0];
        found.push(explore_space(&board, &space, clock, Mode::Nibble));
    }
    for hardware in found {
        let Ok(hardware) = hardware.map_err(|e| e.to_string()) else {
            continue;
        };
        assert_eq!(
            Hardware::from_toml(&hardware.to_toml(), board.clone()).expect("it was written"),
            hardware
        );
        let network = space.decode(&space.largest()).expect("a network");
        let workload = Workload::of_architecture("fuzz", &space, &network).expect("a workload");
        if let Ok(estimate) = estimate(&workload, &hardware).map_err(|e| e.to_string()) {
            assert!(estimate.fps > 0.0 && estimate.fps.is_finite());
        }
        if let Ok(table) = CostTable::new(&space, &hardware).map_err(|e| e.to_string()) {
            let cost = table.cost(&space.largest());
            assert!(cost.fps > 0.0 && cost.fps.is_finite());
            if let (Ok(slowest), Ok(fastest)) = (table.slowest(), table.fastest()) {
                assert!(slowest.1.fps <= fastest.1.fps);
            }
        }
    }
}

/// Up to the first zero byte, and after it.
fn two_parts(bytes: &[u8]) -> (&[u8], &[u8]) {
    let at = bytes.iter().position(|&byte| byte == 0);
    at.map_or((bytes, &[]), |at| (&bytes[..at], &bytes[at + 1..]))
}
