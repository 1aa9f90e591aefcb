"""Options that are declared once: a frozen dataclass of them gives a function its parameters and their documentation.

Depends on the standard library.
"""

from __future__ import annotations

import functools
import inspect
import os
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import Field, dataclass, field, fields
from typing import Any, Literal, ParamSpec, TypeAlias, TypeVar

__all__ = ["DATA", "About", "StrPath", "about", "described", "option", "takes"]

P = ParamSpec("P")
A = TypeVar("A")
R = TypeVar("R")
T = TypeVar("T")
StrPath: TypeAlias = str | os.PathLike[str]

#: The text of the option of a data set's place.
DATA = (
    "folder of the data set's files, where it is in none of the known places; for a recipe of images in files also "
    "WebDataset shards ([webdataset] extra) or a Hugging Face data set ([datasets] extra)."
)


@dataclass(frozen=True)
class About:
    """An option: what its field does not say."""

    text: str
    """Its documentation."""
    flag: str = ""
    """Its name on the command line, and that of its value: ``--seed N``; empty where the command has none."""
    help: str = ""
    """Its documentation on the command line, where that differs."""
    path: Literal["", "file", "folder"] = ""
    least: int = 0
    """The lowest of whole numbers."""
    choices: Sequence[str] = ()
    saved: str = ""
    """Its name in search.json and front.json; empty where the result depends on it otherwise, or not at all."""
    newer: bool = False
    """True if older files, and the names of older folders, do not have it. Newer ones leave it out, too, where it has
    the value that the older ones mean."""
    older: str = ""
    """That value, where it is not the default."""
    named: bool = True
    """True if the default folder of the results depends on it."""

    def recorded(self, value: object, default: object) -> bool:
        """Returns whether files and the names of folders have the option at this value."""
        return not (self.newer and value == (self.older or default))


def described(text: str, flag: str = "", **keywords: Any) -> Mapping[str, About]:
    """Returns the metadata of a field; `keywords` are those of `About`."""
    return {"about": About(text, flag, **keywords)}


def option(default: T, text: str, flag: str = "", **keywords: Any) -> T:
    """Returns a field with a default; `keywords` are those of `About`."""
    value: T = field(default=default, metadata=described(text, flag, **keywords))
    return value


def about(options: type[Any]) -> Iterator[tuple[Field[Any], About]]:
    """Yields the fields of a class of options."""
    for one in fields(options):
        yield one, one.metadata["about"]


def takes(options: Callable[P, A]) -> Callable[[Callable[[A], R]], Callable[P, R]]:
    """Gives a function the fields of a class of options as its parameters, and their texts to its docstring."""

    def decorate(function: Callable[[A], R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            return function(options(*args, **kwargs))

        assert isinstance(options, type)
        signature = inspect.signature(options)
        hints = {name: one.annotation for name, one in signature.parameters.items()}
        # Names that a module imports for type checkers alone stay text.
        with suppress(NameError):
            # `typing.get_type_hints` refuses `KW_ONLY` on Python 3.10.
            annotations = [inspect.get_annotations(kind, eval_str=True) for kind in options.__mro__]
            hints = {name: next(kinds[name] for kinds in annotations if name in kinds) for name in hints}
        returns = function.__annotations__["return"]
        call.__annotations__ = {**hints, "return": returns}
        vars(call)["__signature__"] = signature.replace(return_annotation=returns)
        texts = (
            textwrap.fill(
                f"{one.name}: {details.text}", 112, initial_indent=" " * 4, subsequent_indent=" " * 8
            )
            for one, details in about(options)
        )
        doc = inspect.getdoc(function) or ""
        section = re.search(r"^(Returns:|Raises:|>>>)", doc, re.MULTILINE)
        at = section.start() if section else len(doc)
        call.__doc__ = "\n".join([f"{doc[:at]}Args:", *texts, "", doc[at:]])
        return call

    return decorate
