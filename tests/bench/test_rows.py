"""Compares quantizing and packing of 4-bit rows with NumPy: one core, CPU time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from quasar_rt import quantize_rows

ROWS, COLUMNS = 768, 768
#: Rows that NumPy takes at a time, so that what lies between its steps stays in L2.
BLOCKS = (16, 32, 64, 128, 256)


class Tuned:
    """Quantizes as fast as NumPy can: memory made beforehand, blocks, every step in place, bytes seen as words."""

    def __init__(self, columns: int, block: int) -> None:
        self.block = block
        self.floats = np.empty((block, columns), np.float32)
        self.codes = np.empty((block, columns), np.int8)
        self.low = np.empty((block, columns // 2), np.uint8)

    def pack(
        self, weights: npt.NDArray[np.float32], scales: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.uint8]:
        """Returns the packed codes for given scales, uint8 [rows, columns / 2]."""
        out = np.empty((len(weights), weights.shape[1] // 2), np.uint8)
        # A product is faster than a quotient, and may differ from it by a code half-way between two.
        factors = (1 / scales)[:, np.newaxis]
        for start in range(0, len(weights), self.block):
            part = slice(start, min(start + self.block, len(weights)))
            n = part.stop - part.start
            floats, codes, low, high = self.floats[:n], self.codes[:n], self.low[:n], out[part]
            np.multiply(weights[part], factors[part], out=floats)
            np.rint(floats, out=floats)
            np.clip(floats, -7, 7, out=floats)
            np.copyto(codes, floats, casting="unsafe")
            pairs = codes.view(np.uint8)
            np.bitwise_and(pairs[:, 0::2], 15, out=low)
            np.left_shift(pairs[:, 1::2], 4, out=high)
            np.bitwise_or(high, low, out=high)
        return out

    def minmax(self, weights: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
        """Scales included."""
        scales = np.empty(len(weights), np.float32)
        for start in range(0, len(weights), self.block):
            part = slice(start, start + self.block)
            floats = self.floats[: len(weights[part])]
            np.abs(weights[part], out=floats)
            np.max(floats, axis=1, out=scales[part])
        return self.pack(weights, scales / 7)


def least(work: Callable[[], object], repeat: int = 40) -> float:
    """Returns the CPU seconds of the fastest of some runs."""
    times = []
    for _ in range(repeat):
        start = time.process_time_ns()
        work()
        times.append(time.process_time_ns() - start)
    return min(times) / 1e9


@pytest.mark.parametrize("scales", ["given", "minmax"])
def test_quantizing(benchmark: BenchmarkFixture, scales: str) -> None:
    weights = np.random.default_rng(0).standard_normal((ROWS, COLUMNS)).astype(np.float32)
    given = np.abs(weights).max(axis=1) / 7
    bits = np.full(ROWS, 4, np.uint8)

    def ours() -> npt.NDArray[np.uint8]:
        if scales == "given":
            return quantize_rows(weights, bits, given).data
        return quantize_rows(weights, bits, method="minmax").data

    def numpys(block: int) -> npt.NDArray[np.uint8]:
        tuned = Tuned(COLUMNS, block)
        return tuned.pack(weights, given) if scales == "given" else tuned.minmax(weights)

    differ = np.count_nonzero(numpys(64).ravel() != ours())
    assert differ <= ROWS * COLUMNS // 10_000
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        peer = min(least(lambda block=block: numpys(block)) for block in BLOCKS)
        seconds = least(ours, 100)
    finally:
        os.sched_setaffinity(0, cores)
    benchmark.extra_info.update(quantized=scales, gigabytes=weights.nbytes / 1e9, numpy=peer, seconds=seconds)
    benchmark(ours)
