"""The default effort of a search next to the exact front of the proxy score, which is known without a search."""

from __future__ import annotations

from functools import cache
from typing import Any, get_args

import numpy as np
import pytest

from quasar_rt.hardware import CostTable, Hardware
from quasar_rt.nas.best_front import proxy_front
from quasar_rt.nas.nsga2 import Search
from quasar_rt.nas.objectives import Objective
from quasar_rt.nas.scores import proxy_scores
from quasar_rt.nas.stats import hypervolume
from quasar_rt.space import Space

PAIRS = [("tiny", "zcu102"), ("small", "zcu102"), ("fashion-mnist", "pynq-z2")]
#: Normal errors of the scores, as a share of the range of the proxy scores.
NOISE = 0.05


@cache
def known(name: str, board: str) -> tuple[Space, CostTable, tuple[float, float]]:
    """Returns a space, its costs, and the lowest and highest proxy score."""
    space = Space.load(name)
    low, high = proxy_scores(space, np.stack([space.smallest, space.largest]))
    return space, CostTable(space, Hardware.for_board(board, space)), (float(low), float(high))


@cache
def best(pair: tuple[str, str], objective: Objective) -> tuple[tuple[float, float], float]:
    """Returns the lowest rate and score, and the hypervolume of the exact front of an objective."""
    space, table, (low, _) = known(*pair)
    front = proxy_front(space, table, objective)
    assert front.exact
    reference = (table.lowest_rate(objective), low)
    return reference, front.hypervolume(reference)


def shares(pair: tuple[str, str], seed: int, noise: float = 0.0, **settings: Any) -> dict[Objective, float]:
    """Returns the share of each objective's exact hypervolume that a search scores; by true scores, with noise, too."""
    space, table, (low, high) = known(*pair)

    def score(genomes: np.ndarray) -> np.ndarray:
        errors = [np.random.default_rng([seed, *genome.tolist()]).standard_normal() for genome in genomes]
        return proxy_scores(space, genomes) + noise * (high - low) * np.array(errors)

    search = Search(space, table, population=32, generations=20, seed=seed, **settings)
    search.run(score)
    genomes = search.evaluated().genomes
    costs = table.evaluate(genomes)
    fits, scores = costs["fits"], proxy_scores(space, genomes)
    rates = {"fps": costs["fps"], "latency": 1 / costs["latency_s"], "energy": 1 / costs["energy_j"]}
    found = {}
    for objective in get_args(Objective):
        reference, area = best(pair, objective)
        points = np.column_stack([rates[objective][fits], scores[fits]])
        found[objective] = hypervolume(points, reference) / area
    return found


@pytest.mark.parametrize("pair", [*PAIRS, ("tiny", "pynq-z2")])
def test_the_default_budget_comes_within_a_percent_of_the_exact_front(pair: tuple[str, str]) -> None:
    assert min(shares(pair, seed)["fps"] for seed in range(2)) >= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("pair", PAIRS)
def test_the_default_budget_stays_close_with_noisy_scores(pair: tuple[str, str]) -> None:
    found, plain = (
        [shares(pair, seed, NOISE, strategy=strategy)["fps"] for seed in range(10)]
        for strategy in ("guided", "evolution")
    )
    assert np.mean(found) >= 0.97, found
    assert min(found) > max(plain)


@pytest.mark.parametrize("name", ["tiny", "small", "fashion-mnist"])
def test_objectives_that_are_asked_for_come_within_a_percent_of_their_fronts(name: str) -> None:
    for seed in range(2):
        found = shares((name, "zcu102"), seed, objectives=("latency", "energy"))
        assert min(found.values()) >= 0.99, found
