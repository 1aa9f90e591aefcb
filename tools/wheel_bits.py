"""Print the instruction set and the SHA-256 of the logits of an installed quasar_rt.

The images are the samples of all packaged subnets, and noise. Every tier of the CPU must give the same bits;
`tools/test-wheels.sh` compares the lines of all wheels on all CPUs. Needs what a board has.
"""

from __future__ import annotations

import hashlib
import sys

import numpy as np

from quasar_rt import Engine
from quasar_rt.device import cpu
from quasar_rt.packaged import sample_images, subnet_names

NOISE = 50


def digest(tier: str, threads: int) -> str:
    """Returns the SHA-256 of all logits of the packaged subnets on a tier."""
    found = hashlib.sha256()
    for name in subnet_names():
        samples = [sample.path for sample in sample_images(name)]
        with Engine(name, tier=tier, threads=threads) as engine:
            image = engine.subnet.config["image"]
            shape = (NOISE, image["height"], image["width"], image["channels"])
            # The same bytes with every version of NumPy.
            noise = np.frombuffer(hashlib.shake_256(b"noise").digest(int(np.prod(shape))), np.uint8)
            for pixels in [*samples, *noise.reshape(shape)]:
                found.update(engine.infer(pixels).integer_logits.astype("<i4").tobytes())
    return found.hexdigest()


def main() -> int:
    """Prints the line; the exit code is 1 if tiers differ."""
    device = cpu()
    digests = {
        f"{tier.name}, {threads} threads": digest(tier.name, threads)
        for tier in device.tiers
        if tier.supported
        for threads in (1, 2)
    }
    if len(set(digests.values())) > 1:
        print(f"the bits differ: {digests}", file=sys.stderr)
        return 1
    print(device.best_tier, next(iter(digests.values())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
