//! The scalar code of the image kernels, which every tier equals.

use super::colour::{YuvMatrix, GRAY};
use super::windows::{Windows, HALF, PRECISION};
use crate::{MatrixView, MatrixViewMut};

/// Rounds a sum of weighted pixels to a byte.
pub(crate) fn clip8(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// Sums rows.
pub(crate) fn rows(
    windows: &Windows,
    source: &MatrixView<u8>,
    first: usize,
    out: &mut MatrixViewMut<u8>,
) {
    // A block of sums stays in L1 while the rows of a window go by.
    let mut sums = [0i32; 256];
    for (i, (start, weights)) in windows.iter().enumerate() {
        for (block, out) in out.row_mut(i).chunks_mut(sums.len()).enumerate() {
            let sums = &mut sums[..out.len()];
            sums.fill(HALF);
            for (y, &weight) in (start - first..).zip(weights) {
                let row = &source.row(y)[block * 256..];
                for (sum, &pixel) in sums.iter_mut().zip(row) {
                    *sum += i32::from(pixel) * weight;
                }
            }
            for (out, &sum) in out.iter_mut().zip(sums.iter()) {
                *out = clip8(sum);
            }
        }
    }
}

/// Sums columns of pixels of C bytes.
pub(crate) fn columns<const C: usize>(
    windows: &Windows,
    source: &MatrixView<u8>,
    first: usize,
    out: &mut MatrixViewMut<u8>,
) {
    for y in 0..source.rows() {
        let (source, _) = source.row(y).as_chunks::<C>();
        let (out, _) = out.row_mut(y).as_chunks_mut::<C>();
        for (out, (start, weights)) in out.iter_mut().zip(windows.iter()) {
            let mut sums = [HALF; C];
            for (pixel, &weight) in source[start - first..].iter().zip(weights) {
                for (sum, &value) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(value) * weight;
                }
            }
            *out = sums.map(clip8);
        }
    }
}

/// Converts a row of NV12 to RGB.
pub(crate) fn nv12(matrix: &YuvMatrix, luma: &[u8], chroma: &[u8], out: &mut [u8]) {
    let (out, _) = out.as_chunks_mut::<6>();
    let pairs = luma
        .as_chunks::<2>()
        .0
        .iter()
        .zip(chroma.as_chunks::<2>().0);
    for (out, (&[a, b], &[cb, cr])) in out.iter_mut().zip(pairs) {
        out[..3].copy_from_slice(&matrix.pixel(a, cb, cr));
        out[3..].copy_from_slice(&matrix.pixel(b, cb, cr));
    }
}

/// Converts a row of YUYV to RGB.
pub(crate) fn yuyv(matrix: &YuvMatrix, pixels: &[u8], out: &mut [u8]) {
    let (out, _) = out.as_chunks_mut::<6>();
    for (out, &[a, cb, b, cr]) in out.iter_mut().zip(pixels.as_chunks::<4>().0) {
        out[..3].copy_from_slice(&matrix.pixel(a, cb, cr));
        out[3..].copy_from_slice(&matrix.pixel(b, cb, cr));
    }
}

/// Converts a row of RGB to gray; `order` has the places of R, G and B in a pixel.
pub(crate) fn gray(pixels: &[u8], order: [usize; 3], out: &mut [u8]) {
    for (out, pixel) in out.iter_mut().zip(pixels.as_chunks::<3>().0) {
        let sum: u32 = (order.iter().zip(GRAY))
            .map(|(&at, factor)| u32::from(pixel[at]) * factor)
            .sum();
        *out = ((sum + 0x8000) >> 16) as u8;
    }
}

/// Lays lines side by side.
pub(crate) fn interleave(
    data: &[u8],
    starts: &[usize],
    flip: u8,
    places: &[usize],
    out: &mut [u8],
) {
    for (i, &start) in starts.iter().enumerate() {
        for (&byte, &place) in data[start..].iter().zip(places) {
            out[place + i] = byte ^ flip;
        }
    }
}
