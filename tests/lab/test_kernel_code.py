"""Tests that nothing but the kernels' own assembly uses AMX's tile registers, whose values it relies on."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

import pytest

from kernel_cost import KERNELS, compile_library, disassemble, tile_problems

pytestmark = [
    pytest.mark.skipif(platform.machine() != "x86_64", reason="AMX is x86-64's"),
    pytest.mark.skipif(
        not shutil.which("rustc") or not shutil.which("objdump"), reason="needs rustc and objdump (binutils)"
    ),
]

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


def test_the_compiler_neither_uses_tile_registers_nor_calls_between_their_uses(tmp_path: Path) -> None:
    assert tile_problems(disassemble(compile_library(KERNELS, tmp_path))) == []


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
