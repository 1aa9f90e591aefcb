"""Checkpoint files: written whole or not at all, and refused when damaged, foreign or of another run.

A checkpoint is what ``torch.save`` writes of a dictionary, with a format name and the SHA-256 of its contents in it.
Depends on: torch.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import QuasarError

__all__ = ["CheckpointError", "load", "save", "write_atomically"]

_FORMAT = "quasar-rt checkpoint 1"


class CheckpointError(QuasarError, ValueError):
    """A checkpoint is damaged, is none of this package's, or belongs to another run; the message says what to do."""


def save(state: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint of nested dictionaries, lists, tensors, texts and numbers, atomically and synced to disk."""
    body = {**state, "format": _FORMAT}
    body["sha256"] = _digest(body)
    with write_atomically(path) as temporary:
        torch.save(body, temporary)


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what `save` wrote; no code in the file is run.

    Raises:
        CheckpointError: the file is damaged or something else.
        FileNotFoundError: there is none.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no checkpoint '{path}'")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    # torch raises nearly anything on files that are not its own.
    except Exception as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"'{path}' cannot be read, it is damaged or no checkpoint: {first}") from error
    if not isinstance(state, dict) or state.get("format") != _FORMAT:
        raise CheckpointError(f"'{path}' is not a checkpoint of this version of quasar_rt")
    stated = state.pop("sha256", None)
    if stated != _digest(state):
        raise CheckpointError(f"'{path}' is damaged: its contents do not have the digest that it states")
    del state["format"]
    return {**state, "sha256": stated}


class write_atomically:
    """``with write_atomically(path) as temporary:`` write to `temporary`; it is then synced and renamed to `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")

    def __enter__(self) -> Path:
        return self._temporary

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self._temporary.unlink(missing_ok=True)
            return
        with self._temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(self._temporary, self._path)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _digest(state: Any) -> str:
    digest = hashlib.sha256()
    for piece in _pieces(state):
        digest.update(piece)
    return digest.hexdigest()


def _pieces(value: Any) -> Iterator[Any]:
    if isinstance(value, Tensor):
        value = value.detach().cpu().contiguous()
        yield f"tensor {value.dtype} {tuple(value.shape)}".encode()
        yield memoryview(value.reshape(-1).view(torch.uint8).numpy())
    elif isinstance(value, Mapping):
        yield f"map {len(value)}".encode()
        for key, item in value.items():
            yield repr(key).encode()
            yield from _pieces(item)
    elif isinstance(value, (list, tuple)):
        yield f"list {len(value)}".encode()
        for item in value:
            yield from _pieces(item)
    else:
        yield repr(value).encode()
