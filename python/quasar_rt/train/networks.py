"""Networks of a recipe: made, prepared for their quantizers, and read from a supernet's file.

Depends on: torch, `quasar_rt.space`, `quasar_rt.train`.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from typing import Any, cast

import torch

from ..errors import QuasarError
from ..rows.bits import Criterion
from ..space import Architecture, Space
from . import checkpoint
from .checkpoint import CheckpointError
from .data import AnySplit, Data
from .distributed import Group
from .model import ViT, ViTConfig
from .recipe import Recipe
from .widths import gather_statistics, order_by_importance, rank_rows

__all__ = ["check_split", "load_supernet", "make_model", "prepare", "read_supernet"]


def make_model(recipe: Recipe, space: Space, architecture: Architecture | None = None) -> ViT:
    """Makes the space's supernet, or the one network `architecture`, with the recipe's seeded initial weights.

    Raises:
        quasar_rt.InvalidValueError: the architecture is not in the space.
    """
    torch.manual_seed(recipe.seed)
    d = recipe.data
    channels = space.settings["image"]["channels"]
    mean, std = (values * channels if len(values) == 1 else values for values in (d.mean, d.std))
    config = ViTConfig.of(space, mean, std, layer_scale=recipe.layer_scale or None)
    if architecture is not None:
        space.encode(architecture)  # raises for a network of another space
        config = dataclasses.replace(config, architecture=architecture)
    return ViT(config)


def prepare(
    model: ViT,
    recipe: Recipe,
    training: AnySplit,
    group: Group | None = None,
    log: Callable[[str], object] = lambda _: None,
    order: bool = False,
) -> None:
    """Ranks the rows, sets the activations' ranges and turns the quantizers on.

    Args:
        model: trained in float.
        recipe: its `quantization` has the settings.
        training: where its scoring and calibration images come from.
        group: every process takes the first process's result.
        log: gets one line.
        order: put channels, heads and hidden units in the order of their importance first.
    """
    q, group = recipe.quantization, group or Group()
    images, labels = training.first(q.scoring)
    if order:
        order_by_importance(model, gather_statistics(model, images, labels))
    statistics = gather_statistics(model, images, labels)
    rank_rows(model, statistics, cast(Criterion, q.criterion), recipe.seed)
    model.calibrate(training.first(q.calibration)[0], q.percentile)
    group.broadcast(model)
    model.activate(model.active)
    model.quantized = True
    rows = sum(len(layer.bits) for layer in model.matrices().values())
    eight = sum(int((layer.bits == 8).sum()) for layer in model.matrices().values())
    ordered = "units ordered by importance, " if order else ""
    log(f"{ordered}rows ranked by {q.criterion}, ranges set; largest network: {eight} of {rows} rows 8-bit")


def load_supernet(path: str | os.PathLike[str]) -> tuple[ViT, Recipe, Space]:
    """Reads a ``supernet.pt``: the averaged supernet (evaluation mode, quantized), its recipe and its space.

    Raises:
        CheckpointError: the file is damaged, or no supernet.
        FileNotFoundError: there is none.
    """
    return supernet_of(read_supernet(path), path)


def supernet_of(state: dict[str, Any], path: str | os.PathLike[str]) -> tuple[ViT, Recipe, Space]:
    """Makes the supernet of a state that `read_supernet` returned. Raises as `load_supernet`."""
    with checkpoint.reading(path):
        recipe = Recipe.from_dict(json.loads(state["recipe"]), str(path))
        try:
            space = Space.from_toml(state["space"])
        except QuasarError as error:
            raise CheckpointError(f"'{path}': {error}") from error
        model = make_model(recipe, space)
        checkpoint.load_weights(model, state["model"], path)
    model.quantized = True
    return model.eval(), recipe, space


def read_supernet(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads the state in a ``supernet.pt``. Raises as `load_supernet`."""
    state = checkpoint.load(path)
    if state.get("kind") != "supernet":
        raise CheckpointError(
            f"'{path}' is a checkpoint within a run, not a supernet: use its folder's supernet.pt"
        )
    return state


def check_split(state: dict[str, Any], path: str | os.PathLike[str], data: Data) -> None:
    """Refuses data whose split differs from the data that the supernet was trained on.

    Args:
        state: what `read_supernet` returned for `path`.
        path: named in the error.
        data: the images to check.

    Raises:
        CheckpointError: the data differ.
    """
    if state.get("data") != data.identity:
        raise CheckpointError(
            f"the data differ from those that '{path}' was trained on: its validation images would not be unseen"
        )
