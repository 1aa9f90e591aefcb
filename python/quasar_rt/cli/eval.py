"""``quasar-rt eval``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import complete
from .options import as_json, described, engine_options, open_engine
from .output import Failure, echo, print_json, print_table, progress
from .timm_network import load_network, model_arguments

if TYPE_CHECKING:
    from ..evaluate import Comparison, Estimate
    from ..subnet import Subnet

#: Suffixes of timm's checkpoints.
_CHECKPOINTS = (".pth", ".pt", ".bin", ".safetensors", ".tar", ".npz")


@click.command("eval", short_help="Measure a subnet's accuracy on a data set.")
@click.argument("subnet", shell_complete=complete.subnets)
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
@click.option(
    "--against",
    metavar="CHECKPOINT|MODEL",
    help="Compare with the float network: a timm state dict (.pth, .safetensors), or a timm model's name for "
    "timm's own weights.",
)
@click.option(
    "--model",
    metavar="ARCHITECTURE",
    help="The checkpoint's timm architecture; by default the subnet's name, which quasar-rt export takes from it.",
)
@model_arguments
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
    against: str | None,
    model: str | None,
    model_arg: tuple[str, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Measure the accuracy of SUBNET (a .qvit file or a packaged subnet's name) on a data set.

    An image that cannot be read is reported on stderr and left out; the exit code is then 1.

    With --against (which needs the [host] extra), a float network classifies the same pixels. The table has the top-1
    of both, how often they agree, and the relative logit error, with 95 % intervals.
    """
    from ..evaluate import compare, evaluate, open_dataset

    if against is None and (model is not None or model_arg):
        raise click.UsageError("--model and --model-arg belong to --against")

    with open_engine(subnet, **options) as engine:
        try:
            dataset = open_dataset(data, engine.subnet.classes)
        except (OSError, ValueError) as error:
            raise Failure(str(error)) from error
        dataset = dataset[:limit]
        images = progress(dataset, len(dataset), "eval")

        def unreadable(error: Exception) -> None:
            echo(f"Error: {error}", err=True)

        comparison = result = None
        if against is None:
            result = evaluate(engine, images, batch=batch, on_unreadable=unreadable)
        else:
            network = _network(engine.subnet, against, model, model_arg)
            try:
                comparison = compare(engine, images, network, batch=batch, on_unreadable=unreadable)
            except ValueError as error:
                raise Failure(str(error)) from error
        about = {"subnet": engine.subnet.name, "data": data, **described(engine)}
        device = engine.about
    if comparison is not None:
        assert against is not None
        _show(comparison, {**about, "against": against}, device, as_json)
        if comparison.unreadable:
            ctx.exit(1)
        return
    assert result is not None
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


def _network(subnet: Subnet, against: str, model: str | None, arguments: tuple[str, ...]) -> Any:
    """Returns the function from preprocessed images to the float network's logits."""
    path = Path(against)
    architecture = against
    if path.exists() or path.suffix in _CHECKPOINTS or len(path.parts) > 1:
        if not path.is_file():
            raise Failure(f"--against {against}: there is no such file")
        architecture = model or subnet.name
    elif model is not None:
        raise click.UsageError("--model belongs to a checkpoint; --against already names an architecture")
    checkpoint = path if path.is_file() else None
    try:
        network = load_network(architecture, checkpoint, checkpoint is None, arguments)
    except click.ClickException as error:
        raise Failure(error.message) from error
    from ..export import reference_logits

    logits = reference_logits(network, subnet)

    def checked(pixels: Any) -> Any:
        try:
            return logits(pixels)
        # timm and torch refuse another size or number of channels each in their own way.
        except (AssertionError, RuntimeError, ValueError) as error:
            height, width, channels = pixels.shape[1:]
            raise Failure(
                f"{architecture} does not take the subnet's images ({height}x{width}, {channels} channels): "
                f"{' '.join(str(error).split())[:300]}; --model-arg gives its shape, e.g. img_size={height}"
            ) from error

    return checked


def _show(found: Comparison, about: dict[str, Any], device: str, as_json: bool) -> None:
    from ..evaluate import Estimate

    if as_json:
        figures = {
            name: value._asdict() if isinstance(value, Estimate) else value
            for name, value in found._asdict().items()
        }
        print_json({**about, **figures})
        return

    def row(name: str, estimate: Estimate, format: str) -> list[str]:
        value, low, high = (f"{number:{format}}" for number in estimate)
        return [name, value, f"{low} to {high}"]

    print_table(
        [f"{found.images:,} images", ">measured", ">95 % interval"],
        [
            row(f"top-1, {about['subnet']}", found.top1, ".2%"),
            row(f"top-1, {about['against']} in float", found.float_top1, ".2%"),
            row("difference", found.difference, "+.2%"),
            row("agreement", found.agreement, ".2%"),
            row("relative logit error", found.logit_error, ".4f"),
        ],
    )
    echo(f"Data: {about['data']}. Device: {device}. Intervals: bootstrap over the images.")
