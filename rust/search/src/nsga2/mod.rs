//! NSGA-II over (modelled FPS, accuracy), as ask and tell.
//!
//! A search is a function of its settings, the space, the cost model and the given scores: no
//! clock, no global generator, no threads. Each generation samples from a generator keyed by seed
//! and generation, so resuming needs no generator state: a search that is given the scores of an
//! earlier one ([`Nsga2::add_known_scores`]) walks the same path through them.
//!
//! Depends on `genome`, `pareto`, `predictor`, `random`. Source: Deb et al. 2002;
//! `docs/search-core.md` lists the differences.

use std::sync::Arc;

use quasar_core::error::{Error, Result};

use super::genome::{GenomeSet, Genomes, Genotype};
use super::pareto::{self, Front, Point};
use super::predictor::Samples;
use super::random::SplitMix64;

/// Genomes of a generation, at most.
pub const MAX_POPULATION: usize = 100_000;
/// Evaluations of a search (population times generations), at most.
pub const MAX_EVALUATIONS: usize = 100_000_000;
/// Frame-rate targets, at most.
pub const MAX_TARGETS: usize = 64;
/// Candidates for each place of a generation that a predictor chooses from, at most.
pub const MAX_OVERSAMPLE: usize = 64;

/// Children with two parents; the others have one.
const CROSSOVER: f64 = 0.9;
/// Genes that mutate in a child, on average.
const MUTATIONS: f64 = 0.3;
/// Mutations of an ordered gene that go to a neighbouring choice; the others go to any other
/// choice.
const STEPS: f64 = 0.5;
/// Share of the generations, at the end, in which some children have parents near a target.
const REFINED: f64 = 0.5;
/// Share of the children of those generations that have such parents.
const TARGETED: f64 = 0.5;
/// Members of the front on either side of a target that are such parents.
const NEIGHBOURS: usize = 8;
/// Tries for each place of a generation, before random genomes fill it, and before it stays empty.
const TRIES: usize = 20;
/// Strength of the predictor that chooses among candidates.
const RIDGE: f64 = 1.0;

/// The modelled cost of a network on the hardware.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// Modelled frames per second.
    pub fps: f64,
    /// The excess over the available resources, in any unit that grows with it; 0 if the network
    /// fits.
    pub violation: f64,
}

/// Modelled costs of a space's networks, for one board and configuration.
pub trait CostModel {
    /// Returns the cost of a valid genome.
    fn cost(&self, genome: &[u8]) -> Cost;

    /// Returns the network of the highest FPS that fits, exactly, and its FPS.
    ///
    /// # Errors
    /// If none fits.
    fn fastest(&self) -> Result<(Vec<u8>, f64)>;
}

impl<T: CostModel> CostModel for Arc<T> {
    fn cost(&self, genome: &[u8]) -> Cost {
        T::cost(self, genome)
    }

    fn fastest(&self) -> Result<(Vec<u8>, f64)> {
        T::fastest(self)
    }
}

/// Settings of a search.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Genomes of a generation.
    pub population: usize,
    /// Generations, the first (which is not bred) included.
    pub generations: usize,
    /// Frame rates for which the most accurate network is wanted.
    pub targets: Vec<f64>,
    /// Seed of everything that is sampled.
    pub seed: u64,
    /// Candidates for each place of a generation; above 1, a predictor fitted on the evaluated
    /// networks chooses among them.
    pub oversample: usize,
}

impl Settings {
    fn check(&self) -> Result<()> {
        let invalid = |problem: String| Err(Error::InvalidValue(problem));
        if !(4..=MAX_POPULATION).contains(&self.population) {
            return invalid(format!(
                "population is {}; 4 to {MAX_POPULATION} are allowed",
                self.population
            ));
        }
        let most = MAX_EVALUATIONS / self.population;
        if !(1..=most).contains(&self.generations) {
            return invalid(format!(
                "generations is {}; with a population of {}, 1 to {most} are allowed",
                self.generations, self.population
            ));
        }
        if !(1..=MAX_OVERSAMPLE).contains(&self.oversample) {
            return invalid(format!(
                "oversample is {}; 1 to {MAX_OVERSAMPLE} are allowed",
                self.oversample
            ));
        }
        if self.targets.len() > MAX_TARGETS {
            return invalid(format!(
                "there are {} targets; at most {MAX_TARGETS} are allowed",
                self.targets.len()
            ));
        }
        match self.targets.iter().find(|t| !(**t > 0.0 && t.is_finite())) {
            Some(target) => invalid(format!(
                "a target is {target} FPS; targets are positive numbers"
            )),
            None => Ok(()),
        }
    }
}

/// An evaluated network.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Its canonical genome.
    pub genome: Vec<u8>,
    /// Its score.
    pub score: f64,
    /// Its modelled FPS.
    pub fps: f64,
    /// The excess over the resources; 0 if it fits.
    pub violation: f64,
}

/// The state of a search after a generation.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// Networks evaluated so far.
    pub evaluations: usize,
    /// Area that the front of all these networks dominates, above the slowest FPS and the lowest
    /// score of the first generation.
    pub hypervolume: f64,
    /// For each target, the best score so far at that FPS or more.
    pub best: Vec<Option<f64>>,
}

/// A member of the population: its number, its front and its crowding distance there.
#[derive(Clone, Copy, Debug)]
struct Member {
    id: u32,
    rank: u32,
    distance: f64,
}

/// A search.
#[derive(Clone, Debug)]
pub struct Nsga2<C> {
    genotype: Genotype,
    costs: C,
    settings: Settings,
    /// Every genome that was bred or whose score is known, in order of appearance.
    known: GenomeSet,
    /// Score of each known genome; NaN if it is not known yet.
    points: Vec<Point>,
    /// True for each known genome that was bred; the score of another one is known from elsewhere.
    bred: Vec<bool>,
    /// Networks of finished generations, in order.
    evaluated: Vec<u32>,
    population: Vec<Member>,
    /// The current generation's children.
    children: Vec<u32>,
    /// Children whose scores were asked for last.
    asked: Vec<u32>,
    generation: usize,
    front: Front,
    reference: (f64, f64),
    history: Vec<Generation>,
    /// All genomes of a space that is no larger than the budget, shuffled; all of them are
    /// evaluated.
    exhaustive: Option<Vec<u8>>,
    samples: Option<Samples>,
}

impl<C: CostModel> Nsga2<C> {
    /// Starts a search.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] for settings out of range; [`Error::Infeasible`] if a target is
    /// beyond the fastest network; the error of [`CostModel::fastest`] if nothing fits.
    pub fn new(genotype: Genotype, costs: C, settings: Settings) -> Result<Self> {
        settings.check()?;
        let (_, fastest) = costs.fastest()?;
        if let Some(target) = settings.targets.iter().copied().reduce(f64::max) {
            if target > fastest {
                return Err(Error::Infeasible(format!(
                    "no network of this space reaches {target} FPS on this hardware: the fastest one is modelled at {fastest:.1} FPS"
                )));
            }
        }
        let samples = if settings.oversample > 1 {
            Some(Samples::new(&genotype)?)
        } else {
            None
        };
        let budget = settings.population as u64 * settings.generations as u64;
        let exhaustive = (genotype.size() <= budget).then(|| shuffled(&genotype, settings.seed));
        Ok(Self {
            known: GenomeSet::new(genotype.genes()),
            genotype,
            costs,
            settings,
            points: Vec::new(),
            bred: Vec::new(),
            evaluated: Vec::new(),
            population: Vec::new(),
            children: Vec::new(),
            asked: Vec::new(),
            generation: 0,
            front: Front::default(),
            reference: (0.0, 0.0),
            history: Vec::new(),
            exhaustive,
            samples,
        })
    }

    /// Returns whether all generations are done.
    pub fn done(&self) -> bool {
        self.generation == self.settings.generations
    }

    /// Takes scores that are known from elsewhere (the same accuracy source); they are not asked
    /// for again.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] for lists of different lengths, a genome that is not canonical or
    /// not of this space, a score that is not finite or differs from the one known; nothing is
    /// taken then.
    pub fn add_known_scores(&mut self, genomes: Genomes<'_>, scores: &[f64]) -> Result<()> {
        check_scores(scores, genomes.len())?;
        for (genome, &score) in genomes.rows().zip(scores) {
            self.genotype.check(genome)?;
            let known = self.known.find(genome).map(|id| self.points[id as usize]);
            if known.is_some_and(|point| !point.score.is_nan() && point.score != score) {
                return Err(Error::InvalidValue(
                    "a genome with a known score has another score already".into(),
                ));
            }
        }
        for (genome, &score) in genomes.rows().zip(scores) {
            let (id, _) = self.intern(genome);
            self.points[id as usize].score = score;
        }
        // The scores that were asked for may be known now.
        self.asked.clear();
        Ok(())
    }

    /// Returns the canonical genomes whose scores are needed next: the rest of the current
    /// generation, at most `limit` genomes. Empty when the search is done. Without a call of
    /// [`Self::tell`] the next call returns the same.
    pub fn ask(&mut self, limit: Option<usize>) -> Vec<u8> {
        loop {
            if self.done() {
                return Vec::new();
            }
            if self.children.is_empty() {
                self.breed();
            }
            let limit = limit.unwrap_or(usize::MAX).max(1);
            self.asked.clear();
            self.asked.extend(
                self.children
                    .iter()
                    .filter(|&&id| self.points[id as usize].score.is_nan())
                    .take(limit),
            );
            if self.asked.is_empty() {
                self.advance();
                continue;
            }
            let mut flat = Vec::with_capacity(self.asked.len() * self.genotype.genes());
            for &id in &self.asked {
                flat.extend_from_slice(self.known.get(id));
            }
            return flat;
        }
    }

    /// Takes the scores of the genomes that [`Self::ask`] returned last, in their order.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] if nothing was asked, the number differs, or a score is not finite;
    /// nothing is taken then.
    pub fn tell(&mut self, scores: &[f64]) -> Result<()> {
        if self.asked.is_empty() {
            return Err(Error::InvalidValue(
                "no scores were asked for; call ask first".into(),
            ));
        }
        check_scores(scores, self.asked.len())?;
        for (id, &score) in self.asked.drain(..).zip(scores) {
            self.points[id as usize].score = score;
        }
        if self
            .children
            .iter()
            .all(|&id| !self.points[id as usize].score.is_nan())
        {
            self.advance();
        }
        Ok(())
    }

    /// Runs to the end; `score` writes the scores of the genomes that it is given.
    ///
    /// # Errors
    /// Those of `score` and of [`Self::tell`].
    pub fn run_with(
        &mut self,
        mut score: impl FnMut(Genomes<'_>, &mut [f64]) -> Result<()>,
    ) -> Result<()> {
        let mut scores = Vec::new();
        loop {
            let flat = self.ask(None);
            if flat.is_empty() {
                return Ok(());
            }
            scores.clear();
            scores.resize(self.asked.len(), f64::NAN);
            score(Genomes::new(&flat, self.genotype.genes())?, &mut scores)?;
            self.tell(&scores)?;
        }
    }

    /// Returns the non-dominated networks of all that were evaluated, by rising FPS; of equal ones
    /// the first.
    pub fn front(&self) -> Vec<Candidate> {
        self.front
            .entries()
            .iter()
            .map(|entry| self.candidate(entry.2))
            .collect()
    }

    /// Returns the network of highest score with at least this FPS, of all that were evaluated and
    /// fit; of equal scores the fastest.
    pub fn best(&self, fps: f64) -> Option<Candidate> {
        self.front.best(fps).map(|entry| self.candidate(entry.2))
    }

    /// Returns the current population, best front first.
    pub fn population(&self) -> Vec<Candidate> {
        self.population
            .iter()
            .map(|member| self.candidate(member.id))
            .collect()
    }

    /// Returns all networks of finished generations, in order of evaluation.
    pub fn evaluated(&self) -> Vec<Candidate> {
        self.evaluated
            .iter()
            .map(|&id| self.candidate(id))
            .collect()
    }

    /// Returns one entry for each finished generation.
    pub fn history(&self) -> &[Generation] {
        &self.history
    }

    fn candidate(&self, id: u32) -> Candidate {
        let point = &self.points[id as usize];
        Candidate {
            genome: self.known.get(id).to_vec(),
            score: point.score,
            fps: point.fps,
            violation: point.violation,
        }
    }

    /// Returns the genome's number and whether it is new.
    fn intern(&mut self, genome: &[u8]) -> (u32, bool) {
        let (id, new) = self.known.insert(genome);
        if new {
            let Cost { fps, violation } = self.costs.cost(genome);
            self.points.push(Point {
                fps,
                score: f64::NAN,
                violation,
            });
            self.bred.push(false);
        }
        (id, new)
    }

    fn is_bred(&self, genome: &[u8]) -> bool {
        self.known
            .find(genome)
            .is_some_and(|id| self.bred[id as usize])
    }

    /// Adds a child unless it was bred before.
    fn add_child(&mut self, genome: &[u8]) -> bool {
        let (id, _) = self.intern(genome);
        let new = !std::mem::replace(&mut self.bred[id as usize], true);
        if new {
            self.children.push(id);
        }
        new
    }

    /// Makes the current generation's children: up to `population` canonical genomes that were
    /// never bred before. There can be fewer, or none, when the space is all but exhausted.
    fn breed(&mut self) {
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
            self.found(&mut random);
        } else if self.settings.oversample > 1 {
            self.breed_chosen(&mut random);
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
            self.draw(&mut random, &mut genome);
            self.add_child(&genome);
        }
    }

    /// Makes the first generation: the four corners of size and width (the smallest and the largest
    /// network, each with the fewest and the most 8-bit rows) and, where a target asks for more
    /// than they reach, the fastest network; then shares of the way between them, spread evenly
    /// over both (Hammersley's points), each gene's share rounded at random. So the sums that FPS
    /// and accuracy follow are spread evenly, which the sums of evenly sampled genes are not.
    fn found(&mut self, random: &mut SplitMix64) {
        let places = self.settings.population;
        let mut genome = vec![0; self.genotype.genes()];
        for (size, width) in [(0.0, 0.0), (1.0, 1.0), (1.0, 0.0), (0.0, 1.0)] {
            mix(&self.genotype, size, width, || 0.0, &mut genome);
            self.add_child(&genome);
        }
        // The smallest network need not be the fastest. A target between the two must not depend on
        // chance.
        let corners = self.children.iter().map(|&id| self.points[id as usize]);
        let reached = corners
            .filter(|point| point.violation == 0.0)
            .fold(0.0, |fps: f64, point| fps.max(point.fps));
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

    /// Chooses a generation from more candidates: the first ones by rank and crowding under
    /// predicted scores.
    fn breed_chosen(&mut self, random: &mut SplitMix64) {
        let samples = self.samples.as_ref().expect("made with oversample");
        let predictor = samples.fit(RIDGE).expect("a generation was evaluated");
        let mut child = vec![0; self.genotype.genes()];
        let mut candidates = GenomeSet::new(self.genotype.genes());
        let mut points = Vec::new();
        let wanted = self.settings.population * self.settings.oversample;
        for _ in 0..TRIES * wanted {
            if candidates.len() == wanted {
                break;
            }
            self.offspring(random, &mut child);
            if !self.is_bred(&child) && candidates.insert(&child).1 {
                let Cost { fps, violation } = self.costs.cost(&child);
                points.push(Point {
                    fps,
                    score: predictor.predict(&self.genotype, &child),
                    violation,
                });
            }
        }
        for member in survivors(&points, self.settings.population) {
            self.add_child(candidates.get(member.id));
        }
    }

    /// Samples a genome evenly.
    fn draw(&self, random: &mut SplitMix64, genome: &mut [u8]) {
        for (gene, &choices) in genome.iter_mut().zip(self.genotype.choices()) {
            *gene = random.below(choices as usize) as u8;
        }
        self.genotype.canonicalize(genome);
    }

    /// Samples two members and returns the better one: by front, then by crowding.
    fn parent(&self, random: &mut SplitMix64) -> u32 {
        let mut draw = || self.population[random.below(self.population.len())];
        let (a, b) = (draw(), draw());
        if (b.rank, -b.distance) < (a.rank, -a.distance) {
            b.id
        } else {
            a.id
        }
    }

    /// Samples a target and returns the front's members around it, in the last generations and for
    /// a share of the children; otherwise none.
    ///
    /// The front is spread over all frame rates, but the targets are at a few of them. This moves
    /// part of the budget there.
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
        let front = self.front.entries();
        let at = front.partition_point(|entry| entry.0 < target);
        &front[at.saturating_sub(NEIGHBOURS)..(at + NEIGHBOURS).min(front.len())]
    }

    /// Makes a canonical child of one or two parents.
    ///
    /// Uniform crossover, then mutation gene by gene. A gene that only one parent uses comes from
    /// that one; one that neither uses (of a block that a mutated depth adds) is sampled evenly.
    fn offspring(&self, random: &mut SplitMix64, child: &mut [u8]) {
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
        let shared = used_a.min(used_b);
        let rate = (MUTATIONS / used_a as f64 * 65536.0) as u64;
        // Sixteen bits a gene decide on mutation, one on the parent.
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
            // Four genes at once where both parents use them and none mutates, as is the case
            // nearly always.
            if gene % 4 == 0 && gene + 4 <= shared.min(used) && none_below(chances, rate) {
                let four = |genome: &[u8]| {
                    u32::from_le_bytes([
                        genome[gene],
                        genome[gene + 1],
                        genome[gene + 2],
                        genome[gene + 3],
                    ])
                };
                let (from_a, from_b) = (four(a), four(b));
                let genes = from_b ^ ((from_a ^ from_b) & spread(sides));
                child[gene..gene + 4].copy_from_slice(&genes.to_le_bytes());
                sides >>= 4;
                gene += 4;
                continue;
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

    /// Ranks the children with the population, keeps the best, and notes the generation.
    fn advance(&mut self) {
        for &id in &self.children {
            let point = &self.points[id as usize];
            self.front.add(point, id);
            if let Some(samples) = &mut self.samples {
                samples.add(&self.genotype, self.known.get(id), point.score);
            }
        }
        if self.generation == 0 {
            let least = |value: fn(&Point) -> f64| {
                let values = self.children.iter().map(|&id| &self.points[id as usize]);
                values.map(value).fold(f64::INFINITY, f64::min)
            };
            self.reference = (least(|p| p.fps), least(|p| p.score));
        }
        let ids: Vec<u32> = self
            .population
            .iter()
            .map(|member| member.id)
            .chain(self.children.iter().copied())
            .collect();
        let points: Vec<Point> = ids.iter().map(|&id| self.points[id as usize]).collect();
        self.population = survivors(&points, self.settings.population);
        for member in &mut self.population {
            member.id = ids[member.id as usize];
        }
        self.evaluated.append(&mut self.children);
        self.generation += 1;
        self.history.push(Generation {
            evaluations: self.evaluated.len(),
            hypervolume: self.front.hypervolume(self.reference),
            best: self
                .settings
                .targets
                .iter()
                .map(|&target| self.front.best(target).map(|entry| entry.1))
                .collect(),
        });
    }
}

/// Returns the places of the `keep` best points, with rank and crowding: whole fronts while they
/// fit, and a thinned-out part of the next one.
fn survivors(points: &[Point], keep: usize) -> Vec<Member> {
    let mut members = Vec::with_capacity(keep);
    for (rank, front) in pareto::fronts(points).into_iter().enumerate() {
        if members.len() == keep {
            break;
        }
        let front = pareto::thin(points, &front, keep - members.len());
        let distances = pareto::crowding(points, &front);
        members.extend(
            front
                .iter()
                .zip(distances)
                .map(|(&place, distance)| Member {
                    id: place as u32,
                    rank: rank as u32,
                    distance,
                }),
        );
    }
    members
}

/// Returns a canonical genome at shares of the way from the lowest choices to the highest, one of
/// the sizes and one of the widths; `round` in [0, 1) decides gene by gene between the two choices
/// next to the share (0: the lower one).
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

/// Mirrors the binary digits of `n` at the point: in [0, 1), and evenly spread for any run of `n`
/// (van der Corput).
fn radical_inverse(n: u64) -> f64 {
    (n.reverse_bits() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

/// Returns whether none of the four 16-bit numbers in `chances` is below `rate`.
fn none_below(chances: u64, rate: u64) -> bool {
    [0, 16, 32, 48].map(|shift| (chances >> shift) & 0xffff >= rate) == [true; 4]
}

/// Returns the four lowest bits as bytes of all ones or zeros, the lowest bit's first.
fn spread(bits: u64) -> u32 {
    // The products of one bit each do not overlap: bit i comes to stand at 8 i.
    (((bits as u32 & 15) * 0x0020_4081) & 0x0101_0101) * 0xff
}

/// Samples another choice than `value`, if there is one.
fn mutated(value: u8, choices: u8, random: &mut SplitMix64) -> u8 {
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

/// Returns all genomes of a small space in random order, but the smallest and the largest first.
fn shuffled(genotype: &Genotype, seed: u64) -> Vec<u8> {
    let all = genotype.all();
    let mut genomes: Vec<&[u8]> = all.chunks_exact(genotype.genes()).collect();
    SplitMix64::new(seed, 0).shuffle(&mut genomes);
    let largest: Vec<u8> = genotype.choices().iter().map(|c| c - 1).collect();
    genomes.sort_by_key(|genome| **genome != vec![0; genotype.genes()] && **genome != largest);
    genomes.concat()
}

fn check_scores(scores: &[f64], expected: usize) -> Result<()> {
    if scores.len() != expected {
        return Err(Error::InvalidValue(format!(
            "{} scores were given for {expected} genomes",
            scores.len()
        )));
    }
    match scores.iter().position(|score| !score.is_finite()) {
        Some(at) => Err(Error::InvalidValue(format!(
            "the score of genome {at} is {}; scores are finite numbers",
            scores[at]
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::genome::tests::toy;
    use super::*;
    use proptest::prelude::*;

    /// A cost model for tests: 1e6 over the sum of the costs of all choices.
    #[derive(Clone, Debug)]
    struct Double {
        genotype: Genotype,
        /// Networks whose sum exceeds it do not fit.
        room: f64,
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
        fn cost(&self, genome: &[u8]) -> Cost {
            let sum = self.sum(genome);
            Cost {
                fps: 1e6 / sum,
                violation: (sum - self.room).max(0.0),
            }
        }

        fn fastest(&self) -> Result<(Vec<u8>, f64)> {
            let smallest = vec![0; self.genotype.genes()];
            if self.sum(&smallest) > self.room {
                return Err(Error::Infeasible("nothing fits".into()));
            }
            let fps = 1e6 / self.sum(&smallest);
            Ok((smallest, fps))
        }
    }

    /// A score with diminishing returns and an interaction, so that fronts are curved.
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
            oversample: 1,
        }
    }

    fn deep() -> Genotype {
        toy(3, &[6, 7, 8], &[2, 2, 5])
    }

    fn search(genotype: &Genotype, settings: Settings, room: f64) -> Nsga2<Double> {
        let costs = Double {
            genotype: genotype.clone(),
            room,
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
    fn no_genome_is_asked_for_twice_and_all_are_canonical() {
        let genotype = deep();
        let mut search = search(&genotype, settings(40, 30, 1), f64::INFINITY);
        let mut seen = GenomeSet::new(genotype.genes());
        search
            .run_with(|genomes, scores| {
                assert!(genomes.len() <= 40);
                for (genome, value) in genomes.rows().zip(scores) {
                    genotype.check(genome).unwrap();
                    assert!(seen.insert(genome).1, "{genome:?} was asked for twice");
                    *value = score(&genotype, genome);
                }
                Ok(())
            })
            .unwrap();
        assert_eq!(seen.len(), 40 * 30);
        assert_eq!(search.evaluated().len(), 40 * 30);
        assert_eq!(search.population().len(), 40);
        assert!(search.done() && search.ask(None).is_empty());
        assert_eq!(search.history().len(), 30);
        assert!(search
            .history()
            .windows(2)
            .all(|h| h[0].hypervolume <= h[1].hypervolume));
    }

    #[test]
    fn the_same_seed_gives_the_same_search_and_another_seed_another() {
        let genotype = deep();
        let run_seed = |seed| {
            let mut search = search(&genotype, settings(30, 15, seed), f64::INFINITY);
            run(&mut search);
            search
        };
        let (first, again, other) = (run_seed(7), run_seed(7), run_seed(8));
        assert_eq!(first.evaluated(), again.evaluated());
        assert_eq!(first.front(), again.front());
        assert_ne!(first.front(), other.front());
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
    fn a_small_space_is_evaluated_one_and_all() {
        let genotype = toy(2, &[1, 2], &[2, 3]);
        for (population, generations) in [(200, 100), (10, 9), (4, 21)] {
            let mut search = search(
                &genotype,
                settings(population, generations, 0),
                f64::INFINITY,
            );
            run(&mut search);
            let evaluated = search.evaluated();
            assert_eq!(evaluated.len(), 84);
            let points: Vec<Point> = evaluated
                .iter()
                .map(|c| Point {
                    fps: c.fps,
                    score: c.score,
                    violation: 0.0,
                })
                .collect();
            for candidate in search.front() {
                let point = Point {
                    fps: candidate.fps,
                    score: candidate.score,
                    violation: 0.0,
                };
                assert!(!points.iter().any(|p| p.dominates(&point)));
            }
        }
    }

    #[test]
    fn a_space_barely_larger_than_the_budget_ends() {
        let genotype = toy(2, &[1, 2], &[2, 3]);
        let mut search = search(&genotype, settings(83, 1, 0), f64::INFINITY);
        run(&mut search);
        assert!(search.evaluated().len() >= 60);
        // One generation of few genomes, with a budget that is not reached because nearly all of
        // them were bred.
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
        let reference = exact.reference;
        let full = exact.front.hypervolume(reference);
        for seed in 0..5 {
            let mut search = search(&genotype, settings(50, 40, seed), f64::INFINITY);
            run(&mut search);
            assert!(search.evaluated.len() * 10 < budget, "{budget}");
            let found = search.front.hypervolume(reference);
            assert!(found > 0.995 * full, "seed {seed}: {}", found / full);
        }
    }

    #[test]
    fn what_does_not_fit_is_neither_on_the_front_nor_best() {
        let genotype = deep();
        let room = 1000.0;
        let mut search = search(&genotype, settings(40, 20, 1), room);
        run(&mut search);
        assert!(search.evaluated().iter().any(|c| c.violation > 0.0));
        assert!(search.front().iter().all(|c| c.violation == 0.0));
        assert!(search.population().iter().all(|c| c.violation == 0.0));
        assert_eq!(search.best(1.0).unwrap().violation, 0.0);
        let slowest = search.front()[0].fps;
        assert!(slowest >= 1e6 / room && slowest < 1.2e6 / room, "{slowest}");
    }

    #[test]
    fn targets_beyond_the_fastest_network_name_it() {
        let genotype = deep();
        let costs = |room| Double {
            genotype: genotype.clone(),
            room,
        };
        let (_, fastest) = costs(f64::INFINITY).fastest().unwrap();
        let mut wanted = settings(10, 1, 0);
        wanted.targets = vec![1.0, fastest];
        assert!(Nsga2::new(genotype.clone(), costs(f64::INFINITY), wanted.clone()).is_ok());
        wanted.targets = vec![1.0, fastest * 1.01];
        let error = Nsga2::new(genotype.clone(), costs(f64::INFINITY), wanted.clone()).unwrap_err();
        assert_eq!(error.kind(), "Infeasible");
        assert!(error.to_string().contains(&format!("{fastest:.1} FPS")));
        let error = Nsga2::new(genotype.clone(), costs(10.0), wanted).unwrap_err();
        assert_eq!(error.kind(), "Infeasible");
    }

    #[test]
    fn each_target_gets_the_best_network_at_its_rate() {
        let genotype = deep();
        let mut wanted = settings(50, 40, 2);
        wanted.targets = vec![500.0, 1000.0, 2000.0];
        let mut search = search(&genotype, wanted.clone(), f64::INFINITY);
        run(&mut search);
        for (target, best) in wanted.targets.iter().zip(&search.history()[39].best) {
            let found = search.best(*target).unwrap();
            assert!(found.fps >= *target);
            assert_eq!(Some(found.score), *best);
            let evaluated = search.evaluated();
            let fast_enough = evaluated.iter().filter(|c| c.fps >= *target);
            assert_eq!(
                fast_enough.map(|c| c.score).fold(f64::MIN, f64::max),
                found.score
            );
        }
        assert!(search.best(1e9).is_none());
    }

    #[test]
    fn scores_that_cannot_be_are_refused_and_nothing_is_taken() {
        let genotype = deep();
        let mut search = search(&genotype, settings(10, 2, 0), f64::INFINITY);
        assert!(search.tell(&[]).is_err());
        let asked = search.ask(None);
        assert_eq!(asked.len(), 10 * genotype.genes());
        for scores in [
            vec![1.0; 9],
            vec![1.0; 11],
            vec![f64::NAN; 10],
            vec![f64::INFINITY; 10],
        ] {
            assert_eq!(search.tell(&scores).unwrap_err().kind(), "InvalidValue");
            assert_eq!(search.ask(None), asked);
        }
        search.tell(&[1.0; 10]).unwrap();
        assert!(search.tell(&[1.0; 10]).is_err());
        assert_ne!(search.ask(None), asked);
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        let genotype = deep();
        let bad: [fn(&mut Settings); 7] = [
            |s| s.population = 3,
            |s| s.population = MAX_POPULATION + 1,
            |s| s.generations = 0,
            |s| s.generations = usize::MAX,
            |s| s.oversample = 0,
            |s| s.targets = vec![f64::NAN],
            |s| s.targets = vec![1.0; MAX_TARGETS + 1],
        ];
        for change in bad {
            let mut wanted = settings(10, 10, 0);
            change(&mut wanted);
            let costs = Double {
                genotype: genotype.clone(),
                room: f64::INFINITY,
            };
            let error = Nsga2::new(genotype.clone(), costs, wanted).unwrap_err();
            assert_eq!(error.kind(), "InvalidValue");
        }
    }

    #[test]
    fn a_predictor_that_chooses_candidates_finds_more_with_few_evaluations() {
        let genotype = deep();
        let covered = |oversample, seed| {
            let mut wanted = settings(20, 10, seed);
            wanted.oversample = oversample;
            let mut search = search(&genotype, wanted, f64::INFINITY);
            run(&mut search);
            assert_eq!(search.evaluated.len(), 200);
            search.front.hypervolume((400.0, 0.0))
        };
        let better = (0..9).filter(|&s| covered(8, s) > covered(1, s)).count();
        assert!(better >= 8, "{better} of 9 seeds");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn any_chunks_give_the_same_search(limits in proptest::collection::vec(1usize..30, 1..20), seed: u64) {
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
                let scores: Vec<f64> = flat.chunks_exact(genotype.genes()).map(|g| score(&genotype, g)).collect();
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

    proptest! {
        #[test]
        fn four_genes_at_once_are_told_apart(chances in any::<u64>(), rate in 0u64..65536, bits in any::<u64>()) {
            let lanes: Vec<u64> = (0..4).map(|k| chances >> (16 * k) & 0xffff).collect();
            prop_assert_eq!(none_below(chances, rate), lanes.iter().all(|&lane| lane >= rate));
            let bytes: Vec<u8> = (0..4).map(|k| if bits >> k & 1 == 1 { 255 } else { 0 }).collect();
            prop_assert_eq!(spread(bits).to_le_bytes().to_vec(), bytes);
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
}
