"""Files that are written whole or not at all, their names, and why a file cannot be read.

Depends on the standard library and `quasar_rt.errors`.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from .errors import FileError, MissingFileError

__all__ = [
    "MOST_TEXT_BYTES",
    "check_writable",
    "file_name",
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
    """Gives a file that takes the place of `path` at the end, synced to disk: no reader sees half of it.

    It is a temporary file in the same folder until then. On failure the old file is unchanged, and the temporary file
    is removed. Symbolic links are followed. An existing file's mode is kept; a new one's follows the process's umask.

    Args:
        path: the file.
        afterwards: ends the message of an error, as in `refused`.

    Raises:
        quasar_rt.FileError: it cannot be written, or `path` is something other than a regular file.
    """
    temporary = None
    try:
        target = Path(os.path.realpath(path))
        mode = None
        with suppress(FileNotFoundError):
            found = target.stat().st_mode
            if not stat.S_ISREG(found):
                raise OSError("it exists and is not a regular file")
            mode = stat.S_IMODE(found)
        # The process's number: `quasar_rt.train.checkpoint` removes what killed processes have left.
        name = target.parent / f".{target.name}.{os.urandom(4).hex()}.{os.getpid()}.tmp"
        with open(name, "xb") as file:
            temporary = name
            if mode is not None:
                os.chmod(temporary, mode)
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and not isinstance(error, FileError):
            raise refused(f"'{path}' cannot be written", error, afterwards) from error
        raise
    # The rename is durable once the folder is synced. If the folder cannot be synced, the file is whole anyway.
    with suppress(OSError):
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


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


def check_writable(path: Path) -> None:
    """Checks that a file can be written, before the work whose result it takes.

    Raises:
        OSError: there is no such folder, or nothing can be written to it.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path} cannot be written: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f"{path} cannot be written: the folder {path.parent} is not writable")


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


def why_unreadable(path: Path) -> str | None:
    """Returns why a path names no file that can be read, such as "does not exist"; None if it does.

    Opens nothing, because a pipe would be waited for.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "does not exist"
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
