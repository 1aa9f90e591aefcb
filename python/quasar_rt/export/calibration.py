"""Calibration of a float ViT: activation ranges, the worth of 8 bits for each row, equalized channels."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ..build import Affine
from ..rows.bits import row_scores
from .float_vit import Linear, Norm, ViT, forward

__all__ = ["Moments", "Ranges", "equalize"]


class Ranges:
    """Records percentiles of every activation over the calibration batches [images, channels, height, width].

    Each batch has its own percentile; the largest of them is kept, so that only a few numbers are stored.
    """

    def __init__(self, net: ViT, batches: list[Tensor], percentile: float) -> None:
        self.percentile = percentile
        self.low: dict[str, Tensor] = {}
        self.high: dict[str, Tensor] = {}
        self.channel_max: dict[str, Tensor] = {}
        with torch.no_grad():
            for batch in batches:
                forward(net, batch, self._probe)

    def _probe(self, name: str, value: Tensor) -> Tensor:
        per_head = name.rsplit(".", 1)[-1] in ("q", "k", "v")
        flat = value.transpose(0, 1).flatten(1) if per_head else value.reshape(1, -1)
        exact = name == "residual" or self.percentile >= 1
        count = flat.shape[1]
        tail = 1 if exact else max(1, round((1 - self.percentile) * count))
        low = flat.kthvalue(tail, dim=1).values
        high = flat.kthvalue(count + 1 - tail, dim=1).values
        self.low[name] = torch.minimum(self.low.get(name, low), low)
        self.high[name] = torch.maximum(self.high.get(name, high), high)
        if name.endswith((".out", ".in")):
            channels = value.abs().flatten(0, -2).amax(dim=0)
            self.channel_max[name] = torch.maximum(self.channel_max.get(name, channels), channels)
        return value

    def affine(self, name: str, floor: float = -math.inf) -> Affine:
        """Returns the grid that covers an activation's range, cut off below `floor`."""
        return Affine.from_range(max(float(self.low[name].min()), floor), float(self.high[name].max()))

    def symmetric(self, name: str) -> NDArray[np.float64]:
        """Returns the scale of the symmetric 8-bit grid that covers an activation: float64 [heads], or [1]."""
        largest = torch.maximum(self.low[name].abs(), self.high[name].abs())
        scale: NDArray[np.float64] = np.maximum(largest.double().numpy(), 1e-9) / 127
        return scale


class Moments:
    """Sums x^2 at every matrix's input and the squared loss gradient at its output over the calibration batches.

    The model's own prediction is the label.
    """

    def __init__(self, net: ViT, batches: list[Tensor]) -> None:
        self.inputs: dict[str, Tensor] = {}
        self.gradients: dict[str, Tensor] = {}
        for batch in batches:
            logits = forward(net, batch, self._probe)
            F.cross_entropy(logits, logits.detach().argmax(dim=1), reduction="sum").backward()

    def _probe(self, name: str, value: Tensor) -> Tensor:
        def add(sums: dict[str, Tensor], key: str, x: Tensor) -> None:
            sums[key] = sums.get(key, torch.zeros(())) + x.square().flatten(0, -2).sum(dim=0)

        if name.endswith(".in"):
            add(self.inputs, name[:-3], value.detach())
        elif name.endswith(".out") and not name.split(".")[-2].startswith("norm"):
            value = value if value.requires_grad else value.clone().requires_grad_()
            value.register_hook(lambda gradient: add(self.gradients, name[:-4], gradient))
        return value

    def scores(self, name: str, layer: Linear) -> NDArray[np.float64]:
        """Returns the worth of 8 bits for each row of a matrix, float64 [rows] (`quasar_rt.rows.bits.row_scores`)."""
        return row_scores(layer.weight.numpy(), self.inputs[name].numpy(), self.gradients[name].numpy())


def equalize(norm: Norm, layer: Linear, channel_max: Tensor) -> None:
    """Moves half of each channel's excess (in the geometric sense) from the LayerNorm into the matrix behind it.

    One scale serves all channels of a stored activation. This step brings their ranges together; the float function
    stays the same (SmoothQuant, arXiv 2211.10438, equation 4, alpha = 1/2).
    """
    weight_max = layer.weight.abs().amax(dim=0)
    alive = (channel_max > 0) & (weight_max > 0)
    factor = torch.where(alive, (channel_max / weight_max.clamp(min=1e-12)).sqrt(), torch.ones(()))
    factor = factor / factor[alive].log().mean().exp() if alive.any() else factor
    factor = torch.where(alive, factor.clamp(1e-2, 1e2), torch.ones(()))
    norm.gamma, norm.beta = norm.gamma / factor, norm.beta / factor
    layer.weight = layer.weight * factor
