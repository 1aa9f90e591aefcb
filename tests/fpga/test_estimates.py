"""Compares the resource model's coefficients with what Yosys makes of the circuits in fpga/estimates."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from rtl import ROOT, run, tool

CIRCUITS = ROOT / "fpga" / "estimates"
#: LUTs of a distributed RAM.
RAM_LUTS = {"RAM32M": 4, "RAM64M": 4, "RAM32M16": 8, "RAM64M8": 8}
#: Circuits that are nothing but multiplexers with one select: two bits share a LUT.
SHARED = {"hls_port"}


def declared() -> list[tuple[str, str, int, int]]:
    text = (ROOT / "rust" / "cost" / "src" / "circuits.rs").read_text()
    found = re.findall(r'^    \w+: "(\w+)" "([^"]*)" (\d+) (\d+);$', text, re.MULTILINE)
    return [(name, parameters, int(lut), int(ff)) for name, parameters, lut, ff in found]


def cases() -> list[object]:
    """Returns the declared counts; of each circuit's all but the smallest are slow."""
    counts = declared()
    least = {name: min(lut for other, _, lut, _ in counts if other == name) for name, *_ in counts}
    return [
        pytest.param(*case, marks=[] if case[2] == least[case[0]] else pytest.mark.slow) for case in counts
    ]


def sources(name: str) -> list[Path]:
    """Returns the files of a circuit: those that its first line says it uses come first."""
    path = CIRCUITS / f"{name}.sv"
    used = re.findall(r"Uses (\w+\.sv)", path.read_text())
    return [*(CIRCUITS / file for file in used), path]


def count(name: str, parameters: str, folder: Path, family: str = "xcup") -> Counter[str]:
    report = folder / "stat.txt"
    settings = " ".join(f"-set {key} {value}" for key, value in (p.split("=") for p in parameters.split()))
    commands = [
        f"read_verilog -sv {' '.join(map(str, sources(name)))}",
        *([f"chparam {settings} {name}"] if settings else []),
        f"synth_xilinx -family {family} -top {name} -flatten -noiopad -noclkbuf",
        f"tee -o {report} stat",
    ]
    run(tool("yosys"), "-q", "-p", "; ".join(commands), cwd=CIRCUITS)
    cells = re.findall(r"^ +([A-Z]\w+) +(\d+)$", report.read_text(), re.MULTILINE)
    return Counter({cell: int(number) for cell, number in cells})


def test_every_circuit_is_counted() -> None:
    assert {name for name, *_ in declared()} == {path.stem for path in CIRCUITS.glob("*.sv")}


@pytest.mark.parametrize(("name", "parameters", "lut", "ff"), cases())
def test_a_coefficient_is_what_yosys_counts(
    name: str, parameters: str, lut: int, ff: int, tmp_path: Path
) -> None:
    cells = count(name, parameters, tmp_path)
    luts = sum(number for cell, number in cells.items() if re.match(r"LUT\d|SRL", cell))
    luts += sum(RAM_LUTS[cell] * number for cell, number in cells.items() if cell in RAM_LUTS)
    if name in SHARED:
        luts -= cells["LUT3"] // 2
    # Versions of Yosys differ a little.
    assert luts == pytest.approx(lut, rel=0.03, abs=3)
    assert sum(number for cell, number in cells.items() if cell.startswith("FD")) == pytest.approx(
        ff, rel=0.03
    )
