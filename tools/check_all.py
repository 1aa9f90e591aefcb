#!/usr/bin/env python3
"""Run each target of make that needs no board, no AMD tool and no network but package registries; sum up what happened.

    make check-all                                      # CHECK_ALL_ARGS='--resume', or names of targets
    python tools/check_all.py [--resume] [TARGET ...]
    python tools/check_all.py --table                   # what runs each target

The list is the Makefile: a target runs unless its text ends with `[by hand: REASON]`. `[needs: TOOL ...]` names what
must be installed, `[small: NAME=VALUE ...]` the sizes of a run. A target that another one of the list runs is not run
again. build/check-all has a log of each; `--resume` leaves out what passed with these sources.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOGS = "docs/logs.md"
LIMIT = "90m"


@dataclass
class Target:
    """A target: its line of `make help` or "", the notes at its end by kind, and what it runs."""

    text: str = ""
    notes: dict[str, str] = field(default_factory=dict)
    calls: set[str] = field(default_factory=set)


def targets(makefile: str) -> dict[str, Target]:
    """Returns the targets of a Makefile by name, in order."""
    found: dict[str, Target] = {}
    rules = re.findall(
        r"^([a-z][a-z0-9 -]*):(?!=)([^#\n]*)(?:## (.*))?\n((?:\t.*\n)*)", makefile, re.MULTILINE
    )
    for names, before, text, recipe in rules:
        # A make in another folder has targets of its own.
        makes = [line for line in recipe.splitlines() if "$(MAKE)" in line and " -C " not in line]
        for name in names.split():
            target = found.setdefault(name, Target())
            target.text = target.text or text
            target.notes |= dict(re.findall(r"\[(by hand|needs|small): ([^]]*)\]", text))
            target.calls |= set(" ".join([before, *makes]).split())
    return found


def reached(names: list[str], known: dict[str, Target]) -> set[str]:
    """Returns the targets that these run, themselves among them."""
    done: set[str] = set()
    while names:
        name, *names = names
        if name in known and name not in done:
            done.add(name)
            names += known[name].calls
    return done


def table(makefile: str, ci: str, release: str) -> str:
    """Returns the table of what runs each target, from the Makefile, `.ci/run` and release.yml."""
    known = targets(makefile)
    in_ci, at_tag = (
        reached(" ".join(re.findall(r"^(?: +run: )?make (.*)", script, re.MULTILINE)).split(), known)
        for script in (ci, release)
    )
    by_hand = {name: target.notes["by hand"] for name, target in known.items() if "by hand" in target.notes}
    rows = {
        "`.ci/run`, on each pull request; `make check-all`": in_ci,
        "`make check-all`": known.keys() - in_ci - by_hand.keys(),
        "a tag (`release.yml`)": at_tag,
    }
    for reason in sorted(set(by_hand.values())):
        rows[f"by hand: {reason}"] = {name for name in by_hand if by_hand[name] == reason}
    return "| run by | targets |\n|---|---|\n" + "".join(
        f"| {by} | {', '.join(f'`{name}`' for name in sorted(names) if known[name].text)} |\n"
        for by, names in rows.items()
    )


def git(*arguments: str) -> str:
    """Returns what git prints."""
    return subprocess.run(["git", *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout


def sources() -> str:
    """Returns a digest of the commit and of the changes to it, but for the logs."""
    changes = git("diff", "--binary", "HEAD", "--", ".", f":!{LOGS}")
    return hashlib.sha256((git("rev-parse", "HEAD") + changes).encode()).hexdigest()


def run(name: str, target: Target, log: Path) -> str:
    """Runs a target, with its log in a file; returns what is wrong, or ""."""
    command = ["timeout", "--foreground", LIMIT, "make", name, *shlex.split(target.notes.get("small", ""))]
    # The variables of the make that runs this are not for the others.
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    logs, before = (ROOT / LOGS).read_bytes(), sources()
    try:
        with log.open("wb") as out:
            made = subprocess.run(
                command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
    finally:
        # A run of this kind is not one that the page keeps.
        (ROOT / LOGS).write_bytes(logs)
    if made.returncode == 124:
        return f"took more than {LIMIT}"
    if made.returncode:
        return f"exit status {made.returncode}"
    if sources() != before:
        return "changed tracked files: " + " ".join(git("diff", "--name-only", "HEAD").split())
    return ""


def summary(rows: list[tuple[str, str, float, str]]) -> str:
    """Returns the table of targets with their results, seconds and reasons, and the counts."""
    lines = [f"| {name} | {result} | {seconds:.0f} | {why} |" for name, result, seconds, why in rows]
    results = [result for _, result, *_ in rows]
    counts = [f"{results.count(kind)} {kind}" for kind in ("passed", "failed", "skipped", "in another")]
    minutes = sum(seconds for _, _, seconds, _ in rows) / 60
    table = "\n".join(["| target | result | seconds | why |", "|---|---|--:|---|", *lines])
    return f"{table}\n\n{', '.join(counts)}, in {minutes:.0f} minutes\n"


def main(arguments: list[str]) -> int:
    """Runs the targets and prints the summary; the exit code is 1 if any failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="run these alone")
    parser.add_argument("--resume", action="store_true", help="leave out what passed with these sources")
    parser.add_argument("--table", action="store_true", help="print what runs each target, as a table, alone")
    options = parser.parse_args(arguments)
    files = [ROOT / name for name in ("Makefile", ".ci/run", ".github/workflows/release.yml")]
    if options.table:
        print(table(*(path.read_text(encoding="utf-8") for path in files)), end="")
        return 0
    known = targets(files[0].read_text(encoding="utf-8"))
    if unknown := [name for name in options.targets if not known.get(name, Target()).text]:
        parser.error(f"the Makefile has no {', '.join(unknown)}")
    folder = ROOT / "build/check-all"
    folder.mkdir(parents=True, exist_ok=True)
    # Some targets need what these install.
    subprocess.run(
        ["make", *(name for name in known if known[name].text.startswith("Install Debian's"))], cwd=ROOT
    )
    rows: list[tuple[str, str, float, str]] = []
    skipped = {}
    names = options.targets or [name for name, target in known.items() if target.text]
    for name in names:
        missing = [tool for tool in known[name].notes.get("needs", "").split() if not shutil.which(tool)]
        if "by hand" in known[name].notes:
            skipped[name] = f"by hand: {known[name].notes['by hand']}"
        elif missing:
            skipped[name] = f"absent: {', '.join(missing)}"
    chosen = {name: reached([name], known) for name in names if name not in skipped}
    passed_before = folder / "passed.json"
    passed = json.loads(passed_before.read_text()) if options.resume and passed_before.exists() else {}
    for name in names:
        within = [other for other, parts in chosen.items() if name in parts and name != other]
        start, wrong = time.monotonic(), ""
        if name in skipped:
            result, wrong = "skipped", skipped[name]
        elif within:
            result, wrong = "in another", f"part of {within[-1]}"
        elif passed.get(name) == sources():
            result, wrong = "passed", "before, with these sources"
        else:
            print(f"check-all: {name} ...", end=" ", flush=True)
            wrong = run(name, known[name], folder / f"{name}.log")
            result = "failed" if wrong else "passed"
            print(f"{result} after {time.monotonic() - start:.0f} s", flush=True)
            passed[name] = "" if wrong else sources()
            passed_before.write_text(json.dumps(passed, indent=1))
        rows.append((name, result, time.monotonic() - start, wrong))
        # Written anew each time: a run of hours may be cut off.
        (folder / "summary.md").write_text(summary(rows))
    print(f"{summary(rows)}Logs: {folder}")
    return int("failed" in [result for _, result, *_ in rows])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
