"""Image sets for evaluation and training: Fashion-MNIST's idx files, scikit-learn's digits, folders of images by class.

The module runs on the board: only `load_digits` imports scikit-learn. Images are uint8, labels int64.
"""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from .errors import QuasarError
from .texts import Texts

__all__ = [
    "DIGITS_CLASSES",
    "FASHION_MNIST_CLASSES",
    "DatasetError",
    "ImageFolder",
    "LabelledFiles",
    "MissingDatasetError",
    "fashion_mnist_root",
    "files_by_class",
    "held_out",
    "image_files",
    "labels_by_name",
    "load_digits",
    "load_fashion_mnist",
    "plain_name",
    "read_idx",
    "read_image_folder",
    "walk_image_folder",
]


class DatasetError(QuasarError, OSError):
    """A data set is missing, damaged or has another layout; the message names the remedy."""


class MissingDatasetError(DatasetError, FileNotFoundError):
    """There is no folder of that name."""


#: Class names in label order, as the data set's authors give them (https://github.com/zalandoresearch/fashion-mnist).
FASHION_MNIST_CLASSES: tuple[str, ...] = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

#: Class names of scikit-learn's digits, in label order.
DIGITS_CLASSES: tuple[str, ...] = tuple("0123456789")

#: File suffixes of images.
IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".webp", ".gif", ".tif", ".tiff"}
)

_ENVIRONMENT = "QUASAR_RT_FASHION_MNIST"
_PLACES = (
    "/usr/share/datasets/fashion-mnist",
    "~/.cache/quasar-rt/FashionMNIST/raw",
    "data/FashionMNIST/raw",
)
_PREFIX = {"train": "train", "test": "t10k"}
_HEADER_LIMIT = 1 << 30
#: Test images of scikit-learn's digits, which come without a split.
_DIGITS_TEST = 360
#: Share of each class that is the test set, in a folder that has no split of its own.
_FOLDER_TEST = 0.2


def read_idx(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Reads an idx file of unsigned bytes, gzipped or not.

    Args:
        path: the file; a name that ends in ``.gz`` is decompressed.

    Returns:
        uint8 array of the shape in the file's header.

    Raises:
        DatasetError: the file is not an idx file of unsigned bytes, or its length differs from its shape.
    """
    path = Path(path)
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        try:
            magic = file.read(4)
            if len(magic) != 4 or magic[:3] != b"\x00\x00\x08" or not 1 <= magic[3] <= 4:
                raise DatasetError(f"{path}: not an idx file of unsigned bytes")
            sizes = file.read(4 * magic[3])
            if len(sizes) != 4 * magic[3]:
                raise DatasetError(f"{path}: truncated in its header")
            shape = struct.unpack(f">{magic[3]}I", sizes)
            count = int(np.prod(shape, dtype=object))
            if count > _HEADER_LIMIT:
                raise DatasetError(
                    f"{path}: states {count} bytes of data, more than the limit of {_HEADER_LIMIT}"
                )
            data = file.read(count + 1)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DatasetError(f"{path}: damaged gzip file: {error}") from error
    if len(data) != count:
        raise DatasetError(
            f"{path}: shape {shape} needs {count} bytes of data, the file holds another number"
        )
    return np.frombuffer(data, np.uint8).reshape(shape)


def fashion_mnist_root(root: str | os.PathLike[str] | None = None) -> Path:
    """Finds the folder of Fashion-MNIST's four idx files.

    Args:
        root: that folder, or torchvision's download root, which holds it as ``FashionMNIST/raw``. The default is
            ``$QUASAR_RT_FASHION_MNIST``, or else the first of Debian's package and torchvision's downloads in known
            places.

    Raises:
        DatasetError: no such folder; the message names the source of the data.
    """
    given = root if root is not None else os.environ.get(_ENVIRONMENT)
    candidates = [Path(given)] if given else [Path(place).expanduser() for place in _PLACES]
    for candidate in candidates:
        for folder in (candidate, candidate / "FashionMNIST" / "raw"):
            if all(_find(folder, f"{prefix}-labels-idx1-ubyte") for prefix in _PREFIX.values()):
                return folder
    raise MissingDatasetError(
        f"Fashion-MNIST is not in {', '.join(map(str, candidates))}. Install Debian's package (apt install "
        'dataset-fashion-mnist), or download it with torchvision: python -c "import torchvision; '
        "torchvision.datasets.FashionMNIST('data', download=True)\" and run from the same folder, pass that folder, or "
        f"name it in {_ENVIRONMENT}"
    )


def _find(folder: Path, stem: str) -> Path | None:
    for name in (stem, f"{stem}.gz"):
        if (folder / name).is_file():
            return folder / name
    return None


def load_fashion_mnist(
    split: str, root: str | os.PathLike[str] | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Loads Fashion-MNIST (Xiao et al. 2017): 28x28 gray images of 10 kinds of clothes.

    Args:
        split: ``"train"`` (60,000 images) or ``"test"`` (10,000).
        root: see `fashion_mnist_root`.

    Returns:
        images uint8 [n, 28, 28] and labels int64 [n].

    Raises:
        DatasetError: the data is missing (the message names its source) or damaged.
        ValueError: an unknown split.
    """
    if split not in _PREFIX:
        raise ValueError(f"split must be 'train' or 'test', not {split!r}")
    folder = fashion_mnist_root(root)
    arrays = []
    for kind, rank in (("images", 3), ("labels", 1)):
        stem = f"{_PREFIX[split]}-{kind}-idx{rank}-ubyte"
        path = _find(folder, stem)
        if path is None:
            raise DatasetError(
                f"{folder / stem} (or .gz) is missing: the other files of Fashion-MNIST are there"
            )
        arrays.append(read_idx(path))
    images, labels = arrays
    if images.ndim != 3 or images.shape[1:] != (28, 28) or labels.shape != images.shape[:1]:
        raise DatasetError(
            f"{folder}: images {images.shape} and labels {labels.shape} are not Fashion-MNIST's"
        )
    if labels.size and int(labels.max()) >= len(FASHION_MNIST_CLASSES):
        raise DatasetError(f"{folder}: a label is {int(labels.max())}, the classes are 0 to 9")
    return images, labels.astype(np.int64)


def load_digits(split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Loads scikit-learn's digits (Alpaydin and Kaynak 1998): 8x8 gray images of handwritten digits.

    The set has no split of its own: a fixed seed selects 360 of the 1,797 images as the test set.

    Args:
        split: ``"train"`` (1,437 images) or ``"test"`` (360).

    Returns:
        images uint8 [n, 8, 8], scaled from 0..16 to 0..255, and labels int64 [n].

    Raises:
        DatasetError: scikit-learn is not installed.
        ValueError: an unknown split.
    """
    if split not in _PREFIX:
        raise ValueError(f"split must be 'train' or 'test', not {split!r}")
    try:
        from sklearn.datasets import load_digits as load
    except ImportError as error:
        raise DatasetError(
            "the digits come with scikit-learn, which is not installed: pip install scikit-learn"
        ) from error
    data = load()
    order = np.random.RandomState(0).permutation(len(data.target))
    chosen = np.sort(order[:_DIGITS_TEST] if split == "test" else order[_DIGITS_TEST:])
    images = np.floor(data.images[chosen] * (255 / 16) + 0.5).astype(np.uint8)
    return images, data.target[chosen].astype(np.int64)


class LabelledFiles(Sequence[tuple[Path, int]]):
    """Paths of images and their labels, without an object for each of what may be millions."""

    def __init__(self, files: Iterable[tuple[str | os.PathLike[str], int]]) -> None:
        self.paths = Texts()
        labels = array("q")
        for path, label in files:
            self.paths.append(os.fspath(path))
            labels.append(label)
        self.labels: NDArray[np.int64] = np.array(labels, np.int64)

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, index: int) -> tuple[Path, int]: ...

    @overload
    def __getitem__(self, index: slice) -> list[tuple[Path, int]]: ...

    def __getitem__(self, index: int | slice) -> tuple[Path, int] | list[tuple[Path, int]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return Path(self.paths[index]), int(self.labels[index])


@dataclass(frozen=True, eq=False)
class ImageFolder:
    """A folder of images by class: its classes in label order, and the files of each split with their labels."""

    classes: tuple[str, ...]
    train: LabelledFiles
    test: LabelledFiles


def read_image_folder(root: str | os.PathLike[str]) -> ImageFolder:
    """Lists a folder of images by class (torchvision's ImageFolder; ImageNet's usual layout).

    The layout is ``ROOT/train/CLASS/...`` with ``ROOT/val/CLASS/...`` (or ``test``), or ``ROOT/CLASS/...``. In the
    second layout a fixed fifth of each class is the test set. Classes are the names of the training folders, sorted.

    Raises:
        DatasetError: no such folder, or another layout; the message describes the expected one.
    """
    root = Path(root)
    how = (
        "a folder of images by class is ROOT/train/CLASS/*.jpg with ROOT/val/CLASS/*.jpg, or ROOT/CLASS/*.jpg "
        "(ImageNet: download ILSVRC2012 from https://image-net.org, which needs an account, and sort its validation "
        "images into class folders)"
    )
    if not root.is_dir():
        raise MissingDatasetError(f"there is no folder '{root}': {how}")
    train = root / "train"
    tests = [root / name for name in ("val", "test") if (root / name).is_dir()]
    if train.is_dir() != bool(tests):
        raise DatasetError(f"'{root}' has one of 'train' and 'val' but not the other: {how}")
    found = files_by_class(train if tests else root)
    if len(found) < 2:
        raise DatasetError(
            f"'{train if tests else root}' has fewer than two class folders with images: {how}"
        )
    kept: Iterator[tuple[str, int]]
    aside: Iterator[tuple[str, int]]
    if tests:
        held = files_by_class(tests[0])
        for name in held:
            if name not in found:
                raise DatasetError(f"'{tests[0] / name}' is a class that '{train}' lacks")
        aside = ((path, label) for label, name in enumerate(found) for path in held.get(name, ()))
        kept = ((path, label) for label, files in enumerate(found.values()) for path in files)
    else:
        aside, kept = (_divided(found.values(), of_test) for of_test in (True, False))
    folder = ImageFolder(tuple(found), LabelledFiles(kept), LabelledFiles(aside))
    if not len(folder.train) or not len(folder.test):
        raise DatasetError(
            f"'{root}' has no image for {'the test' if len(folder.train) else 'training'}: {how}"
        )
    return folder


def _divided(classes: Iterable[Texts], of_test: bool) -> Iterator[tuple[str, int]]:
    """Yields the test images of a folder without a split, or the others, with their labels."""
    for label, files in enumerate(classes):
        chosen = held_out(len(files))
        yield from ((path, label) for index, path in enumerate(files) if (index in chosen) == of_test)


def held_out(count: int) -> set[int]:
    """Returns the indices of the images of a class that are the test set, where a set has no split: a fixed fifth."""
    chosen = np.random.RandomState(0).permutation(count)[: max(1, round(_FOLDER_TEST * count))]
    return set(chosen.tolist())


def files_by_class(root: Path) -> dict[str, Texts]:
    """Returns the image files of each folder in `root` that holds any, in the order of the folders' names."""
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    return {folder.name: files for folder in folders if len(files := Texts(map(str, image_files(folder))))}


def image_files(root: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields every image file under `root`, at any depth, sorted. An image file is known by its suffix."""
    for path in sorted(Path(root).rglob("*")):
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
            yield path


def walk_image_folder(root: str | os.PathLike[str], classes: Sequence[str]) -> Iterator[tuple[Path, int]]:
    """Yields the images under ``root/CLASS/``, one folder for each class, in sorted order.

    The name of a folder is its class: ``/`` and spaces in a class name may be written ``_`` or ``-``, and case does not
    matter. A class's index (``0``, ``1``, ...) is a name too, unless a class has that name. Classes may be absent.

    Args:
        root: the folder.
        classes: class names in label order (``Subnet.classes``).

    Yields:
        The path of an image and its label.

    Raises:
        DatasetError: `root` is no folder or holds no image, a folder names no class, or two folders name the same one.
    """
    root = Path(root)
    if not root.is_dir():
        missing = DatasetError if root.exists() else MissingDatasetError
        raise missing(f"{root} is not a folder of images by class (ROOT/CLASS/image.png)")
    labels = labels_by_name(classes)
    folders: dict[int, Path] = {}
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        label = labels.get(plain_name(folder.name))
        if label is None:
            known = ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")
            raise DatasetError(f"{folder} names no class of the subnet (classes: {known})")
        if label in folders:
            raise DatasetError(f"{folder} and {folders[label]} both name the class {classes[label]!r}")
        folders[label] = folder
    found = False
    for label, folder in sorted(folders.items()):
        for path in image_files(folder):
            found = True
            yield path, label
    if not found:
        raise DatasetError(
            f"{root} holds no image (looked for {', '.join(sorted(IMAGE_SUFFIXES))} in its class folders)"
        )


def labels_by_name(classes: Sequence[str]) -> dict[str, int]:
    """Returns the labels of classes by `plain_name` and, unless a class has that name, by their index as a text."""
    labels = {str(index): index for index in range(len(classes))}
    labels.update({plain_name(name): index for index, name in enumerate(classes)})
    return labels


def plain_name(name: str) -> str:
    """Returns the name of a class without case; ``/``, ``-`` and spaces become ``_``."""
    return "".join("_" if c in "/ -" else c for c in name.strip().lower())
