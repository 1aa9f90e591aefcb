"""``quasar-rt infer``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import ImageError
from . import complete
from .options import as_json, described, engine_options, open_engine
from .output import Failure, echo, print_json, print_records, progress

if TYPE_CHECKING:
    from ..images import Pixels


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
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Write each picture with its answer below it into FOLDER.",
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

    An image that cannot be read is reported on stderr; the others are classified all the same, and the exit code is 1.
    Videos need OpenCV (the [camera] extra).
    """
    from ..files import make_folder

    sources = [one for image in images for one in _expanded(image)]
    results: list[dict[str, Any]] = []
    failures = coloured = 0
    saved: set[str] = set()
    if save is not None:
        make_folder(save)
    with open_engine(subnet, **options) as engine:
        gray = engine.subnet.config["image"]["channels"] == 1
        shown = progress(sources, len(sources), "infer") if len(sources) > 1 else sources
        for source in shown:
            for name, picture in _pictures(source, step):
                if isinstance(picture, ImageError):
                    failures += 1
                    echo(f"Error: {picture}", err=True)
                    results.append({"image": name, "error": str(picture)})
                    continue
                pixels, decode_ms = picture
                try:
                    prediction = engine.infer(pixels, top_k=top_k)
                except ImageError as error:  # such as one that is too small
                    failures += 1
                    echo(f"Error: '{name}': {error}", err=True)
                    results.append({"image": name, "error": str(error)})
                    continue
                coloured += gray and _is_coloured(pixels)
                document = {"image": name, **prediction.to_dict()}
                document["timings"]["decode_ms"] = decode_ms
                results.append(document)
                if save is not None:
                    from ..annotating import annotated, save_as

                    save_as(annotated(pixels, prediction, engine.subnet.name), save, name, saved)
        about = described(engine)
        what = engine.subnet.about
        if coloured:
            for line in _note(coloured, len(results) - failures):
                echo(line, err=True)
    if as_json:
        print_json({**about, "images": results})
    elif failures < len(results):
        print_records(
            [result for result in results if "error" not in result],
            {
                "image": lambda result: result["image"],
                "label": lambda result: result["label"],
                ">probability": lambda result: f"{result['probability']:.1%}",
                "then": lambda result: ", ".join(
                    f"{score['label']} {score['probability']:.1%}" for score in result["top_k"][1:]
                ),
                ">time": lambda result: f"{sum(result['timings'].values()):.2f} ms",
            },
            what,
        )
    if saved:
        echo(f"wrote {len(saved):,} picture{'' if len(saved) == 1 else 's'} to {save}", err=True)
    if failures:
        ctx.exit(1)


def _expanded(name: str) -> Iterator[str]:
    """Yields the images and videos of a folder, sorted; any other name as it is.

    Raises:
        Failure: the folder has none.
    """
    if name == "-" or not os.path.isdir(name):
        yield name
        return
    from ..watch.sources import FolderSource

    found = [str(path) for path in FolderSource(Path(name), once=True, videos=True)]
    if not found:
        raise Failure(f"the folder '{name}' has no image and no video, by the endings of its files' names")
    yield from found


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
        video = CameraSource(source)
    except CameraError as error:
        yield source, ImageError(str(error))
        return
    try:
        every = max(1, round(step * video.fps))
        for number, frame in enumerate(video):
            if number % every == 0:
                size = (frame.height, frame.width, 3)
                pixels = preprocess(frame, size, {"resize": {"mode": "none"}})
                yield f"{source} {number / video.fps:.2f} s", (pixels, 0.0)
    finally:
        video.close()


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
