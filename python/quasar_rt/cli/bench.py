"""``quasar-rt bench``."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import click

from . import complete
from .info import work
from .options import as_json, check_threads
from .output import echo, print_json, print_records

if TYPE_CHECKING:
    from ..bench import Speed
    from ..profile import AcceleratorProfile
    from ..scaling import Scaling, Spread
    from ..subnet import Subnet


@click.command("bench", short_help="Measure latency and throughput.")
@click.argument("subnet", shell_complete=complete.subnets)
@click.option(
    "--device",
    shell_complete=complete.devices,
    default="auto",
    show_default=True,
    metavar="NAME",
    help="Device to run on.",
)
@click.option(
    "--threads",
    type=click.IntRange(1),
    callback=check_threads,
    multiple=True,
    metavar="N",
    help="Threads of the CPU; may be repeated. By default one, then all cores.",
)
@click.option(
    "--tier",
    shell_complete=complete.tiers,
    multiple=True,
    metavar="NAME",
    help="Instruction set; may be repeated. By default the best one.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0),
    metavar="S",
    default=4.0,
    show_default=True,
    help="Time for each measurement.",
)
@click.option(
    "--scaling",
    is_flag=True,
    help="Compare instead a frame on several threads with one thread and with a batch, in turns.",
)
@as_json
def command(
    subnet: str,
    device: str,
    threads: tuple[int, ...],
    tier: tuple[str, ...],
    seconds: float,
    scaling: bool,
    as_json: bool,
) -> None:
    """Measure how fast SUBNET runs on this machine.

    SUBNET is a .qvit file, a packaged subnet's name, or one of deit-tiny, deit-small and deit-base: networks of those
    shapes with random weights. Median and p90 are the latency of one frame, pixels to logits; images/s is the rate
    of batches through Engine.infer_batch, Python included. A table for each measurement shows where a frame's time
    goes; roof is the least time that this machine's peak, or its caches' bandwidth, allows a stage, as a share of the
    time that it takes. On an accelerator with counters the table is by unit: cycles busy, blocked by a full queue and
    starved of input, next to the event model's.

    With --scaling, frames on several threads, frames on one and batches take turns of a fraction of a second, and the
    table has the median ratio of the rounds that other processes left alone, with quartiles. A frame next to an image
    of a batch is 1 if its threads use the cores as well as separate images do.
    """
    from ..bench import measure, open_subnet
    from ..device import devices
    from ..engine import Engine
    from ..errors import UntrainedWarning

    loaded = open_subnet(subnet)
    if scaling:
        if device not in ("auto", "cpu"):
            raise click.UsageError(f"--scaling measures the CPU's threads; the device is {device}")
        _scaling(loaded, threads or (None,), tier or (None,), seconds, as_json)
        return
    counts = threads or tuple(sorted({1, devices()[0].threads}))
    speeds = []
    kind = "measured"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UntrainedWarning)  # nobody looks at the labels
        for name, count in product(tier or (None,), counts):
            with Engine(loaded, device, count, name) as engine:
                kind = engine.kind_of_times
                is_cpu = engine.device == "cpu"
                if threads and not is_cpu:
                    raise click.UsageError(f"--threads are the CPU's; the device is {engine.device}")
                speeds.append(measure(engine, seconds))
            if not is_cpu:  # it has no threads to compare
                break
    if as_json:
        measured = [
            {
                **speed._asdict(),
                "stages": [stage._asdict() for stage in speed.stages],
                "units": _units_as_json(speed.units),
            }
            for speed in speeds
        ]
        summary = loaded.summary()
        counts_of = {"macs": summary.macs, "nominal_macs": summary.nominal_macs}
        print_json({"subnet": loaded.name, **counts_of, "times": kind, "measured": measured})
    else:
        _print_speeds(loaded, speeds, "measured here" if kind == "measured" else kind)


def _print_speeds(subnet: Subnet, speeds: list[Speed], kind: str) -> None:
    print_records(
        speeds,
        {
            "tier": lambda speed: speed.tier,
            ">threads": lambda speed: speed.threads,
            ">median": lambda speed: f"{speed.median_ms:.2f} ms",
            ">p90": lambda speed: f"{speed.p90_ms:.2f} ms",
            ">images/s": lambda speed: f"{speed.batch_images_per_second:,.1f}",
            ">GMAC/s": lambda speed: f"{speed.gmacs_per_second:.1f}",
            ">of peak": lambda speed: "" if speed.peak_share is None else f"{speed.peak_share:.0%}",
            ">weights": lambda speed: (
                "" if speed.weight_bytes is None else f"{speed.weight_bytes / 1e6:.2f} MB"
            ),
            ">read by a core": lambda speed: (
                "" if speed.weight_traffic is None else f"{max(speed.weight_traffic) / 1e6:.2f} MB"
            ),
        },
        title=f"{subnet.name}, {kind}: {work(subnet.summary())}",
    )
    for speed in speeds:
        if speed.stages:
            _print_stages(speed)
        if speed.units is not None:
            for line in str(speed.units).splitlines():
                echo(line)


def _scaling(
    subnet: Subnet,
    threads: Sequence[int | None],
    tiers: Sequence[str | None],
    seconds: float,
    as_json: bool,
) -> None:
    from ..errors import UntrainedWarning
    from ..scaling import measure_scaling

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UntrainedWarning)
        measured = [measure_scaling(subnet, count, name, seconds) for name in tiers for count in threads]
    if as_json:
        documents = [
            {
                **scaling._asdict(),
                "frame_to_image": scaling.frame_to_image._asdict(),
                "speedup": scaling.speedup._asdict(),
            }
            for scaling in measured
        ]
        print_json({"subnet": subnet.name, "measured": documents})
        return

    def shown(spread: Spread) -> str:
        return f"{spread.median:.2f} ({spread.low:.2f}-{spread.high:.2f})"

    columns: dict[str, Callable[[Scaling], str | int]] = {
        "tier": lambda scaling: scaling.tier,
        ">threads": lambda scaling: scaling.threads,
        ">one thread": lambda scaling: f"{scaling.one_thread_ms:.2f} ms",
        ">frame": lambda scaling: f"{scaling.frame_ms:.2f} ms",
        ">batch's image": lambda scaling: f"{scaling.image_ms:.2f} ms",
        ">frame / image": lambda scaling: shown(scaling.frame_to_image),
        ">speedup": lambda scaling: shown(scaling.speedup),
        ">rounds": lambda scaling: scaling.rounds,
        ">disturbed": lambda scaling: scaling.disturbed,
    }
    print_records(measured, columns, title=f"{subnet.name}, measured here: median (quartiles) of rounds")
    if any(scaling.disturbed >= scaling.rounds for scaling in measured):
        echo("Other processes were busy in most rounds; measure again when the machine is idle.", err=True)


def _units_as_json(units: AcceleratorProfile | None) -> dict[str, Any] | None:
    if units is None:
        return None
    return {
        "kind": units.kind,
        "frames": units.frames,
        "cycles": units.cycles,
        "modelled_cycles": units.modelled_cycles,
        "units": [
            {"unit": name, "counted": counted._asdict(), "modelled": modelled._asdict()}
            for name, counted, modelled in units.units
        ],
    }


def _print_stages(speed: Speed) -> None:
    total = sum(stage.ms for stage in speed.stages)
    print_records(
        speed.stages,
        {
            "stage": lambda stage: stage.name,
            ">ms": lambda stage: f"{stage.ms:.3f}",
            ">of the frame": lambda stage: f"{stage.ms / total:.1%}" if total else "",
            ">GMAC/s": lambda stage: f"{stage.macs / stage.ms / 1e6:.1f}" if stage.macs and stage.ms else "",
            ">roof": lambda stage: f"{stage.roof_share:.0%}",
        },
        title=f"Where a frame's time goes: {speed.tier}, {speed.threads} thread{'' if speed.threads == 1 else 's'}",
    )
