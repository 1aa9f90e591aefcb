//! AVX2 kernels of preprocessing. The product of a pixel and a weight of up to 28 bits is two
//! 16-bit products (`vpmaddwd`). 32-bit sums wrap around, so only the final sum has to fit.

use std::arch::x86_64::*;

use super::colour::{YuvMatrix, GRAY, YUV_PRECISION};
use super::scalar::{self, clip8};
use super::windows::{Windows, GROUP, HALF, PRECISION, SPLIT};
use crate::{MatrixView, MatrixViewMut};

/// Bytes of a block of [`rows`].
const BLOCK: usize = 16;

/// Loads 16 bytes.
///
/// # Safety
/// The CPU has AVX2; 16 bytes can be read.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load(from: *const u8) -> __m128i {
    // SAFETY: the caller's.
    unsafe { _mm_loadu_si128(from.cast()) }
}

/// Computes `(low + (high << SPLIT) + HALF) >> PRECISION` of eight 32-bit numbers.
#[inline]
#[target_feature(enable = "avx2")]
fn finish(low: __m256i, high: __m256i) -> __m256i {
    let sum = _mm256_add_epi32(low, _mm256_slli_epi32::<{ SPLIT as i32 }>(high));
    let sum = _mm256_add_epi32(sum, _mm256_set1_epi32(HALF));
    _mm256_srai_epi32::<{ PRECISION as i32 }>(sum)
}

/// Computes [`scalar::rows`].
///
/// # Safety
/// The CPU has AVX2; the windows along rows are inside `source`, which begins with source row
/// `first`; `out` has a row for each window and the source's columns.
#[target_feature(enable = "avx2")]
pub(crate) unsafe fn rows(
    windows: &Windows,
    source: &MatrixView<u8>,
    first: usize,
    out: &mut MatrixViewMut<u8>,
) {
    let cols = source.cols();
    if cols < BLOCK {
        scalar::rows(windows, source, first, out);
        return;
    }
    let pairs = windows.pairs.chunks_exact(windows.pairs_each);
    for (i, ((start, weights), pairs)) in windows.iter().zip(pairs).enumerate() {
        let start = start - first;
        let last = start + weights.len() - 1;
        let out = out.row_mut(i);
        let mut at = 0;
        while at < cols {
            // The last block overlaps the one before.
            at = at.min(cols - BLOCK);
            let mut sums = [[_mm256_setzero_si256(); 2]; 2];
            for (pair, &[low, high]) in pairs.iter().take(weights.len().div_ceil(2)).enumerate() {
                let y = start + 2 * pair;
                // A last row alone is paired with itself, with the weight 0.
                let (a, b) = (
                    &source.row(y)[at..][..BLOCK],
                    &source.row(last.min(y + 1))[at..][..BLOCK],
                );
                // SAFETY: both slices have 16 bytes.
                let (a, b) = unsafe { (load(a.as_ptr()), load(b.as_ptr())) };
                let (low, high) = (_mm256_set1_epi32(low), _mm256_set1_epi32(high));
                let halves = [_mm_unpacklo_epi8(a, b), _mm_unpackhi_epi8(a, b)];
                for (sums, half) in sums.iter_mut().zip(halves) {
                    let pixels = _mm256_cvtepu8_epi16(half);
                    sums[0] = _mm256_add_epi32(sums[0], _mm256_madd_epi16(pixels, low));
                    sums[1] = _mm256_add_epi32(sums[1], _mm256_madd_epi16(pixels, high));
                }
            }
            let [[a, a_high], [b, b_high]] = sums;
            let bytes = narrow(finish(a, a_high), finish(b, b_high));
            // SAFETY: `at` is at most 16 before the row's end.
            unsafe { _mm_storeu_si128(out[at..][..BLOCK].as_mut_ptr().cast(), bytes) };
            at += BLOCK;
        }
    }
}

/// Packs sixteen 32-bit numbers to bytes, in order, clamped.
#[inline]
#[target_feature(enable = "avx2")]
fn narrow(a: __m256i, b: __m256i) -> __m128i {
    let words = _mm256_packs_epi32(a, b);
    let bytes = _mm256_packus_epi16(words, words);
    let order = _mm256_setr_epi32(0, 4, 1, 5, 0, 4, 1, 5);
    _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(bytes, order))
}

/// Computes [`scalar::columns`] of three channels, two rows side by side.
///
/// # Safety
/// The CPU has AVX2; the windows along columns are inside the rows of `source`, whose first pixel
/// is source index `first`; `out` has the source's rows and a pixel for each window.
#[target_feature(enable = "avx2")]
pub(crate) unsafe fn colour_columns(
    windows: &Windows,
    source: &MatrixView<u8>,
    first: usize,
    out: &mut MatrixViewMut<u8>,
) {
    // A source too small for pairs is little work.
    if windows.pairs.is_empty() {
        scalar::columns::<3>(windows, source, first, out);
        return;
    }
    // Channel by channel, two pixels side by side as 16-bit numbers.
    #[rustfmt::skip]
    let pick = |a: i8| {
        let (b, none) = (a + 3, -1);
        _mm256_setr_epi8(
            a, none, b, none, a + 1, none, b + 1, none,
            a + 2, none, b + 2, none, none, none, none, none,
            a, none, b, none, a + 1, none, b + 1, none,
            a + 2, none, b + 2, none, none, none, none, none,
        )
    };
    // Of 16 bytes, 12 are used: the first ones, or at the row's end the last ones.
    let (first_bytes, last_bytes) = ([pick(0), pick(6)], [pick(4), pick(10)]);
    let rows = source.rows();
    let groups = windows.pairs_each * 2 / GROUP;
    for y in (0..rows).step_by(2) {
        // A last row alone is computed twice.
        let other = (y + 1).min(rows - 1);
        let (a, b) = (source.row(y), source.row(other));
        let pairs = windows.pairs.chunks_exact(windows.pairs_each);
        for (i, (&start, pairs)) in windows.starts.iter().zip(pairs).enumerate() {
            let (at, bytes) = (3 * (start - first), 3 * GROUP * groups + 4);
            let (at, picks) = if at + bytes <= a.len() {
                (at, first_bytes)
            } else {
                (at - 4, last_bytes)
            };
            let (a, b) = (&a[at..][..bytes], &b[at..][..bytes]);
            let (mut low, mut high) = (_mm256_setzero_si256(), _mm256_setzero_si256());
            for (group, pairs) in pairs.as_chunks::<{ GROUP / 2 }>().0.iter().enumerate() {
                let at = 3 * GROUP * group;
                // SAFETY: the groups of 12 bytes and 4 more are inside the slices.
                let pixels = unsafe {
                    _mm256_inserti128_si256::<1>(
                        _mm256_castsi128_si256(load(a.as_ptr().add(at))),
                        load(b.as_ptr().add(at)),
                    )
                };
                for (pick, [weight_low, weight_high]) in picks.into_iter().zip(pairs) {
                    let pixels = _mm256_shuffle_epi8(pixels, pick);
                    let product = |weight| _mm256_madd_epi16(pixels, _mm256_set1_epi32(weight));
                    low = _mm256_add_epi32(low, product(*weight_low));
                    high = _mm256_add_epi32(high, product(*weight_high));
                }
            }
            let sums = finish(low, high);
            let words = _mm256_packs_epi32(sums, sums);
            let bytes = _mm256_packus_epi16(words, words);
            let a = _mm256_extract_epi32::<0>(bytes).to_le_bytes();
            let b = _mm256_extract_epi32::<4>(bytes).to_le_bytes();
            out.row_mut(y)[3 * i..][..3].copy_from_slice(&a[..3]);
            out.row_mut(other)[3 * i..][..3].copy_from_slice(&b[..3]);
        }
    }
}

/// Computes [`scalar::columns`] of one channel.
///
/// # Safety
/// As [`colour_columns`].
#[target_feature(enable = "avx2")]
pub(crate) unsafe fn gray_columns(
    windows: &Windows,
    source: &MatrixView<u8>,
    first: usize,
    out: &mut MatrixViewMut<u8>,
) {
    // A source too small for pairs is little work.
    if windows.pairs.is_empty() {
        scalar::columns::<1>(windows, source, first, out);
        return;
    }
    // Each pair of pixels twice, for the low and the high halves of its weights.
    #[rustfmt::skip]
    let pick = _mm256_setr_epi8(
        0, -1, 1, -1, 0, -1, 1, -1, 2, -1, 3, -1, 2, -1, 3, -1,
        4, -1, 5, -1, 4, -1, 5, -1, 6, -1, 7, -1, 6, -1, 7, -1,
    );
    let taps = 2 * windows.pairs_each;
    for y in 0..source.rows() {
        let row = source.row(y);
        let out = out.row_mut(y);
        let pairs = windows.pairs.chunks_exact(windows.pairs_each);
        for ((out, &start), pairs) in out.iter_mut().zip(&windows.starts).zip(pairs) {
            let pixels = &row[start - first..][..taps];
            let (eights, four) = pixels.as_chunks::<8>();
            let (weights, last) = pairs.as_chunks::<4>();
            let mut sums = _mm256_setzero_si256();
            for (eight, weights) in eights.iter().zip(weights) {
                let pixels = _mm256_set1_epi64x(i64::from_le_bytes(*eight));
                let pixels = _mm256_shuffle_epi8(pixels, pick);
                // SAFETY: four pairs are 32 bytes.
                let weights = unsafe { _mm256_loadu_si256(weights.as_ptr().cast()) };
                sums = _mm256_add_epi32(sums, _mm256_madd_epi16(pixels, weights));
            }
            let mut sums = _mm_add_epi32(
                _mm256_castsi256_si128(sums),
                _mm256_extracti128_si256::<1>(sums),
            );
            if let (&[a, b, c, d], &[[l, h], [k, j]]) = (four, last) {
                let pixels = _mm_set1_epi32(i32::from_le_bytes([a, b, c, d]));
                let pixels = _mm_shuffle_epi8(pixels, _mm256_castsi256_si128(pick));
                sums = _mm_add_epi32(sums, _mm_madd_epi16(pixels, _mm_setr_epi32(l, h, k, j)));
            }
            let sums = _mm_add_epi32(sums, _mm_unpackhi_epi64(sums, sums));
            let (low, high) = (_mm_extract_epi32::<0>(sums), _mm_extract_epi32::<1>(sums));
            *out = clip8(HALF.wrapping_add(low).wrapping_add(high << SPLIT));
        }
    }
}

/// The halves of a [`YuvMatrix`]'s factors, for pairs (Cb, Cr).
struct Yuv {
    luma: __m256i,
    /// R, G, B; low and high.
    chroma: [[__m256i; 2]; 3],
}

/// `factor = (high << YUV_SPLIT) + low`.
const YUV_SPLIT: i32 = 11;

impl Yuv {
    #[target_feature(enable = "avx2")]
    fn new(matrix: &YuvMatrix) -> Self {
        let both = |cb: i32, cr: i32| {
            let low = |v: i32| v & ((1 << YUV_SPLIT) - 1);
            let pair = |cb: i32, cr: i32| _mm256_set1_epi32((cb & 0xffff) | (cr << 16));
            [
                pair(low(cb), low(cr)),
                pair(cb >> YUV_SPLIT, cr >> YUV_SPLIT),
            ]
        };
        Self {
            luma: _mm256_set1_epi32(matrix.luma),
            chroma: [
                both(0, matrix.cr_red),
                both(matrix.cb_green, matrix.cr_green),
                both(matrix.cb_blue, 0),
            ],
        }
    }

    /// Converts sixteen pixels, with their eight pairs (Cb, Cr), to 48 bytes of RGB.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn sixteen(&self, luma: __m128i, chroma: __m128i) -> [__m128i; 3] {
        let luma = _mm_subs_epu8(luma, _mm_set1_epi8(16));
        let scaled = |luma| _mm256_mullo_epi32(_mm256_cvtepu8_epi32(luma), self.luma);
        let luma = [scaled(luma), scaled(_mm_unpackhi_epi64(luma, luma))];
        let chroma = _mm256_sub_epi16(_mm256_cvtepu8_epi16(chroma), _mm256_set1_epi16(128));
        let [red, green, blue] = &self.chroma;
        interleave(
            channel(luma, chroma, red),
            channel(luma, chroma, green),
            channel(luma, chroma, blue),
        )
    }
}

/// Computes one channel of sixteen pixels, from luma times its factor and eight pairs (Cb, Cr).
#[inline]
#[target_feature(enable = "avx2")]
fn channel(luma: [__m256i; 2], chroma: __m256i, [low, high]: &[__m256i; 2]) -> __m128i {
    let high = _mm256_slli_epi32::<YUV_SPLIT>(_mm256_madd_epi16(chroma, *high));
    let sum = _mm256_add_epi32(_mm256_madd_epi16(chroma, *low), high);
    let sum = _mm256_add_epi32(sum, _mm256_set1_epi32(1 << (YUV_PRECISION - 1)));
    // Each chroma for two pixels.
    let first = _mm256_permutevar8x32_epi32(sum, _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3));
    let second = _mm256_permutevar8x32_epi32(sum, _mm256_setr_epi32(4, 4, 5, 5, 6, 6, 7, 7));
    narrow(
        _mm256_srai_epi32::<{ YUV_PRECISION as i32 }>(_mm256_add_epi32(luma[0], first)),
        _mm256_srai_epi32::<{ YUV_PRECISION as i32 }>(_mm256_add_epi32(luma[1], second)),
    )
}

/// Returns the sources of 16 bytes of interleaved RGB, from byte 16 * `part` on: for each channel
/// the index of its byte, or -1.
const fn interleaving(part: usize) -> [[i8; 16]; 3] {
    let mut picks = [[-1; 16]; 3];
    let mut i = 0;
    while i < 16 {
        let at = 16 * part + i;
        picks[at % 3][i] = (at / 3) as i8;
        i += 1;
    }
    picks
}

static INTERLEAVING: [[[i8; 16]; 3]; 3] = [interleaving(0), interleaving(1), interleaving(2)];

#[inline]
#[target_feature(enable = "avx2")]
fn interleave(r: __m128i, g: __m128i, b: __m128i) -> [__m128i; 3] {
    // Closures handed to `map` would be compiled without the features.
    [
        interleaved(r, g, b, &INTERLEAVING[0]),
        interleaved(r, g, b, &INTERLEAVING[1]),
        interleaved(r, g, b, &INTERLEAVING[2]),
    ]
}

#[inline]
#[target_feature(enable = "avx2")]
fn interleaved(r: __m128i, g: __m128i, b: __m128i, picks: &[[i8; 16]; 3]) -> __m128i {
    // SAFETY: 16 bytes each.
    let [from_r, from_g, from_b] = unsafe {
        [
            load(picks[0].as_ptr().cast()),
            load(picks[1].as_ptr().cast()),
            load(picks[2].as_ptr().cast()),
        ]
    };
    _mm_or_si128(
        _mm_or_si128(_mm_shuffle_epi8(r, from_r), _mm_shuffle_epi8(g, from_g)),
        _mm_shuffle_epi8(b, from_b),
    )
}

#[inline]
#[target_feature(enable = "avx2")]
fn store(out: &mut [u8; 48], rgb: [__m128i; 3]) {
    for (out, bytes) in out.as_chunks_mut::<16>().0.iter_mut().zip(rgb) {
        // SAFETY: 16 bytes.
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), bytes) };
    }
}

/// Computes [`scalar::nv12`].
///
/// # Safety
/// The CPU has AVX2.
#[target_feature(enable = "avx2")]
pub(crate) unsafe fn nv12(matrix: &YuvMatrix, luma: &[u8], chroma: &[u8], out: &mut [u8]) {
    let yuv = Yuv::new(matrix);
    let (luma, luma_rest) = luma.as_chunks::<16>();
    let (chroma, chroma_rest) = chroma.as_chunks::<16>();
    let (out, out_rest) = out.as_chunks_mut::<48>();
    for ((luma, chroma), out) in luma.iter().zip(chroma).zip(out) {
        // SAFETY: 16 bytes each.
        let (luma, chroma) = unsafe { (load(luma.as_ptr()), load(chroma.as_ptr())) };
        store(out, yuv.sixteen(luma, chroma));
    }
    scalar::nv12(matrix, luma_rest, chroma_rest, out_rest);
}

/// Computes [`scalar::yuyv`].
///
/// # Safety
/// The CPU has AVX2.
#[target_feature(enable = "avx2")]
pub(crate) unsafe fn yuyv(matrix: &YuvMatrix, pixels: &[u8], out: &mut [u8]) {
    let yuv = Yuv::new(matrix);
    let (pixels, rest) = pixels.as_chunks::<32>();
    let (out, out_rest) = out.as_chunks_mut::<48>();
    let even = _mm_set1_epi16(0xff);
    for (pixels, out) in pixels.iter().zip(out) {
        // SAFETY: 32 bytes.
        let (a, b) = unsafe { (load(pixels.as_ptr()), load(pixels.as_ptr().add(16))) };
        let luma = _mm_packus_epi16(_mm_and_si128(a, even), _mm_and_si128(b, even));
        let chroma = _mm_packus_epi16(_mm_srli_epi16::<8>(a), _mm_srli_epi16::<8>(b));
        store(out, yuv.sixteen(luma, chroma));
    }
    scalar::yuyv(matrix, rest, out_rest);
}

/// Computes [`scalar::gray`].
///
/// # Safety
/// The CPU has AVX2.
#[target_feature(enable = "avx2")]
pub(crate) unsafe fn gray(pixels: &[u8], order: [usize; 3], out: &mut [u8]) {
    const PIXELS: usize = 8;
    // G's factor is more than 16 bits, so half of it is paired with R's and half with B's.
    let pick = |channels: [usize; 2]| {
        let mut indices = [-1i8; 16];
        for (i, index) in indices.iter_mut().enumerate().step_by(2) {
            *index = (i / 4 * 3 + order[channels[i / 2 % 2]]) as i8;
        }
        // SAFETY: 16 bytes.
        _mm256_broadcastsi128_si256(unsafe { load(indices.as_ptr().cast()) })
    };
    let (red_green, green_blue) = (pick([0, 1]), pick([1, 2]));
    let pair = |a: u32, b: u32| _mm256_set1_epi32((a | b << 16) as i32);
    let (with_red, with_blue) = (pair(GRAY[0], GRAY[1] / 2), pair(GRAY[1] / 2, GRAY[2]));
    let mut done = 0;
    // 16 bytes are read for the last four pixels, 12 are used.
    while 3 * (done + PIXELS) + 4 <= pixels.len() {
        let from = &pixels[3 * done..][..28];
        // SAFETY: bytes 0..16 and 12..28 are inside the slice.
        let eight = unsafe {
            _mm256_inserti128_si256::<1>(
                _mm256_castsi128_si256(load(from.as_ptr())),
                load(from.as_ptr().add(12)),
            )
        };
        let sum = _mm256_add_epi32(
            _mm256_madd_epi16(_mm256_shuffle_epi8(eight, red_green), with_red),
            _mm256_madd_epi16(_mm256_shuffle_epi8(eight, green_blue), with_blue),
        );
        let gray = _mm256_srli_epi32::<16>(_mm256_add_epi32(sum, _mm256_set1_epi32(0x8000)));
        // SAFETY: eight bytes.
        unsafe {
            _mm_storel_epi64(
                out[done..][..PIXELS].as_mut_ptr().cast(),
                narrow(gray, gray),
            );
        };
        done += PIXELS;
    }
    scalar::gray(&pixels[3 * done..], order, &mut out[done..]);
}
