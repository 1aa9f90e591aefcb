//! Models the issue stage by the rules of `docs/array-timing.md`.

use quasar_core::error::{Error, Result};
use quasar_hardware::declared;

use super::buffer::{BufferLoader, Content};
use super::queues::Fifo;

/// A pass of a tile through the array.
#[derive(Clone, Copy, Debug)]
pub struct Pass {
    /// Columns.
    pub columns: u64,
    /// Cycles that the sums take to leave the chain.
    pub drain: u64,
    /// First cycle in which a column can be issued.
    pub ready: u64,
}

/// The cycles of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Issued {
    /// Cycle of the first column.
    pub start: u64,
    /// Cycle of the last column.
    pub end: u64,
    /// Cycles in which the pass waited for the chain.
    pub drain_stall: u64,
    /// Cycles in which the pass then waited for [`Pass::ready`].
    pub weight_stall: u64,
}

/// The issue stage. It counts only the cycles in which the array runs, not those of a stall.
#[derive(Clone, Copy, Debug, Default)]
pub struct Issue {
    /// First cycle in which a column can be issued.
    pub now: u64,
    /// First cycle in which the last column of a pass can be issued.
    pub chain: u64,
}

impl Issue {
    /// Issues a pass.
    pub fn pass(&mut self, pass: Pass) -> Issued {
        let chained = self.now.max((self.chain + 1).saturating_sub(pass.columns));
        let start = chained.max(pass.ready);
        let end = start + pass.columns - 1;
        let issued = Issued {
            start,
            end,
            drain_stall: chained - self.now,
            weight_stall: start - chained,
        };
        (self.now, self.chain) = (end + 1, end + pass.drain);
        issued
    }
}

/// Registers between issue and the operand registers of slice (0, 0), as `fpga/rtl/array.sv` has
/// them.
const ISSUE_DEPTH: u64 = 2;

/// Returns the cycle in which the first row pair of a pass has left the chain for all tokens.
/// `end`: cycle of the pass's last column. The operands reach the last slice after
/// `(tokens - 1) + (pairs - 1)` steps.
pub const fn aligned(end: u64, tokens: u64, pairs: u64) -> u64 {
    end + ISSUE_DEPTH + declared::SLICE_DEPTH + tokens + pairs - 2
}

/// An item of work for [`array_cycles`].
#[derive(Clone, Copy, Debug)]
pub enum Work {
    /// Weights of a tile of row pairs, with this number of columns, for the passes that follow.
    Weights(u64),
    /// A pass of a tile.
    Pass {
        /// Columns.
        columns: u64,
        /// Cycles that the sums take to leave the chain.
        drain: u64,
        /// The pass uses the weights of the last [`Work::Weights`].
        uses_weights: bool,
        /// The pass is the last one that uses them.
        releases: bool,
    },
}

/// Returns the cycles of passes on an array of `pairs` row pairs. The beats of the weights have
/// `beat_bytes` bytes and arrive every `beat_interval` cycles.
///
/// # Errors
/// [`Error::InvalidValue`] if a pass waits for weights that never arrive, or for a half that is
/// never given back.
pub fn array_cycles(
    pairs: u64,
    beat_bytes: u64,
    beat_interval: u64,
    work: &[Work],
) -> Result<Vec<Issued>> {
    let mut weights = BufferLoader::new(|_, _| Vec::new());
    weights.contents = work
        .iter()
        .filter_map(|work| match work {
            Work::Weights(columns) => Some((0, Content::weights(*columns, pairs, beat_bytes))),
            Work::Pass { .. } => None,
        })
        .collect();
    let (mut beats, mut issue, mut issued) = (Fifo::new(1), Issue::default(), Vec::new());
    let (mut ready, mut wanted) = (0, 0);
    for work in work {
        let Work::Pass {
            columns,
            drain,
            uses_weights,
            releases,
        } = *work
        else {
            wanted += 1;
            continue;
        };
        if uses_weights {
            while wanted > 0 {
                if let Some((at, ())) = weights.buffer.full.take(0) {
                    (ready, wanted) = (at, wanted - 1);
                    continue;
                }
                if beats.next().is_none() {
                    let taken = weights.now.saturating_sub(1);
                    beats.put(taken + beat_interval, ());
                }
                if !weights.advance(beat_bytes, &mut beats) {
                    return Err(Error::InvalidValue(
                        "a pass waits for ever: no half of the weights is given back".into(),
                    ));
                }
            }
        }
        let pass = issue.pass(Pass {
            columns,
            drain,
            ready: if uses_weights { ready } else { 0 },
        });
        if releases {
            weights.buffer.free.put(pass.end + 1, ());
        }
        issued.push(pass);
    }
    Ok(issued)
}
