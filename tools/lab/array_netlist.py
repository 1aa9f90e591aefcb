#!/usr/bin/env python3
"""Count the array as Yosys builds it: cells, longest path and largest fan-out.

    python tools/lab/array_netlist.py                    # all configurations, to docs/evidence/array-netlists.json
    python tools/lab/array_netlist.py zcu102-66x6x4      # some of them; those in the file are replaced
    python tools/lab/array_netlist.py --keep             # keep counts of older RTL, and note that it has changed

Synthesises `fpga/rtl/array_top.sv` (the array with the memories that it reads) with Yosys's `synth_xilinx`. Two
outputs of a LUT are not shared, so LUTs are an upper bound. A level is a LUT, or a read of LUT RAM; a carry chain
counts in `carry`. Paths and fan-outs of the array's domain are those that begin or end in a register on its clock.
"""

from __future__ import annotations

import hashlib
import json
import re
import resource
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import click

from quasar_rt.hardware import Hardware
from run_log import commit

ROOT = Path(__file__).resolve().parents[2]
RTL = ROOT / "fpga/rtl"
RECORD = ROOT / "docs/evidence/array-netlists.json"
#: The lanes and what they use; the package first.
LANES = (
    "lane_types.sv", "multiply_add.sv", "requantize_lane.sv", "lane_store.sv", "lane_fill.sv", "lane_scales.sv",
    "lane_logits.sv", "lane_rotation.sv", "lane_turns.sv", "value_means.sv", "lanes.sv", "registers.sv", "delay.sv",
    "queue.sv",
)  # fmt: skip
#: Modules of the block design that are no part of the array.
OTHERS = {"bank.v", "clock_status.v", "clock_watchdog.v", "counters.sv", *LANES[:11]}


class Size(NamedTuple):
    """A configuration: the array, its lanes and the device's family. Buffers are those of DeiT-tiny."""

    family: str  # xcup, xc7
    tokens: int
    pairs: int
    cascade: int
    lanes: int
    norm: int
    exponential: int
    frames: int = 2
    beat: int = 32  # bytes
    uram: bool = False
    hidden: int = 768
    embed: int = 192
    patch: int = 768
    keys: int = 197
    depth: int = 64
    bands: tuple[int, int] = (1, 1)  # of patches and of the MLP

    def hardware(self) -> Hardware:
        """Returns the configuration, with buffers for the network."""
        tokens, cascade = self.tokens, self.cascade

        def padded(count: int) -> int:
            return -(-count // cascade) * cascade

        tiles = -(-self.keys // tokens)
        key_banks = -(-self.lanes // self.pairs) * self.pairs
        value_banks = max(self.pairs, -(-(self.lanes + cascade - 1) // cascade))
        sections = {
            "array": dict(tokens=tokens, pairs=self.pairs, cascade=cascade, clock_ratio=2),
            "lanes": dict(
                requantize=self.lanes, gelu=self.lanes, norm=self.norm, exponential=self.exponential
            ),
            "buffers": dict(
                input=-(-tiles // self.bands[0]) * padded(self.patch),
                residual=tiles * self.embed,
                norm=tiles * padded(self.embed),
                query=tiles * padded(self.embed),
                key=-(-self.keys // key_banks) * padded(self.embed),
                value=-(-self.embed // value_banks) * padded(self.keys),
                score=self.keys,
                hidden=-(-tiles // self.bands[1]) * padded(self.hidden),
                weight=padded(max(self.hidden, self.patch)),
            ),
        }
        board = {"xc7": "pynq-z2", "xcup": "kv260" if self.uram else "zcu102"}[self.family]
        text = f'board = "{board}"\nclock_mhz = 100.0\nmode = "nibble"\nframes = {self.frames}\n'
        text += f"axi_ports = {self.beat // 16}\n"
        for title, values in sections.items():
            text += f"[{title}]\n" + "".join(f"{key} = {value}\n" for key, value in values.items())
            text += 'multipliers = "dsp"\n' if title == "lanes" else ""
        return Hardware.from_toml(text)

    def parameters(self) -> dict[str, int]:
        """Returns the parameters of `array_top`; the kinds of RAM are those of the product's list."""
        hardware = self.hardware()
        buffers = hardware.settings["buffers"]

        def words(buffer: str) -> int:
            return -(-int(buffers[buffer]) // self.cascade)

        names = dict(
            INPUT="input", NORM="norm", QUERY="query", HIDDEN="hidden", SCORE="score", KEY="key",
            VALUE="value", WEIGHT="weight",
        )  # fmt: skip
        sizes = {f"{name}_WORDS": words(buffer) for name, buffer in names.items()}
        rows = max(2 * sizes["WEIGHT_WORDS"], sizes["KEY_WORDS"], sizes["VALUE_WORDS"])
        columns = max(
            sizes[name] for name in sizes if name.startswith(("INPUT", "NORM", "QUERY", "HIDDEN", "SCORE"))
        )
        dsp48e1 = self.family == "xc7"
        parts = {part.name: part for part in hardware.parts}
        memories = dict(
            INPUT="input", NORM="normed", QUERY="query", HIDDEN="hidden", SCORE="probability", KEY="key",
            VALUE="value",
        )  # fmt: skip
        kinds = {
            f"{name}_RAM": 2 if parts[memory].uram else int(parts[memory].bram18 > 0)
            for name, memory in memories.items()
        }
        return sizes | kinds | dict(
            T=self.tokens, P=self.pairs, C=self.cascade, L=self.lanes, M=self.norm, E=self.exponential,
            S=21 if dsp48e1 else 23, FRAMES=self.frames,
            KEY_BANKS=-(-self.lanes // self.pairs) * self.pairs,
            VALUE_BANKS=max(self.pairs, -(-(self.lanes + self.cascade - 1) // self.cascade)),
            BEAT=self.beat, ADDRESS_BITS=(columns - 1).bit_length(), ROW_BITS=(rows - 1).bit_length(),
            FIFO_DEPTH=self.depth, DSP48E1=int(dsp48e1), PRIMITIVES=1,
        )  # fmt: skip


SIZES = {
    "zcu102-66x6x4": Size("xcup", 66, 6, 4, 33, 9, 33),
    "zcu102-50x10x4": Size("xcup", 50, 10, 4, 50, 13, 50, beat=64),
    "kv260-22x11x4": Size("xcup", 22, 11, 4, 22, 4, 22, beat=64, uram=True, bands=(1, 2)),
    "kv260-33x6x4": Size("xcup", 33, 6, 4, 17, 6, 17, uram=True),
    "kv260-40x4x8": Size("xcup", 40, 4, 8, 20, 5, 10, uram=True),
    "xcup-25x12x2": Size("xcup", 25, 12, 2, 13, 5, 7),
    "xcup-20x9x1": Size("xcup", 20, 9, 1, 10, 3, 5, frames=1, beat=16),
    "pynq-z2-4x7x4": Size("xc7", 4, 7, 4, 4, 2, 4, frames=1, beat=16, bands=(5, 4)),
    "pynq-z2-25x6x1": Size("xc7", 25, 6, 1, 5, 2, 3, frames=1, beat=16, hidden=384, embed=96),
    "xc7-10x4x4": Size("xc7", 10, 4, 4, 5, 2, 3, frames=1, beat=16, hidden=384, embed=96),
}


# Cells of Yosys's netlist: clock pin -> pins that a register takes, for each kind.
LUT = re.compile(r"LUT\d$|INV$")
FLIP_FLOP = re.compile(r"FD[RSCP]E$")
SHIFT = re.compile(r"SRL")
LUT_RAM = re.compile(r"RAM(32|64|128|256)")
BLOCK_RAM = re.compile(r"RAMB|URAM")
MULTIPLEXER = re.compile(r"MUXF\d$")
#: LUTs of a distributed RAM.
RAM_LUTS = {
    "RAM32M": 4,
    "RAM64M": 4,
    "RAM32M16": 8,
    "RAM64M8": 8,
    "RAM64X1D": 2,
    "RAM32X1D": 2,
    "RAM128X1D": 4,
    "RAM64X1S": 1,
    "RAM128X1S": 2,
    "RAM256X1S": 4,
}


class Cell(NamedTuple):
    """A cell: its kind, and the net of each pin."""

    kind: str
    pins: dict[str, str]

    def outputs(self) -> Iterator[str]:
        """Yields the nets that it drives."""
        for pin, net in self.pins.items():
            if is_output(self.kind, pin):
                yield net


def is_output(kind: str, pin: str) -> bool:
    if LUT_RAM.match(kind):
        return pin.startswith(("DO", "DPO", "SPO")) or pin == "O"
    if BLOCK_RAM.match(kind):
        return pin.startswith(("DO", "CAS", "DBITERR", "SBITERR"))
    if kind.startswith("DSP"):
        return pin.startswith(("P[", "PCOUT"))
    if kind == "CARRY4":
        return pin.startswith(("O[", "CO["))
    return pin.startswith(("O", "Q"))


def read(netlist: Path) -> list[Cell]:
    """Reads the cells of a BLIF file."""
    cells, line = [], ""
    constants = {"$false", "$true", "$undef"}
    with netlist.open() as lines:
        for part in lines:
            if part.endswith("\\\n"):
                line += part[:-2]
                continue
            words, line = (line + part).split(), ""
            if words and words[0] in (".subckt", ".gate"):
                pins = (word.split("=", 1) for word in words[2:])
                cells.append(
                    Cell(words[1], {sys.intern(pin): net for pin, net in pins if net not in constants})
                )
    return cells


class Domains:
    """The clock of each sequential pin: "fast", "slow" or "" (none)."""

    def __init__(self) -> None:
        self.names = {"clk_array": "fast", "clk": "slow"}

    def of(self, cell: Cell, pin: str) -> str:
        """Returns a pin's domain."""
        kind, pins = cell.kind, cell.pins
        if FLIP_FLOP.match(kind):
            clock = pins.get("C")
        elif SHIFT.match(kind):
            clock = None if re.match(r"A", pin) else pins.get("CLK")
        elif LUT_RAM.match(kind):
            # The read address goes through; the write port is registered.
            write = pin.startswith(("D", "WE")) or self.is_write_address(kind, pin)
            clock = pins.get("WCLK") if write else None
        elif BLOCK_RAM.match(kind):
            clock = pins.get(self.block_clock(cell, pin))
        elif kind.startswith("DSP"):
            clock = pins.get("CLK")
        else:
            clock = None
        return self.names.get(clock or "", "")

    @staticmethod
    def is_write_address(kind: str, pin: str) -> bool:
        """Returns whether a pin of a LUT RAM is a bit of the address of its write port."""
        if kind in ("RAM32M", "RAM64M"):
            return pin.startswith("ADDRD")
        if kind in ("RAM32M16", "RAM64M8"):
            return pin.startswith("ADDRH")
        return pin.startswith("A")

    @staticmethod
    def block_clock(cell: Cell, pin: str) -> str:
        """Returns the clock pin of a block RAM's pin."""
        if cell.kind.startswith("URAM"):
            return "CLK"
        # If port B alone writes, port A reads: then a word's data may be on both ports' pins.
        writes = {name[:3] for name in cell.pins if name.startswith("WE")}
        if pin.startswith("D") and writes == {"WEB"}:
            return "CLKARDCLK" if is_output(cell.kind, pin) else "CLKBWRCLK"
        first = re.search(
            r"(ARDADDR|ARDEN|ADOUT|ADIN|PADIN|CLKARD|REGCEA|RSTRAMA|RSTREGA|WEA|ENARD|DOUTA|DOUTPA|DOADO|DOPADOP)",
            pin,
        )
        return "CLKARDCLK" if first else "CLKBWRCLK"


#: LUTs, or reads of LUT RAM, then carry cells.
Level = tuple[int, int]


def is_sequential(cell: Cell) -> bool:
    return bool(
        FLIP_FLOP.match(cell.kind) or SHIFT.match(cell.kind) or BLOCK_RAM.match(cell.kind)
        or cell.kind.startswith("DSP")
    )  # fmt: skip


def named(net: str) -> str:
    return "unnamed" if net.startswith("$") else net


class Netlist:
    """The cells and what each net drives.

    `arrival` has for each net the most levels on the way to it, by the domain where the way begins; `before` the net
    that the way comes from.
    """

    def __init__(self, cells: list[Cell]) -> None:
        self.cells, self.domains = cells, Domains()
        self.driver = {net: index for index, cell in enumerate(cells) for net in cell.outputs()}
        self.arrival: dict[str, dict[str, Level]] = {}
        self.before: dict[tuple[str, str], str] = {}
        # Output registers of block RAM, which Yosys leaves outside, are a part of their RAM.
        home = list(range(len(cells)))
        self.absorbed = 0
        for index, cell in enumerate(cells):
            ram = self.driver.get(cell.pins.get("D", ""))
            if FLIP_FLOP.match(cell.kind) and ram is not None and BLOCK_RAM.match(cells[ram].kind):
                home[index] = ram
                self.absorbed += 1
        self.loads: dict[str, int] = defaultdict(int)
        self.sinks: dict[str, set[int]] = defaultdict(set)
        for index, cell in enumerate(cells):
            for pin, net in cell.pins.items():
                if not is_output(cell.kind, pin):
                    self.loads[net] += 1
                    self.sinks[net].add(home[index])

    @staticmethod
    def inputs(cell: Cell, net: str) -> Iterator[str]:
        """Yields the nets that one output of a combinational cell depends on."""
        for pin, source in cell.pins.items():
            if is_output(cell.kind, pin):
                continue
            if LUT_RAM.match(cell.kind):
                if pin.startswith(("D", "WE", "WCLK")) or Domains.is_write_address(cell.kind, pin):
                    continue
                output = next(name for name, value in cell.pins.items() if value == net)
                port = re.match(r"DO([A-H])", output)
                if port and not pin.startswith("ADDR" + port[1]):
                    continue
            yield source

    def arrival_at(self, root: str) -> dict[str, Level]:
        """Returns the arrival at a net; finds those at all nets on the way to it."""
        stack = [root]
        while stack:
            net = stack[-1]
            if net not in self.arrival:
                index = self.driver.get(net)
                cell = None if index is None else self.cells[index]
                if cell is None or is_sequential(cell):
                    domain = cell and self.domains.of(
                        cell, next(name for name, value in cell.pins.items() if value == net)
                    )
                    self.arrival[net] = {domain: (0, 0)} if domain else {}
                else:
                    sources = list(self.inputs(cell, net))
                    missing = [source for source in sources if source not in self.arrival]
                    if missing:
                        stack.extend(missing)
                        continue
                    self.arrival[net] = self._levels(cell, net, sources)
            stack.pop()
        return self.arrival[root]

    def _levels(self, cell: Cell, net: str, sources: list[str]) -> dict[str, Level]:
        levels: dict[str, Level] = {}
        if LUT_RAM.match(cell.kind):
            # What an edge of the write clock stored appears at the output.
            clock = self.domains.names.get(cell.pins["WCLK"])
            levels |= {clock: (1, 0)} if clock else {}
        step = (
            (1, 0) if LUT.match(cell.kind) or LUT_RAM.match(cell.kind)
            else (0, 1) if cell.kind == "CARRY4" else (0, 0)
        )  # fmt: skip
        for source in sources:
            for domain, (deep, carry) in self.arrival[source].items():
                reached = (deep + step[0], carry + step[1])
                if reached > levels.get(domain, (-1, -1)):
                    levels[domain] = reached
                    self.before[net, domain] = source
        return levels

    def paths(self) -> dict[str, dict[str, object]]:
        """Returns the longest path of each domain, and of each crossing with the number of its ends."""
        longest: dict[str, tuple[Level, str, str, str]] = {}
        ends: Counter[str] = Counter()
        for cell in self.cells:
            for pin, net in cell.pins.items():
                if is_output(cell.kind, pin) or pin in ("C", "CLK", "WCLK") or pin.startswith("CLK"):
                    continue
                end = self.domains.of(cell, pin)
                if not end:
                    continue
                for begin, level in self.arrival_at(net).items():
                    crossing = f"{begin} to {end}" if begin != end else ""
                    ends[crossing] += 1
                    for where in filter(None, ("slow" if begin == end == "slow" else "array", crossing)):
                        if level > longest.get(where, ((-1, -1), "", "", ""))[0]:
                            longest[where] = (level, net, begin, f"{cell.kind}.{pin}")
        return {
            where: dict(levels=level[0], carry=level[1], begin=self._source(net, begin), end=end)
            | (dict(ends=ends[where]) if where in ends else {})
            for where, (level, net, begin, end) in sorted(longest.items())
        }

    def _source(self, net: str, begin: str) -> str:
        while (net, begin) in self.before:
            net = self.before[net, begin]
        return named(net)

    def fan_outs(self) -> dict[str, dict[str, object]]:
        """Returns the net of each domain that drives most cells."""
        most: dict[str, tuple[int, int, str]] = {}
        for net, count in self.loads.items():
            if net in self.driver and (ends := self.arrival_at(net)):
                where = "array" if "fast" in ends else "slow"
                most[where] = max(most.get(where, (0, 0, "")), (len(self.sinks[net]), count, net))
        return {where: dict(cells=a, pins=b, net=named(net)) for where, (a, b, net) in sorted(most.items())}


def analyse(cells: list[Cell]) -> dict[str, object]:
    """Returns counts, longest paths and largest fan-outs."""
    netlist, kinds = Netlist(cells), Counter(cell.kind for cell in cells)
    logic = sum(count for kind, count in kinds.items() if re.match(r"LUT\d$", kind))
    ram = sum(RAM_LUTS[kind] * count for kind, count in kinds.items() if LUT_RAM.match(kind))
    shift = sum(count for kind, count in kinds.items() if SHIFT.match(kind))
    flip_flops = sum(count for kind, count in kinds.items() if FLIP_FLOP.match(kind))
    return dict(
        lut=logic + ram + shift,
        lut_logic=logic,
        lut_ram=ram,
        lut_shift=shift,
        inverters=kinds["INV"],
        ff=flip_flops - netlist.absorbed,
        ff_ram_outputs=netlist.absorbed,
        carry4=kinds["CARRY4"],
        dsp=sum(count for kind, count in kinds.items() if kind.startswith("DSP")),
        bram36=sum(
            count * (0.5 if "18" in kind else 1) for kind, count in kinds.items() if kind.startswith("RAMB")
        ),
        uram=kinds["URAM288"],
        paths=netlist.paths(),
        fan_out=netlist.fan_outs(),
    )


def sources() -> list[Path]:
    """Returns the array's files, the package first."""
    found = [path for path in RTL.iterdir() if path.name not in OTHERS]
    return sorted(found, key=lambda path: (path.name != "pass_types.sv", path.name))


def digest() -> str:
    """Returns a digest of the array's files."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources())).hexdigest()[:16]


def synthesise(size: Size, folder: Path) -> Path:
    """Runs Yosys and returns the netlist."""
    return build("array_top", sources(), size.parameters(), size.family, folder, *["-uram"] * size.uram)


def build(
    top: str, sources: Sequence[Path], parameters: Mapping[str, int], family: str, folder: Path, *options: str
) -> Path:
    """Runs Yosys on a module, refuses latches, and returns the netlist."""
    netlist = folder / f"{top}.blif"
    settings = " ".join(f"-set {name} {value}" for name, value in parameters.items())
    script = "; ".join(
        [
            f"read_verilog -sv {' '.join(map(str, sources))}",
            f"chparam {settings} {top}",
            f"synth_xilinx -family {family} {' '.join(options)} -top {top} -flatten -noiopad -noclkbuf",
            "select -assert-none t:LDCE t:LDPE t:$*latch*",
            f"write_blif {netlist}",
        ]
    )
    subprocess.run(["yosys", "-q", "-p", script], check=True, capture_output=True, text=True)
    return netlist


@click.command()
@click.argument("names", nargs=-1)
@click.option("--output", type=click.Path(path_type=Path), default=RECORD)
@click.option("--keep", is_flag=True, help="Count nothing: note that the RTL has changed since the counts.")
def main(names: tuple[str, ...], output: Path, keep: bool) -> None:
    """Count the array as Yosys builds it."""
    record = json.loads(output.read_text()) if output.exists() else {}
    for name in names or SIZES:
        if keep:
            record[name]["rtl_changed_until"] = digest()
            output.write_text(json.dumps(record, indent=1) + "\n")
            continue
        size, begun = SIZES[name], time.time()
        with TemporaryDirectory() as folder:
            found = analyse(read(synthesise(size, Path(folder))))
        record[name] = (
            dict(commit=commit(), sources=digest(), size=size._asdict(), parameters=size.parameters()) | found
        )
        seconds, peak = time.time() - begun, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
        paths, fan_out = found["paths"], found["fan_out"]
        click.echo(f"{name}: {json.dumps({k: v for k, v in found.items() if k not in ('paths', 'fan_out')})}")
        click.echo(f"  paths {json.dumps(paths)}")
        click.echo(f"  fan-out {json.dumps(fan_out)} ({seconds:.0f} s, {peak:.1f} GB)")
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps({key: record[key] for key in SIZES if key in record}, indent=1) + "\n")


if __name__ == "__main__":
    main()
