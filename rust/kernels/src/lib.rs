//! Integer kernels of the row-wise quantized Vision Transformer.
//!
//! The only crate with SIMD and `unsafe` numerics (and the `unsafe` of lending work to threads).
//! The arithmetic is defined in `docs/integer-model.md`; every tier gives the same bits. The crate
//! depends on nothing.
//!
//! | module | what it holds |
//! |---|---|
//! | `tier` | the tiers, and which of them this CPU runs |
//! | `detect` | features of CPUs that the standard library does not detect |
//! | `matrix` | checked views of matrices |
//! | `layers` | parameters of layers and heads, and working memory |
//! | `kernels` | the entry points: check sizes, then run a tier |
//! | [`scalar`] | the reference: the document's formulas in plain Rust |
//! | `tiled` | packing, tiling and edges of the SIMD tiers |
//! | `x86`, `neon`, `neon32` | the SIMD tiers: tiles and epilogues |
//! | [`image`] | resampling, pixel formats and patches |
//! | `rotary` | rotations of q and k by the tokens' positions |
//! | `quantize` | rows of floats to packed codes |
//! | `buffer` | aligned, grow-only memory |
//! | `large_pages` | memory on large pages |
//! | `weights` | memory that a network's layers share |
//! | `team` | threads that fork and join without a lock |
//!
//! A caller packs each layer once ([`Kernels::pack_linear`]) and passes a [`Scratch`] for each
//! thread; once the scratch is warm, no kernel allocates. Sizes that do not agree are bugs of the
//! caller and panic. The caller validates values: values out of range give wrong numbers or a
//! panic, never undefined behaviour.
//!
//! ```
//! use quasar_kernels::{Kernels, LinearParams, MatrixView, MatrixViewMut, Scratch, Storage};
//!
//! // Two rows of three weights; M = 2^14 and p = 1 are 16384 * 2^(-1-11-6) = 1/16 of a code for
//! // each unit.
//! let params = LinearParams {
//!     rows: 2,
//!     k: 3,
//!     weights: &[1, -2, 3, 4, 5, -6],
//!     bias: &[10, 20],
//!     mult: &[1 << 14; 2],
//!     shift: &[1; 2],
//! };
//! let layer = Kernels::best().pack_linear(&params, Storage::Unpacked);
//! let (input, mut out) = (MatrixView::packed(&[7, 8, 9], 3), [0; 2]);
//! let scratch = &mut Scratch::new();
//! Kernels::best().linear_i8(&layer, input, MatrixViewMut::packed(&mut out, 2), 0, None, scratch);
//! assert_eq!(out, [2, 2]); // accumulators 28 and 34
//! ```

// Where there is no SIMD tier, nothing calls what the tiers share.
#![cfg_attr(
    not(any(
        target_arch = "x86_64",
        target_arch = "aarch64",
        all(target_arch = "arm", target_abi = "eabihf")
    )),
    allow(dead_code, unused_imports, unused_variables)
)]

mod buffer;
mod detect;
mod kernels;
mod large_pages;
mod layers;
mod matrix;
// Intrinsics are named as the vendor names them, dozens in a file.
#[cfg(target_arch = "aarch64")]
#[allow(clippy::wildcard_imports)]
mod neon;
// Its clobbers are registers of a floating-point unit.
#[cfg(all(target_arch = "arm", target_abi = "eabihf"))]
mod neon32;
mod quantize;
mod rotary;
mod team;
mod tier;
mod tiled;
mod weights;
#[cfg(target_arch = "x86_64")]
mod x86;

pub mod image;
pub mod scalar;

pub use buffer::{join, Aligned, Buffers};
pub use kernels::Kernels;
pub use layers::{
    HeadParams, KvHead, LayerNorm, Linear, LinearParams, LinearRows, Scratch, Storage,
    MAX_HEAD_DIM, MAX_NORM_COLUMNS, MAX_TOKENS, ROW_STEP,
};
pub use matrix::{MatrixView, MatrixViewMut};
pub use rotary::{Rotary, Rotation, ROTARY_ONE};
pub use team::{for_each_step, Team, MAX_TEAM};
pub use tier::{Tier, UnknownTier};
