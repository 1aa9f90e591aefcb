"""Check that a wheel holds all that a board needs and nothing else, and an sdist all that a build needs.

A wheel's bytes must depend on the sources alone: neither the SBOM nor the native module has a path of this machine, and
the SBOM has no random id and no time.

Usage: python tools/check_wheel.py dist/quasar_rt-*.whl [dist/quasar_rt-*.tar.gz]
"""

from __future__ import annotations

import json
import os
import sys
import tarfile
import zipfile
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: The packaged subnets of the checkout: each has to be in the wheel, with its card and samples.
SUBNETS = sorted(path.stem for path in ROOT.glob("python/quasar_rt/data/*.qvit"))
REQUIRED = (
    "quasar_rt/__init__.py",
    "quasar_rt/_native.abi3.so",
    "quasar_rt/_native.pyi",
    "quasar_rt/py.typed",
    "quasar_rt/boards/*.toml",
    "quasar_rt/spaces/*.toml",
    *(
        f"quasar_rt/data/{name}{rest}"
        for name in SUBNETS
        for rest in (".qvit", "/README.md", "/confusion.png", "/samples/labels.json", "/samples/*.png")
    ),
    "quasar_rt/watch/page.html",
    "quasar_rt/watch/page.js",
    "quasar_rt/watch/page.css",
    "quasar_rt/watch/sign_in.html",
    "quasar_rt/notebooks/*.ipynb",
    "quasar_rt/overlays/published.json",
    "quasar_rt-*.dist-info/sboms/quasar-py.cyclonedx.json",
)
FORBIDDEN = (
    "tests/*",
    "tools/*",
    "lab/*",
    "*/lab/*",
    "docs/*",
    "*.pyc",
    "*/__pycache__/*",
    "*.rs",
    "*.pt",
    "*.onnx",
)
LIMIT_BYTES = 4_000_000
SDIST_REQUIRED = (
    "PKG-INFO",
    "pyproject.toml",
    "Cargo.toml",
    "Cargo.lock",
    "LICENSE",
    "README.md",
    "rust/py/src/lib.rs",
    "rust/kernels/src/lib.rs",
    "python/quasar_rt/__init__.py",
    *(f"python/quasar_rt/data/{name}.qvit" for name in SUBNETS),
)
SDIST_FORBIDDEN = (
    "*.so",
    "*.pyc",
    "*/__pycache__/*",
    "target/*",
    "build/*",
    "dist/*",
    "runs/*",
    "*.pt",
    "*.onnx",
)


def problems(wheel: Path) -> list[str]:
    """Returns the faults of a wheel or an sdist, a line each."""
    if wheel.name.endswith(".tar.gz"):
        return _problems_of_sdist(wheel)
    found = []
    if "-cp310-abi3-" not in wheel.name:
        found.append(f"the file name should have the tag cp310-abi3: {wheel.name}")
    if (size := wheel.stat().st_size) > LIMIT_BYTES:
        found.append(f"{size} bytes; the limit is {LIMIT_BYTES}")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        for name in names:
            if fnmatch(name, "*.dist-info/sboms/*.json"):
                found += [f"{name}: {problem}" for problem in _problems_of_sbom(archive.read(name))]
            elif name.endswith(".so"):
                found += [f"{name} has {path}, a path of this machine" for path in _paths(archive.read(name))]
    return found + _misplaced(names, REQUIRED, FORBIDDEN)


def _problems_of_sbom(data: bytes) -> list[str]:
    document = json.loads(data)
    random = ("serialNumber", document), ("timestamp", document["metadata"])
    found = [f"has a {key}" for key, part in random if key in part]
    return [*found, "has a path (file://)"] if b"file://" in data else found


def _paths(data: bytes) -> list[str]:
    """Returns the folders of this machine that data has: that of the checkout and that of cargo's packages."""
    cargo = Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo")
    return [folder for folder in (str(ROOT), f"{cargo}/registry") if os.fsencode(folder) in data]


def _problems_of_sdist(path: Path) -> list[str]:
    found = []
    if (size := path.stat().st_size) > LIMIT_BYTES:
        found.append(f"{size} bytes; the limit is {LIMIT_BYTES}")
    with tarfile.open(path) as archive:
        # Below a folder of the name and version.
        names = [member.name.partition("/")[2] for member in archive if member.isfile()]
    return found + _misplaced(names, SDIST_REQUIRED, SDIST_FORBIDDEN)


def _misplaced(names: list[str], required: tuple[str, ...], forbidden: tuple[str, ...]) -> list[str]:
    found = [f"missing: {pattern}" for pattern in required if not any(fnmatch(n, pattern) for n in names)]
    return found + [
        f"should not be there: {n}" for n in names if any(fnmatch(n, pattern) for pattern in forbidden)
    ]


def main(arguments: list[str]) -> int:
    """Checks each file; the exit code is 1 if any has a problem."""
    if not arguments:
        print("usage: python tools/check_wheel.py WHEEL|SDIST...", file=sys.stderr)
        return 2
    failed = False
    for wheel in map(Path, arguments):
        found = problems(wheel)
        failed |= bool(found)
        for line in found:
            print(f"{wheel.name}: {line}", file=sys.stderr)
        if not found:
            print(f"{wheel.name}: {wheel.stat().st_size / 1024:.0f} KiB, contents as they should be")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
