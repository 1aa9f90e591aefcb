"""Tests that nothing but the kernels' own assembly uses AMX's tile registers, whose values it relies on."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.skipif(platform.machine() != "x86_64", reason="AMX is x86-64's"),
    pytest.mark.skipif(
        not shutil.which("rustc") or not shutil.which("objdump"), reason="needs rustc and objdump (binutils)"
    ),
]

KERNELS = Path(__file__).parents[2] / "rust/kernels/src/lib.rs"
#: Instructions of the crate's own assembly.
OWN = {"ldtilecfg", "tilerelease", "tileloadd", "tilestored", "tilezero", "tdpbssd", "tdpbusd"}

SOUND = """
0000000000000000 <multiply>:
   0:\tldtilecfg [rdi]
   5:\ttileloadd tmm0,[rsi+rdx*1]
   a:\ttdpbssd tmm0,tmm4,tmm6
   c:\tnop
   f:\ttilestored [rsi+rdx*1],tmm0
  14:\tret

0000000000000020 <more>:
  20:\ttdpbusd tmm1,tmm4,tmm6
  25:\ttilerelease
  2a:\tret
"""


def tile_problems(disassembly: str) -> list[str]:
    """Returns a line for each use of tile registers that is not the crate's own, and for each call between uses."""
    problems = []
    products = 0
    for part in re.split(r"\n(?=[0-9a-f]+ <.*>:\n)", disassembly):
        name = re.match(r"\s*[0-9a-f]+ <(.*)>:\n", part)
        if name is None or "tmm" not in part:
            continue
        code = re.findall(r"^ *[0-9a-f]+:\t(.*)$", part, re.MULTILINE)
        used = [at for at, instruction in enumerate(code) if "tmm" in instruction]
        products += any(instruction.startswith("tdp") for instruction in code)
        for at, instruction in enumerate(code):
            word = instruction.partition(" ")[0]
            tile = at in used or "tilecfg" in word
            if tile and word not in OWN:
                problems.append(f"{name[1]}: {instruction}: not of the crate's assembly")
            # The compiler would keep a value of its own on the stack, or a configuration.
            if tile and "[rsp" in instruction:
                problems.append(f"{name[1]}: {instruction}: a tile register on the stack")
            # Calls that panic are placed after the function's other code.
            if word == "call" and used[0] < at < used[-1]:
                problems.append(f"{name[1]}: {instruction}: a call may change the tile registers")
    if products < 2:
        problems.append("no function multiplies tiles: the code for AMX has changed")
    return problems


def test_the_compiler_neither_uses_tile_registers_nor_calls_between_their_uses(tmp_path: Path) -> None:
    library = tmp_path / "libquasar_kernels.rlib"
    release = ["rustc", "--edition=2021", "-Copt-level=3", "-Ccodegen-units=4", "--cap-lints=allow"]
    subprocess.run([*release, "--crate-type=rlib", KERNELS, "-o", library], check=True)
    objdump = ["objdump", "--disassemble", "--no-show-raw-insn", "-M", "intel", "--demangle", library]
    text = subprocess.run(objdump, check=True, capture_output=True, text=True).stdout
    assert tile_problems(text) == []


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("ldtilecfg [rdi]", "ldtilecfg [rsp+0x40]", "on the stack"),
        ("[rsi+rdx*1],tmm0", "[rsp+rdx*1],tmm0", "on the stack"),
        ("tdpbusd tmm1,tmm4,tmm6", "tdpbf16ps tmm1,tmm4,tmm6", "not of the crate's assembly"),
        ("nop", "call 90 <memcpy>", "a call may change"),
    ],
)
def test_a_problem_is_found(old: str, new: str, problem: str) -> None:
    assert tile_problems(SOUND) == []
    assert any(problem in line for line in tile_problems(SOUND.replace(old, new)))
