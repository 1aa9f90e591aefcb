"""The settings of a search: what the caller asked for, with the defaults filled in.

Depends on `quasar_rt.errors` and `quasar_rt.hardware`; other modules of `quasar_rt.nas` take their defaults from here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, cast

import numpy as np

from ..errors import InvalidValueError
from ..hardware import CostTable, Designs
from .objectives import Objective

if TYPE_CHECKING:
    from .boards import Modelled

__all__ = [
    "DEFAULT_SPACE",
    "EFFORT",
    "Effort",
    "Limits",
    "Settings",
    "Strategy",
    "frame_rates",
]


#: The choice of the networks that are scored next: by a model of the scores so far, or by crossover and mutation
#: alone (NSGA-II).
Strategy: TypeAlias = Literal["guided", "evolution"]


class Effort(NamedTuple):
    """The size of a search."""

    population: int
    generations: int


#: The space of a search that names none.
DEFAULT_SPACE = "tiny"

#: The default effort by the kind of score: a proxy score takes microseconds, a supernet's score seconds.
EFFORT = {"proxy": Effort(200, 100), "supernet": Effort(32, 20)}
#: Targets where none are given: at these shares of the way from the slowest subnet to the fastest.
DEFAULT_TARGETS = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Limits:
    """Limits of a network, besides the buffers."""

    latency_ms: float | None = None
    """Milliseconds of one frame alone."""
    energy_mj: float | None = None
    """Millijoules of a frame."""

    def designs(self, tables: Sequence[CostTable], scales: Sequence[float]) -> Designs:
        """Returns configurations with these limits."""
        return Designs(tables, scales, max_latency_ms=self.latency_ms, max_energy_mj=self.energy_mj)


@dataclass(frozen=True)
class Settings:
    """The arguments of `quasar_rt.search` that the result depends on. front.json has them by these names."""

    board: str
    fps: list[float]
    """Targets in modelled frames a second, rising."""
    seed: int
    population: int
    generations: int
    strategy: Strategy
    retrain: int
    """Epochs; 0 for none."""
    configurations: int = 1
    """Configurations of the accelerator that are explored together with the networks, at most."""
    clocks_mhz: tuple[float, ...] = ()
    """Clocks of the kernels that are explored; empty for the board's default."""
    max_latency_ms: float | None = None
    max_energy_mj: float | None = None
    objectives: tuple[Objective, ...] = ()
    """Objectives besides frames a second (`further_objectives`)."""

    @property
    def budget(self) -> int:
        """The largest number of scored networks."""
        return self.population * self.generations

    @property
    def limits(self) -> Limits:
        """The limits of a network, besides the buffers."""
        return Limits(self.max_latency_ms, self.max_energy_mj)

    @property
    def explores(self) -> bool:
        """True if each target has a configuration of its own."""
        return self.configurations > 1 or bool(self.clocks_mhz)

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings for front.json, without those newer ones that have their defaults."""
        newer = {
            "configurations": 1,
            "clocks_mhz": (),
            "max_latency_ms": None,
            "max_energy_mj": None,
            "objectives": (),
        }
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in newer or v != newer[k]}


def frame_rates(fps: float | Iterable[float] | None, modelled: Modelled) -> list[float]:
    """Returns the targets, rising and each once; where None is given, three within the space's reach.

    Raises:
        quasar_rt.InvalidValueError: not positive numbers, or none of them.
    """
    if fps is None:
        slow, quick = modelled.slowest_fps(), modelled.fastest()[1]
        return sorted({_two_digits(slow + share * (quick - slow)) for share in DEFAULT_TARGETS})
    try:
        given = [float(value) for value in cast(Iterable[float], [fps] if np.isscalar(fps) else fps)]
    except (TypeError, ValueError, OverflowError):
        raise InvalidValueError(f"fps must be a number or several, not {fps!r}") from None
    if not given or not all(math.isfinite(value) and value > 0 for value in given):
        raise InvalidValueError(f"fps must be positive numbers, at least one, not {given}")
    return sorted(set(given))


def _two_digits(value: float) -> float:
    """Rounds down to two digits."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.floor(value / unit) * unit:.6g}")
