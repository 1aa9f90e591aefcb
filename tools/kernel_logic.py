#!/usr/bin/env python3
"""Counts the LUTs that the kernels' expressions ask for, loop by loop, and compares circuits with them.

tools/hls_ports/netlist.py writes each pipelined loop as Verilog, operation by operation and with the range of each
number; Yosys (`synth_xilinx -family xcup`) counts it. Registers of pipelines, state machines, queues and adapters are
absent. The counts judge the circuits of fpga/estimates, from which the resource model counts the kernels.

    python tools/kernel_logic.py KERNEL ... [--config FOLDER] [--verilog FOLDER]   # the loops of kernels
    python tools/kernel_logic.py --record                                          # the circuits, to docs/evidence

FOLDER has config.hpp, as `make sim` writes it to build/config/NAME. Needs clang++ and Yosys.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hls_ports.netlist import Netlist
from hls_ports.syntax import HEADERS, ROOT

KERNELS = ("fetch", "load", "plan", "scores", "drain", "norm", "softmax", "store")
CIRCUITS = ROOT / "rust" / "cost" / "src" / "circuits.rs"
RECORD = ROOT / "docs" / "evidence" / "kernel-circuits.json"
#: Yosys maps a function of at most six inputs to a LUT. Without this option it also joins LUTs with MUXF7 to MUXF9, to
#: save levels: fewer LUTs for a large multiplexer, but twice as many for a divider without pipeline registers.
SINGLE = "-nowidelut"


@dataclass(frozen=True)
class Comparison:
    """A circuit, and the loops that it stands for.

    `sizes` are those of config.hpp. With `wider`, only what the loops take more there is counted, for each of the lanes
    that they have more: a single one may take a quarter more or less than the next.
    """

    circuit: str  # its constant in circuits.rs
    kernel: str
    loops: tuple[str, ...]
    sizes: Mapping[str, int] = field(default_factory=dict)
    wider: Mapping[str, int] = field(default_factory=dict)
    more: int = 1  # lanes, or tokens, of `wider`
    formula: int = 0  # LUTs that rust/cost/src/kernels.rs adds to the circuit for the same
    each: str = ""  # the key of a configuration's `lanes` or `array` of which each has the circuit
    number: int = 1  # of such circuits, for each
    slow: bool = True

    @property
    def modelled(self) -> int:
        """Returns the LUTs that the resource model counts."""
        found = re.search(rf"^    {self.circuit}: .* (\d+) \d+;$", CIRCUITS.read_text(), re.MULTILINE)
        assert found is not None, self.circuit
        return int(found[1]) + self.formula

    def counted(self) -> int:
        """Returns the LUTs that Yosys counts for the loops."""
        narrow = sized(self.kernel, self.sizes)
        wide = sized(self.kernel, self.wider) if self.wider else {}
        texts = [found[loop] for found in (narrow, wide) if found for loop in self.loops]
        luts = [one for one, _ in count(texts)]
        own = len(self.loops)
        return round((sum(luts[own:]) - sum(luts[:own])) / self.more) if self.wider else sum(luts)


def norm_of(lanes: int) -> dict[str, int]:
    """Returns sizes with four groups of `lanes` tokens in the norm."""
    tokens = 4 * lanes
    return dict(TOKENS=tokens, LANES=tokens, NORM_LANES=lanes, KEY_BANKS=tokens, VALUE_BANKS=tokens // 2 + 2)


COMPARISONS = (
    Comparison("NORMALISE_4", "norm", ("norm.normalise#2", "norm.read#3"), norm_of(2), norm_of(6), 4,
               formula=18, each="norm"),
    Comparison("ROOT", "norm", ("norm.root", "norm.root#2", "norm.invert"), norm_of(2), norm_of(6), 4, each="norm"),
    Comparison("EXPONENTIAL", "softmax", ("softmax.exponential",), dict(TOKENS=4, LANES=2, EXP_LANES=2),
               dict(TOKENS=12, LANES=6, EXP_LANES=6), 4, formula=40, each="exponential"),
    Comparison("QUOTIENT", "softmax", ("softmax.divide#2",), dict(EXP_LANES=1)),
    Comparison("FLOOR_DIVIDE", "norm", ("norm.mean",)),
    Comparison("SERIAL_DIVIDE", "norm", ("norm.divide",), slow=False),
    # Each of these has the control of a process, too.
    Comparison("CHECK_BEAT", "load", ("load.beats",), dict(PORTS=1), formula=144 + 306),
    Comparison("CHECK_WORD", "store", ("store.words",), formula=60 + 306),
    Comparison("CHECK_COMMAND", "fetch", ("fetch.commands",), formula=306),
    Comparison("PROCESS", "drain", ("drain.walk", "drain.walk#2", "drain.walk#3"), number=17),
    Comparison("MAXIMUM", "scores", ("scores.store",), dict(TOKENS=8), dict(TOKENS=16), 8, slow=False,
               each="tokens"),
)  # fmt: skip


def modules(kernel: Path, config: Path) -> dict[str, str]:
    """Returns the Verilog of a kernel's loops by name; loops of one name get numbers."""
    sys.setrecursionlimit(20000)
    found: dict[str, str] = {}
    for module in Netlist(kernel.resolve(), config.resolve()).modules:
        name = module.name
        while name in found:
            stem, _, number = name.partition("#")
            name = f"{stem}#{int(number or 1) + 1}"
        found[name] = module.text(re.sub(r"\W", "_", name))
    return found


def sized(kernel: str, sizes: Mapping[str, int]) -> dict[str, str]:
    """Returns the loops of a kernel for sizes of config.hpp."""
    config = (HEADERS / "config.hpp").read_text()
    for name, size in sizes.items():
        config = re.sub(rf"( {name} =) \d+", rf"\1 {size}", config)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.hpp").write_text(config)
        return modules(ROOT / "fpga" / "src" / f"{kernel}.cpp", Path(folder))


def count(texts: list[str]) -> list[tuple[int, int]]:
    """Returns the LUTs and DSP slices of modules."""
    with tempfile.TemporaryDirectory() as folder:
        for number, text in enumerate(texts):
            renamed = re.sub(r"^module \w+", f"(* keep_hierarchy *) module m{number}", text)
            (Path(folder) / f"m{number}.v").write_text(renamed)
        instances = "".join(f"(* keep *) m{number} i{number} (.clk(clk)); " for number in range(len(texts)))
        (Path(folder) / "all.v").write_text(f"module all (input wire clk); {instances}endmodule\n")
        files = " ".join(path.name for path in Path(folder).glob("*.v"))
        synthesis = f"synth_xilinx -family xcup -top all -flatten -noiopad -noclkbuf {SINGLE}"
        commands = f"read_verilog {files}; {synthesis}; tee -o stat stat"
        subprocess.run(["yosys", "-q", "-p", commands], cwd=folder, check=True, capture_output=True)
        report = (Path(folder) / "stat").read_text()
    counts = []
    for number in range(len(texts)):
        # Yosys drops a module without cells.
        own = "".join(re.findall(rf"^=== m{number} ===\n(.*?)(?:\n===|\Z)", report, re.DOTALL | re.MULTILINE))
        cells = re.findall(r"^ +([A-Z]\w+) +(\d+)$", own, re.MULTILINE)
        luts = sum(int(n) for cell, n in cells if re.match(r"LUT\d", cell))
        counts.append((luts, sum(int(n) for cell, n in cells if cell.startswith("DSP"))))
    return counts


def record() -> None:
    """Counts all comparisons and writes them (some minutes)."""
    counts = {}
    for one in COMPARISONS:
        luts = one.counted()
        print(f"{one.circuit:16} {luts:6} LUT, modelled {one.modelled:6}", flush=True)
        counts[one.circuit] = dict(
            loops=one.loops, counted=luts, modelled=one.modelled, each=one.each, number=one.number
        )
    RECORD.write_text(json.dumps(counts, indent=1) + "\n")


def main() -> None:
    """Prints the counts of the given kernels."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("kernels", nargs="*", default=KERNELS, help="default: all")
    parser.add_argument("--config", type=Path, default=HEADERS, help="folder of config.hpp")
    parser.add_argument("--loop", default="", help="only loops whose name has this")
    parser.add_argument("--verilog", type=Path, help="a folder to keep the modules in")
    parser.add_argument("--record", action="store_true", help=f"count the circuits' loops, to {RECORD.name}")
    arguments = parser.parse_args()
    if arguments.record:
        record()
        return
    for kernel in arguments.kernels:
        found = modules(ROOT / "fpga" / "src" / f"{kernel}.cpp", arguments.config)
        chosen = {name: text for name, text in found.items() if arguments.loop in name}
        if arguments.verilog:
            arguments.verilog.mkdir(parents=True, exist_ok=True)
            for name, text in chosen.items():
                (arguments.verilog / f"{re.sub(r'[^a-z0-9.]', '_', name)}.v").write_text(text)
        counts = count(list(chosen.values()))
        for name, (luts, slices) in zip(chosen, counts, strict=True):
            print(f"{name:24} {luts:6} LUT {slices:4} DSP")
        print(f"{kernel:24} {sum(luts for luts, _ in counts):6} LUT", flush=True)


if __name__ == "__main__":
    main()
