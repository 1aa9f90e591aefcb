//! Softmax and `LayerNorm` of one row.

use super::neon;
use crate::scalar::{logit_cap, Moments, EXP2};
use crate::LayerNorm;

/// The low bytes of `EXP2`, then the high bytes.
static EXP2_BYTES: [[u8; 64]; 2] = {
    let mut table = [[0; 64]; 2];
    let mut f = 0;
    while f < 64 {
        [table[0][f], table[1][f]] = EXP2[f].to_le_bytes();
        f += 1;
    }
    table
};

/// Logits whose exponents are kept at a time. A sum of as many 8-bit weights in eight lanes fits 16
/// bits.
const CHUNK: usize = 256;
/// Logits that are read at once.
const BLOCK: usize = 16;

/// Returns the largest of `tokens` logits.
///
/// # Safety
/// The CPU has NEON; there are as many logits, at least one.
unsafe fn maximum(logits: *const i32, tokens: usize) -> i32 {
    let mut lanes = [i32::MIN; 4];
    let blocks = tokens / BLOCK;
    // SAFETY: reads whole blocks of logits, and the rest.
    unsafe {
        if blocks > 0 {
            neon!(
                "vld1.32 {{d0-d1}}, [{logits}]",
                "vmov q1, q0",
                "2:",
                "vld1.32 {{d4-d7}}, [{logits}]!",
                "vld1.32 {{d16-d19}}, [{logits}]!",
                "subs {blocks}, {blocks}, #1",
                "vmax.s32 q0, q0, q2",
                "vmax.s32 q1, q1, q3",
                "vmax.s32 q0, q0, q8",
                "vmax.s32 q1, q1, q9",
                "bne 2b",
                "vmax.s32 q0, q0, q1",
                "vst1.32 {{d0-d1}}, [{lanes}]";
                logits = inout(reg) logits => _,
                blocks = inout(reg) blocks => _,
                lanes = in(reg) lanes.as_mut_ptr(),
            );
        }
        let rest = blocks * BLOCK;
        let rest = std::slice::from_raw_parts(logits.add(rest), tokens - rest);
        (lanes.iter().chain(rest).copied()).fold(i32::MIN, i32::max)
    }
}

/// Computes the exponents `u` of whole blocks of logits.
///
/// # Safety
/// The CPU has NEON; there are as many logits and room for as many exponents.
unsafe fn exponents(logits: *const i32, blocks: usize, max: i32, mult: i32, exponents: *mut u16) {
    if blocks == 0 {
        return;
    }
    // SAFETY: reads and writes what the caller promises.
    unsafe {
        neon!(
            "vdup.32 q8, {max}",
            "vdup.32 q9, {cap}",
            "vdup.32 q10, {mult}",
            "2:",
            "vld1.32 {{d0-d3}}, [{logits}]!",
            "vld1.32 {{d4-d7}}, [{logits}]!",
            "vsub.i32 q0, q8, q0",
            "vsub.i32 q1, q8, q1",
            "vsub.i32 q2, q8, q2",
            "vsub.i32 q3, q8, q3",
            "vmin.s32 q0, q0, q9",
            "vmin.s32 q1, q1, q9",
            "vmin.s32 q2, q2, q9",
            "vmin.s32 q3, q3, q9",
            "vmul.i32 q0, q0, q10",
            "vmul.i32 q1, q1, q10",
            "vmul.i32 q2, q2, q10",
            "vmul.i32 q3, q3, q10",
            "vrshr.s32 q0, q0, #20",
            "vrshr.s32 q1, q1, #20",
            "vrshr.s32 q2, q2, #20",
            "vrshr.s32 q3, q3, #20",
            "vmovn.i32 d0, q0",
            "vmovn.i32 d1, q1",
            "vmovn.i32 d2, q2",
            "vmovn.i32 d3, q3",
            "subs {blocks}, {blocks}, #1",
            "vst1.16 {{d0-d3}}, [{exponents}]!",
            "bne 2b";
            max = in(reg) max,
            cap = in(reg) logit_cap(mult),
            mult = in(reg) mult,
            logits = inout(reg) logits => _,
            blocks = inout(reg) blocks => _,
            exponents = inout(reg) exponents => _,
        );
    }
}

/// Computes the probabilities of whole blocks of exponents, at most [`CHUNK`]. Returns the sums of
/// e12 and e8.
///
/// # Safety
/// The CPU has NEON; there is at least one block and room for as many probabilities.
unsafe fn weights(exponents: &[u16], probs: *mut i8) -> (i32, i32) {
    let (mut sum12, mut sum8) = ([0i32; 4], [0u16; 8]);
    // SAFETY: reads the exponents and the table, writes as many probabilities, and the sums.
    unsafe {
        neon!(
            "vld1.8 {{d0-d3}}, [{table}]!",
            "vld1.8 {{d4-d7}}, [{table}]!",
            "vld1.8 {{d8-d11}}, [{table}]!",
            "vld1.8 {{d12-d15}}, [{table}]",
            "vmov.i8 d28, #63",
            "vmov.i8 d29, #32",
            "vmov.i8 d30, #128",
            "vmov.i32 q12, #0",
            "vmov.i32 q13, #0",
            "2:",
            "vld1.16 {{d16-d17}}, [{exponents}]!",
            "vmovn.i16 d18, q8",
            "vshr.u16 q8, q8, #6",
            "vand d18, d18, d28",
            "vneg.s16 q8, q8",
            // An index past its 32 entries keeps the value from the first half.
            "vsub.i8 d19, d18, d29",
            "vtbl.8 d20, {{d0-d3}}, d18",
            "vtbl.8 d21, {{d8-d11}}, d18",
            "vtbx.8 d20, {{d4-d7}}, d19",
            "vtbx.8 d21, {{d12-d15}}, d19",
            "vzip.8 d20, d21",
            // (2T >> s) + 1) >> 1 is T shifted by s and rounded.
            "vrshl.u16 q10, q10, q8",
            "vrshrn.i16 d18, q10, #4",
            "vpadal.u16 q13, q10",
            "vaddw.u8 q12, q12, d18",
            "veor d18, d18, d30",
            "subs {count}, {count}, #1",
            "vst1.8 {{d18}}, [{probs}]!",
            "bne 2b",
            "vst1.32 {{d26-d27}}, [{sum12}]",
            "vst1.16 {{d24-d25}}, [{sum8}]";
            table = inout(reg) EXP2_BYTES.as_ptr() => _,
            exponents = inout(reg) exponents.as_ptr() => _,
            count = inout(reg) exponents.len() / 8 => _,
            probs = inout(reg) probs => _,
            sum12 = in(reg) sum12.as_mut_ptr(),
            sum8 = in(reg) sum8.as_mut_ptr(),
        );
    }
    (sum12.iter().sum(), sum8.map(i32::from).iter().sum())
}

/// Computes the probabilities of one query row. Returns the sums of e12 and e8.
///
/// # Safety
/// As `RowKernels::softmax`, for one row.
pub(super) unsafe fn softmax_row(
    logits: *const i32,
    tokens: usize,
    mult: i32,
    probs: *mut i8,
) -> (i32, i32) {
    let mut sums = (0, 0);
    let mut chunk = [0; CHUNK];
    // SAFETY: the caller promises as many logits, and room for probabilities in whole blocks.
    unsafe {
        let max = maximum(logits, tokens);
        for first in (0..tokens).step_by(CHUNK) {
            let count = CHUNK.min(tokens - first);
            let (blocks, rest) = (count / BLOCK, count % BLOCK);
            let logits = logits.add(first);
            exponents(logits, blocks, max, mult, chunk.as_mut_ptr());
            let mut whole = blocks * BLOCK;
            if rest > 0 {
                // Keys past the end are as far from the maximum as counts: their weight is 0.
                let mut last = [max.wrapping_sub(logit_cap(mult)); BLOCK];
                last[..rest].copy_from_slice(std::slice::from_raw_parts(logits.add(whole), rest));
                exponents(last.as_ptr(), 1, max, mult, chunk[whole..].as_mut_ptr());
                whole += BLOCK;
            }
            let (sum12, sum8) = weights(&chunk[..whole], probs.add(first));
            sums = (sums.0 + sum12, sums.1 + sum8);
        }
    }
    sums
}

/// Returns the sums of x and of x^2.
///
/// # Safety
/// The CPU has NEON.
unsafe fn sums(x: &[i16]) -> (i32, i64) {
    let (mut sum, mut squares) = ([0i32; 4], [0i64; 2]);
    let (whole, rest) = x.split_at(x.len() / 8 * 8);
    if !whole.is_empty() {
        // SAFETY: reads whole parts of 8 values, and writes the sums.
        unsafe {
            neon!(
                "vmov.i32 q14, #0",
                "vmov.i32 q15, #0",
                "2:",
                "vld1.16 {{d0-d1}}, [{x}]!",
                "subs {count}, {count}, #1",
                "vmull.s16 q1, d0, d0",
                "vmull.s16 q2, d1, d1",
                "vpadal.s16 q14, q0",
                "vpadal.s32 q15, q1",
                "vpadal.s32 q15, q2",
                "bne 2b",
                "vst1.32 {{d28-d29}}, [{sum}]",
                "vst1.64 {{d30-d31}}, [{squares}]";
                x = inout(reg) whole.as_ptr() => _,
                count = inout(reg) whole.len() / 8 => _,
                sum = in(reg) sum.as_mut_ptr(),
                squares = in(reg) squares.as_mut_ptr(),
            );
        }
    }
    rest.iter().fold(
        (sum.iter().sum(), squares.iter().sum()),
        |(sum, squares), &x| (sum + i32::from(x), squares + i64::from(x) * i64::from(x)),
    )
}

/// Computes one row of `LayerNorm`.
///
/// # Safety
/// The CPU has NEON; all lengths agree.
pub(super) unsafe fn layer_norm_row(norm: &LayerNorm, x: &[i16], out: &mut [i8]) {
    let d = x.len();
    // SAFETY: the caller promises NEON.
    let (sum, squares) = unsafe { sums(x) };
    let moments = Moments::new(sum, squares, d, norm.epsilon);
    let right = moments.bits.saturating_sub(10);
    let whole = d / 8 * 8;
    if whole > 0 {
        // SAFETY: reads and writes whole parts of 8 values inside slices of d values.
        unsafe {
            neon!(
                "vdup.32 q15, {offset}",
                "vdup.32 q14, {shift}",
                "vdup.16 q13, {frac}",
                "vdup.16 q12, {inv}",
                "vdup.16 d22, {d}",
                "2:",
                "vld1.16 {{d0-d1}}, [{x}]!",
                "vmov q2, q15",
                "vmov q3, q15",
                "vld1.16 {{d16-d17}}, [{gain}]!",
                "vmlal.s16 q2, d0, d22",
                "vmlal.s16 q3, d1, d22",
                "vld1.16 {{d18-d19}}, [{bias}]!",
                "vshl.s32 q2, q2, q14",
                "vshl.s32 q3, q3, q14",
                "vqmovn.s32 d4, q2",
                "vqmovn.s32 d5, q3",
                "vqrdmulh.s16 q2, q2, q12",
                "vqrdmulh.s16 q2, q2, q8",
                "vqadd.s16 q2, q2, q9",
                "vshl.s16 q2, q2, q13",
                "vqmovn.s16 d4, q2",
                "subs {count}, {count}, #1",
                "vst1.8 {{d4}}, [{out}]!",
                "bne 2b";
                // -S and, where c is shifted right, the rounding half.
                offset = in(reg) (1 << right >> 1) - sum,
                shift = in(reg) 10 - moments.bits as i32,
                frac = in(reg) -i32::from(norm.frac),
                inv = in(reg) i32::from(moments.inv),
                d = in(reg) d,
                x = inout(reg) x.as_ptr() => _,
                gain = inout(reg) norm.gain.as_ptr() => _,
                bias = inout(reg) norm.bias.as_ptr() => _,
                out = inout(reg) out.as_mut_ptr() => _,
                count = inout(reg) whole / 8 => _,
            );
        }
    }
    for j in whole..d {
        out[j] = moments.apply(x[j], d, norm.gain[j], norm.bias[j], norm.frac);
    }
}
