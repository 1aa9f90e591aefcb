r"""Make subnets of your own trained network that reach frame rates on a board: no supernet, no labels.

\b
  quasar-rt fit --model ./dinov2-small --embedding --calibration photos/ \
      --board kv260 --fps 60 --fps 80 --out fit/
  quasar-rt fit --model deit_small_patch16_224 --checkpoint deit.pth \
      --calibration photos/ --board zcu102 --out fit/

Without --fps, a curve of five subnets shows what the board offers, from 8 bits in all rows to 4. The folder --out gets
the subnets (.qvit), report.json, hardware.toml and fit.png; a fit that was interrupted goes on there.

Frame rates are modelled, event by event, from the files that were written; errors are measured on a quarter of the
images, which is held out. Needs the [host] extra: pip install 'quasar-rt[host]'.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import QuasarError
from ..quantization import CURVE, FitOptions
from . import complete
from .float_network import described, float_network, open_float_network
from .options import as_json, declared, warnings_as_lines
from .output import Failure, bars, echo, print_json, print_records

if TYPE_CHECKING:
    from ..fitting import Fit, Fitted


@click.command("fit", help=(__doc__ or "").replace(r"\b", "\b"))
@float_network
@declared(FitOptions, board=complete.boards, space=complete.spaces)
@click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder for the results.",
)
@as_json
def command(out: Path, as_json: bool, **source: Any) -> None:
    """Fits a network, and prints what was found."""
    from ..fitting import fit

    network, files, options = open_float_network(**source)
    from ..export.post_training import calibration_apart

    try:
        with warnings_as_lines(), bars() as bar:
            found = fit(network.model, files, out=out, progress=calibration_apart(bar, "fit"), **options)
    except (QuasarError, ValueError) as error:
        raise Failure(str(error)) from error
    if as_json:
        print_json(found.as_dict())
    else:
        _show(found, out, 1 if options["fps"] else options["curve"] or CURVE)


def _show(found: Fit, out: Path, asked: int) -> None:
    agreement = "same class" if len(found.fitted[0].subnet.classes) else "same neighbour"

    def wanted(one: Fitted) -> str:
        return "" if one.wanted_fps is None else f"{one.wanted_fps:,.1f}"

    corrected = any(described(one.provenance) for one in found.fitted)
    print_records(
        found.fitted,
        {
            "subnet": lambda one: one.path.name,
            ">wanted": wanted,
            ">frames/s": lambda one: f"{one.rates.fps:,.1f}",
            ">accelerator": lambda one: f"{one.rates.accelerator_fps:,.1f}",
            ">8-bit weights": lambda one: f"{one.eight_bit_weights:.0%}",
            ">error": lambda one: f"{one.errors.relative:.3f}",
            f">{agreement}": lambda one: "{:.1%} ({:.0%} to {:.0%})".format(*one.errors.agreement),
            "rotated": lambda one: one.provenance["rotated"].split(",")[0],
            **({"correction": lambda one: described(one.provenance)} if corrected else {}),
        },
    )
    echo(
        f"On {found.board}, modelled: frames a second with the host's gaps, and of the accelerator alone. Measured on "
        f"{found.held_out_images} images held out: relative error of the outputs, and agreement with the float network "
        "with its 95 % interval."
    )
    if len(found.fitted) < asked:
        reason = "no other choice of rows has another rate."
        if found.fitted[-1].rates.processor_bound:
            reason = (
                "fewer 8-bit rows are not faster, since the processor is the bound. --fps-of accelerator shows the "
                "accelerator's rates."
            )
        echo(f"{len(found.fitted)} of {asked} subnets: {reason}", err=True)
    drawn = ", fit.png" if (out / "fit.png").exists() else ""
    echo(f"{out}: the subnets, report.json, hardware.toml{drawn}", err=True)
