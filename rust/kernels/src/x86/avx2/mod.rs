//! The AVX2 tier: `vpmaddwd` on codes widened to 16 bits; for 4-bit rows `vpmaddubsw`, which would
//! saturate with larger weights.

mod epilogue;

/// Picks the compiled tile of a size.
macro_rules! pick {
    ($p:ident, $tile:ident $arguments:tt) => {
        pick!($p, $tile $arguments; 1 2 3 4 5 6)
    };
    ($p:ident, $tile:ident $arguments:tt; $($m:literal)*) => {
        match ($p.rows, $p.width / 8) {
            $(
                ($m, 2) => $tile::<$m, 2> $arguments,
                ($m, 1) => $tile::<$m, 1> $arguments,
            )*
            _ => unreachable!("a tile of {} x {}", $p.rows, $p.width),
        }
    };
}

use std::arch::asm;
use std::arch::x86_64::*;
use std::array::from_fn;

use super::{bases, read4};
use crate::scalar::{logit_cap, Moments, EXP2};
use crate::tiled::{expand, panels, FourBitForm, Layout, Product, Tiles};
use crate::{LayerNorm, MatrixView};

/// The tier. Its functions need AVX2.
pub(crate) struct Avx2;

/// `2 * EXP2`, for gathers.
static EXP2_DOUBLED: [i32; 64] = {
    let mut table = [0; 64];
    let mut f = 0;
    while f < 64 {
        table[f] = 2 * EXP2[f] as i32;
        f += 1;
    }
    table
};

/// Computes M x (8 * V) accumulators in registers.
///
/// # Safety
/// As [`Tiles::tile`], for M rows and 8 * V columns.
#[target_feature(enable = "avx2")]
unsafe fn tile<const M: usize, const V: usize>(
    p: Product<i16, i16>,
    out: *mut i32,
    out_stride: usize,
) {
    let (a, stride, w, k, bias) = p.operands();
    // SAFETY: the caller promises M rows of k codes, 8 * V rows of k weights, 8 * V biases and M
    // rows of out.
    unsafe {
        let mut acc = [[_mm256_setzero_si256(); V]; M];
        for v in 0..V {
            let bias = _mm256_loadu_si256(bias.add(8 * v).cast());
            for row in &mut acc {
                row[v] = bias;
            }
        }
        let bases = bases(a, stride);
        for g in 0..k / 2 {
            let mut weights = [_mm256_setzero_si256(); V];
            for (v, weights) in weights.iter_mut().enumerate() {
                *weights = _mm256_loadu_si256(w.add(16 * (g * V + v)).cast());
            }
            for (m, row) in acc.iter_mut().enumerate() {
                let codes = read4(bases[m / 3].add(m % 3 * stride + 2 * g));
                let codes = _mm256_set1_epi32(codes);
                for v in 0..V {
                    row[v] = _mm256_add_epi32(row[v], _mm256_madd_epi16(codes, weights[v]));
                }
            }
        }
        for (m, row) in acc.iter().enumerate() {
            for (v, &sums) in row.iter().enumerate() {
                _mm256_storeu_si256(out.add(m * out_stride + 8 * v).cast(), sums);
            }
        }
    }
}

/// Computes M x (8 * V) accumulators of 4-bit rows: in 16 bits in registers for a run of k, then
/// added to 32 bits in memory.
///
/// # Safety
/// As [`FourBitForm::tile`], for M rows and 8 * V columns.
#[target_feature(enable = "avx2")]
#[allow(clippy::too_many_arguments)]
unsafe fn tile_4_bit<const M: usize, const V: usize>(
    p: Product<u8, i8>,
    run: usize,
    out: *mut i32,
    out_stride: usize,
) {
    let (a, stride, w, k, bias) = p.operands();
    // SAFETY: the caller promises M rows of k codes, 8 * V rows of k weights, 8 * V biases and M
    // rows of out.
    unsafe {
        for m in 0..M {
            for v in 0..V {
                let bias = _mm256_loadu_si256(bias.add(8 * v).cast());
                _mm256_storeu_si256(out.add(m * out_stride + 8 * v).cast(), bias);
            }
        }
        let bases = bases(a, stride);
        let products = |m: usize, v: usize, g: usize| {
            let codes = read4(bases[m / 3].add(m % 3 * stride + 4 * g));
            let weights = _mm256_loadu_si256(w.add(32 * (g * V + v)).cast());
            _mm256_maddubs_epi16(_mm256_set1_epi32(codes), weights)
        };
        let ones = _mm256_set1_epi16(1);
        for first in (0..k / 4).step_by(run / 4) {
            let mut acc: [[_; V]; M] = from_fn(|m| from_fn(|v| products(m, v, first)));
            for g in first + 1..(first + run / 4).min(k / 4) {
                for (m, row) in acc.iter_mut().enumerate() {
                    for (v, acc) in row.iter_mut().enumerate() {
                        *acc = _mm256_add_epi16(*acc, products(m, v, g));
                    }
                }
            }
            for (m, row) in acc.iter().enumerate() {
                for (v, &acc) in row.iter().enumerate() {
                    let at = out.add(m * out_stride + 8 * v).cast();
                    let sums = _mm256_madd_epi16(acc, ones);
                    _mm256_storeu_si256(at, _mm256_add_epi32(_mm256_loadu_si256(at), sums));
                }
            }
        }
    }
}

/// Packs 16 numbers to words, in order.
#[target_feature(enable = "avx2")]
fn words(low: __m256i, high: __m256i) -> __m256i {
    _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(low, high))
}

/// Packs 16 words to bytes, in order.
#[target_feature(enable = "avx2")]
fn bytes(words: __m256i) -> __m128i {
    _mm_packs_epi16(
        _mm256_castsi256_si128(words),
        _mm256_extracti128_si256::<1>(words),
    )
}

/// Stores the first values of a row of up to 16 codes.
#[target_feature(enable = "avx2")]
fn store_codes(row: &mut [i8], codes: __m128i) {
    if row.len() == 16 {
        // SAFETY: the row has 16 bytes.
        unsafe { _mm_storeu_si128(row.as_mut_ptr().cast(), codes) }
    } else {
        let mut whole = [0; 16];
        // SAFETY: the buffer has 16 bytes.
        unsafe { _mm_storeu_si128(whole.as_mut_ptr().cast(), codes) }
        row.copy_from_slice(&whole[..row.len()]);
    }
}

/// Returns the sum of eight numbers.
#[target_feature(enable = "avx2")]
fn sum8(x: __m256i) -> i32 {
    let x = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
    let x = _mm_add_epi32(x, _mm_shuffle_epi32::<0b01_00_11_10>(x));
    _mm_cvtsi128_si32(_mm_add_epi32(x, _mm_shuffle_epi32::<0b10_11_00_01>(x)))
}

/// Returns the largest of eight numbers.
#[target_feature(enable = "avx2")]
fn max8(x: __m256i) -> i32 {
    let x = _mm_max_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
    let x = _mm_max_epi32(x, _mm_shuffle_epi32::<0b01_00_11_10>(x));
    _mm_cvtsi128_si32(_mm_max_epi32(x, _mm_shuffle_epi32::<0b10_11_00_01>(x)))
}

/// Returns the mask of the lanes j, j+1, ... that are below `n`.
#[target_feature(enable = "avx2")]
fn below(j: usize, n: usize) -> __m256i {
    let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    _mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32 - j as i32), lanes)
}

/// Returns the sums of x and of x^2.
#[target_feature(enable = "avx2")]
fn sums(x: &[i16]) -> (i32, i64) {
    let ones = _mm256_set1_epi16(1);
    let low = _mm256_set1_epi64x(0xffff_ffff);
    let (mut sum, mut squares) = (_mm256_setzero_si256(), _mm256_setzero_si256());
    let mut parts = x.chunks_exact(16);
    for part in &mut parts {
        // SAFETY: the part has 16 values.
        let v = unsafe { _mm256_loadu_si256(part.as_ptr().cast()) };
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(v, ones));
        // Two squares are below 2^31, so a pair fits; from there on 64 bits.
        let pairs = _mm256_madd_epi16(v, v);
        squares = _mm256_add_epi64(squares, _mm256_and_si256(pairs, low));
        squares = _mm256_add_epi64(squares, _mm256_srli_epi64::<32>(pairs));
    }
    let mut lanes = [0i64; 4];
    // SAFETY: the buffer has 32 bytes.
    unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), squares) };
    parts
        .remainder()
        .iter()
        .fold((sum8(sum), lanes.iter().sum()), |(sum, squares), &x| {
            (sum + i32::from(x), squares + i64::from(x) * i64::from(x))
        })
}

/// Computes the probabilities of one query row. Returns the sums of e12 and e8.
///
/// # Safety
/// As `RowKernels::softmax`, for one row.
#[target_feature(enable = "avx2")]
unsafe fn softmax_row(logits: *const i32, tokens: usize, mult: i32, probs: *mut i16) -> (i32, i32) {
    // SAFETY: the caller promises tokens rounded up to 64 logits and probabilities; an index into
    // the table is below 64.
    unsafe {
        let mut max = _mm256_set1_epi32(i32::MIN);
        for j in (0..tokens).step_by(8) {
            let a = _mm256_loadu_si256(logits.add(j).cast());
            max = _mm256_blendv_epi8(max, _mm256_max_epi32(max, a), below(j, tokens));
        }
        let max = _mm256_set1_epi32(max8(max));
        let cap = _mm256_set1_epi32(logit_cap(mult));
        let mult = _mm256_set1_epi32(mult);
        let (half, ones) = (_mm256_set1_epi32(1 << 19), _mm256_set1_epi32(1));
        let (low6, eight) = (_mm256_set1_epi32(63), _mm256_set1_epi32(8));
        // The exponent of keys past the end: it shifts every table entry to 0.
        let nothing = _mm256_set1_epi32(2047);
        let (mut total12, mut total8) = (_mm256_setzero_si256(), _mm256_setzero_si256());
        for j in (0..tokens).step_by(16) {
            let mut e8 = [_mm256_setzero_si256(); 2];
            for (v, e8) in e8.iter_mut().enumerate() {
                let a = _mm256_loadu_si256(logits.add(j + 8 * v).cast());
                let d = _mm256_min_epi32(_mm256_sub_epi32(max, a), cap);
                let u =
                    _mm256_srli_epi32::<20>(_mm256_add_epi32(_mm256_mullo_epi32(d, mult), half));
                let u = _mm256_blendv_epi8(nothing, u, below(j + 8 * v, tokens));
                let e =
                    _mm256_i32gather_epi32::<4>(EXP2_DOUBLED.as_ptr(), _mm256_and_si256(u, low6));
                let e = _mm256_srlv_epi32(e, _mm256_srli_epi32::<6>(u));
                let e12 = _mm256_srli_epi32::<1>(_mm256_add_epi32(e, ones));
                *e8 = _mm256_srli_epi32::<4>(_mm256_add_epi32(e12, eight));
                total12 = _mm256_add_epi32(total12, e12);
                total8 = _mm256_add_epi32(total8, *e8);
            }
            _mm256_storeu_si256(probs.add(j).cast(), words(e8[0], e8[1]));
        }
        (sum8(total12), sum8(total8))
    }
}

/// Computes one row of `LayerNorm`.
///
/// # Safety
/// All lengths agree.
#[target_feature(enable = "avx2")]
unsafe fn layer_norm_row(norm: &LayerNorm, x: &[i16], out: &mut [i8]) {
    let d = x.len();
    let (sum, squares) = sums(x);
    let moments = Moments::new(sum, squares, d, norm.epsilon);
    let right = moments.bits.saturating_sub(10);
    // D*x - S and, where it is shifted right, the rounding half.
    let offset = _mm256_set1_epi32((1 << right >> 1) - sum);
    let right = _mm_cvtsi32_si128(right as i32);
    let left = _mm_cvtsi32_si128(10u32.saturating_sub(moments.bits) as i32);
    let frac = _mm_cvtsi32_si128(norm.frac.into());
    let scale = _mm256_set1_epi16(d as i16);
    let inv = _mm256_set1_epi16(moments.inv);
    let whole = d / 16 * 16;
    for j in (0..whole).step_by(16) {
        // SAFETY: 16 values from j on are inside slices of d values.
        let (x, gain, bias) = unsafe {
            (
                _mm256_loadu_si256(x.as_ptr().add(j).cast()),
                _mm256_loadu_si256(norm.gain.as_ptr().add(j).cast()),
                _mm256_loadu_si256(norm.bias.as_ptr().add(j).cast()),
            )
        };
        let (low, high) = (_mm256_mullo_epi16(x, scale), _mm256_mulhi_epi16(x, scale));
        let t = |product: __m256i| {
            _mm256_sll_epi32(
                _mm256_sra_epi32(_mm256_add_epi32(product, offset), right),
                left,
            )
        };
        let t = _mm256_packs_epi32(
            t(_mm256_unpacklo_epi16(low, high)),
            t(_mm256_unpackhi_epi16(low, high)),
        );
        let n = _mm256_mulhrs_epi16(t, inv);
        let y = _mm256_sra_epi16(_mm256_adds_epi16(_mm256_mulhrs_epi16(n, gain), bias), frac);
        store_codes(&mut out[j..j + 16], bytes(y));
    }
    for j in whole..d {
        out[j] = moments.apply(x[j], d, norm.gain[j], norm.bias[j], norm.frac);
    }
}

/// Loads sixteen codes of a row from `at` on, as words; 0 past its end.
#[target_feature(enable = "avx2")]
fn row_words(row: &[i8], at: usize) -> __m256i {
    let mut rest = [0; 16];
    let codes = row.get(at..at + 16).unwrap_or_else(|| {
        let part = row.get(at..).unwrap_or_default();
        rest[..part.len()].copy_from_slice(part);
        &rest
    });
    // SAFETY: 16 codes.
    _mm256_cvtepi8_epi16(unsafe { _mm_loadu_si128(codes.as_ptr().cast()) })
}

/// Stores pairs of words.
#[target_feature(enable = "avx2")]
fn store_words(to: &mut [i16], x: __m256i) {
    let to = &mut to[..16];
    // SAFETY: 16 words.
    unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), x) }
}

/// Transposes 8 rows of 8 pairs of words.
#[target_feature(enable = "avx2")]
fn transposed(rows: &[__m256i; 8]) -> [__m256i; 8] {
    let mut t = *rows;
    for i in (0..8).step_by(2) {
        t[i] = _mm256_unpacklo_epi32(rows[i], rows[i + 1]);
        t[i + 1] = _mm256_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    // u[4 * i + j] has, in lane l, column 4 * l + j of rows 4 * i to 4 * i + 3.
    let mut u = t;
    for i in (0..8).step_by(4) {
        u[i] = _mm256_unpacklo_epi64(t[i], t[i + 2]);
        u[i + 1] = _mm256_unpackhi_epi64(t[i], t[i + 2]);
        u[i + 2] = _mm256_unpacklo_epi64(t[i + 1], t[i + 3]);
        u[i + 3] = _mm256_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    from_fn(|column| {
        let (low, high) = (u[column % 4], u[4 + column % 4]);
        if column < 4 {
            _mm256_permute2x128_si256::<0x20>(low, high)
        } else {
            _mm256_permute2x128_si256::<0x31>(low, high)
        }
    })
}

/// Picks the 4-bit tile of this size.
///
/// # Safety
/// As [`FourBitForm::tile`].
#[target_feature(enable = "avx2")]
unsafe fn tile_4_bit_of(p: Product<u8, i8>, run: usize, out: *mut i32, out_stride: usize) {
    // SAFETY: the caller's promise, for just this many rows and columns.
    unsafe { pick!(p, tile_4_bit(p, run, out, out_stride)) }
}

/// Expands nibbles as [`expand`] does.
#[target_feature(enable = "avx2")]
fn expand_4_bit(stored: &[u8], panel: &mut [i8]) {
    expand(stored, 0, panel.len(), panel);
}

/// Runs `add(sums, codes)`, of `macs` multiply-accumulates, as [`Tiles::probe`] does.
#[target_feature(enable = "avx2")]
#[inline]
fn probe(
    iterations: u32,
    macs: u64,
    mut codes: __m256i,
    add: impl Fn(__m256i, __m256i) -> __m256i,
) -> (u64, i32) {
    const CHAINS: usize = 12;
    let mut acc = [_mm256_setzero_si256(); CHAINS];
    for _ in 0..iterations {
        for acc in &mut acc {
            // SAFETY: no instruction; it hides that every product is the same.
            unsafe {
                asm!("/* {0} */", inout(ymm_reg) codes, options(nomem, nostack, preserves_flags));
            };
            *acc = add(*acc, codes);
        }
    }
    let sum = acc
        .into_iter()
        .fold(_mm256_setzero_si256(), |s, x| _mm256_xor_si256(s, x));
    (u64::from(iterations) * CHAINS as u64 * macs, sum8(sum))
}

/// Computes [`FourBitForm::probe`].
#[target_feature(enable = "avx2")]
fn probe_4_bit(iterations: u32) -> (u64, i32) {
    let (codes, w) = (_mm256_set1_epi8(3), _mm256_set1_epi8(5));
    probe(iterations, 32, codes, |sums, codes| {
        _mm256_add_epi16(sums, _mm256_maddubs_epi16(codes, w))
    })
}

// SAFETY: each function does what the trait's comment says, for any sizes within the trait's
// bounds; `tests/tiers.rs` compares them with the scalar tier.
unsafe impl Layout for Avx2 {
    type Weight = i16;
    type Code = i16;
    const ROWS: usize = 6;
    const PANEL: usize = 16;
    const LANES: usize = 8;
    const GROUP: usize = 2;
    const STEP: usize = 2;
    const CODE_OFFSET: i32 = 0;
    const PROB_OFFSET: i32 = 0;
    const FOUR_BIT: Option<FourBitForm> = Some(FourBitForm {
        group: 4,
        step: 4,
        code_offset: 128,
        pair: 2,
        sums: 2,
        tile: tile_4_bit_of,
        expand: expand_4_bit,
        probe: probe_4_bit,
    });

    fn code(a: i8) -> i16 {
        a.into()
    }

    #[target_feature(enable = "avx2")]
    unsafe fn pack_keys(keys: MatrixView<i8>, packed: &mut [i16], bias: &mut [i32]) {
        let k = keys.cols().next_multiple_of(Self::STEP);
        bias.fill(0);
        for (first, width) in panels::<Self>(bias.len()) {
            let panel = &mut packed[first * k..][..width * k];
            for v in 0..width / 8 {
                for (c, groups) in panel.chunks_mut(16 * width).enumerate() {
                    let rows = from_fn(|i| {
                        let row = first + 8 * v + i;
                        let row = if row < keys.rows() {
                            keys.row(row)
                        } else {
                            &[]
                        };
                        row_words(row, 16 * c)
                    });
                    let groups = groups.chunks_exact_mut(2 * width);
                    for (group, codes) in groups.zip(transposed(&rows)) {
                        store_words(&mut group[16 * v..], codes);
                    }
                }
            }
        }
    }

    #[target_feature(enable = "avx2")]
    unsafe fn pack_values(values: MatrixView<i8>, packed: &mut [i16], sums: &mut [i32]) {
        let k = values.rows().next_multiple_of(Self::STEP);
        let ones = _mm256_set1_epi16(1);
        sums.fill(0);
        for (first, width) in panels::<Self>(packed.len() / k) {
            let mut column_sums = [_mm256_setzero_si256(); 2];
            let groups = packed[first * k..][..width * k].chunks_exact_mut(2 * width);
            for (group, j) in groups.zip((0..).step_by(2)) {
                let row = |j: usize| {
                    row_words(
                        if j < values.rows() {
                            values.row(j)
                        } else {
                            &[]
                        },
                        first,
                    )
                };
                let (a, b) = (row(j), row(j + 1));
                let (low, high) = (_mm256_unpacklo_epi16(a, b), _mm256_unpackhi_epi16(a, b));
                let codes = [
                    _mm256_permute2x128_si256::<0x20>(low, high),
                    _mm256_permute2x128_si256::<0x31>(low, high),
                ];
                for (v, (codes, sums)) in codes.into_iter().zip(&mut column_sums).enumerate() {
                    if 8 * v < width {
                        store_words(&mut group[16 * v..], codes);
                        *sums = _mm256_add_epi32(*sums, _mm256_madd_epi16(codes, ones));
                    }
                }
            }
            let sums = sums[first..][..width].chunks_exact_mut(8);
            for (to, sums) in sums.zip(column_sums) {
                // SAFETY: 8 numbers.
                unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), sums) };
            }
        }
    }

    #[target_feature(enable = "avx2")]
    unsafe fn expand_8_bit(stored: &[u8], bytes: usize, nibbles: usize, panel: &mut [i16]) {
        expand(stored, bytes, nibbles, panel);
    }

    fn prefetch(line: *const u8) {
        // SAFETY: a prefetch reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.cast()) }
    }
}

// SAFETY: as above.
unsafe impl Tiles for Avx2 {
    #[target_feature(enable = "avx2")]
    unsafe fn tile(p: Product<i16, i16>, out: *mut i32, out_stride: usize) {
        // SAFETY: the caller's promise, for just this many rows and columns.
        unsafe { pick!(p, tile(p, out, out_stride)) }
    }

    #[target_feature(enable = "avx2")]
    unsafe fn probe(iterations: u32) -> (u64, i32) {
        let (codes, w) = (_mm256_set1_epi16(3), _mm256_set1_epi16(5));
        probe(iterations, 16, codes, |sums, codes| {
            _mm256_add_epi32(sums, _mm256_madd_epi16(codes, w))
        })
    }
}
