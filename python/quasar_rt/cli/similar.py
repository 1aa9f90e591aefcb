"""``quasar-rt similar``."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import click

from ..files import check_writable, write_text
from . import complete
from .options import FILE, as_json, engine_options, open_engine
from .output import Failure, echo, print_json, print_records


@click.command("similar")
@click.argument("index", type=FILE)
@click.argument("picture")
@click.option(
    "--subnet", shell_complete=complete.subnets, help="The subnet of the index, where it has moved."
)
@click.option("--top-k", type=click.IntRange(1), default=10, show_default=True, metavar="N")
@click.option("--html", type=FILE, help="Also write a page with thumbnails.")
@engine_options
@as_json
def command(
    index: Path,
    picture: str,
    subnet: str | None,
    top_k: int,
    html: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Find the pictures of INDEX, which `quasar-rt embed` wrote, that are nearest to PICTURE."""
    import numpy as np

    from ..comparing import Index

    if html is not None:
        check_writable(html, "page")
    found = Index.load(index)
    with open_engine(subnet or found.subnet, classes=False, **options) as engine:
        if engine.subnet.sha256 != found.sha256:
            raise Failure(
                f"'{subnet or found.subnet}' is not the subnet that made '{index}': give --subnet FILE"
            )
        cosines = found.vectors @ engine.embed(picture)
    best = np.argsort(-cosines, kind="stable")[:top_k]
    near = [{"picture": found.names[i], "cosine": round(float(cosines[i]), 6)} for i in best]
    if html is not None:
        from ..nas.report import filled
        from ..watch.live import thumbnail

        shown = [{"picture": picture, "cosine": None}, *near]
        small = [base64.b64encode(thumbnail(str(one["picture"])) or b"").decode() for one in shown]
        pictures = [{**one, "jpeg": jpeg} for one, jpeg in zip(shown, small, strict=True)]
        write_text(html, filled("similar.html", f"Pictures like {picture}", {"pictures": pictures}))
        echo(f"{html}: the page", err=True)
    if as_json:
        print_json({"picture": picture, "index": str(index), "nearest": near})
    else:
        print_records(
            near, {">cosine": lambda one: f"{one['cosine']:.3f}", "picture": lambda one: one["picture"]}
        )
