"""Brings up an accelerator seen for the first time: from its identity to frames, one step after another.

Each step needs the ones before it and adds as little as it can, so that the first step that fails points at what is
broken. The steps below frames (`Trials` of the native module) need no subnet. The networks are random ones of which all
but a part is silenced: the compiler's commands stay the same, and only the part that a step is for can change the
logits. Every network also runs on the CPU, and the logits must be the same bits.

Depends on the native module, `device`, `build`, `testing`, `profile` and `hardware`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from math import ceil, isqrt
from statistics import median
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ._native import Engine as NativeEngine
from ._native import FrameHandle, Trials, pack_rows
from .accelerator import Program
from .build import random_subnet
from .device import Accelerator, find_accelerator
from .errors import (
    CorruptOutputError,
    DeviceError,
    DeviceFaultError,
    DeviceTimeoutError,
    DeviceUnavailableError,
    DoesNotFitError,
    InvalidValueError,
)
from .hardware import replay
from .images import Pixels
from .profile import COUNT_BOUND, FRAME_BOUND, AcceleratorProfile, UnitCounts
from .subnet import Subnet
from .testing import HEADS, random_image, random_shape, scramble

__all__ = ["STEPS", "Outcome", "Step", "bringup"]

#: Seconds that a wait may take, and that a small network's segment may.
TRIAL_SECONDS = 2.0
SEGMENT_SECONDS = 20.0
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
#: Share by which a frame may be slower than the event model before the step `speed` remarks on it.
SLOWER = 1.2
#: Frames whose counts are compared with the event model's.
COUNTED_FRAMES = 3
#: Kernels to suspect if frames fail that are right one by one: they keep apart what belongs to two frames.
IN_FLIGHT = ("load", "norm", "plan")

#: Places to look at when a kernel is suspected: its streams and memories in the block design.
KERNEL_PLACES = {
    "fetch": "kernel fetch: its AXI port to memory, the five streams of commands, s_axi_control, the interrupt",
    "load": "kernel load: memory0 to memory3 (one for each AXI port, in order), streams weights, rows, gains "
    "and checks, memory input",
    "store": "kernel store: its AXI port, streams logits and checks, the interrupt",
    "plan": "kernel plan: streams array_commands, passes, demands, score_commands and the units' credits",
    "array": "the array (fpga/rtl): streams passes, demands, weights and sums, memories input, normed, query, key, "
    "value, hidden and probability; the clock's ratio",
    "scores": "kernel scores: streams score_commands, scores and maxima, memory score",
    "drain": "kernel drain, which plans: streams drain_commands and rows; the lanes (fpga/rtl/lanes.sv): streams "
    "lane_jobs, lane_rows, attention_tiles, lane_beats, sums, scales, moments and logits, memories residual, query, "
    "key, value, hidden",
    "norm": "kernel norm: streams norm_commands, gains and moments, memories norm_residual and normed",
    "softmax": "kernel softmax: streams softmax_commands, maxima and scales, memories score and probability",
}


@dataclass(frozen=True)
class Outcome:
    """The outcome of a step."""

    step: str
    status: Literal["pass", "fail", "skipped"]
    detail: str
    """Figures, the problem, or the reason why the step was skipped."""
    suspects: tuple[str, ...] = ()
    """Kernels that a failure points at, the likeliest first; empty for a fault around them."""
    places: tuple[str, ...] = ()
    """Registers, files and documents that help to find the fault."""
    seconds: float = 0.0
    """Duration."""


class _Failed(Exception):
    """A step's failure."""

    def __init__(
        self,
        problem: str,
        suspects: Iterable[str] = (),
        places: Iterable[str] = (),
        likelier: tuple[str, ...] = (),
    ) -> None:
        super().__init__(problem)
        self.suspects = tuple(suspects)
        self.places = tuple(places)
        self.likelier = likelier
        """Kernels to suspect before those of the step."""


class _Skipped(Exception):
    """The reason why a step has no result."""


@dataclass(frozen=True)
class Step:
    """A step of the way up."""

    name: str
    about: str
    needs: tuple[str, ...]
    """Steps without which this one makes no sense."""
    run: Callable[[_Board], str] = field(repr=False)
    """Returns the detail, or raises `_Failed`, `_Skipped` or a `DeviceError`."""
    suspects: tuple[str, ...] = ()
    places: tuple[str, ...] = ()


class _Board:
    """The device under trial, with what the steps share."""

    def __init__(self, accelerator: Accelerator, subnet: Subnet | None, frames: int, timeout: float | None):
        self.accelerator = accelerator
        self.subnet = subnet
        self.frames = frames
        self.timeout = timeout
        self.interrupts: tuple[int, int] | None = None
        self.hangs = False
        self._trials: Trials | None = None

    @property
    def trials(self) -> Trials:
        if self._trials is None:
            self._trials = self.accelerator.trials(TRIAL_SECONDS if self.timeout is None else self.timeout)
        return self._trials

    def engine(self, subnet: Subnet, timeout: float | None) -> NativeEngine:
        if not self.close():
            raise DeviceUnavailableError(
                f"{self.accelerator.name}: a call of the transport in an earlier step has not returned; restart the "
                "device"
            )
        return self.accelerator.engine(subnet, timeout)

    def close(self) -> bool:
        """Closes the trials: one process has the device once. Returns false if a call of their transport hangs."""
        if self._trials is not None:
            self.hangs = not self._trials.close()
            self._trials = None
        return not self.hangs

    def fits(self, subnet: Subnet) -> bool:
        try:
            Program.compile(subnet, self.accelerator.hardware)
        except DoesNotFitError:
            return False
        return True

    @cached_property
    def shape(self) -> dict[str, Any]:
        """The shape of the steps' networks: several tiles of tokens and of rows, where the buffers hold them."""
        array = self.accelerator.hardware.settings["array"]
        tokens, pairs = array["tokens"], array["pairs"]
        for tiles in (2, 1, 0):
            side = isqrt(tiles * tokens) + 1
            head_dim = max(4, ceil(tiles * pairs / 2))
            shape = {
                "embed": 2 * head_dim + 1,
                "depth": 1,
                "heads": 2,
                "head_dim": head_dim,
                "hidden": 4 * head_dim + 3,
                "image_size": 4 * side,
                "channels": 3,
                "kernel": 4,
                "classes": 11,
            }
            if self.fits(random_subnet(**shape)):
                return shape
        raise DoesNotFitError("the smallest network of bring-up does not fit the configuration's buffers")

    def networks(
        self,
        change: Callable[[dict[str, Any]], None],
        prefix_tokens: bool = True,
        embed_norm: Callable[[int], bool] = lambda number: False,
    ) -> Iterator[tuple[str, int, Subnet]]:
        """Yields names, tiers and subnets of a step: random ones, each second with hard numbers, changed by `change`.

        Those for whose number `embed_norm` is true have a norm of the embedded patches in front of the blocks.

        Tier 0 has one head and at most as many tokens as the array has row pairs, so one pass for all keys. Tier 1 has
        as many as the array has tokens, so one tile of attention. Tier 2 has two heads, so both score buffers. Tier 3
        has more tokens.
        """
        array = self.accelerator.hardware.settings["array"]

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
                    **(self.shape | tiers(max(1, prefix))[tier]),
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

    def compare(self, name: str, subnet: Subnet, images: list[Pixels]) -> None:
        """Compares the logits with the CPU's: frame by frame, then with several frames in flight."""
        reference = NativeEngine(subnet._inner, 1, None, None)
        expected = [reference.infer(image).outputs() for image in images]
        engine = self.engine(subnet, SEGMENT_SECONDS if self.timeout is None else self.timeout)
        for place, image in enumerate(images):
            _same(f"{name}, image {place}", engine.infer(image).outputs(), expected[place])
        order = [place % len(images) for place in range(2 * len(images) + 1)]
        pending = [(place, engine.begin(images[place])) for place in order]
        for number, (place, frame) in enumerate(pending):
            logits = frame.wait().outputs()
            _same(f"{name}, frame {number} of several in flight", logits, expected[place], IN_FLIGHT)


def _same(
    name: str, found: NDArray[np.int32], expected: NDArray[np.int32], likelier: tuple[str, ...] = ()
) -> None:
    wrong = np.flatnonzero(found != expected)
    if len(wrong):
        first = int(wrong[0])
        raise _Failed(
            f"{name}: {len(wrong)} of {len(expected)} logits differ from the CPU's; "
            f"class {first} has {found[first]} instead of {expected[first]}",
            likelier=likelier,
        )


# Steps below frames.


def _clocks(board: _Board) -> str:
    if not board.trials.clocks():
        raise _Skipped("this way to the device shows no clocks")
    if board.accelerator.name.startswith("sim:"):
        return "locked (simulated)"
    return "kernels and array have clocks of the right ratio to the fabric's, whose own rate is not measured"


def _identity(board: _Board) -> str:
    for what, found, expected in board.trials.identity():
        if found != expected:
            zero = found == 0 or found == 0xFFFF_FFFF
            raise _Failed(
                f"the {what} is {found:#x} instead of {expected:#x}",
                ["fetch"] if what == "magic number" and not zero else [],
                ["the address map, the clock: what answers is not the accelerator"]
                if what == "magic number"
                else ["the bitstream: it is of another build than its description (QUASAR_BITSTREAM)"],
            )
    return f"{board.accelerator.name}, configuration of the {board.accelerator.hardware.board.name}"


def _registers(board: _Board) -> str:
    _refuse_differences(board.trials.registers())
    return "every address, count and seed keeps what is written, and a reset clears it"


def _memory(board: _Board) -> str:
    _refuse_differences(board.trials.memory())
    return "every buffer keeps what is written"


def _refuse_differences(differences: list[tuple[str, int, int]]) -> None:
    if differences:
        place, written, read = differences[0]
        several = f" ({len(differences)} differences or more)" if len(differences) > 1 else ""
        raise _Failed(f"{place}: {read:#010x} instead of {written:#010x}{several}")


def _transfers(board: _Board) -> str:
    runs, interrupts, problems = board.trials.transfers()
    board.interrupts = runs, interrupts
    if problems:
        kernels = list(dict.fromkeys(kernel for kernel, _ in problems))
        rest = [kernel for kernel in ("load", "store", "fetch") if kernel not in kernels]
        several = f" ({len(problems)} problems or more)" if len(problems) > 1 else ""
        raise _Failed(f"{problems[0][1]}{several}", kernels + rest)
    return f"{runs} transfers are whole; wrong commands are refused"


def _interrupt(board: _Board) -> str:
    if board.accelerator.polled:
        raise _Skipped("this way to the device polls")
    if board.interrupts is None:
        runs, came, _ = board.trials.transfers()
    else:
        runs, came = board.interrupts
    for kernel, of, number in (("store", runs, came), ("fetch", *board.trials.fetch_interrupts())):
        if number < of:
            raise _Failed(f"{number} of {of} interrupts of {kernel} came")
    return f"all came: {runs} of store, {of} of fetch"


# Networks of which all but a part is silenced.


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


def _only_bias(tensors: dict[str, Any]) -> None:
    _only_head(tensors)
    for head in _heads(tensors):
        tensors[f"{head}.weight"] = np.zeros_like(tensors[f"{head}.weight"])


def _only_head(tensors: dict[str, Any]) -> None:
    _only_norm(tensors)
    _flatten(tensors, "norm")


def _only_norm(tensors: dict[str, Any]) -> None:
    _only_embedding(tensors)
    _silence(tensors, "embed")


def _only_hard_norm(tensors: dict[str, Any]) -> None:
    """Takes extreme numbers for the norm, so that its sums, shifts and limits all occur."""
    _only_norm(tensors)
    rng = np.random.default_rng(int(tensors["position"].astype(np.int64).sum()) & 0xFFFF)
    for name in ("norm.gain", "norm.bias"):
        tensors[name] = rng.integers(-(2**15), 2**15, len(tensors[name])).astype(np.int16)
    tensors["norm.frac"] = rng.integers(0, 9, 1).astype(np.uint8)


def _only_embedding(tensors: dict[str, Any]) -> None:
    for layer in ("blocks.0.proj", "blocks.0.fc2"):
        _silence(tensors, layer)


def _only_attention(multiplier: int | None) -> Callable[[dict[str, Any]], None]:
    """Silences the MLP; `multiplier` is that of the attention's logits, None leaves them."""

    def change(tensors: dict[str, Any]) -> None:
        _silence(tensors, "blocks.0.fc2")
        if multiplier is not None:
            name = "blocks.0.attn.mult"
            tensors[name] = np.full_like(tensors[name], multiplier)

    return change


def _only_mlp(table: NDArray[np.int8] | None) -> Callable[[dict[str, Any]], None]:
    """Silences the attention; `table` is GELU's, None leaves it."""

    def change(tensors: dict[str, Any]) -> None:
        _silence(tensors, "blocks.0.proj")
        if table is not None:
            tensors["blocks.0.gelu"] = table

    return change


def _everything(tensors: dict[str, Any]) -> None:
    """Silences nothing."""


def _flat_images(subnet: Subnet) -> list[Pixels]:
    image = subnet.config["image"]
    shape = (image["height"], image["width"], image["channels"])
    return [np.full(shape, value, np.uint8) for value in (0, 173)]


def _images(subnet: Subnet) -> list[Pixels]:
    return [random_image(subnet, seed) for seed in (1, 2)]


def _compare(
    change: Callable[[dict[str, Any]], None],
    images: Callable[[Subnet], list[Pixels]],
    likelier: tuple[tuple[str, ...], ...] = ((), (), (), ()),
    prefix_tokens: bool = True,
    hard: tuple[str, ...] = (),
    embed_norm: bool = False,
) -> Callable[[_Board], str]:
    """Returns a step's function. The first arguments are those of `_Board.networks`.

    `likelier` are the kernels to suspect first if a tier is the first one to fail; `hard`, if tier 0 fails with hard
    numbers only: then the addresses are right, and arithmetic is not.
    """

    def run(board: _Board) -> str:
        count = 0
        pools: set[str] = set()
        for name, tier, subnet in board.networks(change, prefix_tokens, lambda _: embed_norm):
            pool = subnet.config["pool"]
            try:
                board.compare(name, subnet, images(subnet))
            except _Failed as failed:
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


def _limits(board: _Board) -> str:
    """Runs the step's networks, then some of so few columns that the norm adds up the same ones again at once.

    The last one has many tiles of tokens.
    """
    found = _compare(_only_hard_norm, _flat_images)(board)
    for embed in (1, 2, 3):
        narrow = random_subnet(**(board.shape | {"embed": embed, "pool": "mean_after_norm"}), seed=embed)
        tensors = dict(narrow.tensors())
        _only_hard_norm(tensors)
        subnet = Subnet.from_parts(narrow.config, tensors)
        board.compare(f"network of {embed} columns", subnet, _flat_images(subnet))
    tokens = TILES * board.accelerator.hardware.settings["array"]["tokens"]
    long = random_subnet(**(board.shape | {"image_size": (4, 4 * tokens)}), pool="mean", prefix_tokens=0)
    if board.fits(long):
        tensors = dict(long.tensors())
        _only_norm(tensors)
        subnet = Subnet.from_parts(long.config, tensors)
        try:
            board.compare(f"network of {TILES} tiles", subnet, _flat_images(subnet))
        except DeviceTimeoutError as error:
            # The same commands have run on fewer tiles.
            raise _Failed(f"network of {TILES} tiles: {error}") from error
    return found


def _passes(subnet: Subnet, board: _Board) -> dict[str, int]:
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


def _long_networks(board: _Board) -> str:
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
            board.compare(name, subnet, _images(subnet))
        except _Failed as failed:
            failed.likelier = (*failed.likelier, *suspects)
            raise
        except DeviceFaultError as error:
            raise _Failed(f"{name}: {error}", likelier=suspects) from error

    def several(kind: str, make: Callable[[int], Subnet], most: int) -> int | None:
        return _smallest(lambda number: _passes(make(number), board)[kind] > 1, largest(make, most))

    ran = []
    columns = several("Gemm", wide, MOST_HIDDEN)
    if columns is not None:
        run(f"network of {columns} columns", wide(columns), _only_mlp(None), "array", "plan")
        ran.append(f"{columns} columns")
    keys = several("Context", long, MOST_TOKENS)
    if keys is not None:
        run(f"network of {keys} keys", long(keys), _only_attention(1), "plan", "array")
        ran.append(f"{keys} keys")
    for head_dim in FULL_HEADS:
        of_heads = partial(long, head_dim=head_dim)
        number = largest(of_heads, MOST_TOKENS)
        # The last group of lanes has fewer tokens, and more keys would exceed the memory of keys.
        if (number % tokens or tokens) % lanes and "the key buffer" in _lacks(of_heads(number + 1), board):
            name = f"{number} keys of {head_dim}"
            run(f"network of {name}", of_heads(number), _only_attention(1 << 24), "drain")
            ran.append(name)
            break
    return f"networks of {', '.join(ran)} have the CPU's bits" if ran else "no such network fits the buffers"


def _lacks(subnet: Subnet, board: _Board) -> str:
    """Returns why the configuration cannot hold a subnet."""
    try:
        Program.compile(subnet, board.accelerator.hardware)
    except DoesNotFitError as error:
        return str(error)
    return ""


def _odd_networks(board: _Board) -> str:
    """Runs whole networks with hard numbers: wide and long ones, and others of ragged shapes.

    Some have a norm of the embedded patches, and some of the ragged ones an embedding next to the logits.
    """
    count = 0
    for name, _, whole in board.networks(_everything, embed_norm=lambda number: number % 3 == 2):
        board.compare(name, whole, _images(whole))
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
            board.compare(f"network of a large {key}", scramble(subnet, 1), _images(subnet))
            count += 1
    ragged = 0
    for seed in range(MOST_RAGGED):
        odd = scramble(random_subnet(**random_shape(seed)), seed)
        if board.fits(odd):
            board.compare(f"ragged network {seed}", odd, _images(odd))
            ragged += 1
    return f"{count + ragged} networks have the CPU's bits"


# The user's network.


def _user_subnet(board: _Board) -> Subnet:
    if board.subnet is None:
        raise _Skipped("no subnet was given")
    if not board.fits(board.subnet):
        raise _Skipped(f"'{board.subnet.name}' does not fit the configuration's buffers")
    return board.subnet


def _one_frame(board: _Board) -> str:
    subnet = _user_subnet(board)
    image = random_image(subnet, 2)
    expected = NativeEngine(subnet._inner, None, None, None).infer(image).outputs()
    _same(
        f"'{subnet.name}'",
        board.engine(subnet, board.timeout).infer(image).outputs(),
        expected,
    )
    return f"'{subnet.name}': {len(expected)} logits have the CPU's bits"


#: Places to look at when a unit's count differs from the event model's.
COUNT_PLACES = {
    "commands": "the unit's stream `retired` to the block `counters`; if it is right, commands are lost or doubled",
    "busy": "the unit's loops: initiation intervals and latencies of its HLS report, next to "
    "rust/hardware/src/declared.rs (tools/bitstream.py prints both)",
    "blocked": "the unit's output queues: their depths in the block design, and the units that read them",
    "starved": "the unit that gives the input; for fetch and load the memory: the ports' width, other masters",
}


def _counters(board: _Board) -> str:
    subnet = _user_subnet(board)
    engine = board.engine(subnet, board.timeout)
    if not engine.has_counters:
        raise _Skipped("the configuration has no counters (counters = false)")
    simulated = board.accelerator.name.startswith("sim:")
    profile = AcceleratorProfile.measure(engine, random_image(subnet, 2), COUNTED_FRAMES, simulated)
    differences = profile.differences()
    within = f"within {COUNT_BOUND:.0%} of the event model's, or {FRAME_BOUND:.0%} of a frame's cycles"
    if not differences:
        return f"{COUNTED_FRAMES} frames: all counts are the event model's ({profile.kind})"
    unit, count, counted, modelled, marked = differences[0]
    largest = f"{unit} has {counted:,.0f} {_WORDS[count]} a frame; the event model has {modelled:,.0f}"
    if not marked:
        return f"{COUNTED_FRAMES} frames: all counts are {within} ({profile.kind}); most of all, {largest}"
    others = len({difference.unit for difference in differences if difference.marked} - {unit})
    several = f" ({others} more unit{'s' if others > 1 else ''} beyond it)" if others else ""
    # Units that wait for a slower one are busy longer, too, but starved or blocked meanwhile.
    slower = max(
        (_working(u.counted) - _working(u.modelled), u.name)
        for u in profile.units
        if u.counted.starved is not None
    )
    suspects = [unit]
    if count != "commands" and slower[0] > FRAME_BOUND * profile.modelled_cycles:
        suspects = list(dict.fromkeys([slower[1], unit]))
        largest += f"; {slower[1]} works {slower[0]:,.0f} cycles more, neither blocked nor starved"
    raise _Failed(f"{largest}; counts should be {within}{several}", suspects, [COUNT_PLACES[count]])


def _working(counts: UnitCounts) -> float:
    return counts.busy - counts.blocked - (counts.starved or 0)


_WORDS = {
    "commands": "commands",
    "busy": "busy cycles",
    "blocked": "cycles blocked by a full queue",
    "starved": "cycles without input",
}


def _speed(board: _Board) -> str:
    subnet = _user_subnet(board)
    hardware = board.accelerator.hardware
    images = [random_image(subnet, seed) for seed in (2, 3)]
    engine = board.engine(subnet, board.timeout)
    engine.infer(images[0])
    alone = median(engine.infer(images[n % 2]).compute_ms for n in range(min(board.frames, 5)))
    start = time.perf_counter()
    pending: list[FrameHandle] = []
    for number in range(board.frames):
        if len(pending) == engine.in_flight:
            pending.pop(0).wait()
        pending.append(engine.begin(images[number % 2]))
    for frame in pending:
        frame.wait()
    fps = board.frames / (time.perf_counter() - start)
    model = replay(subnet, hardware)
    hertz = board.accelerator.hertz
    modelled_fps, modelled_ms = hertz / model.period_cycles, 1e3 * model.latency_cycles / hertz
    detail = (
        f"{board.frames} frames: {fps:.1f} frames/s and {alone:.3f} ms for one alone (measured); "
        f"the event model has {modelled_fps:.1f} and {modelled_ms:.3f} (modelled, without the host)"
    )
    if board.accelerator.name.startswith("sim:"):
        return f"{detail}; a simulation's time means nothing"
    if alone > SLOWER * modelled_ms or fps * SLOWER < modelled_fps:
        detail += "; slower than modelled: compare the clock, the memory ports' width, the host's share"
    return detail


STEPS = (
    Step(
        "clocks",
        "the lock and the rates of the clocks, at the processing system's GPIO, before the first access to a register",
        (),
        _clocks,
        (),
        (
            "the fabric's clock: is it set to the configuration's before the bitstream is loaded?",
            "docs/devices.md, 'Where nothing answers'",
        ),
    ),
    Step(
        "identity",
        "reset, magic number, interface version, configuration hash",
        ("clocks",),
        _identity,
        ("fetch",),
        (
            "the clock of the fabric, its reset (GPIO `reset`, active high), the address map (registers at their base)",
            "the bitstream: QUASAR_BITSTREAM, /sys/class/fpga_manager/fpga0/state",
        ),
    ),
    Step(
        "registers",
        "addresses, counts and seeds, written and read back; nothing is started",
        ("identity",),
        _registers,
        (),
        (
            "the address map: four blocks of 64 KiB in the order fetch, store, load, reset",
            "the AXI-Lite interconnect",
        ),
    ),
    Step(
        "memory",
        "DMA memory, written, flushed and read back",
        ("identity",),
        _memory,
        (),
        (
            "CMA (cma= on the kernel's command line), u-dma-buf's size or the reserved region",
            "cache coherency: the flush, u-dma-buf's sync_mode",
        ),
    ),
    Step(
        "transfers",
        "commands, patches and an output without logits through the device; wrong ones are refused",
        ("registers", "memory"),
        _transfers,
        ("load", "fetch", "store"),
        (
            "cache coherency and the memory's address in the device's view",
            "the memory ports: their order, their width (FSBL), the address map of each",
        ),
    ),
    Step(
        "interrupt",
        "the interrupts at the end of an output (store) and of a list of commands (fetch)",
        ("transfers",),
        _interrupt,
        (),
        (
            "the interrupt line: interrupt 0 of the design (fetch's OR store's), the device tree's `interrupts`, "
            "uio_pdrv_genirq.of_id",
        ),
    ),
    Step(
        "bias",
        "a head without weights: requantized biases leave as logits",
        ("transfers",),
        _compare(_only_bias, _flat_images),
        ("drain", "load", "store", "plan", "norm"),
    ),
    Step(
        "product",
        "the head's product, of activations that are constants",
        ("bias",),
        _compare(_only_head, _flat_images),
        ("array", "plan", "load", "drain", "norm"),
    ),
    Step(
        "norm",
        "the last norm, of a residual that comes from memory",
        ("product",),
        # The drain keeps moments between tiles of tokens.
        _compare(_only_norm, _flat_images, ((), (), (), ("drain",))),
        ("norm", "drain"),
    ),
    Step(
        "limits",
        "the last norm with extreme numbers",
        ("norm",),
        _limits,
        ("norm", "drain"),
    ),
    Step(
        "embedding",
        "the patch embedding, of images without detail",
        ("limits",),
        # All tokens are the same patch, so that the order of patches does not matter yet.
        _compare(_only_embedding, _flat_images, prefix_tokens=False),
        ("drain", "array", "norm", "plan", "load"),
    ),
    Step(
        "patches",
        "the patch embedding, of any images",
        ("embedding",),
        _compare(_only_embedding, _images),
        ("load", "norm", "drain"),
    ),
    Step(
        "embed_norm",
        "a norm of the embedded patches in front of the blocks",
        ("patches",),
        _compare(_only_embedding, _images, embed_norm=True),
        # New is that the drain fills the residual anew behind a product without moments.
        ("drain", "norm", "plan", "array", "load"),
    ),
    Step(
        "mlp",
        "the MLP, with a table that changes nothing",
        ("patches",),
        _compare(_only_mlp(np.arange(-128, 128, dtype=np.int8)), _images),
        ("drain", "array", "plan", "load"),
    ),
    Step(
        "gelu",
        "the MLP with GELU's table",
        ("mlp",),
        _compare(_only_mlp(None), _images),
        ("drain", "load"),
    ),
    Step(
        "values",
        "attention with even probabilities",
        ("patches",),
        _compare(_only_attention(1), _images, ((), (), ("scores", "softmax"), ("plan",)), hard=("softmax",)),
        ("plan", "softmax", "drain", "array", "scores"),
    ),
    Step(
        "scores",
        "attention whose probabilities are 0 or 1",
        ("values",),
        _compare(_only_attention(1 << 24), _images, ((), ("plan",), ("scores", "softmax"), ("plan",))),
        ("scores", "softmax", "plan", "array", "drain"),
    ),
    Step(
        "softmax",
        "attention",
        ("scores",),
        _compare(_only_attention(None), _images),
        ("softmax", "scores", "drain"),
    ),
    Step(
        "passes",
        "products of more columns, and of more keys, than one pass of the array takes; a full memory of keys",
        ("softmax", "gelu"),
        _long_networks,
        ("array", "plan", "drain"),
    ),
    Step(
        "networks",
        "whole networks, also of odd shapes",
        ("passes", "embed_norm"),
        _odd_networks,
        ("drain", "plan", "norm", "array", "softmax", "scores", "load"),
    ),
    Step(
        "frame", "a frame of the given subnet", ("networks",), _one_frame, ("drain", "norm", "array", "plan")
    ),
    Step(
        "counters",
        "what each unit counts in a frame, next to the event model",
        ("frame",),
        _counters,
        (),
        ("the block `counters`: its window behind `reset` in the address map, its clock and reset",),
    ),
    Step(
        "speed",
        "frames in a row, next to the event model's figure",
        ("frame",),
        _speed,
        (),
        ("the temperature, the supply and the timing report, if frames fail only in a row",),
    ),
)


def bringup(
    device: str,
    subnet: Subnet | None = None,
    *,
    only: Iterable[str] = (),
    frames: int = 20,
    timeout: float | None = None,
    before: Callable[[Step], None] | None = None,
    steps: tuple[Step, ...] = STEPS,
) -> Iterator[Outcome]:
    """Yields the outcome of each step on an accelerator.

    Args:
        device: the accelerator's name, as for `Engine`.
        subnet: a network of the user, for the last steps.
        only: names of steps; others are skipped, and count as passed. Empty: all steps.
        frames: number of frames in the last step.
        timeout: seconds that one wait may take; None for limits that suit the steps.
        before: called before each step that runs. A board that hangs leaves nothing but what was printed by then.
        steps: the steps; a caller may add some, such as a reading of counters.

    Raises:
        quasar_rt.InvalidValueError: no such step.
        quasar_rt.DeviceError: this machine has no such device.
    """
    only = tuple(only)
    known = [step.name for step in steps]
    if unknown := [name for name in only if name not in known]:
        raise InvalidValueError(f"there is no step {unknown[0]!r}; the steps are {', '.join(known)}")
    board = _Board(find_accelerator(device), subnet, frames, timeout)
    return _run(board, steps, only, before)


def _run(
    board: _Board, steps: tuple[Step, ...], only: tuple[str, ...], before: Callable[[Step], None] | None
) -> Iterator[Outcome]:
    lacking: set[str] = set()
    try:
        for step in steps:
            if only and step.name not in only:
                yield Outcome(step.name, "skipped", "not asked for")
                continue
            if missing := [name for name in step.needs if name in lacking]:
                lacking.add(step.name)
                yield Outcome(step.name, "skipped", f"needs {', '.join(missing)}")
                continue
            if before is not None:
                before(step)
            outcome = _outcome(board, step)
            if outcome.status == "fail":
                lacking.add(step.name)
            yield outcome
    finally:
        board.close()


def _outcome(board: _Board, step: Step) -> Outcome:
    start = time.perf_counter()
    try:
        detail = step.run(board)
    except _Skipped as reason:
        return Outcome(step.name, "skipped", str(reason), seconds=time.perf_counter() - start)
    except (_Failed, DeviceError, DoesNotFitError) as error:
        suspects = getattr(error, "suspects", ()) or step.suspects
        # Load and store check what they move: a corrupt output is a matter of transfers.
        likelier = (
            ("load", "store")
            if isinstance(error, CorruptOutputError)
            else ("plan",)  # It hands out the work, and takes and gives the credits that units wait for.
            if isinstance(error, DeviceTimeoutError) and step.suspects
            else getattr(error, "likelier", ())
        )
        suspects = tuple(dict.fromkeys((*likelier, *suspects)))
        places = getattr(error, "places", ()) or step.places
        kernels = tuple(KERNEL_PLACES[kernel] for kernel in suspects[:3])
        return Outcome(step.name, "fail", str(error), suspects, places + kernels, time.perf_counter() - start)
    return Outcome(step.name, "pass", detail, seconds=time.perf_counter() - start)
