"""One start of a training run: its folder, its processes, and what stops it. Depends on: torch, `quasar_rt.train`."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import signal
import threading
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..datasets import DatasetError
from ..errors import InvalidValueError, QuasarError
from ..files import check_apart, check_folder, make_folder
from ..space import Space
from ..tracking import Tracker, open_tracker
from . import checkpoint
from . import data as datasets
from .checkpoint import CheckpointError
from .data import Data, Shape
from .distributed import Group
from .model import ViT
from .options import Log, Options
from .recipe import Recipe
from .runtime import keep_freed_memory
from .teacher import Teacher, load_teacher

__all__ = ["COLUMNS", "Job", "Row"]

#: One epoch by the names in `COLUMNS`; a column that its stage lacks is left out.
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


@dataclass
class Job:
    """One start of a run. As a context manager it catches SIGTERM and SIGINT.

    `steps_left` counts down; `stopping` names the received signal. `seconds` and `history` have the finished stages.
    """

    recipe: Recipe
    space: Space
    folder: Path
    data: Data
    group: Group
    log: Log
    steps_left: float = math.inf
    stopping: str = ""
    teacher: Teacher | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    history: dict[str, list[Row]] = field(default_factory=dict)
    _trackers: list[Tracker] = field(default_factory=list)
    _handlers: dict[int, Any] = field(default_factory=dict)

    @classmethod
    def start(cls, options: Options, space: Space) -> Job:
        """Loads the data and the teacher; `open` then makes the folder.

        Raises:
            DatasetError: the data is missing, or differs between the processes.
            quasar_rt.InvalidValueError: the batch is larger than the training set, or smaller than the group; the
                teacher does not fit; the run's folder is or holds that of the data.
            quasar_rt.FileError: the teacher cannot be read.
        """
        recipe, folder, group = options.recipe, Path(options.run), options.group or Group()
        if options.root is not None and Path(options.root).is_dir():
            check_apart(folder, [options.root])
        keep_freed_memory()
        log: Log = options.log if group.first else lambda _: None
        job = cls(recipe, space, folder, datasets.load(recipe, options.root, space), group, log)
        if options.stop_after_steps is not None:
            job.steps_left = options.stop_after_steps
        identity = job.data.identity
        if group.sum(torch.tensor([float(identity != group.share(identity))])).item():
            raise DatasetError("the processes do not have the same data: give all machines the same images")
        batch, images = recipe.optimizer.batch, len(job.data.train)
        if images < batch:
            raise InvalidValueError(
                f"optimizer.batch is {batch}, but only {images} images are left for training"
            )
        if batch < group.world:
            raise InvalidValueError(
                f"optimizer.batch is {batch}, less than one image for each of {group.world} processes"
            )
        if recipe.teacher is not None:
            job.teacher = load_teacher(recipe, Shape.of(space), group.device)
            identity = job.teacher.identity
            if group.sum(torch.tensor([float(identity != group.share(identity))])).item():
                raise InvalidValueError(
                    "the processes have different teachers: give all machines the same file"
                )
        return job

    def open(self, track: Sequence[str]) -> None:
        """Makes the folder, and opens the trackers of these names.

        Raises:
            quasar_rt.FileError: the folder cannot be written to, or a file that no run wrote has a result's name.
        """
        self.group.from_first(lambda: make_folder(self.folder))
        self.group.from_first(lambda: check_folder(self.folder, {"log.csv": "log", "curves.png": "picture"}))
        if self.group.first:
            settings = self.recipe.as_dict()
            self._trackers = [open_tracker(name, self.folder, settings) for name in dict.fromkeys(track)]

    def initialize(self, model: ViT) -> None:
        """Starts from a checkpoint, where the recipe names one and the float stage has not ended."""
        if self.recipe.init != "random" and not self.exists(self.finished("float")):
            from .pretrained import load_timm

            source = self.recipe.init.removeprefix("timm:")
            untrained = self.recipe.float_stage.epochs == 0
            self.group.from_first(lambda: load_timm(model, source, notice=self.log, classifier=untrained))
            self.group.broadcast(model)
            self.log(f"started from {self.recipe.init}")

    def part(self, name: str) -> Path:
        """Returns the path of the checkpoint within a stage."""
        return self.folder / f"{name}.part.pt"

    def finished(self, name: str) -> Path:
        """Returns the path of a finished stage's checkpoint."""
        return self.folder / f"{name}.pt"

    def fresh(self, name: str) -> bool:
        """Returns whether the stage has not begun."""
        return not (self.exists(self.finished(name)) or self.exists(self.part(name)))

    def exists(self, path: Path) -> bool:
        """Returns whether the first process sees that file; the others need not see the folder."""
        return self.group.from_first(path.exists)

    def __enter__(self) -> Job:
        # Elsewhere Python lets only the main thread handle signals.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._handlers[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        for tracker in self._trackers:
            # The first error is the one to report.
            with suppress(QuasarError) if kind else nullcontext():
                tracker.close()

    def _on_signal(self, number: int, _frame: object) -> None:
        self.stopping = signal.Signals(number).name
        # A second one ends the process at once.
        signal.signal(number, self._handlers[number])

    def digest(self, stage: str, identity: str) -> str:
        """Returns the digest of what the stage depends on; the float stage does not depend on later stages."""
        later = ("supernet_stage", "quantized_stage", "quantization", "sandwich", "baseline")
        without = later if stage == "float" else ("baseline",)
        also = [self.space.to_toml(), stage, identity]
        if (teacher := self.teacher_of(stage)) is not None:
            assert self.recipe.teacher is not None
            settings = dataclasses.replace(self.recipe.teacher, model="", checkpoint="", stages=())
            also.append(json.dumps([dataclasses.asdict(settings), teacher.identity]))
        return self.recipe.digest(*also, without=(*without, "teacher"))

    def teacher_of(self, stage: str) -> Teacher | None:
        """Returns the stage's teacher; the baseline has that of the quantized stage, with which it is compared."""
        recipe = self.recipe.teacher
        if recipe is None or ("quantized" if stage == "baseline" else stage) not in recipe.stages:
            return None
        return self.teacher

    def read(self, path: Path, digest: str) -> dict[str, Any]:
        """Reads a checkpoint of this run in the first process and gives it to all of them.

        Raises:
            CheckpointError: the checkpoint is of another run.
        """
        return self.group.from_first(lambda: self._read(path, digest))

    def _read(self, path: Path, digest: str) -> dict[str, Any]:
        state = checkpoint.load(path)
        if state.get("digest") != digest:
            raise CheckpointError(
                f"'{path}' is of another run (recipe, space, architecture or supernet): choose another folder "
                "(--run), or remove this one"
            )
        if state.get("data") != self.data.identity:
            raise CheckpointError(f"'{path}' was trained on other data: choose another folder (--run)")
        return state

    def check(self, **identities: str) -> None:
        """Refuses a folder with checkpoints of another run for these stages, before any training.

        Raises:
            CheckpointError: the folder has one.
        """
        for name, identity in identities.items():
            for path in (self.finished(name), self.part(name)):
                if self.exists(path):
                    self.read(path, self.digest(name, identity))

    def write_log(self, stage: str = "", rows: Sequence[Row] = ()) -> None:
        """Rewrites ``log.csv``: the finished stages' rows and those of the one in progress. All processes call it."""
        self.group.from_first(lambda: self._write_log(stage, rows))

    def _write_log(self, stage: str, rows: Sequence[Row]) -> None:
        every = [row for part in (*self.history.values(), rows) for row in part]
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(every)
        with checkpoint.write_atomically(self.folder / "log.csv") as file:
            file.write(text.getvalue().encode())
        if stage:
            row = rows[-1]
            self.track(f"{stage}/epoch", row["epoch"], {k: v for k, v in row.items() if isinstance(v, float)})

    def track(self, group: str, count: int, values: Mapping[str, float]) -> None:
        """Gives metrics to the run's trackers (`quasar_rt.tracking`)."""
        for tracker in self._trackers:
            tracker.scalars(group, count, values)
