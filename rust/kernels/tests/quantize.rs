//! Kernels that quantize rows: every tier of this CPU against the scalar one, to the bit.

use proptest::collection::vec;
use proptest::prelude::*;
use quasar_kernels::{Kernels, Tier};

fn tiers() -> impl Iterator<Item = Kernels> {
    let tiers = Tier::ALL.into_iter().filter(|&tier| tier != Tier::Scalar);
    tiers.filter_map(Kernels::new)
}

/// Weights around `scale`, many of them half-way between two codes; zeros of both signs, and the
/// ends of the range.
fn weight() -> impl Strategy<Value = f32> {
    prop_oneof![
        8 => -10f32..10.0,
        4 => (-300i32..300).prop_map(|halves| halves as f32 * 0.5),
        1 => Just(-0.0),
        1 => prop_oneof![Just(f32::MAX), Just(f32::MIN), Just(f32::MIN_POSITIVE), Just(1e-45f32)],
    ]
}

fn scale() -> impl Strategy<Value = f32> {
    prop_oneof![
        4 => 0.01f32..3.0,
        2 => Just(1.0),
        1 => Just(f32::MIN_POSITIVE),
        1 => Just(1e-45f32),
        1 => Just(f32::MAX),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn rows_are_quantized_alike(weights in vec(weight(), 0..1200), scale in scale()) {
        let scalar = Kernels::new(Tier::Scalar).unwrap();
        let packed = |kernels: Kernels| {
            let mut four = vec![1; weights.len().div_ceil(2)];
            let mut eight = vec![1; weights.len()];
            kernels.quantize_4_bit(&weights, scale, 7, &mut four);
            kernels.quantize_8_bit(&weights, scale, 127, &mut eight);
            (four, eight)
        };
        let measured = |kernels: Kernels| {
            let error = kernels.squared_error(&weights, scale, 7);
            (kernels.largest_magnitude(&weights), error.to_bits())
        };
        for kernels in tiers() {
            prop_assert_eq!(packed(kernels), packed(scalar), "{}", kernels.tier());
            prop_assert_eq!(measured(kernels), measured(scalar), "{}", kernels.tier());
        }
    }

    #[test]
    fn what_is_not_finite_is_seen(
        mut weights in vec(weight(), 1..200), at: prop::sample::Index, what in 0..4usize,
    ) {
        let wrong = [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY][what];
        *at.get_mut(&mut weights) = wrong;
        for kernels in tiers().chain(Kernels::new(Tier::Scalar)) {
            prop_assert!(kernels.largest_magnitude(&weights) >= f32::INFINITY.to_bits());
        }
    }
}

#[test]
fn halves_go_to_even_and_codes_are_clamped() {
    let weights = [0.5, 1.5, 2.5, -0.5, -1.5, 100.0, -100.0];
    for kernels in tiers().chain(Kernels::new(Tier::Scalar)) {
        let mut out = [0; 7];
        kernels.quantize_8_bit(&weights, 1.0, 7, &mut out);
        assert_eq!(out.map(|code| code as i8), [0, 2, 2, 0, -2, 7, -7]);
        let mut out = [0; 4];
        kernels.quantize_4_bit(&weights, 1.0, 7, &mut out);
        assert_eq!(out, [0x20, 0x02, 0x7e, 0x09]);
    }
}
