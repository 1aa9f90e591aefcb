"""The options of post-training quantization, each in one place: of `quasar_rt.export.export_timm` and `quasar_rt.fit`.

From the fields come the functions' parameters and documentation, and options of ``quasar-rt export`` and ``quasar-rt
fit``. Depends on `quasar_rt.options`, `quasar_rt.hardware` and `quasar_rt.space`; torch is imported by type checkers
alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from .hardware import Board, Hardware, RatesOf
from .images import ImageLike
from .nas.options import DEFAULT_BOARD
from .options import StrPath, described, option
from .space import Space

if TYPE_CHECKING:
    from torch import Tensor, nn

    from .networks.words import Words

__all__ = [
    "CURVE",
    "ExportOptions",
    "FitOptions",
    "LayerReport",
    "Method",
    "Progress",
    "QuantizationOptions",
    "Tokens",
]

#: The rounding of weights.
Method: TypeAlias = Literal["gptq", "nearest"]
#: The tokens whose outputs a subnet gives: those of the image alone, or of each patch, too.
Tokens: TypeAlias = Literal["image", "patch"]
#: Gets what is done, how much of it, and its total.
Progress: TypeAlias = Callable[[str, int, int], object]
#: Subnets of a curve without frame rates, from 8 bits in all rows to 4.
CURVE = 5


@dataclass(frozen=True)
class LayerReport:
    """Reports how well one matrix was quantized, measured on the calibration images.

    An error is the root of the mean squared difference from the outputs of the float network, as a share of their
    standard deviation. It contains what the quantized layers before this one cost.
    """

    name: str
    rows: int
    columns: int
    eight_bit_rows: int
    error_before: float
    """With each weight rounded to the nearest code."""
    error_after: float

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields for JSON."""
        return asdict(self)


@dataclass(frozen=True, repr=False)
class QuantizationOptions:
    """Say what a subnet is like, and how it is calibrated."""

    _: KW_ONLY
    correct: bool = option(
        True,
        "correct logits and embedding by least squares on 128 images or more (`quasar_rt.export.correction`), where "
        "images that are held out gain: whole stretches of the order, with all near-duplicates.",
        "--correct/--no-correct",
        help="Correct logits and embedding by least squares towards the float network's, where held-out images gain.",
    )
    classes: Sequence[str] | None = option(None, "class names. [those of the network, or ``class 0``, ...]")
    words: Words | None = option(
        None,
        "classes in words for a network of CLIP or SigLIP (`quasar_rt.networks.words.encode_words`), which become the "
        "subnet's classes beside its embedding.",
    )
    embedding: bool = option(
        False,
        "True for a subnet that gives the image's embedding, the head's input, as well as its classes "
        "(`quasar_rt.Engine.embed`). The model may have no classifier then (``num_classes=0``).",
        "--embedding",
        help="Also give an image's embedding, for retrieval (Engine.embed); a model without a classifier gives it "
        "alone.",
    )
    tokens: Tokens = option(
        "image",
        '``"patch"`` for a subnet that also gives the logits and the embedding of each patch, from its token after the '
        "final LayerNorm. A model without a classifier gives embeddings. If the model normalises the mean of its "
        "patches (``fc_norm``), the subnet normalises each patch, and its image's result is their mean.",
        "--tokens",
        choices=get_args(Tokens),
        help="Whose classes and embedding the subnet gives: the image's, or each patch's, too, for anomaly maps and "
        "segmentation.",
    )
    mean: Sequence[float] | None = option(
        None,
        "of pixel/255 for each channel. [timm's configuration of the model (``pretrained_cfg``), or ImageNet's, with a "
        "warning, where the model has none]",
    )
    std: Sequence[float] | None = option(
        None, "the standard deviation of pixel/255 for each channel. [as of `mean`]"
    )
    resize: dict[str, Any] | None = option(
        None,
        "the subnet's ``preprocess.resize`` (docs/subnet-file.md). The default is timm's configuration of the model, "
        "whose ``crop_pct`` counts only where the model has the configuration's image size: for a model made with "
        "another ``img_size``, the shorter side is resized to that size. Rectangular models need `resize`.",
    )
    name: str | None = option(
        None,
        "the subnet's name. [the model's architecture name]",
        "--name",
        help="The subnet's name; by default that of the checkpoint's file, the folder or the timm model.",
    )
    percentile: float | None = option(
        None,
        "the share of an activation's distribution that its 8-bit range covers on each side. By default the range is "
        "that of the least squared error, clipping and rounding together, each channel weighted by what an error of it "
        "costs the loss.",
    )
    equalize: bool = option(
        True, "first even out the ranges of the channels that each LayerNorm gives, and of v's."
    )
    rotate: bool | None = option(
        None,
        "True first rotates q, k and v by head and, where nothing forbids it, the residual stream "
        "(`quasar_rt.export.rotation`). The float function stays the same: the head, or a projection of the embedding, "
        "rotates back. An embedding beside classes and a norm of the patches forbid it. None takes the "
        "better of both on images that are held out; with fewer than 32 images it rotates a network without classes "
        "whose rows all have 8 bits.",
    )
    batch_size: int = option(16, "calibration images at a time.")
    progress: Progress | None = option(
        None, "gets, after each stage, its name, the number of stages done and their total."
    )


@dataclass(frozen=True, repr=False)
class _Exported:
    model: nn.Module = field(
        metadata=described(
            "``vit_*``, ``deit_*`` or any other plain ``VisionTransformer``: any embed, depth, heads, patch and MLP "
            "ratio, class token (and register tokens), class and distillation token, or mean pooling, layer scale, RGB "
            "or gray. It is not changed."
        )
    )
    calibration: Iterable[ImageLike] | Tensor = field(
        metadata=described(
            "images as :meth:`Engine.infer` takes them, or one float tensor [images, channels, height, width] "
            "normalised as the model expects it. A few dozen suffice, some hundreds correct the outputs as well; "
            "labels are not needed."
        )
    )


@dataclass(frozen=True, repr=False)
class ExportOptions(QuantizationOptions, _Exported):
    """The parameters of `quasar_rt.export.export_timm`."""

    _: KW_ONLY
    eight_bit_fraction: float = option(
        0.25,
        "the share of the blocks' weights that have 8 bits. The rows are chosen over all matrices: those whose error, "
        "after `method`, costs the loss most at 4 bits for each weight; the model's own prediction is the label. The "
        "patch embedding and the head are all 8-bit.",
    )
    method: Method = option(
        "gptq",
        '``"gptq"`` rounds each row for the least error of its outputs (`quasar_rt.export.gptq`) and corrects the '
        'biases; ``"nearest"`` rounds each weight to the nearest code.',
        "--method",
        choices=get_args(Method),
        help="How weights are rounded: for the least error of each row's outputs, or each to the nearest code.",
    )
    report: Callable[[LayerReport], object] | None = option(
        None, "gets the error of each matrix before and after."
    )


@dataclass(frozen=True, repr=False)
class _Fitted:
    model: nn.Module | StrPath = field(
        metadata=described(
            "a timm ``VisionTransformer``, or what `quasar_rt.networks.load_network` takes: a folder of Hugging Face's "
            "transformers, an ONNX file, a timm model's name."
        )
    )
    calibration: Iterable[ImageLike] = field(
        metadata=described(
            "images as `Engine.infer` takes them; a few dozen, of the kind that the network will see."
        )
    )


@dataclass(frozen=True, repr=False)
class FitOptions(QuantizationOptions, _Fitted):
    """The parameters of `quasar_rt.fit`."""

    _: KW_ONLY
    out: StrPath = field(
        metadata=described(
            "the folder for the subnets, the report and the measured worth. A fit that was interrupted goes on there."
        )
    )
    board: Board | str | None = option(
        None,
        f"a board, or the name or path of one. [that of `hardware`, or {DEFAULT_BOARD}]",
        "--board NAME|FILE",
        help=f"A shipped board, or a TOML file of your own. [the one in --hardware, or {DEFAULT_BOARD}]",
    )
    fps: float | Sequence[float] = option(
        (), "a frame rate to reach, frames a second, or several.", "--fps", help="A frame rate to reach."
    )
    curve: int | None = option(
        None,
        "this many subnets (2 to 100) from 8 bits in all rows to 4 instead, at equal distances in frame rate; fewer "
        f"where the processor is the bound. [{CURVE} without `fps`]",
        "--curve",
        help=f"This many subnets (2 to 100) from 8 bits in all rows to 4 instead. [{CURVE} without --fps]",
        least=2,
    )
    fps_of: RatesOf = option(
        "board",
        "``board``: the rate that a user gets, with the gaps in which the processor starts segments and at most the "
        "processor's own rate; ``accelerator``: that of the accelerator alone.",
        "--fps-of",
        choices=get_args(RatesOf),
        help="What --fps means: what a user gets, with the processor's gaps and limit, or the accelerator alone.",
    )
    hardware: Hardware | StrPath | None = option(
        None,
        "the accelerator's configuration, or its TOML file. [the fastest one for the network]",
        "--hardware",
        path="file",
    )
    space: Space | StrPath | None = option(
        None,
        "a space, its name or its TOML file: the configuration is made for it, rather than for the network alone.",
        "--space NAME|FILE",
    )
    clock_mhz: float | None = option(
        None, "the fabric's clock, MHz. [the configuration's or the board's]", "--clock MHZ"
    )
    image_size: int | tuple[int, int] | None = option(
        None,
        "of a network that is loaded here: a side, or height and width; positions of another grid are resampled.",
    )
