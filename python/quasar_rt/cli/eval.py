"""``quasar-rt eval``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..prediction import named
from . import complete
from .network_loading import load_network, model_arguments
from .options import as_json, described, engine_options, open_engine, warnings_as_lines
from .output import Failure, echo, print_json, print_table, progress

if TYPE_CHECKING:
    from ..engine import Engine
    from ..evaluate import Accuracy, ClassAccuracy, Comparison, Confusion, Estimate
    from ..subnet import Subnet

#: Suffixes of timm's checkpoints.
_CHECKPOINTS = (".pth", ".pt", ".bin", ".safetensors", ".tar", ".npz")


@click.command("eval", short_help="Measure a subnet's accuracy on a data set.")
@click.argument("subnet", shell_complete=complete.subnets)
@click.option(
    "--data",
    required=True,
    metavar="fashion-mnist|digits|DIR|wds:SHARDS|hf:NAME",
    help="Fashion-MNIST's 10,000 test images, the 360 of scikit-learn's digits, a folder with one sub-folder of "
    "images for each class, WebDataset shards ([webdataset] extra), or a Hugging Face data set ([datasets] extra).",
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
    help="Compare with the float network: a timm state dict (.pth, .safetensors), a folder or ONNX file as for "
    "quasar-rt export, or a timm model's name for timm's own weights.",
)
@click.option(
    "--model",
    metavar="ARCHITECTURE",
    help="The checkpoint's timm architecture; by default the one that quasar-rt export recorded in the subnet.",
)
@model_arguments
@click.option(
    "--embedding",
    is_flag=True,
    help="Measure the embeddings of a subnet that has classes, too; one without classes needs no option.",
)
@click.option(
    "--per-class", is_flag=True, help="A line for each class: its accuracy, and what it is taken for."
)
@click.option(
    "--confusion",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.png|FILE.csv",
    help="Write the confusion matrix: a picture (needs the [host] extra), or a table. Columns are predictions.",
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
    against: str | None,
    model: str | None,
    model_arg: tuple[str, ...],
    image_size: tuple[int, int] | None,
    embedding: bool,
    per_class: bool,
    confusion: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure the accuracy of SUBNET (a .qvit file or a packaged subnet's name) on a data set, with 95 % intervals.

    An image that cannot be read is reported on stderr and left out; the exit code is then 1.

    With --against (which needs the [host] extra), a float network classifies the same pixels. The table has the top-1
    of both, how often they agree, and the relative logit error. The intervals are then of a bootstrap over the images,
    which keeps the two networks' answers for an image together; those of single shares are Wilson's.

    Of embeddings, the table has the share of images whose class their 5 nearest other images give, and the share that a
    linear classifier of the other four fifths gives. With --against, also the cosine to the float network's embeddings,
    the relative error, and how often an image's nearest other image is the same.
    """
    from ..evaluate import Accuracy, compare, evaluate, open_dataset

    if against is None and (model is not None or model_arg or image_size):
        raise click.UsageError("--model, --model-arg and --image-size belong to --against")

    if confusion is not None:
        _check_confusion(confusion)

    with open_engine(subnet, **options, classes=False) as engine:
        embedding = embedding or not engine.subnet.classes
        if embedding and (per_class or confusion is not None):
            raise click.UsageError("--per-class and --confusion need classes, not embeddings")
        try:
            with warnings_as_lines():
                dataset = open_dataset(data, None if embedding else engine.subnet.classes)
        except (OSError, ValueError) as error:
            raise Failure(str(error)) from error
        dataset = dataset[:limit]
        images = progress(dataset, len(dataset), "eval")
        reading: dict[str, Any] = {
            "batch": batch,
            "on_unreadable": lambda error: echo(f"Error: {error}", err=True),
        }
        if embedding:
            network = against and _network(engine.subnet, against, model, model_arg, image_size, embedding)
            _embeddings(ctx, engine, data, images, network, against, reading, as_json)
            return
        outcome: Accuracy | Comparison
        if against is None:
            outcome = evaluate(engine, images, **reading)
        else:
            network = _network(engine.subnet, against, model, model_arg, image_size)
            try:
                outcome = compare(engine, images, network, **reading)
            except ValueError as error:
                raise Failure(str(error)) from error
        about = {"subnet": engine.subnet.name, "data": data, **described(engine)}
        device = engine.about
    if not outcome.images:
        raise Failure(f"no image of {data} could be used")
    answers = outcome.confusion
    if confusion is not None:
        _write_confusion(answers, confusion)
    by_class = {
        **({"classes": [_as_json(row) for row in answers.by_class()]} if per_class else {}),
        **({"confusion": answers.matrix.tolist()} if confusion is not None else {}),
    }
    if against is not None:
        about["against"] = against
    if as_json:
        print_json({**about, **_as_json(outcome), **by_class})
    else:
        if isinstance(outcome, Accuracy):
            _show_accuracy(outcome, about["subnet"])
            kind = "Wilson's"
        else:
            _show_comparison(outcome, about)
            kind = "bootstrap over the images" + ("; by class Wilson's" if per_class else "")
        if per_class:
            _show_classes(answers)
        echo(f"Data: {data}. Device: {device}. Intervals: {kind}.")
    if confusion is not None:
        echo(f"wrote {confusion}", err=True)
    if outcome.unreadable:
        ctx.exit(1)


def _embeddings(
    ctx: click.Context,
    engine: Engine,
    data: str,
    images: Any,
    network: Any,
    against: str | None,
    reading: dict[str, Any],
    as_json: bool,
) -> None:
    """Measures embeddings, and prints the figures."""
    from ..embedding_quality import FOLDS, NEIGHBOURS, Probes, embedding_quality

    try:
        found = embedding_quality(engine, images, network, **reading)
    except ValueError as error:
        raise Failure(str(error)) from error
    about = {"subnet": engine.subnet.name, "data": data, **described(engine)}
    about |= {} if against is None else {"against": against}
    if as_json:
        figures = {
            name: {part: estimate._asdict() for part, estimate in value._asdict().items()}
            if isinstance(value, Probes)
            else value._asdict()
            if hasattr(value, "_asdict")
            else value
            for name, value in found._asdict().items()
            if value is not None
        }
        print_json({**about, **figures})
    else:
        rows = []
        for name, probed in ((about["subnet"], found.found), (f"{against} in float", found.expected)):
            if probed is not None:
                rows += [
                    [f"top-1 of {NEIGHBOURS} neighbours, {name}", *_interval(probed.neighbours)],
                    [f"top-1 of a linear probe, {name}", *_interval(probed.linear)],
                ]
        for what, estimate, format in (
            ("cosine to float", found.cosine, ".4f"),
            ("relative error", found.error, ".4f"),
            ("same nearest neighbour", found.same_nearest, ".2%"),
        ):
            rows += [] if estimate is None else [[what, *_interval(estimate, format)]]
        print_table([f"{found.images:,} images", ">measured", ">95 % interval"], rows)
        kind = "Wilson's" if against is None else "Wilson's; cosine and error by a bootstrap over the images"
        echo(f"Data: {data}, {FOLDS} folds for the probe. Device: {engine.about}. Intervals: {kind}.")
    if found.unreadable:
        ctx.exit(1)


def _network(
    subnet: Subnet,
    against: str,
    model: str | None,
    arguments: tuple[str, ...],
    image_size: tuple[int, int] | None,
    embedding: bool = False,
) -> Any:
    """Returns the function from preprocessed images to the float network's logits, or to its embeddings."""
    path = Path(against)
    architecture, checkpoint = against, None
    shape = subnet.config["image"]["height"], subnet.config["image"]["width"]
    if path.exists() or path.suffix in _CHECKPOINTS or len(path.parts) > 1:
        recorded = subnet.config["provenance"].get("architecture", subnet.name)
        architecture, checkpoint = model or str(recorded), path
    elif model is not None:
        raise click.UsageError("--model belongs to a checkpoint; --against already names an architecture")
    if path.is_dir() or path.suffix == ".onnx":
        image_size = image_size or shape
    network = load_network(architecture, checkpoint, checkpoint is None, arguments, image_size).model
    from ..export import reference_embeddings, reference_logits

    outputs = (reference_embeddings if embedding else reference_logits)(network, subnet)
    words = None
    if named(subnet.config) and not embedding:
        try:
            from ..networks.words import encode_words

            words = encode_words(path, subnet.classes, subnet.config["provenance"]["words"].get("templates"))
        except ImportError as error:
            raise Failure(str(error)) from error

    def checked(pixels: Any) -> Any:
        try:
            found = outputs(pixels)
            return found if words is None else words.logits(found)
        # timm and torch refuse another size or number of channels each in their own way.
        except (AssertionError, RuntimeError, ValueError) as error:
            height, width, channels = pixels.shape[1:]
            raise Failure(
                f"{architecture} does not take the subnet's images ({height}x{width}, {channels} channels): "
                f"{' '.join(str(error).split())[:300]}; --image-size gives its size, e.g. {height}"
            ) from error

    return checked


def _check_confusion(path: Path) -> None:
    """Refuses a file that could not be written, before the images are classified."""
    from importlib.util import find_spec

    from ..files import check_writable

    if path.suffix not in (".png", ".csv"):
        raise click.UsageError(f"--confusion {path}: the name must end in .png or .csv")
    if path.suffix == ".png" and find_spec("matplotlib") is None:
        raise Failure(
            f"--confusion {path}: pictures need matplotlib: pip install 'quasar-rt[host]'; FILE.csv needs nothing"
        )
    check_writable(path, "picture" if path.suffix == ".png" else "confusion matrix")


def _write_confusion(answers: Confusion, path: Path) -> None:
    if path.suffix == ".png":
        from ..pictures import draw_confusion

        draw_confusion(answers.matrix, answers.classes, path)
        return
    import csv
    import io

    from ..files import write_text

    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["true class", *answers.classes])
    for name, counts in zip(answers.classes, answers.matrix.tolist(), strict=True):
        table.writerow([name, *counts])
    write_text(path, text.getvalue())


def _as_json(found: Accuracy | Comparison | ClassAccuracy) -> dict[str, Any]:
    from ..evaluate import Accuracy, Confusion, Estimate

    figures = {
        name: value._asdict() if isinstance(value, Estimate) else value
        for name, value in found._asdict().items()
        if not isinstance(value, Confusion)
    }
    if isinstance(found, Accuracy):
        for name, (_, low, high) in (("top1", found.confusion.top1), ("top5", found.confusion.top5)):
            figures[f"{name}_interval"] = {"low": low, "high": high}
        figures["images_per_second"] = found.images_per_second
    return figures


def _interval(estimate: Estimate, format: str = ".2%") -> list[str]:
    """Returns the cells of a figure and of its interval."""
    value, low, high = (f"{number:{format}}" for number in estimate)
    return [value, f"{low} to {high}"]


def _show_accuracy(found: Accuracy, subnet: str) -> None:
    print_table(
        ["subnet", ">images", ">top-1", ">95 % interval", ">top-5", ">95 % interval", ">images/s"],
        [
            [
                subnet,
                f"{found.images:,}",
                *_interval(found.confusion.top1),
                *_interval(found.confusion.top5),
                f"{found.images_per_second:,.0f}",
            ]
        ],
    )


def _show_comparison(found: Comparison, about: dict[str, Any]) -> None:
    print_table(
        [f"{found.images:,} images", ">measured", ">95 % interval"],
        [
            [f"top-1, {about['subnet']}", *_interval(found.top1)],
            [f"top-1, {about['against']} in float", *_interval(found.float_top1)],
            ["difference", *_interval(found.difference, "+.2%")],
            ["agreement", *_interval(found.agreement)],
            ["relative logit error", *_interval(found.logit_error, ".4f")],
        ],
    )


def _show_classes(answers: Confusion) -> None:
    def taken(row: ClassAccuracy) -> str:
        return f"{row.mistaken_for} ({row.mistakes})" if row.mistaken_for is not None else ""

    def share(count: int, estimate: Estimate) -> list[str]:
        return _interval(estimate) if count else ["-", "-"]

    print_table(
        [
            "class",
            ">images",
            ">top-1",
            ">95 % interval",
            ">top-5",
            ">predicted",
            ">precision",
            "most mistaken for",
        ],
        [
            [
                row.name,
                f"{row.images:,}",
                *share(row.images, row.top1),
                share(row.images, row.top5)[0],
                f"{row.predicted:,}",
                share(row.predicted, row.precision)[0],
                taken(row),
            ]
            for row in answers.by_class()
        ],
        "By class",
    )
