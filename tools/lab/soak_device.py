#!/usr/bin/env python3
"""Run thousands of frames on a simulated accelerator that misbehaves at random; each gets its answer or its own error.

    python tools/lab/soak_device.py --frames 10000 --log

A seed gives the faults: those of the device, and those of the host's single accesses to registers, caches and
interrupt. The tool checks that every frame has the CPU's logits or an error, in order, that a fault
costs one frame at most, and that nothing is lost. Needs the base package and `make sim`.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections import Counter, deque
from random import Random

import click
import numpy as np

import run_log
from quasar_rt import Engine, Subnet, UntrainedWarning, random_subnet
from quasar_rt.errors import DeviceError

#: Faults of the simulated device. Each hits one of the next three frames.
DEVICE_FAULTS = (
    "lost_interrupt",
    "spurious_interrupt",
    "hang",
    "bus_error",
    "short_dma",
    "flipped_command",
    "corrupt_output",
    "wrong_identity",
    "late",
)
#: Faults of the host's accesses. Each spoils one of the next N accesses of its kind; N is about two frames' worth.
ACCESS_FAULTS = {
    "lost_write": 50,
    "doubled_write": 50,
    "repeated_write": 50,
    "reordered_write": 50,
    "torn_write": 50,
    "stray_write": 50,
    "lost_start": 6,
    "doubled_start": 6,
    "foreign_commands": 6,
    "lost_flush": 6,
    "partial_flush": 6,
    "late_flush": 6,
    "lost_invalidate": 2,
    "partial_invalidate": 2,
    "late_invalidate": 2,
    "early_interrupt": 2,
    "late_interrupt": 2,
    "doubled_interrupt": 2,
    "stale_interrupt": 2,
}
#: Seconds that a segment may take: a frame takes milliseconds, a late answer 0.3 s.
TIMEOUT = 0.25


def frames_lost(fault: str) -> int:
    """Returns the number of frames that a fault may cost at most."""
    if fault.endswith("interrupt"):
        return 0  # completion is read from a register
    # A reset that is written again later can fall into the recovery, too.
    return 2 if fault == "repeated_write" else 1


def tiny_subnet() -> Subnet:
    """Returns a network whose frames are simulated in milliseconds."""
    return random_subnet(
        embed=8, depth=1, heads=1, head_dim=4, hidden=8, image_size=8, channels=1, kernel=4, classes=3, seed=1
    )


def soak(device: str, frames: int, seed: int, rate: float, timeout: float) -> tuple[int, Counter[str], int]:
    """Runs the frames; returns the number of faults injected, the errors by class, and the number of differences."""
    random = Random(seed)
    subnet = tiny_subnet()
    size = subnet.config["image"]
    shape = (size["height"], size["width"], size["channels"])
    pictures = [
        np.random.default_rng(seed + i).integers(0, 256, shape, np.uint8) for i in range(min(frames, 64))
    ]
    with Engine(subnet, "cpu", threads=1) as cpu:
        expected = [cpu.infer(picture).integer_logits for picture in pictures]
    faults = [(fault, 3) for fault in DEVICE_FAULTS] + list(ACCESS_FAULTS.items())
    injected = costly = differences = 0
    errors: Counter[str] = Counter()
    with Engine(subnet, device, timeout=timeout) as engine:
        native = engine._open(1)
        in_flight: deque[tuple[int, object]] = deque()

        def take() -> None:
            nonlocal differences
            place, frame = in_flight.popleft()
            try:
                logits = frame.wait().integer_logits()  # type: ignore[attr-defined]
            except DeviceError as error:
                errors[type(error).__name__] += 1
                return
            if not np.array_equal(logits, expected[place % len(pictures)]):
                print(f"seed {seed}, frame {place}: other logits than the CPU's", file=sys.stderr)
                differences += 1

        for place in range(frames):
            if random.random() < rate:
                fault, chances = random.choice(faults)
                native.inject(fault, random.randrange(chances))
                injected += 1
                costly += frames_lost(fault)
            in_flight.append((place, native.begin(pictures[place % len(pictures)])))
            if len(in_flight) == native.in_flight:
                take()
        while in_flight:
            take()
        counters = native.counters()
    assert counters is not None
    if sum(errors.values()) > costly:
        print(f"seed {seed}: {sum(errors.values())} errors of {costly} faults", file=sys.stderr)
        differences += 1
    if counters.frames + counters.faults != frames:
        print(
            f"seed {seed}: {frames} frames, but {counters.frames} answers and {counters.faults} errors",
            file=sys.stderr,
        )
        differences += 1
    return injected, errors, differences


@click.command(help=__doc__.split("\n\n")[0] if __doc__ else None)
@click.option("--frames", default=10_000, show_default=True, type=click.IntRange(1), help="How many frames.")
@click.option("--device", default="sim:tiny", show_default=True, help="A simulated accelerator.")
@click.option("--rate", default=0.05, show_default=True, type=click.FloatRange(0, 1), help="Faults a frame.")
@click.option("--timeout", default=TIMEOUT, show_default=True, help="Seconds that a segment may take.")
@click.option("--seed", type=int, help="Seed of the faults; by default the time.")
@click.option("--log", is_flag=True, help="Note the run in docs/logs.md.")
def main(frames: int, device: str, rate: float, timeout: float, seed: int | None, log: bool) -> None:
    warnings.simplefilter("ignore", UntrainedWarning)
    seed = int(time.time()) if seed is None else seed
    start = time.monotonic()
    injected, errors, differences = soak(device, frames, seed, rate, timeout)
    seconds = time.monotonic() - start
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(errors.items())) or "none"
    result = f"{injected} faults injected, errors: {kinds}; {differences} differences"
    print(f"{frames} frames, {result}")
    if log:
        run_log.note("soak-device", device, f"{frames} frames in {seconds:.0f} s, seed {seed}, {result}")
    sys.exit(1 if differences else 0)


if __name__ == "__main__":
    main()
