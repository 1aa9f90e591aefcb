"""Post-training quantization of timm models: the same function in integers, and a clear refusal of anything else."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

torch = pytest.importorskip("torch", reason="needs the [host] extra")
timm = pytest.importorskip("timm", reason="needs the [host] extra")

from click.testing import CliRunner  # noqa: E402
from PIL import Image  # noqa: E402
from timm.models.deit import VisionTransformerDistilled  # noqa: E402
from timm.models.vision_transformer import ParallelScalingBlock, ResPostBlock, VisionTransformer  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from quasar_rt import (  # noqa: E402
    Engine,
    ImageError,
    InvalidValueError,
    QuasarError,
    Subnet,
    datasets,
)
from quasar_rt.cli.export import command as export_command  # noqa: E402
from quasar_rt.export import UnsupportedModelError, export_timm  # noqa: E402
from quasar_rt.export.inputs import varied  # noqa: E402
from quasar_rt.images import preprocess  # noqa: E402

Pictures = list[npt.NDArray[np.uint8]]

# On a shared machine two OpenMP threads wait for each other; these models are too small to gain from a second one.
torch.set_num_threads(1)

SMALL: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 48,
    "depth": 2,
    "num_heads": 3,
    "num_classes": 11,
}
AS_IT_IS = {"mode": "none"}
TOOL = Path(__file__).parents[2] / "tools" / "export.py"


def small_model(
    seed: int = 0, kind: type[VisionTransformer] = VisionTransformer, **change: Any
) -> VisionTransformer:
    """Returns a model whose weights are large enough that its logits depend on the image."""
    torch.manual_seed(seed)
    model = kind(**{**SMALL, **change}).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "pos" in name or "token" in name:
                parameter.normal_(0, 0.5)
            elif parameter.ndim >= 2:
                parameter.normal_(0, parameter[0].numel() ** -0.5)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.1)
    return model


def pictures_for(model: VisionTransformer, count: int = 24) -> Pictures:
    """Blocks of colour with noise: noise alone would average out in the patches."""
    rng = np.random.default_rng(0)
    height, width = model.patch_embed.img_size
    out = []
    for _ in range(count):
        coarse = rng.integers(0, 256, (4, 4, model.patch_embed.proj.in_channels))
        picture = np.kron(coarse, np.ones((-(-height // 4), -(-width // 4), 1)))[:height, :width]
        out.append(np.clip(picture + rng.normal(0, 20, picture.shape), 0, 255).astype(np.uint8))
    return [picture[:, :, 0] if model.patch_embed.proj.in_channels == 1 else picture for picture in out]


def normalised(pictures: Pictures, mean: float, std: float) -> Any:
    stack = np.stack([picture.reshape(*picture.shape[:2], -1) for picture in pictures])
    return (torch.from_numpy(stack).permute(0, 3, 1, 2).float() / 255 - mean) / std


def float_logits(model: VisionTransformer, batch: Any) -> npt.NDArray[np.float32]:
    with torch.no_grad():
        return np.asarray(model(batch))


def engine_logits(subnet: Any, pictures: Pictures) -> npt.NDArray[np.float32]:
    with Engine(subnet) as engine:
        return np.stack([prediction.logits for prediction in engine.infer_batch(pictures)])


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"in_chans": 1},
        {"class_token": False, "global_pool": "avg"},
        {"global_pool": "avg"},
        {"global_pool": "avg", "fc_norm": False},
        {"global_pool": "token", "fc_norm": True},
        {"init_values": 0.3},
        {"reg_tokens": 3},
        {"reg_tokens": 2, "no_embed_class": True},
        {"qkv_bias": False},
        {"mlp_ratio": 1.7, "depth": 3, "num_heads": 4},
        {"act_layer": nn.ReLU},
        {"act_layer": partial(nn.GELU, approximate="tanh")},
        {"img_size": (24, 40)},
        {"img_size": 30, "patch_size": 7},
        {"pos_embed": "none"},
        {"dynamic_img_size": True},
        {"kind": VisionTransformerDistilled},
        {"kind": VisionTransformerDistilled, "init_values": 0.3, "in_chans": 1},
        {"pre_norm": True, "act_layer": timm.layers.QuickGELU},
        {"pre_norm": True, "class_token": False, "global_pool": "avg"},
        {"class_token": False, "global_pool": "map", "act_layer": "gelu_tanh"},
        {"global_pool": "map", "pool_include_prefix": True, "pre_norm": True, "in_chans": 1},
    ],
    ids=str,
)
def test_the_integer_subnet_follows_the_float_model(change: dict[str, Any]) -> None:
    model = small_model(**change)
    pictures = pictures_for(model)
    statistics: dict[str, Any] = {
        "mean": [0.4] * model.patch_embed.proj.in_channels,
        "std": [0.3] * model.patch_embed.proj.in_channels,
    }
    subnet = export_timm(model, pictures[:16], eight_bit_fraction=1.0, resize=AS_IT_IS, **statistics)
    expected = float_logits(model, normalised(pictures, 0.4, 0.3))
    error = (
        np.abs(engine_logits(subnet, pictures) - expected).mean()
        / np.abs(expected - expected.mean(axis=0)).mean()
    )
    print(f"relative logit error {error:.4f}")
    assert error < 0.15


def eight_bit_weights(subnet: Subnet) -> float:
    """Returns the share of the blocks' weights that have 8 bits."""
    rows = [layer for layer in subnet.summary().layers if layer.name.startswith("blocks.")]
    weights = sum(layer.rows * layer.columns for layer in rows)
    return sum(layer.rows8 * layer.columns for layer in rows) / weights


def test_more_eight_bit_rows_are_closer_to_float() -> None:
    model = small_model(1)
    pictures = pictures_for(model, 48)
    expected = float_logits(model, normalised(pictures, 0.5, 0.25))
    errors = []
    for fraction in (0.0, 0.5, 1.0):
        subnet = export_timm(
            model, pictures[:24], eight_bit_fraction=fraction, mean=[0.5] * 3, std=[0.25] * 3, resize=AS_IT_IS
        )
        errors.append(np.abs(engine_logits(subnet, pictures) - expected).mean())
        assert eight_bit_weights(subnet) == pytest.approx(fraction, abs=0.01)
    assert errors[0] > errors[1] > errors[2]


def test_a_normalised_tensor_calibrates_like_the_pictures_it_came_from() -> None:
    model = small_model()
    pictures = pictures_for(model, 8)
    options: dict[str, Any] = {"mean": [0.5] * 3, "std": [0.25] * 3, "resize": AS_IT_IS}
    from_tensor = export_timm(model, normalised(pictures, 0.5, 0.25), **options)
    assert from_tensor.to_bytes() == export_timm(model, pictures, **options).to_bytes()


def test_the_model_is_left_as_it_was() -> None:
    model = small_model().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.warns(UserWarning, match=r"the model has no pretrained_cfg.* ImageNet's are taken"):
        export_timm(model, pictures_for(model, 4), resize=AS_IT_IS)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "architecture", ["vit_tiny_patch16_224", "deit_tiny_patch16_224", "deit3_small_patch16_224"]
)
def test_timm_architectures_keep_their_own_preprocessing(architecture: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model(architecture, pretrained=False, depth=1).eval()
    nn.init.normal_(model.head.weight, std=0.05)
    # Initial values of 1e-6 (DeiT III's layer scale, class tokens) vanish in 16 bits; trained ones are larger.
    nn.init.normal_(model.cls_token, std=0.5)
    for name, parameter in model.named_parameters():
        if name.endswith("gamma"):
            nn.init.constant_(parameter, 0.3)
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (260, 300, 3), dtype=np.uint8) for _ in range(2)]
    subnet = export_timm(model, pictures, eight_bit_fraction=1.0)
    assert subnet.name == architecture
    data = timm.data.resolve_data_config(model.pretrained_cfg)
    size = int(224 / data["crop_pct"])
    assert subnet.config["preprocess"]["resize"] == {"mode": "shorter", "size": [size], "filter": "bicubic"}
    transform = timm.data.create_transform(**data, is_training=False)
    expected = float_logits(model, torch.stack([transform(Image.fromarray(picture)) for picture in pictures]))
    assert np.corrcoef(engine_logits(subnet, pictures).ravel(), expected.ravel())[0, 1] > 0.98


class Twisted(VisionTransformer):
    """A subclass may compute anything."""


def patched() -> VisionTransformer:
    model = small_model()
    forward = model.blocks[0].attn.forward
    model.blocks[0].attn.forward = lambda x, **kwargs: 2 * forward(x, **kwargs)
    return model


def shallow(architecture: str, **change: Any) -> nn.Module:
    """Returns an architecture of timm with one block, a narrow one by default."""
    shape = {"depth": 1, "embed_dim": 48, "num_heads": 3, "num_classes": 4}
    model: nn.Module = timm.create_model(architecture, **shape | change)
    return model


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: nn.Linear(3, 3), "Linear"),
        (lambda: Twisted(**SMALL), "Twisted"),
        (lambda: small_model(qk_norm=True), "qk_norm"),
        (lambda: small_model(global_pool="map"), "leaves the prefix tokens out"),
        (lambda: small_model(global_pool="max"), "global_pool='max'"),
        (lambda: small_model(num_classes=0), "num_classes=0"),
        (lambda: small_model(in_chans=4), "4 channels"),
        (lambda: small_model(scale_attn_norm=True), "scale_attn_norm"),
        (lambda: small_model(scale_mlp_norm=True), "scale_mlp_norm"),
        (lambda: small_model(mlp_layer=timm.layers.SwiGLU), "SwiGLU"),
        (lambda: small_model(block_fn=ResPostBlock), "ResPostBlock"),
        (lambda: small_model(block_fn=ParallelScalingBlock), "ParallelScalingBlock"),
        (lambda: small_model(norm_layer=timm.layers.RmsNorm), "RmsNorm"),
        (lambda: small_model(final_norm=False), "LayerNorm"),
        (lambda: small_model(attn_layer="diff"), "DiffAttention"),
        (lambda: shallow("vit_so400m_patch14_siglip_224", embed_dim=1152, num_heads=16), "embed: 1152"),
        (lambda: shallow("eva02_tiny_patch14_224"), "multiplies two activations"),
        (lambda: shallow("beit_base_patch16_224"), "relative positions"),
        (patched, "does something"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_supported_is_named(make: Callable[[], Any], word: str) -> None:
    model = make()
    with pytest.raises(UnsupportedModelError) as caught:
        export_timm(model, torch.randn(2, 3, 32, 32), resize=AS_IT_IS, mean=[0.5] * 3, std=[0.5] * 3)
    assert word in str(caught.value)
    assert isinstance(caught.value, QuasarError)


@pytest.mark.filterwarnings("ignore:the model has no pretrained_cfg")
@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"calibration": []}, ValueError),
        ({"calibration": torch.randn(2, 3, 16, 16)}, ValueError),
        ({"calibration": torch.full((1, 3, 32, 32), float("nan"))}, ValueError),
        ({"calibration": [np.zeros((32, 32, 3))]}, ImageError),
        ({"calibration": [np.zeros((32, 32, 3), np.uint8)] * 4}, InvalidValueError),
        ({"eight_bit_fraction": 2.0}, ValueError),
        ({"percentile": 0.2}, ValueError),
        ({"classes": ["one"]}, ValueError),
        ({"mean": [0.5, 0.5]}, ValueError),
        ({"std": [0.5, 0.0, 0.5]}, ValueError),
    ],
    ids=["empty", "shape", "nan", "float image", "black", "fraction", "percentile", "classes", "mean", "std"],
)
def test_bad_arguments_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    arguments: dict[str, Any] = {"calibration": torch.randn(2, 3, 32, 32), "resize": AS_IT_IS, **options}
    with pytest.raises(error):
        export_timm(small_model(), arguments.pop("calibration"), **arguments)


@pytest.mark.slow
def test_all_eight_bit_loses_at_most_a_point_on_fashion_mnist() -> None:
    """Trains a timm ViT for an epoch, quantizes it from 64 unlabelled images, scores all 10,000 test images."""
    try:
        images, labels = datasets.load_fashion_mnist("train")
        test_images, test_labels = datasets.load_fashion_mnist("test")
    except datasets.DatasetError as error:
        pytest.skip(str(error))
    torch.manual_seed(0)
    model = VisionTransformer(
        img_size=28, patch_size=7, in_chans=1, num_classes=10, embed_dim=64, depth=3, num_heads=4, mlp_ratio=2
    )
    x, y = normalised(list(images), 0.286, 0.353), torch.from_numpy(labels.astype(np.int64))
    batch = 256
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    steps = len(x) // batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps, pct_start=0.1)
    for index in torch.randperm(len(x)).split(batch)[:steps]:
        nn.functional.cross_entropy(model(x[index]), y[index], label_smoothing=0.1).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    model.eval()
    tests = normalised(list(test_images), 0.286, 0.353)
    predicted = np.concatenate([float_logits(model, part) for part in tests.split(1000)]).argmax(axis=1)
    float_top1 = float((predicted == test_labels).mean())
    assert float_top1 > 0.78
    subnet = export_timm(
        model, list(images[:64]), eight_bit_fraction=1.0, mean=[0.286], std=[0.353], resize=AS_IT_IS
    )
    integer_top1 = float((engine_logits(subnet, list(test_images)).argmax(axis=1) == test_labels).mean())
    print(f"top-1 on 10,000 images, measured: float {float_top1:.4f}, all 8-bit {integer_top1:.4f}")
    assert integer_top1 > float_top1 - 0.01


@pytest.mark.filterwarnings("ignore:the model has no pretrained_cfg")
def test_a_model_of_its_own_size_takes_images_of_that_size_as_they_are() -> None:
    model = small_model()
    pictures = pictures_for(model, 4)
    subnet = export_timm(model, pictures)
    assert subnet.config["preprocess"]["resize"]["size"] == [32]
    size = (32, 32, 3)
    for picture in pictures:
        np.testing.assert_array_equal(preprocess(picture, size, subnet.config["preprocess"]), picture)


def test_the_tool_exports_a_rectangular_gray_checkpoint(tmp_path: Path) -> None:
    options = {
        "img_size": [24, 40],
        "patch_size": 8,
        "in_chans": 1,
        "num_classes": 5,
        "embed_dim": 48,
        "depth": 1,
    }
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", **options).eval()
    nn.init.normal_(model.head.weight)
    torch.save(model.state_dict(), tmp_path / "model.pth")
    (tmp_path / "images").mkdir()
    pictures = pictures_for(model, 4)
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / "images" / f"{i}.png")
    command = ["--model", "vit_tiny_patch16_224", "--eight-bit", "1"]
    command += ["--checkpoint", str(tmp_path / "model.pth"), "--calibration", str(tmp_path / "images")]
    command += [f"--model-arg={key}={value}" for key, value in options.items()]
    command += ["--out", str(tmp_path / "model.qvit"), "--mean", "0.4", "--std", "0.3"]
    refused = CliRunner().invoke(export_command, command)
    assert refused.exit_code == 2
    assert "pass `resize`" in refused.output
    command += ["--resize", '{"mode": "none"}', "--report"]
    done = CliRunner().invoke(export_command, command)
    assert done.exit_code == 0, done.output
    assert "Error:" not in done.output
    subnet = Subnet.load(tmp_path / "model.qvit")
    report = json.loads((tmp_path / "model.report.json").read_text())
    assert report["sha256"] == subnet.sha256
    layers = {layer.pop("name"): layer for layer in report["layers"]}
    assert list(layers) == ["embed", *(f"blocks.0.{part}" for part in ("qkv", "proj", "fc1", "fc2")), "head"]
    assert layers["blocks.0.qkv"]["eight_bit_rows"] == layers["blocks.0.qkv"]["rows"] == 144
    assert f"{layers['blocks.0.qkv']['error_after']:.2%}" in done.output
    assert subnet.config["preprocess"] == {"resize": AS_IT_IS}
    expected = float_logits(model, normalised(pictures, 0.4, 0.3))
    assert np.corrcoef(engine_logits(subnet, pictures).ravel(), expected.ravel())[0, 1] > 0.98


def test_the_tool_says_what_a_checkpoint_is(tmp_path: Path) -> None:
    image = tmp_path / "image.png"
    Image.new("RGB", (40, 40)).save(image)
    command = [sys.executable, str(TOOL), "--model", "vit_tiny_patch16_224", "--checkpoint", str(image)]
    command += ["--calibration", str(tmp_path), "--out", str(tmp_path / "model.qvit")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"Error: '{image}' is no checkpoint of tensors")
    assert "save the state dict alone with torch.save(model.state_dict(), FILE)" in done.stderr


def cosines(found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    return np.asarray((found * expected).sum(axis=1) / lengths)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"global_pool": "avg"},
        {"global_pool": "avg", "fc_norm": False},
        {"num_classes": 0, "reg_tokens": 2},
        {"num_classes": 0, "global_pool": "avg", "init_values": 0.3},
        {"kind": VisionTransformerDistilled},
        {"kind": VisionTransformerDistilled, "num_classes": 0},
        {"pre_norm": True, "num_classes": 0},
    ],
    ids=str,
)
def test_the_embedding_is_near_the_float_models(change: dict[str, Any]) -> None:
    """docs/retrieval.md states the bounds."""
    model = small_model(**change)
    pictures = pictures_for(model)
    with torch.no_grad():
        features = model.forward_features(normalised(pictures, 0.4, 0.3))
        expected = model.forward_head(features, pre_logits=True).numpy()
    for fraction, least in ((1.0, 0.999), (0.25, 0.998)):
        subnet = export_timm(
            model,
            pictures[:16],
            eight_bit_fraction=fraction,
            resize=AS_IT_IS,
            mean=[0.4] * 3,
            std=[0.3] * 3,
            embedding=True,
        )
        assert len(subnet.classes) == model.num_classes
        with Engine(subnet) as engine:
            found = cosines(engine.embed_batch(pictures), expected)
            values = [engine.infer(picture).embedding.values for picture in pictures[:2]]
        print(f"{fraction:.0%} 8-bit: cosine {found.min():.5f} at least, {found.mean():.5f} on average")
        assert found.min() > least
        np.testing.assert_allclose(values, expected[:2], atol=0.1 * np.abs(expected).max())


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"num_classes": 0, "reg_tokens": 2},
        {"global_pool": "avg", "fc_norm": False},
        {"global_pool": "avg"},
    ],
    ids=str,
)
def test_patch_tokens_are_near_the_float_models(change: dict[str, Any]) -> None:
    """docs/patches.md states the bounds."""
    model = small_model(**change)
    pictures = pictures_for(model)
    with torch.no_grad():
        tokens = model.fc_norm(model.forward_features(normalised(pictures, 0.4, 0.3)))
        patches = tokens[:, model.num_prefix_tokens :]
        logits = model.head(patches).flatten(0, 1).numpy()
    # A projection behind rotated features rounds once more, which features without outliers feel.
    for fraction, least in ((1.0, 0.995 if model.num_classes else 0.99), (0.25, 0.99)):
        subnet = export_timm(
            model,
            pictures[:16],
            eight_bit_fraction=fraction,
            resize=AS_IT_IS,
            mean=[0.4] * 3,
            std=[0.3] * 3,
            embedding=True,
            tokens="patch",
        )
        with Engine(subnet) as engine:
            predictions = engine.infer_batch(pictures)
        found = np.stack([prediction.patch_embedding.values for prediction in predictions])
        angles = cosines(found.reshape(-1, found.shape[-1]), patches.flatten(0, 1).numpy())
        print(f"{fraction:.0%} 8-bit: cosine {angles.min():.5f} at least, {angles.mean():.5f} on average")
        assert angles.min() > least
        if subnet.classes:
            dense = np.stack([prediction.patch_logits for prediction in predictions]).reshape(len(logits), -1)
            assert (dense.argmax(axis=1) == logits.argmax(axis=1)).mean() > 0.9
        if model.global_pool == "token":
            with torch.no_grad():
                expected = model.forward_head(
                    model.forward_features(normalised(pictures, 0.4, 0.3)), pre_logits=True
                )
            assert cosines(predictions.embeddings, expected.numpy()).min() > least


def test_a_distilled_model_has_no_head_for_patch_tokens() -> None:
    model = small_model(kind=VisionTransformerDistilled)
    with pytest.raises(UnsupportedModelError, match="none of its two heads is that of patch tokens"):
        export_timm(
            model, pictures_for(model), resize=AS_IT_IS, mean=[0.4] * 3, std=[0.3] * 3, tokens="patch"
        )
    with pytest.raises(ValueError, match="tokens must be one of image, patch, not 'all'"):
        export_timm(model, pictures_for(model), tokens="all")  # type: ignore[arg-type]


def exported(tmp_path: Path, model: VisionTransformer, *options: str) -> Any:
    """Runs the command on a checkpoint of a `vit_tiny_patch16_224` of 32x32 pixels and one block."""
    torch.save(model.state_dict(), tmp_path / "model.pth")
    (tmp_path / "images").mkdir(exist_ok=True)
    for i, picture in enumerate(pictures_for(model, 4)):
        Image.fromarray(picture).save(tmp_path / "images" / f"{i}.png")
    command = ["--model", "vit_tiny_patch16_224", "--checkpoint", str(tmp_path / "model.pth")]
    command += ["--calibration", str(tmp_path / "images"), "--out", str(tmp_path / "model.qvit")]
    command += ["--model-arg=img_size=32", "--model-arg=depth=1", *options]
    return CliRunner().invoke(export_command, command)


def test_the_tool_names_the_subnet_and_its_classes_after_what_it_reads(tmp_path: Path) -> None:
    model = vit_tiny(2)
    for name in ("dog", "cat", "empty"):
        (tmp_path / "images" / name).mkdir(parents=True)
    for i, picture in enumerate(pictures_for(model, 6)):
        Image.fromarray(picture).save(tmp_path / "images" / ("cat", "dog")[i % 2] / f"{i}.png")
    done = exported(tmp_path, model, "--embedding")
    # The helper puts images next to the folders, which are still one for each class.
    assert done.exit_code == 0, done.output
    subnet = Subnet.load(tmp_path / "model.qvit")
    assert (subnet.name, subnet.classes) == ("model", ["cat", "dog"])
    assert subnet.config["provenance"]["architecture"] == "vit_tiny_patch16_224"
    done = exported(tmp_path, vit_tiny(3), "--name", "mine")
    subnet = Subnet.load(tmp_path / "model.qvit")
    assert (subnet.name, subnet.classes) == ("mine", ["class 0", "class 1", "class 2"])


def test_the_tool_needs_a_source_of_weights(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    common = ["--calibration", str(tmp_path / "images"), "--out", str(tmp_path / "a.qvit")]
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "images" / "a.png")
    for arguments, message in (
        ([], "give a network"),
        (["--model", "vit_tiny_patch16_224"], "give the weights of vit_tiny_patch16_224"),
        (["--model", str(tmp_path)], "it has no config.json"),
        (["--model", "hf-hub:timm/vit_tiny"], "give the weights of hf-hub:timm/vit_tiny"),
        (["--model", "vit_small_patch14_dinov2.lvd142m"], "give the weights of"),
        (["--model", "no/folder"], "no/folder does not exist"),
        (["--model", "backbone.onnx"], "backbone.onnx does not exist"),
        (
            ["--model", str(tmp_path), "--checkpoint", str(tmp_path / "images" / "a.png")],
            "leave --checkpoint out",
        ),
        (["--out", str(tmp_path / "none" / "a.qvit")], "there is no folder"),
        (["--model", str(tmp_path), "--image-size", "4x5x6"], "neither a side nor HEIGHTxWIDTH"),
    ):
        refused = CliRunner().invoke(export_command, [*common, *arguments])
        assert refused.exit_code == 2
        assert message in " ".join(refused.output.split())


def vit_tiny(classes: int) -> VisionTransformer:
    torch.manual_seed(0)
    model: VisionTransformer = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, depth=1, num_classes=classes
    ).eval()
    return model


def test_the_tool_takes_the_number_of_classes_from_the_checkpoint(tmp_path: Path) -> None:
    done = exported(tmp_path, vit_tiny(5))
    assert done.exit_code == 0, done.output
    assert Subnet.load(tmp_path / "model.qvit").classes == [f"class {i}" for i in range(5)]
    refused = exported(tmp_path, vit_tiny(5), "--model-arg=num_classes=7")
    assert refused.exit_code == 2
    assert "head" in refused.output
    (tmp_path / "names.txt").write_text("one\ntwo\n")
    refused = exported(tmp_path, vit_tiny(5), "--classes", str(tmp_path / "names.txt"))
    assert refused.exit_code == 2
    assert "the model has 5 classes, but 2 names were given" in refused.output


def test_the_tool_exports_a_checkpoint_without_a_classifier_as_an_embedding(tmp_path: Path) -> None:
    refused = exported(tmp_path, vit_tiny(0))
    assert refused.exit_code == 2
    assert "--embedding" in refused.output
    assert not (tmp_path / "model.qvit").exists()
    done = exported(tmp_path, vit_tiny(0), "--embedding", "--report")
    assert done.exit_code == 0, done.output
    assert "embedding: 192 values" in done.output
    subnet = Subnet.load(tmp_path / "model.qvit")
    assert subnet.has_embedding
    assert subnet.classes == []
    done = exported(tmp_path, vit_tiny(0), "--tokens", "patch")
    assert done.exit_code == 0, done.output
    assert "patch tokens: embedding of 2 x 2 patches" in done.output
    assert Subnet.load(tmp_path / "model.qvit").has_patch_tokens


@pytest.mark.parametrize("shape", [(5, 3, 8, 12), (1, 1, 7, 5)])
def test_varied_images_are_made_of_the_given_ones(shape: tuple[int, int, int, int]) -> None:
    images = torch.arange(math.prod(shape), dtype=torch.float32).reshape(shape)
    batches = list(images.split(2))
    made = torch.cat(varied(batches))
    assert made.shape == images.shape
    assert torch.equal(made, torch.cat(varied(list(images.split(3)))))
    assert images.min() <= made.min()
    assert made.max() <= images.max()
    tile = made[0, :, : shape[2] // 2, : shape[3] // 2]
    assert any(
        torch.allclose(tile, F.interpolate(image[None], tile.shape[1:], mode="bilinear", antialias=True)[0])
        for image in images
    )
    for turned in made[2::3].flip(-2):
        assert any(torch.equal(turned.sort(dim=0)[0], image.sort(dim=0)[0]) for image in images)
