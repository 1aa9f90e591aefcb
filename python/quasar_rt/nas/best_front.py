"""The best front of a space: no network's rate and score are both above it.

Depends on `quasar_rt.hardware`, `quasar_rt.space`, `objectives` and `stats`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .._native import proxy_front as native_proxy_front
from ..hardware import CostTable, Designs
from ..space import Space
from .objectives import Objective
from .stats import hypervolume

__all__ = ["BestFront", "proxy_front"]


@dataclass(frozen=True, repr=False)
class BestFront:
    """The best score at every rate, by falling rate: no network of the space is above it."""

    genomes: NDArray[np.uint8]
    """uint8 [n, genes], canonical."""
    rates: NDArray[np.float64]
    """float64 [n], modelled, in the unit of the objective (`objectives.Objective`)."""
    scores: NDArray[np.float64]
    """float64 [n]."""
    exact: bool
    """True if each network has its rate and score. Otherwise the front is an upper bound: the transfers, or the
    cycles of array and vector unit, were left out of the cost."""

    def hypervolume(self, reference: tuple[float, float]) -> float:
        """Returns the area that the front dominates above (rate, score)."""
        return hypervolume(np.column_stack([self.rates, self.scores]), reference)

    def __len__(self) -> int:
        return len(self.rates)

    def __repr__(self) -> str:
        return f"<BestFront: {len(self)} networks, {'exact' if self.exact else 'a bound'}>"


def proxy_front(space: Space, costs: CostTable | Designs, objective: Objective = "fps") -> BestFront:
    """Computes the front of the proxy score and of an objective, exactly where that is possible, without a search.

    The proxy score adds up over the parts of a network, as the cost does, so each embedding size and depth is a
    multiple-choice knapsack (`quasar_rt.nas.knapsack`). Of several configurations, each network has the one on which it
    is best; limits of latency and energy are left out. Energies are summed in whole picojoules.

    Raises:
        quasar_rt.InvalidValueError: the costs are of another space, there is no such objective, or the board's file has
            no ``[power]``.
        quasar_rt.TooLargeError: the space has too many different sums.

    >>> from quasar_rt.hardware import Hardware, CostTable
    >>> space = Space.load("digits")
    >>> front = proxy_front(space, CostTable(space, Hardware.for_board("zcu102", space)))
    >>> front.exact
    True
    """
    return BestFront(*native_proxy_front(space._inner, Designs.of(costs)._inner, objective))
