//! Borrowed images and camera frames, checked against their data.

use std::str::FromStr;

use quasar_kernels::image::YuvMatrix;

use crate::error::{Error, Result};
use crate::subnet::config::Image;

/// The largest side of an input image in pixels (JPEG's limit is 65,535).
pub const MAX_INPUT_SIDE: usize = 65_500;

/// The pixel format of a frame, named as in V4L2 and `OpenCV`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PixelFormat {
    /// One byte a pixel.
    Gray,
    /// R, G, B (V4L2 `RGB3`).
    Rgb,
    /// B, G, R (V4L2 `BGR3`).
    Bgr,
    /// 4:2:0: a plane of Y', then a plane of half the height with Cb, Cr for each two by two pixels
    /// (V4L2 `NV12`).
    Nv12,
    /// 4:2:2: Y', Cb, Y', Cr for each two pixels of a row (V4L2 `YUYV`).
    Yuyv,
}

impl PixelFormat {
    /// All formats.
    pub const ALL: [Self; 5] = [Self::Gray, Self::Rgb, Self::Bgr, Self::Nv12, Self::Yuyv];

    /// Returns the name: `gray`, `rgb`, `bgr`, `nv12` or `yuyv`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gray => "gray",
            Self::Rgb => "rgb",
            Self::Bgr => "bgr",
            Self::Nv12 => "nv12",
            Self::Yuyv => "yuyv",
        }
    }

    /// Returns the bytes of a row of the first plane.
    pub fn row_bytes(self, width: usize) -> usize {
        width.saturating_mul(self.bytes())
    }

    /// Returns the bytes of a pixel in the first plane.
    pub(super) const fn bytes(self) -> usize {
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

/// A borrowed image or camera frame, whose rows are `stride` bytes apart.
#[derive(Clone, Copy, Debug)]
pub struct ImageView<'a> {
    pub(super) data: &'a [u8],
    /// NV12's second plane.
    pub(super) chroma: &'a [u8],
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) format: PixelFormat,
    pub(super) stride: usize,
    pub(super) matrix: YuvMatrix,
    /// The image is preprocessed already.
    pub(super) preprocessed: bool,
}

impl<'a> ImageView<'a> {
    /// Creates a view, after checking sizes against the data. `channels` is 1 (gray) or 3 (RGB);
    /// `stride` is in bytes.
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

    /// Creates a view of pixels without gaps.
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

    /// Creates a view of a camera frame of (height, width). Rows are `stride` bytes apart in both
    /// planes of NV12; the second plane is `chroma`, or follows the `height` rows of the first.
    /// `Y'CbCr` has limited range and is read as BT.601: see [`Self::with_matrix`].
    ///
    /// # Errors
    /// [`Error::InvalidImage`] for sides of 0 or beyond [`MAX_INPUT_SIDE`], for an odd side along
    /// which pixels share chroma, for a `chroma` plane of a format other than NV12, and if the data
    /// does not hold the rows.
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
            return invalid(format!("it is empty: {width} pixels wide, {height} high"));
        }
        if height > MAX_INPUT_SIDE || width > MAX_INPUT_SIDE {
            return invalid(format!(
                "it is {width} pixels wide and {height} high; sides are at most {MAX_INPUT_SIDE}: \
                 scale it down first"
            ));
        }
        let two_planes = format == PixelFormat::Nv12;
        if (width % 2 == 1 && (two_planes || format == PixelFormat::Yuyv))
            || (height % 2 == 1 && two_planes)
        {
            return invalid(format!(
                "it is {width} pixels wide and {height} high, but pixels of {name} share their colour \
                 two by two, so sides are even"
            ));
        }
        let row = format.row_bytes(width);
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
                "{} bytes{planes} with a stride of {stride} do not hold {height} rows of {width} \
                 pixels of {name}: a row has {row} bytes",
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

    /// Returns the frame with its `Y'CbCr` read by another matrix.
    #[must_use]
    pub fn with_matrix(self, matrix: YuvMatrix) -> Self {
        Self { matrix, ..self }
    }

    /// Returns the number of pixels.
    pub(crate) fn pixels(&self) -> usize {
        self.height * self.width
    }

    /// Creates a view of a preprocessed image, which [`super::Preprocessor::run`] copies.
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

    /// Returns whether its bytes are gray values or, three by three, colours.
    pub(super) fn interleaved(&self) -> bool {
        !matches!(self.format, PixelFormat::Nv12 | PixelFormat::Yuyv)
    }
}
