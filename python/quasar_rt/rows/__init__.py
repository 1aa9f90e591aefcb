"""Row-wise mixed precision: each row of a weight matrix has 4 or 8 bits and a scale of its own.

`packing` quantizes and packs rows; `bits` chooses which rows get 8 bits.
"""

from .packing import PackedRows as PackedRows
from .packing import RowPairs as RowPairs
from .packing import pack_rows as pack_rows
from .packing import quantize_rows as quantize_rows
from .packing import row_pairs as row_pairs
from .packing import unpack_rows as unpack_rows
