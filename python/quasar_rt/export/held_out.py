"""Chooses the pictures that are held out, such that none of them has a near-duplicate among the others.

In frames of a video, or crops of one photograph, a picture's neighbour is nearly that picture again: what was fitted to
the one seems to hold for the other. So pictures with near features stay together, as do those of a small folder, and
whole stretches of the order are held out. Depends on: torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["LEAST_GROUPS", "HeldOut", "folder_of", "hold_out"]

#: The order is cut into so many stretches, one of five is held out, and there are as many groups of pictures at least.
STRETCHES, EACH, LEAST_GROUPS = 15, 5, 20
#: Two pictures are near if their features are at most this share of the distance to the picture that stands at this
#: share of all, by distance, seen from either: a measure that every kind of features has.
NEAR, RANK = 0.4, 1 / 8
#: Pictures whose distances to all are in memory at a time.
PART = 256


@dataclass(frozen=True)
class HeldOut:
    """The pictures that are held out, and the groups of all pictures: those of one group are near each other."""

    which: NDArray[np.bool_]
    """True for a picture that is held out: bool [pictures]."""
    group: NDArray[np.intp]
    """The number of a picture's group, [pictures]."""
    groups: int

    @property
    def enough(self) -> bool:
        """True if the groups suffice to hold some out."""
        return self.groups >= LEAST_GROUPS

    def as_dict(self) -> dict[str, int]:
        """Returns the numbers for JSON."""
        held = len(np.unique(self.group[self.which]))
        return {"held_out": int(self.which.sum()), "groups": self.groups, "held_out_groups": held}


def folder_of(image: object) -> str:
    """Returns the folder of a picture's file; no file has none."""
    return str(Path(image).parent) if isinstance(image, (str, os.PathLike)) else ""


def hold_out(features: Tensor, folders: Sequence[str]) -> HeldOut:
    """Holds a fifth of the pictures out: whole stretches of their order, and all near-duplicates with them.

    Args:
        features: of the float network, [pictures, embed].
        folders: of each picture (`folder_of`); empty ones do not count.
    """
    count = len(features)
    group = _groups(_near(features), folders, max(1, count // STRETCHES))
    _, first, group, sizes = np.unique(group, return_index=True, return_inverse=True, return_counts=True)
    # A group that would make up most of what is held out is never held out.
    small = sizes[group] <= max(1, 2 * count // STRETCHES)
    order = np.argsort(first[group] * count + np.arange(count), kind="stable")
    order = order[small[order]]
    # A group belongs to the stretch in which its first picture is.
    starts = {int(group[image]): place for place, image in reversed(list(enumerate(order)))}
    stretch = {number: place * STRETCHES // len(order) for number, place in starts.items()}
    which = np.array([stretch.get(int(number), 0) % EACH == EACH // 2 for number in group])
    return HeldOut(which, group, len(starts))


def _near(features: Tensor) -> NDArray[np.bool_]:
    """Returns which pictures are near each other: bool [pictures, pictures]."""
    centred = features.double() - features.double().mean(dim=0)
    rank = 1 + int(len(centred) * RANK)
    reach = torch.cat([d.kthvalue(rank, dim=1).values for d in _distances(centred)])
    near = np.empty((len(centred), len(centred)), np.bool_)
    for start, distances in enumerate(_distances(centred)):
        rows = slice(start * PART, (start + 1) * PART)
        near[rows] = (distances <= NEAR * torch.minimum(reach[rows, None], reach)).numpy()
    return near


def _distances(features: Tensor) -> Iterable[Tensor]:
    """Yields the distances of some pictures at a time to all: [some, pictures]."""
    return (torch.cdist(part, features) for part in features.split(PART))


def _groups(near: NDArray[np.bool_], folders: Sequence[str], small: int) -> NDArray[np.intp]:
    """Returns a number for each picture: that of all that can be reached from near to near, or in a small folder."""
    group = np.full(len(near), -1)
    names, folder, sizes = np.unique(np.array(folders), return_inverse=True, return_counts=True)
    whole = (sizes <= small) & (names != "")
    for start in range(len(near)):
        reached = [start] if group[start] < 0 else []
        while reached:
            one = reached.pop()
            linked = near[one] | (whole[folder[one]] & (folder == folder[one]))
            fresh = np.flatnonzero(linked & (group < 0))
            group[fresh] = start
            reached.extend(fresh.tolist())
    return group
