#!/usr/bin/env python3
r"""Measure on Fashion-MNIST what row-wise widths, layer scaling, row criteria and retraining are worth.

\b
  python tools/evidence.py                       all seeds, then docs/evidence.md and its tables and pictures
  python tools/evidence.py --seeds 0 --out runs/evidence --no-report

Every figure is a cell: a small JSON file below OUT/cells, named after what it depends on. A cell that is there is not
computed again, trainings resume from their checkpoints, so the same command finishes what was stopped. Frame rates are
modelled, accuracies measured. docs/evidence.md describes the comparisons.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from numpy.typing import NDArray

from quasar_rt import QuasarError
from quasar_rt.files import write_text
from quasar_rt.hardware import CostTable, Hardware
from quasar_rt.nas.folder import Folder
from quasar_rt.nas.layers import eight_bit_share
from quasar_rt.nas.nsga2 import Search
from quasar_rt.nas.report import nondominated
from quasar_rt.rows.bits import CRITERIA, Criterion
from quasar_rt.space import Architecture, BlockShape, Space
from quasar_rt.subnet import Subnet

if TYPE_CHECKING:
    from quasar_rt.nas.supernet import Supernet
    from quasar_rt.train.data import Data
    from quasar_rt.train.model import ViT
    from quasar_rt.train.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]
HARDWARE = ROOT / "tools" / "evidence-hardware.toml"
SPACE = ROOT / "tools" / "evidence-space.toml"

Log = Callable[[str], None]

#: The 8-bit fractions of a matrix among which a strategy may choose; None: those of the space.
STRATEGIES: dict[str, tuple[float, ...] | None] = {
    "rows": None,
    "layers": (0.0, 1.0),
    "uniform4": (0.0,),
    "uniform8": (1.0,),
    "random": None,
}
#: Keeps the samples of random networks apart from all others of a seed.
RANDOM_STREAM, SAMPLE_STREAM = 0x72616E64, 0x73616D70


@dataclass(frozen=True)
class Settings:
    """The settings that all seeds share, apart from the hardware.

    `changes` are made to the recipe. A strategy's search scores `population` times `generations` networks on
    `search_images` images, then of those that reach a target the best `rescored` on all search-validation images.
    `calibration` training images set the ranges of a slice. `sample` random networks stand for the space. `narrow`
    (embed, depth, heads, hidden) is the network of the row criteria, with the 8-bit `fractions`; `trained_fraction` is
    the one that is tuned, for `trained_epochs`. `draws` is the number of random rankings.
    """

    recipe: str = "fashion-mnist-coarse"
    changes: tuple[str, ...] = (
        "data.subset=10000",
        "data.validation=20000",
        "float_stage.epochs=12",
        "supernet_stage.epochs=12",
        "quantized_stage.epochs=6",
    )
    targets: tuple[float, ...] = (10000.0, 13500.0, 18000.0)
    population: int = 24
    generations: int = 15
    search_images: int = 2000
    rescored: int = 8
    calibration: int = 64
    sample: int = 16
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


def restricted(space: Space, fractions: tuple[float, ...] | None) -> Space:
    """Returns the space of the networks whose 8-bit fractions are among these."""
    if fractions is None:
        return space
    choices = space.settings["choices"]
    if missing := set(fractions) - set(choices["eight_bit"]):
        raise ValueError(f"the space has no 8-bit fraction {min(missing)}")
    lines = [
        f"eight_bit = {json.dumps(list(fractions))}" if line.startswith("eight_bit = ") else line
        for line in space.to_toml().splitlines()
    ]
    return Space.from_toml("\n".join(lines) + "\n")


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


def with_fraction(architecture: Architecture, fraction: float) -> Architecture:
    """Returns the same shape with one 8-bit fraction throughout."""
    blocks = tuple(dataclasses.replace(b, eight_bit=(fraction,) * 6) for b in architecture.blocks)
    return dataclasses.replace(architecture, blocks=blocks)


def best_reaching(
    fps: NDArray[np.float64], scores: NDArray[np.float64], target: float, count: int
) -> list[int]:
    """Returns indices of at most `count` networks that reach a target, the best score first, of equals the fastest.

    >>> best_reaching(np.array([5.0, 9.0, 9.5]), np.array([0.9, 0.7, 0.7]), 6.0, 5)
    [2, 1]
    """
    order = sorted((i for i in range(len(fps)) if fps[i] >= target), key=lambda i: (-scores[i], -fps[i], i))
    return order[:count]


class Seed:
    """Computes all cells of one seed."""

    def __init__(
        self,
        seed: int,
        settings: Settings,
        hardware: Hardware,
        out: Path,
        data: Path | None,
        threads: int | None,
        log: Log,
    ) -> None:
        from quasar_rt.train.recipe import load_recipe

        self.seed, self.settings, self.hardware, self.out = seed, settings, hardware, out
        self.root, self.threads, self.log = data, threads, log
        self.cells = Cells(out / "cells", log)
        recipe = load_recipe(settings.recipe, settings.changes)
        self.recipe = dataclasses.replace(recipe, seed=seed, space=str(SPACE))
        self.space = Space.load(SPACE)
        self._supernets: dict[bool, Supernet] = {}

    # What is trained.

    def of_supernet(self, scaled: bool) -> Recipe:
        """Returns the recipe, with layer scaling or without."""
        return self.recipe if scaled else dataclasses.replace(self.recipe, layer_scale=0.0)

    def inputs(self, recipe: Recipe, *keys: str, **more: Any) -> dict[str, Any]:
        """Returns what a cell depends on: a recipe, these settings, and `more`."""
        settings = {key: getattr(self.settings, key) for key in keys}
        return {"recipe": without_path(recipe), "space": self.space.to_toml(), **settings, **more}

    @property
    def modelled_on(self) -> dict[str, str]:
        """Board and configuration, for `inputs`."""
        return {"hardware": self.hardware.to_toml(), "board": self.hardware.board.to_toml()}

    def folder(self, name: str, recipe: Recipe, *also: Any) -> Path:
        """Returns the folder of a training's checkpoints: another one for other settings."""
        digest = digest_of([self.inputs(recipe), *also])
        return self.out / "runs" / f"seed{self.seed}-{name}-{digest[:12]}"

    def checkpoint(self, scaled: bool) -> Path:
        """Returns the supernet's file, after training it if it is not there."""
        from quasar_rt.train import train

        recipe = self.of_supernet(scaled)
        folder = self.folder("supernet" if scaled else "supernet-unscaled", recipe)
        if not (folder / "supernet.pt").exists():
            train(recipe, folder, self.root, self.log)
        return folder / "supernet.pt"

    def supernet(self, scaled: bool) -> Supernet:
        """Returns the trained supernet with its images."""
        from quasar_rt.nas.supernet import Supernet

        if scaled not in self._supernets:
            supernet = Supernet(self.checkpoint(scaled), self.root, threads=self.threads)
            supernet.calibration_images = supernet.calibration_images[: self.settings.calibration]
            self._supernets[scaled] = supernet
        return self._supernets[scaled]

    # What it is measured on.

    @cached_property
    def data(self) -> Data:
        """Loads the images; they are the same for every recipe of a seed."""
        from quasar_rt.train import data as datasets

        return datasets.load(self.recipe, self.root, self.space)

    @cached_property
    def search(self) -> tuple[list[NDArray[np.uint8]], NDArray[np.int64]]:
        """Returns the first half of the validation images, for choosing, and its labels."""
        from quasar_rt.train.data import engine_images

        images, labels = self.data.validation.first((len(self.data.validation) + 1) // 2)
        return engine_images(images), labels.numpy()

    @cached_property
    def held(self) -> tuple[Any, list[NDArray[np.uint8]], NDArray[np.int64]]:
        """Returns the other half as a tensor and as the engine takes it, and its labels."""
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

    def slice(self, scaled: bool, architecture: Architecture) -> dict[str, Any]:
        """Measures a slice of a supernet (`measured`)."""
        supernet = self.supernet(scaled)
        subnet = supernet.subnet(architecture, "slice", {})
        return self.measured(subnet, supernet.model.extract(architecture).eval())

    def export(self, network: ViT) -> Subnet:
        """Exports a network as an integer subnet."""
        from quasar_rt.build import build_subnet

        return build_subnet(network.spec("evidence", list(self.data.classes), self.data.document, {}))

    def correct(
        self, scaled: bool, genomes: NDArray[np.uint8], count: int, scores_folder: Folder
    ) -> NDArray[Any]:
        """Counts for each slice the images, of the first `count` for the search, that its subnet classifies rightly."""
        supernet, (images, labels) = self.supernet(scaled), self.search
        counts = []
        for genome in genomes:
            known = scores_folder.get(str(count), genome.tobytes(), count)
            if known is None:
                subnet = supernet.subnet(self.space.decode(genome), "candidate", {})
                logits = integer_logits(subnet, images[:count], self.threads)
                known = int((logits.argmax(axis=1) == labels[:count]).sum())
                scores_folder.put(str(count), {genome.tobytes(): known})
            counts.append(known)
        return np.array(counts, np.int64)

    # The cells.

    def run(self) -> dict[str, dict[str, Any]]:
        """Computes all cells; returns them by name."""
        found = {}
        for scaled in (True, False):
            name = "scaling_on" if scaled else "scaling_off"
            inputs = self.inputs(self.of_supernet(scaled), "sample", "calibration")
            found[name] = self.cells.get(name, self.seed, inputs, partial(self.scaling, scaled))
        for strategy in STRATEGIES:
            keys = ("targets", "population", "generations", "search_images", "rescored", "calibration")
            inputs = self.inputs(self.of_supernet(True), *keys, strategy=strategy, **self.modelled_on)
            name = f"search_{strategy}"
            found[name] = self.cells.get(name, self.seed, inputs, partial(self.searched, strategy))
        for criterion in CRITERIA:
            inputs = self.inputs(self.tuning(criterion), "narrow", "trained_fraction")
            name = f"rows_trained_{criterion}"
            found[name] = self.cells.get(name, self.seed, inputs, partial(self.rows_trained, criterion))
        inputs = self.inputs(self.recipe, "narrow", "fractions", "trained_fraction", "draws")
        found["rows"] = self.cells.get("rows", self.seed, inputs, self.rows)
        for pick in found["search_rows"]["picks"]:
            if not pick["reached"]:
                continue
            a = Architecture.from_dict(pick["architecture"])
            inputs = self.inputs(self.recipe, "calibration", architecture=a.to_dict())
            name = f"inherited_{pick['target']:g}"
            found[name] = self.cells.get(name, self.seed, inputs, partial(self.inherited, a))
        return found

    def scaling(self, scaled: bool) -> dict[str, Any]:
        """Measures slices of a supernet that was trained with layer scaling, or without."""
        largest = self.space.decode(self.space.largest)
        smallest = self.space.decode(self.space.smallest)
        named = {
            "largest": largest,
            "largest4": with_fraction(largest, 0.0),
            "smallest": smallest,
            "smallest8": with_fraction(smallest, 1.0),
        }
        sampled = [self.space.sample(self.seed, SAMPLE_STREAM, k) for k in range(self.settings.sample)]
        found: dict[str, Any] = {name: self.slice(scaled, a) for name, a in named.items()}
        return {**found, "random": [self.slice(scaled, a) for a in sampled]}

    def searched(self, strategy: str) -> dict[str, Any]:
        """Searches by a strategy and selects a network for each target."""
        s, space = self.settings, restricted(self.space, STRATEGIES[strategy])
        table = CostTable(space, self.hardware)
        fastest = table.fastest()[1]
        targets = [t for t in s.targets if t <= fastest]
        name = f"{self.folder('supernet', self.of_supernet(True)).name}-{s.calibration}"
        scores_folder = Folder(self.out / "scores" / name, {"calibration": s.calibration})
        budget, done = s.population * s.generations, 0

        def here(genomes: Iterable[NDArray[np.uint8]]) -> NDArray[np.uint8]:
            """Encodes the genomes in the supernet's space."""
            return np.stack([self.space.encode(space.decode(genome)) for genome in genomes])

        try:
            self.supernet(True)
            from quasar_rt.train.progress import EpochProgress

            with EpochProgress(f"seed {self.seed}, {strategy}", 0, budget, self.log, False) as bar:
                if strategy == "random":
                    sampled = (space.sample(self.seed, RANDOM_STREAM, k) for k in range(budget))
                    genomes = np.unique(np.stack([space.encode(a) for a in sampled]), axis=0)
                    counts = np.zeros(len(genomes), np.int64)
                    for i in range(len(genomes)):
                        counts[i] = self.correct(True, genomes[i : i + 1], s.search_images, scores_folder)[0]
                        bar.at(i + 1, lambda: "")
                    fps = np.asarray(table.evaluate(genomes)["fps"])
                else:
                    loop = Search(
                        space,
                        table,
                        population=s.population,
                        generations=s.generations,
                        targets=targets,
                        seed=self.seed,
                        strategy="evolution",
                    )
                    while len(asked := loop.ask(8)):
                        right = self.correct(True, here(asked), s.search_images, scores_folder)
                        loop.tell(right / s.search_images)
                        done += len(asked)
                        bar.at(done, lambda: "")
                    found = loop.evaluated()
                    genomes, fps = here(found.genomes), found.fps
                    counts = np.rint(found.scores * s.search_images).astype(np.int64)
            scores = counts / s.search_images
            all_images = len(self.search[1])
            picks: list[dict[str, Any]] = []
            for target in s.targets:
                best = best_reaching(fps, scores, target, s.rescored)
                if not best:
                    picks.append({"target": target, "reached": False})
                    continue
                again = self.correct(True, genomes[best], all_images, scores_folder) / all_images
                chosen = max(range(len(best)), key=lambda i: (again[i], -i))
                architecture = self.space.decode(genomes[best[chosen]])
                picks.append(
                    {
                        "target": target,
                        "reached": True,
                        "fps": float(fps[best[chosen]]),
                        "search_top1": float(again[chosen]),
                        "eight_bit_share": eight_bit_share(architecture),
                        "architecture": architecture.to_dict(),
                        **self.slice(True, architecture),
                    }
                )
        finally:
            scores_folder.close()
        front = nondominated(list(zip(fps.tolist(), scores.tolist(), strict=True)))
        return {
            "scored": len(scores),
            "fastest_fps": fastest,
            "front": [[round(float(fps[i]), 1), float(scores[i])] for i in front],
            "picks": picks,
        }

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

        found: dict[str, Any] = {"inherited": self.slice(True, architecture)}
        for name, start in (("scratch", None), ("tuned", self.checkpoint(True))):
            folder = self.folder(name, self.recipe, architecture.to_dict())
            trained = train_architecture(
                architecture, self.recipe, folder, self.root, self.log, inherit=start
            )
            found[name] = self.measured(self.export(trained.model), trained.model)
        return found


def evidence(
    out: Path,
    seeds: Sequence[int],
    settings: Settings,
    data: Path | None = None,
    threads: int | None = None,
    log: Log = lambda line: click.echo(line, err=True),
) -> dict[str, Any]:
    """Computes all cells of all seeds: the contents of docs/evidence/results.json."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    hardware = Hardware.load(HARDWARE)
    found: dict[str, dict[str, Any]] = {}
    for seed in seeds:
        one = Seed(seed, settings, hardware, out, data, threads, log)
        for name, result in one.run().items():
            found.setdefault(name, {})[str(seed)] = result
    recipe = without_path(one.recipe)
    del recipe["seed"]
    return {
        "format": 1,
        "settings": json.loads(json.dumps(dataclasses.asdict(settings))),
        "recipe": recipe,
        "space": one.space.settings,
        "hardware": hardware.settings,
        "seeds": list(seeds),
        "cells": found,
    }


def numbers(_context: click.Context, _parameter: click.Parameter, text: str) -> list[int]:
    """Reads different seeds, separated by commas."""
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
    "--seeds", default="0,1,2", show_default=True, callback=numbers, help="Seeds, separated by commas."
)
@click.option("--threads", type=click.IntRange(1), metavar="N", help="CPU threads. [all cores]")
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of Fashion-MNIST's files, where it is in no known place.",
)
@click.option("--report/--no-report", default=True, help="Write docs/evidence.md's tables and pictures.")
def main(out: Path, seeds: list[int], threads: int | None, data: Path | None, report: bool) -> None:
    from quasar_rt.train.loop import Stopped

    try:
        document = evidence(out, seeds, Settings(), data, threads)
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

        evidence_report.write(document, ROOT / "docs")


if __name__ == "__main__":
    main()
