"""The search against pymoo's NSGA2: the same space, objectives and number of evaluations, each on one thread.

`make bench-search` installs pymoo and runs this; without pymoo it is skipped. Rates are evaluations in a second of the
calling thread's CPU time, end to end: from nothing to the front. Seeds take turns, so that both sides meet the same
machine. pymoo (version 0.6) gets its compiled functions, a problem that evaluates a generation in one call of the same
native code, and the operators that covered most of those tried on this space (`docs/search-core.md` lists them).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture

from quasar_rt.hardware import CostTable, Hardware
from quasar_rt.nas.nsga2 import Search
from quasar_rt.nas.scores import Predictor, proxy_scores
from quasar_rt.nas.stats import hypervolume
from quasar_rt.space import Space

POPULATION, GENERATIONS = 200, 100
SEEDS = range(5)
#: The search must reach this multiple of pymoo's evaluations a second.
RATIO = 50

Points = NDArray[np.float64]
Scores = Callable[[NDArray[np.uint8]], NDArray[np.float64]]


@cache
def space() -> Space:
    return Space.load("tiny")


@cache
def costs() -> CostTable:
    return CostTable(space(), Hardware.for_board("zcu102", space()))


@cache
def predictor() -> Predictor:
    """Returns a fixed predictor of made-up accuracies: noise makes some larger choices score lower, as in practice."""
    genomes = [space().encode(space().sample(0, k)) for k in range(1000)]
    noise = np.random.default_rng(0).normal(0, 2, len(genomes))
    return Predictor.fit(space(), genomes, proxy_scores(space(), genomes) + noise)


@dataclass(frozen=True)
class Run:
    """One search: what it evaluated, and the CPU seconds that it took."""

    evaluated: Points
    """(FPS, score) of every network that was evaluated."""
    last: Points
    """Of the last population."""
    seconds: float


def search(source: Predictor | None, seed: int) -> tuple[Search, float]:
    start = time.thread_time()
    found = Search(
        space(), costs(), population=POPULATION, generations=GENERATIONS, seed=seed, strategy="evolution"
    )
    found.run(source)
    found.front()
    return found, time.thread_time() - start


def checked(found: Search, score: Scores, seconds: float) -> Run:
    """Checks that each network was evaluated once, with the table's and the score's values; returns a `Run`."""
    networks, last = found.evaluated(), found.population()
    assert len(np.unique(networks.genomes, axis=0)) == len(networks)
    assert np.array_equal(networks.fps, costs().evaluate(networks.genomes)["fps"])
    assert np.array_equal(networks.scores, score(networks.genomes))
    return Run(
        np.column_stack([networks.fps, networks.scores]), np.column_stack([last.fps, last.scores]), seconds
    )


def predicted(genomes: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Predicts the scores of the canonical forms: a predictor takes no others, and pymoo does not make them."""
    used = 2 + 3 * (12 + genomes[:, 1:2])
    return predictor().predict(np.where(np.arange(genomes.shape[1]) < used, genomes, 0))


def pymoo(score: Scores, seed: int, first: NDArray[np.int64] | None = None) -> Run:
    """Runs pymoo's NSGA2; `first` is its first generation, by default a random one."""
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.problem import Problem
    from pymoo.operators.crossover.sbx import SBX
    from pymoo.operators.mutation.pm import PM
    from pymoo.operators.repair.rounding import RoundingRepair
    from pymoo.operators.sampling.rnd import IntegerRandomSampling
    from pymoo.optimize import minimize

    evaluated: list[Points] = []

    class Objectives(Problem):  # type: ignore[misc]
        def __init__(self) -> None:
            most = np.array([choices - 1 for _, choices in space().genes])
            super().__init__(n_var=len(most), n_obj=2, xl=0, xu=most, vtype=int)

        def _evaluate(self, x: NDArray[Any], out: dict[str, Any], *_: object, **__: object) -> None:
            genomes = x.astype(np.uint8)
            points = np.column_stack([costs().evaluate(genomes)["fps"], score(genomes)])
            evaluated.append(points)
            out["F"] = -points

    start = time.thread_time()
    algorithm = NSGA2(
        pop_size=POPULATION,
        sampling=IntegerRandomSampling() if first is None else first,
        crossover=SBX(prob=0.9, eta=3, vtype=float, repair=RoundingRepair()),
        mutation=PM(eta=3, vtype=float, repair=RoundingRepair()),
    )
    found = minimize(Objectives(), algorithm, ("n_gen", GENERATIONS), seed=seed, verbose=False)
    seconds = time.thread_time() - start
    return Run(np.concatenate(evaluated), -found.pop.get("F"), seconds)


def spread(values: list[float]) -> tuple[float, float]:
    """Returns mean and standard deviation."""
    return float(np.mean(values)), float(np.std(values, ddof=1))


@pytest.mark.parametrize("name", ["proxy score", "predictor"])
def test_search_against_pymoo(benchmark: BenchmarkFixture, name: str) -> None:
    pytest.importorskip("pymoo", reason="make bench-search installs pymoo")
    # embed and depth, and heads, MLP ratio and 8-bit fraction of each of up to 14 blocks.
    assert len(space().genes) == 2 + 3 * 14 == 44
    source = None if name == "proxy score" else predictor()
    score: Scores = (lambda genomes: proxy_scores(space(), genomes)) if source is None else predicted
    ours, theirs, seeded = "quasar_rt", "pymoo", "pymoo, the search's first generation"
    runs: dict[str, list[Run]] = {ours: [], theirs: [], seeded: []}
    pymoo(score, 99)  # imports and first calls, out of the measurement

    def rival(seed: int) -> None:
        runs[theirs].append(pymoo(score, seed))
        first = Search(space(), costs(), population=POPULATION, generations=GENERATIONS, seed=seed).ask()
        runs[seeded].append(pymoo(score, seed, first.astype(np.int64)))

    seeds = iter(SEEDS)

    def prepare() -> tuple[tuple[int], dict[str, object]]:
        seed = next(seeds)
        rival(seed)
        return (seed,), {}

    found: list[tuple[Search, float]] = []
    benchmark.pedantic(
        lambda seed: found.append(search(source, seed)), setup=prepare, rounds=len(SEEDS), iterations=1
    )
    runs[ours] = [checked(one, score, seconds) for one, seconds in found]

    # One reference point and one scale for all: the slowest network and the smallest, the fastest and the largest.
    low, high = score(np.stack([space().smallest, space().largest]))
    slowest, fastest = costs().slowest()[1], costs().fastest()[1]

    def covered(points: Points) -> float:
        return hypervolume(points, (slowest, low)) / ((fastest - slowest) * (high - low))

    table = {
        who: {
            "evaluations": [len(run.evaluated) for run in of],
            "rate": spread([len(run.evaluated) / run.seconds for run in of]),
            "evaluated": spread([covered(run.evaluated) for run in of]),
            "last": spread([covered(run.last) for run in of]),
        }
        for who, of in runs.items()
    }
    ratio = table[ours]["rate"][0] / table[theirs]["rate"][0]
    benchmark.extra_info.update(score=name, searches=table, ratio=ratio)
    assert all(row["evaluations"] == [POPULATION * GENERATIONS] * len(SEEDS) for row in table.values())
    assert ratio >= RATIO
    assert table[ours]["evaluated"][0] >= table[theirs]["evaluated"][0]
    assert table[ours]["last"][0] >= table[theirs]["last"][0]
