"""The event-driven form of the hardware model: compiled command lists, replayed unit by unit, **modelled**."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from .._native import default_threads
from .._native import periods as native_periods
from .._native import replay as native_replay
from .._native import replay_periods as native_replay_periods
from ..space import Space
from ..subnet import Subnet
from .closed_form import estimate
from .configuration import Hardware
from .workload import Workload

__all__ = ["RATES_OF", "Rates", "RatesOf", "Replay", "Span", "rates", "replay", "replay_periods"]

#: The two readings of a frame rate: of the board, with its processor; or of the accelerator alone.
RatesOf: TypeAlias = Literal["board", "accelerator"]
RATES_OF: tuple[RatesOf, ...] = get_args(RatesOf)


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


@dataclass(frozen=True)
class Rates:
    """Frames a second of a network on a configuration, event by event: **modelled**."""

    accelerator_fps: float
    """Of the accelerator, if segments follow each other without a gap."""
    fps: float
    """Of the board, which is what a user gets: with the gaps in which its processor starts segments, and at most
    `host_fps`."""
    host_fps: float
    """Of the processor, which decodes, resizes and submits frames on all its cores."""

    @property
    def processor_bound(self) -> bool:
        """True if the processor limits the board's rate, so that a faster network gains next to nothing."""
        return self.fps >= 0.999 * self.host_fps

    def of(self, reading: RatesOf) -> float:
        """Returns the rate by one of the two readings."""
        return self.fps if reading == "board" else self.accelerator_fps


def rates(network: Subnet | Workload, hardware: Hardware) -> Rates:
    """Replays a network for its frames a second, without and with the host.

    >>> workload = Workload.deit("deit-small")
    >>> found = rates(workload, Hardware.for_board("zcu102", workload))
    >>> found.fps < found.accelerator_fps < found.host_fps
    True

    Raises:
        quasar_rt.SettingsError, quasar_rt.DoesNotFitError: as `replay`.
    """
    workload = Workload.of(network)
    period, with_gaps = native_periods(workload._inner, hardware._inner)
    hertz, host_fps = hardware.clock_mhz * 1e6, estimate(workload, hardware).host.fps
    return Rates(hertz / period, min(hertz / with_gaps, host_fps), host_fps)


def replay_periods(
    space: Space, genomes: NDArray[np.uint8], hardware: Hardware, *, gaps: bool = False
) -> NDArray[np.uint64]:
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
        gaps: True counts the gaps in which the host starts segments.

    Returns:
        cycles between two frames, uint64 [n].

    Raises:
        quasar_rt.SettingsError, quasar_rt.DoesNotFitError: as `replay`.
    """
    genomes = np.ascontiguousarray(genomes, np.uint8)
    return native_replay_periods(space._inner, hardware._inner, genomes, gaps, default_threads())
