"""Measured times of a frame's stages. Depends on the native module only."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple

from ._native import Engine as NativeEngine
from .frame import Frame
from .images import Pixels
from .subnet import Subnet

__all__ = ["Profile", "Stage"]


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


def _stage(name: str) -> str:
    """Returns the stage of a layer: ``blocks.3.qkv`` is part of ``qkv``."""
    return name.rpartition(".")[2]
