r"""Change the words that a subnet's classes are, without calibrating anew.

\b
  quasar-rt name named.qvit words.txt
  quasar-rt name embedding.qvit words.txt --model siglip/ \
      --calibration photos/ --out named.qvit

SUBNET was exported with --words, or with --embedding from a folder of CLIP or SigLIP; one without words yet needs some
pictures, once. Without --out, SUBNET itself gets the words. Needs the [host] and [text] extras.
"""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import QuasarError
from ..files import check_writable
from . import complete
from .float_network import measured, read_words, templates
from .options import FILE
from .output import Failure, echo


@click.command("name", help=(__doc__ or "").replace(r"\b", "\b"))
@click.argument("subnet", shell_complete=complete.subnets)
@click.argument("words", type=FILE)
@click.option(
    "--model", metavar="FOLDER", help="The folder that SUBNET was exported from. [where it was then]"
)
@templates
@click.option(
    "--calibration", metavar="DIR", help="Pictures, of which 64 are taken, for a SUBNET without words yet."
)
@click.option("--out", type=FILE, help="The .qvit file to write. [SUBNET]")
def command(
    subnet: str,
    words: Path,
    model: str | None,
    templates: Path | None,
    calibration: str | None,
    out: Path | None,
) -> None:
    """Gives a subnet other words."""
    from ..evaluate import decode
    from ..image_sets import images_of
    from ..packaged import subnet_path
    from ..prediction import NO_EMBEDDING, named
    from ..subnet import Subnet

    try:
        before = Subnet.load(subnet)
        if out is None and subnet_path(subnet) is not None:
            raise click.UsageError(f"'{subnet}' is a packaged subnet: give --out FILE")
        check_writable(out := out or Path(subnet), "subnet")
        if not before.has_embedding:
            raise Failure(f"'{before.name}': {NO_EMBEDDING}")
        known = named(before.config) is not None
        model = model or str(before.config["provenance"]["words"].get("model") if known else "")
        if not Path(model).is_dir() or not model:
            was = f", which was '{model}'" if model else ""
            raise Failure(f"give the folder that '{before.name}' was exported from{was}: --model FOLDER")
        if not known and calibration is None:
            raise Failure(f"'{before.name}' has no words yet: give some pictures: --calibration DIR")
        found = read_words(model, words, templates)
        from ..export.named import attach

        pictures = [] if known or calibration is None else images_of(calibration).spread(64)
        decoded = [decode(one, lambda error: echo(f"Error: {error}", err=True)) for one in pictures]
        made = attach(before, found, [one for one in decoded if one is not None])
        made.save(out)
    except QuasarError as error:
        raise Failure(str(error)) from error
    echo(f"{out}: {made.about}")
    echo(measured(made))
