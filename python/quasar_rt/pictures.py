"""Draws confusion matrices, and writes pictures.

Depends on matplotlib, the ``[host]`` extra, when a picture is drawn.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .files import PNG_METADATA, write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FEW_CLASSES", "draw_confusion", "write_figure"]

#: With more classes than this the confusion matrix has no numbers in it, and there is one sample for each of the first.
FEW_CLASSES = 20


def draw_confusion(confusion: NDArray[np.int64], classes: Sequence[str], path: Path) -> None:
    """Draws the confusion matrix [true, predicted] as a PNG, whole or not at all."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 6.2), layout="constrained")
    axes = figure.subplots()
    # The square root keeps the few errors visible next to the many hits.
    axes.imshow(np.sqrt(confusion), cmap="Blues")
    axes.set_xlabel("predicted by the integer engine")
    axes.set_ylabel("true class")
    if len(classes) <= FEW_CLASSES:
        places = range(len(classes))
        slanted = max(map(len, classes)) > 3
        axes.set_xticks(
            places,
            classes,
            rotation=45 if slanted else 0,
            ha="right" if slanted else "center",
            parse_math=False,
        )
        axes.set_yticks(places, classes, parse_math=False)
        for (row, column), count in np.ndenumerate(confusion):
            if count:
                color = "white" if count > confusion.max() / 4 else "black"
                axes.text(column, row, str(count), ha="center", va="center", size=8, color=color)
    write_figure(figure, path, dpi=80)


def write_figure(figure: Figure, path: Path, dpi: int) -> None:
    """Writes a picture, whole or not at all; the suffix of `path` gives the format (PNG without one).

    It replaces an earlier PNG of this package, and no file of another format.

    Raises:
        quasar_rt.FileError: the file cannot be written.
        ValueError: matplotlib does not write that format.
    """
    buffer = io.BytesIO()
    form = path.suffix[1:] or "png"
    figure.savefig(buffer, dpi=dpi, format=form, metadata=PNG_METADATA if form == "png" else None)
    write_bytes(path, buffer.getvalue())
