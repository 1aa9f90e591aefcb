"""Puts together what a search leaves: the selected subnets, front.json, and what the page shows.

Depends on `quasar_rt.nas`; imports no torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..subnet import Subnet
from .boards import Modelled, Parts
from .layers import untrained_subnet
from .notes import notes
from .nsga2 import Candidates
from .record import Record
from .report import Cloud, file_name
from .result import Point, Scoring, SearchResult, Target, reaching
from .scorer import Progress
from .settings import Settings

if TYPE_CHECKING:
    from .supernet import Supernet

__all__ = ["FORMAT", "Found", "build_result"]

#: Scored subnets that the page and the picture show, at most.
CLOUD_LIMIT = 4000
#: Subnets of the front that the page shows besides the selected ones, at most; front.json has all.
PAGE_LIMIT = 150
#: Of search.json and front.json.
FORMAT = 1


@dataclass(frozen=True)
class Found:
    """The findings of a search, and their origin."""

    settings: Settings
    scoring: Scoring
    """Of the front."""
    identity: Mapping[str, Any]
    """Everything that the result depends on: search.json."""
    record: Record
    boards: Mapping[str, Modelled]
    """By name, the searched one first."""
    scored: Candidates
    """Every scored network that fits."""
    front: list[Point]
    supernet: Supernet | None

    @property
    def modelled(self) -> Modelled:
        """The searched board."""
        return self.boards[self.settings.board]


def build_result(found: Found, progress: Progress) -> SearchResult:
    """Selects a subnet for each target, exports it, and describes the search."""
    s, space, board = found.settings, found.modelled.space, found.settings.board
    targets = []
    for number, fps in enumerate(s.fps, 1):
        point = reaching(found.front, board, fps)[0]
        name = f"{file_name(space.name)}-{file_name(board)}-{_shortest(fps)}fps"
        targets.append(Target(fps, point, f"{name}.qvit", _subnet(found, point, fps, name)))
        progress("exporting the subnets", number, len(s.fps))
    document = {
        "format": FORMAT,
        "quasar_rt": found.identity["quasar_rt"],
        "score": found.scoring._asdict(),
        "settings": dataclasses.asdict(s),
        "space": {"name": space.name, "sha256": space.sha256, "toml": space.to_toml()},
        "supernet_sha256": found.identity.get("supernet_sha256"),
        "boards": {name: one.to_dict() for name, one in found.boards.items()},
        "search": found.record.to_dict(),
        "targets": [{"fps": t.fps, "point": t.point.id, "file": t.file} for t in targets],
        "front": [point.to_dict(space, found.scoring) for point in found.front],
    }
    return SearchResult(
        board,
        space,
        found.scoring,
        tuple(found.front),
        tuple(targets),
        document,
        None,
        _cloud(found),
        _layers(found, targets, progress),
        notes(s, found.modelled, found.scoring, found.record),
    )


def _shortest(fps: float) -> str:
    """Formats a rate in few digits, but never two rates alike."""
    short = f"{fps:g}"
    return short if float(short) == fps else repr(fps)


def _subnet(found: Found, point: Point, fps: float, name: str) -> Subnet:
    """Exports the point's network, with the record of its search in the configuration."""
    modelled, seed = found.modelled, found.settings.seed
    search = {
        "board": modelled.board,
        "hardware": modelled.to_dict(),
        "target_fps": fps,
        "modelled": point.modelled[modelled.board]._asdict(),
        "genome": list(point.genome),
        "architecture": point.architecture.to_dict(),
        "score": point.score,
        "score_kind": found.scoring.label,
        "integer": None if point.integer is None else point.integer._asdict(),
        "seed": seed,
        "settings": dict(found.identity),
    }
    if found.supernet is None:
        return untrained_subnet(modelled.space, point.architecture, seed, name, {"search": search})
    search["images"] = found.record.to_dict()["images"]
    provenance = {"search": search, "recipe": found.supernet.recipe.as_dict()}
    return found.supernet.subnet(point.architecture, name, provenance)


def _evenly(count: int, limit: int) -> list[int]:
    """Returns `limit` of `count` indices (all where there are fewer), evenly, each once."""
    spread = np.linspace(0, count - 1, min(count, limit)).round().astype(int)
    return sorted(set(spread.tolist()))


def _cloud(found: Found) -> Cloud:
    """Returns scores and frame rates of all scored subnets, or of `CLOUD_LIMIT` in the order of scoring."""
    shown = _evenly(len(found.scored), CLOUD_LIMIT)
    genomes = np.ascontiguousarray(found.scored.genomes[shown])
    return {
        "score": [float(f"{score:.6g}") for score in found.scored.scores[shown]],
        "fps": {
            name: [float(f"{fps:.6g}") for fps in one.fps(genomes)] for name, one in found.boards.items()
        },
    }


def _layers(found: Found, targets: list[Target], progress: Progress) -> dict[str, Any]:
    """Returns the layers of the points that the page shows: the selected ones, and others evenly along the front."""
    even = _evenly(len(found.front), PAGE_LIMIT)
    shown = sorted({*even, *(target.point.id for target in targets)})
    parts = Parts()
    for number, i in enumerate(shown, 1):
        architecture = found.front[i].architecture
        parts.add(i, {name: board.estimate(architecture) for name, board in found.boards.items()})
        progress("reading layers", number, len(shown))
    return parts.to_dict()
