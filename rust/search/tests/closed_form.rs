//! Tests of the model as a whole.

use proptest::prelude::*;
use quasar_core::Error;
use quasar_cost::{estimate, explore, Resources};
use quasar_hardware::boards::Amounts;
use quasar_hardware::configuration::{
    Array, Buffers, Configuration, Hardware, Lanes, Mode, Multipliers,
};
use quasar_hardware::{Board, Workload};
use quasar_search::explore::{explore_space, workloads_of_space};
use quasar_search::space::{Architecture, BlockShape, Space};
use quasar_search::CostTable;

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

/// Returns a network of `DeiT`'s shapes: heads of 64, hidden 4 * embed, 12 blocks.
fn deit(heads: usize, eight_bit: f64) -> Workload {
    let block = BlockShape {
        heads,
        head_dim: 64,
        hidden: 256 * heads,
        eight_bit: [eight_bit; 6],
    };
    let architecture = Architecture {
        embed: 64 * heads,
        blocks: vec![block; 12],
    };
    space("tiny").workload("deit", &architecture).unwrap()
}

fn configuration(board: &Board, workload: &Workload, array: Array, lanes: Lanes) -> Configuration {
    Configuration {
        board: board.name.clone(),
        clock_mhz: 150.0,
        mode: Mode::Nibble,
        frames: 2,
        axi_ports: 4,
        counters: true,
        array,
        lanes,
        buffers: Buffers::needed(workload, array, lanes),
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
            cascade: 1,
            clock_ratio: 1,
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
    let hardware = explore(&board, &workloads, 150.0).unwrap();
    let [four_bit, quarter] = [0, 1].map(|i| estimate(&workloads[i], &hardware).unwrap());
    assert!(
        four_bit.fps >= 500.0 && quarter.fps >= 420.0,
        "{} {}",
        four_bit.fps,
        quarter.fps
    );
    assert!(four_bit.share >= 0.845 && quarter.share >= 0.845);
    assert!(four_bit.resources_fit);
}

#[test]
fn every_board_loads_and_takes_a_design_for_the_small_spaces() {
    for name in BOARDS {
        let board = board(name);
        assert_eq!(Board::from_toml(&board.to_toml()).unwrap(), board);
        for space in ["digits", "fashion-mnist"].map(space) {
            let workloads = workloads_of_space(&space).unwrap();
            let design = || explore(&board, &workloads, board.clocks_mhz[0]);
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
        which in 0usize..6, tokens in 1u64..80, pairs in 1u64..60, lane in 1u64..30,
        cascade in 0u32..4, ratio in 1u64..3, frames in 1u64..3, ports in 1u64..4,
        seeds in proptest::collection::vec(any::<u64>(), 4),
    ) {
        let names = ["tiny", "small", "base", "digits", "fashion-mnist", "fashion-mnist-coarse"];
        let space = space(names[which]);
        // Large enough for every array.
        let mut board = board("zcu102");
        board.resources =
            Amounts { dsp: 1 << 16, lut: 1 << 22, ff: 1 << 23, bram36: 1 << 14, uram: 0 };
        let array = Array { tokens, pairs, cascade: 1 << cascade, clock_ratio: ratio };
        let few = lane.min(tokens);
        let lanes = lanes(few, tokens.div_ceil(few), few.div_ceil(2));
        let largest = space.workload("largest", &space.decode(&space.largest()).unwrap()).unwrap();
        let mut configuration = configuration(&board, &largest, array, lanes);
        configuration.frames = frames;
        configuration.axi_ports = ports;
        configuration.buffers = Buffers::needed(&largest, array, lanes);
        let hardware = Hardware::new(configuration, board).unwrap();
        let table = CostTable::new(&space, &hardware).unwrap();
        let (fastest, slowest) = (table.fastest().unwrap(), table.slowest().unwrap());
        for seed in seeds {
            let genome = space.sample(seed, &[]);
            let workload = space.workload("sample", &space.decode(&genome).unwrap()).unwrap();
            let estimate = estimate(&workload, &hardware).unwrap();
            let cost = table.cost(&genome);
            prop_assert_eq!(
                (cost.period_cycles, cost.latency_cycles, cost.fps, cost.latency_s),
                (estimate.period_cycles, estimate.latency_cycles, estimate.fps, estimate.latency_s)
            );
            prop_assert!(cost.fits);
            prop_assert!(fastest.1.fps >= cost.fps && cost.fps >= slowest.1.fps);
        }
        prop_assert_eq!(table.cost(&fastest.0), fastest.1);
        prop_assert_eq!(table.cost(&slowest.0), slowest.1);
    }
}

#[test]
fn what_does_not_fit_names_the_buffer_and_by_how_much() {
    let board = board("zcu102");
    let array = Array {
        tokens: 66,
        pairs: 33,
        cascade: 1,
        clock_ratio: 1,
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

/// Compares with a block counted by hand: 17 tokens on 6 x 5, all 4-bit, embed 16, 2 heads of 8,
/// hidden 32, lanes enough that nothing stalls.
#[test]
fn a_small_layer_takes_the_cycles_counted_by_hand() {
    let space = space("digits");
    let block = BlockShape {
        heads: 2,
        head_dim: 8,
        hidden: 32,
        eight_bit: [0.0; 6],
    };
    let architecture = Architecture {
        embed: 16,
        blocks: vec![block.clone(), block],
    };
    let workload = space.workload("by hand", &architecture).unwrap();
    let board = board("zcu102");
    let array = Array {
        tokens: 6,
        pairs: 5,
        cascade: 1,
        clock_ratio: 1,
    };
    let hardware = Hardware::new(
        configuration(&board, &workload, array, lanes(6, 6, 6)),
        board,
    )
    .unwrap();
    let estimate = estimate(&workload, &hardware).unwrap();
    let layer = |name: &str| estimate.layers.iter().find(|l| l.name == name).unwrap();
    assert_eq!(workload.setting.tokens(), 17);
    // (tiles of tokens) * (tiles of row pairs) * columns, heads and tiles of tokens being units of
    // attention.
    for (name, cycles) in [
        ("embed", 3 * 4 * 4),
        // 32 rows of keys and queries, then 16 of values.
        ("blocks.0.qkv", 3 * (4 + 2) * 16),
        ("blocks.0.attn.scores", 2 * 3 * 4 * 8),
        ("blocks.0.attn.context", 2 * 3 * 2 * 17),
        ("blocks.0.proj", 3 * 2 * 16),
        ("blocks.0.fc1", 3 * 4 * 16),
        ("blocks.0.fc2", 3 * 2 * 32),
        // The class token alone: 32 rows of keys and values for all, 16 of queries for one.
        ("blocks.1.qkv", 3 * 4 * 16 + 2 * 16),
        ("blocks.1.attn.scores", 2 * 4 * 8),
        ("blocks.1.attn.context", 2 * 2 * 17),
        ("blocks.1.fc2", 2 * 32),
        ("head", 2 * 16),
    ] {
        assert_eq!(layer(name).accumulate, cycles, "{name}");
    }
    // Each row of a tile leaves in a cycle: only the patch embedding's 5 rows take longer than its
    // 4 columns, in 3 x 3 whole tiles. Before fc1's rows the lanes store GELU's table, in 256
    // cycles and two gaps of 16. In front of a pass of 5 pairs, the FIFOs hold 118 cycles of rows;
    // 31 of them go by while the first pass is on its way. The array waits for the rest.
    let held = 118 - 31;
    let table = 256 + 2 * 16 - held;
    for layer in &estimate.layers {
        let stall = match layer.name.as_str() {
            "embed" => 9,
            "blocks.0.fc1" => table + 3 * 32 - 3 * 4 * 16,
            "blocks.1.fc1" => table + 32 - 4 * 16,
            _ => 0,
        };
        assert_eq!(layer.drain_stall, stall, "{}", layer.name);
    }
    // fc1's last tile has one pair. Until its 2 rows are stored: 7 to the slices, 2 hops, 6 to the
    // FIFOs, 2 + 7 to the drain, 2 of the drain, 16 of the lanes, and what the FIFOs hold; fc2 has
    // 2 tiles of tokens of 16 columns before it needs them.
    assert_eq!(
        layer("blocks.0.fc2").wait,
        (7 + 2 + 6 + 2 + 7 + 2 + 16) + held - 2 * 16
    );
    let alone: u64 = estimate.layers.iter().map(|l| l.cycles).sum();
    assert!(estimate.period_cycles >= alone && estimate.latency_cycles > estimate.period_cycles);
}

#[test]
fn draining_stalls_the_array_when_lanes_are_too_few() {
    let board = board("zcu102");
    let workload = deit(3, 0.0);
    let array = Array {
        tokens: 99,
        pairs: 24,
        cascade: 1,
        clock_ratio: 1,
    };
    let stalls = |requantize| {
        let hardware = Hardware::new(
            configuration(&board, &workload, array, lanes(requantize, 9, 33)),
            board.clone(),
        )
        .unwrap();
        let estimate = estimate(&workload, &hardware).unwrap();
        estimate
            .layers
            .iter()
            .find(|l| l.name == "blocks.0.proj")
            .unwrap()
            .drain_stall
    };
    // 48 outputs of 99 tokens in 192 columns: 4 cycles a row for 25 lanes fit exactly, 5 for 20
    // lanes take 48 more in each of 4 x 2 tiles. At the end the FIFOs hold 64 - 24 pairs of 10
    // cycles when the last tile starts, whose own first pair comes after 192 columns, 7 cycles to
    // the slices, 49 hops and 6 to the FIFOs.
    assert_eq!(stalls(25), 0);
    assert_eq!(stalls(20), 4 * 2 * 48 - (40 * 10 - (192 + 7 + 49 + 6)));
}

#[test]
fn columns_beyond_the_bound_are_drained_more_than_once() {
    let workload = deit(6, 0.25);
    for (name, passes) in [("zcu102", 1), ("pynq-z2", 3)] {
        let board = board(name);
        let array = Array {
            tokens: 10,
            pairs: 20,
            cascade: 1,
            clock_ratio: 1,
        };
        let mut configuration = configuration(&board, &workload, array, lanes(10, 5, 10));
        configuration.clock_mhz = 100.0;
        let hardware = Hardware::new(configuration, board).unwrap();
        let layers = estimate(&workload, &hardware).unwrap().layers;
        // 1536 columns: two 4-bit rows hold 1,170 products on a DSP48E1, one 8-bit row 546.
        assert_eq!(
            layers
                .iter()
                .find(|l| l.name == "blocks.0.fc2")
                .unwrap()
                .passes,
            passes
        );
        assert_eq!(layers.iter().map(|l| l.passes).max(), Some(passes));
    }
}

#[test]
fn more_work_is_never_faster_and_more_hardware_never_slower() {
    let board = board("zcu102");
    let cycles = |workload: &Workload, l: Lanes, frames: u64, ports: u64| {
        let array = Array {
            tokens: 66,
            pairs: 33,
            cascade: 1,
            clock_ratio: 1,
        };
        let mut configuration = configuration(&board, &deit(12, 1.0), array, l);
        configuration.buffers = Buffers::needed(&deit(12, 1.0), array, l);
        (configuration.frames, configuration.axi_ports) = (frames, ports);
        estimate(
            workload,
            &Hardware::new(configuration, board.clone()).unwrap(),
        )
        .unwrap()
        .period_cycles
    };
    let usual = lanes(22, 8, 22);
    let (mut products, mut period) = (0, 0);
    for step in 0..=20 {
        let workload = deit(3, f64::from(step) / 20.0);
        let array = Array {
            tokens: 66,
            pairs: 33,
            cascade: 1,
            clock_ratio: 1,
        };
        let now = (
            accumulated(&workload, array),
            cycles(&workload, usual, 2, 2),
        );
        assert!(now.0 >= products, "{step}");
        // A last tile that drains sooner may save the next layer a few cycles of waiting.
        assert!(now.1 + now.1 / 200 >= period, "{step}");
        (products, period) = now;
    }
    assert!(cycles(&deit(6, 0.0), usual, 2, 2) > cycles(&deit(3, 0.0), usual, 2, 2));
    for few in 1..22 {
        let (less, more) = (lanes(few, few, few), lanes(few + 1, few + 1, few + 1));
        assert!(
            cycles(&deit(3, 0.25), less, 2, 2) >= cycles(&deit(3, 0.25), more, 2, 2),
            "{few} lanes"
        );
    }
    assert!(cycles(&deit(3, 0.25), usual, 1, 2) > cycles(&deit(3, 0.25), usual, 2, 2));
    assert!(cycles(&deit(3, 0.25), usual, 2, 1) > cycles(&deit(3, 0.25), usual, 2, 4));
}

#[test]
fn extremes_of_a_space_are_exact() {
    for (per, ratios) in [("block", "[1.0, 2.0]"), ("matrix", "[1.0]")] {
        let mut text = space("digits").to_toml();
        for (key, value) in [
            ("eight_bit_per", format!("{per:?}")),
            ("embed", "[16, 24]".into()),
            ("depth", "[1, 2]".into()),
            ("heads", "[1, 2]".into()),
            ("mlp_ratio", ratios.into()),
            ("eight_bit", "[0.0, 0.5]".into()),
        ] {
            let line = text
                .lines()
                .find(|l| l.starts_with(&format!("{key} = ")))
                .unwrap()
                .to_owned();
            text = text.replace(&line, &format!("{key} = {value}"));
        }
        let space = Space::from_toml(&text).unwrap();
        let board = board("pynq-z2");
        let hardware = explore(&board, &workloads_of_space(&space).unwrap(), 100.0).unwrap();
        // A slow memory makes transfers the bound of some networks.
        for gigabytes in [0.05, 2.1] {
            let mut board = board.clone();
            board.ddr.peak_gb_s = gigabytes;
            let hardware = Hardware::new(hardware.configuration().clone(), board).unwrap();
            let table = CostTable::new(&space, &hardware).unwrap();
            let mut genome = vec![0u8; space.genes()];
            let (mut least, mut most) = (u64::MAX, 0);
            loop {
                let period = table.cost(&genome).period_cycles;
                (least, most) = (least.min(period), most.max(period));
                let next = (0..genome.len())
                    .rev()
                    .find(|&i| genome[i] as usize + 1 < space.choices_of(i));
                let Some(i) = next else { break };
                genome[i] += 1;
                genome[i + 1..].fill(0);
            }
            let (fastest, slowest) = (table.fastest().unwrap(), table.slowest().unwrap());
            assert_eq!(
                (fastest.1.period_cycles, slowest.1.period_cycles),
                (least, most),
                "{per} {gigabytes}"
            );
            for (genome, cost) in [fastest, slowest] {
                assert_eq!(table.cost(&genome), cost);
            }
        }
    }
}

#[test]
fn a_subnet_and_its_architecture_cost_the_same() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors");
    for name in [
        "token",
        "overlap",
        "mean",
        "mean-after-norm",
        "all-4",
        "all-8",
        "embedding",
        "token-pair",
        "embed-norm",
    ] {
        let subnet = quasar_core::Subnet::load(format!("{folder}/{name}.qvit")).unwrap();
        let workload = Workload::of_subnet(&subnet);
        assert_eq!(workload.macs(), subnet.summary().macs, "{name}");
        let rows: u64 = subnet.summary().layers.iter().map(|l| l.rows8 as u64).sum();
        let eight_bit: u64 = workload.patch_rows.eight_bit
            + workload.head_rows.eight_bit
            + workload.pair_head_rows.map_or(0, |rows| rows.eight_bit)
            + workload.embed_proj.map_or(0, |rows| rows.eight_bit)
            + (workload.blocks.iter())
                .map(|b| b.qkv().eight_bit + b.proj.eight_bit + b.fc1.eight_bit + b.fc2.eight_bit)
                .sum::<u64>();
        assert_eq!(eight_bit, rows, "{name}");
        let board = board("ultra96v2");
        let hardware = explore(&board, std::slice::from_ref(&workload), 150.0).unwrap();
        let estimate = estimate(&workload, &hardware).unwrap();
        assert_eq!(
            estimate.layers.iter().map(|l| l.macs).sum::<u64>(),
            workload.macs(),
            "{name}"
        );
    }
}

#[test]
fn hostile_boards_name_the_key() {
    let good = board("zcu102");
    let text = good.to_toml();
    for (old, new, part) in [
        ("name = ", "nome = ", "unknown field `nome`"),
        ("dsp = 2520", "dsp = 0", "resources.dsp: 0 is outside"),
        ("dsp = 2520", "dsp = -1", "integer `-1`"),
        ("\"DSP48E2\"", "\"DSP58\"", "unknown variant `DSP58`"),
        ("[150.0, 200.0]", "[nan]", "clocks_mhz: NaN is outside"),
        ("[150.0, 200.0]", "[]", "clocks_mhz (their number): 0"),
        (
            "[150.0, 200.0]",
            "[1e9]",
            "clocks_mhz: 1000000000 is outside",
        ),
        (
            "peak_gb_s = 17.0",
            "peak_gb_s = inf",
            "ddr.peak_gb_s: inf is outside",
        ),
        (
            "efficiency = 0.7",
            "efficiency = 0.0",
            "ddr.efficiency: 0 is outside",
        ),
        ("bits = 128", "bits = 7", "axi.bits: 7 is none of"),
        ("ports = 4", "ports = 0", "axi.ports: 0 is outside"),
        ("cores = 4", "cores = 0", "host.cores: 0 is outside"),
        (
            "frame_us = 150.0",
            "frame_us = -1.0",
            "host.frame_us: -1 is outside",
        ),
    ] {
        let bad = text.replacen(old, new, 1);
        assert_ne!(bad, text, "{old}");
        let message = Board::from_toml(&bad).unwrap_err().to_string();
        assert!(message.contains(part), "{new}: {message}");
    }
}

#[test]
fn hostile_configurations_name_the_key() {
    let good = board("zcu102");
    let array = Array {
        tokens: 66,
        pairs: 33,
        cascade: 1,
        clock_ratio: 1,
    };
    let hardware = Hardware::new(
        configuration(&good, &deit(3, 0.0), array, lanes(22, 8, 22)),
        good.clone(),
    )
    .unwrap();
    let text = hardware.to_toml();
    for (old, new, part) in [
        (
            "clock_mhz = 150.0",
            "clock_mhz = nan",
            "clock_mhz: NaN is outside",
        ),
        (
            "clock_mhz = 150.0",
            "clock_mhz = 0.0",
            "clock_mhz: 0 is outside",
        ),
        (
            "clock_mhz = 150.0",
            "clock_hz = 150.0",
            "unknown field `clock_hz`",
        ),
        ("frames = 2", "frames = 3", "frames: 3 is outside [1, 2]"),
        (
            "axi_ports = 4",
            "axi_ports = 5",
            "axi_ports: 5 is outside [1, 4]",
        ),
        ("tokens = 66", "tokens = 0", "array.tokens: 0 is outside"),
        (
            "tokens = 66",
            "tokens = 9999999999",
            "array.tokens: 9999999999 is outside",
        ),
        ("pairs = 33", "pairs = 18446744073709551615", "array.pairs"),
        (
            "requantize = 22",
            "requantize = 67",
            "lanes.requantize: 67 is outside [1, 66]",
        ),
        (
            "gelu = 22",
            "gelu = 23",
            "lanes.gelu: 23 is outside [1, 22]",
        ),
        (
            "residual = 576",
            "residual = 0",
            "buffers.residual: 0 is outside",
        ),
        (
            "residual = 576",
            "residual = 5000000000",
            "buffers.residual: 5000000000 is outside",
        ),
        (
            "mode = \"nibble\"",
            "mode = \"magic\"",
            "unknown variant `magic`",
        ),
        (
            "board = \"zcu102\"",
            "board = \"kv260\"",
            "board: \"kv260\" is not the given board",
        ),
    ] {
        let bad = text.replacen(old, new, 1);
        assert_ne!(bad, text, "{old}");
        let message = Hardware::from_toml(&bad, good.clone())
            .unwrap_err()
            .to_string();
        assert!(message.contains(part), "{new}: {message}");
    }
    let workload = deit(3, 0.0);
    for clock in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e12] {
        assert!(explore(&good, std::slice::from_ref(&workload), clock).is_err());
    }
    assert!(explore(&good, &[], 150.0).is_err());
}

#[test]
fn a_small_board_takes_the_part_of_a_space_that_it_holds() {
    let (board, space) = (board("pynq-z2"), space("tiny"));
    let hardware = explore_space(&board, &space, 100.0).unwrap();
    assert!(hardware.slices() > board.resources.dsp / 4);
    let table = CostTable::new(&space, &hardware).unwrap();
    assert!(table.cost(&space.smallest()).fits && !table.cost(&space.largest()).fits);
    let (fastest, cost) = table.fastest().unwrap();
    assert_eq!(table.cost(&fastest), cost);
    assert!(table.slowest().unwrap().1.fits);
}

#[test]
fn a_board_that_is_too_small_says_what_it_lacks() {
    let board = board("pynq-z2");
    let workloads = workloads_of_space(&space("base")).unwrap();
    let message = explore(&board, &workloads, 100.0).unwrap_err().to_string();
    assert!(
        message.contains("pynq-z2") && message.contains("block RAMs"),
        "{message}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Estimates any sizes up to the largest on the smallest array: nothing overflows, and each
    /// total is at least its parts.
    #[test]
    fn any_sound_sizes_are_estimated(
        embed in 1usize..1025, heads in 1usize..129, head_dim in 1usize..129,
        hidden in 1usize..4097, depth in 1usize..4, eight_bit in 0.0f64..=1.0,
        tokens in 1u64..300, pairs in 1u64..300, lane in 1u64..300, frames in 1u64..3,
    ) {
        prop_assume!(heads * head_dim <= 4096);
        let block = BlockShape { heads, head_dim, hidden, eight_bit: [eight_bit; 6] };
        let architecture = Architecture { embed, blocks: vec![block; depth] };
        let workload = space("tiny").workload("any", &architecture).unwrap();
        let board = board("zcu102");
        let array = Array { tokens, pairs, cascade: 1, clock_ratio: 1 };
        let lanes = lanes(lane.min(tokens), lane.min(tokens), lane.min(tokens));
        let mut configuration = configuration(&board, &workload, array, lanes);
        configuration.frames = frames;
        configuration.buffers = Buffers::needed(&workload, array, lanes);
        let hardware = Hardware::new(configuration, board).unwrap();
        let estimate = estimate(&workload, &hardware).unwrap();
        prop_assert_eq!(estimate.layers.iter().map(|l| l.macs).sum::<u64>(), workload.macs());
        prop_assert!(estimate.share > 0.0 && estimate.share <= 1.0);
        for layer in &estimate.layers {
            prop_assert!(layer.share > 0.0 && layer.share <= 1.0);
            prop_assert!(layer.cycles >= layer.accumulate);
        }
        prop_assert!(estimate.period_cycles >= estimate.array_cycles);
        prop_assert!(estimate.latency_cycles >= estimate.array_cycles);
        prop_assert!(estimate.fps.is_finite() && estimate.latency_s.is_finite());
    }
}

#[test]
fn a_space_that_does_not_fit_a_board_says_which_buffers_take_its_memory() {
    let error = explore_space(&board("pynq-z2"), &space("base"), 100.0).unwrap_err();
    assert_eq!(error.kind(), "DoesNotFit");
    let text = error.to_string();
    assert!(
        text.contains("residual ")
            && text.contains("block RAMs (36 kbit), ")
            && text.contains("larger board"),
        "{text}"
    );
}
