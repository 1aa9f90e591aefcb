"""The kernels' instruction counts and inner loops, and that a regression is noticed."""

from __future__ import annotations

import platform
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import kernel_cost  # noqa: E402

pytestmark = [
    pytest.mark.skipif(platform.machine() != "x86_64", reason="counts and loops are of x86-64 tiers"),
    pytest.mark.skipif(shutil.which("rustc") is None, reason="rustc is absent"),
]
needs_valgrind = pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is absent")
needs_objdump = pytest.mark.skipif(shutil.which("objdump") is None, reason="objdump is absent")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kernel_cost.compile_stage(kernel_cost.KERNELS, tmp_path_factory.mktemp("kernels"))


def compile_changed(folder: Path, file: str, *changes: tuple[str, str]) -> Path:
    """The program from a copy of the kernels with some text replaced."""
    kernels = folder / "kernels"
    shutil.copytree(kernel_cost.KERNELS, kernels, ignore=shutil.ignore_patterns("target"))
    source = kernels / "src" / file
    text = source.read_text()
    for old, new in changes:
        assert old in text, f"{file} has no {old!r} any more: change this test with it"
        text = text.replace(old, new)
    source.write_text(text)
    return kernel_cost.compile_stage(kernels, folder)


@needs_valgrind
@pytest.mark.parametrize("stage", kernel_cost.STAGES)
def test_a_stage_takes_no_more_instructions_than_recorded(program: Path, stage: str) -> None:
    measured = {stage: kernel_cost.count_instructions(program, stage)}
    assert not kernel_cost.slower(measured, {stage: kernel_cost.recorded()[stage]})


@needs_objdump
def test_the_vnni_tile_keeps_its_accumulators_in_registers(program: Path) -> None:
    loops = kernel_cost.dot_product_loops(program)
    assert not kernel_cost.spilled(loops)
    full = max(loops, key=lambda loop: loop.dot_products)
    # Four vectors of weights and six broadcast codes feed 24 dot products, twice.
    assert (full.dot_products, full.loads) == (48, 20)


@needs_valgrind
def test_smaller_tiles_are_noticed(tmp_path: Path) -> None:
    changed = compile_changed(
        tmp_path,
        "tiled.rs",
        (
            ".step_by(I::ROWS) {\n                let rows = I::ROWS.min(",
            ".step_by(2) {\n                let rows = 2.min(",
        ),
    )
    measured = {"qkv": kernel_cost.count_instructions(changed, "qkv")}
    assert kernel_cost.slower(measured, {"qkv": kernel_cost.recorded()["qkv"]})


@needs_objdump
def test_accumulators_on_the_stack_are_noticed(tmp_path: Path) -> None:
    sum_up = "_mm512_dpbusd_epi32(row[v], codes, weights[v])"
    changed = compile_changed(
        tmp_path, "x86/avx512/vnni.rs", (f"row[v] = {sum_up};", f"row[v] = std::hint::black_box({sum_up});")
    )
    assert any(
        "accesses to the stack" in problem
        for problem in kernel_cost.spilled(kernel_cost.dot_product_loops(changed))
    )
