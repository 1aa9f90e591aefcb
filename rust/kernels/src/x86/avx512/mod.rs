//! AVX-512. With VNNI (`vnni`) `vpdpbusd` multiplies unsigned activations (code + 128) by signed weights, exactly;
//! with AMX (`amx`) `tdpbssd` multiplies tiles of both as they are. Weights are packed alike, and everything but the
//! tiles is the same.

// Intrinsics are named as the vendor names them, dozens in a file.
pub(crate) mod amx;
#[allow(clippy::wildcard_imports)]
mod vnni;

use std::arch::asm;
use std::arch::x86_64::*;

use crate::scalar::{logit_cap, Moments, EXP2};
use crate::tiled::{panels, Isa, Out, Product, Requant, RowScale, Sums, ToCodes};
use crate::{LayerNorm, Rows, RowsMut};

/// The tiers without and with AMX. Their functions need AVX-512 F, BW, VL, DQ and VNNI, and with `AMX` its tiles of 8-bit
/// numbers; the table look-up uses VBMI where the CPU has it.
pub(crate) struct Avx512<const AMX: bool>;

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

/// The columns of 16 rows of 16 groups of 4 bytes.
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

/// Output `l` has lane `l` of each input.
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

/// Four rows of 64 bytes as 64 groups of a byte of each.
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

/// Stores the first `n` of 64 bytes. (Masked stores are slower on some CPUs.)
///
/// # Safety
/// They can be written.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
unsafe fn put8(to: *mut i8, n: usize, x: __m512i) {
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
unsafe fn put16(to: *mut i16, n: usize, x: __m512i) {
    // SAFETY: the caller's promise; the mask keeps the store inside the words.
    unsafe {
        if n >= 32 {
            _mm512_storeu_si512(to.cast(), x);
        } else {
            _mm512_mask_storeu_epi16(to, mask32(n), x);
        }
    }
}

/// 64 accumulators in memory.
///
/// # Safety
/// They can be read.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn accumulators(acc: *const i32) -> [__m512i; 4] {
    // SAFETY: the caller's promise.
    std::array::from_fn(|v| unsafe { _mm512_loadu_si512(acc.add(16 * v).cast()) })
}

/// t of 64 accumulators (which hold the rounding half), as words in pack order: columns 0-31, then 32-63.
///
/// # Safety
/// 64 shifts can be read.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
unsafe fn shifted(acc: [__m512i; 4], requant: &Requant) -> [__m512i; 2] {
    let mut t = acc;
    for (v, t) in t.iter_mut().enumerate() {
        // SAFETY: v < 4, the caller promises 64 of each.
        unsafe {
            *t = _mm512_srav_epi32(*t, _mm512_loadu_si512(requant.right.add(16 * v).cast()));
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

/// Makes codes of the accumulators of a panel's rows.
struct Codes {
    mult: [__m512i; 2],
    offset: __m512i,
}

impl Codes {
    /// # Safety
    /// 64 parameters can be read.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    unsafe fn new(requant: &Requant, offset: i16) -> Self {
        // SAFETY: the caller's promise.
        let mult = |i: usize| unsafe { _mm512_loadu_si512(requant.mult.add(32 * i).cast()) };
        Self {
            mult: [in_pack_order(mult(0)), in_pack_order(mult(1))],
            offset: _mm512_set1_epi16(offset),
        }
    }

    /// # Safety
    /// 64 parameters can be read.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    unsafe fn of(&self, acc: [__m512i; 4], requant: &Requant) -> __m512i {
        // SAFETY: the caller's promise.
        let t = unsafe { shifted(acc, requant) };
        let y = |half: usize| {
            let z = _mm512_mulhrs_epi16(t[half], self.mult[half]);
            _mm512_srai_epi16::<6>(_mm512_adds_epi16(z, self.offset))
        };
        in_order64(_mm512_packs_epi16(y(0), y(1)))
    }
}

/// Stores the codes of row `i`.
///
/// # Safety
/// The row can be written.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
unsafe fn store8(out: Out<i8>, i: usize, codes: __m512i) {
    // SAFETY: the mask keeps the store inside the row.
    unsafe { put8(out.ptr.add(i * out.stride), out.cols, codes) }
}

/// Adds what becomes of the accumulators to row `i` of the residual, or stores it.
///
/// # Safety
/// 64 parameters can be read; the row is live and nothing else refers to it.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
unsafe fn update<const ADD: bool>(acc: [__m512i; 4], requant: &Requant, x: Out<i16>, i: usize) {
    // SAFETY: the caller's promise; masks keep x inside its row.
    unsafe {
        for (half, t) in shifted(acc, requant).into_iter().enumerate() {
            let cols = x.cols.saturating_sub(32 * half);
            let mult = _mm512_loadu_si512(requant.mult.add(32 * half).cast());
            let at = x.ptr.add(i * x.stride).wrapping_add(32 * half);
            let update = _mm512_mulhrs_epi16(in_order32(t), mult);
            let new = if ADD {
                let old = _mm512_maskz_loadu_epi16(mask32(cols), at);
                _mm512_max_epi16(_mm512_adds_epi16(old, update), _mm512_set1_epi16(-i16::MAX))
            } else {
                update
            };
            put16(at, cols, new);
        }
    }
}

/// A table of 256 codes in registers.
struct Table([__m512i; 4]);

impl Table {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    fn new(table: &[i8; 256]) -> Self {
        // SAFETY: the table has 256 entries.
        Self(std::array::from_fn(|i| unsafe {
            _mm512_loadu_si512(table.as_ptr().add(64 * i).cast())
        }))
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi")]
    #[inline]
    fn look_up(&self, y: __m512i) -> __m512i {
        let low = _mm512_permutex2var_epi8(self.0[0], y, self.0[1]);
        let high = _mm512_permutex2var_epi8(self.0[2], y, self.0[3]);
        _mm512_mask_blend_epi8(_mm512_movepi8_mask(y), high, low)
    }
}

/// # Safety
/// As [`Isa::finish8`] with a table, and the CPU has VBMI.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
unsafe fn finish8_table(
    acc: *const i32,
    requant: Requant,
    offset: i16,
    table: &[i8; 256],
    out: Out<i8>,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let (codes, table) = (Codes::new(&requant, offset), Table::new(table));
        for i in 0..out.rows {
            let y = codes.of(accumulators(acc.add(64 * i)), &requant);
            store8(out, i, table.look_up(y));
        }
    }
}

/// AMX's tile, with `row(i)` for rows 0 to `rows` between its parts.
///
/// # Safety
/// As [`Isa::tile`], with AMX.
#[allow(clippy::inline_always)] // compiled for the features of what it calls
#[inline(always)]
unsafe fn tile_beside(p: Product<u8, i8>, acc: *mut i32, rows: usize, mut row: impl FnMut(usize)) {
    let step = rows.div_ceil(amx::parts(&p));
    let mut done = 0;
    // SAFETY: the caller's promise.
    unsafe {
        amx::tile_beside::<true>(p, acc, 64, || {
            let end = rows.min(done + step);
            (done..end).for_each(&mut row);
            done = end;
        });
    }
}

/// # Safety
/// As [`Isa::tile8_beside`], with AMX.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn tile8_beside(p: Product<u8, i8>, acc: *mut i32, before: Sums<i8>, offset: i16) {
    // SAFETY: the caller's promise.
    unsafe {
        let codes = Codes::new(&before.requant, offset);
        tile_beside(p, acc, before.out.rows, |i| {
            let y = codes.of(accumulators(before.acc.add(64 * i)), &before.requant);
            store8(before.out, i, y);
        });
    }
}

/// # Safety
/// As [`Isa::tile8_beside`] with a table, with AMX and VBMI.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
unsafe fn tile8_table_beside(
    p: Product<u8, i8>,
    acc: *mut i32,
    before: Sums<i8>,
    offset: i16,
    table: &[i8; 256],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let (codes, table) = (Codes::new(&before.requant, offset), Table::new(table));
        tile_beside(p, acc, before.out.rows, |i| {
            let y = codes.of(accumulators(before.acc.add(64 * i)), &before.requant);
            store8(before.out, i, table.look_up(y));
        });
    }
}

/// # Safety
/// As [`Isa::tile16_beside`], with AMX.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn tile16_beside<const ADD: bool>(p: Product<u8, i8>, acc: *mut i32, before: Sums<i16>) {
    // SAFETY: the caller's promise.
    unsafe {
        tile_beside(p, acc, before.out.rows, |i| {
            update::<ADD>(
                accumulators(before.acc.add(64 * i)),
                &before.requant,
                before.out,
                i,
            );
        });
    }
}

/// Vectors with the sums of x (in 32 bits) and of x^2 (in 64 bits).
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn moments(x: &[i16]) -> (__m512i, __m512i) {
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
    (sum, squares)
}

/// The sum of each of 8 vectors of 64-bit numbers.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn reduced64(x: &[__m512i]) -> [i64; 8] {
    let pairs = |i: usize| {
        let (a, b) = (x[i], x[i + 1]);
        _mm512_add_epi64(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b))
    };
    let lanes = |a, b| {
        _mm512_add_epi64(
            _mm512_shuffle_i64x2::<0x88>(a, b),
            _mm512_shuffle_i64x2::<0xdd>(a, b),
        )
    };
    let sums = lanes(lanes(pairs(0), pairs(2)), lanes(pairs(4), pairs(6)));
    let mut numbers = [0; 8];
    // SAFETY: 8 numbers.
    unsafe { _mm512_storeu_si512(numbers.as_mut_ptr().cast(), sums) };
    numbers
}

/// The codes of a row.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn normalized(norm: &LayerNorm, moments: &Moments, x: &[i16], out: &mut [i8]) {
    let d = x.len();
    let right = moments.bits.saturating_sub(10);
    // D*x - S and, where it is shifted right, the rounding half.
    let offset = _mm512_set1_epi32((1 << right >> 1) - moments.sum);
    let right = _mm_cvtsi32_si128(right as i32);
    let left = 10u32.saturating_sub(moments.bits);
    let frac = _mm_cvtsi32_si128(norm.frac.into());
    // D times the even words of x, and times the odd ones.
    let (even, odd) = (
        _mm512_set1_epi32(d as i32),
        _mm512_set1_epi32((d as i32) << 16),
    );
    let inv = _mm512_set1_epi16(moments.inv);
    let codes = |j: usize| {
        let mask = mask32(d.saturating_sub(j));
        // SAFETY: the mask keeps the loads inside slices of d values.
        let load =
            |from: &[i16]| unsafe { _mm512_maskz_loadu_epi16(mask, from.as_ptr().wrapping_add(j)) };
        let x = load(x);
        let t = |scale: __m512i| {
            let t = _mm512_sra_epi32(_mm512_dpwssd_epi32(offset, x, scale), right);
            if left > 0 {
                _mm512_sll_epi32(t, _mm_cvtsi32_si128(left as i32))
            } else {
                t
            }
        };
        let t = _mm512_mask_mov_epi16(t(even), 0xaaaa_aaaa, _mm512_slli_epi32::<16>(t(odd)));
        let n = _mm512_mulhrs_epi16(t, inv);
        let y = _mm512_adds_epi16(_mm512_mulhrs_epi16(n, load(&norm.gain)), load(&norm.bias));
        _mm512_sra_epi16(y, frac)
    };
    for j in (0..d).step_by(64) {
        let y = in_order32(_mm512_packs_epi16(codes(j), codes(j + 32)));
        // SAFETY: the mask keeps the store inside a slice of d values.
        unsafe { put8(out.as_mut_ptr().add(j), d - j, y) };
    }
}

/// The numbers of a vector.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn numbers(x: __m512i) -> [i32; 16] {
    let mut numbers = [0; 16];
    // SAFETY: 16 numbers.
    unsafe { _mm512_storeu_si512(numbers.as_mut_ptr().cast(), x) };
    numbers
}

/// Of each of 16 vectors the largest number (`MAX`) or the sum.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn reduced<const MAX: bool>(x: &[__m512i; 16]) -> __m512i {
    let both = |a, b| {
        if MAX {
            _mm512_max_epi32(a, b)
        } else {
            _mm512_add_epi32(a, b)
        }
    };
    let pairs = |a, b| both(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let fours = |a, b| both(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
    let lanes = |a, b| {
        both(
            _mm512_shuffle_i32x4::<0x88>(a, b),
            _mm512_shuffle_i32x4::<0xdd>(a, b),
        )
    };
    let four = |i: usize| fours(pairs(x[i], x[i + 1]), pairs(x[i + 2], x[i + 3]));
    lanes(lanes(four(0), four(4)), lanes(four(8), four(12)))
}

/// A vector with the largest logit of a row somewhere.
///
/// # Safety
/// `tokens` logits rounded up to 16 can be read.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn maxima(logits: *const i32, tokens: usize) -> __m512i {
    // SAFETY: the caller's promise.
    let load = |j: usize| unsafe { _mm512_loadu_si512(logits.add(j).cast()) };
    let (whole, rest) = (tokens / 16 * 16, tokens % 16);
    let mut max = [_mm512_set1_epi32(i32::MIN); 2];
    for j in (0..whole).step_by(32) {
        max[0] = _mm512_max_epi32(max[0], load(j));
        // Where there is no second vector, the first once more.
        max[1] = _mm512_max_epi32(max[1], load(if j + 16 < whole { j + 16 } else { j }));
    }
    if rest > 0 {
        max[0] = _mm512_mask_max_epi32(max[0], mask16(rest), max[0], load(whole));
    }
    _mm512_max_epi32(max[0], max[1])
}

/// Shifts each word right; a count above 15 gives 0. (The compiler makes two instructions of the intrinsic.)
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn shifted_right(x: __m512i, counts: __m512i) -> __m512i {
    let result;
    // SAFETY: arithmetic in registers, with the features that the function asks for.
    unsafe {
        asm!(
            "vpsrlvw {0}, {1}, {2}",
            out(zmm_reg) result,
            in(zmm_reg) x,
            in(zmm_reg) counts,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    result
}

/// Which of 32 words in pack order are the first `n` columns.
fn live_words(n: usize) -> u32 {
    let live = mask32(n);
    // Bit 8 * l + i is that of column 4 * l + i, and 4 above it that of column 16 + 4 * l + i.
    (0..4).fold(0, |words, l| {
        let part = |first: u32| live >> (first + 4 * l) & 15;
        words | (part(0) | part(16) << 4) << (8 * l)
    })
}

/// e8 of a row, with u = (top - max(a, floor) * mult) >> 20; gives vectors with the sums of e12 and e8. `live` says which
/// words of the last 64 columns are tokens, in pack order.
///
/// # Safety
/// `tokens` logits rounded up to 16 can be read, and as many probabilities rounded up to 64 written. The CPU has the tier's features.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn exponentials(
    logits: *const i32,
    probs: *mut u8,
    tokens: usize,
    live: [u32; 2],
    [top, floor, mult]: [__m512i; 3],
) -> (__m512i, __m512i) {
    // SAFETY: the caller's promise.
    unsafe {
        let exponent = |j: usize| {
            let a = _mm512_loadu_si512(logits.add(j).cast());
            let product = _mm512_mullo_epi32(_mm512_max_epi32(a, floor), mult);
            _mm512_srli_epi32::<20>(_mm512_sub_epi32(top, product))
        };
        let table = [
            _mm512_loadu_si512(EXP2_DOUBLED.as_ptr().cast()),
            _mm512_loadu_si512(EXP2_DOUBLED.as_ptr().add(32).cast()),
        ];
        let (zero, ones) = (_mm512_setzero_si512(), _mm512_set1_epi16(1));
        let (one8, sixteenth) = (_mm512_set1_epi8(1), _mm512_set1_epi16(1 << 11));
        let e12 = |j: usize, second: usize| {
            let u = _mm512_packus_epi32(exponent(j), exponent(second));
            let e = _mm512_permutex2var_epi16(table[0], u, table[1]);
            let e = shifted_right(e, _mm512_srli_epi16::<6>(u));
            // (e + 1) >> 1
            _mm512_avg_epu16(e, zero)
        };
        let (mut sum12, mut sum8) = (zero, zero);
        let mut store = |j: usize, e: [__m512i; 2]| {
            let both = _mm512_madd_epi16(_mm512_add_epi16(e[0], e[1]), ones);
            sum12 = _mm512_add_epi32(sum12, both);
            // (e + 8) >> 4
            let e = e.map(|e| _mm512_mulhrs_epi16(e, sixteenth));
            let e8 = in_order64(_mm512_packus_epi16(e[0], e[1]));
            sum8 = _mm512_dpbusd_epi32(sum8, e8, one8);
            _mm512_storeu_si512(probs.add(j).cast(), e8);
        };
        let blocks = tokens / 64 * 64;
        for j in (0..blocks).step_by(64) {
            let low = e12(j, j + 16);
            let high = e12(j + 32, j + 48);
            store(j, [low, high]);
        }
        if blocks < tokens {
            let pair = |j: usize, mask: u32| {
                if j >= tokens {
                    return zero;
                }
                // Where there is no second vector, the first once more.
                let second = if j + 16 < tokens { j + 16 } else { j };
                let e = e12(j, second);
                _mm512_maskz_mov_epi16(mask, e)
            };
            store(blocks, [pair(blocks, live[0]), pair(blocks + 32, live[1])]);
        }
        (sum12, sum8)
    }
}

// SAFETY: each function does what the trait says of it, for any sizes within its bounds; `tests/tiers.rs` compares them.
unsafe impl<const AMX: bool> Isa for Avx512<AMX> {
    type Weight = i8;
    type Code = u8;
    const ROWS: usize = if AMX { amx::ROWS } else { vnni::ROWS };
    const WHOLE_ROWS: usize = if AMX { amx::WHOLE_ROWS } else { 1 };
    const QUERIES: usize = if AMX { amx::WHOLE_ROWS } else { 2 * vnni::ROWS };
    const PANEL: usize = 64;
    const LANES: usize = 16;
    const GROUP: usize = 4;
    const LOGITS: usize = 16;
    const OVERLAPS: bool = AMX;
    const STEP: usize = if AMX { amx::STEP } else { 4 };
    const CODE_OFFSET: i32 = if AMX { 0 } else { 128 };
    const PROB_OFFSET: i32 = 0;

    fn code(a: i8) -> u8 {
        if AMX {
            a as u8
        } else {
            a as u8 ^ 0x80
        }
    }

    unsafe fn tile(p: Product<u8, i8>, out: *mut i32, out_stride: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            if AMX {
                amx::tile_of::<true>(p, out, out_stride);
            } else {
                vnni::tile_of(p, out, out_stride);
            }
        }
    }

    unsafe fn tile_probs(p: Product<u8, i8>, out: *mut i32, out_stride: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            if AMX {
                amx::tile_of::<false>(p, out, out_stride);
            } else {
                vnni::tile_of(p, out, out_stride);
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn encode(input: Rows<i8>, k: usize, codes: &mut [u8]) {
        let offset = _mm512_set1_epi8(Self::code(0) as i8);
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

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn pack_keys(keys: Rows<i8>, packed: &mut [i8], bias: &mut [i32]) {
        let k = keys.cols().next_multiple_of(Self::STEP);
        let offset = _mm512_set1_epi8(Self::CODE_OFFSET as i8);
        for (first, width) in panels::<Self>(bias.len()) {
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
                        *row = unsafe {
                            _mm512_maskz_loadu_epi8(cols, keys.row(j)[64 * c..].as_ptr())
                        };
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

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn pack_values(values: Rows<i8>, packed: &mut [i8], sums: &mut [i32]) {
        let k = values.rows().next_multiple_of(Self::STEP);
        let ones = _mm512_set1_epi8(1);
        sums.fill(0);
        for (first, width) in panels::<Self>(packed.len() / k) {
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

    fn prefetch(line: *const u8) {
        // SAFETY: a prefetch reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.cast()) }
    }

    unsafe fn begin() {
        if AMX {
            // SAFETY: the caller's promise.
            unsafe { amx::configure() }
        }
    }

    unsafe fn end() {
        if AMX {
            // SAFETY: the caller's promise.
            unsafe { amx::release() }
        }
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
        // SAFETY: the caller promises PANEL parameters and accumulators for each row.
        unsafe {
            let codes = Codes::new(&requant, offset);
            for i in 0..out.rows {
                let acc = accumulators(acc.add(i * Self::PANEL));
                store8(out, i, codes.of(acc, &requant));
            }
        }
    }

    unsafe fn finish8(acc: *const i32, requant: Requant, to: ToCodes, out: Out<i8>) {
        // SAFETY: the caller's promise; VBMI is detected.
        unsafe {
            match to.table {
                Some(table) if is_x86_feature_detected!("avx512vbmi") => {
                    finish8_table(acc, requant, to.offset, table, out);
                }
                Some(table) => {
                    Self::requant8(acc, requant, to.offset, out);
                    Self::lookup(table, out);
                }
                None => Self::requant8(acc, requant, to.offset, out),
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn requant16<const ADD: bool>(acc: *const i32, requant: Requant, x: Out<i16>) {
        // SAFETY: the caller promises PANEL parameters and accumulators for each row.
        unsafe {
            for i in 0..x.rows {
                update::<ADD>(accumulators(acc.add(i * Self::PANEL)), &requant, x, i);
            }
        }
    }

    unsafe fn tile8(
        p: Product<u8, i8>,
        acc: *mut i32,
        requant: Requant,
        to: ToCodes,
        out: Out<i8>,
    ) {
        // SAFETY: the caller's promise; VBMI is detected.
        unsafe {
            if !AMX && vnni::is_whole(&p, out.cols) {
                match to.table {
                    None => return vnni::tile8(p, requant, to.offset, out),
                    Some(table) if is_x86_feature_detected!("avx512vbmi") => {
                        return vnni::tile8_table(p, requant, to.offset, table, out);
                    }
                    Some(_) => {}
                }
            }
            Self::tile(p, acc, Self::PANEL);
            Self::finish8(acc, requant, to, out);
        }
    }

    unsafe fn tile16<const ADD: bool>(
        p: Product<u8, i8>,
        acc: *mut i32,
        requant: Requant,
        x: Out<i16>,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            if !AMX && vnni::is_whole(&p, x.cols) {
                vnni::tile16::<ADD>(p, requant, x);
            } else {
                Self::tile(p, acc, Self::PANEL);
                Self::requant16::<ADD>(acc, requant, x);
            }
        }
    }

    unsafe fn tile8_beside(
        p: Product<u8, i8>,
        acc: *mut i32,
        before: Option<Sums<i8>>,
        to: ToCodes,
    ) {
        // SAFETY: the caller's promise; VBMI is detected.
        unsafe {
            match (before, to.table) {
                (Some(before), None) if AMX => tile8_beside(p, acc, before, to.offset),
                (Some(before), Some(table)) if AMX && is_x86_feature_detected!("avx512vbmi") => {
                    tile8_table_beside(p, acc, before, to.offset, table);
                }
                (before, _) => {
                    Self::tile(p, acc, Self::PANEL);
                    if let Some(Sums { acc, requant, out }) = before {
                        Self::finish8(acc, requant, to, out);
                    }
                }
            }
        }
    }

    unsafe fn tile16_beside<const ADD: bool>(
        p: Product<u8, i8>,
        acc: *mut i32,
        before: Option<Sums<i16>>,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            match before {
                Some(before) if AMX => tile16_beside::<ADD>(p, acc, before),
                before => {
                    Self::tile(p, acc, Self::PANEL);
                    if let Some(Sums { acc, requant, out }) = before {
                        Self::requant16::<ADD>(acc, requant, out);
                    }
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
    unsafe fn softmax(
        logits: *const i32,
        probs: *mut u8,
        strides: [usize; 2],
        tokens: usize,
        mult: i32,
        sums: &mut [(i32, i32)],
    ) {
        let zero = _mm512_setzero_si512();
        let mut max = [zero; 16];
        for (i, max) in max[..sums.len()].iter_mut().enumerate() {
            // SAFETY: the caller promises a row for each sum.
            *max = unsafe { maxima(logits.add(i * strides[0]), tokens) };
        }
        let max = numbers(reduced::<true>(&max));
        let cap = logit_cap(mult);
        let live = [0, 32].map(|first| live_words((tokens % 64).saturating_sub(first)));
        let (mut sum12, mut sum8) = ([zero; 16], [zero; 16]);
        for (i, &max) in max[..sums.len()].iter().enumerate() {
            // d * mult + 2^19 is top - max(a, floor) * mult, whose parts may wrap around.
            let top = max.wrapping_mul(mult).wrapping_add(1 << 19);
            let constants = [top, max.saturating_sub(cap), mult].map(|x| _mm512_set1_epi32(x));
            // SAFETY: as above.
            unsafe {
                let (logits, probs) = (logits.add(i * strides[0]), probs.add(i * strides[1]));
                (sum12[i], sum8[i]) = exponentials(logits, probs, tokens, live, constants);
                if AMX {
                    amx::stay_awake();
                }
            }
        }
        let sum12 = numbers(reduced::<false>(&sum12));
        let sum8 = numbers(reduced::<false>(&sum8));
        for (sums, both) in sums.iter_mut().zip(sum12.into_iter().zip(sum8)) {
            *sums = both;
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
                put8(out.ptr.add(i * out.stride), out.cols, y);
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn layer_norm(norm: &LayerNorm, x: Rows<i16>, mut out: RowsMut<i8>) {
        for first in (0..x.rows()).step_by(16) {
            let rows = first..x.rows().min(first + 16);
            let (mut sums, mut squares) =
                ([_mm512_setzero_si512(); 16], [_mm512_setzero_si512(); 16]);
            for (i, both) in rows.clone().zip(sums.iter_mut().zip(&mut squares)) {
                (*both.0, *both.1) = moments(x.row(i));
            }
            let sums = numbers(reduced::<false>(&sums));
            let squares = [reduced64(&squares[..8]), reduced64(&squares[8..])];
            let both = sums.into_iter().zip(squares.into_iter().flatten());
            let mut moments = [Moments::default(); 16];
            for (moments, (sum, squares)) in moments[..rows.len()].iter_mut().zip(both) {
                *moments = Moments::new(sum, squares, x.cols(), norm.epsilon);
            }
            for (i, moments) in rows.zip(&moments) {
                normalized(norm, moments, x.row(i), out.row_mut(i));
            }
        }
    }

    unsafe fn probe(iterations: u32) -> (u64, i32) {
        // SAFETY: the caller's promise.
        unsafe {
            if AMX {
                amx::probe(iterations)
            } else {
                vnni::probe(iterations)
            }
        }
    }
}
