//! The bodies of the fuzz targets in `rust/fuzz` that read settings files, so that an ordinary test can replay their corpus.
//!
//! Each takes any bytes and must return: a panic, a hang or a large allocation is a bug.

use quasar_core::error::Result;
use quasar_cost::estimate;
use quasar_hardware::{Board, Hardware, Mode};

use crate::nsga2::Cost;
use crate::proxy::ProxyTable;
use crate::space::{Architecture, BlockShape, Space};
use crate::{explore_space, CostModel, CostTable, Genotype, Nsga2, Settings};

/// Boards with more DSP slices than this get no design-space search, so that a target stays fast.
const MAX_DSP: u64 = 16;

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

    fn fastest(&self) -> Result<(Vec<u8>, f64)> {
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
        let workload = space.workload("fuzz", &network).expect("a workload");
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
