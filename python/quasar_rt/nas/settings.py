"""The settings of a search: its options, completed. Depends on `options`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..errors import InvalidValueError
from ..options import about
from .objectives import Objective
from .options import EFFORT, Options

if TYPE_CHECKING:
    from .boards import Modelled

__all__ = ["Settings", "frame_rates"]

#: Targets where none are given: at these shares of the way from the slowest subnet to the fastest.
DEFAULT_TARGETS = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Settings:
    """The options of a search for one board, and what completes them."""

    options: Options
    board: str
    fps: list[float]
    """Targets in modelled frames a second, rising: of the board or of the accelerator alone (`Options.fps_of`)."""
    population: int
    generations: int

    @classmethod
    def of(cls, options: Options, modelled: Modelled, kind: str) -> Settings:
        """Completes the options for a board and a kind of score, ``proxy`` or ``supernet``."""
        o, effort = options, EFFORT[kind]
        return cls(
            options,
            modelled.board,
            frame_rates(o.fps, modelled),
            effort.population if o.population is None else o.population,
            effort.generations if o.generations is None else o.generations,
        )

    @property
    def budget(self) -> int:
        """The largest number of scored networks."""
        return self.population * self.generations

    @property
    def clocks_mhz(self) -> tuple[float, ...]:
        """Clocks of the kernels that are explored, rising; empty for the board's default."""
        return tuple(self.options.clocks)

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """Objectives besides frames a second (`further_objectives`)."""
        return tuple(self.options.objectives)

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings for search.json and front.json, as `quasar_rt.options.About.recorded` has them."""
        found: dict[str, Any] = {"board": self.board}
        for one, details in about(type(self.options)):
            value = getattr(self if hasattr(self, one.name) else self.options, one.name)
            if details.saved and details.recorded(value, one.default):
                found[details.saved] = value
        return found


def frame_rates(fps: float | Iterable[float] | None, modelled: Modelled) -> list[float]:
    """Returns the targets, rising and each once; where None is given, three within the space's reach.

    Raises:
        quasar_rt.InvalidValueError: not positive numbers, or none of them.
    """
    if fps is None:
        slow, quick = modelled.closed(np.stack([modelled.table.slowest()[0], modelled.fastest()[0]])).tolist()
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
