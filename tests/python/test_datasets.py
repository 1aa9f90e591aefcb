"""Data sets: what is read, and what is said when it cannot be."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from quasar_rt import QuasarError
from quasar_rt.datasets import (
    FASHION_MNIST_CLASSES,
    DatasetError,
    image_files,
    load_fashion_mnist,
    read_idx,
    walk_image_folder,
)


def idx(*shape: int, fill: int = 3) -> bytes:
    count = int(np.prod(shape))
    return bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + bytes([fill]) * count


def write_set(folder: Path, images: int = 5, packed: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for prefix in ("train", "t10k"):
        for stem, data in (
            (f"{prefix}-images-idx3-ubyte", idx(images, 28, 28)),
            (f"{prefix}-labels-idx1-ubyte", idx(images)),
        ):
            if packed:
                (folder / f"{stem}.gz").write_bytes(gzip.compress(data))
            else:
                (folder / stem).write_bytes(data)


@pytest.mark.parametrize("packed", [False, True])
def test_reads_plain_and_gzipped_files(tmp_path: Path, packed: bool) -> None:
    write_set(tmp_path, packed=packed)
    images, labels = load_fashion_mnist("test", tmp_path)
    assert images.shape == (5, 28, 28)
    assert images.dtype == np.uint8
    assert labels.tolist() == [3] * 5
    assert labels.dtype == np.int64


def test_finds_torchvisions_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_set(tmp_path / "FashionMNIST" / "raw")
    monkeypatch.setenv("QUASAR_RT_FASHION_MNIST", str(tmp_path))
    assert len(load_fashion_mnist("train")[1]) == 5


def test_missing_data_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="apt install dataset-fashion-mnist") as error:
        load_fashion_mnist("test", tmp_path)
    assert "torchvision" in str(error.value)
    assert str(tmp_path) in str(error.value)
    assert isinstance(error.value, QuasarError)
    assert isinstance(error.value, OSError)


def test_unknown_split_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'train' or 'test', not 'val'"):
        load_fashion_mnist("val", tmp_path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not an idx file"),
        (b"\x00\x00\x0d\x01\x00\x00\x00\x01" + bytes(4), "not an idx file"),
        (idx(4, 28, 28)[:7], "truncated in its header"),
        (idx(4, 28, 28)[:-1], "needs 3136 bytes"),
        (idx(4, 28, 28) + b"x", "needs 3136 bytes"),
        (bytes([0, 0, 8, 3]) + struct.pack(">3I", 2**31, 2**31, 2**31), "more than the limit"),
    ],
)
def test_damaged_idx_files_are_named(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "damaged"
    path.write_bytes(data)
    with pytest.raises(DatasetError, match=message) as error:
        read_idx(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("cut", [0, 5, 20, 40])
def test_damaged_gzip_is_named(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "damaged.gz"
    path.write_bytes(gzip.compress(np.random.default_rng(0).bytes(999))[:cut])
    with pytest.raises(DatasetError, match="damaged"):
        read_idx(path)


def test_a_corrupt_gzip_body_is_named(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(idx(50, 28, 28, fill=9)))
    data[20] ^= 0xFF
    path = tmp_path / "damaged.gz"
    path.write_bytes(data)
    with pytest.raises(DatasetError, match="damaged"):
        read_idx(path)


def test_other_shapes_are_not_fashion_mnist(tmp_path: Path) -> None:
    write_set(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(6))
    with pytest.raises(DatasetError, match="are not Fashion-MNIST's"):
        load_fashion_mnist("test", tmp_path)


def test_labels_beyond_the_classes_are_an_error(tmp_path: Path) -> None:
    write_set(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(5, fill=10))
    with pytest.raises(DatasetError, match="a label is 10"):
        load_fashion_mnist("test", tmp_path)


def test_folders_are_matched_to_classes_by_name_or_index(tmp_path: Path) -> None:
    for name in (
        "T-shirt_top/b.png",
        "T-shirt_top/a.PNG",
        "ankle boot/deep/x.jpg",
        "3/y.png",
        "Bag/notes.txt",
        ".cache/z.png",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [
        (str(path.relative_to(tmp_path)), label)
        for path, label in walk_image_folder(tmp_path, FASHION_MNIST_CLASSES)
    ]
    assert found == [
        ("T-shirt_top/a.PNG", 0),
        ("T-shirt_top/b.png", 0),
        ("3/y.png", 3),
        ("ankle boot/deep/x.jpg", 9),
    ]


def test_a_folder_that_names_no_class_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "trousers").mkdir()
    with pytest.raises(DatasetError, match="trousers names no class"):
        list(walk_image_folder(tmp_path, FASHION_MNIST_CLASSES))


def test_two_folders_of_one_class_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "8").mkdir()
    (tmp_path / "bag").mkdir()
    with pytest.raises(DatasetError, match="both name the class 'Bag'"):
        list(walk_image_folder(tmp_path, FASHION_MNIST_CLASSES))


def test_folders_without_images_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "bag").mkdir()
    with pytest.raises(DatasetError, match="holds no image"):
        list(walk_image_folder(tmp_path, FASHION_MNIST_CLASSES))
    with pytest.raises(DatasetError, match="not a folder"):
        list(walk_image_folder(tmp_path / "absent", FASHION_MNIST_CLASSES))


def test_image_files_are_sorted_and_known_by_suffix(tmp_path: Path) -> None:
    for name in ("b.png", "a/c.jpeg", "readme.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.name for path in image_files(tmp_path)] == ["c.jpeg", "b.png"]
