"""Assembles the results of a search: the selected subnets, front.json, and the contents of the page.

Depends on `quasar_rt.nas`; imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InfeasibleError, InvalidValueError
from ..files import file_name
from ..hardware import Rates, Workload
from ..subnet import Subnet
from .boards import Modelled, Parts, resources_of
from .configurations import configuration_for
from .layers import untrained_subnet
from .notes import notes
from .nsga2 import Candidates
from .record import Record
from .report import Cloud, nondominated
from .result import OnBoard, Point, Scoring, SearchResult, Target
from .scorer import Progress
from .settings import Settings

if TYPE_CHECKING:
    from .supernet import Supernet

__all__ = ["FORMAT", "SearchOutcome", "build_result"]

#: Scored subnets that the page and the picture show, at most.
CLOUD_LIMIT = 4000
#: Subnets of the front that the page shows in addition to the selected ones, at most; front.json has all.
PAGE_LIMIT = 150
#: The version of the formats of search.json and front.json.
FORMAT = 2


@dataclass(frozen=True)
class SearchOutcome:
    """The findings of a search and their origin."""

    settings: Settings
    scoring: Scoring
    """The kind of the front's scores."""
    identity: Mapping[str, Any]
    """Everything that the result depends on; the content of search.json."""
    record: Record
    boards: Mapping[str, Modelled]
    """The modelled boards by name, the searched board first."""
    scored: Candidates
    """Every scored network that fits, with the scores of the first round."""
    survivors: Candidates
    """Those that the last round scored, with its scores."""
    front: list[Point]
    supernet: Supernet | None

    @property
    def modelled(self) -> Modelled:
        """The searched board."""
        return self.boards[self.settings.board]


def build_result(outcome: SearchOutcome, progress: Progress) -> SearchResult:
    """Selects a subnet for each target, exports it, and describes the search."""
    s, space, board = outcome.settings, outcome.modelled.space, outcome.settings.board
    targets: list[Target] = []
    progress("choosing the subnets", 0, len(s.fps))
    for fps in s.fps:
        name = f"{file_name(space.name)}-{file_name(board)}-{_shortest(fps)}fps"
        targets.append(_target(outcome, fps, name))
        progress("choosing the subnets", len(targets), len(s.fps))
    document = {
        "format": FORMAT,
        "quasar_rt": outcome.identity["quasar_rt"],
        "score": outcome.scoring._asdict(),
        "settings": {**s.to_dict(), "fps_of": s.options.fps_of},
        "space": {"name": space.name, "sha256": space.sha256, "toml": space.to_toml()},
        "supernet_sha256": outcome.identity.get("supernet_sha256"),
        "boards": {name: one.to_dict() for name, one in outcome.boards.items()},
        "search": outcome.record.to_dict(),
        "targets": [
            {
                "fps": t.fps,
                "point": t.point.id,
                "file": t.file,
                "modelled_fps": t.on.closed_fps,
                "replayed_fps": t.replayed_fps,
                "replayed_fps_with_host": t.replayed_fps_with_host,
                "gap": t.gap,
                "power_w": t.power_w,
                "codes": _codes(t),
                **(_configuration(t) if s.options.explores else {}),
            }
            for t in targets
        ],
        "fronts": _fronts(outcome),
        "front": [point.to_dict(space, outcome.scoring) for point in outcome.front],
    }
    return SearchResult(
        board,
        space,
        outcome.scoring,
        tuple(outcome.front),
        tuple(targets),
        document,
        None,
        _cloud(outcome),
        _layers(outcome, targets, progress),
        (
            *notes(s, outcome.modelled, outcome.scoring, outcome.record),
            *filter(None, map(_rounding, targets)),
        ),
    )


def _codes(target: Target) -> dict[str, Any] | None:
    """Returns the record of the codes of a target's subnet (`Supernet.finalist`); None without a supernet."""
    codes: dict[str, Any] | None = target.subnet.config["provenance"].get("codes")
    return codes


def _rounding(target: Target) -> str:
    """Returns which codes a target's subnet has, where GPTQ was tried."""
    codes = _codes(target) or {}
    if "gptq_gain" not in codes:
        return ""
    gain = codes["gptq_gain"]
    return (
        f"The subnet for {target.fps:g} FPS has the codes: {codes['taken']}. With GPTQ's, top-1 on {codes['images']:,} "
        f"held-out validation images changes by {gain['value']:+.2%} (95 % interval {gain['low']:+.2%} to "
        f"{gain['high']:+.2%})."
    )


def _shortest(fps: float) -> str:
    """Formats a rate in few digits, but never two rates alike."""
    short = f"{fps:g}"
    return short if float(short) == fps else repr(fps)


def _target(outcome: SearchOutcome, fps: float, name: str) -> Target:
    """Selects the point with the best score that reaches a rate event by event, and exports it.

    The closed form, by which the search goes, is only an estimate of that. So the exported file is replayed. Where
    configurations are explored, it has the one on which its subnet takes the least
    power at that rate.

    Raises:
        quasar_rt.InfeasibleError: no point of the front reaches the rate.
        quasar_rt.InvalidValueError: the file does not have the rate of its point.
    """
    modelled, s = outcome.modelled, outcome.settings
    for point in modelled.holding(outcome.front, fps):
        one, on = modelled, point.modelled[modelled.board]
        if s.options.explores:
            one = configuration_for(modelled, point, fps, s.options)
            on = one.on(np.array([point.genome], np.uint8))[0]
        architecture = one.rates_of(Workload.of_architecture(one.space, point.architecture))
        subnet = _subnet(outcome, point, fps, name, architecture, one, on)
        # Sizes and rows of the file are those of the architecture, or the record would be wrong. Its pictures may be
        # smaller than those that the space's are assumed to be.
        of_file = one.rates_of(Subnet.from_bytes(subnet.to_bytes()))
        if of_file.accelerator_fps != architecture.accelerator_fps or of_file.of(s.options.fps_of) < fps:
            raise InvalidValueError(
                f"the subnet for {fps:g} FPS on {modelled.board} has event by event {of_file}, its architecture "
                f"{architecture}: this is a bug of the export"
            )
        return Target(
            fps,
            point,
            f"{name}.qvit",
            subnet,
            of_file.accelerator_fps,
            of_file.fps,
            on,
            one.hardware if s.options.explores else None,
            one.power_w(on, fps),
        )
    raise InfeasibleError(
        f"no subnet that the search found for {fps:g} FPS on {modelled.board} has that rate event by event "
        f"(the fastest has {modelled.rate(outcome.front[0]):,.1f}): ask for less, or search with a larger population"
    )


def _configuration(target: Target) -> dict[str, Any]:
    """Returns a target's configuration and its subnet's figures there, as front.json has them."""
    assert target.hardware is not None
    return {
        "hardware_file": target.hardware_file,
        "hardware": target.hardware.settings,
        "resources": resources_of(target.hardware),
        "latency_ms": target.on.latency_ms,
        "energy_mj": target.on.energy_mj,
    }


def _subnet(
    outcome: SearchOutcome,
    point: Point,
    fps: float,
    name: str,
    replayed: Rates,
    modelled: Modelled,
    on: OnBoard,
) -> Subnet:
    """Exports the point's network, with the record of its search in the configuration."""
    seed = outcome.settings.options.seed
    search = {
        "board": modelled.board,
        "hardware": modelled.to_dict(),
        "target_fps": fps,
        "fps_of": modelled.fps_of,
        "modelled": on._asdict(),
        "replayed_fps": replayed.accelerator_fps,
        "replayed_fps_with_host": replayed.fps,
        "gap": replayed.accelerator_fps / on.closed_fps - 1,
        "genome": list(point.genome),
        "architecture": point.architecture.to_dict(),
        "score": point.score,
        "score_kind": outcome.scoring.label,
        "integer": None if point.integer is None else point.integer._asdict(),
        "seed": seed,
        "settings": dict(outcome.identity),
    }
    if outcome.supernet is None:
        return untrained_subnet(modelled.space, point.architecture, seed, name, {"search": search})
    search["images"] = outcome.record.to_dict()["images"]
    provenance = {"search": search, "recipe": outcome.supernet.recipe.as_dict()}
    return outcome.supernet.finalist(point.architecture, name, provenance)


def _fronts(outcome: SearchOutcome) -> dict[str, list[dict[str, Any]]]:
    """Returns the networks that none of the last round beats in the score and in the latency, or in a frame's energy.

    By rising value; each network on the configuration that has least of it, by the closed form.
    """
    genomes, scores = outcome.survivors.genomes, outcome.survivors.scores
    fronts = {}
    for name, values in zip(("latency_ms", "energy_mj"), outcome.modelled.least(genomes), strict=True):
        order = nondominated(list(zip((-values).tolist(), scores.tolist(), strict=True)))
        fronts[name] = [
            {"value": float(values[i]), "score": float(scores[i]), "genome": genomes[i].tolist()}
            for i in order
            if np.isfinite(values[i])
        ]
    return fronts


def _evenly(count: int, limit: int) -> list[int]:
    """Returns `limit` of `count` indices (all where there are fewer), evenly, each once."""
    spread = np.linspace(0, count - 1, min(count, limit)).round().astype(int)
    return sorted(set(spread.tolist()))


def _cloud(outcome: SearchOutcome) -> Cloud:
    """Returns scores and frame rates of all scored subnets, or of `CLOUD_LIMIT` in the order of scoring."""
    shown = _evenly(len(outcome.scored), CLOUD_LIMIT)
    genomes = np.ascontiguousarray(outcome.scored.genomes[shown])
    return {
        "score": [float(f"{score:.6g}") for score in outcome.scored.scores[shown]],
        "fps": {
            name: [float(f"{fps:.6g}") for fps in one.closed(genomes)] for name, one in outcome.boards.items()
        },
    }


def _layers(outcome: SearchOutcome, targets: list[Target], progress: Progress) -> dict[str, Any]:
    """Returns the layers of the points that the page shows: the selected ones, and others evenly along the front."""
    even = _evenly(len(outcome.front), PAGE_LIMIT)
    shown = sorted({*even, *(target.point.id for target in targets)})
    parts = Parts()
    for number, i in enumerate(shown, 1):
        point = outcome.front[i]
        on = {name: (board, point.modelled[name].configuration) for name, board in outcome.boards.items()}
        parts.add(
            i, {name: board.estimate(point.architecture, number) for name, (board, number) in on.items()}
        )
        progress("reading layers", number, len(shown))
    return parts.to_dict()
