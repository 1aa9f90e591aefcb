"""After training: accuracy on the test set, the subnet, its sample images, its model card.

Depends on: torch, matplotlib, pillow, `quasar_rt.Engine`, `quasar_rt.build`, `quasar_rt.train.run`.
"""

from __future__ import annotations

import datetime as dt
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..build import build_subnet
from ..engine import Engine
from ..files import PNG_METADATA, kind_of, make_folder, write_bytes, write_text
from ..pictures import FEW_CLASSES, draw_confusion
from ..subnet import Subnet
from .architecture_file import search_line
from .data import AnySplit
from .evaluation import logits_of

if TYPE_CHECKING:
    from .options import Log
    from .recipe import Recipe
    from .run import Trained

__all__ = ["Figures", "export", "finish", "measure"]

#: Sample images in addition to the first of each class.
EXTRA_SAMPLES = 2


@dataclass
class Figures:
    """Top-1 (fractions) on the `images` test images.

    `float_top1` is the float baseline's, where there is one; `differing` counts the images whose logits are not those
    of the torch model, bit by bit. `confusion` counts [true class, engine's class].
    """

    images: int
    float_top1: float | None
    integer_top1: float
    differing: int
    confusion: NDArray[np.int64]

    @property
    def standard_error(self) -> float:
        """The binomial standard error of the integer engine's top-1."""
        return math.sqrt(self.integer_top1 * (1 - self.integer_top1) / self.images)

    def as_dict(self) -> dict[str, Any]:
        """Returns the figures for the subnet's provenance."""
        figures = {
            "test_images": self.images,
            "float_top1": self.float_top1,
            "integer_top1": self.integer_top1,
            "standard_error": self.standard_error,
            "differing_images": self.differing,
        }
        return {
            key: round(value, 4) if isinstance(value, float) else value
            for key, value in figures.items()
            if value is not None
        }


def export(
    trained: Trained, provenance: dict[str, Any], name: str | None = None, embedding: bool = False
) -> Subnet:
    """Builds the subnet of the trained network (one network; extract it from a supernet first).

    It also gives the image's embedding if `embedding` is true, or if the space asks for it.
    """
    d = trained.data
    embedding = embedding or trained.space.embedding
    spec = trained.model.spec(name or trained.recipe.name, list(d.classes), d.document, provenance, embedding)
    return build_subnet(spec)


def measure(trained: Trained, subnet: Subnet, test: AnySplit, batch: int = 500) -> Figures:
    """Classifies every test image with the float baseline, the trained network and the integer engine."""
    classes = len(trained.data.classes)
    confusion = np.zeros((classes, classes), np.int64)
    base = differing = 0
    with Engine(subnet) as engine:
        for at, (x, y) in enumerate(test.batches(batch)):
            if trained.baseline is not None:
                base += int((logits_of(trained.baseline, x).argmax(dim=1) == y).sum())
            logits = logits_of(trained.model, x).numpy()
            found = engine.infer_batch(test.for_engine(batch, at * batch), top_k=1)
            differing += int((logits != found.logits).any(axis=1).sum())
            confusion += np.bincount(y.numpy() * classes + found.indices, minlength=classes**2).reshape(
                classes, classes
            )
    count = len(test)
    return Figures(
        images=count,
        float_top1=base / count if trained.baseline is not None else None,
        integer_top1=float(np.trace(confusion) / count),
        differing=differing,
        confusion=confusion,
    )


def finish(
    trained: Trained,
    out: Path,
    machine: str,
    command: str,
    log: Log = print,
    name: str | None = None,
    search: Mapping[str, Any] | None = None,
    embedding: bool = False,
) -> Figures:
    """Writes ``out/NAME.qvit`` and the folder ``out/NAME`` with the model card, the confusion matrix and the samples.

    The test set is read here for the first and only time. `search` is the record of the search that found the network
    (`quasar_rt.train.architecture_file`): it goes into the provenance as it is, and the card has a line of it. With
    `embedding` the subnet also gives the image's embedding.
    """
    recipe, name = trained.recipe, name or trained.recipe.name
    test = trained.data.test()
    minutes = {stage: round(seconds / 60, 1) for stage, seconds in trained.seconds.items()}
    provenance: dict[str, Any] = {
        "tool": command,
        "recipe": recipe.as_dict(),
        "architecture": trained.model.active.to_dict(),
        "data": trained.data.describe,
        "date": dt.date.today().isoformat(),
        "machine": machine,
        "minutes": minutes,
        "activation_scales": trained.model.activation_scales(),
    }
    if search is not None:
        provenance["search"] = dict(search)
    figures = measure(trained, export(trained, provenance, name, embedding), test)
    subnet = export(trained, provenance | {"figures": figures.as_dict()}, name, embedding)
    folder = out / name
    make_folder(folder)
    path = out / f"{name}.qvit"
    subnet.save(path)
    draw_confusion(figures.confusion, trained.data.classes, folder / "confusion.png")
    write_samples(test, trained.data.classes, folder / "samples")
    card = model_card(name, trained, subnet, figures, provenance, path.stat().st_size)
    write_text(folder / "README.md", card)
    base = "" if figures.float_top1 is None else f"float {figures.float_top1:.2%}, "
    log(
        f"top-1 on {figures.images} test images: {base}integer {figures.integer_top1:.2%} (standard error "
        f"{figures.standard_error:.2%}); PyTorch's logits differ from the engine's for {figures.differing} images"
    )
    log(f"wrote {path} ({path.stat().st_size / 1000:.0f} kB) and {folder}")
    return figures


def write_samples(test: AnySplit, classes: Sequence[str], folder: Path) -> None:
    """Writes the first test image of each class and the next `EXTRA_SAMPLES`, whether the network is right or not."""
    make_folder(folder)
    labels = test.labels.numpy()
    chosen = {int(np.flatnonzero(labels == label)[0]) for label in np.unique(labels)[:FEW_CLASSES]}
    further = (index for index in range(len(labels)) if index not in chosen)
    chosen |= {index for index, _ in zip(further, range(EXTRA_SAMPLES), strict=False)}
    listing = {}
    marked = PngInfo()
    for key, value in PNG_METADATA.items():
        marked.add_text(key, value)
    for index in sorted(chosen):
        name = classes[labels[index]]
        plain = name.lower().replace("/", "-").replace(" ", "-")
        file = f"{index:05d}-{plain}.png"
        planes = test.first(1, index)[0][0].numpy()
        image = planes[0] if len(planes) == 1 else planes.transpose(1, 2, 0)
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(image)).save(buffer, "png", optimize=True, pnginfo=marked)
        write_bytes(folder / file, buffer.getvalue())
        listing[file] = name
    write_text(folder / "labels.json", json.dumps(listing, indent=2) + "\n")
    # Last: on a full disk the earlier samples remain.
    for old in folder.glob("*.png"):
        if old.name not in listing and not old.is_symlink() and kind_of(old) == "picture":
            old.unlink()


def model_card(
    name: str,
    trained: Trained,
    subnet: Subnet,
    figures: Figures,
    provenance: dict[str, Any],
    size: int,
) -> str:
    """Returns the model card, Markdown."""

    def percent(top1: float) -> str:
        return f"{top1:.2%} ± {math.sqrt(top1 * (1 - top1) / figures.images):.2%}"

    facts = _facts(name, trained, subnet, figures, provenance, size)
    totals = figures.confusion.sum(axis=1)
    right = np.diag(figures.confusion) / np.maximum(totals, 1)
    weakest = int(np.where(totals > 0, right, np.inf).argmin())
    ends = ", ".join(
        f"{history[-1]['top1_largest']:.2%} ({stage})"
        for stage, history in trained.history.items()
        if history
    )
    if "search" in provenance:
        facts["found by"] = search_line(provenance["search"])
    table = "\n".join(f"| {key} | {value} |" for key, value in facts.items())
    base = ""
    if figures.float_top1 is not None:
        base = f"| float (the same recipe without quantizers) | {percent(figures.float_top1)} |\n"
    image = trained.space.settings["image"]
    colour = "gray" if image["channels"] == 1 else "RGB"
    return f"""# Model card: {name}

A Vision Transformer for {image["height"]}x{image["width"]} {colour} images of {len(trained.data.classes)} classes
that runs in integers only, with row-wise mixed 4- and 8-bit weights.

| | |
|---|---|
{table}

## Accuracy

Top-1 on all {figures.images:,} test images, one seed. ± is the binomial standard error, not the spread over seeds.

| | top-1 |
|---|---|
{base}| integer, `quasar_rt.Engine` | {percent(figures.integer_top1)} |

Logits of the trained network in PyTorch differ from the engine's for {figures.differing:,} images, compared bit by bit.
On the validation images the stages ended with {ends}.
Every choice was made on validation images; the test set was read for the figures above only.

![Confusion matrix](confusion.png)

The weakest class is {trained.data.classes[weakest]} ({right[weakest]:.1%} of its images are classified correctly).

## Samples

`samples/` holds the first test image of each class (of at most {FEW_CLASSES}) and the next {EXTRA_SAMPLES} images of
the test set. They are chosen by position alone, not by
whether the network is right about them. The number in a file's name is the image's index.
"""


def _facts(
    name: str, trained: Trained, subnet: Subnet, figures: Figures, provenance: dict[str, Any], size: int
) -> dict[str, str]:
    """Returns the table of the model card: the network, its data and its training."""

    def span(values: Sequence[int]) -> str:
        return str(values[0]) if len(set(values)) == 1 else ", ".join(map(str, values))

    recipe, data, model = trained.recipe, trained.data, trained.model
    patch, shape = trained.space.settings["patch"], model.active
    matrices = model.matrices().values()
    rows = sum(len(layer.bits) for layer in matrices)
    eight = sum(int((layer.bits == 8).sum()) for layer in matrices)
    weights = sum(layer.weight.numel() for layer in matrices)
    minutes = ", ".join(f"{stage} {value}" for stage, value in provenance["minutes"].items())
    return {
        "network": f"{patch['kernel']}x{patch['kernel']} patches every {patch['stride']} pixels "
        f"(padding {patch['pad']}, value {patch['pad_value']}), class token, embed {shape.embed}, depth {shape.depth}, "
        f"heads {span([block.heads for block in shape.blocks])} of {shape.blocks[0].head_dim}, "
        f"MLP {span([block.hidden for block in shape.blocks])}, exact GELU",
        "weights": f"{weights:,} in matrices; {eight} of {rows} rows 8-bit, {rows - eight} 4-bit; activations 8-bit",
        "file": f"`{name}.qvit`, {size / 1000:.0f} kB, content digest `{subnet.sha256[:16]}...`",
        "data": f"{data.describe}: {len(data.train):,} images for training, "
        f"{len(data.validation):,} of its training set for validation, {figures.images:,} for the test",
        "recipe": _training(recipe, "float" in trained.history),
        "quantizers": f"8-bit rows chosen in each matrix by the criterion `{recipe.quantization.criterion}`; patch "
        "embedding and head all 8-bit; 4-bit steps and activation scales learned",
        "trained": f"{provenance['date']} on {provenance['machine']}; minutes: {minutes}",
        "command": f"`{provenance['tool']}`",
    }


def _training(recipe: Recipe, in_float: bool) -> str:
    """Describes the stages of a network: `in_float` is true if the first one was in float."""
    d, o, stage, t = recipe.data, recipe.optimizer, recipe.quantized_stage, recipe.teacher
    assert stage is not None
    varied = {
        "mirroring": d.flip,
        f"shifts up to {d.shift} pixels": d.shift,
        f"random crops of {d.crop[0]:.0%} to {d.crop[1]:.0%} of the area": d.folder,
        f"RandAugment `{d.randaugment}`": d.randaugment,
    }
    augmented = ", ".join(text for text, used in varied.items() if used)
    started = "" if recipe.init == "random" else f" started from `{recipe.init}`,"
    floats = f"{recipe.float_stage.epochs} epochs in float, then " if in_float else ""
    rates = [recipe.float_stage.learning_rate] * in_float + [stage.learning_rate]
    taught = ""
    if t is not None:
        answers = "classes" if t.hard else f"probabilities at temperature {t.temperature:g}"
        taught = f"; {t.weight:.0%} of the loss from the {answers} of `{t.model}` ({', '.join(t.stages)})"
    return (
        f"seed {recipe.seed}:{started} {floats}{stage.epochs} with quantizers; AdamW, learning rate "
        f"{', then '.join(f'{rate:g}' for rate in rates)}; batch {o.batch}; {augmented or 'no augmentation'}; "
        f"label smoothing {o.label_smoothing:g}; averaged weights (decay {o.ema:g}){taught}"
    )
