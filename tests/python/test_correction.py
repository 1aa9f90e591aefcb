"""Outputs are corrected by least squares on pictures without labels, where held-out pictures gain."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the [host] extra")
pytest.importorskip("timm", reason="needs the [host] extra")

from timm.models.deit import VisionTransformerDistilled  # noqa: E402

from quasar_rt import Engine, Subnet, oracle  # noqa: E402
from quasar_rt.evaluate import distances  # noqa: E402
from quasar_rt.export import export_timm  # noqa: E402
from quasar_rt.export.correction import HELD_OUT, LEAST_IMAGES  # noqa: E402
from test_export import AS_IT_IS, normalised, pictures_for, small_model  # noqa: E402

MEAN, STD = 0.4, 0.3
COUNT = LEAST_IMAGES + 32


def exported(model: Any, pictures: Any, **options: Any) -> Subnet:
    """Returns the subnet with 4-bit rows to the nearest codes, unless the options say otherwise."""
    channels = model.patch_embed.proj.in_channels
    usual = {"eight_bit_fraction": 0.0, "method": "nearest", "resize": AS_IT_IS}
    return export_timm(model, pictures, mean=[MEAN] * channels, std=[STD] * channels, **usual | options)


def outputs(subnet: Subnet, pictures: Any) -> dict[str, Any]:
    """Returns the engine's outputs by kind, [rows, values]: the image's, and those of all patches."""
    with Engine(subnet) as engine:
        found = engine.infer_batch(pictures)
    parts: dict[str, Any] = {}
    if subnet.classes:
        parts["logits"] = [one.logits for one in found]
    if subnet.has_embedding:
        parts["embedding"] = [one.embedding.values for one in found]
    if subnet.has_patch_tokens:
        parts["patches"] = [one.patch_embedding.values for one in found]
    return {name: np.stack(one).reshape(-1, one[0].shape[-1]) for name, one in parts.items()}


def float_outputs(model: Any, pictures: Any) -> dict[str, Any]:
    with torch.no_grad():
        tokens = model.forward_features(normalised(pictures, MEAN, STD))
        features = model.forward_head(tokens, pre_logits=True)
        patches = model.fc_norm(tokens)[:, model.num_prefix_tokens :]
        parts = {"logits": model.head(features), "embedding": features, "patches": patches.flatten(0, 1)}
    return {name: one.numpy() for name, one in parts.items()}


def error(found: Any, exact: Any) -> float:
    distance, spread = distances(found, exact)
    return float(distance.mean() / spread.mean())


@pytest.mark.parametrize(
    ("change", "options"),
    [
        ({}, {}),
        ({"in_chans": 1, "global_pool": "avg"}, {"rotate": True}),
        ({}, {"embedding": True}),
        ({"num_classes": 0, "global_pool": "avg", "fc_norm": False}, {"embedding": True, "rotate": True}),
        ({"num_classes": 0, "reg_tokens": 2}, {"embedding": True, "tokens": "patch"}),
        ({"global_pool": "avg", "fc_norm": False}, {"embedding": True, "tokens": "patch"}),
    ],
    ids=str,
)
def test_outputs_of_other_pictures_come_closer(change: dict[str, Any], options: dict[str, Any]) -> None:
    model = small_model(**change)
    pictures = pictures_for(model, COUNT + 40)
    subnet = exported(model, pictures[:COUNT], **options)
    others = pictures[COUNT:]
    plain = outputs(exported(model, pictures[:COUNT], correct=False, **options), others)
    exact, corrected = float_outputs(model, others), outputs(subnet, others)
    for name, found in corrected.items():
        before, after = (error(one, exact[name]) for one in (plain[name], found))
        print(f"{name}: {before:.3f} without, {after:.3f} with the correction")
        assert after < 0.85 * before
    reports = subnet.config["provenance"]["corrections"]
    assert [one["outputs"] for one in reports] == [n for n in ("logits", "embedding") if n in corrected]
    assert all(one["kept"] and (one["images"], one["held_out"]) == (COUNT, COUNT // 5) for one in reports)
    with Engine(subnet) as engine:
        [prediction] = engine.infer_batch(others[:1])
    bits = oracle.run(subnet.config, subnet.tensors(), others[0].reshape(*others[0].shape[:2], -1))
    classes = len(subnet.classes)
    np.testing.assert_array_equal(prediction.integer_logits, bits[:classes])
    if subnet.has_embedding:
        shift = subnet.config["embedding"]["projected"]["shift"]
        codes = (bits[classes : classes + subnet.embedding_size] + (1 << shift) // 2) >> shift
        np.testing.assert_array_equal(prediction.embedding.codes, codes.clip(-128, 127))


def test_rows_by_which_held_out_pictures_lose_stay() -> None:
    """With 8 bits in all rows, a projection's second rounding costs the embedding more than the correction gains."""
    model = small_model()
    pictures = pictures_for(model, COUNT)
    options: dict[str, Any] = {"eight_bit_fraction": 1.0, "method": "gptq", "embedding": True}
    subnet = exported(model, pictures, **options)
    logits, embedding = subnet.config["provenance"]["corrections"]
    assert (logits["kept"], embedding["kept"]) == (True, False)
    assert logits["error_after"] < logits["error_before"]
    assert embedding["error_after"] > embedding["error_before"]
    calibrating = [picture for i, picture in enumerate(pictures) if i % HELD_OUT != HELD_OUT - 1]
    plain = exported(model, calibrating, correct=False, **options)
    assert "projected" not in subnet.config["embedding"]
    for name, tensor in plain.tensors().items():
        if name != "head.weight":
            start = len(plain.classes) if name.startswith("head.") else 0
            np.testing.assert_array_equal(subnet.tensors()[name][start:], tensor[start:])


def test_too_few_pictures_or_two_tokens_correct_nothing() -> None:
    distilled = small_model(kind=VisionTransformerDistilled)
    for model, count in ((small_model(), LEAST_IMAGES - 1), (distilled, COUNT)):
        pictures = pictures_for(model, count)
        assert exported(model, pictures).sha256 == exported(model, pictures, correct=False).sha256


def test_same_bits_on_any_number_of_threads() -> None:
    model, threads = small_model(num_classes=0), torch.get_num_threads()
    found = []
    try:
        for number in (1, 3):
            torch.set_num_threads(number)
            found.append(exported(model, pictures_for(model, COUNT), embedding=True).sha256)
    finally:
        torch.set_num_threads(threads)
    assert found[0] == found[1]
