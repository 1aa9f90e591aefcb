"""Stages 1 and 9 of a frame: an image in, a prediction out.

`Engine` ties the stages together. `images.timed_input` decodes (stage 2). The native engine preprocesses, cuts the
patches and runs the integer graph on the device that `device.open_device` has opened. `Engine` makes a `Prediction` of
the output. Depends on these modules and on nothing of training or search.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from itertools import islice, repeat
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, cast, overload

import numpy as np

from . import ending
from ._native import CLOSE_SECONDS, MAX_THREADS, FrameHandle
from ._native import Engine as NativeEngine
from ._native import Prepared as NativePrepared
from .arguments import as_count, as_seconds, check_name, shown
from .device import TIERS, WEIGHTS, open_device
from .errors import BusyError, ClosedError, DeviceError, ImageError, InvalidValueError, UntrainedWarning
from .frame import Frame, check_format
from .images import ImageLike, Pixels, check_several, in_memory, timed_input
from .prediction import NO_EMBEDDING, NO_PATCH_TOKENS, Embedding, Prediction, Predictions, Results, Timings
from .profile import AcceleratorProfile, Profile
from .streaming import Lookahead, Stream, Work, lookahead
from .subnet import Subnet

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Semaphore
    from concurrent.futures import Future

    import numpy.typing as npt

    from ._native import Output as NativeOutput
    from .metrics import Metrics
    from .submissions import Submissions

    #: An image that is decoded, one that is prepared, or a frame that has begun, and the milliseconds of decoding.
    _Decoded: TypeAlias = tuple[Pixels | Frame, float]
    _Begun: TypeAlias = tuple[NativePrepared | FrameHandle, float]

__all__ = ["Engine"]

_Item = TypeVar("_Item")


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
            suits its kind. One call of its transport may take 5 seconds more. The CPU has no time-out.
        queue: how many images of `submit` may be unfinished at a time, from 1 on.
        metrics: true to count frames, errors and latencies for `metrics`.
        wait: seconds to wait for an accelerator that another engine or process uses; 0 for none.

    Raises:
        quasar_rt.SubnetError, quasar_rt.FileError: the subnet cannot be loaded.
        quasar_rt.DeviceError: there is no such device or tier, this machine lacks it, or it hangs.
        quasar_rt.DeviceBusyError: another engine or process uses the accelerator; names it.
        quasar_rt.OutOfMemoryError: the process cannot have the memory that the subnet needs.
        quasar_rt.DoesNotFitError: the subnet does not fit the accelerator's buffers; the message names the buffer and
            the excess.
        quasar_rt.InvalidValueError: `threads` is below 1 or above 256, `timeout` is not above 0, `wait` is below 0,
            `queue` is below 1, or an argument is of another type.

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

    # An attribute of the class is still there when the module's names are gone.
    _is_ending = staticmethod(sys.is_finalizing)
    _check_running = staticmethod(ending.check_running)

    def __init__(
        self,
        subnet: Subnet | str | os.PathLike[str],
        device: str = "auto",
        threads: int | None = None,
        tier: str | None = None,
        timeout: float | None = None,
        weights: str | None = None,
        queue: int = 32,
        metrics: bool = False,
        wait: float = 0.0,
    ) -> None:
        self._check_running()
        if threads is not None:
            threads = as_count("threads", threads, most=MAX_THREADS, without="all cores")
        if not isinstance(device, str):
            raise InvalidValueError(
                f"device is {shown(device)}; it must be a name, such as 'cpu' (see quasar_rt.devices)"
            )
        queue = as_count("queue", queue)
        check_name("tier", tier, TIERS, "the best one")
        check_name("weights", weights, WEIGHTS, "what suits the CPU's cache")
        timeout = as_seconds("timeout", timeout, zero=False, without="a limit that suits the device")
        wait = as_seconds("wait", wait, zero=True, without="no wait") or 0.0
        self.subnet = subnet if isinstance(subnet, Subnet) else Subnet.load(subnet)
        """The subnet that runs."""
        self._engine: NativeEngine | None
        self._engine, self.device, self.device_reason = open_device(
            self.subnet, device, threads, tier, timeout, weights, wait
        )
        self._accelerated = self.device != "cpu"
        self._simulated = self.device.startswith("sim:")
        self._arguments = (self.subnet, device, threads, tier, timeout, weights, queue, metrics, wait)
        self._queue = queue
        self._submissions: dict[int, Submissions] = {}  # by process: a fork has no threads
        self._rooms: weakref.WeakKeyDictionary[AbstractEventLoop, Semaphore] = weakref.WeakKeyDictionary()
        self._recorder = None
        if metrics:
            from .metrics import Recorder

            self._recorder = Recorder()
        self._results = Results(self.subnet.config, None if self._recorder is None else self._recorder.frame)
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
                If a call of its transport does not return, all waiting calls end with `DeviceTimeoutError`, and later
                ones with `DeviceUnavailableError`.
            quasar_rt.ClosedError: the engine was closed.
        """
        engine = self._open(top_k)
        try:
            pixels, decode_ms = timed_input(image, format)
            return self._results.prediction(engine.infer(pixels), decode_ms, top_k)
        except Exception:
            self._count_error()
            raise

    @overload
    def embed(
        self, image: ImageLike, *, format: str | None = None, tokens: Literal["image"] = "image"
    ) -> npt.NDArray[np.float32]: ...

    @overload
    def embed(
        self, image: ImageLike, *, format: str | None = None, tokens: Literal["patch"]
    ) -> Embedding: ...

    def embed(
        self, image: ImageLike, *, format: str | None = None, tokens: str = "image"
    ) -> npt.NDArray[np.float32] | Embedding:
        """Computes one picture's embedding, a vector for comparing it with others: float32 [embed] of length 1.

        The product of two embeddings is the cosine of their angle, near 1 for pictures of similar content. The bits do
        not depend on the device. ``infer(image).embedding`` has the integer codes and their scale as well as the
        classes; a prediction of `infer_batch`, `stream` or `submit` has them, too.

        Args:
            image: as for `infer`.
            format: as for `infer`.
            tokens: ``"patch"`` returns the `Embedding` of the patch tokens instead: int8 codes [rows, columns, embed]
                with their scale and zero point, the top left patch first. Its ``values`` are the float network's
                normalised tokens. The subnet must have been exported with ``--tokens patch``.

        Raises:
            quasar_rt.InvalidValueError: the subnet gives no embedding, or none of patches.
            quasar_rt.ImageError, quasar_rt.DeviceError, quasar_rt.ClosedError: as for `infer`.
        """
        if tokens not in ("image", "patch"):
            raise InvalidValueError(f"tokens is {shown(tokens)}; it must be 'image' or 'patch'")
        if tokens == "patch" and not self.subnet.has_patch_tokens:
            raise InvalidValueError(f"'{self.subnet.name}': {NO_PATCH_TOKENS}")
        self._check_embedding()
        prediction = self.infer(image, format=format, top_k=1)
        embedding = prediction.patch_embedding if tokens == "patch" else prediction.embedding
        assert embedding is not None
        return embedding if tokens == "patch" else embedding.vector

    def submit(
        self, image: ImageLike, *, format: str | None = None, top_k: int = 5, timeout: float | None = None
    ) -> Future[Prediction]:
        """Queues one picture and returns at once: the prediction comes as the result of a future.

        Images run in the order in which they were submitted, one after the other, and each is decoded and resized
        while the one before it runs. Their futures end in that order. At most `queue` images (an argument of the
        engine) are unfinished; `submit` waits for room. The image's memory must not change before its future ends,
        but a file object is read at once.

        - ``future.cancel()`` succeeds until the image's turn comes. A cancelled image is not classified.
        - ``future.result()`` raises what `infer` would raise. The images behind it are not concerned.
        - A callback (``add_done_callback``) runs in the engine's thread, which it delays; it may submit, if there is
          room.
        - `close`, and the end of the process, wait until all submitted images have ended.
        - In a forked process, futures of the parent do not end; new submissions work.

        Args:
            image: as for `infer`.
            format: as for `infer`.
            top_k: as for `infer`.
            timeout: seconds to wait for room; without a limit if None. With 0, it never waits; in an event loop,
                `infer_async` does.

        Raises:
            quasar_rt.ImageError: a file object cannot be read. Other errors of an image are its future's.
            quasar_rt.BusyError: there was no room in time, or at once in a callback.
            quasar_rt.ClosedError: the engine was closed.
            quasar_rt.InvalidValueError: `top_k` is no whole number from 1 on, or `timeout` is no number from 0 on.

        Example:
            >>> from quasar_rt.packaged import sample_images
            >>> with Engine("fashion-mnist") as engine:
            ...     futures = [engine.submit(sample.path) for sample in sample_images("fashion-mnist")[:3]]
            >>> [future.result().label for future in futures]
            ['Ankle boot', 'Pullover', 'Trouser']
        """
        engine = self._open(top_k)
        ending.check_can_start("submissions")
        from .submissions import Job, Submissions

        timeout = as_seconds("timeout", timeout, zero=True, without="no limit")
        submissions = self._submissions.get(os.getpid())
        if submissions is None:
            # Of several threads that make one, the first one's is kept.
            submissions = self._submissions.setdefault(os.getpid(), Submissions(self._queue))
            # An engine that is dropped, not closed, has no job left.
            weakref.finalize(self, submissions.close, wait=False).atexit = False
        try:
            image = in_memory(image)
        except ImageError:
            self._count_error()
            raise
        job = Job(
            lambda: self._begin(engine, timed_input(image, format), self._accelerated),
            lambda item: self._finish(engine, item, top_k),
            self._count_error,
        )
        submissions.submit(job, timeout)
        return job.future

    async def infer_async(self, image: ImageLike, *, format: str | None = None, top_k: int = 5) -> Prediction:
        """Classifies one picture by `submit`; the event loop goes on meanwhile, also while there is no room.

        As many images of a loop as fit the queue are unfinished at a time; the others wait for their turn, in the order
        of their calls. A cancelled task cancels its image, if that has not begun.

        Args:
            image: as for `infer`.
            format: as for `infer`.
            top_k: as for `infer`.

        Raises:
            quasar_rt.ImageError, quasar_rt.DeviceError, quasar_rt.ClosedError: as for `infer`.

        Example:
            >>> import asyncio
            >>> from quasar_rt.packaged import sample_images
            >>> async def labels(engine):
            ...     found = await asyncio.gather(*(engine.infer_async(sample.path) for sample in samples))
            ...     return [prediction.label for prediction in found]
            >>> samples = sample_images("fashion-mnist")[:3]
            >>> with Engine("fashion-mnist", queue=1) as engine:
            ...     asyncio.run(labels(engine))
            ['Ankle boot', 'Pullover', 'Trouser']
        """
        import asyncio

        loop = asyncio.get_running_loop()
        room = self._rooms.get(loop)
        if room is None:
            room = self._rooms[loop] = asyncio.Semaphore(self._queue)
        async with room:
            try:
                future = self.submit(image, format=format, top_k=top_k, timeout=0)
            except BusyError:  # by images of other threads or loops
                wait = partial(self.submit, image, format=format, top_k=top_k)
                future = await loop.run_in_executor(None, wait)
            return await asyncio.wrap_future(future)

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
            quasar_rt.InvalidValueError: `images` is one image, or no iterable.
            quasar_rt.ImageError: an image cannot be used; the message has its place in the batch, counted from 0. No
                predictions are returned.
            quasar_rt.DeviceError: an accelerator failed in a frame; likewise.
            quasar_rt.ClosedError: the engine was closed.
        """
        engine = self._open(top_k)
        check_several(images)
        try:
            batch = self._batch_in_flight if self._accelerated else self._batch_on_cpu
            return batch(engine, images, format, top_k)
        except Exception:
            self._count_error()
            raise

    def embed_batch(
        self, images: Iterable[ImageLike], *, format: str | None = None
    ) -> npt.NDArray[np.float32]:
        """Computes many pictures' embeddings: float32 [images, embed], each of length 1.

        Args:
            images: as for `infer_batch`.
            format: as for `infer_batch`.

        Raises:
            quasar_rt.InvalidValueError: the subnet gives no embedding.
            quasar_rt.ImageError, quasar_rt.DeviceError, quasar_rt.ClosedError: as for `infer_batch`.
        """
        self._check_embedding()
        return self.infer_batch(images, format=format, top_k=1).embeddings

    def _batch_on_cpu(
        self, engine: NativeEngine, images: Iterable[ImageLike], format: str | None, top_k: int
    ) -> Predictions:
        predictions = self._results.batch()
        source = iter(images)
        with _decoders(engine.threads) as start:
            while piece := [
                self._at(place, in_memory, image)
                for place, image in enumerate(islice(source, 8 * engine.threads), len(predictions))
            ]:
                places = range(len(predictions), len(predictions) + len(piece))
                # An array needs no decoding, so no thread either.
                ready = all(isinstance(image, (np.ndarray, Frame)) for image in piece)
                spread = map if ready else start
                decoded = list(spread(self._decode_at, places, piece, repeat(format)))
                outputs = self._run_batch(places, [pixels for pixels, _ in decoded])
                predictions += [
                    self._results.prediction(output, decode_ms, top_k)
                    for output, (_, decode_ms) in zip(outputs, decoded, strict=True)
                ]
        return predictions

    def stream(
        self,
        images: Iterable[ImageLike],
        *,
        format: str | None = None,
        top_k: int = 5,
        ahead: int | None = None,
        drop: str | None = None,
        keep_images: bool = False,
    ) -> Stream:
        """Classifies pictures as they come, such as a camera's, while the next ones are fetched, decoded and resized.

        Args:
            images: any iterable of what `infer` takes, even an endless one. The stream's own thread iterates over it,
                at most `ahead` images before the one that is being classified, so memory stays bounded. If large images
                come at once and the engine has all cores, the caller's thread fetches them, too. When either thread
                asks for the next image, it no longer needs the last one, which may be a camera's own memory.

                On a CPU, as many images as the engine has threads are classified together, one on each thread, if they
                wait already or come at once, and `ahead` is as large: that takes less time for each. Large images of a
                list, a tuple, an array or `itertools.repeat` are taken from it together, by the caller's thread, so
                they must stay as they are; their resizing counts as ``compute_ms``.
            format: as for `infer`; where given, all images are arrays of this format, or frames of it.
            top_k: as for `infer`.
            ahead: how many images, resized to what the network sees, may wait; at least 1. If None, 4, or 1 with
                `drop`.
            drop: what to do when `ahead` images wait and the iterable could give another one. With None, the thread
                waits, and no image is lost. With ``"oldest"``, the thread goes on, and each new image displaces the
                oldest one that waits: a consumer that is slower than the camera gets the newest image. Images run one
                at a time then, also on an accelerator.
            keep_images: true to keep each image until its prediction's successor is asked for, as `Stream.image`; its
                memory must stay as it is for so long.

        Returns:
            An iterator that yields one prediction for each image, in order; with `drop`, for each one that was not
            displaced. It has the place of the last one (``position``) and the number of displaced images (``dropped``).

        Raises:
            quasar_rt.InvalidValueError: `images` is one image, or no iterable; at once.
            quasar_rt.ImageError: at the place of an image that cannot be used, after all predictions before it. An
                error of the iterable itself is raised at its place too. Either ends the stream.
            quasar_rt.DeviceError: at the place of a frame in which an accelerator failed. This ends the stream too;
                another one over the same iterator continues.
            quasar_rt.ClosedError: the engine was closed.

        Closing the iterator stops the thread as soon as the iterable gives its next image. No image is read once it is
        closed.
        """
        on_drop = None if self._recorder is None else self._recorder.drop
        self._open(top_k)
        if format is not None:
            check_format(format)
        state = Lookahead(ahead, drop, keep_images, on_drop)
        ending.check_can_start("streams")
        check_several(images)
        return Stream(self._stream(state, images, format, top_k), state)

    def _stream(
        self, state: Lookahead, images: Iterable[ImageLike], format: str | None, top_k: int
    ) -> Generator[Prediction, None, None]:
        # Each frame begins as soon as it is decoded, so that an accelerator is busy whenever images wait. One that may
        # be displaced begins when its turn has come.
        begins = self._accelerated and not state.drops
        one_by_one = self._accelerated or state.drops
        try:
            threads = 1 if one_by_one else self.threads
            work = Work(
                decode=partial(timed_input, format=format),
                takes_all_cores=lambda decoded: (
                    not one_by_one and self._open(1).prepares_on_all_cores(decoded[0])
                ),
                prepare=lambda decoded: self._begin(self._open(1), decoded, begins),
                finish=lambda item: self._finish(self._open(top_k), item, top_k),
                finish_together=lambda items: self._finish_together(self._open(top_k), items, top_k),
                together=threads if threads <= state.ahead else 1,
            )
            with closing(lookahead(state, work, images)) as predictions:
                for prediction in predictions:
                    self._open(top_k)  # may have been closed since a group was finished
                    yield prediction
        except Exception:
            self._count_error()
            raise

    @staticmethod
    def _begin(engine: NativeEngine, decoded: _Decoded, now: bool) -> _Begun:
        """Begins a frame on an accelerator, or prepares an image for later."""
        pixels, decode_ms = decoded
        return engine.begin(pixels) if now else engine.prepare(pixels), decode_ms

    def _finish(self, engine: NativeEngine, item: _Decoded | _Begun, top_k: int) -> Prediction:
        image, decode_ms = item
        output = image.wait() if isinstance(image, FrameHandle) else engine.infer(image)
        return self._results.prediction(output, decode_ms, top_k)

    def _finish_together(
        self, engine: NativeEngine, items: list[_Decoded | _Begun], top_k: int
    ) -> list[Prediction]:
        images = [cast("Pixels | Frame | NativePrepared", image) for image, _ in items]
        return [
            self._results.prediction(output, decode_ms, top_k)
            for output, (_, decode_ms) in zip(engine.infer_batch(images), items, strict=True)
        ]

    def _batch_in_flight(
        self, engine: NativeEngine, images: Iterable[ImageLike], format: str | None, top_k: int
    ) -> Predictions:
        start = time.perf_counter()
        outputs: list[tuple[NativeOutput, float]] = []
        pending: deque[tuple[FrameHandle, float]] = deque()

        def take() -> None:
            frame, decode_ms = pending.popleft()
            try:
                outputs.append((frame.wait(), decode_ms))
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
        share = (time.perf_counter() - start) / max(len(outputs), 1) * 1e3
        return self._results.batch(
            self._results.prediction(output, decode_ms, top_k, Timings(decode_ms, 0.0, share))
            for output, decode_ms in outputs
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

        as_count("repeat", repeat)
        engine = self._open(1)
        image = in_memory(image)  # it is decoded several times, and a stream can be read once
        pixels, first_ms = timed_input(image, format)
        if self._accelerated:
            return AcceleratorProfile.measure(engine, pixels, repeat, self._simulated)
        decode_ms = median([first_ms, *(timed_input(image, format)[1] for _ in range(repeat - 1))])
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
    def weight_traffic(self) -> list[int] | None:
        """Bytes of weights that each thread reads in a frame; None on an accelerator.

        They are those of the plan: a thread that takes over another's share reads more. Layers of many tokens are
        shared out by tokens, so that each thread reads all of their weights. Where that is faster, threads have
        attention heads of their own, and read no weights of the others' queries, keys and values. The last layer, and
        what only it reads, are shared out by rows of weights where that is faster.
        """
        return self._open(1).weight_traffic

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

    @property
    def kind_of_times(self) -> str:
        """``"measured"``, or ``"wall clock of the simulation"`` for a simulated accelerator."""
        return "wall clock of the simulation" if self._simulated else "measured"

    def metrics(self) -> Metrics:
        """Returns the counters of an engine that was made with ``metrics=True``, in any thread and after `close` too.

        Counting takes less than a microsecond a frame; without ``metrics=True`` nothing is counted.

        Raises:
            quasar_rt.InvalidValueError: the engine does not count.
        """
        if self._recorder is None:
            raise InvalidValueError("this engine does not count; make it with Engine(..., metrics=True)")
        engine = self._engine
        counters = None if engine is None else engine.counters()
        names = ("frames", "faults", "resets", "lost_interrupts", "spurious_interrupts")
        return self._recorder.read(
            None if counters is None else {name: getattr(counters, name) for name in names}
        )

    def close(self, *, cancel: bool = False) -> None:
        """Waits for the images of `submit`, then frees the device and the memory.

        Other calls in progress end normally; later ones raise `ClosedError`. If an accelerator's transport hangs, calls
        and submitted images end with `DeviceTimeoutError` within some 5 seconds, and so does the wait for them. The end
        of a ``with`` block closes the engine, and cancels if an exception ends it.

        Args:
            cancel: true to cancel the submitted images whose turn has not come.

        Warns:
            RuntimeWarning: an accelerator's transport hangs. The engine is closed, but the transport's thread stays
                behind. Ctrl-C ends the wait earlier.
        """
        engine, self._engine = self._engine, None
        closer = engine.closer() if engine is not None and self._accelerated else None
        del engine
        if closer is not None:
            closer.close_soon()
        try:
            if (submissions := self._submissions.get(os.getpid())) is not None:
                submissions.close(cancel=cancel)
        finally:
            ended = closer is None or closer.close()
        if not ended:
            warnings.warn(
                f"the transport of '{self.device}' has not returned within {CLOSE_SECONDS:g} s: its thread "
                "stays behind until it does; the engine is closed, but the device may need a restart",
                RuntimeWarning,
                stacklevel=2,
            )

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(cancel=error is not None)

    def __reduce__(self) -> tuple[type[Engine], tuple[object, ...]]:
        # Another process opens the device anew.
        return type(self), self._arguments

    def __repr__(self) -> str:
        state = "closed" if self._engine is None else f"on {self.about}"
        return f"<Engine {self.subnet.name!r} {state}>"

    def _check_embedding(self) -> None:
        if not self._results.have_embedding:
            raise InvalidValueError(f"'{self.subnet.name}': {NO_EMBEDDING}")

    # A frame displaces Python's code from the caches. So the usual case makes few calls here.

    def _open(self, top_k: int) -> NativeEngine:
        if self._is_ending():
            self._check_running()
        if type(top_k) is not int or top_k < 1:
            as_count("top_k", top_k)
        engine = self._engine
        if engine is None:
            raise ClosedError("this engine was closed; make a new one")
        if self._accelerated and ending.accelerators_are_closed():
            raise ClosedError("Python is ending: its accelerators were closed; use them before")
        return engine

    def _decode_at(self, place: int, image: ImageLike, format: str | None) -> tuple[Pixels | Frame, float]:
        return self._at(place, partial(timed_input, format=format), image)

    @staticmethod
    def _at(place: int, call: Callable[[ImageLike], _Item], image: ImageLike) -> _Item:
        """Returns ``call(image)``; an error of the image names its place in the batch."""
        try:
            return call(image)
        except ImageError as error:
            raise type(error)(f"image {place} of the batch: {error}") from error.__cause__

    def _run_batch(self, places: Iterable[int], pixels: list[Pixels | Frame]) -> list[NativeOutput]:
        engine = self._open(1)
        try:
            return engine.infer_batch(pixels)
        except ImageError:
            # Try the images one by one to find the one at fault; an error may be slow.
            for place, image in zip(places, pixels, strict=True):
                try:
                    engine.infer(image)
                except ImageError as error:
                    raise ImageError(f"image {place} of the batch: {error}") from error
            raise

    def _count_error(self) -> None:
        if self._recorder is not None:
            self._recorder.error()


@contextmanager
def _decoders(threads: int) -> Generator[Callable[..., Iterator[Any]], None, None]:
    """Gives a `map` that runs in threads; without threads at the end of Python, which starts none any more."""
    try:
        from concurrent.futures import ThreadPoolExecutor
    except RuntimeError:
        yield map
        return

    def start(*arguments: Any) -> Iterator[Any]:
        try:
            return pool.map(*arguments)
        except RuntimeError:
            return map(*arguments)

    with ThreadPoolExecutor(threads, "quasar-decode") as pool:
        yield start
