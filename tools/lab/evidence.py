#!/usr/bin/env python3
"""Measure what row-wise widths are worth, on small networks: part (a) of docs/evidence.md.

    python tools/lab/evidence.py                         # all of it, then the page's tables and pictures
    python tools/lab/evidence.py --seeds 0 --threads 1   # only the cells of one seed

Every figure is a cell: a small JSON file below OUT/cells, named after what it depends on. A cell that is there is not
computed again, so the same command finishes what was stopped. Frame rates are modelled, accuracies measured.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quasar_rt import QuasarError
from quasar_rt.files import write_text
from quasar_rt.hardware import Hardware

if TYPE_CHECKING:
    import evidence_allocation

ROOT = Path(__file__).resolve().parents[2]
HARDWARE = ROOT / "tools" / "lab" / "evidence-hardware.toml"

#: The seeds of the page.
SEEDS = tuple(range(12))

Log = Callable[[str], None]


def digest_of(value: Any) -> str:
    """Returns the SHA-256 (hex) of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@dataclass
class Cells:
    """Keeps results by name, seed and the digest of what they depend on, a file each."""

    folder: Path
    log: Log

    def path(self, name: str, seed: int, inputs: Mapping[str, Any]) -> Path:
        """Returns the path of that cell."""
        digest = digest_of({"name": name, "seed": seed, "inputs": inputs})
        return self.folder / f"seed{seed}-{name}-{digest[:12]}.json"

    def get(
        self, name: str, seed: int, inputs: Mapping[str, Any], compute: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """Returns the cell's result: read, or computed and kept."""
        path = self.path(name, seed, inputs)
        if path.exists():
            result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["result"]
            return result
        self.log(f"seed {seed}, {name}: begins")
        start = time.monotonic()
        result = json.loads(json.dumps(compute()))
        seconds = round(time.monotonic() - start, 1)
        document = {"name": name, "seed": seed, "seconds": seconds, "result": result, "inputs": inputs}
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(document, indent=1) + "\n")
        self.log(f"seed {seed}, {name}: {seconds:.0f} s")
        return result


def evidence(
    out: Path,
    seeds: Sequence[int],
    tasks: Mapping[str, evidence_allocation.Settings] | None = None,
    data: Path | None = None,
    threads: int | None = None,
    log: Log = lambda line: click.echo(line, err=True),
) -> dict[str, Any]:
    """Computes all cells: contents of docs/evidence/results.json.

    Args:
        out: folder of cells.
        seeds: those to compute.
        tasks: settings by data set; those of the page if None.
        data: folder of Fashion-MNIST's files, where it is in no known place.
        threads: of the CPU; None for all cores.
        log: gets a line for each cell.
    """
    import torch

    import evidence_allocation

    if threads is not None:
        torch.set_num_threads(threads)
    hardware, cells = Hardware.load(HARDWARE), Cells(out / "cells", log)
    tasks = evidence_allocation.TASKS if tasks is None else tasks
    found: dict[str, dict[str, Any]] = {}

    def add(name: str, seed: int, inputs: Mapping[str, Any], compute: Callable[[], dict[str, Any]]) -> None:
        found.setdefault(name, {})[str(seed)] = cells.get(name, seed, inputs, compute)

    for seed in seeds:
        for task_name, task in tasks.items():
            inputs = {
                "settings": plain(task),
                "hardware": hardware.to_toml(),
                "board": hardware.board.to_toml(),
            }
            compute = partial(evidence_allocation.allocation, task, seed, hardware, data)
            add(f"allocation_{task_name}", seed, inputs, compute)
            for budget in (None, *task.tuned):
                name = f"tuning_{task_name}_{'ends' if budget is None else format(budget, 'g')}"
                compute = partial(evidence_allocation.tuning, task, seed, hardware, budget, data)
                add(name, seed, {**inputs, "budget": budget}, compute)
    settings = {name: plain(task) for name, task in tasks.items()}
    return {"format": 3, "settings": settings, "cells": found, "hardware": hardware.settings}


def plain(settings: Any) -> dict[str, Any]:
    """Returns settings as JSON has them."""
    table: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(settings)))
    return table


def numbers(_context: click.Context, _parameter: click.Parameter, text: str) -> list[int]:
    """Reads different seeds, separated by commas."""
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter("whole numbers, separated by commas") from None
    if min(seeds) < 0 or len(set(seeds)) != len(seeds):
        raise click.BadParameter("different numbers of at least 0")
    return seeds


@click.command(help=(__doc__ or "").split("\n\n")[0])
@click.option(
    "--out",
    default="runs/evidence",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of cells.",
)
@click.option(
    "--seeds",
    default=",".join(map(str, SEEDS)),
    show_default=True,
    callback=numbers,
    help="Seeds, separated by commas. Only all of them write the page.",
)
@click.option("--threads", type=click.IntRange(1), metavar="N", help="CPU threads. [all cores]")
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of Fashion-MNIST's files, where it is in no known place.",
)
def main(out: Path, seeds: list[int], threads: int | None, data: Path | None) -> None:
    try:
        document = evidence(out, seeds, data=data, threads=threads)
    except KeyboardInterrupt:
        click.echo(f"Stopped. The same command continues from {out}.", err=True)
        sys.exit(130)
    except (QuasarError, OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    if seeds == list(SEEDS):
        import evidence_report

        evidence_report.write(document)


if __name__ == "__main__":
    main()
