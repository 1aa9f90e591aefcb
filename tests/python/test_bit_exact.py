"""Every backend gives the int64 oracle's bits: golden vectors, and random shapes."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pytest

from quasar_rt import Engine, Subnet, UnsupportedTierError, oracle, random_subnet
from quasar_rt.testing import random_case, random_image
from quasar_rt.verify import outputs_of

VECTORS = Path(__file__).resolve().parent.parent / "vectors"
TIERS = ["scalar", "avx2", "avx512vnni", "amx", "neon"]
#: A subnet, an image and the oracle's logits.
Case: TypeAlias = tuple[Subnet, npt.NDArray[np.uint8], npt.NDArray[np.int32]]

pytestmark = pytest.mark.filterwarnings("ignore::quasar_rt.UntrainedWarning")


def engine_on(subnet: Subnet, tier: str, threads: int) -> Engine:
    """Returns an engine on that tier; skips the test, instead of passing it, where this CPU lacks the tier."""
    try:
        return Engine(subnet, tier=tier, threads=threads)
    except UnsupportedTierError:
        pytest.skip(f"this CPU has no {tier}")


def logits_on(subnet: Subnet, image: npt.NDArray[np.uint8], tier: str, threads: int) -> npt.NDArray[np.int32]:
    with engine_on(subnet, tier, threads) as engine:
        return outputs_of(engine.infer(image))


@pytest.mark.parametrize("path", sorted(VECTORS.glob("*.qvit")), ids=lambda p: p.stem)
def test_the_oracle_gives_the_golden_vectors(path: Path) -> None:
    load_file = pytest.importorskip("safetensors.numpy").load_file
    golden = load_file(path.with_suffix(".safetensors"))
    subnet = Subnet.load(path)
    trace: oracle.Trace = {}
    oracle.run(subnet.config, subnet.tensors(), golden["image"], trace)
    assert set(golden) == set(trace) | {"image"}
    for name, value in trace.items():
        np.testing.assert_array_equal(value, golden[name], err_msg=name)


@cache
def expected_of_random_case(seed: int) -> Case:
    rotary, attention = seed % 5 == 4, seed % 5 == 2
    subnet, image = random_case(1000 + seed, scrambled=seed % 4 != 0, rotary=rotary, attention=attention)
    return subnet, image, oracle.run(subnet.config, subnet.tensors(), image)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize(
    "seed", [*range(40), *(pytest.param(n, marks=pytest.mark.slow) for n in range(40, 400))]
)
def test_random_shapes_and_tables_agree_with_the_oracle(seed: int, tier: str) -> None:
    subnet, image, expected = expected_of_random_case(seed)
    for threads in (1, 3):
        np.testing.assert_array_equal(logits_on(subnet, image, tier, threads), expected)


@pytest.fixture(scope="module")
def deit_tiny() -> Case:
    subnet = random_subnet(depth=2)
    image = random_image(subnet, 3)
    return subnet, image, oracle.run(subnet.config, subnet.tensors(), image)


@pytest.mark.parametrize("tier", TIERS)
def test_a_deit_tiny_frame_agrees_with_the_oracle(deit_tiny: Case, tier: str) -> None:
    subnet, image, expected = deit_tiny
    np.testing.assert_array_equal(logits_on(subnet, image, tier, 2), expected)


@pytest.mark.parametrize("tier", TIERS)
def test_blocks_may_differ_in_number_and_size_of_heads(tier: str) -> None:
    # They share the memory of packed keys and values.
    subnet = random_subnet(
        embed=24,
        depth=4,
        heads=[2, 5, 1, 3],
        head_dim=[33, 3, 128, 16],
        hidden=[9, 40, 16, 5],
        image_size=24,
        kernel=4,
        classes=5,
        pool="mean",
    )
    image = random_image(subnet, 3)
    expected = oracle.run(subnet.config, subnet.tensors(), image)
    for threads in (1, 3):
        with engine_on(subnet, tier, threads) as engine:
            for _ in range(2):
                np.testing.assert_array_equal(engine.infer(image).integer_logits, expected)


def test_the_oracle_notices_one_changed_weight() -> None:
    subnet, image = random_case(7, scrambled=False)
    tensors = dict(subnet.tensors())
    weight = tensors["head.weight"].copy()
    weight[:] = np.where(weight == 1, 2, 1)
    changed = oracle.run(subnet.config, {**tensors, "head.weight": weight}, image)
    assert (changed != oracle.run(subnet.config, tensors, image)).any()
