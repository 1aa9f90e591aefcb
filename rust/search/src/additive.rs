//! Scores and costs that add up over the parts of a network, and the fronts that follow from them.
//!
//! A part is a group of genes of a block whose share of the cost depends on no other gene but
//! embed: attention's half and the MLP's half of a block or, if they have a fraction of 8-bit rows
//! in common, the whole block. With embed and depth fixed, choosing every part for a score that
//! adds up as well is a multiple-choice [`Knapsack`]. Depends on [`crate::genome`] and
//! [`crate::knapsack`].

use quasar_core::error::{Error, Result};

use crate::genome::Genotype;
use crate::knapsack::Knapsack;

/// The cost that a search weighs against the score.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Objective {
    /// The cycles between two frames. Its rate is in frames a second.
    Period,
    /// The time of one frame alone. Its rate is in frames a second, one after the other.
    Latency,
    /// The energy of a frame. Its rate is in frames a joule.
    Energy,
}

impl Objective {
    /// All objectives.
    pub const ALL: [Self; 3] = [Self::Period, Self::Latency, Self::Energy];

    /// Returns the name in commands and files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Period => "fps",
            Self::Latency => "latency",
            Self::Energy => "energy",
        }
    }

    /// Returns the objective of a name.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] for any other name.
    pub fn named(name: &str) -> Result<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|one| one.name() == name).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            Error::InvalidValue(format!("objective is {name:?}; it must be one of {known}"))
        })
    }
}

/// One choice of a part, and its share of a frame's cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The part's genes, in the order of [`Genotype::parts`].
    pub genes: Vec<u8>,
    /// Its shares of the two sums of [`CostShares`].
    pub shares: [u64; 2],
}

/// Shares of a frame's cost on one hardware configuration. The cost is the larger of two sums: as
/// if array and vector unit were the bound, and as if the transfers were.
#[derive(Clone, Debug)]
pub struct CostShares {
    /// The rate at a cost of 1; at a cost of n it is one n-th.
    pub rate_of_one: f64,
    /// The shares of patch embedding and head, by the choice of embed.
    pub ends: Vec<[u64; 2]>,
    /// The choices that fit, by embed and part, in every block but the last one.
    pub inner: Vec<Vec<Vec<Choice>>>,
    /// The choices that fit in the last block.
    pub last: Vec<Vec<Vec<Choice>>>,
}

impl CostShares {
    /// Returns the lowest rate of a network that fits, exactly: the larger of two sums is largest
    /// where one of them is. `None` if nothing fits.
    pub fn lowest_rate(&self, genotype: &Genotype) -> Option<f64> {
        let most = |parts: &[Vec<Choice>], sum: usize| -> Option<u64> {
            let largest = |part: &Vec<Choice>| part.iter().map(|c| c.shares[sum]).max();
            parts.iter().map(largest).sum()
        };
        let shapes = genotype.shapes();
        let costs = shapes.iter().flat_map(|&(embed, _, blocks)| {
            [0, 1].into_iter().filter_map(move |sum| {
                let inner = most(&self.inner[embed], sum)?;
                let last = most(&self.last[embed], sum)?;
                Some(self.ends[embed][sum] + (blocks as u64 - 1) * inner + last)
            })
        });
        costs.max().map(|cost| self.rate_of_one / cost as f64)
    }
}

/// A score that adds up: a share of embed and depth, and one for each part of each block.
pub trait Additive {
    /// Returns the share of the choices of embed and depth.
    fn ends(&self, embed: usize, depth: usize) -> f64;

    /// Returns the shares of the choices of a part in a block.
    fn shares(&self, embed: usize, block: usize, part: usize, choices: &[Choice]) -> Vec<f64>;
}

/// A network of a front.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Its canonical genome.
    pub genome: Vec<u8>,
    /// Its rate; of a bound, at least this.
    pub rate: f64,
    /// Its score; of a bound, at least this.
    pub score: f64,
}

/// The best score at every rate.
#[derive(Clone, Debug, PartialEq)]
pub struct BestFront {
    /// By falling rate and rising score.
    pub members: Vec<Member>,
    /// True if every member has its rate and its score, so that no network of the space is above
    /// the front. False if the members are an upper bound: one of the two sums was left out.
    pub exact: bool,
}

impl BestFront {
    /// Returns the front of several configurations together; none without any.
    pub fn merged(fronts: Vec<Self>) -> Option<Self> {
        if fronts.len() < 2 {
            return fronts.into_iter().next();
        }
        let exact = fronts.iter().all(|front| front.exact);
        let mut members: Vec<Member> = fronts.into_iter().flat_map(|f| f.members).collect();
        members.sort_by(|a, b| b.rate.total_cmp(&a.rate).then(b.score.total_cmp(&a.score)));
        let mut best = f64::NEG_INFINITY;
        members.retain(|member| {
            let kept = member.score > best;
            best = best.max(member.score);
            kept
        });
        Some(Self { members, exact })
    }
}

/// Computes the front of all networks that fit, by one knapsack for each embed and depth.
///
/// The larger of two sums is no sum. So the front is computed for the first sum alone, which is a
/// bound; where the second sum of every network of that front is no larger, the front is exact.
/// Otherwise the same is tried with the second sum alone.
///
/// # Errors
/// Those of [`Knapsack::front`], in a space with too many different sums.
pub fn best_front(
    genotype: &Genotype,
    costs: &CostShares,
    score: &dyn Additive,
) -> Result<BestFront> {
    let first = relaxed_front(genotype, costs, score, 0)?;
    if first.exact {
        return Ok(first);
    }
    let second = relaxed_front(genotype, costs, score, 1)?;
    Ok(if second.exact { second } else { first })
}

/// Computes the front by one of the two sums alone.
fn relaxed_front(
    genotype: &Genotype,
    costs: &CostShares,
    score: &dyn Additive,
    sum: usize,
) -> Result<BestFront> {
    let key = |choice: &Choice| choice.shares[sum];
    let mut found: Vec<(u64, f64, Vec<u8>, bool)> = Vec::new();
    for (embed, depth, blocks) in genotype.shapes() {
        let items = items(costs, score, embed, blocks);
        if items.iter().any(|item| item.choices.is_empty()) {
            continue;
        }
        let items: Vec<Item> = items
            .into_iter()
            .map(|item| item.undominated(key))
            .collect();
        let values: Vec<Vec<f64>> = items.iter().map(|item| item.values.clone()).collect();
        let shares: Vec<Vec<u64>> = (items.iter())
            .map(|item| item.choices.iter().map(key).collect())
            .collect();
        let ends = costs.ends[embed];
        for solution in Knapsack::new(&values, &shares)?.front(u64::MAX)? {
            let chosen = || items.iter().zip(&solution.choices);
            let others = chosen().map(|(item, &c)| item.choices[c].shares[1 - sum]);
            let other = ends[1 - sum] + others.sum::<u64>();
            let cost = ends[sum] + solution.cost;
            let mut genome = genotype.with(embed, depth);
            for (item, &choice) in chosen() {
                genotype.place(
                    &mut genome,
                    item.block,
                    item.part,
                    &item.choices[choice].genes,
                );
            }
            let value = score.ends(embed, depth) + solution.value;
            found.push((cost, value, genome, other <= cost));
        }
    }
    let kept = undominated(found.iter().map(|&(cost, value, ..)| (cost, value)));
    let members = kept.iter().map(|&i| Member {
        genome: found[i].2.clone(),
        rate: costs.rate_of_one / found[i].0 as f64,
        score: found[i].1,
    });
    Ok(BestFront {
        members: members.collect(),
        exact: kept.iter().all(|&i| found[i].3),
    })
}

/// A part of a block: its choices and their values.
struct Item {
    block: usize,
    part: usize,
    choices: Vec<Choice>,
    values: Vec<f64>,
}

impl Item {
    /// Returns the item without choices that cost no less and are worth no more than another one.
    fn undominated(self, key: impl Fn(&Choice) -> u64) -> Self {
        let pairs = self
            .choices
            .iter()
            .map(key)
            .zip(self.values.iter().copied());
        let kept = undominated(pairs);
        Self {
            choices: kept.iter().map(|&i| self.choices[i].clone()).collect(),
            values: kept.iter().map(|&i| self.values[i]).collect(),
            ..self
        }
    }
}

fn items(costs: &CostShares, score: &dyn Additive, embed: usize, blocks: usize) -> Vec<Item> {
    let mut items = Vec::new();
    for block in 0..blocks {
        let shares = if block + 1 == blocks {
            &costs.last[embed]
        } else {
            &costs.inner[embed]
        };
        items.extend(shares.iter().enumerate().map(|(part, choices)| Item {
            block,
            part,
            choices: choices.clone(),
            values: score.shares(embed, block, part, choices),
        }));
    }
    items
}

/// Returns the indices of the pairs (cost, value) that no other pair beats, by rising cost; of
/// equals the first.
fn undominated(pairs: impl Iterator<Item = (u64, f64)>) -> Vec<usize> {
    let mut sorted: Vec<(u64, f64, usize)> = pairs
        .enumerate()
        .map(|(i, (cost, value))| (cost, value, i))
        .collect();
    sorted.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.total_cmp(&a.1)).then(a.2.cmp(&b.2)));
    let mut best = f64::NEG_INFINITY;
    sorted.retain(|&(_, value, _)| {
        let kept = value > best;
        best = best.max(value);
        kept
    });
    sorted.into_iter().map(|(_, _, i)| i).collect()
}

/// A cost by which choices are compared.
type Key = fn(&Choice) -> u64;

/// Finds networks near the front quickly: costs are rounded to `levels` steps over the range of
/// their sums. Returns canonical genomes by rising rounded cost.
pub fn coarse_front(
    genotype: &Genotype,
    costs: &CostShares,
    score: &dyn Additive,
    levels: usize,
) -> Vec<Vec<u8>> {
    let key: Key = |c| c.shares[0].max(c.shares[1]);
    let shapes = genotype.shapes();
    let all: Vec<Vec<Item>> = (shapes.iter())
        .map(|&(embed, _, blocks)| items(costs, score, embed, blocks))
        .collect();
    let sum = |items: &[Item], most: bool| -> Option<u64> {
        let cost = |item: &Item| {
            let each = item.choices.iter().map(key);
            if most {
                each.max()
            } else {
                each.min()
            }
        };
        items.iter().map(cost).sum()
    };
    let ends = |embed: usize| costs.ends[embed][0].max(costs.ends[embed][1]);
    let bounds = shapes.iter().zip(&all).filter_map(|(&(embed, ..), items)| {
        Some((
            ends(embed) + sum(items, false)?,
            ends(embed) + sum(items, true)?,
        ))
    });
    let (least, most) = bounds.fold((u64::MAX, 0), |(l, m), (a, b)| (l.min(a), m.max(b)));
    if most == 0 {
        return Vec::new();
    }
    let unit = ((most - least) / levels as u64).max(1);
    let mut found: Vec<(u64, f64, Vec<u8>)> = Vec::new();
    for (&(embed, depth, _), items) in shapes.iter().zip(&all) {
        let Some(first) = sum(items, false) else {
            continue;
        };
        for (level, value, choices) in Levels::new(items, key, unit).best() {
            let mut genome = genotype.with(embed, depth);
            for (item, choice) in items.iter().zip(choices) {
                genotype.place(
                    &mut genome,
                    item.block,
                    item.part,
                    &item.choices[choice].genes,
                );
            }
            let cost = ends(embed) + first + level * unit;
            found.push((cost, score.ends(embed, depth) + value, genome));
        }
    }
    let kept = undominated(found.iter().map(|&(cost, value, _)| (cost, value)));
    kept.into_iter().map(|i| found[i].2.clone()).collect()
}

/// Dynamic programming over rounded costs: for each item, the best value at each level and the
/// choice that gives it.
struct Levels {
    /// Best value at each level after the last item; negative infinity at a level that is no sum.
    values: Vec<f64>,
    /// For each item: the choice at each level after it, and the level of each choice.
    steps: Vec<(Vec<u16>, Vec<usize>)>,
}

impl Levels {
    fn new(items: &[Item], key: Key, unit: u64) -> Self {
        let mut values = vec![0.0];
        let mut steps = Vec::with_capacity(items.len());
        for item in items {
            let least = item.choices.iter().map(key).min().unwrap_or(0);
            let level = |c: &Choice| ((key(c) - least) / unit) as usize;
            let levels: Vec<usize> = item.choices.iter().map(level).collect();
            let pairs = levels
                .iter()
                .map(|&l| l as u64)
                .zip(item.values.iter().copied());
            let kept = undominated(pairs);
            let most = kept.last().map_or(0, |&i| levels[i]);
            let mut next = vec![f64::NEG_INFINITY; values.len() + most];
            let mut choices = vec![0u16; next.len()];
            for &i in &kept {
                for (at, &value) in values.iter().enumerate() {
                    let (value, at) = (value + item.values[i], at + levels[i]);
                    if value > next[at] {
                        next[at] = value;
                        choices[at] = i as u16;
                    }
                }
            }
            values = next;
            steps.push((choices, levels));
        }
        Self { values, steps }
    }

    /// Returns the levels at which the value exceeds that of every lower one, with the choices.
    fn best(&self) -> Vec<(u64, f64, Vec<usize>)> {
        let mut best = f64::NEG_INFINITY;
        let mut found = Vec::new();
        for (level, &value) in self.values.iter().enumerate() {
            if value <= best {
                continue;
            }
            best = value;
            let mut at = level;
            let mut choices: Vec<usize> = (self.steps.iter().rev())
                .map(|(choices, levels)| {
                    let choice = choices[at] as usize;
                    at -= levels[choice];
                    choice
                })
                .collect();
            choices.reverse();
            found.push((level as u64, value, choices));
        }
        found
    }
}
