"""A subnet compiled for the accelerator: command lists, memory image, verification.

>>> from quasar_rt import Subnet
>>> from quasar_rt.accelerator import Program
>>> from quasar_rt.hardware import Hardware
>>> subnet = Subnet.load("fashion-mnist")
>>> program = Program.compile(subnet, Hardware.for_board("zcu102", subnet))
>>> list(program.segments)
['start0', 'end0', 'start1', 'end1', 'step0', 'step1']
>>> program.disassemble("start0").splitlines()[1].split()[:4]
['0', 'load', '0.0', 'patches']

``docs/accelerator.md`` describes commands, segments and memory. The work is done in Rust (``rust/accelerator/src``).
Depends on the native module.
"""

from __future__ import annotations

from dataclasses import dataclass

from ._native import Program as NativeProgram
from .hardware import Hardware
from .settings import NativeObject
from .subnet import Subnet

__all__ = ["Program", "QueueUse", "Verification"]


@dataclass(frozen=True)
class QueueUse:
    """A queue between two units: its name, the most items that it held, and its depth."""

    name: str
    most: int
    depth: int


@dataclass(frozen=True)
class Verification:
    """Resources that a verified program uses.

    Attributes:
        queues: each queue and how full it was in the run.
        beats: memory beats that a frame reads.
    """

    queues: list[QueueUse]
    beats: int


class Program(NativeObject[NativeProgram]):
    """A subnet compiled for a configuration, immutable. The same two always give the same bytes."""

    _made_by = "Program.compile"

    @classmethod
    def compile(cls, subnet: Subnet, hardware: Hardware) -> Program:
        """Compiles `subnet` for the accelerator of `hardware`.

        Raises:
            quasar_rt.SettingsError: a configuration that the HLS sources cannot be built for; names the key.
            quasar_rt.DoesNotFitError: a buffer cannot hold the subnet; the message names the buffer and the excess.
        """
        return cls._wrap(NativeProgram.compile(subnet._inner, hardware._inner))

    @property
    def segments(self) -> dict[str, int]:
        """Number of commands by segment."""
        return dict(self._inner.segments())

    def disassemble(self, segment: str) -> str:
        """Returns a segment's commands, one a line: index, unit, slot.phase, stage, command.

        Raises:
            quasar_rt.InvalidValueError: the program has no such segment.
        """
        return self._inner.disassemble(segment)

    def commands(self, segment: str, seed: int = 0) -> bytes:
        """Returns a segment's commands in the accelerator's format, 32 bytes each, with their checks and without a key.

        Args:
            segment: its name.
            seed: seed of the first check; the host writes it to ``fetch_SEED`` before it starts the segment.

        Raises:
            quasar_rt.InvalidValueError: the program has no such segment.
        """
        return self._inner.commands(segment, seed)

    @property
    def arena(self) -> bytes:
        """Weights and all other data that frames share, in logical beats."""
        return self._inner.arena()

    @property
    def beat_bytes(self) -> int:
        """Bytes of a logical beat: 16 from each AXI port."""
        return self._inner.beat_bytes()

    def intervals(self, *segments: str) -> dict[str, int]:
        """Returns initiation intervals of the kernels' loops when these segments run one after another: **modelled**.

        The kernels count theirs under the same names in simulation. Loops whose counts depend on the order in which
        units run are left out.

        Raises:
            quasar_rt.InvalidValueError: the program has no such segment.
        """
        return self._inner.intervals(list(segments))

    def verify(self) -> Verification:
        """Proves that no schedule of the units stops, races, or reads data that was not written for it.

        Raises:
            quasar_rt.InvalidValueError: the program is wrong, so the compiler has an error; names the place.
        """
        queues, beats = self._inner.verify()
        return Verification([QueueUse(*queue) for queue in queues], beats)
