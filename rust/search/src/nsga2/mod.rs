//! NSGA-II over (modelled FPS, accuracy), as ask and tell.
//!
//! Latency or energy may be further objectives. Each is weighed against the score alone, so there
//! are several fronts of two objectives, and the places of a generation and of the population are
//! shared out among them.
//!
//! A search is a function of its settings, the space, the cost model and the scores that it gets.
//! It has no clock, no global generator and no threads. Each generation has a random generator of
//! its own, keyed by seed and generation. So a new search that gets the scores of an earlier one
//! ([`Nsga2::add_known_scores`]) breeds the same genomes: it resumes without any other state.
//!
//! `variation` breeds the children of a generation. Depends on `genome`, `pareto`,
//! `random`. Source: Deb et al. 2002; `docs/search-core.md` lists the differences.

mod proposals;
#[cfg(test)]
mod tests;
mod variation;

use std::sync::Arc;

use quasar_core::error::{Error, Result};

use crate::additive::{BestFront, CostShares, Objective};
use crate::genome::{GenomeSet, Genomes, Genotype};
use crate::pareto::{self, Point};
pub use proposals::GuideReport;
use proposals::{Aim, Guide};

/// Genomes of a generation, at most.
pub const MAX_POPULATION: usize = 100_000;
/// Evaluations of a search (population times generations), at most.
pub const MAX_EVALUATIONS: usize = 100_000_000;
/// Frame-rate targets, at most.
pub const MAX_TARGETS: usize = 64;

/// The cost of a network on the hardware.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// The rate by an objective, such as modelled frames per second: the higher the better.
    pub rate: f64,
    /// Excess over the available resources, in any unit that grows with it; 0 if the network fits.
    pub violation: f64,
}

/// Modelled costs of a space's networks, for one board and configuration.
pub trait CostModel {
    /// Returns the cost of a valid genome by an objective. Whether a network fits does not depend
    /// on the objective.
    fn cost(&self, genome: &[u8], objective: Objective) -> Cost;

    /// Checks that the costs of an objective are known.
    ///
    /// # Errors
    /// If they are not.
    fn check(&self, _objective: Objective) -> Result<()> {
        Ok(())
    }

    /// Returns the network of the highest FPS that fits, exactly, and its FPS.
    ///
    /// # Errors
    /// If none fits.
    fn fastest(&self) -> Result<(Vec<u8>, f64)>;

    /// Returns the shares of the parts of a network, if its cost adds up: for each of several
    /// configurations, of which a network has the one that suits it best.
    fn shares(&self, _objective: Objective) -> Vec<CostShares> {
        Vec::new()
    }
}

impl<T: CostModel> CostModel for Arc<T> {
    fn cost(&self, genome: &[u8], objective: Objective) -> Cost {
        T::cost(self, genome, objective)
    }

    fn check(&self, objective: Objective) -> Result<()> {
        T::check(self, objective)
    }

    fn fastest(&self) -> Result<(Vec<u8>, f64)> {
        T::fastest(self)
    }

    fn shares(&self, objective: Objective) -> Vec<CostShares> {
        T::shares(self, objective)
    }
}

/// The choice of the networks after the first generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// By a smooth model of the scores so far ([`crate::surface`]): networks of the model's best
    /// front and variations of the front found so far, those that promise most.
    Guided,
    /// By crossover and mutation alone (NSGA-II).
    Evolution,
}

/// The settings of a search.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Genomes of a generation.
    pub population: usize,
    /// Generations, the first (which is not bred) included.
    pub generations: usize,
    /// Frame rates for which the most accurate network is wanted.
    pub targets: Vec<f64>,
    /// Seed of everything random.
    pub seed: u64,
    /// The choice of networks.
    pub strategy: Strategy,
    /// Objectives besides [`Objective::Period`], each once.
    pub objectives: Vec<Objective>,
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
        if self.targets.len() > MAX_TARGETS {
            return invalid(format!(
                "there are {} targets; at most {MAX_TARGETS} are allowed",
                self.targets.len()
            ));
        }
        for (place, objective) in self.objectives.iter().enumerate() {
            if *objective == Objective::Period || self.objectives[..place].contains(objective) {
                return invalid(format!(
                    "the objective {:?} is named twice; {:?} is always one",
                    objective.name(),
                    Objective::Period.name()
                ));
            }
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
    /// The score that it was given.
    pub score: f64,
    /// Its modelled FPS.
    pub fps: f64,
    /// Its excess over the resources; 0 if it fits.
    pub violation: f64,
}

/// The state of a search after a generation.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// Networks evaluated so far.
    pub evaluations: usize,
    /// Area that the front of all of them dominates, above the slowest FPS and the lowest score of
    /// the first generation.
    pub hypervolume: f64,
    /// For each target, the best score so far at that FPS or more.
    pub best: Vec<Option<f64>>,
}

/// A member of the population: its number, its front, and its crowding distance there.
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
    /// The FPS, score and violation of each known genome; a score that is not known yet is NaN.
    points: Vec<Point>,
    /// The rates of each known genome by the objectives besides FPS.
    rates: Vec<f64>,
    /// For each known genome, true if it was bred. A genome with a score from elsewhere need not
    /// be.
    bred: Vec<bool>,
    /// Networks of finished generations, in order.
    evaluated: Vec<u32>,
    population: Vec<Member>,
    /// The current generation's children.
    children: Vec<u32>,
    /// The children whose scores were asked for last.
    asked: Vec<u32>,
    generation: usize,
    /// The objectives, FPS first.
    aims: Vec<Aim>,
    history: Vec<Generation>,
    /// All genomes of a space that is no larger than the budget, shuffled: each is evaluated once.
    exhaustive: Option<Vec<u8>>,
    guide: Option<Guide>,
}

impl<C: CostModel> Nsga2<C> {
    /// Starts a search.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] for settings out of range, [`Error::Infeasible`] for a target beyond
    /// the fastest network, and the error of [`CostModel::fastest`] if nothing fits.
    pub fn new(genotype: Genotype, costs: C, settings: Settings) -> Result<Self> {
        settings.check()?;
        for &objective in &settings.objectives {
            costs.check(objective)?;
        }
        let (_, fastest) = costs.fastest()?;
        if let Some(target) = settings.targets.iter().copied().reduce(f64::max) {
            if target > fastest {
                return Err(Error::Infeasible(format!(
                    "no network of this space reaches {target} FPS on this hardware: the fastest one is modelled at {fastest:.1} FPS"
                )));
            }
        }
        let guide = (settings.strategy == Strategy::Guided).then(|| Guide::new(&genotype));
        let objectives = std::iter::once(Objective::Period).chain(settings.objectives.clone());
        let shares = |objective| match settings.strategy {
            Strategy::Guided => costs.shares(objective),
            Strategy::Evolution => Vec::new(),
        };
        let aims = objectives.map(|objective| Aim::new(objective, shares(objective)));
        let budget = settings.population as u64 * settings.generations as u64;
        let exhaustive =
            (genotype.size() <= budget).then(|| variation::shuffled(&genotype, settings.seed));
        Ok(Self {
            aims: aims.collect(),
            known: GenomeSet::new(genotype.genes()),
            genotype,
            costs,
            settings,
            points: Vec::new(),
            rates: Vec::new(),
            bred: Vec::new(),
            evaluated: Vec::new(),
            population: Vec::new(),
            children: Vec::new(),
            asked: Vec::new(),
            generation: 0,
            history: Vec::new(),
            exhaustive,
            guide,
        })
    }

    /// Returns whether all generations are done.
    pub fn done(&self) -> bool {
        self.generation == self.settings.generations
    }

    /// Takes scores that the same source gave elsewhere, so that they are not asked for again. The
    /// search goes the way that it would have gone without them.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] for lists of different lengths, a genome that is not canonical or
    /// not of this space, and a score that is not finite or differs from the known one. Nothing is
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
        // The last request may ask for a genome that is known now.
        self.asked.clear();
        Ok(())
    }

    /// Returns the canonical genomes, one after the other, whose scores are needed next: the rest
    /// of the current generation, at most `limit` of it. The list is empty when the search is done.
    /// Asking again before `tell` returns the same genomes.
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
    /// [`Error::InvalidValue`] if nothing was asked for, if the number differs, or if a score is
    /// not finite. Nothing is taken then.
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

    /// Runs to the end. `score` writes the scores of the genomes that it gets.
    ///
    /// # Errors
    /// The error of `score`, and those of [`Self::tell`].
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

    /// Returns the non-dominated networks of all that fit, by rising FPS; of equal ones the first.
    pub fn front(&self) -> Vec<Candidate> {
        (self.aims[0].front.entries().iter())
            .map(|entry| self.candidate(entry.2))
            .collect()
    }

    /// Returns the network of highest score with at least this FPS, of all that fit; of equal
    /// scores the fastest.
    pub fn best(&self, fps: f64) -> Option<Candidate> {
        let best = self.aims[0].front.best(fps);
        best.map(|entry| self.candidate(entry.2))
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

    /// Returns how well the guide predicted scores before they were known.
    pub fn guide_report(&self) -> Option<GuideReport> {
        self.guide.as_ref().map(Guide::report)
    }

    /// Returns the best front of the model of scores that guides the search, fitted to everything
    /// evaluated, by an objective. `None` without a guide, or if the cost does not add up.
    ///
    /// # Errors
    /// Those of [`best_front`](crate::additive::best_front) and of [`CostModel::check`].
    pub fn model_front(&self, objective: Objective) -> Result<Option<BestFront>> {
        self.costs.check(objective)?;
        match &self.guide {
            Some(guide) if !self.evaluated.is_empty() => {
                guide.model_front(&self.genotype, &self.costs.shares(objective))
            }
            _ => Ok(None),
        }
    }

    /// Predicts scores by the model that guides the search, fitted to everything evaluated. Noise
    /// of single scores averages out in it. `None` without a guide, or before anything was
    /// evaluated.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] for a genome that is not canonical or not of this space.
    pub fn estimates(&self, genomes: Genomes<'_>) -> Result<Option<Vec<f64>>> {
        for genome in genomes.rows() {
            self.genotype.check(genome)?;
        }
        let surface = match &self.guide {
            Some(guide) if !self.evaluated.is_empty() => guide.surface(),
            _ => return Ok(None),
        };
        Ok(Some(genomes.rows().map(|g| surface.predict(g)).collect()))
    }

    fn candidate(&self, id: u32) -> Candidate {
        let point = &self.points[id as usize];
        Candidate {
            genome: self.known.get(id).to_vec(),
            score: point.score,
            fps: point.rate,
            violation: point.violation,
        }
    }

    /// Returns a known genome's point by the aim of a number.
    fn point(&self, id: u32, aim: usize) -> Point {
        let point = self.points[id as usize];
        match aim {
            0 => point,
            _ => Point {
                rate: self.rates[id as usize * (self.aims.len() - 1) + aim - 1],
                ..point
            },
        }
    }

    /// Returns the genome's number, and whether the genome is new.
    fn intern(&mut self, genome: &[u8]) -> (u32, bool) {
        let (id, new) = self.known.insert(genome);
        if new {
            let Cost { rate, violation } = self.costs.cost(genome, Objective::Period);
            self.points.push(Point {
                rate,
                score: f64::NAN,
                violation,
            });
            for aim in &self.aims[1..] {
                self.rates.push(self.costs.cost(genome, aim.objective).rate);
            }
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

    /// Ranks the children with the population, keeps the best, and adds the generation to the
    /// history.
    fn advance(&mut self) {
        for number in 0..self.aims.len() {
            let points: Vec<(Point, u32)> = (self.children.iter())
                .map(|&id| (self.point(id, number), id))
                .collect();
            let aim = &mut self.aims[number];
            for (point, id) in &points {
                aim.front.add(point, *id);
            }
            if self.generation == 0 {
                let least = |value: fn(&Point) -> f64| {
                    let values = points.iter().map(|(point, _)| value(point));
                    values.fold(f64::INFINITY, f64::min)
                };
                aim.reference = (least(|p| p.rate), least(|p| p.score));
            }
        }
        if let Some(guide) = &mut self.guide {
            let scored = self.children.iter();
            let scored = scored.map(|&id| (self.known.get(id), self.points[id as usize].score));
            guide.learn(scored);
        }
        let ids: Vec<u32> = self
            .population
            .iter()
            .map(|member| member.id)
            .chain(self.children.iter().copied())
            .collect();
        let points: Vec<Vec<Point>> = (0..self.aims.len())
            .map(|aim| ids.iter().map(|&id| self.point(id, aim)).collect())
            .collect();
        self.population = survivors_of_all(&points, self.settings.population);
        for member in &mut self.population {
            member.id = ids[member.id as usize];
        }
        self.evaluated.append(&mut self.children);
        self.generation += 1;
        self.history.push(Generation {
            evaluations: self.evaluated.len(),
            hypervolume: self.aims[0].front.hypervolume(self.aims[0].reference),
            best: (self.settings.targets.iter())
                .map(|&target| self.aims[0].front.best(target).map(|entry| entry.1))
                .collect(),
        });
    }
}

/// Returns the `keep` best points with rank and crowding distance: whole fronts while they fit, and
/// the least crowded part of the next one.
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

/// Returns the `keep` best networks: an equal share of them by each objective, of those that the
/// objectives before have left.
///
/// `points` has the points of the networks by each objective.
fn survivors_of_all(points: &[Vec<Point>], keep: usize) -> Vec<Member> {
    let mut left: Vec<u32> = (0..points[0].len() as u32).collect();
    let mut members: Vec<Member> = Vec::with_capacity(keep);
    for (number, own) in points.iter().enumerate() {
        let rest: Vec<Point> = left.iter().map(|&place| own[place as usize]).collect();
        let up_to = keep * (number + 1) / points.len();
        let mut chosen = vec![false; left.len()];
        for member in survivors(&rest, up_to - members.len()) {
            chosen[member.id as usize] = true;
            members.push(Member {
                id: left[member.id as usize],
                ..member
            });
        }
        let mut chosen = chosen.into_iter();
        left.retain(|_| chosen.next() == Some(false));
    }
    members
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
