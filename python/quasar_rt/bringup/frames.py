"""Steps with frames of the user's network."""

from __future__ import annotations

import time
from statistics import median

from .._native import Engine as NativeEngine
from .._native import FrameHandle
from ..hardware import replay
from ..profile import COUNT_BOUND, FRAME_BOUND, AcceleratorProfile, UnitCounts
from ..subnet import Subnet
from ..testing import random_image
from .board import Board, Failed, Skipped, same

#: Share by which a frame may be slower than the event model before the step `speed` remarks on it.
SLOWER = 1.2
#: Frames whose counts are compared with the event model's.
COUNTED_FRAMES = 3


def _user_subnet(board: Board) -> Subnet:
    if board.subnet is None:
        raise Skipped("no subnet was given")
    if not board.fits(board.subnet):
        raise Skipped(f"'{board.subnet.name}' does not fit the configuration's buffers")
    return board.subnet


def one_frame(board: Board) -> str:
    """Compares the logits of one frame with the CPU's."""
    subnet = _user_subnet(board)
    image = random_image(subnet, 2)
    expected = NativeEngine(subnet._inner, None, None, None).infer(image).outputs()
    same(
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


def counters(board: Board) -> str:
    """Compares each unit's counts with the event model's."""
    subnet = _user_subnet(board)
    engine = board.engine(subnet, board.timeout)
    if not engine.has_counters:
        raise Skipped("the configuration has no counters (counters = false)")
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
    raise Failed(f"{largest}; counts should be {within}{several}", suspects, [COUNT_PLACES[count]])


def _working(counts: UnitCounts) -> float:
    return counts.busy - counts.blocked - (counts.starved or 0)


_WORDS = {
    "commands": "commands",
    "busy": "busy cycles",
    "blocked": "cycles blocked by a full queue",
    "starved": "cycles without input",
}


def speed(board: Board) -> str:
    """Measures frames in a row; returns their rate next to the event model's."""
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
