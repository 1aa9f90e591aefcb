"""Several configurations of a board: each network of a space runs on the one that suits it best."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._native import Designs as NativeDesigns
from ..errors import InvalidValueError
from ..space import Space
from .cost_table import CostTable, checked_genomes

__all__ = ["Designs"]


class Designs:
    """Computes the costs of a space's networks, each on the configuration on which it is fastest.

    A search over several configurations explores networks and configurations together.

    Args:
        tables: of one space, a configuration each.
        scales: the rate event by event over the closed form's, about, for each configuration; 1 where None.
        max_latency_ms: milliseconds that one frame alone may take; None for any.
        max_energy_mj: millijoules that a frame may take; None for any.

    Raises:
        quasar_rt.InvalidValueError: no tables, tables of several spaces, another number of scales, a limit that is not
            a positive number, or a limit of the energy on a board whose file has no ``[power]``.

    >>> from quasar_rt.hardware import Hardware
    >>> space = Space.load("digits")
    >>> each = [Hardware.for_board(board, space) for board in ("ultra96v2", "pynq-z2")]
    >>> designs = Designs([CostTable(space, hardware) for hardware in each])
    >>> designs.evaluate([space.largest])["design"]
    array([0], dtype=uint32)
    """

    #: The record that `evaluate` returns for each genome.
    DTYPE = np.dtype(
        [
            ("fps", np.float64),
            ("fps_with_host", np.float64),
            ("latency_s", np.float64),
            ("energy_j", np.float64),
            ("fits", np.bool_),
            ("design", np.uint32),
        ]
    )

    def __init__(
        self,
        tables: Sequence[CostTable],
        scales: Sequence[float] | None = None,
        *,
        max_latency_ms: float | None = None,
        max_energy_mj: float | None = None,
    ) -> None:
        self.tables = tuple(tables)
        if not self.tables:
            raise InvalidValueError("at least one hardware configuration is needed")
        self.scales = (1.0,) * len(self.tables) if scales is None else tuple(map(float, scales))
        #: True if there are limits of latency or energy.
        self.limited = max_latency_ms is not None or max_energy_mj is not None
        limits = [None if limit is None else float(limit) / 1000 for limit in (max_latency_ms, max_energy_mj)]
        self._inner = NativeDesigns([table._inner for table in self.tables], list(self.scales), *limits)

    @classmethod
    def of(cls, costs: CostTable | Designs) -> Designs:
        """Returns a table as one configuration; takes configurations as they are."""
        return costs if isinstance(costs, Designs) else cls([costs])

    @property
    def space(self) -> Space:
        """The space of the networks."""
        return self.tables[0].space

    def evaluate(self, genomes: ArrayLike, design: int | None = None) -> NDArray[np.void]:
        """Returns the costs of genomes, uint8 [n, genes], on one configuration or each on its best.

        The GIL is released.

        Returns:
            [n] records: ``fps`` (float64, the closed form's times the scale), ``fps_with_host`` (the same of the board,
            with its processor), ``latency_s`` of one frame alone, ``energy_j`` of a frame (NaN where the board's file
            has no powers), ``fits`` (true if the buffers hold the network within the limits) and the number of the
            configuration, ``design``.

        Raises:
            quasar_rt.InvalidValueError: a wrong shape or type, an index that its gene lacks, or no such configuration.
        """
        fps, with_host, latency, energy, violation, number = self._inner.evaluate(
            checked_genomes(genomes, self.space), design
        )
        costs = np.empty(len(fps), self.DTYPE)
        costs["fps"], costs["fps_with_host"] = fps, with_host
        costs["latency_s"], costs["energy_j"] = latency, energy
        costs["fits"], costs["design"] = violation == 0, number
        return costs

    def fastest(self) -> tuple[NDArray[np.uint8], float]:
        """Returns the genome of most frames a second within the limits, of those that are fastest on a configuration.

        Raises:
            quasar_rt.InfeasibleError: none of them is within the limits; the message names what the fastest one has.
            quasar_rt.InvalidValueError: no network fits.
        """
        genome, fps, _ = self._inner.fastest()
        return genome, fps

    def __len__(self) -> int:
        return len(self.tables)

    def __repr__(self) -> str:
        return f"<Designs of {self.space!r}: {len(self)} configurations>"
