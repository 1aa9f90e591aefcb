"""The folder of a search: its identity, and its scores so far.

A search is deterministic, so its scores are its only state: after a kill, the next start goes through the same steps
and finds the scores here. `search.json` has everything that the search depends on; the folder refuses another
search. `scores.jsonl` has a line for each scored genome. Depends on `quasar_rt.errors` and `quasar_rt.files`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

from ..errors import FileError, QuasarError
from ..files import read_small_text, refused, write_text

__all__ = ["Folder", "SearchFolderError"]


class SearchFolderError(QuasarError, ValueError):
    """The folder belongs to another search."""


class Folder:
    """Holds the scores of one search, in memory and, where there is a path, on disk.

    Args:
        path: the folder, which is made if it is missing. None keeps everything in memory.
        identity: everything that the search's result depends on, as JSON.
        others: folders of other searches with the same source of scores; what they hold counts here, too. More may be
            added to the list later.

    Raises:
        SearchFolderError: the folder belongs to another search (the message names the differences), or one of its
            files is a link.
        quasar_rt.FileError: the folder cannot be made or read.
    """

    def __init__(self, path: Path | None, identity: Mapping[str, Any], others: Sequence[Folder] = ()) -> None:
        self.path = path
        self._others = others
        self._scores: dict[tuple[str, bytes], int] = {}
        self._file: FileIO | None = None
        if path is None:
            return
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._claim(path, json.loads(json.dumps(identity)))
            self._read(path / "scores.jsonl")
        except FileError:
            raise
        except OSError as error:
            raise refused(f"the search's folder '{path}' cannot be used", error) from error

    @staticmethod
    def _claim(path: Path, identity: dict[str, Any]) -> None:
        file = path / "search.json"
        for one in (file, path / "scores.jsonl"):
            if one.is_symlink():
                raise SearchFolderError(
                    f"'{one}' is a symbolic link, and no link is followed; give another folder"
                )
        if not file.exists():
            # Other files would be mixed with the results of this search.
            if any(path.iterdir()):
                raise SearchFolderError(
                    f"'{path}' holds other files and no search; give a new or an empty folder"
                )
            write_text(file, json.dumps(identity, indent=2) + "\n")
            return
        try:
            found = json.loads(read_small_text(file))
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise SearchFolderError(f"'{file}' is damaged; remove the folder or give another one")
        if found != identity:
            keys = [key for key in {**found, **identity} if found.get(key) != identity.get(key)]
            differ = "; ".join(
                f"{key}: {_short(found.get(key))} there, {_short(identity.get(key))} now" for key in keys
            )
            raise SearchFolderError(
                f"'{path}' holds another search ({differ}); give another folder, or remove that one"
            )

    def _read(self, file: Path) -> None:
        if not file.exists():
            return
        data = file.read_bytes()
        # A kill can leave the last line incomplete.
        whole = data[: data.rfind(b"\n") + 1]
        if whole != data:
            os.truncate(file, len(whole))
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                kind, genome, correct = json.loads(line)
                if type(kind) is not str or type(correct) is not int or correct < 0:
                    raise ValueError("no count")
                self._scores[kind, bytes.fromhex(genome)] = correct
            except (TypeError, ValueError, RecursionError):
                raise SearchFolderError(
                    f"'{file}', line {number}, is damaged; remove the line or the folder"
                ) from None

    def get(self, kind: str, genome: bytes, images: int) -> int | None:
        """Returns the number of `images` that this subnet classified rightly in the scoring `kind`; None if unknown.

        Raises:
            SearchFolderError: the recorded number is above `images`.
        """
        correct = self._scores.get((kind, genome))
        if correct is None:
            # A search that is continued alone finds the score in its own folder.
            found = (folder._scores.get((kind, genome)) for folder in self._others)
            correct = next((one for one in found if one is not None), None)
            if correct is not None:
                self.put(kind, {genome: correct})
        if correct is not None and correct > images:
            raise SearchFolderError(
                f"'{self.path}/scores.jsonl' records {correct:,} of {images:,} images as right for the subnet "
                f"{genome.hex()} ({kind!r}); remove that line or the folder"
            )
        return correct

    def put(self, kind: str, scores: Mapping[bytes, int]) -> None:
        """Keeps scores; they are on disk when this returns.

        Raises:
            quasar_rt.FileError: they cannot be written; the file is as it was.
        """
        for genome, correct in scores.items():
            self._scores[kind, genome] = correct
        if self.path is None:
            return
        lines = "".join(
            json.dumps([kind, genome.hex(), correct]) + "\n" for genome, correct in scores.items()
        )
        file = self.path / "scores.jsonl"
        size = None
        try:
            if self._file is None:
                self._file = file.open("ab", buffering=0)
            size = os.fstat(self._file.fileno()).st_size
            left = memoryview(lines.encode())
            while left:
                left = left[self._file.write(left) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            # Part of a line would spoil the next one.
            if size is not None:
                with suppress(OSError):
                    os.truncate(file, size)
            self.close()
            what = f"'{file}' cannot be written"
            raise refused(what, error, "the same search continues from its last score") from error

    def close(self) -> None:
        """Closes the file of scores."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
