"""The interface of a source of scores, and the proxy. `quasar_rt.nas.supernet` has the other source.

Depends on `quasar_rt.nas.scores` and `quasar_rt.nas.result`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..space import Space
from .result import Scoring
from .scores import proxy_scores

__all__ = ["Genomes", "Progress", "Proxy", "Scorer", "Scores", "report_genomes", "scores_of"]

#: Canonical genomes, uint8 [n, genes].
Genomes = NDArray[np.uint8]
#: float64 [n].
Scores = NDArray[np.float64]
#: Takes the name of the work, the amount that is done and the total.
Progress = Callable[[str, int, int], None]
T = TypeVar("T")


class Scorer(Protocol):
    """Gives scores; larger is better."""

    kind: str

    @property
    def stages(self) -> int:
        """Rounds of scoring, each on more images than the one before."""

    def identity(self) -> dict[str, Any]:
        """Returns what the scores depend on, as JSON."""

    def scoring(self, stage: int) -> Scoring:
        """Describes the scores of a round."""

    def score(self, genomes: Genomes, stage: int, progress: Progress) -> Scores:
        """Scores distinct canonical genomes."""


class Proxy:
    """Scores from the architecture alone, for searches without a supernet."""

    kind = "proxy"
    stages = 1

    def __init__(self, space: Space) -> None:
        self._space = space

    def identity(self) -> dict[str, Any]:
        """Returns the kind alone: the proxy has no settings."""
        return {"score": "proxy"}

    def scoring(self, stage: int) -> Scoring:
        """Describes the score as no accuracy."""
        label = "proxy score (not an accuracy)"
        return Scoring("proxy", label, "proxy score", "proxy_score_not_an_accuracy", False)

    def score(self, genomes: Genomes, stage: int, progress: Progress) -> Scores:
        """Scores genomes in microseconds each, so no progress is reported."""
        return proxy_scores(self._space, genomes)


def report_genomes(progress: Progress, what: str, genomes: Genomes, work: Callable[[Progress], T]) -> T:
    """Runs `work` over the genomes, reports its progress and its end under the name `what`, and returns its result."""
    result = work(lambda _, done, total: progress(what, done, total))
    progress(what, len(genomes), len(genomes))
    return result


def scores_of(scorer: Scorer, genomes: Genomes, stage: int, progress: Progress) -> Scores:
    """Returns the scorer's scores of a round; the supernet's progress is reported."""
    if scorer.kind == "proxy":
        return scorer.score(genomes, stage, progress)
    return report_genomes(
        progress, "scoring on more images", genomes, lambda report: scorer.score(genomes, stage, report)
    )
