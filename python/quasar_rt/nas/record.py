"""The record of a search: what was scored on what, and how far the scores can be trusted. front.json has it as JSON.

Depends on the standard library.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Correlation", "Images", "Pair", "PredictorFit", "Record", "Round", "Yardstick"]


@dataclass(frozen=True)
class Round:
    """One round of scoring."""

    score: str
    """The kind of the scores, in words."""
    subnets: int


@dataclass(frozen=True)
class PredictorFit:
    """The error of the model that guided the search, on scores that its fit had not seen."""

    tau_b: float | None
    rmse: float | None
    samples: int
    validation: str


@dataclass(frozen=True)
class Images:
    """The images of each part of a search, in words."""

    data: str
    calibration: str
    search: str
    finalists: str
    test_images_read: bool


@dataclass(frozen=True)
class Pair:
    """One network's score by the supernet and on its own."""

    genome: list[int]
    supernet: float
    stand_alone: float


@dataclass(frozen=True)
class Correlation:
    """Kendall's tau-b between the supernet's scores and others of the same networks; None where it is not defined."""

    against: str
    """The other scores, in words."""
    images: str
    tau_b: float | None
    low: float | None
    high: float | None
    confidence: float
    interval: str
    subnets: int
    finalists: int
    """Number of finalists among the subnets; the others are random."""
    pairs: list[Pair]


@dataclass(frozen=True)
class Yardstick:
    """The area that the front dominates, next to the area of the best front; above the reference, (rate, score).

    The rate is in the unit of the objective (`quasar_rt.nas.objectives.Objective`), a frame rate that of the
    accelerator by the closed form.
    """

    kind: str
    """What the best front is: ``exact``, a ``bound`` that no network exceeds, or of a ``model`` of the scores."""
    reference: tuple[float, float]
    """The lowest modelled rate of any network, and the lowest score."""
    hypervolume: float
    """Of the scored networks, by the scores of the first round."""
    best: float
    """Of the best front."""
    share: float
    """`hypervolume` over `best`."""
    low: float | None
    """The same share if the model's scores were all too low by its root mean squared error; None without a model."""
    subnets: int
    """Networks of the best front."""
    front: list[tuple[float, float]]
    """(rate, score) of some of them, evenly along the front; a frame rate is of the reading of the targets."""


@dataclass
class Record:
    """The course of a search. Parts that a search lacks are None and are left out of the JSON."""

    scored: int
    rounds: list[Round]
    predictor: PredictorFit | None = None
    yardstick: Yardstick | None = None
    no_yardstick: str | None = None
    """The reason where there is no yardstick."""
    objectives: dict[str, Yardstick] | None = None
    """By the objective besides frames a second."""
    no_objectives: dict[str, str] | None = None
    """The reason where there is no yardstick of an objective."""
    boards_left_out: dict[str, str] = field(default_factory=dict)
    """The reason by the board's name."""
    images: Images | None = None
    correlations: list[Correlation] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns the record as front.json has it."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value is not None}
