//! Tiles. Sums run along k, in the lanes of a vector; the lanes are added at the end.
//!
//! A block of assembly computes two input rows of a tile, four rows of weights at a time. Eight
//! vectors of sums, the codes and two rows of weights leave four vectors for products, so
//! instructions that depend on each other stand four apart.

use super::neon;
use crate::tiled::Product;

/// Rows of weights that are multiplied at once.
pub(super) const LANES: usize = 4;

/// Adds the lanes of q8 to q11 into d0 and d1, and those of q12 to q15 into d2 and d3.
macro_rules! across {
    (q8) => {
        "vpadd.i32 d0, d16, d17
        vpadd.i32 d4, d18, d19
        vpadd.i32 d1, d20, d21
        vpadd.i32 d5, d22, d23
        vpadd.i32 d0, d0, d4
        vpadd.i32 d1, d1, d5"
    };
    (q12) => {
        "vpadd.i32 d2, d24, d25
        vpadd.i32 d6, d26, d27
        vpadd.i32 d3, d28, d29
        vpadd.i32 d7, d30, d31
        vpadd.i32 d2, d2, d6
        vpadd.i32 d3, d3, d7"
    };
}

/// Adds the products in q4 to q7 to four vectors of sums.
macro_rules! accumulate {
    ($a:literal $b:literal $c:literal $d:literal) => {
        concat!(
            "vpadal.s16 ",
            $a,
            ", q4\n",
            "vpadal.s16 ",
            $b,
            ", q5\n",
            "vpadal.s16 ",
            $c,
            ", q6\n",
            "vpadal.s16 ",
            $d,
            ", q7\n",
        )
    };
}

/// Multiplies two weight rows, in q2 and q3, by two input rows, in q0 and q1, and adds to four
/// vectors of sums. No weight is -128, so two products fit 16 bits (2 * 127 * 128 < 2^15).
macro_rules! multiply_symmetric {
    ($($acc:literal)*) => {
        concat!(
            "vmull.s8 q4, d4, d0
            vmull.s8 q5, d6, d0
            vmull.s8 q6, d4, d2
            vmull.s8 q7, d6, d2
            vmlal.s8 q4, d5, d1
            vmlal.s8 q5, d7, d1
            vmlal.s8 q6, d5, d3
            vmlal.s8 q7, d7, d3
            ",
            accumulate!($($acc)*)
        )
    };
}

/// Multiplies as `multiply_symmetric` does, for any weights.
macro_rules! multiply_any {
    ($($acc:literal)*) => {
        concat!(
            "vmull.s8 q4, d4, d0
            vmull.s8 q5, d6, d0
            vmull.s8 q6, d4, d2
            vmull.s8 q7, d6, d2
            ",
            accumulate!($($acc)*),
            "vmull.s8 q4, d5, d1
            vmull.s8 q5, d7, d1
            vmull.s8 q6, d5, d3
            vmull.s8 q7, d7, d3
            ",
            accumulate!($($acc)*)
        )
    };
}

/// Multiplies 16 k of two input rows by four rows of weights, two after two.
macro_rules! group_8_bit {
    ($multiply:ident) => {
        concat!(
            "vld1.8 {{d4-d7}}, [{w}:128]!
            vld1.8 {{d0-d1}}, [{a0}]!
            vld1.8 {{d2-d3}}, [{a1}]!
            ",
            $multiply!("q8" "q9" "q12" "q13"),
            "vld1.8 {{d4-d7}}, [{w}:128], {step}\n",
            $multiply!("q10" "q11" "q14" "q15"),
        )
    };
}

/// Multiplies 16 k of two input rows by four rows of 4-bit weights, and adds in 16 bits.
macro_rules! group_4_bit {
    () => {
        "vld1.8 {{d4-d7}}, [{w}:128]!
        vld1.8 {{d0-d1}}, [{a0}]!
        vld1.8 {{d2-d3}}, [{a1}]!
        vld1.8 {{d8-d11}}, [{w}:128], {step}
        vmlal.s8 q8, d4, d0
        vmlal.s8 q9, d6, d0
        vmlal.s8 q12, d4, d2
        vmlal.s8 q13, d6, d2
        vmlal.s8 q10, d8, d0
        vmlal.s8 q11, d10, d0
        vmlal.s8 q14, d8, d2
        vmlal.s8 q15, d10, d2
        vmlal.s8 q8, d5, d1
        vmlal.s8 q9, d7, d1
        vmlal.s8 q12, d5, d3
        vmlal.s8 q13, d7, d3
        vmlal.s8 q10, d9, d1
        vmlal.s8 q11, d11, d1
        vmlal.s8 q14, d9, d3
        vmlal.s8 q15, d11, d3"
    };
}

/// Widens the eight vectors of 16-bit sums.
macro_rules! widen {
    () => {
        "vpaddl.s16 q8, q8
        vpaddl.s16 q9, q9
        vpaddl.s16 q10, q10
        vpaddl.s16 q11, q11
        vpaddl.s16 q12, q12
        vpaddl.s16 q13, q13
        vpaddl.s16 q14, q14
        vpaddl.s16 q15, q15"
    };
}

/// Adds to the four biases.
macro_rules! from_bias {
    () => {
        "vld1.32 {{d8-d9}}, [{bias}]!
        vmov q5, q4"
    };
}

/// Adds to the sums of the run before.
macro_rules! from_sums {
    () => {
        "vld1.32 {{d8-d9}}, [{out0}] // not {bias}
        vld1.32 {{d10-d11}}, [{out1}]"
    };
}

/// The operands of two rows of a tile.
#[derive(Clone, Copy)]
struct TwoRows {
    a: [*const i8; 2],
    /// The first of `width` rows of weights.
    w: *const i8,
    /// A positive multiple of [`LANES`].
    width: usize,
    /// A positive multiple of 16.
    k: usize,
    bias: *const i32,
    out: [*mut i32; 2],
}

/// Computes two rows of sums: `$group` multiplies and adds to q8 to q15, `$widen` makes 32-bit sums
/// of these, `$from` loads what they are added to.
macro_rules! compute {
    ($p:expr, $group:expr, $widen:expr, $from:expr) => {
        neon!(
            "3:",
            "vmov.i32 q8, #0",
            "vmov.i32 q9, #0",
            "vmov.i32 q10, #0",
            "vmov.i32 q11, #0",
            "vmov.i32 q12, #0",
            "vmov.i32 q13, #0",
            "vmov.i32 q14, #0",
            "vmov.i32 q15, #0",
            "2:",
            $group,
            "cmp {a0}, {end}",
            "bne 2b",
            $widen,
            "sub {a0}, {a0}, {k}",
            "sub {a1}, {a1}, {k}",
            "sub {w}, {w}, {back}",
            across!(q8),
            across!(q12),
            $from,
            "subs {width}, {width}, #4",
            "vadd.i32 q0, q0, q4",
            "vadd.i32 q1, q1, q5",
            "vst1.32 {{d0-d1}}, [{out0}]!",
            "vst1.32 {{d2-d3}}, [{out1}]!",
            "bne 3b";
            a0 = inout(reg) $p.a[0] => _,
            a1 = inout(reg) $p.a[1] => _,
            end = in(reg) $p.a[0].add($p.k),
            k = in(reg) $p.k,
            w = inout(reg) $p.w => _,
            // From a group's second pair of rows to the next group.
            step = in(reg) 16 * $p.width - 32,
            // From the end of four rows to the next four.
            back = in(reg) $p.width * $p.k - 64,
            width = inout(reg) $p.width => _,
            bias = inout(reg) $p.bias => _,
            out0 = inout(reg) $p.out[0] => _,
            out1 = inout(reg) $p.out[1] => _,
        )
    };
}

/// Returns the operands of rows `m` and `m + 1`. The last of an odd number of rows is computed
/// twice.
///
/// # Safety
/// As `Tiles::tile`.
unsafe fn two_rows(p: &Product<i8, i8>, m: usize, out: *mut i32, out_stride: usize) -> TwoRows {
    let rows = [m, (m + 1).min(p.rows - 1)];
    // SAFETY: the caller promises that many rows.
    unsafe {
        TwoRows {
            a: rows.map(|m| p.a.add(m * p.stride)),
            w: p.w,
            width: p.width,
            k: p.k,
            bias: p.bias,
            out: rows.map(|m| out.add(m * out_stride)),
        }
    }
}

/// Computes `Tiles::tile`; `SYMMETRIC`: no weight is -128.
///
/// # Safety
/// As there.
pub(super) unsafe fn tile<const SYMMETRIC: bool>(
    p: Product<i8, i8>,
    out: *mut i32,
    out_stride: usize,
) {
    for m in (0..p.rows).step_by(2) {
        // SAFETY: the caller promises rows of k codes, `width` rows of k weights in a panel's
        // order, as many biases and rows of out. Panels are aligned to 64 bytes.
        unsafe {
            let p = two_rows(&p, m, out, out_stride);
            if SYMMETRIC {
                compute!(p, group_8_bit!(multiply_symmetric), "", from_bias!());
            } else {
                compute!(p, group_8_bit!(multiply_any), "", from_bias!());
            }
        }
    }
}

/// Computes `FourBitForm::tile`: in 16 bits in registers for a run of k, then added to 32 bits in
/// memory.
///
/// # Safety
/// As there.
pub(super) unsafe fn tile_4_bit(p: Product<u8, i8>, run: usize, out: *mut i32, out_stride: usize) {
    let p = p.signed();
    for m in (0..p.rows).step_by(2) {
        // SAFETY: as in tile; a run's sums are written before the next run.
        unsafe {
            let whole = two_rows(&p, m, out, out_stride);
            let part = |start: usize| TwoRows {
                a: whole.a.map(|a| a.add(start)),
                w: whole.w.add(start * p.width),
                k: run.min(p.k - start),
                ..whole
            };
            let first = part(0);
            compute!(first, group_4_bit!(), widen!(), from_bias!());
            for start in (run..p.k).step_by(run) {
                let part = part(start);
                compute!(part, group_4_bit!(), widen!(), from_sums!());
            }
        }
    }
}

/// Computes `Tiles::probe`.
///
/// # Safety
/// The CPU has NEON.
pub(super) unsafe fn probe(iterations: u32) -> (u64, i32) {
    let mut sums = [0i32; 4];
    // SAFETY: writes four sums.
    unsafe {
        neon!(
            "vmov.i8 q0, #3",
            "vmov.i8 q2, #5",
            "vmov.i8 q3, #5",
            "vmov.i8 q1, #3",
            "vmov.i32 q8, #0",
            "vmov.i32 q9, #0",
            "vmov.i32 q10, #0",
            "vmov.i32 q11, #0",
            "vmov.i32 q12, #0",
            "vmov.i32 q13, #0",
            "vmov.i32 q14, #0",
            "vmov.i32 q15, #0",
            "2:",
            multiply_symmetric!("q8" "q9" "q12" "q13"),
            multiply_symmetric!("q10" "q11" "q14" "q15"),
            "subs {n}, {n}, #1",
            "bne 2b",
            "vst1.32 {{d16-d17}}, [{sums}]";
            n = inout(reg) iterations => _,
            sums = in(reg) sums.as_mut_ptr(),
        );
    }
    (u64::from(iterations) * 8 * 16, sums[0])
}

/// Computes `FourBitForm::probe`.
///
/// # Safety
/// The CPU has NEON.
pub(super) unsafe fn probe_4_bit(iterations: u32) -> (u64, i32) {
    let mut sums = [0i32; 4];
    // SAFETY: writes four sums.
    unsafe {
        neon!(
            "vmov.i8 q0, #3",
            "vmov.i8 q2, #5",
            "vmov.i32 q8, #0",
            "vmov.i32 q9, #0",
            "vmov.i32 q10, #0",
            "vmov.i32 q11, #0",
            "vmov.i32 q12, #0",
            "vmov.i32 q13, #0",
            "vmov.i32 q14, #0",
            "vmov.i32 q15, #0",
            "2:",
            "vmlal.s8 q8, d4, d0",
            "vmlal.s8 q9, d4, d0",
            "vmlal.s8 q10, d4, d0",
            "vmlal.s8 q11, d4, d0",
            "vmlal.s8 q12, d5, d1",
            "vmlal.s8 q13, d5, d1",
            "vmlal.s8 q14, d5, d1",
            "vmlal.s8 q15, d5, d1",
            "subs {n}, {n}, #1",
            "bne 2b",
            "vst1.32 {{d16-d17}}, [{sums}]";
            n = inout(reg) iterations => _,
            sums = in(reg) sums.as_mut_ptr(),
        );
    }
    (u64::from(iterations) * 8 * 8, sums[0])
}
