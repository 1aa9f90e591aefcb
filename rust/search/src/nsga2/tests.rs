//! Tests of the search on a cost model that stands for the hardware.

use super::variation::mutated;
use super::*;
use crate::genome::tests::toy;
use crate::random::SplitMix64;
use proptest::prelude::*;

/// A cost model for tests: 1e6 over a sum of what each gene's choice costs.
#[derive(Clone, Debug)]
struct Double {
    genotype: Genotype,
    /// Networks whose sum exceeds it do not fit.
    capacity: f64,
}

impl Double {
    fn sum(&self, genome: &[u8]) -> f64 {
        let used = self.genotype.used(genome);
        let blocks: f64 = genome[2..used]
            .iter()
            .enumerate()
            .map(|(i, &gene)| 2.0 + f64::from(gene) * (1.0 + (i % 3) as f64))
            .sum();
        blocks * (8.0 + f64::from(genome[0])) + 50.0
    }
}

impl CostModel for Double {
    fn cost(&self, genome: &[u8], _objective: Objective) -> Cost {
        let sum = self.sum(genome);
        Cost {
            rate: 1e6 / sum,
            violation: (sum - self.capacity).max(0.0),
        }
    }

    fn fastest(&self) -> Result<(Vec<u8>, f64)> {
        let smallest = vec![0; self.genotype.genes()];
        if self.sum(&smallest) > self.capacity {
            return Err(Error::Infeasible("nothing fits".into()));
        }
        let fps = 1e6 / self.sum(&smallest);
        Ok((smallest, fps))
    }
}

/// Returns a score with diminishing returns and an interaction, so that fronts are curved.
fn score(genotype: &Genotype, genome: &[u8]) -> f64 {
    let used = genotype.used(genome);
    let sum: f64 = genome[2..used]
        .iter()
        .enumerate()
        .map(|(i, &gene)| (1.0 + f64::from(gene)).sqrt() / (1.0 + (i * 7 % 5) as f64))
        .sum();
    sum * (1.0 + 0.2 * f64::from(genome[0]))
}

fn settings(population: usize, generations: usize, seed: u64) -> Settings {
    Settings {
        population,
        generations,
        targets: vec![],
        seed,
        strategy: super::Strategy::Evolution,
        objectives: vec![],
    }
}

fn deep() -> Genotype {
    toy(3, &[6, 7, 8], &[2, 2, 5])
}

fn search(genotype: &Genotype, settings: Settings, capacity: f64) -> Nsga2<Double> {
    let costs = Double {
        genotype: genotype.clone(),
        capacity,
    };
    Nsga2::new(genotype.clone(), costs, settings).unwrap()
}

fn run(search: &mut Nsga2<Double>) {
    let genotype = search.genotype.clone();
    search
        .run_with(|genomes, scores| {
            for (genome, value) in genomes.rows().zip(scores) {
                *value = score(&genotype, genome);
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn the_last_generation_is_ranked() {
    // The score is 0 until the last generation; only its children can then be on the front.
    let genotype = deep();
    let mut search = search(&genotype, settings(20, 5, 3), f64::INFINITY);
    let mut generation = 0;
    search
        .run_with(|_, scores| {
            generation += 1;
            scores.fill(f64::from(u8::from(generation == 5)));
            Ok(())
        })
        .unwrap();
    let front = search.front();
    assert!(front.iter().any(|c| c.score == 1.0));
    let members = search.population();
    assert!(members.iter().any(|c| c.score == 1.0));
}

#[test]
fn a_space_barely_larger_than_the_budget_ends() {
    let genotype = toy(2, &[1, 2], &[2, 3]);
    let mut search = search(&genotype, settings(83, 1, 0), f64::INFINITY);
    run(&mut search);
    assert!(search.evaluated().len() >= 60);
    // One generation of few genomes, with a budget that is not reached because nearly all of them
    // were bred.
    let mut search = self::search(&genotype, settings(7, 11, 0), f64::INFINITY);
    run(&mut search);
    assert_eq!(search.history().len(), 11);
}

#[test]
fn the_front_comes_close_to_the_exact_one() {
    let genotype = toy(3, &[3, 4], &[2, 5]);
    let budget = genotype.size() as usize;
    let mut exact = search(&genotype, settings(budget, 1, 0), f64::INFINITY);
    run(&mut exact);
    let reference = exact.aims[0].reference;
    let full = exact.aims[0].front.hypervolume(reference);
    for seed in 0..5 {
        let mut search = search(&genotype, settings(50, 40, seed), f64::INFINITY);
        run(&mut search);
        assert!(search.evaluated.len() * 10 < budget, "{budget}");
        let found = search.aims[0].front.hypervolume(reference);
        assert!(found > 0.995 * full, "seed {seed}: {}", found / full);
    }
}

#[test]
fn what_does_not_fit_is_neither_on_the_front_nor_best() {
    let genotype = deep();
    let capacity = 1000.0;
    let mut search = search(&genotype, settings(40, 20, 1), capacity);
    run(&mut search);
    assert!(search.evaluated().iter().any(|c| c.violation > 0.0));
    assert!(search.front().iter().all(|c| c.violation == 0.0));
    assert!(search.population().iter().all(|c| c.violation == 0.0));
    assert_eq!(search.best(1.0).unwrap().violation, 0.0);
    let slowest = search.front()[0].fps;
    assert!(
        slowest >= 1e6 / capacity && slowest < 1.2e6 / capacity,
        "{slowest}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_chunks_give_the_same_search(
        limits in proptest::collection::vec(1usize..30, 1..20),
        seed: u64,
    ) {
        let genotype = deep();
        let mut whole = search(&genotype, settings(20, 6, seed), f64::INFINITY);
        run(&mut whole);
        let mut chunked = search(&genotype, settings(20, 6, seed), f64::INFINITY);
        for limit in limits.iter().cycle() {
            let flat = chunked.ask(Some(*limit));
            if flat.is_empty() {
                break;
            }
            prop_assert!(flat.len() <= limit * genotype.genes());
            let genomes = flat.chunks_exact(genotype.genes());
            let scores: Vec<f64> = genomes.map(|genome| score(&genotype, genome)).collect();
            chunked.tell(&scores).unwrap();
        }
        prop_assert_eq!(whole.evaluated(), chunked.evaluated());
        prop_assert_eq!(whole.front(), chunked.front());
        prop_assert_eq!(whole.history(), chunked.history());
    }

    #[test]
    fn children_are_canonical_whatever_their_parents(seed: u64) {
        let genotype = toy(3, &[1, 3, 5], &[1, 2, 9]);
        let mut search = search(&genotype, settings(30, 3, seed), f64::INFINITY);
        run(&mut search);
        let mut random = SplitMix64::new(seed, 99);
        let mut child = vec![0; genotype.genes()];
        for _ in 0..200 {
            search.offspring(&mut random, &mut child);
            prop_assert!(genotype.check(&child).is_ok(), "{child:?}");
        }
    }
}

#[test]
fn a_mutated_gene_is_another_choice() {
    let mut random = SplitMix64::new(0, 0);
    assert_eq!(mutated(0, 1, &mut random), 0);
    for choices in 2..7u8 {
        for value in 0..choices {
            let mut reached = vec![false; choices as usize];
            for _ in 0..300 {
                reached[mutated(value, choices, &mut random) as usize] = true;
            }
            let expected: Vec<bool> = (0..choices).map(|other| other != value).collect();
            assert_eq!(reached, expected);
        }
    }
}
