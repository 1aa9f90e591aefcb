"""Two drivers on one accelerator, which no lock keeps apart: a frame gets its own logits or an error."""

import random
import threading
import time

import numpy as np
import pytest

import simulated
from quasar_rt import DeviceError, Engine
from simulated import Transport, library, small_subnet

pytestmark = pytest.mark.filterwarnings("ignore::quasar_rt.UntrainedWarning")

FETCH_CTRL, FETCH_COMMANDS, FETCH_COUNT, FETCH_INPUT, FETCH_SEED = 0x00, 0x10, 0x1C, 0x24, 0x2C
SHAPE: dict[str, int] = {}
OTHER_SHAPE = dict(embed=12, heads=2, classes=5)
PICTURES = [np.random.default_rng(i).integers(0, 256, (8, 8, 1), np.uint8) for i in range(16)]


def attached(subnet, transport, timeout=1.0):
    """Returns a native engine on the simulated device of a transport, and the CPU's logits of all pictures."""
    with Engine(subnet, "cpu") as cpu:
        expected = [cpu.infer(picture).integer_logits for picture in PICTURES]
    return simulated.attached(subnet, transport, timeout), expected


def run(engine, expected, frames):
    """Runs frames, two in flight; returns the number of errors and of silent wrong answers."""
    errors = silent = 0
    waiting = []
    for i in [*range(frames), None, None]:
        if i is not None:
            waiting.append((i, engine.begin(PICTURES[i % len(PICTURES)])))
        if waiting and (i is None or len(waiting) > 1):
            place, frame = waiting.pop(0)
            try:
                silent += not np.array_equal(frame.wait().integer_logits(), expected[place % len(PICTURES)])
            except DeviceError:
                errors += 1
    return errors, silent


class Overtaken(Transport):
    """A transport on which another driver writes its registers of fetch in front of our start."""

    def __init__(self, library, shared):
        super().__init__(library, shared)
        self.count, self.other, self.random, self.chance = 0, [], random.Random(5), 0.0

    def write(self, register, value):
        if register == FETCH_COUNT:
            self.count = value
        if register == FETCH_CTRL and self.count and self.random.random() < self.chance:
            for place, theirs in self.random.choice(self.other).items():
                super().write(place, theirs)
        super().write(register, value)


class Recorded(Transport):
    """A transport that records the registers of each start of fetch."""

    def __init__(self, library):
        super().__init__(library)
        self.now, self.starts = {}, []

    def write(self, register, value):
        if FETCH_COMMANDS <= register <= FETCH_SEED:
            self.now[register] = value
        if register == FETCH_CTRL and self.now.get(FETCH_SEED):
            self.starts.append(dict(self.now))
        super().write(register, value)


@pytest.mark.parametrize(
    ("theirs", "kept"), [(SHAPE, ()), (SHAPE, (FETCH_INPUT,)), (OTHER_SHAPE, (FETCH_INPUT,))]
)
def test_commands_of_another_driver_give_no_answer(theirs, kept):
    """Lets another driver's registers of fetch stand where ours stood: all of them, or all but ``fetch_INPUT``."""
    recorded = Recorded(library("tiny"))
    other, its_logits = attached(small_subnet(**theirs, seed=2), recorded)
    assert run(other, its_logits, 6) == (0, 0)
    transport = Overtaken(library("tiny"), recorded)
    engine, expected = attached(small_subnet(seed=1), transport, timeout=0.05)
    assert run(engine, expected, 6) == (0, 0)
    # Not those without commands, which only report the identity.
    starts = [start for start in recorded.starts if start[FETCH_COUNT]]
    transport.other = [{r: v for r, v in start.items() if r not in kept} for start in starts]
    transport.chance = 0.5
    errors, silent = run(engine, expected, 40)
    assert silent == 0
    assert errors > 5
    transport.chance = 0.0
    assert run(engine, expected, 8)[1] == 0
    engine.closer().close()
    other.closer().close()


class Turns(Transport):
    """A transport that now and then lets the other driver go first."""

    def __init__(self, library, shared, lock, seed):
        super().__init__(library, shared)
        self.lock, self.random = lock, random.Random(seed)

    def _turn(self):
        if self.random.random() < 0.05:
            time.sleep(self.random.random() * 2e-3)

    def read(self, register):
        self._turn()
        with self.lock:
            return super().read(register)

    def write(self, register, value):
        self._turn()
        with self.lock:
            super().write(register, value)

    def wait(self, seconds):
        time.sleep(min(seconds, 1e-4))
        return False


@pytest.mark.parametrize("theirs", [SHAPE, OTHER_SHAPE])
@pytest.mark.parametrize("frames", [60, pytest.param(20_000, marks=pytest.mark.slow)])
def test_two_drivers_in_turn_give_no_wrong_answer(theirs, frames):
    lock = threading.Lock()
    first = Transport(library("tiny"))
    engines = [
        attached(small_subnet(**shape, seed=seed), Turns(library("tiny"), first, lock, seed), timeout=0.02)
        for shape, seed in ((SHAPE, 1), (theirs, 2))
    ]
    found = []
    threads = [threading.Thread(target=lambda one=one: found.append(run(*one, frames))) for one in engines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for engine, _ in engines:
        engine.closer().close()
    assert [silent for _, silent in found] == [0, 0]
    assert sum(errors for errors, _ in found) > 0
