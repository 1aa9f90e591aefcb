//! Epilogues: rows of 16 accumulators to codes or updates of the residual, and the outputs of
//! attention.

use std::arch::x86_64::*;
use std::array::from_fn;

use super::{bytes, layer_norm_row, softmax_row, store_codes, words, Avx2};
use crate::layers::WINDOW;
use crate::matrix::{on_whole_row, Out};
use crate::tiled::{
    copy_accumulators, row_by_row, Epilogue, Layout, Requant, RowKernels, RowScale, RowSums,
    Staged, UnfinishedTile,
};
use crate::{rotary, LayerNorm, MatrixView, MatrixViewMut};

/// Returns, for each of N parts of 16 bytes, the shuffle that picks the bytes at these places if
/// they are in the part, and zeros otherwise.
#[target_feature(enable = "avx2")]
fn shuffles<const N: usize>(places: __m256i) -> [__m256i; N] {
    from_fn(|part| {
        // A place outside the part gets its top bit set.
        let place = _mm256_sub_epi8(places, _mm256_set1_epi8(16 * part as i8));
        _mm256_adds_epu8(place, _mm256_set1_epi8(0x70))
    })
}

/// Returns the bytes that the shuffles pick from N parts.
#[target_feature(enable = "avx2")]
fn pick<const N: usize>(parts: &[__m256i; N], shuffles: &[__m256i; N]) -> __m256i {
    let picked: [_; N] = from_fn(|part| _mm256_shuffle_epi8(parts[part], shuffles[part]));
    picked
        .into_iter()
        .reduce(|a, b| _mm256_or_si256(a, b))
        .expect("there are parts")
}

/// Requantizes 16 accumulators, which hold the rounding half, to updates.
///
/// # Safety
/// 16 accumulators and parameters can be read.
#[target_feature(enable = "avx2")]
unsafe fn requantized(acc: *const i32, requant: &Requant) -> __m256i {
    let mut t = [_mm256_setzero_si256(); 2];
    for (v, t) in t.iter_mut().enumerate() {
        // SAFETY: v < 2, the caller promises 16 of each.
        unsafe {
            let acc = _mm256_loadu_si256(acc.add(8 * v).cast());
            let right = _mm256_loadu_si256(requant.right.add(8 * v).cast());
            *t = _mm256_srav_epi32(acc, right);
            if requant.shifts_left {
                *t = _mm256_sllv_epi32(*t, _mm256_loadu_si256(requant.left.add(8 * v).cast()));
            }
        }
    }
    // SAFETY: the caller promises 16.
    let mult = unsafe { _mm256_loadu_si256(requant.mult.cast()) };
    _mm256_mulhrs_epi16(words(t[0], t[1]), mult)
}

/// Requantizes rows to codes; `offset` is `64 * zero_point + 32`.
///
/// # Safety
/// As [`RowKernels::finish`].
#[target_feature(enable = "avx2")]
unsafe fn requant8(acc: *const i32, requant: &Requant, offset: i16, out: Out<i8>) {
    let offset = _mm256_set1_epi16(offset);
    for i in 0..out.rows {
        // SAFETY: the caller promises PANEL parameters and accumulators for each row of out.
        let (z, row) = unsafe { (requantized(acc.add(i * Avx2::PANEL), requant), out.row(i)) };
        store_codes(
            row,
            bytes(_mm256_srai_epi16::<6>(_mm256_adds_epi16(z, offset))),
        );
    }
}

/// Looks each code up in the table, in place.
///
/// # Safety
/// As [`RowKernels::finish`].
#[target_feature(enable = "avx2")]
unsafe fn lookup(table: &[i8; 256], out: Out<i8>) {
    if out.cols < 16 {
        // SAFETY: the caller's promise.
        return unsafe { crate::tiled::lookup(table, out) };
    }
    for i in (0..out.rows).step_by(2) {
        // Two rows at once; the last of an odd number with itself.
        // SAFETY: both rows are the caller's and have 16 columns; table parts are 16 of 256 bytes.
        unsafe {
            let row = out.ptr.add(i * out.stride).cast();
            let next = out.ptr.add((i + 1).min(out.rows - 1) * out.stride).cast();
            let y = _mm256_set_m128i(_mm_loadu_si128(next), _mm_loadu_si128(row));
            let index = _mm256_xor_si256(y, _mm256_set1_epi8(-128));
            let low = _mm256_and_si256(index, _mm256_set1_epi8(15));
            let part = |i: usize| {
                let part = _mm_loadu_si128(table.as_ptr().add(16 * i).cast());
                _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(part), low)
            };
            // A tree of selections by the index's upper bits, each moved to its byte's top.
            let bit4 = _mm256_slli_epi16::<3>(index);
            let eight: [_; 8] = from_fn(|i| _mm256_blendv_epi8(part(2 * i), part(2 * i + 1), bit4));
            let bit5 = _mm256_slli_epi16::<2>(index);
            let four: [_; 4] =
                from_fn(|i| _mm256_blendv_epi8(eight[2 * i], eight[2 * i + 1], bit5));
            let bit6 = _mm256_slli_epi16::<1>(index);
            let two: [_; 2] = from_fn(|i| _mm256_blendv_epi8(four[2 * i], four[2 * i + 1], bit6));
            let y = _mm256_blendv_epi8(two[0], two[1], index);
            _mm_storeu_si128(row, _mm256_castsi256_si128(y));
            _mm_storeu_si128(next, _mm256_extracti128_si256::<1>(y));
        }
    }
}

/// Requantizes rows to updates, and adds them to the residual or stores them.
///
/// # Safety
/// As [`RowKernels::finish`].
#[target_feature(enable = "avx2")]
unsafe fn requant16<const ADD: bool>(acc: *const i32, requant: &Requant, x: Out<i16>) {
    let min = _mm256_set1_epi16(-i16::MAX);
    for i in 0..x.rows {
        // SAFETY: the caller promises PANEL parameters and accumulators for each row of x.
        let (update, row) = unsafe { (requantized(acc.add(i * Avx2::PANEL), requant), x.row(i)) };
        on_whole_row::<_, 16>(row, |at| {
            let at = at.cast();
            // SAFETY: the row has 16 words.
            unsafe {
                let new = if ADD {
                    let old = _mm256_loadu_si256(at);
                    _mm256_max_epi16(_mm256_adds_epi16(old, update), min)
                } else {
                    update
                };
                _mm256_storeu_si256(at, new);
            }
        });
    }
}

// SAFETY: each function does what the trait's comment says, for any sizes within the trait's
// bounds; `tests/tiers.rs` compares them with the scalar tier.
unsafe impl RowKernels for Avx2 {
    row_by_row!(softmax_row, layer_norm_row, "avx2");

    #[inline]
    unsafe fn finish(tile: &UnfinishedTile) {
        let (acc, requant) = (tile.acc, &tile.requant);
        // SAFETY: the caller's promise.
        unsafe {
            match tile.epilogue {
                Epilogue::Codes { offset, table, out } => {
                    requant8(acc, requant, offset, out);
                    if let Some(table) = table {
                        lookup(table, out);
                    }
                }
                Epilogue::Add { x } => requant16::<true>(acc, requant, x),
                Epilogue::Updates { out } => requant16::<false>(acc, requant, out),
                Epilogue::Copy { out } => copy_accumulators(acc, Avx2::PANEL, out),
            }
        }
    }

    #[target_feature(enable = "avx2")]
    unsafe fn reorder_codes(staged: Staged, out: Out<i8>) {
        // SAFETY: the caller promises WINDOW values in each row of staged, as many places, and the
        // rows of out; a short one is first written to a buffer.
        unsafe {
            let places = |half: usize| _mm256_loadu_si256(staged.order.add(32 * half).cast());
            let shuffles: [[_; 4]; 2] = from_fn(|half| shuffles(places(half)));
            for i in 0..out.rows {
                let values = staged.values.add(i * Avx2::STAGED);
                let parts = from_fn(|part| {
                    _mm256_broadcastsi128_si256(_mm_loadu_si128(values.add(16 * part).cast()))
                });
                on_whole_row::<_, WINDOW>(out.row(i), |at| {
                    for (half, shuffles) in shuffles.iter().enumerate() {
                        _mm256_storeu_si256(at.add(32 * half).cast(), pick(&parts, shuffles));
                    }
                });
            }
        }
    }

    #[target_feature(enable = "avx2")]
    unsafe fn reorder_updates(staged: Staged, x: Out<i16>) {
        // SAFETY: as in reorder_codes.
        unsafe {
            // Places of bytes: 2 * place and the next.
            let shuffles: [[_; 8]; 4] = from_fn(|quarter| {
                let places =
                    _mm256_cvtepu8_epi16(_mm_loadu_si128(staged.order.add(16 * quarter).cast()));
                let twice = _mm256_slli_epi16::<1>(places);
                let both = _mm256_or_si256(twice, _mm256_slli_epi16::<8>(twice));
                shuffles(_mm256_or_si256(both, _mm256_set1_epi16(1 << 8)))
            });
            let min = _mm256_set1_epi16(-i16::MAX);
            for i in 0..x.rows {
                let values = staged.values.add(2 * i * Avx2::STAGED);
                let parts = from_fn(|part| {
                    _mm256_broadcastsi128_si256(_mm_loadu_si128(values.add(16 * part).cast()))
                });
                on_whole_row::<_, WINDOW>(x.row(i), |at| {
                    for (quarter, shuffles) in shuffles.iter().enumerate() {
                        let at = at.add(16 * quarter).cast();
                        let sum = _mm256_adds_epi16(_mm256_loadu_si256(at), pick(&parts, shuffles));
                        _mm256_storeu_si256(at, _mm256_max_epi16(sum, min));
                    }
                });
            }
        }
    }

    #[target_feature(enable = "avx2")]
    unsafe fn rotate(z: &[i16], even: &[i16], odd: &[i16], out: &mut [i8]) {
        let whole = z.len() / 32 * 32;
        let half = _mm256_set1_epi32(1 << 19);
        for at in (0..whole).step_by(32) {
            let sixteen = |at: usize| {
                // SAFETY: 16 values from `at` on are inside the slices, whose lengths agree.
                let load = |from: &[i16]| unsafe { _mm256_loadu_si256(from[at..].as_ptr().cast()) };
                let sum =
                    |factors| _mm256_add_epi32(_mm256_madd_epi16(load(z), load(factors)), half);
                let even = _mm256_srai_epi32::<20>(sum(even));
                // The upper half of each sum is shifted by 20 so.
                let odd = _mm256_srai_epi32::<4>(sum(odd));
                _mm256_blend_epi16::<0b1010_1010>(even, odd)
            };
            let codes = _mm256_packs_epi16(sixteen(at), sixteen(at + 16));
            let codes = _mm256_permute4x64_epi64::<0b11_01_10_00>(codes);
            // SAFETY: 32 codes from `at` on are inside the slice.
            unsafe { _mm256_storeu_si256(out[at..].as_mut_ptr().cast(), codes) };
        }
        rotary::rotate(
            &z[whole..],
            &even[whole..],
            &odd[whole..],
            &mut out[whole..],
        );
    }

    #[target_feature(enable = "avx2")]
    unsafe fn attention_output(
        acc: *const i32,
        means: *const i32,
        scales: &[RowScale],
        out: Out<i8>,
    ) {
        let (eight, offset) = (_mm256_set1_epi32(8), _mm256_set1_epi16(32));
        for (i, scale) in scales.iter().enumerate() {
            let residue = _mm256_set1_epi32(scale.rounding_residue);
            let half = _mm256_set1_epi32(1 << (scale.shift - 1));
            let shift = _mm_cvtsi32_si128(scale.shift as i32);
            let mut t = [_mm256_setzero_si256(); 2];
            for (v, t) in t.iter_mut().enumerate() {
                // SAFETY: the caller promises PANEL means and accumulators for each row.
                let (a, mean) = unsafe {
                    (
                        _mm256_loadu_si256(acc.add(i * Avx2::PANEL + 8 * v).cast()),
                        _mm256_loadu_si256(means.add(8 * v).cast()),
                    )
                };
                let residue = _mm256_add_epi32(_mm256_mullo_epi32(mean, residue), eight);
                let num =
                    _mm256_add_epi32(_mm256_slli_epi32::<4>(a), _mm256_srai_epi32::<4>(residue));
                *t = _mm256_sra_epi32(_mm256_add_epi32(num, half), shift);
            }
            let z = _mm256_mulhrs_epi16(words(t[0], t[1]), _mm256_set1_epi16(scale.mult));
            // SAFETY: the caller promises a scale for each row of out.
            let row = unsafe { out.row(i) };
            store_codes(
                row,
                bytes(_mm256_srai_epi16::<6>(_mm256_adds_epi16(z, offset))),
            );
        }
    }
}
