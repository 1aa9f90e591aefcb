//! AVX-512 with VNNI: `vpdpbusd` multiplies unsigned activations (code + 128) by signed weights, exactly.

use std::arch::x86_64::*;

use super::{bases, read4};
use crate::scalar::{logit_cap, Moments, EXP2};
use crate::tiled::{Isa, Out, Requant, RowScale};
use crate::LayerNorm;

/// The tier. Its functions need AVX-512 F, BW, VL, DQ and VNNI; the table look-up uses VBMI where the CPU
/// has it.
pub(crate) struct Avx512Vnni;

/// `2 * EXP2`, for two-register permutes.
static EXP2_DOUBLED: [u16; 64] = {
    let mut table = [0; 64];
    let mut f = 0;
    while f < 64 {
        table[f] = 2 * EXP2[f];
        f += 1;
    }
    table
};

/// The first `n` of 64 lanes.
fn mask64(n: usize) -> u64 {
    if n >= 64 {
        u64::MAX
    } else {
        (1 << n) - 1
    }
}

/// The first `n` of 32 lanes.
fn mask32(n: usize) -> u32 {
    mask64(n.min(32)) as u32
}

/// The first `n` of 16 lanes.
fn mask16(n: usize) -> u16 {
    mask64(n.min(16)) as u16
}

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

/// Undoes the lane order of two levels of packing, 4 x 16 numbers to 64 bytes.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn in_order64(x: __m512i) -> __m512i {
    _mm512_permutexvar_epi32(
        _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15),
        x,
    )
}

/// Undoes the lane order of one level of packing, 2 x 16 numbers to 32 words.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn in_order32(x: __m512i) -> __m512i {
    _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), x)
}

/// Puts 32 words in the lane order that one level of packing gives.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn in_pack_order(x: __m512i) -> __m512i {
    _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7), x)
}

/// t of 64 accumulators (which hold the rounding half), as words in pack order: columns 0-31, then 32-63.
///
/// # Safety
/// 64 accumulators and shifts can be read.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn shifted(acc: *const i32, requant: &Requant) -> [__m512i; 2] {
    let mut t = [_mm512_setzero_si512(); 4];
    for (v, t) in t.iter_mut().enumerate() {
        // SAFETY: v < 4, the caller promises 64 of each.
        unsafe {
            let acc = _mm512_loadu_si512(acc.add(16 * v).cast());
            let right = _mm512_loadu_si512(requant.right.add(16 * v).cast());
            *t = _mm512_srav_epi32(acc, right);
            if requant.shifts_left {
                *t = _mm512_sllv_epi32(*t, _mm512_loadu_si512(requant.left.add(16 * v).cast()));
            }
        }
    }
    [
        _mm512_packs_epi32(t[0], t[1]),
        _mm512_packs_epi32(t[2], t[3]),
    ]
}

/// # Safety
/// As [`Isa::lookup`], and the CPU has VBMI.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi")]
unsafe fn lookup_vbmi(table: &[i8; 256], out: Out<i8>) {
    // SAFETY: the table has 256 entries; masks keep loads and stores inside the rows that the caller
    // promises.
    unsafe {
        let part = |i: usize| _mm512_loadu_si512(table.as_ptr().add(64 * i).cast());
        let (negative, positive) = ([part(0), part(1)], [part(2), part(3)]);
        let mask = mask64(out.cols);
        for i in 0..out.rows {
            let row = out.ptr.add(i * out.stride);
            let y = _mm512_maskz_loadu_epi8(mask, row);
            let low = _mm512_permutex2var_epi8(negative[0], y, negative[1]);
            let high = _mm512_permutex2var_epi8(positive[0], y, positive[1]);
            _mm512_mask_storeu_epi8(
                row,
                mask,
                _mm512_mask_blend_epi8(_mm512_movepi8_mask(y), high, low),
            );
        }
    }
}

/// The sums of x and of x^2.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn sums(x: &[i16]) -> (i32, i64) {
    let ones = _mm512_set1_epi16(1);
    let low = _mm512_set1_epi64(0xffff_ffff);
    let (mut sum, mut squares) = (_mm512_setzero_si512(), _mm512_setzero_si512());
    for part in x.chunks(32) {
        // SAFETY: the mask keeps the load inside the slice.
        let v = unsafe { _mm512_maskz_loadu_epi16(mask32(part.len()), part.as_ptr()) };
        sum = _mm512_add_epi32(sum, _mm512_madd_epi16(v, ones));
        // Two squares are below 2^31, so a pair fits; from there on 64 bits.
        let pairs = _mm512_madd_epi16(v, v);
        squares = _mm512_add_epi64(squares, _mm512_and_si512(pairs, low));
        squares = _mm512_add_epi64(squares, _mm512_srli_epi64::<32>(pairs));
    }
    (
        _mm512_reduce_add_epi32(sum),
        _mm512_reduce_add_epi64(squares),
    )
}

// SAFETY: each function does what the trait says of it, for any sizes within its bounds; `tests/tiers.rs` compares them.
unsafe impl Isa for Avx512Vnni {
    type Weight = i8;
    type Code = u8;
    const ROWS: usize = 6;
    const PANEL: usize = 64;
    const LANES: usize = 16;
    const GROUP: usize = 4;
    const STEP: usize = 4;
    const CODE_OFFSET: i32 = 128;
    const PROB_OFFSET: i32 = 0;

    fn code(a: i8) -> u8 {
        a as u8 ^ 0x80
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn tile(
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

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn expand_wide(stored: &[u8], wide: usize, narrow: usize, panel: &mut [i8]) {
        let signed = _mm512_broadcast_i32x4(_mm_setr_epi8(
            0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1,
        ));
        let groups = panel.chunks_exact_mut(wide + narrow);
        for (group, stored) in groups.zip(stored.chunks_exact(wide + narrow / 2)) {
            let (bytes, nibbles) = stored.split_at(wide);
            for (to, from) in group.chunks_exact_mut(64).zip(bytes.chunks_exact(64)) {
                // SAFETY: both have 64 bytes.
                unsafe {
                    _mm512_storeu_si512(
                        to.as_mut_ptr().cast(),
                        _mm512_loadu_si512(from.as_ptr().cast()),
                    );
                }
            }
            let to = group[wide..].chunks_exact_mut(64);
            for (to, from) in to.zip(nibbles.chunks_exact(32)) {
                // SAFETY: one has 64 bytes, the other 32.
                unsafe {
                    let bytes = _mm512_cvtepu8_epi16(_mm256_loadu_si256(from.as_ptr().cast()));
                    // (bytes | bytes << 4) & 0x0f0f: a nibble in each byte.
                    let nibbles = _mm512_ternarylogic_epi32::<0xe0>(
                        _mm512_set1_epi8(15),
                        bytes,
                        _mm512_slli_epi16::<4>(bytes),
                    );
                    _mm512_storeu_si512(
                        to.as_mut_ptr().cast(),
                        _mm512_shuffle_epi8(signed, nibbles),
                    );
                }
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn requant8(acc: *const i32, requant: Requant, offset: i16, out: Out<i8>) {
        // SAFETY: the caller promises PANEL parameters and accumulators for each row; the mask keeps stores
        // inside it.
        unsafe {
            let mult = [
                in_pack_order(_mm512_loadu_si512(requant.mult.cast())),
                in_pack_order(_mm512_loadu_si512(requant.mult.add(32).cast())),
            ];
            let offset = _mm512_set1_epi16(offset);
            let mask = mask64(out.cols);
            for i in 0..out.rows {
                let t = shifted(acc.add(i * Self::PANEL), &requant);
                let y = |half: usize| {
                    let z = _mm512_mulhrs_epi16(t[half], mult[half]);
                    _mm512_srai_epi16::<6>(_mm512_adds_epi16(z, offset))
                };
                let y = in_order64(_mm512_packs_epi16(y(0), y(1)));
                _mm512_mask_storeu_epi8(out.ptr.add(i * out.stride), mask, y);
            }
        }
    }

    unsafe fn lookup(table: &[i8; 256], out: Out<i8>) {
        if is_x86_feature_detected!("avx512vbmi") {
            // SAFETY: just detected; the rest is the caller's promise.
            unsafe { lookup_vbmi(table, out) }
        } else {
            // SAFETY: the caller's promise.
            unsafe { crate::tiled::lookup(table, out) }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn requant16<const ADD: bool>(acc: *const i32, requant: Requant, x: Out<i16>) {
        // SAFETY: the caller promises PANEL parameters and accumulators for each row; masks keep x inside it.
        unsafe {
            let min = _mm512_set1_epi16(-i16::MAX);
            for i in 0..x.rows {
                let t = shifted(acc.add(i * Self::PANEL), &requant);
                for (half, &t) in t.iter().enumerate() {
                    let mask = mask32(x.cols.saturating_sub(32 * half));
                    let mult = _mm512_loadu_si512(requant.mult.add(32 * half).cast());
                    let at = x.ptr.add(i * x.stride).wrapping_add(32 * half);
                    let update = _mm512_mulhrs_epi16(in_order32(t), mult);
                    let new = if ADD {
                        let old = _mm512_maskz_loadu_epi16(mask, at);
                        _mm512_max_epi16(_mm512_adds_epi16(old, update), min)
                    } else {
                        update
                    };
                    _mm512_mask_storeu_epi16(at, mask, new);
                }
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn reorder8(staged: *const i8, order: *const u8, out: Out<i8>) {
        // SAFETY: the caller promises WINDOW values in each row of staged, as many places, and the rows of out;
        // masks keep stores inside them.
        unsafe {
            for half in 0..2 {
                let places = _mm512_cvtepu8_epi16(_mm256_loadu_si256(order.add(32 * half).cast()));
                let mask = mask32(out.cols.saturating_sub(32 * half));
                for i in 0..out.rows {
                    let words = |half: usize| {
                        let staged = staged.add(i * Self::STAGED + 32 * half);
                        _mm512_cvtepi8_epi16(_mm256_loadu_si256(staged.cast()))
                    };
                    let y = _mm512_permutex2var_epi16(words(0), places, words(1));
                    let at = out.ptr.add(i * out.stride).wrapping_add(32 * half);
                    _mm512_mask_cvtepi16_storeu_epi8(at, mask, y);
                }
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn reorder16(staged: *const i16, order: *const u8, x: Out<i16>) {
        // SAFETY: as in reorder8.
        unsafe {
            let min = _mm512_set1_epi16(-i16::MAX);
            for half in 0..2 {
                let places = _mm512_cvtepu8_epi16(_mm256_loadu_si256(order.add(32 * half).cast()));
                let mask = mask32(x.cols.saturating_sub(32 * half));
                for i in 0..x.rows {
                    let words = |half: usize| {
                        _mm512_loadu_si512(staged.add(i * Self::STAGED + 32 * half).cast())
                    };
                    let update = _mm512_permutex2var_epi16(words(0), places, words(1));
                    let at = x.ptr.add(i * x.stride).wrapping_add(32 * half);
                    let old = _mm512_maskz_loadu_epi16(mask, at);
                    let new = _mm512_max_epi16(_mm512_adds_epi16(old, update), min);
                    _mm512_mask_storeu_epi16(at, mask, new);
                }
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn softmax(logits: *const i32, tokens: usize, mult: i32, probs: *mut u8) -> (i32, i32) {
        // SAFETY: the caller promises tokens rounded up to 64 logits and probabilities.
        unsafe {
            let mut max = _mm512_set1_epi32(i32::MIN);
            for j in (0..tokens).step_by(16) {
                let a = _mm512_loadu_si512(logits.add(j).cast());
                max = _mm512_mask_max_epi32(max, mask16(tokens - j), max, a);
            }
            let max = _mm512_set1_epi32(_mm512_reduce_max_epi32(max));
            let cap = _mm512_set1_epi32(logit_cap(mult));
            let mult = _mm512_set1_epi32(mult);
            let half = _mm512_set1_epi32(1 << 19);
            let table = [
                _mm512_loadu_si512(EXP2_DOUBLED.as_ptr().cast()),
                _mm512_loadu_si512(EXP2_DOUBLED.as_ptr().add(32).cast()),
            ];
            // Shifts every table entry to 0: what stands for the keys past the end.
            let nothing = _mm512_set1_epi32(2047);
            let (ones, one8) = (_mm512_set1_epi16(1), _mm512_set1_epi8(1));
            let eight = _mm512_set1_epi16(8);
            let (mut sum12, mut sum8) = (_mm512_setzero_si512(), _mm512_setzero_si512());
            for j in (0..tokens).step_by(64) {
                let exponent = |v: usize| {
                    let at = j + 16 * v;
                    let a = _mm512_loadu_si512(logits.add(at).cast());
                    let d = _mm512_min_epi32(_mm512_sub_epi32(max, a), cap);
                    let u = _mm512_add_epi32(_mm512_mullo_epi32(d, mult), half);
                    _mm512_mask_srli_epi32::<20>(nothing, mask16(tokens.saturating_sub(at)), u)
                };
                let e12 = |u: __m512i| {
                    let e = _mm512_permutex2var_epi16(table[0], u, table[1]);
                    let e = _mm512_srlv_epi16(e, _mm512_srli_epi16::<6>(u));
                    _mm512_srli_epi16::<1>(_mm512_add_epi16(e, ones))
                };
                let low = e12(_mm512_packus_epi32(exponent(0), exponent(1)));
                let high = e12(_mm512_packus_epi32(exponent(2), exponent(3)));
                sum12 =
                    _mm512_add_epi32(sum12, _mm512_madd_epi16(_mm512_add_epi16(low, high), ones));
                let low = _mm512_srli_epi16::<4>(_mm512_add_epi16(low, eight));
                let high = _mm512_srli_epi16::<4>(_mm512_add_epi16(high, eight));
                let e8 = in_order64(_mm512_packus_epi16(low, high));
                sum8 = _mm512_dpbusd_epi32(sum8, e8, one8);
                _mm512_storeu_si512(probs.add(j).cast(), e8);
            }
            (
                _mm512_reduce_add_epi32(sum12),
                _mm512_reduce_add_epi32(sum8),
            )
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn attention_output(
        acc: *const i32,
        means: *const i32,
        scales: &[RowScale],
        out: Out<i8>,
    ) {
        // SAFETY: the caller promises PANEL means and accumulators for each row; the mask keeps stores
        // inside it.
        unsafe {
            let (eight, offset) = (_mm512_set1_epi32(8), _mm512_set1_epi16(32));
            let mask = mask64(out.cols);
            for (i, scale) in scales.iter().enumerate() {
                let lost = _mm512_set1_epi32(scale.lost);
                let half = _mm512_set1_epi32(1 << (scale.shift - 1));
                let shift = _mm_cvtsi32_si128(scale.shift as i32);
                let mult = _mm512_set1_epi16(scale.mult);
                let t = |v: usize| {
                    let a = _mm512_loadu_si512(acc.add(i * Self::PANEL + 16 * v).cast());
                    let mean = _mm512_loadu_si512(means.add(16 * v).cast());
                    let lost = _mm512_add_epi32(_mm512_mullo_epi32(mean, lost), eight);
                    let num =
                        _mm512_add_epi32(_mm512_slli_epi32::<4>(a), _mm512_srai_epi32::<4>(lost));
                    _mm512_sra_epi32(_mm512_add_epi32(num, half), shift)
                };
                let o = |t: __m512i| {
                    let z = _mm512_mulhrs_epi16(t, mult);
                    _mm512_srai_epi16::<6>(_mm512_adds_epi16(z, offset))
                };
                let low = o(_mm512_packs_epi32(t(0), t(1)));
                let high = o(_mm512_packs_epi32(t(2), t(3)));
                let y = in_order64(_mm512_packs_epi16(low, high));
                _mm512_mask_storeu_epi8(out.ptr.add(i * out.stride), mask, y);
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn layer_norm(norm: &LayerNorm, x: &[i16], out: &mut [i8]) {
        let d = x.len();
        let (sum, squares) = sums(x);
        let moments = Moments::new(sum, squares, d, norm.epsilon);
        let right = moments.bits.saturating_sub(10);
        // D*x - S and, where it is shifted right, the rounding half.
        let offset = _mm512_set1_epi32((1 << right >> 1) - sum);
        let right = _mm_cvtsi32_si128(right as i32);
        let left = _mm_cvtsi32_si128(10u32.saturating_sub(moments.bits) as i32);
        let frac = _mm_cvtsi32_si128(norm.frac.into());
        let scale = _mm512_set1_epi16(d as i16);
        let inv = _mm512_set1_epi16(moments.inv);
        for j in (0..d).step_by(32) {
            let mask = mask32(d - j);
            // SAFETY: the mask keeps the loads inside slices of d values.
            let (x, gain, bias) = unsafe {
                (
                    _mm512_maskz_loadu_epi16(mask, x.as_ptr().add(j)),
                    _mm512_maskz_loadu_epi16(mask, norm.gain.as_ptr().add(j)),
                    _mm512_maskz_loadu_epi16(mask, norm.bias.as_ptr().add(j)),
                )
            };
            let (low, high) = (_mm512_mullo_epi16(x, scale), _mm512_mulhi_epi16(x, scale));
            let t = |product: __m512i| {
                _mm512_sll_epi32(
                    _mm512_sra_epi32(_mm512_add_epi32(product, offset), right),
                    left,
                )
            };
            let t = _mm512_packs_epi32(
                t(_mm512_unpacklo_epi16(low, high)),
                t(_mm512_unpackhi_epi16(low, high)),
            );
            let n = _mm512_mulhrs_epi16(t, inv);
            let y = _mm512_sra_epi16(_mm512_adds_epi16(_mm512_mulhrs_epi16(n, gain), bias), frac);
            // SAFETY: the mask keeps the store inside a slice of d values.
            unsafe { _mm512_mask_cvtsepi16_storeu_epi8(out.as_mut_ptr().add(j), mask, y) };
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn probe(iterations: u32) -> (u64, i32) {
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
}
