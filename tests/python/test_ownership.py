"""An accelerator has one owner: a second engine, in this process or another, gets an error or waits."""

import gc
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import quasar_rt
import simulated
from quasar_rt import DeviceBusyError, _native
from simulated import Transport, library, small_subnet

pytestmark = pytest.mark.filterwarnings("ignore::quasar_rt.UntrainedWarning")


class Locked(Transport):
    """A transport of an accelerator that all processes know by a file."""

    def __init__(self, library, lock_file):
        super().__init__(library)
        self.lock_file = lock_file


def attached(transport, wait=0.0):
    return simulated.attached(small_subnet(), transport, wait=wait)


def test_one_engine_of_a_process_has_a_transport():
    transport = Transport(library("tiny"))
    first = attached(transport)
    with pytest.raises(DeviceBusyError, match="python is in use by another engine of this process; close it"):
        attached(transport)
    assert first.closer().close()
    del first
    attached(transport)


def test_engines_of_one_lock_file_exclude_each_other(tmp_path):
    file = tmp_path / "lock"
    file.touch()
    first = attached(Locked(library("tiny"), file))
    with pytest.raises(DeviceBusyError, match="another engine of this process"):
        attached(Locked(library("tiny"), str(file)))
    with pytest.raises(DeviceBusyError):
        _native.Trials.attached(simulated.configuration()._inner, Locked(library("tiny"), file), 1.0)
    del first
    attached(Locked(library("tiny"), file))
    with pytest.raises(quasar_rt.DeviceUnavailableError, match="lock_file"):
        attached(Locked(library("tiny"), 7))
    with pytest.raises(quasar_rt.DeviceUnavailableError, match="No such file"):
        attached(Locked(library("tiny"), tmp_path / "none"))


OTHER = """
import sys, time
sys.path.insert(0, sys.argv[1])
from test_ownership import Locked, attached, library
import os
engine = attached(Locked(library("tiny"), sys.argv[2]))
if sys.argv[3] == "fork" and os.fork() == 0:
    os.close(1)
    time.sleep(float(sys.argv[4]))
    os._exit(0)
print("open", flush=True)
sys.stdin.readline()
engine.closer().close()
del engine
print("closed", flush=True)
time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """Returns a function that starts another process which owns an accelerator, and its lock file."""
    library("tiny")  # skips without one
    file, started = tmp_path / "lock", []
    file.touch()

    def start(*arguments):
        command = [sys.executable, "-W", "ignore", "-c", OTHER, str(Path(__file__).parent), str(file)]
        process = subprocess.Popen(
            [*command, *(arguments or ("alone",))], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout.readline() == "open\n"
        return process, file

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_the_error_names_the_process_that_has_the_accelerator(other):
    process, file = other()
    with pytest.raises(
        DeviceBusyError, match=rf"python is in use by process {process.pid} \(python"
    ) as raised:
        attached(Locked(library("tiny"), file))
    assert "Engine(wait=SECONDS)" in str(raised.value)
    start = time.monotonic()
    with pytest.raises(DeviceBusyError):
        attached(Locked(library("tiny"), file), wait=0.3)
    assert 0.3 <= time.monotonic() - start < 5
    threading.Timer(0.2, lambda: print("go", file=process.stdin, flush=True)).start()
    attached(Locked(library("tiny"), file), wait=30)
    assert process.poll() is None  # it closed its engine and lives on


def test_a_killed_process_gives_the_accelerator_back(other):
    process, file = other()
    os.kill(process.pid, signal.SIGKILL)
    attached(Locked(library("tiny"), file), wait=30)


def test_a_forked_process_does_not_keep_the_accelerator(other):
    process, file = other("fork", "60")
    print("go", file=process.stdin, flush=True)
    assert process.stdout.readline() == "closed\n"
    attached(Locked(library("tiny"), file))


def test_ctrl_c_ends_the_wait(other):
    _, file = other()
    threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        attached(Locked(library("tiny"), file), wait=60)


def test_a_lock_file_that_cannot_be_had_is_no_missing_lock(tmp_path):
    class Raising(Transport):
        @property
        def lock_file(self):
            raise ValueError("no such board")

    with pytest.raises(quasar_rt.DeviceUnavailableError, match="lock_file: ValueError: no such board"):
        attached(Raising(library("tiny")))
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path):
        with pytest.raises(quasar_rt.DeviceUnavailableError, match="no file or device that can be locked"):
            attached(Locked(library("tiny"), path))


def test_an_engine_in_a_cycle_gives_its_accelerator_back(tmp_path):
    file = tmp_path / "lock"
    file.touch()
    gc.disable()
    try:
        first = [attached(Locked(library("tiny"), file))]
        first.append(first)
        del first
        attached(Locked(library("tiny"), file))
    finally:
        gc.enable()


def test_dropped_trials_stop_no_other_thread():
    trials = _native.Trials.attached(simulated.configuration()._inner, Transport(library("tiny")), 1.0)
    times = [time.monotonic()]
    ended = threading.Event()

    def run():
        while not ended.is_set():
            times.append(time.monotonic())
            time.sleep(0.01)

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(0.05)
    del trials
    ended.set()
    thread.join()
    assert max(b - a for a, b in itertools.pairwise(times)) < 2
