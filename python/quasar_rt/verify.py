"""Runs a subnet on every backend and compares the bits. Depends on the engine and the oracle."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from . import oracle, packaged
from ._native import Engine as NativeEngine
from .device import cpu
from .engine import Engine
from .errors import DoesNotFitError, UntrainedWarning
from .images import ImageLike, Pixels, preprocess
from .prediction import Prediction
from .subnet import Subnet

if TYPE_CHECKING:
    from ._native import Output as NativeOutput

__all__ = ["Check", "golden_inputs", "outputs_of", "verify"]


class Check(NamedTuple):
    """The comparison of one backend with the oracle."""

    backend: str
    """``"oracle"``, ``"atoms"``, the name of a tier or of a device."""
    threads: int | None
    """Number of threads; None if there is no choice."""
    status: Literal["equal", "differs", "skipped"]
    """Skipped: this machine cannot run it."""
    images: int
    """Number of inputs that were compared."""
    detail: str
    """The difference, or the reason why it was skipped."""


def outputs_of(prediction: Prediction) -> npt.NDArray[np.int32]:
    """Returns all outputs of an engine's prediction, as the oracle gives them: integer logits, then codes."""
    output: NativeOutput = prediction.__dict__["_outcome"][0]
    return output.outputs()


def golden_inputs(subnet: Subnet, images: int = 4, seed: int = 0) -> list[ImageLike]:
    """Returns the inputs of `verify`: black, white, `images` random ones and the samples packaged with the subnet.

    All but the samples have the size that the network sees. The seed makes them the same on every machine.
    """
    image = subnet.config["image"]
    shape = (image["height"], image["width"], image["channels"])
    rng = np.random.default_rng(seed)
    noise = [rng.integers(0, 256, shape, dtype=np.uint8) for _ in range(images)]
    samples = [sample.path for sample in packaged.sample_images(subnet.name)]
    return [np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8), *noise, *samples]


def verify(
    subnet: Subnet, *, images: int = 4, seed: int = 0, accelerators: Iterable[str] = ()
) -> list[Check]:
    """Compares the logits of `golden_inputs` by every backend, tier and number of threads with the oracle's.

    The oracle is the integer model in int64 NumPy, slow and plain. Each tier runs with one and two threads. ``atoms``
    computes every linear layer again as the accelerator does, by nibbles, row pairs and address table. `accelerators`
    are further devices to run, such as ``"sim"``; a device that the subnet does not fit counts as skipped.
    """
    config, tensors = subnet.config, subnet.tensors()
    size = (config["image"]["height"], config["image"]["width"], config["image"]["channels"])
    inputs = golden_inputs(subnet, images, seed)
    seen = [preprocess(image, size, config["preprocess"]) for image in inputs]
    expected = [oracle.run(config, tensors, image) for image in seen]
    checks = [Check("oracle", None, "equal", len(inputs), "the reference")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UntrainedWarning)
        checks.append(_check_nibbles(subnet, seen))
        for tier in cpu().tiers:
            for threads in (1, 2):
                if tier.supported:
                    checks.append(_check_tier(subnet, inputs, expected, tier.name, threads))
                else:
                    checks.append(Check(tier.name, threads, "skipped", 0, "this machine lacks it"))
        checks += [_check_accelerator(subnet, inputs, expected, device) for device in accelerators]
    return checks


def _check_tier(
    subnet: Subnet, inputs: list[ImageLike], expected: list[npt.NDArray[np.int64]], tier: str, threads: int
) -> Check:
    with Engine(subnet, "cpu", tier=tier, threads=threads) as engine:
        difference = _difference(engine, inputs, expected)
    return Check(tier, threads, "differs" if difference else "equal", len(inputs), difference)


def _check_accelerator(
    subnet: Subnet, inputs: list[ImageLike], expected: list[npt.NDArray[np.int64]], device: str
) -> Check:
    try:
        with Engine(subnet, device) as engine:
            difference = _difference(engine, inputs, expected)
            return Check(engine.device, None, "differs" if difference else "equal", len(inputs), difference)
    except DoesNotFitError as error:
        return Check(device, None, "skipped", 0, str(error))


def _difference(engine: Engine, inputs: list[ImageLike], expected: list[npt.NDArray[np.int64]]) -> str:
    """Describes the first difference of an engine's logits, image by image and in a batch; empty if there is none."""
    for way in ("infer", "infer_batch"):
        predictions = (
            engine.infer_batch(inputs) if way == "infer_batch" else [engine.infer(image) for image in inputs]
        )
        for place, (prediction, logits) in enumerate(zip(predictions, expected, strict=True)):
            wrong = int(np.count_nonzero(outputs_of(prediction) != logits))
            if wrong:
                what = "logits" if prediction.embedding is None else "logits and codes of embeddings"
                return f"{way}, image {place}: {wrong} of {len(logits)} {what}"
    return ""


def _check_nibbles(subnet: Subnet, images: list[Pixels]) -> Check:
    """Compares the layers' outputs by nibbles with the scalar tier's, which `_check_tier` compares with the oracle."""
    engine = NativeEngine(subnet._inner, 1, "scalar", None)
    compared = 0
    for place, image in enumerate(images):
        for layer, values, wrong in engine.check_nibbles(subnet._inner, image):
            compared += values
            if wrong:
                return Check(
                    "atoms",
                    None,
                    "differs",
                    len(images),
                    f"image {place}, {layer}: {wrong} of {values} outputs",
                )
    return Check("atoms", None, "equal", len(images), f"{compared:,} layer outputs")
