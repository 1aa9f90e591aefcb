"""Checkpoint files: written whole or not at all, and refused when damaged, foreign or of another run.

A checkpoint is what ``torch.save`` writes of a dictionary, with a format name and the SHA-256 of its contents in it.
The digest leaves out times (`TIMES`), so that equal runs have equal digests.
Depends on: torch.
"""

from __future__ import annotations

import glob
import hashlib
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from ..errors import QuasarError
from ..files import open_regular, refused, replacing

__all__ = ["TIMES", "CheckpointError", "load", "load_weights", "reading", "save", "write_atomically"]

#: Keys of times in seconds, in a checkpoint and in all dictionaries within it.
TIMES = frozenset({"seconds", "elapsed"})

_FORMAT = "quasar-rt checkpoint 2"
#: The formats that are read, with the keys that their digests leave out.
_FORMATS = {_FORMAT: TIMES, "quasar-rt checkpoint 1": frozenset[str]()}


class CheckpointError(QuasarError, ValueError):
    """A checkpoint is damaged, is not of this package, or belongs to another run; the message has the remedy."""


def save(state: Mapping[str, Any], path: Path) -> None:
    """Writes a checkpoint of nested dictionaries, lists, tensors, texts and numbers, atomically and synced to disk.

    Raises:
        quasar_rt.FileError: it cannot be written (a full disk); the file that was there before is unchanged.
    """
    # The format first: `quasar_rt.files` knows a checkpoint by its beginning.
    body = {"format": _FORMAT, **state}
    body["sha256"] = _digest(body, TIMES)
    with write_atomically(path) as file:
        try:
            torch.save(body, file)
        except RuntimeError as error:
            # After a write that failed torch fails once more, while it closes the archive.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads what `save` wrote; no code in the file is run.

    Raises:
        CheckpointError: the file is damaged or something else.
        FileNotFoundError: there is none.
        quasar_rt.FileError: it cannot be read.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no checkpoint '{path}'")
    try:
        with open_regular(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what a foreign file looks like
            state = torch.load(file, map_location="cpu", weights_only=True)
        known = isinstance(state, dict) and state.get("format") in _FORMATS
        stated = state.pop("sha256", None) if known else None
        found = _digest(state, _FORMATS[state["format"]]) if known else None
    except OSError as error:
        raise refused(f"'{path}' cannot be read", error) from error
    # torch raises nearly anything on files that are not its own, and advises to run the code in them.
    except Exception as error:
        raise CheckpointError(f"'{path}' is damaged, or no checkpoint of `quasar-rt train`") from error
    if not known:
        raise CheckpointError(f"'{path}' is not a checkpoint of this version of quasar_rt")
    if stated != found:
        raise CheckpointError(f"'{path}' is damaged: its contents do not have the digest that it states")
    del state["format"]
    return {**state, "sha256": stated}


@contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns the failures of reading values from the checkpoint `path` into errors that name the file.

    Raises:
        CheckpointError: names what is missing or wrong. Errors of this package pass as they are.
    """
    try:
        yield
    except QuasarError:
        raise
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        first = str(error).splitlines()[0] if str(error) else ""
        raise CheckpointError(
            f"'{path}' does not hold what this version of quasar_rt writes ({type(error).__name__}: {first}): "
            "it has to be trained again"
        ) from error


def load_weights(model: nn.Module, weights: Any, path: str | os.PathLike[str]) -> None:
    """Fills the model from a checkpoint's weights.

    Raises:
        CheckpointError: a tensor is missing, left over, of another shape or type, or not finite; names it.
    """
    own = model.state_dict()
    if not isinstance(weights, Mapping):
        raise CheckpointError(f"'{path}' holds no weights")
    if names := sorted(set(map(str, weights)) ^ set(own)):
        what = "lacks the tensor" if names[0] in own else "has an unknown tensor"
        raise CheckpointError(f"'{path}' is of another network: it {what} '{names[0]}'")
    for name, tensor in own.items():
        found = weights[name]
        if not isinstance(found, Tensor) or (found.dtype, found.shape) != (tensor.dtype, tensor.shape):
            kind = f"{found.dtype} {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise CheckpointError(
                f"'{path}' is of another network: '{name}' is {kind}, not {tensor.dtype} {list(tensor.shape)}"
            )
        if found.is_floating_point() and not found.isfinite().all():
            raise CheckpointError(f"'{path}': '{name}' has values that are not finite numbers")
    model.load_state_dict(weights)


@contextmanager
def write_atomically(path: Path) -> Iterator[BinaryIO]:
    """Replaces a file of a run, as `quasar_rt.files.replacing` does.

    Also removes what processes that have ended left unfinished of the same file.

    Raises:
        quasar_rt.FileError: it cannot be written; the message has how the run continues.
    """
    # First, as the disk may be full of them.
    _remove_leftovers(path)
    with replacing(path, "the same command continues from the last checkpoint") as file:
        yield file


def _remove_leftovers(path: Path) -> None:
    """Removes what processes that were killed had written of the file."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        process = left.name.split(".")[-2]
        if process.isdecimal() and not _runs(int(process)):
            left.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    """Returns whether a process of this machine runs, or that this is not known."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass
    return True


def _digest(state: Any, without: frozenset[str]) -> str:
    """Returns the SHA-256 of a state, where dictionaries count without these keys."""
    digest = hashlib.sha256()
    for piece in _pieces(state, without):
        digest.update(piece)
    return digest.hexdigest()


def _pieces(value: Any, without: frozenset[str]) -> Iterator[Any]:
    if isinstance(value, Tensor):
        if value.nbytes > value.untyped_storage().nbytes():
            raise ValueError("a tensor is larger than what is stored of it")
        value = value.detach().cpu().contiguous()
        yield f"tensor {value.dtype} {tuple(value.shape)}".encode()
        yield memoryview(value.reshape(-1).view(torch.uint8).numpy())
    elif isinstance(value, Mapping):
        items = [(key, item) for key, item in value.items() if key not in without]
        yield f"map {len(items)}".encode()
        for key, item in items:
            yield repr(key).encode()
            yield from _pieces(item, without)
    elif isinstance(value, (list, tuple)):
        yield f"list {len(value)}".encode()
        for item in value:
            yield from _pieces(item, without)
    else:
        yield repr(value).encode()
