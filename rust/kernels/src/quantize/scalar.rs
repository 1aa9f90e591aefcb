//! The scalar code that quantizes rows, which every tier equals.

/// Lanes of the sums of squared errors.
pub(crate) const LANES: usize = 8;
/// Weights after which the sums of the lanes are added up in f64: their rounding stays far below
/// the differences that are compared.
pub(crate) const RUN: usize = 512;

/// 1.5 * 2^23: adding and subtracting it rounds any |v| < 2^22 half to even, and unlike
/// `round_ties_even` vectorises on every CPU.
const MAGIC: f32 = 12_582_912.0;

/// Rounds `clamp(v)` half to even.
#[inline]
fn round_code(v: f32, limit: f32) -> f32 {
    (v.clamp(-limit, limit) + MAGIC) - MAGIC
}

/// Returns the bits of a magnitude. As integers, magnitudes order like floats; infinity and NaN
/// come last.
#[inline]
fn magnitude(w: f32) -> u32 {
    w.to_bits() & 0x7fff_ffff
}

/// Returns the bits of the largest magnitude.
pub(crate) fn largest_magnitude(weights: &[f32]) -> u32 {
    weights.iter().fold(0, |most, &w| most.max(magnitude(w)))
}

/// Quantizes a weight; |code| <= 127 after the clamp.
fn code(w: f32, scale: f32, limit: f32) -> i8 {
    round_code(w / scale, limit) as i32 as i8
}

/// Packs codes of 4 bits, two in a byte.
pub(crate) fn pack_4_bit(weights: &[f32], scale: f32, limit: f32, out: &mut [u8]) {
    for (out, pair) in out.iter_mut().zip(weights.chunks(2)) {
        let nibble = |w: f32| code(w, scale, limit) as u8 & 15;
        *out = nibble(pair[0]) | pair.get(1).map_or(0, |&w| nibble(w) << 4);
    }
}

/// Packs codes of 8 bits.
pub(crate) fn pack_8_bit(weights: &[f32], scale: f32, limit: f32, out: &mut [u8]) {
    for (out, &w) in out.iter_mut().zip(weights) {
        *out = code(w, scale, limit) as u8;
    }
}

/// Returns the sum of squared errors.
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

/// Adds squared errors to the sums of the lanes.
pub(crate) fn add_errors(weights: &[f32], scale: f32, limit: f32, sums: &mut [f32; LANES]) {
    for (sum, &w) in sums.iter_mut().zip(weights) {
        let v = w / scale;
        let error = v - round_code(v, limit);
        *sum += error * error;
    }
}
