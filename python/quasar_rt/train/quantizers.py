"""Fake quantizers of the integer model (``docs/integer-model.md``), with straight-through gradients.

Each quantizer returns *codes* in float, which are exact integers, and their scale. May depend on: torch,
`quasar_rt.oracle` (the table of powers), `quasar_rt.space` (how many rows are 8-bit).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..oracle import EXP_TABLE, rshift
from ..space import eight_bit_rows
from .runtime import fusible

__all__ = [
    "LIMITS",
    "ActQuantizer",
    "RowLinear",
    "Unrounded",
    "attention",
    "best_step",
    "gelu",
    "layer_norm",
    "leading",
    "powers_of_two",
    "round_half_up",
    "scale_gradient",
    "ste_codes",
    "straight_through",
]

#: Largest code of a row, by its width (narrow range).
LIMITS = {4: 7, 8: 127}
#: Values that calibration keeps of each activation, of each batch and group.
OBSERVED = 1 << 16
#: An int8 output code is worth at most 8 accumulator units (Requantize, Range).
MULTIPLIER_LIMIT = 1 / 8
#: The rounded values that lie inside the range, and one to each side of it for all that lie outside.
_INSIDE = (-128, 127)
_ALMOST = (-129, 128)


def round_half_up(x: Tensor) -> Tensor:
    """Returns ``floor(x + 1/2)`` with the gradient of `x`: the rounding of every right shift in the integer model."""
    return x + (torch.floor(x + 0.5) - x).detach()


def straight_through(exact: Tensor, x: Tensor) -> Tensor:
    """Returns `exact`, bit for bit, with the gradient of the finite `x`."""
    return exact + (x - x.detach())


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
        return ste_codes(weight, scale.unsqueeze(1), -limit, limit), scale

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
        weight, step, bias = self._scaled(scale, gain, fold)
        if torch.is_autocast_enabled(codes.device.type):
            return torch.addcmul(bias, F.linear(codes, weight).float(), step), step
        return F.linear(codes, weight * step.unsqueeze(1), bias), step

    def update(self, x: Unrounded, gain: Tensor | None = None) -> Tensor:
        """Computes the quantized layer on `x` [..., columns]; returns real outputs [..., rows], times `gain` [rows]."""
        return _product(x, *self._scaled(x.scale, gain))

    def requantized(self, x: Unrounded, out: ActQuantizer) -> Unrounded:
        """Computes the quantized layer on `x` [..., columns]; returns outputs [..., rows] in the codes of `out`.

        The division by the output's scale is done to the weights, as is the addition of its zero point to the bias.
        """
        weight, step, bias = self._scaled(x.scale)
        finest = step.detach().view(out.groups, -1).amax(dim=1) / MULTIPLIER_LIMIT
        scale = out.learned(x.values[0, ..., 0].numel() * self.rows, finest)
        each = scale.repeat_interleave(self.rows // out.groups)
        product = _product(x, weight, step / each, bias / each + out.zero_point)
        return Unrounded(product, scale if out.groups > 1 else scale.squeeze(0), out.zero_point)

    def _scaled(
        self, scale: Tensor | float, gain: Tensor | None = None, fold: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the codes of the weights, each accumulator unit's real value [rows], and the bias, times `gain`."""
        weight, row_scale = self.quantized(fold)
        bias = self._part(self.bias)
        step = row_scale * scale
        if gain is not None:
            step, bias = step * gain, bias * gain
        return weight, step, bias

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

    def learned(self, count: int, at_least: Tensor | float = 0.0) -> Tensor:
        """Returns the scales of the active groups [groups], for the gradients.

        Args:
            count: values of one sample.
            at_least: the finest scale [groups] that the multipliers allow (Requantize, Range).
        """
        learned = self.log_scale if self.groups == len(self.log_scale) else self._active().flatten()
        scale = scale_gradient(learned, 1 / math.sqrt(127 * count)).exp()
        if isinstance(at_least, float):
            return torch.clamp_min(scale, at_least)
        return torch.maximum(scale, at_least)

    def forward(self, x: Tensor) -> Unrounded:
        """Brings `x` [..., n] to codes of one group."""
        scale = self.learned(x[0].numel()).squeeze(0)
        return Unrounded(x / scale + self.zero_point, scale, self.zero_point)


@dataclass(frozen=True)
class Unrounded:
    """An s8 activation before its rounding: ``values = real / scale + zero_point``.

    Who computes the values puts the scale into a product that there is anyway (weights, LayerNorm's gain), and who
    takes them rounds them and keeps for the gradient what takes two bytes. `scale` is a scalar, or [groups].
    """

    values: Tensor
    scale: Tensor
    zero_point: Tensor

    def codes(self) -> Tensor:
        """Returns the codes minus the zero point, straight through inside the range, no gradient outside."""
        codes: Tensor = _Codes.apply(self.values, self.zero_point)
        return codes

    def exactly(self, codes: Tensor | None) -> Unrounded:
        """Returns the activation with the integer model's `codes`, int8, straight through; None leaves it as it is.

        Values that both clamp stay outside the range, so that no gradient passes there.
        """
        if codes is None:
            return self
        v, exact = self.values.detach(), codes.to(self.values.dtype)
        exact = torch.where(codes == _INSIDE[1], v.clamp(min=_INSIDE[1]), exact)
        exact = torch.where(codes == _INSIDE[0], v.clamp(max=_INSIDE[0]), exact)
        return replace(self, values=straight_through(exact, self.values))


def _product(x: Unrounded, weight: Tensor, step: Tensor, bias: Tensor) -> Tensor:
    """Returns `bias` plus the rounded `x` [..., columns] times `weight` (codes) [rows, columns] times `step` [rows]."""
    out: Tensor
    if torch.is_autocast_enabled(x.values.device.type):
        bare = _CodesLinear.apply(x.values, x.zero_point, weight, None, True)
        out = torch.addcmul(bias, bare, step)
    else:
        out = _CodesLinear.apply(x.values, x.zero_point, weight * step.unsqueeze(1), bias, False)
    return out


def gelu(x: Unrounded, out: ActQuantizer) -> Unrounded:
    """Applies GELU to rounded codes, which is the 256-entry table; returns its values in the codes of `out`."""
    scale = out.learned(x.values[0].numel()).squeeze(0)
    values = _Gelu.apply(x.values, x.zero_point, x.scale, scale, out.zero_point)
    return Unrounded(values, scale, out.zero_point)


@fusible
def _round(values: Tensor, zero_point: Tensor) -> tuple[Tensor, Tensor]:
    """Rounds half up; returns the codes minus the zero point, and what is kept of them for the gradient, bfloat16.

    Values outside the range are kept as the first one outside. bfloat16 holds whole numbers up to 256.
    """
    rounded = torch.add(values, 0.5).floor_().clamp_(*_ALMOST)
    kept = rounded.to(torch.bfloat16)
    return rounded.clamp_(*_INSIDE).sub_(zero_point), kept


@fusible
def _codes(kept: Tensor, zero_point: Tensor) -> Tensor:
    """Returns the codes minus the zero point again, float32."""
    return kept.to(torch.float32).clamp_(*_INSIDE).sub_(zero_point)


@fusible
def _masked(gradient: Tensor, kept: Tensor) -> Tensor:
    """Returns the gradient where the rounded values are inside the range, and 0 elsewhere."""
    # hardtanh's gradient is one pass; a boolean mask takes several times as long.
    bounds = (_INSIDE[0] - 0.5, _INSIDE[1] + 0.5)
    masked: Tensor = torch.ops.aten.hardtanh_backward(gradient, kept.to(gradient.dtype), *bounds)
    return masked


class _Codes(torch.autograd.Function):
    """Computes ``clamp(round_half_up(values)) - zero_point``, straight through inside, no gradient outside."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, zero_point: Tensor) -> Tensor:
        codes, kept = _round(values, zero_point)
        ctx.save_for_backward(kept)
        return codes

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        return _masked(gradient.contiguous(), kept), None


class _CodesLinear(torch.autograd.Function):
    """Computes a linear layer on ``_Codes(values, zero_point)``, which are kept in two bytes each.

    With `half` the products are in bfloat16, on bare codes, which it holds exactly; the result is float32.
    """

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, zero_point: Tensor, weight: Tensor, bias: Tensor | None, half: bool
    ) -> Tensor:
        codes, kept = _round(values, zero_point)
        ctx.half, ctx.with_bias = half, bias is not None
        ctx.save_for_backward(kept, zero_point, weight)
        with torch.autocast(values.device.type, enabled=False):
            if half:
                return F.linear(codes.bfloat16(), weight.bfloat16()).float()
            return F.linear(codes, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, Tensor, Tensor | None, None]:
        kept, zero_point, weight = ctx.saved_tensors
        flat = gradient.reshape(-1, gradient.shape[-1])
        by_bias = flat.sum(dim=0) if ctx.with_bias else None
        codes = _codes(kept, zero_point).view(-1, kept.shape[-1])
        with torch.autocast(gradient.device.type, enabled=False):
            if ctx.half:
                flat = flat.bfloat16()
                by_weight = (flat.t() @ codes.bfloat16()).float()
                by_codes = (flat @ weight.bfloat16()).float()
            else:
                by_weight, by_codes = flat.t() @ codes, flat @ weight
        return _masked(by_codes.view_as(kept), kept), None, by_weight, by_bias, None


@fusible
def _gelu_forward(
    values: Tensor, zero_in: Tensor, scale_in: Tensor, scale_out: Tensor, zero_out: Tensor
) -> tuple[Tensor, Tensor]:
    codes, kept = _round(values, zero_in)
    return torch.addcmul(zero_out, F.gelu(codes.mul_(scale_in)), 1 / scale_out), kept


@fusible
def _gelu_backward(
    gradient: Tensor, kept: Tensor, zero_in: Tensor, scale_in: Tensor, scale_out: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    real = _codes(kept, zero_in).mul_(scale_in)
    by_scale_out = _dot(gradient, F.gelu(real)).div_(-scale_out.square())
    by_real = torch.ops.aten.gelu_backward(gradient, real)
    # By scale_in: the codes are real / scale_in.
    by_scale_in = _dot(by_real, real).div_(scale_in * scale_out)
    return _masked(by_real.mul_(scale_in / scale_out), kept), by_scale_in, by_scale_out


def _dot(x: Tensor, y: Tensor) -> Tensor:
    return torch.dot(x.reshape(-1), y.reshape(-1))


class _Gelu(torch.autograd.Function):
    """Computes ``GELU(scale_in * _Codes(values, zero_in)) / scale_out + zero_out``, and keeps two bytes a value."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, zero_in: Tensor, scale_in: Tensor, scale_out: Tensor, zero_out: Tensor
    ) -> Tensor:
        out, kept = _gelu_forward(values, zero_in, scale_in, scale_out, zero_out)
        ctx.save_for_backward(kept, zero_in, scale_in, scale_out)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, Tensor, Tensor, None]:
        by_values, by_scale_in, by_scale_out = _gelu_backward(gradient, *ctx.saved_tensors)
        return by_values, None, by_scale_in, by_scale_out, None


class _Round(torch.autograd.Function):
    """Computes ``clamp(round_half_up(x / scale), low, high)``, straight through inside, no gradient outside.

    For matrices: x [rows, columns], the others [rows, 1].
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
        by_scale = (by_x * x).sum(dim=1, keepdim=True)
        return by_x, by_scale.div_(scale).neg_(), None, None


def ste_codes(x: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Returns the codes of x [rows, columns], straight through between `low` and `high`; the others are [rows, 1]."""
    codes: Tensor = _Round.apply(x, scale, low, high)
    return codes


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


def powers_of_two(device: torch.device) -> Tensor:
    """Returns `POWERS` on the device."""
    if device not in POWERS:
        POWERS[device] = POWERS[torch.device("cpu")].to(device)
    return POWERS[device]


@fusible
def _powers_of(logits: Tensor, factor: Tensor, powers: Tensor) -> tuple[Tensor, ...]:
    """Returns e8, e12 as int16, and of each row the largest logit, the sum of e12, and L."""
    largest = logits.amax(dim=-1, keepdim=True)
    steps = (largest - logits).mul_(factor).add_(0.5).floor_()
    # index_select is many times quicker than indexing here.
    index = steps.clamp_(max=len(powers) - 1).to(torch.int32)
    e12 = powers.index_select(0, index.flatten()).view_as(steps)
    total, e8 = e12.sum(dim=-1, keepdim=True), _e8(e12)
    return e8, e12.to(torch.int16), largest, total, total - 16 * e8.sum(dim=-1, keepdim=True)


@fusible
def _by_steps(by_e12: Tensor, each: Tensor, kept: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradient by the steps over -ln(2)/64, its sums of rows, and e8."""
    e12 = kept.to(by_e12.dtype)
    by_steps = (by_e12 - each).mul_(e12)
    return by_steps, by_steps.sum(dim=-1, keepdim=True), _e8(e12)


def _e8(e12: Tensor) -> Tensor:
    return (e12 + 8).mul_(1 / 16).floor_()


class _Attention(torch.autograd.Function):
    """Computes attention in the integer model's steps; backward, the base-2 softmax, straight through roundings.

    Codes are kept in bfloat16 and powers, at most 4096, in int16: two bytes each, and exact.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mult: Tensor, gain: Tensor) -> Tensor:
        factor = torch.floor(mult + 0.5).clamp_(1, 2**24).view(-1, 1, 1) * 2.0**-20
        e8, kept, largest, total, rounding_residue = _powers_of(
            q @ k.transpose(-1, -2), factor, powers_of_two(q.device)
        )
        share = gain.view(-1, 1, 1) / total
        out = (e8 @ v).mul_(16).add_(rounding_residue * v.mean(dim=-2, keepdim=True)).mul_(share)
        codes = (x.to(torch.bfloat16) for x in (q, k, v))
        ctx.save_for_backward(*codes, factor, kept, largest, share, rounding_residue, gain, out)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        *codes, factor, kept, largest, share, rounding_residue, gain, out = ctx.saved_tensors
        q, k, v = (x.to(gradient.dtype) for x in codes)
        each = (gradient * out).sum(dim=-1, keepdim=True)
        by_gain = each.sum(dim=(0, 2, 3)) / gain
        gradient = gradient * share
        by_steps, sums, e8 = _by_steps(
            gradient @ v.transpose(-1, -2), each * (share / gain.view(-1, 1, 1)), kept
        )
        by_v = (e8.transpose(-1, -2) @ gradient).mul_(16)
        by_v += (rounding_residue * gradient).mean(dim=-2, keepdim=True)
        rate = math.log(2) / 64
        by_q = by_steps @ (k * (factor * rate))
        by_k = by_steps.transpose(-1, -2) @ (q * (factor * rate))
        # The steps are (largest - logits) * factor, the logits q @ k.
        by_factor = (by_q * q).sum(dim=(0, 2, 3)) / factor.view(-1)
        by_factor -= (sums * largest).sum(dim=(0, 2, 3)) * rate
        return by_q, by_k, by_v, by_factor * 2.0**-20, by_gain


def attention(q: Tensor, k: Tensor, v: Tensor, mult: Tensor, gain: Tensor | None = None) -> Tensor:
    """Computes attention on codes (section Attention up to the division, which is exact here).

    Args:
        q, k, v: codes float32 [batch, heads, tokens, head_dim].
        mult: [heads], ``2^20 * s_q * s_k / sqrt(head_dim) * log2(e) * 64``, rounded here.
        gain: [heads], the real value of v's code; without it 1.
    """
    # In float32 under autocast too: bfloat16 would round the logits, of up to 21 bits, to 8.
    with torch.autocast(q.device.type, enabled=False):
        out: Tensor = _Attention.apply(q, k, v, mult, torch.ones_like(mult) if gain is None else gain)
    return out
