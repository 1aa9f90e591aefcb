"""Batches of training images, whose order and augmentation depend on the seed and the step alone.

Nothing here keeps the state of a random generator: the order of an epoch is keyed by (seed, stage, epoch), the
augmentation of an image by (seed, stage, step, its position in the joint batch). So a run resumes at any step, and
several processes see what one would. Depends on: torch, `quasar_rt.images`; torchvision and timm for folders.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..datasets import DatasetError
from ..errors import ImageError
from ..images import to_pixels
from .data import AnySplit, FileSplit, Split, generator_of, key_of, planes
from .mixing import seeded
from .recipe import Data as DataRecipe

__all__ = ["Batches", "augment"]


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

    def one_by_one(self, split: FileSplit) -> torch.utils.data.Dataset[tuple[Tensor, int]]:
        """Returns the augmented images of files, by (index, seed)."""
        return _Augmented(split, self.recipe)

    def _from_memory(self, split: Split, start: int, stop: int) -> Iterator[tuple[Tensor, Tensor]]:
        for step in range(start, stop):
            index = self.indices(step)[self.part].to(split.images.device)
            generator = generator_of(self.seed, self.stage, "augment", step)
            images = augment(split.images[index], self.recipe, generator, self.batch, self.part)
            yield images.to(self.device), split.labels[index].to(self.device)

    def _from_files(self, split: FileSplit, start: int, stop: int) -> Iterator[tuple[Tensor, Tensor]]:
        workers = self.recipe.workers
        loader = torch.utils.data.DataLoader(
            self.one_by_one(split),
            batch_sampler=self._keys(start, stop),
            num_workers=workers,
            worker_init_fn=_leave_signals_to_the_parent if workers else None,
            generator=torch.Generator(),
            pin_memory=self.device.type == "cuda",
        )
        try:
            for images, labels in loader:
                yield images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
        except ImageError as error:
            # A worker's error has the place where it was raised, and the message last.
            line = str(error).strip().splitlines()[-1]
            raise ImageError(line.rpartition("ImageError: ")[2]) from error

    def _keys(self, start: int, stop: int) -> Iterator[list[tuple[int, int]]]:
        """Yields the index and the seed of each image of this process, a step at a time.

        All keys of an epoch at once would take some hundred megabytes for a million images.
        """
        positions = range(self.batch)[self.part]
        for step in range(start, stop):
            chosen = self.indices(step)[self.part].tolist()
            yield [
                (index, key_of(self.seed, self.stage, "augment", step, position))
                for index, position in zip(chosen, positions, strict=True)
            ]


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
        pixels = to_pixels(self._split.images[index])
        image = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
        image = image.convert("L" if self._split.shape.channels == 1 else "RGB")
        # torchvision samples from torch's global generator, timm from those of random and NumPy.
        with seeded(seed):
            image = self._transform(image)
        return torch.from_numpy(planes(np.array(image))), int(self._split.labels[index])


def augment(
    images: Tensor,
    recipe: DataRecipe,
    generator: torch.Generator,
    batch: int | None = None,
    part: slice | None = None,
) -> Tensor:
    """Mirrors and shifts each image at random.

    Args:
        images: uint8 [n, channels, height, width].
        recipe: its `flip` and `shift` apply.
        generator: on the CPU; it is sampled for the whole joint batch.
        batch: images of the joint batch, where `images` are only its `part`.
        part: see `batch`.
    """
    n, _, height, width = images.shape
    batch, part = batch or n, part or slice(None)
    if recipe.flip:
        mirrored = (torch.rand(batch, generator=generator) < 0.5)[part].to(images.device)
        images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(-1), images)
    if recipe.shift:
        shifts = torch.randint(0, 2 * recipe.shift + 1, (2, batch, 1), generator=generator)
        dy, dx = shifts[:, part].to(images.device)
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
