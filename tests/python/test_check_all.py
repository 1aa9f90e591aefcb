"""Tests the table of what runs each target of make, and `make check-all`."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import check_all
from quasar_rt.device import cpu

ROOT = Path(__file__).resolve().parents[2]
MAKEFILE = """\
system: ## Install Debian's tools
good: part ## Pass [small: WORD='two words']
\t@echo the word is $(WORD) >docs/logs.md
part: hidden ## Pass, too
hidden:
bad: ## Fail
\t@echo it fails; exit 3
generate: ## Change a tracked file
\t@echo new >tracked
again:
\t@$(MAKE) -C elsewhere bad
tool: ## Need a tool [needs: no-such-tool]
board: good ## Need a board [by hand: needs a board]
whole: good bad ## Run the others
late: ## Need a part [after: part]
\t@test -e unless-failing
sample: ## Run some of what good runs [in: good]
\t@exit 1
"""


def test_every_target_of_the_makefile_has_a_text_and_a_line_of_the_table():
    texts = [(ROOT / name).read_text() for name in ("Makefile", ".ci/run", ".github/workflows/release.yml")]
    known = check_all.targets(texts[0])
    table = check_all.table(*texts)
    assert not [name for name, target in known.items() if target.text and f"`{name}`" not in table]
    called = {name for target in known.values() for name in target.calls}
    assert {name for name, target in known.items() if not target.text} <= called, "a target without a text"
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "[by hand: " not in listed
    assert not re.search(r"\[(after|in): ", listed)


def test_the_record_lists_the_targets_of_the_makefile():
    known = check_all.targets((ROOT / "Makefile").read_text())
    rows = (ROOT / check_all.RECORD).read_text().partition("tier\n\n")[2].splitlines()
    expected = [name for name, target in known.items() if target.text and "by hand" not in target.notes]
    assert [row.split(",")[0] for row in rows] == [*expected, "```"], (
        "write it anew: make check-all CHECK_ALL_ARGS='--minutes 0'"
    )
    assert check_all.parts("lint", known)[0] == "lint-commits"
    assert check_all.parts("loom", known) == ["loom"]


def test_the_table_has_a_row_for_each_way_of_running():
    rows = check_all.table(MAKEFILE, "set -e\nmake part FAST=1\n", "  - run: make\n    run: make bad\n")
    assert [row.split(" | ") for row in rows.splitlines()[2:]] == [
        ["| `.ci/run`, on each pull request; `make check-all`", "`part` |"],
        ["| `make check-all`", "`bad`, `generate`, `good`, `late`, `sample`, `system`, `tool`, `whole` |"],
        ["| a tag (`release.yml`)", "`bad` |"],
        ["| by hand: needs a board", "`board` |"],
    ]


def test_the_tier_is_the_package_s(monkeypatch):
    monkeypatch.setenv("VENV", sys.prefix)
    assert check_all.tier() == cpu().best_tier


@pytest.fixture
def outcomes(tmp_path, monkeypatch, capsys):
    """A repository with a Makefile, and a function that runs check_all there: its status and rows."""
    if not all(map(shutil.which, ("git", "make"))):
        pytest.skip("needs git and make")
    monkeypatch.setattr(check_all, "ROOT", tmp_path)
    monkeypatch.setattr(check_all, "tier", lambda: "neon")
    (tmp_path / "docs").mkdir()
    texts = {"Makefile": MAKEFILE, "tracked": "old\n", check_all.LOGS: "kept\n", ".gitignore": "build\n"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    git(tmp_path, "init", "-q")
    commit(tmp_path)

    def run(*arguments):
        status = check_all.main([*arguments])
        rows = [
            line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line[:1] == "|"
        ]
        return status, {name: (result, *why) for name, result, _, *why in rows[2:]}

    return run


def git(folder, *arguments):
    done = subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def commit(folder):
    git(folder, "add", ".")
    git(folder, "-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-qm", "Change")
    return git(folder, "rev-parse", "--short=8", "HEAD")


def test_all_targets_run_and_the_summary_says_what_each_came_to(tmp_path, outcomes):
    status, rows = outcomes()
    assert status == 1
    assert rows == {
        "system": ("passed",),
        "good": ("passed",),
        "part": ("in another", "part of good"),
        "sample": ("in another", "part of good"),
        "bad": ("failed", "exit status 2"),
        "generate": ("failed", "changed files: tracked"),
        "tool": ("skipped", "absent: no-such-tool"),
        "board": ("skipped", "by hand: needs a board"),
        "late": ("failed", "exit status 2"),
    }
    assert (tmp_path / "docs/logs.md").read_text() == "kept\n"
    assert "it fails" in (tmp_path / "build/check-all/bad.log").read_text()
    with pytest.raises(SystemExit):
        check_all.main(["hidden"])


def test_the_record_keeps_the_last_pass_of_each_target_on_a_tree_without_changes(tmp_path, outcomes):
    first = git(tmp_path, "rev-parse", "--short=8", "HEAD")
    outcomes("good", "bad")
    record = check_all.read_record()
    assert {name: (found.commit, found.tier) for name, found in record.items()} == {
        "good": (first, "neon"),
        "part": (first, "neon"),
        "sample": (first, "neon"),
    }
    text = (tmp_path / check_all.RECORD).read_text()
    assert "bad,never," in text
    assert "whole,in parts," in text
    assert (record["good"].minutes, record["part"].minutes) == ("0.0", "in good")
    assert len(record["good"].at) == len("2026-12-07T10:00Z")

    (tmp_path / "tracked").write_text("changed\n")
    assert outcomes("system")[1]["system"] == ("passed",)
    (tmp_path / "tracked").write_text("old\n")
    (tmp_path / "untracked").touch()
    outcomes("system")
    assert "system" not in check_all.read_record()
    (tmp_path / "untracked").unlink()

    outcomes("system")
    assert check_all.read_record()["system"].commit == first, "the record's own change counted"
    second = commit(tmp_path)
    outcomes("part")
    passes = check_all.read_record()
    assert [passes[name].commit for name in ("good", "part")] == [first, second]


def test_what_has_not_passed_for_longest_runs_first_until_the_time_is_over(tmp_path, outcomes, monkeypatch):
    (tmp_path / "unless-failing").touch()
    commit(tmp_path)
    outcomes("late")
    order = iter(list(outcomes("--due", "late", "whole", "tool", "generate")[1]))
    assert [name for name in order if name != "tool"] == ["good", "bad", "generate", "late"]
    git(tmp_path, "checkout", "-q", "tracked")
    clock = iter(range(0, 100000, 50))
    monkeypatch.setattr(check_all.time, "monotonic", lambda: next(clock))
    status, rows = outcomes("--due", "--minutes", "1", "late", "bad")
    assert list(rows) == ["bad"], "one of them takes the minute"
    assert status == 1
    assert outcomes("--minutes", "0")[0] == 0
