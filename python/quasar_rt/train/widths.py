"""Orders rows for 8 bits, and channels for small networks, by statistics of the float pass.

Depends on: torch, `quasar_rt.rows.bits`, `quasar_rt.train.model`.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..rows import bits
from ..rows.bits import Criterion, scores_by
from .block import Block
from .model import ViT

__all__ = ["MatrixStatistics", "gather_statistics", "order_by_importance", "rank_rows"]


@dataclass
class MatrixStatistics:
    """Statistics of a matrix: `inputs` E[x_j^2] [columns], `gradients` E[g_r^2] [rows] of the loss by its outputs."""

    inputs: Tensor
    gradients: Tensor


def gather_statistics(
    model: ViT, images: Tensor, labels: Tensor, batch: int = 250
) -> dict[str, MatrixStatistics]:
    """Gathers second moments of every matrix's inputs and output gradients, from the float pass over labelled images.

    It is the largest network's float pass, whatever part is active.
    """
    inputs: dict[str, list[Tensor]] = {name: [] for name in model.matrices()}
    gradients: dict[str, list[Tensor]] = {name: [] for name in model.matrices()}

    def mean_square(x: Tensor) -> Tensor:
        return x.detach().square().flatten(0, -2).mean(dim=0)

    def watch(name: str, layer: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def forward(_layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            inputs[name].append(mean_square(args[0]))
            output.register_hook(lambda gradient: gradients[name].append(mean_square(gradient)))

        return layer.register_forward_hook(forward)

    handles = [watch(name, layer) for name, layer in model.matrices().items()]
    active, device = model.active, model.prefix.device
    model.activate(None)
    try:
        for x, y in zip(images.split(batch), labels.split(batch), strict=True):
            # The sum, not the mean: each image's own gradient, whatever the batch.
            F.cross_entropy(model.float_logits(x.to(device)), y.to(device), reduction="sum").backward()
    finally:
        for handle in handles:
            handle.remove()
        model.zero_grad(set_to_none=True)
        model.activate(active)
    return {
        name: MatrixStatistics(torch.stack(inputs[name]).mean(0), torch.stack(gradients[name]).mean(0))
        for name in inputs
    }


def rank_rows(
    model: ViT,
    statistics: Mapping[str, MatrixStatistics],
    criterion: Criterion = "loss",
    seed: int = 0,
    start_steps: bool = True,
) -> None:
    """Ranks the rows of every matrix by `criterion`, and starts the 4-bit steps of all rows (if `start_steps`).

    Raises:
        quasar_rt.InvalidValueError: no such criterion.
    """
    ranks = {}
    for name, layer in model.matrices().items():
        s = statistics[name]
        weight, inputs, gradients = (x.detach().cpu().numpy() for x in (layer.weight, s.inputs, s.gradients))
        # A stream of its own for each matrix, whatever their order.
        stream = [seed, zlib.crc32(name.encode())]
        scores = scores_by(criterion, weight, inputs, gradients, seed=stream)
        ranks[name] = torch.from_numpy(bits.rank_rows(scores))
        if start_steps:
            layer.start_steps(s.inputs)
    model.set_row_ranks(ranks)


@torch.no_grad()
def order_by_importance(model: ViT, statistics: Mapping[str, MatrixStatistics]) -> None:
    """Permutes channels, and the heads and hidden units of each block, so that the most important ones come first.

    The largest network computes what it did, to float's rounding; smaller ones keep more of it. Importance is the loss,
    to second order, that leaving out a matrix's input costs: ``E[x_j^2] * sum_r E[g_r^2] * w_rj^2``; a channel sums it
    over the matrices that read it (qkv and fc1 of all blocks, head), a head over its columns of proj, a hidden unit is
    a column of fc2. Optimizers and averages that exist already know the old order: call this before making them.

    The statistics are put in the new order too.
    """
    matrices = model.matrices()

    def importance(name: str) -> Tensor:
        s = statistics[name]
        return s.inputs * (s.gradients @ matrices[name].weight.square())

    def order(importance: Tensor) -> Tensor:
        return importance.argsort(descending=True, stable=True)

    def rows(name: str, index: Tensor) -> None:
        layer, s = matrices[name], statistics[name]
        for x in (layer.weight, layer.bias, layer.log_step, layer.rank, s.gradients):
            x.copy_(x[index])

    def columns(name: str, index: Tensor) -> None:
        matrices[name].weight.copy_(matrices[name].weight[:, index])
        statistics[name].inputs.copy_(statistics[name].inputs[index])

    readers = ["head"]
    for i, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        name = f"blocks.{i}"
        heads, width = len(block.qkv_out.log_scale) // 3, block.head_dim
        best = order(importance(f"{name}.proj").view(heads, width).sum(dim=1))
        inside = (best.unsqueeze(1) * width + torch.arange(width, device=best.device)).flatten()
        rows(f"{name}.qkv", torch.cat([inside + part * heads * width for part in range(3)]))
        columns(f"{name}.proj", inside)
        scales = block.qkv_out.log_scale.view(3, heads)
        scales.copy_(scales[:, best])
        hidden = order(importance(f"{name}.fc2"))
        rows(f"{name}.fc1", hidden)
        columns(f"{name}.fc2", hidden)
        readers += [f"{name}.qkv", f"{name}.fc1"]

    channels = order(torch.stack([importance(name) for name in readers]).sum(dim=0))
    for name in readers:
        columns(name, channels)
    rows("embed", channels)
    vectors: list[Tensor | None] = [model.norm.weight, model.norm.bias]
    for i, block in enumerate(model.blocks):
        rows(f"blocks.{i}.proj", channels)
        rows(f"blocks.{i}.fc2", channels)
        vectors += [block.norm1.weight, block.norm1.bias, block.norm2.weight, block.norm2.bias]
        vectors += [block.gamma1, block.gamma2]
    for vector in vectors:
        if vector is not None:
            vector.copy_(vector[channels])
    for table in (model.position, model.prefix):
        table.copy_(table[:, channels])
    model.activate(model.active)
