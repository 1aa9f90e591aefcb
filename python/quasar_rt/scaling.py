"""Measures what further threads are worth to one frame: in turns with one thread and with a batch.

Times of different minutes cannot be compared on a machine that does other work, too. So what is compared takes turns
of a fraction of a second, each round gives one ratio, and rounds in which other processes were busy are left out.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .engine import Engine
from .errors import InvalidValueError
from .images import Pixels
from .subnet import Subnet

__all__ = ["Scaling", "Spread", "measure_scaling"]

#: Milliseconds of a turn, about.
_TURN_MS = 60.0
#: Images of a batch for each thread.
_IMAGES = 8
#: CPU time of other processes, as a share of a turn's length, above which the turn is left out.
_MOST_OTHERS = 0.1


class Spread(NamedTuple):
    """A figure over rounds."""

    median: float
    low: float
    """First quartile."""
    high: float
    """Third quartile."""


class Scaling(NamedTuple):
    """Figures measured on this machine. A frame's time is that of `Engine.infer` and its label, Python included."""

    tier: str
    threads: int
    rounds: int
    """Number of rounds behind the first figures."""
    disturbed: int
    """Number of rounds in which other processes were busy. They were left out, unless there were no others."""
    one_thread_ms: float
    """A frame on one thread."""
    frame_ms: float
    """A frame on all threads."""
    image_ms: float
    """An image of a batch on all threads: the batch's time by its images."""
    frame_to_image: Spread
    """`frame_ms` by `image_ms` of one round: 1 if a frame uses the cores as well as a batch does."""
    speedup: Spread
    """`one_thread_ms` by `frame_ms` of one round."""


def _others() -> float:
    """Returns the seconds of CPU time that other processes took so far; 0 where the system does not report it."""
    ticks = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
    try:
        with open("/proc/stat", encoding="ascii") as file:
            fields = [int(field) for field in file.readline().split()[1:9]]
        user, nice, system, _idle, _iowait, irq, softirq, steal = fields
    except (OSError, ValueError):
        return 0.0
    return (user + nice + system + irq + softirq + steal) / ticks - time.process_time()


def _frame_ms(engine: Engine, picture: Pixels, frames: int) -> float:
    times = []
    for _ in range(frames):
        start = time.perf_counter()
        _ = engine.infer(picture).label
        times.append(time.perf_counter() - start)
    return 1e3 * float(np.median(times))


def _image_ms(engine: Engine, picture: Pixels) -> float:
    images = [picture] * (_IMAGES * engine.threads)
    start = time.perf_counter()
    for prediction in engine.infer_batch(images):
        _ = prediction.label
    return 1e3 * (time.perf_counter() - start) / len(images)


def _calm_rounds(
    seconds: float, turn: Callable[[], tuple[float, ...]]
) -> tuple[list[tuple[float, ...]], int]:
    """Returns the figures of each calm round (of all rounds, if none was calm), and how many were disturbed."""
    calm: list[tuple[float, ...]] = []
    disturbed: list[tuple[float, ...]] = []
    end = time.perf_counter() + seconds
    while not (calm or disturbed) or time.perf_counter() < end:
        start, others = time.perf_counter(), _others()
        figures = turn()
        # The system counts in hundredths of a second.
        allowed = _MOST_OTHERS * (time.perf_counter() - start) + 0.015
        (calm if _others() - others <= allowed else disturbed).append(figures)
    return calm or disturbed, len(disturbed)


def _spread(values: list[float]) -> Spread:
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    return Spread(float(median), float(low), float(high))


def measure_scaling(
    subnet: Subnet,
    threads: int | None = None,
    tier: str | None = None,
    seconds: float = 8.0,
    seed: int = 0,
) -> Scaling:
    """Compares a frame on several threads with one thread and with a batch, on the CPU, in turns.

    Args:
        subnet: the subnet to run.
        threads: number of threads, from 2 on; all cores if None.
        tier: instruction set, as for `Engine`.
        seconds: the time for all rounds.
        seed: the seed of the picture.

    Raises:
        quasar_rt.InvalidValueError: fewer than two threads.
    """
    several = Engine(subnet, "cpu", threads, tier)
    with several, Engine(subnet, "cpu", 1, tier) as one:
        count = several.threads
        if count < 2:
            raise InvalidValueError(f"scaling compares several threads with one; threads is {count}")
        image = subnet.config["image"]
        shape = (image["height"], image["width"], image["channels"])
        picture = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
        frame, single = (min(_frame_ms(engine, picture, 3) for _ in range(2)) for engine in (several, one))
        _image_ms(several, picture)
        frames, singles = (max(2, round(_TURN_MS / ms)) for ms in (frame, single))

        def turn() -> tuple[float, ...]:
            return (
                _frame_ms(several, picture, frames),
                _image_ms(several, picture),
                _frame_ms(one, picture, singles),
            )

        rounds, disturbed = _calm_rounds(seconds, turn)
        frame, each, single = (float(np.median(times)) for times in zip(*rounds, strict=True))
        return Scaling(
            tier=str(several.tier),
            threads=count,
            rounds=len(rounds),
            disturbed=disturbed,
            one_thread_ms=single,
            frame_ms=frame,
            image_ms=each,
            frame_to_image=_spread([frame / each for frame, each, _ in rounds]),
            speedup=_spread([single / frame for frame, _, single in rounds]),
        )
