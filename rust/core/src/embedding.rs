//! The embedding of an image: the head's input, which the head's last D rows repeat code by code.
//!
//! Depends on nothing. `docs/integer-model.md` (*Head*) has the proof that these rows repeat the
//! codes.

/// Mantissa M of a row that repeats a code: `(code * M + 2^14) >> 15` is the code.
pub const MULT: i16 = i16::MAX;

/// Returns the codes among a frame's outputs, which are those behind `classes` logits.
///
/// # Panics
/// If an output is no code. The check of a subnet's head excludes that on the CPU, and the check of
/// a frame's output on an accelerator.
pub fn codes(outputs: &[i32], classes: usize) -> Vec<i8> {
    let code = |&value: &i32| i8::try_from(value).expect("these rows repeat 8-bit codes");
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

    #[test]
    fn the_rows_of_an_embedding_repeat_every_code() {
        for code in i8::MIN..=i8::MAX {
            let output = (i64::from(code) * i64::from(MULT) + (1 << 14)) >> 15;
            assert_eq!(codes(&[9, output as i32], 1), [code]);
        }
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
