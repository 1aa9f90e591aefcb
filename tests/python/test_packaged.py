"""The packaged subnet: what its card says is so."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from quasar_rt import Engine, Subnet, packaged
from quasar_rt.datasets import FASHION_MNIST_CLASSES, DatasetError, load_fashion_mnist
from quasar_rt.train.recipe import Recipe, find_recipe, load_recipe

NAME = "fashion-mnist"


@pytest.fixture(scope="module")
def subnet() -> Subnet:
    return Subnet.load(NAME)


def test_it_is_small_trained_and_of_the_widths_that_its_search_found(subnet: Subnet) -> None:
    path = packaged.subnet_path(NAME)
    assert path is not None
    assert path.stat().st_size < 300_000
    assert subnet.trained
    assert subnet.classes == list(FASHION_MNIST_CLASSES)
    record = json.loads(find_recipe(NAME).with_suffix(".json").read_text(encoding="utf-8"))
    assert subnet.config["provenance"]["search"] == record
    tensors = subnet.tensors()
    for i, block in enumerate(record["architecture"]["blocks"]):
        *qkv, proj, fc1, fc2 = block["eight_bit"]
        # Records of four fractions are older than the counts of q, k and v apart.
        parts = tensors[f"blocks.{i}.qkv.bits"].reshape(len(qkv), -1)
        assert (parts == 8).mean(axis=1).tolist() == qkv
        for layer, fraction in (("proj", proj), ("fc1", fc1), ("fc2", fc2)):
            assert (tensors[f"blocks.{i}.{layer}.bits"] == 8).mean() == fraction


def test_its_card_gives_the_figures_of_its_provenance(subnet: Subnet) -> None:
    figures = subnet.config["provenance"]["figures"]
    assert figures["test_images"] == 10_000
    assert figures["integer_top1"] > 0.91
    assert figures["integer_top1"] >= figures["float_top1"] - 0.005
    assert figures["fake_quant_integer_agreement"] >= 0.995
    path = packaged.subnet_path(NAME)
    assert path is not None
    folder = path.with_suffix("")
    card = (folder / "README.md").read_text(encoding="utf-8")
    for key in ("float_top1", "fake_quant_top1", "integer_top1"):
        assert f"{figures[key]:.2%} ±" in card
    assert subnet.sha256[:16] in card
    with Image.open(folder / "confusion.png") as picture:
        assert picture.width > 300


def test_its_samples_are_a_dozen_test_images_of_every_class() -> None:
    samples = packaged.sample_images(NAME)
    assert len(samples) == 12
    assert {sample.label for sample in samples} == set(FASHION_MNIST_CLASSES)
    listing = json.loads((samples[0].path.parent / "labels.json").read_text(encoding="utf-8"))
    assert set(listing) == {sample.path.name for sample in samples}
    try:
        images, labels = load_fashion_mnist("test")
    except DatasetError as error:
        pytest.skip(str(error))
    for sample in samples:
        index = int(sample.path.name.split("-")[0])
        assert FASHION_MNIST_CLASSES[labels[index]] == sample.label
        with Image.open(sample.path) as picture:
            np.testing.assert_array_equal(np.asarray(picture), images[index])


def test_its_accuracy_on_all_test_images_is_the_one_stated(subnet: Subnet) -> None:
    try:
        images, labels = load_fashion_mnist("test")
    except DatasetError as error:
        pytest.skip(str(error))
    with Engine(subnet) as engine:
        found = [
            prediction.index
            for start in range(0, len(images), 500)
            for prediction in engine.infer_batch(images[start : start + 500], top_k=1)
        ]
    assert (np.array(found) == labels).mean() == subnet.config["provenance"]["figures"]["integer_top1"]


def test_the_recipe_in_its_provenance_is_the_one_in_the_tree(subnet: Subnet) -> None:
    # Keys that came later have the values that they had without a name.
    assert Recipe.from_dict(subnet.config["provenance"]["recipe"]) == load_recipe(NAME)
