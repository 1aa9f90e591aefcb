"""Checks what a loop's declared interval rests on: its pragma, what its arrays promise, its recurrences."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from .kernel import Kernel
from .netlist import Netlist
from .nets import Module, Net
from .sites import Access, accesses
from .syntax import INCLUDE

#: The pipelined loops, each with a mark; two loops of the drain and two of the norm share one.
PIPELINED = (
    "drain.parameters", "drain.pass", "drain.walk", "drain.walk", "fetch.commands", "load.beats", "norm.collect",
    "norm.divide", "norm.gains", "norm.invert", "norm.mean", "norm.normalise", "norm.pool", "norm.read", "norm.read",
    "norm.regroup", "norm.root", "norm.store", "scores.maxima", "scores.store", "softmax.divide",
    "softmax.exponential", "softmax.store", "store.words",
)  # fmt: skip
#: Loops with a mark that are not pipelined: they state `PIPELINE off`.
UNPIPELINED = (
    "drain.dispatch", "norm.announce", "norm.dispatch", "norm.group", "plan.dispatch", "plan.pass",
    "plan.wait", "softmax.announce", "softmax.group",
)  # fmt: skip
#: Values that a DEPENDENCE pragma states with its distance.
PROMISE = {"type": "inter", "direction": "raw", "dependent": "true"}
#: Operations that an interval may hand through one after the other: at 150 MHz a cycle has 6.7 ns. Additions,
#: subtractions, comparisons and shifts by a variable count; wires, masks and multiplexers do not.
MOST_OPERATIONS = 5


def declared(mark: str) -> int | None:
    """Returns the interval of the loop with this mark; None: the loop is not pipelined."""
    if mark in UNPIPELINED:
        return None
    if mark == "fetch.commands":
        found = re.search(r"FETCH_INTERVAL = (\d+);", (INCLUDE / "isa.hpp").read_text())
        assert found is not None
        return int(found[1])
    return 1


def wrong_marks(kernel: Kernel) -> Iterator[str]:
    """Returns the loops whose pragma is not what their mark declares, and the marks that are not as declared."""
    wanted_loops = Counter(name for name in PIPELINED + UNPIPELINED if name.startswith(f"{kernel.name}."))
    loops = Counter(name for name, *_ in set(kernel.marks))
    for name in sorted(loops | wanted_loops):
        if loops[name] != wanted_loops[name]:
            yield (
                f"{kernel.name}.cpp: {loops[name]} loops have the mark {name}; {wanted_loops[name]} declared "
                "(tools/hls_ports/intervals.py)"
            )
    for name, line, interval in sorted(set(kernel.marks), key=str):
        wanted = declared(name)
        at = f"{kernel.name}.cpp:{line}: the loop of {name}"
        if interval is None:
            yield f"{at} has a mark, but no PIPELINE pragma; a loop that is not pipelined states PIPELINE off"
        elif interval == 0 and wanted is not None:
            yield f"{at} has PIPELINE off; its declared interval is {wanted}"
        elif interval != 0 and wanted is None:
            yield f"{at} is pipelined, but not declared so"
        elif wanted is not None and interval != wanted:
            yield f"{at} has an interval of {interval}; {wanted} is declared"


def wrong_queues(kernel: Kernel) -> Iterator[str]:
    """Returns the queues that a DATAFLOW region cannot have: two readers or writers, or items that flow back."""
    if not kernel.tree.of(kernel.top, "DATAFLOW"):
        return
    for (identity, _), (kind, ends) in kernel.queues.items():
        decl = kernel.tree.decls[identity]
        at = f"{kernel.name}.cpp: the queue {decl['name']}"
        for way, processes in ends.items():
            if len(processes) > 1 or not (processes or decl in kernel.top["inner"]):
                yield f"{at} has {len(processes)} processes that {way}; one is possible"
        back = ends["read"] and ends["write"] and min(ends["read"]) < max(ends["write"])
        if back and "<fast::Integer<1, false>," not in kind:
            yield f"{at} flows back to an earlier process; only credits may"


def wrong_partitions(kernel: Kernel) -> Iterator[str]:
    """Returns the arrays that are partitioned in part: the intervals need all elements at once."""
    for file, pragmas in kernel.tree.pragmas.items():
        for pragma in pragmas:
            if pragma.directive == "ARRAY_PARTITION" and "complete" not in pragma.words:
                yield f"{Path(file).name}:{pragma.line}: the partition of {pragma.values['variable']} is not complete"


def missing_dependences(kernel: Kernel, source: str) -> Iterator[str]:
    """Returns the arrays that a loop reads and writes without a DEPENDENCE pragma, or without its proof."""
    proofs = dict(re.findall(r"\bdistance\((\w+), ([^)]+)\);", source))
    for region in kernel.regions:
        sites: dict[int, list[Access]] = {}
        for access in accesses(region.items):
            sites.setdefault(id(access.memory), []).append(access)
        for uses in sites.values():
            memory = uses[0].memory
            if memory.ports is None or memory.kind != "array" or not (memory.argument or memory.variable):
                continue
            if len({access.write for access in uses}) < 2:
                continue
            at = f"{kernel.name}.cpp:{region.line}: {region.name} reads and writes {memory.name}"
            name = memory.name.split(".")[0]
            pragmas = [p for p in region.dependences if p.values.get("variable") == name]
            if not pragmas:
                yield f"{at} without a DEPENDENCE pragma"
                continue
            values = pragmas[0].values
            promised = values.get("distance", "")
            proved = promised and proofs.get(name, "").lower() == promised
            if not proved or not PROMISE.items() <= values.items():
                yield (
                    f"{at}: the pragma needs type=inter direction=RAW dependent=true, and distance({name}, "
                    f"{promised or '...'}) for simulation"
                )


class Recurrences:
    """The registers of a loop, and what lies between them."""

    def __init__(self, module: Module) -> None:
        self.module = module
        self.old = {net.name: net for net, *_ in module.inputs.values() if net.name in module.registers}
        self.far: dict[Net, dict[str, int]] = {}

    def sources(self, net: Net) -> dict[str, int]:
        """Returns the registers and RAMs behind a net: name, and the most operations up to the net."""
        if net in self.far:
            return self.far[net]
        found: dict[str, int] = {}
        if net.name in self.old:
            found[net.name] = 0
        for operand in net.operands:
            for name, count in self.sources(operand).items():
                found[name] = max(found.get(name, 0), count + net.weight)
        self.far[net] = found
        return found

    def slow(self, net: Net, sources: set[str]) -> Net | None:
        """Returns a multiplier or divider between registers and a net."""
        seen: set[Net] = set()
        stack = [net]
        while stack:
            one = stack.pop()
            if one in seen or not (set(self.sources(one)) & sources):
                continue
            seen.add(one)
            if one.slow:
                return one
            stack.extend(one.operands)
        return None

    def components(self) -> dict[str, int]:
        """Returns the registers that depend on themselves, by the number of their circle."""
        near = {name: set(self.sources(next_value)) for name, next_value in self.module.registers.items()}
        far = {name: set(direct) for name, direct in near.items()}
        changed = True
        while changed:
            changed = False
            for reached in far.values():
                more = set().union(*(far.get(other, set()) for other in reached)) - reached
                if more:
                    reached |= more
                    changed = True
        groups: dict[str, int] = {}
        for name in sorted(far):
            if name in far[name]:
                mates = [other for other in groups if name in far.get(other, set()) and other in far[name]]
                groups[name] = groups[mates[0]] if mates else len(groups)
        return groups

    def messages(self) -> Iterator[str]:
        """Returns the recurrences that a cycle does not hold."""
        groups = self.components()
        ends = {name for net in self.module.exits for name in self.sources(net)}
        changing = self.inputs("ram", "queue") | set(self.old)
        for net in self.module.exits:
            late = [one for one in self.cone(net) if one.slow and changing & {n.name for n in self.cone(one)}]
            if late:
                yield f"the loop's condition is decided behind a {late[0].slow}"
            elif any(one.name in self.inputs("ram") for one in self.cone(net)):
                yield "the loop's condition is decided behind a memory"
        for name, value in self.module.registers.items():
            sources = {other for other in groups if groups[other] == groups.get(name)}
            what = "is handed to the next interval"
            if name in ends:  # the next interval begins or not: all that decides it is early enough
                sources = set(self.old)
                what = "decides whether the loop ends"
                deep = self.slow_input(value)
                if deep is not None:
                    yield f"{self.plain(name)} {what} behind {deep}"
                    continue
            if not sources:
                continue
            slow = self.slow(value, sources)
            if slow is not None:
                yield f"{self.plain(name)} {what} behind a {slow.slow}"
            else:
                count = max((n for other, n in self.sources(value).items() if other in sources), default=0)
                if count > MOST_OPERATIONS:
                    yield f"{self.plain(name)} {what} behind {count} operations; {MOST_OPERATIONS} fit"

    def slow_input(self, net: Net) -> str | None:
        """Returns a multiplier, divider or RAM behind a net, whatever feeds it."""
        for one in self.cone(net):
            if one.slow:
                return f"a {one.slow}"
            if one.name in self.inputs("ram"):
                return "a memory"
        return None

    def cone(self, net: Net) -> Iterator[Net]:
        """Returns a net and all that it depends on within an interval."""
        seen: set[Net] = set()
        stack = [net]
        while stack:
            one = stack.pop()
            if one not in seen:
                seen.add(one)
                yield one
                stack.extend(one.operands)

    def inputs(self, *kinds: str) -> set[str]:
        """Returns the inputs that each interval reads: words of memories (`ram`), items of queues (`queue`)."""
        found = [
            (net.name, source.base) for net, source, _ in self.module.inputs.values() if source is not None
        ]
        return {name for name, (kind, number) in found if kind in kinds and number > self.module.begin}

    def longest(self) -> int:
        """Returns the most operations between registers of a circle."""
        groups = self.components()
        return max(
            (n for name, value in self.module.registers.items() for other, n in self.sources(value).items()
             if name in groups and groups.get(other) == groups[name]),
            default=0,
        )  # fmt: skip

    def plain(self, name: str) -> str:
        """Returns a variable's name."""
        return re.sub(r"^i\d+_", "", name)


def slow_recurrences(netlist: Netlist) -> Iterator[str]:
    """Returns the recurrences of a kernel's pipelined loops that a cycle does not hold."""
    for module in netlist.modules:
        if module.pipelined:
            for message in Recurrences(module).messages():
                yield f"{netlist.name}.cpp: {module.name}: {message}"
