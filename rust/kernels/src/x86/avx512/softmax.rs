//! The softmax of logits.

use std::arch::asm;
use std::arch::x86_64::*;

use super::vectors::{add_words, four_lanes, in_order64, larger_or_sum, mask16, mask32, numbers};
use crate::scalar::EXP2;
use crate::tiled::{RowScale, RowScales, RowSums};
use crate::HeadParams;

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

/// Returns a vector that has the largest logit of a row in one of its lanes.
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
        // If there is no second vector, the first once more.
        max[1] = _mm512_max_epi32(max[1], load(if j + 16 < whole { j + 16 } else { j }));
    }
    if rest > 0 {
        max[0] = _mm512_mask_max_epi32(max[0], mask16(rest), max[0], load(whole));
    }
    _mm512_max_epi32(max[0], max[1])
}

/// Shifts each word right; a count above 15 gives 0. (The intrinsic compiles to two instructions.)
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

/// Returns the mask of the first `n` columns among 32 words in pack order.
fn live_words(n: usize) -> u32 {
    let live = mask32(n);
    // Bit 8 * l + i is that of column 4 * l + i, and 4 above it that of column 16 + 4 * l + i.
    (0..4).fold(0, |words, l| {
        let part = |first: u32| live >> (first + 4 * l) & 15;
        words | (part(0) | part(16) << 4) << (8 * l)
    })
}

/// Rows whose maxima, sums and [`Rest`] are computed together.
const GROUP: usize = 4;

/// Columns of a [`Rest`], at most: a vector of each row.
const MOST_REST: usize = 16;

/// Computes e8 of rows of logits.
///
/// The exponent u = floor(d * mult + 1/2) is computed in floats: d and the head's factor have at
/// most 24 significant bits, so they are exact, and a sum that is rounded towards 0 keeps its
/// integer part while that has 24 bits. A u above 65535 becomes 65535, whose shift gives 0 as well.
///
/// If `SMALL`, that factor is at most 2^20: then 1/2 - 2^23 * mult has 24 bits, too, and d is not
/// converted. In its place stands 2^23 + d, whose bits are those of 2^23 plus d.
struct Exponentials<const SMALL: bool> {
    tokens: usize,
    /// Masks of the tokens among the last 64 columns, in pack order.
    live: [u32; 2],
    /// The head's factor by 2^-20.
    mult: __m512,
    /// u = d * mult + constant, with d as it stands in the registers.
    constant: __m512,
    table: [__m512i; 2],
}

impl<const SMALL: bool> Exponentials<SMALL> {
    const OFFSET: f32 = (1 << 23) as f32;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    fn new(tokens: usize, mult: i32) -> Self {
        let mult = _mm512_set1_ps(mult as f32 / (1 << 20) as f32);
        let half = _mm512_set1_ps(0.5);
        // SAFETY: 64 words.
        let table =
            unsafe { [0, 32].map(|f| _mm512_loadu_si512(EXP2_DOUBLED.as_ptr().add(f).cast())) };
        Self {
            tokens,
            live: [0, 32].map(|first| live_words((tokens % 64).saturating_sub(first))),
            mult,
            constant: if SMALL {
                _mm512_fnmadd_ps(_mm512_set1_ps(Self::OFFSET), mult, half)
            } else {
                half
            },
            table,
        }
    }

    /// Returns what logits are subtracted from, given the largest one of their row in all lanes.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    fn minuend(max: __m512i) -> __m512i {
        if SMALL {
            _mm512_add_epi32(max, _mm512_set1_epi32(Self::OFFSET.to_bits() as i32))
        } else {
            max
        }
    }

    /// Returns e12 of two vectors of logits in pack order.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    fn e12(&self, minuends: [__m512i; 2], logits: [__m512i; 2]) -> __m512i {
        const TRUNCATE: i32 = _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC;
        let exponent = |v: usize| {
            let d = _mm512_sub_epi32(minuends[v], logits[v]);
            let d = if SMALL {
                _mm512_castsi512_ps(d)
            } else {
                _mm512_cvtepi32_ps(d)
            };
            _mm512_cvttps_epi32(_mm512_fmadd_round_ps::<TRUNCATE>(
                d,
                self.mult,
                self.constant,
            ))
        };
        let u = _mm512_packus_epi32(exponent(0), exponent(1));
        let e = _mm512_permutex2var_epi16(self.table[0], u, self.table[1]);
        let e = shifted_right(e, _mm512_srli_epi16::<6>(u));
        // (e + 1) >> 1
        _mm512_avg_epu16(e, _mm512_setzero_si512())
    }

    /// Returns e8 of four vectors of logits in pack order, from e12 of two pairs.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    fn e8(e12: [__m512i; 2]) -> __m512i {
        // (e + 8) >> 4
        let e = e12.map(|e| _mm512_mulhrs_epi16(e, _mm512_set1_epi16(1 << 11)));
        _mm512_packus_epi16(e[0], e[1])
    }

    /// Computes a row but for its [`Rest`]. Returns vectors whose lanes add up to the sums of
    /// e12 and e8.
    ///
    /// # Safety
    /// The tokens' logits rounded up to 16 can be read, and as many probabilities rounded up to 64
    /// written.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    unsafe fn row(&self, logits: *const i32, probs: *mut u8, minuend: __m512i) -> [__m512i; 2] {
        let (zero, ones) = (_mm512_setzero_si512(), _mm512_set1_epi16(1));
        let (mut sum12, mut sum8) = (zero, zero);
        // SAFETY: the caller's promise.
        unsafe {
            let load = |j: usize| _mm512_loadu_si512(logits.add(j).cast());
            let e12 = |j: usize, second: usize| self.e12([minuend; 2], [load(j), load(second)]);
            let mut store = |j: usize, e: [__m512i; 2]| {
                sum12 = add_words(sum12, _mm512_add_epi16(e[0], e[1]), ones);
                let e8 = in_order64(Self::e8(e));
                sum8 = _mm512_dpbusd_epi32(sum8, e8, _mm512_set1_epi8(1));
                _mm512_storeu_si512(probs.add(j).cast(), e8);
            };
            let blocks = self.tokens / 64 * 64;
            for j in (0..blocks).step_by(64) {
                let low = e12(j, j + 16);
                let high = e12(j + 32, j + 48);
                store(j, [low, high]);
            }
            if self.tokens - blocks > MOST_REST {
                let pair = |j: usize, mask: u32| {
                    if j >= self.tokens {
                        return zero;
                    }
                    // If there is no second vector, the first once more.
                    let second = if j + 16 < self.tokens { j + 16 } else { j };
                    _mm512_maskz_mov_epi16(mask, e12(j, second))
                };
                let (low, high) = (pair(blocks, self.live[0]), pair(blocks + 32, self.live[1]));
                store(blocks, [low, high]);
            }
        }
        [sum12, sum8]
    }

    /// Computes the [`Rest`] of four rows from their logits of these tokens.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline]
    fn rest(&self, minuends: [__m512i; GROUP], logits: [__m512i; GROUP]) -> Rest {
        let [m0, m1, m2, m3] = minuends;
        let [a, b, c, d] = logits;
        // The same columns of both rows of a pair.
        let live = self.live[0] | self.live[0] << 4;
        let first = _mm512_maskz_mov_epi16(live, self.e12([m0, m1], [a, b]));
        let second = _mm512_maskz_mov_epi16(live, self.e12([m2, m3], [c, d]));
        let sums = |e: __m512i| _mm512_madd_epi16(e, _mm512_set1_epi16(1));
        let e8 = Self::e8([first, second]);
        let mut probs = [0; 64];
        // SAFETY: 64 bytes.
        unsafe { _mm512_storeu_si512(probs.as_mut_ptr().cast(), in_order64(e8)) };
        Rest {
            e12: add_pairs(sums(first), sums(second)),
            e8: _mm512_dpbusd_epi32(_mm512_setzero_si512(), e8, _mm512_set1_epi8(1)),
            probs,
        }
    }
}

/// Sums and probabilities of the columns behind the last 64 of four rows, if there are at most 16.
/// (For each row alone, 16 columns would take as long as 64.)
struct Rest {
    /// Lanes i, i + 4, i + 8 and i + 12 add up to row i's sum.
    e12: __m512i,
    /// Likewise.
    e8: __m512i,
    /// 16 of each row.
    probs: [u8; 64],
}

/// Adds neighbouring lanes. Of each four lanes of the result, the first two are sums of `a`'s four,
/// the others of `b`'s.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
fn add_pairs(a: __m512i, b: __m512i) -> __m512i {
    let (a, b) = (_mm512_castsi512_ps(a), _mm512_castsi512_ps(b));
    _mm512_add_epi32(
        _mm512_castps_si512(_mm512_shuffle_ps::<0x88>(a, b)),
        _mm512_castps_si512(_mm512_shuffle_ps::<0xdd>(a, b)),
    )
}

/// Computes [`crate::tiled::RowKernels::softmax`], and calls `after_row` after each row.
///
/// # Safety
/// As there.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn softmax(
    logits: *const i32,
    probs: *mut u8,
    strides: [usize; 2],
    sizes: [usize; 2],
    mult: i32,
    sums: &mut RowSums,
    after_row: impl Fn(),
) {
    // SAFETY: the caller's promise.
    unsafe {
        if mult <= 1 << 20 {
            softmax_of::<true>(logits, probs, strides, sizes, mult, sums, after_row);
        } else {
            softmax_of::<false>(logits, probs, strides, sizes, mult, sums, after_row);
        }
    }
}

/// Computes [`softmax`], four rows at a time: their largest logits and their sums stay in
/// registers, and the CPU begins with four rows while it ends the four before.
///
/// # Safety
/// As there.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
unsafe fn softmax_of<const SMALL: bool>(
    logits: *const i32,
    probs: *mut u8,
    strides: [usize; 2],
    [tokens, rows]: [usize; 2],
    mult: i32,
    sums: &mut RowSums,
    after_row: impl Fn(),
) {
    let exponentials = Exponentials::<SMALL>::new(tokens, mult);
    let blocks = tokens / 64 * 64;
    let has_rest = (1..=MOST_REST).contains(&(tokens - blocks));
    for first in (0..rows).step_by(GROUP) {
        let present = GROUP.min(rows - first);
        // SAFETY: the caller promises the rows, and room for their probabilities; in place of
        // missing ones, the last is read. There are 16 bytes of the rest and 4 sums for each group.
        unsafe {
            let logits_of = |i: usize| logits.add((first + i.min(present - 1)) * strides[0]);
            let maxima = [0, 1, 2, 3].map(|i| maxima(logits_of(i), tokens));
            let max = across_lanes::<true>(four_lanes::<true>(maxima));
            let minuends = each_of_four(max).map(|max| Exponentials::<SMALL>::minuend(max));
            // Before a row's probabilities are written over its logits.
            let rest = has_rest.then(|| {
                let logits =
                    [0, 1, 2, 3].map(|i| _mm512_loadu_si512(logits_of(i).add(blocks).cast()));
                exponentials.rest(minuends, logits)
            });
            let mut row_sums = [[_mm512_setzero_si512(); GROUP]; 2];
            for i in 0..present {
                let probs = probs.add((first + i) * strides[1]);
                let [sum12, sum8] = exponentials.row(logits_of(i), probs, minuends[i]);
                (row_sums[0][i], row_sums[1][i]) = (sum12, sum8);
                if let Some(rest) = &rest {
                    let to = probs.add(blocks).cast();
                    let row = _mm_loadu_si128(rest.probs.as_ptr().add(16 * i).cast());
                    _mm512_storeu_si512(to, _mm512_zextsi128_si512(row));
                }
                after_row();
            }
            let [mut e12, mut e8] = row_sums.map(|sums| four_lanes::<false>(sums));
            if let Some(rest) = rest {
                e12 = _mm512_add_epi32(e12, rest.e12);
                e8 = _mm512_add_epi32(e8, rest.e8);
            }
            let store = |to: &mut [i32], sums: __m512i| {
                let sums = _mm512_castsi512_si128(across_lanes::<false>(sums));
                _mm_storeu_si128(to[first..first + GROUP].as_mut_ptr().cast(), sums);
            };
            store(&mut sums.e12, e12);
            store(&mut sums.e8, e8);
        }
    }
}

/// Returns the largest number (`MAX`) or the sum of lanes l, l + 4, l + 8 and l + 12 in each of
/// them.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
fn across_lanes<const MAX: bool>(x: __m512i) -> __m512i {
    let x = larger_or_sum::<MAX>(x, _mm512_shuffle_i32x4::<0x4e>(x, x));
    larger_or_sum::<MAX>(x, _mm512_shuffle_i32x4::<0xb1>(x, x))
}

/// Returns each of the four numbers of a vector that repeats them, in all lanes.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
fn each_of_four(x: __m512i) -> [__m512i; 4] {
    [
        _mm512_shuffle_epi32::<0x00>(x),
        _mm512_shuffle_epi32::<0x55>(x),
        _mm512_shuffle_epi32::<0xaa>(x),
        _mm512_shuffle_epi32::<0xff>(x),
    ]
}

/// Computes [`crate::tiled::RowKernels::row_scales`], for all rows at once.
///
/// # Safety
/// As there.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn row_scales(sums: &RowSums, head: HeadParams) -> RowScales {
    // SAFETY: 16 sums.
    let sums =
        unsafe { [&sums.e12, &sums.e8].map(|sums| _mm512_loadu_si512(sums.as_ptr().cast())) };
    let residues = numbers(_mm512_sub_epi32(sums[0], _mm512_slli_epi32::<4>(sums[1])));
    // The quotient of `attention_scale`, by its power of two: of the sum, only the mantissa counts.
    let dividend = _mm512_set1_pd(2.0 * f64::from(head.out_mult));
    let eight = |sums: __m256i| {
        let sums = _mm512_cvtepi32_pd(sums);
        let mantissas = _mm512_getmant_pd::<_MM_MANT_NORM_1_2, _MM_MANT_SIGN_SRC>(sums);
        let quotients = _mm512_cvttpd_epi32(_mm512_div_pd(dividend, mantissas));
        (quotients, _mm512_cvttpd_epi32(_mm512_getexp_pd(sums)))
    };
    let low = eight(_mm512_castsi512_si256(sums[0]));
    let high = eight(_mm512_extracti64x4_epi64::<1>(sums[0]));
    let join = |low, high| _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high);
    let (quotients, exponents) = (join(low.0, high.0), join(low.1, high.1));
    let large = _mm512_cmpge_epi32_mask(quotients, _mm512_set1_epi32(1 << 15));
    let mults = numbers(_mm512_mask_srli_epi32::<1>(quotients, large, quotients));
    // An exponent is one less than the number of bits.
    let shifts = _mm512_add_epi32(exponents, _mm512_set1_epi32(i32::from(head.out_shift) - 20));
    let one = _mm512_set1_epi32(1);
    let shifts = numbers(_mm512_mask_sub_epi32(shifts, large, shifts, one));
    std::array::from_fn(|i| RowScale {
        rounding_residue: residues[i],
        mult: mults[i] as i16,
        shift: shifts[i] as u32,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scalar::{attention_scale, exp12, exp8};
    use crate::{Kernels, Tier};

    /// Differences of logits on both sides of every step of the exponent, and the largest one.
    fn differences(mult: i32) -> Vec<i32> {
        let step = |exponent: i64| {
            let first = ((exponent << 20) - (1 << 19) + i64::from(mult) - 1) / i64::from(mult);
            [first - 1, first]
        };
        let steps = (1..=900).flat_map(step).chain([0, 1 << 22]);
        let mut steps: Vec<i32> = steps.map(|d| d.clamp(0, 1 << 22) as i32).collect();
        steps.dedup();
        steps
    }

    #[test]
    fn exponents_are_exact_at_every_step() {
        if Kernels::new(Tier::Avx512Vnni).is_none() {
            return;
        }
        let powers = (0..=24).map(|bit| 1 << bit);
        let around = powers.flat_map(|power: i32| [power - 1, power, power + 1]);
        let others = [200, 7272, 12_005, 13_312, 30_579, 65_537, 76_800, 6_788_534];
        for mult in around
            .chain(others)
            .filter(|mult| (1..=1 << 24).contains(mult))
        {
            let differences = differences(mult);
            // One long row, rows of which all are the rest, and rows of 64 and a rest.
            for (tokens, rows) in [(1000, 1), (16, 5), (80, 5)] {
                for rows in differences.chunks((tokens - 1) * rows) {
                    check_rows(mult, tokens, rows);
                }
            }
        }
    }

    /// Checks rows with some differences from the largest logit, 0 where there are no more.
    fn check_rows(mult: i32, tokens: usize, differences: &[i32]) {
        const LARGEST: i32 = 1 << 21;
        let rows = differences.chunks(tokens - 1);
        let strides = [16, 64].map(|pad| tokens.next_multiple_of(pad));
        // What is behind a row is larger than all of its logits.
        let mut logits = vec![i32::MAX; rows.len() * strides[0]];
        for (row, differences) in logits.chunks_exact_mut(strides[0]).zip(rows.clone()) {
            row[..tokens].fill(LARGEST);
            for (logit, d) in row.iter_mut().zip(differences) {
                *logit -= d;
            }
        }
        let expected = logits.clone();
        let probs = logits.as_mut_ptr().cast::<u8>();
        let mut sums = RowSums::default();
        // SAFETY: the CPU has the tier; there are rows of logits rounded up to 16, and the
        // probabilities take no more bytes.
        unsafe {
            let sizes = [tokens, rows.len()];
            softmax(
                logits.as_ptr(),
                probs,
                strides,
                sizes,
                mult,
                &mut sums,
                || (),
            );
        }
        for (i, row) in expected.chunks_exact(strides[0]).enumerate() {
            let (mut sum12, mut sum8) = (0, 0);
            for j in 0..strides[1] {
                let e12 = row[..tokens].get(j).map_or(0, |a| exp12(LARGEST - a, mult));
                // SAFETY: as above.
                let e8 = unsafe { *probs.add(i * strides[1] + j) };
                assert_eq!(e8, exp8(e12), "mult {mult}, {tokens} tokens, row {i}, {j}");
                (sum12, sum8) = (sum12 + i32::from(e12), sum8 + i32::from(e8));
            }
            assert_eq!((sums.e12[i], sums.e8[i]), (sum12, sum8), "mult {mult}");
        }
    }

    #[test]
    fn scales_of_16_rows_are_those_of_each() {
        if Kernels::new(Tier::Avx512Vnni).is_none() {
            return;
        }
        // All sums around powers of two and others, from the smallest one on.
        let mut all: Vec<i32> = (12..22)
            .flat_map(|bit| (-8..8).map(move |i| (1 << bit) + i))
            .collect();
        all.extend((4080..1 << 22).step_by(997));
        all.retain(|&sum| (4080..1 << 22).contains(&sum));
        for (i, sums) in all.chunks_exact(16).enumerate() {
            let e12: [i32; 16] = sums.try_into().expect("16 sums");
            let e8 = std::array::from_fn(|row| e12[row] / 16 - row as i32);
            let out_mult = if i % 2 == 0 {
                1 << 14
            } else {
                i16::MAX - i as i16
            };
            let head = HeadParams {
                mult: 1,
                out_mult,
                out_shift: 11 + (i % 19) as u8,
            };
            // SAFETY: the CPU has the tier.
            let scales = unsafe { row_scales(&RowSums { e12, e8 }, head) };
            for (row, scale) in scales.iter().enumerate() {
                let (mult, shift) = attention_scale(e12[row] as u32, out_mult, head.out_shift);
                let residue = e12[row] - 16 * e8[row];
                assert_eq!(
                    (scale.mult, scale.shift, scale.rounding_residue),
                    (mult, shift, residue),
                    "{} {out_mult}",
                    e12[row]
                );
            }
        }
    }
}
