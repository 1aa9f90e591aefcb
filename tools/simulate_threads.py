#!/usr/bin/env python3
"""Simulate a frame on more cores than this machine has, and print where further threads stop paying.

    python tools/simulate_threads.py deit-tiny                  # this machine's pieces, 1 to 16 cores
    python tools/simulate_threads.py deit-small --tier avx2
    python tools/simulate_threads.py deit-tiny --zcu102         # four Cortex-A53, modelled

The pieces of this machine are measured one after the other, on one core: run it without other load. Those of
Cortex-A53 are instructions counted under emulation times the modelled cycles of an instruction (docs/cpu-tiers.md).
The schedule is simulated in both cases.
"""

from __future__ import annotations

import json
import warnings
from typing import Any

import click
import numpy as np

from quasar_rt import Engine
from quasar_rt.bench import open_subnet
from quasar_rt.cli.output import print_table
from quasar_rt.errors import UntrainedWarning
from quasar_rt.schedule import Cores, Frame, last_worthwhile, measured_jobs, modelled_jobs, simulate

#: Instructions in millions of a block of DeiT-tiny with 8-bit rows (attention: of its three heads), tier neon:
#: docs/cpu-tiers.md. The patch embedding and the head are taken to cost as many for each product as qkv.
A53_MILLIONS = {"norm1": 0.1, "qkv": 5.8, "attention": 6.0, "proj": 1.9, "norm2": 0.1, "fc1": 7.8, "fc2": 6.9}
#: Modelled cycles for each instruction of the inner loop of 8-bit rows, same page.
A53_CYCLES = 60.0 / 57.0
A53_HERTZ = 1.2e9
#: Share of the attention that packs keys and values, which every thread does: as measured on x86.
PACKING = 0.04

#: Measured on two cores of a Xeon (docs/cpu-speed.md): a meeting of two, keys and values from another core.
#: Assumed: what further threads add to a meeting.
PRIVATE = Cores("each core its own second-level cache", 2.0, 0.3, 14e9)
SHARED = Cores("one second-level cache", 2.0, 0.3, 28e9)
#: Assumed: meetings, and the bytes a second that the cluster gets from the board's DRAM and within its cache.
IN_STEP = Cores("weights read once for all", 5.0, 1.0, 2e9, 2e9, in_step=True)
EACH = Cores("weights read by each core", 5.0, 1.0, 2e9, 2e9)


def show(title: str, results: list[tuple[Cores, list[Frame]]]) -> None:
    rows = []
    for cores, frames in results:
        for frame in frames:
            speedup = frames[0].ms / frame.ms
            rows.append(
                [
                    cores.name,
                    str(frame.threads),
                    f"{frame.ms:.2f}",
                    f"{speedup:.2f}",
                    f"{speedup / frame.threads:.0%}",
                    *(f"{part / frame.ms:.1%}" for part in frame[2:]),
                ]
            )
    headers = ["caches", ">threads", ">ms", ">speedup", ">of ideal", ">work", ">waiting", ">weights"]
    print_table([*headers, ">exchange", ">meetings"], rows, title=title)
    for cores, frames in results:
        click.echo(
            f"{cores.name}: the last number of threads that gains a quarter is {last_worthwhile(frames)}"
        )


@click.command(help=__doc__, context_settings={"max_content_width": 100})
@click.argument("subnet", default="deit-tiny")
@click.option("--tier", metavar="NAME", help="Instruction set; the best one by default.")
@click.option(
    "--threads",
    multiple=True,
    type=click.IntRange(1, 256),
    default=(1, 2, 4, 8, 16),
    show_default=True,
    help="Numbers of threads; the first one is what speedups are of.",
)
@click.option("--zcu102", is_flag=True, help="The four Cortex-A53 of the ZCU102, modelled, for deit-tiny.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(subnet: str, tier: str | None, threads: tuple[int, ...], zcu102: bool, as_json: bool) -> None:
    if zcu102 and subnet != "deit-tiny":
        raise click.UsageError(
            f"the instructions of a frame on Cortex-A53 are known for deit-tiny, not {subnet}"
        )
    warnings.simplefilter("ignore", UntrainedWarning)
    loaded = open_subnet(subnet)
    results: list[tuple[Cores, list[Frame]]] = []
    if zcu102:
        kind = "modelled pieces: Cortex-A53 at 1.2 GHz"
        stages = {name: 1e6 * count * A53_CYCLES / A53_HERTZ for name, count in A53_MILLIONS.items()}
        qkv = next(layer for layer in loaded.summary().layers if layer.name == "blocks.0.qkv")
        for name in ("embed", "head"):
            layer = next(layer for layer in loaded.summary().layers if layer.name == name)
            stages[name] = stages["qkv"] * layer.macs / qkv.macs
        for cores in (IN_STEP, EACH):
            counts = [count for count in threads if count <= 4]
            frames = [
                simulate(modelled_jobs(loaded, stages, PACKING, count), cores, count) for count in counts
            ]
            results.append((cores, frames))
    else:
        with Engine(loaded, "cpu", 1, tier) as engine:
            kind = f"pieces measured here: {engine.tier}"
            image = loaded.config["image"]
            shape = (image["height"], image["width"], image["channels"])
            picture = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
            for cores in (PRIVATE, SHARED):
                frames = [
                    simulate(measured_jobs(engine, picture, count, cores is PRIVATE), cores, count)
                    for count in threads
                ]
                results.append((cores, frames))
    if as_json:
        documents: list[dict[str, Any]] = [
            {
                "kind": "simulated",
                "cores": cores._asdict(),
                "frames": [frame._asdict() for frame in frames],
                "last_worthwhile": last_worthwhile(frames),
            }
            for cores, frames in results
        ]
        click.echo(json.dumps({"subnet": loaded.name, "pieces": kind, "simulated": documents}, indent=1))
        return
    show(f"{loaded.name}, simulated ({kind})", results)


if __name__ == "__main__":
    main()
