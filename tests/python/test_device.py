"""Devices: which there are, which one "auto" takes and why, and what accelerators do with frames and faults."""

import json
import os
import re
from hashlib import sha256

import numpy as np
import pytest

import quasar_rt
from helpers import python, run, tiny_vit
from quasar_rt import DeviceUnavailableError, Engine, Frame, InvalidValueError, device
from quasar_rt.hardware import Hardware, Workload
from quasar_rt.testing import random_case
from quasar_rt.verify import outputs_of, verify
from simulated import library

pytestmark = pytest.mark.filterwarnings("ignore::quasar_rt.UntrainedWarning")


@pytest.fixture(scope="module")
def tiny():
    return tiny_vit()


@pytest.fixture
def simulated():
    """Returns the name of a simulated accelerator."""
    names = [library.stem for library in device.sim_libraries()]
    if not names:
        pytest.skip(f"no simulated accelerator in {device.sim_folder()}: make sim")
    return f"sim:{'tiny' if 'tiny' in names else names[0]}"


def pictures(subnet, count):
    size = subnet.config["image"]
    shape = (size["height"], size["width"], size["channels"])
    return list(np.random.default_rng(3).integers(0, 256, (count, *shape), np.uint8))


def cpu_logits(subnet, images):
    with Engine(subnet, "cpu") as engine:
        return [outputs_of(prediction) for prediction in engine.infer_batch(images)]


# Without an accelerator


def test_auto_says_why_it_is_the_cpu(tiny):
    engine = Engine(tiny)
    assert engine.device == "cpu"
    assert engine.device_reason == "no accelerator was found in an FPGA"
    assert Engine(tiny, "cpu").device_reason == "asked for"


def test_a_missing_library_says_how_to_get_it(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("QUASAR_SIM_DIR", str(tmp_path))
    assert [found.name for found in quasar_rt.devices()] == ["cpu"]
    for name, command in (("sim", "`make sim`"), ("sim:zcu102", "`make sim CONFIGS=zcu102`")):
        with pytest.raises(DeviceUnavailableError, match=command):
            Engine(tiny, name)
    (tmp_path / "broken.so").write_bytes(b"not a library")
    assert [found.name for found in quasar_rt.devices()] == ["cpu", "sim:broken"]
    for name in ("sim:broken", str(tmp_path / "broken.so")):
        with pytest.raises(DeviceUnavailableError, match=r"broken\.so"):
            Engine(tiny, name)


@pytest.mark.parametrize("name", ["uio", "pynq", "devmem:0:0:0"])
def test_an_fpga_needs_a_bitstream(tiny, name, monkeypatch):
    monkeypatch.delenv("QUASAR_BITSTREAM", raising=False)
    with pytest.raises(DeviceUnavailableError, match="QUASAR_BITSTREAM"):
        Engine(tiny, name)
    with pytest.raises(DeviceUnavailableError, match="no UIO device is named quasar"):
        Engine(tiny, "fpga")


def test_only_the_cpu_has_tiers(tiny):
    with pytest.raises(InvalidValueError, match="only the CPU has tiers"):
        Engine(tiny, "sim", tier="scalar")


@pytest.fixture
def bitstream(tiny, tmp_path):
    """Makes a packaged bitstream, as tools/bitstream.py leaves it."""
    hardware = Hardware.for_board("ultra96v2", Workload.of_subnet(tiny))
    path = tmp_path / "ultra96v2.bin"
    path.write_bytes(b"bits")
    description = {
        "hardware": hardware.to_toml(),
        "clock_hz": 149985016,
        "sha256": {path.name: sha256(b"bits").hexdigest()},
    }
    path.with_suffix(".json").write_text(json.dumps(description))
    return path


def test_a_bitstream_is_checked_against_its_description(bitstream):
    hardware, hertz, path = device.read_bitstream(bitstream)
    assert (hardware.board.name, hertz, path) == ("ultra96v2", 149985016, bitstream)
    description = bitstream.with_suffix(".json")
    assert device.read_bitstream(description)[2] is None
    bitstream.write_bytes(b"other bits")
    with pytest.raises(DeviceUnavailableError, match="different builds"):
        device.read_bitstream(bitstream)
    description.write_text(description.read_text().replace("ultra96v2", "ultra97"))
    with pytest.raises(DeviceUnavailableError, match="there is no board 'ultra97'"):
        device.read_bitstream(bitstream)
    with pytest.raises(DeviceUnavailableError, match="make bitstream"):
        device.read_bitstream(bitstream.with_name("none.bit"))


def test_auto_takes_a_working_fpga_only(tiny, bitstream, tmp_path, monkeypatch):
    node = tmp_path / "class" / "uio4"
    node.mkdir(parents=True)
    (node / "name").write_text("quasar\n")
    monkeypatch.setattr(device, "UIO_CLASS", node.parent)
    monkeypatch.setenv("QUASAR_BITSTREAM", str(bitstream.with_suffix(".json")))
    assert quasar_rt.devices()[0].name == "uio"
    # The node is listed, but this machine's own /sys does not have it.
    engine = Engine(tiny)
    assert engine.device == "cpu"
    assert "uio4, cannot be used: " in engine.device_reason
    assert Engine(tiny, tier="scalar").device_reason == "tier 'scalar' was asked for"


def test_uio_says_what_is_missing(tiny, bitstream, tmp_path):
    hardware, _, _ = device.read_bitstream(bitstream)
    roots = tuple(str(tmp_path / root) for root in ("dev", "sys", "firmware"))
    with pytest.raises(DeviceUnavailableError, match=r"fpga0|firmware"):
        quasar_rt._native.Engine.uio(tiny._inner, hardware._inner, None, (bitstream, 150e6), roots, None)


class Broken:
    """A transport whose hardware is not there."""

    name = "broken"

    def write(self, register, value):
        raise RuntimeError("bus error")


def test_what_a_transport_raises_is_a_device_error(tiny, bitstream):
    hardware, _, _ = device.read_bitstream(bitstream)
    with pytest.raises(quasar_rt.DeviceFaultError, match=r"broken: .*allocate"):
        quasar_rt._native.Engine.attached(tiny._inner, hardware._inner, Broken(), None)


# On the simulated accelerator


def test_the_simulated_accelerator_has_the_cpus_bits(tiny, simulated):
    images = pictures(tiny, 9)
    expected = cpu_logits(tiny, images)
    with Engine(tiny, simulated) as engine:
        assert (engine.device, engine.about, engine.tier) == (simulated, simulated, None)
        assert simulated in repr(engine)
        np.testing.assert_array_equal(engine.infer(images[0]).integer_logits, expected[0])
        for run in (engine.infer_batch(images), engine.stream(iter(images)), engine.stream(images, ahead=1)):
            np.testing.assert_array_equal([p.integer_logits for p in run], expected)
        counters = engine._engine.counters()
        assert (counters.frames, counters.faults) == (28, 0)
    with pytest.raises(quasar_rt.ClosedError):
        engine.infer(images[0])


@pytest.mark.parametrize("format", ["gray", "rgb", "bgr", "nv12", "yuyv"])
def test_the_simulated_accelerator_takes_camera_frames(tiny, simulated, format):
    rng = np.random.default_rng(3)
    size = int(20 * 12 * {"gray": 1, "nv12": 1.5, "yuyv": 2}.get(format, 3))
    frames = [Frame(rng.integers(0, 256, size, np.uint8), 20, 12, format) for _ in range(4)]
    with Engine(tiny, "cpu", threads=1) as engine:
        expected = [engine.infer(frame).integer_logits for frame in frames]
    assert len({tuple(logits) for logits in expected}) == 4
    with Engine(tiny, simulated) as engine:
        single = [engine.infer(frame) for frame in frames]
        for run in (single, engine.infer_batch(frames), engine.stream(iter(frames))):
            np.testing.assert_array_equal([p.integer_logits for p in run], expected)


@pytest.mark.parametrize(
    ("fault", "errors"),
    [
        ("lost_interrupt", ()),
        ("spurious_interrupt", ()),
        ("hang", (quasar_rt.DeviceTimeoutError,)),
        ("late", (quasar_rt.DeviceTimeoutError,)),
        ("bus_error", (quasar_rt.DeviceFaultError,)),
        # A cut transfer of row parameters may have an address at which the simulation traps.
        ("short_dma", (quasar_rt.CorruptOutputError, quasar_rt.DeviceFaultError)),
        ("flipped_command", (quasar_rt.DeviceFaultError,)),
        ("corrupt_output", (quasar_rt.CorruptOutputError,)),
        ("wrong_identity", (quasar_rt.WrongBitstreamError,)),
    ],
)
def test_a_fault_costs_its_frame_and_no_other(tiny, simulated, fault, errors):
    images = pictures(tiny, 8)
    expected = cpu_logits(tiny, images)
    with Engine(tiny, simulated, timeout=0.25) as engine:
        for after in (0, 2):
            engine._engine.inject(fault, after)
            frames = [engine._engine.begin(image) for image in images]
            failed = 0
            for frame, logits in zip(frames, expected, strict=True):
                try:
                    np.testing.assert_array_equal(frame.wait().integer_logits(), logits)
                except errors:
                    failed += 1
            assert failed == bool(errors)
            np.testing.assert_array_equal(engine.infer(images[0]).integer_logits, expected[0])


@pytest.mark.parametrize(
    ("fault", "errors"),
    [
        ("lost_start", 8),
        ("doubled_start", 8),
        ("lost_flush", 2),
        ("partial_flush", 1),
        # The device may read the range before or after a late flush.
        ("late_flush", 0),
        ("lost_invalidate", 8),
        ("doubled_interrupt", 0),
    ],
)
def test_a_frame_never_gets_the_answer_to_another_input(tiny, simulated, fault, errors):
    images = pictures(tiny, 64)
    expected = cpu_logits(tiny, images)
    failed = 0
    with Engine(tiny, simulated, timeout=0.25) as engine:
        for after in range(8):
            engine._engine.inject(fault, after)
            part = range(8 * after, 8 * after + 8)
            frames = [(i, engine._engine.begin(images[i])) for i in part]
            failed_before = failed
            for i, frame in frames:
                try:
                    np.testing.assert_array_equal(frame.wait().integer_logits(), expected[i])
                except quasar_rt.DeviceError:
                    failed += 1
            assert failed <= failed_before + 1
    assert errors <= failed <= 8


def test_a_batch_and_a_stream_say_where_the_device_failed(tiny, simulated):
    images = pictures(tiny, 6)
    expected = cpu_logits(tiny, images)
    with Engine(tiny, simulated, timeout=0.25) as engine:
        engine._engine.inject("corrupt_output", 0)
        with pytest.raises(quasar_rt.CorruptOutputError, match="image 0 of the batch"):
            engine.infer_batch(images)
        engine._engine.inject("corrupt_output", 2)
        source, logits = iter(images), []
        with pytest.raises(quasar_rt.CorruptOutputError):
            logits.extend(p.integer_logits for p in engine.stream(source, ahead=1))
        np.testing.assert_array_equal(logits, expected[: len(logits)])


@pytest.mark.parametrize("subnets", [4, pytest.param(40, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["tiny", "odd", "wide", "pynq-z2", "zcu102", "kv260"])
def test_random_subnets_have_the_cpus_bits(name, subnets):
    have_the_cpus_bits(name, subnets, lambda seed: random_case(seed, attention=seed % 4 == 2))


@pytest.mark.parametrize("subnets", [3, pytest.param(10, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["tiny", "odd"])
def test_random_rotary_subnets_have_the_cpus_bits(name, subnets):
    have_the_cpus_bits(name, subnets, lambda seed: random_case(seed, rotary=True))


def have_the_cpus_bits(name, subnets, case):
    """Compares four frames of each of the first subnets that fit, two frames in flight where there are slots."""
    library(name)
    equal = 0
    for seed in range(50 * subnets):
        subnet, image = case(seed)
        try:
            engine = Engine(subnet, f"sim:{name}")
        except quasar_rt.DoesNotFitError:
            continue
        images = [image, 255 - image, image[::-1].copy(), image[:, ::-1].copy()]
        with engine:
            logits = [outputs_of(prediction) for prediction in engine.infer_batch(images)]
        np.testing.assert_array_equal(logits, cpu_logits(subnet, images), f"seed {seed}")
        equal += 1
        if equal == subnets:
            return
    raise AssertionError(f"only {equal} of {50 * subnets} subnets fit")


def test_a_subnet_that_does_not_fit_is_refused(simulated):
    subnet = quasar_rt.random_subnet(embed=512, depth=1, heads=8, image_size=224, classes=10)
    with pytest.raises(quasar_rt.DoesNotFitError, match="needs"):
        Engine(subnet, simulated)


def test_sim_takes_the_smallest_that_fits(tiny, simulated):
    with Engine(tiny, "sim") as engine:
        assert engine.device.startswith("sim:")
        assert "smallest" in engine.device_reason


def test_verify_runs_devices_too(tiny, simulated):
    checks = verify(tiny, images=1, accelerators=[simulated])
    assert (checks[-1].backend, checks[-1].status) == (simulated, "equal")
    subnet = quasar_rt.random_subnet(embed=1024, depth=1, heads=16, image_size=8, kernel=4, classes=2)
    (check,) = [c for c in verify(subnet, images=1, accelerators=[simulated]) if c.backend == simulated]
    assert check.status == "skipped"


def test_the_command_lists_devices(simulated):
    code = "import sys; sys.argv[1:] = ['devices', '--json']; from quasar_rt.cli import main; main()"
    document = json.loads(python(code).stdout)
    found = document["devices"]
    assert document["auto"] == {"device": "cpu", "reason": "no accelerator was found in an FPGA"}
    (entry,) = [entry for entry in found if entry["name"] == simulated]
    assert entry["about"].startswith("simulated accelerator")


@pytest.fixture(params=["missing", "below a file", "too long", "directory", "pipe"])
def no_file(request, tmp_path):
    """Makes a path that names no file; returns it and the words about it."""
    (tmp_path / "file").touch()
    (tmp_path / "folder.bit").mkdir()
    os.mkfifo(tmp_path / "pipe.json")
    return {
        "missing": (tmp_path / "none.bit", "does not exist"),
        "below a file": (tmp_path / "file" / "none.bit", "does not exist"),
        "too long": (tmp_path / ("x" * 5000 + ".bit"), "cannot be read (File name too long)"),
        "directory": (tmp_path / "folder.bit", "is a directory, not a file"),
        "pipe": (tmp_path / "pipe.json", "is not a regular file"),
    }[request.param]


@pytest.mark.parametrize("board", [None, "zcu104"])  # the sign of PYNQ's images
def test_a_named_bitstream_that_is_no_file_is_named(tiny, no_file, board, monkeypatch):
    path, problem = no_file
    monkeypatch.setenv("QUASAR_BITSTREAM", str(path))
    if board:
        monkeypatch.setenv("BOARD", board)
    for call in (lambda: Engine(tiny), device.automatic):
        with pytest.raises(DeviceUnavailableError, match=r"^QUASAR_BITSTREAM names '/.*unset it") as raised:
            call()
        assert f"', which {problem}; " in str(raised.value)
        assert len(str(raised.value)) < 400
    result = run("devices", status=2)
    assert f"which {problem}; " in " ".join(result.output.split())
    for name in ("uio", "pynq", f"pynq:{path}", *(["fpga"] if board else [])):
        with pytest.raises(DeviceUnavailableError, match=r"bitstream '/") as raised:
            Engine(tiny, name)
        assert problem in str(raised.value)
        assert "Errno" not in str(raised.value)
        assert len(str(raised.value)) < 500
    assert Engine(tiny, "cpu").device == "cpu"


def test_a_bitstream_without_a_files_name_or_a_description_is_named(tiny, bitstream):
    for name in ("/", ".", ".."):
        with pytest.raises(DeviceUnavailableError, match=rf"bitstream '{name}' is a directory"):
            Engine(tiny, f"pynq:{name}")
    with pytest.raises(DeviceUnavailableError, match=r"bitstream 'a\\x00b\.bit' is no path"):
        Engine(tiny, "pynq:a\0b.bit")
    bitstream.with_suffix(".json").unlink()
    with pytest.raises(DeviceUnavailableError, match=r"no description: '.*json' does not exist; "):
        Engine(tiny, f"pynq:{bitstream}")
    os.mkfifo(bitstream.with_suffix(".json"))
    with pytest.raises(DeviceUnavailableError, match=r"no description: '.*json' is not a regular"):
        Engine(tiny, f"pynq:{bitstream}")


def test_an_installed_wheel_has_no_folder_of_simulated_accelerators(monkeypatch, tmp_path):
    monkeypatch.delenv("QUASAR_SIM_DIR", raising=False)
    monkeypatch.setattr(device, "__file__", str(tmp_path / "site-packages" / "quasar_rt" / "device.py"))
    assert device.sim_folder() is None
    assert device.sim_libraries() == []


@pytest.mark.parametrize("seed", ["", "x", "-1", "1.0", "\u00b2", "\u0663", str(2**64), 26 * "9", 5000 * "9"])
def test_a_seed_that_no_simulated_accelerator_takes_is_named(tiny, simulated, monkeypatch, seed):
    monkeypatch.setenv("QUASAR_SIM_SEED", seed)
    with pytest.raises(InvalidValueError, match=r"^QUASAR_SIM_SEED is '.{0,220}'; it must be"):
        Engine(tiny, simulated)
    monkeypatch.setenv("QUASAR_SIM_SEED", str(2**64 - 1))
    assert Engine(tiny, simulated).device == simulated


def test_a_folder_of_simulated_accelerators_that_cannot_be_read_is_named(tiny, monkeypatch, tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    for folder in (tmp_path / ("x" * 5000), tmp_path / "loop"):
        monkeypatch.setenv("QUASAR_SIM_DIR", str(folder))
        for call in (quasar_rt.devices, lambda: Engine(tiny, "sim")):
            with pytest.raises(DeviceUnavailableError, match=r"unset QUASAR_SIM_DIR") as raised:
                call()
            assert "Errno" not in str(raised.value)
            assert len(str(raised.value)) < 400
        assert Engine(tiny, "cpu").device == "cpu"
        result = run("doctor", "--device", "sim", status=1)
        assert "cannot be read (" in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"hardware": 1, "sha256": 2}, "the field 'hardware' is 1, no text"),
        ({"sha256": {}}, "the field 'hardware' is missing"),
        ({"hardware": None, "clock_hz": 1.5e8}, "the field 'clock_hz' is 150000000.0, no whole number"),
        ({"hardware": None, "clock_hz": 10**8}, "clock_hz is 100000000, but the configuration has 150 MHz"),
        ({"hardware": None, "clock_hz": 150 * 10**6, "sha256": 2}, "the field 'sha256' is 2, no object"),
        ([], "it is no JSON object"),
    ],
)
def test_a_description_of_other_fields_names_them(tiny, bitstream, monkeypatch, content, problem):
    description = bitstream.with_suffix(".json")
    if isinstance(content, dict) and content.get("hardware", 0) is None:
        content["hardware"] = json.loads(description.read_text())["hardware"]
    description.write_text(json.dumps(content))
    monkeypatch.setenv("QUASAR_BITSTREAM", str(bitstream))
    with pytest.raises(DeviceUnavailableError, match=re.escape(f"does not describe a bitstream ({problem})")):
        Engine(tiny, "uio")


def test_no_fpga_is_explained_by_what_the_environment_has(tiny, bitstream, monkeypatch, tmp_path):
    monkeypatch.setattr(device, "UIO_CLASS", tmp_path)
    monkeypatch.delenv("BOARD", raising=False)
    for path, why in [
        (None, "QUASAR_BITSTREAM is not set"),
        ("nope.bit", "QUASAR_BITSTREAM names 'nope.bit', which does not exist"),
        (str(bitstream), "which is no .bit for PYNQ"),
        (str(bitstream.with_suffix(".json")), "BOARD, which PYNQ's images set, is not set"),
    ]:
        monkeypatch.delenv("QUASAR_BITSTREAM", raising=False)
        if path is not None:
            monkeypatch.setenv("QUASAR_BITSTREAM", path)
        with pytest.raises(DeviceUnavailableError, match=rf"no UIO device .*{re.escape(why)}$"):
            Engine(tiny, "fpga")
