"""Preprocessing of 1080p frames, by format, and how much of it a stream hides."""

from __future__ import annotations

import time
from statistics import median

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from quasar_rt import Engine, Frame
from quasar_rt.bench import open_subnet
from quasar_rt.images import preprocess

pytestmark = pytest.mark.filterwarnings("ignore::quasar_rt.UntrainedWarning")

WIDTH, HEIGHT, SEEN = 1920, 1080, (224, 224, 3)
BYTES = {"rgb": 3.0, "bgr": 3.0, "nv12": 1.5, "yuyv": 2.0}


def frame_of(format: str) -> Frame:
    data = np.random.default_rng(0).integers(0, 256, int(WIDTH * HEIGHT * BYTES[format]), np.uint8)
    return Frame(data, WIDTH, HEIGHT, format)


@pytest.mark.parametrize("resampling", ["bilinear", "bicubic"])
@pytest.mark.parametrize("format", BYTES)
def test_preprocessing(benchmark: BenchmarkFixture, format: str, resampling: str) -> None:
    frame = frame_of(format)
    document = {"resize": {"mode": "shorter", "size": [256], "filter": resampling}}
    pixels = benchmark.pedantic(preprocess, (frame, SEEN, document), warmup_rounds=2, rounds=30)
    assert pixels.shape == SEEN


@pytest.mark.parametrize("threads", [1, 2])
def test_stream(benchmark: BenchmarkFixture, threads: int) -> None:
    count = 40
    subnet = open_subnet("deit-tiny")
    frame = frame_of("nv12")
    ready = np.random.default_rng(0).integers(0, 256, SEEN, np.uint8)
    shares: list[float] = []
    with Engine(subnet, threads=threads) as engine:

        def seconds(image: object) -> float:
            start = time.perf_counter()
            assert sum(1 for _ in engine.stream([image] * count)) == count
            return time.perf_counter() - start

        def compare() -> None:
            shares.append(seconds(ready) / seconds(frame))

        benchmark.pedantic(compare, warmup_rounds=1, rounds=8)
    benchmark.extra_info.update(stream=median(shares), threads=threads)
