"""The accelerator as an overlay of PYNQ. Depends on PYNQ, `pynq` (the transport) and `engine`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pynq

from ..device import read_bitstream
from ..engine import Engine
from ..pynq import Transport, loading
from ..subnet import Subnet
from .files import bitstream

__all__ = ["QuasarOverlay"]


class QuasarOverlay(pynq.Overlay):  # type: ignore[misc]
    """The accelerator as an overlay of PYNQ, with its driver bound.

    ``overlay.fetch``, ``overlay.store`` and ``overlay.load`` are the kernels (`Kernel`). `engine` runs a subnet on
    them; while an engine is open, its driver alone may use them.

    Args:
        bitfile_name: the packaged bitstream, ``NAME.bit``, with ``NAME.hwh`` and ``NAME.json`` in the same folder. If
            None, the one of this board that `quasar_rt.overlays.fetch` downloaded.
        download: False if the bitstream is loaded already.
        wait: seconds to wait for an FPGA that another engine or process uses.
        others: further arguments of `pynq.Overlay`.

    Raises:
        DeviceBusyError: another engine or process uses the FPGA.
        DeviceUnavailableError: a file is missing, its digest is not the description's, PYNQ cannot load it, or it is
            another design.
    """

    def __init__(
        self,
        bitfile_name: str | os.PathLike[str] | None = None,
        *,
        download: bool = True,
        wait: float = 0,
        **others: Any,
    ) -> None:
        path = bitstream() if bitfile_name is None else Path(bitfile_name).absolute()
        read_bitstream(path)  # digests first: nothing is loaded that is not what its description states
        with loading(path, wait):
            super().__init__(str(path), download=download, **others)
        Transport(self)  # refuses another design

    def engine(
        self, subnet: Subnet | str | os.PathLike[str], timeout: float | None = None, wait: float = 0
    ) -> Engine:
        """Opens an engine on this overlay, without loading the bitstream again.

        Args:
            subnet: a `quasar_rt.Subnet`, the path of a ``.qvit`` file, or the name of a packaged subnet.
            timeout, wait: as for `quasar_rt.Engine`.

        Raises:
            quasar_rt.DeviceError: the accelerator cannot be used.
            quasar_rt.DoesNotFitError: the subnet does not fit the accelerator's buffers.
        """
        description = Path(self.bitfile_name).with_suffix(".json")
        return Engine(subnet, device=f"pynq:{description}", timeout=timeout, wait=wait)
