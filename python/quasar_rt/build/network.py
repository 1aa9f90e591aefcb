"""From a float network and its ranges to a :class:`~quasar_rt.Subnet`: the arithmetic of every exporter.

Whoever has trained or calibrated a Vision Transformer describes it as a :class:`NetworkSpec` (NumPy arrays, float
ranges, a width for each weight row) and calls :func:`build_subnet`. The rules are those of ``docs/integer-model.md``.
NumPy and the native quantizer only: no torch here, so that a board can build random subnets for benchmarks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..rows import pack_rows, quantize_rows
from ..space import eight_bit_rows
from ..subnet import Subnet

Float = NDArray[np.float64]
Int = NDArray[np.int64]

#: A row's accumulator, input worst case, stays below this (docs: Linear, Width).
ACCUMULATOR_LIMIT = 2**26
#: The largest real multiplier of requantization is just under this, in residual units (docs: Requantize, Range).
MULTIPLIER_LIMIT = 8.0
#: A bias alone never takes more than this of the accumulator.
BIAS_LIMIT = 2**24
#: s_v / s_o stays below this (docs: Attention, out_shift >= 11).
ATTENTION_GAIN_LIMIT = 16.0


@dataclass
class Affine:
    """A stored s8 activation: ``real = scale * (code - zero_point)``."""

    scale: float
    zero_point: int = 0

    @classmethod
    def from_range(cls, low: float, high: float) -> Affine:
        """The grid that covers [low, high] with 256 codes and holds 0 exactly."""
        low, high = min(float(low), 0.0), max(float(high), 0.0)
        scale = max((high - low) / 255, 1e-12)
        return cls(scale, int(np.clip(round(-128 - low / scale), -128, 127)))


@dataclass
class LinearSpec:
    """A linear layer: weight float [rows, columns], bias float [rows], bits uint8 [rows] (4 or 8).

    `scales` float [rows] are the rows' steps where training has learned them; None lets ``quantize_rows`` choose.
    """

    weight: NDArray[Any]
    bias: NDArray[Any]
    bits: NDArray[np.uint8]
    scales: NDArray[Any] | None = None


@dataclass
class NormSpec:
    """A LayerNorm: gamma and beta float [embed]."""

    gamma: NDArray[Any]
    beta: NDArray[Any]
    eps: float = 1e-6


def gelu(x: Float) -> Float:
    """Exact GELU, ``x * Phi(x)``."""
    erf: Float = np.vectorize(math.erf)(x / math.sqrt(2.0))
    return x * 0.5 * (1.0 + erf)


@dataclass
class BlockSpec:
    """One transformer block. Layer scale, where the network has it, is already multiplied into proj and fc2."""

    heads: int
    head_dim: int
    norm1: NormSpec
    qkv: LinearSpec
    proj: LinearSpec
    norm2: NormSpec
    fc1: LinearSpec
    fc2: LinearSpec
    norm1_out: Affine
    q_scale: ArrayLike
    k_scale: ArrayLike
    v_scale: ArrayLike
    attn_out: float
    norm2_out: Affine
    fc1_out: Affine
    act_out: Affine
    activation: Callable[[Float], Float] = gelu


@dataclass
class NetworkSpec:
    """A float Vision Transformer with everything that quantizing it needs.

    `embed` acts on normalised pixels ``(pixel/255 - mean) / std``, columns ordered (channel, ky, kx); its `scales`,
    where given, are the steps of its rows divided by ``255 * std``, which act on the pixel itself. `position` is float
    [grid, embed], `prefix` float [prefix tokens, embed] with any position already added; `residual_scale` is the step
    of the int16 residual stream.
    """

    name: str
    height: int
    width: int
    channels: int
    mean: ArrayLike
    std: ArrayLike
    kernel: int
    stride: int
    pad: int
    pad_value: int
    embed: LinearSpec
    position: NDArray[Any]
    prefix: NDArray[Any]
    residual_scale: float
    blocks: list[BlockSpec]
    pool: str
    norm: NormSpec
    norm_out: Affine
    head: LinearSpec
    classes: list[str]
    preprocess: dict[str, Any] = field(default_factory=lambda: {"resize": {"mode": "none"}})
    trained: bool = False
    provenance: dict[str, Any] = field(default_factory=dict)


@dataclass
class _Quantized:
    """A linear layer in integers, its requantization still open."""

    data: NDArray[np.uint8]
    bits: NDArray[np.uint8]
    bias: Int
    step: Float  # real value of one accumulator unit, per row

    def tensors(self, name: str) -> dict[str, NDArray[Any]]:
        return {
            f"{name}.bits": self.bits,
            f"{name}.weight": self.data,
            f"{name}.bias": self.bias.astype(np.int32),
        }

    def requantized(self, name: str, out_scale: ArrayLike, fraction: int) -> dict[str, NDArray[Any]]:
        mult, shift = requantizer(self.step / np.asarray(out_scale) * fraction)
        return {**self.tensors(name), f"{name}.mult": mult, f"{name}.shift": shift}


def requantizer(multiplier: ArrayLike) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Mantissas and shifts whose ``M * 2^(-p-11)`` is nearest to each real multiplier.

    Args:
        multiplier: float [rows], each in [0, 8); what is too small for any accumulator to matter becomes a dead row.

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
    fraction, exponent = np.frexp(m)  # m = fraction * 2^exponent, fraction in [1/2, 1)
    mult = np.floor(fraction * 2**15 + 0.5).astype(np.int64)
    shift = 4 - exponent.astype(np.int64)
    carry = mult == 2**15
    mult, shift = np.where(carry, 2**14, mult), np.where(carry, shift - 1, shift)
    mult, shift = np.where(shift < 1, 2**15 - 1, mult), np.maximum(shift, 1)
    dead = (m == 0) | (shift > 30)
    return np.where(dead, 0, mult).astype(np.int16), np.where(dead, 30, shift).astype(np.uint8)


def _quantize(
    spec: LinearSpec, in_scale: float, zero_point: int, bias: Callable[[Float], Float] | None = None
) -> _Quantized:
    """Quantize the rows, fold the input's zero point into the bias and keep every row inside the accumulator bound.

    `bias` maps the dequantized weights to the real bias, for the patch embedding whose bias depends on them.
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
    # A dead row still has a bias, and only the row's scale says how finely it is held.
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
            return _Quantized(pack_rows(codes.astype(np.int8), bits), bits, folded, step)
        scales = np.where(over, scales * 1.05, scales).astype(np.float32).astype(np.float64)


def norm_tensors(name: str, spec: NormSpec, out: Affine, residual_scale: float) -> dict[str, NDArray[Any]]:
    """The integer form of a LayerNorm on a residual stream of this step, its output stored as `out`.

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


def norm_out_range(spec: NormSpec, out: Affine) -> Affine:
    """`out`, coarsened where a gain would not fit 16 bits even without fractional bits."""
    return Affine(float(_at_least(out.scale, np.abs(spec.gamma).max() * 64, 32767)), out.zero_point)


def _attention(spec: BlockSpec, q: Float, k: Float, v: Float, out: float) -> dict[str, NDArray[Any]]:
    mult = np.floor(2.0**20 * 64 * math.log2(math.e) * q * k / math.sqrt(spec.head_dim) + 0.5)
    fraction, exponent = np.frexp(v / out)
    out_mult = np.floor(fraction * 2**15 + 0.5).astype(np.int64)
    out_shift = 15 - exponent.astype(np.int64)
    carry = out_mult == 2**15
    out_mult, out_shift = np.where(carry, 2**14, out_mult), np.where(carry, out_shift - 1, out_shift)
    return {
        "mult": np.clip(mult, 1, 2**24).astype(np.int32),
        "out_mult": out_mult.astype(np.int16),
        "out_shift": np.clip(out_shift, 11, 29).astype(np.uint8),
    }


def _at_least(scale: ArrayLike, multiplier: Float, limit: float) -> Float:
    """`scale`, coarsened where ``multiplier / scale`` would reach `limit`."""
    coarse: Float = np.maximum(np.asarray(scale, np.float64), multiplier / limit * (1 + 1e-9))
    return coarse


def activation_table(activation: Callable[[Float], Float], source: Affine, out: Affine) -> NDArray[np.int8]:
    """The 256-entry table from fc1's codes (index code + 128) to the activation's codes."""
    real: Float = source.scale * (np.arange(-128, 128, dtype=np.float64) - source.zero_point)
    codes: Float = np.floor(activation(real) / out.scale + 0.5) + out.zero_point
    return codes.clip(-128, 127).astype(np.int8)


def _residual_table(values: ArrayLike, scale: float) -> NDArray[np.int16]:
    return np.clip(np.floor(np.asarray(values, np.float64) / scale + 0.5), -32767, 32767).astype(np.int16)


def build_subnet(spec: NetworkSpec) -> Subnet:
    """Quantize a float network into a subnet.

    Output scales that are too fine for the model's multipliers (docs: Requantize, Range) are made just coarse enough.

    Raises:
        quasar_rt.QuasarError: weights that are not finite, or shapes that do not fit together.
        ValueError: a LayerNorm whose gain or eps the integer form cannot hold.
    """
    mean, std = (np.asarray(a, np.float64) for a in (spec.mean, spec.std))
    per_channel = spec.kernel * spec.kernel
    pixel_step = np.repeat(1 / (255 * std), per_channel)
    pixel_mean = np.repeat(255 * mean, per_channel)
    stem_bias = np.asarray(spec.embed.bias, np.float64)
    stem = _quantize(
        LinearSpec(
            np.asarray(spec.embed.weight, np.float64) * pixel_step,
            stem_bias,
            spec.embed.bits,
            spec.embed.scales,
        ),
        in_scale=1.0,
        zero_point=-128,
        bias=lambda weight: stem_bias - weight @ pixel_mean,
    )
    residual_scale = float(_at_least(spec.residual_scale, stem.step.max(), MULTIPLIER_LIMIT))

    tensors: dict[str, NDArray[Any]] = {}
    blocks = []
    residual: list[tuple[str, _Quantized]] = [("embed", stem)]
    norms: list[tuple[str, NormSpec, Affine]] = []
    for i, block in enumerate(spec.blocks):
        name = f"blocks.{i}"
        inner = block.heads * block.head_dim
        norm1_out = norm_out_range(block.norm1, block.norm1_out)
        norm2_out = norm_out_range(block.norm2, block.norm2_out)
        qkv = _quantize(block.qkv, norm1_out.scale, norm1_out.zero_point)
        largest = qkv.step.reshape(3, block.heads, block.head_dim).max(axis=2)
        q, k, v = (
            _at_least(np.broadcast_to(scale, (block.heads,)), largest[j] * 64, MULTIPLIER_LIMIT)
            for j, scale in enumerate((block.q_scale, block.k_scale, block.v_scale))
        )
        out_scale = np.repeat(np.concatenate([q, k, v]), block.head_dim)
        tensors |= qkv.requantized(f"{name}.qkv", out_scale, 64)
        attn_out = float(_at_least(block.attn_out, v.max(), ATTENTION_GAIN_LIMIT * (1 - 2**-15)))
        tensors |= {f"{name}.attn.{part}": a for part, a in _attention(block, q, k, v, attn_out).items()}
        proj = _quantize(block.proj, attn_out, 0)

        fc1 = _quantize(block.fc1, norm2_out.scale, norm2_out.zero_point)
        fc1_out = Affine(
            float(_at_least(block.fc1_out.scale, fc1.step.max() * 64, MULTIPLIER_LIMIT)),
            block.fc1_out.zero_point,
        )
        tensors |= fc1.requantized(f"{name}.fc1", fc1_out.scale, 64)
        tensors[f"{name}.gelu"] = activation_table(block.activation, fc1_out, block.act_out)
        fc2 = _quantize(block.fc2, block.act_out.scale, block.act_out.zero_point)

        residual += [(f"{name}.proj", proj), (f"{name}.fc2", fc2)]
        norms += [
            (f"{name}.norm1", block.norm1, norm1_out),
            (f"{name}.norm2", block.norm2, norm2_out),
        ]
        residual_scale = float(
            _at_least(residual_scale, max(proj.step.max(), fc2.step.max()), MULTIPLIER_LIMIT)
        )
        blocks.append(
            {
                "heads": block.heads,
                "head_dim": block.head_dim,
                "hidden": len(np.asarray(block.fc1.bits)),
                "fc1_zero_point": fc1_out.zero_point,
            }
        )
        assert inner * 3 == len(out_scale)

    norm_out = norm_out_range(spec.norm, spec.norm_out)
    norms.append(("norm", spec.norm, norm_out))
    for name, layer in residual:
        tensors |= layer.requantized(name, residual_scale, 1)
    for name, norm, out in norms:
        tensors |= norm_tensors(name, norm, out, residual_scale)
    tensors["position"] = _residual_table(spec.position, residual_scale)
    prefix = np.asarray(spec.prefix, np.float64).reshape(-1, tensors["position"].shape[1])
    if len(prefix):
        tensors["prefix"] = _residual_table(prefix, residual_scale)

    head = _quantize(spec.head, norm_out.scale, norm_out.zero_point)
    widest = head.step.max()
    tensors |= head.tensors("head")
    tensors["head.mult"] = np.floor(head.step / widest * 32767 + 0.5).astype(np.int16)

    config = {
        "name": spec.name,
        "image": {"height": spec.height, "width": spec.width, "channels": spec.channels},
        "patch": {"kernel": spec.kernel, "stride": spec.stride, "pad": spec.pad, "pad_value": spec.pad_value},
        "embed": int(tensors["position"].shape[1]),
        "prefix_tokens": len(prefix),
        "blocks": blocks,
        "pool": spec.pool,
        "classes": list(spec.classes),
        "logit_scale": float(widest * 2**15 / 32767),
        "preprocess": spec.preprocess,
        "trained": spec.trained,
        "provenance": spec.provenance,
    }
    return Subnet.from_parts(config, tensors)


def _nearest(rows: int, fraction: float) -> int:
    return round(fraction * rows)


def random_subnet(
    *,
    embed: int = 192,
    depth: int = 12,
    heads: int | Sequence[int] = 3,
    head_dim: int | Sequence[int] | None = None,
    hidden: int | Sequence[int] | None = None,
    image_size: int | tuple[int, int] = 224,
    channels: int = 3,
    kernel: int = 16,
    stride: int | None = None,
    pad: int = 0,
    prefix_tokens: int = 1,
    pool: str = "token",
    classes: int = 1000,
    eight_bit_fraction: float | Sequence[Sequence[float]] = 0.25,
    seed: int = 0,
    name: str = "random",
    provenance: Mapping[str, Any] | None = None,
) -> Subnet:
    """A subnet of any shape with seeded random weights, for benchmarks and tests. It is marked untrained.

    Args:
        embed, depth, kernel, stride, pad, prefix_tokens, pool, classes: the shape; `stride` defaults to `kernel`.
        heads, head_dim, hidden: one number, or one for each block; `head_dim` defaults to ``embed // heads`` of the
            first block, `hidden` to ``4 * embed``.
        image_size: pixels, an edge or (height, width).
        channels: 1 or 3.
        eight_bit_fraction: the share of 8-bit rows in each block's matrices (the nearest number of rows), or for each
            block those of its qkv, proj, fc1 and fc2, as an architecture has them (`quasar_rt.space.eight_bit_rows`: no
            row pair is left half empty). Patch embedding and head are all 8-bit.
        seed: everything random is drawn from ``numpy.random.default_rng(seed)``.
        provenance: for the subnet's configuration, beside the generator's name and the seed.

    Raises:
        quasar_rt.QuasarError: a shape that the integer model does not allow.
        ValueError: a list that does not have one entry for each block, a fraction outside [0, 1].

    >>> random_subnet(embed=32, depth=1, heads=2, image_size=32, classes=10).config["embed"]
    32
    """
    count: Callable[[int, float], int] = eight_bit_rows
    if isinstance(eight_bit_fraction, (int, float)):
        count = _nearest
        fractions = [[float(eight_bit_fraction)] * 4] * depth
    else:
        fractions = [[float(fraction) for fraction in block] for block in eight_bit_fraction]
    if len(fractions) != depth or any(len(block) != 4 for block in fractions):
        raise ValueError(f"eight_bit_fraction needs four shares for each of the {depth} blocks")
    if not all(0 <= fraction <= 1 for block in fractions for fraction in block):
        raise ValueError(f"eight_bit_fraction must be in [0, 1], not {eight_bit_fraction}")
    rng = np.random.default_rng(seed)
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    stride = kernel if stride is None else stride
    hidden = 4 * embed if hidden is None else hidden
    first = heads if isinstance(heads, int) else next(iter(heads), 1)
    head_dim = embed // first if head_dim is None else head_dim
    sizes = [
        [value] * depth if isinstance(value, int) else list(value) for value in (heads, head_dim, hidden)
    ]
    if any(len(values) != depth for values in sizes):
        raise ValueError(f"heads, head_dim and hidden need one entry for each of the {depth} blocks")
    if stride < 1 or kernel < 1 or min(height, width) + 2 * pad < kernel:
        raise ValueError(
            f"a {kernel}x{kernel} patch with stride {stride} does not fit a {height}x{width} image"
        )
    grid = ((height + 2 * pad - kernel) // stride + 1) * ((width + 2 * pad - kernel) // stride + 1)
    tokens = grid + prefix_tokens

    def linear(rows: int, columns: int, fraction: float) -> LinearSpec:
        bits = np.full(rows, 4, np.uint8)
        bits[rng.permutation(rows)[: count(rows, fraction)]] = 8
        weight = rng.standard_normal((rows, columns)) * (1 / math.sqrt(columns))
        return LinearSpec(weight, 0.1 * rng.standard_normal(rows), bits)

    def norm() -> NormSpec:
        return NormSpec(1 + 0.1 * rng.standard_normal(embed), 0.1 * rng.standard_normal(embed))

    blocks = []
    for n_heads, dim, n_hidden, (qkv, proj, fc1, fc2) in zip(*sizes, fractions, strict=True):
        inner = n_heads * dim
        blocks.append(
            BlockSpec(
                heads=n_heads,
                head_dim=dim,
                norm1=norm(),
                qkv=linear(3 * inner, embed, qkv),
                proj=linear(embed, inner, proj),
                norm2=norm(),
                fc1=linear(n_hidden, embed, fc1),
                fc2=linear(embed, n_hidden, fc2),
                norm1_out=Affine(4 / 127),
                q_scale=4 / 127,
                k_scale=4 / 127,
                v_scale=4 / 127,
                attn_out=min(4.0, max(7 / math.sqrt(tokens), 4 / 12)) / 127,
                norm2_out=Affine(4 / 127),
                fc1_out=Affine.from_range(-3, 4),
                act_out=Affine.from_range(-0.17, 4),
            )
        )
    return build_subnet(
        NetworkSpec(
            name=name,
            height=height,
            width=width,
            channels=channels,
            mean=[0.5] * channels,
            std=[0.25] * channels,
            kernel=kernel,
            stride=stride,
            pad=pad,
            pad_value=0,
            embed=linear(embed, channels * kernel * kernel, fraction=1.0),
            position=0.2 * rng.standard_normal((grid, embed)),
            prefix=rng.standard_normal((prefix_tokens, embed)),
            residual_scale=6 * math.sqrt(1 + depth) / 32767,
            blocks=blocks,
            pool=pool,
            norm=norm(),
            norm_out=Affine(4 / 127),
            head=linear(classes, embed, fraction=1.0),
            classes=[f"class {i}" for i in range(classes)],
            preprocess={"resize": {"mode": "exact", "size": [height, width], "filter": "bicubic"}},
            provenance={"generator": "random_subnet", "seed": seed, **(provenance or {})},
        )
    )
