"""Calibration of a float ViT: activation ranges, the loss's gradients, balanced channels."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ..build import Affine
from .float_vit import ViT, forward

__all__ = ["Ranges", "balance", "largest_channels", "squared_gradients"]


class Ranges:
    """Records percentiles of every activation over the calibration batches [images, channels, height, width].

    Each batch has its own percentile; the largest of them is kept, so that only a few numbers are stored.
    """

    def __init__(self, net: ViT, batches: list[Tensor], percentile: float) -> None:
        self.percentile = percentile
        self.low: dict[str, Tensor] = {}
        self.high: dict[str, Tensor] = {}
        with torch.no_grad():
            for batch in batches:
                forward(net, batch, self._probe)

    def _probe(self, name: str, value: Tensor) -> Tensor:
        per_head = name.rsplit(".", 1)[-1] in ("q", "k", "v")
        flat = value.transpose(0, 1).flatten(1) if per_head else value.reshape(1, -1)
        exact = name == "residual" or self.percentile >= 1
        tail = 1 if exact else max(1, round((1 - self.percentile) * flat.shape[1]))
        low = flat.topk(tail, dim=1, largest=False).values[:, -1]
        high = flat.topk(tail, dim=1).values[:, -1]
        self.low[name] = torch.minimum(self.low.get(name, low), low)
        self.high[name] = torch.maximum(self.high.get(name, high), high)
        return value

    def affine(self, name: str, floor: float = -math.inf) -> Affine:
        """Returns the grid that covers an activation's range, cut off below `floor`."""
        return Affine.from_range(max(float(self.low[name].min()), floor), float(self.high[name].max()))

    def symmetric(self, name: str) -> NDArray[np.float64]:
        """Returns the scale of the symmetric 8-bit grid that covers an activation: float64 [heads], or [1]."""
        largest = torch.maximum(self.low[name].abs(), self.high[name].abs())
        scale: NDArray[np.float64] = np.maximum(largest.double().numpy(), 1e-9) / 127
        return scale


def squared_gradients(net: ViT, batches: list[Tensor]) -> dict[str, Tensor]:
    """Returns the sum of the squared loss gradient at the outputs of each matrix, by name: [rows].

    The model's own prediction is the label. The loss of a network without classes is the sum of the unit embedding's
    values with signs that a seeded generator gives: the expected square of its gradient is that of the squared error.
    """
    signs = torch.Generator().manual_seed(0)
    sums: dict[str, Tensor] = {}

    def probe(name: str, value: Tensor) -> Tensor:
        def add(gradient: Tensor) -> None:
            squares = gradient.square().flatten(0, -2).sum(dim=0)
            sums[name[:-4]] = sums.get(name[:-4], torch.zeros(())) + squares

        if name.endswith(".out") and not name.split(".")[-2].startswith("norm"):
            value = value if value.requires_grad else value.clone().requires_grad_()
            value.register_hook(add)
        return value

    for batch in batches:
        out = forward(net, batch, probe)
        if len(net.head.weight):
            loss = F.cross_entropy(out, out.detach().argmax(dim=1), reduction="sum")
        else:
            loss = (F.normalize(out) * (torch.randint(2, out.shape, generator=signs) * 2 - 1)).sum()
        loss.backward()
    return sums


def largest_channels(net: ViT, batches: list[Tensor]) -> dict[str, Tensor]:
    """Returns the largest magnitude of each channel that a matrix reads, by the matrix's name: [columns]."""
    largest: dict[str, Tensor] = {}

    def probe(name: str, value: Tensor) -> Tensor:
        if name.endswith(".in"):
            channels = value.abs().flatten(0, -2).amax(dim=0)
            largest[name[:-3]] = torch.maximum(largest.get(name[:-3], channels), channels)
        return value

    with torch.no_grad():
        for batch in batches:
            forward(net, batch, probe)
    return largest


def balance(net: ViT, largest: dict[str, Tensor]) -> None:
    """Evens out the channels of each LayerNorm and of v; the matrix behind them takes up the difference.

    One scale serves all channels of a stored activation. The float function stays the same, because a factor moves
    from a LayerNorm's gain and offset into the columns of qkv or fc1, and from v's rows into proj's columns (attention
    only averages v). `largest` is that of `largest_channels`.
    """
    for i, block in enumerate(net.blocks):
        for norm, layer, name in ((block.norm1, block.qkv, "qkv"), (block.norm2, block.fc1, "fc1")):
            factor = _factors(layer.weight, largest[f"blocks.{i}.{name}"])
            norm.gamma, norm.beta = norm.gamma / factor, norm.beta / factor
            layer.weight = layer.weight * factor
        factor = _factors(block.proj.weight, largest[f"blocks.{i}.proj"])
        rows = torch.cat([torch.ones(2 * len(factor)), factor])
        block.qkv.weight, block.qkv.bias = block.qkv.weight / rows[:, None], block.qkv.bias / rows
        block.proj.weight = block.proj.weight * factor


def _factors(weight: Tensor, largest: Tensor) -> Tensor:
    """Returns what to divide each channel by, so that half of its excess (in the geometric sense) moves into `weight`.

    SmoothQuant, arXiv 2211.10438, equation 4, with alpha = 1/2.
    """
    weight_max = weight.abs().amax(dim=0)
    alive = (largest > 0) & (weight_max > 0)
    factor = torch.where(alive, (largest / weight_max.clamp(min=1e-12)).sqrt(), torch.ones(()))
    factor = factor / factor[alive].log().mean().exp() if alive.any() else factor
    return torch.where(alive, factor.clamp(1e-2, 1e2), torch.ones(()))
