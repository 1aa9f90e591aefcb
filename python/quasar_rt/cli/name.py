r"""Change the words that a subnet's classes are, without calibrating anew.

\b
  quasar-rt name named.qvit words.txt
  quasar-rt name embedding.qvit words.txt --model siglip/ --calibration photos/ --out named.qvit

SUBNET was exported with --words, or with --embedding from a folder of CLIP or SigLIP; one without words yet needs some
pictures, once. Without --out, SUBNET itself gets the words. Needs the [host] and [text] extras.
"""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import QuasarError
from ..files import check_writable
from . import complete
from .export import measured
from .float_network import read_words, templates
from .output import Failure, echo


@click.command("name", help=(__doc__ or "").replace(r"\b", "\b"))
@click.argument("subnet", shell_complete=complete.subnets)
@click.argument("words", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--model",
    metavar="FOLDER",
    help="The folder of CLIP or SigLIP that SUBNET was exported from; by default where it was then.",
)
@templates
@click.option(
    "--calibration",
    metavar="DIR",
    help="Pictures that measure the embedding's length, for a SUBNET without words yet; at most 64 are taken.",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The .qvit file to write; SUBNET by default.",
)
def command(
    subnet: str,
    words: Path,
    model: str | None,
    templates: Path | None,
    calibration: str | None,
    out: Path | None,
) -> None:
    """Gives a subnet other words."""
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
        known = named(before.config)
        recorded = before.config["provenance"]["words"].get("model") if known else None
        if model is None and (recorded is None or not Path(recorded).is_dir()):
            was = f", which was '{recorded}'" if recorded else ""
            raise Failure(f"give the folder that '{before.name}' was exported from{was}: --model FOLDER")
        if known is None and calibration is None:
            raise Failure(f"'{before.name}' has no words yet: give some pictures: --calibration DIR")
        found = read_words(model or recorded, words, templates)
        from ..evaluate import decode
        from ..export.named import rename
        from ..image_sets import images_of

        pictures = None
        if calibration is not None and known is None:
            decoded = [
                decode(one, lambda error: echo(f"Error: {error}", err=True))
                for one in images_of(calibration).spread(64)
            ]
            pictures = [one for one in decoded if one is not None]
        made = rename(before, found, pictures)
        made.save(out)
    except ImportError as error:
        raise Failure(f"{error}; install the host extra: pip install 'quasar-rt[host]'") from error
    except QuasarError as error:
        raise Failure(str(error)) from error
    echo(f"{out}: {made.about}")
    echo(measured(made.config["provenance"]["words"]))
