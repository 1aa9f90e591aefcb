"""Reads a kernel's syntax tree and its `#pragma HLS` lines."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
INCLUDE = ROOT / "fpga" / "include"
HEADERS = ROOT / "tests" / "fpga" / "hls"
LOOPS = ("ForStmt", "WhileStmt", "DoStmt", "CXXForRangeStmt")
FUNCTIONS = ("FunctionDecl", "CXXMethodDecl", "CXXConstructorDecl", "CXXConversionDecl")

Node = dict[str, Any]


class Unsupported(Exception):
    """Names what this program or HLS cannot unroll."""


@dataclass
class Pragma:
    """A `#pragma HLS` or `QUASAR_HLS`: its directive, words, and values by name."""

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
    return bool(re.fullmatch(r"fast::Integer<\d+, \w+>", plain)) or bool(
        re.fullmatch(r"(unsigned |signed )?(char|short|int|long|long long|__int128)|bool|unsigned", plain)
    )


def is_pointer(text: str) -> bool:
    """Returns whether a type is a pointer: no kernel changes one."""
    return text.rstrip().endswith("*") or "(*)" in text


def is_reference(text: str) -> bool:
    """Returns whether a type is a reference, to an array too."""
    return text.endswith("&") or "(&)" in text


def has_body(function: Node) -> bool:
    inner = function.get("inner") or [{}]
    return bool(inner[-1].get("kind") == "CompoundStmt") and not function.get("isImplicit")
