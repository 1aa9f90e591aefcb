//! Tiles of Armv8.2's dot product, `sdot`. (The intrinsics are not stable yet in Rust, hence the
//! assembly.)

use std::arch::aarch64::*;
use std::arch::asm;
use std::array::from_fn;

use super::Neon;
use crate::tiled::{padded_rows, panels, Isa, Product};
use crate::MatrixView;

/// Input rows of a tile: with four vectors of sums for each, and its codes, they leave two of 32
/// registers for weights.
pub(super) const ROWS: usize = 6;
/// Rows of weights in two vectors of sums.
pub(super) const LANES: usize = 8;

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
/// As `Isa::tile`, for M rows and 4 * V columns.
#[target_feature(enable = "neon,dotprod")]
unsafe fn tile<const M: usize, const V: usize>(
    p: Product<i8, i8>,
    out: *mut i32,
    out_stride: usize,
) {
    let Product {
        a,
        stride,
        w,
        k,
        bias,
        ..
    } = p;
    // SAFETY: the caller promises M rows of k codes, 4 * V rows of k weights, 4 * V biases and M
    // rows of out.
    unsafe {
        let bias: [_; V] = from_fn(|v| vld1q_s32(bias.add(4 * v)));
        let mut acc = [bias; M];
        for g in 0..k / 16 {
            let codes: [_; M] = from_fn(|m| vld1q_s8(a.add(m * stride + 16 * g)));
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

/// Picks the tile of this size.
///
/// # Safety
/// As `Isa::tile`.
#[target_feature(enable = "neon,dotprod")]
#[allow(clippy::too_many_arguments)]
pub(super) unsafe fn tile_of(p: Product<i8, i8>, out: *mut i32, out_stride: usize) {
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

/// Loads the first codes of a row of up to 16, and zeros behind them.
#[target_feature(enable = "neon")]
fn load_codes(row: &[i8]) -> int8x16_t {
    let mut whole = [0; 16];
    let codes = if row.len() == 16 {
        row.as_ptr()
    } else {
        whole[..row.len()].copy_from_slice(row);
        whole.as_ptr()
    };
    // SAFETY: both have 16 codes.
    unsafe { vld1q_s8(codes) }
}

/// Computes `Isa::pack_values`.
#[target_feature(enable = "neon,dotprod")]
pub(super) fn pack_values(values: MatrixView<i8>, packed: &mut [i8], sums: &mut [i32]) {
    const GROUP: usize = <Neon<true> as Isa>::GROUP;
    let (dims, tokens) = (values.cols(), values.rows());
    let k = tokens.next_multiple_of(<Neon<true> as Isa>::STEP);
    let ones = vdupq_n_s8(1);
    sums.fill(0);
    for (first, width) in panels::<Neon<true>>(padded_rows::<Neon<true>>(dims)) {
        let live = width.min(dims - first);
        let panel = &mut packed[first * k..][..width * k];
        let mut totals = [vdupq_n_s32(0); 4];
        for (g, group) in panel.chunks_exact_mut(GROUP * width).enumerate() {
            let rows: [_; GROUP] = from_fn(|j| {
                let token = g * GROUP + j;
                if token < tokens {
                    load_codes(&values.row(token)[first..][..live])
                } else {
                    vdupq_n_s8(0)
                }
            });
            let zip = |a, b| (vzip1q_s8(a, b), vzip2q_s8(a, b));
            let ((a, b), (c, d)) = (zip(rows[0], rows[2]), zip(rows[1], rows[3]));
            let ((a, c), (b, d)) = (zip(a, c), zip(b, d));
            // Four dimensions of four tokens each.
            let fours = [a, c, b, d].into_iter().zip(group.chunks_exact_mut(16));
            for ((codes, stored), total) in fours.zip(&mut totals) {
                *total = dot::<0>(*total, codes, ones);
                // SAFETY: 16 bytes.
                unsafe { vst1q_s8(stored.as_mut_ptr(), codes) };
            }
        }
        for (total, sums) in totals.into_iter().zip(sums[first..].chunks_exact_mut(4)) {
            // SAFETY: four sums.
            unsafe { vst1q_s32(sums.as_mut_ptr(), total) };
        }
    }
}

/// Computes `Isa::probe`.
#[target_feature(enable = "neon,dotprod")]
pub(super) fn probe(iterations: u32) -> (u64, i32) {
    const CHAINS: usize = 16;
    let (mut a, w) = (vdupq_n_s8(3), vdupq_n_s8(5));
    let mut acc = [vdupq_n_s32(0); CHAINS];
    for _ in 0..iterations {
        for acc in &mut acc {
            a = super::opaque(a);
            *acc = dot::<0>(*acc, w, a);
        }
    }
    (
        u64::from(iterations) * CHAINS as u64 * 16,
        acc.into_iter().fold(0, |s, x| s ^ vaddvq_s32(x)),
    )
}
