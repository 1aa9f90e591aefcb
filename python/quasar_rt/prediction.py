"""Stage 9 of a frame: the result for one picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Prediction", "Score", "Timings"]


@dataclass(frozen=True)
class Score:
    """One class and its probability."""

    label: str
    index: int
    probability: float


class Timings(NamedTuple):
    """Times of the parts of one frame, in milliseconds of wall clock."""

    decode_ms: float
    """Reading and decoding the file, or checking the array."""
    preprocess_ms: float
    """Colour, resize and crop; on an accelerator also the cut into patches."""
    compute_ms: float
    """The integer graph; on the CPU also the cut into patches."""

    @property
    def total_ms(self) -> float:
        """The sum of the three."""
        return self.decode_ms + self.preprocess_ms + self.compute_ms


@dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """The classes of one picture, most likely first."""

    top_k: list[Score]
    """The most likely classes in falling order, five by default; of equals the lower index is first."""
    logits: npt.NDArray[np.float32]
    """float32 [classes]: ``logit_scale * integer_logits``."""
    integer_logits: npt.NDArray[np.int32]
    """int32 [classes]: the integer model's result, the same bits on every device."""
    timings: Timings
    """Milliseconds by stage."""

    @property
    def label(self) -> str:
        """The name of the most likely class."""
        return self.top_k[0].label

    @property
    def index(self) -> int:
        """The index of the most likely class."""
        return self.top_k[0].index

    @property
    def probability(self) -> float:
        """The softmax probability of the most likely class, in [0, 1]."""
        return self.top_k[0].probability

    def __repr__(self) -> str:
        others = ", ".join(f"{score.label} {score.probability:.1%}" for score in self.top_k[1:3])
        then = f", then {others}" if others else ""
        return f"<Prediction {self.label!r} {self.probability:.1%}{then}; {self.timings.total_ms:.1f} ms>"

    def _repr_html_(self) -> str:
        import html

        rows = "".join(
            f"<tr><td>{html.escape(score.label)}</td><td>{score.probability:.1%}</td></tr>"
            for score in self.top_k
        )
        return (
            "<table><thead><tr><th>label</th><th>probability</th></tr></thead>"
            f"<tbody>{rows}</tbody></table><small>{self.timings.total_ms:.1f} ms</small>"
        )
