"""Fixtures of the tests of the hardware."""

from __future__ import annotations

import fcntl
import hashlib
import os
from pathlib import Path

import pytest
from rtl import Observed, Program, Shape, Simulate, run


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
