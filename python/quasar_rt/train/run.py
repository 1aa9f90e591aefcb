"""Training runs: float, importance and ranges, then the supernet or the one quantized network.

The stages of a run are checkpoints in its folder, each written atomically and found again on the next start; within a
stage a checkpoint holds everything that the next step depends on. Depends on: torch, `quasar_rt.train`.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path

from ..errors import InvalidValueError, SettingsError
from ..options import StrPath, takes
from ..space import Architecture, Space
from .data import Data
from .job import Job, Row
from .loop import StagePlan, run_stage
from .model import ViT
from .networks import check_split, make_model, prepare, read_supernet, supernet_of
from .options import ArchitectureOptions, Options
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


@takes(Options)
def train(options: Options) -> Trained:
    """Trains the recipe in the folder `run`, or resumes the run that an earlier start left there.

    A space of several networks ends with ``supernet.pt`` in the folder, which `load_supernet` reads; a space of one
    network with that network, quantized (``quantized.pt``).

    Raises:
        Stopped: SIGTERM, SIGINT or `stop_after_steps`; the next start with the same arguments resumes.
        CheckpointError: the folder holds another run (recipe, space, architecture, supernet or data) or a damaged
            file.
        quasar_rt.datasets.DatasetError: the data is missing; the message has its source.
        quasar_rt.SettingsError: the recipe lacks the stage that its space needs.
    """
    recipe = options.recipe
    space = Space.load(recipe.space)
    several = space.size > 1
    if several and recipe.supernet_stage is None:
        raise SettingsError(
            f"recipe '{recipe.name}' is for one network of the space '{recipe.space}' ([supernet_stage] is missing); "
            "name the network: --architecture FILE (docs/training.md, 'Train one network of a space')"
        )
    if not several:
        _need_quantized_stage(recipe, f"the space '{recipe.space}'")
    with Job.start(options, space) as job:
        if several:
            job.check(float="", supernet="")
        else:
            job.check(float="", quantized=space.sha256, baseline=space.sha256)
        model = make_model(recipe, space)
        job.initialize(model)
        job.open(options.track)
        start = run_stage(job, model, StagePlan("float", recipe.float_stage))
        if not several:
            return _one_network(job, start, space.sha256)
        return _supernet(job, start)


@takes(ArchitectureOptions)
def train_architecture(options: ArchitectureOptions) -> Trained:
    """Trains one network of the recipe's space on its own, as a space of one network is trained.

    The recipe must have a `quantized_stage`.

    Raises:
        quasar_rt.InvalidValueError: the architecture is not in the space, or the supernet is of another one.
        Otherwise as `train` does.
    """
    architecture, recipe, inherit = options.architecture, options.recipe, options.inherit
    space = Space.load(recipe.space)
    _need_quantized_stage(recipe, "one network")
    space.encode(architecture)
    identity = json.dumps(architecture.to_dict(), sort_keys=True)
    with Job.start(options, space) as job:
        if inherit is None:
            job.check(float=identity, quantized=identity, baseline=identity)
            model = make_model(recipe, space, architecture)
            if recipe.init != "random":
                whole = make_model(recipe, space)
                job.initialize(whole)
                model = whole.extract(architecture)
            job.open(options.track)
            start = run_stage(job, model, StagePlan("float", recipe.float_stage, identity=identity))
            return _one_network(job, start, identity)
        model, digest = _inherited(job, architecture, inherit)
        identity += digest
        job.check(quantized=identity)
        job.open(options.track)
        q = recipe.quantization
        model.calibrate(job.data.train.first(q.calibration)[0], q.percentile)
        network = run_stage(job, model, StagePlan("quantized", recipe.quantized_stage, identity=identity))
        return _result(job, network.eval())


def _inherited(job: Job, architecture: Architecture, path: StrPath) -> tuple[ViT, str]:
    """Returns the slice of a supernet, and the supernet's digest."""
    state = job.group.from_first(lambda: read_supernet(path))
    supernet, _, parent = supernet_of(state, path)
    if parent != job.space:
        raise InvalidValueError(
            f"'{path}' is a supernet of the space '{parent.name}', not of '{job.space.name}'"
        )
    check_split(state, path, job.data)
    return supernet.extract(architecture).to(job.group.device), state["sha256"]


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
    return _result(job, quantized.eval(), baseline)


def _result(job: Job, model: ViT, baseline: ViT | None = None, path: Path | None = None) -> Trained:
    """Draws the curves and collects the results."""
    if job.group.first:
        from .pictures import draw_curves

        draw_curves(job.history, job.folder / "curves.png", f"{job.recipe.name}, seed {job.recipe.seed}")
    return Trained(job.recipe, job.space, job.data, model, baseline, job.seconds, job.history, path)


def _need_quantized_stage(recipe: Recipe, what: str) -> None:
    if recipe.quantized_stage is None:
        raise SettingsError(f"recipe '{recipe.name}': [quantized_stage] is missing; training {what} needs it")
