"""Turn a float Vision Transformer into a subnet file by post-training quantization.

    quasar-rt export --model deit_tiny_patch16_224 --checkpoint deit_tiny.pth \
        --calibration images/ --classes classes.txt --eight-bit 0.25 --out deit-tiny.qvit

Needs the [host] extra: pip install 'quasar-rt[host]'.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import QuasarError
from ..files import check_writable, write_text
from ..quantization import ExportOptions
from .float_network import described, float_network, measured, open_float_network
from .options import declared
from .output import Failure, bars, echo, print_records

if TYPE_CHECKING:
    from ..subnet import Subnet


@click.command("export", help=__doc__.split("\n\n")[0] if __doc__ else None)
@float_network
@click.option(
    "--eight-bit",
    "eight_bit_fraction",
    default=0.25,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Share of the blocks' weights with 8 bits; the rows are chosen over all matrices, the others have 4 bits.",
)
@declared(ExportOptions)
@click.option(
    "--report",
    is_flag=True,
    help="Write each layer's widths and errors as JSON next to the subnet: NAME.report.json.",
)
@click.option(
    "--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The .qvit file to write."
)
def command(report: bool, out: Path, **source: Any) -> None:
    """Quantizes a network, and writes its subnet."""
    try:
        from ..engine import Engine
        from ..export.post_training import calibration_apart, export_timm
    except ImportError as error:
        raise Failure(f"{error}; install the host extra: pip install 'quasar-rt[host]'") from error
    details = out.with_suffix(".report.json")
    try:
        check_writable(out, "subnet")
        if report:
            check_writable(details, "report")
    except QuasarError as error:
        raise Failure(str(error)) from error
    network, files, options = open_float_network(**source)
    layers: list[Any] = []
    try:
        with bars() as bar:
            subnet = export_timm(
                network.model,
                files,
                report=layers.append,
                progress=calibration_apart(bar, "quantize"),
                **options,
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
            f">error, {options['method']}": lambda layer: f"{layer.error_after:.2%}",
        },
    )
    echo(
        "Errors are root mean squares on the calibration images, as shares of the outputs' standard deviation."
    )
    if report:
        _write_report(details, subnet, layers)
    click.echo(f"{out}: {out.stat().st_size / 1e6:.2f} MB, {len(files)} calibration images")
    resizing = " ".join(str(value) for value in subnet.config["preprocess"]["resize"].values())
    recorded = subnet.config["provenance"]
    click.echo(f"preprocessing: resize {resizing}, mean {recorded['mean']}, std {recorded['std']}")
    if correction := described(recorded):
        click.echo(f"correction, relative error: {correction}")
    if tried := recorded.get("rotation_tried"):
        click.echo(
            f"rotated: {recorded['rotated']}; relative error {tried['error_rotated']:.3f} with the rotation, "
            f"{tried['error']:.3f} without it, on {tried['held_out']} held-out images"
        )
    if prediction.embedding is not None:
        click.echo(f"embedding: {len(prediction.embedding.codes)} values (Engine.embed)")
    if subnet.has_patch_tokens:
        rows, columns = subnet.grid
        what = " and ".join(["logits"] * bool(subnet.classes) + ["embedding"] * subnet.has_embedding)
        click.echo(f"patch tokens: {what} of {rows} x {columns} patches")
    if options.get("words") is not None:
        echo(measured(subnet))
    if prediction.top_k:
        click.echo(f"{files.name(0)}: {prediction.label} ({prediction.probability:.1%})")


def _write_report(path: Path, subnet: Subnet, layers: list[Any]) -> None:
    document = {
        "quasar_rt": version("quasar-rt"),
        "subnet": subnet.name,
        "sha256": subnet.sha256,
        "provenance": subnet.config["provenance"],
        "layers": [layer.as_dict() for layer in layers],
    }
    write_text(path, json.dumps(document, indent=1) + "\n")
    echo(f"{path}: the report")
