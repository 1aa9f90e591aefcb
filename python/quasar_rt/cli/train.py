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
from pathlib import Path
from typing import Any

import click

from ..errors import QuasarError
from . import complete
from .output import Failure


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
@click.option("--data", help="Folder of the data set's files, where it is in none of the known places.")
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
@click.option("--device", help="cpu, cuda or cuda:N [cuda where there is one].")
@click.option("--threads", type=click.IntRange(1), help="CPU threads of each process [all cores].")
@click.option("--tensorboard", is_flag=True, help="Write TensorBoard's files too, into the run's folder.")
@click.option(
    "--stop-after-steps", type=click.IntRange(1), help="Stop after so many steps; start again to continue."
)
@click.option("--machine", help="The machine as the model card names it [cores and architecture].")
def command(
    config: str,
    run: Path | None,
    out: Path | None,
    name: str | None,
    data: str | None,
    seed: int | None,
    changes: tuple[str, ...],
    architecture: Path | None,
    inherit: Path | None,
    device: str | None,
    threads: int | None,
    tensorboard: bool,
    stop_after_steps: int | None,
    machine: str | None,
) -> None:
    """Trains, and writes the subnet where one network is trained."""
    if inherit and not architecture:
        raise click.UsageError("--inherit goes with --architecture")
    try:
        import torch

        from ..space import Space
        from ..train import distributed, train, train_architecture
        from ..train.architecture_file import load_architecture
        from ..train.checkpoint import make_folder
        from ..train.loop import Stopped
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
        options: dict[str, Any] = {
            "root": data,
            "log": click.echo,
            "group": group,
            "stop_after_steps": stop_after_steps,
            "tensorboard": tensorboard,
        }
        search = None
        if out:
            if not architecture and Space.load(recipe.space).size > 1:
                raise click.UsageError(
                    "--out goes with one network: all of a supernet is in the run's folder"
                )
            group.from_first(lambda: make_folder(out))
        if architecture:
            network, search = load_architecture(architecture)
            digest = hashlib.sha256(json.dumps(network.to_dict(), sort_keys=True).encode()).hexdigest()
            name = name or f"{recipe.name}-{digest[:8]}"
            run = run or Path("runs") / name
            trained = train_architecture(network, recipe, run, inherit=inherit, **options)
        else:
            name = name or recipe.name
            run = run or Path("runs") / name
            trained = train(recipe, run, **options)
        if trained.path is None and group.first:
            machine = machine or f"{os.cpu_count()} {platform.machine()} cores"
            arguments = sys.argv[2:] if sys.argv[1:2] == ["train"] else sys.argv[1:]
            line = " ".join(["quasar-rt train", *arguments])
            finish(trained, out or run, machine, line, click.echo, name, search)
    except Stopped as stopped:
        if group.first:
            click.echo(str(stopped))
    except (QuasarError, OSError, ValueError) as error:
        raise Failure(str(error)) from error
    finally:
        group.leave()
