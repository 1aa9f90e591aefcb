"""Draws the curves of a training run's stages. Depends on: matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

from ..files import PNG_METADATA
from . import checkpoint

mpl.use("Agg")
from matplotlib import pyplot as plt

__all__ = ["draw_curves"]


def draw_curves(history: Mapping[str, Sequence[Mapping[str, Any]]], path: Path, title: str) -> None:
    """Draws loss and validation accuracy of every stage over the run's epochs."""
    figure, (above, below) = plt.subplots(2, 1, figsize=(7.5, 6.5), sharex=True, layout="constrained")
    colours = {"largest": "C0", "smallest": "C1", "random": "C2"}
    styles = {"baseline": ":"}
    first, edges, named = 1, [], set()
    for stage, rows in history.items():
        if not rows:
            continue
        # The float baseline is trained over the same epochs as the quantized stage, not after it.
        if stage == "baseline":
            first -= len(rows)
        epochs = [first + i for i in range(len(rows))]
        for kind, colour in colours.items():
            kind_label = f"{kind} (float)" if stage == "baseline" else kind
            for axes, column in ((above, f"loss_{kind}"), (below, f"top1_{kind}")):
                values = [row.get(column) for row in rows]
                if any(value is None for value in values):
                    continue
                factor = 100 if axes is below else 1
                label = kind_label if (axes, kind_label) not in named else None
                named.add((axes, kind_label))
                axes.plot(
                    epochs,
                    [factor * float(value) for value in values if value is not None],
                    color=colour,
                    linestyle=styles.get(stage, "-"),
                    marker="o",
                    markersize=3,
                    label=label,
                )
        if stage != "baseline":
            edges.append((first, len(rows), stage))
        first += len(rows)
    for start, count, stage in edges:
        for axes in (above, below):
            if start > 1:
                axes.axvline(start - 0.5, color="grey", linewidth=0.8)
        above.annotate(
            stage,
            (start - 0.5 + count / 2, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 4),
            textcoords="offset points",
            ha="center",
            size=9,
        )
    above.set_ylabel("training loss")
    below.set_ylabel("validation top-1, averaged weights (%)")
    below.set_xlabel("epoch")
    below.xaxis.get_major_locator().set_params(integer=True)
    for axes in (above, below):
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    figure.suptitle(title, size=11)
    try:
        with checkpoint.write_atomically(path) as file:
            figure.savefig(file, dpi=90, format="png", metadata=PNG_METADATA)
    finally:
        plt.close(figure)
