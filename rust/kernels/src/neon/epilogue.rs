//! Epilogues: rows of 16 accumulators to codes or updates of the residual, and the outputs of
//! attention.

use std::arch::aarch64::*;

use super::{saturate, store_codes, Neon};
use crate::layers::WINDOW;
use crate::matrix::Out;
use crate::tiled::{
    copy_accumulators, copy_in_order, Epilogue, Isa, Requant, RowScale, Staged, UnfinishedTile,
};

/// Accumulators of a row, for both tiers.
const PANEL: usize = Neon::<false>::PANEL;
/// Values of a row of staged outputs, for both tiers.
const STAGED: usize = Neon::<false>::STAGED;

/// Requantizes 8 accumulators, which hold the rounding half, to updates; `at` is their column in
/// the panel.
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

/// Requantizes rows to codes; `offset` is `64 * zero_point + 32`.
///
/// # Safety
/// As [`Isa::finish`].
#[target_feature(enable = "neon")]
unsafe fn requant8(acc: *const i32, requant: &Requant, offset: i16, out: Out<i8>) {
    let offset = vdupq_n_s16(offset);
    for i in 0..out.rows {
        // SAFETY: the caller promises that the row is live and ours.
        for (v, part) in unsafe { out.row(i) }.chunks_mut(8).enumerate() {
            // SAFETY: the caller promises PANEL parameters and accumulators for each row of out.
            let z = unsafe { requantized(acc.add(i * PANEL + 8 * v), requant, 8 * v) };
            store_codes(part, vqmovn_s16(vshrq_n_s16::<6>(vqaddq_s16(z, offset))));
        }
    }
}

/// Looks each code up in the table, in place.
///
/// # Safety
/// As [`Isa::finish`].
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
                let index = veor_u8(vreinterpret_u8_s8(vld1_s8(codes.as_ptr())), vdup_n_u8(0x80));
                let index = vcombine_u8(index, index);
                // An index past its 64 entries keeps the value from the parts before.
                let mut y = vqtbl4q_s8(parts[0], index);
                y = vqtbx4q_s8(y, parts[1], vsubq_u8(index, vdupq_n_u8(64)));
                y = vqtbx4q_s8(y, parts[2], vsubq_u8(index, vdupq_n_u8(128)));
                y = vqtbx4q_s8(y, parts[3], vsubq_u8(index, vdupq_n_u8(192)));
                store_codes(part, vget_low_s8(y));
            }
        }
    }
}

/// Requantizes rows to updates, and adds them to the residual or stores them.
///
/// # Safety
/// As [`Isa::finish`].
#[target_feature(enable = "neon")]
unsafe fn requant16<const ADD: bool>(acc: *const i32, requant: &Requant, x: Out<i16>) {
    let min = vdupq_n_s16(-i16::MAX);
    for i in 0..x.rows {
        // SAFETY: the caller promises that the row is live and ours.
        for (v, part) in unsafe { x.row(i) }.chunks_mut(8).enumerate() {
            let mut whole = [0; 8];
            whole[..part.len()].copy_from_slice(part);
            // SAFETY: the caller promises PANEL parameters and accumulators for each row; the
            // buffer has 8 words.
            unsafe {
                let update = requantized(acc.add(i * PANEL + 8 * v), requant, 8 * v);
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

/// Puts staged codes in order.
///
/// # Safety
/// As [`Isa::reorder`].
#[target_feature(enable = "neon")]
unsafe fn reorder8(staged: Staged, out: Out<i8>) {
    // SAFETY: the caller promises WINDOW values in each row of staged, as many places, and the rows
    // of out.
    unsafe {
        let order = vld1q_u8_x4(staged.order);
        for i in 0..out.rows {
            let values = vld1q_s8_x4(staged.values.add(i * STAGED).cast());
            let parts = [order.0, order.1, order.2, order.3];
            for (part, places) in out.row(i).chunks_mut(16).zip(parts) {
                let codes = vqtbl4q_s8(values, places);
                if part.len() == 16 {
                    vst1q_s8(part.as_mut_ptr(), codes);
                } else {
                    let mut whole = [0; 16];
                    vst1q_s8(whole.as_mut_ptr(), codes);
                    part.copy_from_slice(&whole[..part.len()]);
                }
            }
        }
    }
}

/// Puts staged updates in order and adds them to the residual.
///
/// # Safety
/// As [`Isa::reorder`].
#[target_feature(enable = "neon")]
unsafe fn reorder16(staged: Staged, x: Out<i16>) {
    // SAFETY: as in reorder8.
    unsafe {
        // The places of both bytes of eight values.
        let mut bytes = [vdupq_n_u8(0); WINDOW / 8];
        for (part, bytes) in bytes.iter_mut().enumerate() {
            let low = vshlq_n_u16::<1>(vmovl_u8(vld1_u8(staged.order.add(8 * part))));
            let both = vorrq_u16(low, vshlq_n_u16::<8>(low));
            *bytes = vreinterpretq_u8_u16(vorrq_u16(both, vdupq_n_u16(1 << 8)));
        }
        let min = vdupq_n_s16(-i16::MAX);
        for i in 0..x.rows {
            let values = staged.values.add(2 * i * STAGED).cast::<i8>();
            let (low, high) = (vld1q_s8_x4(values), vld1q_s8_x4(values.add(WINDOW)));
            for (part, places) in x.row(i).chunks_mut(8).zip(bytes) {
                // An index past its 64 entries keeps the value from the first half.
                let update = vqtbx4q_s8(
                    vqtbl4q_s8(low, places),
                    high,
                    vsubq_u8(places, vdupq_n_u8(64)),
                );
                let mut whole = [0; 8];
                whole[..part.len()].copy_from_slice(part);
                let sum = vqaddq_s16(vld1q_s16(whole.as_ptr()), vreinterpretq_s16_s8(update));
                vst1q_s16(whole.as_mut_ptr(), vmaxq_s16(sum, min));
                part.copy_from_slice(&whole[..part.len()]);
            }
        }
    }
}

/// Computes [`Isa::attention_output`].
///
/// # Safety
/// As there.
#[target_feature(enable = "neon")]
pub(super) unsafe fn attention_output(
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
                let (a, mean) =
                    unsafe { (vld1q_s32(acc.add(i * PANEL + at)), vld1q_s32(means.add(at))) };
                let residue =
                    vshrq_n_s32::<4>(vmlaq_n_s32(vdupq_n_s32(8), mean, scale.rounding_residue));
                *t = vrshlq_s32(vaddq_s32(vshlq_n_s32::<4>(a), residue), shift);
            }
            let z = vqrdmulhq_s16(saturate(t[0], t[1]), mult);
            store_codes(
                part,
                vqmovn_s16(vshrq_n_s16::<6>(vqaddq_s16(z, vdupq_n_s16(32)))),
            );
        }
    }
}

/// Computes [`Isa::finish`].
///
/// # Safety
/// As there.
#[inline]
pub(super) unsafe fn finish(tile: &UnfinishedTile) {
    let (acc, requant) = (tile.acc, &tile.requant);
    // SAFETY: the caller's promise.
    unsafe {
        match tile.epilogue {
            Epilogue::Codes { offset, table, out } => {
                requant8(acc, requant, offset, out);
                if let Some(table) = table {
                    lookup(table, out);
                }
            }
            Epilogue::Add { x } => requant16::<true>(acc, requant, x),
            Epilogue::Updates { out } => requant16::<false>(acc, requant, out),
            Epilogue::Copy { out } => copy_accumulators(acc, Neon::<false>::PANEL, out),
        }
    }
}

/// Computes [`Isa::reorder`].
///
/// # Safety
/// As there.
pub(super) unsafe fn reorder(staged: Staged, to: Epilogue) {
    // SAFETY: the caller's promise.
    unsafe {
        match to {
            Epilogue::Codes { out, .. } => reorder8(staged, out),
            Epilogue::Add { x } => reorder16(staged, x),
            Epilogue::Updates { .. } => unreachable!("updates are staged, never put in order"),
            Epilogue::Copy { out } => copy_in_order(staged, Neon::<false>::STAGED, out),
        }
    }
}
