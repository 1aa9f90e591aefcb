"""Steps with random networks of which all but a part is silenced."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from math import ceil, isqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._native import pack_rows
from ..accelerator import Program
from ..build import random_subnet
from ..errors import DeviceFaultError, DeviceTimeoutError, DoesNotFitError
from ..images import Pixels
from ..subnet import Subnet
from ..testing import HEADS, random_case, random_image, scramble
from .board import Board, Failed, Skipped

#: Tiers of a step's networks, of which each is larger than the one before.
TIERS = 4
#: Networks of each tier of a step, and further ones whose logits come from two tokens with a head each.
NETWORKS = 8
PAIR_NETWORKS = 2
#: Shapes that the step `networks` tries: multiples of a size, and ragged ones.
MOST_TIMES = 8
MOST_RAGGED = 40
#: Tiles of tokens of the longest network of the step `limits`.
TILES = 17
#: Most columns and keys that the step `passes` tries, and the sizes of a head with which keys may fill their memory.
MOST_HIDDEN = 4096
MOST_TOKENS = 1024
FULL_HEADS = range(8, 129, 4)


def _heads(tensors: dict[str, Any]) -> list[str]:
    return [head for head in HEADS if f"{head}.weight" in tensors]


def _mix_widths(tensors: dict[str, Any], layer: str) -> None:
    """Makes each second row of a matrix of 8-bit rows a 4-bit one."""
    rows = len(tensors[f"{layer}.bits"])
    codes = tensors[f"{layer}.weight"].view(np.int8).reshape(rows, -1).copy()
    bits = np.full(rows, 8, np.uint8)
    bits[1::2] = 4
    codes[1::2] = np.maximum(codes[1::2] >> 4, -7)
    tensors[f"{layer}.weight"] = pack_rows(codes, bits)
    tensors[f"{layer}.bits"] = bits


def _silence(tensors: dict[str, Any], layer: str) -> None:
    """Makes a layer's outputs 0."""
    tensors[f"{layer}.mult"] = np.zeros_like(tensors[f"{layer}.mult"])


def _flatten(tensors: dict[str, Any], norm: str) -> None:
    """Makes a norm's outputs independent of its inputs: another constant for each channel."""
    gain = tensors[f"{norm}.gain"]
    tensors[f"{norm}.gain"] = np.zeros_like(gain)
    frac = int(tensors[f"{norm}.frac"][0])
    codes = np.random.default_rng(len(gain)).integers(-127, 128, len(gain))
    tensors[f"{norm}.bias"] = np.clip(codes << frac, -(2**15), 2**15 - 1).astype(np.int16)


def only_bias(tensors: dict[str, Any]) -> None:
    """Leaves the biases of the heads."""
    only_head(tensors)
    for head in _heads(tensors):
        tensors[f"{head}.weight"] = np.zeros_like(tensors[f"{head}.weight"])


def only_head(tensors: dict[str, Any]) -> None:
    """Leaves the heads, whose inputs are constants."""
    only_norm(tensors)
    _flatten(tensors, "norm")


def only_norm(tensors: dict[str, Any]) -> None:
    """Leaves the positions, the last norm and the heads."""
    only_embedding(tensors)
    _silence(tensors, "embed")


def _only_hard_norm(tensors: dict[str, Any]) -> None:
    """Takes extreme numbers for the norm, so that its sums, shifts and limits all occur."""
    only_norm(tensors)
    rng = np.random.default_rng(int(tensors["position"].astype(np.int64).sum()) & 0xFFFF)
    for name in ("norm.gain", "norm.bias"):
        tensors[name] = rng.integers(-(2**15), 2**15, len(tensors[name])).astype(np.int16)
    tensors["norm.frac"] = rng.integers(0, 9, 1).astype(np.uint8)


def only_embedding(tensors: dict[str, Any]) -> None:
    """Leaves the patch embedding, the last norm and the heads."""
    for layer in ("blocks.0.proj", "blocks.0.fc2"):
        _silence(tensors, layer)


def only_attention(multiplier: int | None) -> Callable[[dict[str, Any]], None]:
    """Silences the MLP; `multiplier` is that of the attention's logits, None leaves them."""

    def change(tensors: dict[str, Any]) -> None:
        _silence(tensors, "blocks.0.fc2")
        if multiplier is not None:
            name = "blocks.0.attn.mult"
            tensors[name] = np.full_like(tensors[name], multiplier)

    return change


def only_mlp(table: NDArray[np.int8] | None) -> Callable[[dict[str, Any]], None]:
    """Silences the attention; `table` is GELU's, None leaves it."""

    def change(tensors: dict[str, Any]) -> None:
        _silence(tensors, "blocks.0.proj")
        if table is not None:
            tensors["blocks.0.gelu"] = table

    return change


def everything(tensors: dict[str, Any]) -> None:
    """Silences nothing."""


def step_networks(
    board: Board,
    change: Callable[[dict[str, Any]], None],
    prefix_tokens: bool = True,
    embed_norm: Callable[[int], bool] = lambda number: False,
    rotary: bool = False,
) -> Iterator[tuple[str, int, Subnet]]:
    """Yields names, tiers and subnets of a step: random ones, each second with hard numbers, changed by `change`.

    Those for whose number `embed_norm` is true have a norm of the embedded patches in front of the blocks. `rotary`
    gives all of them rotary positions.

    Tier 0 has one head and at most as many tokens as the array has row pairs, so one pass for all keys. Tier 1 has
    as many as the array has tokens, so one tile of attention. Tier 2 has two heads, so both score buffers. Tier 3
    has more tokens.
    """
    array = board.accelerator.hardware.settings["array"]
    shape = board.shape
    if rotary:
        shape = shape | {"rotary": True, "head_dim": -(-shape["head_dim"] // 4) * 4}

    def tiers(prefix: int) -> tuple[dict[str, Any], ...]:
        one_pass = {"image_size": (4, 4 * max(1, min(array["pairs"], array["tokens"]) - prefix))}
        one_tile = {"image_size": 4 * max(1, isqrt(max(0, array["tokens"] - prefix)))}
        return {"heads": 1} | one_pass, {"heads": 1} | one_tile, one_tile, {}

    # Without attention a class token sees no patch, so most networks have means.
    pools: tuple[tuple[str, int], ...]
    pools = (("mean", 0), ("mean", 1), ("mean_after_norm", 0), ("token", 1))
    if not prefix_tokens:
        pools = tuple(pool for pool in pools if pool[1] == 0)
    for tier in range(TIERS):
        kinds = [pools[seed % len(pools)] for seed in range(NETWORKS)]
        kinds += [("token_pair", 2)] * (PAIR_NETWORKS if prefix_tokens else 0)
        for place, (pool, prefix) in enumerate(kinds):
            number = tier * NETWORKS + place
            if place >= NETWORKS:
                number = TIERS * NETWORKS + tier * PAIR_NETWORKS + place - NETWORKS
            subnet = random_subnet(
                **(shape | tiers(max(1, prefix))[tier]),
                pool=pool,
                prefix_tokens=prefix,
                eight_bit_fraction=0.5,
                seed=number,
                embed_norm=embed_norm(number),
            )
            if place % 2:
                subnet = scramble(subnet, number)
            tensors = dict(subnet.tensors())
            for layer in ("embed", *_heads(tensors)):
                _mix_widths(tensors, layer)
            change(tensors)
            yield f"network {number}", tier, Subnet.from_parts(subnet.config, tensors)


def flat_images(subnet: Subnet) -> list[Pixels]:
    """Returns two images without detail, uint8, height by width by channels."""
    image = subnet.config["image"]
    shape = (image["height"], image["width"], image["channels"])
    return [np.full(shape, value, np.uint8) for value in (0, 173)]


def images(subnet: Subnet) -> list[Pixels]:
    """Returns two random images, uint8, height by width by channels."""
    return [random_image(subnet, seed) for seed in (1, 2)]


def compare(
    change: Callable[[dict[str, Any]], None],
    images: Callable[[Subnet], list[Pixels]],
    likelier: tuple[tuple[str, ...], ...] = ((), (), (), ()),
    prefix_tokens: bool = True,
    hard: tuple[str, ...] = (),
    embed_norm: bool = False,
    rotary: bool = False,
) -> Callable[[Board], str]:
    """Returns a step's function. The first arguments are those of `Board.networks`.

    `likelier` are the kernels to suspect first if a tier is the first one to fail; `hard`, if tier 0 fails with hard
    numbers only: then the addresses are right, and arithmetic is not. `rotary` is skipped without a memory of angles.
    """

    def run(board: Board) -> str:
        if rotary and not board.accelerator.hardware.settings["buffers"].get("angle"):
            raise Skipped("the configuration has no rotary positions (buffers.angle = 0)")
        count = 0
        pools: set[str] = set()
        for name, tier, subnet in step_networks(board, change, prefix_tokens, lambda _: embed_norm, rotary):
            pool = subnet.config["pool"]
            try:
                board.compare(name, subnet, images(subnet))
            except Failed as failed:
                first = hard if tier == 0 and count > 0 else likelier[tier]
                if pool == "mean_after_norm" and tier == 0 and "mean" in pools - {pool}:
                    first = ("norm",)  # It alone makes this mean.
                if pool == "token_pair" and tier == 0:
                    first = ("drain", "norm")  # New are a second prefix token and the mean of two tokens.
                failed.likelier = (*failed.likelier, *first)
                raise
            count += 1
            pools.add(pool)
        return f"{count} networks have the CPU's bits"

    return run


def limits(board: Board) -> str:
    """Runs the step's networks, then some of so few columns that the norm adds up the same ones again at once.

    The last one has many tiles of tokens.
    """
    found = compare(_only_hard_norm, flat_images)(board)
    for embed in (1, 2, 3):
        narrow = random_subnet(**(board.shape | {"embed": embed, "pool": "mean_after_norm"}), seed=embed)
        tensors = dict(narrow.tensors())
        _only_hard_norm(tensors)
        subnet = Subnet.from_parts(narrow.config, tensors)
        board.compare(f"network of {embed} columns", subnet, flat_images(subnet))
    tokens = TILES * board.accelerator.hardware.settings["array"]["tokens"]
    long = random_subnet(**(board.shape | {"image_size": (4, 4 * tokens)}), pool="mean", prefix_tokens=0)
    if board.fits(long):
        tensors = dict(long.tensors())
        only_norm(tensors)
        subnet = Subnet.from_parts(long.config, tensors)
        try:
            board.compare(f"network of {TILES} tiles", subnet, flat_images(subnet))
        except DeviceTimeoutError as error:
            # The same commands have run on fewer tiles.
            raise Failed(f"network of {TILES} tiles: {error}") from error
    return found


def _passes(subnet: Subnet, board: Board) -> dict[str, int]:
    """Returns the most passes of a product of weights, and of a context, that a subnet's commands have."""
    program = Program.compile(subnet, board.accelerator.hardware)
    text = "".join(program.disassemble(segment) for segment in program.segments)
    most = {}
    for kind, length in (("Gemm", "columns"), ("Context", "keys")):
        found = re.findall(rf"{kind} .*\b{length}=(\d+) .*\bpass=(\d+)", text)
        most[kind] = max(ceil(int(all_of) / int(one)) for all_of, one in found)
    return most


def _smallest(fits: Callable[[int], bool], most: int) -> int | None:
    """Returns the smallest number up to `most` for which `fits`, as for all larger ones, or None."""
    if not fits(most):
        return None
    least = 1
    while least < most:
        middle = (least + most) // 2
        least, most = (least, middle) if fits(middle) else (middle + 1, most)
    return least


def long_networks(board: Board) -> str:
    """Runs networks of the fewest columns, and of the fewest keys, that take two passes of the array.

    Then one of as many keys as the memory holds: what is written behind the last one is then written elsewhere.
    """
    tokens = board.accelerator.hardware.settings["array"]["tokens"]
    lanes = board.accelerator.hardware.settings["lanes"]["requantize"]
    small = board.shape | {"heads": 1, "image_size": (4, 4), "eight_bit_fraction": 1.0}

    def wide(hidden: int) -> Subnet:
        return random_subnet(**(small | {"hidden": hidden}), seed=hidden)

    def long(patches: int, head_dim: int = 4) -> Subnet:
        size = {"image_size": (4, 4 * patches), "head_dim": head_dim, "embed": 8, "hidden": 4}
        return random_subnet(**(small | size), pool="mean", prefix_tokens=0, seed=patches)

    def largest(make: Callable[[int], Subnet], most: int) -> int:
        return (_smallest(lambda number: not board.fits(make(number)), most) or most + 1) - 1

    def run(name: str, subnet: Subnet, change: Callable[[dict[str, Any]], None], *suspects: str) -> None:
        tensors = dict(subnet.tensors())
        change(tensors)
        subnet = Subnet.from_parts(subnet.config, tensors)
        try:
            board.compare(name, subnet, images(subnet))
        except Failed as failed:
            failed.likelier = (*failed.likelier, *suspects)
            raise
        except DeviceFaultError as error:
            raise Failed(f"{name}: {error}", likelier=suspects) from error

    def several(kind: str, make: Callable[[int], Subnet], most: int) -> int | None:
        return _smallest(lambda number: _passes(make(number), board)[kind] > 1, largest(make, most))

    ran = []
    columns = several("Gemm", wide, MOST_HIDDEN)
    if columns is not None:
        run(f"network of {columns} columns", wide(columns), only_mlp(None), "array", "plan")
        ran.append(f"{columns} columns")
    keys = several("Context", long, MOST_TOKENS)
    if keys is not None:
        run(f"network of {keys} keys", long(keys), only_attention(1), "plan", "array")
        ran.append(f"{keys} keys")
    for head_dim in FULL_HEADS:
        of_heads = partial(long, head_dim=head_dim)
        number = largest(of_heads, MOST_TOKENS)
        # The last group of lanes has fewer tokens, and more keys would exceed the memory of keys.
        if (number % tokens or tokens) % lanes and "the key buffer" in _lacks(of_heads(number + 1), board):
            name = f"{number} keys of {head_dim}"
            run(f"network of {name}", of_heads(number), only_attention(1 << 24), "drain")
            ran.append(name)
            break
    return f"networks of {', '.join(ran)} have the CPU's bits" if ran else "no such network fits the buffers"


def _lacks(subnet: Subnet, board: Board) -> str:
    """Returns why the configuration cannot hold a subnet."""
    try:
        Program.compile(subnet, board.accelerator.hardware)
    except DoesNotFitError as error:
        return str(error)
    return ""


def odd_networks(board: Board) -> str:
    """Runs whole networks with hard numbers: wide and long ones, and others of ragged shapes.

    Some have a norm of the embedded patches. Of the ragged ones some have an embedding next to the logits, and some
    pool by attention.
    """
    count = 0
    for name, _, whole in step_networks(board, everything, embed_norm=lambda number: number % 3 == 2):
        board.compare(name, whole, images(whole))
        count += 1
    for key in ("hidden", "image_size"):
        # More columns, and more keys, than one pass of the array takes.
        subnet: Subnet | None = None
        for factor in range(2, 1 + MOST_TIMES):
            larger = random_subnet(**(board.shape | {key: factor * board.shape[key]}), seed=factor)
            if not board.fits(larger):
                break
            subnet = larger
        if subnet is not None:
            board.compare(f"network of a large {key}", scramble(subnet, 1), images(subnet))
            count += 1
    ragged = 0
    for seed in range(MOST_RAGGED):
        odd, _ = random_case(seed, attention=seed % 4 == 2)
        if board.fits(odd):
            board.compare(f"ragged network {seed}", odd, images(odd))
            ragged += 1
    return f"{count + ragged} networks have the CPU's bits"
