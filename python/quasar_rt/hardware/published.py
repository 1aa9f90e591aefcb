"""The hardware model next to published figures. Each figure is modelled (ours) or paper-reported (others')."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from ..space import Architecture, Space
from .closed_form import Estimate, estimate
from .configuration import Hardware
from .cost_table import CostTable
from .event_model import Replay, replay
from .workload import DEIT_HEADS, Workload

__all__ = [
    "PUBLISHED",
    "BothForms",
    "Comparison",
    "OperatingPoint",
    "Published",
    "SpaceRange",
    "both_forms",
    "operating_points",
    "paper_estimates",
]


@dataclass(frozen=True)
class Published:
    """A figure that a paper reports."""

    system: str
    device: str
    network: str
    fps: float
    note: str
    source: str


#: Figures of the papers' abstracts, which do not state the shapes and widths of the searched models.
PUBLISHED = (
    *(
        Published("Quasar-ViT", "ZCU102", network, fps, "row-wise 4/8-bit weights", "arXiv 2407.18175")
        for network, fps in (
            ("searched, 80.4 % top-1", 101.5),
            ("searched, 78.6 % top-1", 159.6),
            ("searched, 74.9 % top-1", 251.6),
        )
    ),
    Published("Auto-ViT-Acc", "FPGA", "DeiT-base", 56.8, "mixed-scheme quantization", "arXiv 2208.05163"),
    Published(
        "float32 baseline of Auto-ViT-Acc", "FPGA", "DeiT-base", 10.0, "32-bit float", "arXiv 2208.05163"
    ),
    Published(
        "HG-PIPE",
        "VCK190",
        "ViT, one network unrolled",
        7118.0,
        "a Versal device, far larger",
        "arXiv 2407.17879",
    ),
)


def paper_estimates(
    board: str = "zcu102",
    clocks_mhz: Iterable[float] = (150.0, 100.0),
    eight_bit: Iterable[float] = (0.0, 0.25, 1.0),
) -> list[tuple[float, Estimate]]:
    """Models DeiT's shapes on a board, each on the array that the design-space search selects for it at that clock.

    Returns:
        (fraction of 8-bit rows, estimate), by shape, clock and fraction.
    """
    fractions = list(eight_bit)
    results = []
    for name in DEIT_HEADS:
        networks = [Workload.deit(name, fraction) for fraction in fractions]
        for clock in clocks_mhz:
            # One design for each shape and clock, made for these two mixes.
            hardware = Hardware.for_board(board, [Workload.deit(name), Workload.deit(name, 0.25)], clock)
            pairs = zip(fractions, networks, strict=True)
            results += [(fraction, estimate(network, hardware)) for fraction, network in pairs]
    return results


@dataclass(frozen=True)
class BothForms:
    """Figures of one DeiT-tiny mix by both forms of the model, on one configuration."""

    eight_bit: float
    closed: Estimate
    events: Replay

    @property
    def fps(self) -> float:
        """Frames a second, event by event, host excluded."""
        return self.closed.clock_mhz * 1e6 / self.events.period_cycles

    @property
    def share(self) -> float:
        """Row-pair products over the array's peak, all stalls included."""
        return self.closed.share * self.closed.period_cycles / self.events.period_cycles


def both_forms(board: str = "zcu102", clocks_mhz: Iterable[float] = (150.0, 100.0)) -> list[BothForms]:
    """Models DeiT-tiny's shape by both forms of the model, on the configurations of `paper_estimates`."""
    results = []
    for clock in clocks_mhz:
        networks = [(fraction, Workload.deit("deit-tiny", fraction)) for fraction in (0.0, 0.25, 1.0)]
        hardware = Hardware.for_board(board, [network for _, network in networks[:2]], clock)
        results += [
            BothForms(fraction, estimate(network, hardware), replay(network, hardware))
            for fraction, network in networks
        ]
    return results


@dataclass(frozen=True)
class OperatingPoint:
    """The largest uniform network of a space (most multiply-accumulates, then most 8-bit rows) at a frame rate."""

    fps: float
    """The least frame rate asked for."""
    space: str
    hardware: Hardware
    architecture: Architecture
    macs: int
    modelled_fps: float


def operating_points(
    targets: Iterable[float], spaces: Iterable[str], board: str = "zcu102", clock_mhz: float = 150.0
) -> list[OperatingPoint]:
    """Finds the largest network with equal blocks for each frame rate and space, where one reaches the rate."""
    points = []
    targets = list(targets)
    for name in spaces:
        space = Space.load(name)
        hardware = Hardware.for_board(board, space, clock_mhz)
        choices = space.settings["choices"]
        block = [range(len(choices[key])) for key in ("heads", "mlp_ratio", "eight_bit")]
        genomes = []
        for embed, depth, heads, mlp_ratio, eight_bit in product(
            range(len(choices["embed"])), range(len(choices["depth"])), *block
        ):
            fractions = [eight_bit] * (
                len([gene for gene, _ in space.genes if gene.startswith("blocks.0.")]) - 2
            )
            genes = [embed, depth, *([heads, mlp_ratio, *fractions] * max(choices["depth"]))]
            genomes.append(space.canonical(genes))
        fps = CostTable(space, hardware).evaluate(np.stack(genomes))["fps"]
        macs = [Workload.of_architecture(space, space.decode(genome)).macs for genome in genomes]
        for target in targets:
            able = [i for i in range(len(genomes)) if fps[i] >= target]
            if able:
                # Genomes rise in the 8-bit fraction last, so that of equals the one with most 8-bit rows comes last.
                best = max(able, key=lambda i: (macs[i], i))
                architecture = space.decode(genomes[best])
                points.append(
                    OperatingPoint(target, name, hardware, architecture, macs[best], float(fps[best]))
                )
    return points


@dataclass(frozen=True)
class SpaceRange:
    """Frame rates of the slowest and the fastest network of a space, and of the host."""

    space: str
    hardware: Hardware
    slowest_fps: float
    fastest_fps: float
    host_fps: float

    @classmethod
    def of(cls, name: str, board: str, clock_mhz: float) -> SpaceRange:
        """Models a space on the design that the search selects for it."""
        space = Space.load(name)
        hardware = Hardware.for_board(board, space, clock_mhz)
        table = CostTable(space, hardware)
        return cls(name, hardware, table.slowest()[1], table.fastest()[1], table.host.fps)


@dataclass(frozen=True)
class Comparison:
    """DeiT's shapes and the paper's spaces on zcu102, next to `PUBLISHED`."""

    shapes: list[tuple[float, Estimate]]
    both_forms: list[BothForms]
    spaces: list[SpaceRange]
    points: list[OperatingPoint]

    @classmethod
    def make(cls) -> Comparison:
        """Models all of it; the operating points are those of Quasar-ViT's frame rates."""
        names = ("tiny", "small", "base")
        asked = [figure.fps for figure in PUBLISHED if figure.system == "Quasar-ViT"]
        spaces = [SpaceRange.of(name, "zcu102", clock) for name in names for clock in (150.0, 100.0)]
        return cls(paper_estimates(), both_forms(), spaces, operating_points(asked, names))

    def to_dict(self) -> dict[str, Any]:
        """Returns the figures as a dictionary for JSON; each key names their kind."""
        return {
            "modelled": [{"eight_bit": fraction, **result.to_dict()} for fraction, result in self.shapes],
            "modelled_spaces": [
                {
                    "space": one.space,
                    "clock_mhz": one.hardware.clock_mhz,
                    "slowest_fps": one.slowest_fps,
                    "fastest_fps": one.fastest_fps,
                    "host_fps": one.host_fps,
                }
                for one in self.spaces
            ],
            "modelled_operating_points": [
                {
                    "fps_asked": point.fps,
                    "space": point.space,
                    "clock_mhz": point.hardware.clock_mhz,
                    "architecture": point.architecture.to_dict(),
                    "macs": point.macs,
                    "fps": point.modelled_fps,
                }
                for point in self.points
            ],
            "paper_reported": [vars(figure) for figure in PUBLISHED],
        }
