"""Fake quantizers of the integer model (``docs/integer-model.md``), with straight-through gradients.

Everything returns *codes* in float, which are exact integers, beside their scale. May depend on: torch,
`quasar_rt.oracle` (the table of powers).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..oracle import EXP_TABLE, rshift

__all__ = ["ActQuantizer", "RowLinear", "attention", "round_half_up", "scale_gradient"]

#: Largest code of a row, by its width (narrow range).
LIMITS = {4: 7, 8: 127}
#: Values that calibration keeps of each activation, of each batch and group.
OBSERVED = 1 << 16
#: An int8 output code is worth at most 8 accumulator units (Requantize, Range).
MULTIPLIER_LIMIT = 1 / 8


def round_half_up(x: Tensor) -> Tensor:
    """``floor(x + 1/2)`` with the gradient of `x`: the rounding of every right shift in the integer model."""
    return x + (torch.floor(x + 0.5) - x).detach()


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """`x`, whose gradient is multiplied by `factor` (LSQ, Esser et al. 2020, section 2.2)."""
    return x.detach() + (x - x.detach()) * factor


class RowLinear(nn.Module):
    """A linear layer whose rows are each 4- or 8-bit: weight [rows, columns], bias [rows], bits uint8 [rows].

    An 8-bit row's step is its largest magnitude / 127; a 4-bit row's step is learned (its logarithm is the parameter,
    so that one step of the optimizer changes it by a fraction of itself).
    """

    bits: Tensor

    def __init__(self, columns: int, rows: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, columns))
        self.bias = nn.Parameter(torch.zeros(rows))
        self.log_step = nn.Parameter(torch.zeros(rows))
        self.register_buffer("bits", torch.full((rows,), 8, dtype=torch.uint8))
        nn.init.trunc_normal_(self.weight, std=columns**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """The float layer."""
        return F.linear(x, self.weight, self.bias)

    def quantized(self) -> tuple[Tensor, Tensor]:
        """Codes [rows, columns] and scales [rows]."""
        eight = self.bits == 8
        limit = torch.where(eight, 127.0, 7.0).unsqueeze(1)
        learned = scale_gradient(self.log_step, 1 / math.sqrt(7 * self.weight.shape[1])).exp()
        largest = self.weight.detach().abs().amax(dim=1) / 127
        scale = torch.where(eight, largest, learned).clamp_min(1e-12)
        ratio = self.weight / scale.unsqueeze(1)
        codes = round_half_up(torch.maximum(torch.minimum(ratio, limit), -limit))
        return codes, scale

    def integer(self, codes: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """The quantized layer on `codes` [..., columns] of one scale.

        The steps multiply the weights, not the sums: the same number to float32's rounding, and fewer passes over the
        activations.

        Returns:
            real outputs [..., rows] and each accumulator unit's real value [rows].
        """
        weight, row_scale = self.quantized()
        step = row_scale * scale
        return F.linear(codes, weight * step.unsqueeze(1), self.bias), step

    @torch.no_grad()
    def set_bits(self, bits: Tensor, importance: Tensor) -> None:
        """Choose the rows' widths; 4-bit steps start where the error weighted by `importance` [columns] is least."""
        self.bits.copy_(bits)
        self.log_step.copy_(best_step(self.weight, importance, 7).log())


@torch.no_grad()
def best_step(weight: Tensor, importance: Tensor, limit: int) -> Tensor:
    """The step [rows] with the least ``sum_j importance_j (w_j - step*code_j)^2``.

    It is searched among 64 fractions of the one that just covers the largest magnitude.
    """
    largest = (weight.abs().amax(dim=1) / limit).clamp_min(1e-12)
    best = largest.clone()
    least = torch.full_like(largest, math.inf)
    for fraction in torch.linspace(0.35, 1.0, 64).tolist():
        step = largest * fraction
        error = ((fake(weight, step, limit) - weight).square() * importance).sum(dim=1)
        best = torch.where(error < least, step, best)
        least = torch.minimum(error, least)
    return best


@torch.no_grad()
def fake(weight: Tensor, step: Tensor, limit: int) -> Tensor:
    """Weights [rows, columns] on the grid of step [rows] with codes in [-limit, limit]."""
    step = step.unsqueeze(1)
    return torch.floor(weight / step + 0.5).clamp(-limit, limit) * step


class ActQuantizer(nn.Module):
    """An s8 activation, ``real = scale * (code - zero_point)``: `groups` scales (heads), learned after calibration.

    Symmetric quantizers keep zero point 0; others get one from the observed range (cut off below `floor`), which then
    stays.
    """

    zero_point: Tensor

    def __init__(self, groups: int = 1, symmetric: bool = False, floor: float = -math.inf) -> None:
        super().__init__()
        self.groups, self.symmetric, self.floor = groups, symmetric, floor
        self.log_scale = nn.Parameter(torch.zeros(groups))
        self.register_buffer("zero_point", torch.zeros(()))
        self.observing = False
        self._seen: list[Tensor] = []

    @property
    def scale(self) -> Tensor:
        """Scales [groups]."""
        return self.log_scale.exp()

    def observe(self, x: Tensor) -> None:
        """While `observing`, keep a sample of `x` [..., groups, n] ([..., n] for one group)."""
        if self.observing:
            flat = x.detach().float().reshape(-1, self.groups, x.shape[-1])
            stride = max(1, len(flat) * x.shape[-1] // OBSERVED)
            self._seen.append(flat[::stride].transpose(0, 1).reshape(self.groups, -1))

    @torch.no_grad()
    def finish(self, percentile: float) -> None:
        """Set scale and zero point from the observed values' `percentile` (and 1 - percentile)."""
        seen = torch.cat(self._seen, dim=1).sort(dim=1).values
        self._seen, self.observing = [], False
        last = seen.shape[1] - 1
        high, least = (
            seen[:, round(percentile * last)],
            seen[:, round((1 - percentile) * last)].clamp_min(self.floor),
        )
        if self.symmetric:
            scale = torch.maximum(high.abs(), least.abs()) / 127
        else:
            high, least = high.clamp_min(0), least.clamp_max(0)
            scale = (high - least) / 255
            self.zero_point.copy_((-128 - least / scale).round().clamp(-128, 127).squeeze())
        self.log_scale.copy_(scale.clamp_min(1e-8).log())

    def forward(self, x: Tensor, at_least: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
        """Codes minus the zero point, like `x` [..., groups, n], and scales ([groups, 1]; a scalar for one group).

        `at_least` [groups] is the finest scale that the multipliers allow (Requantize, Range).
        """
        scale = scale_gradient(self.log_scale, 1 / math.sqrt(127 * x[0].numel())).exp()
        scale = (
            torch.clamp_min(scale, at_least)
            if isinstance(at_least, float)
            else torch.maximum(scale, at_least)
        )
        scale = scale.unsqueeze(-1) if self.groups > 1 else scale.squeeze(0)
        return _Round.apply(x, scale, -128 - self.zero_point, 127 - self.zero_point), scale


class _Round(torch.autograd.Function):
    """``clamp(round_half_up(x / scale), low, high)``: straight through inside, no gradient outside."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> Tensor:
        code = (x / scale).add_(0.5).floor_()
        inside = (code >= low).logical_and_(code <= high)
        ctx.save_for_backward(x, scale, inside)
        return code.clamp_(low, high)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, scale, inside = ctx.saved_tensors
        by_x = (gradient / scale).mul_(inside)
        by_scale = (by_x * x).sum_to_size(scale.shape).div_(scale).neg_()
        return by_x, by_scale, None, None


#: e12 of every number of 64ths that is not 0 yet: ``rshift(T[u & 63], u >> 6)``, then a 0 for all further ones.
POWERS = torch.from_numpy(rshift(EXP_TABLE[np.arange(14 * 64) & 63], np.arange(14 * 64) >> 6)).float()


class _Attention(torch.autograd.Function):
    """Attention in the integer model's steps; backward it is the base-2 softmax, its roundings straight through."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mult: Tensor) -> Tensor:
        factor = torch.floor(mult + 0.5).clamp_(1, 2**24).view(-1, 1, 1) * 2.0**-20
        logits = q @ k.transpose(-1, -2)
        steps = (logits.amax(dim=-1, keepdim=True) - logits).mul_(factor).add_(0.5).floor_()
        e12 = POWERS[steps.clamp(max=len(POWERS) - 1).to(torch.int32)]
        e8 = torch.floor((e12 + 8) * (1 / 16))
        total = e12.sum(dim=-1, keepdim=True)
        lost = total - 16 * e8.sum(dim=-1, keepdim=True)
        out = (16 * (e8 @ v) + lost * v.mean(dim=-2, keepdim=True)) / total
        ctx.save_for_backward(q, k, v, factor, steps, e12, e8, total, lost, out)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        q, k, v, factor, steps, e12, e8, total, lost, out = ctx.saved_tensors
        share = gradient / total
        by_v = 16 * (e8.transpose(-1, -2) @ share) + (lost * share).mean(dim=-2, keepdim=True)
        by_e12 = (share @ v.transpose(-1, -2)).sub_((share * out).sum(dim=-1, keepdim=True))
        by_steps = by_e12.mul_(e12).mul_(-math.log(2) / 64)
        by_mult = (by_steps * steps).sum(dim=(0, 2, 3)) / (factor.view(-1) * 2**20)
        by_logits = by_steps.mul_(-factor)
        return by_logits @ k, by_logits.transpose(-1, -2) @ q, by_v, by_mult


def attention(q: Tensor, k: Tensor, v: Tensor, mult: Tensor) -> Tensor:
    """Attention on codes, in units of v's code (section Attention up to the division, which is exact here).

    Args:
        q, k, v: codes float32 [batch, heads, tokens, head_dim].
        mult: [heads], ``2^20 * s_q * s_k / sqrt(head_dim) * log2(e) * 64``, rounded here.
    """
    out: Tensor = _Attention.apply(q, k, v, mult)
    return out
