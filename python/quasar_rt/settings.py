"""Base classes of objects that wrap the native module's, with or without a TOML file of settings.

Depends on `arguments`, `errors` and `files`.
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from .arguments import did_you_mean, shown
from .errors import FileError, MissingFileError, SettingsError, TooLargeError
from .files import read_small_text, reason

__all__ = ["NativeObject", "SettingsFile", "read_text", "shipped_files"]


class _HasSettings(Protocol):
    def to_toml(self) -> str: ...
    def to_json(self) -> str: ...


Inner = TypeVar("Inner")
InnerSettings = TypeVar("InnerSettings", bound=_HasSettings)
Wrapper = TypeVar("Wrapper", bound="NativeObject[Any]")
File = TypeVar("File", bound="SettingsFile[Any]")


class NativeObject(Generic[Inner]):
    """Wraps an immutable object of the native module. Class methods make instances; the constructor refuses."""

    __slots__ = ("_inner",)

    _inner: Inner
    _made_by: ClassVar[str]

    def __init__(self) -> None:
        raise TypeError(f"use {self._made_by}")

    @classmethod
    def _wrap(cls: type[Wrapper], inner: Any) -> Wrapper:
        wrapper = object.__new__(cls)
        wrapper._inner = inner
        return wrapper


class SettingsFile(NativeObject[InnerSettings], ABC):
    """Wraps settings that have a TOML file. Some files ship with the package and are loaded by their names."""

    _kind: ClassVar[str]
    """Kind of settings. The files that ship are in the package's folder ``KINDs``."""

    @classmethod
    def load(cls: type[File], source: str | os.PathLike[str]) -> File:
        """Reads a file that ships, by its name, or any other TOML file, by its path.

        Raises:
            quasar_rt.FileError: there is no such file; the message lists the names that ship.
            quasar_rt.SettingsError: a key is missing, unknown or out of its range.
        """
        shipped = shipped_files(f"{cls._kind}s")
        name = str(source)
        path = shipped.get(name, Path(source))
        hint = f"shipped {cls._kind}s: {', '.join(shipped)}"
        if path.suffix != ".toml" and not os.path.exists(path):
            raise MissingFileError(
                f"there is no {cls._kind} {shown(name)}{did_you_mean(name, shipped)} ({hint}; or a TOML file)"
            )
        text = read_text(path, f"the {cls._kind} {shown(name)}", hint)
        with cls._naming(source):
            return cls.from_toml(text)

    @staticmethod
    @contextmanager
    def _naming(source: str | os.PathLike[str]) -> Iterator[None]:
        """Puts `source` in front of an error's message."""
        try:
            yield
        except (SettingsError, TooLargeError) as error:
            raise type(error)(f"{shown(str(source))}: {error}") from None

    @classmethod
    @abstractmethod
    def from_toml(cls: type[File], text: str) -> File:
        """Reads the text of a file. Raises like `load`."""

    def to_toml(self) -> str:
        """Returns the settings as TOML without comments, which `from_toml` reads."""
        return self._inner.to_toml()

    @property
    def settings(self) -> dict[str, Any]:
        """The file's keys and values, a fresh copy."""
        settings: dict[str, Any] = json.loads(self._inner.to_json())
        return settings

    def __eq__(self, other: object) -> bool:
        return self.to_toml() == other.to_toml() if isinstance(other, type(self)) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.to_toml())

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_toml, (self.to_toml(),)


def shipped_files(folder: str) -> dict[str, Path]:
    """Returns the TOML files of a folder of the package by their names, sorted."""
    return {path.stem: path for path in sorted((Path(__file__).parent / folder).glob("*.toml"))}


def read_text(path: Path, what: str, hint: str) -> str:
    """Reads a UTF-8 file as `read_small_text` does. A `quasar_rt.FileError` names `what` and ends with `hint`."""
    try:
        return read_small_text(path)
    except (OSError, ValueError) as error:
        kind = MissingFileError if isinstance(error, FileNotFoundError) else FileError
        raise kind(f"{what} cannot be read ({reason(error)}); {hint}") from None
