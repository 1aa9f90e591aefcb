#!/usr/bin/env python3
"""Compare searches at equal numbers of scores, next to the exact front: two tables of docs/search-core.md.

    python tools/lab/search_strategies.py
    python tools/lab/search_strategies.py --table objectives

The score is the proxy, whose exact front is known, as it is and with noise: normal, with a standard deviation of 5 % of
the range of the scores, one value for each network and seed. Whatever a search does, the scores are the true ones when
its hypervolume is computed. The table of objectives has no noise.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import get_args

import click
import numpy as np
from numpy.typing import NDArray

from evidence_report import markdown, splice
from quasar_rt.files import write_text
from quasar_rt.hardware import CostTable, Hardware
from quasar_rt.nas.best_front import BestFront, proxy_front
from quasar_rt.nas.nsga2 import Search
from quasar_rt.nas.objectives import Objective
from quasar_rt.nas.report import nondominated
from quasar_rt.nas.scores import proxy_scores
from quasar_rt.nas.stats import hypervolume
from quasar_rt.space import Space

PAGE = Path(__file__).resolve().parents[2] / "docs" / "search-core.md"
#: Spaces and boards of the table.
PAIRS = [("tiny", "zcu102"), ("small", "zcu102"), ("fashion-mnist", "pynq-z2")]
#: The default effort with a supernet.
POPULATION, GENERATIONS = 32, 20
SEEDS = range(10)
NOISE = 0.05
#: Arguments of `Search` by the name of a strategy; None samples networks evenly.
STRATEGIES: dict[str, dict[str, object] | None] = {
    "random networks": None,
    "evolution (NSGA-II)": {"strategy": "evolution"},
    "evolution, predictor chooses of 8": {"strategy": "evolution", "oversample": 8},
    "guided (the default)": {"strategy": "guided"},
}

#: Spaces and boards of the table of objectives, its seeds, and the objectives besides fps in each of its rows.
OBJECTIVE_PAIRS = [("tiny", "zcu102"), ("small", "zcu102"), ("fashion-mnist", "zcu102")]
OBJECTIVE_SEEDS = range(10)
OBJECTIVES: list[tuple[Objective, ...]] = [(), ("latency",), ("energy",), ("latency", "energy")]


@cache
def known(name: str, board: str) -> tuple[Space, CostTable, BestFront, tuple[float, float]]:
    """Returns a space, its costs, its exact front, and the lowest and highest proxy score."""
    space = Space.load(name)
    table = CostTable(space, Hardware.for_board(board, space))
    low, high = proxy_scores(space, np.stack([space.smallest, space.largest]))
    return space, table, proxy_front(space, table), (float(low), float(high))


def shares(
    pair: tuple[str, str], strategy: dict[str, object] | None, seed: int, noise: float = 0.0
) -> tuple[float, float, float]:
    """Returns shares of the exact hypervolume.

    Returns:
        the shares of all scored networks; of those on the front of the scores; of those on the front of the guide's
        estimates, NaN without a guide.
    """
    space, table, exact, (low, high) = known(*pair)

    def score(genomes: NDArray[np.uint8]) -> NDArray[np.float64]:
        scores = proxy_scores(space, genomes)
        if noise:
            errors = [np.random.default_rng([seed, *genome.tolist()]).standard_normal() for genome in genomes]
            scores = scores + noise * (high - low) * np.array(errors)
        return scores

    search: Search | None = None
    if strategy is None:
        sampled = [space.encode(space.sample(seed, k)) for k in range(POPULATION * GENERATIONS)]
        genomes = np.unique(np.stack(sampled), axis=0)
    else:
        search = Search(
            space,
            table,
            population=POPULATION,
            generations=GENERATIONS,
            seed=seed,
            **strategy,  # type: ignore[arg-type]
        )
        search.run(score)
        genomes = search.evaluated().genomes
    costs = table.evaluate(genomes)
    genomes, fps = np.ascontiguousarray(genomes[costs["fits"]]), costs["fps"][costs["fits"]]
    points = np.column_stack([fps, proxy_scores(space, genomes)])
    reference = (table.slowest()[1], low)
    area = exact.hypervolume(reference)

    def share(front: list[int]) -> float:
        return hypervolume(points[front], reference) / area

    def front_of(scores: NDArray[np.float64]) -> list[int]:
        return nondominated(list(zip(fps.tolist(), scores.tolist(), strict=True)))

    estimates = None if search is None else search.estimates(genomes)
    return (
        share(list(range(len(points)))),
        share(front_of(score(genomes))),
        math.nan if estimates is None else share(front_of(estimates)),
    )


def cells(pair: tuple[str, str], strategy: dict[str, object] | None) -> list[str]:
    """Returns the figures of a row of the table."""
    plain = [100 * shares(pair, strategy, seed)[0] for seed in SEEDS]
    noisy = 100 * np.array([shares(pair, strategy, seed, NOISE) for seed in SEEDS])
    return [
        f"{np.mean(plain):.2f} %",
        f"{min(plain):.2f} %",
        f"{noisy[:, 0].mean():.1f} %",
        f"{noisy[:, 0].min():.1f} %",
        f"{noisy[:, 1].mean():.1f} %",
        "" if np.isnan(noisy[:, 2]).any() else f"{noisy[:, 2].mean():.1f} %",
    ]


def table(pairs: Sequence[tuple[str, str]] = PAIRS, names: Sequence[str] = tuple(STRATEGIES)) -> str:
    """Returns the table, or a part of its rows."""
    header = [
        "space, board",
        "strategy",
        "no noise",
        "worst",
        "noise",
        "worst",
        "noise, front",
        "estimates, front",
    ]
    rows = [[", ".join(pair), name, *cells(pair, STRATEGIES[name])] for pair in pairs for name in names]
    return markdown(header, rows, 2)


@cache
def best_by(pair: tuple[str, str], objective: Objective) -> tuple[tuple[float, float], float]:
    """Returns the reference (lowest rate and lowest score) and the hypervolume of the exact front of an objective."""
    space, table, _, (low, _) = known(*pair)
    front = proxy_front(space, table, objective)
    if not front.exact:
        raise click.ClickException(f"the front of {objective} of {', '.join(pair)} is a bound only")
    reference = (table.lowest_rate(objective), low)
    return reference, front.hypervolume(reference)


def objective_shares(
    pair: tuple[str, str], objectives: tuple[Objective, ...], seed: int
) -> dict[Objective, float]:
    """Returns the share of each objective's exact hypervolume that a guided search with further objectives finds."""
    space, table, *_ = known(*pair)
    search = Search(
        space, table, population=POPULATION, generations=GENERATIONS, seed=seed, objectives=objectives
    )
    search.run()
    found = search.evaluated()
    costs = table.evaluate(found.genomes)
    fits = costs["fits"]
    rates: dict[Objective, NDArray[np.float64]] = {
        "fps": costs["fps"],
        "latency": 1 / costs["latency_s"],
        "energy": 1 / costs["energy_j"],
    }
    shares: dict[Objective, float] = {}
    for objective in get_args(Objective):
        reference, area = best_by(pair, objective)
        points = np.column_stack([rates[objective][fits], found.scores[fits]])
        shares[objective] = hypervolume(points, reference) / area
    return shares


def objectives_table(
    pairs: Sequence[tuple[str, str]] = tuple(OBJECTIVE_PAIRS),
    rows: Sequence[tuple[Objective, ...]] = tuple(OBJECTIVES),
) -> str:
    """Returns the table of objectives with its caption, or a part of its rows."""
    header = ["space, board", "objectives", *(f"{name}, {of}" for name in get_args(Objective) for of in _OF)]
    lines = []
    for pair in pairs:
        for objectives in rows:
            found = [objective_shares(pair, objectives, seed) for seed in OBJECTIVE_SEEDS]
            values = [[100 * one[name] for one in found] for name in get_args(Objective)]
            cells = [f"{of(each):.2f} %" for each in values for of in _OF.values()]
            lines.append([", ".join(pair), ", ".join(["fps", *objectives]), *cells])
    caption = f"Seeds {OBJECTIVE_SEEDS[0]} to {OBJECTIVE_SEEDS[-1]}, mean and worst."
    return f"{caption}\n\n{markdown(header, lines, 2)}"


_OF: dict[str, Callable[[list[float]], float]] = {"mean": lambda each: float(np.mean(each)), "worst": min}
TABLES: dict[str, Callable[[], str]] = {"strategies": table, "objectives": objectives_table}


@click.command()
@click.option(
    "--table", "names", multiple=True, type=click.Choice(list(TABLES)), help="Write this one. [all of them]"
)
def main(names: tuple[str, ...]) -> None:
    """Write the tables into docs/search-core.md."""
    for name in names or TABLES:
        block = TABLES[name]()
        text = PAGE.read_text("utf-8")
        there = dict(re.findall(r"<!-- generated: (\w+) -->\n\n(.*?)\n\n<!-- end -->", text, re.DOTALL))
        write_text(PAGE, splice(text, {**there, name: block}))


if __name__ == "__main__":
    main()
