//! The multiple-choice knapsack, exactly: one choice for each item, additive value, whole-number
//! cost, a budget.
//!
//! With the architecture fixed and value and cycles additive over blocks (or matrices), choosing
//! 8-bit fractions is this problem; its exact answer is a yardstick for a search. Depends on
//! [`quasar_core::error`].
//!
//! Dynamic programming over lists of non-dominated (cost, value) states (Nemhauser and Ullmann
//! 1969; Kellerer, Pferschy and Pisinger, "Knapsack Problems", 2004, chapter 11): item by item,
//! every state is extended by every choice, and a state that costs no less and is worth no more
//! than another is dropped, which loses no optimum.

use quasar_core::error::{Error, Result};

/// Items, at most.
pub const MAX_ITEMS: usize = 4096;
/// Choices of an item, at most.
pub const MAX_CHOICES: usize = 4096;
/// States of one item, at most (24 bytes each): costs with that many different sums are refused.
pub const MAX_STATES: usize = 1 << 22;
/// States over all items, at most (8 bytes each).
pub const MAX_ORIGINS: usize = 1 << 26;

/// One choice for each item.
#[derive(Clone, Debug, PartialEq)]
pub struct Solution {
    /// Index of the choice of each item.
    pub choices: Vec<usize>,
    /// Sum of their values, in order of items.
    pub value: f64,
    /// Sum of their costs.
    pub cost: u64,
}

/// Values and costs of every item's choices, checked.
#[derive(Clone, Debug)]
pub struct Knapsack {
    items: Vec<Vec<(u64, f64)>>,
}

/// The origin of a state: the state before the item, and the item's choice.
#[derive(Clone, Copy)]
struct Origin {
    state: u32,
    choice: u16,
}

/// The last item's states by rising cost and value, and every item's origins.
type Table = (Vec<(u64, f64)>, Vec<Vec<Origin>>);

impl Knapsack {
    /// Checks the items: `values[i][c]` and `costs[i][c]` are the value and the cost of choice c of
    /// item i.
    ///
    /// # Errors
    /// [`Error::InvalidValue`]: nothing to choose from, shapes that differ, values that are not
    /// finite, costs whose sum exceeds 2^63.
    pub fn new(values: &[Vec<f64>], costs: &[Vec<u64>]) -> Result<Self> {
        let invalid = |problem: String| Err(Error::InvalidValue(problem));
        if values.len() != costs.len() || values.is_empty() || values.len() > MAX_ITEMS {
            return invalid(format!(
                "values are for {} items and costs for {}; both must be for the same 1 to {MAX_ITEMS}",
                values.len(),
                costs.len()
            ));
        }
        let mut largest = 0u64;
        let mut items = Vec::with_capacity(values.len());
        for (i, (values, costs)) in values.iter().zip(costs).enumerate() {
            if values.len() != costs.len() || values.is_empty() || values.len() > MAX_CHOICES {
                return invalid(format!(
                    "item {i} has {} values and {} costs; it must have the same number of both, 1 to {MAX_CHOICES}",
                    values.len(),
                    costs.len()
                ));
            }
            if let Some(value) = values.iter().find(|value| !value.is_finite()) {
                return invalid(format!("item {i} has a choice of value {value}"));
            }
            let most = costs.iter().copied().max().unwrap_or(0);
            largest = match largest.checked_add(most) {
                Some(sum) if sum < 1 << 63 => sum,
                _ => return invalid(format!("the costs up to item {i} can sum to 2^63 or more")),
            };
            items.push(costs.iter().copied().zip(values.iter().copied()).collect());
        }
        Ok(Self { items })
    }

    /// Finds the choices of greatest value within the budget; of equal values the cheaper.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] if even the cheapest choices exceed the budget (it names their
    /// cost); [`Error::TooLarge`] beyond [`MAX_STATES`].
    pub fn solve(&self, budget: u64) -> Result<Solution> {
        let cheapest = self.cheapest();
        if cheapest > budget {
            return Err(Error::InvalidValue(format!(
                "the budget is {budget}, but the cheapest choices cost {cheapest}"
            )));
        }
        let (states, origins) = self.run(budget, true)?;
        Ok(self.solution(states.len() - 1, &origins))
    }

    /// Finds every non-dominated sum of cost and value, by rising cost and value, up to a cost.
    ///
    /// # Errors
    /// [`Error::TooLarge`] beyond [`MAX_STATES`].
    pub fn front(&self, budget: u64) -> Result<Vec<Solution>> {
        if self.cheapest() > budget {
            return Ok(Vec::new());
        }
        let (states, origins) = self.run(budget, false)?;
        Ok((0..states.len())
            .map(|state| self.solution(state, &origins))
            .collect())
    }

    fn cheapest(&self) -> u64 {
        let least = |item: &Vec<(u64, f64)>| item.iter().map(|choice| choice.0).min();
        self.items.iter().filter_map(least).sum()
    }

    /// Extends the states item by item. With `bound`, also drops states that provably cannot lead
    /// to the best value within the budget.
    fn run(&self, budget: u64, bound: bool) -> Result<Table> {
        let rest = Relaxation::of_suffixes(&self.items);
        let floor = if bound {
            rest[0].greedy(budget) - 1e-9 * self.magnitude()
        } else {
            f64::NEG_INFINITY
        };
        let mut states = vec![(0u64, 0.0f64)];
        let mut origins: Vec<Vec<Origin>> = Vec::with_capacity(self.items.len());
        let mut total = 0;
        for (item, rest) in self.items.iter().zip(&rest[1..]) {
            let fits = |cost: u64| {
                cost.checked_add(rest.least)
                    .is_some_and(|all| all <= budget)
            };
            let mut next: Vec<(u64, f64, Origin)> =
                Vec::with_capacity(states.len().saturating_mul(item.len()).min(MAX_STATES));
            for (state, &(cost, value)) in states.iter().enumerate() {
                for (choice, &(c, v)) in item.iter().enumerate() {
                    let (cost, value) = (cost + c, value + v);
                    if fits(cost) && (!bound || value + rest.most(budget - cost) >= floor) {
                        let origin = Origin {
                            state: state as u32,
                            choice: choice as u16,
                        };
                        next.push((cost, value, origin));
                    }
                }
                if next.len() > MAX_STATES {
                    return Err(too_large(next.len(), MAX_STATES));
                }
            }
            // By cost, then by falling value, then by origin, so that ties have the same result
            // everywhere.
            next.sort_unstable_by(|a, b| {
                a.0.cmp(&b.0)
                    .then(b.1.total_cmp(&a.1))
                    .then((a.2.state, a.2.choice).cmp(&(b.2.state, b.2.choice)))
            });
            states.clear();
            let mut kept = Vec::new();
            for (cost, value, origin) in next {
                if states.last().is_none_or(|&(_, best)| value > best) {
                    states.push((cost, value));
                    kept.push(origin);
                }
            }
            total += kept.len();
            if total > MAX_ORIGINS {
                return Err(too_large(total, MAX_ORIGINS));
            }
            origins.push(kept);
        }
        Ok((states, origins))
    }

    /// Returns the sum of every item's largest absolute value: the scale of rounding errors.
    fn magnitude(&self) -> f64 {
        let largest = |item: &Vec<(u64, f64)>| item.iter().fold(0.0, |m: f64, c| m.max(c.1.abs()));
        self.items.iter().map(largest).sum()
    }

    fn solution(&self, mut state: usize, origins: &[Vec<Origin>]) -> Solution {
        let mut choices: Vec<usize> = origins
            .iter()
            .rev()
            .map(|origins| {
                let origin = origins[state];
                state = origin.state as usize;
                origin.choice as usize
            })
            .collect();
        choices.reverse();
        let (mut cost, mut value) = (0, 0.0);
        for (item, &choice) in self.items.iter().zip(&choices) {
            cost += item[choice].0;
            value += item[choice].1;
        }
        Solution {
            choices,
            value,
            cost,
        }
    }
}

fn too_large(states: usize, limit: usize) -> Error {
    Error::TooLarge {
        what: "the knapsack's list of different sums".into(),
        size: states as u64,
        limit: limit as u64,
        unit: "states; give costs in coarser units",
    }
}

/// The linear relaxation of the last items: the cheapest choices, then the steps of each item's
/// upper concave hull by falling slope.
struct Relaxation {
    /// Cost of the cheapest choices.
    least: u64,
    /// Value of the cheapest choices.
    value: f64,
    /// Cost and value of the steps taken so far, from nothing to all.
    steps: Vec<(u64, f64)>,
}

impl Relaxation {
    /// Returns a relaxation for all items, one for all but the first, ..., one for none.
    fn of_suffixes(items: &[Vec<(u64, f64)>]) -> Vec<Self> {
        let (mut least, mut value) = (0, 0.0);
        let mut slopes: Vec<(u64, f64)> = Vec::new();
        let mut all = vec![Self::new(least, value, &slopes)];
        for item in items.iter().rev() {
            let hull = concave_hull(item);
            least += hull[0].0;
            value += hull[0].1;
            slopes.extend(hull.windows(2).map(|w| (w[1].0 - w[0].0, w[1].1 - w[0].1)));
            slopes.sort_by(|a, b| (b.1 / b.0 as f64).total_cmp(&(a.1 / a.0 as f64)));
            all.push(Self::new(least, value, &slopes));
        }
        all.reverse();
        all
    }

    fn new(least: u64, value: f64, slopes: &[(u64, f64)]) -> Self {
        let mut steps = vec![(0, 0.0)];
        let (mut cost, mut gain) = (0, 0.0);
        for &(c, v) in slopes {
            cost += c;
            gain += v;
            steps.push((cost, gain));
        }
        Self {
            least,
            value,
            steps,
        }
    }

    /// Returns an upper bound of the value within a budget of at least `least`.
    fn most(&self, budget: u64) -> f64 {
        let room = budget - self.least;
        let at = self.steps.partition_point(|step| step.0 <= room) - 1;
        let (cost, gain) = self.steps[at];
        let part = self.steps.get(at + 1).map_or(0.0, |next| {
            (next.1 - gain) * ((room - cost) as f64 / (next.0 - cost) as f64)
        });
        self.value + gain + part
    }

    /// Returns the value of choices within the budget: whole steps only, in order. Each item's
    /// steps have falling slopes, so a prefix is a choice.
    fn greedy(&self, budget: u64) -> f64 {
        let at = self
            .steps
            .partition_point(|step| step.0 <= budget - self.least)
            - 1;
        self.value + self.steps[at].1
    }
}

/// Returns the upper concave hull from the cheapest choice (of those the best) to the best, by
/// rising cost and falling slope.
fn concave_hull(item: &[(u64, f64)]) -> Vec<(u64, f64)> {
    let mut sorted = item.to_vec();
    sorted.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(b.1.total_cmp(&a.1)));
    let mut hull: Vec<(u64, f64)> = Vec::new();
    for point in sorted {
        if hull.last().is_some_and(|last| point.1 <= last.1) {
            continue;
        }
        while let [.., a, b] = hull[..] {
            let slope = |p: (u64, f64), q: (u64, f64)| (q.1 - p.1) / (q.0 - p.0) as f64;
            if slope(a, b) > slope(b, point) {
                break;
            }
            hull.pop();
        }
        hull.push(point);
    }
    hull
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deep_network_by_matrix_is_solved() {
        // 14 blocks of 4 matrices with 5 fractions each: 5^56 combinations.
        let rows = [576u64, 192, 768, 192];
        let (values, costs): (Vec<Vec<f64>>, Vec<Vec<u64>>) = (0..56)
            .map(|i| {
                let weight = 1.0 + (i * 7919 % 101) as f64 / 10.0;
                let value = |c: usize| weight * (1.0 - (1.0 - c as f64 / 4.0).powi(2));
                let cost = |c: usize| rows[i % 4] * c as u64 / 4 * 25;
                ((0..5).map(value).collect(), (0..5).map(cost).collect())
            })
            .unzip();
        let knapsack = Knapsack::new(&values, &costs).unwrap();
        let most: u64 = costs.iter().map(|c| c[4]).sum();
        let half = knapsack.solve(most / 2).unwrap();
        assert!(half.cost <= most / 2);
        let by_front = knapsack.front(most / 2).unwrap();
        assert!((by_front.last().unwrap().value - half.value).abs() < 1e-9);
        assert_eq!(knapsack.solve(most).unwrap().choices, [4; 56]);
        assert_eq!(knapsack.solve(0).unwrap().choices, [0; 56]);
    }
}
