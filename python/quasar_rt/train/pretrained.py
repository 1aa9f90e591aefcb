"""Starts a supernet or a network from a float Vision Transformer: a timm model, a checkpoint, a folder or an ONNX file.

Depends on: torch, timm, `quasar_rt.networks`, `quasar_rt.space`, `quasar_rt.train.model`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from timm.layers import resample_abs_pos_embed
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional as F

from ..errors import InvalidValueError
from ..networks import load_network
from ..space import Architecture, BlockShape
from ..weights import read_weights
from .block import Block
from .model import ViT, ViTConfig

__all__ = ["load_timm"]

#: New columns of old matrices, and what new blocks add, start at this share of their usual size.
SMALL = 0.1


def load_timm(
    model: ViT,
    source: str | os.PathLike[str],
    pretrained: bool = True,
    notice: Callable[[str], object] = lambda _: None,
    classifier: bool = False,
) -> Architecture:
    """Fills the leading part of the largest network from a timm ``VisionTransformer`` (ViT, DeiT, DeiT III).

    With the returned architecture active, the model computes the checkpoint's logits in float (of images of the
    checkpoint's size; positions of another grid are resampled). The rest keeps its initial values, made small where
    the checkpoint's part would feel them, so that larger networks start close to it. A layer scale that the model has
    and the checkpoint lacks becomes 1; one that the model lacks is multiplied into proj and fc2. A head of another
    number of classes is not taken over, and the model's keeps its initial values.

    Args:
        model: with stride = kernel and no padding; it is changed in place.
        source: a timm model's name (``deit_tiny_patch16_224``), the path of a checkpoint of one (``.pth``,
            ``.safetensors``; what timm and DeiT write, the state alone or under ``model`` or ``state_dict``), or a
            folder or an ONNX file that `quasar_rt.networks.load_network` takes.
        pretrained: for a name: timm's weights (downloaded), else its random initial ones.
        notice: gets sentences about what was changed or not taken over.
        classifier: True refuses a source whose classifier is not taken over.

    Returns:
        The checkpoint's own shape, all rows 8-bit.

    Raises:
        quasar_rt.FileError: a file cannot be read.
        quasar_rt.networks.NetworkError: there is no network of that name, or the file's cannot be loaded.
        quasar_rt.InvalidValueError: names what of the checkpoint does not fit the model.
    """
    config = model.config
    found = _read(source, pretrained, config, notice)
    architecture, patch = found.architecture(config)
    d = architecture.embed
    values = {
        "embed.weight": patch.flatten(1),
        "embed.bias": found.take("patch_embed.proj.bias", d),
        "norm.weight": found.take("norm.weight", d),
        "norm.bias": found.take("norm.bias", d),
        **found.tokens(d, config.grid, notice),
    }
    values |= found.head(d, config.classes, classifier, notice)
    for i, shape in enumerate(architecture.blocks):
        values |= found.block(f"blocks.{i}", shape, d, config.layer_scale is not None)
    left = ", ".join(sorted(found.state)[:4])
    found.require(not left, f"it has what a plain ViT with a class token has not: {left}")
    _fill(model, architecture, values)
    return architecture


@dataclass
class _Checkpoint:
    """The tensors of a checkpoint that are not taken yet, and what is known of its shape.

    `pool` is timm's ``global_pool``. `layout` is the number of positions in front of the patches', and the patches'
    grid.
    """

    source: str
    state: dict[str, Tensor]
    pool: str
    head_dim: int | None = None
    layout: tuple[int, tuple[int, int]] | None = None

    def require(self, condition: bool, what: str) -> None:
        if not condition:
            raise InvalidValueError(f"'{self.source}' cannot start this network: {what}")

    def take(self, key: str, *shape: int) -> Tensor:
        """Takes a tensor out; its shape and its values are checked."""
        self.require(key in self.state, f"it has no '{key}', so it is no plain timm VisionTransformer")
        x = self.state.pop(key).float()
        self.require(not shape or tuple(x.shape) == shape, f"'{key}' is {list(x.shape)}, not {list(shape)}")
        self.require(bool(x.isfinite().all()), f"'{key}' has values that are not finite numbers")
        return x

    def architecture(self, config: ViTConfig) -> tuple[Architecture, Tensor]:
        """Returns the checkpoint's own shape, all rows 8-bit, and its patch embedding [embed, channels, k, k]."""
        require, whole, own = self.require, config.architecture, config.kernel
        require(
            not {"reg_token", "dist_token"} & set(self.state),
            "it has register or distillation tokens, and a space's networks have a class token alone",
        )
        require(
            self.pool == "token",
            f"its head does not read the class token (timm's global_pool='{self.pool}'), as this network's does",
        )
        patch = self.take("patch_embed.proj.weight")
        require(
            patch.ndim == 4, f"'patch_embed.proj.weight' is {list(patch.shape)}, not [embed, channels, k, k]"
        )
        d, channels, high, wide = patch.shape
        require(high == wide == own, f"its patches are {high}x{wide}, this network's {own}x{own}")
        require(
            config.stride == own and config.pad == 0,
            f"its patches do not overlap; this network's stride is {config.stride} and its padding {config.pad}",
        )
        require(channels == config.channels, f"it takes {channels} channels, this network {config.channels}")
        require(d <= whole.embed, f"its embed is {d}, this network's largest is {whole.embed}")
        depth = 1 + max((int(k.split(".")[1]) for k in self.state if k.startswith("blocks.")), default=-1)
        require(1 <= depth <= whole.depth, f"it has {depth} blocks, this network at most {whole.depth}")
        blocks = zip((f"blocks.{i}" for i in range(depth)), whole.blocks, strict=False)
        return Architecture(d, tuple(self._shape(name, largest) for name, largest in blocks)), patch

    def _shape(self, name: str, largest: BlockShape) -> BlockShape:
        require, dim = self.require, largest.head_dim
        require(
            self.head_dim in (None, dim), f"its head_dim is {self.head_dim}, this network's is {dim} ({name})"
        )
        inner = len(self.state.get(f"{name}.attn.qkv.weight", ())) // 3
        hidden = len(self.state.get(f"{name}.mlp.fc1.weight", ()))
        require(
            inner > 0 and inner % dim == 0,
            f"q, k and v of {name} have {inner} rows each, no multiple of this network's head_dim {dim}",
        )
        heads = inner // dim
        require(
            heads <= largest.heads, f"{name} has {heads} heads of {dim}, this network at most {largest.heads}"
        )
        require(
            0 < hidden <= largest.hidden,
            f"{name} has {hidden} hidden units, this network at most {largest.hidden}",
        )
        return BlockShape(heads, dim, hidden, (1.0,) * 6)

    def tokens(self, d: int, grid: tuple[int, int], notice: Callable[[str], object]) -> dict[str, Tensor]:
        """Takes the class token and the positions, which are resampled to another grid."""
        token, position = self.take("cls_token", 1, 1, d)[0], self.take("pos_embed")
        shape = list(position.shape)
        fits = len(shape) == 3 and shape[0] == 1 and shape[1] > 1 and shape[2] == d
        self.require(fits, f"'pos_embed' is {shape}, not [1, positions, {d}]")
        prefix, old = self.layout or self._assumed(shape[1], grid, notice)
        front, position = position[0].split([prefix, shape[1] - prefix])
        if old != grid:
            position = resample_abs_pos_embed(
                position[None], list(grid), old_size=list(old), num_prefix_tokens=0
            )[0]
        return {"prefix": token + front.sum(0, keepdim=True), "position": position}

    def _assumed(
        self, count: int, grid: tuple[int, int], notice: Callable[[str], object]
    ) -> tuple[int, tuple[int, int]]:
        """Returns the layout of a file's positions, which has no grid in it: a square, or this network's grid."""
        # Of plain ViTs only DeiT III, which has layer scale, gives the class token no position.
        for prefix in (1, 0) if "blocks.0.ls1.gamma" in self.state else (1,):
            side = math.isqrt(count - prefix)
            for rows, columns in ((side, side), grid):
                if rows * columns == count - prefix:
                    token = "" if prefix else ", and none to the class token"
                    notice(
                        f"'{self.source}' does not name the grid of its {count} positions: they are taken to belong to "
                        f"{rows}x{columns} patches{token}"
                    )
                    return prefix, (rows, columns)
        raise InvalidValueError(
            f"'{self.source}' cannot start this network: its {count} positions are no square grid and a class token; "
            "give a Hugging Face folder or an ONNX file of the network, which name the grid"
        )

    def head(
        self, d: int, classes: int, required: bool, notice: Callable[[str], object]
    ) -> dict[str, Tensor]:
        """Takes the classifier, if it has this number of classes, as it must if `required`."""
        rows, values = len(self.state.get("head.weight", ())), {}
        if rows:
            values = {
                "head.weight": self.take("head.weight", rows, d),
                "head.bias": self.take("head.bias", rows),
            }
        if rows == classes:
            return values
        has = f"has {rows} classes" if rows else "has no classifier"
        sentence = f"'{self.source}' {has}; the classifier of {classes} classes starts from random weights"
        if required:
            raise InvalidValueError(f"{sentence}: train it, with float_stage.epochs of 1 or more")
        notice(sentence)
        return {}

    def block(self, name: str, shape: BlockShape, d: int, layer_scale: bool) -> dict[str, Tensor]:
        """Takes a block's tensors; a layer scale that the network lacks is multiplied into proj and fc2."""
        values = {
            f"{name}.{norm}.{part}": self.take(f"{name}.{norm}.{part}", d)
            for norm in ("norm1", "norm2")
            for part in ("weight", "bias")
        }
        for layer, key, rows, columns in (
            ("qkv", "attn.qkv", 3 * shape.inner, d),
            ("proj", "attn.proj", d, shape.inner),
            ("fc1", "mlp.fc1", shape.hidden, d),
            ("fc2", "mlp.fc2", d, shape.hidden),
        ):
            values[f"{name}.{layer}.weight"] = self.take(f"{name}.{key}.weight", rows, columns)
            bias = f"{name}.{key}.bias"
            values[f"{name}.{layer}.bias"] = (
                self.take(bias, rows) if bias in self.state else torch.zeros(rows)
            )
        for gamma, scale, layer in (("gamma1", "ls1", "proj"), ("gamma2", "ls2", "fc2")):
            key = f"{name}.{scale}.gamma"
            factor = self.take(key, d) if key in self.state else torch.ones(d)
            if layer_scale:
                values[f"{name}.{gamma}"] = factor
            else:
                values[f"{name}.{layer}.weight"] *= factor[:, None]
                values[f"{name}.{layer}.bias"] *= factor
        return values


def _read(
    source: str | os.PathLike[str], pretrained: bool, config: ViTConfig, notice: Callable[[str], object]
) -> _Checkpoint:
    """Reads the checkpoint's tensors, and its head dimension and layout where these are known."""
    path = Path(source)
    whole = path.is_dir() or path.suffix.lower() == ".onnx"
    if path.exists() and not whole:
        state = read_weights(path)
        return _Checkpoint(str(source), state, "avg" if "fc_norm.weight" in state else "token")
    found = load_network(
        source, pretrained=pretrained, image_size=(config.height, config.width) if whole else None
    )
    for sentence in found.notices:
        notice(f"'{source}': {sentence}")
    net = found.model
    points = torch.linspace(-8, 8, 1601)
    if type(net) not in (VisionTransformer, VisionTransformerDistilled):
        raise InvalidValueError(f"'{source}' is no plain timm VisionTransformer with a class token")
    if any((block.mlp.act(points) - F.gelu(points)).abs().max() > 1e-6 for block in net.blocks):
        act = type(net.blocks[0].mlp.act).__name__
        raise InvalidValueError(
            f"'{source}' cannot start this network: its activation is {act}, this network's GELU"
        )
    for key, used in (("mean", config.mean), ("std", config.std)):
        own = net.pretrained_cfg[key]
        if tuple(own) != used:
            notice(f"'{source}': its {key} is {list(own)}; the recipe's data.{key}, {list(used)}, is used")
    layout = int(not net.no_embed_class), net.patch_embed.grid_size
    return _Checkpoint(
        str(source), dict(net.state_dict()), net.global_pool, net.blocks[0].attn.head_dim, layout
    )


@torch.no_grad()
def _fill(model: ViT, architecture: Architecture, values: Mapping[str, Tensor]) -> None:
    """Puts `values` into the part of the parameters that `architecture` uses, and makes the new rest small."""
    active = model.active
    model.activate(architecture)
    for i, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        if i < architecture.depth:
            for layer in (block.qkv, block.proj, block.fc1, block.fc2):
                layer.weight[:, layer.columns :] *= SMALL
        else:
            block.proj.weight *= SMALL
            block.fc2.weight *= SMALL
    model.head.weight[:, architecture.embed :] *= SMALL
    regions, parameters = model.regions(), dict(model.named_parameters())
    for name, value in values.items():
        view = next(regions[name].views(parameters[name]))
        view.copy_(value.view(view.shape))
    model.activate(active)
