"""Plants faults in copies of the kernels: ports, counters, intervals; tools/check_hls_ports.py must find them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from rtl import ROOT, tool

from hls_ports.intervals import Recurrences
from hls_ports.netlist import Netlist
from hls_ports.syntax import HEADERS

# (kernel, what stands there, what stands there instead, what the report must have)
FAULTS = {
    "a second store to a bank": (
        "drain",
        "hidden[bank][item.address] = item.code;",
        "query[bank][item.address] = item.code;",
        "drain.store: query 2 1 conflict",
    ),
    "a variable bank in an unrolled loop": (
        "scores",
        "if (bank / EXP_GROUPS == unsigned(parity))\n        score[bank]",
        "if (bank < EXP_GROUPS)\n        score[parity * EXP_GROUPS + bank]",
        "scores.store: score 2 1 conflict",
    ),
    "a read of a variable bank": (
        "norm",
        "if (f == frame)\n        word = residual[f * GROUPS + bank]",
        "if (f == 0)\n        word = residual[frame * GROUPS + bank]",
        "norm.pool: residual 3 1 conflict",
    ),
    "branches with different banks": (
        "norm",
        "    normed[item.bank][item.address] = item.code;\n    if (item.last == 1)\n",
        "    if (item.last == 0)\n      normed[item.bank][item.address] = item.code;\n    else\n"
        "      normed[item.bank ^ 1][item.address] = item.code;\n    if (item.last == 1)\n",
        "norm.store: normed 2 1 conflict",
    ),
    "a store behind `continue`": (
        "softmax",
        "    if (!poll(stored, item))\n      continue;\n",
        "    if (!poll(stored, item)) {\n      probability[0][0] = item.probability;\n      continue;\n    }\n",
        "softmax.store: probability 2 1 conflict",
    ),
    "a third access to a process's own memory": (
        "norm",
        "sums[0][d] = total;",
        "sums[0][d] = total + sums[0][0];",
        "norm.normalise: sums 3 2 conflict",
    ),
    "a memory that two processes use too often": (
        "drain",
        "step.row = double_buffer[half][i];",
        "step.row = double_buffer[half][i];\n          step.row.shift = double_buffer[half][0].shift;",
        "load_parameters and walk: double_buffer 3 2 conflict",
    ),
    "an array that is not partitioned": (
        "norm",
        "#pragma HLS ARRAY_PARTITION variable = tile_moments complete\n",
        "",
        "norm.collect: tile_moments 3 2 conflict",
    ),
    "a copy of an array that is not partitioned": (
        "drain",
        "#pragma HLS ARRAY_PARTITION variable = beat.byte complete\n  for (up_to<256>",
        "  for (up_to<256>",
        "drain.table: beat.byte 35 2 conflict",
    ),
    "a table in a memory of two ports": (
        "softmax",
        "type = rom_np",
        "type = rom_2p",
        "softmax.exponential: POWERS 4 2 conflict",
    ),
    "two items of a queue in an interval": (
        "softmax",
        "    if (item.last == 1)\n      done.write(1);",
        "    if (item.last == 1)\n      done.write(1);\n    if (item.word == 0)\n      done.write(1);",
        "softmax.store: done.write() 2 1 conflict",
    ),
    "an interval that is too short": (
        "fetch",
        "PIPELINE II = 2",
        "PIPELINE II = 1",
        "fetch.commands: commands.read() 2 1 conflict",
    ),
    "a loop of unknown length in a pipelined loop": (
        "softmax",
        "for (unsigned lane = 0; lane < EXP_LANES; ++lane) {\n#pragma HLS UNROLL\n            const u<12>",
        "for (unsigned lane = 0; lane < total.tokens; ++lane) {\n#pragma HLS UNROLL\n            const u<12>",
        "a loop in a pipelined loop whose number of trips is not a constant",
    ),
    "a counter of no stated width": (
        "softmax",
        "for (decltype(command.keys) key = 0; key < command.keys; ++key)",
        "for (unsigned key = 0; key < unsigned(command.keys); ++key)",
        "unsigned int key has no stated range",
    ),
    "an address of no stated width": (
        "drain",
        "decltype(step_t::key_address) key_address = 0;",
        "unsigned key_address = 0;",
        "unsigned int key_address has no stated range",
    ),
    "a pipelined loop that is never reached": (
        "scores",
        "  QUASAR_PROCESS(send_maxima(largest, maxima, retired));\n",
        "",
        "no call from scores reaches this loop",
    ),
    "a mark in a loop that is not pipelined": (
        "drain",
        "  while (more) {\n#pragma HLS PIPELINE II = 1\n",
        "  while (more) {\n",
        "the loop of drain.rows has a mark, but no PIPELINE pragma",
    ),
    "a loop that says so": (
        "drain",
        "  while (more) {\n#pragma HLS PIPELINE II = 1\n",
        "  while (more) {\n#pragma HLS PIPELINE off\n",
        "the loop of drain.rows has PIPELINE off; its declared interval is 1",
    ),
    "a longer interval": (
        "drain",
        "  while (more) {\n#pragma HLS PIPELINE II = 1\n",
        "  while (more) {\n#pragma HLS PIPELINE II = 2\n",
        "the loop of drain.rows has an interval of 2; 1 is declared",
    ),
    "moments without a promise": (
        "drain",
        "#pragma HLS DEPENDENCE variable = saved type = inter direction = RAW distance =                    \\\n"
        "    SAVED_DISTANCE dependent = true\n",
        "",
        "drain.attend reads and writes saved without a DEPENDENCE pragma",
    ),
    "means without a promise": (
        "drain",
        "#pragma HLS DEPENDENCE variable = means type = inter dependent = false\n",
        "",
        "drain.attend reads and writes means without a DEPENDENCE pragma",
    ),
    "sums without a promise": (
        "norm",
        "#pragma HLS DEPENDENCE variable = sums type = inter direction = RAW distance =                     \\\n"
        "    SUMS_DISTANCE dependent = true\n",
        "",
        "norm.normalise reads and writes sums without a DEPENDENCE pragma",
    ),
    "a promise that simulation does not hold": (
        "drain",
        "  distance(saved, SAVED_DISTANCE);\n",
        "",
        "the pragma needs type=inter, and distance(saved, saved_distance) for simulation",
    ),
    "an end behind a multiplier": (
        "drain",
        "more = !(step.last == 1 && last_group);",
        "more = !(step.last == 1 && last_group && unsigned(step.index) * unsigned(step.tokens) != 1);",
        "drain.attend: more decides whether the loop ends behind a multiplier",
    ),
    "an end behind a memory": (
        "drain",
        "more = !(step.last == 1 && last_group);",
        "more = !(step.last == 1 && last_group && before[0] != 1);",
        "drain.attend: more decides whether the loop ends behind a memory",
    ),
    "a recurrence through a multiplier": (
        "drain",
        "      key_address += unsigned(command.stride);\n",
        "      key_address = unsigned(key_address) * unsigned(command.stride);\n",
        "drain.attend: key_address is handed to the next interval behind a multiplier",
    ),
    "a recurrence through many additions": (
        "softmax",
        "            total.sum8[lane] += e8;\n",
        "            total.sum8[lane] += e8 + (total.sum8[lane] + e8 > 7) + (total.sum12[lane] > e12 + 1);\n"
        "            total.sum8[lane] += (total.sum8[lane] + e8 > 9) + (total.sum8[lane] > e12 + 1);\n",
        "softmax.exponential: total_sum8_v_0 is handed to the next interval behind 9 operations; 5 fit",
    ),
}  # fmt: skip

# The same for changes that need no further port.
#: Faults of the ordinary run, one of each kind; the others are slow tests.
KINDS = (
    "a second store to a bank",
    "a variable bank in an unrolled loop",
    "a loop of unknown length in a pipelined loop",
    "a counter of no stated width",
    "a mark in a loop that is not pipelined",
    "means without a promise",
    "an end behind a multiplier",
)
HARMLESS = {
    "branches with one bank": (
        "norm",
        "    normed[item.bank][item.address] = item.code;\n    if (item.last == 1)\n",
        "    if (item.last == 0)\n      normed[item.bank][item.address] = item.code;\n    else\n"
        "      normed[item.bank][item.address / 2] = item.code;\n    if (item.last == 1)\n",
    ),
    "constant banks of one memory": (
        "softmax",
        "    probability[item.bank][item.word] = item.probability;\n",
        "    if (item.bank == 0)\n      probability[0][item.word] = item.probability;\n"
        "    if (item.bank == 1)\n      probability[1][item.word] = item.probability;\n",
    ),
    "an array whose every index is constant": (
        "softmax",
        "    stored_t item;\n    if (!poll",
        "    unsigned part[4];\n    for (unsigned i = 0; i < 4; ++i)\n      part[i] = i;\n"
        "    stored_t item;\n    if (!poll",
    ),
}


def check(*arguments: object) -> tuple[int, str]:
    """Runs the checker; returns its status and its report, whose rows are `LOOP: MEMORY SITES PORTS`."""
    tool("clang++")
    program = ROOT / "tools" / "check_hls_ports.py"
    command = [sys.executable, program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    rows = re.sub(r"^\w+ +(.*?) +\d+  (\S+) +(\d+) +(\d+)", r"\1: \2 \3 \4", done.stdout, flags=re.MULTILINE)
    return done.returncode, rows + done.stderr


def source(kernel: str) -> str:
    return (ROOT / "fpga" / "src" / f"{kernel}.cpp").read_text()


def test_the_kernels_have_what_the_slow_tests_change() -> None:
    for kernel, old, *_ in (*FAULTS.values(), *HARMLESS.values()):
        assert source(kernel).count(old) == 1, old


def changed(change: tuple[str, ...], folder: Path) -> Path:
    """Returns a copy of a kernel with a change."""
    kernel, old, new, *_ = change
    text = source(kernel)
    assert text.count(old) == 1
    copy = folder / f"{kernel}.cpp"
    copy.write_text(text.replace(old, new))
    return copy


def test_no_loop_of_the_kernels_needs_more_ports_than_its_memories_have() -> None:
    status, report = check()
    assert status == 0, report
    for row in ("drain.store: key 1 1", "drain.attend: saved 2 2", "fetch.commands: commands.read() 2 2"):
        assert f"{row}\n" in report


@pytest.mark.parametrize(
    "fault", [name if name in KINDS else pytest.param(name, marks=pytest.mark.slow) for name in FAULTS]
)
def test_a_planted_conflict_is_found(fault: str, tmp_path: Path) -> None:
    status, report = check("--quiet", changed(FAULTS[fault], tmp_path))
    assert status == 1
    assert FAULTS[fault][-1] in report


def test_a_group_of_all_tokens_is_no_recurrence(tmp_path: Path) -> None:
    """With as many lanes as tokens, nothing of a group depends on the group before it."""
    tool("clang++")
    carried = []
    for lanes in (3, 7):
        config = re.sub(r"( LANES =) \d+", rf"\1 {lanes}", (HEADERS / "config.hpp").read_text())
        folder = tmp_path / str(lanes)
        folder.mkdir()
        (folder / "config.hpp").write_text(re.sub(r"(_BANKS =) 4", r"\1 8", config))
        loops = Netlist(ROOT / "fpga" / "src" / "drain.cpp", folder).modules
        rows = next(Recurrences(module) for module in loops if module.name == "drain.attend")
        carried.append({rows.plain(name) for name in rows.components()})
    assert "group" in carried[0]
    assert "group" not in carried[1]


@pytest.mark.parametrize("change", HARMLESS)
def test_a_change_that_needs_no_further_port_passes(change: str, tmp_path: Path) -> None:
    status, report = check(changed(HARMLESS[change], tmp_path))
    assert status == 0, report
