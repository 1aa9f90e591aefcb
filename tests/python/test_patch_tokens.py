"""Patch tokens: the outputs of each patch, the same bits on every device, clear errors where there are none."""

import pickle

import numpy as np
import pytest

import quasar_rt
from quasar_rt import Engine, InvalidValueError, Subnet, oracle, random_subnet
from quasar_rt.testing import random_image
from simulated import library

pytestmark = pytest.mark.filterwarnings("ignore::quasar_rt.UntrainedWarning")

SHAPE = {
    "embed": 23,
    "depth": 2,
    "heads": 2,
    "head_dim": 8,
    "hidden": 40,
    "image_size": (20, 15),
    "kernel": 5,
    "eight_bit_fraction": 0.5,
    "seed": 3,
}
GRID = (4, 3)
#: Pooling and prefix tokens: a class token alone, one with registers, means of patches.
POOLS = [("token", 1), ("token", 3), ("mean_after_norm", 0), ("mean_after_norm", 2)]
#: Classes, and whether there is an embedding.
OUTPUTS = [(6, True), (0, True), (6, False)]


def network(pool="token", prefix_tokens=1, classes=6, embedding=True, patch_tokens=True):
    return random_subnet(
        **SHAPE,
        pool=pool,
        prefix_tokens=prefix_tokens,
        classes=classes,
        embedding=embedding,
        patch_tokens=patch_tokens,
    )


@pytest.mark.parametrize(("classes", "embedding"), OUTPUTS)
@pytest.mark.parametrize(("pool", "prefix_tokens"), POOLS)
def test_patches_have_the_oracles_codes_and_logits(pool, prefix_tokens, classes, embedding):
    subnet = network(pool, prefix_tokens, classes, embedding)
    image, trace = random_image(subnet, 1), {}
    outputs = oracle.run(subnet.config, subnet.tensors(), image, trace).reshape(13, -1)
    patches = outputs[1:].reshape(*GRID, -1)
    for tier in (tier.name for tier in quasar_rt.devices()[0].tiers if tier.supported):
        for threads in (1, 3):
            with Engine(subnet, "cpu", tier=tier, threads=threads) as engine:
                found = engine.infer(image)
            np.testing.assert_array_equal(found.integer_logits, outputs[0, :classes])
            if classes:
                scale = subnet.config["logit_scale"]
                np.testing.assert_array_equal(found.patch_logits, np.float32(patches[..., :classes] * scale))
            else:
                assert found.patch_logits is None
            if embedding:
                np.testing.assert_array_equal(found.patch_embedding.codes, patches[..., classes:])
                np.testing.assert_array_equal(
                    found.patch_embedding.codes.reshape(12, -1), trace["pooled"][prefix_tokens:]
                )
            else:
                assert found.patch_embedding is None


@pytest.mark.parametrize(("pool", "prefix_tokens"), POOLS)
def test_an_image_has_the_outputs_of_the_subnet_without_patches(pool, prefix_tokens):
    subnet, plain = (network(pool, prefix_tokens, patch_tokens=patches) for patches in (True, False))
    assert "patch_tokens" not in plain.config
    assert subnet.summary().parameters == plain.summary().parameters
    image = random_image(subnet, 2)
    with Engine(subnet, "cpu") as engine, Engine(plain, "cpu") as without:
        found, expected = engine.infer(image), without.infer(image)
    assert found.embedding == expected.embedding
    assert expected.patch_embedding is expected.patch_logits is None
    if pool == "token":
        np.testing.assert_array_equal(found.integer_logits, expected.integer_logits)
    else:  # the mean of the patches' logits, not the logits of their mean
        step = subnet.config["logit_scale"]
        np.testing.assert_allclose(found.logits, found.patch_logits.mean(axis=(0, 1)), rtol=0, atol=step)
        np.testing.assert_allclose(found.logits, expected.logits, atol=0.05)


def test_embed_gives_patch_tokens_with_their_scale():
    subnet = network(classes=0)
    image = random_image(subnet, 3)
    with Engine(subnet, "cpu") as engine:
        tokens = engine.embed(image, tokens="patch")
        assert tokens == engine.infer(image).patch_embedding
        assert engine.embed(image).shape == (23,)
        with pytest.raises(InvalidValueError, match="tokens is 'patches'; it must be 'image' or 'patch'"):
            engine.embed(image, tokens="patches")
        streamed = next(iter(engine.stream([image])))
        assert streamed == engine.submit(image).result() == engine.infer_batch([image])[0]
        assert pickle.loads(pickle.dumps(streamed)) == streamed
    assert tokens.codes.dtype == np.int8
    assert tokens.codes.shape == tokens.values.shape == tokens.vector.shape == (*GRID, 23)
    grid = subnet.config["embedding"]
    np.testing.assert_allclose(
        tokens.values, grid["scale"] * (tokens.codes - float(grid["zero_point"])), rtol=1e-6
    )
    np.testing.assert_allclose(np.linalg.norm(tokens.vector, axis=-1), 1, rtol=1e-6)
    assert repr(tokens).startswith("<Embedding of 4 x 3 x 23 codes")


def test_a_subnet_without_patch_tokens_says_how_to_get_them():
    image = np.zeros((20, 15, 3), np.uint8)
    with (
        Engine(network(patch_tokens=False), "cpu") as engine,
        pytest.raises(InvalidValueError, match="--tokens patch"),
    ):
        engine.embed(image, tokens="patch")
    with (
        Engine(network(embedding=False), "cpu") as engine,
        pytest.raises(InvalidValueError, match="--embedding"),
    ):
        engine.embed(image, tokens="patch")


@pytest.mark.parametrize("pool", ["mean", "token_pair"])
def test_heads_that_read_no_single_token_are_refused(pool):
    with pytest.raises(
        quasar_rt.ConfigError, match="patch_tokens: needs the pooling token or mean_after_norm"
    ):
        network(pool, 2)


def test_the_number_of_outputs_is_limited():
    with pytest.raises(
        quasar_rt.ConfigError, match=r"patch_tokens \(outputs\): 4225000 is outside \[1, 4194304\]"
    ):
        random_subnet(embed=8, depth=1, heads=1, image_size=(26, 25), kernel=1, prefix_tokens=0,
                      classes=6500, patch_tokens=True)  # fmt: skip


def test_the_file_says_so():
    subnet = network()
    config = {key: value for key, value in subnet.config.items() if key != "patch_tokens"}
    assert Subnet.from_bytes(subnet.to_bytes()) == subnet != Subnet.from_parts(config, subnet.tensors())
    assert subnet.has_patch_tokens
    assert "those of each patch" in repr(subnet)


@pytest.mark.parametrize("name", ["tiny", "odd"])
@pytest.mark.parametrize(("pool", "prefix_tokens"), POOLS)
def test_a_simulated_accelerator_has_the_cpus_bits(pool, prefix_tokens, name):
    library(name)
    for classes, embedding in OUTPUTS:
        subnet = network(pool, prefix_tokens, classes, embedding)
        images = [random_image(subnet, seed) for seed in range(3)]
        with Engine(subnet, "cpu") as cpu, Engine(subnet, f"sim:{name}") as engine:
            expected = cpu.infer_batch(images)
            assert engine.infer_batch(images) == expected
            assert [engine.infer(image) for image in images] == list(expected)
