"""Speed of a subnet on this machine: latency, throughput, stages next to the roofline, units next to the model."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from typing import NamedTuple

import numpy as np

from ._native import peak_macs_per_second
from .build import random_subnet
from .engine import Engine
from .images import Pixels
from .profile import AcceleratorProfile, Profile
from .subnet import Subnet

__all__ = ["RANDOM_SHAPES", "Speed", "StageSpeed", "measure", "open_subnet"]

RANDOM_SHAPES = {
    "deit-tiny": {"embed": 192, "depth": 12, "heads": 3},
    "deit-small": {"embed": 384, "depth": 12, "heads": 6},
    "deit-base": {"embed": 768, "depth": 12, "heads": 12},
}
"""Shapes by name (Touvron et al. 2021, table 1), made with random weights: 224x224 RGB, patches of 16, 1000 classes."""


class StageSpeed(NamedTuple):
    """Time of one stage of a frame, with the least time that this machine could need for it."""

    name: str
    """Name as in `Profile`; the blocks are added up."""
    ms: float
    """Milliseconds a frame, the median."""
    macs: int
    """Multiply-accumulates a frame."""
    bytes: int
    """Bytes of weights, read once, and of activations, each read or written once."""
    roof_ms: float
    """The roofline's time: the longer of the multiply-accumulates at the threads' peak and the bytes at their caches'
    bandwidth."""

    @property
    def roof_share(self) -> float:
        """The roofline's time as a share of the stage's time."""
        return self.roof_ms / self.ms if self.ms else 0.0


class Speed(NamedTuple):
    """Figures measured on this machine."""

    tier: str
    threads: int
    frames: int
    """Number of single frames behind the latencies."""
    median_ms: float
    """Latency of one frame, pixels to logits."""
    p90_ms: float
    """90th percentile of the latency."""
    batch_images_per_second: float
    """Throughput of `Engine.infer_batch`."""
    gmacs_per_second: float
    """Billions of multiply-accumulates (`Summary.macs`) a second at the median latency."""
    peak_share: float | None
    """`gmacs_per_second` as a share of the threads' peak (int8 dot products in registers); None for an accelerator."""
    weight_bytes: int | None
    """Memory of all weights (`Engine.weight_bytes`); None for an accelerator."""
    weight_traffic: list[int] | None
    """Bytes of weights that each core reads a frame (`Engine.weight_traffic`); None for an accelerator."""
    stages: list[StageSpeed]
    """Stages on the CPU; empty for an accelerator."""
    units: AcceleratorProfile | None
    """What the units of an accelerator with counters do; None for the CPU and without counters."""


def open_subnet(name: str | os.PathLike[str]) -> Subnet:
    """Opens a subnet by its path or packaged name, or makes a random one of a shape of `RANDOM_SHAPES`."""
    if name in RANDOM_SHAPES:
        embed, depth, heads = (RANDOM_SHAPES[str(name)][key] for key in ("embed", "depth", "heads"))
        return random_subnet(embed=embed, depth=depth, heads=heads, name=str(name))
    return Subnet.load(name)


def measure(engine: Engine, seconds: float = 2.0, seed: int = 0) -> Speed:
    """Measures an engine on random pictures of the subnet's size: half the time singly, half in batches.

    Args:
        engine: the engine to measure.
        seconds: the time for both halves; the CPU's peak takes another fifth of a second.
        seed: the seed of the pictures.
    """
    image = engine.subnet.config["image"]
    shape = (image["height"], image["width"], image["channels"])
    picture = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    engine.infer(picture)  # touches the memory

    latencies: list[float] = []
    end = time.perf_counter() + seconds / 2
    while not latencies or time.perf_counter() < end:
        timings = engine.infer(picture).timings
        latencies.append(timings.preprocess_ms + timings.compute_ms)
    median = float(np.median(latencies))

    size = max(2 * engine.threads, int(100 / median))
    images = 0
    start = time.perf_counter()
    while not images or time.perf_counter() - start < seconds / 2:
        images += len([prediction.label for prediction in engine.infer_batch([picture] * size)])
    rate = images / (time.perf_counter() - start)
    gmacs = engine.subnet.summary().macs / median / 1e6
    peak_share: float | None = None
    stages: list[StageSpeed] = []
    units: AcceleratorProfile | None = None
    if engine.tier is not None:
        peak = engine.threads * peak_macs_per_second(engine.tier, 0.2)
        peak_share = 1e9 * gmacs / peak
        stages = _stages(engine, picture, max(3, int(100 * seconds / median)), peak)
    elif engine.has_counters:
        profile = engine.profile(picture, repeat=max(1, min(10, int(250 * seconds / median))))
        assert isinstance(profile, AcceleratorProfile)
        units = profile
    return Speed(
        tier=engine.tier or engine.device,
        threads=engine.threads,
        frames=len(latencies),
        median_ms=median,
        p90_ms=float(np.quantile(latencies, 0.9)),
        batch_images_per_second=rate,
        gmacs_per_second=gmacs,
        peak_share=peak_share,
        weight_bytes=engine.weight_bytes,
        weight_traffic=engine.weight_traffic,
        stages=stages,
        units=units,
    )


def _stages(engine: Engine, picture: Pixels, repeat: int, peak: float) -> list[StageSpeed]:
    profile = engine.profile(picture, repeat=repeat)
    assert isinstance(profile, Profile)
    moved = _bytes_by_stage(engine.subnet, engine.weight_bytes)
    bandwidth = engine.threads * _cache_bandwidth()
    return [
        StageSpeed(
            stage.name,
            stage.ms,
            stage.macs,
            moved.get(stage.name, 0),
            1e3 * max(stage.macs / peak, moved.get(stage.name, 0) / bandwidth),
        )
        for stage in profile.stages
        if stage.name != "decode"  # there is nothing to decode
    ]


def _cache_bandwidth() -> float:
    """Measures the bytes a second that one core reads and writes as it copies 128 KiB in its second-level cache."""
    source = np.zeros(1 << 17, np.uint8)
    target = np.ones_like(source)
    best = float("inf")
    for _ in range(500):
        start = time.perf_counter()
        np.copyto(target, source)
        best = min(best, time.perf_counter() - start)
    return 2 * source.size / best


def _bytes_by_stage(subnet: Subnet, weight_bytes: int | None) -> dict[str, int]:
    config, layers = subnet.config, subnet.summary().layers
    weights = sum(layer.rows * layer.columns for layer in layers)
    # All layers are assumed to be packed alike.
    each = 1.0 if weight_bytes is None else weight_bytes / weights
    image, embed = config["image"], config["embed"]
    moved: dict[str, int] = defaultdict(int)
    moved["preprocess"] = 2 * image["height"] * image["width"] * image["channels"]
    for layer in layers:
        stage = layer.name.rpartition(".")[2]
        tokens = layer.macs // (layer.rows * layer.columns)
        # The residual stream has 16 bits and is read and written, other outputs have 8.
        output = 4 if stage in ("embed", "proj", "fc2") else 1
        moved[stage] += round(each * layer.rows * layer.columns) + tokens * (
            layer.columns + output * layer.rows
        )
        if stage == "qkv":
            moved["attention"] += tokens * (layer.rows + layer.rows // 3)
            moved["norm1"] += 3 * tokens * embed
        elif stage == "fc1":
            moved["norm2"] += 3 * tokens * embed
    return moved
