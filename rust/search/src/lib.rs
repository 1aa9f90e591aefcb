//! quasar-search: searches a space for the most accurate network at every modelled frame rate. For
//! the host.
//!
//! | module | what it does |
//! |---|---|
//! | [`space`] | defines the family of networks and the genomes of its members |
//! | [`workload`] | computes the accelerator's workload of a space's networks |
//! | [`explore`] | chooses the accelerator's configuration for a space |
//! | [`tables`] | looks up costs for millions of genomes a second |
//! | [`nsga2`] | runs NSGA-II as ask and tell: the caller scores, a [`CostModel`] gives FPS |
//! | [`pareto`] | computes fronts, crowding and hypervolume of two objectives |
//! | [`genome`] | holds genomes and sets of them |
//! | [`predictor`] | predicts accuracy from genes, by ridge regression |
//! | [`proxy`] | computes a score without a checkpoint |
//! | [`knapsack`] | chooses 8-bit fractions of a fixed architecture, exactly |
//! | [`statistics`] | computes Kendall's tau, its interval and p-value |

#![forbid(unsafe_code)]
// Ranks, fronts and ties need exact comparisons of floats.
#![allow(clippy::float_cmp)]

mod costs;
pub mod explore;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod genome;
pub mod knapsack;
pub mod nsga2;
pub mod pareto;
pub mod predictor;
pub mod proxy;
mod random;
pub mod space;
pub mod statistics;
pub mod tables;
pub mod workload;

pub use explore::explore_space;
pub use genome::{Genomes, Genotype};
pub use nsga2::{Candidate, Cost, CostModel, Nsga2, Settings};
pub use predictor::Predictor;
pub use space::Space;
pub use tables::CostTable;
