"""Stage 9 of a frame: the result for one picture, and the results for a batch.

Depends on NumPy, the native module and the errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsIndex, TypeAlias, overload

import numpy as np

from ._native import unit_vector
from .embedding import embedding_size
from .errors import InvalidValueError

if TYPE_CHECKING:
    import numpy.typing as npt

    from ._native import Output as NativeOutput

    #: An engine's output, the names of the classes, how many to list, milliseconds of decoding, what words need.
    _Outcome: TypeAlias = tuple[NativeOutput, list[str], int, float, "Named | None"]

__all__ = ["Embedding", "Prediction", "Predictions", "Results", "Score", "Timings"]

NO_PATCH_TOKENS = (
    "this subnet gives no patch tokens; export its network again with quasar-rt export --tokens patch --embedding, or "
    'with export_timm(..., tokens="patch", embedding=True)'
)
NO_EMBEDDING = (
    "this subnet gives no embedding; export its network again with quasar-rt export --embedding, or with "
    "export_timm(..., embedding=True)"
)


@dataclass(frozen=True, eq=False, repr=False)
class Embedding:
    """The embedding of one picture, or of its patches: the final features, of which the classes would be computed.

    A subnet whose residual stream was rotated brings them back to the float network's basis.

    ``real = scale * (code - zero_point)`` for each of the D values. Pictures with similar content have embeddings in
    similar directions: compare them by the product of their `vector`. The codes do not depend on the device.

    Two embeddings are equal if their codes, scale and zero point are.
    """

    codes: npt.NDArray[np.int8]
    """int8 [embed], of patches [rows, columns, embed]: the integer model's result, the same bits on every device."""
    scale: float
    """The real value of one code; the subnet's, so the same for all pictures."""
    zero_point: int
    """The code of 0; likewise."""

    @property
    def values(self) -> npt.NDArray[np.float32]:
        """float32, as `codes`: ``scale * (codes - zero_point)``, what the float network gives in front of its head."""
        centred = self.codes.astype(np.float32) - np.float32(self.zero_point)
        values: npt.NDArray[np.float32] = np.float32(self.scale) * centred
        return values

    @property
    def vector(self) -> npt.NDArray[np.float32]:
        """float32, as `codes`: `values` divided by their length, the same bits on every machine (zeros stay zeros)."""
        tokens = self.codes.reshape(-1, self.codes.shape[-1])
        vectors = np.stack([unit_vector(token, self.zero_point) for token in tokens])
        return vectors.reshape(self.codes.shape)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Embedding):
            return NotImplemented
        grid, other_grid = (self.scale, self.zero_point), (other.scale, other.zero_point)
        return grid == other_grid and np.array_equal(self.codes, other.codes)

    def __hash__(self) -> int:
        return hash((self.codes.tobytes(), self.scale, self.zero_point))

    def __repr__(self) -> str:
        size = " x ".join(str(size) for size in self.codes.shape)
        return f"<Embedding of {size} codes, scale {self.scale:.3g}, zero point {self.zero_point}>"


class Named(NamedTuple):
    """Holds what the logits of classes in words were made with (``provenance.words``).

    `norm` is the mean length of an embedding. `bias` is a part of each logit, whose sigmoid is the probability of its
    class; None for a softmax.
    """

    norm: float
    bias: float | None

    def logits(self, logits: npt.NDArray[np.float32], embedding: Embedding) -> npt.NDArray[np.float64]:
        """Returns the model's own logits: those of the file, by the length of the picture's own embedding."""
        length, bias = float(np.linalg.norm(embedding.values.astype(np.float64))), np.float64(self.bias or 0)
        own: npt.NDArray[np.float64] = (logits - bias) * (self.norm / length if length else 0.0) + bias
        return own


def named(config: Mapping[str, Any]) -> Named | None:
    """Returns what a subnet's words were made with; None for classes of another origin."""
    words = config["provenance"].get("words")
    if not isinstance(words, Mapping) or "embedding" not in config or not config["classes"]:
        return None
    norm, bias = words.get("norm"), words.get("bias")
    if not isinstance(norm, float) or not 0 < norm < math.inf:
        return None
    if bias is not None and not (isinstance(bias, float) and math.isfinite(bias)):
        return None
    return Named(norm, bias)


@dataclass(frozen=True)
class Score:
    """One class and its probability."""

    label: str
    index: int
    probability: float


class Timings(NamedTuple):
    """Times of the parts of one frame, in milliseconds of wall clock."""

    decode_ms: float
    """Reading and decoding the file, without the import of Pillow before the first picture; 0 for an array that is
    taken as it is."""
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

    An engine's prediction computes `top_k`, `logits` and `integer_logits` when they are first read: a program that
    reads the label alone does not wait for them.

    Two predictions are equal if they list the same classes in the same order and have the same logits and the same
    embedding. Their timings do not count, so the same picture gives equal predictions on every device. Equal
    predictions have equal hashes; do not write to the arrays of a prediction that is in a set or is a key.

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
    """float32 [classes]: ``logit_scale * integer_logits``. Of classes in words, the model's own: by the length of the
    picture's own embedding, and not by the mean length that the file's have."""
    integer_logits: npt.NDArray[np.int32]
    """int32 [classes]: the integer model's result, the same bits on every device."""
    timings: Timings
    """Milliseconds by stage."""
    embedding: Embedding | None = None
    """The picture's embedding, where the subnet has one (``quasar-rt export --embedding``)."""
    patch_embedding: Embedding | None = None
    """The embedding of each patch, where the subnet gives patch tokens (``--tokens patch``) and an embedding."""
    patch_logits: npt.NDArray[np.float32] | None = None
    """float32 [rows, columns, classes]: the logits of each patch, where the subnet gives patch tokens."""

    if not TYPE_CHECKING:  # for a type checker, the class would have any attribute

        def __getattr__(self, name: str) -> Any:
            outcome = self.__dict__.get("_outcome")
            if outcome is None or name not in _ATTRIBUTES:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            # Two threads get the same object.
            return self.__dict__.setdefault(name, _ATTRIBUTES[name](outcome, self.embedding))

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *_ATTRIBUTES})

    def __getstate__(self) -> dict[str, Any]:
        state = {**self.__dict__, **{field.name: getattr(self, field.name) for field in fields(self)}}
        state.pop("_outcome", None)
        return state

    @property
    def label(self) -> str:
        """The name of the most likely class."""
        values = self.__dict__
        outcome: _Outcome | None = None if "top_k" in values else values.get("_outcome")
        index = None if outcome is None else outcome[0].first
        return self._best().label if outcome is None or index is None else outcome[1][index]

    @property
    def index(self) -> int:
        """The index of the most likely class."""
        values = self.__dict__
        outcome: _Outcome | None = None if "top_k" in values else values.get("_outcome")
        index = None if outcome is None else outcome[0].first
        return self._best().index if index is None else index

    @property
    def probability(self) -> float:
        """The softmax probability of the most likely class, in [0, 1]; SigLIP's words have a sigmoid each."""
        return self._best().probability

    @property
    def none_of_these(self) -> bool:
        """True if classes in words have a sigmoid each (SigLIP), and none reaches one half."""
        words = self.__dict__.get("_outcome", (None,))[-1]
        return words is not None and words.bias is not None and self.probability < 0.5

    def _best(self) -> Score:
        if not self.top_k:
            raise InvalidValueError("this subnet has no classes; use the prediction's embedding")
        return self.top_k[0]

    def to_dict(self, *, logits: bool = False, embedding: bool = False) -> dict[str, Any]:
        """Returns the prediction as plain values, which `json.dumps` takes; ``quasar-rt infer --json`` prints them.

        Args:
            logits: true to include ``logits`` (floats) and ``integer_logits`` (whole numbers), a value for each class.
            embedding: true to include ``embedding``, the floats of its `vector`, or None where the subnet has none.

        Returns:
            ``label``, ``index`` and ``probability`` of the most likely class, where there are classes; ``top_k``, a
            list with these three of each listed class; ``none_of_these``, where that is true; ``timings`` in
            milliseconds.
        """
        scores = [asdict(score) for score in self.top_k]
        values: dict[str, Any] = {**(scores[0] if scores else {}), "top_k": scores}
        if self.none_of_these:
            values["none_of_these"] = True
        if logits:
            values["logits"] = self.logits.tolist()
            values["integer_logits"] = self.integer_logits.tolist()
        if embedding:
            values["embedding"] = None if self.embedding is None else self.embedding.vector.tolist()
        values["timings"] = self.timings._asdict()
        return values

    def _patch_logits(self) -> npt.NDArray[np.float32]:
        return np.empty(0, np.float32) if self.patch_logits is None else self.patch_logits

    def _listed(self) -> list[tuple[str, int]]:
        return [(score.label, score.index) for score in self.top_k]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Prediction):
            return NotImplemented
        return (
            self._listed() == other._listed()
            and np.array_equal(self.integer_logits, other.integer_logits)
            and np.array_equal(self.logits, other.logits)
            and self.embedding == other.embedding
            and self.patch_embedding == other.patch_embedding
            and np.array_equal(self._patch_logits(), other._patch_logits())
        )

    def __hash__(self) -> int:
        return hash((tuple(self._listed()), self.integer_logits.tobytes(), self.embedding))

    def __repr__(self) -> str:
        if not self.top_k:
            return f"<Prediction without classes, {self.embedding!r}; {self.timings.total_ms:.1f} ms>"
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


def _logits(outcome: _Outcome, embedding: Embedding | None) -> npt.NDArray[np.floating]:
    output, words = outcome[0], outcome[4]
    return output.logits() if words is None or embedding is None else words.logits(output.logits(), embedding)


def _scores(outcome: _Outcome, embedding: Embedding | None) -> list[Score]:
    output, classes, top_k, _, words = outcome
    best = output.best(min(top_k, len(classes)))
    if words is not None:
        own = _logits(outcome, embedding)
        chances = np.exp(own - np.logaddexp.reduce(own) if words.bias is None else -np.logaddexp(0, -own))
        best = [(index, float(chances[index])) for index, _ in best]
    return [Score(classes[index], index, probability) for index, probability in best]


#: The attributes of a `Prediction` that are made of an engine's output when they are first read.
_ATTRIBUTES: dict[str, Callable[[_Outcome, Embedding | None], Any]] = {
    "top_k": _scores,
    "logits": lambda outcome, embedding: _logits(outcome, embedding).astype(np.float32, copy=False),
    "integer_logits": lambda outcome, _: outcome[0].integer_logits(),
    "timings": lambda outcome, _: Timings(outcome[3], outcome[0].preprocess_ms, outcome[0].compute_ms),
}


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

    def __init__(
        self, predictions: Iterable[Prediction] = (), *, classes: int = 0, embed: int | None = None
    ) -> None:
        super().__init__(predictions)
        self._classes = classes  # the second axis of an empty batch
        self._embed = embed  # likewise of its embeddings; None without

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

    @property
    def embeddings(self) -> npt.NDArray[np.float32]:
        """float32 [images, embed]: the `Embedding.vector` of each image, of length 1.

        Raises:
            quasar_rt.InvalidValueError: the subnet gives no embedding.
        """
        found = [prediction.embedding for prediction in self]
        if (not found and self._embed is None) or None in found:
            raise InvalidValueError(NO_EMBEDDING)
        if not found:
            return np.empty((0, self._embed or 0), np.float32)
        return np.stack([embedding.vector for embedding in found if embedding is not None])

    def to_dicts(self, *, logits: bool = False, embedding: bool = False) -> list[dict[str, Any]]:
        """Returns `Prediction.to_dict` of each image."""
        return [prediction.to_dict(logits=logits, embedding=embedding) for prediction in self]

    @overload
    def __getitem__(self, place: SupportsIndex, /) -> Prediction: ...

    @overload
    def __getitem__(self, place: slice, /) -> Predictions: ...

    def __getitem__(self, place: SupportsIndex | slice, /) -> Prediction | Predictions:
        if isinstance(place, slice):
            return Predictions(super().__getitem__(place), classes=self._classes, embed=self._embed)
        return super().__getitem__(place)


class Results:
    """Makes predictions of one engine's outputs.

    Args:
        config: the subnet's.
        count: takes each prediction's milliseconds; None to count nothing.
    """

    def __init__(self, config: Mapping[str, Any], count: Callable[[float], None] | None) -> None:
        self._classes: list[str] = config["classes"]
        grid = dict(config.get("embedding", {}))
        grid.pop("projected", None)
        self._embedding: Mapping[str, Any] | None = grid or None
        self._embed = embedding_size(config) or None
        self.have_patch_tokens = bool(config.get("patch_tokens"))
        self._count = count
        self._words = named(config)

    @property
    def have_embedding(self) -> bool:
        """True if the subnet gives embeddings."""
        return self._embedding is not None

    # A frame displaces Python's code from the caches. So the usual case makes few calls here.

    def prediction(
        self, output: NativeOutput, decode_ms: float, top_k: int, timings: Timings | None = None
    ) -> Prediction:
        """Returns an output's prediction; without `timings`, they are those of the output."""
        prediction = Prediction.__new__(Prediction)
        values = prediction.__dict__  # assignments would be refused
        values["_outcome"] = output, self._classes, top_k, decode_ms, self._words
        if timings is not None:
            values["timings"] = timings
        if self._embedding is not None:
            values["embedding"] = Embedding(output.codes(), **self._embedding)
        if self.have_patch_tokens:
            values["patch_logits"] = output.patch_logits() if self._classes else None
            if self._embedding is not None:
                values["patch_embedding"] = Embedding(output.patch_codes(), **self._embedding)
        if self._count is not None:
            self._count(prediction.timings.total_ms)
        return prediction

    def batch(self, predictions: Iterable[Prediction] = ()) -> Predictions:
        """Returns the predictions of a batch."""
        return Predictions(predictions, classes=len(self._classes), embed=self._embed)
