"""One network to train on its own, from a file: an architecture, or what a search found, with the record of the search.

Depends on: `quasar_rt.files`, `quasar_rt.space`, `quasar_rt.subnet`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import InvalidValueError
from ..files import read_small_text, refused
from ..space import Architecture
from ..subnet import Subnet

__all__ = ["LoadedArchitecture", "load_architecture", "search_line"]

#: Nesting of a search record, at most.
_DEPTH = 32


class LoadedArchitecture(NamedTuple):
    """A network, and where it comes from."""

    architecture: Architecture
    search: dict[str, Any] | None
    """The record of the search that found it (a subnet's ``provenance.search``), where the file has one."""
    embedding: bool = False
    """True if the file is a subnet that also gives the image's embedding."""


def load_architecture(path: str | os.PathLike[str]) -> LoadedArchitecture:
    """Reads one network of a space.

    Args:
        path: a subnet that a search wrote (``.qvit``); a JSON file of its ``provenance.search``, that is an object
            with the key ``architecture`` among others; or a JSON file of the architecture alone
            (`Architecture.to_dict`).

    Raises:
        quasar_rt.QuasarError: the file cannot be read, is damaged or is something else.
    """
    path = Path(path)
    record: Any
    what, embedding = "it", False
    if path.suffix == ".qvit":
        subnet = Subnet.load(path)
        what, embedding = "the search record", subnet.has_embedding
        record = subnet.config["provenance"].get("search")
        if record is None:
            raise InvalidValueError(
                f"'{path}' has no record of a search: give a subnet of `quasar-rt search`, or the architecture as JSON"
            )
    else:
        try:
            record = json.loads(read_small_text(path))
        except OSError as error:
            raise refused(f"the architecture '{path}' cannot be read", error) from None
        except (ValueError, RecursionError) as error:
            raise InvalidValueError(f"'{path}' is neither a subnet (.qvit) nor JSON: {error}") from None
        if isinstance(record, dict) and "architecture" not in record:
            return LoadedArchitecture(_architecture(path, record), None)
    if not isinstance(record, dict):
        raise InvalidValueError(f"'{path}': {what} is no JSON object")
    try:
        search_line(record)
        _check_plain(record)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InvalidValueError(
            f"'{path}': a search record has 'board', 'target_fps', 'modelled' with 'fps', 'settings' with 'space' and "
            f"'seed', and 'architecture': {type(error).__name__}: {error}"
        ) from None
    return LoadedArchitecture(_architecture(path, record.get("architecture")), record, embedding)


def _architecture(path: Path, table: Any) -> Architecture:
    if not isinstance(table, Mapping):
        raise InvalidValueError(f"'{path}': 'architecture' is no object")
    try:
        return Architecture.from_dict(table)
    except InvalidValueError as error:
        raise InvalidValueError(f"'{path}': {error}") from None


def _check_plain(value: Any, depth: int = 0) -> None:
    """Refuses what a subnet's provenance cannot hold, before a network is trained for it."""
    if depth > _DEPTH:
        raise ValueError(f"nested more than {_DEPTH} deep")
    if isinstance(value, Mapping):
        for key, item in value.items():
            _check_plain(key, depth + 1)
            _check_plain(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check_plain(item, depth + 1)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is no number of JSON")
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError("a whole number is beyond 64 bits")
    elif isinstance(value, str):
        value.encode()  # half a surrogate pair is no text


def search_line(record: Mapping[str, Any]) -> str:
    """Describes in words the search that found a network, from its record."""
    settings, fps, target = record["settings"], record["modelled"]["fps"], record["target_fps"]
    # Records of earlier versions have no other rate than the accelerator's.
    with_host = record.get("replayed_fps_with_host", fps)
    for key, value in (
        ("target_fps", target),
        ("modelled.fps", fps),
        ("replayed_fps_with_host", with_host),
    ):
        if type(value) not in (int, float) or not 0 < value < math.inf:
            raise ValueError(f"{key} is {value!r}, no positive number")
    words = {"board": record["board"], "settings.space": settings["space"]}
    for key, value in words.items():
        if not isinstance(value, str) or not value.isprintable() or set(value) & set("|`<>"):
            raise ValueError(f"{key} is {value!r}, no name")
    if type(settings["seed"]) is not int:
        raise ValueError(f"settings.seed is {settings['seed']!r}, no whole number")
    supernet = settings.get("supernet_sha256")
    by = (
        f"supernet `{supernet[:16]}...`"
        if isinstance(supernet, str) and supernet.isalnum()
        else "proxy score"
    )
    board = f"{with_host:,.1f} FPS with the processor, " if "replayed_fps_with_host" in record else ""
    return (
        f"search of the space `{settings['space']}` ({by}, seed {settings['seed']}) for {record['board']} at "
        f"{target:,.10g} FPS; modelled: {board}{fps:,.1f} FPS{' of the accelerator alone' if board else ''}"
    )
