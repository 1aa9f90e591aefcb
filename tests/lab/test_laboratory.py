"""The laboratory: its README lists every instrument, and nothing outside it needs one."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAB = ROOT / "tools" / "lab"
FILES = sorted(path for path in LAB.iterdir() if path.suffix in {".py", ".sh"})
ROWS = re.findall(
    r"^\| (`.*`) \| .*\? \| (.*) \| \[.*\]\((.*)\) \|$", (LAB / "README.md").read_text(), re.MULTILINE
)


def imported(path):
    """Returns the modules that a file imports, without those of a package's own parts."""
    nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return names | {node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}


def test_the_readme_lists_every_instrument():
    commands = {path.name for path in FILES if path.suffix == ".sh" or "__main__" in path.read_text("utf-8")}
    listed = {name for names, _, _ in ROWS for name in re.findall(r"`(.*?)`", names)}
    # The command of the other runtimes' environment, and the log of others' runs.
    assert commands - listed == {"peer_models.py", "run_log.py"}
    assert listed <= commands


@pytest.mark.parametrize(("names", "commands", "answer"), ROWS, ids=[row[0].strip("`") for row in ROWS])
def test_a_row_names_a_command_that_runs_the_instrument_and_a_document_that_exists(names, commands, answer):
    assert (LAB / answer).is_file()
    instrument = re.findall(r"`(.*?)`", names)[0]
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for command in re.findall(r"`(.*?)`", commands):
        if command.startswith("make "):
            target = command.removeprefix("make ")
            recipe = makefile.split(f"\n{target}:")[1].split("\n\n")[0]
            if "$(call test_arm," in recipe:
                recipe = makefile.split("define test_arm")[1].split("endef")[0]
            assert f"tools/lab/{instrument}" in recipe
        else:
            assert command == f"python tools/lab/{instrument}"


@pytest.mark.parametrize(
    "instrument", [path.name for path in FILES if "click.command" in path.read_text("utf-8")]
)
def test_an_instrument_starts_from_any_folder(instrument, tmp_path):
    done = subprocess.run(
        [sys.executable, LAB / instrument, "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Usage: " in done.stdout


@pytest.mark.parametrize("folder", ["python", "tools", "tools/hls_ports", "fpga/scripts"])
def test_nothing_outside_imports_an_instrument(folder):
    modules = {path.stem for path in FILES}
    paths = (ROOT / folder).rglob("*.py") if folder == "python" else (ROOT / folder).glob("*.py")
    found = {str(path): sorted(imported(path) & modules) for path in paths}
    assert found
    assert {path: names for path, names in found.items() if names} == {}
