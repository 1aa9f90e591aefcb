"""The packaged subnets: what their cards say is so."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from quasar_rt import Engine, FileError, Subnet, packaged
from quasar_rt.datasets import (
    DIGITS_CLASSES,
    FASHION_MNIST_CLASSES,
    DatasetError,
    load_digits,
    load_fashion_mnist,
)
from quasar_rt.train.architecture_file import load_architecture
from quasar_rt.train.recipe import Recipe, find_recipe, load_recipe
from quasar_rt.verify import verify

#: Of each packaged subnet: its classes, its data, its number of test images, the least top-1 and the most bytes.
Facts = tuple[tuple[str, ...], Callable[[str], tuple[NDArray[np.uint8], NDArray[np.int64]]], int, float, int]
EXPECTED: dict[str, Facts] = {
    "digits": (DIGITS_CLASSES, load_digits, 360, 0.95, 60_000),
    "fashion-mnist": (FASHION_MNIST_CLASSES, load_fashion_mnist, 10_000, 0.91, 300_000),
}
each = pytest.mark.parametrize("name", EXPECTED)


def path_of(name: str) -> Path:
    path = packaged.subnet_path(name)
    assert path is not None
    return path


def images_of(name: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    try:
        return EXPECTED[name][1]("test")
    except DatasetError as error:
        pytest.skip(str(error))


def test_the_package_has_these_subnets_and_names_them_where_a_name_is_unknown() -> None:
    assert packaged.subnet_names() == sorted(EXPECTED)
    with pytest.raises(FileError, match=f"there are: {', '.join(sorted(EXPECTED))}"):
        Subnet.load("digit")
    for help_of in (["infer"], ["watch"]):
        shown = subprocess.run(
            [sys.executable, "-m", "quasar_rt", *help_of, "--subnet", "digit", "."],
            capture_output=True,
            text=True,
            check=False,
        )
        assert shown.returncode == 2
        assert ", ".join(sorted(EXPECTED)) in shown.stderr


@each
def test_it_is_small_trained_and_of_the_widths_that_its_search_found(name: str) -> None:
    subnet = Subnet.load(name)
    classes, _, _, _, size = EXPECTED[name]
    assert path_of(name).stat().st_size < size
    assert subnet.trained
    assert subnet.name == name
    assert subnet.classes == list(classes)
    record = json.loads(find_recipe(name).with_suffix(".json").read_text(encoding="utf-8"))
    assert subnet.config["provenance"]["search"] == record
    tensors = subnet.tensors()
    for i, block in enumerate(record["architecture"]["blocks"]):
        *qkv, proj, fc1, fc2 = block["eight_bit"]
        # Records of four fractions are older than the counts of q, k and v apart.
        parts = tensors[f"blocks.{i}.qkv.bits"].reshape(len(qkv), -1)
        assert (parts == 8).mean(axis=1).tolist() == qkv
        for layer, fraction in (("proj", proj), ("fc1", fc1), ("fc2", fc2)):
            assert (tensors[f"blocks.{i}.{layer}.bits"] == 8).mean() == fraction


@each
def test_its_card_gives_the_figures_of_its_provenance(name: str) -> None:
    subnet, (_, _, images, least, _) = Subnet.load(name), EXPECTED[name]
    figures = subnet.config["provenance"]["figures"]
    assert figures["test_images"] == images
    assert figures["integer_top1"] > least
    assert figures["integer_top1"] >= figures["float_top1"] - max(0.005, 2 * figures["standard_error"])
    folder = path_of(name).with_suffix("")
    card = (folder / "README.md").read_text(encoding="utf-8")
    for key in ("float_top1", "integer_top1"):
        assert f"{figures[key]:.2%} ±" in card
    assert subnet.sha256[:16] in card
    # The present trainer's figures have this count; a card of an older one names its commit.
    assert "differing_images" in figures or re.search(r"\| trainer \| commit [0-9a-f]{8}, before ", card)
    command = subnet.config["provenance"]["tool"]
    assert f"{command[command.index('--config') :]}`" in card
    with Image.open(folder / "confusion.png") as picture:
        assert picture.width > 300


@each
def test_the_command_of_its_card_names_files_of_a_clone(name: str) -> None:
    words = shlex.split(Subnet.load(name).config["provenance"]["tool"])
    config, named, architecture = (
        words[words.index(option) + 1] for option in ("--config", "--name", "--architecture")
    )
    assert named == name
    record = Path(__file__).resolve().parents[2] / architecture
    assert record.read_bytes() == find_recipe(config).with_suffix(".json").read_bytes()
    assert load_architecture(record).search == Subnet.load(name).config["provenance"]["search"]


@each
def test_its_samples_are_a_dozen_test_images_of_every_class(name: str) -> None:
    classes = EXPECTED[name][0]
    samples = packaged.sample_images(name)
    assert len(samples) == 12
    assert {sample.label for sample in samples} == set(classes)
    listing = json.loads((samples[0].path.parent / "labels.json").read_text(encoding="utf-8"))
    assert set(listing) == {sample.path.name for sample in samples}
    images, labels = images_of(name)
    for sample in samples:
        index = int(sample.path.name.split("-")[0])
        assert classes[labels[index]] == sample.label
        with Image.open(sample.path) as picture:
            np.testing.assert_array_equal(np.asarray(picture), images[index])


@each
def test_its_accuracy_on_all_test_images_is_the_one_stated(name: str) -> None:
    images, labels = images_of(name)
    with Engine(name) as engine:
        found = [
            prediction.index
            for start in range(0, len(images), 500)
            for prediction in engine.infer_batch(images[start : start + 500], top_k=1)
        ]
        stated = engine.subnet.config["provenance"]["figures"]["integer_top1"]
    assert round((np.array(found) == labels).mean(), 4) == stated


@each
def test_every_backend_gives_the_oracles_bits(name: str) -> None:
    checks = verify(Subnet.load(name), images=1)
    assert {check.status for check in checks} <= {"equal", "skipped"}
    assert checks[0].images == 3 + len(packaged.sample_images(name))


@each
def test_the_recipe_in_its_provenance_is_the_one_in_the_tree_with_its_commands_changes(name: str) -> None:
    provenance = Subnet.load(name).config["provenance"]
    words = shlex.split(provenance["tool"])
    changes = [value for option, value in itertools.pairwise(words) if option == "--set"]
    # Keys that came later have the values that they had without a name.
    assert Recipe.from_dict(provenance["recipe"]) == load_recipe(name, changes)
