"""The thread of `Engine.stream`, which prepares images before the consumer asks for them.

The README (*Follow one image*) lists which stages run in this thread, and which in the consumer's.

Depends on `arguments`, `ending`, `errors`, `images`, `prediction` and `threads`; the engine gives the work as
functions.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice, repeat
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar, cast

import numpy as np

from . import ending
from .arguments import as_count, shown
from .errors import ClosedError, ImageError, InvalidValueError
from .frame import Frame
from .images import ImageLike
from .prediction import Prediction
from .threads import start_thread

__all__ = ["Lookahead", "Stream", "Work", "lookahead"]

_Decoded = TypeVar("_Decoded")
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_END = object()
#: Place, image (where it is kept) and item.
_Entry: TypeAlias = "tuple[int, ImageLike | None, Any]"

#: Seconds that handing an image to a sleeping thread takes, and back, about.
_HANDOVER = 2e-4

#: Iterables that have all images from the start: it does not show when one is fetched, or in which thread. (Other
#: iterators may have another user, who goes on with them.)
_HOLD_IMAGES = (list, tuple, np.ndarray, repeat)

#: Values of `Engine.stream`'s argument `drop`.
_DROPS = (None, "oldest")


class Stream(Iterator[Prediction]):
    """The predictions of `Engine.stream`: an iterator that knows where it is.

    `close` ends it, as do the end of a ``with`` block and the garbage collector.
    """

    def __init__(self, predictions: Generator[Prediction, None, None], state: Lookahead) -> None:
        self._predictions = predictions
        self._state = state

    @property
    def position(self) -> int | None:
        """The place, counted from 0, of the last prediction's image in the iterable; None before the first one."""
        return self._state.position

    @property
    def image(self) -> ImageLike | None:
        """The image of the last prediction as the iterable gave it; None unless ``keep_images`` was asked for."""
        return self._state.image

    @property
    def dropped(self) -> int:
        """Number of images that newer ones have displaced so far."""
        return self._state.dropped

    def close(self) -> None:
        """Stops the stream's thread as soon as the iterable gives its next image. No image is read once it returns."""
        self._predictions.close()

    def __next__(self) -> Prediction:
        return next(self._predictions)

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True)
class Work(Generic[_Decoded, _Item, _Result]):
    """Holds the functions that a stream calls for each image."""

    decode: Callable[[ImageLike], _Decoded]
    #: Returns true if preparing the image takes all cores.
    takes_all_cores: Callable[[_Decoded], bool]
    prepare: Callable[[_Decoded], _Item]
    #: Finishes an image that is prepared or only decoded.
    finish: Callable[[_Decoded | _Item], _Result]
    #: Finishes `together` images, prepared or only decoded, in less time than one after the other.
    finish_together: Callable[[list[_Decoded | _Item]], list[_Result]]
    together: int = 1


class Lookahead:
    """The state of one stream, which its thread and its consumer share.

    Raises:
        InvalidValueError: `ahead` is no whole number from 1 on, or there is no such `drop`.
    """

    #: Streams that have not ended.
    running: ClassVar[dict[int, weakref.ref[Lookahead]]] = {}
    _patience = staticmethod(ending.patience)

    def __init__(
        self,
        ahead: int | None,
        drop: str | None,
        keep_images: bool,
        on_drop: Callable[[], None] | None,
    ) -> None:
        if drop not in _DROPS:
            raise InvalidValueError(f"drop is {shown(drop)}; it must be 'oldest', or None to keep all images")
        self.ahead = as_count("ahead", ahead) if ahead is not None else 1 if drop else 4
        self.drops = drop is not None
        self.keep_images = keep_images
        self.dropped = 0
        self.position: int | None = None
        self.image: ImageLike | None = None
        self._on_drop = on_drop
        self.room = threading.Semaphore(self.ahead)
        self.stopped = threading.Event()
        #: Items for the consumer: place, image and item, an error, or None at the end.
        self.ready: SimpleQueue[_Entry | _Failure | None] = SimpleQueue()
        #: The consumer is busy with a prediction, or has not asked for the first one.
        self.away = True
        self._shared: _Shared[Any, Any] | None = None
        #: The consumer fetches the next image itself. The thread waits for an entry in `resumed`, and fetches one image
        #: for each.
        self.fetches_itself = False
        self.resumed: SimpleQueue[None] = SimpleQueue()
        #: Seconds that fetching and decoding the last image took, and for which the consumer was away last.
        self.fetch_time = 0.0
        self._absence = 0.0
        self._left = 0.0
        #: Number of times in a row that the thread would have saved time.
        self._slow = 0
        # Held while an image's memory is read. The garbage collector may end the stream in the thread itself.
        self.reading = threading.RLock()
        self._process = os.getpid()

    @classmethod
    def stop_all(cls) -> None:
        """Stops the threads of all streams, for the end of the process."""
        # `list` reads the dictionary at once, whatever other threads and the garbage collector do.
        for find in list(cls.running.values()):
            if (state := find()) is not None:
                state.stop()
                state.ready.put(_Failure(cls._stopped()))

    @staticmethod
    def _stopped() -> ClosedError:
        return ClosedError("Python is ending: its streams were stopped")

    def check_running(self) -> None:
        """Raises `ClosedError` if the stream was stopped while it was running, which the end of Python does."""
        if self.stopped.is_set():
            raise self._stopped()

    def make_room(self) -> None:
        """Displaces the oldest images that wait, if the stream does that, so that there is room for another one."""
        # The consumer may take one meanwhile, which makes room as well.
        while self.drops and self.ready.qsize() >= self.ahead:
            try:
                self.ready.get_nowait()
            except Empty:
                return
            self.dropped += 1
            if self._on_drop is not None:
                self._on_drop()

    def share(self, shared: _Shared[Any, Any]) -> None:
        """Makes the thread notice what it should know about shared work."""
        self._shared = shared
        if self.away or self.stopped.is_set():
            shared.news.put(None)

    def leave(self) -> None:
        """Notes that the consumer goes away with a prediction."""
        self.away = True
        self._left = time.perf_counter()
        if (shared := self._shared) is not None and not self.fetches_itself:
            shared.news.put(None)

    def come_back(self) -> None:
        """Notes that the consumer is back from `leave`."""
        self.away = False
        self._absence = time.perf_counter() - self._left
        self._slow = 0 if self.is_quick else self._slow + 1

    @property
    def is_quick(self) -> bool:
        """True if the thread gains less than waking it takes: neither fetching nor the consumer needs time."""
        return self.fetch_time + self._absence < _HANDOVER

    @property
    def is_slow(self) -> bool:
        """True if the thread would have gained more than that twice in a row: once may be chance."""
        return self._slow > 1

    def go_on_alone(self) -> None:
        """Lets the consumer fetch the next images. The thread waits with one that nobody has finished."""
        with suppress(Empty):
            while True:
                self.resumed.get_nowait()
        self._slow = 0
        self.fetches_itself = True

    def resume(self) -> None:
        """Lets the thread fetch the next images."""
        self.fetches_itself = False
        self.resumed.put(None)

    def fetch_at_once(self) -> object:
        """Lets the thread fetch one image.

        Returns:
            Its entry, the failure or `_END`; None if the image does not come at once. Then the thread goes on.
        """
        self.resumed.put(None)
        try:
            entry = self.ready.get(timeout=_HANDOVER)
        except Empty:
            # The thread may have put its entry meanwhile, and wait for another request.
            self.resume()
            return None
        return _END if entry is None else entry

    def stop(self) -> None:
        """Stops the thread, and waits until the current image, if any, has been read."""
        self.running.pop(id(self), None)
        if os.getpid() != self._process:
            return  # the thread is not in this process, and may hold the lock for ever
        self.stopped.set()
        self.room.release()
        self.resumed.put(None)
        if (shared := self._shared) is not None:
            shared.news.put(None)
        if self.reading.acquire(timeout=self._patience()):
            self.reading.release()


class _Source(Generic[_Decoded, _Item, _Result]):
    """The images of a stream, and the work for each one. The thread and the consumer use it in turns.

    The consumer owns it. The thread refers to it only while it takes an image or prepares it: a stream that is dropped
    together with its own source, in a cycle, can be collected.
    """

    def __init__(self, images: Iterable[ImageLike], work: Work[_Decoded, _Item, _Result]) -> None:
        self.work = work
        #: The place of the last image.
        self.position = -1
        self._images = images
        self._iterator: Iterator[ImageLike] | None = None
        #: Images that the consumer fetches at a time. Another iterable may make an image of the prediction before it.
        self.at_a_time = work.together if type(images) in _HOLD_IMAGES else 1

    def next(self) -> object:
        """Returns the next image, or `_END`."""
        self.position += 1
        return next(self._iterate(), _END)

    def take(self) -> list[ImageLike]:
        """Returns the next `at_a_time` images, or those that are left."""
        images = list(islice(self._iterate(), self.at_a_time))
        self.position += len(images)
        return images

    def _iterate(self) -> Iterator[ImageLike]:
        if self._iterator is None:
            self._iterator = iter(self._images)
        return self._iterator

    def begins_large(self) -> bool:
        """Returns true if the first image takes all cores and, with others that the iterable holds, forms a group."""
        if self.at_a_time == 1:
            return False
        images = self._iterate()
        first = list(islice(images, 1))
        self._iterator = chain(first, images)
        with suppress(ImageError):  # it is raised at its place
            # Other images are decoded, which takes time.
            in_memory = [image for image in first if isinstance(image, (np.ndarray, Frame))]
            return any(self.work.takes_all_cores(self.work.decode(image)) for image in in_memory)
        return False


class _Shared(Generic[_Decoded, _Item]):
    """An image whose preparation takes all cores: the consumer finishes it as it is, if it comes first.

    Then neither it nor the thread has to be woken in the middle of its work. The thread prepares it if the consumer is
    away, busy with a prediction. It lends the image's memory until then.
    """

    def __init__(self, decoded: _Decoded, prepare: Callable[[_Decoded], _Item]) -> None:
        self._prepare = prepare
        self._decoded: SimpleQueue[_Decoded] = SimpleQueue()
        self._decoded.put(decoded)
        self._working = threading.Lock()
        self._working.acquire()
        self.done = False
        self._result: _Item | BaseException | None = None
        #: Gets an entry when the consumer goes away, when the image has been read, and when the stream stops. (An event
        #: of Python's takes several times as long.)
        self.news: SimpleQueue[None] = SimpleQueue()

    def claim(self) -> _Decoded | None:
        """Returns the image to the first one who asks, who calls `release` once it has been read; None to others."""
        try:
            return self._decoded.get_nowait()
        except Empty:
            return None

    def release(self) -> None:
        """Notes that the image's memory is not needed any more."""
        self.done = True
        self._working.release()
        self.news.put(None)

    def prepare(self) -> None:
        """Prepares the image unless somebody has claimed it."""
        if (decoded := self.claim()) is None:
            return
        try:
            self._result = self._prepare(decoded)
        except BaseException as error:
            self._result = error
        self.release()

    def result(self) -> _Item:
        """Waits until the image is prepared and returns it, or raises the error."""
        with self._working:
            pass
        if isinstance(self._result, BaseException):
            raise self._result
        return cast("_Item", self._result)


@dataclass(frozen=True)
class _Raw:
    """An image that is only decoded, so that its memory is read when it is finished."""

    decoded: Any


class _Failure:
    """An error that is raised once. Whoever raises it keeps no reference: its traceback has that frame's variables."""

    def __init__(self, error: BaseException) -> None:
        self._errors = [error]

    def take(self) -> BaseException:
        """Returns the error."""
        return self._errors.pop()


def lookahead(
    state: Lookahead, work: Work[_Decoded, _Item, _Result], images: Iterable[ImageLike]
) -> Generator[_Result, None, None]:
    """Prepares `images` in a thread, at most `ahead` before the consumer, and finishes each when it is asked for.

    Errors are raised at their place. Where the stream drops images, the thread does not wait for the consumer: a
    prepared image displaces the oldest one that waits. An error and the end are never displaced, since nothing comes
    after them. As many prepared images as are finished faster together are, if they wait. If preparing an image takes
    all cores, the consumer may finish it as it is. While neither fetching such images nor the consumer takes time, it
    fetches them itself, too, and the thread fetches only what is finished together with them.

    Raises:
        ClosedError: Python is ending.
        MemoryError: the process cannot have the thread's memory.
        ThreadsError: the thread cannot be started.
    """
    ending.check_can_start("streams")
    source = _Source(images, work)
    # A daemon, so that an unfinished stream does not keep the interpreter from ending.
    thread = threading.Thread(
        target=_work,
        args=(
            weakref.ref(state),
            weakref.ref(source),
            state.room,
            state.stopped,
            state.resumed,
            state.drops,
        ),
        name="quasar-stream",
        daemon=True,
    )
    try:
        state.running[id(state)] = weakref.ref(state)
        state.away = False
        state.fetches_itself = not state.drops and source.begins_large()
        while True:
            if state.fetches_itself and (yield from _without_thread(state, source)):
                return
            if thread.ident is None and not state.stopped.is_set():
                start_thread(thread, "a stream's thread")
            taken, end = _take(state, work.together)
            yield from _results(state, work, taken)
            if isinstance(end, _Failure):
                raise end.take()
            if end is _END:
                return
    finally:
        state.stop()


def _take(state: Lookahead, together: int) -> tuple[deque[_Entry], object]:
    """Waits for the next image, and takes as many more as are finished together if they are there.

    Returns them, and the failure or `_END` that comes behind them, if that was found. (Nothing comes behind either.)
    """
    taken: deque[_Entry] = deque()
    while True:
        entry = state.ready.get()
        if not isinstance(entry, tuple):
            return taken, _END if entry is None else entry
        taken.append(entry)
        if len(taken) == together or len(taken) + state.ready.qsize() < together:
            return taken, None


def _results(
    state: Lookahead, work: Work[Any, Any, _Result], taken: deque[_Entry]
) -> Generator[_Result, None, None]:
    """Finishes the images that were taken, together if there are enough, and yields the results one by one.

    There is room for another image when the turn of one has come.
    """
    results: deque[_Result] = deque()
    together = len(taken) == work.together > 1 and not any(isinstance(item, _Shared) for _, _, item in taken)
    if together:
        state.room.release()
        results.extend(_finished_together(state, work, [item for _, _, item in taken]))
    while taken:
        state.position, state.image, item = taken.popleft()
        if not together:
            state.room.release()
        together = False
        result = results.popleft() if results else _use(state, item, work.finish)
        del item
        state.leave()
        yield result
        del result
        state.come_back()


def _finished_together(state: Lookahead, work: Work[Any, Any, _Result], items: list[Any]) -> list[_Result]:
    """Finishes images together; returns nothing if one of them cannot be used, which is found out at its turn."""
    if not any(isinstance(item, _Raw) for item in items):
        return work.finish_together(items)
    with suppress(ImageError), state.reading:
        state.check_running()
        return work.finish_together([item.decoded for item in items])
    return []


def _without_thread(
    state: Lookahead, source: _Source[_Decoded, _Item, _Result]
) -> Generator[_Result, None, bool]:
    """Fetches and finishes images as long as that is quick; returns true at their end."""
    while not state.stopped.is_set():
        taken, end = _fetched(state, source)
        yield from _results(state, source.work, taken)
        if isinstance(end, _Failure):
            raise end.take()
        if end is _END:
            return True
        if state.is_slow:
            state.resume()
        if not state.fetches_itself:
            break
    return False


def _fetched(state: Lookahead, source: _Source[_Decoded, _Item, _Result]) -> tuple[deque[_Entry], object]:
    """Fetches as many images as are finished together, or fewer if they do not come at once.

    Of an iterable that does not hold its images, the thread fetches all but the first: the iterable may make an image
    of the prediction before it, and wait for that.

    Returns:
        The images, and the failure or `_END` that comes behind them, if that was found.
    """
    work = source.work
    taken: deque[_Entry] = deque()
    start = time.perf_counter()
    images = source.take()
    if not images:
        return taken, _END
    try:
        with state.reading:
            state.check_running()
            for place, image in enumerate(images, source.position + 1 - len(images)):
                item: Any = _Raw(work.decode(image))
                state.room.acquire()
                taken.append((place, image if state.keep_images else None, item))
            state.fetch_time = (time.perf_counter() - start) / len(images)
            if source.at_a_time == work.together:
                return taken, None
            place, kept, item = taken.pop()
            # Then its memory is its owner's again.
            taken.append((place, kept, work.prepare(item.decoded)))
        del images, image, kept, item
        while len(taken) < work.together:
            entry = state.fetch_at_once()
            if not isinstance(entry, tuple):
                return taken, entry
            place, kept, item = entry
            del entry
            prepared = _use(state, item, work.prepare) if isinstance(item, _Shared) else item
            taken.append((place, kept, prepared))
            del kept, item, prepared
    except Exception as error:
        return taken, _Failure(error)
    return taken, None


def _use(
    state: Lookahead, item: _Item | _Raw | _Shared[_Decoded, _Item], call: Callable[[Any], _Result]
) -> _Result:
    """Calls a function for an item of `Lookahead.ready`, or for an image that the consumer has fetched."""
    if isinstance(item, _Raw):
        with state.reading:
            state.check_running()
            return call(item.decoded)
    if not isinstance(item, _Shared):
        return call(item)
    if (decoded := item.claim()) is None:
        return call(item.result())
    # The thread reads the flag once the image's memory is its owner's again.
    if state.is_quick:
        state.go_on_alone()
    try:
        with state.reading:
            return call(decoded)
    finally:
        item.release()


def _work(
    find_state: weakref.ref[Lookahead],
    find_source: weakref.ref[_Source[Any, Any, Any]],
    room: threading.Semaphore,
    stopped: threading.Event,
    resumed: SimpleQueue[None],
    drops: bool,
) -> None:
    # While it waits, the thread keeps neither the state, whose frames refer to the engine, nor the source.
    try:
        while (drops or room.acquire()) and not stopped.is_set():
            item = _put_next(find_state, find_source)
            if item is _END:
                return
            # The image's memory is lent until the work is done.
            while isinstance(item, _Shared) and not item.done and not stopped.is_set():
                item.news.get()
                if not _prepare_if_away(find_state, item):
                    return
            del item
            if _fetches_itself(find_state):
                resumed.get()
    except BaseException as error:  # handed to the consumer, which raises it
        if (state := find_state()) is not None:
            state.ready.put(_Failure(error))


def _put_next(find_state: weakref.ref[Lookahead], find_source: weakref.ref[_Source[Any, Any, Any]]) -> object:
    """Fetches an image, prepares it and hands it over; returns the item, or `_END` behind the last one."""
    state, source = find_state(), find_source()
    if state is None or source is None:
        return _END  # the stream was collected
    start = time.perf_counter()
    image = source.next()
    if image is _END:
        state.ready.put(None)
        return _END
    position, work = source.position, source.work
    del source
    with state.reading:
        if state.stopped.is_set():
            return _END
        decoded = work.decode(cast("ImageLike", image))
        # The first image's time does not count: the iterable has just begun.
        state.fetch_time = time.perf_counter() - start if position > 0 else 0.0
        lent = work.takes_all_cores(decoded)
        item: Any = _Shared(decoded, work.prepare) if lent else work.prepare(decoded)
    kept = cast("ImageLike", image) if state.keep_images else None
    # The image's memory is its owner's again, unless it is lent.
    del work, decoded, image
    state.make_room()
    state.ready.put((position, kept, item))
    if lent:
        state.share(item)
    return item


def _prepare_if_away(find_state: weakref.ref[Lookahead], shared: _Shared[Any, Any]) -> bool:
    """Prepares an image while the consumer is away; returns false if the stream was collected."""
    state = find_state()
    if state is None:
        return False
    with state.reading:
        if state.away and not state.stopped.is_set():
            shared.prepare()
    return True


def _fetches_itself(find_state: weakref.ref[Lookahead]) -> bool:
    state = find_state()
    return state is not None and state.fetches_itself and not state.stopped.is_set()


ending.at_end(Lookahead.stop_all)
