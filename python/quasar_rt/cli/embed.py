"""``quasar-rt embed``, and how commands read pictures one after the other."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import ImageError
from ..files import check_writable
from . import complete
from .options import FILE, engine_options, open_engine
from .output import Failure, echo, progress

if TYPE_CHECKING:
    from ..images import Pixels

#: Pictures at once.
_BATCH = 64


class Pictures(list[str]):
    """The names of pictures, and of those in folders with their sub-folders, but for links to folders.

    Raises:
        Failure: a folder has none.
    """

    def __init__(self, names: Sequence[str], videos: bool = False) -> None:
        from ..watch.sources import FolderSource

        for name in names:
            folder = name != "-" and os.path.isdir(name)
            found = list(map(str, FolderSource(Path(name), once=True, videos=videos))) if folder else [name]
            if not found:
                also = " and no video" * videos
                raise Failure(f"the folder '{name}' has no image{also}, by the endings of its files' names")
            self += found
        self.unreadable = 0

    def read(self, what: str) -> Iterator[tuple[str, Pixels]]:
        """Yields names and pixels with a bar; what cannot be read is reported, and counted at the end.

        Raises:
            Failure: none can be read.
        """
        from ..images import to_pixels

        for name in progress(self, len(self), what):
            try:
                yield name, to_pixels(name)
            except ImageError as error:
                self.unreadable += 1
                echo(f"Error: {error}", err=True)
        if self.unreadable:
            echo(f"{self.unreadable:,} of {len(self):,} pictures cannot be read", err=True)
        if self.unreadable == len(self):
            raise Failure(f"{what}: there is no picture to read")


@click.command("embed")
@click.argument("subnet", shell_complete=complete.subnets)
@click.argument("pictures", nargs=-1, required=True, metavar="PICTURES...")
@click.option("--out", required=True, type=FILE, help="The index to write: .npz, or .parquet ([datasets]).")
@engine_options
@click.pass_context
def command(ctx: click.Context, /, subnet: str, pictures: tuple[str, ...], out: Path, **options: Any) -> None:
    """Write an index: the names of PICTURES (files and folders) and their embeddings, vectors of length 1.

    A picture that cannot be read is left out, and the exit code is 1. `quasar-rt similar` reads the index.
    """
    import numpy as np

    from ..comparing import Index

    check_writable(out, "index")
    found = Pictures(pictures)
    names, vectors = list[str](), []
    with open_engine(subnet, classes=False, **options) as engine:
        source = found.read("embed")
        while piece := list(islice(source, _BATCH)):
            vectors.append(engine.embed_batch(pixels for _, pixels in piece))
            names += [name for name, _ in piece]
        try:
            Index(names, np.concatenate(vectors), subnet, engine.subnet.sha256).save(out)
        except ImportError as error:
            raise Failure(
                f"{error}; install the datasets extra: pip install 'quasar-rt[datasets]'"
            ) from error
    echo(f"{out}: {len(names):,} embeddings of {engine.subnet.embedding_size} values")
    if found.unreadable:
        ctx.exit(1)
