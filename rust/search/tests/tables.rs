//! Tests that tables of costs equal the closed form, and spaces that a board holds in part.

use std::cell::RefCell;

use proptest::prelude::*;
use quasar_cost::{estimate, explore};
use quasar_hardware::boards::Amounts;
use quasar_hardware::configuration::{
    Array, Buffers, Configuration, Hardware, Lanes, Margins, Mode, Multipliers,
};
use quasar_hardware::Workload;
use quasar_search::explore::{explore_space, explore_space_by, workloads_of_space};
use quasar_search::{CostTable, Space};

mod shipped;

use shipped::{board, space};

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
        let lanes = Lanes {
            requantize: few,
            gelu: few,
            norm: tokens.div_ceil(few),
            exponential: few.div_ceil(2),
            multipliers: Multipliers::Fabric,
            exponential_multipliers: Multipliers::Dsp,
        };
        let largest = space.workload("largest", &space.decode(&space.largest()).unwrap()).unwrap();
        let configuration = Configuration {
            board: board.name.clone(),
            clock_mhz: 150.0,
            mode: Mode::Nibble,
            frames,
            axi_ports: ports,
            counters: true,
            array,
            lanes,
            buffers: Buffers::needed(&largest, array, lanes),
            margins: Margins::default(),
        };
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
fn configurations_are_compared_on_more_networks_than_they_are_searched_for() {
    let space = space("fashion-mnist");
    let compared = RefCell::new(Vec::new());
    let period = |workload: &Workload, _: &Hardware| {
        let mut compared = compared.borrow_mut();
        if !compared.contains(workload) {
            compared.push(workload.clone());
        }
        Ok(1)
    };
    explore_space_by(&board("zcu104"), &space, 150.0, &period).unwrap();
    let searched = workloads_of_space(&space).unwrap();
    let compared = compared.into_inner();
    assert_eq!(compared[..searched.len()], searched);
    assert!(compared.len() > searched.len());
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
