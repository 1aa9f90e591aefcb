"""The intervals that the event-driven model counts, against those that the kernels' loops count in C simulation."""

from __future__ import annotations

import ctypes
import re
import time
from pathlib import Path

import numpy as np
import pytest

import quasar_rt
from quasar_rt.accelerator import Program
from quasar_rt.hardware import Hardware
from simulated import library

ROOT = Path(__file__).parents[2]
REGISTERS = dict(
    re.findall(
        r"constexpr unsigned (\w+) = (0x[0-9a-f]+);",
        (ROOT / "fpga" / "include" / "isa.hpp").read_text(encoding="utf-8"),
    )
)
START, IDLE = 1, 4
PORT_BYTES = 16
MEMORY = 64 << 20


class Simulated:
    """A simulated device through its C interface (``fpga/sim/quasar_sim.h``)."""

    def __init__(self, library: Path, seed: int) -> None:
        self.c = ctypes.CDLL(str(library))
        self.c.qsim_open.restype = ctypes.c_void_p
        self.c.qsim_open.argtypes = [ctypes.c_uint64, ctypes.c_uint64, ctypes.c_char_p, ctypes.c_uint64]
        self.c.qsim_close.argtypes = [ctypes.c_void_p]
        self.c.qsim_read.restype = ctypes.c_uint32
        self.c.qsim_read.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
        self.c.qsim_write.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint32]
        self.c.qsim_alloc.restype = ctypes.c_void_p
        self.c.qsim_alloc.argtypes = [ctypes.c_void_p, ctypes.c_uint64, ctypes.POINTER(ctypes.c_uint64)]
        self.c.qsim_flush.argtypes = [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64]
        for text in (self.c.qsim_counters, self.c.qsim_trap):
            text.restype = ctypes.c_char_p
            text.argtypes = [ctypes.c_void_p]
        error = ctypes.create_string_buffer(512)
        self.device = self.c.qsim_open(seed, MEMORY, error, 512)
        assert self.device, error.value

    def put(self, data: bytes) -> int:
        """Allocates memory that holds `data`; returns its physical address."""
        address = ctypes.c_uint64()
        host = self.c.qsim_alloc(self.device, len(data), ctypes.byref(address))
        ctypes.memmove(host, data, len(data))
        assert self.c.qsim_flush(self.device, address.value, len(data)) == 0
        return address.value

    def write(self, name: str, value: int, high: int | None = None) -> None:
        offset = int(REGISTERS[name], 16)
        self.c.qsim_write(self.device, offset, value & 0xFFFFFFFF)
        if high is not None:
            self.c.qsim_write(self.device, offset + 4, high)

    def address(self, name: str, value: int) -> None:
        self.write(name, value, value >> 32)

    def run(self, kernel: str) -> None:
        self.write(f"{kernel}_CTRL", START)

    def wait(self, kernel: str) -> None:
        control = int(REGISTERS[f"{kernel}_CTRL"], 16)
        until = time.monotonic() + 60
        while self.c.qsim_read(self.device, control) & (START | IDLE) != IDLE:
            assert not (trap := self.c.qsim_trap(self.device)), trap.decode()
            assert time.monotonic() < until, kernel
            time.sleep(0.001)

    def counters(self) -> dict[str, int]:
        lines = self.c.qsim_counters(self.device).decode().split("\n")
        return {name: int(count) for name, count in (line.split() for line in lines if line)}


def counted(library: Path, program: Program, classes: int, segments: list[str], seed: int) -> dict[str, int]:
    """Returns what the loops count in a frame of zeros that runs alone, through these segments."""
    simulated = Simulated(library, seed)
    try:
        beat = program.beat_bytes
        # The frame's input is zeros; no network here has more patches than this has room for.
        arena = program.arena + bytes(beat * (1 << 14))
        beats = np.frombuffer(arena, np.uint8).reshape(-1, beat)
        for port in range(beat // PORT_BYTES):
            stripe = beats[:, port * PORT_BYTES : (port + 1) * PORT_BYTES]
            simulated.address(f"load_ARENA{port}", simulated.put(stripe.tobytes()))
        simulated.run("load")
        simulated.address("store_OUTPUT", simulated.put(bytes(4 * classes + 64)))
        simulated.write("store_COUNT", classes)
        simulated.run("store")
        for segment in segments:
            commands = program.commands(segment)
            simulated.address("fetch_COMMANDS", simulated.put(commands))
            simulated.write("fetch_COUNT", len(commands) // 32)
            simulated.write("fetch_INPUT", len(program.arena) // beat)
            simulated.run("fetch")
            simulated.wait("fetch")
        simulated.wait("store")
        return simulated.counters()
    finally:
        simulated.c.qsim_close(simulated.device)


@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize("pool", ["token", "mean", "mean_after_norm"])
@pytest.mark.parametrize("name", ["tiny", "odd", "wide"])
def test_the_model_counts_what_the_loops_count(name: str, pool: str, seed: int) -> None:
    built = library(name)
    subnet = quasar_rt.random_subnet(
        embed=12, depth=2, heads=2, head_dim=4, hidden=[20, 300], image_size=12, channels=1, kernel=4, classes=7,
        pool=pool, seed=5,
    )  # fmt: skip
    program = Program.compile(subnet, Hardware.load(ROOT / "fpga" / "configs" / f"{name}.toml"))
    segments = ["start0", "end0"]
    loops = counted(built, program, 7, segments, seed)
    modelled = program.intervals(*segments)
    assert {"array.issue", "drain.rows", "norm.normalise", "softmax.exponential", "load.beats"} <= set(
        modelled
    )
    assert {loop: loops.get(loop) for loop in modelled} == modelled
