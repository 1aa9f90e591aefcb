//! Work that Ctrl-C can end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use pyo3::prelude::*;

use crate::errors::to_py;

/// The interval at which Python checks for signals during long work.
const SIGNAL_INTERVAL: Duration = Duration::from_millis(50);

/// Runs `work` in a thread of its own. The calling thread, which may be Python's main thread,
/// checks for signals meanwhile and cancels the work on one.
pub fn interruptible<T: Send>(
    work: impl FnOnce(&AtomicBool) -> quasar_core::Result<T> + Send,
) -> PyResult<T> {
    let cancel = AtomicBool::new(false);
    let mut work = Some(work);
    let outcome = thread::scope(|scope| {
        let (done, finished) = mpsc::channel();
        let (work, cancelled) = (&mut work, &cancel);
        let spawned = thread::Builder::new().spawn_scoped(scope, move || {
            if let Some(work) = work.take() {
                // The receiver waits for this message, so sending cannot fail.
                let _ = done.send(work(cancelled));
            }
        });
        let worker = spawned.ok()?;
        let mut signal = Ok(());
        loop {
            match finished.recv_timeout(SIGNAL_INTERVAL) {
                Ok(result) => return Some(signal.and(result.map_err(to_py))),
                Err(RecvTimeoutError::Disconnected) => match worker.join() {
                    Ok(()) => return None,
                    Err(panic) => std::panic::resume_unwind(panic),
                },
                Err(RecvTimeoutError::Timeout) if signal.is_ok() => {
                    // A daemon thread may wait beyond the interpreter's end.
                    signal = Python::try_attach(|py| py.check_signals()).unwrap_or(Ok(()));
                    cancel.store(signal.is_err(), Ordering::Relaxed);
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    });
    match (outcome, work) {
        (Some(result), _) => result,
        // No thread could be started: signals wait until the work is done.
        (None, Some(work)) => work(&cancel).map_err(to_py),
        (None, None) => unreachable!("work that was begun has an outcome"),
    }
}
