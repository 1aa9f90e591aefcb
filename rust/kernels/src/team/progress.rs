//! Counts the steps of which something is done, for each item of work in steps.

use super::sync::{AtomicUsize, Ordering};

/// The number of steps of an item of which something is done. Items of two threads share no line,
/// nor a pair of lines that are fetched together.
#[derive(Default)]
#[repr(align(128))]
pub(super) struct Progress {
    /// A thread works on them, or did.
    pub(super) begun: AtomicUsize,
    /// The first part is done.
    pub(super) shown: AtomicUsize,
    pub(super) done: AtomicUsize,
}

impl Progress {
    pub(super) fn reset(&self) {
        for steps in [&self.begun, &self.shown, &self.done] {
            steps.store(0, Ordering::Relaxed);
        }
    }
}
