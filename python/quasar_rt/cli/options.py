"""Options that several commands share."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..options import about
from . import complete
from .output import Failure, echo

if TYPE_CHECKING:
    from ..engine import Engine
    from ..subnet import Subnet

Function = TypeVar("Function", bound=Callable[..., Any])

#: Types of paths on the command line.
FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)
_PATHS = {"file": FILE, "folder": FOLDER}


def declared(options: type[Any], **completions: Callable[..., Any]) -> Callable[[Function], Function]:
    """Adds the options of a class that have a flag (`quasar_rt.options`), and the shell's completions of some."""

    def add(function: Function) -> Function:
        for one, details in reversed([pair for pair in about(options) if pair[1].flag]):
            flag, _, metavar = details.flag.partition(" ")
            text = details.help or details.text[0].upper() + details.text[1:]
            keywords: dict[str, Any] = {"default": one.default, "show_default": one.default is not None}
            if isinstance(one.default, bool):
                keywords = {"is_flag": True, "default": one.default, "show_default": one.default}
            elif "Iterable" in one.type or "Sequence" in one.type:
                keywords, text = {"multiple": True}, f"{text} Repeatable."
            if details.choices:
                keywords["type"] = click.Choice(details.choices)
            elif "float" in one.type:
                keywords["type"] = click.FloatRange(0, min_open=True)
            elif "int" in one.type:
                keywords["type"] = click.IntRange(details.least)
            elif details.path:
                keywords["type"] = _PATHS[details.path]
            function = click.option(
                flag,
                one.name,
                help=text,
                metavar=metavar or None,
                shell_complete=completions.get(one.name),
                **keywords,
            )(function)
        return function

    return add


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on stdout.")


def check_threads(ctx: click.Context, parameter: click.Parameter, value: Any) -> Any:
    """Refuses more threads than an engine may have; `value` is a number, several, or None."""
    from .._native import MAX_THREADS

    for count in value if isinstance(value, tuple) else (value,):
        if count is not None and count > MAX_THREADS:
            raise click.BadParameter(f"{count} is not in the range 1<=x<={MAX_THREADS}.")
    return value


def engine_options(function: Function) -> Function:
    """Adds ``--device``, ``--threads``, ``--tier`` and ``--wait``, the arguments of `open_engine`."""
    for option in (
        click.option(
            "--wait",
            type=click.FloatRange(0),
            default=0.0,
            metavar="SECONDS",
            help="Longest wait for an accelerator that another program uses; by default none.",
        ),
        click.option(
            "--tier",
            shell_complete=complete.tiers,
            metavar="NAME",
            help="Instruction set (see `quasar-rt devices`); the best one by default. QUASAR_TIER does the same.",
        ),
        click.option(
            "--threads",
            type=click.IntRange(1),
            callback=check_threads,
            metavar="N",
            help="Threads; all cores by default.",
        ),
        click.option(
            "--device",
            shell_complete=complete.devices,
            default="auto",
            show_default=True,
            metavar="NAME",
            help="Device to run on.",
        ),
    ):
        function = option(function)
    return function


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Prints the warnings of a block as lines on stderr, after the block and unless it fails."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        echo(f"Warning: {warning.message}", err=True)


def open_engine(
    subnet: str | os.PathLike[str] | Subnet,
    device: str = "auto",
    threads: int | None = None,
    tier: str | None = None,
    wait: float = 0.0,
    metrics: bool = False,
    classes: bool = True,
) -> Engine:
    """Opens an engine that classifies, unless `classes` is false; its warnings become lines on stderr.

    Raises:
        Failure: the subnet has no classes.
    """
    from ..engine import Engine

    with warnings_as_lines():
        engine = Engine(subnet, device, threads, tier, metrics=metrics, wait=wait)
        if classes and not engine.subnet.classes:
            engine.close()
            raise Failure(
                f"'{engine.subnet.name}' has no classes, only an embedding: quasar-rt embed writes an index of "
                "pictures, similar finds the nearest ones, heat maps what differs from sound ones; name gives it "
                "classes in words"
            )
    return engine


def described(engine: Engine) -> dict[str, Any]:
    """Returns what an engine runs and where, for JSON."""
    return {
        "subnet": engine.subnet.name,
        "about": engine.subnet.about,
        "device": engine.device,
        "tier": engine.tier,
        "threads": engine.threads,
    }
