"""Stray writes to an accelerator's registers: no wrong answer is returned, and one reset brings the device back."""

import ctypes
import random
import re
from pathlib import Path

import numpy as np
import pytest

import quasar_rt
from quasar_rt import Engine
from simulated import Transport, attached, library, small_subnet

pytestmark = pytest.mark.filterwarnings("ignore::quasar_rt.UntrainedWarning")

DOCUMENT = Path(__file__).parents[2] / "docs/accelerator.md"
#: The registers that the host writes, and their offsets.
REGISTERS = {
    name: int(offset, 16)
    for offset, name in re.findall(
        r"^\| (0x\w+) \| `(\w+)` \| writes \|", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE
    )
}
REGISTERS |= {
    f"{name}_HIGH": offset + 4
    for name, offset in REGISTERS.items()
    if re.search("COMMANDS|OUTPUT|ARENA", name)
}
CONTROLS = {block: REGISTERS[f"{block}_CTRL"] for block in ("fetch", "store", "load")}
START = 1
AUTO_RESTART = 0x80
#: Bytes by which all stray writes together may let the process grow.
GROWTH = 128 << 20


class Disturbed(Transport):
    """A simulated device whose registers something else writes, too."""

    def __init__(self, library):
        super().__init__(library)
        self.sim.qsim_trap.restype = ctypes.c_char_p
        self.written = {}
        self.breaks = False
        self.armed = None

    def read(self, register):
        if self.breaks:
            self.breaks = False
            raise RuntimeError("this access fails")
        return super().read(register)

    def write(self, register, value):
        self.written[register] = value
        if self.armed is not None and register == self.armed[0] and value & START:
            _, *stray = self.armed
            self.armed = None
            super().write(*stray)
        super().write(register, value)

    def wait(self, seconds):
        came = super().wait(seconds)
        if not came and (trap := self.sim.qsim_trap(self.device)):
            raise RuntimeError(trap.decode())
        return came


def resident():
    """Returns the bytes of memory that this process has; 0 where the system does not report them."""
    statm = Path("/proc/self/statm")
    return 4096 * int(statm.read_text().split()[1]) if statm.exists() else 0


class Bench:
    """Frames on a disturbed device."""

    def __init__(self):
        subnet = small_subnet(seed=1)
        self.images = list(np.random.default_rng(3).integers(0, 256, (4, 8, 8, 1), np.uint8))
        with Engine(subnet, "cpu", threads=1) as cpu:
            self.expected = [cpu.infer(image).integer_logits for image in self.images]
        assert len({tuple(logits) for logits in self.expected}) == len(self.images)
        self.transport = Disturbed(library("tiny"))
        self.engine = attached(subnet, self.transport, 0.4)
        assert self.run("undisturbed") == [None] * len(self.images)
        self.resident = resident()

    def run(self, what):
        """Runs frames, several at a time; returns which failed. No other may be wrong."""
        failed = []
        frames = [self.engine.begin(image) for image in self.images]
        for frame, logits in zip(frames, self.expected, strict=True):
            try:
                found = frame.wait().integer_logits()
            except quasar_rt.DeviceError as error:
                failed.append(error)
            else:
                failed.append(None)
                np.testing.assert_array_equal(found, logits, what)
        return failed

    def reset(self):
        """Lets an access fail, so that the driver resets the device before the next frame."""
        self.transport.breaks = True
        failed = self.run("a failing access")
        assert [error is not None for error in failed] == [True, False, False, False]

    def disturb(self, place, register, value):
        """Writes a register once, between frames or right before a kernel's start; returns the error that it caused."""
        what = f"{value:#x} to {register:#x}, {place}"
        self.reset()
        if place == "between frames":
            Transport.write(self.transport, register, value)
        else:
            self.transport.armed = (CONTROLS[place], register, value)
            self.transport.breaks = place == "load"
        failed = self.run(what)
        if place == "load":
            # The first frame failed to bring about a reset. The stray write came with it.
            assert failed.pop(0) is not None
        assert self.transport.armed is None, what
        errors = [error for error in failed if error is not None]
        assert len(errors) <= 1, f"{what}: {errors}"
        if errors:
            assert self.run(what) == [None] * len(self.images)
        assert resident() - self.resident < GROWTH, what
        return errors[0] if errors else None


@pytest.fixture(scope="module")
def bench():
    return Bench()


def values(register, last):
    """Returns what to write to a register that holds `last`."""
    others = [last + 1, last + 4, last - 4, random.Random(register).getrandbits(32)]
    starts = [AUTO_RESTART, AUTO_RESTART | START] if register in CONTROLS.values() else []
    return dict.fromkeys([0, 1, 0xFFFFFFFF, *starts, *(value % 2**32 for value in others)])


def arguments(block):
    """Returns the registers that a kernel reads when it starts."""
    controls = ("_CTRL", "_GIE", "_IER", "_ISR")
    return [name for name in REGISTERS if name.startswith(block) and not name.endswith(controls)]


@pytest.mark.parametrize(
    ("place", "name"),
    [("between frames", name) for name in REGISTERS]
    + [(block, name) for block in CONTROLS for name in arguments(block)],
)
def test_a_stray_write_costs_one_frame_at_most(bench, place, name):
    register = REGISTERS[name]
    for value in values(register, bench.transport.written.get(register, 0)):
        bench.disturb(place, register, value)


@pytest.mark.parametrize(
    ("block", "name", "value", "problem"),
    [
        # 2^32 commands, of which the first has another check; they leave the buffer.
        ("fetch", "fetch_COUNT", 0xFFFFFFFF, "page is not allocated"),
        ("fetch", "fetch_COMMANDS_HIGH", 1, "outside memory"),
        ("fetch", "fetch_COMMANDS", 0xFFFFFFFF, "outside memory"),
        ("fetch", "fetch_INPUT", 0xFFFFFFFF, "outside memory"),
        ("load", "load_ARENA0", 0xFFFFFFF0, "outside memory"),
        ("load", "load_ARENA0", 0, "null page"),
        ("load", "load_SEED", 0, "output"),
        ("store", "store_OUTPUT", 0xFFFFFFF0, "outside memory"),
        ("store", "store_COUNT", 0xFFFFFFFC, "incomplete burst"),
        ("store", "store_COUNT", 1 << 20, "was not done within"),
    ],
)
def test_the_error_names_the_access(bench, block, name, value, problem):
    assert problem in str(bench.disturb(block, REGISTERS[name], value))
