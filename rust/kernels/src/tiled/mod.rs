//! Packs weights, cuts products into tiles and handles edges for all SIMD tiers. A tier implements
//! [`Layout`], [`RowKernels`] and [`Tiles`], and nothing else.
//!
//! A matrix of weights is cut into *panels* of up to `PANEL` rows; the last panel may be narrower,
//! a multiple of `LANES`. Inside a panel, `GROUP` consecutive k of one row come first, then those
//! of the next row, then the next group: `[panel][k / GROUP][row][k % GROUP]`, with zeros where
//! rows or k run out. A *tile* is `ROWS` input rows times one panel. A tier computes a tile's
//! accumulators, and an epilogue turns them into outputs. Keys and values are packed as weights
//! are: logits are queries times keys (one row for each key), outputs are probabilities times
//! values (one row for each dimension, k = keys).
//!
//! A row counts as a *4-bit row* if all its weights are in [-7, 7]; the others are *8-bit rows*. If
//! 4-bit rows have a form of their own (a faster tile, or nibbles in memory), each *window* of
//! `WINDOW` rows is sorted: 8-bit rows first, in whole vectors (4-bit rows fill up the last one),
//! then the other 4-bit rows. A row's place in this order is its *slot*. The outputs of a sorted
//! window are staged by slots, and put into the order of rows when the window is complete.
//!
//! With [`crate::Storage::Packed`] a panel keeps 8-bit rows as bytes and 4-bit rows as nibbles.
//! Each call expands a panel once into working memory: an expanded panel fits the L1 or L2 cache
//! and serves every tile of input rows.
//!
//! | module | what it holds |
//! |---|---|
//! | `epilogue` | the conversion of accumulators to outputs |
//! | `layout` | the sizes and operands of a tier |
//! | `inputs` | input rows as a tier multiplies them |
//! | `isa` | the products and rows that a tier computes |
//! | `pack` | panels, windows and slots |
//! | `linear` | a layer's product, tile by tile |
//! | `attention` | one head's attention, block by block |
//!
//! A module depends on those above it, except that `pack` needs `layout` alone. All depend on the
//! matrix views, the layers, the buffers and the scalar reference.

mod attention;
mod epilogue;
mod inputs;
mod isa;
mod layout;
mod linear;
mod pack;

pub(crate) use attention::{attention, pack_kv};
#[cfg(target_arch = "x86_64")] // NEON has look-ups of its own
pub(crate) use epilogue::lookup;
pub(crate) use epilogue::{copy_accumulators, Epilogue, Requant, RowScale, Staged, UnfinishedTile};
#[cfg(target_arch = "x86_64")] // no other tier overlaps tiles
pub(crate) use inputs::PanelTiles;
pub(crate) use isa::{row_by_row, RowKernels, RowSums, Tiles};
#[cfg(target_arch = "x86_64")] // other tiers finish each tile, and scale row by row
pub(crate) use isa::{Overlap, RowScales};
#[cfg(not(target_arch = "x86_64"))]
pub(crate) use layout::padded_rows;
pub(crate) use layout::{panels, FourBitForm, Layout, Product};
pub(crate) use linear::{linear_i32, linear_i8, linear_residual, linear_rotated};
#[cfg(not(target_arch = "arm"))]
// which has no features that portable code could be compiled for
pub(crate) use pack::expand;
#[cfg(not(target_arch = "x86_64"))] // the x86 tiers have their own
pub(crate) use pack::pack_keys;
pub(crate) use pack::pack_linear;
