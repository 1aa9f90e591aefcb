//! Tests searches over several configurations of a board, and their limits.

// Equal bits are what is tested.
#![allow(clippy::float_cmp)]

use std::sync::OnceLock;

use quasar_hardware::Hardware;
use quasar_search::additive::{best_front, BestFront};
use quasar_search::designs::OnDesign;
use quasar_search::pareto::hypervolume;
use quasar_search::proxy::ProxyTable;
use quasar_search::{CostModel, CostTable, Design, Designs, Genotype, Limits, Objective, Space};

mod shipped;

use shipped::{board, read};

/// Returns a space whose networks can be listed one and all.
fn space() -> Space {
    let text = read("spaces/digits")
        .replace("eight_bit_per = \"matrix\"", "eight_bit_per = \"block\"")
        .replace("depth = [1, 2, 3]", "depth = [1, 2]");
    Space::from_toml(&text).unwrap()
}

fn tables(space: &Space) -> Vec<CostTable> {
    static TABLES: OnceLock<Vec<CostTable>> = OnceLock::new();
    TABLES.get_or_init(|| new_tables(space)).clone()
}

fn new_tables(space: &Space) -> Vec<CostTable> {
    let mut board = board("pynq-zu");
    board.power = Some(quasar_hardware::boards::Power {
        idle_w: 1.5,
        product_pj: 30.0,
        waiting_pj: 10.0,
        byte_pj: 100.0,
    });
    let genome_of = |genome: &[u8]| {
        let architecture = space.decode(genome).unwrap();
        space.workload("", &architecture).unwrap()
    };
    [space.largest(), space.smallest()]
        .iter()
        .map(|genome| quasar_cost::explore(&board, &[genome_of(genome)], 100.0).unwrap())
        .map(|hardware: Hardware| CostTable::new(space, &hardware).unwrap())
        .collect()
}

fn designs(space: &Space, scales: [f64; 2], limits: Limits) -> quasar_core::error::Result<Designs> {
    let designs = tables(space).into_iter().zip(scales);
    Designs::new(
        designs
            .map(|(table, scale)| Design { table, scale })
            .collect(),
        limits,
    )
}

fn all(space: &Space) -> Vec<Vec<u8>> {
    let all = Genotype::of(space).all();
    all.chunks_exact(space.genes())
        .map(<[u8]>::to_vec)
        .collect()
}

#[test]
fn the_front_of_several_configurations_is_that_of_all_networks() {
    let space = space();
    let (genotype, proxy) = (Genotype::of(&space), ProxyTable::new(&space));
    let designs = designs(&space, [1.0, 0.97], Limits::default()).unwrap();
    let fronts = designs.shares(Objective::Period);
    let fronts = fronts.iter().map(|one| best_front(&genotype, one, &proxy));
    let front = BestFront::merged(fronts.collect::<Result<_, _>>().unwrap()).unwrap();
    assert!(front.exact);
    let points: Vec<(f64, f64)> = front.members.iter().map(|m| (m.rate, m.score)).collect();
    assert!(points
        .windows(2)
        .all(|w| w[0].0 > w[1].0 && w[0].1 < w[1].1));
    let every: Vec<(f64, f64)> = all(&space)
        .iter()
        .map(|genome| (designs.best(genome), proxy.score(genome)))
        .filter(|(on, _)| on.violation == 0.0)
        .map(|(on, score)| (on.fps, score))
        .collect();
    let (found, whole) = (
        hypervolume(&points, (0.0, 0.0)),
        hypervolume(&every, (0.0, 0.0)),
    );
    assert!((found / whole - 1.0).abs() < 1e-9, "{found} {whole}");
}

#[test]
fn each_objective_has_the_configuration_that_suits_it_best() {
    let space = space();
    let designs = designs(&space, [1.0, 0.97], Limits::default()).unwrap();
    let (genotype, proxy) = (Genotype::of(&space), ProxyTable::new(&space));
    for objective in [Objective::Latency, Objective::Energy] {
        designs.check(objective).unwrap();
        let value = |on: &OnDesign| match objective {
            Objective::Latency => on.latency_s,
            _ => on.energy_j.unwrap(),
        };
        let mut every = Vec::new();
        for genome in all(&space) {
            let held = (0..2).map(|number| designs.on(number, &genome));
            let held: Vec<_> = held.filter(|on| on.violation == 0.0).collect();
            let cost = designs.cost(&genome, objective);
            assert_eq!(cost.violation == 0.0, !held.is_empty());
            if !held.is_empty() {
                let least = held.iter().map(value).fold(f64::INFINITY, f64::min);
                assert_eq!(cost.rate, 1.0 / least);
                every.push((cost.rate, proxy.score(&genome)));
            }
        }
        let fronts = designs.shares(objective);
        let fronts = fronts.iter().map(|one| best_front(&genotype, one, &proxy));
        let front = BestFront::merged(fronts.collect::<Result<_, _>>().unwrap()).unwrap();
        assert!(front.exact);
        let points: Vec<(f64, f64)> = front.members.iter().map(|m| (m.rate, m.score)).collect();
        let found = hypervolume(&points, (0.0, 0.0));
        let whole = hypervolume(&every, (0.0, 0.0));
        assert!((found / whole - 1.0).abs() < 1e-6, "{found} {whole}");
    }
}
