"""Random subnets of any shape."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .._native import eight_bit_rows
from ..subnet import Subnet
from .network import build_subnet
from .spec import Affine, BlockSpec, EmbedNormSpec, Float, LinearSpec, NetworkSpec, NormSpec

__all__ = ["random_subnet"]


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
    embedding: bool = False,
    projected: int | None = None,
    embed_norm: bool = False,
    patch_tokens: bool = False,
    rotary: bool = False,
) -> Subnet:
    """Builds a subnet of any shape with seeded random weights, for benchmarks and tests. It is marked untrained.

    Args:
        embed, depth, kernel, stride, pad, prefix_tokens, pool, classes: the shape; `stride` defaults to `kernel`.
        heads, head_dim, hidden: one number, or one for each block; `head_dim` defaults to ``embed // heads`` of the
            first block, `hidden` to ``4 * embed``.
        image_size: pixels, an edge or (height, width).
        channels: 1 or 3.
        eight_bit_fraction: the share of 8-bit rows. One number holds for all matrices of all blocks, and the number of
            rows is rounded to the nearest. A sequence holds the shares of q, k, v, proj, fc1 and fc2 for each block
            (`quasar_rt.space.MATRICES`), and the number of rows is that of `quasar_rt.space.eight_bit_rows`. Patch
            embedding and head are all 8-bit.
        seed: the seed of ``numpy.random.default_rng``, the source of all random numbers.
        provenance: added to the generator's name and the seed in the subnet's configuration.
        embedding: true for a subnet that also gives the image's embedding; `classes` may be 0 then.
        projected: the values of the embedding, if it is a projection of the head's input.
        embed_norm: true for a LayerNorm of the embedded patches in front of the blocks.
        patch_tokens: true for a head that also reads the token of each patch.
        rotary: true for q and k that are rotated by random angles of the patches' positions.

    Raises:
        quasar_rt.QuasarError: a shape that the integer model does not allow.
        ValueError: a list that does not have one entry for each block, a fraction outside [0, 1].

    >>> random_subnet(embed=32, depth=1, heads=2, image_size=32, classes=10).config["embed"]
    32
    """
    fractions = _fractions(eight_bit_fraction, depth)
    random = _Random(
        seed, embed, _nearest if isinstance(eight_bit_fraction, (int, float)) else eight_bit_rows, rotary
    )
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    stride = kernel if stride is None else stride
    first = heads if isinstance(heads, int) else next(iter(heads), 1)
    given = (
        heads,
        embed // first if head_dim is None else head_dim,
        4 * embed if hidden is None else hidden,
    )
    sizes = [[value] * depth if isinstance(value, int) else list(value) for value in given]
    if any(len(values) != depth for values in sizes):
        raise ValueError(f"heads, head_dim and hidden need one entry for each of the {depth} blocks")
    if stride < 1 or kernel < 1 or min(height, width) + 2 * pad < kernel:
        raise ValueError(
            f"a {kernel}x{kernel} patch with stride {stride} does not fit a {height}x{width} image"
        )
    sides = [(side + 2 * pad - kernel) // stride + 1 for side in (height, width)]
    grid = sides[0] * sides[1]
    blocks = [
        random.block(*shape, tokens=grid + prefix_tokens) for shape in zip(*sizes, fractions, strict=True)
    ]
    if pool == "attention":
        # The query is the same for every image.
        blocks[-1].qkv.weight[: sizes[0][-1] * sizes[1][-1]] = 0
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
            embed=random.linear(embed, channels * kernel * kernel, 1.0),
            position=0.2 * random.rng.standard_normal((grid, embed)),
            prefix=random.rng.standard_normal((prefix_tokens, embed)),
            residual_scale=6 * math.sqrt(1 + depth) / 32767,
            blocks=blocks,
            pool=pool,
            norm=random.norm(),
            norm_out=Affine(4 / 127),
            head=random.linear(classes, embed, 1.0),
            head_dist=random.linear(classes, embed, 1.0) if pool == "token_pair" else None,
            classes=[f"class {i}" for i in range(classes)],
            preprocess={"resize": {"mode": "exact", "size": [height, width], "filter": "bicubic"}},
            provenance={"generator": "random_subnet", "seed": seed, **(provenance or {})},
            embedding=embedding,
            projection=None if projected is None else random.linear(projected, embed, 1.0),
            projection_out=None if projected is None else Affine(4 / 127, 3),
            embed_norm=random.embed_norm() if embed_norm else None,
            patch_tokens=patch_tokens,
            rotary=random.angles(sides[0], sides[1], sizes[1][0]) if rotary else None,
            pooled_scale=6 * math.sqrt(2) / 32767 if pool == "attention" else None,
        )
    )


def _fractions(given: float | Sequence[Sequence[float]], depth: int) -> list[list[float]]:
    """Returns the shares of 8-bit rows of each block: four of one number, or six that were given."""
    if isinstance(given, (int, float)):
        fractions = [[float(given)] * 4] * depth
    else:
        fractions = [[float(fraction) for fraction in block] for block in given]
        if len(fractions) != depth or any(len(block) != 6 for block in fractions):
            raise ValueError(f"eight_bit_fraction needs six shares for each of the {depth} blocks")
    if not all(0 <= fraction <= 1 for block in fractions for fraction in block):
        raise ValueError(f"eight_bit_fraction must be in [0, 1], not {given}")
    return fractions


def _nearest(rows: int, fraction: float) -> int:
    return round(fraction * rows)


class _Random:
    """Makes the parts of a network of seeded random numbers; `count` gives the 8-bit rows of a share."""

    def __init__(
        self, seed: int, embed: int, count: Callable[[int, float], int], rotary: bool = False
    ) -> None:
        self.rng, self.embed, self.count, self.rotary = np.random.default_rng(seed), embed, count, rotary

    def linear(self, rows: int, columns: int, *fractions: float, same: int = 1) -> LinearSpec:
        # A part of the rows for each fraction; `same` rows that follow each other have one width.
        bits = np.full((len(fractions), rows // len(fractions) // same), 4, np.uint8)
        for part, fraction in zip(bits, fractions, strict=True):
            part[self.rng.permutation(len(part))[: self.count(len(part), fraction)]] = 8
        weight = self.rng.standard_normal((rows, columns)) * (1 / math.sqrt(columns))
        return LinearSpec(weight, 0.1 * self.rng.standard_normal(rows), bits.flatten().repeat(same))

    def angles(self, rows: int, columns: int, head_dim: int) -> tuple[Float, Float]:
        low, high = self.rng.uniform(-math.pi, math.pi, (2, max(rows, columns), head_dim // 4))
        return low[:rows], high[:columns]

    def norm(self) -> NormSpec:
        gamma = 1 + 0.1 * self.rng.standard_normal(self.embed)
        return NormSpec(gamma, 0.1 * self.rng.standard_normal(self.embed))

    def embed_norm(self) -> EmbedNormSpec:
        part = self.norm()
        low, high = (part.beta + sign * 4 * np.abs(part.gamma) for sign in (-1, 1))
        return EmbedNormSpec(part, low, high, scale=6 / 32767)

    def block(
        self, heads: int, head_dim: int, hidden: int, fractions: Sequence[float], *, tokens: int
    ) -> BlockSpec:
        *qkv, proj, fc1, fc2 = fractions
        inner = heads * head_dim
        return BlockSpec(
            heads=heads,
            head_dim=head_dim,
            norm1=self.norm(),
            qkv=self.linear(3 * inner, self.embed, *qkv, same=1 + self.rotary),
            proj=self.linear(self.embed, inner, proj),
            norm2=self.norm(),
            fc1=self.linear(hidden, self.embed, fc1),
            fc2=self.linear(self.embed, hidden, fc2),
            norm1_out=Affine(4 / 127),
            q_scale=4 / 127,
            k_scale=4 / 127,
            v_scale=4 / 127,
            attn_out=min(4.0, max(7 / math.sqrt(tokens), 4 / 12)) / 127,
            norm2_out=Affine(4 / 127),
            fc1_out=Affine.from_range(-3, 4),
            act_out=Affine.from_range(-0.17, 4),
        )
