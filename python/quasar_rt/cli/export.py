"""Turn a float Vision Transformer into a subnet file by post-training quantization.

    quasar-rt export --model deit_tiny_patch16_224 --checkpoint deit_tiny.pth \
        --calibration images/ --classes classes.txt --eight-bit 0.25 --out deit-tiny.qvit

Needs the [host] extra: pip install 'quasar-rt[host]'.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from ..errors import QuasarError
from ..files import read_small_text, reason, write_text
from ..image_sets import folder_classes, images_of
from .output import Failure, bars, echo, print_records
from .timm_network import load_network, model_arguments

if TYPE_CHECKING:
    from ..subnet import Subnet


def _numbers(ctx: click.Context, parameter: click.Parameter, value: str | None) -> list[float] | None:
    try:
        return None if value is None else [float(number) for number in value.split(",")]
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a number, or numbers with commas between them") from None


def _resize(ctx: click.Context, parameter: click.Parameter, value: str | None) -> dict[str, Any] | None:
    try:
        document = None if value is None else json.loads(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not JSON: {error}") from None
    if document is not None and not isinstance(document, dict):
        raise click.BadParameter(f"{value!r} is not a JSON object")
    return document


@click.command("export", help=__doc__.split("\n\n")[0] if __doc__ else None)
@click.option(
    "--model",
    metavar="ARCHITECTURE|FOLDER|FILE.onnx",
    help="A timm architecture (vit_*, deit_* or deit3_*), a folder of Hugging Face's transformers (ViT, DeiT, DINOv2, "
    "CLIP) or of timm, or an ONNX file of a plain ViT.",
)
@click.option(
    "--checkpoint",
    type=click.Path(exists=True, path_type=Path),
    help="A timm state dict (.pth, .safetensors) of the architecture.",
)
@click.option("--pretrained", is_flag=True, help="Let timm download its own weights instead.")
@model_arguments
@click.option(
    "--calibration",
    required=True,
    metavar="DIR|wds:SHARDS|hf:NAME",
    help="A folder of images (searched in depth), WebDataset shards ([webdataset] extra) or a Hugging Face data set "
    "([datasets] extra); its images are taken at equal distances.",
)
@click.option(
    "--images",
    default=64,
    show_default=True,
    type=click.IntRange(1),
    help="How many calibration images to use at most.",
)
@click.option(
    "--classes",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A text file, one class name a line. By default the names in a Hugging Face folder, or those of the folders "
    "in --calibration if there is one for each class.",
)
@click.option(
    "--eight-bit",
    default=0.25,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Share of 8-bit rows; the others are 4-bit.",
)
@click.option(
    "--method",
    type=click.Choice(["gptq", "nearest"]),
    default="gptq",
    show_default=True,
    help="How weights are rounded: for the least error of each row's outputs, or each to the nearest code.",
)
@click.option(
    "--embedding",
    is_flag=True,
    help="Also give an image's embedding, for retrieval (Engine.embed); a model without a classifier gives it alone.",
)
@click.option(
    "--report",
    is_flag=True,
    help="Write each layer's widths and errors as JSON next to the subnet: NAME.report.json.",
)
@click.option(
    "--mean",
    callback=_numbers,
    metavar="M[,M,M]",
    help="Mean of pixel/255 by channel; timm's configuration by default.",
)
@click.option(
    "--std",
    callback=_numbers,
    metavar="S[,S,S]",
    help="Standard deviation of pixel/255 by channel; timm's configuration by default.",
)
@click.option(
    "--resize",
    callback=_resize,
    metavar="JSON",
    help='How images come to the model\'s size, e.g. \'{"mode": "exact", "size": [48, 96], "filter": "bicubic"}\' '
    "(docs/subnet-file.md); timm's configuration by default.",
)
@click.option(
    "--name",
    help="The subnet's name; by default that of the checkpoint's file, the folder or the timm model.",
)
@click.option(
    "--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The .qvit file to write."
)
def command(
    model: str | None,
    checkpoint: Path | None,
    pretrained: bool,
    model_arg: tuple[str, ...],
    image_size: tuple[int, int] | None,
    calibration: str,
    images: int,
    classes: Path | None,
    eight_bit: float,
    method: Literal["gptq", "nearest"],
    embedding: bool,
    report: bool,
    mean: list[float] | None,
    std: list[float] | None,
    resize: dict[str, Any] | None,
    name: str | None,
    out: Path,
) -> None:
    """Quantizes a network, and writes its subnet."""
    try:
        from ..engine import Engine
        from ..export import export_timm
    except ImportError as error:
        raise Failure(f"{error}; install the host extra: pip install 'quasar-rt[host]'") from error
    if checkpoint is None and model is None:
        raise click.UsageError("give a network: --model, or --model and --checkpoint")
    try:
        files = images_of(calibration).spread(images)
    except QuasarError as error:
        raise Failure(str(error)) from error
    network = load_network(model, checkpoint, pretrained, model_arg, image_size)
    try:
        names = read_small_text(classes).splitlines() if classes else network.classes
        if names is None and (names := folder_classes(calibration, getattr(network.model, "num_classes", 0))):
            echo(f"class names: the folders in {calibration}", err=True)
    except (OSError, ValueError) as error:
        raise Failure(f"the class names cannot be read from '{classes}': {reason(error)}") from error
    layers: list[Any] = []
    try:
        with bars() as bar:
            subnet = export_timm(
                network.model,
                files,
                eight_bit_fraction=eight_bit,
                classes=names,
                name=name or network.name,
                mean=mean,
                std=std,
                resize=resize,
                method=method,
                embedding=embedding,
                report=layers.append,
                progress=lambda _, done, total: bar("quantize", done, total),
            )
        subnet.save(out)
        with Engine(subnet) as engine:
            prediction = engine.infer(files[0])
    except (QuasarError, ValueError) as error:
        raise Failure(str(error)) from error
    print_records(
        layers,
        {
            "layer": lambda layer: layer.name,
            ">rows": lambda layer: layer.rows,
            ">columns": lambda layer: layer.columns,
            ">8-bit rows": lambda layer: layer.eight_bit_rows,
            ">error, nearest codes": lambda layer: f"{layer.error_before:.2%}",
            f">error, {method}": lambda layer: f"{layer.error_after:.2%}",
        },
    )
    echo("Error: root mean square, of the outputs' standard deviation, on the calibration images.")
    if report:
        _write_report(out.with_suffix(".report.json"), subnet, layers)
    click.echo(f"{out}: {out.stat().st_size / 1e6:.2f} MB, {len(files)} calibration images")
    resizing = " ".join(str(value) for value in subnet.config["preprocess"]["resize"].values())
    recorded = subnet.config["provenance"]
    click.echo(f"preprocessing: resize {resizing}, mean {recorded['mean']}, std {recorded['std']}")
    if prediction.embedding is not None:
        click.echo(f"embedding: {len(prediction.embedding.codes)} values (Engine.embed)")
    if prediction.top_k:
        click.echo(f"{files.name(0)}: {prediction.label} ({prediction.probability:.1%})")


def _write_report(path: Path, subnet: Subnet, layers: list[Any]) -> None:
    document = {
        "subnet": subnet.name,
        "sha256": subnet.sha256,
        "provenance": subnet.config["provenance"],
        "layers": [layer.as_dict() for layer in layers],
    }
    write_text(path, json.dumps(document, indent=1) + "\n")
    echo(f"{path}: the report")
