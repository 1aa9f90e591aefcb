#!/usr/bin/env python3
"""Write docs/zoo.md's tables of the packaged subnets, and their record docs/evidence/zoo.json.

    python tools/lab/zoo.py               # accuracy, size, modelled frame rates: from the packaged files
    python tools/lab/zoo.py --measure     # measures the CPU's milliseconds, too: on a machine that is idle

A measurement is kept as long as its subnet is packaged with the same content.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from pages import markdown, splice
from quasar_rt import DoesNotFitError, Engine, Subnet
from quasar_rt.bench import measure
from quasar_rt.evaluate import wilson
from quasar_rt.hardware import Hardware, Workload, replay
from quasar_rt.packaged import subnet_names, subnet_path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/zoo.md"
RECORD = ROOT / "docs/evidence/zoo.json"
BOARDS = ("zcu102", "zcu104", "kv260", "pynq-zu", "ultra96v2", "pynq-z2")
#: Boards with a configuration in fpga/configs.
CONFIGURED = tuple(board for board in BOARDS if (ROOT / f"fpga/configs/{board}.toml").is_file())
#: Seconds of each measurement, and the load average above which a machine is not idle.
SECONDS, IDLE = 4.0, 0.5

Record = dict[str, Any]


def frame_rate(network: Workload, configure: Callable[[], Hardware]) -> float | None:
    """Returns frames a second, event by event, host excluded; None where the network does not fit."""
    try:
        hardware = configure()
        return round(hardware.clock_mhz * 1e6 / replay(network, hardware).period_cycles, 1)
    except DoesNotFitError:
        return None


def rates(network: Workload) -> Record:
    """Returns the modelled frame rates: on the shipped configurations, and on those chosen for the network."""
    files = {board: ROOT / f"fpga/configs/{board}.toml" for board in CONFIGURED}
    return {
        "shipped": {
            board: frame_rate(network, partial(Hardware.load, file)) for board, file in files.items()
        },
        "chosen": {
            board: frame_rate(network, partial(Hardware.for_board, board, network)) for board in BOARDS
        },
    }


def facts(name: str) -> Record:
    """Returns what the packaged files say of a subnet; `top1` has Wilson's 95 % interval."""
    subnet, path = Subnet.load(name), subnet_path(name)
    assert path is not None
    image, provenance, layers = subnet.config["image"], subnet.config["provenance"], subnet.summary().layers
    figures = provenance["figures"]
    top1 = wilson(round(figures["integer_top1"] * figures["test_images"]), figures["test_images"])
    eight_bit = sum(layer.rows8 for layer in layers)
    return {
        "sha256": subnet.sha256,
        "data": provenance["data"],
        "image": [image["height"], image["width"], image["channels"]],
        "classes": len(subnet.classes),
        "test_images": figures["test_images"],
        "top1": {key: round(value, 4) for key, value in top1._asdict().items()},
        "bytes": path.stat().st_size,
        "eight_bit_share": round(eight_bit / sum(layer.rows4 + layer.rows8 for layer in layers), 4),
        "command": provenance["tool"],
    }


def machine() -> str:
    """Returns the CPU's name, without the vendor's marks, or the architecture where the kernel names none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        lines = ""
    named = re.search(r"^model name\s*: (.+)$", lines, re.MULTILINE)
    name = re.sub(r"\((?:R|TM)\)| CPU\b", "", named[1]).strip() if named else platform.machine()
    return f"{name}, {len(os.sched_getaffinity(0))} cores"


def measured(name: str) -> Record:
    """Measures a frame, pixels to logits, on the CPU's best tier: medians with one thread and on all cores."""
    with Engine(name, "cpu", threads=1) as one, Engine(name, "cpu") as every:
        speeds = [measure(engine, SECONDS) for engine in ((one,) if every.threads == 1 else (one, every))]
        return {
            "sha256": one.subnet.sha256,
            "date": dt.date.today().isoformat(),
            "machine": machine(),
            "tier": one.tier,
            "median_ms": {str(speed.threads): round(speed.median_ms, 4) for speed in speeds},
        }


def make_record(before: Record) -> Record:
    """Returns the record of today's packaged subnets, with the measurements in `before` of the same content."""
    found = {}
    for name in subnet_names():
        entry = facts(name) | {"modelled_fps": rates(Workload.of(Subnet.load(name)))}
        cpu = before.get(name, {}).get("measured")
        if cpu is not None and cpu["sha256"] == entry["sha256"]:
            entry["measured"] = cpu
        found[name] = entry
    return found


def percent(share: float) -> str:
    """Formats a share in percent."""
    return f"{100 * share:.2f} %"


def subnets_table(record: Record) -> str:
    """Formats accuracy, size and the CPU's time."""
    rows = []
    for name, entry in record.items():
        top1, cpu = entry["top1"], entry.get("measured")
        times = " / ".join(f"{ms:.3f}" for ms in cpu["median_ms"].values()) if cpu else "not measured"
        height, width, channels = entry["image"]
        rows.append(
            [
                f"`{name}`",
                entry["data"].partition(" (")[0],
                f"{height}x{width}x{channels}, {entry['classes']}",
                f"{entry['test_images']:,}",
                f"{percent(top1['value'])} ({percent(top1['low'])} to {percent(top1['high'])})",
                f"{entry['bytes'] / 1000:.0f}",
                f"{100 * entry['eight_bit_share']:.0f} %",
                times,
            ]
        )
    header = ["subnet", "data", "image, classes", "test images", "top-1, measured", "kB", "8-bit rows"]
    return markdown([*header, "CPU ms, measured"], rows, 3)


def machines_table(record: Record) -> str:
    """Formats on what the CPU's times were measured."""
    rows = [
        [f"`{name}`", cpu["machine"], cpu["tier"], " / ".join(cpu["median_ms"]), cpu["date"]]
        for name, entry in record.items()
        if (cpu := entry.get("measured"))
    ]
    if not rows:
        return "No packaged subnet has been timed."
    return markdown(["subnet", "machine", "tier", "threads", "date"], rows, 5)


def boards_table(record: Record) -> str:
    """Formats the modelled frame rates, a row for each kind of configuration."""

    def cell(found: dict[str, float | None], board: str) -> str:
        if board not in found:
            return "–"
        fps = found[board]
        return "does not fit" if fps is None else f"{fps:,.0f}"

    kinds = {"shipped": "shipped", "chosen": "chosen for the subnet"}
    rows = [
        [f"`{name}`", label, *(cell(entry["modelled_fps"][kind], board) for board in BOARDS)]
        for name, entry in record.items()
        for kind, label in kinds.items()
    ]
    return markdown(["subnet", "configuration", *BOARDS], rows, 2)


def commands(record: Record) -> str:
    """Formats the commands that made the subnets, one a line, broken at options."""
    marker = "<!-- example: skip: trains the packaged subnets anew -->"
    lines = [entry["command"].replace(" --", " \\\n    --") for entry in record.values()]
    return "\n".join([marker, "", "```console", *(f"$ {line}" for line in lines), "```"])


def tables(record: Record) -> dict[str, str]:
    """Returns the page's blocks by their markers."""
    return {
        "subnets": subnets_table(record),
        "machines": machines_table(record),
        "boards": boards_table(record),
        "commands": commands(record),
    }


def read_record() -> Record:
    """Reads the record; empty where there is none."""
    found: Record = json.loads(RECORD.read_text("utf-8")) if RECORD.is_file() else {}
    return found


@click.command()
@click.option("--measure", "anew", is_flag=True, help="Measure the CPU's milliseconds on this machine.")
@click.option("--busy", is_flag=True, help="With --measure: measure although the machine is busy.")
def main(anew: bool, busy: bool) -> None:
    """Write docs/zoo.md's tables and docs/evidence/zoo.json from the packaged subnets."""
    load = os.getloadavg()[0]
    if anew and not busy and load > IDLE:
        raise click.ClickException(
            f"the machine is busy (load average {load:.2f}): wait until it is below {IDLE:g}, or give --busy"
        )
    record = make_record(read_record())
    if anew:
        record = {name: entry | {"measured": measured(name)} for name, entry in record.items()}
    page = splice(PAGE.read_text("utf-8"), tables(record))
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page, encoding="utf-8")
    for name in (name for name, entry in record.items() if "measured" not in entry):
        click.echo(f"{name}: the CPU's time is not measured: python tools/lab/zoo.py --measure", err=True)


if __name__ == "__main__":
    main()
