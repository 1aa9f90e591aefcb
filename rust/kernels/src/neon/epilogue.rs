//! Epilogues: rows of 16 accumulators to codes or updates of the residual, and the outputs of
//! attention.

use std::arch::aarch64::*;
use std::array::from_fn;

use super::{layer_norm_row, saturate, softmax_row, store_codes, Sizes, PANEL};
use crate::layers::WINDOW;
use crate::matrix::{on_whole_row, Out};
use crate::tiled::{
    copy_accumulators, row_by_row, Epilogue, Layout, Requant, RowKernels, RowScale, RowSums,
    Staged, UnfinishedTile,
};
use crate::{rotary, LayerNorm, MatrixView, MatrixViewMut};

/// Requantization parameters of a panel, in registers.
struct Parameters {
    /// Left shifts, to the right where negative.
    shift: [int32x4_t; PANEL / 4],
    mult: [int16x8_t; PANEL / 8],
}

impl Parameters {
    /// Loads a panel's parameters.
    ///
    /// # Safety
    /// PANEL parameters can be read.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load(requant: &Requant) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            Self {
                shift: from_fn(|v| {
                    vsubq_s32(
                        vld1q_s32(requant.left.add(4 * v)),
                        vld1q_s32(requant.right.add(4 * v)),
                    )
                }),
                mult: from_fn(|v| vld1q_s16(requant.mult.add(8 * v))),
            }
        }
    }

    /// Requantizes a row of accumulators, which hold the rounding half, to updates.
    ///
    /// # Safety
    /// PANEL accumulators can be read.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn updates(&self, acc: *const i32) -> [int16x8_t; PANEL / 8] {
        // SAFETY: the caller's promise.
        let t: [_; PANEL / 4] =
            from_fn(|v| unsafe { vshlq_s32(vld1q_s32(acc.add(4 * v)), self.shift[v]) });
        from_fn(|v| vqrdmulhq_s16(saturate(t[2 * v], t[2 * v + 1]), self.mult[v]))
    }
}

/// Looks 16 codes up in a table of four parts.
#[inline]
#[target_feature(enable = "neon")]
fn lookup(parts: [int8x16x4_t; 4], codes: int8x16_t) -> int8x16_t {
    let index = veorq_u8(vreinterpretq_u8_s8(codes), vdupq_n_u8(0x80));
    // An index past its 64 entries keeps the value from the parts before.
    let y = vqtbl4q_s8(parts[0], index);
    let y = vqtbx4q_s8(y, parts[1], vsubq_u8(index, vdupq_n_u8(64)));
    let y = vqtbx4q_s8(y, parts[2], vsubq_u8(index, vdupq_n_u8(128)));
    vqtbx4q_s8(y, parts[3], vsubq_u8(index, vdupq_n_u8(192)))
}

/// Requantizes rows to codes, and looks them up if there is a table; `offset` is
/// `64 * zero_point + 32`.
///
/// # Safety
/// As [`RowKernels::finish`].
#[target_feature(enable = "neon")]
unsafe fn requant8(
    acc: *const i32,
    requant: &Requant,
    offset: i16,
    table: Option<&[i8; 256]>,
    out: Out<i8>,
) {
    let offset = vdupq_n_s16(offset);
    // SAFETY: the table has 256 entries; the caller promises PANEL parameters, as many accumulators
    // for each row of out, and that its rows are live and ours.
    unsafe {
        let parts = table.map(|table| from_fn(|i| vld1q_s8_x4(table.as_ptr().add(64 * i))));
        let parameters = Parameters::load(requant);
        for i in 0..out.rows {
            let [low, high] = parameters
                .updates(acc.add(i * PANEL))
                .map(|update| vqaddq_s16(update, offset));
            let codes = vqshrn_high_n_s16::<6>(vqshrn_n_s16::<6>(low), high);
            let codes = parts.map_or(codes, |parts| lookup(parts, codes));
            store_codes(out.row(i), codes);
        }
    }
}

/// Requantizes rows to updates, and adds them to the residual or stores them.
///
/// # Safety
/// As [`RowKernels::finish`].
#[target_feature(enable = "neon")]
unsafe fn requant16<const ADD: bool>(acc: *const i32, requant: &Requant, x: Out<i16>) {
    let min = vdupq_n_s16(-i16::MAX);
    // SAFETY: the caller promises PANEL parameters, as many accumulators for each row of x, and
    // that its rows are live and ours.
    unsafe {
        let parameters = Parameters::load(requant);
        for i in 0..x.rows {
            let updates = parameters.updates(acc.add(i * PANEL));
            on_whole_row::<_, PANEL>(x.row(i), |x| {
                for (v, update) in updates.into_iter().enumerate() {
                    let x = x.add(8 * v);
                    let new = if ADD {
                        vmaxq_s16(vqaddq_s16(vld1q_s16(x), update), min)
                    } else {
                        update
                    };
                    vst1q_s16(x, new);
                }
            });
        }
    }
}

// SAFETY: each function does what the trait's comment says, for any sizes within the trait's
// bounds; `tests/tiers.rs` compares them with the scalar tier.
unsafe impl<T: Sizes> RowKernels for T {
    row_by_row!(softmax_row, layer_norm_row, "neon");

    #[inline]
    unsafe fn finish(tile: &UnfinishedTile) {
        let (acc, requant) = (tile.acc, &tile.requant);
        // SAFETY: the caller's promise.
        unsafe {
            match tile.epilogue {
                Epilogue::Codes { offset, table, out } => {
                    requant8(acc, requant, offset, table, out);
                }
                Epilogue::Add { x } => requant16::<true>(acc, requant, x),
                Epilogue::Updates { out } => requant16::<false>(acc, requant, out),
                Epilogue::Copy { out } => copy_accumulators(acc, PANEL, out),
            }
        }
    }

    #[target_feature(enable = "neon")]
    unsafe fn reorder_codes(staged: Staged, out: Out<i8>) {
        // SAFETY: the caller promises WINDOW values in each row of staged, as many places, and the
        // rows of out.
        unsafe {
            let order = vld1q_u8_x4(staged.order);
            for i in 0..out.rows {
                let values = vld1q_s8_x4(staged.values.add(i * Self::STAGED).cast());
                let parts = [order.0, order.1, order.2, order.3];
                for (part, places) in out.row(i).chunks_mut(16).zip(parts) {
                    store_codes(part, vqtbl4q_s8(values, places));
                }
            }
        }
    }

    #[target_feature(enable = "neon")]
    unsafe fn reorder_updates(staged: Staged, x: Out<i16>) {
        // SAFETY: as in reorder_codes.
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
                let values = staged.values.add(2 * i * Self::STAGED).cast::<i8>();
                let (low, high) = (vld1q_s8_x4(values), vld1q_s8_x4(values.add(WINDOW)));
                for (part, places) in x.row(i).chunks_mut(8).zip(bytes) {
                    // An index past its 64 entries keeps the value from the first half.
                    let update = vqtbx4q_s8(
                        vqtbl4q_s8(low, places),
                        high,
                        vsubq_u8(places, vdupq_n_u8(64)),
                    );
                    on_whole_row::<_, 8>(part, |x| {
                        let sum = vqaddq_s16(vld1q_s16(x), vreinterpretq_s16_s8(update));
                        vst1q_s16(x, vmaxq_s16(sum, min));
                    });
                }
            }
        }
    }

    #[target_feature(enable = "neon")]
    unsafe fn rotate(z: &[i16], even: &[i16], odd: &[i16], out: &mut [i8]) {
        let whole = z.len() / 16 * 16;
        for at in (0..whole).step_by(16) {
            // SAFETY: 16 values from `at` on are inside the slices, whose lengths agree.
            let load = |from: &[i16]| unsafe { vld2q_s16(from[at..].as_ptr()) };
            let z = load(z);
            let codes = |factors: int16x8x2_t| {
                let low = vmull_s16(vget_low_s16(z.0), vget_low_s16(factors.0));
                let low = vmlal_s16(low, vget_low_s16(z.1), vget_low_s16(factors.1));
                let high = vmlal_high_s16(vmull_high_s16(z.0, factors.0), z.1, factors.1);
                vqmovn_s16(saturate(vrshrq_n_s32::<20>(low), vrshrq_n_s32::<20>(high)))
            };
            let codes = int8x8x2_t(codes(load(even)), codes(load(odd)));
            // SAFETY: 16 codes from `at` on are inside the slice.
            unsafe { vst2_s8(out[at..].as_mut_ptr(), codes) };
        }
        rotary::rotate(
            &z[whole..],
            &even[whole..],
            &odd[whole..],
            &mut out[whole..],
        );
    }

    #[target_feature(enable = "neon")]
    unsafe fn attention_output(
        acc: *const i32,
        means: *const i32,
        scales: &[RowScale],
        out: Out<i8>,
    ) {
        // SAFETY: the caller promises PANEL means, as many accumulators for each scale, and a scale
        // for each row of out.
        unsafe {
            let means: [_; PANEL / 4] = from_fn(|v| vld1q_s32(means.add(4 * v)));
            for (i, scale) in scales.iter().enumerate() {
                let (shift, mult) = (vdupq_n_s32(-(scale.shift as i32)), vdupq_n_s16(scale.mult));
                let acc = acc.add(i * PANEL);
                let t: [_; PANEL / 4] = from_fn(|v| {
                    let residue = vmlaq_n_s32(vdupq_n_s32(8), means[v], scale.rounding_residue);
                    let sum =
                        vsraq_n_s32::<4>(vshlq_n_s32::<4>(vld1q_s32(acc.add(4 * v))), residue);
                    vrshlq_s32(sum, shift)
                });
                let z = |v: usize| {
                    let z = vqrdmulhq_s16(saturate(t[2 * v], t[2 * v + 1]), mult);
                    vqaddq_s16(z, vdupq_n_s16(32))
                };
                let codes = vqshrn_high_n_s16::<6>(vqshrn_n_s16::<6>(z(0)), z(1));
                store_codes(out.row(i), codes);
            }
        }
    }
}
