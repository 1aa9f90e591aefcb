//! Frames that a caller cancels while they run. Depends on [`crate::error`].

use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

/// The flag of frames that are never cancelled.
pub static NEVER: AtomicBool = AtomicBool::new(false);

/// Returns an error if the frame is cancelled.
pub(super) fn check(cancel: &AtomicBool) -> Result<()> {
    if cancel.load(Ordering::Relaxed) {
        Err(Error::Interrupted)
    } else {
        Ok(())
    }
}
