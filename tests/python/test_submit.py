"""Engine.submit: order, bounds, cancellation, errors, and the ends of engines and processes."""

import asyncio
import concurrent.futures
import contextlib
import gc
import io
import multiprocessing
import sys
import threading
import time
import weakref

import numpy as np
import pytest
from PIL import Image

import quasar_rt
from helpers import python, running, tiny_vit, wait_until
from quasar_rt import BusyError, ClosedError, Engine, ImageError
from simulated import library

pytestmark = [
    pytest.mark.filterwarnings("ignore::quasar_rt.UntrainedWarning"),
    # Python 3.12 on: fork in a process with threads
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

SECONDS = 20


SUBNET = tiny_vit()


@pytest.fixture(params=["cpu", "sim:tiny"])
def engine(request):
    if request.param != "cpu":
        library("tiny")
    with Engine(SUBNET, request.param, queue=4, metrics=True) as engine:
        yield engine


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    gc.collect()
    wait_until(lambda: not running("quasar-submit", "quasar-prepare"))


def pictures(count):
    return list(np.random.default_rng(3).integers(0, 256, (count, 8, 8, 1), np.uint8))


class Gate:
    """Stands for an image that is decoded when `opened` is set: what is submitted behind it stays in the queue."""

    def __init__(self):
        self.opened, self.reached = threading.Event(), threading.Event()


@pytest.fixture
def gate(monkeypatch):
    gate = Gate()
    decode = quasar_rt.engine.timed_input

    def waiting(image, format):
        if image is gate:
            gate.reached.set()
            assert gate.opened.wait(SECONDS)
            image = pictures(1)[0]
        return decode(image, format)

    monkeypatch.setattr(quasar_rt.engine, "timed_input", waiting)
    yield gate
    gate.opened.set()


def test_futures_give_what_infer_gives_in_order(engine):
    images = pictures(20)
    expected = [engine.infer(image, top_k=2) for image in images]
    ended = []
    futures = []
    for place, image in enumerate(images):
        futures.append(engine.submit(image, top_k=2))
        futures[-1].add_done_callback(lambda _, place=place: ended.append(place))
    assert [future.result(SECONDS) for future in futures] == expected
    engine.close()
    assert ended == list(range(20))
    assert engine.metrics().frames == 40


def test_submissions_work_with_the_standard_librarys_tools(engine):
    images = pictures(4)
    expected = engine.infer_batch(images)
    done, _ = concurrent.futures.wait([engine.submit(image) for image in images], SECONDS)
    assert len(done) == 4

    async def gather():
        return await asyncio.gather(
            *(asyncio.wrap_future(engine.submit(image, timeout=0)) for image in images)
        )

    assert asyncio.run(gather()) == expected


def test_an_error_is_its_own_futures_alone(engine):
    good, bad = pictures(1)[0], np.zeros((8, 8))
    futures = [engine.submit(image) for image in (good, bad, b"secret", good)]
    with pytest.raises(ImageError, match="float64"):
        futures[1].result(SECONDS)
    assert isinstance(futures[2].exception(SECONDS), ImageError)
    assert futures[3].result(SECONDS) == futures[0].result(SECONDS)
    assert (engine.metrics().frames, engine.metrics().errors) == (2, 2)


def test_a_devices_fault_is_its_own_futures_alone():
    library("tiny")
    with Engine(SUBNET, "sim:tiny") as engine:
        images = pictures(4)
        expected = engine.infer_batch(images)
        engine._engine.inject("corrupt_output", 1)
        futures = [engine.submit(image) for image in images]
        with pytest.raises(quasar_rt.DeviceError):
            futures[1].result(SECONDS)
        assert [futures[i].result(SECONDS) for i in (0, 2, 3)] == [expected[i] for i in (0, 2, 3)]


def test_a_file_object_may_close_once_it_is_submitted(engine, gate):
    picture = pictures(1)[0]
    expected = engine.infer(picture)
    engine.submit(gate)
    with io.BytesIO() as file:
        Image.fromarray(picture[:, :, 0]).save(file, "png")
        future = engine.submit(file)
    gate.opened.set()
    assert future.result(SECONDS) == expected
    with pytest.raises(ImageError, match="closed"):
        engine.submit(file)


def test_a_full_queue_refuses_or_waits(engine, gate):
    picture = pictures(1)[0]
    futures = [engine.submit(gate), *(engine.submit(picture) for _ in range(3))]
    start = time.monotonic()
    with pytest.raises(BusyError, match=r"^4 submitted images are unfinished.*0 s"):
        engine.submit(picture, timeout=0)
    with pytest.raises(BusyError, match=r"0\.05 s"):
        engine.submit(picture, timeout=0.05)
    assert time.monotonic() - start < 5
    threading.Timer(0.1, gate.opened.set).start()
    futures.append(engine.submit(picture))  # waits for the timer
    assert gate.opened.is_set()
    assert all(future.result(SECONDS) for future in futures)


def test_a_future_can_be_cancelled_before_its_turn(engine, gate):
    first, second, third = (engine.submit(image) for image in (gate, *pictures(2)))
    assert gate.reached.wait(SECONDS)
    assert second.cancel()
    gate.opened.set()
    assert third.result(SECONDS)
    assert not first.cancel()
    with pytest.raises(concurrent.futures.CancelledError):
        second.result(SECONDS)
    assert engine.metrics().frames == 2


def test_a_callback_may_submit_but_never_waits(engine):
    picture = pictures(1)[0]
    outcomes = []
    ended = threading.Event()

    def again(future):
        try:
            while True:
                outcomes.append(engine.submit(picture))
        except BusyError as error:
            outcomes.append(error)
            ended.set()

    engine.submit(picture).add_done_callback(again)
    assert ended.wait(SECONDS)
    assert "callback" in str(outcomes.pop())
    assert 1 <= len(outcomes) <= 4
    assert all(future.result(SECONDS) for future in outcomes)


def test_a_callback_that_raises_stops_nothing(engine, monkeypatch):
    monkeypatch.setattr(threading, "excepthook", lambda _: None)

    def leave(_):
        raise SystemExit

    engine.submit(pictures(1)[0]).add_done_callback(leave)
    assert engine.submit(pictures(1)[0]).result(SECONDS)


def test_a_callback_may_close_the_engine(engine):
    closed = threading.Event()
    first, second = (engine.submit(image) for image in pictures(2))
    second.add_done_callback(lambda _: (engine.close(), closed.set()))
    assert closed.wait(SECONDS)
    assert first.result(0)
    with pytest.raises(ClosedError):
        engine.submit(pictures(1)[0])


def test_closing_waits_for_what_was_submitted(engine, gate):
    futures = [engine.submit(image) for image in (gate, *pictures(3))]
    threading.Timer(0.1, gate.opened.set).start()
    engine.close()
    assert all(future.done() and future.result() for future in futures)
    with pytest.raises(ClosedError):
        engine.submit(pictures(1)[0])


@pytest.mark.parametrize("how", ["argument", "exception"])
def test_closing_may_cancel_what_waits(engine, gate, how):
    futures = [engine.submit(image) for image in (gate, *pictures(2))]
    assert gate.reached.wait(SECONDS)
    threading.Timer(0.1, gate.opened.set).start()
    if how == "argument":
        engine.close(cancel=True)
    else:
        with pytest.raises(KeyError), engine:
            raise KeyError("the end")
    assert all(future.cancelled() for future in futures)


def test_a_submitter_that_waits_for_room_learns_of_the_close(engine, gate):
    for image in (gate, *pictures(3)):
        engine.submit(image)
    failures = []

    def late():
        try:
            engine.submit(pictures(1)[0])
        except ClosedError as error:
            failures.append(error)

    waiter = threading.Thread(target=late)
    waiter.start()
    time.sleep(0.05)
    threading.Timer(0.1, gate.opened.set).start()
    engine.close()
    waiter.join(SECONDS)
    assert len(failures) == 1


def test_a_dropped_engine_finishes_and_is_freed():
    engine = Engine(SUBNET, "cpu")
    freed = weakref.ref(engine)
    futures = [engine.submit(image) for image in pictures(3)]
    del engine
    assert all(future.result(SECONDS) for future in futures)
    wait_until(lambda: freed() is None)


def test_many_threads_submit_at_once(engine):
    images = pictures(8)
    expected = [engine.infer(image) for image in images]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: engine.submit(images[i % 8]).result(SECONDS), range(80)))
    assert found == [expected[i % 8] for i in range(80)]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs fork")
def test_a_forked_process_submits_on_its_own():
    with Engine(SUBNET, "cpu") as engine:
        expected = engine.submit(pictures(1)[0]).result(SECONDS)
        context = multiprocessing.get_context("fork")
        receiver, sender = context.Pipe(duplex=False)

        def work():
            sender.send(engine.submit(pictures(1)[0]).result(SECONDS))
            engine.close()

        process = context.Process(target=work)
        process.start()
        assert receiver.poll(SECONDS)
        assert receiver.recv() == expected
        process.join(SECONDS)
        assert process.exitcode == 0
        assert engine.submit(pictures(1)[0]).result(SECONDS) == expected


def test_a_process_ends_when_its_submissions_have_ended(tmp_path):
    SUBNET.save(tmp_path / "tiny.qvit")
    code = (
        "import sys, numpy as np, quasar_rt\n"
        "engine = quasar_rt.Engine(sys.argv[1], 'cpu')\n"
        "for i in range(20):\n"
        "    engine.submit(np.zeros((8, 8), np.uint8)).add_done_callback(lambda f: print(f.result().label))\n"
        "sys.exit(int(sys.argv[2]))\n"
    )
    for status in (0, 3):
        done = python(code, tmp_path / "tiny.qvit", status, status=status)
        assert not done.stderr
        assert len(done.stdout.splitlines()) == 20


def test_an_awaitable_waits_for_room(colour_subnet):
    engine = quasar_rt.Engine(colour_subnet, queue=2)
    image = np.zeros((40, 40, 3), np.uint8)
    expected = engine.infer(image)

    async def gather():
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        ticking = asyncio.create_task(tick())
        found = await asyncio.gather(*(engine.infer_async(image) for _ in range(100)))
        ticking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await ticking
        return found, ticks

    with engine:
        found, ticks = asyncio.run(gather())
        assert found == [expected] * 100
        assert ticks > 100, "the loop stood still"
        assert asyncio.run(gather())[0] == found, "a second loop"


def test_an_awaitable_waits_for_other_threads_images(colour_subnet):
    image = np.zeros((400, 400, 3), np.uint8)
    with quasar_rt.Engine(colour_subnet, queue=1) as engine:

        async def one():
            others = [asyncio.to_thread(lambda: engine.submit(image).result()) for _ in range(8)]
            return await asyncio.gather(*others, *(engine.infer_async(image) for _ in range(8)))

        found = asyncio.run(one())
    assert len(found) == 16
    assert all(prediction == found[0] for prediction in found)


def test_an_awaitable_raises_what_infer_raises(colour_subnet):
    with quasar_rt.Engine(colour_subnet) as engine, pytest.raises(ImageError, match=r"no file 'nope\.png'"):
        asyncio.run(engine.infer_async("nope.png"))
