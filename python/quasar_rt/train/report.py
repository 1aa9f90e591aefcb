"""After training: accuracy on the test set, the subnet, its sample images and its model card.

Depends on: torch, matplotlib, pillow, `quasar_rt.Engine`, `quasar_rt.build`, `quasar_rt.train.loop`.
"""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ..build import build_subnet
from ..datasets import FASHION_MNIST_CLASSES, load_fashion_mnist
from ..engine import Engine
from ..subnet import Subnet
from .loop import Trained, logits_of
from .model import ViT
from .recipe import Recipe

mpl.use("Agg")
from matplotlib import pyplot as plt

__all__ = ["Figures", "export", "finish", "measure"]

#: How images of other sizes are brought to 28x28.
PREPROCESS: dict[str, Any] = {"resize": {"mode": "shorter", "size": [28], "filter": "bicubic"}}
#: Sample images beside the first of each class.
EXTRA_SAMPLES = 2


@dataclass
class Figures:
    """Top-1 (fractions) on the `images` test images, and agreement in arg-max of the torch model with the engine.

    `confusion` counts [true class, engine's class].
    """

    images: int
    float_top1: float
    fake_quant_top1: float
    integer_top1: float
    agreement: float
    confusion: NDArray[np.int64]

    @property
    def standard_error(self) -> float:
        """Of the integer engine's top-1, binomial."""
        return math.sqrt(self.integer_top1 * (1 - self.integer_top1) / self.images)

    def as_dict(self) -> dict[str, Any]:
        """For the subnet's provenance."""
        return {
            "test_images": self.images,
            "float_top1": round(self.float_top1, 4),
            "fake_quant_top1": round(self.fake_quant_top1, 4),
            "integer_top1": round(self.integer_top1, 4),
            "standard_error": round(self.standard_error, 4),
            "fake_quant_integer_agreement": round(self.agreement, 4),
        }


def export(model: ViT, recipe: Recipe, provenance: dict[str, Any]) -> Subnet:
    """The quantized model as a subnet."""
    return build_subnet(model.spec(recipe.name, list(FASHION_MNIST_CLASSES), PREPROCESS, provenance))


def measure(
    trained: Trained, subnet: Subnet, images: NDArray[np.uint8], labels: NDArray[np.int64]
) -> Figures:
    """Classify every image with the float baseline, the fake-quantized model and the integer engine."""
    x = torch.from_numpy(images.copy()).unsqueeze(1)
    baseline = logits_of(trained.baseline, x).argmax(dim=1).numpy()
    fake = logits_of(trained.quantized, x).argmax(dim=1).numpy()
    with Engine(subnet) as engine:
        integer = np.array(
            [
                prediction.index
                for start in range(0, len(images), 500)
                for prediction in engine.infer_batch(images[start : start + 500], top_k=1)
            ]
        )
    classes = len(FASHION_MNIST_CLASSES)
    return Figures(
        images=len(labels),
        float_top1=float((baseline == labels).mean()),
        fake_quant_top1=float((fake == labels).mean()),
        integer_top1=float((integer == labels).mean()),
        agreement=float((fake == integer).mean()),
        confusion=np.bincount(labels * classes + integer, minlength=classes**2).reshape(classes, classes),
    )


def finish(
    recipe: Recipe,
    trained: Trained,
    out: Path,
    machine: str,
    command: str,
    root: str | None = None,
    say: Callable[[str], None] = print,
) -> Figures:
    """Write ``out/NAME.qvit`` and the folder ``out/NAME`` with the model card, the confusion matrix and the samples.

    The test set is read here for the first and only time.
    """
    images, labels = load_fashion_mnist("test", root)
    minutes = {stage: round(seconds / 60, 1) for stage, seconds in trained.seconds.items()}
    provenance: dict[str, Any] = {
        "tool": command,
        "recipe": recipe.as_dict(),
        "data": "Fashion-MNIST (Xiao et al. 2017), 60,000 training and 10,000 test images",
        "date": dt.date.today().isoformat(),
        "machine": machine,
        "minutes": minutes,
        "activation_scales": trained.quantized.activation_scales(),
    }
    figures = measure(trained, export(trained.quantized, recipe, provenance), images, labels)
    subnet = export(trained.quantized, recipe, provenance | {"figures": figures.as_dict()})
    folder = out / recipe.name
    folder.mkdir(parents=True, exist_ok=True)
    path = out / f"{recipe.name}.qvit"
    subnet.save(path)
    draw_confusion(figures.confusion, folder / "confusion.png")
    write_samples(images, labels, folder / "samples")
    card = model_card(recipe, trained, subnet, figures, provenance, path.stat().st_size)
    (folder / "README.md").write_text(card, encoding="utf-8")
    say(
        f"top-1 on {figures.images} test images: float {figures.float_top1:.2%}, fake-quantized "
        f"{figures.fake_quant_top1:.2%}, integer {figures.integer_top1:.2%} "
        f"(standard error {figures.standard_error:.2%}); fake-quantized and integer agree on {figures.agreement:.2%}"
    )
    say(f"wrote {path} ({path.stat().st_size / 1000:.0f} kB) and {folder}")
    return figures


def write_samples(images: NDArray[np.uint8], labels: NDArray[np.int64], folder: Path) -> None:
    """Write the first test image of each class and the next `EXTRA_SAMPLES`, whatever the network says of them."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    chosen = {int(np.flatnonzero(labels == label)[0]) for label in np.unique(labels)}
    further = (index for index in range(len(labels)) if index not in chosen)
    chosen |= {index for index, _ in zip(further, range(EXTRA_SAMPLES), strict=False)}
    listing = {}
    for index in sorted(chosen):
        name = FASHION_MNIST_CLASSES[labels[index]]
        plain = name.lower().replace("/", "-").replace(" ", "-")
        file = f"{index:05d}-{plain}.png"
        Image.fromarray(images[index]).save(folder / file, optimize=True)
        listing[file] = name
    (folder / "labels.json").write_text(json.dumps(listing, indent=2) + "\n", encoding="utf-8")


def draw_confusion(confusion: NDArray[np.int64], path: Path) -> None:
    """The confusion matrix [true, predicted] as a picture."""
    figure, axes = plt.subplots(figsize=(7, 6.2), layout="constrained")
    # The square root keeps the few errors visible beside the many hits.
    axes.imshow(np.sqrt(confusion), cmap="Blues")
    places = range(len(FASHION_MNIST_CLASSES))
    axes.set_xticks(places, FASHION_MNIST_CLASSES, rotation=45, ha="right")
    axes.set_yticks(places, FASHION_MNIST_CLASSES)
    axes.set_xlabel("predicted by the integer engine")
    axes.set_ylabel("true class")
    for (row, column), count in np.ndenumerate(confusion):
        if count:
            dark = count > confusion.max() / 4
            axes.text(
                column, row, str(count), ha="center", va="center", size=8, color="white" if dark else "black"
            )
    figure.savefig(path, dpi=80)
    plt.close(figure)


def model_card(
    recipe: Recipe,
    trained: Trained,
    subnet: Subnet,
    figures: Figures,
    provenance: dict[str, Any],
    size: int,
) -> str:
    """The model card, Markdown."""

    def percent(top1: float) -> str:
        return f"{top1:.2%} ± {math.sqrt(top1 * (1 - top1) / figures.images):.2%}"

    m, d, o, q = recipe.model, recipe.data, recipe.optimizer, recipe.quantization
    matrices = trained.quantized.matrices().values()
    rows = sum(len(layer.bits) for layer in matrices)
    eight = sum(int((layer.bits == 8).sum()) for layer in matrices)
    weights = sum(layer.weight.numel() for layer in matrices)
    right = np.diag(figures.confusion) / figures.confusion.sum(axis=1)
    minutes = provenance["minutes"]
    validation = {stage: history[-1]["validation_top1"] for stage, history in trained.history.items()}
    facts = {
        "network": f"{m.kernel}x{m.kernel} patches every {m.stride} pixels (padding {m.pad}, value {m.pad_value}), "
        f"class token, embed {m.embed}, depth {m.depth}, {m.heads} heads of {m.head_dim}, MLP {m.hidden}, exact GELU",
        "weights": f"{weights:,} in matrices; {eight} of {rows} rows 8-bit, {rows - eight} 4-bit; activations 8-bit",
        "file": f"`{recipe.name}.qvit`, {size / 1000:.0f} kB, content digest `{subnet.sha256[:16]}...`",
        "data": "Fashion-MNIST (Xiao, Rasul and Vollgraf 2017, MIT licence): "
        f"{60000 - d.validation:,} images for training, {d.validation:,} of its training set for validation, "
        f"{figures.images:,} for the test",
        "recipe": f"seed {recipe.seed}: {recipe.float_stage.epochs} epochs in float, then "
        f"{recipe.quantized_stage.epochs} with quantizers; AdamW, learning rate {recipe.float_stage.learning_rate:g}, "
        f"then {recipe.quantized_stage.learning_rate:g}; batch {o.batch}; mirroring and shifts up to {d.shift} pixels; "
        f"label smoothing {o.label_smoothing:g}; averaged weights (decay {o.ema:g})",
        "quantizers": f"{q.eight_bit_fraction:.0%} of the rows of each matrix 8-bit, chosen by the loss that "
        "4 bits would cost; embedding and head all 8-bit; 4-bit steps and activation scales learned",
        "trained": f"{provenance['date']} on {provenance['machine']}; minutes: float {minutes['float']}, quantized "
        f"{minutes['quantized']}, the float baseline's last epochs {minutes['baseline']}",
        "command": f"`{provenance['tool']}`",
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in facts.items())
    return f"""# Model card: {recipe.name}

A small Vision Transformer for Fashion-MNIST (28x28 gray images of 10 kinds of clothes) that runs in integers only,
with row-wise mixed 4- and 8-bit weights. It is meant to show and to test the software; it has no other use.

| | |
|---|---|
{table}

## Accuracy

Top-1 on all {figures.images:,} test images, one seed. ± is the binomial standard error, not the spread over seeds.

| | top-1 |
|---|---|
| float (the same recipe without quantizers) | {percent(figures.float_top1)} |
| fake-quantized, PyTorch | {percent(figures.fake_quant_top1)} |
| integer, `quasar_rt.Engine` | {percent(figures.integer_top1)} |

The fake-quantized model and the engine name the same class for {figures.agreement:.2%} of the images.
On the validation images the stages ended with {validation["float"]:.2%} (float), {validation["quantized"]:.2%} \
(quantized) and {validation["baseline"]:.2%} (float baseline).
Every choice was made on validation images; the test set gave the figures above and nothing else.

![Confusion matrix](confusion.png)

The weakest class is {FASHION_MNIST_CLASSES[int(right.argmin())]} ({right.min():.1%} of its images are named rightly).

## Samples

`samples/` holds the first test image of each class and the next {EXTRA_SAMPLES} images of the test set: chosen by
position alone, not by whether the network is right about them. The number in a file's name is the image's index.
"""
