"""The log of soak runs: a Markdown table with a line for each run."""

from __future__ import annotations

import datetime as dt
import subprocess
from pathlib import Path


def append(log: Path, head: str, *cells: object) -> None:
    """Appends a line with date, commit and `cells`; a new file starts with `head`."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if not log.exists():
        log.write_text(head, encoding="utf-8")
    date = dt.datetime.now(dt.timezone.utc).date()
    with log.open("a", encoding="utf-8") as file:
        file.write(f"| {' | '.join(map(str, (date, commit, *cells)))} |\n")
