"""Augmentation of whole batches by timm's code: erased rectangles, mixup, cutmix.

All of it follows from a key, as a single image's augmentation does. Depends on: torch, numpy; on timm where it is used.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .recipe import Data

__all__ = ["Mixing", "seeded"]


@contextmanager
def seeded(key: int) -> Iterator[None]:
    """Seeds the global generators of Python, NumPy and torch's CPU inside, and restores them behind."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    random.seed(key)
    np.random.seed(key % 2**32)  # noqa: NPY002
    torch.default_generator.manual_seed(key)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])


class Mixing:
    """Changes batches of images and their labels as a recipe asks.

    Args:
        recipe: its `erasing`, `mixup` and `cutmix` apply, and its `mean`, with which rectangles are filled.
        classes: number of classes.
        smoothing: label smoothing, of the labels that this makes.
    """

    def __init__(self, recipe: Data, classes: int, smoothing: float) -> None:
        self.mean = 255 * torch.tensor(recipe.mean).view(1, -1, 1, 1)
        self._erase: Any = None
        self._mix: Any = None
        if recipe.erasing:
            from timm.data.random_erasing import RandomErasing

            self._erase = RandomErasing(recipe.erasing, device="cpu")
        if recipe.mixup or recipe.cutmix:
            from timm.data.mixup import Mixup

            self._mix = Mixup(recipe.mixup, recipe.cutmix, label_smoothing=smoothing, num_classes=classes)

    @property
    def pairs(self) -> bool:
        """True if images are mixed in pairs, so that a batch has an even number of them."""
        return self._mix is not None

    def __call__(self, images: Tensor, labels: Tensor, key: int) -> tuple[Tensor, Tensor]:
        """Returns the images, and labels as `torch.nn.functional.cross_entropy` takes them.

        Args:
            images: uint8 [n, channels, height, width].
            labels: int64 [n].
            key: determines what is done.

        Returns:
            The images as they are, or float32 of the same range; the labels as they are, or the shares of classes,
            float32 [n, classes], smoothed already.
        """
        if self._erase is None and self._mix is None:
            return images, labels
        with seeded(key):
            images = images.float()
            if self._erase is not None:
                mean = self.mean.to(images.device)
                # timm erases to 0.
                images = self._erase(images - mean) + mean
            if self._mix is not None:
                images, labels = self._mix(images, labels)
        return images, labels
