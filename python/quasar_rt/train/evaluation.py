"""Logits and accuracy of a network. Depends on: torch, `quasar_rt.train`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..space import Architecture
from .data import AnySplit
from .distributed import Group
from .model import ViT

__all__ = ["evaluate", "evaluate_parts", "logits_of"]


@torch.no_grad()
def logits_of(model: ViT, images: Tensor, batch: int = 500) -> Tensor:
    """Returns logits float32 [n, classes] of the active network in evaluation mode, on the CPU.

    Args:
        model: its training mode is restored afterwards.
        images: uint8 [n, channels, height, width].
        batch: images of one forward pass.
    """
    was, device = model.training, model.prefix.device
    model.eval()
    out = torch.cat([model(part.to(device)).float().cpu() for part in images.split(batch)])
    model.train(was)
    return out


def evaluate(model: ViT, split: AnySplit, group: Group | None = None) -> float:
    """Returns the active network's top-1 as a fraction. Each process of `group` classifies its part of the images."""
    return evaluate_parts(model, [model.active], split, group)[0]


def evaluate_parts(
    model: ViT, parts: Sequence[Architecture | None], split: AnySplit, group: Group | None = None
) -> list[float]:
    """Returns the top-1 of several parts of a network, as `evaluate` does; each image is read once.

    The last part (`ViT.activate`) stays active.
    """
    group = group or Group()
    start, stop = (len(split) * r // group.world for r in (group.rank, group.rank + 1))
    right = torch.zeros(len(parts), dtype=torch.float64)
    for images, labels in split.batches(500, start, stop):
        for k, part in enumerate(parts):
            model.activate(part)
            right[k] += (logits_of(model, images).argmax(dim=1) == labels).sum()
    return [float(count) / len(split) for count in group.sum(right)]
