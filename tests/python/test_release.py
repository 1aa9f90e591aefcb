"""The release: the version in one place, the changelog's form, what wheels and sdists hold, the workflow for tags."""

import importlib.util
import io
import re
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

import quasar_rt

ROOT = Path(__file__).resolve().parents[2]
CHANGELOG = "# Changelog\n\n## [Unreleased]\n\n## [0.2.0] - 2026-12-01\n"
CARGO = '[workspace.package]\nversion = "0.2.0"\n\nquasar-core = { path = "rust/core", version = "0.2.0" }\n'


def tool(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


check_release, check_wheel = tool("check_release"), tool("check_wheel")


def test_this_source_is_in_order_and_the_package_has_its_version():
    texts = [(ROOT / name).read_text() for name in ("Cargo.toml", "CHANGELOG.md")]
    assert check_release.problems(*texts, None) == []
    stated = check_release.version(texts[0])
    assert quasar_rt.__version__ == stated
    others = subprocess.run(
        ["git", "grep", "-lE", rf'version = "{re.escape(stated)}"', "--", "*.toml", "*.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if others.returncode == 0:
        assert others.stdout.split() == ["Cargo.toml"]


@pytest.mark.parametrize(
    ("cargo", "changelog", "tag", "problem"),
    [
        (CARGO, CHANGELOG, "v0.2.1", "the tag must be v0.2.0"),
        (CARGO, CHANGELOG, "0.2.0", "the tag must be v0.2.0"),
        (CARGO.replace('n = "0.2.0" }', 'n = "0.1.0" }'), CHANGELOG, None, "quasar-core is 0.1.0"),
        (CARGO, CHANGELOG.replace("0.2.0", "0.1.0"), "v0.2.0", "no section '## [0.2.0] - YYYY-MM-DD'"),
        (CARGO, CHANGELOG.replace(" - 2026-12-01", ""), None, "must be '## [X.Y.Z] - YYYY-MM-DD'"),
        (CARGO, CHANGELOG.replace("## [Unreleased]\n\n", ""), None, "the first section must be [Unreleased]"),
    ],
)
def test_a_release_that_is_not_in_order_is_refused(cargo, changelog, tag, problem):
    assert check_release.problems(CARGO, CHANGELOG, "v0.2.0") == []
    assert any(problem in line for line in check_release.problems(cargo, changelog, tag))


def wheel(folder, *extra, without=""):
    path = folder / "quasar_rt-0.2.0-cp310-abi3-linux_x86_64.whl"
    names = [pattern.replace("*", "x") for pattern in check_wheel.REQUIRED if pattern != without]
    with zipfile.ZipFile(path, "w") as archive:
        for name in (*names, *extra):
            archive.writestr(name, "")
    return path


def sdist(folder, *extra, without=""):
    path = folder / "quasar_rt-0.2.0.tar.gz"
    names = [pattern.replace("*", "x") for pattern in check_wheel.SDIST_REQUIRED if pattern != without]
    with tarfile.open(path, "w:gz") as archive:
        for name in (*names, *extra):
            archive.addfile(tarfile.TarInfo(f"quasar_rt-0.2.0/{name}"), io.BytesIO())
    return path


@pytest.mark.parametrize("make", [wheel, sdist])
def test_what_is_missing_or_should_not_be_there_is_named(make, tmp_path):
    assert check_wheel.problems(make(tmp_path)) == []
    missing = "quasar_rt/data/digits.qvit" if make is wheel else "Cargo.lock"
    assert check_wheel.problems(make(tmp_path, without=missing)) == [f"missing: {missing}"]
    assert check_wheel.problems(make(tmp_path, "x/__pycache__/a.pyc"))[0].startswith("should not be there: ")


def test_the_workflow_for_tags_runs_what_is_there():
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    text = (ROOT / ".github/workflows/release.yml").read_text()
    workflow = yaml.safe_load(text)
    # YAML reads the key `on` as true.
    assert set(workflow[True]) == {"push"}, "nothing but a tag starts it"
    assert list(workflow[True]["push"]) == ["tags"]
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    commands = [step["run"] for step in steps if "run" in step]
    assert commands[0] == 'python3 tools/check_release.py "$GITHUB_REF_NAME"', "before anything is built"
    assert any("make audit" in step.get("run", "") for step in workflow["jobs"]["build"]["steps"])
    targets = set(re.findall(r"^([a-z0-9-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for command in commands:
        for target in re.findall(r"\bmake ([a-z-]+)", command):
            assert target in targets
        for path in re.findall(r"\btools/\S+", command):
            assert (ROOT / path).is_file()
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[\w./-]+", step["uses"]) for step in steps if "uses" in step)
    # Only the job that publishes can, and it runs after the tests.
    publish = workflow["jobs"]["publish"]
    assert publish["needs"] == "build"
    assert (workflow["permissions"], publish["permissions"]) == ({"contents": "read"}, {"id-token": "write"})
    assert "permissions" not in workflow["jobs"]["build"]
