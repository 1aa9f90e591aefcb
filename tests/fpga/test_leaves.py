"""Tests the kernels' functions that stand alone: their worst cases, and that any C++17 front end can compile them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from rtl import ROOT, run, tool

HERE = Path(__file__).parent
INCLUDE = ROOT / "fpga" / "include"
HEADERS = ("leaves.hpp", "powers.hpp", "crc.hpp", "plain_int.hpp", "hls_pragma.hpp")
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]


@pytest.mark.parametrize("compiler", ["g++", "clang++"])
@pytest.mark.parametrize("integers", ["plain", "checked"])
def test_every_leaf_is_right_in_its_worst_case(compiler: str, integers: str, tmp_path: Path) -> None:
    flags = ["-std=c++17", "-O1", f"-I{INCLUDE}", *WARNINGS]
    if integers == "checked":
        # They use __int128, which ISO C++ has not.
        flags += ["-DQUASAR_FAST", "-DQUASAR_CHECKED", "-Wno-pedantic"]
    program = tmp_path / "leaves"
    run(tool(compiler), *flags, HERE / "leaves.cpp", "-o", program)
    checks = re.fullmatch(r"leaves: (\d+) checks, 0 failures\n", run(program))
    assert checks is not None
    assert int(checks[1]) > 3_000_000


@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_lanes_are_moved_as_computed_indices_say(compiler: str, tmp_path: Path) -> None:
    flags = ["-std=c++17", "-O1", f"-I{INCLUDE}", f"-I{HERE / 'hls'}", "-DQUASAR_FAST", "-DQUASAR_CHECKED"]
    program = tmp_path / "lanes"
    # A pragma of Vitis HLS is unknown here; __int128 is not ISO C++.
    quiet = ["-Wno-unknown-pragmas", "-Wno-pedantic"]
    run(tool(compiler), *flags, *WARNINGS, *quiet, HERE / "lanes.cpp", "-o", program)
    checks = re.fullmatch(r"lanes: (\d+) checks, 0 failures\n", run(program))
    assert checks is not None
    assert int(checks[1]) > 40_000


@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_the_leaves_compile_without_a_library(compiler: str, tmp_path: Path) -> None:
    """Stands in for other HLS front ends: freestanding C++17, no C++ header, no exception, nothing left to link."""
    library = tmp_path / "leaves.so"
    alone = ["-ffreestanding", "-fno-exceptions", "-fno-rtti", "-nostdlib", "-nostdinc++"]
    flags = ["-std=c++17", "-O1", "-shared", "-fPIC", "-Wl,-z,defs", f"-I{INCLUDE}", *WARNINGS]
    run(tool(compiler), *flags, *alone, HERE / "leaves_alone.cpp", "-o", library)
    used = run(tool(compiler), "-std=c++17", *alone, f"-I{INCLUDE}", "-M", HERE / "leaves_alone.cpp")
    ours = {Path(name).name for name in used.split() if str(INCLUDE) in name}
    assert ours == set(HEADERS)
    others = [
        name
        for name in re.split(r"[\s\\]+", used)
        if name.endswith((".h", ".hpp")) and str(INCLUDE) not in name
    ]
    assert {Path(name).name for name in others} <= {"stdint.h", "stdint-gcc.h", "root_of.hpp"}


def test_the_leaves_have_no_pragma_of_one_tool() -> None:
    for name in HEADERS:
        text = (INCLUDE / name).read_text()
        code = re.sub(r"//.*", "", text)
        assert re.findall(r"^#pragma (?!once)", code, re.MULTILINE) == []
        assert "ap_int" not in code
        assert "ap_uint" not in code
        assert set(re.findall(r"#include <(.*)>", code)) <= {"stdint.h"}
    seen = run(tool("clang++"), "-std=c++17", "-E", "-P", f"-I{INCLUDE}", HERE / "leaves_alone.cpp")
    assert "#pragma" not in seen


def test_vitis_hls_sees_the_pragmas() -> None:
    flags = ["-std=c++17", "-E", "-P", f"-I{INCLUDE}", "-D__SYNTHESIS__"]
    seen = run(tool("clang++"), *flags, HERE / "leaves_alone.cpp")
    written = sum((INCLUDE / name).read_text().count("\n  QUASAR_HLS(") for name in ("leaves.hpp", "crc.hpp"))
    assert seen.count("#pragma HLS ") >= written > 15
    assert "#pragma HLS ARRAY_PARTITION variable = words complete" in seen
