"""Data sets: what is read, and what is said when it cannot be."""

from __future__ import annotations

import gzip
import struct

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


def idx(*shape, fill=3):
    count = int(np.prod(shape))
    return bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + bytes([fill]) * count


def write_set(folder, images=5, packed=False):
    folder.mkdir(parents=True, exist_ok=True)
    for prefix in ("train", "t10k"):
        for stem, data in (
            (f"{prefix}-images-idx3-ubyte", idx(images, 28, 28)),
            (f"{prefix}-labels-idx1-ubyte", idx(images)),
        ):
            if packed:
                (folder / f"{stem}.gz").write_bytes(gzip.compress(data, mtime=0))
            else:
                (folder / stem).write_bytes(data)


PACKED = gzip.compress(idx(50, 28, 28, fill=9) + np.random.default_rng(0).bytes(999), mtime=0)


@pytest.mark.parametrize("packed", [False, True])
def test_reads_plain_and_gzipped_files(tmp_path, packed):
    write_set(tmp_path, packed=packed)
    images, labels = load_fashion_mnist("test", tmp_path)
    assert images.shape == (5, 28, 28)
    assert images.dtype == np.uint8
    assert labels.tolist() == [3] * 5
    assert labels.dtype == np.int64


def test_finds_torchvisions_download(tmp_path, monkeypatch):
    write_set(tmp_path / "FashionMNIST" / "raw")
    monkeypatch.setenv("QUASAR_RT_FASHION_MNIST", str(tmp_path))
    assert len(load_fashion_mnist("train")[1]) == 5


def test_missing_data_says_how_to_get_it(tmp_path):
    with pytest.raises(DatasetError, match="apt install dataset-fashion-mnist") as error:
        load_fashion_mnist("test", tmp_path)
    assert "torchvision" in str(error.value)
    assert str(tmp_path) in str(error.value)
    assert isinstance(error.value, QuasarError)
    assert isinstance(error.value, OSError)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        *((PACKED[:cut], "damaged|not an idx file") for cut in (5, 20, 40)),
        (PACKED[:20] + bytes([PACKED[20] ^ 0xFF]) + PACKED[21:], "damaged"),
        (b"", "not an idx file"),
        (b"\x00\x00\x0d\x01\x00\x00\x00\x01" + bytes(4), "not an idx file"),
        (idx(4, 28, 28)[:7], "truncated in its header"),
        (idx(4, 28, 28)[:-1], "needs 3136 bytes"),
        (idx(4, 28, 28) + b"x", "needs 3136 bytes"),
        (bytes([0, 0, 8, 3]) + struct.pack(">3I", 2**31, 2**31, 2**31), "more than the limit"),
    ],
)
def test_damaged_idx_files_are_named(tmp_path, data, message):
    path = tmp_path / ("damaged.gz" if data[:2] == PACKED[:2] else "damaged")
    path.write_bytes(data)
    with pytest.raises(DatasetError, match=message) as error:
        read_idx(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("labels", "message"), [(idx(6), "are not Fashion-MNIST's"), (idx(5, fill=10), "a label is 10")]
)
def test_other_shapes_and_labels_are_errors(tmp_path, labels, message):
    write_set(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(labels)
    with pytest.raises(DatasetError, match=message):
        load_fashion_mnist("test", tmp_path)
    with pytest.raises(ValueError, match="'train' or 'test', not 'val'"):
        load_fashion_mnist("val", tmp_path)


def test_folders_are_matched_to_classes_by_name_or_index(tmp_path):
    for name in (
        *("T-shirt_top/b.png", "T-shirt_top/a.PNG", "ankle boot/deep/x.jpg"),
        *("3/y.png", "Bag/notes.txt", ".cache/z.png"),
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


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (["trousers"], "trousers names no class"),
        (["8", "bag"], "both name the class 'Bag'"),
        (["bag"], "holds no image"),
        ([], "not a folder"),
    ],
)
def test_folders_of_no_classes_or_images_are_errors(tmp_path, folders, message):
    for name in folders:
        (tmp_path / "set" / name).mkdir(parents=True)
    with pytest.raises(DatasetError, match=message):
        list(walk_image_folder(tmp_path / "set", FASHION_MNIST_CLASSES))


def test_image_files_are_sorted_and_known_by_suffix(tmp_path):
    for name in ("b.png", "a/c.jpeg", "readme.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.name for path in image_files(tmp_path)] == ["c.jpeg", "b.png"]
