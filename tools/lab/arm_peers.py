#!/usr/bin/env python3
"""Count the instructions of a frame of int8 ViTs on emulated 64-bit Arm cores: quasar_rt and other runtimes.

    make arm-peers                                  # installs the runtimes, then DeiT-tiny on Cortex-A53 and Cortex-A76
    python tools/lab/arm_peers.py --core cortex-a53

Each runtime is its aarch64 wheel in an emulated Python, with one thread; qemu-user counts every instruction of the
second frame, as count_instructions.py describes. Instructions are not times. All networks have the same shape
and random weights; those of quasar_rt are its own. The logits of the others are compared with the float network's.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import click

from arm_peer_models import CONTESTANTS
from count_instructions import Run, build, count, count_command, millions
from peer_models import Shape
from quasar_rt.bench import RANDOM_SHAPES
from quasar_rt.build import random_subnet
from quasar_rt.cli.output import print_table
from quasar_rt.files import write_text

ROOT = Path(__file__).resolve().parents[2]
MODELS = Path(__file__).with_name("arm_peer_models.py")
CACHE = ROOT / "target/arm-peers"
PACKAGES = ("onnxruntime~=1.32.0", "ai-edge-litert~=2.3.0", "ncnn==1.0.20261020")
"""The runtimes that are counted."""
SYSTEM = ("python3", "libstdc++6", "libgomp1")
"""Debian's packages that they run on."""
FARTHEST = 0.15
"""Relative distance of int8 logits from float ones above which a network does not count."""


class Core(NamedTuple):
    """An emulated core: quasar_rt's tier, and what Linux says of it in /proc/cpuinfo."""

    tier: str
    part: str
    features: str


BASE = "fp asimd evtstrm aes pmull sha1 sha2 crc32"
DOT = "atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp ssbs"
CORES = {
    "cortex-a53": Core("neon", "0xd03", f"{BASE} cpuid"),
    "cortex-a76": Core(
        "neondot",
        "0xd0b",
        f"{BASE} {DOT}",
    ),
    "max,sve=off": Core("neoni8mm", "0xd40", f"{BASE} {DOT} i8mm bf16"),
}


def emulated_python(cache: Path) -> tuple[Path, list[str]]:
    """Unpacks an emulated Python with the runtimes; returns its root and the emulator's words after the core."""
    place = cache / "arm64"
    subprocess.run(["bash", ROOT / "tools/debian_root.sh", place, "arm64", *SYSTEM], check=True)
    root, site = place / "root", cache / "site"
    python = (root / "usr/bin/python3").readlink().name
    if not (site / "done").exists():
        platforms = [f"--platform=manylinux_2_{minor}_aarch64" for minor in (17, 24, 27, 28)]
        install = [sys.executable, "-m", "pip", "install", "--quiet", f"--target={site}", *platforms]
        version = f"--python-version={python.removeprefix('python')}"
        subprocess.run([*install, version, "--only-binary=:all:", *PACKAGES, "numpy"], check=True)
        (site / "done").touch()
    settings = {
        "PYTHONHOME": root / "usr",
        "PYTHONPATH": f"{site}:{Path(__file__).resolve().parent}",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    words = [word for name, value in settings.items() for word in ("-E", f"{name}={value}")]
    return root, ["-L", str(root), *words, str(root / "usr/bin" / python)]


def describe_core(root: Path, core: Core) -> None:
    """Writes what the runtimes read about a core, in place of this machine's."""
    lines = {
        "processor": "0",
        "BogoMIPS": "200.00",
        "Features": core.features,
        "CPU implementer": "0x41",
        "CPU architecture": "8",
        "CPU variant": "0x0",
        "CPU part": core.part,
        "CPU revision": "4",
    }
    (root / "proc").mkdir(exist_ok=True)
    text = "".join(f"{name}\t: {value}\n" for name, value in lines.items())
    (root / "proc/cpuinfo").write_text(text + "\n", encoding="ascii")
    system = root / "sys/devices/system/cpu"
    system.mkdir(parents=True, exist_ok=True)
    for name in ("possible", "present", "online"):
        (system / name).write_text("0\n", encoding="ascii")


@click.command()
@click.option("--shape", type=click.Choice(sorted(RANDOM_SHAPES)), default="deit-tiny", show_default=True)
@click.option("--core", "cores", multiple=True, type=click.Choice(list(CORES)), help="May be repeated.")
@click.option("--runtime", multiple=True, type=click.Choice(list(CONTESTANTS)), help="May be repeated.")
@click.option(
    "--models-python",
    type=click.Path(dir_okay=False, path_type=Path),
    default=ROOT / ".venv-arm-peers/bin/python",
    help="The Python that makes the networks.",
)
@click.option("--cache", type=click.Path(file_okay=False, path_type=Path), default=CACHE, show_default=True)
@click.option(
    "--json", "path", type=click.Path(dir_okay=False, path_type=Path), help="Also write the counts."
)
def main(
    shape: str,
    cores: tuple[str, ...],
    runtime: tuple[str, ...],
    models_python: Path,
    cache: Path,
    path: Path | None,
) -> None:
    """Count the instructions of a frame of int8 ViTs on emulated 64-bit Arm cores: quasar_rt and other runtimes."""
    os.chdir(ROOT)
    cache = cache.resolve()
    sizes = RANDOM_SHAPES[shape]
    embed, depth, heads = (sizes[key] for key in ("embed", "depth", "heads"))
    peer_shape = json.dumps(Shape(embed, depth, heads, image=224, patch=16))
    models = cache / shape
    if not (models / "done").exists():
        subprocess.run([models_python, MODELS, "make", peer_shape, models], check=True)
    root, python = emulated_python(cache)
    rows: list[list[str]] = []
    document: dict[str, dict[str, float]] = {}
    with TemporaryDirectory() as name:
        folder = Path(name)
        frame = build("aarch64")["frame"]
        subnet = random_subnet(embed=embed, depth=depth, heads=heads, eight_bit_fraction=0.25, name=shape)
        subnet.save(folder / "subnet.qvit")
        for core in cores or CORES:
            describe_core(root, CORES[core])
            run = Run("aarch64", core, CORES[core].tier)
            own = count(run, frame, [run.tier, str(folder / "subnet.qvit"), "unpacked"], folder)
            total = own.functions.total()
            rows.append([core, f"quasar_rt, {run.tier}", millions(total), "1", ""])
            document[core] = {"quasar_rt": total}
            for contestant in runtime or CONTESTANTS:
                command = [*python, str(MODELS), contestant, peer_shape, str(models)]
                counted = count_command(["qemu-aarch64", "-cpu", core], command, folder)
                error = float(counted.output.splitlines()[-1])
                if error > FARTHEST:
                    raise click.ClickException(f"{contestant} is {error:.0%} from the float network")
                theirs = counted.functions.total()
                rows.append([core, contestant, millions(theirs), f"{theirs / total:.2f}", f"{error:.1%}"])
                document[core][contestant] = theirs
    print_table(
        ["core (emulated)", "runtime", "instructions", "of quasar_rt's", "logits from float"],
        rows,
        title=f"One frame of {shape}, one thread: instructions executed under qemu-user",
    )
    if path:
        about = {
            "shape": shape,
            "packages": PACKAGES,
            "qemu": qemu_version(),
            "python": platform.python_version(),
        }
        write_text(path, json.dumps({"about": about, "instructions": document}, indent=2) + "\n")


def qemu_version() -> str:
    """Returns the emulator's version."""
    run = subprocess.run(["qemu-aarch64", "--version"], capture_output=True, text=True, check=True)
    return run.stdout.split()[2]


if __name__ == "__main__":
    main()
