"""Access to the accelerator through PYNQ: registers and DMA memory of a `pynq.Overlay`.

``Engine(subnet, device="pynq")`` imports this module, and so does PYNQ, for the driver (entry point ``pynq.lib``).
Depends on PYNQ and NumPy.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pynq

from ._native import OwnedFpga
from .errors import DeviceUnavailableError

__all__ = ["Kernel", "Transport", "loading"]

#: Bytes between two blocks of registers, and the IP of each block in the block design.
BLOCK_BYTES = 0x1_0000
BLOCKS = ("fetch", "store", "load", "reset_register")
#: The block that follows them where the configuration has counters.
COUNTERS = "counters"
#: Seconds between two polls: PYNQ cannot wait for the design's interrupt, which goes to the processor directly.
POLL_SECONDS = 1e-4


@contextmanager
def loading(bitstream: Path, wait: float = 0) -> Iterator[None]:
    """Keeps the FPGA from other engines and processes while PYNQ loads a bitstream.

    Waits `wait` seconds for an FPGA that is in use.

    Raises:
        DeviceBusyError: another engine or process uses the FPGA.
        DeviceUnavailableError: PYNQ cannot load the bitstream; has the reason.
    """
    owned = OwnedFpga(wait)
    try:
        yield
    except Exception as error:  # whatever PYNQ and XRT raise
        raise DeviceUnavailableError(f"PYNQ cannot load {bitstream}: {error}") from error
    finally:
        owned.release()


class Kernel(pynq.DefaultIP):  # type: ignore[misc]
    """A kernel that the host starts. PYNQ binds it to its IPs by their VLNV."""

    bindto = [f"xilinx.com:hls:{name}:1.0" for name in ("fetch", "store", "load")]  # noqa: RUF012


class Transport:
    """The driver's way to an accelerator (``rust/accelerator/src/host/transport.rs``), through an overlay.

    Memory is not cached unless `cacheable`. PYNQ synchronises whole buffers, so the driver has a buffer of its own for
    the device's output.

    Args:
        overlay: the loaded overlay.
        cacheable: whether buffers are cached: faster to fill, but each frame then flushes the weights too.

    Raises:
        DeviceUnavailableError: the overlay is another design.
    """

    def __init__(self, overlay: Any, cacheable: bool = False) -> None:
        missing = [name for name in BLOCKS if name not in overlay.ip_dict]
        if missing:
            raise DeviceUnavailableError(
                f"overlay {overlay.bitfile_name} is another design: it has no {', '.join(missing)}"
            )
        self.name = f"pynq:{Path(overlay.bitfile_name).name}"
        """The device's name for messages."""
        self.lock_file = OwnedFpga.lock_file()
        """The file that an engine locks while it has the accelerator, as engines without PYNQ do."""
        self._overlay = overlay
        self._allocation = {"cacheable": cacheable} if cacheable else {}
        self._buffers: list[Any] = []
        kernels = [getattr(overlay, name) for name in BLOCKS[:-1]]
        for name, kernel in zip(BLOCKS, kernels, strict=False):
            if not isinstance(kernel, Kernel):
                raise DeviceUnavailableError(f"overlay {overlay.bitfile_name}: {name} is no kernel of ours")
        # The reset is a GPIO block, whose data register is its first.
        others = [BLOCKS[-1], *(name for name in (COUNTERS,) if name in overlay.ip_dict)]
        windows = [overlay.ip_dict[name] for name in others]
        self._blocks = [kernel.mmio for kernel in kernels] + [
            pynq.MMIO(window["phys_addr"], window["addr_range"], device=overlay.device) for window in windows
        ]

    @classmethod
    def load(cls, bitstream: Path, download: bool = True, wait: float = 0) -> Transport:
        """Loads a bitstream, unless `download` is false because it is loaded already, and opens its accelerator.

        Raises:
            DeviceBusyError, DeviceUnavailableError: as `loading`, which also explains `wait`.
        """
        with loading(bitstream, wait):
            overlay = pynq.Overlay(str(bitstream), download=download)
        return cls(overlay)

    def clocks(self) -> int:
        """Returns the status of the accelerator's clocks, without an access to a register."""
        return int(OwnedFpga.clocks())

    def read(self, register: int) -> int:
        """Returns a register's value."""
        block, offset = self._place(register)
        return int(block.read(offset))

    def write(self, register: int, value: int) -> None:
        """Sets a register."""
        block, offset = self._place(register)
        block.write(offset, value)

    def _place(self, register: int) -> tuple[Any, int]:
        block, offset = divmod(register, BLOCK_BYTES)
        if block >= len(self._blocks):
            raise DeviceUnavailableError(f"{self.name}: the overlay has no block '{COUNTERS}'")
        return self._blocks[block], offset

    def allocate(self, size: int) -> int:
        """Allocates DMA memory as the next buffer; returns its address for the device."""
        buffer = pynq.allocate((size,), dtype="u1", target=self._overlay.device, **self._allocation)
        self._buffers.append(buffer)
        return int(buffer.device_address)

    def copy_in(self, buffer: int, offset: int, data: bytes) -> None:
        """Writes to a buffer."""
        self._buffers[buffer][offset : offset + len(data)] = np.frombuffer(data, np.uint8)

    def copy_out(self, buffer: int, offset: int, size: int) -> bytes:
        """Reads a buffer."""
        return bytes(self._buffers[buffer][offset : offset + size])

    def flush(self, buffer: int, offset: int, size: int) -> None:
        """Makes the host's writes visible to the device."""
        self._buffers[buffer].flush()

    def invalidate(self, buffer: int, offset: int, size: int) -> None:
        """Makes the device's writes visible to the host."""
        self._buffers[buffer].invalidate()

    def wait(self, seconds: float) -> bool:
        """Waits a little; there is no interrupt to wait for."""
        time.sleep(min(seconds, POLL_SECONDS))
        return False
