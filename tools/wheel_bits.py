"""Print the instruction set and the SHA-256 of the logits of an installed quasar_rt.

The images are the packaged samples, and noise. Every tier of the CPU must give the same bits; `tools/test-wheels.sh`
compares the lines of all wheels on all CPUs. Needs what a board has.
"""

from __future__ import annotations

import hashlib
import sys

import numpy as np

from quasar_rt import Engine
from quasar_rt.device import cpu
from quasar_rt.packaged import sample_images

NOISE = 50


def digest(tier: str, threads: int) -> str:
    """Returns the SHA-256 of all logits on a tier."""
    images = [sample.path for sample in sample_images("fashion-mnist")]
    # The same bytes with every version of NumPy.
    noise = np.frombuffer(hashlib.shake_256(b"noise").digest(NOISE * 28 * 28), np.uint8)
    found = hashlib.sha256()
    with Engine("fashion-mnist", tier=tier, threads=threads) as engine:
        for image in [*images, *noise.reshape(NOISE, 28, 28)]:
            found.update(engine.infer(image).integer_logits.astype("<i4").tobytes())
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
