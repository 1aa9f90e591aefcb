"""Simulates a frame on more cores than this machine has: its pieces, each measured or modelled, run side by side.

A frame is a list of jobs (`rust/core/src/cpu/workspace.rs`): embedding and the first block's keys and values; for each
block everything from its attention to the next block's keys and values, a thread having its own tokens; at the end,
layer by layer, what only the heads read, a thread having its own rows of weights. If threads have heads of their own, a
job ends at a block's first norm, and the next one is the block's attention with its queries, keys and values. A job
begins in a thread when all threads have ended their pieces of the one before. What nobody else needs, queries or the
outputs of a thread's own heads for its own tokens, is computed behind a piece, and a thread that waits may do so
meanwhile. A job takes as long as its longest piece plus what a core reads of other cores' results, or as long as the
memory takes for all cores' weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .engine import Engine
from .images import Pixels
from .subnet import Subnet

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Cores", "Frame", "Job", "last_worthwhile", "measured_jobs", "modelled_jobs", "simulate"]

#: Stages of a block that follow its attention, up to the next block's qkv.
_REST = ("proj", "norm2", "fc1", "fc2")


class Cores(NamedTuple):
    """The costs of sharing a frame. The figures are assumptions unless a source is named where an instance is made."""

    name: str
    meeting_us: float
    """A meeting of two threads."""
    further_us: float
    """What each further thread adds to a meeting."""
    exchange: float
    """Bytes a second that a core reads of what another core has written."""
    memory: float | None = None
    """Bytes of weights a second that all cores together get; None if each has its own way to them, whose cost is in
    the pieces."""
    in_step: bool = False
    """Cores read the same weights at the same time, and `memory` gives them to all at once."""


class Job(NamedTuple):
    """The work between two meetings."""

    pieces: Sequence[float]
    """Seconds of each thread's piece, for which others wait."""
    weights: int
    """Bytes of weights that each thread reads."""
    exchange: int = 0
    """Bytes that each thread reads of what others have written."""
    behind: Sequence[float] = ()
    """Seconds of what each thread computes behind its piece, for itself; nothing if empty. The next job needs as many
    threads."""


class Frame(NamedTuple):
    """A simulated frame, in milliseconds, and where they go."""

    threads: int
    ms: float
    work_ms: float
    """The mean of the threads' pieces, and of what is behind them."""
    waiting_ms: float
    """Waiting for the longest piece."""
    memory_ms: float
    """Waiting for weights."""
    exchange_ms: float
    """Reading what other cores have written."""
    meetings_ms: float


def simulate(jobs: Iterable[Job], cores: Cores, threads: int) -> Frame:
    """Runs the jobs of one frame, one after the other."""

    def of_threads(part: Sequence[float]) -> npt.NDArray[np.float64]:
        return np.array([*part, *[0.0] * threads][:threads])

    work = memory = exchange = meetings = 0.0
    # When each thread is done with its last job, and when the slowest piece of that was.
    done, ready = np.zeros(threads), 0.0
    for job in jobs:
        pieces, behind = of_threads(job.pieces), of_threads(job.behind)
        read = job.exchange / cores.exchange if threads > 1 else 0.0
        late = meeting = 0.0
        if cores.memory is not None:
            readers = 1 if cores.in_step else np.count_nonzero(pieces)
            longest = float((pieces + behind).max())
            late = max(0.0, readers * job.weights / cores.memory - longest - read)
        if threads > 1 and np.count_nonzero(pieces) > 1:
            meeting = 1e-6 * (cores.meeting_us + (threads - 2) * cores.further_us)
        shown = np.maximum(done, ready) + pieces + read + late + meeting
        done, ready = shown + behind, float(shown.max())
        work += float(np.mean((pieces + behind)[: len(job.pieces)]))
        memory, exchange, meetings = memory + late, exchange + read, meetings + meeting
    total = float(done.max())
    waiting = max(0.0, total - work - memory - exchange - meetings)
    parts = [1e3 * part for part in (total, work, waiting, memory, exchange, meetings)]
    return Frame(threads, *parts)


def last_worthwhile(frames: Sequence[Frame], gain: float = 0.25) -> int:
    """Returns the last simulated number of threads before one that gives less than `gain` more frames a second."""
    best = frames[0]
    for frame in frames[1:]:
        if best.ms / frame.ms - 1 < gain:
            break
        best = frame
    return best.threads


def measured_jobs(engine: Engine, picture: Pixels, threads: int, private: bool, repeat: int = 9) -> list[Job]:
    """Measures the pieces of a frame, one after the other on this machine.

    Args:
        engine: an engine on the CPU.
        picture: the image.
        threads: number of threads that share the frame.
        private: the second-level cache is each core's own. Then every thread reads weights from the last cache, as the
            one does that is measured first; otherwise the others find them in the second-level cache.
        repeat: number of measurements; the fastest of each piece counts.
    """
    native = engine._open(1)
    runs = [native.pieces(picture, threads) for _ in range(repeat)]
    pieces = [
        {name: min(dict(run[thread])[name] for run in runs) for name, _ in runs[0][thread]}
        for thread in range(len(runs[0]))
    ]
    if private:
        # All threads but the last have as many tokens as the first.
        pieces[:-1] = [pieces[0]] * (len(pieces) - 1)
    weights = _weight_bytes(engine.subnet, engine.weight_bytes)
    return _jobs(engine.subnet, pieces, weights, threads, native.by_heads(threads))


def modelled_jobs(subnet: Subnet, seconds: Mapping[str, float], repeated: float, threads: int) -> list[Job]:
    """Returns the jobs of a frame whose stages' times are known, with attention shared out by tokens.

    Args:
        subnet: the network.
        seconds: the time on one core of ``embed``, ``head`` and of the stages of one block by name (``qkv``).
        repeated: share of the attention's time that every thread spends (packing keys and values).
        threads: number of threads that share the frame.
    """
    config = subnet.config
    tokens = _tokens(subnet)
    rows = -(-tokens // threads)
    counts = [min(rows, tokens - first) for first in range(0, tokens, rows)]
    pieces = []
    for thread, count in enumerate(counts):
        share = count / tokens
        stages = {"preprocess": 0.0, "embed": share * seconds["embed"], "pool": 0.0, "head": seconds["head"]}
        for block in range(len(config["blocks"])):
            of_block = {name: share * seconds[name] for name in ("norm1", "qkv", *_REST)}
            of_block["attention"] = seconds["attention"] * (repeated + (1 - repeated) * share)
            if block + 1 == len(config["blocks"]) and config["pool"] == "token":
                # One token's.
                of_block |= {name: seconds[name] / tokens for name in _REST}
                of_block["attention"] = (
                    seconds["attention"] * (repeated + (1 - repeated) / tokens) if thread == 0 else 0.0
                )
            stages |= {f"blocks.{block}.{name}": time for name, time in of_block.items()}
        pieces.append(stages)
    by_heads = [False] * len(config["blocks"])
    return _jobs(subnet, pieces, _weight_bytes(subnet, None), threads, by_heads)


def _tokens(subnet: Subnet) -> int:
    return max(layer.macs // (layer.rows * layer.columns) for layer in subnet.summary().layers)


def _weight_bytes(subnet: Subnet, total: int | None) -> dict[str, int]:
    """Returns the bytes of each layer's weights; all are assumed to be packed alike."""
    layers = subnet.summary().layers
    each = 1.0 if total is None else total / sum(layer.rows * layer.columns for layer in layers)
    return {layer.name: round(each * layer.rows * layer.columns) for layer in layers}


def _jobs(
    subnet: Subnet,
    pieces: Sequence[Mapping[str, float]],
    weights: Mapping[str, int],
    threads: int,
    by_heads: Sequence[bool],
) -> list[Job]:
    config = subnet.config
    blocks = config["blocks"]
    depth, tokens = len(blocks), _tokens(subnet)

    def job(names: Sequence[str], exchange: int = 0, behind: float = 0.0) -> Job:
        # `behind`: the share of the last stage's time for which nobody waits.
        times = [[stages.get(name, 0.0) for name in names] for stages in pieces]
        return Job(
            [sum(thread) - behind * thread[-1] for thread in times],
            sum(weights.get(name, 0) for name in names),
            exchange,
            [behind * thread[-1] for thread in times],
        )

    def shared_out(name: str) -> Job:
        # The pieces have the time of all parts. (Small layers are not shared out: see `partition.rs`.)
        return Job([pieces[0].get(name, 0.0) / threads] * threads, weights.get(name, 0) // threads)

    jobs = [Job([pieces[0].get("preprocess", 0.0) / threads] * threads, 0)]
    is_token = config["pool"].startswith("token")
    tail = is_token and threads > 1

    def queries(block: int) -> float:
        # A third of the rows; hardly any token of a last block that only the heads read.
        return 0.0 if is_token and block + 1 == depth else 1 / 3

    # Stages since the last meeting, and bytes that a thread reads of what others have written.
    names, exchange = ["patches", "embed_norm", "embed"], 0
    for i, (block, own_heads) in enumerate(zip(blocks, by_heads, strict=True)):
        inner = block["heads"] * block["head_dim"]
        others = tokens * (threads - 1) // threads
        norm1, qkv, attention, *rest = (
            f"blocks.{i}.{name}" for name in ("norm1", "qkv", "attention", *_REST)
        )
        if own_heads:
            jobs.append(job([*names, norm1], exchange))
            # About: without the packing, and for whole blocks of queries.
            own_tokens = 0.0 if is_token and i + 1 == depth else 1 / threads
            heads = job([qkv, attention], others * config["embed"], own_tokens)
            jobs.append(heads._replace(weights=heads.weights // threads))
            names, exchange = [], others * inner // threads
        else:
            jobs.append(job([*names, norm1, qkv], exchange, queries(i)))
            names, exchange = [attention], others * 2 * inner
        if tail and i + 1 == depth:
            # By heads, the outputs of one token are all that is left.
            if names:
                jobs.append(job(names, exchange))
            # One token's norm is the caller's.
            jobs += [
                job([name])._replace(pieces=[pieces[0].get(name, 0.0)])
                if name.endswith("norm2")
                else shared_out(name)
                for name in rest
            ]
        else:
            names += rest
    if not tail:
        jobs.append(job(names, exchange))
    jobs.append(Job([pieces[0].get("pool", 0.0)], 0))
    jobs.append(shared_out("head"))
    return jobs
