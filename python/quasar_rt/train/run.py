"""Training runs: float, importance and ranges, then the supernet or the one quantized network.

The stages of a run are checkpoints in its folder, each written atomically and found again on the next start; within a
stage a checkpoint holds everything that the next step depends on. Depends on: torch, `quasar_rt.train`.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import InvalidValueError, SettingsError
from ..space import Architecture, Space
from .data import Data
from .distributed import Group
from .job import Job, Log, Row
from .loop import StagePlan, run_stage
from .model import ViT
from .networks import check_split, make_model, prepare, read_supernet, supernet_of
from .recipe import Recipe

__all__ = ["Trained", "train", "train_architecture"]


@dataclass
class Trained:
    """The result of a run.

    `model` is the averaged network, quantized, in evaluation; of a supernet run the supernet, whose file is `path`.
    `baseline` is the float network that had as many epochs, where the recipe asks for it. `seconds` by stage; `history`
    has a row for each epoch of each stage (`quasar_rt.train.job.COLUMNS`).
    """

    recipe: Recipe
    space: Space
    data: Data
    model: ViT
    baseline: ViT | None
    seconds: dict[str, float]
    history: dict[str, list[Row]]
    path: Path | None = None


def train(
    recipe: Recipe,
    run: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    log: Log = print,
    *,
    group: Group | None = None,
    stop_after_steps: int | None = None,
    track: Sequence[str] = (),
) -> Trained:
    """Trains the recipe in the folder `run`, or resumes the run that an earlier start left there.

    A space of several networks ends with ``supernet.pt`` in the folder, which `load_supernet` reads; a space of one
    network with that network, quantized (``quantized.pt``).

    Args:
        recipe: what to train.
        run: folder of the checkpoints, ``log.csv`` and ``curves.png``.
        root: folder of the data set's files, where it is not in a known place.
        log: gets a line for each epoch and stage.
        group: the processes that train together (`quasar_rt.train.distributed.init_process_group`).
        stop_after_steps: stop after so many steps of this start, as a signal does.
        track: also gives the metrics to these (`quasar_rt.tracking.TRACKERS`).

    Raises:
        Stopped: SIGTERM, SIGINT or `stop_after_steps`; the next start with the same arguments resumes.
        CheckpointError: the folder holds another run (recipe, space, architecture, supernet or data) or a damaged
            file.
        quasar_rt.datasets.DatasetError: the data is missing; the message has its source.
        quasar_rt.SettingsError: the recipe lacks the stage that its space needs.
    """
    space = Space.load(recipe.space)
    several = space.size > 1
    if several and recipe.supernet_stage is None:
        raise SettingsError(
            f"recipe '{recipe.name}' is for one network of the space '{recipe.space}' ([supernet_stage] is missing); "
            "name the network: --architecture FILE (docs/training.md, 'Train one network of a space')"
        )
    if not several:
        _need_quantized_stage(recipe, f"the space '{recipe.space}'")
    with Job.start(recipe, space, Path(run), root, log, group, stop_after_steps, track) as job:
        if several:
            job.check(float="", supernet="")
        else:
            job.check(float="", quantized=space.sha256, baseline=space.sha256)
        model = make_model(recipe, space)
        job.initialize(model)
        start = run_stage(job, model, StagePlan("float", recipe.float_stage))
        if not several:
            return _one_network(job, start, space.sha256)
        return _supernet(job, start)


def train_architecture(
    architecture: Architecture,
    recipe: Recipe,
    run: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    log: Log = print,
    *,
    inherit: str | os.PathLike[str] | None = None,
    group: Group | None = None,
    stop_after_steps: int | None = None,
    track: Sequence[str] = (),
) -> Trained:
    """Trains one network of the recipe's space on its own, as a space of one network is trained.

    Args:
        architecture: the network, of the recipe's space.
        recipe: must have a `quantized_stage`.
        run: folder of this network's checkpoints.
        root: as for `train`.
        log: as for `train`.
        inherit: a ``supernet.pt``; the network starts from its slice, without a float stage. If None, the network
            starts from the recipe's `init`.
        group: as for `train`.
        stop_after_steps: as for `train`.
        track: as for `train`.

    Raises:
        quasar_rt.InvalidValueError: the architecture is not in the space, or the supernet is of another one.
        Otherwise as `train` does.
    """
    space = Space.load(recipe.space)
    _need_quantized_stage(recipe, "one network")
    space.encode(architecture)
    identity = json.dumps(architecture.to_dict(), sort_keys=True)
    with Job.start(recipe, space, Path(run), root, log, group, stop_after_steps, track) as job:
        if inherit is None:
            job.check(float=identity, quantized=identity, baseline=identity)
            model = make_model(recipe, space, architecture)
            if recipe.init != "random":
                whole = make_model(recipe, space)
                job.initialize(whole)
                model = whole.extract(architecture)
            start = run_stage(job, model, StagePlan("float", recipe.float_stage, identity=identity))
            return _one_network(job, start, identity)
        state = job.group.from_first(lambda: read_supernet(inherit))
        supernet, _, parent = supernet_of(state, inherit)
        if parent != space:
            raise InvalidValueError(
                f"'{inherit}' is a supernet of the space '{parent.name}', not of '{space.name}'"
            )
        check_split(state, inherit, job.data)
        identity += state["sha256"]
        job.check(quantized=identity)
        model = supernet.extract(architecture).to(job.group.device)
        q = recipe.quantization
        model.calibrate(job.data.train.first(q.calibration)[0], q.percentile)
        network = run_stage(job, model, StagePlan("quantized", recipe.quantized_stage, identity=identity))
        return _result(job, _recalibrated(job, network))


def _supernet(job: Job, start: ViT) -> Trained:
    """Trains the supernet from the float network."""
    recipe, space = job.recipe, job.space
    network = copy.deepcopy(start)
    if job.fresh("supernet"):
        prepare(network, recipe, job.data.train, job.group, job.log, order=True)
    network.quantized = True
    plan = StagePlan(
        "supernet",
        recipe.supernet_stage,
        networks=(("largest", None), ("smallest", space.decode(space.smallest))),
        sampled=space,
        extra={"kind": "supernet", "recipe": json.dumps(recipe.as_dict()), "space": space.to_toml()},
    )
    network = run_stage(job, network, plan).eval()
    path = job.finished("supernet")
    job.log(f"the supernet is {path}")
    return _result(job, network, None, path)


def _one_network(job: Job, start: ViT, identity: str) -> Trained:
    """Trains the one network with its quantizers, and its float baseline where the recipe asks for it."""
    recipe = job.recipe
    quantized = copy.deepcopy(start)
    if job.fresh("quantized"):
        prepare(quantized, recipe, job.data.train, job.group, job.log)
    quantized.quantized = True
    quantized = run_stage(job, quantized, StagePlan("quantized", recipe.quantized_stage, identity=identity))
    baseline = None
    if recipe.baseline:
        plan = StagePlan("baseline", recipe.quantized_stage, identity=identity)
        baseline = run_stage(job, copy.deepcopy(start), plan).eval()
    return _result(job, _recalibrated(job, quantized), baseline)


def _recalibrated(job: Job, network: ViT) -> ViT:
    """Switches the averaged network to evaluation and sets the range of its residual anew after training."""
    network.eval().calibrate(job.data.train.first(job.recipe.quantization.calibration)[0], None)
    job.group.broadcast(network)
    return network


def _result(job: Job, model: ViT, baseline: ViT | None = None, path: Path | None = None) -> Trained:
    """Draws the curves and collects the results."""
    if job.group.first:
        from .pictures import draw_curves

        draw_curves(job.history, job.folder / "curves.png", f"{job.recipe.name}, seed {job.recipe.seed}")
    return Trained(job.recipe, job.space, job.data, model, baseline, job.seconds, job.history, path)


def _need_quantized_stage(recipe: Recipe, what: str) -> None:
    if recipe.quantized_stage is None:
        raise SettingsError(f"recipe '{recipe.name}': [quantized_stage] is missing; training {what} needs it")
