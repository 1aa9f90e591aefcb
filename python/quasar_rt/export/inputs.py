"""Inputs of the exporter: preprocessing that fits the model, calibration images as normalised batches."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ..images import ImageLike, preprocess
from .float_vit import ViT
from .timm_reader import require

__all__ = ["calibration_batches", "normalised", "pixels_of", "preprocessing_of", "varied"]


def preprocessing_of(
    model: nn.Module, net: ViT, mean: Any, std: Any, resize: dict[str, Any] | None
) -> tuple[dict[str, Any], list[float], list[float]]:
    """Returns the subnet's preprocessing, mean and std: the caller's values, or timm's configuration of the model."""
    if not getattr(model, "pretrained_cfg", None) and (mean is None or std is None):
        warnings.warn(
            "the model has no pretrained_cfg with its mean and std: ImageNet's are taken; pass mean and std",
            stacklevel=4,
        )
    data = timm.data.resolve_data_config(
        pretrained_cfg=getattr(model, "pretrained_cfg", {}) or {}, model=model
    )
    if resize is None:
        interpolation = data["interpolation"]
        require(
            interpolation in ("bicubic", "bilinear", "nearest"),
            f"its preprocessing resizes by '{interpolation}': pass `resize`",
        )
        # crop_pct was chosen for the configuration's image size; other sizes get no margin.
        crop = data["crop_pct"] if tuple(data["input_size"][1:]) == (net.height, net.width) else 1.0
        if data.get("crop_mode") == "squash":
            size = [math.floor(side / crop) for side in (net.height, net.width)]
            resize = {"mode": "exact", "size": size, "filter": interpolation}
        else:
            require(
                data.get("crop_mode", "center") == "center" and net.height == net.width,
                f"its preprocessing crops in mode '{data.get('crop_mode')}' to {net.height}x{net.width}: pass `resize` "
                f'(--resize), such as {{"mode": "exact", "size": [{net.height}, {net.width}], "filter": "bicubic"}}',
            )
            resize = {
                "mode": "shorter",
                "size": [math.floor(net.height / crop)],
                "filter": interpolation,
            }

    def channels(values: Any, fallback: Sequence[float]) -> list[float]:
        chosen = [float(v) for v in (fallback if values is None else np.atleast_1d(values))]
        if values is None and len(chosen) != net.channels:
            chosen = [sum(chosen) / len(chosen)] * net.channels
        if len(chosen) != net.channels:
            raise ValueError(
                f"mean and std need one value for each of the {net.channels} channels, not {len(chosen)}"
            )
        return chosen

    means, deviations = channels(mean, data["mean"]), channels(std, data["std"])
    if not all(math.isfinite(value) for value in means) or not all(
        0 < value < math.inf for value in deviations
    ):
        raise ValueError(f"mean must be finite and std positive, not {means} and {deviations}")
    return {"resize": resize}, means, deviations


def calibration_batches(
    calibration: Iterable[ImageLike] | Tensor,
    net: ViT,
    preprocessing: dict[str, Any],
    mean: list[float],
    std: list[float],
    batch_size: int,
) -> list[Tensor]:
    """Returns the calibration images as normalised float batches [n, channels, height, width]."""
    if isinstance(calibration, Tensor) and calibration.is_floating_point():
        expected = (net.channels, net.height, net.width)
        if calibration.ndim != 4 or tuple(calibration.shape[1:]) != expected:
            raise ValueError(
                f"calibration must be [images, {', '.join(map(str, expected))}], not {list(calibration.shape)}"
            )
        images = calibration.detach().cpu().float()
    else:
        pixels = [
            preprocess(image, (net.height, net.width, net.channels), preprocessing) for image in calibration
        ]
        if not pixels:
            raise ValueError("calibration holds no image: give at least one, better 32 or more")
        images = normalised(np.stack(pixels), mean, std)
    if not len(images) or not bool(torch.isfinite(images).all()):
        raise ValueError("calibration must hold at least one image and only finite values")
    return list(images.split(batch_size))


def normalised(pixels: NDArray[np.uint8], mean: Any, std: Any) -> Tensor:
    """Returns pixels [images, height, width, channels] as the float network takes them, float32."""
    raw = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    means, deviations = (torch.tensor(values).view(1, -1, 1, 1) for values in (mean, std))
    return (raw - means) / deviations


def pixels_of(images: Tensor, mean: Any, std: Any) -> NDArray[np.uint8]:
    """Returns the pixels that are nearest to normalised images: the inverse of `normalised`."""
    means, deviations = (torch.tensor(values).view(1, -1, 1, 1) for values in (mean, std))
    raw = (images * deviations + means) * 255
    pixels: NDArray[np.uint8] = raw.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    return pixels


def varied(batches: Sequence[Tensor]) -> list[Tensor]:
    """Returns as many images again, made of these: mosaics of four, blends of two, and other colours upside down.

    The inputs of the layers differ more with them, so errors are small on more kinds of images. Which images are taken
    depends on their number alone.
    """
    images, random = torch.cat(list(batches)), torch.Generator().manual_seed(0)
    height, width = images.shape[2:]
    rows, columns = ((side // 2, side - side // 2) for side in (height, width))

    def one(kind: int) -> Tensor:
        chosen = images[torch.randint(len(images), (4,), generator=random)]
        if kind == 0:
            tiles = [
                [
                    F.interpolate(chosen[2 * i + j, None], size=(high, wide), mode="bilinear", antialias=True)
                    for j, wide in enumerate(columns)
                ]
                for i, high in enumerate(rows)
            ]
            return torch.cat([torch.cat(row, dim=3) for row in tiles], dim=2)[0]
        if kind == 1:
            share = 0.3 + 0.4 * float(torch.rand(1, generator=random))
            return share * chosen[0] + (1 - share) * chosen[1].flip(-1)
        return chosen[0, torch.randperm(len(chosen[0]), generator=random)].flip(-2)

    made = torch.stack([one(i % 3) for i in range(len(images))])
    return list(made.split(len(batches[0])))
