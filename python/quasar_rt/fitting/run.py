"""From a float network to subnets for frame rates: measures, chooses, quantizes, replays."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..engine import Engine
from ..errors import DoesNotFitError, FileError, InvalidValueError
from ..export.network import Calibrated, measure_worth
from ..export.post_training import Prepared, prepare
from ..files import check_apart, check_folder, make_folder, open_regular, replacing
from ..hardware import Board, Hardware, RatesOf, Workload, rates
from ..images import ImageLike
from ..nas.options import DEFAULT_BOARD
from ..quantization import CURVE, FitOptions, LayerReport, Progress
from ..space import Space
from ..subnet import Subnet
from .choice import CLOSE, Choice, Choices, unreachable
from .result import Errors, Fit, Fitted
from .shape import why_outside, workload_of

__all__ = ["HELD_OUT", "run"]

#: One of this many calibration images is held out: the errors are measured on these.
HELD_OUT = 4
#: The share of 8-bit weights at which it is tried whether subnets with 4-bit rows are rotated.
TRIED_SHARE = 0.25


def run(options: FitOptions) -> Fit:
    """Fits a network; the errors are those of `quasar_rt.fit`."""
    curve, fps_of, model, out = options.curve, options.fps_of, options.model, Path(options.out)
    wanted = _checked_rates(options.fps, curve)
    if fps_of not in get_args(RatesOf):
        raise InvalidValueError(f"fps_of must be {' or '.join(map(repr, get_args(RatesOf)))}, not {fps_of!r}")
    given = Board.load(options.board) if isinstance(options.board, str) else options.board
    hardware, space = options.hardware, options.space
    if isinstance(hardware, (str, os.PathLike)):
        hardware = Hardware.load(hardware, given)
    if isinstance(space, (str, os.PathLike)):
        space = Space.load(space)
    images = list(options.calibration)
    if len(images) < 2:
        raise InvalidValueError(f"a fit needs two images or more, better 32; {len(images)} were given")
    check_apart(out, (one for one in images if isinstance(one, (str, os.PathLike))))
    check_folder(out, {"report.json": "fit", "hardware.toml": "configuration", "fit.png": "picture"})
    # Of two or three images the last one.
    first = min(HELD_OUT, len(images)) - 1
    held_out = images[first::HELD_OUT]
    used = [image for i, image in enumerate(images) if i % HELD_OUT != first]
    if not isinstance(model, nn.Module):
        from ..networks import load_network

        loaded = load_network(model, image_size=options.image_size)
        model = loaded.model
        classes = loaded.classes if options.classes is None and options.words is None else options.classes
        options = replace(options, name=options.name or loaded.name, classes=classes)
    prepared = prepare(model, used, options)
    target = _Target(prepared, _configured(prepared, given, hardware, space, options.clock_mhz), fps_of)
    outside = None if space is None or hardware is not None else why_outside(prepared.net, space)
    remedy = (
        "the accelerator is that of the space; leave the space (--space) out, or name one with the network"
    )
    try:
        target.check(wanted)
    except DoesNotFitError as error:
        if outside is None:
            raise
        raise DoesNotFitError(f"{error}: {outside}; {remedy}") from error
    if outside is not None:
        warnings.warn(f"{outside}: {remedy}", stacklevel=4)
    job = _Job(model, prepared, target, out, held_out, options.progress, len(wanted) or curve or CURVE)
    return job.run(wanted, curve or CURVE)


def _checked_rates(fps: float | Sequence[float], curve: int | None) -> list[float]:
    wanted = [float(rate) for rate in np.atleast_1d(np.asarray(fps, np.float64))]
    if any(not 0 < rate < np.inf for rate in wanted):
        raise InvalidValueError(f"frame rates must be positive and finite, not {wanted}")
    if curve is not None and (wanted or not 2 <= curve <= 100):
        raise InvalidValueError("give frame rates, or a curve of 2 to 100 subnets, not both")
    return sorted(set(wanted))


def _configured(
    prepared: Prepared,
    board: Board | None,
    hardware: Hardware | None,
    space: Space | None,
    clock_mhz: float | None,
) -> Hardware:
    """Returns the given configuration, or the one of the board that is fastest for the space or the network."""
    if hardware is not None:
        if board is not None and board.name != hardware.board.name:
            raise InvalidValueError(f"the configuration is for {hardware.board.name}, not for {board.name}")
        return hardware if clock_mhz is None else hardware.with_clock(clock_mhz)
    networks = [workload_of(prepared, width) for width in (4, 8)]
    return Hardware.for_board(board or DEFAULT_BOARD, space or networks, clock_mhz)


@dataclass(frozen=True)
class _Target:
    """A network on a configuration, and which of its frame rates counts."""

    prepared: Prepared
    hardware: Hardware
    reading: RatesOf

    def check(self, wanted: Sequence[float]) -> None:
        """Refuses a network that exceeds a buffer and rates that not even 4-bit rows reach, before any measurement."""
        _, fastest = (rates(workload_of(self.prepared, width), self.hardware) for width in (8, 4))
        for rate in wanted:
            if rate > fastest.of(self.reading):
                raise unreachable(rate, fastest, self.reading, self.hardware)

    def choices(self, worth: dict[str, NDArray[np.float64]]) -> Choices:
        mixed, all_eight = (workload_of(self.prepared, width) for width in (4, 8))
        return Choices(self.prepared.net, worth, mixed, all_eight, self.hardware, self.reading)


class _Job:
    """The stages of a fit, and the files in which it goes on after an interruption."""

    def __init__(
        self,
        model: nn.Module,
        prepared: Prepared,
        target: _Target,
        folder: Path,
        held_out: list[ImageLike],
        progress: Progress | None,
        passes: int,
    ) -> None:
        self._prepared, self._target, self._folder, self._held_out = prepared, target, folder, held_out
        self._progress, self._done = progress, count(1)
        self._stages = prepared.stages(passes + 1, passes)
        self._identity = _identity(model, prepared)
        self._exact = _float_outputs(model, prepared, held_out)
        self._calibrations: dict[bool, Calibrated] = {}

    def run(self, wanted: Sequence[float], curve: int) -> Fit:
        worth = self._worth()
        choices = self._target.choices(worth)
        chosen = (
            self._curve(choices, curve) if not wanted else [(rate, choices.meeting(rate)) for rate in wanted]
        )
        fitted = [self._fitted(rate, choice) for rate, choice in chosen]
        found = Fit(
            name=self._prepared.name,
            board=self._target.hardware.board.name,
            fps_of=self._target.reading,
            hardware=self._target.hardware,
            calibration_images=sum(len(batch) for batch in self._prepared.batches),
            held_out_images=len(self._held_out),
            fitted=fitted,
        )
        found.save(self._folder)
        try:
            from .picture import draw
        except ImportError:  # without matplotlib
            return found
        draw(found, self._folder / "fit.png")
        return found

    def _curve(self, choices: Choices, points: int) -> list[tuple[float | None, Choice]]:
        """Returns choices from 8 bits in all rows to 4; only those that are faster than the one before."""
        reading = self._target.reading
        slowest, fastest = choices.all_of(8), choices.all_of(4)
        low, high = slowest.rates.of(reading), fastest.rates.of(reading)
        kept = [slowest]
        for i in range(1, points):
            wanted = low + (high - low) * i / (points - 1)
            if wanted > kept[-1].rates.of(reading) * (1 + CLOSE):
                kept.append(fastest if i + 1 == points else choices.meeting(wanted))
        return [(None, choice) for choice in kept]

    def _step(self, what: str) -> None:
        if self._progress is not None:
            self._progress(what, min(next(self._done), self._stages), self._stages)

    def _calibration(self, all_eight: bool = False) -> Calibrated:
        if all_eight not in self._calibrations:
            self._calibrations[all_eight] = self._prepared.calibrate(
                self._step, 1.0 if all_eight else TRIED_SHARE
            )
        return self._calibrations[all_eight]

    def _worth(self) -> dict[str, NDArray[np.float64]]:
        """Returns the worth of 8 bits for each row: measured, or read where an earlier run has left it."""
        path = self._folder / "worth.npz"
        if path.exists():
            try:
                with open_regular(path) as file, np.load(file, allow_pickle=False) as stored:
                    found = dict(stored)
            # NumPy raises nearly anything on a damaged file.
            except Exception as error:
                raise FileError(f"'{path}' is damaged: remove it, and the worth is measured again") from error
            if str(found.pop("identity", "")) == self._identity:
                return found
            raise InvalidValueError(
                f"'{self._folder}' holds a fit of another network, of other images or options, or by another version "
                "of quasar-rt: take another folder, or remove it"
            )
        worth = measure_worth(self._calibration(), on_layer=lambda layer: self._step(f"measure {layer.name}"))
        make_folder(self._folder)
        with replacing(path) as file:
            np.savez(file, allow_pickle=False, identity=np.array(self._identity), **worth)
        return worth

    def _fitted(self, wanted: float | None, choice: Choice) -> Fitted:
        """Returns the subnet of a choice, quantized or as an earlier run has left it."""
        prepared, target = self._prepared, self._target
        digest = hashlib.sha256(b"".join(bits.tobytes() for bits in choice.widths.values())).hexdigest()
        mark = {"identity": self._identity, "widths_sha256": digest}
        rate = choice.rates.of(target.reading)
        path = self._folder / f"{prepared.name}-{target.hardware.board.name}-{_label(rate, wanted)}fps.qvit"
        subnet = _left(path, mark)
        if subnet is None:
            layers: list[LayerReport] = []

            def on_layer(layer: LayerReport) -> None:
                layers.append(layer)
                self._step(f"{rate:.0f} frames/s: {layer.name}")

            all_eight = all(bool((bits == 8).all()) for bits in choice.widths.values())
            calibrated = self._calibration(all_eight)
            parts = calibrated.quantize(lambda name, _rows, _worth: choice.widths[name], on_layer=on_layer)
            recorded = {"fit": mark, "method": "gptq", "layers": [layer.as_dict() for layer in layers]}
            prepared.subnet(
                calibrated, parts, recorded, lambda what: self._step(f"{rate:.0f} frames/s: {what}")
            ).save(path)
            # What counts is what was written.
            subnet = Subnet.load(path)
        workload = Workload.of_subnet(subnet)
        return Fitted(
            path=path,
            wanted_fps=wanted,
            rates=rates(workload, target.hardware),
            errors=_errors(subnet, self._held_out, self._exact),
            subnet=subnet,
        )


def _identity(model: nn.Module, prepared: Prepared) -> str:
    """Returns a hash of all that the rows' worth and a subnet follow from, but for its widths."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().double().numpy().tobytes())
    for batch in prepared.batches:
        digest.update(batch.numpy().tobytes())
    options = (
        version("quasar-rt"),
        prepared.percentile,
        prepared.equalize,
        prepared.rotate,
        prepared.embedding,
        prepared.correct,
        prepared.net.patch_tokens,
        prepared.classes,
        prepared.preprocessing,
        prepared.mean,
        prepared.std,
        *([] if prepared.words is None else [prepared.words.record, prepared.words.vectors.tobytes()]),
    )
    digest.update(repr(options).encode())
    return digest.hexdigest()


def _float_outputs(model: nn.Module, prepared: Prepared, images: list[ImageLike]) -> NDArray[np.float32]:
    """Returns the float network's logits, or its embeddings, of images: float32 [images, values]."""
    batches = prepared.normalised(images, len(prepared.batches[0]))
    training, parameter = model.training, next(model.parameters())
    model.eval()
    try:
        with torch.no_grad():
            outputs = [model(batch.to(parameter.device, parameter.dtype)).float().cpu() for batch in batches]
    finally:
        model.train(training)
    found: NDArray[np.float32] = torch.cat(outputs).numpy()
    return found if prepared.words is None else prepared.words.logits(found)


def _errors(subnet: Subnet, images: list[ImageLike], exact: NDArray[np.float32]) -> Errors:
    classes = len(subnet.classes) > 0
    outputs = []
    with Engine(subnet) as engine:
        for image in images:
            prediction = engine.infer(image)
            if classes:
                outputs.append(prediction.logits)
            else:
                assert prediction.embedding is not None
                outputs.append(prediction.embedding.values)
    return Errors.between(np.stack(outputs), exact, classes)


def _label(rate: float, wanted: float | None) -> str:
    """Returns a rate's part of a file name, which no other wanted rate has, and none of a curve (`CLOSE`)."""
    if wanted is not None:
        return np.format_float_positional(wanted, trim="-")
    return f"{rate:.4g}" if rate < 1000 else f"{rate:.0f}"


def _left(path: Path, fit: dict[str, Any]) -> Subnet | None:
    """Returns the subnet that an earlier run has left, if it is of this fit and has these widths."""
    if not path.exists():
        return None
    subnet = Subnet.load(path)
    return subnet if subnet.config["provenance"].get("fit") == fit else None
