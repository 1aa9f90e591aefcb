"""The quantized network in a form with gradients: the student of `quasar_rt.export.tuning`.

It computes what the integer model computes, and at first what `quantize_layers` gave. Codes, row scales, biases,
LayerNorms and activation grids of the blocks can then change. Depends on:
torch, `quasar_rt.build`, `quasar_rt.train` (blocks with straight-through gradients).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..build import Affine, BlockSpec, LinearSpec, NormSpec
from ..space import BlockShape
from ..train import block as trained
from ..train.block import on_grid
from ..train.quantizers import LIMITS, ActQuantizer, RowLinear, Unrounded, ste_codes
from .float_vit import Block, ViT, patches_of
from .layerwise import Quantized, normed_patches

__all__ = ["Knob", "Student", "StudentBlock"]

#: A latent weight starts at most so far from its code, in codes. Near the border (0.5) many would change at once.
CELL = 0.4
#: Codes of an activation that are its usual magnitude.
USUAL_CODE = 32


@dataclass(frozen=True)
class Knob:
    """A tensor that is tuned: `kind` sets its rate, `unit` (a tensor that broadcasts) the size of a step of rate 1."""

    kind: str
    value: Tensor
    unit: Tensor


class _Rows(RowLinear):
    """A quantized matrix. `weight` is latent, in codes; `log_step` is relative to the first step."""

    base: Tensor
    limit: Tensor

    def __init__(self, spec: LinearSpec, target: Tensor, parts: int = 1) -> None:
        rows, columns = spec.weight.shape
        with torch.device("meta"):
            super().__init__(columns, rows, parts)
        assert spec.scales is not None
        scales = torch.from_numpy(np.asarray(spec.scales, np.float64))[:, None]
        codes = (torch.from_numpy(np.asarray(spec.weight, np.float64)) / scales).round()
        self.rank = torch.arange(rows, dtype=torch.int32)
        self.eight = torch.from_numpy(spec.bits == 8)
        limits = torch.where(self.eight, LIMITS[8], LIMITS[4]).double()[:, None]
        # The float weight, as far as its rounding is the given code.
        latent = torch.maximum(torch.minimum(target.double() / scales, codes + CELL), codes - CELL)
        self.weight = nn.Parameter(latent.float())
        self.log_step = nn.Parameter(torch.zeros(rows))
        self.bias = nn.Parameter(torch.from_numpy(np.asarray(spec.bias, np.float64)).float())
        self.register_buffer("base", scales.flatten().float())
        self.register_buffer("limit", limits.float())

    def quantized(self, fold: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Returns codes [rows, columns] and scales [rows]."""
        assert fold is None
        codes = ste_codes(self.weight, torch.ones_like(self.limit), -self.limit, self.limit)
        return codes, self.base * self.log_step.exp()

    @torch.no_grad()
    def keep_inside(self) -> None:
        """Moves latent weights back that are beyond the outermost codes' cells."""
        torch.clamp(self.weight, -self.limit - CELL, self.limit + CELL, out=self.weight)

    def knobs(self, in_scale: float) -> Iterator[Knob]:
        """Lists what can be tuned; `in_scale` is the scale of the inputs."""
        one = torch.ones((), device=self.weight.device)
        length = (self.limit.flatten() * self.base) * (self.columns**0.5 * in_scale * USUAL_CODE)
        yield Knob("codes", self.weight, one)
        yield Knob("steps", self.log_step, one)
        yield Knob("biases", self.bias, length)


class StudentBlock(trained.Block):
    """A block of `quasar_rt.train` that computes what a `BlockSpec` describes, with any activation function."""

    def __init__(self, block: Block, spec: BlockSpec) -> None:
        shape = BlockShape(spec.heads, spec.head_dim, len(spec.fc1.bits), (0.0,) * 6)
        with torch.device("meta"):
            super().__init__(spec.qkv.weight.shape[1], shape, spec.norm1.eps, None)
        self._spec, self.activation, self._rotated = spec, block.activation, block.rotated
        for name in ("qkv", "proj", "fc1", "fc2"):
            rows = _Rows(getattr(spec, name), getattr(block, name).weight, 3 if name == "qkv" else 1)
            setattr(self, name, rows)
        for name in ("norm1", "norm2"):
            setattr(self, name, _norm(getattr(spec, name)))
        scales = [np.broadcast_to(s, (spec.heads,)) for s in (spec.q_scale, spec.k_scale, spec.v_scale)]
        _set_grid(self.qkv_out, np.concatenate(scales))
        _set_grid(self.attn_out, spec.attn_out)
        for name in ("norm1_out", "norm2_out", "fc1_out", "act_out"):
            grid: Affine = getattr(spec, name)
            _set_grid(getattr(self, name), grid.scale, grid.zero_point)

    def _positioned(self, qkv: Unrounded) -> Unrounded:
        heads = qkv.values.unflatten(-1, (3, self.heads, self.head_dim)).transpose(1, 3)
        q, k, v = heads.unbind(2)
        values = torch.stack([self._rotated(q), self._rotated(k), v], dim=2)
        return Unrounded(values.transpose(1, 3).flatten(2), qkv.scale, qkv.zero_point)

    def _activated(self, x: Unrounded) -> Unrounded:
        if type(self.activation) is nn.GELU and self.activation.approximate == "none":
            return super()._activated(x)
        scale = self.act_out.learned(x.values[0].numel()).squeeze(0)
        values = self.activation(x.codes() * x.scale) / scale + self.act_out.zero_point
        return Unrounded(values, scale, self.act_out.zero_point)

    def knobs(self) -> list[Knob]:
        """Lists what can be tuned."""
        return list(self._knobs())

    def keep_inside(self) -> None:
        """Moves latent weights back that are beyond the outermost codes' cells."""
        for part in (self.qkv, self.proj, self.fc1, self.fc2):
            cast(_Rows, part).keep_inside()

    def _knobs(self) -> Iterator[Knob]:
        inputs = {"qkv": "norm1_out", "proj": "attn_out", "fc1": "norm2_out", "fc2": "act_out"}
        for name, grid in inputs.items():
            yield from getattr(self, name).knobs(float(getattr(self, grid).scale.detach()))
        for norm, grid in ((self.norm1, self.norm1_out), (self.norm2, self.norm2_out)):
            yield Knob("norms", norm.weight, norm.weight.detach().abs().clamp_min(1e-6))
            yield Knob("norms", norm.bias, grid.scale.detach() * USUAL_CODE)
        for quantizer in (
            self.norm1_out,
            self.qkv_out,
            self.attn_out,
            self.norm2_out,
            self.fc1_out,
            self.act_out,
        ):
            yield Knob("grids", quantizer.log_scale, torch.ones_like(quantizer.log_scale))

    def spec(self) -> BlockSpec:
        """Returns the block for `quasar_rt.build`."""
        return dataclasses.replace(super().spec(), activation=self._spec.activation)


class Student:
    """The quantized network up to its last block.

    In evaluation mode a block computes LayerNorms and the residual stream in integers.
    """

    def __init__(self, net: ViT, parts: Quantized) -> None:
        self._net, self._parts = net, parts
        self._embed = [
            torch.from_numpy(np.asarray(a)).float() for a in (parts.embed.weight, parts.embed.bias)
        ]
        self.blocks: list[StudentBlock] = [
            StudentBlock(*pair).eval() for pair in zip(net.blocks, parts.blocks, strict=True)
        ]
        self.residual_scale = torch.tensor(parts.residual_scale, dtype=torch.float32)

    @torch.no_grad()
    def embedded(self, images: Tensor) -> Tensor:
        """Returns the residual stream in front of the first block [batch, tokens, embed]."""
        x = F.linear(patches_of(self._net, images), *self._embed) + self._net.position
        if self._parts.embed_norm is not None:
            x = normed_patches(self._parts.embed_norm, x)
        x = torch.cat([self._net.prefix.expand(len(x), -1, -1), x], dim=1)
        return on_grid(x, self.residual_scale, training=False)

    def quantized(self) -> Quantized:
        """Returns the network's parts as they are now."""
        return dataclasses.replace(self._parts, blocks=[block.spec() for block in self.blocks])


def _norm(spec: NormSpec) -> nn.LayerNorm:
    gamma, beta = (torch.from_numpy(np.asarray(a, np.float64)).float() for a in (spec.gamma, spec.beta))
    norm = nn.LayerNorm(len(gamma), eps=spec.eps, device="meta")
    norm.weight, norm.bias = nn.Parameter(gamma), nn.Parameter(beta)
    return norm


def _set_grid(quantizer: ActQuantizer, scale: object, zero_point: int = 0) -> None:
    scales = torch.from_numpy(np.atleast_1d(np.asarray(scale, np.float64)))
    quantizer.log_scale = nn.Parameter(scales.log().float())
    quantizer.zero_point = torch.tensor(float(zero_point))
