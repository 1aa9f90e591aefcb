"""Tests the synthesis kit without AMD's tools: block design recorded, settings read, packaging of made-up files."""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
import subprocess
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import click
import pytest
from click.testing import CliRunner
from rtl import ROOT, run, tool
from test_build_report import build

import bitstream
from array_netlist import LANES
from quasar_rt.hardware import Hardware

SCRIPTS = ROOT / "fpga" / "scripts"
TINY = ROOT / "fpga" / "configs" / "tiny.toml"
HARDWARE = """
board = "{board}"
clock_mhz = 150.0
mode = "nibble"
frames = 2
axi_ports = 2

[array]
tokens = 7
pairs = 4
cascade = 2
clock_ratio = 2

[lanes]
requantize = 3
gelu = 3
norm = 2
exponential = 4
multipliers = "fabric"
exponential_multipliers = "fabric"

[buffers]
input = 512
residual = 384
norm = 384
query = 384
key = 960
value = 1576
score = 50
hidden = 1536
weight = 768
"""
CONFIG = dict(
    PORTS=2, FRAMES=2, TOKENS=7, PAIRS=4, CASCADE=2, LANES=3, NORM_LANES=2, EXP_LANES=4, KEY_BANKS=4, VALUE_BANKS=4,
    INPUT_WORDS=512, RESIDUAL_WORDS=384, NORM_WORDS=384, QUERY_WORDS=384, KEY_WORDS=960, VALUE_WORDS=1576,
    SCORE_WORDS=50, HIDDEN_WORDS=1536, COUNTERS=1, MOMENTS_DEPTH=32, MAXIMA_DEPTH=8,
    SCALES_DEPTH=32,
)  # fmt: skip


#: Two configurations that the kit has not shipped, one for each processing system.
DESIGNS = {
    "unseen on zcu102": HARDWARE.format(board="zcu102"),
    "unseen on pynq-z2": HARDWARE.format(board="pynq-z2"),
    **{path.stem: path.read_text() for path in sorted((ROOT / "fpga" / "configs").glob("*.toml"))},
}


class Design(NamedTuple):
    """Holds what the Tcl asked Vivado for."""

    cells: dict[str, str]  # name -> VLNV or module
    properties: dict[str, dict[str, str]]
    nets: list[tuple[str, str]]
    buses: list[tuple[str, str]]
    addresses: dict[str, int]
    lines: list[str]

    def to(self, pin):
        (source,) = [a for a, b in self.nets if b == pin]
        return source


def constants(path, scope):
    text = path.read_text().split(f"namespace {scope} {{")[1].split("} // namespace")[0]
    return {name: int(value, 0) for name, value in re.findall(r"constexpr unsigned (\w+) = (\w+?)u?;", text)}


def record(hardware, folder, missing=(), ila=0):
    """Runs the block design of a configuration on commands that only record, without the ``missing`` IPs."""
    loaded = Hardware.from_toml(hardware)
    for name, text in loaded.build_files.items():
        (folder / name).write_text(text)
    zynqmp = loaded.board.settings["dsp_kind"] == "DSP48E2"
    processor = f"processor {'zynq_ultra_ps_e' if zynqmp else 'processing_system7'} clock_mhz 150 ila {ila}"
    isa = ROOT / "fpga" / "include" / "isa.hpp"
    script = ROOT / "tests" / "fpga" / "record.tcl"
    out = run(tool("tclsh"), script, SCRIPTS, isa, folder / "design.txt", processor, *missing)
    recorded = Design({}, {}, [], [], {}, out.splitlines())
    for line in recorded.lines:
        kind, *rest = line.split()
        if kind == "cell":
            assert rest[0] not in recorded.cells
            recorded.cells[rest[0]] = rest[2]
        elif kind == "set":
            recorded.properties.setdefault(rest[0], {}).update(zip(rest[1::2], rest[2::2], strict=True))
        elif kind == "net":
            recorded.nets.append((rest[0], rest[1]))
        elif kind == "bus":
            recorded.buses.append((rest[0], rest[1]))
        elif kind == "address":
            assert rest[1] == "64K"
            recorded.addresses[rest[2]] = int(rest[0], 16)
    return recorded


@pytest.fixture(scope="module", params=["zcu102", "pynq-z2"])
def design(request, tmp_path_factory):
    return record(DESIGNS[f"unseen on {request.param}"], tmp_path_factory.mktemp("kit"))


UTILITIES = {"xlconstant": "ilconstant", "xlconcat": "ilconcat", "util_reduced_logic": "ilreduced_logic"}


def test_inline_hdl_replaces_utility_ips_that_vivado_lacks(design, tmp_path):
    names = tuple(f"xilinx.com:ip:{name}" for name in UTILITIES)
    board = "zcu102" if "ps/pl_clk0" in {source for source, _ in design.nets} else "pynq-z2"
    newer = record(DESIGNS[f"unseen on {board}"], tmp_path, names)
    replaced = {cell: vlnv for cell, vlnv in design.cells.items() if vlnv.rpartition(":")[0] in names}
    assert {vlnv.split(":")[2] for vlnv in replaced.values()} == set(UTILITIES)
    for cell, vlnv in replaced.items():
        assert newer.cells[cell] == f"xilinx.com:inline_hdl:{UTILITIES[vlnv.split(':')[2]]}:1.0"
    others = design.cells.keys() - replaced.keys()
    assert [newer.cells[cell] for cell in others] == [design.cells[cell] for cell in others]
    assert (newer.nets, newer.buses, newer.properties) == (design.nets, design.buses, design.properties)


def kernel_arguments():
    """Returns the types of fpga/include/kernels.hpp, by kernel and argument."""
    text = re.sub(r"//.*", "", (ROOT / "fpga" / "include" / "kernels.hpp").read_text())
    functions = re.findall(r"^void (\w+)\((.*?)\);", text, re.MULTILINE | re.DOTALL)
    return {
        name: {
            argument.split()[-1].lstrip("*&"): " ".join(argument.split()[:-1])
            for argument in arguments.split(",")
        }
        for name, arguments in functions
    }


def test_all_tcl_is_complete(tmp_path):
    files = [*SCRIPTS.glob("*.tcl"), *(ROOT / "fpga" / "boards").glob("*.tcl")]
    assert len(files) >= 10
    script = tmp_path / "check.tcl"
    script.write_text("foreach f $argv {set c [open $f]; if {![info complete [read $c]]} {error $f}}")
    run(tool("tclsh"), script, *files)


def test_every_kernel_is_there_with_clock_and_reset(design):
    for cell in ("array_cell", "lanes"):
        assert design.cells[cell] == f"{cell.removesuffix('_cell')}_cell"
        assert design.to(f"{cell}/clk") == design.to("fetch/ap_clk")
        assert design.to(f"{cell}/clk_array") == "clocks/clk_out2"
        assert design.to(f"{cell}/resetn") == "kernel_reset/peripheral_aresetn"
    for kernel in bitstream.KERNELS:
        assert design.cells[kernel].split(":")[2] == kernel
        assert design.to(f"{kernel}/ap_clk") in ("ps/pl_clk0", "ps/FCLK_CLK0", "clocks/clk_out1")
        assert design.to(f"{kernel}/ap_rst_n") == "kernel_reset/peripheral_aresetn"
        if kernel in ("plan", "scores", "drain", "norm", "softmax"):  # the host starts the others
            assert design.to(f"{kernel}/ap_start") == "start/dout"


#: Keywords of VHDL (IEEE 1076-2008).
KEYWORDS = (
    " abs access after alias all and architecture array assert assume attribute begin block body buffer bus case "
    "component configuration constant context cover default disconnect downto else elsif end entity exit fairness "
    "file for force function generate generic group guarded if impure in inertial inout is label library linkage "
    "literal loop map mod nand new next nor not null of on open or others out package parameter port postponed "
    "procedure process property protected pure range record register reject release rem report restrict return "
    "rol ror select sequence severity shared signal sla sll sra srl strong subtype then to transport type "
    "unaffected units until use variable vmode vprop vunit wait when while with xnor xor "
)


def test_no_cell_or_module_reference_is_named_by_a_keyword(design):
    assert not [name for pair in design.cells.items() for name in pair if f" {name.lower()} " in KEYWORDS]


#: Buses of the counters that are its own; all others watch.
OWN = re.compile(r"counters/(s_axi|\w+_retired)$")


def watches(bus):
    """Returns whether a connection adds a watcher to a bus."""
    return bus[1].startswith("ila_") or (bus[1].startswith("counters/") and not OWN.match(bus[1]))


def test_no_pin_or_interface_is_driven_or_used_twice(design):
    sinks = Counter(to for _, to in design.nets)
    assert [pin for pin, count in sinks.items() if count > 1] == []
    buses = [pair for pair in design.buses if not watches(pair)]
    ends = Counter(end for pair in buses for end in pair)
    assert [end for end, count in ends.items() if count > 1] == []
    for pin in {pin for pair in [*design.nets, *design.buses] for pin in pair}:
        assert pin.split("/")[0] in design.cells, pin


def test_queues_join_the_units_that_are_declared_and_are_deep_enough(design):
    depths = constants(ROOT / "fpga" / "include" / "isa.hpp", "depth")
    source = (ROOT / "rust" / "hardware" / "src" / "design" / "queues.rs").read_text()
    declared = {q: ends for q, *ends in re.findall(r'queue\(\s*"(\w+)",\s*"(\w+)",\s*"(\w+)"', source)}
    assert declared.keys() == depths.keys()
    fifos = {name for name, source in design.cells.items() if ":axis_data_fifo:" in source}
    assert fifos == {f"{queue}_queue" for queue in declared}
    buses = dict(pair for pair in design.buses if not watches(pair))
    for queue, (writer, reader) in declared.items():
        depth = depths[queue] or CONFIG[f"{queue.upper()}_DEPTH"]
        assert int(design.properties[f"{queue}_queue"]["CONFIG.FIFO_DEPTH"]) == max(16, depth)
        (source,) = [a for a, b in design.buses if b == f"{queue}_queue/S_AXIS"]
        assert source.split("/")[0].removesuffix("_cell") == writer
        assert buses[f"{queue}_queue/M_AXIS"].split("/")[0].removesuffix("_cell") == reader
        assert design.to(f"{queue}_queue/s_axis_aresetn") == "kernel_reset/peripheral_aresetn"


def test_every_argument_of_a_kernel_is_connected(design):
    pins = {pin for pair in [*design.nets, *design.buses] for pin in pair}
    arguments = kernel_arguments()
    assert arguments.keys() == set(bitstream.KERNELS)
    for kernel, types in arguments.items():
        for name, kind in types.items():
            if kind.startswith("Bus<"):
                port = re.search(
                    rf"mode = m_axi port = {name} bundle = (\w+)",
                    (ROOT / f"fpga/src/{kernel}.cpp").read_text(),
                )
                used = not re.fullmatch(r"memory[23]", name)  # of load, with two ports
                assert port is not None
                assert (f"{kernel}/m_axi_{port[1]}" in pins) == used
            elif kind.startswith(("Read::", "Write::")):
                signals = ("address0", "ce0", *(("q0",) if kind.startswith("Read") else ("we0", "d0")))
                assert all(f"{kernel}/{name}_0_{signal}" in pins for signal in signals), (kernel, name)
            elif kind.endswith("&"):
                assert f"{kernel}/{name}" in pins, (kernel, name)


@pytest.mark.parametrize("source", sorted((ROOT / "fpga" / "src").glob("*.cpp")), ids=lambda path: path.stem)
def test_sources_give_their_arguments_the_interfaces_that_are_connected(source):
    text = re.sub(r" *= *", "=", source.read_text())
    pragmas = [
        set(line.split()) - {"#pragma", "HLS"} for line in text.splitlines() if line.startswith("#pragma HLS")
    ]
    for name, kind in kernel_arguments()[source.stem].items():
        if kind.startswith(("Read::", "Write::")):
            # bank.v answers in the next cycle, a word whole.
            assert any(
                {f"port={name}", "storage_type=ram_1p", "latency=1"} <= pragma for pragma in pragmas
            ), name
            assert {"ARRAY_PARTITION", f"variable={name}", "complete", "dim=1"} in pragmas, name
            assert {"AGGREGATE", f"variable={name}", "compact=bit"} in pragmas, name
        elif kind.endswith("&"):
            mine = [pragma for pragma in pragmas if f"port={name}" in pragma]
            assert any({"axis", "mode=axis"} & pragma for pragma in mine), name
            # UG1399 forbids it there: items are packed by hand (packing.hpp).
            assert not any({"AGGREGATE", f"variable={name}"} <= pragma for pragma in pragmas), name


def test_memories_have_the_banks_that_the_kernels_address(design):
    banks = Counter(re.sub(r"_\d+$", "", name) for name, source in design.cells.items() if source == "bank")
    # 3 groups of 3 tokens, 2 of 4 for the exponentials; two frames.
    assert banks == dict(residual=6, norm_residual=6, score=4)
    assert design.properties["residual_5"] == {
        "CONFIG.WIDTH": "48", "CONFIG.WORDS": "384", "CONFIG.ADDRESS_BITS": "9", "CONFIG.STYLE": "block"
    }  # fmt: skip
    assert design.properties["score_0"]["CONFIG.STYLE"] == "distributed"
    written = Counter(
        re.sub(r"_\d+_we0$", "", pin)
        for _, pin in design.nets
        if pin.startswith("array_cell/") and "_we0" in pin
    )
    # Of C = 2 columns a word, 4 groups of 2 tokens for the norm.
    expected = dict(input=6, normed=16, query=6, hidden=6, probability=8, key=4, value=4)
    assert written == {f"array_cell/{name}": count for name, count in expected.items()}


def test_a_pin_without_a_number_is_that_of_a_single_bank(tmp_path):
    """A port that lost its partition would be wired to all banks."""
    script = tmp_path / "pins.tcl"
    script.write_text(
        f"source {SCRIPTS}/design.tcl\n"
        "proc get_bd_pins {quiet name} { if {[lsearch $::pins $name] >= 0} { return $name } }\n"
        "foreach {::pins banks} {norm/a_ce0 1 norm/a_0_ce0 1 {norm/a_0_ce0 norm/a_1_ce0} 2 norm/a_ce0 2} {\n"
        "  for {set i 0} {$i < $banks} {incr i} { catch { memory_pin norm/a $i $banks ce0 } found; puts $found }\n"
        "}\n"
    )
    *pins, lost, also_lost = run(tool("tclsh"), script).splitlines()
    assert pins == ["norm/a_ce0", "norm/a_0_ce0", "norm/a_0_ce0", "norm/a_1_ce0"]
    for bank, error in enumerate((lost, also_lost)):
        assert error.startswith(
            f"norm/a has no signal ce0 of bank {bank}: is its interface ap_memory, partitioned"
        )


def test_counters_watch_each_unit_s_queues_and_take_what_the_kernels_write(design):
    text = (ROOT / "rust/hardware/src/design/queues.rs").read_text()
    ends = {q: pair for q, *pair in re.findall(r'queue\(\s*"(\w+)",\s*"(\w+)",\s*"(\w+)"', text)}
    sources = {to: source for source, to in design.buses if to.startswith("counters/")}
    assert design.cells["counters"] == "counters_cell"
    # The drain and its lanes are one unit, whose commands end in the lanes.
    retiring = {f"counters/{kernel}_retired" for kernel in bitstream.KERNELS if kernel != "drain"}
    assert {to for to in sources if to.endswith("_retired")} == retiring
    for to in retiring:
        assert sources[to] == f"{to.removeprefix('counters/').removesuffix('_retired')}/retired"
    written = {queue for queue, pair in ends.items() if pair != ["drain", "lanes"]}
    assert {to for to in sources if to.endswith("_written")} == {f"counters/{q}_written" for q in written}
    for queue in written:
        assert sources[f"counters/{queue}_written"].replace("_cell", "") == f"{ends[queue][0]}/{queue}"
    read = {to.removesuffix("_read").removeprefix("counters/") for to in sources if to.endswith("_read")}
    inputs = {"sums", "scores", "moments", "maxima", "logits"}
    assert read == {"passes", *inputs, *(queue for queue in ends if queue.endswith("_commands"))}
    for queue in read:
        assert sources[f"counters/{queue}_read"] == f"{queue}_queue/M_AXIS"
    assert sources["counters/fetch_memory"] == "fetch/m_axi_commands"
    assert sources["counters/load_memory"] == "load/m_axi_memory0"
    assert design.to("counters/kernels_resetn") == "kernel_reset/peripheral_aresetn"
    assert design.to("counters/resetn") == "main_reset/peripheral_aresetn"
    assert design.to("counters/array_retired") == "array_cell/retired"
    assert design.to("counters/lanes_retired") == "lanes/retired"
    assert design.to("counters/array_starved") == "array_cell/starved"


def test_the_counters_cell_has_what_is_connected(design, tmp_path):
    board = "zcu102" if "ps/pl_clk0" in {source for source, _ in design.nets} else "pynq-z2"
    cell = Hardware.from_toml(DESIGNS[f"unseen on {board}"]).build_files["counters_cell.v"]
    names = re.findall(r"^ {4}(?:in|out)put +wire (?:\[\d+:0\] )?(\w+)", cell, re.MULTILINE)
    buses = set(re.findall(r":1\.0 (\w+) [A-Z]+\"", cell)) - {"clk"}
    buses |= {name.removesuffix("_tvalid") for name in names if name.endswith("_retired_tvalid")}
    plain = {name for name in names if not any(name.startswith(f"{bus}_") for bus in buses)}
    connected = {to for _, to in [*design.nets, *design.buses] if to.startswith("counters/")}
    assert connected == {f"counters/{name}" for name in buses | plain}
    watched = {to for _, to in design.buses if watches(("", to)) and to.startswith("counters/")}
    assert cell.count('X_INTERFACE_MODE = "monitor"') == len(watched)


def cell_ports(text):
    """Returns the ports of a generated Verilog module."""
    return set(re.findall(r"^ {4}(?:in|out)put +wire +(?:\[\d+:0\] )?(\w+)", text, re.MULTILINE))


@pytest.mark.parametrize("name", DESIGNS)
def test_the_lanes_cell_has_what_is_connected(name, tmp_path):
    design = record(DESIGNS[name], tmp_path)
    ports = cell_ports((tmp_path / "lanes_cell.v").read_text())
    queues = {port.removesuffix("_tvalid") for port in ports if port.endswith("_tvalid")}
    signals = {f"{queue}_{signal}" for queue in queues for signal in ("tvalid", "tready", "tdata")}
    assert signals <= ports
    plain = {f"lanes/{port}" for port in ports - signals}
    if "counters" not in design.cells:
        plain.remove("lanes/retired")
    pins = {pin for pair in design.nets for pin in pair if pin.startswith("lanes/")}
    assert pins == plain
    buses = [pair for pair in design.buses if not watches(pair)]
    ends = [end for pair in buses for end in pair if end.startswith("lanes/")]
    assert sorted(ends) == sorted(f"lanes/{queue}" for queue in queues)


@pytest.mark.parametrize("name", DESIGNS)
def test_the_lanes_cell_gives_the_lanes_ports_their_widths(name, tmp_path):
    for file, text in Hardware.from_toml(DESIGNS[name]).build_files.items():
        (tmp_path / file).write_text(text)
    sources = " ".join(str(ROOT / "fpga" / "rtl" / name) for name in LANES)
    done = run(
        tool("yosys"), "-p",
        f"read_verilog -lib +/xilinx/cells_sim.v +/xilinx/cells_xtra.v; read_verilog -sv {sources} "
        f"{tmp_path}/lanes_cell.v; hierarchy -check -top lanes_cell; check -assert",
    )  # fmt: skip
    assert "Resizing cell port" not in done


def test_without_counters_the_kernels_still_write(tmp_path):
    text = DESIGNS["unseen on zcu102"].replace("frames = 2", "frames = 2\ncounters = false")
    without = record(text, tmp_path)
    assert "counters" not in without.cells
    taken = {to for source, to in without.nets if source == "taken/dout"}
    assert taken == {f"{kernel}/retired_TREADY" for kernel in bitstream.KERNELS if kernel != "drain"}
    assert without.properties["registers"]["CONFIG.NUM_MI"] == "4"
    assert len(without.addresses) == 4


def test_an_ila_watches_commands_sums_credits_and_memory(tmp_path):
    plain_folder, watched_folder = tmp_path / "plain", tmp_path / "watched"
    plain_folder.mkdir()
    watched_folder.mkdir()
    plain = record(DESIGNS["zcu102"], plain_folder)
    watched = record(DESIGNS["zcu102"], watched_folder, ila=1)
    assert watched.cells.keys() - plain.cells.keys() == {"ila_streams", "ila_memory"}
    added = [bus for bus in watched.buses if bus not in plain.buses]
    assert [bus for bus in watched.buses if bus not in added] == plain.buses
    documented = " ".join((ROOT / "docs" / "building.md").read_text().split())
    for name, suffix in (("ila_streams", "AXIS"), ("ila_memory", "AXI")):
        slots = [source for source, to in added if to.startswith(f"{name}/")]
        ends = [to for _, to in added if to.startswith(f"{name}/")]
        assert ends == [f"{name}/SLOT_{i}_{suffix}" for i in range(len(slots))]
        assert watched.properties[name]["CONFIG.C_NUM_MONITOR_SLOTS"] == str(len(slots))
        assert len(slots) <= 16  # the most that the IP has
        assert watched.to(f"{name}/clk") == watched.to("fetch/ap_clk")
        assert f"- `{name}`: " + ", ".join(f"`{source}`" for source in slots) in documented
    assert watched.lines[-2:] == ["validate", "save"]


def block_rams(words, bits):
    """Blocks of 18 kbit in the best of their shapes (AMD UG573, UG473)."""
    shapes = {512: 36, 1024: 18, 2048: 9, 4096: 4, 8192: 2, 16384: 1}
    return min(-(-words // deep) * -(-bits // wide) for deep, wide in shapes.items())


def primitives(style, words, bits, zynqmp):
    """Returns LUTs, blocks of 18 kbit and UltraRAMs of a RAM with a port to write and one to read."""
    if style == "ultra":
        return 0, 0, -(-bits // 72) * -(-words // 4096)
    if style == "block":
        return 0, block_rams(words, bits), 0
    narrow, luts = (7, 8) if zynqmp else (3, 4)
    if words <= 32:
        return -(-bits // (2 * narrow)) * luts, 0, 0
    deep = -(-words // 64)
    return deep * -(-bits // narrow) * luts + bits * (-(-(deep - 1) // 3)), 0, 0


@pytest.mark.parametrize("name", DESIGNS)
def test_what_the_tcl_builds_is_what_the_model_counts(name, tmp_path):
    recorded, hardware = record(DESIGNS[name], tmp_path), Hardware.from_toml(DESIGNS[name])
    if not name.startswith("unseen"):
        hardware.check_board()
    zynqmp = hardware.board.settings["dsp_kind"] == "DSP48E2"
    counted = {part.name: (part.lut, part.bram18, part.uram) for part in hardware.parts}

    built: dict[str, list[tuple[int, int, int]]] = {}
    for cell, source in recorded.cells.items():
        if source == "bank":
            shape = {key.removeprefix("CONFIG."): value for key, value in recorded.properties[cell].items()}
            one = primitives(shape["STYLE"], int(shape["WORDS"]), int(shape["WIDTH"]), zynqmp)
            built.setdefault(re.sub(r"_\d+$", "", cell), []).append(one)
    # The array's own memories: banks are the ports that the Tcl connects, sizes the cell's parameters.
    module = (tmp_path / "array_cell.v").read_text()
    value = {key: int(number) for key, number in re.findall(r"\.(\w+)\((\d+)\)", module)}
    cascade, groups = value["C"], -(-value["T"] // value["L"])
    for memory, key, bits in (
        ("input", "INPUT", 8 * value["L"]),
        ("query", "QUERY", 8 * value["L"]),
        ("hidden", "HIDDEN", 8 * value["L"]),
        ("normed", "NORM", 8 * value["M"]),
        ("probability", "SCORE", 8 * value["E"]),
        ("key", "KEY", 8 * cascade),
        ("value", "VALUE", 8 * cascade),
    ):
        banks = len([pin for _, pin in recorded.nets if re.fullmatch(rf"array_cell/{memory}_\d+_we0", pin)])
        style = ("distributed", "block", "ultra")[value[f"{key}_RAM"]]
        # A 9-bit byte of a block holds 8 bits where each has an enable.
        wide = (
            bits * 9 // 8 if memory in ("key", "value") and cascade > 1 and style != "distributed" else bits
        )
        built[memory] = [primitives(style, value[f"{key}_WORDS"], wide, zynqmp)] * banks
    weights = 8 * value["P"] * cascade
    built["weights"] = [primitives("block", 2 * value["WEIGHT_WORDS"], weights, zynqmp)]
    built["sums of tokens"] = [
        primitives("distributed", value["FIFO_DEPTH"], 2 * value["S"] + 1, zynqmp)
    ] * value["T"]
    built["partial sums"] = [primitives("distributed", 2 * value["P"] * groups, 27 * value["L"], zynqmp)]
    for memory, rams in built.items():
        assert tuple(map(sum, zip(*rams, strict=True))) == counted[memory], memory

    assert ("counters" in recorded.cells) == ("counters" in counted)
    assert {cell for cell in recorded.cells if cell in ("clock_status", "watchdog")} == (
        {"clock_status", "watchdog"} if hardware.settings["array"]["clock_ratio"] == 2 else {"clock_status"}
    )
    assert counted["clocks"][0] == (34 if "watchdog" in recorded.cells else 7)
    blocks_of_registers = int(recorded.properties["registers"]["CONFIG.NUM_MI"])
    assert blocks_of_registers == len(recorded.addresses) == (5 if "counters" in counted else 4)

    width = {
        queue: bits for queue, bits in queue_bits(hardware).items() if f"{queue}_queue" in recorded.cells
    }
    fifos = {name for name, source in recorded.cells.items() if ":axis_data_fifo:" in source}
    assert fifos == {f"{queue}_queue" for queue in width}
    blocks = 0
    for queue, bits in width.items():
        shape = recorded.properties[f"{queue}_queue"]
        style, depth = shape["CONFIG.FIFO_MEMORY_TYPE"], int(shape["CONFIG.FIFO_DEPTH"])
        blocks += primitives(style, depth, -(-bits // 8) * 8, zynqmp)[1]
    assert blocks == counted["queues"][1]


def queue_bits(hardware):
    """Bits of an item of each queue, as fpga/include/kernels.hpp declares its type."""
    lanes, array = hardware.settings["lanes"], hardware.settings["array"]
    beat = 128 * hardware.settings["axi_ports"]
    commands = ("load", "array", "drain", "norm", "softmax", "score")
    credit_queues = ("load_to_array", "array_to_load", "drain_to_array", "norm_to_array", "softmax_to_array")
    return {
        **{f"{unit}_commands": 128 for unit in commands},
        **dict.fromkeys(("weights", "rows", "gains"), beat),
        **dict.fromkeys(credit_queues, 1),
        "checks": 1 + 32,
        "passes": 128,
        "demands": 13 + 16,
        "sums": 27 * lanes["requantize"],
        "scores": 24 * array["tokens"],
        "moments": (27 + 41) * lanes["requantize"],
        "maxima": 24 * lanes["exponential"],
        "scales": 15 + 5 + 15,
        "logits": 32,
        "lane_jobs": 93,
        "lane_rows": 203,
        "attention_tiles": 11,
        "lane_beats": beat,
    }


def test_the_address_map_is_that_of_the_registers(design):
    registers = constants(ROOT / "fpga" / "include" / "isa.hpp", "reg")
    base = min(design.addresses.values())
    assert base == (0x4000_0000 if design.to("clocks/clk_in1") == "ps/FCLK_CLK0" else 0xA000_0000)
    blocks = {name.split("/")[0]: address - base for name, address in design.addresses.items()}
    blocks["reset"] = blocks.pop("reset_register")
    assert set(blocks) == {name.split("_")[0] for name in registers}
    for name, offset in registers.items():
        assert blocks[name.split("_")[0]] == offset & ~0xFFFF
    assert registers["reset"] & 0xFFFF == 0  # GPIO_DATA


def test_the_kernels_are_reset_only_when_all_memory_ports_are_idle(design):
    assert design.to("kernel_reset/aux_reset_in") == "all_idle/Res"
    gates = {name for name, source in design.cells.items() if ":dfx_axi_shutdown_manager:" in source}
    assert len(gates) == 4  # fetch, store, two ports of load
    widths = {design.properties[gate]["CONFIG.DP_AXI_DATA_WIDTH"] for gate in gates}
    assert widths == {str(8 * constants(ROOT / "fpga" / "include" / "isa.hpp", "isa")["PORT_BYTES"])}
    # The widest that the processing system's ports can have.
    ports = {value for key, value in design.properties["ps"].items() if key.endswith("_DATA_WIDTH")}
    assert ports == {"128" if "zynq_ultra_ps_e" in design.cells["ps"] else "64"}
    assert {design.to(f"ports_idle/In{i}") for i in range(4)} == {f"{gate}/in_shutdown" for gate in gates}
    assert {design.to(f"{gate}/request_shutdown") for gate in gates} == {"reset_register/gpio_io_o"}
    assert {design.to(f"interrupts/In{i}") for i in range(2)} == {"store/interrupt", "fetch/interrupt"}
    assert design.to("interrupt/Op1") == "interrupts/dout"
    assert {"ps/pl_ps_irq0", "ps/IRQ_F2P"} & {to for source, to in design.nets if source == "interrupt/Res"}
    assert design.lines[-2:] == ["validate", "save"]


@pytest.fixture
def hardware(tmp_path):
    path = tmp_path / "hardware.toml"
    path.write_text(HARDWARE.format(board="zcu102"))
    return path


def bit_file(part, data=b"\xff" * 64 + b"\xaa\x99\x55\x66" + bytes(60)):
    out = struct.pack(">H", 9) + bytes.fromhex("0ff00ff00ff00ff000") + struct.pack(">H", 1)
    for key, text in (
        (b"a", "accelerator_wrapper;Version=2023.2"),
        (b"b", part),
        (b"c", "2026/01/01"),
        (b"d", "00:00:00"),
    ):
        out += key + struct.pack(">H", len(text) + 1) + text.encode() + b"\0"
    return out + b"e" + struct.pack(">I", len(data)) + data


def handoff(*instances):
    modules = "".join(f'<MODULE INSTANCE="{name}"/>' for name in instances)
    pins = '<PORT NAME="pl_clk0" CLKFREQUENCY="149985016"/><PORT NAME="FCLK_CLK0" CLKFREQUENCY="90909092"/>'
    return f"<EDKSYSTEM><MODULES>{modules}<PORTS>{pins}</PORTS></MODULES></EDKSYSTEM>"


@pytest.mark.parametrize(
    ("family", "base", "interrupt"), [("zynqmp", 0xA000_0000, 89), ("zynq7000", 0x4000_0000, 29)]
)
def test_device_tree_overlays_name_the_registers_and_compile(family, base, interrupt, tmp_path):
    source = ROOT / "fpga" / "boards" / f"quasar-{family}.dtso"
    text = source.read_text()
    node = text[text.index(f"quasar@{base:x} {{") :]
    assert re.search(rf"reg = <(0x0 )?{base:#x} (0x0 )?{0x50000:#x}>;", node)
    assert f"interrupts = <0 {interrupt} 4>;" in node
    # The clock is set before the bitstream is loaded, so by another overlay than the one that names the bitstream.
    assert "clock" not in re.sub(r"//.*", "", text)
    for each in (source, source.with_name(f"quasar-clock-{family}.dtso")):
        run(tool("dtc"), "-@", "-q", "-I", "dts", "-O", "dtb", "-o", tmp_path / "overlay.dtbo", each)


ALL = (*bitstream.KERNELS, "array_cell", "lanes", "reset_register", "counters", "ps")


def test_packaging_writes_what_the_driver_compares(hardware, tmp_path):
    (tmp_path / "zcu102.bit").write_bytes(bit_file("xczu9eg-ffvb1156-2-e"))
    (tmp_path / "zcu102.hwh").write_text(handoff(*ALL))
    out = bitstream.package(bitstream.read_target("zcu102", hardware), tmp_path)
    said = json.loads(out.read_text())
    assert said["sha256"]["zcu102.bit"] == hashlib.sha256((tmp_path / "zcu102.bit").read_bytes()).hexdigest()
    toml = Hardware.load(hardware).to_toml()
    assert said["configuration_hash"] == hashlib.sha256(toml.encode()).hexdigest()[:16]
    assert Hardware.from_toml(said["hardware"]) == Hardware.load(hardware)
    declared = (ROOT / "rust/accelerator/src/isa.rs").read_text()
    assert f"pub const ABI: u32 = {said['abi']};" in declared
    assert said["clock_hz"] == 149985016
    binary = (tmp_path / "zcu102.bin").read_bytes()
    assert binary[64:68] == b"\x66\x55\x99\xaa"
    assert len(binary) == 128


@pytest.mark.parametrize(
    ("board", "part", "root"),
    [("kv260", "xck26-sfvc784-2lv-c", "a0000000"), ("pynq-z2", "xc7z020clg400-1", "40000000")],
)
def test_packaging_leaves_a_folder_for_dfx_mgr(board, part, root, tmp_path, capsys):
    target = bitstream.read_target(board, None)
    assert bitstream.same_part(part, target.part)
    (tmp_path / f"{board}.bit").write_bytes(bit_file(part))
    counters = {"counters"} if not target.hardware.settings["counters"] else set()
    (tmp_path / f"{board}.hwh").write_text(handoff(*(set(ALL) - counters)))
    stale = tmp_path / "lib" / "firmware" / "xilinx" / f"quasar-{board}" / "stale.dtbo"
    stale.parent.mkdir(parents=True)
    stale.write_text("of an earlier build")
    tool("dtc")
    bitstream.package(target, tmp_path)
    # dfx-mgr wants one name for the folder, the bitstream and the overlay.
    name, folder = f"quasar-{board}", stale.parent
    files = {path.name for path in folder.iterdir()}
    assert files == {f"{name}.bit.bin", f"{name}.dtbo", f"{name}.dtso", "shell.json"}
    assert (folder / f"{name}.bit.bin").read_bytes() == (tmp_path / f"{board}.bin").read_bytes()
    assert json.loads((folder / "shell.json").read_text()) == {"shell_type": "XRT_FLAT", "num_slots": "1"}
    shown = run(tool("dtc"), "-q", "-I", "dtb", "-O", "dts", folder / f"{name}.dtbo")
    assert f'firmware-name = "{name}.bit.bin";' in shown
    assert f"quasar@{root} {{" in shown
    # dfx-mgr loads the bitstream before it makes the overlay's nodes.
    assert "quasar-clock" not in shown
    shown = run(tool("dtc"), "-q", "-I", "dtb", "-O", "dts", tmp_path / "quasar-clock.dtbo")
    (rate,) = re.findall(r"assigned-clock-rates = <(0x\w+)>;", shown)
    hertz = 149985016 if board == "kv260" else 90909092
    assert hertz < int(rate, 16) < 1.002 * hertz
    assert ("clock_mhz is 100, but the processing system makes 90.9091 MHz" in capsys.readouterr().out) == (
        board == "pynq-z2"
    )


@pytest.mark.parametrize(
    ("bit", "hwh", "complaint"),
    [
        (None, handoff(*ALL), "missing or empty"),
        (bit_file("xczu9eg-ffvb1156-2-e"), None, "missing or empty"),
        (b"hello", handoff(*ALL), "no .bit file"),
        (bit_file("xczu9eg-ffvb1156-2-e")[:-1], handoff(*ALL), "no .bit file"),
        (bit_file("xczu9eg-ffvb1156-2-e", bytes(64)), handoff(*ALL), "no configuration data"),
        (bit_file("7z020clg400"), handoff(*ALL), "is for the part 7z020clg400"),
        (bit_file("xczu9eg-ffvb1156-2-e"), handoff(*ALL[1:]), "it has no fetch"),
        (bit_file("xczu9eg-ffvb1156-2-e"), "<EDK", "no hardware handoff"),
        (
            bit_file("xczu9eg-ffvb1156-2-e"),
            handoff(*ALL).replace("pl_clk0", "pl_clk1"),
            "no CLKFREQUENCY of pl_clk0",
        ),
    ],
)
def test_packaging_refuses_what_is_wrong(bit, hwh, complaint, hardware, tmp_path):
    if bit is not None:
        (tmp_path / "zcu102.bit").write_bytes(bit)
    if hwh is not None:
        (tmp_path / "zcu102.hwh").write_text(hwh)
    with pytest.raises(click.ClickException, match=re.escape(complaint)):
        bitstream.package(bitstream.read_target("zcu102", hardware), tmp_path)
    assert not (tmp_path / "zcu102.json").exists()


def test_missing_tools_boards_and_configurations_are_named(hardware, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        click.ClickException, match=r"2023\.2 or later.*v\+\+ .*vitis-run .*vivado .*not on PATH"
    ):
        bitstream.check_tools()
    (tmp_path / "v++").write_text("#!/bin/sh\necho 'v++ v2022.1 (64-bit)'\n")
    (tmp_path / "vitis-run").write_text("#!/bin/sh\necho 'vitis-run v2023.2 (64-bit)'\n")
    (tmp_path / "vivado").write_text("#!/bin/sh\necho 'Vivado v2024.1 (64-bit)'\n")
    for name in ("v++", "vitis-run", "vivado"):
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(click.ClickException, match=r"settings64\.sh\): v\+\+ is of 2022\.1$"):
        bitstream.check_tools()
    with pytest.raises(click.ClickException, match=r"fpga/boards/de10\.tcl"):
        bitstream.read_target("de10", hardware)
    with pytest.raises(click.ClickException, match="is for the board zcu102, not kv260"):
        bitstream.read_target("kv260", hardware)
    with pytest.raises(click.ClickException, match=r"HARDWARE=FILE"):
        bitstream.read_target("kv260", tmp_path / "none.toml")


def test_prepared_settings_name_this_configuration(hardware, tmp_path, monkeypatch, capsys):
    target = bitstream.read_target("zcu102", hardware)
    monkeypatch.setenv("PATH", str(tmp_path))  # no tool, not even cargo
    bitstream.prepare(target, tmp_path / "work")
    shown = [line.removeprefix("wrote ") for line in capsys.readouterr().out.splitlines()]
    assert sorted(shown) == sorted(str(path) for path in (tmp_path / "work").iterdir())
    # Without dtc the command that compiles the overlay is shown.
    folder = bitstream.write_firmware(target, tmp_path, b"", 150_000_000)
    assert "dtc -@ -q -I dts -O dtb -o quasar-zcu102.dtbo quasar-zcu102.dtso" in capsys.readouterr().out
    assert not list(folder.glob("*.dtbo"))
    header = constants(tmp_path / "work" / "config.hpp", "config")
    assert f"{header['HASH_HIGH']:08x}{header['HASH_LOW']:08x}" == target.configuration_hash
    assert {name: header[name] for name in CONFIG} == CONFIG
    cfg = (tmp_path / "work" / "plan.cfg").read_text()
    assert cfg.startswith("part=xczu9eg-ffvb1156-2-e\n\n[hls]\nclock=6.667\n")
    for kernel in bitstream.KERNELS:
        cfg = (tmp_path / "work" / f"{kernel}.cfg").read_text()
        (source,) = re.findall(r"^syn\.file=(.*)$", cfg, re.MULTILINE)
        assert Path(source) == ROOT / "fpga" / "src" / f"{kernel}.cpp"
        assert f"syn.top={kernel}\n" in cfg
        assert f"package.ip.name={kernel}\n" in cfg
    settings = (tmp_path / "work" / "settings.tcl").read_text()
    assert "set board [dict create processor zynq_ultra_ps_e clock_mhz 150 ila 0]" in settings
    bitstream.prepare(bitstream.read_target("zcu102", hardware, ila=True), tmp_path / "watched")
    assert " clock_mhz 150 ila 1]\n" in (tmp_path / "watched" / "settings.tcl").read_text()
    assert (
        f"ports {target.hardware.settings['axi_ports']}\n" in (tmp_path / "work" / "design.txt").read_text()
    )


def test_each_configuration_builds_in_a_folder_of_its_own(hardware):
    folders = {
        bitstream.read_target("pynq-z2", None).folder: "BOARD=pynq-z2",
        bitstream.read_target("pynq-z2", TINY).folder: f"BOARD=pynq-z2 HARDWARE={TINY}",
        bitstream.read_target("pynq-z2", TINY, ila=True).folder: f"BOARD=pynq-z2 HARDWARE={TINY} ILA=1",
        bitstream.read_target("zcu102", hardware).folder: f"BOARD=zcu102 HARDWARE={hardware}",
    }
    assert len(folders) == 4
    for folder, arguments in folders.items():
        # The makefile names the folder for the report that follows the build.
        shown = run("make", "-C", ROOT, "-n", "--no-print-directory", "bitstream", *arguments.split())
        name = str(folder.relative_to(ROOT))
        assert re.findall(r"--out (\S+)$", shown, re.MULTILINE) == [name]
        assert re.findall(r"build_report\.py (\S+)$", shown, re.MULTILINE) == [name]


TOOL = """#!/bin/sh
echo "$(basename "$0") $*"
case "$*" in {fails}) echo 'ERROR: [HLS 200-70] made up'; exit 1;; esac
"""


def test_a_build_shows_its_steps_and_the_end_of_a_failed_one(hardware, tmp_path, monkeypatch, capsys):
    def place(fails):
        for name in ("v++", "vitis-run", "vivado"):
            (tmp_path / name).write_text(TOOL.format(fails=fails))
            (tmp_path / name).chmod(0o755)

    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    target = bitstream.read_target("zcu102", hardware)
    place("nothing")
    bitstream.build(target, tmp_path)
    shown = capsys.readouterr().out
    steps = [f"{kernel}-{step}" for kernel in bitstream.KERNELS for step in ("synthesis", "package")]
    assert re.findall(r"^(\S+) \.\.\.", shown, re.MULTILINE) == [*steps, "vivado"]
    assert re.findall(r"^(\S+): \d+ s$", shown, re.MULTILINE) == [*steps, "vivado"]
    log = (tmp_path / "logs" / "drain-synthesis.log").read_text()
    assert log == "v++ -c --mode hls --config drain.cfg --work_dir kernels/drain\n"
    place("*norm.cfg*")
    with pytest.raises(
        click.ClickException, match=r"(?s)norm-synthesis failed: v\+\+.*made up.*norm-synthesis\.log"
    ):
        bitstream.build(target, tmp_path)


def test_synthesis_alone_runs_the_newest_front_end(tmp_path, monkeypatch, capfd):
    (tmp_path / "made").mkdir()
    reports = build(tmp_path / "made") / "kernels"

    def place(name, version, fails="nothing"):
        printed = f"case $1 in *-version) echo 'tool v{version} (64-bit)'; exit;; esac\n"
        end = '\n[ -z "$KERNEL_CFG" ] || echo $KERNEL_CFG $KERNEL_FOLDER $ONLY_SYNTHESIS\n'
        end += f"kernel=${{KERNEL_FOLDER:-$7}}\nmkdir -p kernels\ncp -r {reports}/${{kernel#*/}} kernels\n"
        (tmp_path / name).write_text(TOOL.format(fails=fails).replace("\n", f"\n{printed}", 1) + end)
        (tmp_path / name).chmod(0o755)

    def synthesize():
        options = ["--hardware", str(TINY), "--synthesis", "--out", str(tmp_path / "work")]
        return CliRunner().invoke(bitstream.main, ["pynq-z2", *options])

    monkeypatch.setenv("PATH", str(tmp_path))
    result = synthesize()
    assert result.exit_code == 1
    for part in ("v++ (Vitis) is not on PATH", "vitis_hls (Vitis HLS) is not", bitstream.DOWNLOADS, "2022.2"):
        assert part in result.output
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    place("vitis_hls", "2021.2")
    assert "vitis_hls is of 2021.2" in synthesize().output
    place("vitis_hls", "2022.2")
    place("v++", "2022.2")
    steps = [f"{kernel}-synthesis" for kernel in bitstream.KERNELS]
    log = tmp_path / "work" / "logs" / "drain-synthesis.log"
    script = ROOT / "fpga" / "scripts" / "kernel.tcl"
    for expected in (
        f"vitis_hls -f {script}\ndrain.cfg kernels/drain 1\n",
        "v++ -c --mode hls --config drain.cfg --work_dir kernels/drain\n",
    ):
        result = synthesize()
        assert result.exit_code == 0, result.output
        assert re.findall(r"^(\S+) \.\.\.", result.output, re.MULTILINE) == steps
        assert log.read_text() == expected
        place("v++", "2024.2")
    # All kernels are synthesised though one fails, and one table has them.
    place("v++", "2024.2", fails="*norm.cfg*")
    capfd.readouterr()
    result = synthesize()
    shown = capfd.readouterr()
    assert result.exit_code == 1
    assert re.findall(r"^(\S+) \.\.\.", result.output, re.MULTILINE) == steps
    assert [line.split()[0] for line in shown.out.splitlines() if "C synthesis: ABSENT !" in line] == ["norm"]
    assert re.search(r"norm, C synthesis: .*ERROR: \[HLS 200-70\] made up", shown.err)
    shown = run("make", "-C", ROOT, "-n", "--no-print-directory", "hls-reports", "BOARD=kv260")
    folder = "build/hls-reports/kv260/kv260"
    assert re.findall(r"--synthesis --out (\S+)$", shown, re.MULTILINE) == [folder]


TIMING = """
      WNS(ns)  TNS(ns)  Failing  Total      WHS(ns)  THS(ns)  Failing  Total     WPWS(ns)  TPWS(ns)
      -------  -------  -------  -----      -------  -------  -------  -----     --------  --------
        {0}      0.000        0    723        {1}      0.000        0    723        {2}       0.000
"""
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
        (
            TIMING.format(-0.01, 0.022, 2.225),
            "not met at 100 MHz: setup slack -0.01 ns (timing.rpt); lower clock_mhz",
        ),
        (TIMING.format(0.31, -0.01, 2.225), "not met at 100 MHz: hold slack -0.01 ns (timing.rpt)\n"),
        (TIMING.format(0.31, 0.022, -0.029), "pulse width slack -0.029 ns (timing.rpt); lower clock_mhz"),
        ("no table", "no figures"),
        (
            TIMING.format(0.31, 0.022, 2.225),
            "accelerator_wrapper.bit",
        ),  # timing is met: the next step takes it
    ],
)
def test_a_bitstream_is_taken_only_if_setup_hold_and_pulse_width_are_met(report, error, tmp_path):
    bitstream.prepare(bitstream.read_target("pynq-z2", TINY), tmp_path)
    (tmp_path / "run.tcl").write_text(
        f"set timing {{{report}}}\nset argv {{{tmp_path}}}{VIVADO}source {ROOT}/fpga/scripts/bitstream.tcl\n"
    )
    done = subprocess.run([tool("tclsh"), tmp_path / "run.tcl"], capture_output=True, text=True, check=False)
    assert error in done.stderr


def test_the_tcl_front_end_stops_after_synthesis_if_asked(tmp_path):
    bitstream.prepare(bitstream.read_target("pynq-z2", TINY), tmp_path)
    (tmp_path / "kernels" / "drain").mkdir(parents=True)
    commands = (
        "open_project set_top add_files open_solution set_part create_clock config_rtl config_interface "
        "csynth_design export_design"
    )
    stubs = f'foreach name {{{commands}}} {{ proc $name args "puts \\"$name \\$args\\"" }}\n'
    script = tmp_path / "kernel.tcl"
    script.write_text(stubs + (ROOT / "fpga" / "scripts" / "kernel.tcl").read_text() + "puts [pwd]\n")
    environment = {**os.environ, "KERNEL_CFG": "drain.cfg", "KERNEL_FOLDER": "kernels/drain"}
    for only, last in (({"ONLY_SYNTHESIS": "1"}, ["csynth_design "]), ({}, ["export_design", str(tmp_path)])):
        done = subprocess.run(
            [tool("tclsh"), script],
            cwd=tmp_path,
            env=environment | only,
            capture_output=True,
            text=True,
            check=True,
        )
        lines = done.stdout.splitlines()
        assert f"add_files {ROOT}/fpga/src/drain.cpp -cflags" in done.stdout
        assert "set_part xc7z020clg400-1" in lines
        assert "create_clock -period 10.000" in lines
        assert "config_rtl -reset control -reset_level low" in lines  # the block design has ap_rst_n
        assert [line[: len(end)] for line, end in zip(lines[-len(last) :], last, strict=True)] == last


@pytest.mark.parametrize("ratio", [1, 2])
@pytest.mark.parametrize("board", ["zcu102", "pynq-z2"])
def test_the_clocks_status_is_behind_no_clock_that_may_stop(board, ratio, tmp_path):
    text = DESIGNS[f"unseen on {board}"].replace("clock_ratio = 2", f"clock_ratio = {ratio}")
    design = record(text, tmp_path)
    zynqmp = board == "zcu102"
    clock = "ps/pl_clk0" if zynqmp else "ps/FCLK_CLK0"
    assert design.cells["clock_status"] == "clock_status"
    assert design.properties["clock_status"]["CONFIG.RATIO"] == str(ratio)
    # It has no bus: the processing system's own GPIO controller answers.
    assert not [bus for bus in design.buses if any(end.startswith("clock_status/") for end in bus)]
    assert design.to("ps/emio_gpio_i" if zynqmp else "ps/GPIO_I") == "clock_status/status"
    enabled = "PSU__GPIO_EMIO__PERIPHERAL" if zynqmp else "PCW_GPIO_EMIO_GPIO"
    assert design.properties["ps"][f"CONFIG.{enabled}_{'_' if zynqmp else ''}ENABLE"] == "1"
    assert design.properties["ps"][f"CONFIG.{enabled}_{'_' if zynqmp else ''}IO"] == "32"
    assert design.to("clock_status/clk") == clock
    assert design.to("clock_status/clk_kernels") == design.to("fetch/ap_clk")
    assert design.to("clock_status/clk_array") == design.to("array_cell/clk_array")
    # Without an MMCM the reset is shown that keeps it from locking otherwise.
    reset = design.to("main_reset/ext_reset_in")
    assert design.to("clock_status/locked") == ("clocks/locked" if ratio == 2 else reset)


def test_two_clocks_have_one_source_matched_routes_and_a_watchdog(design):
    clock = design.to("clocks/clk_in1")
    assert clock in ("ps/pl_clk0", "ps/FCLK_CLK0")
    assert design.cells["watchdog"] == "clock_watchdog"
    assert design.to("watchdog/clk") == clock
    assert design.to("watchdog/locked") == "clocks/locked"
    assert design.to("watchdog/resetn") == design.to("main_reset/ext_reset_in")
    assert design.to("clocks/resetn") == "watchdog/mmcm_resetn"
    clocks = design.properties["clocks"]
    assert clocks["CONFIG.RESET_TYPE"] == "ACTIVE_LOW"
    # Those of the pin, not the 150 MHz that the processing system was asked for.
    frequencies = [clocks[f"CONFIG.CLKOUT{i}_REQUESTED_OUT_FREQ"] for i in (1, 2)]
    assert frequencies == (
        ["149.985016", "299.970032"] if clock == "ps/pl_clk0" else ["142.857132", "285.714264"]
    )
    # The kernels and their bus leave reset when the MMCM is locked.
    assert {design.to(f"{reset}/dcm_locked") for reset in ("main_reset", "kernel_reset")} == {"clocks/locked"}
    fast = {end for source, end in design.nets if source == "clocks/clk_out2"}
    assert fast == {"array_cell/clk_array", "lanes/clk_array", "clock_status/clk_array"}
    # The clock networks of 7 series have no CLOCK_DELAY_GROUP.
    matched = {key for key in clocks if "MATCHED_ROUTING" in key}
    assert len(matched) == (2 if clock == "ps/pl_clk0" else 0)
    constraints = (ROOT / "fpga" / "boards" / "accelerator.xdc").read_text()
    assert not re.search(r"^\s*(set_clock_groups|set_multicycle_path)", constraints, re.MULTILINE)
    unbound = [line for line in constraints.splitlines() if line.startswith("set_false_path")]
    assert len(unbound) == 3
    assert all(re.search("watchdog|clock_status", line) for line in unbound)
