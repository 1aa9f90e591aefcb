"""Evaluations a second of the hardware model's cost table, on one core."""

from __future__ import annotations

import time

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from quasar_rt.hardware import CostTable, Hardware
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
    benchmark.extra_info.update(space=name, genomes_per_cpu_second=GENOMES / min(cpu_seconds))
    assert costs["fits"].all()


def test_design_space_search(benchmark: BenchmarkFixture) -> None:
    space = Space.load("base")
    benchmark.pedantic(Hardware.for_board, ("kv260", space), rounds=3)
