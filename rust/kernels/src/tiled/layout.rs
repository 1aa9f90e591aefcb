//! How a tier lays out what it multiplies, and the rules that its sizes keep.

use crate::buffer::Plain;
use crate::layers::{PAD, WINDOW};
use crate::MatrixView;

/// Query rows of the largest tier's block.
pub(super) const MAX_QUERIES: usize = 16;

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
    /// Returns `a`, `stride`, `w`, `k` and `bias`.
    #[cfg(not(target_arch = "arm"))]
    #[allow(clippy::inline_always)] // compiled for the features of its caller
    #[inline(always)]
    pub fn operands(self) -> (*const A, usize, *const W, usize, *const i32) {
        (self.a, self.stride, self.w, self.k, self.bias)
    }

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

#[cfg(not(target_arch = "x86_64"))]
impl<W> Product<u8, W> {
    /// Returns the operands with their codes read as signed ones.
    pub fn signed(self) -> Product<i8, W> {
        let Self {
            a,
            stride,
            rows,
            w,
            width,
            k,
            bias,
        } = self;
        Product {
            a: a.cast(),
            stride,
            rows,
            w,
            width,
            k,
            bias,
        }
    }
}

/// The operands of a tier's tile.
pub(crate) type ProductOf<L> = Product<<L as Layout>::Code, <L as Layout>::Weight>;

/// The form in which a tier packs and multiplies 4-bit rows.
#[derive(Clone, Copy)]
pub(crate) struct FourBitForm {
    /// As [`Layout::GROUP`].
    pub group: usize,
    /// As [`Layout::STEP`].
    pub step: usize,
    /// Offset added to an activation code, in 8 bits: 0 (signed) or 128 (unsigned).
    pub code_offset: u8,
    /// Consecutive k whose products one 16-bit sum takes at once.
    pub pair: usize,
    /// Number of 16-bit sums that take turns: k goes to the sum `k / pair % sums`.
    pub sums: usize,
    /// Computes a tile of weights in [-7, 7]. Its 16-bit sums can run over `run` k, a positive
    /// multiple of `step`.
    pub tile: unsafe fn(p: Product<u8, i8>, run: usize, out: *mut i32, out_stride: usize),
    /// Expands nibbles as [`super::pack::expand`] does.
    pub expand: unsafe fn(stored: &[u8], panel: &mut [i8]),
    /// Runs dot products as `Tiles::probe` does.
    pub probe: unsafe fn(iterations: u32) -> (u64, i32),
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

/// The sizes of a tier's tiles, and how it packs their operands.
///
/// # Safety
/// An implementation does what each function's comment says, and its constants keep the rules of
/// [`check_sizes`]. All functions but `code` and `prefetch` need a CPU that has the tier's
/// features.
pub(crate) unsafe trait Layout: Sized {
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
    /// Distance of the rows of staged outputs: a panel's outputs are stored whole, wherever in its
    /// window the panel starts.
    const STAGED: usize = WINDOW + Self::PANEL;

    /// Returns the activation code as multiplied.
    fn code(a: i8) -> Self::Code;

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

    /// Expands packed weights as [`super::pack::expand`] does.
    unsafe fn expand_8_bit(stored: &[u8], bytes: usize, nibbles: usize, panel: &mut [Self::Weight]);

    /// Prefetches the cache line at an address, which need not be valid.
    fn prefetch(line: *const u8);

    /// Prefetches all cache lines of some values.
    #[allow(clippy::inline_always)] // AMX's tiles call nothing between their products
    #[inline(always)]
    fn prefetch_all<T>(values: &[T]) {
        let line = 64 / size_of::<T>();
        (values.chunks(line)).for_each(|line| Self::prefetch(line.as_ptr().cast()));
    }
}

/// Checks the sizes that packing and tiling rely on.
const fn check_sizes<L: Layout>() {
    assert!(L::ROWS > 0 && L::GROUP > 0 && L::LANES > 0);
    assert!(
        L::STEP.is_multiple_of(L::GROUP),
        "k is padded to whole groups"
    );
    assert!(
        PAD.is_multiple_of(L::STEP),
        "probabilities are read in whole steps"
    );
    assert!(
        L::PANEL.is_multiple_of(L::LANES),
        "a panel is whole vectors"
    );
    assert!(
        L::PANEL <= PAD && PAD.is_multiple_of(L::PANEL),
        "logits have room for whole panels"
    );
    assert!(WINDOW.is_multiple_of(L::PANEL), "a window is whole panels");
    assert!(
        L::QUERIES <= MAX_QUERIES && L::QUERIES.is_multiple_of(L::WHOLE_ROWS),
        "a block's rows have a scale each, and room for whole tiles"
    );
    assert!(
        L::LOGITS.is_multiple_of(L::LANES),
        "a row of logits has room for whole vectors of keys"
    );
    assert!(
        size_of::<i32>() * L::LOGITS >= size_of::<L::Code>() * PAD,
        "probabilities take no more bytes than logits"
    );
    assert!(
        L::ROWS.is_multiple_of(L::WHOLE_ROWS),
        "a tile has whole rows"
    );
    assert!(
        L::WHOLE_ROWS == 1 || L::FOUR_BIT.is_none(),
        "the codes of 4-bit rows end with the last row"
    );
    assert!(
        size_of::<L::Weight>() <= 2 && size_of::<L::Code>() <= 2,
        "heads have room for 16-bit values"
    );
}

/// Returns the number of packed rows, with the padding rows of the last panel.
pub(crate) fn padded_rows<L: Layout>(rows: usize) -> usize {
    const { check_sizes::<L>() };
    rows.next_multiple_of(L::LANES)
}

/// Returns the number of rows that the tiles of `rows` rows read and write.
pub(super) fn whole_rows<L: Layout>(rows: usize) -> usize {
    rows.next_multiple_of(L::WHOLE_ROWS)
}

/// Cuts padded rows of keys or values into panels as even as whole vectors allow. Returns first row
/// and width of each.
pub(crate) fn panels<L: Layout>(total: usize) -> impl Iterator<Item = (usize, usize)> {
    let (vectors, count) = (total / L::LANES, total.div_ceil(L::PANEL));
    let first = move |i: usize| vectors * i / count * L::LANES;
    (0..count).map(move |i| (first(i), first(i + 1) - first(i)))
}
