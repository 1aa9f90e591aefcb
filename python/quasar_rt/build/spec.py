"""The description of a float Vision Transformer: matrices, ranges and a width for each weight row."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float64]


@dataclass
class Affine:
    """A stored s8 activation: ``real = scale * (code - zero_point)``."""

    scale: float
    zero_point: int = 0

    @classmethod
    def from_range(cls, low: float, high: float) -> Affine:
        """Returns the grid that covers [low, high] with 256 codes and holds 0 exactly."""
        low, high = min(float(low), 0.0), max(float(high), 0.0)
        scale = max((high - low) / 255, 1e-12)
        return cls(scale, int(np.clip(round(-128 - low / scale), -128, 127)))


@dataclass
class LinearSpec:
    """A linear layer: weight float [rows, columns], bias float [rows], bits uint8 [rows] (4 or 8).

    `scales`, float [rows], are the row scales that training has learned. If None, ``quantize_rows`` computes them.
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
    """Computes the exact GELU, ``x * Phi(x)``."""
    erf: Float = np.vectorize(math.erf)(x / math.sqrt(2.0))
    return x * 0.5 * (1.0 + erf)


@dataclass
class BlockSpec:
    """One transformer block. The weights of proj and fc2 contain the network's layer scale, if there is one."""

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
class EmbedNormSpec:
    """A LayerNorm of the embedded patches, whose output is the residual stream of the patch tokens.

    `scale` is the step of the int16 values that it reads. Each channel of its output has an s8 grid of its own, which
    covers `low` to `high`, float [embed].
    """

    norm: NormSpec
    low: NDArray[Any]
    high: NDArray[Any]
    scale: float


@dataclass
class NetworkSpec:
    """A float Vision Transformer with everything that quantizing it needs.

    `embed` acts on normalised pixels ``(pixel/255 - mean) / std``; its columns are ordered (channel, ky, kx). The
    `scales` of `embed`, if given, are the row scales divided by ``255 * std``, because they act on raw pixels.
    `position` is float [grid, embed]. `prefix` is float [prefix tokens, embed] and includes the positions.
    `residual_scale` is the step of the int16 residual stream. With `embedding`, the head also gives its own input, in
    codes of `norm_out`, or a `projection` of it, in codes of `projection_out`; only then may there be no classes. With
    the pooling ``token_pair``, `head` reads token 0 and
    `head_dist` token 1, and the logits are their sum. With `patch_tokens`, the head reads every token. With
    `embed_norm` the patch tokens are normalised before the first block; `prefix` is then as the first block reads it.
    `rotary` holds the angles that rows 2i and 2i+1 of each head of q and k are rotated by, float [grid rows or columns,
    head_dim / 4]: by the patch's row for the first pairs, by its column for the others. With the pooling ``attention``
    the last block pools. `pooled_scale` is the step of its token's residual stream, to which only gain and offset of
    `norm` are applied.
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
    embedding: bool = False
    projection: LinearSpec | None = None
    projection_out: Affine | None = None
    head_dist: LinearSpec | None = None
    embed_norm: EmbedNormSpec | None = None
    patch_tokens: bool = False
    rotary: tuple[NDArray[Any], NDArray[Any]] | None = None
    pooled_scale: float | None = None
