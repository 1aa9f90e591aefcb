"""Opens image sets by their names, whatever kind they are of."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..datasets import (
    DatasetError,
    LabelledFiles,
    files_by_class,
    held_out,
    image_files,
    read_image_folder,
    walk_image_folder,
)
from .base import ImageFiles, Images, ImageSet, Part, Source
from .hugging_face import SAVED, HuggingFace
from .shards import Shards

__all__ = ["folder_classes", "images_of", "is_named", "labelled_images", "read_image_set"]

_KINDS = {"wds": Shards, "hf": HuggingFace}


def is_named(name: str) -> bool:
    """Returns whether the name is of shards or of a Hugging Face data set, and not a folder of images by class."""
    return _kind(name) is not None


def read_image_set(name: str | os.PathLike[str]) -> ImageSet:
    """Opens a set to train on.

    If the set has one part only, a fixed fifth of each class is the test part (`quasar_rt.datasets.held_out`).

    Args:
        name: a folder (`quasar_rt.datasets.read_image_folder`), ``wds:SHARDS`` or ``hf:NAME``; the prefix may be left
            out for ``.tar`` files, a folder of them, and a folder that ``save_to_disk`` wrote.

    Raises:
        DatasetError: no such set, no library for it, a damaged record, or a choice that is open; the message names the
            choice or the record.
    """
    name = os.fspath(name)
    if (source := _open(name)) is None:
        folder = read_image_folder(name)
        describe = f"the images in `{Path(name).name}`"
        return ImageSet(folder.classes, _of_files(folder.train), _of_files(folder.test), describe)
    if "train" not in source.records:
        raise DatasetError(f"'{name}' has no part to train on: append '#train=...' to the name")
    labels = source.labels("train")
    classes = source.class_names(labels)
    train = source.part("train", labels, classes)
    if "test" in source.records:
        test = source.part("test", source.labels("test"), classes)
    else:
        train, test = _divide(train, name)
    return ImageSet(classes, train, test, source.describe)


def labelled_images(name: str | os.PathLike[str], classes: Sequence[str]) -> Part:
    """Opens a set to measure accuracy on: its test part, or all of it if it has one part only.

    Args:
        name: as for `read_image_set`; of a folder all class folders count (`quasar_rt.datasets.walk_image_folder`).
        classes: the classes of a subnet, to which those of the set are matched by name; labels that are mere numbers
            are taken as indices, and so is every label with the option ``by=index``.

    Raises:
        DatasetError: as for `read_image_set`, or a class is not among `classes`.
    """
    name = os.fspath(name)
    if (source := _open(name)) is None:
        return _of_files(LabelledFiles(walk_image_folder(name, classes)))
    return source.part_for("test" if "test" in source.records else "train", classes)


def images_of(name: str | os.PathLike[str]) -> Images:
    """Opens a set without labels, such as calibration images: its training part, or all of it.

    Args:
        name: as for `read_image_set`; of a folder every image file counts, at any depth.

    Raises:
        DatasetError: as for `read_image_set`, or there is no image.
    """
    name = os.fspath(name)
    if (source := _open(name)) is not None:
        return Images(source.records["train" if "train" in source.records else "test"])
    if not os.path.isdir(name):
        raise DatasetError(f"there is no folder '{name}'; other sets of images are wds:SHARDS and hf:NAME")
    files = ImageFiles(image_files(name))
    if not len(files):
        raise DatasetError(f"no image in {name}: give a folder with PNG or JPEG files")
    return Images(files)


def folder_classes(name: str | os.PathLike[str], count: int) -> list[str] | None:
    """Returns the names of the class folders of a folder of images, sorted, if there are `count`; otherwise None.

    The folders are those of ``NAME/train``, where there is one, or of ``NAME``.
    """
    root = Path(name)
    if is_named(os.fspath(name)) or not root.is_dir():
        return None
    train = root / "train"
    names = list(files_by_class(train if train.is_dir() else root))
    return names if len(names) == count > 1 else None


def _kind(name: str) -> str | None:
    prefix = name.partition(":")[0]
    if prefix in _KINDS and ":" in name:
        return prefix
    if name.partition("#")[0].endswith(".tar"):
        return "wds"
    path = Path(name)
    if path.is_dir():
        if any((path / file).is_file() for file in SAVED):
            return "hf"
        # Next to folders of images, .tar files are what these were unpacked from.
        if any(path.glob("*.tar")) and not any(child.is_dir() for child in path.iterdir()):
            return "wds"
    return None


def _open(name: str) -> Source | None:
    kind = _kind(name)
    return None if kind is None else _KINDS[kind](name)


def _of_files(files: LabelledFiles) -> Part:
    return Part(Images(ImageFiles(files.paths)), files.labels)


def _divide(part: Part, name: str) -> tuple[Part, Part]:
    """Divides a set of one part into training and test images, as `read_image_folder` does."""
    aside = np.zeros(len(part), bool)
    for label in np.unique(part.labels):
        of_class = np.flatnonzero(part.labels == label)
        aside[of_class[sorted(held_out(len(of_class)))]] = True
    if aside.all():
        raise DatasetError(f"'{name}' has one image of each class, and none is left for training")
    return part.subset(np.flatnonzero(~aside)), part.subset(np.flatnonzero(aside))
