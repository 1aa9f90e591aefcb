//! Declares what the counters on the chip count, and what the event model counts in their place.

use crate::isa::CountedUnit;

/// Number of units with counters.
pub const UNITS: usize = CountedUnit::ALL.len();

/// Counts of a unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnitCounts {
    /// Commands that ended.
    pub commands: u64,
    /// Cycles in which the unit had a command that it had taken but not ended.
    pub busy: u64,
    /// Busy cycles in which an output queue was full.
    pub blocked: u64,
    /// Busy cycles in which the main input was empty; 0 for a unit whose input is not observable.
    pub starved: u64,
}

/// Counts of all units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Cycles of the kernels' clock.
    pub cycles: u64,
    /// The units, in the order of [`CountedUnit::ALL`].
    pub units: [UnitCounts; UNITS],
}

impl Counts {
    /// Returns the counts of a unit.
    pub const fn unit(&self, unit: CountedUnit) -> UnitCounts {
        self.units[unit as usize]
    }
}
