"""Post-training quantization: a timm ``VisionTransformer`` becomes a subnet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import count
from typing import Any, get_args

import timm
import torch
from torch import Tensor, nn

from ..build import NetworkSpec, build_subnet
from ..images import ImageLike
from ..subnet import Subnet
from .float_vit import ViT, forward
from .inputs import calibration_batches, preprocessing_of
from .layerwise import LayerReport, Method, Quantized, norm_spec
from .network import quantize_network
from .team import MEMBERS
from .timm_reader import read, require

__all__ = ["export_timm"]


def export_timm(
    model: nn.Module,
    calibration: Iterable[ImageLike] | Tensor,
    *,
    eight_bit_fraction: float = 0.25,
    classes: Sequence[str] | None = None,
    name: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    resize: dict[str, Any] | None = None,
    percentile: float | None = None,
    equalize: bool = True,
    method: Method = "gptq",
    embedding: bool = False,
    batch_size: int = 16,
    report: Callable[[LayerReport], object] | None = None,
    progress: Callable[[str, int, int], object] | None = None,
) -> Subnet:
    """Quantizes a timm ``VisionTransformer`` after training.

    Args:
        model: ``vit_*``, ``deit_*`` or any other plain ``VisionTransformer``: any embed, depth, heads, patch and MLP
            ratio, class token (and register tokens), class and distillation token, or mean pooling, layer scale, RGB or
            gray. It is not changed.
        calibration: images as :meth:`Engine.infer` takes them, or one float tensor [images, channels, height, width]
            normalised as the model expects it. A few dozen suffice; labels are not needed.
        eight_bit_fraction: the share of 8-bit rows in each block's q, k, v, proj, fc1 and fc2. The rows are those whose
            error, after `method`, costs the loss most at 4 bits; the model's own prediction is the label. The patch
            embedding and the head are all 8-bit.
        classes: class names; ``class 0``, ... by default.
        name: the subnet's name; the model's architecture name by default.
        mean, std: of pixel/255 for each channel; timm's configuration of the model by default.
        resize: the subnet's ``preprocess.resize`` (docs/subnet-file.md). The default is timm's configuration of the
            model, whose ``crop_pct`` counts only where the model has the configuration's image size: for a model made
            with another ``img_size``, the shorter side is resized to that size. Rectangular models need `resize`.
        percentile: the share of an activation's distribution that its 8-bit range covers on each side. By default the
            range is that of the least squared error, clipping and rounding together, each channel weighted by what an
            error of it costs the loss.
        equalize: True first evens out the ranges of the channels that each LayerNorm gives, and of v's.
        method: ``"gptq"`` rounds each row for the least error of its outputs (`quasar_rt.export.gptq`) and corrects
            the biases; ``"nearest"`` rounds each weight to the nearest code.
        embedding: True for a subnet that gives the image's embedding, the head's input, as well as its classes
            (`quasar_rt.Engine.embed`). The model may have no classifier then (``num_classes=0``).
        batch_size: calibration images at a time.
        report: gets the error of each matrix before and after.
        progress: gets, after each stage, its name, the number of stages done and their total.

    Returns:
        A subnet marked as trained, its recipe in ``provenance``.

    Raises:
        UnsupportedModelError: names the part of the model that the integer model lacks.
        ValueError: calibration data or options of the wrong kind.
        quasar_rt.QuasarError: images that cannot be read or do not differ, weights that are not finite, shapes beyond
            the integer model's limits.
    """
    if not 0 <= eight_bit_fraction <= 1:
        raise ValueError(f"eight_bit_fraction must be in [0, 1], not {eight_bit_fraction}")
    if percentile is not None and not 0.9 <= percentile <= 1:
        raise ValueError(f"percentile must be in [0.9, 1], not {percentile}")
    if method not in get_args(Method):
        raise ValueError(f"method must be one of {', '.join(get_args(Method))}, not {method!r}")
    net = read(model, headless=embedding)
    preprocessing, mean_of, std_of = preprocessing_of(model, net, mean, std, resize)
    # The members of a team work on as many images in all.
    batches = calibration_batches(
        calibration, net, preprocessing, mean_of, std_of, max(1, batch_size // MEMBERS)
    )
    names = [f"class {i}" for i in range(len(net.head.weight))] if classes is None else list(classes)
    if len(names) != len(net.head.weight):
        raise ValueError(f"the model has {len(net.head.weight)} classes, but {len(names)} names were given")

    stages, done = 4 + 4 * len(net.blocks) + len(net.heads()) * bool(names), count(1)

    def step(what: str) -> None:
        if progress is not None:
            progress(what, next(done), stages)

    def on_layer(layer: LayerReport) -> None:
        if report is not None:
            report(layer)
        step(layer.name)

    net.cast(torch.float32)
    _check_same_function(model, net, batches[0])
    parts = quantize_network(
        net,
        batches,
        std=std_of,
        fractions=lambda name: [eight_bit_fraction] * (3 if name.endswith(".qkv") else 1),
        method=method,
        equalize=equalize,
        percentile=percentile,
        on_layer=on_layer,
        on_stage=step,
    )
    provenance = {
        "exporter": "post-training quantization of a timm VisionTransformer",
        "timm": timm.__version__,
        "eight_bit_fraction": eight_bit_fraction,
        "calibration_images": sum(len(batch) for batch in batches),
        "ranges": "least error" if percentile is None else f"quantile {percentile}",
        "equalize": equalize,
        "method": method,
        "mean": mean_of,
        "std": std_of,
    }
    name = name or getattr(model, "pretrained_cfg", {}).get("architecture") or type(model).__name__
    return build_subnet(_spec(name, net, parts, names, preprocessing, provenance, embedding))


def _spec(
    name: str,
    net: ViT,
    parts: Quantized,
    classes: list[str],
    preprocess: dict[str, Any],
    provenance: dict[str, Any],
    embedding: bool,
) -> NetworkSpec:
    return NetworkSpec(
        name=name,
        height=net.height,
        width=net.width,
        channels=net.channels,
        mean=provenance["mean"],
        std=provenance["std"],
        kernel=net.kernel,
        stride=net.kernel,
        pad=0,
        pad_value=0,
        position=net.position.double().numpy(),
        prefix=net.prefix.double().numpy(),
        pool=net.pool,
        norm=norm_spec(net.norm),
        classes=classes,
        preprocess=preprocess,
        trained=True,
        embedding=embedding,
        provenance=provenance,
        **vars(parts),
    )


def _check_same_function(model: nn.Module, net: ViT, batch: Tensor) -> None:
    """Refuses a model whose logits differ from those of the plain ViT that was read from it."""
    training = model.training
    parameter = next(model.parameters())
    model.eval()
    try:
        with torch.no_grad():
            expected = model(batch.to(parameter.device, parameter.dtype)).float().cpu()
            found = forward(net, batch, lambda _, value: value)
    finally:
        model.train(training)
    # Half-precision models round differently; all others agree to float32's accuracy.
    tolerance = 1e-3 if parameter.dtype == torch.float32 else 5e-2
    error = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-6))
    require(
        error < tolerance,
        f"its logits differ from those of the plain ViT with the same weights (relative difference {error:.2g}), "
        "so its forward pass does something that this exporter does not know",
    )
