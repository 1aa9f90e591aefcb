#!/usr/bin/env python3
"""Compare random subnets on every tier and several thread counts with the oracle, for as long as you like.

    python tools/soak.py --seconds 600 --log docs/logs/soak.md

Each round draws a network shape and an image from a seed of its own; a difference prints the seed (`--seed` starts
there again) and the exit code is 1. Needs the base package only.
"""

from __future__ import annotations

import datetime as dt
import platform
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import click
import numpy as np

from quasar_rt import Engine, UntrainedWarning, devices, oracle
from quasar_rt.build import random_subnet

LOG_HEAD = """# Soak log

One line for each run of `make soak`: random subnets, each compared bit by bit with the oracle on every tier that the
machine has and with 1, 2 and 3 threads.

| date | commit | machine | tiers | seconds | first seed | subnets | comparisons | differences |
|---|---|---|---|---|---|---|---|---|
"""


def random_shape(rng: np.random.Generator) -> dict[str, Any]:
    """Arguments of `random_subnet`: small (the oracle is slow), with ragged ends in every dimension."""
    depth = int(rng.integers(1, 4))
    kernel = int(rng.integers(1, 17))
    prefix_tokens = int(rng.choice([0, 1, 1, 2, 5]))
    pools = ["mean", "mean_after_norm"] + ["token"] * (2 if prefix_tokens else 0)
    stride = int(rng.integers(max(1, kernel // 2), kernel + 1))
    # At most 12 x 12 patches.
    height, width = (int(kernel + stride * rng.integers(0, 12) + rng.integers(0, stride)) for _ in range(2))
    return {
        "embed": int(rng.integers(1, 200)),
        "depth": depth,
        "heads": [int(h) for h in rng.integers(1, 5, depth)],
        "head_dim": int(rng.integers(1, 80)),
        "hidden": [int(h) for h in rng.integers(1, 400, depth)],
        "image_size": (height, width),
        "channels": int(rng.choice([1, 3])),
        "kernel": kernel,
        "stride": stride,
        "pad": int(rng.integers(0, (kernel + 1) // 2)),
        "prefix_tokens": prefix_tokens,
        "pool": str(rng.choice(pools)),
        "classes": int(rng.integers(1, 60)),
        "eight_bit_fraction": float(rng.choice([0.0, 1.0, rng.random()])),
    }


def random_image(
    rng: np.random.Generator, height: int, width: int, channels: int
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Noise, or one of the extremes: all 0, all 255, only 0 and 255."""
    kind = rng.integers(0, 6)
    shape = (height, width, channels)
    if kind == 0:
        return np.full(shape, rng.choice([0, 255]), np.uint8)
    if kind == 1:
        return rng.choice(np.array([0, 255], np.uint8), shape)
    return rng.integers(0, 256, shape, np.uint8)


def compare(seed: int, tiers: list[str]) -> tuple[int, list[str]]:
    """Run the subnet of `seed` everywhere; return the number of comparisons and the differences, in words."""
    rng = np.random.default_rng(seed)
    shape = random_shape(rng)
    subnet = random_subnet(**shape, seed=seed)
    image = random_image(rng, *shape["image_size"], shape["channels"])
    expected = oracle.run(subnet.config, subnet.tensors(), image)
    runs = [(tier, threads) for tier in tiers for threads in (1, 2, 3)]
    differences = []
    for tier, threads in runs:
        with Engine(subnet, tier=tier, threads=threads) as engine:
            logits = engine.infer(image).integer_logits
        if not np.array_equal(logits, expected):
            wrong = np.count_nonzero(logits != expected)
            differences.append(
                f"seed {seed}, tier {tier}, {threads} threads: {wrong} of {len(expected)} logits differ; {shape}"
            )
    return len(runs), differences


@click.command(help=__doc__.split("\n\n")[0] if __doc__ else None)
@click.option(
    "--seconds", default=600.0, show_default=True, type=click.FloatRange(0), help="How long to go on."
)
@click.option("--seed", type=int, help="The first seed; by default one drawn from the clock.")
@click.option(
    "--log", type=click.Path(dir_okay=False, path_type=Path), help="A Markdown file to append a line to."
)
def main(seconds: float, seed: int | None, log: Path | None) -> None:
    warnings.simplefilter("ignore", UntrainedWarning)
    tiers = [tier.name for tier in devices()[0].tiers if tier.supported]
    skipped = [tier.name for tier in devices()[0].tiers if not tier.supported]
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
    if log is not None:
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=True
        ).stdout.strip()
        if not log.exists():
            log.write_text(LOG_HEAD, encoding="utf-8")
        with log.open("a", encoding="utf-8") as file:
            date = dt.datetime.now(dt.timezone.utc).date()
            file.write(
                f"| {date} | {commit} | {platform.machine()} | {', '.join(tiers)} | {time.monotonic() - start:.0f} "
                f"| {first} | {subnets} | {comparisons} | {different} |\n"
            )
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
