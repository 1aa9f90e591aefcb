"""Checks the supernet's scores against those of the exported subnets. Depends on `quasar_rt.nas`; imports no torch."""

from __future__ import annotations

import dataclasses
import math
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .boards import Modelled
from .record import Correlation, Pair
from .result import Integer, Point
from .scorer import Genomes, Progress, Scores, report_genomes, scores_of
from .settings import Settings
from .stats import kendall_tau

if TYPE_CHECKING:
    from .supernet import Supernet

__all__ = ["check_finalists"]

#: Front points that are run on the integer engine for each target, at most.
FINALISTS = 3
#: Random subnets that are added to them for Kendall's tau.
SAMPLE = 16
#: Keeps the samples for Kendall's tau apart from all others of the seed.
_SAMPLE_STREAM = 0x7461755F62


def check_finalists(
    supernet: Supernet,
    settings: Settings,
    modelled: Modelled,
    front: list[Point],
    folder: Path | None,
    progress: Progress,
) -> tuple[list[Point], list[Correlation]]:
    """Runs the finalists and a random sample on the integer engine; compares them with the supernet's scores.

    Args:
        supernet: where scores and subnets come from.
        settings: of the search.
        modelled: the searched board.
        front: the points, by their ids.
        folder: of the search; networks that are trained on their own have their checkpoints in it.
        progress: gets the progress of the work.

    Returns:
        the front, its finalists with their top-1 on the integer engine, and the correlations.
    """
    space, front = supernet.space, list(front)
    ids = sorted({p.id for fps in settings.fps for p in islice(modelled.holding(front, fps), FINALISTS)})
    finalists = [front[i].genome for i in ids]
    sampled = [space.encode(space.sample(settings.options.seed, _SAMPLE_STREAM, k)) for k in range(SAMPLE)]
    others = sorted({tuple(genome.tolist()) for genome in sampled} - set(finalists))
    genomes = np.array([*finalists, *others], np.uint8)
    scores = scores_of(supernet, genomes, supernet.stages - 1, progress)
    integer = report_genomes(
        progress,
        "running finalists on the integer engine",
        genomes,
        lambda report: supernet.integer(genomes, report),
    )
    for i, found in zip(ids, integer, strict=False):
        front[i] = dataclasses.replace(front[i], integer=found)
    against = {"the exported subnets' on the integer engine": integer}
    if epochs := settings.options.retrain:
        runs = None if folder is None else folder / "retrained"
        what = f"those of the same networks trained on their own for {epochs} epochs, on the integer engine"
        against[what] = report_genomes(
            progress,
            "training on their own",
            genomes,
            lambda report: supernet.retrained(genomes, epochs, runs, report),
        )
    return front, [
        _correlation(what, genomes, scores, found, len(ids), settings.options.seed)
        for what, found in against.items()
    ]


def _correlation(
    what: str, genomes: Genomes, scores: Scores, found: list[Integer], finalists: int, seed: int
) -> Correlation:
    top1 = [one.top1 for one in found]
    tau = kendall_tau(scores, top1, seed=seed)
    tau_b, low, high = (None if math.isnan(value) else value for value in (tau.tau, tau.low, tau.high))
    return Correlation(
        against=what,
        images=f"{found[0].images:,} {found[0].split}",
        tau_b=tau_b,
        low=low,
        high=high,
        confidence=0.95,
        interval="percentile bootstrap over the subnets",
        subnets=len(genomes),
        finalists=finalists,
        pairs=[
            Pair(genome.tolist(), float(score), value)
            for genome, score, value in zip(genomes, scores, top1, strict=True)
        ],
    )
