"""Statistics of scores: rank correlation with its interval, and the hypervolume of a front.

The work is done in Rust (``rust/search/src/statistics.rs``, ``pareto.rs``). Depends on the native module.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from .._native import hypervolume as native_hypervolume
from .._native import kendall_tau as native_kendall_tau
from ..errors import InvalidValueError
from .scores import as_numbers

__all__ = ["KendallTau", "hypervolume", "kendall_tau"]


@dataclass(frozen=True)
class KendallTau:
    """Kendall's tau-b between two scores of the same networks."""

    tau: float
    """In [-1, 1]; NaN (as all else) if one score is constant."""
    low: float
    """Lower end of the confidence interval."""
    high: float
    """Upper end of the confidence interval."""


def kendall_tau(
    x: ArrayLike, y: ArrayLike, *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> KendallTau:
    """Returns Kendall's tau-b with a percentile bootstrap interval.

    The interval comes from `resamples` samples of the networks with replacement: it shows how much tau would move with
    other networks of the same kind. Below about ten networks it is rough. (`scipy.stats.kendalltau` has the p-value.)

    Args:
        x: one score for each network.
        y: the other, in the same order.
        confidence: of the interval.
        resamples: bootstrap samples.
        seed: of the samples.

    Raises:
        quasar_rt.InvalidValueError: lists of different lengths, of fewer than two values, or with a value that is not
            finite.

    >>> round(kendall_tau([1, 2, 3, 4, 5], [1, 2, 3, 5, 4]).tau, 3)
    0.8
    """
    return KendallTau(*native_kendall_tau(as_numbers(x), as_numbers(y), confidence, resamples, seed))


def hypervolume(points: ArrayLike, reference: tuple[float, float]) -> float:
    """Returns the area that points [n, 2] dominate above a reference point, exactly; both objectives are maximised.

    >>> hypervolume([(1, 3), (2, 2), (3, 1)], (0, 0))
    6.0
    """
    array = np.ascontiguousarray(points, np.float64)
    if array.size == 0:
        return 0.0
    if array.ndim != 2 or array.shape[1] != 2 or not np.isfinite(array).all():
        raise InvalidValueError(f"points are finite numbers of shape [n, 2], not {array.shape}")
    return native_hypervolume(array, reference)
