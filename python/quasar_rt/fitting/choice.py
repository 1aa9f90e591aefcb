"""The row widths of most worth at a frame rate: an exact knapsack by the cost tables, judged by events."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .._native import WidthChoices as NativeWidthChoices
from ..errors import InvalidValueError
from ..export.float_vit import ViT
from ..export.widths import counts_of_share, products_of, widths_of
from ..hardware import Hardware, Rates, RatesOf, Workload, rates

__all__ = ["CLOSE", "Choice", "Choices", "unreachable"]

#: Replays for one frame rate, at most: each corrects the closed form's cycles by those of the events.
REPLAYS = 6
#: Replays of a share of the rows, at most.
HALVINGS = 8
#: A choice this close to its frame rate is not searched further.
CLOSE = 0.002


@dataclass(frozen=True)
class Choice:
    """The widths of all rows of a network's blocks, and the frame rate that they give."""

    widths: dict[str, NDArray[np.uint8]]
    """4 or 8 for each row, by the matrix's name."""
    worth: float
    """The fall of the loss against 4 bits in all rows, estimated."""
    rates: Rates
    """By events: **modelled**."""


class Choices:
    """All choices of row widths of one network on one configuration.

    Args:
        net: the network.
        worth: of 8 bits for each row, by the matrix's name (`quasar_rt.export.network.measure_worth`).
        workload: the network's sizes.
        all_eight: its sizes if all rows have 8 bits; a projection of the embedding may be added then.
        hardware: the configuration.
        reading: which frame rate counts.

    Raises:
        quasar_rt.DoesNotFitError: the network exceeds a buffer.
    """

    def __init__(
        self,
        net: ViT,
        worth: Mapping[str, NDArray[np.float64]],
        workload: Workload,
        all_eight: Workload,
        hardware: Hardware,
        reading: RatesOf,
    ) -> None:
        blocks = products_of(net, worth)
        self._products = [product for block in blocks for product in block]
        self._workload, self._all_eight = workload, all_eight
        self._hardware, self._reading = hardware, reading
        gains = [[product.gains().tolist() for product in block] for block in blocks]
        self._inner = NativeWidthChoices(workload._inner, hardware._inner, gains)
        # Cycles by events over those of the closed form, as the last replay had them.
        self._ratio = 1.0

    def all_of(self, width: int) -> Choice:
        """Returns the choice of one width for all rows."""
        eight_bit = [len(product.rows) if width == 8 else 0 for product in self._products]
        return self._judged(eight_bit, sum(p.worth.sum() for p in self._products) if width == 8 else 0.0)

    def meeting(self, fps: float) -> Choice:
        """Returns the choice of most worth that reaches a frame rate by events.

        Raises:
            quasar_rt.InvalidValueError: no choice reaches the rate; the message has the fastest one.
        """
        slowest = self.all_of(8)
        if slowest.rates.of(self._reading) >= fps:
            return slowest
        fewest, most = self._inner.range()
        wanted = self._hardware.clock_mhz * 1e6 / fps
        best: Choice | None = None
        # The most cycles of a choice that reached the rate, and the fewest of one that missed it.
        low, high = float(fewest), float(most)
        budget = wanted / self._ratio
        for _ in range(REPLAYS):
            found, cycles = self._within(min(max(budget, fewest), most))
            reached = found.rates.of(self._reading)
            if reached >= fps and (best is None or found.worth > best.worth):
                best = found
            low, high = (max(low, budget), high) if reached >= fps else (low, min(high, budget))
            if fps <= reached <= fps * (1 + CLOSE) or (reached < fps and budget <= fewest):
                break
            self._ratio = self._hardware.clock_mhz * 1e6 / reached / cycles
            # Aim inside the margin: whole tiles rarely meet a rate from above to the last cycle.
            following = wanted / self._ratio * (1 - CLOSE / 4)
            if best is not None and reached >= fps and following <= budget:
                break
            budget = following
        # With few tiles the ratio jumps from choice to choice; halving finds what it steps over.
        while (
            best is not None and best.rates.of(self._reading) > fps * (1 + CLOSE) and high - low > low * CLOSE
        ):
            middle = (low + high) / 2
            found, _ = self._within(middle)
            if found.rates.of(self._reading) >= fps:
                low = middle
                best = found if found.worth > best.worth else best
            else:
                high = middle
        if best is None:
            fastest = self.all_of(4)
            if fastest.rates.of(self._reading) < fps:
                raise unreachable(fps, fastest.rates, self._reading, self._hardware)
            best = fastest
        return self._refined(best, fps)

    def _refined(self, best: Choice, fps: float) -> Choice:
        """Returns a choice of more worth where the rate is passed: of a share of the rows, by events alone.

        In a network of few tiles, many choices have the same cycles by the closed form, and not by events.
        """
        low, high = 0.0, 1.0
        for _ in range(HALVINGS):
            if best.rates.of(self._reading) <= fps * (1 + CLOSE):
                break
            share = (low + high) / 2
            eight_bit = counts_of_share(self._products, share)
            worth = sum(p.worth[:rows].sum() for p, rows in zip(self._products, eight_bit, strict=True))
            found = self._judged(eight_bit, worth)
            if found.rates.of(self._reading) < fps:
                high = share
            else:
                low = share
                best = found if found.worth > best.worth else best
        return best

    def _within(self, budget: float) -> tuple[Choice, int]:
        """Returns the choice of most worth within a number of cycles, and its cycles by the closed form."""
        chosen, worth, cycles, _exact = self._inner.within(int(budget))
        return self._judged([rows for block in chosen for rows in block], worth), cycles

    def _judged(self, eight_bit: list[int], worth: float) -> Choice:
        workload = self._all_eight
        if any(rows < len(product.rows) for rows, product in zip(eight_bit, self._products, strict=True)):
            count = len(self._products) // len(self._workload.settings["blocks"])
            rows = [eight_bit[i : i + count] for i in range(0, len(eight_bit), count)]
            workload = Workload._wrap(self._workload._inner.with_eight_bit_rows(rows))
        return Choice(widths_of(self._products, eight_bit), float(worth), rates(workload, self._hardware))


def unreachable(fps: float, fastest: Rates, reading: RatesOf, hardware: Hardware) -> InvalidValueError:
    """Returns the error of a frame rate that not even 4-bit rows reach."""
    board, most = hardware.board.name, fastest.of(reading)
    bound = ""
    if reading == "board" and fastest.processor_bound:
        bound = " (its processor decodes and submits no more)"
    return InvalidValueError(
        f"{fps:,.10g} frames a second are beyond {board}: with 4 bits in all rows of its blocks the network has "
        f"{math.floor(100 * most) / 100:,.10g}{bound}. Take a lower rate, a smaller network or image size, or a larger "
        "board"
    )
