"""The counters of an accelerator's units next to the event model: the table, and differences that are planted."""

import re
from pathlib import Path

import numpy as np
import pytest

import quasar_rt
import simulated
from helpers import json_of, run
from quasar_rt import AcceleratorProfile, Engine, random_subnet
from quasar_rt.packaged import sample_images
from quasar_rt.profile import UnitCounts, UnitProfile

pytestmark = pytest.mark.filterwarnings("ignore::quasar_rt.UntrainedWarning")

UNITS = ("fetch", "load", "plan", "array", "scores", "drain", "norm", "softmax", "store")
BLOCK, CONTROL, CYCLES, FIRST = 0x4_0000, 0x4_0004, 0x4_0008, 0x4_0010


def counter(unit, count):
    """Returns the offset of a unit's counter."""
    return FIRST + 16 * UNITS.index(unit) + 4 * UnitCounts._fields.index(count)


class Counting(simulated.Transport):
    """A simulated device whose counters have what a test says."""

    def __init__(self, library):
        super().__init__(library)
        self.values = {BLOCK: 0x5143_4E54, CONTROL: 0, CYCLES: 1000}

    def read(self, register):
        return self.values.get(register, 0) if register >= BLOCK else super().read(register)

    def write(self, register, value):
        if register < BLOCK:
            super().write(register, value)
        else:
            assert register == CONTROL
            self.values[register] = value

    def set(self, profile, frames):
        """Counts what the event model does."""
        self.values[CYCLES] = frames * int(profile.modelled_cycles)
        for unit in profile.units:
            for count, value in unit.modelled._asdict().items():
                self.values[counter(unit.name, count)] = frames * int(value or 0)


@pytest.fixture(scope="module")
def subnet():
    return random_subnet(
        embed=16, depth=2, heads=2, image_size=16, kernel=8, hidden=24, classes=5, eight_bit_fraction=0.5
    )


@pytest.fixture
def picture():
    return np.random.default_rng(1).integers(0, 256, (16, 16, 3), np.uint8)


@pytest.fixture
def counting(subnet, picture, monkeypatch):
    """Returns a transport that counts what the event model does in two frames, and an engine on it."""
    library = simulated.library("tiny")
    transport = Counting(library)
    monkeypatch.setattr(quasar_rt.engine, "open_device", quasar_rt.engine.open_device)
    simulated.attach(library, transport)
    with Engine(subnet, "python") as engine:
        transport.set(engine.profile(picture, repeat=1), 2)
        yield transport, engine


def hand_made(**counted):
    """Returns a profile of two units of which the drain's counts by the device are given."""
    modelled = UnitCounts(40, 10_000, 500, 4_000)
    plan = UnitCounts(7, 12_345, 0, None)
    units = [UnitProfile("plan", plan, plan), UnitProfile("drain", modelled._replace(**counted), modelled)]
    return AcceleratorProfile("measured", 3, 21_000, 20_000, units)


def test_equal_counts_have_no_differences():
    profile = hand_made()
    assert profile.differences() == []
    assert str(profile).splitlines() == [
        "The units in one frame, in cycles: device (measured)",
        "next to the event model (modelled); mean of 3 frames, one at a time",
        "                 busy               blocked            starved",
        "unit   commands  device model diff  device model diff  device model diff",
        "plan          7   12345 12345    =       0     0    =       -     -",
        "drain        40   10000 10000    =     500   500    =    4000  4000    =",
        "a frame: 21,000 cycles with the host between frames; model: 20,000",
        "* commands differ, or cycles by more than 10% of the model's and 1% of a frame",
    ]


def test_differences_beyond_both_bounds_are_marked():
    # 10 % of 10,000 cycles, and 1 % of a frame of 20,000.
    (within,) = hand_made(busy=11_000).differences()
    assert (within.unit, within.what, within.marked) == ("drain", "busy", False)
    (beyond,) = hand_made(busy=11_001).differences()
    assert beyond.marked
    assert "11001 10000 +10%*" in str(hand_made(busy=11_001))
    # 30 % of the model's count, but less than 1 % of a frame.
    assert not hand_made(blocked=650).differences()[0].marked
    assert hand_made(blocked=701).differences()[0].marked
    assert hand_made(starved=3_000).differences()[0].marked
    found = hand_made(commands=39, busy=12_000, blocked=0, starved=9_000).differences()
    assert [difference.what for difference in found] == ["commands", "starved", "busy", "blocked"]
    (command,) = hand_made(commands=41).differences()
    assert command.marked
    assert "41/40*" in str(hand_made(commands=41))


def test_the_device_s_counts_stand_next_to_the_model_s(counting, picture):
    _, engine = counting
    assert engine.has_counters
    profile = engine.profile(picture, repeat=2)
    assert (profile.kind, profile.frames) == ("measured", 2)
    assert [unit.name for unit in profile.units] == list(UNITS)
    assert profile.differences() == []
    units = {unit.name: unit.counted for unit in profile.units}
    assert (units["fetch"].commands, units["store"].commands, units["plan"].starved) == (2, 1, None)
    for counts in units.values():
        assert 0 < counts.commands <= counts.busy <= profile.cycles
        assert counts.blocked <= counts.busy >= (counts.starved or 0)


def test_a_planted_difference_is_marked(counting, picture):
    transport, engine = counting
    frame = transport.values[CYCLES]
    busy = counter("norm", "busy")
    transport.values[busy] += frame // 10
    (found,) = engine.profile(picture, repeat=2).differences()
    assert (found.unit, found.what, found.marked) == ("norm", "busy", True)
    transport.values[counter("drain", "commands")] -= 2
    first, second = engine.profile(picture, repeat=2).differences()
    assert (first.unit, first.what, first.counted) == ("drain", "commands", first.modelled - 1)
    assert second == found


@pytest.mark.parametrize(
    ("register", "value", "words"),
    [
        (BLOCK, 0, "identity is 0x0 instead of 0x51434e54"),
        (CYCLES, 3, "busy of 3 cycles"),
        (counter("array", "starved"), 2**32 - 1, "array has 4294967295 starved of"),
        (counter("norm", "blocked"), 2**32 - 1, "norm has 4294967295 blocked of"),
        (CYCLES, 2**32 - 1, "profile fewer frames at a time"),
    ],
)
def test_answers_that_no_counters_give_are_refused(counting, picture, register, value, words):
    transport, engine = counting
    transport.values[register] = value
    if (register, value) == (CYCLES, 3):
        transport.values |= {counter(unit, "commands"): 0 for unit in UNITS}
    with pytest.raises(quasar_rt.DeviceFaultError, match=words):
        engine.profile(picture, repeat=2)
    assert len(engine.infer(picture).logits) == 5


def test_frames_of_others_are_noticed(counting, subnet, picture):
    _, engine = counting
    # Of frames that are begun before the counters are cleared the last ones are answered after that.
    pending = [engine._engine.begin(picture) for _ in range(32)]
    with pytest.raises(quasar_rt.InvalidValueError, match="other frames ran"):
        engine.profile(picture, repeat=1)
    for frame in pending:
        frame.wait()


def test_the_cpu_has_no_counters(subnet, picture):
    with Engine(subnet, "cpu") as engine:
        assert not engine.has_counters
        assert not isinstance(engine.profile(picture, repeat=1), AcceleratorProfile)
        with pytest.raises(quasar_rt.InvalidValueError, match="no counters"):
            engine._engine.unit_counts(picture, 1)


def test_the_documents_table_is_the_packaged_subnets():
    page = (Path(__file__).parents[2] / "docs" / "devices.md").read_text()
    (table,) = re.findall(r"```text\n(The units in one frame.*?)```", page, re.DOTALL)
    with Engine("fashion-mnist", device=str(simulated.library("tiny"))) as engine:
        profile = engine.profile(sample_images("fashion-mnist")[0].path, repeat=1)

    def of_the_model(text: str) -> list[list[str]]:
        """The commands and the model's cycles in each line of a table."""
        lines = [line.split() for line in text.splitlines() if re.match(r"\w+ +\d+ ", line)]
        return [[*line[:2], *line[3::3]] for line in lines]

    assert of_the_model(table) == of_the_model(str(profile))
    assert table.split("model: ")[1] == str(profile).split("model: ")[1] + "\n"


def test_bench_prints_the_units(subnet, tmp_path, monkeypatch):
    path = tmp_path / "tiny.qvit"
    subnet.save(path)
    bench = ["bench", path, "--device", simulated.library("tiny"), "--seconds", 0.01]
    result = run(*bench)
    assert result.stdout.count("device (simulated, intervals declared)") == 1
    assert "wall clock of the simulation" in result.stdout
    assert "--threads are the CPU's" in run(*bench, "--threads", 2, status=2).stderr
    assert max(map(len, result.stdout.splitlines())) <= 120
    (measured,) = json_of(*bench)["measured"]
    assert [unit["unit"] for unit in measured["units"]["units"]] == list(UNITS)
