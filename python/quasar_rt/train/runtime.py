"""Makes training fast: settings of the process, and fused elementwise functions. Depends on: torch."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar

import torch

__all__ = ["can_compile", "fused", "fusible", "keep_freed_memory"]

F = TypeVar("F", bound=Callable[..., Any])

_fuse = False


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


def fusible(function: F) -> F:
    """Lets torch.compile make one pass of a function of tensors without gradients, where `fused` asks for it.

    It is compiled once for tensors of all sizes, so that a supernet's networks share it.
    """
    compiled: Callable[..., Any] | None = None

    @wraps(function)
    def call(*arguments: Any) -> Any:
        nonlocal compiled
        if not _fuse or torch.compiler.is_compiling():
            return function(*arguments)
        if compiled is None:
            compiled = torch.compile(function, dynamic=True, fullgraph=True)
        # torch.compile looks at .grad, of which torch warns where a tensor is no leaf.
        return compiled(*(a.detach() if isinstance(a, torch.Tensor) else a for a in arguments))

    return call  # type: ignore[return-value]


@contextmanager
def fused(wanted: bool) -> Iterator[None]:
    """Fuses the functions that are `fusible` inside, if `wanted`."""
    global _fuse
    before, _fuse = _fuse, wanted
    try:
        yield
    finally:
        _fuse = before
