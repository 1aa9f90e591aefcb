"""The cost of a start: imports, the first answer of a network of DeiT-tiny's size, memory.

Other work on the machine makes wall clocks useless here: the tests take the least CPU time of several fresh processes.
"""

import sys

import pytest

from helpers import python
from quasar_rt.bench import open_subnet

#: Modules that single calls import when they need them (a path, a batch, a profile, a notebook's picture, a bitstream).
LATER = {
    "PIL",
    "concurrent.futures",
    "statistics",
    "html",
    "importlib.resources",
    "tempfile",
    "subprocess",
    "logging",
}
PROCESSES = 5


@pytest.fixture(scope="module")
def deit_tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("footprint") / "deit-tiny.qvit"
    open_subnet("deit-tiny").save(path)
    return path


def numbers(code):
    """Returns the numbers that a fresh interpreter prints."""
    return [float(word) for word in python(code).stdout.split()]


def test_engines_are_imported_without_what_single_calls_need():
    code = (
        "import sys, numpy\n"
        "before = set(sys.modules)\n"
        "import quasar_rt; quasar_rt.Engine, quasar_rt.Frame, quasar_rt.Subnet\n"
        "print(*(set(sys.modules) - before))"
    )
    loaded = set(python(code).stdout.split())
    assert "quasar_rt.engine" in loaded
    assert not LATER & loaded
    host = tuple(
        f"quasar_rt.{name}" for name in ("build", "export", "hardware", "nas", "oracle", "rows", "train")
    )
    assert not {name for name in loaded if name.startswith(("torch", *host))}


def test_an_engines_import_is_a_fraction_of_numpys():
    code = (
        "import time; start = time.process_time()\n"
        "import numpy; middle = time.process_time()\n"
        "import quasar_rt; quasar_rt.Engine\n"
        "print(middle - start, time.process_time() - middle)"
    )
    runs = [numbers(code) for _ in range(PROCESSES)]
    assert min(ours for _, ours in runs) < 0.5 * min(numpys for numpys, _ in runs)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_network_of_deit_tinys_size_answers_soon_and_in_little_memory(deit_tiny):
    code = (
        # Not ru_maxrss, which begins with the parent's.
        "import re, time, numpy\n"
        "def peak(): return int(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1]) / 1000\n"
        "before = peak()\n"
        "import quasar_rt; quasar_rt.Engine\n"
        "start = time.process_time()\n"
        f"engine = quasar_rt.Engine({str(deit_tiny)!r}, device='cpu', threads=1)\n"
        "engine.infer(numpy.zeros((224, 224, 3), numpy.uint8))\n"
        "print(time.process_time() - start, before, peak())"
    )
    runs = [numbers(code) for _ in range(PROCESSES)]
    assert min(seconds for seconds, _, _ in runs) < 0.1
    assert min(peak - numpys for _, numpys, peak in runs) < 30
    assert min(peak for _, _, peak in runs) < 68  # MB, of which Python and NumPy have 35 to 41
