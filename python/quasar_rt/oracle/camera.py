"""Camera frames to pixels: the integer formulas of ``docs/cameras.md``."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .integer_model import Int, rshift, within

#: Y'CbCr of limited range to RGB, in 2^-20: factors of luma, of Cr in R, of Cb and Cr in G, of Cb in B.
YUV_MATRICES = {
    "bt601": (1220542, 1673527, -409993, -852492, 2116026),
    "bt709": (1220945, 1879825, -223607, -558796, 2215014),
}


def rgb_of_yuv(y: Int, cb: Int, cr: Int, matrix: str) -> NDArray[np.uint8]:
    """Converts Y'CbCr of limited range, int64 [...] each, to RGB, uint8 [..., 3]."""
    luma, cr_red, cb_green, cr_green, cb_blue = YUV_MATRICES[matrix]
    scaled = luma * np.maximum(y - 16, 0)
    chroma = (cr_red * (cr - 128), cb_green * (cb - 128) + cr_green * (cr - 128), cb_blue * (cb - 128))
    sums: Int = np.stack([scaled + part for part in chroma], axis=-1)
    within(sums, 31, "a channel")
    return np.clip(rshift(sums, 20), 0, 255).astype(np.uint8)


def pixels_of_frame(
    data: bytes,
    width: int,
    height: int,
    format: str,
    stride: int,
    matrix: str = "bt601",
) -> NDArray[np.uint8]:
    """Converts a camera's frame to gray or RGB, uint8 [height, width, 1 or 3]."""
    at = np.frombuffer(data, np.uint8).astype(np.int64)
    y, x = np.mgrid[:height, :width]
    row, pair = y * stride, x // 2
    if format in ("gray", "rgb", "bgr"):
        order = {"gray": [0], "rgb": [0, 1, 2], "bgr": [2, 1, 0]}[format]
        pixels: NDArray[np.uint8] = at[(row + len(order) * x)[:, :, None] + order].astype(np.uint8)
        return pixels
    if format == "nv12":
        chroma = height * stride + y // 2 * stride + 2 * pair
        return rgb_of_yuv(at[row + x], at[chroma], at[chroma + 1], matrix)
    assert format == "yuyv"
    return rgb_of_yuv(at[row + 2 * x], at[row + 4 * pair + 1], at[row + 4 * pair + 3], matrix)
