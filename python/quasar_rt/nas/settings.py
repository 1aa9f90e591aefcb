"""The settings of a search: what the caller asked for, with the defaults filled in.

Depends on `quasar_rt.errors`; other modules of `quasar_rt.nas` take their defaults from here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias, cast

import numpy as np

from ..errors import InvalidValueError

if TYPE_CHECKING:
    from .boards import Modelled

__all__ = ["DEFAULT_SPACE", "EFFORT", "Effort", "Settings", "Strategy", "frame_rates"]


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

    @property
    def budget(self) -> int:
        """The largest number of scored networks."""
        return self.population * self.generations


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
