//! One head's attention, in blocks of queries: logits, softmax, outputs.

use std::ops::Range;

use super::inputs::Inputs;
use super::isa::{RowScales, RowSums, Tiles};
use super::layout::{padded_rows, panels, whole_rows, Layout, Product};
use crate::buffer::cast;
use crate::layers::PAD;
use crate::scalar::value_mean;
use crate::{HeadParams, KvHead, MatrixView, MatrixViewMut, Scratch};

/// Implements `Kernels::pack_kv`. `kv.tokens` and `kv.head_dim` are set.
///
/// # Safety
/// The CPU has the tier's features.
pub(crate) unsafe fn pack_kv<I: Layout>(
    keys: MatrixView<i8>,
    values: MatrixView<i8>,
    kv: &mut KvHead,
) {
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

/// Attention of query rows of one head.
struct Attention<'a, I: Tiles> {
    queries: Inputs<'a, I::Code>,
    kv: &'a KvHead,
    head: HeadParams,
    /// k of a query, and of a row of probabilities.
    k: [usize; 2],
    /// Distance of rows of logits, and of rows of probabilities.
    strides: [usize; 2],
}

impl<I: Tiles> Attention<'_, I> {
    /// Returns the query rows of block `block`.
    fn rows(&self, block: usize) -> Range<usize> {
        let rows = self.queries.input.rows();
        block * I::QUERIES..rows.min((block + 1) * I::QUERIES)
    }

    /// Multiplies a block's queries by all keys.
    ///
    /// # Safety
    /// The CPU has the tier's features; the head is packed for it.
    unsafe fn logits(&self, block: usize, logits: &mut [i32]) {
        let (rows, width) = (self.rows(block), padded_rows::<I>(self.kv.tokens));
        let (keys, bias) = (self.kv.keys.as_slice(), self.kv.key_bias.as_slice::<i32>());
        let (w, bias): (&[I::Weight], _) = (&keys[..width * self.k[0]], &bias[..width]);
        for i in (0..rows.len()).step_by(I::ROWS) {
            let n = I::ROWS.min(rows.len() - i);
            let whole = whole_rows::<I>(n);
            let (a, stride) = self.queries.tile::<I>(rows.start + i, n);
            let out = &mut logits[i * self.strides[0]..][..(whole - 1) * self.strides[0] + width];
            let p = Product {
                a,
                stride,
                rows: n,
                w: w.as_ptr(),
                width,
                k: self.k[0],
                bias: bias.as_ptr(),
            };
            // SAFETY: the slices have the sizes that tiles read and write.
            unsafe { I::tiles_of_panels(p, out.as_mut_ptr(), self.strides[0]) };
        }
    }

    /// Puts a block's probabilities where its logits are. Returns the scale of each row's outputs.
    ///
    /// # Safety
    /// The CPU has the tier's features.
    unsafe fn probabilities(&self, block: usize, logits: &mut [i32]) -> RowScales {
        let rows = self.rows(block).len();
        let mut sums = RowSums::default();
        let logits = logits[..rows * self.strides[0]].as_mut_ptr();
        let sizes = [self.kv.tokens, rows];
        // SAFETY: there are rows of the tokens rounded up to LOGITS; the probabilities, rounded up
        // to PAD, take no more bytes.
        unsafe {
            let (mult, probs) = (self.head.mult, logits.cast());
            I::softmax(logits, probs, self.strides, sizes, mult, &mut sums);
            I::row_scales(&sums, rows, self.head)
        }
    }

    /// Returns the panels of values: first column, width, and position of the block's products.
    fn value_panels(&self) -> impl Iterator<Item = (usize, usize, usize)> {
        let panels = panels::<I>(padded_rows::<I>(self.kv.head_dim)).zip(0..);
        panels.map(|((first, width), i)| (first, width, i * I::QUERIES * I::PANEL))
    }

    /// Multiplies a block's probabilities by all values.
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

    /// Computes a block's output codes.
    ///
    /// # Safety
    /// The CPU has the tier's features.
    unsafe fn outputs(
        &self,
        block: usize,
        products: &[i32],
        scales: &RowScales,
        out: &mut MatrixViewMut<i8>,
    ) {
        let (rows, dim) = (self.rows(block), self.kv.head_dim);
        for (first, width, at) in self.value_panels() {
            let acc = &products[at..][..rows.len() * I::PANEL];
            let means = &self.kv.means.as_slice::<i32>()[first..][..I::PANEL];
            let out = out.block(rows.start, rows.len(), first, width.min(dim - first));
            let scales = &scales[..rows.len()];
            // SAFETY: there are whole rows of accumulators, a panel of means and a scale for each
            // row.
            unsafe { I::attention_output(acc.as_ptr(), means.as_ptr(), scales, out) };
        }
    }
}

/// Implements `Kernels::attention`.
///
/// # Safety
/// The CPU has the tier's features; the sizes agree; `kv` is packed for this tier.
pub(crate) unsafe fn attention<I: Tiles>(
    q: MatrixView<i8>,
    kv: &KvHead,
    head: HeadParams,
    mut out: MatrixViewMut<i8>,
    soon: &[MatrixView<i8>],
    scratch: &mut Scratch,
) {
    let k = [kv.head_dim, kv.tokens].map(|k| k.next_multiple_of(I::STEP));
    let strides = [I::LOGITS, PAD].map(|pad| kv.tokens.next_multiple_of(pad));
    let blocks = q.rows().div_ceil(I::QUERIES);
    let panels = kv.head_dim.div_ceil(I::PANEL);
    // Of a block. What comes later takes the place of what is no longer needed: keys and values
    // nearly fill the first-level cache.
    let logits = I::QUERIES * strides[0];
    let probs = (I::QUERIES * strides[1] * size_of::<I::Code>()).div_ceil(size_of::<i32>());
    let products = panels * I::QUERIES * I::PANEL;
    let memory = (scratch.attention).take::<i32>(logits.max(probs + products));
    // SAFETY: the caller promises the features and the head.
    unsafe {
        let attention = Attention::<I> {
            queries: Inputs::new::<I>(q, k[0], &mut scratch.codes),
            kv,
            head,
            k,
            strides,
        };
        I::enter_thread();
        for block in 0..blocks {
            attention.logits(block, memory);
            // A part at a time, so that the loads of a block need not wait.
            for rows in soon {
                let part = |block: usize| rows.rows() * block / blocks;
                (part(block)..part(block + 1)).for_each(|i| I::prefetch_all(rows.row(i)));
            }
            let scales = attention.probabilities(block, memory);
            let (probs, products) = memory.split_at_mut(probs);
            attention.products(block, cast(probs), products);
            attention.outputs(block, products, &scales, &mut out);
        }
        I::leave_thread();
    }
}
