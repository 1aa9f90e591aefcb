//! Kernels of preprocessing: weighted sums along one axis (resizing), rows of camera formats to RGB
//! or gray, and patches side by side, as the accelerator takes them.
//!
//! Every function has the same result on every tier. The x86 tiers run `avx2`, the Arm tiers
//! `lanes`; what these lack runs `scalar`.

#[cfg(target_arch = "x86_64")]
// Intrinsics are named as the vendor names them, dozens in a file.
#[allow(clippy::wildcard_imports)]
mod avx2;
mod colour;
#[cfg(any(
    target_arch = "aarch64",
    all(target_arch = "arm", target_abi = "eabihf")
))]
mod lanes;
#[cfg(target_arch = "aarch64")]
#[allow(clippy::wildcard_imports)]
mod neon;
#[cfg(all(target_arch = "arm", target_abi = "eabihf"))]
mod neon32;
mod scalar;
mod windows;

use crate::tier::Family;
use crate::{Kernels, MatrixView, MatrixViewMut};

pub use colour::YuvMatrix;
pub use windows::{Along, Windows, PRECISION};

#[cfg(target_arch = "aarch64")]
use neon::Neon;
#[cfg(all(target_arch = "arm", target_abi = "eabihf"))]
use neon32::Neon;

/// Runs the AVX2 code, where there is any, on the x86 tiers, the NEON code, where there is any, on
/// the Arm tiers, and the scalar code on all others.
macro_rules! dispatch {
    ($tier:expr, $scalar:expr, $($avx2:expr)?; $($neon:expr)?) => {
        match $tier.family() {
            $(
                #[cfg(target_arch = "x86_64")]
                // SAFETY: the tier has AVX2; the sizes are checked.
                Family::X86 => unsafe { $avx2 },
            )?
            $(
                #[cfg(any(
                    target_arch = "aarch64",
                    all(target_arch = "arm", target_abi = "eabihf")
                ))]
                // SAFETY: the tier has NEON; the sizes are checked.
                Family::Arm => unsafe { $neon },
            )?
            #[allow(unreachable_patterns)] // where both families have code
            Family::Scalar | Family::X86 | Family::Arm => $scalar,
        }
    };
}

impl Kernels {
    /// Sums rows. `out` has a row for each output of `windows`; row 0 of `source` is source index
    /// `first`.
    ///
    /// # Panics
    /// If the sizes do not agree, or `source` does not hold the windows' span.
    pub fn resample_rows(
        self,
        windows: &Windows,
        source: MatrixView<u8>,
        first: usize,
        mut out: MatrixViewMut<u8>,
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
            avx2::rows(windows, &source, first, &mut out);
            lanes::rows::<Neon>(windows, &source, first, &mut out)
        );
    }

    /// Sums columns of pixels of `channels` bytes (1 or 3). `out` has as many rows as `source` and
    /// a pixel for each output of `windows`; column 0 of `source` is source index `first`.
    ///
    /// # Panics
    /// If the sizes do not agree, or `source` does not hold the windows' span.
    pub fn resample_columns(
        self,
        windows: &Windows,
        source: MatrixView<u8>,
        first: usize,
        channels: usize,
        mut out: MatrixViewMut<u8>,
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
        match channels {
            1 => dispatch!(
                self.tier(),
                scalar::columns::<1>(windows, &source, first, &mut out),
                avx2::gray_columns(windows, &source, first, &mut out);
                lanes::columns::<Neon, 1>(windows, &source, first, &mut out)
            ),
            _ => dispatch!(
                self.tier(),
                scalar::columns::<3>(windows, &source, first, &mut out),
                avx2::colour_columns(windows, &source, first, &mut out);
                lanes::columns::<Neon, 3>(windows, &source, first, &mut out)
            ),
        }
    }

    /// Converts a row of NV12 to RGB. `luma` has an even number of pixels, `chroma` one (Cb, Cr)
    /// for each two.
    ///
    /// # Panics
    /// If the sizes do not agree.
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
            avx2::nv12(matrix, luma, chroma, out);
            lanes::nv12::<Neon>(matrix, luma, chroma, out)
        );
    }

    /// Converts a row of YUYV (Y, Cb, Y, Cr for each two pixels) to RGB.
    ///
    /// # Panics
    /// If the sizes do not agree.
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
            avx2::yuyv(matrix, pixels, out);
            lanes::yuyv::<Neon>(matrix, pixels, out)
        );
    }

    /// Converts a row of RGB (or of BGR, if `blue_first`) to gray as Pillow's `convert("L")` does:
    /// ITU-R 601-2 luma, `(19595 R + 38470 G + 7471 B + 2^15) >> 16`.
    ///
    /// # Panics
    /// If the sizes do not agree.
    pub fn rgb_to_gray(self, pixels: &[u8], blue_first: bool, out: &mut [u8]) {
        assert_eq!(pixels.len(), 3 * out.len(), "three bytes a pixel");
        let order = if blue_first { [2, 1, 0] } else { [0, 1, 2] };
        dispatch!(
            self.tier(),
            scalar::gray(pixels, order, out),
            avx2::gray(pixels, order, out);
        );
    }

    /// Lays lines of bytes side by side: byte `j` of line `i`, XOR `flip`, becomes
    /// `out[places[j] + i]`. Line `i` starts at `data[starts[i]]`.
    ///
    /// # Panics
    /// If a line or a place is outside its slice.
    pub fn interleave(
        self,
        data: &[u8],
        starts: &[usize],
        flip: u8,
        places: &[usize],
        out: &mut [u8],
    ) {
        let end = |indices: &[usize], more: usize| {
            let last = indices.iter().max();
            last.map_or(0, |&last| last + more)
        };
        assert!(
            end(starts, places.len()) <= data.len() && end(places, starts.len()) <= out.len(),
            "lines from {starts:?} of {} bytes to {places:?} of {}",
            data.len(),
            out.len()
        );
        dispatch!(
            self.tier(),
            scalar::interleave(data, starts, flip, places, out),
            ;
            lanes::interleave::<Neon>(data, starts, flip, places, out)
        );
    }
}
