"""The part of a parameter that a subnet uses: leading rows and columns, or single rows.

May depend on: torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Region", "union"]


@dataclass(frozen=True, eq=False)
class Region:
    """A part of a parameter, seen as `shape` [parts, rows, columns].

    Either a union of `boxes`, each the leading (rows, columns) of every part, or `rows`, a mask bool [rows] of a
    parameter of one dimension.
    """

    shape: tuple[int, int, int]
    boxes: tuple[tuple[int, int], ...] = ()
    rows: Tensor | None = None

    @property
    def whole(self) -> bool:
        """True if the region is the whole parameter."""
        return self.boxes == (self.shape[1:],)

    def views(self, x: Tensor) -> Iterator[Tensor]:
        """Yields views of `x` (a tensor of the parameter's shape) that cover the boxes without overlap."""
        cube, done = x.view(self.shape), 0
        for rows, columns in self.boxes:
            yield cube[:, :rows, done:columns]
            done = columns

    def mask(self, x: Tensor) -> Tensor:
        """Returns the region as booleans of `x`'s shape."""
        if self.rows is not None:
            return self.rows
        mask = torch.zeros_like(x, dtype=torch.bool)
        for view in self.views(mask):
            view.fill_(True)
        return mask

    def __or__(self, other: Region) -> Region:
        if self.rows is not None and other.rows is not None:
            return Region(self.shape, rows=self.rows | other.rows)
        # A staircase: the box with the most rows first, each further one with more columns.
        steps: list[tuple[int, int]] = []
        for rows, columns in sorted({*self.boxes, *other.boxes}, reverse=True):
            if not steps or columns > steps[-1][1]:
                steps.append((rows, columns))
        return Region(self.shape, tuple(steps))


def union(regions: Iterable[Mapping[str, Region]]) -> dict[str, Region]:
    """Merges what several subnets touch: the results of `ViT.touched` after activating each."""
    merged: dict[str, Region] = {}
    for part in regions:
        for name, region in part.items():
            merged[name] = merged[name] | region if name in merged else region
    return merged
