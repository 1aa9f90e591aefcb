"""The integer form of each part of a network: rows, requantization, LayerNorm, attention and tables.

The rules are those of ``docs/integer-model.md``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..rows import pack_rows, quantize_rows
from .spec import Affine, EmbedNormSpec, Float, LinearSpec, NormSpec

Int = NDArray[np.int64]
Tensors = dict[str, NDArray[Any]]

#: A row's accumulator, input worst case, stays below this (docs: Linear, Width).
ACCUMULATOR_LIMIT = 2**26
#: The largest real multiplier of requantization is just under this, in residual units (docs: Requantize, Range).
MULTIPLIER_LIMIT = 8.0
#: A bias alone never takes more than this of the accumulator.
BIAS_LIMIT = 2**24
#: s_v / s_o stays below this (docs: Attention, out_shift >= 11).
ATTENTION_GAIN_LIMIT = 16.0


@dataclass
class QuantizedLinear:
    """A linear layer in integers, without its requantization."""

    data: NDArray[np.uint8]
    bits: NDArray[np.uint8]
    bias: Int
    step: Float
    """Real value of one accumulator unit, float64 [rows]."""

    def tensors(self, name: str) -> Tensors:
        """Returns the tensors of the layer `name` without mantissas and shifts."""
        return {
            f"{name}.bits": self.bits,
            f"{name}.weight": self.data,
            f"{name}.bias": self.bias.astype(np.int32),
        }

    def requantized(self, name: str, out_scale: ArrayLike, fraction: int) -> Tensors:
        """Returns all tensors of the layer `name`, its output in units of ``out_scale / fraction``."""
        mult, shift = requantizer(self.step / np.asarray(out_scale) * fraction)
        return {**self.tensors(name), f"{name}.mult": mult, f"{name}.shift": shift}


def requantizer(multiplier: ArrayLike) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Returns the mantissas M and shifts p whose ``M * 2^(-p-11)`` is nearest to each real multiplier.

    Args:
        multiplier: float [rows], each in [0, 8). A multiplier too small to move any accumulator becomes 0.

    Returns:
        int16 [rows] in {0} or [2^14, 2^15), uint8 [rows] in [1, 30].

    Raises:
        ValueError: a multiplier of 8 or more, or not finite.
    """
    m = np.atleast_1d(np.asarray(multiplier, np.float64))
    if not np.all(np.isfinite(m)) or m.min(initial=0) < 0 or m.max(initial=0) >= MULTIPLIER_LIMIT:
        raise ValueError(
            f"a requantization multiplier is outside [0, {MULTIPLIER_LIMIT}): make the output scale coarser"
        )
    mult, exponent = _mantissa(m)
    shift = 4 - exponent
    mult, shift = np.where(shift < 1, 2**15 - 1, mult), np.maximum(shift, 1)
    dead = (m == 0) | (shift > 30)
    return np.where(dead, 0, mult).astype(np.int16), np.where(dead, 30, shift).astype(np.uint8)


def _mantissa(values: Float) -> tuple[Int, Int]:
    """Splits positive values into ``mult * 2^(exponent - 15)``, mult in [2^14, 2^15)."""
    fraction, exponent = np.frexp(values)
    mult = np.floor(fraction * 2**15 + 0.5).astype(np.int64)
    carry = mult == 2**15
    return np.where(carry, 2**14, mult), exponent.astype(np.int64) + carry


def quantize_linear(
    spec: LinearSpec, in_scale: float, zero_point: int, bias: Callable[[Float], Float] | None = None
) -> QuantizedLinear:
    """Quantizes the rows, folds the input's zero point into the bias and keeps every row inside the accumulator bound.

    `bias` maps the dequantized weights to the real bias. The patch embedding needs it: its bias depends on them.
    """
    weight = np.ascontiguousarray(spec.weight, np.float64)
    bits = np.ascontiguousarray(spec.bits, np.uint8)
    real_bias = np.asarray(spec.bias, np.float64)
    packed = quantize_rows(
        weight, bits, scales=None if spec.scales is None else np.asarray(spec.scales, np.float32)
    )
    scales = packed.scales.astype(np.float64)
    magnitude = np.abs(real_bias) if bias is None else np.abs(bias(weight))
    dead = ~weight.any(axis=1)
    # The scale of a dead row (all weights 0) sets the resolution of its bias.
    scales = np.where(dead, magnitude / (in_scale * 2**20), scales)
    scales = np.maximum(scales, magnitude / (in_scale * BIAS_LIMIT))
    scales = np.where(scales > 0, scales, 1.0).astype(np.float32).astype(np.float64)
    while True:
        packed = quantize_rows(weight, bits, scales=scales.astype(np.float32))
        codes = packed.unpack().astype(np.int64)
        if bias is not None:
            real_bias = bias(codes * scales[:, None])
        folded = np.floor(real_bias / (in_scale * scales) + 0.5).astype(np.int64) - zero_point * codes.sum(
            axis=1
        )
        over = 128 * np.abs(codes).sum(axis=1) + np.abs(folded) >= ACCUMULATOR_LIMIT
        if not over.any():
            step = np.where(dead & (real_bias == 0), 0.0, in_scale * scales)
            return QuantizedLinear(pack_rows(codes.astype(np.int8), bits), bits, folded, step)
        scales = np.where(over, scales * 1.05, scales).astype(np.float32).astype(np.float64)


def repeating_rows(name: str, columns: int, pool: str) -> Tensors:
    """Returns the rows that repeat the inputs of the head `name`, one for each column (docs: Head).

    Each head of a ``token_pair`` gives half of its inputs: the first rounds up, the second down.
    """
    of_pair = pool == "token_pair"
    bits = np.full(columns, 4, np.uint8)
    return {
        f"{name}.bits": bits,
        f"{name}.weight": pack_rows(np.eye(columns, dtype=np.int8), bits),
        f"{name}.bias": np.full(columns, -int(of_pair and name != "head"), np.int32),
        f"{name}.mult": np.full(columns, 2**14 if of_pair else 2**15 - 1, np.int16),
    }


def norm_tensors(name: str, spec: NormSpec, out: Affine, residual_scale: float) -> Tensors:
    """Returns the integer form of a LayerNorm that reads the residual stream and stores its output as `out`.

    Returns:
        ``NAME.gain`` and ``NAME.bias`` int16 [embed], ``NAME.frac`` uint8 [1], ``NAME.epsilon`` int64 [1].

    Raises:
        ValueError: a gain, an offset or an eps that the integer form cannot hold.
    """
    gamma, beta = (np.asarray(a, np.float64) for a in (spec.gamma, spec.beta))
    epsilon = max(1, round(len(gamma) ** 2 * spec.eps / residual_scale**2))
    if epsilon >= 2**50:
        raise ValueError(f"{name}: eps {spec.eps} is too large for a residual scale of {residual_scale}")
    if not (np.isfinite(gamma).all() and np.isfinite(beta).all()):
        raise ValueError(f"{name}: gamma and beta must be finite")
    for frac in range(8, -1, -1):
        gain = np.floor(gamma / out.scale * 2.0 ** (frac + 6) + 0.5)
        half = 2.0 ** (frac - 1) if frac else 0.0
        bias = np.floor(2.0**frac * (beta / out.scale + out.zero_point) + half + 0.5)
        if max(np.abs(gain).max(), np.abs(bias).max()) <= 32767:
            return {
                f"{name}.gain": gain.astype(np.int16),
                f"{name}.bias": bias.astype(np.int16),
                f"{name}.frac": np.array([frac], np.uint8),
                f"{name}.epsilon": np.array([epsilon], np.int64),
            }
    raise ValueError(f"{name}: beta is too large for an output scale of {out.scale}: make it coarser")


def embed_norm_tensors(spec: EmbedNormSpec) -> tuple[Tensors, QuantizedLinear]:
    """Returns the integer form of the norm of the embedded patches, and the layer behind it, without requantization.

    Each channel's codes have a grid of their own. The layer, a diagonal of 8-bit codes, brings them to one scale.
    """
    gamma, beta = (np.asarray(a, np.float64) for a in (spec.norm.gamma, spec.norm.beta))
    low, high = (np.asarray(a, np.float64) for a in (spec.low, spec.high))
    # A grid fine enough for its channel, but its gain fits 16 bits and its offset the accumulator.
    largest = np.maximum(np.abs(low), np.abs(high))
    grids = np.maximum((high - low) / 255, 1e-12)
    grids = np.maximum(grids, np.maximum(largest / 2**18, np.abs(gamma) * 64 / 32767 * (1 + 1e-9)))
    zero_points = -128 - low / grids
    scaled = NormSpec(gamma / grids, beta / grids + zero_points, spec.norm.eps)
    tensors = norm_tensors("embed_norm", scaled, Affine(1.0), spec.scale)
    codes = np.eye(len(grids), dtype=np.int8) * np.int8(127)
    bits = np.full(len(grids), 8, np.uint8)
    bias = np.floor(-127 * zero_points + 0.5).astype(np.int64)
    return tensors, QuantizedLinear(pack_rows(codes, bits), bits, bias, grids / 127)


def norm_out_range(spec: NormSpec, out: Affine) -> Affine:
    """Returns `out`, coarsened where a gain would not fit 16 bits even without fractional bits."""
    return Affine(float(at_least(out.scale, np.abs(spec.gamma).max() * 64, 32767)), out.zero_point)


def unnormalised(spec: NormSpec, step: float) -> NormSpec:
    """Returns the norm whose gain and offset apply to int16 values of a step as they are (docs: Pooling)."""
    return NormSpec(np.asarray(spec.gamma, np.float64) * step * 512, spec.beta, 0.0)


def attention_tensors(name: str, head_dim: int, q: Float, k: Float, v: Float, out: float) -> Tensors:
    """Returns the factors of the attention heads of the block `name`, from the scales of q, k, v and the output."""
    mult = np.floor(2.0**20 * 64 * math.log2(math.e) * q * k / math.sqrt(head_dim) + 0.5)
    out_mult, exponent = _mantissa(v / out)
    return {
        f"{name}.attn.mult": np.clip(mult, 1, 2**24).astype(np.int32),
        f"{name}.attn.out_mult": out_mult.astype(np.int16),
        f"{name}.attn.out_shift": np.clip(15 - exponent, 11, 29).astype(np.uint8),
    }


def at_least(scale: ArrayLike, multiplier: ArrayLike, limit: float) -> Float:
    """Returns `scale`, coarsened where ``multiplier / scale`` would reach `limit`."""
    coarse: Float = np.maximum(np.asarray(scale, np.float64), np.asarray(multiplier) / limit * (1 + 1e-9))
    return coarse


def activation_table(activation: Callable[[Float], Float], source: Affine, out: Affine) -> NDArray[np.int8]:
    """Returns the table from fc1's codes (index code + 128) to the activation's codes, int8 [256]."""
    real: Float = source.scale * (np.arange(-128, 128, dtype=np.float64) - source.zero_point)
    codes: Float = np.floor(activation(real) / out.scale + 0.5) + out.zero_point
    return codes.clip(-128, 127).astype(np.int8)


def residual_table(values: ArrayLike, scale: float) -> NDArray[np.int16]:
    """Returns real values in units of the residual stream, int16, clamped."""
    return np.clip(np.floor(np.asarray(values, np.float64) / scale + 0.5), -32767, 32767).astype(np.int16)


def rotary_tensors(rows: ArrayLike, columns: ArrayLike) -> Tensors:
    """Returns cosines and sines of the angles of the grid's rows and columns, float [positions, pairs] each."""
    tensors = {}
    for axis, angles in (("rows", rows), ("columns", columns)):
        both = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
        tensors[f"rotary.{axis}"] = np.floor(2**14 * both + 0.5).astype(np.int16)
    return tensors
