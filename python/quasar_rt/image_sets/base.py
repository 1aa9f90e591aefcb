"""The common part of all image sets: images by index, labels, and the options in a set's name."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, overload

import numpy as np
from numpy.typing import NDArray

from ..arguments import shown
from ..datasets import DatasetError, labels_by_name, plain_name
from ..files import read_small_text, reason
from ..images import ImageLike
from ..texts import Texts

__all__ = ["ImageFiles", "ImageSet", "Images", "Name", "Part", "Records", "Source", "read_class_names"]

#: Options of every kind of set: the fields of image and label, a file of class names, the way to match classes.
_OPTIONS = ("image", "label", "classes", "by")
#: Most characters of a label that is a number: a list of names is made up to the largest.
_MOST_DIGITS = 6
#: Class names that an error lists.
_LISTED = 10


class Records(Protocol):
    """Images that can be read in any order, from any thread and any forked process."""

    def __len__(self) -> int:
        """Returns the number of images."""

    def read(self, index: int) -> ImageLike:
        """Returns an image as `quasar_rt.Engine` takes it; it may be read and decoded only when it is used."""

    def name(self, index: int) -> str:
        """Returns the name of an image, which does not depend on the place of the data."""


class ImageFiles:
    """Images in files of their own."""

    def __init__(self, paths: Texts | Iterable[str | os.PathLike[str]]) -> None:
        self._paths = paths if isinstance(paths, Texts) else Texts(os.fspath(path) for path in paths)

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, index: int) -> ImageLike:
        """Returns the file's path."""
        return Path(self._paths[index])

    def name(self, index: int) -> str:
        """Returns the file's name and its folder's."""
        path = Path(self._paths[index])
        return f"{path.parent.name}/{path.name}"


class Images(Sequence[ImageLike]):
    """A selection of the images of some records, each read when it is used.

    Args:
        records: the images.
        order: the indices of the selected ones, int64 [n]; None for all.
    """

    def __init__(self, records: Records, order: NDArray[np.int64] | None = None) -> None:
        self.records = records
        self.order = np.arange(len(records)) if order is None else order

    def __len__(self) -> int:
        return len(self.order)

    @overload
    def __getitem__(self, index: int) -> ImageLike: ...

    @overload
    def __getitem__(self, index: slice) -> Images: ...

    def __getitem__(self, index: int | slice) -> ImageLike | Images:
        if isinstance(index, slice):
            return Images(self.records, self.order[index])
        return self.records.read(int(self.order[index]))

    def name(self, index: int) -> str:
        """Returns the name of an image, which does not depend on the place of the data."""
        return self.records.name(int(self.order[index]))

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> Images:
        """Returns the images of these indices, in this order."""
        return Images(self.records, self.order[np.asarray(indices, np.int64)])

    def spread(self, count: int) -> Images:
        """Returns `count` images at equal distances, or all if there are fewer: sets are often sorted by class."""
        if count >= len(self):
            return self
        return self.subset(np.arange(count, dtype=np.int64) * len(self) // count)


@dataclass(frozen=True, eq=False)
class Part(Sequence[tuple[ImageLike, int]]):
    """Images and their labels, int64 [n]; a sequence of both."""

    images: Images
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    @overload
    def __getitem__(self, index: int) -> tuple[ImageLike, int]: ...

    @overload
    def __getitem__(self, index: slice) -> Part: ...

    def __getitem__(self, index: int | slice) -> tuple[ImageLike, int] | Part:
        if isinstance(index, slice):
            return Part(self.images[index], self.labels[index])
        return self.images[index], int(self.labels[index])

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> Part:
        """Returns the images of these indices with their labels."""
        return Part(self.images.subset(indices), self.labels[np.asarray(indices, np.int64)])


@dataclass(frozen=True, eq=False)
class ImageSet:
    """An image set for training: its classes in label order, its two parts, and a line for people."""

    classes: tuple[str, ...]
    train: Part
    test: Part
    describe: str


@dataclass(frozen=True)
class Name:
    """The name of a set, ``KIND:PLACE#option=value,option=value``, taken apart."""

    text: str
    place: str
    options: dict[str, str]

    @classmethod
    def parse(cls, text: str, kind: str, others: Sequence[str]) -> Name:
        """Takes a name apart.

        Args:
            text: the name.
            kind: the prefix, which may be missing.
            others: options of this kind alone.

        Raises:
            DatasetError: no place, or an unknown option; the message lists the options.
        """
        place, mark, tail = text.removeprefix(f"{kind}:").partition("#")
        known = [*_OPTIONS, *others]
        options: dict[str, str] = {}
        # A value may have commas, such as a list of shards in braces.
        for piece in re.split(r",(?=\w+=)", tail) if mark else []:
            key, equals, value = piece.partition("=")
            if key not in known or not equals or not value:
                raise DatasetError(
                    f"'{text}': behind '#' come options KEY=VALUE with commas between them, not '{piece}' "
                    f"(options: {', '.join(known)})"
                )
            options[key] = value
        if not place:
            raise DatasetError(f"'{text}' names no data: {kind}:PLACE")
        if options.get("by", "name") not in ("name", "index"):
            raise DatasetError(f"'{text}': by={options['by']} is neither by=name nor by=index")
        return cls(text, place, options)

    def choose(self, option: str, found: Sequence[str], what: str) -> DatasetError:
        """Returns the error for a choice that only the user can make."""
        mark = "," if "#" in self.text else "#"
        listed = f"one of {', '.join(found)}" if found else "none found"
        return DatasetError(f"'{self.text}': {what} ({listed}): append '{mark}{option}=...' to the name")


class Source(ABC):
    """An image set that was opened by its name: its records, and the labels as the set has them.

    `records` by part: ``train`` are the images to train on, ``test`` those of the final figures; one may be missing.
    `names` are the class names in label order, None if the set has none. `describe` is a line for a model card.
    """

    name: Name
    records: dict[str, Records]
    names: tuple[str, ...] | None
    describe: str

    @abstractmethod
    def labels(self, part: str) -> list[int] | list[str]:
        """Returns the label of each image of a part: an index, or the name of a class.

        Raises:
            DatasetError: the labels cannot be found, or a record has none; the message names what to do or the record.
        """

    @abstractmethod
    def where(self, part: str, index: int) -> str:
        """Names a record for a message: its key or number, and the file or table that it is in."""

    def numbers(self, part: str, labels: Sequence[int | str]) -> list[int]:
        """Returns labels that are numbers as integers.

        Raises:
            DatasetError: a number is larger than any class's index; the message names the record.
        """
        for index, label in enumerate(labels):
            if len(text := str(label)) > _MOST_DIGITS:
                raise DatasetError(
                    f"{self.where(part, index)} has a label of {len(text):,} characters, {shown(label)}: the index of "
                    f"a class has at most {_MOST_DIGITS} digits"
                )
        return [int(label) for label in labels]

    def class_names(self, labels: Sequence[int | str]) -> tuple[str, ...]:
        """Returns the class names in label order, those of the set or those that its labels give."""
        if self.names is not None:
            return self.names
        if any(isinstance(label, str) for label in labels):
            return tuple(sorted(set(map(str, labels))))
        return tuple(str(index) for index in range(max(map(int, labels), default=-1) + 1))

    def part(self, part: str, labels: Sequence[int | str], classes: Sequence[str]) -> Part:
        """Returns the images of a part with indices of `classes`, which are the set's own.

        Raises:
            DatasetError: a label is none of the classes; the message names the record.
        """
        known = {name: index for index, name in enumerate(classes)}
        found = [known.get(label, -1) if isinstance(label, str) else label for label in labels]
        self._check(part, labels, found, classes)
        return Part(Images(self.records[part]), np.array(found, np.int64))

    def part_for(self, part: str, classes: Sequence[str]) -> Part:
        """Returns the images of a part with indices of `classes`, which are a subnet's.

        Classes are matched by name. Labels without names are indices, and so are all with the option ``by=index``.

        Raises:
            DatasetError: a label is none of the classes; the message names the record.
        """
        labels = self.labels(part)
        own = self.class_names(labels)
        found = self.part(part, labels, own)
        named = self.names is not None or any(isinstance(label, str) for label in labels)
        if not named or self.name.options.get("by") == "index":
            self._check(part, labels, found.labels.tolist(), classes)
            return found
        subnets = labels_by_name(classes)
        matches = [subnets.get(plain_name(name), -1) for name in own]
        matched = [matches[label] for label in found.labels.tolist()]
        self._check(part, [own[label] for label in found.labels.tolist()], matched, classes)
        return Part(found.images, np.array(matched, np.int64))

    def _check(
        self, part: str, labels: Sequence[int | str], found: Sequence[int], classes: Sequence[str]
    ) -> None:
        """Refuses a record whose class was not `found`."""
        index = next((i for i, label in enumerate(found) if not 0 <= label < len(classes)), None)
        if index is None:
            return
        label = labels[index]
        hint = ""
        if isinstance(label, str):
            mark = "," if "#" in self.name.text else "#"
            hint = f"; if the set's classes have the same order, append '{mark}by=index' to the name"
        elif label < 0:
            hint = "; a negative label means that it was held back: choose another part"
        listed = ", ".join(classes[:_LISTED]) + (", ..." if len(classes) > _LISTED else "")
        raise DatasetError(
            f"{self.where(part, index)} has the label {shown(label)}, which is none of the {len(classes)} classes "
            f"({listed}){hint}"
        )


def read_class_names(name: Name) -> tuple[str, ...] | None:
    """Returns the class names of the file that the option `classes` names, one a line; None without the option.

    Raises:
        DatasetError: the file cannot be read, or has a name twice.
    """
    if (path := name.options.get("classes")) is None:
        return None
    try:
        found = tuple(read_small_text(path).splitlines())
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"'{name.text}': the class names cannot be read from '{path}': {reason(error)}"
        ) from error
    if len(set(found)) != len(found) or not found:
        raise DatasetError(f"'{path}' must have one class name a line, each once")
    return found
