"""Compiles the kernels as Vitis HLS sees them (`__SYNTHESIS__`), with headers that replace Vitis HLS's.

The compiler ignores pragmas, and integers are the native ones.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from rtl import ROOT, run, tool

# A configuration of few tokens and lanes.
HEADERS = ROOT / "tests" / "fpga" / "hls"
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


def missing_pragmas(text: str) -> list[str]:
    """Returns the pragmas that a kernel with processes lacks: C simulation passes without them."""
    wanted = ["DATAFLOW"] if processes(text) else []
    for buffer in re.findall(r"^  DoubleBuffer (\w+);", text, re.MULTILINE):
        wanted += [
            f"ARRAY_PARTITION variable = {buffer} complete dim = 1",
            f"AGGREGATE variable = {buffer} compact = bit",
            f"STREAM variable = {buffer} type = unsync",
        ]
    return [pragma for pragma in wanted if f"\n#pragma HLS {pragma}\n" not in text]


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_processes_are_a_dataflow_region_and_share_unsynchronized_double_buffers(source: Path) -> None:
    text = source.read_text()
    assert missing_pragmas(text) == []
    pragmas = re.findall(r"^#pragma HLS (DATAFLOW|\w+ variable = double_buffer .*)$", text, re.MULTILINE)
    assert len(pragmas) == bool(processes(text)) + 3 * ("DoubleBuffer" in text)
    for pragma in pragmas:
        assert missing_pragmas(text.replace(f"#pragma HLS {pragma}\n", "")) == [pragma]


def value(expression: str, names: dict[str, int]) -> int:
    """Returns the value of a constant expression of SystemVerilog or Rust."""
    words = re.sub(r"[A-Za-z_][\w.]*", lambda name: str(names[name[0]]), expression)
    assert re.fullmatch(r"[\d\s()+*/-]+", words), words
    return int(eval(words.replace("/", "//")))


@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_queues_have_the_bits_that_the_array_and_the_block_design_give_them(
    compiler: str, tmp_path: Path
) -> None:
    program = tmp_path / "packing"
    flags = ["-std=c++17", "-O1", "-D__SYNTHESIS__", "-DQUASAR_FAST", "-Wall", "-Wextra", "-Werror"]
    includes = [f"-I{path}" for path in (ROOT / "fpga" / "include", HEADERS)]
    source = ROOT / "tests" / "fpga" / "packing.cpp"
    run(tool(compiler), *flags, "-Wno-unknown-pragmas", *includes, source, "-o", program)
    bits = {name: int(count) for name, count in re.findall(r"^(\w+) (\d+)$", run(program), re.MULTILINE)}
    config = {
        name: int(n)
        for name, n in re.findall(r"unsigned (\w+) = (\d+)u;", (HEADERS / "config.hpp").read_text())
    }
    tokens, lanes = config["TOKENS"], config["LANES"]

    # A port of ap_uint is rounded up to bytes.
    array = (ROOT / "fpga" / "rtl" / "array_top.sv").read_text()
    names = {"T": tokens, "L": lanes, "BEAT": 16 * config["PORTS"]}
    for name, expression in re.findall(r"localparam int (S\w+_BITS) = (.+?),?\n", array):
        names[name] = value(expression, names)
    ports = re.findall(r"\[(.+?):0\]\s+(passes|demands|weights|sums|scores)_tdata", array)
    assert {name: value(most, names) + 1 for most, name in ports} == {
        name: -(-bits[name] // 8) * 8 for name in ("passes", "demands", "weights", "sums", "scores")
    }

    rust = (ROOT / "rust" / "hardware" / "src" / "design" / "queues.rs").read_text()
    items = (ROOT / "fpga" / "rtl" / "lane_types.sv").read_text()
    names = {
        "COMMAND_BITS": 128, "PORT_BITS": 128, "c.axi_ports": config["PORTS"], "c.lanes.requantize": lanes,
        "c.array.tokens": tokens, "c.lanes.exponential": config["EXP_LANES"],
        **{name: int(count) for name, count in re.findall(r"localparam int (\w+_BITS) = (\d+);", items)},
    }  # fmt: skip
    queues = dict(
        Command="commands", Pass="passes", Demand="demands", Beat="weights", Sums="sums", Scores="scores",
        LaneJob="lane_jobs", LaneRow="lane_rows", Moments="moments", Maxima="maxima", Scale="scales",
        FrameCheck="checks",
    )  # fmt: skip
    counted = dict(re.findall(r"Self::(\w+) => (.+),\n", rust))
    assert {name: value(counted[item], names) for item, name in queues.items()} == bits


def test_a_loop_that_never_ends_would_take_the_processes_behind_it(tmp_path: Path) -> None:
    text = (ROOT / "fpga" / "src" / "softmax.cpp").read_text()
    form = optimised(text.replace(ENDLESS, "while (true)"), tmp_path)
    assert called(form, "softmax") == processes(text)[:1]
