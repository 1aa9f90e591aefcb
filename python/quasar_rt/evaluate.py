"""Accuracy of a subnet on a data set."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import NamedTuple

from .datasets import (
    DIGITS_CLASSES,
    FASHION_MNIST_CLASSES,
    load_digits,
    load_fashion_mnist,
    walk_image_folder,
)
from .engine import Engine
from .errors import ImageError
from .images import ImageLike, Pixels, to_pixels

__all__ = ["Accuracy", "evaluate", "open_dataset"]

#: Data sets known by name: classes and reader.
_KNOWN = {
    "fashion-mnist": (FASHION_MNIST_CLASSES, load_fashion_mnist),
    "digits": (DIGITS_CLASSES, load_digits),
}


class Accuracy(NamedTuple):
    """Share of correct answers."""

    images: int
    """Number of classified images."""
    top1: float
    """Share of images whose most likely class is the true one."""
    top5: float
    """Share of images whose true class is among the five most likely."""
    unreadable: int
    """Number of images that could not be read; no other figure counts them."""
    seconds: float
    """Wall clock from the first image's decoding to the last one's prediction."""

    @property
    def images_per_second(self) -> float:
        """Classified images a second of wall clock."""
        return self.images / self.seconds if self.seconds else 0.0


def open_dataset(name: str, classes: Sequence[str]) -> Sequence[tuple[ImageLike, int]]:
    """Opens a data set: its images, each with the index of its class.

    Args:
        name: ``"fashion-mnist"`` or ``"digits"`` (scikit-learn's): the test images, whose classes the subnet must have
            in the same order; or a folder with a sub-folder of images for each class, named like it.
        classes: the subnet's class names.

    Raises:
        OSError: the data set is missing; the message names its source.
        ValueError: the data set does not fit the classes.
    """
    if name in _KNOWN:
        known, load = _KNOWN[name]
        if len(classes) != len(known):
            raise ValueError(f"'{name}' has {len(known)} classes, the subnet {len(classes)}")
        images, labels = load("test")
        return list(zip(images, labels.tolist(), strict=True))
    if not os.path.isdir(name):
        names = ", ".join(f"'{known}'" for known in _KNOWN)
        raise FileNotFoundError(f"--data is {names} or a folder, and there is no folder '{name}'")
    return list(walk_image_folder(name, classes))


def evaluate(
    engine: Engine,
    labelled: Iterable[tuple[ImageLike, int]],
    *,
    batch: int = 256,
    on_unreadable: Callable[[ImageError], None] | None = None,
) -> Accuracy:
    """Classifies images whose class is known and counts the correct answers.

    Args:
        engine: the engine.
        labelled: images (as ``Engine.infer`` takes them) with their class indices; read `batch` at a time.
        batch: number of images that are decoded and classified at once.
        on_unreadable: called for each image that cannot be read; without it the first one raises.

    Raises:
        quasar_rt.ImageError: an image cannot be read and `on_unreadable` is None.
    """
    images = first = five = unreadable = 0
    source = iter(labelled)
    start = time.perf_counter()
    while piece := list(islice(source, batch)):
        pixels: list[Pixels] = []
        truths: list[int] = []
        for image, truth in piece:
            decoded = _decode(image, on_unreadable)
            if decoded is None:
                unreadable += 1
            else:
                pixels.append(decoded)
                truths.append(truth)
        for prediction, truth in zip(engine.infer_batch(pixels), truths, strict=True):
            images += 1
            first += prediction.index == truth
            five += any(score.index == truth for score in prediction.top_k)
    seconds = time.perf_counter() - start
    return Accuracy(
        images, first / images if images else 0.0, five / images if images else 0.0, unreadable, seconds
    )


def _decode(image: ImageLike, on_unreadable: Callable[[ImageError], None] | None) -> Pixels | None:
    try:
        return to_pixels(image)
    except ImageError as error:
        if on_unreadable is None:
            raise
        on_unreadable(error)
        return None
