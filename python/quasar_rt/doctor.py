"""Examines this machine: what a device needs, what is there, and what to do about the difference.

`examine` reads files of ``/proc``, ``/sys`` and ``/dev`` and the environment. It opens no device, so it is safe on a
board whose FPGA does not answer. Only ``identity=True`` reads registers, after all other checks have passed.

Depends on the native module (`Survey` has what the driver needs), `device`, `accelerator` and `bringup`.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ._native import ABI, REGISTER_BYTES, UIO_NODE, Survey
from .arguments import shown
from .device import cpu, devmem_addresses, read_bitstream, sim_libraries
from .errors import DeviceError, DoesNotFitError, InvalidValueError, QuasarError, SettingsError
from .files import read_small_text, why_unreadable

if TYPE_CHECKING:
    from .hardware import Hardware
    from .subnet import Subnet

__all__ = ["Check", "Machine", "examine"]

Status = Literal["ok", "warn", "fail", "skipped"]

#: SoC families by the device tree's `compatible`: their name and their DSP slice.
FAMILIES = {
    "xlnx,zynqmp": ("Zynq UltraScale+", "DSP48E2"),
    "xlnx,zynq-7000": ("Zynq-7000", "DSP48E1"),
}
#: The file in which PYNQ's images set their environment, for login shells.
PYNQ_PROFILE = "etc/profile.d/pynq_venv.sh"
#: Extras for work on this package.
DEVELOPERS = ("test", "dev")
#: Steps of `bringup` that read what answers.
FIRST_STEPS = ("clocks", "identity")
AS_ROOT = "run as root, or give your group access by a udev rule"
BUILT_BY = "`make bitstream` writes NAME.bin, NAME.bit, NAME.hwh and NAME.json together"


@dataclass(frozen=True)
class Check:
    """One line of the examination."""

    name: str
    status: Status
    detail: str
    """What was found, or what is wrong."""
    remedy: str = ""
    """What to do; empty where nothing needs doing."""


@dataclass(frozen=True)
class Machine:
    """The machine that is examined: by default this one. Tests give a folder that looks like a board's root."""

    root: Path = Path("/")
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    access: Callable[[Path, int], bool] = os.access
    """Returns whether this user may read or write a file, as `os.access` does."""
    user: int = field(default_factory=getattr(os, "geteuid", lambda: 0))
    """The effective user; 0 is root."""

    def read(self, path: str) -> str | None:
        """Returns a file's text without NULs and blanks at its ends, or None."""
        try:
            text = (self.root / path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None
        return text.replace("\0", "\n").strip()

    def survey(self) -> Survey:
        """Looks for what the driver needs."""
        return Survey(self.root / "dev", self.root / "sys", self.root / "lib/firmware")


def examine(
    device: str = "auto",
    subnet: Subnet | None = None,
    *,
    identity: bool = False,
    machine: Machine | None = None,
) -> Iterator[Check]:
    """Examines the machine for a device, check by check.

    Args:
        device: a device as `Engine` takes it. ``"auto"`` examines the CPU, and the FPGA where there are signs of one.
        subnet: a subnet that the accelerator is to run; its configuration's buffers and the DMA memory must hold it.
        identity: read the accelerator's identity through its registers at the end, if nothing failed before. Where no
            accelerator answers, an Arm machine may hang.
        machine: the machine; this one by default.

    Raises:
        DeviceError: there is no device of that name.
    """
    machine = machine or Machine()
    kind = device.partition(":")[0]
    if kind not in ("auto", "cpu", "sim", "fpga", "uio", "devmem", "pynq"):
        raise DeviceError(
            f"doctor does not know device '{device}'; give auto, cpu, sim, uio, devmem:..., pynq or fpga"
        )
    yield _package()
    yield from _extras()
    yield _system(machine)
    family, board = _board(machine)
    yield board
    yield _tiers()
    if kind in ("auto", "sim"):
        yield _simulators(device)
    if kind in ("cpu", "sim"):
        return
    failed = False
    for check in _Fpga(machine, machine.survey(), device, family, subnet).checks(kind):
        failed |= check.status == "fail"
        yield check
    if identity:
        yield from _identity(device, failed)


# The software and the computer.


#: Modules that other packages give, too: OpenCV's other wheels, a system's package, a board's image.
_MODULES = {"opencv-python-headless": "cv2"}


def _version(name: str) -> str | None:
    """Returns the version of an installed package; of one whose module is there without it, what that is."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        module = _MODULES.get(name)
        # The spec of a folder without a module has no origin.
        spec = None if module is None else find_spec(module)
        return None if spec is None or spec.origin is None else f"(another package's {module})"


def _requirements(package: str) -> list[tuple[str, str, str | None]]:
    """Returns a package's requirements: name, versions, and the extra that asks for it."""
    found = []
    try:
        lines = metadata.requires(package) or []
    except metadata.PackageNotFoundError:
        return []
    for line in lines:
        requirement, _, condition = line.partition(";")
        name = re.match(r"[\w.-]+", requirement.strip())
        assert name is not None
        extra = re.search(r"extra == ['\"](\w+)['\"]", condition)
        found.append((name[0], requirement.strip()[len(name[0]) :].strip(" ()"), extra[1] if extra else None))
    return found


def _package() -> Check:
    from . import __version__

    parts = [f"quasar-rt {__version__}", f"Python {platform.python_version()}"]
    needed = [name for name, _, extra in _requirements("quasar-rt") if extra is None]
    versions = {name: _version(name) for name in needed or ["numpy", "pillow", "click", "rich"]}
    parts += [f"{name} {version}" for name, version in versions.items() if version]
    missing = [name for name, version in versions.items() if not version]
    if missing:
        return Check(
            "package", "fail", f"{', '.join(missing)} is not installed", f"pip install {' '.join(missing)}"
        )
    return Check("package", "ok", ", ".join(parts))


def _extras() -> Iterator[Check]:
    asked: dict[str, dict[str, None]] = {}
    for name, _, extra in _requirements("quasar-rt"):
        # Before Python 3.11 tomli; later the standard library has it.
        if extra not in (None, *DEVELOPERS) and (name != "tomli" or sys.version_info < (3, 11)):
            asked.setdefault(extra, {})[name] = None
    for extra, names in asked.items():
        missing = [name for name in names if _version(name) is None]
        if missing:
            yield Check(
                f"[{extra}]",
                "skipped",
                f"not installed: {', '.join(missing)}",
                f"if a command needs it: pip install 'quasar-rt[{extra}]'",
            )
        else:
            yield Check(f"[{extra}]", "ok", ", ".join(f"{name} {_version(name)}" for name in names))


def _system(machine: Machine) -> Check:
    release = machine.read("proc/sys/kernel/osrelease") or platform.release()
    named = re.search(r'^PRETTY_NAME="?([^"\n]*)', machine.read("etc/os-release") or "", re.MULTILINE)
    system = named[1] if named else platform.system()
    return Check("system", "ok", f"{system}, kernel {release}, {platform.machine()}")


def _board(machine: Machine) -> tuple[str | None, Check]:
    """Returns the SoC family, a key of `FAMILIES`, and the check."""
    compatible = (machine.read("proc/device-tree/compatible") or "").splitlines()
    model = machine.read("proc/device-tree/model")
    family = next((key for key in FAMILIES for name in compatible if name.startswith(key)), None)
    named = machine.environment.get("BOARD")
    if not compatible:
        return None, Check("board", "ok", "a computer without a device tree")
    detail = f"{model or compatible[0]}" + (f" (BOARD={named})" if named else "")
    if family is None:
        return None, Check("board", "ok", f"{detail}: no Zynq, so no accelerator")
    return family, Check("board", "ok", f"{detail}: {FAMILIES[family][0]}")


def _tiers() -> Check:
    found = cpu()
    threads = f"{found.threads} thread{'' if found.threads == 1 else 's'}"
    if found.best_tier == "scalar":
        return Check("cpu", "warn", f"{threads}, no instruction set that the kernels are written for: slow")
    supported = ", ".join(tier.name for tier in found.tiers if tier.supported)
    return Check("cpu", "ok", f"{threads}, tier {found.best_tier} (of {supported})")


def _simulators(device: str) -> Check:
    _, _, name = device.partition(":")
    try:
        names = [library.stem for library in sim_libraries()]
    except DeviceError as error:
        return Check("simulator", "fail", str(error), "correct or unset QUASAR_SIM_DIR")
    build = f"in a checkout: `make sim{f' CONFIGS={name}' if name else ''}`; or set QUASAR_SIM_DIR"
    if name and name not in names:
        return Check("simulator", "fail", f"there is no simulated accelerator '{name}'", build)
    if names:
        return Check("simulator", "ok", ", ".join(f"sim:{each}" for each in names))
    return Check("simulator", "fail" if device == "sim" else "skipped", "no simulated accelerators", build)


# The FPGA.


class _Fpga:
    """Examines the needs of an accelerator in the FPGA."""

    def __init__(
        self, machine: Machine, survey: Survey, device: str, family: str | None, subnet: Subnet | None
    ) -> None:
        self.machine = machine
        self.survey = survey
        self.device = device
        self.family = family
        self.subnet = subnet
        self.hardware: Hardware | None = None
        self.needed_bytes = 0

    def checks(self, kind: str) -> Iterator[Check]:
        if kind in ("auto", "fpga"):
            way, reason = self.way()
            if way is None:
                if kind == "auto":
                    yield Check("fpga", "skipped", reason)
                else:
                    yield Check("fpga", "fail", reason, "docs/devices.md has what each device needs")
                return
            yield Check("device", "ok", f"{way}: {reason}")
        else:
            way = kind
        yield from self.bitstream(way)
        if way == "pynq":
            yield from self.pynq()
        elif way == "devmem":
            yield from self.devmem()
        else:
            yield from self.uio()

    def way(self) -> tuple[str | None, str]:
        """Returns the way to the accelerator whose signs are there, and the sign."""
        environment = self.machine.environment
        if self.survey.uio is not None:
            return "uio", f"the UIO device {self.survey.uio} is named {UIO_NODE}"
        if "BOARD" in environment or (self.machine.root / PYNQ_PROFILE).exists():
            return "pynq", "this is an image of PYNQ"
        if named := environment.get("QUASAR_BITSTREAM"):
            return "pynq" if named.endswith(".bit") else "uio", "QUASAR_BITSTREAM names a bitstream"
        if self.survey.memory is not None:
            return "uio", f"there is the u-dma-buf {self.survey.memory}"
        if self.family is not None or self.survey.state is not None:
            return "uio", "there is an FPGA, and PYNQ is not here"
        return None, "no sign of an FPGA on this machine: engines run on the CPU"

    def bitstream(self, way: str) -> Iterator[Check]:
        name = "bitstream"
        named = self.machine.environment.get("QUASAR_BITSTREAM", "")
        if way == "pynq" and ":" in self.device:
            named = self.device.partition(":")[2]
        suffix = ".bit" if way == "pynq" else ".bin"
        if not named:
            yield Check(
                name,
                "fail",
                "QUASAR_BITSTREAM is not set",
                f"export QUASAR_BITSTREAM=/path/NAME{suffix} (NAME.json if it is loaded already); {BUILT_BY}",
            )
            return
        path = Path(named)
        if problem := why_unreadable(path):
            yield Check(
                name,
                "fail",
                f"QUASAR_BITSTREAM names {shown(str(path))}, which {problem}",
                f"correct or unset it; {BUILT_BY}",
            )
            return
        if path.suffix not in (suffix, ".json"):
            yield Check(
                name,
                "fail",
                f"{path} is not for device '{way}', which takes NAME{suffix}, or NAME.json if it is loaded already",
                f"export QUASAR_BITSTREAM={path.with_suffix(suffix)}",
            )
            return
        try:
            self.hardware, _, load = read_bitstream(path)
        except DeviceError as error:
            yield Check(
                name, "fail", str(error), "copy NAME.json and the bitstream of one build to one folder"
            )
            return
        yield self.identity_of(path)
        if way == "pynq" and not path.with_suffix(".hwh").exists():
            yield Check(
                "handoff",
                "fail",
                f"there is no {path.with_suffix('.hwh')}, which PYNQ reads",
                f"copy it there; {BUILT_BY}",
            )
        yield from self.fits()
        if load is not None:
            yield self.loading(way)

    def identity_of(self, path: Path) -> Check:
        """Compares a packaged bitstream with the board and with this package."""
        import json

        assert self.hardware is not None
        content = json.loads(read_small_text(path.with_suffix(".json")))
        array = self.hardware.settings["array"]
        board = self.hardware.board
        about = (
            f"{path.name}: {board.name}, array {array['tokens']} x {array['pairs']} x {array.get('cascade', 1)}, "
            f"{self.hardware.clock_mhz:g} MHz, configuration {content.get('configuration_hash', 'without a hash')}"
        )
        if (abi := content.get("abi", ABI)) != ABI:
            return Check(
                "bitstream",
                "fail",
                f"{about}; it has interface version {abi}, this package drives version {ABI}",
                "build the bitstream with this version's sources, or install the version that built it",
            )
        kind = board.settings["dsp_kind"]
        if self.family is not None and FAMILIES[self.family][1] != kind:
            name, slices = FAMILIES[self.family]
            return Check(
                "bitstream",
                "fail",
                f"{about}; it is for {kind} slices, and this {name} has {slices}",
                "take the bitstream of this board",
            )
        named = self.machine.environment.get("BOARD", "")
        if named and re.sub(r"\W", "", named).lower() != re.sub(r"\W", "", board.name).lower():
            return Check(
                "bitstream",
                "warn",
                f"{about}; this board calls itself {named}",
                "check that it is the bitstream of this board",
            )
        return Check("bitstream", "ok", about)

    def fits(self) -> Iterator[Check]:
        if self.subnet is None:
            return
        from .accelerator import Program

        assert self.hardware is not None
        try:
            program = Program.compile(self.subnet, self.hardware)
        except (DoesNotFitError, SettingsError) as error:
            yield Check(
                "subnet",
                "fail",
                f"{self.subnet.name}: {error}",
                "run it on the CPU, or search one for this configuration: quasar-rt search --hardware FILE",
            )
            return
        self.needed_bytes = len(program.arena)
        yield Check(
            "subnet",
            "ok",
            f"{self.subnet.name} fits; its weights and tables take {_megabytes(self.needed_bytes)} of DMA memory",
        )

    def loading(self, way: str) -> Check:
        """Checks that the bitstream can be loaded."""
        if self.survey.not_loading is not None:
            return Check(
                "loading",
                "fail",
                self.survey.not_loading,
                "or set QUASAR_BITSTREAM to NAME.json once it is loaded",
            )
        return self.permissions(
            "loading", [], self.survey.loading, "Linux loads bitstreams, and you may ask it to"
        )

    def permissions(self, name: str, nodes: list[Path], written: list[Path], well: str) -> Check:
        """Checks that files can be read and written, or only written."""
        absent = [str(path) for path in [*nodes, *written] if not path.exists()]
        if absent:
            return Check(
                name,
                "fail",
                f"there is no {', '.join(absent)}",
                "load the driver's module again; is udev (devtmpfs) running?",
            )
        refused = [path for path in nodes if not self.machine.access(path, os.R_OK | os.W_OK)]
        refused += [path for path in written if not self.machine.access(path, os.W_OK)]
        if refused:
            return Check(name, "fail", f"no permission to write {', '.join(map(str, refused))}", AS_ROOT)
        return Check(name, "ok", well)

    def state(self) -> Check:
        """Checks that the FPGA is configured, or will be by the driver."""
        state = self.survey.state
        loads = not self.machine.environment.get("QUASAR_BITSTREAM", "").endswith(".json")
        if self.survey.not_operating is not None:
            if loads and self.survey.not_loading is None:
                return Check(
                    "fpga",
                    "ok",
                    f"the FPGA manager's state is {state!r}; the driver loads the bitstream first",
                )
            return Check(
                "fpga", "fail", self.survey.not_operating, "load the bitstream before the first access"
            )
        if state is None:
            return Check(
                "fpga",
                "warn",
                "there is no FPGA manager to ask whether a bitstream is loaded",
                "make sure that it is: where nothing answers, the first access may stop the machine",
            )
        return Check("fpga", "ok", f"the FPGA manager's state is {state}")

    def cma(self, needed: bool) -> Check:
        """Checks the memory that Linux keeps for devices."""
        text = self.machine.read("proc/meminfo") or ""
        found = dict(re.findall(r"^(Cma\w+): +(\d+) kB", text, re.MULTILINE))
        total, free = (1024 * int(found.get(key, 0)) for key in ("CmaTotal", "CmaFree"))
        bad: Status = "fail" if needed else "warn"
        more = "give the kernel's command line more of it, such as cma=128M"
        if total == 0:
            return Check("cma", bad, "Linux keeps no contiguous memory for devices (CMA)", more)
        detail = f"{_megabytes(free)} free of {_megabytes(total)}"
        # A u-dma-buf has taken its own already.
        if needed and free < self.needed_bytes:
            return Check(
                "cma", bad, f"{detail}; the subnet needs more than {_megabytes(self.needed_bytes)}", more
            )
        return Check("cma", "ok", detail)

    def clocks(self) -> Iterator[Check]:
        """Checks that the clocks' status can be read."""
        if self.survey.no_clocks is not None:
            yield Check(
                "clocks",
                "fail",
                self.survey.no_clocks,
                "boot a kernel with both; AMD's and PYNQ's have them",
            )

    def uio(self) -> Iterator[Check]:
        survey = self.survey
        yield self.state()
        yield from self.clocks()
        if survey.uio is None:
            yield Check(
                "registers",
                "fail",
                f"no UIO device is named {UIO_NODE}",
                "apply the device-tree overlay (fpga/boards/quasar-*.dtso) and set "
                "uio_pdrv_genirq.of_id=generic-uio on the kernel's command line; docs/building.md has the steps",
            )
        elif survey.uio_bytes is not None and survey.uio_bytes < REGISTER_BYTES:
            yield Check(
                "registers",
                "fail",
                f"{survey.uio} has {survey.uio_bytes:#x} bytes, the registers take {REGISTER_BYTES:#x}",
                "correct `reg` of the node in the device tree",
            )
        else:
            yield Check("registers", "ok", f"{survey.uio}, named {UIO_NODE}")
        yield self.buffer()
        yield self.cma(needed=False)
        if survey.nodes:
            yield self.permissions(
                "access", survey.nodes, survey.attributes, "you may use registers and memory"
            )

    def buffer(self) -> Check:
        """Checks the u-dma-buf."""
        name, size = self.survey.memory, self.survey.memory_bytes
        if name is None:
            return Check(
                "memory",
                "fail",
                "there is no u-dma-buf",
                f"load its module (modprobe u-dma-buf) and apply the overlay with udmabuf-{UIO_NODE}; "
                "https://github.com/ikwzm/udmabuf",
            )
        if size is None:
            return Check(
                "memory",
                "fail",
                f"{name} does not state its size",
                "is it a u-dma-buf? load its module again",
            )
        if size <= self.needed_bytes:
            return Check(
                "memory",
                "fail",
                f"{name} has {_megabytes(size)}; the subnet needs more than {_megabytes(self.needed_bytes)}",
                "raise its `size` in the overlay, and cma= with it",
            )
        return Check("memory", "ok", f"{name}, {_megabytes(size)}")

    def devmem(self) -> Iterator[Check]:
        yield self.state()
        yield from self.clocks()
        try:
            _, base, size = devmem_addresses(self.device.partition(":")[2])
        except InvalidValueError as error:
            yield Check("addresses", "fail", str(error), "docs/devices.md has the form")
            return
        yield self.permissions("access", [self.machine.root / "dev/mem"], [], "you may use /dev/mem")
        options = self.kernel_options()
        if "CONFIG_IO_STRICT_DEVMEM=y" in options:
            yield Check(
                "kernel",
                "warn",
                "the kernel has CONFIG_IO_STRICT_DEVMEM: it refuses registers that a driver has claimed",
                "remove the accelerator's node from the device tree, or boot with iomem=relaxed",
            )
        yield self.reserved(base, base + size)

    def kernel_options(self) -> set[str]:
        import gzip

        release = self.machine.read("proc/sys/kernel/osrelease") or platform.release()
        text = self.machine.read(f"boot/config-{release}")
        if text is None:
            try:
                packed = (self.machine.root / "proc/config.gz").read_bytes()
                text = gzip.decompress(packed).decode(errors="replace")
            except (OSError, EOFError):
                return set()
        return set(text.splitlines())

    def reserved(self, first: int, end: int) -> Check:
        """Checks that Linux does not use a region of memory."""
        ranges = re.findall(
            r"^([0-9a-f]+)-([0-9a-f]+) : System RAM", self.machine.read("proc/iomem") or "", re.MULTILINE
        )
        bounds = [(int(low, 16), int(high, 16)) for low, high in ranges]
        region = f"{first:#x} to {end:#x}"
        if not any(high for _, high in bounds):
            return Check(
                "memory",
                "skipped",
                f"/proc/iomem shows no addresses, so {region} was not compared",
                "run as root",
            )
        if any(low < end and first <= high for low, high in bounds):
            return Check(
                "memory",
                "fail",
                f"Linux uses memory of {region}",
                "reserve it in the device tree (reserved-memory with no-map), or give an address above mem=",
            )
        return Check("memory", "ok", f"Linux leaves {region} alone")

    def pynq(self) -> Iterator[Check]:
        environment = self.machine.environment
        if find_spec("pynq") is None:
            yield Check(
                "pynq",
                "fail",
                f"pynq is not installed for {sys.executable}",
                f"use PYNQ's Python (source /{PYNQ_PROFILE}), or pip install pynq",
            )
        else:
            yield self.pynq_package()
        if "BOARD" not in environment or "XILINX_XRT" not in environment:
            missing = ", ".join(name for name in ("BOARD", "XILINX_XRT") if name not in environment)
            yield Check(
                "environment",
                "fail" if "XILINX_XRT" in missing else "warn",
                f"not set: {missing}; PYNQ finds no device without XILINX_XRT, and 'auto' no board without BOARD",
                "work in a login shell (sudo -i keeps one), or: for f in /etc/profile.d/*.sh; do . $f; done",
            )
        if self.machine.user != 0:
            yield Check("user", "fail", "PYNQ maps registers for root alone", "work as root: sudo -i")
        yield from self.clocks()
        yield self.cma(needed=True)

    def pynq_package(self) -> Check:
        version, numpy = _version("pynq") or "of unknown version", _version("numpy") or "0"
        limit = next((text for name, text, _ in _requirements("pynq") if name == "numpy"), "")
        if not limit and version.startswith("3."):
            limit = "<2.0"  # pynq 3.0 does not declare that NumPy 2 breaks its buffers
        most = re.search(r"<\s*(\d+)", limit)
        if most and int(numpy.split(".")[0]) >= int(most[1]):
            return Check(
                "pynq",
                "fail",
                f"pynq {version} needs numpy {limit}, and {numpy} is installed",
                "pip uninstall numpy, if the image has its own below it; "
                f"otherwise pip install --only-binary :all: 'numpy{limit}'",
            )
        return Check("pynq", "ok", f"pynq {version}, numpy {numpy}")


def _identity(device: str, failed: bool) -> Iterator[Check]:
    """Reads the clocks' status, then the accelerator's identity: the first steps of `bringup`."""
    if failed:
        yield Check(
            "identity",
            "skipped",
            "not read: where nothing answers, the first access may stop the machine",
            "correct the failures first",
        )
        return
    from .bringup import bringup

    try:
        steps = list(bringup("fpga" if device == "auto" else device, None, only=FIRST_STEPS))
    except QuasarError as error:
        yield Check("identity", "fail", str(error), "quasar-rt bringup goes on from here")
        return
    for outcome in steps:
        if outcome.step in FIRST_STEPS:
            status: Status = {"pass": "ok", "fail": "fail", "skipped": "skipped"}[outcome.status]  # type: ignore[assignment]
            yield Check(outcome.step, status, outcome.detail, "; ".join(outcome.places))


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
