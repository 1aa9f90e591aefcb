"""The release: the version in one place, the changelog's form, what wheels and sdists hold, the audit, workflows."""

import base64
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import check_all
import check_release
import check_wheel
import normalize_sbom
import quasar_rt

ROOT = Path(__file__).resolve().parents[2]
CHANGELOG = "# Changelog\n\n## [Unreleased]\n\n## [0.2.0] - 2026-12-01\n"
CARGO = '[workspace.package]\nversion = "0.2.0"\n\nquasar-core = { path = "rust/core", version = "0.2.0" }\n'
needs_git = pytest.mark.skipif(
    not (shutil.which("git") and (ROOT / ".git").exists()), reason="compares with the files of a checkout"
)


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


def tracked(*where):
    """The tracked files, as a checkout lists them."""
    return subprocess.check_output(["git", "ls-files", *where], cwd=ROOT, text=True).splitlines()


def wheel(folder, *extra, without=""):
    path = folder / "quasar_rt-0.2.0-cp310-abi3-linux_x86_64.whl"
    package = [name.removeprefix("python/") for name in tracked("python/quasar_rt")]
    about = [f"quasar_rt-0.2.0.dist-info/{name}" for name in check_wheel.ABOUT]
    with zipfile.ZipFile(path, "w") as archive:
        for name in {*package, *about, check_wheel.NATIVE, *extra} - {without}:
            archive.writestr(name, json.dumps({"metadata": {}}) if "/sboms/" in name else "")
    return path


@needs_git
def test_a_wheel_with_a_file_too_many_or_too_few_is_refused(tmp_path):
    assert check_wheel.problems(wheel(tmp_path)) == []
    for name in (
        "tools/lab/zoo.py",
        "quasar_rt/lab/zoo.py",
        "quasar_rt/a.pt",
        "quasar_rt/__pycache__/a.pyc",
    ):
        assert check_wheel.problems(wheel(tmp_path, name)) == [f"should not be there: {name}"]
    about = "quasar_rt-0.2.0.dist-info/licenses/LICENSE"
    for name in ("quasar_rt/data/digits.qvit", check_wheel.NATIVE, "quasar_rt/watch/page.js", about):
        assert check_wheel.problems(wheel(tmp_path, without=name)) == [f"missing: {name}"]


@needs_git
@pytest.mark.skipif(
    not all(map(shutil.which, ("maturin", "cargo"))), reason="the sdist needs maturin and cargo"
)
def test_the_sdist_is_the_source_and_another_is_refused(tmp_path):
    subprocess.run(["maturin", "sdist", "--out", tmp_path], cwd=ROOT, check=True)
    (path,) = tmp_path.iterdir()
    assert check_wheel.problems(path) == []
    folder = path.name.removesuffix(".tar.gz")
    with tarfile.open(path) as archive:
        about = archive.extractfile(f"{folder}/PKG-INFO").read().decode()
        members = [(member, archive.extractfile(member).read()) for member in archive]
    assert "\nDescription-Content-Type: text/markdown" in about
    assert (ROOT / "python/pypi.md").read_text() in about
    with tarfile.open(path, "w:gz") as archive:
        for member, data in members:
            if member.name != f"{folder}/rust/capi/include/quasar_rt.h":
                archive.addfile(member, io.BytesIO(data))
        archive.addfile(tarfile.TarInfo(f"{folder}/target/a.so"))
    assert check_wheel.problems(path) == [
        f"missing: {folder}/rust/capi/include/quasar_rt.h",
        f"should not be there: {folder}/target/a.so",
    ]


def sbom(folder, number):
    """The parts of maturin's SBOM that differ from build to build."""
    core = f"path+file://{folder}/rust/core#quasar-core@0.1.0"
    component = {"bom-ref": core, "purl": "pkg:cargo/quasar-core@0.1.0?download_url=file://../core"}
    return {
        "bomFormat": "CycloneDX",
        "serialNumber": f"urn:uuid:{number}",
        "metadata": {"timestamp": f"2026-11-30T13:33:0{number}Z", "tools": [{"name": "cargo-cyclonedx"}]},
        "components": [component, {"bom-ref": "registry+https://index#libc@0.2.1", "name": "libc"}],
        "dependencies": [{"ref": core, "dependsOn": ["registry+https://index#libc@0.2.1"]}],
    }


def built_wheel(folder, document):
    path = folder / "quasar_rt-0.1.0-cp310-abi3-linux_x86_64.whl"
    folder.mkdir()
    name = "quasar_rt-0.1.0.dist-info/sboms/quasar-py.cyclonedx.json"
    record = f'"a,b.py",sha256=x,3\n{name},sha256=y,1\nquasar_rt-0.1.0.dist-info/RECORD,,\n'
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        texts = {"a,b.py": "a\n", name: json.dumps(document), "quasar_rt-0.1.0.dist-info/RECORD": record}
        for file, text in texts.items():
            archive.writestr(zipfile.ZipInfo(file), text)
    return path


@needs_git
def test_two_builds_have_the_same_sbom(tmp_path):
    one, other = (
        built_wheel(tmp_path / str(number), sbom(folder, number))
        for number, folder in enumerate(("/home/one/quasar", "/srv/with%20space"))
    )
    assert one.read_bytes() != other.read_bytes()
    for path in (one, other):
        assert any("serialNumber" in line for line in check_wheel.problems(path))
        assert any("timestamp" in line for line in check_wheel.problems(path))
        assert any("file://" in line for line in check_wheel.problems(path))
    assert normalize_sbom.main([str(one), str(other)]) == 0
    assert one.read_bytes() == other.read_bytes()
    assert not any("sboms" in line for line in check_wheel.problems(one))
    with zipfile.ZipFile(one) as archive:
        name = archive.namelist()[1]
        document = json.loads(archive.read(name))
        record = archive.read(archive.namelist()[-1]).decode().splitlines()
    assert document["components"][0]["bom-ref"] == document["dependencies"][0]["ref"]
    assert document["components"][0]["purl"] == "pkg:cargo/quasar-core@0.1.0"
    assert document["components"][1]["bom-ref"] == "registry+https://index#libc@0.2.1"
    digest = base64.urlsafe_b64encode(hashlib.sha256(zipfile.ZipFile(one).read(name)).digest()).rstrip(b"=")
    assert record[1].startswith(f"{name},sha256={digest.decode()},")
    assert (record[0], record[2]) == ('"a,b.py",sha256=x,3', "quasar_rt-0.1.0.dist-info/RECORD,,")


@needs_git
def test_a_native_module_with_a_path_of_this_machine_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("CARGO_HOME", "/somewhere/cargo")
    path = wheel(tmp_path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("quasar_rt/other.so", "panicked at /somewhere/cargo/registry/src/x/a.rs")
    assert (
        check_wheel.problems(path)[0]
        == "quasar_rt/other.so has /somewhere/cargo/registry, a path of this machine"
    )


def program(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


#: Answers of the databases, which ordinary tests cannot reach, as pip-audit and cargo-deny print them.
KNOWS_PILLOW = (
    'grep -q pillow==9.2.0 "$7" && { echo "Found 40 known vulnerabilities in 1 package" >&2; exit 1; }'
)


@pytest.mark.parametrize(
    ("deny", "audit", "freeze", "problem"),
    [
        ("exit 0", KNOWS_PILLOW + "; exit 0", "numpy==2.4.0", None),
        ("exit 1", KNOWS_PILLOW + "; exit 0", "numpy==2.4.0", "the crates have a finding, or could not be"),
        ("exit 0", KNOWS_PILLOW + "; exit 1", "numpy==2.4.0", "the wheel's dependencies have a finding, or"),
        ("exit 0", "exit 0", "numpy==2.4.0", "does not know the weaknesses of pillow==9.2.0"),
        ("exit 0", "exit 1", "numpy==2.4.0", "does not know the weaknesses of pillow==9.2.0"),
        ("exit 0", KNOWS_PILLOW + "; exit 0", "", "holds no dependency of the wheel"),
    ],
)
def test_an_audit_that_looked_nothing_up_fails(tmp_path, deny, audit, freeze, problem):
    program(tmp_path / "cargo", deny)
    program(tmp_path / "pip-audit", f'[ "$1" = --strict ] || exit 3\n{audit}')
    program(tmp_path / "python", f"[ -z '{freeze}' ] || echo '{freeze}'")
    done = subprocess.run(
        ["bash", ROOT / "tools/audit.sh", tmp_path / "python"],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "audit: pip-audit, " in done.stdout
    assert "crates of Cargo.lock: weaknesses, licences, sources" in done.stdout
    assert (done.returncode, "everything was looked up" in done.stdout) == (
        (0, True) if problem is None else (1, False)
    )
    assert problem is None or ("audit: error: " in done.stderr and problem in done.stderr)


def test_the_c_library_is_installed_from_where_cargo_builds_with_its_soname_as_a_link(tmp_path):
    """`make c-library` copied from target/release, whatever CARGO_TARGET_DIR named."""
    built = tmp_path / "elsewhere"
    built.mkdir()
    files = [built / f"libquasar_rt.{suffix}" for suffix in ("so", "a", "rlib")]
    for file in files:
        file.write_text(file.suffix)
    ours = {"package_id": f"path+file://{ROOT}/rust/capi#quasar-capi@0.3.7", "target": {"name": "quasar_rt"}}
    other = {"package_id": "registry+x#libc@0.2.1", "target": {"name": "libc"}}
    messages = [
        {"reason": "compiler-artifact", **other},
        {"reason": "build-script-executed", **ours, "env": [["QUASAR_SONAME", "libquasar_rt.so.0.3"]]},
        {"reason": "compiler-artifact", **ours, "filenames": list(map(str, files))},
        {"reason": "build-finished", "success": True},
    ]
    (tmp_path / "messages").write_text("\n".join(map(json.dumps, messages)))
    program(tmp_path / "cargo", f"cat {tmp_path}/messages")
    for _ in range(2):
        subprocess.run(
            [sys.executable, ROOT / "tools/c_library.py", tmp_path / "out"],
            env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
            check=True,
        )
    links = {path.name: os.readlink(path) for path in (tmp_path / "out").iterdir() if path.is_symlink()}
    assert links == dict.fromkeys(("libquasar_rt.so", "libquasar_rt.so.0.3"), "libquasar_rt.so.0.3.7")
    others = {"libquasar_rt.so.0.3.7", "libquasar_rt.a", "quasar_rt.h", "quasar_rt.pc"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == links.keys() | others
    if shutil.which("pkg-config"):
        found = subprocess.run(
            ["pkg-config", "--cflags", "--libs", "quasar_rt = 0.3.7"],
            env={**os.environ, "PKG_CONFIG_PATH": str(tmp_path / "out")},
            capture_output=True,
            text=True,
            check=True,
        )
        assert found.stdout.split() == [f"-I{tmp_path}/out", f"-L{tmp_path}/out", "-lquasar_rt"]


def workflow(name):
    """The parsed text of a workflow and all its steps."""
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    found = yaml.safe_load((ROOT / ".github/workflows" / name).read_text())
    return found, [step for job in found["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("name", ["release.yml", "pull-request.yml"])
def test_workflows_run_what_is_there_and_pin_their_actions(name):
    _, steps = workflow(name)
    commands = [step["run"] for step in steps if "run" in step]
    scripts = [ROOT / path for command in commands for path in re.findall(r"\btools/\S+|\.ci/\S+", command)]
    assert all(path.is_file() for path in scripts)
    commands += [path.read_text() for path in scripts if path.parent.name == ".ci"]
    targets = check_all.targets((ROOT / "Makefile").read_text())
    called = re.findall(r"^(?:.*&& |sudo )?make ([a-z -]+)", "\n".join(commands), re.MULTILINE)
    assert called
    assert {target for line in called for target in line.split()} <= targets.keys()
    text = (ROOT / ".github/workflows" / name).read_text()
    pinned = re.findall(r"uses: ([\w-]+/[\w-]+@[0-9a-f]{40}) # v\d+\.\d+\.\d+$", text, re.MULTILINE)
    assert pinned == [step["uses"] for step in steps if "uses" in step], (
        "a commit, and its version as a comment"
    )


def test_the_workflow_for_tags_publishes_what_was_audited_and_tested():
    release, steps = workflow("release.yml")
    # YAML reads the key `on` as true.
    assert set(release[True]) == {"push"}, "nothing but a tag starts it"
    assert list(release[True]["push"]) == ["tags"]
    commands = [step["run"] for step in steps if "run" in step]
    assert commands[0] == 'python3 tools/check_release.py "$GITHUB_REF_NAME"', "before anything is built"
    assert {"make audit", "make wheels", "make test-reproducible"} <= set(commands)
    build, publish = release["jobs"]["build"], release["jobs"]["publish"]
    oldest = re.search(r'^rust-version = "1\.(\d+)"', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)
    pinned = re.fullmatch(r"1\.(\d+)\.\d+", build["env"]["RUSTUP_TOOLCHAIN"])
    assert int(pinned[1]) >= int(oldest[1])
    # Only the job that publishes can, and it runs after the tests.
    assert publish["needs"] == "build"
    assert (release["permissions"], publish["permissions"]) == ({"contents": "read"}, {"id-token": "write"})
    assert "permissions" not in build


def test_pull_requests_run_what_a_contributor_runs():
    found, steps = workflow("pull-request.yml")
    # `pull_request_target` would run a stranger's code with the repository's rights.
    assert set(found[True]) == {"pull_request", "push"}
    assert found[True]["push"] == {"branches": ["main"]}
    assert found["permissions"] == {"contents": "read"}
    assert [step["run"] for step in steps if "run" in step][-1] == ".ci/run"
    assert (ROOT / ".ci/run").stat().st_mode & 0o111
