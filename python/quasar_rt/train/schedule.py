"""The learning rate and the sampled networks of a step.

Depends on torch, `quasar_rt.space`, `quasar_rt.train.data` and `quasar_rt.train.recipe`.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from ..space import Architecture, Space
from .data import generator_of, key_of
from .recipe import Stage

__all__ = ["kept_branches", "learning_rate", "sample_network"]


def learning_rate(schedule: Stage, step: int, total: int) -> float:
    """Returns the rate at a step of `total`: a linear warm-up, then half a cosine down to `final` times the rate."""
    warm = round(schedule.warmup * total)
    if step < warm:
        return schedule.learning_rate * (step + 1) / warm
    progress = (step - warm) / max(1, total - warm)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return schedule.learning_rate * (schedule.final + (1 - schedule.final) * cosine)


def sample_network(space: Space, seed: int, step: int, k: int, alike: float) -> Architecture:
    """Samples the `k`-th random network of a step. A share `alike` of them repeats its first block (`Sandwich`)."""
    sampled = space.sample(seed, step, k)
    if key_of(seed, "alike", step, k) >= alike * 2**63:
        return sampled
    first = sampled.blocks[0]
    fractions = (first.eight_bit[0],) * 6
    return dataclasses.replace(
        sampled, blocks=(dataclasses.replace(first, eight_bit=fractions),) * sampled.depth
    )


def kept_branches(rate: float, depth: int, batch: int, *key: int | str) -> Tensor | None:
    """Samples the branches that each sample of a joint batch keeps (stochastic depth, Huang et al. 2016).

    Returns:
        float32 [depth, 2, batch]: 0 for a skipped branch, else the reciprocal of the probability to be kept. That falls
        linearly from 1 in the first block to ``1 - rate`` in the last. None for a rate of 0.
    """
    if rate == 0:
        return None
    keep = 1 - rate * torch.arange(depth).view(-1, 1, 1) / max(1, depth - 1)
    sampled = torch.rand(depth, 2, batch, generator=generator_of(*key))
    return (sampled < keep) / keep
