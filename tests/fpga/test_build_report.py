"""Tests the comparison of Vitis HLS's reports with the model, on made-up reports of the documented form."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rtl import ROOT

import build_report
from build_report import KERNELS, Declared
from quasar_rt.hardware import Hardware

TINY = ROOT / "fpga" / "configs" / "tiny.toml"
Edit = Callable[[str], str]


def reported_name(loop: Declared) -> str:
    """A loop's name in the report: its label, or the line and a number of the tool's."""
    return loop.label or f"VITIS_LOOP_{loop.line}_1"


def depth_of(loop: Declared) -> int:
    """An iteration's cycles that keep every promise."""
    return 2 if loop.name in ("drain.parameters", "norm.gains") else 3


def synthesis(kernel: str, amounts: dict[str, int]) -> str:
    """A csynth.xml that keeps every promise. An endless loop has no latency."""
    modules = ""
    for number, loop in enumerate(build_report.declared_loops(kernel)):
        # The tool flattens a perfect nest and joins the names.
        name = reported_name(loop)
        if loop.name == "norm.read":
            name = f"VITIS_LOOP_{loop.line - 1}_3_{name}"
        latency = {"norm.root": 27, "norm.invert": 17}.get(loop.name, "undef")
        ii = (
            f"<IterationLatency>{depth_of(loop)}</IterationLatency>"
            if loop.ii is None
            else f"<PipelineII>{loop.ii}</PipelineII>\n          <PipelineDepth>{depth_of(loop)}</PipelineDepth>"
        )
        modules += f"""
    <Module>
      <Name>{kernel}_Pipeline_{number}</Name>
      <PerformanceEstimates>
        <SummaryOfLoopLatency>
        <{name}>
          <Name>{name}</Name>
          <Latency>{latency}</Latency>
          {ii}
          <PipelineType>{"no" if loop.ii is None else "yes"}</PipelineType>
        </{name}>
        </SummaryOfLoopLatency>
      </PerformanceEstimates>
    </Module>"""
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<profile>
  <ReportVersion><Version>2023.2</Version></ReportVersion>
  <UserAssignments>
    <Part>xc7z020-clg400-1</Part>
    <TopModelName>{kernel}</TopModelName>
    <TargetClockPeriod>10.00</TargetClockPeriod>
    <ClockUncertainty>2.70</ClockUncertainty>
  </UserAssignments>
  <PerformanceEstimates>
    <SummaryOfTimingAnalysis>
      <EstimatedClockPeriod>7.100</EstimatedClockPeriod>
    </SummaryOfTimingAnalysis>
  </PerformanceEstimates>
  <AreaEstimates>
    <Resources>
      <BRAM_18K>{amounts["bram18"]}</BRAM_18K>
      <DSP>{amounts["dsp"]}</DSP>
      <FF>{amounts["ff"]}</FF>
      <LUT>{amounts["lut"]}</LUT>
    </Resources>
  </AreaEstimates>
  <ModuleInformation>{modules}
  </ModuleInformation>
</profile>
"""


def csynth(kernel: str) -> str:
    return f"kernels/{kernel}/hls/syn/report/csynth.xml"


def build(folder: Path) -> Path:
    """Writes the reports of a build of `tiny` that keeps every promise."""
    (folder / "hardware.toml").write_text(TINY.read_text())
    for kernel, amounts in build_report.modelled(Hardware.load(TINY)).items():
        report = folder / csynth(kernel)
        report.parent.mkdir(parents=True)
        report.write_text(synthesis(kernel, amounts))
    return folder


def compare(folder: Path, *options: str) -> Result:
    return CliRunner().invoke(build_report.main, [str(folder), *options])


def substituted(pattern: str, new: str) -> Edit:
    """Replaces the first match of a pattern that is there."""

    def edit(text: str) -> str:
        changed, count = re.subn(pattern, new, text, count=1)
        assert count == 1
        return changed

    return edit


def replaced(old: str, new: str) -> Edit:
    """Replaces the first occurrence of a text that is there."""
    return substituted(re.escape(old), new)


def of_loop(kernel: str, name: str, old: str, new: str) -> Edit:
    """Replaces a text behind a loop's name; the loop itself where `old` is empty."""
    (loop,) = [loop for loop in build_report.declared_loops(kernel) if loop.name == name]
    named = reported_name(loop)
    return substituted(
        rf"(?s)(<Name>{named}</Name>.*?){re.escape(old)}" if old else rf"(?s)<{named}>.*</{named}>()",
        rf"\g<1>{new}",
    )


def test_a_build_that_keeps_its_promises_has_no_mark(tmp_path: Path) -> None:
    result = compare(build(tmp_path))
    assert result.exit_code == 0, result.output
    assert "nothing is worse than promised" in result.output
    table = [line for line in result.output.splitlines() if "worse" not in line]
    assert not [line for line in table if "!" in line]
    for kernel in KERNELS:
        for loop in build_report.declared_loops(kernel):
            assert f"{loop.name} (line {loop.line})" in result.output
    page = (ROOT / "docs" / "vitis-hour.md").read_text()
    for name in build_report.NOT_JUDGED:
        assert re.search(rf"^ ?not judged +{name}: \d+ cycles", result.output, re.MULTILINE)
        assert f"`{name}`" in page


def test_every_part_within_a_kernel_is_one_of_the_model() -> None:
    configurations = (ROOT / "fpga" / "configs").glob("*.toml")
    parts = {part.name for path in configurations for part in Hardware.load(path).parts}
    assert build_report.WITHIN.keys() <= parts
    assert not [part for part in parts - build_report.WITHIN.keys() if re.search(r" in \w+$", part)]


def test_every_pipeline_pragma_of_the_sources_is_a_declared_loop() -> None:
    for kernel in KERNELS:
        text = (ROOT / "fpga" / "src" / f"{kernel}.cpp").read_text()
        loops = build_report.declared_loops(kernel)
        assert len(loops) == text.count("#pragma HLS PIPELINE")
        for loop in loops:
            assert re.match(r"\s*(for|while) \(", text.splitlines()[loop.line - 1])
            assert loop.name.startswith(f"{kernel}.")
    names = {loop.name: loop.ii for kernel in KERNELS for loop in build_report.declared_loops(kernel)}
    depths = build_report.declared_depths()
    assert {ii for name, ii in names.items() if name != "fetch.commands"} == {1, None}
    assert names["fetch.commands"] == depths["FETCH_INTERVAL"]
    for name, _, way in build_report.DEPTHS:
        assert name in depths
        assert {loop for loop, _ in way} <= names.keys()


def test_every_declared_depth_and_gap_is_compared_or_named() -> None:
    of_loops = {
        name for name in build_report.declared_depths() if re.search(r"_(DEPTH|ROOT|INTERVAL|GAP)$", name)
    }
    named = [*{name for name, *_ in build_report.DEPTHS}, *build_report.NOT_JUDGED]
    assert sorted(named) == sorted(of_loops - {"FETCH_INTERVAL"})  # a test above has the pragma's


def changed(kernel: str, key: str, times: float) -> Edit:
    """Multiplies a resource of a kernel's report."""
    amount = build_report.modelled(Hardware.load(TINY))[kernel][key]
    name = build_report.RESOURCES[key]
    return replaced(f"<{name}>{amount}<", f"<{name}>{int(times * amount)}<")


#: A second instance of the loop drain.pass.
SECOND = "<ModuleInformation><SummaryOfLoopLatency><L><Name>VITIS_LOOP_{line}_9</Name>"
SECOND += "<PipelineII>{ii}</PipelineII></L></SummaryOfLoopLatency>"


@pytest.mark.parametrize(
    ("kernel", "edit", "fault"),
    [
        (
            "fetch",
            of_loop("fetch", "fetch.commands", "<PipelineII>2<", "<PipelineII>3<"),
            r"fetch.commands \(line \d+\): II 3, promised 2",
        ),
        (
            "norm",
            of_loop("norm", "norm.mean", "<PipelineII>1</PipelineII>", ""),
            r"norm.mean \(line \d+\), not pipelined: II",
        ),
        (
            "norm",
            of_loop("norm", "norm.mean", "<PipelineType>yes<", "<PipelineType>no<"),
            r"norm.mean \(line \d+\), not pipelined: II 3, promised 1",
        ),
        (
            "softmax",
            of_loop("softmax", "softmax.announce", "", ""),
            r"softmax.announce \(line \d+\): the report has no such loop",
        ),
        (
            "softmax",
            of_loop("softmax", "softmax.divide", "<PipelineDepth>3<", "<PipelineDepth>94<"),
            r"EXPONENTIAL_DEPTH: softmax.exponential \+ softmax.divide: depth 97, promised 56",
        ),
        (
            "norm",
            of_loop("norm", "norm.invert", "<Latency>17<", "<Latency>38 ~ 40<"),
            r"NORM_ROOT: norm.root \+ norm.invert: depth 67, promised 64",
        ),
        (
            "plan",
            of_loop("plan", "plan.pass", ">3</Iter", "><range><min>4</min><max>9</max></range></Iter"),
            r"PLAN_INTERVAL: plan.pass: depth 9, promised 8",
        ),
        (
            "plan",
            of_loop("plan", "plan.pass", "<IterationLatency>3<", "<IterationLatency>undef<"),
            r"PLAN_INTERVAL: plan.pass: the report gives no number for depth, promised 8",
        ),
        (
            "drain",
            replaced("<ModuleInformation>", SECOND.replace("{ii}", "undef")),
            r"drain.pass \(line \d+\), not pipelined: II 2, promised 1",
        ),
        (
            "drain",
            replaced("<ModuleInformation>", SECOND.replace("{ii}", "3")),
            r"drain.pass \(line \d+\): II 3, promised 1",
        ),
        ("load", replaced(">7.100<", ">7.400<"), "slack -0.100 ns"),
    ],
)
def test_a_planted_difference_is_marked(kernel: str, edit: Edit, fault: str, tmp_path: Path) -> None:
    path = build(tmp_path) / csynth(kernel)
    (line,) = [loop.line for loop in build_report.declared_loops("drain") if loop.name == "drain.pass"]
    path.write_text(edit(path.read_text()).replace("{line}", str(line)))
    result = compare(tmp_path)
    assert result.exit_code == 1, result.output
    (found,) = re.findall(r"^worse than promised: (.*)$", result.output, re.MULTILINE)
    assert re.match(rf"{kernel}[,:] {fault}", found), found
    assert [line for line in result.output.splitlines()[2:-1] if "!" in line]


def test_the_resources_of_a_kernel_are_compared(tmp_path: Path) -> None:
    path = build(tmp_path) / csynth("norm")
    before = path.read_text()
    path.write_text(changed("norm", "ff", 1.5)(before))
    result = compare(tmp_path)
    assert result.exit_code == 1
    amount = build_report.modelled(Hardware.load(TINY))["norm"]["ff"]
    assert f"worse than promised: norm: ff {int(1.5 * amount):,}, promised {amount:,}" in result.output
    assert compare(tmp_path, "--tolerance", "0.5").exit_code == 0
    path.write_text(changed("norm", "ff", 0.5)(before))
    result = compare(tmp_path)
    assert result.exit_code == 0
    assert re.search(r"^ ?norm .*\) <", result.output, re.MULTILINE)


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (lambda text: text[: len(text) // 2], r"line \d+, column \d+: the report is cut"),
        (substituted(r"<DSP>\d+</DSP>", ""), r"no AreaEstimates/Resources/DSP: the report is cut"),
        (substituted(r"<DSP>\d+<", "<DSP>two<"), r"Resources/DSP is no number: two"),
        (substituted(r"<LUT>\d+<", "<LUT>0<"), r"no kernel takes 0 LUT"),
        (substituted(r"<FF>", "<FF>-"), r"Resources/FF is no number: -\d+"),
        (replaced(">7.100<", ">nan<"), r"EstimatedClockPeriod is no number: nan"),
        (replaced(">drain</Top", ">plan</Top"), r"the kernel plan, not drain"),
        (replaced("xc7z020", "xczu9eg"), r"the part xczu9eg-clg400-1, the board pynq-z2"),
        (replaced(">10.00<", ">5.00<"), r"a clock of 5\.000 ns"),
        (substituted(r"<PipelineII>1<", "<PipelineII>0<"), r"<PipelineII> is no number of cycles: 0"),
        (substituted(r"<PipelineII>1<", "<PipelineII>one<"), r"<PipelineII> is no number of cycles: one"),
    ],
)
def test_a_report_that_is_cut_or_of_another_form_is_named(edit: Edit, complaint: str, tmp_path: Path) -> None:
    path = build(tmp_path) / csynth("drain")
    path.write_text(edit(path.read_text()))
    result = compare(tmp_path)
    assert result.exit_code == 2, result.output
    assert re.search(rf"drain/hls/syn/report/csynth\.xml: .*{complaint}", result.output), result.output
    assert len(result.output.strip().splitlines()) == 1


def test_reports_of_another_configuration_are_refused(tmp_path: Path) -> None:
    odd = ROOT / "fpga" / "configs" / "pynq-z2.toml"
    for option in ("--hardware", "--margins"):
        folder = tmp_path / option
        folder.mkdir()
        result = compare(build(folder), option, str(odd))
        assert result.exit_code == 2
        assert "pynq-z2.toml: the reports are of another configuration" in result.output


def test_margins_make_the_model_that_of_the_reports(tmp_path: Path) -> None:
    path = build(tmp_path) / csynth("drain")
    counted = build_report.modelled(Hardware.load(TINY))
    before = path.read_text()
    path.write_text(changed("drain", "lut", 1.2)(changed("drain", "ff", 0.5)(before)))
    mine = tmp_path / "mine.toml"
    mine.write_text(f"# Kept.\n{TINY.read_text()}")
    identity = Hardware.load(mine).configuration_hash
    for _ in range(2):
        result = compare(tmp_path, "--margins", str(mine))
        assert result.exit_code == 1
        assert "wrote [margins]" in result.output
        assert "the design fits" in result.output
    written = mine.read_text()
    assert written.startswith(f"# Kept.\n{TINY.read_text().rstrip()}")
    assert written.count("[margins]") == 1
    hardware = Hardware.load(mine)
    assert hardware.configuration_hash == identity
    fitted = build_report.modelled(hardware)
    assert fitted["drain"]["lut"] == pytest.approx(1.2 * counted["drain"]["lut"], rel=0.02)
    assert fitted["drain"]["ff"] == pytest.approx(counted["drain"]["ff"] / 2, rel=0.02)
    # The others were reported as counted, which is with the general margin.
    assert fitted["norm"]["lut"] == pytest.approx(counted["norm"]["lut"], rel=0.02)
    assert compare(tmp_path, "--hardware", str(mine)).exit_code == 0
    path.write_text(substituted(r"<LUT>\d+<", "<LUT>12000<")(before))
    result = compare(tmp_path, "--margins", str(mine))
    assert re.search(r"wrote \[margins\] into .*usable part of board .pynq-z2.* LUTs", result.output)


def test_an_absent_report_is_named(tmp_path: Path) -> None:
    build(tmp_path)
    for kernel in ("load", "norm"):
        (tmp_path / csynth(kernel)).unlink()
    result = compare(tmp_path, "--margins", str(TINY))
    assert result.exit_code == 2
    assert "these have none: load, norm" in result.output
    result = compare(tmp_path)
    assert result.exit_code == 1
    assert "kernels/load: no report syn/report/csynth.xml: Vitis HLS did not end there" in result.output
    shutil.rmtree(tmp_path / "kernels")
    assert compare(tmp_path).exit_code == 2
    result = compare(tmp_path, "--hardware", str(tmp_path / "none.toml"))
    assert result.exit_code == 2
    assert "none.toml" in result.output
