"""Subnets and sample images that come with the package, in ``quasar_rt/data``.

A subnet ``NAME`` is the file ``data/NAME.qvit``; its sample images are ``data/NAME/samples/*.png``, and
``data/NAME/samples/labels.json`` maps their file names to class names. Depends on nothing but the standard library.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

__all__ = ["Sample", "sample_images", "subnet_names", "subnet_path"]


class Sample(NamedTuple):
    """A packaged image and its class."""

    path: Path
    label: str | None


def _data() -> Path:
    # The package is always a folder on disk: it holds a native module, which no zip importer can load.
    return Path(__file__).parent / "data"


def subnet_names() -> list[str]:
    """Returns the names that ``Subnet.load`` and ``Engine`` accept instead of a path, sorted."""
    return sorted(path.stem for path in _data().glob("*.qvit"))


def subnet_path(name: str) -> Path | None:
    """Returns the file of the packaged subnet `name`, or None."""
    return _data() / f"{name}.qvit" if name in subnet_names() else None


def sample_images(name: str) -> list[Sample]:
    """Returns the sample images of the packaged subnet `name`, by file name; empty if it has none."""
    folder = _data() / name / "samples"
    listing = folder / "labels.json"
    labels: dict[str, str] = json.loads(listing.read_text(encoding="utf-8")) if listing.is_file() else {}
    return [Sample(path, labels.get(path.name)) for path in sorted(folder.glob("*.png"))]
