"""Folders of images by class, and shards of them, for tests."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("cat", "dog", "eel")


def image_folder(
    root: Path, parts: tuple[str, ...] = ("train", "val"), classes: tuple[str, ...] = CLASSES, each: int = 8
) -> Path:
    """Writes images of several sizes, formats and modes, whose colour depends on the class; returns `root`."""
    rng = np.random.default_rng(0)
    for part in parts:
        for label, name in enumerate(classes):
            place = root / part / name
            place.mkdir(parents=True)
            for i in range(each):
                pixels = rng.integers(0, 120, (40 + i, 43, 3))
                pixels[..., label % 3] += 120
                image = Image.fromarray(pixels.astype(np.uint8))
                image = image.convert("L") if i == 1 else image
                image.save(place / f"{part}-{i}.{'png' if i % 2 else 'jpg'}")
    return root


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def pack(root: Path, out: Path, each: int, label: Callable[[str], dict[str, bytes]] = lambda _: {}) -> None:
    """Packs the images of class folders into shards, in order; `label` gives a sample's other files."""
    out.parent.mkdir(parents=True, exist_ok=True)
    paths = sorted(root.glob("*/*"))
    for number, start in enumerate(range(0, len(paths), each)):
        with tarfile.open(f"{out}-{number:03d}.tar", "w") as tar:
            for path in paths[start : start + each]:
                key = f"{path.parent.name}/{path.stem}"
                add(tar, f"{key}{path.suffix}", path.read_bytes())
                for suffix, data in label(path.parent.name).items():
                    add(tar, f"{key}.{suffix}", data)
