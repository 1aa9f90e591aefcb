"""Data sets for training, and their splits by the seed.

Depends on: torch, `quasar_rt.datasets`, `quasar_rt.image_sets`, `quasar_rt.images`.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..datasets import (
    DIGITS_CLASSES,
    FASHION_MNIST_CLASSES,
    DatasetError,
    load_digits,
    load_fashion_mnist,
)
from ..image_sets import Images, Part, is_named, read_image_set
from ..images import ImageLike, preprocess
from ..space import Space
from .recipe import Recipe

__all__ = [
    "AnySplit",
    "Data",
    "FileSplit",
    "Shape",
    "Split",
    "engine_images",
    "generator_of",
    "key_of",
    "load",
    "planes",
]

_ENVIRONMENT = "QUASAR_RT_IMAGENET"
#: Side of the crop as a share of the shorter side that an image is brought to, for evaluation (timm's `crop_pct`).
_CROP = 0.875


def key_of(*parts: int | str) -> int:
    """Returns a 63-bit seed for any key, such as ``key_of(seed, "order", epoch)``, equal in all processes."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little") >> 1


def generator_of(*parts: int | str) -> torch.Generator:
    """Returns a generator on the CPU seeded by `key_of`."""
    return torch.Generator().manual_seed(key_of(*parts))


@dataclass(frozen=True)
class Shape:
    """The sizes of a network's input and output: height, width and channels of an image, and the number of classes."""

    height: int
    width: int
    channels: int
    classes: int

    @classmethod
    def of(cls, space: Space) -> Shape:
        """Returns the sizes of the networks of a space."""
        settings = space.settings
        return cls(**settings["image"], classes=settings["classes"])


class _Labelled(ABC):
    """The common part of the two kinds of splits."""

    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def first(self, count: int, start: int = 0) -> tuple[Tensor, Tensor]:
        """Returns `count` images uint8 [n, channels, height, width] from `start` on, or fewer, and their labels."""

    def batches(
        self, size: int = 500, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields images and labels in order, `size` at a time, not augmented."""
        stop = len(self) if stop is None else stop
        for at in range(start, stop, size):
            yield self.first(min(size, stop - at), at)


@dataclass
class Split(_Labelled):
    """Images in memory, uint8 [n, channels, height, width], and labels int64 [n]."""

    images: Tensor
    labels: Tensor

    def first(self, count: int, start: int = 0) -> tuple[Tensor, Tensor]:
        """Returns `count` images uint8 [n, channels, height, width] from `start` on, or fewer, and their labels."""
        return self.images[start : start + count], self.labels[start : start + count]

    def for_engine(self, count: int, start: int = 0) -> list[Any]:
        """Returns those images as `Engine` takes them."""
        return list(self.images[start : start + count])

    def subset(self, indices: Tensor) -> Split:
        """Returns the images of these indices."""
        return Split(self.images[indices], self.labels[indices])


@dataclass
class FileSplit(_Labelled):
    """Images in files, shards or tables, decoded when they are wanted; labels int64 [n].

    Out of training an image becomes pixels exactly as the engine makes them: `document` is the subnet's preprocessing.
    `threads` decode at the same time.
    """

    images: Images
    labels: Tensor
    shape: Shape
    document: dict[str, Any]
    threads: int = 1

    def first(self, count: int, start: int = 0) -> tuple[Tensor, Tensor]:
        """Returns `count` images uint8 [n, channels, height, width] from `start` on, or fewer, and their labels."""
        size = (self.shape.height, self.shape.width, self.shape.channels)

        def read(image: ImageLike) -> Tensor:
            return torch.from_numpy(planes(preprocess(image, size, self.document)))

        # Decoding and resizing release the GIL.
        with ThreadPoolExecutor(self.threads) as pool:
            pixels = list(pool.map(read, self.images[start : start + count]))
        images = torch.stack(pixels) if pixels else torch.empty((0, size[2], *size[:2]), dtype=torch.uint8)
        return images, self.labels[start : start + count]

    def for_engine(self, count: int, start: int = 0) -> list[Any]:
        """Returns those images encoded: `Engine` decodes, resizes and crops them by itself."""
        return list(self.images[start : start + count])

    def subset(self, indices: Tensor) -> FileSplit:
        """Returns the images of these indices."""
        images = self.images.subset(indices.numpy())
        return FileSplit(images, self.labels[indices], self.shape, self.document, self.threads)


AnySplit: TypeAlias = "Split | FileSplit"


@dataclass
class Data:
    """A data set, split: `validation` is taken out of its training images, the test images are read by `test` alone.

    `classes` are the class names in label order, `document` the preprocessing that a subnet for these images states,
    `describe` a line for the model card.
    """

    train: AnySplit
    validation: AnySplit
    classes: tuple[str, ...]
    document: dict[str, Any]
    describe: str
    identity: str
    _test: Callable[[], AnySplit] = field(repr=False)

    def test(self) -> AnySplit:
        """Reads the test images: for the final figures, never for a choice."""
        return self._test()


def load(recipe: Recipe, root: str | os.PathLike[str] | None = None, space: Space | None = None) -> Data:
    """Loads the recipe's data set, brought to the shape of the space's images.

    Args:
        recipe: its `data` names the set, its `seed` chooses the validation images.
        root: folder of the data set's files, where it is not in a known place.
        space: without it the one that the recipe names.

    Raises:
        DatasetError: the data set is missing (the message has its source), damaged, or does not fit the space.
    """
    d, shape = recipe.data, Shape.of(space or Space.load(recipe.space))
    for key, values in (("mean", d.mean), ("std", d.std)):
        if len(values) not in (1, shape.channels):
            raise DatasetError(
                f"data.{key} has {len(values)} numbers, the space's images {shape.channels} channels"
            )
    if d.folder:
        return _load_folder(recipe, shape, root)
    if root is not None and is_named(os.fspath(root)):
        raise DatasetError(
            f"the recipe trains on '{d.name}', which '{root}' cannot take the place of: name that set in the recipe, "
            f"--set data.name='\"{root}\"'"
        )
    loader: Callable[[str], tuple[Any, Any]]
    if d.name == "digits":
        classes, loader = DIGITS_CLASSES, load_digits
        describe = "scikit-learn's digits (Alpaydin and Kaynak 1998, CC BY 4.0)"
    else:
        classes = FASHION_MNIST_CLASSES
        describe = "Fashion-MNIST (Xiao, Rasul and Vollgraf 2017, MIT licence)"

        def loader(split: str) -> tuple[Any, Any]:
            return load_fashion_mnist(split, root)

    _check_classes(d.name, classes, shape)
    images, labels = loader("train")
    if images.shape[1:] != (shape.height, shape.width):
        raise DatasetError(
            f"the images of '{d.name}' are {images.shape[1]}x{images.shape[2]}, "
            f"the space's {shape.height}x{shape.width}"
        )
    whole = Split(_with_channels(images, shape.channels), torch.from_numpy(labels))
    train, validation = _split(recipe, whole)

    def test() -> Split:
        images, labels = loader("test")
        return Split(_with_channels(images, shape.channels), torch.from_numpy(labels))

    document = {"resize": {"mode": "shorter", "size": [min(shape.height, shape.width)], "filter": "bicubic"}}
    return Data(train, validation, classes, document, describe, _identity(validation, len(train)), test)


def _load_folder(recipe: Recipe, shape: Shape, root: str | os.PathLike[str] | None) -> Data:
    d = recipe.data
    if d.name == "imagenet":
        place = root or os.environ.get(_ENVIRONMENT)
        if not place:
            raise DatasetError(
                "ImageNet has to be fetched by hand: download ILSVRC2012 from https://image-net.org (an account is "
                "needed), lay it out as ROOT/train/CLASS/*.JPEG and ROOT/val/CLASS/*.JPEG, and pass --data ROOT or set "
                f"{_ENVIRONMENT}"
            )
    else:
        place = root or d.name
    found = read_image_set(place)
    _check_classes(str(place), found.classes, shape)
    edges = [round(side / _CROP) for side in (shape.height, shape.width)]
    # An image of another shape need not cover a rectangle after its shorter side fits.
    square = shape.height == shape.width
    resize = {"mode": "shorter", "size": edges[:1]} if square else {"mode": "exact", "size": edges}
    document = {"resize": {**resize, "filter": "bicubic"}}

    def split(part: Part) -> FileSplit:
        return FileSplit(part.images, torch.from_numpy(part.labels), shape, document, max(1, d.workers))

    train, validation = _split(recipe, split(found.train))
    describe = f"{found.describe}, {len(found.classes)} classes"
    identity = _identity(validation, len(train))
    return Data(train, validation, found.classes, document, describe, identity, lambda: split(found.test))


def _check_classes(name: str, classes: Sequence[str], shape: Shape) -> None:
    if len(classes) != shape.classes:
        raise DatasetError(f"'{name}' has {len(classes)} classes, the space {shape.classes}")


def _split(recipe: Recipe, whole: Any) -> tuple[Any, Any]:
    """Splits training and validation images by the seed."""
    d = recipe.data
    if d.validation >= len(whole):
        raise DatasetError(
            f"data.validation is {d.validation}, but '{d.name}' has {len(whole)} training images"
        )
    order = torch.randperm(len(whole), generator=generator_of(recipe.seed, "split"))
    kept, aside = order[d.validation :], order[: d.validation]
    if d.subset > len(kept):
        raise DatasetError(
            f"data.subset is {d.subset}, but '{d.name}' has {len(kept)} training images without the validation images"
        )
    if d.subset:
        kept = kept[: d.subset]
    return whole.subset(kept), whole.subset(aside)


def _identity(validation: AnySplit, train: int) -> str:
    """Returns a digest of the validation images and of the number left to train on."""
    state = hashlib.sha256(f"{len(validation)} of {train}".encode())
    state.update(validation.labels.numpy().tobytes())
    if isinstance(validation, Split):
        state.update(validation.images.numpy().tobytes())
    else:
        for index in range(len(validation)):
            state.update(f"{validation.images.name(index)}\n".encode())
    return state.hexdigest()


def _with_channels(images: Any, channels: int) -> Tensor:
    return torch.from_numpy(images.copy()).unsqueeze(1).repeat(1, channels, 1, 1)


def planes(pixels: Any) -> Any:
    """Converts [height, width] or [height, width, channels] to [channels, height, width]."""
    return np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))


def engine_images(images: Tensor) -> list[NDArray[np.uint8]]:
    """Converts images uint8 [n, channels, height, width] to what `Engine` takes fastest."""
    return [
        image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0))
        for image in images.numpy()
    ]
