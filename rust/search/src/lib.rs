//! quasar-search: searches a space for the most accurate network at every modelled frame rate. For
//! the host.
//!
//! | module | what it does |
//! |---|---|
//! | [`space`] | defines the family of networks and the genomes of its members |
//! | [`workload`] | computes the accelerator's workload of a space's networks |
//! | [`explore`] | chooses the accelerator's configuration for a space |
//! | [`tables`] | looks up costs for millions of genomes a second |
//! | [`designs`] | gives each network the configuration that suits it best, of several |
//! | [`nsga2`] | runs NSGA-II as ask and tell: the caller scores, a [`CostModel`] gives FPS |
//! | [`pareto`] | computes fronts, crowding and hypervolume of two objectives |
//! | [`genome`] | holds genomes and sets of them |
//! | [`surface`] | predicts scores from few samples, by polynomials of genes and positions |
//! | [`additive`] | computes the front of scores and costs that add up, exactly or quickly |
//! | [`proxy`] | computes a score without a checkpoint |
//! | [`widths`] | chooses the 8-bit rows of a given network for a number of cycles |
//! | [`knapsack`] | makes the best of additive values and costs, exactly |
//! | [`statistics`] | computes Kendall's tau and its interval |

#![forbid(unsafe_code)]
// Ranks, fronts and ties need exact comparisons of floats.
#![allow(clippy::float_cmp)]

pub mod additive;
pub mod designs;
pub mod explore;
pub mod genome;
pub mod knapsack;
pub mod nsga2;
pub mod pareto;
pub mod proxy;
mod random;
pub mod space;
pub mod statistics;
pub mod surface;
pub mod tables;
pub mod widths;
pub mod workload;

pub use additive::{best_front, BestFront, CostShares, Objective};
pub use designs::{Design, Designs, Limits};
pub use explore::{explore_space, explore_space_by};
pub use genome::{Genomes, Genotype};
pub use nsga2::{Candidate, Cost, CostModel, Nsga2, Settings, Strategy};
pub use space::Space;
pub use tables::CostTable;
