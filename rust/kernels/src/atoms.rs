//! Weights as the accelerator multiplies them: 4-bit atoms.
//!
//! An 8-bit code is `16 * hi + lo` with `hi` in [-8, 7] and `lo` in [0, 15]; a 4-bit code is one signed atom.

/// The atoms `(hi, lo)` of an 8-bit code.
pub fn split(code: i8) -> (i8, u8) {
    (code >> 4, code as u8 & 15)
}

/// One lane: the dot product of atoms (signed or unsigned) with activation codes.
///
/// # Panics
/// When the lengths differ.
pub fn dot<A: Copy + Into<i32>>(atoms: &[A], codes: &[i8]) -> i32 {
    assert_eq!(atoms.len(), codes.len(), "atoms and codes differ in length");
    atoms
        .iter()
        .zip(codes)
        .map(|(&w, &a)| w.into() * i32::from(a))
        .sum()
}

/// The accumulator of an 8-bit row from the sums of its two lanes.
pub fn join(hi: i32, lo: i32) -> i32 {
    16 * hi + lo
}
