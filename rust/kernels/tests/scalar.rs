//! The scalar tier against the formulas of `docs/integer-model.md` in 128-bit integers and exact
//! fractions.

use proptest::prelude::*;
use quasar_kernels::scalar::{self, attention_scale, Moments};

proptest! {
    #[test]
    fn requant8_is_within_its_error_bound(
        acc in -(1i32 << 26)..1 << 26,
        p in 1u8..=30,
        m in 1i16 << 14..=i16::MAX,
        zp: i8,
    ) {
        let exact = f64::from(acc) * f64::from(m) * (-f64::from(p) - 17.0).exp2() + f64::from(zp);
        let y = f64::from(scalar::requant8(acc, p, m, zp));
        prop_assert!((y - exact.clamp(-128.0, 127.0)).abs() <= 0.5 + 1.0 / 64.0, "{y} for {exact}");
    }

    #[test]
    fn layer_norm_moments_keep_their_widths(
        x in prop::collection::vec(-32767i16..=32767, 1..=1024),
        epsilon in 1i64..1 << 50,
    ) {
        let d = x.len();
        let sum: i32 = x.iter().map(|&x| i32::from(x)).sum();
        let squares: i64 = x.iter().map(|&x| i64::from(x) * i64::from(x)).sum();
        let m = scalar::Moments::new(sum, squares, d, epsilon);
        let v = d as i64 * squares - i64::from(sum) * i64::from(sum) + epsilon;
        prop_assert!(m.bits <= 26 && 1i64 << (2 * (m.bits - 1)) <= v && v < 1i64 << (2 * m.bits));
        prop_assert!(m.inv >= 1 << 14);
    }

    #[test]
    fn attention_scale_is_normalised(
        sum12 in 4080u32..1 << 22,
        mo in 1i16 << 14..=i16::MAX,
        po in 11u8..=29,
    ) {
        let (r, p) = scalar::attention_scale(sum12, mo, po);
        prop_assert!(r >= 1 << 14 && (1..=30).contains(&p));
        let exact = f64::from(mo) * (-f64::from(po)).exp2() / f64::from(sum12);
        let got = f64::from(r) * (-f64::from(p) - 21.0).exp2();
        prop_assert!((got / exact - 1.0).abs() < 1.0 / 16384.0);
    }
}

#[test]
fn exponential_table_is_rounded_exactly() {
    for (f, &e) in scalar::EXP2.iter().enumerate() {
        assert!(
            (f64::from(e) - 4080.0 * (-(f as f64) / 64.0).exp2()).abs() <= 0.5,
            "entry {f}"
        );
    }
    assert_eq!((scalar::exp12(0, 1 << 24), scalar::exp8(4080)), (4080, 255));
    assert_eq!(
        scalar::exp12(i32::MAX, 1),
        scalar::exp12(scalar::logit_cap(1), 1)
    );
}

/// Computes the document's formulas in integers.
fn moments(sum: i32, squares: i64, d: usize, epsilon: i64) -> Moments {
    let v = (d as i64 * squares - i64::from(sum) * i64::from(sum) + epsilon) as u64;
    let bits = (u64::BITS - v.leading_zeros()).div_ceil(2);
    let root = (v << (2 * (26 - bits))).isqrt();
    let inv = ((1u64 << 40) / root).min(32767) as i16;
    Moments { sum, bits, inv }
}

#[test]
fn roots_and_quotients_in_floats_are_the_integers() {
    // V next to squares, where a root that is rounded up would show, up to the largest V.
    let dense = 1..3000u64;
    let sparse = (3000..47_453_132u64).step_by(9973);
    let powers = (12..=25).flat_map(|bits| (1u64 << bits) - 3..=(1u64 << bits) + 3);
    for m in dense.chain(sparse).chain(powers) {
        for v in [m * m - 1, m * m, m * m + 1] {
            if (1..1 << 51).contains(&v) {
                let squares = v as i64 - 1;
                assert_eq!(
                    Moments::new(0, squares, 1, 1),
                    moments(0, squares, 1, 1),
                    "V = {v}"
                );
            }
        }
    }
    for sum in (4080..20_000u32).chain((20_000..1 << 22).step_by(97)) {
        for mult in [1 << 14, 16_385, 20_000, 24_571, i16::MAX] {
            let b = u32::BITS - sum.leading_zeros();
            let r = ((mult as u64) << b) / u64::from(sum);
            let expected = if r >= 1 << 15 {
                (r >> 1, b - 1)
            } else {
                (r, b)
            };
            let (r, p) = attention_scale(sum, mult, 21);
            assert_eq!((r as u64, p), expected, "S12 = {sum}, Mo = {mult}");
        }
    }
}
