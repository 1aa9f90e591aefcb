"""Engine.stream: order, bounded memory, errors at their place, no thread left behind."""

import gc
import os
import queue
import threading
import time
import weakref

import numpy as np
import pytest
from PIL import Image

import quasar_rt
from helpers import python, running, tiny_vit, wait_until
from quasar_rt import Engine, ImageError, streaming
from simulated import library

pytestmark = pytest.mark.filterwarnings("ignore::quasar_rt.UntrainedWarning")


@pytest.fixture
def engine(gray_subnet):
    with Engine(gray_subnet) as engine:
        yield engine


def pictures(count):
    rng = np.random.default_rng(5)
    return [rng.integers(0, 256, (28, 28), np.uint8) for _ in range(count)]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    wait_until(lambda: not running("quasar-stream"))


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


@pytest.mark.parametrize("large", [False, True, "at once"])
@pytest.mark.parametrize("count", [0, 1, 2, 4, 25])
@pytest.mark.parametrize("bad", ["image", "image of a list", "source"])
def test_an_error_is_raised_at_its_place(gray_subnet, monkeypatch, bad, count, large):
    if large == "at once":
        monkeypatch.setattr(streaming, "_HANDOVER", 1)

    def source():
        yield from large_pictures(count) if large else pictures(count)
        if bad == "source":
            raise KeyError("the camera is gone")
        yield np.zeros((700, 900) if large else (28, 28))

    with on_all_cores(gray_subnet) as engine:
        stream = engine.stream(list(source()) if bad == "image of a list" else source())
        assert len([next(stream) for _ in range(count)]) == count
        with pytest.raises((KeyError, ImageError), match=r"camera|float64"):
            next(stream)
        with pytest.raises(StopIteration):
            next(stream)


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("used", [0, 1, 5])
def test_leaving_early_stops_the_thread_and_the_source(gray_subnet, used, large):
    closed = threading.Event()

    def source():
        try:
            yield from (large_pictures if large else pictures)(1000)
        finally:
            closed.set()

    with on_all_cores(gray_subnet) as engine:
        stream = engine.stream(source(), ahead=2)
        for _ in range(used):
            next(stream)
        if used == 1:
            del stream
        else:
            stream.close()
        if used:
            assert closed.wait(5)


def numbered(place):
    """Returns a picture, different for each place."""
    return np.full((28, 28), place, np.uint8)


class Camera:
    """Gives numbered pictures, as many as the test lets it."""

    def __init__(self):
        self.allowed = threading.Semaphore(0)
        self.promised = self.given = 0

    def __iter__(self):
        while True:
            self.allowed.acquire()
            yield numbered(self.given)
            self.given += 1  # the stream asks for the next one: it holds this one ready

    def give(self, count, wait=True):
        """Gives so many pictures; waits until the stream holds them ready."""
        self.promised += count
        self.allowed.release(count)
        if wait:
            wait_until(lambda: self.given == self.promised)


@pytest.fixture
def camera():
    camera = Camera()
    yield camera
    camera.give(1, wait=False)  # the stream's thread, if it waits


def small_subnet():
    return tiny_vit(depth=1, image_size=28, kernel=7)


@pytest.fixture(params=["cpu", "sim:tiny"])
def small_engine(request):
    if request.param != "cpu":
        library("tiny")
    with Engine(small_subnet(), request.param, metrics=True) as engine:
        yield engine


def test_a_slow_consumer_gets_the_newest_picture(small_engine, camera):
    engine = small_engine
    expected = [engine.infer(numbered(place)) for place in range(16)]
    with engine.stream(camera, drop="oldest", keep_images=True) as stream:
        assert (stream.position, stream.dropped, stream.image) == (None, 0, None)
        camera.give(1, wait=False)
        assert next(stream) == expected[0]
        assert (stream.position, stream.dropped) == (0, 0)
        for newest in (9, 15):
            camera.give(newest - stream.position)
            assert next(stream) == expected[newest]
            assert stream.position == newest
            np.testing.assert_array_equal(stream.image, numbered(newest))
        assert stream.dropped == 16 - 3
    assert engine.metrics().dropped == 13
    assert engine.metrics().frames == 16 + 3


def test_a_consumer_that_keeps_up_loses_nothing(small_engine, camera):
    with small_engine.stream(camera, drop="oldest") as stream:
        for place in range(10):
            camera.give(1, wait=False)
            assert next(stream) == small_engine.infer(numbered(place))
        assert (stream.dropped, stream.position) == (0, 9)
        assert stream.image is None


def test_more_pictures_may_wait_before_one_is_dropped(small_engine, camera):
    with small_engine.stream(camera, drop="oldest", ahead=3) as stream:
        camera.give(1, wait=False)
        next(stream)
        camera.give(9)
        positions = [stream.position for _, _ in zip(range(3), stream, strict=False)]
        assert (positions, stream.dropped) == ([7, 8, 9], 6)


@pytest.mark.parametrize("bad", ["source", "image"])
def test_an_error_is_never_dropped(small_engine, bad):
    raised = threading.Event()

    def source():
        yield from map(numbered, range(5))
        raised.set()
        if bad == "source":
            raise KeyError("unplugged")
        yield np.zeros((28, 28))
        yield from map(numbered, range(5))

    stream = small_engine.stream(source(), drop="oldest")
    positions = []

    def consume():
        for _ in stream:
            positions.append(stream.position)
            assert raised.wait(10)

    with pytest.raises((KeyError, ImageError), match=r"unplugged|float64"):
        consume()
    assert positions[-1] == 4
    assert stream.dropped + len(positions) == 5
    assert small_engine.metrics().errors == 1
    with pytest.raises(StopIteration):
        next(stream)


def test_the_end_is_never_dropped(small_engine):
    with small_engine.stream(map(numbered, range(5)), drop="oldest") as stream:
        assert sum(1 for _ in stream) + stream.dropped == 5


def test_a_devices_fault_ends_a_stream_that_drops():
    library("tiny")
    with Engine(small_subnet(), "sim:tiny") as engine:
        engine._engine.inject("corrupt_output", 0)
        stream = engine.stream(map(numbered, range(5)), drop="oldest")
        with pytest.raises(quasar_rt.DeviceError):
            next(stream)
        with pytest.raises(StopIteration):
            next(stream)
        assert engine.infer(numbered(1)).top_k


class Recorded:
    """A native engine that records which thread calls which method, and what the stream's thread hands over."""

    def __init__(self, engine):
        self.engine, self.by_thread, self.by_caller, self.handed_over = engine, set(), set(), set()

    def __getattr__(self, name):
        found = getattr(self.engine, name)
        if name not in ("begin", "infer", "infer_batch", "prepare"):
            return found

        def call(image):
            result = found(image)
            if threading.current_thread().name == "quasar-stream":
                self.by_thread.add(name)
                self.handed_over.add(type(result).__name__)
            else:
                self.by_caller.add(name)
            return result

        return call


PREPARED = {"prepare"}, {"Prepared"}
#: The device; the methods of the stream's thread, what it hands over, the caller's methods; the runs: large images, a
#: list or a generator, the stream's options, a pause.
WAYS = {
    "accelerator": ("sim:tiny", ({"begin"}, {"FrameHandle"}), set(), [(False, iter, {}, 0)]),
    "accelerator, newest": (
        "sim:tiny",
        PREPARED,
        {"infer"},
        [(False, iter, {"drop": "oldest"}, 0.005)],
    ),
    "cpu, newest": (
        "cpu",
        PREPARED,
        {"infer"},
        [(large, kind, {"drop": "oldest"}, 0.005) for large in (False, True) for kind in (iter, list)],
    ),
    "cpu": (
        "cpu",
        PREPARED,
        {"infer", "infer_batch"},
        [(False, iter, {}, 0.005), (False, list, {}, 0.005), (False, iter, {"ahead": 1}, 0)],
    ),
    "cpu, large": (
        "cpu",
        PREPARED,
        {"infer"},
        [(True, iter, {"ahead": 1}, 0.005), (True, list, {"ahead": 1}, 0)],
    ),
    "cpu, large at once": (
        "cpu",
        (set(), set()),
        {"prepare", "infer", "infer_batch"},
        [(True, iter, {}, 0), (True, list, {}, 0)],
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_stream_shares_the_stages_with_the_caller(gray_subnet, monkeypatch, way):
    device, (thread, handed_over), caller, runs = WAYS[way]
    if device != "cpu":
        library("tiny")
        gray_subnet = small_subnet()
    if way == "cpu, large at once":
        monkeypatch.setattr(streaming, "_HANDOVER", 1)
    found = set(), set(), set()
    threads = None if device != "cpu" else max(2, len(os.sched_getaffinity(0)))
    with Engine(gray_subnet, device, threads=threads) as engine:
        native = engine._engine
        for large, kind, options, pause in runs:
            recorded = engine._engine = Recorded(native)
            source = kind(
                held_pictures(10 * engine.threads + 1) if large else pictures(10 * engine.threads + 1)
            )
            for _ in engine.stream(source, **{"ahead": max(4, engine.threads), **options}):
                time.sleep(pause)
            for names, more in zip(
                found, (recorded.by_thread, recorded.by_caller, recorded.handed_over), strict=True
            ):
                names |= more
        engine._engine = native
    assert found == (thread, caller, handed_over)


def large_pictures(count):
    """Yields different pictures in one memory, as a camera does, each of which takes all cores to resize."""
    memory = np.empty((700, 900), np.uint8)
    for number in range(count):
        memory[:] = (
            np.random.default_rng(number).integers(0, 256, (7, 9), np.uint8).repeat(100, 0).repeat(100, 1)
        )
        yield memory


def on_all_cores(subnet):
    return Engine(subnet, threads=max(2, len(os.sched_getaffinity(0))))


@pytest.mark.parametrize("drop", [None, "oldest"])
@pytest.mark.parametrize("late", ["nobody", "source", "consumer", "both", "in turns"])
def test_large_images_come_in_order_whoever_is_late(gray_subnet, late, drop):
    pause = 0.005
    fetched_by = []

    def source():
        for number, picture in enumerate(large_pictures(30)):
            fetched_by.append(threading.current_thread().name)
            if late in ("source", "both") or (late == "in turns" and number % 10 > 6):
                time.sleep(pause)
            yield picture

    with on_all_cores(gray_subnet) as engine:
        expected = [engine.infer(picture).integer_logits for picture in large_pictures(30)]
        found = {}
        with engine.stream(source(), drop=drop) as stream:
            for prediction in stream:
                found[stream.position] = prediction.integer_logits
                if late in ("consumer", "both") or (late == "in turns" and stream.position % 10 in (3, 4)):
                    time.sleep(pause)
    for position, logits in found.items():
        np.testing.assert_array_equal(logits, expected[position])
    by_thread = fetched_by.count("quasar-stream")
    if drop is None:
        assert list(found) == list(range(30))
        assert late == "nobody" or by_thread > (5 if late == "in turns" else 20)
    else:
        assert by_thread == 30


def held_pictures(count):
    """Returns `count` different pictures, each of which takes all cores to resize."""
    return [picture.copy() for picture in large_pictures(count)]


def counted_groups(monkeypatch):
    """Returns a list that gets the number of images of each group that an engine classifies together."""
    groups = []
    finish = Engine._finish_together

    def counted(self, engine, items, top_k):
        groups.append(len(items))
        return finish(self, engine, items, top_k)

    monkeypatch.setattr(Engine, "_finish_together", counted)
    return groups


@pytest.mark.parametrize(("count", "pause"), [(61, 0.002), (62, 0.002), (60, 0)])
def test_images_that_wait_are_classified_together(gray_subnet, monkeypatch, count, pause):
    groups = counted_groups(monkeypatch)
    images = pictures(count)
    with Engine(gray_subnet, "cpu", threads=3) as engine:
        expected = engine.infer_batch(images)
        found = []
        with engine.stream(iter(images), keep_images=True) as stream:
            for prediction in stream:
                assert stream.position == len(found)
                assert stream.image is images[stream.position]
                found.append(prediction)
                time.sleep(pause)
        assert found == list(expected)
        assert all(prediction.timings.compute_ms > 0 for prediction in found)
        assert set(groups) <= {3}
        assert len(groups) > 10 or not pause
        groups.clear()
        # As many may not wait, or may be displaced.
        for options in ({"ahead": 2}, {"drop": "oldest", "ahead": 3}):
            for _ in engine.stream(iter(images), **options):
                time.sleep(0.001)
    assert groups == []


def test_large_images_that_come_at_once_are_classified_together(gray_subnet, monkeypatch):
    monkeypatch.setattr(streaming, "_HANDOVER", 1)
    groups = counted_groups(monkeypatch)
    fetched_by = []

    def source(count):
        for picture in large_pictures(count):
            fetched_by.append(threading.current_thread().name)
            yield picture

    with on_all_cores(gray_subnet) as engine:
        for more in range(3):
            count = 20 * engine.threads + more
            expected = [engine.infer(picture) for picture in large_pictures(count)]
            fetched_by.clear()
            groups.clear()
            stream = engine.stream(source(count), ahead=engine.threads, keep_images=True)
            for place, prediction in enumerate(stream):
                assert stream.position == place
                assert stream.image is not None
                assert prediction == expected[place]
            # The thread has prepared some before the consumer asked. Then it fetches all but the first of a group.
            assert 15 <= len(groups) <= 20 + more
            assert 15 <= len(fetched_by) - fetched_by.count("quasar-stream") <= 20 + more


@pytest.mark.parametrize("kind", [list, tuple, np.stack])
def test_large_images_of_a_list_are_classified_together(gray_subnet, monkeypatch, kind):
    monkeypatch.setattr(streaming, "_HANDOVER", 1)  # this consumer is not that quick
    groups = counted_groups(monkeypatch)
    with on_all_cores(gray_subnet) as engine:
        images = held_pictures(5 * engine.threads + 1)
        expected = [engine.infer(image) for image in images]
        started = threading.active_count()
        found = []
        held = kind(images)
        with engine.stream(held, ahead=engine.threads, keep_images=True) as stream:
            for prediction in stream:
                assert stream.position == len(found)
                np.testing.assert_array_equal(stream.image, held[len(found)])
                assert prediction.timings.compute_ms > 0
                assert threading.active_count() == started, "no thread is needed"
                found.append(prediction)
        assert found == expected
        assert groups == [engine.threads] * 5
        # Fewer may wait, or they may be displaced.
        groups.clear()
        for options in ({"ahead": 1}, {"drop": "oldest"}):
            sum(1 for _ in engine.stream(images, **options))
        assert groups == []


def test_a_request_that_the_thread_notices_late_fetches_no_second_image(gray_subnet, monkeypatch):
    monkeypatch.setattr(streaming, "_HANDOVER", 1)
    requests = []
    fetch = streaming.Lookahead.fetch_at_once

    def late(state):
        requests.append(None)
        if len(requests) % 2:
            return fetch(state)
        # As if the time had run out: the thread may see first that it is to go on.
        state.fetches_itself = False
        state.resumed.put(None)
        return None

    monkeypatch.setattr(streaming.Lookahead, "fetch_at_once", late)
    with on_all_cores(gray_subnet) as engine:
        expected = [engine.infer(picture) for picture in large_pictures(150)]
        assert list(engine.stream(large_pictures(150), ahead=engine.threads)) == expected
    assert len(requests) > 20


def test_an_image_that_comes_just_too_late_keeps_nobody_waiting(gray_subnet, monkeypatch):
    """The thread puts its image, and waits for the next request, before the consumer notes that it has given up."""
    given_up = []

    class Late(queue.SimpleQueue):
        def get(self, block=True, timeout=None):
            try:
                return super().get(block, timeout)
            except queue.Empty:
                given_up.append(None)
                time.sleep(0.02)
                raise

    monkeypatch.setattr(streaming, "SimpleQueue", Late)
    large = held_pictures(1)[0]

    def source():
        for small in pictures(10):
            yield large
            yield large
            time.sleep(0.001)
            yield small  # waits for nobody to prepare it

    found = []
    with on_all_cores(gray_subnet) as engine:
        stream = engine.stream(source(), ahead=engine.threads)
        consumer = threading.Thread(target=lambda: found.extend(stream), daemon=True)
        consumer.start()
        consumer.join(20)
        assert not consumer.is_alive(), "the stream hangs"
    assert len(found) == 30
    assert given_up


@pytest.mark.parametrize("kind", [list, iter])
@pytest.mark.parametrize("ahead", ["enough", 1])
def test_the_end_of_python_waits_until_large_images_have_been_read(gray_subnet, monkeypatch, kind, ahead):
    held = []

    def watched(name):
        call = getattr(Engine, name)

        def watch(self, engine, given, *others):
            items = given if isinstance(given, list) else [given]
            raw = any(isinstance(image, np.ndarray) for image, _ in items)
            held.extend([state.reading._is_owned()] * raw)
            return call(self, engine, given, *others)

        monkeypatch.setattr(Engine, name, watch)

    watched("_finish")
    watched("_finish_together")
    with on_all_cores(gray_subnet) as engine:
        stream = engine.stream(kind(held_pictures(20)), ahead=engine.threads if ahead == "enough" else 1)
        state = stream._state
        assert sum(1 for _ in stream) == 20
    assert all(held)
    assert held or (kind, ahead) == (iter, "enough")


def test_a_stopped_stream_of_a_list_starts_no_thread(gray_subnet):
    with on_all_cores(gray_subnet) as engine:
        stream = engine.stream(held_pictures(20), ahead=engine.threads)
        next(stream)
        streaming.Lookahead.stop_all()
        with pytest.raises(quasar_rt.ClosedError, match="Python is ending"):
            list(stream)
    assert not running("quasar-stream")


@pytest.mark.parametrize("kind", [list, iter])
@pytest.mark.parametrize("place", range(3))
def test_an_error_keeps_no_image(gray_subnet, kind, place):
    images = held_pictures(4)
    images[place] = np.zeros((700, 900))
    alive = [weakref.ref(image) for image in images]
    gc.collect()
    gc.disable()
    try:
        with on_all_cores(gray_subnet) as engine:
            source = kind(images)
            del images
            with pytest.raises(ImageError):
                list(engine.stream(source, ahead=engine.threads))
            del source
        wait_until(lambda: [image() for image in alive] == [None] * 4)
    finally:
        gc.enable()


@pytest.mark.parametrize("kind", [list, iter])
@pytest.mark.parametrize("bad", [np.zeros((700, 900)), np.zeros((1, 700_000), np.uint8), "missing.png"])
@pytest.mark.parametrize("place", [0, 1, 2, 4])
def test_an_error_of_a_group_is_raised_at_its_place(gray_subnet, monkeypatch, place, bad, kind):
    """The second picture is refused when it is cropped."""
    monkeypatch.setattr(streaming, "_HANDOVER", 1)
    images = held_pictures(6)
    with on_all_cores(gray_subnet) as engine:
        expected = [engine.infer(image) for image in images[:place]]
        images[place] = bad
        found = []
        with pytest.raises(ImageError) as alone:
            engine.infer(bad)
        with pytest.raises(ImageError) as raised:
            found.extend(engine.stream(kind(images), ahead=engine.threads))
        assert str(raised.value) == str(alone.value)
        assert found == expected


def test_pictures_behind_a_large_one_may_be_files(gray_subnet, tmp_path):
    large = held_pictures(3)
    images = [large[0], *pictures(4), tmp_path / "large.png", large[1], large[2]]
    Image.fromarray(large[1]).save(images[5])
    with on_all_cores(gray_subnet) as engine:
        found = list(engine.stream(images * 3, ahead=engine.threads))
        assert found == [engine.infer(image) for image in images] * 3


@pytest.mark.parametrize("large", [True, False])
def test_an_iterable_may_make_its_images_of_predictions(gray_subnet, large):
    images = large_pictures(20) if large else iter(pictures(20))
    waiting = queue.Queue()

    def source():
        while (image := waiting.get(timeout=10)) is not None:
            yield image

    waiting.put(next(images))
    count = 0
    with on_all_cores(gray_subnet) as engine:
        for _ in engine.stream(source()):
            count += 1
            waiting.put(next(images, None))
    assert count == 20


def test_a_closed_engine_gives_no_prediction_of_a_group(gray_subnet, monkeypatch):
    groups = counted_groups(monkeypatch)
    engine = Engine(gray_subnet, "cpu", threads=3)
    stream = engine.stream(iter(pictures(100)))
    while not groups:
        next(stream)
        time.sleep(0.005)
    engine.close()
    with pytest.raises(quasar_rt.ClosedError):
        next(stream)


def test_an_image_prepared_by_another_thread_hands_its_error_on():
    failed = streaming._Shared(0, lambda decoded: 1 // decoded)
    thread = threading.Thread(target=failed.prepare)
    thread.start()
    with pytest.raises(ZeroDivisionError):
        failed.result()
    thread.join()
    shared = streaming._Shared(3, lambda decoded: decoded + 4)
    shared.prepare()
    assert [shared.claim(), shared.done, shared.result()] == [None, True, 7]


def test_a_stream_left_half_way_does_not_keep_python_alive(tmp_path, gray_subnet):
    gray_subnet.save(tmp_path / "gray.qvit")
    code = (
        "import sys, numpy as np, quasar_rt\n"
        "def camera():\n"
        "    while True: yield np.zeros((28, 28), np.uint8)\n"
        "stream = quasar_rt.Engine(sys.argv[1]).stream(camera())\n"
        "print(next(stream).label)\n"
    )
    assert python(code, tmp_path / "gray.qvit", timeout=60).stdout.startswith("class")
