#!/usr/bin/env python3
"""Write the golden vectors in tests/vectors: small subnets, an image for each, every intermediate of the oracle.

python tools/vectors.py            writes them
python tools/vectors.py --check    fails if the committed ones differ
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import click
from safetensors.numpy import save_file

from quasar_rt import random_subnet
from quasar_rt.oracle import Trace, run
from quasar_rt.testing import random_image, scramble

VECTORS = Path(__file__).resolve().parent.parent / "tests" / "vectors"

#: name -> (arguments of random_subnet, whether to scramble its tables)
CASES: dict[str, tuple[dict[str, Any], bool]] = {
    "token": (
        dict(embed=32, depth=2, heads=2, hidden=64, image_size=16, channels=1, kernel=4, classes=10, seed=1),
        False,
    ),
    "overlap": (
        dict(
            embed=24,
            depth=1,
            heads=3,
            hidden=50,
            image_size=(14, 11),
            channels=1,
            kernel=7,
            stride=4,
            pad=2,
            classes=7,
            seed=2,
        ),
        True,
    ),
    "mean": (
        dict(
            embed=20,
            depth=2,
            heads=[1, 3],
            head_dim=5,
            hidden=[33, 17],
            image_size=12,
            kernel=4,
            prefix_tokens=0,
            pool="mean",
            classes=5,
            seed=3,
        ),
        True,
    ),
    "mean-after-norm": (
        dict(
            embed=17,
            depth=1,
            heads=2,
            head_dim=9,
            hidden=31,
            image_size=9,
            kernel=3,
            prefix_tokens=2,
            pool="mean_after_norm",
            classes=3,
            seed=4,
        ),
        True,
    ),
    "all-4": (
        dict(
            embed=33,
            depth=1,
            heads=1,
            head_dim=16,
            hidden=65,
            image_size=10,
            channels=1,
            kernel=5,
            classes=9,
            eight_bit_fraction=0.0,
            seed=5,
        ),
        True,
    ),
    "all-8": (
        dict(
            embed=48,
            depth=1,
            heads=3,
            hidden=96,
            image_size=20,
            channels=1,
            kernel=5,
            classes=9,
            eight_bit_fraction=1.0,
            seed=6,
        ),
        True,
    ),
    "embedding": (
        dict(
            embed=27,
            depth=1,
            heads=2,
            head_dim=9,
            hidden=40,
            image_size=12,
            channels=1,
            kernel=4,
            classes=6,
            eight_bit_fraction=0.5,
            embedding=True,
            seed=7,
        ),
        True,
    ),
    "token-pair": (
        dict(
            embed=21,
            depth=1,
            heads=3,
            head_dim=7,
            hidden=30,
            image_size=12,
            channels=1,
            kernel=4,
            prefix_tokens=3,
            pool="token_pair",
            classes=5,
            eight_bit_fraction=0.5,
            embedding=True,
            seed=8,
        ),
        True,
    ),
    "embed-norm": (
        dict(
            embed=22,
            depth=1,
            heads=2,
            head_dim=8,
            hidden=36,
            image_size=12,
            channels=1,
            kernel=4,
            prefix_tokens=1,
            classes=6,
            eight_bit_fraction=0.25,
            embed_norm=True,
            seed=9,
        ),
        True,
    ),
    # Threads may share its blocks out by heads: two of them the first one, and three the second.
    "heads": (
        dict(
            embed=24,
            depth=2,
            heads=[2, 3],
            head_dim=64,
            hidden=32,
            image_size=20,
            channels=1,
            kernel=4,
            classes=6,
            eight_bit_fraction=0.5,
            seed=10,
        ),
        True,
    ),
    # Its blocks may be shared out by heads, too.
    "rotary": (
        dict(
            embed=24,
            depth=2,
            heads=[2, 3],
            head_dim=64,
            hidden=32,
            image_size=(20, 12),
            channels=1,
            kernel=4,
            prefix_tokens=3,
            classes=6,
            eight_bit_fraction=0.5,
            rotary=True,
            seed=13,
        ),
        True,
    ),
    "attention": (
        dict(
            embed=26,
            depth=2,
            heads=[2, 3],
            head_dim=64,
            hidden=[32, 45],
            image_size=(20, 12),
            channels=1,
            kernel=4,
            prefix_tokens=0,
            pool="attention",
            classes=6,
            eight_bit_fraction=0.5,
            embedding=True,
            seed=14,
        ),
        True,
    ),
    "patch-tokens": (
        dict(
            embed=23,
            depth=1,
            heads=2,
            head_dim=8,
            hidden=36,
            image_size=(16, 12),
            channels=1,
            kernel=4,
            prefix_tokens=2,
            classes=5,
            eight_bit_fraction=0.5,
            embedding=True,
            patch_tokens=True,
            seed=11,
        ),
        True,
    ),
    "patch-tokens-mean": (
        dict(
            embed=18,
            depth=1,
            heads=2,
            head_dim=8,
            hidden=30,
            image_size=12,
            channels=1,
            kernel=4,
            prefix_tokens=1,
            pool="mean_after_norm",
            classes=0,
            embedding=True,
            patch_tokens=True,
            seed=12,
        ),
        True,
    ),
}


def write(folder: Path) -> None:
    for name, (arguments, scrambled) in CASES.items():
        subnet = random_subnet(**arguments, name=name)
        if scrambled:
            subnet = scramble(subnet, arguments["seed"])
        image = random_image(subnet, 2)
        trace: Trace = {}
        run(subnet.config, subnet.tensors(), image, trace)
        subnet.save(folder / f"{name}.qvit")
        save_file({"image": image, **trace}, folder / f"{name}.safetensors")


@click.command(help=__doc__)
@click.option("--check", is_flag=True, help="Compare with the committed files instead of writing.")
def main(check: bool) -> None:
    if not check:
        write(VECTORS)
        return
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        differing = [
            path.name
            for path in sorted(Path(folder).iterdir())
            if not (VECTORS / path.name).exists() or (VECTORS / path.name).read_bytes() != path.read_bytes()
        ]
    if differing:
        raise click.ClickException(
            f"these differ from tests/vectors: {', '.join(differing)}; run tools/vectors.py"
        )


if __name__ == "__main__":
    sys.exit(main())
