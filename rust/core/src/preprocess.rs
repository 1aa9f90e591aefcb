//! From decoded pixels or camera frames to patch codes: colour, resize, centre crop, patches. All on `u8`, in integers.
//!
//! Resizing equals Pillow's `Image.resize` bit for bit (`src/libImaging/Resample.c`, and `Geometry.c` for `nearest`);
//! sizes and offsets round as torchvision's `Resize` and `CenterCrop` do. Only what the crop keeps is computed.
//! Depends on [`crate::error`], the subnet's config and the kernels.

use std::ops::Range;
use std::str::FromStr;

use quasar_kernels::image::{Along, Windows, PRECISION};
use quasar_kernels::{Kernels, Rows, RowsMut, Team};

pub use quasar_kernels::image::YuvMatrix;

use crate::error::{Error, Result};
use crate::pool::for_each;
use crate::subnet::config::{Config, Filter, Image, Patch, Preprocess, Resize, ResizeMode};

/// Sides of an input image, at most, in pixels (JPEG's limit is 65,535).
pub const MAX_INPUT_SIDE: usize = 65_500;
/// Sides after resizing and before the crop, at most: `nearest` walks along them, as Pillow does.
const MAX_RESIZED_SIDE: usize = 1 << 24;
/// Bytes of the image between the two passes, at most.
const MAX_INTERMEDIATE_BYTES: usize = 256 << 20;

/// Memory that is kept from one image to the next, at most, in bytes for each buffer.
const MAX_KEPT_BYTES: usize = 16 << 20;

/// Source rows that are converted and then summed at a time, with the columns first: they stay in L1 or L2 meanwhile.
const ROWS_AT_A_TIME: usize = 8;

/// How the bytes of a frame stand for pixels. Names are those of V4L2 and `OpenCV`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PixelFormat {
    /// One byte a pixel.
    Gray,
    /// R, G, B (V4L2 `RGB3`).
    Rgb,
    /// B, G, R (V4L2 `BGR3`).
    Bgr,
    /// 4:2:0: a plane of Y', then one of half the height with Cb, Cr for each two by two pixels (V4L2 `NV12`).
    Nv12,
    /// 4:2:2: Y', Cb, Y', Cr for each two pixels of a row (V4L2 `YUYV`).
    Yuyv,
}

impl PixelFormat {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Gray, Self::Rgb, Self::Bgr, Self::Nv12, Self::Yuyv];

    /// `gray`, `rgb`, `bgr`, `nv12` or `yuyv`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gray => "gray",
            Self::Rgb => "rgb",
            Self::Bgr => "bgr",
            Self::Nv12 => "nv12",
            Self::Yuyv => "yuyv",
        }
    }

    /// Bytes of a pixel in the first plane.
    const fn bytes(self) -> usize {
        match self {
            Self::Gray | Self::Nv12 => 1,
            Self::Yuyv => 2,
            Self::Rgb | Self::Bgr => 3,
        }
    }
}

impl FromStr for PixelFormat {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|format| format.name() == name);
        found.ok_or_else(|| {
            Error::InvalidImage(format!(
                "there is no format {name:?}; there are {}",
                Self::ALL.map(Self::name).join(", ")
            ))
        })
    }
}

/// An image or a camera's frame, borrowed: rows `stride` bytes apart, of interleaved pixels or as the format says.
#[derive(Clone, Copy, Debug)]
pub struct ImageView<'a> {
    data: &'a [u8],
    /// NV12's second plane.
    chroma: &'a [u8],
    height: usize,
    width: usize,
    format: PixelFormat,
    stride: usize,
    matrix: YuvMatrix,
    /// Whether it is what a network sees already.
    preprocessed: bool,
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
        let format = match channels {
            1 => PixelFormat::Gray,
            3 => PixelFormat::Rgb,
            _ => {
                return Err(Error::InvalidImage(format!(
                    "it has {channels} channels; convert it to gray (1) or RGB (3)"
                )))
            }
        };
        Self::frame(data, None, (height, width), format, stride)
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

    /// A camera's frame of (height, width). Rows are `stride` bytes apart in both planes of NV12, whose second one is `chroma` or else
    /// follows the `height` rows of the first. `Y'CbCr` is of limited range and read as BT.601: see [`Self::with_matrix`].
    ///
    /// # Errors
    /// [`Error::InvalidImage`] for sides of 0 or beyond [`MAX_INPUT_SIDE`], for an odd side where pixels share chroma, for a `chroma` plane
    /// of another format than NV12, and where the data does not hold the rows.
    pub fn frame(
        data: &'a [u8],
        chroma: Option<&'a [u8]>,
        (height, width): (usize, usize),
        format: PixelFormat,
        stride: usize,
    ) -> Result<Self> {
        let invalid = |problem| Err(Error::InvalidImage(problem));
        let name = format.name();
        if height == 0 || width == 0 {
            return invalid(format!("it is empty ({height} x {width})"));
        }
        if height > MAX_INPUT_SIDE || width > MAX_INPUT_SIDE {
            return invalid(format!(
                "it is {height} x {width}; sides are at most {MAX_INPUT_SIDE}: scale it down first"
            ));
        }
        let two_planes = format == PixelFormat::Nv12;
        if (width % 2 == 1 && (two_planes || format == PixelFormat::Yuyv))
            || (height % 2 == 1 && two_planes)
        {
            return invalid(format!(
                "it is {height} x {width}, but pixels of {name} share their colour two by two, so sides are even"
            ));
        }
        let row = width * format.bytes();
        let holds = |data: &[u8], rows: usize| {
            let needed = (rows - 1)
                .checked_mul(stride)
                .and_then(|n| n.checked_add(row));
            needed.is_some_and(|n| data.len() >= n)
        };
        let (data, chroma) = match chroma {
            None if two_planes => match height.checked_mul(stride) {
                Some(luma) if luma <= data.len() => data.split_at(luma),
                _ => (data, &[][..]),
            },
            None => (data, &[][..]),
            Some(chroma) if two_planes => (data, chroma),
            Some(_) => {
                return invalid(format!(
                    "{name} has no plane of chroma; give its data alone"
                ))
            }
        };
        if stride < row || !holds(data, height) || (two_planes && !holds(chroma, height / 2)) {
            let planes = if two_planes {
                format!(" and {} of chroma", chroma.len())
            } else {
                String::new()
            };
            return invalid(format!(
                "{} bytes{planes} with a stride of {stride} do not hold {height} x {width} pixels of {name}: a row has {row} \
                 bytes",
                data.len()
            ));
        }
        Ok(Self {
            data,
            chroma,
            height,
            width,
            format,
            stride,
            matrix: YuvMatrix::BT601,
            preprocessed: false,
        })
    }

    /// The same frame with its `Y'CbCr` read by another matrix.
    #[must_use]
    pub fn with_matrix(self, matrix: YuvMatrix) -> Self {
        Self { matrix, ..self }
    }

    /// What [`Preprocessor::run`] gave, which it gives again.
    ///
    /// # Errors
    /// [`Error::InvalidImage`] for another number of bytes than the network takes.
    pub fn preprocessed(data: &'a [u8], image: Image) -> Result<Self> {
        let Image {
            height,
            width,
            channels,
        } = image;
        if data.len() != image.bytes() {
            return Err(Error::InvalidImage(format!(
                "{} bytes; this subnet takes {height} x {width} x {channels}",
                data.len()
            )));
        }
        Ok(Self {
            preprocessed: true,
            ..Self::packed(data, height, width, channels)?
        })
    }

    /// Whether its bytes are gray values or, three by three, colours.
    fn interleaved(&self) -> bool {
        !matches!(self.format, PixelFormat::Nv12 | PixelFormat::Yuyv)
    }
}

/// Turns decoded images into the ones that the network sees. Keeps its memory (unless an image was enormous), and its tables while
/// the input's size stays the same.
#[derive(Clone, Debug)]
pub struct Preprocessor {
    kernels: Kernels,
    image: Image,
    resize: Resize,
    plan: Option<Plan>,
    /// One for each thread.
    converted: Vec<Converted>,
    between: Vec<u8>,
}

/// Memory of rows that are gray or RGB and were not.
#[derive(Clone, Debug, Default)]
struct Converted {
    rows: Vec<u8>,
    rgb: Vec<u8>,
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
            kernels: Kernels::best(),
            image,
            resize: preprocess.resize.clone(),
            plan: None,
            converted: vec![Converted::default()],
            between: Vec::new(),
        }
    }

    /// The same with another tier's kernels. Every tier gives the same bytes.
    #[must_use]
    pub fn with_kernels(self, kernels: Kernels) -> Self {
        Self { kernels, ..self }
    }

    /// Writes `height * width * channels` bytes, as the network sees them, to `out`. Before resizing, `Y'CbCr` becomes RGB
    /// ([`YuvMatrix`]), gray becomes RGB by repetition, and RGB becomes gray as Pillow's `convert("L")` does it.
    ///
    /// # Errors
    /// [`Error::InvalidImage`] for an image that is smaller than the crop after resizing, or that has the wrong size where the subnet
    /// does not resize.
    pub fn run(&mut self, source: &ImageView, out: &mut Vec<u8>) -> Result<()> {
        self.run_with(None, source, out)
    }

    /// [`Self::run`] with a team's threads.
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
        let horizontal = |source: Rows<u8>, out: RowsMut<u8>| {
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
                    RowsMut::packed(&mut self.between, wide),
                );
                horizontal(Rows::packed(&self.between, wide), RowsMut::packed(out, row));
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
                            RowsMut::packed(out, row),
                        );
                    }
                };
                for_each(team, converted, &mut self.between, band * row, resize);
                let between = Rows::packed(&self.between, row);
                kernels.resample_rows(windows, between, rows.start, RowsMut::packed(out, row));
            }
            vertical => {
                for (i, out) in out.chunks_exact_mut(row).enumerate() {
                    let y = vertical.source_of(i);
                    horizontal(
                        reader.rows(y..y + 1, &mut self.converted[0]),
                        RowsMut::packed(out, row),
                    );
                }
            }
        }
        if c == 3 && source.format == PixelFormat::Bgr {
            for pixel in out.as_chunks_mut::<3>().0 {
                pixel.swap(0, 2);
            }
        }
        if c < channels {
            out.resize(height * width * channels, 0);
            for pixel in (0..height * width).rev() {
                let gray = out[pixel];
                out[pixel * channels..][..channels].fill(gray);
            }
        }
        Ok(())
    }
}

/// Gives rows of an image as gray or three channels, of some columns only.
struct Reader<'a> {
    source: &'a ImageView<'a>,
    kernels: Kernels,
    channels: usize,
    columns: Range<usize>,
}

impl Reader<'_> {
    /// Some rows, each from the first of the columns on: where they stand, or converted. Channels of BGR stay in their order.
    fn rows<'b>(&'b self, rows: Range<usize>, converted: &'b mut Converted) -> Rows<'b, u8> {
        let (source, columns) = (self.source, &self.columns);
        let width = columns.len() * self.channels;
        if source.interleaved() && source.format.bytes() == self.channels {
            let from = rows.start * source.stride + columns.start * self.channels;
            return Rows::new(&source.data[from..], rows.len(), width, source.stride);
        }
        converted.rows.resize(rows.len() * width, 0);
        for (y, out) in rows.zip(converted.rows.chunks_exact_mut(width)) {
            self.convert(y, out, &mut converted.rgb);
        }
        Rows::packed(&converted.rows, width)
    }

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
        let axis = |along, source, resized, crop| {
            Axis::new(
                along,
                (source, resized),
                offset(resized - crop),
                crop,
                filter,
            )
        };
        // Pillow 13's order (older ones always begin with the columns): it pays where mostly the height shrinks.
        let shrinks = |from: usize, to: usize| from as i64 - to as i64;
        let vertical_first = shrinks(height, resized.0) > (2 * shrinks(width, resized.1)).max(0);
        Ok(Self {
            source,
            vertical_first,
            vertical: axis(Along::Rows, height, resized.0, image.height),
            horizontal: axis(Along::Columns, width, resized.1, image.width),
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
        Self::Filter(windows(along, (source, resized), offset, crop, filter))
    }

    /// The range of source indices that are read.
    fn span(&self) -> Range<usize> {
        match self {
            Self::Copy { offset, len } => *offset..offset + len,
            Self::Nearest(indices) => indices[0]..indices[indices.len() - 1] + 1,
            Self::Filter(windows) => windows.span(),
        }
    }

    /// The source index of an output that has just one.
    fn source_of(&self, i: usize) -> usize {
        match self {
            Self::Copy { offset, .. } => offset + i,
            Self::Nearest(indices) => indices[i],
            Self::Filter(windows) => windows.span().start,
        }
    }

    /// Rows of output columns; `source` starts at column `first`.
    fn columns(
        &self,
        kernels: Kernels,
        source: Rows<u8>,
        first: usize,
        channels: usize,
        mut out: RowsMut<u8>,
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

/// Pillow's `precompute_coeffs` and `normalize_coeffs_8bpc`, operation for operation, for the outputs of the crop.
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
    Windows::new(along, bounds, weights, taps)
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

/// A row of a patch: columns before the image, inside it and behind it, and the first pixel inside.
struct PatchRow {
    before: usize,
    inside: usize,
    start: usize,
}

impl PatchRow {
    /// Row `row` of patch `index` of a grid with so many columns.
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

/// The same, ordered (ky, kx, channel) as pixels are: what [`by_pixels`] makes of weights goes with it.
pub(crate) fn patch_pixels(
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

/// Weights of patch vectors ordered (ky, kx, channel), from those ordered (channel, ky, kx).
pub(crate) fn by_pixels(weights: &[i8], size: Image, patch: Patch) -> Vec<i8> {
    let (channels, pixels) = (size.channels, patch.kernel * patch.kernel);
    let rows = weights.chunks_exact(channels * pixels);
    let row = |row: &[i8]| -> Vec<i8> {
        let places = (0..pixels).flat_map(|pixel| (0..channels).map(move |c| c * pixels + pixel));
        places.map(|place| row[place]).collect()
    };
    rows.flat_map(row).collect()
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
