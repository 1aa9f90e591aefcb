"""timm's own models: by name with timm's weights, or by architecture with the weights of a file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from timm.models.eva import Eva
from timm.models.eva import checkpoint_filter_fn as rename_eva
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from ..errors import QuasarError
from ..weights import make_timm, read_weights
from .vit import LoadedNetwork, NetworkError, name_of, require_patch

__all__ = ["load_checkpoint", "load_named"]


def load_named(name: str, pretrained: bool, arguments: Mapping[str, Any]) -> LoadedNetwork:
    """Makes a timm model with timm's weights, which are downloaded, or with its random initial ones.

    Raises:
        NetworkError: timm cannot make it.
    """
    return LoadedNetwork(_make(name, pretrained, arguments).eval(), name)


def load_checkpoint(path: Path, architecture: str, arguments: Mapping[str, Any]) -> LoadedNetwork:
    """Makes a timm model with the weights of a file.

    The network has as many classes as the file's classifier, and none if it has no classifier, unless `arguments` has
    ``num_classes``. If `arguments` has ``img_size``, the file's positions are resampled to that size as timm does it.

    Raises:
        NetworkError: timm cannot make the architecture, or the file has other weights.
        quasar_rt.FileError: the file cannot be read.
    """
    network = _make(architecture, False, arguments)
    try:
        if path.suffix.lower() in (".npz", ".npy"):  # of other models, which timm converts
            network.load_pretrained(str(path))
        else:
            weights = _converted(read_weights(path), network, "img_size" in arguments)
            if "num_classes" not in arguments:
                _fit_classifier(network, weights)
            network.load_state_dict(weights)
    except QuasarError:
        raise
    # timm's converters raise nearly anything on what they do not know (KeyError, AssertionError, ...).
    except Exception as error:
        raise NetworkError(
            f"{path} does not hold the weights of this {architecture}: {type(error).__name__}: "
            f"{' '.join(str(error).split())[:400]}. It must be a state dict, as "
            "torch.save(model.state_dict(), FILE) writes it, of just this architecture; "
            "--model-arg gives a shape of its own."
        ) from error
    return LoadedNetwork(network.eval(), name_of(path))


def _make(name: str, pretrained: bool, arguments: Mapping[str, Any]) -> nn.Module:
    try:
        network: nn.Module = make_timm(name, pretrained=pretrained, **arguments)
    # Of unknown arguments, files and networks, each in a way of its own.
    except Exception as error:
        raise NetworkError(f"timm could not make {name}: {' '.join(str(error).split())[:400]}") from error
    if isinstance(network, VisionTransformer) and (size := network.patch_embed.img_size) is not None:
        require_patch(size, network.patch_embed.patch_size, name)
    return network


def _converted(weights: dict[str, Tensor], network: nn.Module, resize: bool) -> dict[str, Tensor]:
    """Returns a file's weights with timm's names (Meta's DINOv2 and DeiT III have others) and the network's positions.

    Raises:
        NetworkError: another grid of positions or size of patches, and `resize` is false or cannot change it.
    """
    if isinstance(network, Eva):
        renamed: dict[str, Tensor] = rename_eva(weights, network)
        return renamed
    if not isinstance(network, VisionTransformer):
        return weights
    position, stem = weights.get("pos_embed"), weights.get("patch_embed.proj.weight")
    kernel = network.patch_embed.proj.weight.shape[2:]
    if stem is not None and stem.ndim == 4 and stem.shape[2:] != kernel:
        raise NetworkError(
            f"the file's patches are {'x'.join(map(str, stem.shape[2:]))}, the network's {'x'.join(map(str, kernel))}: "
            "name the architecture of the file"
        )
    if position is not None and position.ndim == 3 and network.pos_embed is not None and not resize:
        rows, columns = network.patch_embed.grid_size
        prefix = network.num_prefix_tokens
        sides = [math.isqrt(max(position.shape[1] - count, 0)) for count in (prefix, 0, 1)]
        found = next(
            (side for side in sides if side * side in (position.shape[1] - prefix, position.shape[1])), 0
        )
        if found and found * found != rows * columns:
            high, wide = network.patch_embed.img_size
            raise NetworkError(
                f"the file is for images of {found * kernel[0]}x{found * kernel[1]} pixels, the network takes "
                f"{high}x{wide}: --image-size {found * kernel[0]} takes the file's size, --image-size {high} resamples "
                "the positions"
            )
    converted: dict[str, Tensor] = checkpoint_filter_fn(weights, network, adapt_layer_scale=True)
    return converted


def _fit_classifier(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Gives the network as many classes as the weights' classifier has."""
    classifier = network.default_cfg.get("classifier")
    classifier = classifier[0] if isinstance(classifier, tuple | list) else classifier
    if not isinstance(classifier, str):
        return
    weight = weights.get(f"{classifier}.weight")
    classes = 0 if weight is None else len(weight)
    if classes != network.num_classes:
        network.reset_classifier(classes)
