"""Train by a recipe: a supernet, or one quantized network, which becomes a subnet file with its model card.

    quasar-rt train --config digits
    quasar-rt train --config fashion-mnist-supernet --run runs/one
    quasar-rt train --config digits --architecture found.qvit --inherit runs/digits/supernet.pt --name mine
    torchrun --nproc-per-node 2 -m quasar_rt train --config tiny --data /data/imagenet

The same command continues where an earlier one was stopped. Needs the [host] extra: pip install 'quasar-rt[host]'.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import QuasarError
from ..train.options import Options
from . import complete
from .options import declared
from .output import Failure, Unmet, bars, echo, print_table

if TYPE_CHECKING:
    from ..space import Architecture
    from ..train.distributed import Group
    from ..train.recipe import Recipe


@click.command("train", help=__doc__.split("\n\n")[0] if __doc__ else None)
@click.option(
    "--config",
    shell_complete=complete.recipes,
    required=True,
    help="The recipe: a TOML file, or the name of a packaged one.",
)
@click.option(
    "--run",
    "--folder",
    "run",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of checkpoints and logs [runs/NAME]. Under torchrun write --folder: it takes --run for its own.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the subnet and its card, where one network is trained [the run's].",
)
@click.option(
    "--name", help="Name of the subnet's file and card, and of the run's folder [the recipe's name]."
)
@click.option("--seed", type=click.IntRange(0), help="Instead of the recipe's.")
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change the recipe: optimizer.batch=64. Repeatable.",
)
@click.option(
    "--architecture",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Train this one network of the recipe's space instead: JSON, or a subnet of `quasar-rt search` (.qvit).",
)
@click.option(
    "--inherit",
    type=click.Path(dir_okay=False, path_type=Path),
    help="With --architecture: start from its slice of this supernet.pt.",
)
@click.option(
    "--embedding",
    is_flag=True,
    help="The subnet also gives an image's embedding, for retrieval (Engine.embed). One network only; for a supernet "
    "give it to `quasar-rt search`.",
)
@click.option("--device", help="cpu, cuda or cuda:N [cuda where there is one].")
@click.option("--threads", type=click.IntRange(1), help="CPU threads of each process [all cores].")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Measure a few images, print the memory and the time that the run would take, and write nothing.",
)
@click.option("--machine", help="The machine as the model card names it [cores and architecture].")
@declared(Options)
@click.pass_context
def command(
    ctx: click.Context,
    /,
    config: str,
    run: Path | None,
    out: Path | None,
    name: str | None,
    seed: int | None,
    changes: tuple[str, ...],
    architecture: Path | None,
    inherit: Path | None,
    embedding: bool,
    device: str | None,
    threads: int | None,
    dry_run: bool,
    machine: str | None,
    **options: Any,
) -> None:
    """Trains, and writes the subnet where one network is trained."""
    if inherit and not architecture:
        raise click.UsageError("--inherit goes with --architecture")
    try:
        import torch

        from ..files import check_folder
        from ..space import Space
        from ..train import distributed, train, train_architecture
        from ..train.architecture_file import load_architecture
        from ..train.loop import DivergedError, Stopped
        from ..train.recipe import NAME_RULE, is_name, load_recipe
        from ..train.report import finish
    except ImportError as error:
        raise Failure(f"{error}; install the host extra: pip install 'quasar-rt[host]'") from error
    if name is not None and not is_name(name):
        raise click.UsageError(f"--name must be {NAME_RULE}")
    if threads:
        torch.set_num_threads(threads)
    try:
        recipe = load_recipe(config, changes if seed is None else [*changes, f"seed={seed}"])
        group = distributed.init_process_group(device)
    except (QuasarError, OSError, ValueError) as error:
        raise Failure(str(error)) from error
    try:
        if dry_run:
            if inherit:
                raise click.UsageError("--dry-run estimates all stages; leave --inherit out")
            one = load_architecture(architecture)[0] if architecture else None
            ctx.exit(0 if _estimate(recipe, options["root"], one, group) else 1)
        if (out or embedding) and not architecture and Space.load(recipe.space).size > 1:
            raise click.UsageError(
                "--out goes with one network: all of a supernet is in the run's folder"
                if out
                else "--embedding goes with one network: give it to `quasar-rt search` with this supernet"
            )
        search = None
        if architecture:
            network, search, found = load_architecture(architecture)
            embedding = embedding or found
            digest = hashlib.sha256(json.dumps(network.to_dict(), sort_keys=True).encode()).hexdigest()
            name = name or f"{recipe.name}-{digest[:8]}"
        name = name or recipe.name
        run = run or Path("runs") / name
        if architecture or Space.load(recipe.space).size == 1:
            kinds = {".qvit": "subnet", "/README.md": "model card", "/confusion.png": "picture"}
            results = {f"{name}{ending}": kind for ending, kind in kinds.items()}
            group.from_first(partial(check_folder, out or run, results))
        if architecture:
            trained = train_architecture(
                network, recipe, run, log=click.echo, group=group, inherit=inherit, **options
            )
        else:
            trained = train(recipe, run, log=click.echo, group=group, **options)
        if trained.path is None and group.first:
            machine = machine or f"{os.cpu_count()} {platform.machine()} cores"
            arguments = sys.argv[2:] if sys.argv[1:2] == ["train"] else sys.argv[1:]
            line = " ".join(["quasar-rt train", *arguments])
            finish(trained, out or run, machine, line, click.echo, name, search, embedding)
    except Stopped as stopped:
        if group.first:
            click.echo(str(stopped))
    except DivergedError as error:
        raise Unmet(str(error)) from error
    except (QuasarError, OSError, ValueError) as error:
        raise Failure(str(error)) from error
    finally:
        group.leave()


def _estimate(recipe: Recipe, root: str | None, architecture: Architecture | None, group: Group) -> bool:
    """Prints what the run would take; returns whether it fits the memory."""
    from ..train.dry_run import dry_run

    with bars(group.first) as progress:
        found = dry_run(recipe, root, architecture=architecture, group=group, progress=progress)
    if not group.first:
        return found.fits
    columns = ["stage", ">epochs", ">steps an epoch", ">a step", ">an epoch", ">the stage"]
    print_table(
        [*columns, ">memory an image", ">images that fit"],
        [
            [
                stage.stage,
                f"{stage.epochs:,}",
                f"{stage.steps:,}",
                _time(stage.step_seconds) + (" (decoding)" if stage.decoding else ""),
                _time(stage.epoch_seconds),
                _time(stage.seconds),
                _memory(stage.image_bytes),
                f"{stage.largest_piece:,}",
            ]
            for stage in found.stages
        ],
    )
    pieces = "" if found.accumulate == 1 else f" in {found.accumulate} pieces"
    echo(
        f"A process computes {found.images:,} images a step{pieces}. Weights, their average, gradients and moments "
        f"take {_memory(found.state_bytes)}; {_memory(found.free_bytes)} are free."
    )
    echo(
        f"All stages take about {_time(sum(stage.seconds for stage in found.stages))}, measured on a few images. Left "
        "out: torch.compile, the ranking of rows, checkpoints, the exchange between processes."
    )
    if not found.fits:
        advice = "not even one image fits"
        if found.needed_accumulate:
            advice = f"set optimizer.accumulate to {found.needed_accumulate} or more"
        if not recipe.optimizer.recompute:
            advice += ", or optimizer.recompute to true"
        echo(f"A piece of {found.piece:,} images does not fit the memory: {advice}.", err=True)
    return found.fits


def _time(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:.1f} s"


def _memory(size: float) -> str:
    for unit, length in (("GB", 1e9), ("MB", 1e6)):
        if size >= length:
            return f"{size / length:,.1f} {unit}"
    return f"{size / 1e3:,.1f} kB"
