"""Folders as Hugging Face's transformers write them, made by hand from timm's models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import save_file  # noqa: E402
from torch import Tensor, nn  # noqa: E402

CONFIG: dict[str, Any] = {
    "hidden_size": 32,
    "image_size": 20,
    "intermediate_size": 128,
    "layer_norm_eps": 1e-6,
    "num_attention_heads": 2,
    "num_channels": 3,
    "num_hidden_layers": 2,
    "patch_size": 4,
}
#: Kinds whose image tower stands beside one of text.
TOWERS = ("clip", "siglip")
LABELS = {"id2label": {str(i): f"LABEL_{i}" for i in range(3)}}
PROCESSOR: dict[str, Any] = {
    "crop_size": {"height": 20, "width": 20},
    "do_center_crop": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.1, 0.2, 0.3],
    "image_std": [0.4, 0.5, 0.6],
    "resample": 3,
    "rescale_factor": 1 / 255,
    "size": {"shortest_edge": 23},
}


def block_names(kind: str, i: int) -> dict[str, str]:
    """Returns transformers' names of a block's tensors by timm's."""
    if kind in TOWERS:
        at = f"vision_model.encoder.layers.{i}"
        inner = {
            "q": "self_attn.q_proj",
            "k": "self_attn.k_proj",
            "v": "self_attn.v_proj",
            "proj": "self_attn.out_proj",
        }
        outer = {"norm1": "layer_norm1", "norm2": "layer_norm2", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
    else:
        at = f"encoder.layer.{i}"
        part = "attention.attention"
        inner = {
            "q": f"{part}.query",
            "k": f"{part}.key",
            "v": f"{part}.value",
            "proj": "attention.output.dense",
        }
        outer = {
            "norm1": "layernorm_before",
            "norm2": "layernorm_after",
            "mlp.fc1": "intermediate.dense",
            "mlp.fc2": "output.dense",
        }
        if kind == "dinov2":
            outer = {name: name for name in outer}
    names = {f"attn.{name}": own for name, own in inner.items()} | outer
    return {name: f"{at}.{own}" for name, own in names.items()}


def as_transformers(model: nn.Module, kind: str, prefix: str = "") -> dict[str, Tensor]:
    """Returns the tensors of a timm model with the names that transformers gives them."""
    own = {key: value.detach() for key, value in model.state_dict().items()}
    position = own.pop("pos_embed")
    registers = own.pop("reg_token", None)
    if registers is not None and kind == "dinov2":
        position = torch.cat([position[:, :1], position[:, 1 + registers.shape[1] :]], dim=1)
    tower = kind in TOWERS
    start = "vision_model.embeddings" if tower else "embeddings"
    state = {
        f"{start}.patch_embedding" if tower else f"{start}.patch_embeddings.projection": "patch_embed.proj",
        "vision_model.post_layernorm" if tower else "layernorm": "norm",
        "vision_model.pre_layrnorm": "norm_pre",
        "vision_model.head.attention.out_proj": "attn_pool.proj",
        "vision_model.head.layernorm": "attn_pool.norm",
        "vision_model.head.mlp.fc1": "attn_pool.mlp.fc1",
        "vision_model.head.mlp.fc2": "attn_pool.mlp.fc2",
    }
    found: dict[str, Tensor] = {}
    for theirs, ours in state.items():
        for part in ("weight", "bias"):
            if f"{ours}.{part}" in own:
                found[f"{theirs}.{part}"] = own.pop(f"{ours}.{part}")
    if tower:
        if kind == "clip":
            found[f"{start}.class_embedding"] = own.pop("cls_token").flatten()
        if "attn_pool.latent" in own:
            found["vision_model.head.probe"] = own.pop("attn_pool.latent")
            for part in ("weight", "bias"):
                both = [own.pop(f"attn_pool.{name}.{part}") for name in ("q", "kv")]
                found[f"vision_model.head.attention.in_proj_{part}"] = torch.cat(both)
        found[f"{start}.position_embedding.weight"] = position[0]
        found[f"{start}.position_ids"] = torch.arange(position.shape[1])[None]
    else:
        found[f"{start}.cls_token"], found[f"{start}.position_embeddings"] = own.pop("cls_token"), position
    for name, token in (("distillation_token", own.pop("dist_token", None)), ("register_tokens", registers)):
        if token is not None:
            found[f"{start}.{name if kind == 'dinov2' else 'distillation_token'}"] = token
    for i in range(len(model.blocks)):
        for ours, theirs in block_names(kind, i).items():
            for part in ("weight", "bias"):
                if ours in ("attn.q", "attn.k", "attn.v"):
                    if f"blocks.{i}.attn.qkv.{part}" in own:
                        thirds = own[f"blocks.{i}.attn.qkv.{part}"].chunk(3)
                        found[f"{theirs}.{part}"] = thirds["qkv".index(ours[-1])]
                else:
                    found[f"{theirs}.{part}"] = own.pop(f"blocks.{i}.{ours}.{part}")
        for number in (1, 2):
            if (gamma := own.pop(f"blocks.{i}.ls{number}.gamma", None)) is not None:
                found[f"encoder.layer.{i}.layer_scale{number}.lambda1"] = gamma
    return {prefix + key: value.contiguous() for key, value in found.items()}


def write_folder(
    folder: Path,
    weights: dict[str, Tensor],
    config: dict[str, Any],
    processor: dict[str, Any] | None = PROCESSOR,
    shards: int = 1,
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    if processor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    if shards == 1:
        save_file(weights, folder / "model.safetensors")
        return folder
    names = [f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
    places = {key: names[i % shards] for i, key in enumerate(weights)}
    for name in names:
        save_file({key: weights[key] for key in weights if places[key] == name}, folder / name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder
