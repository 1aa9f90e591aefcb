"""``quasar-rt heat``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..files import check_apart, make_folder
from . import complete
from .embed import Pictures
from .options import FOLDER, as_json, engine_options, open_engine
from .output import echo, print_json, print_table

#: Tokens of sound pictures that are kept, at most.
_MOST_TOKENS = 100_000


@click.command("heat")
@click.argument("subnet", shell_complete=complete.subnets)
@click.argument("pictures", nargs=-1, required=True, metavar="PICTURES...")
@click.option("--bank", required=True, multiple=True, metavar="SOUND", help="Sound pictures. Repeatable.")
@click.option(
    "--save", type=FOLDER, help="Write the maps, with scale and score, to a folder that holds no input."
)
@engine_options
@as_json
@click.pass_context
def command(ctx: click.Context, /, subnet: str, save: Path | None, as_json: bool, **options: Any) -> None:
    """Map which patches of PICTURES (files and folders) are far from all patches of sound ones.

    A patch's heat is its token's distance to the nearest one of SOUND, a picture's score the largest heat. SUBNET was
    exported with --tokens patch; with classes, also --embedding.
    """
    import numpy as np

    from ..comparing import heat_of, overlaid

    asked, sound = Pictures(options.pop("pictures")), Pictures(options.pop("bank"))
    if save is not None:
        check_apart(save, [*asked, *sound])
        make_folder(save)
    kept: list[Any] = []
    with open_engine(subnet, classes=False, **options) as engine:
        for number, (_, pixels) in enumerate(sound.read("bank")):
            tokens = engine.embed(pixels, tokens="patch").values
            tokens = tokens.reshape(-1, tokens.shape[-1])
            every = -(-len(tokens) * len(sound) // _MOST_TOKENS)
            kept.append(tokens[number % every :: every])
        near = np.concatenate(kept)
        heats = {
            name: heat_of(engine.embed(pixels, tokens="patch").values, near)
            for name, pixels in asked.read("heat")
        }
    scores = dict(
        sorted(((name, float(heat.max())) for name, heat in heats.items()), key=lambda one: -one[1])
    )
    most = max(scores.values())
    if save is not None:
        from ..annotating import captioned, save_as

        for name, score in scores.items():
            lines = [f"score {score:.3f}", f"colours from 0 to {most:.3f}", f"by {engine.subnet.name}"]
            pixels = overlaid(engine.subnet.preprocess(name), heats[name], most)
            save_as(captioned(pixels, lines), save, name)
        echo(f"wrote {len(heats):,} pictures to {save}", err=True)
    if as_json:
        listed = [{"picture": name, "score": scores[name], "heat": heats[name].tolist()} for name in scores]
        print_json({"tokens": len(near), "most": most, "pictures": listed})
    else:
        print_table([">score", "picture"], [[f"{score:.3f}", name] for name, score in scores.items()])
    if asked.unreadable or sound.unreadable:
        ctx.exit(1)
