"""What this machine offers to run a subnet on. Depends on the native module only."""

from __future__ import annotations

from dataclasses import dataclass

from . import _native
from .errors import DeviceError

__all__ = ["Device", "Tier", "devices", "resolve_device"]


@dataclass(frozen=True)
class Tier:
    """An instruction set that the CPU's kernels are written for."""

    name: str
    """What ``Engine(tier=...)`` and ``QUASAR_TIER`` take."""
    supported: bool
    """Whether this CPU has it."""


@dataclass(frozen=True)
class Device:
    """Something that an engine can run on."""

    name: str
    """What ``Engine(device=...)`` takes."""
    threads: int
    """How many threads an engine uses unless told otherwise."""
    tiers: tuple[Tier, ...]
    """From the plainest to the fastest."""

    @property
    def best_tier(self) -> str:
        """The tier that an engine uses unless told otherwise."""
        return [tier.name for tier in self.tiers if tier.supported][-1]


def devices() -> list[Device]:
    """The devices of this machine, the one that ``"auto"`` stands for first.

    >>> [device.name for device in devices()]
    ['cpu']
    """
    tiers = tuple(Tier(name, supported) for name, supported in _native.tiers())
    return [Device("cpu", _native.default_threads(), tiers)]


def resolve_device(name: str) -> str:
    """The device that `name` stands for.

    Raises:
        DeviceError: this machine has no such device.
    """
    names = [device.name for device in devices()]
    if name == "auto":
        return names[0]
    if name not in names:
        raise DeviceError(f"there is no device '{name}'; this machine has: {', '.join(names)} (or 'auto')")
    return name
