"""Compares the event model of the array (rust/accelerator/src/events/) with the RTL, cycle for cycle."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

import numpy as np
import pytest
from rtl import ROOT, Program, Shape, Simulate, run, tool
from test_array import SHAPES, add_random, events


@pytest.fixture(scope="module")
def array_cycles() -> Callable[[str], list[list[int]]]:
    """Runs the model. For each pass: start, end, drain stall, weight stall, last sum."""
    command = [tool("cargo"), "build", "--package", "quasar-accelerator", "--example", "array_cycles"]
    built = run(*command, "--quiet", "--message-format=json", cwd=ROOT)
    messages = [json.loads(line) for line in built.splitlines()]
    (program,) = [message["executable"] for message in messages if message.get("executable")]

    def call(listing: str) -> list[list[int]]:
        done = subprocess.run([program], input=listing, capture_output=True, text=True, check=True)
        return [[int(word) for word in line.split()] for line in done.stdout.splitlines()]

    return call


@pytest.mark.parametrize("name", [name for name, shape in SHAPES.items() if shape.gap == 0])
def test_the_event_driven_model_is_the_rtl(
    name: str,
    simulate: Simulate,
    array_cycles: Callable[[str], list[list[int]]],
) -> None:
    stalls = np.zeros(2, int)
    for seed in range(100, 108):
        rng = np.random.default_rng(seed)
        program = Program(SHAPES[name])
        for _ in range(8):
            add_random(program, rng)
        interval = 1 + seed % 3
        compare(program, interval, simulate, array_cycles)
        cycles = program.cycles(interval)
        stalls += sum(cycles.drain_stalls), sum(cycles.weight_stalls)
    assert stalls.min() > 0, "the programs must make the array wait for both"


def compare(
    program: Program,
    interval: int,
    simulate: Simulate,
    array_cycles: Callable[[str], list[list[int]]],
) -> None:
    modelled = array_cycles(program.listing(interval))
    lines = simulate(program, interval=interval)
    cycles = program.cycles(interval)
    assert [start for start, *_ in modelled] == events(lines, "start")
    assert [end for _, end, *_ in modelled] == events(lines, "end")
    assert [stall for _, _, stall, *_ in modelled] == cycles.drain_stalls
    assert [stall for _, _, _, stall, _ in modelled] == cycles.weight_stalls
    results = iter(events(lines, "sum", "score"))
    for p, (*_, last) in zip(program.passes, modelled, strict=True):
        if p.last:
            assert [next(results) for _ in range(p.drain(program.shape))][-1] == last


def test_long_columns_are_held_up_alike(
    simulate: Simulate,
    array_cycles: Callable[[str], list[list[int]]],
) -> None:
    """DeiT-tiny's width, many row pairs, few lanes: weights and drain both hold it up."""
    rng = np.random.default_rng(0)
    program = Program(Shape(4, 12, 2, words=192))
    program.gemm(rng.integers(-128, 128, (24, 192)), rng.integers(-7, 8, (150, 192)), 150, 192)
    program.gemm(rng.integers(-128, 128, (5, 192)), rng.integers(-127, 128, (60, 192)), 0, 192)
    compare(program, 1, simulate, array_cycles)
