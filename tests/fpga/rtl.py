"""Builds what is simulated, and the array's model for comparison: cycles by docs/array-timing.md, sums by int64."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

# Runs a program on the RTL, with options of the harness; its lines, in words.
Simulate = Callable[..., list[list[str]]]

ROOT = Path(__file__).parents[2]
RTL = ROOT / "fpga" / "rtl"
SOURCES = [
    RTL / name
    for name in (
        "array_types.sv",
        "delay.sv",
        "mac.v",
        "pack.sv",
        "slice.sv",
        "weights.sv",
        "issue.sv",
        "sequence_chain.sv",
        "unpack_lanes.sv",
        "array.sv",
    )
]


def tool(name: str) -> str:
    """Returns the tool's path; skips the test if there is none."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is absent (make eda installs it where it can)")
    return path


def run(*command: object, cwd: Path | None = None) -> str:
    """Runs a command; its standard output. A failure shows what it said."""
    done = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command[0]} failed:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


#: Where Verilator's own library was compiled first, by whether it has delays.
_libraries: dict[bool, Path] = {}


def verilate(
    out: Path, top: str, harness: Path, sources: list[Path], *options: str, defines: str = ""
) -> Path:
    """Compiles a simulation and returns its path. Verilator's own library is compiled once."""
    run(
        tool("verilator"), "--cc", "--exe", "-O3", "--assert", "-Wno-fatal", "--top-module", top,
        "-CFLAGS", f"-std=c++20 -O1 {defines}", "--Mdir", out, "-o", "simulate", *options, *sources, harness,
    )  # fmt: skip
    library = _libraries.setdefault("--timing" in options, out)
    if library != out:
        for compiled in library.glob("verilated*.o"):
            shutil.copy(compiled, out)
    run("make", "-s", "-C", out, "-f", f"V{top}.mk")
    return out / "simulate"


@dataclass(frozen=True)
class Shape:
    """The array's parameters; `beat` in bytes, `words` of half the weight buffer, `gap` where the half changes."""

    tokens: int
    pairs: int
    lanes: int
    shift: int = 23
    beat: int = 16
    words: int = 256
    gap: int = 0

    @property
    def parameters(self) -> dict[str, int]:
        return dict(
            T=self.tokens,
            P=self.pairs,
            L=self.lanes,
            S=self.shift,
            BEAT=self.beat,
            WORDS=self.words,
            TILE_GAP=self.gap,
        )

    def build(self, out: Path) -> Path:
        given = self.parameters
        return verilate(
            out,
            "array",
            ROOT / "tests" / "fpga" / "array_harness.cpp",
            SOURCES,
            *(f"-G{name}={value}" for name, value in given.items()),
            defines=" ".join(f"-DARRAY_{name}={given[name]}" for name in ("T", "P", "L", "BEAT")),
        )


@dataclass
class Pass:
    """One tile pass: activations [T, K], rows [rows, K] in order, 4-bit ones first."""

    activations: np.ndarray
    rows: np.ndarray
    rows4: int
    tokens: int
    base: int = 0
    unsigned: bool = False
    scores: bool = False
    from_buffer: bool = False
    release: bool = False
    first: bool = True
    last: bool = True

    @property
    def columns(self) -> int:
        return self.activations.shape[1]

    @property
    def pairs4(self) -> int:
        return (self.rows4 + 1) // 2

    @property
    def pairs8(self) -> int:
        return len(self.rows) - self.rows4

    @property
    def pairs(self) -> int:
        return self.pairs4 + self.pairs8

    def groups(self, shape: Shape) -> int:
        return -(-self.tokens // shape.lanes)

    def drain(self, shape: Shape) -> int:
        return self.pairs if self.scores else len(self.rows) * self.groups(shape)

    def operands(self, shape: Shape) -> np.ndarray:
        """Bytes [K, P] by position."""
        out = np.zeros((self.columns, shape.pairs), np.uint8)
        for pair in range(self.pairs):
            if pair < self.pairs4:
                low = self.rows[2 * pair]
                high = self.rows[2 * pair + 1] if 2 * pair + 1 < self.rows4 else np.zeros_like(low)
                byte = (high & 15) << 4 | low & 15
            else:
                byte = self.rows[self.rows4 + pair - self.pairs4]
            out[:, shape.pairs - 1 - pair] = byte & 0xFF
        return out

    def sums(self) -> np.ndarray:
        """[rows, T], exact."""
        return self.rows.astype(np.int64) @ self.activations.astype(np.int64).T


@dataclass
class Program:
    """Tile passes, and the loads of those that take weights."""

    shape: Shape
    passes: list[Pass] = field(default_factory=list)
    loads: list[np.ndarray] = field(default_factory=list)  # [K, P] bytes each

    def gemm(self, activations: np.ndarray, rows: np.ndarray, rows4: int, pass_columns: int) -> None:
        """Adds a product by weights, in the order of docs/accelerator.md; activations [tokens, K]."""
        shape, (tokens, columns) = self.shape, activations.shape
        pairs = [list(range(i, min(i + 2, rows4))) for i in range(0, rows4, 2)]
        pairs += [[i] for i in range(rows4, len(rows))]
        padded = np.zeros((-(-tokens // shape.tokens) * shape.tokens, columns), activations.dtype)
        padded[:tokens] = activations
        cuts = [(k, min(k + pass_columns, columns)) for k in range(0, columns, pass_columns)]
        for tile in (pairs[i : i + shape.pairs] for i in range(0, len(pairs), shape.pairs)):
            members = [row for pair in tile for row in pair]
            tile_rows, tile_rows4 = rows[members], sum(row < rows4 for row in members)
            whole = Pass(padded[: shape.tokens], tile_rows, tile_rows4, 1)
            self.loads.append(whole.operands(shape))
            for token in range(0, tokens, shape.tokens):
                for begin, end in cuts:
                    self.passes.append(
                        Pass(
                            padded[token : token + shape.tokens, begin:end],
                            tile_rows[:, begin:end],
                            tile_rows4,
                            min(shape.tokens, tokens - token),
                            base=begin,
                            from_buffer=True,
                            release=token + shape.tokens >= tokens and end == columns,
                            first=begin == 0,
                            last=end == columns,
                        )
                    )

    def attend(self, activations: np.ndarray, rows: np.ndarray, *, scores: bool, pass_columns: int) -> None:
        """Adds a product by keys or values: one tile of tokens [tokens, K], 8-bit rows."""
        shape, (tokens, columns) = self.shape, activations.shape
        padded = np.zeros((shape.tokens, columns), activations.dtype)
        padded[:tokens] = activations
        for row in range(0, len(rows), shape.pairs):
            for begin in range(0, columns, pass_columns):
                end = min(begin + pass_columns, columns)
                self.passes.append(
                    Pass(
                        padded[:, begin:end],
                        rows[row : row + shape.pairs, begin:end],
                        0,
                        tokens,
                        unsigned=not scores,
                        scores=scores,
                        first=begin == 0,
                        last=end == columns,
                    )
                )

    def stimulus(self, seed: int = 0, stall_percent: int = 0, interval: int = 0, depth: int = 0) -> str:
        """Returns the harness's file."""
        beat = self.shape.beat
        lines = [f"options {seed} {stall_percent} {interval} {depth}"]
        for load in self.loads:
            data = load.tobytes()
            lines.append(f"load {len(load)} {(data + bytes(-len(data) % beat)).hex()}")
        for p in self.passes:
            fields = (
                p.columns, p.base, p.pairs4, p.rows4 % 2, p.pairs8, p.groups(self.shape), int(p.unsigned),
                int(p.scores), int(p.from_buffer), int(p.release), int(p.first), int(p.last),
            )  # fmt: skip
            rows = "-" if p.from_buffer else p.operands(self.shape).tobytes().hex()
            acts = np.ascontiguousarray(p.activations.T & 0xFF).astype(np.uint8).tobytes().hex()
            lines.append(" ".join(["pass", *map(str, fields), acts, rows]))
        return "\n".join(lines) + "\n"

    def listing(self, interval: int = 1) -> str:
        """Returns the input of `array_cycles`, the example of quasar-accelerator."""
        shape, lines, loads = self.shape, [], iter(self.loads)
        lines.append(f"{shape.tokens} {shape.pairs} {shape.lanes} {shape.beat} {interval}")
        announce = True
        for p in self.passes:
            if p.from_buffer and announce:
                lines.append(f"weights {len(next(loads))} {p.pairs} {len(p.rows)}")
            announce = p.release if p.from_buffer else announce
            flags = int(p.scores), int(p.from_buffer), int(p.release)
            numbers = (p.columns, len(p.rows), p.groups(shape), *flags, p.pairs)
            lines.append(" ".join(["pass", *map(str, numbers)]))
        return "\n".join(lines) + "\n"

    def expected(self) -> list[tuple[str, list[int]]]:
        """Returns the results in order: `sum` of L tokens, or `score` of all."""
        out: list[tuple[str, list[int]]] = []
        total: np.ndarray | int = 0
        for p in self.passes:
            total = p.sums() + (0 if p.first else total)
            if not p.last:
                continue
            for row in total:
                if p.scores:
                    out.append(("score", row.tolist()))
                    continue
                wide = np.zeros(p.groups(self.shape) * self.shape.lanes, np.int64)
                wide[: min(len(wide), len(row))] = row[: len(wide)]
                out.extend(("sum", group.tolist()) for group in wide.reshape(-1, self.shape.lanes))
        return out

    def cycles(self, interval: int = 0, depth: int = 0) -> Cycles:
        """Cycles of every event, by docs/array-timing.md."""
        shape, weights = self.shape, Weights(self, interval, depth)
        out = Cycles()
        end, drain, tile, gap = -1, 0, 0, 0
        for p in self.passes:
            columns = p.columns
            free = max(end + 1 + gap, end + drain - columns + 1)
            ready = weights.ready(tile) if p.from_buffer else 0
            start = max(free, ready)
            out.drain_stalls.append(max(0, drain - columns))
            out.weight_stalls.append(start - free)
            end, drain, gap = start + columns - 1, p.drain(shape), shape.gap if p.release else 0
            out.starts.append(start)
            out.ends.append(end)
            if p.release:
                weights.release(tile, end)
                tile += 1
            if p.last:
                first = end + shape.tokens + shape.pairs + 4 + 1
                out.results.extend(range(first, first + drain))
        return out


@dataclass
class Cycles:
    """Cycles of issue and of results, and stalls, a tile pass each."""

    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    drain_stalls: list[int] = field(default_factory=list)
    weight_stalls: list[int] = field(default_factory=list)
    results: list[int] = field(default_factory=list)


class Weights:
    """Models when tiles of row pairs are in the double buffer: reservoir, a beat and a word a cycle at most, queue."""

    def __init__(self, program: Program, interval: int, depth: int) -> None:
        self.shape, self.interval, self.depth = program.shape, interval, depth
        self.columns = [len(load) for load in program.loads]
        self.taken: list[int] = []  # cycle in which each beat was taken
        self.queued: list[int] = []  # cycle in which each beat entered the queue
        self.finished: list[int] = []  # cycle that wrote each tile's last word
        self.released: list[int] = []

    def there(self) -> int:
        """Returns the first cycle in which the queue gives the next beat."""
        n = len(self.taken)
        if self.depth == 0:
            return (self.taken[-1] if self.taken else 0) + self.interval
        # A full queue takes a beat in the cycle in which it gives one.
        free = self.taken[n - self.depth] if n >= self.depth else 0
        self.queued.append(max(self.queued[-1] + self.interval if self.queued else 0, free))
        return self.queued[-1] + 1

    def load(self, tile: int) -> None:
        shape, columns = self.shape, self.columns[tile]
        need = columns * shape.pairs
        earliest = self.finished[tile - 1] if tile else 0
        if tile >= 2:
            earliest = max(earliest, self.released[tile - 2] + 1)
        cycle = max(earliest, self.there())
        self.taken.append(cycle)
        count, need, words = shape.beat, need - shape.beat, 0
        beat: int | None = None
        while True:
            cycle += 1
            if count >= shape.pairs:
                count, words = count - shape.pairs, words + 1
            if words == columns:
                break
            if need > 0 and beat is None:
                beat = self.there()
            if beat is not None and beat <= cycle and count < shape.pairs:
                self.taken.append(cycle)
                count, need, beat = count + shape.beat, need - shape.beat, None
        self.finished.append(cycle)

    def ready(self, tile: int) -> int:
        while len(self.finished) <= tile:
            self.load(len(self.finished))
        return self.finished[tile] + 1

    def release(self, tile: int, cycle: int) -> None:
        assert tile == len(self.released)
        self.released.append(cycle)
