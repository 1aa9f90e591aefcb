"""``quasar-rt eval``."""

from __future__ import annotations

from typing import Any

import click

from .options import as_json, described, engine_options, open_engine
from .output import Failure, echo, print_json, print_table, progress


@click.command("eval", short_help="Measure a subnet's accuracy on a data set.")
@click.argument("subnet")
@click.option(
    "--data",
    required=True,
    metavar="fashion-mnist|digits|DIR",
    help="Fashion-MNIST's 10,000 test images, the 360 of scikit-learn's digits, or a folder with one sub-folder of "
    "images for each class.",
)
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Use the first N images only.")
@click.option(
    "--batch",
    type=click.IntRange(1),
    metavar="N",
    default=256,
    show_default=True,
    help="Images decoded at a time.",
)
@engine_options
@as_json
@click.pass_context
def command(
    ctx: click.Context,
    /,
    subnet: str,
    data: str,
    limit: int | None,
    batch: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure the accuracy of SUBNET (a .qvit file or a packaged subnet's name) on a data set.

    An image that cannot be read is reported on stderr and left out; the exit code is then 1.
    """
    from ..evaluate import evaluate, open_dataset

    with open_engine(subnet, **options) as engine:
        try:
            dataset = open_dataset(data, engine.subnet.classes)
        except (OSError, ValueError) as error:
            raise Failure(str(error)) from error
        dataset = dataset[:limit]
        result = evaluate(
            engine,
            progress(dataset, len(dataset), "eval"),
            batch=batch,
            on_unreadable=lambda error: echo(f"Error: {error}", err=True),
        )
        about = {"subnet": engine.subnet.name, "data": data, **described(engine)}
        device = engine.about
    if not result.images:
        raise Failure(f"no image of {data} could be used")
    if as_json:
        print_json({**about, **result._asdict(), "images_per_second": result.images_per_second})
    else:
        print_table(
            ["subnet", ">images", ">top-1", ">top-5", ">images/s"],
            [
                [
                    about["subnet"],
                    f"{result.images:,}",
                    f"{result.top1:.2%}",
                    f"{result.top5:.2%}",
                    f"{result.images_per_second:,.0f}",
                ]
            ],
        )
        echo(f"Data: {data}. Device: {device}.")
    if result.unreadable:
        ctx.exit(1)
