"""Bring-up: it passes on a sound device, and its first failure names what is broken."""

from dataclasses import replace

import numpy as np
import pytest

import simulated
from helpers import json_of, run
from quasar_rt import bringup, random_subnet
from quasar_rt._native import Trials
from quasar_rt.bringup import networks
from quasar_rt.bringup.board import Board
from quasar_rt.errors import DeviceError, InvalidValueError

FIRST = ("clocks", "identity", "registers", "memory", "transfers", "interrupt")
#: The register of fetch that enables its interrupts.
FETCH_IER = 0x8


def tiny():
    return str(simulated.library("tiny"))


def statuses(outcomes):
    return {outcome.step: outcome.status for outcome in outcomes}


def first_failure(outcomes):
    return next(outcome for outcome in outcomes if outcome.status == "fail")


@pytest.fixture
def faulty(monkeypatch):
    """Returns a function that makes bring-up's device fail once: in the trials or in the first engine."""
    find = bringup.find_accelerator

    def inject(fault, after=0, engine=False):
        def found(name):
            accelerator = find(name)
            faults = [(fault, after)]

            def opened(device):
                while faults:
                    device.inject(*faults.pop())
                return device

            if engine:
                return replace(
                    accelerator, engine=lambda subnet, timeout: opened(accelerator.engine(subnet, timeout))
                )
            return replace(accelerator, trials=lambda limit: opened(accelerator.trials(limit)))

        monkeypatch.setattr(bringup, "find_accelerator", found)

    return inject


def test_every_step_passes_on_a_sound_device(monkeypatch):
    monkeypatch.setattr(networks, "NETWORKS", 2)
    monkeypatch.setattr(networks, "MOST_RAGGED", 5)
    subnet = random_subnet(embed=16, depth=2, heads=2, image_size=16, kernel=8, hidden=24, classes=5)
    outcomes = list(bringup.bringup(tiny(), subnet, frames=3))
    assert [outcome.step for outcome in outcomes] == [step.name for step in bringup.STEPS]
    assert set(statuses(outcomes).values()) == {"pass"}, outcomes
    assert outcomes[5].detail == "all came: 16 of store, 16 of fetch"
    assert "3 frames" in outcomes[-1].detail
    assert "event model" in outcomes[-1].detail


def test_a_clock_that_the_watchdog_brings_back_is_waited_for(faulty):
    faulty("lost_lock", 5)
    outcomes = list(bringup.bringup(tiny(), only=FIRST, timeout=5))
    assert {outcome.status for outcome in outcomes if outcome.step in FIRST} == {"pass"}


@pytest.mark.parametrize("first", ["clocks", "identity", "registers", "transfers"])
def test_no_register_is_accessed_while_the_clocks_stay_unlocked(faulty, first):
    # The simulated device fails an access to a register without a clock, as one that would hang.
    faulty("lost_lock", 1 << 40)
    outcomes = list(bringup.bringup(tiny(), only=FIRST[FIRST.index(first) :], timeout=5))
    assert not any("would hang" in outcome.detail for outcome in outcomes)
    failure = first_failure(outcomes)
    assert failure.step == first
    assert "the MMCM is not locked" in failure.detail
    assert "load the bitstream again" in failure.detail
    if first == "clocks":
        assert {outcome.status for outcome in outcomes if outcome is not failure} == {"skipped"}


@pytest.mark.parametrize(
    ("fault", "after", "step", "words"),
    [
        ("lost_write", 10, "registers", "instead of"),
        ("torn_write", 40, "registers", "instead of"),
        ("lost_flush", 1, "memory", "buffer 0, byte 0"),
        ("corrupt_output", 0, "transfers", "trailer"),
        ("lost_interrupt", 0, "interrupt", "15 of 16 interrupts of store came"),
    ],
)
def test_a_fault_below_frames_fails_its_own_step(faulty, fault, after, step, words):
    library = tiny()
    faulty(fault, after)
    outcomes = list(bringup.bringup(library, only=FIRST, timeout=5))
    failure = first_failure(outcomes)
    assert failure.step == step
    assert words in failure.detail
    assert failure.places
    lacking = {step}
    for known in bringup.STEPS[: len(FIRST)]:
        if lacking & set(known.needs):
            lacking.add(known.name)
            assert statuses(outcomes)[known.name] == "skipped"
        elif known.name != step:
            assert statuses(outcomes)[known.name] == "pass"


def test_a_lost_interrupt_of_fetch_fails_its_own_step(monkeypatch):
    class Deaf(simulated.Transport):
        def write(self, register, value):
            if register != FETCH_IER:
                super().write(register, value)

    accelerator = bringup.find_accelerator(tiny())
    trials = lambda limit: Trials.attached(accelerator.hardware._inner, Deaf(tiny()), limit)  # noqa: E731
    monkeypatch.setattr(bringup, "find_accelerator", lambda name: replace(accelerator, trials=trials))
    outcomes = list(bringup.bringup("sim:tiny", only=["interrupt"]))
    failure = first_failure(outcomes)
    assert failure.step == "interrupt"
    assert failure.detail == "0 of 16 interrupts of fetch came"


def test_another_bitstream_fails_the_identity(monkeypatch):
    accelerator = bringup.find_accelerator(tiny())
    other = accelerator.hardware.with_clock(90)
    trials = lambda limit: Trials.simulated(other._inner, tiny(), 0, limit)  # noqa: E731
    monkeypatch.setattr(bringup, "find_accelerator", lambda name: replace(accelerator, trials=trials))
    outcomes = list(bringup.bringup("sim:tiny"))
    failure = first_failure(outcomes)
    assert failure.step == "identity"
    assert "configuration hash" in failure.detail
    assert "of another build" in failure.places[0]
    assert [outcome.status for outcome in outcomes] == ["pass", "fail"] + ["skipped"] * (len(outcomes) - 2)


@pytest.mark.parametrize("fault", ["corrupt_output", "bus_error", "hang"])
def test_a_fault_in_a_frame_fails_the_network_and_skips_what_needs_it(faulty, fault):
    library = tiny()
    faulty(fault, engine=True)
    outcomes = list(bringup.bringup(library, only=("bias", "product"), timeout=3))
    found = statuses(outcomes)
    assert found["bias"] == "fail"
    assert found["product"] == "skipped"
    failure = first_failure(outcomes)
    expected = {"corrupt_output": "load", "bus_error": "load", "hang": "plan"}
    assert fault == "bus_error" or failure.suspects[0] == expected[fault]


@pytest.mark.parametrize("step", [*FIRST, "bias", "softmax"])
def test_a_step_that_is_asked_for_runs_alone(step):
    outcomes = list(bringup.bringup(tiny(), only=[step]))
    assert [(o.step, o.status) for o in outcomes if o.status != "skipped"] == [(step, "pass")]


def test_an_unknown_step_is_refused():
    with pytest.raises(InvalidValueError, match="the steps are clocks, identity, registers"):
        bringup.bringup(tiny(), only=["register"])


def test_the_steps_of_a_caller_run_too():
    def clocks(board):
        return f"{board.accelerator.name} counts"

    step = bringup.Step("rates", "reads clocks", ("identity",), clocks)
    outcomes = list(bringup.bringup(tiny(), only=["rates"], steps=(*bringup.STEPS, step)))
    assert outcomes[-1].status == "pass"
    assert outcomes[-1].detail == "sim:tiny counts"


def test_a_subnet_that_does_not_fit_is_skipped():
    large = random_subnet(embed=960, depth=1, heads=8, image_size=64, classes=5)
    outcomes = list(bringup.bringup(tiny(), large, only=["frame"]))
    assert statuses(outcomes)["frame"] == "skipped"
    assert "does not fit" in next(o for o in outcomes if o.step == "frame").detail


def test_only_accelerators_are_brought_up(monkeypatch):
    with pytest.raises(DeviceError, match="no accelerator"):
        bringup.bringup("cpu")


def test_the_silenced_parts_do_not_change_the_logits():
    """Each network's logits depend on the part that its step is for, and on no later part."""
    board = Board(bringup.find_accelerator(tiny()), None, 1, None)

    def logits(change, embed_norm=lambda _: False):
        from quasar_rt._native import Engine

        for name, _, subnet in networks.step_networks(board, change, embed_norm=embed_norm):
            if name == "network 0":
                engine = Engine(subnet._inner, 1, None, None)
                return [engine.infer(image).outputs().tolist() for image in networks.images(subnet)]
        raise AssertionError("no network")

    assert logits(networks.only_embedding) != logits(networks.only_embedding, lambda _: True), (
        "a norm in front"
    )
    for change in (networks.only_bias, networks.only_head, networks.only_norm):
        first, second = logits(change)
        assert first == second, "these networks see no image"
    parts = [
        networks.only_bias,
        networks.only_head,
        networks.only_norm,
        networks.only_embedding,
        networks.only_mlp(None),
        networks.only_attention(1),
        networks.only_attention(1 << 24),
        networks.only_attention(None),
        networks.everything,
    ]
    results = [logits(change) for change in parts]
    assert all(results.count(result) == 1 for result in results)


def test_the_steps_have_networks_of_every_kind():
    """A feature of networks that no step tries would be seen on a board first."""
    board = Board(bringup.find_accelerator(tiny()), None, 1, None)
    kinds = [
        (subnet.config["pool"], subnet.config["prefix_tokens"], subnet.config.get("embed_norm", False))
        for _, _, subnet in networks.step_networks(
            board, networks.everything, embed_norm=lambda number: number % 3 == 2
        )
    ]
    assert {pool for pool, _, _ in kinds} == {"token", "mean", "mean_after_norm", "token_pair"}
    assert {prefix for _, prefix, _ in kinds} == {0, 1, 2}
    assert {pool for pool, _, normed in kinds if normed} == {pool for pool, _, _ in kinds}
    pairs = [
        name
        for name, _, subnet in networks.step_networks(board, networks.only_bias)
        if "head_dist.weight" in dict(subnet.tensors())
    ]
    assert pairs == [f"network {number}" for number in range(32, 40)]
    for _, _, subnet in networks.step_networks(board, networks.only_bias):
        weights = [
            value for name, value in subnet.tensors().items() if name in ("head.weight", "head_dist.weight")
        ]
        assert not any(np.asarray(value).any() for value in weights)
    again = [subnet.sha256 for _, _, subnet in networks.step_networks(board, networks.everything)]
    assert again == [subnet.sha256 for _, _, subnet in networks.step_networks(board, networks.everything)]


class Altered:
    """An engine of which one count of a unit differs from what its device counts."""

    def __init__(self, engine, unit, place, factor):
        self._engine = engine
        self._change = unit, place, factor

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def unit_counts(self, image, frames):
        unit, place, factor = self._change
        cycles, modelled_cycles, units = self._engine.unit_counts(image, frames)
        changed = []
        for name, counted, modelled in units:
            counts = list(counted)
            if name == unit:
                counts[place] = round(factor * counts[place])
            changed.append((name, tuple(counts), modelled))
        return cycles, modelled_cycles, changed


@pytest.mark.parametrize(
    ("unit", "place", "factor", "words", "expected"),
    [
        ("norm", 1, 1.5, "busy cycles a frame", "initiation intervals"),
        ("array", 0, 0.5, "commands a frame", "stream `retired`"),
        ("drain", 3, 0.5, "cycles without input", "the unit that gives the input"),
    ],
)
def test_a_count_that_differs_names_its_unit(monkeypatch, unit, place, factor, words, expected):
    find = bringup.find_accelerator

    def found(name):
        accelerator = find(name)
        return replace(
            accelerator,
            engine=lambda subnet, timeout: Altered(accelerator.engine(subnet, timeout), unit, place, factor),
        )

    monkeypatch.setattr(bringup, "find_accelerator", found)
    outcomes = list(bringup.bringup(tiny(), counted(), only=["counters"]))
    failure = first_failure(outcomes)
    assert failure.step == "counters"
    assert failure.detail.startswith(f"{unit} has ")
    assert words in failure.detail
    assert failure.suspects[0] == unit
    assert expected in failure.places[0]
    assert bringup.KERNEL_PLACES[unit] in failure.places


def counted():
    """Returns a subnet whose frame takes each unit a while."""
    return random_subnet(embed=32, depth=2, heads=2, image_size=32, kernel=8, hidden=64, classes=5)


def test_counts_are_the_event_model_s_within_the_bounds():
    outcomes = list(bringup.bringup(tiny(), counted(), only=["counters"]))
    outcome = next(outcome for outcome in outcomes if outcome.step == "counters")
    assert outcome.status == "pass", outcome
    assert "simulated, intervals declared" in outcome.detail


@pytest.mark.slow
def test_a_slower_unit_is_the_first_suspect(tmp_path):
    interval = 'interval("softmax.exponential");'
    library = simulated.broken("tiny", tmp_path, "softmax", interval, 9 * interval)
    outcomes = list(bringup.bringup(str(library), counted(), only=["frame", "counters"]))
    assert statuses(outcomes)["frame"] == "pass"
    assert first_failure(outcomes).suspects[0] == "softmax", outcomes


def test_the_command_prints_json():
    report = json_of("bringup", "--device", tiny(), "--only", "identity", "--only", "memory")
    assert report["passed"]
    assert [step["step"] for step in report["steps"]] == [step.name for step in bringup.STEPS]
    assert {step["step"] for step in report["steps"] if step["status"] == "pass"} == {"identity", "memory"}


def test_the_command_ends_with_1_and_says_where_to_look(faulty):
    library = tiny()
    faulty("lost_flush", 1)
    result = run("bringup", "--device", library, "--only", "memory", "--only", "transfers", status=1)
    assert "memory     fail" in result.stdout
    assert "look at: cache coherency" in result.stdout
    assert "transfers  skipped  needs memory" in result.stdout
    assert "failed: memory" in result.stdout


# (kernel, or HEADER/KERNEL; what stands there, what stands there instead)
BROKEN = [
    ("fetch", "command.word[2] += base;", ";"),
    ("load", "group * config::LANES + lane", "group * config::LANES + lane / 2"),
    ("plan", "value_address += words;", ";"),
    ("array_model", "low < 8 ? low : low - 16", "low"),
    ("scores", "key == 0 || row[t]", "row[t]"),
    ("leaves/lanes_model", "((z + 32) >> 6) + zero_point", "(z >> 6) + zero_point"),
    ("norm", "if (f == frame)", "if (f != frame)"),
    ("leaves/softmax", "- (halve ? 1 : 0)", ""),
    ("store", "check_behind<1>(state, ", "(state, "),
    ("store", "word = check.sound ? 0 : 1;", "word = 0;"),
    ("plan", "key_address += key_stride;", ";"),
    # Products of more than one pass, keys that fill their memory, few columns, many tiles.
    ("plan", "rotation += turn;", ";"),
    ("array_model", "if (pass.first == 0)", "if (false)"),
    ("lanes_model", "unsigned(item.lanes); ++lane)\n    keys", "LANES; ++lane)\n    keys"),
    ("norm", "unsigned(embed) < SUMS_DISTANCE", "false"),
    ("norm", "up_to<ceil_div(most<tokens_t>, TOKENS)>", "u<4>"),
    # Two prefix tokens, and the norm of the embedded patches.
    ("drain", "job.skip = rows.skip;", "job.skip = rows.skip > 1 ? u<11>(1) : rows.skip;"),
    ("lanes_model", "if (job.moments == 1 && step.end", "if (job.residual == 1 && step.end"),
    # Rotary positions.
    ("lanes_model", "even * c - odd * s", "even * c + odd * s"),
    ("drain", "angle += command.pairs;", ";"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("kernel", "old", "new"), BROKEN, ids=[kernel for kernel, *_ in BROKEN])
def test_a_broken_unit_is_the_first_suspect(tmp_path, kernel, old, new):
    library = simulated.broken("tiny", tmp_path, kernel, old, new)
    failure = first_failure(bringup.bringup(str(library), timeout=5))
    unit = kernel.rpartition("/")[2].removesuffix("_model").replace("lanes", "drain")
    assert failure.suspects[0] == unit, failure
    assert bringup.KERNEL_PLACES[unit] in failure.places
