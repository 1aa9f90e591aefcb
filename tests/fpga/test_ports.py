"""Plants faults in copies of the kernels: ports, counters, intervals; tools/check_hls_ports.py must find them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from rtl import ROOT, tool

COLUMNS = "for (embed_t d = 0; d < embed; ++d) {\n#pragma HLS PIPELINE II = 1\n"
MEAN = '        interval("norm.mean");\n'

# (kernel, what stands there, what stands there instead, what the report must have)
FAULTS = {
    "a second store to a bank": (
        "softmax",
        "    probability[item.bank][item.word] = item.probability;\n",
        "    probability[item.bank][item.word] = item.probability;\n"
        "    probability[item.bank][item.word ^ 1] = item.probability;\n",
        "softmax.store: probability 2 1 conflict",
    ),
    "a variable bank in an unrolled loop": (
        "scores",
        "if (bank / EXP_GROUPS == unsigned(parity))\n        score[bank]",
        "if (bank < EXP_GROUPS)\n        score[parity * EXP_GROUPS + bank]",
        "scores.store: score 2 1 conflict",
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
        "item.row = double_buffer[half][i];",
        "item.row = double_buffer[half][i];\n          item.row.shift = double_buffer[half][0].shift;",
        "load_parameters and walk: double_buffer 3 2 conflict",
    ),
    "an array that is not partitioned": (
        "store",
        "#pragma HLS ARRAY_PARTITION variable = port.byte complete\n",
        "",
        "store.words: port.byte 20 2 conflict",
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
    "a pipelined loop that is never reached": (
        "scores",
        "  QUASAR_PROCESS(send_maxima(largest, maxima, retired));\n",
        "",
        "no call from scores reaches this loop",
    ),
    "a mark in a loop that is not pipelined": (
        "softmax",
        "#pragma HLS PIPELINE II = 1\n    interval(\"softmax.divide\");",
        "    interval(\"softmax.divide\");",
        "the loop of softmax.divide has a mark, but no PIPELINE pragma",
    ),
    "a loop that says so": (
        "softmax",
        "#pragma HLS PIPELINE II = 1\n    interval(\"softmax.divide\");",
        "#pragma HLS PIPELINE off\n    interval(\"softmax.divide\");",
        "the loop of softmax.divide has PIPELINE off; its declared interval is 1",
    ),
    "sums without a promise": (
        "norm",
        "#pragma HLS DEPENDENCE variable = sums type = inter direction = RAW distance =                     \\\n"
        "    SUMS_DISTANCE dependent = true\n",
        "",
        "norm.normalise reads and writes sums without a DEPENDENCE pragma",
    ),
    "a promise that simulation does not hold": (
        "norm",
        "  distance(sums, SUMS_DISTANCE);\n",
        "",
        "the pragma needs type=inter direction=RAW dependent=true, and distance(sums, sums_distance) for simulation",
    ),
    "a promise of no dependence": (
        "norm",
        "SUMS_DISTANCE dependent = true",
        "SUMS_DISTANCE dependent = false",
        "the pragma needs type=inter direction=RAW dependent=true",
    ),
    "a loop without mark and pragma": (
        "scores",
        "#pragma HLS PIPELINE II = 1\n      interval(\"scores.maxima\");\n",
        "",
        "0 loops have the mark scores.maxima; 1 declared",
    ),
    "a condition behind a multiplier": (
        "drain",
        "for (passed_t i = 0; i < count; ++i)",
        "for (passed_t i = 0; unsigned(i) * unsigned(job.words) < count; ++i)",
        "drain.pass: the loop's condition is decided behind a multiplier",
    ),
    "a condition behind a divider": (
        "norm",
        f"{COLUMNS}{MEAN}",
        f"{COLUMNS.replace('d < embed', 'unsigned(d) % 7 < unsigned(embed) / (unsigned(half) + 1)')}{MEAN}",
        "norm.mean: the loop's condition is decided behind a divider",
    ),
    "a condition behind a memory": (
        "norm",
        f"{COLUMNS}{MEAN}",
        f"{COLUMNS.replace('d < embed', 'int(sums[0][d]) != 7')}{MEAN}",
        "norm.mean: the loop's condition is decided behind a memory",
    ),
    "a break behind a multiplier": (
        "norm",
        MEAN,
        f"{MEAN}        if (unsigned(d) * unsigned(embed) == 77)\n          break;\n",
        "norm.mean: the loop's condition is decided behind a multiplier",
    ),
    "an end behind a multiplier": (
        "norm",
        "          first += NORM_LANES;\n",
        "          first += unsigned(group) * unsigned(tile_first);\n",
        "norm.pool: the loop's condition is decided behind a multiplier",
    ),
    "a recurrence through a multiplier": (
        "norm",
        "            address += embed;\n",
        "            address = unsigned(address) * unsigned(embed);\n",
        "norm.pool: address is handed to the next interval behind a multiplier",
    ),
    "two consumers of a queue": (
        "drain",
        "  QUASAR_JOIN();",
        "  QUASAR_PROCESS(walk(row_jobs, double_buffer, filled, freed, lane_rows));\n  QUASAR_JOIN();",
        "drain.cpp: the queue row_jobs has 2 processes that read; one is possible",
    ),
    "a queue that flows back": (
        "softmax",
        "  QUASAR_PROCESS(exponentiate(commands, maxima, score, totals, stored));\n"
        "  QUASAR_PROCESS(divide(totals, scales));\n",
        "  QUASAR_PROCESS(divide(totals, scales));\n"
        "  QUASAR_PROCESS(exponentiate(commands, maxima, score, totals, stored));\n",
        "softmax.cpp: the queue totals flows back to an earlier process; only credits may",
    ),
    "an array that is partitioned in part": (
        "norm",
        "ARRAY_PARTITION variable = radicand complete",
        "ARRAY_PARTITION variable = radicand cyclic factor = 2",
        "the partition of radicand is not complete",
    ),
}  # fmt: skip

#: Faults of the ordinary run, one of each kind; the others are slow tests.
KINDS = (
    "a second store to a bank",
    "a variable bank in an unrolled loop",
    "a loop of unknown length in a pipelined loop",
    "a counter of no stated width",
    "a mark in a loop that is not pipelined",
    "sums without a promise",
    "an end behind a multiplier",
    "a promise of no dependence",
    "a loop without mark and pragma",
    "a condition behind a multiplier",
    "two consumers of a queue",
    "a queue that flows back",
    "an array that is partitioned in part",
)
#: The same for changes that need no further port.
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
    "a product in a condition that all trips share": (
        "drain",
        "for (passed_t i = 0; i < count; ++i)",
        "for (passed_t i = 0; i < count * unsigned(job.words); ++i)",
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
    for row in ("norm.store: normed 1 1", "norm.normalise: sums 2 2", "fetch.commands: commands.read() 2 2"):
        assert f"{row}\n" in report


@pytest.mark.parametrize(
    "fault", [name if name in KINDS else pytest.param(name, marks=pytest.mark.slow) for name in FAULTS]
)
def test_a_planted_conflict_is_found(fault: str, tmp_path: Path) -> None:
    status, report = check("--quiet", changed(FAULTS[fault], tmp_path))
    assert status == 1
    assert FAULTS[fault][-1] in report


@pytest.mark.parametrize("change", HARMLESS)
def test_a_harmless_change_passes(change: str, tmp_path: Path) -> None:
    status, report = check(changed(HARMLESS[change], tmp_path))
    assert status == 0, report
