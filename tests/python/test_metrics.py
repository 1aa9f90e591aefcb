"""Engine.metrics: what is counted, percentiles, threads, forks, and the cost when off."""

import json
import multiprocessing
import pickle
import sys
import threading

import numpy as np
import pytest

import quasar_rt
from helpers import tiny_vit
from quasar_rt import Engine, metrics
from simulated import library

pytestmark = [
    pytest.mark.filterwarnings("ignore::quasar_rt.UntrainedWarning"),
    # Python 3.12 on: fork in a process with threads
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

PICTURE = np.zeros((28, 28), np.uint8)


@pytest.fixture
def engine(gray_subnet):
    with Engine(gray_subnet, "cpu", metrics=True) as engine:
        yield engine


def test_an_engine_counts_only_when_asked(gray_subnet):
    with Engine(gray_subnet, "cpu") as engine:
        engine.infer(PICTURE)
        with pytest.raises(quasar_rt.InvalidValueError, match="metrics=True"):
            engine.metrics()


def test_a_new_engine_has_counted_nothing(engine):
    read = engine.metrics()
    assert (read.frames, read.errors, read.dropped, read.fps) == (0, 0, 0, 0)
    assert read.latency_ms is read.device is None


def test_every_way_to_a_prediction_is_counted(engine):
    times = [engine.infer(PICTURE).timings.total_ms]
    times += [p.timings.total_ms for p in engine.infer_batch([PICTURE] * 3)]
    times += [p.timings.total_ms for p in engine.stream([PICTURE] * 4)]
    times.append(engine.submit(PICTURE).result(20).timings.total_ms)
    read = engine.metrics()
    assert (read.frames, read.errors) == (9, 0)
    assert 0 < read.fps <= 9 / read.seconds * 1.5
    times.sort()
    assert read.latency_ms == (times[4], times[8], times[8])


def test_every_failure_is_counted_once(engine):
    bad = np.zeros((28, 28))

    def source():
        yield PICTURE
        raise KeyError("unplugged")

    for call in (
        lambda: engine.infer(bad),
        lambda: engine.infer_batch([PICTURE, bad]),
        lambda: list(engine.stream([PICTURE, bad])),
        lambda: list(engine.stream(source())),
        lambda: engine.submit(bad).result(20),
    ):
        with pytest.raises((quasar_rt.ImageError, KeyError)):
            call()
    read = engine.metrics()
    assert (read.frames, read.errors) == (2, 5)
    for _ in engine.stream([PICTURE] * 9):
        break  # to leave a stream is no failure
    assert engine.metrics().errors == 5


def test_counters_are_plain_values_and_outlive_the_engine(engine):
    engine.infer(PICTURE)
    engine.close()
    document = json.loads(json.dumps(engine.metrics().to_dict(), allow_nan=False))
    assert document["frames"] == 1
    assert set(document["latency_ms"]) == {"p50", "p90", "p99"}


def test_an_accelerators_counters_are_there():
    library("tiny")
    with Engine(tiny_vit(depth=1, image_size=28, kernel=7), "sim:tiny", metrics=True) as engine:
        engine.infer_batch([PICTURE] * 3)
        engine._engine.inject("corrupt_output", 0)
        with pytest.raises(quasar_rt.DeviceError):
            engine.infer(PICTURE)
        read = engine.metrics()
        assert (read.frames, read.errors) == (3, 1)
        assert (read.device["faults"], read.device["resets"]) == (1, 1)
        assert set(read.device) == {"frames", "faults", "resets", "lost_interrupts", "spurious_interrupts"}
    assert engine.metrics().device is None


def test_percentiles_are_nearest_ranks_of_the_latest_frames():
    recorder = metrics.Recorder()
    for count, expected in ((1, (1, 1, 1)), (2, (1, 2, 2)), (10, (5, 9, 10)), (100, (50, 90, 99))):
        recorder.clear()
        for time in reversed(range(1, count + 1)):
            recorder.frame(time)
        assert recorder.read(None).latency_ms == expected
    for _ in range(metrics.LATEST):
        recorder.frame(7.0)
    read = recorder.read(None)
    assert read.latency_ms == (7, 7, 7)
    assert read.frames == 100 + metrics.LATEST


def test_threads_lose_no_count():
    recorder = metrics.Recorder()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:

        def work():
            for _ in range(5000):
                recorder.frame(1.0)
                recorder.error()
                recorder.drop()
            recorder.read(None)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert recorder.read(None)[:3] == (20_000, 20_000, 20_000)


def test_pickled_engines_begin_at_zero(engine):
    engine.infer(PICTURE)
    with pickle.loads(pickle.dumps(engine)) as other:
        other.infer_batch([PICTURE] * 2)
        assert other.metrics().frames == 2
    assert engine.metrics().frames == 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs fork")
def test_a_forked_process_counts_its_own_frames(engine):
    engine.infer(PICTURE)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def work():
        before = engine.metrics().frames
        engine.infer(PICTURE)
        sender.send((before, engine.metrics().frames))

    with engine._recorder._lock:  # as another thread may hold it
        process = context.Process(target=work)
        process.start()
    assert receiver.poll(20)
    assert receiver.recv() == (0, 1)
    process.join(20)
    assert engine.metrics().frames == 1
