"""Stages 1 and 9 of a frame: an image in, a prediction out.

`Engine` ties the stages together. `images.to_input` decodes (stage 2). The native engine preprocesses, cuts the patches
and runs the integer graph on the device that `device.open_device` has opened. `Engine` makes a `Prediction` of the
output. Depends on these modules and on nothing of training or search.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from functools import partial
from itertools import islice, repeat
from queue import SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar, NamedTuple, TypeVar, cast

import numpy as np

from ._native import MAX_THREADS, FrameHandle, shut_down_devices
from ._native import Engine as NativeEngine
from ._native import Prepared as NativePrepared
from .device import open_device
from .errors import ClosedError, DeviceError, ImageError, InvalidValueError, UntrainedWarning
from .frame import Frame
from .images import ImageLike, Pixels, in_memory, is_one_image, to_input
from .prediction import Prediction, Predictions, Score, Timings
from .profile import AcceleratorProfile, Profile
from .subnet import Subnet

if TYPE_CHECKING:
    from ._native import _Output as NativeOutput

__all__ = ["Engine"]

_Item = TypeVar("_Item")


@atexit.register
def _at_exit() -> None:
    """Ends the threads of streams and of drivers while Python still runs, which both need."""
    for stream in list(_Lookahead.running):
        stream.stop()
    shut_down_devices()


class Engine:
    """Runs one subnet on one device.

    Every method may be called from several threads at once, and in a forked process; the GIL is released while Rust
    works, so no other thread may write to an array while it is being classified. The logits do not depend on the
    device, the tier or the number of threads: they are the same bits everywhere.

    Args:
        subnet: a `Subnet`, the path of a ``.qvit`` file, or the name of a packaged subnet.
        device: what to run on; `quasar_rt.devices` lists what there is.

            - ``"auto"``: an accelerator in the FPGA where there is one that can run the subnet, or else the CPU;
              `device_reason` names the reason.
            - ``"cpu"``.
            - ``"sim"``, ``"sim:NAME"`` or the path of a library: an accelerator simulated from its HLS sources
              (``make sim``), slow and exact. ``QUASAR_SIM_SEED`` seeds the order in which its parts run.
            - ``"fpga"``, or one way to it: ``"uio"``, ``"devmem:REGISTERS:MEMORY:BYTES"``, ``"pynq"`` or
              ``"pynq:BITSTREAM"``. ``QUASAR_BITSTREAM`` names the bitstream; its configuration is in the same folder.
        threads: number of threads for an image (`infer`, `stream`) or a batch (`infer_batch`); all cores if None.
        tier: instruction set (a name from `quasar_rt.devices`). If None, the environment variable ``QUASAR_TIER``, or
            else the best one that this CPU has. Only the CPU has tiers.
        weights: how the CPU keeps weights in memory: ``"unpacked"``, one or two bytes each, or ``"packed"``, half a
            byte each in 4-bit rows. Packed weights take less memory but, if the weights fit a cache, a little more
            time. If None, the environment variable ``QUASAR_WEIGHTS``, or else ``"packed"`` if one byte for each weight
            would not fit this CPU's largest cache.
        timeout: seconds that an accelerator may take for half a frame before it counts as hung; if None, a limit that
            suits its kind. The CPU has no time-out.

    Raises:
        quasar_rt.SubnetError, quasar_rt.FileError: the subnet cannot be loaded.
        quasar_rt.DeviceError: there is no such device or tier, or this machine lacks it.
        quasar_rt.DoesNotFitError: the subnet does not fit the accelerator's buffers; the message names the buffer and
            the excess.
        quasar_rt.InvalidValueError: `threads` is below 1 or above 256, or `timeout` is not above 0.

    Warns:
        quasar_rt.UntrainedWarning: the subnet's weights are random, so its labels mean nothing.

    Example:
        >>> from quasar_rt.packaged import sample_images
        >>> boot, *others = [sample.path for sample in sample_images("fashion-mnist")]
        >>> with Engine("fashion-mnist") as engine:
        ...     print(engine.infer(boot).label)
        ...     print([prediction.label for prediction in engine.infer_batch(others[:3])])
        Ankle boot
        ['Pullover', 'Trouser', 'Trouser']
    """

    def __init__(
        self,
        subnet: Subnet | str | os.PathLike[str],
        device: str = "auto",
        threads: int | None = None,
        tier: str | None = None,
        timeout: float | None = None,
        weights: str | None = None,
    ) -> None:
        if threads is not None and not (isinstance(threads, int) and 1 <= threads <= MAX_THREADS):
            raise InvalidValueError(
                f"threads is {threads!r}; it must be within [1, {MAX_THREADS}] (or None for all cores)"
            )
        if not isinstance(device, str):
            raise InvalidValueError(
                f"device is {device!r}; it must be a name, such as 'cpu' (see quasar_rt.devices)"
            )
        self.subnet = subnet if isinstance(subnet, Subnet) else Subnet.load(subnet)
        """The subnet that runs."""
        self._engine: NativeEngine | None
        self._engine, self.device, self.device_reason = open_device(
            self.subnet, device, threads, tier, timeout, weights
        )
        self._accelerated = self.device != "cpu"
        self._arguments = (self.subnet, device, threads, tier, timeout, weights)
        self._classes = self.subnet.classes
        if not self.subnet.trained:
            warnings.warn(
                f"the subnet '{self.subnet.name}' is not trained: its labels mean nothing",
                UntrainedWarning,
                stacklevel=2,
            )

    # One image.

    def infer(self, image: ImageLike, *, format: str | None = None, top_k: int = 5) -> Prediction:
        """Classifies one picture.

        Args:
            image: a path, the bytes of an image file, a binary file object, a Pillow image, a ``uint8`` NumPy array
                (HxW, HxWx1, HxWx3), a ``uint8`` PyTorch tensor (`quasar_rt.images.to_pixels` has the details), or a
                camera's `Frame`.
            format: what an array holds, where that is not gray or RGB: ``"bgr"``, ``"nv12"`` or ``"yuyv"``, in OpenCV's
                shapes (`Frame.from_array`).
            top_k: how many classes to list (all of them, where there are fewer).

        Raises:
            quasar_rt.ImageError: the image cannot be read or is of a kind that has no clear meaning.
            quasar_rt.DeviceError: an accelerator failed in this frame. It is reset; the next call is not concerned.
            quasar_rt.ClosedError: the engine was closed.
        """
        engine = self._open(top_k)
        pixels, decode_ms = self._decode(image, format)
        return self._prediction(engine.infer(pixels, self._listed(top_k)), decode_ms)

    # Many images.

    def infer_batch(
        self, images: Iterable[ImageLike], *, format: str | None = None, top_k: int = 5
    ) -> Predictions:
        """Classifies many pictures, several at a time: one on each thread, or as many as keep an accelerator busy.

        Args:
            images: any iterable of what `infer` takes. It is read a piece at a time, so it may be long. A file object
                is read when the iterable gives it, so the iterable may then close it.
            format: as for `infer`; where given, all images are arrays of this format, or frames of it.
            top_k: as for `infer`.

        Returns:
            The predictions in the order of the images: a list, whose attributes ``logits``, ``labels``, ... are NumPy
            arrays of the batch. In `timings`, ``compute_ms`` is an image's share of the wall clock, preprocessing
            included.

        Raises:
            quasar_rt.ImageError: an image cannot be used; the message has its place in the batch, counted from 0. No
                predictions are returned.
            quasar_rt.DeviceError: an accelerator failed in a frame; likewise.
            quasar_rt.ClosedError: the engine was closed.
        """
        engine = self._open(top_k)
        _check_several(images)
        if self._accelerated:
            return self._batch_in_flight(engine, images, format, top_k)
        from concurrent.futures import ThreadPoolExecutor

        predictions = Predictions(classes=len(self._classes))
        source = iter(images)
        with ThreadPoolExecutor(engine.threads, "quasar-decode") as pool:
            while piece := [
                self._at(place, in_memory, image)
                for place, image in enumerate(islice(source, 8 * engine.threads), len(predictions))
            ]:
                places = range(len(predictions), len(predictions) + len(piece))
                # An array needs no decoding, so no thread either.
                ready = all(isinstance(image, (np.ndarray, Frame)) for image in piece)
                spread = map if ready else pool.map
                decoded = list(spread(self._decode_at, places, piece, repeat(format)))
                outputs, nanoseconds = self._run_batch(places, [pixels for pixels, _ in decoded], top_k)
                predictions += [
                    self._prediction((output, 0, nanoseconds // len(piece)), decode_ms)
                    for output, (_, decode_ms) in zip(outputs, decoded, strict=True)
                ]
        return predictions

    def stream(
        self,
        images: Iterable[ImageLike],
        *,
        format: str | None = None,
        top_k: int = 5,
        ahead: int = 4,
    ) -> Iterator[Prediction]:
        """Classifies pictures as they come, such as a camera's, while the next ones are fetched, decoded and resized.

        Args:
            images: any iterable of what `infer` takes, even an endless one. The stream's own thread iterates over it,
                at most `ahead` images before the one that is being classified, so memory stays bounded. When the thread
                asks for the next image, it no longer needs the last one, which may be a camera's own memory.
            format: as for `infer`; where given, all images are arrays of this format, or frames of it.
            top_k: as for `infer`.
            ahead: how many images, resized to what the network sees, may wait; at least 1.

        Yields:
            One prediction for each image, in order.

        Raises:
            quasar_rt.ImageError: at the place of an image that cannot be used, after all predictions before it. An
                error of the iterable itself is raised at its place too. Either ends the stream.
            quasar_rt.DeviceError: at the place of a frame in which an accelerator failed. This ends the stream too;
                another one over the same iterator continues.
            quasar_rt.ClosedError: the engine was closed.

        Closing the iterator stops the thread as soon as the iterable gives its next image. No image is read once it is
        closed.
        """
        if ahead < 1:
            raise InvalidValueError(f"ahead is {ahead}; it must be at least 1")
        self._open(top_k)
        _check_several(images)
        return self._stream(images, format, top_k, ahead)

    def _stream(
        self, images: Iterable[ImageLike], format: str | None, top_k: int, ahead: int
    ) -> Generator[Prediction, None, None]:
        if self._accelerated:
            # Each frame begins as soon as it is decoded, so that the accelerator is busy whenever images wait.
            with closing(_ahead(partial(self._begin, format=format), images, ahead)) as frames:
                for frame, decode_ms in frames:
                    self._open(top_k)
                    yield self._prediction(frame.wait(self._listed(top_k)), decode_ms)
            return
        with closing(_ahead(partial(self._prepare, format=format), images, ahead)) as prepared:
            for image, decode_ms in prepared:
                yield self._prediction(self._open(top_k).infer(image, self._listed(top_k)), decode_ms)

    def _prepare(self, image: ImageLike, format: str | None) -> tuple[NativePrepared, float]:
        pixels, decode_ms = self._decode(image, format)
        return self._open(1).prepare(pixels), decode_ms

    def _begin(self, image: ImageLike, format: str | None) -> tuple[FrameHandle, float]:
        pixels, decode_ms = self._decode(image, format)
        return self._open(1).begin(pixels), decode_ms

    def _batch_in_flight(
        self, engine: NativeEngine, images: Iterable[ImageLike], format: str | None, top_k: int
    ) -> Predictions:
        start = time.perf_counter_ns()
        outputs: list[tuple[NativeOutput, float]] = []
        pending: deque[tuple[FrameHandle, float]] = deque()

        def take() -> None:
            frame, decode_ms = pending.popleft()
            try:
                outputs.append((frame.wait(self._listed(top_k))[0], decode_ms))
            except DeviceError as error:
                raise type(error)(f"image {len(outputs)} of the batch: {error}") from error

        for place, image in enumerate(images):
            pixels, decode_ms = self._decode_at(place, image, format)
            if len(pending) == engine.in_flight:
                take()
            try:
                pending.append((engine.begin(pixels), decode_ms))
            except ImageError as error:
                raise ImageError(f"image {place} of the batch: {error}") from error
        while pending:
            take()
        share = (time.perf_counter_ns() - start) // max(len(outputs), 1)
        return Predictions(
            (self._prediction((output, 0, share), decode_ms) for output, decode_ms in outputs),
            classes=len(self._classes),
        )

    # The engine itself.

    def profile(
        self, image: ImageLike, *, format: str | None = None, repeat: int = 10
    ) -> Profile | AcceleratorProfile:
        """Measures where the time of a frame goes: a table (``print`` it).

        Args:
            image: as for `infer`.
            format: as for `infer`.
            repeat: how many times to run it.

        Returns:
            On the CPU, a `Profile`: the time of each stage, the median of the repetitions. On an accelerator, an
            `AcceleratorProfile`: what the counters of each unit count in a frame, next to the event model. The frames
            run one at a time; no other frame may run meanwhile.

        Raises:
            quasar_rt.DeviceError: the accelerator's configuration has no counters, or their answer is none that
                counters give; likewise as for `infer`.
            quasar_rt.InvalidValueError: `repeat` is below 1, or other frames ran at the same time.
        """
        from statistics import median

        if repeat < 1:
            raise InvalidValueError(f"repeat is {repeat}; it must be at least 1")
        engine = self._open(1)
        pixels, first_ms = self._decode(image, format)
        if self._accelerated:
            return AcceleratorProfile.measure(engine, pixels, repeat, self.device.startswith("sim:"))
        decode_ms = median([first_ms, *(self._decode(image, format)[1] for _ in range(repeat - 1))])
        return Profile.measure(engine, self.subnet, pixels, decode_ms, repeat)

    @property
    def threads(self) -> int:
        """Number of threads."""
        return self._open(1).threads

    @property
    def tier(self) -> str | None:
        """The instruction set in use, such as ``"avx2"``; None on an accelerator."""
        return self._open(1).tier

    @property
    def weights(self) -> str | None:
        """Form of the weights in memory, ``"unpacked"`` or ``"packed"``; None on an accelerator."""
        return self._open(1).weights

    @property
    def weight_bytes(self) -> int | None:
        """Bytes of memory that all weights take, without biases and scales; None on an accelerator."""
        return self._open(1).weight_bytes

    @property
    def has_counters(self) -> bool:
        """True on an accelerator whose configuration has counters of its units, which `profile` reads."""
        return self._open(1).has_counters

    @property
    def about(self) -> str:
        """Device, tier and threads in words, such as ``"cpu (avx2, 2 threads)"`` or ``"sim:tiny"``."""
        if self._accelerated:
            return self.device
        return f"{self.device} ({self.tier}, {self.threads} thread{'' if self.threads == 1 else 's'})"

    def close(self) -> None:
        """Frees the device and the memory. Calls in progress end normally; later ones raise `ClosedError`."""
        self._engine = None

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[type[Engine], tuple[object, ...]]:
        # Another process opens the device anew.
        return type(self), self._arguments

    def __repr__(self) -> str:
        state = "closed" if self._engine is None else f"on {self.about}"
        return f"<Engine {self.subnet.name!r} {state}>"

    def _open(self, top_k: int) -> NativeEngine:
        if top_k < 1:
            raise InvalidValueError(f"top_k is {top_k}; it must be at least 1")
        engine = self._engine
        if engine is None:
            raise ClosedError("this engine was closed; make a new one")
        return engine

    def _listed(self, top_k: int) -> int:
        return min(top_k, len(self._classes))

    def _decode(self, image: ImageLike, format: str | None) -> tuple[Pixels | Frame, float]:
        start = time.perf_counter_ns()
        pixels = to_input(image, format)
        return pixels, (time.perf_counter_ns() - start) / 1e6

    def _decode_at(self, place: int, image: ImageLike, format: str | None) -> tuple[Pixels | Frame, float]:
        return self._at(place, partial(self._decode, format=format), image)

    @staticmethod
    def _at(place: int, call: Callable[[ImageLike], _Item], image: ImageLike) -> _Item:
        """Returns ``call(image)``; an error of the image names its place in the batch."""
        try:
            return call(image)
        except ImageError as error:
            raise ImageError(f"image {place} of the batch: {error}") from error.__cause__

    def _run_batch(
        self, places: Iterable[int], pixels: list[Pixels | Frame], top_k: int
    ) -> tuple[list[NativeOutput], int]:
        engine = self._open(top_k)
        try:
            return engine.infer_batch(pixels, self._listed(top_k))
        except ImageError:
            # Try the images one by one to find the one at fault; an error may be slow.
            for place, image in zip(places, pixels, strict=True):
                try:
                    engine.infer(image, 1)
                except ImageError as error:
                    raise ImageError(f"image {place} of the batch: {error}") from error
            raise

    def _prediction(self, result: tuple[NativeOutput, int, int], decode_ms: float) -> Prediction:
        (integer_logits, logits, top), preprocess_ns, compute_ns = result
        return Prediction(
            top_k=[Score(self._classes[index], index, probability) for index, probability in top],
            logits=logits,
            integer_logits=integer_logits,
            timings=Timings(decode_ms, preprocess_ns / 1e6, compute_ns / 1e6),
        )


def _check_several(images: object) -> None:
    if is_one_image(images):
        what = repr(images) if isinstance(images, (str, os.PathLike, Frame)) else f"a {type(images).__name__}"
        raise InvalidValueError(f"{what} is one image; give a list of images, or use infer")


class _Failure(NamedTuple):
    error: BaseException


_END = object()


class _Lookahead:
    """Ends the thread of a stream."""

    #: Streams that have not ended, for `_at_exit`.
    running: ClassVar[weakref.WeakSet[_Lookahead]] = weakref.WeakSet()

    def __init__(self, ahead: int) -> None:
        self.room = threading.Semaphore(ahead)
        self.stopped = threading.Event()
        # Held while an image's memory is read. The garbage collector may end the stream in the thread itself.
        self.reading = threading.RLock()
        self._process = os.getpid()
        self.running.add(self)

    def stop(self) -> None:
        """Stops the thread, and waits until the current image, if any, has been read."""
        self.running.discard(self)
        if os.getpid() != self._process:
            return  # the thread is not in this process, and may hold the lock for ever
        self.stopped.set()
        self.room.release()
        with self.reading:
            pass


def _ahead(
    prepare: Callable[[ImageLike], _Item], images: Iterable[ImageLike], ahead: int
) -> Generator[_Item, None, None]:
    """Prepares `images` in a thread, at most `ahead` before the consumer; errors are raised at their place."""
    ready: SimpleQueue[_Item | _Failure | None] = SimpleQueue()
    state = _Lookahead(ahead)

    def work() -> None:
        try:
            source = iter(images)
            while state.room.acquire() and not state.stopped.is_set():
                image = next(source, _END)
                if image is _END:
                    ready.put(None)
                    return
                with state.reading:
                    if state.stopped.is_set():
                        return
                    item = prepare(cast("ImageLike", image))
                del image  # its memory is its owner's again
                ready.put(item)
                del item
        except BaseException as error:  # handed to the consumer, which raises it
            ready.put(_Failure(error))

    # A daemon, so that an unfinished stream does not keep the interpreter from ending.
    thread = threading.Thread(target=work, name="quasar-stream", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            state.room.release()
            if isinstance(item, _Failure):
                raise item.error
            yield item
    finally:
        state.stop()
