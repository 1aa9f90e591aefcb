"""Subnets as ONNX models: the exact form against the engine's bits, the QDQ form within its stated bounds."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from helpers import run as run_command
from quasar_rt import Engine, FileError, InvalidValueError, Subnet, pack_rows, random_subnet
from quasar_rt.datasets import load_fashion_mnist
from quasar_rt.testing import random_case, random_image

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.filterwarnings("ignore::quasar_rt.UntrainedWarning")

from quasar_rt.onnx_model import build  # noqa: E402 (behind the skip)


def run(model: Any, images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    """Runs a model in ONNX Runtime on one thread."""
    # ONNX Runtime warns of others.
    assert {one.name for one in model.graph.initializer} <= {
        x for node in model.graph.node for x in node.input
    }
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"pixels": images}), strict=True))


def assert_exact(subnet: Subnet, images: NDArray[np.uint8]) -> None:
    found = run(build(subnet, "exact"), images)
    engine = Engine(subnet, "cpu", threads=1)
    assert ("embedding" in found) == subnet.has_embedding
    for index, image in enumerate(images):
        expected = engine.infer(image)
        if expected.embedding is not None:
            np.testing.assert_array_equal(found["embedding"][index], expected.embedding.values)
        if expected.patch_embedding is not None:
            np.testing.assert_array_equal(found["patch_embedding"][index], expected.patch_embedding.values)
        if expected.patch_logits is not None:
            np.testing.assert_array_equal(found["patch_logits"][index], expected.patch_logits)
        if not subnet.classes:
            continue
        np.testing.assert_array_equal(found["integer_logits"][index], expected.integer_logits)
        np.testing.assert_array_equal(found["logits"][index], expected.logits)


@pytest.mark.parametrize(
    "seed",
    # 13 and 26 have a pair of heads.
    [*range(12), 13, 26, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(12, 150))],
)
def test_exact_form_has_the_engines_bits(seed: int) -> None:
    """Over ragged shapes, all poolings, and tensors scrambled to the edges of what a file may hold."""
    subnet, image = random_case(seed, rotary=seed % 4 == 2, attention=seed % 4 == 1)
    assert_exact(subnet, np.stack([image, random_image(subnet, seed + 1)]))


@pytest.mark.parametrize(
    ("pool", "prefix_tokens", "patch_tokens", "rotary"),
    [
        (pool, prefix_tokens, patch_tokens, rotary)
        for pool, prefix_tokens in (("token", 3), ("mean_after_norm", 0), ("mean_after_norm", 2))
        for patch_tokens, rotary in ((True, False), (False, False), (True, True))
    ]
    + [("attention", 0, False, False)],
)
@pytest.mark.parametrize(
    ("classes", "embedding", "projected"),
    [(5, True, None), (0, True, None), (5, False, None), (5, True, 17), (0, True, 17)],
)
def test_patches_and_embeddings_have_the_engines_bits(
    pool: str,
    prefix_tokens: int,
    classes: int,
    embedding: bool,
    projected: int | None,
    patch_tokens: bool,
    rotary: bool,
) -> None:
    subnet = random_subnet(
        embed=24, depth=2, heads=2, image_size=(20, 15), kernel=5, pool=pool, prefix_tokens=prefix_tokens,
        classes=classes, embedding=embedding, projected=projected, patch_tokens=patch_tokens, rotary=rotary,
    )  # fmt: skip
    images = np.stack([random_image(subnet, seed) for seed in range(2)])
    exact, qdq = (run(build(subnet, form), images) for form in ("exact", "qdq"))
    assert ("patch_logits" in exact) == (patch_tokens and classes > 0)
    assert ("patch_embedding" in exact) == (patch_tokens and embedding)
    assert_exact(subnet, images)
    for name, values in qdq.items():
        assert np.abs(values - exact[name]).mean() < 0.1 * np.abs(exact[name]).mean()


def test_another_runtime_gives_the_same_bits() -> None:
    from onnx.reference import ReferenceEvaluator

    subnet, image = random_case(1)
    logits, integer_logits = ReferenceEvaluator(build(subnet, "exact")).run(None, {"pixels": image[None]})
    expected = Engine(subnet, "cpu", threads=1).infer(image)
    np.testing.assert_array_equal(integer_logits[0], expected.integer_logits)
    np.testing.assert_array_equal(logits[0], expected.logits)


def test_sums_too_large_for_float32_are_made_of_nibbles() -> None:
    subnet = random_subnet(
        embed=64, depth=1, heads=1, head_dim=8, hidden=3000, image_size=(64, 64), channels=3, kernel=32,
        stride=32, classes=5, eight_bit_fraction=1.0,
    )  # fmt: skip
    tensors, rng = subnet.tensors(), np.random.default_rng(0)
    for layer, columns in ("embed", 3 * 32 * 32), ("blocks.0.fc2", 3000):
        codes = rng.choice(np.array([-127, 127], np.int8), (64, columns))
        tensors[f"{layer}.weight"] = pack_rows(codes, 8)
        tensors[f"{layer}.bias"][:] = 0
    subnet = Subnet.from_parts(subnet.config, tensors)
    constants = {constant.name for constant in build(subnet, "exact").graph.initializer}
    split = {name.removesuffix(".hi.weight") for name in constants if name.endswith(".hi.weight")}
    assert split == {"embed", "blocks.0.fc2"}
    image = np.where(np.random.default_rng(1).random((64, 64, 3)) < 0.5, 0, 255).astype(np.uint8)
    assert_exact(subnet, np.stack([image, np.zeros_like(image)]))


@pytest.mark.parametrize("images", [100, pytest.param(10_000, marks=pytest.mark.slow)])
def test_forms_on_fashion_mnist(images: int) -> None:
    """docs/onnx.md states these bounds."""
    subnet = Subnet.load("fashion-mnist")
    pixels = load_fashion_mnist("test")[0][:images]
    expected = Engine(subnet, "cpu").infer_batch(list(pixels))
    logits = np.stack([prediction.logits for prediction in expected])
    batch = pixels.reshape(-1, 28, 28, 1)

    exact = run(build(subnet, "exact"), batch)
    np.testing.assert_array_equal(exact["logits"], logits)

    qdq = run(build(subnet, "qdq"), batch)["logits"]
    assert (qdq.argmax(axis=1) == logits.argmax(axis=1)).mean() >= (0.995 if images == 10_000 else 0.98)
    spread = np.abs(logits - logits.mean(axis=0)).mean()
    assert np.abs(qdq - logits).mean() / spread < 0.02


@pytest.mark.parametrize("seed", range(4))
def test_qdq_form_of_untrained_networks_is_near_the_engine(seed: int) -> None:
    subnet = random_subnet(
        embed=48, depth=2, heads=3, head_dim=16, hidden=96, image_size=(32, 32), channels=3, kernel=8,
        stride=8, classes=20, eight_bit_fraction=0.25, prefix_tokens=2, seed=seed,
        pool=["token", "mean", "mean_after_norm", "token_pair"][seed],
    )  # fmt: skip
    images = np.stack([random_image(subnet, 4 * n) for n in range(8)])
    logits = np.stack([prediction.logits for prediction in Engine(subnet, "cpu").infer_batch(list(images))])
    found = run(build(subnet, "qdq"), images)["logits"]
    assert np.abs(found - logits).mean() / np.abs(logits - logits.mean(axis=0)).mean() < 0.1


def test_qdq_form_has_pairs_around_each_product() -> None:
    """Both inputs of each layer's product are dequantized codes, so that a runtime can fuse them."""
    model = build(Subnet.load("fashion-mnist"), "qdq")
    makers = {output: node for node in model.graph.node for output in node.output}
    layers = [node for node in model.graph.node if node.op_type == "Conv" or node.name.endswith(".products")]
    # The patch embedding; qkv, proj, fc1, fc2 and q times k of four blocks; the head.
    assert len(layers) == 1 + 4 * 5 + 1
    weights = [node for node in layers if ".attn." not in node.name]
    for node in weights:
        assert [makers[name].op_type for name in node.input[:2]] == ["DequantizeLinear"] * 2
    types = {constant.name: constant.data_type for constant in model.graph.initializer}
    assert types["blocks.0.qkv.weight"] == onnx.TensorProto.INT8


def test_equal_subnets_give_equal_files_with_their_facts(tmp_path: Path) -> None:
    subnet = Subnet.load("fashion-mnist")
    subnet.to_onnx(tmp_path / "a.onnx", "qdq")
    Subnet.from_bytes(subnet.to_bytes()).to_onnx(tmp_path / "b.onnx", "qdq")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    facts = {fact.key: fact.value for fact in onnx.load(tmp_path / "a.onnx").metadata_props}
    assert json.loads(facts["classes"]) == subnet.classes
    assert json.loads(facts["preprocess"]) == subnet.config["preprocess"]
    assert facts["sha256"] == subnet.sha256


def test_a_wrong_form_or_folder_is_named(tmp_path: Path) -> None:
    subnet = Subnet.load("fashion-mnist")
    with pytest.raises(InvalidValueError, match="'exact' or 'qdq'"):
        subnet.to_onnx(tmp_path / "a.onnx", "int8")  # type: ignore[arg-type]
    with pytest.raises(FileError, match=r"none/a\.onnx"):
        subnet.to_onnx(tmp_path / "none" / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_command_writes_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "Wrote fashion-mnist.onnx" in run_command("onnx", "fashion-mnist").output
    assert [output.name for output in onnx.load("fashion-mnist.onnx").graph.output] == [
        "logits",
        "integer_logits",
    ]


def test_without_onnx_the_command_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    for name in [name for name in sys.modules if name.startswith("quasar_rt.onnx_model")]:
        monkeypatch.delitem(sys.modules, name)
    assert "pip install 'quasar-rt[onnx]'" in run_command("onnx", "fashion-mnist", status=2).output
