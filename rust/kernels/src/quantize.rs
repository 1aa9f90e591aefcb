//! Kernels that turn rows of float weights into packed codes. Every function has one result, whatever the tier: a row's sums have eight
//! lanes everywhere, and division and rounding are IEEE 754's. NEON runs the scalar code.

use crate::Kernels;
#[cfg(target_arch = "x86_64")]
use crate::Tier;

/// Lanes of the sums of [`Kernels::squared_error`].
pub(crate) const LANES: usize = 8;
/// Weights after which the sums of the lanes are taken together in f64: their rounding stays far below the differences compared.
pub(crate) const RUN: usize = 512;

/// Adding and subtracting 1.5 * 2^23 rounds any |v| < 2^22 half to even, and unlike `round_ties_even` vectorises on every CPU.
const MAGIC: f32 = 12_582_912.0;

/// `clamp(v)` rounded half to even.
#[inline]
pub(crate) fn round_code(v: f32, limit: f32) -> f32 {
    (v.clamp(-limit, limit) + MAGIC) - MAGIC
}

/// The bits of a magnitude. As integers, magnitudes order like floats, and NaN and infinity come last.
#[inline]
pub(crate) fn magnitude(w: f32) -> u32 {
    w.to_bits() & 0x7fff_ffff
}

/// The scalar code, which every tier equals.
pub(crate) mod scalar {
    use super::{magnitude, round_code, LANES, RUN};

    pub(crate) fn largest_magnitude(weights: &[f32]) -> u32 {
        weights.iter().fold(0, |most, &w| most.max(magnitude(w)))
    }

    /// The code of `w`; |code| <= 127 after the clamp.
    fn code(w: f32, scale: f32, limit: f32) -> i8 {
        round_code(w / scale, limit) as i32 as i8
    }

    pub(crate) fn pack_4_bit(weights: &[f32], scale: f32, limit: f32, out: &mut [u8]) {
        for (out, pair) in out.iter_mut().zip(weights.chunks(2)) {
            let nibble = |w: f32| code(w, scale, limit) as u8 & 15;
            *out = nibble(pair[0]) | pair.get(1).map_or(0, |&w| nibble(w) << 4);
        }
    }

    pub(crate) fn pack_8_bit(weights: &[f32], scale: f32, limit: f32, out: &mut [u8]) {
        for (out, &w) in out.iter_mut().zip(weights) {
            *out = code(w, scale, limit) as u8;
        }
    }

    pub(crate) fn squared_error(weights: &[f32], scale: f32, limit: f32) -> f64 {
        let mut total = 0f64;
        for run in weights.chunks(RUN) {
            let mut sums = [0f32; LANES];
            for chunk in run.chunks(LANES) {
                add_errors(chunk, scale, limit, &mut sums);
            }
            total += sums.iter().map(|&s| f64::from(s)).sum::<f64>();
        }
        total
    }

    pub(crate) fn add_errors(weights: &[f32], scale: f32, limit: f32, sums: &mut [f32; LANES]) {
        for (sum, &w) in sums.iter_mut().zip(weights) {
            let v = w / scale;
            let error = v - round_code(v, limit);
            *sum += error * error;
        }
    }
}

/// Runs the AVX2 code on the x86 tiers, the scalar code on all others.
macro_rules! dispatch {
    ($tier:expr, $function:ident ( $($argument:expr),* )) => {
        match $tier {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the tier has AVX2.
            Tier::Avx2 | Tier::Avx512Vnni | Tier::Amx => unsafe {
                crate::x86::quantize::$function($($argument),*)
            },
            _ => scalar::$function($($argument),*),
        }
    };
}

impl Kernels {
    /// The bits of the largest magnitude in `weights`, 0 for none; those of infinity or more where one is not finite.
    pub fn largest_magnitude(self, weights: &[f32]) -> u32 {
        dispatch!(self.tier(), largest_magnitude(weights))
    }

    /// Codes `clamp(round(w / scale))`, half to even, within `limit` either way, two in a byte (low nibble first). Weights are finite, `scale`
    /// is positive and finite; otherwise codes differ between tiers.
    ///
    /// # Panics
    /// When `limit` is more than 7, or `out` has not half as many bytes as there are weights, rounded up.
    pub fn quantize_4_bit(self, weights: &[f32], scale: f32, limit: i8, out: &mut [u8]) {
        assert!((0..8).contains(&limit), "a limit of {limit} for 4 bits");
        assert_eq!(out.len(), weights.len().div_ceil(2), "two codes in a byte");
        dispatch!(
            self.tier(),
            pack_4_bit(weights, scale, f32::from(limit), out)
        );
    }

    /// The same codes with a byte for each.
    ///
    /// # Panics
    /// When `limit` is negative, or `out` has not as many bytes as there are weights.
    pub fn quantize_8_bit(self, weights: &[f32], scale: f32, limit: i8, out: &mut [u8]) {
        assert!(limit >= 0, "a limit of {limit}");
        assert_eq!(out.len(), weights.len(), "a code in a byte");
        dispatch!(
            self.tier(),
            pack_8_bit(weights, scale, f32::from(limit), out)
        );
    }

    /// Sum of `(w / scale - code)^2`: in f32 for each of eight lanes over at most 512 weights, in f64 between.
    pub fn squared_error(self, weights: &[f32], scale: f32, limit: i8) -> f64 {
        dispatch!(self.tier(), squared_error(weights, scale, f32::from(limit)))
    }
}
