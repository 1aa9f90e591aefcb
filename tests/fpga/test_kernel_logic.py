"""Simulates a netlist that tools/hls_ports writes, and counts circuits of the resource model against the sources."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
from rtl import ROOT, run, tool, verilate

import kernel_logic
from hls_ports.nets import Module, Net
from hls_ports.syntax import HEADERS

INCLUDE = ROOT / "fpga" / "include"
#: Fields of a sample and their bits; those of `vec` have five elements.
GIVEN = dict(
    x=31, shift=5, mult=16, zero=8, sum12=22, out_mult=15, numerator=19, divisor=11, below=24,
    exponent_mult=25, value=16, sum=27, bits=5, items=8, by=3,
)  # fmt: skip
EXPECTED = ("code", "mantissa", "scale_shift", "mean", "e12", "normal", "pairs", "picked")

REFERENCE = r"""
#include <stdio.h>
#include "plain_int.hpp"
#include "leaves.hpp"
int main() {
  long long f[19];
  while (true) {
    for (long long& number : f)
      if (scanf("%lld", &number) != 1)
        return 0;
    const reciprocal_t scale = reciprocal(u<22>(f[4]), u<15>(f[5]), u<5>(21));
    printf("%d %d %d %d %d %d %d\n", code_of(requantize(s<31>(f[0]), u<5>(f[1]), s<16>(f[2])), s<8>(f[3])),
           scale.mantissa, scale.shift & 31, mean_of_codes(s<19>(f[6] - 262144), u<11>(f[7])),
           exponential(u<24>(f[8]), u<31>(9000000), u<25>(f[9])),
           normalise_value(s<16>(f[10]), s<27>(f[11]), u<5>(f[12]), u<15>(f[5]), s<16>(f[2]), s<16>(f[10]),
                           u<11>(f[7]), u<4>(3)),
           radicand_of(u<52>(f[4])).pairs);
  }
}
"""


def samples(count: int) -> list[dict[str, int | list[int]]]:
    """Draws numbers that the functions may get, their ends among them."""
    draw = random.Random(1)
    result = []
    for _ in range(count):
        sample: dict[str, int | list[int]] = {}
        for name, bits in GIVEN.items():
            signed = name in ("x", "mult", "zero", "value", "sum")
            least, most = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
            if name in ("x", "sum"):
                least, most = least // 2, most // 2
            if name in ("sum12", "divisor"):
                least = 1
            if name == "shift":
                most = 30
            if name == "bits":
                least, most = 1, 26
            if name == "by":
                most = 4
            if name == "exponent_mult":
                most = 470
            wide = [
                draw.randint(least, most),
                draw.randint(least, most) >> draw.randint(0, bits - 1),
                least,
                most,
            ]
            one = max(least, draw.choice(wide))
            sample[name] = [draw.randint(0, 255) for _ in range(5)] if name == "items" else one
        # A mean's magnitude has 8 bits.
        numerator = max(-128, min(127, int(sample["zero"]))) * int(sample["divisor"])  # type: ignore[call-overload]
        sample["numerator"] = max(0, numerator + 262144)
        result.append(sample)
    return result


def test_a_netlist_computes_what_its_source_does(tmp_path: Path) -> None:
    drawn = samples(100)
    (tmp_path / "reference.cpp").write_text(REFERENCE)
    run(
        tool("g++"),
        "-std=c++17",
        "-O1",
        f"-I{INCLUDE}",
        tmp_path / "reference.cpp",
        "-o",
        tmp_path / "reference",
    )
    scalars = [name for name in GIVEN if name != "items"]
    lines = [" ".join(str(sample[name]) for name in scalars) + " 0 0 0 0 0" for sample in drawn]
    (tmp_path / "given.txt").write_text("\n".join(lines) + "\n")
    answers = run("sh", "-c", f"{tmp_path}/reference < {tmp_path}/given.txt").splitlines()
    assert len(answers) == len(drawn)
    for sample, answer in zip(drawn, answers, strict=True):
        sample.update(zip(EXPECTED, map(int, answer.split()), strict=False))
        items, by = sample["items"], sample["by"]
        assert isinstance(items, list)
        assert isinstance(by, int)
        sample["picked"] = items[by]

    source = ROOT / "tests" / "fpga" / "hls" / "sample.cpp"
    text = kernel_logic.modules(source, HEADERS)["sample"]
    (tmp_path / "sample.v").write_text(text)
    inputs = re.findall(r"input wire (?:signed )?\[(\d+):0\] (i\d+_samples_read_(\w+))", text)
    (verdict,) = set(re.findall(r"output wire \[0:0\] (o_n\d+)", text))
    assert {re.sub(r"_v_\d$", "", field) for _, _, field in inputs} == {*GIVEN, *EXPECTED}
    sets = []
    for number, sample in enumerate(drawn):
        sets.append(f"// {number}")
        for most, port, field in inputs:
            name, _, index = field.partition("_v_")
            value = sample[name]
            one = value[int(index)] if isinstance(value, list) else value
            sets.append(f"top.{port} = {one & (2 << int(most)) - 1}u;")
        sets.append(f"top.eval(); wrong += top.{verdict} != 1;")
    harness = "\n".join(
        [
            '#include "Vsample.h"',
            "#include <stdio.h>",
            "int main() {",
            "Vsample top; int wrong = 0;",
            *sets,
            'printf("%d\\n", wrong); }',
        ]
    )
    (tmp_path / "harness.cpp").write_text(harness)
    run(tool("verilator"), "--cc", "--exe", "-O3", "-Wno-fatal", "--top-module", "sample", "-CFLAGS", "-O0",
        "--Mdir", tmp_path / "out", "-o", "simulate", tmp_path / "sample.v", tmp_path / "harness.cpp")  # fmt: skip
    run("make", "-s", "-C", tmp_path / "out", "-f", "Vsample.mk")
    assert run(tmp_path / "out" / "simulate") == "0\n"


@pytest.mark.parametrize("first", [None, -(1 << 39)], ids=["input", "number"])
def test_a_register_keeps_the_signs_of_first_and_next_values(first: int | None, tmp_path: Path) -> None:
    """The register is wider than the values that it takes."""
    module = Module("signs")
    held = Net(module, "held", -(1 << 39), (1 << 39) - 1)
    following = Net(module, "following", -4, 3)
    for net in (held, following):
        module.inputs[net.name] = (net, None, "")
    module.registers["held"], module.first["held"] = following, first
    module.observe(held)
    (tmp_path / "signs.v").write_text(module.text("signs"))
    given = "top.first_held = -7 & (1L << 40) - 1;" if first is None else ""
    (tmp_path / "harness.cpp").write_text(
        f"""#include "Vsigns.h"
#include <stdio.h>
int main() {{
  Vsigns top;
  {given}
  top.following = -4 & 7;
  for (top.begins = 1; true; top.begins = 0) {{
    top.clk = 0, top.eval(), top.clk = 1, top.eval();
    printf("%lld\\n", (long long)(top.o_held << 24) >> 24);
    if (!top.begins) return 0;
  }}
}}
"""
    )
    simulation = verilate(tmp_path / "built", "signs", tmp_path / "harness.cpp", [tmp_path / "signs.v"])
    assert list(map(int, run(simulation).split())) == [-7 if first is None else first, -4]


def recorded() -> dict[str, dict[str, object]]:
    counts: dict[str, dict[str, object]] = json.loads(kernel_logic.RECORD.read_text())
    return counts


def test_the_record_has_the_models_circuits() -> None:
    modelled = {one.circuit: one.modelled for one in kernel_logic.COMPARISONS}
    assert {name: one["modelled"] for name, one in recorded().items()} == modelled, (
        "run python tools/kernel_logic.py --record"
    )


@pytest.mark.parametrize(
    "circuit",
    [
        pytest.param(one, id=one.circuit, marks=[pytest.mark.slow] if one.slow else [])
        for one in kernel_logic.COMPARISONS
    ],
)
def test_a_circuits_source_takes_the_recorded_luts(circuit: kernel_logic.Comparison) -> None:
    tool("yosys")
    # Versions of Yosys differ a little.
    assert circuit.counted() == pytest.approx(recorded()[circuit.circuit]["counted"], rel=0.05, abs=3)
