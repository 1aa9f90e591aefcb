"""Training: a float stage, then the same number of further epochs with and without quantizers.

The stages of a run are checkpoints in its folder, each written atomically and found again on the next start; within a
stage so is each epoch. Depends on: torch, `quasar_rt.datasets`, `quasar_rt.train`.
"""

from __future__ import annotations

import copy
import ctypes
import hashlib
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..datasets import FASHION_MNIST_CLASSES, load_fashion_mnist
from ..space import Architecture, BlockShape
from .model import ViT, ViTConfig
from .recipe import Data, Recipe, Stage
from .widths import gather_statistics, rank_rows

__all__ = ["Split", "Trained", "evaluate", "load_splits", "logits_of", "make_model", "train"]


@dataclass
class Split:
    """Images uint8 [n, channels, height, width] and labels int64 [n]."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass
class Trained:
    """What a run leaves: the averaged models and how long each stage took, in seconds."""

    quantized: ViT
    baseline: ViT
    seconds: dict[str, float]
    history: dict[str, list[dict[str, float]]]


def load_splits(recipe: Recipe, root: str | None = None) -> tuple[Split, Split]:
    """The training images, and the validation images set aside from them by the recipe's seed."""
    images, labels = load_fashion_mnist("train", root)
    x, y = torch.from_numpy(images.copy()).unsqueeze(1), torch.from_numpy(labels)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(recipe.seed))
    kept, aside = order[recipe.data.validation :], order[: recipe.data.validation]
    return Split(x[kept], y[kept]), Split(x[aside], y[aside])


def make_model(recipe: Recipe) -> ViT:
    """The recipe's network with its seeded initial weights."""
    torch.manual_seed(recipe.seed)
    m, d, fraction = recipe.model, recipe.data, recipe.quantization.eight_bit_fraction
    block = BlockShape(m.heads, m.head_dim, m.hidden, (fraction, fraction, fraction, fraction))
    return ViT(
        ViTConfig(
            height=28,
            width=28,
            channels=1,
            kernel=m.kernel,
            stride=m.stride,
            pad=m.pad,
            pad_value=m.pad_value,
            architecture=Architecture(m.embed, (block,) * m.depth),
            classes=len(FASHION_MNIST_CLASSES),
            mean=(d.mean,),
            std=(d.std,),
        )
    )


@torch.no_grad()
def logits_of(model: ViT, images: Tensor, batch: int = 500) -> Tensor:
    """Logits float32 [n, classes] in evaluation mode."""
    was = model.training
    model.eval()
    out = torch.cat([model(part) for part in images.split(batch)])
    model.train(was)
    return out


def evaluate(model: ViT, split: Split) -> float:
    """Top-1 as a fraction."""
    return float((logits_of(model, split.images).argmax(dim=1) == split.labels).double().mean())


def train(recipe: Recipe, run: Path, root: str | None = None, say: Callable[[str], None] = print) -> Trained:
    """Train the recipe in the folder `run`, or finish what an earlier start left there.

    Raises:
        ValueError: the folder holds a run of another recipe.
        FileNotFoundError: the data is missing.
    """
    keep_memory()
    run.mkdir(parents=True, exist_ok=True)
    training, validation = load_splits(recipe, root)
    seconds: dict[str, float] = {}
    history: dict[str, list[dict[str, float]]] = {}

    def stage(name: str, model: ViT, schedule: Stage, seed: int) -> ViT:
        path = run / f"{name}.pt"
        digest = stage_digest(recipe, name)
        if path.exists():
            saved = torch.load(path, weights_only=True)
            if saved["recipe"] != digest:
                raise ValueError(f"{path} belongs to another recipe: choose another folder, or remove it")
            say(f"{name}: already trained, read from {path}")
            average = copy.deepcopy(model)
            average.load_state_dict(saved["model"])
        else:
            average, rows = _fit(
                name,
                model,
                recipe,
                schedule,
                training,
                validation,
                seed,
                say,
                run / f"{name}.part.pt",
                digest,
            )
            took = sum(row["seconds"] for row in rows)
            saved = {"recipe": digest, "model": average.state_dict(), "seconds": took, "history": rows}
            save(saved, path)
            (run / f"{name}.part.pt").unlink(missing_ok=True)
        seconds[name], history[name] = saved["seconds"], saved["history"]
        return average

    start = stage("float", make_model(recipe), recipe.float_stage, recipe.seed)
    quantized = copy.deepcopy(start)
    prepare(quantized, recipe, training, say)
    quantized = stage("quantized", quantized, recipe.quantized_stage, recipe.seed + 1)
    baseline = stage("baseline", copy.deepcopy(start), recipe.quantized_stage, recipe.seed + 1)
    return Trained(quantized, baseline, seconds, history)


def stage_digest(recipe: Recipe, stage: str) -> str:
    """Of what the stage depends on: the float stage is the same whatever follows it."""
    table = recipe.as_dict()
    if stage == "float":
        del table["quantized_stage"], table["quantization"]
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()


def prepare(model: ViT, recipe: Recipe, training: Split, say: Callable[[str], None]) -> None:
    """Rank the rows, set their widths and the activations' ranges, and turn the quantizers on."""
    q = recipe.quantization
    part = slice(0, q.scoring)
    rank_rows(model, gather_statistics(model, training.images[part], training.labels[part]))
    model.calibrate(training.images[: q.calibration], q.percentile)
    model.quantized = True
    eight = sum(int((layer.bits == 8).sum()) for layer in model.matrices().values())
    rows = sum(len(layer.bits) for layer in model.matrices().values())
    say(f"quantizers: {eight} of {rows} rows are 8-bit, {rows - eight} are 4-bit")


def _fit(
    name: str,
    model: ViT,
    recipe: Recipe,
    schedule: Stage,
    training: Split,
    validation: Split,
    seed: int,
    say: Callable[[str], None],
    part: Path,
    digest: str,
) -> tuple[ViT, list[dict[str, float]]]:
    o = recipe.optimizer
    generator = torch.Generator().manual_seed(seed)
    model.train()
    average = copy.deepcopy(model)
    pairs = [(p, a) for p, a in zip(model.parameters(), average.parameters(), strict=True)]
    # Without quantizers their parameters get no gradient, and the optimizer leaves them alone.
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": o.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=schedule.learning_rate,
        betas=(o.beta1, o.beta2),
        fused=True,
    )

    def loss_of(x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=o.bfloat16 and not model.quantized):
            logits = model(x)
        return F.cross_entropy(logits.float(), y, label_smoothing=o.label_smoothing)

    compiled = o.compile and can_compile()
    if o.compile and not compiled:
        say(f"{name}: no C++ compiler found, so torch.compile is left out; this takes about twice as long")
    if compiled:
        torch.compiler.reset()
    step_loss = torch.compile(loss_of) if compiled else loss_of
    steps = len(training) // o.batch
    total = steps * schedule.epochs
    rows: list[dict[str, float]] = []
    if part.exists() and (saved := torch.load(part, weights_only=True))["recipe"] == digest:
        model.load_state_dict(saved["model"])
        average.load_state_dict(saved["average"])
        optimizer.load_state_dict(saved["optimizer"])
        generator.set_state(saved["generator"])
        rows = saved["history"]
        say(f"{name}: goes on after epoch {len(rows)}, read from {part}")
    step = steps * len(rows)
    for epoch in range(len(rows), schedule.epochs):
        began, losses = time.monotonic(), 0.0
        order = torch.randperm(len(training), generator=generator)
        for i in range(steps):
            index = order[i * o.batch : (i + 1) * o.batch]
            x, y = training.images[index], training.labels[index]
            x = augment(x, recipe.data, generator)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(schedule, step, total)
            loss = step_loss(x, y)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), o.clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            with torch.no_grad():
                # The average of few steps forgets faster.
                share = max(1 - o.ema, 1 / (step + 1))
                torch._foreach_lerp_([a for _, a in pairs], [p for p, _ in pairs], share)
            losses += loss.item()
            if sys.stderr.isatty() and i % 10 == 0:
                print(
                    f"\r{name} {epoch + 1}/{schedule.epochs}: step {i}/{steps}",
                    end="",
                    file=sys.stderr,
                    flush=True,
                )
        top1 = evaluate(average, validation) if len(validation) else math.nan
        took = time.monotonic() - began
        rows.append({"loss": losses / steps, "validation_top1": top1, "seconds": took})
        state = {
            "recipe": digest,
            "model": model.state_dict(),
            "average": average.state_dict(),
            "history": rows,
        }
        save({**state, "optimizer": optimizer.state_dict(), "generator": generator.get_state()}, part)
        end = "\r" if sys.stderr.isatty() else ""
        say(
            f"{end}{name} {epoch + 1:3d}/{schedule.epochs}: loss {losses / steps:.4f}, "
            f"validation top-1 {100 * top1:.2f} %, {took:.1f} s"
        )
    return average, rows


def augment(images: Tensor, data: Data, generator: torch.Generator) -> Tensor:
    """Each image mirrored with probability 1/2 and shifted by its own whole numbers of pixels, as `data` says."""
    n, _, height, width = images.shape
    if data.flip:
        mirrored = torch.rand(n, generator=generator) < 0.5
        images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(-1), images)
    if data.shift:
        dy, dx = torch.randint(0, 2 * data.shift + 1, (2, n, 1), generator=generator)
        padded = F.pad(images, (data.shift,) * 4)
        rows, columns = dy + torch.arange(height), dx + torch.arange(width)
        images = padded[
            torch.arange(n).view(-1, 1, 1, 1),
            torch.arange(images.shape[1]).view(1, -1, 1, 1),
            rows[:, None, :, None],
            columns[:, None, None, :],
        ]
    return images


def learning_rate(schedule: Stage, step: int, total: int) -> float:
    """Linear warm-up, then half a cosine down to `final` times the rate."""
    warm = round(schedule.warmup * total)
    if step < warm:
        return schedule.learning_rate * (step + 1) / warm
    progress = (step - warm) / max(1, total - warm)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return schedule.learning_rate * (schedule.final + (1 - schedule.final) * cosine)


def save(state: Any, path: Path) -> None:
    """Write a checkpoint to a temporary file, then rename it."""
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def keep_memory() -> None:
    """Keep glibc's allocator from handing pages back after each step, only to fault them in again in the next."""
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            trim_threshold, top_pad, mmap_max = -1, -2, -4  # malloc.h
            mallopt(mmap_max, 0)
            mallopt(trim_threshold, 2**31 - 1)
            mallopt(top_pad, 256 << 20)


def can_compile() -> bool:
    """Whether torch.compile has the C++ compiler that it needs on a CPU."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++"))
