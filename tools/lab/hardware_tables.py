#!/usr/bin/env python3
"""Write the tables of docs/hardware-model.md: shipped configurations, other assumptions, boards, netlists.

    python tools/lab/hardware_tables.py

Writes also what today's model says of the packaged subnet, whose search has another record.
Everything is modelled, apart from the counts of Yosys in `docs/evidence/array-netlists.json` and
`docs/evidence/kernel-circuits.json`, and the instructions in `docs/evidence/host-instructions.json`
(`count_instructions.py --camera`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

import click

from evidence_report import markdown, splice
from quasar_rt import DoesNotFitError, Subnet
from quasar_rt.files import write_text
from quasar_rt.hardware import Board, Estimate, Hardware, Workload, estimate, replay
from quasar_rt.hardware.published import PUBLISHED, operating_points, paper_estimates
from quasar_rt.space import Architecture, BlockShape, Space

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/hardware-model.md"
NETLISTS = ROOT / "docs/evidence/array-netlists.json"
CIRCUITS = ROOT / "docs/evidence/kernel-circuits.json"
INSTRUCTIONS = ROOT / "docs/evidence/host-instructions.json"
DECLARED = ROOT / "rust/hardware/src/declared.rs"
RECORD = ROOT / "python/quasar_rt/train/recipes/fashion-mnist.json"
TODAY = ROOT / "docs/evidence/packaged-subnet.json"
BOARDS = ("zcu102", "zcu104", "kv260", "pynq-zu", "ultra96v2", "pynq-z2")
FRACTIONS = (0.0, 0.25)
#: Microseconds from a segment's end to the next one's start: assumed ones; the longest polls, now and before.
GAPS = (0.0, 20.0, 45.0, 85.0, 100.0, 200.0, 1000.0)
#: The kernels' clocks in MHz, half of the array's: that of a first build, the boards', and one beyond them.
CLOCKS = (100.0, 150.0, 187.5)
#: Instructions that a core executes in a cycle when it prepares frames: assumed.
PER_CYCLE = {"Cortex-A53": 0.6, "Cortex-A9": 0.3}
#: The board whose counts stand for a core.
COUNTED = {"Cortex-A53": "zcu102", "Cortex-A9": "pynq-z2"}
#: Values of a network's input of 224 x 224 pixels.
VALUES = 3 * 224 * 224
KINDS = {"dsp": "DSP", "lut": "LUT", "ff": "FF", "bram36": "BRAM", "uram": "URAM"}


def small(eight_bit: float = 0.0) -> Workload:
    """Returns a network of 224x224 pixels for the smallest board: embed 96, 12 blocks, 3 heads of 32, MLP 384."""
    block = BlockShape(3, 32, 384, (eight_bit,) * 6)
    return Workload.of_architecture(Space.load("tiny"), Architecture(96, (block,) * 12))


def deit(name: str) -> list[Workload]:
    """Returns a DeiT shape with all rows of 4 bits, and with a quarter of 8."""
    return [Workload.deit(name, fraction) for fraction in FRACTIONS]


#: Columns of DeiT-tiny's products after a norm, for which the drain's slack is stated.
EMBED = 192
#: Shipped configurations, and what their figures are for.
SHIPPED = {
    "zcu102": ("DeiT-tiny", deit("deit-tiny")),
    "kv260": ("DeiT-tiny", deit("deit-tiny")),
    "pynq-z2": ("DeiT-tiny", deit("deit-tiny")),
}


def shipped(board: str) -> Hardware:
    """Reads a shipped configuration, which must have the general margin."""
    hardware = Hardware.load(ROOT / f"fpga/configs/{board}.toml")
    if hardware.settings.get("margins"):
        raise ValueError(f"fpga/configs/{board}.toml has margins of its own: the tables have the general one")
    return hardware


def chosen(network: Workload, board: str) -> Hardware | None:
    """Returns the configuration that the design-space search selects, or None where no design holds the network."""
    try:
        return Hardware.for_board(board, network)
    except DoesNotFitError:
        return None


def frame_rate(network: Workload, hardware: Hardware) -> float | None:
    """Returns frames a second, event by event, host excluded; None where the network does not fit."""
    try:
        return events_fps(network, hardware)
    except DoesNotFitError:
        return None


def events_fps(network: Workload, hardware: Hardware) -> float:
    """Returns frames a second, event by event, host excluded."""
    return hardware.clock_mhz * 1e6 / replay(network, hardware).period_cycles


def gaps_fps(network: Workload, hardware: Hardware) -> float:
    """Returns the same with the host's gaps between segments."""
    return hardware.clock_mhz * 1e6 / replay(network, hardware).period_with_gaps_cycles


def pair(values: Iterable[float], form: str = ",.0f") -> str:
    """Formats the figures of both mixes."""
    return " / ".join(format(value, form) for value in values)


def shipped_table() -> str:
    """Formats the speed of the shipped configurations."""
    rows = []
    for board, (label, networks) in SHIPPED.items():
        hardware = shipped(board)
        array, lanes = hardware.settings["array"], hardware.settings["lanes"]
        closed = [estimate(network, hardware) for network in networks]
        events = [events_fps(network, hardware) for network in networks]
        gaps = [gaps_fps(network, hardware) for network in networks]
        hosts = [min(fps, one.host.fps) for fps, one in zip(gaps, closed, strict=True)]
        share = [100 * one.share * fps / one.fps for one, fps in zip(closed, events, strict=True)]
        rows.append(
            [
                board,
                f"{array['tokens']} x {array['pairs']} x {array['cascade']} at "
                f"{hardware.clock_mhz * array['clock_ratio']:g} MHz",
                f"{lanes['requantize']}, {lanes['norm']}, {lanes['exponential']}",
                label,
                pair(events),
                pair(gaps),
                pair(hosts),
                pair([one.fps for one in closed]),
                pair(share, ".1f"),
                f"{100 * hardware.drain_slack(EMBED):.0f}",
            ]
        )
    header = ["board", "array", "lanes L, M, E", "network", "frames/s, events", "with gaps", "and the host"]
    return markdown([*header, "closed form", "% of peak, events", "drain's slack, %"], rows, 4)


def core(board: Board) -> tuple[str, float]:
    """Returns the name of a board's cores and the instructions that one executes in a second."""
    found = re.match(r"(Cortex-\w+) \(\d+ x ([\d.]+) GHz\)", board.settings["host"]["cpu"])
    assert found is not None
    return found[1], PER_CYCLE[found[1]] * float(found[2]) * 1e9


def counted(board: Board) -> dict[str, dict[str, int]]:
    """Returns the instructions of frames by stage."""
    found: dict[str, dict[str, dict[str, int]]] = json.loads(INSTRUCTIONS.read_text("utf-8"))
    return found[COUNTED[core(board)[0]]]


def host_costs(board: Board) -> dict[str, float]:
    """Returns the costs of the host that counted instructions give: nanoseconds of one core.

    Resizing is a cost for each pixel of the source and one for each value of the result, such that a camera's frame
    and a decoded picture of the model's sizes have their counts.
    """
    nanoseconds = 1e9 / core(board)[1]
    frame, picture = (counted(board)[name] for name in ("nv12 640x480", "rgb 500x375"))
    pixels, fewer = 640 * 480, 500 * 375
    resize, less = (one["columns"] + one["rows"] for one in (frame, picture))
    slope = (resize - less) / (pixels - fewer)
    instructions = {
        "convert_ns_per_pixel": frame["convert"] / pixels,
        "resize_ns_per_pixel": slope,
        "resize_ns_per_value": (resize - slope * pixels) / VALUES,
        "patch_ns_per_value": (frame["pack"] + frame["other"]) / VALUES,
    }
    return {key: round(each * nanoseconds, 2) for key, each in instructions.items()}


def camera_fps(board: Board, frame: str) -> float:
    """Returns the frames a second that a board's cores prepare and submit."""
    host, instructions = board.settings["host"], sum(counted(board)[frame].values())
    return float(host["cores"] / (instructions / core(board)[1] + host["frame_us"] * 1e-6))


def instructions_table() -> str:
    """Formats the instructions in which the host prepares a frame, by stage."""
    rows = []
    for name, board in COUNTED.items():
        for frame, stages in counted(Board.load(board)).items():
            cells = [f"{count / 1e6:.2f}" for count in (*stages.values(), sum(stages.values()))]
            rows.append([name, board, frame, *cells])
    header = ["core", "patches for", "frame", "convert", "columns", "rows", "patches", "other", "all"]
    return markdown(header, rows, 3)


def camera_table() -> str:
    """Formats the rates of the shipped configurations next to those at which the host prepares frames."""
    rows = []
    for name, (label, networks) in SHIPPED.items():
        hardware = shipped(name)
        pictures = estimate(networks[0], hardware).host.fps
        frames = [camera_fps(hardware.board, f"nv12 {size}") for size in ("640x480", "1920x1080")]
        gaps = [gaps_fps(network, hardware) for network in networks]
        rows.append([name, label, pair(gaps), *(f"{fps:,.0f}" for fps in (*frames, pictures))])
    header = ["board", "network", "accelerator with gaps", "camera, NV12 640x480", "NV12 1920x1080"]
    return markdown([*header, "JPEG 500x375"], rows, 2)


def with_setting(hardware: Hardware, section: str, key: str, value: float) -> Hardware:
    """Returns the configuration on its board with another figure."""
    before = f"{key} = {hardware.board.settings[section][key]}"
    text = hardware.board.to_toml()
    if before not in text:
        raise ValueError(f"the board's file has no {before!r}")
    return Hardware.from_toml(hardware.to_toml(), Board.from_toml(text.replace(before, f"{key} = {value}")))


def gaps_table() -> str:
    """Formats the shipped configurations' frame rates by the time in which the host starts the next segment."""
    rows = []
    for gap in GAPS:
        cells = []
        for board, (_, networks) in SHIPPED.items():
            hardware = with_setting(shipped(board), "host", "segment_us", gap)
            one = replay(networks[0], hardware)
            hidden = 100 * one.hidden_gap_cycles / one.gap_cycles if one.gap_cycles else 100
            fps = hardware.clock_mhz * 1e6 / one.period_with_gaps_cycles
            cells += [f"{fps:,.0f}", f"{hidden:.0f}"]
        rows.append([f"{gap:g}", *cells])
    columns = [text for board in SHIPPED for text in (f"{board}, frames/s", "% hidden")]
    return markdown(["gap in us", *columns], rows, 0)


def margin_percent() -> int:
    """Returns the margin that the model adds to the circuits of the kernels."""
    found = re.search(r"KERNEL_MARGIN_PERCENT: u64 = (\d+);", DECLARED.read_text("utf-8"))
    assert found is not None
    return int(found[1])


def beyond_circuits(board: str) -> tuple[int, int, int]:
    """Returns LUTs of a shipped configuration's kernels: modelled without the margin, the margin, and what is needed.

    The last is by how much the counted sources exceed the circuits that stand for them. Those that take less are not
    set off against it, since a part of their control is not counted.
    """
    hardware = shipped(board)
    sizes = {**hardware.settings["lanes"], **hardware.settings["array"]}
    needed = sum(
        one["number"] * (sizes[one["each"]] if one["each"] else 1) * max(0, one["counted"] - one["modelled"])
        for one in json.loads(CIRCUITS.read_text("utf-8")).values()
    )
    luts = sum(part.lut for part in hardware.parts if part.basis == "circuit")
    modelled = round(luts * 100 / (100 + margin_percent()))
    return modelled, luts - modelled, needed


def circuits_table() -> str:
    """Formats the LUTs of the kernels' loops next to those of the circuits that stand for them."""
    rows = []
    for name, one in json.loads(CIRCUITS.read_text("utf-8")).items():
        loops = ", ".join(f"`{loop}`" for loop in one["loops"])
        counted, modelled = one["counted"], one["modelled"]
        each = f"{one['each']} lane" if one["each"] in ("norm", "requantize", "exponential") else one["each"]
        rows.append(
            [
                f"`{name}`",
                loops,
                f"{one['number']} in all" if one["number"] > 1 else each.removesuffix("s") or "kernel",
                f"{counted:,}",
                f"{modelled:,}",
                f"{counted / modelled:.2f}",
            ]
        )
    return markdown(["circuit", "loops", "one for each", "LUTs of the source", "modelled", "ratio"], rows, 3)


def margin_table() -> str:
    """Formats what the sources take more than their circuits, next to the margin that is counted."""
    rows = []
    for board in SHIPPED:
        modelled, margin, needed = beyond_circuits(board)
        rows.append(
            [board, f"{modelled:,}", f"{needed:,}", f"{100 * needed / modelled:.1f} %", f"{margin:,}"]
        )
    header = ["board", "LUTs of kernels, queues, interconnect", "sources beyond circuits", "share", "margin"]
    return markdown(header, rows, 1)


def resources_table() -> str:
    """Formats the shares of the device that the shipped configurations take, by the margin on HLS kernels."""
    rows = []
    for board in SHIPPED:
        hardware = shipped(board)
        used, has, may = (
            vars(x) for x in (hardware.resources, hardware.board.resources, hardware.board.usable)
        )

        def share(kind: str, more: int = 0, used: dict[str, int] = used, has: dict[str, int] = has) -> str:
            return f"{100 * (used[kind] + more) / has[kind]:.0f}" if has[kind] else "–"

        rows.append([board, "as counted", *map(share, KINDS)])
        circuits = [part for part in hardware.parts if part.basis == "circuit"]
        for margin in (30, 50):
            factor = (100 + margin) / (100 + margin_percent()) - 1
            more = {
                "lut": round(sum(part.lut for part in circuits) * factor),
                "ff": round(sum(part.ff for part in circuits) * factor),
            }
            cells = [share(kind, more.get(kind, 0)) for kind in KINDS]
            rows.append([board, f"HLS kernels' logic {margin} % above their circuits", *cells])
        rows.append([board, "allowed", *(f"{100 * may[k] / has[k]:.0f}" if has[k] else "–" for k in KINDS)])
    return markdown(["board", "% of the device", *KINDS.values()], rows, 2)


def clocks_table() -> str:
    """Formats the frame rates of the shipped configurations at other clocks, event by event, with the host's gaps."""
    rows = []
    for board in ("zcu102", "kv260"):
        hardware, (label, networks) = shipped(board), SHIPPED[board]
        cells = [pair(gaps_fps(one, hardware.with_clock(clock)) for one in networks) for clock in CLOCKS]
        fast = [replay(one, hardware.with_clock(CLOCKS[-1])).latency_cycles / CLOCKS[-1] for one in networks]
        rows.append([board, label, *cells, pair((us / 1e3 for us in fast), ".2f")])
    header = ["board", "network", *(f"{2 * clock:g} / {clock:g} MHz" for clock in CLOCKS)]
    return markdown([*header, f"ms of a frame alone at {2 * CLOCKS[-1]:g}"], rows, 2)


def sensitivity_table() -> str:
    """Formats the frame rates of the shipped configurations with slower memories, event by event."""
    rows = []
    boards = {board: shipped(board) for board in ("zcu102", "kv260")}

    def add(label: str, change: dict[str, Hardware]) -> None:
        cells = [pair(events_fps(n, change[board]) for n in SHIPPED[board][1]) for board in boards]
        rows.append([label, *cells])

    add("as shipped", boards)
    for efficiency in (0.5, 0.35, 0.2):
        changed = {}
        for board, one in boards.items():
            changed[board] = with_setting(one, "ddr", "efficiency", efficiency)
        add(f"DDR efficiency {efficiency:g}", changed)
    return markdown(["frames/s, DeiT-tiny", *boards], rows, 1)


def boards_table() -> str:
    """Formats the frame rates of networks on each board's best configuration, by the closed form."""
    digits = Space.load("digits")
    networks = {
        "digits, largest of the space": Workload.of_architecture(digits, digits.decode(digits.largest)),
        "`fashion-mnist`, packaged": Workload.of(Subnet.load("fashion-mnist")),
        "224x224, embed 96, 12 blocks, 3 heads of 32, MLP 384": small(),
        **{f"DeiT-{size}": Workload.deit(f"deit-{size}") for size in ("tiny", "small", "base")},
    }
    rows = []
    for label, network in networks.items():
        cells = []
        for board in BOARDS:
            hardware = chosen(network, board)
            fps = estimate(network, hardware).fps if hardware else None
            cells.append("–" if fps is None else f"{fps:,.0f}" if fps >= 10 else f"{fps:.1f}")
        rows.append([label, *cells])
    return markdown(["network", *BOARDS], rows, 1)


def netlists_table() -> str:
    """Formats Yosys's counts of the array next to the model's."""
    from array_netlist import SIZES

    inside = {"sums of tokens", "partial sums", "sums to send", "scores to send"}
    read = {"input", "normed", "query", "hidden", "probability", "key", "value"}
    rows = []
    for name, found in json.loads(NETLISTS.read_text("utf-8")).items():
        parts = [part for part in SIZES[name].hardware().parts if part.name in inside | read | {"array"}]
        lut, ff = sum(part.lut for part in parts), sum(part.ff for part in parts)
        built = found["ff"] + found["ff_ram_outputs"]
        rows.append(
            [
                name,
                f"{found['lut']:,}",
                f"{100 * (lut / found['lut'] - 1):+.0f} %",
                f"{built:,}",
                f"{100 * (ff / built - 1):+.0f} %",
                f"{found['dsp']:,}",
                f"{found['bram36']:g}",
                f"{found['uram']}",
                f"{found['paths']['array']['levels']}",
                f"{found['fan_out']['array']['pins']}",
            ]
        )
    header = ["array", "LUT", "model", "FF", "model", "DSP", "BRAM36", "URAM", "levels", "fan-out"]
    return markdown(header, rows, 1)


def published_table() -> str:
    """Formats DeiT's shapes on zcu102 at both clocks, by the closed form."""
    found: dict[tuple[str, float], list[Estimate]] = {}
    for fraction, result in paper_estimates():
        found.setdefault((result.network, fraction), []).append(result)
    rows = [
        [
            network,
            f"{100 * fraction:.0f} %",
            f"{fast.fps:.1f}",
            f"{slow.fps:.1f}",
            f"{fast.latency_s * 1e3:.2f} ms",
            f"{100 * fast.share:.1f} %",
            "modelled",
        ]
        for (network, fraction), (fast, slow) in found.items()
    ]
    header = ["shape", "8-bit rows", "frames/s, array at 300 MHz", "at 200 MHz", "latency at 300 MHz"]
    return markdown([*header, "share of peak", "kind"], rows, 2)


def points_table() -> str:
    """Formats the largest networks of the spaces at the paper's frame rates, by the closed form."""
    asked = [figure.fps for figure in PUBLISHED if figure.system == "Quasar-ViT"]
    rows = []
    for point in sorted(operating_points(asked, ("tiny", "small", "base")), key=lambda point: -point.fps):
        block = point.architecture.blocks[0]
        sizes = (point.architecture.embed, point.architecture.depth, block.heads, block.hidden)
        rows.append(
            [
                f"{point.fps:g}",
                point.space,
                ", ".join(map(str, sizes)),
                f"{100 * block.eight_bit[0]:.0f} %",
                f"{point.macs / 1e9:.2f}",
                f"{point.modelled_fps:.1f}",
                "modelled",
            ]
        )
    header = ["at least", "space", "embed, depth, heads, hidden", "8-bit rows", "GMAC", "frames/s", "kind"]
    return markdown(header, rows, 3)


#: Tables by their markers in the page. Those with a design-space search take a minute in all.
TABLES = {
    "shipped": shipped_table,
    "camera": camera_table,
    "instructions": instructions_table,
    "gaps": gaps_table,
    "resources": resources_table,
    "circuits": circuits_table,
    "margin": margin_table,
    "clocks": clocks_table,
    "sensitivity": sensitivity_table,
    "boards": boards_table,
    "published": published_table,
    "points": points_table,
    "netlists": netlists_table,
}


def packaged_today() -> dict[str, object]:
    """Returns the figures of the packaged subnet on the array that is chosen for its record's board today."""
    network = Workload.of(Subnet.load("fashion-mnist"))
    hardware = Hardware.for_board(json.loads(RECORD.read_text("utf-8"))["board"], network)
    used, may = vars(hardware.resources), vars(hardware.board.usable)
    closed = estimate(network, hardware)
    return {
        "hardware": hardware.settings,
        "resources": {kind: {"used": used[kind], "usable": may[kind]} for kind in KINDS},
        "modelled_fps": round(closed.fps, 1),
        "replayed_fps": round(events_fps(network, hardware), 1),
        "latency_ms": round(1e3 * closed.latency_s, 3),
    }


@click.command()
def main() -> None:
    """Write the tables of docs/hardware-model.md, and the packaged subnet's figures of today."""
    write_text(TODAY, json.dumps(packaged_today(), indent=1) + "\n")
    write_text(PAGE, splice(PAGE.read_text("utf-8"), {name: table() for name, table in TABLES.items()}))


if __name__ == "__main__":
    main()
