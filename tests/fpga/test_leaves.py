"""Tests the worst cases of the kernels' functions that stand alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from rtl import ROOT, run, tool

HERE = Path(__file__).parent
INCLUDE = ROOT / "fpga" / "include"
# A pragma of Vitis HLS is unknown here; __int128 is not ISO C++.
FLAGS = (
    *("-std=c++17", "-O1", f"-I{INCLUDE}", f"-I{HERE / 'hls'}", "-DQUASAR_FAST", "-DQUASAR_CHECKED"),
    *("-Wall", "-Wextra", "-Wpedantic", "-Werror", "-Wno-unknown-pragmas", "-Wno-pedantic"),
)


@pytest.mark.parametrize("compiler", ["g++", "clang++"])
@pytest.mark.parametrize(("name", "least"), [("leaves", 3_000_000), ("lanes", 40_000)])
def test_every_function_is_right_in_its_worst_case(
    name: str, least: int, compiler: str, tmp_path: Path
) -> None:
    program = tmp_path / name
    run(tool(compiler), *FLAGS, HERE / f"{name}.cpp", "-o", program)
    checks = re.fullmatch(rf"{name}: (\d+) checks, 0 failures\n", run(program))
    assert checks is not None
    assert int(checks[1]) > least
