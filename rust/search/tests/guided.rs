//! Tests the fronts of scores that add up, and the search that a model of the scores guides.

use quasar_hardware::{Board, Hardware};
use quasar_search::additive::{best_front, coarse_front};
use quasar_search::nsga2::{Nsga2, Settings, Strategy};
use quasar_search::pareto::hypervolume;
use quasar_search::proxy::ProxyTable;
use quasar_search::{explore_space, CostTable, Designs, Genotype, Space};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../python/quasar_rt");

fn read(name: &str) -> String {
    std::fs::read_to_string(format!("{FOLDER}/{name}.toml")).unwrap()
}

/// Returns a space whose networks can be listed one and all.
fn small(per: &str) -> Space {
    let text = read("spaces/digits")
        .replace(
            "eight_bit_per = \"matrix\"",
            &format!("eight_bit_per = {per:?}"),
        )
        .replace("embed = [16, 24, 32]", "embed = [16, 24]")
        .replace("depth = [1, 2, 3]", "depth = [1, 2]")
        .replace("heads = [2, 3, 4]", "heads = [2, 3]")
        .replace("mlp_ratio = [1.0, 2.0]", "mlp_ratio = [1.0]")
        .replace("eight_bit = [0.0, 0.5, 1.0]", "eight_bit = [0.0, 0.5]");
    Space::from_toml(&text).unwrap()
}

fn hardware(space: &Space, board: &str) -> Hardware {
    let board = Board::from_toml(&read(&format!("boards/{board}"))).unwrap();
    explore_space(&board, space, board.clocks_mhz[0]).unwrap()
}

fn with_memory_of(hardware: &Hardware, gigabytes: f64) -> Hardware {
    let mut board = hardware.board().clone();
    board.ddr.peak_gb_s = gigabytes;
    Hardware::new(hardware.configuration().clone(), board).unwrap()
}

/// Returns the hypervolume above the origin of all networks that fit.
fn of_all(space: &Space, table: &CostTable, proxy: &ProxyTable) -> f64 {
    let all = Genotype::of(space).all();
    let points: Vec<(f64, f64)> = all
        .chunks_exact(space.genes())
        .map(|genome| (table.cost(genome), proxy.score(genome)))
        .filter(|(cost, _)| cost.fits)
        .map(|(cost, score)| (cost.fps, score))
        .collect();
    hypervolume(&points, (0.0, 0.0))
}

#[test]
fn the_best_front_is_that_of_all_networks() {
    for per in ["block", "matrix"] {
        let space = small(per);
        let genotype = Genotype::of(&space);
        let proxy = ProxyTable::new(&space);
        // With a slow memory, transfers are the bound of all networks or of some.
        let hardware = hardware(&space, "pynq-z2");
        for gigabytes in [2.1, 0.3, 0.1, 0.03] {
            let table = CostTable::new(&space, &with_memory_of(&hardware, gigabytes)).unwrap();
            let front = best_front(&genotype, &table.shares(), &proxy).unwrap();
            let points: Vec<(f64, f64)> = front.members.iter().map(|m| (m.fps, m.score)).collect();
            let (found, all) = (
                hypervolume(&points, (0.0, 0.0)),
                of_all(&space, &table, &proxy),
            );
            if front.exact {
                assert!(
                    (found / all - 1.0).abs() < 1e-9,
                    "{per} {gigabytes}: {found} {all}"
                );
                for member in &front.members {
                    genotype.check(&member.genome).unwrap();
                    let cost = table.cost(&member.genome);
                    assert!(cost.fits && (cost.fps / member.fps - 1.0).abs() < 1e-12);
                    assert!((proxy.score(&member.genome) - member.score).abs() < 1e-9);
                }
            } else {
                assert!(
                    found > all,
                    "{per} {gigabytes}: {found} is no bound of {all}"
                );
            }
        }
    }
}

#[test]
fn the_coarse_front_comes_close_to_the_best_one() {
    let space = Space::from_toml(&read("spaces/fashion-mnist")).unwrap();
    let table = CostTable::new(&space, &hardware(&space, "pynq-z2")).unwrap();
    let (genotype, proxy, shares) = (
        Genotype::of(&space),
        ProxyTable::new(&space),
        table.shares(),
    );
    let best = best_front(&genotype, &shares, &proxy).unwrap();
    assert!(best.exact);
    let exact: Vec<(f64, f64)> = best.members.iter().map(|m| (m.fps, m.score)).collect();
    let coarse: Vec<(f64, f64)> = coarse_front(&genotype, &shares, &proxy, 1000)
        .iter()
        .map(|genome| {
            genotype.check(genome).unwrap();
            (table.cost(genome).fps, proxy.score(genome))
        })
        .collect();
    let share = hypervolume(&coarse, (0.0, 0.0)) / hypervolume(&exact, (0.0, 0.0));
    assert!((0.995..=1.0).contains(&share), "{share}");
}

#[test]
fn a_guided_search_asks_for_new_networks_only_and_is_a_function_of_its_scores() {
    let space = Space::from_toml(&read("spaces/tiny")).unwrap();
    let table = CostTable::new(&space, &hardware(&space, "zcu102")).unwrap();
    let proxy = ProxyTable::new(&space);
    let search = |limit: Option<usize>| {
        let settings = Settings {
            population: 16,
            generations: 8,
            targets: vec![300.0],
            seed: 5,
            strategy: Strategy::Guided,
            oversample: 1,
        };
        let mut search = Nsga2::new(Genotype::of(&space), table_of(&table), settings).unwrap();
        loop {
            let flat = search.ask(limit);
            if flat.is_empty() {
                break search;
            }
            let genomes = flat.chunks_exact(space.genes());
            let scores: Vec<f64> = genomes.map(|genome| proxy.score(genome)).collect();
            search.tell(&scores).unwrap();
        }
    };
    let (whole, portions) = (search(None), search(Some(5)));
    assert_eq!(whole.evaluated(), portions.evaluated());
    assert_eq!(whole.guide_report(), portions.guide_report());
    let mut genomes: Vec<Vec<u8>> = whole.evaluated().into_iter().map(|c| c.genome).collect();
    assert_eq!(genomes.len(), 16 * 8);
    genomes.sort_unstable();
    genomes.dedup();
    assert_eq!(genomes.len(), 16 * 8);
}

fn table_of(table: &CostTable) -> std::sync::Arc<Designs> {
    std::sync::Arc::new(Designs::one(table.clone()))
}
