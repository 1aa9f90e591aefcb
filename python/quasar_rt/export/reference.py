"""The float network that a subnet came from, as the reference of its logits and embeddings."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ..prediction import named
from ..subnet import Subnet

__all__ = ["reference_embeddings", "reference_logits"]


def reference_logits(model: nn.Module, subnet: Subnet) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """Returns a function from preprocessed images, uint8 [images, height, width, channels], to the model's logits.

    The mean and std are those that the subnet's exporter recorded; without a record, timm's configuration of the model.
    """
    return _on_pixels(model, subnet, model)


def reference_embeddings(
    model: VisionTransformer, subnet: Subnet
) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """Returns a function from preprocessed images to the model's embeddings, [images, embed]; as `reference_logits`."""

    def embed(images: Tensor) -> Tensor:
        if named(subnet.config):  # in the space that CLIP's images share with text
            return model(images)
        return model.forward_head(model.forward_features(images), pre_logits=True)

    return _on_pixels(model, subnet, embed)


def _on_pixels(
    model: nn.Module, subnet: Subnet, function: Callable[[Tensor], Tensor]
) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    recorded = subnet.config["provenance"]
    data = timm.data.resolve_data_config(
        pretrained_cfg=getattr(model, "pretrained_cfg", {}) or {}, model=model
    )
    mean, std = (
        torch.tensor(np.atleast_1d(recorded.get(key, data[key]))).float().view(1, -1, 1, 1)
        for key in ("mean", "std")
    )
    model.eval()

    def outputs(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        with torch.no_grad():
            found: NDArray[np.float32] = function((images - mean) / std).float().numpy()
        return found

    return outputs
