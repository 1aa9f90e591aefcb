"""Output of commands: tables for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import click

__all__ = ["Failure", "bars", "echo", "print_json", "print_records", "print_table", "printable", "progress"]


Record = TypeVar("Record")


class Failure(click.ClickException):
    """Ends a command for an error of its user: one line on stderr, exit code 2."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


def print_json(value: Any) -> None:
    """Prints `value` as the one JSON document on stdout."""
    # json.dumps escapes all but ASCII, and leaves DEL.
    click.echo(json.dumps(value, indent=2).replace("\x7f", "\\u007f"))


def printable(text: str) -> str:
    """Escapes all that a terminal would act on: control characters, changes of direction."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def echo(text: str, err: bool = False) -> None:
    """Prints a line on stdout or stderr, made `printable`."""
    click.echo(printable(text), err=err)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None) -> None:
    """Prints a table on stdout. A column named ``>...`` is aligned to the right. Without names there is no header."""
    import sys

    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=None if title is None else Text(printable(title), style="bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_header=any(columns),
    )
    for name in columns:
        table.add_column(
            name.lstrip(">"), justify="right" if name.startswith(">") else "left", overflow="fold"
        )
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    if sys.stdout.isatty():
        Console(file=sys.stdout, highlight=False).print(table)
        return
    # A pipe has no width: lines are neither broken nor filled up, and blank lines are left out.
    console = Console(highlight=False, width=200)
    with console.capture() as text:
        console.print(table)
    for line in text.get().strip("\n").splitlines():
        if line.strip():
            click.echo(line.rstrip())


def print_records(
    records: Iterable[Record], columns: Mapping[str, Callable[[Record], object]], title: str | None = None
) -> None:
    """Prints a table with a line for each record; `columns` has the function of each column's cells."""
    print_table(
        list(columns), [[str(cell(record)) for cell in columns.values()] for record in records], title
    )


def progress(items: Iterable[Any], total: int, label: str) -> Iterable[Any]:
    """Yields the items and shows a progress bar on stderr where stderr is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(printable(label), total=total)
        for item in items:
            yield item
            bar.advance(task)


@contextmanager
def bars(show: bool = True) -> Iterator[Any]:
    """Shows progress on stderr where that is a terminal: a bar for each kind of work."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    quiet = not (show and console.is_terminal)
    with Progress(*columns, console=console, transient=True, disable=quiet) as progress:
        tasks: dict[str, Any] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(printable(what), total=total)
            progress.update(tasks[what], completed=done, total=total)

        yield report
