//! Rank correlation between two scores of the same networks.
//!
//! Depends on [`quasar_core::error`] and `random`.

use quasar_core::error::{Error, Result};

use super::random::SplitMix64;

/// Observations up to which the p-value of tau is exact (where there are no ties).
const EXACT: usize = 50;

/// Kendall's tau-b of two score lists, its bootstrap interval and its p-value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kendall {
    /// tau-b in [-1, 1]; NaN if one list is constant.
    pub tau: f64,
    /// Lower end of the confidence interval.
    pub low: f64,
    /// Upper end of the confidence interval.
    pub high: f64,
    /// Probability of a tau at least this far from 0 if the lists were independent (two-sided).
    pub p_value: f64,
}

/// Computes Kendall's tau-b (Kendall 1945): concordant minus discordant pairs over the geometric
/// mean of the numbers of pairs that are not tied in each list. Knight's algorithm (1966), O(n log
/// n). NaN if one list is constant.
///
/// # Errors
/// [`Error::InvalidValue`] for lists of different lengths, of fewer than two values, or with a
/// value that is not finite.
pub fn kendall_tau(x: &[f64], y: &[f64]) -> Result<f64> {
    check(x, y)?;
    let mut pairs: Vec<(f64, f64)> = x.iter().copied().zip(y.iter().copied()).collect();
    Ok(Pairs::count(&mut pairs).tau())
}

/// Computes [`kendall_tau`] with a percentile bootstrap interval (Efron 1979: `resamples` samples
/// of n networks with replacement, from `seed`) and a p-value: exact (Kendall and Gibbons 1990,
/// recurrence over inversions) without ties up to 50 networks, otherwise from the normal
/// approximation with the variance that accounts for ties.
///
/// The interval is that of tau over other networks from the same population. Below about ten
/// networks it is rough.
///
/// # Errors
/// As [`kendall_tau`]; also for a `confidence` outside (0, 1) or no resamples.
pub fn kendall(
    x: &[f64],
    y: &[f64],
    confidence: f64,
    resamples: usize,
    seed: u64,
) -> Result<Kendall> {
    check(x, y)?;
    let sound = confidence > 0.0 && confidence < 1.0 && (1..=1_000_000).contains(&resamples);
    if !sound {
        return Err(Error::InvalidValue(format!(
            "confidence {confidence} must be between 0 and 1, and resamples {resamples} between 1 and 1000000"
        )));
    }
    let all: Vec<(f64, f64)> = x.iter().copied().zip(y.iter().copied()).collect();
    let counts = Pairs::count(&mut all.clone());
    let tau = counts.tau();
    if tau.is_nan() {
        return Ok(Kendall {
            tau,
            low: f64::NAN,
            high: f64::NAN,
            p_value: f64::NAN,
        });
    }
    let mut random = SplitMix64::new(seed, all.len() as u64);
    let mut resample = all.clone();
    let mut taus: Vec<f64> = (0..resamples)
        .map(|_| {
            for pair in &mut resample {
                *pair = all[random.below(all.len())];
            }
            Pairs::count(&mut resample).tau()
        })
        // A resample that is constant in one list has no tau.
        .filter(|tau| !tau.is_nan())
        .collect();
    taus.sort_unstable_by(f64::total_cmp);
    let tail = (1.0 - confidence) / 2.0;
    Ok(Kendall {
        tau,
        low: quantile(&taus, tail).unwrap_or(f64::NAN),
        high: quantile(&taus, 1.0 - tail).unwrap_or(f64::NAN),
        p_value: counts.p_value(),
    })
}

fn check(x: &[f64], y: &[f64]) -> Result<()> {
    if x.len() != y.len() || x.len() < 2 {
        return Err(Error::InvalidValue(format!(
            "rank correlation takes two lists of the same length, at least 2; these have {} and {}",
            x.len(),
            y.len()
        )));
    }
    match x.iter().chain(y).find(|value| !value.is_finite()) {
        Some(value) => Err(Error::InvalidValue(format!(
            "a score is {value}; rank correlation takes finite numbers"
        ))),
        None => Ok(()),
    }
}

/// Interpolates linearly between order statistics.
fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let place = share * (sorted.len().checked_sub(1)?) as f64;
    let below = place.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    Some(sorted[below] + (place - place.floor()) * (sorted[above] - sorted[below]))
}

/// Numbers of pairs, and the terms of the ties in the variance of their difference.
struct Pairs {
    n: u64,
    /// Concordant minus discordant.
    difference: i64,
    discordant: u64,
    ties: [Ties; 2],
}

/// Sums over the groups of t equal values of one list.
#[derive(Clone, Copy, Default)]
struct Ties {
    /// Sum of t(t-1)/2.
    pairs: u64,
    /// Sum of t(t-1)(t-2).
    triples: f64,
    /// Sum of t(t-1)(2t+5).
    variance: f64,
}

impl Ties {
    fn of(lengths: impl Iterator<Item = usize>) -> Self {
        lengths.fold(Self::default(), |sum, t| {
            let t = t as f64;
            Self {
                pairs: sum.pairs + (t * (t - 1.0) / 2.0) as u64,
                triples: sum.triples + t * (t - 1.0) * (t - 2.0),
                variance: sum.variance + t * (t - 1.0) * (2.0 * t + 5.0),
            }
        })
    }
}

impl Pairs {
    fn count(pairs: &mut [(f64, f64)]) -> Self {
        // -0 and 0 are one value.
        for pair in pairs.iter_mut() {
            *pair = (pair.0 + 0.0, pair.1 + 0.0);
        }
        pairs.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
        let tied_x = Ties::of(pairs.chunk_by(|a, b| a.0 == b.0).map(<[_]>::len));
        let tied_both = Ties::of(pairs.chunk_by(|a, b| a == b).map(<[_]>::len));
        let mut y: Vec<f64> = pairs.iter().map(|pair| pair.1).collect();
        let discordant = sort_counting(&mut y);
        let tied_y = Ties::of(y.chunk_by(|a, b| a == b).map(<[_]>::len));
        let n = pairs.len() as u64;
        let untied = n * (n - 1) / 2 + tied_both.pairs - tied_x.pairs - tied_y.pairs;
        Self {
            n,
            difference: untied as i64 - 2 * discordant as i64,
            discordant,
            ties: [tied_x, tied_y],
        }
    }

    fn tau(&self) -> f64 {
        let all = self.n * (self.n - 1) / 2;
        let [x, y] = self.ties.map(|ties| (all - ties.pairs) as f64);
        if x == 0.0 || y == 0.0 {
            return f64::NAN;
        }
        (self.difference as f64 / (x.sqrt() * y.sqrt())).clamp(-1.0, 1.0)
    }

    fn p_value(&self) -> f64 {
        let [x, y] = &self.ties;
        let n = self.n as f64;
        if x.pairs == 0 && y.pairs == 0 && self.n as usize <= EXACT {
            let all = self.n * (self.n - 1) / 2;
            return exact_p(self.n as usize, self.discordant.min(all - self.discordant));
        }
        let (px, py) = (x.pairs as f64, y.pairs as f64);
        let mut variance = (n * (n - 1.0) * (2.0 * n + 5.0) - x.variance - y.variance) / 18.0
            + 4.0 * px * py / (2.0 * n * (n - 1.0));
        if self.n > 2 {
            variance += x.triples * y.triples / (9.0 * n * (n - 1.0) * (n - 2.0));
        }
        erfc(self.difference.unsigned_abs() as f64 / (2.0 * variance).sqrt())
    }
}

/// Sorts; returns the number of pairs that were in the wrong order (merge sort).
fn sort_counting(values: &mut [f64]) -> u64 {
    let n = values.len();
    if n < 2 {
        return 0;
    }
    let (left, right) = values.split_at_mut(n / 2);
    let mut swaps = sort_counting(left) + sort_counting(right);
    let mut merged = Vec::with_capacity(n);
    let (mut l, mut r) = (0, 0);
    while l < left.len() && r < right.len() {
        if right[r] < left[l] {
            swaps += (left.len() - l) as u64;
            merged.push(right[r]);
            r += 1;
        } else {
            merged.push(left[l]);
            l += 1;
        }
    }
    merged.extend_from_slice(&left[l..]);
    merged.extend_from_slice(&right[r..]);
    values.copy_from_slice(&merged);
    swaps
}

/// Returns the two-sided p-value: the share of permutations of n with at most `inversions`
/// inversions, twice (at most 1).
fn exact_p(n: usize, inversions: u64) -> f64 {
    let top = inversions as usize;
    // share[k]: the share of permutations of i elements with k inversions.
    let mut share = vec![0.0; top + 1];
    share[0] = 1.0;
    for i in 2..=n {
        let mut next = vec![0.0; top + 1];
        let mut window = 0.0;
        for k in 0..=top {
            window += share[k];
            if k >= i {
                window -= share[k - i];
            }
            next[k] = window / i as f64;
        }
        share = next;
    }
    (2.0 * share.iter().sum::<f64>()).min(1.0)
}

/// Computes the complementary error function for x >= 0, to a relative error of 1.2e-7 (Press et
/// al., Numerical Recipes, erfcc).
fn erfc(x: f64) -> f64 {
    const C: [f64; 10] = [
        -1.265_512_23,
        1.000_023_68,
        0.374_091_96,
        0.096_784_18,
        -0.186_288_06,
        0.278_868_07,
        -1.135_203_98,
        1.488_515_87,
        -0.822_152_23,
        0.170_872_77,
    ];
    let t = 1.0 / (1.0 + 0.5 * x);
    let polynomial = C.iter().rev().fold(0.0, |sum, c| sum * t + c);
    t * (-x * x + polynomial).exp()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Computes tau-b by its definition, over all pairs.
    fn by_definition(x: &[f64], y: &[f64]) -> f64 {
        let (mut difference, mut untied_x, mut untied_y) = (0.0, 0.0, 0.0);
        for i in 0..x.len() {
            for j in 0..i {
                let sign = |a: f64, b: f64| f64::from(i8::from(a > b) - i8::from(a < b));
                difference += sign(x[i], x[j]) * sign(y[i], y[j]);
                untied_x += sign(x[i], x[j]).abs();
                untied_y += sign(y[i], y[j]).abs();
            }
        }
        difference / f64::sqrt(untied_x * untied_y)
    }

    proptest! {
        #[test]
        fn tau_is_that_of_the_definition(
            pairs in proptest::collection::vec((0u8..9, 0u8..9), 2..40),
        ) {
            let pairs = pairs.into_iter().map(|(a, b)| (f64::from(a), f64::from(b)));
            let (x, y): (Vec<f64>, Vec<f64>) = pairs.unzip();
            let (tau, expected) = (kendall_tau(&x, &y).unwrap(), by_definition(&x, &y));
            prop_assert!((tau - expected).abs() < 1e-12 || tau.is_nan() && expected.is_nan());
        }
    }

    #[test]
    fn known_values() {
        // scipy.stats.kendalltau(x, y), documented example: tau -0.4714, p 0.2827 (ties, so the
        // normal approximation).
        let (x, y) = ([12.0, 2.0, 1.0, 12.0, 2.0], [1.0, 4.0, 7.0, 1.0, 0.0]);
        let result = kendall(&x, &y, 0.95, 200, 0).unwrap();
        assert!((result.tau + 0.471_404_520_791_031_7).abs() < 1e-12);
        assert!((result.p_value - 0.282_745_459_932_775).abs() < 1e-6);
        // Without ties: 4 of 28 pairs discordant. The exact p-value from the numbers of
        // permutations of 8 with up to 4 inversions.
        let x: Vec<f64> = (0..8).map(f64::from).collect();
        let y = [1.0, 0.0, 3.0, 2.0, 5.0, 4.0, 7.0, 6.0];
        let result = kendall(&x, &y, 0.95, 200, 0).unwrap();
        assert!((result.tau - 20.0 / 28.0).abs() < 1e-12);
        let permutations = [1.0, 7.0, 27.0, 76.0, 174.0];
        assert!((result.p_value - 2.0 * permutations.iter().sum::<f64>() / 40320.0).abs() < 1e-12);
    }

    #[test]
    fn the_interval_holds_tau_and_is_a_function_of_the_seed() {
        let mut random = SplitMix64::new(3, 0);
        let x: Vec<f64> = (0..40).map(|_| random.unit()).collect();
        let y: Vec<f64> = x.iter().map(|x| x + random.unit()).collect();
        let first = kendall(&x, &y, 0.95, 2000, 1).unwrap();
        assert_eq!(first, kendall(&x, &y, 0.95, 2000, 1).unwrap());
        assert_ne!(first, kendall(&x, &y, 0.95, 2000, 2).unwrap());
        assert!(first.low < first.tau && first.tau < first.high && first.high < 1.0);
        let wider = kendall(&x, &y, 0.99, 2000, 1).unwrap();
        assert!(wider.low < first.low && wider.high > first.high);
    }

    #[test]
    fn unusable_lists_are_refused_and_constant_ones_have_no_tau() {
        for (x, y) in [
            (&[1.0][..], &[1.0][..]),
            (&[1.0, 2.0], &[1.0]),
            (&[1.0, f64::NAN], &[1.0, 2.0]),
        ] {
            assert_eq!(kendall_tau(x, y).unwrap_err().kind(), "InvalidValue");
        }
        assert!(kendall(&[1.0, 2.0], &[1.0, 2.0], 1.0, 10, 0).is_err());
        let result = kendall(&[1.0, 1.0, 1.0], &[1.0, 2.0, 3.0], 0.95, 10, 0).unwrap();
        assert!(result.tau.is_nan() && result.p_value.is_nan());
    }
}
