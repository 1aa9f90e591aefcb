"""The record of a search: what was scored on what, and how far the scores can be trusted. front.json has it as JSON.

Depends on the standard library.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Correlation", "Images", "Pair", "PredictorFit", "Record", "Round"]


@dataclass(frozen=True)
class Round:
    """One round of scoring."""

    score: str
    """The kind of the scores, in words."""
    subnets: int


@dataclass(frozen=True)
class PredictorFit:
    """The predictor's error on scores that its fit left out."""

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
    p_value: float | None
    confidence: float
    interval: str
    subnets: int
    finalists: int
    """Number of finalists among the subnets; the others are random."""
    pairs: list[Pair]


@dataclass
class Record:
    """The course of a search. Parts that a search lacks are None and are left out of the JSON."""

    scored: int
    rounds: list[Round]
    predictor: PredictorFit | None = None
    boards_left_out: dict[str, str] = field(default_factory=dict)
    """The reason by the board's name."""
    images: Images | None = None
    correlations: list[Correlation] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns the record as front.json has it."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value is not None}
