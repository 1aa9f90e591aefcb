//! Declares the functions of a tier: products of tiles, and the rows that become outputs.

use super::epilogue::{copy_in_order, OutputBlock, RowScale, Staged, UnfinishedTile};
use super::inputs::PanelTiles;
use super::layout::{panels, Layout, ProductOf, MAX_QUERIES};
use crate::matrix::Out;
use crate::scalar::attention_scale;
use crate::{rotary, HeadParams, LayerNorm, MatrixView, MatrixViewMut};

/// The sums of the weights of each query row of a block.
#[derive(Clone, Copy, Default)]
pub(crate) struct RowSums {
    pub e12: [i32; MAX_QUERIES],
    pub e8: [i32; MAX_QUERIES],
}

/// The scales of the outputs of each query row of a block.
pub(crate) type RowScales = [RowScale; MAX_QUERIES];

/// Turns accumulators, logits and residuals into outputs, row by row.
///
/// # Safety
/// An implementation does what each function's comment says. All functions need a CPU that has the
/// tier's features.
///
/// An epilogue reads `PANEL` accumulators for each row of its output (rows are `PANEL` apart;
/// accumulators past the output's columns are arbitrary) and `PANEL` parameters. `softmax` reads
/// rows of `tokens` logits rounded up to `LOGITS` and writes as many probabilities rounded up to
/// `PAD`; `strides` are those of both. The probabilities may start where the logits do, and take no
/// more bytes: `softmax` writes row by row, each from left to right, and writes over no logit that
/// it still has to read.
pub(crate) unsafe trait RowKernels: Layout {
    /// Runs a tile's epilogue.
    unsafe fn finish(tile: &UnfinishedTile);

    /// Moves staged outputs from the order of slots to that of rows: row `i` of the output gets
    /// `staged[i][order[j]]` in column `j`. Updates of the residual are added.
    unsafe fn reorder(staged: Staged, to: OutputBlock) {
        // SAFETY: the same contract.
        unsafe {
            match to {
                OutputBlock::Codes(out) => Self::reorder_codes(staged, out),
                OutputBlock::Residual(x) => Self::reorder_updates(staged, x),
                OutputBlock::Accumulators(out) => copy_in_order(staged, Self::STAGED, out),
            }
        }
    }

    /// Computes [`RowKernels::reorder`] for codes.
    unsafe fn reorder_codes(staged: Staged, out: Out<i8>);

    /// Computes [`RowKernels::reorder`] for updates of the residual.
    unsafe fn reorder_updates(staged: Staged, x: Out<i16>);

    /// Computes the probabilities of some query rows, 1 to `QUERIES`, and the sums of each. `sizes`
    /// are the numbers of tokens and of rows.
    unsafe fn softmax(
        logits: *const i32,
        probs: *mut Self::Code,
        strides: [usize; 2],
        sizes: [usize; 2],
        mult: i32,
        sums: &mut RowSums,
    );

    /// Returns the scales of the outputs of `rows` query rows; those of others are arbitrary.
    unsafe fn row_scales(sums: &RowSums, rows: usize, head: HeadParams) -> RowScales {
        let mut scales = RowScales::default();
        for (i, scale) in scales[..rows].iter_mut().enumerate() {
            let (sum12, sum8) = (sums.e12[i], sums.e8[i]);
            let (mult, shift) = attention_scale(sum12 as u32, head.out_mult, head.out_shift);
            *scale = RowScale {
                rounding_residue: sum12 - 16 * sum8,
                mult,
                shift,
            };
        }
        scales
    }

    /// Computes the output codes of some query rows.
    unsafe fn attention_output(
        acc: *const i32,
        means: *const i32,
        scales: &[RowScale],
        out: Out<i8>,
    );

    /// Rotates pairs of 64ths of codes to codes: in each pair `rshift(z * even, 20)`, of its two
    /// values and factors, then `rshift(z * odd, 20)`. All lengths agree.
    unsafe fn rotate(z: &[i16], even: &[i16], odd: &[i16], out: &mut [i8]) {
        rotary::rotate(z, even, odd, out);
    }

    /// Computes `LayerNorm` of each row of values within [-32767, 32767]; all lengths agree.
    unsafe fn layer_norm(norm: &LayerNorm, x: MatrixView<i16>, out: MatrixViewMut<i8>);
}

/// The functions of [`RowKernels`] that most tiers compute row by row: `$softmax` computes the
/// probabilities of one query row and returns the sums of e12 and e8, `$layer_norm` one row of
/// `LayerNorm`. Both need the feature `$feature`, where the language has one for the tier.
macro_rules! row_by_row {
    ($softmax:path, $layer_norm:path $(, $feature:literal)?) => {
        $(#[target_feature(enable = $feature)])?
        unsafe fn softmax(
            logits: *const i32,
            probs: *mut Self::Code,
            strides: [usize; 2],
            [tokens, rows]: [usize; 2],
            mult: i32,
            sums: &mut RowSums,
        ) {
            for i in 0..rows {
                // SAFETY: the caller promises as many rows.
                (sums.e12[i], sums.e8[i]) = unsafe {
                    let (logits, probs) = (logits.add(i * strides[0]), probs.add(i * strides[1]));
                    $softmax(logits, tokens, mult, probs)
                };
            }
        }

        $(#[target_feature(enable = $feature)])?
        unsafe fn layer_norm(norm: &LayerNorm, x: MatrixView<i16>, mut out: MatrixViewMut<i8>) {
            for i in 0..x.rows() {
                // SAFETY: the caller promises that all lengths agree.
                unsafe { $layer_norm(norm, x.row(i), out.row_mut(i)) };
            }
        }
    };
}
pub(crate) use row_by_row;

/// Tiles during whose multiplication other instructions can run, so that they finish the tile
/// before. Sums then start at 0, and [`RowKernels::finish`] adds the biases; those of attention are
/// 0, since nothing has an offset.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // no other tier overlaps tiles
pub(crate) struct Overlap<L: Layout> {
    /// Computes [`Tiles::tile`] into `acc`, which has room for a tile. Meanwhile finishes the tile
    /// before, if there is one, and prefetches the weights `soon`.
    pub tile:
        unsafe fn(p: &ProductOf<L>, acc: *mut i32, before: Option<&UnfinishedTile>, soon: &[u8]),
    /// Computes a panel's tiles so, and leaves the last unfinished.
    pub panel: unsafe fn(tiles: &PanelTiles<L>, before: Option<&UnfinishedTile>),
}

/// The tiles of an instruction-set tier.
///
/// # Safety
/// An implementation does what each function's comment says. All functions need a CPU that has the
/// tier's features. `tile` reads what [`Product`](super::Product) says and writes `width` sums to
/// each row of `out`; there are 1 to `ROWS` rows, `k` is a positive multiple of `STEP`, `width` a
/// multiple of `LANES` up to `PANEL`.
pub(crate) unsafe trait Tiles: RowKernels {
    /// The functions of tiles that overlap, if the tier has such tiles.
    const OVERLAP: Option<Overlap<Self>> = None;

    /// Returns the number of parts of k in which [`Overlap::panel`] multiplies a panel whose rows
    /// have `k` weights.
    fn k_parts(_k: usize) -> usize {
        1
    }

    /// Returns the input rows of the tiles of a layer, or a part of one, whose rows have `k`
    /// weights: at most `ROWS`, a multiple of `WHOLE_ROWS`.
    fn tile_rows(_k: usize) -> usize {
        Self::ROWS
    }

    /// Computes the accumulators of a product whose weights are in [-127, 127].
    unsafe fn tile(p: ProductOf<Self>, out: *mut i32, out_stride: usize);

    /// Computes [`Tiles::tile`] for any 8-bit weights.
    unsafe fn tile_any_weights(p: ProductOf<Self>, out: *mut i32, out_stride: usize) {
        // SAFETY: the same contract.
        unsafe { Self::tile(p, out, out_stride) }
    }

    /// Computes [`Tiles::tile_any_weights`] for each of the [`panels`] of `width` weight rows, any
    /// multiple of `LANES`.
    unsafe fn tiles_of_panels(p: ProductOf<Self>, out: *mut i32, out_stride: usize) {
        for (first, width) in panels::<Self>(p.width) {
            // SAFETY: the same contract.
            unsafe {
                let p = p.panel(first, width);
                Self::tile_any_weights(p, out.add(first), out_stride);
            }
        }
    }

    /// Computes [`Tiles::tile_any_weights`] for probabilities.
    unsafe fn tile_probs(p: ProductOf<Self>, out: *mut i32, out_stride: usize) {
        // SAFETY: the same contract.
        unsafe { Self::tile_any_weights(p, out, out_stride) }
    }

    /// Computes [`Tiles::tile`] into `acc`, which has room for a tile, and finishes it.
    unsafe fn tile_and_finish(p: &ProductOf<Self>, acc: *mut i32, tile: &UnfinishedTile) {
        // SAFETY: the same contracts.
        unsafe {
            Self::tile(*p, acc, Self::PANEL);
            Self::finish(tile);
        }
    }

    /// Prepares a thread for tiles.
    unsafe fn enter_thread() {}

    /// Undoes [`Tiles::enter_thread`].
    unsafe fn leave_thread() {}

    /// Runs dot products in registers only. Returns the number of multiply-accumulates and a value
    /// that depends on them.
    unsafe fn probe(iterations: u32) -> (u64, i32);
}
