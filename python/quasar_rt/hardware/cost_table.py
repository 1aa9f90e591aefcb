"""Cost tables: the hardware model for a search, which asks for millions of networks of one space."""

from __future__ import annotations

import json

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._native import CostTable as NativeCostTable
from ..errors import InvalidValueError
from ..space import Space
from .closed_form import Host
from .configuration import Hardware

__all__ = ["CostTable"]


def checked_genomes(genomes: ArrayLike, space: Space) -> NDArray[np.uint8]:
    """Returns genomes as a C-contiguous array.

    Raises:
        quasar_rt.InvalidValueError: a wrong shape or type.
    """
    array = np.asarray(genomes)
    genes = len(space.genes)
    if array.ndim != 2 or array.shape[1] != genes or array.dtype != np.uint8:
        raise InvalidValueError(
            f"genomes must be uint8 of shape (n, {genes}), not {array.dtype} of shape {array.shape}"
        )
    return np.ascontiguousarray(array)


class CostTable:
    """Computes frames a second and latency of a space's networks from tables, equal to `estimate`.

    Args:
        space: the space.
        hardware: the configuration.

    Raises:
        quasar_rt.DoesNotFitError: the configuration needs more than its board has.

    >>> space = Space.load("digits")
    >>> table = CostTable(space, Hardware.for_board("pynq-z2", space))
    >>> table.evaluate([space.largest, space.smallest])["fits"]
    array([ True,  True])
    """

    #: The record that `evaluate` returns for each genome.
    DTYPE = np.dtype(
        [("fps", np.float64), ("latency_s", np.float64), ("energy_j", np.float64), ("fits", np.bool_)]
    )

    def __init__(self, space: Space, hardware: Hardware) -> None:
        self.space = space
        self.hardware = hardware
        self._inner = NativeCostTable(space._inner, hardware._inner)

    def evaluate(self, genomes: ArrayLike) -> NDArray[np.void]:
        """Returns the costs of genomes, uint8 [n, genes]. The GIL is released.

        Returns:
            [n] records: ``fps`` and ``latency_s`` float64 (accelerator alone), ``energy_j`` float64 (of a frame; NaN
            where the board's file has no powers), ``fits`` bool (true if the buffers hold the network).

        Raises:
            quasar_rt.InvalidValueError: a wrong shape or type, or an index that its gene lacks.
        """
        fps, latency, energy, fits = self._inner.evaluate(checked_genomes(genomes, self.space))
        costs = np.empty(len(fps), self.DTYPE)
        costs["fps"], costs["latency_s"], costs["energy_j"], costs["fits"] = fps, latency, energy, fits
        return costs

    def fastest(self) -> tuple[NDArray[np.uint8], float]:
        """Returns the genome of most frames a second that fits, and its frames a second; exact.

        Raises:
            quasar_rt.InvalidValueError: none fits.
        """
        genome, fps, _ = self._inner.fastest()
        return genome, fps

    def slowest(self) -> tuple[NDArray[np.uint8], float]:
        """Returns the genome of fewest frames a second that fits, and its frames a second; exact.

        Raises like `fastest`.
        """
        genome, fps, _ = self._inner.slowest()
        return genome, fps

    def lowest_rate(self, objective: str = "fps") -> float:
        """Returns the lowest rate of a network that fits; exact.

        Args:
            objective: ``fps``, ``latency`` (frames a second, one after the other) or ``energy`` (frames a joule).

        Raises:
            quasar_rt.InvalidValueError: none fits, there is no such objective, or the board's file has no ``[power]``.

        >>> space = Space.load("digits")
        >>> table = CostTable(space, Hardware.for_board("pynq-z2", space))
        >>> slow = float(table.evaluate([space.largest])["latency_s"][0])
        >>> 1 / table.lowest_rate("latency") >= slow * (1 - 1e-12)
        True
        """
        rate = self._inner.lowest_rate(objective)
        if rate is None:
            raise InvalidValueError(f"no network of {self.space!r} fits the buffers of {self.hardware!r}")
        return rate

    @property
    def host(self) -> Host:
        """Work of the board's processor for a frame, the same for all networks of the space."""
        return Host(**json.loads(self._inner.host()))

    @property
    def standing_w(self) -> float | None:
        """Watts without frames, by the powers that the board's file assumes; None where it has none."""
        return self._inner.standing_w

    def __repr__(self) -> str:
        return f"<CostTable of {self.space!r} on {self.hardware!r}>"
