"""Ends processes: with each kind of engine, with each kind of work in flight, in each way that a process ends."""

import gc
import itertools
import subprocess
import sys
import time
import weakref
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import quasar_rt
import simulated
from helpers import running, tiny_vit, wait_until
from simulated import Transport, library

pytestmark = pytest.mark.filterwarnings("ignore::quasar_rt.UntrainedWarning")

#: Longest time for a process, its start included.
SECONDS = 60

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
    "terminate": ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(5)", -15),
    "at once": ("os._exit(4)", 4),
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
#: Python does nothing at these ends, so that few cases suffice.
ABRUPT = [
    ("python", "begun", "terminate"),
    ("sim:tiny", "stream", "terminate"),
    ("python", "infer", "at once"),
    ("cpu", "submitted", "at once"),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exit")
    tiny_vit().save(folder / "tiny.qvit")
    noise = np.random.default_rng(1).integers(0, 256, (2000, 3000, 3), np.uint8)
    Image.fromarray(noise).save(folder / "big.jpg", quality=80)
    return folder


def run(files, kind, flight, end):
    tiny = None if kind == "cpu" else library("tiny")
    statement, status = END[end]
    begin = "import simulated; simulated.attach(TINY)" if kind == "python" else ""
    execute(f"TINY = {str(tiny)!r}\n{begin}{opened(files, kind)}{WORK[flight]}{statement}", status)


def opened(files, kind):
    return f"""
engine = quasar_rt.Engine({str(files / "tiny.qvit")!r}, {kind!r})
picture = {str(files / "big.jpg")!r}
small = np.zeros((8, 8, 1), np.uint8)
"""


def execute(code, status, first=""):
    start = f"""
import atexit, itertools, os, signal, sys, threading, time, warnings
import numpy as np
warnings.simplefilter("ignore")
sys.path.insert(0, {str(Path(__file__).parent)!r})
{first}
import quasar_rt
"""
    done = subprocess.run(
        [sys.executable, "-c", start + code], capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == status, done.stderr
    # A thread that waits for a frame gets an error, which Python prints.
    words = ("Fatal", "panicked", "Panic", "terminate", "meta_path", "NoneType")
    assert not any(word in done.stderr for word in words), done.stderr
    return done


@pytest.mark.parametrize(
    ("kind", "flight", "end"),
    [
        case
        for case in itertools.product(("cpu", "sim:tiny", "python"), WORK, END)
        # An engine on the CPU begins no frames.
        if case[:2] != ("cpu", "begun")
        # Submissions end before the device does: these cases suffice.
        and (case[1] != "submitted" or case in [*SUBMITTED, *ABRUPT])
        and (case[2] not in ("terminate", "at once") or case in ABRUPT)
    ],
)
def test_a_process_ends_whatever_is_in_flight(files, kind, flight, end):
    run(files, kind, flight, end)


#: Ways in which a transport hangs: in Python, in C, and in Python without a care for exceptions.
HANG = {
    "looping": "while True: time.sleep(0.01)",
    "asleep": "threading.Event().wait()",
    "until Python ends": "time.sleep(6)",
    "stubborn": """
            while True:
                try:
                    time.sleep(0.01)
                except BaseException:
                    pass
""",
}


def hanging(files, how):
    """Returns code that makes an engine whose transport hangs once ``transport.hangs`` is true."""
    tiny = str(library("tiny"))
    return f"""
import simulated
class Hanging(simulated.Transport):
    hangs = False
    def read(self, register):
        if self.hangs:
            {HANG[how]}
        return super().read(register)
transport = Hanging({tiny!r})
simulated.attach({tiny!r}, transport)
{opened(files, "python")}
"""


@pytest.mark.parametrize(
    ("how", "flight", "end"),
    [
        ("looping", "begun", "exit"),
        ("looping", "infer", "exception"),
        ("asleep", "submitted", "return"),
        ("until Python ends", "begun", "exit"),
        ("stubborn", "begun", "interrupt"),
    ],
)
def test_a_process_ends_though_its_transport_hangs(files, how, flight, end):
    statement, status = END[end]
    code = f"""
{hanging(files, how)}
class Slow:
    # The transport's thread runs while Python takes itself apart.
    def __del__(self):
        time.sleep(1)
slow = Slow()
transport.hangs = True
{WORK[flight]}
time.sleep(0.5)
print(time.time(), flush=True)
{statement}
"""
    done = execute(code, status)
    # The limit is 5 s; `Slow` and a busy machine take their time.
    assert time.time() - float(done.stdout.split()[0]) < 15


@pytest.mark.parametrize(
    ("how", "statement", "outcome", "least", "most"),
    [
        ("looping", "engine.close()", "RuntimeWarning", 4, 15),
        ("looping", "del engine", "", 4, 15),
        ("stubborn", "interrupt(); engine.close()", "KeyboardInterrupt", 0, 4),
    ],
)
def test_an_engine_can_be_closed_though_its_transport_hangs(files, how, statement, outcome, least, most):
    code = f"""
{hanging(files, how)}
def interrupt():
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
transport.hangs = True
interrupt()
try:
    engine.infer(small)
except KeyboardInterrupt:
    pass
copy, outcome = [engine] if "close" in {statement!r} else [], ""
start = time.monotonic()
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    try:
        {statement}
    except KeyboardInterrupt:
        outcome = "KeyboardInterrupt"
outcome += "".join(warning.category.__name__ for warning in caught)
print(time.monotonic() - start, time.time(), outcome, flush=True)
for engine in copy:
    engine.close()
    try:
        engine.infer(small)
    except quasar_rt.ClosedError:
        print("closed", flush=True)
sys.exit(3)
"""
    done = execute(code, 3)
    lines = done.stdout.splitlines()
    took, end, *found = lines[0].split(" ")
    assert found == [outcome]
    assert least < float(took) < most
    assert time.time() - float(end) < 15
    assert lines[1:] == ["closed"] * ("close" in statement)


#: Late uses, and their outcomes on the CPU and on an accelerator in a function of `atexit`.
LATE = {
    "infer": ("engine.infer(small)", "works", "ClosedError"),
    "batch": ("engine.infer_batch([picture, small])", "works", "ClosedError"),
    "submit": ("engine.submit(small).result()", "ClosedError", "ClosedError"),
    "stream": ("list(engine.stream([small]))", "ClosedError", "ClosedError"),
    "read on": ("list(half)", "ClosedError", "ClosedError"),
    "open": ("quasar_rt.Engine(subnet, kind).infer(small)", "works", "DeviceUnavailableError"),
    "auto": ("quasar_rt.Engine(subnet).infer(small)", "works", "works"),
    "metrics": ("quasar_rt.Engine(subnet, kind, metrics=True).metrics()", "works", "DeviceUnavailableError"),
    "close": ("engine.close()", "works", "works"),
}


@pytest.mark.parametrize("when", ["atexit", "__del__"])
@pytest.mark.parametrize("kind", ["cpu", "sim:tiny", "python"])
def test_what_comes_too_late_gets_an_error_of_ours(files, kind, when):
    tiny = None if kind == "cpu" else library("tiny")
    tries = "".join(f"    attempt({name!r}, lambda: {call})\n" for name, (call, *_) in LATE.items())
    first = f"""
def attempt(name, call):
    try:
        call()
    except quasar_rt.QuasarError as error:
        print(name, type(error).__name__, sep=": ", flush=True)
    else:
        print(name, "works", sep=": ", flush=True)
def late():
{tries}
subnet, kind = {str(files / "tiny.qvit")!r}, {kind!r}
"""
    begin = f"import simulated; simulated.attach({str(tiny)!r})" if kind == "python" else ""
    begin = f"{begin}{opened(files, kind)}half = engine.stream([small] * 100)\nnext(half)\n"
    if when == "atexit":
        # Registered before the package's own function, so it is called after that.
        done = execute(begin, 0, f"{first}atexit.register(late)")
    else:
        cls = "class Late:\n    def __del__(self, late=late):\n        late()\n"
        done = execute(begin, 0, f"{first}{cls}kept = Late()")
    outcomes = dict(line.split(": ") for line in done.stdout.splitlines())
    expected = {name: on_cpu if kind == "cpu" else other for name, (_, on_cpu, other) in LATE.items()}
    if when == "__del__":
        expected = dict.fromkeys(LATE, "ClosedError") | {"close": "works"}
    assert outcomes == expected
    assert not done.stderr


@pytest.mark.parametrize(("kind", "outcome"), [("cpu", "works"), ("python", "DeviceUnavailableError")])
def test_an_engine_of_a_package_that_is_imported_too_late(files, kind, outcome):
    code = f"""
def late():
    import simulated
    simulated.attach({str(library("tiny"))!r})
    try:
        quasar_rt.Engine({str(files / "tiny.qvit")!r}, {kind!r}).infer(np.zeros((8, 8, 1), np.uint8))
    except quasar_rt.QuasarError as error:
        print(type(error).__name__)
    else:
        print("works")
atexit.register(late)
"""
    assert execute(code, 0).stdout.strip() == outcome


def collect(freed):
    """Collects until an object is free and no stream runs: a thread may be inside one of its methods."""
    wait_until(lambda: gc.collect() >= 0 and freed() is None and not running("quasar-stream"))


@pytest.mark.parametrize("drop", [None, "oldest"])
def test_a_stream_in_a_cycle_with_its_source_is_collected(files, drop):
    class Camera:
        def __init__(self, engine):
            self.stream = engine.stream(self.images(), drop=drop)

        def images(self):
            while True:
                time.sleep(0.001)
                yield self.picture()

        def picture(self):
            return str(files / "big.jpg")

    with quasar_rt.Engine(files / "tiny.qvit", "cpu") as engine:
        camera = Camera(engine)
        next(camera.stream)
        freed = weakref.ref(camera)
        del camera
        collect(freed)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_in_a_transport_reaches_the_caller(attached, kind):
    tiny, attach = attached

    class Interrupted(Transport):
        interrupt = False

        def read(self, register):
            if self.interrupt:
                self.interrupt = False
                raise kind("a reason")
            return super().read(register)

    transport = Interrupted(tiny)
    transport.interrupt = True
    with pytest.raises(kind, match="a reason"):
        attach(transport)
    transport = Interrupted(tiny)
    engine = attach(transport)
    small = np.zeros((8, 8, 1), np.uint8)
    expected = engine.infer(small).outputs()
    transport.interrupt = True
    with pytest.raises(kind, match="a reason"):
        engine.infer(small)
    assert (engine.infer(small).outputs() == expected).all()


@pytest.fixture
def attached(files):
    """Makes engines on a transport of Python, which may fail or hold on to things."""
    tiny = library("tiny")
    return tiny, partial(simulated.attached, quasar_rt.Subnet.load(files / "tiny.qvit"), timeout=60.0)


@pytest.mark.parametrize("frame", [False, True])
def test_an_engine_or_a_frame_in_a_cycle_with_its_transport_is_collected(attached, frame):
    tiny, attach = attached
    transport = Transport(tiny)
    engine = attach(transport)
    transport.held = engine.begin(np.zeros((8, 8, 1), np.uint8)) if frame else engine
    freed = weakref.ref(transport)
    del transport, engine
    gc.collect()
    assert frame or freed() is None
    collect(freed)


def test_a_stream_in_a_cycle_with_its_transport_is_collected(attached, files, monkeypatch):
    tiny, attach = attached
    transport = Transport(tiny)
    opened = [(attach(transport), "python", "asked for")]
    monkeypatch.setattr("quasar_rt.engine.open_device", lambda *_: opened.pop())
    engine = quasar_rt.Engine(files / "tiny.qvit", "python")
    transport.stream = engine.stream([np.zeros((8, 8), np.uint8)] * 50)
    next(transport.stream)
    freed = weakref.ref(transport)
    del transport, engine
    collect(freed)


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
    frame.wait()
    del frame
    wait_until(lambda: not holder)
    assert not running("quasar-driver")
