"""Images for training: splits by seed, batches whose order and augmentation depend on the seed and the step alone.

Nothing here keeps the state of a random generator: the order of an epoch is keyed by (seed, stage, epoch), the
augmentation of an image by (seed, stage, step, its position in the joint batch). So a run resumes at any step, and
several processes see what one would. Depends on: torch, `quasar_rt.datasets`, `quasar_rt.images`; torchvision and timm
for folders.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..datasets import (
    DIGITS_CLASSES,
    FASHION_MNIST_CLASSES,
    DatasetError,
    load_digits,
    load_fashion_mnist,
    read_image_folder,
)
from ..errors import ImageError
from ..images import preprocess, to_pixels
from ..space import Space
from .recipe import Data as DataRecipe
from .recipe import Recipe

__all__ = ["Batches", "Data", "FileSplit", "Shape", "Split", "augment", "key_of", "load"]

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


@dataclass
class Split:
    """Images in memory, uint8 [n, channels, height, width], and labels int64 [n]."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int, start: int = 0) -> tuple[Tensor, Tensor]:
        """Returns `count` images uint8 [n, channels, height, width] from `start` on, or fewer, and their labels."""
        return self.images[start : start + count], self.labels[start : start + count]

    def batches(
        self, size: int = 500, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields images and labels in order, `size` at a time, not augmented."""
        stop = len(self) if stop is None else stop
        for at in range(start, stop, size):
            yield self.first(min(size, stop - at), at)

    def for_engine(self, count: int, start: int = 0) -> list[Any]:
        """Returns those images as `Engine` takes them."""
        return list(self.images[start : start + count])

    def subset(self, indices: Tensor) -> Split:
        """Returns the images of these indices."""
        return Split(self.images[indices], self.labels[indices])


@dataclass
class FileSplit:
    """Images in files, decoded when they are wanted; labels int64 [n].

    Out of training an image becomes pixels exactly as the engine makes them: `document` is the subnet's preprocessing.
    """

    paths: Sequence[Path]
    labels: Tensor
    shape: Shape
    document: dict[str, Any]

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int, start: int = 0) -> tuple[Tensor, Tensor]:
        """Returns `count` images uint8 [n, channels, height, width] from `start` on, or fewer, and their labels."""
        size = (self.shape.height, self.shape.width, self.shape.channels)
        chosen = self.paths[start : start + count]
        pixels = [torch.from_numpy(_planes(preprocess(path, size, self.document))) for path in chosen]
        images = torch.stack(pixels) if pixels else torch.empty((0, size[2], *size[:2]), dtype=torch.uint8)
        return images, self.labels[start : start + count]

    def batches(
        self, size: int = 100, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields images and labels in order, `size` at a time, not augmented."""
        stop = len(self) if stop is None else stop
        for at in range(start, stop, size):
            yield self.first(min(size, stop - at), at)

    def for_engine(self, count: int, start: int = 0) -> list[Any]:
        """Returns those files, which `Engine` resizes and crops by itself."""
        return list(self.paths[start : start + count])

    def subset(self, indices: Tensor) -> FileSplit:
        """Returns the images of these indices."""
        paths = [self.paths[index] for index in indices.tolist()]
        return FileSplit(paths, self.labels[indices], self.shape, self.document)


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
        DatasetError: the data set is missing (the message says how to get it), damaged, or does not fit the space.
    """
    d, shape = recipe.data, Shape.of(space or Space.load(recipe.space))
    for key, values in (("mean", d.mean), ("std", d.std)):
        if len(values) not in (1, shape.channels):
            raise DatasetError(
                f"data.{key} has {len(values)} numbers, the space's images {shape.channels} channels"
            )
    if d.folder:
        return _load_folder(recipe, shape, root)
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
    listing = read_image_folder(place)
    _check_classes(str(place), listing.classes, shape)
    document = {
        "resize": {
            "mode": "shorter",
            "size": [round(min(shape.height, shape.width) / _CROP)],
            "filter": "bicubic",
        }
    }

    def split(files: Sequence[tuple[Path, int]]) -> FileSplit:
        labels = torch.tensor([label for _, label in files], dtype=torch.int64)
        return FileSplit([path for path, _ in files], labels, shape, document)

    train, validation = _split(recipe, split(listing.train))
    describe = f"the images in `{Path(place).name}`, {len(listing.classes)} classes"
    identity = _identity(validation, len(train))
    return Data(train, validation, listing.classes, document, describe, identity, lambda: split(listing.test))


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
            f"data.subset is {d.subset}, but '{d.name}' has {len(kept)} training images beside the validation images"
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
        for path in validation.paths:
            state.update(f"{path.parent.name}/{path.name}\n".encode())
    return state.hexdigest()


def _with_channels(images: Any, channels: int) -> Tensor:
    return torch.from_numpy(images.copy()).unsqueeze(1).repeat(1, channels, 1, 1)


def _planes(pixels: Any) -> Any:
    """Converts [height, width] or [height, width, channels] to [channels, height, width]."""
    return np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))


@dataclass
class Batches:
    """The training batches of one stage, of one process among `world`.

    Step s takes the s-th part of its epoch's order; what is left over at an epoch's end waits for another epoch.
    """

    split: AnySplit
    recipe: DataRecipe
    seed: int
    stage: str
    batch: int
    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return len(self.split) // self.batch

    @property
    def part(self) -> slice:
        """This process's positions in the joint batch."""
        edge = [self.batch * r // self.world for r in (self.rank, self.rank + 1)]
        return slice(*edge)

    def indices(self, step: int) -> Tensor:
        """Returns the joint batch's indices of that step of the stage."""
        epoch, i = divmod(step, self.steps)
        if getattr(self, "_epoch", None) != epoch:
            generator = generator_of(self.seed, self.stage, "order", epoch)
            self._order, self._epoch = torch.randperm(len(self.split), generator=generator), epoch
        return self._order[i * self.batch : (i + 1) * self.batch]

    def between(self, start: int, stop: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields this process's images (uint8, on the device) and labels of the steps from `start` to before `stop`."""
        if isinstance(self.split, Split):
            yield from self._from_memory(self.split, start, stop)
        else:
            yield from self._from_files(self.split, start, stop)

    def _from_memory(self, split: Split, start: int, stop: int) -> Iterator[tuple[Tensor, Tensor]]:
        for step in range(start, stop):
            index = self.indices(step)[self.part].to(split.images.device)
            generator = generator_of(self.seed, self.stage, "augment", step)
            images = augment(split.images[index], self.recipe, generator, self.batch, self.part)
            yield images.to(self.device), split.labels[index].to(self.device)

    def _from_files(self, split: FileSplit, start: int, stop: int) -> Iterator[tuple[Tensor, Tensor]]:
        keys = []
        for step in range(start, stop):
            positions = range(self.batch)[self.part]
            chosen = self.indices(step)[self.part].tolist()
            keys.append(
                [
                    (index, key_of(self.seed, self.stage, "augment", step, position))
                    for index, position in zip(chosen, positions, strict=True)
                ]
            )
        workers = self.recipe.workers
        loader = torch.utils.data.DataLoader(
            _Augmented(split, self.recipe),
            batch_sampler=keys,
            num_workers=workers,
            worker_init_fn=_leave_signals_to_the_parent if workers else None,
            generator=torch.Generator(),
            pin_memory=self.device.type == "cuda",
        )
        try:
            for images, labels in loader:
                yield images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
        except ImageError as error:
            # A worker's error says where it was raised, with the message last.
            line = str(error).strip().splitlines()[-1]
            raise ImageError(line.rpartition("ImageError: ")[2]) from error


def _leave_signals_to_the_parent(_worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


class _Augmented(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """Training images by (index, seed of the augmentation)."""

    def __init__(self, split: FileSplit, recipe: DataRecipe) -> None:
        from timm.data.auto_augment import rand_augment_transform
        from torchvision.transforms import v2 as transforms

        shape = split.shape
        size = (shape.height, shape.width)
        bicubic = transforms.InterpolationMode.BICUBIC
        steps: list[Any] = [
            transforms.RandomResizedCrop(
                size, scale=tuple(recipe.crop), interpolation=bicubic, antialias=True
            )
        ]
        if recipe.flip:
            steps.append(transforms.RandomHorizontalFlip())
        if recipe.randaugment:
            if shape.channels != 3:
                raise DatasetError("data.randaugment is for RGB images, the space's are gray")
            fill = tuple(round(255 * m) for m in (recipe.mean * 3)[:3])
            steps.append(rand_augment_transform(recipe.randaugment, {"img_mean": fill}))
        if recipe.shift:
            steps += [transforms.Pad(recipe.shift), transforms.RandomCrop(size)]
        self._transform = transforms.Compose(steps)
        self._split = split

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        index, seed = key
        pixels = to_pixels(self._split.paths[index])
        image = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
        image = image.convert("L" if self._split.shape.channels == 1 else "RGB")
        # torchvision draws from torch's global generator, timm from those of random and NumPy.
        states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        torch.default_generator.manual_seed(seed)
        try:
            image = self._transform(image)
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002
            torch.set_rng_state(states[2])
        return torch.from_numpy(_planes(np.array(image))), int(self._split.labels[index])


def augment(
    images: Tensor,
    recipe: DataRecipe,
    generator: torch.Generator,
    batch: int | None = None,
    part: slice | None = None,
) -> Tensor:
    """Mirrors and shifts each image at random, as `recipe` says.

    Args:
        images: uint8 [n, channels, height, width].
        recipe: says what is done.
        generator: on the CPU; it gives the draws of the whole joint batch.
        batch: images of the joint batch, where `images` are only its `part`.
        part: see `batch`.
    """
    n, _, height, width = images.shape
    batch, part = batch or n, part or slice(None)
    if recipe.flip:
        mirrored = (torch.rand(batch, generator=generator) < 0.5)[part].to(images.device)
        images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(-1), images)
    if recipe.shift:
        draws = torch.randint(0, 2 * recipe.shift + 1, (2, batch, 1), generator=generator)
        dy, dx = draws[:, part].to(images.device)
        padded = F.pad(images, (recipe.shift,) * 4)
        rows = dy + torch.arange(height, device=images.device)
        columns = dx + torch.arange(width, device=images.device)
        images = padded[
            torch.arange(n, device=images.device).view(-1, 1, 1, 1),
            torch.arange(images.shape[1], device=images.device).view(1, -1, 1, 1),
            rows[:, None, :, None],
            columns[:, None, None, :],
        ]
    return images
