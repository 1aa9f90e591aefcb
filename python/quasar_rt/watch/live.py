"""The state of a running watch: the last image, its prediction, the counters. Read from any thread."""

from __future__ import annotations

import io
import threading
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ImageError
from ..frame import Frame
from ..images import ImageLike, Pixels, to_pixels
from ..prediction import Prediction

if TYPE_CHECKING:
    from ..engine import Engine
    from ..metrics import Metrics

__all__ = ["Live", "Sighting", "thumbnail"]

#: Largest sides of the picture on the page, in pixels.
_THUMBNAIL = (640, 480)
#: Number of the latest pictures that are kept for pages that are behind.
_KEPT = 8


@dataclass(frozen=True)
class Sighting:
    """One image, with its prediction or its error."""

    image: str
    """The file's path in the watched folder, or ``"frame N"`` of a camera."""
    prediction: Prediction | None
    """The prediction; None if there is an error."""
    error: str | None = None
    """The reason why the image could not be used; None if there is a prediction."""
    dropped: int = 0
    """Number of frames that newer ones have displaced so far."""
    source: ImageLike | None = None
    """The image itself."""
    time: datetime = field(default_factory=lambda: datetime.now(timezone.utc))
    """The time of the outcome."""

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values: ``image``, ``time`` (ISO 8601, UTC), ``dropped``, and the prediction's or ``error``."""
        values: dict[str, Any] = {
            "image": self.image,
            "time": self.time.isoformat(timespec="milliseconds"),
            "dropped": self.dropped,
        }
        if self.prediction is None:
            return {**values, "error": self.error}
        return {**values, **self.prediction.to_dict()}


class Live:
    """The last sighting of a watch and the counters of its engine.

    Args:
        engine: an engine that counts (``metrics=True``).
        source: the watched folder or camera, in words.
    """

    def __init__(self, engine: Engine, source: str) -> None:
        self._engine = engine
        self.about = {
            "subnet": engine.subnet.name,
            "knows": engine.subnet.about.removeprefix(f"{engine.subnet.name}: "),
            "device": engine.about,
            "source": source,
            "kind": engine.kind_of_times,
        }
        """The subnet, the classes that it knows, its device, the source, and the kind of the times."""
        self.stopped = threading.Event()
        """Set at the end of the watch."""
        self.problem: str | None = None
        """The reason why a part of the source cannot be read now; None if there is none."""
        self._lock = threading.Lock()
        self._number = 0
        self._last: Sighting | None = None
        self._pictures: dict[int, bytes | None] = {}
        self._drawing = threading.Lock()  # held longer: publishing does not wait for it

    def publish(self, sighting: Sighting) -> None:
        """Replaces the last sighting."""
        with self._lock:
            self._number += 1
            self._last = sighting

    def metrics(self) -> Metrics:
        """Returns the engine's counters."""
        return self._engine.metrics()

    def last(self) -> tuple[int, Sighting | None]:
        """Returns the number of the last sighting, counted from 1, and the sighting; 0 and None before the first."""
        with self._lock:
            return self._number, self._last

    def state(self) -> dict[str, Any]:
        """Returns all that the page shows, as plain values; ``number`` names the picture of `picture`."""
        number, last = self.last()
        with self._drawing:
            if last is not None and number not in self._pictures:
                self._pictures[number] = thumbnail(last.source)
                for old in sorted(self._pictures)[:-_KEPT]:
                    del self._pictures[old]
            shown = self._pictures.get(number) is not None
        return {
            **self.about,
            "number": number,
            "picture": shown,
            "last": None if last is None else last.to_dict(),
            "problem": self.problem,
            "metrics": self.metrics().to_dict(),
        }

    def picture(self, number: int) -> bytes | None:
        """Returns a JPEG of one of the latest pictures that `state` has named; None if it is gone."""
        with self._drawing:
            return self._pictures.get(number)


def thumbnail(image: ImageLike | None) -> bytes | None:
    """Returns a small JPEG of an image, or None where there is none."""
    from PIL import Image

    try:
        if image is None:
            return None
        pixels = _pixels_of(image) if isinstance(image, Frame) else to_pixels(image)
    except ImageError:  # the file may be gone or damaged by now, or the frame be raw
        return None
    picture = Image.fromarray(np.squeeze(pixels, axis=2) if pixels.shape[2] == 1 else pixels)
    # Small pictures stay small: the page enlarges them.
    picture.thumbnail(_THUMBNAIL)
    file = io.BytesIO()
    picture.save(file, "jpeg", quality=85)
    return file.getvalue()


def _pixels_of(frame: Frame) -> Pixels:
    channels = {"gray": 1, "rgb": 3, "bgr": 3}.get(frame.format)
    if channels is None:
        raise ImageError(f"a frame of format {frame.format!r} is not shown")
    row = channels * frame.width
    # The last row has no gap behind it.
    rows = np.lib.stride_tricks.as_strided(
        frame.data, (frame.height, row), (frame.stride, 1), writeable=False
    )
    pixels = rows.reshape(frame.height, frame.width, channels)
    return np.ascontiguousarray(pixels[:, :, ::-1] if frame.format == "bgr" else pixels)
