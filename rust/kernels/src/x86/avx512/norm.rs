//! `LayerNorm` of rows.

use std::arch::x86_64::*;

use super::vectors::{add_words, four_lanes, in_order32, mask32, put8};
use crate::{LayerNorm, MatrixView, MatrixViewMut};

/// Returns vectors whose lanes add up to the sum of x (in 32 bits) and of x^2 (in 64 bits).
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn sums(x: &[i16]) -> (__m512i, __m512i) {
    let ones = _mm512_set1_epi16(1);
    let low = _mm512_set1_epi64(0xffff_ffff);
    let (mut sum, mut squares) = (_mm512_setzero_si512(), _mm512_setzero_si512());
    let mut add = |v: [__m512i; 2]| {
        sum = add_words(add_words(sum, v[0], ones), v[1], ones);
        // Of x within [-32767, 32767], four squares are below 2^32; from there on 64 bits.
        let [a, b] = v.map(|v| _mm512_madd_epi16(v, v));
        let fours = _mm512_add_epi32(a, b);
        squares = _mm512_add_epi64(squares, _mm512_and_si512(fours, low));
        squares = _mm512_add_epi64(squares, _mm512_srli_epi64::<32>(fours));
    };
    let parts = x.chunks_exact(64);
    let rest = parts.remainder();
    for part in parts {
        // SAFETY: 64 values.
        add([0, 32].map(|j| unsafe { _mm512_loadu_si512(part.as_ptr().add(j).cast()) }));
    }
    if !rest.is_empty() {
        add([0, 32].map(|j| {
            let mask = mask32(rest.len().saturating_sub(j));
            // SAFETY: the mask keeps the load inside the slice.
            unsafe { _mm512_maskz_loadu_epi16(mask, rest.as_ptr().wrapping_add(j)) }
        }));
    }
    (sum, squares)
}

/// Rows whose statistics are computed together.
const GROUP: usize = 8;

/// Returns the sum of each of 8 vectors of 32-bit numbers.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
fn reduced32(x: &[__m512i; GROUP]) -> __m256i {
    let lanes = |a, b| {
        _mm512_add_epi32(
            _mm512_shuffle_i32x4::<0x88>(a, b),
            _mm512_shuffle_i32x4::<0xdd>(a, b),
        )
    };
    let four = |i: usize| four_lanes::<false>([x[i], x[i + 1], x[i + 2], x[i + 3]]);
    let halves = lanes(four(0), four(4));
    _mm512_castsi512_si256(lanes(halves, halves))
}

/// Returns the sum of each of 8 vectors of 64-bit numbers.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
fn reduced64(x: &[__m512i; GROUP]) -> __m512i {
    let pairs = |i: usize| {
        let (a, b) = (x[i], x[i + 1]);
        _mm512_add_epi64(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b))
    };
    let lanes = |a, b| {
        _mm512_add_epi64(
            _mm512_shuffle_i64x2::<0x88>(a, b),
            _mm512_shuffle_i64x2::<0xdd>(a, b),
        )
    };
    lanes(lanes(pairs(0), pairs(2)), lanes(pairs(4), pairs(6)))
}

/// The statistics of 8 rows, as their codes need them: see [`crate::scalar::Moments`].
struct Moments {
    /// Added to `D*x`: `-S` and, where the sum is shifted right, the rounding half.
    offset: [i32; GROUP],
    /// By how much the sum is shifted right, or left.
    right: [i32; GROUP],
    left: [i32; GROUP],
    /// As that of the scalar moments.
    inv: [i32; GROUP],
}

impl Moments {
    /// Computes the statistics from S, Q, D and E, all rows at once, with the arithmetic of
    /// [`crate::scalar::Moments::new`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    fn new(sums: __m256i, squares: __m512i, d: usize, epsilon: i64) -> Self {
        const FLOOR: i32 = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC;
        let sums64 = _mm512_cvtepi32_epi64(sums);
        let v = _mm512_sub_epi64(
            _mm512_mullo_epi64(_mm512_set1_epi64(d as i64), squares),
            _mm512_mul_epi32(sums64, sums64),
        );
        let v = _mm512_add_epi64(v, _mm512_set1_epi64(epsilon));
        // V is below 2^52, so a float has it exactly: its exponent is one less than its bits.
        let exponents = _mm512_cvttpd_epi64(_mm512_getexp_pd(_mm512_cvtepi64_pd(v)));
        let bits = _mm512_srli_epi64::<1>(_mm512_add_epi64(exponents, _mm512_set1_epi64(2)));
        let shift = _mm512_slli_epi64::<1>(_mm512_sub_epi64(_mm512_set1_epi64(26), bits));
        let root = _mm512_sqrt_pd(_mm512_cvtepi64_pd(_mm512_sllv_epi64(v, shift)));
        let root = _mm512_roundscale_pd::<FLOOR>(root);
        let inv = _mm512_cvttpd_epi32(_mm512_div_pd(_mm512_set1_pd((1u64 << 40) as f64), root));
        let ten = _mm256_set1_epi32(10);
        let bits = _mm512_cvtepi64_epi32(bits);
        let zero = _mm256_setzero_si256();
        let right = _mm256_max_epi32(_mm256_sub_epi32(bits, ten), zero);
        let left = _mm256_max_epi32(_mm256_sub_epi32(ten, bits), zero);
        let half = _mm256_srli_epi32::<1>(_mm256_sllv_epi32(_mm256_set1_epi32(1), right));
        let numbers = |x: __m256i| {
            let mut numbers = [0; GROUP];
            // SAFETY: 8 numbers.
            unsafe { _mm256_storeu_si256(numbers.as_mut_ptr().cast(), x) };
            numbers
        };
        Self {
            offset: numbers(_mm256_sub_epi32(half, sums)),
            right: numbers(right),
            left: numbers(left),
            inv: numbers(_mm256_min_epi32(inv, _mm256_set1_epi32(32767))),
        }
    }
}

/// Computes the codes of a row, the `i`th one of the moments.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn normalized(norm: &LayerNorm, moments: &Moments, i: usize, x: &[i16], out: &mut [i8]) {
    let d = x.len();
    let offset = _mm512_set1_epi32(moments.offset[i]);
    let right = _mm512_set1_epi32(moments.right[i]);
    let left = moments.left[i];
    let frac = _mm512_set1_epi16(norm.frac.into());
    // D times the even words of x, and times the odd ones.
    let (even, odd) = (
        _mm512_set1_epi32(d as i32),
        _mm512_set1_epi32((d as i32) << 16),
    );
    let inv = _mm512_set1_epi16(moments.inv[i] as i16);
    let codes = |x: __m512i, gain: __m512i, bias: __m512i| {
        let t = |scale: __m512i| {
            let t = _mm512_srav_epi32(_mm512_dpwssd_epi32(offset, x, scale), right);
            if left > 0 {
                _mm512_sll_epi32(t, _mm_cvtsi32_si128(left))
            } else {
                t
            }
        };
        // The low words of the even ones and the high words of the odd ones.
        let t = _mm512_ternarylogic_epi32::<0xf8>(
            _mm512_slli_epi32::<16>(t(odd)),
            t(even),
            _mm512_set1_epi32(0xffff),
        );
        let n = _mm512_mulhrs_epi16(t, inv);
        let y = _mm512_adds_epi16(_mm512_mulhrs_epi16(n, gain), bias);
        _mm512_srav_epi16(y, frac)
    };
    let (gain, bias) = (&norm.gain[..d], &norm.bias[..d]);
    let whole = d / 64 * 64;
    for j in (0..whole).step_by(64) {
        let half = |j: usize| {
            // SAFETY: 32 values of each slice.
            let [x, gain, bias] = [x, gain, bias]
                .map(|from| unsafe { _mm512_loadu_si512(from[j..j + 32].as_ptr().cast()) });
            codes(x, gain, bias)
        };
        let y = in_order32(_mm512_packs_epi16(half(j), half(j + 32)));
        // SAFETY: 64 codes.
        unsafe { _mm512_storeu_si512(out[j..j + 64].as_mut_ptr().cast(), y) };
    }
    if whole < d {
        let half = |j: usize| {
            let mask = mask32(d.saturating_sub(j));
            // SAFETY: the mask keeps the loads inside slices of d values.
            let [x, gain, bias] = [x, gain, bias].map(|from| unsafe {
                _mm512_maskz_loadu_epi16(mask, from.as_ptr().wrapping_add(j))
            });
            codes(x, gain, bias)
        };
        let y = in_order32(_mm512_packs_epi16(half(whole), half(whole + 32)));
        // SAFETY: the mask keeps the store inside a slice of d values.
        unsafe { put8(out.as_mut_ptr().add(whole), d - whole, y) };
    }
}

/// Computes [`crate::tiled::RowKernels::layer_norm`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn layer_norm(norm: &LayerNorm, x: MatrixView<i16>, mut out: MatrixViewMut<i8>) {
    for first in (0..x.rows()).step_by(GROUP) {
        let rows = first..x.rows().min(first + GROUP);
        let [mut of_x, mut of_squares] = [[_mm512_setzero_si512(); GROUP]; 2];
        for (place, i) in rows.clone().enumerate() {
            (of_x[place], of_squares[place]) = sums(x.row(i));
        }
        let (of_x, of_squares) = (reduced32(&of_x), reduced64(&of_squares));
        let moments = Moments::new(of_x, of_squares, x.cols(), norm.epsilon);
        for (place, i) in rows.enumerate() {
            normalized(norm, &moments, place, x.row(i), out.row_mut(i));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{scalar, Kernels, Tier};

    #[test]
    fn moments_of_8_rows_are_those_of_each() {
        if Kernels::new(Tier::Avx512Vnni).is_none() {
            return;
        }
        // V around powers of two and around squares, by way of the squares' sum with D of 1.
        let powers = (1..52).flat_map(|bit| (-8..8).map(move |i| (1i64 << bit) + i));
        let roots = (3..1 << 26)
            .step_by(99_991)
            .flat_map(|root: i64| (-1..=1).map(move |i| root * root + i));
        let mut all: Vec<i64> = powers
            .chain(roots)
            .filter(|&v| v > 0 && v < 1 << 52)
            .collect();
        all.truncate(all.len() / GROUP * GROUP);
        for (i, v) in all.chunks_exact(GROUP).enumerate() {
            let sums: [i32; GROUP] = std::array::from_fn(|row| (row as i32 - 4) * (i as i32 % 999));
            let epsilon = 1 + i as i64 % 3;
            let squares: [i64; GROUP] =
                std::array::from_fn(|row| (v[row] - epsilon + i64::from(sums[row]).pow(2)).max(0));
            let one = |row: usize| scalar::Moments::new(sums[row], squares[row], 1, epsilon);
            // SAFETY: the CPU has the tier; 8 numbers.
            let found = unsafe {
                Moments::new(
                    _mm256_loadu_si256(sums.as_ptr().cast()),
                    _mm512_loadu_si512(squares.as_ptr().cast()),
                    1,
                    epsilon,
                )
            };
            for (row, squares) in squares.into_iter().enumerate() {
                let scalar::Moments { sum, bits, inv } = one(row);
                let right = bits.saturating_sub(10);
                let found = (
                    found.offset[row],
                    found.right[row],
                    found.left[row],
                    found.inv[row],
                );
                let expected = (
                    (1 << right >> 1) - sum,
                    right as i32,
                    10u32.saturating_sub(bits) as i32,
                    i32::from(inv),
                );
                assert_eq!(found, expected, "sum {sum}, squares {squares}");
            }
        }
    }
}
