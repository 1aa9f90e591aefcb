//! AVX2 kernels that quantize rows. `vcvtps2dq` rounds half to even, as the scalar code does.

use std::arch::x86_64::*;

use super::scalar::{self, LANES, RUN};

/// Weights of one call of [`codes`].
const STEP: usize = 32;

/// Loads eight weights.
#[inline]
#[target_feature(enable = "avx2")]
fn load(weights: &[f32; LANES]) -> __m256 {
    // SAFETY: 32 bytes.
    unsafe { _mm256_loadu_ps(weights.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn clamp(v: __m256, limit: __m256) -> __m256 {
    _mm256_max_ps(
        _mm256_min_ps(v, limit),
        _mm256_sub_ps(_mm256_setzero_ps(), limit),
    )
}

/// Computes [`scalar::largest_magnitude`].
///
/// # Safety
/// The CPU has AVX2.
#[target_feature(enable = "avx2")]
pub(crate) unsafe fn largest_magnitude(weights: &[f32]) -> u32 {
    let (steps, rest) = weights.as_chunks::<STEP>();
    let mask = _mm256_set1_epi32(0x7fff_ffff);
    let mut most = [_mm256_setzero_si256(); STEP / LANES];
    for step in steps {
        for (most, eight) in most.iter_mut().zip(step.as_chunks::<LANES>().0) {
            let bits = _mm256_and_si256(_mm256_castps_si256(load(eight)), mask);
            *most = _mm256_max_epu32(*most, bits);
        }
    }
    let [a, b, c, d] = most;
    let most = _mm256_max_epu32(_mm256_max_epu32(a, b), _mm256_max_epu32(c, d));
    let mut lanes = [0u32; LANES];
    // SAFETY: 32 bytes.
    unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), most) };
    let most = lanes.into_iter().max().unwrap_or(0);
    most.max(scalar::largest_magnitude(rest))
}

/// Quantizes 32 weights: in each half of the register, four codes of each eight weights in turn.
#[inline]
#[target_feature(enable = "avx2")]
fn codes(weights: &[f32; STEP], scale: __m256, limit: __m256) -> __m256i {
    let mut words = [_mm256_setzero_si256(); STEP / LANES];
    for (words, eight) in words.iter_mut().zip(weights.as_chunks::<LANES>().0) {
        *words = _mm256_cvtps_epi32(clamp(_mm256_div_ps(load(eight), scale), limit));
    }
    let [a, b, c, d] = words;
    _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d))
}

/// Computes [`scalar::pack_4_bit`].
///
/// # Safety
/// The CPU has AVX2.
#[target_feature(enable = "avx2")]
pub(crate) unsafe fn pack_4_bit(weights: &[f32], scale: f32, limit: f32, out: &mut [u8]) {
    let (steps, rest) = weights.as_chunks::<STEP>();
    let (outs, out_rest) = out.split_at_mut(steps.len() * STEP / 2);
    let (all, most) = (_mm256_set1_ps(scale), _mm256_set1_ps(limit));
    for (step, out) in steps.iter().zip(outs.as_chunks_mut::<{ STEP / 2 }>().0) {
        let nibbles = _mm256_and_si256(codes(step, all, most), _mm256_set1_epi8(15));
        // low + 16 * high
        let bytes = _mm256_maddubs_epi16(nibbles, _mm256_set1_epi16(0x1001));
        let bytes = _mm256_packus_epi16(bytes, bytes);
        let (low, high) = (
            _mm256_castsi256_si128(bytes),
            _mm256_extracti128_si256::<1>(bytes),
        );
        // SAFETY: 16 bytes.
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), _mm_unpacklo_epi16(low, high)) };
    }
    scalar::pack_4_bit(rest, scale, limit, out_rest);
}

/// Computes [`scalar::pack_8_bit`].
///
/// # Safety
/// The CPU has AVX2.
#[target_feature(enable = "avx2")]
pub(crate) unsafe fn pack_8_bit(weights: &[f32], scale: f32, limit: f32, out: &mut [u8]) {
    let (steps, rest) = weights.as_chunks::<STEP>();
    let (outs, out_rest) = out.as_chunks_mut::<STEP>();
    let (all, most) = (_mm256_set1_ps(scale), _mm256_set1_ps(limit));
    let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    for (step, out) in steps.iter().zip(outs) {
        let bytes = _mm256_permutevar8x32_epi32(codes(step, all, most), order);
        // SAFETY: 32 bytes.
        unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), bytes) };
    }
    scalar::pack_8_bit(rest, scale, limit, out_rest);
}

/// Computes [`scalar::squared_error`].
///
/// # Safety
/// The CPU has AVX2.
#[target_feature(enable = "avx2")]
pub(crate) unsafe fn squared_error(weights: &[f32], scale: f32, limit: f32) -> f64 {
    const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    let (all, most) = (_mm256_set1_ps(scale), _mm256_set1_ps(limit));
    let mut total = 0f64;
    for run in weights.chunks(RUN) {
        let (eights, rest) = run.as_chunks::<LANES>();
        let mut sums = _mm256_setzero_ps();
        for eight in eights {
            let v = _mm256_div_ps(load(eight), all);
            let error = _mm256_sub_ps(v, _mm256_round_ps::<NEAREST>(clamp(v, most)));
            sums = _mm256_add_ps(sums, _mm256_mul_ps(error, error));
        }
        let mut lanes = [0f32; LANES];
        // SAFETY: 32 bytes.
        unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), sums) };
        scalar::add_errors(rest, scale, limit, &mut lanes);
        total += lanes.iter().map(|&s| f64::from(s)).sum::<f64>();
    }
    total
}
