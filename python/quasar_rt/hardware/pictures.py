"""Pictures of the hardware model (need matplotlib, the ``[host]`` extra)."""

from __future__ import annotations

import os
from pathlib import Path

from ..pictures import write_figure
from .closed_form import Estimate
from .event_model import Replay
from .report import CAUSES, by_stage, stage_kind

__all__ = ["LANES", "SLOTS", "draw", "draw_timeline"]


def draw(result: Estimate, path: str | os.PathLike[str]) -> None:
    """Draws where the cycles go, how well each stage uses the array, and how much of the board the design takes.

    Args:
        result: an estimate of `quasar_rt.hardware.estimate`.
        path: a picture file; its suffix gives the format.
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
    # Below the axes: inside, it would cover bars.
    figure.legend(loc="outside lower left", ncols=6, frameon=False, fontsize=8)

    shares = []
    for name in names:
        layers = [layer for layer in result.layers if stage_kind(layer.name) == name]
        shares.append(100 * sum(x.share * x.cycles for x in layers) / sum(x.cycles for x in layers))
    middle.barh(names, shares, color="#3b6ea5")
    middle.axvline(100 * result.share, color="#b5382a", linewidth=1)
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
    figure.suptitle(
        f"{result.network} on {result.board}, {result.clock_mhz:g} MHz. Modelled: "
        f"{result.fps:,.1f} frames/s, latency {result.latency_s * 1e3:.3g} ms; "
        f"with the host {result.fps_with_host:,.1f} frames/s",
        fontsize=11,
    )
    write_figure(figure, Path(path), dpi=130)


#: Units from top to bottom, and the colours of a frame's slots: attention, MLP, others.
LANES = ("array", "drain", "softmax", "norm", "load")
SLOTS = (("#1f5a94", "#7fb0dc", "#16324f"), ("#b5521b", "#f0b183", "#5c2a0e"))


def draw_timeline(result: Replay, path: str | os.PathLike[str], title: str, cycles: int = 60_000) -> None:
    """Draws which unit works on which frame and when: the first cycles of the period above, attention below.

    Args:
        result: a replay of `quasar_rt.hardware.replay`.
        path: a picture file; its suffix gives the format.
        title: the picture's title.
        cycles: the length of the upper part.
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
                        # A command that waits and then works is drawn with the work at its end.
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
    write_figure(figure, Path(path), dpi=120)
