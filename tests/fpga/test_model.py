"""Holds the simulated device's model of the array to the SystemVerilog: every signal in every cycle."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from rtl import ROOT, SOURCES, TESTS, Shape, run, tool, verilate
from test_array import SHIPPED, shipped

sys.path.insert(0, str(ROOT / "fpga" / "scripts"))
from rtl_parameters import parameters

SHAPES = {
    "3x2x4-R2": Shape(3, 2, 4, ratio=2),
    "5x3x1": Shape(5, 3, 1, lanes=4, norm=3, exponential=5, frames=1),
    "7x6x4-R2": Shape(7, 6, 4, ratio=2, lanes=4, norm=3, beat=32),
    "4x20x1-R2": Shape(4, 20, 1, ratio=2, lanes=3, keys=45, dims=50),
    "2x4x8": Shape(2, 4, 8, lanes=2),
    "9x5x2-R2-DSP48E1": Shape(9, 5, 2, ratio=2, lanes=9, norm=4, exponential=3, dsp48e1=True),
    "1x1x1-DSP48E1": Shape(1, 1, 1, lanes=1, norm=1, exponential=1, dsp48e1=True),
}
#: Shapes that take longest to compile.
LARGE = ("7x6x4-R2", "4x20x1-R2", "2x4x8", "9x5x2-R2-DSP48E1")
MIXES = ((100, 100), (100, 40), (35, 100), (60, 50), (20, 15))


def configuration(shape: Shape) -> str:
    """Returns a shape as the kernels' config.hpp."""
    columns = shape.words * shape.cascade
    values = dict(
        PORTS=shape.beat // 16, FRAMES=shape.frames, TOKENS=shape.tokens, PAIRS=shape.pairs,
        CASCADE=shape.cascade, CLOCK_RATIO=shape.ratio, LANES=shape.lanes, NORM_LANES=shape.norm,
        EXP_LANES=shape.exponential, SHIFT=shape.shift, NORM_IN_FABRIC=0, EXP_IN_FABRIC=0, KEY_BANKS=shape.key_banks,
        VALUE_BANKS=shape.value_banks, INPUT_WORDS=columns, RESIDUAL_WORDS=columns, NORM_WORDS=columns,
        QUERY_WORDS=columns, KEY_WORDS=shape.key_words * shape.cascade,
        VALUE_WORDS=shape.value_words * shape.cascade, SCORE_WORDS=shape.keys, HIDDEN_WORDS=columns,
        WEIGHT_WORDS=columns, MOMENTS_DEPTH=16, MAXIMA_DEPTH=16, SCALES_DEPTH=64, BEAT_TICKS=1,
        REQUANTIZE_DEPTH=13,
    )  # fmt: skip
    constants = "\n".join(f"constexpr unsigned {name} = {value}u;" for name, value in values.items())
    return f'#pragma once\nnamespace config {{\n{constants}\n}}\n#include "tiling.hpp"\n'


def side_by_side(shape: Shape, folder: Path) -> Path:
    """Compiles the model and the SystemVerilog into one program."""
    header = configuration(shape)
    (folder / "config.hpp").write_text(header)
    given = parameters("array", header)
    fpga = ROOT / "fpga"
    includes = " ".join(f"-I{path}" for path in (folder, fpga / "include", fpga / "sim", fpga / "tb"))
    defines = " ".join(f"-DARRAY_{name}={given[name]}" for name in ("ADDRESS_BITS", "ROW_BITS"))
    models = [
        fpga / "sim" / f"{name}.cpp" for name in ("array_model", "array_rtl", "counters", "fibers", "timing")
    ]
    return verilate(
        folder / "model",
        "array",
        TESTS / "model_harness.cpp",
        [*(source for source in SOURCES if source.suffix == ".sv" and source.stem != "array_top"), *models],
        *(f"-G{name}={value}" for name, value in given.items()),
        defines=f"{includes} {defines} -DQUASAR_FAST -w",
    )


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in LARGE else []) for name in SHAPES]
)
def test_model_and_rtl_have_the_same_signals_in_every_cycle(name: str, tmp_path: Path) -> None:
    program = side_by_side(SHAPES[name], tmp_path)
    for seed in range(20):
        offered, taken = MIXES[seed % len(MIXES)]
        assert "passes are the same" in run(program, seed, 12, offered, taken)


@pytest.mark.slow
@pytest.mark.parametrize("board", SHIPPED)
def test_model_and_rtl_are_the_same_at_a_boards_size(board: str, tmp_path: Path) -> None:
    program = side_by_side(shipped(board), tmp_path)
    for seed, (offered, taken) in enumerate(MIXES):
        assert "passes are the same" in run(program, seed, 6, offered, taken)


@pytest.mark.parametrize("name", ["tiny", "odd"])
def test_frames_through_the_rtl_have_the_cpus_bits(name: str) -> None:
    """Builds the simulated device with the SystemVerilog in it, and runs its tests of frames and of the counters.

    Two frames are in flight; odd has R = 2.
    """
    tool("verilator")
    run(
        "make", "-C", ROOT / "fpga", "--silent", "sim", "RTL=1", f"CONFIGS={name}", f"PYTHON={sys.executable}"
    )
    environment = {**os.environ, "QUASAR_SIM_DIR": str(ROOT / "build" / "sim-rtl")}
    tests = ROOT / "tests" / "python"
    command = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    files = (tests / "test_device.py", tests / "test_simulated_time.py")
    wanted = f"(test_random and have_the_cpus_bits and {name}) or (test_each_unit and {name}-token)"
    done = subprocess.run(
        [*command, *files, "-k", wanted], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout
    assert " skipped" not in done.stdout
