"""Workloads: the sizes and row widths of a network, which are all that the hardware model needs of it."""

from __future__ import annotations

import json
from typing import Any

from .._native import Workload as NativeWorkload
from ..errors import InvalidValueError
from ..settings import NativeObject
from ..space import Architecture, Space
from ..subnet import Subnet

__all__ = ["DEIT_HEADS", "Workload"]

#: Attention heads of DeiT's shapes: heads of 64, MLP ratio 4, 12 blocks, 224x224, 1000 classes.
DEIT_HEADS = {"deit-tiny": 3, "deit-small": 6, "deit-base": 12}


class Workload(NativeObject[NativeWorkload]):
    """Holds a network's sizes and row widths; immutable."""

    _made_by = "Workload.of_subnet, Workload.of_architecture or Workload.deit"

    @classmethod
    def of(cls, network: Subnet | Workload) -> Workload:
        """Returns the workload of a subnet, or the given workload itself."""
        return cls.of_subnet(network) if isinstance(network, Subnet) else network

    @classmethod
    def of_subnet(cls, subnet: Subnet) -> Workload:
        """Returns a subnet's own sizes and row widths."""
        return cls._wrap(NativeWorkload.of_subnet(subnet._inner))

    @classmethod
    def of_architecture(cls, space: Space, architecture: Architecture, name: str | None = None) -> Workload:
        """Returns the workload of a network with the image and classes of a space.

        The network's sizes need not be among the space's choices. The default name is the space's.

        Raises:
            quasar_rt.InvalidValueError: a size is beyond the integer model's limits, or a fraction outside [0, 1].
        """
        blocks = [(b.heads, b.head_dim, b.hidden, b.eight_bit) for b in architecture.blocks]
        return cls._wrap(
            NativeWorkload.of_architecture(name or space.name, space._inner, architecture.embed, blocks)
        )

    @classmethod
    def deit(cls, name: str, eight_bit: float = 0.0) -> Workload:
        """Returns a network of DeiT's shape, at 224x224, 1000 classes.

        Args:
            name: ``deit-tiny``, ``deit-small`` or ``deit-base``.
            eight_bit: the fraction of 8-bit rows of each matrix; patch embedding and head are all 8-bit.

        Raises:
            quasar_rt.InvalidValueError: another name, or a fraction outside [0, 1].

        >>> Workload.deit("deit-tiny").macs
        1166602752
        """
        if name not in DEIT_HEADS:
            raise InvalidValueError(f"{name!r} is none of DeiT's shapes: {', '.join(DEIT_HEADS)}")
        if not 0 <= eight_bit <= 1:
            raise InvalidValueError(f"eight_bit is {eight_bit}; it must be within [0, 1]")
        heads = DEIT_HEADS[name]
        block = (heads, 64, 256 * heads, (eight_bit,) * 6)
        space = Space.load("tiny")
        return cls._wrap(NativeWorkload.of_architecture(name, space._inner, 64 * heads, [block] * 12))

    @property
    def settings(self) -> dict[str, Any]:
        """Sizes and row widths, as nested dictionaries."""
        settings: dict[str, Any] = json.loads(self._inner.to_json())
        return settings

    @property
    def name(self) -> str:
        """The network's name."""
        return str(self.settings["name"])

    @property
    def macs(self) -> int:
        """Multiply-accumulates that the logits depend on."""
        return self._inner.macs()

    def __repr__(self) -> str:
        return f"<Workload {self.name!r}: {self.macs / 1e9:.3g} GMAC>"
