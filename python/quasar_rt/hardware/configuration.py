"""The hardware model: throughput, latency and resources of the accelerator for a network, **modelled**.

>>> from quasar_rt.hardware import Hardware, Workload, estimate
>>> zcu102 = Hardware.for_board("zcu102", Workload.deit("deit-tiny"))
>>> result = estimate(Workload.deit("deit-tiny"), zcu102)
>>> result.fps > 400  # modelled frames a second at the board's default clock, 150 MHz
True

No figure comes from synthesis or from a board; ``docs/hardware-model.md`` has the schedule, the formulas and the kind
of each constant. All work is done in Rust (``rust/core/src/hardware``). Boards are TOML files
(``quasar_rt/boards/*.toml``), configurations of the accelerator too. Depends on the native module and NumPy.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._native import Board as NativeBoard
from .._native import CostTable as NativeCostTable
from .._native import Hardware as NativeHardware
from .._native import Workload as NativeWorkload
from .._native import estimate as native_estimate
from .._native import hardware_modes
from .._native import replay as native_replay
from ..errors import FileError, InvalidValueError, SettingsError, TooLargeError
from ..space import Architecture, Space
from ..subnet import Subnet

__all__ = [
    "DEIT_HEADS",
    "Amounts",
    "Board",
    "CostTable",
    "Estimate",
    "Hardware",
    "Host",
    "Layer",
    "Part",
    "Replay",
    "Span",
    "VectorStage",
    "Workload",
    "board_names",
    "estimate",
    "modes",
]

#: Attention heads of DeiT's shapes: heads of 64, MLP ratio 4, 12 blocks, 224x224, 1000 classes.
DEIT_HEADS = {"deit-tiny": 3, "deit-small": 6, "deit-base": 12}


@dataclass(frozen=True)
class Amounts:
    """Numbers of each resource; BRAM in units of 36 kbit."""

    dsp: int
    lut: int
    ff: int
    bram36: int
    uram: int


class Board:
    """What a board offers, immutable: declared in its file, with its source.

    >>> Board.load("zcu102").resources
    Amounts(dsp=2520, lut=274080, ff=548160, bram36=912, uram=0)
    """

    _inner: NativeBoard

    def __init__(self) -> None:
        raise TypeError("use Board.load or Board.from_toml")

    @classmethod
    def _wrap(cls, inner: NativeBoard) -> Board:
        board = object.__new__(cls)
        board._inner = inner
        return board

    @classmethod
    def load(cls, source: str | os.PathLike[str]) -> Board:
        """Read a board.

        Args:
            source: a shipped board's name (`board_names`) or a path of a TOML file.

        Raises:
            quasar_rt.FileError: no such file; the message lists the shipped boards.
            quasar_rt.SettingsError: a key is missing, unknown or out of its range.
        """
        path = _folder() / f"{source}.toml" if str(source) in board_names() else Path(source)
        text = _read(path, f"the board '{source}'", f"shipped boards: {', '.join(board_names())}")
        try:
            return cls.from_toml(text)
        except (SettingsError, TooLargeError) as error:
            raise type(error)(f"'{source}': {error}") from None

    @classmethod
    def from_toml(cls, text: str) -> Board:
        """From a board file's text. Raises like `load`."""
        return cls._wrap(NativeBoard.from_toml(text))

    def to_toml(self) -> str:
        """The board as TOML, without comments; `from_toml` gives it back."""
        return self._inner.to_toml()

    @property
    def settings(self) -> dict[str, Any]:
        """The file's keys and values, a fresh copy."""
        settings: dict[str, Any] = json.loads(self._inner.to_json())
        return settings

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.settings["name"])

    @property
    def clocks_mhz(self) -> list[float]:
        """Clocks of the fabric, the default first."""
        return list(self.settings["clocks_mhz"])

    @property
    def resources(self) -> Amounts:
        """What the device has."""
        return Amounts(**self.settings["resources"])

    @property
    def usable(self) -> Amounts:
        """What a design may take, rounded down."""
        settings = self.settings
        return Amounts(
            **{key: int(amount * settings["usable"][key]) for key, amount in settings["resources"].items()}
        )

    def __eq__(self, other: object) -> bool:
        return self.to_toml() == other.to_toml() if isinstance(other, Board) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.to_toml())

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Board.from_toml, (self.to_toml(),)

    def __repr__(self) -> str:
        settings = self.settings
        return f"<Board {settings['name']!r}: {settings['part']}, {settings['resources']['dsp']} DSP slices>"


class Workload:
    """A network's sizes and row widths, immutable: all that the model needs of it."""

    _inner: NativeWorkload

    def __init__(self) -> None:
        raise TypeError("use Workload.of_subnet, Workload.of_architecture or Workload.deit")

    @classmethod
    def _wrap(cls, inner: NativeWorkload) -> Workload:
        workload = object.__new__(cls)
        workload._inner = inner
        return workload

    @classmethod
    def of_subnet(cls, subnet: Subnet) -> Workload:
        """A subnet's own rows and widths."""
        return cls._wrap(NativeWorkload.of_subnet(subnet._inner))

    @classmethod
    def of_architecture(cls, space: Space, architecture: Architecture, name: str | None = None) -> Workload:
        """A network of a space, or of its image and classes: the sizes need not be among its choices.

        Raises:
            quasar_rt.InvalidValueError: a size is beyond the integer model's limits, or a fraction outside [0, 1].
        """
        blocks = [(b.heads, b.head_dim, b.hidden, b.eight_bit) for b in architecture.blocks]
        return cls._wrap(
            NativeWorkload.of_architecture(name or space.name, space._inner, architecture.embed, blocks)
        )

    @classmethod
    def deit(cls, name: str, eight_bit: float = 0.0) -> Workload:
        """A network of DeiT's shape, at 224x224, 1000 classes.

        Args:
            name: ``deit-tiny``, ``deit-small`` or ``deit-base``.
            eight_bit: the fraction of 8-bit rows of each matrix; patch embedding and head are all 8-bit.

        Raises:
            quasar_rt.InvalidValueError: another name, or a fraction outside [0, 1].

        >>> Workload.deit("deit-tiny").macs
        1166602752
        """
        if name not in DEIT_HEADS:
            raise InvalidValueError(f"{name!r} is none of DeiT's shapes: {', '.join(DEIT_HEADS)}")
        if not 0 <= eight_bit <= 1:
            raise InvalidValueError(f"eight_bit is {eight_bit}; it must be within [0, 1]")
        heads = DEIT_HEADS[name]
        block = (heads, 64, 256 * heads, (eight_bit,) * 4)
        space = Space.load("tiny")
        return cls._wrap(NativeWorkload.of_architecture(name, space._inner, 64 * heads, [block] * 12))

    @property
    def settings(self) -> dict[str, Any]:
        """Sizes and rows, as nested dictionaries."""
        settings: dict[str, Any] = json.loads(self._inner.to_json())
        return settings

    @property
    def name(self) -> str:
        """The network's name."""
        return str(self.settings["name"])

    @property
    def macs(self) -> int:
        """Multiply-accumulates that the logits depend on."""
        return self._inner.macs()

    def __repr__(self) -> str:
        return f"<Workload {self.name!r}: {self.macs / 1e9:.3g} GMAC>"


@dataclass(frozen=True)
class Part:
    """Resources of one part of the design; BRAM in units of 18 kbit."""

    name: str
    dsp: int
    lut: int
    ff: int
    bram18: int
    uram: int


class Hardware:
    """A configuration of the accelerator on a board, immutable: array, lanes, buffers, clock, mode.

    >>> hardware = Hardware.for_board("ultra96v2", Space.load("digits"))
    >>> hardware.board.name, hardware.mode
    ('ultra96v2', 'nibble')
    """

    _inner: NativeHardware

    def __init__(self) -> None:
        raise TypeError("use Hardware.load, Hardware.from_toml or Hardware.for_board")

    @classmethod
    def _wrap(cls, inner: NativeHardware) -> Hardware:
        hardware = object.__new__(cls)
        hardware._inner = inner
        return hardware

    @classmethod
    def load(cls, path: str | os.PathLike[str], board: Board | None = None) -> Hardware:
        """Read a configuration file (``docs/hardware-model.md`` describes it).

        Args:
            path: a TOML file.
            board: the board that it names; None loads that one by its name.

        Raises:
            quasar_rt.FileError: no such file, or no such board.
            quasar_rt.SettingsError: a key is missing, unknown or out of its range.
        """
        text = _read(Path(path), f"the hardware configuration '{path}'", "Hardware.save writes one")
        try:
            return cls.from_toml(text, board)
        except (SettingsError, TooLargeError) as error:
            raise type(error)(f"'{path}': {error}") from None

    @classmethod
    def from_toml(cls, text: str, board: Board | None = None) -> Hardware:
        """From a configuration file's text. Raises like `load`."""
        if board is None:
            board = Board.load(NativeHardware.board_name(text))
        return cls._wrap(NativeHardware.from_toml(text, board._inner))

    @classmethod
    def for_board(
        cls,
        board: Board | str,
        target: Space | Subnet | Workload | Iterable[Subnet | Workload],
        clock_mhz: float | None = None,
        mode: str = "nibble",
    ) -> Hardware:
        """The array, lanes and buffers that run `target` fastest within the board's usable resources. Deterministic.

        Args:
            board: a board, or the name or path of one.
            target: networks, whose time for one frame each is minimised; or a space, for which its largest network (so
                that all fit), its smallest and two others stand. Where the board is so small that holding the largest
                would more than halve the speed of the smallest, the design is made for the smallest, and `CostTable`
                marks the networks that exceed its buffers.
            clock_mhz: the clock; None takes the board's default.
            mode: one of `modes`.

        Raises:
            quasar_rt.DoesNotFitError: the board is too small, whatever the array; says what it lacks.
            quasar_rt.InvalidValueError: no network, or an unknown mode.
            quasar_rt.SettingsError: the clock is out of range.
        """
        if not isinstance(board, Board):
            board = Board.load(board)
        clock = board.clocks_mhz[0] if clock_mhz is None else clock_mhz
        if isinstance(target, Space):
            return cls._wrap(NativeHardware.explore_space(board._inner, target._inner, float(clock), mode))
        networks = [target] if isinstance(target, Subnet | Workload) else list(target)
        workloads = [_workload(network)._inner for network in networks]
        return cls._wrap(NativeHardware.explore(board._inner, workloads, float(clock), mode))

    def with_clock(self, clock_mhz: float) -> Hardware:
        """The same at another clock."""
        return Hardware._wrap(self._inner.with_clock(float(clock_mhz)))

    def to_toml(self) -> str:
        """The configuration as TOML; `from_toml` gives it back."""
        return self._inner.to_toml()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a configuration file.

        Raises:
            quasar_rt.FileError: it cannot be written.
        """
        try:
            Path(path).write_text(self.to_toml(), encoding="utf-8")
        except OSError as error:
            raise FileError(f"'{path}' cannot be written: {error}") from None

    @property
    def settings(self) -> dict[str, Any]:
        """The file's keys and values (board, clock_mhz, mode, array, lanes, buffers and so on), a fresh copy."""
        settings: dict[str, Any] = json.loads(self._inner.to_json())
        return settings

    @property
    def board(self) -> Board:
        """The board."""
        return Board._wrap(self._inner.board())

    @property
    def clock_mhz(self) -> float:
        """Clock of the fabric."""
        return float(self.settings["clock_mhz"])

    @property
    def mode(self) -> str:
        """How weights use the array; one of `modes`."""
        return str(self.settings["mode"])

    @property
    def resources(self) -> Amounts:
        """What the design takes (modelled)."""
        return Amounts(**json.loads(self._inner.resources())["total"])

    @property
    def parts(self) -> list[Part]:
        """The same, part by part."""
        return [Part(**part) for part in json.loads(self._inner.resources())["parts"]]

    def check_board(self) -> None:
        """Refuse a design that needs more than its board has.

        Raises:
            quasar_rt.DoesNotFitError: names the resource.
        """
        self._inner.check_board()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Hardware):
            return NotImplemented
        return (self.to_toml(), self.board) == (other.to_toml(), other.board)

    def __hash__(self) -> int:
        return hash(self.to_toml())

    def __reduce__(self) -> tuple[Any, tuple[str, Board]]:
        return Hardware.from_toml, (self.to_toml(), self.board)

    def __repr__(self) -> str:
        settings = self.settings
        array = settings["array"]
        return (
            f"<Hardware on {settings['board']!r}: {array['tokens']} tokens x {array['pairs']} row pairs, "
            f"{settings['clock_mhz']:g} MHz, mode {settings['mode']!r}>"
        )


@dataclass(frozen=True)
class Layer:
    """One stage on the array."""

    name: str
    """Linear layers are named as in the subnet file."""
    tokens: int
    four_bit_rows: int
    eight_bit_rows: int
    columns: int
    macs: int
    """Multiply-accumulates."""
    row_tiles: int
    token_tiles: int
    passes: int
    """Accumulations that its columns are divided into, so that no field of a DSP slice overflows."""
    cycles: int
    """All cycles: the five that follow."""
    accumulate: int
    drain_stall: int
    weight_stall: int
    wait: int
    gap: int
    bytes: int
    """Weights and row parameters from memory."""
    share: float
    """Row-pair products over the array's peak."""
    intensity: float | None
    """Multiply-accumulates for each byte from memory; None where none comes."""
    bound: str
    """``compute``, ``memory``, ``drain`` or ``dependency``."""


@dataclass(frozen=True)
class VectorStage:
    """One stage of the vector unit."""

    name: str
    cycles: int
    exposed: int
    """Cycles that the array waits for it."""


@dataclass(frozen=True)
class Host:
    """The board's processor's share of a frame."""

    seconds: float
    """Core seconds: the three that follow."""
    decode_s: float
    resize_s: float
    submit_s: float
    """Patches and submission."""
    fps: float
    """Frames a second of all cores together."""
    source_pixels: int
    """Pixels of the picture that is decoded."""


@dataclass(frozen=True)
class Estimate:
    """One frame of a network on a configuration: **modelled**."""

    network: str
    board: str
    clock_mhz: float
    mode: str
    hls: bool
    """Whether the accelerator's HLS is written for that mode (`modes`)."""
    frames: int
    """Frames in flight."""
    layers: tuple[Layer, ...]
    """Stages on the array, in the order of a frame's path."""
    vector: tuple[VectorStage, ...]
    """Stages of the vector unit.

    GELU, residual and requantizing are part of the drain and take no cycles of their own."""
    period_cycles: int
    """Cycles between two frames."""
    array_cycles: int
    """Cycles of the array, its stalls included."""
    vector_cycles: int
    transfer_cycles: int
    transfer_bytes: int
    latency_cycles: int
    """Cycles of one frame alone."""
    fps: float
    """Frames a second of the accelerator, host excluded."""
    latency_s: float
    """Seconds of one frame alone, from pixels in memory to logits in memory."""
    share: float
    """Row-pair products over the array's peak, stalls included."""
    macs: int
    gmac_s: float
    host: Host
    fps_with_host: float
    """The lower of the accelerator's and the processor's frames a second."""
    latency_with_host_s: float
    host_bound: bool
    """Whether the processor is slower than the accelerator."""
    resources: Amounts
    parts: tuple[Part, ...]
    """Resources, part by part."""
    board_resources: Amounts
    """What the board has."""
    board_usable: Amounts
    """What a design may take of it."""
    resources_fit: bool
    """Whether the configuration stays within that."""

    def losses(self) -> dict[str, float]:
        """What keeps the array from its peak: shares of the time between two frames, ``products`` being the share used.

        >>> hardware = Hardware.for_board("zcu102", Workload.deit("deit-tiny"))
        >>> losses = estimate(Workload.deit("deit-tiny"), hardware).losses()
        >>> max(losses, key=losses.get), round(sum(losses.values()), 6)
        ('products', 1.0)
        """

        def total(cause: str) -> float:
            return float(sum(getattr(layer, cause) for layer in self.layers)) / self.period_cycles

        shares = {
            "products": self.share,
            "ragged tiles": total("accumulate") - self.share,
            "waiting for lanes": total("drain_stall"),
            "waiting for weights": total("weight_stall"),
            "waiting for a result": total("wait"),
            "between commands": total("gap"),
        }
        return {**shares, "vector unit and transfers": 1 - sum(shares.values())}

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it, with the figures' kind."""
        return {"kind": "modelled", **asdict(self)}


def estimate(network: Subnet | Workload, hardware: Hardware) -> Estimate:
    """Model one frame of a network on a configuration.

    Raises:
        quasar_rt.DoesNotFitError: the network exceeds a buffer; names it, and by how much.
    """
    document = json.loads(native_estimate(_workload(network)._inner, hardware._inner))
    resources = document.pop("resources")
    return Estimate(
        **{
            **document,
            "layers": tuple(Layer(**layer) for layer in document["layers"]),
            "vector": tuple(VectorStage(**stage) for stage in document["vector"]),
            "host": Host(**document["host"]),
            "board_resources": Amounts(**document["board_resources"]),
            "board_usable": Amounts(**document["board_usable"]),
        },
        resources=Amounts(**resources["total"]),
        parts=tuple(Part(**part) for part in resources["parts"]),
    )


@dataclass(frozen=True)
class Span:
    """One command on its unit."""

    unit: str
    """``load``, ``array``, ``drain``, ``norm`` or ``softmax``."""
    slot: int
    """Of the frame."""
    phase: int
    """0 the patch embedding, then attention and MLP of each block, then the head."""
    stage: str
    start: int
    end: int
    busy: int
    """Cycles in which the unit worked."""
    stalls: dict[str, int]
    """The others, by cause."""


@dataclass(frozen=True)
class Replay:
    """Command lists, replayed by the event-driven model, frame after frame: **modelled**."""

    period_cycles: int
    """Cycles between two frames."""
    latency_cycles: int
    """Cycles of one frame alone."""
    spans: tuple[Span, ...]
    """All commands of `frames` frames, when nothing changes any more from frame to frame."""
    frames: int

    def stalls(self, unit: str = "array") -> dict[str, float]:
        """Cycles a frame that a unit stands still, by cause."""
        totals: dict[str, float] = {}
        for span in self.spans:
            if span.unit == unit:
                for cause, cycles in span.stalls.items():
                    totals[cause] = totals.get(cause, 0.0) + cycles / self.frames
        return totals


def replay(network: Subnet | Workload, hardware: Hardware) -> Replay:
    """Replay the compiler's command lists of a network on the event-driven model of the accelerator.

    >>> workload = Workload.deit("deit-tiny")
    >>> hardware = Hardware.for_board("zcu102", workload)
    >>> closed, events = estimate(workload, hardware), replay(workload, hardware)
    >>> abs(closed.period_cycles / events.period_cycles - 1) < 0.05
    True

    Raises:
        quasar_rt.InvalidValueError: a mode that is modelled only.
        quasar_rt.SettingsError: a configuration that the HLS sources cannot be built for.
        quasar_rt.DoesNotFitError: the network exceeds a buffer; names it, and by how much.
    """
    period, alone, causes, spans, frames = native_replay(_workload(network)._inner, hardware._inner)
    return Replay(
        period,
        alone,
        tuple(
            Span(*span[:-1], {cause: n for cause, n in zip(causes, span[-1], strict=True) if n})
            for span in spans
        ),
        frames,
    )


class CostTable:
    """Frames a second and latency of every network of a space, from tables; equal to `estimate`.

    Args:
        space: the space.
        hardware: a configuration in a mode that the accelerator's HLS is written for.

    Raises:
        quasar_rt.InvalidValueError: another mode: a search must not count on it.
        quasar_rt.DoesNotFitError: the configuration needs more than its board has.

    >>> space = Space.load("digits")
    >>> table = CostTable(space, Hardware.for_board("pynq-z2", space))
    >>> table.evaluate([space.largest, space.smallest])["fits"]
    array([ True,  True])
    """

    #: What `evaluate` gives for each genome.
    DTYPE = np.dtype([("fps", np.float64), ("latency_s", np.float64), ("fits", np.bool_)])

    def __init__(self, space: Space, hardware: Hardware) -> None:
        self.space = space
        self.hardware = hardware
        self._inner = NativeCostTable(space._inner, hardware._inner)

    def evaluate(self, genomes: ArrayLike) -> NDArray[np.void]:
        """Costs of genomes uint8 [n, genes]; the GIL is released.

        Returns:
            [n] records: ``fps`` and ``latency_s`` float64 (accelerator alone), ``fits`` bool (the buffers hold it).

        Raises:
            quasar_rt.InvalidValueError: another shape or type, or an index that its gene lacks.
        """
        array = np.asarray(genomes)
        genes = len(self.space.genes)
        if array.ndim != 2 or array.shape[1] != genes or array.dtype != np.uint8:
            raise InvalidValueError(
                f"genomes must be uint8 of shape (n, {genes}), not {array.dtype} of shape {array.shape}"
            )
        fps, latency, fits = self._inner.evaluate(np.ascontiguousarray(array))
        costs = np.empty(len(array), self.DTYPE)
        costs["fps"], costs["latency_s"], costs["fits"] = fps, latency, fits
        return costs

    def fastest(self) -> tuple[NDArray[np.uint8], float]:
        """The genome of most frames a second that fits, and its frames a second: exact.

        Raises:
            quasar_rt.InvalidValueError: none fits.
        """
        genome, fps, _ = self._inner.fastest()
        return genome, fps

    def slowest(self) -> tuple[NDArray[np.uint8], float]:
        """The genome of fewest frames a second that fits, and its frames a second: exact. Raises like `fastest`."""
        genome, fps, _ = self._inner.slowest()
        return genome, fps

    @property
    def host(self) -> Host:
        """The processor's share of a frame, the same for all networks of the space."""
        return Host(**json.loads(self._inner.host()))

    def __repr__(self) -> str:
        return f"<CostTable of {self.space!r} on {self.hardware!r}>"


def board_names() -> list[str]:
    """The names of the shipped boards, sorted.

    >>> "zcu102" in board_names()
    True
    """
    return sorted(path.stem for path in _folder().glob("*.toml"))


def modes() -> dict[str, bool]:
    """Every mode of the array, and whether the accelerator's HLS is written for it; the others are modelled only.

    >>> modes()
    {'nibble': True, 'drained_pairs': False, 'lut_share': False}
    """
    return dict(hardware_modes())


def _workload(network: Subnet | Workload) -> Workload:
    return Workload.of_subnet(network) if isinstance(network, Subnet) else network


def _folder() -> Path:
    return Path(str(files("quasar_rt"))) / "boards"


def _read(path: Path, what: str, hint: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise FileError(f"{what} cannot be read ({error}); {hint}") from None
