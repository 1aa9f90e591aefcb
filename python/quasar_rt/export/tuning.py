"""Tunes a quantized network without labels: its outputs come closer to the float network's.

Quantization-aware distillation: the float network is the teacher, the quantized network (`student`) starts at the codes
of `quantize_layers`. Gradients pass roundings straight through (Bengio et al., arXiv 1308.3432), row scales and
activation grids are learned as in LSQ (arXiv 1902.08153). A latent weight starts inside its code's cell, where the
float weight allows it, so nothing jumps at the start. Depends on: torch, `quasar_rt.train.checkpoint`.
"""

from __future__ import annotations

import copy
import hashlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..train import checkpoint as files
from .float_vit import Linear, Norm, ViT, forward
from .layerwise import Quantized
from .student import Output, Student, pooled
from .team import Team

__all__ = ["TuningReport", "tune"]

#: Images of a step, and those whose gradients are computed at a time (which settles the order of all sums).
BATCH, PART = 16, 4
#: What a step of Adam changes at most at first, in a knob's units, by its kind.
RATES = {"codes": 4e-3, "steps": 5e-4, "biases": 2e-4, "norms": 2e-4, "grids": 5e-4}
#: Adam's decays of the two moments.
DECAYS = (0.9, 0.99)
#: Of the images, this share is held out (one in so many), and at most so many of them.
HELD_OUT, MOST_HELD_OUT = 8, 32
#: Checks of the held-out images in a run, and steps between two checkpoints.
CHECKS, SAVE_EVERY = 10, 10
#: The least share of an image's sides that a training crop keeps.
LEAST_CROP = 0.7


@dataclass(frozen=True)
class TuningReport:
    """Reports a step; `error` is that of the held-out images at the last check.

    An error is the root of the mean squared difference of the features from the float network's, as a share of their
    standard deviation over images.
    """

    step: int
    steps: int
    loss: float
    error: float
    error_before: float


def tune(
    net: ViT,
    parts: Quantized,
    batches: Sequence[Tensor],
    *,
    steps: int,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Callable[[TuningReport], object] = lambda _: None,
    devices: Sequence[str] | None = None,
) -> Quantized:
    """Tunes codes, row scales, biases, LayerNorms and activation grids of the blocks; widths stay.

    Args:
        net: the float network that `parts` were made from, balanced as then. It is not changed.
        parts: the result of `quantize_layers`.
        batches: normalised images [images, channels, height, width] without labels; one in eight is held out, and the
            state with the least error on these is returned, `parts` themselves if none is better.
        steps: of `BATCH` images each.
        seed: of the order of images and of their crops.
        checkpoint: a file that is written every few steps. If it exists, the run continues where it ended.
        progress: gets a report after each step.
        devices: of torch. By default all GPUs that torch sees, else the CPU.

    On a CPU the same arguments give the same bits, whatever the number of threads, with interruptions and without.

    Raises:
        quasar_rt.train.checkpoint.CheckpointError: the checkpoint is damaged or of another run.
        quasar_rt.FileError: it cannot be written.
    """
    images = torch.cat(list(batches))
    if steps < 1 or len(images) < 2:
        return parts
    with Team() as team:
        run = _Run(net, parts, images, steps, seed, team, devices or _devices())
        path = None if checkpoint is None else Path(checkpoint)
        if path is not None and path.exists():
            run.restore(path)
        while run.step < steps:
            loss = run.advance()
            if path is not None and (run.step % SAVE_EVERY == 0 or run.step == steps):
                files.save(run.state(), path)
            progress(TuningReport(run.step, steps, loss, run.error, run.error_before))
        return run.best()


def _devices() -> list[str]:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [f"cuda:{i}" for i in range(count)] or ["cpu"]


class _Teacher:
    """The float network on a device."""

    def __init__(self, net: ViT, device: str) -> None:
        self._net = _moved(net, torch.device(device))

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Output:
        last = images

        def probe(name: str, value: Tensor) -> Tensor:
            nonlocal last
            last = value if name == "residual" else last
            return value

        net, part = self._net, self._net.norm
        logits = forward(net, images, probe)

        def norm(x: Tensor) -> Tensor:
            return F.layer_norm(x, (x.shape[-1],), part.gamma, part.beta, part.eps)

        features = pooled(net, last, norm)
        return Output(norm(last), features, logits if len(net.head.weight) else logits[:, :0])


class _Run:
    """A run of `steps` steps; `step` of them are done."""

    def __init__(
        self,
        net: ViT,
        parts: Quantized,
        images: Tensor,
        steps: int,
        seed: int,
        team: Team,
        devices: Sequence[str],
    ) -> None:
        self.steps, self.step, self.seed, self.team = steps, 0, seed, team
        self.parts, self.devices = parts, list(devices)
        held = torch.arange(len(images)) % HELD_OUT == HELD_OUT - 1
        if not held.any():
            held[-1] = True
        self.images, self.held = images[~held], images[held][:MOST_HELD_OUT]
        self.student = Student(net, parts).to(self.devices[0])
        self.replicas = [self.student, *(copy.deepcopy(self.student).to(d) for d in self.devices[1:])]
        self.teachers = [_Teacher(net, device) for device in self.devices]
        self.knobs = self.student.knobs()
        self.moments = [[torch.zeros_like(k.value) for k in self.knobs] for _ in range(2)]
        self.identity = _identity(images, parts, steps, seed)
        self.spreads, self.exact = self._measure_teacher()
        self.error = self.error_before = self.least = self._held_out_error()
        self.best_values: list[Tensor] = []

    def advance(self) -> float:
        """Makes a step; returns its loss."""
        self.student.train()
        order, images = list(self._parts()), BATCH
        loss, gradients = 0.0, [torch.zeros_like(k.value) for k in self.knobs]
        for part_loss, part_gradients in self.team.map(self._gradients, enumerate(order)):
            loss += part_loss / images
            for total, gradient in zip(gradients, part_gradients, strict=True):
                total.add_(gradient.to(total.device), alpha=1 / images)
        self._adam(gradients)
        self.step += 1
        if self.step % max(1, self.steps // CHECKS) == 0 or self.step == self.steps:
            self.error = self._held_out_error()
            if self.error < self.least:
                self.least, self.best_values = (
                    self.error,
                    [k.value.detach().cpu().clone() for k in self.knobs],
                )
        return loss

    def best(self) -> Quantized:
        """Returns the state of the least error on held-out images."""
        if not self.best_values:
            return self.parts
        self._set(self.best_values)
        self.student.cpu()
        return self.student.quantized()

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint holds."""
        return {
            "tuning": self.identity,
            "step": self.step,
            "errors": [self.error, self.least],
            "values": [k.value.detach().cpu() for k in self.knobs],
            "moments": [[m.cpu() for m in moments] for moments in self.moments],
            "best": self.best_values,
        }

    def restore(self, path: Path) -> None:
        """Continues from a checkpoint."""
        state = files.load(path)
        if state.get("tuning") != self.identity:
            raise files.CheckpointError(
                f"'{path}' is of a run with another network, images, steps or seed: remove it to begin anew"
            )
        with files.reading(path), torch.no_grad():
            self.step = int(state["step"])
            self.error, self.least = state["errors"]
            self._set(state["values"])
            for mine, loaded in zip(self.moments, state["moments"], strict=True):
                for moment, value in zip(mine, loaded, strict=True):
                    moment.copy_(value)
            self.best_values = state["best"]

    @torch.no_grad()
    def _set(self, values: Sequence[Tensor]) -> None:
        for knob, value in zip(self.knobs, values, strict=True):
            knob.value.copy_(value)

    def _parts(self) -> Iterator[Tensor]:
        """Yields the images of the next step, augmented, `PART` at a time."""
        count = len(self.images)
        places = torch.arange(self.step * BATCH, (self.step + 1) * BATCH)
        index = [int(_permutation(count, self.seed, int(p) // count)[int(p) % count]) for p in places]
        generator = torch.Generator().manual_seed(_number(self.seed, self.step))
        for start in range(0, BATCH, PART):
            yield torch.stack([_augmented(self.images[i], generator) for i in index[start : start + PART]])

    def _gradients(self, numbered: tuple[int, Tensor]) -> tuple[float, list[Tensor]]:
        """Returns the loss of a few images, summed, and its gradients."""
        number, images = numbered
        place = number % len(self.devices)
        student = self.replicas[place]
        images = images.to(self.devices[place])
        exact = self.teachers[place](images)
        values = [k.value for k in student.knobs()]
        with torch.enable_grad():
            loss = self._loss(student(images), exact) * len(images)
            gradients = torch.autograd.grad(loss, values)
        return float(loss.detach()), list(gradients)

    def _loss(self, found: Output, exact: Output) -> Tensor:
        pairs = zip(_tensors(found), _tensors(exact), self.spreads, strict=True)
        terms = [F.mse_loss(x, y) / spread for x, y, spread in pairs if y.numel()]
        return torch.stack(terms).sum()

    @torch.no_grad()
    def _adam(self, gradients: list[Tensor]) -> None:
        """Changes the student by Adam (Kingma and Ba, 2015), each knob in its own unit, with a cosine's rate."""
        share = 0.5 * (1 + math.cos(math.pi * self.step / self.steps))
        corrections = [1 - decay ** (self.step + 1) for decay in DECAYS]
        for knob, gradient, first, second in zip(self.knobs, gradients, *self.moments, strict=True):
            gradient.mul_(knob.unit)
            first.lerp_(gradient, 1 - DECAYS[0])
            second.lerp_(gradient.square_(), 1 - DECAYS[1])
            change = (first / corrections[0]) / ((second / corrections[1]).sqrt_() + 1e-12)
            knob.value.sub_(change.mul_(knob.unit).mul_(RATES[knob.kind] * share))
        self.student.keep_inside()
        for replica in self.replicas[1:]:
            replica.load_state_dict(self.student.state_dict())

    def _measure_teacher(self) -> tuple[list[float], list[Tensor]]:
        """Returns the variances of the teacher's outputs on the held-out images, and its features for each part."""
        outputs = [self.teachers[0](part.to(self.devices[0])) for part in self.held.split(PART)]
        spreads = []
        for tensors in zip(*(_tensors(output) for output in outputs), strict=True):
            values = torch.cat(tensors).double()
            values = values.flatten(0, 1) if values.ndim == 3 and values.shape[1] > 2 else values
            spreads.append(float(values.var(dim=0, correction=0).mean()) + 1e-12 if values.numel() else 1.0)
        return spreads, [output.features for output in outputs]

    @torch.no_grad()
    def _held_out_error(self) -> float:
        self.student.eval()
        square = 0.0
        parts = self.held.split(PART)
        found = self.team.map(lambda part: self.student(part.to(self.devices[0])).features, parts)
        for features, exact in zip(found, self.exact, strict=True):
            square += float((features - exact).square().sum(dtype=torch.float64))
        return math.sqrt(square / sum(map(torch.numel, self.exact)) / self.spreads[1])


def _tensors(output: Output) -> tuple[Tensor, Tensor, Tensor]:
    return output.tokens, output.features, output.logits


def _number(*values: int) -> int:
    """Returns a seed that depends on all values."""
    return int.from_bytes(hashlib.sha256(repr(values).encode()).digest()[:7], "big")


def _permutation(count: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(_number(seed, -1, epoch)))


def _augmented(image: Tensor, generator: torch.Generator) -> Tensor:
    """Returns a random crop of an image [channels, height, width], resized to its size, mirrored half of the time."""
    _, height, width = image.shape
    size, y, x, mirrored = torch.rand(4, generator=generator).tolist()
    size = LEAST_CROP + (1 - LEAST_CROP) * size
    rows, columns = max(1, round(height * size)), max(1, round(width * size))
    top, left = round(y * (height - rows)), round(x * (width - columns))
    crop = image[None, :, top : top + rows, left : left + columns]
    crop = F.interpolate(crop, (height, width), mode="bilinear", align_corners=False)[0]
    return crop.flip(-1) if mirrored < 0.5 else crop


def _identity(images: Tensor, parts: Quantized, steps: int, seed: int) -> str:
    """Returns a digest of what a run depends on."""
    digest = hashlib.sha256(f"{steps} {seed} {BATCH} {tuple(images.shape)}".encode())
    digest.update(images.contiguous().numpy().tobytes())
    for block in parts.blocks:
        for layer in (block.qkv, block.proj, block.fc1, block.fc2):
            for array in (layer.weight, layer.bias, layer.bits):
                digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _moved(net: ViT, device: torch.device) -> ViT:
    """Returns a copy of the network on a device."""

    def part(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to(device)
        if isinstance(value, (Linear, Norm)):
            return type(value)(**{name: part(each) for name, each in vars(value).items()})
        return value

    copied = copy.copy(net)
    copied.blocks = [copy.copy(block) for block in net.blocks]
    for owner in (copied, *copied.blocks):
        for name, value in vars(owner).items():
            setattr(owner, name, part(value))
    return copied
