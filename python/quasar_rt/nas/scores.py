"""Scores of genomes without evaluating networks: a predictor fitted on evaluated ones, and a proxy.

The work is done in Rust (``rust/search/src/predictor.rs``, ``proxy.rs``). Depends on `space` and the native
module.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._native import Predictor as NativePredictor
from .._native import proxy_scores as native_proxy_scores
from ..errors import InvalidValueError
from ..space import Space

__all__ = ["Predictor", "as_genomes", "as_numbers", "proxy_scores"]


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


@dataclass(frozen=True)
class Predictor:
    """Predicts accuracy from genes: ridge regression on one-hot genes and on pairs of embed and depth.

    `fit` makes one. The figures are of a 5-fold cross-validation: of predictions for networks that the fit had not
    seen.
    """

    space: Space
    tau: float
    """Kendall's tau-b between predicted and given accuracies; NaN if either is constant."""
    rmse: float
    """Root of the mean squared error, in the accuracies' unit."""
    ridge: float
    """Strength of the regularisation, chosen by the least error."""
    samples: int
    """Networks that it was fitted on."""
    _inner: NativePredictor

    @classmethod
    def fit(cls, space: Space, genomes: ArrayLike, accuracies: ArrayLike, *, seed: int = 0) -> Predictor:
        """Fits a predictor to evaluated networks.

        Args:
            space: what the genomes are of.
            genomes: canonical, uint8 [n, genes], n at least 10.
            accuracies: [n], finite.
            seed: of the folds.

        Raises:
            quasar_rt.InvalidValueError: lists of different lengths, too few, or a genome or accuracy that cannot be.

        >>> space = Space.load("digits")
        >>> genomes = [space.encode(space.sample(0, k)) for k in range(200)]
        >>> predictor = Predictor.fit(space, genomes, proxy_scores(space, genomes))
        >>> predictor.tau > 0.8
        True
        """
        inner = NativePredictor.fit(space._inner, as_genomes(genomes, space), as_numbers(accuracies), seed)
        return cls(space, *inner.report(), inner)

    def predict(self, genomes: ArrayLike) -> NDArray[np.float64]:
        """Returns predicted accuracies of canonical genomes, float64 [n]."""
        return self._inner.predict(as_genomes(genomes, self.space))
