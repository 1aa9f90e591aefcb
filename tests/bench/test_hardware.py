"""Evaluations a second of the hardware model's cost table and of the search, on one core."""

from __future__ import annotations

import time

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from quasar_rt.hardware import CostTable, Hardware
from quasar_rt.nas.nsga2 import Search
from quasar_rt.space import Space

GENOMES = 1_000_000


@pytest.mark.parametrize("name", ["tiny", "base", "digits"])
def test_cost_table(benchmark: BenchmarkFixture, name: str) -> None:
    space = Space.load(name)
    table = CostTable(space, Hardware.for_board("zcu102", space))
    random = np.random.default_rng(0)
    genomes = np.stack([random.integers(0, n, GENOMES) for _, n in space.genes], axis=1).astype(np.uint8)
    cpu_seconds = []

    def evaluate() -> np.ndarray:
        # Other processes take no part in this thread's CPU time.
        start = time.thread_time()
        costs = table.evaluate(genomes)
        cpu_seconds.append(time.thread_time() - start)
        return costs

    costs = benchmark.pedantic(evaluate, warmup_rounds=1, rounds=5)
    benchmark.extra_info.update(genomes_per_cpu_second=GENOMES / min(cpu_seconds))
    assert costs["fits"].all()


def test_search(benchmark: BenchmarkFixture) -> None:
    space = Space.load("tiny")
    table = CostTable(space, Hardware.for_board("zcu102", space))
    cpu_seconds = []

    def search() -> None:
        start = time.thread_time()
        found = Search(space, table, population=200, generations=100, seed=0, strategy="evolution")
        found.run()
        found.front()
        cpu_seconds.append(time.thread_time() - start)
        assert len(found.evaluated()) == 20_000

    benchmark.pedantic(search, warmup_rounds=1, rounds=5)
    benchmark.extra_info.update(genomes_per_cpu_second=20_000 / min(cpu_seconds))


def test_design_space_search(benchmark: BenchmarkFixture) -> None:
    space = Space.load("base")
    benchmark.pedantic(Hardware.for_board, ("kv260", space), rounds=3)
