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
from simulated import Transport, library

ROOT = Path(__file__).parents[2]
REGISTERS = dict(
    re.findall(
        r"constexpr unsigned (\w+) = (0x[0-9a-f]+);",
        (ROOT / "fpga" / "include" / "isa.hpp").read_text(encoding="utf-8"),
    )
)
START, IDLE = 1, 4
PORT_BYTES = 16


def counted(library: Path, program: Program, classes: int, segments: list[str], seed: int) -> dict[str, int]:
    """Returns what the loops count in a frame of zeros that runs alone, through these segments.

    Fails with the device's diagnosis if it cannot go on.
    """
    device = Transport(library, seed=seed)
    device.sim.qsim_counters.restype = device.sim.qsim_trap.restype = ctypes.c_char_p

    def write(name: str, value: int, high: int | None = None) -> None:
        offset = int(REGISTERS[name], 16)
        device.write(offset, value & 0xFFFFFFFF)
        if high is not None:
            device.write(offset + 4, high)

    def put(name: str, data: bytes) -> None:
        """Writes the address of memory that holds `data`."""
        address = device.allocate(len(data))
        device.copy_in(-1, 0, data)
        device.flush(-1, 0, len(data))
        write(name, address, address >> 32)

    def wait(kernel: str) -> None:
        control = int(REGISTERS[f"{kernel}_CTRL"], 16)
        until = time.monotonic() + 60
        while device.read(control) & (START | IDLE) != IDLE:
            device.wait(0.001)  # which notices that nothing can go on
            assert not (trap := device.sim.qsim_trap(device.device)), trap.decode()
            assert time.monotonic() < until, kernel

    try:
        beat = program.beat_bytes
        # The frame's input is zeros; no network here has more patches than this has room for.
        arena = program.arena + bytes(beat * (1 << 14))
        beats = np.frombuffer(arena, np.uint8).reshape(-1, beat)
        for port in range(beat // PORT_BYTES):
            put(f"load_ARENA{port}", beats[:, port * PORT_BYTES : (port + 1) * PORT_BYTES].tobytes())
        write("load_CTRL", START)
        output, size = len(device.buffers), 4 * classes + 64
        put("store_OUTPUT", bytes(size))
        write("store_COUNT", classes)
        write("store_CTRL", START)
        for segment in segments:
            commands = program.commands(segment)
            put("fetch_COMMANDS", commands)
            write("fetch_COUNT", len(commands) // 32)
            write("fetch_INPUT", len(program.arena) // beat)
            write("fetch_CTRL", START)
            wait("fetch")
        wait("store")
        assert not any(device.copy_out(output, 0, size)), "the host's copy is old until it is invalidated"
        device.invalidate(output, 0, size)
        assert any(device.copy_out(output, 0, size))
        lines = device.sim.qsim_counters(device.device).decode().split("\n")
        return {name: int(count) for name, count in (line.split() for line in lines if line)}
    finally:
        device.sim.qsim_close(device.device)


def small(pool: str, name: str) -> Program:
    """Returns a program of a small network for a configuration."""
    subnet = quasar_rt.random_subnet(
        embed=12, depth=2, heads=2, head_dim=4, hidden=[20, 300], image_size=12, channels=1, kernel=4, classes=7,
        pool=pool, seed=5,
    )  # fmt: skip
    return Program.compile(subnet, Hardware.load(ROOT / "fpga" / "configs" / f"{name}.toml"))


@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize("pool", ["token", "mean", "mean_after_norm"])
@pytest.mark.parametrize("name", ["tiny", "odd", "wide"])
def test_the_model_counts_what_the_loops_count(name: str, pool: str, seed: int) -> None:
    built, program = library(name), small(pool, name)
    segments = ["start0", "end0"]
    loops = counted(built, program, 7, segments, seed)
    modelled = program.intervals(*segments)
    assert {"array.issue", "drain.rows", "norm.normalise", "softmax.exponential", "load.beats"} <= set(
        modelled
    )
    assert {loop: loops.get(loop) for loop in modelled} == modelled


def test_a_device_that_cannot_go_on_names_who_waits_for_what() -> None:
    with pytest.raises(AssertionError, match="deadlock: no process can go on") as caught:
        counted(library("tiny"), small("token", "tiny"), 7, ["end0"], 0)
    assert "reads norm_to_array" in str(caught.value)
    assert "last taken" in str(caught.value)


def test_registers_are_those_of_vitis_hls_and_others_are_named() -> None:
    device = Transport(library("tiny"))
    device.sim.qsim_trap.restype = ctypes.c_char_p
    reset, status = int(REGISTERS["reset"], 16), int(REGISTERS["store_CTRL"], 16)
    for register, problem in ((0x44, b"no register 0x00044"), (status, b"in reset")):
        device.write(reset, int(register == status))
        assert device.read(register) == 0xFFFFFFFF
        assert problem in device.sim.qsim_trap(device.device)
    device.write(reset, 0)
    # An interrupt's status toggles where 1 is written.
    status = int(REGISTERS["store_ISR"], 16)
    for expected in (1, 0):
        device.write(status, 1)
        assert device.read(status) == expected
    device.sim.qsim_close(device.device)
