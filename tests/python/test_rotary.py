"""Rotary positions: the arithmetic, what a reader checks, and the simulated accelerator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import quasar_rt
import simulated
from quasar_rt import Subnet, oracle, random_subnet
from quasar_rt.hardware import Hardware, estimate
from quasar_rt.oracle import Linear, requant8, requant16, rotate, rotations

VECTOR = Path(__file__).parents[1] / "vectors" / "rotary.qvit"


def network(**change):
    shape = {"embed": 16, "depth": 1, "heads": 2, "head_dim": 8, "image_size": (12, 8), "kernel": 4}
    return random_subnet(**shape | {"classes": 3, "prefix_tokens": 2, "rotary": True} | change)


def test_codes_are_those_of_the_rotated_values_and_prefix_tokens_keep_their_bits():
    subnet = network(image_size=(12, 20))
    tensors, rng = subnet.tensors(), np.random.default_rng(0)
    layer = Linear.read(tensors, "blocks.0.qkv", 16)
    acc = layer.accumulate(rng.integers(-128, 128, (17, 16)))
    z = requant16(acc, layer).reshape(17, 6, 8)[:, :4]
    cosine, sine = rotations(subnet.config, tensors)
    codes = rotate(z, cosine, sine)
    np.testing.assert_array_equal(codes[:2].reshape(2, -1), requant8(acc, layer, 0)[:2, :32])
    # As complex numbers: a pair's first half turns with the patch's row, its second half with the column.
    rows, columns = (tensors[f"rotary.{axis}"] @ [1, 1j] / 2**14 for axis in ("rows", "columns"))
    for patch in range(15):
        turn = np.concatenate([rows[patch // 5], columns[patch % 5]])
        pairs = (z[2 + patch, :, 0::2] + 1j * z[2 + patch, :, 1::2]) * turn / 64
        exact = np.stack([pairs.real, pairs.imag], axis=-1).reshape(4, 8).clip(-128, 127)
        assert np.abs(codes[2 + patch] - exact).max() <= 0.5 + 1e-9
    worst = np.full((1, 1, 4), 32767)
    assert oracle.rotate(worst, np.full((1, 1, 2), 2**14), np.full((1, 1, 2), -(2**14))).max() == 127


def test_a_reader_checks_angles_widths_and_heads():
    subnet = Subnet.load(VECTOR)

    def refused(error, match, config=None, **tensors):
        with pytest.raises(error, match=match):
            Subnet.from_parts({**subnet.config, **(config or {})}, {**subnet.tensors(), **tensors})

    rows = subnet.tensors()["rotary.rows"]
    refused(
        quasar_rt.TensorError, r"rotary.rows.*within \[-16384, 16384\]", **{"rotary.rows": rows * 0 + 16385}
    )
    refused(quasar_rt.TensorError, "rotary.rows.*shape", **{"rotary.rows": rows[1:]})
    refused(quasar_rt.TensorError, "rotary.*is not part", config={"rotary": False})
    bits = subnet.tensors()["blocks.0.qkv.bits"].copy()
    one = int(np.flatnonzero(bits[:256:2] != bits[2:258:2])[0]) * 2
    bits[[one, one + 2]] = bits[[one + 2, one]]  # as many bytes, but two pairs are apart
    refused(
        quasar_rt.TensorError,
        f"rows {one} and {one + 1} are rotated together",
        **{"blocks.0.qkv.bits": bits},
    )
    for change in ({"head_dim": 6}, {"heads": [1, 2], "depth": 2, "head_dim": [4, 8]}):
        with pytest.raises(quasar_rt.ConfigError, match="rotary: needs heads of one head_dim in all blocks"):
            network(**change)
    with pytest.raises(quasar_rt.ConfigError, match="rotary: needs another pooling than attention"):
        network(pool="attention")


@pytest.mark.filterwarnings("ignore::quasar_rt.errors.UntrainedWarning")
@pytest.mark.parametrize("name", ["tiny", "odd"])
def test_a_simulated_accelerator_has_the_cpu_s_bits(name):
    library = simulated.library(name)
    # An odd number of row pairs: rows of zeros keep pairs of 8-bit rows in one tile.
    for seed, share in enumerate((0.0, 0.4, 1.0)):
        subnet = network(
            seed=seed, depth=2, heads=2 + seed, image_size=(12, 4 + 8 * seed), pool=("mean", "token")[seed % 2],
            eight_bit_fraction=share,
        )  # fmt: skip
        images = np.random.default_rng(seed).integers(0, 256, (3, 12, 4 + 8 * seed, 3), dtype=np.uint8)
        with quasar_rt.Engine(subnet, f"sim:{library.stem}") as device, quasar_rt.Engine(subnet) as cpu:
            for answer, image in zip(device.stream(iter(images)), images, strict=True):
                np.testing.assert_array_equal(answer.logits, cpu.infer(image).logits)


def test_a_configuration_without_angles_is_named():
    hardware = Hardware.load(Path(__file__).parents[2] / "fpga" / "configs" / "wide.toml")
    with pytest.raises(quasar_rt.DoesNotFitError, match="the angle buffer needs"):
        estimate(network(), hardware)
