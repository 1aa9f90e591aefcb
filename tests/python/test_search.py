"""Hardware-aware search: networks in numbers, the search itself, what it leaves."""

from __future__ import annotations

import numpy as np
import pytest

from quasar_rt import Engine, UntrainedWarning, random_subnet
from quasar_rt.nas.layers import eight_bit_share, linear_layers, nominal_macs, untrained_subnet, weight_bytes
from quasar_rt.space import Space


@pytest.mark.parametrize("name", ["digits", "fashion-mnist-coarse", "tiny"])
def test_a_networks_numbers_are_its_subnets(name):
    space = Space.load(name)
    architecture = space.sample(0, 1)
    subnet = untrained_subnet(space, architecture, 5, "some", {"search": {"target_fps": 9}})
    summary = subnet.summary()
    assert [(*layer[:3], layer.rows8) for layer in summary.layers] == linear_layers(space, architecture)
    assert summary.weight_bytes == weight_bytes(space, architecture)
    assert summary.nominal_macs == nominal_macs(space, architecture)
    blocks = [layer for layer in summary.layers if layer.name.startswith("blocks")]
    assert eight_bit_share(architecture) == sum(b.rows8 for b in blocks) / sum(b.rows for b in blocks)
    assert subnet.config["provenance"]["search"] == {"target_fps": 9}
    assert not subnet.trained


def test_untrained_subnets_run_with_a_warning():
    space = Space.load("digits")
    subnet = untrained_subnet(space, space.decode(space.smallest), 0, "small", {})
    with pytest.warns(UntrainedWarning), Engine(subnet) as engine:
        assert len(engine.infer(np.zeros((8, 8), np.uint8)).logits) == 10


@pytest.mark.parametrize("fractions", [[[0.5] * 4], [[0.5] * 3] * 2, [[0.5, 0.5, 0.5, 1.5]] * 2])
def test_fractions_of_another_shape_are_refused(fractions):
    with pytest.raises(ValueError, match="eight_bit_fraction"):
        random_subnet(
            embed=8, depth=2, heads=1, image_size=8, kernel=4, classes=2, eight_bit_fraction=fractions
        )
