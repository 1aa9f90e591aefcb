"""Boards: the resources, clocks and processor of each. Their files are ``quasar_rt/boards/*.toml``."""

from __future__ import annotations

from dataclasses import dataclass

from .._native import Board as NativeBoard
from ..settings import SettingsFile, shipped_files

__all__ = ["Amounts", "Board", "board_names"]


@dataclass(frozen=True)
class Amounts:
    """Numbers of each resource; BRAM in units of 36 kbit."""

    dsp: int
    lut: int
    ff: int
    bram36: int
    uram: int


class Board(SettingsFile[NativeBoard]):
    """Holds what a board offers, as its file declares it; immutable.

    >>> Board.load("zcu102").resources
    Amounts(dsp=2520, lut=274080, ff=548160, bram36=912, uram=0)
    """

    _made_by = "Board.load or Board.from_toml"
    _kind = "board"

    @classmethod
    def from_toml(cls, text: str) -> Board:
        """Reads the text of a board file. Raises like `load`."""
        return cls._wrap(NativeBoard.from_toml(text))

    @property
    def name(self) -> str:
        """The board's name."""
        return str(self.settings["name"])

    @property
    def clocks_mhz(self) -> list[float]:
        """Clocks of the fabric in MHz, the default first."""
        return list(self.settings["clocks_mhz"])

    @property
    def array_clock_mhz(self) -> float:
        """The array's clock in MHz, at most."""
        settings = self.settings
        return float(settings.get("array_clock_mhz") or 2 * settings["clocks_mhz"][0])

    @property
    def resources(self) -> Amounts:
        """Resources of the device."""
        return Amounts(**self.settings["resources"])

    @property
    def usable(self) -> Amounts:
        """Resources that a design may take, rounded down."""
        settings = self.settings
        return Amounts(
            **{key: int(amount * settings["usable"][key]) for key, amount in settings["resources"].items()}
        )

    def __repr__(self) -> str:
        settings = self.settings
        return f"<Board {settings['name']!r}: {settings['part']}, {settings['resources']['dsp']} DSP slices>"


def board_names() -> list[str]:
    """Returns the names of the boards that ship, sorted.

    >>> "zcu102" in board_names()
    True
    """
    return list(shipped_files("boards"))
