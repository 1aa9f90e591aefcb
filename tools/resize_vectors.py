#!/usr/bin/env python3
"""Write tests/vectors/resize.safetensors: small images, resized and cropped by Pillow 13 and torchvision.

Each case `i` has `i.image`, `i.expected` (uint8 [height, width, channels]) and an entry of the metadata's `cases`
(JSON): the `resize` of a subnet's config. The crop and its channels are those of `i.expected`.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import save_file
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

TARGET = Path(__file__).resolve().parent.parent / "tests" / "vectors" / "resize.safetensors"
FILTERS = ["nearest", "box", "bilinear", "hamming", "bicubic"]
#: image [height, width, channels], mode, size, crop [height, width, channels]
SHAPES = [
    ((23, 31, 3), "shorter", [16], (16, 16, 3)),
    ((31, 20, 3), "shorter", [9], (8, 9, 1)),
    ((9, 14, 1), "shorter", [21], (20, 17, 3)),
    ((60, 11, 3), "exact", [20, 10], (19, 9, 3)),
    ((40, 13, 1), "exact", [12, 29], (11, 29, 1)),
    ((17, 17, 3), "exact", [17, 5], (10, 4, 3)),
    ((17, 18, 3), "exact", [6, 18], (5, 7, 3)),
    ((1, 3, 1), "shorter", [7], (7, 6, 1)),
]


def main() -> None:
    """Writes the file."""
    rng = np.random.default_rng(0)
    tensors: dict[str, NDArray[np.uint8]] = {}
    cases: list[dict[str, object]] = []
    for shape, mode, size, crop in SHAPES:
        for name in FILTERS:
            pixels = rng.integers(0, 256, shape, dtype=np.uint8)
            if name == "bicubic":
                pixels = np.where(pixels > 127, 255, 0).astype(np.uint8)  # the most overshoot
            image = Image.fromarray(pixels.squeeze(2) if shape[2] == 1 else pixels)
            image = image.convert("L" if crop[2] == 1 else "RGB")
            target = size if mode == "exact" else size[0]
            image = F.center_crop(F.resize(image, target, InterpolationMode(name)), crop[:2])
            tensors[f"{len(cases)}.image"] = pixels
            tensors[f"{len(cases)}.expected"] = np.asarray(image).reshape(crop)
            cases.append({"mode": mode, "size": size, "filter": name})
    save_file(tensors, TARGET, metadata={"cases": json.dumps(cases)})


if __name__ == "__main__":
    main()
