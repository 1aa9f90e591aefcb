"""``quasar-rt infer``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from . import complete
from .options import as_json, described, engine_options, open_engine
from .output import echo, print_json, print_records

if TYPE_CHECKING:
    from ..images import ImageLike


@click.command("infer", short_help="Classify image files.")
@click.argument("images", nargs=-1, required=True, metavar="IMAGES...")
@click.option(
    "--subnet",
    shell_complete=complete.subnets,
    default="fashion-mnist",
    show_default=True,
    metavar="SUBNET",
    help="A .qvit file or a packaged subnet's name.",
)
@click.option(
    "--top-k",
    type=click.IntRange(1),
    metavar="N",
    default=3,
    show_default=True,
    help="Classes to list for each image.",
)
@engine_options
@as_json
@click.pass_context
def command(
    ctx: click.Context, /, images: tuple[str, ...], subnet: str, top_k: int, as_json: bool, **options: Any
) -> None:
    """Classify image files; a file named - is read from stdin.

    An image that cannot be read is reported on stderr; the others are classified all the same, and the exit code is 1.
    """
    from ..errors import ImageError

    results: list[dict[str, Any]] = []
    failures = 0
    with open_engine(subnet, **options) as engine:
        for image in images:
            try:
                source: ImageLike = sys.stdin.buffer if image == "-" else image
                prediction = engine.infer(source, top_k=top_k)
            except ImageError as error:
                failures += 1
                echo(f"Error: {error}", err=True)
                results.append({"image": image, "error": str(error)})
                continue
            results.append({"image": image, **prediction.to_dict()})
        about = described(engine)
    if as_json:
        print_json({**about, "images": results})
    elif failures < len(results):
        print_records(
            [result for result in results if "error" not in result],
            {
                "image": lambda result: result["image"],
                "label": lambda result: result["label"],
                ">probability": lambda result: f"{result['probability']:.1%}",
                "then": lambda result: ", ".join(
                    f"{score['label']} {score['probability']:.1%}" for score in result["top_k"][1:]
                ),
                ">time": lambda result: f"{sum(result['timings'].values()):.2f} ms",
            },
        )
    if failures:
        ctx.exit(1)
