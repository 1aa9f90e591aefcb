//! Tiles of Armv8.6's 8-bit matrix product, `smmla`: two rows of codes times two rows of weights,
//! eight products each. (The intrinsics are not stable yet in Rust, hence the assembly.)

use std::arch::aarch64::*;
use std::arch::asm;

use super::{probe, Sizes};
use crate::tiled::{Product, Tiles};

/// The tier of the matrix product.
pub(crate) struct Matrix;

impl Sizes for Matrix {
    /// With eight vectors of sums for two rows, and their codes, two of 32 registers are left for
    /// weights.
    const ROWS: usize = 6;
    /// Rows of weights in four vectors of sums.
    const LANES: usize = 8;
    const GROUP: usize = 8;
}

// SAFETY: each function does what the trait's comment says; `tests/tiers.rs` compares the tier with
// the scalar one.
unsafe impl Tiles for Matrix {
    #[target_feature(enable = "neon,i8mm")]
    unsafe fn tile(p: Product<i8, i8>, out: *mut i32, out_stride: usize) {
        macro_rules! pick {
            ($($m:literal)*) => {
                match (p.rows, p.width / 2) {
                    $(
                        ($m, 8) => tile::<$m, { usize::div_ceil($m, 2) }, 8>(p, out, out_stride),
                        ($m, 4) => tile::<$m, { usize::div_ceil($m, 2) }, 4>(p, out, out_stride),
                    )*
                    _ => unreachable!("a tile of {} x {}", p.rows, p.width),
                }
            };
        }
        // SAFETY: the caller's promise, for just this many rows and columns.
        unsafe { pick!(1 2 3 4 5 6) }
    }

    #[target_feature(enable = "neon,i8mm")]
    unsafe fn probe(iterations: u32) -> (u64, i32) {
        let w = vdupq_n_s8(5);
        probe(iterations, 32, |sums, codes| multiply(sums, codes, w))
    }
}

/// Adds the products of both halves of `codes` with both halves of `weights`:
/// `[c0 * w0, c0 * w1, c1 * w0, c1 * w1]`.
#[target_feature(enable = "neon,i8mm")]
fn multiply(mut acc: int32x4_t, codes: int8x16_t, weights: int8x16_t) -> int32x4_t {
    // SAFETY: arithmetic in registers, with the feature that the function asks for.
    unsafe {
        asm!(
            "smmla {acc:v}.4s, {codes:v}.16b, {weights:v}.16b",
            acc = inout(vreg) acc,
            codes = in(vreg) codes,
            weights = in(vreg) weights,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    acc
}

/// Puts the first halves of two vectors together, and the second halves.
#[target_feature(enable = "neon")]
fn halves(a: int8x16_t, b: int8x16_t) -> [int8x16_t; 2] {
    let (a, b) = (vreinterpretq_s64_s8(a), vreinterpretq_s64_s8(b));
    [
        vreinterpretq_s8_s64(vzip1q_s64(a, b)),
        vreinterpretq_s8_s64(vzip2q_s64(a, b)),
    ]
}

/// Computes M x (2 * C) accumulators in registers, for P pairs of rows: the second row of the last
/// pair may be missing.
///
/// # Safety
/// As [`Tiles::tile`], for M rows and 2 * C columns.
#[target_feature(enable = "neon,i8mm")]
unsafe fn tile<const M: usize, const P: usize, const C: usize>(
    p: Product<i8, i8>,
    out: *mut i32,
    out_stride: usize,
) {
    let (a, stride, w, k, bias) = p.operands();
    // SAFETY: the caller promises M rows of k codes, 2 * C rows of k weights, 2 * C biases and M
    // rows of out.
    unsafe {
        let bias = array!([vdupq_n_s32(0); C], c => {
            let two = vld1_s32(bias.add(2 * c));
            vcombine_s32(two, two)
        });
        let mut acc = [bias; P];
        for g in 0..k / 16 {
            let codes = array!([[vdupq_n_s8(0); 2]; P], p => {
                let second = (2 * p + 1).min(M - 1);
                halves(
                    vld1q_s8(a.add(2 * p * stride + 16 * g)),
                    vld1q_s8(a.add(second * stride + 16 * g)),
                )
            });
            for half in 0..2 {
                for c in 0..C {
                    let weights = vld1q_s8(w.add(16 * ((2 * g + half) * C + c)));
                    for (acc, codes) in acc.iter_mut().zip(codes) {
                        acc[c] = multiply(acc[c], codes[half], weights);
                    }
                }
            }
        }
        for (p, acc) in acc.iter().enumerate() {
            for (v, pair) in acc.chunks_exact(2).enumerate() {
                let rows = halves(vreinterpretq_s8_s32(pair[0]), vreinterpretq_s8_s32(pair[1]));
                for (m, sums) in (2 * p..M).zip(rows) {
                    vst1q_s32(out.add(m * out_stride + 4 * v), vreinterpretq_s32_s8(sums));
                }
            }
        }
    }
}
