"""The multiple-choice knapsack, exactly: the best 8-bit fractions of a fixed architecture, if value and cycles add up.

A yardstick for the search. The work is done in Rust (``rust/search/src/knapsack.rs``). Depends on the native
module.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import index

from .._native import knapsack as native_knapsack
from .._native import knapsack_front as native_knapsack_front
from ..errors import InvalidValueError

__all__ = ["Choice", "knapsack", "knapsack_front"]


@dataclass(frozen=True)
class Choice:
    """One choice for each item."""

    choices: tuple[int, ...]
    """Index of the choice of each item."""
    value: float
    """Sum of their values."""
    cost: int
    """Sum of their costs."""


def knapsack(values: Sequence[Sequence[float]], costs: Sequence[Sequence[int]], budget: int) -> Choice:
    """Returns the choice for each item with the greatest sum of values within the budget, exactly.

    Args:
        values: for each item (block or matrix), the value of each choice (fraction).
        costs: for each item, the cost of each choice: whole numbers (cycles), not negative.
        budget: what the costs may sum to.

    Raises:
        quasar_rt.InvalidValueError: tables that do not fit each other, or a budget below the cheapest choices (named).
        quasar_rt.TooLargeError: the costs have too many different sums; coarser units help.

    >>> knapsack([[0, 3, 4], [0, 2, 5]], [[0, 10, 20], [0, 10, 20]], 30)
    Choice(choices=(1, 2), value=8.0, cost=30)
    """
    choices, value, cost = native_knapsack(*_tables(values, costs), _whole(budget))
    return Choice(tuple(choices), value, cost)


def knapsack_front(
    values: Sequence[Sequence[float]], costs: Sequence[Sequence[int]], budget: int | None = None
) -> list[Choice]:
    """Returns every non-dominated pair of cost and value up to the budget, by rising cost.

    >>> [(c.cost, c.value) for c in knapsack_front([[0, 3], [0, 2]], [[0, 10], [0, 10]])]
    [(0, 0.0), (10, 3.0), (20, 5.0)]
    """
    limit = None if budget is None else _whole(budget)
    front = native_knapsack_front(*_tables(values, costs), limit)
    return [Choice(tuple(choices), value, cost) for choices, value, cost in front]


def _tables(
    values: Sequence[Sequence[float]], costs: Sequence[Sequence[int]]
) -> tuple[list[list[float]], list[list[int]]]:
    try:
        numbers = [[float(value) for value in item] for item in values]
    except (TypeError, ValueError):
        raise InvalidValueError("values are lists of numbers, one list for each item") from None
    return numbers, [[_whole(cost) for cost in item] for item in costs]


def _whole(number: int) -> int:
    try:
        whole = index(number)
    except TypeError:
        raise InvalidValueError(f"costs and budget are whole numbers, not {number!r}") from None
    if not 0 <= whole < 2**63:
        raise InvalidValueError(f"costs and budget are from 0 to 2^63 - 1, not {whole}")
    return whole
