"""The cycles that the simulated device counts next to those of the event model, unit by unit and in steady state.

Both have their depths and gaps from `rust/hardware/src/declared.rs`. Everything else the device has from the HLS
sources: trip counts, queues, the order of reads and writes.
"""

import ctypes
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import simulated
from quasar_rt import Engine, Subnet, random_subnet
from quasar_rt.errors import DoesNotFitError
from quasar_rt.hardware import Hardware, Workload, replay
from quasar_rt.nas.layers import untrained_subnet
from quasar_rt.space import Space
from quasar_rt.testing import random_image

pytestmark = pytest.mark.filterwarnings("ignore::quasar_rt.UntrainedWarning")

VECTORS = Path(__file__).parents[1] / "vectors"
FPGA = Path(__file__).parents[2] / "fpga"
SUBNETS = ["all-4", "all-8", "attention", "mean", "mean-after-norm", "overlap", "token"]
#: Largest difference of a count, of the cycles that a frame takes by the model. The model ends a command of the norm
#: and of the softmax behind the gap of its last loop, 32 cycles late; and it has no queues within a unit but those of
#: commands, so that an item may pass a few cycles earlier or later.
BOUND = 0.02


def profile(name, vector, monkeypatch, seed=0):
    """Returns the profile of one frame."""
    simulated.library(name)
    monkeypatch.setenv("QUASAR_SIM_SEED", str(seed))
    try:
        engine = Engine(Subnet.load(VECTORS / f"{vector}.qvit"), f"sim:{name}")
    except DoesNotFitError:
        pytest.skip("the subnet does not fit the configuration")
    with engine:
        return engine.profile(np.zeros((32, 32, 3), np.uint8), repeat=1)


def beyond(found):
    """Returns the counts that differ by more than the bound."""
    return [
        difference
        for difference in found.differences()
        if difference.what == "commands"
        or abs(difference.counted - difference.modelled) > BOUND * found.modelled_cycles
    ]


@pytest.mark.parametrize("vector", SUBNETS)
@pytest.mark.parametrize("name", ["tiny", "odd", "wide"])
def test_each_unit_takes_the_cycles_of_the_event_model(name, vector, monkeypatch):
    assert beyond(profile(name, vector, monkeypatch)) == []


@pytest.mark.parametrize("vector", ["overlap", "token"])
def test_the_cycles_do_not_depend_on_the_seed(vector, monkeypatch):
    first, *others = (profile("tiny", vector, monkeypatch, seed) for seed in (0, 1, 7, 12345))
    assert all(other == first for other in others)


@pytest.mark.parametrize(
    ("source", "old", "new", "units"),
    [
        # Each pass is planned three times as slowly as declared.
        ("timing", '{"plan.pass", declared::PLAN_INTERVAL}', '{"plan.pass", 24}', {"plan", "array"}),
        # An exponential takes ten cycles.
        (
            "softmax",
            'interval("softmax.exponential");',
            'interval("softmax.exponential"); gap(9);',
            {"softmax"},
        ),
    ],
)
def test_a_slower_unit_is_seen(source, old, new, units, tmp_path, monkeypatch):
    simulated.broken("tiny", tmp_path, source, old, new)
    monkeypatch.setenv("QUASAR_SIM_DIR", str(tmp_path))
    found = profile("tiny", "token", monkeypatch)
    assert units <= {difference.unit for difference in beyond(found)}


STORE, DONE = 0x1_0000, 2


class Timed(simulated.Transport):
    """A simulated device that records the host's cycle at the end of each frame."""

    def __init__(self, library):
        super().__init__(library)
        self.sim.qsim_cycle.restype = ctypes.c_uint64
        self.ends = []

    def read(self, register):
        value = super().read(register)
        if register == STORE and value & DONE:
            self.ends.append(self.sim.qsim_cycle(self.device))
        return value


def pairs_of_a_run(library, subnet, frames):
    """Returns the cycles of a frame in each two successive intervals of a stream: two frames take turns.

    The first frame and the last one find the accelerator emptier, and do not count.
    """
    transport = Timed(library)
    engine = simulated.attached(subnet, transport, timeout=300.0, name=library)
    image = random_image(subnet, seed=2)
    pending = []
    for _ in range(frames):
        if len(pending) == engine.in_flight:
            pending.pop(0).wait()
        pending.append(engine.begin(image))
    for frame in pending:
        frame.wait()
    assert len(transport.ends) == frames
    ends = transport.ends[1:-1]
    return [(after - before) / 2 for before, after in zip(ends, ends[2:], strict=False)]


def steady_cycles(library, subnet, frames=8):
    """Returns the cycles of a frame in the fastest and in the slowest pair of a stream.

    They are of the run, of three at most, in which they differ least: a host that is late disturbs a run, but a device
    that is slow now and then is so in every run.
    """
    best = ()
    for _ in range(3):
        pairs = pairs_of_a_run(library, subnet, frames)
        found = min(pairs), max(pairs)
        best = min(best or found, found, key=lambda pair: pair[1] - pair[0])
        if best[1] < 1.001 * best[0]:
            break
    return best


def assert_steady(library, subnet, modelled, frames=8):
    """Asserts that each pair of frames of a stream takes the modelled cycles, within 1 %."""
    assert steady_cycles(library, subnet, frames) == pytest.approx((modelled, modelled), rel=0.01)


@pytest.mark.parametrize("name", ["zcu102", pytest.param("kv260", marks=pytest.mark.slow), "pynq-z2"])
def test_the_rate_of_deit_tiny_is_that_of_the_event_model(name):
    library = simulated.library(name)
    subnet = random_subnet(eight_bit_fraction=0)
    modelled = replay(Workload.deit("deit-tiny"), simulated.configuration(library)).period_with_gaps_cycles
    assert_steady(library, subnet, modelled)


def explored(board, subnet, folder, clock_mhz=None, *variables):
    """Returns the configuration that the explorer finds for the network, and its simulated device."""
    hardware = Hardware.for_board(board, subnet, clock_mhz)
    hardware.save(folder / "explored.toml")
    command = f"make -C {FPGA} -s sim CONFIGS=explored CONFIG_FOLDER={folder} BUILD={folder}"
    subprocess.run([*command.split(), f"PYTHON={sys.executable}", *variables], check=True)
    return hardware, folder / "sim" / "explored.so"


@pytest.mark.parametrize(
    ("board", "clock_mhz", "ratio"),
    [pytest.param("ultra96v2", 150.0, 2, marks=pytest.mark.slow), ("pynq-z2", 200.0, 1)],
)
def test_the_rate_of_an_explored_configuration_is_that_of_the_event_model(
    board, clock_mhz, ratio, tmp_path, monkeypatch
):
    """A small network: compiling the simulated device takes most of the time, so the compiler does not optimize."""
    shape = dict(embed=96, depth=2, heads=2, head_dim=32, hidden=256, image_size=96, kernel=16, classes=10)
    subnet = random_subnet(**shape)
    hardware, library = explored(board, subnet, tmp_path, clock_mhz, "OPTIMIZE=-O0")
    assert hardware.settings["array"].get("clock_ratio", 1) == ratio
    modelled = replay(subnet, hardware).period_with_gaps_cycles
    assert_steady(library, subnet, modelled, frames=12)
    if ratio == 1:
        return  # One configuration shows that a late device is seen.

    # It is late with each fourth segment.
    monkeypatch.setenv("QUASAR_SIM_DIR", str(library.parent))
    (tmp_path / "late").mkdir()
    old = "uint32_t bad = 0;"
    late = f"static unsigned starts = 0;\n  if (++starts % 4 == 0)\n    gap(40000);\n  {old}"
    late = simulated.broken("explored", tmp_path / "late", "fetch", old, late)
    fastest, slowest = steady_cycles(late, subnet, frames=12)
    assert fastest == pytest.approx(modelled, rel=0.01)
    assert slowest > 1.1 * modelled


@pytest.mark.slow
@pytest.mark.parametrize(("board", "space", "seed"), [("zcu104", "small", 1), ("ultra96v2", "tiny", 2)])
def test_the_rate_of_a_large_network_on_an_explored_configuration_is_that_of_the_event_model(
    board, space, seed, tmp_path
):
    of = Space.load(space)
    subnet = untrained_subnet(of, of.sample(seed), seed, "sampled", {})
    hardware, library = explored(board, subnet, tmp_path)
    assert_steady(library, subnet, replay(subnet, hardware).period_with_gaps_cycles)
