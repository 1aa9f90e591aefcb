"""Evaluates a kernel's expressions."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

from .memories import Storage
from .sites import Place, Value
from .syntax import Node, Unsupported, has_body, is_scalar, type_of


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


def depth(value: Value) -> int:
    """Returns how many operations a term has, or more."""
    return 1 + sum(map(depth, value[1:])) if isinstance(value, tuple) and value[0] in OPERATIONS else 0


class Expressions(Storage, ABC):
    """Evaluates expressions; a subclass runs functions and statements."""

    @abstractmethod
    def call(self, function: Node | None, arguments: list[Value], nodes: list[Node], this: Value) -> Value:
        """Calls a function."""

    @abstractmethod
    def choose(self, arms: Iterable[Any]) -> str | None:
        """Runs arms of which one is taken."""

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

    def _eval_CallExpr(self, node: Node) -> Value:
        callee, *arguments = node["inner"]
        values = [self.eval(a) for a in arguments]
        reference = callee
        while reference.get("kind") != "DeclRefExpr":
            reference = reference["inner"][-1]
        function = self.tree.decls.get(reference["referencedDecl"]["id"])
        return self.call(function, values, arguments, None)
