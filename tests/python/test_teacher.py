"""External teachers: what a recipe may name, what is refused, and what a stage learns."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the [host] extra")
timm = pytest.importorskip("timm", reason="needs the [host] extra")
pytest.importorskip("sklearn", reason="needs scikit-learn's digits")

from quasar_rt import FileError, InvalidValueError, SettingsError  # noqa: E402
from quasar_rt.space import Space  # noqa: E402
from quasar_rt.train import checkpoint, load_recipe, train  # noqa: E402
from quasar_rt.train.checkpoint import CheckpointError  # noqa: E402
from quasar_rt.train.data import Shape  # noqa: E402
from quasar_rt.train.recipe import Recipe  # noqa: E402
from quasar_rt.train.run import train_architecture  # noqa: E402
from quasar_rt.train.teacher import TRUSTED, distillation_loss, load_teacher  # noqa: E402

SHAPE = Shape(8, 8, 1, 10)
CPU = torch.device("cpu")


class Small(torch.nn.Module):
    """A teacher for 8x8 images, whose answers depend on the image."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, classes))

    def forward(self, x: Any) -> Any:
        return self.layers(x)


def scripted(path: Path, network: Any) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(network.eval(), torch.zeros(2, 1, 8, 8)).save(str(path))
    return path


def exported(path: Path, network: Any, dynamic: bool = True) -> Path:
    shapes = ({0: torch.export.Dim.DYNAMIC},) if dynamic else None
    example = (torch.zeros(2 if dynamic else 1, 1, 8, 8),)
    torch.export.save(torch.export.export(network.eval(), example, dynamic_shapes=shapes), str(path))
    return path


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRUSTED, "")


def recipe(model: object, *changes: str, **keys: object) -> Recipe:
    os.environ[TRUSTED] = str(model)

    def text(value: object) -> str:
        return str(value).lower() if isinstance(value, bool) else repr(value) if value != [] else "[]"

    given = {"model": str(model), **keys}
    teacher = [f"teacher.{key}={text(value)}" for key, value in given.items()]
    short = ["float_stage.epochs=1", "supernet_stage.epochs=1", "quantized_stage.epochs=1", "data.subset=128"]
    return load_recipe("digits", [*short, *teacher, *changes])


def images(n: int = 4) -> Any:
    return torch.randint(0, 256, (n, 1, 8, 8), generator=torch.Generator().manual_seed(1)).to(torch.uint8)


@pytest.mark.parametrize("write", [scripted, exported])
def test_a_file_gives_the_answers_of_its_network(tmp_path: Path, write: Any) -> None:
    network = Small()
    path = write(tmp_path / "teacher.pt2", network)
    teacher = load_teacher(recipe(path, mean=0.25, std=0.5), SHAPE, CPU)
    torch.testing.assert_close(teacher(images()), network((images() / 255 - 0.25) / 0.5))
    plain = load_teacher(recipe(path), SHAPE, CPU)
    data = recipe(path).data
    torch.testing.assert_close(plain(images()), network((images() / 255 - data.mean[0]) / data.std[0]))


def test_a_timm_model_gives_the_answers_of_its_checkpoint(tmp_path: Path) -> None:
    torch.manual_seed(3)
    network = timm.create_model("test_resnet", num_classes=10, in_chans=1).eval()
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    given = recipe("timm:test_resnet", checkpoint=str(tmp_path / "weights.pth"), size=32, mean=0.0, std=1.0)
    found = load_teacher(given, SHAPE, CPU)(images())
    resized = torch.nn.functional.interpolate(images() / 255, size=(32, 32), mode="bicubic", antialias=True)
    torch.testing.assert_close(found, network(resized), atol=1e-4, rtol=1e-4)


def test_teachers_that_do_not_fit_are_refused_by_what_is_wrong(tmp_path: Path) -> None:
    def refused(kind: type[Exception], words: str, model: object, **keys: object) -> None:
        with pytest.raises(kind, match=words):
            load_teacher(recipe(model, **keys), SHAPE, CPU)

    seven = scripted(tmp_path / "seven.pt", Small(7))
    refused(InvalidValueError, r"\[7\] logits.*10 classes", seven)
    ten = scripted(tmp_path / "ten.pt", Small())
    refused(InvalidValueError, "does not take two images of 16x16.*teacher.size", ten, size=16)
    fixed = exported(tmp_path / "fixed.pt2", Small(), dynamic=False)
    refused(InvalidValueError, "dynamic number of images", fixed)
    refused(FileError, "cannot be read", tmp_path / "missing.pt")
    (tmp_path / "text.pt").write_text("no network")
    refused(FileError, "timm:NAME", tmp_path / "text.pt")
    refused(FileError, "no model 'resnet9000'", "timm:resnet9000")
    torch.save(Small().state_dict(), tmp_path / "other.pth")
    refused(
        InvalidValueError, "does not fit timm's", "timm:test_resnet", checkpoint=str(tmp_path / "other.pth")
    )
    refused(FileError, "no checkpoint", "timm:test_resnet", checkpoint=str(tmp_path / "text.pt"))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"weight": 0.0}, "teacher.weight"),
        ({"temperature": 0.0}, "teacher.temperature"),
        ({"stages": ["float", "later"]}, "teacher.stages"),
        ({"checkpoint": "a.pth"}, "teacher.checkpoint"),
        ({"mean": 3.0}, "teacher.mean"),
        ({"strength": 1}, "unknown key 'teacher.strength'"),
    ],
)
def test_settings_of_a_teacher_are_checked(keys: dict[str, object], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        recipe("file.pt", **keys)


def test_soft_and_hard_losses_are_their_formulas() -> None:
    logits, answers = torch.tensor([[1.0, 0.0, -1.0]]), torch.tensor([[0.0, 2.0, 0.0]])
    probabilities = (answers / 2).softmax(1)
    soft = -(probabilities * (logits / 2).log_softmax(1)).sum() * 4
    torch.testing.assert_close(distillation_loss(logits, answers, False, 2.0), soft)
    torch.testing.assert_close(distillation_loss(logits, answers, True, 2.0), -logits.log_softmax(1)[0, 1])


def test_a_network_learns_its_teachers_classes_and_not_the_labels(tmp_path: Path) -> None:
    """With weight 1 the labels have no part: a teacher that calls all images 3 makes a student that does."""
    network = Small()
    with torch.no_grad():
        network.layers[1].weight.zero_()
        network.layers[1].bias.copy_(torch.eye(10)[3] * 9)
    path = scripted(tmp_path / "three.pt", network)
    space = Space.load("digits")
    longer = ("float_stage.epochs=6", "quantized_stage.epochs=2", "optimizer.batch=32", "optimizer.ema=0.5")
    for hard in (False, True):
        given = recipe(path, *longer, weight=1.0, hard=hard)
        trained = train_architecture(
            space.decode(space.smallest), given, tmp_path / str(hard), log=lambda _: None
        )
        x, _ = trained.data.validation.first(50)
        assert (trained.model(x).argmax(dim=1) == 3).all()


def test_each_stage_has_the_teacher_that_the_recipe_gives_it(tmp_path: Path) -> None:
    path = scripted(tmp_path / "teacher.pt", Small())
    log: list[str] = []
    both = train(recipe(path), tmp_path / "run", log=log.append)
    plain = train(recipe(path, stages=["supernet"]), tmp_path / "plain", log=log.append)
    none = train(load_recipe("digits", ["float_stage.epochs=1", "supernet_stage.epochs=1", "data.subset=128"]),
                 tmp_path / "none", log=log.append)  # fmt: skip
    losses = {
        name: {stage: rows[-1]["loss_largest"] for stage, rows in run.history.items()}
        for name, run in (("both", both), ("plain", plain), ("none", none))
    }
    assert losses["plain"]["float"] == losses["none"]["float"] != losses["both"]["float"]
    assert losses["plain"]["supernet"] != losses["none"]["supernet"]
    # The file's contents are a part of the run, its path is not.
    moved = tmp_path / "moved.pt"
    path.rename(moved)
    again = train(recipe(moved), tmp_path / "run", log=log.append)
    assert again.history == both.history
    other = Small()
    with torch.no_grad():
        other.layers[1].bias.add_(torch.arange(10.0))
    with pytest.raises(CheckpointError, match="another run"):
        train(recipe(scripted(tmp_path / "other.pt", other)), tmp_path / "run", log=log.append)
    assert checkpoint.load(tmp_path / "plain" / "supernet.pt")["kind"] == "supernet"
