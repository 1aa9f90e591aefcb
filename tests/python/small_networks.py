"""Small trainable networks and their images, and a file that runs code, for tests. Needs the [host] extra."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from quasar_rt.train.model import ViT  # noqa: E402
from quasar_rt.train.widths import gather_statistics, rank_rows  # noqa: E402


def pictures(n: int, seed: int = 1, channels: int = 1) -> Any:
    """Returns images uint8 [n, channels, 12, 12] of blobs: neighbouring pixels are alike."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, channels, 4, 4, generator=generator)
    return (torch.nn.functional.interpolate(coarse, size=12, mode="bilinear") * 255).to(torch.uint8)


@torch.no_grad()
def stirred(model: ViT) -> ViT:
    """Makes the logits depend on the image, and layer scales of both signs."""
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or name in ("position", "prefix"):
            parameter.normal_(0, 0.2)
        if "gamma" in name:
            parameter.mul_(torch.randn_like(parameter))
    model.head.weight.normal_(0, 0.3)
    return model


def with_quantizers(model: ViT) -> ViT:
    """Ranks the rows, sets the ranges and switches the quantizers on."""
    images = pictures(64, channels=model.config.channels)
    rank_rows(model, gather_statistics(model, images, torch.arange(64) % model.config.classes))
    model.calibrate(images, 0.9999)
    model.quantized = True
    return model.eval()


class Code:
    """Unpickled, it makes the folder `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)
