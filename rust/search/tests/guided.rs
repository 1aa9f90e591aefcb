//! Tests the fronts of scores that add up, and the search that a model of the scores guides.

use quasar_hardware::Hardware;
use quasar_search::additive::{best_front, coarse_front};
use quasar_search::nsga2::{Nsga2, Settings, Strategy};
use quasar_search::pareto::hypervolume;
use quasar_search::proxy::ProxyTable;
use quasar_search::{explore_space, CostModel, CostTable, Designs, Genotype, Objective, Space};

mod shipped;

use shipped::read;

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
    let board = shipped::board(board);
    explore_space(&board, space, board.clocks_mhz[0]).unwrap()
}

fn settings(
    strategy: Strategy,
    [population, generations]: [usize; 2],
    seed: u64,
    objectives: Vec<Objective>,
) -> Settings {
    Settings {
        population,
        generations,
        targets: vec![],
        seed,
        strategy,
        objectives,
    }
}

/// Runs a search to its end.
fn run(search: &mut Nsga2<std::sync::Arc<Designs>>, proxy: &ProxyTable) {
    let scored = search.run_with(|genomes, scores| {
        for (genome, score) in genomes.rows().zip(scores) {
            *score = proxy.score(genome);
        }
        Ok(())
    });
    scored.unwrap();
}

fn with_memory_of(hardware: &Hardware, gigabytes: f64) -> Hardware {
    let mut board = hardware.board().clone();
    board.ddr.peak_gb_s = gigabytes;
    Hardware::new(hardware.configuration().clone(), board).unwrap()
}

/// Returns the hypervolume above the origin of all networks that fit.
fn of_all(space: &Space, costs: &Designs, proxy: &ProxyTable, objective: Objective) -> f64 {
    let all = Genotype::of(space).all();
    let points: Vec<(f64, f64)> = all
        .chunks_exact(space.genes())
        .map(|genome| (costs.cost(genome, objective), proxy.score(genome)))
        .filter(|(cost, _)| cost.violation == 0.0)
        .map(|(cost, score)| (cost.rate, score))
        .collect();
    hypervolume(&points, (0.0, 0.0))
}

#[test]
fn the_best_front_is_that_of_all_networks() {
    let mut exact = [0; 3];
    for per in ["block", "matrix"] {
        let space = small(per);
        let genotype = Genotype::of(&space);
        let proxy = ProxyTable::new(&space);
        // With a slow memory, transfers are the bound of all networks or of some.
        let hardware = hardware(&space, "pynq-z2");
        for gigabytes in [2.1, 0.3, 0.1, 0.03] {
            let table = CostTable::new(&space, &with_memory_of(&hardware, gigabytes)).unwrap();
            let costs = Designs::one(table.clone());
            for (number, objective) in Objective::ALL.into_iter().enumerate() {
                let what = format!("{per} {gigabytes} {objective:?}");
                let shares = table.shares(objective);
                let front = best_front(&genotype, &shares, &proxy).unwrap();
                let points: Vec<(f64, f64)> =
                    front.members.iter().map(|m| (m.rate, m.score)).collect();
                let (found, all) = (
                    hypervolume(&points, (0.0, 0.0)),
                    of_all(&space, &costs, &proxy, objective),
                );
                if !front.exact {
                    assert!(found > all, "{what}: {found} is no bound of {all}");
                    continue;
                }
                exact[number] += 1;
                assert!((found / all - 1.0).abs() < 1e-6, "{what}: {found} {all}");
                for member in &front.members {
                    genotype.check(&member.genome).unwrap();
                    let cost = costs.cost(&member.genome, objective);
                    assert!(cost.violation == 0.0);
                    assert!((cost.rate / member.rate - 1.0).abs() < 1e-6, "{what}");
                    assert!((proxy.score(&member.genome) - member.score).abs() < 1e-9);
                }
            }
        }
    }
    assert!(exact.iter().all(|&fronts| fronts >= 4), "{exact:?}");
}

#[test]
fn the_lowest_rate_is_that_of_all_networks() {
    for per in ["block", "matrix"] {
        let space = small(per);
        let genotype = Genotype::of(&space);
        let hardware = hardware(&space, "pynq-z2");
        for gigabytes in [2.1, 0.1, 0.03] {
            let table = CostTable::new(&space, &with_memory_of(&hardware, gigabytes)).unwrap();
            let costs = Designs::one(table.clone());
            for objective in Objective::ALL {
                let all = genotype.all();
                let rates = all
                    .chunks_exact(space.genes())
                    .map(|genome| costs.cost(genome, objective))
                    .filter(|cost| cost.violation == 0.0)
                    .map(|cost| cost.rate);
                let lowest = rates.fold(f64::INFINITY, f64::min);
                let found = table.shares(objective).lowest_rate(&genotype).unwrap();
                assert!((found / lowest - 1.0).abs() < 1e-6, "{found} {lowest}");
            }
        }
    }
}

#[test]
fn an_evolution_has_further_objectives_too() {
    let space = shipped::space("fashion-mnist");
    let table = CostTable::new(&space, &hardware(&space, "zcu102")).unwrap();
    let search = |objectives| {
        let settings = settings(Strategy::Evolution, [20, 10], 2, objectives);
        let mut search = Nsga2::new(Genotype::of(&space), table_of(&table), settings).unwrap();
        let proxy = ProxyTable::new(&space);
        run(&mut search, &proxy);
        let mut population: Vec<Vec<u8>> =
            search.population().into_iter().map(|c| c.genome).collect();
        assert_eq!(population.len(), 20);
        population.sort_unstable();
        population.dedup();
        assert_eq!(population.len(), 20);
        search.evaluated()
    };
    assert_ne!(search(vec![]), search(vec![Objective::Latency]));
}

#[test]
fn the_coarse_front_comes_close_to_the_best_one() {
    let space = shipped::space("fashion-mnist");
    let table = CostTable::new(&space, &hardware(&space, "pynq-z2")).unwrap();
    let (genotype, proxy, shares) = (
        Genotype::of(&space),
        ProxyTable::new(&space),
        table.shares(Objective::Period),
    );
    let best = best_front(&genotype, &shares, &proxy).unwrap();
    assert!(best.exact);
    let exact: Vec<(f64, f64)> = best.members.iter().map(|m| (m.rate, m.score)).collect();
    let coarse: Vec<(f64, f64)> = coarse_front(&genotype, &shares, &proxy, 1500)
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
    let space = shipped::space("tiny");
    let table = CostTable::new(&space, &hardware(&space, "zcu102")).unwrap();
    let proxy = ProxyTable::new(&space);
    let search = |limit: Option<usize>| {
        let settings = Settings {
            targets: vec![300.0],
            ..settings(Strategy::Guided, [16, 8], 5, vec![Objective::Latency])
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
