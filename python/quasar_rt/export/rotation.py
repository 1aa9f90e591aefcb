"""Rotates the bases in which a float network's activations are stored; its function stays the same.

A random orthogonal matrix spreads a channel of large values over all channels, so one scale serves them all better, and
it evens out the rows of the weights. QuaRot (arXiv 2404.00456) folds it into the matrices on both sides, so it costs
nothing at run time. The hidden layer keeps its basis, because an activation function acts on each channel alone.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .float_vit import Linear, Norm, ViT
from .team import Team

__all__ = ["orthogonal", "rotate", "rotate_heads", "rotate_stream", "stream_obstacle"]


def rotate(net: ViT, embedding: bool) -> str:
    """Rotates what can be rotated, on one thread of torch for the same bits; returns a record of it.

    With an `embedding`, a projection brings that back from the basis of the residual stream. A block that pools reads
    the rotated stream; its own keeps its basis.
    """
    with Team():
        rotate_heads(net)
        if obstacle := stream_obstacle(net, embedding):
            return f"heads, not the residual stream: {obstacle}"
        if embedding and not net.blocks[-1].pools:
            size = len(net.norm.gamma)
            net.projection = Linear(torch.eye(size), torch.zeros(size))
        rotate_stream(net)
        return "heads and residual stream"


def stream_obstacle(net: ViT, embedding: bool) -> str | None:
    """Returns why the residual stream must keep its basis; None if it may be rotated."""
    if embedding and not net.blocks[-1].pools and (len(net.head.weight) or net.pool == "token_pair"):
        return "the embedding beside classes, or of two tokens, has its basis"
    return "its patches are normalised in their own basis" if net.norm_pre is not None else None


def rotate_stream(net: ViT, seed: int = 0) -> None:
    """Rotates the residual stream; `stream_obstacle` must have found none.

    A LayerNorm takes the mean of its channels out, and a rotation that keeps the vector of ones apart does not mix the
    mean into the rest. So the mean leaves all that writes to the stream, and ``LN(Q x) = Q LN(x)`` once gains and
    offsets are part of the matrices behind.
    """
    net.cast(torch.float64)
    writers, readers = [net.embed], []
    if not net.blocks[-1].pools:
        readers += [*net.heads().values(), *([] if net.projection is None else [net.projection])]
        _fold(net.norm, *readers)
    for block in net.blocks:
        _fold(block.norm1, block.qkv)
        if block.pools:
            readers.append(block.qkv)
            break
        _fold(block.norm2, block.fc1)
        writers += [block.proj, block.fc2]
        readers += [block.qkv, block.fc1]
    size = len(net.embed.weight)
    basis = _without_mean(size, seed)
    for layer in writers:
        layer.weight, layer.bias = basis @ layer.weight, basis @ layer.bias
    net.position, net.prefix = net.position @ basis.T, net.prefix @ basis.T
    for layer in readers:
        layer.weight = layer.weight @ basis.T
    net.cast(torch.float32)


def rotate_heads(net: ViT, seed: int = 0) -> None:
    """Rotates q and k of each head by one matrix, v by another one, whose inverse goes into proj.

    Rotary positions have their own basis of q and k, which stays.
    """
    net.cast(torch.float64)
    rng = np.random.default_rng([seed, 1])
    for block in net.blocks:
        turns = [
            torch.block_diag(*(orthogonal(block.head_dim, rng) for _ in range(block.heads))) for _ in range(2)
        ]
        if block.turns is not None:
            turns[0] = torch.eye(len(turns[0]), dtype=torch.float64)
        rows = torch.block_diag(turns[0], turns[0], turns[1])
        block.qkv.weight, block.qkv.bias = rows @ block.qkv.weight, rows @ block.qkv.bias
        block.proj.weight = block.proj.weight @ turns[1].T
    net.cast(torch.float32)


def orthogonal(size: int, rng: np.random.Generator) -> Tensor:
    """Draws an orthogonal matrix, float64 [size, size], uniformly."""
    factor, triangle = torch.linalg.qr(torch.from_numpy(rng.standard_normal((size, size))))
    # The signs make the factor unique.
    return factor * triangle.diagonal().sign()


def _without_mean(size: int, seed: int) -> Tensor:
    """Returns the matrix [size, size] that takes the mean out and rotates what is left."""
    # Its reflection exchanges the first axis and the direction of the ones.
    normal = torch.full((size,), -(size**-0.5), dtype=torch.float64)
    normal[0] += 1
    reflection = torch.eye(size, dtype=torch.float64)
    if size > 1:
        reflection -= 2 * torch.outer(normal, normal) / normal.square().sum()
    inner = orthogonal(size - 1, np.random.default_rng([seed, 0]))
    return reflection[:, 1:] @ inner @ reflection[1:]


def _fold(norm: Norm, *layers: Linear) -> None:
    """Moves the gain and the offset of a LayerNorm into the layers that read it."""
    for layer in layers:
        layer.bias = layer.bias + layer.weight @ norm.beta
        layer.weight = layer.weight * norm.gamma
    norm.gamma, norm.beta = torch.ones_like(norm.gamma), torch.zeros_like(norm.beta)
