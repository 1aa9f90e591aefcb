"""Fixtures of the tests of the hardware."""

from __future__ import annotations

from pathlib import Path

import pytest
from rtl import Observed, Program, Shape, Simulate, run


@pytest.fixture(scope="session")
def simulate(tmp_path_factory: pytest.TempPathFactory) -> Simulate:
    """Runs programs on the array; each shape is compiled once."""
    built: dict[Shape, Path] = {}
    folder = tmp_path_factory.mktemp("array")

    def call(program: Program, **options: int) -> Observed:
        shape = program.shape
        if shape not in built:
            built[shape] = shape.build(folder / str(len(built)))
        file = folder / "program.txt"
        file.write_text(program.stimulus(**options))
        return Observed([line.split() for line in run(built[shape], file).splitlines()])

    return call
