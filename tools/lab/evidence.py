#!/usr/bin/env python3
r"""Measure what row-wise widths, layer scaling, row criteria and retraining are worth, on small networks.

\b
  python tools/lab/evidence.py                       all parts, then docs/evidence.md and its tables and pictures
  python tools/lab/evidence.py --parts allocation --seeds 0 --threads 1 --no-report

Every figure is a cell: a small JSON file below OUT/cells, named after what it depends on. A cell that is there is not
computed again, trainings on a recipe resume from their checkpoints, so the same command finishes what was stopped.
Parts that are not computed keep their results. Frame rates are modelled, accuracies measured. docs/evidence.md
describes the parts.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from numpy.typing import NDArray

from quasar_rt import QuasarError
from quasar_rt.files import write_text
from quasar_rt.hardware import Hardware
from quasar_rt.rows.bits import CRITERIA, Criterion
from quasar_rt.space import Architecture, BlockShape, Space
from quasar_rt.subnet import Subnet

if TYPE_CHECKING:
    import evidence_allocation
    import evidence_scaling
    from quasar_rt.nas.supernet import Supernet
    from quasar_rt.train.data import Data
    from quasar_rt.train.model import ViT
    from quasar_rt.train.recipe import Recipe

ROOT = Path(__file__).resolve().parents[2]
HARDWARE = ROOT / "tools" / "lab" / "evidence-hardware.toml"
SPACE = ROOT / "tools" / "lab" / "evidence-space.toml"
RESULTS = ROOT / "docs" / "evidence" / "results.json"
#: The networks of part (d), by size and seed.
NETWORKS = ROOT / "docs" / "evidence" / "networks.json"

#: The parts of the page, with their seeds. The name of a cell begins with its part's.
PARTS: dict[str, tuple[int, ...]] = {
    "allocation": tuple(range(12)),
    "tuning": tuple(range(12)),
    "scaling": tuple(range(6)),
    "rows": (0, 1, 2),
    "inherited": (0, 1, 2),
}

Log = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """Settings that all seeds share in the parts that train by a recipe.

    `changes` are made to the recipe. `calibration` training images set the ranges of a slice. `narrow` (embed, depth,
    heads, hidden) is the network of the row criteria, with the 8-bit `fractions`; `trained_fraction` is the one that is
    tuned, for `trained_epochs`. `draws` is the number of random rankings.
    """

    recipe: str = "fashion-mnist-coarse"
    changes: tuple[str, ...] = (
        "data.subset=10000",
        "data.validation=20000",
        "float_stage.epochs=12",
        "supernet_stage.epochs=12",
        "quantized_stage.epochs=6",
    )
    calibration: int = 64
    narrow: tuple[int, int, int, int] = (12, 2, 2, 24)
    fractions: tuple[float, ...] = (0.25, 0.5)
    trained_fraction: float = 0.25
    trained_epochs: int = 3
    draws: int = 3


def without_path(recipe: Recipe) -> dict[str, Any]:
    """Returns the recipe without the place of its space's file."""
    table = recipe.as_dict()
    del table["space"]
    return table


def digest_of(value: Any) -> str:
    """Returns the SHA-256 (hex) of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@dataclass
class Cells:
    """Keeps results by name, seed and the digest of what they depend on, a file each."""

    folder: Path
    log: Log

    def path(self, name: str, seed: int, inputs: Mapping[str, Any]) -> Path:
        """Returns the path of that cell."""
        digest = digest_of({"name": name, "seed": seed, "inputs": inputs})
        return self.folder / f"seed{seed}-{name}-{digest[:12]}.json"

    def get(
        self, name: str, seed: int, inputs: Mapping[str, Any], compute: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """Returns the cell's result: read, or computed and kept."""
        path = self.path(name, seed, inputs)
        if path.exists():
            result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["result"]
            return result
        self.log(f"seed {seed}, {name}: begins")
        start = time.monotonic()
        result = json.loads(json.dumps(compute()))
        seconds = round(time.monotonic() - start, 1)
        document = {"name": name, "seed": seed, "seconds": seconds, "result": result, "inputs": inputs}
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(document, indent=1) + "\n")
        self.log(f"seed {seed}, {name}: {seconds:.0f} s")
        return result


def integer_logits(
    subnet: Subnet, images: Sequence[NDArray[np.uint8]], threads: int | None
) -> NDArray[np.float32]:
    """Returns the logits [n, classes] of the integer engine."""
    from quasar_rt import Engine

    with Engine(subnet, threads=threads) as engine:
        return np.stack([p.logits for p in engine.infer_batch(images, top_k=1)])


def relative_error(found: NDArray[Any], wanted: NDArray[Any]) -> float:
    """Returns the root mean square of the difference as a share of that of `wanted`."""
    return float(np.sqrt(np.square(found - wanted, dtype=np.float64).mean() / np.square(wanted).mean()))


class Seed:
    """Computes the cells of one seed that train by a recipe: the parts ``rows`` and ``inherited``."""

    def __init__(
        self,
        seed: int,
        settings: Settings,
        out: Path,
        data: Path | None,
        threads: int | None,
        log: Log,
    ) -> None:
        from quasar_rt.train.recipe import load_recipe

        self.seed, self.settings, self.out = seed, settings, out
        self.root, self.threads, self.log = data, threads, log
        self.cells = Cells(out / "cells", log)
        recipe = load_recipe(settings.recipe, settings.changes)
        self.recipe = dataclasses.replace(recipe, seed=seed, space=str(SPACE))
        self.space = Space.load(SPACE)

    # What is trained.

    def inputs(self, recipe: Recipe, *keys: str, **more: Any) -> dict[str, Any]:
        """Returns what a cell depends on: a recipe, these settings, and `more`."""
        settings = {key: getattr(self.settings, key) for key in keys}
        return {"recipe": without_path(recipe), "space": self.space.to_toml(), **settings, **more}

    def folder(self, name: str, recipe: Recipe, *also: Any) -> Path:
        """Returns the folder of a training's checkpoints: another one for other settings."""
        digest = digest_of([self.inputs(recipe), *also])
        return self.out / "runs" / f"seed{self.seed}-{name}-{digest[:12]}"

    @cached_property
    def checkpoint(self) -> Path:
        """The supernet's file; it is trained first if it is not there."""
        from quasar_rt.train import train

        folder = self.folder("supernet", self.recipe)
        if not (folder / "supernet.pt").exists():
            train(self.recipe, folder, self.root, self.log)
        return folder / "supernet.pt"

    @cached_property
    def supernet(self) -> Supernet:
        """The trained supernet with its images."""
        from quasar_rt.nas.supernet import Supernet

        supernet = Supernet(self.checkpoint, self.root, threads=self.threads)
        supernet.calibration_images = supernet.calibration_images[: self.settings.calibration]
        return supernet

    # What it is measured on.

    @cached_property
    def data(self) -> Data:
        """Loads the images; they are the same for every recipe of a seed."""
        from quasar_rt.train import data as datasets

        return datasets.load(self.recipe, self.root, self.space)

    @cached_property
    def held(self) -> tuple[Any, list[NDArray[np.uint8]], NDArray[np.int64]]:
        """The second half of the validation images, as a tensor and as the engine takes it, and its labels."""
        from quasar_rt.train.data import engine_images

        half = (len(self.data.validation) + 1) // 2
        images, labels = self.data.validation.first(len(self.data.validation) - half, half)
        return images, engine_images(images), labels.numpy()

    def measured(self, subnet: Subnet, network: ViT) -> dict[str, Any]:
        """Measures held-out top-1 of the integer subnet, and its logits against those of the same weights in float."""
        from quasar_rt.train.evaluation import logits_of

        tensor, images, labels = self.held
        found = integer_logits(subnet, images, self.threads)
        was, network.quantized = network.quantized, False
        wanted = logits_of(network, tensor).numpy()
        network.quantized = was
        return {
            "top1": float((found.argmax(axis=1) == labels).mean()),
            "float_top1": float((wanted.argmax(axis=1) == labels).mean()),
            "logit_error": relative_error(found, wanted),
            "images": len(labels),
        }

    def slice(self, architecture: Architecture) -> dict[str, Any]:
        """Measures a slice of the supernet (`measured`)."""
        subnet = self.supernet.subnet(architecture, "slice", {})
        return self.measured(subnet, self.supernet.model.extract(architecture).eval())

    def export(self, network: ViT) -> Subnet:
        """Exports a network as an integer subnet."""
        from quasar_rt.build import build_subnet

        return build_subnet(network.spec("evidence", list(self.data.classes), self.data.document, {}))

    # The cells.

    def run(self, part: str) -> dict[str, dict[str, Any]]:
        """Computes the cells of a part; returns them by name."""
        found = {}
        if part == "rows":
            for criterion in CRITERIA:
                inputs = self.inputs(self.tuning(criterion), "narrow", "trained_fraction")
                name = f"rows_trained_{criterion}"
                found[name] = self.cells.get(name, self.seed, inputs, partial(self.rows_trained, criterion))
            inputs = self.inputs(self.recipe, "narrow", "fractions", "trained_fraction", "draws")
            found["rows"] = self.cells.get("rows", self.seed, inputs, self.rows)
        else:
            for size, a in networks(self.seed).items():
                inputs = self.inputs(self.recipe, "calibration", architecture=a.to_dict())
                name = f"inherited_{size}"
                found[name] = self.cells.get(name, self.seed, inputs, partial(self.inherited, a))
        return found

    # Row criteria, on one narrow network.

    def narrow(self, fraction: float) -> Architecture:
        """Returns the network of the row criteria."""
        embed, depth, heads, hidden = self.settings.narrow
        block = BlockShape(heads, int(self.space.settings["head_dim"]), hidden, (fraction,) * 6)
        return Architecture(embed, (block,) * depth)

    def tuning(self, criterion: str) -> Recipe:
        """Returns the recipe with a criterion and a short quantized stage."""
        stage = self.recipe.quantized_stage
        assert stage is not None
        return dataclasses.replace(
            self.recipe,
            quantization=dataclasses.replace(self.recipe.quantization, criterion=criterion),
            quantized_stage=dataclasses.replace(stage, epochs=self.settings.trained_epochs),
        )

    def narrow_float(self) -> Path:
        """Returns the float network's checkpoint, which all criteria share."""
        self.tuned(CRITERIA[0])
        return self.folder("narrow", self.tuning(CRITERIA[0]), self.settings.narrow) / "float.pt"

    def tuned(self, criterion: str) -> ViT:
        """Tunes the network with its rows ranked by a criterion."""
        from quasar_rt.train import train_architecture

        folder = self.folder("narrow", self.tuning(criterion), self.settings.narrow)
        if criterion != CRITERIA[0] and not (folder / "float.pt").exists():
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.narrow_float(), folder / "float.copy")
            (folder / "float.copy").rename(folder / "float.pt")
        recipe = self.tuning(criterion)
        architecture = self.narrow(self.settings.trained_fraction)
        return train_architecture(architecture, recipe, folder, self.root, self.log).model

    def rows_trained(self, criterion: str) -> dict[str, Any]:
        """Measures a criterion followed by quantization-aware tuning."""
        network = self.tuned(criterion)
        return self.measured(self.export(network), network)

    def rows(self) -> dict[str, Any]:
        """Measures each criterion without any training after it."""
        from quasar_rt.train import checkpoint
        from quasar_rt.train.networks import make_model
        from quasar_rt.train.widths import gather_statistics, rank_rows

        q, training = self.recipe.quantization, self.data.train
        model = make_model(self.recipe, self.space, self.narrow(self.settings.trained_fraction))
        model.load_state_dict(checkpoint.load(self.narrow_float())["model"])
        model.eval()
        statistics = gather_statistics(model, *training.first(q.scoring))
        model.calibrate(training.first(q.calibration)[0], q.percentile)

        def ranked(criterion: Criterion, fraction: float, seed: int) -> dict[str, Any]:
            rank_rows(model, statistics, criterion, seed)
            model.activate(self.narrow(fraction))
            model.quantized = True
            return self.measured(self.export(model), model)

        found: dict[str, Any] = {
            "uniform4": ranked("loss", 0.0, self.seed),
            "uniform8": ranked("loss", 1.0, self.seed),
        }
        for fraction in self.settings.fractions:
            for criterion in CRITERIA:
                seeds = range(self.settings.draws if criterion == "random" else 1)
                found[f"{criterion}_{fraction:g}"] = [
                    ranked(criterion, fraction, 1000 * self.seed + k) for k in seeds
                ]
        return found

    # Inherited and retrained.

    def inherited(self, architecture: Architecture) -> dict[str, Any]:
        """Measures a slice, the same network trained on its own from scratch, and tuned from the slice."""
        from quasar_rt.train import train_architecture

        found: dict[str, Any] = {"inherited": self.slice(architecture)}
        for name, start in (("scratch", None), ("tuned", self.checkpoint)):
            folder = self.folder(name, self.recipe, architecture.to_dict())
            trained = train_architecture(
                architecture, self.recipe, folder, self.root, self.log, inherit=start
            )
            found[name] = self.measured(self.export(trained.model), trained.model)
        return found


def networks(seed: int) -> dict[str, Architecture]:
    """Returns the networks of part (d) by size."""
    table = json.loads(NETWORKS.read_text(encoding="utf-8"))
    return {size: Architecture.from_dict(by_seed[str(seed)]) for size, by_seed in table["networks"].items()}


def evidence(
    out: Path,
    seeds: Mapping[str, Sequence[int]],
    settings: Settings,
    allocation: Mapping[str, evidence_allocation.Settings] | None = None,
    scaling: evidence_scaling.Settings | None = None,
    data: Path | None = None,
    threads: int | None = None,
    log: Log = lambda line: click.echo(line, err=True),
) -> dict[str, Any]:
    """Computes all cells of parts: contents of docs/evidence/results.json.

    Args:
        out: folder of cells and checkpoints.
        seeds: those of each part to compute, by its name in `PARTS`.
        settings: of the parts that train by a recipe.
        allocation: settings of the part by data set; those of the page if None.
        scaling: settings of the part; those of the page if None.
        data: folder of Fashion-MNIST's files, where it is in no known place.
        threads: of the CPU; None for all cores.
        log: gets a line for each cell and epoch.
    """
    import torch

    import evidence_allocation
    import evidence_scaling

    if threads is not None:
        torch.set_num_threads(threads)
    hardware, cells = Hardware.load(HARDWARE), Cells(out / "cells", log)
    tasks = evidence_allocation.TASKS if allocation is None else allocation
    depth = scaling or evidence_scaling.PAGE
    found: dict[str, dict[str, Any]] = {}
    used: dict[str, Any] = {}
    document: dict[str, Any] = {"format": 2, "settings": used, "cells": found}

    def add(name: str, seed: int, result: dict[str, Any]) -> None:
        found.setdefault(name, {})[str(seed)] = result

    for part, several in seeds.items():
        for seed in several:
            if part in ("allocation", "tuning"):
                used[part] = {name: plain(task) for name, task in tasks.items()}
                document["hardware"] = hardware.settings
                for task_name, task in tasks.items():
                    inputs = allocation_inputs(task, hardware)
                    if part == "allocation":
                        name = f"allocation_{task_name}"
                        compute = partial(evidence_allocation.allocation, task, seed, hardware, data)
                        add(name, seed, cells.get(name, seed, inputs, compute))
                        continue
                    for budget in (None, *task.tuned):
                        name = f"tuning_{task_name}_{'ends' if budget is None else format(budget, 'g')}"
                        compute = partial(evidence_allocation.tuning, task, seed, hardware, budget, data)
                        add(name, seed, cells.get(name, seed, {**inputs, "budget": budget}, compute))
            elif part == "scaling":
                used[part] = plain(depth)
                for initial in depth.initial:
                    name, inputs = f"scaling_{initial:g}", scaling_inputs(depth, initial)
                    compute = partial(evidence_scaling.scaling, depth, seed, initial, data)
                    add(name, seed, cells.get(name, seed, inputs, compute))
            else:
                used[part] = plain(settings)
                one = Seed(seed, settings, out, data, threads, log)
                for name, result in one.run(part).items():
                    add(name, seed, result)
                document |= {"recipe": without_path(one.recipe), "space": one.space.settings}
                del document["recipe"]["seed"]
    return document


def plain(settings: Any) -> dict[str, Any]:
    """Returns settings as JSON has them."""
    table: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(settings)))
    return table


def allocation_inputs(settings: evidence_allocation.Settings, hardware: Hardware) -> dict[str, Any]:
    """Returns what a cell of part (a) depends on; one of tuning also depends on its ``budget``."""
    board = hardware.board.to_toml()
    return {"settings": plain(settings), "hardware": hardware.to_toml(), "board": board}


def scaling_inputs(settings: evidence_scaling.Settings, initial: float) -> dict[str, Any]:
    """Returns what a cell of part (b) depends on."""
    return {"task": plain(settings.task), "methods": list(settings.methods), "initial": initial}


def merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Returns results in which the parts of `new` take the place of those of `old`.

    >>> old = {"settings": {"rows": 1}, "cells": {"rows": 1, "rows_trained_loss": 2, "scaling_0": 3}}
    >>> merged(old, {"settings": {"rows": 4}, "cells": {"rows": 5}})
    {'settings': {'rows': 4}, 'cells': {'rows': 5, 'scaling_0': 3}}
    """
    kept = {
        name: cell for name, cell in old["cells"].items() if name.partition("_")[0] not in new["settings"]
    }
    cells = dict(sorted({**kept, **new["cells"]}.items()))
    return {**old, **new, "settings": {**old["settings"], **new["settings"]}, "cells": cells}


def names(_context: click.Context, _parameter: click.Parameter, text: str) -> list[str]:
    """Reads names of parts, separated by commas."""
    found = text.split(",")
    if unknown := [name for name in found if name not in PARTS]:
        raise click.BadParameter(f"{unknown[0]!r} is none of {', '.join(PARTS)}")
    return found


def numbers(_context: click.Context, _parameter: click.Parameter, text: str | None) -> list[int] | None:
    """Reads different seeds, separated by commas."""
    if text is None:
        return None
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter("whole numbers, separated by commas") from None
    if min(seeds) < 0 or len(set(seeds)) != len(seeds):
        raise click.BadParameter("different numbers of at least 0")
    return seeds


@click.command(
    help=__doc__, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.option(
    "--out",
    default="runs/evidence",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of cells and checkpoints.",
)
@click.option(
    "--parts", default=",".join(PARTS), show_default=True, callback=names, help="Parts, separated by commas."
)
@click.option("--seeds", callback=numbers, help="Seeds, separated by commas. [those of each part]")
@click.option("--threads", type=click.IntRange(1), metavar="N", help="CPU threads. [all cores]")
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of Fashion-MNIST's files, where it is in no known place.",
)
@click.option("--report/--no-report", default=True, help="Write docs/evidence.md's tables and pictures.")
def main(
    out: Path, parts: list[str], seeds: list[int] | None, threads: int | None, data: Path | None, report: bool
) -> None:
    from quasar_rt.train.loop import Stopped

    try:
        chosen = {part: PARTS[part] if seeds is None else seeds for part in parts}
        document = evidence(out, chosen, Settings(), data=data, threads=threads)
    except Stopped as stopped:
        click.echo(str(stopped), err=True)
        return
    except KeyboardInterrupt:
        click.echo(f"Stopped. The same command continues from {out}.", err=True)
        sys.exit(130)
    except (QuasarError, OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    if report:
        import evidence_report

        old = json.loads(RESULTS.read_text(encoding="utf-8"))
        evidence_report.write(merged(old, document), ROOT / "docs")


if __name__ == "__main__":
    main()
