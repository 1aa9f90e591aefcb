"""A plain float Vision Transformer with the parts that the integer graph has, and its forward pass."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "Block",
    "Linear",
    "Norm",
    "Probe",
    "ViT",
    "forward",
    "patches_of",
    "scaled",
    "single_tokens",
    "turns_of",
]


@dataclass
class Linear:
    """A matrix [rows, columns] and its bias [rows]."""

    weight: Tensor
    bias: Tensor

    def cast(self, dtype: torch.dtype) -> None:
        """Converts both tensors."""
        self.weight, self.bias = self.weight.to(dtype), self.bias.to(dtype)


@dataclass
class Norm:
    """A LayerNorm: gamma and beta [embed]."""

    gamma: Tensor
    beta: Tensor
    eps: float

    def cast(self, dtype: torch.dtype) -> None:
        """Converts both tensors."""
        self.gamma, self.beta = self.gamma.to(dtype), self.beta.to(dtype)


@dataclass
class Block:
    """A transformer block. Layer scale is already multiplied into proj and fc2."""

    heads: int
    head_dim: int
    norm1: Norm
    qkv: Linear
    proj: Linear
    norm2: Norm
    fc1: Linear
    fc2: Linear
    activation: nn.Module
    turns: tuple[Tensor, Tensor] | None = None
    """Cosine and sine by which rows 2i and 2i+1 of a head of q and k are rotated, [tokens, head_dim / 2] each."""
    pools: bool = False
    """True for attention pooling: the block gives token 0 alone, whose stream starts at 0."""

    def rotated(self, x: Tensor) -> Tensor:
        """Rotates q or k [..., tokens, head_dim]."""
        if self.turns is None:
            return x
        even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
        c, s = (turn.to(x.device) for turn in self.turns)
        return torch.stack([even * c - odd * s, odd * c + even * s], dim=-1).flatten(-2)


@dataclass
class ViT:
    """A network; `position` is [grid, embed], `prefix` [prefix tokens, embed] with its position already added.

    A network without classes has a head of no rows. Images that need padding come padded. With the pooling
    ``token_pair``, `head` reads token 0 and `head_dist` token 1, and the logits are their sum. `norm_pre` normalises
    the patch tokens before the first block; `prefix` is as the first block reads it. With `patch_tokens` the head reads
    each of `single_tokens`. Without classes, `projection` makes the embedding of the head's input. `rotary` holds the
    angles of the grid's rows and of its columns, [positions, pairs], that the blocks' `turns` are made of. With the
    pooling ``attention`` the last block pools, and gain and offset of `norm` apply to its token as it is.
    """

    height: int
    width: int
    channels: int
    kernel: int
    stride: int
    embed: Linear
    position: Tensor
    prefix: Tensor
    blocks: list[Block]
    pool: str
    norm: Norm
    head: Linear
    head_dist: Linear | None = None
    norm_pre: Norm | None = None
    patch_tokens: bool = False
    projection: Linear | None = None
    rotary: tuple[Tensor, Tensor] | None = None

    def heads(self) -> dict[str, Linear]:
        """Returns the heads by name, that of token 0 first."""
        return {"head": self.head} | ({} if self.head_dist is None else {"head_dist": self.head_dist})

    def cast(self, dtype: torch.dtype) -> None:
        """Converts all tensors."""
        parts: list[Linear | Norm] = [self.embed, self.norm, *self.heads().values()]
        parts += [part for part in (self.norm_pre, self.projection) if part is not None]
        for block in self.blocks:
            parts += [block.qkv, block.proj, block.fc1, block.fc2, block.norm1, block.norm2]
        for part in parts:
            part.cast(dtype)
        self.position, self.prefix = self.position.to(dtype), self.prefix.to(dtype)
        if self.rotary is not None:
            turns = turns_of(self.rotary, len(self.prefix))
            for block in self.blocks:
                block.turns = turns[0].to(dtype), turns[1].to(dtype)


def turns_of(rotary: tuple[Tensor, Tensor], prefix: int) -> tuple[Tensor, Tensor]:
    """Returns cosine and sine of each token and pair, [tokens, pairs]; `prefix` tokens are not rotated."""
    rows, columns = rotary
    size = (len(rows), len(columns), -1)
    angles = torch.cat([rows[:, None].expand(size), columns[None].expand(size)], dim=-1).flatten(0, 1)
    angles = torch.cat([torch.zeros(prefix, angles.shape[1], dtype=angles.dtype), angles])
    return angles.cos(), angles.sin()


def patches_of(net: ViT, images: Tensor) -> Tensor:
    """Cuts images into patches [batch, grid, channels * kernel^2]."""
    return F.unfold(images, net.kernel, stride=net.stride).transpose(1, 2)


def single_tokens(net: ViT, x: Tensor) -> Tensor:
    """Returns the tokens of x [batch, tokens, embed] that heads read: the patches, before them the class token."""
    patches = x[:, len(net.prefix) :]
    return torch.cat([x[:, :1], patches], dim=1) if net.pool == "token" and len(net.prefix) else patches


#: Sees the name and value of each point whose range or gradient matters; returns the value to continue with.
Probe = Callable[[str, Tensor], Tensor]


def unprobed(_: str, value: Tensor) -> Tensor:
    """Looks at nothing."""
    return value


def forward(net: ViT, images: Tensor, probe: Probe) -> Tensor:
    """Computes the logits [batch, classes] of normalised images [batch, channels, height, width] in float.

    A network without classes gives the head's input, [batch, embed]; of a pair of tokens the mean. It is the
    embedding, or what `projection` reads. With `patch_tokens` it gives those of `single_tokens`, [batch, tokens,
    classes or embed].
    """
    x = _embedded(net, images, probe)
    for i, block in enumerate(net.blocks):
        x = _forward_block(block, x, probe, f"blocks.{i}")
    return _outputs(net, x, probe)


def _outputs(net: ViT, x: Tensor, probe: Probe) -> Tensor:
    """Computes `forward`'s result from the residual stream behind the last block."""
    patch_tokens = x[:, len(net.prefix) :]
    if net.pool == "token_pair":
        pair = _norm(probe, "norm", net.norm, x[:, :2])
        if not len(net.head.weight):
            return pair.mean(dim=1)
        heads = enumerate(net.heads().items())
        return torch.stack([_linear(probe, name, head, pair[:, i]) for i, (name, head) in heads]).sum(dim=0)
    if net.pool == "attention":
        pooled = probe("norm.out", scaled(net.norm, x[:, 0]))
    elif net.patch_tokens:
        pooled = _norm(probe, "norm", net.norm, single_tokens(net, x))
    elif net.pool == "token":
        pooled = _norm(probe, "norm", net.norm, x[:, 0])
    elif net.pool == "mean":
        pooled = _norm(probe, "norm", net.norm, patch_tokens.mean(dim=1))
    else:
        pooled = _norm(probe, "norm", net.norm, patch_tokens).mean(dim=1)
    if len(net.head.weight):
        return _linear(probe, "head", net.head, pooled)
    if net.projection is not None:
        _linear(probe, "projection", net.projection, pooled.detach())
    return pooled


def _embedded(net: ViT, images: Tensor, probe: Probe) -> Tensor:
    """Computes the residual stream in front of the first block [batch, tokens, embed]."""
    x = F.linear(patches_of(net, images), net.embed.weight, net.embed.bias) + net.position
    if net.norm_pre is not None:
        x = _norm(probe, "norm_pre", net.norm_pre, probe("embed_sum", x))
    return probe("residual", torch.cat([net.prefix.expand(len(x), -1, -1), x], dim=1))


def _forward_block(block: Block, x: Tensor, probe: Probe, name: str) -> Tensor:
    """Computes the residual stream behind a block."""
    batch, tokens, _ = x.shape
    y = _linear(probe, f"{name}.qkv", block.qkv, _norm(probe, f"{name}.norm1", block.norm1, x))
    q, k, v = y.reshape(batch, tokens, 3, block.heads, block.head_dim).permute(2, 0, 3, 1, 4)
    q, k = block.rotated(q), block.rotated(k)
    stream = "residual"
    if block.pools:
        stream, q, x = "pooled", q[:, :, :1], torch.zeros_like(x[:, :1])
    q, k, v = (probe(f"{name}.{part}", value) for part, value in (("q", q), ("k", k), ("v", v)))
    a = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(block.head_dim), dim=-1) @ v
    a = a.transpose(1, 2).flatten(2)
    x = probe(stream, x + _linear(probe, f"{name}.proj", block.proj, a))
    y = _linear(probe, f"{name}.fc1", block.fc1, _norm(probe, f"{name}.norm2", block.norm2, x))
    return probe(stream, x + _linear(probe, f"{name}.fc2", block.fc2, block.activation(y)))


def scaled(norm: Norm, x: Tensor) -> Tensor:
    """Applies gain and offset of a norm to values as they are."""
    return x * norm.gamma + norm.beta


def _norm(probe: Probe, name: str, part: Norm, x: Tensor) -> Tensor:
    return probe(f"{name}.out", F.layer_norm(x, (x.shape[-1],), part.gamma, part.beta, part.eps))


def _linear(probe: Probe, name: str, layer: Linear, x: Tensor) -> Tensor:
    return probe(f"{name}.out", F.linear(probe(f"{name}.in", x), layer.weight, layer.bias))
