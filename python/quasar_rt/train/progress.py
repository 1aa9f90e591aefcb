"""Shows the progress of a run: a bar on a terminal, a line each minute elsewhere. Depends on: rich."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["EpochProgress"]

#: Seconds between two lines where there is no terminal.
_LINES = 60.0


class EpochProgress:
    """Shows the progress of one epoch, of which `done` steps were done before; a context manager.

    `log` gets the lines; `quiet` processes show nothing.
    """

    def __init__(self, name: str, done: int, steps: int, log: Callable[[str], object], quiet: bool) -> None:
        self._name, self._steps, self._log, self._quiet = name, steps, log, quiet
        self._last = time.monotonic()
        self._bar: Progress | None = None
        if sys.stderr.isatty() and not quiet:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[text]}"),
                console=Console(stderr=True),
                transient=True,
                refresh_per_second=4,
            )
            self._task = self._bar.add_task(name, total=steps, completed=done, text="")

    def __enter__(self) -> EpochProgress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def at(self, step: int, text: Callable[[], str]) -> None:
        """Shows that `step` steps of the epoch are done, with the line that `text` returns."""
        if self._bar:
            self._bar.update(self._task, completed=step, text=text())
        elif not self._quiet and time.monotonic() - self._last > _LINES:
            self._last = time.monotonic()
            self._log(f"{self._name}: step {step}/{self._steps}, {text()}")
