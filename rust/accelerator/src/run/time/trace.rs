//! Records what the units did: commands, their cycles, and why the units stood still.

use crate::counts::{UnitCounts, UNITS};
use crate::isa::{Command, Unit};
use crate::unit::QueueName;

/// Reason why a unit stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// No command has arrived.
    Command,
    /// A loop ends, and the next loop takes its bounds.
    Gap,
    /// Weights, row parameters or gains have not arrived.
    Memory,
    /// Patches have not arrived, or `input` is in use.
    Patches,
    /// Results that the unit reads are not stored yet.
    Result,
    /// Normalised tokens are not stored yet.
    Norm,
    /// Probabilities or their scales are not stored yet.
    Softmax,
    /// The requantizing lanes have not taken the sums of the previous tile.
    Lanes,
    /// The queue that the unit writes is full.
    Full,
}

impl Cause {
    /// All causes.
    pub const ALL: [Self; 9] = [
        Self::Command,
        Self::Gap,
        Self::Memory,
        Self::Patches,
        Self::Result,
        Self::Norm,
        Self::Softmax,
        Self::Lanes,
        Self::Full,
    ];

    /// Returns the cause of a wait for an item of a queue.
    pub(super) const fn of(queue: QueueName) -> Self {
        match queue {
            QueueName::Weights | QueueName::Rows | QueueName::Gains => Self::Memory,
            QueueName::LoadToArray | QueueName::ArrayToLoad => Self::Patches,
            QueueName::NormToArray => Self::Norm,
            QueueName::SoftmaxToArray | QueueName::Scales => Self::Softmax,
            _ => Self::Result,
        }
    }

    /// Returns the cause's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::Gap => "gap",
            Self::Memory => "memory",
            Self::Patches => "patches",
            Self::Result => "result",
            Self::Norm => "norm",
            Self::Softmax => "softmax",
            Self::Lanes => "lanes",
            Self::Full => "full",
        }
    }
}

/// Stalled cycles by [`Cause`], in the order of [`Cause::ALL`].
pub type Stalls = [u64; Cause::ALL.len()];

/// The run of one command on its unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Index of the segment.
    pub segment: usize,
    /// Index of the command in its segment.
    pub index: usize,
    /// The command.
    pub command: Command,
    /// Cycle in which the unit took the command.
    pub start: u64,
    /// First cycle after the command.
    pub end: u64,
    /// Cycles in which the unit worked.
    pub busy: u64,
    /// Cycles in which the unit stood still, by cause, since the end of the command before.
    pub stalls: Stalls,
}

impl Span {
    /// Returns the stalled cycles of one cause.
    pub const fn stall(&self, cause: Cause) -> u64 {
        self.stalls[cause as usize]
    }
}

/// Result of a replay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// All commands, in the order in which they ended on each unit.
    pub spans: Vec<Span>,
    /// Cycle in which each frame's logits and trailer are in memory.
    pub frames: Vec<u64>,
    /// Counts of the units, as the counters on the chip count them, in the order of
    /// [`CountedUnit::ALL`](crate::isa::CountedUnit::ALL).
    pub units: [UnitCounts; UNITS],
}

impl Trace {
    /// Returns a unit's commands, in order.
    pub fn unit(&self, unit: Unit) -> impl Iterator<Item = &Span> {
        self.spans
            .iter()
            .filter(move |span| span.command.unit() == unit)
    }

    /// Returns the last cycle of all units.
    pub fn end(&self) -> u64 {
        let spans = self.spans.iter().map(|span| span.end);
        spans
            .chain(self.frames.iter().copied())
            .max()
            .unwrap_or_default()
    }
}
