"""Stage 2 of a frame: decodes anything that holds a picture to ``uint8`` pixels.

Python only decodes, with Pillow; Rust does the rest. Depends on NumPy and the native module. Pillow is imported only
for encoded images and its own, because its import is slower than all of this package's. PyTorch tensors are accepted
without an import of PyTorch.
"""

from __future__ import annotations

import io
import json
import os
import re
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    BinaryIO,
    Protocol,
    TypeAlias,
    TypeGuard,
    Union,
    cast,
    runtime_checkable,
)

import numpy as np

from ._native import preprocess as native_preprocess
from .arguments import shown
from .errors import ImageError
from .files import open_regular, reason
from .frame import Frame, contiguous

if TYPE_CHECKING:
    import numpy.typing as npt
    from PIL import Image

__all__ = [
    "BinaryFile",
    "ImageLike",
    "Pixels",
    "Tensor",
    "import_decoder",
    "in_memory",
    "is_one_image",
    "preprocess",
    "to_input",
    "to_pixels",
]

Pixels: TypeAlias = "npt.NDArray[np.uint8]"
"""C-contiguous ``uint8`` of shape (height, width), one channel (gray) or three (RGB)."""


@runtime_checkable
class Tensor(Protocol):
    """The methods of a ``torch.Tensor`` that are used."""

    def detach(self) -> Any:
        """Returns the tensor without its graph."""

    def cpu(self) -> Any:
        """Returns the tensor in host memory."""


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

# Modes whose values have no agreed meaning in 8 bits: guessing a range would classify another picture.
_WIDE_MODES = ("I", "F")


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
        return _from_array(image)
    if isinstance(image, (str, os.PathLike)):
        return _from_file(Path(image))
    if isinstance(image, _BUFFERS):
        return _from_bytes(image)
    if _is_of("PIL", image):
        return _from_pillow(cast("Image.Image", image), "the image")
    if _is_of("torch", image) and isinstance(image, Tensor):
        return _from_tensor(image)
    if isinstance(image, Frame):
        raise ImageError("a Frame is no decoded image; give it to an Engine or to preprocess")
    if _is_file(image):
        return _from_bytes(*_read(image))
    raise ImageError(
        f"cannot use {_type_name(image)} as an image; give a path, an encoded image (bytes or a binary file object), "
        "a Pillow image, a uint8 NumPy array (HxW or HxWx3) or a uint8 PyTorch tensor"
    )


def is_one_image(value: object) -> bool:
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
    """Reads a file object and returns its bytes; returns any other image unchanged.

    Two threads may not read one file object, and a file object may be closed soon.

    Raises:
        ImageError: the file object cannot be read.
    """
    if not _is_file(image) or isinstance(image, (np.ndarray, Frame)):
        return image
    return _read(image)[0]


def import_decoder(image: ImageLike) -> None:
    """Imports what decodes `image`, for measuring the time of `to_input` without it; nothing for arrays and frames."""
    if isinstance(image, (np.ndarray, Frame)) or _is_of("torch", image):
        return
    from PIL import Image, ImageOps

    assert ImageOps
    Image.preinit()
    # Bytes of another format than the common ones are found out only by decoding.
    if isinstance(image, (str, os.PathLike)) and Path(image).suffix.lower() not in Image.EXTENSION:
        Image.init()


def to_input(image: ImageLike, format: str | None = None) -> Pixels | Frame:
    """Returns the native engine's input: the pixels of `image`, or a camera's frame unchanged.

    Args:
        image: as for `to_pixels`, or a `Frame`.
        format: where given, `image` is an array that holds a frame of this format (`Frame.from_array`).

    Raises:
        ImageError: as for `to_pixels` and `Frame.from_array`.
    """
    if isinstance(image, Frame):
        if format is not None and format != image.format:
            raise ImageError(
                f"the frame is of format {shown(image.format)}, not {shown(format)}; leave `format` out"
            )
        return image
    if format is not None:
        return Frame.from_array(cast("npt.NDArray[np.uint8]", image), format)
    return to_pixels(image)


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
_UINT8 = np.dtype(np.uint8)
#: The first bytes of a JPEG and of a PNG file.
_ENCODED = (b"\xff\xd8\xff", b"\x89PN")


def _from_file(path: Path) -> Pixels:
    from PIL import UnidentifiedImageError

    what = shown(str(path))
    try:
        return _decode(path, what)
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError(f"there is no file {what}") from None
    except IsADirectoryError:
        raise ImageError(f"{what} is a directory; give the image files in it") from None
    except UnidentifiedImageError:
        raise ImageError(f"{what} is not an image in a format that Pillow knows") from None
    except UnicodeEncodeError:
        raise ImageError(f"cannot read the image {what}: its name is not UTF-8") from None
    # A damaged file makes Pillow's decoders raise nearly anything (OSError, SyntaxError, struct.error, ...).
    except Exception as error:
        raise ImageError(f"cannot read the image {what}: {reason(error)}") from error


def _from_bytes(data: bytes | bytearray | memoryview, name: str = "") -> Pixels:
    from PIL import UnidentifiedImageError

    size = data.nbytes if isinstance(data, memoryview) else len(data)
    what = f"the encoded image{name} ({size:,} bytes)"
    if size == 0:
        raise ImageError(f"{what} is empty")
    try:
        strided = isinstance(data, memoryview) and not data.c_contiguous
        return _decode(io.BytesIO(bytes(data) if strided else data), what)
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


def _decode(source: Path | io.BytesIO, what: str) -> Pixels:
    from PIL import Image

    name = os.fspath(source) if isinstance(source, Path) else ""
    try:
        with open_regular(source) if isinstance(source, Path) else source as file, _open(file, name) as image:
            if image.format == "EPS":
                raise ImageError(f"{what} is PostScript, a program; convert it to PNG or JPEG")
            _check_size(image, what)
            image.load()
            _check_size(image, what)  # an icon may hold a larger picture than it states
            return _from_pillow(image, what)
    except Image.DecompressionBombError as error:  # of a plugin's own check, such as of a picture in an icon
        found = re.search(r"\d+", str(error))
        raise ImageError(_too_large(what, f"{int(found[0]):,} pixels" if found else "a picture")) from None


def _open(file: BinaryIO, name: str) -> Image.Image:
    """Opens an image as `Image.open` does, but without its check of the size.

    That check warns by way of `warnings`, whose filters belong to the whole process.
    """
    from PIL import Image

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
                if accepted and not isinstance(accepted, str):  # a text says why this Pillow cannot
                    return factory(file, name)
            except (SyntaxError, IndexError, TypeError, struct.error):  # of another format
                continue
    file.seek(0)
    return Image.open(file)  # warns of a format that this Pillow was built without


def _check_size(image: Image.Image, what: str) -> None:
    from PIL import Image

    if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
        raise ImageError(_too_large(what, f"{image.width} x {image.height} pixels"))


def _too_large(what: str, found: str) -> str:
    from PIL import Image

    return (
        f"{what} has {found}, which may be an attack: more than {Image.MAX_IMAGE_PIXELS:,} pixels; "
        "if it is not, raise PIL.Image.MAX_IMAGE_PIXELS"
    )


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
                    f"{_type_name(file)} is no binary file object: its read() gives {_type_name(piece)}, not bytes"
                )
            if not piece:
                return b"".join(pieces), name
            pieces.append(piece)
            left -= len(piece)
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(
            f"cannot read the file object{name} ({_type_name(file)}): {reason(error)}"
        ) from error
    raise ImageError(
        f"the file object{name} holds more than {MOST_ENCODED_BYTES:,} bytes, the limit of an image"
    )


def _upright(image: Image.Image) -> Image.Image:
    """Returns the image turned as its EXIF data say."""
    from PIL import ImageOps

    image.load()
    if hasattr(image, "tag_v2"):  # a TIFF: loading has turned it, and Pillow before 10.1 would do it again
        return image
    return ImageOps.exif_transpose(image) or image


def _from_pillow(image: Image.Image, what: str) -> Pixels:
    from PIL import Image

    if not isinstance(image, Image.Image):
        raise ImageError(f"cannot use {_type_name(image)} as an image; give the Pillow image itself")
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


def _from_array(array: npt.NDArray[Any], what: str = "array") -> Pixels:
    array = np.asarray(array)  # a subclass such as numpy.matrix would keep to its own shapes
    pixels = array[:, :, np.newaxis] if array.ndim == 2 else array
    one_row = array.ndim in (2, 3) and len(array) == 1
    if one_row and array.dtype == _UINT8 and array[0, :3].tobytes() in _ENCODED:
        raise ImageError(
            f"the {what} of one row is no picture but an encoded one, as a camera's MJPEG; give its bytes: "
            + ("tensor.numpy().tobytes()" if what == "tensor" else "array.tobytes()")
        )
    if array.dtype != _UINT8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or array.size == 0:
        raise ImageError(_array_problem(array, what))
    return contiguous(pixels, what)


def _array_problem(array: npt.NDArray[Any], what: str) -> str:
    """Returns why an array is no image, and what to do."""
    shape = "x".join(str(size) for size in array.shape) or "scalar"
    if array.dtype != np.uint8:
        return f"the {what} has dtype {array.dtype}; pixels are uint8 in [0, 255]. " + _cast_hint(
            array.dtype, "to(torch.uint8)" if what == "tensor" else "astype('uint8')"
        )
    if array.ndim not in (2, 3):
        return (
            f"the {what} has shape {shape}; one image is HxW, HxWx1 or HxWx3"
            + (" (give several with infer_batch(list(images)))" if array.ndim == 4 else "")
            + ("; if it is an encoded image, give its bytes: array.tobytes()" if array.ndim == 1 else "")
        )
    if array.ndim == 3 and array.shape[2] not in (1, 3):
        hint = ""
        if array.shape[2] == 4:
            hint = "; drop the alpha channel, e.g. image[..., :3]"
        elif array.shape[2] == 2:
            hint = "; of a camera's YUYV, give format='yuyv'; of gray with alpha, give image[..., 0]"
        elif array.shape[0] in (1, 3):
            hint = "; the channels come last: image.transpose(1, 2, 0)"
        return f"the {what} has shape {shape}; one image is HxW, HxWx1 or HxWx3{hint}"
    return f"the {what} is empty (shape {shape})"


def _is_of(library: str, value: object) -> bool:
    """Returns whether the value's class, or a base of it, is of `library`; imports nothing."""
    return any(kind.__module__.partition(".")[0] == library for kind in type(value).__mro__)


def _from_tensor(tensor: Tensor) -> Pixels:
    try:
        array = cast("npt.NDArray[Any]", tensor.detach().cpu().numpy())
    except (RuntimeError, TypeError) as error:
        raise ImageError(f"cannot read the tensor: {error}. Give a dense uint8 tensor") from error
    if array.ndim == 3 and array.shape[0] in (1, 3):
        array = array.transpose(1, 2, 0)
    return _from_array(array, "tensor")


def _cast_hint(dtype: np.dtype[Any], cast: str) -> str:
    if dtype.kind == "f":
        return f"For values in [0, 1]: (image * 255).round().{cast}; undo any mean and deviation first."
    if dtype == np.bool_:
        return f"For a mask: image.{cast} * 255."
    if dtype == np.uint16:
        return f"For full-range values: (image >> 8).{cast}; if all are in [0, 255]: image.{cast}."
    if dtype.kind in "iu":
        return f"If all values are in [0, 255]: image.{cast}."
    return f"Convert it with {cast}."


def _type_name(value: object) -> str:
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
