"""Compiles the kernels as Vitis HLS sees them (`__SYNTHESIS__`), with headers that replace Vitis HLS's.

The compiler ignores pragmas, and integers are the native ones.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from rtl import ROOT, run, tool

SOURCES = sorted((ROOT / "fpga" / "src").glob("*.cpp"))
ENDLESS = "for (volatile bool running = true; running;)"


def optimised(text: str, folder: Path) -> str:
    """Returns the compiler's intermediate form of a kernel, without inlining."""
    source = folder / "kernel.cpp"
    source.write_text(text)
    flags = ["-std=c++17", "-O2", "-fno-inline", "-S", "-emit-llvm", "-D__SYNTHESIS__", "-DQUASAR_FAST"]
    warnings = ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-Wno-unused-label"]
    includes = [f"-I{path}" for path in (ROOT / "fpga" / "include", ROOT / "tests" / "fpga" / "hls")]
    out = folder / "kernel.ll"
    run(tool("clang++"), *flags, *warnings, *includes, source, "-o", out)
    return out.read_text()


def processes(text: str) -> list[str]:
    return re.findall(r"QUASAR_PROCESS\(\s*(\w+)\(", text)


def called(form: str, top: str) -> list[str]:
    """Functions of the unnamed namespace that the top function calls, in its order."""
    (body,) = re.findall(rf"^define [^\n]*@_Z{len(top)}{top}R.*?^}}", form, re.MULTILINE | re.DOTALL)
    names = re.findall(r"(?:call|invoke) [^\n]*?@_ZN12_GLOBAL__N_1(\d+)(\w+)", body)
    return [name[: int(size)] for size, name in names]


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_kernels_compile_without_a_warning_and_keep_their_processes(source: Path, tmp_path: Path) -> None:
    text = source.read_text()
    form = optimised(text, tmp_path)
    wanted = processes(text)
    if wanted:
        assert called(form, source.stem) == wanted


def test_a_loop_that_never_ends_would_take_the_processes_behind_it(tmp_path: Path) -> None:
    text = (ROOT / "fpga" / "src" / "softmax.cpp").read_text()
    form = optimised(text.replace(ENDLESS, "while (true)"), tmp_path)
    assert called(form, "softmax") == processes(text)[:1]
