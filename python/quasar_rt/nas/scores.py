"""Scores of genomes without evaluating networks: the proxy.

The work is done in Rust (``rust/search/src/proxy.rs``). Depends on `space` and the native module.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._native import proxy_scores as native_proxy_scores
from ..errors import InvalidValueError
from ..space import Space

__all__ = ["as_genomes", "as_numbers", "proxy_scores"]


def as_numbers(values: ArrayLike) -> NDArray[np.float64]:
    """Returns one row of numbers as contiguous float64."""
    try:
        array = np.ascontiguousarray(values, np.float64)
    except (TypeError, ValueError):
        raise InvalidValueError("scores are one row of numbers") from None
    if array.ndim != 1 or np.ndim(values) != 1:
        raise InvalidValueError(f"scores are one row of numbers, not an array of shape {np.shape(values)}")
    return array


def as_genomes(genomes: ArrayLike, space: Space) -> NDArray[np.uint8]:
    """Returns rows of choice indices as contiguous uint8 [n, genes]."""
    array = np.asarray(genomes)
    genes = len(space.genes)
    whole = array.dtype.kind in "iu" and (not array.size or (array.min() >= 0 and array.max() < 256))
    if array.ndim != 2 or array.shape[1] != genes or not whole:
        raise InvalidValueError(
            f"genomes are rows of {genes} choice indices, not {array.dtype} of shape {array.shape}"
        )
    return np.ascontiguousarray(array, np.uint8)


def proxy_scores(space: Space, genomes: ArrayLike) -> NDArray[np.float64]:
    """Returns each genome's proxy score, float64 [n]: a stand-in where there is no checkpoint, **not** an accuracy.

    It rises with every choice of a space (embed, depth, heads, MLP ratio, 8-bit fractions), each with diminishing
    return. Nothing about it was fitted to or checked against trained networks. ``docs/search-core.md`` has the formula.

    >>> space = Space.load("tiny")
    >>> small, large = proxy_scores(space, [space.smallest, space.largest])
    >>> bool(small < large)
    True
    """
    return native_proxy_scores(space._inner, as_genomes(genomes, space))
