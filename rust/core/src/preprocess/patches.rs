//! Cuts an image into patches.

use crate::subnet::config::{Image, Patch};

/// A row of a patch: columns before the image, inside it and after it, and the first pixel inside.
struct PatchRow {
    before: usize,
    inside: usize,
    start: usize,
}

impl PatchRow {
    /// Locates row `row` of patch `index` in a grid of `columns` columns.
    fn new(size: Image, patch: Patch, columns: usize, index: usize, row: usize) -> Self {
        let (y, left) = (
            index / columns * patch.stride + row,
            index % columns * patch.stride,
        );
        let before = patch.pad.saturating_sub(left).min(patch.kernel);
        let end = (size.width + patch.pad).saturating_sub(left);
        let inside = end.min(patch.kernel).saturating_sub(before);
        if inside == 0 || y < patch.pad || y >= size.height + patch.pad {
            return Self {
                before: patch.kernel,
                inside: 0,
                start: 0,
            };
        }
        Self {
            before,
            inside,
            start: (y - patch.pad) * size.width + left + before - patch.pad,
        }
    }

    /// Writes its codes, `each` for every column, from the bytes that begin with its first pixel's.
    fn fill<'a>(
        &self,
        bytes: impl Iterator<Item = &'a u8>,
        each: usize,
        patch: Patch,
        out: &mut [i8],
    ) {
        let code = |pixel: u8| (pixel ^ 0x80) as i8;
        let (before, rest) = out.split_at_mut(each * self.before);
        let (inside, behind) = rest.split_at_mut(each * self.inside);
        before.fill(code(patch.pad_value));
        behind.fill(code(patch.pad_value));
        for (out, &byte) in inside.iter_mut().zip(bytes) {
            *out = code(byte);
        }
    }
}

/// Writes the patches of an image as codes `pixel - 128`, ordered (channel, ky, kx):
/// `channels * kernel^2` for each patch. Starts at patch `first`, row-major in the grid, and writes
/// as many patches as `out` holds.
pub fn patches_channels_first(
    image: &[u8],
    size: Image,
    patch: Patch,
    columns: usize,
    first: usize,
    out: &mut [i8],
) {
    let (channels, kernel) = (size.channels, patch.kernel);
    for (index, out) in (first..).zip(out.chunks_exact_mut(channels * kernel * kernel)) {
        for (row, out) in out.chunks_exact_mut(kernel).enumerate() {
            let (channel, ky) = (row / kernel, row % kernel);
            let row = PatchRow::new(size, patch, columns, index, ky);
            let pixels = image[row.start * channels..].iter();
            row.fill(pixels.skip(channel).step_by(channels), 1, patch, out);
        }
    }
}

/// Writes the codes of [`patches_channels_first`] in the order (ky, kx, channel), as pixels are.
/// The weights of [`weights_channels_last`] match this order.
pub(crate) fn patches_channels_last(
    image: &[u8],
    size: Image,
    patch: Patch,
    columns: usize,
    first: usize,
    out: &mut [i8],
) {
    let width = size.channels * patch.kernel;
    for (index, out) in (first..).zip(out.chunks_exact_mut(width * patch.kernel)) {
        for (ky, out) in out.chunks_exact_mut(width).enumerate() {
            let row = PatchRow::new(size, patch, columns, index, ky);
            let pixels = image[row.start * size.channels..].iter();
            row.fill(pixels, size.channels, patch, out);
        }
    }
}

/// Reorders the weights of patches from (channel, ky, kx) to (ky, kx, channel).
pub(crate) fn weights_channels_last(weights: &[i8], size: Image, patch: Patch) -> Vec<i8> {
    let (channels, pixels) = (size.channels, patch.kernel * patch.kernel);
    let rows = weights.chunks_exact(channels * pixels);
    let row = |row: &[i8]| -> Vec<i8> {
        let places = (0..pixels).flat_map(|pixel| (0..channels).map(move |c| c * pixels + pixel));
        places.map(|place| row[place]).collect()
    };
    rows.flat_map(row).collect()
}
