//! Tiles of `vpdpbusd`.

use std::arch::x86_64::*;

use super::super::{bases, read4};
use super::{store8, update, Codes, Table};
use crate::tiled::{Out, Product, Requant};

/// Input rows of a tile.
pub(super) const ROWS: usize = 6;

/// M x (16 * V) accumulators in registers.
///
/// # Safety
/// As [`crate::tiled::Isa::tile`], for M rows and 16 * V columns.
#[allow(clippy::inline_always)] // so that the accumulators stay in registers
#[inline(always)]
unsafe fn sums<const M: usize, const V: usize>(p: Product<u8, i8>) -> [[__m512i; V]; M] {
    let Product {
        a,
        stride,
        w,
        k,
        bias,
        ..
    } = p;
    // SAFETY: the caller promises M rows of k codes, 16 * V rows of k weights and 16 * V biases.
    unsafe {
        let mut acc = [[_mm512_setzero_si512(); V]; M];
        for v in 0..V {
            let bias = _mm512_loadu_si512(bias.add(16 * v).cast());
            for row in &mut acc {
                row[v] = bias;
            }
        }
        let bases = bases(a, stride);
        macro_rules! group {
            ($g:expr) => {
                let g = $g;
                let mut weights = [_mm512_setzero_si512(); V];
                for (v, weights) in weights.iter_mut().enumerate() {
                    *weights = _mm512_loadu_si512(w.add(64 * (g * V + v)).cast());
                }
                for (m, row) in acc.iter_mut().enumerate() {
                    let codes = read4(bases[m / 3].add(m % 3 * stride + 4 * g));
                    let codes = _mm512_set1_epi32(codes);
                    for v in 0..V {
                        row[v] = _mm512_dpbusd_epi32(row[v], codes, weights[v]);
                    }
                }
            };
        }
        // Two at a time: a wide panel comes from the second-level cache, and longer loops hide that better.
        let groups = k / 4;
        for pair in 0..groups / 2 {
            group!(2 * pair);
            group!(2 * pair + 1);
        }
        if groups % 2 == 1 {
            group!(groups - 1);
        }
        acc
    }
}

/// # Safety
/// As [`crate::tiled::Isa::tile`], for M rows and 16 * V columns.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn tile<const M: usize, const V: usize>(
    p: Product<u8, i8>,
    out: *mut i32,
    out_stride: usize,
) {
    // SAFETY: the caller's promise, M rows of out among it.
    unsafe {
        for (m, row) in sums::<M, V>(p).into_iter().enumerate() {
            for (v, sums) in row.into_iter().enumerate() {
                _mm512_storeu_si512(out.add(m * out_stride + 16 * v).cast(), sums);
            }
        }
    }
}

/// # Safety
/// As [`crate::tiled::Isa::tile`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn tile_of(p: Product<u8, i8>, out: *mut i32, out_stride: usize) {
    macro_rules! pick {
        ($($m:literal)*) => {
            match (p.rows, p.width / 16) {
                $(
                    ($m, 4) => tile::<$m, 4>(p, out, out_stride),
                    ($m, 3) => tile::<$m, 3>(p, out, out_stride),
                    ($m, 2) => tile::<$m, 2>(p, out, out_stride),
                    ($m, 1) => tile::<$m, 1>(p, out, out_stride),
                )*
                _ => unreachable!("a tile of {} x {}", p.rows, p.width),
            }
        };
    }
    // SAFETY: the caller's promise, for just this many rows and columns.
    unsafe { pick!(1 2 3 4 5 6) }
}

/// Whether a tile is a whole one, whose outputs can be made of its sums in registers.
pub(super) fn is_whole(p: &Product<u8, i8>, cols: usize) -> bool {
    p.rows == ROWS && p.width == 64 && cols == 64
}

/// A whole tile to codes.
///
/// # Safety
/// As [`crate::tiled::Isa::tile8`], for a whole tile.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn tile8(p: Product<u8, i8>, requant: Requant, offset: i16, out: Out<i8>) {
    let out = Out { cols: 64, ..out };
    // SAFETY: the caller's promise.
    unsafe {
        let codes = Codes::new(&requant, offset);
        for (i, acc) in sums::<ROWS, 4>(p).into_iter().enumerate() {
            store8(out, i, codes.of(acc, &requant));
        }
    }
}

/// A whole tile to codes from a table.
///
/// # Safety
/// As [`crate::tiled::Isa::tile8`], for a whole tile, and the CPU has VBMI.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
pub(super) unsafe fn tile8_table(
    p: Product<u8, i8>,
    requant: Requant,
    offset: i16,
    table: &[i8; 256],
    out: Out<i8>,
) {
    let out = Out { cols: 64, ..out };
    // SAFETY: the caller's promise.
    unsafe {
        let sums = sums::<ROWS, 4>(p);
        let (codes, table) = (Codes::new(&requant, offset), Table::new(table));
        for (i, acc) in sums.into_iter().enumerate() {
            store8(out, i, table.look_up(codes.of(acc, &requant)));
        }
    }
}

/// A whole tile to updates of the residual.
///
/// # Safety
/// As [`crate::tiled::Isa::tile16`], for a whole tile.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn tile16<const ADD: bool>(p: Product<u8, i8>, requant: Requant, x: Out<i16>) {
    let x = Out { cols: 64, ..x };
    // SAFETY: the caller's promise.
    unsafe {
        for (i, acc) in sums::<ROWS, 4>(p).into_iter().enumerate() {
            update::<ADD>(acc, &requant, x, i);
        }
    }
}

/// # Safety
/// As `Isa::probe`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn probe(iterations: u32) -> (u64, i32) {
    const CHAINS: usize = 24;
    let (a, w) = (
        _mm512_set1_epi8(3),
        std::hint::black_box(_mm512_set1_epi8(5)),
    );
    let mut acc = [_mm512_setzero_si512(); CHAINS];
    for _ in 0..iterations {
        for acc in &mut acc {
            *acc = _mm512_dpbusd_epi32(*acc, a, w);
        }
    }
    let sum = acc
        .into_iter()
        .fold(_mm512_setzero_si512(), |s, x| _mm512_xor_si512(s, x));
    (
        u64::from(iterations) * CHAINS as u64 * 64,
        _mm512_reduce_add_epi32(sum),
    )
}
