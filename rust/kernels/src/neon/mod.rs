//! The NEON tiers. On baseline Armv8.0 (`base`) `smull` and `smlal` compute pairs of products in 16
//! bits and `sadalp` adds them to 32-bit sums; for 4-bit rows many products stay in 16 bits. With
//! Armv8.2's dot product (`dot`) `sdot` does all of it, with Armv8.6's 8-bit matrix product
//! (`matrix`) `smmla` two rows by two at once. All share everything but the tiles.

/// Makes an array of an expression for each place. (The compiler did not always inline the closure
/// of `std::array::from_fn`.)
macro_rules! array {
    ([$first:expr; $length:expr], $i:ident => $value:expr) => {{
        let mut array = [$first; $length];
        for ($i, place) in array.iter_mut().enumerate() {
            *place = $value;
        }
        array
    }};
}

// Intrinsics are named as the vendor names them, dozens in a file.
#[allow(clippy::wildcard_imports)]
mod base;
#[allow(clippy::wildcard_imports)]
mod dot;
#[allow(clippy::wildcard_imports)]
mod epilogue;
#[allow(clippy::wildcard_imports)]
mod matrix;
#[allow(clippy::wildcard_imports)]
mod pack;

pub(crate) use base::Base;
pub(crate) use dot::Dot;
pub(crate) use matrix::Matrix;

use std::arch::aarch64::*;
use std::arch::asm;
use std::array::from_fn;

use crate::scalar::{logit_cap, Moments, EXP2};
use crate::tiled::{expand, pack_keys, FourBitForm, Layout};
use crate::{LayerNorm, MatrixView};

/// The sizes in which the NEON tiers differ, as in [`Layout`]. Their functions need NEON, which
/// every 64-bit Arm has, and the features of their tiles.
pub(crate) trait Sizes {
    const ROWS: usize;
    const LANES: usize;
    const GROUP: usize;
    const FOUR_BIT: Option<FourBitForm> = None;
}

/// Accumulators of a row.
const PANEL: usize = 16;

/// Returns one byte of each `2 * EXP2`.
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

/// Returns the codes, but hides from the compiler that they are the same.
#[target_feature(enable = "neon")]
fn opaque(mut a: int8x16_t) -> int8x16_t {
    // SAFETY: no instruction.
    unsafe {
        asm!("/* {0:v} */", inout(vreg) a, options(pure, nomem, nostack, preserves_flags));
    }
    a
}

/// Runs `add(sums, codes)`, of `macs` multiply-accumulates, as `Tiles::probe` does.
#[allow(clippy::inline_always)] // compiled for the features of its caller
#[inline(always)]
fn probe(
    iterations: u32,
    macs: u64,
    add: impl Fn(int32x4_t, int8x16_t) -> int32x4_t,
) -> (u64, i32) {
    const CHAINS: usize = 16;
    // SAFETY: every 64-bit Arm has NEON.
    let sum = unsafe {
        let (mut codes, mut acc) = (vdupq_n_s8(3), [vdupq_n_s32(0); CHAINS]);
        for _ in 0..iterations {
            for acc in &mut acc {
                codes = opaque(codes);
                *acc = add(*acc, codes);
            }
        }
        acc.into_iter().fold(0, |s, x| s ^ vaddvq_s32(x))
    };
    (u64::from(iterations) * CHAINS as u64 * macs, sum)
}

/// Stores the first of 16 codes in a row of up to 16.
#[inline]
#[target_feature(enable = "neon")]
fn store_codes(row: &mut [i8], codes: int8x16_t) {
    if row.len() == 16 {
        // SAFETY: the row has 16 bytes.
        unsafe { vst1q_s8(row.as_mut_ptr(), codes) }
    } else {
        let mut whole = [0; 16];
        // SAFETY: the buffer has 16 bytes.
        unsafe { vst1q_s8(whole.as_mut_ptr(), codes) }
        row.copy_from_slice(&whole[..row.len()]);
    }
}

/// Saturates eight numbers to 16 bits.
#[target_feature(enable = "neon")]
fn saturate(low: int32x4_t, high: int32x4_t) -> int16x8_t {
    vqmovn_high_s32(vqmovn_s32(low), high)
}

/// Returns the sums of x and of x^2.
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

/// Computes the probabilities of one query row. Returns the sums of e12 and e8.
///
/// # Safety
/// As `RowKernels::softmax`, for one row.
#[target_feature(enable = "neon")]
unsafe fn softmax_row(logits: *const i32, tokens: usize, mult: i32, probs: *mut i8) -> (i32, i32) {
    const LANES: [u32; 4] = [0, 1, 2, 3];
    // SAFETY: the caller promises tokens rounded up to 64 logits and probabilities; the tables have
    // 64 entries.
    unsafe {
        let lanes = vld1q_u32(LANES.as_ptr());
        let below = |j: usize| {
            vcltq_u32(
                vaddq_u32(lanes, vdupq_n_u32(j as u32)),
                vdupq_n_u32(tokens as u32),
            )
        };
        let whole = tokens / 16 * 16;
        let mut max = [vdupq_n_s32(i32::MIN); 4];
        for j in (0..whole).step_by(16) {
            for (v, max) in max.iter_mut().enumerate() {
                *max = vmaxq_s32(*max, vld1q_s32(logits.add(j + 4 * v)));
            }
        }
        for j in (whole..tokens).step_by(4) {
            let larger = vmaxq_s32(max[0], vld1q_s32(logits.add(j)));
            max[0] = vbslq_s32(below(j), larger, max[0]);
        }
        let max = vmaxq_s32(vmaxq_s32(max[0], max[1]), vmaxq_s32(max[2], max[3]));
        let max = vdupq_n_s32(vmaxvq_s32(max));
        let cap = vdupq_n_s32(logit_cap(mult));
        let half = vdupq_n_s32(1 << 19);
        let (low_table, high_table) = (
            vld1q_u8_x4(EXP2_LOW.as_ptr()),
            vld1q_u8_x4(EXP2_HIGH.as_ptr()),
        );
        let (mut total12, mut total8) = (vdupq_n_u32(0), vdupq_n_u32(0));
        // 2^20 times the exponents of four keys, rounded; below 2^31.
        let exponents = |j: usize| {
            let d = vminq_s32(vsubq_s32(max, vld1q_s32(logits.add(j))), cap);
            vreinterpretq_u32_s32(vmlaq_n_s32(half, d, mult))
        };
        let mut sixteen = |j: usize, u: [uint32x4_t; 4]| {
            let u: [_; 2] = from_fn(|v| {
                let u = vshrn_high_n_u32::<16>(vshrn_n_u32::<16>(u[2 * v]), u[2 * v + 1]);
                vshrq_n_u16::<4>(u)
            });
            let index = vandq_u8(vmovn_high_u16(vmovn_u16(u[0]), u[1]), vdupq_n_u8(63));
            let (low, high) = (vqtbl4q_u8(low_table, index), vqtbl4q_u8(high_table, index));
            let e = [vzip1q_u8(low, high), vzip2q_u8(low, high)];
            let e12: [_; 2] = from_fn(|v| {
                let shift = vnegq_s16(vreinterpretq_s16_u16(vshrq_n_u16::<6>(u[v])));
                let e12 = vrshrq_n_u16::<1>(vshlq_u16(vreinterpretq_u16_u8(e[v]), shift));
                total12 = vpadalq_u16(total12, e12);
                e12
            });
            let e8 = vrshrn_high_n_u16::<4>(vrshrn_n_u16::<4>(e12[0]), e12[1]);
            total8 = vpadalq_u16(total8, vpaddlq_u8(e8));
            vst1q_s8(
                probs.add(j),
                vreinterpretq_s8_u8(veorq_u8(e8, vdupq_n_u8(0x80))),
            );
        };
        for j in (0..whole).step_by(16) {
            sixteen(j, from_fn(|v| exponents(j + 4 * v)));
        }
        if whole < tokens {
            // The exponent of keys past the end: it shifts every table entry to 0.
            let nothing = vdupq_n_u32(2047 << 20);
            let last = |v: usize| {
                let at = whole + 4 * v;
                vbslq_u32(below(at), exponents(at), nothing)
            };
            sixteen(whole, from_fn(last));
        }
        (vaddvq_u32(total12) as i32, vaddvq_u32(total8) as i32)
    }
}

/// Computes one row of `LayerNorm`.
///
/// # Safety
/// All lengths agree.
#[target_feature(enable = "neon")]
unsafe fn layer_norm_row(norm: &LayerNorm, x: &[i16], out: &mut [i8]) {
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
        // SAFETY: as above.
        unsafe { vst1_s8(out.as_mut_ptr().add(j), vqmovn_s16(y)) };
    }
    for j in whole..d {
        out[j] = moments.apply(x[j], d, norm.gain[j], norm.bias[j], norm.frac);
    }
}

// SAFETY: each function does what the trait's comment says, for any sizes within the trait's
// bounds; `tests/tiers.rs` compares them with the scalar tier.
unsafe impl<T: Sizes> Layout for T {
    type Weight = i8;
    type Code = i8;
    const ROWS: usize = T::ROWS;
    const PANEL: usize = PANEL;
    const LANES: usize = T::LANES;
    const GROUP: usize = T::GROUP;
    const STEP: usize = 16;
    const CODE_OFFSET: i32 = 0;
    const PROB_OFFSET: i32 = -128;
    const FOUR_BIT: Option<FourBitForm> = T::FOUR_BIT;

    fn code(a: i8) -> i8 {
        a
    }

    unsafe fn pack_keys(keys: MatrixView<i8>, packed: &mut [i8], bias: &mut [i32]) {
        pack_keys::<Self>(keys, packed, bias);
    }

    unsafe fn pack_values(values: MatrixView<i8>, packed: &mut [i8], sums: &mut [i32]) {
        // SAFETY: the caller promises NEON.
        unsafe { pack::pack_values::<Self>(values, packed, sums) }
    }

    unsafe fn expand_8_bit(stored: &[u8], bytes: usize, nibbles: usize, panel: &mut [i8]) {
        expand(stored, bytes, nibbles, panel);
    }

    fn prefetch(line: *const u8) {
        // SAFETY: a prefetch reads nothing.
        unsafe {
            asm!(
                "prfm pldl2keep, [{0}]",
                in(reg) line,
                options(readonly, nostack, preserves_flags)
            );
        }
    }
}
