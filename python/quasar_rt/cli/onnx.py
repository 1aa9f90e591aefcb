"""``quasar-rt onnx``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..files import check_writable, file_name
from .output import Failure, echo

if TYPE_CHECKING:
    from ..onnx_model import Form


@click.command("onnx", short_help="Write a subnet as an ONNX model.")
@click.argument("subnet")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The file to write; by default the subnet's name with .onnx, in the current folder.",
)
@click.option(
    "--form",
    type=click.Choice(["exact", "qdq"]),
    default="exact",
    show_default=True,
    help="exact: the integer model, bit for bit. qdq: float operators between quantized values, which other runtimes "
    "turn into integer kernels of their own.",
)
def command(subnet: str, out: Path | None, form: Form) -> None:
    """Write SUBNET (a .qvit file or a packaged subnet's name) as an ONNX model of standard operators.

    Needs the [onnx] extra: pip install 'quasar-rt[onnx]'.
    """
    from ..subnet import Subnet

    loaded = Subnet.load(subnet)
    path = out or Path(f"{file_name(loaded.name)}.onnx")
    check_writable(path, "ONNX model")
    try:
        loaded.to_onnx(path, form)
    except ImportError as error:
        raise Failure(str(error)) from error
    echo(f"Wrote {path} ({path.stat().st_size:,} bytes, form {form}).")
