#!/usr/bin/env python3
"""Record all signals of the array and the lanes during a frame on a simulated accelerator: build/waves/NAME.vcd.

    python tools/waveform.py tiny              # a small random network; make waveform builds the device first
    python tools/waveform.py odd mine.qvit     # a subnet of your own: its file grows with its cycles

Verilator records array and lanes apart; their files become one, from the device's reset to the end of the frame, in
the time of the configuration's clock. The clock of a module stands while the module has nothing to do.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Iterator
from heapq import merge
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TextIO

from quasar_rt import Engine, Subnet, UntrainedWarning, random_subnet
from quasar_rt.files import make_folder
from quasar_rt.hardware import Hardware
from quasar_rt.testing import random_image

ROOT = Path(__file__).resolve().parents[1]
SMALL: dict[str, Any] = dict(
    embed=8, depth=1, heads=1, head_dim=4, hidden=8, image_size=8, channels=1, kernel=4, classes=3
)


def declarations(file: TextIO, mark: str) -> list[str]:
    """Returns the lines that declare a module's signals, whose codes begin with `mark`. Leaves out Verilator's TOP."""
    lines = [
        re.sub(r"(\$var \S+ +\d+ )", rf"\1{mark}", line)
        for line in iter(file.readline, "$enddefinitions $end\n")
    ]
    _, module, *_ = (i for i, line in enumerate(lines) if "$scope" in line)
    _, end, *_ = (i for i in reversed(range(len(lines))) if "$upscope" in lines[i])
    return lines[module : end + 1]


def moments(file: TextIO, mark: str) -> Iterator[tuple[int, str]]:
    """Yields each change of a signal, after its time."""
    time = 0
    for line in filter(str.strip, file):
        if line[0] == "#":
            time = int(line[1:])
        else:
            value, space, code = line.rpartition(" ") if line[0] == "b" else (line[0], "", line[1:])
            yield time, f"{value}{space}{mark}{code}"


def joined(folder: Path, picoseconds: float) -> str:
    """Returns the two modules' files as one. `picoseconds` is the unit of their times."""
    with (folder / "array.vcd").open() as array, (folder / "lanes.vcd").open() as lanes:
        parts = ((array, "a"), (lanes, "l"))
        text = ["$timescale 1ps $end\n"]
        for part in parts:
            text += declarations(*part)
        text.append("$enddefinitions $end\n")
        for time, changes in groupby(
            merge(*(moments(*part) for part in parts), key=itemgetter(0)), itemgetter(0)
        ):
            text.append(f"#{time * picoseconds:.0f}\n")
            text += (change for _, change in changes)
    return "".join(text)


def main(name: str, file: str | None = None) -> None:
    """Runs the frame and writes the file."""
    warnings.simplefilter("ignore", UntrainedWarning)
    settings = Hardware.load(ROOT / f"fpga/configs/{name}.toml").settings
    subnet = random_subnet(**SMALL) if file is None else Subnet.load(file)
    out = ROOT / f"build/waves/{name}.vcd"
    with TemporaryDirectory() as folder:
        os.environ["QUASAR_WAVES"] = folder
        with Engine(subnet, f"{ROOT}/build/sim-rtl-traced/{name}.so", timeout=3600) as engine:
            engine.infer(random_image(subnet, seed=0))
        halves = 2 * settings["array"].get("clock_ratio", 1) * settings["clock_mhz"]
        text = joined(Path(folder), 1e6 / halves)
    make_folder(out.parent)
    out.write_text(text, encoding="utf-8")
    shown = out.relative_to(ROOT)
    print(
        f"{shown}: {text.count('$var')} signals, {len(text) / 1e6:.1f} MB. To look at it: gtkwave {shown} (or surfer)"
    )


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: python tools/waveform.py CONFIGURATION [SUBNET.qvit]")
    main(*sys.argv[1:])
