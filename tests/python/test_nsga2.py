"""The search: what it promises about genomes, scores, seeds, targets and known scores."""

from __future__ import annotations

from functools import cache
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from quasar_rt import (
    InfeasibleError,
    InvalidValueError,
    TooLargeError,
)
from quasar_rt.hardware import CostTable, Hardware
from quasar_rt.nas.best_front import proxy_front
from quasar_rt.nas.knapsack import knapsack, knapsack_front
from quasar_rt.nas.nsga2 import Candidates, Search
from quasar_rt.nas.scores import proxy_scores
from quasar_rt.nas.stats import hypervolume, kendall_tau
from quasar_rt.space import Space


@cache
def space(name: str = "digits") -> Space:
    return Space.load(name)


@cache
def costs(name: str = "digits", board: str = "zcu102") -> CostTable:
    return CostTable(space(name), Hardware.for_board(board, space(name)))


def new(name: str = "digits", **arguments: object) -> Search:
    arguments = {"population": 20, "generations": 6, "seed": 3, **arguments}
    return Search(space(name), costs(name), **arguments)  # type: ignore[arg-type]


def scores(genomes: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Scores unlike the proxy: with an interaction, and some noise that is a function of the genome."""
    noise = (genomes.astype(np.int64) * np.arange(1, genomes.shape[1] + 1)).sum(1) % 17
    return proxy_scores(space(), genomes) * (1 + 0.1 * genomes[:, 2]) + 0.01 * noise


def same(a: Candidates, b: Candidates) -> bool:
    columns = ("genomes", "scores", "fps", "violations")
    return all(np.array_equal(getattr(a, c), getattr(b, c)) for c in columns)


def same_search(a: Search, b: Search) -> bool:
    return (
        a.history() == b.history()
        and same(a.evaluated(), b.evaluated())
        and same(a.front(), b.front())
        and same(a.population(), b.population())
    )


def noisy(genomes: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Proxy scores with normal noise, a function of the genome."""
    noise = [np.random.default_rng([5, *genome.tolist()]).standard_normal() for genome in genomes]
    return proxy_scores(space(), genomes) + 0.05 * np.array(noise)


def test_estimates_average_the_noise_of_scores():
    search = new(generations=12)
    assert search.estimates(space().smallest[None]) is None
    search.run(noisy)
    found = search.evaluated()
    true = proxy_scores(space(), found.genomes)
    estimates = search.estimates(found.genomes)
    assert estimates is not None
    assert np.square(estimates - true).mean() < 0.25 * np.square(found.scores - true).mean()
    with pytest.raises(InvalidValueError, match="genome"):
        search.estimates(np.full((1, len(space().genes)), 255, np.uint8))
    evolution = new(strategy="evolution")
    evolution.run(noisy)
    assert evolution.estimates(found.genomes) is None


def test_genomes_are_canonical_and_never_scored_twice():
    seen: set[bytes] = set()

    def score(genomes: NDArray[np.uint8]) -> NDArray[np.float64]:
        assert genomes.dtype == np.uint8
        assert 1 <= len(genomes) <= 20
        for genome in genomes:
            assert np.array_equal(space().canonical(genome), genome)
            assert genome.tobytes() not in seen
            seen.add(genome.tobytes())
        return scores(genomes)

    search = new()
    search.run(score)
    assert search.done
    assert len(search.ask()) == 0
    assert len(seen) == len(search.evaluated()) == 20 * 6
    assert np.array_equal(search.evaluated().scores, scores(search.evaluated().genomes))
    fps = costs().evaluate(search.evaluated().genomes)["fps"]
    assert np.array_equal(search.evaluated().fps, fps)


def test_the_front_is_what_nothing_dominates():
    search = new(generations=10)
    search.run(scores)
    everything = np.column_stack([search.evaluated().fps, search.evaluated().scores])
    front = np.column_stack([search.front().fps, search.front().scores])
    assert (np.diff(front[:, 0]) > 0).all()
    assert (np.diff(front[:, 1]) < 0).all()
    expected = {
        tuple(p) for p in everything if not ((everything >= p).all(1) & (everything > p).any(1)).any()
    }
    assert {tuple(p) for p in front} == expected


def test_the_same_seed_gives_the_same_search_and_another_seed_another_search():
    first, again, other = new(), new(), new(seed=4)
    for search in (first, again, other):
        search.run(scores)
    assert same_search(first, again)
    assert not same(first.front(), other.front())


def test_portions_do_not_matter():
    whole, parts = new(), new()
    whole.run(scores)
    parts.run(scores, limit=7)
    assert same_search(whole, parts)


def test_scoring_that_fails_leaves_a_search_that_can_go_on():
    class Broken(Exception):
        pass

    def fail(genomes: NDArray[np.uint8]) -> NDArray[np.float64]:
        if len(search.evaluated()) >= 40:
            raise Broken
        return scores(genomes)

    search, whole = new(), new()
    with pytest.raises(Broken):
        search.run(fail)
    assert not search.done
    search.run(scores)
    whole.run(scores)
    assert same_search(search, whole)


def test_known_scores_are_not_asked_for_and_change_nothing():
    whole = new()
    whole.run(scores)
    known = whole.evaluated().genomes[::2]
    helped = new()
    helped.add_known_scores(known, scores(known))
    asked: list[bytes] = []

    def score(genomes: NDArray[np.uint8]) -> NDArray[np.float64]:
        asked.extend(genome.tobytes() for genome in genomes)
        return scores(genomes)

    helped.run(score)
    assert len(asked) == 60
    assert not set(asked) & {genome.tobytes() for genome in known}
    assert same_search(helped, whole)
    with pytest.raises(InvalidValueError, match="another score"):
        helped.add_known_scores(known[:1], [0.25])


def test_scores_that_cannot_be_are_refused_and_nothing_is_taken():
    search = new()
    with pytest.raises(InvalidValueError, match="call ask first"):
        search.tell([])
    asked = search.ask()
    for bad in (
        [0.5] * 19,
        [0.5] * 21,
        [0.5] * 19 + [np.nan],
        [np.inf] + [0.5] * 19,
        [[0.5] * 20],
        0.5,
        ["a"] * 20,
    ):
        with pytest.raises(InvalidValueError):
            search.tell(bad)
        assert np.array_equal(search.ask(), asked)
    with pytest.raises(InvalidValueError, match="19 scores were given for 20 genomes"):
        search.run(lambda genomes: [0.5] * 19)
    search.tell(np.full(20, 0.5, np.float32))
    assert len(search.evaluated()) == 20


def test_infeasible_targets_name_the_fastest_network_before_anything_is_scored():
    _, fastest = costs().fastest()
    search = new(targets=[fastest])
    search.run(scores)
    best = search.best(fastest)
    assert best is not None
    assert best.fps >= fastest
    with pytest.raises(InfeasibleError, match=f"modelled at {fastest:.1f} FPS"):
        new(targets=[10.0, fastest * 1.001])


def test_each_target_gets_the_best_network_at_its_rate():
    slowest, fastest = costs("tiny").slowest()[1], costs("tiny").fastest()[1]
    targets = list(np.linspace(slowest, fastest, 5)[1:-1])
    search = new("tiny", targets=targets, population=40, generations=20)
    search.run()
    everything = search.evaluated()
    for target, last in zip(targets, search.history()[-1].best, strict=True):
        best = search.best(target)
        assert best is not None
        assert best.fits
        assert best.fps >= target
        assert best.score == everything.scores[everything.fps >= target].max() == last
        assert np.array_equal(space("tiny").encode(best.architecture), best.genome)
    assert search.best(fastest * 2) is None


def test_targets_gain_from_the_budget_spent_around_them():
    slowest, fastest = costs("tiny").slowest()[1], costs("tiny").fastest()[1]
    target = 0.4 * slowest + 0.6 * fastest

    def found(targets: list[float], seed: int) -> float:
        # A guided search finds the exact optimum with and without targets.
        search = new("tiny", population=50, generations=30, targets=targets, seed=seed, strategy="evolution")
        search.run()
        best = search.best(target)
        assert best is not None
        return best.score

    gains = [found([target], seed) - found([], seed) for seed in range(15)]
    assert np.median(gains) > 0


def narrowed(*keys: str) -> Space:
    """Returns the digits space with only the first choice of some keys."""
    lines = space().to_toml().splitlines()
    for i, line in enumerate(lines):
        if (key := line.split(" =")[0]) in keys:
            lines[i] = f"{key} = [{space().settings['choices'][key][0]}]"
    return Space.from_toml("\n".join(lines))


def test_a_space_smaller_than_the_budget_is_evaluated_one_and_all():
    small = narrowed("embed", "depth", "heads", "mlp_ratio")
    table = CostTable(small, Hardware.for_board("zcu102", small))
    assert small.size == 729
    for population, generations in ((1000, 1), (81, 9)):
        search = Search(small, table, population=population, generations=generations)
        search.run()
        assert len(search.evaluated()) == 729
        assert search.done
    # One point: everything that a search does still works.
    point = narrowed("embed", "depth", "heads", "mlp_ratio", "eight_bit")
    search = Search(
        point, CostTable(point, Hardware.for_board("zcu102", point)), population=200, generations=100
    )
    search.run()
    assert len(search.evaluated()) == len(search.front()) == 1


def test_a_cost_table_of_another_space_is_refused():
    with pytest.raises(InvalidValueError, match="another space"):
        Search(space(), costs("tiny"))


@pytest.mark.parametrize(
    "bad",
    [
        dict(population=3),
        dict(population=10**9),
        dict(generations=0),
        dict(generations=10**12),
        dict(seed=-1),
        dict(seed=2**64),
        dict(targets=[np.nan]),
        dict(targets=[-1.0]),
    ],
)
def test_arguments_out_of_range_are_refused(bad: dict[str, object]):
    with pytest.raises(InvalidValueError):
        new(**bad)
    with pytest.raises(InvalidValueError, match="limit"):
        new().ask(0)


def test_the_proxy_runs_in_rust_as_it_would_from_python():
    inside, outside, watched = new("tiny"), new("tiny"), new("tiny")
    inside.run()
    outside.run(lambda genomes: proxy_scores(space("tiny"), genomes))
    calls: list[int] = []
    watched.run(progress=lambda search: calls.append(len(search.evaluated())))
    assert same_search(inside, outside)
    assert same_search(inside, watched)
    assert calls == [20, 40, 60, 80, 100, 120]


def test_history_grows_and_agrees_with_the_archive():
    search = new()
    search.run(scores)
    history = search.history()
    assert [g.evaluations for g in history] == [20, 40, 60, 80, 100, 120]
    volumes = [g.hypervolume for g in history]
    assert volumes == sorted(volumes)
    first = search.evaluated()
    reference = (first.fps[:20].min(), first.scores[:20].min())
    front = np.column_stack([search.front().fps, search.front().scores])
    assert volumes[-1] == pytest.approx(hypervolume(front, reference), rel=1e-12)


# The knapsack against all combinations.

items = st.lists(
    st.lists(st.tuples(st.floats(-9, 9), st.integers(0, 12)), min_size=1, max_size=4),
    min_size=1,
    max_size=6,
)


@settings(max_examples=100, deadline=None)
@given(items, st.integers(0, 60))
def test_the_knapsack_is_exact(table: list[list[tuple[float, int]]], budget: int):
    values = [[value for value, _ in item] for item in table]
    costs = [[cost for _, cost in item] for item in table]
    sums = [
        (sum(cost for _, cost in choice), sum(value for value, _ in choice)) for choice in product(*table)
    ]
    within = [value for cost, value in sums if cost <= budget]
    if not within:
        with pytest.raises(InvalidValueError, match="cheapest choices cost"):
            knapsack(values, costs, budget)
        return
    found = knapsack(values, costs, budget)
    assert found.value == pytest.approx(max(within), abs=1e-9)
    assert found.cost <= budget
    front = knapsack_front(values, costs, budget)
    assert front[-1].value == pytest.approx(found.value, abs=1e-9)
    for cost, value in sums:
        if cost <= budget:
            assert max(c.value for c in front if c.cost <= cost) >= value - 1e-9


def test_knapsack_arguments_are_checked():
    for values, table, budget in (
        ([], [], 1),
        ([[1.0]], [[1], [2]], 1),
        ([[1.0]], [[1.5]], 1),
        ([[1.0]], [[-1]], 1),
        ([[float("nan")]], [[1]], 1),
        ([[1.0]], [[1]], -1),
        ([1.0], [[1]], 1),
    ):
        with pytest.raises(InvalidValueError):
            knapsack(values, table, budget)  # type: ignore[arg-type]
    # Costs with too many different sums end in an error, not in memory that is not there.
    hard = [[0, 3**i] for i in range(39)]
    with pytest.raises(TooLargeError, match="coarser units"):
        knapsack_front([[0.0, float(3**i)] for i in range(39)], hard)


# Rank correlation against SciPy, which scikit-learn brings.


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_tau_is_scipys(data: st.DataObject):
    kendalltau = pytest.importorskip("scipy.stats").kendalltau
    n = data.draw(st.integers(3, 60))
    values = st.lists(
        st.integers(0, 8) if data.draw(st.booleans()) else st.integers(), min_size=n, max_size=n
    )
    x, y = (np.array(data.draw(values), np.float64) for _ in range(2))
    ours = kendall_tau(x, y, resamples=1)
    theirs = kendalltau(x, y)
    if np.isnan(theirs.statistic):
        assert np.isnan(ours.tau)
        return
    assert ours.tau == pytest.approx(theirs.statistic, abs=1e-12)


def test_the_interval_covers_the_true_tau_about_as_often_as_it_says():
    # Two normal scores of correlation r have tau = 2/pi asin(r) (Kruskal 1958).
    rng = np.random.default_rng(0)
    true = 2 / np.pi * np.arcsin(0.7)
    covered = 0
    for seed in range(200):
        x = rng.normal(size=40)
        y = 0.7 * x + np.sqrt(1 - 0.49) * rng.normal(size=40)
        result = kendall_tau(x, y, resamples=400, seed=seed)
        assert result.low < result.tau < result.high
        covered += result.low <= true <= result.high
    assert 0.89 <= covered / 200 <= 0.99


def test_hypervolume_takes_any_order_and_refuses_what_is_no_point():
    points = np.array([[3.0, 1.0], [1.0, 3.0], [2.0, 2.0], [1.5, 1.5], [0.0, 9.0]])
    assert hypervolume(points, (0, 0)) == hypervolume(points[::-1], (0, 0)) == 6
    assert hypervolume([], (0, 0)) == 0
    for bad in ([1.0, 2.0], [[1.0, 2.0, 3.0]], [[1.0, np.nan]]):
        with pytest.raises(InvalidValueError):
            hypervolume(bad, (0, 0))


def rates(found: NDArray[np.void]) -> dict[str, NDArray[np.float64]]:
    """Returns the rates of costs, the higher the better, by the objective."""
    return {"fps": found["fps"], "latency": 1 / found["latency_s"], "energy": 1 / found["energy_j"]}


@pytest.mark.parametrize("objective", ["fps", "latency", "energy"])
@pytest.mark.parametrize(
    ("name", "board"), [("digits", "zcu102"), ("fashion-mnist", "pynq-z2"), ("tiny", "zcu102")]
)
def test_no_network_is_above_the_exact_front(name, board, objective):
    table = costs(name, board)
    front = proxy_front(space(name), table, objective)
    assert front.exact
    assert np.allclose(rates(table.evaluate(front.genomes))[objective], front.rates)
    assert table.evaluate(front.genomes)["fits"].all()
    assert np.allclose(proxy_scores(space(name), front.genomes), front.scores)
    assert (np.diff(front.rates) < 0).all()
    assert (np.diff(front.scores) > 0).all()
    genomes = np.stack([space(name).encode(space(name).sample(4, k)) for k in range(2000)])
    found = table.evaluate(genomes)
    best = np.array(
        [
            front.scores[front.rates >= rate].max(initial=-np.inf)
            for rate in rates(found)[objective] * (1 - 1e-6)
        ]
    )
    assert table.lowest_rate(objective) <= rates(found)[objective][found["fits"]].min() * (1 + 1e-6)
    assert (proxy_scores(space(name), genomes)[found["fits"]] <= best[found["fits"]] + 1e-9).all()


def test_further_objectives_are_searched_for_and_fps_is_always_one():
    pair = ("fashion-mnist", "zcu102")
    reference = (costs(*pair).lowest_rate("latency"), 0.0)

    def area(**arguments: object) -> float:
        search = Search(space(pair[0]), costs(*pair), population=32, generations=10, **arguments)  # type: ignore[arg-type]
        search.run()
        found = search.evaluated()
        rate = rates(costs(*pair).evaluate(found.genomes))["latency"]
        front = search.model_front("latency")
        assert front is not None
        assert front.exact
        return hypervolume(np.column_stack([rate, found.scores]), reference)

    assert area(objectives=["latency"]) > 1.01 * area()
    plain, named = new(), new(objectives=["fps"])
    plain.run()
    named.run()
    assert same_search(plain, named)
    either, other = new(objectives=["energy", "latency"]), new(objectives=["latency", "energy", "energy"])
    either.run()
    other.run()
    assert same_search(either, other)
    assert not same_search(plain, other)
    for wrong in (["power"], "watts"):
        with pytest.raises(InvalidValueError, match="must be one of fps, latency, energy"):
            new(objectives=wrong)
    with pytest.raises(InvalidValueError, match="must be one of fps, latency, energy"):
        proxy_front(space(), costs(), "watts")  # type: ignore[arg-type]


def test_a_guide_reports_how_good_its_predictions_were():
    search = new("tiny", population=32, generations=10)
    search.run()
    report = search.guide_report()
    assert report is not None
    assert report.samples == 32 * 9
    assert report.tau > 0.95
    front = search.model_front()
    assert front is not None
    # The model's front is that of the proxy, nearly: the proxy is smooth.
    exact = proxy_front(space("tiny"), costs("tiny"))
    reference = (costs("tiny").slowest()[1], 0.0)
    assert front.hypervolume(reference) == pytest.approx(exact.hypervolume(reference), rel=2e-3)
    plain = new("tiny", strategy="evolution")
    plain.run()
    assert plain.guide_report() is plain.model_front() is None
