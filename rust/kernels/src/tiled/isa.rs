//! The interface of an instruction-set tier, and the rules that its constants keep.

use super::epilogue::{Epilogue, RowScale, Staged, UnfinishedTile};
use super::linear::PanelTiles;
use super::pack::panels;
use crate::buffer::Plain;
use crate::layers::{PAD, WINDOW};
use crate::matrix::Out;
use crate::scalar::attention_scale;
use crate::{HeadParams, LayerNorm, MatrixView, MatrixViewMut};

/// Query rows of the largest tier's block.
pub(super) const MAX_QUERIES: usize = 16;

/// The sums of the weights of each query row of a block.
#[derive(Clone, Copy, Default)]
pub(crate) struct RowSums {
    pub e12: [i32; MAX_QUERIES],
    pub e8: [i32; MAX_QUERIES],
}

/// The scales of the outputs of each query row of a block.
pub(crate) type RowScales = [RowScale; MAX_QUERIES];

/// The operands of a tile: `out[m][n] = bias[n] + sum_k a[m][k] * w[n][k]`.
#[derive(Clone, Copy)]
pub(crate) struct Product<A, W> {
    /// `rows` rows of `k` codes that start `stride` apart.
    pub a: *const A,
    pub stride: usize,
    pub rows: usize,
    /// `width` rows of `k` weights, in a panel's order.
    pub w: *const W,
    pub width: usize,
    pub k: usize,
    /// `width` biases.
    pub bias: *const i32,
}

impl<A, W> Product<A, W> {
    /// Returns the operands of the panel of `width` weight rows from row `first` on.
    #[allow(clippy::inline_always)] // AMX's tiles call nothing between their products
    #[inline(always)]
    pub fn panel(self, first: usize, width: usize) -> Self {
        Self {
            w: self.w.wrapping_add(first * self.k),
            width,
            bias: self.bias.wrapping_add(first),
            ..self
        }
    }
}

/// The operands of a tier's tile.
pub(crate) type ProductOf<I> = Product<<I as Isa>::Code, <I as Isa>::Weight>;

/// The form in which a tier packs and multiplies 4-bit rows.
#[derive(Clone, Copy)]
pub(crate) struct FourBitForm {
    /// As [`Isa::GROUP`].
    pub group: usize,
    /// As [`Isa::STEP`].
    pub step: usize,
    /// Offset added to an activation code, in 8 bits: 0 (signed) or 128 (unsigned).
    pub code_offset: u8,
    /// Consecutive k whose products one 16-bit sum takes at once.
    pub pair: usize,
    /// Number of 16-bit sums that take turns: k goes to the sum `k / pair % sums`.
    pub sums: usize,
}

impl FourBitForm {
    /// Returns the longest run of k, a multiple of `step`, over which 16-bit sums of products with
    /// these rows cannot overflow, whatever the activations are.
    pub(super) fn run<'a>(
        self,
        k: usize,
        rows: &(impl Iterator<Item = &'a [i8]> + Clone),
    ) -> usize {
        let (low, high) = (
            i32::from(self.code_offset) - 128,
            i32::from(self.code_offset) + 127,
        );
        // Codes may be 0, so no part of a run exceeds what bounds the whole.
        let fits = |run: &[i8], sum: usize| {
            let turns = run.chunks(self.pair).skip(sum).step_by(self.sums);
            let (mut min, mut max) = (0, 0);
            for w in turns.flatten().map(|&w| i32::from(w)) {
                min += (w * low).min(w * high);
                max += (w * low).max(w * high);
            }
            i32::from(i16::MIN) <= min && max <= i32::from(i16::MAX)
        };
        let steps = k.div_ceil(self.step);
        (1..=steps)
            .map(|runs| steps.div_ceil(runs) * self.step)
            .find(|&run| {
                let mut runs = rows.clone().flat_map(|row| row.chunks(run));
                runs.all(|run| (0..self.sums).all(|sum| fits(run, sum)))
            })
            .expect("a single step fits")
    }
}

/// One instruction-set tier.
///
/// # Safety
/// An implementation does what each function's comment says, and its constants keep the rules of
/// [`CheckSizes`].
///
/// All functions need a CPU that has the tier's features. `tile` reads what [`Product`] says and
/// writes `width` sums to each row of `out`; there are 1 to `ROWS` rows, `k` is a positive multiple
/// of `STEP`, `width` a multiple of `LANES` up to `PANEL`. An epilogue reads `PANEL` accumulators
/// for each row of its output (rows are `PANEL` apart; accumulators past the output's columns are
/// arbitrary) and `PANEL` parameters. `softmax` reads rows of `tokens` logits rounded up to
/// `LOGITS` and writes as many probabilities rounded up to `PAD`; `strides` are those of both. The
/// probabilities may start where the logits do, and take no more bytes: `softmax` writes row by
/// row, each from left to right, and writes over no logit that it still has to read.
pub(crate) unsafe trait Isa: Sized {
    /// A weight as packed.
    type Weight: Plain + From<i8>;
    /// An activation as multiplied.
    type Code: Plain;
    /// Input rows of a tile.
    const ROWS: usize;
    /// A tile reads its rows and writes its sums in multiples of this many, also beyond `rows`.
    const WHOLE_ROWS: usize = 1;
    /// Query rows whose logits are alive together: few enough for the L1 cache.
    const QUERIES: usize = 2 * Self::ROWS;
    /// Weight rows of a full panel.
    const PANEL: usize;
    /// Weight rows of one vector of accumulators.
    const LANES: usize;
    /// Consecutive k that are stored together.
    const GROUP: usize;
    /// Multiple that k is padded to.
    const STEP: usize;
    /// Offset added to an activation code before it is multiplied.
    const CODE_OFFSET: i32;
    /// Offset added to a probability e8 before it is multiplied.
    const PROB_OFFSET: i32;
    /// The form of 4-bit rows, if the tier has a faster tile for them.
    const FOUR_BIT: Option<FourBitForm> = None;
    /// Multiple that a row of logits is padded to.
    const LOGITS: usize = PAD;
    /// Inputs are multiplied where they are, without a copy.
    const DIRECT: bool = Self::CODE_OFFSET == 0 && size_of::<Self::Code>() == 1;
    /// Other instructions can run while a tile is multiplied: [`Isa::tile_and_finish`] finishes the
    /// tile before. Sums then start at 0, and [`Isa::finish`] adds the biases; those of attention
    /// are 0, since nothing has an offset.
    const OVERLAPS: bool = false;
    /// Distance of the rows of staged outputs: a panel's outputs are stored whole, wherever in its
    /// window the panel starts.
    const STAGED: usize = WINDOW + Self::PANEL;

    /// Returns the number of parts of k in which [`Isa::panel_and_finish`] multiplies a panel whose
    /// rows have `k` weights.
    fn k_parts(_k: usize) -> usize {
        1
    }

    /// Returns the input rows of the tiles of a layer, or a part of one, whose rows have `k`
    /// weights: at most `ROWS`, a multiple of `WHOLE_ROWS`.
    fn tile_rows(_k: usize) -> usize {
        Self::ROWS
    }

    /// Returns the activation code as multiplied.
    fn code(a: i8) -> Self::Code;

    /// Computes the accumulators of a [`Product`] whose weights are in [-127, 127].
    unsafe fn tile(p: ProductOf<Self>, out: *mut i32, out_stride: usize);

    /// Computes [`Isa::tile`] for any 8-bit weights.
    unsafe fn tile_any_weights(p: ProductOf<Self>, out: *mut i32, out_stride: usize) {
        // SAFETY: the same contract.
        unsafe { Self::tile(p, out, out_stride) }
    }

    /// Computes [`Isa::tile_any_weights`] for each of the [`panels`] of `width` weight rows, any
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

    /// Computes [`Isa::tile_any_weights`] for probabilities.
    unsafe fn tile_probs(p: ProductOf<Self>, out: *mut i32, out_stride: usize) {
        // SAFETY: the same contract.
        unsafe { Self::tile_any_weights(p, out, out_stride) }
    }

    /// Computes [`Isa::tile`] for weights in [-7, 7], in the form of [`Isa::FOUR_BIT`]. Its 16-bit
    /// sums can run over `run` k, a positive multiple of the form's step.
    unsafe fn tile_4_bit(_p: Product<u8, i8>, _run: usize, _out: *mut i32, _out_stride: usize) {
        unreachable!("the tier has no form for 4-bit rows")
    }

    /// Runs a tile's epilogue.
    unsafe fn finish(tile: &UnfinishedTile);

    /// Computes [`Isa::tile`] into `acc`, which has room for a tile, and finishes one tile: this
    /// one, or with [`Isa::OVERLAPS`] the one before, if there is one. With that, it also
    /// prefetches the weights `soon`.
    unsafe fn tile_and_finish(
        p: &ProductOf<Self>,
        acc: *mut i32,
        tile: Option<&UnfinishedTile>,
        _soon: &[u8],
    ) {
        // SAFETY: the same contracts.
        unsafe {
            Self::tile(*p, acc, Self::PANEL);
            if let Some(tile) = tile {
                Self::finish(tile);
            }
        }
    }

    /// Computes a panel's tiles as [`Isa::tile_and_finish`] does, and leaves the last unfinished.
    /// Only with [`Isa::OVERLAPS`].
    unsafe fn panel_and_finish(_tiles: &PanelTiles<Self>, _before: Option<&UnfinishedTile>) {
        unreachable!("the tier finishes each tile before the next one")
    }

    /// Moves staged outputs from the order of slots to that of rows: row `i` of the output gets
    /// `staged[i][order[j]]` in column `j`. An epilogue that adds to the residual adds.
    unsafe fn reorder(staged: Staged, to: Epilogue);

    /// Writes input rows as codes, `k` columns each (at least the input's). Padding codes are
    /// arbitrary.
    unsafe fn encode(input: MatrixView<i8>, k: usize, codes: &mut [Self::Code]) {
        for (row, i) in codes.chunks_exact_mut(k).zip(0..input.rows()) {
            for (code, &a) in row.iter_mut().zip(input.row(i)) {
                *code = Self::code(a);
            }
        }
    }

    /// Packs keys into [`super::panels`], and writes the biases that undo the offset of codes (0
    /// for padding rows).
    unsafe fn pack_keys(keys: MatrixView<i8>, packed: &mut [Self::Weight], bias: &mut [i32]);

    /// Packs the transpose of values into [`super::panels`], and writes the sums of their columns
    /// (0 for padding columns).
    unsafe fn pack_values(values: MatrixView<i8>, packed: &mut [Self::Weight], sums: &mut [i32]);

    /// Prefetches all cache lines of some values.
    #[allow(clippy::inline_always)] // AMX's tiles call nothing between their products
    #[inline(always)]
    fn prefetch_all<T>(values: &[T]) {
        let line = 64 / size_of::<T>();
        (values.chunks(line)).for_each(|line| Self::prefetch(line.as_ptr().cast()));
    }

    /// Prefetches the cache line at an address, which need not be valid.
    fn prefetch(_line: *const u8) {}

    /// Prepares a thread for tiles.
    unsafe fn enter_thread() {}

    /// Undoes [`Isa::enter_thread`].
    unsafe fn leave_thread() {}

    /// Expands packed weights as [`super::pack::expand`] does.
    unsafe fn expand_8_bit(stored: &[u8], bytes: usize, nibbles: usize, panel: &mut [Self::Weight]);

    /// Expands nibbles as [`super::pack::expand`] does.
    unsafe fn expand_4_bit(_stored: &[u8], _panel: &mut [i8]) {
        unreachable!("the tier has no form for 4-bit rows")
    }

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

    /// Computes `LayerNorm` of each row of values within [-32767, 32767]; all lengths agree.
    unsafe fn layer_norm(norm: &LayerNorm, x: MatrixView<i16>, out: MatrixViewMut<i8>);

    /// Runs dot products in registers only. Returns the number of multiply-accumulates and a value
    /// that depends on them.
    unsafe fn probe(iterations: u32) -> (u64, i32);

    /// Runs [`Isa::probe`] with the products of 4-bit rows.
    unsafe fn probe_4_bit(iterations: u32) -> (u64, i32) {
        // SAFETY: the caller's promise. Without a form of their own 4-bit rows are multiplied as
        // others are.
        unsafe { Self::probe(iterations) }
    }
}

/// Checks, when a tier is compiled and `OK` is named, the sizes that packing and tiling rely on.
pub(super) struct CheckSizes<I>(std::marker::PhantomData<I>);

impl<I: Isa> CheckSizes<I> {
    pub(super) const OK: () = {
        assert!(I::ROWS > 0 && I::GROUP > 0 && I::LANES > 0);
        assert!(
            I::STEP.is_multiple_of(I::GROUP),
            "k is padded to whole groups"
        );
        assert!(
            PAD.is_multiple_of(I::STEP),
            "probabilities are read in whole steps"
        );
        assert!(
            I::PANEL.is_multiple_of(I::LANES),
            "a panel is whole vectors"
        );
        assert!(
            I::PANEL <= PAD && PAD.is_multiple_of(I::PANEL),
            "logits have room for whole panels"
        );
        assert!(WINDOW.is_multiple_of(I::PANEL), "a window is whole panels");
        assert!(
            I::QUERIES <= MAX_QUERIES && I::QUERIES.is_multiple_of(I::WHOLE_ROWS),
            "a block's rows have a scale each, and room for whole tiles"
        );
        assert!(
            I::LOGITS.is_multiple_of(I::LANES),
            "a row of logits has room for whole vectors of keys"
        );
        assert!(
            size_of::<i32>() * I::LOGITS >= size_of::<I::Code>() * PAD,
            "probabilities take no more bytes than logits"
        );
        assert!(
            !I::OVERLAPS || I::CODE_OFFSET == 0 && I::PROB_OFFSET == 0,
            "attention has no biases to add to its sums"
        );
        assert!(
            !I::OVERLAPS || I::PANEL == WINDOW,
            "a window's outputs are put in order tile by tile"
        );
        assert!(
            I::ROWS.is_multiple_of(I::WHOLE_ROWS),
            "a tile has whole rows"
        );
        assert!(
            size_of::<I::Weight>() <= 2 && size_of::<I::Code>() <= 2,
            "heads have room for 16-bit values"
        );
    };
}
