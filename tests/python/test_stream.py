"""Engine.stream: order, bounded memory, errors at their place, no thread left behind."""

import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import quasar_rt
from quasar_rt import Engine, ImageError

pytestmark = pytest.mark.filterwarnings("ignore::quasar_rt.UntrainedWarning")


@pytest.fixture
def engine(gray_subnet):
    with Engine(gray_subnet) as engine:
        yield engine


def pictures(count):
    rng = np.random.default_rng(5)
    return [rng.integers(0, 256, (28, 28), np.uint8) for _ in range(count)]


def stream_threads():
    return [thread for thread in threading.enumerate() if thread.name == "quasar-stream"]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    deadline = time.monotonic() + 5
    while stream_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not stream_threads()


def test_predictions_come_in_order(engine):
    images = pictures(50)
    expected = [prediction.integer_logits for prediction in engine.infer_batch(images)]
    for ahead in (1, 4, 100):
        streamed = [prediction.integer_logits for prediction in engine.stream(iter(images), ahead=ahead)]
        np.testing.assert_array_equal(streamed, expected)
    assert list(engine.stream([])) == []


def test_an_endless_source_is_read_only_so_far_ahead(engine):
    taken = 0

    def camera():
        nonlocal taken
        while True:
            taken += 1
            yield np.zeros((28, 28), np.uint8)

    for ahead in (1, 5):
        taken = 0
        stream = engine.stream(camera(), ahead=ahead)
        for used in range(1, 20):
            next(stream)
            time.sleep(0.002)
            assert taken <= used + ahead
        stream.close()


def test_images_are_fetched_while_one_is_classified(engine):
    started = threading.Event()

    def source():
        yield pictures(1)[0]
        started.set()
        yield pictures(1)[0]

    stream = engine.stream(source())
    next(stream)
    assert started.wait(5), "the second image must be fetched before it is asked for"
    list(stream)


def test_an_unusable_image_raises_at_its_place(engine):
    images = pictures(6)
    images[4] = np.zeros((28, 28))
    stream = engine.stream(images)
    for _ in range(4):
        next(stream)
    with pytest.raises(ImageError, match="float64"):
        next(stream)
    with pytest.raises(StopIteration):
        next(stream)


def test_the_sources_own_error_comes_out_at_its_place(engine):
    def source():
        yield from pictures(3)
        raise KeyError("the camera is gone")

    stream = engine.stream(source())
    assert len([next(stream) for _ in range(3)]) == 3
    with pytest.raises(KeyError, match="camera"):
        next(stream)


def test_a_thing_that_cannot_be_iterated_is_a_type_error(engine):
    with pytest.raises(TypeError, match="iter"):
        next(engine.stream(3))


@pytest.mark.parametrize("used", [0, 1, 5])
def test_closing_early_stops_the_thread_and_the_source(engine, used):
    closed = threading.Event()

    def source():
        try:
            while True:
                yield np.zeros((28, 28), np.uint8)
        finally:
            closed.set()

    stream = engine.stream(source(), ahead=2)
    for _ in range(used):
        next(stream)
    stream.close()
    if used:
        assert closed.wait(5)


def test_leaving_a_loop_stops_the_thread(engine):
    for _ in engine.stream(pictures(1)[0] for _ in range(1000)):
        break


def test_arguments_are_checked_when_stream_is_called(engine):
    with pytest.raises(quasar_rt.InvalidValueError, match="ahead"):
        engine.stream([], ahead=0)
    with pytest.raises(quasar_rt.InvalidValueError, match="top_k"):
        engine.stream([], top_k=0)


def test_a_stream_left_half_way_does_not_keep_python_alive(tmp_path, gray_subnet):
    path = tmp_path / "gray.qvit"
    gray_subnet.save(path)
    code = (
        "import sys, warnings, numpy as np, quasar_rt\n"
        "warnings.simplefilter('ignore')\n"
        "def camera():\n"
        "    while True: yield np.zeros((28, 28), np.uint8)\n"
        "stream = quasar_rt.Engine(sys.argv[1]).stream(camera())\n"
        "print(next(stream).label)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("class")
