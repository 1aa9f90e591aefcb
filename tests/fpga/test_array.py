"""Tests the array in SystemVerilog: bit-exact against int64, cycle-exact against docs/array-timing.md."""

from __future__ import annotations

import numpy as np
import pytest
from rtl import Cycles, Program, Shape, Simulate

SHAPES = {
    "ragged": Shape(5, 3, 2),
    "wide": Shape(4, 20, 3, beat=16),  # a column is more than a beat
    "dsp48e1": Shape(3, 4, 3, shift=21, beat=32),
    "one": Shape(1, 1, 1),
    "gap": Shape(3, 2, 3, gap=8),
}


def results(lines: list[list[str]]) -> list[tuple[str, list[int]]]:
    return [(kind, [int(v) for v in values]) for kind, _, *values in lines if kind in ("sum", "score")]


def events(lines: list[list[str]], *kinds: str) -> list[int]:
    return [int(cycle) for kind, cycle, *_ in lines if kind in kinds]


def check_cycles(lines: list[list[str]], cycles: Cycles) -> None:
    assert events(lines, "start") == cycles.starts
    assert events(lines, "end") == cycles.ends
    assert events(lines, "sum", "score") == cycles.results


def weights(rng: np.random.Generator, rows4: int, rows8: int, columns: int) -> np.ndarray:
    return np.concatenate([rng.integers(-7, 8, (rows4, columns)), rng.integers(-127, 128, (rows8, columns))])


def add_random(program: Program, rng: np.random.Generator) -> None:
    """Adds a product of any kind and size."""
    shape = program.shape
    choice = rng.integers(4)
    if choice < 2:
        columns = int(rng.integers(1, 70))
        rows4, rows8 = (int(n) for n in rng.integers(0, 3 * shape.pairs + 2, 2))
        program.gemm(
            rng.integers(-128, 128, (int(rng.integers(1, 3 * shape.tokens + 1)), columns)),
            weights(rng, rows4, max(rows8, int(rows4 == 0)), columns),
            rows4,
            int(rng.choice([columns, max(1, columns // 2), max(1, columns // 3)])),
        )
        return
    tokens, columns = int(rng.integers(1, shape.tokens + 1)), int(rng.integers(1, 40))
    rows = rng.integers(-128, 128, (int(rng.integers(1, 4 * shape.pairs + 1)), columns))
    if choice == 2:
        program.attend(rng.integers(-128, 128, (tokens, columns)), rows, scores=True, pass_columns=columns)
    else:
        probabilities = rng.integers(0, 256, (tokens, columns))
        program.attend(probabilities, rows, scores=False, pass_columns=int(rng.choice([columns, 7])))


@pytest.mark.parametrize("name", SHAPES)
def test_random_products_are_exact_in_value_and_cycle(name: str, simulate: Simulate) -> None:
    stalled = [0, 0]
    for seed in range(12):
        rng = np.random.default_rng(seed)
        program = Program(SHAPES[name])
        for _ in range(6):
            add_random(program, rng)
        interval, depth = ((0, 0), (1, 64), (2, 4), (5, 0))[seed % 4]
        lines = simulate(program, interval=interval, depth=depth)
        cycles = program.cycles(interval, depth)
        assert results(lines) == program.expected()
        check_cycles(lines, cycles)
        stalled[0] += sum(cycles.drain_stalls)
        stalled[1] += sum(cycles.weight_stalls)
    assert min(stalled) > 0, "the programs must make the array wait for both"


@pytest.mark.parametrize("name", ["ragged", "wide", "dsp48e1"])
def test_results_that_are_not_taken_change_no_value(name: str, simulate: Simulate) -> None:
    rng = np.random.default_rng(1)
    program = Program(SHAPES[name])
    for _ in range(12):
        add_random(program, rng)
    assert results(simulate(program, seed=3, stall_percent=60, interval=2, depth=4)) == program.expected()


@pytest.mark.parametrize("low", [-1, 1])
@pytest.mark.parametrize("high", [-1, 1])
def test_the_longest_passes_of_extreme_operands_are_exact(low: int, high: int, simulate: Simulate) -> None:
    """At the bounds of docs/hardware-model.md: the low field is full when P is read."""
    shape = Shape(2, 4, 2, words=4800)
    for kind, columns in (("w4s8", 4681), ("w8s8", 2184), ("w8u8", 2193)):
        program = Program(shape)
        if kind == "w4s8":
            rows = np.full((4, columns), 7) * np.array([[low], [high], [high], [low]])
        else:  # the low nibble is 15
            rows = np.full((3, columns), 15) + np.array([[-16 * (low < 0)], [16 * 6], [-128]])
        if kind == "w8u8":
            program.attend(np.full((2, columns), 255), rows, scores=False, pass_columns=columns)
        else:
            acts = np.full((2, columns), -128)
            acts[1] = 127
            program.gemm(acts, rows, 4 if kind == "w4s8" else 0, columns)
        lines = simulate(program)
        assert results(lines) == program.expected()
        check_cycles(lines, program.cycles())


def test_stalls_by_hand(simulate: Simulate) -> None:
    """T 5, P 3, L 2: six 4-bit rows of 5 tokens drain for 18 cycles, a tile of 8 columns waits for 10 of them."""
    rng = np.random.default_rng(0)
    program = Program(SHAPES["ragged"])
    program.gemm(rng.integers(-128, 128, (15, 8)), weights(rng, 12, 0, 8), 12, 8)
    lines = simulate(program)
    ends = events(lines, "end")
    # The first tile's 8 columns are there in cycle 9: two beats of 16 bytes, but a word a cycle.
    assert ends == [9 + 7 + 18 * i for i in range(6)]
    assert events(lines, "sum") == [ends[0] + 5 + 3 + 4 + 1 + i for i in range(6 * 18)]


def test_a_wrong_cycle_is_noticed(simulate: Simulate) -> None:
    program = Program(SHAPES["one"])
    add_random(program, np.random.default_rng(0))
    lines = simulate(program)
    lines[-1][1] = str(int(lines[-1][1]) + 1)
    with pytest.raises(AssertionError):
        check_cycles(lines, program.cycles())
