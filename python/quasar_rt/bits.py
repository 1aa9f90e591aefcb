"""Which rows of a weight matrix get 8 bits.

The score of a row is the loss increase that 4 bits would cost over 8, to second order (``E[g^2]`` stands for the
Hessian, as in the empirical Fisher information)::

    score_r = E[g_r^2] * sum_j E[x_j^2] * (err4_rj^2 - err8_rj^2)

NumPy and the native quantizer only.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .rows import quantize_rows


def row_scores(weight: ArrayLike, input_square: ArrayLike, gradient_square: ArrayLike) -> NDArray[np.float64]:
    """Loss-weighted worth of 8 bits for each row.

    Args:
        weight: float [rows, columns].
        input_square: E[x_j^2] over tokens and images, float [columns].
        gradient_square: E[g_r^2] of the loss at the layer's outputs, float [rows].

    Returns:
        float64 [rows]; larger is worth more.
    """
    w = np.ascontiguousarray(weight, np.float64)
    rows = len(w)
    error4, error8 = (
        np.square(quantize_rows(w, np.full(rows, width, np.uint8)).dequantize() - w) for width in (4, 8)
    )
    worth: NDArray[np.float64] = (error4 - error8) @ np.asarray(input_square, np.float64)
    return worth * np.asarray(gradient_square, np.float64)


def choose_bits(scores: ArrayLike, fraction: float) -> NDArray[np.uint8]:
    """8 bits for the ``round(fraction * rows)`` rows of highest score, 4 for the others; uint8 [rows].

    The sets are nested: a larger fraction keeps every row that a smaller one has. Ties go to the lower row.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"the fraction of 8-bit rows must be in [0, 1], not {fraction}")
    s = np.asarray(scores, np.float64)
    bits = np.full(len(s), 4, np.uint8)
    bits[np.argsort(-s, kind="stable")[: round(fraction * len(s))]] = 8
    return bits
