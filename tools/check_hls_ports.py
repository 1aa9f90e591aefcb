#!/usr/bin/env python3
"""Checks that the kernels' pipelined loops can have their interval: ports of memories, pragmas, recurrences.

C simulation counts the accesses that happen. Vitis HLS counts access sites: the places in a pipelined loop
that name a memory, taken or not. It gives each site a port in each interval, so C simulation passes loops
that HLS cannot schedule. This program counts as HLS does:

- A loop in a pipelined loop is unrolled, and a called function is inlined. Each copy of an access is a site.
- In a dimension that is partitioned completely, an index that is constant after unrolling names one bank. Any
  other index names every bank: the site counts for each of them.
- The branches of one `if` (`switch`, `?:`) exclude each other. They share a port if they name the same bank:
  the same constant or the same expression. Otherwise their sites add up. So do those of two `if`s,
  whatever their conditions, and those before and behind a `continue`.
- A loop with an interval of N has N times the ports.

HLS may find more pairs of sites that exclude each other. What passes here does not depend on that.

Ports: those of `storage_type` for an `ap_memory` argument; two for a process's own array, and for one that two
processes share; one to read and one to write a stream or an AXI master. Registers need none: arrays that are
partitioned in all dimensions and arrays whose every index is constant. Nor does a constant array as `rom_np`.

A loop in a pipelined loop whose number of trips is not a constant is an error: it cannot be unrolled. So is a
number of type `unsigned` or `int` that a pipelined loop changes for its next interval, unless a constant is its
bound: the loop's interval waits for it, so its type states its range (`up_to`, a field's type, `uint32_t`).

Intervals (tools/hls_ports/intervals.py):

- A loop with an `interval()` mark is pipelined, with the interval that is declared: 1, that of fetch 2. Loops that
  are not pipelined state `PIPELINE off`. A list has all marks, so none is lost together with its pragma.
- A loop that reads and writes an array has a DEPENDENCE pragma for it: a true one, from a write to a later read. Its
  proof is a `distance()` of the same number: the array then fails in simulation where the promise is broken.
- The condition that ends a loop reads no memory, and multiplies or divides only numbers that the loop does not change.
  No variable is a product or quotient of what it was in the interval before.

A queue between processes has one reader and one writer, and flows to a later process unless it holds credits. Arrays
are partitioned completely.

`python tools/check_hls_ports.py [FILE ...]` checks the given kernels, or all of fpga/src. A file's kernel is the
function of its name. The configuration is tests/fpga/hls/config.hpp, in which all counts of groups are above 1
(--config FOLDER: that folder's config.hpp). Needs clang++.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hls_ports.intervals import (
    missing_dependences,
    wrong_marks,
    wrong_partitions,
    wrong_queues,
)
from hls_ports.kernel import Kernel
from hls_ports.syntax import HEADERS, ROOT, Unsupported


def main() -> int:
    """Returns the program's status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("files", nargs="*", type=Path, help="kernels; default: all of fpga/src")
    parser.add_argument("--config", type=Path, default=HEADERS, help="folder of config.hpp")
    parser.add_argument("--quiet", action="store_true", help="print errors only")
    arguments = parser.parse_args()
    sys.setrecursionlimit(20000)
    errors = 0
    loops = 0
    if not arguments.quiet:
        print(f"{'kernel':8} {'loop':28} {'line':>4}  {'memory':28} {'sites':>5} {'ports':>5}")
    for path in arguments.files or sorted((ROOT / "fpga" / "src").glob("*.cpp")):
        try:
            kernel = Kernel(path.resolve(), arguments.config.resolve())
            problems = [*kernel.errors, *wrong_marks(kernel), *missing_dependences(kernel, path.read_text())]
            problems += [*wrong_queues(kernel), *wrong_partitions(kernel)]
        except Unsupported as error:
            print(f"error: {error}", file=sys.stderr)
            errors += 1
            continue
        loops += len(kernel.regions)
        for message in problems:
            print(f"error: {message}", file=sys.stderr)
            errors += 1
        for row in kernel.rows():
            if row.conflict or not arguments.quiet:
                mark = " conflict" if row.conflict else ""
                print(
                    f"{row.kernel:8} {row.loop:28} {row.line:4}  {row.memory:28} {row.sites:5} {row.ports:5}{mark}"
                )
            errors += row.conflict
    print(f"{loops} pipelined loops: {errors or 'no'} error{'s' if errors != 1 else ''}")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
