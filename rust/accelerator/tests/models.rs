//! Tests the event model's rules, and compares the closed form with it.

use quasar_accelerator::compile::schedule;
use quasar_accelerator::events::{array_cycles, frame_alone, intervals, steady, Work};
use quasar_accelerator::isa::Unit;
use quasar_core::subnet::config::Pool;
use quasar_cost::{estimate, explore};
use quasar_hardware::configuration::{
    Array, Buffers, Configuration, Hardware, Lanes, Mode, Multipliers,
};
use quasar_hardware::workload::{BlockWork, RowWidths, Setting};
use quasar_hardware::{Board, Workload};
use quasar_search::space::{Architecture, BlockShape, Space};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../python/quasar_rt");

fn zcu102() -> Board {
    let text = std::fs::read_to_string(format!("{FOLDER}/boards/zcu102.toml")).unwrap();
    Board::from_toml(&text).unwrap()
}

/// Samples by `SplitMix64`: the same on every run.
struct Sample(u64);

impl Sample {
    fn of(&mut self, least: u64, most: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        least + (z ^ (z >> 31)) % (most - least + 1)
    }

    fn from<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.of(0, choices.len() as u64 - 1) as usize]
    }

    /// Samples rows of four bits, eight bits or a mix.
    fn rows(&mut self, rows: u64) -> RowWidths {
        let mix = self.of(0, rows);
        let eight_bit = self.from(&[0, rows, mix, mix]);
        RowWidths {
            four_bit: rows - eight_bit,
            eight_bit,
        }
    }

    fn workload(&mut self) -> Workload {
        let (side, patch, channels) = (
            self.of(4, 14),
            self.from(&[4, 7, 8, 14, 16]),
            self.from(&[1, 3]),
        );
        let pool = self.from(&[Pool::Token, Pool::Mean, Pool::MeanAfterNorm]);
        let prefix_tokens = if pool == Pool::Token {
            1
        } else {
            self.of(0, 1)
        };
        let setting = Setting {
            patches: side * side,
            prefix_tokens,
            patch_len: channels * patch * patch,
            classes: self.of(10, 1000),
            pool,
            source_pixels: 1,
            resized: false,
        };
        let embed = 8 * self.of(4, 48);
        let blocks = (0..self.of(2, 8)).map(|_| {
            let (heads, head_dim) = (self.of(1, 6), self.from(&[16, 32, 64]));
            let (inner, hidden) = (heads * head_dim, embed * self.of(2, 4));
            BlockWork {
                heads,
                head_dim,
                hidden,
                query: self.rows(inner),
                key: self.rows(inner),
                value: self.rows(inner),
                proj: self.rows(embed),
                fc1: self.rows(hidden),
                fc2: self.rows(embed),
            }
        });
        Workload {
            name: "sampled".into(),
            setting,
            embed,
            blocks: blocks.collect(),
            patch_rows: self.rows(embed),
            head_rows: self.rows(setting.classes),
        }
    }

    /// Samples an array that the HLS can be built for, with lanes for a tile's tokens in one to six
    /// turns.
    fn hardware(&mut self, workload: &Workload, board: &Board) -> Hardware {
        let all = workload.setting.tokens();
        let tokens = all.div_ceil(self.of(1, 8));
        let array = Array {
            tokens,
            pairs: self.of(4, 60),
            cascade: 1,
            clock_ratio: 1,
        };
        let requantize = tokens.div_ceil(self.of(1, 6)).min(60);
        let lanes = Lanes {
            requantize,
            gelu: requantize,
            norm: tokens.div_ceil(self.of(1, 6)),
            exponential: tokens.div_ceil(self.of(1, 6)).min(170),
            multipliers: Multipliers::Fabric,
        };
        let configuration = Configuration {
            board: board.name.clone(),
            clock_mhz: self.from(&[100.0, 150.0, 200.0]),
            mode: Mode::Nibble,
            frames: self.of(1, 2),
            axi_ports: self.of(1, 4),
            array,
            lanes,
            buffers: Buffers::needed(workload, array, lanes),
        };
        Hardware::new(configuration, board.clone()).unwrap()
    }
}

/// Compares period and latency of the closed form and the event model for 300 networks and
/// configurations, most of which no design-space search would pick.
#[test]
fn the_closed_form_follows_the_events() {
    let board = zcu102();
    let (mut periods, mut latencies) = (Vec::new(), Vec::new());
    for seed in 0..300 {
        let mut sample = Sample(seed);
        let workload = sample.workload();
        let hardware = sample.hardware(&workload, &board);
        let closed = estimate(&workload, &hardware).unwrap();
        let lists = schedule(&workload, &hardware).unwrap();
        let error = |closed: u64, events: u64| (closed as f64 / events as f64 - 1.0).abs();
        let period = steady(&hardware, &lists).unwrap().period;
        let alone = frame_alone(&hardware, &lists).unwrap().frames[0];
        periods.push((error(closed.period_cycles, period), seed));
        latencies.push((error(closed.latency_cycles, alone), seed));
    }
    for (what, mut errors) in [("period", periods), ("latency", latencies)] {
        errors.sort_by(|a, b| b.0.total_cmp(&a.0));
        let worst = errors[0];
        let mean = errors.iter().map(|e| e.0).sum::<f64>() / errors.len() as f64;
        println!(
            "{what}: mean {:.2} %, worst {:.2} % (seed {})",
            100.0 * mean,
            100.0 * worst.0,
            worst.1
        );
        assert!(mean < 0.01 && worst.0 <= 0.05, "{what}: {worst:?}");
    }
}

/// Returns `DeiT`-tiny's shape.
fn deit_tiny(eight_bit: f64) -> Workload {
    let text = std::fs::read_to_string(format!("{FOLDER}/spaces/tiny.toml")).unwrap();
    let block = BlockShape {
        heads: 3,
        head_dim: 64,
        hidden: 768,
        eight_bit: [eight_bit; 4],
    };
    let architecture = Architecture {
        embed: 192,
        blocks: vec![block; 12],
    };
    let space = Space::from_toml(&text).unwrap();
    space.workload("deit-tiny", &architecture).unwrap()
}

#[test]
fn deit_tiny_on_zcu102_reaches_its_targets_event_by_event() {
    let networks = [(deit_tiny(0.0), 400.0), (deit_tiny(0.25), 330.0)];
    for (workload, target) in networks {
        let hardware = explore(&zcu102(), std::slice::from_ref(&workload), 150.0).unwrap();
        let lists = schedule(&workload, &hardware).unwrap();
        let steady = steady(&hardware, &lists).unwrap();
        let fps = hardware.clock_hz() / steady.period as f64;
        let closed = estimate(&workload, &hardware).unwrap();
        let share = closed.share * closed.period_cycles as f64 / steady.period as f64;
        assert!(
            fps >= target && share >= 0.85,
            "{fps} frames/s, {share} of the peak"
        );
        let faster = hardware.with_clock(200.0).unwrap();
        let lists = schedule(&workload, &faster).unwrap();
        let fps = 200e6 / self::steady(&faster, &lists).unwrap().period as f64;
        assert!(fps >= target * 1.25, "{fps} at 200 MHz");
    }
}

/// Compares with cycles computed by hand: two tiles of row pairs of 8 columns, 4 pairs, beats of 8
/// bytes; then a pass without weights.
#[test]
fn the_array_issues_by_its_rules() {
    let pass = |columns, drain, uses_weights, releases| Work::Pass {
        columns,
        drain,
        uses_weights,
        releases,
    };
    let work = [
        Work::Weights(8),
        pass(8, 12, true, false),
        pass(8, 12, true, true),
        Work::Weights(8),
        pass(8, 4, true, true),
        pass(3, 4, false, false),
    ];
    let issued = array_cycles(4, 8, 1, &work).unwrap();
    let seen: Vec<_> = issued
        .iter()
        .map(|i| (i.start, i.end, i.drain_stall, i.weight_stall))
        .collect();
    // 32 bytes are 4 beats, but 8 words: taken from cycle 1, readable in 10. The second tile's
    // halves are filled from 8 on.
    assert_eq!(
        seen,
        [
            (10, 17, 0, 10),
            (22, 29, 4, 0),
            (34, 41, 4, 0),
            (43, 45, 1, 0)
        ]
    );
    let never = [pass(8, 12, true, true)].map(|pass| [Work::Weights(8), pass]);
    assert!(array_cycles(4, 8, 1, &never.concat()).is_ok());
    let kept = [Work::Weights(8), pass(8, 1, true, false)].repeat(3);
    assert!(array_cycles(4, 8, 1, &kept).is_err());
}

/// Checks that units work one cycle for each interval of their main loop.
#[test]
fn work_is_what_the_loops_count() {
    let workload = deit_tiny(0.25);
    let hardware = explore(&zcu102(), std::slice::from_ref(&workload), 150.0).unwrap();
    let lists = schedule(&workload, &hardware).unwrap();
    let trace = frame_alone(&hardware, &lists).unwrap();
    let commands: Vec<_> = ["start0", "end0"]
        .map(|name| lists.iter().find(|list| list.segment.to_string() == name))
        .into_iter()
        .flatten()
        .map(|list| &list.commands[..])
        .collect();
    let counts = intervals(&hardware, &commands);
    let busy = |unit| trace.unit(unit).map(|span| span.busy).sum::<u64>();
    assert_eq!(counts["fetch.commands"], trace.spans.len() as u64);
    assert_eq!(counts["load.beats"], busy(Unit::Load));
    assert_eq!(counts["norm.normalise"], busy(Unit::Norm));
    assert_eq!(counts["softmax.exponential"], busy(Unit::Softmax));
    assert!(counts["array.issue"] >= busy(Unit::Array));
    let sums = counts["drain.rows"] + counts["drain.attend"];
    assert!(sums < busy(Unit::Drain) && sums > busy(Unit::Drain) * 9 / 10);
}
