#!/usr/bin/env python3
"""Checks that the kernels' pipelined loops do not need more ports than their memories have.

C simulation counts the accesses that happen. Vitis HLS counts access sites: the places in a pipelined loop
that name a memory, taken or not. It gives each site a port in each interval, so C simulation passes loops
that HLS cannot schedule. This program counts as HLS does:

- A loop in a pipelined loop is unrolled, and a called function is inlined. Each copy of an access is a site.
- In a dimension that is partitioned completely, an index that is constant after unrolling names one bank. Any
  other index names every bank: the site counts for each of them.
- The branches of one `if` (`switch`, `?:`) exclude each other. They share a port if they name the same bank:
  the same constant or the same expression. Otherwise their sites add up. So do those of two `if`s,
  whatever their conditions, and those before and behind a `continue`.
- A loop with an interval of N has N times the ports.

HLS may find more pairs of sites that exclude each other. What passes here does not depend on that.

Ports: those of `storage_type` for an `ap_memory` argument; two for a process's own array, and for one that two
processes share; one to read and one to write a stream or an AXI master. Registers need none: arrays that are
partitioned in all dimensions and arrays whose every index is constant. Nor does a constant array as `rom_np`.

A loop in a pipelined loop whose number of trips is not a constant is an error: it cannot be unrolled. So is a
number of type `unsigned` or `int` that a pipelined loop changes for its next interval, unless a constant is its
bound: the loop's interval waits for it, so its type states its range (`up_to`, a field's type, `uint32_t`).

`python tools/check_hls_ports.py [FILE ...]` checks the given kernels, or all of fpga/src. A file's kernel is the
function of its name. The configuration is tests/fpga/hls/config.hpp, in which all counts of groups are above 1
(--config FOLDER: that folder's config.hpp). Needs clang++.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
INCLUDE = ROOT / "fpga" / "include"
HEADERS = ROOT / "tests" / "fpga" / "hls"
#: Copies of a loop's body above which its number of trips is taken for unknown.
MOST_TRIPS = 8192
LOOPS = ("ForStmt", "WhileStmt", "DoStmt", "CXXForRangeStmt")
FUNCTIONS = ("FunctionDecl", "CXXMethodDecl", "CXXConstructorDecl", "CXXConversionDecl")
#: Ports by `storage_type` or `type` of storage.
STORAGE = {"ram_1p": 1, "rom_1p": 1, "ram_2p": 2, "ram_s2p": 2, "ram_t2p": 2, "rom_2p": 2}
#: Key that counts an object's changes, among the values of its parts.
VERSION = ("version",)

Node = dict[str, Any]
#: An integer, a place (of a reference or a pointer), or a term that stands for an unknown number.
Value = Any


class Unsupported(Exception):
    """Names what this program or HLS cannot unroll."""


@dataclass
class Pragma:
    """A `#pragma HLS`: its directive, words, and values by name."""

    line: int
    directive: str
    words: list[str]
    values: dict[str, str]


def pragmas_in(text: str) -> Iterator[Pragma]:
    """Returns the pragmas of a source file."""
    lines = text.splitlines()
    for number, first in enumerate(lines, 1):
        if not first.startswith("#pragma HLS "):
            continue
        whole, next_line = first, number
        while whole.endswith("\\"):
            whole = whole[:-1] + lines[next_line]
            next_line += 1
        words = re.sub(r"\s*=\s*", "=", whole).split()[2:]
        values = dict(word.lower().split("=", 1) if word[:8].lower() != "variable" else word.split("=", 1)
                      for word in words if "=" in word)  # fmt: skip
        yield Pragma(number, words[0].upper(), [word.lower() for word in words[1:]], values)


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


class Tree:
    """A kernel's syntax tree, as clang++ prints it."""

    def __init__(self, source: Path, config: Path) -> None:
        compiler = shutil.which("clang++")
        if compiler is None:
            sys.exit("error: clang++ is not on PATH; install it (Debian, Ubuntu: apt install clang)")
        includes = [f"-I{path}" for path in (INCLUDE, HEADERS)]
        command = [compiler, "-std=c++17", "-D__SYNTHESIS__", "-DQUASAR_FAST", "-w", "-fsyntax-only"]
        command += [f"-I{config}", *includes, "-Xclang", "-ast-dump=json", str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"error: clang++ does not compile {source}:\n{done.stderr}")
        self.decls: dict[str, Node] = {}
        self.bodies: dict[str, Node] = {}  # functions by mangled name
        self.pragmas: dict[str, list[Pragma]] = {}
        self.own = {str(path) for path in INCLUDE.glob("*.hpp")} | {str(source)}
        self.members: set[tuple[str, str]] = set()  # arrays that their class partitions: (name, file)
        self.scopes: dict[int, list[Pragma]] = {}  # pragmas of loops and functions
        self._file, self._line = "", 0
        root = json.loads(done.stdout)
        self._locate(root)
        for function in self.bodies.values():
            if function["at"][0] in self.own:
                self._attach(function)

    def _read(self, location: Node) -> tuple[str, int]:
        for part in ("spellingLoc", "expansionLoc"):
            if part in location:
                self._read(location[part])
        self._file = location.get("file", self._file)
        self._line = location.get("line", self._line)
        return self._file, self._line

    def _locate(self, node: Node) -> None:
        """Sets `at` and `end` of a node and all below. The dump leaves out what repeats."""
        node["at"] = self._read(node["loc"]) if "loc" in node else (self._file, self._line)
        if "range" in node:
            begin = self._read(node["range"]["begin"])
            node["at"] = node["at"] if "loc" in node else begin
            node["begin"], node["end"] = begin, self._read(node["range"]["end"])
        if "id" in node and node.get("kind", "").endswith("Decl"):
            self.decls[node["id"]] = node
        inner = node.get("inner", ())
        for child in inner:
            self._locate(child)
        if node.get("kind") in FUNCTIONS and inner and inner[-1].get("kind") == "CompoundStmt":
            self.bodies[symbol(node)] = node

    def _attach(self, function: Node) -> None:
        """Gives each pragma of a function to the innermost loop around it, or to the function."""
        file = function["at"][0]
        if file not in self.pragmas:
            self.pragmas[file] = list(pragmas_in(Path(file).read_text()))
        inside = [p for p in self.pragmas[file] if function["begin"][1] <= p.line <= function["end"][1]]
        loops = [node for node in below(function) if node.get("kind") in LOOPS]
        names = {node.get("name") for node in below(function) if node.get("kind", "").endswith("VarDecl")}
        for pragma in inside:
            around = [n for n in loops if n["begin"][1] <= pragma.line <= n["end"][1]]
            scope = min(around, key=lambda n: n["end"][1] - n["begin"][1], default=function)
            self.scopes.setdefault(id(scope), []).append(pragma)
            if scope is not function:
                self.scopes.setdefault(id(function), []).append(pragma)
            variable = pragma.values.get("variable", "")
            if pragma.directive == "ARRAY_PARTITION" and variable.split(".")[0] not in names:
                self.members.add((variable, file))

    def of(self, scope: Node, directive: str) -> list[Pragma]:
        """Returns a scope's pragmas of a directive; a function's include those of its loops."""
        return [p for p in self.scopes.get(id(scope), []) if p.directive == directive]


def symbol(function: Node) -> str:
    """Returns a function's mangled name, which its declarations share."""
    return str(function.get("mangledName") or function["id"])


def below(node: Node) -> Iterator[Node]:
    """Returns all nodes below one."""
    for child in node.get("inner", ()):
        yield child
        yield from below(child)


def type_of(node: Node) -> str:
    """Returns a node's type without aliases."""
    given = node.get("type", {})
    return str(given.get("desugaredQualType") or given.get("qualType") or "")


def is_scalar(text: str) -> bool:
    """Returns whether a type is a number, native or of declared width."""
    plain = re.sub(r"\b(const|volatile)\b", "", text).strip(" &")
    return plain.startswith("fast::Integer<") or bool(
        re.fullmatch(r"(unsigned |signed )?(char|short|int|long|long long|__int128)|bool|unsigned", plain)
    )


def is_pointer(text: str) -> bool:
    """Returns whether a type is a pointer: no kernel changes one."""
    return text.rstrip().endswith("*") or "(*)" in text


def wrapped(value: Value, text: str) -> Value:
    """Returns a number as its type holds it."""
    if not isinstance(value, int):
        return value
    plain = re.sub(r"\b(const|volatile)\b", "", text).strip(" &")
    if plain == "bool":
        return int(value != 0)
    sizes = {"char": 8, "short": 16, "int": 32, "long": 64, "long long": 64, "unsigned": 32}
    width = sizes.get(plain.removeprefix("unsigned ").removeprefix("signed "))
    if width is None:
        return value
    value &= (1 << width) - 1
    return value - (1 << width) if not plain.startswith("unsigned") and value >> (width - 1) else value


OPERATIONS: dict[str, Any] = {
    "+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b,
    "/": lambda a, b: int(a / b) if a < 0 or b < 0 else a // b,
    "%": lambda a, b: a - b * int(a / b) if a < 0 or b < 0 else a % b,
    "<<": lambda a, b: a << b, ">>": lambda a, b: a >> b, "&": lambda a, b: a & b, "|": lambda a, b: a | b,
    "^": lambda a, b: a ^ b, "==": lambda a, b: int(a == b), "!=": lambda a, b: int(a != b),
    "<": lambda a, b: int(a < b), ">": lambda a, b: int(a > b), "<=": lambda a, b: int(a <= b),
    ">=": lambda a, b: int(a >= b),
}  # fmt: skip


class Kernel:
    """Goes through a kernel once, from its top function down, and keeps the access sites of its pipelined loops.

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
        self.seen: set[int] = set()  # lines of PIPELINE pragmas that were reached
        self.enter(self.top, [], None)
        for pragma in self.tree.pragmas[str(source)]:
            if pragma.directive == "PIPELINE" and "off" not in pragma.words and pragma.line not in self.seen:
                raise Unsupported(f"{source.name}:{pragma.line}: no call from {self.name} reaches this loop")

    # Values and places

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
                fields, file = (*fields, step[1]), step[2]
                at += 1
                continue
            indices = []
            while at < len(place.path) and place.path[at][0] == "index":
                indices.append(place.path[at][1])
                at += 1
            split = self.split(place.base, decl, fields, file, len(indices))
            if len(split) == len(indices):
                fields = (*fields, "[]")
                continue
            memory = self.memories.get((place.base, fields))
            if memory is None:
                argument = decl in self.top["inner"]
                memory = Memory(".".join((decl.get("name", ""), *fields)), self.ports(decl, argument))
                memory.argument = argument
                self.memories[place.base, fields] = memory
            if not all(isinstance(index, int) for index in indices):
                memory.variable = True
            return memory, tuple(indices[dimension - 1] for dimension in split)
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

    def load(self, value: Value, text: str = "") -> Value:
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

    # Functions

    def enter(self, function: Node, arguments: list[Value], this: Value) -> Value:
        """Runs a function."""
        if function in self.functions:
            raise Unsupported(f"{function['name']} calls itself")
        self.functions.append(function)
        self.this.append(this)
        self.returned.append(None)
        parameters = [n for n in function["inner"] if n["kind"] == "ParmVarDecl"]
        given = [*arguments, *[None] * (len(parameters) - len(arguments))]
        for parameter, value in zip(parameters, given, strict=True):
            text = type_of(parameter)
            if text.endswith("&") and isinstance(value, Place):
                self.places[parameter["id"]] = value
                continue
            place = self.declare(parameter)
            if value is None and is_pointer(text):  # an array argument of the kernel
                value = Place(place.base, (("index", 0),))
            self.copy(place, self.fresh() if value is None else value, text)
        if any("off" not in p.words for p in self.own_pragmas(function)) and self.region is None:
            self.pipelined(function, self.own_pragmas(function)[0], lambda: self.run(function["inner"][-1]))
        else:
            self.run(function["inner"][-1])
        self.functions.pop()
        self.this.pop()
        return self.returned.pop()

    def own_pragmas(self, function: Node) -> list[Pragma]:
        """Returns the PIPELINE pragmas of a function itself."""
        inner = [n for n in below(function) if n.get("kind") in LOOPS]
        loops = {id(p) for n in inner for p in self.tree.of(n, "PIPELINE")}
        return [p for p in self.tree.of(function, "PIPELINE") if id(p) not in loops]

    def pipelined(self, scope: Node, pragma: Pragma, body: Any) -> None:
        """Runs the body of a pipelined loop or function."""
        region = Region(self.name, self.process, scope["begin"][1], int(pragma.values.get("ii", "1")))
        self.seen.add(pragma.line)
        outer, self.items = self.items, region.items
        self.region = region
        body()
        self.region, self.items = None, outer
        self.regions.append(region)

    def call(self, function: Node | None, arguments: list[Value], nodes: list[Node], this: Value) -> Value:
        """Calls a function: runs it if its source is ours."""
        body = function and self.tree.bodies.get(symbol(function))
        if not body or body["at"][0] not in self.tree.own or body["at"][0].endswith("fast_int.hpp"):
            for argument, node in zip(arguments, nodes, strict=False):
                if isinstance(argument, Place) and "const" not in type_of(node):
                    self.assign(argument, self.fresh(), is_scalar(type_of(node)))
            return self.fresh()
        top = len(self.functions) == 1
        if top:
            self.process = body["name"]
        line = self.line
        value = self.enter(body, arguments, this)
        self.line = line
        return value

    # Statements. Each returns None, or how it leaves: "break", "continue", "return".

    def run(self, node: Node) -> str | None:
        """Runs a statement."""
        kind = node.get("kind")
        if kind is None:
            return None
        self.line = node["begin"][1] if "begin" in node else self.line
        method = getattr(self, f"_run_{kind}", None)
        if method is not None:
            return method(node)  # type: ignore[no-any-return]
        self.eval(node)
        return None

    def _run_CompoundStmt(self, node: Node) -> str | None:
        for child in node.get("inner", ()):
            left = self.run(child)
            if left is not None:
                return left
        return None

    def _run_LabelStmt(self, node: Node) -> str | None:
        return self.run(node["inner"][-1])

    def _run_NullStmt(self, node: Node) -> None:
        return None

    def _run_BreakStmt(self, node: Node) -> str:
        return "break"

    def _run_ContinueStmt(self, node: Node) -> str:
        return "continue"

    def _run_ReturnStmt(self, node: Node) -> str:
        value = self.eval(node["inner"][0]) if node.get("inner") else None
        before = self.returned[-1]
        self.returned[-1] = value if before is None or before == value else self.fresh()
        return "return"

    def _run_DeclStmt(self, node: Node) -> None:
        for decl in node["inner"]:
            if decl["kind"] != "VarDecl":
                continue
            text = type_of(decl)
            init = next((n for n in decl.get("inner", ()) if "valueCategory" in n), None)
            if decl.get("constexpr") and not is_scalar(text):
                init = None  # a table: no one reads it at run time but through an index
            if text.endswith("&"):
                value = self.eval(init) if init else None
                self.places[decl["id"]] = value if isinstance(value, Place) else self.declare(decl)
                if not isinstance(value, Place):
                    self.copy(self.places[decl["id"]], value, text.removesuffix("&"))
                continue
            value = self.eval(init) if init else None
            place = self.declare(decl)
            if init is not None and (init["kind"] != "CXXConstructExpr" or init.get("inner")):
                self.copy(place, value, text)

    def snapshot(self) -> dict[tuple[str, int], dict[tuple[Any, ...], Value]]:
        """Returns a copy of all values."""
        return {base: dict(held) for base, held in self.values.items()}

    def choose(self, arms: Iterable[Any]) -> str | None:
        """Runs arms of which one is taken."""
        before, places = self.snapshot(), dict(self.places)
        items, taken, states, ways = self.items, [], [], []
        for arm in arms:
            self.values = {base: dict(held) for base, held in before.items()}
            self.places = dict(places)
            self.items = []
            ways.append(arm())
            taken.append(self.items)
            if ways[-1] is None:
                states.append(self.values)
        self.items = items
        if any(taken):
            self.items.append(Branch(taken))
        self.places = places
        if not states:
            self.values = before
            return ways[0] if len(set(ways)) == 1 else "continue"
        merged: dict[tuple[str, int], dict[tuple[Any, ...], Value]] = {}
        for base in {base for state in states for base in state}:
            helds = [state.get(base, {}) for state in states]
            first = helds[0]
            merged[base] = {p: first[p] for p in first if all(p in h and h[p] == first[p] for h in helds)}
            if any(held.get(VERSION) != first.get(VERSION) for held in helds):
                merged[base][VERSION] = self.fresh()
        self.values = merged
        return None

    def _run_IfStmt(self, node: Node) -> str | None:
        inner = list(node["inner"])
        if node.get("hasInit") or node.get("hasVar"):
            raise Unsupported(f"line {node['begin'][1]}: a declaration in an if's condition")
        condition = self.eval(inner[0])
        orelse = inner[2] if node.get("hasElse") else {}
        if isinstance(condition, int):
            return self.run(inner[1] if condition else orelse)
        return self.choose([lambda: self.run(inner[1]), lambda: self.run(orelse)])

    def _run_SwitchStmt(self, node: Node) -> str | None:
        self.eval(node["inner"][0])
        arms: list[list[Node]] = []
        closed = True
        for child in node["inner"][-1].get("inner", ()):
            if child["kind"] in ("CaseStmt", "DefaultStmt"):
                if closed:
                    arms.append([])
                closed = False
                while child["kind"] in ("CaseStmt", "DefaultStmt"):
                    child = child["inner"][-1]
            arms[-1].append(child)
            closed = closed or child["kind"] in ("BreakStmt", "ContinueStmt", "ReturnStmt")

        def arm(nodes: list[Node]) -> Any:
            def body() -> str | None:
                left = self._run_CompoundStmt({"inner": nodes})
                return None if left == "break" else left

            return body

        return self.choose([*map(arm, arms), lambda: None])

    def _run_ForStmt(self, node: Node) -> str | None:
        init, _, condition, step, body = node["inner"]
        self.run(init)
        return self.loop(node, condition, body, step)

    def _run_WhileStmt(self, node: Node) -> str | None:
        return self.loop(node, node["inner"][-2], node["inner"][-1], {})

    def _run_DoStmt(self, node: Node) -> str | None:
        return self.loop(node, node["inner"][1], node["inner"][0], {})

    def _run_CXXForRangeStmt(self, node: Node) -> None:
        if self.region is not None:
            raise Unsupported(f"line {node['begin'][1]}: a loop over a range in a pipelined loop")

    def loop(self, node: Node, condition: Node, body: Node, step: Node) -> str | None:
        """Runs a loop: all its trips where it is unrolled, else one that stands for all."""
        pragmas = [p for p in self.tree.of(node, "PIPELINE") if "off" not in p.words]
        if self.region is not None or (self.tree.of(node, "UNROLL") and not pragmas):
            for _ in range(MOST_TRIPS):
                more = self.eval(condition) if condition else 1
                if not isinstance(more, int):
                    break
                if not more:
                    return None
                left = self.run(body)
                if left in ("break", "return"):
                    return None if left == "break" else left
                if step:
                    self.eval(step)
            raise Unsupported(
                f"{self.name}.cpp:{node['begin'][1]}: a loop in a pipelined loop whose number of trips is not a "
                "constant; give it a constant bound and a condition inside, or pipeline this loop instead"
            )
        self.forget(node)

        def once() -> None:
            if condition:
                self.eval(condition)
            if pragmas:
                self.check_widths(node, condition)
            self.run(body)
            if step:
                self.eval(step)

        if pragmas:
            self.pipelined(node, pragmas[0], once)
        else:
            once()
        self.forget(node)
        return None

    def check_widths(self, loop: Node, condition: Node) -> None:
        """Reports numbers of no stated width that an interval hands to the next."""
        inside = {node["id"] for node in below(loop["inner"][-1]) if node.get("kind") == "VarDecl"}
        if condition.get("opcode") == "<" and isinstance(self.eval(condition["inner"][1]), int):
            bounded = [node for node in below(condition["inner"][0]) if node.get("kind") == "DeclRefExpr"]
            inside |= {node["referencedDecl"]["id"] for node in bounded}
        for node in below(loop):
            changes = node.get("opcode") in ("=", "++", "--") or node.get("kind") == "CompoundAssignOperator"
            target = node["inner"][0] if changes else {}
            named = target.get("referencedDecl", {})
            written = target.get("type", {}).get("qualType")
            if target.get("kind") != "DeclRefExpr" or written not in ("unsigned int", "int"):
                continue
            if named["id"] not in inside:
                inside.add(named["id"])
                self.errors.append(
                    f"{self.name}.cpp:{node['begin'][1]}: {written} {named['name']} has no stated range; "
                    "give it a type that has one (up_to, a field's type, uint32_t)"
                )

    def forget(self, loop: Node) -> None:
        """Forgets the values of all variables that a loop may change."""
        for node in below(loop):
            if node.get("kind") == "DeclRefExpr" and not type_of(node).startswith("const "):
                place = self.places.get(node["referencedDecl"]["id"])
                if place is not None and not is_pointer(type_of(node)):
                    self.values[place.base] = {VERSION: self.fresh()}

    # Expressions

    def eval(self, node: Node) -> Value:
        """Returns an expression's value: a Place if it is an lvalue, an object or a pointer."""
        kind = node.get("kind", "")
        method = getattr(self, f"_eval_{kind}", None)
        if method is not None:
            return method(node)
        values = [self.eval(child) for child in node.get("inner", ()) if child.get("kind")]
        return values[0] if len(values) == 1 else self.fresh()

    def _eval_IntegerLiteral(self, node: Node) -> Value:
        return int(node["value"])

    def _eval_CXXBoolLiteralExpr(self, node: Node) -> Value:
        return int(node["value"])

    def _eval_StringLiteral(self, node: Node) -> Value:
        if self.region is not None and not self.region.name:
            self.region.name = node["value"].strip('"')
        return self.fresh()

    def _eval_ConstantExpr(self, node: Node) -> Value:
        value = str(node.get("value", ""))
        if value in ("true", "false"):
            return int(value == "true")
        return int(value) if re.fullmatch(r"-?\d+", value) else self.eval(node["inner"][0])

    def _eval_SubstNonTypeTemplateParmExpr(self, node: Node) -> Value:
        return self.eval(node["inner"][-1])

    def _eval_CXXDefaultArgExpr(self, node: Node) -> Value:
        return None

    def _eval_UnaryExprOrTypeTraitExpr(self, node: Node) -> Value:
        if node.get("name") != "sizeof":
            return self.fresh()
        given = node.get("argType") or node["inner"][0]["type"]
        return self.size(given.get("desugaredQualType") or given["qualType"])

    def size(self, text: str) -> int:
        """Returns a type's size in bytes."""
        array = re.fullmatch(r"(.*?)((?:\[\d+\])+)", text)
        if array:
            counts = [int(n) for n in re.findall(r"\d+", array[2])]
            total = self.size(array[1].strip())
            for count in counts:
                total *= count
            return total
        sizes = dict(char=1, bool=1, short=2, int=4, long=8)
        plain = text.removeprefix("const ").removeprefix("unsigned ").removeprefix("signed ")
        fixed = re.fullmatch(r"u?int(8|16|32|64)_t", plain)
        if fixed:
            return int(fixed[1]) // 8
        if plain in sizes:
            return sizes[plain]
        for decl in self.tree.decls.values():
            if (
                decl["kind"] == "CXXRecordDecl"
                and decl.get("name") == text
                and decl.get("completeDefinition")
            ):
                return sum(self.size(type_of(n)) for n in decl["inner"] if n["kind"] == "FieldDecl")
        raise Unsupported(f"{self.name}: the size of {text}")

    def _eval_DeclRefExpr(self, node: Node) -> Value:
        identity = node["referencedDecl"]["id"]
        if identity in self.places:
            return self.places[identity]
        decl = self.tree.decls.get(identity)
        if decl is None or decl["kind"] != "VarDecl":
            return self.fresh()
        functions, self.functions = self.functions, []
        place = self.declare(decl)
        self.functions = functions
        init = next((n for n in decl.get("inner", ()) if "valueCategory" in n), None)
        constant = decl.get("constexpr") or type_of(decl).startswith("const ")
        if init is not None and constant and is_scalar(type_of(decl)):
            region, self.region = self.region, None
            self.assign(place, self.load(self.eval(init)), True)
            self.region = region
        return place

    def _eval_ImplicitCastExpr(self, node: Node) -> Value:
        cast = node.get("castKind")
        inner = node["inner"][-1]
        value = self.eval(inner)
        if cast == "LValueToRValue":
            return self.load(value) if is_scalar(type_of(node)) or not isinstance(value, Place) else (
                self.values.get(value.base, {}).get(value.path, value))  # fmt: skip
        if cast == "ArrayToPointerDecay":
            return value.element(0) if isinstance(value, Place) else value
        if cast in ("IntegralCast", "IntegralToBoolean", "UserDefinedConversion"):
            return wrapped(self.load(value), type_of(node))
        return value

    _eval_CXXStaticCastExpr = _eval_ImplicitCastExpr
    _eval_CStyleCastExpr = _eval_ImplicitCastExpr

    def _eval_CXXFunctionalCastExpr(self, node: Node) -> Value:
        value = self.eval(node["inner"][-1])
        return wrapped(self.load(value), type_of(node)) if is_scalar(type_of(node)) else value

    def _eval_CXXConstructExpr(self, node: Node) -> Value:
        inner = node.get("inner", ())
        values = [self.eval(child) for child in inner]
        if is_scalar(type_of(node)):
            return self.load(values[0]) if values else self.fresh()
        if len(values) == 1 and isinstance(values[0], Place):
            return values[0]
        return Place(("temporary", self.fresh()[1]))

    _eval_CXXTemporaryObjectExpr = _eval_CXXConstructExpr

    def _eval_InitListExpr(self, node: Node) -> Value:
        values = [self.eval(child) for child in node.get("inner", ())]
        if is_scalar(type_of(node)):
            return self.load(values[0]) if values else 0
        return Place(("temporary", self.fresh()[1]))

    def _eval_CXXThisExpr(self, node: Node) -> Value:
        return self.this[-1] if self.this[-1] is not None else self.fresh()

    def _eval_MemberExpr(self, node: Node) -> Value:
        base = self.eval(node["inner"][0])
        decl = self.tree.decls.get(node.get("referencedMemberDecl", ""), {})
        if not isinstance(base, Place) or decl.get("kind") != "FieldDecl":
            return base if isinstance(base, Place) else self.fresh()
        return base.member(node["name"], decl["at"][0])

    def _eval_ArraySubscriptExpr(self, node: Node) -> Value:
        base, index = (self.eval(child) for child in node["inner"])
        index = self.load(index)
        if not isinstance(base, Place) or not base.path or base.path[-1][0] != "index":
            return self.fresh()
        place = Place(base.base, (*base.path[:-1], ("index", self.term("+", base.path[-1][1], index))))
        found = self.memory(place)
        counts = re.search(r"\[(\d+)\]$", type_of(node["inner"][0].get("inner", [{}])[0]))
        if found and counts:
            found[0].size = max(found[0].size, int(counts[1]))
        return place

    def term(self, operation: str, a: Value, b: Value) -> Value:
        """Returns the result of an operation."""
        if isinstance(a, int) and isinstance(b, int):
            return OPERATIONS[operation](a, b)
        if operation == "+" and (a == 0 or b == 0):
            return b if a == 0 else a
        if operation == "*" and (a == 0 or b == 0):
            return 0
        if depth(a) + depth(b) > 12 or a is None or b is None:
            return self.fresh()
        return (operation, a, b)

    def _eval_BinaryOperator(self, node: Node) -> Value:
        operation = node["opcode"]
        left, right = node["inner"]
        if operation == "=":
            value = self.eval(right)
            target = self.eval(left)
            self.copy(target, value, type_of(left)) if isinstance(target, Place) else None
            return target
        if operation == ",":
            self.eval(left)
            return self.eval(right)
        a = self.load(self.eval(left))
        if operation in ("&&", "||"):
            if isinstance(a, int) and bool(a) == (operation == "||"):
                return int(operation == "||")
            b = self.load(self.eval(right))
            if isinstance(a, int):
                return int(b != 0) if isinstance(b, int) else b
            return self.fresh() if not isinstance(b, int) or bool(b) == (operation == "&&") else int(bool(b))
        b = self.load(self.eval(right))
        return wrapped(self.term(operation, a, b), type_of(node))

    def _eval_CompoundAssignOperator(self, node: Node) -> Value:
        value = self.load(self.eval(node["inner"][1]))
        target = self.eval(node["inner"][0])
        before = self.load(target)
        result = wrapped(self.term(node["opcode"][:-1], before, value), type_of(node))
        self.assign(target, result, True)
        return target

    def _eval_UnaryOperator(self, node: Node) -> Value:
        operation = node["opcode"]
        value = self.eval(node["inner"][0])
        if operation == "&":
            return value
        if operation == "*":
            return value
        if operation in ("++", "--"):
            before = self.load(value)
            after = wrapped(self.term(operation[0], before, 1), type_of(node))
            self.assign(value, after, True)
            return before if node.get("isPostfix") else value
        held = self.load(value)
        if not isinstance(held, int):
            return held if operation == "+" else (operation, held) if depth(held) < 6 else self.fresh()
        return wrapped({"-": -held, "~": ~held, "!": int(not held), "+": held}[operation], type_of(node))

    def _eval_ConditionalOperator(self, node: Node) -> Value:
        condition, yes, no = node["inner"]
        chosen = self.load(self.eval(condition))
        if isinstance(chosen, int):
            return self.eval(yes if chosen else no)
        values: list[Value] = []
        scalar = is_scalar(type_of(node))

        def arm(part: Node) -> Any:
            def body() -> None:
                value = self.eval(part)
                values.append(self.load(value) if scalar else value)

            return body

        self.choose([arm(yes), arm(no)])
        if values[0] == values[1]:
            return values[0]
        for value in values:  # which of two places: an access to both
            if isinstance(value, Place):
                self.access(value, False)
        return self.fresh() if scalar else Place(("temporary", self.fresh()[1]))

    def _eval_CXXOperatorCallExpr(self, node: Node) -> Value:
        callee, *arguments = node["inner"]
        reference = callee
        while reference.get("kind") != "DeclRefExpr":
            reference = reference["inner"][-1]
        name = reference["referencedDecl"]["name"]
        function = self.tree.decls.get(reference["referencedDecl"]["id"])
        if is_scalar(type_of(arguments[0])):
            target = self.eval(arguments[0])
            values = [self.load(self.eval(a)) for a in arguments[1:]]
            before = self.load(target) if name != "operator=" else None
            operation = name.removeprefix("operator")
            if operation in ("++", "--"):
                result = self.term(operation[0], before, 1)
            elif operation == "=":
                result = values[0]
            else:
                result = self.term(operation.removesuffix("="), before, values[0])
            self.assign(target, result, True)
            return before if operation in ("++", "--") and len(arguments) == 2 else target
        values = [self.eval(a) for a in arguments]
        if name == "operator=" and (function is None or not has_body(function)):
            self.copy(values[0], values[1], type_of(arguments[0])) if isinstance(values[0], Place) else None
            return values[0]
        if function is not None and function["kind"] == "CXXMethodDecl":
            return self.call(function, values[1:], arguments[1:], values[0])
        return self.call(function, values, arguments, None)

    def _eval_CXXMemberCallExpr(self, node: Node) -> Value:
        member, *arguments = node["inner"]
        while member.get("kind") != "MemberExpr":
            member = member["inner"][-1]
        this = self.eval(member["inner"][0])
        kind = type_of(member["inner"][0])
        name = member["name"]
        if name.startswith("operator ") and is_scalar(kind):
            return self.load(this)
        values = [self.eval(a) for a in arguments]
        queue = re.search(r"hls::(stream|burst_maxi)<", kind)
        if queue:
            if name in ("read", "read_nb", "write"):
                for value in values:
                    if name == "write" and isinstance(value, Place):
                        self.access(value, False)
                self.queue(this, queue[1], name)
            if name == "read_nb" and isinstance(values[0], Place):
                self.assign(values[0], self.fresh(), is_scalar(type_of(arguments[0])))
            return self.fresh() if is_scalar(type_of(node)) else Place(("temporary", self.fresh()[1]))
        return self.call(self.tree.decls.get(member.get("referencedMemberDecl", "")), values, arguments, this)

    def queue(self, place: Value, kind: str, name: str) -> None:
        """Keeps an access to a stream or an AXI master."""
        if not isinstance(place, Place):
            raise Unsupported(f"line {self.line}: a stream without a name")
        decl = self.tree.decls.get(place.base[0], {})
        way = "write" if name == "write" else "read"
        memory = self.memories.setdefault(
            (place, way), Memory(f"{decl.get('name', '')}.{way}()", 1, kind, argument=True)
        )
        if self.region is not None:
            self.items.append(Access(memory, way == "write", (), self.line))

    def _eval_CallExpr(self, node: Node) -> Value:
        callee, *arguments = node["inner"]
        values = [self.eval(a) for a in arguments]
        reference = callee
        while reference.get("kind") != "DeclRefExpr":
            reference = reference["inner"][-1]
        function = self.tree.decls.get(reference["referencedDecl"]["id"])
        return self.call(function, values, arguments, None)

    # The report

    def rows(self) -> Iterator[Row]:
        """Returns the sites and the ports of all memories in all pipelined loops."""
        shared: dict[int, dict[str, int]] = {}
        for region in self.regions:
            loop = region.name or f"line {region.line}"
            for memory in {id(m): m for m in self.memories.values()}.values():
                if memory.ports is None or not (memory.argument or memory.variable):
                    continue
                sites = self.most(region.items, memory)
                if sites == 0:
                    continue
                yield Row(self.name, loop, region.line, memory.name, sites, memory.ports * region.interval)
                if memory.kind == "array" and not memory.argument:
                    uses = shared.setdefault(id(memory), {})
                    each = -(-sites // region.interval)
                    uses[region.process] = max(uses.get(region.process, 0), each)
        for memory in {id(m): m for m in self.memories.values()}.values():
            uses = shared.get(id(memory), {})
            for process in self.outside.get(id(memory), ()):
                uses.setdefault(process, 1)
            if len(uses) > 1 and memory.ports is not None:
                name = " and ".join(sorted(uses))
                yield Row(
                    self.name, name, self.top["begin"][1], memory.name, sum(uses.values()), memory.ports
                )

    def most(self, items: list[Any], memory: Memory) -> int:
        """Returns the most sites of a bank of a memory."""
        banks = {
            tuple(index if isinstance(index, int) else None for index in access.bank)
            for access in accesses(items)
            if access.memory is memory
        }
        # A variable index has sites in the banks that others name; if none do, all banks are alike.
        named = {bank for bank in banks if any(index is not None for index in bank)} or banks
        return max((self.sites(items, memory, bank) for bank in named), default=0)

    def sites(self, items: list[Any], memory: Memory, bank: tuple[int | None, ...]) -> int:
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
                key = next(k for k, m in self.memories.items() if m is memory)
                names = tuple(step[1] for step in item.place.path)
                if key[0] == item.place.base and key[1][: len(names)] == names:
                    total += memory.size
            else:
                counts = [self.sites(arm, memory, bank) for arm in item.arms]
                banks = {access.bank for arm in item.arms for access in accesses(arm) if meets(access)}
                total += max(counts, default=0) if len(banks) <= 1 else sum(counts)
        return total


def accesses(items: Iterable[Any]) -> Iterator[Access]:
    """Returns all access sites."""
    for item in items:
        if isinstance(item, Access):
            yield item
        elif isinstance(item, Branch):
            for arm in item.arms:
                yield from accesses(arm)


def depth(value: Value) -> int:
    """Returns how many operations a term has, or more."""
    return 1 + sum(map(depth, value[1:])) if isinstance(value, tuple) and value[0] in OPERATIONS else 0


def has_body(function: Node) -> bool:
    inner = function.get("inner") or [{}]
    return bool(inner[-1].get("kind") == "CompoundStmt") and not function.get("isImplicit")


def main() -> int:
    """Returns the program's status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("files", nargs="*", type=Path, help="kernels; default: all of fpga/src")
    parser.add_argument("--config", type=Path, default=HEADERS, help="folder of config.hpp")
    parser.add_argument("--quiet", action="store_true", help="print errors only")
    arguments = parser.parse_args()
    sys.setrecursionlimit(10000)
    errors = 0
    loops = 0
    if not arguments.quiet:
        print(f"{'kernel':8} {'loop':28} {'line':>4}  {'memory':28} {'sites':>5} {'ports':>5}")
    for path in arguments.files or sorted((ROOT / "fpga" / "src").glob("*.cpp")):
        try:
            kernel = Kernel(path.resolve(), arguments.config.resolve())
        except Unsupported as error:
            print(f"error: {error}", file=sys.stderr)
            errors += 1
            continue
        loops += len(kernel.regions)
        for message in kernel.errors:
            print(f"error: {message}", file=sys.stderr)
            errors += 1
        for row in kernel.rows():
            if row.conflict or not arguments.quiet:
                mark = " conflict" if row.conflict else ""
                print(
                    f"{row.kernel:8} {row.loop:28} {row.line:4}  {row.memory:28} {row.sites:5} {row.ports:5}{mark}"
                )
            errors += row.conflict
    print(f"{loops} pipelined loops: {errors or 'no'} error{'s' if errors != 1 else ''}")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
