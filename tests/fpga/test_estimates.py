"""Compares the resource model's coefficients with what Yosys makes of the circuits in fpga/estimates."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from rtl import ROOT, luts, yosys

CIRCUITS = ROOT / "fpga" / "estimates"
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
    """Returns the files of a circuit: those that its first comment names behind "Uses" come first."""
    path = CIRCUITS / f"{name}.sv"
    used = re.findall(r"Uses (\w+\.sv)", path.read_text())
    return [*(CIRCUITS / file for file in used), path]


def test_every_circuit_is_counted() -> None:
    assert {name for name, *_ in declared()} == {path.stem for path in CIRCUITS.glob("*.sv")}


@pytest.mark.parametrize(("name", "parameters", "lut", "ff"), cases())
def test_a_coefficient_is_what_yosys_counts(
    name: str, parameters: str, lut: int, ff: int, tmp_path: Path
) -> None:
    settings = " ".join(f"-set {key} {value}" for key, value in (p.split("=") for p in parameters.split()))
    cells = yosys(sources(name), name, "xcup", tmp_path, settings)
    total = luts(cells)
    if name in SHARED:
        total -= cells["LUT3"] // 2
    # Versions of Yosys differ a little.
    assert total == pytest.approx(lut, rel=0.03, abs=3)
    assert sum(number for cell, number in cells.items() if cell.startswith("FD")) == pytest.approx(
        ff, rel=0.03
    )
