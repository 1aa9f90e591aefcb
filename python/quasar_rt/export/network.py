"""The steps from a float network to its quantized parts, for every kind of network that is exported."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from .calibration import balance, find_ranges, gather_statistics, largest_channels
from .float_vit import ViT
from .layerwise import Fractions, LayerReport, Method, Quantized, quantize_layers
from .team import Team

__all__ = ["quantize_network"]


def quantize_network(
    net: ViT,
    batches: list[Tensor],
    *,
    std: list[float],
    fractions: Fractions,
    method: Method = "gptq",
    equalize: bool = True,
    percentile: float | None = None,
    on_layer: Callable[[LayerReport], object] = lambda _: None,
    on_stage: Callable[[str], object] = lambda _: None,
) -> Quantized:
    """Balances channels, chooses ranges and quantizes all matrices. The same batches give the same bits.

    Args:
        net: the float network, whose balanced channels are changed in place.
        batches: normalised calibration images [images, channels, height, width]; a few batches are in memory at once.
        std: of pixel/255 by channel.
        fractions: as `quantize_layers` takes them.
        method: as `quantize_layers` takes it.
        equalize: False leaves the channels as they are.
        percentile: as `find_ranges` takes it.
        on_layer: gets a report after each matrix.
        on_stage: gets the name of each stage before the matrices after it.
    """
    with Team() as team:
        if equalize:
            balance(net, largest_channels(net, batches, team))
        on_stage("channels")
        statistics = gather_statistics(net, batches, team)
        on_stage("gradients")
        ranges = find_ranges(net, batches, statistics, percentile, team)
        on_stage("ranges")
        return quantize_layers(
            net,
            batches,
            ranges,
            statistics.gradients,
            std=std,
            fractions=fractions,
            method=method,
            team=team,
            on_layer=on_layer,
        )
