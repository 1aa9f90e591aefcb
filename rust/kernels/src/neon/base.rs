//! Tiles of baseline Armv8.0. Sums run along k, in the lanes of a vector; the lanes are added at
//! the end.
//!
//! Instructions that depend on each other stand eight apart in the source, for cores that issue in
//! order.

use std::arch::aarch64::*;

use super::{probe, Sizes};
use crate::tiled::{expand, FourBitForm, Product, Tiles};

/// Picks the compiled tile of this many rows.
macro_rules! pick {
    ($p:ident, $tile:ident $($symmetric:literal)? ($($argument:expr),*)) => {
        match $p.rows {
            1 => $tile::<1 $(, $symmetric)?>($($argument),*),
            2 => $tile::<2 $(, $symmetric)?>($($argument),*),
            3 => $tile::<3 $(, $symmetric)?>($($argument),*),
            4 => $tile::<4 $(, $symmetric)?>($($argument),*),
            rows => unreachable!("a tile of {rows} rows"),
        }
    };
}

/// The tier of baseline Armv8.0.
pub(crate) struct Base;

/// Rows of weights that are multiplied at once.
const LANES: usize = 4;

impl Sizes for Base {
    const ROWS: usize = 4;
    const LANES: usize = LANES;
    const GROUP: usize = 16;
    const FOUR_BIT: Option<FourBitForm> = Some(FourBitForm {
        group: 16,
        step: 16,
        code_offset: 0,
        pair: 1,
        sums: 8,
        tile: tile_4_bit_of,
        expand: |stored, panel| expand(stored, 0, panel.len(), panel),
        probe: probe_4_bit,
    });
}

// SAFETY: each function does what the trait's comment says; `tests/tiers.rs` compares the tier with
// the scalar one.
unsafe impl Tiles for Base {
    #[target_feature(enable = "neon")]
    unsafe fn tile(p: Product<i8, i8>, out: *mut i32, out_stride: usize) {
        // SAFETY: the caller's promise, for just this many rows.
        unsafe { pick!(p, tile true (p, out, out_stride)) }
    }

    #[target_feature(enable = "neon")]
    unsafe fn tile_any_weights(p: Product<i8, i8>, out: *mut i32, out_stride: usize) {
        // SAFETY: the caller's promise, for just this many rows.
        unsafe { pick!(p, tile false (p, out, out_stride)) }
    }

    #[target_feature(enable = "neon")]
    unsafe fn probe(iterations: u32) -> (u64, i32) {
        let w = super::opaque(vdupq_n_s8(5));
        probe(iterations, 16, |sums, codes| {
            let product = vmull_s8(vget_low_s8(codes), vget_low_s8(w));
            vpadalq_s16(sums, vmlal_high_s8(product, codes, w))
        })
    }
}

/// Returns the sums of the lanes of four vectors.
#[target_feature(enable = "neon")]
fn across(sums: [int32x4_t; LANES]) -> int32x4_t {
    vpaddq_s32(vpaddq_s32(sums[0], sums[1]), vpaddq_s32(sums[2], sums[3]))
}

/// Adds pairs of products to 32-bit sums.
#[target_feature(enable = "neon")]
fn accumulate<const M: usize>(
    acc: &mut [[int32x4_t; LANES]; M],
    products: [[int16x8_t; LANES]; M],
) {
    for (acc, products) in acc.iter_mut().zip(products) {
        for (acc, product) in acc.iter_mut().zip(products) {
            *acc = vpadalq_s16(*acc, product);
        }
    }
}

/// Computes M x 4 sums in registers, for each four of `width` rows. `SYMMETRIC`: no weight is -128,
/// so that two products fit 16 bits (2 * 127 * 128 < 2^15).
///
/// # Safety
/// As [`Tiles::tile`], for M rows.
#[target_feature(enable = "neon")]
#[allow(clippy::too_many_arguments)]
unsafe fn tile<const M: usize, const SYMMETRIC: bool>(
    p: Product<i8, i8>,
    out: *mut i32,
    out_stride: usize,
) {
    let (width, (a, stride, w, k, bias)) = (p.width, p.operands());
    // SAFETY: the caller promises M rows of k codes, `width` rows of k weights, as many biases and
    // M rows of out.
    unsafe {
        for first in (0..width).step_by(LANES) {
            let mut acc = [[vdupq_n_s32(0); LANES]; M];
            for g in 0..k / 16 {
                let weights = array!([vdupq_n_s8(0); LANES], n => {
                    vld1q_s8(w.add(16 * (g * width + first + n)))
                });
                macro_rules! rows {
                    ($from:literal, $count:literal) => {
                        let acc = acc[$from..].first_chunk_mut::<$count>();
                        let acc = acc.expect("rows of the tile");
                        let codes = array!([vdupq_n_s8(0); $count], m => {
                            vld1q_s8(a.add(($from + m) * stride + 16 * g))
                        });
                        let mut products = [[vdupq_n_s16(0); LANES]; $count];
                        for (products, codes) in products.iter_mut().zip(codes) {
                            for (product, weights) in products.iter_mut().zip(weights) {
                                *product = vmull_s8(vget_low_s8(weights), vget_low_s8(codes));
                            }
                        }
                        if !SYMMETRIC {
                            accumulate(acc, products);
                        }
                        for (products, codes) in products.iter_mut().zip(codes) {
                            for (product, weights) in products.iter_mut().zip(weights) {
                                *product = if SYMMETRIC {
                                    vmlal_high_s8(*product, weights, codes)
                                } else {
                                    vmull_high_s8(weights, codes)
                                };
                            }
                        }
                        accumulate(acc, products);
                    };
                }
                match M {
                    1 => {
                        rows!(0, 1);
                    }
                    2 => {
                        rows!(0, 2);
                    }
                    3 => {
                        rows!(0, 2);
                        rows!(2, 1);
                    }
                    _ => {
                        rows!(0, 2);
                        rows!(2, 2);
                    }
                }
            }
            let bias = vld1q_s32(bias.add(first));
            for (m, acc) in acc.into_iter().enumerate() {
                let sums = vaddq_s32(across(acc), bias);
                vst1q_s32(out.add(m * out_stride + first), sums);
            }
        }
    }
}

/// Computes the sums of 4-bit rows: in 16 bits in registers for a run of k, then added to 32 bits
/// in memory.
///
/// # Safety
/// As [`FourBitForm::tile`], for M rows.
#[target_feature(enable = "neon")]
#[allow(clippy::too_many_arguments)]
unsafe fn tile_4_bit<const M: usize>(
    p: Product<i8, i8>,
    run: usize,
    out: *mut i32,
    out_stride: usize,
) {
    let (width, (a, stride, w, k, bias)) = (p.width, p.operands());
    // SAFETY: as in tile.
    unsafe {
        for first in (0..width).step_by(LANES) {
            let mut from = bias.add(first);
            let mut from_stride = 0;
            for start in (0..k / 16).step_by(run / 16) {
                let mut acc = [[vdupq_n_s16(0); LANES]; M];
                for g in start..(start + run / 16).min(k / 16) {
                    let weights = array!([vdupq_n_s8(0); LANES], n => {
                        vld1q_s8(w.add(16 * (g * width + first + n)))
                    });
                    let codes = array!([vdupq_n_s8(0); M], m => {
                        vld1q_s8(a.add(m * stride + 16 * g))
                    });
                    for (acc, codes) in acc.iter_mut().zip(codes) {
                        for (acc, weights) in acc.iter_mut().zip(weights) {
                            *acc = vmlal_s8(*acc, vget_low_s8(weights), vget_low_s8(codes));
                        }
                    }
                    for (acc, codes) in acc.iter_mut().zip(codes) {
                        for (acc, weights) in acc.iter_mut().zip(weights) {
                            *acc = vmlal_high_s8(*acc, weights, codes);
                        }
                    }
                }
                for (m, acc) in acc.into_iter().enumerate() {
                    let sums = across(acc.map(|acc| vpaddlq_s16(acc)));
                    let before = vld1q_s32(from.add(m * from_stride));
                    vst1q_s32(out.add(m * out_stride + first), vaddq_s32(before, sums));
                }
                (from, from_stride) = (out.add(first), out_stride);
            }
        }
    }
}

/// Picks the 4-bit tile of this many rows.
///
/// # Safety
/// As [`FourBitForm::tile`].
#[target_feature(enable = "neon")]
unsafe fn tile_4_bit_of(p: Product<u8, i8>, run: usize, out: *mut i32, out_stride: usize) {
    let p = p.signed();
    // SAFETY: the caller's promise, for just this many rows.
    unsafe { pick!(p, tile_4_bit(p, run, out, out_stride)) }
}

/// Computes [`FourBitForm::probe`].
#[target_feature(enable = "neon")]
fn probe_4_bit(iterations: u32) -> (u64, i32) {
    let w = vdupq_n_s8(5);
    probe(iterations, 8, |sums, codes| {
        vreinterpretq_s32_s16(vmlal_high_s8(vreinterpretq_s16_s32(sums), codes, w))
    })
}
