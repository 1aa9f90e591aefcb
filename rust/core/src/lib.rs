//! quasar-core: subnet file, preprocessing and integer graph of `quasar_rt`. No `unsafe`, no
//! Python.
//!
//! Modules in the order of a frame's path:
//!
//! | module | what it does | what comes out |
//! |---|---|---|
//! | [`subnet`] | reads, checks and writes the file; its matrices are mixed-precision [`rows`] | [`Subnet`] |
//! | [`network`] | packs the weights for one SIMD tier | [`Network`] |
//! | [`preprocess`] | converts colour, resizes, crops, cuts patches | `u8` image, patch codes |
//! | [`cpu`] | runs the graph on any number of threads | `i32` logits |
//! | [`logits`] | puts outputs in order, computes softmax and top k, for every device | classes, `f64` probabilities |
//! | [`embedding`] | makes a vector of the embedding's codes, for every device | `f32` of length 1 |
//! | [`trace`] | records intermediates or times on the way | [`trace::Trace`] |
//! | [`nibble_check`] | runs the linear layers again as an accelerator does, in nibbles | differences |
//!
//! [`error`], [`memory`], [`cache`] and the threads of [`pool`] are below them all. The arithmetic
//! is `quasar-kernels`', as `docs/integer-model.md` defines it.

#![forbid(unsafe_code)]

pub mod cache;
pub mod cpu;
pub mod embedding;
pub mod error;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod logits;
pub mod memory;
pub mod network;
pub mod nibble_check;
pub mod pool;
pub mod preprocess;
pub mod rows;
pub mod subnet;
pub mod trace;

pub use cpu::Executor;
pub use error::{Error, Result};
pub use network::Network;
pub use quasar_kernels::scalar::EXP2;
pub use quasar_kernels::{Kernels, Rotary, Storage, Tier};
pub use subnet::Subnet;
