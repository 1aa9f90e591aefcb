"""Settings of the process that make training fast. Depends on the standard library."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys

__all__ = ["can_compile", "keep_freed_memory"]


def keep_freed_memory() -> None:
    """Makes glibc's allocator keep freed pages: each step would otherwise fault the same pages in again."""
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            trim_threshold, top_pad, mmap_max = -1, -2, -4  # malloc.h
            mallopt(mmap_max, 0)
            mallopt(trim_threshold, 2**31 - 1)
            mallopt(top_pad, 256 << 20)


def can_compile() -> bool:
    """Returns whether there is a C++ compiler, which torch.compile needs on a CPU."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++"))
