//! Search for networks of a [`crate::space`]: as accurate as can be at every modelled frame rate.
//!
//! | module | what it does |
//! |---|---|
//! | [`nsga2`] | the search itself, as ask and tell; scores come from the caller, FPS from a [`CostModel`] |
//! | [`state`] | a search's scores as bytes, from which it goes on |
//! | [`pareto`] | fronts, crowding, hypervolume of two objectives |
//! | [`genome`] | genomes and sets of them |
//! | [`predictor`] | accuracy from genes, by ridge regression |
//! | [`proxy`] | a score without a checkpoint |
//! | [`knapsack`] | 8-bit fractions of a fixed architecture, exactly |
//! | [`statistics`] | Kendall's tau, its interval and p-value |
//!
//! Depends on [`crate::space`]; on [`crate::hardware`] in `costs` alone, which makes its tables a [`CostModel`].

// Ranks, fronts and ties are questions of equality.
#![allow(clippy::float_cmp)]

mod costs;
pub mod genome;
pub mod knapsack;
pub mod nsga2;
pub mod pareto;
pub mod predictor;
pub mod proxy;
mod random;
pub mod state;
pub mod statistics;

pub use genome::{Genomes, Genotype};
pub use nsga2::{Candidate, Cost, CostModel, Nsga2, Settings};
pub use predictor::Predictor;
