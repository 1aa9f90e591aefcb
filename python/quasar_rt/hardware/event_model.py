"""The event-driven form of the hardware model: compiled command lists, replayed unit by unit, **modelled**."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .._native import default_threads
from .._native import replay as native_replay
from .._native import replay_periods as native_replay_periods
from ..space import Space
from ..subnet import Subnet
from .configuration import Hardware
from .workload import Workload

__all__ = ["Replay", "Span", "replay", "replay_periods"]


@dataclass(frozen=True)
class Span:
    """One command on its unit."""

    unit: str
    """``load``, ``array``, ``drain``, ``norm`` or ``softmax``."""
    slot: int
    """Slot of the frame."""
    phase: int
    """0 for the patch embedding, then attention and MLP of each block, then the head."""
    stage: str
    start: int
    end: int
    busy: int
    """Cycles in which the unit worked."""
    stalls: dict[str, int]
    """The other cycles, by cause."""


@dataclass(frozen=True)
class Replay:
    """A replay of command lists by the event-driven model, frame after frame: **modelled**."""

    period_cycles: int
    """Cycles between two frames, if segments follow each other without a gap."""
    period_with_gaps_cycles: int
    """Cycles between two frames if the host starts each segment `host.segment_us` after it may."""
    gap_cycles: int
    """Cycles of these gaps for a frame, whether units stand still or not."""
    latency_cycles: int
    """Cycles of one frame alone."""
    spans: tuple[Span, ...]
    """All commands of `frames` frames, taken where no frame differs from the one before it."""
    frames: int

    @property
    def hidden_gap_cycles(self) -> int:
        """Cycles of a frame's gaps in which the units work off commands that fetch read ahead."""
        return max(0, self.gap_cycles - (self.period_with_gaps_cycles - self.period_cycles))

    def stalls(self, unit: str = "array") -> dict[str, float]:
        """Returns the cycles a frame in which a unit stands still, by cause."""
        totals: dict[str, float] = {}
        for span in self.spans:
            if span.unit == unit:
                for cause, cycles in span.stalls.items():
                    totals[cause] = totals.get(cause, 0.0) + cycles / self.frames
        return totals


def replay(network: Subnet | Workload, hardware: Hardware) -> Replay:
    """Replays the compiler's command lists of a network on the event-driven model of the accelerator.

    >>> from quasar_rt.hardware import estimate
    >>> workload = Workload.deit("deit-tiny")
    >>> hardware = Hardware.for_board("zcu102", workload)
    >>> closed, events = estimate(workload, hardware), replay(workload, hardware)
    >>> abs(closed.period_cycles / events.period_cycles - 1) < 0.05
    True

    Raises:
        quasar_rt.SettingsError: a configuration that the HLS sources cannot be built for.
        quasar_rt.DoesNotFitError: the network exceeds a buffer; the message names it and the excess.
    """
    period, with_gaps, gaps, alone, causes, spans, frames = native_replay(
        Workload.of(network)._inner, hardware._inner
    )
    return Replay(
        period,
        with_gaps,
        gaps,
        alone,
        tuple(
            Span(*span[:-1], {cause: n for cause, n in zip(causes, span[-1], strict=True) if n})
            for span in spans
        ),
        frames,
    )


def replay_periods(space: Space, genomes: NDArray[np.uint8], hardware: Hardware) -> NDArray[np.uint64]:
    """Replays many networks of a space, each as `replay` does, on all cores.

    >>> space = Space.load("digits")
    >>> hardware = Hardware.for_board("zcu102", space)
    >>> periods = replay_periods(space, space.smallest[None], hardware)
    >>> workload = Workload.of_architecture(space, space.decode(space.smallest))
    >>> int(periods[0]) == replay(workload, hardware).period_cycles
    True

    Args:
        space: the networks' space.
        genomes: canonical genomes, uint8 [n, genes].
        hardware: a configuration that holds each of them.

    Returns:
        cycles between two frames, without gaps between segments, uint64 [n].

    Raises:
        quasar_rt.SettingsError, quasar_rt.DoesNotFitError: as `replay`.
    """
    genomes = np.ascontiguousarray(genomes, np.uint8)
    return native_replay_periods(space._inner, hardware._inner, genomes, default_threads())
