"""Profiles of a frame: the stages on the CPU, the units of an accelerator. Depends on the native module only."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Literal, NamedTuple

from ._native import Engine as NativeEngine
from .frame import Frame
from .images import Pixels
from .subnet import Subnet

__all__ = ["AcceleratorProfile", "Difference", "Profile", "Stage", "UnitCounts", "UnitProfile"]

#: Shares beyond which a count's difference from the event model is marked: of the model's count, and of the cycles that
#: the model has for a frame. Both must be exceeded, so that a few cycles of a small count are not.
COUNT_BOUND = 0.1
FRAME_BOUND = 0.01


class Stage(NamedTuple):
    """One line of the table."""

    name: str
    """Such as ``"decode"``, ``"preprocess"`` or ``"qkv"``; the blocks are taken together."""
    ms: float
    """Milliseconds of wall clock a frame, the median over the repetitions."""
    macs: int
    """Multiply-accumulates a frame; 0 for a stage that is not counted in them."""


@dataclass(frozen=True)
class Profile:
    """The stages of a frame in the order of its path; ``print`` it for a table."""

    stages: list[Stage]

    @classmethod
    def measure(
        cls, engine: NativeEngine, subnet: Subnet, pixels: Pixels | Frame, decode_ms: float, repeat: int
    ) -> Profile:
        """Runs a frame `repeat` times; the public way is `Engine.profile`."""
        from statistics import median

        seconds: dict[str, list[float]] = defaultdict(list)
        for _ in range(repeat):
            frame: dict[str, float] = defaultdict(float)
            for name, value in engine.profile(pixels):
                frame[_stage(name)] += value
            for name, value in frame.items():
                seconds[name].append(value)
        summary = subnet.summary()
        macs: dict[str, int] = defaultdict(int)
        for layer in summary.layers:
            macs[_stage(layer.name)] += layer.macs
        macs["attention"] = summary.macs - sum(macs.values())
        stages = [Stage(name, 1000 * median(values), macs[name]) for name, values in seconds.items()]
        return cls([Stage("decode", decode_ms, 0), *stages])

    @property
    def total_ms(self) -> float:
        """Milliseconds a frame: the sum of all stages."""
        return sum(stage.ms for stage in self.stages)

    def __str__(self) -> str:
        total = self.total_ms
        width = max(len(stage.name) for stage in self.stages)
        lines = [f"{'stage':<{width}}  {'ms':>9}  {'share':>6}  {'GMAC/s':>7}"]
        for name, ms, macs in [*self.stages, Stage("total", total, sum(stage.macs for stage in self.stages))]:
            speed = f"{macs / ms / 1e6:7.1f}" if macs and ms else " " * 7
            lines.append(f"{name:<{width}}  {ms:9.3f}  {ms / total if total else 0:6.1%}  {speed}".rstrip())
        return "\n".join(lines)


class UnitCounts(NamedTuple):
    """Counts of a unit for one frame; cycles are those of the kernels' clock."""

    commands: float
    """Commands that ended."""
    busy: float
    """Cycles with a command that was taken and had not ended."""
    blocked: float
    """Busy cycles in which an output queue refused an item."""
    starved: float | None
    """Busy cycles in which the main input had nothing; None where that does not show."""


class UnitProfile(NamedTuple):
    """A unit's counts by the device, as the mean of the frames, and by the event model."""

    name: str
    counted: UnitCounts
    modelled: UnitCounts


class Difference(NamedTuple):
    """A count that differs from the event model's."""

    unit: str
    what: str
    """Name of the count, as in `UnitCounts`."""
    counted: float
    modelled: float
    marked: bool
    """True if the number of commands differs at all, or cycles by more than 10 % of the model's count and 1 % of a
    frame's cycles."""


@dataclass(frozen=True)
class AcceleratorProfile:
    """Counts of an accelerator's units in a frame, next to the event model's; ``print`` it for a table."""

    kind: Literal["measured", "simulated, intervals declared"]
    """Kind of the device's counts: ``"measured"`` in an FPGA, or ``"simulated, intervals declared"``."""
    frames: int
    """Number of frames, which ran one at a time."""
    cycles: float
    """Cycles a frame, with the host's time between two frames."""
    modelled_cycles: float
    """Cycles of a frame by the event model, without the host's time between two frames."""
    units: list[UnitProfile]

    @classmethod
    def measure(
        cls, engine: NativeEngine, pixels: Pixels | Frame, repeat: int, simulated: bool
    ) -> AcceleratorProfile:
        """Runs a frame `repeat` times; the public way is `Engine.profile`."""
        cycles, modelled_cycles, units = engine.unit_counts(pixels, repeat)

        def mean(counts: tuple[int, int, int, int | None]) -> UnitCounts:
            *known, starved = (None if count is None else count / repeat for count in counts)
            commands, busy, blocked = (count or 0.0 for count in known)
            return UnitCounts(commands, busy, blocked, starved)

        return cls(
            "simulated, intervals declared" if simulated else "measured",
            repeat,
            cycles / repeat,
            modelled_cycles,
            [UnitProfile(name, mean(counted), UnitCounts(*modelled)) for name, counted, modelled in units],
        )

    def differences(self) -> list[Difference]:
        """Returns all counts that differ from the event model's: numbers of commands first, then the most cycles."""
        found = []
        for name, counted, modelled in self.units:
            for count in UnitCounts._fields:
                ours, theirs = getattr(counted, count), getattr(modelled, count)
                if ours != theirs:
                    found.append(Difference(name, count, ours, theirs, self._is_marked(count, ours, theirs)))
        return sorted(found, key=lambda d: (d.what != "commands", -abs(d.counted - d.modelled)))

    def _is_marked(self, count: str, counted: float, modelled: float) -> bool:
        beyond = max(COUNT_BOUND * modelled, FRAME_BOUND * self.modelled_cycles)
        return counted != modelled if count == "commands" else abs(counted - modelled) > beyond

    def __str__(self) -> str:
        counts = UnitCounts._fields[1:]
        rows = [["unit", "commands", *("device", "model", "diff ") * len(counts)]]
        for name, counted, modelled in self.units:
            commands = f"{counted.commands:.6g}"
            if counted.commands != modelled.commands:
                commands += f"/{modelled.commands:.6g}*"
            row = [name, commands]
            for count in counts:
                ours, theirs = getattr(counted, count), getattr(modelled, count)
                if ours is None:
                    row += ["-", "-", ""]
                    continue
                mark = "*" if self._is_marked(count, ours, theirs) else " "
                row += [_cycles(ours), _cycles(theirs), _percent(ours, theirs) + mark]
            rows.append(row)
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        groups = range(2, len(widths), 3)

        def line(row: list[str]) -> str:
            cells = [row[0].ljust(widths[0])]
            cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
            # The place of a mark keeps the groups apart.
            return "  ".join([*cells[:2], " ".join(cells[2:])]).rstrip()

        titles = [
            count.ljust(sum(widths[group : group + 3]) + 2)
            for count, group in zip(counts, groups, strict=True)
        ]
        frames = f"{self.frames} frame{'' if self.frames == 1 else 's'}, one at a time"
        return "\n".join(
            [
                f"The units in one frame, in cycles: device ({self.kind})",
                f"next to the event model (modelled); mean of {frames}",
                "  ".join([" " * widths[0], " " * widths[1], " ".join(titles)]).rstrip(),
                *map(line, rows),
                f"a frame: {self.cycles:,.0f} cycles with the host between frames; "
                f"model: {self.modelled_cycles:,.0f}",
                f"* commands differ, or cycles by more than {COUNT_BOUND:.0%} of the model's "
                f"and {FRAME_BOUND:.0%} of a frame",
            ]
        )


def _cycles(count: float) -> str:
    """Returns a number of cycles in at most six signs."""
    for limit, unit in ((1e6, ""), (99.9e6, "k")):
        if count < limit:
            return f"{count / (1e3 if unit else 1):.0f}{unit}"
    return f"{count / 1e6:.0f}M"


def _percent(counted: float, modelled: float) -> str:
    """Returns the difference as a share of the model's count."""
    if counted == modelled:
        return "="
    if modelled == 0:
        return "new"
    share = counted / modelled - 1
    if share >= 9.995:
        return ">999%"
    return f"{share:+.0%}" if abs(share) >= 0.0995 else f"{share:+.1%}"


def _stage(name: str) -> str:
    """Returns the stage of a layer: ``blocks.3.qkv`` is part of ``qkv``."""
    return name.rpartition(".")[2]
