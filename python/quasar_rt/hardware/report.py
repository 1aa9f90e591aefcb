"""Tables and pictures of the hardware model, and its figures beside published ones.

Every figure has its kind: modelled (ours) or paper-reported (others'). Depends on `quasar_rt.hardware`; the pictures
need matplotlib (the [host] extra).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from ..space import Architecture, Space
from .configuration import (
    DEIT_HEADS,
    CostTable,
    Estimate,
    Hardware,
    Layer,
    Replay,
    Workload,
    estimate,
    replay,
)

__all__ = [
    "CAUSES",
    "LANES",
    "PUBLISHED",
    "SLOTS",
    "Followed",
    "Group",
    "OperatingPoint",
    "Published",
    "by_stage",
    "draw",
    "draw_timeline",
    "followed",
    "groups",
    "held_back_by",
    "operating_points",
    "paper_estimates",
]

#: What a stage's cycles are made of: attribute of `Layer`, label, colour.
CAUSES = (
    ("accumulate", "products", "#3b6ea5"),
    ("drain_stall", "waiting for lanes", "#e08e2b"),
    ("weight_stall", "waiting for weights", "#b5382a"),
    ("wait", "waiting for a result", "#8a6bb0"),
    ("gap", "between commands", "#9a9a9a"),
)


@dataclass(frozen=True)
class Published:
    """A figure that others report."""

    system: str
    device: str
    network: str
    fps: float
    note: str
    source: str


#: Only what the papers' abstracts state; shapes and mixes of the searched models are not in them.
PUBLISHED = (
    Published(
        "Quasar-ViT",
        "ZCU102",
        "searched, 80.4 % top-1",
        101.5,
        "row-wise 4/8-bit weights",
        "arXiv 2407.18175",
    ),
    Published(
        "Quasar-ViT",
        "ZCU102",
        "searched, 78.6 % top-1",
        159.6,
        "row-wise 4/8-bit weights",
        "arXiv 2407.18175",
    ),
    Published(
        "Quasar-ViT",
        "ZCU102",
        "searched, 74.9 % top-1",
        251.6,
        "row-wise 4/8-bit weights",
        "arXiv 2407.18175",
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


@dataclass(frozen=True)
class Group:
    """A stage of one block or of several equal ones."""

    label: str
    count: int
    layer: Layer


def groups(result: Estimate) -> list[Group]:
    """The stages on the array, equal blocks that follow each other taken together."""
    pattern = re.compile(r"blocks\.(\d+)\.(.*)")
    blocks: dict[int, list[Layer]] = {}
    ends: list[Layer] = []
    for layer in result.layers:
        match = pattern.fullmatch(layer.name)
        if match is None:
            ends.append(layer)
        else:
            blocks.setdefault(int(match[1]), []).append(replace(layer, name=match[2]))
    runs: list[tuple[int, int, list[Layer]]] = []
    for index, layers in sorted(blocks.items()):
        if runs and runs[-1][2] == layers:
            runs[-1] = (runs[-1][0], index, layers)
        else:
            runs.append((index, index, layers))
    middle = [
        Group(f"blocks.{first if first == last else f'{first}-{last}'}.{layer.name}", last - first + 1, layer)
        for first, last, layers in runs
        for layer in layers
    ]
    return [Group(ends[0].name, 1, ends[0]), *middle, *(Group(layer.name, 1, layer) for layer in ends[1:])]


def by_stage(result: Estimate) -> dict[str, dict[str, int]]:
    """Cycles of each kind of stage over all blocks, by cause."""
    stages: dict[str, dict[str, int]] = {}
    for layer in result.layers:
        stage = stages.setdefault(_stage(layer.name), {cause: 0 for cause, _, _ in CAUSES})
        for cause, _, _ in CAUSES:
            stage[cause] += getattr(layer, cause)
    return stages


def paper_estimates(
    board: str = "zcu102",
    clocks_mhz: Iterable[float] = (150.0, 200.0),
    eight_bit: Iterable[float] = (0.0, 0.25, 1.0),
) -> list[tuple[float, Estimate]]:
    """DeiT's shapes on a board, each on the array that the design-space search picks for it at that clock.

    Returns:
        (fraction of 8-bit rows, estimate), by shape, clock and fraction.
    """
    fractions = list(eight_bit)
    results = []
    for name in DEIT_HEADS:
        networks = [Workload.deit(name, fraction) for fraction in fractions]
        for clock in clocks_mhz:
            # One design a shape and clock, for the mixes that the array is made for.
            hardware = Hardware.for_board(board, [Workload.deit(name), Workload.deit(name, 0.25)], clock)
            pairs = zip(fractions, networks, strict=True)
            results += [(fraction, estimate(network, hardware)) for fraction, network in pairs]
    return results


@dataclass(frozen=True)
class Followed:
    """A DeiT-tiny mix by both forms of the model, on one configuration."""

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


def followed(board: str = "zcu102", clocks_mhz: Iterable[float] = (150.0, 200.0)) -> list[Followed]:
    """DeiT-tiny's shape by the event-driven model, on the configurations of `paper_estimates`."""
    results = []
    for clock in clocks_mhz:
        networks = [(fraction, Workload.deit("deit-tiny", fraction)) for fraction in (0.0, 0.25, 1.0)]
        hardware = Hardware.for_board(board, [network for _, network in networks[:2]], clock)
        results += [
            Followed(fraction, estimate(network, hardware), replay(network, hardware))
            for fraction, network in networks
        ]
    return results


@dataclass(frozen=True)
class OperatingPoint:
    """The largest uniform network of a space (most multiply-accumulates, then most 8-bit rows) at a frame rate."""

    fps: float
    """What is asked for."""
    space: str
    hardware: Hardware
    architecture: Architecture
    macs: int
    modelled_fps: float


def operating_points(
    targets: Iterable[float], spaces: Iterable[str], board: str = "zcu102", clock_mhz: float = 150.0
) -> list[OperatingPoint]:
    """For each target and space, the largest network with equal blocks that reaches it, where any does."""
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


def held_back_by(result: Estimate) -> str:
    """What costs the array most of its peak, and in which stage."""
    losses = {cause: share for cause, share in result.losses().items() if cause != "products"}
    cause = max(losses, key=lambda key: losses[key])
    attribute = {label: name for name, label, _ in CAUSES}.get(cause)
    if cause == "ragged tiles":
        lost = {
            name: sum(
                layer.accumulate - layer.share * layer.cycles
                for layer in result.layers
                if _stage(layer.name) == name
            )
            for name in by_stage(result)
        }
    elif attribute is not None:
        lost = {name: float(causes[attribute]) for name, causes in by_stage(result).items()}
    else:
        return f"{cause} {100 * losses[cause]:.1f} %"
    worst = max(lost, key=lambda name: lost[name])
    return f"{cause} {100 * losses[cause]:.1f} %, most in {worst}"


def draw(result: Estimate, path: str | os.PathLike[str]) -> None:
    """Draw where the cycles go, how well each stage uses the array, and what the design takes of the board.

    Args:
        result: what `quasar_rt.hardware.estimate` gave.
        path: a picture file; its ending says which kind.
    """
    from matplotlib.figure import Figure

    stages = by_stage(result)
    names = list(stages)
    figure = Figure(figsize=(13, 4.8), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=[2.0, 1.3, 1.3])
    start = [0.0] * len(names)
    for cause, label, colour in CAUSES:
        values = [100 * stages[name][cause] / result.period_cycles for name in names]
        if any(values):
            left.barh(names, values, left=start, label=label, color=colour)
        start = [a + b for a, b in zip(start, values, strict=True)]
    exposed = 100 * result.losses()["vector unit and transfers"]
    if exposed > 0.05:
        left.barh(["LayerNorm, transfers"], [exposed], color="#5a8f5a", label="vector unit and transfers")
    left.invert_yaxis()
    left.set_xlabel("share of the time between two frames (%)")
    left.set_title("Where the time goes", loc="left", fontsize=10)
    left.legend(frameon=False, fontsize=8)

    shares = []
    for name in names:
        layers = [layer for layer in result.layers if _stage(layer.name) == name]
        shares.append(100 * sum(x.share * x.cycles for x in layers) / sum(x.cycles for x in layers))
    middle.barh(names, shares, color="#3b6ea5")
    middle.axvline(
        100 * result.share, color="#b5382a", linewidth=1, label=f"frame: {100 * result.share:.0f} %"
    )
    middle.invert_yaxis()
    middle.set_xlim(0, 100)
    middle.set_xlabel("share of the array's peak (%)")
    middle.set_title(f"Use of the array (line: frame, {100 * result.share:.0f} %)", loc="left", fontsize=10)

    used, board, usable = result.resources, result.board_resources, result.board_usable
    kinds = [kind for kind in ("dsp", "lut", "ff", "bram36", "uram") if getattr(board, kind)]
    taken = [100 * getattr(used, kind) / getattr(board, kind) for kind in kinds]
    right.barh([kind.upper() for kind in kinds], taken, color="#5a8f5a")
    for row, kind in enumerate(kinds):
        limit = 100 * getattr(usable, kind) / getattr(board, kind)
        right.plot([limit, limit], [row - 0.42, row + 0.42], color="#b5382a")
        right.text(2, row, f"{getattr(used, kind):,} of {getattr(board, kind):,}", va="center", fontsize=8)
    right.invert_yaxis()
    right.set_xlim(0, max(100.0, *taken))
    right.set_xlabel("share of the board (%)")
    right.set_title("The design (line: usable share)", loc="left", fontsize=10)

    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
    only = "" if result.hls else " (modelled only, no HLS)"
    figure.suptitle(
        f"{result.network} on {result.board}, {result.clock_mhz:g} MHz, mode {result.mode}{only}. Modelled: "
        f"{result.fps:,.1f} frames/s, latency {result.latency_s * 1e3:.3g} ms; "
        f"with the host {result.fps_with_host:,.1f} frames/s",
        fontsize=11,
    )
    figure.savefig(path, dpi=130)


#: Units from top to bottom, and the colours of a frame's slots: attention, MLP, others.
LANES = ("array", "drain", "softmax", "norm", "load")
SLOTS = (("#1f5a94", "#7fb0dc", "#16324f"), ("#b5521b", "#f0b183", "#5c2a0e"))


def draw_timeline(result: Replay, path: str | os.PathLike[str], title: str, cycles: int = 60_000) -> None:
    """Draw which unit works on which frame and when: the period's first cycles above, an attention phase below.

    Args:
        result: what `quasar_rt.hardware.replay` gave.
        path: a picture file; its ending says which kind.
        title: what stands above it.
        cycles: of the upper part.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    begin = min(span.start for span in result.spans if span.unit == "array")
    attention = [s for s in result.spans if s.unit == "array" and s.stage == "attention" and s.start > begin]
    middle = attention[0].start if attention else begin
    figure = Figure(figsize=(15, 7), layout="constrained")
    for axes, first, length in zip(
        figure.subplots(2, 1), (begin, middle - 500), (cycles, cycles // 6), strict=True
    ):
        for row, unit in enumerate(LANES):
            for span in result.spans:
                if span.unit == unit and span.end > first and span.start < first + length:
                    kind = 2 if span.phase == 0 or span.stage in ("head", "norm") else 1 - span.phase % 2
                    colour = SLOTS[span.slot][kind]
                    axes.broken_barh(
                        [(span.start - first, span.end - span.start)],
                        (row - 0.4, 0.8),
                        facecolor=colour,
                        alpha=0.25,
                    )
                    if span.busy:
                        # Where a command waits first and then works, work is drawn at its end.
                        axes.broken_barh(
                            [(span.end - span.busy - first, span.busy)], (row - 0.4, 0.8), facecolor=colour
                        )
        axes.set_yticks(range(len(LANES)), LANES)
        axes.set_xlim(0, length)
        axes.invert_yaxis()
        axes.set_xlabel(f"cycles from {first:,} on")
        axes.spines[["top", "right"]].set_visible(False)
    kinds = ("attention", "MLP", "embedding, norm, head")
    handles = [
        Patch(color=SLOTS[slot][kind], label=f"frame slot {slot}: {kinds[kind]}")
        for slot in range(2)
        for kind in range(3)
    ]
    handles.append(Patch(color="#777777", alpha=0.25, label="waiting"))
    figure.legend(handles=handles, loc="outside lower center", ncols=7, frameon=False, fontsize=8)
    figure.suptitle(f"{title}. Modelled, event by event: {result.period_cycles:,} cycles between frames")
    figure.savefig(path, dpi=120)


def _stage(name: str) -> str:
    return re.sub(r"^blocks\.\d+\.", "", name)
