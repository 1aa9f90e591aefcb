//! The CPU as a device.

use std::sync::atomic::AtomicBool;
use std::time::Instant;

use quasar_accelerator::host::driver::Counters;
use quasar_core::cpu::{FrameTime, NEVER};
use quasar_core::error::{Error, Result};
use quasar_core::preprocess::ImageView;
use quasar_core::Executor;

use crate::{Device, PendingFrame, Profile, State};

/// The CPU runs a frame to its end when the frame is begun.
impl Device for Executor {
    fn begin(&self, image: &ImageView) -> Result<PendingFrame> {
        let mut logits = vec![0; self.network().config().outputs()];
        let time = Executor::infer(self, image, &mut logits, &NEVER)?;
        Ok(PendingFrame {
            state: State::Done(logits, time.network),
            preprocess: time.preprocess,
            begun: Instant::now(),
        })
    }

    fn in_flight(&self) -> usize {
        1
    }

    fn infer(
        &self,
        image: &ImageView,
        logits: &mut [i32],
        cancel: &AtomicBool,
    ) -> Result<FrameTime> {
        Executor::infer(self, image, logits, cancel)
    }

    fn inject(&self, fault: &str, after_frames: u64) -> Result<()> {
        Err(Error::InvalidValue(format!(
            "the CPU has no fault {fault:?} after {after_frames} frames; \
             only a simulated device injects faults"
        )))
    }

    fn profile(&self, _: &ImageView, _: u64, _: &AtomicBool) -> Result<Profile> {
        Err(Error::InvalidValue(
            "the CPU has no counters; only an accelerator does".into(),
        ))
    }

    fn counters(&self) -> Result<Option<Counters>> {
        Ok(None)
    }
}
