//! Packs values: transposes groups of tokens.

use std::arch::aarch64::*;

use super::PANEL;
use crate::tiled::{padded_rows, panels, Layout};
use crate::MatrixView;

/// Tokens of the largest group.
const MAX_GROUP: usize = 16;

/// Loads the first codes of a row of up to 16, and zeros behind them.
#[inline]
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

/// Computes `Layout::pack_values`.
///
/// # Safety
/// As there.
#[target_feature(enable = "neon")]
pub(super) unsafe fn pack_values<L: Layout>(
    values: MatrixView<i8>,
    packed: &mut [i8],
    sums: &mut [i32],
) {
    let (dims, tokens) = (values.cols(), values.rows());
    let k = tokens.next_multiple_of(L::STEP);
    sums.fill(0);
    for (first, width) in panels::<L>(padded_rows::<L>(dims)) {
        let live = width.min(dims - first);
        let panel = &mut packed[first * k..][..width * k];
        let mut totals = [vdupq_n_s32(0); PANEL / 4];
        for (g, group) in panel.chunks_exact_mut(L::GROUP * width).enumerate() {
            let mut rows = [vdupq_n_s8(0); MAX_GROUP];
            let rows = &mut rows[..L::GROUP];
            let mut sums = [vdupq_n_s16(0); 2];
            for (row, token) in rows.iter_mut().zip(g * L::GROUP..tokens) {
                *row = load_codes(&values.row(token)[first..][..live]);
                sums[0] = vaddw_s8(sums[0], vget_low_s8(*row));
                sums[1] = vaddw_high_s8(sums[1], *row);
            }
            for (totals, sums) in totals.chunks_exact_mut(2).zip(sums) {
                totals[0] = vaddw_s16(totals[0], vget_low_s16(sums));
                totals[1] = vaddw_high_s16(totals[1], sums);
            }
            // Each round doubles the tokens that stand together.
            for _ in 0..L::GROUP.ilog2() {
                let before = {
                    let mut copy = [vdupq_n_s8(0); MAX_GROUP];
                    copy[..L::GROUP].copy_from_slice(rows);
                    copy
                };
                for (i, pair) in rows.chunks_exact_mut(2).enumerate() {
                    let (a, b) = (before[i], before[i + L::GROUP / 2]);
                    pair[0] = vzip1q_s8(a, b);
                    pair[1] = vzip2q_s8(a, b);
                }
            }
            for (codes, stored) in rows.iter().zip(group.chunks_exact_mut(16)) {
                // SAFETY: 16 bytes.
                unsafe { vst1q_s8(stored.as_mut_ptr(), *codes) };
            }
        }
        for (total, sums) in totals.into_iter().zip(sums[first..].chunks_exact_mut(4)) {
            // SAFETY: four sums.
            unsafe { vst1q_s32(sums.as_mut_ptr(), total) };
        }
    }
}
