"""The packaged subnet: what its card says is so."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from quasar_rt import Engine, Subnet, packaged
from quasar_rt.datasets import FASHION_MNIST_CLASSES, DatasetError, load_fashion_mnist

NAME = "fashion-mnist"


@pytest.fixture(scope="module")
def subnet() -> Subnet:
    return Subnet.load(NAME)


def test_it_is_small_trained_and_of_mixed_widths(subnet: Subnet) -> None:
    path = packaged.subnet_path(NAME)
    assert path is not None
    assert path.stat().st_size < 300_000
    assert subnet.trained
    assert subnet.classes == list(FASHION_MNIST_CLASSES)
    tensors = subnet.tensors()
    for i in range(len(subnet.config["blocks"])):
        for layer in ("qkv", "proj", "fc1", "fc2"):
            bits = tensors[f"blocks.{i}.{layer}.bits"]
            assert set(bits.tolist()) == {4, 8}
            assert (bits == 8).mean() == subnet.config["provenance"]["recipe"]["quantization"][
                "eight_bit_fraction"
            ]


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
    from quasar_rt.space import Space
    from quasar_rt.train.recipe import load_recipe

    # It was trained when a recipe stated its network itself; now that is a space of one network.
    stated, recipe = subnet.config["provenance"]["recipe"], load_recipe(NAME)
    table = recipe.as_dict()
    for key in ("name", "seed", "optimizer", "float_stage", "quantized_stage"):
        assert table[key] == stated[key]
    for key in ("name", "validation", "flip", "shift"):
        assert table["data"][key] == stated["data"][key]
    assert (table["data"]["mean"], table["data"]["std"]) == (
        [stated["data"]["mean"]],
        [stated["data"]["std"]],
    )
    assert table["quantization"] == {
        **{key: stated["quantization"][key] for key in ("percentile", "calibration", "scoring")},
        "criterion": "loss",
    }
    space = Space.load(recipe.space)
    network, model = space.decode(space.largest), stated["model"]
    assert space.size == 1
    assert space.settings["patch"] == {key: model[key] for key in ("kernel", "stride", "pad", "pad_value")}
    assert (network.embed, network.depth) == (model["embed"], model["depth"])
    for block in network.blocks:
        assert (block.heads, block.head_dim, block.hidden) == (
            model["heads"],
            model["head_dim"],
            model["hidden"],
        )
        assert set(block.eight_bit) == {stated["quantization"]["eight_bit_fraction"]}
