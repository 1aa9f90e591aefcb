"""Hard subnets for testing devices: every table scrambled over its whole valid range, and random shapes.

A trained network exercises the middle of each range only. `scramble` keeps a subnet's shape and samples the numbers
anew, so that saturation, dead rows, extreme shifts and zero points all occur. The module serves developers of kernels,
of the accelerator and of new devices.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .build import ACCUMULATOR_LIMIT, random_subnet
from .oracle import unpack_rows
from .subnet import Subnet

#: The heads' names, that of token 0 first (docs: Head).
HEADS = ("head", "head_dist")


def scramble(subnet: Subnet, seed: int) -> Subnet:
    """Samples biases, mantissas, shifts, LayerNorms, tables and attention factors anew; shape and weights stay.

    The result is deterministic in `seed`. It is a valid subnet; its outputs mean nothing.
    """
    rng = np.random.default_rng(seed)
    config, tensors = subnet.config, dict(subnet.tensors())
    columns = _columns(config)

    def mantissas(count: int) -> NDArray[np.int16]:
        sampled = rng.integers(2**14, 2**15, count)
        sampled[rng.random(count) < 0.1] = rng.choice([2**14, 2**15 - 1])
        return sampled.astype(np.int16)

    for name in sorted(tensors):
        value = tensors[name]
        layer, _, part = name.rpartition(".")
        if part == "bits":
            scrambled = _scrambled_linear(rng, tensors, layer, columns[layer], mantissas)
            if layer in HEADS:
                embedding = slice(len(config["classes"]), None)  # its rows stay
                for changed, values in scrambled.items():
                    values[embedding] = tensors[changed][embedding]
            tensors |= scrambled
        elif part == "gain":
            size = len(value)
            tensors[name] = rng.integers(-(2**15), 2**15, size).astype(np.int16)
            tensors[f"{layer}.bias"] = rng.integers(-(2**15), 2**15, size).astype(np.int16)
            if rng.random() < 0.7:
                tensors[f"{layer}.bias"] //= 16
            tensors[f"{layer}.frac"] = rng.integers(0, 9, 1).astype(np.uint8)
            tensors[f"{layer}.epsilon"] = np.array([int(2.0 ** rng.uniform(0, 49))], np.int64)
        elif part == "gelu":
            tensors[name] = rng.integers(-128, 128, 256).astype(np.int8)
        elif name.endswith("attn.mult"):
            tensors[name] = np.floor(2.0 ** rng.uniform(0, 24, len(value))).astype(np.int32)
        elif part == "out_mult":
            tensors[name] = mantissas(len(value))
        elif part == "out_shift":
            tensors[name] = rng.integers(11, 30, len(value)).astype(np.uint8)
            tensors[name][rng.random(len(value)) < 0.7] = 13
        elif layer == "rotary":
            tensors[name] = rng.integers(-(2**14), 2**14 + 1, value.shape).astype(np.int16)
        elif name in ("position", "prefix"):
            sampled = rng.integers(-32767, 32768, value.shape)
            sampled[rng.random(value.shape) < 0.05] = 32767
            tensors[name] = sampled.astype(np.int16)
    for block in config["blocks"]:
        block["fc1_zero_point"] = int(rng.integers(-128, 128))
    return Subnet.from_parts(config, tensors)


def _columns(config: dict[str, Any]) -> dict[str, int]:
    columns = {"embed": config["image"]["channels"] * config["patch"]["kernel"] ** 2}
    columns |= dict.fromkeys([*HEADS, "embed_proj"], config["embed"])
    for i, block in enumerate(config["blocks"]):
        columns |= {
            f"blocks.{i}.qkv": config["embed"],
            f"blocks.{i}.proj": block["heads"] * block["head_dim"],
            f"blocks.{i}.fc1": config["embed"],
            f"blocks.{i}.fc2": block["hidden"],
        }
    return columns


def _scrambled_linear(
    rng: np.random.Generator, tensors: dict[str, NDArray[Any]], layer: str, columns: int, mantissas: Any
) -> dict[str, NDArray[Any]]:
    weight = unpack_rows(tensors[f"{layer}.weight"], tensors[f"{layer}.bits"], columns)
    rows = len(weight)
    room = ACCUMULATOR_LIMIT - 1 - 128 * np.abs(weight).sum(axis=1)
    share = rng.choice([1.0, 1e-2, 1e-4, 0.0], rows)
    bias = (room * share * rng.uniform(-1, 1, rows)).astype(np.int32)
    out = {f"{layer}.bias": bias, f"{layer}.mult": mantissas(rows)}
    if layer in HEADS:
        out[f"{layer}.mult"] = rng.integers(0, 2**15, rows).astype(np.int16)
        return out
    out[f"{layer}.mult"][rng.random(rows) < 0.05] = 0
    # Most shifts are near the one that spreads a typical accumulator over the output's codes; a few are anywhere.
    typical = 64 * np.sqrt((weight**2).sum(axis=1)) + np.abs(bias) + 1
    wanted = 4 + np.log2(typical) - (14 if layer.endswith(("proj", "fc2", "embed")) else 13)
    shift = np.round(wanted + rng.normal(0, 1.5, rows))
    anywhere = rng.random(rows) < 0.05
    shift[anywhere] = rng.integers(1, 31, int(anywhere.sum()))
    out[f"{layer}.shift"] = np.clip(shift, 1, 30).astype(np.uint8)
    return out


def random_shape(seed: int) -> dict[str, Any]:
    """Returns arguments of `quasar_rt.random_subnet` for a small network of odd, ragged shape."""
    rng = np.random.default_rng(seed)
    depth = int(rng.integers(1, 4))
    kernel = int(rng.integers(1, 9))
    prefix_tokens = int(rng.integers(0, 4))
    pools = ["mean", "mean_after_norm"] + (["token"] * 2 if prefix_tokens else [])
    pools += ["token_pair"] if prefix_tokens > 1 else []
    shape = {
        "embed": int(rng.integers(1, 100)),
        "depth": depth,
        "heads": [int(h) for h in rng.integers(1, 5, depth)],
        "head_dim": int(rng.integers(1, 40)),
        "hidden": [int(h) for h in rng.integers(1, 150, depth)],
        "image_size": (int(rng.integers(kernel, 40)), int(rng.integers(kernel, 40))),
        "channels": int(rng.choice([1, 3])),
        "kernel": kernel,
        "stride": int(rng.integers(max(2, kernel - 2), kernel + 3)),
        "pad": int(rng.integers(0, kernel)),
        "prefix_tokens": prefix_tokens,
        "pool": str(rng.choice(pools)),
        "classes": int(rng.integers(1, 70)) * (seed % 9 != 8),
        "eight_bit_fraction": float(rng.choice([0, 0.25, 0.5, 1])),
        "seed": seed,
        "embedding": seed % 3 == 2,
        "embed_norm": seed % 4 == 1,
    }
    return {**shape, "patch_tokens": seed % 5 == 3 and shape["pool"] in ("token", "mean_after_norm")}


def random_case(
    seed: int, *, scrambled: bool = True, rotary: bool = False, attention: bool = False
) -> tuple[Subnet, NDArray[np.uint8]]:
    """Returns a subnet of odd shape and an image for it, uint8 [height, width, channels].

    `rotary` gives it rotary positions and up to 8 prefix tokens, `attention` the pooling by attention.
    """
    shape = random_shape(seed)
    if attention:
        shape |= {"pool": "attention", "patch_tokens": False}
    if rotary:
        needed = {"token": 1, "token_pair": 2}.get(shape["pool"], 0)
        shape |= {
            "rotary": True,
            "head_dim": -(-shape["head_dim"] // 4) * 4,
            "prefix_tokens": max(seed % 9, needed),
        }
    subnet = random_subnet(**shape)
    if scrambled:
        subnet = scramble(subnet, seed)
    return subnet, random_image(subnet, seed)


def random_image(subnet: Subnet, seed: int) -> NDArray[np.uint8]:
    """Returns noise, a flat extreme or a gradient of the network's size, uint8 [height, width, channels]."""
    rng = np.random.default_rng(seed)
    image = subnet.config["image"]
    shape = (image["height"], image["width"], image["channels"])
    kind = seed % 4
    if kind == 0:
        return np.full(shape, rng.choice([0, 255]), np.uint8)
    if kind == 1:
        ramp = np.linspace(0, 255, shape[0] * shape[1]).reshape(shape[0], shape[1], 1)
        return np.broadcast_to(ramp, shape).astype(np.uint8)
    return rng.integers(0, 256, shape, dtype=np.uint8)
