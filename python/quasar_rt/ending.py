"""The end of Python: ends queues, streams and accelerators in time, and refuses what comes too late.

Python first calls the functions of `atexit`, of which one is here: then nothing starts any more that Python has to wait
for. Later it takes its modules apart, and calls what is left of an object's ``__del__``. Depends on `errors`.
"""

from __future__ import annotations

import atexit
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from time import monotonic

from ._native import CLOSE_SECONDS, shut_down_devices, threads_in_python
from .errors import ClosedError

__all__ = ["accelerators_are_closed", "at_end", "check_can_start", "check_running", "hangs", "patience"]

#: Seconds that a transport's method may take once Python ends, before an exception interrupts it.
_GRACE = 1.0
#: Seconds between two looks at drivers that end.
_INTERVAL = 0.1

_finishers: list[Callable[[], None]] = []


class _State:
    begun = False
    accelerators_closed = False


def at_end(finish: Callable[[], None]) -> None:
    """Registers a function that ends threads before accelerators are closed; the last one runs first."""
    _finishers.append(finish)


def check_running(
    # Names of modules may be gone when this is called, but not its defaults.
    is_finalizing: Callable[[], bool] = sys.is_finalizing,
    error: type[ClosedError] = ClosedError,
) -> None:
    """Checks that Python has not begun to take its modules apart.

    Raises:
        ClosedError: it has.
    """
    if is_finalizing():
        raise error(
            "Python has ended: nothing runs any more; use engines before, such as in a function of atexit"
        )


def check_can_start(what: str) -> None:
    """Checks that Python will still wait for the end of `what`.

    Raises:
        ClosedError: Python is ending.
    """
    check_running()
    if _State.begun:
        raise ClosedError(f"Python is ending: {what} must start earlier; use infer")


def accelerators_are_closed() -> bool:
    """Returns true once the end of Python has closed all accelerators."""
    return _State.accelerators_closed


def patience(is_finalizing: Callable[[], bool] = sys.is_finalizing) -> float:
    """Returns the seconds to wait for a lock that another thread may hold: -1, without a limit, until Python ends."""
    if is_finalizing():
        return 0.0  # that thread is gone
    return CLOSE_SECONDS if _State.begun else -1.0


def hangs() -> bool:
    """Returns true if a transport in Python hangs although it was interrupted."""
    _interrupt(CLOSE_SECONDS - _GRACE)
    return bool(threads_in_python(CLOSE_SECONDS))


def _interrupt(seconds: float) -> None:
    """Raises SystemExit in the methods of transports that have taken longer than `seconds`."""
    for thread in threads_in_python(seconds):
        try:
            from ctypes import c_ulong, py_object, pythonapi
        except ImportError:
            return  # a Python without ctypes: the limits remain
        pythonapi.PyThreadState_SetAsyncExc(c_ulong(thread), py_object(SystemExit))


def _close_accelerators() -> None:
    """Ends the drivers while Python runs, which transports in Python need; leaves those that hang alone."""
    _State.accelerators_closed = True
    begun = monotonic()
    while not shut_down_devices(_INTERVAL):
        limit = _GRACE if threads_in_python(CLOSE_SECONDS) else CLOSE_SECONDS
        if monotonic() - begun >= limit:
            return
        _interrupt(_GRACE)


@atexit.register
def _at_exit() -> None:
    _State.begun = True
    # An exception, such as Ctrl-C's, skips none of them.
    with ExitStack() as stack:
        stack.callback(_close_accelerators)
        for finish in _finishers:
            stack.callback(finish)


# In a function of atexit, it is too late to register one.
if threading.current_thread() is threading.main_thread() and not threading.main_thread().is_alive():
    _State.begun = True
    _close_accelerators()
