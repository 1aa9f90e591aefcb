"""Bitstreams for PYNQ: where they lie, how to get one, and the overlay class with the driver bound.

The package names this folder in the entry point ``pynq.overlays``, so ``pynq.Overlay("pynq-z2.bit")`` finds the
bitstream in the sub-folder of that name. None comes with the package. `fetch` downloads a published one when it is
called, never on import, and compares its SHA-256; ``published.json`` names what there is.

`QuasarOverlay` needs PYNQ, the rest only the standard library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .files import bitstream as bitstream
from .files import board_name as board_name
from .files import fetch as fetch

if TYPE_CHECKING:
    from .overlay import QuasarOverlay as QuasarOverlay

__all__ = ["QuasarOverlay", "bitstream", "board_name", "fetch"]


def __getattr__(name: str) -> Any:
    if name == "QuasarOverlay":
        try:
            from .overlay import QuasarOverlay
        except ModuleNotFoundError as error:
            if error.name != "pynq":
                raise
            raise ImportError(
                "QuasarOverlay needs PYNQ, which is on PYNQ's images (or: pip install pynq)"
            ) from error
        return QuasarOverlay
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
