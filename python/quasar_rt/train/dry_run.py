"""Estimates the memory and the time that a recipe takes on this machine, from a few images before the first step.

Depends on: torch, `quasar_rt.train`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from ..space import Architecture, Space
from .data import FileSplit
from .distributed import Group
from .evaluation import logits_of
from .job import Job
from .loop import Loop, Network, StagePlan
from .model import ViT
from .networks import make_model
from .options import Options
from .recipe import Recipe

__all__ = ["DryRun", "StageEstimate", "dry_run"]

#: Images that are measured at a time, at most; a CPU's time an image is the same for more.
_MEASURED = {"cpu": 32, "cuda": 128}
#: Seconds that the images of one measurement should take at most, if they are more than `_FEW`.
_SECONDS = 2.0
#: Images that are measured however long they take, if a process's part of the batch and its memory hold as many.
_FEW = 8
_REPEATS = 3
#: Share of the free memory that activations may take: results of single operations come on top.
_USABLE = 0.8
#: float32 copies of each weight: itself, the average, the gradient, AdamW's two moments.
_COPIES = 5


@dataclass(frozen=True)
class StageEstimate:
    """One stage: measured on a few images, multiplied up."""

    stage: str
    epochs: int
    steps: int
    """Steps of an epoch."""
    step_seconds: float
    """Time of a step: the longer of computing and decoding, which overlap, and the optimizer."""
    decoding: bool
    """True if decoding takes longer than computing."""
    validation_seconds: float
    """Time of an epoch's validation."""
    image_bytes: float
    """Memory that each image of a piece takes until its gradients are there."""
    largest_piece: int
    """Images of a piece that fit the free memory."""

    @property
    def epoch_seconds(self) -> float:
        """Time of an epoch with its validation."""
        return self.steps * self.step_seconds + self.validation_seconds

    @property
    def seconds(self) -> float:
        """Time of the whole stage."""
        return self.epochs * self.epoch_seconds


@dataclass(frozen=True)
class DryRun:
    """The estimate of a run, for one of its processes."""

    stages: tuple[StageEstimate, ...]
    state_bytes: int
    """Weights, their average, gradients and the optimizer's moments."""
    free_bytes: int
    """Memory that was free on the device before."""
    images: int
    """Images of a step in this process."""
    accumulate: int
    """Pieces of a step."""

    @property
    def piece(self) -> int:
        """Images of the largest piece."""
        return -(-self.images // self.accumulate)

    @property
    def largest_piece(self) -> int:
        """Images of a piece that fit in every stage."""
        return min(stage.largest_piece for stage in self.stages)

    @property
    def fits(self) -> bool:
        """True if each stage's pieces fit the free memory."""
        return self.piece <= self.largest_piece

    @property
    def needed_accumulate(self) -> int:
        """The least `optimizer.accumulate` whose pieces fit; 0 if not even one image does."""
        return -(-self.images // self.largest_piece) if self.largest_piece else 0


def dry_run(
    recipe: Recipe,
    root: str | os.PathLike[str] | None = None,
    *,
    architecture: Architecture | None = None,
    group: Group | None = None,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> DryRun:
    """Measures the stages of a run on a few images, and writes nothing. It takes less than a minute for most recipes.

    What is left out: the start-up, torch.compile's gain and cost, the ranking of rows between the stages, the last
    epoch's exact pass (about twice the time), checkpoints, and the exchange between processes.

    Args:
        recipe: what would be trained.
        root: as for `quasar_rt.train.train`.
        architecture: the one network that would be trained; without it, all of the recipe's space.
        group: the processes; this one measures for itself.
        progress: gets the kind of work, how much of it is done, and how much there is.

    Raises:
        The errors of `quasar_rt.train.train`.
    """
    space = Space.load(recipe.space)
    group = group or Group()
    free = _free_bytes(group.device)
    progress("reading the data", 0, 1)
    with TemporaryDirectory() as folder:
        job = Job.start(Options(recipe, folder, root, lambda _: None, group=group), space)
        model = make_model(recipe, space, architecture).to(group.device)
        job.initialize(model)
        progress("reading the data", 1, 1)
        images, _ = job.data.train.first(8)
        model.calibrate(images, recipe.quantization.percentile)
        state = _COPIES * sum(p.numel() * p.element_size() for p in model.parameters())
        plans = [StagePlan("float", recipe.float_stage)]
        if architecture is None and space.size > 1:
            networks: tuple[Network, ...] = (("largest", None), ("smallest", space.decode(space.smallest)))
            plans.append(StagePlan("supernet", recipe.supernet_stage, networks, space))
        else:
            plans.append(StagePlan("quantized", recipe.quantized_stage))
        plans = [plan for plan in plans if plan.schedule is not None]
        stages = []
        for number, plan in enumerate(plans):
            progress("measuring the stages", number, len(plans))
            model.quantized = plan.name != "float"
            stages.append(_measure(job, model, plan, free - state))
        progress("measuring the stages", len(plans), len(plans))
    batch = recipe.optimizer.batch
    part = batch * (group.rank + 1) // group.world - batch * group.rank // group.world
    return DryRun(tuple(stages), state, free, part, recipe.optimizer.accumulate)


def _measure(job: Job, model: ViT, plan: StagePlan, room: int) -> StageEstimate:
    assert plan.schedule is not None
    loop = Loop(job, model, plan, "")
    # Compiling would take longer than all else here.
    loop.logits = loop.model
    images = range(loop.settings.batch)[loop.batches.part]
    images_bytes = _kept_bytes(loop, 2)
    largest = max(0, int(_USABLE * room / images_bytes))
    networks = loop.networks()
    x, y = (part.to(job.group.device) for part in job.data.train.first(2))
    computing = _seconds(job, lambda: _gradients(loop, networks, x, y), 1) / len(y)
    # Of few images, most of the time is not theirs.
    wanted = max(_FEW, min(_MEASURED[job.group.device.type], int(_SECONDS / computing)))
    count = min(wanted, len(images), largest) // 2 * 2
    if count > 2:
        x, y = (part.to(job.group.device) for part in job.data.train.first(count))
        repeats = _REPEATS if count * computing <= _SECONDS else 1
        computing = _seconds(job, lambda: _gradients(loop, networks, x, y), repeats) / len(y)
    optimizer = _seconds(job, lambda: loop.optimizer.step(loop.model.touched()))
    decoding = _decoding_seconds(loop, len(y))
    validation = _seconds(job, lambda: logits_of(loop.model, x)) / len(x) * len(job.data.validation)
    return StageEstimate(
        stage=plan.name,
        epochs=plan.schedule.epochs,
        steps=loop.batches.steps,
        step_seconds=max(computing, decoding) * len(images) + optimizer,
        decoding=decoding > computing,
        validation_seconds=validation * len(plan.networks) / job.group.world,
        image_bytes=images_bytes,
        largest_piece=largest,
    )


def _gradients(loop: Loop, networks: Sequence[Network], x: Tensor, y: Tensor) -> None:
    kept = [loop.kept(k, architecture) for k, (_, architecture) in enumerate(networks)]
    pieces = [None if keep is None else keep[:, :, : len(y)].to(x.device) for keep in kept]
    loop.gradients(networks, *loop.mixing(x, y, 0), pieces)


def _seconds(job: Job, work: Callable[[], object], repeats: int = _REPEATS) -> float:
    """Returns the least time of some calls, after one that is not counted."""
    times = []
    for _ in range(repeats + 1):
        _wait(job)
        start = time.perf_counter()
        work()
        _wait(job)
        times.append(time.perf_counter() - start)
    return min(times[1:])


def _wait(job: Job) -> None:
    if job.group.device.type == "cuda":
        torch.cuda.synchronize(job.group.device)


def _decoding_seconds(loop: Loop, count: int) -> float:
    """Returns the time of reading an image in all workers together; 0 for images in memory."""
    split, workers = loop.job.data.train, loop.job.recipe.data.workers
    if not isinstance(split, FileSplit):
        return 0.0
    read = loop.batches.one_by_one(split)
    start = time.perf_counter()
    for index in range(min(count, len(split))):
        read[index, index]
    each = (time.perf_counter() - start) / min(count, len(split))
    return each / max(1, min(workers, len(os.sched_getaffinity(0))))


def _kept_bytes(loop: Loop, count: int) -> float:
    """Returns the bytes that the largest network keeps of an image until its gradients are computed."""
    x, y = (part.to(loop.job.group.device) for part in loop.job.data.train.first(count))
    model = loop.model
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    recompute = model.recompute

    def kept(recompute: bool) -> float:
        sizes: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        model.recompute = recompute
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loop.gradients([("largest", None)], x, y, [None])
        return sum(sizes.values()) / len(y)

    whole = kept(False)
    found = whole
    if recompute:
        inputs = kept(True)
        # One block at a time has all that it needs.
        found = inputs + (whole - inputs) / max(1, model.active.depth)
    model.recompute = recompute
    loop.optimizer.zero_grad(set_to_none=True)
    return found


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    with open("/proc/meminfo", encoding="ascii") as file:
        lines = dict(line.split(":", 1) for line in file)
    return int(lines["MemAvailable"].split()[0]) * 1024
