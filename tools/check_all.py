#!/usr/bin/env python3
"""Run each target of make that needs no board, no AMD tool and no network but package registries; sum up what happened.

    make check-all                                      # CHECK_ALL_ARGS='--due --minutes 60', or names of targets
    python tools/check_all.py [--due] [--minutes N] [TARGET ...]
    python tools/check_all.py --table                   # what runs each target

The list is the Makefile: a target runs unless its text ends with `[by hand: REASON]`. `[needs: TOOL ...]` names what
must be installed, `[after: TARGET ...]` what make runs before it, `[small: NAME=VALUE ...]` the sizes of a run. A
target that another one of the list runs passes with it, as one with `[in: TARGET]`, whose work is a part of that one's;
one that only runs others is divided into them. build/check-all has a log of each, docs/evidence/check-all.md the last
pass of each on a tree without changes.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
LOGS = "docs/logs.md"
RECORD = "docs/evidence/check-all.md"
LIMIT = "90m"
HEAD = """\
# Last pass of every target

`make check-all` writes the last commit at which each target passed on an unchanged tree, in the
sizes of `check-all`, with that run's time, minutes and CPU tier.

```{csv-table}
:header: target,commit,time,minutes,tier

"""


@dataclass
class Target:
    """A target: its line of `make help` or "", the notes at its end by kind, and what it runs."""

    text: str = ""
    notes: dict[str, str] = field(default_factory=dict)
    calls: set[str] = field(default_factory=set)
    #: It only runs others.
    divided: bool = True


class Pass(NamedTuple):
    """The last pass of a target: commit, UTC time, minutes (or "in" the target that ran it) and CPU tier."""

    commit: str
    at: str
    minutes: str
    tier: str


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
            target.notes |= dict(re.findall(r"\[(by hand|needs|small|after|in): ([^]]*)\]", text))
            target.calls |= set(" ".join([before, *makes, target.notes.get("after", "")]).split())
            target.divided &= len(makes) == len(recipe.splitlines())
    for name, target in found.items():
        if "in" in target.notes:
            found[target.notes["in"]].calls.add(name)
    for target in found.values():
        target.calls &= found.keys()
        target.divided &= bool(target.calls) and all(found[name].text for name in target.calls)
        target.divided &= "by hand" not in target.notes
    return found


def parts(name: str, known: dict[str, Target]) -> list[str]:
    """Returns the targets that a divided target runs, in the Makefile's order; else the target alone."""
    if not known[name].divided:
        return [name]
    below = {part for call in known[name].calls for part in parts(call, known)}
    return [part for part in known if part in below]


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


def changed() -> str:
    """Returns the changes to the commit, and the names of new files, but for logs and record."""
    where = ("--", ".", f":!{LOGS}", f":!{RECORD}")
    return git("status", "--porcelain", *where) + git("diff", "--binary", "HEAD", *where)


def tier() -> str:
    """Returns the best tier of this CPU, as the built package names it; its architecture before a build."""
    python = ROOT / os.environ.get("VENV", ".venv") / "bin/python"
    command = [str(python), "-c", "from quasar_rt.device import cpu; print(cpu().best_tier)"]
    try:
        return subprocess.check_output(command, cwd=ROOT, stderr=subprocess.DEVNULL, text=True).strip()
    except (OSError, subprocess.CalledProcessError):
        return platform.machine()


def read_record() -> dict[str, Pass]:
    """Returns the passes in the record, by target."""
    path = ROOT / RECORD
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    rows = [line.split(",") for line in text.partition(":header")[2].splitlines()[1:] if "," in line]
    return {name: Pass(*cells) for name, *cells in rows if cells[1]}


def write_record(passes: dict[str, Pass], known: dict[str, Target]) -> None:
    """Writes the record of all targets but those by hand; a reader finds the old file or the new one."""
    lines = []
    for name, target in known.items():
        if target.text and "by hand" not in target.notes:
            unknown = Pass("in parts" if target.divided else "never", "", "", "")
            lines.append(",".join((name, *passes.get(name, unknown))) + "\n")
    path = ROOT / RECORD
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(f"{HEAD}{''.join(lines)}```\n", encoding="utf-8")
    new.replace(path)


def run(name: str, target: Target, log: Path) -> str:
    """Runs a target, with its log in a file; returns what is wrong, or ""."""
    goals = [*target.notes.get("after", "").split(), name, *shlex.split(target.notes.get("small", ""))]
    command = ["timeout", "--foreground", LIMIT, "make", *goals]
    # The variables of the make that runs this are not for the others.
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    logs, before = (ROOT / LOGS).read_bytes(), changed()
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
    if changed() != before:
        return "changed files: " + " ".join(git("status", "--short", "--", ".", f":!{RECORD}").split()[1::2])
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
    parser.add_argument("--due", action="store_true", help="begin with what has not passed for longest")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start none after this time")
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
    passes = read_record()
    write_record(passes, known)
    begun = time.monotonic()
    if options.minutes > 0:
        # Some targets need what these install.
        system = [name for name in known if known[name].text.startswith("Install Debian's")]
        subprocess.run(["make", *system], cwd=ROOT)
    wanted = options.targets or [name for name, target in known.items() if target.text]
    names = list(dict.fromkeys(part for name in wanted for part in parts(name, known)))
    if options.due:
        names.sort(key=lambda name: passes[name].at if name in passes else "")
    rows: list[tuple[str, str, float, str]] = []
    runs: dict[str, set[str]] = {}
    for name in names:
        missing = [tool for tool in known[name].notes.get("needs", "").split() if not shutil.which(tool)]
        if "by hand" in known[name].notes:
            rows.append((name, "skipped", 0, f"by hand: {known[name].notes['by hand']}"))
        elif missing:
            rows.append((name, "skipped", 0, f"absent: {', '.join(missing)}"))
        else:
            runs[name] = reached([name], known)
    while runs and time.monotonic() - begun < options.minutes * 60:
        # A target waits for those that run it.
        name = next(name for name in runs if not any(name in runs[other] for other in runs if other != name))
        print(f"check-all: {name} ...", end=" ", flush=True)
        commit, clean = git("rev-parse", "--short=8", "HEAD").strip(), not changed()
        start = time.monotonic()
        wrong = run(name, known[name], folder / f"{name}.log")
        seconds = time.monotonic() - start
        print(f"{'failed' if wrong else 'passed'} after {seconds:.0f} s", flush=True)
        rows.append((name, "failed" if wrong else "passed", seconds, wrong))
        within = runs.pop(name)
        if not wrong:
            rows += [(other, "in another", 0, f"part of {name}") for other in runs if other in within]
            runs = {other: below for other, below in runs.items() if other not in within}
            if clean and git("rev-parse", "--short=8", "HEAD").strip() == commit:
                now = f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%MZ}"
                passed = Pass(commit, now, f"in {name}", tier())
                passes |= dict.fromkeys(within, passed) | {
                    name: passed._replace(minutes=f"{seconds / 60:.1f}")
                }
                # Written each time: a run of hours may be cut off.
                write_record(passes, known)
            else:
                print("not recorded: the tree has changes, or its commit changed")
        (folder / "summary.md").write_text(summary(rows))
    print(f"{summary(rows)}Logs: {folder}")
    if runs:
        print(f"Not started: {', '.join(runs)}")
    return int("failed" in [result for _, result, *_ in rows])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
