"""Tests the block that shows whether the accelerator has its clocks, and what the resource model counts for it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from rtl import ROOT, RTL, TESTS, luts, run, verilate, yosys

SOURCE = RTL / "clock_status.v"
#: Picoseconds of a cycle of the processing system's clock, and nanoseconds of a phase: five windows.
PERIOD, PHASE = 6664, 4300


@pytest.fixture(scope="module")
def simulation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("clock_status"), SOURCE.read_text())


def build(folder: Path, text: str) -> Path:
    source = folder / "clock_status.v"
    source.write_text(text)
    return verilate(folder / "built", "clock_status", TESTS / "clock_status_harness.cpp", [source])


def words(simulation: Path, *phases: tuple[int, int, int]) -> list[tuple[int, ...]]:
    """Returns identity, ratio, `locked` and the rates of array and kernels, in quarters, after each phase."""
    fields = ((16, 16), (9, 2), (8, 1), (4, 4), (0, 4))
    found = statuses(simulation, *((PERIOD, *phase) for phase in phases))
    return [tuple(word >> low & (1 << bits) - 1 for low, bits in fields) for word in found]


def statuses(simulation: Path, *phases: tuple[int, int, int, int]) -> list[int]:
    numbers = (number for phase in phases for number in phase)
    return [int(word, 16) for word in run(simulation, PHASE, *numbers).split()]


@pytest.mark.parametrize(
    ("kernels", "array", "rates"),
    [
        (PERIOD, PERIOD // 2, (8, 4)),
        (PERIOD, PERIOD, (4, 4)),
        (2 * PERIOD, PERIOD, (4, 2)),
        (PERIOD, PERIOD // 4, (15, 4)),  # 16 does not fit
        (PERIOD, 0, (0, 4)),
        (0, 0, (0, 0)),
        # Clocks of their own, whose edges are sampled anywhere.
        (PERIOD + 30, PERIOD // 2 + 14, (8, 4)),
        (PERIOD - 30, PERIOD // 2 - 14, (8, 4)),
    ],
)
def test_rates_are_in_quarters_of_the_clock_that_always_runs(
    simulation: Path, kernels: int, array: int, rates: tuple[int, int]
) -> None:
    assert words(simulation, (kernels, array, 1)) == [(0x5156, 2, 1, *rates)]


def test_rates_and_lock_follow_clocks_that_stop_and_come_back(simulation: Path) -> None:
    runs, stands = (PERIOD, PERIOD // 2, 1), (0, 0, 0)
    good, bad = (0x5156, 2, 1, 8, 4), (0x5156, 2, 0, 0, 0)
    assert words(simulation, stands, runs, stands, stands, runs) == [bad, good, bad, bad, good]


def test_the_beat_alone_shows_that_the_clock_stopped(simulation: Path) -> None:
    runs, stands = (PERIOD, PERIOD, PERIOD, 1), (0, 0, 0, 1)
    found = statuses(simulation, runs, runs, stands, stands, runs)
    assert {word & ~(31 << 11) for word in found} == {0x5156_0544}
    beats = [word >> 11 & 31 for word in found]
    assert beats[0] != beats[1] == beats[2] == beats[3] != beats[4]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("flips[5:2] != 4'd15", "1'b1"),
        ("flips <= 6'd2 + flip;", "flips <= 6'd0;"),
        ("here[1] != previous", "here[1]"),
        ("if (last) rate <= flips[5:2];", "rate <= rate | flips[5:2];"),
        (".divided(array[3])", ".divided(kernels[3])"),
    ],
)
def test_a_planted_fault_is_noticed(old: str, new: str, tmp_path: Path) -> None:
    text = SOURCE.read_text()
    assert text.count(old) == 1
    simulation = build(tmp_path, text.replace(old, new))
    try:
        found = words(
            simulation,
            (PERIOD, PERIOD // 2, 1),
            (PERIOD, PERIOD // 4, 1),
            (PERIOD, PERIOD // 5, 1),
            (0, 0, 0),
        )
    except AssertionError:
        return
    assert [word[3:] for word in found] != [(8, 4), (15, 4), (15, 4), (0, 0)]


def test_the_word_is_the_one_that_is_declared() -> None:
    declared = (ROOT / "rust/accelerator/src/isa/clocks.rs").read_text()
    (identity,) = re.findall(r"IDENTITY: u32 = 0x(\w+);", declared)
    assert f"IDENTITY = 16'h{identity}" in SOURCE.read_text()


@pytest.mark.parametrize("family", ["xcup", "xc7"])
def test_the_resource_model_gives_what_yosys_builds(family: str, tmp_path: Path) -> None:
    source = (ROOT / "rust/cost/src/resources.rs").read_text()
    for module in ("clock_status", "clock_watchdog"):
        cells = yosys([RTL / f"{module}.v"], module, family, tmp_path)
        (lut, ff) = map(
            int, re.findall(rf"{module.upper()}: Logic = Logic {{ lut: (\d+), ff: (\d+) }}", source)[0]
        )
        assert luts(cells) == lut
        assert sum(cells[kind] for kind in ("FDRE", "FDSE")) == ff
