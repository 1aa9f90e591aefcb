"""Networks of others: folders of Hugging Face's transformers, timm's checkpoints, their sizes and preprocessing."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("timm")
safetensors = pytest.importorskip("safetensors.torch")

from timm.models.deit import VisionTransformerDistilled  # noqa: E402
from timm.models.eva import Eva  # noqa: E402
from timm.models.vision_transformer import VisionTransformer  # noqa: E402
from torch import nn  # noqa: E402

from hugging_face_folders import CONFIG, LABELS, PROCESSOR, as_transformers, write_folder  # noqa: E402
from quasar_rt import Engine  # noqa: E402
from quasar_rt.errors import FileError, QuasarError  # noqa: E402
from quasar_rt.export import UnsupportedModelError, export_timm  # noqa: E402
from quasar_rt.export.float_vit import forward, unprobed  # noqa: E402
from quasar_rt.export.inputs import preprocessing_of  # noqa: E402
from quasar_rt.export.timm_reader import read  # noqa: E402
from quasar_rt.networks import NetworkError, load_network  # noqa: E402

#: An even and an odd grid, two heads of 16 channels.
SHAPE: dict[str, Any] = dict(img_size=20, patch_size=4, embed_dim=32, depth=2, num_heads=2, num_classes=3)


def random(model):
    """Gives every parameter random values, so that none can be left out unseen."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    if hasattr(rope := getattr(model, "rope", None), "rotate_half"):  # timm 1.0.26 tells the blocks alone
        rope.rotate_half = model.blocks[0].attn.rotate_half
        rope.reset_parameters()
    return model.eval()


def pictures(*size):
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))


def vit(**changes):
    return random(VisionTransformer(**SHAPE | {"norm_layer": partial(nn.LayerNorm, eps=1e-6)} | changes))


def head_of(model, **names):
    """Returns the tensors of a model's heads by transformers' names."""
    return {
        f"{theirs}.{part}": getattr(model.get_submodule(ours), part).detach()
        for ours, theirs in names.items()
        for part in ("weight", "bias")
    }


def a_vit():
    model = vit()
    weights = as_transformers(model, "vit", "vit.") | head_of(model, head="classifier")
    return model, weights, {"model_type": "vit", "hidden_act": "gelu"} | LABELS


def a_headless_vit():
    model = vit(num_classes=0, act_layer="gelu_tanh", qkv_bias=False)
    pooler = {"pooler.dense.weight": torch.zeros(32, 32), "pooler.dense.bias": torch.zeros(32)}
    weights = as_transformers(model, "vit") | pooler
    return model, weights, {"model_type": "vit", "hidden_act": "gelu_pytorch_tanh"}


def a_deit():
    model = vit(reg_tokens=1)
    weights = as_transformers(model, "deit", "deit.") | head_of(model, head="classifier")
    return model, weights, {"model_type": "deit"} | LABELS


def a_distilled_deit():
    model = random(VisionTransformerDistilled(**SHAPE, norm_layer=partial(nn.LayerNorm, eps=1e-6)))
    heads = head_of(model, head="cls_classifier", head_dist="distillation_classifier")
    return model, as_transformers(model, "deit", "deit.") | heads, {"model_type": "deit"} | LABELS


def a_dinov2():
    model = vit(num_classes=0, init_values=0.5)
    mask = {"embeddings.mask_token": torch.zeros(1, 32)}
    return model, as_transformers(model, "dinov2") | mask, {"model_type": "dinov2", "mlp_ratio": 4}


def a_dinov2_with_registers():
    model = vit(num_classes=0, init_values=0.5, reg_tokens=4)
    with torch.no_grad():
        model.pos_embed[:, 1:5] = 0
    return model, as_transformers(model, "dinov2"), {"model_type": "dinov2_with_registers"}


def a_clip():
    model = vit(pre_norm=True, act_layer="quick_gelu", norm_layer=partial(nn.LayerNorm, eps=1e-5))
    with torch.no_grad():
        model.head.bias.zero_()
    weights = as_transformers(model, "clip") | {
        "visual_projection.weight": model.head.weight.detach(),
        "text_projection.weight": torch.zeros(3, 8),
        "text_model.final_layer_norm.weight": torch.zeros(8),
        "logit_scale": torch.zeros(()),
    }
    tower = {key: value for key, value in CONFIG.items() if key != "layer_norm_eps"} | {"projection_dim": 3}
    return model, weights, {"model_type": "clip", "projection_dim": 3, "vision_config": tower}


def a_siglip(**changes):
    pool = {"class_token": False, "global_pool": "map", "num_classes": 0, "act_layer": "gelu_tanh"}
    model = vit(**pool | changes)
    text = {
        "text_model.embeddings.position_embedding.weight": torch.zeros(5, 8),
        "logit_bias": torch.zeros(1),
    }
    tower = {key: value for key, value in CONFIG.items() if key != "layer_norm_eps"}
    return model, as_transformers(model, "siglip") | text, {"model_type": "siglip", "vision_config": tower}


def a_siglip_with_a_classifier():
    model = vit(class_token=False, global_pool="avg", fc_norm=False, act_layer="gelu_tanh")
    head = as_transformers(a_siglip()[0], "siglip")
    weights = {key: value for key, value in head.items() if ".head." in key} | as_transformers(
        model, "siglip"
    )
    weights |= head_of(model, head="classifier")
    return model, weights, {"model_type": "siglip", "vision_config": CONFIG} | LABELS


def eva(**changes):
    """Returns a small DINOv3 of timm."""
    torch.manual_seed(0)
    rope = {"use_rot_pos_emb": True, "use_abs_pos_emb": False, "rope_type": "dinov3", "rope_temperature": 100}
    rope |= {"rope_rotate_half": True, "num_reg_tokens": 4, "init_values": 0.5, "use_fc_norm": False}
    rope |= {"global_pool": "token", "norm_layer": partial(nn.LayerNorm, eps=1e-6)}
    return random(Eva(**SHAPE | rope | changes))


def a_dinov3():
    model = eva(num_classes=0)
    own = {key: value.detach() for key, value in model.state_dict().items()}
    weights = {"embeddings.mask_token": torch.zeros(1, 1, 32), "rope_embeddings.inv_freq": torch.zeros(4)}
    for i in range(2):
        q, k, v = own.pop(f"blocks.{i}.attn.qkv.weight").chunk(3)
        biases = {part: own.pop(f"blocks.{i}.attn.{part}_bias") for part in "qv"}
        at = f"layer.{i}.attention"
        weights |= {f"{at}.{part}_proj.weight": w for part, w in zip("qkv", (q, k, v), strict=True)}
        weights |= {f"{at}.{part}_proj.bias": bias for part, bias in biases.items()}
        weights |= {f"layer.{i}.layer_scale{n}.lambda1": own.pop(f"blocks.{i}.gamma_{n}") for n in "12"}
    names = {"blocks": "layer", "attn.proj": "attention.o_proj", "mlp.fc1": "mlp.up_proj"}
    names |= {"mlp.fc2": "mlp.down_proj", "reg_token": "embeddings.register_tokens"}
    names |= {"cls_token": "embeddings.cls_token", "patch_embed.proj": "embeddings.patch_embeddings"}
    for key, value in own.items():
        for ours, theirs in names.items():
            key = key.replace(ours, theirs)
        weights[key] = value
    config = {"model_type": "dinov3_vit", "rope_theta": 100.0, "hidden_act": "gelu", "num_register_tokens": 4}
    return model, weights, config


KINDS = (a_vit, a_headless_vit, a_deit, a_distilled_deit, a_dinov2, a_dinov2_with_registers, a_dinov3, a_clip)
KINDS += (a_siglip, a_siglip_with_a_classifier)


@pytest.mark.parametrize("make", KINDS)
def test_a_folder_of_transformers_computes_the_same(make, tmp_path):
    model, weights, config = make()
    found = load_network(write_folder(tmp_path / "mine", weights, config))
    x = pictures(20, 20)
    with torch.no_grad():
        torch.testing.assert_close(found.model(x), model(x), atol=1e-5, rtol=1e-5)
    assert found.name == found.model.pretrained_cfg["architecture"] == "mine"
    assert read(found.model, headless=True).pool == read(model, headless=True).pool


@pytest.mark.parametrize("make", KINDS)
def test_transformers_computes_the_same(make, tmp_path):
    transformers = pytest.importorskip("transformers")
    _, weights, config = make()
    folder = write_folder(tmp_path / "mine", weights, config)
    classes = {
        "a_vit": "ViTForImageClassification",
        "a_headless_vit": "ViTModel",
        "a_deit": "DeiTForImageClassification",
        "a_distilled_deit": "DeiTForImageClassificationWithTeacher",
        "a_dinov2": "Dinov2Model",
        "a_dinov2_with_registers": "Dinov2WithRegistersModel",
        "a_dinov3": "DINOv3ViTModel",
        "a_clip": "CLIPVisionModelWithProjection",
        "a_siglip": "SiglipVisionModel",
        "a_siglip_with_a_classifier": "SiglipForImageClassification",
    }
    theirs = getattr(transformers, classes[make.__name__]).from_pretrained(folder).eval()
    for size in (20, 12):
        x = pictures(size, size)
        resampled = {} if "dino" in make.__name__ else {"interpolate_pos_encoding": True}
        with torch.no_grad():
            given = theirs(x, **resampled)
            ours = load_network(folder, image_size=size).model(x)
        expected = next(
            given[key]
            for key in ("logits", "image_embeds", "last_hidden_state")
            if given.get(key) is not None
        )
        expected = given["pooler_output"] if make.__name__ == "a_siglip" else expected
        expected = expected[:, 0] if expected.ndim == 3 else expected
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_a_folder_of_siglip_leaves_out_what_is_usual(tmp_path):
    shape = {"img_size": 224, "patch_size": 16, "embed_dim": 24, "num_heads": 12}
    model, weights, config = a_siglip(**shape)
    found = load_network(write_folder(tmp_path / "mine", weights, config | {"vision_config": {}}, None))
    x = pictures(224, 224)
    with torch.no_grad():
        torch.testing.assert_close(found.model(x), model(x), atol=1e-5, rtol=1e-5)
    document, means, _ = preprocessing_of(found.model, read(found.model, headless=True), None, None, None)
    assert document["resize"] == {"mode": "exact", "size": [224, 224], "filter": "bicubic"}
    assert means == [0.5] * 3


def test_weights_in_shards_are_joined(tmp_path):
    model, weights, config = a_vit()
    found = load_network(write_folder(tmp_path / "mine", weights, config, shards=3)).model
    with torch.no_grad():
        torch.testing.assert_close(found(pictures(20, 20)), model(pictures(20, 20)))
    index = tmp_path / "mine" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../model.safetensors"}}))
    with pytest.raises(NetworkError, match="names no files of the folder"):
        load_network(tmp_path / "mine")
    index.unlink()
    with pytest.raises(NetworkError, match=r"neither model.safetensors nor pytorch_model.bin"):
        load_network(tmp_path / "mine")


def test_the_class_names_of_a_folder_are_taken(tmp_path):
    _, weights, config = a_vit()
    labels = {"id2label": {"0": "cat", "1": "dog", "2": "owl"}}
    for place, (more, expected) in enumerate(
        [(labels, ["cat", "dog", "owl"]), (LABELS, None), ({"id2label": {"0": "cat"}}, None)]
    ):
        folder = write_folder(tmp_path / f"{place}", weights, config | more)
        assert load_network(folder).classes == expected


EXACT = {"mode": "exact", "size": [20, 20], "filter": "bilinear"}
SHORTER = {"mode": "shorter", "size": [23], "filter": "bicubic"}


@pytest.mark.parametrize(
    ("processor", "resize", "mean"),
    [
        (PROCESSOR, SHORTER, [0.1, 0.2, 0.3]),
        (
            PROCESSOR | {"size": {"height": 23, "width": 23}, "resample": 2},
            EXACT | {"size": [23, 23]},
            [0.1, 0.2, 0.3],
        ),
        ({"size": 20, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2}, EXACT, [0.5] * 3),
        (PROCESSOR | {"do_normalize": False}, SHORTER, [0.0] * 3),
        (None, EXACT, [0.5] * 3),
    ],
)
def test_preprocessing_is_that_of_the_folder(processor, resize, mean, tmp_path):
    _, weights, config = a_vit()
    found = load_network(write_folder(tmp_path / "mine", weights, config, processor))
    document, means, deviations = preprocessing_of(found.model, read(found.model), None, None, None)
    assert document == {"resize": resize}
    assert means == mean
    assert (deviations == [1.0] * 3) == (mean == [0.0] * 3)
    assert bool([note for note in found.notices if "preprocessor_config.json" in note]) == (processor is None)


def test_dinov2_gets_the_size_of_its_preprocessing(tmp_path):
    _, weights, config = a_dinov2()
    smaller = PROCESSOR | {"crop_size": 12, "size": {"shortest_edge": 14}}
    found = load_network(write_folder(tmp_path / "mine", weights, config, smaller))
    assert found.model.patch_embed.img_size == (12, 12)
    assert "its positions are resampled from 5x5 to 3x3 patches" in found.notices


@pytest.mark.parametrize(
    ("config", "without", "message"),
    [
        ({"model_type": "dinov2", "use_swiglu_ffn": True}, "", "multiplies two activations"),
        ({"model_type": "dinov3_vit", "use_gated_mlp": True}, "", r"multiplies two activations .*DINOv3 S\+"),
        ({"model_type": "siglip2_vision_model"}, "", "images of any size"),
        ({"model_type": "siglip_vision_model"}, "", "no positions"),
        ({"model_type": "swin"}, "", "attention in windows"),
        ({"model_type": "vit", "hidden_act": "mish"}, "", "activation function 'mish'"),
        (
            {"model_type": "vit"},
            "vit.encoder.layer.1.output.dense.weight",
            r"lacks tensors of a vit.*vit\.encoder\.layer\.1\.output\.dense\.weight",
        ),
        (
            {"model_type": "vit"},
            "vit.encoder.layer.1.attention.attention.key.weight",
            r"vit\.encoder\.layer\.1\.attention\.attention\.query\.weight' has no k beside it",
        ),
        ({"model_type": "vit"}, "vit.embeddings.cls_token", "no class token"),
        ({"model_type": "vit", "patch_size": 5}, "", "do not fit images"),
        ({"model_type": "vit", "num_attention_heads": "x"}, "", "no usable 'num_attention_heads'"),
    ],
)
def test_other_folders_are_refused_by_name(config, without, message, tmp_path):
    _, weights, _ = a_vit()
    weights.pop(without, None)
    with pytest.raises(NetworkError, match=message):
        load_network(write_folder(tmp_path / "mine", weights, config))


def test_damaged_folders_are_refused(tmp_path):
    with pytest.raises(NetworkError, match=r"no config.json"):
        load_network(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(FileError, match="no JSON object"):
        load_network(tmp_path)
    _, weights, config = a_vit()
    positions = weights["vit.embeddings.position_embeddings"]
    for wrong in (positions.flatten()[:-1], positions[..., :-1], positions[:, :0]):
        damaged = weights | {"vit.embeddings.position_embeddings": wrong.contiguous()}
        with pytest.raises(NetworkError, match="position"):
            load_network(write_folder(tmp_path / "mine", damaged, config))
    weights["vit.layernorm.bias"] = weights["vit.layernorm.bias"] + torch.inf
    with pytest.raises(NetworkError, match="not finite"):
        load_network(write_folder(tmp_path / "mine", weights, config))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": {"shortest_edge": 0}}, "crops 20x20 pixels out of 0x0"),
        ({"size": {"shortest_edge": 12}}, "crops 20x20 pixels out of 12x12"),
        ({"size": {"longest_edge": 12}}, "a preprocessing size of"),
        ({"size": {"shortest_edge": "many"}}, "unusable value"),
        ({"image_mean": 3}, "unusable value"),
        ({"rescale_factor": 1 / 127.5}, "scales pixels by 0.0078"),
    ],
)
def test_other_preprocessing_is_refused(changes, message, tmp_path):
    _, weights, config = a_vit()
    with pytest.raises(NetworkError, match=message):
        load_network(write_folder(tmp_path / "mine", weights, config, PROCESSOR | changes))


def test_a_folder_of_timm_is_loaded(tmp_path):
    weights = random(load_network("vit_tiny_patch16_224", pretrained=False, arguments={"depth": 1}).model)
    document = {"architecture": "vit_tiny_patch16_224", "model_args": {"depth": 1}, "pretrained_cfg": {}}
    (tmp_path / "config.json").write_text(json.dumps(document))
    safetensors.save_file(weights.state_dict(), tmp_path / "model.safetensors")
    x = pictures(224, 224)
    with torch.no_grad():
        torch.testing.assert_close(load_network(tmp_path).model(x), weights(x))


def test_positions_of_a_checkpoint_are_resampled_as_timm_does_it(tmp_path):
    shape = {"embed_dim": 32, "depth": 1, "num_heads": 2, "num_classes": 3, "reg_tokens": 2}
    own = random(VisionTransformer(img_size=64, patch_size=16, **shape))
    torch.save(own.state_dict(), tmp_path / "mine.pth")
    small = {key: value for key, value in shape.items() if key != "num_classes"}
    load = partial(load_network, tmp_path / "mine.pth", architecture="vit_tiny_patch16_224", arguments=small)
    found = load(image_size=(48, 80))
    # timm's own way to another size.
    own.set_input_size(img_size=(48, 80))
    x = pictures(48, 80)
    with torch.no_grad():
        torch.testing.assert_close(found.model(x), own(x))
    assert found.name == "mine"
    with pytest.raises(
        NetworkError, match=r"images of 64x64 pixels, the network takes 224x224: --image-size 64"
    ):
        load()
    with pytest.raises(NetworkError, match="patches are 16x16, the network's 32x32"):
        load_network(
            tmp_path / "mine.pth", architecture="vit_tiny_patch16_224", arguments=small | {"patch_size": 32}
        )


def test_checkpoints_keep_their_heads_and_metas_names_are_converted(tmp_path):
    shape = {"depth": 1, "embed_dim": 32, "num_heads": 2}
    for architecture, own, extra in (
        ("deit_tiny_distilled_patch16_224", random(VisionTransformerDistilled(**shape, num_classes=4)), {}),
        (
            "vit_small_patch14_dinov2",
            random(VisionTransformer(img_size=42, patch_size=14, **shape, num_classes=0, init_values=1.0)),
            {"mask_token": torch.zeros(1, 32)},
        ),
    ):
        size = own.patch_embed.img_size
        torch.save(own.state_dict() | extra, tmp_path / "mine.pth")
        found = load_network(
            tmp_path / "mine.pth", architecture=architecture, arguments=shape, image_size=size
        )
        with torch.no_grad():
            torch.testing.assert_close(found.model(pictures(*size)), own(pictures(*size)))
    with pytest.raises(NetworkError, match="has its own shape"):
        load_network(tmp_path, arguments=shape)


def test_a_source_without_weights_or_architecture_is_refused(tmp_path):
    torch.save({}, tmp_path / "mine.pth")
    for source, message in (
        (tmp_path / "mine.pth", "no architecture in it"),
        (tmp_path / "none.pth", "does not exist"),
        ("nosuch", "neither a file, a folder nor the name of a timm model"),
        ("deit_tinny_patch16_224", "did you mean deit_tiny_patch16_224"),
    ):
        with pytest.raises(QuasarError, match=message):
            load_network(source)
    for size in ((1, 2, 3), 0, (0, 4)):
        with pytest.raises(NetworkError, match="image size must be"):
            load_network("vit_tiny_patch16_224", image_size=size)


def test_an_image_size_that_the_patches_do_not_fill_is_reported(tmp_path):
    model = random(
        VisionTransformer(img_size=20, patch_size=4, embed_dim=32, depth=2, num_heads=2, num_classes=0)
    )
    folder = write_folder(tmp_path, as_transformers(model, "dinov2"), {"model_type": "dinov2"})
    for source, patch in ((folder, 4), ("vit_tiny_patch16_224", 16)):
        load = partial(load_network, source, pretrained=False)
        size = (2 * patch, 3 * patch + 2)
        (notice,) = (notice for notice in load(image_size=size).notices if "whole number" in notice)
        below, above = f"{2 * patch}x{3 * patch}", f"{2 * patch}x{4 * patch}"
        assert notice.endswith(
            f"only {below} pixels are read; the nearest image sizes are {below} and {above}"
        )
        assert not any("whole number" in notice for notice in load(image_size=2 * patch).notices)
        with pytest.raises(NetworkError, match=rf"images of 3x64 pixels have no patch of {patch}x{patch}"):
            load(image_size=(3, 64))


def test_too_many_tokens_are_refused_before_the_calibration():
    def images():
        raise AssertionError("a calibration image was read")
        yield

    model = VisionTransformer(**SHAPE | {"img_size": 132})
    with pytest.raises(
        UnsupportedModelError, match=r"1090 is outside .* fits is 124x124: .*--image-size 124$"
    ):
        export_timm(model, images())
    wide = VisionTransformer(**SHAPE | {"img_size": (64, 512)})
    with pytest.raises(UnsupportedModelError, match=r"2049 is outside .* --image-size 44x352$"):
        export_timm(wide, images())
    large = VisionTransformer(**SHAPE | {"embed_dim": 1040})
    with pytest.raises(UnsupportedModelError, match=r"embed: 1040 is outside \[1, 1024\]$"):
        export_timm(large, images())


def test_a_folder_becomes_a_subnet(tmp_path):
    model, weights, config = a_clip()
    found = load_network(write_folder(tmp_path / "tower", weights, config))
    images = np.random.default_rng(0).integers(0, 256, (8, 30, 40, 3), np.uint8)
    subnet = export_timm(found.model, list(images), eight_bit_fraction=1)
    assert subnet.name == subnet.config["provenance"]["architecture"] == "tower"
    assert subnet.config["provenance"]["mean"] == [0.1, 0.2, 0.3]
    assert len(subnet.classes) == model.num_classes


@pytest.mark.parametrize("size", [(12, 20), (24, 24)])
@pytest.mark.parametrize("half", [True, False])
def test_rotary_positions_are_functions_of_the_grid(half, size, tmp_path):
    model = eva(img_size=size, rope_rotate_half=half, qkv_fused=half, qkv_bias=half)
    net = read(model)
    net.cast(torch.float32)
    x = pictures(*size)
    with torch.no_grad():
        torch.testing.assert_close(forward(net, x, unprobed), model(x), atol=1e-5, rtol=1e-5)
        if half:  # as transformers has it: the same weights at another size
            other, weights, config = a_dinov3()
            folder = write_folder(tmp_path / "mine", weights, config)
            found = load_network(folder, image_size=size).model
            again = eva(num_classes=0, img_size=size)
            again.load_state_dict(other.state_dict())
            torch.testing.assert_close(found(x), again(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"swiglu_mlp": True}, "multiplies two activations"),
        ({"rope_type": "mixed", "rope_rotate_half": False}, "differ between blocks and heads"),
        ({"global_pool": "map"}, "pools by attention .* in a VisionTransformer only"),
    ],
)
def test_other_networks_with_rotary_positions_are_refused_by_name(change, message):
    with pytest.raises(UnsupportedModelError, match=message):
        read(eva(**change))


def test_normalised_queries_are_refused_by_name():
    model = eva()
    model.blocks[1].attn.q_norm = nn.LayerNorm(model.blocks[1].attn.head_dim)
    with pytest.raises(UnsupportedModelError, match="normalises queries and keys"):
        read(model)


@pytest.mark.parametrize("size", [(12, 20), (24, 24)])
def test_attention_pooling_is_read_at_every_size(size):
    model, _, _ = a_siglip(img_size=size)
    net = read(model, headless=True)
    net.cast(torch.float32)
    x = pictures(*size)
    with torch.no_grad():
        torch.testing.assert_close(forward(net, x, unprobed), model(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("share", [1, 0.5])
@pytest.mark.parametrize("tokens", ["image", "patch"])
def test_a_network_with_rotary_positions_becomes_a_subnet(tokens, share):
    model, images = eva(img_size=16, num_classes=0), pictures(16, 16).repeat(8, 1, 1, 1)
    images += torch.randn(images.shape, generator=torch.Generator().manual_seed(2))
    subnet = export_timm(
        model, images, eight_bit_fraction=share, embedding=True, tokens=tokens,
        mean=[0.5] * 3, std=[0.25] * 3, resize={"mode": "none"},
    )  # fmt: skip
    assert subnet.config["rotary"]
    pixels = ((images[:4] * 0.25 + 0.5) * 255).round().clamp(0, 255).byte()
    with torch.no_grad():
        exact = model((pixels / 255 - 0.5) / 0.25).numpy()
    with Engine(subnet, "cpu") as engine:
        predictions = engine.infer_batch([image.permute(1, 2, 0).numpy() for image in pixels])
    found = np.stack([prediction.embedding.values for prediction in predictions])
    error = np.abs(found - exact).mean() / np.abs(exact - exact.mean(axis=0)).mean()
    assert error < (0.2 if share == 1 else 0.4)
