#!/usr/bin/env python3
"""Counts the LUTs that the kernels' expressions ask for, loop by loop.

tools/hls_ports/netlist.py writes each pipelined loop as Verilog, operation by operation and with the range of each
number; Yosys (`synth_xilinx -family xcup`) counts it. Registers of pipelines, state machines, queues and adapters are
absent. The counts judge the circuits of fpga/estimates, from which the resource model counts the kernels.

`python tools/kernel_logic.py KERNEL ... [--config FOLDER] [--verilog FOLDER]`: FOLDER has config.hpp, as
`make sim` writes it to build/config/NAME. Needs clang++ and Yosys.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from hls_ports.netlist import Netlist
from hls_ports.syntax import HEADERS, ROOT

KERNELS = ("fetch", "load", "plan", "scores", "drain", "norm", "softmax", "store")


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


def count(text: str) -> tuple[int, int]:
    """Returns a module's LUTs and DSP slices."""
    name = text.split()[1]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "loop.v").write_text(text)
        synthesis = f"synth_xilinx -family xcup -top {name} -flatten -noiopad -noclkbuf"
        commands = f"read_verilog loop.v; {synthesis}; tee -o stat stat"
        subprocess.run(["yosys", "-q", "-p", commands], cwd=folder, check=True, capture_output=True)
        cells = re.findall(r"^ +([A-Z]\w+) +(\d+)$", (Path(folder) / "stat").read_text(), re.MULTILINE)
    luts = sum(int(number) for cell, number in cells if re.match(r"LUT\d", cell))
    return luts, sum(int(number) for cell, number in cells if cell.startswith("DSP"))


def main() -> None:
    """Prints the counts of the given kernels."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("kernels", nargs="*", default=KERNELS, help="default: all")
    parser.add_argument("--config", type=Path, default=HEADERS, help="folder of config.hpp")
    parser.add_argument("--loop", default="", help="only loops whose name has this")
    parser.add_argument("--verilog", type=Path, help="a folder to keep the modules in")
    arguments = parser.parse_args()
    for kernel in arguments.kernels:
        total = 0
        for name, text in modules(ROOT / "fpga" / "src" / f"{kernel}.cpp", arguments.config).items():
            if arguments.verilog:
                arguments.verilog.mkdir(parents=True, exist_ok=True)
                (arguments.verilog / f"{re.sub(r'[^a-z0-9.]', '_', name)}.v").write_text(text)
            luts, slices = count(text) if arguments.loop in name else (0, 0)
            total += luts
            if luts:
                print(f"{name:24} {luts:6} LUT {slices:4} DSP", flush=True)
        print(f"{kernel:24} {total:6} LUT", flush=True)


if __name__ == "__main__":
    main()
