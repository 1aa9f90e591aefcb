"""Decodes files, encoded bytes and Pillow images to pixels.

Depends on Pillow, whose import is slower than all of this package's: `images` imports this module only for an image
that needs it.
"""

from __future__ import annotations

import io
import os
import re
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .arguments import shown, type_name
from .arrays import Pixels
from .errors import ImageError, MissingImageError
from .files import is_url, open_regular, reason

__all__ = ["from_bytes", "from_file", "from_pillow", "load_formats"]

# Modes whose values have no agreed meaning in 8 bits: guessing a range would classify another picture.
_WIDE_MODES = ("I", "F")


def load_formats(suffix: str | None) -> None:
    """Loads Pillow's common formats, or all if a file's `suffix` is of another one."""
    Image.preinit()
    if suffix is not None and suffix.lower() not in Image.EXTENSION:
        Image.init()


def from_file(path: Path) -> Pixels:
    """Decodes a file; raises `ImageError` with the file's name if it cannot be."""
    what = shown(str(path))
    try:
        with open_regular(path) as file:
            return _decode(file, os.fspath(path), what)
    except ImageError:
        raise
    except FileNotFoundError:
        if is_url(path):
            # A Path has one slash left.
            url = what.replace(":/", "://", 1)
            raise ImageError(f"{url} is a URL: download it, and give the file or its bytes") from None
        raise MissingImageError(f"there is no file {what}") from None
    except IsADirectoryError:
        raise ImageError(f"{what} is a directory; give the image files in it") from None
    except UnidentifiedImageError:
        raise ImageError(f"{what} is not an image in a format that Pillow knows") from None
    except UnicodeEncodeError:
        raise ImageError(f"cannot read the image {what}: its name is not UTF-8") from None
    # A damaged file makes Pillow's decoders raise nearly anything (OSError, SyntaxError, struct.error, ...).
    except Exception as error:
        raise ImageError(f"cannot read the image {what}: {reason(error)}") from error


def from_bytes(data: bytes | bytearray | memoryview, name: str = "") -> Pixels:
    """Decodes a file's bytes; raises `ImageError` with their number, and with `name`, if they cannot be."""
    size = data.nbytes if isinstance(data, memoryview) else len(data)
    what = f"the encoded image{name} ({size:,} bytes)"
    if size == 0:
        raise ImageError(f"{what} is empty")
    try:
        strided = isinstance(data, memoryview) and not data.c_contiguous
        return _decode(io.BytesIO(bytes(data) if strided else data), "", what)
    except ImageError as error:
        if error.__cause__ is None:
            raise
        raise ImageError(f"cannot convert {what} to 8-bit pixels: {_reason(error.__cause__)}") from None
    except UnidentifiedImageError:
        raise ImageError(
            f"{what} is not an image in a format that Pillow knows; "
            "give an image file's bytes, and raw pixels as an array or a Frame"
        ) from None
    except Exception as error:
        raise ImageError(f"cannot read {what}: {_reason(error)}") from None


def _reason(error: BaseException) -> str:
    """Returns an error's message, or its class: Pillow quotes the file in some, and bytes may be private or long."""
    message = str(error)
    return message if re.fullmatch(r"[\w ,.()-]+", message, re.ASCII) else type(error).__name__


def _decode(file: BinaryIO, name: str, what: str) -> Pixels:
    try:
        with _open(file, name) as image:
            if image.format == "EPS":
                raise ImageError(f"{what} is PostScript, a program; convert it to PNG or JPEG")
            _check_size(image, what)
            image.load()
            _check_size(image, what)  # an icon may hold a larger picture than it states
            return from_pillow(image, what)
    except Image.DecompressionBombError as error:  # of a plugin's own check, such as of a picture in an icon
        found = re.search(r"\d+", str(error))
        raise ImageError(_too_large(what, f"{int(found[0]):,} pixels" if found else "a picture")) from None


def _open(file: BinaryIO, name: str) -> Image.Image:
    """Opens an image as `Image.open` does, but without its check of the size.

    That check warns by way of `warnings`, whose filters belong to the whole process.
    """
    prefix = file.read(16)
    tried: set[str] = set()
    for register in (Image.preinit, Image.init):  # the common formats, then all
        register()
        for format in [format for format in Image.ID if format not in tried]:
            tried.add(format)
            factory, accepts = Image.OPEN[format]
            file.seek(0)
            try:
                accepted = True if accepts is None else accepts(prefix)
                if accepted and not isinstance(accepted, str):  # a text has the reason why this Pillow cannot
                    return factory(file, name)
            except (SyntaxError, IndexError, TypeError, struct.error):  # of another format
                continue
    file.seek(0)
    return Image.open(file)  # warns of a format that this Pillow was built without


def _check_size(image: Image.Image, what: str) -> None:
    if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
        raise ImageError(_too_large(what, f"{image.width} x {image.height} pixels"))


def _too_large(what: str, found: str) -> str:
    return (
        f"{what} has {found}, which may be an attack: more than {Image.MAX_IMAGE_PIXELS:,} pixels; "
        "if it is not, raise PIL.Image.MAX_IMAGE_PIXELS"
    )


def _upright(image: Image.Image) -> Image.Image:
    """Returns the image turned as its EXIF data say."""
    image.load()
    if hasattr(image, "tag_v2"):  # a TIFF: loading has turned it, and Pillow before 10.1 would do it again
        return image
    return ImageOps.exif_transpose(image) or image


def from_pillow(image: Image.Image, what: str = "the image") -> Pixels:
    """Converts a Pillow image; raises `ImageError` with `what` it is if its mode has no clear meaning."""
    if not isinstance(image, Image.Image):
        raise ImageError(f"cannot use {type_name(image)} as an image; give the Pillow image itself")
    mode = image.mode
    if mode in _WIDE_MODES or mode.startswith("I;16"):
        values, range_ = (
            ("(255 * numpy.asarray(image)).round()", "values in [0, 1]")
            if mode == "F"
            else ("(numpy.asarray(image) >> 8)", "full-range 16-bit values")
        )
        raise ImageError(
            f"{what} has mode {mode!r}, whose range is not known; scale it to 8 bits first, "
            f"e.g. Image.fromarray({values}.astype('uint8')) for {range_}"
        )
    if image.width == 0 or image.height == 0:
        raise ImageError(f"{what} is empty ({image.width} x {image.height})")
    try:
        image = _upright(image)
        if "transparency" in image.info and image.mode in ("P", "L", "RGB"):
            # Through an alpha channel, so that a transparent colour does not reach convert(), which warns about it.
            image = image.convert("LA" if image.mode == "L" else "RGBA")
        if image.mode in ("La", "RGBa"):  # premultiplied
            image = image.convert("LA" if image.mode == "La" else "RGBA")
        target = "L" if image.mode in ("1", "L", "LA") else "RGB"
        if image.mode != target:
            image = image.convert(target)
    except ImageError:
        raise
    except Exception as error:  # as above: lazy decoding happens here for images that the caller opened
        raise ImageError(f"cannot convert {what} (mode {mode!r}) to 8-bit pixels: {error}") from error
    pixels = np.asarray(image, dtype=np.uint8)
    return np.ascontiguousarray(pixels.reshape(image.height, image.width, -1))
