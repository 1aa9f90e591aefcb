"""The choice of the rows of a weight matrix that get 8 bits.

The default score of a row is the increase of the loss that 4 bits cost over 8 bits, to second order (``E[g^2]`` stands
for the Hessian, as in the empirical Fisher information)::

    score_r = E[g_r^2] * sum_j E[x_j^2] * (err4_rj^2 - err8_rj^2)

The other criteria serve comparisons.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._native import eight_bit_rows
from ..errors import InvalidValueError
from .packing import quantize_rows

#: ``loss``: `row_scores`; ``magnitude``: the mean of abs(w); ``variance``: that of the row's weights; ``random``:
#: seeded random numbers; ``prefix``: the first rows.
Criterion = Literal["loss", "magnitude", "variance", "random", "prefix"]
CRITERIA: tuple[Criterion, ...] = get_args(Criterion)


def row_scores(weight: ArrayLike, input_square: ArrayLike, gradient_square: ArrayLike) -> NDArray[np.float64]:
    """Returns the loss-weighted worth of 8 bits for each row.

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


def scores_by(
    criterion: Criterion,
    weight: ArrayLike,
    input_square: ArrayLike,
    gradient_square: ArrayLike,
    seed: int | list[int] = 0,
) -> NDArray[np.float64]:
    """Returns scores, float64 [rows], by a criterion of `CRITERIA`; larger is worth more. Arguments as `row_scores`.

    Raises:
        quasar_rt.InvalidValueError: no such criterion; the message lists them.

    >>> scores_by("magnitude", [[1.0, -3.0], [2.0, 2.5]], [1, 1], [1, 1])
    array([2.  , 2.25])
    """
    w = np.asarray(weight, np.float64)
    if criterion == "loss":
        return row_scores(w, input_square, gradient_square)
    if criterion == "magnitude":
        magnitude: NDArray[np.float64] = np.abs(w).mean(axis=1)
        return magnitude
    if criterion == "variance":
        variance: NDArray[np.float64] = w.var(axis=1)
        return variance
    if criterion == "random":
        return np.random.default_rng(seed).random(len(w))
    if criterion == "prefix":
        return -np.arange(len(w), dtype=np.float64)
    raise InvalidValueError(f"the criterion must be one of {', '.join(CRITERIA)}, not {criterion!r}")


def rank_rows(scores: ArrayLike) -> NDArray[np.int32]:
    """Returns the rank of each row, int32 [rows]: 0 for the highest score. Ties go to the lower row.

    >>> rank_rows([0.1, 0.7, 0.7])
    array([2, 0, 1], dtype=int32)
    """
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    return rank


def choose_bits(scores: ArrayLike, fraction: float, parts: int = 1) -> NDArray[np.uint8]:
    """Returns the width of each row, uint8 [rows]: 8 for the rows of highest score, 4 for the others.

    The rows are `parts` equal runs (the queries, keys and values of qkv), and the fraction holds for each of them.

    `quasar_rt.space.eight_bit_rows` gives the number of 8-bit rows: the number nearest to ``fraction * rows`` that
    leaves no slot of the array (two 4-bit rows or one 8-bit row) half empty. The sets are nested: a larger fraction
    keeps every 8-bit row of a smaller fraction. Ties go to the lower row.

    Raises:
        ValueError: a fraction outside [0, 1].
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"the fraction of 8-bit rows must be in [0, 1], not {fraction}")
    widths = [
        np.where(rank_rows(part) < eight_bit_rows(len(part), fraction), 8, 4)
        for part in np.split(np.asarray(scores), parts)
    ]
    return np.concatenate(widths).astype(np.uint8)
