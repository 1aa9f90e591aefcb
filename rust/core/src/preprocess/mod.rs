//! Converts decoded images and camera frames to the network's input and to patch codes: colour,
//! resize, centre crop, patches. All of it works on `u8`, in integers.
//!
//! Resizing equals Pillow's `Image.resize` bit for bit (`src/libImaging/Resample.c`, and
//! `Geometry.c` for `nearest`). Sizes and offsets round as torchvision's `Resize` and `CenterCrop`
//! do. Only what the crop keeps is computed.
//!
//! `frame` holds the views of images, `resize` the plan of resizing one size, `patches` the
//! cutting. Depends on [`crate::pool`], [`crate::error`], the subnet's config and the kernels.

mod frame;
mod patches;
mod resize;

use std::ops::Range;

use quasar_kernels::{Kernels, MatrixView, MatrixViewMut, Team, Tier};

pub use frame::{ImageView, PixelFormat, MAX_INPUT_SIDE};
pub use patches::patches_channels_first;
pub(crate) use patches::{patches_channels_last, weights_channels_last};
pub use quasar_kernels::image::YuvMatrix;

use crate::error::{Error, Result};
use crate::pool::for_each;
use crate::subnet::config::{Config, Image, Preprocess, Resize};
use resize::{Axis, Plan};

/// The largest image between the two passes, in bytes.
const MAX_INTERMEDIATE_BYTES: usize = 256 << 20;

/// The largest buffer that is kept from one image to the next, in bytes.
const MAX_KEPT_BYTES: usize = 16 << 20;

/// Source rows that are converted and then summed at a time, if columns come first: they stay in L1
/// or L2 meanwhile.
const ROWS_AT_A_TIME: usize = 8;

/// Converts decoded images to the network's input. Keeps its memory (unless an image was enormous),
/// and its tables while the size of inputs stays the same.
#[derive(Clone, Debug)]
pub struct Preprocessor {
    kernels: Kernels,
    image: Image,
    resize: Resize,
    plan: Option<Plan>,
    /// Memory of each thread.
    converted: Vec<Converted>,
    between: Vec<u8>,
}

/// Memory of rows that are converted to gray or RGB.
#[derive(Clone, Debug, Default)]
struct Converted {
    rows: Vec<u8>,
    rgb: Vec<u8>,
}

impl Preprocessor {
    /// Creates a preprocessor for one subnet's image size and resizing.
    pub fn new(config: &Config) -> Self {
        Self::for_image(config.image, &config.preprocess)
    }

    /// Creates a preprocessor for an image size, without a subnet.
    pub fn for_image(image: Image, preprocess: &Preprocess) -> Self {
        Self {
            kernels: Kernels::best(),
            image,
            resize: preprocess.resize.clone(),
            plan: None,
            converted: vec![Converted::default()],
            between: Vec::new(),
        }
    }

    /// Returns the preprocessor with another tier's kernels. Every tier gives the same bytes.
    #[must_use]
    pub fn with_kernels(self, kernels: Kernels) -> Self {
        Self { kernels, ..self }
    }

    /// Returns the tier of the kernels.
    pub fn tier(&self) -> Tier {
        self.kernels.tier()
    }

    /// Writes the network's input, `height * width * channels` bytes, to `out`. Before resizing,
    /// `Y'CbCr` is converted to RGB ([`YuvMatrix`]), gray to RGB by repetition, and RGB to gray as
    /// Pillow's `convert("L")` does.
    ///
    /// # Errors
    /// [`Error::InvalidImage`] for an image that is smaller than the crop after resizing, or that
    /// has the wrong size if the subnet does not resize.
    pub fn run(&mut self, source: &ImageView, out: &mut Vec<u8>) -> Result<()> {
        self.run_with(None, source, out)
    }

    /// Returns the image's own bytes if [`Self::run`] would only copy them, which it knows from the
    /// last image.
    pub(crate) fn in_place<'a>(&self, source: &ImageView<'a>) -> Option<&'a [u8]> {
        if source.preprocessed {
            return Some(source.data);
        }
        let Image {
            height,
            width,
            channels,
        } = self.image;
        let format = match channels {
            1 => PixelFormat::Gray,
            _ => PixelFormat::Rgb,
        };
        let packed = source.format == format && source.stride == width * channels;
        let whole = (source.height, source.width) == (height, width);
        let known = (self.plan.as_ref())
            .is_some_and(|plan| plan.source == (height, width) && plan.only_copies());
        (packed && whole && known).then(|| &source.data[..self.image.bytes()])
    }

    /// Runs [`Self::run`] on a team's threads.
    pub(crate) fn run_with(
        &mut self,
        team: Option<&Team>,
        source: &ImageView,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        if source.preprocessed {
            out.clear();
            out.extend_from_slice(source.data);
            return Ok(());
        }
        let size = (source.height, source.width);
        let plan = match self.plan.take() {
            Some(plan) if plan.source == size => plan,
            _ => Plan::new(&self.image, &self.resize, size)?,
        };
        let result = self.apply(team, &plan, source, out);
        self.plan = Some(plan);
        let converted = self
            .converted
            .iter_mut()
            .map(|converted| &mut converted.rows);
        for buffer in converted.chain([&mut self.between]) {
            if buffer.capacity() > MAX_KEPT_BYTES {
                *buffer = Vec::new();
            }
        }
        result
    }

    fn apply(
        &mut self,
        team: Option<&Team>,
        plan: &Plan,
        source: &ImageView,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let Image {
            height,
            width,
            channels,
        } = self.image;
        let kernels = self.kernels;
        let gray = channels == 1 || source.format == PixelFormat::Gray;
        let c = if gray { 1 } else { 3 };
        let span = plan.horizontal.span();
        // Whole pairs, which share their chroma.
        let columns = span.start & !1..span.end.next_multiple_of(2).min(source.width);
        let reader = Reader {
            source,
            kernels,
            channels: c,
            columns: columns.clone(),
        };
        let (first, wide, row) = (columns.start, columns.len() * c, width * c);
        let horizontal = |source: MatrixView<u8>, out: MatrixViewMut<u8>| {
            plan.horizontal.columns(kernels, source, first, c, out);
        };
        out.resize(height * row, 0);
        match &plan.vertical {
            Axis::Filter(windows) if plan.vertical_first => {
                let rows = windows.span();
                let in_place = source.interleaved() && source.format.bytes() == c;
                if !in_place && rows.len() * wide > MAX_INTERMEDIATE_BYTES {
                    return Err(too_large(source));
                }
                resize_between(&mut self.between, height * wide, source)?;
                kernels.resample_rows(
                    windows,
                    reader.rows(rows.clone(), &mut self.converted[0]),
                    rows.start,
                    MatrixViewMut::packed(&mut self.between, wide),
                );
                horizontal(
                    MatrixView::packed(&self.between, wide),
                    MatrixViewMut::packed(out, row),
                );
            }
            Axis::Filter(windows) => {
                let rows = windows.span();
                resize_between(&mut self.between, rows.len() * row, source)?;
                // A band of rows for each thread.
                let threads = team.map_or(1, Team::threads);
                let band = rows.len().div_ceil(threads);
                self.converted
                    .resize_with(threads.max(self.converted.len()), Converted::default);
                let converted = &mut self.converted[..rows.len().div_ceil(band)];
                let resize = |i: usize, converted: &mut Converted, band_out: &mut [u8]| {
                    let starts = (rows.start + i * band..).step_by(ROWS_AT_A_TIME);
                    for (y, out) in starts.zip(band_out.chunks_mut(ROWS_AT_A_TIME * row)) {
                        horizontal(
                            reader.rows(y..y + out.len() / row, converted),
                            MatrixViewMut::packed(out, row),
                        );
                    }
                };
                for_each(team, converted, &mut self.between, band * row, resize);
                let between = MatrixView::packed(&self.between, row);
                kernels.resample_rows(
                    windows,
                    between,
                    rows.start,
                    MatrixViewMut::packed(out, row),
                );
            }
            vertical => {
                for (i, out) in out.chunks_exact_mut(row).enumerate() {
                    let y = vertical.source_of(i);
                    horizontal(
                        reader.rows(y..y + 1, &mut self.converted[0]),
                        MatrixViewMut::packed(out, row),
                    );
                }
            }
        }
        order_channels(source, c, channels, out);
        Ok(())
    }
}

/// Brings a resized image of `c` channels, in the source's order, to RGB or to copies of gray.
fn order_channels(source: &ImageView, c: usize, channels: usize, out: &mut Vec<u8>) {
    if c == 3 && source.format == PixelFormat::Bgr {
        for pixel in out.as_chunks_mut::<3>().0 {
            pixel.swap(0, 2);
        }
    }
    if c < channels {
        let pixels = out.len();
        out.resize(pixels * channels, 0);
        for pixel in (0..pixels).rev() {
            let gray = out[pixel];
            out[pixel * channels..][..channels].fill(gray);
        }
    }
}

/// Reads rows of an image as gray or three channels, of some columns only.
struct Reader<'a> {
    source: &'a ImageView<'a>,
    kernels: Kernels,
    channels: usize,
    columns: Range<usize>,
}

impl Reader<'_> {
    /// Returns rows, each from the first of the columns on, in place or converted. Channels of BGR
    /// keep their order.
    fn rows<'b>(&'b self, rows: Range<usize>, converted: &'b mut Converted) -> MatrixView<'b, u8> {
        let (source, columns) = (self.source, &self.columns);
        let width = columns.len() * self.channels;
        if source.interleaved() && source.format.bytes() == self.channels {
            let from = rows.start * source.stride + columns.start * self.channels;
            return MatrixView::new(&source.data[from..], rows.len(), width, source.stride);
        }
        converted.rows.resize(rows.len() * width, 0);
        for (y, out) in rows.zip(converted.rows.chunks_exact_mut(width)) {
            self.convert(y, out, &mut converted.rgb);
        }
        MatrixView::packed(&converted.rows, width)
    }

    /// Converts one row.
    fn convert(&self, y: usize, out: &mut [u8], rgb: &mut Vec<u8>) {
        let (source, columns) = (self.source, &self.columns);
        let bytes = source.format.bytes();
        let row =
            &source.data[y * source.stride + columns.start * bytes..][..columns.len() * bytes];
        if source.interleaved() {
            let blue_first = source.format == PixelFormat::Bgr;
            self.kernels.rgb_to_gray(row, blue_first, out);
            return;
        }
        let to_rgb = |out: &mut [u8]| match source.format {
            PixelFormat::Nv12 => {
                let chroma = &source.chroma[y / 2 * source.stride + columns.start..][..row.len()];
                self.kernels.nv12_to_rgb(&source.matrix, row, chroma, out);
            }
            _ => self.kernels.yuyv_to_rgb(&source.matrix, row, out),
        };
        if self.channels == 3 {
            to_rgb(out);
        } else {
            rgb.resize(3 * columns.len(), 0);
            to_rgb(rgb);
            self.kernels.rgb_to_gray(rgb, false, out);
        }
    }
}

/// Sizes the image between the two passes, within the limit.
fn resize_between(between: &mut Vec<u8>, bytes: usize, source: &ImageView) -> Result<()> {
    if bytes > MAX_INTERMEDIATE_BYTES {
        return Err(too_large(source));
    }
    between.resize(bytes, 0);
    Ok(())
}

fn too_large(source: &ImageView) -> Error {
    Error::InvalidImage(format!(
        "{} x {} is too large to resize here; scale it down first",
        source.height, source.width
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subnet::config::{Filter, ResizeMode};

    #[test]
    fn an_image_that_would_only_be_copied_is_taken_as_it_is() {
        let image = Image {
            height: 4,
            width: 6,
            channels: 3,
        };
        for (mode, size) in [(ResizeMode::None, vec![]), (ResizeMode::Exact, vec![4, 6])] {
            let filter = (mode == ResizeMode::Exact).then_some(Filter::Bilinear);
            let resize = Resize { mode, size, filter };
            let mut preprocessor = Preprocessor::for_image(image, &Preprocess { resize });
            let pixels: Vec<u8> = (0..5 * 21).collect();
            let packed = ImageView::packed(&pixels[..72], 4, 6, 3).unwrap();
            let padded = ImageView::new(&pixels, 4, 6, 3, 21).unwrap();
            let bgr = ImageView::frame(&pixels[..72], None, (4, 6), PixelFormat::Bgr, 18).unwrap();
            let gray = ImageView::packed(&pixels[..24], 4, 6, 1).unwrap();
            assert_eq!(preprocessor.in_place(&packed), None, "nothing is known yet");
            let mut out = Vec::new();
            preprocessor.run(&packed, &mut out).unwrap();
            assert_eq!(preprocessor.in_place(&packed), Some(&out[..]));
            for other in [padded, bgr, gray] {
                assert_eq!(preprocessor.in_place(&other), None);
            }
        }
    }

    #[test]
    fn an_enormous_image_leaves_no_enormous_memory() {
        let image = Image {
            height: 28,
            width: 28,
            channels: 1,
        };
        let resize = Resize {
            mode: ResizeMode::Exact,
            size: vec![28, 28],
            filter: Some(Filter::Bilinear),
        };
        let mut preprocessor = Preprocessor::for_image(image, &Preprocess { resize });
        let mut out = Vec::new();
        for (height, width) in [(60_000, 300), (100, 300)] {
            let pixels = vec![9; height * width * 3];
            let view = ImageView::packed(&pixels, height, width, 3).unwrap();
            preprocessor.run(&view, &mut out).unwrap();
            assert!(preprocessor.converted[0].rows.capacity() < 10_000);
            assert!(preprocessor.between.capacity() < 10_000);
            assert_eq!(out, [9; 28 * 28]);
        }
    }
}
