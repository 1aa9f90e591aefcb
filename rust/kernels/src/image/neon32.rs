//! Loops of [`super::lanes`] for 32-bit Arm, as assembly (see `crate::neon32`).

use super::colour::YuvMatrix;
use super::lanes::{Loops, BLOCK, LANES, PIXELS};
use super::windows::GROUP;
use crate::neon32::neon;

/// The NEON tier.
pub(crate) struct Neon;

/// Loads 16 bytes of a row, `at` bytes from a pointer in `rows`.
macro_rules! load {
    ($index:literal, $registers:literal) => {
        concat!(
            "ldr {p}, [{rows}, #4 * ",
            $index,
            "]\n",
            "add {p}, {p}, {at}\n",
            "vld1.8 {{",
            $registers,
            "}}, [{p}]\n",
        )
    };
}

/// Loads 16 bytes of eight rows and lays them side by side: d0 to d15 are the columns.
macro_rules! zipped {
    () => {
        concat!(
            load!(0, "d0-d1"),
            load!(1, "d2-d3"),
            load!(2, "d4-d5"),
            load!(3, "d6-d7"),
            load!(4, "d8-d9"),
            load!(5, "d10-d11"),
            load!(6, "d12-d13"),
            load!(7, "d14-d15"),
            "vzip.8 q0, q4\n vzip.8 q1, q5\n vzip.8 q2, q6\n vzip.8 q3, q7\n",
            "vzip.8 q0, q2\n vzip.8 q1, q3\n vzip.8 q4, q6\n vzip.8 q5, q7\n",
            "vzip.8 q0, q1\n vzip.8 q2, q3\n vzip.8 q4, q5\n vzip.8 q6, q7\n",
        )
    };
}

/// Repeats lines for each of the columns d0 to d15.
macro_rules! columns {
    ($line:ident) => {
        concat!(
            $line!(0),
            $line!(1),
            $line!(2),
            $line!(3),
            $line!(4),
            $line!(5),
            $line!(6),
            $line!(7),
            $line!(8),
            $line!(9),
            $line!(10),
            $line!(11),
            $line!(12),
            $line!(13),
            $line!(14),
            $line!(15),
        )
    };
}

/// Writes a column as 32-bit numbers.
macro_rules! widened {
    ($column:literal) => {
        concat!(
            "vmovl.u8 q8, d",
            $column,
            "\n",
            "vmovl.u16 q9, d16\n",
            "vmovl.u16 q10, d17\n",
            "vst1.32 {{d18-d21}}, [{out}]!\n",
        )
    };
}

/// Writes a column to its place.
macro_rules! placed_eight {
    ($column:literal) => {
        concat!(
            "ldr {p}, [{places}], #4\n",
            "veor d",
            $column,
            ", d",
            $column,
            ", d16\n",
            "add {p}, {p}, {out}\n",
            "vst1.8 {{d",
            $column,
            "}}, [{p}]\n",
        )
    };
}

/// Writes the first half of a column to its place.
macro_rules! placed_four {
    ($column:literal) => {
        concat!(
            "ldr {p}, [{places}], #4\n",
            "veor d",
            $column,
            ", d",
            $column,
            ", d16\n",
            "add {p}, {p}, {out}\n",
            "vst1.32 {{d",
            $column,
            "[0]}}, [{p}]\n",
        )
    };
}

/// Loads a vector of eight pixels.
macro_rules! pixels {
    ($registers:literal) => {
        concat!("vld1.32 {{", $registers, "}}, [{pixels}]!\n")
    };
}

/// Adds eight pixels, times the weight in a register, to two vectors of sums.
macro_rules! add {
    ($weight:literal, $p:literal, $q:literal, $a:literal, $b:literal) => {
        concat!(
            "vmla.i32 q",
            $a,
            ", q",
            $p,
            ", ",
            $weight,
            "\n",
            "vmla.i32 q",
            $b,
            ", q",
            $q,
            ", ",
            $weight,
            "\n",
        )
    };
}

/// Adds a pixel of one vector, times the weight in a register, to q8 and q9.
macro_rules! tap_of_one {
    ($weight:literal) => {
        concat!(pixels!("d0-d3"), add!($weight, 0, 1, 8, 9))
    };
}

/// Adds a pixel of three vectors to q8 to q13.
macro_rules! tap_of_three {
    ($weight:literal) => {
        concat!(
            pixels!("d0-d3"),
            pixels!("d4-d7"),
            pixels!("d8-d11"),
            add!($weight, 0, 1, 8, 9),
            add!($weight, 2, 3, 10, 11),
            add!($weight, 4, 5, 12, 13),
        )
    };
}

/// Adds a pixel of four vectors to q8 to q15.
macro_rules! tap_of_four {
    ($weight:literal) => {
        concat!(
            tap_of_three!($weight),
            pixels!("d0-d3"),
            add!($weight, 0, 1, 14, 15),
        )
    };
}

/// Adds pixels times weights, four at a time.
macro_rules! taps {
    ($tap:ident) => {
        concat!(
            "2:\n",
            "vld1.32 {{d12-d13}}, [{weights}]!\n",
            "subs {fours}, {fours}, #1\n",
            $tap!("d12[0]"),
            $tap!("d12[1]"),
            $tap!("d13[0]"),
            $tap!("d13[1]"),
            "bne 2b\n",
        )
    };
}

/// Rounds eight sums with 22 bits after the point to bytes. (Half of the last bit is a whole number
/// of 2^16.)
macro_rules! round {
    ($a:literal, $b:literal, $out:literal) => {
        concat!(
            "vshrn.i32 d4, q",
            $a,
            ", #16\n",
            "vshrn.i32 d5, q",
            $b,
            ", #16\n",
            "vqrshrun.s16 d",
            $out,
            ", q2, #6\n",
        )
    };
}

/// Adds chroma in q2 and q3 to eight values of Y, and rounds to bytes.
macro_rules! channel {
    ($a:literal, $b:literal, $out:literal) => {
        concat!(
            "vadd.i32 q4, q",
            $a,
            ", q2\n",
            "vadd.i32 q5, q",
            $b,
            ", q3\n",
            "vshrn.i32 d8, q4, #16\n",
            "vshrn.i32 d9, q5, #16\n",
            "vqrshrun.s16 d",
            $out,
            ", q4, #4\n",
        )
    };
}

/// Converts 16 pixels, after instructions that load even Y to d0, odd Y to d1, Cb to d2 and Cr to
/// d3.
macro_rules! convert {
    ($matrix:ident, $out:ident, $($load:literal),+ ; $($operands:tt)*) => {
        let factors = [
            $matrix.luma,
            $matrix.cr_red,
            $matrix.cb_green,
            $matrix.cr_green,
            $matrix.cb_blue,
            0,
        ];
        neon!(
            $($load,)+
            "vld1.32 {{d12-d14}}, [{factors}]",
            "vmov.i8 q2, #16",
            "vqsub.u8 q0, q0, q2",
            "vmov.i8 d4, #128",
            "vsubl.u8 q8, d2, d4",
            "vsubl.u8 q9, d3, d4",
            "vmovl.u8 q1, d0",
            "vmovl.u8 q2, d1",
            "vmovl.u16 q10, d2",
            "vmovl.u16 q11, d3",
            "vmovl.u16 q12, d4",
            "vmovl.u16 q13, d5",
            "vmul.i32 q10, q10, d12[0]",
            "vmul.i32 q11, q11, d12[0]",
            "vmul.i32 q12, q12, d12[0]",
            "vmul.i32 q13, q13, d12[0]",
            // Cb, then Cr.
            "vmovl.s16 q14, d16",
            "vmovl.s16 q15, d17",
            "vmovl.s16 q0, d18",
            "vmovl.s16 q1, d19",
            "vmul.i32 q2, q0, d12[1]",
            "vmul.i32 q3, q1, d12[1]",
            channel!(10, 11, 16),
            channel!(12, 13, 17),
            "vmul.i32 q2, q14, d13[0]",
            "vmul.i32 q3, q15, d13[0]",
            "vmla.i32 q2, q0, d13[1]",
            "vmla.i32 q3, q1, d13[1]",
            channel!(10, 11, 18),
            channel!(12, 13, 19),
            "vmul.i32 q2, q14, d14[0]",
            "vmul.i32 q3, q15, d14[0]",
            channel!(10, 11, 20),
            channel!(12, 13, 21),
            "vzip.8 d16, d17",
            "vzip.8 d18, d19",
            "vzip.8 d20, d21",
            "vst3.8 {{d16, d18, d20}}, [{out}]!",
            "vst3.8 {{d17, d19, d21}}, [{out}]";
            factors = in(reg) factors.as_ptr(),
            out = inout(reg) $out.as_mut_ptr() => _,
            $($operands)*
        );
    };
}

// SAFETY: each function does what the trait's comment says; `tests/image.rs` compares the tier with
// the scalar one.
unsafe impl Loops for Neon {
    unsafe fn widen(rows: &[*const u8; LANES], blocks: usize, out: *mut [i32; LANES]) {
        if blocks == 0 {
            return;
        }
        // SAFETY: reads and writes what the caller promises.
        unsafe {
            neon!(
                "2:",
                zipped!(),
                columns!(widened),
                "add {at}, {at}, #16",
                "subs {blocks}, {blocks}, #1",
                "bne 2b";
                p = out(reg) _,
                rows = in(reg) rows.as_ptr(),
                at = inout(reg) 0 => _,
                blocks = inout(reg) blocks => _,
                out = inout(reg) out => _,
            );
        }
    }

    unsafe fn widen_rows(source: *const u8, stride: usize, rows: usize, out: *mut [i32; LANES]) {
        if rows == 0 {
            return;
        }
        // SAFETY: reads and writes what the caller promises.
        unsafe {
            neon!(
                "2:",
                "vld1.8 {{d0-d3}}, [{source}], {stride}",
                "subs {rows}, {rows}, #1",
                widened!(0),
                widened!(1),
                widened!(2),
                widened!(3),
                "bne 2b";
                source = inout(reg) source => _,
                stride = in(reg) stride,
                rows = inout(reg) rows => _,
                out = inout(reg) out => _,
            );
        }
    }

    unsafe fn sum<const C: usize>(
        pixels: *const [i32; LANES],
        weights: &[[i32; GROUP]],
        out: *mut [u8; LANES],
    ) {
        macro_rules! sum {
            ($($line:expr),+ $(,)?) => {
                neon!(
                    $($line),+;
                    weights = inout(reg) weights.as_ptr() => _,
                    fours = inout(reg) weights.len() => _,
                    pixels = inout(reg) pixels => _,
                    out = in(reg) out,
                )
            };
        }
        // SAFETY: reads and writes what the caller promises.
        unsafe {
            match C {
                4 => sum!(
                    "vmov.i32 q8, #0\n vmov.i32 q9, #0\n vmov.i32 q10, #0\n vmov.i32 q11, #0",
                    "vmov.i32 q12, #0\n vmov.i32 q13, #0\n vmov.i32 q14, #0\n vmov.i32 q15, #0",
                    taps!(tap_of_four),
                    round!(8, 9, 0),
                    round!(10, 11, 1),
                    round!(12, 13, 2),
                    round!(14, 15, 3),
                    "vst1.8 {{d0-d3}}, [{out}]"
                ),
                3 => sum!(
                    "vmov.i32 q8, #0\n vmov.i32 q9, #0\n vmov.i32 q10, #0",
                    "vmov.i32 q11, #0\n vmov.i32 q12, #0\n vmov.i32 q13, #0",
                    taps!(tap_of_three),
                    round!(8, 9, 0),
                    round!(10, 11, 1),
                    round!(12, 13, 2),
                    "vst1.8 {{d0-d2}}, [{out}]"
                ),
                _ => sum!(
                    "vmov.i32 q8, #0\n vmov.i32 q9, #0",
                    taps!(tap_of_one),
                    round!(8, 9, 0),
                    "vst1.8 {{d0}}, [{out}]"
                ),
            }
        }
    }

    unsafe fn split(columns: &[[u8; LANES]; BLOCK], out: *mut u8, stride: usize) {
        // SAFETY: reads 128 bytes, and writes what the caller promises.
        unsafe {
            neon!(
                "vld1.8 {{d0-d3}}, [{columns}]!",
                "vld1.8 {{d4-d7}}, [{columns}]!",
                "vld1.8 {{d8-d11}}, [{columns}]!",
                "vld1.8 {{d12-d15}}, [{columns}]",
                "vuzp.8 q0, q1\n vuzp.8 q2, q3\n vuzp.8 q4, q5\n vuzp.8 q6, q7",
                "vuzp.8 q0, q2\n vuzp.8 q1, q3\n vuzp.8 q4, q6\n vuzp.8 q5, q7",
                "vuzp.8 q0, q4\n vuzp.8 q1, q5\n vuzp.8 q2, q6\n vuzp.8 q3, q7",
                "vst1.8 {{d0-d1}}, [{out}], {stride}\n vst1.8 {{d2-d3}}, [{out}], {stride}",
                "vst1.8 {{d4-d5}}, [{out}], {stride}\n vst1.8 {{d6-d7}}, [{out}], {stride}",
                "vst1.8 {{d8-d9}}, [{out}], {stride}\n vst1.8 {{d10-d11}}, [{out}], {stride}",
                "vst1.8 {{d12-d13}}, [{out}], {stride}\n vst1.8 {{d14-d15}}, [{out}]";
                columns = inout(reg) columns.as_ptr() => _,
                out = inout(reg) out => _,
                stride = in(reg) stride,
            );
        }
    }

    unsafe fn lay<const N: usize>(
        rows: &[*const u8; LANES],
        flip: u8,
        places: &[usize; BLOCK],
        out: *mut u8,
    ) {
        // SAFETY: reads and writes what the caller promises.
        unsafe {
            if N == LANES {
                neon!(
                    zipped!(),
                    "vdup.8 d16, {flip}",
                    columns!(placed_eight);
                    p = out(reg) _,
                    rows = in(reg) rows.as_ptr(),
                    at = in(reg) 0,
                    flip = in(reg) u32::from(flip),
                    places = inout(reg) places.as_ptr() => _,
                    out = in(reg) out,
                );
            } else {
                neon!(
                    zipped!(),
                    "vdup.8 d16, {flip}",
                    columns!(placed_four);
                    p = out(reg) _,
                    rows = in(reg) rows.as_ptr(),
                    at = in(reg) 0,
                    flip = in(reg) u32::from(flip),
                    places = inout(reg) places.as_ptr() => _,
                    out = in(reg) out,
                );
            }
        }
    }

    unsafe fn nv12(
        matrix: &YuvMatrix,
        luma: &[u8; PIXELS],
        chroma: &[u8; PIXELS],
        out: &mut [u8; 3 * PIXELS],
    ) {
        // SAFETY: reads and writes the arrays.
        unsafe {
            convert!(
                matrix, out,
                "vld2.8 {{d0, d1}}, [{luma}]",
                "vld2.8 {{d2, d3}}, [{chroma}]";
                luma = in(reg) luma.as_ptr(),
                chroma = in(reg) chroma.as_ptr(),
            );
        }
    }

    unsafe fn yuyv(matrix: &YuvMatrix, pixels: &[u8; 2 * PIXELS], out: &mut [u8; 3 * PIXELS]) {
        // SAFETY: reads and writes the arrays.
        unsafe {
            convert!(
                matrix, out,
                // Y, Cb, Y, Cr.
                "vld4.8 {{d0, d1, d2, d3}}, [{pixels}]",
                "vswp d1, d2";
                pixels = in(reg) pixels.as_ptr(),
            );
        }
    }
}
