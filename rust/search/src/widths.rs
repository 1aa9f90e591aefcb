//! The choice of the 8-bit rows of a given network: the most worth at every number of cycles.
//!
//! The array multiplies rows in pairs, two 4-bit rows or one 8-bit row, and whole tiles of pairs.
//! So a product of rows has one choice for each number of tiles: the most 8-bit rows that they
//! hold. The closed form gives the cycles of each half of a block for every combination of its
//! products' choices; their sums over the halves are a multiple-choice knapsack. Depends on
//! [`quasar_cost`] and [`crate::knapsack`].

use quasar_core::error::{Error, Result};
use quasar_cost::cycles::{Model, Totals};
use quasar_hardware::configuration::Hardware;
use quasar_hardware::tiling::Tiling;
use quasar_hardware::workload::{BlockWork, RowWidths, Workload};

use crate::knapsack::{Knapsack, Solution, MAX_CHOICES};

/// Products of a block: two of qkv, then proj, fc1 and fc2.
pub const PRODUCTS: usize = 5;
/// Products of attention's half.
const IN_ATTENTION: usize = 3;
/// Combinations of the choices of a half, at most: beyond them every second number of tiles and so
/// on is left out.
const MAX_COMBINATIONS: usize = 1 << 15;

/// The widths of a network's rows.
#[derive(Clone, Debug, PartialEq)]
pub struct WidthChoice {
    /// 8-bit rows of each product of each block.
    pub eight_bit: Vec<[usize; PRODUCTS]>,
    /// The sum of their worth.
    pub worth: f64,
    /// Cycles between two frames by the closed form.
    pub cycles: u64,
    /// True if no choice of whole tiles within the budget is worth more.
    pub exact: bool,
}

/// The worth of 8 bits for the first rows of a product, by their number: of 0 rows, of 1, ...
pub type Gains = Vec<f64>;

/// Returns the rows of a block's products, in the order of [`PRODUCTS`].
///
/// Keys share a product with the queries, so that scores start while values are computed; if few
/// tokens are needed, they share it with the values.
pub fn product_rows(work: &BlockWork, shared_with_values: bool) -> [usize; PRODUCTS] {
    let (query, key, value) = (work.query.total(), work.key.total(), work.value.total());
    let qkv = if shared_with_values {
        [key + value, query]
    } else {
        [query + key, value]
    };
    let [first, second] = qkv;
    [
        first,
        second,
        work.proj.total(),
        work.fc1.total(),
        work.fc2.total(),
    ]
    .map(|rows| rows as usize)
}

/// Returns a network with these numbers of 8-bit rows in the products of each block.
///
/// # Errors
/// [`Error::InvalidValue`]: not one entry for each block, or more rows than a product has.
pub fn with_eight_bit_rows(
    workload: &Workload,
    eight_bit: &[[usize; PRODUCTS]],
) -> Result<Workload> {
    let blocks = workload.blocks.len();
    if eight_bit.len() != blocks {
        return Err(Error::InvalidValue(format!(
            "rows are for {} blocks; the network has {blocks}",
            eight_bit.len()
        )));
    }
    let mut changed = workload.clone();
    for (i, (work, &chosen)) in changed.blocks.iter_mut().zip(eight_bit).enumerate() {
        let shared = keys_with_values(workload, i);
        let rows = product_rows(work, shared);
        if let Some(product) = (0..PRODUCTS).find(|&p| chosen[p] > rows[p]) {
            return Err(Error::InvalidValue(format!(
                "product {product} of block {i} has {} rows, not {}",
                rows[product], chosen[product]
            )));
        }
        *work = with_rows(work, shared, chosen);
    }
    Ok(changed)
}

/// The choices of all rows of a network on a configuration.
#[derive(Debug)]
pub struct WidthChoices {
    halves: Vec<Vec<Choice>>,
    /// For each of [`COSTS`]: the choices of each half that no other beats, and their knapsack.
    problems: Vec<(Vec<Vec<usize>>, Knapsack)>,
    /// Patch embedding and head.
    ends: Totals,
}

/// One combination of the choices of the products of a half of a block.
#[derive(Debug)]
struct Choice {
    eight_bit: [usize; PRODUCTS],
    worth: f64,
    totals: Totals,
}

/// The costs of a choice: the cycles of its products, of its transfers, and the larger of both. A
/// frame takes the larger one of two sums. If the best choice by one of the first two is within the
/// budget by the other one, too, no choice is better.
const COSTS: [fn(&Totals) -> u64; 3] = [|t| t.interval, |t| t.transfer, Totals::period];

impl WidthChoices {
    /// Counts the cycles of all choices.
    ///
    /// `gains[block][product]` is the worth of the product's first rows, in the order in which they
    /// get 8 bits.
    ///
    /// # Errors
    /// [`Error::InvalidValue`]: gains that do not fit the network, or are not finite;
    /// [`Error::DoesNotFit`]: the network exceeds a buffer.
    pub fn new(
        workload: &Workload,
        hardware: &Hardware,
        gains: &[[Gains; PRODUCTS]],
    ) -> Result<Self> {
        hardware.check_fit(workload)?;
        check(workload, gains)?;
        let model = Model::new(hardware, workload.setting);
        let pairs = Tiling::of(hardware).pairs as usize;
        let mut ends = model.embedding_totals(workload);
        ends.add(&model.head_totals(workload));
        let mut halves = Vec::with_capacity(2 * gains.len());
        for (i, (work, gains)) in workload.blocks.iter().zip(gains).enumerate() {
            let shared = keys_with_values(workload, i);
            let last = i + 1 == workload.blocks.len();
            let rows = product_rows(work, shared);
            let (attention, mlp) = rows.split_at(IN_ATTENTION);
            halves.push(combinations(0, attention, pairs, gains, |chosen| {
                let work = with_rows(work, shared, chosen);
                model.attention_totals(&model.attention_half(workload.embed, &work, last))
            }));
            halves.push(combinations(IN_ATTENTION, mlp, pairs, gains, |chosen| {
                let work = with_rows(work, shared, chosen);
                model.mlp_totals(&model.mlp_half(workload.embed, &work, last))
            }));
        }
        let problem = |cost: &fn(&Totals) -> u64| {
            let kept: Vec<Vec<usize>> =
                (halves.iter().map(|half| undominated(half, *cost))).collect();
            let of = |half: &[Choice], kept: &[usize]| -> (Vec<f64>, Vec<u64>) {
                let chosen = kept.iter().map(|&i| &half[i]);
                chosen.map(|c| (c.worth, cost(&c.totals))).unzip()
            };
            let items = halves.iter().zip(&kept);
            let (values, costs): (Vec<_>, Vec<_>) =
                items.map(|(half, kept)| of(half, kept)).unzip();
            Ok((kept, Knapsack::new(&values, &costs)?))
        };
        let problems = COSTS.iter().map(problem).collect::<Result<_>>()?;
        Ok(Self {
            halves,
            problems,
            ends,
        })
    }

    /// Returns the fewest cycles between two frames that a choice can be found for, and those of
    /// the choice of most worth.
    pub fn range(&self) -> (u64, u64) {
        let (kept, _) = &self.problems[2];
        let sum = |of: fn(&Vec<usize>) -> Option<&usize>| {
            let mut sums = self.ends;
            for (half, kept) in self.halves.iter().zip(kept) {
                if let Some(&choice) = of(kept) {
                    sums.add(&half[choice].totals);
                }
            }
            sums
        };
        let fewest = sum(|kept| kept.first());
        let most = sum(|kept| kept.last());
        (fewest.period(), most.period())
    }

    /// Finds the choice of most worth within a number of cycles between two frames.
    ///
    /// It is exact unless both transfers and products bound the frame; then a half counts with the
    /// larger one of both.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] if even the fastest choice takes more cycles;
    /// [`Error::TooLarge`]: too many different sums.
    pub fn within(&self, cycles: u64) -> Result<WidthChoice> {
        let mut failed = None;
        for (number, (cost, (kept, knapsack))) in COSTS.iter().zip(&self.problems).enumerate() {
            match knapsack.solve(cycles.saturating_sub(cost(&self.ends))) {
                Ok(solution) => {
                    let choice = self.choice(kept, &solution, number < 2);
                    if choice.cycles <= cycles {
                        return Ok(choice);
                    }
                }
                Err(error) => failed = Some(error),
            }
        }
        Err(failed.unwrap_or_else(|| {
            Error::InvalidValue(format!(
                "no choice of row widths takes {cycles} cycles between two frames or fewer"
            ))
        }))
    }

    fn choice(&self, kept: &[Vec<usize>], solution: &Solution, exact: bool) -> WidthChoice {
        let mut eight_bit = vec![[0; PRODUCTS]; self.halves.len() / 2];
        let mut sums = self.ends;
        let halves = self.halves.iter().zip(kept).zip(&solution.choices);
        for (i, ((half, kept), &choice)) in halves.enumerate() {
            let choice = &half[kept[choice]];
            for (mine, rows) in eight_bit[i / 2].iter_mut().zip(choice.eight_bit) {
                *mine += rows;
            }
            sums.add(&choice.totals);
        }
        WidthChoice {
            eight_bit,
            worth: solution.value,
            cycles: sums.period(),
            exact,
        }
    }
}

/// Returns whether the keys of a block share a product with its values.
fn keys_with_values(workload: &Workload, block: usize) -> bool {
    let last = block + 1 == workload.blocks.len();
    workload.setting.needed(last) != workload.setting.tokens()
}

fn with_rows(work: &BlockWork, shared: bool, chosen: [usize; PRODUCTS]) -> BlockWork {
    let widths = |rows: RowWidths, eight_bit: u64| RowWidths {
        four_bit: rows.total() - eight_bit,
        eight_bit,
    };
    let [first, second, proj, fc1, fc2] = chosen.map(|rows| rows as u64);
    // Of two matrices in one product only the sum of their rows counts.
    let of_key = first.min(work.key.total());
    let (query, value) = if shared {
        (second, first - of_key)
    } else {
        (first - of_key, second)
    };
    BlockWork {
        query: widths(work.query, query),
        key: widths(work.key, of_key),
        value: widths(work.value, value),
        proj: widths(work.proj, proj),
        fc1: widths(work.fc1, fc1),
        fc2: widths(work.fc2, fc2),
        ..*work
    }
}

fn check(workload: &Workload, gains: &[[Gains; PRODUCTS]]) -> Result<()> {
    let blocks = workload.blocks.len();
    if gains.len() != blocks {
        return Err(Error::InvalidValue(format!(
            "gains are for {} blocks; the network has {blocks}",
            gains.len()
        )));
    }
    for (i, (work, gains)) in workload.blocks.iter().zip(gains).enumerate() {
        let rows = product_rows(work, keys_with_values(workload, i));
        for (product, (gains, rows)) in gains.iter().zip(rows).enumerate() {
            if gains.len() != rows + 1 || gains.iter().any(|gain| !gain.is_finite()) {
                return Err(Error::InvalidValue(format!(
                    "product {product} of block {i} needs {} finite gains; {} were given",
                    rows + 1,
                    gains.len()
                )));
            }
        }
    }
    Ok(())
}

/// Returns the numbers of 8-bit rows that fill a whole number of tiles, of each product.
fn choices(rows: &[usize], pairs: usize) -> Vec<Vec<usize>> {
    let all: Vec<Vec<usize>> = rows
        .iter()
        .map(|&rows| {
            let (fewest, most) = (rows.div_ceil(2).div_ceil(pairs), rows.div_ceil(pairs));
            let mut counts = vec![0];
            // n 8-bit rows take n + (rows - n) / 2 pairs.
            counts.extend(
                (fewest..=most).map(|tiles| (2 * tiles * pairs).saturating_sub(rows).min(rows)),
            );
            counts.dedup();
            counts
        })
        .collect();
    let mut step = 1;
    loop {
        let kept: Vec<Vec<usize>> = all
            .iter()
            .map(|counts| {
                let last = counts.len() - 1;
                let every = counts.iter().enumerate();
                every
                    .filter(|&(i, _)| i % step == 0 || i == last)
                    .map(|(_, &count)| count)
                    .collect()
            })
            .collect();
        if kept.iter().map(Vec::len).product::<usize>() <= MAX_COMBINATIONS {
            return kept;
        }
        step += 1;
    }
}

/// Returns all combinations of the choices of the products from `first` on.
fn combinations(
    first: usize,
    rows: &[usize],
    pairs: usize,
    gains: &[Gains; PRODUCTS],
    totals: impl Fn([usize; PRODUCTS]) -> Totals,
) -> Vec<Choice> {
    let mut combinations = vec![[0; PRODUCTS]];
    for (product, counts) in (first..).zip(choices(rows, pairs)) {
        let extended = combinations.iter().flat_map(|chosen| {
            counts.iter().map(move |&count| {
                let mut chosen = *chosen;
                chosen[product] = count;
                chosen
            })
        });
        combinations = extended.collect();
    }
    let products = first..first + rows.len();
    let combinations = combinations.into_iter().map(|eight_bit| Choice {
        eight_bit,
        worth: products.clone().map(|p| gains[p][eight_bit[p]]).sum(),
        totals: totals(eight_bit),
    });
    combinations.collect()
}

/// Returns the choices that no other one beats in both cost and worth, by rising cost. Beyond
/// [`MAX_CHOICES`] of them, every second one is left out, and so on.
fn undominated(choices: &[Choice], cost: fn(&Totals) -> u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..choices.len()).collect();
    order.sort_by(|&a, &b| {
        let (a, b) = (&choices[a], &choices[b]);
        (cost(&a.totals).cmp(&cost(&b.totals))).then(b.worth.total_cmp(&a.worth))
    });
    let mut best = f64::NEG_INFINITY;
    order.retain(|&i| {
        let kept = choices[i].worth > best;
        best = best.max(choices[i].worth);
        kept
    });
    let step = order.len().div_ceil(MAX_CHOICES - 1);
    let last = order.len() - 1;
    let thinned = order.iter().enumerate();
    thinned
        .filter(|&(i, _)| i == last || i % step == 0)
        .map(|(_, &choice)| choice)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::space::{Architecture, BlockShape, Space};
    use quasar_cost::estimate::totals;
    use quasar_hardware::Board;

    fn network(pool_all: bool) -> (Workload, Hardware) {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../python/quasar_rt");
        let text = |name: &str| std::fs::read_to_string(format!("{folder}/{name}")).unwrap();
        let space = Space::from_toml(&text("spaces/digits.toml")).unwrap();
        let board = Board::from_toml(&text("boards/zcu102.toml")).unwrap();
        let block = BlockShape {
            heads: 2,
            head_dim: 16,
            hidden: 96,
            eight_bit: [0.0; 6],
        };
        let architecture = Architecture {
            embed: 48,
            blocks: vec![block; 3],
        };
        let mut workload = space.workload("test", &architecture).unwrap();
        if pool_all {
            workload.setting.pool = quasar_core::subnet::config::Pool::Mean;
        }
        let hardware = quasar_cost::explore(&board, &[workload.clone()], 300.0).unwrap();
        (workload, hardware)
    }

    fn gains(workload: &Workload) -> Vec<[Gains; PRODUCTS]> {
        (workload.blocks.iter().enumerate())
            .map(|(i, work)| {
                let mut p = 0;
                product_rows(work, keys_with_values(workload, i)).map(|rows| {
                    p += 1;
                    let scale = 1.0 / (1 + i * p) as f64;
                    (0..=rows).map(|n| scale * (n as f64).sqrt()).collect()
                })
            })
            .collect()
    }

    #[test]
    fn cycles_are_those_of_the_closed_form_and_stay_within_the_budget() {
        for pool_all in [false, true] {
            let (workload, hardware) = network(pool_all);
            let found = WidthChoices::new(&workload, &hardware, &gains(&workload)).unwrap();
            let (least, most) = found.range();
            assert!(least < most);
            let mut worths = Vec::new();
            for budget in (least..=most).step_by(((most - least) / 7) as usize) {
                let choice = found.within(budget).unwrap();
                let changed = with_eight_bit_rows(&workload, &choice.eight_bit).unwrap();
                let model = Model::new(&hardware, workload.setting);
                assert_eq!(choice.cycles, totals(&changed, &model).period());
                assert!(choice.cycles <= budget);
                worths.push(choice.worth);
            }
            assert!(worths[0] < 0.7 * worths[worths.len() - 1]);
            assert!(found.within(least - 1).is_err());
        }
    }

    #[test]
    fn no_other_choice_of_tiles_is_worth_more() {
        let (mut workload, hardware) = network(false);
        workload.blocks.truncate(2);
        let gains = gains(&workload);
        let found = WidthChoices::new(&workload, &hardware, &gains).unwrap();
        let (least, most) = found.range();
        let budget = least + (most - least) / 3;
        let best = found.within(budget).unwrap();
        assert!(best.exact);
        let model = Model::new(&hardware, workload.setting);
        let pairs = Tiling::of(&hardware).pairs as usize;
        // Every single change of a product to another whole number of tiles, and every pair.
        let counts: Vec<Vec<Vec<usize>>> = (workload.blocks.iter().enumerate())
            .map(|(i, work)| choices(&product_rows(work, keys_with_values(&workload, i)), pairs))
            .collect();
        let worth = |rows: &[[usize; PRODUCTS]]| -> f64 {
            (rows.iter().zip(&gains))
                .map(|(rows, gains)| (0..PRODUCTS).map(|p| gains[p][rows[p]]).sum::<f64>())
                .sum()
        };
        let mut tried = 0;
        for a in 0..2 * PRODUCTS {
            for b in a..2 * PRODUCTS {
                for &x in &counts[a / PRODUCTS][a % PRODUCTS] {
                    for &y in &counts[b / PRODUCTS][b % PRODUCTS] {
                        let mut rows = best.eight_bit.clone();
                        rows[a / PRODUCTS][a % PRODUCTS] = x;
                        rows[b / PRODUCTS][b % PRODUCTS] = y;
                        let changed = with_eight_bit_rows(&workload, &rows).unwrap();
                        if totals(&changed, &model).period() <= budget {
                            assert!(worth(&rows) <= best.worth + 1e-9);
                            tried += 1;
                        }
                    }
                }
            }
        }
        assert!(tried > 20);
    }

    #[test]
    fn gains_of_another_shape_are_refused() {
        let (workload, hardware) = network(false);
        let mut wrong = gains(&workload);
        wrong[1][2].pop();
        let error = WidthChoices::new(&workload, &hardware, &wrong).unwrap_err();
        assert!(
            error.to_string().contains("product 2 of block 1"),
            "{error}"
        );
        assert!(with_eight_bit_rows(&workload, &[[0; PRODUCTS]]).is_err());
    }
}
