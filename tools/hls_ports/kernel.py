"""Goes through a kernel's functions and statements, and reports its memories."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from .expressions import Expressions
from .memories import VERSION
from .sites import Branch, Place, Region, Row, Value, accesses, most_sites
from .syntax import (
    LOOPS,
    Node,
    Pragma,
    Unsupported,
    below,
    is_pointer,
    is_reference,
    is_scalar,
    symbol,
    type_of,
)

#: Copies of a loop's body above which its number of trips is taken for unknown.
MOST_TRIPS = 8192


def terms(value: Value) -> Iterator[tuple[Any, ...]]:
    """Returns a term and the terms that it is made of, each once."""
    seen: set[int] = set()
    stack = [value]
    while stack:
        one = stack.pop()
        if isinstance(one, tuple) and id(one) not in seen:
            seen.add(id(one))
            yield one
            stack.extend(one[1:] if one[0] not in ("held", "unknown") else ())


def holds(place: Place, term: tuple[Any, ...]) -> bool:
    """Returns whether a term is what a place held."""
    return term[:2] == ("held", place)


def slow(value: Value, meant: Callable[[tuple[Any, ...]], bool]) -> str:
    """Returns "multiplier" or "divider" if a term has one behind a term that is meant."""
    for operation, *operands in terms(value):
        if operation in ("*", "/", "%") and any(meant(one) for operand in operands for one in terms(operand)):
            constant = next((operand for operand in operands if isinstance(operand, int)), None)
            if operation == "*" and constant is None:
                return "multiplier"
            if operation != "*" and (constant is None or constant & (constant - 1)):
                return "divider"
    return ""


class Kernel(Expressions):
    """Goes through a kernel once, from its top function down, and keeps the access sites of its pipelined loops."""

    def __init__(self, source: Path, config: Path) -> None:
        super().__init__(source, config)
        self.seen: set[int] = set()  # lines of PIPELINE pragmas that were reached
        self.around: list[Node] = []  # loops that are not unrolled
        self.decisions: list[tuple[str, Value]] = []  # the conditions that end a pipelined loop
        #: Marks of intervals: name, line, interval of the loop (0: PIPELINE off, None: no pragma).
        self.marks: list[tuple[str, int, int | None]] = []
        self.enter(self.top, [], None)
        for pragma in self.tree.pragmas[str(source)]:
            if pragma.directive == "PIPELINE" and "off" not in pragma.words and pragma.line not in self.seen:
                raise Unsupported(f"{source.name}:{pragma.line}: no call from {self.name} reaches this loop")

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
            if is_reference(text) and isinstance(value, Place):
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
        region.dependences = self.tree.of(scope, "DEPENDENCE")
        self.seen.add(pragma.line)
        outer, self.items = self.items, region.items
        self.region = region
        body()
        self.region, self.items = None, outer
        self.regions.append(region)

    def call(self, function: Node | None, arguments: list[Value], nodes: list[Node], this: Value) -> Value:
        """Calls a function: runs it if its source is ours."""
        body = function and self.tree.bodies.get(symbol(function))
        if function is not None and function["name"] == "interval":
            self.mark(
                [str(n["value"]).strip('"') for n in below(nodes[0]) if n.get("kind") == "StringLiteral"]
            )
        if not body or body["at"][0] not in self.tree.own or body["at"][0].endswith("fast_int.hpp"):
            for argument, node in zip(arguments, nodes, strict=False):
                if isinstance(argument, Place) and "const" not in type_of(node):
                    self.assign(argument, self.fresh(), is_scalar(type_of(node)))
            return self.fresh()
        top = len(self.functions) == 1
        if top:
            self.process = body["name"]
            self.calls += 1
        line = self.line
        value = self.enter(body, arguments, this)
        self.line = line
        return value

    def mark(self, names: list[str]) -> None:
        """Keeps the mark of an interval."""
        scope = self.around[-1] if self.around else self.functions[-1]
        off = any("off" in p.words for p in self.tree.of(scope, "PIPELINE"))
        interval = self.region.interval if self.region else 0 if off else None
        self.marks.extend((name, scope["begin"][1], interval) for name in names)

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
                init = None
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
            merged[base] = {}
            for path in {VERSION, *(path for held in helds for path in held)}:
                values = [held.get(path, ("held", Place(base, path), held.get(VERSION))) for held in helds]
                if all(value == values[0] for value in values):
                    merged[base][path] = values[0]
                else:
                    merged[base][path] = (
                        self.fresh() if path == VERSION else ("choice", self.fresh(), *values)
                    )
        self.values = merged
        return None

    def _run_IfStmt(self, node: Node) -> str | None:
        inner = list(node["inner"])
        if node.get("hasInit") or node.get("hasVar"):
            raise Unsupported(f"line {node['begin'][1]}: a declaration in an if's condition")
        leaves = any(n.get("kind") == "BreakStmt" for n in below(node))
        condition = self.decide(inner[0]) if leaves and self.region is not None else self.eval(inner[0])
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
            begin = self.count
            if condition:
                self.decide(condition) if pragmas else self.eval(condition)
            if pragmas:
                self.check_widths(node, condition)
            self.run(body)
            if step:
                self.eval(step)
            if pragmas:
                self.check_decisions(condition, begin)

        self.around.append(node)
        if pragmas:
            self.pipelined(node, pragmas[0], once)
        else:
            once()
        self.around.pop()
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

    def decide(self, condition: Node) -> Value:
        """Evaluates a condition that may end a pipelined loop."""
        before = len(self.items)
        value = self.eval(condition)
        read = [access.memory for access in accesses(self.items[before:])]
        memory = any(one.kind == "array" and one.ports and (one.argument or one.variable) for one in read)
        self.decisions.append(("memory" if memory else "", value))
        return value

    def check_decisions(self, condition: Node, begin: int) -> None:
        """Reports what a cycle does not hold, in an interval of a loop that began at a count.

        A condition that reads a memory, or that has a product or quotient of what the loop changes; a variable that
        becomes a product or quotient of itself.
        """
        before = len(self.items)
        if condition:  # of the next interval
            self.decide(condition)
            del self.items[before:]
        problems = {
            ("the loop's condition is decided", memory or slow(value, partial(self.changes, begin)))
            for memory, value in self.decisions
        }
        self.decisions = []
        for base, held in self.values.items():
            for path, value in held.items():
                name = self.tree.decls.get(base[0], {}).get("name", "")
                behind = slow(value, partial(holds, Place(base, path)))
                problems.add((f"{name} is handed to the next interval", behind))
        for what, behind in sorted(problems):
            if behind and self.region:
                self.errors.append(f"{self.name}.cpp: {self.region.name}: {what} behind a {behind}")

    def changes(self, begin: int, term: tuple[Any, ...]) -> bool:
        """Returns whether the loop that began at this count changes a term."""
        if term[0] == "held":
            return bool(self.values.get(term[1].base, {}).get(VERSION) != term[2])
        return bool(term[0] == "unknown" and term[1] > begin)

    def forget(self, loop: Node) -> None:
        """Forgets the values of all variables that a loop may change."""
        for node in below(loop):
            if node.get("kind") == "DeclRefExpr" and not type_of(node).startswith("const "):
                place = self.places.get(node["referencedDecl"]["id"])
                if place is not None and not is_pointer(type_of(node)):
                    self.values[place.base] = {VERSION: self.fresh()}

    # The report

    def rows(self) -> Iterator[Row]:
        """Returns the sites and the ports of all memories in all pipelined loops."""
        shared: dict[int, dict[str, int]] = {}
        for region in self.regions:
            loop = region.name or f"line {region.line}"
            for memory in {id(m): m for m in self.memories.values()}.values():
                if memory.ports is None or not (memory.argument or memory.variable):
                    continue
                sites = most_sites(self.memories, region.items, memory)
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
