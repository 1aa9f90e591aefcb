"""Proves the assertions of the array's modules, and that a planted fault fails a proof or a simulation."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from rtl import RTL, Program, Shape, run, tool

import prove

PROOFS = {proof.name: proof for proof in prove.PROOFS}
#: The proofs that take longest; those of other sizes stay.
LONGEST = ("issue-R1-P1", "issue-R1-P2", "issue-R2-P1", "issue-R2-P2")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in LONGEST else []) for name in PROOFS]
)
def test_assertions_hold_for_every_input(name: str) -> None:
    tool("yosys")
    tool("yosys-abc")
    assert prove.prove(PROOFS[name]) is None


def planted(folder: Path, file: str, old: str, new: str) -> Path:
    """Returns a copy of the sources with one fault."""
    sources = folder / "rtl"
    shutil.copytree(RTL, sources)
    text = (sources / file).read_text()
    assert text.count(old) == 1, old
    (sources / file).write_text(text.replace(old, new))
    return sources


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "file", "old", "new", "fails"),
    [
        ("queue-DEPTH2", "queue.sv", "written != read && (!here || ready)", "written != read && !here",
         "a_waiting_item_is_offered"),
        ("queue-DEPTH2", "queue.sv", "(move || (here && !ready))", "move",
         "an_offer_stays|a_waiting_item_is_offered"),
        ("queue-DEPTH2", "queue.sv", "read + (SLOT_BITS + 1)'(move);",
         "read + (SLOT_BITS + 1)'(move || ready);", "no_more_items_than_slots"),
        ("delay-CYCLES2-RESET1", "delay.sv", "if (reset) stage <= '0;\n            else stage", "stage",
         "a_value_leaves_after_its_cycles"),
        ("bank-R2-ULTRA1", "operand_bank.v", "idle[i] ? {BITS{1'b0}} : latch", "latch",
         "an_idle_bank_gives_zero"),
        ("bank-R2-ULTRA1", "operand_bank.v", "address_in <= write_address;", "address_in <= address;",
         "a_word_is_read_as_written"),
        ("weights-R1-P1-C2-BEAT4", "weights.sv", "filled != freed_slow + 2'd2;", "1'b1;",
         "no_full_half_is_written|a_free_half_is_filled"),
        ("weights-R1-P1-C2-BEAT4", "weights.sv", "!finish && 32'(rest) < WORD", "!finish", "a_beat_finds_room"),
        ("unpack_lanes-R1-T1-P1-L1", "unpack_lanes.sv", "scores_full <= 32'(scores_next) == OUTPUTS;",
         "scores_full <= 1'b0;", "results_are_counted"),
        ("unpack_lanes-R1-T1-P1-L1", "unpack_lanes.sv", "pushed_slow != next_slot && ", "",
         "each_pair_gives_its_results|no_pair_is_taken_before_it_is_there"),
        ("weights-R1-P3-C1-BEAT2", "weights.sv", "!finish && 32'(rest) < WORD", "!finish && 32'(rest) + 1 < WORD",
         "a_tile_is_filled"),
        ("weights-R1-P1-C2-BEAT4", "weights.sv", "else if (tiles == '0) begin",
         "else if (tiles == '0 && demand_tiles != '0) begin", "an_idle_loader_takes_a_demand"),
        ("unpack_lanes-R1-T1-P1-L1", "unpack_lanes.sv", "pushed_slow != next_slot && ",
         "pushed_slow - next_slot == 2'd2 && ", "a_pair_leaves"),
        ("unpack_lanes-R1-T1-P1-L1", "queue.sv", "written != read && (!here || ready)",
         "written - read == (SLOT_BITS + 1)'(DEPTH) && (!here || ready)", "a_result_is_offered"),
        ("issue-R1-P1", "issue.sv", "spaced && has_weights && has_room && (!running", "spaced && has_room && (!running",
         "no_start_without_weights"),
        ("issue-R1-P2", "issue.sv", "has_room <= !room[POINTER_BITS-1];", "has_room <= 1'b1;",
         "no_start_without_room|room_stays|pairs_fit"),
        ("issue-R1-P1", "issue.sv", "has_weights <= !next_weights || filled_array != next_half;",
         "has_weights <= !next_weights;", "a_pass_ends"),
        ("issue-R2-P1", "issue.sv", "(accepted ^ released) != 4'(SLOTS);", "1'b1;",
         "no_slot_is_used_twice|slots_are_eight"),
        ("watchdog-HOLD3-WAIT_BITS3", "clock_watchdog.v", "waited + 1'b1 : 1 <<", "waited : 1 <<",
         "an_unlocked_mmcm_is_reset"),
        ("watchdog-HOLD3-WAIT_BITS3", "clock_watchdog.v", "waited >= HOLD;", "waited != 0;", "a_reset_is_long"),
    ],
)  # fmt: skip
def test_a_planted_fault_fails_its_proof(
    name: str, file: str, old: str, new: str, fails: str, tmp_path: Path
) -> None:
    tool("yosys")
    tool("yosys-abc")
    failure = prove.prove(PROOFS[name], planted(tmp_path, file, old, new))
    assert failure is not None
    assert re.search(fails, failure)


def test_a_proof_of_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    tool("yosys")
    tool("yosys-abc")
    monkeypatch.setattr(
        prove, "SCRIPT", prove.SCRIPT.replace("flatten\n", "flatten\nchformal -assert -remove\n")
    )
    with pytest.raises(RuntimeError, match="no assertion or no register"):
        prove.prove(PROOFS["queue-DEPTH2"])


@pytest.mark.parametrize(
    ("top", "parameter"),
    [
        *(("array", one) for one in ("FIFO_DEPTH=48", "FIFO_DEPTH=1", "KEY_BANKS=4", "VALUE_BANKS=2", "C=3", "L=9")),
        ("clock_watchdog", "HOLD=0"),
        ("clock_status", "RATIO=3"),
        ("sequence_pairs", "SLOT_BITS=0"),
        ("addresses", "VALUE_BANKS=2"),
        ("operands", "KEY_BANKS=4"),
        ("token", "DEPTH=48"),
        ("unit", "S=24"),
        ("registers", "BITS=0"),
        ("array_top", "T=171"),
    ],
)  # fmt: skip
def test_a_wrong_parameter_is_refused_at_elaboration(top: str, parameter: str) -> None:
    sources = sorted(RTL.glob("*.*v"), key=lambda path: (not path.stem.endswith("_types"), path.name))
    command = [tool("verilator"), "--lint-only", "-Wno-fatal", "-Werror-USERERROR", "--top-module", top]
    run(*command, *sources)
    with pytest.raises(AssertionError, match="USERERROR"):
        run(*command, f"-G{parameter}", *sources)


PLAIN = Shape(5, 3, 2, ratio=2, lanes=4, norm=3, exponential=5, depth=4)
SLICES = Shape(2, 2, 2, depth=16, primitives=True)
#: Faults of the array: a source, an expression, the wrong one, and the assertions that notice it.
FAULTS = {
    PLAIN: [
        ("issue.sv", "!room[POINTER_BITS-1]", "1'b1", "no_start_without_room"),
        ("weights.sv", "filled != freed_slow + 2'd2", "1'b1", "no_full_half_is_written|no_half_is_read"),
        ("addresses.sv", "lanes[(3+f)*C+:C]", "lanes[C+:C]", "one_memory_is_read"),
        ("addresses.sv", "(tail | {C{!last}})", "tail ^ {C{!last}}", "lanes_are_read_from_the_first"),
        ("addresses.sv", "{lanes[0+:3*C], own[0+:3*ADDRESS_BITS]}",
         "{g > 0 ? lanes_next[0+:3*C] : lanes[0+:3*C], own[0+:3*ADDRESS_BITS]}", "groups_read_alike"),
        ("issue.sv", "32'(pass.row_bank) == i * P", "32'(pass.row_bank) >= i * P",
         r"addresses\.one_memory_gives_row_operands"),
        ("operand_bank.v", "idle[i]", "1'b0", r"operands\.one_memory_gives_activations"),
        ("weights.sv", "idle[i*8/PORT]", "1'b0", r"operands\.one_memory_gives_row_operands"),
        ("issue.sv", "32'(rotation) == VALUE_BANKS - 1", "32'(rotation) == VALUE_BANKS",
         "values_turn_to_a_row_pair"),
        ("operands.sv", "P - 1 - r < 32'(pairs4)", "P - 1 - r <= 32'(pairs4)", "operands_fit_the_slice"),
        ("token.sv", "{P{capture}}", "P'(capture)", "the_chain_loads_at_once"),
        ("sequence_pairs.sv", "push && left != 8'd1", "push && left != 8'd0", "a_pushed_pair_is_in_the_chain"),
        ("issue.sv", "begins[0] ? data_address : address + 1'b1", "begins[0] ? data_address : address + 2'd2",
         "addresses_stay_in_their_memory"),
        ("array_top.sv", "(sums_tready)", "1'b1", "an_offer_stays"),
        ("array.sv", "(!first)", "!first || $time >= 200", "a_low_sum_fits_its_field"),
        ("array.sv", "(!first)", "!first || $time >= 200", r"gen_model\S*a_sum_fits_its_bits"),
    ],
    SLICES: [
        ("registers.sv", "d[i]", "d[(i+1)%BITS]", "the_flip_flops_are_plain"),
        ("array.sv", "(!first)", "!first || $time >= 200", r"gen_slices\S*a_sum_fits_its_bits"),
    ],
}  # fmt: skip

#: Chooses one of the faults of a simulation.
PLANTED = """
package planted;
    function automatic int given();
        int number;
        return $value$plusargs("planted=%d", number) != 0 ? number : 0;
    endfunction
    int number = given();
endpackage
"""


def programs(shape: Shape) -> list[Program]:
    """Returns random passes, and long tiles of the largest low and of the largest high operands."""
    random = Program(shape, np.random.default_rng(0))
    for _ in range(12):
        random.add_random()
    out = [random]
    for rows in ([-7, 0], [0, 7]):
        program = Program(shape, np.random.default_rng(0))
        for codes in program.codes.values():
            codes[:] = 127
        program.gemm_of(np.tile(np.array(rows)[:, None], shape.words * shape.cascade), 2, 110, shape.words)
        out.append(program)
    return out


@pytest.mark.parametrize("shape", FAULTS, ids=["model", "slices"])
def test_a_planted_fault_fails_an_assertion_of_the_simulation(shape: Shape, tmp_path: Path) -> None:
    """Runs passes on an array that has one of its faults at a time: the first assertion that fails ends the run."""
    sources = tmp_path / "rtl"
    shutil.copytree(RTL, sources)
    for number, (file, old, new, _) in enumerate(FAULTS[shape], 1):
        text = (sources / file).read_text()
        assert text.count(old) == 1, old
        choice = f"(planted::number == {number} ? {new} : {old})"
        (sources / file).write_text(text.replace(old, choice))
    (tmp_path / "planted.sv").write_text(PLANTED)
    simulation = shape.build(tmp_path / "built", str(tmp_path / "planted.sv"), rtl=sources)
    stimuli = []
    for number, program in enumerate(programs(shape)):
        stimuli.append(tmp_path / f"program{number}.txt")
        stimuli[-1].write_text(program.stimulus(stall=80))
        run(simulation, stimuli[-1])
    missed = []
    for number, (file, old, _, fails) in enumerate(FAULTS[shape], 1):
        said = [
            subprocess.run([simulation, file, f"+planted={number}"], capture_output=True, text=True).stdout
            for file in stimuli
        ]
        if not any(re.search(rf"Assertion failed in \S*({fails})\b", text) for text in said):
            missed.append((file, old, fails, [text[-300:] for text in said]))
    assert missed == []
