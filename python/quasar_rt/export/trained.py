"""Quantizes a slice of a supernet as `export_timm` quantizes a timm model, instead of by the codes of its training.

Depends on: torch, `quasar_rt.build`, `quasar_rt.train`.
"""

from __future__ import annotations

import dataclasses
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ..build import NetworkSpec
from ..rows.bits import choose_bits
from ..train import model as trained
from ..train.block import Block as TrainedBlock
from ..train.quantizers import RowLinear
from .float_vit import Block, Linear, Norm, ViT
from .layerwise import Worth, norm_spec
from .network import calibrate

__all__ = ["read_trained", "requantized"]

#: Tokens of the images of one batch, about.
TOKENS = 1024


def requantized(model: trained.ViT, images: Tensor, spec: NetworkSpec) -> NetworkSpec:
    """Returns the network with ranges, widths and codes that fit its float form best.

    Each of q, k, v, proj, fc1 and fc2 keeps its number of 8-bit rows.

    Args:
        model: the network, on the CPU, as `quasar_rt.train.ViT.extract` gives it.
        images: calibration images, uint8 [n, channels, height, width].
        spec: the network as `quasar_rt.train.ViT.spec` gives it.
    """
    c = model.config
    blocks = c.architecture.blocks

    def widths(name: str, rows: int, worth: Worth) -> NDArray[np.uint8]:
        _, block, matrix = name.split(".")
        *qkv, proj, fc1, fc2 = blocks[int(block)].eight_bit
        fractions = {"qkv": qkv, "proj": [proj], "fc1": [fc1], "fc2": [fc2]}[matrix]
        scores = np.zeros(rows) if set(fractions) <= {0.0, 1.0} else worth()
        runs = np.split(scores, len(fractions))
        return np.concatenate([choose_bits(run, share) for run, share in zip(runs, fractions, strict=True)])

    net = read_trained(model)
    all_eight = all(set(block.eight_bit) == {1.0} for block in blocks)
    parts = calibrate(net, _batches(model, images), std=list(c.std), all_eight=all_eight).quantize(widths)
    return dataclasses.replace(spec, norm=norm_spec(net.norm), **vars(parts))


def read_trained(model: trained.ViT) -> ViT:
    """Reads a network that uses all of its parameters; layer scale is multiplied into proj and fc2."""
    c = model.config
    return ViT(
        height=c.height + 2 * c.pad,
        width=c.width + 2 * c.pad,
        channels=c.channels,
        kernel=c.kernel,
        stride=c.stride,
        embed=_linear(model.embed),
        position=_plain(model.position),
        prefix=_plain(model.prefix),
        blocks=[_block(cast(TrainedBlock, block)) for block in model.blocks],
        pool="token",
        norm=_norm(model.norm),
        head=_linear(model.head),
    )


def _batches(model: trained.ViT, images: Tensor) -> list[Tensor]:
    """Returns the images padded and normalised, in small batches."""
    c = model.config
    padded = F.pad(images.float(), (c.pad,) * 4, value=float(c.pad_value))
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (c.mean, c.std))
    rows, columns = c.grid
    return list(((padded / 255 - mean) / std).split(max(1, TOKENS // (rows * columns + 1))))


def _block(block: TrainedBlock) -> Block:
    return Block(
        heads=block.heads,
        head_dim=block.head_dim,
        norm1=_norm(block.norm1),
        qkv=_linear(block.qkv),
        proj=_linear(block.proj, block.gamma1),
        norm2=_norm(block.norm2),
        fc1=_linear(block.fc1),
        fc2=_linear(block.fc2, block.gamma2),
        activation=nn.GELU(),
    )


def _linear(layer: RowLinear, gain: Tensor | None = None) -> Linear:
    weight, bias = _plain(layer.weight), _plain(layer.bias)
    if gain is None:
        return Linear(weight, bias)
    factor = _plain(gain)
    return Linear(factor[:, None] * weight, factor * bias)


def _norm(norm: nn.LayerNorm) -> Norm:
    return Norm(_plain(norm.weight), _plain(norm.bias), norm.eps)


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().float().cpu()
