"""The thread of `Engine.stream`, which prepares images before the consumer asks for them.

Depends on `arguments`, `ending`, `errors`, `images` and `prediction`; the engine gives the work as functions.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, ClassVar, Generic, TypeVar, cast

from . import ending
from .arguments import as_count, shown
from .errors import ClosedError, InvalidValueError, ThreadsError
from .images import ImageLike
from .prediction import Prediction

__all__ = ["Lookahead", "Stream", "lookahead"]

_Item = TypeVar("_Item")
_END = object()

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
        self.ready: SimpleQueue[tuple[int, ImageLike | None, Any] | _Failure | None] = SimpleQueue()
        #: The consumer is busy with a prediction, or has not asked for the first one.
        self.away = True
        self._shared: Shared[Any] | None = None
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
                state.ready.put(_Failure(ClosedError("Python is ending: its streams were stopped")))

    def count_dropped(self) -> None:
        """Counts an image that a newer one has displaced."""
        self.dropped += 1
        if self._on_drop is not None:
            self._on_drop()

    def share(self, shared: Shared[Any]) -> None:
        """Makes the thread notice what it should know about shared work."""
        self._shared = shared
        if self.away or self.stopped.is_set():
            shared.news.put(None)

    def leave(self) -> None:
        """Notes that the consumer goes away with a prediction."""
        self.away = True
        if (shared := self._shared) is not None:
            shared.news.put(None)

    def stop(self) -> None:
        """Stops the thread, and waits until the current image, if any, has been read."""
        self.running.pop(id(self), None)
        if os.getpid() != self._process:
            return  # the thread is not in this process, and may hold the lock for ever
        self.stopped.set()
        self.room.release()
        if (shared := self._shared) is not None:
            shared.news.put(None)
        if self.reading.acquire(timeout=self._patience()):
            self.reading.release()


class _Source(Generic[_Item]):
    """The images of a stream, and the work for each one.

    The consumer owns it. The thread refers to it only while it takes an image or prepares it: a stream that is dropped
    together with its own source, in a cycle, can be collected.
    """

    def __init__(self, images: Iterable[ImageLike], prepare: Callable[[ImageLike], _Item]) -> None:
        self.prepare = prepare
        self._images = images
        self._iterator: Iterator[ImageLike] | None = None

    def next(self) -> object:
        """Returns the next image, or `_END`."""
        if self._iterator is None:
            self._iterator = iter(self._images)
        return next(self._iterator, _END)


class Shared(Generic[_Item]):
    """Work on an image that takes all cores: the consumer does it if it comes first, between two images.

    Then neither it nor the thread has to be woken in the middle of its work. The thread does it if the consumer is
    away, busy with a prediction. It lends the image's memory until then.
    """

    def __init__(self, work: Callable[[], _Item]) -> None:
        self._work: Callable[[], _Item] | None = work
        self._claimed = threading.Lock()
        self._working = threading.Lock()
        self._working.acquire()
        self.done = False
        self._result: _Item | BaseException | None = None
        #: Gets an entry when the consumer goes away, when the work is done, and when the stream stops. (An event of
        #: Python's takes several times as long.)
        self.news: SimpleQueue[None] = SimpleQueue()

    def do(self) -> bool:
        """Does the work unless somebody else does or did; returns true if it did."""
        if not self._claimed.acquire(blocking=False):
            return False
        work, self._work = self._work, None
        assert work is not None  # the first one who comes has it
        try:
            self._result = work()
        except BaseException as error:
            self._result = error
        self.done = True
        self._working.release()
        self.news.put(None)
        return True

    def result(self) -> _Item:
        """Waits for the work and returns its result, or raises its error."""
        with self._working:
            pass
        if isinstance(self._result, BaseException):
            raise self._result
        return cast("_Item", self._result)


@dataclass(frozen=True)
class _Failure:
    error: BaseException


def lookahead(
    state: Lookahead, prepare: Callable[[ImageLike], _Item | Shared[_Item]], images: Iterable[ImageLike]
) -> Generator[_Item, None, None]:
    """Prepares `images` in a thread, at most `ahead` before the consumer; errors are raised at their place.

    Where the stream drops images, the thread does not wait for the consumer: a prepared image displaces the oldest one
    that waits. An error and the end are never displaced, since nothing comes after them. Shared work may also be done
    by the consumer, when it asks for the image.

    Raises:
        ClosedError: Python is ending.
        ThreadsError: the thread cannot be started.
    """
    ending.check_can_start("streams")
    source = _Source(images, prepare)
    # A daemon, so that an unfinished stream does not keep the interpreter from ending.
    thread = threading.Thread(
        target=_work,
        args=(weakref.ref(state), weakref.ref(source), state.room, state.stopped, state.drops),
        name="quasar-stream",
        daemon=True,
    )
    try:
        state.running[id(state)] = weakref.ref(state)
        try:
            thread.start()
        except RuntimeError as error:
            raise ThreadsError(f"a stream's thread cannot be started: {error}; use infer") from error
        while (got := state.ready.get()) is not None:
            state.room.release()
            if isinstance(got, _Failure):
                raise got.error
            state.position, state.image, item = got
            del got
            if isinstance(item, Shared):
                with state.reading:
                    item.do()
                item = item.result()
            yield item
            del item
    finally:
        state.stop()


def _work(
    find_state: weakref.ref[Lookahead],
    find_source: weakref.ref[_Source[Any]],
    room: threading.Semaphore,
    stopped: threading.Event,
    drops: bool,
) -> None:
    # While it waits for room, the thread keeps neither the state, whose frames refer to the engine, nor the source.
    try:
        position = 0
        while (drops or room.acquire()) and not stopped.is_set():
            state, source = find_state(), find_source()
            if state is None or source is None:
                return  # the stream was collected
            image = source.next()
            prepare = source.prepare
            del source
            if image is _END:
                state.ready.put(None)
                return
            with state.reading:
                if stopped.is_set():
                    return
                item = prepare(cast("ImageLike", image))
            kept = cast("ImageLike", image) if state.keep_images else None
            del prepare
            if not isinstance(item, Shared):
                image = None  # the image's memory is its owner's again
            # The consumer may take one meanwhile, which makes room as well.
            while drops and state.ready.qsize() >= state.ahead:
                try:
                    state.ready.get_nowait()
                except Empty:
                    break
                state.count_dropped()
            state.ready.put((position, kept, item))
            position += 1
            if isinstance(item, Shared):
                state.share(item)
            del kept, state
            # As above, without the state. The image's memory is lent until the work is done.
            while isinstance(item, Shared) and not item.done and not stopped.is_set():
                item.news.get()
                state = find_state()
                if state is None:
                    return
                with state.reading:
                    if state.away and not stopped.is_set():
                        item.do()
                del state
            del item, image
    except BaseException as error:  # handed to the consumer, which raises it
        if (state := find_state()) is not None:
            state.ready.put(_Failure(error))


ending.at_end(Lookahead.stop_all)
