"""Plain Vision Transformers in ONNX files, as torch exports them."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("timm")
onnx = pytest.importorskip("onnx")

from onnx import numpy_helper  # noqa: E402
from timm.models.deit import VisionTransformerDistilled  # noqa: E402
from timm.models.vision_transformer import VisionTransformer  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from quasar_rt.networks import NetworkError, load_network, onnx_graph  # noqa: E402
from test_networks import random  # noqa: E402

SHAPE: dict[str, Any] = dict(img_size=20, patch_size=4, embed_dim=32, depth=2, num_heads=2, num_classes=3)


def vit(**changes: Any) -> nn.Module:
    return random(VisionTransformer(**SHAPE | changes))


def pictures(*size: int) -> Tensor:
    return torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))


def write(model: nn.Module, path: Path, size: int = 20, opset: int = 17, **options: Any) -> Path:
    """Exports by tracing, which needs nothing but onnx."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (pictures(size, size),), str(path), opset_version=opset, dynamo=False, **options
        )
    return path


class Separate(nn.Module):
    """A network whose graph looks as transformers' does: q, k and v apart, both scaled, positions interpolated."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def attention(self, block: nn.Module, x: Tensor) -> Tensor:
        attn = block.attn
        batch, tokens, embed = x.shape
        q, k, v = (
            F.linear(x, weight, bias).view(batch, tokens, attn.num_heads, -1).transpose(1, 2)
            for weight, bias in zip(attn.qkv.weight.chunk(3), attn.qkv.bias.chunk(3), strict=True)
        )
        root = attn.scale**0.5
        found = torch.softmax((q * root) @ (k.transpose(2, 3) * root), -1) @ v
        return attn.proj(found.transpose(1, 2).reshape(batch, tokens, embed))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        m = self.model
        x = m.patch_embed.proj(image)
        grid = x.shape[2:]
        x = torch.cat([m.cls_token.expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], 1)
        position = m.pos_embed[:, 1:].reshape(1, 5, 5, -1).permute(0, 3, 1, 2)
        position = F.interpolate(position, size=grid, mode="bicubic", align_corners=False)
        x = x + torch.cat([m.pos_embed[:, :1], position.flatten(2).transpose(1, 2)], 1)
        for block in m.blocks:
            x = x + block.ls1(self.attention(block, block.norm1(x)))
            x = x + block.ls2(block.mlp(block.norm2(x)))
        x = m.norm(x)
        return x, torch.sigmoid(x[:, 1:].mean(-1))


@pytest.mark.parametrize(
    ("changes", "opset"),
    [
        ({}, 17),
        ({}, 12),
        ({"init_values": 0.3, "reg_tokens": 3, "no_embed_class": True, "qkv_bias": False}, 14),
        ({"global_pool": "avg"}, 20),
        ({"global_pool": "avg", "fc_norm": False, "class_token": False}, 17),
        ({"pre_norm": True, "act_layer": "quick_gelu"}, 17),
        ({"num_classes": 0, "act_layer": "gelu_tanh", "norm_layer": partial(nn.LayerNorm, eps=1e-5)}, 14),
    ],
)
@pytest.mark.parametrize("fused", [True, False])
def test_the_network_of_a_file_computes_the_same(
    changes: dict[str, Any], opset: int, fused: bool, tmp_path: Path
) -> None:
    model = vit(**changes)
    for block in model.blocks:
        block.attn.fused_attn = fused and opset > 12
    path = write(model, tmp_path / "mine.onnx", opset=opset, input_names=["x"], dynamic_axes={"x": {0: "n"}})
    found = load_network(path)
    with torch.no_grad():
        expected = model(pictures(20, 20))
        torch.testing.assert_close(found.model(pictures(20, 20)), expected, atol=1e-5, rtol=1e-5)
    assert found.name == "mine"
    assert found.model.norm_pre.eps == model.norm_pre.eps if changes.get("pre_norm") else True
    assert found.model.blocks[0].norm1.eps == model.blocks[0].norm1.eps
    assert "differs from the file by" in found.notices[0]


def test_a_distilled_network_has_both_heads(tmp_path: Path) -> None:
    model = random(VisionTransformerDistilled(**SHAPE))
    found = load_network(write(model, tmp_path / "mine.onnx")).model
    assert type(found) is VisionTransformerDistilled
    with torch.no_grad():
        torch.testing.assert_close(found(pictures(20, 20)), model(pictures(20, 20)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [20, 12, None])
def test_positions_that_the_graph_interpolates_are_taken(size: int | None, tmp_path: Path) -> None:
    """Takes the backbone of a larger network, with an image size that the file leaves open."""
    model = vit(num_classes=0, init_values=0.5)
    axes = {"x": {0: "n", 2: "h", 3: "w"}}
    path = write(Separate(model), tmp_path / "mine.onnx", input_names=["x"], dynamic_axes=axes)
    found = load_network(path, image_size=size)
    side = size or 224
    with torch.no_grad():
        tokens = found.model.forward_features(pictures(side, side))
        expected = Separate(model)(pictures(side, side))[0]
    torch.testing.assert_close(tokens, expected, atol=2e-5, rtol=2e-5)
    assert any(
        "what follows its last norm (ReduceMean, Sigmoid) is left out" in note for note in found.notices
    )
    assert any("no preprocessing" in note for note in found.notices)


def test_an_open_size_that_the_positions_refuse_is_found(tmp_path: Path) -> None:
    axes = {"x": {0: "n", 2: "h", 3: "w"}}
    model = vit(dynamic_img_size=False)
    model.patch_embed.strict_img_size = False
    path = write(model, tmp_path / "mine.onnx", input_names=["x"], dynamic_axes=axes)
    assert load_network(path).model.patch_embed.img_size == (20, 20)
    smaller = load_network(path, image_size=12)
    model.set_input_size(img_size=(12, 12))
    with torch.no_grad():
        x = pictures(12, 12)
        torch.testing.assert_close(smaller.model(x), model(x), atol=1e-5, rtol=1e-5)
    assert any("resampled from 5x5 to 3x3" in note for note in smaller.notices)
    with pytest.raises(NetworkError, match=r"images of 3x3 pixels have no patch of 4x4"):
        load_network(path, image_size=3)


def test_half_precision_and_a_normalisation_in_the_graph_are_read(tmp_path: Path) -> None:
    class Normalised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = vit()

        def forward(self, image: Tensor) -> Tensor:
            mean, std = (
                torch.tensor(v).view(1, 3, 1, 1) for v in ((120.0, 110.0, 100.0), (58.0, 57.0, 56.0))
            )
            found: Tensor = self.model((image - mean) / std).softmax(-1)
            return found

    model = Normalised()
    path = write(model, tmp_path / "mine.onnx")
    document = onnx.load(str(path))
    for tensor in document.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 2:
            half = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(half, tensor.name))
    onnx.save(document, str(path))
    found = load_network(path)
    image = torch.rand(1, 3, 20, 20) * 255
    with torch.no_grad():
        probabilities = found.model(image).softmax(-1)
        torch.testing.assert_close(probabilities, model(image), atol=1e-2, rtol=1e-2)
    config = found.model.pretrained_cfg
    assert config["mean"] == (0, 0, 0)
    assert config["std"] == (1 / 255,) * 3
    assert any("the softmax behind its classifier is left out" in note for note in found.notices)


def test_onnxs_own_reference_runs_the_graph_where_there_is_no_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = vit(depth=1)
    path = write(model, tmp_path / "mine.onnx")
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with torch.no_grad():
        x = pictures(20, 20)
        torch.testing.assert_close(load_network(path).model(x), model(x), atol=1e-5, rtol=1e-5)


class Doubled(nn.Module):
    """Changes a number that no probe sees: the residual stream behind the blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.model = vit()
        self.model.norm = nn.Sequential(nn.Hardtanh(-1, 1), self.model.norm)

    def forward(self, image: Tensor) -> Tensor:
        found: Tensor = self.model(image)
        return found


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: vit(act_layer="hard_swish"), "its activation function is none of gelu"),
        (lambda: vit(qk_norm=True), "block 0 does more than move and scale"),
        (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), "it has no LayerNorm"),
        (Doubled, "differs from it by|not pooled as"),
        (lambda: vit(global_pool="map"), "block 2: q, k or v of all tokens comes from 0 matrices"),
    ],
)
def test_other_graphs_are_refused_by_name(make: Any, message: str, tmp_path: Path) -> None:
    path = write(make().eval(), tmp_path / "mine.onnx")
    with pytest.raises(NetworkError, match=message):
        load_network(path)


def test_files_that_are_no_graph_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"no graph")
    with pytest.raises(NetworkError, match="is no ONNX file that can be run"):
        load_network(tmp_path / "a.onnx")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_network(tmp_path / "none.onnx")
    two = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["a", "b"], ["c"])],
        "two",
        [onnx.helper.make_tensor_value_info(name, 1, [1, 3, 4, 4]) for name in "ab"],
        [onnx.helper.make_tensor_value_info("c", 1, [1, 3, 4, 4])],
    )
    onnx.save(onnx.helper.make_model(two), str(tmp_path / "two.onnx"))
    with pytest.raises(NetworkError, match="it has 2 inputs"):
        load_network(tmp_path / "two.onnx")
    assert onnx_graph.likely_sizes(tmp_path / "two.onnx") == []


#: Functions of which each calls the next one twice: 2 ** 40 nodes.
OWN = '<domain: "own", opset_import: ["" : 17, "own" : 1]>'
NESTED = "".join(f"{OWN} f{i} (a) => (c) {{ b = own.f{i + 1}(a) c = own.f{i + 1}(b) }}" for i in range(40))
NESTED += f"{OWN} f40 (a) => (c) {{ c = Identity(a) }}"


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ("a = Identity(x) b = Identity(a) a = Identity(b) y = Sub(a, b)", "single static assignment"),
        ("y = Identity(x) y = Identity(y) z = Sub(x, y)", "single static assignment"),
        ("a = Add(x, b) b = Identity(a) y = Identity(b)", "topologically sorted"),
        (
            "y = Loop (size, , x) <body = one (int64 i, bool c, float[n] v) => (bool d, float[n] w) "
            "{ d = Identity(c) w = Identity(v) }>",
            r"it has a loop \(Loop\)",
        ),
        (
            "a = Expand(x, sizes) y = ReduceMean(a)",
            "'a' has 52,776,558,133,248 values for images of 4x4 pixels",
        ),
        ("y = own.f0(x)", "more than 10,000 nodes"),
    ],
)
def test_a_short_file_takes_no_long_time(nodes: str, message: str, tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17, "own" : 1]> g (float[1, 3, 4, 4] x) => (float[n, 3, 4, 4] y)'
        f"<int64 size = {{{1 << 40}}}, int64[4] sizes = {{{1 << 40}, 3, 4, 4}}> {{ {nodes} }} {NESTED}"
    )
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(NetworkError, match=message):
        load_network(tmp_path / "a.onnx")


def test_functions_are_inlined_and_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    model = vit(depth=1)
    document = onnx.load(str(write(model, tmp_path / "mine.onnx")))
    document.opset_import.append(onnx.helper.make_opsetid("own", 1))
    document.functions.append(onnx.parser.parse_function(f"{OWN} f (a) => (b) {{ b = Erf(a) }}"))
    for node in document.graph.node:
        if node.op_type == "Erf":
            node.op_type, node.domain = "f", "own"
    onnx.save(document, str(tmp_path / "mine.onnx"))
    x = pictures(20, 20)
    with torch.no_grad():
        torch.testing.assert_close(
            load_network(tmp_path / "mine.onnx").model(x), model(x), atol=1e-5, rtol=1e-5
        )
    next(one for one in document.graph.initializer if one.name == "norm.bias").dims.insert(0, 1)
    onnx.save(document, str(tmp_path / "mine.onnx"))
    with pytest.raises(NetworkError, match=r"size mismatch for norm.bias"):
        load_network(tmp_path / "mine.onnx")


@pytest.mark.parametrize("half", [True, False])
def test_rotary_positions_are_found(half: bool, tmp_path: Path) -> None:
    from timm.models.eva import Eva

    model = random(
        Eva(
            **SHAPE | {"num_classes": 0}, global_pool="token", use_rot_pos_emb=True, use_abs_pos_emb=False,
            rope_type="dinov3", rope_temperature=100, rope_rotate_half=half, num_reg_tokens=4, init_values=0.5,
            use_fc_norm=False, qkv_fused=half,
        )
    )  # fmt: skip
    path = write(nn.Sequential(model), tmp_path / "mine.onnx")
    found = load_network(path)
    with torch.no_grad():
        torch.testing.assert_close(
            found.model(pictures(20, 20)), model(pictures(20, 20)), atol=1e-5, rtol=1e-5
        )
    with pytest.raises(NetworkError, match="its rotary positions are those of one image size, 20x20"):
        load_network(path, image_size=24)


class Siglip(nn.Module):
    """A network whose pooling looks as transformers' does."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, pool = model, model.attn_pool
        self.attention = nn.MultiheadAttention(32, 2, batch_first=True)
        with torch.no_grad():
            self.attention.in_proj_weight.copy_(torch.cat([pool.q.weight, pool.kv.weight]))
            self.attention.in_proj_bias.copy_(torch.cat([pool.q.bias, pool.kv.bias]))
        self.attention.out_proj = pool.proj

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        pool, x = self.model.attn_pool, self.model.forward_features(image)
        pooled = self.attention(pool.latent.repeat(len(x), 1, 1), x, x)[0]
        pooled = (pooled + pool.mlp(pool.norm(pooled)))[:, 0]
        return x, torch.sigmoid(pooled)


@pytest.mark.parametrize(("classes", "as_transformers"), [(0, False), (3, False), (0, True)])
def test_attention_pooling_is_found(classes: int, as_transformers: bool, tmp_path: Path) -> None:
    model = vit(class_token=False, global_pool="map", num_classes=classes, act_layer="gelu_tanh")
    whole = Siglip(model).eval() if as_transformers else model
    options: dict[str, Any] = {"input_names": ["x"], "dynamic_axes": {"x": {0: "n"}}}
    found = load_network(write(whole, tmp_path / "mine.onnx", **options))
    with torch.no_grad():
        x = pictures(20, 20)
        torch.testing.assert_close(found.model(x), model(x), atol=1e-5, rtol=1e-5)
    assert found.model.global_pool == "map"
    left_out = "what follows its attention pooling (Sigmoid) is left out"
    assert (left_out in found.notices) == as_transformers
