"""Starting a network from timm checkpoints; everything is made here, nothing is downloaded."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the [host] extra")
timm = pytest.importorskip("timm", reason="needs the [host] extra")

from safetensors.torch import save_file  # noqa: E402

from hugging_face_folders import as_transformers, write_folder  # noqa: E402
from quasar_rt import FileError, InvalidValueError  # noqa: E402
from quasar_rt.networks import NetworkError, load_network  # noqa: E402
from quasar_rt.space import Space  # noqa: E402
from quasar_rt.train.model import ViT, ViTConfig  # noqa: E402
from quasar_rt.train.pretrained import load_timm  # noqa: E402

torch.set_num_threads(1)

SPACE = """
name = "test"
classes = 6
head_dim = 8
eight_bit_per = "block"
[image]
height = 32
width = 32
channels = 3
[patch]
kernel = 8
stride = 8
pad = 0
pad_value = 0
[choices]
embed = [16, 24, 32]
depth = [1, 2, 3]
heads = [2, 3, 4]
mlp_ratio = [2.0, 4.0]
eight_bit = [0.0, 1.0]
"""
MEAN, STD = (0.4, 0.5, 0.6), (0.3, 0.2, 0.25)


def theirs(**change: Any) -> Any:
    torch.manual_seed(1)
    shape = {
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": 24,
        "depth": 2,
        "num_heads": 3,
        "mlp_ratio": 4,
        "num_classes": 6,
    }
    net = timm.models.vision_transformer.VisionTransformer(**{**shape, **change}).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(0.02, 0.3)
    return net


def ours(layer_scale: float | None = None, space: str = SPACE) -> ViT:
    torch.manual_seed(2)
    return ViT(ViTConfig.of(Space.from_toml(space), MEAN, STD, layer_scale)).eval()


def images(n: int = 5, size: int = 32) -> Any:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, 3, size, size), generator=generator, dtype=torch.uint8)


def normalised(x: Any) -> Any:
    mean, std = (torch.tensor(a).view(1, 3, 1, 1) for a in (MEAN, STD))
    return (x.float() / 255 - mean) / std


@pytest.mark.parametrize("layer_scale", [None, 0.1])
@pytest.mark.parametrize(
    ("change", "wrap"),
    [
        ({}, "plain"),
        ({"init_values": 0.3}, "model"),
        ({"no_embed_class": True, "init_values": 1e-2}, "safetensors"),
        ({"qkv_bias": False, "embed_dim": 32, "num_heads": 4, "depth": 3}, "state_dict"),
    ],
)
def test_the_checkpoints_shape_gives_the_checkpoints_logits(
    tmp_path: Path, change: dict[str, Any], wrap: str, layer_scale: float | None
) -> None:
    net, model = theirs(**change), ours(layer_scale)
    path = tmp_path / ("a.safetensors" if wrap == "safetensors" else "a.pth")
    if wrap == "safetensors":
        save_file(net.state_dict(), path)
    else:
        torch.save(net.state_dict() if wrap == "plain" else {wrap: net.state_dict()}, path)
    architecture = load_timm(model, path)
    assert (architecture.embed, architecture.depth) == (net.embed_dim, len(net.blocks))
    model.activate(architecture)
    with torch.no_grad():
        expected = net(normalised(images()))
        torch.testing.assert_close(model(images()), expected, rtol=1e-4, atol=1e-4)
        # The largest network is another function, but not a far one where the checkpoint is narrower.
        model.activate(None)
        assert torch.isfinite(model(images())).all()


def load(model: ViT, state: dict[str, Any]) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.pth"
        torch.save(state, path)
        return load_timm(model, path)


def test_the_new_parts_start_small() -> None:
    model, before = ours(), ours()
    load(model, theirs().state_dict())
    for i in range(2):
        torch.testing.assert_close(
            model.blocks[i].fc1.weight[:, 24:], 0.1 * before.blocks[i].fc1.weight[:, 24:]
        )
    torch.testing.assert_close(model.blocks[2].proj.weight, 0.1 * before.blocks[2].proj.weight)
    torch.testing.assert_close(model.blocks[2].qkv.weight, before.blocks[2].qkv.weight)


def test_positions_of_another_grid_are_resampled() -> None:
    net = theirs(img_size=48)
    model = ours()
    model.activate(load(model, net.state_dict()))
    smaller = theirs(img_size=48)
    smaller.set_input_size(img_size=(32, 32))
    with torch.no_grad():
        expected = smaller(normalised(images()))
        torch.testing.assert_close(model(images()), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(48, 64), (24, 64)])
def test_a_grid_that_is_not_square_is_not_guessed(tmp_path: Path, size: tuple[int, int]) -> None:
    net, model = theirs(img_size=size, num_classes=0), ours()
    with pytest.raises(
        InvalidValueError, match=r"positions are no square grid and a class token; give a Hug"
    ):
        load(model, net.state_dict())
    config = {"model_type": "dinov2", "image_size": size, "patch_size": 8, "num_attention_heads": 3}
    write_folder(tmp_path / "mine", as_transformers(net, "dinov2"), config | {"layer_norm_eps": 1e-6}, None)
    model.activate(load_timm(model, tmp_path / "mine"))
    expected = load_network(tmp_path / "mine", image_size=32).model
    torch.testing.assert_close(model.position[:, :24], expected.pos_embed[0, 1:])


def test_the_grid_that_a_file_does_not_name_is_reported(tmp_path: Path) -> None:
    wide = ours(space=SPACE.replace("height = 32", "height = 48").replace("width = 32", "width = 64"))
    for change, model, words in (
        ({"img_size": (16, 64)}, ours(), "17 positions: they are taken to belong to 4x4 patches"),
        ({"img_size": (48, 64)}, wide, "49 positions: they are taken to belong to 6x8 patches"),
        (
            {"img_size": 56, "no_embed_class": True, "init_values": 1},
            ours(),
            "49 positions: they are taken to belong to 7x7 patches, and none to the class token",
        ),
    ):
        torch.save(theirs(**change).state_dict(), tmp_path / "a.pth")
        notices: list[str] = []
        load_timm(model, tmp_path / "a.pth", notice=notices.append)
        assert [notice for notice in notices if notice.endswith(words)], notices


@pytest.mark.parametrize(("classes", "words"), [(9, "has 9 classes"), (0, "has no classifier")])
def test_a_head_of_other_classes_stays_as_it_was(tmp_path: Path, classes: int, words: str) -> None:
    model, before = ours(), ours()
    torch.save(theirs(num_classes=classes).state_dict(), tmp_path / "a.pth")
    notices: list[str] = []
    load_timm(model, tmp_path / "a.pth", notice=notices.append)
    assert torch.equal(model.head.weight[:, :24], before.head.weight[:, :24])
    assert len(notices) == 2
    assert words in notices[1]
    assert "6 classes starts from random weights" in notices[1]
    with pytest.raises(
        InvalidValueError, match=rf"{words}.*: train it, with float_stage\.epochs of 1 or more"
    ):
        load_timm(ours(), tmp_path / "a.pth", classifier=True)


def test_a_folder_starts_a_network_of_another_size(tmp_path: Path) -> None:
    net = theirs(img_size=48, init_values=0.3)
    config = {"model_type": "dinov2", "image_size": 48, "patch_size": 8, "num_attention_heads": 3}
    config |= {"layer_norm_eps": 1e-6}
    write_folder(tmp_path / "mine", as_transformers(net, "dinov2"), config, None)
    model, notices = ours(), []
    model.activate(load_timm(model, tmp_path / "mine", notice=notices.append))
    assert any("resampled from 6x6 to 4x4" in notice for notice in notices)
    assert any("its mean, std and resizing are taken to be those of the published" in n for n in notices)
    means = "its mean is [0.485, 0.456, 0.406]; the recipe's data.mean, [0.4, 0.5, 0.6], is used"
    assert any(means in notice for notice in notices)
    assert any("has no classifier" in notice for notice in notices)
    own = load_network(tmp_path / "mine", image_size=32).model
    model.head.weight.data[:, :24], model.head.bias.data = net.head.weight, net.head.bias
    with torch.no_grad():
        expected = net.head(own(normalised(images())))
        torch.testing.assert_close(model(images()), expected, rtol=1e-4, atol=1e-4)


def test_another_activation_is_refused(tmp_path: Path) -> None:
    net = theirs(act_layer="quick_gelu")
    config = {"model_type": "vit", "hidden_act": "quick_gelu", "image_size": 32, "patch_size": 8}
    write_folder(tmp_path / "mine", as_transformers(net, "vit"), config | {"num_attention_heads": 3}, None)
    with pytest.raises(InvalidValueError, match="its activation is QuickGELU, this network's GELU"):
        load_timm(ours(), tmp_path / "mine")


def test_what_a_folders_network_has_more_is_named(tmp_path: Path) -> None:
    config = {"image_size": 32, "patch_size": 8, "num_attention_heads": 3}
    for kind, net in (
        ("dinov2_with_registers", theirs(reg_tokens=3, init_values=1)),
        ("deit", theirs(reg_tokens=1)),
    ):
        weights = as_transformers(net, kind.partition("_")[0])
        write_folder(tmp_path / kind, weights, config | {"model_type": kind}, None)
        with pytest.raises(InvalidValueError, match=r"it has register or distillation tokens"):
            load_timm(ours(), tmp_path / kind)


def test_a_name_is_looked_up_in_timm() -> None:
    space = SPACE.replace("32", "224").replace("= 8", "= 16").replace("head_dim = 16", "head_dim = 64")
    space = space.replace("[16, 24, 224]", "[192]").replace("[1, 2, 3]", "[12]").replace("[2, 3, 4]", "[3]")
    space = space.replace("[2.0, 4.0]", "[4.0]").replace("classes = 6", "classes = 1000")
    model = ours(space=space)
    torch.manual_seed(4)
    architecture = load_timm(model, "vit_tiny_patch16_224", pretrained=False)
    torch.manual_seed(4)
    net = timm.create_model("vit_tiny_patch16_224").eval()
    model.activate(architecture)
    with torch.no_grad():
        x = images(1, 224)
        np.testing.assert_allclose(model(x), net(normalised(x)), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_size": 4}, "its patches are 4x4, this network's 8x8"),
        ({"in_chans": 1}, "it takes 1 channels, this network 3"),
        ({"embed_dim": 40, "num_heads": 5}, "its embed is 40, this network's largest is 32"),
        ({"depth": 4}, "it has 4 blocks, this network at most 3"),
        ({"embed_dim": 20, "num_heads": 2}, "q, k and v of blocks.0 have 20 rows each, no multiple"),
        ({"mlp_ratio": 6}, "blocks.0 has 144 hidden units, this network at most 128"),
        (
            {"reg_tokens": 2},
            r"it has register or distillation tokens, and a space's networks have a class token",
        ),
        (
            {"global_pool": "avg"},
            r"its head does not read the class token \(timm's global_pool='avg'\), as this",
        ),
        ({"qk_norm": True}, "a plain ViT with a class token has not: blocks.0.attn.k_norm"),
        ({"pre_norm": True}, "no 'patch_embed.proj.bias'|norm_pre"),
        ({"class_token": False, "global_pool": ""}, "it has no 'cls_token'"),
    ],
)
def test_what_differs_is_named(change: dict[str, Any], message: str) -> None:
    model, before = ours(), ours()
    with pytest.raises(InvalidValueError, match=message):
        load(model, theirs(**change).state_dict())
    for a, b in zip(model.parameters(), before.parameters(), strict=True):
        assert torch.equal(a, b)


def test_what_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        NetworkError, match="'nosuch' is neither a file, a folder nor the name of a timm model"
    ):
        load_timm(ours(), "nosuch")
    with pytest.raises(InvalidValueError, match="'resnet18' is no plain timm VisionTransformer"):
        load_timm(ours(), "resnet18", pretrained=False)
    for name, text in (("a.pth", b"not a checkpoint"), ("b.safetensors", b"\x08"), ("c.pth", b"")):
        (tmp_path / name).write_bytes(text)
        with pytest.raises(FileError, match=f"{name}' is no checkpoint of tensors"):
            load_timm(ours(), tmp_path / name)
    with pytest.raises(NetworkError, match=r"cannot be loaded: it has no config.json"):
        load_timm(ours(), tmp_path)
    torch.save({"model": {"a": 1}}, tmp_path / "d.pth")
    with pytest.raises(FileError, match="is no checkpoint of tensors"):
        load_timm(ours(), tmp_path / "d.pth")
    weights = theirs().state_dict()
    weights["norm.weight"] = weights["norm.weight"] * float("nan")
    with pytest.raises(InvalidValueError, match=r"'norm\.weight' has values that are not finite"):
        load(ours(), weights)
    overlapping = SPACE.replace("stride = 8", "stride = 4")
    with pytest.raises(InvalidValueError, match="this network's stride is 4 and its padding 0"):
        load(ours(space=overlapping), theirs().state_dict())
