"""Reads timm's ``VisionTransformer`` and ``Eva`` into a `ViT` of plain matrices.

Refuses, by name, what the integer model lacks.
"""

from __future__ import annotations

import torch
from timm.layers import AttentionPoolLatent, AttentionRope
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva, EvaAttention, EvaBlock
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
    "Beit": "relative positions",
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
        type(model) in (VisionTransformer, VisionTransformerDistilled, Eva),
        f"its class is {kind}{reason}; timm's plain VisionTransformer, its distilled form and Eva are supported "
        "(vit_*, deit_* and deit3_*)",
    )
    distilled = type(model) is VisionTransformerDistilled
    require(not distilled or model.reg_token is None, "it is distilled and has register tokens (reg_tokens)")
    stem = model.patch_embed
    require(
        type(stem) is PatchEmbed, f"its patch embedding is a {type(stem).__name__}, not timm's PatchEmbed"
    )
    require(_identity(stem.norm), "its patch embedding is normalised (embed_norm_layer)")
    attends = model.attn_pool is not None
    require(
        not attends or type(model) is VisionTransformer,
        f"it pools by attention (global_pool='{model.global_pool}'), which is supported in a VisionTransformer only",
    )
    require(
        model.global_pool in (("map",) if attends else ("token", "avg")),
        f"global_pool='{model.global_pool}'; 'token', 'avg' and 'map' are supported",
    )
    prefix, position = _tokens(model)
    require(
        getattr(model, "pool_include_prefix", False) == (attends and len(prefix) > 0),
        "its attention pooling leaves the prefix tokens out"
        if attends
        else "its pooling includes the prefix tokens (pool_include_prefix)",
    )
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
    norm = _norm(norm_module, norm_name)
    turned = _Rotary(model) if getattr(model, "rope", None) is not None else None
    blocks = [_block(block, f"blocks[{i}]", turned) for i, block in enumerate(model.blocks)]
    if attends:
        require(norm_name == "norm", "it normalises what its attention pools (fc_norm)")
        blocks.append(_pooling_block(model.attn_pool, norm))
        pool, norm = "attention", _no_norm(model.embed_dim)
    elif distilled:
        pool = "token_pair"
    elif model.global_pool == "token":
        pool = "token"
    else:
        pool = "mean" if norm_name == "fc_norm" else "mean_after_norm"
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
        blocks=blocks,
        pool=pool,
        norm=norm,
        head=head,
        head_dist=head_dist,
        norm_pre=norm_pre,
        rotary=None if turned is None else turned.angles,
    )
    problem = beyond_limits(net, embedding=headless)
    require(problem is None, str(problem))
    return net


class _Rotary:
    """The rotary positions of a timm ``Eva``: `angles` of the grid's rows and of its columns, [positions, pairs]."""

    def __init__(self, model: nn.Module) -> None:
        rows, columns = model.patch_embed.grid_size
        require(
            not model.rope_mixed, "its rotary positions differ between blocks and heads (rope_type='mixed')"
        )
        sine, cosine = _plain(model.rope.get_embed(shape=[rows, columns])).chunk(2, dim=-1)
        require(
            tuple(cosine.shape) == (rows * columns, model.blocks[0].attn.head_dim)
            and cosine.shape[1] % 4 == 0,
            f"its rotary positions have the shape {tuple(cosine.shape)}",
        )
        self.half = bool(model.blocks[0].attn.rotate_half)
        table = torch.atan2(sine, cosine)[:, self._pairs(cosine.shape[1])[:, 0]].unflatten(0, (rows, columns))
        turns = torch.polar(torch.ones_like(table), table)
        by_row, by_column = ((turns - first).abs().amax((0, 1)) < 1e-5 for first in (turns[:, :1], turns[:1]))
        first, last = by_row.nonzero().flatten(), by_column.nonzero().flatten()
        # A pair that is never rotated may count as either.
        first = first[: len(by_row) // 2]
        last = last[~torch.isin(last, first)]
        require(
            len(first) == len(last) == len(by_row) // 2,
            "its rotary positions are not those of the grid's rows in one half of a head, of its columns in the other",
        )
        self.angles = table[:, 0, first], table[0, :, last]
        self.order = self._pairs(cosine.shape[1])[torch.cat([first, last])].flatten()

    def _pairs(self, size: int) -> Tensor:
        """Returns the channels of a head that are rotated together, [pairs, 2]."""
        channels = torch.arange(size)
        return channels.unflatten(0, (2, -1)).T if self.half else channels.unflatten(0, (-1, 2))

    def reorder(self, qkv: Linear, heads: int) -> Linear:
        """Puts the rows of q and k into the order of pairs, those of the grid's rows first; the scores stay."""

        def ordered(rows: Tensor) -> Tensor:
            parts = rows.unflatten(0, (3, heads, -1)).clone()
            parts[:2] = parts[:2, :, self.order]
            return parts.flatten(0, 2)

        return Linear(ordered(qkv.weight), ordered(qkv.bias))


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


def _block(block: nn.Module, where: str, turned: _Rotary | None) -> Block:
    kinds = (
        (EvaBlock, (EvaAttention, AttentionRope))
        if isinstance(block, EvaBlock)
        else (TimmBlock, (Attention,))
    )
    require(type(block) is kinds[0], f"{where} is a {type(block).__name__}, not timm's pre-norm Block")
    attn, mlp = block.attn, block.mlp
    require(
        type(attn) in kinds[1], f"{where}.attn is a {type(attn).__name__}, not timm's {kinds[1][0].__name__}"
    )
    require(
        _identity(attn.q_norm) and _identity(attn.k_norm),
        f"{where}.attn normalises queries and keys (qk_norm)",
    )
    require(_identity(getattr(attn, "norm", None)), f"{where}.attn normalises its output (scale_attn_norm)")
    require(getattr(attn, "gate", None) is None, f"{where}.attn gates its output (gated)")
    require(
        getattr(attn, "num_kv_heads", attn.num_heads) == attn.num_heads,
        f"{where}.attn has fewer heads of keys than of queries (num_kv_heads)",
    )
    _require_mlp(mlp, where)

    def branch(module: nn.Module, number: int, name: str) -> Linear:
        layer, scale = _linear(module, f"{where}.{name}"), getattr(block, f"ls{number}", None)
        gamma = scale.gamma if isinstance(scale, LayerScale) else getattr(block, f"gamma_{number}", None)
        if gamma is not None:
            gamma = _plain(gamma)
            return Linear(gamma[:, None] * layer.weight, gamma * layer.bias)
        require(_identity(scale), f"{where} scales a branch by a {type(scale).__name__}")
        return layer

    qkv = _qkv(attn, f"{where}.attn")
    return Block(
        heads=attn.num_heads,
        head_dim=len(qkv.weight) // 3 // attn.num_heads,
        norm1=_norm(block.norm1, f"{where}.norm1"),
        qkv=qkv if turned is None else turned.reorder(qkv, attn.num_heads),
        proj=branch(attn.proj, 1, "attn.proj"),
        norm2=_norm(block.norm2, f"{where}.norm2"),
        fc1=_linear(mlp.fc1, f"{where}.mlp.fc1"),
        fc2=branch(mlp.fc2, 2, "mlp.fc2"),
        activation=mlp.act,
    )


def _require_mlp(mlp: nn.Module, where: str) -> None:
    gated = type(mlp).__name__ in ("SwiGLU", "GluMlp", "SwiGLUPacked")
    why = "; it multiplies two activations, for which the integer model has no form" if gated else ""
    require(type(mlp) is Mlp, f"{where}.mlp is a {type(mlp).__name__}, not timm's two-layer Mlp" + why)
    require(_identity(mlp.norm), f"{where}.mlp normalises its hidden layer (scale_mlp_norm)")


def _no_norm(size: int) -> Norm:
    return Norm(torch.ones(size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64), 0.0)


def _pooling_block(attn: nn.Module, norm: Norm) -> Block:
    """Returns the block of timm's ``AttentionPoolLatent`` behind a norm; its latent is the query of every image."""
    where, size = "attn_pool", len(norm.gamma)
    require(
        type(attn) is AttentionPoolLatent, f"it pools by {type(attn).__name__}, not by AttentionPoolLatent"
    )
    require(attn.pos_embed is None, f"{where} has positions of its own (pos_embed)")
    require(attn.latent_len == 1, f"{where} has {attn.latent_len} queries (latent_len); one is supported")
    require(
        _identity(attn.q_norm) and _identity(attn.k_norm), f"{where} normalises queries and keys (qk_norm)"
    )
    require(
        attn.mlp is not None and attn.out_features == size,
        f"{where} has no MLP, or other channels than its input",
    )
    _require_mlp(attn.mlp, where)
    query, kv = _plain(attn.latent)[0, 0], _linear(attn.kv, f"{where}.kv")
    if not _identity(attn.q):
        q = _linear(attn.q, f"{where}.q")
        query = q.weight @ query + q.bias
    none = torch.zeros(len(query), size, dtype=torch.float64)
    return Block(
        heads=attn.num_heads,
        head_dim=attn.head_dim,
        norm1=norm,
        qkv=Linear(torch.cat([none, kv.weight]), torch.cat([query, kv.bias])),
        proj=_linear(attn.proj, f"{where}.proj"),
        norm2=_norm(attn.norm, f"{where}.norm"),
        fc1=_linear(attn.mlp.fc1, f"{where}.mlp.fc1"),
        fc2=_linear(attn.mlp.fc2, f"{where}.mlp.fc2"),
        activation=attn.mlp.act,
        pools=True,
    )


def _qkv(attn: nn.Module, where: str) -> Linear:
    """Returns q, k and v in one matrix; timm's Eva keeps them or their biases apart."""
    if attn.qkv is None:
        parts = [_linear(getattr(attn, f"{part}_proj"), f"{where}.{part}_proj") for part in "qkv"]
        return Linear(torch.cat([p.weight for p in parts]), torch.cat([p.bias for p in parts]))
    qkv = _linear(attn.qkv, f"{where}.qkv")
    if getattr(attn, "q_bias", None) is not None:
        qkv.bias = torch.cat([_plain(getattr(attn, f"{part}_bias")) for part in "qkv"])
    return qkv
