//! Packing, tiling and edges of the SIMD tiers, in one place.
//!
//! A matrix of weights is cut into *panels* of up to `PANEL` rows, the last one narrower (a multiple of
//! `LANES`). Inside a panel, `GROUP` consecutive k of one row stand together, then the next row, then the
//! next group: `[panel][k / GROUP][row][k % GROUP]`, zeros where rows or k run out. A *tile* is `ROWS`
//! input rows times one panel; a tier computes its accumulators and hands them to an epilogue. Keys and
//! values are packed as weights are: logits are queries times keys (a row for each key), outputs are
//! probabilities times values (a row for each dimension, k = keys).
//!
//! May depend on the views, the buffers and the scalar reference; a tier implements [`Isa`] and nothing else.

use crate::buffer::{Buffer, Plain};
use crate::scalar::{attention_scale, value_mean};
use crate::{HeadParams, KvHead, LayerNorm, Linear, Rows, RowsMut, Scratch};

/// Every buffer of logits or probabilities has rows of a multiple of this many values.
pub(crate) const PAD: usize = 64;

/// Requantization parameters of one panel, `PANEL` entries each.
#[derive(Clone, Copy)]
pub(crate) struct Requant {
    /// M.
    pub mult: *const i16,
    /// max(p - 4, 0): the right shift of an accumulator that already holds the rounding half.
    pub right: *const i32,
    /// max(4 - p, 0): the left shift.
    pub left: *const i32,
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

/// One instruction-set tier.
///
/// # Safety
/// An implementation keeps to what follows, and its constants divide and bound each other as [`CheckSizes`] says.
///
/// All functions need a CPU that has the tier's features. `tile` reads `rows` (1 to `ROWS`) rows of `k`
/// codes that start `stride` apart, `width * k` weights and `width` biases, and writes `width` sums to each
/// row of `out`; `k` is a positive multiple of `STEP`, `width` a multiple of `LANES` up to `PANEL`. The
/// epilogues read `PANEL` accumulators for each row of `out` (rows stand `PANEL` apart; those past
/// `out.cols` are arbitrary), `PANEL` parameters, and write `out.cols` values to each row. `softmax` reads
/// `tokens` logits rounded up to `PAD` and may write as many probabilities.
pub(crate) unsafe trait Isa {
    /// A weight as packed.
    type Weight: Plain + From<i8>;
    /// An activation as multiplied.
    type Code: Plain;
    /// Input rows of a tile.
    const ROWS: usize;
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

    /// The activation code as multiplied.
    fn code(a: i8) -> Self::Code;

    /// `out[m][n] = bias[n] + sum_k a[m][k] * w[n][k]`.
    #[allow(clippy::too_many_arguments)] // four strided operands
    unsafe fn tile(
        a: *const Self::Code,
        stride: usize,
        rows: usize,
        w: *const Self::Weight,
        width: usize,
        k: usize,
        bias: *const i32,
        out: *mut i32,
        out_stride: usize,
    );

    /// The same for any s8 weights; `tile` itself may count on weights in [-127, 127].
    #[allow(clippy::too_many_arguments)]
    unsafe fn tile_wide(
        a: *const Self::Code,
        stride: usize,
        rows: usize,
        w: *const Self::Weight,
        width: usize,
        k: usize,
        bias: *const i32,
        out: *mut i32,
        out_stride: usize,
    ) {
        // SAFETY: the same contract.
        unsafe { Self::tile(a, stride, rows, w, width, k, bias, out, out_stride) }
    }

    /// Output codes; `offset` is `64 * zero_point + 32`.
    unsafe fn requant8(acc: *const i32, requant: Requant, offset: i16, out: Out<i8>);

    /// Each code through the table, in place.
    unsafe fn lookup(table: &[i8; 256], out: Out<i8>) {
        // SAFETY: the same contract.
        unsafe { lookup(table, out) }
    }

    /// Updates of the residual.
    unsafe fn requant16(acc: *const i32, requant: Requant, x: Out<i16>);

    /// Probabilities of one query row; gives the sums of e12 and e8.
    unsafe fn softmax(
        logits: *const i32,
        tokens: usize,
        mult: i32,
        probs: *mut Self::Code,
    ) -> (i32, i32);

    /// Output codes of some query rows.
    unsafe fn attention_output(
        acc: *const i32,
        means: *const i32,
        scales: &[RowScale],
        out: Out<i8>,
    );

    /// One row of `LayerNorm`; all lengths agree.
    unsafe fn layer_norm(norm: &LayerNorm, x: &[i16], out: &mut [i8]);

    /// Register-only dot products; gives the number of multiply-accumulates and something that depends on
    /// them.
    unsafe fn probe(iterations: u32) -> (u64, i32);
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
        assert!(
            TILES * I::ROWS <= MAX_BLOCK,
            "a block's rows have a scale each"
        );
        assert!(
            size_of::<I::Weight>() <= 2 && size_of::<I::Code>() <= 2,
            "heads have room for 16-bit values"
        );
    };
}

/// Tiles of query rows whose logits are alive together: few enough for the L1 cache.
const TILES: usize = 2;
/// As many scales as the largest tier's block has rows.
const MAX_BLOCK: usize = 16;

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

/// Rows of packed weights (with the padding rows of the last panel).
fn padded_rows<I: Isa>(rows: usize) -> usize {
    let () = CheckSizes::<I>::OK;
    rows.next_multiple_of(I::LANES)
}

/// Packs row-major `source` into `weights`; returns through `sum` the sum of each row.
fn pack_rows<I: Isa>(source: Rows<i8>, weights: &mut [I::Weight], mut sum: impl FnMut(usize, i32)) {
    let (rows, k) = (source.rows(), source.cols().next_multiple_of(I::STEP));
    let total = padded_rows::<I>(rows);
    for first in (0..total).step_by(I::PANEL) {
        let width = I::PANEL.min(total - first);
        let panel = &mut weights[first * k..][..width * k];
        for r in 0..width {
            let row = if first + r < rows {
                source.row(first + r)
            } else {
                &[]
            };
            let mut at = r * I::GROUP;
            let mut groups = row.chunks_exact(I::GROUP);
            for group in &mut groups {
                for (w, &code) in panel[at..at + I::GROUP].iter_mut().zip(group) {
                    *w = code.into();
                }
                at += width * I::GROUP;
            }
            let mut rest = groups.remainder().iter();
            while at < panel.len() {
                for w in &mut panel[at..at + I::GROUP] {
                    *w = rest.next().copied().unwrap_or_default().into();
                }
                at += width * I::GROUP;
            }
            if first + r < rows {
                sum(first + r, row.iter().map(|&w| i32::from(w)).sum());
            }
        }
    }
}

/// Packs the transpose of row-major `source` into `weights`.
fn pack_columns<I: Isa>(source: Rows<i8>, weights: &mut [I::Weight]) {
    let (rows, tokens) = (source.cols(), source.rows());
    let k = tokens.next_multiple_of(I::STEP);
    let total = padded_rows::<I>(rows);
    for first in (0..total).step_by(I::PANEL) {
        let width = I::PANEL.min(total - first);
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

/// Copies input rows as codes of `k` columns; what pads them is multiplied by zero weights.
fn encode<I: Isa>(input: Rows<i8>, k: usize, codes: &mut Buffer) {
    let codes: &mut [I::Code] = codes.take(input.rows() * k);
    for (i, row) in codes.chunks_exact_mut(k).enumerate() {
        for (code, &a) in row.iter_mut().zip(input.row(i)) {
            *code = I::code(a);
        }
    }
}

/// Packs a layer.
pub(crate) fn pack_linear<I: Isa>(
    linear: &mut Linear,
    source: Rows<i8>,
    bias: &[i32],
    mult: &[i16],
    shift: &[u8],
) {
    let (rows, k) = (linear.rows, linear.k.next_multiple_of(I::STEP));
    // A panel's parameters are read whole.
    let padded = rows.next_multiple_of(I::PANEL);
    let sums = linear.bias.take::<i32>(padded);
    pack_rows::<I>(
        source,
        linear.weights.take(padded_rows::<I>(rows) * k),
        |r, sum| {
            sums[r] = bias[r] - I::CODE_OFFSET * sum;
        },
    );
    let rounded = linear.rounded.take::<i32>(padded);
    for r in 0..rows {
        // (16*acc + 2^(p-1)) >> p is (acc + 2^(p-5)) >> (p-4) for p > 4, and acc << (4-p) otherwise.
        rounded[r] = sums[r] + if shift[r] > 4 { 1 << (shift[r] - 5) } else { 0 };
    }
    linear.mult.take::<i16>(padded)[..rows].copy_from_slice(mult);
    for (right, &p) in linear.right.take::<i32>(padded).iter_mut().zip(shift) {
        *right = i32::from(p.saturating_sub(4));
    }
    for (left, &p) in linear.left.take::<i32>(padded).iter_mut().zip(shift) {
        *left = i32::from(4u8.saturating_sub(p));
    }
}

/// Computes every tile of `input` times `linear`, panel by panel, and hands it to `finish(first input row,
/// rows, first output column, columns, accumulators)`.
///
/// # Safety
/// The CPU has the tier's features.
unsafe fn linear<I: Isa>(
    linear: &Linear,
    bias: &Buffer,
    input: Rows<i8>,
    scratch: &mut Scratch,
    mut finish: impl FnMut(usize, usize, usize, usize, *const i32),
) {
    let k = linear.k.next_multiple_of(I::STEP);
    let total = padded_rows::<I>(linear.rows);
    encode::<I>(input, k, &mut scratch.codes);
    let codes = &scratch.codes.as_slice::<I::Code>()[..input.rows() * k];
    let weights = &linear.weights.as_slice::<I::Weight>()[..total * k];
    let bias = &bias.as_slice::<i32>()[..total];
    let tile = scratch.tile.take::<i32>(I::ROWS * I::PANEL);
    for first in (0..total).step_by(I::PANEL) {
        let width = I::PANEL.min(total - first);
        let (w, bias) = (&weights[first * k..][..width * k], &bias[first..][..width]);
        for i in (0..input.rows()).step_by(I::ROWS) {
            let rows = I::ROWS.min(input.rows() - i);
            let a = &codes[i * k..][..rows * k];
            // SAFETY: the slices have the sizes that tile reads; the tile buffer holds ROWS rows of PANEL;
            // the caller promises the features.
            unsafe {
                I::tile(
                    a.as_ptr(),
                    k,
                    rows,
                    w.as_ptr(),
                    width,
                    k,
                    bias.as_ptr(),
                    tile.as_mut_ptr(),
                    I::PANEL,
                );
            }
            finish(
                i,
                rows,
                first,
                width.min(linear.rows - first),
                tile.as_ptr(),
            );
        }
    }
}

/// The parameters of the panel that starts at output row `first`.
fn requant<I: Isa>(linear: &Linear, first: usize) -> Requant {
    let panel = first..first + I::PANEL;
    Requant {
        mult: linear.mult.as_slice::<i16>()[panel.clone()].as_ptr(),
        right: linear.right.as_slice::<i32>()[panel.clone()].as_ptr(),
        left: linear.left.as_slice::<i32>()[panel].as_ptr(),
    }
}

/// `Kernels::linear_i8`.
///
/// # Safety
/// The CPU has the tier's features; the sizes agree.
pub(crate) unsafe fn linear_i8<I: Isa>(
    layer: &Linear,
    input: Rows<i8>,
    mut out: RowsMut<i8>,
    zero_point: i8,
    table: Option<&[i8; 256]>,
    scratch: &mut Scratch,
) {
    let offset = 64 * i16::from(zero_point) + 32;
    // SAFETY: linear hands out rows and columns of out, a full tile of accumulators and a panel of
    // parameters.
    unsafe {
        linear::<I>(
            layer,
            &layer.rounded,
            input,
            scratch,
            |i, rows, first, cols, acc| {
                let out = out.block(i, rows, first, cols);
                I::requant8(acc, requant::<I>(layer, first), offset, out);
                if let Some(table) = table {
                    I::lookup(table, out);
                }
            },
        );
    }
}

/// `Kernels::linear_residual`.
///
/// # Safety
/// The CPU has the tier's features; the sizes agree.
pub(crate) unsafe fn linear_residual<I: Isa>(
    layer: &Linear,
    input: Rows<i8>,
    mut x: RowsMut<i16>,
    scratch: &mut Scratch,
) {
    // SAFETY: linear hands out rows and columns of x, a full tile of accumulators and a panel of parameters.
    unsafe {
        linear::<I>(
            layer,
            &layer.rounded,
            input,
            scratch,
            |i, rows, first, cols, acc| {
                I::requant16(
                    acc,
                    requant::<I>(layer, first),
                    x.block(i, rows, first, cols),
                );
            },
        );
    }
}

/// `Kernels::linear_i32`.
///
/// # Safety
/// The CPU has the tier's features; the sizes agree.
pub(crate) unsafe fn linear_i32<I: Isa>(
    layer: &Linear,
    input: Rows<i8>,
    mut out: RowsMut<i32>,
    scratch: &mut Scratch,
) {
    // SAFETY: linear hands out rows and columns of out and a full tile of accumulators.
    unsafe {
        linear::<I>(
            layer,
            &layer.bias,
            input,
            scratch,
            |i, rows, first, cols, acc| {
                for m in 0..rows {
                    let acc = std::slice::from_raw_parts(acc.add(m * I::PANEL), cols);
                    out.row_mut(i + m)[first..first + cols].copy_from_slice(acc);
                }
            },
        );
    }
}

/// `Kernels::layer_norm`.
///
/// # Safety
/// The CPU has the tier's features; the sizes agree.
pub(crate) unsafe fn layer_norm<I: Isa>(norm: &LayerNorm, x: Rows<i16>, mut out: RowsMut<i8>) {
    for i in 0..x.rows() {
        // SAFETY: the caller promises the features and that the lengths agree.
        unsafe { I::layer_norm(norm, x.row(i), out.row_mut(i)) };
    }
}

/// `Kernels::pack_kv`; `kv.tokens` and `kv.head_dim` are set.
pub(crate) fn pack_kv<I: Isa>(keys: Rows<i8>, values: Rows<i8>, kv: &mut KvHead) {
    let (tokens, dim) = (kv.tokens, kv.head_dim);
    let key_bias = kv.key_bias.take::<i32>(padded_rows::<I>(tokens));
    let packed = kv
        .keys
        .take(padded_rows::<I>(tokens) * dim.next_multiple_of(I::STEP));
    pack_rows::<I>(keys, packed, |j, sum| key_bias[j] = -I::CODE_OFFSET * sum);
    pack_columns::<I>(
        values,
        kv.values
            .take(padded_rows::<I>(dim) * tokens.next_multiple_of(I::STEP)),
    );
    let padded = dim.next_multiple_of(I::PANEL);
    let means = kv.means.take::<i32>(padded);
    means.fill(0);
    for j in 0..tokens {
        for (sum, &v) in means.iter_mut().zip(values.row(j)) {
            *sum += i32::from(v);
        }
    }
    for (bias, mean) in kv.value_bias.take::<i32>(padded).iter_mut().zip(means) {
        *bias = -I::PROB_OFFSET * *mean;
        *mean = value_mean(*mean, tokens);
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
    let (tokens, dim) = (kv.tokens, kv.head_dim);
    let (dim_k, tokens_k) = (
        dim.next_multiple_of(I::STEP),
        tokens.next_multiple_of(I::STEP),
    );
    let (total_keys, total_dims) = (padded_rows::<I>(tokens), padded_rows::<I>(dim));
    let stride = tokens.next_multiple_of(PAD);
    let block_rows = TILES * I::ROWS;

    encode::<I>(q, dim_k, &mut scratch.codes);
    let codes = &scratch.codes.as_slice::<I::Code>()[..q.rows() * dim_k];
    let keys = &kv.keys.as_slice::<I::Weight>()[..total_keys * dim_k];
    let key_bias = &kv.key_bias.as_slice::<i32>()[..total_keys];
    let values = &kv.values.as_slice::<I::Weight>()[..total_dims * tokens_k];
    let value_bias = &kv.value_bias.as_slice::<i32>()[..total_dims];
    let means = &kv.means.as_slice::<i32>()[..dim.next_multiple_of(I::PANEL)];
    let logits = scratch.logits.take::<i32>(block_rows * stride);
    let probs = scratch.probs.take::<I::Code>(block_rows * stride);
    let tile = scratch.tile.take::<i32>(I::ROWS * I::PANEL);
    let mut scales = [RowScale::default(); MAX_BLOCK];

    for block in (0..q.rows()).step_by(block_rows) {
        let rows = block_rows.min(q.rows() - block);
        for first in (0..total_keys).step_by(I::PANEL) {
            let width = I::PANEL.min(total_keys - first);
            let (w, bias) = (
                &keys[first * dim_k..][..width * dim_k],
                &key_bias[first..][..width],
            );
            for i in (0..rows).step_by(I::ROWS) {
                let n = I::ROWS.min(rows - i);
                let a = &codes[(block + i) * dim_k..][..n * dim_k];
                let out = &mut logits[i * stride + first..][..(n - 1) * stride + width];
                // SAFETY: the slices have the sizes that tile reads and writes.
                unsafe {
                    I::tile_wide(
                        a.as_ptr(),
                        dim_k,
                        n,
                        w.as_ptr(),
                        width,
                        dim_k,
                        bias.as_ptr(),
                        out.as_mut_ptr(),
                        stride,
                    );
                }
            }
        }
        for (i, scale) in scales[..rows].iter_mut().enumerate() {
            let (logits, probs) = (
                &logits[i * stride..][..stride],
                &mut probs[i * stride..][..stride],
            );
            // SAFETY: both slices hold the tokens rounded up to PAD.
            let (sum12, sum8) =
                unsafe { I::softmax(logits.as_ptr(), tokens, head.mult, probs.as_mut_ptr()) };
            let (mult, shift) = attention_scale(sum12 as u32, head.out_mult, head.out_shift);
            *scale = RowScale {
                lost: sum12 - 16 * sum8,
                mult,
                shift,
            };
        }
        for first in (0..total_dims).step_by(I::PANEL) {
            let width = I::PANEL.min(total_dims - first);
            let (w, bias) = (
                &values[first * tokens_k..][..width * tokens_k],
                &value_bias[first..][..width],
            );
            let means = &means[first..][..I::PANEL];
            for i in (0..rows).step_by(I::ROWS) {
                let n = I::ROWS.min(rows - i);
                let a = &probs[i * stride..][..n * stride];
                // SAFETY: the slices have the sizes that tile reads; the tile buffer holds ROWS rows of
                // PANEL; the epilogue gets a full tile, a panel of means and a scale for each row.
                unsafe {
                    I::tile_wide(
                        a.as_ptr(),
                        stride,
                        n,
                        w.as_ptr(),
                        width,
                        tokens_k,
                        bias.as_ptr(),
                        tile.as_mut_ptr(),
                        I::PANEL,
                    );
                    let out = out.block(block + i, n, first, width.min(dim - first));
                    I::attention_output(tile.as_ptr(), means.as_ptr(), &scales[i..i + n], out);
                }
            }
        }
    }
}
