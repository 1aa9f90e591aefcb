"""Tests the counters in SystemVerilog against plain sums, and what the resource model counts for them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from rtl import ROOT, RTL, TESTS, luts, run, verilate, yosys

from quasar_rt.hardware import Hardware

SOURCE = RTL / "counters.sv"


def simulate(text: str, folder: Path, seeds: int = 1, bits: int = 10) -> str:
    """Runs the block with totals of some bits, so that they reach their end within the test."""
    source = folder / "counters.sv"
    source.write_text(text)
    program = verilate(
        folder / "built",
        "counters",
        TESTS / "counters_harness.cpp",
        [source],
        f"-GBITS={bits}",
        defines=f"-DCOUNTERS_BITS={bits}",
    )
    return "".join(run(program, seed, 60000) for seed in range(seeds))


def replaced(old: str, new: str) -> str:
    text = SOURCE.read_text()
    assert text.count(old) == 1, old
    return text.replace(old, new)


@pytest.mark.parametrize("bits", [10, 32])
def test_words_are_the_sums_of_random_events(bits: int, tmp_path: Path) -> None:
    said = simulate(SOURCE.read_text(), tmp_path, 3, bits)
    runs = [[int(n) for n in line.split() if n.isdigit()] for line in said.splitlines()]
    assert len(runs) == 3
    for wrong, reads, _ in runs:
        assert wrong == 0
        assert reads > 1000
    assert any(saturated for *_, saturated in runs) == (bits == 10)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("if (takes[u] != ends[u])", "if (takes[u])"),
        ("busy[u] && blocks[u]", "blocks[u]"),
        ("visit[i] ? go : go", "go"),
        ("if (visit[i]) own[PART_BITS-1:1] <= '0;\n                else ", ""),
        ("if (clear) fresh <= WORD_BITS'(WORDS + 1);", "if (clear) fresh <= WORD_BITS'(WORDS - 1);"),
        ("over ? '1 : sum", "sum"),
        ("&& s_axi_wstrb[0]", ""),
        ("if (!kernels_resetn) held[u] <= '0;\n            else ", ""),
    ],
)
def test_a_fault_is_noticed(old: str, new: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"wrong|Assertion failed"):
        simulate(replaced(old, new), tmp_path)


@pytest.mark.parametrize("board", ["zcu102", "pynq-z2"])
def test_the_resource_model_gives_what_yosys_builds(board: str, tmp_path: Path) -> None:
    text = (ROOT / "fpga" / "configs" / f"{board}.toml").read_text()
    text = re.sub(r"^counters = false.*$", "", text, flags=re.MULTILINE)
    hardware = Hardware.from_toml(text)
    cell = tmp_path / "counters_cell.v"
    cell.write_text(hardware.build_files["counters_cell.v"])
    cells = yosys([SOURCE, cell], "counters_cell", "xcup" if board == "zcu102" else "xc7", tmp_path)
    counted = next(part for part in hardware.parts if part.name == "counters")
    assert luts(cells) == pytest.approx(counted.lut, rel=0.04)
    assert cells["FDRE"] + cells["FDSE"] == pytest.approx(counted.ff, rel=0.04)
    assert not {kind for kind in cells if kind.startswith(("RAMB", "DSP"))}


def test_a_configuration_without_counters_has_none() -> None:
    text = (ROOT / "fpga" / "configs" / "tiny.toml").read_text()
    assert Hardware.from_toml(text).build_files["counters_cell.v"]
    without = Hardware.from_toml(text.replace("axi_ports", "counters = false\naxi_ports"))
    assert "counters_cell.v" not in without.build_files
    assert "counters" not in {part.name for part in without.parts}
