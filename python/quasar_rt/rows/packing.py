"""Row-wise mixed precision: each row of a weight matrix has 4 or 8 bits and a scale of its own.

The packed form is that of the subnet file (``docs/subnet-file.md``) and of the integer model's last section. Rust does
the work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from .._native import pack_rows as native_pack_rows
from .._native import quantize_rows as native_quantize_rows
from .._native import row_pairs as native_row_pairs
from .._native import unpack_rows as native_unpack_rows
from ..errors import InvalidValueError

__all__ = [
    "PackedRows",
    "RowPairs",
    "pack_rows",
    "quantize_rows",
    "row_pairs",
    "unpack_rows",
]


@dataclass(frozen=True, eq=False)
class PackedRows:
    """A quantized matrix of R rows and K columns."""

    data: npt.NDArray[np.uint8]
    """uint8 [sum of row bytes]: a 4-bit row is ceil(K/2) bytes, low nibble first; an 8-bit row K bytes."""
    bits: npt.NDArray[np.uint8]
    """uint8 [R]: 4 or 8."""
    scales: npt.NDArray[np.float32]
    """float32 [R]: ``weight = scale * code``."""
    columns: int
    """K."""

    def unpack(self) -> npt.NDArray[np.int8]:
        """Returns the codes, int8 [R, K]: in [-7, 7] for a 4-bit row, in [-127, 127] for an 8-bit row."""
        return unpack_rows(self.data, self.bits, self.columns)

    def dequantize(self) -> npt.NDArray[np.float32]:
        """Returns the weights that the codes stand for, float32 [R, K]."""
        return self.unpack().astype(np.float32) * self.scales[:, np.newaxis]

    def __repr__(self) -> str:
        eight = int(np.count_nonzero(self.bits == 8))
        widths = f"{len(self.bits) - eight} of 4 bits, {eight} of 8 bits"
        return f"<PackedRows {len(self.bits)}x{self.columns}: {widths}, {self.data.size} bytes>"


def quantize_rows(
    weights: npt.NDArray[np.float32] | npt.NDArray[np.float64],
    bits: int | npt.ArrayLike,
    scales: npt.ArrayLike | None = None,
    method: Literal["mse", "minmax"] = "mse",
) -> PackedRows:
    """Quantizes each row of a float matrix to 4 or 8 bits, symmetric around zero, and packs the codes.

    Args:
        weights: float32 or float64 [R, K]; float64 is rounded to float32 first.
        bits: 4 or 8 for all rows, or one width for each row, [R].
        scales: [R], positive; `method` chooses them where None. A code is ``weight / scale``, rounded half to even
            and clamped.
        method: ``"minmax"`` maps the row's largest magnitude to the largest code; ``"mse"`` searches the scale of a
            4-bit row for the least squared error, which clips outliers where that reduces it. An all-zero row has
            the scale 1.

    Raises:
        quasar_rt.InvalidValueError: a weight is NaN, infinite or beyond float32, `bits` has another value or length, a
            scale is not positive and finite, or `weights` is not a float matrix.

    Example:
        >>> import numpy as np
        >>> rows = quantize_rows(np.array([[0.5, -1.0, 0.25], [0.1, 0.0, -0.7]]), bits=[8, 4], method="minmax")
        >>> rows.unpack()
        array([[  64, -127,   32],
               [   1,    0,   -7]], dtype=int8)
        >>> rows
        <PackedRows 2x3: 1 of 4 bits, 1 of 8 bits, 5 bytes>
    """
    matrix: npt.NDArray[Any] = np.asarray(weights)
    if matrix.dtype not in (np.float32, np.float64) or matrix.ndim != 2:
        raise InvalidValueError(
            f"weights must be float32 or float64, (rows, columns), not {_describe(matrix)}"
        )
    with np.errstate(over="ignore"):
        narrow: npt.NDArray[np.float32] = np.ascontiguousarray(matrix, dtype=np.float32)
    row_bits = _row_bits(bits, len(matrix))
    given: npt.NDArray[np.float32] | None = None
    if scales is not None:
        given = np.asarray(scales, dtype=np.float32)
        if given.ndim != 1:
            raise InvalidValueError(f"scales must have shape (rows,), not {_describe(given)}")
        given = np.ascontiguousarray(given)
    data, row_scales = native_quantize_rows(narrow, row_bits, given, method)
    return PackedRows(data, row_bits, row_scales, matrix.shape[1])


def pack_rows(codes: npt.NDArray[np.int8], bits: int | npt.ArrayLike) -> npt.NDArray[np.uint8]:
    """Packs int8 codes [R, K] into bytes, each row with its width; `unpack_rows` is the inverse.

    Raises:
        quasar_rt.InvalidValueError: a code is out of its row's range ([-7, 7] or [-127, 127]), or `bits` is unusable.
    """
    codes = _typed(codes, np.int8, "codes", 2)
    return native_pack_rows(codes, _row_bits(bits, len(codes)))


def unpack_rows(data: npt.NDArray[np.uint8], bits: npt.ArrayLike, columns: int) -> npt.NDArray[np.int8]:
    """Unpacks bytes into int8 codes [R, `columns`]; `bits` is [R].

    Raises:
        quasar_rt.InvalidValueError: the length of `data` does not fit, a code is out of range or an unused nibble
            is not 0.
    """
    if not 0 <= columns < 1 << 31:
        raise InvalidValueError(f"columns is {columns}; it must be within [0, 2^31)")
    return native_unpack_rows(_typed(data, np.uint8, "data", 1), _row_bits(bits, None), columns)


class RowPairs(NamedTuple):
    """The order in which a device computes rows: pairs of equal width, 4-bit pairs first."""

    widths: npt.NDArray[np.uint8]
    """uint8 [P]: 4 (two 4-bit rows) or 8 (the two nibbles of one 8-bit row)."""
    addresses: npt.NDArray[np.int32]
    """int32 [P, 2]: the logical row that each lane writes; -1 for an empty lane. An 8-bit pair has its row twice."""


def row_pairs(bits: npt.ArrayLike) -> RowPairs:
    """Pairs the rows of a matrix with the widths `bits`, [R].

    Raises:
        quasar_rt.InvalidValueError: a width is not 4 or 8.

    Example:
        >>> widths, addresses = row_pairs([8, 4, 4, 8, 4])
        >>> widths.tolist()
        [4, 4, 8, 8]
        >>> addresses.tolist()
        [[1, 2], [4, -1], [0, 0], [3, 3]]
    """
    return RowPairs(*native_row_pairs(_row_bits(bits, None)))


def _describe(array: npt.NDArray[Any]) -> str:
    return f"{array.dtype} of shape {array.shape}"


def _typed(
    array: npt.NDArray[Any], dtype: type[np.generic], what: str, dimensions: int | None = None
) -> npt.NDArray[Any]:
    """Returns `array`, C-contiguous. Another dtype or number of dimensions is an error: nothing is converted."""
    array = np.asarray(array)
    if array.dtype != dtype or (dimensions is not None and array.ndim != dimensions):
        shape = {None: "", 1: " of shape (bytes,)", 2: " of shape (rows, columns)"}[dimensions]
        raise InvalidValueError(f"{what} must be {np.dtype(dtype)}{shape}, not {_describe(array)}")
    return np.ascontiguousarray(array).reshape(array.shape)


def _row_bits(bits: int | npt.ArrayLike, rows: int | None) -> npt.NDArray[np.uint8]:
    """Returns `bits` as uint8 [R]. One number stands for all rows where `rows` gives their number."""
    widths = np.asarray(bits)
    if widths.ndim == 0 and rows is not None:
        widths = np.full(rows, widths)
    if widths.ndim != 1:
        raise InvalidValueError(f"bits must have shape (rows,), not {_describe(widths)}")
    wrong = np.flatnonzero((widths != 4) & (widths != 8))
    if wrong.size:
        raise InvalidValueError(f"row {wrong[0]} has bits {widths[wrong[0]]}; a row is 4- or 8-bit")
    return widths.astype(np.uint8)
