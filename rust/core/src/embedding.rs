//! The embedding of an image: the head's input, which the head's last D rows repeat code by code,
//! or a projection of it.
//!
//! Depends on [`crate::subnet::config`]. `docs/integer-model.md` (*Head*) has the proof that these
//! rows repeat the codes.

use crate::subnet::config::Pool;

/// Returns bias and mantissa M of the rows that repeat the inputs of the head of token `token`.
///
/// One head repeats its inputs: `(code * M + 2^14) >> 15` is the code. Of a pair of heads each
/// gives half of its inputs, token 0's rounded up and token 1's rounded down, and their sum is a
/// code.
pub const fn rows(pool: Pool, token: usize) -> (i32, i16) {
    match (pool, token) {
        (Pool::TokenPair, 0) => (0, 1 << 14),
        (Pool::TokenPair, _) => (-1, 1 << 14),
        _ => (0, i16::MAX),
    }
}

/// Returns the codes among a frame's outputs, which are those behind `classes` logits.
///
/// Rows that repeat codes give nothing else (`shift` 0). Those of a projection give codes times
/// `2^shift`, which are rounded to the nearest, halves up, and saturate.
pub fn codes(outputs: &[i32], classes: usize, shift: u8) -> Vec<i8> {
    let half = (1_i64 << shift) >> 1;
    let code = |&value: &i32| {
        let code = (i64::from(value) + half) >> shift;
        code.clamp(i8::MIN.into(), i8::MAX.into()) as i8
    };
    outputs[classes..].iter().map(code).collect()
}

/// Returns the vector of length 1 in the direction of `code - zero_point`; zeros if all codes are
/// the zero point.
///
/// Sum, root and quotients are correctly rounded, so every machine gives the same bits.
pub fn unit_vector(codes: &[i8], zero_point: i8) -> Vec<f32> {
    let values = codes.iter().map(|&c| i32::from(c) - i32::from(zero_point));
    let squares: i64 = values.clone().map(|v| i64::from(v * v)).sum();
    // Only zeros have a norm below 1, and they stay zeros.
    let norm = (squares.max(1) as f64).sqrt();
    values.map(|v| (f64::from(v) / norm) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns what the row of a code gives.
    fn output(pool: Pool, token: usize, code: i8) -> i32 {
        let (bias, mult) = rows(pool, token);
        let acc = i64::from(code) + i64::from(bias);
        ((acc * i64::from(mult) + (1 << 14)) >> 15) as i32
    }

    #[test]
    fn the_rows_of_an_embedding_repeat_every_code() {
        for code in i8::MIN..=i8::MAX {
            for pool in [Pool::Token, Pool::Mean, Pool::MeanAfterNorm] {
                assert_eq!(codes(&[9, output(pool, 0, code)], 1, 0), [code]);
            }
        }
    }

    #[test]
    fn the_rows_of_a_pair_give_the_mean_of_every_two_codes() {
        for first in i8::MIN..=i8::MAX {
            for second in i8::MIN..=i8::MAX {
                let sum = output(Pool::TokenPair, 0, first) + output(Pool::TokenPair, 1, second);
                let twice = i32::from(first) + i32::from(second);
                assert!((2 * i32::from(codes(&[sum], 0, 0)[0]) - twice).abs() <= 1);
            }
        }
    }

    #[test]
    fn codes_of_a_projection_are_rounded_and_saturate() {
        let outputs = [7, 8, -8, -9, 127 * 16 + 7, i32::MAX, i32::MIN];
        assert_eq!(codes(&outputs, 0, 4), [0, 1, 0, -1, 127, 127, -128]);
    }

    #[test]
    fn unit_vectors_have_length_one() {
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        let found = |codes: &[i8], zero_point| bits(&unit_vector(codes, zero_point));
        let root = 80_f64.sqrt();
        let wanted = [0.0, 8.0 / root, -4.0 / root].map(|v| v as f32);
        assert_eq!(found(&[-4, 4, -8], -4), bits(&wanted));
        assert_eq!(found(&[-4; 3], -4), bits(&[0.0; 3]));
        assert_eq!(found(&[127; 1024], -128), bits(&[1.0 / 32.0; 1024]));
    }
}
