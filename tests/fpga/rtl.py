"""Builds what is simulated, and compares the array: sums with int64, cycles with the event model."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from array_netlist import RAM_LUTS

# Runs a program on the RTL, with options of the harness.
Simulate = Callable[..., "Observed"]
# The same, compared with int64 and the event model: returns how many passes waited for what.
Check = Callable[..., Counter[str]]

ROOT = Path(__file__).parents[2]
RTL = ROOT / "fpga" / "rtl"
TESTS = ROOT / "tests" / "fpga"
SOURCES = [
    RTL / name
    for name in (
        "pass_types.sv",
        "registers.sv",
        "delay.sv",
        "unit.sv",
        "unit_dsp48.sv",
        "token.sv",
        "issue.sv",
        "addresses.sv",
        "operands.sv",
        "weights.sv",
        "queue.sv",
        "sequence_pairs.sv",
        "unpack_lanes.sv",
        "array.sv",
        "operand_bank.v",
        "array_top.sv",
    )
]


def tool(name: str) -> str:
    """Returns the tool's path; skips the test if there is none."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is absent (make eda installs it where it can)")
    return path


def run(*command: object, cwd: Path | None = None) -> str:
    """Runs a command and returns its standard output. A failure shows both outputs."""
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
        tool("verilator"), "--cc", "--exe", "-O3", "--assert", "-Wno-fatal", "-Werror-USERERROR",
        "--x-initial", "unique", "--top-module", top, "-CFLAGS", f"-std=c++20 -O1 {defines}",
        "--Mdir", out, "-o", "simulate",
        *options, *sources, harness,
    )  # fmt: skip
    library = _libraries.setdefault("--timing" in options, out)
    if library != out:
        for compiled in library.glob("verilated*.o"):
            shutil.copy(compiled, out)
    run("make", "-s", "-C", out, "-f", f"V{top}.mk")
    return out / "simulate"


def yosys(
    sources: list[Path], top: str, family: str, folder: Path, settings: str = "", *options: str
) -> Counter[str]:
    """Synthesises a module; returns the numbers of its cells by kind. `settings` are arguments of `chparam`."""
    report = folder / "stat.txt"
    commands = [
        f"read_verilog -sv {' '.join(map(str, sources))}",
        *([f"chparam {settings} {top}"] if settings else []),
        f"synth_xilinx -family {family} {' '.join(options)} -top {top} -flatten -noiopad -noclkbuf",
        f"tee -o {report} stat",
    ]
    run(tool("yosys"), "-q", "-p", "; ".join(commands), cwd=sources[0].parent)
    cells = re.findall(r"^ +([A-Z]\w+) +(\d+)$", report.read_text(), re.MULTILINE)
    return Counter({cell: int(number) for cell, number in cells})


def luts(cells: Counter[str]) -> int:
    """Returns the LUTs of cells, those of distributed RAM included."""
    plain = sum(number for cell, number in cells.items() if re.match(r"LUT\d|SRL", cell))
    return plain + sum(RAM_LUTS[cell] * number for cell, number in cells.items() if cell in RAM_LUTS)


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


#: Fast cycles between two starts, and from a pass's last word to what it frees (rust/hardware/src/declared.rs, array).
ISSUE_INTERVAL = 2
END_TO_FREED = 5


@dataclass(frozen=True)
class Shape:
    """The array's parameters; `beat` in bytes, `words` of half the weight buffer and of a bank of codes."""

    tokens: int
    pairs: int
    cascade: int
    ratio: int = 1
    lanes: int = 2
    norm: int = 2
    exponential: int = 2
    frames: int = 2
    beat: int = 16
    words: int = 48
    keys: int = 23  # tokens whose keys and values are stored
    dims: int = 24  # of all heads
    dsp48e1: bool = False
    depth: int = 64
    primitives: bool = False  # slices by their name, on models of theirs

    @property
    def shift(self) -> int:
        return 21 if self.dsp48e1 else 23

    @property
    def key_banks(self) -> int:
        return ceil_div(self.lanes, self.pairs) * self.pairs

    @property
    def value_banks(self) -> int:
        return max(self.pairs, ceil_div(self.lanes + self.cascade - 1, self.cascade))

    @property
    def key_words(self) -> int:
        return ceil_div(self.keys, self.key_banks) * ceil_div(self.dims, self.cascade)

    @property
    def value_words(self) -> int:
        return ceil_div(self.dims, self.value_banks) * ceil_div(self.keys, self.cascade)

    @property
    def score_words(self) -> int:
        return ceil_div(self.keys, self.cascade)

    @property
    def parameters(self) -> dict[str, int]:
        rows = max(2 * self.words, self.key_words, self.value_words)
        return dict(
            T=self.tokens, P=self.pairs, C=self.cascade, L=self.lanes, M=self.norm, E=self.exponential,
            S=self.shift, FRAMES=self.frames, KEY_BANKS=self.key_banks, VALUE_BANKS=self.value_banks,
            BEAT=self.beat, INPUT_WORDS=self.words, NORM_WORDS=self.words, QUERY_WORDS=self.words,
            HIDDEN_WORDS=self.words, SCORE_WORDS=self.score_words, KEY_WORDS=self.key_words,
            VALUE_WORDS=self.value_words, WEIGHT_WORDS=self.words,
            ADDRESS_BITS=max(1, (max(self.words, self.score_words) - 1).bit_length()),
            ROW_BITS=max(1, (rows - 1).bit_length()), FIFO_DEPTH=self.depth,
            SCORE_RAM=0, VALUE_RAM=2, DSP48E1=int(self.dsp48e1), PRIMITIVES=int(self.primitives),
        )  # fmt: skip

    def build(self, out: Path, *options: str, rtl: Path = RTL) -> Path:
        given = self.parameters
        named = ("T", "C", "L", "M", "E", "BEAT", "ADDRESS_BITS", "ROW_BITS")
        defines = " ".join(f"-DARRAY_{name}={given[name]}" for name in named)
        return verilate(
            out,
            "array_top",
            TESTS / "array_harness.cpp",
            [
                *(rtl / path.name for path in SOURCES),
                TESTS / "probe.sv",
                *([TESTS / "dsp48.sv"] if self.primitives else []),
            ],
            *(f"-G{name}={value}" for name, value in given.items()),
            *options,
            defines=f"{defines} -DARRAY_R={self.ratio}",
        )


#: Fields of a pass's descriptor and their bits, the first one lowest (fpga/rtl/pass_types.sv).
FIELDS = dict(
    source=3, operand=2, bank=1, words=13, tail=5, address=22, row_address=22, row_bank=8, rotation=8,
    next_block=11, pairs=8, pairs4=8, single=1, groups=8, unsigned_a=1, scores=1, first=1, last=1, frees=1,
    post_load=1,
)  # fmt: skip
SOURCE = dict(input=0, normed=1, query=2, hidden=3, probability=4)


@dataclass
class Pass:
    """A pass: its descriptor, and its operands as they are stored."""

    fields: dict[str, int]
    activations: np.ndarray  # [T, columns]
    rows: np.ndarray  # [rows, columns], 4-bit ones first
    fill: int | None = None  # of the weights

    @property
    def words(self) -> int:
        return self.fields["words"]

    def encode(self) -> bytes:
        bits = at = 0
        for name, width in FIELDS.items():
            assert 0 <= self.fields[name] < 1 << width, name
            bits |= self.fields[name] << at
            at += width
        return bits.to_bytes(16, "little")


class Program:
    """Memories, passes, and the weights of those that take some."""

    def __init__(self, shape: Shape, rng: np.random.Generator) -> None:
        self.shape, self.rng = shape, rng
        self.passes: list[Pass] = []
        self.fills: list[np.ndarray] = []  # [words * C, P] bytes by position, each
        self.demands: list[tuple[int, int]] = []  # words, tiles
        codes = dict(
            input=(1, shape.lanes, shape.words),
            query=(1, shape.lanes, shape.words),
            hidden=(1, shape.lanes, shape.words),
            normed=(shape.frames, shape.norm, shape.words),
            probability=(2, shape.exponential, shape.score_words),
        )
        self.codes = {
            name: rng.integers(
                -128, 128, (sets, ceil_div(shape.tokens, lanes) * lanes, words * shape.cascade)
            )
            for name, (sets, lanes, words) in codes.items()
        }
        self.lanes = {name: lanes for name, (_, lanes, _) in codes.items()}
        self.keys = rng.integers(-128, 128, (shape.keys, shape.dims))
        self.values = rng.integers(-128, 128, (shape.keys, shape.dims))

    def banks(self) -> list[tuple[str, int, bytes]]:
        """Returns each bank's words, by docs/accelerator.md."""
        shape, c = self.shape, self.shape.cascade
        out = []
        for name, codes in self.codes.items():
            sets, tokens, columns = codes.shape
            lanes = self.lanes[name]
            # set, group, lane, word, column in the word -> a bank's words
            split = codes.reshape(sets, tokens // lanes, lanes, columns // c, c).transpose(0, 1, 4, 3, 2)
            for index, words in enumerate(split.reshape(-1, columns // c, lanes)):
                out.append((name, index, (words & 0xFF).astype(np.uint8).tobytes()))
        keys = np.zeros((shape.key_banks, shape.key_words, c), np.uint8)
        values = np.zeros((shape.value_banks, shape.value_words, c), np.uint8)
        stride, tokens = ceil_div(shape.dims, c), ceil_div(shape.keys, c)
        for t in range(shape.keys):
            for d in range(shape.dims):
                word = t // shape.key_banks * stride + d // c
                keys[t % shape.key_banks, word, d % c] = self.keys[t, d] & 0xFF
                word = d // shape.value_banks * tokens + t // c
                values[(t // c + d) % shape.value_banks, word, t % c] = self.values[t, d] & 0xFF
        out += [("key", i, bank.tobytes()) for i, bank in enumerate(keys)]
        out += [("value", i, bank.tobytes()) for i, bank in enumerate(values)]
        return out

    def add(
        self, source: str, operand: int, begin: int, columns: int, rows: np.ndarray, **fields: int
    ) -> Pass:
        """Adds a pass over `columns` activations from column `begin` of a memory on."""
        c, bank = self.shape.cascade, fields.get("bank", 0)
        rows8 = len(rows) - fields.get("rows4", 0)
        rows4 = fields.pop("rows4", 0)
        groups = fields.pop("groups", ceil_div(self.shape.tokens, self.shape.lanes))
        codes = self.codes[source][
            bank % len(self.codes[source]), : self.shape.tokens, begin : begin + columns
        ]
        given = dict.fromkeys(FIELDS, 0) | dict(first=1, last=1) | fields
        given |= dict(
            source=SOURCE[source], operand=operand, words=ceil_div(columns, c), tail=(columns - 1) % c + 1,
            address=begin // c, pairs=(rows4 + 1) // 2 + rows8, pairs4=(rows4 + 1) // 2, single=rows4 % 2,
            groups=groups, unsigned_a=int(source == "probability"),
        )  # fmt: skip
        done = Pass(given, codes & 0xFF if source == "probability" else codes, rows)
        self.passes.append(done)
        return done

    def gemm(self, columns: int, rows4: int, rows8: int, token_tiles: int, pass_words: int) -> None:
        """Adds a product by weights: tiles of row pairs, tiles of tokens, passes."""
        rows = [self.rng.integers(-7, 8, (rows4, columns)), self.rng.integers(-127, 128, (rows8, columns))]
        self.gemm_of(np.concatenate(rows), rows4, token_tiles, pass_words)

    def gemm_of(self, rows: np.ndarray, rows4: int, token_tiles: int, pass_words: int) -> None:
        """Adds a product by these weights."""
        shape, rng, c = self.shape, self.rng, self.shape.cascade
        columns = rows.shape[1]
        pairs = [list(range(i, min(i + 2, rows4))) for i in range(0, rows4, 2)]
        pairs += [[i] for i in range(rows4, len(rows))]
        tiles = [pairs[i : i + shape.pairs] for i in range(0, len(pairs), shape.pairs)]
        words = ceil_div(columns, c)
        self.demands.append((words, len(tiles)))
        source = str(rng.choice(["input", "normed", "query", "hidden"]))
        bank = int(rng.integers(shape.frames)) if source == "normed" else 0
        groups = int(rng.integers(1, ceil_div(shape.tokens, shape.lanes) + 1))
        for number, tile in enumerate(tiles):
            members = [row for pair in tile for row in pair]
            tile_rows, tile_rows4 = rows[members], sum(row < rows4 for row in members)
            fill = np.zeros((words * c, shape.pairs), np.uint8)
            for i, pair in enumerate(tile):
                if pair[0] < rows4:
                    high = rows[pair[1]] if len(pair) == 2 else np.zeros(columns, np.int64)
                    byte = (high & 15) << 4 | rows[pair[0]] & 15
                else:
                    byte = rows[pair[0]] & 0xFF
                fill[:columns, shape.pairs - 1 - i] = byte
            self.fills.append(fill)
            for token_tile in range(token_tiles):
                address = int(rng.integers(shape.words - words + 1)) * c
                closes = token_tile + 1 == token_tiles
                for word in range(0, words, pass_words):
                    count = min(pass_words * c, columns - word * c)
                    last = word + pass_words >= words
                    done = self.add(
                        source, 0, address + word * c, count, tile_rows[:, word * c : word * c + count],
                        rows4=tile_rows4, bank=bank, row_address=word, first=int(word == 0), last=int(last),
                        frees=int(closes and last), groups=groups,
                        post_load=int(closes and last and number + 1 == len(tiles) and source == "input"),
                    )  # fmt: skip
                    done.fill = len(self.fills) - 1

    def score(self, columns: int) -> None:
        """Adds queries times keys: all keys, some dimensions."""
        shape, c = self.shape, self.shape.cascade
        base = int(self.rng.integers(ceil_div(shape.dims - columns + 1, c))) * c
        stride = ceil_div(shape.dims, c)
        begin = int(self.rng.integers(shape.words - ceil_div(columns, c) + 1)) * c
        for key in range(0, shape.keys, shape.pairs):
            self.add(
                "query", 1, begin, columns, self.keys[key : key + shape.pairs, base : base + columns], scores=1,
                row_bank=key % shape.key_banks, row_address=key // shape.key_banks * stride + base // c,
            )  # fmt: skip

    def context(self, dims: int, pass_words: int) -> None:
        """Adds probabilities times values: some dimensions, all tokens."""
        shape, c, banks = self.shape, self.shape.cascade, self.shape.value_banks
        first = int(self.rng.integers(shape.dims - dims + 1))
        parity, tokens = int(self.rng.integers(2)), ceil_div(shape.keys, c)
        for d in range(first, first + dims, shape.pairs):
            rows = self.values[:, d : min(d + shape.pairs, first + dims)].T
            for word in range(0, tokens, pass_words):
                count = min(pass_words * c, shape.keys - word * c)
                self.add(
                    "probability", 2, word * c, count, rows[:, word * c : word * c + count], bank=parity,
                    row_bank=d % banks, row_address=d // banks * tokens + word, rotation=(d + word) % banks,
                    next_block=tokens, first=int(word == 0), last=int(word + pass_words >= tokens),
                )  # fmt: skip

    def add_random(self) -> None:
        """Adds a product of any kind and size."""
        shape, rng = self.shape, self.rng
        choice = rng.integers(4)
        if choice < 2:
            columns = int(rng.integers(1, min(70, shape.words * shape.cascade) + 1))
            rows4, rows8 = (int(n) for n in rng.integers(0, 3 * shape.pairs + 2, 2))
            words = ceil_div(columns, shape.cascade)
            part = int(rng.choice([words, max(1, words // 2), max(1, words // 3)]))
            self.gemm(columns, rows4, max(rows8, int(rows4 == 0)), int(rng.integers(1, 4)), part)
        elif choice == 2:
            self.score(int(rng.integers(1, min(shape.dims, shape.words * shape.cascade) + 1)))
        else:
            tokens = ceil_div(shape.keys, shape.cascade)
            self.context(int(rng.integers(1, shape.dims + 1)), int(rng.choice([tokens, max(1, tokens // 2)])))

    def beats(self) -> list[bytes]:
        out, beat = [], self.shape.beat
        for fill in self.fills:
            data = fill.tobytes()
            data += bytes(-len(data) % beat)
            out += [data[i : i + beat] for i in range(0, len(data), beat)]
        return out

    def stimulus(
        self, seed: int = 0, stall: int = 0, passes: int = 100, beats: int = 100, reset: int = 0
    ) -> str:
        """Returns the harness's file."""
        lines = [
            f"options {seed} {stall} {passes} {beats} {reset}",
            f"expect {sum(map(len, self.expected().values()))}",
        ]
        lines += [f"memory {name} {index} {words.hex()}" for name, index, words in self.banks()]
        lines += [f"pass {p.encode().hex()}" for p in self.passes]
        lines += [
            f"demand {(words | tiles << 13).to_bytes(4, 'little').hex()}" for words, tiles in self.demands
        ]
        lines += [f"beat {beat.hex()}" for beat in self.beats()]
        return "\n".join(lines) + "\n"

    def expected(self) -> dict[str, list[list[int]]]:
        """Returns the results in order: `sum` of L tokens, `score` of all."""
        out: dict[str, list[list[int]]] = dict(sum=[], score=[])
        total: np.ndarray | int = 0
        for p in self.passes:
            sums = p.rows.astype(np.int64) @ p.activations.astype(np.int64).T
            if p.fields["scores"]:
                out["score"] += sums.tolist()
                continue
            total = sums + (0 if p.fields["first"] else total)
            if p.fields["last"]:
                lanes, groups = self.shape.lanes, p.fields["groups"]
                for row in total:
                    padded = np.zeros(ceil_div(len(row), lanes) * lanes, np.int64)
                    padded[: len(row)] = row
                    out["sum"] += padded.reshape(-1, lanes)[:groups].tolist()
        return out


@dataclass
class Observed:
    """Cycles of the RTL, from the harness's lines."""

    lines: list[list[str]]

    def __post_init__(self) -> None:
        resets = [i for i, line in enumerate(self.lines) if line == ["reset"]]
        self.lines = self.lines[resets[-1] + 1 :] if resets else self.lines

    def numbers(self, *kinds: str, column: int = 1) -> list[int]:
        return [int(line[column]) for line in self.lines if line[0] in kinds]

    def results(self, kind: str) -> list[list[int]]:
        return [[int(value) for value in line[3:]] for line in self.lines if line[0] == kind]


def listing(program: Program, seen: Observed) -> str:
    """Returns the input of `array_cycles`, the example of quasar-accelerator: when all is offered and taken."""
    shape = program.shape
    sizes = (
        shape.tokens,
        shape.pairs,
        shape.cascade,
        shape.ratio,
        shape.depth,
        int(shape.dsp48e1),
        shape.beat,
    )
    lines = [" ".join(map(str, sizes))]
    demands = zip(program.demands, seen.numbers("demand", column=2), strict=True)
    fills = 0
    for p, offered in zip(program.passes, seen.numbers("pass"), strict=True):
        if p.fill == fills:
            (words, tiles), taken = next(demands)
            lines.append(f"weights {words} {tiles} {taken}")
            fills += tiles
        f = p.fields
        rows4 = 2 * f["pairs4"] - f["single"]
        numbers = (p.words, rows4, len(p.rows) - rows4, f["groups"], offered, f["scores"], f["last"])
        lines.append(" ".join(["pass", *map(str, (*numbers, int(p.fill is not None), f["frees"]))]))
    for name, cycles in (
        ("beats", seen.numbers("beat")),
        ("sums", seen.numbers("sum", column=2)),
        ("scores", seen.numbers("score", column=2)),
    ):
        lines.append(" ".join([name, *map(str, cycles)]))
    return "\n".join(lines) + "\n"


def compare(program: Program, seen: Observed, modelled: list[list[int]]) -> Counter[str]:
    """Compares all results with int64 and all cycles with the event model's; returns what passes waited for."""
    for kind, results in program.expected().items():
        assert seen.results(kind) == results
    passes = zip(seen.numbers("pass", column=2), seen.numbers("start"), seen.numbers("end"), strict=True)
    assert [line[:3] for line in modelled] == [list(cycles) for cycles in passes]
    shown: dict[str, list[int]] = dict(sum=[], score=[])
    for p, line in zip(program.passes, modelled, strict=True):
        shown["score" if p.fields["scores"] else "sum"] += line[7:]
    assert shown == {kind: seen.numbers(kind) for kind in shown}
    # By docs/array-timing.md, from the model's starts and ends.
    r, waits, freed, starved = program.shape.ratio, Counter[str](), [0], list[int]()
    retired: list[int] = []
    issue = 0
    for p, (_, start, end, chain, room, weights, descriptor, *_items) in zip(
        program.passes, modelled, strict=True
    ):
        bounds = dict(issue=issue, chain=chain, room=room, weights=weights, descriptor=descriptor)
        waits += Counter(rule for rule, bound in bounds.items() if bound == start)
        starved += range(ceil_div(max(issue, chain, room, descriptor), r), ceil_div(start, r))
        issue = max(start + ISSUE_INTERVAL, end + 1)
        retired.append(max((end + 1) // r + 1, retired[-1] + 1 if retired else 0))
        if p.fields["post_load"]:
            freed.append((end + END_TO_FREED) // r + 1)
    for kind, cycles in (("credit", freed), ("retired", retired), ("starved", starved)):
        assert seen.numbers(kind) == cycles, kind
    return waits
