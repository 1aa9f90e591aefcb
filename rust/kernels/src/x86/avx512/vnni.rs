//! Tiles of `vpdpbusd`.

use std::arch::x86_64::*;

use super::super::{bases, read4};

/// Input rows of a tile.
pub(super) const ROWS: usize = 6;

/// M x (16 * V) accumulators in registers.
///
/// # Safety
/// As [`Isa::tile`], for M rows and 16 * V columns.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn tile<const M: usize, const V: usize>(
    a: *const u8,
    stride: usize,
    w: *const i8,
    k: usize,
    bias: *const i32,
    out: *mut i32,
    out_stride: usize,
) {
    // SAFETY: the caller promises M rows of k codes, 16 * V rows of k weights, 16 * V biases and M rows of
    // out.
    unsafe {
        let mut acc = [[_mm512_setzero_si512(); V]; M];
        for v in 0..V {
            let bias = _mm512_loadu_si512(bias.add(16 * v).cast());
            for row in &mut acc {
                row[v] = bias;
            }
        }
        let bases = bases(a, stride);
        for g in 0..k / 4 {
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
        }
        for (m, row) in acc.iter().enumerate() {
            for (v, &sums) in row.iter().enumerate() {
                _mm512_storeu_si512(out.add(m * out_stride + 16 * v).cast(), sums);
            }
        }
    }
}

/// # Safety
/// As `Isa::tile`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[allow(clippy::too_many_arguments)] // four strided operands
pub(super) unsafe fn tile_of(
    a: *const u8,
    stride: usize,
    rows: usize,
    w: *const i8,
    width: usize,
    k: usize,
    bias: *const i32,
    out: *mut i32,
    out_stride: usize,
) {
    macro_rules! pick {
        ($($m:literal)*) => {
            match (rows, width / 16) {
                $(
                    ($m, 4) => tile::<$m, 4>(a, stride, w, k, bias, out, out_stride),
                    ($m, 3) => tile::<$m, 3>(a, stride, w, k, bias, out, out_stride),
                    ($m, 2) => tile::<$m, 2>(a, stride, w, k, bias, out, out_stride),
                    ($m, 1) => tile::<$m, 1>(a, stride, w, k, bias, out, out_stride),
                )*
                _ => unreachable!("a tile of {rows} x {width}"),
            }
        };
    }
    // SAFETY: the caller's promise, for just this many rows and columns.
    unsafe { pick!(1 2 3 4 5 6) }
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
