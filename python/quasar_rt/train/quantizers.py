"""Fake quantizers of the integer model (``docs/integer-model.md``), with straight-through gradients.

Each quantizer returns *codes* in float, which are exact integers, and their scale. May depend on: torch,
`quasar_rt.oracle` (the table of powers), `quasar_rt.space` (how many rows are 8-bit).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..oracle import EXP_TABLE, rshift
from ..space import eight_bit_rows

__all__ = [
    "LIMITS",
    "ActQuantizer",
    "RowLinear",
    "attention",
    "best_step",
    "layer_norm",
    "leading",
    "round_half_up",
    "scale_gradient",
]

#: Largest code of a row, by its width (narrow range).
LIMITS = {4: 7, 8: 127}
#: Values that calibration keeps of each activation, of each batch and group.
OBSERVED = 1 << 16
#: An int8 output code is worth at most 8 accumulator units (Requantize, Range).
MULTIPLIER_LIMIT = 1 / 8


def round_half_up(x: Tensor) -> Tensor:
    """Returns ``floor(x + 1/2)`` with the gradient of `x`: the rounding of every right shift in the integer model."""
    return x + (torch.floor(x + 0.5) - x).detach()


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """Returns `x`, whose gradient is multiplied by `factor` (LSQ, Esser et al. 2020, section 2.2)."""
    return x.detach() + (x - x.detach()) * factor


def leading(x: Tensor, *lengths: int) -> Tensor:
    """Returns the leading part ``x[:a, :b, ...]``; `x` itself where that is all of it."""
    for dim, length in enumerate(lengths):
        if length != x.shape[dim]:
            x = x.narrow(dim, 0, length)
    return x


class RowLinear(nn.Module):
    """A linear layer whose rows are each 4- or 8-bit: weight [rows, columns], bias [rows].

    One float weight has two quantized forms. An 8-bit row's step is its largest active magnitude / 127; a 4-bit row's
    step is learned (its logarithm is the parameter, so that one step of the optimizer changes it by a fraction of
    itself). Which rows are 8-bit follows from `rank`, int32 [rows], 0 for the row that gains most: the first E by rank
    among the active rows, so the sets of a larger fraction hold those of a smaller one.

    `activate` chooses the leading rows and columns that every method works on. The rows are `parts` equal runs (q, k
    and v); each of them is cut alike and has its own E.
    """

    rank: Tensor
    eight: Tensor

    def __init__(self, columns: int, rows: int, parts: int = 1) -> None:
        super().__init__()
        self.parts = parts
        self.weight = nn.Parameter(torch.empty(rows, columns))
        self.bias = nn.Parameter(torch.zeros(rows))
        self.log_step = nn.Parameter(torch.zeros(rows))
        self.register_buffer("rank", torch.arange(rows, dtype=torch.int32))
        self.register_buffer("eight", torch.ones(rows, dtype=torch.bool), persistent=False)
        self.rows, self.columns = rows, columns
        nn.init.trunc_normal_(self.weight, std=columns**-0.5)

    def activate(self, rows: int, columns: int, fractions: Sequence[float]) -> None:
        """Works on the first `rows` (of all parts) and `columns`; `fractions` of each part's rows are 8-bit."""
        self.rows, self.columns = rows, columns
        order = self._part(self.rank).view(self.parts, -1).argsort(dim=1)
        eight = torch.zeros(order.shape, dtype=torch.bool, device=order.device)
        for part, best, fraction in zip(eight, order, fractions, strict=True):
            part[best[: eight_bit_rows(len(part), fraction)]] = True
        self.eight = eight.flatten()

    def _part(self, x: Tensor) -> Tensor:
        """Returns the active rows of `x` [rows]."""
        if self.rows == len(x):
            return x
        return x.view(self.parts, -1)[:, : self.rows // self.parts].flatten()

    def _matrix(self) -> Tensor:
        """Returns the active weight [rows, columns], contiguous, so that it multiplies as an extracted one does."""
        if self.rows == len(self.weight):
            return leading(self.weight, self.rows, self.columns).contiguous()
        each = self.rows // self.parts
        return self.weight.unflatten(0, (self.parts, -1))[:, :each, : self.columns].flatten(0, 1).contiguous()

    @property
    def bits(self) -> Tensor:
        """Widths of the active rows, uint8 [rows], 4 or 8."""
        return torch.where(self.eight, 8, 4).to(torch.uint8)

    def forward(self, x: Tensor, gain: Tensor | None = None) -> Tensor:
        """Computes the float layer on `x` [..., columns], its outputs multiplied by `gain` [rows]."""
        weight, bias = self._matrix(), self._part(self.bias)
        if gain is not None:
            weight, bias = weight * gain.unsqueeze(1), bias * gain
        return F.linear(x, weight, bias)

    def active_bias(self) -> Tensor:
        """Returns the active rows' bias [rows]."""
        return self._part(self.bias)

    def active_rank(self) -> Tensor:
        """Returns the ranks of the active rows among themselves, int64 [rows]."""
        return self._part(self.rank).argsort().argsort()

    def quantized(self, fold: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Returns codes [rows, columns] and scales [rows] of the active part, its columns first divided by `fold`."""
        weight = self._matrix()
        if fold is not None:
            weight = weight / fold
        limit = torch.where(self.eight, 127.0, 7.0).unsqueeze(1)
        learned = scale_gradient(self._part(self.log_step), 1 / math.sqrt(7 * self.columns)).exp()
        largest = weight.detach().abs().amax(dim=1) / 127
        scale = torch.where(self.eight, largest, learned).clamp_min(1e-12)
        codes: Tensor = _Round.apply(weight, scale.unsqueeze(1), -limit, limit)
        return codes, scale

    def integer(
        self,
        codes: Tensor,
        scale: Tensor | float = 1.0,
        gain: Tensor | None = None,
        fold: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Computes the quantized layer on `codes` [..., columns] of one scale, outputs multiplied by `gain` [rows].

        `fold` [columns] divides the weights before they are quantized.

        Without autocast the steps multiply the weights, not the sums: the same number to float32's rounding, and fewer
        passes over the activations. Under autocast the product is of bare codes, which bfloat16 holds exactly (up to
        256), and the steps multiply its sums in float32.

        Returns:
            real outputs [..., rows] and each accumulator unit's real value [rows].
        """
        weight, row_scale = self.quantized(fold)
        bias = self._part(self.bias)
        step = row_scale * scale
        if gain is not None:
            step, bias = step * gain, bias * gain
        if torch.is_autocast_enabled(codes.device.type):
            return torch.addcmul(bias, F.linear(codes, weight).float(), step), step
        return F.linear(codes, weight * step.unsqueeze(1), bias), step

    @torch.no_grad()
    def start_steps(self, importance: Tensor) -> None:
        """Starts every row's 4-bit step where the error weighted by `importance` [all columns] is least."""
        self.log_step.copy_(best_step(self.weight, importance, LIMITS[4]).log())


@torch.no_grad()
def best_step(weight: Tensor, importance: Tensor, limit: int, fractions: int = 64) -> Tensor:
    """Returns the step [rows] with the least ``sum_j importance_j (w_j - step*code_j)^2``.

    It is searched among so many fractions of the one that just covers the largest magnitude.
    """
    largest = (weight.abs().amax(dim=1) / limit).clamp_min(1e-12)
    best = largest.clone()
    least = torch.full_like(largest, math.inf)
    for fraction in torch.linspace(0.35, 1.0, fractions).tolist():
        step = largest * fraction
        error = ((fake(weight, step, limit) - weight).square() * importance).sum(dim=1)
        best = torch.where(error < least, step, best)
        least = torch.minimum(error, least)
    return best


@torch.no_grad()
def fake(weight: Tensor, step: Tensor, limit: int) -> Tensor:
    """Rounds weights [rows, columns] to the grid of step [rows] with codes in [-limit, limit]."""
    step = step.unsqueeze(1)
    return torch.floor(weight / step + 0.5).clamp(-limit, limit) * step


def _rank(values: Tensor, share: float) -> Tensor:
    """Returns the value [groups] at this share of the order of each row [groups, n], sorting the outer values alone."""
    last = values.shape[1] - 1
    place = round(share * last)
    from_top = place > last // 2
    count = last - place + 1 if from_top else place + 1
    return values.topk(count, dim=1, largest=from_top).values[:, -1]


class ActQuantizer(nn.Module):
    """An s8 activation, ``real = scale * (code - zero_point)``: `groups` scales (heads), learned after calibration.

    Symmetric quantizers keep zero point 0; others get one from the observed range (cut off below `floor`), which then
    stays. The groups are `parts` equal runs (q, k and v); `activate` chooses the leading ones of each.
    """

    zero_point: Tensor

    def __init__(
        self, groups: int = 1, parts: int = 1, symmetric: bool = False, floor: float = -math.inf
    ) -> None:
        super().__init__()
        self.groups, self.parts, self.symmetric, self.floor = groups, parts, symmetric, floor
        self.log_scale = nn.Parameter(torch.zeros(groups))
        self.register_buffer("zero_point", torch.zeros(()))
        self.observing = False
        self._seen: list[Tensor] = []

    def activate(self, groups: int) -> None:
        """Works on the first `groups` (of all parts together)."""
        self.groups = groups

    def _active(self) -> Tensor:
        """Returns a view of the active groups' log scales [parts, groups / parts]."""
        return self.log_scale.view(self.parts, -1)[:, : self.groups // self.parts]

    @property
    def scale(self) -> Tensor:
        """Scales of the active groups [groups]."""
        return self._active().flatten().exp()

    def observe(self, x: Tensor) -> None:
        """Keeps a sample of `x` [..., groups, n] ([..., n] for one group) while `observing`."""
        if self.observing:
            flat = x.detach().float().reshape(-1, self.groups, x.shape[-1])
            stride = max(1, len(flat) * x.shape[-1] // OBSERVED)
            self._seen.append(flat[::stride].transpose(0, 1).reshape(self.groups, -1))

    @torch.no_grad()
    def finish(self, percentile: float) -> None:
        """Sets scale and zero point from the observed values' `percentile` (and 1 - percentile)."""
        seen = torch.cat(self._seen, dim=1)
        self._seen, self.observing = [], False
        high, least = _rank(seen, percentile), _rank(seen, 1 - percentile).clamp_min(self.floor)
        if self.symmetric:
            scale = torch.maximum(high.abs(), least.abs()) / 127
        else:
            high, least = high.clamp_min(0), least.clamp_max(0)
            scale = (high - least) / 255
            scale = scale.clamp_min(1e-8)
            self.zero_point.copy_((-128 - least / scale).round().clamp(-128, 127).squeeze())
        self._active().copy_(scale.clamp_min(1e-8).log().view(self.parts, -1))

    def forward(self, x: Tensor, at_least: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
        """Returns codes minus the zero point, like `x` [..., groups, n], and scales ([groups, 1]; a scalar for one).

        `at_least` [groups] is the finest scale that the multipliers allow (Requantize, Range).
        """
        learned = self.log_scale if self.groups == len(self.log_scale) else self._active().flatten()
        scale = scale_gradient(learned, 1 / math.sqrt(127 * x[0].numel())).exp()
        scale = (
            torch.clamp_min(scale, at_least)
            if isinstance(at_least, float)
            else torch.maximum(scale, at_least)
        )
        scale = scale.unsqueeze(-1) if self.groups > 1 else scale.squeeze(0)
        return _Round.apply(x, scale, -128 - self.zero_point, 127 - self.zero_point), scale


class _Round(torch.autograd.Function):
    """Computes ``clamp(round_half_up(x / scale), low, high)``, straight through inside, no gradient outside.

    `scale` is a scalar or belongs to the next to last dimension [n, 1].
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> Tensor:
        code = (x / scale).add_(0.5).floor_()
        clamped = torch.maximum(torch.minimum(code, high), low)
        ctx.save_for_backward(x, scale, clamped == code)
        return clamped

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, scale, inside = ctx.saved_tensors
        by_x = torch.where(inside, gradient, 0.0).div_(scale)
        product = by_x * x
        if scale.ndim == 0:
            by_scale = product.sum()
        else:  # The leading dimensions first, which is much quicker than all of them at once.
            by_scale = product.view(-1, *product.shape[-2:]).sum(dim=0).sum(dim=-1, keepdim=True)
        return by_x, by_scale.div_(scale).neg_(), None, None


def layer_norm(x: Tensor, gain: Tensor, bias: Tensor, frac: int, epsilon: int) -> Tensor:
    """Computes the integer LayerNorm (section LayerNorm), as `quasar_rt.oracle.layer_norm` does.

    Args:
        x: the residual stream's codes, int32 [..., embed].
        gain, bias: int32 [embed].
        frac, epsilon: f and E.

    Returns:
        codes with the zero point, int32 [..., embed].
    """
    d = x.shape[-1]
    s = x.sum(dim=-1, keepdim=True)
    v = d * (x * x).sum(dim=-1, keepdim=True) - s * s + epsilon
    # float64 holds every value here (V < 2^51, R < 2^26) and rounds its root and quotient to the right side.
    b = (torch.frexp(v.double())[1] + 1) // 2
    root = torch.floor(torch.sqrt(torch.ldexp(v.double(), 2 * (26 - b))))
    inv = torch.floor(2.0**40 / root).clamp_(max=32767).int()
    shift = (b - 10).int()
    down, up = shift.clamp(min=0), (-shift).clamp(min=0)
    half = torch.bitwise_left_shift(torch.ones_like(down), down) >> 1
    t = ((d * x - s.int()) << up) + half >> down
    n = (t * inv + (1 << 14)) >> 15
    return ((((n * gain + (1 << 14)) >> 15) + bias).clamp_(-32768, 32767) >> frac).clamp_(-128, 127)


#: e12 of every number of 64ths that is not 0 yet: ``rshift(T[u & 63], u >> 6)``, then a 0 for all further ones.
POWERS = {
    torch.device("cpu"): torch.from_numpy(
        rshift(EXP_TABLE[np.arange(14 * 64) & 63], np.arange(14 * 64) >> 6)
    ).float()
}


def _powers(device: torch.device) -> Tensor:
    if device not in POWERS:
        POWERS[device] = POWERS[torch.device("cpu")].to(device)
    return POWERS[device]


class _Attention(torch.autograd.Function):
    """Computes attention in the integer model's steps; backward, the base-2 softmax, straight through roundings."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mult: Tensor) -> Tensor:
        factor = torch.floor(mult + 0.5).clamp_(1, 2**24).view(-1, 1, 1) * 2.0**-20
        powers = _powers(q.device)
        logits = q @ k.transpose(-1, -2)
        steps = (logits.amax(dim=-1, keepdim=True) - logits).mul_(factor).add_(0.5).floor_()
        # index_select is many times quicker than indexing here.
        index = steps.clamp(max=len(powers) - 1).to(torch.int32)
        e12 = powers.index_select(0, index.flatten()).view_as(steps)
        e8 = (e12 + 8).mul_(1 / 16).floor_()
        total = e12.sum(dim=-1, keepdim=True)
        rounding_residue = total - 16 * e8.sum(dim=-1, keepdim=True)
        out = (16 * (e8 @ v) + rounding_residue * v.mean(dim=-2, keepdim=True)) / total
        ctx.save_for_backward(q, k, v, factor, steps, e12, e8, total, rounding_residue, out)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        q, k, v, factor, steps, e12, e8, total, rounding_residue, out = ctx.saved_tensors
        share = gradient / total
        by_v = 16 * (e8.transpose(-1, -2) @ share) + (rounding_residue * share).mean(dim=-2, keepdim=True)
        by_e12 = (share @ v.transpose(-1, -2)).sub_((share * out).sum(dim=-1, keepdim=True))
        by_steps = by_e12.mul_(e12).mul_(-math.log(2) / 64)
        by_mult = (by_steps * steps).sum(dim=(0, 2, 3)) / (factor.view(-1) * 2**20)
        by_logits = by_steps.mul_(-factor)
        return by_logits @ k, by_logits.transpose(-1, -2) @ q, by_v, by_mult


def attention(q: Tensor, k: Tensor, v: Tensor, mult: Tensor) -> Tensor:
    """Computes attention on codes, in units of v's code (section Attention up to the division, which is exact here).

    Args:
        q, k, v: codes float32 [batch, heads, tokens, head_dim].
        mult: [heads], ``2^20 * s_q * s_k / sqrt(head_dim) * log2(e) * 64``, rounded here.
    """
    # In float32 under autocast too: bfloat16 would round the logits, of up to 21 bits, to 8.
    with torch.autocast(q.device.type, enabled=False):
        out: Tensor = _Attention.apply(q, k, v, mult)
    return out
