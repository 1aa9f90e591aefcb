"""Training in stages: float, importance and ranges, then the supernet or the one quantized network.

The stages of a run are checkpoints in its folder, each written atomically and found again on the next start; within a
stage a checkpoint holds everything that the next step depends on. Depends on: torch, `quasar_rt.train`.
"""

from __future__ import annotations

import copy
import csv
import ctypes
import dataclasses
import json
import math
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ..datasets import DatasetError
from ..errors import InvalidValueError, QuasarError, SettingsError
from ..rows.bits import Criterion
from ..space import Architecture, Space
from . import checkpoint
from . import data as datasets
from .checkpoint import CheckpointError
from .data import AnySplit, Batches, Data
from .distributed import Group
from .model import ViT, ViTConfig
from .optimizer import SliceAdamW
from .progress import EpochProgress
from .recipe import Recipe, Stage
from .slices import union
from .widths import gather_statistics, order_by_importance, rank_rows

__all__ = [
    "DivergedError",
    "Stopped",
    "Trained",
    "check_split",
    "evaluate",
    "load_supernet",
    "logits_of",
    "make_model",
    "train",
    "train_architecture",
]

Say = Callable[[str], None]
Row = dict[str, Any]

#: Columns of ``log.csv``: one row for each epoch. Losses are means over the epoch's steps, top-1 that of the averaged
#: weights on the validation images, as a fraction.
COLUMNS = (
    "stage",
    "epoch",
    "steps",
    "loss",
    "loss_largest",
    "loss_smallest",
    "loss_random",
    "learning_rate",
    "gradient_norm",
    "top1_largest",
    "top1_smallest",
    "seconds",
)
KINDS = ("largest", "smallest", "random")


class Stopped(QuasarError):
    """Training was asked to stop (a signal, or a limit of steps) and wrote a checkpoint to go on from."""


class DivergedError(QuasarError, ArithmeticError):
    """The loss or the gradient is no longer a finite number."""


@dataclass
class Trained:
    """What a run leaves.

    `model` is the averaged network, quantized, in evaluation; of a supernet run the supernet, whose file is `path`.
    `baseline` is the float network that had as many epochs, where the recipe asks for it. `seconds` by stage; `history`
    has a row for each epoch of each stage (`COLUMNS`).
    """

    recipe: Recipe
    space: Space
    data: Data
    model: ViT
    baseline: ViT | None
    seconds: dict[str, float]
    history: dict[str, list[Row]]
    path: Path | None = None


def make_model(recipe: Recipe, space: Space, architecture: Architecture | None = None) -> ViT:
    """The space's supernet, or the one network `architecture`, with the recipe's seeded initial weights."""
    torch.manual_seed(recipe.seed)
    d = recipe.data
    channels = space.settings["image"]["channels"]
    mean, std = (values * channels if len(values) == 1 else values for values in (d.mean, d.std))
    config = ViTConfig.of(space, mean, std, layer_scale=recipe.layer_scale or None)
    if architecture is not None:
        space.encode(architecture)  # refuses what the space does not have
        config = dataclasses.replace(config, architecture=architecture)
    return ViT(config)


@torch.no_grad()
def logits_of(model: ViT, images: Tensor, batch: int = 500) -> Tensor:
    """Logits float32 [n, classes] of the active network in evaluation mode, on the CPU; images uint8 [n, c, h, w]."""
    was, device = model.training, model.prefix.device
    model.eval()
    out = torch.cat([model(part.to(device)).float().cpu() for part in images.split(batch)])
    model.train(was)
    return out


def evaluate(model: ViT, split: AnySplit, group: Group | None = None) -> float:
    """Top-1 of the active network as a fraction; each process of `group` classifies its part of the images."""
    group = group or Group()
    start, stop = (len(split) * r // group.world for r in (group.rank, group.rank + 1))
    right = 0
    for images, labels in split.batches(500, start, stop):
        right += int((logits_of(model, images).argmax(dim=1) == labels).sum())
    return float(group.sum(torch.tensor([right], dtype=torch.float64))) / len(split)


def train(
    recipe: Recipe,
    run: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    say: Say = print,
    *,
    group: Group | None = None,
    stop_after_steps: int | None = None,
    tensorboard: bool = False,
) -> Trained:
    """Train the recipe in the folder `run`, or finish what an earlier start left there.

    A space of several networks ends with ``supernet.pt`` in the folder, which `load_supernet` reads; a space of one
    network with that network, quantized (``quantized.pt``).

    Args:
        recipe: what to train.
        run: folder of the checkpoints, ``log.csv`` and ``curves.png``.
        root: folder of the data set's files, where it is not in a known place.
        say: gets a line for each epoch and stage.
        group: the processes that train together (`quasar_rt.train.distributed.join`).
        stop_after_steps: stop after so many steps of this start, as a signal does.
        tensorboard: write TensorBoard's event files too.

    Raises:
        Stopped: SIGTERM, SIGINT or `stop_after_steps`; the next start with the same arguments goes on.
        CheckpointError: the folder holds a run of another recipe or of other data, or a damaged file.
        quasar_rt.datasets.DatasetError: the data is missing; the message says how to get it.
        quasar_rt.SettingsError: the recipe lacks the stage that its space needs.
    """
    space = Space.load(recipe.space)
    several = space.size > 1
    if several and recipe.supernet_stage is None:
        raise SettingsError(
            f"recipe '{recipe.name}' is for one network of the space '{recipe.space}' ([supernet_stage] is missing); "
            "name the network: --architecture FILE (docs/training.md, 'One network of a space')"
        )
    if not several:
        _need(recipe, "quantized_stage", recipe.space)
    job = _Job.of(recipe, space, Path(run), root, say, group, stop_after_steps, tensorboard)
    with job:
        if several:
            job.check(float="", supernet="")
        else:
            job.check(float="", quantized=space.sha256, baseline=space.sha256)
        model = make_model(recipe, space)
        job.initialize(model)
        start = job.stage("float", model, recipe.float_stage, [("largest", None)])
        if not several:
            return _one_network(job, start, space.sha256, recipe.baseline)
        network = copy.deepcopy(start)
        if job.fresh("supernet"):
            prepare(network, recipe, job.data.train, job.group, job.tell, order=True)
        network.quantized = True
        plan = [("largest", None), ("smallest", space.decode(space.smallest))]
        also = {"kind": "supernet", "recipe": json.dumps(recipe.as_dict()), "space": space.to_toml()}
        network = job.stage("supernet", network, recipe.supernet_stage, plan, space, also=also).eval()
        path = job.finished("supernet")
        job.tell(f"the supernet is {path}")
        return job.result(network, None, path)


def train_architecture(
    architecture: Architecture,
    recipe: Recipe,
    run: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    say: Say = print,
    *,
    inherit: str | os.PathLike[str] | None = None,
    group: Group | None = None,
    stop_after_steps: int | None = None,
    tensorboard: bool = False,
) -> Trained:
    """Train one network of the recipe's space on its own, as a space of one network is trained.

    Args:
        architecture: the network, of the recipe's space.
        recipe: it needs a `quantized_stage`.
        run: folder of this network's checkpoints.
        root: as for `train`.
        say: as for `train`.
        inherit: a ``supernet.pt`` whose slice it starts from; there is no float stage then. Without it the network
            starts from the recipe's `init`.
        group: as for `train`.
        stop_after_steps: as for `train`.
        tensorboard: as for `train`.

    Raises:
        quasar_rt.InvalidValueError: the architecture is not in the space, or the supernet is of another one.
        Otherwise as `train` does.
    """
    space = Space.load(recipe.space)
    _need(recipe, "quantized_stage", "one network")
    space.encode(architecture)
    job = _Job.of(recipe, space, Path(run), root, say, group, stop_after_steps, tensorboard)
    key = json.dumps(architecture.to_dict(), sort_keys=True)
    with job:
        if inherit is None:
            job.check(float=key, quantized=key, baseline=key)
            model = make_model(recipe, space, architecture)
            if recipe.init != "random":
                whole = make_model(recipe, space)
                job.initialize(whole)
                model = whole.extract(architecture)
            start = job.stage("float", model, recipe.float_stage, [("largest", None)], key=key)
            return _one_network(job, start, key, recipe.baseline)
        state = job.group.from_first(lambda: _supernet_state(inherit))
        supernet, _, parent = _supernet(state, inherit)
        if parent != space:
            raise InvalidValueError(
                f"'{inherit}' is a supernet of the space '{parent.name}', not of '{space.name}'"
            )
        _check_split(state, inherit, job.data)
        key += state["sha256"]
        job.check(quantized=key)
        model = supernet.extract(architecture).to(job.group.device)
        model.calibrate(
            job.data.train.first(recipe.quantization.calibration)[0], recipe.quantization.percentile
        )
        network = job.stage("quantized", model, recipe.quantized_stage, [("largest", None)], key=key)
        return job.result(_settled(job, network), None)


def _one_network(job: _Job, start: ViT, key: str, baseline: bool) -> Trained:
    recipe = job.recipe
    quantized = copy.deepcopy(start)
    if job.fresh("quantized"):
        prepare(quantized, recipe, job.data.train, job.group, job.tell)
    quantized.quantized = True
    plan = [("largest", None)]
    quantized = job.stage("quantized", quantized, recipe.quantized_stage, plan, key=key)
    other = None
    if baseline:
        other = job.stage("baseline", copy.deepcopy(start), recipe.quantized_stage, plan, key=key).eval()
    return job.result(_settled(job, quantized), other)


def _settled(job: _Job, network: ViT) -> ViT:
    """The averaged network in evaluation; training has moved what its residual's range was set for: it is set anew."""
    network.eval().calibrate(job.data.train.first(job.recipe.quantization.calibration)[0], None)
    job.group.broadcast(network)
    return network


def prepare(
    model: ViT,
    recipe: Recipe,
    training: AnySplit,
    group: Group | None = None,
    say: Say = lambda _: None,
    order: bool = False,
) -> None:
    """Rank the rows, set the activations' ranges and turn the quantizers on.

    Args:
        model: trained in float.
        recipe: its `quantization` says how.
        training: where its scoring and calibration images come from.
        group: the first process's result is everyone's.
        say: gets a line.
        order: put channels, heads and hidden units in the order of their importance first.
    """
    q, group = recipe.quantization, group or Group()
    images, labels = training.first(q.scoring)
    if order:
        order_by_importance(model, gather_statistics(model, images, labels))
    statistics = gather_statistics(model, images, labels)
    rank_rows(model, statistics, cast(Criterion, q.criterion), recipe.seed)
    model.calibrate(training.first(q.calibration)[0], q.percentile)
    group.broadcast(model)
    model.activate(model.active)
    model.quantized = True
    rows = sum(len(layer.bits) for layer in model.matrices().values())
    eight = sum(int((layer.bits == 8).sum()) for layer in model.matrices().values())
    ordered = "units ordered by importance, " if order else ""
    say(f"{ordered}rows ranked by {q.criterion}, ranges set; largest network: {eight} of {rows} rows 8-bit")


def load_supernet(path: str | os.PathLike[str]) -> tuple[ViT, Recipe, Space]:
    """Read a ``supernet.pt``: the averaged supernet (evaluation mode, quantized), its recipe and its space.

    Raises:
        CheckpointError: the file is damaged, or no supernet.
        FileNotFoundError: there is none.
    """
    return _supernet(_supernet_state(path), path)


def _supernet(state: dict[str, Any], path: str | os.PathLike[str]) -> tuple[ViT, Recipe, Space]:
    with checkpoint.reading(path):
        recipe = Recipe.from_dict(json.loads(state["recipe"]), str(path))
        try:
            space = Space.from_toml(state["space"])
        except QuasarError as error:
            raise CheckpointError(f"'{path}': {error}") from error
        model = make_model(recipe, space)
        checkpoint.load_weights(model, state["model"], path)
    model.quantized = True
    return model.eval(), recipe, space


def check_split(path: str | os.PathLike[str], data: Data) -> None:
    """Refuse data whose validation images are not those that the supernet in `path` was not trained on.

    Raises:
        CheckpointError: they differ.
    """
    _check_split(_supernet_state(path), path, data)


def _check_split(state: dict[str, Any], path: str | os.PathLike[str], data: Data) -> None:
    if state.get("data") != data.identity:
        raise CheckpointError(
            f"the data differ from those that '{path}' was trained on: its validation images would not be unseen"
        )


def _supernet_state(path: str | os.PathLike[str]) -> dict[str, Any]:
    state = checkpoint.load(path)
    if state.get("kind") != "supernet":
        raise CheckpointError(
            f"'{path}' is a checkpoint within a run, not a supernet: use its folder's supernet.pt"
        )
    return state


def _need(recipe: Recipe, stage: str, what: str) -> None:
    if getattr(recipe, stage) is None:
        raise SettingsError(f"recipe '{recipe.name}': [{stage}] is missing, which training '{what}' needs")


@dataclass
class _Job:
    """One start of a run: its folder, its processes, and what stops it."""

    recipe: Recipe
    space: Space
    folder: Path
    data: Data
    group: Group
    say: Say
    steps_left: float = math.inf
    stopping: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    history: dict[str, list[Row]] = field(default_factory=dict)
    _events: Any = None
    _handlers: dict[int, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        space: Space,
        folder: Path,
        root: str | os.PathLike[str] | None,
        say: Say,
        group: Group | None,
        steps: int | None,
        tensorboard: bool,
    ) -> _Job:
        group = group or Group()
        keep_memory()
        job = cls(recipe, space, folder, datasets.load(recipe, root, space), group, say)
        job.steps_left = math.inf if steps is None else steps
        identity = job.data.identity
        if group.sum(torch.tensor([float(identity != group.share(identity))])).item():
            raise DatasetError("the processes do not have the same data: give all machines the same images")
        if len(job.data.train) < recipe.optimizer.batch:
            raise InvalidValueError(
                f"optimizer.batch is {recipe.optimizer.batch}, but only {len(job.data.train)} images are left for "
                "training"
            )
        if recipe.optimizer.batch < group.world:
            raise InvalidValueError(
                f"optimizer.batch is {recipe.optimizer.batch}, less than one image for each of {group.world} processes"
            )
        group.from_first(lambda: checkpoint.make_folder(folder))
        if group.first and tensorboard:
            job._events = _event_writer(folder / "tensorboard")
        return job

    def tell(self, line: str) -> None:
        if self.group.first:
            self.say(line)

    def initialize(self, model: ViT) -> None:
        """Start from a checkpoint, where the recipe names one and the float stage has not ended."""
        if self.recipe.init != "random" and not self.exists(self.finished("float")):
            from .pretrained import load_timm

            self.group.from_first(lambda: load_timm(model, self.recipe.init.removeprefix("timm:")))
            self.group.broadcast(model)
            self.tell(f"started from {self.recipe.init}")

    def part(self, name: str) -> Path:
        """The checkpoint within a stage."""
        return self.folder / f"{name}.part.pt"

    def finished(self, name: str) -> Path:
        """The checkpoint of a finished stage."""
        return self.folder / f"{name}.pt"

    def fresh(self, name: str) -> bool:
        """Whether the stage has not begun."""
        return not (self.exists(self.finished(name)) or self.exists(self.part(name)))

    def exists(self, path: Path) -> bool:
        """Whether the first process sees that file; the others need not see the folder."""
        return self.group.from_first(path.exists)

    def __enter__(self) -> _Job:
        # Elsewhere Python lets only the main thread handle signals.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._handlers[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if self._events is not None:
            self._events.close()

    def _on_signal(self, number: int, _frame: object) -> None:
        self.stopping = signal.Signals(number).name
        # A second one ends the process at once.
        signal.signal(number, self._handlers[number])

    def digest(self, stage: str, key: str) -> str:
        """Of what the stage depends on: the float stage is the same whatever follows it."""
        later = ("supernet_stage", "quantized_stage", "quantization", "sandwich", "baseline")
        without = later if stage == "float" else ("baseline",)
        return self.recipe.digest(self.space.to_toml(), stage, key, without=without)

    def read(self, path: Path, digest: str) -> dict[str, Any]:
        """A checkpoint of this very run, which the first process alone reads.

        Raises:
            CheckpointError: it is of another one.
        """
        return self.group.from_first(lambda: self._read(path, digest))

    def _read(self, path: Path, digest: str) -> dict[str, Any]:
        state = checkpoint.load(path)
        if state.get("digest") != digest:
            raise CheckpointError(
                f"'{path}' belongs to another recipe: choose another folder (--run), or remove this one"
            )
        if state.get("data") != self.data.identity:
            raise CheckpointError(f"'{path}' was trained on other data: choose another folder (--run)")
        return state

    def check(self, **keys: str) -> None:
        """Refuse a folder that has other runs' checkpoints of these stages, before anything is trained."""
        for name, key in keys.items():
            for path in (self.finished(name), self.part(name)):
                if self.exists(path):
                    self.read(path, self.digest(name, key))

    def stage(
        self,
        name: str,
        model: ViT,
        schedule: Stage | None,
        networks: Sequence[tuple[str, Architecture | None]],
        sampled: Space | None = None,
        key: str = "",
        also: dict[str, Any] | None = None,
    ) -> ViT:
        """Train, go on, or read what is finished; returns the averaged network. `also` goes into its file."""
        assert schedule is not None
        path, digest = self.finished(name), self.digest(name, key)
        if self.exists(path):
            saved = self.read(path, digest)
            average = copy.deepcopy(model)
            with checkpoint.reading(path):
                checkpoint.load_weights(average, saved["model"], path)
                self.seconds[name], self.history[name] = float(saved["seconds"]), list(saved["history"])
            average.to(self.group.device)
            self.tell(f"{name}: already trained, read from {path}")
        else:
            fit = _Fit(self, name, model, schedule, networks, sampled, digest)
            average = fit.run()
            self.seconds[name], self.history[name] = sum(row["seconds"] for row in fit.rows), fit.rows
            saved = {
                **(also or {}),
                "digest": digest,
                "data": self.data.identity,
                "model": average.state_dict(),
                "seconds": self.seconds[name],
                "history": fit.rows,
            }
            if self.group.first:
                checkpoint.save(saved, path)
                self.part(name).unlink(missing_ok=True)
            self.group.barrier()
        return average

    def log(self, stage: str = "", rows: Sequence[Row] = ()) -> None:
        """Rewrite ``log.csv``: the finished stages' rows and those of the one in progress."""
        if not self.group.first:
            return
        every = [row for part in (*self.history.values(), rows) for row in part]
        with (
            checkpoint.write_atomically(self.folder / "log.csv") as temporary,
            temporary.open("w", newline="") as file,
        ):
            writer = csv.DictWriter(file, COLUMNS, restval="")
            writer.writeheader()
            writer.writerows(every)
        if stage and self._events is not None:
            row = rows[-1]
            for name, value in row.items():
                if isinstance(value, float):
                    self._events.add_scalar(f"{stage}/{name}", value, row["epoch"])
            self._events.flush()

    def result(self, model: ViT, baseline: ViT | None, path: Path | None = None) -> Trained:
        """Everything in one, with the picture of the curves."""
        if self.group.first:
            from .report import draw_curves

            draw_curves(
                self.history, self.folder / "curves.png", f"{self.recipe.name}, seed {self.recipe.seed}"
            )
        return Trained(self.recipe, self.space, self.data, model, baseline, self.seconds, self.history, path)


class _Fit:
    """One stage of one job.

    Each step sums the gradients of its networks (and of all processes), then clips, updates what they touched, and
    moves the average. Everything random in step s follows from the seed, the stage and s.
    """

    def __init__(
        self,
        job: _Job,
        name: str,
        model: ViT,
        schedule: Stage,
        networks: Sequence[tuple[str, Architecture | None]],
        sampled: Space | None,
        digest: str,
    ) -> None:
        self.job, self.name, self.schedule, self.digest = job, name, schedule, digest
        self.networks, self.sampled = networks, sampled
        o, self.sandwich = job.recipe.optimizer, job.recipe.sandwich
        self.optimizer_recipe = o
        self.model = model.to(job.group.device).train()
        self.model.activate(None)
        self.average: ViT = copy.deepcopy(self.model)
        self.pairs = list(zip(self.model.parameters(), self.average.parameters(), strict=True))
        self.optimizer = SliceAdamW(
            self.model, lr=schedule.learning_rate, betas=(o.beta1, o.beta2), weight_decay=o.weight_decay
        )
        self.batches = Batches(
            job.data.train,
            job.recipe.data,
            job.recipe.seed,
            name,
            o.batch,
            job.group.rank,
            job.group.world,
            job.group.device,
        )
        self.total = self.batches.steps * schedule.epochs
        self.began = self.saved = time.monotonic()
        self.step = 0
        self.rows: list[Row] = []
        self.sums: dict[str, float] = {}
        self.elapsed = 0.0
        self.logits: Callable[[Tensor], Tensor] = self._compiled()

    def _compiled(self) -> Any:
        # Another shape for each sampled network would be compiled anew.
        if not self.optimizer_recipe.compile or self.sampled is not None:
            return self.model
        if self.job.group.device.type == "cpu" and not can_compile():
            self.job.tell(
                f"{self.name}: no C++ compiler found, so torch.compile is left out; this takes about twice as long"
            )
            return self.model
        torch.compiler.reset()
        return torch.compile(self.model)

    def run(self) -> ViT:
        """Train to the stage's end; returns the average."""
        job = self.job
        self._resume()
        while self.step < self.total:
            self._epoch()
        self.average.activate(None)
        if self.total == 0:
            job.tell(f"{self.name}: no epochs")
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
            self.step, self.rows, self.sums = state["step"], state["history"], state["sums"]
            self.elapsed = state["elapsed"]
            if not 0 <= self.step <= self.total:
                raise ValueError(f"step {self.step} of {self.total}")
        self.job.log("", self.rows)
        at = f"step {self.step % self.batches.steps} of epoch {self.step // self.batches.steps + 1}"
        self.job.tell(f"{self.name}: goes on at {at}, read from {part}")

    def _save(self) -> None:
        if self.job.group.first:
            epoch, position = divmod(self.step, self.batches.steps)
            state = {
                "digest": self.digest,
                "data": self.job.data.identity,
                "stage": self.name,
                "step": self.step,
                "total_steps": self.total,
                "epoch": epoch,
                "sampler_position": position * self.optimizer_recipe.batch,
                "model": self.model.state_dict(),
                "average": self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "history": self.rows,
                "sums": self.sums,
                "elapsed": self.elapsed + time.monotonic() - self.began,
            }
            checkpoint.save(state, self.job.part(self.name))
        self.saved = time.monotonic()

    def _epoch(self) -> None:
        job, recipe = self.job, self.job.recipe
        steps = self.batches.steps
        epoch = self.step // steps
        first, last = self.step, (epoch + 1) * steps
        title, stop = f"{self.name} {epoch + 1:3d}/{self.schedule.epochs}", False
        self.began = self.saved = time.monotonic()
        if epoch * steps == first:
            self.sums, self.elapsed = {}, 0.0
        with EpochProgress(title, first % steps, steps, job.say, quiet=not job.group.first) as progress:
            for x, y in self.batches.between(first, last):
                stop = self._step(x, y)
                progress.at(self.step - epoch * steps, self._text)
                if self.step == last:
                    break
                due = recipe.checkpoint_every and self.step % recipe.checkpoint_every == 0
                if stop or due or time.monotonic() - self.saved > 60 * recipe.checkpoint_minutes:
                    self._save()
                if stop:
                    raise self._stopped(f"{title}, step {self.step - epoch * steps} of {steps}")
        row: Row = {"stage": self.name, "epoch": epoch + 1, "steps": steps}
        row |= {key: total / steps for key, total in self.sums.items()}
        row["learning_rate"] = self._rate(self.step - 1)
        for kind, architecture in self.networks:
            self.average.activate(architecture)
            row[f"top1_{kind}"] = evaluate(self.average, job.data.validation, job.group)
        row["seconds"] = self.elapsed + time.monotonic() - self.began
        self.rows.append(row)
        self.sums, self.elapsed = {}, 0.0
        self.began = time.monotonic()
        self._save()
        job.log(self.name, self.rows)
        top1 = ", ".join(f"{kind} {row[f'top1_{kind}']:.2%}" for kind, _ in self.networks)
        job.tell(f"{title}: loss {row['loss']:.4f}, validation top-1 {top1}, {row['seconds']:.1f} s")
        if stop:
            raise self._stopped(title)

    def _stopped(self, where: str) -> Stopped:
        why = self.job.stopping or "limit of steps"
        return Stopped(f"stopped ({why}) at {where}; checkpoint written: the same command goes on from there")

    def _text(self) -> str:
        done = self.step % self.batches.steps or self.batches.steps
        return f"loss {self.sums['loss'] / done:.4f}"

    def _rate(self, step: int) -> float:
        return learning_rate(self.schedule, step, self.total)

    def _plan(self) -> list[tuple[str, Architecture | None]]:
        """The networks of this step."""
        if self.sampled is None:
            return list(self.networks)
        drawn = [
            draw(self.sampled, self.job.recipe.seed, self.step, k, self.sandwich.alike)
            for k in range(self.sandwich.random)
        ]
        return [*self.networks, *(("random", architecture) for architecture in drawn)]

    def _step(self, x: Tensor, y: Tensor) -> bool:
        """One step; returns whether to stop after it."""
        o, group = self.optimizer_recipe, self.job.group
        rate = self._rate(self.step)
        for g in self.optimizer.param_groups:
            g["lr"] = rate
        plan = self._plan()
        # The mean over the joint batch, of which this process has a part, and over the networks.
        share = len(y) / o.batch
        touched, losses = [], []
        teacher: Tensor | None = None
        bfloat16 = o.bfloat16 and not (self.model.quantized and group.device.type == "cpu")
        for kind, architecture in plan:
            if len(plan) > 1:
                self.model.activate(architecture)
            with torch.autocast(group.device.type, torch.bfloat16, enabled=bfloat16):
                logits = self.logits(x)
            loss = self._loss(logits.float(), y, teacher)
            if kind == "largest":
                teacher = logits.detach().float()
            (loss * (share / len(plan))).backward()
            losses.append(loss.detach() * share)
            touched.append(self.model.touched())
        stop = self.job.stopping != "" or self.job.steps_left <= 1
        extra = torch.stack([*losses, torch.tensor(float(stop), device=losses[0].device)])
        *found, stops = group.sum_gradients(self.model.parameters(), extra).tolist()
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), o.clip))
        if not math.isfinite(sum(found) + norm):
            raise DivergedError(
                f"{self.name}: loss {found} and gradient norm {norm} at step {self.step}: lower "
                f"{self.name}_stage.learning_rate or optimizer.clip"
            )
        self.optimizer.step(union(touched))
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.job.steps_left -= 1
        with torch.no_grad():
            # The average of few steps forgets faster.
            weight = max(1 - o.ema, 1 / (self.step + 1))
            torch._foreach_lerp_([a for _, a in self.pairs], [p for p, _ in self.pairs], weight)
        kinds = [kind for kind, _ in plan]
        sums = {"loss": sum(found) / len(found), "gradient_norm": norm}
        for kind in dict.fromkeys(kinds):
            of_kind = [value for k, value in zip(kinds, found, strict=True) if k == kind]
            sums[f"loss_{kind}"] = sum(of_kind) / len(of_kind)
        for name, value in sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        return bool(stops > 0)

    def _loss(self, logits: Tensor, y: Tensor, teacher: Tensor | None) -> Tensor:
        """Cross-entropy with the labels, or partly with the largest network's logits (in-place distillation)."""
        smoothing, s = self.optimizer_recipe.label_smoothing, self.sandwich
        if teacher is None or s.distillation == 0:
            return F.cross_entropy(logits, y, label_smoothing=smoothing)
        t = s.temperature
        soft = F.cross_entropy(logits / t, (teacher / t).softmax(dim=1)) * t**2
        if s.distillation == 1:
            return soft
        return s.distillation * soft + (1 - s.distillation) * F.cross_entropy(
            logits, y, label_smoothing=smoothing
        )


def draw(space: Space, seed: int, step: int, k: int, alike: float) -> Architecture:
    """The `k`-th random network of a step; a share `alike` of them repeats its first block (`Sandwich`)."""
    drawn = space.sample(seed, step, k)
    if datasets.key_of(seed, "alike", step, k) >= alike * 2**63:
        return drawn
    first = drawn.blocks[0]
    fractions = (first.eight_bit[0],) * 4
    return dataclasses.replace(drawn, blocks=(dataclasses.replace(first, eight_bit=fractions),) * drawn.depth)


def learning_rate(schedule: Stage, step: int, total: int) -> float:
    """Linear warm-up, then half a cosine down to `final` times the rate."""
    warm = round(schedule.warmup * total)
    if step < warm:
        return schedule.learning_rate * (step + 1) / warm
    progress = (step - warm) / max(1, total - warm)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return schedule.learning_rate * (schedule.final + (1 - schedule.final) * cosine)


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


def _event_writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise QuasarError("TensorBoard is not installed: pip install tensorboard, or leave it out") from error
    return SummaryWriter(str(folder))
