"""Tests the requantizing lanes in SystemVerilog (fpga/rtl/lanes.sv) by the drain's testbench.

The testbench compares with int64, and stalls both sides of the queues at random.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rtl import ROOT, RTL, run, tool

import array_netlist
from quasar_rt.hardware import Hardware

sys.path.insert(0, str(ROOT / "fpga" / "scripts"))
from rtl_parameters import parameters

SLOW = pytest.mark.slow


def make(target: Path, *variables: str) -> Path:
    """Builds a target of fpga/Makefile and returns its path."""
    tool("verilator")
    folder = ROOT / "fpga"
    name = os.path.relpath(target, folder) if target.is_relative_to(ROOT) else target
    # Two processes may want one program of `build`.
    lock = ["flock", ROOT / "build" / "lanes.lock"] if target.is_relative_to(ROOT) else []
    run(*lock, "make", "-C", folder, "--silent", f"PYTHON={sys.executable}", *variables, name)
    return target


def results(program: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program], capture_output=True, text=True, check=False, timeout=600)


def number(name: str, text: str) -> str:
    found = re.search(rf"drain {name} (\w+)", text)
    assert found is not None, text
    return found[1]


#: Changes to odd.toml. 18 banks of keys and 17 of values are more than the first cycle of a rotation moves. With lanes
#: for all tokens of a tile, several pairs wait to be rotated; six lanes on the array's clock take two writes of angles.
CHANGED = {
    "odd": {},
    "banks": {"tokens": 20, "pairs": 9, "cascade": 1, "requantize": 17},
    "group": {"tokens": 12, "pairs": 5, "requantize": 12},
    "slow": {"tokens": 12, "pairs": 5, "requantize": 12, "clock_ratio": 1},
}


def changed(name: str, folder: Path) -> tuple[str, ...]:
    """Writes a configuration of `CHANGED`; returns the Makefile's variables for it."""
    text = (ROOT / "fpga" / "configs" / "odd.toml").read_text()
    for key, number_of in CHANGED[name].items():
        text, found = re.subn(rf"(?m)^{key} = \d+$", f"{key} = {number_of}", text)
        assert found == 1
    (folder / f"{name}.toml").write_text(text)
    return f"CONFIG_FOLDER={folder}", f"CONFIGS={name}", f"CSIM_CONFIGS={name}"


def same_results(rtl: Path, model: Path, *options: str) -> None:
    done, expected = results(make(rtl, *options)), results(make(model, *options))
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert number("digest", done.stdout) == number("digest", expected.stdout)
    cycles, modelled = (int(number("cycles", text)) for text in (done.stdout, expected.stdout))
    assert cycles == pytest.approx(modelled, rel=0.01)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("odd", ()),
        ("tiny", ()),  # a cycle of the lanes is one of the kernels; a DSP48E1
        pytest.param("odd", ("PRIMITIVES=1",), marks=SLOW),
        pytest.param("tiny", ("PRIMITIVES=1",), marks=SLOW),
        pytest.param("wide", (), marks=SLOW),
        pytest.param("wide", ("PRIMITIVES=1",), marks=SLOW),
        pytest.param("zcu102", ("PRIMITIVES=1",), marks=SLOW),
        pytest.param("kv260", ("PRIMITIVES=1",), marks=SLOW),
        pytest.param("pynq-z2", ("PRIMITIVES=1",), marks=SLOW),
    ],
)
def test_lanes_and_their_model_have_the_same_results(name: str, options: tuple[str, ...]) -> None:
    build = ROOT / "build"
    options = ("COMPILERS=g++", f"CSIM_CONFIGS={name}", *options)
    folder = "rtl-primitives" if "PRIMITIVES=1" in options else "rtl"
    model = build / "csim" / "g++" / "fast" / name / "drain"
    same_results(build / folder / name / "drain", model, *options)


def test_the_model_passes_at_the_size_of_the_largest_board() -> None:
    program = ROOT / "build" / "csim" / "g++" / "fast" / "zcu102" / "drain"
    done = results(make(program, "COMPILERS=g++", "CSIM_CONFIGS=zcu102"))
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


@SLOW
@pytest.mark.parametrize("name", ["banks", "group", "slow"])
def test_lanes_and_their_model_have_the_same_results_at_other_sizes(name: str, tmp_path: Path) -> None:
    build = ROOT / "build"
    model = build / "csim" / "g++" / "fast" / name / "drain"
    same_results(build / "rtl" / name / "drain", model, "COMPILERS=g++", *changed(name, tmp_path))


@pytest.mark.parametrize(
    "name", ["pynq-z2", *(pytest.param(board, marks=SLOW) for board in ("kv260", "zcu102"))]
)
def test_the_model_counts_what_yosys_builds(name: str, tmp_path: Path) -> None:
    tool("yosys")
    hardware = Hardware.load(ROOT / "fpga" / "configs" / f"{name}.toml")
    header = make(ROOT / "build" / "config" / name / "config.hpp").read_text()
    given = parameters("lanes", header) | {"PRIMITIVES": 1}
    sources = [RTL / source for source in array_netlist.LANES]
    family = "xc7" if name == "pynq-z2" else "xcup"
    found = array_netlist.analyse(
        array_netlist.read(array_netlist.build("lanes", sources, given, family, tmp_path))
    )
    (modelled,) = (part for part in hardware.parts if part.name == "lanes")
    assert found["lut_logic"] + found["lut_shift"] == pytest.approx(modelled.lut, rel=0.1)
    assert found["ff"] == pytest.approx(modelled.ff, rel=0.1)
    assert found["dsp"] == modelled.dsp
    assert found["paths"]["array"]["levels"] <= 3
    assert max(domain["cells"] for domain in found["fan_out"].values()) <= 300


#: Source, the old text, the new text.
FAULTS = [
    ("requantize_lane", "+ 13'(z_12[5])", ""),
    ("lane_store", "before_first[i] ? key_wrapped_1", "before_first[i] ? key_address_1"),
    ("lanes", "turns_7 && !second_7", "1'b0"),
]
# The benches of odd and tiny, which CI runs, notice both faults of `_room` by two assertions each: `results_find_room`
# and the queue's own.
MORE_FAULTS = [
    ("lanes", "assign logits_room = 32'(logits_used) < OUTPUTS;", "assign logits_room = 1'b1;"),
    ("requantize_lane", "OTHER'($signed(mean))", "'0"),
    ("requantize_lane", "if (beyond_8 || rounded_8[17:15]", "if (rounded_8[17:15]"),
    ("requantize_lane", "+ $signed({17'b0, shifted_7[0]})", ""),
    ("requantize_lane", "over_14 || lowest_14", "over_14"),
    ("requantize_lane", "{!code_14[7], code_14[6]}", "code_14[7:6]"),
    ("requantize_lane", "fresh ? '0 : tile_moments[place]", "tile_moments[place]"),
    ("requantize_lane", "(skip_12 ? '0 : 19'(z_12))", "19'(z_12)"),
    ("value_means", "first_tile_sum ? '0 : column_sums[index_sum]", "column_sums[index_sum]"),
    ("value_means", "32'(lanes) > j ? code[j*8+:8] : '0", "code[j*8+:8]"),
    ("value_means", ".c(41'sd32768)", ".c('0)"),
    ("lane_store", "value_before_first[i] ? value_wrapped : value_from", "value_from"),
    ("lane_store", "{to_key && 32'(lanes) > i,", "{to_key,"),
    ("lanes", "&& !means_pending", ""),
    ("lanes", "mean_0 <= attends ? mean : '0;", "mean_0 <= mean;"),
    ("lane_store", "query_write[i] <= on_query &&", "query_write[i] <= (on_query || on_hidden) &&"),
    ("lanes", "assign credits_room = credits < 6'd16;", "assign credits_room = 1'b1;"),
    (
        "lane_scales",
        "assign scales_ready = gathers && !gathered[gather_half];",
        "assign scales_ready = gathers;",
    ),
    ("lanes", "+ (BANK + 1)'(32'(next_byte) >= C)", ""),
    ("lanes", "if (32'(next_key_bank) >= KEY_BANKS) key_address", "if (1'b0) key_address"),
    # Results at a rounding's half, at the widths' ends, or earlier than what they wait for.
    ("requantize_lane", "!turns_2, 3'd0}", "1'b0, 3'd7}"),
    ("lane_logits", "44'sd16384", "44'sd16383"),
    ("value_means", ".c(41'sd32768)", ".c(41'sd32767)"),
    (
        "requantize_lane",
        "earlier[67:27] + 41'(square_18[30:0])",
        "{3'b0, 38'(earlier[67:27] + 41'(square_18[30:0]))}",
    ),
    ("requantize_lane", "earlier[26:0] + 27'(kept_18)", "27'($signed(24'(earlier[26:0] + 27'(kept_18))))"),
    ("value_means", "now = earlier + 19'(total);", "now = 19'($signed(14'(earlier + 19'(total))));"),
    ("lane_scales", "gather_group > group)", "gather_group >= group)"),
    ("lanes", "assign moments_room = 32'(moments_used) < OUTPUTS;", "assign moments_room = 1'b1;"),
    ("lanes", ".CYCLES(DEPTH - 1), .RESET(1)) end_delay", ".CYCLES(DEPTH - 3), .RESET(1)) end_delay"),
    # Copies that are early, late, or stay.
    ("lanes", "8'(item && finishes) - 8'(mean_stands)", "8'(item && finishes) - 8'(mean_written)"),
    ("lanes", "(fire ? last_logit : takes[0])", "(fire || takes[0])"),
    ("lane_fill", "TILE_PARTS{step && last_step}", "TILE_PARTS{step}"),
    ("lane_fill", "'0 : !step ? place", "'0 : 1'b0 ? place"),
    ("lane_fill", "table_step ? behind : index", "behind"),
    # Rotary positions: rounding, factors, places, angles, and turns before z is kept.
    ("requantize_lane", "sum_1 <= turns ? '0 : phase", "sum_1 <= phase"),
    ("requantize_lane", "turns_9 ? product_9 : 33'sd16384", "33'sd16384"),
    ("lanes", "bias_0 <= attends || turns ?", "bias_0 <= attends ?"),
    ("lane_rotation", "other <= takes_second ? angle[15:0] : angle[31:16];", "other <= angle[31:16];"),
    ("lane_rotation", "takes_second ? angle[31:16] : angle[15:0];\n    delay", "angle[15:0];\n    delay"),
    ("lanes", "{slot_10, place_10[PLACE_BITS-1:0]}", "{slot_10, place_6[PLACE_BITS-1:0]}"),
    ("lanes", "R == 2 ? {turn_group, second[0]}", "R == 2 ? {turn_group, !second[0]}"),
    ("lanes", "&& !last_pair && (!rotates || pair_room)", "&& !last_pair"),
    ("lanes", "&& !turns && !last_pair &&", "&& !turns &&"),
    ("lane_turns", ".CYCLES(SETTLE - 2)", ".CYCLES(SETTLE - 3)"),
    ("lane_turns", "slot <= slot + 1'b1;", "slot <= slot;"),
    ("lane_fill", "if (last_part) angle_place <=", "angle_place <="),
    # The second cycle of a store's rotation.
    ("lane_store", "assign at[i+1] = turned;", "assign at[i+1] = at[i];"),
]
#: The size of `CHANGED` that meets a fault, by what the fault touches; another meets it in odd. More than four pairs
#: would wait where one group has all lanes, at R = 1.
MET_IN = {"pair_room": "slow", "angle_place": "group", "turned": "banks"}


@pytest.mark.parametrize(
    ("source", "old", "new"),
    [*FAULTS, *(pytest.param(*fault, marks=SLOW) for fault in MORE_FAULTS)],
)
def test_a_planted_fault_is_noticed(source: str, old: str, new: str, tmp_path: Path) -> None:
    folder = tmp_path / "rtl"
    shutil.copytree(RTL, folder)
    text = (folder / f"{source}.sv").read_text()
    assert text.count(old) == 1
    (folder / f"{source}.sv").write_text(text.replace(old, new))
    name = next((size for part, size in MET_IN.items() if part in old), "odd")
    options = (f"RTL_FOLDER={folder}", f"RTL_BUILD={tmp_path}", *changed(name, tmp_path))
    assert results(make(tmp_path / name / "drain", *options)).returncode != 0
