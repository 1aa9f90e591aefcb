"""Published bitstreams: their list, and how one comes to a board. Depends on the standard library and `hardware`."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

from ..errors import DeviceUnavailableError, InvalidValueError
from ..files import make_folder, write_bytes

__all__ = ["bitstream", "board_name", "fetch"]

#: The folder of this file.
FOLDER = Path(__file__).parent
#: Boards with a published bitstream: ``{board: {"url": folder, "sha256": {file name: digest}}}``.
PUBLISHED = FOLDER / "published.json"
#: Endings of a bitstream's files: PYNQ reads the first two, the driver the third.
ENDINGS = (".bit", ".hwh", ".json")
#: Bytes that no file of a bitstream exceeds; that of the largest board has 27 MB.
LIMIT_BYTES = 64_000_000
SECONDS = 60


def board_name(board: str | None = None) -> str:
    """Returns the package's name of a board, such as ``"pynq-z2"``.

    >>> board_name("Pynq-Z2")
    'pynq-z2'

    Args:
        board: a board's name; if None, that of PYNQ's environment variable ``BOARD``.

    Raises:
        DeviceUnavailableError: `board` is None and ``BOARD`` is not set.
        InvalidValueError: the package knows no such board; the message names those that it knows.
    """
    from ..hardware import board_names

    if board is None:
        board = os.environ.get("BOARD", "")
        if not board:
            raise DeviceUnavailableError("BOARD is not set, as it is on PYNQ's images; name the board")
    known = {name.replace("-", ""): name for name in board_names()}
    plain = board.lower().replace("-", "").replace("_", "")
    if plain not in known:
        raise InvalidValueError(
            f"there is no board {board!r}; there are: {', '.join(sorted(known.values()))}"
        )
    return known[plain]


def bitstream(board: str | None = None, folder: str | os.PathLike[str] | None = None) -> Path:
    """Returns the board's bitstream that `fetch` put into `folder`.

    Raises:
        DeviceUnavailableError: there is none; the message states how to get one.
    """
    name = board_name(board)
    path = Path(folder or FOLDER) / name / f"{name}.bit"
    if not path.is_file():
        raise DeviceUnavailableError(
            f"there is no {path}: quasar_rt.overlays.fetch({name!r}) gets a published bitstream, "
            f"`make bitstream BOARD={name}` builds one"
        )
    return path


def fetch(board: str | None = None, folder: str | os.PathLike[str] | None = None) -> Path:
    """Downloads the published bitstream of a board and compares the SHA-256 of its files.

    Files that are there already with the right digest are not downloaded again, and others are not replaced. A file
    gets its name only when all of it is there and right.

    Args:
        board: a board's name; if None, that of PYNQ's environment variable ``BOARD``.
        folder: the folder for the board's sub-folder; this package's, where PYNQ looks, if None.

    Returns:
        The path of the ``.bit`` file, for `QuasarOverlay` or ``QUASAR_BITSTREAM``.

    Raises:
        DeviceUnavailableError: no bitstream is published for the board, it cannot be downloaded, the folder needs other
            rights, or a digest differs.
        InvalidValueError: the package knows no such board.
        FileError: a file cannot be written for another reason than missing rights.
    """
    name = board_name(board)
    published = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    if name not in published:
        others = ", ".join(sorted(published)) or "none for any board yet"
        raise DeviceUnavailableError(
            f"no bitstream is published for {name} (published: {others}); `make bitstream BOARD={name}` builds one "
            "with AMD's tools, see docs/building.md"
        )
    url, digests = published[name]["url"], published[name]["sha256"]
    target = Path(folder or FOLDER) / name
    try:
        make_folder(target)
        for file in (f"{name}{ending}" for ending in ENDINGS):
            _fetch(f"{url.rstrip('/')}/{file}", target / file, digests[file])
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM):
            raise
        raise DeviceUnavailableError(
            f"{target} cannot be written ({error}): run as root, or name another folder with folder="
        ) from error
    return target / f"{name}.bit"


def _fetch(url: str, path: Path, digest: str) -> None:
    if path.is_file() and path.stat().st_size:
        if hashlib.sha256(path.read_bytes()).hexdigest() == digest:
            return
        raise DeviceUnavailableError(f"{path} is not the published file: remove it, or name another folder")
    if urlsplit(url).scheme not in ("https", "file"):
        raise DeviceUnavailableError(f"{url} is not fetched: only https is")
    try:
        with urlopen(url, timeout=SECONDS) as answer:
            content = answer.read(LIMIT_BYTES + 1)
    except (URLError, TimeoutError, ConnectionError) as error:
        raise DeviceUnavailableError(f"{url} cannot be downloaded: {error}") from error
    if len(content) > LIMIT_BYTES:
        raise DeviceUnavailableError(f"{url} has more than {LIMIT_BYTES:,} bytes: it is no bitstream's file")
    found = hashlib.sha256(content).hexdigest()
    if found != digest:
        raise DeviceUnavailableError(
            f"{url} has the SHA-256 {found}, not {digest}: it is not the published file"
        )
    write_bytes(path, content)
