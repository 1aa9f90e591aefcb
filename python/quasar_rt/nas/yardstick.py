"""Compares the front of a search with the best one: exactly for a score that adds up, by a model otherwise.

Depends on `quasar_rt.nas.nsga2` and `quasar_rt.nas.boards`.
"""

from __future__ import annotations

import numpy as np

from ..errors import TooLargeError
from .best_front import BestFront, proxy_front
from .boards import Modelled
from .nsga2 import Candidates, Search
from .objectives import Objective
from .record import Yardstick
from .stats import hypervolume

__all__ = ["measure"]

#: Points of the best front that a record holds, at most.
POINTS = 200


def measure(
    loop: Search, modelled: Modelled, kind: str, scored: Candidates, objective: Objective = "fps"
) -> tuple[Yardstick | None, str | None]:
    """Compares the scored networks with the best front.

    The proxy score and the cycles add up over the parts of a network, so their front is known. A supernet's scores do
    not: then the front of the smooth model that guided the search stands for it, and the model's error shows how much
    that means.

    Args:
        loop: the finished search.
        modelled: the searched board.
        kind: of the scores, ``proxy`` or ``supernet``.
        scored: every scored network that fits.
        objective: the cost that the fronts weigh against the score.

    Returns:
        the yardstick, or the reason why there is none.
    """
    if modelled.designs.limited:
        return None, "the exact front leaves limits of latency and energy out"
    try:
        if kind == "proxy":
            best: BestFront | None = proxy_front(modelled.space, modelled.designs, objective)
        else:
            best = loop.model_front(objective)
    except TooLargeError as error:
        return None, str(error)
    if best is None:
        return None, "an evolution fits no model to the scores"
    reference = (modelled.lowest_rate(objective), float(scored.scores.min()))
    rates = scored.fps if objective == "fps" else modelled.rates_by(scored.genomes, objective)
    found = hypervolume(np.column_stack([rates, scored.scores]), reference)
    area = best.hypervolume(reference)
    if area <= 0:
        return None, "all scores are equal"
    low, name = None, "exact" if best.exact else "bound"
    if kind != "proxy":
        name, report = "model", loop.guide_report()
        if report is None or not report.samples:
            return None, "there was one generation only, so no prediction was compared with a score"
        higher = np.column_stack([best.rates, best.scores + report.rmse])
        low = found / hypervolume(higher, reference)
    some = np.unique(np.linspace(0, len(best) - 1, min(len(best), POINTS)).round().astype(int))
    # Drawn next to the targets, it has their reading of a frame rate.
    shown = modelled.closed(best.genomes[some]) if objective == "fps" else best.rates[some]
    front = list(zip(shown.tolist(), best.scores[some].tolist(), strict=True))
    return Yardstick(name, reference, found, area, found / area, low, len(best), front), None
