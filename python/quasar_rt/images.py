"""Stage 2 of a frame: the one place where an image becomes the native engine's input.

Arrays and tensors are checked (`arrays`), a camera's frames too (`frame`); files, bytes and Pillow images are decoded
(`decoding`). Rust does the rest. Depends on these modules, and on the native one.
"""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard, Union, cast

import numpy as np

from ._native import is_decoded
from ._native import preprocess as native_preprocess
from .arguments import shown, type_name
from .arrays import Pixels, Tensor, from_array, from_tensor
from .errors import ImageError, InvalidValueError
from .files import reason
from .frame import Frame, as_frame

if TYPE_CHECKING:
    import numpy.typing as npt
    from PIL import Image

__all__ = [
    "BinaryFile",
    "ImageLike",
    "Pixels",
    "Tensor",
    "check_several",
    "in_memory",
    "preprocess",
    "timed_input",
    "to_input",
    "to_pixels",
]


class BinaryFile(Protocol):
    """The method of a binary file object that is used, such as of ``open(path, "rb")`` or ``io.BytesIO``."""

    def read(self, size: int, /) -> bytes:
        """Returns at most `size` bytes."""


ImageLike = Union[
    str,
    "os.PathLike[str]",
    bytes,
    bytearray,
    memoryview,
    BinaryFile,
    "Image.Image",
    "npt.NDArray[np.uint8]",
    Tensor,
    Frame,
]
"""An image in any form that the engine accepts; `to_pixels` accepts all but a `Frame`."""

#: Largest encoded image that is read from a file object. A file of Pillow's largest picture without compression fits.
MOST_ENCODED_BYTES = 1 << 29


def to_pixels(image: ImageLike) -> Pixels:
    """Decodes `image` to ``uint8`` pixels, gray or RGB as it is; the engine converts them to its subnet's channels.

    Accepted:

    - a path (``str`` or ``Path``) of a file that Pillow can read; of an animation, the first frame;
    - the bytes of such a file, as ``bytes``, ``bytearray`` or ``memoryview``, or a binary file object, which is read
      from its start if it can seek, and stays open;
    - a Pillow image of any 8-bit mode (gray, palette, RGB, CMYK, with or without alpha);
    - a NumPy array, ``uint8``, of shape (H, W), (H, W, 1) or (H, W, 3);
    - a PyTorch tensor, ``uint8``, of shape (H, W), (H, W, 1), (H, W, 3), (1, H, W) or (3, H, W); where both
      readings are possible it is taken as (C, H, W), the way torchvision gives it.

    An EXIF orientation is applied. Alpha is dropped, not blended: that is what the loaders of torchvision and timm do.

    Raises:
        ImageError: the file cannot be read, or the value is none of the above. The message names the remedy.
    """
    if isinstance(image, np.ndarray):
        return from_array(image)
    if _is_of("torch", image) and isinstance(image, Tensor):
        return from_tensor(image)
    if isinstance(image, Frame):
        raise ImageError("a Frame is no decoded image; give it to an Engine or to preprocess")
    # Only encoded images and Pillow's own need Pillow.
    from . import decoding

    if _is_file(image):
        return decoding.from_bytes(*_read(image))
    if isinstance(image, (str, os.PathLike)):
        return decoding.from_file(Path(image))
    if isinstance(image, _BUFFERS):
        return decoding.from_bytes(image)
    if _is_of("PIL", image):
        return decoding.from_pillow(cast("Image.Image", image))
    raise ImageError(
        f"cannot use {type_name(image)} as an image; give a path, an encoded image (bytes or a binary file object), "
        "a Pillow image, a uint8 NumPy array (HxW or HxWx3) or a uint8 PyTorch tensor"
    )


def check_several(images: object) -> None:
    """Raises `InvalidValueError` if `images` is one image, or no iterable."""
    if _is_one_image(images):
        what = (
            repr(images) if isinstance(images, (str, os.PathLike, Frame)) else f"the {type(images).__name__}"
        )
        of = several = ""
        if hasattr(images, "dtype"):
            of = f" of shape {'x'.join(map(str, cast('npt.NDArray[Any]', images).shape))}"
            several = " (if it is several gray ones, list(it))"
        raise InvalidValueError(f"{what}{of} is one image; give a list of images{several}, or use infer")
    kind = type(images)
    if not (hasattr(kind, "__iter__") or hasattr(kind, "__getitem__")) or getattr(images, "ndim", 1) == 0:
        raise InvalidValueError(
            f"images is {shown(images)}; it must be a list of images, or another iterable of them"
        )


def _is_one_image(value: object) -> bool:
    """Returns whether the value is an image in a form that could be mistaken for an iterable of images.

    So are an array or a tensor (H, W), or with a last axis of up to 4 channels, and a tensor (3, H, W).
    """
    pillow_image = getattr(sys.modules.get("PIL.Image"), "Image", ())
    # Not all that can be read: an iterable camera may have a method `read`.
    if isinstance(value, (str, os.PathLike, io.IOBase, Frame, *_BUFFERS, pillow_image)):
        return True
    is_tensor = _is_of("torch", value) and hasattr(value, "shape")
    if not (is_tensor or isinstance(value, np.ndarray)):
        return False
    shape = tuple(cast("npt.NDArray[Any]", value).shape)
    return len(shape) == 2 or (len(shape) == 3 and (shape[2] <= 4 or (is_tensor and shape[0] == 3)))


def in_memory(image: ImageLike) -> ImageLike:
    """Returns the bytes of a file object, a copy of an animation's frame, and any other image unchanged.

    Two threads may not read one file object, and a file object may be closed soon. Pillow gives all frames of an
    animation in one object.

    Raises:
        ImageError: the file object or the frame cannot be read.
    """
    try:
        if getattr(image, "is_animated", False):
            return cast("ImageLike", cast("Any", image).copy())
    except Exception as error:  # Pillow's decoders raise nearly anything
        raise ImageError(f"cannot read the animation's frame: {error}") from error
    if not _is_file(image) or isinstance(image, (np.ndarray, Frame)):
        return image
    return _read(image)[0]


def to_input(image: ImageLike, format: str | None = None) -> Pixels | Frame:
    """Returns the native engine's input: the pixels of `image`, or a camera's frame unchanged.

    Args:
        image: as for `to_pixels`, or a `Frame`.
        format: where given, `image` is an array that holds a frame of this format (`Frame.from_array`).

    Raises:
        ImageError: as for `to_pixels` and `Frame.from_array`.
    """
    if format is None and not isinstance(image, Frame):
        return to_pixels(image)
    return as_frame(image, format)


def timed_input(image: ImageLike, format: str | None = None) -> tuple[Pixels | Frame, float]:
    """Returns `to_input` and the milliseconds that it took, without the import of Pillow."""
    if format is None and is_decoded(image):
        return cast("Pixels", image), 0.0
    if not (isinstance(image, (np.ndarray, Frame)) or _is_of("torch", image)):
        from .decoding import load_formats

        # The format of bytes is found out only by decoding.
        load_formats(Path(image).suffix if isinstance(image, (str, os.PathLike)) else None)
    start = time.perf_counter_ns()
    pixels = to_input(image, format)
    return pixels, (time.perf_counter_ns() - start) / 1e6


def preprocess(image: ImageLike, size: tuple[int, int, int], document: Mapping[str, Any]) -> Pixels:
    """Decodes, resizes and crops an image to what a network sees; the engine does the same by itself.

    Args:
        image: as for `to_pixels`, or a `Frame`.
        size: height, width and channels (1 or 3) of the result. RGB becomes gray as Pillow does it (ITU-R 601-2), gray
            becomes RGB by repetition.
        document: the ``preprocess`` object of a subnet's config (``docs/subnet-file.md``), such as
            ``{"resize": {"mode": "shorter", "size": [256], "filter": "bicubic"}}``.

    Raises:
        ImageError: the image cannot be used, or is too small to be cropped.
        ConfigError: `size` or `document` is unusable.
    """
    return native_preprocess(to_input(image), size, json.dumps(document))


_BUFFERS = (bytes, bytearray, memoryview)


def _is_file(value: object) -> TypeGuard[BinaryFile]:
    return callable(getattr(value, "read", None))


def _read(file: BinaryFile) -> tuple[bytes, str]:
    """Returns the bytes of a file object, and its name for messages."""
    path = getattr(file, "name", None)
    name = f" in {shown(path)}" if isinstance(path, str) else ""
    try:
        if getattr(file, "seekable", lambda: hasattr(file, "seek"))():
            cast("io.BufferedIOBase", file).seek(0)
        pieces: list[bytes] = []
        left = MOST_ENCODED_BYTES + 1
        while left > 0:  # a raw or network stream may give less than what was asked for
            piece: object = file.read(left)
            if isinstance(piece, str):
                raise ImageError(f"the file object{name} is open as text; open it with mode 'rb'")
            if not isinstance(piece, bytes):
                raise ImageError(
                    f"{type_name(file)} is no binary file object: its read() gives {type_name(piece)}, not bytes"
                )
            if not piece:
                return b"".join(pieces), name
            pieces.append(piece)
            left -= len(piece)
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(f"cannot read the file object{name} ({type_name(file)}): {reason(error)}") from error
    raise ImageError(
        f"the file object{name} holds more than {MOST_ENCODED_BYTES:,} bytes, the limit of an image"
    )


def _is_of(library: str, value: object) -> bool:
    """Returns whether the value's class, or a base of it, is of `library`; imports nothing."""
    return any(kind.__module__.partition(".")[0] == library for kind in type(value).__mro__)
