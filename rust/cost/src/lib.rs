//! quasar-cost: cycles, throughput, latency and resources of the accelerator, from a configuration
//! and a network's sizes. For the host.
//!
//! Everything here is **modelled**: no figure comes from synthesis or from a board.
//! `docs/hardware-model.md` has the schedule, the formulas and the source of each constant.
//!
//! | module | what it does |
//! |---|---|
//! | `candidate` | holds the cost of a network without its layers |
//! | [`circuits`] | has the counts of circuits that stand for the HLS kernels |
//! | [`cycles`] | counts the cycles of each stage in closed form |
//! | [`resources`] | counts the resources of each part |
//! | [`estimate`] | models a frame, layer by layer |
//! | [`energy`] | estimates the energy of a frame from a board's assumed powers |
//! | [`explore`] | chooses array and lanes for a board and its networks |

#![forbid(unsafe_code)]

mod candidate;
pub mod circuits;
pub mod cycles;
pub mod energy;
pub mod estimate;
pub mod explore;
mod kernels;
mod lanes;
pub mod resources;

pub use candidate::Cost;
pub use energy::EnergyModel;
pub use estimate::{estimate, Estimate};
pub use explore::{explore, explore_by};
pub use resources::Resources;
