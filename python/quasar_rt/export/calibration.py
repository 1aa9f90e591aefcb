"""Calibration of a float ViT: activation ranges, the loss's gradients, balanced channels."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ..build import Affine
from .float_vit import Probe, ViT, forward
from .team import Team

__all__ = ["Ranges", "Statistics", "balance", "find_ranges", "gather_statistics", "largest_channels"]

#: Bins of an activation's histogram between its smallest and its largest value.
BINS = 1 << 13
#: Ranges that are tried, as shares of the one that holds all values. The narrowest leaves 1.6 bins to a code.
SHARES = np.geomspace(1, 0.05, 48)
#: Rounds in which first the upper, then the lower end of a range is chosen.
ROUNDS = 3
#: Below one of these the usual activation functions are flat (QuickGELU below the second), so their input needs no
#: codes there.
FLAT = (-4.0, -6.0)

#: Random signs of each image's embedding.
SIGNS = 2

Float = NDArray[np.float64]

#: Stored activations with a symmetric grid, and all of them but the last LayerNorm's (``norm.out``).
_SYMMETRIC = (".q", ".k", ".v", ".proj.in")
#: Values whose whole range counts: the int16 streams, and each channel of the embedded patches' norm.
_EXACT = ("residual", "pooled", "embed_sum", "norm_pre.out", "projection.out")
_STORED = (*_SYMMETRIC, ".norm1.out", ".norm2.out", ".fc1.out", ".fc2.in")


@dataclass
class Statistics:
    """Holds what the float network computes on the calibration images, by the points that `forward` probes.

    `low` and `high` are the extremes of the activations that a subnet stores and of the residual stream: [heads] of q,
    k and v, [channels] of the embedded patches' norm, else [1]. `gradients` are the sums of the squared gradients of
    the loss, by channel: [heads, head_dim] of q, k and v, else [channels]. They are those of the stored activations and
    of the matrices' outputs. `costs` are the second moments of the gradients at the outputs of the blocks' matrices
    [rows, rows], from so many `losses`.
    """

    low: dict[str, Tensor] = field(default_factory=dict)
    high: dict[str, Tensor] = field(default_factory=dict)
    gradients: dict[str, Tensor] = field(default_factory=dict)
    costs: dict[str, Tensor] = field(default_factory=dict)
    losses: int = 0

    def add(self, other: Statistics) -> None:
        """Takes in those of further images."""
        self.losses += other.losses
        for mine, others, merge in (
            (self.low, other.low, torch.minimum),
            (self.high, other.high, torch.maximum),
            (self.gradients, other.gradients, torch.add),
            (self.costs, other.costs, torch.add),
        ):
            for name, value in others.items():
                mine[name] = merge(mine[name], value) if name in mine else value


def gather_statistics(net: ViT, batches: list[Tensor], team: Team) -> Statistics:
    """Runs the float network forward and backward on batches [images, channels, height, width]."""

    def part(numbered: tuple[int, Tensor]) -> Statistics:
        found = Statistics()

        def probe(name: str, value: Tensor) -> Tensor:
            if name in _EXACT or _stored(name):
                groups = _groups(name, value.detach())
                found.add(Statistics({name: groups.amin(dim=1)}, {name: groups.amax(dim=1)}))
            if _stored(name) or _is_matrix_output(name):
                return _observed(value, lambda gradient: add(name, gradient))
            return value

        def add(name: str, gradient: Tensor) -> None:
            dims = (0, 2) if _by_head(name) else tuple(range(gradient.ndim - 1))
            found.add(Statistics(gradients={name: gradient.square().sum(dim=dims)}))
            if _is_matrix_output(name) and gradient.ndim == 3:
                flat = gradient.flatten(0, 1)
                found.add(Statistics(costs={name: flat.T @ flat}))

        found.losses = _run_backward(net, numbered, probe)
        return found

    total = Statistics()
    for found in team.map(part, enumerate(batches)):
        total.add(found)
    return total


def _observed(value: Tensor, see: Callable[[Tensor], None]) -> Tensor:
    """Returns the value, whose gradient `see` gets on the way back."""
    value = value if value.requires_grad else value.clone().requires_grad_()
    value.register_hook(see)
    return value


def _run_backward(net: ViT, numbered: tuple[int, Tensor], probe: Probe) -> int:
    """Runs forward, then backward, on a batch with its number; returns the number of losses that were followed.

    The model's own prediction is the label. The loss of a network without classes is the sum of the unit embedding's
    values with signs that a seeded generator gives: the expected square of its gradient is that of the squared error.
    """
    number, batch = numbered
    out = forward(net, batch, probe).flatten(0, -2)
    if len(net.head.weight):
        losses = [F.cross_entropy(out, out.detach().argmax(dim=1), reduction="sum")]
    else:
        generator = torch.Generator().manual_seed(number)
        signs = torch.randint(2, (SIGNS, *out.shape), generator=generator) * 2 - 1
        losses = list((F.normalize(out) * signs).sum(dim=(1, 2)))
    for loss in losses:
        loss.backward(retain_graph=loss is not losses[-1])
    return len(losses) * len(batch)


@dataclass
class Ranges:
    """The ranges of the stored activations and of the residual stream: float64 [heads] of q, k and v, else [1]."""

    low: dict[str, Float]
    high: dict[str, Float]

    def affine(self, name: str) -> Affine:
        """Returns the 8-bit grid that covers an activation's range."""
        return Affine.from_range(float(self.low[name].min()), float(self.high[name].max()))

    def symmetric(self, name: str) -> Float:
        """Returns the scale of the symmetric 8-bit grid that covers an activation: float64 [heads], or [1]."""
        scale: Float = np.maximum(np.maximum(np.abs(self.low[name]), np.abs(self.high[name])), 1e-9) / 127
        return scale


def find_ranges(
    net: ViT, batches: list[Tensor], statistics: Statistics, percentile: float | None, team: Team
) -> Ranges:
    """Chooses the range of every stored activation.

    Without a percentile it is the range whose grid has the least squared error, clipping and rounding together, each
    value weighted by the squared gradients of the loss: of the value itself in a network without classes, so that the
    outliers of tokens that decide the embedding keep their codes. A classifier's gradient is that of a few uncertain
    images, and the mean over its channel serves better. A `percentile` is the share of the values that the range covers
    on each side.
    """

    def histogram(name: str, value: Tensor, weights: Tensor) -> Tensor:
        low, high = statistics.low[name], statistics.high[name]
        values = _groups(name, value)
        width = (high - low).clamp_min(1e-30) / BINS
        index = ((values - low[:, None]) / width[:, None]).long().clamp_(0, BINS - 1)
        index += BINS * torch.arange(len(low))[:, None]
        weights = _groups(name, weights.double().expand_as(value)).flatten()
        return torch.bincount(index.flatten(), weights, minlength=BINS * len(low)).view(len(low), BINS)

    def by_channel(name: str, value: Tensor) -> Tensor | None:
        if not _stored(name):
            return None
        weights = statistics.gradients[name] if percentile is None else torch.ones(())
        if _by_head(name):
            weights = weights.view(1, -1, 1, value.shape[-1]) if weights.ndim else weights
        return histogram(name, value, weights)

    def by_value(numbered: tuple[int, Tensor]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}

        def probe(name: str, value: Tensor) -> Tensor:
            if not _stored(name):
                return value
            seen = value.detach()

            def add(gradient: Tensor) -> None:
                counted = histogram(name, seen, gradient.square())
                found[name] = found[name] + counted if name in found else counted

            return _observed(value, add)

        _run_backward(net, numbered, probe)
        return found

    if percentile is not None or len(net.head.weight):
        histograms = _over_images(net, batches, team, by_channel, torch.add)
    else:
        histograms = _merged(team.map(by_value, enumerate(batches)), torch.add)
    flat = {f"blocks.{i}.fc1.out": _flat_below(block.activation) for i, block in enumerate(net.blocks)}

    def choose(name: str) -> tuple[Float, Float]:
        lows, highs = (ends[name].double().numpy() for ends in (statistics.low, statistics.high))
        lows = np.maximum(lows, flat.get(name, -np.inf))
        if name not in histograms or percentile == 1:
            return lows, highs
        ends = []
        for first, low, high, last, counts in zip(
            statistics.low[name].tolist(),
            lows,
            highs,
            statistics.high[name].tolist(),
            histograms[name],
            strict=True,
        ):
            weights = counts.numpy()
            values = first + (last - first) * (np.arange(BINS) + 0.5) / BINS
            values, weights = values[weights > 0], weights[weights > 0]
            if percentile is not None:
                ends.append(_percentiles(values, weights, percentile, low, high))
            elif name.endswith(_SYMMETRIC):
                ends.append(_least_error_symmetric(values, weights, max(abs(low), abs(high))))
            else:
                ends.append(_least_error(values, weights, low, high))
        found = np.array(ends)
        return found[:, 0], found[:, 1]

    names = list(statistics.low)
    chosen = dict(zip(names, team.map(choose, names), strict=True))
    return Ranges(
        {name: ends[0] for name, ends in chosen.items()}, {name: ends[1] for name, ends in chosen.items()}
    )


def _percentiles(values: Float, weights: Float, share: float, low: float, high: float) -> tuple[float, float]:
    """Returns the ends that leave ``1 - share`` of the values out on each side."""
    below = np.cumsum(weights) / weights.sum()
    first, last = values[np.searchsorted(below, 1 - share)], values[np.searchsorted(below, share)]
    return max(float(first), low), min(float(last), high)


def _least_error(values: Float, weights: Float, low: float, high: float) -> tuple[float, float]:
    """Returns the ends, shares of `low` and `high`, between which 256 codes have the least weighted squared error."""

    def error(first: float, last: float) -> float:
        grid = Affine.from_range(first, last)
        codes = np.clip(np.floor(values / grid.scale + 0.5), -128 - grid.zero_point, 127 - grid.zero_point)
        return float(np.square(codes * grid.scale - values) @ weights)

    low, high = min(low, 0.0), max(high, 0.0)
    best = low, high
    for _ in range(ROUNDS):
        before = best
        best = min(((best[0], high * share) for share in SHARES), key=lambda ends: error(*ends))
        best = min(((low * share, best[1]) for share in SHARES), key=lambda ends: error(*ends))
        if best == before:
            break
    return best


def _least_error_symmetric(values: Float, weights: Float, largest: float) -> tuple[float, float]:
    """Returns the ends, a share of `largest` and its negative, with the least weighted squared error at 255 codes."""

    def error(high: float) -> float:
        scale = max(high, 1e-9) / 127
        codes = np.clip(np.floor(values / scale + 0.5), -128, 127)
        return float(np.square(codes * scale - values) @ weights)

    best = min((largest * share for share in SHARES), key=error)
    return -best, best


def _stored(name: str) -> bool:
    return name.endswith(_STORED) or name == "norm.out"


def _by_head(name: str) -> bool:
    return name.endswith((".q", ".k", ".v"))


def _is_matrix_output(name: str) -> bool:
    return name.endswith(".out") and not name.split(".")[-2].startswith("norm")


def _groups(name: str, value: Tensor) -> Tensor:
    """Returns the values that share a range in a row each: [heads, values], [channels, values] or [1, values]."""
    if name == "norm_pre.out":
        return value.flatten(0, -2).T
    return value.transpose(0, 1).flatten(1) if _by_head(name) else value.reshape(1, -1)


def _flat_below(activation: nn.Module) -> float:
    with torch.no_grad():
        for edge in FLAT:
            if float(activation(torch.linspace(edge - 8, edge, 64)).abs().max()) < 2e-3:
                return edge
    return -np.inf


def largest_channels(net: ViT, batches: list[Tensor], team: Team) -> dict[str, Tensor]:
    """Returns the largest magnitude of each channel that a matrix reads, by the matrix's name: [columns]."""

    def channels(name: str, value: Tensor) -> Tensor | None:
        return value.abs().flatten(0, -2).amax(dim=0) if name.endswith(".in") else None

    largest = _over_images(net, batches, team, channels, torch.maximum)
    return {name.removesuffix(".in"): values for name, values in largest.items()}


def _over_images(
    net: ViT,
    batches: list[Tensor],
    team: Team,
    measure: Callable[[str, Tensor], Tensor | None],
    merge: Callable[[Tensor, Tensor], Tensor],
) -> dict[str, Tensor]:
    """Returns what `measure` gives at the points that `forward` probes, merged over the batches."""

    def part(batch: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}

        def probe(name: str, value: Tensor) -> Tensor:
            if (measured := measure(name, value)) is not None:
                found[name] = measured
            return value

        with torch.no_grad():
            forward(net, batch, probe)
        return found

    return _merged(team.map(part, batches), merge)


def _merged(
    parts: Iterable[dict[str, Tensor]], merge: Callable[[Tensor, Tensor], Tensor]
) -> dict[str, Tensor]:
    total: dict[str, Tensor] = {}
    for found in parts:
        for name, measured in found.items():
            total[name] = merge(total[name], measured) if name in total else measured
    return total


def balance(net: ViT, largest: dict[str, Tensor], alpha: float) -> None:
    """Evens out the channels of each LayerNorm and of v; the matrix behind them takes up the difference.

    One scale serves all channels of a stored activation. The float function stays the same, because a factor moves
    from a LayerNorm's gain and offset into the columns of qkv or fc1, and from v's rows into proj's columns (attention
    only averages v). `largest` is that of `largest_channels`, `alpha` the share of a channel's excess that moves.
    """
    for i, block in enumerate(net.blocks):
        for norm, layer, name in ((block.norm1, block.qkv, "qkv"), (block.norm2, block.fc1, "fc1")):
            factor = _factors(layer.weight, largest[f"blocks.{i}.{name}"], alpha)
            norm.gamma, norm.beta = norm.gamma / factor, norm.beta / factor
            layer.weight = layer.weight * factor
        factor = _factors(block.proj.weight, largest[f"blocks.{i}.proj"], alpha)
        rows = torch.cat([torch.ones(2 * len(factor)), factor])
        block.qkv.weight, block.qkv.bias = block.qkv.weight / rows[:, None], block.qkv.bias / rows
        block.proj.weight = block.proj.weight * factor


def _factors(weight: Tensor, largest: Tensor, alpha: float) -> Tensor:
    """Returns what to divide each channel by: `alpha` of its excess (in the geometric sense) moves into `weight`.

    SmoothQuant, arXiv 2211.10438, equation 4.
    """
    weight_max = weight.abs().amax(dim=0)
    alive = (largest > 0) & (weight_max > 0)
    least = weight_max.clamp(min=1e-12)
    factor = (largest / least).sqrt() * (largest * least) ** (alpha - 0.5)
    factor = torch.where(alive, factor, torch.ones(()))
    factor = factor / factor[alive].log().mean().exp() if alive.any() else factor
    return torch.where(alive, factor.clamp(1e-2, 1e2), torch.ones(()))
