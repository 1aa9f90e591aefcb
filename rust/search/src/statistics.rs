//! Rank correlation between two scores of the same networks.
//!
//! Depends on [`quasar_core::error`] and `random`.

use quasar_core::error::{Error, Result};

use super::random::SplitMix64;

/// Kendall's tau-b of two score lists, and its bootstrap interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kendall {
    /// tau-b in [-1, 1]; NaN if one list is constant.
    pub tau: f64,
    /// Lower end of the confidence interval.
    pub low: f64,
    /// Upper end of the confidence interval.
    pub high: f64,
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
    Ok(tau_of(&mut pairs))
}

/// Computes [`kendall_tau`] with a percentile bootstrap interval (Efron 1979: `resamples` samples
/// of n networks with replacement, from `seed`).
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
    let tau = tau_of(&mut all.clone());
    if tau.is_nan() {
        return Ok(Kendall {
            tau,
            low: f64::NAN,
            high: f64::NAN,
        });
    }
    let mut random = SplitMix64::new(seed, all.len() as u64);
    let mut resample = all.clone();
    let mut taus: Vec<f64> = (0..resamples)
        .map(|_| {
            for pair in &mut resample {
                *pair = all[random.below(all.len())];
            }
            tau_of(&mut resample)
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

/// Computes tau-b and sorts the pairs.
fn tau_of(pairs: &mut [(f64, f64)]) -> f64 {
    // -0 and 0 are one value.
    for pair in pairs.iter_mut() {
        *pair = (pair.0 + 0.0, pair.1 + 0.0);
    }
    pairs.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let tied_x = tied(pairs, |a, b| a.0 == b.0);
    let tied_both = tied(pairs, |a, b| a == b);
    let mut y: Vec<f64> = pairs.iter().map(|pair| pair.1).collect();
    let discordant = sort_counting(&mut y);
    let tied_y = tied(&y, |a, b| a == b);
    let all = number_of_pairs(pairs.len());
    if tied_x == all || tied_y == all {
        return f64::NAN;
    }
    let untied = all + tied_both - tied_x - tied_y;
    let difference = untied as f64 - 2.0 * discordant as f64;
    let scale = ((all - tied_x) as f64).sqrt() * ((all - tied_y) as f64).sqrt();
    (difference / scale).clamp(-1.0, 1.0)
}

fn number_of_pairs(n: usize) -> u64 {
    let n = n as u64;
    n * n.saturating_sub(1) / 2
}

/// Returns the number of pairs of equal neighbours in a sorted list.
fn tied<T>(sorted: &[T], equal: impl FnMut(&T, &T) -> bool) -> u64 {
    let groups = sorted.chunk_by(equal);
    groups.map(|group| number_of_pairs(group.len())).sum()
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
