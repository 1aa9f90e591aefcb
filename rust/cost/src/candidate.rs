//! The cost of a network by the sums of its phases alone, as a search compares candidates.
//!
//! Depends on [`crate::cycles`].

use serde::Serialize;

use crate::cycles::Totals;

/// Cycles, frames a second and latency of a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Cost {
    /// Frames a second of the accelerator.
    pub fps: f64,
    /// Seconds of one frame alone.
    pub latency_s: f64,
    /// Cycles between two frames.
    pub period_cycles: u64,
    /// Cycles of one frame alone.
    pub latency_cycles: u64,
    /// Cycles that all transfers of a frame take.
    pub transfer_cycles: u64,
    /// Number of these transfers.
    pub transfers: u64,
    /// Row-pair products of the array.
    pub slot_macs: u64,
    /// True if the buffers hold the candidate.
    pub fits: bool,
}

impl Cost {
    /// Converts cycles to seconds.
    pub fn new(totals: &Totals, clock_hz: f64, fits: bool) -> Self {
        Self {
            fps: clock_hz / totals.period() as f64,
            latency_s: totals.alone() as f64 / clock_hz,
            period_cycles: totals.period(),
            latency_cycles: totals.alone(),
            transfer_cycles: totals.transfer,
            transfers: totals.transfers,
            slot_macs: totals.slot_macs,
            fits,
        }
    }
}
