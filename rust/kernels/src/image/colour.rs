//! Factors that convert colours.

/// Factors that convert `Y'CbCr` of limited range to RGB, with 20 bits after the point.
///
/// `R = (luma * max(Y - 16, 0) + cr_red * (Cr - 128) + 2^19) >> 20`, clamped; likewise G with Cb
/// and Cr, and B with Cb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct YuvMatrix {
    /// Factor of Y.
    pub luma: i32,
    /// Factor of Cr in R.
    pub cr_red: i32,
    /// Factor of Cb in G.
    pub cb_green: i32,
    /// Factor of Cr in G.
    pub cr_green: i32,
    /// Factor of Cb in B.
    pub cb_blue: i32,
}

/// Bits after the point of a [`YuvMatrix`].
pub(crate) const YUV_PRECISION: u32 = 20;

impl YuvMatrix {
    /// ITU-R BT.601 with the constants of `OpenCV` (`ITUR_BT_601_CY` and so on in
    /// `color_yuv.simd.hpp`): 1.164, 1.596, -0.391, -0.813, 2.018.
    pub const BT601: Self = Self {
        luma: 1_220_542,
        cr_red: 1_673_527,
        cb_green: -409_993,
        cr_green: -852_492,
        cb_blue: 2_116_026,
    };

    /// ITU-R BT.709 (Kr = 0.2126, Kb = 0.0722), each factor times 2^20 and rounded: 255/219; 2 (1 -
    /// Kr) 255/224; -2 (1 - Kb) (Kb/Kg) 255/224; -2 (1 - Kr) (Kr/Kg) 255/224; 2 (1 - Kb) 255/224.
    pub const BT709: Self = Self {
        luma: 1_220_945,
        cr_red: 1_879_825,
        cb_green: -223_607,
        cr_green: -558_796,
        cb_blue: 2_215_014,
    };

    /// Converts one pixel.
    pub(super) fn pixel(&self, y: u8, cb: u8, cr: u8) -> [u8; 3] {
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

/// Factors of R, G and B in Pillow's ITU-R 601-2 luma, 16 bits after the point.
pub(crate) const GRAY: [u32; 3] = [19_595, 38_470, 7_471];
