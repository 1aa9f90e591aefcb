//! Expands packed weights, and packs values.

use super::{neon, Neon32};
use crate::tiled::{padded_rows, panels, Layout};
use crate::MatrixView;

/// Expands pairs of nibbles to weights, low nibbles first.
///
/// # Safety
/// The CPU has NEON.
///
/// # Panics
/// If there are not a multiple of 16 weights, or too few bytes.
pub(super) unsafe fn expand_nibbles(stored: &[u8], weights: &mut [i8]) {
    assert!(weights.len().is_multiple_of(16) && weights.len() <= 2 * stored.len());
    let count = weights.len() / 16;
    if count == 0 {
        return;
    }
    // SAFETY: reads and writes `count` parts of 8 bytes and 16 weights.
    unsafe {
        neon!(
            "2:",
            "vld1.8 {{d1}}, [{stored}]!",
            "vshl.i8 d0, d1, #4",
            "vshr.s8 d1, d1, #4",
            "vshr.s8 d0, d0, #4",
            "vst2.8 {{d0-d1}}, [{weights}]!",
            "subs {count}, {count}, #1",
            "bne 2b";
            stored = inout(reg) stored.as_ptr() => _,
            weights = inout(reg) weights.as_mut_ptr() => _,
            count = inout(reg) count => _,
        );
    }
}

/// Tokens of a block of values.
const TOKENS: usize = Neon32::GROUP;
/// Columns of a block of values.
const COLS: usize = 8;

/// Transposes 16 rows of 8 values, `stride` apart, and adds them to the sums of their columns.
///
/// # Safety
/// The CPU has NEON; there are as many values, and room for 8 rows of 16.
unsafe fn transpose(values: *const i8, stride: usize, out: *mut i8, sums: &mut [i32; COLS]) {
    // SAFETY: reads and writes what the caller promises.
    unsafe {
        neon!(
            "vld1.8 {{d0}}, [{first}], {stride}",
            "vld1.8 {{d1}}, [{second}], {stride}",
            "vld1.8 {{d2}}, [{first}], {stride}",
            "vld1.8 {{d3}}, [{second}], {stride}",
            "vld1.8 {{d4}}, [{first}], {stride}",
            "vld1.8 {{d5}}, [{second}], {stride}",
            "vld1.8 {{d6}}, [{first}], {stride}",
            "vld1.8 {{d7}}, [{second}], {stride}",
            "vld1.8 {{d8}}, [{first}], {stride}",
            "vld1.8 {{d9}}, [{second}], {stride}",
            "vld1.8 {{d10}}, [{first}], {stride}",
            "vld1.8 {{d11}}, [{second}], {stride}",
            "vld1.8 {{d12}}, [{first}], {stride}",
            "vld1.8 {{d13}}, [{second}], {stride}",
            "vld1.8 {{d14}}, [{first}]",
            "vld1.8 {{d15}}, [{second}]",
            // 16 values of 8 bits fit 16 bits.
            "vaddl.s8 q8, d0, d1",
            "vaddl.s8 q9, d2, d3",
            "vaddw.s8 q8, q8, d4",
            "vaddw.s8 q9, q9, d5",
            "vaddw.s8 q8, q8, d6",
            "vaddw.s8 q9, q9, d7",
            "vaddw.s8 q8, q8, d8",
            "vaddw.s8 q9, q9, d9",
            "vaddw.s8 q8, q8, d10",
            "vaddw.s8 q9, q9, d11",
            "vaddw.s8 q8, q8, d12",
            "vaddw.s8 q9, q9, d13",
            "vaddw.s8 q8, q8, d14",
            "vaddw.s8 q9, q9, d15",
            "vld1.32 {{d20-d23}}, [{sums}]",
            "vadd.i16 q8, q8, q9",
            "vaddw.s16 q10, q10, d16",
            "vaddw.s16 q11, q11, d17",
            "vst1.32 {{d20-d23}}, [{sums}]",
            // Both halves of a vector are a square of their own.
            "vtrn.32 q0, q4",
            "vtrn.32 q1, q5",
            "vtrn.32 q2, q6",
            "vtrn.32 q3, q7",
            "vtrn.16 q0, q2",
            "vtrn.16 q1, q3",
            "vtrn.16 q4, q6",
            "vtrn.16 q5, q7",
            "vtrn.8 q0, q1",
            "vtrn.8 q2, q3",
            "vtrn.8 q4, q5",
            "vtrn.8 q6, q7",
            "vst1.8 {{d0-d3}}, [{out}]!",
            "vst1.8 {{d4-d7}}, [{out}]!",
            "vst1.8 {{d8-d11}}, [{out}]!",
            "vst1.8 {{d12-d15}}, [{out}]";
            first = inout(reg) values => _,
            second = inout(reg) values.add(8 * stride) => _,
            stride = in(reg) stride,
            out = inout(reg) out => _,
            sums = in(reg) sums.as_mut_ptr(),
        );
    }
}

/// Computes [`Layout::pack_values`].
///
/// # Safety
/// The CPU has NEON.
pub(super) unsafe fn pack_values(values: MatrixView<i8>, packed: &mut [i8], sums: &mut [i32]) {
    let (rows, tokens) = (values.cols(), values.rows());
    let k = tokens.next_multiple_of(Neon32::STEP);
    sums.fill(0);
    for (first, width) in panels::<Neon32>(padded_rows::<Neon32>(rows)) {
        let panel = &mut packed[first * k..][..width * k];
        for (token, group) in (0..)
            .step_by(TOKENS)
            .zip(panel.chunks_exact_mut(width * TOKENS))
        {
            for (col, out) in (first..).step_by(COLS).zip(group.chunks_mut(COLS * TOKENS)) {
                let live = (
                    TOKENS.min(tokens - token),
                    (rows - col).min(out.len() / TOKENS),
                );
                let mut block_sums = [0; COLS];
                if live == (TOKENS, COLS) {
                    let (codes, stride) = values.columns(col..col + COLS).starting_at(token);
                    // SAFETY: the caller promises NEON; there are as many tokens and columns.
                    unsafe { transpose(codes, stride, out.as_mut_ptr(), &mut block_sums) };
                } else {
                    // Zeros where tokens or columns run out.
                    let (mut block, mut whole) = ([[0; COLS]; TOKENS], [0; COLS * TOKENS]);
                    for (i, row) in block[..live.0].iter_mut().enumerate() {
                        row[..live.1].copy_from_slice(&values.row(token + i)[col..col + live.1]);
                    }
                    // SAFETY: the caller promises NEON; the buffers are whole.
                    unsafe {
                        let block = block.as_ptr().cast();
                        transpose(block, COLS, whole.as_mut_ptr(), &mut block_sums);
                    }
                    out.copy_from_slice(&whole[..out.len()]);
                }
                for (sum, block_sum) in sums[col..].iter_mut().zip(block_sums) {
                    *sum += block_sum;
                }
            }
        }
    }
}
