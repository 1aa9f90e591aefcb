"""The steps from a float network to its quantized parts, for every kind of network that is exported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..quantization import LayerReport, Method
from .calibration import Ranges, Statistics, balance, find_ranges, gather_statistics, largest_channels
from .float_vit import ViT
from .inputs import varied
from .layerwise import Quantized, Widths, Worth, quantize_layers
from .team import Team

__all__ = ["Calibrated", "calibrate", "measure_worth"]

#: The share of a channel's excess that `balance` moves into the weights: 8-bit rows bear more of it.
ALPHA_EIGHT, ALPHA_MIXED = 0.75, 0.5


@dataclass(frozen=True)
class Calibrated:
    """A float network and what its calibration images say about it."""

    net: ViT
    """With balanced channels."""
    batches: list[Tensor]
    """Normalised calibration images [images, channels, height, width]."""
    std: list[float]
    """Of pixel/255 by channel."""
    ranges: Ranges
    statistics: Statistics
    """Of the float network; for the gradients of the loss at the matrices' outputs."""
    rotated: str
    """A record of what was rotated before."""
    tried: Mapping[str, float] = field(default_factory=dict)
    """The errors on held-out images by which that was chosen; empty if nothing was tried."""

    def quantize(
        self,
        widths: Widths,
        method: Method = "gptq",
        on_layer: Callable[[LayerReport], object] = lambda _: None,
        vary: bool = True,
    ) -> Quantized:
        """Quantizes all matrices, as `quantize_layers` does. The same widths give the same bits.

        Features of all kinds of pictures are more than the calibration images show. So a network without classes is
        quantized on `varied` images, too, unless `vary` is False.
        """
        varies = vary and method == "gptq" and not len(self.net.head.weight)
        with Team() as team:
            return quantize_layers(
                self.net,
                [*self.batches, *varied(self.batches)] if varies else self.batches,
                self.ranges,
                self.statistics,
                std=self.std,
                widths=widths,
                method=method,
                team=team,
                on_layer=on_layer,
            )


def calibrate(
    net: ViT,
    batches: list[Tensor],
    *,
    std: list[float],
    all_eight: bool = False,
    equalize: bool = True,
    percentile: float | None = None,
    rotated: str = "nothing",
    on_stage: Callable[[str], object] = lambda _: None,
) -> Calibrated:
    """Balances channels and chooses ranges. The same batches give the same bits.

    Args:
        net: the float network, whose balanced channels are changed in place.
        batches: normalised calibration images [images, channels, height, width]; a few batches are in memory at once.
        std: of pixel/255 by channel.
        all_eight: True if all rows will have 8 bits.
        equalize: False leaves the channels as they are.
        percentile: as `find_ranges` takes it.
        rotated: a record of what was rotated before.
        on_stage: gets the name of each stage.
    """
    with Team() as team:
        if equalize:
            balance(net, largest_channels(net, batches, team), ALPHA_EIGHT if all_eight else ALPHA_MIXED)
        on_stage("channels")
        statistics = gather_statistics(net, batches, team)
        on_stage("gradients")
        ranges = find_ranges(net, batches, statistics, percentile, team)
        on_stage("ranges")
    return Calibrated(net, batches, std, ranges, statistics, rotated)


def measure_worth(
    calibrated: Calibrated,
    method: Method = "gptq",
    on_layer: Callable[[LayerReport], object] = lambda _: None,
) -> dict[str, NDArray[np.float64]]:
    """Measures what 8 bits are worth for each row of the blocks, in a network whose rows all have 8 bits.

    Returns:
        the fall of the loss from 4 to 8 bits, float64 [rows], by the matrix's name: to second order, from the error of
        the row's outputs and the gradients there.
    """
    found: dict[str, NDArray[np.float64]] = {}

    def widths(name: str, rows: int, worth: Worth) -> NDArray[np.uint8]:
        found[name] = worth()
        return np.full(rows, 8, np.uint8)

    calibrated.quantize(widths, method, on_layer, vary=False)
    return found
