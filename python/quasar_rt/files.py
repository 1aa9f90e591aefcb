"""Files that are written whole or not at all, what they may replace, and why a file cannot be read.

A file that is there is replaced only if this package wrote it and the new one is of its kind (`_BEGINNINGS`); an empty
file counts as no file. Symbolic links are never followed. Depends on the standard library and `quasar_rt.errors`.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO

from .errors import FileError, InvalidValueError, MissingFileError

__all__ = [
    "MOST_TEXT_BYTES",
    "PNG_METADATA",
    "cache_folder",
    "check_apart",
    "check_folder",
    "check_writable",
    "file_name",
    "is_url",
    "kind_of",
    "make_folder",
    "open_regular",
    "read_small_text",
    "reason",
    "refused",
    "replacing",
    "why_unreadable",
    "write_bytes",
    "write_text",
]

#: Most bytes of a text file that a user names (`SECURITY.md`).
MOST_TEXT_BYTES = 1 << 20

#: How the files of this package begin, by kind.
_BEGINNINGS = {
    "subnet": rb'.{8}\{"__metadata__":\{"config":"\{',
    "checkpoint": rb"PK\x03\x04.{,400}quasar-rt checkpoint",
    "configuration": rb"# Written by quasar-rt\n",
    "picture": rb"\x89PNG\r\n\x1a\n.{,200}tEXtSoftware\0quasar-rt",
    "page": rb'<!DOCTYPE html>.{,200}<meta name="generator" content="quasar-rt">',
    "search": rb'\{\s+"format": \d+,\s+"quasar_rt": "',
    "fit": rb'\{\s+"quasar_rt": "[^"]*",\s+"name": "',
    "report": rb'\{\s+"quasar_rt": "[^"]*",\s+"subnet": "',
    "confusion matrix": rb"true class,",
    "front": rb"subnet,board,modelled_fps,",
    "comparison of boards": rb"board,target_fps,modelled_fps",
    "log": rb"stage,epoch,steps,",
    "ONNX model": rb"\x08.\x12\x09quasar_rt",
    "model card": rb"# Model card: [^\n]*\n\nA Vision Transformer for [^\n]*\nthat runs in integers only",
    "index": rb"PK\x03\x04.{26}quasar_rt_index\.npy|PAR1.{,400}quasar-rt index ",
    "list of samples": rb'\{\s+"\d{5}-[^"]*\.png": "',
}
#: The text in a PNG that makes it a picture of this package.
PNG_METADATA = {"Software": "quasar-rt"}
#: Bytes at a file's beginning that show its kind.
_BEGINNING_BYTES = 1024


def cache_folder() -> Path:
    """Returns the folder of what can be fetched or made again: ``~/.cache/quasar-rt``, or in ``XDG_CACHE_HOME``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "quasar-rt"


def file_name(text: str) -> str:
    """Turns the name of a space or a board into a part of a file's name: no folder, and at most 100 bytes.

    >>> file_name("../../my space")
    '.._.._my_space'
    """
    return re.sub(r"[^\w.-]", "_", text).encode()[:100].decode(errors="ignore")


def refused(what: str, error: OSError, afterwards: str = "") -> FileError:
    """Returns an error that names what the operating system refused and why, and has its `errno`.

    Args:
        what: what cannot be done.
        error: the reason.
        afterwards: what the user can do when the reason is gone.
    """
    # Without the path in `error`: it may be that of a temporary file.
    text = f"{what}: {reason(error)}"
    if afterwards:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        text += f"; {'free some space' if full else 'remove the cause'}: {afterwards}"
    failure = (MissingFileError if isinstance(error, FileNotFoundError) else FileError)(text)
    failure.errno = error.errno
    return failure


@contextmanager
def replacing(path: Path, afterwards: str = "") -> Iterator[BinaryIO]:
    """Gives a file that gets the name `path` at the end, synced to disk: no reader sees half of it.

    It is a temporary file in the same folder until then. On failure the old file is unchanged, and the temporary file
    is removed. A file that is there is replaced by the rule of this module, and its mode is kept; a new one's follows
    the process's umask.

    Args:
        path: the file.
        afterwards: ends the message of an error, as in `refused`.

    Raises:
        quasar_rt.FileError: it cannot be written, or `path` is a link, no regular file, or not this package's.
    """
    temporary = None
    try:
        mode = _mode(path)
        # The process's number: `quasar_rt.train.checkpoint` removes what killed processes have left.
        stem = os.fsdecode(os.fsencode(path.name)[:200])
        name = path.parent / f".{stem}.{os.urandom(4).hex()}.{os.getpid()}.tmp"
        with open(name, "xb") as file:
            temporary = name
            if mode is not None:
                os.chmod(temporary, mode)
            yield file
            file.flush()
            os.fsync(file.fileno())
        if mode is None:
            _place(temporary, path)
        else:
            _check_kind(path, kind_of(temporary))
            os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and not isinstance(error, FileError):
            raise refused(f"'{path}' cannot be written", error, afterwards) from error
        raise
    # The rename is durable once the folder is synced. If the folder cannot be synced, the file is whole anyway.
    with suppress(OSError):
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _mode(path: Path) -> int | None:
    """Returns the mode of a regular file, or None if there is nothing. Anything else is an OSError."""
    try:
        found = path.lstat().st_mode
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise OSError(str(error)) from error
    if stat.S_ISLNK(found):
        raise OSError("it is a symbolic link, and no link is followed: name the file itself")
    if not stat.S_ISREG(found):
        raise OSError("it exists and is not a regular file")
    return stat.S_IMODE(found)


def _place(temporary: Path, path: Path) -> None:
    """Renames a file, but never over another one that has come in the meantime."""
    try:
        os.link(temporary, path)
        temporary.unlink()
    except OSError:  # such as that of a file system without hard links
        if os.path.lexists(path):
            raise
        os.replace(temporary, path)


def kind_of(path: Path) -> str | None:
    """Returns the kind of a file of this package, or None if nothing shows that it is one."""
    with path.open("rb") as file:
        head = file.read(_BEGINNING_BYTES)
    return next((kind for kind, begins in _BEGINNINGS.items() if re.match(begins, head, re.DOTALL)), None)


def _check_kind(path: Path, kind: str | None) -> None:
    """Raises an OSError for a file that is neither empty nor of this kind."""
    if path.stat().st_size and (kind is None or kind_of(path) != kind):
        wanted = f"{kind or 'file'} that quasar-rt wrote"
        raise OSError(f"it exists and is no {wanted}: remove it, or give another name")


def write_text(path: Path, text: str) -> None:
    """Writes a file as UTF-8, whole or not at all; its errors are those of `replacing`."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Writes bytes as `write_text` writes a text."""
    with replacing(path) as file:
        file.write(data)


def make_folder(path: Path, check_only: bool = False) -> None:
    """Makes a folder if it is missing, and checks that files can be written there.

    Args:
        path: the folder.
        check_only: True leaves a missing folder missing, and checks the one in which it would be made.

    Raises:
        quasar_rt.FileError: they cannot.
    """
    import tempfile

    try:
        if not check_only:
            path.mkdir(parents=True, exist_ok=True)
        existing = next(one for one in (path, *path.absolute().parents) if one.exists())
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        raise refused(f"nothing can be written to the folder '{path}'", error) from error


def check_writable(path: Path, kind: str) -> None:
    """Checks that a file can be written, before the work whose result it takes.

    Args:
        path: the file.
        kind: the kind of file that it becomes, and may be now; a key of `_BEGINNINGS`.

    Raises:
        quasar_rt.FileError: there is no such folder, nothing can be written to it, or `replacing` refuses the file.
    """
    try:
        if path.is_dir():
            raise OSError("it is a folder; name a file")
        if not path.parent.is_dir():
            raise OSError(f"there is no folder {path.parent}")
        if not os.access(path.parent, os.W_OK):
            raise OSError(f"the folder {path.parent} is not writable")
        if _mode(path) is not None:
            _check_kind(path, kind)
    except OSError as error:
        raise refused(f"'{path}' cannot be written", error) from error


def check_folder(folder: Path, kinds: Mapping[str, str]) -> None:
    """Checks that files can be written to a folder, which may be missing; `kinds` has them by name (`check_writable`).

    Raises:
        quasar_rt.FileError: they cannot.
    """
    make_folder(folder, check_only=True)
    for name, kind in kinds.items():
        if os.path.lexists(folder / name):
            check_writable(folder / name, kind)


def check_apart(folder: Path, inputs: Iterable[str | os.PathLike[str]]) -> None:
    """Refuses a folder for results that is an input or holds one, at any depth: the next run would read the results.

    Raises:
        quasar_rt.InvalidValueError: it is or does.
    """
    real = cache(os.path.realpath)
    for one in map(os.path.abspath, inputs):
        parent, name = os.path.split(one)
        places = [Path(real(parent), name), *([Path(real(one))] if os.path.islink(one) else [])]
        if any(place.is_relative_to(real(folder)) for place in places):
            raise InvalidValueError(
                f"the folder '{folder}' is or holds the input '{one}': give the results a folder of their own"
            )


def reason(error: Exception) -> str:
    """Returns an error's message, for the operating system's errors without their number and path."""
    return getattr(error, "strerror", None) or str(error)


def read_small_text(path: str | os.PathLike[str], encoding: str = "utf-8") -> str:
    """Reads a text file that a user names: a regular file of at most `MOST_TEXT_BYTES`. Does not wait for a pipe.

    Raises:
        OSError: it cannot be read, is not a regular file or is larger; `strerror` has the reason.
        ValueError: it is not text in this encoding, or no file can have such a name.
    """
    with open_regular(path) as file:
        data = file.read(MOST_TEXT_BYTES + 1)
    if len(data) > MOST_TEXT_BYTES:
        raise OSError(errno.EFBIG, f"it is larger than {MOST_TEXT_BYTES:,} bytes")
    return data.decode(encoding)


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Opens a regular file to read bytes. Does not wait for a pipe, and takes no device.

    Raises:
        OSError: it cannot be opened, or is not a regular file; `strerror` has the reason.
        ValueError: no file can have such a name.
    """
    return open(path, "rb", opener=_regular)


def _regular(path: str, flags: int) -> int:
    # Windows has no such flag, and no pipes among its files.
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):  # `open` refuses directories
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "it is not a regular file")


def is_url(path: Path) -> bool:
    """Returns whether a path was meant as a URL; `Path` makes one slash of two.

    >>> is_url(Path("https://example.com/cat.jpg")), is_url(Path("photos/cat.jpg"))
    (True, False)
    """
    return re.match(r"(https?|ftp|s3|gs|rtsp|file|data):", str(path), re.IGNORECASE) is not None


def why_unreadable(path: Path) -> str | None:
    """Returns why a path names no file that can be read, such as "does not exist"; None if it does.

    Opens nothing, because a pipe would be waited for.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "is a URL: download it, and give the file" if is_url(path) else "does not exist"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    except UnicodeEncodeError:
        return "is no path (it is not UTF-8)"
    except ValueError:
        return "is no path (it has a null byte)"
    if stat.S_ISDIR(mode):
        return "is a directory, not a file"
    if not stat.S_ISREG(mode):
        return "is not a regular file"
    return None if os.access(path, os.R_OK) else "cannot be read (permission denied)"
