//! `LayerNorm` of rows.

use std::arch::x86_64::*;

use super::{in_order32, mask32, numbers, put8, reduced};
use crate::scalar::Moments;
use crate::{LayerNorm, MatrixView, MatrixViewMut};

/// Returns vectors whose lanes add up to the sum of x (in 32 bits) and of x^2 (in 64 bits).
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn moments(x: &[i16]) -> (__m512i, __m512i) {
    let ones = _mm512_set1_epi16(1);
    let low = _mm512_set1_epi64(0xffff_ffff);
    let (mut sum, mut squares) = (_mm512_setzero_si512(), _mm512_setzero_si512());
    let mut add = |v: __m512i| {
        sum = _mm512_add_epi32(sum, _mm512_madd_epi16(v, ones));
        // Two squares are below 2^31, so a pair fits; from there on 64 bits.
        let pairs = _mm512_madd_epi16(v, v);
        squares = _mm512_add_epi64(squares, _mm512_and_si512(pairs, low));
        squares = _mm512_add_epi64(squares, _mm512_srli_epi64::<32>(pairs));
    };
    let parts = x.chunks_exact(32);
    let rest = parts.remainder();
    for part in parts {
        // SAFETY: 32 values.
        add(unsafe { _mm512_loadu_si512(part.as_ptr().cast()) });
    }
    if !rest.is_empty() {
        // SAFETY: the mask keeps the load inside the slice.
        add(unsafe { _mm512_maskz_loadu_epi16(mask32(rest.len()), rest.as_ptr()) });
    }
    (sum, squares)
}

/// Returns the sum of each of 8 vectors of 64-bit numbers.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn reduced64(x: &[__m512i]) -> [i64; 8] {
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
    let sums = lanes(lanes(pairs(0), pairs(2)), lanes(pairs(4), pairs(6)));
    let mut numbers = [0; 8];
    // SAFETY: 8 numbers.
    unsafe { _mm512_storeu_si512(numbers.as_mut_ptr().cast(), sums) };
    numbers
}

/// Computes the codes of a row.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn normalized(norm: &LayerNorm, moments: &Moments, x: &[i16], out: &mut [i8]) {
    let d = x.len();
    let right = moments.bits.saturating_sub(10);
    // D*x - S and, where it is shifted right, the rounding half.
    let offset = _mm512_set1_epi32((1 << right >> 1) - moments.sum);
    let right = _mm512_set1_epi32(right as i32);
    let left = 10u32.saturating_sub(moments.bits);
    let frac = _mm512_set1_epi16(norm.frac.into());
    // D times the even words of x, and times the odd ones.
    let (even, odd) = (
        _mm512_set1_epi32(d as i32),
        _mm512_set1_epi32((d as i32) << 16),
    );
    let inv = _mm512_set1_epi16(moments.inv);
    let codes = |x: __m512i, gain: __m512i, bias: __m512i| {
        let t = |scale: __m512i| {
            let t = _mm512_srav_epi32(_mm512_dpwssd_epi32(offset, x, scale), right);
            if left > 0 {
                _mm512_sll_epi32(t, _mm_cvtsi32_si128(left as i32))
            } else {
                t
            }
        };
        let t = _mm512_mask_mov_epi16(t(even), 0xaaaa_aaaa, _mm512_slli_epi32::<16>(t(odd)));
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

/// Computes [`crate::tiled::Isa::layer_norm`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn layer_norm(norm: &LayerNorm, x: MatrixView<i16>, mut out: MatrixViewMut<i8>) {
    for first in (0..x.rows()).step_by(16) {
        let rows = first..x.rows().min(first + 16);
        let (mut sums, mut squares) = ([_mm512_setzero_si512(); 16], [_mm512_setzero_si512(); 16]);
        for (i, both) in rows.clone().zip(sums.iter_mut().zip(&mut squares)) {
            (*both.0, *both.1) = moments(x.row(i));
        }
        let sums = numbers(reduced(&sums));
        let squares = [reduced64(&squares[..8]), reduced64(&squares[8..])];
        let both = sums.into_iter().zip(squares.into_iter().flatten());
        let mut moments = [Moments::default(); 16];
        for (moments, (sum, squares)) in moments[..rows.len()].iter_mut().zip(both) {
            *moments = Moments::new(sum, squares, x.cols(), norm.epsilon);
        }
        for (i, moments) in rows.zip(&moments) {
            normalized(norm, moments, x.row(i), out.row_mut(i));
        }
    }
}
