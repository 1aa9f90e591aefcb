//! The hardware model: cycles, throughput, latency and resources of the accelerator, from a configuration and a network's sizes.
//!
//! **Modelled**, all of it: no figure here comes from synthesis or from a board. `docs/hardware-model.md` has the schedule, the formulas
//! and where each constant comes from.
//!
//! | module | what it does |
//! |---|---|
//! | [`boards`] | reads what a board offers |
//! | [`configuration`] | array, lanes, buffers, clock, mode |
//! | [`workload`] | a network's sizes and row widths |
//! | [`packing`] | two products in one DSP slice, and for how long |
//! | [`cycles`] | the formulas, stage by stage |
//! | [`resources`] | the formulas, part by part |
//! | [`estimate`] | one frame, layer by layer |
//! | [`tables`] | the same as look-ups, for search |
//! | [`explore`] | picks array and lanes for a board |

pub mod boards;
pub mod configuration;
pub mod cycles;
pub mod estimate;
pub mod explore;
pub mod packing;
pub mod resources;
pub mod tables;
pub mod workload;

pub use boards::Board;
pub use configuration::{Configuration, Hardware, Mode};
pub use estimate::{estimate, Cost, Estimate};
pub use explore::{explore, explore_space};
pub use resources::Resources;
pub use tables::CostTable;
pub use workload::Workload;

#[cfg(test)]
mod tests;
