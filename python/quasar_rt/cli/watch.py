"""``quasar-rt watch``."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import click

from .options import as_json, engine_options, open_engine
from .output import echo, printable


def _size(ctx: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, int] | None:
    if value is None:
        return None
    width, _, height = value.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise click.BadParameter(f"{value!r} is no size such as 1280x720", ctx, parameter)
    return int(width), int(height)


class _Terminated(BaseException):
    """SIGTERM came: the way in which a service manager ends a service."""


@click.command("watch", short_help="Classify new images of a folder, or a camera's frames, as they come.")
@click.argument("source", metavar="FOLDER|CAMERA")
@click.option(
    "--subnet",
    default="fashion-mnist",
    show_default=True,
    metavar="SUBNET",
    help="A .qvit file or a packaged subnet's name.",
)
@click.option(
    "--top-k",
    type=click.IntRange(1),
    metavar="N",
    default=5,
    show_default=True,
    help="Classes to list for each image.",
)
@click.option("--existing", is_flag=True, help="Begin with the images that are in the folder already.")
@click.option("--once", is_flag=True, help="Classify the images that are there, or one frame, and end.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="End after N images.")
@click.option("--size", callback=_size, metavar="WIDTHxHEIGHT", help="Size of frames to ask the camera for.")
@click.option(
    "--web", is_flag=True, help="Serve a page with the picture and the counters. Needs the [web] extra."
)
@click.option(
    "--host", metavar="ADDRESS", help="Address of the page; loopback by default. Others need a token."
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    metavar="N",
    help="Port of the page; 8000 by default, 0 a free one.",
)
@click.option(
    "--token",
    metavar="TOKEN",
    envvar="QUASAR_WEB_TOKEN",
    help="Secret that the page's viewers give. QUASAR_WEB_TOKEN does the same and is not seen by others.",
)
@engine_options
@as_json
@click.pass_context
def command(
    ctx: click.Context,
    /,
    source: str,
    subnet: str,
    top_k: int,
    existing: bool,
    once: bool,
    limit: int | None,
    size: tuple[int, int] | None,
    web: bool,
    host: str | None,
    port: int | None,
    token: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Classify new images of a folder, or a camera's frames, as they come.

    FOLDER is watched with its sub-folders. CAMERA is a number, /dev/videoN, an address that OpenCV can read, such as
    rtsp://..., or a video file; it needs OpenCV (the [camera] extra). Of a camera, the newest frame is classified and
    the others are dropped.

    A terminal gets a live view, a pipe a line for each image, with --json a JSON document in each line. Ctrl-C and
    SIGTERM end it. Where it ends by itself (--once, --limit, the end of a video), the exit code is 1 if an image could
    not be used or a part of the folder could not be read.
    """
    from ..watch import FolderSource, Live, open_source, sightings
    from ..watch.web import check_address

    if not web and (host is not None or port is not None):
        raise click.UsageError("--host and --port are the page's: add --web")
    if web:
        check_address(host or "127.0.0.1", token)
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # silent: our errors say more
    images = open_source(source, existing=existing, once=once, size=size)
    if isinstance(images, FolderSource):
        if size is not None:
            raise click.UsageError("--size is for cameras")
    elif size is not None and not images.live:
        images.close()
        raise click.UsageError("--size is for cameras; a video has its own")
    elif existing:
        raise click.UsageError("--existing is for folders")
    elif once:
        limit = 1
    failures = count = 0
    try:
        with ExitStack() as stack:
            stack.enter_context(_sigterm())
            if not isinstance(images, FolderSource):
                stack.callback(images.close)
            engine = stack.enter_context(open_engine(subnet, metrics=True, **options))
            live = Live(engine, source)
            if web:
                from ..watch.web import Page

                page = Page(live, host or "127.0.0.1", 8000 if port is None else port, token)
                stack.callback(page.close)
                click.echo(f"Page: {page.url}", err=True)
            show = stack.enter_context(_output(live, as_json))
            if isinstance(images, FolderSource):

                def problem(text: str | None) -> None:
                    live.problem = text
                    if not _has_view(as_json):
                        echo(text or f"all of '{source}' can be read again", err=True)

                images.on_problem = problem
            for sighting in sightings(engine, images, top_k=top_k):
                live.publish(sighting)
                show(sighting)
                count += 1
                failures += sighting.prediction is None
                if count == limit:
                    break
    except _Terminated:
        return
    if failures or live.problem:
        ctx.exit(1)


@contextmanager
def _sigterm() -> Iterator[None]:
    def end(number: int, frame: object) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _has_view(as_json: bool) -> bool:
    return not as_json and sys.stdout is not None and sys.stdout.isatty()


@contextmanager
def _output(live: Any, as_json: bool) -> Iterator[Any]:
    """Yields the function that prints a sighting; at the end, prints the counters."""
    from ..watch.terminal import View, counters

    if as_json:
        # A document in each line; as in print_json, DEL is escaped too.
        yield lambda sighting: click.echo(json.dumps(sighting.to_dict()).replace("\x7f", "\\u007f"))
        return
    if _has_view(as_json):
        from rich.console import Console
        from rich.live import Live as Screen

        view = View(live, printable)
        console = Console(highlight=False)
        try:
            with Screen(view, console=console, auto_refresh=True, refresh_per_second=8, transient=True):
                yield view.add
        finally:
            if live.problem is not None:
                echo(live.problem, err=True)
            echo(counters(live.metrics()))
        return

    echo(f"{live.about['subnet']}: {live.about['knows']}", err=True)

    def line(sighting: Any) -> None:
        if sighting.prediction is None:
            echo(f"{sighting.image}  error: {sighting.error}")
            return
        best = sighting.prediction
        echo(f"{sighting.image}  {best.label}  {best.probability:.1%}  {best.timings.total_ms:.2f} ms")

    try:
        yield line
    finally:
        echo(counters(live.metrics()), err=True)
