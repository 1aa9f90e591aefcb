#!/usr/bin/env python3
"""Compare the reports of Vitis HLS and Vivado with what the sources declare and the hardware model counts.

    python tools/build_report.py build/bitstream/pynq-z2/pynq-z2 # what tools/bitstream.py left there
    python tools/build_report.py DIR --hardware mine.toml     # where DIR has no hardware.toml
    python tools/build_report.py DIR --margins mine.toml      # write the kernels' margins into that configuration

Reads DIR/kernels/NAME/**/syn/report/csynth.xml of each kernel and, once Vivado has run, DIR/utilization.rpt and
DIR/timing.rpt. Prints one table; exits with 1 if a figure is worse than promised or a kernel has no report, with 2 if a
report cannot be read. The forms of the reports are those of AMD's documentation and of published reports: no run of
this project has had the tools.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from math import ceil, isfinite, nan
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree as ET
from xml.parsers import expat

import click

from bitstream import KERNELS, ROOT, board_settings, same_part
from quasar_rt.cli.output import Failure, echo, print_table
from quasar_rt.errors import DoesNotFitError, QuasarError
from quasar_rt.hardware import Board, Hardware

#: Versions of Vitis HLS whose reports have the form that is read here.
VERSIONS = ("2022.2", "2023.1", "2023.2", "2024.1", "2024.2")
#: Figures of a unit, in the order of the table's columns.
RESOURCES = ("lut", "ff", "dsp", "bram18", "uram")
#: Parts of the model that are built within a unit of the block design, besides the part of the unit's own name.
WITHIN = {
    "array": (
        "input", "normed", "query", "hidden", "probability", "key", "value", "weights", "sums of tokens",
        "partial sums", "sums to send", "scores to send",
    ),
    "plan": ("commands in plan",),
    "drain": ("row parameters", "commands in drain"),
    "lanes": (
        "GELU tables", "means of values", "moments of tiles", "scales", "sums of values", "moments to send",
        "logits to send",
    ),
    "norm": ("gains", "means of columns", "sums of codes", "commands in norm"),
    "memories": ("residual", "norm_residual", "score"),
}  # fmt: skip
UNITS = (*KERNELS, "array", "lanes", "clocks", "counters", "queues", "memories", "ports and interconnect")
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


class Timing(NamedTuple):
    """Worst slacks of Vivado's report, in ns; None where there is no path."""

    slacks: dict[str, float | None]
    """Of the design (``setup``, ``hold``, ``pulse width``)."""
    clocks: dict[str, float | None]
    """Setup slack of each clock."""


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
    slack_judged: bool = False
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
        if self.slack_judged and self.slack is not None and self.slack < 0:
            faults.append(f"{where}: slack {self.slack:.3f} ns")
        return faults


def refuse(path: Path, line: int, what: str) -> Failure:
    """Returns the error of a report that cannot be read."""
    return Failure(
        f"{path}:{line}: {what}: the report is cut or of another form (docs/building.md has the form)"
    )


def read_lines(path: Path) -> list[str]:
    """Reads a report's lines."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise Failure(f"{path}: the report cannot be read: {error.strerror}") from None


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


class Xml:
    """A report in XML, whose elements know their lines."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[ET.Element, int] = {}
        parser, builder = expat.ParserCreate(), ET.TreeBuilder()

        def start(tag: str, attributes: dict[str, str]) -> None:
            self.lines[builder.start(tag, attributes)] = parser.CurrentLineNumber

        parser.StartElementHandler = start
        parser.EndElementHandler = builder.end
        parser.CharacterDataHandler = builder.data
        try:
            parser.Parse(path.read_bytes(), True)
            self.root = builder.close()
        except OSError as error:
            raise Failure(f"{path}: the report cannot be read: {error.strerror}") from None
        except expat.ExpatError as error:
            raise refuse(path, error.lineno, expat.errors.messages[error.code]) from None

    def child(self, element: ET.Element, way: str) -> ET.Element:
        """Returns the element that `way` names."""
        found = element.find(way)
        if found is None:
            raise refuse(self.path, self.lines[element], f"<{element.tag}> has no <{way}>")
        return found

    def text(self, element: ET.Element, way: str) -> str:
        """Returns the text of the element that `way` names."""
        return (self.child(element, way).text or "").strip()

    def number(self, element: ET.Element, way: str) -> float:
        """Returns the number in the element that `way` names."""
        found = self.child(element, way)
        return finite(self.path, self.lines[found], f"<{found.tag}>", found.text or "")

    def cycles(self, element: ET.Element, name: str, least: int = 0) -> int | None:
        """Returns the cycles in a child, the most of a range; None where the tool has no number for them."""
        found = element.find(name)
        text = "" if found is None else (found.findtext("range/max") or found.text or "").strip()
        if found is None or text in ("", "-", "?", "NA", "undef", "no", "none"):
            return None
        if not re.fullmatch(r"(\d+ *~ *)?\d+", text) or int(text.split("~")[-1]) < least:
            raise refuse(self.path, self.lines[found], f"<{name}> is no number of cycles: {text}")
        return int(text.split("~")[-1])


def loops_below(xml: Xml, element: ET.Element) -> Iterator[Loop]:
    """Yields the loops of a <SummaryOfLoopLatency>, nested ones included: an element each, named as the loop."""
    for inner in element:
        if inner.find("Latency") is None and inner.find("PipelineII") is None:
            continue
        name = (inner.findtext("Name") or inner.tag).strip()
        ii, depth = xml.cycles(inner, "PipelineII", 1), xml.cycles(inner, "PipelineDepth")
        yield Loop(
            name,
            None if inner.findtext("PipelineType", "").strip() in ("no", "none") else ii,
            xml.cycles(inner, "IterationLatency") if depth is None else depth,
            xml.cycles(inner, "Latency"),
        )
        yield from loops_below(xml, inner)


def read_synthesis(path: Path, kernel: str, hardware: Hardware) -> Synthesis:
    """Reads a kernel's csynth.xml and checks that it is of this kernel, part and clock."""
    xml = Xml(path)
    check_version(path, xml.text(xml.root, "ReportVersion/Version"))
    given = xml.child(xml.root, "UserAssignments")
    top, part = xml.text(given, "TopModelName"), xml.text(given, "Part")
    check_kernel(path, xml.lines[given], top, kernel)
    check_part(path, xml.lines[given], part, hardware)
    period, wanted = xml.number(given, "TargetClockPeriod"), 1000 / hardware.clock_mhz
    if abs(period - wanted) > 0.01:
        raise Failure(
            f"{path}:{xml.lines[given]}: the kernel was built for a clock of {period:.3f} ns, the configuration has "
            f"{wanted:.3f} ns: build it anew, or name its configuration by --hardware"
        )
    estimates = xml.child(xml.root, "PerformanceEstimates")
    used = xml.child(xml.root, "AreaEstimates/Resources")
    slack = period - xml.number(given, "ClockUncertainty")
    slack -= xml.number(estimates, "SummaryOfTimingAnalysis/EstimatedClockPeriod")
    loops = [loop for summary in xml.root.iter("SummaryOfLoopLatency") for loop in loops_below(xml, summary)]
    names = dict(zip(RESOURCES, ("LUT", "FF", "DSP", "BRAM_18K", "URAM"), strict=True))
    # Devices without UltraRAM may lack its line.
    area = {
        key: int(xml.number(used, name))
        for key, name in names.items()
        if key != "uram" or used.find(name) is not None
    }
    check_area(path, xml.lines[used], area)
    return Synthesis(slack, loops, {"uram": 0, **area})


def finite(path: Path, line: int, what: str, text: str) -> float:
    """Returns a number of a report; infinite ones and `nan` are none."""
    try:
        value = float(text)
    except ValueError:
        value = nan
    if not isfinite(value):
        raise refuse(path, line, f"{what} is no number: {text}")
    return value


def check_area(path: Path, line: int, area: dict[str, int]) -> None:
    """Refuses resources that no kernel has."""
    if area["lut"] == 0 or min(area.values()) < 0:
        named = ", ".join(f"{value} {key.upper()}" for key, value in area.items())
        raise refuse(path, line, f"no kernel takes these resources: {named}")


def check_version(path: Path, version: str) -> None:
    """Refuses a report of a version whose form is not known."""
    if not re.match(rf"({'|'.join(map(re.escape, VERSIONS))})\b", version):
        raise Failure(
            f"{path}: the report is of Vitis HLS {version}; known are {VERSIONS[0]} to {VERSIONS[-1]}. If its form is "
            "the same, add the version to VERSIONS in tools/build_report.py"
        )


def check_kernel(path: Path, line: int, top: str, kernel: str) -> None:
    """Refuses a report of another kernel."""
    if top != kernel:
        raise Failure(f"{path}:{line}: the report is of the kernel {top}, not {kernel}")


def check_part(path: Path, line: int, part: str, hardware: Hardware) -> None:
    """Refuses a report of another part than the board's."""
    wanted = board_settings(hardware.board.name)["part"]
    if not same_part(part, wanted):
        raise Failure(
            f"{path}:{line}: the report is for the part {part}, the board {hardware.board.name} has {wanted}"
        )


def header_of(path: Path, lines: list[str], first: list[str]) -> int:
    """Returns the index of the header line that begins with these cells."""
    for at, line in enumerate(lines):
        if [cell.strip() for cell in line.strip().strip("|").split("|")[: len(first)]] == first:
            return at
    raise refuse(path, len(lines), f"no table with the columns {', '.join(first)}")


#: Columns of Vivado's hierarchical utilization, by resource.
COLUMNS = {
    "lut": ("Total LUTs",),
    "ff": ("FFs",),
    "dsp": ("DSP Blocks", "DSP48 Blocks", "DSPs"),
    "ramb36": ("RAMB36",),
    "ramb18": ("RAMB18",),
}


def read_utilization(path: Path, hardware: Hardware) -> dict[str, dict[str, int]]:
    """Reads `report_utilization -hierarchical`: the resources of each cell of the block design."""
    lines = read_lines(path)
    for number, line in enumerate(lines, 1):
        if device := re.match(r"\| Device\s*: (\S+)", line):
            check_part(path, number, device[1], hardware)
    top = header_of(path, lines, ["Instance", "Module"])
    titles = [cell.strip() for cell in lines[top].strip("|\n ").split("|")]
    places = {}
    for key, names in COLUMNS.items():
        found = [titles.index(name) for name in names if name in titles]
        if not found:
            raise refuse(path, top + 1, f"no column {' or '.join(names)}")
        places[key] = found[0]
    if "URAM" in titles:
        places["uram"] = titles.index("URAM")
    children: dict[str, dict[str, dict[str, int]]] = {}
    above: list[tuple[int, str]] = []
    for number, line in enumerate(lines[top + 2 :], top + 3):
        if line.startswith("+"):
            break
        cells = line.strip().strip("|").split("|")
        if len(cells) != len(titles):
            raise refuse(path, number, f"{len(cells)} columns, not {len(titles)}")
        name, indent = cells[0].strip(), len(cells[0]) - len(cells[0].lstrip())
        values = {}
        for key, place in places.items():
            value = re.fullmatch(r"(\d+)(\(.*%\))?", cells[place].strip())
            if value is None:
                raise refuse(path, number, f"{titles[place]} of {name} is no number: {cells[place].strip()}")
            values[key] = int(value[1])
        while above and above[-1][0] >= indent:
            above.pop()
        values["bram18"] = 2 * values.pop("ramb36") + values.pop("ramb18")
        children.setdefault("/".join(own for _, own in above), {})[name] = {"uram": 0, **values}
        above.append((indent, name))
    else:
        raise refuse(path, len(lines), "the table has no end")
    for cells_of in children.values():
        if cells_of.keys() >= {*KERNELS, "array_cell", "lanes"}:
            for kernel in KERNELS:
                check_area(path, top + 1, cells_of[kernel])
            # Logic analyzers are no part of the model.
            return {name: cells for name, cells in cells_of.items() if not name.startswith("ila_")}
    raise Failure(f"{path}:{top + 1}: the report is of another design: no instance holds all kernels")


def unit_of(cell: str) -> str:
    """Returns the unit that a cell of the block design belongs to."""
    if (unit := cell.removesuffix("_cell")) in UNITS:
        return unit
    if cell in ("clock_status", "watchdog"):
        return "clocks"
    if cell.endswith("_queue"):
        return "queues"
    if re.fullmatch(rf"({'|'.join(WITHIN['memories'])})_\d+", cell):
        return "memories"
    return "ports and interconnect"


def add_up(parts: Iterator[tuple[str, dict[str, int]]]) -> dict[str, dict[str, int]]:
    """Returns the sums of resources by unit."""
    sums = {unit: dict.fromkeys(RESOURCES, 0) for unit in UNITS}
    for unit, amounts in parts:
        for key in RESOURCES:
            sums[unit][key] += amounts[key]
    return sums


def modelled(hardware: Hardware) -> dict[str, dict[str, int]]:
    """Returns the resources that the model counts for each unit."""
    owner = {part: unit for unit, parts in WITHIN.items() for part in parts} | {unit: unit for unit in UNITS}
    return add_up(
        (owner[part.name], {key: getattr(part, key) for key in RESOURCES}) for part in hardware.parts
    )


def read_table(path: Path, lines: list[str], title: str, first: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields line number and cells, by column, of a table of the timing summary."""
    heads = [at for at, line in enumerate(lines) if line.strip() == f"| {title}"]
    if not heads:
        raise refuse(path, len(lines), f"no section '{title}'")
    for at in range(heads[0] + 1, len(lines)):
        if lines[at].startswith("| "):
            if set(lines[at]) <= set("| -"):
                continue
            break
        if lines[at].split()[:1] == [first]:
            titles = re.split(r"\s{2,}", lines[at].strip())
            if at + 1 == len(lines) or not set(lines[at + 1]) <= set("- ") or not lines[at + 1].strip():
                raise refuse(path, at + 2, f"'{title}' has no line under its columns")
            end = at + 2
            while end < len(lines) and lines[end].strip():
                cells = lines[end].split()
                if len(cells) != len(titles):
                    raise refuse(
                        path, end + 1, f"'{title}' has {len(cells)} figures for {len(titles)} columns"
                    )
                yield end + 1, dict(zip(titles, cells, strict=True))
                end += 1
            if end == at + 2:
                raise refuse(path, end, f"'{title}' has no figures")
            return
    raise refuse(path, heads[0] + 1, f"'{title}' has no column {first}")


def read_timing(path: Path) -> Timing:
    """Reads `report_timing_summary`: worst slacks of the design and of each clock."""
    lines = read_lines(path)

    def slack(number: int, cells: dict[str, str], column: str) -> float | None:
        text = cells.get(column)
        if text == "NA":
            return None
        return finite(path, number, column, text or "")

    columns = {"setup": "WNS(ns)", "hold": "WHS(ns)", "pulse width": "WPWS(ns)"}
    ((number, cells), *_) = read_table(path, lines, "Design Timing Summary", "WNS(ns)")
    slacks = {check: slack(number, cells, column) for check, column in columns.items()}
    clocks = {
        cells["Clock"]: slack(number, cells, "WNS(ns)")
        for number, cells in read_table(path, lines, "Intra Clock Table", "Clock")
    }
    return Timing(slacks, clocks)


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
    lines = read_lines(log) if log.is_file() else []
    why = next((line for line in lines if line.startswith("ERROR")), "Vitis HLS did not end there")
    raise Unreported(f"{work}/kernels/{kernel}: no report syn/report/csynth.xml: {why}")


def loop_rows(kernel: str, loops: list[Loop]) -> Iterator[Row]:
    """Yields a row for each declared loop of a kernel and for each declared depth."""

    def most(figures: list[int | None]) -> int | None:
        return None if None in figures else max(figure for figure in figures if figure is not None)

    seen: dict[str, Loop] = {}
    for declared in declared_loops(kernel):
        # A function of two instances has its loop twice, and some names stand for two loops.
        found = [loop for loop in loops if declared.is_in(loop.name)]
        item = f"{declared.name} (line {declared.line})"
        if not found:
            yield Row(kernel, item, {}, fault="the report has no such loop; was its process optimised away?")
            continue
        worst = Loop(
            declared.name,
            most([loop.ii for loop in found]),
            most([loop.depth for loop in found]),
            most([loop.latency for loop in found]),
        )
        known = seen.get(declared.name)
        seen[declared.name] = (
            worst
            if known is None
            else Loop(declared.name, *(most([*pair]) for pair in zip(known[1:], worst[1:], strict=True)))
        )
        if declared.ii is not None and worst.ii is None:
            yield Row(
                kernel,
                f"{item}, not pipelined",
                {"II": Cell(max(worst.depth or 0, declared.ii + 1), declared.ii)},
            )
        else:
            cells = {"II": Cell(worst.ii, declared.ii) if declared.ii is not None else Cell(None)}
            yield Row(kernel, item, {**cells, "depth": Cell(worst.depth, None)})
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
    placed, timed = work / "utilization.rpt", work / "timing.rpt"
    timing = read_timing(timed) if timed.is_file() else None
    if placed.is_file():
        cells = read_utilization(placed, hardware)
        built = add_up((unit_of(cell), amounts) for cell, amounts in cells.items())
    else:
        built = {kernel: report.resources for kernel, report in synthesis.items()}
    model = modelled(hardware)
    rows = []
    for unit in UNITS:
        if unit in failed:
            rows.append(Row(unit, "C synthesis", {}, fault=str(failed[unit])))
        if unit in failed or unit not in built:
            continue
        figures = {key: Cell(built[unit][key], model[unit][key], tolerance) for key in RESOURCES}
        report = synthesis.get(unit)
        rows.append(Row(unit, "", figures, report.slack if report else None, timing is None))
        rows += loop_rows(unit, report.loops) if report else []
    promised = declared_depths()
    rows += [Row("not judged", f"{name}: {promised[name]} cycles, in no report", {}) for name in NOT_JUDGED]
    sums = {
        key: Cell(sum(built[unit][key] for unit in built), sum(model[unit][key] for unit in built), tolerance)
        for key in RESOURCES
    }
    rows.append(Row("all", "", sums))
    if timing is not None:
        rows += [Row("timing", check, {}, slack, True) for check, slack in timing.slacks.items()]
        rows += [
            Row("timing", f"setup of {clock}", {}, slack, True) for clock, slack in timing.clocks.items()
        ]
    return rows


def show(rows: list[Row]) -> None:
    """Prints the table and what is worse than promised."""
    names = {
        "II": ">II", "depth": ">cycles", "lut": ">LUT", "ff": ">FF", "dsp": ">DSP", "bram18": ">BRAM18",
        "uram": ">URAM",
    }  # fmt: skip
    lines = []
    for row in rows:
        slack = (
            ""
            if row.slack is None
            else f"{row.slack:.3f} {'!' if row.slack_judged and row.slack < 0 else ' '}"
        )
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
