"""Checks of arguments that several modules take. An error names the argument, its value and what is allowed.

Depends on `errors` alone.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable
from numbers import Real
from threading import TIMEOUT_MAX
from typing import Any

from .errors import InvalidValueError

__all__ = ["as_count", "as_seconds", "check_name", "did_you_mean", "is_utf8", "shown", "type_name"]

#: Characters of a value in a message, at most.
_MOST_SHOWN = 200


def shown(value: object) -> str:
    """Returns a value's representation for a message: one line of bounded length."""
    try:
        text = repr(value).replace("\n", " ")
    except Exception:  # such as that of an enormous integer
        return f"of class {type(value).__qualname__}"
    half = _MOST_SHOWN // 2
    return text if len(text) <= _MOST_SHOWN else f"{text[:half]}...{text[-half:]}"


def as_count(argument: str, value: Any, *, most: int | None = None, without: str | None = None) -> int:
    """Returns the value of an argument that is a whole number from 1 on; raises `InvalidValueError` otherwise.

    Args:
        argument: its name.
        value: its value.
        most: the largest value; without a limit if None.
        without: what None means, for the message, where None is allowed.
    """
    try:
        count = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        count = 0
    if count < 1 or (most is not None and count > most):
        limits = "at least 1" if most is None else f"from 1 to {most}"
        none = "" if without is None else f" (or None for {without})"
        raise InvalidValueError(f"{argument} is {shown(value)}; it must be a whole number, {limits}{none}")
    return count


def as_seconds(argument: str, value: Any, *, zero: bool, without: str) -> float | None:
    """Returns the value of an argument that is a number of seconds or None; raises `InvalidValueError` otherwise.

    Args:
        argument: its name.
        value: its value.
        zero: true to allow 0.
        without: what None means, for the message.
    """
    if value is None:
        return None
    if isinstance(value, Real):
        number: Any = value  # the type has no comparison
        if (number >= 0 if zero else number > 0) and number <= TIMEOUT_MAX:
            return float(number)
    least = "from 0" if zero else "above 0"
    raise InvalidValueError(
        f"{argument} is {shown(value)}; it must be a number of seconds {least} up to {TIMEOUT_MAX:.0f} "
        f"(or None for {without})"
    )


def check_name(argument: str, value: object, names: str, without: str) -> None:
    """Raises `InvalidValueError` if an argument is neither None nor a text that can be a name.

    Args:
        argument: its name.
        value: its value.
        names: the texts that are allowed, for the message.
        without: what None means, for the message.
    """
    if value is None:
        return
    # What comes from the environment or the command line may be no UTF-8; Python then has surrogates.
    if not isinstance(value, str) or not value or not is_utf8(value):
        raise InvalidValueError(f"{argument} is {shown(value)}; it must be {names} (or None for {without})")


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Returns a question that names the nearest of some names, or "" if none is near; it continues a message.

    >>> did_you_mean("KV260", ["kv260", "zcu102"]), did_you_mean("sofa", ["kv260", "zcu102"])
    ("; did you mean 'kv260'?", '')
    """
    from difflib import get_close_matches

    plain: dict[str, str] = {}
    for known in names:
        plain.setdefault(re.sub(r"[\W_]", "", known).lower(), known)
    found = get_close_matches(re.sub(r"[\W_]", "", name[:_MOST_SHOWN]).lower(), plain, 1)
    return f"; did you mean '{plain[found[0]]}'?" if found else ""


def is_utf8(text: str) -> bool:
    """Returns true if a text can be encoded, which surrogates cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def type_name(value: object) -> str:
    """Returns the name of a value's class with an article, for a message."""
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
