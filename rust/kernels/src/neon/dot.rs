//! Tiles of Armv8.2's dot product, `sdot`. (The intrinsics are not stable yet in Rust, hence the
//! assembly.)

use std::arch::aarch64::*;
use std::arch::asm;

use super::{probe, Sizes};
use crate::tiled::{Product, Tiles};

/// The tier of the dot product.
pub(crate) struct Dot;

impl Sizes for Dot {
    /// With four vectors of sums for each row, and its codes, two of 32 registers are left for
    /// weights.
    const ROWS: usize = 6;
    /// Rows of weights in two vectors of sums.
    const LANES: usize = 8;
    const GROUP: usize = 4;
}

// SAFETY: each function does what the trait's comment says; `tests/tiers.rs` compares the tier with
// the scalar one.
unsafe impl Tiles for Dot {
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn tile(p: Product<i8, i8>, out: *mut i32, out_stride: usize) {
        macro_rules! pick {
            ($($m:literal)*) => {
                match (p.rows, p.width / 4) {
                    $(
                        ($m, 4) => tile::<$m, 4>(p, out, out_stride),
                        ($m, 2) => tile::<$m, 2>(p, out, out_stride),
                    )*
                    _ => unreachable!("a tile of {} x {}", p.rows, p.width),
                }
            };
        }
        // SAFETY: the caller's promise, for just this many rows and columns.
        unsafe { pick!(1 2 3 4 5 6) }
    }

    #[target_feature(enable = "neon,dotprod")]
    unsafe fn probe(iterations: u32) -> (u64, i32) {
        let w = vdupq_n_s8(5);
        probe(iterations, 16, |sums, codes| dot::<0>(sums, w, codes))
    }
}

/// Adds to each 32-bit lane the products of its four weights and of the four codes from
/// `4 * LANE` on.
#[target_feature(enable = "neon,dotprod")]
fn dot<const LANE: usize>(mut acc: int32x4_t, weights: int8x16_t, codes: int8x16_t) -> int32x4_t {
    // SAFETY: arithmetic in registers, with the feature that the function asks for.
    unsafe {
        asm!(
            "sdot {acc:v}.4s, {weights:v}.16b, {codes:v}.4b[{lane}]",
            acc = inout(vreg) acc,
            weights = in(vreg) weights,
            codes = in(vreg) codes,
            lane = const LANE,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    acc
}

/// Computes M x (4 * V) accumulators in registers.
///
/// # Safety
/// As [`Tiles::tile`], for M rows and 4 * V columns.
#[target_feature(enable = "neon,dotprod")]
unsafe fn tile<const M: usize, const V: usize>(
    p: Product<i8, i8>,
    out: *mut i32,
    out_stride: usize,
) {
    let (a, stride, w, k, bias) = p.operands();
    // SAFETY: the caller promises M rows of k codes, 4 * V rows of k weights, 4 * V biases and M
    // rows of out.
    unsafe {
        let bias = array!([vdupq_n_s32(0); V], v => vld1q_s32(bias.add(4 * v)));
        let mut acc = [bias; M];
        for g in 0..k / 16 {
            let codes = array!([vdupq_n_s8(0); M], m => vld1q_s8(a.add(m * stride + 16 * g)));
            macro_rules! lane {
                ($lane:literal) => {
                    for v in 0..V {
                        let weights = vld1q_s8(w.add(16 * ((4 * g + $lane) * V + v)));
                        for (acc, codes) in acc.iter_mut().zip(codes) {
                            acc[v] = dot::<$lane>(acc[v], weights, codes);
                        }
                    }
                };
            }
            lane!(0);
            lane!(1);
            lane!(2);
            lane!(3);
        }
        for (m, row) in acc.iter().enumerate() {
            for (v, &sums) in row.iter().enumerate() {
                vst1q_s32(out.add(m * out_stride + 4 * v), sums);
            }
        }
    }
}
