"""Simulated accelerators for tests: their libraries, and a transport written in Python, as PYNQ's is."""

import ctypes
import threading
from pathlib import Path

from quasar_rt import _native, device, engine, random_subnet
from quasar_rt.hardware import Hardware

MEMORY = 1 << 28


def library(name):
    """Returns the library of a simulated accelerator; skips the test where it is not built."""
    import pytest

    found = [path for path in device.sim_libraries() if path.stem == name]
    if not found:
        pytest.skip(
            f"no simulated accelerator {name!r}: make sim CONFIGS={name} (or name its folder in QUASAR_SIM_DIR)"
        )
    return found[0]


class Transport:
    """The methods of `quasar_rt.pynq.Transport`, on a simulated device: a new one, or that of another transport."""

    name = "python"

    def __init__(self, library, shared=None, seed=0):
        self.sim = ctypes.CDLL(str(library))
        self.sim.qsim_open.restype = self.sim.qsim_alloc.restype = ctypes.c_void_p
        self.sim.qsim_read.restype = ctypes.c_uint32
        self.buffers = []  # the host's copies, and the device's addresses
        if shared is not None:
            self.device = shared.device
            return
        message = ctypes.create_string_buffer(256)
        opened = self.sim.qsim_open(
            ctypes.c_uint64(seed), ctypes.c_uint64(MEMORY), message, ctypes.c_uint64(256)
        )
        assert opened, message.value
        self.device = ctypes.c_void_p(opened)

    def read(self, register):
        return self.sim.qsim_read(self.device, ctypes.c_uint32(register))

    def write(self, register, value):
        self.sim.qsim_write(self.device, ctypes.c_uint32(register), ctypes.c_uint32(value))

    def allocate(self, size):
        physical = ctypes.c_uint64()
        start = self.sim.qsim_alloc(self.device, ctypes.c_uint64(size), ctypes.byref(physical))
        self.buffers.append(((ctypes.c_uint8 * size).from_address(start), physical.value))
        return physical.value

    def copy_in(self, buffer, offset, data):
        ctypes.memmove(ctypes.addressof(self.buffers[buffer][0]) + offset, data, len(data))

    def copy_out(self, buffer, offset, size):
        return bytes(self.buffers[buffer][0][offset : offset + size])

    def flush(self, buffer, offset, size):
        self._sync(self.sim.qsim_flush, buffer, offset, size)

    def invalidate(self, buffer, offset, size):
        self._sync(self.sim.qsim_invalidate, buffer, offset, size)

    def _sync(self, function, buffer, offset, size):
        at = ctypes.c_uint64(self.buffers[buffer][1] + offset)
        assert function(self.device, at, ctypes.c_uint64(size)) == 0

    def wait(self, seconds):
        return bool(self.sim.qsim_wait(self.device, ctypes.c_uint32(int(1000 * seconds))))


#: The methods that a driver calls.
METHODS = ("read", "write", "allocate", "copy_in", "copy_out", "flush", "invalidate", "wait")


def _watched(name):
    def method(self, *arguments):
        self.calls.append(name)
        if self.hangs == name:
            self.skip -= 1
            if self.skip < 0:
                self.hanging.set()
                self.gate.wait()
        return getattr(Transport, name)(self, *arguments)

    return method


class Hanging(Transport):
    """A transport whose method `hangs` does not return until `gate` is set, after `skip` calls of it."""

    def __init__(self, library, hangs=None, skip=0):
        super().__init__(library)
        self.hangs, self.skip = hangs, skip
        self.hanging, self.gate = threading.Event(), threading.Event()
        self.calls = []

    for _name in METHODS:
        locals()[_name] = _watched(_name)


def configuration(name="tiny"):
    """Returns the configuration of a simulated accelerator, by its name or its library."""
    path = name if isinstance(name, Path) else library(name)
    return Hardware.from_toml(_native.sim_configuration(str(path)))


def small_subnet(**changes):
    """Returns a network whose frames take the simulated device a moment."""
    shape = dict(
        embed=8, depth=1, heads=1, head_dim=4, hidden=8, image_size=8, channels=1, kernel=4, classes=3
    )
    return random_subnet(**{**shape, **changes})


def attached(subnet, transport, timeout=10.0, wait=0.0, name="tiny"):
    """Returns a native engine on the simulated device of a transport."""
    hardware = configuration(name)
    return _native.Engine.attached(subnet._inner, hardware._inner, transport, timeout, wait)


def attach(library, transport=None, timeout=60.0):
    """Lets `Engine(subnet, "python")` run on the library through `transport`, or a new one."""
    open_device = engine.open_device

    def opened(subnet, name, *others):
        if name != "python":
            return open_device(subnet, name, *others)
        made = transport if transport is not None else Transport(library)
        return attached(subnet, made, timeout, name=Path(library)), name, "asked for"

    engine.open_device = opened


def broken(name, folder, kernel, old, new):
    """Builds a simulated accelerator with a fault in one kernel: `new` stands where its source has `old`.

    `kernel` may be HEADER/KERNEL for a header that the kernel includes. Returns the library. Takes the other
    kernels' objects from the build of the sound library.
    """
    import os
    import shutil
    import subprocess

    import pytest

    header, _, kernel = kernel.rpartition("/")
    sound = library(name)
    objects = {path.stem: path for path in sorted((sound.parent / name).glob("*/*.o"))}
    compiler = os.environ.get("CXX_SIM") or shutil.which("g++") or shutil.which("clang++")
    if kernel not in objects or compiler is None:
        pytest.skip("no objects of the simulated accelerator, or no C++ compiler: make sim")
    fpga = Path(__file__).parents[2] / "fpga"
    model = (fpga / f"sim/{kernel}.cpp").exists()
    source = fpga / ("sim" if model else "src") / f"{kernel}.cpp"
    shutil.copytree(fpga / "include", folder / "include")
    compiled = folder / f"{kernel}.cpp"
    shutil.copy(source, compiled)
    changed = folder / "include" / f"{header}.hpp" if header else compiled
    text = changed.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{changed.name} does not have {old!r} once"
    changed.write_text(text.replace(old, new), encoding="utf-8")
    include = [folder / "include", fpga / "sim", sound.parents[1] / "config" / name]
    flags = ["-O1", "-w", "-fPIC", "-DQUASAR_FAST", "-fvisibility=hidden", *(f"-I{path}" for path in include)]
    standard = "-std=c++20" if model else "-std=c++17"
    objects[kernel] = folder / f"{kernel}.o"
    subprocess.run([compiler, standard, *flags, "-c", compiled, "-o", objects[kernel]], check=True)
    made = folder / f"{name}.so"
    subprocess.run([compiler, "-shared", "-pthread", *objects.values(), "-o", made], check=True)
    return made
