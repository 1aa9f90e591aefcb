//! Row-wise mixed precision: properties over every mix of bits, ragged ends and extreme values.

// Scales and codes are compared to the bit.
#![allow(clippy::float_cmp)]

use proptest::collection::vec;
use proptest::prelude::*;
use quasar_core::rows::{
    code_limit, pack_rows, quantize_rows, unpack_rows, Method, PairedMatrix, QuantizedRows,
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
    fn unpacking_any_bytes_gives_what_packs_to_them_or_an_error(
        (k, bits) in shape(), bytes in vec(any::<u8>(), 0..200),
    ) {
        if let Ok(codes) = unpack_rows(&bytes, bits.len(), k, &bits) {
            prop_assert_eq!(pack_rows(&codes, bits.len(), k, &bits).unwrap(), bytes);
        }
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
