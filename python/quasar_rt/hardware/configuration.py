"""Configurations of the accelerator: array, lanes, buffers and clock on a board.

``docs/hardware-model.md`` describes their TOML files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from .._native import Hardware as NativeHardware
from ..arguments import shown
from ..errors import MissingFileError
from ..files import write_text
from ..settings import SettingsFile, read_text
from ..space import Space
from ..subnet import Subnet
from .board import Amounts, Board
from .workload import Workload

__all__ = ["Hardware", "Part"]


@dataclass(frozen=True)
class Part:
    """Resources of one part of the design; BRAM in units of 18 kbit."""

    name: str
    dsp: int
    lut: int
    ff: int
    bram18: int
    uram: int
    basis: str
    """``netlist`` (RTL, compared with Yosys), ``circuit`` (equivalent circuits, and a margin) or ``list``."""


class Hardware(SettingsFile[NativeHardware]):
    """Holds a configuration of the accelerator on a board: array, lanes, buffers, clock; immutable.

    >>> hardware = Hardware.for_board("ultra96v2", Space.load("digits"))
    >>> hardware.board.name, hardware.clock_mhz
    ('ultra96v2', 150.0)
    """

    _made_by = "Hardware.load, Hardware.from_toml or Hardware.for_board"
    _kind = "hardware configuration"

    @classmethod
    def load(cls, source: str | os.PathLike[str], board: Board | None = None) -> Hardware:
        """Reads a configuration file.

        Args:
            source: the path of a TOML file.
            board: the board that the file names; None loads that board by its name.

        Raises:
            quasar_rt.FileError: there is no such file, or no such board.
            quasar_rt.SettingsError: a key is missing, unknown or out of its range.
        """
        text = read_text(Path(source), f"the {cls._kind} {shown(str(source))}", "Hardware.save writes one")
        with cls._naming(source):
            return cls.from_toml(text, board)

    @classmethod
    def from_toml(cls, text: str, board: Board | None = None) -> Hardware:
        """Reads the text of a configuration file. Raises like `load`."""
        if board is None:
            try:
                board = Board.load(NativeHardware.board_name(text))
            except MissingFileError as error:
                raise MissingFileError(
                    f"{error}; for a board of your own, give its file, too (--board)"
                ) from None
        return cls._wrap(NativeHardware.from_toml(text, board._inner))

    @classmethod
    def for_board(
        cls,
        board: Board | str,
        target: Space | Subnet | Workload | Iterable[Subnet | Workload],
        clock_mhz: float | None = None,
    ) -> Hardware:
        """Searches the array, lanes and buffers that run `target` fastest within the board's usable resources.

        The fastest designs by the closed form are compared event by event, with the host's gaps. The result is
        deterministic. For a space, the search takes the space's largest network (so that all fit), its smallest and
        two others, and compares on four more. Where a board is so small that holding the largest network would more
        than halve the speed of the smallest, the design is made for the smallest; `CostTable` then marks the networks
        that exceed the buffers.

        Args:
            board: a board, or the name or path of one.
            target: networks, whose time for one frame each is minimised, or a space.
            clock_mhz: the clock; None takes the board's default.

        Raises:
            quasar_rt.DoesNotFitError: the board is too small, whatever the array; the message names what it lacks.
            quasar_rt.InvalidValueError: no network.
            quasar_rt.SettingsError: the clock is out of range.
        """
        if not isinstance(board, Board):
            board = Board.load(board)
        clock = float(board.clocks_mhz[0] if clock_mhz is None else clock_mhz)
        if isinstance(target, Space):
            return cls._wrap(NativeHardware.explore_space(board._inner, target._inner, clock))
        networks = [target] if isinstance(target, Subnet | Workload) else target
        workloads = [Workload.of(network)._inner for network in networks]
        return cls._wrap(NativeHardware.explore(board._inner, workloads, clock))

    def drain_slack(self, columns: int) -> float:
        """Returns the share of the array's cycles in which the drain would have time left.

        A tile of row pairs of 4 bits and of tokens takes the array a cycle of its clock for each word of `columns`, and
        the drain one of the kernels' for each row and group of lanes. Below 0 the array waits for the drain.
        """
        array, lanes = self.settings["array"], self.settings["lanes"]
        array_cycles = ceil(columns / array["cascade"]) / array["clock_ratio"]
        drain_cycles = 2 * array["pairs"] * ceil(array["tokens"] / lanes["requantize"])
        return float(1 - drain_cycles / array_cycles)

    def with_clock(self, clock_mhz: float) -> Hardware:
        """Returns the same configuration at another clock."""
        return Hardware._wrap(self._inner.with_clock(float(clock_mhz)))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a configuration file.

        Raises:
            quasar_rt.FileError: the file cannot be written.
        """
        write_text(Path(path), f"# Written by quasar-rt\n{self.to_toml()}")

    @property
    def board(self) -> Board:
        """The board."""
        return Board._wrap(self._inner.board())

    @property
    def clock_mhz(self) -> float:
        """Clock of the fabric in MHz."""
        return float(self.settings["clock_mhz"])

    @property
    def configuration_hash(self) -> int:
        """The identity that a bitstream of this configuration reports, 64 bits. Margins do not change it."""
        return self._inner.configuration_hash()

    @property
    def resources(self) -> Amounts:
        """Resources that the design takes, counted from what is built (modelled)."""
        return Amounts(**json.loads(self._inner.resources())["total"])

    @property
    def parts(self) -> list[Part]:
        """Resources of each part of the design, counted from what is built (modelled)."""
        return [Part(**part) for part in json.loads(self._inner.resources())["parts"]]

    @property
    def build_files(self) -> dict[str, str]:
        """Texts of the generated files that a build of the bitstream reads, by name (``docs/building.md``)."""
        return self._inner.build_files()

    def check_board(self) -> None:
        """Refuses a design that needs more than the usable part of its board.

        Raises:
            quasar_rt.DoesNotFitError: names the resource.
        """
        self._inner.check_board()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Hardware):
            return NotImplemented
        return (self.to_toml(), self.board) == (other.to_toml(), other.board)

    __hash__ = SettingsFile.__hash__

    def __reduce__(self) -> tuple[Any, ...]:
        return Hardware.from_toml, (self.to_toml(), self.board)

    def __repr__(self) -> str:
        settings = self.settings
        array = settings["array"]
        return (
            f"<Hardware on {settings['board']!r}: {array['tokens']} tokens x {array['pairs']} row pairs, "
            f"{settings['clock_mhz']:g} MHz>"
        )
