"""Tests the array in SystemVerilog: bit-exact against int64, cycle-exact against the event model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rtl import ROOT, RTL, TESTS, Check, Observed, Program, Shape, Simulate, compare, run, verilate

from quasar_rt.hardware import Hardware

SHAPES = {
    "3x2x4-R2": Shape(3, 2, 4, ratio=2),
    # More banks of keys than row pairs; the FIFOs hold few pairs.
    "5x3x2": Shape(5, 3, 2, lanes=4, norm=3, exponential=5, frames=1, depth=8),
    "7x6x4-R2": Shape(7, 6, 4, ratio=2, lanes=4, norm=3, beat=32, depth=32),
    # A word of weights is more than a beat; activations in two copies of their registers.
    "4x20x1": Shape(4, 20, 1, lanes=3, keys=45, dims=50),
    "2x4x8": Shape(2, 4, 8, lanes=2),
    "3x2x1-DSP48E1": Shape(3, 2, 1, lanes=3, beat=32, depth=16, dsp48e1=True),
    # Slices and flip-flops by their name; the slice that adds up.
    "2x2x4-R2-DSP48E1": Shape(2, 2, 4, ratio=2, dsp48e1=True, primitives=True),
    "2x2x2-DSP48E2": Shape(2, 2, 2, depth=16, primitives=True),
}

#: Boards whose shipped arrays are tested at full size.
SHIPPED = ("zcu102", "kv260", "pynq-z2")


def shipped(board: str) -> Shape:
    """Returns the array of a shipped configuration."""
    settings = Hardware.load(ROOT / f"fpga/configs/{board}.toml").settings
    array, lanes, buffers = settings["array"], settings["lanes"], settings["buffers"]
    return Shape(
        array["tokens"],
        array["pairs"],
        array["cascade"],
        ratio=array["clock_ratio"],
        lanes=lanes["requantize"],
        norm=lanes["norm"],
        exponential=lanes["exponential"],
        beat=16 * settings["axi_ports"],
        words=buffers["input"] // array["cascade"],
        keys=197,
        dims=192,
    )


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in ("4x20x1", "2x4x8") else ()) for name in SHAPES],
)
def test_random_passes_are_exact_in_value_and_cycle(name: str, check: Check) -> None:
    causes = {"descriptor", "issue", "chain", "weights", "room"}
    waits: Counter[str] = Counter()
    for seed in range(12):
        program = Program(SHAPES[name], np.random.default_rng(seed))
        for _ in range(6):
            program.add_random()
        options = (
            dict(),
            dict(stall=50),
            dict(passes=30, beats=40),
            dict(stall=80, passes=60, beats=70),
        )[seed % 4]
        waits += check(program, seed=seed, **options)
        if seed >= 3 and set(waits) == causes:
            return
    assert set(waits) == causes, "passes must wait for all causes"


def test_a_reset_in_any_phase_leaves_nothing_behind(check: Check) -> None:
    rng = np.random.default_rng(7)
    for seed in range(40):
        program = Program(SHAPES["3x2x4-R2"], np.random.default_rng(seed))
        for _ in range(3):
            program.add_random()
        options = dict(stall=50, passes=60, beats=70) if seed % 2 else dict()
        check(program, seed=seed, reset=int(rng.integers(1, 400)), **options)


def test_results_come_in_any_order_of_ready(check: Check) -> None:
    """Takes no result for long, then all at once: results under way must find room."""
    for stall in (95, 99):
        program = Program(SHAPES["5x3x2"], np.random.default_rng(stall))
        for _ in range(3):
            program.add_random()
        assert check(program, seed=stall, stall=stall)["room"] > 0


def test_the_longest_passes_of_extreme_operands_are_exact(check: Check) -> None:
    """Runs products at the bounds of docs/hardware-model.md: the low field is full when P is read."""
    shape = Shape(1, 4, 4, lanes=1, norm=1, exponential=1, frames=1, words=1171, keys=2193, dims=8)
    for low in (-1, 1):
        for high in (-1, 1):
            for columns, four_bit in ((4681, True), (2184, False)):
                program = Program(shape, np.random.default_rng(0))
                for code in ("input", "query", "hidden", "normed"):
                    program.codes[code][:] = -128 if low < 0 else 127
                rows = np.full((4, columns), 7) * np.array([[low], [high], [high], [low]])
                if not four_bit:  # the low nibble is 15
                    rows = np.full((4, columns), 15) + np.array([[-16 * (low < 0)], [16 * 6], [-128], [-16]])
                program.gemm_of(rows, 4 if four_bit else 0, 1, 1171)
                check(program)
    program = Program(shape, np.random.default_rng(0))
    program.codes["probability"][:] = 255
    program.values[:] = 15 + np.tile([-16, 16 * 6, -128, 0], 2)
    program.context(8, 549)
    check(program)


def test_a_pass_by_hand(simulate: Simulate) -> None:
    """Runs one pass of 8 columns and four 4-bit rows on T 3, P 2, C 4, R 2; all numbers are counted by hand."""
    program = Program(SHAPES["3x2x4-R2"], np.random.default_rng(0))
    program.gemm_of(np.arange(32).reshape(4, 8) % 15 - 7, 4, 1, 2)
    program.passes[0].fields["groups"] = 1
    seen = simulate(program)
    assert seen.numbers("pass", column=2) == [0]
    # Taken in cycle 0, the demand lets the fill begin in cycle 3 with its one beat of 16 bytes; words of 8 bytes
    # in cycles 4 and 5. The pass starts 4 fast cycles after slow cycle 6 begins.
    assert seen.numbers("beat", column=2) == [3]
    assert (seen.numbers("start"), seen.numbers("end")) == ([16], [17])
    # Operands 7, the second stage of tokens 1, the fourth lane 3, slice and FIFO 6: pairs in fast cycles 34 and 35.
    # Their first item is in slow cycle 19, visible in 26; two rows each.
    assert seen.numbers("sum") == [26, 27, 28, 29]


def test_a_wrong_cycle_or_value_is_noticed(
    simulate: Simulate, array_cycles: Callable[[Program, Observed], list[list[int]]]
) -> None:
    program = Program(SHAPES["3x2x4-R2"], np.random.default_rng(0))
    program.gemm(16, 3, 1, 2, 4)
    seen = simulate(program)
    modelled = array_cycles(program, seen)
    compare(program, seen, modelled)
    for column in (1, 3):
        line = next(line for line in seen.lines if line[0] == "sum")
        line[column] = str(int(line[column]) + 1)
        with pytest.raises(AssertionError):
            compare(program, seen, modelled)
        line[column] = str(int(line[column]) - 1)


def test_the_model_of_a_cascade_is_its_dsp_slices(tmp_path: Path) -> None:
    """Compares every cycle for C = 1, 2, 4, 8, DSP48E2 and DSP48E1."""
    names = ("unit.sv", "unit_dsp48.sv")
    sources = [*(RTL / name for name in names), TESTS / "dsp48.sv", TESTS / "units.sv"]
    said = run(verilate(tmp_path, "units", TESTS / "units_harness.cpp", sources))
    assert said.startswith("0 of 20000")
    assert int(said.split()[-2]) > 10000


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_a_board_s_array_is_exact_in_value_and_cycle(name: str, check: Check) -> None:
    """Runs DeiT-tiny's shapes at full size: qkv, scores, context, fc2 in two passes."""
    for seed, options in enumerate((dict(), dict(stall=60, passes=70, beats=70))):
        program = Program(shipped(name), np.random.default_rng(seed))
        program.gemm(192, 40, 10, 3, 48)
        program.score(64)
        program.context(64, 50)
        program.gemm(768, 13, 4, 2, 96)
        check(program, seed=seed, **options)
