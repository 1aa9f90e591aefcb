//! quasar-core: subnet file, preprocessing and integer graph of `quasar_rt`. No `unsafe`, no Python.
//!
//! Modules stand in the order of a frame's path: a [`subnet`] file (whose matrices are mixed-precision [`rows`]) is read and
//! checked once; [`preprocess`] turns a decoded image into the one that the network sees.
//! Depends on `quasar-kernels` for the arithmetic, which `docs/integer-model.md` defines.

#![forbid(unsafe_code)]

pub mod error;
pub mod preprocess;
pub mod rows;
pub mod subnet;

pub use error::{Error, Result};
pub use subnet::Subnet;
