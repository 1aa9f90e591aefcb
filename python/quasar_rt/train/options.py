"""The options of a training run, each in one place. Depends on `quasar_rt.options` and `quasar_rt.train.recipe`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING

from ..options import DATA, StrPath, described, option
from ..space import Architecture
from ..tracking import TRACKERS
from .recipe import Recipe

if TYPE_CHECKING:
    from .distributed import Group

__all__ = ["ArchitectureOptions", "Log", "Options"]

#: Takes one line for people.
Log = Callable[[str], object]


@dataclass(frozen=True, repr=False)
class Options:
    """The parameters of `quasar_rt.train.train`."""

    recipe: Recipe = field(metadata=described("what to train."))
    run: StrPath = field(metadata=described("folder of the checkpoints, ``log.csv`` and ``curves.png``."))
    root: StrPath | None = option(None, DATA, "--data DIR|wds:SHARDS|hf:NAME")
    log: Log = option(print, "gets a line for each epoch and stage.")
    _: KW_ONLY
    group: Group | None = option(
        None, "the processes that train together (`quasar_rt.train.distributed.init_process_group`)."
    )
    stop_after_steps: int | None = option(
        None, "stop after so many steps of this start; the next one continues.", "--stop-after-steps", least=1
    )
    track: Sequence[str] = option(
        (),
        "also log each step and epoch to TensorBoard's files in the run's folder, or to Weights & Biases "
        "(`quasar_rt.tracking.TRACKERS`).",
        "--log",
        choices=TRACKERS,
    )


@dataclass(frozen=True, repr=False)
class _OneNetwork:
    architecture: Architecture = field(metadata=described("the network, of the recipe's space."))


@dataclass(frozen=True, repr=False)
class ArchitectureOptions(Options, _OneNetwork):
    """The parameters of `quasar_rt.train.train_architecture`."""

    _: KW_ONLY
    inherit: StrPath | None = option(
        None,
        "a ``supernet.pt``; the network starts from its slice, without a float stage. If None, the network starts from "
        "the recipe's `init`.",
    )
