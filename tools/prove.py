#!/usr/bin/env python3
"""Proves the assertions of fpga/rtl with Yosys and ABC's property-directed reachability, without a bound on time.

    python tools/prove.py            # all proofs
    python tools/prove.py queue      # those of this name

A proof is a module of fpga/formal around one of fpga/rtl. It holds for every input and any number of cycles, for the
parameters of PROOFS. ABC finds an invariant and checks it; a proof by induction states its own.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

FPGA = Path(__file__).resolve().parents[1] / "fpga"


class Proof(NamedTuple):
    """A module of fpga/formal, the modules of fpga/rtl that it needs, and its parameters."""

    module: str
    sources: tuple[str, ...]
    parameters: dict[str, int]
    #: Steps of a proof by induction: all assertions hold in the first ones, and after as many in which they hold, from
    #: any state. None where ABC finds an invariant.
    steps: int | None = None

    @property
    def name(self) -> str:
        """Returns the module and its parameters: the name of the proof."""
        return "-".join([self.module, *(f"{key}{value}" for key, value in self.parameters.items())])


PROOFS = [
    *(Proof("queue", ("registers.sv", "queue.sv"), {"DEPTH": depth}) for depth in (2, 4)),
    Proof("queue", ("registers.sv", "queue.sv"), {"DEPTH": 2, "PART": 1}),
    *(
        Proof("delay", ("registers.sv", "delay.sv"), {"CYCLES": cycles, "RESET": reset})
        for cycles in (1, 2, 5)
        for reset in (0, 1)
    ),
    *(
        Proof("bank", ("registers.sv", "operand_bank.v"), {"R": r, "ULTRA": ultra})
        for r in (1, 2)
        for ultra in (0, 1)
    ),
    Proof("watchdog", ("clock_watchdog.v",), {"HOLD": 3, "WAIT_BITS": 3}),
    *(
        Proof(
            "weights",
            ("registers.sv", "weights.sv"),
            {"R": r, "P": pairs, "C": cascade, "BEAT": beat},
            steps=4 + 12 * r,
        )
        for r in (1, 2)
        for pairs, cascade, beat in ((1, 2, 4), (3, 1, 2))
    ),
    *(
        Proof(
            "unpack_lanes",
            ("registers.sv", "queue.sv", "unpack_lanes.sv"),
            {"R": r, "T": tokens, "P": pairs, "L": lanes},
            steps=r * (10 + 8 * tokens // lanes),
        )
        for r in (1, 2)
        for tokens, pairs, lanes in ((1, 1, 1), (2, 2, 1))
    ),
    *(
        Proof(
            "issue",
            ("pass_types.sv", "registers.sv", "delay.sv", "issue.sv"),
            {"R": r, "P": pairs},
            steps=12 + 12 * r,
        )
        for r in (1, 2)
        for pairs in (1, 2)
    ),
]

#: A step is a cycle of the array; the slow clock enables its flip-flops (clocks.v).
SCRIPT = """
read_verilog -sv -formal {sources}
{settings}
hierarchy -top {top}
proc
flatten
opt_clean
memory_collect
opt_clean
memory_map
dffunmap
techmap -map {formal}/clocks.v t:$dff
opt -full
opt_clean
dffunmap
opt_clean
techmap
opt_clean
dffunmap
abc -g AND -fast
opt_clean
setundef -undriven -anyseq
tee -q -o names.txt select -list t:$assert
write_aiger -I -B -zinit -no-startoffset design.aig
"""


def prove(proof: Proof, rtl: Path = FPGA / "rtl", limit: float = 1200) -> str | None:
    """Proves all assertions; returns None, or the name of one that fails and the step in which it does."""
    formal = FPGA / "formal"
    top = f"{proof.module}_proof"
    own = ["two_clocks.sv"] if "R" in proof.parameters else []
    sources = [*(rtl / name for name in proof.sources), *(formal / name for name in [*own, f"{top}.sv"])]
    settings = "\n".join(f"chparam -set {key} {value} {top}" for key, value in proof.parameters.items())
    with TemporaryDirectory() as folder:
        text = SCRIPT.format(
            sources=" ".join(map(str, sources)), settings=settings, top=top, formal=formal
        )  # fmt: skip
        (Path(folder) / "proof.ys").write_text(text, encoding="utf-8")
        call("yosys", "-q", "proof.ys", folder=folder, limit=limit)
        names = [line.rsplit("/", 1)[1] for line in (Path(folder) / "names.txt").read_text().splitlines()]
        begun = "read_aiger design.aig; fold; strash; print_stats"
        # `scorr` would take proved assertions out of those that the induction may use.
        checks = [f"{begun}; scorr; pdr"] if proof.steps is None else [
            f"{begun}; scorr; bmc3 -F {proof.steps}", f"{begun}; orpos; ind -F {proof.steps}"
        ]  # fmt: skip
        said = ""
        for check in checks:
            said += call("yosys-abc", "-c", check, folder=folder, limit=limit)
            if failed := re.search(r"Output (\d+) of miter .* was asserted in frame (\d+)", said):
                return f"{names[int(failed[1])]} fails in step {failed[2]}"
    # An empty network would prove anything.
    latches = re.search(r"lat = +(\d+)", said)
    if not names or latches is None or int(latches[1]) == 0:
        raise RuntimeError(f"{proof.name}: Yosys left no assertion or no register:\n{said}")
    proved = ["Property proved"]
    if proof.steps is not None:
        proved = [f"No output asserted in {proof.steps} frames", "Networks are equivalent"]
    if not all(text in said for text in proved):
        raise RuntimeError(f"{proof.name}: ABC has no verdict:\n{said[-1000:]}")
    return None


def call(*command: str, folder: str, limit: float) -> str:
    """Runs a command and returns its output."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=limit, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed:\n{done.stdout[-1000:]}{done.stderr[-2000:]}")
    return done.stdout


def main() -> None:
    """Runs the named proofs, or all."""
    wanted = sys.argv[1:]
    failures = 0
    for proof in PROOFS:
        if wanted and not any(proof.name.startswith(name) for name in wanted):
            continue
        begun = time.monotonic()
        failure = prove(proof)
        failures += failure is not None
        print(f"{proof.name}: {failure or 'proved'} ({time.monotonic() - begun:.1f} s)", flush=True)
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
