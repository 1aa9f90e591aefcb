"""Fixtures of the tests of the hardware."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from rtl import ROOT, Check, Observed, Program, Shape, Simulate, compare, listing, run, tool


@pytest.fixture(scope="session")
def simulate(tmp_path_factory: pytest.TempPathFactory) -> Simulate:
    """Runs programs on the array; each shape is compiled once for all processes of pytest-xdist."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = tmp_path_factory.mktemp("array")

    def built(shape: Shape) -> Path:
        name = f"array-{hashlib.sha256(repr(shape).encode()).hexdigest()[:16]}"
        with (base / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            done = base / f"{name}.done"
            if not done.exists():
                done.write_text(str(shape.build(base / name)))
            return Path(done.read_text())

    def call(program: Program, **options: int) -> Observed:
        file = folder / "program.txt"
        file.write_text(program.stimulus(**options))
        return Observed([line.split() for line in run(built(program.shape), file).splitlines()])

    return call


@pytest.fixture(scope="session")
def array_cycles() -> Callable[[Program, Observed], list[list[int]]]:
    """Runs the event model. For each pass: taken, start, end, four bounds, cycles of its items."""
    command = [tool("cargo"), "build", "--package", "quasar-accelerator", "--example", "array_cycles"]
    built = run(*command, "--quiet", "--message-format=json", cwd=ROOT)
    messages = [json.loads(line) for line in built.splitlines()]
    (example,) = [message["executable"] for message in messages if message.get("executable")]

    def call(program: Program, seen: Observed) -> list[list[int]]:
        text = listing(program, seen)
        done = subprocess.run([example], input=text, capture_output=True, text=True, check=True)
        return [[int(word) for word in line.split()] for line in done.stdout.splitlines()]

    return call


@pytest.fixture(scope="session")
def check(simulate: Simulate, array_cycles: Callable[[Program, Observed], list[list[int]]]) -> Check:
    """Runs programs, and compares results and cycles."""

    def call(program: Program, **options: int) -> Counter[str]:
        seen = simulate(program, **options)
        return compare(program, seen, array_cycles(program, seen))

    return call
