"""Post-training quantization: a timm ``VisionTransformer`` becomes a subnet (needs the ``[host]`` extra).

The model is read into plain matrices (:func:`_read`), which are run in float on a few calibration images. That run
must reproduce the model's own logits, so that a model that computes anything else is refused rather than exported
wrongly. It also yields what quantizing needs: the range of every activation and, from the gradients, the worth of 8
bits for every weight row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from timm.layers import LayerScale
from timm.models.vision_transformer import Attention, Block, LayerNorm, Mlp, PatchEmbed, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from ..build import Affine, BlockSpec, LinearSpec, NetworkSpec, NormSpec, build_subnet
from ..images import ImageLike, preprocess
from ..rows.bits import choose_bits, row_scores
from ..subnet import Subnet

__all__ = ["UnsupportedModelError", "export_timm"]


class UnsupportedModelError(ValueError):
    """The model computes something that the integer model has no form for; the message names it."""


@dataclass
class _Linear:
    weight: Tensor
    bias: Tensor


@dataclass
class _Norm:
    gamma: Tensor
    beta: Tensor
    eps: float


@dataclass
class _Block:
    heads: int
    head_dim: int
    norm1: _Norm
    qkv: _Linear
    proj: _Linear
    norm2: _Norm
    fc1: _Linear
    fc2: _Linear
    activation: nn.Module


@dataclass
class _ViT:
    """The model as the integer graph sees it: matrices, LayerNorms and tables."""

    height: int
    width: int
    channels: int
    kernel: int
    embed: _Linear
    position: Tensor
    prefix: Tensor
    blocks: list[_Block]
    pool: str
    norm: _Norm
    head: _Linear


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise UnsupportedModelError(f"this model cannot be exported: {what}")


def _identity(module: nn.Module | None) -> bool:
    return module is None or isinstance(module, nn.Identity)


def _linear(module: nn.Module, where: str) -> _Linear:
    if not isinstance(module, nn.Linear):
        raise UnsupportedModelError(
            f"this model cannot be exported: {where} is a {type(module).__name__}, not a Linear"
        )
    weight = module.weight.detach().double()
    bias = (
        torch.zeros(len(weight), dtype=torch.float64)
        if module.bias is None
        else module.bias.detach().double()
    )
    return _Linear(weight.cpu(), bias.cpu())


def _norm(module: nn.Module, where: str) -> _Norm:
    if not isinstance(module, nn.LayerNorm | LayerNorm):
        raise UnsupportedModelError(
            f"this model cannot be exported: {where} is a {type(module).__name__}, not a LayerNorm"
        )
    size = module.normalized_shape[-1]
    gamma = torch.ones(size) if module.weight is None else module.weight.detach()
    beta = torch.zeros(size) if module.bias is None else module.bias.detach()
    return _Norm(gamma.double().cpu(), beta.double().cpu(), float(module.eps))


def _block(block: nn.Module, where: str) -> _Block:
    if type(block) is not Block:
        raise UnsupportedModelError(
            f"this model cannot be exported: {where} is a {type(block).__name__}, not timm's pre-norm Block"
        )
    attn, mlp = block.attn, block.mlp
    _require(type(attn) is Attention, f"{where}.attn is a {type(attn).__name__}, not timm's Attention")
    _require(type(mlp) is Mlp, f"{where}.mlp is a {type(mlp).__name__}, not timm's two-layer Mlp")
    _require(
        _identity(attn.q_norm) and _identity(attn.k_norm),
        f"{where}.attn normalises queries and keys (qk_norm)",
    )
    _require(_identity(getattr(attn, "norm", None)), f"{where}.attn normalises its output (scale_attn_norm)")
    _require(getattr(attn, "gate", None) is None, f"{where}.attn gates its output (gated)")
    _require(_identity(mlp.norm), f"{where}.mlp normalises its hidden layer (scale_mlp_norm)")

    def branch(module: nn.Module, scale: nn.Module, name: str) -> _Linear:
        layer = _linear(module, f"{where}.{name}")
        if isinstance(scale, LayerScale):
            gamma = scale.gamma.detach().double().cpu()
            return _Linear(gamma[:, None] * layer.weight, gamma * layer.bias)
        _require(_identity(scale), f"{where} scales a branch by a {type(scale).__name__}")
        return layer

    qkv = _linear(attn.qkv, f"{where}.attn.qkv")
    return _Block(
        heads=attn.num_heads,
        head_dim=len(qkv.weight) // 3 // attn.num_heads,
        norm1=_norm(block.norm1, f"{where}.norm1"),
        qkv=qkv,
        proj=branch(attn.proj, block.ls1, "attn.proj"),
        norm2=_norm(block.norm2, f"{where}.norm2"),
        fc1=_linear(mlp.fc1, f"{where}.mlp.fc1"),
        fc2=branch(mlp.fc2, block.ls2, "mlp.fc2"),
        activation=mlp.act,
    )


def _read(model: nn.Module) -> _ViT:
    """Take a timm ViT apart; :class:`UnsupportedModelError` names what the integer model lacks."""
    if type(model) is not VisionTransformer:
        raise UnsupportedModelError(
            f"this model cannot be exported: it is a {type(model).__name__}; only timm's plain VisionTransformer "
            "is supported (vit_*, deit_* and deit3_* without a distillation head)"
        )
    stem = model.patch_embed
    _require(
        type(stem) is PatchEmbed, f"its patch embedding is a {type(stem).__name__}, not timm's PatchEmbed"
    )
    _require(_identity(stem.norm), "its patch embedding is normalised (embed_norm_layer)")
    _require(_identity(model.norm_pre), "it normalises the embedded patches (pre_norm, as CLIP does)")
    _require(model.attn_pool is None, f"it pools by attention (global_pool='{model.global_pool}')")
    _require(
        model.global_pool in ("token", "avg"),
        f"global_pool='{model.global_pool}'; 'token' and 'avg' are supported",
    )
    _require(not model.pool_include_prefix, "its pooling includes the prefix tokens (pool_include_prefix)")
    _require(isinstance(model.head, nn.Linear), "it has no classifier head (num_classes=0)")
    _require(
        model.in_chans in (1, 3), f"it takes {model.in_chans} channels; 1 (gray) and 3 (RGB) are supported"
    )
    patch = stem.patch_size
    _require(patch[0] == patch[1], f"its patches are {patch[0]}x{patch[1]}; only square ones are supported")
    _require(stem.img_size is not None, "its image size is not fixed")

    norms = [(m, name) for m, name in ((model.norm, "norm"), (model.fc_norm, "fc_norm")) if not _identity(m)]
    _require(
        len(norms) == 1, f"it has {len(norms)} final LayerNorms (norm, fc_norm); exactly one is supported"
    )
    norm_module, norm_name = norms[0]
    if model.global_pool == "token":
        pool = "token"
    else:
        pool = "mean" if norm_name == "fc_norm" else "mean_after_norm"

    weight = stem.proj.weight.detach().double().flatten(1).cpu()
    bias = (
        torch.zeros(len(weight), dtype=torch.float64)
        if stem.proj.bias is None
        else stem.proj.bias.detach().double().cpu()
    )
    prefix_parts = [t[0] for t in (model.cls_token, model.reg_token) if t is not None]
    prefix = torch.cat(prefix_parts) if prefix_parts else torch.zeros(0, model.embed_dim)
    prefix = prefix.detach().double().cpu()
    if model.pos_embed is None:
        position = torch.zeros(stem.num_patches, model.embed_dim, dtype=torch.float64)
    else:
        position = model.pos_embed.detach()[0].double().cpu()
        if not model.no_embed_class:
            prefix, position = prefix + position[: len(prefix)], position[len(prefix) :]
    return _ViT(
        height=stem.img_size[0],
        width=stem.img_size[1],
        channels=model.in_chans,
        kernel=patch[0],
        embed=_Linear(weight, bias),
        position=position,
        prefix=prefix,
        blocks=[_block(block, f"blocks[{i}]") for i, block in enumerate(model.blocks)],
        pool=pool,
        norm=_norm(norm_module, norm_name),
        head=_linear(model.head, "head"),
    )


def _parts(net: _ViT) -> list[tuple[_Linear | _Norm, str, str]]:
    """Every matrix and LayerNorm with its two tensors' names."""
    out: list[tuple[_Linear | _Norm, str, str]] = [
        (net.embed, "weight", "bias"),
        (net.head, "weight", "bias"),
        (net.norm, "gamma", "beta"),
    ]
    for block in net.blocks:
        out += [(layer, "weight", "bias") for layer in (block.qkv, block.proj, block.fc1, block.fc2)]
        out += [(norm, "gamma", "beta") for norm in (block.norm1, block.norm2)]
    return out


def _cast(net: _ViT, dtype: torch.dtype) -> None:
    for part, *names in _parts(net):
        for name in names:
            setattr(part, name, getattr(part, name).to(dtype))
    net.position, net.prefix = net.position.to(dtype), net.prefix.to(dtype)


#: Called with a name and a value at every point whose range or gradient matters; returns the value to go on with.
Probe = Callable[[str, Tensor], Tensor]


def _forward(net: _ViT, images: Tensor, probe: Probe) -> Tensor:
    """Logits of normalised images [batch, channels, height, width] in float."""

    def norm(name: str, part: _Norm, x: Tensor) -> Tensor:
        return probe(f"{name}.out", F.layer_norm(x, (x.shape[-1],), part.gamma, part.beta, part.eps))

    def linear(name: str, layer: _Linear, x: Tensor) -> Tensor:
        return probe(f"{name}.out", F.linear(probe(f"{name}.in", x), layer.weight, layer.bias))

    x = F.unfold(images, net.kernel, stride=net.kernel).transpose(1, 2)
    x = F.linear(x, net.embed.weight, net.embed.bias) + net.position
    x = torch.cat([net.prefix.expand(len(x), -1, -1), x], dim=1)
    x = probe("residual", x)
    for i, block in enumerate(net.blocks):
        name = f"blocks.{i}"
        batch, tokens, _ = x.shape
        y = linear(f"{name}.qkv", block.qkv, norm(f"{name}.norm1", block.norm1, x))
        q, k, v = y.reshape(batch, tokens, 3, block.heads, block.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = (probe(f"{name}.{part}", value) for part, value in (("q", q), ("k", k), ("v", v)))
        a = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(block.head_dim), dim=-1) @ v
        x = probe(
            "residual", x + linear(f"{name}.proj", block.proj, a.transpose(1, 2).reshape(batch, tokens, -1))
        )
        y = linear(f"{name}.fc1", block.fc1, norm(f"{name}.norm2", block.norm2, x))
        x = probe("residual", x + linear(f"{name}.fc2", block.fc2, block.activation(y)))
    patch_tokens = x[:, len(net.prefix) :]
    if net.pool == "token":
        pooled = norm("norm", net.norm, x[:, 0])
    elif net.pool == "mean":
        pooled = norm("norm", net.norm, patch_tokens.mean(dim=1))
    else:
        pooled = norm("norm", net.norm, patch_tokens).mean(dim=1)
    return linear("head", net.head, pooled)


class _Ranges:
    """Percentiles of every probed activation over the calibration images.

    Each batch gives its own percentile; the largest of them is kept, so that nothing but a few numbers is stored.
    """

    def __init__(self, percentile: float) -> None:
        self.percentile = percentile
        self.low: dict[str, Tensor] = {}
        self.high: dict[str, Tensor] = {}
        self.channel_max: dict[str, Tensor] = {}

    def __call__(self, name: str, value: Tensor) -> Tensor:
        v = value.detach()
        per_head = name.rsplit(".", 1)[-1] in ("q", "k", "v")
        flat = v.transpose(0, 1).flatten(1) if per_head else v.reshape(1, -1)
        exact = name == "residual" or self.percentile >= 1
        count = flat.shape[1]
        tail = 1 if exact else max(1, round((1 - self.percentile) * count))
        low = flat.kthvalue(tail, dim=1).values
        high = flat.kthvalue(count + 1 - tail, dim=1).values
        self.low[name] = torch.minimum(self.low[name], low) if name in self.low else low
        self.high[name] = torch.maximum(self.high[name], high) if name in self.high else high
        if name.endswith((".out", ".in")):
            channels = v.abs().flatten(0, -2).amax(dim=0)
            seen = self.channel_max.get(name)
            self.channel_max[name] = channels if seen is None else torch.maximum(seen, channels)
        return value

    def affine(self, name: str, floor: float = -math.inf) -> Affine:
        return Affine.from_range(max(float(self.low[name].min()), floor), float(self.high[name].max()))

    def symmetric(self, name: str) -> NDArray[np.float64]:
        largest = torch.maximum(self.low[name].abs(), self.high[name].abs())
        scale: NDArray[np.float64] = np.maximum(largest.double().numpy(), 1e-9) / 127
        return scale


class _Moments:
    """E[x^2] at every matrix's input and E[g^2] at its output."""

    def __init__(self) -> None:
        self.inputs: dict[str, Tensor] = {}
        self.gradients: dict[str, Tensor] = {}

    def __call__(self, name: str, value: Tensor) -> Tensor:
        if name.endswith(".in"):
            square = value.detach().square().flatten(0, -2).sum(dim=0)
            self.inputs[name[:-3]] = self.inputs.get(name[:-3], torch.zeros(())) + square
        elif name.endswith(".out") and not name.split(".")[-2].startswith("norm"):
            value = value if value.requires_grad else value.clone().requires_grad_()

            def accumulate(gradient: Tensor, key: str = name[:-4]) -> None:
                square = gradient.square().flatten(0, -2).sum(dim=0)
                self.gradients[key] = self.gradients.get(key, torch.zeros(())) + square

            value.register_hook(accumulate)
        return value

    def scores(self, name: str, layer: _Linear) -> NDArray[np.float64]:
        return row_scores(layer.weight.numpy(), self.inputs[name].numpy(), self.gradients[name].numpy())


def _equalize(norm: _Norm, layer: _Linear, channel_max: Tensor) -> None:
    """Move half of each channel's excess (in the geometric sense) from the LayerNorm into the matrix behind it.

    One scale serves all channels of a stored activation; this brings their ranges together while the float function
    stays the same (SmoothQuant, arXiv 2211.10438, equation 4, alpha = 1/2).
    """
    weight_max = layer.weight.abs().amax(dim=0)
    alive = (channel_max > 0) & (weight_max > 0)
    factor = torch.where(alive, (channel_max / weight_max.clamp(min=1e-12)).sqrt(), torch.ones(()))
    factor = factor / factor[alive].log().mean().exp() if alive.any() else factor
    factor = torch.where(alive, factor.clamp(1e-2, 1e2), torch.ones(()))
    norm.gamma, norm.beta = norm.gamma / factor, norm.beta / factor
    layer.weight = layer.weight * factor


def _preprocessing(
    model: nn.Module, net: _ViT, mean: Any, std: Any, resize: dict[str, Any] | None
) -> tuple[dict[str, Any], list[float], list[float]]:
    """The subnet's preprocessing with mean and std: what the caller gave, else what timm's configuration says."""
    data = timm.data.resolve_data_config(
        pretrained_cfg=getattr(model, "pretrained_cfg", {}) or {}, model=model
    )
    if resize is None:
        filters = {"bicubic": "bicubic", "bilinear": "bilinear", "nearest": "nearest"}
        interpolation = data["interpolation"]
        _require(interpolation in filters, f"its preprocessing resizes by '{interpolation}': pass `resize`")
        if data.get("crop_mode") == "squash":
            resize = {"mode": "exact", "size": [net.height, net.width], "filter": filters[interpolation]}
        else:
            _require(
                data.get("crop_mode", "center") == "center" and net.height == net.width,
                f"its preprocessing crops in mode '{data.get('crop_mode')}' to {net.height}x{net.width}: pass "
                f"`resize`, such as {{'mode': 'exact', 'size': [{net.height}, {net.width}], 'filter': 'bicubic'}}",
            )
            # The margin that crop_pct leaves was chosen for the configuration's size; a model of another one gets none.
            crop = data["crop_pct"] if tuple(data["input_size"][1:]) == (net.height, net.width) else 1.0
            resize = {
                "mode": "shorter",
                "size": [math.floor(net.height / crop)],
                "filter": filters[interpolation],
            }

    def channels(values: Any, fallback: Sequence[float]) -> list[float]:
        chosen = [float(v) for v in (fallback if values is None else np.atleast_1d(values))]
        if values is None and len(chosen) != net.channels:
            chosen = [sum(chosen) / len(chosen)] * net.channels
        if len(chosen) != net.channels:
            raise ValueError(
                f"mean and std need one value for each of the {net.channels} channels, not {len(chosen)}"
            )
        return chosen

    means, deviations = channels(mean, data["mean"]), channels(std, data["std"])
    if not all(math.isfinite(value) for value in means) or not all(
        0 < value < math.inf for value in deviations
    ):
        raise ValueError(f"mean must be finite and std positive, not {means} and {deviations}")
    return {"resize": resize}, means, deviations


def _batches(
    calibration: Iterable[ImageLike] | Tensor,
    net: _ViT,
    preprocessing: dict[str, Any],
    mean: list[float],
    std: list[float],
    batch_size: int,
) -> list[Tensor]:
    """Normalised float batches [n, channels, height, width]."""
    if isinstance(calibration, Tensor) and calibration.is_floating_point():
        expected = (net.channels, net.height, net.width)
        if calibration.ndim != 4 or tuple(calibration.shape[1:]) != expected:
            raise ValueError(
                f"calibration must be [images, {', '.join(map(str, expected))}], not {list(calibration.shape)}"
            )
        images = calibration.detach().cpu().float()
    else:
        pixels = [
            preprocess(image, (net.height, net.width, net.channels), preprocessing) for image in calibration
        ]
        if not pixels:
            raise ValueError("calibration holds no image: give at least one, better 32 or more")
        raw = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
        images = (raw - torch.tensor(mean).view(1, -1, 1, 1)) / torch.tensor(std).view(1, -1, 1, 1)
    if not len(images) or not bool(torch.isfinite(images).all()):
        raise ValueError("calibration must hold at least one image and only finite values")
    return list(images.split(batch_size))


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
    """Quantize a timm ``VisionTransformer`` after training.

    Args:
        model: ``vit_*``, ``deit_*`` or any other plain ``VisionTransformer``: any embed, depth, heads, patch and MLP
            ratio, class token (and register tokens) or mean pooling, layer scale, RGB or gray. It is not changed.
        calibration: images as :meth:`Engine.infer` takes them, or one float tensor [images, channels, height, width]
            normalised as the model expects it. A few dozen suffice; labels are not needed.
        eight_bit_fraction: the share of 8-bit rows in each block's matrices, chosen by
            `quasar_rt.rows.bits.row_scores` with the model's own prediction as the label. The patch embedding and the
            head are all 8-bit.
        classes: class names; ``class 0``, ... by default.
        name: the subnet's name; the model's architecture name by default.
        mean, std: of pixel/255 for each channel; timm's configuration of the model by default.
        resize: the subnet's ``preprocess.resize`` (docs/subnet-file.md). By default timm's configuration of the model,
            whose ``crop_pct`` counts only where the model has the configuration's image size: a model made with another
            ``img_size`` gets the shorter side resized to it. Rectangular models need it given.
        percentile: how much of an activation's distribution its 8-bit range covers on each side.
        equalize: bring the channels' ranges together behind each LayerNorm first.
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
    net = _read(model)
    preprocessing, mean_of, std_of = _preprocessing(model, net, mean, std, resize)
    batches = _batches(calibration, net, preprocessing, mean_of, std_of, batch_size)
    names = [f"class {i}" for i in range(len(net.head.weight))] if classes is None else list(classes)
    if len(names) != len(net.head.weight):
        raise ValueError(f"the model has {len(net.head.weight)} classes, but {len(names)} names were given")

    _cast(net, torch.float32)
    _check_same_function(model, net, batches[0])
    if equalize:
        ranges = _calibrate(net, batches, percentile)
        for i, block in enumerate(net.blocks):
            _equalize(block.norm1, block.qkv, ranges.channel_max[f"blocks.{i}.norm1.out"])
            _equalize(block.norm2, block.fc1, ranges.channel_max[f"blocks.{i}.norm2.out"])
    ranges = _calibrate(net, batches, percentile)
    moments = _Moments()
    if 0 < eight_bit_fraction < 1:
        for batch in batches:
            logits = _forward(net, batch, moments)
            F.cross_entropy(logits, logits.detach().argmax(dim=1), reduction="sum").backward()

    def matrix(key: str, layer: _Linear) -> LinearSpec:
        rows = len(layer.weight)
        if 0 < eight_bit_fraction < 1:
            bits = choose_bits(moments.scores(key, layer), eight_bit_fraction)
        else:
            bits = np.full(rows, 8 if eight_bit_fraction else 4, np.uint8)
        return LinearSpec(layer.weight.double().numpy(), layer.bias.double().numpy(), bits)

    def eight(layer: _Linear) -> LinearSpec:
        return LinearSpec(
            layer.weight.double().numpy(),
            layer.bias.double().numpy(),
            np.full(len(layer.weight), 8, np.uint8),
        )

    def norm_spec(part: _Norm) -> NormSpec:
        return NormSpec(part.gamma.double().numpy(), part.beta.double().numpy(), part.eps)

    def block_spec(i: int, block: _Block) -> BlockSpec:
        key = f"blocks.{i}"

        def activation(x: NDArray[np.float64]) -> NDArray[np.float64]:
            with torch.no_grad():
                values: NDArray[np.float64] = block.activation(torch.from_numpy(x)).numpy()
            return values

        return BlockSpec(
            heads=block.heads,
            head_dim=block.head_dim,
            norm1=norm_spec(block.norm1),
            qkv=matrix(f"{key}.qkv", block.qkv),
            proj=matrix(f"{key}.proj", block.proj),
            norm2=norm_spec(block.norm2),
            fc1=matrix(f"{key}.fc1", block.fc1),
            fc2=matrix(f"{key}.fc2", block.fc2),
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
            activation=activation,
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
        embed=eight(net.embed),
        position=net.position.double().numpy(),
        prefix=net.prefix.double().numpy(),
        residual_scale=float(1.5 * ranges.symmetric("residual").max() * 127 / 32767),
        blocks=[block_spec(i, block) for i, block in enumerate(net.blocks)],
        pool=net.pool,
        norm=norm_spec(net.norm),
        norm_out=ranges.affine("norm.out"),
        head=eight(net.head),
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


def _calibrate(net: _ViT, batches: list[Tensor], percentile: float) -> _Ranges:
    ranges = _Ranges(percentile)
    with torch.no_grad():
        for batch in batches:
            _forward(net, batch, ranges)
    return ranges


def _check_same_function(model: nn.Module, net: _ViT, batch: Tensor) -> None:
    """Refuse a model whose logits the plain ViT read from it does not give."""
    training = model.training
    parameter = next(model.parameters())
    model.eval()
    try:
        with torch.no_grad():
            expected = model(batch.to(parameter.device, parameter.dtype)).float().cpu()
            found = _forward(net, batch, lambda _, value: value)
    finally:
        model.train(training)
    # Half-precision models round on their own; everything else agrees to float32's accuracy.
    tolerance = 1e-3 if parameter.dtype == torch.float32 else 5e-2
    error = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-6))
    _require(
        error < tolerance,
        f"its logits differ from those of the plain ViT with the same weights (relative difference {error:.2g}), "
        "so its forward pass does something that this exporter does not know",
    )


def _is_flat_below(activation: nn.Module, edge: float) -> bool:
    with torch.no_grad():
        values = activation(torch.linspace(edge - 8, edge, 64))
    return float(values.abs().max()) < 2e-3
