"""Latency of one frame, from pixels to prediction, for subnets of DeiT's shapes with random weights."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from quasar_rt import Engine, Subnet
from quasar_rt._native import peak_macs_per_second
from quasar_rt.bench import open_subnet

pytestmark = pytest.mark.filterwarnings("ignore::quasar_rt.UntrainedWarning")

subnet_of = cache(open_subnet)


@cache
def peak_gmacs(tier: str) -> float:
    """Returns one core's measured int8 peak."""
    return peak_macs_per_second(tier, 0.5) / 1e9


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ["deit-tiny", "deit-small"])
def test_latency(benchmark: BenchmarkFixture, name: str, threads: int) -> None:
    subnet: Subnet = subnet_of(name)
    picture = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    with Engine(subnet, threads=threads) as engine:
        benchmark.extra_info.update(
            subnet=name,
            tier=engine.tier,
            threads=threads,
            macs=subnet.summary().macs,
            peak_gmacs=threads * peak_gmacs(engine.tier),
        )
        prediction = benchmark.pedantic(engine.infer, (picture,), warmup_rounds=3, rounds=30)
    assert prediction.logits.shape == (1000,)
