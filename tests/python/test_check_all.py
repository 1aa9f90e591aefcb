"""Tests the table of what runs each target of make, and `make check-all`."""

import shutil
import subprocess
from pathlib import Path

import pytest

import check_all

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


def test_the_table_has_a_row_for_each_way_of_running():
    rows = check_all.table(MAKEFILE, "set -e\nmake part FAST=1\n", "  - run: make\n    run: make bad\n")
    assert [row.split(" | ") for row in rows.splitlines()[2:]] == [
        ["| `.ci/run`, on each pull request; `make check-all`", "`part` |"],
        ["| `make check-all`", "`bad`, `generate`, `good`, `system`, `tool` |"],
        ["| a tag (`release.yml`)", "`bad` |"],
        ["| by hand: needs a board", "`board` |"],
    ]


@pytest.mark.skipif(not all(map(shutil.which, ("git", "make"))), reason="needs git and make")
def test_all_targets_run_and_the_summary_says_what_each_came_to(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(check_all, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    for name, text in {"Makefile": MAKEFILE, "tracked": "old\n", check_all.LOGS: "kept\n"}.items():
        (tmp_path / name).write_text(text)
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "Begin"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)

    def outcomes(*arguments):
        status = check_all.main([*arguments])
        rows = [
            line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line[:1] == "|"
        ]
        return status, {name: (result, *why) for name, result, _, *why in rows[2:]}

    status, rows = outcomes()
    assert status == 1
    assert rows == {
        "system": ("passed",),
        "good": ("passed",),
        "part": ("in another", "part of good"),
        "bad": ("failed", "exit status 2"),
        "generate": ("failed", "changed tracked files: tracked"),
        "tool": ("skipped", "absent: no-such-tool"),
        "board": ("skipped", "by hand: needs a board"),
    }
    assert (tmp_path / "docs/logs.md").read_text() == "kept\n"
    assert "it fails" in (tmp_path / "build/check-all/bad.log").read_text()
    assert outcomes("--resume", "good")[1]["good"] == ("passed",), "the sources changed"
    assert outcomes("--resume", "good")[1]["good"] == ("passed", "before, with these sources")
    with pytest.raises(SystemExit):
        check_all.main(["hidden"])
