//! The outputs of heads, and the best classes of integer logits.
//!
//! Depends on [`crate::subnet::config`].

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::subnet::config::Pool;

/// Returns the output of a head's row from its sum and its mantissa.
pub fn scaled(sum: i32, mult: i16) -> i32 {
    ((i64::from(sum) * i64::from(mult) + (1 << 14)) >> 15) as i32
}

/// Makes a frame's outputs of those of all tokens, `[tokens, rows]`: first the image's, which are
/// those of token 0 or the rounded mean of the patches, then those of each patch.
pub fn of_tokens(pool: Pool, prefix: usize, rows: usize, tokens: &[i32], outputs: &mut [i32]) {
    let (image, patches) = outputs.split_at_mut(rows);
    patches.copy_from_slice(&tokens[prefix * rows..]);
    if pool == Pool::Token {
        return image.copy_from_slice(&tokens[..rows]);
    }
    let count = (patches.len() / rows) as i64;
    for (row, image) in image.iter_mut().enumerate() {
        let outputs = patches[row..].iter().step_by(rows);
        let sum: i64 = outputs.map(|&output| i64::from(output)).sum();
        *image = (sum + count / 2).div_euclid(count) as i32;
    }
}

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
