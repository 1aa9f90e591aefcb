"""Declares the wires, the modules and the objects of a kernel's netlist."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from .sites import Value

#: Bits of the native types.
NATIVE = {"char": 8, "short": 16, "int": 32, "long": 64, "long long": 64, "__int128": 128}


def range_of(text: str) -> tuple[int, int]:
    """Returns the least and the largest number of a type."""
    plain = re.sub(r"\b(const|volatile)\b", "", text).strip(" &")
    declared = re.match(r"fast::Integer<(\d+), (true|false)>", plain)
    if declared:
        bits, signed = int(declared[1]), declared[2] == "true"
    elif plain == "bool":
        bits, signed = 1, False
    else:
        signed = not plain.startswith("unsigned")
        bits = NATIVE[plain.removeprefix("unsigned").removeprefix("signed").strip() or "int"]
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)


def bits_of(low: int, high: int) -> int:
    """Returns the bits of a range."""
    return max(1, high.bit_length()) if low >= 0 else max(high.bit_length(), (-low - 1).bit_length()) + 1


def literal(value: int) -> str:
    """Returns a number as a signed constant."""
    return f"{'-' if value < 0 else ''}{abs(value).bit_length() + 1}'sd{abs(value)}"


@dataclass(eq=False)
class Net:
    """A wire, and the range of its number."""

    module: Module
    name: str
    low: int
    high: int
    operands: tuple[Net, ...] = ()
    weight: int = 0  # 1: an addition, a comparison, or a shift by a variable
    slow: str = ""  # a multiplier or a divider

    @property
    def bits(self) -> int:
        """Returns the bits of its range."""
        return bits_of(self.low, self.high)

    @property
    def declaration(self) -> str:
        """Returns its type and name in Verilog."""
        return f"{'signed ' if self.low < 0 else ''}[{self.bits - 1}:0] {self.name}"


def effort(form: str, operands: list[Value]) -> tuple[int, str]:
    """Returns the weight of an operation, and what it is if it takes more than a cycle."""
    operation = re.fullmatch(r"\{0\} (\S+) \{1\}", form)
    if operation is None:
        return (1 if re.search(r"(<<<|>>>) [a-z]", form) else 0), ""
    if operation[1] in "/%":
        return 1, "divider"
    if operation[1] == "*":
        constant = next((abs(value) for value in operands if isinstance(value, int)), None)
        if constant is None:
            return 1, "multiplier"
        return constant.bit_count() - 1, ""
    return int(operation[1] in ("+", "-", "<", ">", "<=", ">=", "==", "!=")), ""


@dataclass(eq=False)
class Module:
    """The Verilog of a pipelined loop, or of the rest of a process."""

    name: str
    lines: list[str] = field(default_factory=list)
    inputs: dict[Any, tuple[Net, Input | None, str]] = field(default_factory=dict)
    made: dict[Any, Net] = field(default_factory=dict)
    outputs: dict[str, Net] = field(default_factory=dict)
    registers: dict[str, Net] = field(default_factory=dict)  # next values by name
    first: dict[str, int | None] = field(default_factory=dict)  # first values; None: an input
    #: Writes by memory and bank, or stream: condition, address, data and their type.
    writes: dict[Any, list[tuple[Value, tuple[Value, ...], Any, str]]] = field(default_factory=dict)
    exits: list[Net] = field(default_factory=list)  # conditions of the loop
    pipelined: bool = False
    begin: int = 0  # reads of memories and queues before the loop have numbers up to this one
    count: int = 0

    def fresh(self, low: int, high: int, prefix: str = "n") -> Net:
        """Returns a new wire."""
        self.count += 1
        return Net(self, f"{prefix}{self.count}", low, high)

    def observe(self, value: Value) -> None:
        """Makes an output of a wire."""
        if isinstance(value, Net) and value.module is self:
            self.outputs[value.name] = value

    def text(self, name: str) -> str:
        """Returns the module."""
        held = {
            net.name: self.registers[net.name]
            for net, *_ in self.inputs.values()
            if net.name in self.registers
        }
        ports = ["input wire clk"]
        ports += [f"input wire {net.declaration}" for net, *_ in self.inputs.values() if net.name not in held]
        given = [net for net, *_ in self.inputs.values() if self.first.get(net.name, 0) is None]
        ports += ["input wire begins"] if self.first else []
        ports += [f"input wire [{net.bits - 1}:0] first_{net.name}" for net in given]
        ports += [f"output wire [{net.bits - 1}:0] o_{net.name}" for net in self.outputs.values()]
        body = [f"  reg {net.declaration};" for net, *_ in self.inputs.values() if net.name in held]
        body += self.lines
        for old, new in held.items():
            number = self.first.get(old, 0)
            value = f"first_{old}" if number is None else literal(number)
            # Two assignments: in one expression, an unsigned operand would take the other's sign.
            begin = f"if (begins) {old} <= {value}; else " if old in self.first else ""
            body.append(f"  always @(posedge clk) {begin}{old} <= {new.name};")
        body += [f"  assign o_{net.name} = {net.name};" for net in self.outputs.values()]
        return f"module {name} ({', '.join(ports)});\n" + "\n".join(body) + "\nendmodule\n"


# What an object holds: a number, a Net, a Place (of a pointer), or one of these. They never change.


class Undefined:
    """An object that nobody has written, or zeros."""


UNDEFINED = Undefined()


@dataclass(eq=False)
class Input:
    """An object from outside a module; its numbers become inputs when they are read."""

    base: Any
    path: tuple[Any, ...]
    name: str
    parts: dict[Any, Input] = field(default_factory=dict)


@dataclass(eq=False)
class Choice:
    """One of several objects of a type, by a number."""

    index: Value
    items: list[Any]
    parts: dict[Any, Any] = field(default_factory=dict)


@dataclass(eq=False)
class Parts:
    """An object of which parts are known."""

    parts: dict[Any, Any]
    rest: Any
