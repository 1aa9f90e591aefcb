//! Packing, tiling and edges of the SIMD tiers, in one place.
//!
//! A matrix of weights is cut into *panels* of up to `PANEL` rows, the last one narrower (a multiple of
//! `LANES`). Inside a panel, `GROUP` consecutive k of one row stand together, then the next row, then the
//! next group: `[panel][k / GROUP][row][k % GROUP]`, zeros where rows or k run out. A *tile* is `ROWS`
//! input rows times one panel; a tier computes its accumulators and hands them to an epilogue. Keys and
//! values are packed as weights are: logits are queries times keys (a row for each key), outputs are
//! probabilities times values (a row for each dimension, k = keys).
//!
//! A *narrow* row is one whose weights are in [-7, 7], as those of 4-bit rows are; other rows are *wide*. Where
//! narrow rows have a form of their own (a faster tile, or nibbles in memory), each *window* of `WINDOW` rows
//! is sorted: wide rows first, in whole vectors (narrow rows fill up the last), narrow rows behind them. A
//! row's place is its *slot*. The outputs of a sorted window are staged by slots and put into the order of rows
//! when the window is done.
//!
//! With [`Storage::Packed`] a panel lies in memory as 8-bit weights of wide rows and nibbles of narrow ones, and
//! is expanded, once a call, into working memory: a panel is small enough for the L1 or L2 cache, and serves
//! every tile of input rows.
//!
//! May depend on the views, the buffers and the scalar reference; a tier implements [`Isa`] and nothing else.

use std::ops::Range;

use crate::buffer::{cast, Buffer, Plain};
use crate::scalar::{attention_scale, value_mean};
use crate::{HeadParams, KvHead, LayerNorm, Linear, Rows, RowsMut, Scratch, Storage};

/// Every buffer of logits or probabilities has rows of a multiple of this many values.
pub(crate) const PAD: usize = 64;

/// Rows whose outputs are put in order together.
pub(crate) const WINDOW: usize = 64;

/// Requantization parameters of one panel, `PANEL` entries each.
#[derive(Clone, Copy)]
pub(crate) struct Requant {
    /// M.
    pub mult: *const i16,
    /// max(p - 4, 0): the right shift of an accumulator that already holds the rounding half.
    pub right: *const i32,
    /// max(4 - p, 0): the left shift.
    pub left: *const i32,
    /// Whether one of them is not 0.
    #[cfg_attr(target_arch = "aarch64", allow(dead_code))]
    // NEON shifts both ways in one instruction
    pub shifts_left: bool,
}

/// What one query row's epilogue needs.
#[derive(Clone, Copy, Default)]
pub(crate) struct RowScale {
    /// L.
    pub lost: i32,
    /// r.
    pub mult: i16,
    /// p, at least 1.
    pub shift: u32,
}

/// Rows of values to write: `ptr + i * stride`, `cols` values in each.
#[derive(Clone, Copy)]
pub(crate) struct Out<T> {
    pub ptr: *mut T,
    pub stride: usize,
    pub rows: usize,
    pub cols: usize,
}

impl<T> Out<T> {
    /// Row `i`.
    ///
    /// # Safety
    /// `i < rows`, the row is live and nothing else refers to it.
    pub unsafe fn row<'a>(self, i: usize) -> &'a mut [T] {
        debug_assert!(i < self.rows);
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(i * self.stride), self.cols) }
    }
}

/// A tile: `out[m][n] = bias[n] + sum_k a[m][k] * w[n][k]`.
#[derive(Clone, Copy)]
pub(crate) struct Product<A, W> {
    /// `rows` rows of `k` codes that start `stride` apart.
    pub a: *const A,
    pub stride: usize,
    pub rows: usize,
    /// `width` rows of `k` weights, as a panel packs them.
    pub w: *const W,
    pub width: usize,
    pub k: usize,
    /// `width` biases.
    pub bias: *const i32,
}

/// A tier's tile.
pub(crate) type ProductOf<I> = Product<<I as Isa>::Code, <I as Isa>::Weight>;

/// What makes codes of accumulators.
#[derive(Clone, Copy)]
pub(crate) struct ToCodes<'a> {
    /// `64 * zero_point + 32`.
    pub offset: i16,
    /// What codes go through, where there is one.
    pub table: Option<&'a [i8; 256]>,
}

/// A tile of accumulators of which nothing is made yet: what an epilogue needs.
#[derive(Clone, Copy)]
pub(crate) struct Sums<T> {
    pub acc: *const i32,
    pub requant: Requant,
    pub out: Out<T>,
}

/// How a tier packs and multiplies narrow rows.
#[derive(Clone, Copy)]
pub(crate) struct Narrow {
    /// As [`Isa::GROUP`].
    pub group: usize,
    /// As [`Isa::STEP`].
    pub step: usize,
    /// An activation is multiplied as its code plus this, in 8 bits: 0 (signed) or 128 (unsigned).
    pub code_offset: u8,
    /// Consecutive k whose products one 16-bit sum takes at once ...
    pub pair: usize,
    /// ... and the sums that take turns: that of k is `k / pair % sums`.
    pub sums: usize,
}

impl Narrow {
    /// The most k, a multiple of `step`, that 16-bit sums of products with these rows can run over whatever
    /// the activations are.
    fn run<'a>(self, k: usize, rows: &(impl Iterator<Item = &'a [i8]> + Clone)) -> usize {
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
/// An implementation keeps to what follows, and its constants divide and bound each other as [`CheckSizes`] says.
///
/// All functions need a CPU that has the tier's features. `tile` reads what [`Product`] says and writes `width` sums to each row
/// of `out`; there are 1 to `ROWS` rows, `k` is a positive multiple of `STEP`, `width` a multiple of `LANES` up to `PANEL`. The
/// epilogues read `PANEL` accumulators for each row of `out` (rows stand `PANEL` apart; those past
/// `out.cols` are arbitrary), `PANEL` parameters, and write `out.cols` values to each row. `softmax` reads rows of
/// `tokens` logits rounded up to `LOGITS` and writes as many probabilities rounded up to `PAD`; `strides` are those of both.
pub(crate) unsafe trait Isa: Sized {
    /// A weight as packed.
    type Weight: Plain + From<i8>;
    /// An activation as multiplied.
    type Code: Plain;
    /// Input rows of a tile.
    const ROWS: usize;
    /// A tile's rows are read and its sums written in multiples of this many, whatever stands in those that are not asked for.
    const WHOLE_ROWS: usize = 1;
    /// Query rows whose logits are alive together: few enough for the L1 cache.
    const QUERIES: usize = 2 * Self::ROWS;
    /// Weight rows of a full panel.
    const PANEL: usize;
    /// Weight rows of one vector of accumulators.
    const LANES: usize;
    /// Consecutive k that stand together.
    const GROUP: usize;
    /// What k is padded to a multiple of.
    const STEP: usize;
    /// An activation is multiplied as its code plus this.
    const CODE_OFFSET: i32;
    /// A probability is multiplied as e8 plus this.
    const PROB_OFFSET: i32;
    /// Where the tier has a faster tile for narrow rows: their form.
    const NARROW: Option<Narrow> = None;
    /// What a row of logits is padded to a multiple of.
    const LOGITS: usize = PAD;
    /// Whether inputs are multiplied as they are.
    const DIRECT: bool = Self::CODE_OFFSET == 0 && size_of::<Self::Code>() == 1;
    /// Whether other instructions run beside a tile's, so that [`Isa::tile8_beside`] and
    /// [`Isa::tile16_beside`] are worth while.
    const OVERLAPS: bool = false;
    /// What rows of staged outputs stand apart: whatever slot a panel starts at, its outputs are stored whole.
    const STAGED: usize = WINDOW + Self::PANEL;

    /// The activation code as multiplied.
    fn code(a: i8) -> Self::Code;

    /// `out[m][n]` of a [`Product`].
    unsafe fn tile(p: ProductOf<Self>, out: *mut i32, out_stride: usize);

    /// The same for any s8 weights; `tile` itself may count on weights in [-127, 127].
    unsafe fn tile_wide(p: ProductOf<Self>, out: *mut i32, out_stride: usize) {
        // SAFETY: the same contract.
        unsafe { Self::tile(p, out, out_stride) }
    }

    /// [`Isa::tile_wide`] for probabilities.
    unsafe fn tile_probs(p: ProductOf<Self>, out: *mut i32, out_stride: usize) {
        // SAFETY: the same contract.
        unsafe { Self::tile_wide(p, out, out_stride) }
    }

    /// Input rows as codes of `k` columns (not fewer than the input's); what pads them may be anything.
    unsafe fn encode(input: Rows<i8>, k: usize, codes: &mut [Self::Code]) {
        for (row, i) in codes.chunks_exact_mut(k).zip(0..input.rows()) {
            for (code, &a) in row.iter_mut().zip(input.row(i)) {
                *code = Self::code(a);
            }
        }
    }

    /// Packs keys as [`panels`] cuts them, and makes the biases that undo the offset of codes; those of rows that pad are 0.
    unsafe fn pack_keys(keys: Rows<i8>, packed: &mut [Self::Weight], bias: &mut [i32]) {
        pack_rows::<Self>(keys, packed);
        let (live, padding) = bias.split_at_mut(keys.rows());
        for (j, bias) in live.iter_mut().enumerate() {
            *bias = -Self::CODE_OFFSET * sum(keys.row(j));
        }
        padding.fill(0);
    }

    /// Packs the transpose of values as [`panels`] cuts it, and makes the sums of their columns; those of columns that pad are 0.
    unsafe fn pack_values(values: Rows<i8>, packed: &mut [Self::Weight], sums: &mut [i32]) {
        pack_columns::<Self>(values, packed);
        sums.fill(0);
        for j in 0..values.rows() {
            for (sum, &v) in sums.iter_mut().zip(values.row(j)) {
                *sum += i32::from(v);
            }
        }
    }

    /// Asks for the cache line at an address, which need not be valid.
    fn prefetch(_line: *const u8) {}

    /// Comes on a thread before its tiles ...
    unsafe fn begin() {}

    /// ... and after them.
    unsafe fn end() {}

    /// [`Isa::tile`] for weights in [-7, 7], in the form of [`Isa::NARROW`], whose 16-bit sums can run over
    /// `run` k, a positive multiple of its step.
    unsafe fn tile_narrow(_p: Product<u8, i8>, _run: usize, _out: *mut i32, _out_stride: usize) {
        unreachable!("the tier has no form for narrow rows")
    }

    /// Expands packed weights as [`expand`] does.
    unsafe fn expand_wide(stored: &[u8], wide: usize, narrow: usize, panel: &mut [Self::Weight]) {
        expand(stored, wide, narrow, panel);
    }

    /// Expands nibbles as [`expand`] does.
    unsafe fn expand_narrow(stored: &[u8], panel: &mut [i8]) {
        expand(stored, 0, panel.len(), panel);
    }

    /// Output codes; `offset` is `64 * zero_point + 32`.
    unsafe fn requant8(acc: *const i32, requant: Requant, offset: i16, out: Out<i8>);

    /// Each code through the table, in place.
    unsafe fn lookup(table: &[i8; 256], out: Out<i8>) {
        // SAFETY: the same contract.
        unsafe { lookup(table, out) }
    }

    /// Both of these.
    unsafe fn finish8(acc: *const i32, requant: Requant, to: ToCodes, out: Out<i8>) {
        // SAFETY: the same contracts.
        unsafe {
            Self::requant8(acc, requant, to.offset, out);
            if let Some(table) = to.table {
                Self::lookup(table, out);
            }
        }
    }

    /// Updates of the residual: added to it, or stored.
    unsafe fn requant16<const ADD: bool>(acc: *const i32, requant: Requant, x: Out<i16>);

    /// [`Isa::tile`] and [`Isa::finish8`] in one; `acc` has room for a tile.
    unsafe fn tile8(
        p: ProductOf<Self>,
        acc: *mut i32,
        requant: Requant,
        to: ToCodes,
        out: Out<i8>,
    ) {
        // SAFETY: the same contracts.
        unsafe {
            Self::tile(p, acc, Self::PANEL);
            Self::finish8(acc, requant, to, out);
        }
    }

    /// [`Isa::tile`] and [`Isa::requant16`] in one; `acc` has room for a tile.
    unsafe fn tile16<const ADD: bool>(
        p: ProductOf<Self>,
        acc: *mut i32,
        requant: Requant,
        x: Out<i16>,
    ) {
        // SAFETY: the same contracts.
        unsafe {
            Self::tile(p, acc, Self::PANEL);
            Self::requant16::<ADD>(acc, requant, x);
        }
    }

    /// [`Isa::tile`], and beside it [`Isa::finish8`] of a tile before.
    unsafe fn tile8_beside(
        p: ProductOf<Self>,
        acc: *mut i32,
        before: Option<Sums<i8>>,
        to: ToCodes,
    ) {
        // SAFETY: the same contracts.
        unsafe {
            Self::tile(p, acc, Self::PANEL);
            if let Some(Sums { acc, requant, out }) = before {
                Self::finish8(acc, requant, to, out);
            }
        }
    }

    /// [`Isa::tile`], and beside it [`Isa::requant16`] of a tile before.
    unsafe fn tile16_beside<const ADD: bool>(
        p: ProductOf<Self>,
        acc: *mut i32,
        before: Option<Sums<i16>>,
    ) {
        // SAFETY: the same contracts.
        unsafe {
            Self::tile(p, acc, Self::PANEL);
            if let Some(Sums { acc, requant, out }) = before {
                Self::requant16::<ADD>(acc, requant, out);
            }
        }
    }

    /// Codes from the order of slots to that of rows: `out[i][j] = staged[i][order[j]]`. The rows of `staged`
    /// (`STAGED` apart) and `order` have `WINDOW` entries, those of `order` are below `WINDOW`; `out.cols` is at
    /// most `WINDOW`.
    unsafe fn reorder8(staged: *const i8, order: *const u8, out: Out<i8>);

    /// Adds updates of the residual, from the order of slots to that of rows; as [`Isa::reorder8`].
    unsafe fn reorder16(staged: *const i16, order: *const u8, x: Out<i16>);

    /// Probabilities of as many query rows as there are sums, at most `QUERIES`; their sums are those of e12 and e8.
    unsafe fn softmax(
        logits: *const i32,
        probs: *mut Self::Code,
        strides: [usize; 2],
        tokens: usize,
        mult: i32,
        sums: &mut [(i32, i32)],
    );

    /// Output codes of some query rows.
    unsafe fn attention_output(
        acc: *const i32,
        means: *const i32,
        scales: &[RowScale],
        out: Out<i8>,
    );

    /// `LayerNorm` of each row; all lengths agree.
    unsafe fn layer_norm(norm: &LayerNorm, x: Rows<i16>, out: RowsMut<i8>);

    /// Register-only dot products; gives the number of multiply-accumulates and something that depends on
    /// them.
    unsafe fn probe(iterations: u32) -> (u64, i32);

    /// The same with the products of narrow rows.
    unsafe fn probe_narrow(iterations: u32) -> (u64, i32) {
        // SAFETY: the caller's promise. Narrow rows without a form are multiplied as others are.
        unsafe { Self::probe(iterations) }
    }
}

/// What packing and tiling rely on; naming `OK` checks it when a tier is compiled.
struct CheckSizes<I>(std::marker::PhantomData<I>);

impl<I: Isa> CheckSizes<I> {
    const OK: () = {
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

/// As many scales as the largest tier's block of queries has rows.
const MAX_QUERIES: usize = 16;

/// The portable [`Isa::lookup`].
///
/// # Safety
/// Every row of `out` is live and nothing else refers to it.
pub(crate) unsafe fn lookup(table: &[i8; 256], out: Out<i8>) {
    for i in 0..out.rows {
        // SAFETY: the caller's promise.
        for y in unsafe { out.row(i) } {
            *y = table[usize::from(*y as u8 ^ 0x80)];
        }
    }
}

/// Weights of each group from how they are packed: `wide` bytes, then `narrow` nibbles, low ones first.
#[allow(clippy::inline_always)] // compiled for the features of each tier that calls it
#[inline(always)]
pub(crate) fn expand<W: Plain + From<i8>>(
    stored: &[u8],
    wide: usize,
    narrow: usize,
    panel: &mut [W],
) {
    let groups = panel.chunks_exact_mut(wide + narrow);
    for (group, stored) in groups.zip(stored.chunks_exact(wide + narrow / 2)) {
        let (bytes, nibbles) = stored.split_at(wide);
        let (wide, narrow) = group.split_at_mut(wide);
        for (w, &byte) in wide.iter_mut().zip(bytes) {
            *w = (byte as i8).into();
        }
        for (pair, &byte) in narrow.chunks_exact_mut(2).zip(nibbles) {
            pair[0] = ((byte << 4) as i8 >> 4).into();
            pair[1] = (byte as i8 >> 4).into();
        }
    }
}

/// What [`expand`] undoes; `weights` are those of one group.
fn compress(weights: &[i8], wide: usize, stored: &mut [u8]) {
    let (bytes, nibbles) = stored.split_at_mut(wide);
    for (byte, &w) in bytes.iter_mut().zip(weights) {
        *byte = w as u8;
    }
    for (byte, pair) in nibbles.iter_mut().zip(weights[wide..].chunks_exact(2)) {
        *byte = pair[0] as u8 & 15 | (pair[1] as u8) << 4;
    }
}

/// Rows of packed weights (with the padding rows of the last panel).
fn padded_rows<I: Isa>(rows: usize) -> usize {
    let () = CheckSizes::<I>::OK;
    rows.next_multiple_of(I::LANES)
}

/// The panels that so many padded rows of keys or values are cut into, as even as whole vectors allow: first row and width.
pub(crate) fn panels<I: Isa>(total: usize) -> impl Iterator<Item = (usize, usize)> {
    let (vectors, count) = (total / I::LANES, total.div_ceil(I::PANEL));
    let first = move |i: usize| vectors * i / count * I::LANES;
    (0..count).map(move |i| (first(i), first(i + 1) - first(i)))
}

/// Fills a panel: `row(r)` for each of its `width` rows, zeros past a row's end.
fn pack_panel<'a, W: Plain + From<i8>>(
    panel: &mut [W],
    width: usize,
    group: usize,
    row: impl Fn(usize) -> &'a [i8],
) {
    for r in 0..width {
        let mut at = r * group;
        let mut groups = row(r).chunks_exact(group);
        for codes in &mut groups {
            for (w, &code) in panel[at..at + group].iter_mut().zip(codes) {
                *w = code.into();
            }
            at += width * group;
        }
        let mut rest = groups.remainder().iter();
        while at < panel.len() {
            for w in &mut panel[at..at + group] {
                *w = rest.next().copied().unwrap_or_default().into();
            }
            at += width * group;
        }
    }
}

/// Packs row-major `source` into `weights`.
fn pack_rows<I: Isa>(source: Rows<i8>, weights: &mut [I::Weight]) {
    let (rows, k) = (source.rows(), source.cols().next_multiple_of(I::STEP));
    for (first, width) in panels::<I>(padded_rows::<I>(rows)) {
        let panel = &mut weights[first * k..][..width * k];
        pack_panel(panel, width, I::GROUP, |r| {
            if first + r < rows {
                source.row(first + r)
            } else {
                &[]
            }
        });
    }
}

/// The sum of a row's weights.
fn sum(row: &[i8]) -> i32 {
    row.iter().map(|&w| i32::from(w)).sum()
}

/// Packs the transpose of row-major `source` into `weights`.
fn pack_columns<I: Isa>(source: Rows<i8>, weights: &mut [I::Weight]) {
    let (rows, tokens) = (source.cols(), source.rows());
    let k = tokens.next_multiple_of(I::STEP);
    for (first, width) in panels::<I>(padded_rows::<I>(rows)) {
        let live = width.min(rows - first);
        let panel = &mut weights[first * k..][..width * k];
        for (g, group) in panel.chunks_exact_mut(width * I::GROUP).enumerate() {
            for j in 0..I::GROUP {
                let token = g * I::GROUP + j;
                if token < tokens {
                    let row = &source.row(token)[first..first + live];
                    for (w, &code) in group.chunks_exact_mut(I::GROUP).zip(row) {
                        w[j] = code.into();
                    }
                } else {
                    for w in group.chunks_exact_mut(I::GROUP) {
                        w[j] = 0.into();
                    }
                }
            }
        }
    }
}

/// As many rows as tiles of that many touch.
fn whole_rows<I: Isa>(rows: usize) -> usize {
    rows.next_multiple_of(I::WHOLE_ROWS)
}

/// Input rows as a tier multiplies them.
struct Inputs<'a, C> {
    input: Rows<'a, i8>,
    /// Rows before this one are multiplied as they are, ...
    first: usize,
    /// ... the others as these codes of `k` columns; what pads them is multiplied by zero weights.
    codes: &'a [C],
    k: usize,
}

impl<'a, C: Plain> Inputs<'a, C> {
    /// # Safety
    /// The CPU has the tier's features.
    unsafe fn new<I: Isa<Code = C>>(input: Rows<'a, i8>, k: usize, buffer: &'a mut Buffer) -> Self {
        let rows = input.rows();
        let first = match I::DIRECT && k == input.cols() {
            true if rows.is_multiple_of(I::WHOLE_ROWS) => rows,
            // The last tile would read more rows than there are.
            true => rows / I::ROWS * I::ROWS,
            false => 0,
        };
        let rest = input.range(first..rows);
        let codes = buffer.take(whole_rows::<I>(rest.rows()) * k);
        // SAFETY: the caller's promise.
        unsafe { I::encode(rest, k, codes) };
        Self {
            input,
            first,
            codes,
            k,
        }
    }

    /// Those that a tile of `rows` rows from row `i` on reads, `whole` of them: the first one and the stride.
    fn tile(&self, i: usize, rows: usize, whole: usize) -> (*const C, usize) {
        if i + rows <= self.first {
            let (codes, stride) = self.input.starting_at(i);
            (codes.cast(), stride)
        } else {
            let codes = &self.codes[(i - self.first) * self.k..][..whole * self.k];
            (codes.as_ptr(), self.k)
        }
    }
}

impl<'a> Inputs<'a, u8> {
    /// Inputs of narrow rows.
    fn narrow(input: Rows<'a, i8>, form: Narrow, buffer: &'a mut Buffer) -> Self {
        let k = input.cols().next_multiple_of(form.step);
        let direct = form.code_offset == 0 && k == input.cols();
        let first = if direct { input.rows() } else { 0 };
        let codes: &mut [u8] = buffer.take((input.rows() - first) * k);
        for (i, row) in (first..).zip(codes.chunks_exact_mut(k)) {
            for (code, &a) in row.iter_mut().zip(input.row(i)) {
                *code = (a as u8).wrapping_add(form.code_offset);
            }
        }
        Self {
            input,
            first,
            codes,
            k,
        }
    }
}

/// Some rows of a layer whose outputs are put in order together.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    panels: Range<usize>,
    /// Whether slots are in another order than rows.
    sorted: bool,
}

/// A panel of a layer.
#[derive(Clone, Debug)]
pub(crate) struct Panel {
    /// Its first slot.
    slot: usize,
    width: usize,
    /// Its first rows, those with 8-bit weights in memory.
    wide: usize,
    /// Whether its rows are in the form of [`Isa::NARROW`].
    narrow: bool,
    /// Where its weights lie, in bytes.
    weights: Range<usize>,
    /// What [`Narrow::run`] gives for narrow rows.
    run: usize,
}

/// The slots of a window's rows: those of wide rows first, in whole vectors. Gives the number of wide slots.
fn sort_window<I: Isa>(rows: usize, is_narrow: impl Fn(usize) -> bool, order: &mut [u8]) -> usize {
    let narrow = (0..rows).filter(|&r| is_narrow(r)).count();
    let wide = (rows - narrow).next_multiple_of(I::LANES);
    // Narrow rows that fill up the last vector of wide ones.
    let mut promoted = (wide - (rows - narrow)).min(narrow);
    let mut next = [0, wide];
    for (r, slot) in order[..rows].iter_mut().enumerate() {
        let part = usize::from(is_narrow(r) && promoted == 0);
        promoted -= usize::from(is_narrow(r) && promoted > 0);
        *slot = next[part] as u8;
        next[part] += 1;
    }
    wide
}

/// Packs a layer.
pub(crate) fn pack_linear<I: Isa>(
    linear: &mut Linear,
    source: Rows<i8>,
    bias: &[i32],
    mult: &[i16],
    shift: &[u8],
) {
    let rows = linear.rows;
    // A panel's parameters are read whole, wherever in its window it starts.
    let slots = rows.next_multiple_of(WINDOW) + I::PANEL;
    let sums = linear.bias.take::<i32>(slots);
    let rounded = linear.rounded.take::<i32>(slots);
    let mults = linear.mult.take::<i16>(slots);
    let rights = linear.right.take::<i32>(slots);
    let lefts = linear.left.take::<i32>(slots);
    let order = linear.order.take::<u8>(rows.next_multiple_of(WINDOW));
    let packed = linear.storage == Storage::Packed;
    let sorts = packed || I::NARROW.is_some();
    let narrow: Vec<bool> = (0..rows)
        .map(|r| sorts && source.row(r).iter().all(|w| (-7..=7).contains(w)))
        .collect();
    let mut codes = Buffer::default();
    for first in (0..rows).step_by(WINDOW) {
        let live = WINDOW.min(rows - first);
        let order = &mut order[first..first + WINDOW];
        let wide = sort_window::<I>(live, |r| narrow[first + r], order);
        let mut row_at = [None; WINDOW];
        for (r, &slot) in order[..live].iter().enumerate() {
            row_at[usize::from(slot)] = Some(first + r);
        }
        for (slot, row) in (first..).zip(row_at) {
            let Some(r) = row else { continue };
            let offset = match I::NARROW {
                Some(form) if slot - first >= wide => form.code_offset.into(),
                _ => I::CODE_OFFSET,
            };
            let acc = bias[r] - offset * sum(source.row(r));
            sums[slot] = acc;
            // (16*acc + 2^(p-1)) >> p is (acc + 2^(p-5)) >> (p-4) for p > 4, and acc << (4-p) otherwise.
            let p = shift[r];
            rounded[slot] = acc + if p > 4 { 1 << (p - 5) } else { 0 };
            mults[slot] = mult[r];
            rights[slot] = i32::from(p.saturating_sub(4));
            lefts[slot] = i32::from(4u8.saturating_sub(p));
        }
        let total = wide.max(padded_rows::<I>(live));
        let before = linear.panels.len();
        // Without a form of their own narrow rows share panels with wide ones.
        let end = if I::NARROW.is_some() { wide } else { total };
        for (part, narrow) in [(0..end, false), (end..total, true)] {
            for slot in part.clone().step_by(I::PANEL) {
                let width = I::PANEL.min(part.end - slot);
                let wide = wide.clamp(slot, slot + width) - slot;
                let row = |r: usize| row_at[slot + r].map_or(&[][..], |row| source.row(row));
                let form = I::NARROW.filter(|_| narrow);
                let (group, step) =
                    form.map_or((I::GROUP, I::STEP), |form| (form.group, form.step));
                let size = width * linear.k.next_multiple_of(step);
                let at = linear.weights.bytes();
                if packed {
                    let codes = codes.take::<i8>(size);
                    pack_panel(codes, width, group, row);
                    let stored = (width + wide) * group / 2;
                    let bytes = linear.weights.extend::<u8>(size / (width * group) * stored);
                    for (bytes, codes) in bytes.chunks_mut(stored).zip(codes.chunks(width * group))
                    {
                        compress(codes, wide * group, bytes);
                    }
                } else if narrow {
                    pack_panel::<i8>(linear.weights.extend(size), width, group, row);
                } else {
                    pack_panel::<I::Weight>(linear.weights.extend(size), width, group, row);
                }
                linear.panels.push(Panel {
                    slot: first + slot,
                    width,
                    wide,
                    narrow,
                    weights: at..linear.weights.bytes(),
                    run: form.map_or(0, |form| form.run(linear.k, &(0..width).map(row))),
                });
            }
        }
        linear.windows.push(Window {
            panels: before..linear.panels.len(),
            sorted: order[..live].iter().zip(0..).any(|(&slot, r)| slot != r),
        });
    }
    linear.weights.shrink();
}

/// What becomes of a layer's accumulators.
trait Epilogue<I: Isa> {
    /// An output, and what is staged of it.
    type Value: Plain;

    /// A block of the outputs.
    fn block(&mut self, row: usize, rows: usize, col: usize, cols: usize) -> Out<Self::Value>;

    /// Makes values of a tile's accumulators: into a block of the outputs, or to be staged.
    ///
    /// # Safety
    /// A tile of accumulators and a panel of parameters can be read; the rows of `out` are live and nothing
    /// else refers to them.
    unsafe fn finish(&self, sums: Sums<Self::Value>, staged: bool);

    /// [`Isa::tile`] and [`Self::finish`]; there is room for a tile's accumulators.
    ///
    /// # Safety
    /// As theirs.
    unsafe fn tile(&self, p: ProductOf<I>, sums: Sums<Self::Value>, staged: bool) {
        // SAFETY: the caller's promise.
        unsafe {
            I::tile(p, sums.acc.cast_mut(), I::PANEL);
            self.finish(sums, staged);
        }
    }

    /// [`Isa::tile`], and beside it [`Self::finish`] of the tile before.
    ///
    /// # Safety
    /// As theirs.
    unsafe fn tile_beside(
        &self,
        p: ProductOf<I>,
        acc: *mut i32,
        before: Option<Sums<Self::Value>>,
        staged: bool,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            I::tile(p, acc, I::PANEL);
            if let Some(before) = before {
                self.finish(before, staged);
            }
        }
    }

    /// Puts staged values into a block of the outputs.
    ///
    /// # Safety
    /// As [`Isa::reorder8`].
    unsafe fn reorder(&self, staged: *const Self::Value, order: *const u8, out: Out<Self::Value>);
}

/// A tile of accumulators of which nothing is made yet.
struct Due<T> {
    sums: Sums<T>,
    /// Where the outputs are staged and complete: the order of rows, and where they go.
    to: Option<(*const u8, Out<T>)>,
    staged: bool,
}

impl<T: Plain> Due<T> {
    /// Puts what was staged in order.
    ///
    /// # Safety
    /// As [`Epilogue::reorder`].
    unsafe fn reorder<I: Isa>(&self, epilogue: &impl Epilogue<I, Value = T>) {
        if let Some((order, to)) = self.to {
            // SAFETY: the caller's promise.
            unsafe { epilogue.reorder(self.sums.out.ptr, order, to) }
        }
    }
}

/// Weights of a panel, expanded where they are kept packed: as those of wide rows or as those of narrow ones.
///
/// # Safety
/// The CPU has the tier's features.
unsafe fn weights<'a, I: Isa>(
    layer: &'a Linear,
    panel: &Panel,
    (wide_k, narrow_k): (usize, usize),
    expanded: &'a mut Buffer,
) -> (&'a [I::Weight], &'a [i8]) {
    let stored = &layer.weights.as_slice::<u8>()[panel.weights.clone()];
    let (wide, narrow) = (panel.width * wide_k, panel.width * narrow_k);
    match (layer.storage, panel.narrow) {
        // SAFETY: the caller promises the features.
        (Storage::Packed, false) => unsafe {
            let weights = expanded.take(wide);
            let bytes = panel.wide * I::GROUP;
            I::expand_wide(stored, bytes, panel.width * I::GROUP - bytes, weights);
            (weights, &[])
        },
        // SAFETY: the caller promises the features.
        (Storage::Packed, true) => unsafe {
            let weights = expanded.take(narrow);
            I::expand_narrow(stored, weights);
            (&[], weights)
        },
        (Storage::Unpacked, false) => (&cast(stored)[..wide], &[]),
        (Storage::Unpacked, true) => (&[], &cast(stored)[..narrow]),
    }
}

/// The weights behind a panel, as many as it has, in parts for each of `tiles` to ask for: the next one's, likely.
fn coming<'a>(layer: &'a Linear, panel: &Panel, tiles: usize) -> impl Iterator<Item = &'a [u8]> {
    let (size, next) = (panel.weights.len(), panel.weights.end);
    let rest = &layer.weights.as_slice::<u8>()[next..];
    rest[..rest.len().min(size)].chunks(size.div_ceil(tiles.max(1)).max(64))
}

/// Computes every tile of `input` times `layer`, panel by panel.
///
/// # Safety
/// The CPU has the tier's features; the sizes agree.
#[allow(clippy::too_many_lines)] // one walk over windows, panels and tiles
unsafe fn linear<I: Isa, E: Epilogue<I>>(
    layer: &Linear,
    bias: &Buffer,
    input: Rows<i8>,
    scratch: &mut Scratch,
    mut epilogue: E,
) {
    let n = input.rows();
    let form = I::NARROW.filter(|_| layer.panels.iter().any(|panel| panel.narrow));
    let narrow = form.map(|form| Inputs::narrow(input, form, &mut scratch.narrow_codes));
    let narrow_k = narrow.as_ref().map_or(0, |narrow| narrow.k);
    let k = layer.k.next_multiple_of(I::STEP);
    // SAFETY: the caller promises the features.
    let wide = (layer.panels.iter().any(|panel| !panel.narrow))
        .then(|| unsafe { Inputs::new::<I>(input, k, &mut scratch.codes) });
    let (bias, order) = (bias.as_slice::<i32>(), layer.order.as_slice::<u8>());
    let tile = I::ROWS * I::PANEL;
    let accumulators = scratch.tile.take::<i32>(2 * tile).as_mut_ptr();
    let sorted = layer.windows.iter().any(|window| window.sorted);
    let staged = scratch
        .staged
        .take::<E::Value>(if sorted { n * I::STAGED } else { 0 })
        .as_mut_ptr();
    // The tile before, where one overlaps with the next.
    let mut due: Option<Due<E::Value>> = None;
    // SAFETY: the caller promises the features.
    unsafe { I::begin() };
    for (window, first) in layer.windows.iter().zip((0..).step_by(WINDOW)) {
        let cols = WINDOW.min(layer.rows - first);
        let order = order[first..first + WINDOW].as_ptr();
        // Each tile is a window's: it is put in order at once, while it is hot.
        let at_once = window.sorted && window.panels.len() == 1;
        for panel in &layer.panels[window.panels.clone()] {
            let width = panel.width;
            let bias = bias[panel.slot..][..width].as_ptr();
            let requant = requant::<I>(layer, panel.slot);
            // SAFETY: the caller promises the features.
            let (w, narrow_w) =
                unsafe { weights::<I>(layer, panel, (k, narrow_k), &mut scratch.expanded) };
            let mut coming = coming(layer, panel, n.div_ceil(I::ROWS));
            for i in (0..n).step_by(I::ROWS) {
                let rows = I::ROWS.min(n - i);
                for line in coming.next().unwrap_or_default().chunks(64) {
                    I::prefetch(line.as_ptr());
                }
                let out = if window.sorted {
                    let row = if at_once { 0 } else { i };
                    Out {
                        // SAFETY: there are n rows of STAGED values, and a panel starts inside a window.
                        ptr: unsafe { staged.add(row * I::STAGED + panel.slot - first) },
                        stride: I::STAGED,
                        rows,
                        cols: I::PANEL,
                    }
                } else {
                    epilogue.block(i, rows, panel.slot, width.min(layer.rows - panel.slot))
                };
                let other = due.as_ref().is_some_and(|due| due.sums.acc == accumulators);
                // SAFETY: the slices have the sizes that a tile reads; there is room for two tiles of ROWS rows of PANEL; out is a
                // block of the outputs or of what is staged, which has values for each row of what it is put in order to, as
                // sort_window made it; the caller promises the features.
                unsafe {
                    let acc = accumulators.add(if other { tile } else { 0 });
                    let next = Due {
                        sums: Sums { acc, requant, out },
                        to: at_once.then(|| (order, epilogue.block(i, rows, first, cols))),
                        staged: window.sorted,
                    };
                    if let (true, Some(narrow)) = (panel.narrow, &narrow) {
                        let (a, stride) = narrow.tile(i, rows, rows);
                        let (w, k) = (narrow_w.as_ptr(), narrow_k);
                        let p = Product {
                            a,
                            stride,
                            rows,
                            w,
                            width,
                            k,
                            bias,
                        };
                        I::tile_narrow(p, panel.run, acc, I::PANEL);
                        epilogue.finish(next.sums, window.sorted);
                        next.reorder(&epilogue);
                    } else if let Some(wide) = &wide {
                        let (a, stride) = wide.tile(i, rows, whole_rows::<I>(rows));
                        let w = w.as_ptr();
                        let p = Product {
                            a,
                            stride,
                            rows,
                            w,
                            width,
                            k,
                            bias,
                        };
                        if !I::OVERLAPS {
                            epilogue.tile(p, next.sums, window.sorted);
                            next.reorder(&epilogue);
                        } else if let Some(due) = due.replace(next) {
                            epilogue.tile_beside(p, acc, Some(due.sums), due.staged);
                            due.reorder(&epilogue);
                        } else {
                            epilogue.tile_beside(p, acc, None, window.sorted);
                        }
                    }
                }
            }
        }
        if window.sorted && !at_once && n > 0 {
            let out = epilogue.block(0, n, first, cols);
            // SAFETY: as above.
            unsafe { epilogue.reorder(staged, order, out) };
        }
    }
    // SAFETY: as above.
    unsafe {
        if let Some(due) = due {
            epilogue.finish(due.sums, due.staged);
            due.reorder(&epilogue);
        }
        I::end();
    }
}

/// The parameters of the panel that starts at `slot`.
fn requant<I: Isa>(linear: &Linear, slot: usize) -> Requant {
    let panel = slot..slot + I::PANEL;
    let left = &linear.left.as_slice::<i32>()[panel.clone()];
    Requant {
        mult: linear.mult.as_slice::<i16>()[panel.clone()].as_ptr(),
        right: linear.right.as_slice::<i32>()[panel].as_ptr(),
        left: left.as_ptr(),
        shifts_left: left.iter().any(|&shift| shift > 0),
    }
}

/// Codes, through a table where there is one.
struct Codes<'a> {
    out: RowsMut<'a, i8>,
    to: ToCodes<'a>,
}

impl<I: Isa> Epilogue<I> for Codes<'_> {
    type Value = i8;

    fn block(&mut self, row: usize, rows: usize, col: usize, cols: usize) -> Out<i8> {
        self.out.block(row, rows, col, cols)
    }

    unsafe fn finish(&self, sums: Sums<i8>, _staged: bool) {
        // SAFETY: the caller's promise.
        unsafe { I::finish8(sums.acc, sums.requant, self.to, sums.out) }
    }

    unsafe fn tile(&self, p: ProductOf<I>, sums: Sums<i8>, _staged: bool) {
        // SAFETY: the caller's promise.
        unsafe { I::tile8(p, sums.acc.cast_mut(), sums.requant, self.to, sums.out) }
    }

    unsafe fn tile_beside(
        &self,
        p: ProductOf<I>,
        acc: *mut i32,
        before: Option<Sums<i8>>,
        _staged: bool,
    ) {
        // SAFETY: the caller's promise.
        unsafe { I::tile8_beside(p, acc, before, self.to) }
    }

    unsafe fn reorder(&self, staged: *const i8, order: *const u8, out: Out<i8>) {
        // SAFETY: the caller's promise.
        unsafe { I::reorder8(staged, order, out) }
    }
}

/// Updates of the residual.
struct Residual<'a> {
    x: RowsMut<'a, i16>,
}

impl<I: Isa> Epilogue<I> for Residual<'_> {
    type Value = i16;

    fn block(&mut self, row: usize, rows: usize, col: usize, cols: usize) -> Out<i16> {
        self.x.block(row, rows, col, cols)
    }

    unsafe fn finish(&self, sums: Sums<i16>, staged: bool) {
        let Sums { acc, requant, out } = sums;
        // SAFETY: the caller's promise.
        unsafe {
            if staged {
                I::requant16::<false>(acc, requant, out);
            } else {
                I::requant16::<true>(acc, requant, out);
            }
        }
    }

    unsafe fn tile(&self, p: ProductOf<I>, sums: Sums<i16>, staged: bool) {
        let Sums { acc, requant, out } = sums;
        // SAFETY: the caller's promise.
        unsafe {
            if staged {
                I::tile16::<false>(p, acc.cast_mut(), requant, out);
            } else {
                I::tile16::<true>(p, acc.cast_mut(), requant, out);
            }
        }
    }

    unsafe fn tile_beside(
        &self,
        p: ProductOf<I>,
        acc: *mut i32,
        before: Option<Sums<i16>>,
        staged: bool,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            if staged {
                I::tile16_beside::<false>(p, acc, before);
            } else {
                I::tile16_beside::<true>(p, acc, before);
            }
        }
    }

    unsafe fn reorder(&self, staged: *const i16, order: *const u8, out: Out<i16>) {
        // SAFETY: the caller's promise.
        unsafe { I::reorder16(staged, order, out) }
    }
}

/// The accumulators themselves.
struct Accumulators<'a> {
    out: RowsMut<'a, i32>,
}

impl<I: Isa> Epilogue<I> for Accumulators<'_> {
    type Value = i32;

    fn block(&mut self, row: usize, rows: usize, col: usize, cols: usize) -> Out<i32> {
        self.out.block(row, rows, col, cols)
    }

    unsafe fn finish(&self, sums: Sums<i32>, _staged: bool) {
        let out = sums.out;
        for m in 0..out.rows {
            // SAFETY: the caller promises PANEL accumulators for each row of out.
            unsafe {
                let acc = std::slice::from_raw_parts(sums.acc.add(m * I::PANEL), out.cols);
                out.row(m).copy_from_slice(acc);
            }
        }
    }

    unsafe fn reorder(&self, staged: *const i32, order: *const u8, out: Out<i32>) {
        for i in 0..out.rows {
            // SAFETY: the caller's promise.
            unsafe {
                let staged = staged.add(i * I::STAGED);
                for (j, sum) in out.row(i).iter_mut().enumerate() {
                    *sum = *staged.add(usize::from(*order.add(j)));
                }
            }
        }
    }
}

/// `Kernels::linear_i8`.
///
/// # Safety
/// The CPU has the tier's features; the sizes agree.
pub(crate) unsafe fn linear_i8<I: Isa>(
    layer: &Linear,
    input: Rows<i8>,
    out: RowsMut<i8>,
    zero_point: i8,
    table: Option<&[i8; 256]>,
    scratch: &mut Scratch,
) {
    let offset = 64 * i16::from(zero_point) + 32;
    let to = ToCodes { offset, table };
    let codes = Codes { out, to };
    // SAFETY: the caller's promise.
    unsafe { linear::<I, _>(layer, &layer.rounded, input, scratch, codes) }
}

/// `Kernels::linear_residual`.
///
/// # Safety
/// The CPU has the tier's features; the sizes agree.
pub(crate) unsafe fn linear_residual<I: Isa>(
    layer: &Linear,
    input: Rows<i8>,
    x: RowsMut<i16>,
    scratch: &mut Scratch,
) {
    // SAFETY: the caller's promise.
    unsafe { linear::<I, _>(layer, &layer.rounded, input, scratch, Residual { x }) }
}

/// `Kernels::linear_i32`.
///
/// # Safety
/// The CPU has the tier's features; the sizes agree.
pub(crate) unsafe fn linear_i32<I: Isa>(
    layer: &Linear,
    input: Rows<i8>,
    out: RowsMut<i32>,
    scratch: &mut Scratch,
) {
    // SAFETY: the caller's promise.
    unsafe { linear::<I, _>(layer, &layer.bias, input, scratch, Accumulators { out }) }
}

/// `Kernels::pack_kv`; `kv.tokens` and `kv.head_dim` are set.
///
/// # Safety
/// The CPU has the tier's features.
pub(crate) unsafe fn pack_kv<I: Isa>(keys: Rows<i8>, values: Rows<i8>, kv: &mut KvHead) {
    let (tokens, dim) = (kv.tokens, kv.head_dim);
    let (total_keys, total_dims) = (padded_rows::<I>(tokens), padded_rows::<I>(dim));
    let padded = dim.next_multiple_of(I::PANEL);
    let packed_keys = kv.keys.take(total_keys * dim.next_multiple_of(I::STEP));
    let packed_values = kv
        .values
        .take(total_dims * tokens.next_multiple_of(I::STEP));
    let key_bias = kv.key_bias.take::<i32>(total_keys);
    let means = kv.means.take::<i32>(padded);
    // SAFETY: the caller's promise.
    unsafe {
        I::pack_keys(keys, packed_keys, key_bias);
        I::pack_values(values, packed_values, means);
    }
    for (bias, mean) in kv.value_bias.take::<i32>(padded).iter_mut().zip(means) {
        *bias = -I::PROB_OFFSET * *mean;
        *mean = value_mean(*mean, tokens);
    }
}

/// Attention of some queries of one head.
struct Attention<'a, I: Isa> {
    queries: Inputs<'a, I::Code>,
    kv: &'a KvHead,
    head: HeadParams,
    /// k of a query and of a row of probabilities.
    k: [usize; 2],
    /// What rows of logits, and of probabilities, start apart.
    strides: [usize; 2],
}

impl<I: Isa> Attention<'_, I> {
    /// The query rows of block `block`.
    fn rows(&self, block: usize) -> Range<usize> {
        let rows = self.queries.input.rows();
        block * I::QUERIES..rows.min((block + 1) * I::QUERIES)
    }

    /// A block's queries times all keys.
    ///
    /// # Safety
    /// The CPU has the tier's features; the head is packed for it.
    unsafe fn logits(&self, block: usize, logits: &mut [i32]) {
        let k = self.k[0];
        let (keys, bias) = (self.kv.keys.as_slice(), self.kv.key_bias.as_slice::<i32>());
        let rows = self.rows(block);
        for (first, width) in panels::<I>(padded_rows::<I>(self.kv.tokens)) {
            let w: &[I::Weight] = &keys[first * k..][..width * k];
            let bias = &bias[first..][..width];
            for i in (0..rows.len()).step_by(I::ROWS) {
                let n = I::ROWS.min(rows.len() - i);
                let whole = whole_rows::<I>(n);
                let (a, stride) = self.queries.tile(rows.start + i, n, whole);
                let out = &mut logits[i * self.strides[0] + first..]
                    [..(whole - 1) * self.strides[0] + width];
                let p = Product {
                    a,
                    stride,
                    rows: n,
                    w: w.as_ptr(),
                    width,
                    k,
                    bias: bias.as_ptr(),
                };
                // SAFETY: the slices have the sizes that a tile reads and writes.
                unsafe { I::tile_wide(p, out.as_mut_ptr(), self.strides[0]) };
            }
        }
    }

    /// A block's probabilities, and what each row's outputs are multiplied with.
    ///
    /// # Safety
    /// The CPU has the tier's features.
    unsafe fn probabilities(
        &self,
        block: usize,
        logits: &[i32],
        probs: &mut [I::Code],
    ) -> [RowScale; MAX_QUERIES] {
        let (rows, HeadParams { mult, .. }) = (self.rows(block).len(), self.head);
        let mut sums = [(0, 0); MAX_QUERIES];
        let sums = &mut sums[..rows];
        let logits = logits[..rows * self.strides[0]].as_ptr();
        let probs = probs[..rows * self.strides[1]].as_mut_ptr();
        // SAFETY: the slices hold rows of the tokens rounded up to LOGITS and PAD.
        unsafe { I::softmax(logits, probs, self.strides, self.kv.tokens, mult, sums) };
        let mut scales = [RowScale::default(); MAX_QUERIES];
        for (scale, &mut (sum12, sum8)) in scales.iter_mut().zip(sums) {
            let HeadParams {
                out_mult,
                out_shift,
                ..
            } = self.head;
            let (mult, shift) = attention_scale(sum12 as u32, out_mult, out_shift);
            *scale = RowScale {
                lost: sum12 - 16 * sum8,
                mult,
                shift,
            };
        }
        scales
    }

    /// The panels of values: first column, width, and where the block's products with it are kept.
    fn value_panels(&self) -> impl Iterator<Item = (usize, usize, usize)> {
        let panels = panels::<I>(padded_rows::<I>(self.kv.head_dim)).zip(0..);
        panels.map(|((first, width), i)| (first, width, i * I::QUERIES * I::PANEL))
    }

    /// A block's probabilities times all values.
    ///
    /// # Safety
    /// The CPU has the tier's features; the head is packed for it.
    unsafe fn products(&self, block: usize, probs: &[I::Code], products: &mut [i32]) {
        let (rows, k) = (self.rows(block).len(), self.k[1]);
        let (values, bias) = (
            self.kv.values.as_slice(),
            self.kv.value_bias.as_slice::<i32>(),
        );
        for (first, width, at) in self.value_panels() {
            let w: &[I::Weight] = &values[first * k..][..width * k];
            let bias = &bias[first..][..width];
            for i in (0..rows).step_by(I::ROWS) {
                let n = I::ROWS.min(rows - i);
                let whole = whole_rows::<I>(n);
                let a = &probs[i * self.strides[1]..][..whole * self.strides[1]];
                let out = &mut products[at + i * I::PANEL..][..whole * I::PANEL];
                let p = Product {
                    a: a.as_ptr(),
                    stride: self.strides[1],
                    rows: n,
                    w: w.as_ptr(),
                    width,
                    k,
                    bias: bias.as_ptr(),
                };
                // SAFETY: the slices have the sizes that a tile reads and writes.
                unsafe { I::tile_probs(p, out.as_mut_ptr(), I::PANEL) };
            }
        }
    }

    /// A block's output codes.
    ///
    /// # Safety
    /// The CPU has the tier's features.
    unsafe fn outputs(
        &self,
        block: usize,
        products: &[i32],
        scales: &[RowScale; MAX_QUERIES],
        out: &mut RowsMut<i8>,
    ) {
        let (rows, dim) = (self.rows(block), self.kv.head_dim);
        for (first, width, at) in self.value_panels() {
            let acc = &products[at..][..rows.len() * I::PANEL];
            let means = &self.kv.means.as_slice::<i32>()[first..][..I::PANEL];
            let out = out.block(rows.start, rows.len(), first, width.min(dim - first));
            let scales = &scales[..rows.len()];
            // SAFETY: there are whole rows of accumulators, a panel of means and a scale for each row.
            unsafe { I::attention_output(acc.as_ptr(), means.as_ptr(), scales, out) };
        }
    }
}

/// `Kernels::attention`.
///
/// # Safety
/// The CPU has the tier's features; the sizes agree; `kv` is packed for this tier.
pub(crate) unsafe fn attention<I: Isa>(
    q: Rows<i8>,
    kv: &KvHead,
    head: HeadParams,
    mut out: RowsMut<i8>,
    scratch: &mut Scratch,
) {
    let k = [kv.head_dim, kv.tokens].map(|k| k.next_multiple_of(I::STEP));
    let strides = [I::LOGITS, PAD].map(|pad| kv.tokens.next_multiple_of(pad));
    let blocks = q.rows().div_ceil(I::QUERIES);
    let panels = kv.head_dim.div_ceil(I::PANEL);
    let products = scratch.tile.take::<i32>(panels * I::QUERIES * I::PANEL);
    let logits = scratch.logits.take::<i32>(I::QUERIES * strides[0]);
    let probs = scratch.probs.take::<I::Code>(I::QUERIES * strides[1]);
    // SAFETY: the caller promises the features and the head.
    unsafe {
        let attention = Attention::<I> {
            queries: Inputs::new::<I>(q, k[0], &mut scratch.codes),
            kv,
            head,
            k,
            strides,
        };
        I::begin();
        for block in 0..blocks {
            attention.logits(block, logits);
            let scales = attention.probabilities(block, logits, probs);
            attention.products(block, probs, products);
            attention.outputs(block, products, &scales, &mut out);
        }
        I::end();
    }
}
