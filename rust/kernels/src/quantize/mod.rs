//! Kernels that quantize rows of float weights to packed codes.
//!
//! Every function has the same result on every tier: sums have eight lanes everywhere, and division
//! and rounding are IEEE 754's. The x86 tiers run `avx2`, the others `scalar`.

#[cfg(target_arch = "x86_64")]
// Intrinsics are named as the vendor names them, dozens in a file.
#[allow(clippy::wildcard_imports)]
mod avx2;
mod scalar;

use crate::tier::Family;
use crate::Kernels;

/// Runs the AVX2 code on the x86 tiers, the scalar code on all others.
macro_rules! dispatch {
    ($tier:expr, $function:ident ( $($argument:expr),* )) => {
        match $tier.family() {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the tier has AVX2.
            Family::X86 => unsafe { avx2::$function($($argument),*) },
            #[cfg(not(target_arch = "x86_64"))]
            Family::X86 => unreachable!("an x86 tier on another CPU"),
            Family::Scalar | Family::Arm => scalar::$function($($argument),*),
        }
    };
}

impl Kernels {
    /// Returns the bits of the largest magnitude in `weights`: 0 if there are none, those of
    /// infinity or more if a weight is not finite.
    pub fn largest_magnitude(self, weights: &[f32]) -> u32 {
        dispatch!(self.tier(), largest_magnitude(weights))
    }

    /// Writes codes `clamp(round(w / scale))`, rounded half to even, in [-`limit`, `limit`], two in
    /// a byte (low nibble first). Weights are finite, `scale` is positive and finite; otherwise
    /// codes differ between tiers.
    ///
    /// # Panics
    /// If `limit` is more than 7, or `out` has not half as many bytes as there are weights, rounded
    /// up.
    pub fn quantize_4_bit(self, weights: &[f32], scale: f32, limit: i8, out: &mut [u8]) {
        assert!((0..8).contains(&limit), "a limit of {limit} for 4 bits");
        assert_eq!(out.len(), weights.len().div_ceil(2), "two codes in a byte");
        dispatch!(
            self.tier(),
            pack_4_bit(weights, scale, f32::from(limit), out)
        );
    }

    /// Writes the codes of [`Self::quantize_4_bit`], one in a byte.
    ///
    /// # Panics
    /// If `limit` is negative, or `out` has not as many bytes as there are weights.
    pub fn quantize_8_bit(self, weights: &[f32], scale: f32, limit: i8, out: &mut [u8]) {
        assert!(limit >= 0, "a limit of {limit}");
        assert_eq!(out.len(), weights.len(), "a code in a byte");
        dispatch!(
            self.tier(),
            pack_8_bit(weights, scale, f32::from(limit), out)
        );
    }

    /// Returns the sum of `(w / scale - code)^2`, added up in f32 in eight lanes over at most 512
    /// weights, and in f64 beyond.
    pub fn squared_error(self, weights: &[f32], scale: f32, limit: i8) -> f64 {
        dispatch!(self.tier(), squared_error(weights, scale, f32::from(limit)))
    }
}
