"""The result of a fit: its subnets with their frame rates and errors, as a report and a picture."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..evaluate import Estimate, distances, wilson
from ..files import write_text
from ..hardware import Hardware, Rates, RatesOf
from ..subnet import Subnet

__all__ = ["Errors", "Fit", "Fitted"]

#: The matrices of a block, as rows of the report have them.
MATRICES = ("q", "k", "v", "proj", "fc1", "fc2")


@dataclass(frozen=True)
class Errors:
    """The distance of a subnet's outputs from the float network's, on the images that were held out: **measured**.

    The outputs are the logits, or the embedding of a network without classes.
    """

    relative: float
    """The relative error (`quasar_rt.evaluate.distances`)."""
    agreement: Estimate
    """The share of images with the float network's class or, without classes, with its nearest neighbour among them,
    with its 95 % interval (Wilson)."""

    @classmethod
    def between(cls, found: NDArray[np.float32], exact: NDArray[np.float32], classes: bool) -> Errors:
        """Measures outputs, float32 [images, values], against those of the float network."""
        distance, spread = distances(found, exact)
        of = (lambda outputs: outputs.argmax(axis=1)) if classes else _nearest_neighbours
        same = int((of(found) == of(exact)).sum())
        return cls(float(distance.mean() / max(spread.mean(), 1e-30)), wilson(same, len(exact)))


def _nearest_neighbours(outputs: NDArray[np.float32]) -> NDArray[np.intp]:
    units = outputs / np.maximum(np.linalg.norm(outputs, axis=1, keepdims=True), 1e-30)
    cosines = units @ units.T
    np.fill_diagonal(cosines, -np.inf)
    return np.asarray(cosines.argmax(axis=1))


@dataclass(frozen=True)
class Fitted:
    """One subnet of a fit."""

    path: Path
    subnet: Subnet
    wanted_fps: float | None
    """The frame rate asked for; None on a curve."""
    rates: Rates
    """Frames a second, from the file's command lists event by event: **modelled**."""
    errors: Errors

    @cached_property
    def eight_bit(self) -> list[dict[str, float]]:
        """The share of 8-bit rows of q, k, v, proj, fc1 and fc2 in each block."""
        blocks = len(self.subnet.config["blocks"])
        tensors = {name: bits == 8 for name, bits in self.subnet.tensors().items() if name.endswith(".bits")}

        def shares(i: int) -> dict[str, float]:
            rows = dict(zip("qkv", np.split(tensors[f"blocks.{i}.qkv.bits"], 3), strict=True))
            rows |= {name: tensors[f"blocks.{i}.{name}.bits"] for name in MATRICES[3:]}
            return {name: round(float(chosen.mean()), 4) for name, chosen in rows.items()}

        return [shares(i) for i in range(blocks)]

    @property
    def provenance(self) -> dict[str, Any]:
        """The record of the quantization: rotation and correction among it."""
        found: dict[str, Any] = self.subnet.config["provenance"]
        return found

    @property
    def eight_bit_weights(self) -> float:
        """The share of the blocks' weights that have 8 bits."""
        layers = [layer for layer in self.subnet.summary().layers if layer.name.startswith("blocks.")]
        weights = sum(layer.rows * layer.columns for layer in layers)
        return sum(layer.rows8 * layer.columns for layer in layers) / weights

    def as_dict(self) -> dict[str, Any]:
        """Returns the figures for JSON, with the widths by layer."""
        return {
            "file": self.path.name,
            "sha256": self.subnet.sha256,
            "wanted_fps": self.wanted_fps,
            "modelled": asdict(self.rates),
            "measured": {"relative": self.errors.relative, "agreement": self.errors.agreement._asdict()},
            "eight_bit_weights": round(self.eight_bit_weights, 4),
            "eight_bit_rows": self.eight_bit,
            "layers": self.provenance["layers"],
            "corrections": self.provenance.get("corrections", []),
            **{
                key: self.provenance[key]
                for key in ("uncorrected", "rotated", "rotation_tried")
                if key in self.provenance
            },
        }


@dataclass(frozen=True)
class Fit:
    """The subnets of a fit, by rising frame rate."""

    name: str
    board: str
    fps_of: RatesOf
    hardware: Hardware
    calibration_images: int
    held_out_images: int
    fitted: list[Fitted]

    def as_dict(self) -> dict[str, Any]:
        """Returns the report, for JSON."""
        return {
            "quasar_rt": version("quasar-rt"),
            "name": self.name,
            "board": self.board,
            "fps_of": self.fps_of,
            "calibration_images": self.calibration_images,
            "held_out_images": self.held_out_images,
            "subnets": [one.as_dict() for one in self.fitted],
        }

    def save(self, folder: Path) -> None:
        """Writes ``report.json`` and ``hardware.toml``."""
        write_text(folder / "report.json", json.dumps(self.as_dict(), indent=1) + "\n")
        self.hardware.save(folder / "hardware.toml")
