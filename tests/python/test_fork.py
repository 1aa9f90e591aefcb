"""Forked processes, such as a PyTorch DataLoader's workers: they have the parent's memory but not its threads."""

import multiprocessing
import sys

import numpy as np
import pytest

from helpers import python, tiny_vit
from quasar_rt import Engine, quantize_rows
from simulated import library

pytestmark = [
    pytest.mark.filterwarnings("ignore::quasar_rt.UntrainedWarning"),
    # Python 3.12 on: fork in a process with threads, which is what is tested.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs fork"),
]

# A deadlock fails the test after this.
SECONDS = 30


def in_fork(work):
    """Returns what `work` returns in a forked process."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=lambda: sender.send(work()))
    process.start()
    try:
        assert receiver.poll(SECONDS), "the child hangs"
        result = receiver.recv()
        process.join(SECONDS)
        assert process.exitcode == 0
        return result
    finally:
        process.kill()


@pytest.mark.parametrize("threads", [1, 2])
def test_an_engine_works_in_children_and_grandchildren(colour_subnet, threads):
    image = np.random.default_rng(0).integers(0, 256, (60, 70, 3), np.uint8)
    with Engine(colour_subnet, threads=threads) as engine:

        def logits():
            alone = engine.infer(image).integer_logits
            for prediction in engine.infer_batch([image] * 3):
                np.testing.assert_array_equal(prediction.integer_logits, alone)
            return alone

        expected = logits()
        np.testing.assert_array_equal(in_fork(logits), expected)
        np.testing.assert_array_equal(in_fork(lambda: (logits(), in_fork(logits))[1]), expected)
        # The parent goes on as before.
        np.testing.assert_array_equal(logits(), expected)


FORKED = """
import os, sys
import numpy as np
import quasar_rt
images = list(np.random.default_rng(0).integers(0, 256, (4, 8, 8), np.uint8))
expected = quasar_rt.Engine(sys.argv[1], "cpu").infer(images[0]).integer_logits
engine = quasar_rt.Engine(sys.argv[1], sys.argv[2], threads=2)
engine.infer_batch(images)
child = os.fork()
same = np.array_equal(engine.infer(images[0]).integer_logits, expected) and len(engine.infer_batch(images)) == 4
if child == 0:
    os._exit(0 if same else 3)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) or not same)
"""


@pytest.mark.parametrize("device", ["cpu", "sim:tiny"])
def test_a_forked_process_has_a_device_of_its_own(tmp_path, device):
    if device != "cpu":
        library("tiny")
    tiny_vit().save(tmp_path / "tiny.qvit")
    python(FORKED, tmp_path / "tiny.qvit", device, timeout=60)


def test_a_child_may_close_or_drop_the_engine(colour_subnet):
    engine = Engine(colour_subnet, threads=2)
    engine.infer(np.zeros((60, 70, 3), np.uint8))
    assert in_fork(lambda: engine.close()) is None
    assert engine.infer(np.zeros((60, 70, 3), np.uint8)).top_k
    engine.close()


def test_the_core_itself_survives_a_fork(colour_subnet):
    # Without the Python engine around it, which must not be what makes it work.
    engine = Engine(colour_subnet, threads=2)._engine
    image = np.zeros((60, 70, 3), np.uint8)
    expected = engine.infer(image).outputs()
    np.testing.assert_array_equal(in_fork(lambda: engine.infer(image).outputs()), expected)


def test_quantize_rows_works_in_children():
    # Large enough for several threads.
    weights = np.random.default_rng(0).normal(size=(300, 400)).astype(np.float32)
    expected = quantize_rows(weights, 4).data
    np.testing.assert_array_equal(in_fork(lambda: quantize_rows(weights, 4).data), expected)
