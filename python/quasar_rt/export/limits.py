"""Shapes that a subnet file can hold, checked before any image is read."""

from __future__ import annotations

from typing import Any

from ..errors import ConfigError, TensorError
from ..subnet import Subnet
from .float_vit import ViT

__all__ = ["beyond_limits"]


def beyond_limits(net: ViT, embedding: bool) -> str | None:
    """Returns the limit of the subnet file that a network breaks and the nearest image size that fits; None if none.

    The limits are those of the core, which checks a file's shapes before it looks for tensors.
    """
    rows, columns = net.height // net.kernel, net.width // net.kernel
    problem = _problem(net, embedding, net.height, net.width)
    if problem is None:
        return None
    for shorter in range(min(rows, columns) - 1, 0, -1):
        height, width = (round(side * shorter / min(rows, columns)) * net.kernel for side in (rows, columns))
        if _problem(net, embedding, height, width) is None:
            option = str(height) if height == width else f"{height}x{width}"
            return (
                f"{problem}, for images of {net.height}x{net.width} pixels; the nearest size that fits is "
                f"{height}x{width}: image_size, or --image-size {option}"
            )
    return problem


def _problem(net: ViT, embedding: bool, height: int, width: int) -> str | None:
    """Returns what the core says about the shapes of a network with images of this size."""
    config: dict[str, Any] = {
        "name": "",
        "image": {"height": height, "width": width, "channels": net.channels},
        "patch": {"kernel": net.kernel, "stride": net.stride, "pad": 0, "pad_value": 0},
        "embed": len(net.norm.gamma),
        "prefix_tokens": len(net.prefix),
        "embed_norm": net.norm_pre is not None,
        "rotary": net.rotary is not None,
        "blocks": [
            {
                "heads": block.heads,
                "head_dim": block.head_dim,
                "hidden": len(block.fc1.weight),
                "fc1_zero_point": 0,
            }
            for block in net.blocks
        ],
        "pool": net.pool,
        "classes": [""] * len(net.head.weight),
        "logit_scale": 1.0,
        "preprocess": {"resize": {"mode": "none"}},
        "trained": True,
        "provenance": {},
        **({"embedding": {"scale": 1.0, "zero_point": 0}} if embedding else {}),
    }
    try:
        Subnet.from_parts(config, {})
    except ConfigError as error:
        return str(error).removeprefix("invalid subnet config: ")
    except TensorError:
        return None
    raise AssertionError("a subnet without tensors was taken")
