#!/usr/bin/env python3
"""Checks commit messages: subjects within 72 columns, imperative, without a full stop.

`python tools/check_commits.py` checks the commits since FIRST; with a FILE it checks one message (the commit-msg hook).
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
#: The newest commit to which the rules do not apply.
FIRST = "9cd12628c0c3cbc37a28e34478c14e80557fead6"
COLUMNS = 72
#: Imperatives that end as other forms of a verb do.
IMPERATIVES = {"Bring", "Embed", "Feed", "Need", "Seed", "Speed", "Shed", "String", "Spring", "Wed", "Ping"}


def faults(message: str) -> list[str]:
    """Returns what is wrong with a commit's message."""
    subject, *body = [line for line in message.splitlines() if not line.startswith("#")] or [""]
    if subject.startswith(("Merge ", "Revert ", "fixup! ", "squash! ")):
        return []
    verb = subject.split(" ")[0]
    rules = [
        (len(subject) > COLUMNS, f"has {len(subject)} columns, at most {COLUMNS} are allowed"),
        (subject.endswith("."), "ends with a full stop"),
        (not verb[:1].isupper(), "does not start with a capital letter"),
        (
            bool(re.search("(ed|ing)$", verb)) and verb not in IMPERATIVES,
            f"starts with {verb!r}, which is no imperative",
        ),
        (bool(body) and body[0] != "", "is not followed by an empty line"),
    ]
    return [fault for broken, fault in rules if broken]


def git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)


def main() -> int:
    """Returns the exit status."""
    if len(sys.argv) > 1:
        messages = [Path(sys.argv[1]).read_text(encoding="utf-8")]
    else:
        # A shallow clone may lack FIRST: the newest commit is checked alone.
        whole = git("merge-base", "--is-ancestor", FIRST, "HEAD").returncode == 0
        log = git("log", "--no-merges", "-z", "--format=%B", *([f"{FIRST}..HEAD"] if whole else ["-1"]))
        if log.returncode:
            print(f"note: commit messages are not checked: {log.stderr.strip()}")
        messages = [message for message in log.stdout.split("\0") if message]
    found = [(message.partition("\n")[0], fault) for message in messages for fault in faults(message)]
    for subject, fault in found:
        print(f"error: the subject {subject!r} {fault}", file=sys.stderr)
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
