"""The closed form of the hardware model: throughput, latency and resources of a network, **modelled**."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from .._native import estimate as native_estimate
from ..subnet import Subnet
from .board import Amounts
from .configuration import Hardware, Part
from .workload import Workload

__all__ = ["Estimate", "Host", "Layer", "VectorStage", "estimate"]


@dataclass(frozen=True)
class Layer:
    """One stage on the array: a linear layer or a part of attention."""

    name: str
    """Name; linear layers have the name of the subnet file."""
    tokens: int
    four_bit_rows: int
    eight_bit_rows: int
    columns: int
    macs: int
    """Multiply-accumulates."""
    row_tiles: int
    token_tiles: int
    passes: int
    """Accumulations into which the columns are divided, so that no field of a DSP slice overflows."""
    cycles: int
    """Sum of the five cycle counts that follow."""
    accumulate: int
    """Cycles in which the array multiplies."""
    drain_stall: int
    """Cycles in which the array waits for requantizing lanes."""
    weight_stall: int
    """Cycles in which the array waits for weights."""
    wait: int
    """Cycles in which the array waits for the result of another stage."""
    gap: int
    """Cycles between commands."""
    bytes: int
    """Weights and row parameters from memory."""
    share: float
    """Row-pair products over the array's peak."""
    intensity: float | None
    """Multiply-accumulates for each byte from memory; None where no byte is read."""
    bound: str
    """``compute``, ``memory``, ``drain`` or ``dependency``."""


@dataclass(frozen=True)
class VectorStage:
    """One stage of the vector unit."""

    name: str
    cycles: int
    exposed: int
    """Cycles in which the array waits for the stage."""


@dataclass(frozen=True)
class Host:
    """Work of the board's processor for a frame."""

    seconds: float
    """Core seconds: the sum of the three that follow."""
    decode_s: float
    resize_s: float
    submit_s: float
    """Patches and submission."""
    fps: float
    """Frames a second of all cores together."""
    camera_s: float
    """Core seconds of a camera's frame (NV12), which needs no decoding: convert, resize, submit."""
    camera_fps: float
    """Frames a second of a camera, of all cores together."""
    gap_s: float
    """Seconds of a frame between the end of a segment's reading and the start of the next one."""
    segment_s: float
    """Seconds of one such gap."""
    source_pixels: int
    """Pixels of the encoded picture."""
    camera_pixels: int
    """Pixels of a camera's frame."""


@dataclass(frozen=True)
class Estimate:
    """Figures of one frame of a network on a configuration: **modelled**."""

    network: str
    board: str
    clock_mhz: float
    frames: int
    """Frames that take turns on the array: the configuration's `frames`."""
    layers: tuple[Layer, ...]
    """Stages on the array, in the order of a frame's path."""
    vector: tuple[VectorStage, ...]
    """Stages of the vector unit.

    GELU, residual and requantizing are part of the drain and take no cycles of their own."""
    period_cycles: int
    """Cycles between two frames."""
    array_cycles: int
    """Cycles of the array, stalls included."""
    vector_cycles: int
    transfer_cycles: int
    transfer_bytes: int
    transfers: int
    """Number of transfers of a frame."""
    latency_cycles: int
    """Cycles of one frame alone."""
    fps: float
    """Frames a second of the accelerator, host excluded."""
    latency_s: float
    """Seconds of one frame alone, from pixels in memory to logits in memory."""
    energy_j: float | None
    """Joules of a frame at the full rate, by the powers that the board's file assumes; None where it has none."""
    share: float
    """Row-pair products over the array's peak, stalls included."""
    macs: int
    gmac_s: float
    host: Host
    fps_with_host: float
    """Frames a second of the board: with the part of the gaps between segments that is not hidden, or those of the
    processor if they are fewer."""
    fps_with_camera: float
    """The same for a camera's frames instead of encoded pictures."""
    latency_with_host_s: float
    host_bound: bool
    """True where the processor is slower than the accelerator."""
    resources: Amounts
    parts: tuple[Part, ...]
    """Resources, part by part."""
    board_resources: Amounts
    """Resources of the board."""
    board_usable: Amounts
    """Resources of the board that a design may take."""
    resources_fit: bool
    """True where the configuration stays within `board_usable`."""

    def losses(self) -> dict[str, float]:
        """Returns the causes that keep the array from its peak, as shares of the time between two frames.

        The share in use is ``products``; all shares add up to 1.

        >>> hardware = Hardware.for_board("zcu102", Workload.deit("deit-tiny"))
        >>> losses = estimate(Workload.deit("deit-tiny"), hardware).losses()
        >>> max(losses, key=losses.get), round(sum(losses.values()), 6)
        ('products', 1.0)
        """

        def total(cause: str) -> float:
            return float(sum(getattr(layer, cause) for layer in self.layers)) / self.period_cycles

        shares = {
            "products": self.share,
            "ragged tiles": total("accumulate") - self.share,
            "waiting for lanes": total("drain_stall"),
            "waiting for weights": total("weight_stall"),
            "waiting for a result": total("wait"),
            "between commands": total("gap"),
        }
        return {**shares, "vector unit and transfers": 1 - sum(shares.values())}

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as a dictionary for JSON, with ``kind`` ``modelled``."""
        return {"kind": "modelled", **asdict(self)}


def estimate(network: Subnet | Workload, hardware: Hardware) -> Estimate:
    """Models one frame of a network on a configuration.

    Raises:
        quasar_rt.DoesNotFitError: the network exceeds a buffer; the message names it and the excess.
    """
    document = json.loads(native_estimate(Workload.of(network)._inner, hardware._inner))
    resources = document.pop("resources")
    return Estimate(
        **{
            **document,
            "layers": tuple(Layer(**layer) for layer in document["layers"]),
            "vector": tuple(VectorStage(**stage) for stage in document["vector"]),
            "host": Host(**document["host"]),
            "board_resources": Amounts(**document["board_resources"]),
            "board_usable": Amounts(**document["board_usable"]),
        },
        resources=Amounts(**resources["total"]),
        parts=tuple(Part(**part) for part in resources["parts"]),
    )
