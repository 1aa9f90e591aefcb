"""Rotated bases: the float function is kept, and an orthogonal matrix is one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the [host] extra")
pytest.importorskip("timm", reason="needs the [host] extra")

from timm.models.deit import VisionTransformerDistilled  # noqa: E402
from timm.models.vision_transformer import VisionTransformer  # noqa: E402

from quasar_rt import Engine, oracle  # noqa: E402
from quasar_rt.export import export_timm  # noqa: E402
from quasar_rt.export.float_vit import forward  # noqa: E402
from quasar_rt.export.rotation import (  # noqa: E402
    orthogonal,
    rotate_heads,
    rotate_stream,
    stream_obstacle,
)
from quasar_rt.export.timm_reader import read  # noqa: E402

SHAPE: dict[str, Any] = {
    "img_size": 16,
    "patch_size": 4,
    "embed_dim": 24,
    "depth": 2,
    "num_heads": 3,
    "num_classes": 5,
}


def scrambled(kind: type = VisionTransformer, **options: Any) -> Any:
    """Returns a model in which every parameter, norms' gains and offsets too, is random."""
    torch.manual_seed(3)
    model = kind(**SHAPE | options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reg_tokens": 2, "init_values": 0.5},
        {"global_pool": "avg"},
        {"global_pool": "avg", "fc_norm": False},
        {"kind": VisionTransformerDistilled},
        {"class_token": False, "global_pool": "map"},
    ],
)
def test_the_float_function_is_kept(options: dict[str, Any]) -> None:
    model = scrambled(**options)
    images = torch.randn(6, 3, 16, 16)
    net = read(model)
    before = net.blocks[1].qkv.weight.clone()
    rotate_stream(net)
    rotate_heads(net)
    assert net.embed.weight.dtype == torch.float32
    assert (before - net.blocks[1].qkv.weight).abs().max() > 0.1
    with torch.no_grad():
        found = forward(net, images, lambda _, value: value)
        expected = forward_of(model, images)
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5


def forward_of(model: Any, images: Any) -> Any:
    return model.double()(images.double()).float()


def test_heads_are_rotated_in_a_network_without_classes() -> None:
    model = scrambled(num_classes=0, pre_norm=True)
    images = torch.randn(6, 3, 16, 16)
    net = read(model, headless=True)
    assert "patches" in str(stream_obstacle(net, True))
    assert "patches" in str(stream_obstacle(net, False))
    assert "embedding" in str(stream_obstacle(read(scrambled()), True))
    rotate_heads(net)
    with torch.no_grad():
        found = forward(net, images, lambda _, value: value)
        expected = forward_of(model, images)
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5


def test_a_channel_of_large_values_is_spread() -> None:
    net = read(scrambled())
    assert stream_obstacle(net, False) is None
    net.position[:, 5] += 40
    seen = {}

    def largest(name: str, value: Any) -> Any:
        seen[name] = float(value.abs().max())
        return value

    with torch.no_grad():
        net.cast(torch.float32)
        images = torch.randn(6, 3, 16, 16)
        forward(net, images, largest)
        before = seen["residual"]
        rotate_stream(net)
        forward(net, images, largest)
    assert seen["residual"] < before * 0.8


@pytest.mark.parametrize("size", [1, 2, 33])
def test_an_orthogonal_matrix_has_its_transpose_as_its_inverse(size: int) -> None:
    first, second = (orthogonal(size, np.random.default_rng(seed)) for seed in (1, 1))
    assert torch.equal(first, second)
    assert torch.allclose(first @ first.T, torch.eye(size, dtype=torch.float64), atol=1e-12)
    if size > 1:
        assert not torch.equal(first, orthogonal(size, np.random.default_rng(2)))


@pytest.mark.parametrize(
    ("embedding", "rotated"),
    [
        (False, "heads and residual stream"),
        (
            True,
            "heads, not the residual stream: the embedding beside classes, or of two tokens, has its basis",
        ),
    ],
)
def test_an_export_records_what_was_rotated(embedding: bool, rotated: str) -> None:
    model = scrambled()
    pictures = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8)
    subnet = export_timm(
        model,
        list(pictures),
        eight_bit_fraction=1,
        mean=[0.5] * 3,
        std=[0.5] * 3,
        resize={"mode": "none"},
        rotate=True,
        embedding=embedding,
    )
    assert subnet.config["provenance"]["rotated"] == rotated
    with Engine(subnet) as engine:
        found = engine.infer_batch(list(pictures))
    exact = oracle.run(subnet.config, subnet.tensors(), pictures[0])
    assert np.array_equal(exact[:5], found[0].integer_logits)
    expected = forward_of(model, torch.from_numpy(pictures).permute(0, 3, 1, 2) / 127.5 - 1).detach().numpy()
    assert np.corrcoef(found.logits.ravel(), expected.ravel())[0, 1] > 0.99


@pytest.mark.parametrize(
    ("classes", "share", "rotated"),
    [(0, 1, "heads and residual stream"), (0, 0.25, "nothing"), (5, 1, "nothing")],
)
@pytest.mark.parametrize("pool", [{}, {"class_token": False, "global_pool": "map"}], ids=str)
def test_embeddings_of_eight_bits_are_rotated_by_default(
    classes: int, share: float, rotated: str, pool: dict[str, Any]
) -> None:
    model = scrambled(num_classes=classes, **pool)
    pictures = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8)
    subnet = export_timm(
        model,
        list(pictures),
        eight_bit_fraction=share,
        mean=[0.5] * 3,
        std=[0.5] * 3,
        resize={"mode": "none"},
        embedding=not classes,
    )
    assert subnet.config["provenance"]["rotated"].split(",")[0] == rotated


@pytest.mark.parametrize(
    ("loud", "options", "rotated"),
    [(True, {}, False), (False, {"num_classes": 0, "class_token": False, "global_pool": "map"}, True)],
    ids=["plain", "rotated"],
)
def test_the_better_of_both_on_held_out_pictures_is_taken(
    loud: bool, options: dict[str, Any], rotated: bool
) -> None:
    model = scrambled(**options)
    if loud:
        with torch.no_grad():
            model.pos_embed[..., 5] += 30 * torch.randn(model.pos_embed.shape[1])
    rng = np.random.default_rng(0)
    pictures = [
        np.kron(rng.integers(0, 256, (4, 4, 3)), np.ones((4, 4, 1))).astype(np.uint8) for _ in range(40)
    ]
    subnet = export_timm(
        model,
        pictures,
        eight_bit_fraction=1,
        mean=[0.5] * 3,
        std=[0.5] * 3,
        resize={"mode": "none"},
        embedding="num_classes" in options,
    )
    record = subnet.config["provenance"]
    tried = record["rotation_tried"]
    assert record["rotated"] == ("heads and residual stream" if rotated else "nothing")
    assert (tried["error_rotated"] < tried["error"]) == rotated
    assert 5 <= tried["held_out"] <= 11
    assert record["calibration_images"] == 40
