"""Embeddings: the same bits on every device, checked rows in the file, clear errors where there is none."""

import json
import pickle

import numpy as np
import pytest

import quasar_rt
from helpers import run
from quasar_rt import Embedding, Engine, InvalidValueError, Subnet, oracle, random_subnet
from quasar_rt.hardware import Hardware, replay
from quasar_rt.testing import random_image
from simulated import library

pytestmark = pytest.mark.filterwarnings("ignore::quasar_rt.UntrainedWarning")

SHAPE = dict(embed=23, depth=2, heads=2, head_dim=8, hidden=40)
SHAPE |= dict(image_size=20, channels=3, kernel=5, eight_bit_fraction=0.5)
POOLS = [("token", 1), ("mean", 0), ("mean_after_norm", 2), ("token_pair", 3)]


def embedder(pool="token", prefix_tokens=1, classes=6, **change):
    return random_subnet(
        **SHAPE, pool=pool, prefix_tokens=prefix_tokens, classes=classes, embedding=True, seed=3, **change
    )


def features(pooled):
    """Returns the codes of the features; of a pair of tokens the mean (docs/integer-model.md, Head)."""
    codes = pooled.astype(int).reshape(-1, SHAPE["embed"])
    return codes[0] if len(codes) == 1 else ((codes[0] + 1) >> 1) + (codes[1] >> 1)


@pytest.mark.parametrize("prefix_tokens", [0, 1, 3])
def test_normalised_patches_have_the_same_bits_on_every_device(prefix_tokens):
    pool = "token" if prefix_tokens else "mean"
    subnet = embedder(pool, prefix_tokens, embed_norm=True)
    library("tiny")
    images = [random_image(subnet, seed) for seed in range(3)]
    with Engine(subnet, "cpu") as cpu, Engine(subnet, "sim:tiny") as engine:
        expected = cpu.infer_batch(images)
        assert engine.infer_batch(images) == expected
        assert [engine.infer(image) for image in images] == list(expected)
    for image, found in zip(images, expected, strict=True):
        outputs = oracle.run(subnet.config, subnet.tensors(), image)
        np.testing.assert_array_equal(found.integer_logits, outputs[:6])
        np.testing.assert_array_equal(found.embedding.codes, outputs[6:])


@pytest.fixture(scope="module")
def subnet():
    return embedder()


@pytest.fixture(scope="module")
def headless():
    return embedder(classes=0)


@pytest.fixture(scope="module")
def pictures(subnet):
    return [random_image(subnet, seed) for seed in range(5)]


def rebuilt(subnet, config=None, tensors=None):
    return Subnet.from_parts({**subnet.config, **(config or {})}, {**subnet.tensors(), **(tensors or {})})


@pytest.mark.parametrize("classes", [6, 0])
@pytest.mark.parametrize(("pool", "prefix_tokens"), POOLS)
def test_the_codes_are_the_oracles_pooled_features_on_every_tier(pool, prefix_tokens, classes):
    subnet = embedder(pool, prefix_tokens, classes)
    for seed in range(3):
        image, trace = random_image(subnet, seed), {}
        outputs = oracle.run(subnet.config, subnet.tensors(), image, trace)
        np.testing.assert_array_equal(outputs[classes:], features(trace["pooled"]))
        for tier in quasar_rt.devices()[0].tiers:
            if not tier.supported:
                continue
            with Engine(subnet, "cpu", tier=tier.name, threads=2) as engine:
                found = engine.infer(image)
            np.testing.assert_array_equal(found.embedding.codes, outputs[classes:])
            np.testing.assert_array_equal(found.integer_logits, outputs[:classes])


def test_every_way_to_run_gives_the_same_embedding(subnet, pictures):
    with Engine(subnet, "cpu", threads=2) as engine:
        alone = np.stack([engine.embed(picture) for picture in pictures])
        assert alone.dtype == np.float32
        assert alone.shape == (5, 23)
        np.testing.assert_allclose(np.linalg.norm(alone, axis=1), 1, rtol=1e-6)
        np.testing.assert_array_equal(engine.embed_batch(iter(pictures)), alone)
        np.testing.assert_array_equal(engine.infer_batch(pictures).embeddings, alone)
        streamed = [prediction.embedding.vector for prediction in engine.stream(pictures)]
        np.testing.assert_array_equal(streamed, alone)
        submitted = [engine.submit(picture).result().embedding.vector for picture in pictures]
        np.testing.assert_array_equal(submitted, alone)
        assert engine.embed_batch([]).shape == (0, 23)


def test_classes_are_those_of_the_subnet_without_an_embedding(subnet, pictures):
    plain = random_subnet(**SHAPE, classes=6, seed=3)
    with Engine(plain, "cpu") as without, Engine(subnet, "cpu") as engine:
        for picture in pictures:
            expected, found = without.infer(picture), engine.infer(picture)
            assert expected.embedding is None
            assert found.top_k == expected.top_k
            np.testing.assert_array_equal(found.integer_logits, expected.integer_logits)
            np.testing.assert_array_equal(found.logits, expected.logits)
            assert found != expected
    assert subnet.summary().parameters == plain.summary().parameters


@pytest.mark.parametrize("classes", [6, 0])
@pytest.mark.parametrize(("pool", "prefix_tokens"), POOLS)
def test_a_simulated_accelerator_has_the_cpus_bits(pool, prefix_tokens, classes):
    library("tiny")
    subnet = embedder(pool, prefix_tokens, classes)
    images = [random_image(subnet, seed) for seed in range(3)]
    with Engine(subnet, "cpu") as cpu, Engine(subnet, "sim:tiny") as engine:
        expected = cpu.infer_batch(images)
        assert engine.infer_batch(images) == expected
        assert [engine.infer(image) for image in images] == list(expected)
        np.testing.assert_array_equal(engine.embed_batch(images), cpu.embed_batch(images))
        np.testing.assert_array_equal(engine.embed(images[0]), cpu.embed(images[0]))


@pytest.mark.parametrize("classes", [6, 0])
@pytest.mark.parametrize(
    "change",
    [
        *({}, {"pool": "mean", "prefix_tokens": 0}, {"pool": "mean_after_norm"}),
        *({"patch_tokens": True}, {"pool": "mean_after_norm", "patch_tokens": True}),
    ],
    ids=str,
)
def test_a_projection_has_the_oracles_bits_on_every_device(change, classes):
    library("tiny")
    subnet = embedder(**change, classes=classes, projected=31)
    # Codes beyond the grid saturate.
    grid = subnet.config["embedding"]
    assert grid["projected"]["shift"] > 3
    grid["projected"]["shift"] -= 3
    subnet = rebuilt(subnet, {"embedding": grid})
    images = [random_image(subnet, seed) for seed in range(3)]
    with Engine(subnet, "cpu") as cpu, Engine(subnet, "sim:tiny") as engine:
        expected = cpu.infer_batch(images)
        assert engine.infer_batch(images) == expected
        assert [engine.infer(image) for image in images] == list(expected)
    assert expected.embeddings.shape == (3, subnet.embedding_size) == (3, 31)
    for tier in quasar_rt.devices()[0].tiers:
        if tier.supported:
            with Engine(subnet, "cpu", tier=tier.name, threads=2) as engine:
                assert engine.infer_batch(images) == expected
    codes = []
    for image, found in zip(images, expected, strict=True):
        outputs = oracle.run(subnet.config, subnet.tensors(), image).reshape(-1, classes + 31)
        codes.append(outputs[:, classes:])
        shift = subnet.config["embedding"]["projected"]["shift"]
        codes[-1] = (codes[-1] + (1 << shift) // 2) >> shift
        saturated = codes[-1].clip(-128, 127)
        np.testing.assert_array_equal(found.integer_logits, outputs[0, :classes])
        np.testing.assert_array_equal(found.embedding.codes, saturated[0])
        if change.get("patch_tokens"):
            np.testing.assert_array_equal(found.patch_embedding.codes.reshape(-1, 31), saturated[1:])
    assert max(np.abs(one).max() for one in codes) > 128


@pytest.mark.parametrize(
    ("change", "projected", "problem"),
    [
        ({}, (0, 0), "embedding.projected.values: 0 is outside"),
        ({}, (2**60, 0), "embedding.projected.values: 1152921504606846976 is outside"),
        ({}, (23, 16), "embedding.projected.shift: 16 is outside"),
        ({}, (22, 0), "head"),
        ({"pool": "token_pair", "prefix_tokens": 2}, (23, 0), "the pooling token_pair has two"),
    ],
)
def test_a_wrong_projection_is_refused(change, projected, problem):
    subnet = embedder(**change)
    projected = dict(zip(("values", "shift"), projected, strict=True))
    wrong = {**subnet.config["embedding"], "projected": projected}
    with pytest.raises(quasar_rt.QuasarError, match=problem):
        rebuilt(subnet, {"embedding": wrong})


def test_the_event_model_counts_the_embeddings_rows(subnet):
    plain = random_subnet(**SHAPE, classes=6, seed=3)
    hardware = Hardware.for_board("zcu102", subnet)
    assert replay(subnet, hardware).latency_cycles > replay(plain, hardware).latency_cycles


def test_values_and_vector_follow_the_grid():
    embedding = Embedding(np.array([-4, 4, -8], np.int8), 0.5, -4)
    np.testing.assert_array_equal(embedding.values, np.float32([0, 4, -2]))
    np.testing.assert_array_equal(embedding.vector, np.float32([0, 8 / np.sqrt(80), -4 / np.sqrt(80)]))
    np.testing.assert_array_equal(Embedding(np.full(3, -4, np.int8), 0.5, -4).vector, np.zeros(3))
    assert embedding == pickle.loads(pickle.dumps(embedding))
    assert len({embedding, Embedding(embedding.codes.copy(), 0.5, -4)}) == 1
    for other in (
        Embedding(embedding.codes, 0.25, -4),
        Embedding(embedding.codes, 0.5, -3),
        Embedding(embedding.codes + np.int8(1), 0.5, -4),
    ):
        assert embedding != other


def test_a_prediction_with_its_embedding_becomes_json(subnet, pictures):
    with Engine(subnet, "cpu") as engine:
        batch = engine.infer_batch(pictures)
    assert "embedding" not in batch[0].to_dict()
    document = json.loads(json.dumps(batch.to_dicts(embedding=True)))[0]
    np.testing.assert_array_equal(np.float32(document["embedding"]), batch[0].embedding.vector)
    assert batch[:2].embeddings.shape == (2, 23)


def test_a_subnet_without_an_embedding_names_the_remedy(gray_subnet):
    picture = np.zeros((28, 28), np.uint8)
    assert not gray_subnet.has_embedding
    with Engine(gray_subnet, "cpu") as engine:
        for call in (
            lambda: engine.embed(picture),
            lambda: engine.embed_batch([picture]),
            lambda: engine.embed_batch([]),
            lambda: engine.infer_batch([picture]).embeddings,
        ):
            with pytest.raises(InvalidValueError, match="export --embedding"):
                call()
        assert engine.infer(picture).to_dict(embedding=True)["embedding"] is None


def test_a_subnet_with_an_embedding_alone_has_no_label(headless, pictures):
    assert headless.classes == []
    with Engine(headless, "cpu") as engine:
        prediction = engine.infer(pictures[0])
        with pytest.raises(InvalidValueError, match="no classes"):
            _ = prediction.label
        assert prediction.logits.shape == (0,)
        assert set(prediction.to_dict()) == {"top_k", "timings"}
        assert "without classes" in repr(prediction)
        assert engine.embed(pictures[0]).shape == (23,)
        assert engine.infer_batch(pictures).logits.shape == (5, 0)


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("bias", lambda bias: bias + (np.arange(len(bias)) == 8), "row 8.* value 2 .* is 1, not 0"),
        ("mult", lambda mult: mult - (np.arange(len(mult)) == 7), "row 7.* value 1 .* is 32766, not 32767"),
        ("weight", lambda data: np.append(data[:-1], 0), "row 28.* value 22 .* not 1 at column 22"),
    ],
    ids=["bias", "mult", "weight"],
)
def test_rows_that_do_not_repeat_the_features_are_refused(subnet, part, change, message):
    name = f"head.{part}"
    tensor = subnet.tensors()[name]
    with pytest.raises(quasar_rt.TensorError, match=message):
        rebuilt(subnet, tensors={name: change(tensor).astype(tensor.dtype)})


def test_rows_that_repeat_the_features_have_four_bits(subnet):
    tensors = subnet.tensors()
    codes = quasar_rt.unpack_rows(tensors["head.weight"], tensors["head.bits"], 23)
    bits = tensors["head.bits"]
    bits[8] = 8
    wide = {"head.bits": bits, "head.weight": quasar_rt.pack_rows(codes, bits)}
    with pytest.raises(quasar_rt.TensorError, match=r"row 8.* value 2 .* is 8-bit, not 4-bit"):
        rebuilt(subnet, tensors=wide)


@pytest.mark.parametrize(
    "grid",
    [
        *({"scale": scale, "zero_point": 0} for scale in (0.0, 1e-30)),
        *({"scale": 0.1, "zero_point": zero} for zero in (128, 0.5)),
        *({"scale": 0.1}, {"scale": 0.1, "zero_point": 0, "more": 1}, {}),
    ],
    ids=str,
)
def test_grids_that_are_none_are_refused(subnet, grid):
    with pytest.raises(quasar_rt.ConfigError):
        rebuilt(subnet, config={"embedding": grid})


def test_classes_and_values_together_have_the_limit_of_classes():
    names = [str(i) for i in range(32768 - 23)]
    most = {**embedder(classes=0).config, "classes": names}
    with pytest.raises(quasar_rt.TensorError):  # the tensors are of another number of classes
        Subnet.from_parts(most, {})
    with pytest.raises(quasar_rt.ConfigError, match=r"classes .* outside \[0, 32745\]"):
        Subnet.from_parts({**most, "classes": [*names, "one more"]}, {})


def test_the_command_line_shows_embeddings_and_classifies_with_classes_only(
    subnet, headless, pictures, tmp_path
):
    from PIL import Image

    subnet.save(tmp_path / "both.qvit")
    headless.save(tmp_path / "alone.qvit")
    Image.fromarray(pictures[0]).save(tmp_path / "picture.png")
    assert "23 values, scale 0.0315, zero point 0" in run("info", tmp_path / "both.qvit").output
    run("verify", tmp_path / "alone.qvit", "--images", "1")
    infer = ["infer", tmp_path / "picture.png", "--device", "cpu", "--subnet"]
    run(*infer, tmp_path / "both.qvit")
    refused = run(*infer, tmp_path / "alone.qvit", status=2)
    assert "has no classes, only an embedding" in refused.output
