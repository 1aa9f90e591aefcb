#!/usr/bin/env python3
"""Build an accelerator's bitstream with AMD's tools, and package it for the driver (docs/building.md).

    python tools/bitstream.py zcu102                               # fpga/configs/zcu102.toml
    python tools/bitstream.py kv260 --hardware mine.toml --prepare # what the tools would be given, without them
    python tools/bitstream.py pynq-z2 --hardware tiny.toml --ila   # with logic analyzers on streams and memory ports
    python tools/bitstream.py zcu102 --package DIR                 # only package DIR/zcu102.bit and .hwh
    python tools/bitstream.py zcu102 --synthesis                   # only C synthesis of all kernels, and a table of it

Vitis HLS makes an IP of each kernel, Vivado the block design and the bitstream. No run of this project has had either.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree as ET

import click

from quasar_rt.errors import QuasarError
from quasar_rt.hardware import Board, Hardware

ROOT = Path(__file__).resolve().parents[1]
KERNELS = ("fetch", "load", "plan", "scores", "drain", "norm", "softmax", "store")
OLDEST = (2023, 2)
#: C synthesis alone runs on older tools, too.
OLDEST_SYNTHESIS = (2022, 2)
DOWNLOADS = "https://www.xilinx.com/support/download.html"


class Target(NamedTuple):
    """Holds what is built: a configuration on a board."""

    hardware: Hardware
    part: str
    board_part: str
    processor: str
    #: The configuration's name: that of its file.
    configuration: str
    #: With logic analyzers (AMD's System ILA).
    ila: bool = False

    @property
    def folder(self) -> Path:
        """The folder that it is built in by default: its own, so that no build finds another's files."""
        name = f"{self.configuration}-ila" if self.ila else self.configuration
        return ROOT / "build" / "bitstream" / self.name / name

    @property
    def name(self) -> str:
        """The board's name, which the files carry."""
        return self.hardware.board.name

    @property
    def configuration_hash(self) -> str:
        """Returns the identity that the bitstream reports: 16 hexadecimal digits."""
        return f"{self.hardware.configuration_hash:016x}"


def board_settings(board: str) -> dict[str, str]:
    """Reads Vivado's names for a board: part, board_part, processor."""
    script = ROOT / "fpga" / "boards" / f"{board}.tcl"
    if not script.is_file():
        known = ", ".join(sorted(path.stem for path in script.parent.glob("*.tcl")))
        raise click.ClickException(f"no fpga/boards/{board}.tcl: write one like those of {known}")
    return dict(re.findall(r"^set (\w+) (\S+)$", script.read_text(), re.MULTILINE))


def same_part(reported: str, part: str) -> bool:
    """Returns whether a file's part is `part`; some files leave out 'xc', the speed grade and the hyphens."""
    plain = [re.sub(r"[^a-z0-9]", "", name.lower()).removeprefix("xc") for name in (reported, part)]
    return bool(plain[0]) and plain[1].startswith(plain[0])


def read_target(board: str, hardware: Path | None, ila: bool = False) -> Target:
    """Reads the configuration, checks it against the board, and reads Vivado's names for the board."""
    settings = board_settings(board)
    path = hardware or ROOT / "fpga" / "configs" / f"{board}.toml"
    if not path.is_file():
        raise click.ClickException(
            f"no configuration {path}: quasar-rt estimate NETWORK --board {board} --save FILE writes one; "
            "name it by --hardware (make bitstream: HARDWARE=FILE)"
        )
    loaded = Hardware.load(path)
    if loaded.board != Board.load(board):
        raise click.ClickException(f"{path} is for the board {loaded.board.name}, not {board}")
    loaded.check_board()
    return Target(loaded, settings["part"], settings["board_part"], settings["processor"], path.stem, ila)


def prepare(target: Target, work: Path) -> None:
    """Writes what the tools read: the configuration, header and lists, each kernel's cfg file, Vivado's settings."""
    work.mkdir(parents=True, exist_ok=True)
    texts = {"hardware.toml": target.hardware.to_toml(), "board.toml": target.hardware.board.to_toml()}
    for name, text in {**texts, **target.hardware.build_files}.items():
        write(work / name, text)
    scripts = ROOT / "fpga" / "scripts"
    template = (scripts / "kernel.cfg").read_text().partition("[hls]\n")[2]
    for kernel in KERNELS:
        own = scripts / f"{kernel}.cfg"
        settings = template.replace("syn.file=", f"syn.file={ROOT}/").replace("KERNEL", kernel)
        settings += own.read_text() if own.is_file() else ""
        write(
            work / f"{kernel}.cfg",
            f"part={target.part}\n\n[hls]\nclock={1000 / target.hardware.clock_mhz:.3f}\n"
            f"syn.cflags=-std=c++17 -I{ROOT}/fpga/include -I{work}\n{settings}",
        )
    write(
        work / "settings.tcl",
        f"set name {target.name}\nset root {{{ROOT}}}\nset part {target.part}\nset board_part {target.board_part}\n"
        f"set board [dict create processor {target.processor} clock_mhz {target.hardware.clock_mhz:g} "
        f"ila {int(target.ila)}]\n",
    )


def write(path: Path, text: str) -> None:
    """Writes a file that the tools read, and shows its name."""
    path.write_text(text)
    click.echo(f"wrote {path}")


def version(command: list[str]) -> str:
    """Returns what a tool prints of its version."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else ""


def call(step: str, command: list[str], work: Path, **changes: str) -> None:
    """Runs a step of the build in `work`; its output goes to a log, and the error of a failed step shows the end.

    `changes` are added to the environment.
    """
    log = work / "logs" / f"{step}.log"
    log.parent.mkdir(exist_ok=True)
    click.echo(f"{step} ... (log: {log})")
    began = time.monotonic()
    with log.open("w") as out:
        environment = {**os.environ, **changes}
        done = subprocess.run(
            command, cwd=work, env=environment, stdout=out, stderr=subprocess.STDOUT, check=False
        )
    if done.returncode:
        end = "\n".join(log.read_text(errors="replace").splitlines()[-40:])
        raise click.ClickException(
            f"{step} failed: {' '.join(command)}\n{end}\nAll of it is in {log}; docs/building.md says what to change"
        )
    click.echo(f"{step}: {time.monotonic() - began:.0f} s")


def fault_of(tool: str, package: str, oldest: tuple[int, int]) -> str:
    """Returns what is wrong with a tool; "" if nothing is."""
    if shutil.which(tool) is None:
        return f"{tool} ({package}) is not on PATH"
    printed = version([tool, "--version" if tool in ("v++", "vitis-run") else "-version"])
    found = re.search(r"v(\d{4})\.(\d)", printed)
    if found is None:
        return f"{tool} does not print its version"
    return f"{tool} is of {found[1]}.{found[2]}" if (int(found[1]), int(found[2])) < oldest else ""


def check_tools() -> None:
    """Refuses tools that are missing or too old, naming all of them at once."""
    tools = (("v++", "Vitis"), ("vitis-run", "Vitis"), ("vivado", "Vivado"))
    wrong = [fault for tool in tools if (fault := fault_of(*tool, OLDEST))]
    if wrong:
        raise click.ClickException(
            f"a bitstream takes AMD Vitis and Vivado {OLDEST[0]}.{OLDEST[1]} or later, from {DOWNLOADS} "
            f"(source their settings64.sh): {'; '.join(wrong)}"
        )


def with_vitis_hls() -> bool:
    """Returns true if C synthesis takes vitis_hls, which is older than v++ --mode hls. Refuses if neither is there."""
    faults = [fault_of("v++", "Vitis", OLDEST), fault_of("vitis_hls", "Vitis HLS", OLDEST_SYNTHESIS)]
    if all(faults):
        raise click.ClickException(
            f"C synthesis takes v++ of AMD Vitis {OLDEST[0]}.{OLDEST[1]} or later, or vitis_hls of "
            f"{OLDEST_SYNTHESIS[0]}.{OLDEST_SYNTHESIS[1]} or later, from {DOWNLOADS} (source its settings64.sh; the "
            f"edition without a licence will do, docs/vitis-hour.md): {'; '.join(faults)}"
        )
    return bool(faults[0])


def synthesize(kernel: str, work: Path, old: bool = False) -> None:
    """Runs C synthesis of a kernel; `old`: by vitis_hls."""
    if not old:
        call(f"{kernel}-synthesis", ["v++", "-c", *options_of(kernel)], work)
        return
    (work / "kernels" / kernel).mkdir(parents=True, exist_ok=True)
    script = ROOT / "fpga" / "scripts" / "kernel.tcl"
    settings = {"KERNEL_CFG": f"{kernel}.cfg", "KERNEL_FOLDER": f"kernels/{kernel}", "ONLY_SYNTHESIS": "1"}
    call(f"{kernel}-synthesis", ["vitis_hls", "-f", str(script)], work, **settings)


def options_of(kernel: str) -> list[str]:
    """Returns the options of Vitis HLS for a kernel."""
    return ["--mode", "hls", "--config", f"{kernel}.cfg", "--work_dir", f"kernels/{kernel}"]


def build(target: Target, work: Path) -> None:
    """Runs Vitis HLS for each kernel, then Vivado. It takes minutes to hours."""
    for kernel in KERNELS:
        synthesize(kernel, work)
        call(f"{kernel}-package", ["vitis-run", *options_of(kernel), "--package"], work)
    script = ROOT / "fpga" / "scripts" / "bitstream.tcl"
    call(
        "vivado",
        ["vivado", "-mode", "batch", "-nojournal", "-source", str(script), "-tclargs", str(work)],
        work,
    )


class Bit(NamedTuple):
    """A .bit file's header and data."""

    design: str
    part: str
    data: bytes


def read_bit(path: Path) -> Bit:
    """Reads a .bit file."""
    content = path.read_bytes()
    fields: dict[bytes, bytes] = {}
    try:
        (skip,) = struct.unpack_from(">H", content)
        at = 2 + skip + 2
        while b"e" not in fields:
            key = content[at : at + 1]
            size_format = ">I" if key == b"e" else ">H"
            (size,) = struct.unpack_from(size_format, content, at + 1)
            at += 1 + struct.calcsize(size_format)
            fields[key] = content[at : at + size]
            if not key or len(fields[key]) != size:
                raise ValueError
            at += size
        design, part = (fields[key].rstrip(b"\0").decode("ascii") for key in (b"a", b"b"))
    except (struct.error, ValueError, KeyError):
        raise click.ClickException(f"{path} is no .bit file, or it ends too soon") from None
    if b"\xaa\x99\x55\x66" not in fields[b"e"][:4096] or len(fields[b"e"]) % 4:
        raise click.ClickException(f"{path} has no configuration data")
    return Bit(design, part, fields[b"e"])


def write_firmware(target: Target, work: Path, binary: bytes, hertz: int) -> Path:
    """Writes the folder that dfx-mgr (`xmutil` on Kria, PetaLinux) takes as `/lib/firmware/xilinx/NAME`.

    It has the bitstream, the device-tree overlay that names it, the overlay's source, and shell.json. The overlay that
    sets the fabric's clock is not in it, but in `work`: it must be applied before the bitstream is loaded. Without dtc,
    overlays are left as sources, and lines show how to compile them.

    Args:
        target: the configuration on its board.
        work: the build's folder; the firmware is in its `lib/firmware/xilinx`.
        binary: the bitstream as fpga_manager takes it.
        hertz: the fabric's clock. Linux is asked for 0.1 % more, as the driver asks (`set_clock` in `uio.rs`).

    Returns:
        the folder.
    """
    name = f"quasar-{target.name}"
    folder = work / "lib" / "firmware" / "xilinx" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    boards = ROOT / "fpga" / "boards"
    family = "zynqmp" if target.processor == "zynq_ultra_ps_e" else "zynq7000"
    rate = f"assigned-clock-rates = <{round(1.001 * hertz)}>;"
    clock = (boards / f"quasar-clock-{family}.dtso").read_text()
    clock, rates = re.subn(r"assigned-clock-rates = <\d+>;", rate, clock)
    assert rates == 1
    compile_overlay(work / "quasar-clock.dtso", clock)
    overlay = (boards / f"quasar-{family}.dtso").read_text()
    overlay += f'\n&fpga_full {{\n\tfirmware-name = "{name}.bit.bin";\n}};\n'
    compile_overlay(folder / f"{name}.dtso", overlay)
    (folder / f"{name}.bit.bin").write_bytes(binary)
    # A flat design: no part of it is exchanged at run time.
    (folder / "shell.json").write_text(
        json.dumps({"shell_type": "XRT_FLAT", "num_slots": "1"}, indent=2) + "\n"
    )
    return folder


def compile_overlay(source: Path, text: str) -> None:
    """Writes a device-tree overlay and compiles it next to its source, or shows the command where dtc is absent."""
    source.write_text(text)
    compiled = source.with_suffix(".dtbo").name
    command = ["dtc", "-@", "-q", "-I", "dts", "-O", "dtb", "-o", compiled, source.name]
    if shutil.which("dtc") is None:
        click.echo(
            f"dtc (Debian: device-tree-compiler) is not on PATH: compile the overlay where it is, in {source.parent}:\n"
            f"  {' '.join(command)}"
        )
        return
    done = subprocess.run(command, cwd=source.parent, capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(f"dtc cannot compile {source}:\n{done.stderr}")


def package(target: Target, work: Path) -> Path:
    """Checks the bitstream and its hardware handoff, and writes what loads and describes it.

    NAME.bin is for fpga_manager, lib/firmware/xilinx for dfx-mgr, NAME.json for the driver. PYNQ finds NAME.hwh by the
    name of NAME.bit.
    """
    bitstream, handoff = work / f"{target.name}.bit", work / f"{target.name}.hwh"
    for path in (bitstream, handoff):
        if not path.is_file() or not path.stat().st_size:
            raise click.ClickException(
                f"{path} is missing or empty; PYNQ wants the .bit and the .hwh by one name"
            )
    bit = read_bit(bitstream)
    if not same_part(bit.part, target.part):
        raise click.ClickException(
            f"{bitstream} is for the part {bit.part}, the board {target.name} has {target.part}"
        )
    try:
        tree = ET.parse(handoff)
    except ET.ParseError as error:
        raise click.ClickException(f"{handoff} is no hardware handoff: {error}") from None
    modules = {module.get("INSTANCE", "") for module in tree.iter("MODULE")}
    counters = {"counters"} if target.hardware.settings["counters"] else set()
    missing = sorted({*KERNELS, "array_cell", "lanes", "reset_register", *counters} - modules)
    if missing:
        raise click.ClickException(f"{handoff} is of another design: it has no {', '.join(missing)}")
    clock = "pl_clk0" if target.processor == "zynq_ultra_ps_e" else "FCLK_CLK0"
    made = [int(pin.get("CLKFREQUENCY", 0)) for pin in tree.iter("PORT") if pin.get("NAME") == clock]
    if not any(made):
        raise click.ClickException(f"{handoff} has no CLKFREQUENCY of {clock}")
    hertz, wanted = max(made), target.hardware.clock_mhz
    if abs(hertz / (1e6 * wanted) - 1) > 1e-3:
        click.echo(f"clock_mhz is {wanted:g}, but the processing system makes {hertz / 1e6:g} MHz")
    # fpga_manager takes the data alone, the bytes of each word swapped.
    words = struct.unpack(f">{len(bit.data) // 4}I", bit.data)
    binary = work / f"{target.name}.bin"
    binary.write_bytes(struct.pack(f"<{len(words)}I", *words))
    write_firmware(target, work, binary.read_bytes(), hertz)
    abi = re.search(r"ABI = (\d+);", (ROOT / "fpga" / "include" / "isa.hpp").read_text())
    assert abi is not None
    description = {
        "name": target.name,
        "part": target.part,
        "clock_hz": hertz,
        "abi": int(abi[1]),
        "configuration_hash": target.configuration_hash,
        "hardware": target.hardware.to_toml(),
        "sha256": {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (bitstream, handoff, binary)
        },
    }
    out = work / f"{target.name}.json"
    out.write_text(json.dumps(description, indent=2) + "\n")
    return out


@click.command(help=(__doc__ or "").split("\n\n")[0])
@click.argument("board")
@click.option(
    "--hardware", type=click.Path(path_type=Path), help="The configuration [fpga/configs/BOARD.toml]."
)
@click.option("--out", type=click.Path(path_type=Path), help="Where to build [build/bitstream/BOARD/NAME].")
@click.option("--ila", is_flag=True, help="Add logic analyzers on streams and memory ports.")
@click.option("--prepare", "only_prepare", is_flag=True, help="Only write what the tools would be given.")
@click.option("--synthesis", "only_synthesis", is_flag=True, help="Only run and compare C synthesis.")
@click.option(
    "--package",
    "only_package",
    type=click.Path(path_type=Path),
    help="Only package this folder's .bit and .hwh.",
)
def main(
    board: str,
    hardware: Path | None,
    out: Path | None,
    ila: bool,
    only_prepare: bool,
    only_synthesis: bool,
    only_package: Path | None,
) -> None:
    try:
        target = read_target(board, hardware, ila)
    except QuasarError as error:
        raise click.ClickException(str(error)) from None
    if only_package is None:
        work = (out or target.folder).resolve()
        old = only_synthesis and not only_prepare and with_vitis_hls()
        if not only_prepare and not only_synthesis:
            check_tools()
        prepare(target, work)
        if only_prepare:
            click.echo(f"{work}: prepared")
            return
        if only_synthesis:
            shutil.rmtree(work / "kernels", ignore_errors=True)
            failed = False
            for kernel in KERNELS:
                try:
                    synthesize(kernel, work, old)
                except click.ClickException as error:
                    error.show()
                    failed = True
            # One table has the kernels' reports and failures.
            report = subprocess.run([sys.executable, ROOT / "tools" / "build_report.py", work], check=False)
            sys.exit(report.returncode or failed)
        build(target, work)
    else:
        work = only_package
    click.echo(f"{package(target, work)}: configuration {target.configuration_hash}")


if __name__ == "__main__":
    main()
