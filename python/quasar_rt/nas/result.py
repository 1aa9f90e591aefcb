"""The result of a search: the front's points, the subnets for the targets, and the document with both.

Depends on `quasar_rt.space`, `quasar_rt.hardware`, `quasar_rt.nas.layers` and `quasar_rt.nas.report`.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..files import make_folder, write_bytes, write_text
from ..hardware import Hardware, RatesOf
from ..space import Architecture, Space
from ..subnet import Subnet
from . import report
from .layers import eight_bit_share, nominal_macs, weight_bytes

__all__ = ["Integer", "OnBoard", "Point", "Scoring", "SearchResult", "Target"]


class Scoring(NamedTuple):
    """A description of a search's scores."""

    kind: str
    """``supernet`` or ``proxy``."""
    label: str
    """A short name of the score and of the images that it was measured on."""
    short: str
    column: str
    """The score's column in front.csv."""
    accuracy: bool
    """True if the score is a share of images classified rightly."""
    images: int | None = None


class OnBoard(NamedTuple):
    """A subnet on a board, modelled."""

    fps: float
    """Frames a second of the accelerator alone: event by event where the front was replayed, else in the closed
    form."""
    latency_ms: float
    """The latency of one frame alone on the accelerator."""
    fps_with_host: float
    """Frames a second of the board, likewise: with the gaps in which its processor starts segments, and at most those
    that the processor decodes and resizes."""
    closed_fps: float
    """Frames a second of the accelerator in the closed form, by which the search goes."""
    energy_mj: float | None = None
    """Millijoules of a frame at the full rate, by the powers that the board's file assumes; None where it has none."""
    configuration: int = 0
    """The number of the board's configuration."""

    def rate(self, fps_of: RatesOf) -> float:
        """Returns the frames a second by one of the two readings."""
        return self.fps_with_host if fps_of == "board" else self.fps


class Integer(NamedTuple):
    """Top-1 on the integer engine."""

    top1: float
    images: int
    split: str
    """The images, in words."""

    @property
    def standard_error(self) -> float:
        """The binomial standard error of `top1`."""
        return math.sqrt(self.top1 * (1 - self.top1) / self.images)


@dataclass(frozen=True)
class Point:
    """A subnet of the front."""

    id: int
    genome: tuple[int, ...]
    architecture: Architecture
    score: float
    modelled: Mapping[str, OnBoard]
    """The modelled figures by the board's name."""
    integer: Integer | None = None
    """Its top-1 on the integer engine, if it was exported and run."""

    def to_dict(self, space: Space, scoring: Scoring) -> dict[str, Any]:
        """Returns the point as front.json has it."""
        error = None
        if scoring.images is not None:
            error = math.sqrt(self.score * (1 - self.score) / scoring.images)
        integer = self.integer
        return {
            "id": self.id,
            "genome": list(self.genome),
            "architecture": self.architecture.to_dict(),
            "score": self.score,
            "standard_error": error,
            "modelled": {board: on._asdict() for board, on in self.modelled.items()},
            "integer": None
            if integer is None
            else {**integer._asdict(), "standard_error": integer.standard_error},
            "embed": self.architecture.embed,
            "depth": self.architecture.depth,
            "eight_bit_share": eight_bit_share(self.architecture),
            "weight_bytes": weight_bytes(space, self.architecture),
            "nominal_macs": nominal_macs(space, self.architecture),
        }


class Target(NamedTuple):
    """A target frame rate and its subnet: the one with the best score among those that reach the rate event by event.

    The rate is that of the board or of the accelerator alone, as the search's option `fps_of` has it.

    Its rate in the closed form, by which the search goes, can be a little below the target or far above it.
    """

    fps: float
    point: Point
    file: str
    """The subnet's file in the search's folder."""
    subnet: Subnet
    replayed_fps: float
    """Frames a second of the accelerator alone for the file's own rows, event by event (`quasar_rt.hardware.rates`)."""
    replayed_fps_with_host: float
    """Frames a second of the board, likewise."""
    on: OnBoard
    """The subnet's figures on its configuration."""
    hardware: Hardware | None = None
    """Its own configuration, where configurations are explored; None where all subnets have the board's."""
    power_w: float | None = None
    """Watts at the target's rate, by the powers that the board's file assumes; None where it has none."""

    @property
    def gap(self) -> float:
        """The event model's rate of the accelerator over the closed form's, minus 1."""
        return self.replayed_fps / self.on.closed_fps - 1

    @property
    def hardware_file(self) -> str:
        """The file of its own configuration in the search's folder."""
        return f"{self.file.removesuffix('.qvit')}.toml"


@dataclass(frozen=True, repr=False)
class SearchResult:
    """The front and the chosen subnets; ``Engine(result.subnets[250])`` runs one.

    `document` is front.json; `front` is sorted by falling modelled FPS, by the reading of the search's targets.
    """

    board: str
    space: Space
    scoring: Scoring
    front: tuple[Point, ...]
    targets: tuple[Target, ...]
    document: Mapping[str, Any]
    folder: Path | None = None
    cloud: Mapping[str, Any] = field(default_factory=dict)
    layers: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def subnets(self) -> dict[float, Subnet]:
        """The chosen subnet of each target, by its FPS."""
        return {target.fps: target.subnet for target in self.targets}

    @property
    def genomes(self) -> NDArray[np.uint8]:
        """The front's genomes, uint8 [points, genes]."""
        return np.array([point.genome for point in self.front], np.uint8)

    def __repr__(self) -> str:
        targets = ", ".join(f"{target.fps:g}" for target in self.targets)
        return (
            f"<SearchResult: space {self.space.name!r} on {self.board}, {len(self.front)} subnets on the front by "
            f"{self.scoring.short}, targets {targets} FPS>"
        )

    def save(self, folder: str | os.PathLike[str]) -> SearchResult:
        """Writes front.json, front.csv, front.png, index.html, the targets' subnets and their own configurations.

        Each file is written whole or not at all.

        The picture is left out where matplotlib is not installed.

        Returns:
            this result, with the folder.

        Raises:
            quasar_rt.FileError: something cannot be written.
        """
        path = Path(folder)
        make_folder(path)
        for target in self.targets:
            target.subnet.save(path / target.file)
            if target.hardware is not None:
                target.hardware.save(path / target.hardware_file)
        write_text(path / "front.csv", report.table(self.document))
        if find_spec("matplotlib") is not None:
            write_bytes(path / "front.png", report.draw(self.document, self.cloud))
        left_out = self.document["search"]["boards_left_out"]
        others = [f"No figures for {name}: {reason}." for name, reason in left_out.items()]
        page = report.page(self.document, self.cloud, self.layers, (*self.notes, *others))
        write_text(path / "index.html", page)
        # Last: if front.json exists, all other files exist.
        write_text(path / "front.json", report.to_json(self.document))
        return dataclasses.replace(self, folder=path)
