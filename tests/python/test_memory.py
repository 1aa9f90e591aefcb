"""The engine allocates in proportion to a subnet's largest block, whatever the subnet's file says."""

import sys

import numpy as np
import pytest

from quasar_rt import Engine, random_subnet

pytestmark = pytest.mark.filterwarnings("ignore::quasar_rt.UntrainedWarning")


def resident_megabytes():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1000


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_small_file_with_many_head_sizes_needs_little_memory():
    # The most tokens and heads, all blocks with heads of their own size: packed keys and values of all would be 500 MB.
    depth = 16
    subnet = random_subnet(
        embed=1,
        depth=depth,
        heads=128,
        head_dim=list(range(1, depth + 1)),
        hidden=1,
        image_size=32,
        channels=1,
        kernel=1,
        prefix_tokens=0,
        pool="mean",
        classes=1,
    )
    assert len(subnet.to_bytes()) < 1_000_000
    before = resident_megabytes()
    with Engine(subnet, threads=1) as engine:
        engine.infer(np.zeros((32, 32), np.uint8))
        assert resident_megabytes() - before < 120
