"""Quantizes the rows of a matrix for the least error of its outputs: GPTQ on each row's own width.

The error of row r is ``e_r H e_r^T``: e_r is what rounding changed, H the second moment of the matrix's inputs around
their mean (the bias takes up what the mean costs). Three steps make it small:

1. The starting scale has the least squared error, weighted by the diagonal of H.
2. GPTQ (Frantar et al., arXiv 2210.17323) rounds one column after the other and lets the later columns make up for the
   error. Columns of large inputs come first (the paper's "act-order").
3. A 4-bit row is then refined: the best scale for its codes, in closed form; then each code in turn becomes the best
   one given all others (coordinate descent, as in QuantEase, arXiv 2309.01885).

Rows do not influence each other so far, so each has its error at 4 and at 8 bits before a width is chosen. Then
`joint_rows` lets them make up for each other's errors, as far as the loss allows it. Depends on: torch,
`quasar_rt.rows`, `quasar_rt.train.quantizers` (the search of a scale).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ..errors import InvalidValueError
from ..rows import quantize_rows
from ..train.quantizers import LIMITS, best_step
from .float_vit import Linear

__all__ = ["Observed", "Rows", "best_ridge", "gptq_rows", "joint_rows", "nearest_rows", "shrunk"]

#: Added to the diagonal of H, as a share of its mean (the paper's damping).
DAMPING = 0.01
#: Ridges of the shift of the weights towards the float outputs, as shares of the mean of H's diagonal.
RIDGES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03)
#: Rounds of refinement, by width: 8-bit rows gain nothing that shows in the logits.
REFINEMENTS = {4: 2, 8: 0}
#: Added to the diagonal of G, as a share of itself, and the rows that are quantized at a time.
COST_DAMPING, RUN = 0.02, 32
#: Columns between two updates of all later columns.
BLOCK = 64


class Rows:
    """Quantized rows: codes float64 [rows, columns], scales float64 [rows] (float32's values)."""

    def __init__(self, codes: Tensor, scales: Tensor) -> None:
        self.codes, self.scales = codes.double(), scales.float().double()

    @property
    def weight(self) -> Tensor:
        """The weights that the codes stand for, float64 [rows, columns]."""
        return self.codes * self.scales[:, None]

    def where(self, first: Tensor, other: Rows) -> Rows:
        """Returns these rows where `first` (bool [rows]) holds, those of `other` elsewhere."""
        return Rows(
            torch.where(first[:, None], self.codes, other.codes),
            torch.where(first, self.scales, other.scales),
        )

    @classmethod
    def merged(cls, first: Tensor, rows: Rows, others: Rows) -> Rows:
        """Puts `rows` where `first` (bool [rows]) holds and `others` elsewhere, each in their order."""
        codes, scales = (
            rows.codes.new_empty(len(first), rows.codes.shape[1]),
            rows.scales.new_empty(len(first)),
        )
        for where, part in ((first, rows), (~first, others)):
            codes[where], scales[where] = part.codes, part.scales
        return cls(codes, scales)


class Observed:
    """Second moments of a matrix's inputs x and of what its float outputs lack on them, ``r = y - W x - b``.

    y is what the float network has at this place, x what the quantized network gives.
    """

    def __init__(self, layer: Linear) -> None:
        rows, columns = layer.weight.shape
        self.layer = layer
        self._weight, self._bias = layer.weight.double(), layer.bias.double()
        self.count = 0
        self._x, self._r, self._y = (torch.zeros(n, dtype=torch.float64) for n in (columns, rows, rows))
        self._xx = torch.zeros(columns, columns, dtype=torch.float64)
        self._rx = torch.zeros(rows, columns, dtype=torch.float64)
        self._rr, self._yy = (torch.zeros(rows, dtype=torch.float64) for _ in range(2))

    def add(self, x: Tensor, y: Tensor) -> None:
        """Adds a batch: inputs [..., columns] and the float network's outputs [..., rows]."""
        x, y = x.flatten(0, -2), y.flatten(0, -2)
        r = y - F.linear(x, self.layer.weight, self.layer.bias)
        self.count += len(x)
        self._xx += (x.T @ x).double()
        self._rx += (r.T @ x).double()
        for sums, values in ((self._x, x), (self._r, r), (self._y, y)):
            sums += values.sum(dim=0, dtype=torch.float64)
        for sums, values in ((self._rr, r), (self._yy, y)):
            sums += values.square().sum(dim=0, dtype=torch.float64)

    def merge(self, other: Observed) -> None:
        """Takes in the moments of further inputs of the same layer."""
        self.count += other.count
        for name in ("_x", "_r", "_y", "_xx", "_rx", "_rr", "_yy"):
            getattr(self, name).add_(getattr(other, name))

    def covariance(self) -> Tensor:
        """Returns H: the covariance of the inputs, float64 [columns, columns]."""
        mean = self._x / self.count
        return self._xx / self.count - torch.outer(mean, mean)

    def target(self, covariance: Tensor, ridge: float | None) -> Tensor:
        """Returns the float weights that come closest to y on the inputs x: [rows, columns].

        A ridge towards W is a share of the mean of the diagonal of `covariance`. Without one they are W.
        """
        if ridge is None:
            return self._weight
        cross = self._rx / self.count - torch.outer(self._r, self._x) / self.count**2
        ridge = ridge * float(covariance.diagonal().mean()) + 1e-12
        return self._weight + torch.linalg.solve(covariance + _eye(covariance, ridge), cross.T).T

    def bias(self, weight: Tensor) -> Tensor:
        """Returns the bias [rows] with which `weight` has y's mean."""
        return self._bias + (self._r + (self._weight - weight) @ self._x) / self.count

    def errors(self, weight: Tensor, bias: Tensor) -> Tensor:
        """Returns the mean of ``(y - weight x - bias)^2``, float64 [rows]."""
        change, offset = self._weight - weight, self._bias - bias
        square = self._rr + ((change @ self._xx) * change).sum(dim=1) + 2 * (change * self._rx).sum(dim=1)
        square = square + 2 * offset * (self._r + change @ self._x)
        return (square / self.count + offset.square()).clamp_min(0)

    def variance(self) -> float:
        """Returns the variance of y, summed over its rows."""
        return float((self._yy / self.count - (self._y / self.count).square()).sum())


def best_ridge(halves: tuple[Observed, Observed]) -> float | None:
    """Chooses the ridge of `Observed.target`: that of the least error on images that the weights were not fitted to.

    Each of `halves` saw other images. None where the float network's own weights have the least error.
    """
    if not all(half.count for half in halves):
        return None
    found: dict[float | None, float] = dict.fromkeys((None, *RIDGES), 0.0)
    for fitted, others in (halves, halves[::-1]):
        covariance = fitted.covariance()
        for ridge in found:
            weight = fitted.target(covariance, ridge)
            found[ridge] += float(others.errors(weight, fitted.bias(weight)).sum())
    return min(found, key=lambda ridge: found[ridge])


def nearest_rows(weight: Tensor, bits: int | NDArray[np.uint8]) -> Rows:
    """Rounds each weight to the nearest code; the scale of a 4-bit row has the least squared error."""
    packed = quantize_rows(weight.double().numpy(), np.broadcast_to(np.uint8(bits), len(weight)))
    return Rows(torch.from_numpy(packed.unpack()), torch.from_numpy(packed.scales))


def gptq_rows(weight: Tensor, covariance: Tensor, bits: int) -> Rows:
    """Quantizes the rows [rows, columns] for the least ``e H e^T``, H being `covariance` [columns, columns]."""
    return _Inputs(covariance).rows(weight, bits)


def joint_rows(weight: Tensor, covariance: Tensor, costs: Tensor, eight: Tensor) -> Rows:
    """Quantizes rows of given widths for the least ``trace(G E H E^T)``, so that rows make up for each other's errors.

    The rows of E are what rounding changed, H is `covariance` [columns, columns], and G is `costs` [rows, rows], the
    second moment of the loss's gradients at the outputs (a Kronecker-factored Hessian, as in YAQA, arXiv 2505.22988).
    Runs of `RUN` rows are quantized one after the other. The later rows then take on the values that cost least given
    all errors so far. The 8-bit rows, `eight` (bool [rows]), come last: they can take on nearly anything.
    """
    order = torch.cat([torch.where(~eight)[0], torch.where(eight)[0]])
    damped = costs + COST_DAMPING * torch.diag(costs.diagonal() + 0.01 * costs.diagonal().mean() + 1e-30)
    inverse = torch.linalg.inv(damped[order][:, order])
    factor = torch.linalg.cholesky((inverse + inverse.T) / 2, upper=True)
    inputs = _Inputs(covariance)
    target = weight[order].clone()
    codes, scales = torch.empty_like(target), torch.empty(len(target), dtype=torch.float64)
    last_of_four = int((~eight).sum())
    starts = [*range(0, last_of_four, RUN), *range(last_of_four, len(target), RUN)]
    for start, end in zip(starts, [*starts[1:], len(target)], strict=True):
        rows = inputs.rows(target[start:end], 4 if start < last_of_four else 8)
        codes[start:end], scales[start:end] = rows.codes, rows.scales
        errors = rows.weight - target[start:end]
        within = factor[start:end, start:end].T
        target[end:] += factor[start:end, end:].T @ torch.linalg.solve_triangular(within, errors, upper=False)
    back = order.argsort()
    return Rows(codes[back], scales[back])


def shrunk(moment: Tensor, samples: int) -> Tensor:
    """Returns a second moment [n, n] of few independent samples, shrunk towards its diagonal.

    The share is that of the oracle approximating shrinkage (Chen et al., arXiv 0907.4698) of the correlations.
    """
    size, diagonal = len(moment), moment.diagonal().clamp_min(1e-30)
    square = float((moment.square() / torch.outer(diagonal, diagonal)).sum())
    # The trace of the correlations is their size.
    share = (square + size**2) / ((samples + 1) * max(square - size, 1e-12))
    share = min(1.0, share)
    return (1 - share) * moment + share * torch.diag(diagonal)


class _Inputs:
    """The covariance of a matrix's inputs, prepared to quantize rows for it."""

    def __init__(self, covariance: Tensor) -> None:
        damped = covariance + _eye(covariance, DAMPING * float(covariance.diagonal().mean()) + 1e-12)
        self.order = damped.diagonal().argsort(descending=True, stable=True)
        damped = damped[self.order][:, self.order]
        try:
            inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
            self.factor = torch.linalg.cholesky(inverse, upper=True).float()
        except torch.linalg.LinAlgError as error:
            raise InvalidValueError(
                "the calibration images do not differ, so no error of a layer can be measured: give pictures of the "
                "kind that the network will see"
            ) from error
        self.hessian = damped.float()

    def rows(self, weight: Tensor, bits: int) -> Rows:
        """Quantizes rows [rows, columns]."""
        limit = LIMITS[bits]
        # A column of the matrix is a contiguous row from here on.
        columns = weight.float().T[self.order].contiguous()
        scales = best_step(columns.T.contiguous(), self.hessian.diagonal(), limit, 24)
        codes = _round_in_turn(columns.clone(), scales, self.factor, limit)
        for _ in range(REFINEMENTS[bits]):
            scales = _best_scales(columns, codes, scales, self.hessian)
            codes = _descend(columns, codes, scales, self.hessian, limit)
        found = torch.empty_like(codes)
        found[self.order] = codes
        return Rows(found.T.contiguous(), scales)


def _eye(like: Tensor, value: float) -> Tensor:
    return value * torch.eye(len(like), dtype=like.dtype)


def _round_in_turn(columns: Tensor, scales: Tensor, factor: Tensor, limit: int) -> Tensor:
    """Computes GPTQ's codes; changes `columns`. `factor` is the upper Cholesky factor of the inverse of H."""
    codes = torch.empty_like(columns)
    for start in range(0, len(columns), BLOCK):
        end = min(start + BLOCK, len(columns))
        errors = torch.empty_like(columns[start:end])
        for j in range(start, end):
            codes[j] = (columns[j] / scales).round_().clamp_(-limit, limit)
            error = (columns[j] - codes[j] * scales) / factor[j, j]
            columns[j:end].addr_(factor[j, j:end], error, alpha=-1)
            errors[j - start] = error
        columns[end:].addmm_(factor[start:end, end:].T, errors, alpha=-1)
    return codes


def _best_scales(columns: Tensor, codes: Tensor, scales: Tensor, hessian: Tensor) -> Tensor:
    """Returns the scale of least error for each row's codes; the old one where the codes do not give any."""
    product = hessian @ codes
    along, length = (product * columns).sum(dim=0), (product * codes).sum(dim=0)
    return torch.where((along > 0) & (length > 0), along / length.clamp_min(1e-30), scales)


def _descend(columns: Tensor, codes: Tensor, scales: Tensor, hessian: Tensor, limit: int) -> Tensor:
    """Sets each code in turn to the best one given all others."""
    codes = codes.clone()
    gradient = hessian @ (columns - codes * scales)
    for start in range(0, len(columns), BLOCK):
        end = min(start + BLOCK, len(columns))
        changes = torch.empty_like(columns[start:end])
        for j in range(start, end):
            best = (codes[j] + gradient[j] / (hessian[j, j] * scales)).round_().clamp_(-limit, limit)
            change = (best - codes[j]) * scales
            gradient[start:end].addr_(hessian[j, start:end], change, alpha=-1)
            codes[j], changes[j - start] = best, change
        gradient[end:].addmm_(hessian[start:end, end:].T, changes, alpha=-1)
    return codes
