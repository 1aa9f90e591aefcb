//! Breeds the children of a generation: the first generation, crossover, mutation, and the choice
//! of parents. Depends on the parent module, `genome` and `random`.

use super::{CostModel, Nsga2, Settings};
use crate::genome::Genotype;
use crate::random::SplitMix64;

/// Share of the children that have two parents; the others have one.
const CROSSOVER: f64 = 0.9;
/// Mean number of genes that mutate in a child.
const MUTATIONS: f64 = 0.3;
/// Share of the mutations that go to a neighbouring choice; the others go to any other choice.
const STEPS: f64 = 0.5;
/// Share of the generations, at the end, in which some children have their parents around a target.
const REFINED: f64 = 0.5;
/// Share of the children of those generations that have such parents.
const TARGETED: f64 = 0.5;
/// Number of members of the front on either side of a target that are such parents.
const NEIGHBOURS: usize = 8;
/// Tries for each place of a generation before random genomes fill it, and again before it stays
/// empty.
const TRIES: usize = 20;

impl<C: CostModel> Nsga2<C> {
    /// Makes the current generation's children: up to `population` canonical genomes that were
    /// never bred before. There are fewer, or none, when the space is nearly exhausted.
    pub(super) fn breed(&mut self) {
        let genes = self.genotype.genes();
        if let Some(all) = self.exhaustive.take() {
            let size = self.settings.population * genes;
            let start = (self.generation * size).min(all.len());
            for genome in all[start..(start + size).min(all.len())].chunks_exact(genes) {
                self.add_child(genome);
            }
            self.exhaustive = Some(all);
            return;
        }
        let mut random = SplitMix64::new(self.settings.seed, self.generation as u64);
        if self.generation == 0 {
            self.first_generation(&mut random);
        } else if self.guide.is_some() {
            self.breed_guided(&mut random);
        } else {
            let mut child = vec![0; genes];
            for _ in 0..TRIES * self.settings.population {
                if self.children.len() == self.settings.population {
                    break;
                }
                self.offspring(&mut random, &mut child);
                self.add_child(&child);
            }
        }
        let mut genome = vec![0; genes];
        for _ in 0..TRIES * self.settings.population {
            if self.children.len() == self.settings.population {
                break;
            }
            self.sample(&mut random, &mut genome);
            self.add_child(&genome);
        }
    }

    /// Makes the first generation. It has the four corners of size and width: the smallest and the
    /// largest network, each with the fewest and the most 8-bit rows. If a target asks for more FPS
    /// than the corners reach, it has the fastest network too. The other networks lie between the
    /// corners, spread evenly over size and width (Hammersley's points); the share of each gene is
    /// rounded at random. FPS and accuracy follow the sums of genes, and sums of uniformly sampled
    /// genes would crowd around their mean.
    fn first_generation(&mut self, random: &mut SplitMix64) {
        let places = self.settings.population;
        let mut genome = vec![0; self.genotype.genes()];
        for (size, width) in [(0.0, 0.0), (1.0, 1.0), (1.0, 0.0), (0.0, 1.0)] {
            mix(&self.genotype, size, width, || 0.0, &mut genome);
            self.add_child(&genome);
        }
        // The fastest network need not be the smallest. A target between the two must not depend on
        // luck.
        let corners = self.children.iter().map(|&id| self.points[id as usize]);
        let reached = corners
            .filter(|point| point.violation == 0.0)
            .fold(0.0, |fps: f64, point| fps.max(point.rate));
        if self.settings.targets.iter().any(|&target| target > reached) {
            if let Ok((fastest, _)) = self.costs.fastest() {
                self.add_child(&fastest);
            }
        }
        for place in 0..places.saturating_sub(self.children.len()) {
            let size = (place as f64 + 0.5) / places as f64;
            let width = radical_inverse(place as u64);
            mix(&self.genotype, size, width, || random.unit(), &mut genome);
            self.add_child(&genome);
        }
    }

    /// Samples each gene uniformly.
    fn sample(&self, random: &mut SplitMix64, genome: &mut [u8]) {
        for (gene, &choices) in genome.iter_mut().zip(self.genotype.choices()) {
            *gene = random.below(choices as usize) as u8;
        }
        self.genotype.canonicalize(genome);
    }

    /// Samples two members and returns the better: by front, then by crowding distance.
    fn parent(&self, random: &mut SplitMix64) -> u32 {
        let mut sample = || self.population[random.below(self.population.len())];
        let (a, b) = (sample(), sample());
        if (b.rank, -b.distance) < (a.rank, -a.distance) {
            b.id
        } else {
            a.id
        }
    }

    /// Samples a target and returns the members of the front around it, in the last generations and
    /// for a share of the children. Otherwise returns none.
    ///
    /// The front covers all frame rates, but the targets need only a few of them. This moves a part
    /// of the budget there.
    fn near_target(&self, random: &mut SplitMix64) -> &[(f64, f64, u32)] {
        let Settings {
            targets,
            generations,
            ..
        } = &self.settings;
        if targets.is_empty() || (self.generation as f64) < (1.0 - REFINED) * *generations as f64 {
            return &[];
        }
        if random.unit() >= TARGETED {
            return &[];
        }
        let target = targets[random.below(targets.len())];
        let front = self.aims[0].front.entries();
        let at = front.partition_point(|entry| entry.0 < target);
        &front[at.saturating_sub(NEIGHBOURS)..(at + NEIGHBOURS).min(front.len())]
    }

    /// Breeds a canonical child of one or two parents.
    ///
    /// The child gets a uniform crossover, then each gene may mutate. A gene that only one parent
    /// uses comes from that parent. A gene that neither uses (of a block that a mutated depth adds)
    /// is sampled uniformly.
    pub(super) fn offspring(&self, random: &mut SplitMix64, child: &mut [u8]) {
        let near = self.near_target(random);
        let parent = |random: &mut SplitMix64| {
            let id = if near.is_empty() {
                self.parent(random)
            } else {
                near[random.below(near.len())].2
            };
            self.known.get(id)
        };
        let a = parent(random);
        let b = if random.unit() < CROSSOVER {
            parent(random)
        } else {
            a
        };
        let choices = self.genotype.choices();
        let (used_a, used_b) = (self.genotype.used(a), self.genotype.used(b));
        let rate = (MUTATIONS / used_a as f64 * 65536.0) as u64;
        // Sixteen random bits of each gene decide on its mutation, one bit on its parent.
        let (mut chances, mut sides) = (0, 0);
        let mut used = 2;
        let mut gene = 0;
        while gene < used {
            if gene % 4 == 0 {
                chances = random.bits();
            }
            if gene % 64 == 0 {
                sides = random.bits();
            }
            let from_a = (sides & 1 == 1 || gene >= used_b) && gene < used_a;
            let value = if from_a {
                a[gene]
            } else if gene < used_b {
                b[gene]
            } else {
                random.below(choices[gene] as usize) as u8
            };
            child[gene] = if chances & 0xffff < rate {
                mutated(value, choices[gene], random)
            } else {
                value
            };
            chances >>= 16;
            sides >>= 1;
            gene += 1;
            if gene == 2 {
                used = self.genotype.used(child);
            }
        }
        child[used..].fill(0);
    }
}

/// Writes a canonical genome at shares of the way from the lowest choices to the highest: `size`
/// for the sizes, `width` for the 8-bit rows. `round` in [0, 1) rounds each gene to one of the two
/// choices next to the share; 0 rounds down.
fn mix(
    genotype: &Genotype,
    size: f64,
    width: f64,
    mut round: impl FnMut() -> f64,
    genome: &mut [u8],
) {
    for (gene, (value, &choices)) in genome.iter_mut().zip(genotype.choices()).enumerate() {
        let share = if genotype.is_width(gene) { width } else { size };
        *value = (share * f64::from(choices - 1) + round()) as u8;
    }
    genotype.canonicalize(genome);
}

/// Mirrors the binary digits of `n` at the point. The result is in [0, 1), and any run of `n` is
/// spread evenly (van der Corput).
fn radical_inverse(n: u64) -> f64 {
    (n.reverse_bits() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

/// Returns another choice than `value`, if there is one.
pub(super) fn mutated(value: u8, choices: u8, random: &mut SplitMix64) -> u8 {
    if choices == 1 {
        return value;
    }
    if random.unit() < STEPS {
        let up = random.bits() & 1 == 1;
        return match (up, value) {
            (_, 0) => 1,
            (true, v) if v + 1 < choices => v + 1,
            (_, v) => v - 1,
        };
    }
    let other = random.below(choices as usize - 1) as u8;
    other + u8::from(other >= value)
}

/// Returns all genomes of a small space in random order, except that the smallest and the largest
/// come first.
pub(super) fn shuffled(genotype: &Genotype, seed: u64) -> Vec<u8> {
    let all = genotype.all();
    let mut genomes: Vec<&[u8]> = all.chunks_exact(genotype.genes()).collect();
    SplitMix64::new(seed, 0).shuffle(&mut genomes);
    let largest: Vec<u8> = genotype.choices().iter().map(|c| c - 1).collect();
    genomes.sort_by_key(|genome| **genome != vec![0; genotype.genes()] && **genome != largest);
    genomes.concat()
}
