"""Pictures with an answer below them, for people to look at. Depends on Pillow."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import chain, count
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from .arrays import Pixels
from .datasets import IMAGE_SUFFIXES
from .files import file_name, replacing
from .prediction import Prediction

__all__ = ["annotated", "captioned", "save_as"]

#: Pixels of a picture's longer side, at least and at most, and those of a line of text.
_LEAST, _MOST, _LINE = 240, 1024, 22


def annotated(pixels: Pixels, prediction: Prediction, subnet: str) -> Image.Image:
    """Returns a picture with its classes, their probabilities and the name of the subnet below it; as `captioned`."""
    lines = [f"{score.label}  {score.probability:.1%}" for score in prediction.top_k] + [f"by {subnet}"]
    return captioned(pixels, ["none of these"] * prediction.none_of_these + lines)


def captioned(pixels: Pixels, lines: Sequence[str]) -> Image.Image:
    """Returns a picture, uint8 [height, width, 1 or 3], with lines of text below it.

    Small pictures are enlarged by whole pixels, large ones reduced.
    """
    factor = -(-_LEAST // max(pixels.shape[:2]))
    pixels = pixels.repeat(factor, axis=0).repeat(factor, axis=1)
    picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).convert("RGB")
    if max(picture.size) > _MOST:
        picture.thumbnail((_MOST, _MOST))
    try:
        font = ImageFont.load_default(15)
    except TypeError:  # Pillow before 10.1 has one size
        font = ImageFont.load_default()
    width = max(picture.width, _LEAST)
    whole = Image.new("RGB", (width, picture.height + _LINE * len(lines) + 8), "white")
    whole.paste(picture, ((width - picture.width) // 2, 0))
    draw = ImageDraw.Draw(whole)
    for number, line in enumerate(lines):
        place = (6, picture.height + 4 + _LINE * number)
        # Signs that the font lacks are boxes; a bitmap font would raise for them.
        text = line if hasattr(font, "path") else line.encode("latin-1", "replace").decode("latin-1")
        draw.text(place, text, fill="black" if number == 0 else "dimgray", font=font)
    return whole


def save_as(picture: Image.Image, folder: Path, name: str) -> Path:
    """Writes a picture as a PNG, whole or not at all, and returns its path. Numbers a name that is there already.

    Args:
        picture: the picture.
        folder: an existing folder.
        name: the name of the picture's source; its last part gives the file's name.

    Raises:
        quasar_rt.FileError: it cannot be written.
    """
    stem, ending = os.path.splitext("stdin" if name == "-" else os.path.basename(name))
    if ending.lower() not in IMAGE_SUFFIXES:  # of a video, with the time of the frame
        stem += ending
    stem = file_name(stem).lstrip(".") or "picture"
    names = chain([f"{stem}.png"], (f"{stem}-{number}.png" for number in count(2)))
    path = next(folder / one for one in names if not os.path.lexists(folder / one))
    with replacing(path) as file:
        picture.save(file, "PNG")
    return path
