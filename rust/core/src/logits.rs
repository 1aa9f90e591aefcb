//! The best classes of integer logits.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Returns the class with the largest logit, the lowest of equals; `None` if there are no classes.
pub fn first(logits: &[i32]) -> Option<usize> {
    let largest = logits.iter().max()?;
    logits.iter().position(|logit| logit == largest)
}

/// Returns the `k` classes with the largest logits, best first, and their probabilities: softmax of
/// `scale * logit` in float64. Of equals, the lower class comes first.
pub fn best(logits: &[i32], scale: f64, k: usize) -> Vec<(usize, f64)> {
    let k = k.min(logits.len());
    let largest = logits.iter().copied().max().unwrap_or(0);
    let exp = |logit: i32| ((i64::from(logit) - i64::from(largest)) as f64 * scale).exp();
    let sum: f64 = logits.iter().map(|&logit| exp(logit)).sum();
    // The last one of them is on top.
    let mut best = BinaryHeap::with_capacity(k);
    for rank in logits.iter().map(|&logit| Reverse(logit)).zip(0..) {
        if best.len() < k {
            best.push(rank);
        } else if let Some(mut last) = best.peek_mut().filter(|last| rank < **last) {
            *last = rank;
        }
    }
    (best.into_sorted_vec().into_iter())
        .map(|(Reverse(logit), class)| (class, exp(logit) / sum))
        .collect()
}
