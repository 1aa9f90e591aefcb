"""Starts the package's threads. Depends on `errors`."""

from __future__ import annotations

import threading

from ._native import check_thread_memory
from .errors import ThreadsError

__all__ = ["start_thread"]


def start_thread(thread: threading.Thread, what: str) -> None:
    """Starts a thread.

    Raises:
        MemoryError: the process cannot have its memory. Without this check, Python may wait for the thread for ever.
        ThreadsError: it cannot be started.
    """
    check_thread_memory()
    try:
        thread.start()
    except RuntimeError as error:
        raise ThreadsError(f"{what} cannot be started: {error}; use infer") from error
