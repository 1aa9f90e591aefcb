#!/usr/bin/env python3
"""Compare random subnets on every tier and several thread counts with the oracle, for as long as you like.

    python tools/lab/soak.py --seconds 600 --log

Each round has a seed, which gives a subnet (two of three with scrambled tables) and an image. A difference prints the
seed (`--seed` starts there again), and the exit code is 1. Needs the base package only.
"""

from __future__ import annotations

import platform
import sys
import time
import warnings

import click
import numpy as np

import run_log
from quasar_rt import Engine, UntrainedWarning, oracle
from quasar_rt.device import cpu
from quasar_rt.testing import random_case
from quasar_rt.verify import outputs_of


def compare(seed: int, tiers: list[str]) -> tuple[int, list[str]]:
    """Runs the subnet of `seed` on every tier; returns the number of comparisons and a line for each difference."""
    subnet, image = random_case(seed, scrambled=seed % 3 != 0, rotary=seed % 5 == 4, attention=seed % 5 == 2)
    expected = oracle.run(subnet.config, subnet.tensors(), image)
    runs = [(tier, threads) for tier in tiers for threads in (1, 2, 3)]
    differences = []
    for tier, threads in runs:
        with Engine(subnet, tier=tier, threads=threads) as engine:
            logits = outputs_of(engine.infer(image))
        if not np.array_equal(logits, expected):
            wrong = np.count_nonzero(logits != expected)
            differences.append(
                f"seed {seed}, tier {tier}, {threads} threads: {wrong} of {len(expected)} logits differ"
            )
    return len(runs), differences


@click.command(help=__doc__.split("\n\n")[0] if __doc__ else None)
@click.option(
    "--seconds", default=600.0, show_default=True, type=click.FloatRange(0), help="How long to go on."
)
@click.option("--seed", type=int, help="The first seed; by default the time.")
@click.option("--log", is_flag=True, help="Note the run in docs/logs.md.")
def main(seconds: float, seed: int | None, log: bool) -> None:
    warnings.simplefilter("ignore", UntrainedWarning)
    tiers = [tier.name for tier in cpu().tiers if tier.supported]
    skipped = [tier.name for tier in cpu().tiers if not tier.supported]
    print(
        f"tiers: {', '.join(tiers)}" + (f"; this CPU lacks {', '.join(skipped)}: skipped" if skipped else "")
    )
    first = int(time.time()) if seed is None else seed
    start = time.monotonic()
    subnets = comparisons = different = 0
    while subnets == 0 or time.monotonic() - start < seconds:
        compared, differences = compare(first + subnets, tiers)
        for line in differences:
            print(line, file=sys.stderr)
        subnets += 1
        comparisons += compared
        different += len(differences)
    print(f"{subnets} subnets, {comparisons} comparisons, {different} differences")
    if log:
        elapsed = f"{time.monotonic() - start:.0f} s from seed {first}, tiers {', '.join(tiers)}"
        result = f"{subnets} subnets in {elapsed}: {comparisons} comparisons, {different} differences"
        run_log.note("soak", platform.machine(), result)
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
