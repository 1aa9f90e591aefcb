"""The PYNQ transport through the real pynq package, on a small device that fronts the simulated accelerator.

`make test-pynq` runs it in an environment of its own, with PYNQ; elsewhere it is skipped.
"""

import ctypes
import json
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import quasar_rt
from helpers import tiny_vit
from quasar_rt import Engine, _native, device
from quasar_rt.bringup import bringup
from quasar_rt.hardware import Hardware

pynq = pytest.importorskip("pynq", reason="needs PYNQ: make test-pynq")

from pynq.buffer import PynqBuffer  # noqa: E402

from quasar_rt.overlays import QuasarOverlay  # noqa: E402
from quasar_rt.pynq import BLOCK_BYTES, Kernel, Transport  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore::quasar_rt.UntrainedWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

BASE = 0xA000_0000
MEMORY = 1 << 28
IPS = {
    "fetch": "xilinx.com:hls:fetch:1.0",
    "store": "xilinx.com:hls:store:1.0",
    "load": "xilinx.com:hls:load:1.0",
    "reset_register": "xilinx.com:ip:axi_gpio:2.0",
    "counters": "xilinx.com:module_ref:counters:1.0",
}


class SimulatedBoard(pynq.Device):
    """A board whose FPGA is the simulated accelerator: registers, and buffers with a copy on either side."""

    def __init__(self, library):
        super().__init__("simulated")
        self.capabilities = {"REGISTER_RW": True}
        self.name = "simulated"
        self.timestamp = ""
        self.bitfile_name = ""
        self.downloads = []
        self.flushed = set()
        self.sim = ctypes.CDLL(str(library))
        self.sim.qsim_open.restype = self.sim.qsim_alloc.restype = ctypes.c_void_p
        self.sim.qsim_read.restype = ctypes.c_uint32
        self.sim.qsim_open.argtypes = [ctypes.c_uint64, ctypes.c_uint64, ctypes.c_char_p, ctypes.c_uint64]
        message = ctypes.create_string_buffer(256)
        self.handle = ctypes.c_void_p(self.sim.qsim_open(0, MEMORY, message, 256))
        assert self.handle.value, message.value

    def has_capability(self, capability):
        return self.capabilities.get(capability, False)

    def get_bitfile_metadata(self, bitfile_name, partial=False):
        ip_dict = {
            name: {
                "phys_addr": BASE + i * BLOCK_BYTES,
                "addr_range": BLOCK_BYTES,
                "type": vlnv,
                "fullpath": name,
                "parameters": {},
                "registers": {},
                "interrupts": {},
                "gpio": {},
                "state": None,
                "driver": None,
                "device": None,
            }
            for i, (name, vlnv) in enumerate(IPS.items())
        }
        empty = {
            name: {} for name in ("gpio_dict", "interrupt_controllers", "interrupt_pins", "hierarchy_dict")
        }
        return SimpleNamespace(ip_dict=ip_dict, mem_dict={}, clock_dict={}, systemgraph=None, **empty)

    def download(self, bitstream, parser=None):
        self.downloads.append(bitstream.bitfile_name)
        self.bitfile_name = bitstream.bitfile_name

    def read_registers(self, address, length):
        words = range(address - BASE, address - BASE + length, 4)
        values = [self.sim.qsim_read(self.handle, ctypes.c_uint32(offset)) for offset in words]
        return np.array(values, np.uint32).tobytes()

    def write_registers(self, address, data):
        for i, word in enumerate(np.frombuffer(data, np.uint32)):
            offset = ctypes.c_uint32(address - BASE + 4 * i)
            self.sim.qsim_write(self.handle, offset, ctypes.c_uint32(int(word)))

    def allocate(self, shape, dtype, **kwargs):
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        physical = ctypes.c_uint64()
        start = self.sim.qsim_alloc(self.handle, ctypes.c_uint64(size), ctypes.byref(physical))
        assert start
        memory = (ctypes.c_uint8 * size).from_address(start)
        return PynqBuffer(
            shape, dtype, buffer=memory, device=self, device_address=physical.value, bo=physical.value
        )

    def flush(self, bo, offset, ptr, size):
        self.flushed.add(bo)
        self._sync(self.sim.qsim_flush, bo, offset, size)

    def invalidate(self, bo, offset, ptr, size):
        self._sync(self.sim.qsim_invalidate, bo, offset, size)

    def _sync(self, function, bo, offset, size):
        lines = -(-size // 64) * 64
        assert function(self.handle, ctypes.c_uint64(bo + offset), ctypes.c_uint64(lines)) == 0

    def close(self):
        self.sim.qsim_close(self.handle)


@pytest.fixture
def library():
    found = device.sim_libraries()
    if not found:
        pytest.skip(f"no simulated accelerator in {device.sim_folder()}: make sim")
    return next((library for library in found if library.stem == "tiny"), found[0])


#: The clocks' status of a design whose MMCM is locked, and of one whose is not.
LOCKED, UNLOCKED = 0x5156_0584, 0x5156_0400


@pytest.fixture
def board(library, monkeypatch):
    board = SimulatedBoard(library)
    board.clocks = LOCKED
    monkeypatch.setattr(Transport, "clocks", lambda self: board.clocks)
    previous = getattr(type(board), "_active_device", None)
    pynq.Device.active_device = board
    yield board
    board.close()
    pynq.Device.active_device = previous


@pytest.fixture
def subnet():
    return tiny_vit()


@pytest.fixture
def bitstream(tmp_path, library):
    import hashlib
    import json

    path = tmp_path / "tiny.bit"
    path.write_bytes(b"bits")
    description = {
        "hardware": _native.sim_configuration(library),
        "clock_hz": 100_000_000,
        "sha256": {path.name: hashlib.sha256(b"bits").hexdigest()},
    }
    path.with_suffix(".json").write_text(json.dumps(description))
    return path


def test_an_engine_runs_through_an_overlay(board, subnet, bitstream):
    images = list(np.random.default_rng(0).integers(0, 256, (7, 8, 8), np.uint8))
    with Engine(subnet, "cpu") as cpu:
        expected = [prediction.integer_logits for prediction in cpu.infer_batch(images)]
    with Engine(subnet, f"pynq:{bitstream}", timeout=20) as engine:
        assert board.downloads == [str(bitstream)]
        assert engine.device == "pynq"
        np.testing.assert_array_equal([p.integer_logits for p in engine.infer_batch(images)], expected)
        np.testing.assert_array_equal([p.integer_logits for p in engine.stream(images)], expected)
        counters = engine._engine.counters()
        assert (counters.frames, counters.faults) == (14, 0)
    assert len(board.flushed) >= 3


def test_no_register_is_accessed_while_the_mmcm_is_unlocked(board, subnet, bitstream, monkeypatch):
    accesses = []
    monkeypatch.setattr(board, "read_registers", lambda *access: accesses.append(access))
    monkeypatch.setattr(board, "write_registers", lambda *access: accesses.append(access))
    board.clocks = UNLOCKED
    with pytest.raises(quasar_rt.DeviceUnavailableError, match="the MMCM is not locked"):
        Engine(subnet, f"pynq:{bitstream}", timeout=20)
    (outcome,) = (
        outcome for outcome in bringup(f"pynq:{bitstream}", only=["clocks"]) if outcome.step == "clocks"
    )
    assert outcome.status == "fail"
    assert "the MMCM is not locked" in outcome.detail
    assert accesses == []


def test_the_fabric_s_clock_is_set_before_the_bitstream_is_loaded(board, bitstream, monkeypatch):
    events = []
    metadata = board.get_bitfile_metadata

    def with_clock(name, partial=False):
        found = metadata(name, partial)
        found.clock_dict = {0: {"enable": 1, "divisor0": 10, "divisor1": 1, "frequency": 150.0}}
        return found

    monkeypatch.setattr(board, "get_bitfile_metadata", with_clock)
    monkeypatch.setattr(board, "download", lambda *_: events.append("bitstream"))
    clocks = SimpleNamespace(set_device=lambda *_: None, set_pl_clk=lambda *_, **__: events.append("clock"))
    monkeypatch.setattr(pynq.overlay, "Clocks", clocks)
    Transport.load(bitstream)
    assert events == ["clock", "bitstream"]


def test_one_engine_has_the_fpga(board, subnet, bitstream):
    overlay = QuasarOverlay(bitstream)
    with overlay.engine(subnet, timeout=20):
        board.downloads.clear()
        for second in (
            lambda: Engine(subnet, f"pynq:{bitstream}"),
            lambda: overlay.engine(subnet, wait=0.1),
            lambda: QuasarOverlay(bitstream),
        ):
            with pytest.raises(quasar_rt.DeviceBusyError, match="another engine of this process"):
                second()
        code = "from quasar_rt import _native; _native.OwnedFpga()"
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert "DeviceBusyError: FPGA is in use by process" in other.stderr
        assert board.downloads == [], "no bitstream is loaded under a driver"
    with Engine(subnet, f"pynq:{bitstream}", timeout=20) as engine:
        engine.infer(np.zeros((8, 8), np.uint8))


def test_kernels_are_bound_by_their_vlnv(board, bitstream):
    overlay = pynq.Overlay(str(bitstream))
    assert isinstance(overlay.fetch, Kernel)
    transport = Transport(overlay)
    transport.write(0x2_0010, 0x1234_5678)
    assert overlay.load.mmio.base_addr == BASE + 2 * BLOCK_BYTES
    assert transport.name == "pynq:tiny.bit"


def test_another_design_is_refused(board, bitstream, monkeypatch):
    overlay = pynq.Overlay(str(bitstream))
    del overlay.ip_dict["store"]
    with pytest.raises(quasar_rt.DeviceUnavailableError, match="has no store"):
        Transport(overlay)
    with pytest.raises(quasar_rt.DeviceUnavailableError, match="PYNQ cannot load"):
        Transport.load(bitstream.with_name("none.bit"))


def test_another_bitstream_is_refused(board, subnet, bitstream):
    hardware = Hardware.from_toml(_native.sim_configuration(device.sim_libraries()[0])).with_clock(75)
    transport = Transport.load(bitstream)
    with pytest.raises(quasar_rt.WrongBitstreamError, match="configuration hash"):
        _native.Engine.attached(subnet._inner, hardware._inner, transport, None)


def test_the_overlay_has_the_driver_bound_and_runs_frames(board, subnet, bitstream):
    images = list(np.random.default_rng(0).integers(0, 256, (3, 8, 8), np.uint8))
    with Engine(subnet, "cpu") as cpu:
        expected = [prediction.integer_logits for prediction in cpu.infer_batch(images)]
    overlay = QuasarOverlay(bitstream)
    assert isinstance(overlay.fetch, Kernel)
    with overlay.engine(subnet, timeout=20) as engine:
        assert engine.device == "pynq"
        np.testing.assert_array_equal([p.integer_logits for p in engine.infer_batch(images)], expected)
    assert board.downloads == [str(bitstream)], "the engine uses what the overlay loaded"


def test_the_overlay_loads_nothing_that_its_description_does_not_name(board, bitstream, tmp_path):
    copied = tmp_path / "other"
    shutil.copytree(bitstream.parent, copied)
    changed = copied / bitstream.name
    changed.write_bytes(changed.read_bytes() + b"x")
    with pytest.raises(quasar_rt.DeviceUnavailableError, match="different builds"):
        QuasarOverlay(changed)
    assert board.downloads == []


def test_without_a_fetched_bitstream_the_overlay_says_how_to_get_one(board, monkeypatch):
    monkeypatch.setenv("BOARD", "Pynq-Z2")
    with pytest.raises(quasar_rt.DeviceUnavailableError, match="make bitstream BOARD=pynq-z2"):
        QuasarOverlay()


def installed(group):
    found = [entry for entry in entry_points(group=group) if entry.name == "quasar-rt"]
    if not found:
        pytest.skip("needs the installed wheel: make test-pynq")
    return found[0]


def test_pynq_finds_driver_and_folders_through_entry_points():
    assert installed("pynq.lib").load().Kernel is Kernel
    assert installed("pynq.overlays").load().QuasarOverlay is QuasarOverlay
    assert list(Path(installed("pynq.notebooks").load().__file__).parent.glob("*.ipynb"))


def test_pynq_binds_the_driver_without_an_import_of_ours(board, bitstream):
    installed("pynq.lib")
    code = "from pynq.overlay import _IPMap; o = object.__new__(__import__('pynq').Overlay); o._register_drivers()"
    code += (
        "; from pynq.overlay import _ip_drivers; print(_ip_drivers['xilinx.com:hls:fetch:1.0'].__module__)"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "quasar_rt.pynq", done.stderr


def test_get_notebooks_delivers_ours(tmp_path):
    installed("pynq.notebooks")
    code = "from pynq._cli.get_notebooks import main; main()"
    command = [sys.executable, "-I", "-c", code, "-o", "-p", str(tmp_path / "here"), "quasar-rt"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    delivered = tmp_path / "here" / "quasar-rt" / "first_inference.ipynb"
    assert delivered.exists(), done.stdout + done.stderr
    assert json.loads(delivered.read_text(encoding="utf-8"))["cells"]
    assert not (delivered.parent / "__init__.py").exists()


def test_pynq_s_numpy_is_below_2():
    installed("pynq.lib")
    assert int(np.__version__.split(".")[0]) < 2
