//! Kernels of preprocessing: every tier of this CPU against the scalar one, on ragged sizes and
//! extreme values.

use proptest::prelude::*;
use quasar_kernels::image::{Along, Windows, YuvMatrix, PRECISION};
use quasar_kernels::{Kernels, MatrixView, MatrixViewMut, Tier};

fn tiers() -> impl Iterator<Item = Kernels> {
    let tiers = Tier::ALL.into_iter().filter(|&tier| tier != Tier::Scalar);
    tiers.filter_map(Kernels::new)
}

fn scalar() -> Kernels {
    Kernels::new(Tier::Scalar).unwrap()
}

/// Pixels of which many are 0 or 255.
fn pixels(n: usize, mut seed: u64) -> Vec<u8> {
    seed |= 1;
    std::iter::repeat_with(|| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        match seed >> 40 & 3 {
            0 => 0,
            1 => 255,
            _ => (seed >> 32) as u8,
        }
    })
    .take(n)
    .collect()
}

/// Windows of a filter with overshoot: weights of both signs whose magnitudes sum to less than 2.
fn windows(along: Along, source: usize, outputs: usize, seed: u64) -> Windows {
    let noise = pixels(4 * outputs + 264, seed);
    let mut bounds = Vec::new();
    let mut weights = Vec::new();
    // Some are longer than NEON's buffer.
    let longest = if seed.is_multiple_of(16) { 200 } else { 40 };
    let taps = usize::from(noise[0]).min(longest) + 1;
    for i in 0..outputs {
        let len = (1 + usize::from(noise[i + 1]) % taps).min(source);
        let start = i * (source - len) / outputs.max(2);
        bounds.push((start, len));
        weights.extend((0..taps).map(|tap| {
            let sign = [1, -1][usize::from(noise[i + tap] & 1)];
            let most = (1i64 << (PRECISION + 1)) / len as i64;
            (sign * most * i64::from(noise[2 * i + tap]) / 256) as i32
        }));
    }
    Windows::new(along, bounds, &weights, taps)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn rows_are_summed_alike(
        source in 1usize..400, outputs in 1usize..150, cols in 1usize..80, gap in 0usize..9,
        seed: u64,
    ) {
        let windows = windows(Along::Rows, source, outputs, seed);
        let first = windows.span().start.min(seed as usize % 3);
        let stride = cols + gap;
        let image = pixels(source * stride, seed ^ 7);
        let from = MatrixView::new(&image[first * stride..], source - first, cols, stride);
        let mut expected = vec![1; outputs * cols];
        scalar().resample_rows(&windows, from, first, MatrixViewMut::packed(&mut expected, cols));
        for kernels in tiers() {
            let mut out = vec![2; outputs * cols];
            kernels.resample_rows(&windows, from, first, MatrixViewMut::packed(&mut out, cols));
            prop_assert_eq!(&out, &expected, "{}", kernels.tier());
        }
    }

    #[test]
    fn columns_are_summed_alike(
        source in 1usize..400, outputs in 1usize..150, rows in 1usize..20, gap in 0usize..9,
        colour: bool, seed: u64,
    ) {
        let channels = if colour { 3 } else { 1 };
        let windows = windows(Along::Columns, source, outputs, seed);
        let span = windows.span();
        // The narrowest view that the windows are inside of, at the very end of its memory.
        let first = span.start.min(seed as usize % 3);
        let (cols, stride) = ((span.end - first) * channels, (span.end - first) * channels + gap);
        let image = pixels((rows - 1) * stride + cols, seed ^ 7);
        let from = MatrixView::new(&image, rows, cols, stride);
        let width = outputs * channels;
        let mut expected = vec![1; rows * width];
        let out = MatrixViewMut::packed(&mut expected, width);
        scalar().resample_columns(&windows, from, first, channels, out);
        for kernels in tiers() {
            let mut out = vec![2; rows * width];
            let rows = MatrixViewMut::packed(&mut out, width);
            kernels.resample_columns(&windows, from, first, channels, rows);
            prop_assert_eq!(&out, &expected, "{}", kernels.tier());
        }
    }

    #[test]
    fn formats_are_read_alike(pairs in 0usize..70, blue_first: bool, seed: u64) {
        let n = 2 * pairs;
        let bytes = pixels(3 * n, seed);
        for matrix in [YuvMatrix::BT601, YuvMatrix::BT709] {
            let mut expected = vec![1; 3 * n];
            scalar().nv12_to_rgb(&matrix, &bytes[..n], &bytes[n..2 * n], &mut expected);
            let mut other = vec![1; 3 * n];
            scalar().yuyv_to_rgb(&matrix, &bytes[..2 * n], &mut other);
            for kernels in tiers() {
                let mut out = vec![2; 3 * n];
                kernels.nv12_to_rgb(&matrix, &bytes[..n], &bytes[n..2 * n], &mut out);
                prop_assert_eq!(&out, &expected, "nv12 {}", kernels.tier());
                kernels.yuyv_to_rgb(&matrix, &bytes[..2 * n], &mut out);
                prop_assert_eq!(&out, &other, "yuyv {}", kernels.tier());
            }
        }
        let mut expected = vec![1; n];
        scalar().rgb_to_gray(&bytes, blue_first, &mut expected);
        for kernels in tiers() {
            let mut out = vec![2; n];
            kernels.rgb_to_gray(&bytes, blue_first, &mut out);
            prop_assert_eq!(&out, &expected, "gray {}", kernels.tier());
        }
    }
}

proptest! {
    #[test]
    fn lines_are_interleaved_alike(
        lines in 1usize..60, bytes in 1usize..60, distance in 1usize..70, gap in 0usize..9,
        flip: u8, seed: u64,
    ) {
        let data = pixels(lines * distance + bytes, seed);
        // Lines in some order, and words in another.
        let starts: Vec<_> = (0..lines).map(|i| i * 7 % lines * distance).collect();
        let stride = lines + gap;
        let places: Vec<_> = (0..bytes).map(|j| (bytes - 1 - j) * stride).collect();
        let mut expected = vec![3; bytes * stride];
        for (j, place) in places.iter().enumerate() {
            for (i, start) in starts.iter().enumerate() {
                expected[place + i] = data[start + j] ^ flip;
            }
        }
        for kernels in Tier::ALL.into_iter().filter_map(Kernels::new) {
            let mut out = vec![3; bytes * stride];
            kernels.interleave(&data, &starts, flip, &places, &mut out);
            prop_assert_eq!(&out, &expected, "{}", kernels.tier());
        }
    }
}

#[test]
fn every_luma_and_chroma_is_read_alike() {
    for cb in 0..=255u8 {
        let luma: Vec<u8> = (0..=255).flat_map(|y| [y; 2]).collect();
        for cr in (0..=255u8).step_by(5) {
            let chroma: Vec<u8> = [cb, cr].repeat(256);
            for matrix in [YuvMatrix::BT601, YuvMatrix::BT709] {
                let mut expected = vec![0; 3 * 512];
                scalar().nv12_to_rgb(&matrix, &luma, &chroma, &mut expected);
                for kernels in tiers() {
                    let mut out = vec![1; 3 * 512];
                    kernels.nv12_to_rgb(&matrix, &luma, &chroma, &mut out);
                    assert!(out == expected, "{}: Cb {cb}, Cr {cr}", kernels.tier());
                }
            }
        }
    }
}

#[test]
fn black_white_and_the_primaries_of_bt601_come_out() {
    let rgb = |y: u8, cb: u8, cr: u8| {
        let mut out = [0; 6];
        scalar().yuyv_to_rgb(&YuvMatrix::BT601, &[y, cb, y, cr], &mut out);
        [out[0], out[1], out[2]]
    };
    assert_eq!(rgb(16, 128, 128), [0, 0, 0]);
    assert_eq!(rgb(235, 128, 128), [255, 255, 255]);
    assert_eq!(rgb(0, 128, 128), [0, 0, 0]);
    assert_eq!(rgb(82, 90, 240), [255, 1, 0]);
}
