"""Tests of fpga/Makefile: what `make sim` builds, and what it shows meanwhile."""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

import pytest
from rtl import ROOT, run, tool

FPGA = ("make", "-C", ROOT / "fpga", "--silent", f"PYTHON={sys.executable}")


@pytest.mark.parametrize(
    ("asked", "devices"),
    [((), ["tiny"]), (("CONFIGS=tiny odd",), ["tiny", "odd"]), (("CONFIGS=all",), None)],
)
def test_sim_builds_what_is_asked_and_counts_the_files(asked, devices, tmp_path: Path) -> None:
    plan = run(*FPGA, "--dry-run", "sim", f"BUILD={tmp_path}", *asked)
    shown = re.findall(r"echo '\[(\d+)/(\d+)\] (\S+)'", plan)
    assert sorted(int(place) for place, _, _ in shown) == list(range(1, len(shown) + 1))
    assert {int(total) for _, total, _ in shown} == {len(shown)}
    built = [Path(name).stem for _, _, name in shown if name.endswith(".so")]
    assert sorted(built) == sorted(devices or (path.stem for path in (ROOT / "fpga/configs").glob("*.toml")))
    assert "cargo" not in plan


def test_the_header_of_a_configuration_stays_while_its_text_does(tmp_path: Path) -> None:
    header = tmp_path / "config" / "tiny" / "config.hpp"
    build = (*FPGA, f"BUILD={tmp_path}", header)
    run(*build)
    first = header.stat().st_mtime_ns
    run(*build, "--always-make")
    assert header.stat().st_mtime_ns == first
    header.write_text("of another version")
    run(*build, "--always-make")
    assert "constexpr unsigned" in header.read_text()


@pytest.mark.slow
def test_a_waveform_has_the_signals_of_array_and_lanes(tmp_path: Path) -> None:
    tool("verilator")
    run(*FPGA, "sim", "RTL=1", "TRACE=1")
    assert "build/waves/tiny.vcd" in run(sys.executable, ROOT / "tools" / "waveform.py", "tiny")
    header, _, changes = (ROOT / "build/waves/tiny.vcd").read_text().partition("$enddefinitions $end\n")
    times = [int(time) for time in re.findall(r"^#(\d+)$", changes, re.MULTILINE)]
    assert times == sorted(set(times))
    assert times[:3] == [0, 5000, 10000], "halves of a cycle at 100 MHz, in picoseconds"
    toggles = Counter(re.findall(r"^1(\w\S+)$", changes, re.MULTILINE))
    for module, signals in (
        ("array", ("clk", "passes_valid", "sums_valid")),
        ("lanes", ("clk", "logits_valid")),
    ):
        scope = header.partition(f"$scope module {module} $end\n")[2].partition("$scope")[0]
        codes = dict(reversed(words) for words in re.findall(r"\$var wire +1 (\S+) (\w+) \$end", scope))
        assert [signal for signal in signals if not toggles[codes[signal]]] == []
