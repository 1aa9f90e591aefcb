//! The bodies of the fuzz targets in `rust/fuzz` that read settings files, so that an ordinary test
//! can replay their corpus.
//!
//! Each accepts any bytes and must return: a panic, a hang or a large allocation is a bug.

use quasar_cost::estimate;
use quasar_hardware::{Board, Hardware};

use crate::proxy::ProxyTable;
use crate::space::{Architecture, BlockShape, Space};
use crate::{explore_space, CostTable, Genotype};

/// Boards with more DSP slices than this are not searched, so that a target stays fast.
const MAX_DSP: u64 = 16;

/// A space whose searches take no time.
const SPACE: &str = "name = 'fuzz'
classes = 4
head_dim = 4
eight_bit_per = 'block'
image = {height = 8, width = 8, channels = 1}
patch = {kernel = 4, stride = 4, pad = 0, pad_value = 0}
[choices]
embed = [8, 12]
depth = [1, 2, 3]
heads = [1, 2]
mlp_ratio = [1.0, 2.0]
eight_bit = [0.0, 0.5, 1.0]
";

fn small_space() -> Space {
    Space::from_toml(SPACE).expect("a sound space")
}

/// Reads a space file up to the first zero byte, then numbers for a genome and an architecture. An
/// accepted space must be written and read back, and name, score and count its networks.
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
    let mut sampled: Vec<u8> = (0..space.genes())
        .map(|at| {
            numbers
                .get(at)
                .map_or(0, |n| n % space.choices_of(at) as u8)
        })
        .collect();
    space.canonicalize(&mut sampled);
    for mut genome in [
        space.smallest(),
        space.largest(),
        space.sample(1, &[2]),
        sampled,
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
    // Every genome and every architecture is either accepted or refused.
    let _ = space.decode(numbers).map_err(|e| e.to_string());
    let number = |at: usize| numbers.get(at).copied().map_or(0, usize::from);
    let block = BlockShape {
        heads: number(1),
        head_dim: number(2),
        hidden: number(3) << (number(4) % 56),
        eight_bit: [5, 6, 7, 8, 9, 10].map(|at| number(at) as f64 / 255.0),
    };
    let architecture = Architecture {
        embed: number(0),
        blocks: vec![block; number(11) % 80],
    };
    if let Ok(genome) = space.encode(&architecture).map_err(|e| e.to_string()) {
        assert_eq!(space.decode(&genome).expect("it was encoded"), architecture);
    }
}

/// Reads a board's file up to the first zero byte, then a configuration of the accelerator.
/// Accepted files must be written and read back, and give figures.
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
        found.push(explore_space(&board, &space, clock));
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

/// Splits at the first zero byte.
fn two_parts(bytes: &[u8]) -> (&[u8], &[u8]) {
    let at = bytes.iter().position(|&byte| byte == 0);
    at.map_or((bytes, &[]), |at| (&bytes[..at], &bytes[at + 1..]))
}
