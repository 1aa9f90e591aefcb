"""Gives every object of a kernel its values, its memory and its ports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .sites import Access, Memory, Place, Region, Value, Whole
from .syntax import Node, Pragma, Tree, Unsupported, is_pointer, is_scalar, type_of

#: Ports by `storage_type` or `type` of storage.
STORAGE = {"ram_1p": 1, "rom_1p": 1, "ram_2p": 2, "ram_s2p": 2, "ram_t2p": 2, "rom_2p": 2}
#: Key that counts an object's changes, among the values of its parts.
VERSION = ("version",)


class Storage:
    """Holds the objects that a kernel's functions declare, and the access sites of its pipelined loops.

    Numbers that are known at compile time are computed; all others are terms, which are equal if they were made
    in the same way from the same values.
    """

    def __init__(self, source: Path, config: Path) -> None:
        self.tree = Tree(source, config)
        self.name = source.stem
        self.places: dict[str, Place] = {}
        self.values: dict[tuple[str, int], dict[tuple[Any, ...], Value]] = {}
        self.memories: dict[tuple[Any, ...], Memory] = {}
        self.partitions: dict[tuple[str, int], list[Pragma]] = {}
        self.storage: dict[str, Pragma] = {}
        self.regions: list[Region] = []
        self.errors: list[str] = []
        self.region: Region | None = None
        self.items: list[Any] = []
        self.process = ""
        self.calls = 0  # of the top function: its processes are in this order
        #: The processes at both ends of each queue, by variable, and its type.
        self.queues: dict[tuple[str, int], tuple[str, dict[str, set[int]]]] = {}
        #: Arrays of the top function by the processes that access them, with those outside of pipelined loops.
        self.outside: dict[int, set[str]] = {}
        self.functions: list[Node] = []
        self.returned: list[Value] = []
        self.this: list[Value] = []
        self.count = 0
        self.line = 0
        self.top = next(
            f for f in self.tree.bodies.values()
            if f["kind"] == "FunctionDecl" and f["name"] == self.name and f["at"][0] == str(source)
        )  # fmt: skip
        for pragmas in self.tree.pragmas.values():
            for pragma in pragmas:
                if pragma.directive == "BIND_STORAGE":
                    self.storage[pragma.values["variable"]] = pragma

    def fresh(self) -> Value:
        """Returns an unknown number that equals no other."""
        self.count += 1
        return ("unknown", self.count)

    def declare(self, decl: Node) -> Place:
        """Makes a new instance of a variable."""
        self.count += 1
        place = Place((decl["id"], self.count))
        self.places[decl["id"]] = place
        name = decl.get("name", "")
        if self.functions:
            for pragma in self.tree.of(self.functions[-1], "ARRAY_PARTITION"):
                if pragma.values.get("variable", "").split(".")[0] == name:
                    self.partitions.setdefault(place.base, []).append(pragma)
        return place

    def memory(self, place: Place) -> tuple[Memory, tuple[Value, ...]] | None:
        """Returns the memory that holds a place, and the bank; None: the place is a register."""
        fields: tuple[str, ...] = ()
        at = 0
        decl = self.tree.decls.get(place.base[0], {"name": "temporary"})
        file = ""
        while at < len(place.path):
            step = place.path[at]
            if step[0] == "field":
                fields, file, at = (*fields, step[1]), step[2], at + 1
                continue
            indices = []
            while at < len(place.path) and place.path[at][0] == "index":
                indices.append(place.path[at][1])
                at += 1
            split = self.split(place.base, decl, fields, file, len(indices))
            if len(split) < len(indices):
                memory = self.memories.get((place.base, fields))
                if memory is None:
                    argument = decl in self.top["inner"]
                    memory = Memory(".".join((decl.get("name", ""), *fields)), self.ports(decl, argument))
                    memory.argument = argument
                    self.memories[place.base, fields] = memory
                if not all(isinstance(index, int) for index in indices):
                    memory.variable = True
                return memory, tuple(indices[dimension - 1] for dimension in split)
            fields = (*fields, "[]")
        return None

    def split(
        self, base: tuple[str, int], decl: Node, fields: tuple[str, ...], file: str, dimensions: int
    ) -> list[int]:
        """Returns the dimensions of an array that are partitioned completely."""
        if fields and (fields[-1], file) in self.tree.members:
            return list(range(1, dimensions + 1))
        found: set[int] = set()
        for pragma in self.partitions.get(base, []):
            named = ".".join((decl.get("name", ""), *(f for f in fields if f != "[]")))
            if pragma.values["variable"] == named and "complete" in pragma.words:
                dimension = int(pragma.values.get("dim", "1"))
                found |= set(range(1, dimensions + 1)) if dimension == 0 else {dimension}
        return sorted(found)

    def ports(self, decl: Node, argument: bool) -> int | None:
        """Returns the ports of a bank."""
        if argument:
            for pragma in self.tree.of(self.top, "INTERFACE"):
                if pragma.values.get("port") == decl["name"]:
                    kind = pragma.values.get("storage_type")
                    return STORAGE[kind] if kind else None  # a register
            raise Unsupported(f"{self.name}: no INTERFACE pragma names the argument {decl['name']}")
        bound = self.storage.get(decl.get("name", ""))
        if bound is not None:
            kind = bound.values["type"]
            return None if kind == "rom_np" else STORAGE[kind]
        return 2

    def access(self, place: Place, write: bool) -> None:
        """Keeps an access to a place."""
        found = self.memory(place)
        if found is None:
            return
        memory, bank = found
        if self.region is None:
            self.outside.setdefault(id(memory), set()).add(self.process)
        else:
            self.items.append(Access(memory, write, bank, self.line))

    def load(self, value: Value) -> Value:
        """Returns what a place holds; any other value as it is."""
        if not isinstance(value, Place):
            return value
        self.access(value, False)
        if any(step[0] == "index" for step in value.path):
            return self.fresh()
        held = self.values.get(value.base, {})
        return held[value.path] if value.path in held else ("held", value, held.get(VERSION))

    def assign(self, target: Value, value: Value, scalar: bool) -> None:
        """Stores a value; a Place that is not a scalar is an object to copy."""
        if not isinstance(target, Place):
            return
        self.access(target, True)
        if not scalar and self.region is not None:
            self.items.append(Whole(target, self.line))
        held = self.values.setdefault(target.base, {})
        held[VERSION] = self.fresh()
        size = len(target.path)
        for path in [
            p for p in held if (p != VERSION and p[:size] == target.path) or target.path[: len(p)] == p
        ]:
            del held[path]
        if any(step[0] == "index" for step in target.path):
            return
        if scalar:
            held[target.path] = value
        elif isinstance(value, Place):
            length = len(value.path)
            for path, part in list(self.values.get(value.base, {}).items()):
                if path != VERSION and path[:length] == value.path:
                    moved = (*target.path, *path[length:])
                    held[moved] = part

    def copy(self, target: Place, value: Value, text: str) -> None:
        """Stores a value of a type."""
        if is_scalar(text) or is_pointer(text):
            self.assign(target, self.load(value) if is_scalar(text) else value, True)
        else:
            if isinstance(value, Place):
                self.access(value, False)
            self.assign(target, value, False)

    def queue(self, place: Value, kind: str, name: str) -> None:
        """Keeps an access to a stream or an AXI master."""
        if not isinstance(place, Place):
            raise Unsupported(f"line {self.line}: a stream without a name")
        decl = self.tree.decls.get(place.base[0], {})
        way = "write" if name == "write" else "read"
        _, ends = self.queues.setdefault(place.base, (type_of(decl), {"read": set(), "write": set()}))
        ends[way].add(self.calls)
        memory = self.memories.setdefault(
            (place, way), Memory(f"{decl.get('name', '')}.{way}()", 1, kind, argument=True)
        )
        if self.region is not None:
            self.items.append(Access(memory, way == "write", (), self.line))
