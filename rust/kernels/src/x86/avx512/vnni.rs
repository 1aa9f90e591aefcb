//! The tier with VNNI: tiles of `vpdpbusd`.

use std::arch::x86_64::*;

use super::super::{bases, read4};
use super::epilogue::{self, AccumulatorRows, FinishRow};
use super::{norm, pack, softmax};
use crate::matrix::Out;
use crate::tiled::{
    Layout, Product, RowKernels, RowScale, RowScales, RowSums, Staged, Tiles, UnfinishedTile,
};
use crate::{HeadParams, LayerNorm, MatrixView, MatrixViewMut};

/// The tier. Its functions need AVX-512 F, BW, VL, DQ and VNNI; table look-ups use VBMI if the CPU
/// has it.
pub(crate) struct Vnni;

/// Input rows of a tile.
const ROWS: usize = 6;

/// Computes M x (16 * V) accumulators in registers.
///
/// # Safety
/// As [`Tiles::tile`], for M rows and 16 * V columns.
#[allow(clippy::inline_always)] // so that the accumulators stay in registers
#[inline(always)]
unsafe fn sums<const M: usize, const V: usize>(p: Product<u8, i8>) -> [[__m512i; V]; M] {
    let (a, stride, w, k, bias) = p.operands();
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
        // Two at a time: a panel comes from the second-level cache, and longer loops hide that
        // better.
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

/// Computes a tile of M rows and 16 * V columns.
///
/// # Safety
/// As [`Tiles::tile`], for M rows and 16 * V columns.
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

/// Computes [`Tiles::tile`].
///
/// # Safety
/// As there.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn tile_of(p: Product<u8, i8>, out: *mut i32, out_stride: usize) {
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

/// A whole tile, whose accumulators stay in registers.
struct WholeTile(Product<u8, i8>);

impl AccumulatorRows for WholeTile {
    #[allow(clippy::inline_always)] // so that the stores need no mask
    #[inline(always)]
    fn constant_cols<T>(out: Out<T>) -> Out<T> {
        Out { cols: 64, ..out }
    }

    #[allow(clippy::inline_always)] // compiled for the features of its caller
    #[inline(always)]
    unsafe fn for_each(self, to: &impl FinishRow) {
        // SAFETY: the caller's promise.
        unsafe {
            for (i, acc) in sums::<ROWS, 4>(self.0).into_iter().enumerate() {
                to.finish(i, acc);
            }
        }
    }
}

/// Computes [`Tiles::probe`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn probe(iterations: u32) -> (u64, i32) {
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

// SAFETY: each function does what the trait's comment says, for any sizes within the trait's
// bounds; `tests/tiers.rs` compares them with the scalar tier.
unsafe impl Layout for Vnni {
    shared!(Layout);
    const ROWS: usize = ROWS;
    const STEP: usize = 4;
    const CODE_OFFSET: i32 = 128;

    fn code(a: i8) -> u8 {
        a as u8 ^ 0x80
    }
}

// SAFETY: as above.
unsafe impl RowKernels for Vnni {
    shared!(RowKernels);

    unsafe fn finish(tile: &UnfinishedTile) {
        // SAFETY: the caller's promise.
        unsafe { epilogue::finish(tile) }
    }

    unsafe fn softmax(
        logits: *const i32,
        probs: *mut u8,
        strides: [usize; 2],
        sizes: [usize; 2],
        mult: i32,
        sums: &mut RowSums,
    ) {
        // SAFETY: the caller's promise.
        unsafe { softmax::softmax(logits, probs, strides, sizes, mult, sums, || ()) }
    }
}

// SAFETY: as above.
unsafe impl Tiles for Vnni {
    unsafe fn tile(p: Product<u8, i8>, out: *mut i32, out_stride: usize) {
        // SAFETY: the caller's promise.
        unsafe { tile_of(p, out, out_stride) }
    }

    unsafe fn tile_and_finish(p: &Product<u8, i8>, acc: *mut i32, tile: &UnfinishedTile) {
        // SAFETY: the caller's promise.
        unsafe {
            if p.rows == ROWS && p.width == 64 && tile.epilogue.cols() == 64 {
                epilogue::run(WholeTile(*p), &tile.requant, &tile.epilogue);
            } else {
                tile_of(*p, acc, Self::PANEL);
                epilogue::finish(tile);
            }
        }
    }

    unsafe fn probe(iterations: u32) -> (u64, i32) {
        // SAFETY: the caller's promise.
        unsafe { probe(iterations) }
    }
}
