"""Brings up an accelerator seen for the first time: from its identity to frames, one step after another.

Each step needs the ones before it and adds as little as it can, so that the first step that fails points at what is
broken. The steps below frames (`Trials` of the native module) need no subnet. The networks are random ones of which all
but a part is silenced: the compiler's commands stay the same, and only the part that a step is for can change the
logits. Every network also runs on the CPU, and the logits must be the same bits.

Depends on the native module, `device`, `build`, `testing`, `profile` and `hardware`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from ..device import find_accelerator
from ..errors import CorruptOutputError, DeviceError, DeviceTimeoutError, DoesNotFitError, InvalidValueError
from ..subnet import Subnet
from .board import Board, Failed, Outcome, Skipped, Step
from .frames import counters, one_frame, speed
from .networks import (
    compare,
    flat_images,
    images,
    limits,
    long_networks,
    odd_networks,
    only_attention,
    only_bias,
    only_embedding,
    only_head,
    only_mlp,
    only_norm,
)

__all__ = ["STEPS", "Outcome", "Step", "bringup"]

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


# Steps below frames.


def _clocks(board: Board) -> str:
    if not board.trials.clocks():
        raise Skipped("this way to the device shows no clocks")
    if board.accelerator.name.startswith("sim:"):
        return "locked (simulated)"
    return "kernels and array have clocks of the right ratio to the fabric's, whose own rate is not measured"


def _identity(board: Board) -> str:
    for what, found, expected in board.trials.identity():
        if found != expected:
            zero = found == 0 or found == 0xFFFF_FFFF
            raise Failed(
                f"the {what} is {found:#x} instead of {expected:#x}",
                ["fetch"] if what == "magic number" and not zero else [],
                ["the address map, the clock: what answers is not the accelerator"]
                if what == "magic number"
                else ["the bitstream: it is of another build than its description (QUASAR_BITSTREAM)"],
            )
    return f"{board.accelerator.name}, configuration of the {board.accelerator.hardware.board.name}"


def _registers(board: Board) -> str:
    _refuse_differences(board.trials.registers())
    return "every address, count and seed keeps what is written, and a reset clears it"


def _memory(board: Board) -> str:
    _refuse_differences(board.trials.memory())
    return "every buffer keeps what is written"


def _refuse_differences(differences: list[tuple[str, int, int]]) -> None:
    if differences:
        place, written, read = differences[0]
        several = f" ({len(differences)} differences or more)" if len(differences) > 1 else ""
        raise Failed(f"{place}: {read:#010x} instead of {written:#010x}{several}")


def _transfers(board: Board) -> str:
    runs, interrupts, problems = board.trials.transfers()
    board.interrupts = runs, interrupts
    if problems:
        kernels = list(dict.fromkeys(kernel for kernel, _ in problems))
        rest = [kernel for kernel in ("load", "store", "fetch") if kernel not in kernels]
        several = f" ({len(problems)} problems or more)" if len(problems) > 1 else ""
        raise Failed(f"{problems[0][1]}{several}", kernels + rest)
    return f"{runs} transfers are whole; wrong commands are refused"


def _interrupt(board: Board) -> str:
    if board.accelerator.polled:
        raise Skipped("this way to the device polls")
    if board.interrupts is None:
        runs, came, _ = board.trials.transfers()
    else:
        runs, came = board.interrupts
    for kernel, of, number in (("store", runs, came), ("fetch", *board.trials.fetch_interrupts())):
        if number < of:
            raise Failed(f"{number} of {of} interrupts of {kernel} came")
    return f"all came: {runs} of store, {of} of fetch"


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
        compare(only_bias, flat_images),
        ("drain", "load", "store", "plan", "norm"),
    ),
    Step(
        "product",
        "the head's product, of activations that are constants",
        ("bias",),
        compare(only_head, flat_images),
        ("array", "plan", "load", "drain", "norm"),
    ),
    Step(
        "norm",
        "the last norm, of a residual that comes from memory",
        ("product",),
        # The drain keeps moments between tiles of tokens.
        compare(only_norm, flat_images, ((), (), (), ("drain",))),
        ("norm", "drain"),
    ),
    Step(
        "limits",
        "the last norm with extreme numbers",
        ("norm",),
        limits,
        ("norm", "drain"),
    ),
    Step(
        "embedding",
        "the patch embedding, of images without detail",
        ("limits",),
        # All tokens are the same patch, so that the order of patches does not matter yet.
        compare(only_embedding, flat_images, prefix_tokens=False),
        ("drain", "array", "norm", "plan", "load"),
    ),
    Step(
        "patches",
        "the patch embedding, of any images",
        ("embedding",),
        compare(only_embedding, images),
        ("load", "norm", "drain"),
    ),
    Step(
        "embed_norm",
        "a norm of the embedded patches in front of the blocks",
        ("patches",),
        compare(only_embedding, images, embed_norm=True),
        # New is that the drain fills the residual anew behind a product without moments.
        ("drain", "norm", "plan", "array", "load"),
    ),
    Step(
        "mlp",
        "the MLP, with a table that changes nothing",
        ("patches",),
        compare(only_mlp(np.arange(-128, 128, dtype=np.int8)), images),
        ("drain", "array", "plan", "load"),
    ),
    Step(
        "gelu",
        "the MLP with GELU's table",
        ("mlp",),
        compare(only_mlp(None), images),
        ("drain", "load"),
    ),
    Step(
        "values",
        "attention with even probabilities",
        ("patches",),
        compare(only_attention(1), images, ((), (), ("scores", "softmax"), ("plan",)), hard=("softmax",)),
        ("plan", "softmax", "drain", "array", "scores"),
    ),
    Step(
        "scores",
        "attention whose probabilities are 0 or 1",
        ("values",),
        compare(only_attention(1 << 24), images, ((), ("plan",), ("scores", "softmax"), ("plan",))),
        ("scores", "softmax", "plan", "array", "drain"),
    ),
    Step(
        "softmax",
        "attention",
        ("scores",),
        compare(only_attention(None), images),
        ("softmax", "scores", "drain"),
    ),
    Step(
        "rotary",
        "attention with rotary positions",
        ("softmax",),
        compare(only_attention(None), images, rotary=True),
        ("drain", "load"),
    ),
    Step(
        "passes",
        "products of more columns, and of more keys, than one pass of the array takes; a full memory of keys",
        ("softmax", "gelu"),
        long_networks,
        ("array", "plan", "drain"),
    ),
    Step(
        "networks",
        "whole networks, also of odd shapes",
        ("passes", "embed_norm"),
        odd_networks,
        ("drain", "plan", "norm", "array", "softmax", "scores", "load"),
    ),
    Step(
        "frame", "a frame of the given subnet", ("networks",), one_frame, ("drain", "norm", "array", "plan")
    ),
    Step(
        "counters",
        "what each unit counts in a frame, next to the event model",
        ("frame",),
        counters,
        (),
        ("the block `counters`: its window behind `reset` in the address map, its clock and reset",),
    ),
    Step(
        "speed",
        "frames in a row, next to the event model's figure",
        ("frame",),
        speed,
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
    board = Board(find_accelerator(device), subnet, frames, timeout)
    return _run(board, steps, only, before)


def _run(
    board: Board, steps: tuple[Step, ...], only: tuple[str, ...], before: Callable[[Step], None] | None
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


def _outcome(board: Board, step: Step) -> Outcome:
    start = time.perf_counter()
    try:
        detail = step.run(board)
    except Skipped as reason:
        return Outcome(step.name, "skipped", str(reason), seconds=time.perf_counter() - start)
    except (Failed, DeviceError, DoesNotFitError) as error:
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
