#!/usr/bin/env python3
"""Train a subnet by a recipe: float, then quantization-aware, then the subnet file with its model card.

    python tools/train.py --config python/quasar_rt/train/recipes/fashion-mnist.toml

Stages that an earlier start left in the run's folder are read, not trained again.
Needs the [host] extra: pip install 'quasar-rt[host]'.
"""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import click

from quasar_rt import QuasarError


@click.command(help=__doc__.split("\n\n")[0] if __doc__ else None)
@click.option(
    "--config",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The recipe, a TOML file.",
)
@click.option(
    "--run", type=click.Path(file_okay=False, path_type=Path), help="Folder of checkpoints [runs/NAME]."
)
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="Folder of the results [the run's]."
)
@click.option("--data", help="Folder of the data set's files, where it is in none of the known places.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads [all cores].")
@click.option("--machine", help="What the model card says of the machine [cores and architecture].")
def main(
    config: Path,
    run: Path | None,
    out: Path | None,
    data: str | None,
    threads: int | None,
    machine: str | None,
) -> None:
    try:
        import torch

        from quasar_rt.train.loop import train
        from quasar_rt.train.recipe import load_recipe
        from quasar_rt.train.report import finish
    except ImportError as error:
        raise click.ClickException(
            f"{error}; install the host extra: pip install 'quasar-rt[host]'"
        ) from error
    if threads:
        torch.set_num_threads(threads)
    try:
        recipe = load_recipe(config)
        run = run or Path("runs") / recipe.name
        trained = train(recipe, run, data, click.echo)
        machine = machine or f"{os.cpu_count()} {platform.machine()} cores"
        finish(
            recipe, trained, out or run, machine, f"python tools/train.py --config {config}", data, click.echo
        )
    except (QuasarError, OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    sys.exit(main())
