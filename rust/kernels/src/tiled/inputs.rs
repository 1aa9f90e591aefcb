//! Input rows as a tier multiplies them.

use super::isa::{FourBitForm, Isa};
use crate::buffer::{Buffer, Plain};
use crate::MatrixView;

/// Returns the number of rows that the tiles of `rows` rows read and write.
pub(super) fn whole_rows<I: Isa>(rows: usize) -> usize {
    rows.next_multiple_of(I::WHOLE_ROWS)
}

/// Input rows as a tier multiplies them: in place, or as codes in a buffer.
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
    pub unsafe fn new<I: Isa<Code = C>>(
        input: MatrixView<'a, i8>,
        k: usize,
        buffer: &'a mut Buffer,
    ) -> Self {
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

    /// Returns the first row of a tile of `rows` rows from row `i` on, which reads `whole` rows,
    /// and the stride.
    #[allow(clippy::inline_always)] // AMX's tiles call nothing between their products
    #[inline(always)]
    pub fn tile(&self, i: usize, rows: usize, whole: usize) -> (*const C, usize) {
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
