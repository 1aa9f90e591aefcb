//! Tests of the model as a whole.

use proptest::prelude::*;

use super::boards::Board;
use super::configuration::{Array, Buffers, Configuration, Hardware, Lanes, Mode, Multipliers};
use super::explore::{explore, workloads_of_space};
use super::workload::Workload;
use super::{estimate, CostTable, Resources};
use crate::space::{Architecture, BlockShape, Space};
use crate::Error;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../python/quasar_rt");

fn board(name: &str) -> Board {
    Board::from_toml(&std::fs::read_to_string(format!("{FOLDER}/boards/{name}.toml")).unwrap())
        .unwrap()
}

fn space(name: &str) -> Space {
    Space::from_toml(&std::fs::read_to_string(format!("{FOLDER}/spaces/{name}.toml")).unwrap())
        .unwrap()
}

const BOARDS: [&str; 6] = [
    "kv260",
    "pynq-z2",
    "pynq-zu",
    "ultra96v2",
    "zcu102",
    "zcu104",
];

/// `DeiT`'s shapes: heads of 64, hidden 4 * embed, 12 blocks.
fn deit(heads: usize, eight_bit: f64) -> Workload {
    let block = BlockShape {
        heads,
        head_dim: 64,
        hidden: 256 * heads,
        eight_bit: [eight_bit; 4],
    };
    let architecture = Architecture {
        embed: 64 * heads,
        blocks: vec![block; 12],
    };
    Workload::of_architecture("deit", &space("tiny"), &architecture).unwrap()
}

fn configuration(board: &Board, workload: &Workload, array: Array, lanes: Lanes) -> Configuration {
    Configuration {
        board: board.name.clone(),
        clock_mhz: 150.0,
        mode: Mode::Nibble,
        frames: 2,
        axi_ports: 4,
        array,
        lanes,
        buffers: Buffers::needed(workload, array, lanes, 2),
    }
}

fn lanes(requantize: u64, norm: u64, exponential: u64) -> Lanes {
    Lanes {
        requantize,
        gelu: requantize,
        norm,
        exponential,
        multipliers: Multipliers::Fabric,
    }
}

fn accumulated(workload: &Workload, array: Array) -> u64 {
    let board = board("zcu102");
    let wide = lanes(array.tokens, array.tokens, array.tokens);
    let hardware = Hardware::new(configuration(&board, workload, array, wide), board).unwrap();
    let layers = estimate(workload, &hardware).unwrap().layers;
    layers.iter().map(|l| l.accumulate).sum()
}

#[test]
fn reference_points_of_the_design_note_are_reproduced() {
    for (tokens, pairs, four_bit, quarter) in [
        (40, 48, 375.0, 301.0),
        (66, 33, 446.0, 373.0),
        (100, 24, 490.0, 417.0),
    ] {
        let array = Array {
            tokens,
            pairs,
            lut_pairs: 0,
        };
        for (eight_bit, expected) in [(0.0, four_bit), (0.25, quarter)] {
            let fps: f64 = 150e6 / accumulated(&deit(3, eight_bit), array) as f64;
            assert!(
                (fps / expected - 1.0).abs() < 0.03,
                "{tokens}x{pairs}: {fps} for {expected}"
            );
        }
    }
}

#[test]
fn deit_tiny_on_zcu102_reaches_its_targets() {
    let board = board("zcu102");
    let workloads = [deit(3, 0.0), deit(3, 0.25)];
    let hardware = explore(&board, &workloads, 150.0, Mode::Nibble).unwrap();
    let [four_bit, quarter] = [0, 1].map(|i| estimate(&workloads[i], &hardware).unwrap());
    assert!(
        four_bit.fps >= 400.0 && quarter.fps >= 330.0,
        "{} {}",
        four_bit.fps,
        quarter.fps
    );
    assert!(four_bit.share >= 0.85 && quarter.share >= 0.85);
    assert!(four_bit.resources_fit);
    let faster = estimate(&workloads[0], &hardware.with_clock(200.0).unwrap()).unwrap();
    assert!(faster.fps >= 500.0, "{}", faster.fps);
}

#[test]
fn every_board_loads_and_takes_a_design_for_the_small_spaces() {
    for name in BOARDS {
        let board = board(name);
        assert_eq!(Board::from_toml(&board.to_toml()).unwrap(), board);
        for space in ["digits", "fashion-mnist"].map(space) {
            let workloads = workloads_of_space(&space).unwrap();
            let design = || explore(&board, &workloads, board.clocks_mhz[0], Mode::Nibble);
            let hardware = design().unwrap();
            assert_eq!(hardware, design().unwrap(), "the same every time");
            assert!(Resources::of(&hardware).fits(board.usable()));
            assert_eq!(
                Hardware::from_toml(&hardware.to_toml(), board.clone()).unwrap(),
                hardware
            );
            for workload in &workloads {
                estimate(workload, &hardware).unwrap();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn tables_equal_estimates(
        which in 0usize..6, tokens in 1u64..80, pairs in 1u64..60, lane in 1u64..30, frames in 1u64..3, ports in 1u64..4,
        seeds in proptest::collection::vec(any::<u64>(), 4),
    ) {
        let space = space(["tiny", "small", "base", "digits", "fashion-mnist", "fashion-mnist-coarse"][which]);
        let board = board("zcu102");
        let array = Array { tokens, pairs, lut_pairs: 0 };
        let few = lane.min(tokens);
        let lanes = lanes(few, tokens.div_ceil(few), few.div_ceil(2));
        let largest = Workload::of_architecture("largest", &space, &space.decode(&space.largest()).unwrap()).unwrap();
        let mut configuration = configuration(&board, &largest, array, lanes);
        configuration.frames = frames;
        configuration.axi_ports = ports;
        configuration.buffers = Buffers::needed(&largest, array, lanes, frames);
        let hardware = Hardware::new(configuration, board).unwrap();
        prop_assume!(Resources::of(&hardware).check(hardware.board(), hardware.board().resources).is_ok());
        let table = CostTable::new(&space, &hardware).unwrap();
        let (fastest, slowest) = (table.fastest().unwrap(), table.slowest().unwrap());
        for seed in seeds {
            let genome = space.sample(seed, &[]);
            let workload = Workload::of_architecture("drawn", &space, &space.decode(&genome).unwrap()).unwrap();
            let estimate = estimate(&workload, &hardware).unwrap();
            let cost = table.cost(&genome);
            prop_assert_eq!(
                (cost.period_cycles, cost.latency_cycles, cost.fps, cost.latency_s, cost.fits),
                (estimate.period_cycles, estimate.latency_cycles, estimate.fps, estimate.latency_s, true)
            );
            prop_assert!(fastest.1.fps >= cost.fps && cost.fps >= slowest.1.fps);
        }
        prop_assert_eq!(table.cost(&fastest.0), fastest.1);
        prop_assert_eq!(table.cost(&slowest.0), slowest.1);
    }
}

#[test]
fn modes_without_hls_are_refused_by_tables_but_not_by_estimates() {
    let board = board("zcu102");
    let workload = deit(3, 0.25);
    for mode in Mode::ALL {
        let hardware = explore(&board, std::slice::from_ref(&workload), 150.0, mode).unwrap();
        let estimate = estimate(&workload, &hardware).unwrap();
        assert_eq!(estimate.hls, mode == Mode::Nibble);
        let table = CostTable::new(&space("tiny"), &hardware);
        if mode == Mode::Nibble {
            table.unwrap();
        } else {
            let message = table.unwrap_err().to_string();
            assert!(message.contains("modelled only"), "{message}");
        }
    }
}

#[test]
fn what_does_not_fit_names_the_buffer_and_by_how_much() {
    let board = board("zcu102");
    let array = Array {
        tokens: 66,
        pairs: 33,
        lut_pairs: 0,
    };
    let hardware = Hardware::new(
        configuration(&board, &deit(3, 0.0), array, lanes(22, 8, 22)),
        board,
    )
    .unwrap();
    let error = estimate(&deit(6, 0.0), &hardware).unwrap_err();
    assert!(matches!(
        error,
        Error::DoesNotFit {
            needed: 1152,
            available: 576,
            ..
        }
    ));
    assert!(
        error
            .to_string()
            .contains("the residual buffer needs 1152 words a lane, 576 more than the 576"),
        "{error}"
    );
}
