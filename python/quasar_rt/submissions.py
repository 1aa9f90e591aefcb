"""The queue behind `Engine.submit`: images that wait for their turn, and the threads that run them in order.

One thread decodes and preprocesses (on an accelerator, it also begins the frame) while another one runs the network.
Depends on `ending`, `threads` and `errors`; an image's work is given as functions.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from typing import Any, ClassVar

from . import ending
from .errors import BusyError, ClosedError, ThreadsError
from .prediction import Prediction
from .threads import start_thread

__all__ = ["Job", "Submissions"]

#: Number of images that are prepared before their turn.
_AHEAD = 4
#: Seconds between two looks at transports while Python ends.
_INTERVAL = 0.05


class Job:
    """One submitted image: `begin` is called before its turn, and `finish` takes what `begin` has returned."""

    def __init__(
        self, begin: Callable[[], Any], finish: Callable[[Any], Prediction], on_error: Callable[[], None]
    ) -> None:
        self.future: Future[Prediction] = Future()
        self._begin: Callable[[], Any] | None = begin
        self._finish: Callable[[Any], Prediction] | None = finish
        self._on_error = on_error
        self._item: Any = None
        self._error: BaseException | None = None

    def _fail(self, error: BaseException) -> None:
        self._error = error  # the future raises it
        if isinstance(error, Exception):
            self._on_error()

    def prepare(self) -> None:
        """Runs the first part, unless the job is cancelled."""
        begin, self._begin = self._begin, None
        if begin is None or self.future.cancelled():
            return
        try:
            self._item = begin()
        except BaseException as error:
            self._fail(error)

    def run(self, done: Callable[[], None]) -> None:
        """Runs the second part; calls `done` before the future has its outcome."""
        result = None
        running = self.future.set_running_or_notify_cancel()
        if running and self._error is None:
            assert self._finish is not None
            try:
                result = self._finish(self._item)
            except BaseException as failure:
                self._fail(failure)
        error, self._error, self._item, self._finish = self._error, None, None, None
        done()
        try:
            if running and error is not None:
                self.future.set_exception(error)
            elif running and result is not None:
                self.future.set_result(result)
        finally:
            del error  # its traceback refers to this call


class Submissions:
    """A queue of at most `limit` unfinished jobs, and its two threads, which start with the first job."""

    #: Queues that have jobs or may get some.
    alive: ClassVar[dict[int, weakref.ref[Submissions]]] = {}

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._room = threading.Semaphore(limit)
        self._waiting: SimpleQueue[Job | None] = SimpleQueue()
        # The garbage collector may call `close` in a thread that holds it.
        self._lock = threading.RLock()
        self._jobs: set[Job] = set()
        self._closed = False
        self._threads: tuple[threading.Thread, ...] = ()
        self._process = os.getpid()
        # `list` reads the dictionary at once, whatever other threads and the garbage collector do.
        self.alive[id(self)] = weakref.ref(self, partial(_forget, self.alive, id(self)))

    def submit(self, job: Job, timeout: float | None) -> None:
        """Appends a job; waits for room, at most `timeout` seconds, or not at all in a callback of a job.

        Raises:
            BusyError: there was no room in time.
            ClosedError: the queue was closed, or Python is ending.
            MemoryError: the process cannot have the threads' memory.
            ThreadsError: the threads cannot be started.
        """
        own = threading.current_thread() in self._threads
        if own:
            timeout = 0.0  # this thread makes the room
        if not self._room.acquire(timeout=timeout):
            why = "a callback of a submission may not wait" if own else f"none ended within {timeout:g} s"
            raise BusyError(
                f"{self._limit} submitted images are unfinished, and {why}; submit fewer, allow more "
                "(Engine(queue=...)) or longer (submit(timeout=...))"
            )
        try:
            with self._lock:
                ending.check_can_start("submissions")
                if self._closed:
                    raise ClosedError("this engine was closed; make a new one")
                if not self._threads:
                    self._start()
                self._jobs.add(job)
                self._waiting.put(job)
        except BaseException:
            self._room.release()
            raise

    def _start(self) -> None:
        ready: SimpleQueue[Job | None] = SimpleQueue()
        ahead = threading.Semaphore(_AHEAD)
        # The threads refer to jobs only while they run them, and to no engine.
        work = [
            threading.Thread(
                target=_prepare, args=(self._waiting, ready, ahead), name="quasar-prepare", daemon=True
            ),
            threading.Thread(target=_run, args=(ready, ahead, self._done), name="quasar-submit", daemon=True),
        ]
        try:
            for thread in work:
                start_thread(thread, "a thread for submissions")
        except (MemoryError, ThreadsError):
            self._waiting.put(None)  # for the first one, if it runs
            self._waiting = SimpleQueue()
            raise
        self._threads = tuple(work)

    def _done(self, job: Job) -> None:
        with self._lock:
            self._jobs.discard(job)
        self._room.release()

    def close(self, *, cancel: bool = False, wait: bool = True) -> None:
        """Takes no more jobs and ends the threads when all jobs have ended.

        Args:
            cancel: true to cancel the jobs whose turn has not come.
            wait: true to wait until all have ended; a callback of a job never waits.
        """
        if os.getpid() != self._process:
            return  # the threads are not in this process
        with self._lock:
            if not self._closed:
                self._closed = True
                self._waiting.put(None)
            jobs = list(self._jobs) if cancel else []
        for job in jobs:
            job.future.cancel()
        if wait and threading.current_thread() not in self._threads:
            for thread in self._threads:
                thread.join()

    @classmethod
    def finish_all(cls) -> None:
        """Closes all queues and waits, for the end of the process; Ctrl-C and a hung transport cancel what is left."""
        queues = [queue for find in list(cls.alive.values()) if (queue := find()) is not None]
        for queue in queues:
            queue.close(wait=False)
        cancelled = False
        while threads := [thread for queue in queues for thread in queue._threads if thread.is_alive()]:
            try:
                if cancelled:
                    for queue in queues:
                        queue.close(cancel=True, wait=False)
                if ending.hangs():
                    if cancelled:
                        break
                    cancelled = True
                    continue
                threads[0].join(_INTERVAL)
            except KeyboardInterrupt:
                cancelled = True


def _forget(
    alive: dict[int, weakref.ref[Submissions]], place: int, reference: weakref.ref[Submissions]
) -> None:
    if alive.get(place) is reference:
        del alive[place]


def _prepare(waiting: SimpleQueue[Job | None], ready: SimpleQueue[Job | None], ahead: Any) -> None:
    while (job := waiting.get()) is not None:
        ahead.acquire()
        job.prepare()
        ready.put(job)
        del job
    ready.put(None)


def _run(ready: SimpleQueue[Job | None], ahead: Any, done: Callable[[Job], None]) -> None:
    while (job := ready.get()) is not None:
        ahead.release()
        try:
            job.run(partial(done, job))
        except BaseException as error:  # a callback raised what futures let pass; the other jobs go on
            threading.excepthook(
                threading.ExceptHookArgs(
                    (type(error), error, error.__traceback__, threading.current_thread())
                )
            )
        del job


ending.at_end(Submissions.finish_all)
