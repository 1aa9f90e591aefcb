"""Tunes a quantized network without labels: block by block, its residual stream comes closer to the float network's.

Block reconstruction (BRECQ, arXiv 2102.05426): the inputs of a block are what the tuned blocks before it give, the
targets are what the float block gives on the float network's inputs, so a block also makes up for errors of earlier
blocks. Gradients pass roundings straight through (Bengio et al., arXiv 1308.3432); row scales and activation grids are
learned as in LSQ (arXiv 1902.08153). A latent weight starts inside its code's cell, where the float weight allows it,
so nothing jumps at the start. Depends on: torch, `quasar_rt.train` (checkpoints).
"""

from __future__ import annotations

import copy
import hashlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..train import checkpoint as files
from .float_vit import ViT, embedded, forward_block, outputs
from .inputs import varied
from .layerwise import Quantized
from .student import Knob, Student, StudentBlock
from .team import Team

__all__ = ["TuningReport", "tune"]

#: Images of a step, and those whose gradients are computed at a time (which settles the order of all sums).
BATCH, PART = 16, 4
#: The first step of Adam, about, in a knob's units, by its kind.
RATES = {"codes": 1e-2, "steps": 1e-3, "biases": 1e-3, "norms": 1e-3, "grids": 1e-3}
#: Adam's decays of the two moments.
DECAYS = (0.9, 0.99)
#: Of the images, one in so many is held out, and at most so many of them.
HELD_OUT, MOST_HELD_OUT = 8, 32


@dataclass(frozen=True)
class TuningReport:
    """Reports a step of a block.

    An error is the mean squared difference from the float block's outputs as a share of their variance, that of the
    patch tokens and that of the prefix tokens added up. `error` is None until the last step of a block.
    """

    block: str
    step: int
    steps: int
    loss: float
    error_before: float
    error: float | None


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
        batches: normalised images [images, channels, height, width] without labels; their mirror images are used as
            well and, for a network without classes, as many `varied` images. The residual streams of all of them are in
            memory, for both networks. One image in eight is held out and makes no varied ones: a block that comes no
            closer on these stays as it was, and so does the network if its outputs come no closer.
        steps: of each block, `BATCH` images each.
        seed: of the order of images.
        checkpoint: a file that is written after each block. If it exists, the run continues after its last block.
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
    path = None if checkpoint is None else Path(checkpoint)
    with Team() as team:
        run = _Run(net, parts, images, steps, seed, team, devices or _devices(), progress)
        done = [] if path is None or not path.exists() else run.restore(path)
        for number, block in enumerate(net.blocks):
            exact = run.each(partial(forward_block, block), run.exact)
            run.pass_untuned(number)
            if number < len(done):
                run.set(number, done[number])
            else:
                run.tune_block(number, exact)
                if path is not None:
                    files.save(run.state(number), path)
            run.advance(number, exact)
        return run.student.quantized() if run.outputs_came_closer() else parts


def _devices() -> list[str]:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [f"cuda:{i}" for i in range(count)] or ["cpu"]


class _Run:
    """Tunes blocks in order; `found` and `exact` are the residual streams of both networks in front of the next.

    `untuned` is that of the network as it was given, for the held-out images.
    """

    def __init__(
        self,
        net: ViT,
        parts: Quantized,
        images: Tensor,
        steps: int,
        seed: int,
        team: Team,
        devices: Sequence[str],
        progress: Callable[[TuningReport], object],
    ) -> None:
        self.net, self.steps, self.seed, self.team = net, steps, seed, team
        self.devices, self.progress = list(devices), progress
        self.identity = _identity(images, parts, steps, seed)
        self.student = Student(net, parts)
        held = torch.arange(len(images)) % HELD_OUT == HELD_OUT - 1
        held[-1] |= not held.any()
        first, last = images[~held], images[held][:MOST_HELD_OUT]
        if not len(net.head.weight):
            first = torch.cat([first, *varied([first])])
        self.count = 2 * len(first)
        images = torch.cat([first, first.flip(-1), last])
        self.found = self.each(self.student.embedded, images)
        self.exact = self.each(lambda part: embedded(net, part), images)
        self.untuned = self.found[self.count :]

    def tune_block(self, number: int, exact: Tensor) -> None:
        """Tunes a block to give `exact`, and sets it back where the held-out images come no closer."""
        block = self._block(number)
        loss = _Loss(exact, len(self.net.prefix))
        before = [knob.value.detach().clone() for knob in block.knobs()]
        error_before = self._held_out(block, exact, loss)
        adam = _Adam(block.knobs(), self.steps)
        replicas = [copy.deepcopy(block).to(device).train() for device in self.devices]
        for step in range(self.steps):
            total, gradients = 0.0, [torch.zeros_like(value) for value in before]
            for value, found in self.team.map(
                lambda part: _gradients(replicas, self.student.residual_scale, loss, *part),
                self._parts(number, step, exact),
            ):
                total += value / BATCH
                for mine, gradient in zip(gradients, found, strict=True):
                    mine.add_(gradient.to(mine.device), alpha=1 / BATCH)
            adam.step(gradients)
            block.keep_inside()
            for replica in replicas:
                replica.load_state_dict(block.state_dict())
            error = self._held_out(block, exact, loss) if step + 1 == self.steps else None
            if error is not None and error >= error_before:
                self.set(number, before)
            self.progress(TuningReport(f"blocks.{number}", step + 1, self.steps, total, error_before, error))

    def advance(self, number: int, exact: Tensor) -> None:
        """Replaces both residual streams by those behind a block; `exact` is that of the float network."""
        block = self._block(number)
        self.found = self.each(lambda x: block.quantized(x, self.student.residual_scale), self.found)
        self.exact = exact

    def pass_untuned(self, number: int) -> None:
        """Passes the held-out images through a block that was not tuned yet."""
        block = self._block(number)
        self.untuned = self.each(lambda x: block.quantized(x, self.student.residual_scale), self.untuned)

    def outputs_came_closer(self) -> bool:
        """Returns whether logits or embeddings of the held-out images are closer to the float network's.

        Both go through its own last norm and head.
        """
        streams = (self.exact[self.count :], self.untuned, self.found[self.count :])
        exact, before, after = (self.each(partial(outputs, self.net), stream) for stream in streams)
        return float((after - exact).abs().mean()) < float((before - exact).abs().mean())

    def state(self, number: int) -> dict[str, Any]:
        """Returns what a checkpoint holds after a block."""
        blocks = [self._block(i).knobs() for i in range(number + 1)]
        return {
            "tuning": self.identity,
            "blocks": [[knob.value.detach() for knob in knobs] for knobs in blocks],
        }

    def restore(self, path: Path) -> list[list[Tensor]]:
        """Returns the values of the blocks that are done."""
        state = files.load(path)
        if state.get("tuning") != self.identity:
            raise files.CheckpointError(
                f"'{path}' is of a run with another network, images, steps or seed: remove it to begin anew"
            )
        blocks: list[list[Tensor]] = state["blocks"]
        return blocks

    @torch.no_grad()
    def set(self, number: int, values: Sequence[Tensor]) -> None:
        """Sets what is tuned of a block."""
        for knob, value in zip(self._block(number).knobs(), values, strict=True):
            knob.value.copy_(value)

    def _block(self, number: int) -> StudentBlock:
        return self.student.blocks[number]

    @torch.no_grad()
    def each(self, function: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
        """Returns the function's results for all values, `PART` of them at a time."""
        return torch.cat(list(self.team.map(function, values.split(PART))))

    def _parts(self, number: int, step: int, exact: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yields a step's inputs and targets, `PART` images at a time, numbered."""
        generator = torch.Generator().manual_seed(_number(self.seed, number, step))
        index = torch.randint(self.count, (BATCH,), generator=generator)
        for i, part in enumerate(index.split(PART)):
            yield i, self.found[part], exact[part]

    def _held_out(self, block: StudentBlock, exact: Tensor, loss: _Loss) -> float:
        found = self.each(lambda x: block.quantized(x, self.student.residual_scale), self.found[self.count :])
        return float(loss(found, exact[self.count :]))


class _Loss:
    """The squared error of a block's outputs as a share of their variance, of patch and of prefix tokens."""

    def __init__(self, exact: Tensor, prefix: int) -> None:
        self.prefix = prefix
        self.patches = float(exact[:, prefix:].flatten(0, 1).var(dim=0).mean()) + 1e-12
        self.tokens = float(exact[:, :prefix].var(dim=0).mean()) + 1e-12 if prefix else 1.0

    def __call__(self, found: Tensor, exact: Tensor) -> Tensor:
        square = (found - exact).square()
        loss = square[:, self.prefix :].mean() / self.patches
        return loss + square[:, : self.prefix].mean() / self.tokens if self.prefix else loss


def _gradients(
    replicas: list[StudentBlock], residual_scale: Tensor, loss: _Loss, number: int, x: Tensor, y: Tensor
) -> tuple[float, list[Tensor]]:
    """Returns the loss of a few images, summed, and its gradients."""
    block = replicas[number % len(replicas)]
    values = [knob.value for knob in block.knobs()]
    device = values[0].device
    with torch.enable_grad():
        found = block.quantized(x.to(device), residual_scale.to(device))
        total = loss(found, y.to(device)) * len(x)
        return float(total.detach()), list(torch.autograd.grad(total, values))


class _Adam:
    """Adam (Kingma and Ba, arXiv 1412.6980), each knob in its own unit, at rates that fall to 0 along a cosine."""

    def __init__(self, knobs: list[Knob], steps: int) -> None:
        self.knobs, self.steps, self.done = knobs, steps, 0
        self.first, self.second = ([torch.zeros_like(knob.value) for knob in knobs] for _ in range(2))

    @torch.no_grad()
    def step(self, gradients: list[Tensor]) -> None:
        """Changes the knobs' values; changes the gradients, too."""
        share = 0.5 * (1 + math.cos(math.pi * self.done / self.steps))
        self.done += 1
        first, second = (1 - decay**self.done for decay in DECAYS)
        for knob, gradient, mean, square in zip(self.knobs, gradients, self.first, self.second, strict=True):
            gradient.mul_(knob.unit)
            mean.lerp_(gradient, 1 - DECAYS[0])
            square.lerp_(gradient.square_(), 1 - DECAYS[1])
            change = (mean / first) / ((square / second).sqrt_() + 1e-20)
            knob.value.sub_(change.mul_(knob.unit).mul_(RATES[knob.kind] * share))


def _number(*values: int) -> int:
    """Returns a seed that depends on all values."""
    return int.from_bytes(hashlib.sha256(repr(values).encode()).digest()[:7], "big")


def _identity(images: Tensor, parts: Quantized, steps: int, seed: int) -> str:
    """Returns a digest of what a run depends on."""
    digest = hashlib.sha256(f"{steps} {seed} {BATCH} {PART} {RATES} {tuple(images.shape)}".encode())
    digest.update(images.contiguous().numpy().tobytes())
    for block in parts.blocks:
        for layer in (block.qkv, block.proj, block.fc1, block.fc2):
            for array in (layer.weight, layer.bias, layer.bits):
                digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
