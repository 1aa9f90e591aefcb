"""Which rows are 8-bit: the statistics that `quasar_rt.bits` scores rows by, gathered from the float pass.

Depends on: torch, `quasar_rt.bits`, `quasar_rt.train.model`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..bits import choose_bits, row_scores
from .model import ViT

__all__ = ["MatrixStatistics", "choose_widths", "gather_statistics"]


@dataclass
class MatrixStatistics:
    """Of one matrix: `inputs` E[x_j^2] [columns] and `gradients` E[g_r^2] [rows] of the loss by its outputs."""

    inputs: Tensor
    gradients: Tensor


def gather_statistics(
    model: ViT, images: Tensor, labels: Tensor, batch: int = 250
) -> dict[str, MatrixStatistics]:
    """Second moments of every matrix's inputs and output gradients, from the float pass over labelled images."""
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
    try:
        for x, y in zip(images.split(batch), labels.split(batch), strict=True):
            # The sum, not the mean: each image's own gradient, whatever the batch.
            F.cross_entropy(model.float_logits(x), y, reduction="sum").backward()
    finally:
        for handle in handles:
            handle.remove()
        model.zero_grad(set_to_none=True)
    return {
        name: MatrixStatistics(torch.stack(inputs[name]).mean(0), torch.stack(gradients[name]).mean(0))
        for name in inputs
    }


def choose_widths(model: ViT, statistics: dict[str, MatrixStatistics], fraction: float) -> None:
    """Make the `fraction` of best-scored rows 8-bit in each matrix of the blocks, and all of embedding and head."""
    for name, layer in model.matrices().items():
        s = statistics[name]
        whole = name in ("embed", "head")
        scores = row_scores(layer.weight.detach().numpy(), s.inputs.numpy(), s.gradients.numpy())
        layer.set_bits(torch.from_numpy(choose_bits(scores, 1.0 if whole else fraction)), s.inputs)
