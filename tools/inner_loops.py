"""Model the inner loops of the NEON tiers with llvm-mca: cycles, MAC a cycle, and the share of the core's peak.

Reads the assembly of the kernels (`tools/inner-loops.sh` makes it), finds the inner loop of each tile by its
instructions and prints a Markdown table. Everything that it prints is modelled: llvm-mca knows a core's pipes and
latencies, but no caches and no branches.
"""

from __future__ import annotations

import argparse
import re
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ITERATIONS = 200


@dataclass(frozen=True)
class Kind:
    """An inner loop: what it is, what tells it from others, and the loop that reaches the peak.

    `peak` is the same arithmetic in registers, without loads, as the tier's `probe`: `macs` of it for each repetition.
    """

    name: str
    cores: tuple[str, ...]
    has: tuple[str, ...]
    lacks: tuple[str, ...]
    counted: dict[str, int]
    peak: tuple[str, ...]

    def macs(self, body: list[str]) -> int:
        """Multiply-accumulates of a loop's body."""
        count = mnemonics(body)
        return sum(count[name] * macs for name, macs in self.counted.items())


PRODUCTS = {"smull": 8, "smull2": 8, "smlal": 8, "smlal2": 8}
KINDS = (
    Kind(
        "neon, 8-bit rows",
        ("cortex-a53", "cortex-a72"),
        ("smull", "smlal2", "sadalp"),
        (),
        PRODUCTS,
        ("smull v{t}.8h, v24.8b, v25.8b", "smlal2 v{t}.8h, v24.16b, v25.16b", "sadalp v{i}.4s, v{t}.8h"),
    ),
    Kind(
        "neon, 4-bit rows",
        ("cortex-a53", "cortex-a72"),
        ("smlal", "smlal2"),
        ("sadalp",),
        PRODUCTS,
        ("smlal v{i}.8h, v24.8b, v25.8b",),
    ),
    Kind(
        "neondot, all rows",
        ("cortex-a76",),
        ("sdot", "ldr"),
        (),
        {"sdot": 16},
        ("sdot v{i}.4s, v24.16b, v25.4b[0]",),
    ),
)


def mnemonics(body: list[str]) -> Counter[str]:
    """How often each instruction is in it."""
    return Counter(line.split()[0] for line in body)


def inner_loops(assembly: str) -> list[list[str]]:
    """The bodies of all loops without a branch inside, the closing branch left out."""
    loops = []
    label = ""
    body: list[str] = []
    for line in assembly.splitlines():
        text = line.split("//")[0].strip()
        if match := re.match(r"(\.?\w+):$", text):
            label, body = match[1], []
        elif re.match(r"(b|b\.\w+|cbn?z|tbn?z|ret|bl|blr|br)\s", text + " "):
            if text.split()[-1] == label:
                loops.append(body)
            label, body = "", []
        elif text and not text.startswith("."):
            body.append(text)
    return loops


def cycles(body: list[str], core: str) -> float:
    """Cycles of one iteration on that core, in the long run."""
    command = [
        "llvm-mca",
        "-mtriple=aarch64",
        "-mattr=+dotprod",
        f"-mcpu={core}",
        f"-iterations={ITERATIONS}",
    ]
    output = subprocess.run(command, input="\n".join(body), capture_output=True, text=True, check=True).stdout
    total = re.search(r"^Total Cycles:\s+(\d+)$", output, re.MULTILINE)
    if total is None:
        raise SystemExit("llvm-mca printed no total of cycles")
    return int(total[1]) / ITERATIONS


def peak(kind: Kind, core: str) -> float:
    """MAC a cycle of independent chains in registers."""
    chains = [
        pattern.format(i=i, t=16 + i % 8)
        for half in (0, 8)
        for pattern in kind.peak
        for i in range(half, half + 8)
    ]
    return kind.macs(chains) / cycles(chains, core)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("assembly", type=Path, help="assembly of quasar-kernels for aarch64")
    parser.add_argument("--show", action="store_true", help="print the loops, too")
    options = parser.parse_args()
    loops = inner_loops(options.assembly.read_text())
    print("| loop | core (modelled) | instructions | MAC | cycles | MAC/cycle | peak | share |")
    print("|---|---|---|---|---|---|---|---|")
    for kind in KINDS:
        found = [
            body
            for body in loops
            if set(kind.has) <= set(mnemonics(body)) and not set(kind.lacks) & set(mnemonics(body))
        ]
        if not found:
            raise SystemExit(f"no inner loop of {kind.name!r}: {', '.join(kind.has)}")
        body = max(found, key=kind.macs)
        spills = [line for line in body if "[sp" in line and line.split()[0] in ("str", "stp", "ldr", "ldp")]
        if any(re.search(r"\b[qdv]\d", line) for line in spills):
            raise SystemExit(f"the inner loop of {kind.name!r} spills vectors: {'; '.join(spills)}")
        for core in kind.cores:
            time, top = cycles(body, core), peak(kind, core)
            macs, rate = kind.macs(body), kind.macs(body) / time
            print(
                f"| {kind.name} | {core} | {len(body)} | {macs} | {time:.1f} | {rate:.2f} | {top:.2f} "
                f"| {rate / top:.0%} |"
            )
        if options.show:
            print("\n```asm\n" + "\n".join(body) + "\n```\n")


if __name__ == "__main__":
    main()
