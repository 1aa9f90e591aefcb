"""The picture of a fit: error against frame rate, and where the 8-bit rows are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ..pictures import write_figure
from .result import MATRICES, Fit

__all__ = ["draw"]


def draw(fit: Fit, path: Path) -> None:
    """Draws a fit as a PNG file."""
    subnets = sorted(fit.fitted, key=lambda one: one.rates.of(fit.fps_of))
    figure = Figure(figsize=(6 + 1.1 * len(subnets), 4.2), layout="constrained")
    grid = figure.add_gridspec(1, 1 + len(subnets), width_ratios=[5, *[1] * len(subnets)])
    axes = figure.add_subplot(grid[0])
    found = [one.rates.of(fit.fps_of) for one in subnets]
    axes.plot(found, [one.errors.relative for one in subnets], "o-", color="#1b6ca8", clip_on=False)
    for rate, one in zip(found, subnets, strict=True):
        axes.annotate(
            f"{rate:.0f}",
            (rate, one.errors.relative),
            (0, 7),
            textcoords="offset points",
            ha="center",
            size=8,
        )
        if one.wanted_fps is not None:
            axes.axvline(one.wanted_fps, color="0.8", lw=0.8, zorder=0)
    axes.set(
        xlabel=f"frames a second, {'with the host' if fit.fps_of == 'board' else 'accelerator alone'} (modelled)",
        ylabel=f"relative error, {fit.held_out_images} images held out (measured)",
        title=f"{fit.name} on {fit.board}",
    )
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    for i, (rate, one) in enumerate(zip(found, subnets, strict=True)):
        panel = figure.add_subplot(grid[1 + i])
        shares = np.array([[block[name] for name in MATRICES] for block in one.eight_bit])
        image = panel.imshow(shares, vmin=0, vmax=1, cmap="Blues", aspect="auto")
        panel.set_title(f"{rate:.0f}", size=8)
        panel.set_xticks(range(len(MATRICES)), MATRICES, size=6, rotation=90)
        panel.set_yticks([])
        if i == 0:
            panel.set_yticks(range(len(shares)))
            panel.tick_params("y", labelsize=6)
            panel.set_ylabel("block", size=8)
    figure.colorbar(image, ax=figure.axes[1:], label="share of 8-bit rows", shrink=0.8)
    write_figure(figure, path, dpi=120)
