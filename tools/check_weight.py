#!/usr/bin/env python3
"""Checks that the tree is no heavier than tools/ceilings.txt allows: lines of code files by area, words of Markdown.

It prints a line for each area that is too heavy, and exits with 1; `--all` prints all of them.
"""

from __future__ import annotations

import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[1]
CODE = {".rs", ".py", ".cpp", ".hpp", ".h", ".sv", ".v", ".tcl", ".sh"}


def weights(areas: list[tuple[str, list[str]]], files: dict[str, str]) -> dict[str, int]:
    """Returns the lines of each area's code files, and the words of Markdown files."""
    found = {name: 0 for name, _ in areas} | {"words": 0}
    for path, text in files.items():
        if path.endswith(".md"):
            found["words"] += len(text.split())
        elif Path(path).suffix in CODE:
            area = next(name for name, patterns in areas if any(fnmatch(path, p) for p in patterns))
            found[area] += text.count("\n")
    return found


def main() -> int:
    """Returns the exit status."""
    text = (ROOT / "tools/ceilings.txt").read_text(encoding="utf-8")
    rows = [line.split() for line in text.splitlines() if not line.startswith("#")]
    listed = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0")
    paths = [path for path in listed if path.endswith(".md") or Path(path).suffix in CODE]
    files = {path: (ROOT / path).read_text(encoding="utf-8") for path in paths if (ROOT / path).is_file()}
    found = weights([(name, patterns) for name, _, *patterns in rows if name != "words"], files)
    over = {name: int(ceiling) for name, ceiling, *_ in rows if found[name] > int(ceiling)}
    for name, ceiling, *_ in rows:
        if name in over or "--all" in sys.argv:
            print(f"{name:10} {found[name]:7,} of {int(ceiling):7,}")
    if over:
        print("error: too heavy: remove something, or raise the ceiling in tools/ceilings.txt")
    return bool(over)


if __name__ == "__main__":
    sys.exit(main())
