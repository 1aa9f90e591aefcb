"""Check that wheels hold exactly the tracked files of the package, and an sdist those of the repository.

A wheel's bytes must depend on the sources alone: neither the SBOM nor the native module has a path of this machine, and
the SBOM has no random id and no time.

Usage: python tools/check_wheel.py dist/quasar_rt-*.whl [dist/quasar_rt-*.tar.gz]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NATIVE = "quasar_rt/_native.abi3.so"
SBOM = "sboms/quasar-py.cyclonedx.json"
#: The files of a wheel's `*.dist-info`.
ABOUT = ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE", SBOM)
#: Tracked files that the sdist leaves out (pyproject.toml, tool.maturin.exclude).
NOT_IN_SDIST = ("docs/notebooks", "rust/fuzz/corpus/*")
LIMIT_BYTES = 4_000_000


def problems(path: Path) -> list[str]:
    """Returns the faults of a wheel or an sdist, a line each."""
    found = []
    if (size := path.stat().st_size) > LIMIT_BYTES:
        found.append(f"{size} bytes; the limit is {LIMIT_BYTES}")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    tracked = listed.stdout.split("\0")[:-1]
    if path.name.endswith(".tar.gz"):
        folder = path.name.removesuffix(".tar.gz")
        expected = {
            f"{folder}/{name}" for name in tracked if not any(fnmatch(name, left) for left in NOT_IN_SDIST)
        }
        expected.add(f"{folder}/PKG-INFO")
        with tarfile.open(path) as sdist:
            names = set(sdist.getnames())
    else:
        if "-cp310-abi3-" not in path.name:
            found.append(f"the file name should have the tag cp310-abi3: {path.name}")
        folder = "-".join(path.name.split("-")[:2])
        expected = {name.removeprefix("python/") for name in tracked if name.startswith("python/quasar_rt/")}
        expected |= {NATIVE, *(f"{folder}.dist-info/{name}" for name in ABOUT)}
        with zipfile.ZipFile(path) as wheel:
            names = set(wheel.namelist())
            for name in sorted(names):
                if "/sboms/" in name:
                    found += [f"{name}: {problem}" for problem in _problems_of_sbom(wheel.read(name))]
                elif name.endswith(".so"):
                    found += [
                        f"{name} has {path}, a path of this machine" for path in _paths(wheel.read(name))
                    ]
    found += [f"missing: {name}" for name in sorted(expected - names)]
    return found + [f"should not be there: {name}" for name in sorted(names - expected)]


def _problems_of_sbom(data: bytes) -> list[str]:
    document = json.loads(data)
    random = ("serialNumber", document), ("timestamp", document["metadata"])
    found = [f"has a {key}" for key, part in random if key in part]
    return [*found, "has a path (file://)"] if b"file://" in data else found


def _paths(data: bytes) -> list[str]:
    """Returns the folders of this machine that data has: that of the checkout and that of cargo's packages."""
    cargo = Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo")
    return [folder for folder in (str(ROOT), f"{cargo}/registry") if os.fsencode(folder) in data]


def main(arguments: list[str]) -> int:
    """Checks each file; the exit code is 1 if any has a problem."""
    if not arguments:
        print("usage: python tools/check_wheel.py WHEEL|SDIST...", file=sys.stderr)
        return 2
    failed = False
    for path in map(Path, arguments):
        found = problems(path)
        failed |= bool(found)
        for line in found:
            print(f"{path.name}: {line}", file=sys.stderr)
        if not found:
            print(f"{path.name}: {path.stat().st_size / 1024:.0f} KiB, contents as they should be")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
