"""Stage 9 of a frame: the result for one picture, and the results for a batch. Depends on NumPy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsIndex, overload

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Prediction", "Predictions", "Score", "Timings"]


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
    """The classes of one picture, most likely first.

    Two predictions are equal if they list the same classes in the same order and have the same logits. Their timings do
    not count, so the same picture gives equal predictions on every device. Equal predictions have equal hashes; do not
    write to the arrays of a prediction that is in a set or is a key.

    Example:
        >>> import json, quasar_rt
        >>> from quasar_rt.packaged import sample_images
        >>> boot = sample_images("fashion-mnist")[0].path
        >>> with quasar_rt.Engine("fashion-mnist") as engine:
        ...     prediction = engine.infer(boot, top_k=1)
        ...     print(prediction == engine.infer(boot, top_k=1), json.dumps(prediction.to_dict()))
        True {"label": "Ankle boot", "index": 9, "probability": ..., "top_k": [...], "timings": {"decode_ms": ...}}
    """

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

    def to_dict(self, *, logits: bool = False) -> dict[str, Any]:
        """Returns the prediction as plain values, which `json.dumps` takes; ``quasar-rt infer --json`` prints them.

        Args:
            logits: true to include ``logits`` (floats) and ``integer_logits`` (whole numbers), a value for each class.

        Returns:
            ``label``, ``index`` and ``probability`` of the most likely class; ``top_k``, a list with these three of
            each listed class; ``timings`` in milliseconds.
        """
        values: dict[str, Any] = {
            "label": self.label,
            "index": self.index,
            "probability": self.probability,
            "top_k": [asdict(score) for score in self.top_k],
        }
        if logits:
            values["logits"] = self.logits.tolist()
            values["integer_logits"] = self.integer_logits.tolist()
        values["timings"] = self.timings._asdict()
        return values

    def _listed(self) -> list[tuple[str, int]]:
        return [(score.label, score.index) for score in self.top_k]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Prediction):
            return NotImplemented
        return (
            self._listed() == other._listed()
            and np.array_equal(self.integer_logits, other.integer_logits)
            and np.array_equal(self.logits, other.logits)
        )

    def __hash__(self) -> int:
        return hash((tuple(self._listed()), self.integer_logits.tobytes()))

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


class Predictions(list[Prediction]):
    """The predictions for a batch: a list, whose attributes give NumPy arrays with an entry for each image.

    The attributes gather the predictions anew at each use. A slice is a batch too.

    Example:
        >>> import numpy as np, quasar_rt
        >>> with quasar_rt.Engine("fashion-mnist") as engine:
        ...     batch = engine.infer_batch(np.zeros((3, 28, 28), np.uint8))
        >>> batch.logits.shape, batch.indices.shape, batch[:2].labels.shape
        ((3, 10), (3,), (2,))
    """

    def __init__(self, predictions: Iterable[Prediction] = (), *, classes: int = 0) -> None:
        super().__init__(predictions)
        self._classes = classes  # the second axis of an empty batch

    @property
    def labels(self) -> npt.NDArray[np.str_]:
        """Unicode strings [images]: the name of each image's most likely class."""
        return np.array([prediction.label for prediction in self], np.str_)

    @property
    def indices(self) -> npt.NDArray[np.int64]:
        """int64 [images]: the index of each image's most likely class."""
        return np.array([prediction.index for prediction in self], np.int64)

    @property
    def probabilities(self) -> npt.NDArray[np.float64]:
        """float64 [images]: the softmax probability of each image's most likely class, in [0, 1]."""
        return np.array([prediction.probability for prediction in self], np.float64)

    @property
    def logits(self) -> npt.NDArray[np.float32]:
        """float32 [images, classes]: ``logit_scale * integer_logits``."""
        if not self:
            return np.empty((0, self._classes), np.float32)
        return np.stack([prediction.logits for prediction in self])

    @property
    def integer_logits(self) -> npt.NDArray[np.int32]:
        """int32 [images, classes]: the integer model's results."""
        if not self:
            return np.empty((0, self._classes), np.int32)
        return np.stack([prediction.integer_logits for prediction in self])

    def to_dicts(self, *, logits: bool = False) -> list[dict[str, Any]]:
        """Returns `Prediction.to_dict` of each image."""
        return [prediction.to_dict(logits=logits) for prediction in self]

    @overload
    def __getitem__(self, place: SupportsIndex, /) -> Prediction: ...

    @overload
    def __getitem__(self, place: slice, /) -> Predictions: ...

    def __getitem__(self, place: SupportsIndex | slice, /) -> Prediction | Predictions:
        if isinstance(place, slice):
            return Predictions(super().__getitem__(place), classes=self._classes)
        return super().__getitem__(place)
