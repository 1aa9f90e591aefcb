"""Raw camera frames: bytes, sizes and a format, borrowed from the camera's driver or library.

Rust reads the pixels in place. ``docs/integer-model.md`` defines the formats. Depends on NumPy and `arrays`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Union, cast

import numpy as np

from ._native import check_frame
from .arguments import shown
from .arrays import contiguous
from .errors import ImageError

if TYPE_CHECKING:
    from mmap import mmap

    import numpy.typing as npt

__all__ = ["FORMATS", "MATRICES", "Frame", "as_frame", "check_format"]

Bytes = Union[bytes, bytearray, memoryview, "mmap", "npt.NDArray[np.uint8]"]

FORMATS = ("gray", "rgb", "bgr", "nv12", "yuyv")
"""Formats of a frame's bytes."""

MATRICES = ("bt601", "bt709")
"""Conversions from Y'CbCr to RGB."""

#: The formats by their names in V4L2 (``CAP_PROP_FOURCC``) and by their own in capitals.
_V4L2 = {
    "GREY": "gray",
    "RGB3": "rgb",
    "BGR3": "bgr",
    "YUY2": "yuyv",
    **{name.upper(): name for name in FORMATS},
}

#: Bytes of a pixel in the first plane.
_BYTES = {"gray": 1, "rgb": 3, "bgr": 3, "nv12": 1, "yuyv": 2}


class Frame:
    """A frame in a camera's format, which every method of `Engine` takes for an image.

    The memory is borrowed, not copied: it must not change until the call that got the frame has returned (of
    `Engine.stream`: until the iterable is asked for its next frame).

    Args:
        data: the bytes: ``bytes``, a ``memoryview``, an ``mmap`` or a contiguous ``uint8`` array of any shape.
        width: pixels of a row.
        height: rows.
        format: as V4L2 and OpenCV name them,

            - ``"rgb"``, ``"bgr"``: three bytes a pixel; ``"gray"``: one;
            - ``"nv12"``: a plane of Y', then one of half the height with Cb, Cr for each two by two pixels; even sides;
            - ``"yuyv"``: Y', Cb, Y', Cr for each two pixels of a row; even widths.
        stride: bytes from one row to the next, in both planes of NV12 (V4L2's ``bytesperline``); without gaps if None.
        chroma: NV12's second plane, where it does not follow the first one's `height` rows at once.
        matrix: ``"bt601"`` (webcams; what ``cv2.cvtColor`` does) or ``"bt709"`` (HD video), both of limited range.

    Raises:
        quasar_rt.ImageError: there is no such format or matrix, a size is no whole number from 1 on, or `data` gives no
            bytes or does not hold the rows. That an attribute was overwritten with a wrong value is found when the
            frame is used.

    Example:
        >>> frame = Frame(bytes(32 * 8), width=28, height=8, format="gray", stride=32)
        >>> frame
        <Frame 28x8 gray, 32 bytes a row>
    """

    def __init__(
        self,
        data: Bytes,
        width: int,
        height: int,
        format: str,
        *,
        stride: int | None = None,
        chroma: Bytes | None = None,
        matrix: str = "bt601",
    ) -> None:
        _known("format", format, FORMATS)
        _known("matrix", matrix, MATRICES)
        self.format = format
        """One of `FORMATS`."""
        self.matrix = matrix
        """One of `MATRICES`."""
        self.width = _size("width", width)
        """Pixels of a row."""
        self.height = _size("height", height)
        """Rows."""
        self.stride = _BYTES[format] * self.width if stride is None else _size("stride", stride)
        """Bytes from one row to the next."""
        self.data = _bytes(data, "data")
        """uint8 [bytes]: the first plane, or all of them."""
        self.chroma = None if chroma is None else _bytes(chroma, "chroma")
        """uint8 [bytes], or None."""
        check_frame(self)

    @classmethod
    def from_array(cls, array: npt.NDArray[np.uint8], format: str, *, matrix: str = "bt601") -> Frame:
        """Makes a frame of an array of OpenCV's shapes; its rows may be apart, as those of a crop are.

        Args:
            array: uint8; (height, width) for ``"gray"``, (height, width, 3) for ``"rgb"`` and ``"bgr"``,
                (height, width, 2) for ``"yuyv"``, (height * 3 / 2, width) for ``"nv12"``.
            format: one of `FORMATS`.
            matrix: as for the class.

        Raises:
            quasar_rt.ImageError: another shape or dtype.
        """
        _known("format", format, FORMATS)
        if not isinstance(array, np.ndarray) or array.dtype != np.uint8:
            what = f"of {array.dtype}" if isinstance(array, np.ndarray) else f"not {type(array).__name__}"
            raise ImageError(f"a frame of format {format!r} is a uint8 array, {what}")
        planes = {"gray": "HxW", "nv12": "(H*3/2)xW", "yuyv": "HxWx2"}.get(format, "HxWx3")
        tail = (_BYTES[format],) if format not in ("gray", "nv12") else ()
        if array.ndim != 2 + len(tail) or array.shape[2:] != tail or not array.size:
            shape = "x".join(str(size) for size in array.shape)
            raise ImageError(f"a frame of format {format!r} is {planes}, not {shape}")
        rows, width = array.shape[:2]
        if format == "nv12" and rows % 3:
            raise ImageError(
                f"a frame of format 'nv12' has 3/2 as many rows as its picture, and {rows} is no such number"
            )
        size = _BYTES[format]
        inside = (size, 1) if tail else (1,)
        if array.strides[1:] != inside or array.strides[0] < width * size:  # pixels apart, or upside down
            array = contiguous(array, "array")
        stride = array.strides[0] if rows > 1 else width * size
        span = (rows - 1) * stride + width * size
        flat = np.lib.stride_tricks.as_strided(array, (span,), (1,), writeable=False)
        height = rows * 2 // 3 if format == "nv12" else rows
        return cls(flat, width, height, format, stride=stride, matrix=matrix)

    def __repr__(self) -> str:
        return f"<Frame {self.width}x{self.height} {self.format}, {self.stride} bytes a row>"


def as_frame(image: Any, format: str | None) -> Frame:
    """Returns a frame unchanged, and an array of `format` as a frame.

    Raises:
        ImageError: the frame is of another format than `format`; as for `Frame.from_array`.
    """
    if not isinstance(image, Frame):
        return Frame.from_array(image, cast("str", format))
    if format is not None and format != image.format:
        raise ImageError(
            f"the frame is of format {shown(image.format)}, not {shown(format)}; leave `format` out"
        )
    return image


def check_format(name: object) -> None:
    """Raises `ImageError` if there is no such format of frames."""
    _known("format", name, FORMATS)


def _known(what: str, name: object, names: tuple[str, ...]) -> None:
    if name in names:
        return
    meant = _V4L2.get(name.upper()) if isinstance(name, str) and what == "format" else None
    hint = "" if meant is None else f"; it is called {meant!r} here"
    raise ImageError(f"there is no {what} {shown(name)} of frames; there are {', '.join(names)}{hint}")


def _size(what: str, value: object) -> int:
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool) and 0 < value < 1 << 31:
        return int(value)
    raise ImageError(f"the frame's {what} is {shown(value)}; it must be a whole number from 1 to 2147483647")


def _bytes(data: Any, what: str) -> npt.NDArray[np.uint8]:
    if isinstance(data, np.ndarray):
        if data.dtype != np.uint8 or not data.flags.c_contiguous:
            kind = data.dtype if data.dtype != np.uint8 else "not contiguous"
            raise ImageError(
                f"the frame's {what} must be contiguous bytes (uint8), but the array is {kind}; "
                "Frame.from_array takes arrays whose rows are apart"
            )
        return data.reshape(-1)
    try:
        return np.frombuffer(data, np.uint8)
    except (TypeError, ValueError, BufferError) as error:
        raise ImageError(f"the frame's {what} gives no bytes: {error}") from error
