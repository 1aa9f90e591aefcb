"""Reads a timm ``VisionTransformer`` into a `ViT` of plain matrices; refuses, by name, what the integer model lacks."""

from __future__ import annotations

import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Attention, LayerScale, Mlp, PatchEmbed, VisionTransformer
from timm.models.vision_transformer import Block as TimmBlock
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import QuasarError
from .float_vit import Block, Linear, Norm, ViT
from .limits import beyond_limits

__all__ = ["UnsupportedModelError", "read", "require"]

#: Popular classes of timm that the integer model lacks, with the reason.
_REFUSED = {
    "Eva": "rotary positions, and SwiGLU in EVA-02",
    "NaFlexVit": "images of any size",
    "SwinTransformer": "attention in windows",
    "SwinTransformerV2": "attention in windows",
}


class UnsupportedModelError(QuasarError, ValueError):
    """The model computes something that the integer model has no form for; the message names it."""


def require(condition: bool, what: str) -> None:
    """Raises an `UnsupportedModelError` that names `what` unless the condition holds."""
    if not condition:
        raise UnsupportedModelError(f"this model cannot be exported: {what}")


def read(model: nn.Module, headless: bool = False) -> ViT:
    """Reads the matrices of a timm ViT as float64 tensors on the CPU.

    A model without a classifier (``num_classes=0``) is taken if `headless` is true; it then has a head of no rows.

    Raises:
        UnsupportedModelError: the integer model lacks a part of the model, which the message names.
    """
    kind = type(model).__name__
    reason = f" ({_REFUSED[kind]})" if kind in _REFUSED else ""
    require(
        type(model) in (VisionTransformer, VisionTransformerDistilled),
        f"its class is {kind}{reason}; timm's plain VisionTransformer and its distilled form are supported "
        "(vit_*, deit_* and deit3_*)",
    )
    distilled = type(model) is VisionTransformerDistilled
    require(not distilled or model.reg_token is None, "it is distilled and has register tokens (reg_tokens)")
    stem = model.patch_embed
    require(
        type(stem) is PatchEmbed, f"its patch embedding is a {type(stem).__name__}, not timm's PatchEmbed"
    )
    require(_identity(stem.norm), "its patch embedding is normalised (embed_norm_layer)")
    require(
        model.attn_pool is None, f"it pools by attention (global_pool='{model.global_pool}'), as SigLIP does"
    )
    require(
        model.global_pool in ("token", "avg"),
        f"global_pool='{model.global_pool}'; 'token' and 'avg' are supported",
    )
    require(not model.pool_include_prefix, "its pooling includes the prefix tokens (pool_include_prefix)")
    no_head = _identity(model.head)
    require(
        headless or not no_head,
        "it has no classifier head (num_classes=0); export its embedding: embedding=True, or --embedding",
    )
    channels = stem.proj.in_channels
    require(channels in (1, 3), f"it takes {channels} channels; 1 (gray) and 3 (RGB) are supported")
    patch = stem.patch_size
    require(patch[0] == patch[1], f"its patches are {patch[0]}x{patch[1]}; only square ones are supported")
    require(stem.img_size is not None, "its image size is not fixed")

    norms = [(m, name) for m, name in ((model.norm, "norm"), (model.fc_norm, "fc_norm")) if not _identity(m)]
    require(
        len(norms) == 1, f"it has {len(norms)} final LayerNorms (norm, fc_norm); exactly one is supported"
    )
    norm_module, norm_name = norms[0]
    if distilled:
        pool = "token_pair"
    elif model.global_pool == "token":
        pool = "token"
    else:
        pool = "mean" if norm_name == "fc_norm" else "mean_after_norm"
    prefix, position = _tokens(model)
    norm_pre = None if _identity(model.norm_pre) else _norm(model.norm_pre, "norm_pre")
    if norm_pre is not None:
        # Prefix tokens are the same for every image, and so is their norm.
        prefix = F.layer_norm(prefix, prefix.shape[1:], norm_pre.gamma, norm_pre.beta, norm_pre.eps)
    head = _matrix(torch.zeros(0, model.embed_dim), None) if no_head else _linear(model.head, "head")
    head_dist = None
    if distilled:
        # The model gives the mean of what its two heads give.
        head_dist = head if no_head else _half(_linear(model.head_dist, "head_dist"))
        head = _half(head)
    net = ViT(
        height=stem.img_size[0],
        width=stem.img_size[1],
        channels=channels,
        kernel=patch[0],
        stride=patch[0],
        embed=_matrix(stem.proj.weight.flatten(1), stem.proj.bias),
        position=position,
        prefix=prefix,
        blocks=[_block(block, f"blocks[{i}]") for i, block in enumerate(model.blocks)],
        pool=pool,
        norm=_norm(norm_module, norm_name),
        head=head,
        head_dist=head_dist,
        norm_pre=norm_pre,
    )
    problem = beyond_limits(net, embedding=headless)
    require(problem is None, str(problem))
    return net


def _tokens(model: nn.Module) -> tuple[Tensor, Tensor]:
    """Returns the prefix tokens, each with its position where it has one, and the positions of the patches."""
    tokens = (model.cls_token, getattr(model, "dist_token", None), model.reg_token)
    parts = [token[0] for token in tokens if token is not None]
    prefix = _plain(torch.cat(parts) if parts else torch.zeros(0, model.embed_dim))
    if model.pos_embed is None:
        return prefix, torch.zeros(model.patch_embed.num_patches, model.embed_dim, dtype=torch.float64)
    position = _plain(model.pos_embed[0])
    if model.no_embed_class:
        return prefix, position
    return prefix + position[: len(prefix)], position[len(prefix) :]


def _identity(module: nn.Module | None) -> bool:
    return module is None or isinstance(module, nn.Identity)


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().double().cpu()


def _matrix(weight: Tensor, bias: Tensor | None) -> Linear:
    return Linear(_plain(weight), _plain(torch.zeros(len(weight)) if bias is None else bias))


def _half(layer: Linear) -> Linear:
    return Linear(layer.weight / 2, layer.bias / 2)


def _linear(module: nn.Module, where: str) -> Linear:
    require(isinstance(module, nn.Linear), f"{where} is a {type(module).__name__}, not a Linear")
    return _matrix(module.weight, module.bias)


def _norm(module: nn.Module, where: str) -> Norm:
    require(isinstance(module, nn.LayerNorm), f"{where} is a {type(module).__name__}, not a LayerNorm")
    size = module.normalized_shape[-1]
    gamma = torch.ones(size) if module.weight is None else module.weight
    beta = torch.zeros(size) if module.bias is None else module.bias
    return Norm(_plain(gamma), _plain(beta), float(module.eps))


def _block(block: nn.Module, where: str) -> Block:
    require(type(block) is TimmBlock, f"{where} is a {type(block).__name__}, not timm's pre-norm Block")
    attn, mlp = block.attn, block.mlp
    require(type(attn) is Attention, f"{where}.attn is a {type(attn).__name__}, not timm's Attention")
    require(type(mlp) is Mlp, f"{where}.mlp is a {type(mlp).__name__}, not timm's two-layer Mlp")
    require(
        _identity(attn.q_norm) and _identity(attn.k_norm),
        f"{where}.attn normalises queries and keys (qk_norm)",
    )
    require(_identity(getattr(attn, "norm", None)), f"{where}.attn normalises its output (scale_attn_norm)")
    require(getattr(attn, "gate", None) is None, f"{where}.attn gates its output (gated)")
    require(_identity(mlp.norm), f"{where}.mlp normalises its hidden layer (scale_mlp_norm)")

    def branch(module: nn.Module, scale: nn.Module, name: str) -> Linear:
        layer = _linear(module, f"{where}.{name}")
        if isinstance(scale, LayerScale):
            gamma = _plain(scale.gamma)
            return Linear(gamma[:, None] * layer.weight, gamma * layer.bias)
        require(_identity(scale), f"{where} scales a branch by a {type(scale).__name__}")
        return layer

    qkv = _linear(attn.qkv, f"{where}.attn.qkv")
    return Block(
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
