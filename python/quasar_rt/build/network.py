"""Builds a subnet from the description of a float network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from ..subnet import Subnet
from .integers import (
    ATTENTION_GAIN_LIMIT,
    MULTIPLIER_LIMIT,
    QuantizedLinear,
    Tensors,
    activation_table,
    at_least,
    attention_tensors,
    embed_norm_tensors,
    norm_out_range,
    norm_tensors,
    quantize_linear,
    repeating_rows,
    residual_table,
    rotary_tensors,
    unnormalised,
)
from .spec import Affine, BlockSpec, LinearSpec, NetworkSpec, NormSpec

__all__ = ["append_rows", "build_subnet", "head_tensors", "projection_tensors"]


def build_subnet(spec: NetworkSpec) -> Subnet:
    """Quantizes a float network into a subnet.

    Output scales that are too fine for the model's multipliers (docs: Requantize, Range) are made just coarse enough.

    Raises:
        quasar_rt.QuasarError: weights that are not finite, or shapes that do not fit together.
        ValueError: a LayerNorm whose gain or eps the integer form cannot hold.
    """
    tensors: Tensors = {}
    # The layers that write the residual stream, and the LayerNorms that read it, need its final scale.
    stem, stem_scale = _patch_embedding(spec), None
    residual = [("embed", stem)]
    if spec.embed_norm is not None:
        stem_scale = float(at_least(spec.embed_norm.scale, stem.step.max(), MULTIPLIER_LIMIT))
        normed, layer = embed_norm_tensors(replace(spec.embed_norm, scale=stem_scale))
        tensors |= normed | stem.requantized("embed", stem_scale, 1)
        residual = [("embed_proj", layer)]
    norms: list[tuple[str, NormSpec, Affine]] = []
    blocks = []
    for i, block in enumerate(spec.blocks):
        name = f"blocks.{i}"
        norm1_out = norm_out_range(block.norm1, block.norm1_out)
        norm2_out = norm_out_range(block.norm2, block.norm2_out)
        attn_out = _add_attention(tensors, name, block, norm1_out)
        fc1_out = _add_fc1(tensors, name, block, norm2_out)
        residual += [
            (f"{name}.proj", quantize_linear(block.proj, attn_out, 0)),
            (f"{name}.fc2", quantize_linear(block.fc2, block.act_out.scale, block.act_out.zero_point)),
        ]
        norms += [(f"{name}.norm1", block.norm1, norm1_out), (f"{name}.norm2", block.norm2, norm2_out)]
        blocks.append(
            {
                "heads": block.heads,
                "head_dim": block.head_dim,
                "hidden": len(np.asarray(block.fc1.bits)),
                "fc1_zero_point": fc1_out.zero_point,
            }
        )
    norm = spec.norm
    if spec.pooled_scale is not None:
        # The last block's residual stream is that of the pooled token alone.
        pooled_scale = _add_stream(tensors, residual[-2:], norms[-1:], spec.pooled_scale)
        residual, norms, norm = residual[:-2], norms[:-1], unnormalised(spec.norm, pooled_scale)
    norm_out = norm_out_range(norm, spec.norm_out)
    norms.append(("norm", norm, norm_out))
    residual_scale = _add_stream(tensors, residual, norms, spec.residual_scale)
    tensors["position"] = residual_table(spec.position, stem_scale or residual_scale)
    prefix = np.asarray(spec.prefix, np.float64).reshape(-1, tensors["position"].shape[1])
    if len(prefix):
        tensors["prefix"] = residual_table(prefix, residual_scale)

    if spec.rotary is not None:
        tensors |= rotary_tensors(*spec.rotary)
    logit_scale = _add_heads(tensors, spec, norm_out)
    embedding = _add_embedding(tensors, spec, norm_out)
    config = {
        "name": spec.name,
        "image": {"height": spec.height, "width": spec.width, "channels": spec.channels},
        "patch": {"kernel": spec.kernel, "stride": spec.stride, "pad": spec.pad, "pad_value": spec.pad_value},
        "embed": int(tensors["position"].shape[1]),
        "prefix_tokens": len(prefix),
        **({} if spec.embed_norm is None else {"embed_norm": True}),
        **({"rotary": True} if spec.rotary else {}),
        "blocks": blocks,
        "pool": spec.pool,
        **({"patch_tokens": True} if spec.patch_tokens else {}),
        "classes": list(spec.classes),
        **({"embedding": embedding} if embedding else {}),
        "logit_scale": logit_scale,
        "preprocess": spec.preprocess,
        "trained": spec.trained,
        "provenance": spec.provenance,
    }
    return Subnet.from_parts(config, tensors)


def _add_stream(
    tensors: Tensors,
    writers: list[tuple[str, QuantizedLinear]],
    readers: list[tuple[str, NormSpec, Affine]],
    scale: float,
) -> float:
    """Adds the layers that write a residual stream and the LayerNorms that read it; returns the stream's step."""
    step = float(at_least(scale, max(layer.step.max() for _, layer in writers), MULTIPLIER_LIMIT))
    for name, layer in writers:
        tensors |= layer.requantized(name, step, 1)
    for name, norm, out in readers:
        tensors |= norm_tensors(name, norm, out, step)
    return step


def _add_heads(tensors: Tensors, spec: NetworkSpec, norm_out: Affine) -> float:
    """Adds the heads; returns the real value of a logit's step."""
    heads = {"head": spec.head} | ({} if spec.head_dist is None else {"head_dist": spec.head_dist})
    found, scale = head_tensors(heads, norm_out)
    tensors |= found
    return scale


def head_tensors(heads: Mapping[str, LinearSpec], source: Affine) -> tuple[Tensors, float]:
    """Returns the tensors of heads that read codes of `source`, and the real value of a logit's step."""
    tensors: Tensors = {}
    quantized = {name: quantize_linear(head, source.scale, source.zero_point) for name, head in heads.items()}
    widest = max(head.step.max(initial=0) for head in quantized.values()) or 32767 / 2**15
    for name, head in quantized.items():
        tensors |= head.tensors(name)
        tensors[f"{name}.mult"] = np.floor(head.step / widest * 32767 + 0.5).astype(np.int16)
    return tensors, float(widest * 2**15 / 32767)


def _add_embedding(tensors: Tensors, spec: NetworkSpec, norm_out: Affine) -> dict[str, Any]:
    """Adds the embedding's rows behind those of the heads; returns its entry of the config, empty without one."""
    if not spec.embedding:
        return {}
    if spec.projection is None or spec.projection_out is None:
        for head in ["head"] if spec.head_dist is None else ["head", "head_dist"]:
            append_rows(tensors, repeating_rows(head, tensors["position"].shape[1], spec.pool))
        return asdict(norm_out)
    rows, entry = projection_tensors(spec.projection, norm_out, spec.projection_out)
    append_rows(tensors, rows)
    return entry


def projection_tensors(projection: LinearSpec, source: Affine, out: Affine) -> tuple[Tensors, dict[str, Any]]:
    """Returns the head's rows that make an embedding of codes of `source`, and the embedding's entry of the config."""
    layer = quantize_linear(projection, source.scale, source.zero_point)
    # The largest mantissa is between one half and one; 0.99 leaves room for another scale of a row's bias.
    scale = float(at_least(out.scale, layer.step.max(), 0.99))
    shift = min(int(np.log2(0.99 * scale / max(layer.step.max(), 1e-30))), 15)
    from_zero = replace(projection, bias=np.asarray(projection.bias) + out.zero_point * scale)
    layer = quantize_linear(from_zero, source.scale, source.zero_point)
    mult = np.minimum(np.floor(layer.step / scale * 2 ** (15 + shift) + 0.5), 32767).astype(np.int16)
    projected = {"values": len(layer.bits), "shift": shift}
    entry = {"scale": scale, "zero_point": out.zero_point, "projected": projected}
    return {**layer.tensors("head"), "head.mult": mult}, entry


def append_rows(tensors: Tensors, rows: Tensors) -> None:
    """Appends rows to those that a head has already."""
    for part, values in rows.items():
        tensors[part] = np.concatenate([tensors[part], values])


def _patch_embedding(spec: NetworkSpec) -> QuantizedLinear:
    """Quantizes the patch embedding; mean and std of the pixels become part of its weights and bias."""
    mean, std = (np.asarray(a, np.float64) for a in (spec.mean, spec.std))
    per_channel = spec.kernel * spec.kernel
    pixel_mean = np.repeat(255 * mean, per_channel)
    weight = np.asarray(spec.embed.weight, np.float64) * np.repeat(1 / (255 * std), per_channel)
    bias = np.asarray(spec.embed.bias, np.float64)
    return quantize_linear(
        LinearSpec(weight, bias, spec.embed.bits, spec.embed.scales),
        in_scale=1.0,
        zero_point=-128,
        bias=lambda dequantized: bias - dequantized @ pixel_mean,
    )


def _add_attention(tensors: Tensors, name: str, block: BlockSpec, source: Affine) -> float:
    """Adds the tensors of qkv and of attention. Returns the scale of attention's output."""
    qkv = quantize_linear(block.qkv, source.scale, source.zero_point)
    steps = qkv.step.reshape(3, block.heads, block.head_dim).max(axis=2)
    q, k, v = (
        at_least(np.broadcast_to(scale, (block.heads,)), step * 64, MULTIPLIER_LIMIT)
        for scale, step in zip((block.q_scale, block.k_scale, block.v_scale), steps, strict=True)
    )
    out_scale = np.repeat(np.concatenate([q, k, v]), block.head_dim)
    tensors |= qkv.requantized(f"{name}.qkv", out_scale, 64)
    attn_out = float(at_least(block.attn_out, v.max(), ATTENTION_GAIN_LIMIT * (1 - 2**-15)))
    tensors |= attention_tensors(name, block.head_dim, q, k, v, attn_out)
    return attn_out


def _add_fc1(tensors: Tensors, name: str, block: BlockSpec, source: Affine) -> Affine:
    """Adds the tensors of fc1 and of the activation. Returns the range of fc1's output."""
    fc1 = quantize_linear(block.fc1, source.scale, source.zero_point)
    scale = float(at_least(block.fc1_out.scale, fc1.step.max() * 64, MULTIPLIER_LIMIT))
    out = Affine(scale, block.fc1_out.zero_point)
    tensors |= fc1.requantized(f"{name}.fc1", scale, 64)
    tensors[f"{name}.gelu"] = activation_table(block.activation, out, block.act_out)
    return out
