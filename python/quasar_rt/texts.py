"""Many texts in little memory. Depends on the standard library."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import overload

__all__ = ["Texts"]


class Texts(Sequence[str]):
    """Texts in one piece of memory: their bytes, and where each of them ends.

    An object for each of a million texts takes several times as much. A worker process that forks from this one would
    also copy the memory of every object that it looks at, for its count of references.
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._bytes = bytearray()
        self._ends = array("q", [0])
        for text in texts:
            self.append(text)

    def append(self, text: str) -> None:
        """Adds a text at the end. It may be a file's name that is not UTF-8, as Python has it."""
        self._bytes += text.encode("utf-8", "surrogateescape")
        self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        i = range(len(self))[index]
        return self._bytes[self._ends[i] : self._ends[i + 1]].decode("utf-8", "surrogateescape")
