"""Everything that `quasar_rt` raises of its own.

Each kind of error of the Rust core is one class here (`rust/py/src/errors.rs` has the table, and a test walks it).
Depends on nothing.
"""

from __future__ import annotations

__all__ = [
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
]


class QuasarError(Exception):
    """The base of all errors of this package."""


class FileError(QuasarError, OSError):
    """The operating system refused to read or write a file."""


class SubnetError(QuasarError, ValueError):
    """A subnet file, or the parts of a subnet, are not sound. The subclasses say in which way."""


class TruncatedError(SubnetError):
    """The file ends before what its header promises."""


class TooLargeError(SubnetError):
    """Something is larger than the documented limit; nothing was allocated for it."""


class NotASubnetError(SubnetError):
    """The bytes are no ``.qvit`` file."""


class UnsupportedVersionError(SubnetError):
    """The file has a version that this release does not read."""


class ChecksumError(SubnetError):
    """The digest does not fit the contents: the file was damaged or edited."""


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


class DeviceUnavailableError(DeviceError):
    """A device is not there, or is not to be had; the message says what to do."""


class DeviceTimeoutError(DeviceError):
    """An accelerator did not do a frame's work in time. It is reset; later frames are not concerned."""


class DeviceFaultError(DeviceError):
    """An accelerator, or the way to it, reported a fault in a frame. It is reset; later frames are not concerned."""


class CorruptOutputError(DeviceError):
    """What an accelerator left in memory for a frame is not sound. It is reset; later frames are not concerned."""


class WrongBitstreamError(DeviceError):
    """The accelerator in the FPGA is not the one that the subnet was compiled for."""


class CancelledError(QuasarError):
    """A call was stopped before its end."""


class ClosedError(QuasarError):
    """The engine was closed."""


class UntrainedWarning(UserWarning):
    """A subnet with random weights is about to be run: good for timing, meaningless as a classifier."""
