#!/usr/bin/env python3
"""Place and route a part of the design on an xc7z020 with Yosys and nextpnr, and tabulate what was reached.

    make place UNIT=token NEXTPNR=.../nextpnr-himbaechel CHIPDB=.../chipdb-xc7z020.bin      # docs/placed.md
    python tools/place.py picorv32.v:picorv32_axi:TWO_CYCLE_ALU=1 ... --vivado 4.3
    python tools/place.py --table                                    # of the runs in docs/evidence/placed.json

UNIT is `unit` (one cascade), `token`, `array` or `lanes` (the cells of the block design), `both` (array and lanes with
the memories between them), or FILE.v:TOP[:NAME=VALUE,...]. Each bit of a port ends in a flip-flop of its own, as at a
kernel or a queue; the placer is free to place them. Cascades have fixed places, from the bottom of a column up.
"""

from __future__ import annotations

import hashlib
import json
import re
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from quasar_rt.hardware import Hardware

ROOT = Path(__file__).resolve().parents[1]
RTL = ROOT / "fpga/rtl"
RECORD = ROOT / "docs/evidence/placed.json"
DEVICE = "xc7z020clg400-1"
#: Clock nets, and the periods in ns that placer and router aim at.
CLOCKS = {"clk": 10, "clk_array": 5}
#: Ports of `token` on the array's clock. The others of every unit are on the kernels' clock, if it has two.
FAST = {"activation", "w", "goes_on", "capture", "push", "push_slot"}
CLASSES = {
    ("clk_array", "clk_array"): "fast",
    ("clk", "clk"): "slow",
    ("clk", "clk_array"): "slow to fast",
    ("clk_array", "clk"): "fast to slow",
}
#: Columns of DSP slices in nextpnr's grid, near ones first; each has 60 slices, two in a tile of five rows from the
#: bottom row up. Then the place of a clock buffer.
COLUMNS, SLICES, BOTTOM = (141, 152, 64), 60, 150
BUFFER = "X82Y75/BUFGCTRL_X0Y{}.BUFGCTRL"
ON = "1".zfill(32)

Netlist = dict[str, Any]


def synthesise(
    top: str, sources: Sequence[Path], parameters: Mapping[str, str], folder: Path, name: str
) -> Netlist:
    """Returns the flat netlist that Yosys makes of a module."""
    chosen = " ".join(f"-set {key} {value}" for key, value in parameters.items())
    output = folder / f"{name}.yosys.json"
    steps = [
        f"read_verilog -sv {' '.join(map(str, sources))}",
        *([f"chparam {chosen} {top}"] if chosen else []),
    ]
    steps += [f"synth_xilinx -family xc7 -top {top} -flatten -noiopad -noclkbuf", f"write_json {output}"]
    subprocess.run(["yosys", "-qq", "-p", "; ".join(steps)], check=True)
    netlist: Netlist = json.loads(output.read_text())["modules"][top]
    return netlist


def build(unit: str, hardware: Hardware, folder: Path) -> Netlist:
    """Returns the netlist of a unit, with ports."""
    sources = sorted(RTL.glob("*.*v"), key=lambda path: (not path.stem.endswith("_types"), path.name))
    if unit == "both":
        return join(*(build(part, hardware, folder) for part in ("array", "lanes")))
    if ":" in unit:
        file, top, *rest = unit.split(":")
        values = dict(item.split("=") for part in rest for item in part.split(","))
        return synthesise(top, [Path(file)], values, folder, top)
    for name in ("array_cell", "lanes_cell"):
        (folder / f"{name}.v").write_text(hardware.build_files[f"{name}.v"])
    p = dict(re.findall(r"\.(\w+)\((\d+)\)", hardware.build_files["array_cell.v"]))
    if unit == "unit":
        return synthesise("unit_dsp48", sources, {"C": p["C"], "S": p["S"], "E1": p["DSP48E1"]}, folder, unit)
    if unit == "token":
        own = {key: p[key] for key in ("P", "C", "S", "DSP48E1", "PRIMITIVES")} | {"DEPTH": p["FIFO_DEPTH"]}
        return synthesise("token", sources, own, folder, unit)
    if unit not in ("array", "lanes"):
        raise click.ClickException(
            f"there is no unit {unit}: name unit, token, array, lanes, both, or FILE.v:TOP"
        )
    return synthesise(f"{unit}_cell", [*sources, folder / f"{unit}_cell.v"], {}, folder, unit)


def top_bit(netlist: Netlist) -> int:
    return max(bit for net in netlist["netnames"].values() for bit in net["bits"] if isinstance(bit, int))


def renumber(netlist: Netlist, new: Mapping[Any, Any]) -> None:
    """Gives the bits of a netlist other numbers."""
    for cell in netlist["cells"].values():
        cell["connections"] = {
            pin: [new.get(bit, bit) for bit in bits] for pin, bits in cell["connections"].items()
        }
    for item in [*netlist["netnames"].values(), *netlist["ports"].values()]:
        item["bits"] = [new.get(bit, bit) for bit in item["bits"]]


def join(array: Netlist, lanes: Netlist) -> Netlist:
    """Returns both netlists as one: the lanes' clocks are the array's, and their outputs write its memories.

    A stream between them keeps its two ends: a queue lies between.
    """
    shift = top_bit(array) + 1
    renumber(lanes, {bit: bit + shift for bit in range(shift + top_bit(lanes) + 1)})
    ports = array["ports"]
    shared = [port for port in lanes["ports"] if port in ports and "_t" not in port and port != "resetn"]
    for port in shared:
        mine, theirs = ports[port]["bits"], lanes["ports"][port]["bits"]
        if port in CLOCKS:
            renumber(lanes, dict(zip(theirs, mine, strict=True)))
        else:
            renumber(array, dict(zip(mine, theirs, strict=True)))
            del ports[port]
        del lanes["ports"][port]
    for part in ("cells", "netnames", "ports"):
        array[part] |= {f"lanes.{name}": value for name, value in lanes[part].items()}
    return array


def add_border(netlist: Netlist) -> None:
    """Ends each bit of a port in a flip-flop of its own, and drives the clocks from buffers."""
    ports, cells, free = netlist.pop("ports"), netlist["cells"], top_bit(netlist) + 1
    netlist["ports"] = {}
    clocks = {name: ports.pop(name)["bits"][0] for name in CLOCKS if name in ports}
    if "clk_array" not in clocks:
        # A module with one clock is placed for the array's.
        clocks = {"clk_array": clocks["clk"]}
        netlist["netnames"]["clk_array"] = netlist["netnames"].pop("clk")
    for index, (name, bit) in enumerate(sorted(clocks.items())):
        cells[f"buffer_{name}"] = cell("BUFG", {"I": "x"}, {"O": bit}, BEL=BUFFER.format(index))
    for name, port in ports.items():
        clock = clocks["clk_array" if "clk" not in clocks or name in FAST else "clk"]
        for index, bit in enumerate(port["bits"]):
            if not isinstance(bit, int):
                continue
            free += 1
            data, output = ("0", bit) if port["direction"] == "input" else (bit, free)
            pins = {"C": clock, "CE": "1", "R": "0", "D": data}
            cells[f"border.{name}[{index}]"] = cell("FDRE", pins, {"Q": output})


def cell(kind: str, inputs: Mapping[str, Any], outputs: Mapping[str, Any], **attributes: str) -> Netlist:
    """Returns a cell of a netlist; each pin has one bit."""
    directions = dict.fromkeys(inputs, "input") | dict.fromkeys(outputs, "output")
    return {
        "type": kind, "hide_name": 0, "parameters": {}, "attributes": {"keep": ON} | attributes,
        "port_directions": directions, "connections": {pin: [bit] for pin, bit in {**inputs, **outputs}.items()},
    }  # fmt: skip


def fix_cascades(netlist: Netlist) -> int:
    """Gives the slices of each cascade places, one above the other; returns the number of cascades.

    The first two tokens take a column each, the others what is left of both and then of the third, from its top.
    """
    cascades: dict[tuple[int, int], list[tuple[int, str]]] = {}
    for name, item in netlist["cells"].items():
        if item["type"] == "DSP48E1" and re.search(r"gen_(lanes\[\d+\]|sum)\.slice\.", name):
            token, pair, lane = (
                int(found[1]) if (found := re.search(rf"gen_{part}\[(\d+)\]\.", name)) else 0
                for part in ("tokens", "pairs", "lanes")
            )
            lane = len(netlist["cells"]) if "gen_sum." in name else lane
            cascades.setdefault((token, pair), []).append((lane, name))
    if not cascades:
        return 0
    length = max(map(len, cascades.values()))
    pairs, high = 1 + max(pair for _, pair in cascades), SLICES // length
    a, b, c = ([(x, row) for row in range(high)] for x in COLUMNS)
    slots = [*a[:pairs], *b[:pairs], *a[pairs:], *b[pairs:], *reversed(c)]
    if len(cascades) > len(slots):
        raise click.ClickException(f"{len(cascades)} cascades of {length} slices do not fit: fewer tokens")
    for (x, row), (_, slices) in zip(slots, sorted(cascades.items()), strict=False):
        for index, (_, name) in enumerate(sorted(slices), row * length):
            bel = f"X{x}Y{BOTTOM - 5 * (index // 2)}/DSP48_X0Y{index % 2}.DSP48E1"
            netlist["cells"][name]["attributes"]["BEL"] = bel
    return len(cascades)


def figures(report: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns the longest path of each class of nextpnr's report: ns, MHz, ns of nets, begin and end."""
    found = {}
    for path in report["critical_paths"]:
        clocks = tuple(str(path[end]).removeprefix("posedge ") for end in ("from", "to"))
        if clocks not in CLASSES or not path["path"]:
            continue
        steps = path["path"]
        ns = sum(step["delay"] for step in steps)
        begin = next(step for step in steps if step["type"] == "clk-to-q")
        found[CLASSES[clocks]] = {
            "ns": round(ns, 3),
            "mhz": round(1000 / ns, 1),
            "nets_ns": round(sum(step["delay"] for step in steps if step["type"] == "routing"), 3),
            "begin": f"{begin['from']['cell']}.{begin['from']['port']}",
            "end": f"{steps[-1]['to']['cell']}.{steps[-1]['to']['port']}",
        }
    return found


def route(netlist: Path, nextpnr: Path, chipdb: Path, seed: int, options: Sequence[str]) -> dict[str, Any]:
    """Places and routes a netlist and returns nextpnr's report; the log and the result lie beside it."""
    base = netlist.with_suffix(f".{seed}")
    clocks = netlist.with_suffix(".xdc")
    clocks.write_text("".join(f"create_clock -period {ns} [get_nets {net}]\n" for net, ns in CLOCKS.items()))
    command = [
        nextpnr,
        "--chipdb",
        chipdb,
        "--device",
        DEVICE,
        "--json",
        netlist,
        "-o",
        f"xdc={clocks}",
        "--seed",
        seed,
    ]
    command += [
        "--report",
        f"{base}.report.json",
        "--write",
        f"{base}.routed.json",
        "--timing-allow-fail",
        *options,
    ]
    with Path(f"{base}.log").open("w") as log:
        if subprocess.run(list(map(str, command)), stdout=log, stderr=log, check=False).returncode:
            raise click.ClickException(f"nextpnr failed: read {base}.log")
    report: dict[str, Any] = json.loads(Path(f"{base}.report.json").read_text())
    return report


def table(record: Mapping[str, Any]) -> str:
    """Returns the Markdown tables of a record: the calibration, then the units with its error bar.

    Without a calibration it has no figure of a unit.
    """
    shares: list[float] = []
    lines = ["| design | Vivado, MHz | nextpnr, MHz | share |", "|---|--:|--:|--:|"]
    for name, run in record.items():
        if "vivado_ns" in run:
            mhz = [seed["fast"]["mhz"] for seed in run["seeds"].values()]
            shares.append(statistics.median_low(mhz) * run["vivado_ns"] / 1000)
            lines.append(f"| {name} | {1000 / run['vivado_ns']:.0f} | {ranged(mhz)} | {shares[-1]:.2f} |")
    if not shares:
        return "No design was calibrated, so no figure is shown."
    lines += ["", f"nextpnr reached {min(shares):.2f} to {max(shares):.2f} of Vivado's clock.", ""]
    lines += ["| unit | class | MHz | seeds | longest path |", "|---|---|--:|--:|---|"]
    for name, run in record.items():
        for kind in CLASSES.values():
            paths = [seed[kind] for seed in run["seeds"].values() if kind in seed]
            if paths and "vivado_ns" not in run:
                median = statistics.median_low(path["mhz"] for path in paths)
                path = next(path for path in paths if path["mhz"] == median)
                clock, where = (
                    ranged([path["mhz"] for path in paths]),
                    f"`{path['begin']}` to `{path['end']}`",
                )
                lines.append(f"| {name} | {kind} | {clock} | {len(paths)} | {where} |")
    return "\n".join(lines)


def ranged(mhz: Sequence[float]) -> str:
    """Returns the median over the seeds, and their range if there are several."""
    spread = f" ({min(mhz):.0f} to {max(mhz):.0f})" if len(mhz) > 1 else ""
    return f"{statistics.median_low(mhz):.0f}{spread}"


def picture(routed: Path, output: Path) -> None:
    """Draws where the cells of a routed netlist lie, by kind."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    kinds = {"SLICE_FFX": "#bbbbbb", "SLICE_LUTX": "#4477aa", "RAMB": "#228833", "DSP48E1": "#ee6677"}
    (netlist,) = json.loads(routed.read_text())["modules"].values()
    figure, axes = plt.subplots(figsize=(7, 6))
    for kind, colour in kinds.items():
        bels = [
            c["attributes"].get("NEXTPNR_BEL", "") for c in netlist["cells"].values() if kind in c["type"]
        ]
        where = [found for bel in bels if (found := re.match(r"X(\d+)Y(\d+)/", bel))]
        x, y = [int(found[1]) for found in where], [int(found[2]) for found in where]
        size = 3 if kind.startswith("SLICE") else 12
        axes.scatter(x, y, s=size, color=colour, label=f"{len(where)} {kind}", marker="s")
    axes.invert_yaxis()
    axes.set(xlabel="column of nextpnr's grid", ylabel="row")
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.1), ncols=4, markerscale=2, frameon=False)
    figure.savefig(output, dpi=120, bbox_inches="tight")


@click.command()
@click.argument("unit", required=False)
@click.option(
    "--config", type=click.Path(exists=True, path_type=Path), default=ROOT / "fpga/configs/pynq-z2.toml"
)
@click.option("--nextpnr", type=click.Path(exists=True, path_type=Path))
@click.option("--chipdb", type=click.Path(exists=True, path_type=Path))
@click.option("--seeds", default="1", help="Seeds, separated by commas.")
@click.option("--folder", type=click.Path(path_type=Path), default=ROOT / "build/place")
@click.option("--record", type=click.Path(path_type=Path), help="Add the runs to this file.")
@click.option("--name", help="The design's name in the record. Default: the unit's and the configuration's.")
@click.option("--vivado", type=float, help="The shortest period in ns that was published for this design.")
@click.option("--png", type=click.Path(path_type=Path), help="Draw the last placement.")
@click.option("--table", "show", is_flag=True, help="Print the tables of the record.")
@click.argument("options", nargs=-1)
def main(
    unit: str | None, config: Path, nextpnr: Path | None, chipdb: Path | None, seeds: str, folder: Path,
    record: Path | None, name: str | None, vivado: float | None, png: Path | None, show: bool, options: tuple[str, ...],
) -> None:  # fmt: skip
    """Place and route UNIT; OPTIONS go to nextpnr."""
    if show:
        click.echo(table(json.loads((record or RECORD).read_text())))
        return
    if unit is None or nextpnr is None or chipdb is None:
        raise click.UsageError(
            "name a unit, nextpnr and its chip database: docs/placed.md tells how to build them"
        )
    folder.mkdir(parents=True, exist_ok=True)
    netlist = build(unit, Hardware.load(config), folder)
    add_border(netlist)
    cascades = fix_cascades(netlist)
    netlist["attributes"]["top"] = ON
    file = folder / f"{re.sub(r'[^a-z0-9_]', '-', unit.lower())}.json"
    file.write_text(json.dumps({"modules": {"placed": netlist}}))
    versions = [
        subprocess.run([nextpnr, "--version"], capture_output=True, text=True, check=False).stderr.strip()
    ]
    versions.append(
        subprocess.run(["yosys", "-V"], capture_output=True, text=True, check=True).stdout.strip()
    )
    versions.append(f"chip database {hashlib.sha256(chipdb.read_bytes()).hexdigest()[:12]}")
    run: dict[str, Any] = {
        "versions": versions,
        "options": list(options),
        "fixed_cascades": cascades,
        "seeds": {},
    }
    run |= {"vivado_ns": vivado} if vivado else {}
    for seed in map(int, seeds.split(",")):
        report = route(file, nextpnr, chipdb, seed, options)
        run["used"] = {kind: count["used"] for kind, count in report["utilization"].items() if count["used"]}
        run["seeds"][str(seed)] = figures(report)
        click.echo(
            f"seed {seed}: "
            + ", ".join(f"{kind} {path['mhz']} MHz" for kind, path in figures(report).items())
        )
        if record:
            known = json.loads(record.read_text()) if record.exists() else {}
            known[name or f"{unit}, {config.stem}"] = run
            record.write_text(json.dumps(known, indent=1) + "\n")
    if png:
        picture(file.with_suffix(f".{seed}.routed.json"), png)


if __name__ == "__main__":
    main()
