"""Compares the event model of the array (rust/accelerator/src/run/time/rtl.rs) with the RTL, cycle for cycle."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

import numpy as np
import pytest
from rtl import ROOT, Observed, Program, Simulate, run, tool
from test_array import SHAPES


@pytest.fixture(scope="module")
def array_cycles() -> Callable[[str], list[list[int]]]:
    """Runs the model. For each pass: taken, start, end, four bounds, cycles of its items."""
    command = [tool("cargo"), "build", "--package", "quasar-accelerator", "--example", "array_cycles"]
    built = run(*command, "--quiet", "--message-format=json", cwd=ROOT)
    messages = [json.loads(line) for line in built.splitlines()]
    (program,) = [message["executable"] for message in messages if message.get("executable")]

    def call(listing: str) -> list[list[int]]:
        done = subprocess.run([program], input=listing, capture_output=True, text=True, check=True)
        return [[int(word) for word in line.split()] for line in done.stdout.splitlines()]

    return call


def listing(program: Program, seen: Observed) -> str:
    """Returns the input of `array_cycles`, the example of quasar-accelerator."""
    shape = program.shape
    sizes = (
        shape.tokens,
        shape.pairs,
        shape.cascade,
        shape.ratio,
        shape.depth,
        int(shape.dsp48e1),
        shape.beat,
    )
    lines = [" ".join(map(str, sizes))]
    demands = zip(program.demands, seen.numbers("demand", column=2), strict=True)
    fills = 0
    for p, offered in zip(program.passes, seen.numbers("pass"), strict=True):
        if p.fill == fills:
            (words, tiles), taken = next(demands)
            lines.append(f"weights {words} {tiles} {taken}")
            fills += tiles
        f = p.fields
        rows4 = 2 * f["pairs4"] - f["single"]
        numbers = (p.words, rows4, len(p.rows) - rows4, f["groups"], offered, f["scores"], f["last"])
        lines.append(" ".join(["pass", *map(str, (*numbers, int(p.fill is not None), f["frees"]))]))
    for name, cycles in (
        ("beats", seen.numbers("beat")),
        ("sums", seen.numbers("sum", column=2)),
        ("scores", seen.numbers("score", column=2)),
    ):
        lines.append(" ".join([name, *map(str, cycles)]))
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", SHAPES)
def test_the_event_driven_model_is_the_rtl(
    name: str,
    simulate: Simulate,
    array_cycles: Callable[[str], list[list[int]]],
) -> None:
    for seed in range(100, 112):
        program = Program(SHAPES[name], np.random.default_rng(seed))
        for _ in range(6):
            program.add_random()
        options = (dict(), dict(stall=50), dict(passes=30, beats=40), dict(stall=80, passes=60, beats=70))[
            seed % 4
        ]
        seen = simulate(program, seed=seed, **options)
        modelled = array_cycles(listing(program, seen))
        assert [line[:3] for line in modelled] == [
            list(cycles)
            for cycles in zip(
                seen.numbers("pass", column=2), seen.numbers("start"), seen.numbers("end"), strict=True
            )
        ]
        shown: dict[str, list[int]] = dict(sum=[], score=[])
        for p, line in zip(program.passes, modelled, strict=True):
            shown["score" if p.fields["scores"] else "sum"] += line[7:]
        assert shown == {kind: seen.numbers(kind) for kind in shown}
