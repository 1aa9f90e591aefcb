"""Times each width of rows on each tier of this machine, and checks the ratios that must hold."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from quasar_rt.device import cpu

ROOT = Path(__file__).resolve().parents[2]
LAYERS = ("qkv", "fc1+table", "fc2+residual", "proj+residual")
TIERS = [tier.name for tier in cpu().tiers if tier.supported and tier.name != "scalar"]

pytestmark = pytest.mark.skipif(
    shutil.which("cargo") is None, reason="the kernels' benchmark is built by cargo"
)


@cache
def binary() -> str:
    build = ["cargo", "build", "--release", "--quiet", "-p", "quasar-kernels", "--example", "bench"]
    output = subprocess.run(
        [*build, "--message-format=json"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return re.findall(r'"executable":"([^"]*/bench)"', output.stdout)[-1]


def microseconds(tier: str) -> dict[str, float]:
    """Returns the time of each line that the benchmark prints."""
    output = subprocess.run([binary(), tier], check=True, capture_output=True, text=True).stdout
    return {what: float(time) for what, time in re.findall(r"^(\S.*?) +([\d.]+) us", output, re.MULTILINE)}


@pytest.mark.parametrize("tier", TIERS)
def test_row_widths(benchmark: BenchmarkFixture, tier: str) -> None:
    # Each time is the best of three runs, so that other load does not count.
    runs = [microseconds(tier) for _ in range(2)]
    runs.append(benchmark.pedantic(microseconds, (tier,), rounds=1))
    best = {what: min(run[what] for run in runs) for what in runs[0]}
    frame = {
        (percent, kept): sum(best[f"{layer}, {percent} % 8-bit{kept}"] for layer in LAYERS)
        for percent in (0, 25, 100)
        for kept in ("", ", packed")
    }
    benchmark.extra_info.update(
        kernels=tier,
        four_bit=frame[100, ""] / frame[0, ""],
        mixed=frame[100, ""] / frame[25, ""],
        packed=frame[25, ", packed"] / frame[25, ""],
    )
    # Mixed rows cost nothing over 8-bit ones; where 4-bit rows have a form of their own they are faster.
    assert frame[25, ""] < 1.03 * frame[100, ""]
    if tier in ("avx2", "neon"):
        assert frame[0, ""] < frame[100, ""] / 1.3
