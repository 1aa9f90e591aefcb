"""Ends processes: with each kind of engine, with each kind of work in flight, in each way that a process ends."""

import gc
import itertools
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import quasar_rt
from quasar_rt import _native
from quasar_rt.hardware import Hardware
from simulated import Transport, library

pytestmark = pytest.mark.filterwarnings("ignore::quasar_rt.UntrainedWarning")

#: Longest time for a process, its start included.
SECONDS = 20

WORK = {
    # A stream that is left half read, of pictures that take long to decode.
    "stream": """
stream = engine.stream(itertools.repeat(picture))
next(stream)
""",
    # Threads in the middle of `infer`.
    "infer": """
def work():
    while True:
        engine.infer(small)
for _ in range(2):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.2)
""",
    # Frames that nobody waits for yet.
    "begun": """
native = engine._engine
handles = [native.begin(small) for _ in range(6)]
""",
    # Submissions, whose callbacks submit more.
    "submitted": """
def again(future):
    engine.submit(small).add_done_callback(again)
for _ in range(8):
    engine.submit(small).add_done_callback(again)
""",
    "nothing": """
engine.infer(small)
""",
}

END = {
    "return": ("", 0),
    "exit": ("sys.exit(3)", 3),
    "exception": ("raise KeyError('the end')", 1),
    "interrupt": ("os.kill(os.getpid(), signal.SIGINT); time.sleep(5)", -2),
    "fork": (
        """
child = os.fork()
if child == 0:
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
""",
        0,
    ),
}


SUBMITTED = [
    ("cpu", "submitted", "interrupt"),
    ("sim:tiny", "submitted", "return"),
    ("python", "submitted", "fork"),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exit")
    quasar_rt.random_subnet(
        embed=8, depth=2, heads=2, head_dim=4, hidden=8, image_size=8, channels=1, kernel=4, classes=5, seed=1
    ).save(folder / "tiny.qvit")
    noise = np.random.default_rng(1).integers(0, 256, (2000, 3000, 3), np.uint8)
    Image.fromarray(noise).save(folder / "big.jpg", quality=80)
    return folder


def run(files, kind, flight, end):
    tiny = None if kind == "cpu" else library("tiny")
    statement, status = END[end]
    code = f"""
import itertools, os, signal, sys, threading, time, warnings
import numpy as np
warnings.simplefilter("ignore")
sys.path.insert(0, {str(Path(__file__).parent)!r})
import quasar_rt
if {kind!r} == "python":
    import simulated
    simulated.attach({str(tiny)!r})
engine = quasar_rt.Engine({str(files / "tiny.qvit")!r}, {kind!r})
picture = {str(files / "big.jpg")!r}
small = np.zeros((8, 8, 1), np.uint8)
{WORK[flight]}
{statement}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == status, done.stderr
    # A thread that waits for a frame gets an error, which Python prints.
    assert not any(word in done.stderr for word in ("Fatal", "panicked", "terminate")), done.stderr


@pytest.mark.parametrize(
    ("kind", "flight", "end"),
    [
        case
        for case in itertools.product(("cpu", "sim:tiny", "python"), WORK, END)
        # An engine on the CPU begins no frames.
        if case[:2] != ("cpu", "begun")
        # Submissions end before the device does: these cases suffice.
        and (case[1] != "submitted" or case in SUBMITTED)
    ],
)
def test_a_process_ends_whatever_is_in_flight(files, kind, flight, end):
    run(files, kind, flight, end)


@pytest.fixture
def attached(files):
    """Makes engines on a transport of Python, which may fail or hold on to things."""
    tiny = library("tiny")
    subnet = quasar_rt.Subnet.load(files / "tiny.qvit")
    hardware = Hardware.from_toml(_native.sim_configuration(str(tiny)))

    def attach(transport):
        return _native.Engine.attached(subnet._inner, hardware._inner, transport, 60.0)

    return tiny, attach


def test_an_engine_in_a_cycle_with_its_transport_is_collected(attached):
    tiny, attach = attached
    transport = Transport(tiny)
    transport.engine = attach(transport)
    freed = weakref.ref(transport)
    del transport
    gc.collect()
    assert freed() is None


def test_the_collector_may_free_an_engine_inside_its_driver(attached):
    tiny, attach = attached

    class Collecting(Transport):
        holder = None

        def wait(self, seconds):
            if self.holder:
                self.holder.clear()
                gc.collect()
            return super().wait(seconds)

    transport = Collecting(tiny)
    holder = [attach(transport)]
    frame = holder[0].begin(np.zeros((8, 8, 1), np.uint8))
    transport.holder = holder
    frame.wait(1)
    del frame
    deadline = time.monotonic() + 10
    while holder and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not holder
    assert not [t for t in threading.enumerate() if t.name == "quasar-driver"]
