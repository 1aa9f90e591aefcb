"""Compiled programs as Python sees them. What they compute is tested in Rust (rust/accelerator)."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers import json_of, run
from quasar_rt import DoesNotFitError, InvalidValueError, SettingsError, Subnet
from quasar_rt.accelerator import Program
from quasar_rt.build import random_subnet
from quasar_rt.hardware import Hardware

VECTORS = Path(__file__).parents[1] / "vectors"


@pytest.fixture(scope="module")
def subnet() -> Subnet:
    return Subnet.load(VECTORS / "token.qvit")


@pytest.fixture(scope="module")
def hardware(subnet: Subnet) -> Hardware:
    return Hardware.for_board("zcu102", subnet)


def test_a_program_is_its_commands_and_its_arena(subnet: Subnet, hardware: Hardware) -> None:
    program = Program.compile(subnet, hardware)
    assert list(program.segments) == ["start0", "end0", "start1", "end1", "step0", "step1"]
    for segment, count in program.segments.items():
        assert len(program.commands(segment)) == 32 * count
        assert len(program.disassemble(segment).splitlines()) == count + 1
    assert program.segments["step0"] == program.segments["start1"] + program.segments["end0"]
    assert program.arena
    assert len(program.arena) % program.beat_bytes == 0
    again = Program.compile(subnet, hardware)
    assert again.arena == program.arena
    assert all(again.commands(s) == program.commands(s) for s in program.segments)


def test_a_program_verifies(subnet: Subnet, hardware: Hardware) -> None:
    verification = Program.compile(subnet, hardware).verify()
    assert all(0 <= queue.most <= queue.depth for queue in verification.queues)
    assert {"weights", "sums", "norm_to_array"} <= {queue.name for queue in verification.queues}
    assert verification.beats > 0


def test_what_does_not_fit_says_so(subnet: Subnet, hardware: Hardware) -> None:
    with pytest.raises(DoesNotFitError, match=r"the \w+ buffer needs \d+ words a lane, \d+ more"):
        Program.compile(random_subnet(depth=1), hardware)
    lanes = hardware.settings["lanes"]
    text = hardware.to_toml().replace(f"gelu = {lanes['gelu']}", "gelu = 1")
    with pytest.raises(SettingsError, match=r"lanes\.gelu: is 1"):
        Program.compile(subnet, Hardware.from_toml(text, hardware.board))
    with pytest.raises(InvalidValueError, match=r'segment "middle"; this program has start0, end0'):
        Program.compile(subnet, hardware).disassemble("middle")


def test_the_command_shows_a_program(hardware: Hardware, tmp_path: Path) -> None:
    file = tmp_path / "hardware.toml"
    hardware.save(file)
    subnet = str(VECTORS / "token.qvit")
    shown = run("disasm", subnet, "--hardware", file, "--segment", "start0", "--verify")
    assert "load_commands" in shown.output
    assert "Load target=patches" in shown.output
    document = json_of("disasm", subnet, "--hardware", file, "--verify")
    assert len(document["segments"]) == 6
    assert {"name", "most", "depth"} == set(document["queues"][0])
    run("disasm", subnet, status=2)
