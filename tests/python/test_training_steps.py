"""Options of a training step: smaller pieces, less memory, skipped branches, mixed batches."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the [host] extra")
pytest.importorskip("timm", reason="needs the [host] extra")
pytest.importorskip("sklearn", reason="the digits come with scikit-learn")

from click.testing import CliRunner  # noqa: E402
from PIL import Image  # noqa: E402

from quasar_rt import InvalidValueError, SettingsError  # noqa: E402
from quasar_rt.cli.train import command  # noqa: E402
from quasar_rt.image_sets import ImageFiles, Images  # noqa: E402
from quasar_rt.images import preprocess  # noqa: E402
from quasar_rt.space import Space  # noqa: E402
from quasar_rt.train import dry_run, train  # noqa: E402
from quasar_rt.train.data import FileSplit, Shape  # noqa: E402
from quasar_rt.train.evaluation import evaluate, evaluate_parts  # noqa: E402
from quasar_rt.train.loop import Stopped  # noqa: E402
from quasar_rt.train.mixing import Mixing  # noqa: E402
from quasar_rt.train.model import ViT, ViTConfig  # noqa: E402
from quasar_rt.train.recipe import Data, Recipe, load_recipe  # noqa: E402
from quasar_rt.train.schedule import kept_branches  # noqa: E402

torch.set_num_threads(1)

#: A few steps in float and a few of the supernet.
SHORT = (
    "data.subset=96",
    "data.validation=32",
    "optimizer.batch=32",
    "float_stage.epochs=1",
    "supernet_stage.epochs=1",
    "quantization.calibration=32",
    "quantization.scoring=32",
)


def short(*changes: str) -> Recipe:
    return load_recipe("digits", [*SHORT, *changes])


def trained(folder: Path, *changes: str, stop: int | None = None) -> dict[str, Any]:
    """Trains a short run; returns the weights of the supernet, or None where it was stopped."""
    try:
        found = train(short(*changes), folder, log=lambda _: None, stop_after_steps=stop)
    except Stopped:
        return {}
    return {name: value.clone() for name, value in found.model.state_dict().items()}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return trained(tmp_path_factory.mktemp("plain"))


def mean_difference(one: dict[str, Any], other: dict[str, Any]) -> float:
    weights = [(one[name] - other[name]).abs().flatten() for name in one if name.endswith("weight")]
    return float(torch.cat(weights).mean())


def test_pieces_of_a_batch_give_the_step_of_the_whole(plain: dict[str, Any], tmp_path: Path) -> None:
    """Only the order of additions differs; 5 does not divide 32."""
    pieces = mean_difference(trained(tmp_path / "pieces", "optimizer.accumulate=5"), plain)
    smoothing = mean_difference(trained(tmp_path / "other", "optimizer.label_smoothing=0.11"), plain)
    # AdamW turns a rounding of a gradient near 0 into a step, so single weights may differ more.
    assert 0 < pieces < 0.1 * smoothing


def test_recomputed_blocks_give_the_same_weights(plain: dict[str, Any], tmp_path: Path) -> None:
    recomputed = trained(tmp_path, "optimizer.recompute=true")
    for name, value in plain.items():
        assert torch.equal(value, recomputed[name]), name


@pytest.mark.parametrize("quantized", [False, True])
def test_recomputing_keeps_less_for_the_gradients(quantized: bool) -> None:
    space = Space.load("digits")
    model = ViT(ViTConfig.of(space, (0.3,), (0.37,)))
    images = torch.randint(0, 256, (16, 1, 8, 8), dtype=torch.uint8)
    model.calibrate(images, 0.999)
    model.train()
    model.quantized = quantized
    kept = {}
    for model.recompute in (False, True):
        sizes: dict[int, int] = {}

        def keep(tensor: Any, sizes: dict[int, int] = sizes) -> Any:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = model(images).sum()
        kept[model.recompute] = sum(sizes.values())
        loss.backward()
    assert kept[True] < 0.5 * kept[False]


def test_skipped_branches_are_balanced_and_fewer_in_early_blocks() -> None:
    kept = kept_branches(0.4, 5, 20_000, "any")
    assert kept is not None
    assert kept.shape == (5, 2, 20_000)
    skipped = (kept == 0).float().mean(dim=(1, 2))
    assert torch.allclose(skipped, torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4]), atol=0.01)
    # On average a branch has its weight.
    assert torch.allclose(kept.mean(dim=(1, 2)), torch.ones(5), atol=0.02)
    assert kept_branches(0.0, 5, 10, "any") is None
    assert kept_branches(0.4, 1, 10, "any").eq(1).all()  # type: ignore[union-attr]


@pytest.mark.parametrize("quantized", [False, True])
def test_a_sample_that_skips_all_branches_keeps_its_residual(quantized: bool) -> None:
    """Its neighbours in the batch are not concerned."""
    model = ViT(ViTConfig.of(Space.load("digits"), (0.3,), (0.37,)))
    images = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8)
    model.calibrate(images, 0.999)
    model.train()
    model.quantized = quantized
    depth = model.config.architecture.depth
    keep = torch.ones(depth, 2, 2)
    keep[:, :, 0] = 0
    with torch.no_grad():
        found, whole = model(images, keep), model(images)
        model.blocks = model.blocks[:0]
        bare = model(images)
    assert torch.equal(found[1], whole[1])
    torch.testing.assert_close(found[0], bare[0])


MIXED = ("data.mixup=0.8", "data.cutmix=1.0", "data.erasing=0.5", "drop_path=0.2")


def test_a_mixed_run_that_was_stopped_ends_as_if_it_had_not_been(
    plain: dict[str, Any], tmp_path: Path
) -> None:
    whole = trained(tmp_path / "whole", *MIXED)
    assert mean_difference(whole, plain) > 1e-4
    assert not trained(tmp_path / "stopped", *MIXED, stop=2)
    assert not trained(tmp_path / "stopped", *MIXED, stop=2)
    stopped = trained(tmp_path / "stopped", *MIXED)
    for name, value in whole.items():
        assert torch.equal(value, stopped[name]), name


def data(**changes: Any) -> Data:
    return Data(name="digits", validation=1, mean=(0.3,), std=(0.4,), **changes)


def test_mixing_depends_on_its_key_alone() -> None:
    images = torch.randint(0, 256, (8, 1, 8, 8), dtype=torch.uint8)
    labels = torch.arange(8)
    mixing = Mixing(data(erasing=0.7, mixup=0.8, cutmix=1.0), 10, 0.1)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    one, two, other = (mixing(images, labels, key) for key in (5, 5, 6))
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])
    assert not torch.equal(one[0], other[0])
    torch.testing.assert_close(one[1].sum(dim=1), torch.ones(8))
    assert one[0].min() >= 0
    assert one[0].max() <= 255
    # The images that were given are as they were.
    assert images.dtype == torch.uint8


def test_erased_rectangles_have_the_mean() -> None:
    images = torch.zeros((32, 1, 16, 16), dtype=torch.uint8)
    labels = torch.zeros(32, dtype=torch.int64)
    found, same = Mixing(data(erasing=1.0), 10, 0.1)(images, labels, 1)
    assert same is labels
    values = found.unique()
    torch.testing.assert_close(values, torch.tensor([0.0, 0.3 * 255]))
    assert (found != 0).flatten(1).any(dim=1).all()


def test_without_mixing_a_batch_stays_as_it_is() -> None:
    images, labels = torch.zeros((2, 1, 8, 8), dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)
    found = Mixing(data(), 10, 0.1)(images, labels, 1)
    assert found[0] is images
    assert found[1] is labels


def test_pairs_need_an_even_batch(tmp_path: Path) -> None:
    with pytest.raises(
        InvalidValueError, match=r"has 31 of the batch of 31: make optimizer\.batch a multiple"
    ):
        trained(tmp_path, "data.mixup=0.8", "optimizer.batch=31")


@pytest.mark.parametrize(
    "change",
    [
        "optimizer.accumulate=0",
        "optimizer.accumulate=33",
        "drop_path=1.0",
        "data.mixup=-1.0",
        "data.erasing=1.5",
    ],
)
def test_values_out_of_range_are_refused_by_key(change: str) -> None:
    with pytest.raises(SettingsError, match=change.partition("=")[0].replace(".", r"\.")):
        short(change)


def test_checkpoints_of_older_recipes_stay_valid() -> None:
    """The digest of a recipe that sets none of these keys is the one it had before they came."""
    recipe = load_recipe("digits")
    assert recipe.digest("x") == "9644ef4afe850c476d9399f37c44c9b0ab28866a1c1644327857ab1fbc41b1d8"
    for change in ("optimizer.accumulate=2", "optimizer.recompute=true", "drop_path=0.1", "data.cutmix=1.0"):
        assert load_recipe("digits", [change]).digest("x") != recipe.digest("x")


def test_a_dry_run_measures_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sets = [word for change in SHORT for word in ("--set", change)]
    result = CliRunner().invoke(command, ["--config", "digits", "--threads", "1", "--dry-run", *sets])
    assert result.exit_code == 0, result.output
    assert "supernet" in result.output
    assert "A process computes 32 images a step." in result.output
    assert not list(tmp_path.iterdir())
    init = ["--set", "init='no-such-network'"]
    missing = CliRunner().invoke(command, ["--config", "digits", "--threads", "1", "--dry-run", *sets, *init])
    assert missing.exit_code == 2, missing.output
    assert "neither a file, a folder nor the name of a timm model" in missing.output


def test_a_dry_run_says_what_would_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dry_run, "_free_bytes", lambda device: 4_000_000)
    found = dry_run.dry_run(short())
    assert [stage.stage for stage in found.stages] == ["float", "supernet"]
    assert [stage.steps for stage in found.stages] == [3, 3]
    assert 0 < found.largest_piece < 32
    assert not found.fits
    pieces = found.needed_accumulate
    assert -(-32 // pieces) <= found.largest_piece < -(-32 // (pieces - 1))
    less = dry_run.dry_run(short("optimizer.recompute=true"))
    assert less.largest_piece > found.largest_piece
    assert less.state_bytes == found.state_bytes

    result = CliRunner().invoke(command, ["--config", "digits", "--dry-run", "--set", "optimizer.batch=512"])
    assert result.exit_code == 1
    assert "does not fit the memory: set optimizer.accumulate to" in result.output


def test_images_in_files_are_read_once_for_all_networks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several threads read them, in order."""
    paths = []
    for number in range(12):
        paths.append(tmp_path / f"{number}.png")
        Image.new("L", (8, 8), number).save(paths[-1])
    document = {"resize": {"mode": "none"}}
    images = Images(ImageFiles(paths))
    labels = torch.zeros(12, dtype=torch.int64)
    split = FileSplit(images, labels, Shape(8, 8, 1, 10), document, threads=3)
    found, _ = split.first(12)
    assert found[:, 0, 0, 0].tolist() == list(range(12))

    reads: list[Path] = []

    def counted(path: Path, *arguments: Any) -> Any:
        reads.append(path)
        return preprocess(path, *arguments)

    monkeypatch.setattr("quasar_rt.train.data.preprocess", counted)
    space = Space.load("digits")
    model = ViT(ViTConfig.of(space, (0.3,), (0.37,)))
    parts = [None, space.decode(space.smallest)]
    found = evaluate_parts(model, parts, split)
    assert sorted(reads) == sorted(paths)
    for part, top1 in zip(parts, found, strict=True):
        model.activate(part)
        assert evaluate(model, split) == top1
