//! NEON on baseline Armv8.0: `smull` and `smlal` make pairs of products in 16 bits, `sadalp` adds them to
//! 32-bit sums.

use std::arch::aarch64::*;
use std::arch::asm;

use crate::scalar::{logit_cap, Moments, EXP2};
use crate::tiled::{Isa, Out, Requant, RowScale};
use crate::LayerNorm;

/// The tier. Its functions need NEON, which every 64-bit Arm has.
pub(crate) struct Neon;

/// One byte of each `2 * EXP2`.
const fn exp2_doubled(byte: usize) -> [u8; 64] {
    let mut table = [0; 64];
    let mut f = 0;
    while f < 64 {
        table[f] = (2 * EXP2[f]).to_le_bytes()[byte];
        f += 1;
    }
    table
}

static EXP2_LOW: [u8; 64] = exp2_doubled(0);
static EXP2_HIGH: [u8; 64] = exp2_doubled(1);

/// M x (8 * V) accumulators in registers. `NARROW`: no weight is -128, so that two products fit 16 bits
/// (2 * 127 * 128 < 2^15).
///
/// # Safety
/// As [`Isa::tile`], for M rows and 8 * V columns.
#[target_feature(enable = "neon")]
#[allow(clippy::cast_ptr_alignment)] // codes are read unaligned
unsafe fn tile<const M: usize, const V: usize, const NARROW: bool>(
    a: *const i8,
    stride: usize,
    w: *const i8,
    k: usize,
    bias: *const i32,
    out: *mut i32,
    out_stride: usize,
) {
    // SAFETY: the caller promises M rows of k codes, 8 * V rows of k weights, 8 * V biases and M rows of out.
    unsafe {
        let mut acc = [[[vdupq_n_s32(0); 2]; V]; M];
        for v in 0..V {
            let bias = [vld1q_s32(bias.add(8 * v)), vld1q_s32(bias.add(8 * v + 4))];
            for row in &mut acc {
                row[v] = bias;
            }
        }
        for g in 0..k / 4 {
            let mut weights = [[vdupq_n_s8(0); 2]; V];
            for (v, weights) in weights.iter_mut().enumerate() {
                // Two groups of two k: eight rows of the first, eight rows of the second.
                *weights = [
                    vld1q_s8(w.add(16 * (2 * g * V + v))),
                    vld1q_s8(w.add(16 * ((2 * g + 1) * V + v))),
                ];
            }
            for (m, row) in acc.iter_mut().enumerate() {
                let codes = a.add(m * stride + 4 * g).cast::<[i16; 2]>();
                let [first, second] = codes.read_unaligned();
                let first = vreinterpretq_s8_s16(vdupq_n_s16(first));
                let second = vreinterpretq_s8_s16(vdupq_n_s16(second));
                for v in 0..V {
                    let [w0, w1] = weights[v];
                    let low = vmull_s8(vget_low_s8(w0), vget_low_s8(first));
                    let high = vmull_high_s8(w0, first);
                    let [sum0, sum1] = &mut row[v];
                    if NARROW {
                        *sum0 =
                            vpadalq_s16(*sum0, vmlal_s8(low, vget_low_s8(w1), vget_low_s8(second)));
                        *sum1 = vpadalq_s16(*sum1, vmlal_high_s8(high, w1, second));
                    } else {
                        *sum0 = vpadalq_s16(*sum0, low);
                        *sum1 = vpadalq_s16(*sum1, high);
                        *sum0 = vpadalq_s16(*sum0, vmull_s8(vget_low_s8(w1), vget_low_s8(second)));
                        *sum1 = vpadalq_s16(*sum1, vmull_high_s8(w1, second));
                    }
                }
            }
        }
        for (m, row) in acc.iter().enumerate() {
            for (v, sums) in row.iter().enumerate() {
                vst1q_s32(out.add(m * out_stride + 8 * v), sums[0]);
                vst1q_s32(out.add(m * out_stride + 8 * v + 4), sums[1]);
            }
        }
    }
}

/// Picks the tile of just this size.
///
/// # Safety
/// As [`Isa::tile`].
#[target_feature(enable = "neon")]
#[allow(clippy::too_many_arguments)]
unsafe fn tile_of<const NARROW: bool>(
    a: *const i8,
    stride: usize,
    rows: usize,
    w: *const i8,
    width: usize,
    k: usize,
    bias: *const i32,
    out: *mut i32,
    out_stride: usize,
) {
    macro_rules! pick {
        ($($m:literal)*) => {
            match (rows, width / 8) {
                $(
                    ($m, 2) => tile::<$m, 2, NARROW>(a, stride, w, k, bias, out, out_stride),
                    ($m, 1) => tile::<$m, 1, NARROW>(a, stride, w, k, bias, out, out_stride),
                )*
                _ => unreachable!("a tile of {rows} x {width}"),
            }
        };
    }
    // SAFETY: the caller's promise, for just this many rows and columns.
    unsafe { pick!(1 2 3 4) }
}

/// Stores the first values of a row of up to 8 codes.
#[target_feature(enable = "neon")]
fn store_codes(row: &mut [i8], codes: int8x8_t) {
    if row.len() == 8 {
        // SAFETY: the row has 8 bytes.
        unsafe { vst1_s8(row.as_mut_ptr(), codes) }
    } else {
        let mut whole = [0; 8];
        // SAFETY: the buffer has 8 bytes.
        unsafe { vst1_s8(whole.as_mut_ptr(), codes) }
        row.copy_from_slice(&whole[..row.len()]);
    }
}

/// sat16 of eight numbers.
#[target_feature(enable = "neon")]
fn saturate(low: int32x4_t, high: int32x4_t) -> int16x8_t {
    vcombine_s16(vqmovn_s32(low), vqmovn_s32(high))
}

/// requant16 of 8 accumulators, which hold the rounding half; `at` is their column in the panel.
///
/// # Safety
/// 8 accumulators, and 8 parameters from `at` on, can be read.
#[target_feature(enable = "neon")]
unsafe fn requantized(acc: *const i32, requant: &Requant, at: usize) -> int16x8_t {
    let mut t = [vdupq_n_s32(0); 2];
    for (v, t) in t.iter_mut().enumerate() {
        // SAFETY: v < 2, the caller promises 8 of each.
        let (acc, right, left) = unsafe {
            (
                vld1q_s32(acc.add(4 * v)),
                vld1q_s32(requant.right.add(at + 4 * v)),
                vld1q_s32(requant.left.add(at + 4 * v)),
            )
        };
        *t = vshlq_s32(acc, vsubq_s32(left, right));
    }
    // SAFETY: the caller promises 8.
    vqrdmulhq_s16(saturate(t[0], t[1]), unsafe {
        vld1q_s16(requant.mult.add(at))
    })
}

/// The sums of x and of x^2.
#[target_feature(enable = "neon")]
fn sums(x: &[i16]) -> (i32, i64) {
    let (mut sum, mut squares) = (vdupq_n_s32(0), vdupq_n_s64(0));
    let mut parts = x.chunks_exact(8);
    for part in &mut parts {
        // SAFETY: the part has 8 values.
        let v = unsafe { vld1q_s16(part.as_ptr()) };
        sum = vpadalq_s16(sum, v);
        squares = vpadalq_s32(squares, vmull_s16(vget_low_s16(v), vget_low_s16(v)));
        squares = vpadalq_s32(squares, vmull_high_s16(v, v));
    }
    parts.remainder().iter().fold(
        (vaddvq_s32(sum), vaddvq_s64(squares)),
        |(sum, squares), &x| (sum + i32::from(x), squares + i64::from(x) * i64::from(x)),
    )
}

// SAFETY: each function does what the trait says of it, for any sizes within its bounds; `tests/tiers.rs` compares them.
unsafe impl Isa for Neon {
    type Weight = i8;
    type Code = i8;
    const ROWS: usize = 4;
    const PANEL: usize = 16;
    const LANES: usize = 8;
    const GROUP: usize = 2;
    const STEP: usize = 4;
    const CODE_OFFSET: i32 = 0;
    const PROB_OFFSET: i32 = -128;

    fn code(a: i8) -> i8 {
        a
    }

    #[target_feature(enable = "neon")]
    unsafe fn tile(
        a: *const i8,
        stride: usize,
        rows: usize,
        w: *const i8,
        width: usize,
        k: usize,
        bias: *const i32,
        out: *mut i32,
        out_stride: usize,
    ) {
        // SAFETY: the caller's promise.
        unsafe { tile_of::<true>(a, stride, rows, w, width, k, bias, out, out_stride) }
    }

    #[target_feature(enable = "neon")]
    unsafe fn tile_wide(
        a: *const i8,
        stride: usize,
        rows: usize,
        w: *const i8,
        width: usize,
        k: usize,
        bias: *const i32,
        out: *mut i32,
        out_stride: usize,
    ) {
        // SAFETY: the caller's promise.
        unsafe { tile_of::<false>(a, stride, rows, w, width, k, bias, out, out_stride) }
    }

    #[target_feature(enable = "neon")]
    unsafe fn requant8(acc: *const i32, requant: Requant, offset: i16, out: Out<i8>) {
        let offset = vdupq_n_s16(offset);
        for i in 0..out.rows {
            // SAFETY: the caller promises that the row is live and ours.
            for (v, part) in unsafe { out.row(i) }.chunks_mut(8).enumerate() {
                // SAFETY: the caller promises PANEL parameters and accumulators for each row of out.
                let z = unsafe { requantized(acc.add(i * Self::PANEL + 8 * v), &requant, 8 * v) };
                store_codes(part, vqmovn_s16(vshrq_n_s16::<6>(vqaddq_s16(z, offset))));
            }
        }
    }

    #[target_feature(enable = "neon")]
    unsafe fn lookup(table: &[i8; 256], out: Out<i8>) {
        // SAFETY: the table has 256 entries; the caller promises that the rows are live and ours.
        unsafe {
            let part = |i: usize| vld1q_s8_x4(table.as_ptr().add(64 * i));
            let parts = [part(0), part(1), part(2), part(3)];
            for i in 0..out.rows {
                for part in out.row(i).chunks_mut(8) {
                    let mut codes = [0; 8];
                    codes[..part.len()].copy_from_slice(part);
                    let index =
                        veor_u8(vreinterpret_u8_s8(vld1_s8(codes.as_ptr())), vdup_n_u8(0x80));
                    let index = vcombine_u8(index, index);
                    // An index past its 64 entries leaves what the parts before gave.
                    let mut y = vqtbl4q_s8(parts[0], index);
                    y = vqtbx4q_s8(y, parts[1], vsubq_u8(index, vdupq_n_u8(64)));
                    y = vqtbx4q_s8(y, parts[2], vsubq_u8(index, vdupq_n_u8(128)));
                    y = vqtbx4q_s8(y, parts[3], vsubq_u8(index, vdupq_n_u8(192)));
                    store_codes(part, vget_low_s8(y));
                }
            }
        }
    }

    #[target_feature(enable = "neon")]
    unsafe fn requant16<const ADD: bool>(acc: *const i32, requant: Requant, x: Out<i16>) {
        let min = vdupq_n_s16(-i16::MAX);
        for i in 0..x.rows {
            // SAFETY: the caller promises that the row is live and ours.
            for (v, part) in unsafe { x.row(i) }.chunks_mut(8).enumerate() {
                let mut whole = [0; 8];
                whole[..part.len()].copy_from_slice(part);
                // SAFETY: the caller promises PANEL parameters and accumulators for each row; the buffer
                // has 8 words.
                unsafe {
                    let update = requantized(acc.add(i * Self::PANEL + 8 * v), &requant, 8 * v);
                    let new = if ADD {
                        vmaxq_s16(vqaddq_s16(vld1q_s16(whole.as_ptr()), update), min)
                    } else {
                        update
                    };
                    vst1q_s16(whole.as_mut_ptr(), new);
                }
                part.copy_from_slice(&whole[..part.len()]);
            }
        }
    }

    #[target_feature(enable = "neon")]
    unsafe fn softmax(logits: *const i32, tokens: usize, mult: i32, probs: *mut i8) -> (i32, i32) {
        const LANES: [u32; 4] = [0, 1, 2, 3];
        // SAFETY: the caller promises tokens rounded up to 64 logits and probabilities; the tables have 64
        // entries.
        unsafe {
            let lanes = vld1q_u32(LANES.as_ptr());
            let below = |j: usize| {
                vcltq_u32(
                    vaddq_u32(lanes, vdupq_n_u32(j as u32)),
                    vdupq_n_u32(tokens as u32),
                )
            };
            let mut max = vdupq_n_s32(i32::MIN);
            for j in (0..tokens).step_by(4) {
                max = vbslq_s32(below(j), vmaxq_s32(max, vld1q_s32(logits.add(j))), max);
            }
            let max = vdupq_n_s32(vmaxvq_s32(max));
            let cap = vdupq_n_s32(logit_cap(mult));
            let half = vdupq_n_s32(1 << 19);
            let (low_table, high_table) = (
                vld1q_u8_x4(EXP2_LOW.as_ptr()),
                vld1q_u8_x4(EXP2_HIGH.as_ptr()),
            );
            // Shifts every table entry to 0: what stands for the keys past the end.
            let nothing = vdupq_n_s32(2047);
            let (mut total12, mut total8) = (vdupq_n_u32(0), vdupq_n_u32(0));
            for j in (0..tokens).step_by(16) {
                let exponent = |v: usize| {
                    let at = j + 4 * v;
                    let d = vminq_s32(vsubq_s32(max, vld1q_s32(logits.add(at))), cap);
                    let u = vshrq_n_s32::<20>(vmlaq_n_s32(half, d, mult));
                    vmovn_u32(vreinterpretq_u32_s32(vbslq_s32(below(at), u, nothing)))
                };
                let u = [
                    vcombine_u16(exponent(0), exponent(1)),
                    vcombine_u16(exponent(2), exponent(3)),
                ];
                let index = vandq_u8(
                    vcombine_u8(vmovn_u16(u[0]), vmovn_u16(u[1])),
                    vdupq_n_u8(63),
                );
                let (low, high) = (vqtbl4q_u8(low_table, index), vqtbl4q_u8(high_table, index));
                let mut e8 = [vdup_n_u8(0); 2];
                for (v, (e8, e)) in e8
                    .iter_mut()
                    .zip([vzip1q_u8(low, high), vzip2q_u8(low, high)])
                    .enumerate()
                {
                    let shift = vnegq_s16(vreinterpretq_s16_u16(vshrq_n_u16::<6>(u[v])));
                    let e12 = vrshrq_n_u16::<1>(vshlq_u16(vreinterpretq_u16_u8(e), shift));
                    total12 = vpadalq_u16(total12, e12);
                    *e8 = vrshrn_n_u16::<4>(e12);
                }
                let e8 = vcombine_u8(e8[0], e8[1]);
                total8 = vpadalq_u16(total8, vpaddlq_u8(e8));
                vst1q_s8(
                    probs.add(j),
                    vreinterpretq_s8_u8(veorq_u8(e8, vdupq_n_u8(0x80))),
                );
            }
            (vaddvq_u32(total12) as i32, vaddvq_u32(total8) as i32)
        }
    }

    #[target_feature(enable = "neon")]
    unsafe fn attention_output(
        acc: *const i32,
        means: *const i32,
        scales: &[RowScale],
        out: Out<i8>,
    ) {
        for (i, scale) in scales.iter().enumerate() {
            let (shift, mult) = (vdupq_n_s32(-(scale.shift as i32)), vdupq_n_s16(scale.mult));
            // SAFETY: the caller promises a scale for each row of out.
            for (v, part) in unsafe { out.row(i) }.chunks_mut(8).enumerate() {
                let mut t = [vdupq_n_s32(0); 2];
                for (h, t) in t.iter_mut().enumerate() {
                    let at = 8 * v + 4 * h;
                    // SAFETY: the caller promises PANEL means and accumulators for each row.
                    let (a, mean) = unsafe {
                        (
                            vld1q_s32(acc.add(i * Self::PANEL + at)),
                            vld1q_s32(means.add(at)),
                        )
                    };
                    let lost = vshrq_n_s32::<4>(vmlaq_n_s32(vdupq_n_s32(8), mean, scale.lost));
                    *t = vrshlq_s32(vaddq_s32(vshlq_n_s32::<4>(a), lost), shift);
                }
                let z = vqrdmulhq_s16(saturate(t[0], t[1]), mult);
                store_codes(
                    part,
                    vqmovn_s16(vshrq_n_s16::<6>(vqaddq_s16(z, vdupq_n_s16(32)))),
                );
            }
        }
    }

    #[target_feature(enable = "neon")]
    unsafe fn layer_norm(norm: &LayerNorm, x: &[i16], out: &mut [i8]) {
        let d = x.len();
        let (sum, squares) = sums(x);
        let moments = Moments::new(sum, squares, d, norm.epsilon);
        let right = moments.bits.saturating_sub(10);
        // -S and, where c is shifted right, the rounding half.
        let offset = vdupq_n_s32((1 << right >> 1) - sum);
        let shift = vdupq_n_s32(10 - moments.bits as i32);
        let frac = vdupq_n_s16(-i16::from(norm.frac));
        let whole = d / 8 * 8;
        for j in (0..whole).step_by(8) {
            // SAFETY: 8 values from j on are inside slices of d values.
            let (x, gain, bias) = unsafe {
                (
                    vld1q_s16(x.as_ptr().add(j)),
                    vld1q_s16(norm.gain.as_ptr().add(j)),
                    vld1q_s16(norm.bias.as_ptr().add(j)),
                )
            };
            let low = vmlal_n_s16(offset, vget_low_s16(x), d as i16);
            let high = vmlal_n_s16(offset, vget_high_s16(x), d as i16);
            let t = saturate(vshlq_s32(low, shift), vshlq_s32(high, shift));
            let n = vqrdmulhq_n_s16(t, moments.inv);
            let y = vshlq_s16(vqaddq_s16(vqrdmulhq_s16(n, gain), bias), frac);
            store_codes(&mut out[j..j + 8], vqmovn_s16(y));
        }
        for j in whole..d {
            out[j] = moments.apply(x[j], d, norm.gain[j], norm.bias[j], norm.frac);
        }
    }

    #[target_feature(enable = "neon")]
    unsafe fn probe(iterations: u32) -> (u64, i32) {
        const CHAINS: usize = 16;
        let (mut a, w) = (vdupq_n_s8(3), vdupq_n_s8(5));
        let mut acc = [vdupq_n_s32(0); CHAINS];
        for _ in 0..iterations {
            for acc in &mut acc {
                // SAFETY: no instruction; it hides that every product is the same.
                unsafe {
                    asm!("/* {0:v} */", inout(vreg) a, options(nomem, nostack, preserves_flags));
                };
                *acc = vpadalq_s16(*acc, vmlal_high_s8(vmull_high_s8(a, w), a, w));
            }
        }
        (
            u64::from(iterations) * CHAINS as u64 * 16,
            acc.into_iter().fold(0, |s, x| s ^ vaddvq_s32(x)),
        )
    }
}
