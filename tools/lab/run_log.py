#!/usr/bin/env python3
"""Note the last run of a long target in docs/logs.md: a line for each target and case.

    python tools/lab/run_log.py test-aarch64 "all cores" "150 tests passed"

The line of an earlier run of the same target and case goes; git keeps it.
"""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs/logs.md"


def commit() -> str:
    """Returns the commit that is checked out, with `-dirty` behind it where files but the page differ from it."""
    git = ["git", "-C", str(PAGE.parents[1])]
    described = subprocess.run([*git, "describe", "--always"], stdout=subprocess.PIPE, text=True, check=True)
    differs = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", ".", ":!docs/logs.md"]).returncode
    return described.stdout.strip() + ("-dirty" if differs else "")


def note(target: str, case: str, result: str, at: str | None = None, page: Path = PAGE) -> None:
    """Writes date, commit (`at`, or today's) and result of a run of `target` into the table at the end of `page`."""
    head, rule, table = page.read_text(encoding="utf-8").partition("|---|---|---|---|---|\n")
    key = f"| {target} | {case} |"
    lines = [line for line in table.splitlines() if not line.startswith(key)]
    lines.append(f"{key} {dt.datetime.now(dt.timezone.utc).date()} | {at or commit()} | {result} |")
    page.write_text(head + rule + "".join(f"{line}\n" for line in sorted(lines)), encoding="utf-8")


if __name__ == "__main__":
    target, case, result = sys.argv[1:]
    note(target, case, result)
