"""Checks that NumPy arrays and PyTorch tensors are pixels. Depends on NumPy, without an import of PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast, runtime_checkable

import numpy as np

from .errors import ImageError

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Pixels", "Tensor", "contiguous", "from_array", "from_tensor"]

Pixels: TypeAlias = "npt.NDArray[np.uint8]"
"""C-contiguous ``uint8`` of shape (height, width), one channel (gray) or three (RGB)."""


@runtime_checkable
class Tensor(Protocol):
    """The methods of a ``torch.Tensor`` that are used."""

    def detach(self) -> Any:
        """Returns the tensor without its graph."""

    def cpu(self) -> Any:
        """Returns the tensor in host memory."""


#: Largest copy of an array that repeats its memory, as numpy.broadcast_to makes it: few bytes may stand for any size.
MOST_REPEATED_BYTES = 1 << 29

_UINT8 = np.dtype(np.uint8)
#: The first bytes of a JPEG and of a PNG file.
_ENCODED = (b"\xff\xd8\xff", b"\x89PN")


def from_array(array: npt.NDArray[Any], what: str = "array") -> Pixels:
    """Returns an array as pixels; raises `ImageError` if it is no image."""
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


def from_tensor(tensor: Tensor) -> Pixels:
    """Returns a tensor as pixels; raises `ImageError` if it is no image."""
    try:
        array = cast("npt.NDArray[Any]", tensor.detach().cpu().numpy())
    except (RuntimeError, TypeError) as error:
        raise ImageError(f"cannot read the tensor: {error}. Give a dense uint8 tensor") from error
    if array.ndim == 3 and array.shape[0] in (1, 3):
        array = array.transpose(1, 2, 0)
    return from_array(array, "tensor")


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


def contiguous(array: npt.NDArray[np.uint8], what: str) -> npt.NDArray[np.uint8]:
    """Returns the array without gaps, a copy if need be.

    Raises:
        ImageError: the copy would be too large.
    """
    if array.flags.c_contiguous:
        return array
    span = 1 + sum((size - 1) * abs(stride) for size, stride in zip(array.shape, array.strides, strict=True))
    try:
        if array.nbytes <= max(span, MOST_REPEATED_BYTES):
            return np.ascontiguousarray(array)
        problem = f"repeats its memory, and at most {MOST_REPEATED_BYTES:,} bytes are copied"
    except MemoryError:
        problem = "is not contiguous, and there is no memory for a copy"
    shape = "x".join(str(size) for size in array.shape)
    raise ImageError(
        f"the {what} of shape {shape} ({array.nbytes:,} bytes) {problem}; scale it down first, or crop it"
    )
