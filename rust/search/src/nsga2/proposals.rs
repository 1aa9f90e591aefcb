//! Chooses the networks of a generation by a model of the scores so far.
//!
//! The model ([`crate::surface`]) adds up over the parts of a network, as the cost does. So its
//! best front follows without a search. The networks that are scored next are those that promise
//! to add most to the area that the scored ones dominate, out of that front and of variations of
//! the front found so far.
//!
//! Most generations ask several models, drawn from those that the scores leave possible (Thompson
//! 1933): so the networks that could be good are scored, and tell the possible models apart. Where
//! scores have no noise, these models soon are one. The last generations ask the likeliest model.
//! With several objectives, the models aim at one after the other.
//! Depends on the parent module, `additive`, `pareto` and `surface`.

use quasar_core::error::Result;

use super::{survivors, Cost, CostModel, Nsga2, Settings};
use crate::additive::{best_front, coarse_front, BestFront, CostShares, Objective};
use crate::genome::{GenomeSet, Genotype};
use crate::pareto::{self, Front, Point};
use crate::random::SplitMix64;
use crate::statistics::kendall_tau;
use crate::surface::{Fit, Prior, Samples, Surface};

/// Steps to which the cost of a network of the model's front is rounded.
const LEVELS: usize = 1500;
/// Variations of the front found so far that fit, for each place of a generation.
const VARIATIONS: usize = 4;
/// Tries for each of them.
const TRIES: usize = 10;
/// Members of the front on either side of a parent among which its partner is.
const NEIGHBOURS: usize = 3;
/// Mean number of genes of a variation that mutate.
const MUTATIONS: usize = 1;
/// Networks evaluated last whose scores the model looks at again.
const RECENT: usize = 4096;
/// Models that a generation asks.
const DRAWS: usize = 4;
/// One of so many generations asks the likeliest model: the last ones.
const LAST: usize = 3;

/// The quality of a guide's predictions, each made before the score was known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GuideReport {
    /// Kendall's tau-b between predicted and given scores (NaN if either is constant).
    pub tau: f64,
    /// Root of the mean squared error.
    pub rmse: f64,
    /// Predictions.
    pub samples: usize,
}

/// An objective, and the front that is known by it.
#[derive(Clone, Debug)]
pub(super) struct Aim {
    pub(super) objective: Objective,
    /// The shares of its costs; none without a guide, or if they do not add up.
    costs: Vec<CostShares>,
    /// The front of everything evaluated, by this objective and the score.
    pub(super) front: Front,
    /// The lowest rate and the lowest score of the first generation.
    pub(super) reference: (f64, f64),
}

impl Aim {
    pub(super) fn new(objective: Objective, costs: Vec<CostShares>) -> Self {
        Self {
            objective,
            costs,
            front: Front::default(),
            reference: (0.0, 0.0),
        }
    }
}

/// A model of the scores so far.
#[derive(Clone, Debug)]
pub(super) struct Guide {
    samples: Samples,
    /// The model of the current generation.
    fit: Option<Fit>,
    prior: Option<Prior>,
    /// Predictions of the likeliest model, and scores.
    predicted: Vec<(f64, f64)>,
}

impl Guide {
    pub(super) fn new(genotype: &Genotype) -> Self {
        Self {
            samples: Samples::new(genotype),
            fit: None,
            prior: None,
            predicted: Vec::new(),
        }
    }

    /// Compares the model with the scores of a generation, and takes the scores as samples.
    pub(super) fn learn<'a>(&mut self, scored: impl Iterator<Item = (&'a [u8], f64)>) {
        let fit = self.fit.take();
        for (genome, score) in scored {
            if let Some(fit) = &fit {
                self.predicted.push((fit.surface.predict(genome), score));
            }
            self.samples.add(genome, score);
        }
    }

    pub(super) fn report(&self) -> GuideReport {
        let (predicted, scores): (Vec<f64>, Vec<f64>) = self.predicted.iter().copied().unzip();
        let squares: f64 = (self.predicted.iter())
            .map(|(predicted, score)| (predicted - score) * (predicted - score))
            .sum();
        GuideReport {
            tau: kendall_tau(&predicted, &scores).unwrap_or(f64::NAN),
            rmse: (squares / scores.len() as f64).sqrt(),
            samples: scores.len(),
        }
    }

    /// Returns the likeliest model of all scores so far.
    pub(super) fn surface(&self) -> Surface {
        self.samples.fit(self.prior).surface
    }

    /// Returns the best front of the likeliest model with these costs of several configurations.
    pub(super) fn model_front(
        &self,
        genotype: &Genotype,
        costs: &[CostShares],
    ) -> Result<Option<BestFront>> {
        let surface = self.surface();
        let fronts = costs.iter().map(|one| best_front(genotype, one, &surface));
        Ok(BestFront::merged(fronts.collect::<Result<Vec<_>>>()?))
    }
}

impl<C: CostModel> Nsga2<C> {
    /// Chooses the children of a generation by the guide.
    pub(super) fn breed_guided(&mut self, random: &mut SplitMix64) {
        let mut guide = self.guide.take().expect("a guided search");
        let fit = guide.samples.fit(guide.prior);
        guide.prior = Some(fit.prior);
        let Settings {
            population,
            generations,
            ..
        } = self.settings;
        let aims = self.aims.len();
        if self.generation + generations.div_ceil(LAST) < generations {
            for number in 0..DRAWS {
                let aim = (self.generation * DRAWS + number) % aims;
                let up_to = population * (number + 1) / DRAWS;
                self.propose(&fit.draw(random), aim, up_to, random);
            }
        } else {
            for aim in 0..aims {
                let up_to = population * (aim + 1) / aims;
                self.propose(&fit.surface, aim, up_to, random);
            }
        }
        guide.fit = Some(fit);
        self.guide = Some(guide);
    }

    /// Adds the networks that promise most by a model of the scores and the aim of a number, until
    /// there are `up_to` children.
    fn propose(&mut self, surface: &Surface, number: usize, up_to: usize, random: &mut SplitMix64) {
        let places = up_to - self.children.len().min(up_to);
        if places == 0 {
            return;
        }
        let believed = self.believed_front(surface, number);
        let aim = &self.aims[number];
        let proposals = |costs| coarse_front(&self.genotype, costs, surface, LEVELS);
        let proposed: Vec<Vec<u8>> = aim.costs.iter().flat_map(proposals).collect();
        let mut candidates = GenomeSet::new(self.genotype.genes());
        let mut points = Vec::new();
        // Returns whether the network is new and fits.
        let mut consider = |genome: &[u8]| {
            if !self.is_bred(genome) && candidates.insert(genome).1 {
                let Cost { rate, violation } = self.costs.cost(genome, aim.objective);
                points.push(Point {
                    rate,
                    score: surface.predict(genome),
                    violation,
                });
                return violation == 0.0;
            }
            false
        };
        for genome in &proposed {
            consider(genome);
        }
        let mut left = VARIATIONS * places;
        let mut child = vec![0; self.genotype.genes()];
        for _ in 0..TRIES * left {
            if left == 0 {
                break;
            }
            self.vary(&believed, random, &mut child);
            left -= usize::from(consider(&child));
        }
        let mut chosen = match aim.objective {
            Objective::Period => self.for_targets(&believed, &points),
            // Targets are frame rates.
            Objective::Latency | Objective::Energy => Vec::new(),
        };
        chosen.truncate(places);
        let most = places - chosen.len();
        for place in pareto::improving(&believed, aim.reference, &points, most) {
            if !chosen.contains(&place) {
                chosen.push(place);
            }
        }
        for &place in &chosen {
            self.add_child(candidates.get(place as u32));
        }
        // Where too few promise to improve anything: the best of the rest.
        for member in survivors(&points, (2 * places).min(points.len())) {
            if self.children.len() >= up_to {
                break;
            }
            self.add_child(candidates.get(member.id));
        }
    }

    /// Returns an aim's front of the networks evaluated last, and of those chosen already, by their
    /// predicted scores. A score that noise raised stands less in the way of a better network than
    /// it would as it is.
    fn believed_front(&self, surface: &Surface, aim: usize) -> Front {
        let mut front = Front::default();
        let first = self.evaluated.len().saturating_sub(RECENT);
        let entries = self.aims[aim].front.entries();
        let entries = entries.iter().map(|entry| entry.2);
        let chosen = self.children.iter().copied();
        for id in (self.evaluated[first..].iter().copied())
            .chain(entries)
            .chain(chosen)
        {
            let score = surface.predict(self.known.get(id));
            let point = Point {
                score,
                ..self.point(id, aim)
            };
            front.add(&point, id);
        }
        front
    }

    /// Returns for each target the point that promises to be its best network, if it promises more
    /// than what was found.
    fn for_targets(&self, front: &Front, points: &[Point]) -> Vec<usize> {
        let mut chosen = Vec::new();
        for &target in &self.settings.targets {
            let found = front.best(target).map_or(f64::NEG_INFINITY, |e| e.1);
            let reaching = points
                .iter()
                .enumerate()
                .filter(|(_, p)| p.violation == 0.0 && p.rate >= target && p.score > found);
            let best = reaching.max_by(|a, b| a.1.score.total_cmp(&b.1.score).then(b.0.cmp(&a.0)));
            if let Some((place, _)) = best {
                if !chosen.contains(&place) {
                    chosen.push(place);
                }
            }
        }
        chosen
    }

    /// Makes a variation of two neighbours on the front: uniform crossover and mutation.
    fn vary(&self, front: &Front, random: &mut SplitMix64, child: &mut [u8]) {
        let front = front.entries();
        if front.is_empty() {
            return self.offspring(random, child);
        }
        let at = random.below(front.len());
        let first = at.saturating_sub(NEIGHBOURS);
        let last = (at + NEIGHBOURS).min(front.len() - 1);
        let partner = first + random.below(last - first + 1);
        let parents = [
            self.known.get(front[at].2),
            self.known.get(front[partner].2),
        ];
        for (gene, value) in child.iter_mut().enumerate() {
            *value = parents[random.below(2)][gene];
        }
        for _ in 0..random.below(2 * MUTATIONS + 1) {
            let gene = random.below(child.len());
            child[gene] = random.below(self.genotype.choices()[gene] as usize) as u8;
        }
        self.genotype.canonicalize(child);
    }
}
