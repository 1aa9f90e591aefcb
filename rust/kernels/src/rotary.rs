//! Rotary positions: the rotations of q and k by token, and the rotation of a row.
//!
//! Depends on the matrix views, the scalar reference's rounding and a tier's pairs.

use crate::matrix::Out;
use crate::scalar::{clamp8, rshift};
use crate::tiled::RowKernels;
use crate::MatrixViewMut;

/// The cosine or sine of a rotation that is 1.
pub const ROTARY_ONE: i16 = 1 << 14;

/// The rotations of q and k for each token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotary {
    head_dim: usize,
    /// The factors of each position of the first axis, then of the second, then those that do not
    /// rotate: `[c, -s]` of each pair, then `[s, c]` of each pair, `head_dim` values in all.
    factors: Vec<i16>,
    /// For each token, the position of either half of a head among all factors.
    places: Vec<[usize; 2]>,
}

impl Rotary {
    /// Creates the rotations of `prefix` tokens that are not rotated and of a grid of patches.
    /// `rows` and `columns` hold cosine and sine, [`ROTARY_ONE`] being 1, of `head_dim / 4` pairs
    /// for each row and each column of the grid.
    ///
    /// # Panics
    /// If `head_dim` is 0 or no multiple of 4, or the lengths do not agree with it.
    pub fn new(head_dim: usize, prefix: usize, rows: &[i16], columns: &[i16]) -> Self {
        let size = head_dim / 2;
        assert!(
            size > 0 && head_dim.is_multiple_of(4),
            "heads of {head_dim} dimensions"
        );
        assert!(
            rows.len().is_multiple_of(size) && columns.len().is_multiple_of(size),
            "cosines and sines of {} pairs",
            size / 2
        );
        let none: Vec<i16> = [ROTARY_ONE, 0].repeat(size / 2);
        let all = [rows, columns, &none];
        let mut factors = Vec::new();
        for position in all.iter().flat_map(|table| table.chunks_exact(size)) {
            let pairs = || position.as_chunks::<2>().0.iter();
            factors.extend(pairs().flat_map(|&[c, s]| [c, -s]));
            factors.extend(pairs().flat_map(|&[c, s]| [s, c]));
        }
        let [rows, columns] = [rows.len() / size, columns.len() / size];
        let patch = |y: usize| (0..columns).map(move |x| [y, rows + x]);
        let places = std::iter::repeat_n([rows + columns; 2], prefix);
        Self {
            head_dim,
            factors,
            places: places.chain((0..rows).flat_map(patch)).collect(),
        }
    }

    /// Returns cosine and sine of a pair of columns of all heads.
    ///
    /// # Panics
    /// If there is no such token.
    pub fn angle(&self, token: usize, pair: usize) -> [i16; 2] {
        let (half, pair) = (self.head_dim / 2, pair % (self.head_dim / 2));
        let place = self.places[token][pair / (half / 2)];
        let odd = &self.factors[place * self.head_dim + half..][2 * (pair % (half / 2))..];
        [odd[1], odd[0]]
    }

    /// Returns the number of tokens.
    pub fn tokens(&self) -> usize {
        self.places.len()
    }

    /// Returns the dimensions of each head.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }
}

/// The rotation of some outputs of a layer.
#[derive(Clone, Copy, Debug)]
pub struct Rotation<'a> {
    /// The rotations of all tokens.
    pub rotary: &'a Rotary,
    /// The token of the first row.
    pub token: usize,
    /// The number of columns that are rotated, from the first one on: whole heads.
    pub columns: usize,
}

impl Rotation<'_> {
    /// Turns `z`, 64ths of codes, into codes. Its first column is column `column` of the outputs;
    /// there may be more than `out` has.
    ///
    /// # Safety
    /// The CPU has the tier's features; the rows of `out` are live and nothing else refers to them.
    pub(crate) unsafe fn rotate<K: RowKernels>(
        self,
        column: usize,
        z: &MatrixViewMut<i16>,
        out: Out<i8>,
    ) {
        let Rotary {
            head_dim, factors, ..
        } = self.rotary;
        let half = head_dim / 2;
        let rotated = (self.columns - column).min(out.cols);
        for i in 0..out.rows {
            let (mut z, rest) = z.row(i)[..out.cols].split_at(rotated);
            // SAFETY: the caller's promise.
            let (mut to, codes) = unsafe { out.row(i) }.split_at_mut(rotated);
            let mut column = column;
            while !z.is_empty() {
                let (axis, first) = (column % head_dim / half, column % half);
                let run = z.len().min(half - first);
                let at = self.rotary.places[self.token + i][axis] * head_dim + first;
                let [even, odd] = [at, at + half].map(|at| &factors[at..at + run]);
                // SAFETY: the caller's promise; the lengths agree.
                unsafe { K::rotate(&z[..run], even, odd, &mut to[..run]) };
                (z, to, column) = (&z[run..], &mut to[run..], column + run);
            }
            for (code, &z) in codes.iter_mut().zip(rest) {
                *code = clamp8(rshift(z.into(), 6));
            }
        }
    }
}

/// Computes [`RowKernels::rotate`]: the portable form.
pub(crate) fn rotate(z: &[i16], even: &[i16], odd: &[i16], out: &mut [i8]) {
    for i in (0..z.len()).step_by(2) {
        let sum = |factors: &[i16]| {
            i32::from(z[i]) * i32::from(factors[i])
                + i32::from(z[i + 1]) * i32::from(factors[i + 1])
        };
        out[i] = clamp8(rshift(sum(even), 20));
        out[i + 1] = clamp8(rshift(sum(odd), 20));
    }
}
