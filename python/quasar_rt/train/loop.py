"""The training loop of one stage: steps, epochs, and the checkpoints between them.

Everything random in a step follows from the seed, the stage and the step's number. Depends on: torch,
`quasar_rt.train`.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InvalidValueError, QuasarError
from ..space import Architecture, Space
from . import checkpoint
from .batches import Batches
from .data import key_of
from .evaluation import evaluate_parts
from .job import Job, Row
from .mixing import Mixing
from .model import ViT
from .optimizer import SliceAdamW
from .progress import EpochProgress
from .recipe import Stage
from .runtime import can_compile, fused
from .schedule import kept_branches, learning_rate, sample_network
from .slices import Region, union
from .teacher import distillation_loss

__all__ = ["DivergedError", "Loop", "Network", "StagePlan", "Stopped", "run_stage"]

#: A network of a step by its kind, ``largest``, ``smallest`` or ``random``; None is the largest.
Network = tuple[str, Architecture | None]


class Stopped(QuasarError):
    """Training was asked to stop (a signal, or a limit of steps) and wrote a checkpoint to resume from."""


class DivergedError(QuasarError, ArithmeticError):
    """The loss or the gradient is no longer a finite number."""


@dataclass(frozen=True)
class StagePlan:
    """The networks and the schedule of one stage.

    Each step trains `networks` and, where `sampled` is a space, random networks of it. `identity` is a part of the
    checkpoints' digest, and `extra` goes into the finished stage's file.
    """

    name: str
    schedule: Stage | None
    networks: tuple[Network, ...] = (("largest", None),)
    sampled: Space | None = None
    identity: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


def run_stage(job: Job, model: ViT, plan: StagePlan) -> ViT:
    """Trains a stage, resumes it, or reads it if it is finished; returns the averaged network.

    Raises:
        Stopped: a signal or the limit of steps.
        DivergedError: the loss is not finite.
        CheckpointError: the stage's checkpoint is another run's or damaged.
    """
    name = plan.name
    path, digest = job.finished(name), job.digest(name, plan.identity)
    if job.exists(path):
        saved = job.read(path, digest)
        average = copy.deepcopy(model)
        with checkpoint.reading(path):
            checkpoint.load_weights(average, saved["model"], path)
            job.seconds[name], job.history[name] = _seconds(saved["seconds"]), _rows(saved)
        average.to(job.group.device)
        job.log(f"{name}: already trained, read from {path}")
        return average
    loop = Loop(job, model, plan, digest)
    average = loop.run()
    job.seconds[name], job.history[name] = sum(row["seconds"] for row in loop.rows), loop.rows
    saved = {
        **plan.extra,
        "digest": digest,
        "data": job.data.identity,
        "model": average.state_dict(),
        "seconds": job.seconds[name],
        "history": loop.rows,
    }

    def finish() -> None:
        checkpoint.save(saved, path)
        job.part(name).unlink(missing_ok=True)

    job.group.from_first(finish)
    return average


def _rows(saved: Mapping[str, Any]) -> list[Row]:
    """Returns a checkpoint's rows of epochs, with their times checked."""
    return [{**row, "seconds": _seconds(row["seconds"])} for row in saved["history"]]


def _seconds(value: Any) -> float:
    """Checks a time of a checkpoint: the digest does not cover it."""
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"a time of {value} seconds")
    return float(value)


class Loop:
    """Trains one stage.

    Each step sums the gradients of its networks (and of all processes), clips them, updates what they touched, and
    moves the average. `rows` has the finished epochs, `sums` the epoch's sums over its steps so far.
    """

    def __init__(self, job: Job, model: ViT, plan: StagePlan, digest: str) -> None:
        assert plan.schedule is not None
        self.job, self.plan, self.name, self.schedule = job, plan, plan.name, plan.schedule
        self.digest, self.settings, self.sandwich = digest, job.recipe.optimizer, job.recipe.sandwich
        o, group = self.settings, job.group
        self.model = model.to(group.device).train()
        self.model.activate(None)
        self.model.recompute = o.recompute
        self.average: ViT = copy.deepcopy(self.model)
        self.pairs = list(zip(self.model.parameters(), self.average.parameters(), strict=True))
        self.optimizer = SliceAdamW(
            self.model, lr=self.schedule.learning_rate, betas=(o.beta1, o.beta2), weight_decay=o.weight_decay
        )
        self.batches = Batches(
            job.data.train,
            job.recipe.data,
            job.recipe.seed,
            self.name,
            o.batch,
            group.rank,
            group.world,
            group.device,
        )
        self.teacher = job.teacher_of(self.name)
        self.mixing = Mixing(job.recipe.data, model.config.classes, o.label_smoothing)
        images = range(o.batch)[self.batches.part]
        if self.mixing.pairs and len(images) % 2:
            raise InvalidValueError(
                f"mixup and cutmix take pairs of images, but a process has {len(images)} of the batch of {o.batch}: "
                "make optimizer.batch a multiple of twice the number of processes"
            )
        self.total = self.batches.steps * self.schedule.epochs
        self.resumed_at = self.last_save = time.monotonic()
        self.step = 0
        self.rows: list[Row] = []
        self.sums: dict[str, float] = {}
        self.elapsed = 0.0
        self.logits: Callable[..., Tensor] = self._compiled()

    def _compiled(self) -> Any:
        self.fuse = False
        if not self.settings.compile:
            return self.model
        if self.job.group.device.type == "cpu" and not can_compile():
            self.job.log(
                f"{self.name}: no C++ compiler found, so torch.compile is left out; this takes about twice as long"
            )
            return self.model
        torch.compiler.reset()
        if self.plan.sampled is not None:
            # Each sampled network has another shape, and each shape would be compiled: the quantizers alone are.
            self.fuse = self.model.quantized
            return self.model
        return torch.compile(self.model)

    def run(self) -> ViT:
        """Trains to the stage's end; returns the average."""
        self._resume()
        while self.step < self.total:
            if self.model.quantized and self.step >= self.total - self.batches.steps:
                self._become_exact()
            with fused(self.fuse):
                self._epoch()
        self.average.activate(None)
        if self.total == 0:
            self.job.log(f"{self.name}: no epochs")
        return self.average

    def _resume(self) -> None:
        part = self.job.part(self.name)
        if not self.job.exists(part):
            return
        state = self.job.read(part, self.digest)
        with checkpoint.reading(part):
            checkpoint.load_weights(self.model, state["model"], part)
            checkpoint.load_weights(self.average, state["average"], part)
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.rows, self.sums = state["step"], _rows(state), state["sums"]
            self.elapsed = _seconds(state["elapsed"])
            if not 0 <= self.step <= self.total:
                raise ValueError(f"step {self.step} of {self.total}")
        self.job.write_log("", self.rows)
        at = f"step {self.step % self.batches.steps} of epoch {self.step // self.batches.steps + 1}"
        self.job.log(f"{self.name}: continues at {at}, read from {part}")

    def _become_exact(self) -> None:
        """Trains the last epoch on the integer model's bits, with the residual's range as the average has it then."""
        # Its integers are NumPy's, which torch.compile cannot follow: the quantizers alone are compiled.
        self.fuse |= self.logits is not self.model
        self.logits, self.model.exact = self.model, True
        if self.step == self.total - self.batches.steps:
            images, _ = self.job.data.train.first(self.job.recipe.quantization.calibration)
            self.average.activate(None)
            self.average.calibrate(images, None)
            self.job.group.broadcast(self.average)
            self.model.residual_scale.copy_(self.average.residual_scale)

    def _save(self) -> None:
        """Writes the checkpoint within the stage; all processes call it, and fail if the first one cannot write."""
        self.job.group.from_first(lambda: checkpoint.save(self._state(), self.job.part(self.name)))
        self.last_save = time.monotonic()

    def _state(self) -> dict[str, Any]:
        epoch, position = divmod(self.step, self.batches.steps)
        return {
            "digest": self.digest,
            "data": self.job.data.identity,
            "stage": self.name,
            "step": self.step,
            "total_steps": self.total,
            "epoch": epoch,
            "sampler_position": position * self.settings.batch,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": self.rows,
            "sums": self.sums,
            "elapsed": self.elapsed + time.monotonic() - self.resumed_at,
        }

    def _epoch(self) -> None:
        job, recipe, steps = self.job, self.job.recipe, self.batches.steps
        epoch = self.step // steps
        first, last = self.step, (epoch + 1) * steps
        title, stop = f"{self.name} {epoch + 1:3d}/{self.schedule.epochs}", False
        self.resumed_at = self.last_save = time.monotonic()
        if epoch * steps == first:
            self.sums, self.elapsed = {}, 0.0
        with EpochProgress(title, first % steps, steps, job.log, quiet=not job.group.first) as progress:
            for x, y in self.batches.between(first, last):
                stop, late = self._step(x, y)
                progress.at(self.step - epoch * steps, self._mean_loss)
                if self.step == last:
                    break
                due = recipe.checkpoint_every and self.step % recipe.checkpoint_every == 0
                if stop or due or late:
                    self._save()
                if stop:
                    raise self._stopped(f"{title}, step {self.step - epoch * steps} of {steps}")
        row = self._end_epoch(epoch)
        self._save()
        job.write_log(self.name, self.rows)
        top1 = ", ".join(f"{kind} {row[f'top1_{kind}']:.2%}" for kind, _ in self.plan.networks)
        job.log(f"{title}: loss {row['loss']:.4f}, validation top-1 {top1}, {row['seconds']:.1f} s")
        if stop:
            raise self._stopped(title)

    def _end_epoch(self, epoch: int) -> Row:
        """Evaluates the average, adds the epoch's row and returns the row."""
        steps = self.batches.steps
        row: Row = {"stage": self.name, "epoch": epoch + 1, "steps": steps}
        row |= {key: total / steps for key, total in self.sums.items()}
        row["learning_rate"] = learning_rate(self.schedule, self.step - 1, self.total)
        kinds, architectures = zip(*self.plan.networks, strict=True)
        found = evaluate_parts(self.average, architectures, self.job.data.validation, self.job.group)
        row |= {f"top1_{kind}": top1 for kind, top1 in zip(kinds, found, strict=True)}
        row["seconds"] = self.elapsed + time.monotonic() - self.resumed_at
        self.rows.append(row)
        self.sums, self.elapsed = {}, 0.0
        self.resumed_at = time.monotonic()
        return row

    def _stopped(self, where: str) -> Stopped:
        why = self.job.stopping or "limit of steps"
        return Stopped(
            f"stopped ({why}) at {where}; checkpoint written: the same command continues from there"
        )

    def _mean_loss(self) -> str:
        done = self.step % self.batches.steps or self.batches.steps
        return f"loss {self.sums['loss'] / done:.4f}"

    def networks(self) -> list[Network]:
        """Returns the networks of this step."""
        fixed = list(self.plan.networks)
        if self.plan.sampled is None:
            return fixed
        s, seed = self.sandwich, self.job.recipe.seed
        return fixed + [
            ("random", sample_network(self.plan.sampled, seed, self.step, k, s.alike))
            for k in range(s.random)
        ]

    def _step(self, x: Tensor, y: Tensor) -> tuple[bool, bool]:
        """Makes one step; returns whether to stop after it, and whether a checkpoint is due by the clock."""
        o, group = self.settings, self.job.group
        for g in self.optimizer.param_groups:
            g["lr"] = learning_rate(self.schedule, self.step, self.total)
        networks = self.networks()
        x, y = self.mixing(x, y, key_of(self.job.recipe.seed, self.name, "mixing", self.step, group.rank))
        kept = [self.kept(k, architecture) for k, (_, architecture) in enumerate(networks)]
        losses = torch.zeros(len(networks), device=group.device)
        touched: list[dict[str, Region]] = []
        for piece in torch.arange(len(y)).chunk(o.accumulate):
            part = slice(int(piece[0]), int(piece[-1]) + 1)
            pieces = [None if keep is None else keep[:, :, part].to(group.device) for keep in kept]
            found, touched = self.gradients(networks, x[part], y[part], pieces)
            losses += found
        stop = self.job.stopping != "" or self.job.steps_left <= 1
        # The first process's clock counts for all.
        late = group.first and time.monotonic() - self.last_save > 60 * self.job.recipe.checkpoint_minutes
        summed = torch.cat([losses, torch.tensor([float(stop), float(late)], device=losses.device)])
        *step_losses, stops, lates = group.sum_gradients(self.model.parameters(), summed).tolist()
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), o.clip))
        if not math.isfinite(sum(step_losses) + norm):
            # The baseline has no stage of its own in the recipe.
            key = "quantized" if self.name == "baseline" else self.name
            raise DivergedError(
                f"{self.name}: loss {step_losses} and gradient norm {norm} at step {self.step}: lower "
                f"{key}_stage.learning_rate or optimizer.clip"
            )
        self.optimizer.step(union(touched))
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.job.steps_left -= 1
        with torch.no_grad():
            # The average of few steps forgets faster.
            weight = max(1 - o.ema, 1 / (self.step + 1))
            torch._foreach_lerp_([a for _, a in self.pairs], [p for p, _ in self.pairs], weight)
        self._add_to_sums([kind for kind, _ in networks], step_losses, norm)
        return stops > 0, lates > 0

    def kept(self, k: int, architecture: Architecture | None) -> Tensor | None:
        """Returns the branches that this process's samples keep in the step's `k`-th network."""
        if self.model.exact:
            return None
        depth = (architecture or self.model.config.architecture).depth
        rate, batch = self.job.recipe.drop_path, self.settings.batch
        kept = kept_branches(rate, depth, batch, self.job.recipe.seed, self.name, "drop_path", self.step, k)
        return None if kept is None else kept[:, :, self.batches.part]

    def gradients(
        self, networks: Sequence[Network], x: Tensor, y: Tensor, kept: Sequence[Tensor | None]
    ) -> tuple[Tensor, list[dict[str, Region]]]:
        """Adds the networks' gradients for a piece of the batch; returns their losses and what they touch."""
        o, device = self.settings, self.job.group.device.type
        # The mean over the joint batch, of which this is a part, and over the networks.
        share = len(y) / o.batch
        bfloat16 = o.bfloat16 and not (self.model.quantized and device == "cpu")
        largest: Tensor | None = None
        answers: Tensor | None = None
        if self.teacher is not None:
            with torch.autocast(device, torch.bfloat16, enabled=o.bfloat16):
                answers = self.teacher(x)
        losses, touched = [], []
        for (kind, architecture), keep in zip(networks, kept, strict=True):
            if len(networks) > 1:
                self.model.activate(architecture)
            with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
                logits = self.logits(x) if keep is None else self.logits(x, keep)
            loss = self._loss(logits.float(), y, largest, answers)
            if kind == "largest":
                largest = logits.detach().float()
            (loss * (share / len(networks))).backward()
            losses.append(loss.detach() * share)
            touched.append(self.model.touched())
        return torch.stack(losses), touched

    def _add_to_sums(self, kinds: list[str], losses: list[float], norm: float) -> None:
        sums = {"loss": sum(losses) / len(losses), "gradient_norm": norm}
        for kind in dict.fromkeys(kinds):
            of_kind = [value for k, value in zip(kinds, losses, strict=True) if k == kind]
            sums[f"loss_{kind}"] = sum(of_kind) / len(of_kind)
        rate = self.optimizer.param_groups[0]["lr"]
        self.job.track(f"{self.name}/step", self.step, {**sums, "learning_rate": rate})
        for name, value in sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def _loss(self, logits: Tensor, y: Tensor, largest: Tensor | None, answers: Tensor | None) -> Tensor:
        """Returns the loss on the labels and the teacher's `answers`, or partly on the `largest` network's logits."""
        s = self.sandwich
        if largest is None or s.distillation == 0:
            return self._loss_on_labels(logits, y, answers)
        soft = distillation_loss(logits, largest, hard=False, temperature=s.temperature)
        if s.distillation == 1:
            return soft
        return s.distillation * soft + (1 - s.distillation) * self._loss_on_labels(logits, y, answers)

    def _loss_on_labels(self, logits: Tensor, y: Tensor, answers: Tensor | None) -> Tensor:
        # Mixed labels are smoothed already.
        smoothing = 0.0 if self.mixing.pairs else self.settings.label_smoothing
        recipe = self.job.recipe.teacher
        if answers is None or recipe is None:
            return F.cross_entropy(logits, y, label_smoothing=smoothing)
        taught = distillation_loss(logits, answers, recipe.hard, recipe.temperature)
        if recipe.weight == 1:
            return taught
        own = F.cross_entropy(logits, y, label_smoothing=smoothing)
        return recipe.weight * taught + (1 - recipe.weight) * own
