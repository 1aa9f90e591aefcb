"""Small trained networks for docs/evidence.md, quantized with given widths of rows, and what they lose.

May depend on torch, timm, `quasar_rt.export` and `quasar_rt.train`. The 8-bit rows of a network are those that a caller
chooses.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from quasar_rt import Engine, Subnet
from quasar_rt.build import build_subnet
from quasar_rt.datasets import load_digits, load_fashion_mnist
from quasar_rt.export import layerwise
from quasar_rt.export.post_training import prepare
from quasar_rt.space import Architecture, BlockShape
from quasar_rt.train.model import ViT, ViTConfig
from quasar_rt.train.widths import gather_statistics

__all__ = [
    "DIGITS",
    "FASHION_MNIST",
    "Eight",
    "Images",
    "Logits",
    "Scores",
    "Split",
    "Task",
    "all_rows",
    "as_timm",
    "figures",
    "float_logits",
    "integer_logits",
    "losses",
    "matrices",
    "rounded",
    "split",
    "train",
    "tuned",
]

Images = NDArray[np.uint8]
Logits = NDArray[np.float32]
#: The rows that have 8 bits: bool [rows], by the name of the matrix.
Eight = Mapping[str, NDArray[np.bool_]]
#: The worth of 8 bits to each row: float64 [rows], by the name of the matrix.
Scores = Mapping[str, NDArray[np.float64]]

#: Keeps the division of the images apart from other random numbers of a seed.
_SPLIT_STREAM = 0x73706C69


@dataclass(frozen=True)
class Task:
    """A data set, the network that is trained on it, and its training.

    `train` and `held_out` images are drawn by the seed: of the digits from all 1,797, of Fashion-MNIST from the 60,000
    training images. `calibration` training images set ranges and scores. Rates are the highest of a one-cycle
    schedule; `tuning_epochs` of quantized training follow `epochs` in float.
    """

    data: str
    mean: float
    std: float
    image: int
    patch: int
    embed: int
    depth: int
    heads: int
    mlp_ratio: int
    train: int
    held_out: int
    batch: int
    epochs: int
    rate: float
    tuning_epochs: int
    tuning_rate: float
    calibration: int


DIGITS = Task(
    data="digits",
    mean=0.305,
    std=0.376,
    image=8,
    patch=2,
    embed=16,
    depth=4,
    heads=4,
    mlp_ratio=2,
    train=1197,
    held_out=600,
    batch=64,
    epochs=30,
    rate=5e-3,
    tuning_epochs=3,
    tuning_rate=2e-4,
    calibration=256,
)
FASHION_MNIST = dataclasses.replace(
    DIGITS,
    data="fashion-mnist",
    mean=0.2860,
    std=0.3530,
    image=28,
    patch=7,
    train=3000,
    held_out=2000,
    batch=128,
    epochs=8,
    tuning_epochs=2,
)


class Split(NamedTuple):
    """Images uint8 [n, height, width] and labels int64 [n], for training and held out."""

    images: Images
    labels: NDArray[np.int64]
    held_images: Images
    held_labels: NDArray[np.int64]


def split(task: Task, seed: int, root: Path | None = None) -> Split:
    """Draws the images of a seed; `root` is the folder of Fashion-MNIST's files, where it is in no known place."""
    if task.data == "digits":
        parts = [load_digits(name) for name in ("train", "test")]
        images, labels = (np.concatenate(both) for both in zip(*parts, strict=True))
    else:
        images, labels = load_fashion_mnist("train", root)
    order = np.random.default_rng([seed, _SPLIT_STREAM]).permutation(len(images))
    seen, held = np.split(order[: task.train + task.held_out], [task.train])
    return Split(images[seen], labels[seen].astype(np.int64), images[held], labels[held].astype(np.int64))


# Training.


def train(task: Task, data: Split, seed: int) -> ViT:
    """Trains a network in float."""
    torch.manual_seed(seed)
    block = BlockShape(task.heads, task.embed // task.heads, task.mlp_ratio * task.embed, (1.0,) * 6)
    network: ViT = ViT(
        ViTConfig(
            height=task.image,
            width=task.image,
            channels=1,
            kernel=task.patch,
            stride=task.patch,
            pad=0,
            pad_value=0,
            architecture=Architecture(task.embed, (block,) * task.depth),
            classes=10,
            mean=(task.mean,),
            std=(task.std,),
        )
    )
    _fit(network, data, task.epochs, task.batch, task.rate)
    network.eval()
    return network


def tuned(task: Task, network: ViT, data: Split, eight: Eight, seed: int) -> Subnet:
    """Tunes a float network with quantizers, these rows of its blocks at 8 bits, and exports it. Changes `network`."""
    images, labels = _tensors(data)
    seen = images[: task.calibration]
    statistics = gather_statistics(network, seen, labels[: task.calibration])
    for name, layer in network.matrices().items():
        layer.start_steps(statistics[name].inputs)
        if name in eight:
            layer.eight = torch.from_numpy(eight[name])
    network.calibrate(seen, 0.9999)
    network.quantized = True
    torch.manual_seed(seed)
    _fit(network, data, task.tuning_epochs, task.batch, task.tuning_rate)
    network.eval().calibrate(seen, None)
    classes = [str(i) for i in range(10)]
    return build_subnet(network.spec("evidence", classes, {"resize": {"mode": "none"}}, {}))


def _tensors(data: Split) -> tuple[Tensor, Tensor]:
    """Returns the training images uint8 [n, 1, height, width] and their labels."""
    return torch.from_numpy(np.array(data.images)).unsqueeze(1), torch.from_numpy(data.labels)


def _fit(network: nn.Module, data: Split, epochs: int, batch: int, rate: float) -> None:
    images, labels = _tensors(data)
    optimizer = torch.optim.AdamW(network.parameters(), rate, weight_decay=0.05, fused=True)
    steps = epochs * math.ceil(len(images) / batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps)
    network.train()
    for _ in range(epochs):
        for index in torch.randperm(len(images)).split(batch):
            F.cross_entropy(network(images[index]), labels[index]).backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()


# Post-training quantization.


def matrices(task: Task) -> dict[str, tuple[int, int]]:
    """Returns rows and columns of the matrices whose widths are chosen, by name, in a frame's order."""
    hidden = task.mlp_ratio * task.embed
    shapes = {
        "qkv": (3 * task.embed, task.embed),
        "proj": (task.embed, task.embed),
        "fc1": (hidden, task.embed),
        "fc2": (task.embed, hidden),
    }
    return {f"blocks.{i}.{name}": shape for i in range(task.depth) for name, shape in shapes.items()}


def all_rows(task: Task, eight: bool) -> dict[str, NDArray[np.bool_]]:
    """Returns one width for all rows."""
    return {name: np.full(rows, eight) for name, (rows, _) in matrices(task).items()}


def as_timm(task: Task, network: ViT) -> VisionTransformer:
    """Returns the float network as timm's ``VisionTransformer``, which the exporter takes."""
    model = VisionTransformer(
        img_size=task.image,
        patch_size=task.patch,
        in_chans=1,
        num_classes=10,
        embed_dim=task.embed,
        depth=task.depth,
        num_heads=task.heads,
        mlp_ratio=task.mlp_ratio,
    )
    theirs = model.state_dict()
    mine = dict(network.named_parameters())
    theirs["cls_token"] = mine["prefix"][None]
    theirs["pos_embed"] = torch.cat([torch.zeros(1, task.embed), mine["position"]])[None]
    renamed = {
        "attn.qkv": "qkv",
        "attn.proj": "proj",
        "mlp.": "",
        "patch_embed.proj": "embed",
    }
    for name, value in theirs.items():
        if name in ("cls_token", "pos_embed"):
            continue
        own = name
        for old, new in renamed.items():
            own = own.replace(old, new)
        theirs[name] = mine[own].detach().reshape(value.shape)
    model.load_state_dict(theirs)
    return model.eval()


def rounded(
    task: Task, model: VisionTransformer, images: Images, method: layerwise.Method, eight: Eight
) -> tuple[Subnet, dict[str, NDArray[np.float64]]]:
    """Exports a network after calibration on images uint8 [n, height, width], these rows of its blocks at 8 bits.

    Returns:
        the subnet, and the exporter's own score of each row: the loss that the row's 4 bits cost over 8, to second
        order, after rounding by `method` in a network whose matrices before this one have these widths.
    """
    prepared = prepare(
        model,
        _normalised(task, images),
        mean=[task.mean],
        std=[task.std],
        resize={"mode": "none"},
        percentile=0.9999,
        batch_size=64,
    )
    scores: dict[str, NDArray[np.float64]] = {}

    def widths(name: str, _rows: int, worth: layerwise.Worth) -> NDArray[np.uint8]:
        scores[name] = worth()
        return np.where(eight[name], 8, 4).astype(np.uint8)

    calibrated = prepared.calibrate(lambda _: None)
    parts = calibrated.quantize(widths, method)
    return prepared.subnet(calibrated, parts, {"method": method}), scores


def _normalised(task: Task, images: Images) -> Tensor:
    pixels = torch.from_numpy(np.array(images)).float().unsqueeze(1)
    return (pixels / 255 - task.mean) / task.std


# Figures.


def float_logits(task: Task, model: VisionTransformer, images: Images) -> Logits:
    """Returns the logits [n, 10] of the float network."""
    with torch.no_grad():
        found = [model(piece) for piece in _normalised(task, images).split(500)]
    logits: Logits = torch.cat(found).numpy()
    return logits


def integer_logits(subnet: Subnet, images: Images) -> Logits:
    """Returns the logits [n, 10] of the integer engine."""
    with Engine(subnet, "cpu", threads=1) as engine:
        return np.asarray(engine.infer_batch(list(images), top_k=1).logits, np.float32)


def _log_softmax(logits: Logits) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def losses(logits: Logits, labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Returns the negative log-likelihood of each image's label, in nats: float64 [n].

    >>> losses(np.zeros((2, 10), np.float32), np.array([3, 4])).round(3)
    array([2.303, 2.303])
    """
    return np.asarray(-_log_softmax(logits)[np.arange(len(labels)), labels])


def figures(found: Logits, wanted: Logits, labels: NDArray[np.int64]) -> dict[str, float]:
    """Compares logits with those of the float network.

    Returns:
        ``logit_error``: root mean square of the difference as a share of that of `wanted`; ``kl``: mean divergence of
        the class probabilities from the float network's, in nats; ``nll``: mean of `losses`; ``top1``.
    """
    wanted_log, found_log = _log_softmax(wanted), _log_softmax(found)
    difference = found.astype(np.float64) - wanted
    scale = np.square(wanted, dtype=np.float64).mean()
    return {
        "logit_error": float(np.sqrt(np.square(difference).mean() / scale)),
        "kl": float((np.exp(wanted_log) * (wanted_log - found_log)).sum(axis=1).mean()),
        "nll": float(losses(found, labels).mean()),
        "top1": float((found.argmax(axis=1) == labels).mean()),
    }
