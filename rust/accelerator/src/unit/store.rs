//! The steps of store.

use super::{Contents, QueueName, Step, Steps};

/// Lists store's steps for a frame: it takes the logits of each head in turn, then the check.
pub fn frame_end(logits: usize, heads: usize) -> Steps {
    let of_head = move |later: usize| {
        let contents = Contents::Logits {
            later: later as u16,
        };
        Step::Take(QueueName::Logits, logits / heads, contents)
    };
    let checks = Step::Take(QueueName::Checks, 1, Contents::Check);
    let steps: Vec<_> = (0..heads).rev().map(of_head).chain([checks]).collect();
    steps.into_iter()
}
