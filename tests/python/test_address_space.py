"""Limits of a process's address space (`ulimit -v`): too little memory is an error, never the end of the process."""

import sys

import pytest

import quasar_rt
from helpers import python

pytestmark = [
    pytest.mark.filterwarnings("ignore::quasar_rt.UntrainedWarning"),
    pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS limits address space on Linux"),
]

LIMITS = 20

#: DeiT-small's shape; few tokens of many channels; many tokens of few channels, with an embedding.
SHAPES = {
    "deit-small": {"embed": 384, "heads": 6, "head_dim": 64, "hidden": 1536},
    "wide": {"embed": 1024, "depth": 2, "heads": 16, "head_dim": 64, "hidden": 4096, "image_size": 64},
    "long": {
        "embed": 65,
        "depth": 3,
        "heads": 5,
        "head_dim": 36,
        "hidden": 130,
        "image_size": 124,
        "kernel": 4,
        "classes": 70,
        "eight_bit_fraction": 0.9,
        "embedding": True,
    },
}

#: Runs one use in a forked process for each limit: bytes beyond those that the process has.
USES = """
import os, resource, sys, warnings
warnings.simplefilter("ignore")
import numpy as np
import quasar_rt, quasar_rt.engine, quasar_rt.prediction, quasar_rt.submissions
from quasar_rt.accelerator import Program
from quasar_rt.hardware import Hardware
path, use, size, *limits = sys.argv[1:]
if use == "compile":
    subnet = quasar_rt.Subnet.load(path)
    zcu102 = Hardware.for_board("zcu102", subnet)
data = open(path, "rb").read() if use == "bytes" else None
image = np.zeros((int(size), int(size), 3), np.uint8)
def run(threads):
    if use == "load":
        return quasar_rt.Subnet.load(path)
    if use == "bytes":
        return quasar_rt.Subnet.from_bytes(data)
    if use == "compile":
        return Program.compile(subnet, zcu102)
    engine = quasar_rt.Engine(path, "cpu", threads=threads)
    if use == "embed":
        engine.embed(image)
    elif use == "frames":
        engine.infer(image)
        engine.infer_batch([image] * 3)
        list(engine.stream([image] * 5))
        [future.result() for future in [engine.submit(image) for _ in range(3)]]
    engine.close()
def limited(extra, threads):
    pages = int(open("/proc/self/statm").read().split()[0])
    most = pages * resource.getpagesize() + extra
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
    try:
        run(threads)
    except MemoryError:
        return 1
    except quasar_rt.errors.ThreadsError:
        return 2
    return 0
for number, extra in enumerate(limits):
    if (child := os.fork()) == 0:
        os._exit(limited(int(extra), 1 + number % 3))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(extra, ("works", "MemoryError", "ThreadsError")[status] if status >= 0 else status, flush=True)
"""


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("subnets")
    for name, shape in SHAPES.items():
        quasar_rt.random_subnet(**shape, seed=1).save(folder / f"{name}.qvit")
    return folder


@pytest.mark.parametrize(
    ("name", "use", "most"),
    [
        ("deit-small", "load", 30),
        ("deit-small", "bytes", 30),
        ("deit-small", "engine", 160),
        ("deit-small", "compile", 160),
        ("deit-small", "frames", 160),
        ("wide", "frames", 280),
        ("long", "embed", 80),
    ],
)
def test_too_little_address_space_is_an_error(paths, name, use, most):
    size = SHAPES[name].get("image_size", 224)
    limits = [str(most * 1_000_000 * number // LIMITS) for number in range(LIMITS + 1)]
    arguments = [str(paths / f"{name}.qvit"), use, str(size), *limits]
    found = dict(line.split() for line in python(USES, *arguments).stdout.splitlines())
    assert list(found) == limits
    ended = [limit for limit in limits if found[limit] == "-6"]
    # A thread's heap may take what a check has found free: 3 of 7,600 limits (rust/core/src/memory.rs).
    if use == "frames" and len(ended) == 1:
        del found[ended[0]]
    assert {"works", "MemoryError"} <= set(found.values()) <= {"works", "MemoryError", "ThreadsError"}, found


#: Starts a thread in a forked process with a stack's bytes, and some more, that everything else may not take.
THREAD = """
import mmap, os, resource, signal, sys, threading
from quasar_rt.errors import ThreadsError
from quasar_rt.threads import start_thread
STACK = 8 << 20
resource.setrlimit(resource.RLIMIT_STACK, (STACK, resource.getrlimit(resource.RLIMIT_STACK)[1]))
def start(extra):
    thread = threading.Thread(target=int)
    everything = [None] * 2_000_000
    held = mmap.mmap(-1, STACK + extra)
    pages = int(open("/proc/self/statm").read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 20), resource.RLIM_INFINITY))
    count = 0
    for size in (65536, 4096, 600, 400, 200, 100, 60, 40):
        try:
            while True:
                everything[count] = bytes(size)
                count += 1
        except MemoryError:
            pass
    for place in range(count - 24, count):
        everything[place] = None
    held.close()
    try:
        start_thread(thread, "a thread")
    except (MemoryError, ThreadsError):
        return 1
    return 0
for extra in map(int, sys.argv[1:]):
    if (child := os.fork()) == 0:
        signal.alarm(20)
        os._exit(start(extra))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def test_a_thread_without_memory_to_begin_is_an_error() -> None:
    limits = [number << 12 for number in range(0, 40, 2)]
    assert set(python(THREAD, *limits).stdout.split()) == {"1"}
