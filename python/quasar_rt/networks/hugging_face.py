"""Folders of Hugging Face's transformers, which is not needed: ViT, DeiT, DINOv2, DINOv3, towers of CLIP and SigLIP."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from timm.data.constants import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    IMAGENET_INCEPTION_MEAN,
    IMAGENET_INCEPTION_STD,
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
)
from timm.layers.pos_embed_sincos import RotaryEmbeddingDinoV3
from torch import Tensor, nn

from ..errors import FileError, QuasarError
from ..files import read_small_text, reason
from ..weights import make_timm, read_weights
from .vit import (
    LoadedNetwork,
    NetworkError,
    crop_of,
    name_of,
    require,
    require_patch,
    resample,
    vision_transformer,
)

__all__ = ["folder_document", "folder_weights", "load_folder"]

#: Activation functions by transformers' names, with timm's.
_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_fast": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
#: Pillow's filters by number, timm's names.
_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}


class _Published(NamedTuple):
    """Preprocessing of the published checkpoints of a type: for folders that state none."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    resample: int = 3
    square: bool = False
    crop: float = 1.0


_PUBLISHED = {
    "vit": _Published(IMAGENET_INCEPTION_MEAN, IMAGENET_INCEPTION_STD, 2, square=True),
    "deit": _Published(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, square=True, crop=0.875),
    "dinov2": _Published(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, crop=0.875),
    "dinov2_with_registers": _Published(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, crop=0.875),
    "dinov3_vit": _Published(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, 2, square=True),
    "clip_vision_model": _Published(OPENAI_CLIP_MEAN, OPENAI_CLIP_STD),
    "siglip_vision_model": _Published(IMAGENET_INCEPTION_MEAN, IMAGENET_INCEPTION_STD, square=True),
}
#: Values that a folder of SigLIP may leave out of its ``config.json``.
_SIGLIP = {
    "hidden_act": "gelu_pytorch_tanh",
    "image_size": 224,
    "layer_norm_eps": 1e-6,
    "num_attention_heads": 12,
    "patch_size": 16,
}
_EPSILONS = {"clip_vision_model": 1e-5, "dinov3_vit": 1e-5}
#: Names of tensors in front of the blocks and behind them, with timm's.
_OUTER = {
    "embeddings.cls_token": "cls_token",
    "embeddings.class_embedding": "cls_token",
    "embeddings.distillation_token": "dist_token",
    "embeddings.register_tokens": "reg_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.position_embedding.weight": "pos_embed",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "embeddings.patch_embedding": "patch_embed.proj",
    "embeddings.patch_embeddings": "patch_embed.proj",
    "pre_layrnorm": "norm_pre",
    "layernorm": "norm",
    "post_layernorm": "norm",
    "norm": "norm",
    "head.probe": "attn_pool.latent",
    "head.attention.in_proj_weight": "attn_pool.qkv.weight",
    "head.attention.in_proj_bias": "attn_pool.qkv.bias",
    "head.attention.out_proj": "attn_pool.proj",
    "head.layernorm": "attn_pool.norm",
    "head.mlp.fc1": "attn_pool.mlp.fc1",
    "head.mlp.fc2": "attn_pool.mlp.fc2",
}
#: Of these, the names that towers beside one of text have.
_TOWERS = (
    "embeddings.class_embedding",
    "embeddings.patch_embedding",
    "embeddings.position_embedding.weight",
    "post_layernorm",
)
#: Names of tensors in a block with timm's; releases of transformers differ in them.
_INNER = {
    r"(layernorm_before|layer_norm1|norm1)": "norm1",
    r"(layernorm_after|layer_norm2|norm2)": "norm2",
    r"(attention\.attention\.query|(attention|self_attn)\.q_proj)": "attn.q",
    r"(attention\.attention\.key|(attention|self_attn)\.k_proj)": "attn.k",
    r"(attention\.attention\.value|(attention|self_attn)\.v_proj)": "attn.v",
    r"(attention\.output\.dense|attention\.o_proj|self_attn\.out_proj)": "attn.proj",
    r"(intermediate\.dense|mlp\.(fc1|up_proj))": "mlp.fc1",
    r"(output\.dense|mlp\.(fc2|down_proj))": "mlp.fc2",
    r"layer_scale(\d)\.lambda1": r"ls\1.gamma",
}
#: Tensors without a part in the image's function.
_UNUSED = (
    r"(.*\.)?(mask_token|position_ids|pooler\..*|logit_(scale|bias)|text_model\..*|text_projection\..*"
    r"|rope_embeddings\..*)"
)


def load_folder(folder: Path, size: tuple[int, int] | None) -> LoadedNetwork:
    """Loads a folder with ``config.json`` and weights, of transformers or of timm.

    Args:
        folder: as ``save_pretrained`` writes it.
        size: height and width of an image; by default those that the folder's preprocessing gives.

    Raises:
        NetworkError: names what cannot be loaded, and why.
        quasar_rt.FileError: a file cannot be read.
    """
    config = folder_document(folder / "config.json")
    require(config is not None, folder, "it has no config.json")
    assert config is not None
    if isinstance(config.get("architecture"), str):  # timm's own form
        try:
            options = {} if size is None else {"img_size": size}
            model = make_timm(f"local-dir:{folder}", pretrained=True, **options).eval()
        # Of names, arguments and files, each in a way of its own.
        except Exception as error:
            raise NetworkError(
                f"timm could not make '{folder}': {' '.join(str(error).split())[:400]}"
            ) from error
        return LoadedNetwork(model, name_of(folder), model.pretrained_cfg.get("label_names"))
    try:
        return _Folder(folder, config).load(size)
    except QuasarError:
        raise
    # Of values of other kinds, and of tensors of other shapes, than transformers writes.
    except (
        ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError
    ) as error:  # fmt: skip
        problem = " ".join(str(error).split())[:200]
        raise NetworkError(
            f"'{folder}' cannot be loaded: config.json, the preprocessing or a tensor has an unusable value or shape "
            f"({problem})"
        ) from error


class _Folder:
    """A folder of transformers while it is read."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        self.folder, self.labels = folder, config.get("id2label")
        self.notices: list[str] = []
        #: The tensors' names in the file by timm's, and what stands in front of them.
        self.names: dict[str, str] = {}
        self.prefix = ""
        kind = config.get("model_type")
        if kind in ("clip", "siglip"):
            projection = config.get("projection_dim")
            config = {"projection_dim": projection, **config.get("vision_config", {})}
            kind = f"{kind}_vision_model"
        if kind == "siglip_vision_model":
            config = _SIGLIP | config
        self.require(
            kind in _PUBLISHED,
            f"its model_type is '{kind}'{_why_not(kind)}; vit, deit, dinov2, dinov2_with_registers, dinov3_vit, clip, "
            "clip_vision_model, siglip and siglip_vision_model are supported",
        )
        self.kind, self.config = str(kind), config
        self.require(
            not config.get("use_swiglu_ffn") and not config.get("use_gated_mlp"),
            "its MLP multiplies two activations (as DINOv2 giant and DINOv3 S+, H+ and 7B have it), for which the "
            "integer model has no form",
        )

    def require(self, condition: bool, what: str) -> None:
        require(condition, self.folder, what)

    def number(self, key: str, fallback: float | None = None) -> Any:
        value = self.config.get(key, fallback)
        self.require(isinstance(value, int | float) and value > 0, f"its config.json has no usable '{key}'")
        return value

    def load(self, size: tuple[int, int] | None) -> LoadedNetwork:
        state, heads = self._renamed(folder_weights(self.folder))
        self._add_heads(state, heads)
        preprocessing = self._preprocessing()
        size = size or tuple(preprocessing["input_size"][1:])
        rope = self._rotary(state, size) if self.kind == "dinov3_vit" else None
        if rope is None:
            self._fit_positions(state, size)
        activation = self.config.get(
            "hidden_act", "quick_gelu" if self.kind == "clip_vision_model" else "gelu"
        )
        self.require(activation in _ACTIVATIONS, f"its activation function '{activation}' is unknown")
        name = name_of(self.folder)
        heads_of_block = self.number("num_attention_heads")
        try:
            model = vision_transformer(
                state,
                heads=heads_of_block,
                size=size,
                activation=_ACTIVATIONS[activation],
                eps=float(self.number("layer_norm_eps", _EPSILONS.get(self.kind, 1e-12))),
                pool=self._pool(state),
                rope=rope,
                config={"architecture": name, **preprocessing},
            )
        # torch names the tensors that are missing or of another shape.
        except (AssertionError, IndexError, KeyError, RuntimeError) as error:
            problem = re.sub(r"\b[a-z]\w*(\.\w+)+|\b(pos_embed|cls_token)\b", self._own_name, str(error))
            problem = " ".join(problem.split())[:400]
            raise NetworkError(
                f"'{self.folder}' lacks tensors of a {self.kind}, or has others: {problem}"
            ) from error
        return LoadedNetwork(model, name, self._classes(getattr(model, "num_classes", 0)), self.notices)

    def _own_name(self, found: re.Match[str]) -> str:
        """Returns the file's own name of a tensor that torch names as timm does, also of one that the file lacks."""
        name = found[0].replace("attn.qkv", "attn.q")
        block = re.match(r"blocks\.(\d+)\.", name)
        if block is None:
            stem, dot, end = name.rpartition(".")
            outer = [key for key, value in _OUTER.items() if value in (name, stem)]
            if not outer:
                return found[0]
            tower = self.kind.endswith("_vision_model")
            key = next((key for key in outer if (key in _TOWERS) == tower), outer[0])
            return f"{self.prefix}{key}{dot + end if _OUTER[key] == stem else ''}"
        for known, own in self.names.items():
            if re.sub(r"^blocks\.\d+", block[0][:-1], known) == name:
                return re.sub(r"(layers?\.)\d+", rf"\g<1>{block[1]}", own, count=1)
        return name

    def _renamed(self, weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Returns the tensors of the tower with timm's names, and those behind it with transformers'."""
        siglip = self.kind == "siglip_vision_model"
        first = r"position_embedding\.weight" if siglip else "(cls_token|class_embedding)"
        token = next(
            (
                key
                for key in weights
                if re.search(rf"(^|\.)embeddings\.{first}$", key) and not re.fullmatch(_UNUSED, key)
            ),
            None,
        )
        self.require(token is not None, f"its weights have no {'positions' if siglip else 'class token'}")
        self.embed = weights[str(token)].shape[-1]
        self.prefix = prefix = re.sub(rf"embeddings\.{first}$", "", str(token))
        state, behind, unknown = {}, {}, []
        for key, tensor in weights.items():
            self.require(bool(tensor.isfinite().all()), f"'{key}' has values that are not finite numbers")
            if re.fullmatch(_UNUSED, key):
                continue
            name = _name(key.removeprefix(prefix)) if key.startswith(prefix) else None
            if name is not None:
                state[name], self.names[name] = tensor, key
            elif not prefix or not key.startswith(prefix):
                behind[key] = tensor
            else:
                unknown.append(key)
        self.require(not unknown, f"its weights have what a {self.kind} has not: {', '.join(unknown[:4])}")
        return self._joined(state), behind

    def _joined(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Returns the tensors with q, k and v in one, and with the shapes of timm's tokens."""
        for key in [key for key in state if key.endswith(".attn.q.weight")]:
            block = key.removesuffix(".q.weight")
            missing = [part for part in "qkv" if f"{block}.{part}.weight" not in state]
            self.require(not missing, f"'{self.names[key]}' has no {' and no '.join(missing)} beside it")
            parts = [state.pop(f"{block}.{part}.weight") for part in "qkv"]
            biases = [
                state.pop(f"{block}.{part}.bias", torch.zeros(len(w)))
                for part, w in zip("qkv", parts, strict=True)
            ]
            self.require(
                len({w.shape for w in parts}) == 1,
                f"q, k and v have different shapes: '{self.names[key]}' and those beside it",
            )
            state[f"{block}.qkv.weight"], state[f"{block}.qkv.bias"] = torch.cat(parts), torch.cat(biases)
        if self.kind == "siglip_vision_model":
            return self._joined_siglip(state)
        state["cls_token"] = state["cls_token"].reshape(1, 1, -1)
        if self.kind == "dinov3_vit":
            return state
        self.require("pos_embed" in state, "its weights have no positions")
        embed, found = self.embed, state["pos_embed"]
        self.require(
            bool(found.numel()) and found.numel() % embed == 0,
            f"'{self.names['pos_embed']}' has {found.numel()} values, no multiple of the {embed} of a token",
        )
        position = found.reshape(-1, embed)
        if "reg_token" in state:  # they have no positions
            registers = torch.zeros(state["reg_token"].shape[1], position.shape[1])
            position = torch.cat([position[:1], registers, position[1:]])
        state["pos_embed"] = position[None]
        return state

    def _joined_siglip(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Returns the tensors of SigLIP with the shape of timm's positions, and with q apart from k and v."""
        state["pos_embed"] = state["pos_embed"][None]
        for part in ("weight", "bias"):
            qkv = state.pop(f"attn_pool.qkv.{part}", None)
            if qkv is not None:
                state[f"attn_pool.q.{part}"], state[f"attn_pool.kv.{part}"] = qkv.tensor_split([self.embed])
        return state

    def _pool(self, state: dict[str, Tensor]) -> str:
        """Returns timm's ``global_pool``. SigLIP's classifier reads the mean of the patches."""
        if self.kind != "siglip_vision_model":
            return "token"
        if "head.weight" not in state:
            return "map"
        for key in [key for key in state if key.startswith("attn_pool.")]:
            del state[key]
        return "avg"

    def _add_heads(self, state: dict[str, Tensor], behind: dict[str, Tensor]) -> None:
        """Adds the classifier to the state, or a notice where there is none that can be taken."""
        embed = self.embed
        heads = {"cls_classifier": "head", "distillation_classifier": "head_dist"}
        if "distillation_classifier.weight" not in behind:
            if "dist_token" in state:  # a prefix token like others, which no head reads
                state["reg_token"] = state.pop("dist_token")
            heads = {"classifier": "head", "visual_projection": "head"}
        for own, name in heads.items():
            weight = behind.pop(f"{own}.weight", None)
            bias = behind.pop(f"{own}.bias", None)
            if weight is None:
                continue
            if own == "classifier" and (weight.shape[1] != embed or self.kind == "clip_vision_model"):
                self.notices.append(
                    "its classifier reads more than the class token behind the last norm, for which the integer model "
                    "has no form: it is left out, and the embedding is left"
                )
                continue
            if own == "visual_projection":
                self.notices.append(
                    f"its head is the projection to {len(weight)} values that CLIP's text shares; they are no classes"
                )
            state[f"{name}.weight"] = weight
            state[f"{name}.bias"] = torch.zeros(len(weight)) if bias is None else bias
        self.require(not behind, f"its weights have what is not known: {', '.join(sorted(behind)[:4])}")

    def _fit_positions(self, state: dict[str, Tensor], size: tuple[int, int]) -> None:
        """Resamples the positions of the patches to an image size, as transformers does it."""
        patch, own = self.number("patch_size"), self.config.get("image_size")
        self.require(isinstance(patch, int), f"its patches are {patch}; only square ones are supported")
        high, wide = (own, own) if isinstance(own, int) else tuple(own or (0, 0))
        old, new = (high // patch, wide // patch), (size[0] // patch, size[1] // patch)
        require_patch(size, (patch, patch), self.folder)
        position = state["pos_embed"][0]
        prefix = len(position) - old[0] * old[1]
        self.require(
            prefix in ((0,) if self.kind == "siglip_vision_model" else (1, 2))
            or ("reg_token" in state and prefix > 0),
            f"its {len(position)} positions do not fit images of {high}x{wide} pixels in patches of {patch}x{patch}",
        )
        if old != new:
            self.notices.append(
                f"its positions are resampled from {old[0]}x{old[1]} to {new[0]}x{new[1]} patches"
            )
        # Of the supported kinds, transformers filters against aliasing in this one alone.
        patches = resample(position[prefix:], old, new, antialias=self.kind == "dinov2_with_registers")
        state["pos_embed"] = torch.cat([position[:prefix], patches])[None]

    def _rotary(self, state: Mapping[str, Tensor], size: tuple[int, int]) -> nn.Module:
        """Returns the rotary positions of images of a size: functions of the grid alone."""
        patch, heads = self.number("patch_size"), self.number("num_attention_heads")
        require_patch(size, (patch, patch), self.folder)
        dim = self.embed // heads
        theta = (self.config.get("rope_parameters") or {}).get("rope_theta")
        theta = self.number("rope_theta", 100.0) if theta is None else theta
        return RotaryEmbeddingDinoV3(dim, float(theta), feat_shape=[side // patch for side in size])

    def _preprocessing(self) -> dict[str, Any]:
        """Returns the entries of timm's ``pretrained_cfg`` for the folder's image processor."""
        found = folder_document(self.folder / "preprocessor_config.json")
        if found is None:
            found = (folder_document(self.folder / "processor_config.json") or {}).get("image_processor")
        if found is None:
            self.notices.append(
                "it has no preprocessor_config.json: its mean, std and resizing are taken to be those of the published "
                f"{self.kind} checkpoints"
            )
        usual = _PUBLISHED[self.kind]
        own = self.config.get("image_size", 224)
        # DINOv2 is trained to be used below the size of its positions.
        side = 224 if self.kind.startswith("dinov2") or not isinstance(own, int) else own
        edge = round(side / usual.crop)
        document: dict[str, Any] = found or {
            "size": {"height": edge, "width": edge} if usual.square else {"shortest_edge": edge},
            "crop_size": side,
        }
        resized, square = _edges(document.get("size", side), usual.square)
        if not document.get("do_resize", True):
            self.notices.append("its preprocessing does not resize; images are resized to the network's size")
            resized, square = _edges(own, True)
        crop = _edges(document["crop_size"], True)[0] if _crops(document) else resized
        self.require(
            all(0 < cut <= edge for cut, edge in zip(crop, resized, strict=True)),
            f"its preprocessing crops {crop[0]}x{crop[1]} pixels out of {resized[0]}x{resized[1]}",
        )
        factor = document.get("rescale_factor", 1 / 255)
        self.require(
            document.get("do_rescale", True) and abs(factor * 255 - 1) < 1e-3,
            f"its preprocessing scales pixels by {factor if document.get('do_rescale', True) else 1}, not by 1/255",
        )
        filter_ = document.get("resample", usual.resample)
        normalized = document.get("do_normalize", True)
        channels = self.config.get("num_channels", 3)
        return {
            "input_size": (channels, *crop),
            "mean": tuple(document.get("image_mean", usual.mean)) if normalized else (0.0,) * channels,
            "std": tuple(document.get("image_std", usual.std)) if normalized else (1.0,) * channels,
            "interpolation": _FILTERS.get(filter_, str(filter_)),
            "crop_pct": crop_of(min(crop), min(resized)),
            "crop_mode": "squash" if square else "center",
        }

    def _classes(self, count: int) -> list[str] | None:
        """Returns the class names, unless they are those that transformers makes up."""
        labels = self.labels if isinstance(self.labels, dict) else {}
        names = [labels.get(str(i)) for i in range(count)]
        made_up = all(name == f"LABEL_{i}" for i, name in enumerate(names))
        known = bool(names) and len(labels) == count and all(isinstance(name, str) for name in names)
        return [str(name) for name in names] if known and not made_up else None


def _why_not(kind: Any) -> str:
    reasons = {
        "siglip2": "images of any size",
        "siglip2_vision_model": "images of any size",
        "swin": "attention in windows",
        "swinv2": "attention in windows",
        "beit": "relative positions",
        "data2vec-vision": "relative positions",
    }
    return f" ({reasons[kind]})" if kind in reasons else ""


def _name(key: str) -> str | None:
    """Returns timm's name of a tensor of the tower, None if there is none."""
    inner = re.fullmatch(r"(?:encoder\.|model\.)?layers?\.(\d+)\.(.*?)(\.weight|\.bias|)", key)
    if inner:
        index, middle, end = inner.groups()
        for pattern, name in _INNER.items():
            if re.fullmatch(pattern, middle):
                return f"blocks.{index}.{re.sub(pattern, name, middle)}{end}"
        return None
    if key in _OUTER:
        return _OUTER[key]
    stem, dot, end = key.rpartition(".")
    return f"{_OUTER[stem]}.{end}" if dot and stem in _OUTER and end in ("weight", "bias") else None


def _edges(size: Any, square: bool) -> tuple[tuple[int, int], bool]:
    """Returns height and width of a size of transformers, and whether images are brought to just that size."""
    if isinstance(size, int):
        return (size, size), square
    if isinstance(size, Mapping):
        if "shortest_edge" in size:
            return (int(size["shortest_edge"]),) * 2, False
        if "height" in size and "width" in size:
            return (int(size["height"]), int(size["width"])), True
    elif isinstance(size, list) and len(size) == 2:
        return (int(size[0]), int(size[1])), True
    raise NetworkError(f"a preprocessing size of {size} is unknown")


def _crops(document: Mapping[str, Any]) -> bool:
    return bool(document.get("do_center_crop", "crop_size" in document)) and "crop_size" in document


def folder_document(path: Path) -> dict[str, Any] | None:
    """Reads a JSON object, None if there is no such file."""
    if not path.exists():
        return None
    try:
        document = json.loads(read_small_text(path))
        if not isinstance(document, dict):
            raise ValueError("it is no JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise FileError(f"'{path}' cannot be read: {reason(error)}") from error
    return document


def folder_weights(folder: Path) -> dict[str, Tensor]:
    """Reads all tensors of a folder, in one file or in several with an index."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).exists():
            return read_weights(folder / name)
        index = folder_document(folder / f"{name}.index.json")
        if index is not None:
            shards = sorted({str(shard) for shard in dict(index.get("weight_map", {})).values()})
            # A shard's name is that of a file in the folder, and no path out of it.
            foreign = next((shard for shard in shards if Path(shard).name != shard), None)
            require(
                bool(shards) and foreign is None, folder, f"{name}.index.json names no files of the folder"
            )
            return {key: tensor for shard in shards for key, tensor in read_weights(folder / shard).items()}
    raise NetworkError(f"'{folder}' cannot be loaded: it has neither model.safetensors nor pytorch_model.bin")
