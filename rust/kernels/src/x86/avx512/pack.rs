//! Packs codes, keys and values, and expands packed weights.

use std::arch::x86_64::*;

use super::vectors::{mask64, put8};
use crate::tiled::{panels, Layout};
use crate::MatrixView;

/// Transposes 16 rows of 16 groups of 4 bytes.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn transposed(rows: &[__m512i; 16]) -> [__m512i; 16] {
    let mut t = *rows;
    for i in (0..16).step_by(2) {
        t[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    // u[4 * i + j] has, in lane l, column 4 * l + j of rows 4 * i to 4 * i + 3.
    let mut u = t;
    for i in (0..16).step_by(4) {
        u[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        u[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        u[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        u[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    let mut out = u;
    for j in 0..4 {
        let lanes = lanes_transposed([u[j], u[4 + j], u[8 + j], u[12 + j]]);
        for (l, lane) in lanes.into_iter().enumerate() {
            out[4 * l + j] = lane;
        }
    }
    out
}

/// Gathers lane `l` of each input in output `l`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn lanes_transposed(x: [__m512i; 4]) -> [__m512i; 4] {
    let low = _mm512_shuffle_i32x4::<0x44>(x[0], x[1]);
    let high = _mm512_shuffle_i32x4::<0xee>(x[0], x[1]);
    let (low2, high2) = (
        _mm512_shuffle_i32x4::<0x44>(x[2], x[3]),
        _mm512_shuffle_i32x4::<0xee>(x[2], x[3]),
    );
    [
        _mm512_shuffle_i32x4::<0x88>(low, low2),
        _mm512_shuffle_i32x4::<0xdd>(low, low2),
        _mm512_shuffle_i32x4::<0x88>(high, high2),
        _mm512_shuffle_i32x4::<0xdd>(high, high2),
    ]
}

/// Interleaves four rows of 64 bytes to 64 groups of 4 bytes.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn interleaved(rows: [__m512i; 4]) -> [__m512i; 4] {
    let (low, high) = (
        [
            _mm512_unpacklo_epi8(rows[0], rows[1]),
            _mm512_unpacklo_epi8(rows[2], rows[3]),
        ],
        [
            _mm512_unpackhi_epi8(rows[0], rows[1]),
            _mm512_unpackhi_epi8(rows[2], rows[3]),
        ],
    );
    lanes_transposed([
        _mm512_unpacklo_epi16(low[0], low[1]),
        _mm512_unpackhi_epi16(low[0], low[1]),
        _mm512_unpacklo_epi16(high[0], high[1]),
        _mm512_unpackhi_epi16(high[0], high[1]),
    ])
}

/// Computes [`Layout::encode`]; codes are offset by 0 or 128.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn encode(input: MatrixView<i8>, k: usize, codes: &mut [u8], offset: u8) {
    let offset = _mm512_set1_epi8(offset as i8);
    for (codes, i) in codes.chunks_exact_mut(k).zip(0..input.rows()) {
        let row = input.row(i);
        for (codes, row) in codes.chunks_mut(64).zip(row.chunks(64)) {
            let n = row.len();
            // SAFETY: the mask keeps the load inside the row; there are not fewer codes.
            unsafe {
                let row = _mm512_maskz_loadu_epi8(mask64(n), row.as_ptr());
                let row = _mm512_xor_si512(row, offset);
                put8(codes.as_mut_ptr().cast(), n, row);
            }
        }
    }
}

/// Computes [`Layout::pack_keys`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn pack_keys<L: Layout>(keys: MatrixView<i8>, packed: &mut [i8], bias: &mut [i32]) {
    let k = keys.cols().next_multiple_of(L::STEP);
    let offset = _mm512_set1_epi8(L::CODE_OFFSET as i8);
    for (first, width) in panels::<L>(bias.len()) {
        let vectors = width / 16;
        let panel = &mut packed[first * k..][..width * k];
        for v in 0..vectors {
            let at = first + 16 * v;
            let mut sums = _mm512_setzero_si512();
            for (c, groups) in panel.chunks_mut(16 * 4 * width).enumerate() {
                let cols = mask64(keys.cols() - 64 * c);
                let mut rows = [_mm512_setzero_si512(); 16];
                for (row, j) in rows.iter_mut().zip(at..keys.rows()) {
                    // SAFETY: the mask keeps the load inside the row.
                    *row = unsafe { _mm512_maskz_loadu_epi8(cols, keys.row(j)[64 * c..].as_ptr()) };
                }
                let groups = groups.chunks_exact_mut(4 * width);
                for (group, codes) in groups.zip(transposed(&rows)) {
                    sums = _mm512_dpbusd_epi32(sums, offset, codes);
                    let to = &mut group[64 * v..][..64];
                    // SAFETY: 64 bytes.
                    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), codes) };
                }
            }
            let bias = &mut bias[at..at + 16];
            let sums = _mm512_sub_epi32(_mm512_setzero_si512(), sums);
            // SAFETY: 16 numbers.
            unsafe { _mm512_storeu_si512(bias.as_mut_ptr().cast(), sums) };
        }
    }
}

/// Computes [`Layout::pack_values`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn pack_values<L: Layout>(values: MatrixView<i8>, packed: &mut [i8], sums: &mut [i32]) {
    let k = values.rows().next_multiple_of(L::STEP);
    let ones = _mm512_set1_epi8(1);
    sums.fill(0);
    for (first, width) in panels::<L>(packed.len() / k) {
        let cols = mask64(width.min(values.cols() - first));
        let mut column_sums = [_mm512_setzero_si512(); 4];
        let groups = packed[first * k..][..width * k].chunks_exact_mut(4 * width);
        for (group, j) in groups.zip((0..).step_by(4)) {
            let row = |j: usize| {
                if j < values.rows() {
                    // SAFETY: the mask keeps the load inside the row.
                    unsafe { _mm512_maskz_loadu_epi8(cols, values.row(j)[first..].as_ptr()) }
                } else {
                    _mm512_setzero_si512()
                }
            };
            let codes = interleaved([row(j), row(j + 1), row(j + 2), row(j + 3)]);
            let codes = codes.into_iter().zip(&mut column_sums);
            for (to, (codes, sums)) in group.chunks_exact_mut(64).zip(codes) {
                *sums = _mm512_dpbusd_epi32(*sums, ones, codes);
                // SAFETY: 64 bytes.
                unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), codes) };
            }
        }
        let sums = sums[first..][..width].chunks_exact_mut(16);
        for (to, sums) in sums.zip(column_sums) {
            // SAFETY: 16 numbers.
            unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), sums) };
        }
    }
}

/// Computes [`Layout::expand_8_bit`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn expand(stored: &[u8], bytes: usize, nibbles: usize, panel: &mut [i8]) {
    let signed = _mm512_broadcast_i32x4(_mm_setr_epi8(
        0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1,
    ));
    let groups = panel.chunks_exact_mut(bytes + nibbles);
    for (group, stored) in groups.zip(stored.chunks_exact(bytes + nibbles / 2)) {
        let (whole, halves) = stored.split_at(bytes);
        for (to, from) in group.chunks_exact_mut(64).zip(whole.chunks_exact(64)) {
            // SAFETY: both have 64 bytes.
            unsafe {
                _mm512_storeu_si512(
                    to.as_mut_ptr().cast(),
                    _mm512_loadu_si512(from.as_ptr().cast()),
                );
            }
        }
        let to = group[bytes..].chunks_exact_mut(64);
        for (to, from) in to.zip(halves.chunks_exact(32)) {
            // SAFETY: one has 64 bytes, the other 32.
            unsafe {
                let bytes = _mm512_cvtepu8_epi16(_mm256_loadu_si256(from.as_ptr().cast()));
                // (bytes | bytes << 4) & 0x0f0f: a nibble in each byte.
                let nibbles = _mm512_ternarylogic_epi32::<0xe0>(
                    _mm512_set1_epi8(15),
                    bytes,
                    _mm512_slli_epi16::<4>(bytes),
                );
                _mm512_storeu_si512(to.as_mut_ptr().cast(), _mm512_shuffle_epi8(signed, nibbles));
            }
        }
    }
}
