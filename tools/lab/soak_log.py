"""The log of soak runs: a Markdown table with a line for each run."""

from __future__ import annotations

import datetime as dt
import subprocess
from pathlib import Path


def commit() -> str:
    """Returns the commit that is checked out, with `-dirty` behind it where files differ from it."""
    command = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def append(log: Path, head: str, *cells: object, at: str | None = None) -> None:
    """Appends a line with date, commit (`at`, or today's) and `cells`; a new file starts with `head`."""
    at = at or commit()
    if not log.exists():
        log.write_text(head, encoding="utf-8")
    date = dt.datetime.now(dt.timezone.utc).date()
    with log.open("a", encoding="utf-8") as file:
        file.write(f"| {' | '.join(map(str, (date, at, *cells)))} |\n")
