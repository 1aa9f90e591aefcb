"""Limits of a process's address space (`ulimit -v`): too little memory is an error, never the end of the process."""

import subprocess
import sys

import pytest

import quasar_rt

pytestmark = [
    pytest.mark.filterwarnings("ignore::quasar_rt.UntrainedWarning"),
    pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS limits address space on Linux"),
]

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

CHILD = """
import resource, sys, warnings
warnings.simplefilter("ignore")
import numpy as np
import quasar_rt, quasar_rt.engine, quasar_rt.prediction, quasar_rt.submissions
path, use, extra, size, threads = sys.argv[1:]
data = open(path, "rb").read() if use == "bytes" else None
image = np.zeros((int(size), int(size), 3), np.uint8)
pages = int(open("/proc/self/statm").read().split()[0])
most = pages * resource.getpagesize() + int(extra)
resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
def run():
    if use == "load":
        return quasar_rt.Subnet.load(path)
    if use == "bytes":
        return quasar_rt.Subnet.from_bytes(data)
    engine = quasar_rt.Engine(path, "cpu", threads=int(threads))
    if use == "embed":
        engine.embed(image)
    elif use == "frames":
        engine.infer(image)
        engine.infer_batch([image] * 3)
        list(engine.stream([image] * 5))
        [future.result() for future in [engine.submit(image) for _ in range(3)]]
    engine.close()
try:
    run()
    print("works")
except MemoryError:
    print("MemoryError")
except quasar_rt.errors.ThreadsError:
    print("ThreadsError")
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
        ("deit-small", "engine", 120),
        ("deit-small", "frames", 160),
        ("wide", "frames", 280),
        ("long", "embed", 80),
    ],
)
def test_too_little_address_space_is_an_error(paths, name, use, most):
    size = SHAPES[name].get("image_size", 224)
    found = set()
    for number in range(20):
        extra = most * 1_000_000 * number // 19
        arguments = [str(paths / f"{name}.qvit"), use, str(extra), str(size), str(1 + number % 3)]
        done = subprocess.run(
            [sys.executable, "-c", CHILD, *arguments], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, f"{extra} bytes: {done.stderr}"
        found.add(done.stdout.strip())
    assert {"works", "MemoryError"} <= found <= {"works", "MemoryError", "ThreadsError"}
