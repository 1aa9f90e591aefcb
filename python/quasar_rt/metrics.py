"""Counters of an engine: frames, errors, dropped images, latencies. `Engine.metrics` returns them.

Depends on the standard library alone.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from typing import Any, ClassVar, NamedTuple

__all__ = ["Metrics", "Percentiles", "Recorder"]

#: Number of the latest frames that percentiles are made of.
LATEST = 1024
#: Longest time in seconds that `Metrics.fps` looks back.
WINDOW = 10.0


class Percentiles(NamedTuple):
    """Latencies in milliseconds (nearest rank): of 100 frames, so many take no longer."""

    p50: float
    """The median."""
    p90: float
    """Of 100 frames, 90 take no longer."""
    p99: float
    """Of 100 frames, 99 take no longer."""


class Metrics(NamedTuple):
    """Counters of an engine since it was made, in this process."""

    frames: int
    """Number of predictions."""
    errors: int
    """Number of failures: images that cannot be used, frames in which a device failed, errors of a stream's source."""
    dropped: int
    """Number of images that newer ones displaced, in streams that drop."""
    seconds: float
    """Time since the engine was made."""
    fps: float
    """Predictions a second in the last 10 s, or in the time of the last 1024 predictions if that is shorter."""
    latency_ms: Percentiles | None
    """Percentiles of `Timings.total_ms` over the last 1024 predictions; None before the first one."""
    device: dict[str, int] | None
    """An accelerator's counters: ``frames``, ``faults``, ``resets``, ``lost_interrupts`` and ``spurious_interrupts``,
    since it was opened. None on the CPU and when the engine is closed."""

    def to_dict(self) -> dict[str, Any]:
        """Returns the counters as plain values, which `json.dumps` takes."""
        latency = None if self.latency_ms is None else self.latency_ms._asdict()
        return {**self._asdict(), "latency_ms": latency}


class Recorder:
    """Counts for one engine, from any thread."""

    #: All recorders, for forked processes.
    alive: ClassVar[weakref.WeakSet[Recorder]] = weakref.WeakSet()

    def __init__(self) -> None:
        self.clear()
        self.alive.add(self)

    def clear(self) -> None:
        """Begins at zero."""
        self._lock = threading.Lock()
        self._start = time.monotonic()
        self._frames = self._errors = self._dropped = 0
        self._latest: deque[tuple[float, float]] = deque(maxlen=LATEST)

    def frame(self, milliseconds: float) -> None:
        """Counts a prediction that took so long."""
        now = time.monotonic()
        with self._lock:
            self._frames += 1
            self._latest.append((now, milliseconds))

    def error(self) -> None:
        """Counts a failure."""
        with self._lock:
            self._errors += 1

    def drop(self) -> None:
        """Counts a dropped image."""
        with self._lock:
            self._dropped += 1

    def read(self, device: dict[str, int] | None) -> Metrics:
        """Returns the counts together with those of the device."""
        now = time.monotonic()
        with self._lock:
            frames, errors, dropped = self._frames, self._errors, self._dropped
            latest = list(self._latest)
        seconds = now - self._start
        recent = [at for at, _ in latest if at > now - WINDOW]
        span = min(seconds, WINDOW)
        if len(recent) == LATEST:
            span = now - recent[0]
        times = sorted(milliseconds for _, milliseconds in latest)
        latency = None
        if times:
            # Nearest rank: the least time that `percent` % of the frames do not exceed.
            latency = Percentiles(*(times[-(-percent * len(times) // 100) - 1] for percent in (50, 90, 99)))
        fps = len(recent) / span if span > 0 else 0.0
        return Metrics(frames, errors, dropped, seconds, fps, latency, device)


def _in_child() -> None:
    # Another thread may have held a lock at the fork, and the parent's frames are not this process's.
    for recorder in list(Recorder.alive):
        recorder.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
