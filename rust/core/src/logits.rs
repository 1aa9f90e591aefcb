//! Probabilities and best classes of integer logits.

/// Returns the probabilities of integer logits: softmax of `scale * logit` in float64.
pub fn softmax(logits: &[i32], scale: f64) -> Vec<f64> {
    let largest = logits.iter().copied().max().unwrap_or(0);
    let mut p: Vec<f64> = logits
        .iter()
        .map(|&l| ((i64::from(l) - i64::from(largest)) as f64 * scale).exp())
        .collect();
    let sum: f64 = p.iter().sum();
    for p in &mut p {
        *p /= sum;
    }
    p
}

/// Returns the `k` classes with the largest logits, best first; of equals the lower class first.
pub fn top_k(logits: &[i32], k: usize) -> Vec<usize> {
    let rank = |&class: &usize| (std::cmp::Reverse(logits[class]), class);
    let mut order: Vec<usize> = (0..logits.len()).collect();
    if 0 < k && k < order.len() {
        order.select_nth_unstable_by_key(k - 1, rank);
    }
    order.truncate(k);
    order.sort_unstable_by_key(rank);
    order
}
