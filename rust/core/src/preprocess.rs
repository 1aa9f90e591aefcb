//! From decoded pixels to patch codes: resize, centre crop, colour, patches. All on `u8`, in integers.
//!
//! Resizing equals Pillow's `Image.resize` bit for bit (`src/libImaging/Resample.c`, and `Geometry.c` for `nearest`);
//! sizes and offsets round as torchvision's `Resize` and `CenterCrop` do. Only what the crop keeps is computed.
//! Depends on [`crate::error`] and the subnet's config.

use crate::error::{Error, Result};
use crate::subnet::config::{Config, Filter, Image, Patch, Preprocess, Resize, ResizeMode};

/// Sides of an input image, at most, in pixels (JPEG's limit is 65,535).
pub const MAX_INPUT_SIDE: usize = 65_500;
/// Sides after resizing and before the crop, at most: `nearest` walks along them, as Pillow does.
const MAX_RESIZED_SIDE: usize = 1 << 24;
/// Bytes of the image between the two passes, at most.
const MAX_INTERMEDIATE_BYTES: usize = 256 << 20;

/// Memory that is kept from one image to the next, at most, in bytes for each buffer.
const MAX_KEPT_BYTES: usize = 16 << 20;

/// A decoded image, borrowed: rows of interleaved `u8` pixels, `stride` bytes apart.
#[derive(Clone, Copy, Debug)]
pub struct ImageView<'a> {
    data: &'a [u8],
    height: usize,
    width: usize,
    channels: usize,
    stride: usize,
}

impl<'a> ImageView<'a> {
    /// Checks sizes against the data. `channels` is 1 (gray) or 3 (RGB); `stride` is in bytes.
    ///
    /// # Errors
    /// [`Error::InvalidImage`].
    pub fn new(
        data: &'a [u8],
        height: usize,
        width: usize,
        channels: usize,
        stride: usize,
    ) -> Result<Self> {
        if channels != 1 && channels != 3 {
            return Err(Error::InvalidImage(format!(
                "it has {channels} channels; convert it to gray (1) or RGB (3)"
            )));
        }
        if height == 0 || width == 0 {
            return Err(Error::InvalidImage(format!(
                "it is empty ({height} x {width})"
            )));
        }
        if height > MAX_INPUT_SIDE || width > MAX_INPUT_SIDE {
            return Err(Error::InvalidImage(format!(
                "it is {height} x {width}; sides are at most {MAX_INPUT_SIDE}: scale it down first"
            )));
        }
        let row = width * channels;
        let needed = (height - 1)
            .checked_mul(stride)
            .and_then(|n| n.checked_add(row));
        if stride < row || needed.is_none_or(|n| data.len() < n) {
            return Err(Error::InvalidImage(format!(
                "{} bytes with a stride of {stride} do not hold {height} x {width} x {channels}",
                data.len()
            )));
        }
        Ok(Self {
            data,
            height,
            width,
            channels,
            stride,
        })
    }

    /// A view of pixels without gaps.
    ///
    /// # Errors
    /// [`Error::InvalidImage`].
    pub fn packed(data: &'a [u8], height: usize, width: usize, channels: usize) -> Result<Self> {
        Self::new(
            data,
            height,
            width,
            channels,
            width.saturating_mul(channels),
        )
    }

    fn row(&self, y: usize) -> &'a [u8] {
        &self.data[y * self.stride..][..self.width * self.channels]
    }
}

/// Turns decoded images into the ones that the network sees. Keeps its memory (unless an image was enormous), and its tables while
/// the input's size stays the same.
#[derive(Clone, Debug)]
pub struct Preprocessor {
    image: Image,
    resize: Resize,
    plan: Option<Plan>,
    gray: Vec<u8>,
    between: Vec<u8>,
    sums: Vec<i32>,
}

/// How one size of input becomes the network's: what each output row and column is made of.
#[derive(Clone, Debug)]
struct Plan {
    source: (usize, usize),
    vertical: Axis,
    horizontal: Axis,
    vertical_first: bool,
}

impl Preprocessor {
    /// For one subnet's image size and resizing.
    pub fn new(config: &Config) -> Self {
        Self::for_image(config.image, &config.preprocess)
    }

    /// For images of a given size, before there is a subnet.
    pub fn for_image(image: Image, preprocess: &Preprocess) -> Self {
        Self {
            image,
            resize: preprocess.resize.clone(),
            plan: None,
            gray: Vec::new(),
            between: Vec::new(),
            sums: Vec::new(),
        }
    }

    /// Writes `height * width * channels` bytes, as the network sees them, to `out`. Gray becomes RGB by
    /// repetition, RGB becomes gray as Pillow's `convert("L")` does it, before resizing.
    ///
    /// # Errors
    /// [`Error::InvalidImage`] for an image that is smaller than the crop after resizing, or that has the wrong size where the subnet
    /// does not resize.
    pub fn run(&mut self, source: &ImageView, out: &mut Vec<u8>) -> Result<()> {
        let size = (source.height, source.width);
        let plan = match self.plan.take() {
            Some(plan) if plan.source == size => plan,
            _ => Plan::new(&self.image, &self.resize, size)?,
        };
        let result = self.apply(&plan, source, out);
        self.plan = Some(plan);
        for buffer in [&mut self.gray, &mut self.between] {
            if buffer.capacity() > MAX_KEPT_BYTES {
                *buffer = Vec::new();
            }
        }
        result
    }

    fn apply(&mut self, plan: &Plan, source: &ImageView, out: &mut Vec<u8>) -> Result<()> {
        let Image {
            height,
            width,
            channels,
        } = self.image;
        let source = if source.channels == 3 && channels == 1 {
            // Only the rows that the crop needs; the others keep their place but not their contents.
            self.gray.resize(source.width * source.height, 0);
            let (first, last) = plan.vertical.span();
            for y in first..last {
                to_gray(
                    source.row(y),
                    &mut self.gray[y * source.width..][..source.width],
                );
            }
            &ImageView {
                data: &self.gray,
                channels: 1,
                stride: source.width,
                ..*source
            }
        } else {
            source
        };
        let c = source.channels;
        let row = width * c;
        out.resize(height * row, 0);
        match (&plan.vertical, plan.vertical_first) {
            (Axis::Filter(windows), true) => {
                let (first, last) = plan.horizontal.span();
                let span = (last - first) * c;
                resize_between(&mut self.between, height * span, source)?;
                self.sums.resize(span, 0);
                windows.rows(
                    |y| &source.row(y)[first * c..last * c],
                    &mut self.sums,
                    &mut self.between,
                );
                for (source, out) in self
                    .between
                    .chunks_exact(span)
                    .zip(out.chunks_exact_mut(row))
                {
                    plan.horizontal.columns(source, first, c, out);
                }
            }
            (Axis::Filter(windows), false) => {
                let (first, last) = plan.vertical.span();
                resize_between(&mut self.between, (last - first) * row, source)?;
                for (y, out) in (first..last).zip(self.between.chunks_exact_mut(row)) {
                    plan.horizontal.columns(source.row(y), 0, c, out);
                }
                self.sums.resize(row, 0);
                windows.rows(
                    |y| &self.between[(y - first) * row..][..row],
                    &mut self.sums,
                    out,
                );
            }
            _ => {
                for (y, out) in out.chunks_exact_mut(row).enumerate() {
                    plan.horizontal
                        .columns(source.row(plan.vertical.source_of(y)), 0, c, out);
                }
            }
        }
        if source.channels < channels {
            out.resize(height * width * channels, 0);
            for pixel in (0..height * width).rev() {
                let gray = out[pixel];
                out[pixel * channels..][..channels].fill(gray);
            }
        }
        Ok(())
    }
}

/// Sizes the image between the two passes, within the limit.
fn resize_between(between: &mut Vec<u8>, bytes: usize, source: &ImageView) -> Result<()> {
    if bytes > MAX_INTERMEDIATE_BYTES {
        return Err(Error::InvalidImage(format!(
            "{} x {} is too large to resize here; scale it down first",
            source.height, source.width
        )));
    }
    between.resize(bytes, 0);
    Ok(())
}

/// Pillow's ITU-R 601-2 luma.
fn to_gray(rgb: &[u8], gray: &mut [u8]) {
    for (gray, p) in gray.iter_mut().zip(rgb.as_chunks::<3>().0) {
        let sum = u32::from(p[0]) * 19595 + u32::from(p[1]) * 38470 + u32::from(p[2]) * 7471;
        *gray = ((sum + 0x8000) >> 16) as u8;
    }
}

impl Plan {
    fn new(image: &Image, resize: &Resize, source: (usize, usize)) -> Result<Self> {
        let (height, width) = source;
        let resized = match (resize.mode, &resize.size[..]) {
            (ResizeMode::Exact, &[height, width]) => (height, width),
            (ResizeMode::Shorter, &[edge]) => {
                let long =
                    |long: usize, short: usize| ((edge * long) as f64 / short as f64) as usize;
                if height <= width {
                    (edge, long(width, height))
                } else {
                    (long(height, width), edge)
                }
            }
            _ => source,
        };
        if resize.mode == ResizeMode::None && source != (image.height, image.width) {
            return Err(Error::InvalidImage(format!(
                "it is {height} x {width}; this subnet does not resize and takes {} x {}",
                image.height, image.width
            )));
        }
        if resized.0.max(resized.1) > MAX_RESIZED_SIDE {
            return Err(Error::InvalidImage(format!(
                "{height} x {width} becomes {} x {}, and sides are at most {MAX_RESIZED_SIDE}: it is too elongated, crop it first",
                resized.0, resized.1
            )));
        }
        if resized.0 < image.height || resized.1 < image.width {
            return Err(Error::InvalidImage(format!(
                "{height} x {width} becomes {} x {} and is smaller than the crop of {} x {}",
                resized.0, resized.1, image.height, image.width
            )));
        }
        let filter = resize.filter.unwrap_or(Filter::Nearest);
        // `int(round(margin / 2.0))` in Python: half to even.
        let offset = |margin: usize| (margin as f64 / 2.0).round_ties_even() as usize;
        let axis = |source, resized, crop| {
            Axis::new(source, resized, offset(resized - crop), crop, filter)
        };
        // Pillow 13's order (older ones always begin with the columns): it pays where mostly the height shrinks.
        let shrinks = |from: usize, to: usize| from as i64 - to as i64;
        let vertical_first = shrinks(height, resized.0) > (2 * shrinks(width, resized.1)).max(0);
        Ok(Self {
            source,
            vertical_first,
            vertical: axis(height, resized.0, image.height),
            horizontal: axis(width, resized.1, image.width),
        })
    }
}

/// What the outputs along one axis are made of, crop applied.
#[derive(Clone, Debug)]
enum Axis {
    /// Sizes are equal: Pillow skips the pass.
    Copy { offset: usize, len: usize },
    /// The source index of each output.
    Nearest(Vec<usize>),
    /// Weighted sums of a window of the source.
    Filter(Windows),
}

#[derive(Clone, Debug)]
struct Windows {
    /// For each output: the window's first source index and its length.
    bounds: Vec<(usize, usize)>,
    /// For each output `taps` weights, of which the window's length are used.
    weights: Vec<i32>,
    taps: usize,
}

/// Bits after the point in the weights: 32 less 8 for the pixel and 2 for overshoot and sign.
const PRECISION: u32 = 32 - 8 - 2;
const HALF: i32 = 1 << (PRECISION - 1);

fn clip8(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

impl Axis {
    fn new(source: usize, resized: usize, offset: usize, crop: usize, filter: Filter) -> Self {
        if source == resized {
            return Self::Copy { offset, len: crop };
        }
        if filter == Filter::Nearest {
            // As Pillow adds them up, so that roundings agree.
            let step = source as f64 / resized as f64;
            let mut centre = step * 0.5;
            let mut indices = Vec::with_capacity(crop);
            for i in 0..offset + crop {
                if i >= offset {
                    indices.push((centre as usize).min(source - 1));
                }
                centre += step;
            }
            return Self::Nearest(indices);
        }
        Self::Filter(Windows::new(source, resized, offset, crop, filter))
    }

    /// The range of source indices that are read.
    fn span(&self) -> (usize, usize) {
        match self {
            Self::Copy { offset, len } => (*offset, offset + len),
            Self::Nearest(indices) => (indices[0], indices[indices.len() - 1] + 1),
            Self::Filter(windows) => {
                let ends = windows.bounds.iter().map(|(first, len)| first + len);
                (windows.bounds[0].0, ends.max().unwrap_or(0))
            }
        }
    }

    /// The source index of an output that has just one.
    fn source_of(&self, i: usize) -> usize {
        match self {
            Self::Copy { offset, .. } => offset + i,
            Self::Nearest(indices) => indices[i],
            Self::Filter(windows) => windows.bounds[i].0,
        }
    }

    /// One row of output columns; `source` starts at column `first`.
    fn columns(&self, source: &[u8], first: usize, channels: usize, out: &mut [u8]) {
        match self {
            Self::Copy { offset, len } => {
                out.copy_from_slice(
                    &source[(offset - first) * channels..(offset - first + len) * channels],
                );
            }
            Self::Nearest(indices) => {
                for (out, &i) in out.chunks_exact_mut(channels).zip(indices) {
                    out.copy_from_slice(
                        &source[(i - first) * channels..(i - first + 1) * channels],
                    );
                }
            }
            Self::Filter(windows) if channels == 3 => windows.columns::<3>(source, first, out),
            Self::Filter(windows) => windows.columns::<1>(source, first, out),
        }
    }
}

impl Windows {
    /// Pillow's `precompute_coeffs` and `normalize_coeffs_8bpc`, operation for operation, for the outputs of the crop.
    fn new(source: usize, resized: usize, offset: usize, crop: usize, filter: Filter) -> Self {
        let (radius, weigh): (f64, fn(f64) -> f64) = match filter {
            Filter::Nearest | Filter::Box => (0.5, weigh_box),
            Filter::Bilinear => (1.0, weigh_bilinear),
            Filter::Hamming => (1.0, weigh_hamming),
            Filter::Bicubic => (2.0, weigh_bicubic),
        };
        let scale = source as f64 / resized as f64;
        let filter_scale = scale.max(1.0);
        let support = radius * filter_scale;
        let taps = support.ceil() as usize * 2 + 1;
        let inverse = 1.0 / filter_scale;
        let mut bounds = Vec::with_capacity(crop);
        let mut weights = vec![0i32; crop * taps];
        let mut exact = vec![0f64; taps];
        for (i, weights) in (offset..offset + crop).zip(weights.chunks_exact_mut(taps)) {
            let centre = (i as f64 + 0.5) * scale;
            let start = (centre - support + 0.5).max(0.0) as usize;
            let end = ((centre + support + 0.5) as usize).min(source);
            let len = end - start;
            let mut total = 0.0;
            for (x, weight) in exact[..len].iter_mut().enumerate() {
                *weight = weigh(((x + start) as f64 - centre + 0.5) * inverse);
                total += *weight;
            }
            for (weight, exact) in weights.iter_mut().zip(&exact[..len]) {
                let exact = if total == 0.0 { *exact } else { exact / total };
                let half = if exact < 0.0 { -0.5 } else { 0.5 };
                *weight = (half + exact * f64::from(1 << PRECISION)) as i32;
            }
            bounds.push((start, len));
        }
        Self {
            bounds,
            weights,
            taps,
        }
    }

    /// Start and weights of each window.
    fn iter(&self) -> impl Iterator<Item = (usize, &[i32])> {
        self.bounds
            .iter()
            .zip(self.weights.chunks_exact(self.taps))
            .map(|(&(start, len), w)| (start, &w[..len]))
    }

    /// All output rows, one `sums` wide; `source` gives the rows.
    fn rows<'a>(&self, source: impl Fn(usize) -> &'a [u8], sums: &mut [i32], out: &mut [u8]) {
        for (out, (start, weights)) in out.chunks_exact_mut(sums.len()).zip(self.iter()) {
            sums.fill(HALF);
            for (y, &weight) in (start..).zip(weights) {
                for (sum, &pixel) in sums.iter_mut().zip(source(y)) {
                    *sum += i32::from(pixel) * weight;
                }
            }
            for (out, &sum) in out.iter_mut().zip(sums.iter()) {
                *out = clip8(sum);
            }
        }
    }

    fn columns<const C: usize>(&self, source: &[u8], first: usize, out: &mut [u8]) {
        let (source, _) = source.as_chunks::<C>();
        let (out, _) = out.as_chunks_mut::<C>();
        for (out, (start, weights)) in out.iter_mut().zip(self.iter()) {
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

fn weigh_box(x: f64) -> f64 {
    if x > -0.5 && x <= 0.5 {
        1.0
    } else {
        0.0
    }
}

fn weigh_bilinear(x: f64) -> f64 {
    (1.0 - x.abs()).max(0.0)
}

fn weigh_hamming(x: f64) -> f64 {
    let x = x.abs();
    if x == 0.0 {
        1.0
    } else if x >= 1.0 {
        0.0
    } else {
        let x = x * std::f64::consts::PI;
        // Pillow writes these two as C floats.
        x.sin() / x * (f64::from(0.54f32) + f64::from(0.46f32) * x.cos())
    }
}

fn weigh_bicubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// Writes the patch vectors of an image, from patch `first` (row-major in the grid) as many as `out` holds: codes
/// `pixel - 128`, ordered (channel, ky, kx), `channels * kernel^2` for each patch.
pub fn patch_codes(
    image: &[u8],
    size: Image,
    patch: Patch,
    columns: usize,
    first: usize,
    out: &mut [i8],
) {
    let code = |pixel: u8| (pixel ^ 0x80) as i8;
    let Image {
        height,
        width,
        channels,
    } = size;
    let Patch {
        kernel,
        stride,
        pad,
        pad_value,
    } = patch;
    for (index, out) in (first..).zip(out.chunks_exact_mut(channels * kernel * kernel)) {
        let (top, left) = (index / columns * stride, index % columns * stride);
        for (row, out) in out.chunks_exact_mut(kernel).enumerate() {
            let (channel, y) = (row / kernel, top + row % kernel);
            if y < pad || y >= height + pad {
                out.fill(code(pad_value));
                continue;
            }
            // Columns before, inside and behind the image.
            let before = pad.saturating_sub(left).min(kernel);
            let inside = (width + pad)
                .saturating_sub(left)
                .min(kernel)
                .saturating_sub(before);
            out[..before].fill(code(pad_value));
            out[before + inside..].fill(code(pad_value));
            let start = (y - pad) * width + (left + before - pad);
            let pixels = image[start * channels..]
                .iter()
                .skip(channel)
                .step_by(channels);
            for (out, &pixel) in out[before..before + inside].iter_mut().zip(pixels) {
                *out = code(pixel);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        for (height, width, kept) in [(60_000, 300, 0), (100, 300, 30_000)] {
            let pixels = vec![9; height * width * 3];
            let view = ImageView::packed(&pixels, height, width, 3).unwrap();
            preprocessor.run(&view, &mut out).unwrap();
            assert_eq!(preprocessor.gray.capacity(), kept);
            assert_eq!(out, [9; 28 * 28]);
        }
    }
}
