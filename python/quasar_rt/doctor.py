"""Examines this machine: what a device needs, what is there, and what to do about the difference.

`examine` reads files of ``/proc``, ``/sys`` and ``/dev`` and the environment. It opens no device, so it is safe on a
board whose FPGA does not answer; `bringup` reads registers.

Depends on the native module (`Survey` has what the driver needs), `device` and `accelerator`.
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
from .errors import DeviceError, DoesNotFitError, InvalidValueError, SettingsError
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
AS_ROOT = "run as root, or give your group access by a udev rule"
OVERLAY = (
    "apply the device-tree overlay (fpga/boards/quasar-*.dtso) and set uio_pdrv_genirq.of_id=generic-uio on the "
    "kernel's command line; docs/building.md has the steps"
)
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

    def release(self) -> str:
        """Returns the kernel's release."""
        return self.read("proc/sys/kernel/osrelease") or platform.release()

    def kernel_options(self) -> set[str]:
        """Returns the lines of the kernel's configuration; none where it is not told."""
        import gzip

        text = self.read(f"boot/config-{self.release()}")
        if text is None:
            try:
                packed = (self.root / "proc/config.gz").read_bytes()
                text = gzip.decompress(packed).decode(errors="replace")
            except (OSError, EOFError):
                return set()
        return set(text.splitlines())

    def survey(self) -> Survey:
        """Looks for what the driver needs."""
        return Survey(self.root / "dev", self.root / "sys", self.root / "lib/firmware")


def _ok(name: str, detail: str) -> Check:
    return Check(name, "ok", detail)


def _warn(name: str, detail: str, remedy: str) -> Check:
    return Check(name, "warn", detail, remedy)


def _fail(name: str, detail: str, remedy: str) -> Check:
    return Check(name, "fail", detail, remedy)


def examine(
    device: str = "auto",
    subnet: Subnet | None = None,
    *,
    machine: Machine | None = None,
) -> Iterator[Check]:
    """Examines the machine for a device, check by check.

    Args:
        device: a device as `Engine` takes it. ``"auto"`` examines the CPU, and the FPGA where there are signs of one.
        subnet: a subnet that the accelerator is to run; its configuration's buffers and the DMA memory must hold it.
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
    yield from _Fpga(machine, machine.survey(), device, family, subnet).checks(kind)


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
    try:
        lines = metadata.requires(package) or []
    except metadata.PackageNotFoundError:
        return []
    found = []
    for line in lines:
        requirement, _, condition = line.partition(";")
        name, versions = re.match(r"\s*([\w.-]+)(.*)", requirement).groups()  # type: ignore[union-attr]
        extra = re.search(r"extra == ['\"](\w+)['\"]", condition)
        found.append((name, versions.strip(" ()"), extra[1] if extra else None))
    return found


def _package() -> Check:
    from . import __version__

    needed = [name for name, _, extra in _requirements("quasar-rt") if extra is None]
    versions = {name: _version(name) for name in needed or ["numpy", "pillow", "click", "rich"]}
    if missing := [name for name, version in versions.items() if not version]:
        return _fail("package", f"{', '.join(missing)} is not installed", f"pip install {' '.join(missing)}")
    parts = [f"quasar-rt {__version__}", f"Python {platform.python_version()}"]
    return _ok("package", ", ".join([*parts, *(f"{name} {version}" for name, version in versions.items())]))


def _extras() -> Iterator[Check]:
    asked: dict[str, dict[str, None]] = {}
    for name, _, extra in _requirements("quasar-rt"):
        # Before Python 3.11 tomli; later the standard library has it.
        if extra not in (None, *DEVELOPERS) and (name != "tomli" or sys.version_info < (3, 11)):
            asked.setdefault(extra, {})[name] = None
    for extra, names in asked.items():
        if missing := [name for name in names if _version(name) is None]:
            remedy = f"if a command needs it: pip install 'quasar-rt[{extra}]'"
            yield Check(f"[{extra}]", "skipped", f"not installed: {', '.join(missing)}", remedy)
        else:
            yield _ok(f"[{extra}]", ", ".join(f"{name} {_version(name)}" for name in names))


def _system(machine: Machine) -> Check:
    named = re.search(r'^PRETTY_NAME="?([^"\n]*)', machine.read("etc/os-release") or "", re.MULTILINE)
    system = named[1] if named else platform.system()
    return _ok("system", f"{system}, kernel {machine.release()}, {platform.machine()}")


def _board(machine: Machine) -> tuple[str | None, Check]:
    """Returns the SoC family, a key of `FAMILIES`, and the check."""
    compatible = (machine.read("proc/device-tree/compatible") or "").splitlines()
    if not compatible:
        return None, _ok("board", "a computer without a device tree")
    family = next((key for key in FAMILIES for name in compatible if name.startswith(key)), None)
    named = machine.environment.get("BOARD")
    detail = machine.read("proc/device-tree/model") or compatible[0]
    detail += f" (BOARD={named})" if named else ""
    kind = "no Zynq, so no accelerator" if family is None else FAMILIES[family][0]
    return family, _ok("board", f"{detail}: {kind}")


def _tiers() -> Check:
    found = cpu()
    threads = f"{found.threads} thread{'' if found.threads == 1 else 's'}"
    if found.best_tier == "scalar":
        return Check("cpu", "warn", f"{threads}, no instruction set that the kernels are written for: slow")
    supported = ", ".join(tier.name for tier in found.tiers if tier.supported)
    return _ok("cpu", f"{threads}, tier {found.best_tier} (of {supported})")


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


@dataclass
class _Fpga:
    """Examines the needs of an accelerator in the FPGA."""

    machine: Machine
    survey: Survey
    device: str
    family: str | None
    subnet: Subnet | None
    hardware: Hardware | None = None
    needed_bytes: int = 0

    @property
    def named(self) -> str:
        """The bitstream that the environment names, or ""."""
        return self.machine.environment.get("QUASAR_BITSTREAM", "")

    def checks(self, kind: str) -> Iterator[Check]:
        way: str | None = kind
        if kind in ("auto", "fpga"):
            way, reason = self.way()
            if way is None and kind == "auto":
                yield Check("fpga", "skipped", reason)
            elif way is None:
                yield _fail("fpga", reason, "docs/devices.md has what each device needs")
            else:
                yield _ok("device", f"{way}: {reason}")
        if way is not None:
            yield from self.bitstream(way)
            yield from {"pynq": self.pynq, "devmem": self.devmem}.get(way, self.uio)()

    def way(self) -> tuple[str | None, str]:
        """Returns the way to the accelerator whose signs are there, and the sign."""
        if self.survey.uio is not None:
            return "uio", f"the UIO device {self.survey.uio} is named {UIO_NODE}"
        if "BOARD" in self.machine.environment or (self.machine.root / PYNQ_PROFILE).exists():
            return "pynq", "this is an image of PYNQ"
        if self.named:
            return "pynq" if self.named.endswith(".bit") else "uio", "QUASAR_BITSTREAM names a bitstream"
        if self.survey.memory is not None:
            return "uio", f"there is the u-dma-buf {self.survey.memory}"
        if self.family is not None or self.survey.state is not None:
            return "uio", "there is an FPGA, and PYNQ is not here"
        return None, "no sign of an FPGA on this machine: engines run on the CPU"

    def bitstream(self, way: str) -> Iterator[Check]:
        named = self.device.partition(":")[2] if way == "pynq" and ":" in self.device else self.named
        suffix = ".bit" if way == "pynq" else ".bin"
        path = Path(named)
        if not named:
            remedy = f"export QUASAR_BITSTREAM=/path/NAME{suffix} (NAME.json if it is loaded already)"
            yield _fail("bitstream", "QUASAR_BITSTREAM is not set", f"{remedy}; {BUILT_BY}")
            return
        if problem := why_unreadable(path):
            detail = f"QUASAR_BITSTREAM names {shown(str(path))}, which {problem}"
            yield _fail("bitstream", detail, f"correct or unset it; {BUILT_BY}")
            return
        if path.suffix not in (suffix, ".json"):
            detail = f"takes NAME{suffix}, or NAME.json if it is loaded already"
            remedy = f"export QUASAR_BITSTREAM={path.with_suffix(suffix)}"
            yield _fail("bitstream", f"{path} is not for device '{way}', which {detail}", remedy)
            return
        try:
            self.hardware, _, load = read_bitstream(path)
        except DeviceError as error:
            yield _fail(
                "bitstream", str(error), "copy NAME.json and the bitstream of one build to one folder"
            )
            return
        yield self.identity_of(path, self.hardware)
        handoff = path.with_suffix(".hwh")
        if way == "pynq" and not handoff.exists():
            yield _fail("handoff", f"there is no {handoff}, which PYNQ reads", f"copy it there; {BUILT_BY}")
        if self.subnet is not None:
            yield self.fits(self.subnet, self.hardware)
        if load is not None:
            yield self.loading()

    def identity_of(self, path: Path, hardware: Hardware) -> Check:
        """Compares a packaged bitstream with the board and with this package."""
        import json

        content = json.loads(read_small_text(path.with_suffix(".json")))
        array, board = hardware.settings["array"], hardware.board
        about = (
            f"{path.name}: {board.name}, array {array['tokens']} x {array['pairs']} x {array.get('cascade', 1)}, "
            f"{hardware.clock_mhz:g} MHz, configuration {content.get('configuration_hash', 'without a hash')}"
        )
        if (abi := content.get("abi", ABI)) != ABI:
            about += f"; it has interface version {abi}, this package drives version {ABI}"
            remedy = "build the bitstream with this version's sources, or install the version that built it"
            return _fail("bitstream", about, remedy)
        kind = board.settings["dsp_kind"]
        if self.family is not None and FAMILIES[self.family][1] != kind:
            name, slices = FAMILIES[self.family]
            about += f"; it is for {kind} slices, and this {name} has {slices}"
            return _fail("bitstream", about, "take the bitstream of this board")
        named = self.machine.environment.get("BOARD", "")
        if named and re.sub(r"\W", "", named).lower() != re.sub(r"\W", "", board.name).lower():
            about += f"; this board calls itself {named}"
            return _warn("bitstream", about, "check that it is the bitstream of this board")
        return _ok("bitstream", about)

    def fits(self, subnet: Subnet, hardware: Hardware) -> Check:
        from .accelerator import Program

        try:
            self.needed_bytes = len(Program.compile(subnet, hardware).arena)
        except (DoesNotFitError, SettingsError) as error:
            remedy = (
                "run it on the CPU, or search one for this configuration: quasar-rt search --hardware FILE"
            )
            return _fail("subnet", f"{subnet.name}: {error}", remedy)
        needed = _megabytes(self.needed_bytes)
        return _ok("subnet", f"{subnet.name} fits; its weights and tables take {needed} of DMA memory")

    def loading(self) -> Check:
        """Checks that the bitstream can be loaded."""
        if self.survey.not_loading is not None:
            remedy = "or set QUASAR_BITSTREAM to NAME.json once it is loaded"
            return _fail("loading", self.survey.not_loading, remedy)
        well = "Linux loads bitstreams, and you may ask it to"
        return self.permissions("loading", [], self.survey.loading, well)

    def permissions(self, name: str, nodes: list[Path], written: list[Path], well: str) -> Check:
        """Checks that files can be read and written, or only written."""
        if absent := [str(path) for path in [*nodes, *written] if not path.exists()]:
            remedy = "load the driver's module again; is udev (devtmpfs) running?"
            return _fail(name, f"there is no {', '.join(absent)}", remedy)
        access = self.machine.access
        refused = [str(path) for path in nodes if not access(path, os.R_OK | os.W_OK)]
        refused += [str(path) for path in written if not access(path, os.W_OK)]
        if refused:
            return _fail(name, f"no permission to write {', '.join(refused)}", AS_ROOT)
        return _ok(name, well)

    def state(self) -> Check:
        """Checks that the FPGA is configured, or will be by the driver."""
        state = self.survey.state
        if self.survey.not_operating is not None:
            if not self.named.endswith(".json") and self.survey.not_loading is None:
                detail = f"the FPGA manager's state is {state!r}; the driver loads the bitstream first"
                return _ok("fpga", detail)
            return _fail("fpga", self.survey.not_operating, "load the bitstream before the first access")
        if state is None:
            detail = "there is no FPGA manager to ask whether a bitstream is loaded"
            remedy = "make sure that it is: where nothing answers, the first access may stop the machine"
            return _warn("fpga", detail, remedy)
        return _ok("fpga", f"the FPGA manager's state is {state}")

    def cma(self, needed: bool) -> Check:
        """Checks the memory that Linux keeps for devices."""
        text = self.machine.read("proc/meminfo") or ""
        found = dict(re.findall(r"^(Cma\w+): +(\d+) kB", text, re.MULTILINE))
        total, free = (1024 * int(found.get(key, 0)) for key in ("CmaTotal", "CmaFree"))
        detail = f"{_megabytes(free)} free of {_megabytes(total)}"
        if total == 0:
            detail = "Linux keeps no contiguous memory for devices (CMA)"
        # A u-dma-buf has taken its own already.
        elif needed and free < self.needed_bytes:
            detail += f"; the subnet needs more than {_megabytes(self.needed_bytes)}"
        else:
            return _ok("cma", detail)
        more = "give the kernel's command line more of it, such as cma=128M"
        return Check("cma", "fail" if needed else "warn", detail, more)

    def clocks(self) -> Iterator[Check]:
        """Checks that the clocks' status can be read."""
        if self.survey.no_clocks is not None:
            yield _fail(
                "clocks", self.survey.no_clocks, "boot a kernel with both; AMD's and PYNQ's have them"
            )

    def uio(self) -> Iterator[Check]:
        survey = self.survey
        yield self.state()
        yield from self.clocks()
        if survey.uio is None:
            yield _fail("registers", f"no UIO device is named {UIO_NODE}", OVERLAY)
        elif survey.uio_bytes is not None and survey.uio_bytes < REGISTER_BYTES:
            detail = f"{survey.uio} has {survey.uio_bytes:#x} bytes, the registers take {REGISTER_BYTES:#x}"
            yield _fail("registers", detail, "correct `reg` of the node in the device tree")
        else:
            yield _ok("registers", f"{survey.uio}, named {UIO_NODE}")
        yield self.buffer()
        yield self.cma(needed=False)
        if survey.nodes:
            well = "you may use registers and memory"
            yield self.permissions("access", survey.nodes, survey.attributes, well)

    def buffer(self) -> Check:
        """Checks the u-dma-buf."""
        name, size = self.survey.memory, self.survey.memory_bytes
        if name is None:
            remedy = f"load its module (modprobe u-dma-buf) and apply the overlay with udmabuf-{UIO_NODE}; "
            return _fail("memory", "there is no u-dma-buf", remedy + "https://github.com/ikwzm/udmabuf")
        if size is None:
            remedy = "is it a u-dma-buf? load its module again"
            return _fail("memory", f"{name} does not state its size", remedy)
        if size <= self.needed_bytes:
            detail = f"has {_megabytes(size)}; the subnet needs more than {_megabytes(self.needed_bytes)}"
            return _fail("memory", f"{name} {detail}", "raise its `size` in the overlay, and cma= with it")
        return _ok("memory", f"{name}, {_megabytes(size)}")

    def devmem(self) -> Iterator[Check]:
        yield self.state()
        yield from self.clocks()
        try:
            _, base, size = devmem_addresses(self.device.partition(":")[2])
        except InvalidValueError as error:
            yield _fail("addresses", str(error), "docs/devices.md has the form")
            return
        yield self.permissions("access", [self.machine.root / "dev/mem"], [], "you may use /dev/mem")
        if "CONFIG_IO_STRICT_DEVMEM=y" in self.machine.kernel_options():
            detail = "the kernel has CONFIG_IO_STRICT_DEVMEM: it refuses registers that a driver has claimed"
            remedy = "remove the accelerator's node from the device tree, or boot with iomem=relaxed"
            yield _warn("kernel", detail, remedy)
        yield self.reserved(base, base + size)

    def reserved(self, first: int, end: int) -> Check:
        """Checks that Linux does not use a region of memory."""
        text = self.machine.read("proc/iomem") or ""
        ranges = re.findall(r"^([0-9a-f]+)-([0-9a-f]+) : System RAM", text, re.MULTILINE)
        bounds = [(int(low, 16), int(high, 16)) for low, high in ranges]
        region = f"{first:#x} to {end:#x}"
        if not any(high for _, high in bounds):
            detail = f"/proc/iomem shows no addresses, so {region} was not compared"
            return Check("memory", "skipped", detail, "run as root")
        if any(low < end and first <= high for low, high in bounds):
            remedy = (
                "reserve it in the device tree (reserved-memory with no-map), or give an address above mem="
            )
            return _fail("memory", f"Linux uses memory of {region}", remedy)
        return _ok("memory", f"Linux leaves {region} alone")

    def pynq(self) -> Iterator[Check]:
        if find_spec("pynq") is None:
            remedy = f"use PYNQ's Python (source /{PYNQ_PROFILE}), or pip install pynq"
            yield _fail("pynq", f"pynq is not installed for {sys.executable}", remedy)
        else:
            yield _pynq_package()
        missing = [name for name in ("BOARD", "XILINX_XRT") if name not in self.machine.environment]
        if missing:
            detail = (
                f"not set: {', '.join(missing)}; PYNQ finds no device without XILINX_XRT, and 'auto' no board"
            )
            remedy = (
                "work in a login shell (sudo -i keeps one), or: for f in /etc/profile.d/*.sh; do . $f; done"
            )
            status: Status = "fail" if "XILINX_XRT" in missing else "warn"
            yield Check("environment", status, f"{detail} without BOARD", remedy)
        if self.machine.user != 0:
            yield _fail("user", "PYNQ maps registers for root alone", "work as root: sudo -i")
        yield from self.clocks()
        yield self.cma(needed=True)


def _pynq_package() -> Check:
    version, numpy = _version("pynq") or "of unknown version", _version("numpy") or "0"
    limit = next((text for name, text, _ in _requirements("pynq") if name == "numpy"), "")
    if not limit and version.startswith("3."):
        limit = "<2.0"  # pynq 3.0 does not declare that NumPy 2 breaks its buffers
    most = re.search(r"<\s*(\d+)", limit)
    if most and int(numpy.split(".")[0]) >= int(most[1]):
        detail = f"pynq {version} needs numpy {limit}, and {numpy} is installed"
        remedy = "pip uninstall numpy, if the image has its own below it; otherwise "
        return _fail("pynq", detail, f"{remedy}pip install --only-binary :all: 'numpy{limit}'")
    return _ok("pynq", f"pynq {version}, numpy {numpy}")


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
