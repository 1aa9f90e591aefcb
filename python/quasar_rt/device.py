"""Devices of this machine: the CPU, an FPGA, simulated accelerators. `open_device` opens one for an engine.

Depends on the native module, `arguments`, `errors`, `files` and `hardware`; on `pynq` for an FPGA alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ._native import UIO_NODE, Trials, default_threads, sim_configuration
from ._native import Engine as NativeEngine
from ._native import tiers as native_tiers
from .arguments import did_you_mean, is_utf8, shown
from .errors import DeviceError, DeviceUnavailableError, DoesNotFitError, InvalidValueError, QuasarError
from .files import read_small_text, reason, why_unreadable

if TYPE_CHECKING:
    from .hardware import Hardware
    from .subnet import Subnet

_Field = TypeVar("_Field")

__all__ = ["Device", "Tier", "automatic", "cpu", "devices", "open_device"]

#: The folder in which the kernel lists UIO devices.
UIO_CLASS = Path("/sys/class/uio")
#: Values of an engine's arguments, for messages.
TIERS = "a tier of quasar_rt.devices, such as 'scalar'"
WEIGHTS = "'unpacked' or 'packed'"
#: Largest seed of a simulated accelerator.
MOST_SEED = (1 << 64) - 1
NO_FPGA = "no accelerator was found in an FPGA"


@dataclass(frozen=True)
class Tier:
    """An instruction set that the CPU's kernels are written for."""

    name: str
    """The value for ``Engine(tier=...)`` and ``QUASAR_TIER``."""
    supported: bool
    """True if this CPU has it."""


@dataclass(frozen=True)
class Device:
    """A device that an engine can run on."""

    name: str
    """The value for ``Engine(device=...)``."""
    threads: int
    """The default number of an engine's threads."""
    tiers: tuple[Tier, ...] = ()
    """The tiers of the CPU from the plainest to the fastest; empty for other devices."""
    about: str = ""
    """A description, with the place where it was found."""

    @property
    def best_tier(self) -> str | None:
        """The default tier of an engine."""
        return next((tier.name for tier in reversed(self.tiers) if tier.supported), None)


def devices() -> list[Device]:
    """Returns the devices of this machine; the first is the one that ``"auto"`` tries first.

    >>> [device.name for device in devices() if not device.name.startswith("sim:")]
    ['cpu']
    """
    simulated = [
        Device(f"sim:{library.stem}", 1, (), f"simulated accelerator, {library}")
        for library in sim_libraries()
    ]
    return [*_fpgas(), cpu(), *simulated]


def automatic() -> tuple[str, str]:
    """Returns the device that ``"auto"`` tries first, and why; `Engine.device_reason` has the outcome for a subnet.

    Raises:
        DeviceUnavailableError: ``QUASAR_BITSTREAM`` names no file that can be read.
    """
    _check_named_bitstream()
    first = devices()[0]
    return first.name, first.about or NO_FPGA


def cpu() -> Device:
    """Returns the CPU with its tiers."""
    tiers = tuple(Tier(name, supported) for name, supported in native_tiers())
    return Device("cpu", default_threads(), tiers)


def _fpgas() -> Iterator[Device]:
    for name in sorted(UIO_CLASS.glob("uio*/name")):
        if name.read_text(encoding="utf-8").strip() == UIO_NODE:
            yield Device("uio", 1, (), f"accelerator in the FPGA, /dev/{name.parent.name}")
    # The marker of PYNQ's images; PYNQ itself is imported only when it is asked for.
    if "BOARD" in os.environ and _pynq_bitstream() is not None:
        yield Device("pynq", 1, (), f"accelerator of {_pynq_bitstream()}, board {os.environ['BOARD']}")


def _pynq_bitstream() -> str | None:
    path = os.environ.get("QUASAR_BITSTREAM", "")
    return path if path.endswith((".bit", ".json")) else None


def _why_no_pynq() -> str:
    """Returns why this machine counts as none with PYNQ."""
    path = os.environ.get("QUASAR_BITSTREAM")
    if not path:
        return "QUASAR_BITSTREAM is not set"
    if problem := why_unreadable(Path(path)):
        return f"QUASAR_BITSTREAM names {shown(path)}, which {problem}"
    if _pynq_bitstream() is None:
        return f"QUASAR_BITSTREAM names {shown(path)}, which is no .bit for PYNQ"
    return "BOARD, which PYNQ's images set, is not set"


def _check_named_bitstream() -> None:
    """Raises `DeviceUnavailableError` if ``QUASAR_BITSTREAM`` names no file that can be read."""
    path = os.environ.get("QUASAR_BITSTREAM")
    if path and (problem := why_unreadable(Path(path))):
        raise DeviceUnavailableError(
            f"QUASAR_BITSTREAM names {shown(path)}, which {problem}; correct or unset it, or ask for device 'cpu'"
        )


def sim_folder() -> Path | None:
    """Returns the folder of simulated accelerators: ``QUASAR_SIM_DIR``, or ``build/sim`` of a checkout, or None."""
    if named := os.environ.get("QUASAR_SIM_DIR"):
        return Path(named)
    checkout = Path(__file__).resolve().parents[2]
    return checkout / "build" / "sim" if (checkout / "fpga" / "Makefile").exists() else None


def sim_libraries() -> list[Path]:
    """Returns the libraries in `sim_folder`, by name; none if there is no such folder.

    Raises:
        DeviceUnavailableError: ``QUASAR_SIM_DIR`` names a folder that cannot be read.
    """
    folder = sim_folder()
    if folder is None:
        return []
    try:
        folder.stat()  # `glob` hides some errors
        return sorted(folder.glob("*.so"))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise DeviceUnavailableError(
            f"the folder of simulated accelerators {shown(str(folder))} cannot be read ({reason(error)}); "
            "correct or unset QUASAR_SIM_DIR"
        ) from None


def open_device(
    subnet: Subnet,
    name: str,
    threads: int | None,
    tier: str | None,
    timeout: float | None,
    weights: str | None,
    wait: float,
) -> tuple[NativeEngine, str, str]:
    """Opens the device `name`; returns the engine, the device's own name and the reason for the choice.

    Waits `wait` seconds for an accelerator that another engine or process uses.

    Raises:
        DeviceError: this machine has no such device, or it cannot be used.
        DoesNotFitError: the subnet does not fit the accelerator's buffers.
    """
    if name == "auto":
        return _automatic(subnet, threads, tier, timeout, weights, wait)
    kind, _, rest = name.partition(":")
    if kind != "cpu" and tier is not None:
        raise InvalidValueError(f"tier is {shown(tier)}; only the CPU has tiers, not device '{name}'")
    if kind != "cpu" and weights is not None:
        raise InvalidValueError(
            f"weights is {shown(weights)}; the choice is the CPU's, not device '{name}''s"
        )
    asked = "asked for"
    if name == "cpu":
        tier = _or_environment(tier, "QUASAR_TIER", TIERS)
        weights = _or_environment(weights, "QUASAR_WEIGHTS", WEIGHTS)
        return NativeEngine(subnet._inner, threads, tier, weights), "cpu", asked
    if kind == "sim":
        return _simulated(subnet, rest, timeout)
    if name.endswith(".so"):
        path = Path(name)
        return _open_library(subnet, path, _configuration(path), timeout), f"sim:{path.stem}", asked
    if name == "fpga":
        errors = []
        for device in _fpgas():
            try:
                return (
                    _fpga(subnet, device.name, "", timeout, wait),
                    device.name,
                    f"{device.about}; {asked}",
                )
            except DeviceError as error:
                errors.append(str(error))
        raise DeviceUnavailableError(
            "device 'fpga': there is no accelerator in an FPGA here: "
            + ("; ".join(errors) or f"no UIO device is named {UIO_NODE}, and {_why_no_pynq()}")
        )
    if kind in ("uio", "devmem", "pynq"):
        return _fpga(subnet, kind, rest, timeout, wait), kind, asked
    names = [device.name for device in devices()]
    near = did_you_mean(name, [*names, "auto", "fpga", "sim"])
    raise DeviceError(
        f"there is no device {shown(name)}{near} (this machine has: {', '.join(names)}, and 'auto')"
    )


def _or_environment(value: str | None, variable: str, names: str) -> str | None:
    if value is not None:
        return value
    value = os.environ.get(variable) or None
    if value is not None and not is_utf8(value):
        raise InvalidValueError(f"{variable} is {shown(value)}; it must be {names} (or unset)")
    return value


def _automatic(
    subnet: Subnet,
    threads: int | None,
    tier: str | None,
    timeout: float | None,
    weights: str | None,
    wait: float,
) -> tuple[NativeEngine, str, str]:
    why = NO_FPGA
    if tier is not None:
        why = f"tier {shown(tier)} was asked for"
    elif weights is not None:
        why = f"weights {shown(weights)} were asked for"
    else:
        _check_named_bitstream()
        for device in _fpgas():
            try:
                return _fpga(subnet, device.name, "", timeout, wait), device.name, f"{device.about}"
            except QuasarError as error:
                why = f"{device.about}, cannot be used: {error}"
    engine, name, _ = open_device(subnet, "cpu", threads, tier, timeout, weights, wait)
    return engine, name, why


# Simulated accelerators.


def _configuration(library: Path) -> Hardware:
    from .hardware import Hardware

    return Hardware.from_toml(sim_configuration(library))


def _open_library(subnet: Subnet, library: Path, hardware: Hardware, timeout: float | None) -> NativeEngine:
    return NativeEngine.simulated(subnet._inner, hardware._inner, library, _sim_seed(), timeout)


def _sim_seed() -> int:
    text = os.environ.get("QUASAR_SIM_SEED", "0")
    # `isdigit` alone accepts digits of other scripts, and `int` refuses texts that are very long.
    if not (
        text.isascii() and text.isdigit() and len(text) <= len(str(MOST_SEED)) and int(text) <= MOST_SEED
    ):
        raise InvalidValueError(
            f"QUASAR_SIM_SEED is {shown(text)}; it must be a whole number from 0 to {MOST_SEED}"
        )
    return int(text)


def _simulators(name: str) -> list[tuple[Path, Hardware]]:
    """Returns the simulated accelerators of that name, or all for an empty one, the smallest array first."""
    found = [library for library in sim_libraries() if name in ("", library.stem)]
    if not found:
        others = ", ".join(library.stem for library in sim_libraries())
        raise DeviceUnavailableError(
            f"there is no simulated accelerator{f' {shown(name)}' if name else ''}"
            + (f" in {shown(str(sim_folder()))}" if sim_folder() else "")
            + (f" (there are: {others})" if others else "")
            + f"; build it with `make sim{f' CONFIGS={name}' if name else ''}` (needs a checkout and a C++20 compiler "
            "such as g++), or set QUASAR_SIM_DIR"
        )
    opened = [(library, _configuration(library)) for library in found]
    opened.sort(
        key=lambda pair: prod(pair[1].settings["array"][size] for size in ("tokens", "pairs", "cascade"))
    )
    return opened


def _simulated(subnet: Subnet, name: str, timeout: float | None) -> tuple[NativeEngine, str, str]:
    misfit: DoesNotFitError | None = None
    for library, hardware in _simulators(name):
        try:
            engine = _open_library(subnet, library, hardware, timeout)
        except DoesNotFitError as error:
            misfit = DoesNotFitError(f"sim:{library.stem}: {error}")
            continue
        why = "asked for" if name else f"the smallest simulated accelerator that '{subnet.name}' fits"
        return engine, f"sim:{library.stem}", why
    assert misfit is not None
    raise misfit


# Accelerators in an FPGA.


def read_bitstream(path: Path) -> tuple[Hardware, float, Path | None]:
    """Reads the description of a packaged bitstream.

    Returns the configuration, the fabric's clock in Hz and the file to load, which is None if `path` is the description
    itself.

    ``tools/bitstream.py`` writes NAME.json next to NAME.bit and NAME.bin: the configuration, the clock that the
    processing system makes for it, and the files' digests.

    Raises:
        DeviceUnavailableError: there is no valid description, or it describes another bitstream.
    """
    from .hardware import Hardware

    if problem := why_unreadable(path):
        raise DeviceUnavailableError(
            f"bitstream {shown(str(path))} {problem}; name a file that `make bitstream` wrote"
        )
    description = path.with_suffix(".json")
    if problem := why_unreadable(description):
        raise DeviceUnavailableError(
            f"bitstream {shown(str(path))} has no description: {shown(str(description))} {problem}; "
            "`make bitstream` writes both"
        )
    try:
        content = json.loads(read_small_text(description))
        hardware = Hardware.from_toml(_field(content, "hardware", str))
        hertz = _field(content, "clock_hz", int)
        if abs(hertz / (1e6 * hardware.clock_mhz) - 1) > 0.2:
            raise ValueError(f"clock_hz is {hertz}, but the configuration has {hardware.clock_mhz:g} MHz")
        digest = _field(content, "sha256", dict).get(path.name)
        if path == description:
            return hardware, hertz, None
        import hashlib

        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DeviceUnavailableError(
            f"bitstream {shown(str(path))} cannot be read ({reason(error)}); name a file that `make bitstream` wrote"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DeviceUnavailableError(
            f"{shown(str(description))} does not describe a bitstream ({error}); `make bitstream` writes it"
        ) from error
    if found != digest:
        raise DeviceUnavailableError(
            f"bitstream {shown(str(path))} has the sha256 {found}, not {digest} as {description.name} states: "
            "they are of different builds"
        )
    return hardware, hertz, path


def _field(content: Any, key: str, kind: type[_Field]) -> _Field:
    """Returns a field of a description, as `json.loads` gives it; raises ValueError if it is of another kind."""
    if not isinstance(content, dict):
        raise ValueError("it is no JSON object")
    if key not in content:
        raise ValueError(f"the field {key!r} is missing")
    value = content[key]
    if not isinstance(value, kind):
        names: dict[type, str] = {str: "text", dict: "object", int: "whole number"}
        raise ValueError(f"the field {key!r} is {shown(value)}, no {names[kind]}")
    return value


@dataclass(frozen=True)
class _Fpga:
    """A way to the FPGA, and what its bitstream holds."""

    kind: str
    hardware: Hardware
    hertz: float
    """The fabric's clock that the bitstream was built for."""
    path: Path
    """The packaged bitstream, or its description."""
    bitstream: tuple[Path, float] | None
    """The file to load and its clock; None if it is loaded already."""
    addresses: tuple[int, int, int] | None
    """Those of ``devmem``."""

    def pynq_transport(self, wait: float = 0) -> object:
        from .pynq import Transport

        return Transport.load(self.path.with_suffix(".bit"), self.bitstream is not None, wait)

    def engine(self, subnet: Subnet, timeout: float | None, wait: float = 0) -> NativeEngine:
        if self.kind == "pynq":
            transport = self.pynq_transport(wait)
            return NativeEngine.attached(subnet._inner, self.hardware._inner, transport, timeout, wait)
        return NativeEngine.uio(
            subnet._inner, self.hardware._inner, self.addresses, self.bitstream, None, timeout, wait
        )

    def trials(self, limit: float) -> Trials:
        if self.kind == "pynq":
            return Trials.attached(self.hardware._inner, self.pynq_transport(), limit)
        return Trials.uio(self.hardware._inner, self.addresses, self.bitstream, None, limit)


def devmem_addresses(rest: str) -> tuple[int, int, int]:
    """Reads what follows ``devmem:``: the addresses of registers and of memory, and the memory's bytes.

    Raises:
        InvalidValueError: these are not three numbers.
    """
    try:
        registers, base, size = (int(number, 0) for number in rest.split(":"))
    except ValueError:
        raise InvalidValueError(
            f"device 'devmem:{rest}': give addresses, devmem:REGISTERS:MEMORY:BYTES, such as "
            "devmem:0xa0000000:0x70000000:0x4000000"
        ) from None
    return registers, base, size


def _find_fpga(kind: str, rest: str) -> _Fpga:
    path = rest if kind == "pynq" and rest else os.environ.get("QUASAR_BITSTREAM", "")
    if not path:
        raise DeviceUnavailableError(
            f"device '{kind}': QUASAR_BITSTREAM does not name the packaged bitstream (NAME.bin, NAME.bit for PYNQ; "
            "NAME.json, if it is loaded already)"
        )
    hardware, hertz, bitstream = read_bitstream(Path(path))
    addresses = devmem_addresses(rest) if kind == "devmem" else None
    if kind != "pynq" and not hasattr(NativeEngine, "uio"):
        raise DeviceUnavailableError(f"device '{kind}' needs Linux")
    return _Fpga(kind, hardware, hertz, Path(path), (bitstream, hertz) if bitstream else None, addresses)


def _fpga(subnet: Subnet, kind: str, rest: str, timeout: float | None, wait: float) -> NativeEngine:
    return _find_fpga(kind, rest).engine(subnet, timeout, wait)


# Accelerators without a subnet yet, for `bringup`.


@dataclass(frozen=True)
class Accelerator:
    """An accelerator that is not open yet. Only one of `trials` and `engine` may be open at a time."""

    name: str
    hardware: Hardware
    hertz: float
    """The kernels' clock."""
    polled: bool
    """True if the host cannot wait for the accelerator's interrupt."""
    trials: Callable[[float], Trials]
    """Opens the device for trials below the level of frames; takes the limit of a wait in seconds. Loads the bitstream
    where it is not loaded yet, so it comes first."""
    engine: Callable[[Subnet, float | None], NativeEngine]
    """Opens the device for a subnet; takes the deadline in seconds."""


def find_accelerator(name: str) -> Accelerator:
    """Finds an accelerator by a device's name, without access to it.

    Raises:
        DeviceError: this machine has no such device, or the device is no accelerator.
    """
    kind, _, rest = name.partition(":")
    if name in ("auto", "fpga"):
        found = next(_fpgas(), None)
        if found is None:
            raise DeviceUnavailableError(f"device '{name}': {NO_FPGA}; name one, such as sim or uio")
        kind, rest = found.name, ""
    if kind in ("uio", "devmem", "pynq"):
        fpga = _find_fpga(kind, rest)
        loaded = replace(fpga, bitstream=None)
        return Accelerator(kind, fpga.hardware, fpga.hertz, kind != "uio", fpga.trials, loaded.engine)
    if kind == "sim":
        library, hardware = _simulators(rest)[0]
    elif name.endswith(".so"):
        library = Path(name)
        hardware = _configuration(library)
    else:
        raise DeviceError(f"device '{name}' is no accelerator; give sim, uio, devmem:..., pynq or fpga")
    return Accelerator(
        f"sim:{library.stem}",
        hardware,
        1e6 * hardware.clock_mhz,
        False,
        lambda limit: Trials.simulated(hardware._inner, library, _sim_seed(), limit),
        lambda subnet, timeout: _open_library(subnet, library, hardware, timeout),
    )
