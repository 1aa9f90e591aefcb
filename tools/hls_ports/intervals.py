"""Checks what a loop's declared interval rests on: its pragma, what its arrays promise, its queues and partitions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from .kernel import Kernel
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
