"""Options that name a float network and its calibration images, and what they stand for."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import QuasarError
from ..evaluate import decode
from ..files import read_small_text, reason
from ..image_sets import folder_classes, images_of
from .network_loading import load_network, model_arguments
from .options import FILE
from .output import Failure, bars, echo

if TYPE_CHECKING:
    from ..networks import LoadedNetwork
    from ..networks.words import Words
    from ..subnet import Subnet

__all__ = ["described", "float_network", "measured", "open_float_network", "read_words", "templates"]


def _numbers(ctx: click.Context, parameter: click.Parameter, value: str | None) -> list[float] | None:
    try:
        return None if value is None else [float(number) for number in value.split(",")]
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a number, or numbers with commas between them") from None


def _resize(ctx: click.Context, parameter: click.Parameter, value: str | None) -> dict[str, Any] | None:
    try:
        document = None if value is None else json.loads(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not JSON: {error}") from None
    if document is not None and not isinstance(document, dict):
        raise click.BadParameter(f"{value!r} is not a JSON object")
    return document


templates = click.option(
    "--templates", type=FILE, help="A file of sentences with {} for the words. [that of the model's authors]"
)


def read_words(model: str | None, words: Path, templates: Path | None) -> Words:
    """Runs a folder's text tower on the lines of a file, with a bar and its notices on stderr.

    Raises:
        Failure: the folder, the words or the templates cannot be used.
    """
    if model is None or not Path(model).is_dir():
        raise Failure(f"--words needs --model FOLDER of CLIP or SigLIP; '{model}' is no folder")
    try:
        from ..networks.words import encode_words

        names, sentences = _lines(words), None if templates is None else _lines(templates)
        with bars() as bar:
            found = encode_words(model, names, sentences, bar)
    except (ImportError, QuasarError) as error:
        raise Failure(str(error)) from error
    for notice in found.notices:
        echo(f"{words}: {notice}", err=True)
    return found


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in read_small_text(path, "utf-8-sig").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise Failure(f"'{path}' cannot be read: {reason(error)}") from error


def measured(subnet: Subnet) -> str:
    """Describes how exact the probabilities of classes in words are."""
    words = subnet.config["provenance"]["words"]
    return (
        "classes in words: probabilities by the length of each picture's own embedding; the file's logits, which C "
        f"programs read, by the mean of {words['images']} pictures (standard deviation {words['norm_deviation']:.1%})"
    )


#: In the order of the help.
_OPTIONS: list[Callable[..., Any]] = [
    click.option(
        "--model",
        metavar="ARCHITECTURE|FOLDER|FILE.onnx",
        help="A timm architecture (vit_*, deit_* or deit3_*), a folder of Hugging Face's transformers (ViT, DeiT, "
        "DINOv2, DINOv3, CLIP, SigLIP) or of timm, or an ONNX file of a plain ViT.",
    ),
    click.option(
        "--checkpoint",
        type=click.Path(exists=True, path_type=Path),
        help="A timm state dict (.pth, .safetensors) of the architecture.",
    ),
    click.option("--pretrained", is_flag=True, help="Let timm download its own weights instead."),
    model_arguments,
    click.option(
        "--calibration",
        required=True,
        metavar="DIR|wds:SHARDS|hf:NAME",
        help="A folder of images (searched in depth), WebDataset shards ([webdataset] extra) or a Hugging Face data "
        "set ([datasets] extra); its images are taken at equal distances.",
    ),
    click.option(
        "--images",
        default=256,
        show_default=True,
        type=click.IntRange(1),
        help="How many calibration images to use at most. At most 128 of them choose ranges and codes; all of them, if "
        "there are 128 or more, correct the outputs.",
    ),
    click.option(
        "--classes",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="A text file, one class name a line. By default the names in a Hugging Face folder, or those of the "
        "folders in --calibration if there is one for each class.",
    ),
    click.option(
        "--words",
        type=FILE,
        help="A text file, a class in words a line, for a folder of CLIP or SigLIP with its text tower. [text]",
    ),
    templates,
    click.option(
        "--mean",
        callback=_numbers,
        metavar="M[,M,M]",
        help="Mean of pixel/255 by channel; timm's configuration by default.",
    ),
    click.option(
        "--std",
        callback=_numbers,
        metavar="S[,S,S]",
        help="Standard deviation of pixel/255 by channel; timm's configuration by default.",
    ),
    click.option(
        "--resize",
        callback=_resize,
        metavar="JSON",
        help='How images come to the model\'s size, e.g. \'{"mode": "exact", "size": [48, 96], "filter": "bicubic"}\' '
        "(docs/subnet-file.md); timm's configuration by default.",
    ),
]


def float_network(function: Callable[..., None]) -> Callable[..., None]:
    """Adds the options; the command passes their values to `open_float_network`."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def open_float_network(
    *,
    model: str | None,
    checkpoint: Path | None,
    pretrained: bool,
    model_arg: tuple[str, ...],
    image_size: tuple[int, int] | None,
    calibration: str,
    images: int,
    classes: Path | None,
    words: Path | None,
    templates: Path | None,
    name: str | None,
    **options: Any,
) -> tuple[LoadedNetwork, Any, dict[str, Any]]:
    """Returns the network, the calibration images, and the other options as `quasar_rt.export.export_timm` takes them.

    Raises:
        click.UsageError: no network is named.
        Failure: the network, the images or the class names cannot be read.
    """
    if checkpoint is None and model is None:
        raise click.UsageError("give a network: --model, or --model and --checkpoint")
    if words is not None and (classes is not None or checkpoint is not None):
        raise click.UsageError("--words goes with --model FOLDER, without --classes and --checkpoint")
    if words is None and templates is not None:
        raise click.UsageError("--templates goes with --words")
    named = None if words is None else read_words(model, words, templates)
    try:
        files = images_of(calibration).spread(images)
        kept = [
            index
            for index, image in enumerate(files)
            if decode(image, lambda error: echo(f"Error: {error}", err=True)) is not None
        ]
    except QuasarError as error:
        raise Failure(str(error)) from error
    if not kept:
        raise Failure(f"no image of {calibration} can be read")
    if len(kept) < len(files):
        echo(
            f"{len(files) - len(kept)} of {len(files)} calibration images cannot be read and are left out",
            err=True,
        )
        files = files.subset(kept)
    network = load_network(model, checkpoint, pretrained, model_arg, image_size)
    if named is not None:
        return network, files, {"words": named, "name": name or network.name, **options}
    try:
        names = read_small_text(classes).splitlines() if classes else network.classes
        if names is None and (names := folder_classes(calibration, getattr(network.model, "num_classes", 0))):
            echo(f"class names: the folders in {calibration}", err=True)
    except (OSError, ValueError) as error:
        raise Failure(f"the class names cannot be read from '{classes}': {reason(error)}") from error
    return network, files, {"classes": names, "name": name or network.name, **options}


def described(provenance: Mapping[str, Any]) -> str:
    """Describes the correction of a subnet's outputs, with errors before and after and what was held out; or ""."""

    def one(found: Mapping[str, Any]) -> str:
        pairs = zip(found["error_before"], found["error_after"], strict=True)
        errors = " and ".join(f"{before:.3f} to {after:.3f}" for before, after in pairs)
        ridge = ", with the smallest ridge" if found["smallest_ridge"] else ""
        return f"{found['outputs']} {errors}{ridge}{'' if found['kept'] else ', not taken'}"

    found = provenance.get("corrections")
    if not found:
        return f"none: {provenance['uncorrected']}" if "uncorrected" in provenance else ""
    held = "{held_out} held-out images ({held_out_groups} groups of {groups})".format(**found[0])
    return f"{'; '.join(map(one, found))}, on {held}"
