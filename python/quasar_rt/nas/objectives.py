"""Objectives of a search besides the score. Depends on `quasar_rt.errors`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeAlias, get_args

from ..errors import InvalidValueError

__all__ = ["Objective", "further_objectives"]

#: The cost that is weighed against the score. Its rate is in frames a second (``fps``), in frames a second one after
#: the other (``latency``), or in frames a joule (``energy``).
Objective: TypeAlias = Literal["fps", "latency", "energy"]


def further_objectives(objectives: Iterable[str]) -> tuple[Objective, ...]:
    """Returns the objectives besides ``fps``, which is always one: each once, and in one order.

    Raises:
        quasar_rt.InvalidValueError: there is no such objective.
    """
    wanted = {objectives} if isinstance(objectives, str) else set(objectives)
    known = get_args(Objective)
    if unknown := sorted(map(repr, wanted.difference(known))):
        raise InvalidValueError(f"objective is {unknown[0]}; it must be one of {', '.join(known)}")
    return tuple(name for name in known[1:] if name in wanted)
