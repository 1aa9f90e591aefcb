"""Searches one space for several boards in one run, and compares the boards.

Each board has its own search and its own folder. A network's score holds for all of them: it is computed once, and each
front is chosen from all networks that were scored for any board.

Depends on `quasar_rt.nas.run` and `quasar_rt.nas.report`.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DoesNotFitError, InfeasibleError, InvalidValueError
from ..files import check_folder, file_name, make_folder, write_text
from ..hardware import Board
from ..options import takes
from . import report
from .boards import resources_of
from .folder import Folder
from .options import BoardsOptions
from .result import SearchResult, Target
from .run import Run, opened

__all__ = ["BoardsResult", "search_boards"]

#: The version of the format of boards.json.
FORMAT = 1


@dataclass(frozen=True, repr=False)
class BoardsResult:
    """The results of a search for several boards; `document` is boards.json."""

    results: Mapping[str, SearchResult]
    """By the board's name, in the order of the call."""
    missed: Mapping[str, Mapping[float, str]]
    """The targets that a board does not reach, with the reason, by the board's name."""
    left_out: Mapping[str, str]
    """The boards that hold or reach nothing, with the reason."""
    document: Mapping[str, Any]
    folder: Path | None = None

    def __getitem__(self, board: str) -> SearchResult:
        """Returns the result for a board.

        Raises:
            quasar_rt.InvalidValueError: there is none; the message states why.
        """
        if board not in self.results:
            reason = self.left_out.get(board, f"searched were {', '.join(self.results)}")
            raise InvalidValueError(f"there is no result for the board '{board}': {reason}")
        return self.results[board]

    def __repr__(self) -> str:
        left_out = f", {len(self.left_out)} left out" if self.left_out else ""
        return f"<BoardsResult: {', '.join(map(repr, self.results.values()))}{left_out}>"

    def save(self, folder: str | os.PathLike[str]) -> BoardsResult:
        """Writes boards.json, boards.csv and index.html, each one whole or not at all; boards have their own folders.

        Raises:
            quasar_rt.FileError: something cannot be written.
        """
        path = Path(folder)
        make_folder(path)
        write_text(path / "boards.csv", _table(self.document))
        title = f"{self.document['space']['name']}: boards compared"
        write_text(path / "index.html", report.filled("boards.html", title, self.document))
        write_text(path / "boards.json", json.dumps(self.document, indent=1) + "\n")
        return dataclasses.replace(self, folder=path)


@takes(BoardsOptions)
def search_boards(options: BoardsOptions) -> BoardsResult:
    """Searches a space for the subnets that are best at each frame rate of several boards, and compares the boards.

    `out` gets the comparison (index.html, boards.json, boards.csv) and each board's search, in a folder of its name;
    `population` and `generations` count for each board. A target that a board does not reach is named in
    `BoardsResult.missed`, a board that holds no network or reaches no target in `BoardsResult.left_out`.

    Raises:
        quasar_rt.InfeasibleError: no board reaches any target; the message has each board's reason.
        quasar_rt.QuasarError, ImportError: as `quasar_rt.search`.

    >>> result = search_boards(["zcu102", "pynq-z2"], "digits", 18_000, population=20, generations=3)
    >>> sorted(result.results), result.left_out["pynq-z2"].startswith("no network of this space reaches 18000 FPS")
    (['zcu102'], True)
    """
    given = [(board, Board.load(board).name) for board in options.boards]
    names = [name for _, name in given]
    if not names or len(set(map(_folder_name, names))) < len(names):
        raise InvalidValueError(f"boards must be names, each once, not {names}")
    runs: list[Run] = []
    missed: dict[str, dict[float, str]] = {}
    left_out: dict[str, str] = {}
    with opened(options) as (space, supernet):
        for board, name in given:
            try:
                run = Run.of(space, supernet, options, board, name=name)
                missed[name] = run.drop_missed()
                runs.append(run)
            except (DoesNotFitError, InfeasibleError) as error:
                left_out[name] = str(error)
        if not runs:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
            raise InfeasibleError(f"no board can be searched for: {reasons}")
        results: dict[str, SearchResult] = {}
        folders: list[Folder] = []
        out = None if options.out is None else Path(options.out)
        if out is not None:
            kinds = {"index.html": "page", "boards.csv": "comparison of boards", "boards.json": "search"}
            check_folder(out, kinds)
        with ExitStack() as stack:
            for run in runs:
                stack.enter_context(run.started(out and out / _folder_name(run.settings.board), folders))
                folders.append(run.folder)
            for run in runs:
                results[run.settings.board] = run.finish([other.scored for other in runs if other is not run])
        writes = supernet is None or supernet.first
    result = BoardsResult(results, missed, left_out, _document(results, missed, left_out))
    return result.save(out) if out is not None and writes else result


def _folder_name(board: str) -> str:
    """Returns the name of a board's folder: a board's file may have any name in it."""
    return file_name(board).lstrip(".") or "board"


def _document(
    results: Mapping[str, SearchResult],
    missed: Mapping[str, Mapping[float, str]],
    left_out: Mapping[str, str],
) -> dict[str, Any]:
    first = next(iter(results.values()))
    return {
        "format": FORMAT,
        "quasar_rt": first.document["quasar_rt"],
        "score": first.document["score"],
        "space": first.document["space"],
        "settings": {k: v for k, v in first.document["settings"].items() if k not in ("board", "fps")},
        "supernet_sha256": first.document["supernet_sha256"],
        "boards": {
            name: {
                "folder": _folder_name(name),
                "label": result.document["boards"][name]["label"],
                "host_fps": result.document["boards"][name]["host_fps"],
                "scored": result.document["search"]["scored"],
                "targets": [_target(result, target) for target in result.targets],
                "missed": [{"fps": fps, "reason": reason} for fps, reason in missed[name].items()],
                "fronts": {
                    "fps": [
                        [point.modelled[name].rate(result.document["settings"]["fps_of"]), point.score]
                        for point in result.front
                    ],
                    **{
                        key: [[one["value"], one["score"]] for one in front]
                        for key, front in result.document["fronts"].items()
                    },
                },
            }
            for name, result in results.items()
        },
        "left_out": dict(left_out),
    }


def _target(result: SearchResult, target: Target) -> dict[str, Any]:
    integer = target.point.integer
    board = result.document["boards"][result.board]
    number = target.on.configuration
    chosen = {"hardware": board["hardware"], "resources": board["resources"]}
    if target.hardware is not None:
        chosen = {"hardware": target.hardware.settings, "resources": resources_of(target.hardware)}
    elif "configurations" in board:
        chosen = {key: board["configurations"][number][key] for key in chosen}
    return {
        "fps": target.fps,
        "replayed_fps": target.replayed_fps,
        "replayed_fps_with_host": target.replayed_fps_with_host,
        "score": target.point.score,
        "integer_top1": None if integer is None else integer.top1,
        "latency_ms": target.on.latency_ms,
        "energy_mj": target.on.energy_mj,
        "power_w": target.power_w,
        "file": target.file,
        "hardware_file": None if target.hardware is None else target.hardware_file,
        **chosen,
    }


def _table(document: Mapping[str, Any]) -> str:
    """Returns the text of boards.csv, a line for each target of each board."""
    rows = []
    for board, one in document["boards"].items():
        for target in one["targets"]:
            hardware = target["hardware"]
            array, lanes = hardware["array"], hardware["lanes"]
            rows.append(
                {
                    "board": board,
                    "target_fps": target["fps"],
                    "modelled_fps_event_by_event": target["replayed_fps"],
                    "modelled_fps_with_host_event_by_event": target["replayed_fps_with_host"],
                    document["score"]["column"]: target["score"],
                    "integer_top1": target["integer_top1"],
                    "modelled_latency_ms": target["latency_ms"],
                    "modelled_energy_mj": target["energy_mj"],
                    "modelled_power_at_target_w": target["power_w"],
                    "array": f"{array['tokens']}x{array['pairs']}x{array['cascade']}",
                    "lanes": f"{lanes['requantize']}/{lanes['norm']}/{lanes['exponential']}",
                    "clock_mhz": hardware["clock_mhz"],
                    "file": f"{one['folder']}/{target['file']}",
                }
            )
    return report.csv_text(rows)
