"""Part (b) of docs/evidence.md: does layer scaling help networks of 12 blocks?

Each seed's network is trained in float with layer scaling (a learned factor for each channel of both branches of each
block) and without, from the same weights and on the same images, and then quantized. Depends on `evidence_networks`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evidence_networks import (
    DIGITS,
    Task,
    all_rows,
    as_timm,
    figures,
    float_logits,
    integer_logits,
    rounded,
    split,
    train,
    tuned,
)
from quasar_rt.export.layerwise import Method

__all__ = ["PAGE", "Settings", "scaling"]


@dataclass(frozen=True)
class Settings:
    """`initial` values of the factors; 0 for a network without them."""

    task: Task
    initial: tuple[float, ...] = (0.0, 1.0, 0.1)
    methods: tuple[Method, ...] = ("nearest", "gptq")


def scaling(settings: Settings, seed: int, initial: float, root: Path | None = None) -> dict[str, Any]:
    """Trains a network with layer scaling that starts at `initial`, and measures it: a cell of results.json.

    `root` is that of `split`.

    Returns:
        `figures` of the network in ``float``, rounded (``nearest_4``, ``gptq_8``, ...) and tuned (``tuned_4``).
    """
    task = settings.task
    data = split(task, seed, root)
    network = train(task, data, seed, initial or None)
    model = as_timm(task, network)
    wanted = float_logits(task, model, data.held_images)
    found = {"float": figures(wanted, wanted, data.held_labels)}
    subnets = {
        f"{method}_{8 if eight else 4}": rounded(
            task, model, data.images[: task.calibration], method, all_rows(task, eight)
        )[0]
        for method in settings.methods
        for eight in (False, True)
    }
    subnets["tuned_4"] = tuned(task, network, data, all_rows(task, False), seed)
    for name, subnet in subnets.items():
        found[name] = figures(integer_logits(subnet, data.held_images), wanted, data.held_labels)
    return found


#: The settings of the page: a network three times as deep as part (a)'s.
PAGE = Settings(dataclasses.replace(DIGITS, depth=12, epochs=20, rate=3e-3))
