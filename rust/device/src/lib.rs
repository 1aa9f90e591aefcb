//! quasar-device: one trait for what an engine runs frames on. No Python.
//!
//! | module | what it does |
//! |---|---|
//! | `cpu` | runs frames on the CPU's executor |
//! | `accelerator` | runs frames on an accelerator behind a transport |
//! | `open` | opens accelerators: simulated, or through Linux devices |

#![deny(unsafe_code)]

mod accelerator;
mod cpu;
pub mod open;

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use quasar_accelerator::counts::Counts;
use quasar_accelerator::host::driver::{Counters, Ticket};
use quasar_core::cpu::FrameTime;
use quasar_core::error::Result;
use quasar_core::preprocess::ImageView;

pub use self::accelerator::{Accelerator, Packer};

/// Runs frames: preprocessing on the host, the network on the device. Several threads may use it at
/// once, and forked processes too.
pub trait Device: Send + Sync {
    /// Preprocesses an image and starts its frame or queues it. The caller may wait for its frames
    /// in any order.
    ///
    /// # Errors
    /// [`Error::InvalidImage`]; the device's own error if it cannot be reached.
    fn begin(&self, image: &ImageView) -> Result<PendingFrame>;

    /// Returns the number of frames that keep the device busy. A caller with many images begins
    /// that number before it waits for the first. The number is that of the host; the hardware
    /// configuration's `frames` counts those that take turns on the array.
    fn in_flight(&self) -> usize;

    /// Preprocesses and runs one image to `logits` (one for each class).
    ///
    /// # Errors
    /// Those of [`Self::begin`] and of [`PendingFrame::wait`].
    fn infer(
        &self,
        image: &ImageView,
        logits: &mut [i32],
        cancel: &AtomicBool,
    ) -> Result<FrameTime> {
        let (result, time) = self.begin(image)?.wait(cancel)?;
        logits.copy_from_slice(&result);
        Ok(time)
    }

    /// Ends the driver, for the end of the process. Frames without an answer get an error, as do
    /// later ones. Returns false if the driver has not ended by `limit`.
    fn shut_down(&self, _limit: Instant) -> bool {
        true
    }

    /// Announces that the device will be closed: see [`FrameQueue::close_soon`].
    fn close_soon(&self) {}

    /// Ends the driver after the frames that were begun, as [`FrameQueue::finish`] does. Returns
    /// false if the driver has not ended.
    fn finish(&self, _cancel: &AtomicBool) -> bool {
        true
    }

    /// Makes a simulated device fail once: see [`Transport::inject`].
    ///
    /// # Errors
    /// [`Error::InvalidValue`] for a device that is not simulated.
    fn inject(&self, fault: &str, after_frames: u64) -> Result<()>;

    /// Returns true if the device has counters of its units.
    fn has_counters(&self) -> bool {
        false
    }

    /// Runs an image `frames` times, one frame after the other, and returns what the counters on
    /// the chip counted. No other frame may run at the same time.
    ///
    /// # Errors
    /// Those of [`Self::infer`] and of the counters; [`Error::InvalidValue`] for the CPU, for 0
    /// frames, or if other frames ran.
    fn profile(&self, image: &ImageView, frames: u64, cancel: &AtomicBool) -> Result<Profile>;

    /// Returns the counts of an accelerator's driver; `None` for the CPU.
    ///
    /// # Errors
    /// The device's own error if it cannot be reached.
    fn counters(&self) -> Result<Option<Counters>>;
}

/// Counts of frames that ran one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Frames.
    pub frames: u64,
    /// Counts of all frames, by the device.
    pub counted: Counts,
    /// Counts of one frame, by the event model.
    pub modelled: Counts,
}

/// A frame that was begun.
#[derive(Debug)]
pub struct PendingFrame {
    state: State,
    preprocess: Duration,
    begun: Instant,
}

#[derive(Debug)]
enum State {
    Done(Vec<i32>, Duration),
    Queued(Ticket),
}

impl PendingFrame {
    /// Waits for the frame's logits; also returns how long preprocessing and the rest took, the
    /// time in the queue included.
    ///
    /// # Errors
    /// The fault that hit this frame, or [`Error::Interrupted`].
    pub fn wait(self, cancel: &AtomicBool) -> Result<(Vec<i32>, FrameTime)> {
        let (logits, network) = match self.state {
            State::Done(logits, network) => (logits, network),
            State::Queued(ticket) => (ticket.wait(cancel)?, self.begun.elapsed()),
        };
        let time = FrameTime {
            preprocess: self.preprocess,
            network,
        };
        Ok((logits, time))
    }
}
