"""The exceptions of `quasar_rt`.

Each kind of error of the Rust core is one class here. A test compares them with the table in `rust/py/src/errors.rs`.
"""

from __future__ import annotations

__all__ = [
    "AccumulatorOverflowError",
    "BusyError",
    "CancelledError",
    "ChecksumError",
    "ClosedError",
    "ConfigError",
    "CorruptOutputError",
    "DeviceBusyError",
    "DeviceError",
    "DeviceFaultError",
    "DeviceTimeoutError",
    "DeviceUnavailableError",
    "DoesNotFitError",
    "FileError",
    "ImageError",
    "InfeasibleError",
    "InvalidValueError",
    "MissingFileError",
    "MissingImageError",
    "NotASubnetError",
    "OutOfMemoryError",
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
]


class QuasarError(Exception):
    """Base class of all errors of this package."""


class FileError(QuasarError, OSError):
    """The operating system refused to read or write a file."""


class MissingFileError(FileError, FileNotFoundError):
    """There is no file of that name."""


class SubnetError(QuasarError, ValueError):
    """A subnet file or the parts of a subnet are invalid. The subclasses name the fault."""


class TruncatedError(SubnetError):
    """The file is shorter than its header states."""


class TooLargeError(SubnetError):
    """A size exceeds the documented limit. Nothing of that size was allocated."""


class NotASubnetError(SubnetError):
    """The bytes are not a ``.qvit`` file."""


class UnsupportedVersionError(SubnetError):
    """This release does not read the file's version."""


class ChecksumError(SubnetError):
    """The digest does not match the contents: the file was damaged or edited."""


class ConfigError(SubnetError):
    """A key of the configuration is missing, unknown or out of its range."""


class SettingsError(QuasarError, ValueError):
    """A settings file (search space, board, hardware configuration) has a key that is missing, unknown or wrong."""


class DoesNotFitError(QuasarError, ValueError):
    """A network does not fit an accelerator's buffers, or an accelerator does not fit its board."""


class TensorError(SubnetError):
    """A tensor is missing, unexpected, or has the wrong dtype, shape or values."""


class AccumulatorOverflowError(SubnetError):
    """A row of weights breaks the bound that keeps every sum within 27 bits."""


class ImageError(QuasarError, ValueError):
    """An image cannot be read, or is of a kind or size that cannot be used."""


class MissingImageError(ImageError, FileNotFoundError):
    """There is no image file of that name."""


class InvalidValueError(QuasarError, ValueError):
    """An argument has an unusable value, dtype or shape."""


class InfeasibleError(QuasarError, ValueError):
    """No network of the space is fast enough for a target; the message names the fastest."""


class DeviceError(QuasarError):
    """A device is unknown, or this machine lacks it."""


class UnsupportedTierError(DeviceError):
    """An instruction set is unknown, or this CPU lacks it."""


class ThreadsError(DeviceError):
    """The worker threads could not be started."""


class OutOfMemoryError(QuasarError, MemoryError):
    """The process cannot have the memory that a subnet needs. Nothing was allocated."""


class DeviceUnavailableError(DeviceError):
    """A device is missing or cannot be used; the message names the remedy."""


class DeviceBusyError(DeviceUnavailableError):
    """Another engine or process uses the accelerator; the message names it. ``Engine(wait=...)`` waits for it."""


class DeviceTimeoutError(DeviceError):
    """An accelerator did not finish a frame in time. It is reset, and later frames are not affected.

    If the message reports that a call of the transport was not done, the device cannot be used any more.
    """


class DeviceFaultError(DeviceError):
    """An accelerator or its transport reported a fault in a frame. It is reset; later frames are not affected."""


class CorruptOutputError(DeviceError):
    """The output that an accelerator wrote for a frame is invalid. It is reset; later frames are not affected."""


class WrongBitstreamError(DeviceError):
    """The subnet was compiled for another accelerator than the one in the FPGA."""


class CancelledError(QuasarError):
    """A call was stopped before its end."""


class BusyError(QuasarError):
    """Too many submitted images are unfinished, and none ended in time."""


class ClosedError(QuasarError):
    """The engine was closed, or Python is ending."""


class UntrainedWarning(UserWarning):
    """A subnet with random weights runs: its speed is meaningful, its answers are not."""
