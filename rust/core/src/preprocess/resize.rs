//! Plans the resizing of one size of input, with the weights of Pillow's filters.

use std::ops::Range;

use quasar_kernels::image::{Along, Windows, PRECISION};
use quasar_kernels::{Kernels, MatrixView, MatrixViewMut};

use crate::error::{Error, Result};
use crate::subnet::config::{Filter, Image, Resize, ResizeMode};

/// The largest side after resizing and before the crop: `nearest` walks along it, as Pillow does.
const MAX_RESIZED_SIDE: usize = 1 << 24;

/// The resizing of one size of input: the source of each output row and column.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub source: (usize, usize),
    pub vertical: Axis,
    pub horizontal: Axis,
    pub vertical_first: bool,
}

impl Plan {
    /// Plans the resizing of a source of (height, width).
    ///
    /// # Errors
    /// [`Error::InvalidImage`] if the result is too large, or smaller than the crop.
    pub fn new(image: &Image, resize: &Resize, source: (usize, usize)) -> Result<Self> {
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
        let axis = |along, source, resized, crop| {
            Axis::new(
                along,
                (source, resized),
                offset(resized - crop),
                crop,
                filter,
            )
        };
        // Pillow 13's order, which pays if mostly the height shrinks. (Older versions always begin
        // with columns.)
        let shrinks = |from: usize, to: usize| from as i64 - to as i64;
        let vertical_first = shrinks(height, resized.0) > (2 * shrinks(width, resized.1)).max(0);
        Ok(Self {
            source,
            vertical_first,
            vertical: axis(Along::Rows, height, resized.0, image.height),
            horizontal: axis(Along::Columns, width, resized.1, image.width),
        })
    }

    /// Returns true if pixels are copied, not resized.
    pub(super) fn only_copies(&self) -> bool {
        [&self.vertical, &self.horizontal]
            .iter()
            .all(|axis| matches!(axis, Axis::Copy { .. }))
    }
}

/// The source of the outputs along one axis, crop applied.
#[derive(Clone, Debug)]
pub(super) enum Axis {
    /// Sizes are equal: Pillow skips the pass.
    Copy { offset: usize, len: usize },
    /// The source index of each output.
    Nearest(Vec<usize>),
    /// Weighted sums of windows of the source.
    Filter(Windows),
}

impl Axis {
    fn new(
        along: Along,
        (source, resized): (usize, usize),
        offset: usize,
        crop: usize,
        filter: Filter,
    ) -> Self {
        if source == resized {
            return Self::Copy { offset, len: crop };
        }
        if filter == Filter::Nearest {
            // Summed up as Pillow does, so that roundings agree.
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
        Self::Filter(windows(along, (source, resized), offset, crop, filter))
    }

    /// Returns the range of source indices that are read.
    pub fn span(&self) -> Range<usize> {
        match self {
            Self::Copy { offset, len } => *offset..offset + len,
            Self::Nearest(indices) => indices[0]..indices[indices.len() - 1] + 1,
            Self::Filter(windows) => windows.span(),
        }
    }

    /// Returns the source index of an output that has only one.
    pub fn source_of(&self, i: usize) -> usize {
        match self {
            Self::Copy { offset, .. } => offset + i,
            Self::Nearest(indices) => indices[i],
            Self::Filter(windows) => windows.span().start,
        }
    }

    /// Computes output columns of every row; `source` starts at column `first`.
    pub fn columns(
        &self,
        kernels: Kernels,
        source: MatrixView<u8>,
        first: usize,
        channels: usize,
        mut out: MatrixViewMut<u8>,
    ) {
        match self {
            Self::Copy { offset, len } => {
                let from = (offset - first) * channels;
                for y in 0..source.rows() {
                    let row = &source.row(y)[from..][..len * channels];
                    out.row_mut(y).copy_from_slice(row);
                }
            }
            Self::Nearest(indices) => {
                for y in 0..source.rows() {
                    let row = source.row(y);
                    let out = out.row_mut(y).chunks_exact_mut(channels);
                    for (out, &i) in out.zip(indices) {
                        out.copy_from_slice(&row[(i - first) * channels..][..channels]);
                    }
                }
            }
            Self::Filter(windows) => {
                kernels.resample_columns(windows, source, first, channels, out);
            }
        }
    }
}

/// Computes the windows of the crop's outputs: Pillow's `precompute_coeffs` and
/// `normalize_coeffs_8bpc`, operation for operation.
fn windows(
    along: Along,
    (source, resized): (usize, usize),
    offset: usize,
    crop: usize,
    filter: Filter,
) -> Windows {
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
    Windows::new(along, bounds, &weights, taps)
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
