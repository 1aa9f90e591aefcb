"""Deadlines of all waits: transports that hang in each of their methods, with each kind of call waiting for them."""

import time

import pytest

from helpers import tiny_vit
from simulated import METHODS, library
from test_exit import execute

pytestmark = pytest.mark.filterwarnings("ignore::quasar_rt.UntrainedWarning")

#: A call of a transport may take 5 seconds beyond the time-out, and 5 after `close`; the rest is for a busy machine.
MOST = 12

BEGIN = """
import simulated
from helpers import wait_until
from quasar_rt import _native
small = np.zeros((8, 8, 1), np.uint8)
def say(*words):
    # At once, though other threads write, too.
    os.write(1, " ".join(map(str, [*words, "\\n"])).encode())
def attempt(call):
    start, outcome = time.monotonic(), "works"
    try:
        call()
    except BaseException as error:
        outcome = type(error).__name__
    return outcome, time.monotonic() - start
def report(name, call):
    outcome, took = attempt(call)
    say(name, outcome, f"{took:.1f}")
def in_threads(calls):
    threads = [threading.Thread(target=report, args=item) for item in calls.items()]
    for thread in threads:
        thread.start()
    return threads
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Returns `outcomes(code)`: the outcome and the seconds of each call that the code reports, by its name."""
    tiny = str(library("tiny"))
    path = tmp_path_factory.mktemp("deadlines") / "tiny.qvit"
    tiny_vit().save(path)

    def run(code, status=0, timeout=0.1):
        begin = f"""
{BEGIN}
subnet = quasar_rt.Subnet.load({str(path)!r})
def hanging(*arguments):
    return simulated.Hanging({tiny!r}, *arguments)
def native(transport):
    return simulated.attached(subnet, transport, {timeout})
def opened(transport, hangs=None):
    simulated.attach({tiny!r}, transport, {timeout})
    engine = quasar_rt.Engine(subnet, "python")
    transport.hangs = hangs
    return engine
transport = hanging()
"""
        done = execute(begin + code, status)
        lines = [line.rstrip().rsplit(" ", 2) for line in done.stdout.splitlines()]
        return {name: (outcome, float(took)) for name, outcome, took in lines}

    return run


def test_a_transport_may_hang_in_each_method_at_each_moment(outcomes):
    found = outcomes(
        f"""
def run(method):
    transport = hanging()
    engine = native(transport)
    transport.skip, transport.hangs = 100, method
    while True:
        engine.infer(small)
def hangs_in_its_name():
    class Nameless(simulated.Hanging):
        @property
        def name(self):
            threading.Event().wait()
    native(Nameless({str(library("tiny"))!r}))
calls = {{"open, name": hangs_in_its_name}}
for method in simulated.METHODS:
    if method not in ("copy_out", "invalidate"):
        calls[f"open, {{method}}"] = lambda method=method: native(hanging(method))
    if method != "allocate":
        calls[f"run, {{method}}"] = lambda method=method: run(method)
for thread in in_threads(calls):
    thread.join()
"""
    )
    assert len(found) == 2 * len(METHODS) - 2
    for name, (outcome, took) in found.items():
        assert outcome == "DeviceTimeoutError", name
        # Seventeen engines run at the same time.
        assert 5 < took < 3 * MOST, name


def test_all_who_wait_for_a_transport_that_hangs_get_an_error(outcomes):
    found = outcomes(
        """
engine = opened(transport)
def closed():
    with engine:
        engine.infer(small)
calls = {
    "infer": lambda: engine.infer(small),
    "infer_batch": lambda: engine.infer_batch([small] * 20),
    "stream": lambda: list(engine.stream([small] * 20)),
    "submit": lambda: engine.submit(small).result(),
    "submit more": lambda: [future.result() for future in [engine.submit(small) for _ in range(20)]],
    "profile": lambda: engine.profile(small),
}
transport.hangs = "wait"
first = threading.Thread(target=attempt, args=(lambda: engine.infer(small),))
first.start()
transport.hanging.wait()
for thread in in_threads(calls):
    thread.join()
report("later", lambda: engine.infer(small))
report("with", closed)
report("close", engine.close)
other = hanging()
report("another transport", lambda: opened(other).infer(small))
report("the same transport", lambda: opened(transport))
before = len(transport.calls)
transport.gate.set()
wait_until(lambda: len(transport.calls) >= before + 2)
time.sleep(0.5)
# The driver's thread resets the kernels, and does nothing else.
assert transport.calls[before:] == ["write", "write"], transport.calls[before:]
transport.hangs = None
transport.buffers.clear()
report("the same transport once it has returned", lambda: opened(transport).infer(small))
"""
    )
    waiting = ("infer", "infer_batch", "stream", "submit", "submit more", "profile")
    for name in waiting:
        assert found[name][0] == "DeviceTimeoutError", name
        assert found[name][1] < MOST, name
    for name in ("later", "with", "the same transport"):
        assert found[name][0] == "DeviceUnavailableError", name
        assert found[name][1] < 1, name
    for name in ("close", "another transport", "the same transport once it has returned"):
        assert found[name][0] == "works", name


@pytest.mark.parametrize(
    ("how", "timeout"),
    [("close()", 0.1), ("close(cancel=True)", 1000.0), ("with", 1000.0), ("exception", 1000.0)],
)
def test_an_engine_with_waiting_images_is_closed_in_time(outcomes, how, timeout):
    statement = {
        "with": "with engine:\n        pass",
        "exception": "with engine:\n        raise KeyError",
    }.get(how, f"engine.{how}")
    found = outcomes(
        f"""
engine = opened(transport, "read")
futures = [engine.submit(small) for _ in range(20)]
others = in_threads({{f"infer {{i}}": lambda: engine.infer(small) for i in range(3)}})
transport.hanging.wait()
def close():
    {statement}
report("close", close)
assert all(future.done() for future in futures)
for other in others:
    other.join()
for i, future in enumerate(futures):
    report(f"future {{i}}", future.result)
report("closed", lambda: engine.infer(small))
""",
        timeout=timeout,
    )
    assert found.pop("close")[1] < MOST
    assert found.pop("closed")[0] == "ClosedError"
    errors = {"DeviceTimeoutError", "DeviceUnavailableError", "CancelledError"}
    assert {outcome for outcome, _ in found.values()} <= errors
    assert len(found) == 23
    assert max(took for _, took in found.values()) < MOST


@pytest.mark.parametrize(
    "wait", ["engine.infer(small)", "native(hanging('write'))", "engine.submit(small).result()"]
)
def test_ctrl_c_ends_a_wait_for_a_transport_that_hangs(outcomes, wait):
    found = outcomes(
        f"""
engine = opened(transport, "read")
threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()
report("wait", lambda: {wait})
say("at", "the_end", time.time())
"""
    )
    assert found["wait"][0] == "KeyboardInterrupt"
    assert found["wait"][1] < 4
    assert time.time() - found["at"][1] < 20


@pytest.mark.parametrize("moment", ["open", "infer"])
def test_python_ends_though_threads_wait_for_a_transport_that_hangs(outcomes, moment):
    wait = "native(hanging('read'))" if moment == "open" else "engine.infer(small)"
    found = outcomes(
        f"""
engine = opened(transport, "read")
in_threads({{f"wait {{i}}": lambda: {wait} for i in range(3)}})
time.sleep(1)
say("at", "the_end", time.time())
sys.exit(3)
""",
        3,
    )
    assert time.time() - found["at"][1] < 25
    assert {found[f"wait {i}"][0] for i in range(3)} <= {"DeviceTimeoutError", "SystemExit"}


def test_a_trial_of_a_device_that_hangs_ends(outcomes):
    found = outcomes(
        """
for method in ("write", "wait", "copy_in"):
    transport = hanging()
    trials = _native.Trials.attached(simulated.configuration()._inner, transport, 0.1)
    report(f"{method}, identity", trials.identity)
    transport.hangs = method
    report(f"{method}, transfers", trials.transfers)
    report(f"{method}, registers", trials.registers)
    say(f"{method}, close", trials.close(), 0)
transport = hanging()
trials = _native.Trials.attached(simulated.configuration()._inner, transport, 0.1)
transport.hangs = "read"
threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()
report("interrupted", trials.registers)
"""
    )
    for method in ("write", "wait", "copy_in"):
        assert found[f"{method}, identity"][0] == "works"
        assert found[f"{method}, transfers"][0] == "DeviceTimeoutError"
        assert found[f"{method}, transfers"][1] < MOST
        assert found[f"{method}, registers"][0] == "DeviceUnavailableError"
        assert found[f"{method}, close"][0] == "False"
    assert found["interrupted"][0] == "KeyboardInterrupt"
    assert found["interrupted"][1] < 4
