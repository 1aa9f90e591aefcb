"""Tests the packed element after synthesis by Yosys: one DSP slice, and a netlist that adds up as int64 does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from rtl import ROOT, RTL, run, tool, verilate

TESTS = ROOT / "tests" / "fpga"
PARTS = [RTL / "pack.sv", RTL / "mac.v", RTL / "mac_dsp48e2.v", TESTS / "element.sv"]
QUIET = ("-Wno-lint", "-Wno-INITIALDLY", "-Wno-COMBDLY", "--timing")


def simulate(out: Path, shift: int, sources: list[Path], *options: str) -> str:
    return run(
        verilate(
            out, "element", TESTS / "element_harness.cpp", sources, *options, defines=f"-DELEMENT_S={shift}"
        )
    )


@pytest.mark.parametrize(
    ("family", "cell", "shift", "named", "fabric_adder"),
    [
        ("xcup", "DSP48E2", 23, 1, False),
        (
            "xcup",
            "DSP48E2",
            23,
            0,
            True,
        ),  # Yosys 0.23 puts the accumulation of a DSP48E1 alone into the slice
        ("xc7", "DSP48E1", 21, 0, False),
    ],
    ids=["dsp48e2-named", "dsp48e2-inferred", "dsp48e1-inferred"],
)
def test_an_element_is_one_slice_and_its_netlist_is_exact(
    family: str, cell: str, shift: int, named: int, fabric_adder: bool, tmp_path: Path
) -> None:
    netlist, report = tmp_path / "element.v", tmp_path / "stat.txt"
    commands = [
        f"read_verilog -sv {' '.join(map(str, PARTS))}",
        f"chparam -set S {shift} -set NAMED {named} element",
        f"synth_xilinx -family {family} -top element -flatten -noiopad -noclkbuf",
        f"tee -o {report} stat",
        f"write_verilog -noexpr -noattr {netlist}",
    ]
    run(tool("yosys"), "-q", "-p", "; ".join(commands))
    cells = {
        name: int(count) for name, count in re.findall(r"^ +([A-Z]\w+) +(\d+)$", report.read_text(), re.M)
    }
    assert {name: count for name, count in cells.items() if name.startswith("DSP")} == {cell: 1}
    assert (cells.get("CARRY4", 0) > 1) == fabric_adder  # one forms W
    cells_sim = Path(tool("yosys")).resolve().parents[1] / "share" / "yosys" / "xilinx" / "cells_sim.v"
    models = [netlist, "-v", cells_sim, *([TESTS / "dsp48e2.v"] if family == "xcup" else [])]
    assert simulate(tmp_path / "simulation", shift, models, *QUIET).startswith("0 of")


@pytest.mark.parametrize(
    ("family", "style", "bits", "words", "cells"),
    [
        ("xcup", "block", 24, 1576, {"RAMB18E2": 3}),
        ("xcup", "ultra", 72, 4096, {"URAM288": 1}),
        ("xcup", "distributed", 96, 50, {"RAM64M8": 14}),
        ("xc7", "block", 24, 1576, {"RAMB18E1": 3}),
    ],
)
def test_a_bank_is_the_kind_of_memory_that_it_is_told(
    family: str, style: str, bits: int, words: int, cells: dict[str, int], tmp_path: Path
) -> None:
    report = tmp_path / "stat.txt"
    shape = f"-set WIDTH {bits} -set WORDS {words} -set ADDRESS_BITS {(words - 1).bit_length()}"
    commands = [
        f"read_verilog {RTL / 'bank.v'}",
        f'chparam {shape} -set STYLE "{style}" bank',
        f"synth_xilinx -family {family} {'-uram' if style == 'ultra' else ''} -top bank -flatten -noiopad -noclkbuf",
        f"tee -o {report} stat",
    ]
    run(tool("yosys"), "-q", "-p", "; ".join(commands))
    counts = re.findall(r"^ +((?:RAM|URAM)\w+) +(\d+)$", report.read_text(), re.MULTILINE)
    assert {name: int(count) for name, count in counts} == cells
