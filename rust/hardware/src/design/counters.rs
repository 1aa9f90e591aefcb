//! Declares the counters on the chip: four for each unit.

/// A unit whose work is counted. `fpga/rtl/counters.sv` and the registers have this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum CountedUnit {
    Fetch,
    Load,
    Plan,
    Array,
    Scores,
    Drain,
    Norm,
    Softmax,
    Store,
}

impl CountedUnit {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Fetch,
        Self::Load,
        Self::Plan,
        Self::Array,
        Self::Scores,
        Self::Drain,
        Self::Norm,
        Self::Softmax,
        Self::Store,
    ];

    /// Returns the unit's name: the kernel's, or `array`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fetch => "fetch",
            Self::Load => "load",
            Self::Plan => "plan",
            Self::Array => "array",
            Self::Scores => "scores",
            Self::Drain => "drain",
            Self::Norm => "norm",
            Self::Softmax => "softmax",
            Self::Store => "store",
        }
    }

    /// Returns the input whose absence starves the unit. If nothing on the chip shows it, this is
    /// `None` and the counter stays 0.
    pub const fn main_input(self) -> Option<MainInput> {
        match self {
            Self::Fetch | Self::Load => Some(MainInput::Memory),
            Self::Plan => None,
            Self::Array => Some(MainInput::Array),
            Self::Scores => Some(MainInput::Queue("scores")),
            Self::Drain => Some(MainInput::Queue("sums")),
            Self::Norm => Some(MainInput::Queue("moments")),
            Self::Softmax => Some(MainInput::Queue("maxima")),
            Self::Store => Some(MainInput::Queue("logits")),
        }
    }
}

/// The input whose absence starves a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MainInput {
    /// A queue: it is empty.
    Queue(&'static str),
    /// Memory: a read is outstanding and no beat arrives.
    Memory,
    /// Passes and weights: no pass runs, and the next one lacks its descriptor or weights.
    Array,
}

/// A counter of a unit, in the order of its registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Counter {
    /// Commands ended.
    Commands,
    /// Cycles with at least one command taken and not ended.
    Busy,
    /// Of the busy cycles: one of the unit's output queues refuses an item.
    Blocked,
    /// Of the busy cycles: the unit's main input has nothing.
    Starved,
}

impl Counter {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Commands, Self::Busy, Self::Blocked, Self::Starved];

    /// Returns the counter's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Commands => "commands",
            Self::Busy => "busy",
            Self::Blocked => "blocked",
            Self::Starved => "starved",
        }
    }
}
