//! Kernels of preprocessing: weighted sums along one axis (resizing), and rows of camera formats to RGB or gray.
//!
//! Every function has one result, whatever the tier; NEON runs the scalar code. Depends on `rows` and `tier`.

use std::ops::Range;

use crate::{Kernels, Rows, RowsMut, Tier};

/// Bits after the point in the weights of [`Windows`]: 32 less 8 for the pixel and 2 for overshoot and sign.
pub const PRECISION: u32 = 32 - 8 - 2;

pub(crate) const HALF: i32 = 1 << (PRECISION - 1);

/// SIMD tiers multiply 16-bit numbers: `weight = (high << SPLIT) + low`.
pub(crate) const SPLIT: u32 = 12;

/// Taps that the columns' pass of a SIMD tier takes at a time.
pub(crate) const GROUP: usize = 4;
/// Pixels by which a row is longer than a window, at least, so that 4 bytes more can be read behind any window or else before it.
pub(crate) const BESIDE: usize = 3;

/// Which way an image is summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Along {
    /// Each output row is a sum of source rows.
    Rows,
    /// Each output column is a sum of source columns.
    Columns,
}

/// What the outputs along one axis are made of: for each the sum of a window of the source, each element with its weight.
#[derive(Clone, Debug)]
pub struct Windows {
    along: Along,
    /// For each output: the window's first source index and its length.
    bounds: Vec<(usize, usize)>,
    /// For each output `taps` weights, of which the window's length are used.
    weights: Vec<i32>,
    taps: usize,
    /// The source indices that are read.
    span: Range<usize>,
    /// For SIMD tiers: each output's first source index and its weights two by two, as halves (low, high) of 16 bits; windows along
    /// columns have the same number of pairs each. Empty where the source is too small for them.
    pub(crate) starts: Vec<usize>,
    pub(crate) pairs: Vec<[i32; 2]>,
    pub(crate) pairs_each: usize,
}

impl Windows {
    /// From each output's `bounds` (first source index, length) and weights (`taps` of them, [`PRECISION`] bits after the point).
    ///
    /// # Panics
    /// Without outputs, with an empty window or one longer than `taps`, a weight of 2^27 or more, or where the lengths do not agree.
    pub fn new(along: Along, bounds: Vec<(usize, usize)>, weights: Vec<i32>, taps: usize) -> Self {
        assert_eq!(
            weights.len(),
            bounds.len() * taps,
            "`taps` weights for each output"
        );
        assert!(
            !bounds.is_empty() && bounds.iter().all(|&(_, len)| (1..=taps).contains(&len)),
            "windows of 1 to `taps` elements"
        );
        assert!(
            weights.iter().all(|w| w.unsigned_abs() < 1 << (15 + SPLIT)),
            "weights below 2^27"
        );
        let first = bounds.iter().map(|&(start, _)| start).min().unwrap_or(0);
        let end = bounds.iter().map(|&(start, len)| start + len).max();
        let mut windows = Self {
            along,
            bounds,
            weights,
            taps,
            span: first..end.unwrap_or(0),
            starts: Vec::new(),
            pairs: Vec::new(),
            pairs_each: 0,
        };
        windows.pair();
        windows
    }

    fn pair(&mut self) {
        let longest = self.bounds.iter().map(|&(_, len)| len).max().unwrap_or(0);
        // A window along columns is read whole, so it begins early enough to end inside the row, with weights of 0 in front.
        let (room, last) = match self.along {
            Along::Rows => (longest.next_multiple_of(2), self.span.end),
            Along::Columns => {
                let room = longest.next_multiple_of(GROUP);
                if self.span.len() < room + BESIDE {
                    return;
                }
                (room, self.span.end - room)
            }
        };
        self.pairs_each = room / 2;
        for (&(start, len), weights) in self.bounds.iter().zip(self.weights.chunks_exact(self.taps))
        {
            let from = start.min(last);
            let weight = |tap: usize| {
                let tap = tap.checked_sub(start - from);
                tap.filter(|&tap| tap < len).map_or(0, |tap| weights[tap])
            };
            self.starts.push(from);
            self.pairs.extend((0..self.pairs_each).map(|pair| {
                let (a, b) = (weight(2 * pair), weight(2 * pair + 1));
                let low = |w: i32| w & ((1 << SPLIT) - 1);
                let both = |a: i32, b: i32| (a & 0xffff) | (b << 16);
                [both(low(a), low(b)), both(a >> SPLIT, b >> SPLIT)]
            }));
        }
    }

    /// The source indices that are read.
    pub fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// Number of outputs.
    pub fn outputs(&self) -> usize {
        self.bounds.len()
    }

    /// Start and weights of each window.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &[i32])> {
        self.bounds
            .iter()
            .zip(self.weights.chunks_exact(self.taps))
            .map(|(&(start, len), w)| (start, &w[..len]))
    }
}

pub(crate) fn clip8(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// The way from `Y'CbCr` of limited range to RGB: `R = (CY * max(Y - 16, 0) + CVR * (Cr - 128) + 2^19) >> 20`, clamped, and likewise for
/// G with Cb and Cr and for B with Cb. All 20 bits after the point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct YuvMatrix {
    /// Luma's factor.
    pub luma: i32,
    /// Cr's in R.
    pub cr_red: i32,
    /// Cb's in G.
    pub cb_green: i32,
    /// Cr's in G.
    pub cr_green: i32,
    /// Cb's in B.
    pub cb_blue: i32,
}

/// Bits after the point of a [`YuvMatrix`].
pub(crate) const YUV_PRECISION: u32 = 20;

impl YuvMatrix {
    /// ITU-R BT.601, the constants of `OpenCV` (`ITUR_BT_601_CY` and so on in `color_yuv.simd.hpp`): 1.164, 1.596, -0.391, -0.813, 2.018.
    pub const BT601: Self = Self {
        luma: 1_220_542,
        cr_red: 1_673_527,
        cb_green: -409_993,
        cr_green: -852_492,
        cb_blue: 2_116_026,
    };

    /// ITU-R BT.709 (Kr = 0.2126, Kb = 0.0722): 255/219; 2 (1 - Kr) 255/224, -2 (1 - Kb) (Kb/Kg) 255/224, -2 (1 - Kr) (Kr/Kg) 255/224 and
    /// 2 (1 - Kb) 255/224, each times 2^20 and rounded.
    pub const BT709: Self = Self {
        luma: 1_220_945,
        cr_red: 1_879_825,
        cb_green: -223_607,
        cr_green: -558_796,
        cb_blue: 2_215_014,
    };

    fn pixel(&self, y: u8, cb: u8, cr: u8) -> [u8; 3] {
        let y = self.luma * i32::from(y.saturating_sub(16));
        let (cb, cr) = (i32::from(cb) - 128, i32::from(cr) - 128);
        let half = 1 << (YUV_PRECISION - 1);
        [
            self.cr_red * cr,
            self.cb_green * cb + self.cr_green * cr,
            self.cb_blue * cb,
        ]
        .map(|chroma| ((y + chroma + half) >> YUV_PRECISION).clamp(0, 255) as u8)
    }
}

/// Pillow's ITU-R 601-2 luma, 16 bits after the point, of R, G and B.
pub(crate) const GRAY: [u32; 3] = [19_595, 38_470, 7_471];

/// The scalar code, which every tier equals.
pub(crate) mod scalar {
    use super::{clip8, Rows, RowsMut, Windows, YuvMatrix, GRAY, HALF};

    pub(crate) fn rows(windows: &Windows, source: &Rows<u8>, first: usize, out: &mut RowsMut<u8>) {
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

    pub(crate) fn columns<const C: usize>(
        windows: &Windows,
        source: &Rows<u8>,
        first: usize,
        out: &mut RowsMut<u8>,
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

    pub(crate) fn yuyv(matrix: &YuvMatrix, pixels: &[u8], out: &mut [u8]) {
        let (out, _) = out.as_chunks_mut::<6>();
        for (out, &[a, cb, b, cr]) in out.iter_mut().zip(pixels.as_chunks::<4>().0) {
            out[..3].copy_from_slice(&matrix.pixel(a, cb, cr));
            out[3..].copy_from_slice(&matrix.pixel(b, cb, cr));
        }
    }

    pub(crate) fn gray(pixels: &[u8], order: [usize; 3], out: &mut [u8]) {
        for (out, pixel) in out.iter_mut().zip(pixels.as_chunks::<3>().0) {
            let sum: u32 = (order.iter().zip(GRAY))
                .map(|(&at, factor)| u32::from(pixel[at]) * factor)
                .sum();
            *out = ((sum + 0x8000) >> 16) as u8;
        }
    }
}

/// Runs the AVX2 code on the x86 tiers, the scalar code on all others.
macro_rules! dispatch {
    ($tier:expr, $scalar:expr, $avx2:expr) => {
        match $tier {
            #[cfg(target_arch = "x86_64")]
            Tier::Avx2 | Tier::Avx512Vnni | Tier::Amx => $avx2,
            _ => $scalar,
        }
    };
}

impl Kernels {
    /// Sums rows: `out` has a row for each output of `windows`; row 0 of `source` is source index `first`.
    ///
    /// # Panics
    /// Where the sizes do not agree, or `source` does not hold the windows' span.
    pub fn resample_rows(
        self,
        windows: &Windows,
        source: Rows<u8>,
        first: usize,
        mut out: RowsMut<u8>,
    ) {
        assert_eq!(windows.along, Along::Rows, "windows along rows");
        let (span, cols) = (windows.span(), source.cols());
        assert!(
            first <= span.start && span.end <= first + source.rows(),
            "rows {span:?} of {} from {first}",
            source.rows()
        );
        assert_eq!(
            (out.rows(), out.cols()),
            (windows.outputs(), cols),
            "output"
        );
        dispatch!(
            self.tier(),
            scalar::rows(windows, &source, first, &mut out),
            // SAFETY: the tier has AVX2; the sizes are checked.
            unsafe { crate::x86::image::rows(windows, &source, first, &mut out) }
        );
    }

    /// Sums columns of pixels of `channels` bytes (1 or 3): `out` has as many rows as `source` and a pixel for each output of `windows`;
    /// column 0 of `source` is source index `first`.
    ///
    /// # Panics
    /// Where the sizes do not agree, or `source` does not hold the windows' span.
    pub fn resample_columns(
        self,
        windows: &Windows,
        source: Rows<u8>,
        first: usize,
        channels: usize,
        mut out: RowsMut<u8>,
    ) {
        assert_eq!(windows.along, Along::Columns, "windows along columns");
        assert!(channels == 1 || channels == 3, "gray or RGB");
        let span = windows.span();
        assert!(
            first <= span.start && (span.end - first) * channels <= source.cols(),
            "columns {span:?} of {} from {first}",
            source.cols() / channels
        );
        assert_eq!(
            (out.rows(), out.cols()),
            (source.rows(), windows.outputs() * channels),
            "output"
        );
        // A source too narrow for pairs is no work either.
        let tier = if windows.pairs.is_empty() {
            Tier::Scalar
        } else {
            self.tier()
        };
        match channels {
            1 => dispatch!(
                tier,
                scalar::columns::<1>(windows, &source, first, &mut out),
                // SAFETY: the tier has AVX2; the sizes are checked.
                unsafe { crate::x86::image::gray_columns(windows, &source, first, &mut out) }
            ),
            _ => dispatch!(
                tier,
                scalar::columns::<3>(windows, &source, first, &mut out),
                // SAFETY: the tier has AVX2; the sizes are checked.
                unsafe { crate::x86::image::colour_columns(windows, &source, first, &mut out) }
            ),
        }
    }

    /// A row of NV12 to RGB: `luma` has an even number of pixels, `chroma` (Cb, Cr) for each two of them.
    ///
    /// # Panics
    /// Where the sizes do not agree.
    pub fn nv12_to_rgb(self, matrix: &YuvMatrix, luma: &[u8], chroma: &[u8], out: &mut [u8]) {
        let n = luma.len();
        assert!(
            n.is_multiple_of(2) && chroma.len() == n && out.len() == 3 * n,
            "{n} luma, {} chroma, {} RGB bytes",
            chroma.len(),
            out.len()
        );
        dispatch!(
            self.tier(),
            scalar::nv12(matrix, luma, chroma, out),
            // SAFETY: the tier has AVX2; the sizes are checked.
            unsafe { crate::x86::image::nv12(matrix, luma, chroma, out) }
        );
    }

    /// A row of YUYV (Y, Cb, Y, Cr for each two pixels) to RGB.
    ///
    /// # Panics
    /// Where the sizes do not agree.
    pub fn yuyv_to_rgb(self, matrix: &YuvMatrix, pixels: &[u8], out: &mut [u8]) {
        assert!(
            pixels.len().is_multiple_of(4) && 2 * out.len() == 3 * pixels.len(),
            "{} YUYV, {} RGB bytes",
            pixels.len(),
            out.len()
        );
        dispatch!(
            self.tier(),
            scalar::yuyv(matrix, pixels, out),
            // SAFETY: the tier has AVX2; the sizes are checked.
            unsafe { crate::x86::image::yuyv(matrix, pixels, out) }
        );
    }

    /// A row of RGB (or of BGR, where `blue_first`) to gray, as Pillow's `convert("L")`: ITU-R 601-2 luma,
    /// `(19595 R + 38470 G + 7471 B + 2^15) >> 16`.
    ///
    /// # Panics
    /// Where the sizes do not agree.
    pub fn rgb_to_gray(self, pixels: &[u8], blue_first: bool, out: &mut [u8]) {
        assert_eq!(pixels.len(), 3 * out.len(), "three bytes a pixel");
        let order = if blue_first { [2, 1, 0] } else { [0, 1, 2] };
        dispatch!(
            self.tier(),
            scalar::gray(pixels, order, out),
            // SAFETY: the tier has AVX2; the sizes are checked.
            unsafe { crate::x86::image::gray(pixels, order, out) }
        );
    }
}
