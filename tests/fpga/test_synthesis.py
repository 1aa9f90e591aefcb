"""Tests the array that Yosys builds: memories of the kind that is asked for, slices, short paths, small fan-outs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rtl import RTL, run, tool, yosys

import array_netlist
from array_netlist import SIZES, Size

#: LUT levels between two registers, and cells that a register drives, in the array's domain.
LEVELS, FAN_OUT = 4, 144

#: The same in modules whose control reaches hundreds of bits: cells that a net drives, pins that the register behind a
#: RAM's word drives.
WIDE_LEVELS, WIDE_FAN_OUT, RAM_FAN_OUT = 4, 260, 72

#: LUT levels of a path from one clock to the other, which has a period of the array: a LUT RAM that one of them writes
#: and the other reads.
CROSSING_LEVELS = 1


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
    assert memories("bank", "bank.v", family, style, bits, words, tmp_path) == cells


@pytest.mark.parametrize(
    ("family", "style", "bits", "words", "enables", "cells"),
    [
        ("xcup", "block", 32, 1600, 4, {"RAMB36E2": 2}),
        ("xcup", "ultra", 72, 4096, 1, {"URAM288": 1}),
        ("xc7", "block", 40, 400, 1, {"RAMB36E1": 1}),
    ],
)
def test_a_bank_with_two_clocks_is_the_kind_of_memory_that_it_is_told(
    family: str, style: str, bits: int, words: int, enables: int, cells: dict[str, int], tmp_path: Path
) -> None:
    found = memories("operand_bank", "operand_bank.v", family, style, bits, words, tmp_path, enables)
    assert found == cells


def memories(
    top: str, source: str, family: str, style: str, bits: int, words: int, folder: Path, enables: int = 0
) -> dict[str, int]:
    """Returns the RAMs of a bank."""
    shape = f"-set WIDTH {bits} -set WORDS {words} -set ADDRESS_BITS {(words - 1).bit_length()}"
    shape += f" -set ENABLES {enables}" if enables else ""
    options = ["-uram"] if style == "ultra" else []
    cells = yosys(
        [RTL / "registers.sv", RTL / source], top, family, folder, f'{shape} -set STYLE "{style}"', *options
    )
    return {name: count for name, count in cells.items() if name.startswith(("RAM", "URAM"))}


@pytest.mark.parametrize(
    ("size", "slices"),
    [
        (Size("xcup", 4, 3, 2, 2, 2, 2, hidden=64, embed=32, patch=64, keys=20, depth=16), 4 * 3 * 2),
        (Size("xc7", 4, 3, 2, 2, 2, 2, hidden=64, embed=32, patch=64, keys=20, depth=16), 4 * 3 * 3),
    ],
    ids=["dsp48e2", "dsp48e1"],
)
def test_an_array_has_its_slices_and_short_paths(size: Size, slices: int, tmp_path: Path) -> None:
    tool("yosys")
    cells = array_netlist.read(array_netlist.synthesise(size, tmp_path))
    found = array_netlist.analyse(cells)
    assert found["dsp"] == slices
    kinds = {net: cell.kind for cell in cells for net in cell.outputs()}
    modes = {net for cell in cells for pin, net in cell.pins.items() if pin.startswith("OPMODE[")}
    assert {kinds[net] for net in modes} == {"FDRE"}, "a LUT lies between a register and a slice"
    check_bounds(found)
    check_crossings(found)


#: The same in the lanes.
LANE_LEVELS, LANE_CROSSING_LEVELS, LANE_FAN_OUT = 3, 2, 128


@pytest.mark.parametrize(("family", "others"), [("xcup", 4), ("xc7", 5)], ids=["dsp48e2", "dsp48e1"])
def test_lanes_have_their_slices_and_short_paths(family: str, others: int, tmp_path: Path) -> None:
    """A slow cycle has four tokens, so there are two lanes, of three slices each."""
    tool("yosys")
    parameters = dict(
        T=4, P=3, C=4, L=4, R=2, KEY_BANKS=6, VALUE_BANKS=4, FRAMES=2, BEAT=16, TILES=4, MEANS=64,
        DSP48E1=int(family == "xc7"), PRIMITIVES=1,
    )  # fmt: skip
    sources = [RTL / name for name in array_netlist.LANES]
    netlist = array_netlist.build("lanes", sources, parameters, family, tmp_path)
    found = array_netlist.analyse(array_netlist.read(netlist))
    # Besides the lanes: the address of values, a logit (two slices on the 7 series), a mean (two).
    assert found["dsp"] == 2 * 3 + others
    paths = found["paths"]
    assert 0 < paths["array"]["levels"] <= LANE_LEVELS, paths
    assert 0 < paths["slow to fast"]["levels"] <= LANE_CROSSING_LEVELS, paths
    assert paths["fast to slow"]["ends"] > 0
    assert paths["fast to slow"]["levels"] == 0, paths
    assert 0 < found["fan_out"]["array"]["cells"] <= LANE_FAN_OUT, found["fan_out"]


@pytest.mark.parametrize(
    ("top", "settings"),
    [
        # Of the largest arrays: 36 bytes of beats of 64, the scores of 66 tokens, 33 lanes, codes of 50 lanes.
        ("weights", dict(P=9, C=4, BEAT=64, WORDS=192, ROW_BITS=9)),
        ("weights", dict(P=6, C=4, BEAT=32, WORDS=192, ROW_BITS=9)),
        ("queue", dict(BITS=1584, DEPTH=16)),
        ("unpack_lanes", dict(T=33, P=6, L=33)),
        ("operand_bank", dict(WIDTH=400, WORDS=768, ADDRESS_BITS=10)),
    ],
)
def test_the_control_of_wide_modules_has_copies(top: str, settings: dict[str, int], tmp_path: Path) -> None:
    netlist = tmp_path / "module.blif"
    (source,) = RTL.glob(f"{top}.*v")
    sources = " ".join(str(path) for path in {RTL / "registers.sv", RTL / "queue.sv", source})
    parameters = " ".join(f"-set {name} {value}" for name, value in (settings | {"PRIMITIVES": 1}).items())
    script = (
        f"read_verilog -sv {sources}; chparam {parameters} {top}; "
        f"synth_xilinx -family xcup -top {top} -flatten -noiopad -noclkbuf; write_blif {netlist}"
    )
    run(tool("yosys"), "-q", "-p", script)
    found = array_netlist.analyse(array_netlist.read(netlist))
    assert max(fan_out["cells"] for fan_out in found["fan_out"].values()) <= WIDE_FAN_OUT, found["fan_out"]
    if "array" in found["fan_out"]:
        assert found["fan_out"]["array"]["pins"] <= RAM_FAN_OUT
    assert max(path["levels"] for path in found["paths"].values()) <= WIDE_LEVELS, found["paths"]


@pytest.mark.parametrize("name", SIZES)
def test_the_record_of_full_sizes_is_of_these_parameters_and_within_bounds(name: str) -> None:
    found = json.loads(array_netlist.RECORD.read_text())[name]
    size = SIZES[name]
    assert found["parameters"] == size.parameters()
    adds_up = size.family == "xc7" and size.cascade > 1
    assert found["dsp"] == size.tokens * size.pairs * (size.cascade + adds_up)
    check_bounds(found)
    now = array_netlist.digest()
    if found["sources"] == now:
        check_crossings(found)
        assert 0 < found["fan_out"]["slow"]["cells"] <= WIDE_FAN_OUT
    else:
        assert found.get("rtl_changed_until") == now, (
            f"{name} was counted at {found['commit']}, and the array's RTL has changed since: "
            f"count it again, or keep the counts: python tools/lab/array_netlist.py [--keep] {name}"
        )


def check_crossings(found: dict[str, object]) -> None:
    for crossing in ("slow to fast", "fast to slow"):
        path = found["paths"][crossing]
        assert path["ends"] > 0
        assert path["levels"] <= CROSSING_LEVELS, path


def check_bounds(found: dict[str, object]) -> None:
    paths, fan_out = found["paths"], found["fan_out"]
    assert 0 < paths["array"]["levels"] <= LEVELS
    assert 0 < fan_out["array"]["cells"] <= FAN_OUT


@pytest.mark.parametrize("name", SIZES)
def test_the_resource_model_gives_what_yosys_built(name: str) -> None:
    """Compares with the netlists that `array_netlist.py` recorded: LUTs within 12 %, flip-flops within 10 %."""
    netlist = json.loads(array_netlist.RECORD.read_text("utf-8"))[name]
    parts = {part.name: part for part in SIZES[name].hardware().parts}
    array = parts["array"]
    inside = ["sums of tokens", "partial sums", "sums to send", "scores to send"]
    read = ["input", "normed", "query", "hidden", "probability", "key", "value"]
    rams = [parts[part] for part in [*inside, *read, "weights"]]
    assert array.dsp == netlist["dsp"]
    assert array.lut + sum(ram.lut for ram in rams) == pytest.approx(netlist["lut"], rel=0.12)
    assert array.ff == pytest.approx(netlist["ff"] + netlist["ff_ram_outputs"], rel=0.1)
    assert sum(ram.bram18 for ram in rams) / 2 == pytest.approx(netlist["bram36"], rel=0.1)
    assert sum(ram.uram for ram in rams) == netlist["uram"]
