//! Row-wise mixed precision: properties over every mix of bits, ragged ends and extreme values.

// Scales and codes are compared to the bit.
#![allow(clippy::float_cmp)]

use proptest::collection::vec;
use proptest::prelude::*;
use quasar_core::rows::{
    code_limit, pack_rows, quantize_rows, row_bytes, unpack_rows, Method, PairedMatrix,
    QuantizedRows, RowPairs,
};

/// Samples K and the bits of each row: all 4, all 8, or any mix.
fn shape() -> impl Strategy<Value = (usize, Vec<u8>)> {
    let bits = prop_oneof![Just(4u8), Just(8u8)];
    let mixed = vec(bits.clone(), 0..12);
    let uniform = (bits, 0usize..12).prop_map(|(b, n)| vec![b; n]);
    (0usize..40, prop_oneof![mixed, uniform])
}

fn weight() -> impl Strategy<Value = f32> {
    prop_oneof![
        8 => -3f32..3.0,
        1 => Just(0.0),
        1 => Just(-0.0),
        1 => prop_oneof![
            Just(f32::MAX),
            Just(f32::MIN),
            Just(f32::MIN_POSITIVE),
            Just(1e-45f32),
            Just(-3e-42f32),
        ],
    ]
}

prop_compose! {
    fn float_rows()((k, bits) in shape())(
        weights in vec(weight(), k * bits.len()), k in Just(k), bits in Just(bits),
    )
        -> (usize, Vec<u8>, Vec<f32>) { (k, bits, weights) }
}

prop_compose! {
    fn code_rows()((k, bits) in shape())(
        raw in vec(any::<i8>(), k * bits.len()), k in Just(k), bits in Just(bits)
    ) -> (usize, Vec<u8>, Vec<i8>) {
        let narrow = |(i, c): (usize, i8)| {
            let limit = code_limit(bits[i / k]);
            c.clamp(-127, 127) % (limit as i16 + 1) as i8
        };
        let codes = if k == 0 {
            Vec::new()
        } else {
            raw.into_iter().enumerate().map(narrow).collect()
        };
        (k, bits, codes)
    }
}

/// Returns the codes of quantized rows.
fn codes_of(q: &QuantizedRows, k: usize, bits: &[u8]) -> Vec<i8> {
    unpack_rows(&q.packed, bits.len(), k, bits).unwrap()
}

proptest! {
    #[test]
    fn min_max_codes_are_within_half_a_scale((k, bits, weights) in float_rows()) {
        let q = quantize_rows(&weights, bits.len(), k, &bits, None, Method::MinMax).unwrap();
        let codes = codes_of(&q, k, &bits);
        prop_assert_eq!(codes.len(), weights.len());
        for (i, (&code, &w)) in codes.iter().zip(&weights).enumerate() {
            let (scale, limit) = (q.scales[i / k], code_limit(bits[i / k]));
            prop_assert!(scale.is_normal() && scale > 0.0);
            prop_assert!(code.unsigned_abs() <= limit as u8);
            let error = (f64::from(code) * f64::from(scale) - f64::from(w)).abs();
            prop_assert!(error <= f64::from(scale) * 0.5001, "{} as {} * {}", w, code, scale);
        }
    }

    #[test]
    fn mse_is_never_worse_than_min_max((k, bits, weights) in float_rows()) {
        let error = |method| {
            let q = quantize_rows(&weights, bits.len(), k, &bits, None, method).unwrap();
            let codes = codes_of(&q, k, &bits);
            (0..bits.len()).map(|row| {
                let scale = f64::from(q.scales[row]);
                let loss = |i| {
                    let exact = f64::from(weights[i]) / scale.max(1e-300);
                    (exact - f64::from(codes[i])).powi(2) * scale * scale
                };
                (row * k..(row + 1) * k).map(loss).sum::<f64>()
            }).collect::<Vec<_>>()
        };
        let errors = error(Method::Mse).into_iter().zip(error(Method::MinMax));
        for (row, (mse, min_max)) in errors.enumerate() {
            prop_assert!(mse <= min_max * 1.0001, "row {}: {} > {}", row, mse, min_max);
        }
    }

    #[test]
    fn given_scales_are_used_and_round_half_to_even(
        (k, bits, weights) in float_rows(), scale in 1e-3f32..1e3,
    ) {
        let scales = vec![scale; bits.len()];
        let q = quantize_rows(&weights, bits.len(), k, &bits, Some(&scales), Method::MinMax);
        let q = q.unwrap();
        prop_assert_eq!(&q.scales, &scales);
        for (i, (&code, &w)) in codes_of(&q, k, &bits).iter().zip(&weights).enumerate() {
            let limit = f32::from(code_limit(bits[i / k]));
            prop_assert_eq!(f32::from(code), (w / scale).round_ties_even().clamp(-limit, limit));
        }
    }

    #[test]
    fn not_a_number_and_infinity_are_errors_that_name_the_place(
        (k, bits, mut weights) in float_rows().prop_filter("not empty", |(_, _, w)| !w.is_empty()),
        at in any::<prop::sample::Index>(),
        bad in prop_oneof![Just(f32::NAN), Just(f32::INFINITY), Just(f32::NEG_INFINITY)],
        given in any::<bool>(),
    ) {
        let at = at.index(weights.len());
        weights[at] = bad;
        let scales = vec![1.0; bits.len()];
        let given = given.then_some(&scales[..]);
        let error = quantize_rows(&weights, bits.len(), k, &bits, given, Method::Mse).unwrap_err();
        prop_assert_eq!(error.kind(), "InvalidValue");
        let place = format!("row {}, column {}", at / k, at % k);
        prop_assert!(error.to_string().contains(&place), "{}", error);
    }

    #[test]
    fn packing_and_unpacking_are_inverse((k, bits, codes) in code_rows()) {
        let packed = pack_rows(&codes, bits.len(), k, &bits).unwrap();
        prop_assert_eq!(packed.len(), bits.iter().map(|&b| row_bytes(k, b)).sum::<usize>());
        prop_assert_eq!(unpack_rows(&packed, bits.len(), k, &bits).unwrap(), codes);
    }

    #[test]
    fn unpacking_any_bytes_gives_what_packs_to_them_or_an_error(
        (k, bits) in shape(), bytes in vec(any::<u8>(), 0..200),
    ) {
        if let Ok(codes) = unpack_rows(&bytes, bits.len(), k, &bits) {
            prop_assert_eq!(pack_rows(&codes, bits.len(), k, &bits).unwrap(), bytes);
        }
    }

    #[test]
    fn row_pairs_name_each_row_once_four_bit_pairs_first((_, bits) in shape()) {
        let pairs = RowPairs::new(&bits).unwrap();
        prop_assert!(pairs.widths().is_sorted());
        let mut seen = vec![0; bits.len()];
        let mut empty = 0;
        for (&width, &[a, b]) in pairs.widths().iter().zip(pairs.addresses()) {
            if width == 8 {
                prop_assert_eq!(a, b);
            }
            let lanes = if width == 8 { &[a][..] } else { &[a, b][..] };
            for &row in lanes {
                if row == RowPairs::EMPTY {
                    empty += 1;
                } else {
                    prop_assert_eq!(bits[row as usize], width);
                    seen[row as usize] += 1;
                }
            }
        }
        prop_assert!(seen.iter().all(|&n| n == 1));
        prop_assert_eq!(empty, bits.iter().map(|&b| usize::from(b == 4)).sum::<usize>() % 2);
    }

    #[test]
    fn a_product_through_pairs_of_nibbles_is_the_product(
        (k, bits, codes) in code_rows(), seed in vec(any::<i8>(), 40),
        bias in vec(-1000i32..1000, 12),
    ) {
        let (input, bias) = (&seed[..k], &bias[..bits.len()]);
        let matrix = PairedMatrix::new(&codes, bits.len(), k, &bits).unwrap();
        let mut acc = vec![0; bits.len()];
        matrix.matvec(input, bias, &mut acc);
        for (row, &acc) in acc.iter().enumerate() {
            let product = |i| i32::from(codes[row * k + i]) * i32::from(input[i]);
            let plain: i32 = (0..k).map(product).sum();
            prop_assert_eq!(acc, bias[row] + plain);
        }
    }
}

#[test]
fn a_zero_row_has_scale_one() {
    let q = quantize_rows(&[0.0, -0.0, 1.0, 2.0], 2, 2, &[4, 8], None, Method::Mse).unwrap();
    assert_eq!(q.scales[0], 1.0);
    assert_eq!(codes_of(&q, 2, &[4, 8]), [0, 0, 64, 127]);
}

#[test]
fn clipping_an_outlier_lowers_the_error_of_a_four_bit_row() {
    let mut weights: Vec<f32> = (0..256).map(|i| (i as f32 * 0.7).sin() * 0.5).collect();
    weights[0] = 1.0;
    let scale = |method| {
        quantize_rows(&weights, 1, 256, &[4], None, method)
            .unwrap()
            .scales[0]
    };
    assert!(scale(Method::Mse) < scale(Method::MinMax));
}

#[test]
fn large_matrices_are_quantized_as_small_ones_are() {
    let (rows, k) = (300, 400);
    let weights: Vec<f32> = (0..rows * k).map(|i| (i as f32 * 0.37).sin()).collect();
    let bits: Vec<u8> = (0..rows).map(|r| if r % 3 == 0 { 8 } else { 4 }).collect();
    let whole = quantize_rows(&weights, rows, k, &bits, None, Method::Mse).unwrap();
    let codes = codes_of(&whole, k, &bits);
    for row in 0..rows {
        let alone = quantize_rows(
            &weights[row * k..(row + 1) * k],
            1,
            k,
            &bits[row..=row],
            None,
            Method::Mse,
        )
        .unwrap();
        let own = codes_of(&alone, k, &bits[row..=row]);
        assert_eq!(own, codes[row * k..(row + 1) * k]);
        assert_eq!(alone.scales[0], whole.scales[row]);
    }
}

#[test]
fn arguments_that_do_not_fit_are_errors() {
    let kinds = [
        quantize_rows(&[1.0; 5], 2, 3, &[4, 4], None, Method::MinMax)
            .unwrap_err()
            .kind(),
        quantize_rows(&[1.0; 6], 2, 3, &[4], None, Method::MinMax)
            .unwrap_err()
            .kind(),
        quantize_rows(&[1.0; 6], 2, 3, &[4, 6], None, Method::MinMax)
            .unwrap_err()
            .kind(),
        quantize_rows(&[1.0; 6], 2, 3, &[4, 8], Some(&[1.0]), Method::MinMax)
            .unwrap_err()
            .kind(),
        quantize_rows(&[1.0; 6], 2, 3, &[4, 8], Some(&[1.0, 0.0]), Method::MinMax)
            .unwrap_err()
            .kind(),
        quantize_rows(
            &[1.0; 6],
            2,
            3,
            &[4, 8],
            Some(&[f32::NAN, 1.0]),
            Method::MinMax,
        )
        .unwrap_err()
        .kind(),
        quantize_rows(&[], usize::MAX, 2, &[], None, Method::MinMax)
            .unwrap_err()
            .kind(),
        pack_rows(&[8, 0], 1, 2, &[4]).unwrap_err().kind(),
        pack_rows(&[-128, 0], 1, 2, &[8]).unwrap_err().kind(),
        unpack_rows(&[0x08], 1, 2, &[4]).unwrap_err().kind(),
        unpack_rows(&[0x80, 0], 1, 2, &[8]).unwrap_err().kind(),
        unpack_rows(&[0x10], 1, 1, &[4]).unwrap_err().kind(),
        unpack_rows(&[0; 3], 1, 2, &[8]).unwrap_err().kind(),
        unpack_rows(&[], 2, usize::MAX, &[8, 8]).unwrap_err().kind(),
        RowPairs::new(&[4, 0]).unwrap_err().kind(),
    ];
    assert!(kinds.iter().all(|&k| k == "InvalidValue"), "{kinds:?}");
}
