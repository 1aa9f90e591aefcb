"""Vision Transformers on small FPGA boards: row-wise 4/8-bit networks that run in integers only.

>>> import quasar_rt
>>> quasar_rt.row_pairs([4, 8, 4]).widths
array([4, 8], dtype=uint8)

The path of a frame, and the modules that it meets: `images` (a file or array becomes pixels) or `frame` (a camera's
bytes), `engine` (pixels become logits, in Rust), `prediction` (what the logits say). `subnet` reads and writes
networks, `rows` has the packed weight format, `device` says what this machine offers, and `errors` what can go wrong.

Names are imported when they are first used, so that ``import quasar_rt`` and the command line start fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .build import random_subnet as random_subnet
    from .device import Device as Device
    from .device import Tier as Tier
    from .device import devices as devices
    from .engine import Engine as Engine
    from .errors import AccumulatorOverflowError as AccumulatorOverflowError
    from .errors import CancelledError as CancelledError
    from .errors import ChecksumError as ChecksumError
    from .errors import ClosedError as ClosedError
    from .errors import ConfigError as ConfigError
    from .errors import CorruptOutputError as CorruptOutputError
    from .errors import DeviceError as DeviceError
    from .errors import DeviceFaultError as DeviceFaultError
    from .errors import DeviceTimeoutError as DeviceTimeoutError
    from .errors import DeviceUnavailableError as DeviceUnavailableError
    from .errors import DoesNotFitError as DoesNotFitError
    from .errors import FileError as FileError
    from .errors import ImageError as ImageError
    from .errors import InfeasibleError as InfeasibleError
    from .errors import InvalidValueError as InvalidValueError
    from .errors import NotASubnetError as NotASubnetError
    from .errors import QuasarError as QuasarError
    from .errors import SettingsError as SettingsError
    from .errors import SubnetError as SubnetError
    from .errors import TensorError as TensorError
    from .errors import ThreadsError as ThreadsError
    from .errors import TooLargeError as TooLargeError
    from .errors import TruncatedError as TruncatedError
    from .errors import UnsupportedTierError as UnsupportedTierError
    from .errors import UnsupportedVersionError as UnsupportedVersionError
    from .errors import UntrainedWarning as UntrainedWarning
    from .errors import WrongBitstreamError as WrongBitstreamError
    from .frame import Frame as Frame
    from .nas import SearchResult as SearchResult
    from .nas import search as search
    from .prediction import Prediction as Prediction
    from .prediction import Score as Score
    from .prediction import Timings as Timings
    from .profile import Profile as Profile
    from .rows import PackedRows as PackedRows
    from .rows import RowPairs as RowPairs
    from .rows import pack_rows as pack_rows
    from .rows import quantize_rows as quantize_rows
    from .rows import row_pairs as row_pairs
    from .rows import unpack_rows as unpack_rows
    from .subnet import Subnet as Subnet

_MODULES = {
    "build": ["random_subnet"],
    "device": ["Device", "Tier", "devices"],
    "engine": ["Engine"],
    "errors": [
        "AccumulatorOverflowError",
        "CancelledError",
        "ChecksumError",
        "ClosedError",
        "ConfigError",
        "CorruptOutputError",
        "DeviceError",
        "DeviceFaultError",
        "DeviceTimeoutError",
        "DeviceUnavailableError",
        "DoesNotFitError",
        "FileError",
        "ImageError",
        "InfeasibleError",
        "InvalidValueError",
        "NotASubnetError",
        "QuasarError",
        "SettingsError",
        "SubnetError",
        "TensorError",
        "ThreadsError",
        "TooLargeError",
        "TruncatedError",
        "UnsupportedTierError",
        "UnsupportedVersionError",
        "UntrainedWarning",
        "WrongBitstreamError",
    ],
    "frame": ["Frame"],
    "nas": ["SearchResult", "search"],
    "prediction": ["Prediction", "Score", "Timings"],
    "profile": ["Profile"],
    "rows": [
        "PackedRows",
        "RowPairs",
        "pack_rows",
        "quantize_rows",
        "row_pairs",
        "unpack_rows",
    ],
    "subnet": ["Subnet"],
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = ["__version__", *sorted(_HOME)]


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
    return sorted({*globals(), *__all__})
