"""Files that are written whole or not at all, and their names. Depends on the standard library alone."""

from __future__ import annotations

import os
import re
from pathlib import Path

__all__ = ["check_writable", "file_name", "write_bytes", "write_text"]


def file_name(text: str) -> str:
    """Turns the name of a space or a board into a part of a file's name: no folder, and at most 100 bytes.

    >>> file_name("../../my space")
    '.._.._my_space'
    """
    return re.sub(r"[^\w.-]", "_", text).encode()[:100].decode(errors="ignore")


def write_text(path: Path, text: str) -> None:
    """Writes a file through a temporary file in its folder and a rename, so that no reader sees half of it."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Writes bytes as `write_text` writes a text."""
    import tempfile  # slow to import, and engines never write

    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


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
