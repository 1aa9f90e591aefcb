#!/usr/bin/env python3
"""Measure the kernels independently of the machine's load: instructions by stage, and the inner loops' disassembly.

    python tools/lab/kernel_cost.py             # fails if a stage takes 2 % more than tests/bench/kernel_cost.json
    python tools/lab/kernel_cost.py --record    # records new counts, after an intended change or another compiler

Callgrind (valgrind) counts the instructions that a stage of a DeiT-tiny block takes on the AVX2 tier, the best tier
that valgrind knows. The AVX-512 VNNI tile is disassembled (objdump) instead: in a loop of dot products an access to
the stack is an accumulator that found no register, which halves the speed. In the code for AMX, nothing but the
crate's own assembly may use tile registers.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import click

from quasar_rt.cli.output import print_table
from quasar_rt.files import write_text

ROOT = Path(__file__).resolve().parents[2]
KERNELS = ROOT / "rust/kernels"
RECORD = ROOT / "tests/bench/kernel_cost.json"
STAGES = ("norm", "qkv", "attention", "proj", "fc1", "fc2")
TIER = "avx2"
TOLERANCE = 0.02
TILE_INSTRUCTIONS = {"ldtilecfg", "tilerelease", "tileloadd", "tilestored", "tilezero", "tdpbssd", "tdpbusd"}
"""Those of the crate's own assembly."""
DOT_PRODUCTS = 48
"""In the loop of the full AVX-512 tile: two for each of 24 accumulators."""


class Loop(NamedTuple):
    """An innermost loop of `vpdpbusd` with codes that are broadcast from memory."""

    function: str
    instructions: int
    dot_products: int
    loads: int
    """Vectors read from memory, broadcasts included."""
    stack: int
    """Accesses to the stack."""


RELEASE = ("rustc", "--edition=2021", "-Copt-level=3", "-Ccodegen-units=4", "--cap-lints=allow")
"""The compiler, as a release build calls it."""


def compile_library(kernels: Path, folder: Path) -> Path:
    """Compiles the crate in `kernels`, which depends on nothing."""
    library = folder / "libquasar_kernels.rlib"
    subprocess.run(
        [*RELEASE, "--crate-type=rlib", "--crate-name=quasar_kernels", kernels / "src/lib.rs", "-o", library],
        check=True,
    )
    return library


def compile_stage(kernels: Path, folder: Path) -> Path:
    """Compiles the example `stage` of the crate in `kernels`."""
    library, program = compile_library(kernels, folder), folder / "stage"
    subprocess.run(
        [*RELEASE, f"--extern=quasar_kernels={library}", kernels / "examples/stage.rs", "-o", program],
        check=True,
    )
    return program


def count_instructions(program: Path, stage: str) -> int:
    """Returns the instructions of one run of `stage`: the difference between two runs and one."""

    def total(times: int) -> int:
        run = subprocess.run(
            [
                "valgrind",
                "--tool=callgrind",
                "--callgrind-out-file=/dev/null",
                program,
                TIER,
                stage,
                str(times),
            ],
            capture_output=True,
            text=True,
        )
        collected = re.search(r"Collected : (\d+)", run.stderr)
        if run.returncode or collected is None:
            raise click.ClickException(f"callgrind failed:\n{run.stderr}")
        return int(collected[1])

    return total(2) - total(1)


def disassemble(program: Path) -> str:
    """Disassembles a program or a library."""
    return subprocess.run(
        ["objdump", "--disassemble", "--no-show-raw-insn", "-M", "intel", "--demangle", program],
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def dot_product_loops(disassembly: str) -> list[Loop]:
    """Finds every innermost loop of dot products."""
    functions = _functions(disassembly, "vpdpbusd")
    return [loop for function, code in functions for loop in _loops(function, code)]


def tile_problems(disassembly: str) -> list[str]:
    """Returns a line for each use of AMX's tile registers that is not the crate's own, and for each call between."""
    problems = []
    products = 0
    for function, code in _functions(disassembly, "tmm"):
        instructions = [instruction for _, instruction in code]
        used = [at for at, instruction in enumerate(instructions) if "tmm" in instruction]
        products += any(instruction.startswith("tdp") for instruction in instructions)
        for at, instruction in enumerate(instructions):
            name = instruction.split()[0] if instruction.strip() else ""
            tile = at in used or "tilecfg" in name
            if tile and name not in TILE_INSTRUCTIONS:
                problems.append(f"{function}: {instruction}: not of the crate's assembly")
            # The compiler would keep a value of its own on the stack, or a configuration.
            if tile and "[rsp" in instruction:
                problems.append(f"{function}: {instruction}: a tile register on the stack")
            # What panics stands behind the function's other code.
            if name == "call" and used[0] < at < used[-1]:
                problems.append(f"{function}: {instruction}: a call may change the tile registers")
    if products < 2:
        problems.append("no function multiplies tiles: the code for AMX has changed")
    return problems


def _functions(disassembly: str, of: str) -> Iterator[tuple[str, list[tuple[int, str]]]]:
    for part in re.split(r"\n(?=[0-9a-f]+ <.*>:\n)", disassembly):
        name = re.match(r"[0-9a-f]+ <(.*)>:\n", part)
        if name and of in part:
            lines = re.findall(r"^ *([0-9a-f]+):\t(.*)$", part, re.MULTILINE)
            yield name[1], [(int(address, 16), instruction) for address, instruction in lines]


def _loops(function: str, code: list[tuple[int, str]]) -> Iterator[Loop]:
    place = {address: i for i, (address, _) in enumerate(code)}
    # A loop is what a jump back spans; an innermost one spans no other.
    last_start = -1
    for end, (_, instruction) in enumerate(code):
        jump = re.match(r"j\w+ +([0-9a-f]+)", instruction)
        start = place.get(int(jump[1], 16), end + 1) if jump else end + 1
        if start > end:
            continue
        innermost, last_start = start > last_start, max(last_start, start)
        body = [instruction for _, instruction in code[start : end + 1]]
        # Code that jumps elsewhere is no loop over k: the compiler has put what follows a loop before it.
        straight = not any(line.startswith("j") for line in body[:-1])
        if innermost and straight and any("vpbroadcastd" in line and "[" in line for line in body):
            yield Loop(
                function,
                len(body),
                sum("vpdpbusd" in line for line in body),
                sum(bool(re.match(r"v\w+ +[xyz]mm.*\[", line)) for line in body),
                sum("[rsp" in line for line in body),
            )


def slower(measured: dict[str, int], recorded: dict[str, int]) -> list[str]:
    """Returns a line for each stage that takes more than it may."""
    return [
        f"{stage}: {measured[stage]:,} instructions, recorded {count:,}"
        for stage, count in recorded.items()
        if measured[stage] > (1 + TOLERANCE) * count
    ]


def spilled(loops: list[Loop]) -> list[str]:
    """Returns a line for each loop that uses the stack, and one if the full tile's loop is missing."""
    problems = [
        f"{loop.function}: {loop.stack} accesses to the stack in a loop of {loop.dot_products} dot products"
        for loop in loops
        if loop.stack
    ]
    if max((loop.dot_products for loop in loops), default=0) < DOT_PRODUCTS:
        problems.append(f"no loop of {DOT_PRODUCTS} dot products: the full tile has changed")
    return problems


def recorded() -> dict[str, int]:
    """Reads the recorded instructions by stage."""
    instructions: dict[str, int] = json.loads(RECORD.read_text())["instructions"]
    return instructions


@click.command(help=__doc__)
@click.option("--record", is_flag=True, help="Record the counts.")
def main(record: bool) -> None:
    with TemporaryDirectory() as folder:
        program = compile_stage(KERNELS, Path(folder))
        measured = {stage: count_instructions(program, stage) for stage in STAGES}
        disassembly = disassemble(program)
        loops = dot_product_loops(disassembly)
    if record:
        compiler = subprocess.run(["rustc", "--version"], check=True, capture_output=True, text=True).stdout
        document = {"compiler": compiler.strip(), "tier": TIER, "instructions": measured}
        write_text(RECORD, json.dumps(document, indent=2) + "\n")
    before = recorded()
    print_table(
        ["stage", ">instructions", ">recorded", ">change"],
        [
            [stage, f"{count:,}", f"{before[stage]:,}", f"{count / before[stage] - 1:+.1%}"]
            for stage, count in measured.items()
        ],
        title=f"One block of DeiT-tiny's shape, {TIER}, counted by callgrind (attention: one head)",
    )
    print_table(
        [">dot products", ">loads", ">stack", ">instructions"],
        [
            [str(loop.dot_products), str(loop.loads), str(loop.stack), str(loop.instructions)]
            for loop in sorted(loops, key=lambda loop: -loop.dot_products)
        ],
        title="Inner loops of vpdpbusd",
    )
    problems = slower(measured, before) + spilled(loops) + tile_problems(disassembly)
    for problem in problems:
        click.echo(f"error: {problem}", err=True)
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
