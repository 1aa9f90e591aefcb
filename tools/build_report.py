#!/usr/bin/env python3
"""Compare the kernels' reports of Vitis HLS with what the sources declare and the hardware model counts.

    python tools/build_report.py build/bitstream/pynq-z2/pynq-z2 # what tools/bitstream.py left there
    python tools/build_report.py DIR --hardware mine.toml     # where DIR has no hardware.toml
    python tools/build_report.py DIR --margins mine.toml      # write the kernels' margins into that configuration

Reads DIR/kernels/NAME/**/syn/report/csynth.xml of each kernel and prints one table. Exits with 1 if a figure is worse
than promised or a kernel has no report, with 2 if a report cannot be read. The form of the reports is that of AMD's
documentation: no run of this project has had the tools.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from math import ceil
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree as ET

import click

from bitstream import KERNELS, ROOT, board_settings, same_part
from quasar_rt.cli.output import Failure, echo, print_table
from quasar_rt.errors import DoesNotFitError, QuasarError
from quasar_rt.hardware import Board, Hardware

#: Names of a kernel's resources in a report, by column of the table.
RESOURCES = {"lut": "LUT", "ff": "FF", "dsp": "DSP", "bram18": "BRAM_18K", "uram": "URAM"}
#: Parts of the model that are built within a kernel, besides the part of the kernel's own name.
WITHIN = {
    "commands in plan": "plan",
    "row parameters": "drain",
    "commands in drain": "drain",
    "gains": "norm",
    "means of columns": "norm",
    "sums of codes": "norm",
    "commands in norm": "norm",
}
#: Declared cycles (rust/hardware/src/declared.rs), the kernel, and the loops that a result passes on that way: their
#: depth, or the latency of all their turns. Queues between the loops come on top.
DEPTHS = (
    ("SCORE_DEPTH", "scores", (("scores.store", "depth"),)),
    ("EXPONENTIAL_DEPTH", "softmax", (("softmax.exponential", "depth"), ("softmax.divide", "depth"))),
    (
        "NORM_DEPTH",
        "norm",
        (
            ("norm.root", "latency"),
            ("norm.invert", "latency"),
            ("norm.normalise", "depth"),
            ("norm.store", "depth"),
        ),
    ),
    ("NORM_ROOT", "norm", (("norm.root", "latency"), ("norm.invert", "latency"))),
    # The loop is not pipelined: its iterations follow one another.
    ("PLAN_INTERVAL", "plan", (("plan.pass", "depth"),)),
    ("FILL_DEPTH", "drain", (("drain.parameters", "depth"),)),
    ("FILL_DEPTH", "norm", (("norm.gains", "depth"),)),
    # Before it begins again, a loop ends its last iteration. Reports have no figure for the rest of the gap.
    ("LOOP_GAP", "softmax", (("softmax.exponential", "depth"),)),
    ("LOOP_GAP", "norm", (("norm.pool", "depth"),)),
    ("LOOP_GAP", "norm", (("norm.normalise", "depth"),)),
)
#: Declared cycles for which reports of synthesis have no figure.
NOT_JUDGED = ("COMMAND_GAP",)


class Declared(NamedTuple):
    """A loop of a kernel's source with a PIPELINE pragma."""

    name: str
    ii: int | None
    """None: the pragma is ``off``."""
    line: int
    label: str

    def is_in(self, reported: str) -> bool:
        """Returns whether a loop of the report is this one, alone or flattened with loops around it."""
        if self.label and re.search(rf"(^|_){self.label}(_|$)", reported):
            return True
        return re.search(rf"VITIS_LOOP_{self.line}_\d+", reported) is not None


class Loop(NamedTuple):
    """A loop of a synthesis report, in cycles; None where the tool gives no number."""

    name: str
    ii: int | None
    """None: it is not pipelined, too."""
    depth: int | None
    """Of an iteration."""
    latency: int | None


class Synthesis(NamedTuple):
    """A kernel's report of Vitis HLS."""

    slack: float
    loops: list[Loop]
    resources: dict[str, int]


class Cell(NamedTuple):
    """A reported figure next to the promised one; None: there is no figure. A promise needs a reported figure."""

    reported: float | None
    promised: float | None = None
    tolerance: float = 0.0

    @property
    def mark(self) -> str:
        """``!`` for a figure beyond the promise by more than the tolerance or none, ``<`` for one below it."""
        if self.promised is None:
            return " "
        if self.reported is None or self.reported > self.promised * (1 + self.tolerance):
            return "!"
        return "<" if self.reported < self.promised * (1 - self.tolerance) else " "

    def __str__(self) -> str:
        if self.reported is None and self.promised is None:
            return ""
        reported = "-" if self.reported is None else f"{self.reported:,.0f}"
        return reported if self.promised is None else f"{reported} ({self.promised:,.0f}) {self.mark}"


class Unreported(Failure):
    """A kernel has no report of C synthesis."""


class Row(NamedTuple):
    """A line of the table."""

    unit: str
    item: str
    cells: dict[str, Cell]
    slack: float | None = None
    fault: str = ""
    """What the report should have and has not."""

    @property
    def faults(self) -> list[str]:
        """Sentences that say what is worse than promised."""
        where = f"{self.unit}, {self.item}" if self.item else self.unit
        if self.fault:
            return [f"{where}: {self.fault}"]
        faults = [
            f"{where}: the report gives no number for {name}, promised {cell.promised:,.0f}"
            if cell.reported is None
            else f"{where}: {name} {cell.reported:,.0f}, promised {cell.promised:,.0f}"
            for name, cell in self.cells.items()
            if cell.mark == "!"
        ]
        if self.slack is not None and self.slack < 0:
            faults.append(f"{where}: slack {self.slack:.3f} ns")
        return faults


def declared_loops(kernel: str) -> list[Declared]:
    """Returns the loops of a kernel's source that have a PIPELINE pragma."""
    lines = (ROOT / "fpga" / "src" / f"{kernel}.cpp").read_text().splitlines()
    loops = []
    for at, line in enumerate(lines):
        pragma = re.match(r"#pragma HLS PIPELINE (?:II = (\d+)|off)", line)
        if pragma is None:
            continue
        mark = next(text for text in lines[at:] if "interval(" in text)
        name = "/".join(re.findall(r'"([a-z.]+)"', mark))
        indent = len(mark) - len(mark.lstrip())
        head = next(i for i in range(at, -1, -1) if re.match(rf" {{0,{indent - 1}}}(for|while) \(", lines[i]))
        label = re.match(r"\s*(\w+):$", lines[head - 1])
        loops.append(
            Declared(name, int(pragma[1]) if pragma[1] else None, head + 1, label[1] if label else "")
        )
    return loops


def declared_depths() -> dict[str, int]:
    """Returns the cycles that the hardware model declares."""
    text = (ROOT / "rust" / "hardware" / "src" / "declared.rs").read_text()
    return {name: int(value) for name, value in re.findall(r"pub const (\w+): u64 = (\d+);", text)}


class Report:
    """A kernel's csynth.xml."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.root = ET.parse(path).getroot()
        except OSError as error:
            raise Failure(f"{path}: the report cannot be read: {error.strerror}") from None
        except ET.ParseError as error:
            raise self.refuse(str(error)) from None

    def refuse(self, what: str) -> Failure:
        """Returns the error of a report that cannot be read."""
        return Failure(f"{self.path}: {what}: the report is cut or of another form")

    def text(self, way: str) -> str:
        """Returns the text of the element that `way` names."""
        found = self.root.findtext(way)
        if found is None:
            raise self.refuse(f"no {way}")
        return found.strip()

    def number(self, way: str) -> float:
        """Returns the number in the element that `way` names."""
        text = self.text(way)
        if not re.fullmatch(r"\d+(\.\d+)?", text):
            raise self.refuse(f"{way} is no number: {text}")
        return float(text)

    def cycles(self, element: ET.Element, name: str, least: int = 0) -> int | None:
        """Returns the cycles in a child, the most of a range; None where the tool has no number for them."""
        found = element.find(name)
        text = "" if found is None else (found.findtext("range/max") or found.text or "").strip()
        if text in ("", "-", "?", "NA", "undef", "no", "none"):
            return None
        if not re.fullmatch(r"(\d+ *~ *)?\d+", text) or int(text.split("~")[-1]) < least:
            raise self.refuse(f"<{name}> is no number of cycles: {text}")
        return int(text.split("~")[-1])

    def loops(self, element: ET.Element) -> Iterator[Loop]:
        """Yields the loops of a <SummaryOfLoopLatency>, nested ones included: an element each, named as the loop."""
        for inner in element:
            if inner.find("Latency") is None and inner.find("PipelineII") is None:
                continue
            ii, depth = self.cycles(inner, "PipelineII", 1), self.cycles(inner, "PipelineDepth")
            yield Loop(
                (inner.findtext("Name") or inner.tag).strip(),
                None if inner.findtext("PipelineType", "").strip() in ("no", "none") else ii,
                self.cycles(inner, "IterationLatency") if depth is None else depth,
                self.cycles(inner, "Latency"),
            )
            yield from self.loops(inner)


def read_synthesis(path: Path, kernel: str, hardware: Hardware) -> Synthesis:
    """Reads a kernel's csynth.xml and checks that it is of this kernel, part and clock."""
    report = Report(path)
    board = hardware.board.name
    top, part = (report.text(f"UserAssignments/{name}") for name in ("TopModelName", "Part"))
    if top != kernel:
        raise Failure(f"{path}: the report is of the kernel {top}, not {kernel}")
    if not same_part(part, wanted := board_settings(board)["part"]):
        raise Failure(f"{path}: the report is for the part {part}, the board {board} has {wanted}")
    period = report.number("UserAssignments/TargetClockPeriod")
    if abs(period - 1000 / hardware.clock_mhz) > 0.01:
        raise Failure(
            f"{path}: the kernel was built for a clock of {period:.3f} ns, the configuration has "
            f"{1000 / hardware.clock_mhz:.3f} ns: build it anew, or name its configuration by --hardware"
        )
    slack = period - report.number("UserAssignments/ClockUncertainty")
    slack -= report.number("PerformanceEstimates/SummaryOfTimingAnalysis/EstimatedClockPeriod")
    ways = {key: f"AreaEstimates/Resources/{name}" for key, name in RESOURCES.items()}
    if report.root.find(ways["uram"]) is None:
        del ways["uram"]  # devices without UltraRAM may lack its line
    area = {key: int(report.number(way)) for key, way in ways.items()}
    if area["lut"] == 0:
        raise report.refuse("no kernel takes 0 LUT")
    summaries = report.root.iter("SummaryOfLoopLatency")
    return Synthesis(
        slack, [loop for summary in summaries for loop in report.loops(summary)], {"uram": 0, **area}
    )


def modelled(hardware: Hardware) -> dict[str, dict[str, int]]:
    """Returns the resources that the model counts for each kernel."""
    sums = {kernel: dict.fromkeys(RESOURCES, 0) for kernel in KERNELS}
    for part in hardware.parts:
        for key, amount in sums.get(WITHIN.get(part.name, part.name), {}).items():
            sums[WITHIN.get(part.name, part.name)][key] = amount + getattr(part, key)
    return sums


def synthesis_of(work: Path, kernel: str, hardware: Hardware) -> Synthesis:
    """Finds and reads a kernel's synthesis report."""
    found = sorted((work / "kernels" / kernel).rglob("syn/report/csynth.xml"))
    if len(found) == 1:
        return read_synthesis(found[0], kernel, hardware)
    if found:
        raise Failure(
            f"{work}/kernels/{kernel}: {len(found)} reports syn/report/csynth.xml, not one: reports of two runs are "
            "left (remove the folder and build again)"
        )
    log = work / "logs" / f"{kernel}-synthesis.log"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    why = next((line for line in lines if line.startswith("ERROR")), "Vitis HLS did not end there")
    raise Unreported(f"{work}/kernels/{kernel}: no report syn/report/csynth.xml: {why}")


def worst_of(loops: list[Loop]) -> Loop:
    """Returns the most of each figure of loops that stand for one; None where one of them has no figure."""
    figures = ([loop.ii for loop in loops], [loop.depth for loop in loops], [loop.latency for loop in loops])
    return Loop(
        loops[0].name, *(None if None in each else max(figure or 0 for figure in each) for each in figures)
    )


def loop_rows(kernel: str, loops: list[Loop]) -> Iterator[Row]:
    """Yields a row for each declared loop of a kernel and for each declared depth."""
    seen: dict[str, Loop] = {}
    for declared in declared_loops(kernel):
        # A function of two instances has its loop twice, and some names stand for two loops.
        found = [loop for loop in loops if declared.is_in(loop.name)]
        item = f"{declared.name} (line {declared.line})"
        if not found:
            yield Row(kernel, item, {}, fault="the report has no such loop; was its process optimised away?")
            continue
        worst = worst_of(found)
        seen[declared.name] = worst_of([worst, seen.get(declared.name, worst)])
        if declared.ii is not None and worst.ii is None:
            interval = Cell(max(worst.depth or 0, declared.ii + 1), declared.ii)
            yield Row(kernel, f"{item}, not pipelined", {"II": interval})
        else:
            interval = Cell(None) if declared.ii is None else Cell(worst.ii, declared.ii)
            yield Row(kernel, item, {"II": interval, "depth": Cell(worst.depth)})
    promised = declared_depths()
    for name, unit, way in DEPTHS:
        if unit == kernel and all(loop in seen for loop, _ in way):
            steps = [getattr(seen[loop], field) for loop, field in way]
            cell = Cell(None if None in steps else sum(steps), promised[name])
            yield Row(kernel, f"{name}: {' + '.join(loop for loop, _ in way)}", {"depth": cell})


def table_of(work: Path, hardware: Hardware, tolerance: float) -> list[Row]:
    """Reads all reports of a build and compares them with the declared and modelled figures."""
    synthesis, failed = {}, {}
    for kernel in KERNELS:
        try:
            synthesis[kernel] = synthesis_of(work, kernel, hardware)
        except Unreported as error:
            failed[kernel] = error
    if not synthesis:
        raise failed[KERNELS[0]]
    model = modelled(hardware)
    rows = []
    for kernel in KERNELS:
        if kernel in failed:
            rows.append(Row(kernel, "C synthesis", {}, fault=str(failed[kernel])))
            continue
        report = synthesis[kernel]
        figures = {key: Cell(report.resources[key], model[kernel][key], tolerance) for key in RESOURCES}
        rows += [Row(kernel, "", figures, report.slack), *loop_rows(kernel, report.loops)]
    promised = declared_depths()
    rows += [Row("not judged", f"{name}: {promised[name]} cycles, in no report", {}) for name in NOT_JUDGED]
    sums = {
        key: Cell(
            sum(report.resources[key] for report in synthesis.values()),
            sum(model[kernel][key] for kernel in synthesis),
            tolerance,
        )
        for key in RESOURCES
    }
    return [*rows, Row("all", "", sums)]


def show(rows: list[Row]) -> None:
    """Prints the table."""
    names = {"II": ">II", "depth": ">cycles", **{key: f">{key.upper()}" for key in RESOURCES}}
    lines = []
    for row in rows:
        slack = "" if row.slack is None else f"{row.slack:.3f} {'!' if row.slack < 0 else ' '}"
        cells = [str(row.cells.get(name, "")) for name in names]
        lines.append([row.unit, row.item + (": ABSENT !" if row.fault else ""), *cells, slack])
    title = "Reported (promised); ! worse, < better by more than the tolerance"
    print_table(["unit", "loop", *names.values(), ">slack ns"], lines, title)


def write_margins(path: Path, rows: list[Row], hardware: Hardware) -> None:
    """Replaces a configuration's margins by those of the reported kernels, and keeps everything else of the file."""
    try:
        check_configuration(path, Hardware.load(path, hardware.board), hardware)
        text = re.sub(
            r"^\[margins(\.\w+)?\].*?(?=^\[|\Z)", "", path.read_text(), flags=re.MULTILINE | re.DOTALL
        ).rstrip()
        counted = {name: {"lut": 0, "ff": 0} for name in KERNELS}
        without = Hardware.from_toml(f"{text}\n\n{margins_toml(counted)}", hardware.board)
        logic = {part.name: part for part in without.parts}
        model = modelled(without)
        found: dict[str, dict[str, int]] = {}
        for row in rows:
            if row.unit in KERNELS and not row.item:
                found[row.unit] = {}
                for key in ("lut", "ff"):
                    own = getattr(logic[row.unit], key)
                    # RAMs within the kernel have no margin: their list is exact.
                    reported = (row.cells[key].reported or 0) - (model[row.unit][key] - own)
                    found[row.unit][key] = ceil(100 * (reported / own - 1))
        if missing := [kernel for kernel in KERNELS if kernel not in found]:
            raise Failure(f"margins take the reports of all kernels; these have none: {', '.join(missing)}")
        changed = f"{text}\n\n{margins_toml(found)}"
        fitted = Hardware.from_toml(changed, hardware.board)
    except QuasarError as error:
        raise Failure(str(error)) from None
    path.write_text(changed)
    try:
        fitted.check_board()
        verdict = "with them the design fits the usable part of its board"
    except DoesNotFitError as error:
        verdict = f"{error}"
    echo(f"wrote [margins] into {path}; {verdict}")


def margins_toml(margins: dict[str, dict[str, int]]) -> str:
    """Returns the table of a configuration file."""
    lines = (f"{kernel} = {{ lut = {own['lut']}, ff = {own['ff']} }}\n" for kernel, own in margins.items())
    return "".join(("[margins]\n", *lines))


def check_configuration(path: Path, given: Hardware, built: Hardware) -> None:
    """Refuses a configuration that the reports are not of."""
    if given.configuration_hash != built.configuration_hash:
        raise Failure(f"{path}: the reports are of another configuration: name the one that was built")


@click.command(help=(__doc__ or "").split("\n\n")[0])
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--hardware", "file", type=click.Path(path_type=Path), help="The configuration [FOLDER/hardware.toml]."
)
@click.option(
    "--margins", type=click.Path(path_type=Path), help="Write the kernels' margins into this configuration."
)
@click.option(
    "--tolerance",
    type=click.FloatRange(0),
    default=0.1,
    show_default=True,
    help="Share by which resources may differ from the model.",
)
def main(folder: Path, file: Path | None, margins: Path | None, tolerance: float) -> None:
    try:
        board, built = folder / "board.toml", folder / "hardware.toml"
        known = Board.load(board) if board.is_file() else None
        hardware = Hardware.load(file or built, known)
        if file is not None and built.is_file():
            check_configuration(file, hardware, Hardware.load(built, known))
    except QuasarError as error:
        raise Failure(str(error)) from None
    rows = table_of(folder, hardware, tolerance)
    show(rows)
    if margins is not None:
        write_margins(margins, rows, hardware)
    faults = [fault for row in rows for fault in row.faults]
    for fault in faults:
        echo(f"worse than promised: {fault}", err=True)
    if faults:
        sys.exit(1)
    echo("nothing is worse than promised")


if __name__ == "__main__":
    main()
