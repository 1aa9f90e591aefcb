"""Check that a tag is the version of this source, and that the changelog has a date for it.

    python tools/check_release.py v0.2.0
    python tools/check_release.py           # only that the version is written once and the changelog has its form

The version is written in Cargo.toml; the wheel and `quasar_rt.__version__` take it from there.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def version(cargo: str) -> str:
    """Returns the workspace's version.

    Raises:
        ValueError: there is none.
    """
    found = re.search(r'^\[workspace\.package\]\nversion = "([^"]+)"', cargo, re.MULTILINE)
    if found is None:
        raise ValueError("Cargo.toml has no version below [workspace.package]")
    return found[1]


def problems(cargo: str, changelog: str, tag: str | None) -> list[str]:
    """Returns what keeps the source from being released under the tag, a line each."""
    stated = version(cargo)
    found = [
        f"Cargo.toml: {name} is {other}, the workspace {stated}"
        for name, other in re.findall(r'^(quasar-\w+) = \{ path = .*version = "([^"]+)"', cargo, re.MULTILINE)
        if other != stated
    ]
    headings = re.findall(r"^## (.*)$", changelog, re.MULTILINE)
    if not headings or headings[0] != "[Unreleased]":
        found.append("CHANGELOG.md: the first section must be [Unreleased]")
    form = r"\[\d+\.\d+\.\d+\] - \d{4}-\d{2}-\d{2}"
    found += [
        f"CHANGELOG.md: '## {heading}' must be '## [X.Y.Z] - YYYY-MM-DD'"
        for heading in headings[1:]
        if not re.fullmatch(form, heading)
    ]
    if tag is None:
        return found
    if tag != f"v{stated}":
        found.append(f"the tag is {tag}, and Cargo.toml has version {stated}: the tag must be v{stated}")
    if not any(heading.startswith(f"[{stated}] - ") for heading in headings):
        found.append(f"CHANGELOG.md has no section '## [{stated}] - YYYY-MM-DD': give [Unreleased] that name")
    return found


def main(arguments: list[str]) -> int:
    """Prints the problems; the exit code is 1 if there are any."""
    cargo, changelog = ((ROOT / name).read_text(encoding="utf-8") for name in ("Cargo.toml", "CHANGELOG.md"))
    found = problems(cargo, changelog, arguments[0] if arguments else None)
    for line in found:
        print(line, file=sys.stderr)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
