"""Tests the comparison of a build's reports with the model, on made-up reports of the tools' documented forms."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rtl import ROOT, tool

import bitstream
import build_report
from build_report import KERNELS, UNITS, Declared
from quasar_rt.hardware import Hardware

CONFIGS = sorted((ROOT / "fpga" / "configs").glob("*.toml"))
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
          <Slack>1.20</Slack>
          <TripCount><range><min>0</min><max>7</max></range></TripCount>
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
    <unit>ns</unit>
    <ProductFamily>zynq</ProductFamily>
    <Part>xc7z020-clg400-1</Part>
    <TopModelName>{kernel}</TopModelName>
    <TargetClockPeriod>10.00</TargetClockPeriod>
    <ClockUncertainty>2.70</ClockUncertainty>
    <FlowTarget>vivado</FlowTarget>
  </UserAssignments>
  <PerformanceEstimates>
    <PipelineType>dataflow</PipelineType>
    <SummaryOfTimingAnalysis>
      <unit>ns</unit>
      <EstimatedClockPeriod>7.100</EstimatedClockPeriod>
    </SummaryOfTimingAnalysis>
    <SummaryOfOverallLatency>
      <Best-caseLatency>undef</Best-caseLatency>
    </SummaryOfOverallLatency>
  </PerformanceEstimates>
  <AreaEstimates>
    <Resources>
      <BRAM_18K>{amounts["bram18"]}</BRAM_18K>
      <DSP>{amounts["dsp"]}</DSP>
      <FF>{amounts["ff"]}</FF>
      <LUT>{amounts["lut"]}</LUT>
    </Resources>
    <AvailableResources><BRAM_18K>280</BRAM_18K></AvailableResources>
  </AreaEstimates>
  <ModuleInformation>{modules}
  </ModuleInformation>
</profile>
"""


def utilization(amounts: dict[str, dict[str, int]]) -> str:
    """A hierarchical utilization report whose figures are the model's. Queues and memories are two cells each."""
    titles = ("Total LUTs", "Logic LUTs", "LUTRAMs", "SRLs", "FFs", "RAMB36", "RAMB18", "DSP Blocks")
    names = {
        "array": ("array_cell",),
        "queues": ("passes_queue", "sums_queue"),
        "memories": ("residual_0", "score_1"),
        "ports and interconnect": ("ps", "memory0"),
    }
    rows = [
        ("accelerator_wrapper", "(top)", {}),
        ("  (accelerator_wrapper)", "(top)", {}),
        ("  accelerator_i", "accelerator", {}),
    ]
    for unit in UNITS:
        first, *others = names.get(unit, (unit,))
        rows += [(f"    {first}", f"accelerator_{first}_0", amounts[unit])]
        rows += [("      inst", f"{first}_inst", amounts[unit])]
        rows += [(f"    {other}", f"accelerator_{other}_0", {}) for other in others]
    text = "".join(
        f"| {name:<30} | {module:<34} | "
        + " | ".join(
            f"{value:>10}"
            for value in (
                own.get("lut", 0), own.get("lut", 0), 0, 0, own.get("ff", 0), own.get("bram18", 0) // 2,
                own.get("bram18", 0) % 2, own.get("dsp", 0),
            )
        )
        + " |\n"
        for name, module, own in rows
    )  # fmt: skip
    border = f"+{'-' * 32}+{'-' * 36}+{'+'.join(['-' * 12] * len(titles))}+\n"
    heading = f"| {'Instance':^30} | {'Module':^34} | {' | '.join(f'{title:>10}' for title in titles)} |\n"
    return (
        "Copyright 1986-2023 Xilinx, Inc. All Rights Reserved.\n"
        "| Command      : report_utilization -hierarchical -file utilization.rpt\n"
        "| Device       : xc7z020clg400-1\n\nUtilization Design Information\n\n1. Utilization by Hierarchy\n"
        f"---------------------------\n\n{border}{heading}{border}{text}{border}"
    )


def timing(setup: str = "0.310", array: str = "0.310", hold: str = "0.022") -> str:
    """A timing summary with two clocks."""
    rule = "-" * 96
    design = (
        "    WNS(ns)      TNS(ns)  TNS Failing Endpoints  TNS Total Endpoints      WHS(ns)      THS(ns)  "
    )
    design += "THS Failing Endpoints  THS Total Endpoints     WPWS(ns)     TPWS(ns)  TPWS Failing Endpoints  "
    design += "TPWS Total Endpoints  "
    under = re.sub(r"\S+( \S+)*", lambda found: "-" * len(found[0]), design)
    figures = (
        f"{hold}        0.000                      0                  723        2.225        0.000   0  333"
    )
    return f"""| Design       : accelerator_wrapper

{rule}
| Design Timing Summary
| ---------------------
{rule}

{design}
{under}
      {setup}        0.000                      0                  723        {figures}


All user specified timing constraints are met.


{rule}
| Clock Summary
| -------------
{rule}

Clock              Waveform(ns)         Period(ns)      Frequency(MHz)
-----              ------------         ----------      --------------
clk_fpga_0         {{0.000 5.000}}        10.000          100.000

{rule}
| Intra Clock Table
| -----------------
{rule}

Clock          {design}
-----          {under}
clk_fpga_0           NA        0.000                      0                  723        {figures}
clk_out2_x      {array}        0.000                      0                  723        {figures}


{rule}
| Inter Clock Table
| -----------------
{rule}
"""


def build(folder: Path, vivado: bool = True) -> Path:
    """Writes the reports of a build of `tiny` that keeps every promise."""
    (folder / "hardware.toml").write_text(TINY.read_text())
    amounts = build_report.modelled(Hardware.load(TINY))
    for kernel in KERNELS:
        report = folder / "kernels" / kernel / "hls" / "syn" / "report" / "csynth.xml"
        report.parent.mkdir(parents=True)
        report.write_text(synthesis(kernel, amounts[kernel]))
    if vivado:
        (folder / "utilization.rpt").write_text(utilization(amounts))
        (folder / "timing.rpt").write_text(timing())
    return folder


def compare(folder: Path, *options: str) -> Result:
    return CliRunner().invoke(build_report.main, [str(folder), *options])


VIVADO = """
proc unknown {name args} {
  switch $name report_timing_summary { return $::timing } get_board_parts { return part } default { return 100% }
}
proc source path { if {![string match */design.tcl $path]} { uplevel #0 [read [open $path]] } }
proc accelerator_design args {}
"""


@pytest.mark.parametrize(
    ("report", "error"),
    [
        (timing(setup="-0.010"), "not met at 100 MHz: setup slack -0.010 ns (timing.rpt); lower clock_mhz"),
        (timing(hold="-0.010"), "not met at 100 MHz: hold slack -0.010 ns (timing.rpt)\n"),
        (timing().replace("2.225", "-0.029", 1), "pulse width slack -0.029 ns (timing.rpt); lower clock_mhz"),
        (timing().replace("WNS(ns)", "WNS"), "no figures"),
        (timing(), "accelerator_wrapper.bit"),  # timing is met: the next step takes it
    ],
)
def test_a_bitstream_is_taken_only_if_setup_hold_and_pulse_width_are_met(
    report: str, error: str, tmp_path: Path
) -> None:
    bitstream.prepare(bitstream.read_target("pynq-z2", TINY), tmp_path)
    (tmp_path / "run.tcl").write_text(
        f"set timing {{{report}}}\nset argv {{{tmp_path}}}{VIVADO}source {ROOT}/fpga/scripts/bitstream.tcl\n"
    )
    done = subprocess.run([tool("tclsh"), tmp_path / "run.tcl"], capture_output=True, text=True, check=False)
    assert error in done.stderr


def csynth(kernel: str) -> str:
    return f"kernels/{kernel}/hls/syn/report/csynth.xml"


def replaced(old: str, new: str) -> Edit:
    """Replaces a text that is there."""

    def edit(text: str) -> str:
        assert old in text
        return text.replace(old, new, 1)

    return edit


def substituted(pattern: str, new: str) -> Edit:
    """Replaces the first match of a pattern that is there."""

    def edit(text: str) -> str:
        changed, count = re.subn(pattern, new, text, count=1)
        assert count == 1
        return changed

    return edit


def of_loop(kernel: str, name: str, old: str, new: str) -> Edit:
    """Replaces a text behind a loop's name."""
    (loop,) = [loop for loop in build_report.declared_loops(kernel) if loop.name == name]

    def edit(text: str) -> str:
        before, mark, after = text.partition(f"<Name>{reported_name(loop)}</Name>")
        assert mark
        assert old in after
        return before + mark + after.replace(old, new, 1)

    return edit


def without_loop(kernel: str, name: str) -> Edit:
    (loop,) = [loop for loop in build_report.declared_loops(kernel) if loop.name == name]
    named = reported_name(loop)
    return lambda text: re.sub(rf"<{named}>.*</{named}>", "", text, flags=re.DOTALL)


@pytest.mark.parametrize("vivado", [True, False])
def test_a_build_that_keeps_its_promises_has_no_mark(vivado: bool, tmp_path: Path) -> None:
    result = compare(build(tmp_path, vivado))
    assert result.exit_code == 0, result.output
    assert "nothing is worse than promised" in result.output
    table = [line for line in result.output.splitlines() if "worse" not in line]
    assert not [line for line in table if "!" in line]
    assert ("clk_out2_x" in result.output) == vivado
    for kernel in KERNELS:
        for loop in build_report.declared_loops(kernel):
            assert f"{loop.name} (line {loop.line})" in result.output
    page = (ROOT / "docs" / "vitis-hour.md").read_text()
    for name in build_report.NOT_JUDGED:
        assert re.search(rf"^ ?not judged +{name}: \d+ cycles", result.output, re.MULTILINE)
        assert f"`{name}`" in page


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_part_of_the_model_belongs_to_a_unit(path: Path) -> None:
    hardware = Hardware.load(path)
    amounts = build_report.modelled(hardware)
    for key in ("lut", "ff", "dsp"):
        assert sum(own[key] for own in amounts.values()) == getattr(hardware.resources, key)


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


@pytest.mark.parametrize(
    ("file", "edit", "fault"),
    [
        (
            csynth("drain"),
            of_loop("drain", "drain.parameters", "<PipelineII>1<", "<PipelineII>2<"),
            r"drain, drain.parameters \(line \d+\): II 2, promised 1",
        ),
        (
            csynth("fetch"),
            of_loop("fetch", "fetch.commands", "<PipelineII>2<", "<PipelineII>3<"),
            r"fetch, fetch.commands \(line \d+\): II 3, promised 2",
        ),
        (
            csynth("norm"),
            of_loop("norm", "norm.mean", "<PipelineII>1</PipelineII>", ""),
            r"norm, norm.mean \(line \d+\), not pipelined: II",
        ),
        (
            csynth("softmax"),
            without_loop("softmax", "softmax.announce"),
            r"softmax, softmax.announce \(line \d+\): the report has no such loop",
        ),
        (
            csynth("softmax"),
            of_loop("softmax", "softmax.divide", "<PipelineDepth>3<", "<PipelineDepth>94<"),
            r"softmax, EXPONENTIAL_DEPTH: softmax.exponential \+ softmax.divide: depth 97, promised 56",
        ),
        (
            csynth("norm"),
            of_loop("norm", "norm.invert", "<Latency>17<", "<Latency>38 ~ 40<"),
            r"norm, NORM_ROOT: norm.root \+ norm.invert: depth 67, promised 64",
        ),
        (
            csynth("plan"),
            of_loop("plan", "plan.pass", "<IterationLatency>3<", "<IterationLatency>40<"),
            r"plan, PLAN_INTERVAL: plan.pass: depth 40, promised 8",
        ),
        (
            csynth("plan"),
            of_loop("plan", "plan.pass", ">3</Iter", "><range><min>4</min><max>9</max></range></Iter"),
            r"plan, PLAN_INTERVAL: plan.pass: depth 9, promised 8",
        ),
        (
            csynth("plan"),
            of_loop("plan", "plan.pass", "<IterationLatency>3<", "<IterationLatency>undef<"),
            r"plan, PLAN_INTERVAL: plan.pass: the report gives no number for depth, promised 8",
        ),
        (
            csynth("drain"),
            of_loop("drain", "drain.parameters", "<PipelineDepth>2<", "<PipelineDepth>3<"),
            r"drain, FILL_DEPTH: drain.parameters: depth 3, promised 2",
        ),
        (
            csynth("norm"),
            of_loop("norm", "norm.gains", "<PipelineDepth>2<", "<PipelineDepth>3<"),
            r"norm, FILL_DEPTH: norm.gains: depth 3, promised 2",
        ),
        (
            csynth("norm"),
            of_loop("norm", "norm.pool", "<PipelineDepth>3<", "<PipelineDepth>33<"),
            r"norm, LOOP_GAP: norm.pool: depth 33, promised 32",
        ),
        (
            csynth("norm"),
            of_loop("norm", "norm.store", "<PipelineDepth>3<", "<PipelineDepth>undef<"),
            r"norm, NORM_DEPTH: norm.root .*: the report gives no number for depth, promised 96",
        ),
        (
            csynth("norm"),
            of_loop("norm", "norm.mean", "<PipelineType>yes<", "<PipelineType>no<"),
            r"norm, norm.mean \(line \d+\), not pipelined: II 3, promised 1",
        ),
        (
            csynth("fetch"),
            of_loop("fetch", "fetch.commands", "<PipelineType>yes<", "<PipelineType>no<"),
            r"fetch, fetch.commands \(line \d+\), not pipelined: II 3, promised 2",
        ),
        (
            csynth("drain"),
            replaced(
                "<ModuleInformation>",
                "<ModuleInformation><SummaryOfLoopLatency><L><Name>VITIS_LOOP_{line}_9</Name>"
                "<PipelineII>undef</PipelineII></L></SummaryOfLoopLatency>",
            ),
            r"drain, drain.pass \(line \d+\), not pipelined: II 2, promised 1",
        ),
        (
            csynth("drain"),
            # A function of two instances has its loop twice.
            replaced(
                "<ModuleInformation>",
                "<ModuleInformation><SummaryOfLoopLatency><L><Name>VITIS_LOOP_{line}_9</Name>"
                "<PipelineII>3</PipelineII></L></SummaryOfLoopLatency>",
            ),
            r"drain, drain.pass \(line \d+\): II 3, promised 1",
        ),
        ("timing.rpt", lambda text: timing("-0.120"), r"timing, setup: slack -0.120 ns"),
        ("timing.rpt", lambda text: timing(hold="-0.010"), r"timing, hold: slack -0.010 ns"),
        ("timing.rpt", lambda text: timing(array="-0.300"), r"timing, setup of clk_out2_x: slack -0.300 ns"),
    ],
)
def test_a_planted_difference_is_marked(file: str, edit: Edit, fault: str, tmp_path: Path) -> None:
    path = build(tmp_path) / file
    (line,) = [loop.line for loop in build_report.declared_loops("drain") if loop.name == "drain.pass"]
    path.write_text(edit(path.read_text()).replace("{line}", str(line)))
    result = compare(tmp_path)
    assert result.exit_code == 1, result.output
    (found,) = re.findall(r"^worse than promised: (.*)$", result.output, re.MULTILINE)
    assert re.match(fault, found), found
    assert [line for line in result.output.splitlines()[2:-1] if "!" in line]


def test_the_estimate_of_synthesis_counts_only_until_vivado_has_run(tmp_path: Path) -> None:
    path = build(tmp_path, vivado=False) / csynth("drain")
    lut = build_report.modelled(Hardware.load(TINY))["drain"]["lut"]
    more = replaced(f"<LUT>{lut}<", f"<LUT>{2 * lut}<")(path.read_text())
    path.write_text(replaced(">7.100<", ">7.400<")(more))
    result = compare(tmp_path)
    assert result.exit_code == 1
    assert f"drain: lut {2 * lut:,}, promised {lut:,}" in result.output
    assert "drain: slack -0.100 ns" in result.output
    (tmp_path / "timing.rpt").write_text(timing())
    (tmp_path / "utilization.rpt").write_text(utilization(build_report.modelled(Hardware.load(TINY))))
    assert compare(tmp_path).exit_code == 0


@pytest.mark.parametrize("unit", UNITS)
def test_the_resources_of_every_unit_are_compared(unit: str, tmp_path: Path) -> None:
    amounts = build_report.modelled(Hardware.load(TINY))
    key = max(("lut", "bram18"), key=lambda key: amounts[unit][key])
    amounts[unit][key] = amounts[unit][key] * 3 // 2
    (build(tmp_path) / "utilization.rpt").write_text(utilization(amounts))
    result = compare(tmp_path)
    assert result.exit_code == 1
    assert f"worse than promised: {unit}: {key} {amounts[unit][key]:,}" in result.output
    assert compare(tmp_path, "--tolerance", "0.5").exit_code == 0
    amounts[unit][key] //= 3
    (tmp_path / "utilization.rpt").write_text(utilization(amounts))
    result = compare(tmp_path)
    assert result.exit_code == 0
    assert re.search(rf"^ ?{unit} .*\) <", result.output, re.MULTILINE)


@pytest.mark.parametrize(
    ("file", "edit", "complaint"),
    [
        (csynth("plan"), lambda text: text[: len(text) // 2], r"csynth\.xml:\d+: .*cut or of another form"),
        (csynth("plan"), lambda text: "", r"csynth\.xml:1: no element found: the report is cut"),
        (
            csynth("plan"),
            replaced("<UserAssignments>", "<Assignments>"),
            r"csynth\.xml:12: mismatched tag: the report is cut",
        ),
        (csynth("plan"), substituted(r"<DSP>\d+</DSP>", ""), r"csynth\.xml:24: <Resources> has no <DSP>"),
        (csynth("plan"), substituted(r"<DSP>\d+<", "<DSP>two<"), r"csynth\.xml:26: <DSP> is no number: two"),
        (csynth("plan"), replaced(">plan</Top", ">drain</Top"), r"csynth\.xml:4: .*kernel drain, not plan"),
        (csynth("plan"), replaced("xc7z020", "xczu9eg"), r"csynth\.xml:4: .*xczu9eg-clg400-1, the board pynq-z2"),
        (csynth("plan"), replaced(">10.00<", ">5.00<"), r"csynth\.xml:4: .*a clock of 5\.000 ns"),
        (
            csynth("scores"),
            of_loop("scores", "scores.store", "<PipelineII>1<", "<PipelineII>one<"),
            r"csynth\.xml:\d+: <PipelineII> is no number of cycles: one",
        ),
        (
            csynth("scores"),
            of_loop("scores", "scores.store", "<PipelineII>1<", "<PipelineII>0<"),
            r"csynth\.xml:\d+: <PipelineII> is no number of cycles: 0",
        ),
        (csynth("plan"), substituted(r"<LUT>\d+<", "<LUT>0<"), r"csynth\.xml:24: no kernel takes .* 0 LUT"),
        (csynth("plan"), substituted(r"<LUT>", "<LUT>-"), r"csynth\.xml:24: no kernel takes .*: -\d+ LUT"),
        (csynth("plan"), substituted(r"<LUT>\d+<", "<LUT>inf<"), r"csynth\.xml:28: <LUT> is no number: inf"),
        (csynth("plan"), substituted(r"<FF>\d+<", "<FF>nan<"), r"csynth\.xml:27: <FF> is no number: nan"),
        (csynth("plan"), replaced(">7.100<", ">nan<"), r"csynth\.xml:\d+: <EstimatedClockPeriod> is no number: nan"),
        (
            "utilization.rpt",
            lambda text: text.rsplit("\n", 3)[0],
            r"utilization\.rpt:\d+: the table has no end: the report is cut",
        ),
        ("utilization.rpt", replaced("Instance", "Site Type"), r"utilization\.rpt:\d+: no table with the columns"),
        ("utilization.rpt", replaced("RAMB36", "Blocks"), r"utilization\.rpt:11: no column RAMB36"),
        ("utilization.rpt", replaced("7z020", "z7010"), r"utilization\.rpt:3: the report is for the part"),
        ("utilization.rpt", replaced("    norm ", "    room "), r"no instance holds all kernels"),
        (
            "utilization.rpt",
            lambda text: re.sub(r"(fetch .*\|) +\d+ \|\n", r"\1\n", text, count=1),
            r"utilization\.rpt:\d+: 9 columns, not 10",
        ),
        (
            "utilization.rpt",
            substituted(r"(    fetch +\| \w+ +\|) +\d+", r"\1 0"),
            r"utilization\.rpt:\d+: no kernel takes these resources: .* 0 LUT",
        ),
        ("timing.rpt", replaced("0.310", "nan"), r"timing\.rpt:10: WNS\(ns\) is no number: nan"),
        ("timing.rpt", lambda text: text[:100], r"timing\.rpt:3: no section 'Design Timing Summary'"),
        ("timing.rpt", lambda text: text.split("      0.310")[0], r"'Design Timing Summary' has no figures"),
        ("timing.rpt", replaced("0.310", "met"), r"timing\.rpt:10: WNS\(ns\) is no number: met"),
        ("timing.rpt", replaced("WNS(ns)", "Slack"), r"timing\.rpt:4: 'Design Timing Summary' has no column WNS"),
        ("timing.rpt", replaced("| Intra", "| Inner"), r"no section 'Intra Clock Table'"),
    ],
)  # fmt: skip
def test_a_report_that_is_cut_or_of_another_form_is_named(
    file: str, edit: Edit, complaint: str, tmp_path: Path
) -> None:
    path = build(tmp_path) / file
    path.write_text(edit(path.read_text()))
    result = compare(tmp_path)
    assert result.exit_code == 2, result.output
    assert re.search(complaint, result.output), result.output
    assert len(result.output.strip().splitlines()) == 1


@pytest.mark.parametrize("version", [*build_report.VERSIONS, "2023.1.1"])
def test_the_reports_of_known_versions_are_read(version: str, tmp_path: Path) -> None:
    build(tmp_path, vivado=False)
    for path in tmp_path.rglob("csynth.xml"):
        path.write_text(replaced(">2023.2<", f">{version}<")(path.read_text()))
    assert compare(tmp_path).exit_code == 0


def test_an_unknown_version_is_named(tmp_path: Path) -> None:
    path = build(tmp_path) / csynth("plan")
    path.write_text(replaced(">2023.2<", ">2020.2<")(path.read_text()))
    result = compare(tmp_path)
    assert result.exit_code == 2
    assert "csynth.xml: the report is of Vitis HLS 2020.2; known are 2022.2 to 2024.2" in result.output


def test_reports_of_another_configuration_are_refused(tmp_path: Path) -> None:
    odd = ROOT / "fpga" / "configs" / "pynq-z2.toml"
    for option in ("--hardware", "--margins"):
        folder = tmp_path / option
        folder.mkdir()
        result = compare(build(folder), option, str(odd))
        assert result.exit_code == 2
        assert "pynq-z2.toml: the reports are of another configuration" in result.output


def test_margins_make_the_model_that_of_the_reports(tmp_path: Path) -> None:
    path = build(tmp_path, vivado=False) / csynth("drain")
    amounts = build_report.modelled(Hardware.load(TINY))["drain"]
    text = replaced(f"<LUT>{amounts['lut']}<", f"<LUT>{amounts['lut'] * 6 // 5}<")(path.read_text())
    path.write_text(replaced(f"<FF>{amounts['ff']}<", f"<FF>{amounts['ff'] // 2}<")(text))
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
    modelled = build_report.modelled(hardware)
    assert modelled["drain"]["lut"] == pytest.approx(1.2 * amounts["lut"], rel=0.02)
    assert modelled["drain"]["ff"] == pytest.approx(amounts["ff"] / 2, rel=0.02)
    # The others were reported as counted, which is with the general margin.
    assert modelled["norm"]["lut"] == pytest.approx(
        build_report.modelled(Hardware.load(TINY))["norm"]["lut"], rel=0.02
    )
    assert compare(tmp_path, "--hardware", str(mine)).exit_code == 0
    path.write_text(replaced(f"<LUT>{amounts['lut'] * 6 // 5}<", "<LUT>12000<")(path.read_text()))
    result = compare(tmp_path, "--margins", str(mine))
    assert re.search(r"wrote \[margins\] into .*usable part of board .pynq-z2.* LUTs", result.output), (
        result.output
    )
    # Vivado's figures come first.
    (tmp_path / "timing.rpt").write_text(timing())
    (tmp_path / "utilization.rpt").write_text(utilization(build_report.modelled(Hardware.load(TINY))))
    assert compare(tmp_path, "--margins", str(mine)).exit_code == 0
    assert build_report.modelled(Hardware.load(mine))["drain"]["lut"] == pytest.approx(
        amounts["lut"], rel=0.02
    )


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
