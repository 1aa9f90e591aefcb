"""Holds the access sites of pipelined loops, and counts those that need a port of their own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

#: Memories by the place of their object and the names of the fields that lead to them.
Memories = dict[tuple[Any, ...], "Memory"]
#: An integer, a place (of a reference or a pointer), or a term that stands for an unknown number.
Value = Any


@dataclass(frozen=True)
class Place:
    """An object, or a part of it: fields `(name, file)` and indices."""

    base: tuple[str, int]  # declaration, and which of its instances
    path: tuple[Any, ...] = ()

    def member(self, name: str, file: str) -> Place:
        """Returns a field of an object whose class stands in `file`."""
        return Place(self.base, (*self.path, ("field", name, file)))

    def element(self, index: Value) -> Place:
        """Returns an element of an array."""
        return Place(self.base, (*self.path, ("index", index)))


@dataclass
class Memory:
    """An array, a stream or an AXI master."""

    name: str
    ports: int | None  # None: registers, or a ROM of as many ports as it takes
    kind: str = "array"
    size: int = 1
    argument: bool = False  # of the kernel
    variable: bool = False  # some index is not constant


@dataclass
class Access:
    """An access site."""

    memory: Memory
    write: bool
    bank: tuple[Value, ...]
    line: int


@dataclass
class Whole:
    """A copy of an object, which writes all arrays in it."""

    place: Place
    line: int


@dataclass
class Branch:
    """Arms that exclude each other."""

    arms: list[list[Any]]


@dataclass
class Region:
    """A pipelined loop."""

    kernel: str
    process: str
    line: int
    interval: int
    name: str = ""
    items: list[Any] = field(default_factory=list)
    dependences: list[Any] = field(default_factory=list)  # DEPENDENCE pragmas


@dataclass
class Row:
    """A row of the report."""

    kernel: str
    loop: str
    line: int
    memory: str
    sites: int
    ports: int

    @property
    def conflict(self) -> bool:
        """Returns whether the sites need more ports than there are."""
        return self.sites > self.ports


def accesses(items: Iterable[Any]) -> Iterator[Access]:
    """Returns all access sites."""
    for item in items:
        if isinstance(item, Access):
            yield item
        elif isinstance(item, Branch):
            for arm in item.arms:
                yield from accesses(arm)


def most_sites(memories: Memories, items: list[Any], memory: Memory) -> int:
    """Returns the most sites of a bank of a memory."""
    banks = {
        tuple(index if isinstance(index, int) else None for index in access.bank)
        for access in accesses(items)
        if access.memory is memory
    }
    # A variable index has sites in the banks that others name; if none do, all banks are alike.
    named = {bank for bank in banks if any(index is not None for index in bank)} or banks
    return max((count_sites(memories, items, memory, bank) for bank in named), default=0)


def count_sites(memories: Memories, items: list[Any], memory: Memory, bank: tuple[int | None, ...]) -> int:
    """Returns the sites of a bank; an index that is None may be any."""

    def meets(access: Access) -> bool:
        if access.memory is not memory:
            return False
        pairs = zip(access.bank, bank, strict=True)
        return all(not isinstance(index, int) or given in (None, index) for index, given in pairs)

    total = 0
    for item in items:
        if isinstance(item, Access):
            total += meets(item)
        elif isinstance(item, Whole):
            key = next(k for k, m in memories.items() if m is memory)
            names = tuple(step[1] for step in item.place.path)
            if key[0] == item.place.base and key[1][: len(names)] == names:
                total += memory.size
        else:
            counts = [count_sites(memories, arm, memory, bank) for arm in item.arms]
            banks = {access.bank for arm in item.arms for access in accesses(arm) if meets(access)}
            total += max(counts, default=0) if len(banks) <= 1 else sum(counts)
    return total
