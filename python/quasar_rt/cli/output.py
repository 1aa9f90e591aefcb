"""Output of commands: tables for people, JSON for programs."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from textwrap import indent
from typing import Any, TypeVar

import click

from ..errors import FileError
from ..files import refused

__all__ = [
    "Failure",
    "Lines",
    "Pace",
    "Unmet",
    "bars",
    "echo",
    "json_list",
    "name_stdout_in_errors",
    "print_json",
    "print_records",
    "print_table",
    "printable",
    "progress",
]


Record = TypeVar("Record")


class Failure(click.ClickException):
    """Ends a command for an error of its user: one line on stderr, exit code 2."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class Unmet(Failure):
    """Ends a command that understood its input and did not reach its goal: one line on stderr, exit code 1."""

    exit_code = 1


def name_stdout_in_errors() -> None:
    """Makes errors of writing to stdout, such as those of a full disk, a `FileError` that names it.

    Signs that stdout's encoding lacks end no command.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        old = sys.stdout
        sys.stdout = _Stdout(
            old.buffer,
            old.encoding,
            "replace" if old.errors in ("strict", "surrogateescape") else old.errors,
            line_buffering=old.line_buffering,
            write_through=old.write_through,
        )


class _Stdout(io.TextIOWrapper):
    _failure: FileError | None = None

    def write(self, text: str, /) -> int:
        # click hides the errors of its first write, which is a trial.
        if self._failure is not None:
            raise self._failure
        with self._named():
            return super().write(text)

    def flush(self) -> None:
        with self._named():
            super().flush()

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            # `quasar-rt ... | head` ends silently, as Unix tools do. Of other pipes and sockets, which share the
            # signal, Python's errors go on.
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            signal.raise_signal(signal.SIGPIPE)
            raise
        except OSError as error:
            # At its end, Python would try again to write what is left.
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            self._failure = refused("standard output cannot be written", error)
            raise self._failure from error


def print_json(value: Any) -> None:
    """Prints `value` as the one JSON document on stdout."""
    click.echo(_as_json(value))


def _as_json(value: Any) -> str:
    # json.dumps escapes all but ASCII, and leaves DEL.
    return json.dumps(value, indent=2).replace("\x7f", "\\u007f")


@contextmanager
def json_list(value: Mapping[str, Any], name: str) -> Iterator[Callable[[Any], None]]:
    """Prints a JSON document as `print_json` does, whose last value is a list with the given name.

    Yields the function that adds to the list: it prints at once. An error ends the list, too.
    """
    before, after = _as_json({**value, name: []}).rsplit("[]", 1)
    click.echo(before + "[", nl=False)
    separator = ""

    def add(one: Any) -> None:
        nonlocal separator
        click.echo(f"{separator}\n{indent(_as_json(one), 4 * ' ')}", nl=False)
        separator = ","

    try:
        yield add
    finally:
        click.echo(("\n  ]" if separator else "]") + after)


def printable(text: str) -> str:
    """Escapes all that a terminal would act on: control characters, changes of direction."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def echo(text: str, err: bool = False) -> None:
    """Prints a line on stdout or stderr, made `printable`."""
    click.echo(printable(text), err=err)


#: Columns that a column of words keeps on a narrow terminal, at least. Numbers are never broken.
_LEAST_WORDS = 10


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None) -> None:
    """Prints a table on stdout. A column named ``>...`` is aligned to the right. Without names there is no header.

    On a terminal that is too narrow, gaps become smaller, then words and headers are broken into lines, but no numbers.
    """
    if sys.stdout is None:  # closed by whoever started the command
        return
    from rich import box
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    is_terminal = sys.stdout.isatty()
    cells = [[printable(cell) for cell in row] for row in rows]
    natural, least = [], []
    for name, *column in zip(columns, *cells, strict=True):
        words = max((cell_len(word) for word in name.lstrip(">").split()), default=0)
        longest = max((cell_len(line) for cell in column for line in cell.splitlines()), default=0)
        natural.append(max(longest, cell_len(name.lstrip(">"))))
        least.append(max(words, longest if name.startswith(">") else min(longest, _LEAST_WORDS)))
    # A pipe has no width: no line is broken.
    width = Console(file=sys.stdout).width if is_terminal else sum(natural) + 3 * len(natural) + 2
    roomy = sum(natural) + 3 * len(natural) <= width
    cramped = sum(natural) + len(natural) + 1 > width
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1) if roomy else 0,
        show_header=any(columns),
    )
    for name, narrowest in zip(columns, least, strict=True):
        table.add_column(
            name.lstrip(">"),
            justify="right" if name.startswith(">") else "left",
            overflow="fold",
            min_width=narrowest,
            max_width=narrowest if cramped and name.startswith(">") else None,
        )
    for row in cells:
        table.add_row(*map(Text, row))
    # A terminal breaks the lines of a table that is wider yet.
    console = Console(file=sys.stdout, highlight=False, width=max(width, sum(least) + len(least) + 2))
    with console.capture() as text:
        console.print(table)
    if title is not None:
        Console(file=sys.stdout).print(Text(printable(title), style="bold"), soft_wrap=not is_terminal)
    for line in text.get().splitlines():
        if is_terminal or line.strip():
            click.echo(line.rstrip())


class Lines:
    """Prints a table line by line, as its rows come; `print_table` waits for all rows, whose widths it needs.

    Args:
        columns: widths by name; a wider cell moves the rest of its line. A column named ``>...`` is aligned to the
            right; the last one is not filled up.
        title: a line above the first row.
    """

    def __init__(self, columns: Mapping[str, int], title: str) -> None:
        self._widths = {name: max(width, len(name.lstrip(">"))) for name, width in columns.items()}
        self._title = title

    def add(self, *cells: str) -> None:
        """Prints a row, the first one below the title and the columns' names."""
        from rich.cells import cell_len

        if self._title:
            echo(self._title)
            self._title = ""
            self.add(*(name.lstrip(">") for name in self._widths))
            echo("─" * (sum(self._widths.values()) + 2 * len(self._widths) - 2))
        line = []
        for (name, width), cell in zip(self._widths.items(), map(printable, cells), strict=True):
            gap = " " * (width - cell_len(cell))
            line.append(gap + cell if name.startswith(">") else cell + gap)
        click.echo("  ".join(line).rstrip())


def print_records(
    records: Iterable[Record], columns: Mapping[str, Callable[[Record], object]], title: str | None = None
) -> None:
    """Prints a table with a line for each record; `columns` has the function of each column's cells."""
    print_table(
        list(columns), [[str(cell(record)) for cell in columns.values()] for record in records], title
    )


#: Seconds between two lines about progress where stderr is no terminal.
PROGRESS_SECONDS = 10.0


def progress(items: Iterable[Any], total: int, label: str) -> Iterable[Any]:
    """Yields the items and shows progress on stderr: see `bars`."""
    with bars() as report:
        report(label, 0, total)
        for done, item in enumerate(items, start=1):
            yield item
            report(label, done, total)


@contextmanager
def bars(show: bool = True) -> Iterator[Any]:
    """Shows progress on stderr: a bar for each kind of work on a terminal, and else a line every 10 seconds."""
    from rich.console import Console

    console = Console(stderr=True)
    if not show:
        yield lambda what, done, total: None
    elif console.is_terminal:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        times = TextColumn("{task.fields[times]}")
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), times)
        # Answers go above the bar, but not those for a file or a pipe.
        above = sys.stdout is not None and sys.stdout.isatty()
        with Progress(*columns, console=console, transient=True, redirect_stdout=above) as progress:
            tasks: dict[str, Any] = {}
            paces: dict[str, Pace] = {}

            def report(what: str, done: int, total: int) -> None:
                now = time.monotonic()
                if what not in tasks:
                    tasks[what] = progress.add_task(printable(what), total=total, times="")
                    paces[what] = Pace(now, done)
                left = paces[what].left(now, done, total)
                took = f"{paces[what].took(now):,.0f} s"
                times = took if done >= total else "" if left is None else f"about {left:,.0f} s left"
                progress.update(tasks[what], completed=done, total=total, times=times)

            yield report
    else:
        yield _lines()


class Pace:
    """The pace of one kind of work from its first report on. What an earlier run has done does not count.

    Args:
        now: seconds.
        done: the parts that are done.
    """

    def __init__(self, now: float, done: int) -> None:
        self._start, self._before = now, done

    def took(self, now: float) -> float:
        """Returns the seconds since the first report."""
        return now - self._start

    def left(self, now: float, done: int, total: int) -> float | None:
        """Returns the seconds that the rest will take at this pace; None at the end, and in the first second."""
        new, took = done - self._before, self.took(now)
        return took * (total - done) / new if new > 0 and done < total and took >= 1 else None


def _lines() -> Callable[[str, int, int], None]:
    """Returns a function that prints a line about progress when it is time for one."""
    last = time.monotonic()
    paces: dict[str, Pace] = {}

    def report(what: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if what not in paces:
            paces[what] = Pace(now, done)
            return
        pace = paces[what]
        if now - last < PROGRESS_SECONDS:
            return
        last = now
        left = pace.left(now, done, total)
        about = "" if left is None else f", about {left:,.0f} s left"
        echo(f"{what}: {done:,} of {total:,} after {pace.took(now):,.0f} s{about}", err=True)

    return report
