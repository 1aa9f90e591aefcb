"""Image sets for evaluation and training: Fashion-MNIST's idx files and folders of images by class.

Runs on the board: depends on NumPy and `errors` alone. Images are uint8, labels int64.
"""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .errors import QuasarError

__all__ = [
    "FASHION_MNIST_CLASSES",
    "DatasetError",
    "fashion_mnist_root",
    "image_files",
    "load_fashion_mnist",
    "read_idx",
    "walk_image_folder",
]


class DatasetError(QuasarError, OSError):
    """A data set is missing, damaged or not laid out as expected; the message says what to do."""


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

#: File suffixes that `walk_image_folder` takes for images.
IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".webp", ".gif", ".tif", ".tiff"}
)

_ENVIRONMENT = "QUASAR_RT_FASHION_MNIST"
_PLACES = (
    "/usr/share/datasets/fashion-mnist",
    "~/.cache/quasar_rt/FashionMNIST/raw",
    "data/FashionMNIST/raw",
)
_PREFIX = {"train": "train", "test": "t10k"}
_HEADER_LIMIT = 1 << 30


def read_idx(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Read an idx file of unsigned bytes, gzipped or not.

    Args:
        path: the file; a name that ends in ``.gz`` is decompressed.

    Returns:
        uint8 array of the shape that the file states.

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
    """Folder of Fashion-MNIST's four idx files.

    Args:
        root: that folder (or torchvision's download root, whose ``FashionMNIST/raw`` is then used). Without it,
            ``$QUASAR_RT_FASHION_MNIST`` or else the first of Debian's package and torchvision downloads in known
            places.

    Raises:
        DatasetError: no such folder; the message says how to get the data.
    """
    given = root if root is not None else os.environ.get(_ENVIRONMENT)
    candidates = [Path(given)] if given else [Path(place).expanduser() for place in _PLACES]
    for candidate in candidates:
        for folder in (candidate, candidate / "FashionMNIST" / "raw"):
            if all(_find(folder, f"{prefix}-labels-idx1-ubyte") for prefix in _PREFIX.values()):
                return folder
    raise DatasetError(
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
    """Fashion-MNIST (Xiao et al. 2017): 28x28 gray images of 10 kinds of clothes.

    Args:
        split: ``"train"`` (60,000 images) or ``"test"`` (10,000).
        root: see `fashion_mnist_root`.

    Returns:
        images uint8 [n, 28, 28] and labels int64 [n].

    Raises:
        DatasetError: the data is missing (the message says how to get it) or damaged.
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


def image_files(root: str | os.PathLike[str]) -> Iterator[Path]:
    """Every image file under `root`, at any depth, known by its suffix; sorted. Nothing if there is none."""
    for path in sorted(Path(root).rglob("*")):
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
            yield path


def walk_image_folder(root: str | os.PathLike[str], classes: Sequence[str]) -> Iterator[tuple[Path, int]]:
    """Images under ``root/CLASS/``, one folder for each class, in sorted order.

    A folder is named by its class; ``/`` and spaces in a class name may be written ``_`` or ``-``, and case does not
    matter. A folder whose name is a class's index (``0``, ``1``, ...) is taken too, where no class has that name.
    Classes may be absent.

    Args:
        root: the folder.
        classes: class names in label order (``Subnet.classes``).

    Yields:
        the image's path and its label.

    Raises:
        DatasetError: `root` is no folder or holds no image, a folder names no class, or two folders name the same one.
    """
    root = Path(root)
    if not root.is_dir():
        raise DatasetError(f"{root} is not a folder of images by class (ROOT/CLASS/image.png)")
    labels = {str(index): index for index in range(len(classes))}
    labels.update({_plain(name): index for index, name in enumerate(classes)})
    folders: dict[int, Path] = {}
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        label = labels.get(_plain(folder.name))
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


def _plain(name: str) -> str:
    return "".join("_" if c in "/ -" else c for c in name.strip().lower())
