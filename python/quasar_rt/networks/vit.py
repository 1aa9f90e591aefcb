"""The network that every source becomes: a timm ``VisionTransformer`` made from tensors with timm's names."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timm.layers import create_act_layer
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.vision_transformer import PatchEmbed, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import QuasarError

__all__ = [
    "LoadedNetwork",
    "NetworkError",
    "RotaryTable",
    "name_of",
    "require",
    "require_patch",
    "resample",
    "size_of",
    "unread_pixels",
    "vision_transformer",
]

#: A side of a square image, or height and width.
Size = int | Sequence[int]


class NetworkError(QuasarError, ValueError):
    """A file's network cannot be loaded; the message names the file and the reason."""


@dataclass
class LoadedNetwork:
    """A network and what its source states about it.

    `model` is a timm ``VisionTransformer`` (or another model that timm made) in evaluation mode, its preprocessing in
    ``model.pretrained_cfg``. `name` is that of the file, the folder or the timm model. `classes` are class names in the
    order of the head's rows, None where the source has none. `notices` are sentences about assumptions and about parts
    that were left out.
    """

    model: nn.Module
    name: str
    classes: list[str] | None = None
    notices: list[str] = field(default_factory=list)


def require(condition: bool, source: str | os.PathLike[str], what: str) -> None:
    """Raises a `NetworkError` about `source` unless the condition holds."""
    if not condition:
        raise NetworkError(f"'{os.fspath(source)}' cannot be loaded: {what}")


def name_of(source: str | os.PathLike[str]) -> str:
    """Returns a name for the network of a file or folder: the file's without its suffix, or the folder's."""
    path = Path(source).resolve()
    return path.name if path.is_dir() else path.stem


def size_of(size: Size) -> tuple[int, int]:
    """Returns height and width.

    Raises:
        NetworkError: not one or two positive integers.
    """
    sides = [size] if isinstance(size, int) else list(size)
    if len(sides) not in (1, 2) or not all(isinstance(side, int) and side > 0 for side in sides):
        raise NetworkError(f"the image size must be a side or a height and a width in pixels, not {size}")
    return sides[0], sides[-1]


def require_patch(size: Sequence[int], patch: Sequence[int], source: str | os.PathLike[str]) -> None:
    """Raises a `NetworkError` about `source` unless images of height and width `size` have a patch."""
    pixels, own = ("x".join(map(str, sides)) for sides in (size, patch))
    require(
        size[0] >= patch[0] and size[1] >= patch[1],
        source,
        f"images of {pixels} pixels have no patch of {own}",
    )


def unread_pixels(model: nn.Module) -> list[str]:
    """Returns a notice if the network's images are no whole number of patches, so that it does not read their edge."""
    stem = getattr(model, "patch_embed", None)
    if not isinstance(stem, PatchEmbed) or stem.img_size is None:
        return []
    size, patch = stem.img_size, stem.patch_size
    less = [side // p * p for side, p in zip(size, patch, strict=True)]
    more = [side + -side % p for side, p in zip(size, patch, strict=True)]
    if less == more:
        return []
    pixels, own, below, above = ("x".join(map(str, sides)) for sides in (size, patch, less, more))
    return [
        f"images of {pixels} pixels are no whole number of patches of {own}: only {below} pixels are read; the nearest "
        f"image sizes are {below} and {above}"
    ]


def resample(position: Tensor, old: tuple[int, int], new: tuple[int, int], antialias: bool) -> Tensor:
    """Returns positions [rows * columns, embed] of the grid `old` for the grid `new`, by bicubic interpolation.

    timm filters against aliasing when a grid becomes smaller, transformers does not.
    """
    if old == new:
        return position
    planes = position.reshape(1, *old, -1).permute(0, 3, 1, 2).float()
    planes = F.interpolate(planes, size=new, mode="bicubic", align_corners=False, antialias=antialias)
    return planes.flatten(2)[0].T.contiguous()


def vision_transformer(
    state: dict[str, Tensor],
    *,
    heads: int,
    size: tuple[int, int],
    activation: str,
    eps: float,
    pool: str = "token",
    rope: nn.Module | None = None,
    rotate_half: bool = True,
    config: dict[str, Any],
) -> nn.Module:
    """Makes the network of a state dict; the state's shapes give the sizes that are no argument.

    Args:
        state: tensors with timm's names. All prefix tokens have a position in ``pos_embed``, which may be 0. With a
            ``dist_token``, the network is a distilled one. With a ``norm_pre``, the tokens are normalised first.
        heads: of each block.
        size: height and width of an image.
        activation: timm's name.
        eps: of each norm.
        pool: timm's ``global_pool``: ``token``, ``map``, or ``avg`` with ``fc_norm`` in the state for a norm behind the
            mean.
        rope: timm's module of rotary positions; the network is then timm's ``Eva``. With `rotate_half` the channels of
            both halves of a head are pairs, otherwise those that follow each other.
        config: entries of ``pretrained_cfg``, timm's names.
    """
    state = {key: value.detach().float().contiguous() for key, value in state.items()}
    stem, hidden = state["patch_embed.proj.weight"], state["blocks.0.mlp.fc1.weight"]
    embed, channels, kernel = stem.shape[:3]
    head, scale = state.get("head.weight"), state.get("blocks.0.ls1.gamma")
    distilled = "dist_token" in state
    bias, registers = "patch_embed.proj.bias" in state, state.get("reg_token", stem[:, :0]).shape[1]
    norm_pre, norm_mean = "norm_pre.weight" in state, "fc_norm.weight" in state
    if rope is None:
        kind = VisionTransformerDistilled if distilled else VisionTransformer
        own = {"reg_tokens": registers, "pre_norm": norm_pre, "fc_norm": norm_mean}
        own |= {"act_layer": activation, "weight_init": "skip"}
    else:
        kind = Eva
        own = {"num_reg_tokens": registers, "use_pre_transformer_norm": norm_pre, "use_fc_norm": norm_mean}
        own |= {"use_abs_pos_emb": "pos_embed" in state, "rope_rotate_half": rotate_half}
    with torch.device("meta"):
        model = kind(
            img_size=size,
            patch_size=kernel,
            in_chans=channels,
            num_classes=0 if head is None else len(head),
            global_pool=pool,
            embed_dim=embed,
            depth=1 + max(int(key.split(".")[1]) for key in state if key.startswith("blocks.")),
            num_heads=heads,
            # timm rounds the product with `embed` down.
            mlp_ratio=(len(hidden) + 0.5) / embed,
            init_values=None if scale is None else 1.0,
            class_token="cls_token" in state,
            norm_layer=partial(nn.LayerNorm, eps=eps),
            **own,
        )
        # timm's form has no bias where a norm follows.
        model.patch_embed.proj = nn.Conv2d(channels, embed, kernel, stride=kernel, bias=bias)
    if rope is not None:
        _take_rotary(model, state, rope, activation)
    model.load_state_dict(state, assign=True)
    model.pretrained_cfg = {"num_classes": model.num_classes, "classifier": "head", **config}
    model.default_cfg = model.pretrained_cfg
    return model.eval()


class RotaryTable(nn.Module):  # type: ignore[misc]
    """Rotary positions that are given, complex [patches, pairs], in the form that timm's ``Eva`` reads."""

    def __init__(self, turns: Any, half: bool) -> None:
        super().__init__()
        self.half = half
        both = [torch.from_numpy(part.copy()).float() for part in (turns.imag, turns.real)]
        parts = [part.repeat(1, 2) if half else part.repeat_interleave(2, dim=1) for part in both]
        self.register_buffer("table", torch.cat(parts, dim=1), persistent=False)
        self.feat_shape = None

    def get_embed(self, shape: Any = None) -> Tensor:
        """Returns sines and cosines, [patches, 2 * head_dim]; the grid is the given one."""
        table: Tensor = self.table
        return table


def _take_rotary(model: nn.Module, state: dict[str, Tensor], rope: nn.Module, activation: str) -> None:
    """Gives an ``Eva`` what it takes no arguments for, and the state its names."""
    model.rope = rope
    for i, block in enumerate(model.blocks):
        block.mlp.act = create_act_layer(activation)
        for name in ("1", "2"):
            if (gamma := state.pop(f"blocks.{i}.ls{name}.gamma", None)) is not None:
                state[f"blocks.{i}.gamma_{name}"] = gamma
        q, block.attn.k_bias, v = state.pop(f"blocks.{i}.attn.qkv.bias").chunk(3)
        state |= {f"blocks.{i}.attn.q_bias": q, f"blocks.{i}.attn.v_bias": v}


def crop_of(side: int, resized: int) -> float:
    """Returns the share of a resized side that a crop to `side` keeps, so that timm finds `resized` again."""
    crop = side / resized
    while math.floor(side / crop) < resized:
        crop = math.nextafter(crop, 0) if hasattr(math, "nextafter") else crop * (1 - 1e-15)
    return crop
