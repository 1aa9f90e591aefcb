"""The sources of a watch: a folder that others write to, or a camera through OpenCV."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..datasets import IMAGE_SUFFIXES
from ..errors import DeviceError, ImageError, QuasarError
from ..files import reason
from ..frame import Frame
from .live import Sighting

if TYPE_CHECKING:
    from ..engine import Engine

__all__ = ["VIDEO_SUFFIXES", "CameraError", "CameraSource", "FolderSource", "open_source", "sightings"]

#: The endings of the names of videos, in lower case.
VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".mjpeg"})

#: Number of failures of an accelerator on end that end a watch, or a command.
MOST_FAILURES = 10


class CameraError(QuasarError, OSError):
    """A camera or video cannot be opened or read; the message names the remedy."""


class FolderSource:
    """The images of a folder and its sub-folders, as they come.

    Iteration gives each file once it has kept its size and time of change from one scan to the next, so that a file
    that is being written is left alone; a file that changes later is given again. Hidden files and folders (``.name``)
    are left out. A scan takes place every `interval` seconds, or more rarely where it takes long.

    While a part of the folder cannot be read, its files count as unchanged.

    Args:
        folder: the folder.
        existing: true to begin with the images that are there already.
        once: true to give only these, in the order of their names, and to end.
        interval: seconds from one scan to the next.
        videos: true to give videos, too.

    Raises:
        FileNotFoundError: the folder is gone, also while iterating.
        OSError: the folder cannot be read.
    """

    def __init__(
        self,
        folder: Path,
        *,
        existing: bool = False,
        once: bool = False,
        interval: float = 0.5,
        videos: bool = False,
    ) -> None:
        self.folder = folder
        self.interval = interval
        self.on_problem: Callable[[str | None], None] = lambda problem: None
        """Called while iterating: with the reason when something cannot be read, with None when all can be again."""
        self._problem: str | None = None
        self._once = once
        self._suffixes = IMAGE_SUFFIXES | VIDEO_SUFFIXES if videos else IMAGE_SUFFIXES
        # What is there now, not when the first image is asked for: nothing that comes meanwhile is lost.
        self._known, errors = self._scan()
        if folder in errors:
            raise errors[folder]
        # What cannot be read at the start is there at the start.
        self._unread = set(errors)
        if existing or once:
            self._known, self._unread = {}, set()

    def _scan(self) -> tuple[dict[Path, tuple[int, int]], dict[Path, OSError]]:
        """Returns the files, each with its size and time of change, and the errors of what cannot be read."""
        found: dict[Path, tuple[int, int]] = {}
        errors: dict[Path, OSError] = {}
        folders = [self.folder]
        while folders:
            folder = folders.pop()
            try:
                entries = list(os.scandir(folder))
            except (FileNotFoundError, NotADirectoryError):
                if folder == self.folder:
                    raise FileNotFoundError(f"the folder '{self.folder}' is gone") from None
                continue
            except OSError as error:
                errors[folder] = error
                continue
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                try:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(Path(entry.path))
                    elif os.path.splitext(entry.name)[1].lower() in self._suffixes and entry.is_file():
                        status = entry.stat()
                        found[Path(entry.path)] = (status.st_size, status.st_mtime_ns)
                except FileNotFoundError:  # removed meanwhile
                    continue
                except OSError as error:
                    errors[Path(entry.path)] = error
        return found, errors

    def _report(self, errors: dict[Path, OSError]) -> None:
        problem = None
        if errors:
            first = min(errors)
            more = f" (and {len(errors) - 1:,} more)" if len(errors) > 1 else ""
            problem = f"cannot read '{first}': {reason(errors[first])}{more}"
            if not self._once:
                problem += "; trying again"
        if problem != self._problem:
            self._problem = problem
            self.on_problem(problem)

    def __iter__(self) -> Iterator[Path]:
        if self._once:
            now, errors = self._scan()
            self._report(errors)
            yield from sorted(now)
            return
        before: dict[Path, tuple[int, int]] = {}
        while True:
            start = time.monotonic()
            now, errors = self._scan()
            self._report(errors)
            self._known = {
                path: status
                for path, status in self._known.items()
                if path in now or (errors and _is_in(path, errors))
            }
            if self._unread:
                self._known |= {path: now[path] for path in now if _is_in(path, self._unread)}
                self._unread = {path for path in errors if _is_in(path, self._unread)}
            # The oldest first, as they came.
            fresh = sorted(
                (status[1], path) for path, status in now.items() if self._known.get(path) != status
            )
            for _, path in fresh:
                if before.get(path) == now[path]:
                    self._known[path] = now[path]
                    yield path
            before = now
            time.sleep(max(self.interval, 3 * (time.monotonic() - start)) if not fresh else self.interval)


def _is_in(path: Path, folders: Container[Path]) -> bool:
    return any(part in folders for part in (path, *path.parents))


class CameraSource(Iterator[Frame]):
    """The frames of a camera, a stream's address or a video file, through OpenCV.

    Args:
        name: a camera's number or its device file (V4L2 on Linux), an address such as ``rtsp://...``, or a video file.
        size: width and height to ask the camera for; it takes the nearest size that it has.

    Raises:
        CameraError: OpenCV is not installed, or cannot open `name`; while iterating: the camera gives no frame.
    """

    def __init__(self, name: str, size: tuple[int, int] | None = None) -> None:
        try:
            import cv2
        except ImportError as error:
            raise CameraError(
                f"reading '{name}' needs OpenCV, which is not installed: pip install 'quasar-rt[camera]'"
            ) from error
        if hasattr(cv2.utils, "logging"):  # the errors below say more
            cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        self.name = name
        device = name.isdecimal() or name.startswith("/dev/")
        self.live = device or "://" in name
        """False for a video file, of which no frame is dropped."""
        backend = cv2.CAP_V4L2 if device and sys.platform.startswith("linux") else cv2.CAP_ANY
        self._capture: Any = cv2.VideoCapture(int(name) if name.isdecimal() else name, backend)
        if not self._capture.isOpened():
            raise CameraError(
                f"cannot open '{name}': {_camera_hint(name) if device else 'OpenCV cannot read it'}"
            )
        if self.live:
            self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        if size is not None:
            self._capture.set(cv2.CAP_PROP_FRAME_WIDTH, size[0])
            self._capture.set(cv2.CAP_PROP_FRAME_HEIGHT, size[1])
        self._given = 0
        self._closed = False
        self._reading = threading.Lock()

    @property
    def fps(self) -> float:
        """Frames a second, as the camera or the file states them; 25 where it does not."""
        import cv2

        rate = float(self._capture.get(cv2.CAP_PROP_FPS))
        return rate if 0 < rate < 1000 else 25.0

    def __iter__(self) -> CameraSource:
        return self

    def __next__(self) -> Frame:
        with self._reading:  # one thread at a time
            if self._closed:
                raise StopIteration
            there, pixels = self._capture.read()
        if not there:
            if self._given and not self.live:
                raise StopIteration
            after = f" after {self._given} frames" if self._given else ""
            raise CameraError(f"the camera '{self.name}' gives no frame{after}: is it unplugged or in use?")
        self._given += 1
        return Frame.from_array(pixels, "gray" if pixels.ndim == 2 else "bgr")

    def close(self, timeout: float = 2.0) -> None:
        """Frees the camera, once a thread that waits for a frame has got it, or after `timeout` seconds not at all."""
        self._closed = True
        if self._reading.acquire(timeout=timeout):
            self._capture.release()
            self._reading.release()


def _camera_hint(name: str) -> str:
    path = f"/dev/video{name}" if name.isdecimal() else name
    if not os.path.exists(path):
        cameras = ", ".join(sorted(map(str, Path("/dev").glob("video*")))) or "none"
        return f"there is no {path} (there are: {cameras})"
    if not os.access(path, os.R_OK | os.W_OK):
        return f"{path} may not be read; its users are in the group 'video'"
    return f"{path} is no camera that OpenCV can read, or is in use by another program"


def open_source(
    name: str, *, existing: bool = False, once: bool = False, size: tuple[int, int] | None = None
) -> FolderSource | CameraSource:
    """Opens a folder, a camera or a video by its name.

    Raises:
        FileNotFoundError: there is nothing of that name.
        CameraError: likewise as for `CameraSource`.
    """
    if os.path.isdir(name):
        return FolderSource(Path(name), existing=existing, once=once)
    if name.isdecimal() or name.startswith("/dev/") or "://" in name:
        return CameraSource(name, size)
    if not os.path.isfile(name):
        raise FileNotFoundError(
            f"there is no folder or video '{name}'; a camera is a number, /dev/videoN or an address (rtsp://...)"
        )
    if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:
        # OpenCV would take such a name for the first picture of a series.
        raise CameraError(f"'{name}' is one image: use `quasar-rt infer`, or watch its folder")
    return CameraSource(name, size)


def sightings(engine: Engine, source: FolderSource | CameraSource, *, top_k: int = 5) -> Iterator[Sighting]:
    """Classifies the images of a source as they come.

    An image of a folder that cannot be used, and a frame in which an accelerator failed, is a sighting with an error. A
    file that is gone by its turn is left out. Of a live camera, the newest frame is classified, and frames that come
    meanwhile are dropped.

    Raises:
        CameraError, OSError: the source is gone.
        quasar_rt.DeviceError: an accelerator failed in ten images on end.
    """
    failures = 0
    if isinstance(source, FolderSource):
        for path in source:
            name = str(path.relative_to(source.folder))
            try:
                prediction = engine.infer(path, top_k=top_k)
            except ImageError as error:
                if not isinstance(error, FileNotFoundError):
                    yield Sighting(name, None, str(error))
            except DeviceError as error:
                failures += 1
                if failures == MOST_FAILURES:
                    raise
                yield Sighting(name, None, str(error), source=path)
            else:
                failures = 0
                yield Sighting(name, prediction, source=path)
        return
    position = dropped = 0
    drop = "oldest" if source.live else None
    while True:
        with engine.stream(source, top_k=top_k, drop=drop, keep_images=True) as stream:
            try:
                for prediction in stream:
                    failures = 0
                    name = f"frame {position + (stream.position or 0)}"
                    yield Sighting(name, prediction, dropped=dropped + stream.dropped, source=stream.image)
                return
            except DeviceError as error:  # the stream has ended; another one goes on
                failures += 1
                if failures == MOST_FAILURES:
                    raise
                dropped += stream.dropped
                position += (stream.position or 0) + 1
                yield Sighting(f"frame {position - 1}", None, str(error), dropped=dropped)
