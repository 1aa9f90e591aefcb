"""``quasar-rt infer``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import DeviceError, FileError, ImageError
from . import complete
from .embed import Pictures
from .options import FOLDER, as_json, described, engine_options, open_engine
from .output import Failure, Lines, echo, json_list, progress

if TYPE_CHECKING:
    from ..engine import Engine
    from ..images import Pixels

#: Columns that the table keeps for labels, at most.
_LONGEST_LABEL = 30
#: Pictures that failed, of which the last line has the names.
_MOST_NAMES = 5


@click.command("infer", short_help="Classify image files, folders of them, and videos.")
@click.argument("images", nargs=-1, required=True, metavar="IMAGES...")
@click.option(
    "--subnet",
    shell_complete=complete.subnets,
    default="fashion-mnist",
    show_default=True,
    metavar="SUBNET",
    help="A .qvit file or a packaged subnet's name.",
)
@click.option(
    "--top-k",
    type=click.IntRange(1),
    metavar="N",
    default=3,
    show_default=True,
    help="Classes to list for each image.",
)
@click.option(
    "--step",
    type=click.FloatRange(0),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Of a video, classify a frame every so many seconds; 0 classifies all.",
)
@click.option(
    "--save",
    type=FOLDER,
    metavar="FOLDER",
    help="Write each picture with its answer below it into FOLDER, which holds no input. Names that are there already "
    "get a number.",
)
@engine_options
@as_json
@click.pass_context
def command(
    ctx: click.Context,
    /,
    images: tuple[str, ...],
    subnet: str,
    top_k: int,
    step: float,
    save: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Classify image files, folders of them with their sub-folders, and videos; - is an image from stdin.

    Answers are printed as they come. A picture that cannot be read or saved, or in which a device fails, is reported on
    stderr; the others are classified all the same, and the exit code is 1. Videos need OpenCV (the [camera] extra).
    """
    from ..files import check_apart, make_folder
    from ..watch.sources import MOST_FAILURES

    sources = Pictures(images, videos=True)
    if save is not None:
        check_apart(save, (source for source in sources if source != "-"))
        make_folder(save)
    total = done = coloured = saved = on_end = 0
    failed: list[str] = []

    def sum_up() -> None:
        if coloured:
            for line in _note(coloured, done):
                echo(line, err=True)
        if saved:
            echo(f"wrote {saved:,} picture{'' if saved == 1 else 's'} to {save}", err=True)
        if failed and total > 1:
            more = f" and {len(failed) - _MOST_NAMES:,} more" if len(failed) > _MOST_NAMES else ""
            names = ", ".join(failed[:_MOST_NAMES]) + more
            echo(f"{len(failed):,} of {total:,} pictures failed: {names}", err=True)

    with ExitStack() as stack:
        stack.callback(sum_up)
        engine = stack.enter_context(open_engine(subnet, **options))
        gray = engine.subnet.config["image"]["channels"] == 1
        show = stack.enter_context(_answers(engine, sources, as_json))
        shown = progress(sources, len(sources), "infer") if len(sources) > 1 else sources
        for source in shown:
            for name, picture in _pictures(source, step):
                total += 1
                document: dict[str, Any] = {"image": name}
                try:
                    if isinstance(picture, ImageError):
                        raise picture
                    pixels, decode_ms = picture
                    prediction = engine.infer(pixels, top_k=top_k)
                    document |= prediction.to_dict()
                    document["timings"]["decode_ms"] = decode_ms
                    done += 1
                    coloured += gray and _is_coloured(pixels)
                    on_end = 0
                    if save is not None:
                        from ..annotating import annotated, save_as

                        save_as(annotated(pixels, prediction, engine.subnet.name), save, name)
                        saved += 1
                # Such as an image that is too small, a fault in one frame, a full disk.
                except (ImageError, DeviceError, FileError) as error:
                    failed.append(name)
                    document["error"] = str(error)
                    echo(f"Error: {error}" if name in str(error) else f"Error: '{name}': {error}", err=True)
                    on_end += isinstance(error, DeviceError)
                show(document)
                if on_end == MOST_FAILURES:
                    raise Failure(document["error"])
    if failed:
        ctx.exit(1)


@contextmanager
def _answers(
    engine: Engine, sources: Sequence[str], as_json: bool
) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yields the function that prints an answer; with JSON, the document is whole whatever happens."""
    if as_json:
        with json_list(described(engine), "images") as add:
            yield add
        return
    image, label = (max(map(len, names)) for names in (sources, engine.subnet.classes))
    widths = {"image": image, "label": min(label, _LONGEST_LABEL), ">probability": 0, ">time": 11, "then": 0}
    table = Lines(widths, engine.subnet.about)

    def show(document: dict[str, Any]) -> None:
        if "label" in document:
            none = document.get("none_of_these", False)
            table.add(
                document["image"],
                "none of these" if none else document["label"],
                f"{document['probability']:.1%}",
                f"{sum(document['timings'].values()):,.2f} ms",
                ", ".join(
                    f"{score['label']} {score['probability']:.1%}" for score in document["top_k"][not none :]
                ),
            )

    yield show


def _pictures(source: str, step: float) -> Iterator[tuple[str, tuple[Pixels, float] | ImageError]]:
    """Yields the name of each picture of a source, and its pixels with the milliseconds of decoding, or the error."""
    from ..images import preprocess, timed_input
    from ..watch.sources import VIDEO_SUFFIXES, CameraError, CameraSource

    if os.path.splitext(source)[1].lower() not in VIDEO_SUFFIXES or not os.path.isfile(source):
        try:
            pixels, decode_ms = timed_input(sys.stdin.buffer if source == "-" else source)
        except ImageError as error:
            yield source, error
        else:
            yield source, (pixels, decode_ms)  # type: ignore[misc]
        return
    try:
        with closing(CameraSource(source)) as video:
            every = max(1, round(step * video.fps))
            for number, frame in enumerate(video):
                if number % every == 0:
                    size = (frame.height, frame.width, 3)
                    pixels = preprocess(frame, size, {"resize": {"mode": "none"}})
                    yield f"{source} {number / video.fps:.2f} s", (pixels, 0.0)
    except CameraError as error:
        yield source, ImageError(str(error))


#: The mean distance between the channels of a picture in colour, at least. Gray ones have noise of their files' format.
_COLOURED = 6.0


def _is_coloured(pixels: Pixels) -> bool:
    """Returns true if a picture is no gray one that was saved as RGB."""
    import numpy as np

    if pixels.shape[2:] != (3,):
        return False
    step = max(1, max(pixels.shape) // 64)
    some = pixels[::step, ::step].astype(np.int16)
    return float((some.max(axis=2) - some.min(axis=2)).mean()) > _COLOURED


def _note(coloured: int, pictures: int) -> tuple[str, ...]:
    which = "the picture is" if pictures == 1 else f"{coloured:,} of {pictures:,} pictures are"
    return (
        f"Note: {which} in colour, and the network is for gray ones.",
        "It gives every picture one of its classes, often with a high probability.",
        "To teach a network your own classes: quasar-rt help teach",
    )
