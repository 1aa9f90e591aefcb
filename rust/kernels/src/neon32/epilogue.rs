//! Epilogues: rows of 16 accumulators to codes or updates of the residual, and the outputs of
//! attention.
//!
//! Rows are computed whole, as 16 outputs. Where there are fewer they pass through a buffer.

use super::rows::{layer_norm_row, softmax_row};
use super::{neon, Neon32};
use crate::layers::WINDOW;
use crate::matrix::{on_whole_row, Out};
use crate::tiled::{
    copy_accumulators, row_by_row, Epilogue, Layout, Requant, RowKernels, RowScale, RowSums,
    Staged, UnfinishedTile,
};
use crate::{LayerNorm, MatrixView, MatrixViewMut};

const PANEL: usize = Neon32::PANEL;
const ROWS: usize = Neon32::ROWS;

/// Loads the parameters of 16 columns: left shifts less right shifts to q8 to q11, M to q12 and
/// q13.
macro_rules! load_parameters {
    () => {
        "vld1.32 {{d16-d19}}, [{left}]!
        vld1.32 {{d20-d23}}, [{left}]
        vld1.32 {{d0-d3}}, [{right}]!
        vld1.32 {{d4-d7}}, [{right}]
        vld1.16 {{d24-d27}}, [{mult}]
        vsub.i32 q8, q8, q0
        vsub.i32 q9, q9, q1
        vsub.i32 q10, q10, q2
        vsub.i32 q11, q11, q3"
    };
}

/// Requantizes 16 accumulators, which hold the rounding half, to updates in q0 and q1.
macro_rules! requantize {
    () => {
        "vld1.32 {{d0-d3}}, [{acc}]!
        vld1.32 {{d4-d7}}, [{acc}]!
        vshl.s32 q0, q0, q8
        vshl.s32 q1, q1, q9
        vshl.s32 q2, q2, q10
        vshl.s32 q3, q3, q11
        vqmovn.s32 d0, q0
        vqmovn.s32 d1, q1
        vqmovn.s32 d2, q2
        vqmovn.s32 d3, q3
        vqrdmulh.s16 q0, q0, q12
        vqrdmulh.s16 q1, q1, q13"
    };
}

/// Requantizes `rows` rows of 16 accumulators to codes; `offset` is `64 * zero_point + 32`.
///
/// # Safety
/// The CPU has NEON. There are as many accumulators, [`PANEL`] parameters, and `rows` rows of 16
/// codes, `stride` apart. `rows` is not 0.
unsafe fn requant8(
    acc: *const i32,
    requant: &Requant,
    offset: i16,
    rows: usize,
    out: *mut i8,
    stride: usize,
) {
    // SAFETY: reads and writes what the caller promises.
    unsafe {
        neon!(
            load_parameters!(),
            "vdup.16 q14, {offset}",
            "2:",
            requantize!(),
            "vqadd.s16 q0, q0, q14",
            "vqadd.s16 q1, q1, q14",
            "vqshrn.s16 d0, q0, #6",
            "vqshrn.s16 d1, q1, #6",
            "subs {rows}, {rows}, #1",
            "vst1.8 {{d0-d1}}, [{out}], {stride}",
            "bne 2b";
            left = inout(reg) requant.left => _,
            right = inout(reg) requant.right => _,
            mult = in(reg) requant.mult,
            offset = in(reg) i32::from(offset),
            acc = inout(reg) acc => _,
            out = inout(reg) out => _,
            stride = in(reg) stride,
            rows = inout(reg) rows => _,
        );
    }
}

/// Requantizes `rows` rows of 16 accumulators to updates of the residual, and stores them.
///
/// # Safety
/// As [`requant8`], with rows of 16 updates.
unsafe fn updates(acc: *const i32, requant: &Requant, rows: usize, out: *mut i16, stride: usize) {
    // SAFETY: reads and writes what the caller promises.
    unsafe {
        neon!(
            load_parameters!(),
            "2:",
            requantize!(),
            "subs {rows}, {rows}, #1",
            "vst1.16 {{d0-d3}}, [{out}], {stride}",
            "bne 2b";
            left = inout(reg) requant.left => _,
            right = inout(reg) requant.right => _,
            mult = in(reg) requant.mult,
            acc = inout(reg) acc => _,
            out = inout(reg) out => _,
            stride = in(reg) 2 * stride,
            rows = inout(reg) rows => _,
        );
    }
}

/// Requantizes `rows` rows of 16 accumulators to updates, and adds them to the residual.
///
/// # Safety
/// As [`requant8`], with rows of 16 values of the residual.
unsafe fn add_updates(acc: *const i32, requant: &Requant, rows: usize, x: *mut i16, stride: usize) {
    // SAFETY: reads and writes what the caller promises.
    unsafe {
        neon!(
            load_parameters!(),
            "vdup.16 q14, {min}",
            "2:",
            requantize!(),
            "vld1.16 {{d4-d7}}, [{x}]",
            "vqadd.s16 q0, q0, q2",
            "vqadd.s16 q1, q1, q3",
            "vmax.s16 q0, q0, q14",
            "vmax.s16 q1, q1, q14",
            "subs {rows}, {rows}, #1",
            "vst1.16 {{d0-d3}}, [{x}], {stride}",
            "bne 2b";
            left = inout(reg) requant.left => _,
            right = inout(reg) requant.right => _,
            mult = in(reg) requant.mult,
            min = in(reg) -i32::from(i16::MAX),
            acc = inout(reg) acc => _,
            x = inout(reg) x => _,
            stride = in(reg) 2 * stride,
            rows = inout(reg) rows => _,
        );
    }
}

/// Runs `whole` on the rows of `out` if they have 16 columns, otherwise on a copy of them. It gets
/// the first row and the stride.
///
/// # Safety
/// The rows of `out` are live and nothing else refers to them; there are at most [`ROWS`].
unsafe fn whole_rows<T: Copy + Default>(out: Out<T>, whole: impl FnOnce(*mut T, usize)) {
    if out.cols == PANEL {
        whole(out.ptr, out.stride);
        return;
    }
    let mut copy = [[T::default(); PANEL]; ROWS];
    // SAFETY: the caller's promise.
    unsafe {
        for (i, copy) in copy[..out.rows].iter_mut().enumerate() {
            copy[..out.cols].copy_from_slice(out.row(i));
        }
        whole(copy.as_mut_ptr().cast(), PANEL);
        for (i, copy) in copy[..out.rows].iter().enumerate() {
            out.row(i).copy_from_slice(&copy[..out.cols]);
        }
    }
}

/// Looks each code up in the table, in place. (A look-up in registers, 32 entries at a time, would
/// take eight passes.)
///
/// # Safety
/// Every row of `out` is live and nothing else refers to it.
unsafe fn lookup(table: &[i8; 256], out: Out<i8>) {
    let middle = table[128..].as_ptr();
    // SAFETY: a code is in [-128, 127], and 128 entries come before the middle one.
    let entry = |y: i8| unsafe { *middle.offset(y.into()) };
    for i in 0..out.rows {
        // SAFETY: the caller's promise.
        let mut parts = unsafe { out.row(i) }.chunks_exact_mut(PANEL);
        for part in &mut parts {
            let part: &mut [i8; PANEL] = part.try_into().expect("a whole part");
            for y in part {
                *y = entry(*y);
            }
        }
        for y in parts.into_remainder() {
            *y = entry(*y);
        }
    }
}

/// Computes 16 outputs of one query row.
///
/// # Safety
/// The CPU has NEON; there are 16 accumulators, means and codes.
unsafe fn row_output(acc: *const i32, means: *const i32, scale: &RowScale, out: *mut i8) {
    // SAFETY: reads and writes what the caller promises.
    unsafe {
        neon!(
            "vdup.32 q14, {residue}",
            "vdup.32 q15, {shift}",
            "vdup.16 q13, {mult}",
            "vmov.i16 q12, #32",
            "vld1.32 {{d0-d3}}, [{acc}]!",
            "vld1.32 {{d4-d7}}, [{acc}]",
            "vld1.32 {{d16-d19}}, [{means}]!",
            "vld1.32 {{d20-d23}}, [{means}]",
            "vmul.i32 q8, q8, q14",
            "vmul.i32 q9, q9, q14",
            "vmul.i32 q10, q10, q14",
            "vmul.i32 q11, q11, q14",
            "vshl.i32 q0, q0, #4",
            "vshl.i32 q1, q1, #4",
            "vshl.i32 q2, q2, #4",
            "vshl.i32 q3, q3, #4",
            "vrsra.s32 q0, q8, #4",
            "vrsra.s32 q1, q9, #4",
            "vrsra.s32 q2, q10, #4",
            "vrsra.s32 q3, q11, #4",
            "vrshl.s32 q0, q0, q15",
            "vrshl.s32 q1, q1, q15",
            "vrshl.s32 q2, q2, q15",
            "vrshl.s32 q3, q3, q15",
            "vqmovn.s32 d0, q0",
            "vqmovn.s32 d1, q1",
            "vqmovn.s32 d2, q2",
            "vqmovn.s32 d3, q3",
            "vqrdmulh.s16 q0, q0, q13",
            "vqrdmulh.s16 q1, q1, q13",
            "vqadd.s16 q0, q0, q12",
            "vqadd.s16 q1, q1, q12",
            "vqshrn.s16 d0, q0, #6",
            "vqshrn.s16 d1, q1, #6",
            "vst1.8 {{d0-d1}}, [{out}]";
            residue = in(reg) scale.rounding_residue,
            shift = in(reg) -(scale.shift as i32),
            mult = in(reg) i32::from(scale.mult),
            acc = inout(reg) acc => _,
            means = inout(reg) means => _,
            out = in(reg) out,
        );
    }
}

// SAFETY: each function does what the trait's comment says, for any sizes within the trait's
// bounds; `tests/tiers.rs` compares them with the scalar tier.
unsafe impl RowKernels for Neon32 {
    row_by_row!(softmax_row, layer_norm_row);

    #[inline]
    unsafe fn finish(tile: &UnfinishedTile) {
        let (acc, requant) = (tile.acc, &tile.requant);
        // SAFETY: the caller's promise; a tile has 1 to ROWS rows.
        unsafe {
            match tile.epilogue {
                Epilogue::Codes { offset, table, out } => {
                    whole_rows(out, |to, stride| {
                        requant8(acc, requant, offset, out.rows, to, stride);
                    });
                    if let Some(table) = table {
                        lookup(table, out);
                    }
                }
                Epilogue::Add { x } => whole_rows(x, |to, stride| {
                    add_updates(acc, requant, x.rows, to, stride);
                }),
                Epilogue::Updates { out } => whole_rows(out, |to, stride| {
                    updates(acc, requant, out.rows, to, stride);
                }),
                Epilogue::Copy { out } => copy_accumulators(acc, PANEL, out),
            }
        }
    }

    unsafe fn reorder_codes(staged: Staged, out: Out<i8>) {
        for i in 0..out.rows {
            // SAFETY: the caller promises WINDOW values in each row of staged, as many places, and
            // the rows of out.
            let (values, row) = unsafe { (staged.values.add(i * Self::STAGED), out.row(i)) };
            // SAFETY: as above; a whole row has WINDOW codes.
            on_whole_row::<_, WINDOW>(row, |to| unsafe {
                neon!(
                    "vld1.8 {{d0-d3}}, [{values}]!",
                    "vld1.8 {{d4-d7}}, [{values}]",
                    "vmov.i8 q15, #32",
                    "mov {n}, #4",
                    "2:",
                    "vld1.8 {{d16-d17}}, [{order}]!",
                    "subs {n}, {n}, #1",
                    // An index past its 32 entries keeps the value from the first half.
                    "vsub.i8 q9, q8, q15",
                    "vtbl.8 d20, {{d0-d3}}, d16",
                    "vtbl.8 d21, {{d0-d3}}, d17",
                    "vtbx.8 d20, {{d4-d7}}, d18",
                    "vtbx.8 d21, {{d4-d7}}, d19",
                    "vst1.8 {{d20-d21}}, [{to}]!",
                    "bne 2b";
                    values = inout(reg) values => _,
                    order = inout(reg) staged.order => _,
                    to = inout(reg) to => _,
                    n = out(reg) _,
                );
            });
        }
    }

    unsafe fn reorder_updates(staged: Staged, x: Out<i16>) {
        for i in 0..x.rows {
            // SAFETY: as in reorder_codes.
            let (values, row) = unsafe { (staged.values.add(2 * i * Self::STAGED), x.row(i)) };
            // SAFETY: as in reorder_codes.
            on_whole_row::<_, WINDOW>(row, |to| unsafe {
                neon!(
                    // The low bytes of 64 updates to q0 to q3, the high bytes to q4 to q7.
                    "vld2.8 {{d0-d3}}, [{values}]!",
                    "vld2.8 {{d16-d19}}, [{values}]!",
                    "vld2.8 {{d4-d7}}, [{values}]!",
                    "vld2.8 {{d20-d23}}, [{values}]",
                    "vmov q4, q1",
                    "vmov q1, q8",
                    "vmov q5, q9",
                    "vmov q6, q3",
                    "vmov q7, q11",
                    "vmov q3, q10",
                    "vmov.i8 q15, #32",
                    "vdup.16 q14, {min}",
                    "mov {n}, #8",
                    "2:",
                    "vld1.8 {{d16}}, [{order}]!",
                    "vld1.16 {{d24-d25}}, [{to}]",
                    "subs {n}, {n}, #1",
                    // An index past its 32 entries keeps the value from the first half.
                    "vsub.i8 d17, d16, d30",
                    "vtbl.8 d20, {{d0-d3}}, d16",
                    "vtbl.8 d21, {{d8-d11}}, d16",
                    "vtbx.8 d20, {{d4-d7}}, d17",
                    "vtbx.8 d21, {{d12-d15}}, d17",
                    "vzip.8 d20, d21",
                    "vqadd.s16 q10, q10, q12",
                    "vmax.s16 q10, q10, q14",
                    "vst1.16 {{d20-d21}}, [{to}]!",
                    "bne 2b";
                    values = inout(reg) values => _,
                    order = inout(reg) staged.order => _,
                    to = inout(reg) to => _,
                    min = in(reg) -i32::from(i16::MAX),
                    n = out(reg) _,
                );
            });
        }
    }

    unsafe fn attention_output(
        acc: *const i32,
        means: *const i32,
        scales: &[RowScale],
        out: Out<i8>,
    ) {
        let mut whole = [0; PANEL];
        for (i, scale) in scales.iter().enumerate() {
            // SAFETY: the caller promises PANEL means, and a scale and PANEL accumulators for each
            // row of out, which is live and ours; the buffer has PANEL codes.
            unsafe {
                let (acc, row) = (acc.add(i * PANEL), out.row(i));
                if row.len() == PANEL {
                    row_output(acc, means, scale, row.as_mut_ptr());
                } else {
                    row_output(acc, means, scale, whole.as_mut_ptr());
                    row.copy_from_slice(&whole[..row.len()]);
                }
            }
        }
    }
}
