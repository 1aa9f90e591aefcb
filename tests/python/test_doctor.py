"""`quasar-rt doctor` on folders that look like a board's root: each condition that fails has a line."""

import json
import shutil
from functools import partial
from hashlib import sha256
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import pytest

from helpers import json_of, run
from quasar_rt import DeviceError, Subnet, doctor
from quasar_rt._native import ABI, REGISTER_BYTES
from quasar_rt.accelerator import Program
from quasar_rt.doctor import Machine, examine
from quasar_rt.hardware import Hardware, Workload

MANAGER = "sys/class/fpga_manager/fpga0"
BUFFER = "sys/class/u-dma-buf/udmabuf-quasar"
SYNC = ("sync_for_device", "sync_for_cpu", "sync_offset", "sync_size", "sync_direction")
#: Files of a KV260 with everything in place.
FILES = {
    "proc/device-tree/model": "ZynqMP SMK-K26 Rev1/B/A\0",
    "proc/device-tree/compatible": "xlnx,zynqmp-sk-kv260-rev1\0xlnx,zynqmp\0",
    "proc/sys/kernel/osrelease": "6.6.10-xilinx\n",
    "proc/meminfo": "MemTotal: 4000000 kB\nCmaTotal: 262144 kB\nCmaFree: 131072 kB\n",
    "proc/iomem": "00000000-7fefffff : System RAM\n  00210000-00ffffff : Kernel code\n",
    "etc/os-release": 'PRETTY_NAME="Ubuntu 22.04 LTS"\n',
    "boot/config-6.6.10-xilinx": "CONFIG_STRICT_DEVMEM=y\n",
    "sys/class/uio/uio0/name": "axi-pmon\n",
    "sys/class/uio/uio4/name": "quasar\n",
    "sys/class/uio/uio4/maps/map0/size": f"{REGISTER_BYTES:#x}\n",
    f"{BUFFER}/size": f"{64 << 20}\n",
    f"{BUFFER}/phys_addr": "0x70000000\n",
    f"{MANAGER}/state": "operating\n",
    f"{MANAGER}/flags": "",
    f"{MANAGER}/firmware": "",
    "sys/class/gpio/export": "",
    "sys/class/gpio/gpiochip300/label": "zynqmp_gpio\n",
    "sys/class/gpio/gpiochip300/base": "300\n",
    "lib/firmware/empty": "",
    "dev/uio4": "",
    "dev/udmabuf-quasar": "",
    "dev/mem": "",
    **{f"{BUFFER}/{name}": "" for name in SYNC},
}


@pytest.fixture(scope="module")
def subnet():
    return Subnet.load("fashion-mnist")


@pytest.fixture(scope="module")
def designs(subnet):
    return {name: Hardware.for_board(name, Workload.of_subnet(subnet)) for name in ("kv260", "pynq-z2")}


class Board:
    """A folder that looks like a board's root, with a packaged bitstream."""

    def __init__(self, folder, designs):
        self.folder, self.designs = folder, designs
        self.root = folder / "root"
        for name, text in FILES.items():
            self.write(name, text)
        self.forbidden = set()
        self.user = 0
        self.bitstream = folder / "kv260.bin"
        self.package("kv260")
        self.environment = {"QUASAR_BITSTREAM": str(self.bitstream)}

    def write(self, name, text):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def package(self, design, abi=ABI):
        files = [self.bitstream.with_suffix(suffix) for suffix in (".bin", ".bit", ".hwh")]
        for path in files:
            path.write_text(path.suffix)
        description = {
            "abi": abi,
            "configuration_hash": "0123456789abcdef",
            "hardware": self.designs[design].to_toml(),
            "clock_hz": round(1e6 * self.designs[design].clock_mhz),
            "sha256": {path.name: sha256(path.read_bytes()).hexdigest() for path in files},
        }
        self.bitstream.with_suffix(".json").write_text(json.dumps(description))

    def examine(self, device="auto", subnet=None):
        def access(path, mode):
            return str(path.relative_to(self.root)) not in self.forbidden and path.exists()

        machine = Machine(self.root, self.environment, access, self.user)
        return list(examine(device, subnet, machine=machine))


@pytest.fixture
def board(tmp_path, designs):
    return Board(tmp_path, designs)


def by_name(checks):
    # A failure of a line that has several reasons comes last.
    return {check.name: check for check in checks}


def test_a_board_with_everything_in_place_passes(board, subnet):
    found = by_name(board.examine(subnet=subnet))
    assert {check.status for check in found.values()} <= {"ok", "skipped"}
    assert not any(check.remedy for check in found.values() if check.status == "ok")
    assert found["board"].detail == "ZynqMP SMK-K26 Rev1/B/A: Zynq UltraScale+"
    assert found["system"].detail.startswith("Ubuntu 22.04 LTS, kernel 6.6.10-xilinx")
    assert "kv260, array" in found["bitstream"].detail
    assert "0123456789abcdef" in found["bitstream"].detail
    assert found["registers"].detail == "uio4, named quasar"
    assert found["memory"].detail == "udmabuf-quasar, 67.1 MB"
    assert found["cma"].detail == "134.2 MB free of 268.4 MB"


def wrote(name, text):
    return lambda board: board.write(name, text)


def removed(name):
    """Removes a file, or a folder with its files."""

    def remove(board):
        path = board.root / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return remove


def forbidden(name):
    return lambda board: board.forbidden.add(name)


def bit_file(board):
    board.environment["QUASAR_BITSTREAM"] = str(board.bitstream.with_suffix(".bit"))


without_uio, mainline, without_manager = map(
    removed, ("sys/class/uio/uio4/name", f"{MANAGER}/firmware", MANAGER)
)
short_registers = wrote("sys/class/uio/uio4/maps/map0/size", "0x10000")
little_cma = wrote("proc/meminfo", "CmaTotal: 64 kB\nCmaFree: 4 kB\n")


def not_configured(board):
    board.write(f"{MANAGER}/state", "unknown\n")
    board.environment["QUASAR_BITSTREAM"] = str(board.bitstream.with_suffix(".json"))


@pytest.mark.parametrize(
    ("change", "name", "status", "detail", "remedy"),
    [
        (without_uio, "registers", "fail", "no UIO device is named quasar", "of_id=generic-uio"),
        (short_registers, "registers", "fail", "registers take 0x50000", "`reg`"),
        (removed(BUFFER), "memory", "fail", "no u-dma-buf", "modprobe u-dma-buf"),
        (removed(f"{BUFFER}/size"), "memory", "fail", "does not state its size", "module"),
        (wrote("proc/meminfo", ""), "cma", "warn", "no contiguous memory", "cma=128M"),
        (removed("sys/class/gpio"), "clocks", "fail", "CONFIG_GPIO_SYSFS", "AMD's and PYNQ's"),
        (removed("dev/uio4"), "access", "fail", "there is no", "udev"),
        (forbidden("dev/uio4"), "access", "fail", "no permission to write", "udev rule"),
        (forbidden(f"{BUFFER}/sync_size"), "access", "fail", "sync_size", "run as root"),
        (forbidden(f"{MANAGER}/flags"), "loading", "fail", "flags", "run as root"),
        (mainline, "loading", "fail", "mainline Linux loads no bitstream", "NAME.json"),
        (without_manager, "loading", "fail", "no FPGA manager", "NAME.json"),
        (without_manager, "fpga", "warn", "no FPGA manager to ask", "may stop the machine"),
        (not_configured, "fpga", "fail", '"unknown"', "load the bitstream"),
        (lambda b: b.environment.clear(), "bitstream", "fail", "is not set", "export QUASAR_BITSTREAM="),
        (lambda b: b.bitstream.unlink(), "bitstream", "fail", "does not exist", "correct or unset it"),
        (lambda b: b.bitstream.write_text("x"), "bitstream", "fail", "different builds", "one build"),
        (bit_file, "bitstream", "fail", "which takes NAME.bin", "kv260.bin"),
        (lambda b: b.package("kv260", abi=ABI + 1), "bitstream", "fail", f"drives version {ABI}", "build"),
        (lambda b: b.package("pynq-z2"), "bitstream", "fail", "DSP48E1 slices", "of this board"),
        (lambda b: b.environment.update(BOARD="ZCU104"), "bitstream", "warn", "itself ZCU104", "check"),
    ],
)
def test_what_a_uio_device_lacks_is_named_with_the_remedy(
    board, subnet, change, name, status, detail, remedy
):
    change(board)
    checks = board.examine("uio", subnet)
    (found,) = [check for check in checks if check.name == name and check.status == status]
    assert detail in found.detail
    assert remedy in found.remedy
    others = {check.name for check in checks if check.status == "fail"} - {name}
    assert others <= {"loading", "memory", "access"}, "nothing else is wrong"


def test_the_driver_loads_the_bitstream_of_an_fpga_that_has_none(board):
    board.write(f"{MANAGER}/state", "power off\n")
    found = by_name(board.examine())
    assert (found["fpga"].status, found["loading"].status) == ("ok", "ok")


def test_a_subnet_that_the_bitstream_does_not_hold_fails(board, subnet, designs):
    hidden = designs["kv260"].settings["buffers"]["hidden"]
    text = designs["kv260"].to_toml()
    small = Hardware.from_toml(text.replace(f"hidden = {hidden}", "hidden = 1"))
    board.designs = {"kv260": small}
    board.package("kv260")
    found = by_name(board.examine(subnet=subnet))
    assert found["subnet"].status == "fail"
    assert "hidden" in found["subnet"].detail


def test_memory_is_compared_with_the_compiled_subnet(board, subnet, designs):
    size = len(Program.compile(subnet, designs["kv260"]).arena)
    for bytes_, status in ((size, "fail"), (size + 4096, "ok")):
        board.write(f"{BUFFER}/size", str(bytes_))
        assert by_name(board.examine(subnet=subnet))["memory"].status == status


@pytest.fixture
def pynq(board, monkeypatch):
    """Turns the board into one with PYNQ's image, and pynq installed."""
    without_uio(board)
    board.environment = {
        "QUASAR_BITSTREAM": str(board.bitstream.with_suffix(".bit")),
        "BOARD": "KV260",
        "XILINX_XRT": "/usr",
    }
    board.limit, board.versions = "<2.0", {"pynq": "4.0.0", "numpy": "1.26.4"}
    installed, required = doctor._version, doctor._requirements
    found = lambda name: board.versions.get(name)  # noqa: E731
    ours = {"pynq": lambda: [("numpy", board.limit, None)]}
    monkeypatch.setattr(doctor, "_version", lambda name: found(name) or installed(name))
    monkeypatch.setattr(doctor, "_requirements", lambda name: ours.get(name, lambda: required(name))())
    monkeypatch.setattr(doctor, "find_spec", found)
    return board


def undeclared(board):
    """pynq 3.0.1 asks for any NumPy, and does not work with 2."""
    board.limit = ""
    board.versions.update(pynq="3.0.1", numpy="2.1.0")


@pytest.mark.parametrize(
    ("version", "limit", "numpy"),
    [("3.0.1", "", "1.21.5"), ("4.0.0", "<2.0", "1.26.4"), ("5.0.0", "", "2.1.0")],
)
def test_pynq_takes_the_numpy_that_its_image_has(pynq, version, limit, numpy):
    pynq.limit = limit
    pynq.versions.update(pynq=version, numpy=numpy)
    found = by_name(pynq.examine())["pynq"]
    assert (found.status, found.detail) == ("ok", f"pynq {version}, numpy {numpy}")


def test_pynq_with_everything_in_place_passes(pynq, subnet):
    found = by_name(pynq.examine(subnet=subnet))
    assert found["device"].detail == "pynq: this is an image of PYNQ"
    assert found["pynq"].detail == "pynq 4.0.0, numpy 1.26.4"
    assert {check.status for check in found.values()} <= {"ok", "skipped"}


@pytest.mark.parametrize(
    ("change", "name", "detail", "remedy"),
    [
        (lambda b: b.versions.pop("pynq"), "pynq", "not installed", "pynq_venv.sh"),
        (lambda b: b.versions.update(numpy="2.1.0"), "pynq", "needs numpy <2.0, and 2.1.0", "'numpy<2.0'"),
        (undeclared, "pynq", "pynq 3.0.1 needs numpy <2.0, and 2.1.0", "pip uninstall numpy"),
        (lambda b: b.environment.pop("XILINX_XRT"), "environment", "not set: XILINX_XRT", "login shell"),
        (lambda b: setattr(b, "user", 1000), "user", "root alone", "sudo -i"),
        (wrote("proc/meminfo", ""), "cma", "no contiguous memory", "cma=128M"),
        (little_cma, "cma", "the subnet needs more than", "cma=128M"),
        (lambda b: b.bitstream.with_suffix(".hwh").unlink(), "handoff", "kv260.hwh", "copy it there"),
        (mainline, "loading", "mainline", "NAME.json"),
    ],
)
def test_what_pynq_lacks_is_named_with_the_remedy(pynq, subnet, change, name, detail, remedy):
    change(pynq)
    (found,) = [check for check in pynq.examine(subnet=subnet) if check.status == "fail"]
    assert found.name == name
    assert detail in found.detail
    assert remedy in found.remedy


def test_a_pynq_image_is_known_without_its_environment(pynq):
    pynq.write(doctor.PYNQ_PROFILE, "")
    for name in ("BOARD", "XILINX_XRT"):
        del pynq.environment[name]
    found = by_name(pynq.examine())
    assert found["device"].detail == "pynq: this is an image of PYNQ"
    assert found["environment"].detail.startswith("not set: BOARD, XILINX_XRT")


@pytest.mark.parametrize(
    ("addresses", "name", "status", "detail"),
    [
        (":0xa0000000:0x90000000:0x4000000", "memory", "ok", "0x90000000 to 0x94000000"),
        (":0xa0000000:0x70000000:0x4000000", "memory", "fail", "Linux uses memory of 0x70000000"),
        ("", "addresses", "fail", "devmem:REGISTERS:MEMORY:BYTES"),
    ],
)
def test_dev_mem_needs_memory_that_linux_leaves_alone(board, addresses, name, status, detail):
    found = by_name(board.examine(f"devmem{addresses}"))[name]
    assert found.status == status
    assert detail in found.detail


def test_dev_mem_needs_root_and_a_kernel_that_lets_it(board):
    device = "devmem:0xa0000000:0x90000000:0x4000000"
    board.forbidden.add("dev/mem")
    board.write("boot/config-6.6.10-xilinx", "CONFIG_IO_STRICT_DEVMEM=y\n")
    board.write("proc/iomem", "00000000-00000000 : System RAM\n")
    found = by_name(board.examine(device))
    assert found["access"].status == "fail"
    assert found["kernel"].status == "warn"
    assert found["memory"].status == "skipped"
    assert "run as root" in found["memory"].remedy


def test_a_computer_without_an_fpga_has_nothing_that_fails(tmp_path):
    checks = list(examine(machine=Machine(tmp_path, {})))
    assert not [check for check in checks if check.status in ("fail", "warn")]
    assert by_name(checks)["fpga"].status == "skipped"
    assert by_name(examine("fpga", machine=Machine(tmp_path, {})))["fpga"].status == "fail"
    assert "fpga" not in by_name(examine("cpu", machine=Machine(tmp_path, {})))


def test_a_cpu_without_a_tier_is_slow(tmp_path, monkeypatch):
    plain = doctor.cpu()
    tiers = tuple(type(tier)(tier.name, tier.name == "scalar") for tier in plain.tiers)
    monkeypatch.setattr(doctor, "cpu", lambda: type(plain)("cpu", 2, tiers))
    assert by_name(examine(machine=Machine(tmp_path, {})))["cpu"].status == "warn"


def test_simulated_devices_are_listed(tmp_path, monkeypatch):
    monkeypatch.setenv("QUASAR_SIM_DIR", str(tmp_path))
    assert by_name(examine("sim"))["simulator"].status == "fail"
    assert by_name(examine("auto"))["simulator"].status == "skipped"
    (tmp_path / "tiny.so").touch()
    assert by_name(examine("sim"))["simulator"].detail == "sim:tiny"
    assert by_name(examine("sim:wide"))["simulator"].status == "fail"


def test_missing_packages_are_named(tmp_path, monkeypatch):
    asked = [("numpy", ">=1.21.5", None), ("gone", "", None), ("torch", ">=2", "host"), ("ruff", "", "dev")]
    monkeypatch.setattr(doctor, "_requirements", lambda name: asked)
    monkeypatch.setattr(doctor, "_version", {"numpy": "2.0", "ruff": "1"}.get)
    found = by_name(examine(machine=Machine(tmp_path, {})))
    assert found["package"].detail == "gone is not installed"
    assert "[dev]" not in found
    assert found["[host]"].status == "skipped"
    assert "quasar-rt[host]" in found["[host]"].remedy


@pytest.mark.parametrize(
    ("spec", "version"),
    [
        (SimpleNamespace(origin="cv2/__init__.py"), "(another package's cv2)"),
        (SimpleNamespace(origin=None), None),  # a folder without a module
        (None, None),
    ],
)
def test_another_packages_opencv_is_good_enough(monkeypatch, spec, version):
    def absent(name):
        raise PackageNotFoundError

    monkeypatch.setattr(doctor.metadata, "version", absent)
    monkeypatch.setattr(doctor, "find_spec", lambda module: spec)
    assert doctor._version("opencv-python-headless") == version


def test_an_unknown_device_is_an_error():
    with pytest.raises(DeviceError, match="'gpu'"):
        list(examine("gpu"))


# The command


doctor_command = partial(run, "doctor")


def test_the_command_fails_where_a_check_fails(board, monkeypatch):
    for name, value in board.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("BOARD", raising=False)
    good = doctor_command("fashion-mnist", "--root", board.root, "--device", "uio")
    assert good.output.splitlines()[-1] == "nothing failed"
    without_uio(board)
    bad = doctor_command("--root", board.root, "--device", "uio", status=1)
    assert bad.output.splitlines()[-1] == "failed: registers"
    assert "do: apply the device-tree overlay" in bad.output
    document = json_of("doctor", "--root", board.root, "--device", "uio", status=1)
    assert document["passed"] is False
    assert {check["name"] for check in document["checks"] if check["status"] == "fail"} == {"registers"}
