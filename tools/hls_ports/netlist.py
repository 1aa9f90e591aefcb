"""Writes a kernel's expressions as Verilog, term by term, to count what its source asks for.

Each pipelined loop becomes a module. Streams, memories and what stands outside the loop are its ports; a
variable that an interval hands to the next is a register. The rest of a process is a module of its own, whose
loops run once. A computed index of an array of registers is a multiplexer of all elements, as in HLS.

Each number has a range, from its type and from the operations; a wire has the bits of its range. Pipeline
registers, state machines and handshakes are absent: the LUTs of these modules are those of the expressions.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .expressions import OPERATIONS
from .kernel import MOST_TRIPS, Kernel
from .nets import (
    UNDEFINED,
    Choice,
    Input,
    Module,
    Net,
    Parts,
    Undefined,
    bits_of,
    effort,
    literal,
    range_of,
)
from .sites import Memory, Place, Value
from .syntax import Node, Pragma, Unsupported, below, is_pointer, is_scalar, type_of

#: A number that nobody has written.
UNDEFINED_NUMBER = 0


@dataclass
class Frame:
    """A function, a trip of a loop, or a switch, that statements leave early."""

    kind: str
    layer: int
    conditions: int
    exits: list[tuple[Value, dict[Any, Any], Any]] = field(default_factory=list)


class Netlist(Kernel):
    """Goes through a kernel like `Kernel`, but keeps what its numbers are made of."""

    reads_tables = True

    def __init__(self, source: Path, config: Path, first: Kernel | None = None) -> None:
        first = first or Kernel(source, config)
        self.rams = {
            (base[0], fields)
            for (base, fields), memory in first.memories.items()
            if isinstance(base, tuple) and memory.ports is not None and (memory.variable or memory.argument)
        }
        text = (config / "config.hpp").read_text()
        self.sizes = {name: int(n) for name, n in re.findall(r"unsigned (\w+) = (\d+)u?;", text)}
        self.modules: list[Module] = []
        self.module = Module("outside")
        self.layers: list[dict[Any, Any]] = [{}]
        self.conditions: list[Value] = []
        self.frames: list[Frame] = []
        self.kinds: dict[Place, str] = {}
        self.counts: dict[Any, int] = {}
        self.control: dict[str, Module] = {}
        self.records = {
            decl.get("name"): {n["name"]: n for n in decl["inner"] if n["kind"] == "FieldDecl"}
            for decl in first.tree.decls.values()
            if decl["kind"] == "CXXRecordDecl" and decl.get("completeDefinition") and decl.get("inner")
        }
        super().__init__(source, config, first.tree)
        for module in self.modules:
            self.finish(module)

    # Wires

    def use(self, value: Value) -> Value:
        """Returns a wire of this module; one of another module becomes an input."""
        if not isinstance(value, Net) or value.module is self.module:
            return value
        return self.input(value, value.low, value.high, None)

    def input(self, key: Any, low: int, high: int, source: Input | None, text: str = "") -> Net:
        """Returns an input of this module."""
        found = self.module.inputs.get(key)
        if found is None:
            name = re.sub(r"\W", "_", source.name) if source else key.name
            self.module.count += 1
            net = Net(self.module, f"i{self.module.count}_{name}", low, high)
            self.module.inputs[key] = found = (net, source, text)
        return found[0]

    def signed(self, value: Value) -> str:
        """Returns a number as a signed expression."""
        if isinstance(value, int):
            return literal(value)
        return value.name if value.low < 0 else f"$signed({{1'b0, {value.name}}})"

    def wire(self, low: int, high: int, form: str, *operands: Value) -> Value:
        """Returns a wire with an expression of operands `{0}`, `{1}`, ...."""
        if low == high:
            return low
        given = [self.use(value) for value in operands]
        key = (low, high, form, *(value if isinstance(value, int) else id(value) for value in given))
        net = self.module.made.get(key)
        if net is None:
            net = self.module.fresh(low, high)
            net.operands = tuple(value for value in given if isinstance(value, Net))
            net.weight, net.slow = effort(form, given)
            self.module.lines.append(f"  wire {net.declaration} = {form.format(*map(self.signed, given))};")
            self.module.made[key] = net
        return net

    def convert(self, value: Value, text: str) -> Value:
        """Returns a number as its type holds it."""
        if not isinstance(value, int | Net) or not is_scalar(text):
            return value
        low, high = range_of(text)
        if re.sub(r"\b(const|volatile)\b", "", text).strip(" &") == "bool":
            return self.operate("!=", value, 0)
        if isinstance(value, int):
            return (value - low) % (high - low + 1) + low
        if low <= value.low and value.high <= high:
            return value
        return self.wire(low, high, "{0}", value)

    def ends(self, value: Value) -> tuple[int, int]:
        """Returns the least and the largest that a number can be."""
        return (value, value) if isinstance(value, int) else (value.low, value.high)

    def operate(self, operation: str, a: Value, b: Value, bits: int = 64) -> Value:
        """Returns the result of an operation, whose operands are exact."""
        a, b = (0 if value is None else value for value in (a, b))
        if isinstance(a, int) and isinstance(b, int):
            if operation in ("&&", "||"):
                return int(bool(a and b) if operation == "&&" else bool(a or b))
            if operation in ("<<", ">>"):
                b &= bits - 1
            return int(OPERATIONS[operation](a, b))
        (al, ah), (bl, bh) = self.ends(a), self.ends(b)
        if operation in ("+", "-"):
            if b == 0:
                return a
            if a == 0 and operation == "+":
                return b
            low, high = (al + bl, ah + bh) if operation == "+" else (al - bh, ah - bl)
            return self.wire(low, high, f"{{0}} {operation} {{1}}", a, b)
        if operation == "*":
            if 0 in (a, b):
                return 0
            if 1 in (a, b):
                return b if a == 1 else a
            for bit, other in ((a, b), (b, a)):
                if self.ends(bit) == (0, 1):
                    return self.mux(bit, other, 0)
            corners = [x * y for x in (al, ah) for y in (bl, bh)]
            return self.wire(min(corners), max(corners), "{0} * {1}", a, b)
        if operation in ("<<", ">>"):
            if bl < 0 or bh >= bits:  # C++ leaves larger shifts undefined
                b = self.wire(0, bits - 1, "{0}", b) if isinstance(b, Net) else b & (bits - 1)
                bl, bh = self.ends(b)
            if b == 0:
                return a
            if operation == "<<":
                low, high = min(al << bh, al << bl), max(ah << bh, ah << bl)
                form = "{0} <<< {1}"
            else:
                low, high = min(al >> bh, al >> bl), max(ah >> bh, ah >> bl)
                form = "{0} >>> {1}"
            # The operand needs the bits of the result, the amount counts as unsigned.
            wide = max(bits_of(low, high), bits_of(al, ah)) + 1
            shift = str(b) if isinstance(b, int) else self.use(b).name
            if isinstance(a, Net) and isinstance(b, int):
                return self.wire(low, high, form.replace("{1}", shift), a)
            padded = (
                self.wire(-(1 << (wide - 1)), (1 << (wide - 1)) - 1, "{0}", a) if isinstance(a, Net) else a
            )
            if isinstance(padded, int):
                return self.wire(low, high, f"{wide}'sd{padded} {form[4:].replace('{1}', shift)}" if padded >= 0
                                 else f"-{wide}'sd{-padded} {form[4:].replace('{1}', shift)}", b)  # fmt: skip
            return self.wire(low, high, form.replace("{1}", shift), padded, b)
        if operation in ("&", "|", "^"):
            if operation == "&" and 0 in (a, b):
                return 0
            if operation != "&" and 0 in (a, b):
                return b if a == 0 else a
            both = max(bits_of(al, ah), bits_of(bl, bh))
            if al >= 0 and bl >= 0:
                low, high = 0, min(ah, bh) if operation == "&" else (1 << both) - 1
            elif operation == "&" and (al >= 0 or bl >= 0):
                low, high = 0, ah if al >= 0 else bh
            else:
                low, high = -(1 << both), (1 << both) - 1
            return self.wire(low, high, f"{{0}} {operation} {{1}}", a, b)
        if operation in ("/", "%"):
            if isinstance(b, int) and b > 0 and b & (b - 1) == 0 and al >= 0:
                return (
                    self.operate(">>", a, b.bit_length() - 1)
                    if operation == "/"
                    else self.operate("&", a, b - 1)
                )
            if bl <= 0 or al < 0:
                raise Unsupported(f"line {self.line}: a division by a number that may not be positive")
            low, high = (al // bh, ah // bl) if operation == "/" else (0, min(ah, bh - 1))
            return self.wire(low, high, f"{{0}} {operation} {{1}}", a, b)
        if operation in ("&&", "||"):
            a, b = self.operate("!=", a, 0), self.operate("!=", b, 0)
            for one, other in ((a, b), (b, a)):
                if isinstance(one, int):
                    return other if bool(one) == (operation == "&&") else one
            return self.wire(0, 1, f"{{0}} {operation[0]} {{1}}", a, b)
        known = {
            "<": (ah < bl, al >= bh), ">": (al > bh, ah <= bl), "<=": (ah <= bl, al > bh),
            ">=": (al >= bh, ah < bl), "==": (False, ah < bl or bh < al), "!=": (ah < bl or bh < al, False),
        }[operation]  # fmt: skip
        if any(known):
            return int(known[0])
        if operation == "!=" and b == 0 and (al, ah) == (0, 1):
            return a
        return self.wire(0, 1, f"{{0}} {operation} {{1}}", a, b)

    def flip(self, condition: Value) -> Value:
        """Returns the opposite of a condition."""
        return int(not condition) if isinstance(condition, int) else self.wire(0, 1, "~{0} & 1", condition)

    def all_of(self, conditions: list[Value]) -> Value:
        """Returns whether all conditions hold."""
        result: Value = 1
        for condition in conditions:
            result = self.operate("&&", result, condition)
        return result

    def pick(self, index: Value, items: list[Value]) -> Value:
        """Returns the number at a computed index: a tree of multiplexers."""
        if isinstance(index, int):
            return items[min(index, len(items) - 1)]
        items = items[: index.high + 1]
        while len(items) & (len(items) - 1):
            items = [*items, items[-1]]
        for bit in range(len(items).bit_length() - 1):
            chosen = self.bit(index, bit)
            items = [self.mux(chosen, high, low) for low, high in zip(items[::2], items[1::2], strict=True)]
        return items[0]

    def bit(self, value: Value, bit: int) -> Value:
        """Returns one bit of a number."""
        return self.operate("&", self.operate(">>", value, bit), 1) if bit else self.operate("&", value, 1)

    def mux(self, condition: Value, a: Value, b: Value) -> Value:
        """Returns one of two numbers."""
        if isinstance(condition, int):
            return a if condition else b
        if a is b or (isinstance(a, int) and isinstance(b, int) and a == b):
            return a
        (al, ah), (bl, bh) = self.ends(a), self.ends(b)
        return self.wire(min(al, bl), max(ah, bh), "{2} ? {0} : {1}", a, b, condition)

    # Objects

    def child(self, tree: Any, step: Any) -> Any:
        """Returns a part of an object."""
        if isinstance(tree, Parts):
            return tree.parts[step] if step in tree.parts else self.child(tree.rest, step)
        if isinstance(tree, Undefined):
            return tree
        if isinstance(tree, Input):
            if step not in tree.parts:
                tree.parts[step] = Input(tree.base, (*tree.path, step), f"{tree.name}_{step}")
            return tree.parts[step]
        if isinstance(tree, Choice):
            if step not in tree.parts:
                tree.parts[step] = Choice(tree.index, [self.child(item, step) for item in tree.items])
            return tree.parts[step]
        raise Unsupported(f"{self.name}.cpp:{self.line}: a part {step} of {tree}")

    def leaf(self, tree: Any, text: str) -> Value:
        """Returns the number that an object of a type is."""
        if isinstance(tree, Undefined):
            return 0
        if isinstance(tree, Input):
            return self.input((tree.base, tree.path), *range_of(text), tree, text)
        if isinstance(tree, Choice):
            return self.pick(tree.index, [self.leaf(item, text) for item in tree.items])
        if isinstance(tree, Parts):
            raise Unsupported(f"{self.name}.cpp:{self.line}: an object in the place of a number")
        return tree

    def merge(self, condition: Value, a: Any, b: Any) -> Any:
        """Returns one of two objects."""
        if isinstance(condition, int):
            return a if condition else b
        if a is b or isinstance(b, Undefined):
            return a
        if isinstance(a, Undefined):
            return b
        if isinstance(a, int | Net) and isinstance(b, int | Net):
            return self.mux(condition, a, b)
        if isinstance(a, Place) or isinstance(b, Place):
            return a if a == b else UNDEFINED
        if isinstance(a, Parts) or isinstance(b, Parts):
            steps = {**getattr(a, "parts", {}), **getattr(b, "parts", {})}
            parts = {step: self.merge(condition, self.child(a, step), self.child(b, step)) for step in steps}
            rests = [tree.rest if isinstance(tree, Parts) else tree for tree in (a, b)]
            return Parts(parts, self.merge(condition, *rests))
        return Choice(condition, [b, a])

    def held(self, base: Any) -> Any:
        """Returns what an object holds."""
        for layer in reversed(self.layers):
            if base in layer:
                return layer[base]
        decl = self.tree.decls.get(base[0], {})
        name = f"{decl.get('name', 'item')}"
        self.layers[0][base] = tree = Input(base, (), name)
        return tree

    def known(self, base: Any) -> bool:
        """Returns whether an object is declared."""
        return any(base in layer for layer in self.layers)

    def declare(self, decl: Node) -> Place:
        """Makes a new instance of a variable, which holds nothing yet."""
        place = super().declare(decl)
        self.layers[-1][place.base] = UNDEFINED
        if is_scalar(type_of(decl)):
            self.kinds[place] = type_of(decl)
        return place

    def ram(self, place: Place) -> tuple[Memory, Any, list[Value], list[Value], tuple[Any, ...]] | None:
        """Returns the memory that holds a place, its key, bank, address, and what remains of the path."""
        for _, fields, indices, split, path in self.arrays(place):
            if len(split) < len(indices) and (place.base[0], fields) in self.rams:
                found = super().memory(place)
                assert found is not None
                bank = [indices[dimension - 1] for dimension in split]
                rest = [index for number, index in enumerate(indices, 1) if number not in split]
                return found[0], (place.base, fields), bank, rest, path
        return None

    def banks(self, name: str) -> int:
        """Returns the banks of a memory of the kernel."""
        c = self.sizes
        groups = -(-c["TOKENS"] // c["LANES"])
        norm = -(-c["TOKENS"] // c["NORM_LANES"])
        exponential = -(-c["TOKENS"] // c["EXP_LANES"])
        return {
            "residual": c["FRAMES"] * groups, "own_residual": c["FRAMES"] * groups,
            "norm_residual": c["FRAMES"] * groups, "query": groups * c["CASCADE"],
            "hidden": groups * c["CASCADE"], "patches": groups * c["CASCADE"],
            "normed": c["FRAMES"] * norm * c["CASCADE"], "score": 2 * exponential,
            "probability": 2 * exponential * c["CASCADE"], "key": c["KEY_BANKS"], "value": c["VALUE_BANKS"],
            "double_buffer": 2, "lookup": c["LANES"],
        }.get(name, 1)  # fmt: skip

    def get(self, place: Place) -> Any:
        """Returns what a place holds; a read of a memory gives a new input."""
        found = self.ram(place)
        if found is not None:
            memory, _, bank, address, rest = found
            for index in address:
                self.module.observe(self.use(index) if isinstance(index, Net) else index)
            count = self.banks(memory.name) if bank and isinstance(bank[0], Net) else 1
            trees = []
            for number in range(count):
                self.count += 1
                trees.append(Input(("ram", self.count), (), f"{memory.name}_{number}"))
            tree = trees[0] if count == 1 else Choice(bank[0], trees)
            path = rest
        else:
            tree, path = self.held(place.base), place.path
        for at, step in enumerate(path):
            if isinstance(tree, Place):
                return tree
            index = step[1]
            if step[0] == "index" and isinstance(index, Net):
                count = self.size_of(place, len(place.path) - len(path) + at)
                tree = Choice(index, [self.child(tree, number) for number in range(count)])
            else:
                tree = self.child(tree, index)
        return tree

    def size_of(self, place: Place, at: int) -> int:
        """Returns the elements of an array whose index is at a place of a path."""
        key = (place.base[0], tuple(step[1] if step[0] == "field" else "[]" for step in place.path[:at]))
        if key not in self.counts:
            raise Unsupported(f"{self.name}.cpp:{self.line}: an array of unknown size")
        return self.counts[key]

    def put(self, place: Place, new: Any) -> None:
        """Stores an object at a place."""
        found = self.ram(place)
        if found is not None:
            memory, key, bank, address, _ = found
            enable = self.all_of(self.conditions)
            count = self.banks(memory.name) if bank and isinstance(bank[0], Net) else 1
            for number in range(count):
                one = (self.operate("==", bank[0], number) if count > 1 else 1) if bank else 1
                name = (key, number if count > 1 else tuple(bank))
                self.module.writes.setdefault(name, []).append(
                    (self.operate("&&", enable, one), tuple(address), new, self.kinds.get(place, "")))  # fmt: skip
            return
        self.layers[-1][place.base] = self.update(self.held(place.base), place, 0, new)

    def update(self, tree: Any, place: Place, at: int, new: Any) -> Any:
        """Returns an object with a new part."""
        if at == len(place.path):
            return new
        kind, index = place.path[at][:2]
        parts, rest = (dict(tree.parts), tree.rest) if isinstance(tree, Parts) else ({}, tree)
        if kind == "index" and isinstance(index, Net):
            for number in range(self.size_of(place, at)):
                old = self.child(tree, number)
                here = self.operate("==", index, number)
                parts[number] = self.merge(here, self.update(old, place, at + 1, new), old)
        else:
            parts[index] = self.update(self.child(tree, index), place, at + 1, new)
        return Parts(parts, rest)

    def access(self, place: Place, write: bool) -> None:
        """Keeps nothing: `Kernel` counts the sites."""

    def load(self, value: Value, text: str = "") -> Value:
        """Returns the number that a place holds."""
        if not isinstance(value, Place):
            return value
        text = text if is_scalar(text) else self.kinds.get(value, "")
        tree = self.get(value)
        if isinstance(tree, int | Net | Place):
            return tree
        return self.leaf(tree, text) if is_scalar(text) else value

    def assign(self, target: Value, value: Value, scalar: bool) -> None:
        """Stores a number, or copies an object."""
        if not isinstance(target, Place):
            return
        if scalar or not isinstance(value, Place):
            kind = self.kinds.get(target, "")
            self.put(target, self.convert(value, kind) if kind else value)
        else:
            self.put(target, self.get(value))

    def copy(self, target: Place, value: Value, text: str) -> None:
        """Stores a value of a type."""
        if is_pointer(text):
            self.put(target, value)
        elif is_scalar(text):
            self.put(target, self.convert(self.load(value, text), text))
        elif isinstance(value, Place):
            self.put(target, self.get(value))

    def temporary(self, tree: Any) -> Place:
        """Returns the place of a nameless object."""
        self.count += 1
        place = Place(("temporary", self.count))
        self.layers[-1][place.base] = tree
        return place

    # Expressions

    def fresh(self) -> Value:
        """Returns nothing: no number is unknown here."""
        self.count += 1
        return None

    def eval(self, node: Node) -> Value:
        """Returns an expression's value, and keeps the type of its place."""
        value = super().eval(node)
        if isinstance(value, Place):
            self.kinds[value] = type_of(node)
        return value

    def term(self, operation: str, a: Value, b: Value) -> Value:
        """Returns the result of an operation."""
        return self.operate(operation, a, b)

    def _eval_ImplicitCastExpr(self, node: Node) -> Value:
        cast = node.get("castKind")
        value = self.eval(node["inner"][-1])
        text = type_of(node)
        if cast == "LValueToRValue":
            return self.load(value, text) if is_scalar(text) or is_pointer(text) else value
        if cast == "ArrayToPointerDecay":
            return value.element(0) if isinstance(value, Place) else value
        if cast in ("IntegralCast", "IntegralToBoolean", "UserDefinedConversion", "ConstructorConversion"):
            return self.convert(self.load(value), text) if is_scalar(text) else value
        return value

    _eval_CXXStaticCastExpr = _eval_ImplicitCastExpr
    _eval_CStyleCastExpr = _eval_ImplicitCastExpr

    def _eval_CXXFunctionalCastExpr(self, node: Node) -> Value:
        value = self.eval(node["inner"][-1])
        return self.convert(self.load(value), type_of(node)) if is_scalar(type_of(node)) else value

    def _eval_CXXConstructExpr(self, node: Node) -> Value:
        values = [self.eval(child) for child in node.get("inner", ())]
        text = type_of(node)
        if is_scalar(text):
            return self.convert(self.load(values[0]), text) if values else UNDEFINED_NUMBER
        if len(values) == 1 and isinstance(values[0], Place):
            return values[0]
        return self.temporary(UNDEFINED)

    _eval_CXXTemporaryObjectExpr = _eval_CXXConstructExpr

    def _eval_ImplicitValueInitExpr(self, node: Node) -> Value:
        return 0 if is_scalar(type_of(node)) else self.temporary(UNDEFINED)

    _eval_CXXScalarValueInitExpr = _eval_ImplicitValueInitExpr

    def _eval_InitListExpr(self, node: Node) -> Value:
        inner = [child for child in node.get("inner", ()) if child.get("kind")]
        text = type_of(node)
        values = [self.eval(child) for child in inner]
        if is_scalar(text):
            return self.convert(self.load(values[0]), text) if values else 0
        array = re.search(r"\[(\d+)\]", text)
        steps: list[Any] = list(range(len(values))) if array else list(self.fields(text))
        if "array_filler" in node:
            values = [
                self.eval(child) for child in node["array_filler"] if child["kind"] != "ImplicitValueInitExpr"
            ]
        parts = {}
        for step, value, child in zip(steps, values, inner, strict=False):
            if is_scalar(type_of(child)):
                parts[step] = self.load(value, type_of(child))
            elif isinstance(value, Place):
                parts[step] = self.get(value)
        return self.temporary(Parts(parts, UNDEFINED))

    def fields(self, text: str) -> dict[str, Node]:
        """Returns a class's fields by name."""
        name = re.sub(r"<.*", "", text.removeprefix("const ")).split("::")[-1].strip()
        if name not in self.records:
            raise Unsupported(f"{self.name}: the fields of {text}")
        return self.records[name]

    def _eval_ArraySubscriptExpr(self, node: Node) -> Value:
        base, index = (self.eval(child) for child in node["inner"])
        index = self.load(index)
        if not isinstance(base, Place) or not base.path or base.path[-1][0] != "index":
            raise Unsupported(f"{self.name}.cpp:{self.line}: an index of {base}")
        counts = re.search(r"\[(\d+)\]", type_of(node["inner"][0].get("inner", [{}])[0]))
        place = Place(base.base, (*base.path[:-1], ("index", self.operate("+", base.path[-1][1], index))))
        if counts:
            names = tuple(step[1] if step[0] == "field" else "[]" for step in base.path[:-1])
            self.counts[base.base[0], names] = int(counts[1])
        return place

    def _eval_BinaryOperator(self, node: Node) -> Value:
        operation = node["opcode"]
        left, right = node["inner"]
        if operation in ("=", ","):
            return super()._eval_BinaryOperator(node)
        a = self.eval(left)
        if is_pointer(type_of(left)):
            step = self.load(self.eval(right), type_of(right))
            return Place(a.base, (*a.path[:-1], ("index", self.operate(operation, a.path[-1][1], step))))
        a = self.load(a, type_of(left))
        if operation in ("&&", "||"):
            if isinstance(a, int) and bool(a) == (operation == "||"):
                return int(operation == "||")
            return self.operate(operation, a, self.load(self.eval(right), type_of(right)))
        b = self.load(self.eval(right), type_of(right))
        low, high = range_of(type_of(node))
        return self.convert(self.operate(operation, a, b, bits_of(low, high)), type_of(node))

    def _eval_CompoundAssignOperator(self, node: Node) -> Value:
        value = self.load(self.eval(node["inner"][1]))
        target = self.eval(node["inner"][0])
        text = type_of(node)
        before = self.load(target, text)
        self.put(target, self.convert(self.operate(node["opcode"][:-1], before, value), text))
        return target

    def _eval_UnaryOperator(self, node: Node) -> Value:
        operation = node["opcode"]
        value = self.eval(node["inner"][0])
        text = type_of(node)
        if operation in ("&", "*"):
            return value
        if operation in ("++", "--"):
            before = self.load(value, text)
            self.put(value, self.convert(self.operate(operation[0], before, 1), text))
            return before if node.get("isPostfix") else value
        held = self.load(value, type_of(node["inner"][0]))
        if operation == "!":
            return self.flip(self.operate("!=", held, 0))
        result = {"+": lambda: held, "-": lambda: self.operate("-", 0, held),
                  "~": lambda: self.operate("-", -1, held)}[operation]()  # fmt: skip
        return self.convert(result, text)

    def _eval_ConditionalOperator(self, node: Node) -> Value:
        condition, yes, no = node["inner"]
        chosen = self.operate("!=", self.load(self.eval(condition)), 0)
        if isinstance(chosen, int):
            return self.eval(yes if chosen else no)
        text = type_of(node)
        values: list[Any] = []

        def arm(part: Node) -> Any:
            def body() -> None:
                value = self.eval(part)
                if is_pointer(text):  # a name
                    values.append(value)
                else:
                    values.append(self.load(value, text) if is_scalar(text) else self.get(value))

            return body

        self.choose_by(chosen, arm(yes), arm(no))
        if is_pointer(text):
            return values[0]
        return self.mux(chosen, *values) if is_scalar(text) else self.temporary(self.merge(chosen, *values))

    def _eval_CXXOperatorCallExpr(self, node: Node) -> Value:
        callee, *arguments = node["inner"]
        text = type_of(arguments[0])
        if not is_scalar(text):
            return super()._eval_CXXOperatorCallExpr(node)
        while callee.get("kind") != "DeclRefExpr":
            callee = callee["inner"][-1]
        operation = callee["referencedDecl"]["name"].removeprefix("operator")
        values = [self.load(self.eval(a), type_of(a)) for a in arguments[1:]]
        target = self.eval(arguments[0])
        before = self.load(target, text) if operation != "=" else None
        if operation in ("++", "--"):
            result = self.operate(operation[0], before, 1)
        elif operation == "=":
            result = values[0]
        else:
            result = self.operate(operation.removesuffix("="), before, values[0])
        self.put(target, self.convert(result, text))
        return before if operation in ("++", "--") and len(arguments) == 2 else target

    def _eval_CXXMemberCallExpr(self, node: Node) -> Value:
        member, *arguments = node["inner"]
        while member.get("kind") != "MemberExpr":
            member = member["inner"][-1]
        kind = type_of(member["inner"][0])
        name = member["name"]
        if name.startswith("operator ") and is_scalar(type_of(node)):
            return self.load(self.eval(member["inner"][0]), kind)
        queue = re.search(r"hls::(stream|burst_maxi)<", kind)
        if not queue:
            return super()._eval_CXXMemberCallExpr(node)
        this = self.eval(member["inner"][0])
        values = [self.eval(a) for a in arguments]
        decl = self.tree.decls.get(this.base[0], {})
        label = decl.get("name", "queue")
        enable = self.all_of(self.conditions)
        if name in ("read", "read_nb"):
            self.module.observe(enable)
        self.count += 1
        item = Input(("queue", self.count), (), f"{label}_read")
        if name == "write":
            text = type_of(arguments[0])
            tree = self.load(values[0], text) if is_scalar(text) else self.get(values[0])
            self.module.writes.setdefault(("queue", label), []).append((enable, (), tree, text))
            return None
        if name == "read_nb":
            self.put(values[0], item)
            return self.input(("valid", self.count), 0, 1, Input(("valid", self.count), (), f"{label}_valid"))
        if name.endswith("request"):
            self.module.writes.setdefault(("queue", label, "request"), []).append(
                (enable, tuple(self.load(value) for value in values), UNDEFINED, ""))  # fmt: skip
            return None
        text = type_of(node)
        return self.leaf(item, text) if is_scalar(text) else self.temporary(item)

    # Statements

    def leave(self, kinds: tuple[str, ...], value: Any = None) -> None:
        """Keeps the state of a path that leaves a frame."""
        frame = next(frame for frame in reversed(self.frames) if frame.kind in kinds)
        state: dict[Any, Any] = {}
        for layer in self.layers[frame.layer :]:
            state.update(layer)
        frame.exits.append((self.all_of(self.conditions[frame.conditions :]), state, value))

    def framed(self, kind: str, body: Callable[[], str | None]) -> list[tuple[Value, Any]]:
        """Runs a body and joins all paths that leave it; returns their conditions and values."""
        frame = Frame(kind, len(self.layers), len(self.conditions))
        self.frames.append(frame)
        self.layers.append({})
        left = body()
        state = self.layers.pop()
        self.frames.pop()
        del self.conditions[frame.conditions :]
        if left is not None and frame.exits:  # no path falls through
            state = frame.exits[-1][1]
            others = frame.exits[:-1]
        else:
            others = frame.exits
        for condition, other, _ in reversed(others):
            state = self.joined(condition, other, state)
        self.layers[-1].update(state)
        return [(condition, value) for condition, _, value in frame.exits]

    def joined(self, condition: Value, a: dict[Any, Any], b: dict[Any, Any]) -> dict[Any, Any]:
        """Returns one of two sets of changes."""
        result = {}
        for base in {**b, **a}:
            if self.known(base):
                below_both = None if base in a and base in b else self.held(base)
                result[base] = self.merge(condition, a.get(base, below_both), b.get(base, below_both))
            else:
                result[base] = a[base] if base in a else b[base]
        return result

    def choose_by(self, condition: Value, yes: Any, no: Any) -> str | None:
        """Runs two arms, of which a condition takes one."""
        if isinstance(condition, int):
            return yes() if condition else no()  # type: ignore[no-any-return]
        arms = []
        for chosen, arm in ((condition, yes), (self.flip(condition), no)):
            depth = len(self.conditions)
            self.conditions.append(chosen)
            self.layers.append({})
            way = arm()
            alive = self.all_of(self.conditions[depth + 1 :])
            arms.append((way, self.layers.pop(), alive))
            del self.conditions[depth:]
        (way, state, alive), (other_way, other, other_alive) = arms
        if way is not None and other_way is not None:
            return way if way == other_way else "continue"
        if way is not None:
            self.layers[-1].update(other)
            self.conditions.append(self.operate("&&", self.flip(condition), other_alive))
        elif other_way is not None:
            self.layers[-1].update(state)
            self.conditions.append(self.operate("&&", condition, alive))
        else:
            self.layers[-1].update(self.joined(condition, state, other))
            both = self.mux(condition, alive, other_alive)
            if both != 1:
                self.conditions.append(both)
        return None

    def _run_BreakStmt(self, node: Node) -> str:
        taken = self.all_of(self.conditions)
        if self.frames[-1].kind == "loop" and isinstance(taken, Net):
            self.module.exits.append(self.use(taken))
        self.leave(("loop", "switch"))
        return "break"

    def _run_ContinueStmt(self, node: Node) -> str:
        self.leave(("loop",))
        return "continue"

    def _run_ReturnStmt(self, node: Node) -> str:
        value = None
        if node.get("inner"):
            given = node["inner"][0]
            value = self.eval(given)
            text = type_of(given)
            if self.result.endswith("&") or is_pointer(text):
                pass
            elif is_scalar(text):
                value = self.load(value, text)
            else:
                value = self.get(value)
        self.leave(("function",), value)
        return "return"

    def _eval_DeclRefExpr(self, node: Node) -> Value:
        identity = node["referencedDecl"]["id"]
        decl = self.tree.decls.get(identity)
        if (
            identity not in self.places
            and decl is not None
            and decl["kind"] == "VarDecl"
            and decl.get("constexpr")
        ):
            init = next((n for n in decl.get("inner", ()) if "valueCategory" in n), None)
            place = self.declare(decl)
            self.layers[0][place.base] = self.layers[-1].pop(place.base)
            if init is not None:
                layers, self.layers = self.layers, [self.layers[0]]
                self.copy(place, self.eval(init), type_of(decl))
                self.layers = layers
            return place
        return super()._eval_DeclRefExpr(node)

    def _run_IfStmt(self, node: Node) -> str | None:
        inner = list(node["inner"])
        orelse = inner[2] if node.get("hasElse") else {}
        condition = self.operate("!=", self.load(self.eval(inner[0])), 0)
        return self.choose_by(condition, lambda: self.run(inner[1]), lambda: self.run(orelse))

    def _run_SwitchStmt(self, node: Node) -> str | None:
        given = self.load(self.eval(node["inner"][0]))
        arms: list[tuple[list[Value], list[Node]]] = []
        closed = True
        for child in node["inner"][-1].get("inner", ()):
            if child["kind"] in ("CaseStmt", "DefaultStmt"):
                if closed:
                    arms.append(([], []))
                closed = False
                while child["kind"] in ("CaseStmt", "DefaultStmt"):
                    if child["kind"] == "CaseStmt":
                        arms[-1][0].append(self.load(self.eval(child["inner"][0])))
                    child = child["inner"][-1]
            arms[-1][1].append(child)
            closed = closed or child["kind"] in ("BreakStmt", "ContinueStmt", "ReturnStmt")

        def from_arm(number: int) -> str | None:
            if number == len(arms):
                return None
            labels, nodes = arms[number]
            taken: Value = 0 if labels else 1
            for label in labels:
                taken = self.operate("||", taken, self.operate("==", given, label))
            return self.choose_by(
                taken, lambda: self._run_CompoundStmt({"inner": nodes}), lambda: from_arm(number + 1)
            )

        left: list[str | None] = []

        def body() -> str | None:
            left.append(from_arm(0))
            return left[0]

        self.framed("switch", body)
        return None

    def enter(self, function: Node, arguments: list[Value], this: Value) -> Value:
        """Runs a function; joins its returns."""
        for parameter, place, value, text in self.begin(function, arguments, this):
            if value is None and is_pointer(text):  # an array argument of the kernel
                self.count += 1
                array = (parameter["id"], self.count)
                self.partitions[array] = self.partitions.get(place.base, [])
                self.layers[-1][place.base] = Place(array, (("index", 0),))
            elif value is None:
                self.layers[-1][place.base] = Input(place.base, (), parameter.get("name", "argument"))
            elif text.endswith("&"):  # a reference to a number that has no place
                self.layers[-1][place.base] = value
            else:
                self.copy(place, value, text)
        result = re.split(r" ?\((?!anonymous)", function.get("type", {}).get("qualType", ""))[0]
        outer = getattr(self, "result", "")
        self.result = result
        pipelined = [p for p in self.own_pragmas(function) if "off" not in p.words]
        exits: list[tuple[Value, Any]] = []

        def run() -> None:
            exits.extend(self.framed("function", lambda: self.run(function["inner"][-1])))

        if pipelined and self.region is None:
            self.pipelined(function, pipelined[0], run)
        else:
            run()
        self.result = outer
        self.functions.pop()
        self.this.pop()
        values = [(condition, value) for condition, value in exits if value is not None]
        if not values:
            return None
        tree = values[-1][1]
        for condition, value in reversed(values[:-1]):
            tree = self.merge(condition, value, tree)
        if isinstance(tree, int | Net | Place):
            return tree
        return self.temporary(tree)

    def call(self, function: Node | None, arguments: list[Value], nodes: list[Node], this: Value) -> Value:
        """Calls a function; a process has a module of its own."""
        if function is None:
            return None
        name = str(function["name"])
        if name in ("receive_item", "send_item", "poll_item", "take_item"):  # packing needs no logic
            return self.pass_item(name, function, arguments, nodes)
        if name in ("pack", "unpack"):  # bytes from or to one wide number
            self.put(arguments[1], self.get(arguments[0]))
            return None
        outer = self.module
        if len(self.functions) == 1 and self.region is None:
            self.module = self.control.setdefault(name, Module(f"{self.name}.{name}"))
            if self.module not in self.modules:
                self.modules.append(self.module)
        value = super().call(function, arguments, nodes, this)
        self.module = outer
        return value

    def pass_item(self, name: str, function: Node, arguments: list[Value], nodes: list[Node]) -> Value:
        """Reads or writes a queue between kernels."""
        label = self.tree.decls.get(arguments[0].base[0], {}).get("name", "queue")
        enable = self.all_of(self.conditions)
        if name == "send_item":
            text = type_of(nodes[1])
            sites = self.module.writes.setdefault(("queue", label), [])
            sites.append((enable, (), self.get(arguments[1]), text))
            return None
        self.module.observe(enable)
        self.count += 1
        item = Input(("queue", self.count), (), f"{label}_read")
        if name == "receive_item":
            return self.temporary(item)
        self.put(arguments[1], item)
        return self.input(("valid", self.count), 0, 1, Input(("valid", self.count), (), f"{label}_valid"))

    def pipelined(self, scope: Node, pragma: Pragma, body: Any) -> None:
        """Runs the body of a pipelined loop into a module of its own."""
        outer = self.module
        self.module = Module(f"line {scope['begin'][1]}", pipelined=True, begin=self.count)
        self.layers.append({})
        conditions, self.conditions = self.conditions, []
        super().pipelined(scope, pragma, lambda: self.framed("loop", lambda: body() or None))
        self.module.name = self.regions[-1].name or f"{self.name}.{self.process}:{scope['begin'][1]}"
        self.conditions = conditions
        state = self.layers.pop()
        self.carry(state)
        self.modules.append(self.module)
        self.module = outer
        for base in state:
            if self.known(base):
                self.layers[-1][base] = self.unknown(base)

    def carry(self, state: dict[Any, Any]) -> None:
        """Makes registers of what an interval hands to the next."""
        for net, source, text in list(self.module.inputs.values()):
            if source is None or source.base not in state:
                continue
            tree = state[source.base]
            for step in source.path:
                tree = self.child(tree, step)
            value = self.use(self.convert(self.leaf(tree, text), text))
            if isinstance(value, int):
                value = self.constant(value)
            self.module.registers[net.name] = value
            if self.known(source.base):  # it may be read after the loop
                self.module.observe(net)
        for base, tree in state.items():
            if self.known(base):
                self.show(tree)

    def set_first(self, module: Module, before: dict[Any, Any]) -> None:
        """Gives registers what a variable holds before the loop."""
        for net, source, _ in module.inputs.values():
            if net.name in module.registers and source is not None and source.base in before:
                tree = before[source.base]
                for step in source.path:
                    tree = self.child(tree, step)
                if not isinstance(tree, Undefined):
                    module.first[net.name] = tree if isinstance(tree, int) else None

    def constant(self, value: int) -> Net:
        """Returns a wire of a constant."""
        net = self.module.fresh(min(value, 0), max(value, 1))
        self.module.lines.append(f"  wire {net.declaration} = {self.signed(value)};")
        return net

    def show(self, tree: Any, text: str = "") -> None:
        """Makes outputs of all numbers of an object, and of choices if its type is given."""
        text = re.sub(r"^const |[ &]+$", "", text)
        if isinstance(tree, Net) or (is_scalar(text) and not isinstance(tree, Input | Undefined | Place)):
            self.module.observe(self.use(self.leaf(tree, text)))
        elif isinstance(tree, Parts | Choice):
            kinds = self.parts(text) if text else {}
            for step in kinds if isinstance(tree, Choice) else {**kinds, **tree.parts}:
                self.show(self.child(tree, step), kinds.get(step, ""))

    def parts(self, text: str) -> dict[Any, str]:
        """Returns the types of an object's parts."""
        array = re.fullmatch(r"([^\[]*?) ?\[(\d+)\](.*)", text)
        if array:
            return dict.fromkeys(range(int(array[2])), array[1] + array[3])
        vector = re.fullmatch(r"vec<(.*), (\d+)>", text)
        if vector:
            return {"v": f"{vector[1]}[{vector[2]}]"}
        masked = re.fullmatch(r"masked_t<(.*)>", text)
        if masked:
            return {"code": masked[1], "enable": f"fast::Integer<{self.sizes['CASCADE']}, false>"}
        return {name: type_of(decl) for name, decl in self.fields(text).items()}

    def finish(self, module: Module) -> None:
        """Joins the writes to each port."""
        self.module = module
        for sites in module.writes.values():
            enable: Value = 0
            addresses, data, text = sites[-1][1:]
            for condition, *_ in sites:
                enable = self.operate("||", enable, condition)
            for condition, other, item, _ in reversed(sites[:-1]):
                addresses = tuple(self.merge(condition, a, b) for a, b in zip(other, addresses, strict=False))
                data = self.merge(condition, item, data)
            for value in (enable, *addresses):
                module.observe(self.use(value))
            self.show(data, text)
        module.writes.clear()

    def unknown(self, base: Any) -> Input:
        """Returns an object of which nothing is known any more."""
        decl = self.tree.decls.get(base[0], {})
        return Input(base, (), decl.get("name", "item"))

    def loop(self, node: Node, condition: Node, body: Node, step: Node) -> str | None:
        """Runs a loop: all its trips where it is unrolled, else one that stands for all."""
        pragmas = [p for p in self.tree.of(node, "PIPELINE") if "off" not in p.words]
        constant = self.region is not None or (self.tree.of(node, "UNROLL") and not pragmas)
        if constant or self.concrete():
            for _ in range(MOST_TRIPS):
                more = self.load(self.eval(condition)) if condition else 1
                if not isinstance(more, int):
                    break
                if not more:
                    return None
                self.framed("loop", lambda: self.run(body))
                if step:
                    self.eval(step)
            raise Unsupported(f"{self.name}.cpp:{node['begin'][1]}: an unknown number of trips")
        before = {base: tree for layer in self.layers for base, tree in layer.items()}
        self.forget(node)

        def once() -> str | None:
            more = self.load(self.eval(condition)) if condition else 1
            if isinstance(more, Net):
                self.module.exits.append(self.use(more))
                self.module.observe(self.use(more))
            self.framed("loop", lambda: self.run(body))
            if step:
                self.eval(step)
            return None

        self.around.append(node)
        if pragmas:
            self.pipelined(node, pragmas[0], once)
            if len(self.around) > 1:  # else a reset gives the first values
                self.set_first(self.modules[-1], before)
        else:
            self.framed("loop", once)
        self.around.pop()
        self.forget(node)
        return None

    def concrete(self) -> bool:
        """Returns whether the function is one that the compiler runs."""
        return bool(self.functions and self.functions[-1].get("constexpr"))

    def forget(self, loop: Node) -> None:
        """Forgets the values of all variables that a loop may change."""
        for node in below(loop):
            if node.get("kind") == "DeclRefExpr" and not type_of(node).startswith("const "):
                place = self.places.get(node["referencedDecl"]["id"])
                if place is not None and not is_pointer(type_of(node)) and self.known(place.base):
                    held = self.held(place.base)
                    if isinstance(held, Place):
                        continue
                    self.show(held)
                    self.layers[-1][place.base] = self.unknown(place.base)
