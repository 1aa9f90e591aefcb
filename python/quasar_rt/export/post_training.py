"""Post-training quantization: a timm ``VisionTransformer`` becomes a subnet."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..build import BlockSpec, LinearSpec, NetworkSpec, NormSpec, build_subnet
from ..images import ImageLike
from ..rows.bits import choose_bits
from ..subnet import Subnet
from .calibration import Moments, Ranges, equalize
from .float_vit import Block, Linear, Norm, ViT, forward
from .inputs import calibration_batches, preprocessing_of
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
    percentile: float = 0.9999,
    equalize: bool = True,
    batch_size: int = 16,
) -> Subnet:
    """Quantizes a timm ``VisionTransformer`` after training.

    Args:
        model: ``vit_*``, ``deit_*`` or any other plain ``VisionTransformer``: any embed, depth, heads, patch and MLP
            ratio, class token (and register tokens) or mean pooling, layer scale, RGB or gray. It is not changed.
        calibration: images as :meth:`Engine.infer` takes them, or one float tensor [images, channels, height, width]
            normalised as the model expects it. A few dozen suffice; labels are not needed.
        eight_bit_fraction: the share of 8-bit rows in each block's matrices. `quasar_rt.rows.bits.row_scores` chooses
            the rows, with the model's own prediction as the label. The patch embedding and the head are all 8-bit.
        classes: class names; ``class 0``, ... by default.
        name: the subnet's name; the model's architecture name by default.
        mean, std: of pixel/255 for each channel; timm's configuration of the model by default.
        resize: the subnet's ``preprocess.resize`` (docs/subnet-file.md). The default is timm's configuration of the
            model, whose ``crop_pct`` counts only where the model has the configuration's image size: for a model made
            with another ``img_size``, the shorter side is resized to that size. Rectangular models need `resize`.
        percentile: the share of an activation's distribution that its 8-bit range covers on each side.
        equalize: True first evens out the ranges of the channels that each LayerNorm gives.
        batch_size: calibration images at a time.

    Returns:
        A subnet marked as trained, its recipe in ``provenance``.

    Raises:
        UnsupportedModelError: names the part of the model that the integer model lacks.
        ValueError: calibration data or options of the wrong kind.
        quasar_rt.QuasarError: images that cannot be read, weights that are not finite, shapes beyond the integer
            model's limits.
    """
    if not 0 <= eight_bit_fraction <= 1:
        raise ValueError(f"eight_bit_fraction must be in [0, 1], not {eight_bit_fraction}")
    if not 0.9 <= percentile <= 1:
        raise ValueError(f"percentile must be in [0.9, 1], not {percentile}")
    net = read(model)
    preprocessing, mean_of, std_of = preprocessing_of(model, net, mean, std, resize)
    batches = calibration_batches(calibration, net, preprocessing, mean_of, std_of, batch_size)
    names = [f"class {i}" for i in range(len(net.head.weight))] if classes is None else list(classes)
    if len(names) != len(net.head.weight):
        raise ValueError(f"the model has {len(net.head.weight)} classes, but {len(names)} names were given")

    net.cast(torch.float32)
    _check_same_function(model, net, batches[0])
    if equalize:
        _equalize_blocks(net, Ranges(net, batches, percentile))
    ranges = Ranges(net, batches, percentile)
    moments = Moments(net, batches) if 0 < eight_bit_fraction < 1 else None

    def chosen(key: str, layer: Linear) -> LinearSpec:
        if moments is None:
            return _linear_spec(layer, 8 if eight_bit_fraction else 4)
        return _linear_spec(layer, choose_bits(moments.scores(key, layer), eight_bit_fraction))

    def block_spec(key: str, block: Block) -> BlockSpec:
        return BlockSpec(
            heads=block.heads,
            head_dim=block.head_dim,
            norm1=_norm_spec(block.norm1),
            qkv=chosen(f"{key}.qkv", block.qkv),
            proj=chosen(f"{key}.proj", block.proj),
            norm2=_norm_spec(block.norm2),
            fc1=chosen(f"{key}.fc1", block.fc1),
            fc2=chosen(f"{key}.fc2", block.fc2),
            norm1_out=ranges.affine(f"{key}.norm1.out"),
            q_scale=ranges.symmetric(f"{key}.q"),
            k_scale=ranges.symmetric(f"{key}.k"),
            v_scale=ranges.symmetric(f"{key}.v"),
            attn_out=float(ranges.symmetric(f"{key}.proj.in").max()),
            norm2_out=ranges.affine(f"{key}.norm2.out"),
            # Below about -4 the usual activations are flat: no codes are spent there.
            fc1_out=ranges.affine(
                f"{key}.fc1.out", floor=-4.0 if _is_flat_below(block.activation, -4.0) else -math.inf
            ),
            act_out=ranges.affine(f"{key}.fc2.in"),
            activation=lambda x: _apply(block.activation, x),
        )

    spec = NetworkSpec(
        name=name or getattr(model, "pretrained_cfg", {}).get("architecture") or type(model).__name__,
        height=net.height,
        width=net.width,
        channels=net.channels,
        mean=mean_of,
        std=std_of,
        kernel=net.kernel,
        stride=net.kernel,
        pad=0,
        pad_value=0,
        embed=_linear_spec(net.embed, 8),
        position=net.position.double().numpy(),
        prefix=net.prefix.double().numpy(),
        residual_scale=float(1.5 * ranges.symmetric("residual").max() * 127 / 32767),
        blocks=[block_spec(f"blocks.{i}", block) for i, block in enumerate(net.blocks)],
        pool=net.pool,
        norm=_norm_spec(net.norm),
        norm_out=ranges.affine("norm.out"),
        head=_linear_spec(net.head, 8),
        classes=names,
        preprocess=preprocessing,
        trained=True,
        provenance={
            "exporter": "post-training quantization of a timm VisionTransformer",
            "timm": timm.__version__,
            "eight_bit_fraction": eight_bit_fraction,
            "calibration_images": sum(len(batch) for batch in batches),
            "percentile": percentile,
            "equalize": equalize,
            "mean": mean_of,
            "std": std_of,
        },
    )
    return build_subnet(spec)


def _linear_spec(layer: Linear, bits: int | NDArray[np.uint8]) -> LinearSpec:
    widths = np.broadcast_to(np.asarray(bits, np.uint8), len(layer.weight))
    return LinearSpec(layer.weight.double().numpy(), layer.bias.double().numpy(), widths)


def _norm_spec(part: Norm) -> NormSpec:
    return NormSpec(part.gamma.double().numpy(), part.beta.double().numpy(), part.eps)


def _apply(activation: nn.Module, x: NDArray[np.float64]) -> NDArray[np.float64]:
    with torch.no_grad():
        values: NDArray[np.float64] = activation(torch.from_numpy(x)).numpy()
    return values


def _is_flat_below(activation: nn.Module, edge: float) -> bool:
    with torch.no_grad():
        values = activation(torch.linspace(edge - 8, edge, 64))
    return float(values.abs().max()) < 2e-3


def _equalize_blocks(net: ViT, ranges: Ranges) -> None:
    for i, block in enumerate(net.blocks):
        equalize(block.norm1, block.qkv, ranges.channel_max[f"blocks.{i}.norm1.out"])
        equalize(block.norm2, block.fc1, ranges.channel_max[f"blocks.{i}.norm2.out"])


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
