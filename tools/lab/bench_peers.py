#!/usr/bin/env python3
"""Race quasar_rt against OpenVINO int8 (NNCF) and ONNX Runtime int8 on ViTs of the same shape, measured here.

    python tools/lab/bench_peers.py                                         # DeiT-tiny and DeiT-small
    python tools/lab/bench_peers.py --embed 320 --depth 10 --heads 5 --image 224 --patch 16 --threads 1 --threads 3

`make bench-peers` makes the peers' environment first. Each contestant is a process of its own, confined to as many
CPUs as it has threads; they take turns of a fraction of a second, in an order that changes with each round, and only
one runs at a time.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from peer_models import CONTESTANTS, SHAPES, Shape
from quasar_rt.bench import RANDOM_SHAPES
from quasar_rt.cli.output import print_table

ROOT = Path(__file__).resolve().parents[2]
MODELS = Path(__file__).with_name("peer_models.py")


class Process:
    """A contestant at work."""

    def __init__(
        self, name: str, shape: Shape, folder: Path, threads: int, batch: int, peers: Path, isa: str | None
    ) -> None:
        self.name = name
        python = Path(sys.executable) if name == "quasar_rt" else peers
        limit = {} if isa is None else {"ONEDNN_MAX_CPU_ISA": isa}
        self._process = subprocess.Popen(
            [python, MODELS, name, json.dumps(shape), folder, f"--threads={threads}", f"--batch={batch}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **limit},
        )
        self.about: dict[str, Any] = self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise click.ClickException(
                f"{self.name} ended with {self._process.wait()}; run tools/lab/peer_models.py to see why"
            )
        return json.loads(line)

    def run(self, seconds: float) -> list[tuple[float, float]]:
        """Returns the milliseconds of each run, of wall and of CPU time."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()
        times: list[tuple[float, float]] = self._answer()
        return times

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()


def race(
    names: Sequence[str],
    shape: Shape,
    folder: Path,
    threads: int,
    batch: int,
    rounds: int,
    seconds: float,
    peers: Path,
    isa: str | None,
) -> list[dict[str, Any]]:
    """Measures every contestant's times for one shape, number of threads and batch."""
    processes: list[Process] = []
    times: dict[str, list[float]] = {name: [] for name in names}
    cpu_times: dict[str, list[float]] = {name: [] for name in names}
    medians: dict[str, list[float]] = {name: [] for name in names}
    try:
        processes += [Process(name, shape, folder, threads, batch, peers, isa) for name in names]
        for turn in range(rounds):
            first = turn % len(processes)
            for process in processes[first:] + processes[:first]:
                time.sleep(0.03)  # threads of the one before that still spin come to rest
                milliseconds, cpu_milliseconds = zip(*process.run(seconds), strict=True)
                times[process.name] += milliseconds
                cpu_times[process.name] += cpu_milliseconds
                medians[process.name].append(statistics.median(milliseconds))
    finally:
        for process in processes:
            process.__exit__()
    ours = medians["quasar_rt"]
    return [
        {
            "contestant": process.name,
            "threads": threads,
            "batch": batch,
            "runs": len(times[process.name]),
            "min_ms": min(times[process.name]),
            "median_ms": statistics.median(times[process.name]),
            # The mean: some systems count the time of a thread that runs on at their ticks alone.
            "cpu_ms": statistics.mean(cpu_times[process.name]),
            "round_medians_ms": medians[process.name],
            "min_ratio": min(times[process.name]) / min(times["quasar_rt"]),
            "median_ratio": statistics.median(
                theirs / own for theirs, own in zip(medians[process.name], ours, strict=True)
            ),
            "cpu_ratio": statistics.mean(cpu_times[process.name]) / statistics.mean(cpu_times["quasar_rt"]),
            "about": process.about,
        }
        for process in processes
    ]


def cpu() -> dict[str, Any]:
    """Returns a description of the machine on which the figures were measured."""
    model = platform.processor()
    flags: set[str] = set()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().split("\n\n")[0].splitlines()
        facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        flags = set(facts.get("flags", "").split())
        family = f"family {facts.get('cpu family', '?')} model {facts.get('model', '?')}"
        model = f"{facts.get('model name', model)} ({family})"
    extensions = ["avx2", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16"]
    return {
        "cpu": model,
        "cpus": os.cpu_count(),
        "extensions": [name for name in extensions if name in flags],
    }


def show(title: str, results: list[dict[str, Any]]) -> None:
    rows = []
    for result in results:
        rounds = sorted(result["round_medians_ms"])
        rows.append(
            [
                result["contestant"],
                str(result["threads"]),
                str(result["batch"]),
                f"{result['min_ms']:.2f}",
                f"{result['median_ms']:.2f}",
                f"{rounds[0]:.2f}-{rounds[-1]:.2f}",
                f"{result['batch'] / result['median_ms'] * 1e3:,.0f}",
                f"{result['cpu_ms']:.2f}",
                *(
                    "" if result["contestant"] == "quasar_rt" else f"{result[ratio]:.2f}"
                    for ratio in ("min_ratio", "median_ratio", "cpu_ratio")
                ),
            ]
        )
    print_table(
        [
            "runtime",
            ">threads",
            ">batch",
            ">min ms",
            ">median ms",
            ">rounds' medians",
            ">images/s",
            ">CPU ms",
            ">x by min",
            ">x by median",
            ">x by CPU",
        ],
        rows,
        title=title,
    )


@click.command(help=__doc__, context_settings={"max_content_width": 100})
@click.option(
    "--shape", "shapes", multiple=True, type=click.Choice([*RANDOM_SHAPES, *SHAPES]), help="By name."
)
@click.option("--embed", type=int, help="A shape of your own: channels.")
@click.option("--depth", type=int, default=12, show_default=True, help="Its blocks.")
@click.option("--heads", type=int, default=3, show_default=True, help="Its attention heads.")
@click.option("--image", type=int, default=224, show_default=True, help="Its images' edge in pixels.")
@click.option("--patch", type=int, default=16, show_default=True, help="Its patches' edge in pixels.")
@click.option("--threads", multiple=True, type=click.IntRange(1), default=(1, 2), show_default=True)
@click.option(
    "--batch", "batches", multiple=True, type=click.IntRange(1), default=(1, 8, 32), show_default=True
)
@click.option(
    "--rounds", type=click.IntRange(1), default=12, show_default=True, help="Turns of each contestant."
)
@click.option("--seconds", type=float, default=0.4, show_default=True, help="Length of a turn.")
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(list(CONTESTANTS)),
    help="These contestants in addition to quasar_rt.",
)
@click.option(
    "--onednn-isa",
    metavar="ISA",
    help="Keep OpenVINO to an instruction set, such as AVX512_CORE_BF16 on a machine that has AMX too.",
)
@click.option(
    "--peers",
    type=click.Path(path_type=Path),
    default=ROOT / ".venv-peers/bin/python",
    help="Python of the peers' environment.",
)
@click.option(
    "--json", "output", type=click.Path(path_type=Path), help="Write everything that was measured here."
)
def main(
    shapes: tuple[str, ...],
    embed: int | None,
    depth: int,
    heads: int,
    image: int,
    patch: int,
    threads: tuple[int, ...],
    batches: tuple[int, ...],
    rounds: int,
    seconds: float,
    only: tuple[str, ...],
    onednn_isa: str | None,
    peers: Path,
    output: Path | None,
) -> None:
    sizes = {name: (one["embed"], one["depth"], one["heads"]) for name, one in RANDOM_SHAPES.items()}
    named = {**SHAPES, **{name: Shape(*size, 224, 16) for name, size in sizes.items()}}
    if embed is not None:
        name = f"vit-{embed}x{depth}-heads{heads}-{image}-patch{patch}"
        named[name] = Shape(embed, depth, heads, image, patch)
        shapes += (name,)
    if not peers.exists():
        raise click.ClickException(f"there is no {peers}; make bench-peers installs it")
    cpus = len(os.sched_getaffinity(0))
    machine = cpu()
    measured = []
    for name in shapes or ("deit-tiny", "deit-small"):
        shape, folder = named[name], ROOT / "build/peers" / name
        if not (folder / "done").exists():
            click.echo(f"Building {name} for the peers: ONNX, NNCF, dynamic quantization.", err=True)
            subprocess.run(
                [peers, MODELS, "prepare", json.dumps(shape), folder],
                check=True,
                stdout=subprocess.DEVNULL,
            )
        results: list[dict[str, Any]] = []
        for count in threads:
            if count > cpus:
                click.echo(f"{count} threads skipped: this machine has {cpus} CPUs", err=True)
                continue
            for batch in batches:
                names = [
                    contestant
                    for contestant in CONTESTANTS
                    if contestant in ("quasar_rt", *(only or CONTESTANTS))
                    and (batch > 1 or not contestant.endswith("-streams"))
                ]
                results += race(names, shape, folder, count, batch, rounds, seconds, peers, onednn_isa)
        macs = results[0]["about"]["macs"] / 1e9 if results else 0
        show(
            f"{name} ({shape.tokens} tokens, {macs:.2f} GMAC in quasar_rt), measured on {machine['cpu']}",
            results,
        )
        measured.append({"shape": name, **shape._asdict(), "results": results})
    click.echo(
        "x: how many times a runtime's time is quasar_rt's: of the fastest runs, the median over rounds, "
        "of the mean CPU time\n(all threads, spinning included). quasar_rt's time is from uint8 pixels "
        "to the label, the others' from normalized\nfloat pixels to logits."
    )
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        document = {"machine": machine, "onednn_isa": onednn_isa, "measured": measured}
        output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
