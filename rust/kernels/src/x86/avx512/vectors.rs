//! Vectors of 64 bytes: masks, lane orders, stores and sums.

use std::arch::x86_64::*;

/// Returns the mask of the first `n` of 64 lanes.
#[inline]
pub(super) fn mask64(n: usize) -> u64 {
    if n >= 64 {
        u64::MAX
    } else {
        (1 << n) - 1
    }
}

/// Returns the mask of the first `n` of 32 lanes.
#[inline]
pub(super) fn mask32(n: usize) -> u32 {
    mask64(n.min(32)) as u32
}

/// Returns the mask of the first `n` of 16 lanes.
#[inline]
pub(super) fn mask16(n: usize) -> u16 {
    mask64(n.min(16)) as u16
}

/// Undoes the lane order of two levels of packing, 4 x 16 numbers to 64 bytes.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
pub(super) fn in_order64(x: __m512i) -> __m512i {
    _mm512_permutexvar_epi32(
        _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15),
        x,
    )
}

/// Undoes the lane order of one level of packing, 2 x 16 numbers to 32 words.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
pub(super) fn in_order32(x: __m512i) -> __m512i {
    _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), x)
}

/// Puts 32 words in the lane order that one level of packing produces.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
pub(super) fn in_pack_order(x: __m512i) -> __m512i {
    _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7), x)
}

/// Stores the first `n` of 64 bytes. (Masked stores are slower on some CPUs.)
///
/// # Safety
/// They can be written.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
pub(super) unsafe fn put8(to: *mut i8, n: usize, x: __m512i) {
    // SAFETY: the caller's promise; the mask keeps the store inside the bytes.
    unsafe {
        if n >= 64 {
            _mm512_storeu_si512(to.cast(), x);
        } else {
            _mm512_mask_storeu_epi8(to, mask64(n), x);
        }
    }
}

/// Stores the first `n` of 32 words.
///
/// # Safety
/// They can be written.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
pub(super) unsafe fn put16(to: *mut i16, n: usize, x: __m512i) {
    // SAFETY: the caller's promise; the mask keeps the store inside the words.
    unsafe {
        if n >= 32 {
            _mm512_storeu_si512(to.cast(), x);
        } else {
            _mm512_mask_storeu_epi16(to, mask32(n), x);
        }
    }
}

/// Stores the numbers of a vector in an array.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
pub(super) fn numbers(x: __m512i) -> [i32; 16] {
    let mut numbers = [0; 16];
    // SAFETY: 16 numbers.
    unsafe { _mm512_storeu_si512(numbers.as_mut_ptr().cast(), x) };
    numbers
}

/// Returns the larger number (`MAX`) or the sum of each lane.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
pub(super) fn larger_or_sum<const MAX: bool>(a: __m512i, b: __m512i) -> __m512i {
    if MAX {
        _mm512_max_epi32(a, b)
    } else {
        _mm512_add_epi32(a, b)
    }
}

/// Returns the largest number (`MAX`) or the sum of each four lanes of four vectors: that of lanes
/// 4 * l to 4 * l + 3 of vector i is in lane 4 * l + i.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
pub(super) fn four_lanes<const MAX: bool>([a, b, c, d]: [__m512i; 4]) -> __m512i {
    let pairs =
        |a, b| larger_or_sum::<MAX>(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let (ab, cd) = (pairs(a, b), pairs(c, d));
    larger_or_sum::<MAX>(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd))
}

/// Adds the words of each pair, times `ones`, to a sum. (With ones, the intrinsic compiles to two
/// instructions.)
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
pub(super) fn add_words(mut sums: __m512i, x: __m512i, ones: __m512i) -> __m512i {
    // SAFETY: arithmetic in registers, with the features that the function asks for.
    unsafe {
        std::arch::asm!(
            "vpdpwssd {0}, {1}, {2}",
            inout(zmm_reg) sums,
            in(zmm_reg) x,
            in(zmm_reg) ones,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sums
}
