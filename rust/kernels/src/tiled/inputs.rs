//! Input rows as a tier multiplies them, and the operands of a layer's tiles.

use super::epilogue::{Epilogue, Requant};
use super::layout::{whole_rows, FourBitForm, Layout, Product, ProductOf};
use crate::buffer::{Buffer, Plain};
use crate::MatrixView;

/// Input rows as a tier multiplies them: in place, or as codes in a buffer.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a, C> {
    pub input: MatrixView<'a, i8>,
    /// Rows before this one are multiplied in place.
    first: usize,
    /// The other rows, as codes of `k` columns. Their padding is multiplied by zero weights.
    codes: &'a [C],
    pub k: usize,
}

impl<'a, C: Plain> Inputs<'a, C> {
    /// Encodes the rows that cannot be multiplied in place.
    ///
    /// # Safety
    /// The CPU has the tier's features.
    pub unsafe fn new<L: Layout<Code = C>>(
        input: MatrixView<'a, i8>,
        k: usize,
        buffer: &'a mut Buffer,
    ) -> Self {
        let rows = input.rows();
        let first = match L::DIRECT && k == input.cols() {
            true if rows.is_multiple_of(L::WHOLE_ROWS) => rows,
            // The last tile would read more rows than there are.
            true => rows / L::ROWS * L::ROWS,
            false => 0,
        };
        let rest = input.range(first..rows);
        let codes = buffer.take(whole_rows::<L>(rest.rows()) * k);
        // SAFETY: the caller's promise.
        unsafe { L::encode(rest, k, codes) };
        Self {
            input,
            first,
            codes,
            k,
        }
    }

    /// Returns the first row of a tile of `rows` rows from row `i` on, and the stride.
    #[allow(clippy::inline_always)] // AMX's tiles call nothing between their products
    #[inline(always)]
    pub fn tile<L: Layout>(&self, i: usize, rows: usize) -> (*const C, usize) {
        if i + rows <= self.first {
            let (codes, stride) = self.input.starting_at(i);
            (codes.cast(), stride)
        } else {
            let codes = &self.codes[(i - self.first) * self.k..][..whole_rows::<L>(rows) * self.k];
            (codes.as_ptr(), self.k)
        }
    }
}

impl<'a> Inputs<'a, u8> {
    /// Encodes the inputs of 4-bit rows.
    pub fn four_bit(input: MatrixView<'a, i8>, form: FourBitForm, buffer: &'a mut Buffer) -> Self {
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

/// The weights and biases of a panel, and the inputs that they are multiplied by.
pub(super) struct PanelOperands<'a, C, W> {
    pub inputs: Inputs<'a, C>,
    pub w: *const W,
    pub width: usize,
    pub bias: *const i32,
}

impl<C: Plain, W> PanelOperands<'_, C, W> {
    /// Returns the operands of the tile of `rows` rows from row `i` on.
    #[allow(clippy::inline_always)] // AMX's tiles call nothing between their products
    #[inline(always)]
    pub fn tile<L: Layout>(&self, i: usize, rows: usize) -> Product<C, W> {
        let (a, stride) = self.inputs.tile::<L>(i, rows);
        Product {
            a,
            stride,
            rows,
            w: self.w,
            width: self.width,
            k: self.inputs.k,
            bias: self.bias,
        }
    }
}

/// The tiles of all input rows and a whole panel whose outputs are not staged; at least two tiles.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // no other tier overlaps tiles
pub(crate) struct PanelTiles<'a, L: Layout> {
    pub(super) operands: &'a PanelOperands<'a, L::Code, L::Weight>,
    /// Rows of all tiles but the last, which may have fewer.
    pub rows: usize,
    /// Room for the accumulators of tiles, which take turns.
    pub acc: [*mut i32; 2],
    /// Parts of k.
    pub k_parts: usize,
    /// Room for the sums of all tiles over the first parts, if there are several.
    pub sums: *mut i32,
    pub requant: Requant,
    /// Of all tiles but the last.
    pub epilogue: Epilogue<'a>,
    /// Weights to prefetch.
    pub soon: &'a [u8],
}

#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // as above
impl<L: Layout> PanelTiles<'_, L> {
    /// Returns the number of tiles.
    pub fn count(&self) -> usize {
        self.operands.inputs.input.rows().div_ceil(self.rows)
    }

    /// Returns the operands of tile `t` in part `part` of k.
    #[allow(clippy::inline_always)] // AMX's tiles call nothing between their products
    #[inline(always)]
    pub fn product(&self, t: usize, part: usize) -> ProductOf<L> {
        let i = t * self.rows;
        let rows = self.rows.min(self.operands.inputs.input.rows() - i);
        let p = self.operands.tile::<L>(i, rows);
        let steps = p.k / L::STEP;
        let first = |part: usize| steps * part / self.k_parts * L::STEP;
        Product {
            a: p.a.wrapping_add(first(part)),
            w: p.w.wrapping_add(first(part) * p.width),
            k: first(part + 1) - first(part),
            ..p
        }
    }
}
