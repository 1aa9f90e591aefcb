//! Two products in one DSP slice, and the number of products that may be added before the lower
//! field overflows.
//!
//! A slice multiplies `W = (w1 << S) + w0`, formed by the pre-adder, by one activation a and adds
//! the product to P (48 bits). The low S bits of P hold `sum w0*a`, the others `sum w1*a` (less one
//! where the low field is negative: the borrow). The two weights are two 4-bit rows, or the signed
//! high and the unsigned low nibble of one 8-bit row. Depends on nothing.
//!
//! The bounds below are worst cases; the tests multiply and accumulate them on 48 bits, at the
//! bound and one beyond it.

use serde::{Deserialize, Serialize};

/// The DSP slice of a device family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum DspKind {
    /// `UltraScale+`: a 27x18-bit multiplier.
    Dsp48e2,
    /// 7 series: a 25x18-bit multiplier.
    Dsp48e1,
}

/// The codes that are multiplied by weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// s8: all activations but one.
    Signed,
    /// u8: attention's probabilities.
    Unsigned,
}

/// The contents of a row pair of the array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pair {
    /// Two rows of 4-bit weights in [-7, 7].
    FourBit,
    /// The nibbles of one 8-bit row: high in [-8, 7], low in [0, 15].
    EightBit,
}

/// Bits of the accumulator P.
const ACCUMULATOR_BITS: u32 = 48;

impl DspKind {
    /// Returns the bits of the port that takes W.
    pub const fn port_bits(self) -> u32 {
        match self {
            Self::Dsp48e2 => 27,
            Self::Dsp48e1 => 25,
        }
    }

    /// Returns S: the widest low field with which W fits its port.
    pub const fn shift(self) -> u32 {
        self.port_bits() - 4
    }

    /// Returns the number of products that may be added before P must be read, so that neither
    /// field overflows for any operands.
    pub const fn products(self, pair: Pair, activation: Activation) -> u64 {
        let shift = self.shift();
        let (signed, unsigned) = (1u64 << (shift - 1), 1u64 << shift);
        let low = match (pair, activation) {
            // 7 * 128 and 7 * 255, either sign.
            (Pair::FourBit, Activation::Signed) => (signed - 1) / (7 * 128),
            (Pair::FourBit, Activation::Unsigned) => (signed - 1) / (7 * 255),
            // [15 * -128, 15 * 127].
            (Pair::EightBit, Activation::Signed) => signed / (15 * 128),
            // [0, 15 * 255]: read as an unsigned field.
            (Pair::EightBit, Activation::Unsigned) => (unsigned - 1) / (15 * 255),
        };
        let largest = match activation {
            Activation::Signed => 128,
            Activation::Unsigned => 255,
        };
        // |w1| <= 8; the borrow takes one more.
        let high = ((1u64 << (ACCUMULATOR_BITS - shift - 1)) - 1) / (8 * largest + 1);
        if low < high {
            low
        } else {
            high
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [DspKind; 2] = [DspKind::Dsp48e2, DspKind::Dsp48e1];
    const ACTIVATIONS: [Activation; 2] = [Activation::Signed, Activation::Unsigned];

    fn wrap48(p: i64) -> i64 {
        (p << 16) >> 16
    }

    fn activations(activation: Activation) -> std::ops::RangeInclusive<i64> {
        match activation {
            Activation::Signed => -128..=127,
            Activation::Unsigned => 0..=255,
        }
    }

    /// Returns both sums, as the drain reads them from P.
    fn fields(p: i64, shift: u32, low_is_unsigned: bool) -> (i64, i64) {
        let low = p & ((1 << shift) - 1);
        if low_is_unsigned {
            (p >> shift, low)
        } else {
            let borrow = (p >> (shift - 1)) & 1;
            ((p >> shift) + borrow, (low << (64 - shift)) >> (64 - shift))
        }
    }

    /// Returns P after `n` equal products.
    fn accumulate(w1: i64, w0: i64, a: i64, shift: u32, n: u64) -> i64 {
        let w = (w1 << shift) + w0;
        (0..n).fold(0, |p, _| wrap48(p + w * a))
    }

    fn weights(pair: Pair) -> (std::ops::RangeInclusive<i64>, std::ops::RangeInclusive<i64>) {
        match pair {
            Pair::FourBit => (-7..=7, -7..=7),
            Pair::EightBit => (-8..=7, 0..=15),
        }
    }

    fn unsigned(pair: Pair, activation: Activation) -> bool {
        pair == Pair::EightBit && activation == Activation::Unsigned
    }

    #[test]
    fn bounds_are_those_of_the_spike() {
        let products = |kind: DspKind| {
            [Pair::FourBit, Pair::EightBit]
                .map(|pair| ACTIVATIONS.map(|activation| kind.products(pair, activation)))
        };
        assert_eq!(
            (DspKind::Dsp48e2.shift(), products(DspKind::Dsp48e2)),
            (23, [[4681, 2349], [2184, 2193]])
        );
        assert_eq!(
            (DspKind::Dsp48e1.shift(), products(DspKind::Dsp48e1)),
            (21, [[1170, 587], [546, 548]])
        );
    }

    #[test]
    fn every_single_product_is_read_back() {
        for kind in KINDS {
            let port = 1i64 << (kind.port_bits() - 1);
            for pair in [Pair::FourBit, Pair::EightBit] {
                let (high, low) = weights(pair);
                for (w1, w0) in high.flat_map(|w1| low.clone().map(move |w0| (w1, w0))) {
                    let w = (w1 << kind.shift()) + w0;
                    assert!(
                        (-port..port).contains(&w),
                        "{kind:?}: W = {w} leaves its port"
                    );
                    for activation in ACTIVATIONS {
                        for a in activations(activation) {
                            let p = accumulate(w1, w0, a, kind.shift(), 1);
                            assert_eq!(
                                fields(p, kind.shift(), unsigned(pair, activation)),
                                (w1 * a, w0 * a)
                            );
                        }
                    }
                }
            }
        }
    }

    /// Equal products at the extremes give the largest sums: every partial sum is between 0 and the
    /// last one.
    #[test]
    fn sums_hold_at_the_bound_and_break_beyond_it() {
        for kind in KINDS {
            for pair in [Pair::FourBit, Pair::EightBit] {
                for activation in ACTIVATIONS {
                    let bound = kind.products(pair, activation);
                    let (high, low) = weights(pair);
                    let mut broken = false;
                    for w1 in [*high.start(), 0, *high.end()] {
                        for w0 in [*low.start(), 0, *low.end()] {
                            for a in [
                                *activations(activation).start(),
                                *activations(activation).end(),
                            ] {
                                let read = |n: u64| {
                                    let p = accumulate(w1, w0, a, kind.shift(), n);
                                    let sums = (w1 * a * n as i64, w0 * a * n as i64);
                                    fields(p, kind.shift(), unsigned(pair, activation)) == sums
                                };
                                assert!(
                                    read(bound),
                                    "{kind:?} {pair:?} {activation:?}: {w1} {w0} {a}"
                                );
                                broken |= !read(bound + 1);
                            }
                        }
                    }
                    assert!(
                        broken,
                        "{kind:?} {pair:?} {activation:?}: {bound} is not the largest bound"
                    );
                }
            }
        }
    }
}
