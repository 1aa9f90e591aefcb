"""Vision Transformers on small FPGA boards: row-wise 4/8-bit networks that run in integers only.

>>> import quasar_rt
>>> quasar_rt.row_pairs([4, 8, 4]).widths
array([4, 8], dtype=uint8)

The path of a frame is at the top: `images` decodes a file or an array, `frame` describes a camera's bytes, `engine`
runs a `subnet` on a `device`, `prediction` and `profile` hold the results, `errors` the exceptions. The rest is
grouped: `rows` (packed weights), `networks`, `build`, `export` and `fitting` (float network to subnet), `train` and
`nas` (over a `space`), `hardware` and `accelerator` (model and compiler), `oracle`, `verify`, `evaluate`, `bench` and
`cli`.

Names are imported on first use, so that ``import quasar_rt`` and the command line start fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .errors import *  # noqa: F403 (the classes of errors.__all__)
from .errors import __all__ as _ERRORS

if TYPE_CHECKING:
    __version__: str
    from .build import random_subnet as random_subnet
    from .device import Device as Device
    from .device import Tier as Tier
    from .device import devices as devices
    from .engine import Engine as Engine
    from .fitting import Fit as Fit
    from .fitting import fit as fit
    from .frame import Frame as Frame
    from .metrics import Metrics as Metrics
    from .metrics import Percentiles as Percentiles
    from .nas import SearchResult as SearchResult
    from .nas import search as search
    from .prediction import Embedding as Embedding
    from .prediction import Prediction as Prediction
    from .prediction import Predictions as Predictions
    from .prediction import Score as Score
    from .prediction import Timings as Timings
    from .profile import AcceleratorProfile as AcceleratorProfile
    from .profile import Profile as Profile
    from .rows import PackedRows as PackedRows
    from .rows import RowPairs as RowPairs
    from .rows import pack_rows as pack_rows
    from .rows import quantize_rows as quantize_rows
    from .rows import row_pairs as row_pairs
    from .rows import unpack_rows as unpack_rows
    from .streaming import Stream as Stream
    from .subnet import Subnet as Subnet

#: The module of each name above.
_HOME = {
    name: module
    for module, names in {
        "build": ["random_subnet"],
        "device": ["Device", "Tier", "devices"],
        "engine": ["Engine"],
        "fitting": ["Fit", "fit"],
        "frame": ["Frame"],
        "metrics": ["Metrics", "Percentiles"],
        "nas": ["SearchResult", "search"],
        "prediction": ["Embedding", "Prediction", "Predictions", "Score", "Timings"],
        "profile": ["AcceleratorProfile", "Profile"],
        "rows": ["PackedRows", "RowPairs", "pack_rows", "quantize_rows", "row_pairs", "unpack_rows"],
        "streaming": ["Stream"],
        "subnet": ["Subnet"],
    }.items()
    for name in names
}

__all__ = ["__version__", *_ERRORS, *_HOME]


def __getattr__(name: str) -> object:
    if name in _HOME:
        value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    elif name == "__version__":
        from importlib.metadata import version

        value = version("quasar-rt")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
