#!/usr/bin/env python3
"""Count the instructions of a frame on emulated Arm cores, tier by tier.

    python tools/lab/count_instructions.py                  # DeiT-tiny's shape, a quarter of the rows with 8 bits
    python tools/lab/count_instructions.py --only armv7 --functions 20
    python tools/lab/count_instructions.py --check          # against docs/cpu-tiers.md
    python tools/lab/count_instructions.py --camera         # a camera's frame for an accelerator, by stage
    python tools/lab/count_instructions.py --camera --check # against docs/evidence/host-instructions.json

qemu-user executes the CPU engine, and a plugin (instructions.c) counts what it executes: user-mode instructions of the
second frame, as the difference between runs with two frames and one. The counts do not depend on the machine's load,
and are not times: cores differ in the instructions that they issue in a cycle, and wait for memory. The logits of all
tiers are compared. tools/arm.sh describes the compilers that are needed; besides, a C compiler for this machine.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import click

from quasar_rt.bench import RANDOM_SHAPES
from quasar_rt.build import random_subnet
from quasar_rt.cli.output import print_table

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = ROOT / "tools/lab/instructions.c"
PROMISES = ROOT / "docs/cpu-tiers.md"
"""The document whose table `--check` compares with."""
MOST = 1.02
"""Number of instructions, relative to that table's, above which `--check` fails."""
CAMERA = ROOT / "docs/evidence/host-instructions.json"
"""What `--camera` writes, and what it compares with under `--check`."""


class Run(NamedTuple):
    """A tier of an architecture, and the core that is emulated."""

    architecture: str
    cpu: str
    tier: str


RUNS = (
    Run("armv7", "cortex-a9", "scalar"),
    Run("armv7", "cortex-a9", "neon"),
    Run("aarch64", "cortex-a53", "scalar"),
    Run("aarch64", "cortex-a53", "neon"),
    Run("aarch64", "cortex-a76", "neondot"),
    Run("aarch64", "max", "neoni8mm"),
)


PROCESSORS = {"zcu102": Run("aarch64", "cortex-a53", "neon"), "pynq-z2": Run("armv7", "cortex-a9", "neon")}
"""Boards for whose accelerator frames are prepared. (Patches are packed by its array's tokens and ports.)"""
FRAMES = tuple(
    (pixels, *size) for size in ((640, 480), (1920, 1080)) for pixels in ("nv12", "yuyv", "bgr", "rgb")
)
"""Formats, widths and heights of a camera's frames."""
PICTURE = ("rgb", 500, 375)
"""A decoded picture of ImageNet."""
FRAME_STAGES = {
    "convert": ("Reader4rows", "4nv12", "4yuyv", "11nv12_to_rgb", "11yuyv_to_rgb", "7convert"),
    "columns": ("7columns", "16resample_columns", "5widen", "3sum", "5split"),
    "rows": ("4rows", "13resample_rows", "10widen_rows"),
    "pack": ("10interleave", "3lay", "10pack_image", "4pack", "9crc32fast"),
}
"""Stages of preparing a frame, and the ends of their functions' mangled names."""


class Counted(NamedTuple):
    """A run's instructions and output."""

    functions: Counter[str]
    """Instructions by function."""
    output: str


def compile_plugin(folder: Path, api: int = 1) -> Path:
    """Compiles the plugin for a version of qemu's plugin interface."""
    plugin = folder / f"instructions-{api}.so"
    if not plugin.exists():
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", f"-DAPI={api}", PLUGIN, "-o", plugin], check=True)
    return plugin


def build(architecture: str, package: str, example: str) -> Path:
    """Builds an example of a package as a release build does."""
    script = (
        f'cargo build --quiet --release --target "$TARGET" -p {package} --example {example} && '
        f'echo "$CARGO_TARGET_DIR/$TARGET/release/examples/{example}"'
    )
    return ROOT / _arm(architecture, script)


def stage_of(function: str) -> str:
    """Returns the stage of a function of preparing a frame.

    >>> stage_of("_ZN14quasar_kernels5image5lanes7columns17h0123456789abcdefE")
    'columns'
    """
    # The checks' crate has several functions.
    path = "9crc32fast" if "9crc32fast" in function else re.sub(r"17h[0-9a-f]{16}E.*$", "", function)
    return next((stage for stage, names in FRAME_STAGES.items() if path.endswith(names)), "other")


def count_camera(folder: Path, architectures: tuple[str, ...]) -> dict[str, dict[str, dict[str, int]]]:
    """Counts the instructions of preparing frames, by board, frame and stage."""
    random_subnet(depth=1).save(folder / "subnet.qvit")
    counted: dict[str, dict[str, dict[str, int]]] = {}
    for board, run in PROCESSORS.items():
        if architectures and run.architecture not in architectures:
            continue
        program, counted[board] = build(run.architecture, "quasar-device", "input"), {}
        files = [f"fpga/configs/{board}.toml", f"python/quasar_rt/boards/{board}.toml"]
        for pixels, width, height in (*FRAMES, PICTURE):
            frame = [pixels, str(width), str(height)]
            arguments = [run.tier, str(folder / "subnet.qvit"), *files, *frame]
            found = count(run, program, arguments, folder, rounds=10)
            scalar = execute(
                [*emulator(run.architecture), "-cpu", run.cpu],
                [str(program), "scalar", *arguments[1:], "1"],
                folder,
            )
            if scalar.output != found.output:
                raise click.ClickException(f"tiers give different inputs: {run}, {' '.join(frame)}")
            stages = dict.fromkeys([*FRAME_STAGES, "other"], 0)
            for function, instructions in found.functions.items():
                stages[stage_of(function)] += instructions
            counted[board][f"{pixels} {width}x{height}"] = stages
    return counted


def report_camera(counted: dict[str, dict[str, dict[str, int]]], checks: bool) -> None:
    """Prints the instructions of preparing frames, and writes or checks them.

    Raises:
        click.ClickException: a frame has more instructions than its record.
    """
    rows = [
        [board, PROCESSORS[board].cpu, frame, *map(millions, stages.values()), millions(sum(stages.values()))]
        for board, frames in counted.items()
        for frame, stages in frames.items()
    ]
    print_table(
        ["board", "core (emulated)", "frame", *FRAME_STAGES, "other", "all"],
        rows,
        title="One frame for an accelerator, one thread: instructions executed under qemu-user",
    )
    recorded = json.loads(CAMERA.read_text("utf-8")) if CAMERA.exists() else {}
    name = CAMERA.relative_to(ROOT)
    if not checks:
        CAMERA.write_text(json.dumps({**recorded, **counted}, indent=1) + "\n", encoding="utf-8")
        click.echo(f"wrote {name}")
        return
    for board, frames in counted.items():
        for frame, stages in frames.items():
            total, promise = sum(stages.values()), sum(recorded[board][frame].values())
            if total > MOST * promise:
                raise click.ClickException(
                    f"{frame} for {board}: {total:,} instructions, and {promise:,} in {name}"
                )
    click.echo(f"None of them has more instructions than {name} says.")


def emulator(architecture: str) -> list[str]:
    """Returns the command of the emulator, without the core."""
    return _arm(architecture, 'echo "$EMULATOR"').split()


def _arm(architecture: str, script: str) -> str:
    run = subprocess.run(
        ["sh", ROOT / "tools/arm.sh", architecture, "sh", "-c", script],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    if run.returncode:
        raise click.ClickException(f"tools/arm.sh {architecture} failed:\n{run.stderr}")
    return str(run.stdout.strip())


def execute(emulator: list[str], command: list[str], folder: Path) -> Counted:
    """Runs a command under an emulator (its words, with the core) and counts its instructions."""
    log = folder / "log"
    log.unlink(missing_ok=True)
    for api in range(1, 10):
        plugin = compile_plugin(folder, api)
        words = [*emulator, "-plugin", str(plugin), "-d", "plugin", "-D", str(log), *command]
        done = subprocess.run(words, capture_output=True, text=True)
        # qemu refuses plugins for versions of the interface that it no longer has.
        if "API version" not in done.stderr:
            break
    if done.returncode or not log.exists():
        raise click.ClickException(f"{' '.join(command)} failed under {emulator[0]}:\n{done.stderr}")
    functions: Counter[str] = Counter()
    for count, name in re.findall(r"^(\d+) (.*)$", log.read_text(), re.MULTILINE):
        functions[name] += int(count)
    if not functions:
        raise click.ClickException(f"{emulator[0]} counted nothing; its plugins may be disabled")
    return Counted(functions, done.stdout.strip())


def count(run: Run, program: Path, arguments: list[str], folder: Path, rounds: int = 1) -> Counted:
    """Counts the instructions of a round of one of our programs: the mean of `rounds`, the first one apart."""
    words = [*emulator(run.architecture), "-cpu", run.cpu]
    one, more = (execute(words, [str(program), *arguments, str(n)], folder) for n in (1, 1 + rounds))
    difference = Counter(more.functions)
    difference.subtract(one.functions)
    return Counted(Counter({name: n // rounds for name, n in difference.items()}), more.output)


def millions(instructions: float) -> str:
    """Formats a number of instructions."""
    return f"{instructions / 1e6:,.1f} M"


def count_frames(folder: Path, architectures: tuple[str, ...]) -> dict[Run, Counted]:
    """Counts the instructions of a frame on each tier, and prints them.

    Raises:
        click.ClickException: the tiers give different logits.
    """
    embed, depth, heads = (RANDOM_SHAPES["deit-tiny"][key] for key in ("embed", "depth", "heads"))
    subnet = random_subnet(embed=embed, depth=depth, heads=heads, eight_bit_fraction=0.25)
    subnet.save(folder / "subnet.qvit")
    counted = {}
    for run in RUNS:
        if not architectures or run.architecture in architectures:
            program = build(run.architecture, "quasar-core", "frame")
            arguments = [run.tier, str(folder / "subnet.qvit")]
            counted[run] = count(run, program, arguments, folder)
    totals = {run: result.functions.total() for run, result in counted.items()}
    scalar = {run.architecture: total for run, total in totals.items() if run.tier == "scalar"}
    macs = subnet.summary().macs
    print_table(
        ["architecture", "core (emulated)", "tier", "instructions", "for each MAC", "of scalar"],
        [
            [*run, millions(total), f"{total / macs:.3f}", f"1/{scalar[run.architecture] / total:.1f}"]
            for run, total in totals.items()
        ],
        title="One frame of DeiT-tiny's shape, one thread: instructions executed under qemu-user",
    )
    digests = {result.output for result in counted.values()}
    if len(digests) > 1:
        raise click.ClickException(f"tiers give different logits: {digests}")
    click.echo(f"All give the same logits (digest {digests.pop()}).")
    return counted


def check(counted: dict[Run, Counted]) -> None:
    """Compares frames with the documented ones.

    Raises:
        click.ClickException: a frame has more instructions, or the document does not list it.
    """
    name = PROMISES.relative_to(ROOT)
    rows = re.findall(r"^\| (\w+), `(\w+)` \| [\w-]+ \| ([\d,]+) \|", PROMISES.read_text(), re.MULTILINE)
    promised = {(architecture, tier): int(count.replace(",", "")) for architecture, tier, count in rows}
    for run, result in counted.items():
        count, promise = result.functions.total() / 1e6, promised.get((run.architecture, run.tier))
        if promise is None:
            raise click.ClickException(f"{name} lists no {run.tier} of {run.architecture}")
        if count > MOST * promise:
            raise click.ClickException(
                f"{run.tier} of {run.architecture}: {count:,.1f} million instructions, and {promise:,} in {name}; "
                "look at --functions, or correct the document"
            )
    click.echo(f"None of them has more instructions than {name} says.")


@click.command()
@click.option("--only", multiple=True, type=click.Choice(["aarch64", "armv7"]), help="May be repeated.")
@click.option(
    "--functions", type=click.IntRange(0), default=0, help="Print that many functions of each frame."
)
@click.option(
    "--check", "checks", is_flag=True, help="Fail if there are more instructions than the documented ones."
)
@click.option(
    "--camera",
    is_flag=True,
    help=f"Count a camera's frame for an accelerator instead; writes or checks {CAMERA.relative_to(ROOT)}.",
)
def main(only: tuple[str, ...], functions: int, checks: bool, camera: bool) -> None:
    """Count the instructions of a frame on emulated Arm cores, tier by tier."""
    os.chdir(ROOT)
    with TemporaryDirectory() as name:
        if camera:
            report_camera(count_camera(Path(name), only), checks)
            return
        counted = count_frames(Path(name), only)
    for run, result in counted.items():
        if functions:
            click.echo(f"\n{' '.join(run)}:")
        for function, instructions in result.functions.most_common(functions):
            click.echo(f"{millions(instructions):>12} {function}")
    if checks:
        check(counted)


if __name__ == "__main__":
    main()
