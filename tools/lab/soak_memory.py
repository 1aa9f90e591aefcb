#!/usr/bin/env python3
"""Run many frames and open many engines; memory and handles must stay flat.

    python tools/lab/soak_memory.py --frames 100000 --engines 10000 --log

After a tenth of the work, resident memory may grow by 8 MB at most and open files not at all. Needs the base
package; with a simulated accelerator (`make sim`), `--device sim:tiny` runs its driver as well.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np

import run_log
from quasar_rt import Engine, Subnet, UntrainedWarning, random_subnet

#: Growth that the allocator may show, in kB.
ALLOWED_KB = 8192


class Use(NamedTuple):
    """Memory and open files of a process."""

    resident_kb: int
    files: int

    @classmethod
    def now(cls) -> Use:
        """Reads it from /proc."""
        status = Path("/proc/self/status").read_text()
        resident = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
        return cls(int(resident.split()[1]), len(list(Path("/proc/self/fd").iterdir())))

    def since(self, before: Use) -> Use:
        """Returns the growth."""
        return Use(self.resident_kb - before.resident_kb, self.files - before.files)


def growth(label: str, count: int, step: Callable[[int], object]) -> Use:
    """Runs the steps; returns the growth from a tenth of them to their end."""
    before = Use.now()
    with click.progressbar(range(count), label=label, file=sys.stderr, width=0) as numbers:
        for number in numbers:
            if number == count // 10:
                before = Use.now()
            step(number)
    return Use.now().since(before)


def small_subnet() -> Subnet:
    """Returns a network whose frames take well below a millisecond."""
    return random_subnet(
        embed=8, depth=1, heads=1, head_dim=4, hidden=8, image_size=8, channels=1, kernel=4, classes=3, seed=1
    )


@click.command()
@click.option("--frames", default=100_000, show_default=True, type=click.IntRange(10))
@click.option("--engines", default=10_000, show_default=True, type=click.IntRange(10))
@click.option("--device", default="cpu", show_default=True)
@click.option("--log", is_flag=True, help="Note the run in docs/logs.md.")
def main(frames: int, engines: int, device: str, log: bool) -> None:
    """Run many frames and open many engines; fail if memory or handles grow."""
    warnings.simplefilter("ignore", UntrainedWarning)
    subnet, begun = small_subnet(), time.monotonic()
    images = np.random.default_rng(0).integers(0, 256, (16, 8, 8), np.uint8)

    with Engine(subnet, device=device) as engine:
        expected = [engine.infer(image).logits.tolist() for image in images]

        def frame(number: int) -> None:
            found = engine.infer(images[number % 16]).logits.tolist()
            if found != expected[number % 16]:
                raise click.ClickException(f"frame {number} has other logits")

        of_frames = growth("frames", frames, frame)

    def open_engine(number: int) -> None:
        # Every other engine is dropped without being closed.
        one = Engine(subnet, device=device)
        one.infer(images[number % 16])
        if number % 2:
            one.close()

    of_engines = growth("engines", engines, open_engine)
    result = "; ".join(
        f"{count} {name}: {use.resident_kb:+} kB, {use.files:+} files"
        for name, count, use in (("frames", frames, of_frames), ("engines", engines, of_engines))
    )
    click.echo(result)
    if log:
        run_log.note("soak-memory", device, f"{time.monotonic() - begun:.0f} s; {result}")
    if any(use.resident_kb > ALLOWED_KB or use.files > 0 for use in (of_frames, of_engines)):
        raise click.ClickException("memory or handles grow")


if __name__ == "__main__":
    main()
