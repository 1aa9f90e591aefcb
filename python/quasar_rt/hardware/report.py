"""Summaries of estimates: equal blocks taken together, cycles by stage and cause, the largest loss."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import groupby

from .closed_form import Estimate, Layer

__all__ = ["CAUSES", "Group", "by_stage", "groups", "held_back_by", "stage_kind"]

#: Components of a stage's cycles: attribute of `Layer`, label, colour.
CAUSES = (
    ("accumulate", "products", "#3b6ea5"),
    ("drain_stall", "waiting for lanes", "#e08e2b"),
    ("weight_stall", "waiting for weights", "#b5382a"),
    ("wait", "waiting for a result", "#8a6bb0"),
    ("gap", "between commands", "#9a9a9a"),
)


@dataclass(frozen=True)
class Group:
    """A stage of one block or of several equal ones."""

    label: str
    count: int
    layer: Layer


def groups(result: Estimate) -> list[Group]:
    """Returns the stages on the array in a frame's order; equal blocks in a row become one group of stages."""
    blocks: dict[int, list[Layer]] = {}
    others: list[Group] = []
    for layer in result.layers:
        match = re.fullmatch(r"blocks\.(\d+)\.(.*)", layer.name)
        if match is None:
            others.append(Group(layer.name, 1, layer))
        else:
            blocks.setdefault(int(match[1]), []).append(replace(layer, name=match[2]))
    middle = []
    for _, run in groupby(sorted(blocks), key=lambda index: blocks[index]):
        first, *more = run
        label = f"{first}-{more[-1]}" if more else f"{first}"
        middle += [Group(f"blocks.{label}.{layer.name}", 1 + len(more), layer) for layer in blocks[first]]
    return [others[0], *middle, *others[1:]]


def stage_kind(name: str) -> str:
    """Returns a stage's name without its block.

    >>> stage_kind("blocks.11.fc1")
    'fc1'
    """
    return re.sub(r"^blocks\.\d+\.", "", name)


def by_stage(result: Estimate) -> dict[str, dict[str, int]]:
    """Returns the cycles of each kind of stage over all blocks, by the causes of `CAUSES`."""
    stages: dict[str, dict[str, int]] = {}
    for layer in result.layers:
        stage = stages.setdefault(stage_kind(layer.name), {cause: 0 for cause, _, _ in CAUSES})
        for cause in stage:
            stage[cause] += getattr(layer, cause)
    return stages


def held_back_by(result: Estimate) -> str:
    """Returns the cause that costs the array most of its peak, with its share and the stage that suffers most."""
    losses = {cause: share for cause, share in result.losses().items() if cause != "products"}
    cause = max(losses, key=lambda key: losses[key])
    attribute = {label: name for name, label, _ in CAUSES}.get(cause)
    if cause == "ragged tiles":
        cycles = {
            name: sum(
                layer.accumulate - layer.share * layer.cycles
                for layer in result.layers
                if stage_kind(layer.name) == name
            )
            for name in by_stage(result)
        }
    elif attribute is not None:
        cycles = {name: float(causes[attribute]) for name, causes in by_stage(result).items()}
    else:
        return f"{cause} {100 * losses[cause]:.1f} %"
    worst = max(cycles, key=lambda name: cycles[name])
    return f"{cause} {100 * losses[cause]:.1f} %, most in {worst}"
