"""Embeddings on labelled images: neighbours and a linear probe, next to a float network's."""

import json

import numpy as np
import pytest
from PIL import Image

from helpers import run
from quasar_rt import Engine, InvalidValueError, random_subnet
from quasar_rt.embedding_quality import embedding_quality, probes
from quasar_rt.evaluate import wilson

pytestmark = pytest.mark.filterwarnings("ignore::quasar_rt.UntrainedWarning")


def units(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def clusters(spread, images=90, classes=3):
    rng = np.random.default_rng(0)
    labels = np.arange(images) % classes
    return units(np.eye(classes, 8)[labels] + spread * rng.standard_normal((images, 8))), 5 + labels


def test_classes_apart_are_told_apart_and_noise_is_not():
    found, nearest = probes(*clusters(0.1))
    assert found.neighbours == found.linear == wilson(90, 90)
    assert (nearest % 3 == np.arange(90) % 3).all()
    assert (nearest != np.arange(90)).all()
    vectors, labels = clusters(0.1)
    found, _ = probes(vectors, np.random.default_rng(1).permutation(labels))
    for share in found:
        assert share.high < 0.5


def test_the_probe_is_judged_on_images_it_has_not_seen():
    """More values than images: a probe of all images would fit any labels."""
    rng = np.random.default_rng(0)
    vectors, labels = units(rng.standard_normal((60, 200))), rng.integers(0, 2, 60)
    assert probes(vectors, labels)[0].linear.value < 0.75


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Stripes along and across, 12 of each."""
    root, rng = tmp_path_factory.mktemp("stripes"), np.random.default_rng(0)
    for name, axis in (("across", 0), ("along", 1)):
        (root / name).mkdir()
        for i in range(12):
            wave = 127 + 100 * np.sin(np.arange(24) / rng.uniform(1, 3))
            picture = np.broadcast_to(wave if axis else wave[:, None], (24, 24)) + rng.normal(0, 5, (24, 24))
            Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def subnet_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("subnets") / "stripes.qvit"
    random_subnet(
        embed=32, depth=2, heads=2, image_size=24, channels=1, kernel=6, classes=0, embedding=True
    ).save(path)
    return path


def test_eval_measures_embeddings_of_a_subnet_without_classes(subnet_file, folder):
    found = json.loads(run("eval", subnet_file, "--data", folder, "--json").stdout)
    assert found["images"] == 24
    for share in found["found"].values():
        assert 0.5 < share["low"] < share["value"] <= share["high"] <= 1
    assert "cosine" not in found
    said = run("eval", subnet_file, "--data", folder).stdout
    assert "top-1 of 5 neighbours, random" in said
    assert "linear probe" in said
    refused = run("eval", subnet_file, "--data", folder, "--per-class", status=2)
    assert "need classes, not embeddings" in refused.stderr


def test_a_float_network_is_compared(subnet_file, folder):
    pictures = [(path, int(path.parent.name == "along")) for path in sorted(folder.rglob("*.png"))]
    with Engine(subnet_file) as engine:

        def network(pixels):
            return np.stack([engine.infer(image[:, :, 0]).embedding.values for image in pixels]) + 0.01

        found = embedding_quality(engine, pictures, network)
        assert found.expected.linear.value > 0.5
        assert 0.99 < found.cosine.low <= found.cosine.value <= found.cosine.high <= 1
        assert 0 < found.error.value < 0.1
        assert found.same_nearest.value > 0.8
        same = embedding_quality(engine, pictures, lambda pixels: network(pixels) - np.float32(0.01))
        assert same.same_nearest.value == 1
        with pytest.raises(InvalidValueError, match="gives embeddings of 3 values, and the subnet of 32"):
            embedding_quality(engine, pictures, lambda pixels: np.zeros((len(pixels), 3), np.float32))
        with pytest.raises(InvalidValueError, match="neighbours need two at least"):
            embedding_quality(engine, pictures[:1])
    with Engine("digits") as engine, pytest.raises(InvalidValueError, match="--embedding"):
        embedding_quality(engine, pictures)


def test_eval_compares_with_a_timm_checkpoint(folder, tmp_path):
    timm, torch = pytest.importorskip("timm"), pytest.importorskip("torch")
    from quasar_rt.export import export_timm

    torch.manual_seed(0)
    arguments = {"img_size": 24, "patch_size": 6, "depth": 1, "num_classes": 0}
    model = timm.create_model("vit_tiny_patch16_224", **arguments).eval()
    torch.save(model.state_dict(), tmp_path / "model.pth")
    pictures = sorted(folder.rglob("*.png"))
    resize = {"mode": "exact", "size": [24, 24], "filter": "bilinear"}
    export_timm(model, pictures, embedding=True, eight_bit_fraction=1.0, resize=resize).save(
        tmp_path / "s.qvit"
    )
    options = [f"--model-arg={key}={value}" for key, value in arguments.items()]
    options += ["--against", tmp_path / "model.pth", "--model", "vit_tiny_patch16_224"]
    found = json.loads(run("eval", tmp_path / "s.qvit", "--data", folder, "--json", *options).stdout)
    assert found["cosine"]["low"] > 0.99
    assert found["error"]["value"] < 0.2
    assert "same nearest neighbour" in run("eval", tmp_path / "s.qvit", "--data", folder, *options).stdout
