"""Finds the kind of a network's source, and loads it."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm

from ..errors import MissingFileError
from ..files import why_unreadable
from .hugging_face import load_folder
from .timm_files import load_checkpoint, load_named
from .vit import LoadedNetwork, NetworkError, Size, require, size_of, unread_pixels

__all__ = ["load_network", "require_architecture"]

#: Suffixes of checkpoints: a name with one of them is that of a file, even if there is none.
_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors", ".tar", ".npz", ".npy")


def load_network(
    source: str | os.PathLike[str],
    *,
    architecture: str | None = None,
    pretrained: bool = True,
    arguments: Mapping[str, Any] | None = None,
    image_size: Size | None = None,
) -> LoadedNetwork:
    """Loads a network that others trained, as a timm model on the CPU.

    Args:
        source: a folder of Hugging Face's transformers or of timm (``config.json`` and weights), an ONNX file of a
            plain Vision Transformer, a checkpoint of timm (``.pth``, ``.safetensors``, ...), or a timm model's name.
        architecture: the checkpoint's timm architecture.
        pretrained: for a timm model's name: its weights (downloaded), else random initial ones.
        arguments: for ``timm.create_model``, of a name or a checkpoint.
        image_size: height and width, or a side; positions of another grid are resampled. By default the size of timm's
            architecture, of the folder's preprocessing, or of the ONNX file (224 where it is open).

    Raises:
        NetworkError: the message names what cannot be loaded, and why.
        quasar_rt.FileError: a file is missing or cannot be read.
    """
    network = _load(source, architecture, pretrained, dict(arguments or {}), image_size)
    network.notices += unread_pixels(network.model)
    return network


def _load(
    source: str | os.PathLike[str],
    architecture: str | None,
    pretrained: bool,
    options: dict[str, Any],
    image_size: Size | None,
) -> LoadedNetwork:
    name, path = str(source), Path(source)
    size = None if image_size is None else size_of(image_size)
    graph = path.suffix.lower() == ".onnx"
    if graph or path.is_dir():
        require(
            not options, path, "it has its own shape; arguments for timm.create_model go with an architecture"
        )
    if path.is_dir():
        return load_folder(path, size)
    if graph:
        _require_file(path)
        try:
            from .onnx_vit import load_onnx
        except ImportError as error:
            raise NetworkError(
                f"reading '{path}' needs the onnx extra: pip install 'quasar-rt[onnx]'"
            ) from error
        return load_onnx(path, size)
    if size is not None:
        options["img_size"] = size
    # timm's names may have the kind of their place in front: hf_hub:..., local-dir:...
    if path.exists() or (":" not in name and (path.suffix.lower() in _SUFFIXES or len(path.parts) > 1)):
        _require_file(path)
        require(
            architecture is not None,
            path,
            "a checkpoint has no architecture in it: name timm's, such as "
            "deit_tiny_patch16_224 (architecture=, or --model)",
        )
        assert architecture is not None
        require_architecture(architecture, f"timm has no architecture '{architecture}'")
        return load_checkpoint(path, architecture, options)
    require_architecture(name, f"'{name}' is neither a file, a folder nor the name of a timm model")
    return load_named(name, pretrained, options)


def require_architecture(name: str, otherwise: str) -> None:
    """Raises a `NetworkError` with the nearest names unless timm has the architecture.

    timm itself looks for a name with a place in front (``hf_hub:``).
    """
    model = name.partition(".")[0]
    if ":" in name or timm.is_model(model):
        return
    near = difflib.get_close_matches(model, timm.list_models(), n=3, cutoff=0.6)
    raise NetworkError(f"{otherwise}{'; did you mean ' + ', '.join(near) + '?' if near else ''}")


def _require_file(path: Path) -> None:
    if (why := why_unreadable(path)) is not None:
        raise (NetworkError if os.path.exists(path) else MissingFileError)(f"{path} {why}")
