"""Accuracy of a subnet on a data set, alone or against the float network that it came from."""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .datasets import (
    DIGITS_CLASSES,
    FASHION_MNIST_CLASSES,
    load_digits,
    load_fashion_mnist,
    plain_name,
)
from .engine import Engine
from .errors import ImageError
from .image_sets import is_named, labelled_images, read_image_set
from .images import ImageLike, Pixels, preprocess, to_pixels

__all__ = [
    "Accuracy",
    "ClassAccuracy",
    "Comparison",
    "Confusion",
    "Estimate",
    "bootstrap",
    "compare",
    "decode",
    "evaluate",
    "open_dataset",
    "wilson",
]

#: Resamples of the bootstrap.
_RESAMPLES = 2000

#: The 0.975 quantile of the normal distribution, for intervals of 95 %.
_QUANTILE = 1.959963984540054

#: Data sets known by name: classes and reader.
_KNOWN = {
    "fashion-mnist": (FASHION_MNIST_CLASSES, load_fashion_mnist),
    "digits": (DIGITS_CLASSES, load_digits),
}


class Estimate(NamedTuple):
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


def wilson(right: int, count: int) -> Estimate:
    """Returns a share with Wilson's 95 % score interval, which also holds near 0 and 1 and for few images.

    E. B. Wilson, Probable inference, the law of succession, and statistical inference, 1927. Without images the
    share is 0 and the interval is all of [0, 1].

    >>> [round(float(bound), 4) for bound in wilson(9, 10)]
    [0.9, 0.5958, 0.9821]
    """
    if count == 0:
        return Estimate(0.0, 0.0, 1.0)
    share, spread = right / count, _QUANTILE**2 / count
    middle = (share + spread / 2) / (1 + spread)
    half = math.sqrt(spread * share * (1 - share) + spread**2 / 4) / (1 + spread)
    # At the ends the bound is the share itself, which rounding must not pass.
    return Estimate(share, min(max(middle - half, 0.0), share), max(min(middle + half, 1.0), share))


class ClassAccuracy(NamedTuple):
    """Answers for the images of one class."""

    name: str
    """The class."""
    images: int
    """Number of images of this class."""
    top1: Estimate
    """Share of these images whose most likely class is this one (recall), with Wilson's interval."""
    top5: Estimate
    """Share of these images for which this class is among the five most likely, with Wilson's interval."""
    predicted: int
    """Number of images of any class whose most likely class is this one."""
    precision: Estimate
    """Share of the predicted images that are of this class, with Wilson's interval."""
    mistaken_for: str | None
    """The class that most of this class's other images were taken for; None if all were right."""
    mistakes: int
    """Number of images that were taken for `mistaken_for`."""


@dataclass(frozen=True)
class Confusion:
    """Counts of answers by class."""

    classes: tuple[str, ...]
    """The classes' names."""
    matrix: NDArray[np.int64]
    """Number of images [true class, most likely class]."""
    five: NDArray[np.int64]
    """Number of images [true class] for which the true class is among the five most likely."""
    others: int = 0
    """Number of images of none of the classes: those whose index is not one of a class. No answer is right for them."""

    @classmethod
    def count(
        cls, classes: Sequence[str], truths: Sequence[int], found: Sequence[int], five: Sequence[bool]
    ) -> Confusion:
        """Counts answers: the true and the most likely class of each image, and whether the five have the true one."""
        size = len(classes)
        labels = np.asarray(truths, np.int64)
        known = (labels >= 0) & (labels < size)
        pairs = labels[known] * size + np.asarray(found, np.int64)[known]
        matrix = np.bincount(pairs, minlength=size**2).reshape(size, size)
        among = np.bincount(labels[known & np.asarray(five, bool)], minlength=size)
        return cls(
            tuple(classes), matrix.astype(np.int64), among.astype(np.int64), int(np.count_nonzero(~known))
        )

    @property
    def images(self) -> int:
        """Number of classified images."""
        return int(self.matrix.sum()) + self.others

    @property
    def top1(self) -> Estimate:
        """Share of images whose most likely class is the true one, with Wilson's interval."""
        return wilson(int(np.trace(self.matrix)), self.images)

    @property
    def top5(self) -> Estimate:
        """Share of images whose true class is among the five most likely, with Wilson's interval."""
        return wilson(int(self.five.sum()), self.images)

    def by_class(self) -> list[ClassAccuracy]:
        """Returns the answers for each class, in the subnet's order."""
        right, images, predicted = (np.diag(self.matrix), self.matrix.sum(axis=1), self.matrix.sum(axis=0))
        others = self.matrix - np.diag(right)
        rows = []
        for index, name in enumerate(self.classes):
            most = int(others[index].argmax())
            mistakes = int(others[index, most])
            rows.append(
                ClassAccuracy(
                    name,
                    int(images[index]),
                    wilson(int(right[index]), int(images[index])),
                    wilson(int(self.five[index]), int(images[index])),
                    int(predicted[index]),
                    wilson(int(right[index]), int(predicted[index])),
                    self.classes[most] if mistakes else None,
                    mistakes,
                )
            )
        return rows


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
    confusion: Confusion
    """The answers by class; has the intervals of `top1` and `top5`."""

    @property
    def images_per_second(self) -> float:
        """Classified images a second of wall clock."""
        return self.images / self.seconds if self.seconds else 0.0


class Comparison(NamedTuple):
    """A subnet against a float network on the same images.

    The intervals are percentiles of a bootstrap over the images, with a fixed seed.
    """

    images: int
    """Number of classified images."""
    unreadable: int
    """Number of images that could not be read; no other figure counts them."""
    top1: Estimate
    """Share of images whose most likely class is the true one, by the subnet."""
    float_top1: Estimate
    """The same by the float network."""
    difference: Estimate
    """``top1 - float_top1``, on the same images."""
    agreement: Estimate
    """Share of images for which both networks name the same class."""
    logit_error: Estimate
    """``mean |subnet - float|`` of the logits, divided by ``mean |float - its mean over the images|``."""
    confusion: Confusion
    """The subnet's answers by class."""


def open_dataset(name: str, classes: Sequence[str] | None) -> Sequence[tuple[ImageLike, int]]:
    """Opens a data set: its images, each with the index of its class.

    Args:
        name: ``"fashion-mnist"`` or ``"digits"`` (scikit-learn's): the test images, whose classes the subnet must have
            in the same order; a folder with a sub-folder of images for each class, named like it; or the name of
            WebDataset's shards or of a Hugging Face data set (`quasar_rt.image_sets.labelled_images`).
        classes: the subnet's class names; None for the data set's own.

    Raises:
        OSError: the data set is missing; the message names its source.
        ValueError: the data set does not fit the classes.

    Warns:
        UserWarning: ``"fashion-mnist"`` or ``"digits"`` has as many classes as the subnet, but other names for them.
    """
    if classes is None:
        classes = _KNOWN[name][0] if name in _KNOWN else read_image_set(name).classes
    if name in _KNOWN:
        known, load = _KNOWN[name]
        if len(classes) != len(known):
            raise ValueError(f"'{name}' has {len(known)} classes, the subnet {len(classes)}")
        pairs = enumerate(zip(known, classes, strict=True))
        if other := next((p for p in pairs if plain_name(p[1][0]) != plain_name(p[1][1])), None):
            index, (theirs, own) = other
            warnings.warn(
                f"the classes of '{name}' are not the subnet's (class {index} is {theirs!r} in the data set, {own!r} "
                "in the subnet): the accuracy is meaningful only if both lists have the same order",
                stacklevel=2,
            )
        images, labels = load("test")
        return list(zip(images, labels.tolist(), strict=True))
    if not is_named(name) and not os.path.isdir(name):
        names = ", ".join(f"'{known}'" for known in _KNOWN)
        raise FileNotFoundError(
            f"--data is {names}, a folder, wds:SHARDS or hf:NAME, and there is no folder '{name}'"
        )
    return labelled_images(name, classes)


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
    unreadable = 0
    known: list[int] = []
    found: list[int] = []
    five: list[bool] = []
    source = iter(labelled)
    start = time.perf_counter()
    while piece := list(islice(source, batch)):
        pixels: list[Pixels] = []
        truths: list[int] = []
        for image, truth in piece:
            decoded = decode(image, on_unreadable)
            if decoded is None:
                unreadable += 1
            else:
                pixels.append(decoded)
                truths.append(truth)
        for prediction, truth in zip(engine.infer_batch(pixels), truths, strict=True):
            known.append(truth)
            found.append(prediction.index)
            five.append(any(score.index == truth for score in prediction.top_k))
    seconds = time.perf_counter() - start
    confusion = Confusion.count(engine.subnet.classes, known, found, five)
    top1, top5 = confusion.top1.value, confusion.top5.value
    return Accuracy(len(known), top1, top5, unreadable, seconds, confusion)


def compare(
    engine: Engine,
    labelled: Iterable[tuple[ImageLike, int]],
    network: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
    *,
    batch: int = 256,
    on_unreadable: Callable[[ImageError], None] | None = None,
) -> Comparison:
    """Classifies images by an engine and by a float network, which sees the pixels that the engine's network sees.

    Args:
        engine: the engine.
        labelled: images (as ``Engine.infer`` takes them) with their class indices; read `batch` at a time.
        network: from preprocessed images, uint8 [images, height, width, channels], to logits, float32
            [images, classes]; `quasar_rt.export.reference_logits` makes one of a timm model.
        batch: number of images that are decoded and classified at once.
        on_unreadable: called for each image that cannot be read; without it the first one raises.

    Raises:
        quasar_rt.ImageError: an image cannot be read and `on_unreadable` is None.
        ValueError: no image could be used, or the network has another number of classes than the subnet.
    """
    config = engine.subnet.config
    shape = config["image"]
    size = (shape["height"], shape["width"], shape["channels"])
    unreadable = 0
    integer: list[NDArray[np.float32]] = []
    exact: list[NDArray[np.float32]] = []
    truths: list[int] = []
    five: list[bool] = []
    source = iter(labelled)
    while piece := list(islice(source, batch)):
        pixels: list[Pixels] = []
        for image, truth in piece:
            decoded = decode(image, on_unreadable)
            if decoded is None:
                unreadable += 1
            else:
                pixels.append(decoded)
                truths.append(truth)
        if not pixels:
            continue
        seen = [preprocess(image, size, config["preprocess"]) for image in pixels]
        exact.append(network(np.stack(seen).reshape(-1, *size)))
        if exact[-1].shape != (len(pixels), len(engine.subnet.classes)):
            raise ValueError(
                f"the float network gives {exact[-1].shape[-1]} logits an image, and the subnet has "
                f"{len(engine.subnet.classes)} classes: give the network that the subnet came from"
            )
        predictions = engine.infer_batch(pixels)
        integer.append(np.stack([prediction.logits for prediction in predictions]))
        five += [
            any(score.index == truth for score in prediction.top_k)
            for prediction, truth in zip(predictions, truths[-len(pixels) :], strict=True)
        ]
    if not truths:
        raise ValueError("no image could be used")
    found, expected = np.concatenate(integer), np.concatenate(exact)
    estimates = _estimates(found, expected, np.array(truths))
    confusion = Confusion.count(engine.subnet.classes, truths, found.argmax(axis=1).tolist(), five)
    return Comparison(len(truths), unreadable, *estimates, confusion)


def _estimates(
    found: NDArray[np.float32], expected: NDArray[np.float32], labels: NDArray[np.int64]
) -> tuple[Estimate, Estimate, Estimate, Estimate, Estimate]:
    """Returns top-1 of both, their difference, the agreement and the logit error, with intervals of a bootstrap."""
    right, float_right = (logits.argmax(axis=1) == labels for logits in (found, expected))
    error, spread = distances(found, expected)
    # The last two rows make the logit error.
    same = found.argmax(axis=1) == expected.argmax(axis=1)
    difference = right.astype(float) - float_right
    columns = np.vstack([right, float_right, difference, same, error, spread]).astype(np.float64)

    def ratio(means: NDArray[np.float64]) -> NDArray[np.float64]:
        share = means[..., 4] / np.maximum(means[..., 5], 1e-30)
        return np.concatenate([means[..., :4], share[..., None]], axis=-1)

    top1, float_top1, change, agreement, logit_error = bootstrap(columns, ratio)
    return top1, float_top1, change, agreement, logit_error


def distances(
    found: NDArray[np.float32], expected: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns the parts of the relative error: the mean of the first over the mean of the second.

    Args:
        found: outputs of a subnet, float32 [images, values]: logits or embeddings.
        expected: those of the float network.

    Returns:
        the length of each image's difference, and the distance of its float outputs from their mean over the images,
        float64 [images] each.
    """
    difference, spread = found - expected, expected - expected.mean(axis=0)
    return (
        np.linalg.norm(difference.astype(np.float64), axis=1).astype(np.float64),
        np.linalg.norm(spread.astype(np.float64), axis=1).astype(np.float64),
    )


def bootstrap(
    columns: NDArray[np.float64], figures: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> list[Estimate]:
    """Returns figures of means over images, with the 95 % percentiles of a bootstrap with a fixed seed.

    Args:
        columns: values of the images, [values, images].
        figures: from means of these values, [..., values], to figures, [..., figures].
    """
    rng, images = np.random.default_rng(0), columns.shape[1]
    drawn = np.stack([columns[:, rng.integers(0, images, images)].mean(axis=1) for _ in range(_RESAMPLES)])
    low, high = np.percentile(figures(drawn), [2.5, 97.5], axis=0)
    return [
        Estimate(float(value), float(least), float(most))
        for value, least, most in zip(figures(columns.mean(axis=1)), low, high, strict=True)
    ]


def decode(image: ImageLike, on_unreadable: Callable[[ImageError], None] | None) -> Pixels | None:
    """Decodes an image; None if it cannot be read and `on_unreadable` has taken the error."""
    try:
        return to_pixels(image)
    except ImageError as error:
        if on_unreadable is None:
            raise
        on_unreadable(error)
        return None
