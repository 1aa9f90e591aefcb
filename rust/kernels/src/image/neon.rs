//! Loops of [`super::lanes`] for 64-bit Arm, every core of which has NEON.

use std::arch::aarch64::*;
use std::array::from_fn;

use super::colour::YuvMatrix;
use super::lanes::{Loops, BLOCK, LANES, PIXELS};
use super::windows::GROUP;

/// The NEON tiers.
pub(crate) struct Neon;

/// Lays 16 bytes of 8 rows side by side: each vector has two columns.
#[inline]
#[target_feature(enable = "neon")]
fn zip(rows: [uint8x16_t; LANES]) -> [uint8x16_t; LANES] {
    let [a, b, c, d, e, f, g, h] = rows;
    let pair = |a, b| [vzip1q_u8(a, b), vzip2q_u8(a, b)];
    let four = |[a, b]: [uint8x16_t; 2], [c, d]: [uint8x16_t; 2]| [pair(a, c), pair(b, d)];
    let ([a, b], [c, d]) = (four(pair(a, e), pair(c, g)), four(pair(b, f), pair(d, h)));
    let ([[a, b], [c, d]], [[e, f], [g, h]]) = (four(a, c), four(b, d));
    [a, b, c, d, e, f, g, h]
}

/// Splits 16 columns into 8 rows, which undoes [`zip`].
#[inline]
#[target_feature(enable = "neon")]
fn unzip(columns: [uint8x16_t; LANES]) -> [uint8x16_t; LANES] {
    let pair = |a, b| [vuzp1q_u8(a, b), vuzp2q_u8(a, b)];
    let [a, b, c, d, e, f, g, h] = columns;
    let ([a, e], [b, f], [c, g], [d, h]) = (pair(a, b), pair(c, d), pair(e, f), pair(g, h));
    let ([a, c], [b, d], [e, g], [f, h]) = (pair(a, b), pair(c, d), pair(e, f), pair(g, h));
    let ([a, e], [c, g], [b, f], [d, h]) = (pair(a, b), pair(c, d), pair(e, f), pair(g, h));
    [a, b, c, d, e, f, g, h]
}

/// Widens 16 bytes.
#[inline]
#[target_feature(enable = "neon")]
fn widen(bytes: uint8x16_t) -> [int32x4_t; 4] {
    let (low, high) = (vmovl_u8(vget_low_u8(bytes)), vmovl_high_u8(bytes));
    [
        vmovl_u16(vget_low_u16(low)),
        vmovl_high_u16(low),
        vmovl_u16(vget_low_u16(high)),
        vmovl_high_u16(high),
    ]
    .map(|v| vreinterpretq_s32_u32(v))
}

/// Rounds eight sums with N + 16 bits after the point to bytes.
#[inline]
#[target_feature(enable = "neon")]
fn round<const N: i32>([a, b]: [int32x4_t; 2]) -> uint8x8_t {
    // Half of the last bit is a whole number of 2^16.
    let high = vuzp2q_s16(vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(b));
    vqrshrun_n_s16::<N>(high)
}

// SAFETY: each function does what the trait's comment says; `tests/image.rs` compares the tiers
// with the scalar one.
unsafe impl Loops for Neon {
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn widen(rows: &[*const u8; LANES], blocks: usize, out: *mut [i32; LANES]) {
        let mut out = out.cast::<i32>();
        for block in 0..blocks {
            // SAFETY: the caller promises as many bytes in each row, and as many columns.
            unsafe {
                for columns in zip(rows.map(|row| vld1q_u8(row.add(BLOCK * block)))) {
                    for four in widen(columns) {
                        vst1q_s32(out, four);
                        out = out.add(4);
                    }
                }
            }
        }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn widen_rows(source: *const u8, stride: usize, rows: usize, out: *mut [i32; LANES]) {
        let mut out = out.cast::<i32>();
        for row in 0..rows {
            // SAFETY: the caller promises 32 bytes in each row, and room for them.
            unsafe {
                let row = source.add(stride * row);
                for half in [row, row.add(16)] {
                    for four in widen(vld1q_u8(half)) {
                        vst1q_s32(out, four);
                        out = out.add(4);
                    }
                }
            }
        }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn sum<const C: usize>(
        pixels: *const [i32; LANES],
        weights: &[[i32; GROUP]],
        out: *mut [u8; LANES],
    ) {
        let mut from = pixels.cast::<i32>();
        let mut sums = [[vdupq_n_s32(0); 2]; C];
        macro_rules! tap {
            ($lane:literal, $weights:ident) => {
                for sums in &mut sums {
                    let pixels = [vld1q_s32(from), vld1q_s32(from.add(4))];
                    sums[0] = vmlaq_laneq_s32::<$lane>(sums[0], pixels[0], $weights);
                    sums[1] = vmlaq_laneq_s32::<$lane>(sums[1], pixels[1], $weights);
                    from = from.add(LANES);
                }
            };
        }
        macro_rules! taps {
            ($weights:expr) => {
                let four = vld1q_s32($weights.as_ptr());
                tap!(0, four);
                tap!(1, four);
                tap!(2, four);
                tap!(3, four);
            };
        }
        // SAFETY: the caller promises C vectors for each weight, and room for C.
        unsafe {
            // Apart from the loop, the first products need no addition.
            let (first, rest) = weights.split_first().unwrap_unchecked();
            taps!(first);
            for four in rest {
                taps!(four);
            }
            for (c, sums) in sums.into_iter().enumerate() {
                vst1_u8(out.add(c).cast(), round::<6>(sums));
            }
        }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn split(columns: &[[u8; LANES]; BLOCK], out: *mut u8, stride: usize) {
        let from = columns.as_ptr().cast::<u8>();
        // SAFETY: 16 columns are eight vectors, and a row is one; the caller promises room.
        unsafe {
            let rows = unzip(from_fn(|i| vld1q_u8(from.add(16 * i))));
            for (i, row) in rows.into_iter().enumerate() {
                vst1q_u8(out.add(stride * i), row);
            }
        }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn lay<const N: usize>(
        rows: &[*const u8; LANES],
        flip: u8,
        places: &[usize; BLOCK],
        out: *mut u8,
    ) {
        // SAFETY: the caller promises 16 bytes in each row, and the places.
        unsafe {
            let rows = rows.map(|row| veorq_u8(vld1q_u8(row), vdupq_n_u8(flip)));
            for (columns, places) in zip(rows).into_iter().zip(places.as_chunks::<2>().0) {
                let [even, odd] = places.map(|place| out.add(place));
                if N == LANES {
                    vst1_u8(even, vget_low_u8(columns));
                    vst1_u8(odd, vget_high_u8(columns));
                } else {
                    let columns = vreinterpretq_u32_u8(columns);
                    even.cast::<u32>()
                        .write_unaligned(vgetq_lane_u32::<0>(columns));
                    odd.cast::<u32>()
                        .write_unaligned(vgetq_lane_u32::<2>(columns));
                }
            }
        }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn nv12(
        matrix: &YuvMatrix,
        luma: &[u8; PIXELS],
        chroma: &[u8; PIXELS],
        out: &mut [u8; 3 * PIXELS],
    ) {
        // SAFETY: 16 bytes each.
        let (luma, chroma) = unsafe { (vld2_u8(luma.as_ptr()), vld2_u8(chroma.as_ptr())) };
        convert(matrix, [luma.0, luma.1], [chroma.0, chroma.1], out);
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn yuyv(matrix: &YuvMatrix, pixels: &[u8; 2 * PIXELS], out: &mut [u8; 3 * PIXELS]) {
        // SAFETY: 32 bytes.
        let uint8x8x4_t(a, cb, b, cr) = unsafe { vld4_u8(pixels.as_ptr()) };
        convert(matrix, [a, b], [cb, cr], out);
    }
}

/// Converts pixels. An even one and the odd one after it share their (Cb, Cr).
#[inline]
#[target_feature(enable = "neon")]
fn convert(
    matrix: &YuvMatrix,
    luma: [uint8x8_t; 2],
    chroma: [uint8x8_t; 2],
    out: &mut [u8; 3 * PIXELS],
) {
    let luma = luma.map(|luma| {
        let luma = vmovl_u8(vqsub_u8(luma, vdup_n_u8(16)));
        [vmovl_u16(vget_low_u16(luma)), vmovl_high_u16(luma)]
            .map(|luma| vmulq_n_s32(vreinterpretq_s32_u32(luma), matrix.luma))
    });
    let [cb, cr] = chroma.map(|chroma| {
        let chroma = vreinterpretq_s16_u16(vsubl_u8(chroma, vdup_n_u8(128)));
        [vmovl_s16(vget_low_s16(chroma)), vmovl_high_s16(chroma)]
    });
    let scaled = |chroma: [int32x4_t; 2], factor| chroma.map(|c| vmulq_n_s32(c, factor));
    let green = scaled(cb, matrix.cb_green);
    let green = from_fn(|i| vmlaq_n_s32(green[i], cr[i], matrix.cr_green));
    let channel = |chroma: [int32x4_t; 2]| {
        let [even, odd] = luma.map(|luma| round::<4>(from_fn(|i| vaddq_s32(luma[i], chroma[i]))));
        let pixels = vzip_u8(even, odd);
        vcombine_u8(pixels.0, pixels.1)
    };
    let rgb = uint8x16x3_t(
        channel(scaled(cr, matrix.cr_red)),
        channel(green),
        channel(scaled(cb, matrix.cb_blue)),
    );
    // SAFETY: three times 16 bytes.
    unsafe { vst3q_u8(out.as_mut_ptr(), rgb) };
}
