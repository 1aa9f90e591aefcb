"""The device under trial, its steps and their outcomes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from math import ceil, isqrt
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .._native import Engine as NativeEngine
from .._native import Trials
from ..accelerator import Program
from ..build import random_subnet
from ..device import Accelerator
from ..errors import DeviceUnavailableError, DoesNotFitError
from ..images import Pixels
from ..subnet import Subnet

#: Seconds that a wait may take, and that a small network's segment may.
TRIAL_SECONDS = 2.0
SEGMENT_SECONDS = 20.0
#: Kernels to suspect if frames fail that are right one by one: they keep apart what belongs to two frames.
IN_FLIGHT = ("load", "norm", "plan")


@dataclass(frozen=True)
class Outcome:
    """The outcome of a step."""

    step: str
    status: Literal["pass", "fail", "skipped"]
    detail: str
    """Figures, the problem, or the reason why the step was skipped."""
    suspects: tuple[str, ...] = ()
    """Kernels that a failure points at, the likeliest first; empty for a fault around them."""
    places: tuple[str, ...] = ()
    """Registers, files and documents that help to find the fault."""
    seconds: float = 0.0
    """Duration."""


class Failed(Exception):
    """A step's failure."""

    def __init__(
        self,
        problem: str,
        suspects: Iterable[str] = (),
        places: Iterable[str] = (),
        likelier: tuple[str, ...] = (),
    ) -> None:
        super().__init__(problem)
        self.suspects = tuple(suspects)
        self.places = tuple(places)
        self.likelier = likelier
        """Kernels to suspect before those of the step."""


class Skipped(Exception):
    """The reason why a step has no result."""


@dataclass(frozen=True)
class Step:
    """A step of the way up."""

    name: str
    about: str
    needs: tuple[str, ...]
    """Steps without which this one makes no sense."""
    run: Callable[[Board], str] = field(repr=False)
    """Returns the detail, or raises `Failed`, `Skipped` or a `DeviceError`."""
    suspects: tuple[str, ...] = ()
    places: tuple[str, ...] = ()


class Board:
    """The device under trial, with what the steps share."""

    def __init__(self, accelerator: Accelerator, subnet: Subnet | None, frames: int, timeout: float | None):
        self.accelerator = accelerator
        self.subnet = subnet
        self.frames = frames
        self.timeout = timeout
        self.interrupts: tuple[int, int] | None = None
        self.hangs = False
        self._trials: Trials | None = None

    @property
    def trials(self) -> Trials:
        """The trials, opened when a step first needs them."""
        if self._trials is None:
            self._trials = self.accelerator.trials(TRIAL_SECONDS if self.timeout is None else self.timeout)
        return self._trials

    def engine(self, subnet: Subnet, timeout: float | None) -> NativeEngine:
        """Returns an engine on the device, which the trials have left; a wait may take `timeout` seconds."""
        if not self.close():
            raise DeviceUnavailableError(
                f"{self.accelerator.name}: a call of the transport in an earlier step has not returned; restart the "
                "device"
            )
        return self.accelerator.engine(subnet, timeout)

    def close(self) -> bool:
        """Closes the trials: one process has the device once. Returns false if a call of their transport hangs."""
        if self._trials is not None:
            self.hangs = not self._trials.close()
            self._trials = None
        return not self.hangs

    def fits(self, subnet: Subnet) -> bool:
        """Returns whether a subnet fits the configuration's buffers."""
        try:
            Program.compile(subnet, self.accelerator.hardware)
        except DoesNotFitError:
            return False
        return True

    @cached_property
    def shape(self) -> dict[str, Any]:
        """The shape of the steps' networks: several tiles of tokens and of rows, where the buffers hold them."""
        array = self.accelerator.hardware.settings["array"]
        tokens, pairs = array["tokens"], array["pairs"]
        for tiles in (2, 1, 0):
            side = isqrt(tiles * tokens) + 1
            head_dim = max(4, ceil(tiles * pairs / 2))
            shape = {
                "embed": 2 * head_dim + 1,
                "depth": 1,
                "heads": 2,
                "head_dim": head_dim,
                "hidden": 4 * head_dim + 3,
                "image_size": 4 * side,
                "channels": 3,
                "kernel": 4,
                "classes": 11,
            }
            if self.fits(random_subnet(**shape)):
                return shape
        raise DoesNotFitError("the smallest network of bring-up does not fit the configuration's buffers")

    def compare(self, name: str, subnet: Subnet, images: list[Pixels]) -> None:
        """Compares the logits with the CPU's: frame by frame, then with several frames in flight."""
        reference = NativeEngine(subnet._inner, 1, None, None)
        expected = [reference.infer(image).outputs() for image in images]
        engine = self.engine(subnet, SEGMENT_SECONDS if self.timeout is None else self.timeout)
        for place, image in enumerate(images):
            same(f"{name}, image {place}", engine.infer(image).outputs(), expected[place])
        order = [place % len(images) for place in range(2 * len(images) + 1)]
        pending = [(place, engine.begin(images[place])) for place in order]
        for number, (place, frame) in enumerate(pending):
            logits = frame.wait().outputs()
            same(f"{name}, frame {number} of several in flight", logits, expected[place], IN_FLIGHT)


def same(
    name: str, found: NDArray[np.int32], expected: NDArray[np.int32], likelier: tuple[str, ...] = ()
) -> None:
    """Raises `Failed` if logits (int32) differ from the expected ones."""
    wrong = np.flatnonzero(found != expected)
    if len(wrong):
        first = int(wrong[0])
        raise Failed(
            f"{name}: {len(wrong)} of {len(expected)} logits differ from the CPU's; "
            f"class {first} has {found[first]} instead of {expected[first]}",
            likelier=likelier,
        )
