"""Metrics of a run in TensorBoard's files and in Weights & Biases."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

torch = pytest.importorskip("torch", reason="needs the [host] extra")
pytest.importorskip("sklearn", reason="needs scikit-learn's digits")

from quasar_rt import InvalidValueError, QuasarError, search  # noqa: E402
from quasar_rt.cli.search import command as search_command  # noqa: E402
from quasar_rt.cli.search import default_folder  # noqa: E402
from quasar_rt.nas import check  # noqa: E402
from quasar_rt.space import Space  # noqa: E402
from quasar_rt.tracking import open_tracker  # noqa: E402
from quasar_rt.train import load_recipe, train_architecture  # noqa: E402
from quasar_rt.train.loop import Stopped  # noqa: E402

SHORT = ["float_stage.epochs=1", "quantized_stage.epochs=1", "data.subset=128", "optimizer.batch=32"]
STEPS = 4


def trained(folder: Path, track: str, stop: int | None = None) -> None:
    space = Space.load("digits")
    recipe = load_recipe("digits", SHORT)
    train_architecture(
        space.decode(space.smallest), recipe, folder, log=lambda _: None, track=[track], stop_after_steps=stop
    )


class FakeWandb(types.ModuleType):
    """Keeps what a run logs."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.settings: list[dict[str, Any]] = []
        self.logged: list[dict[str, float]] = []
        self.axes: dict[str, str] = {}
        self.finished = 0

    def init(self, **settings: Any) -> Any:
        self.settings.append(settings)
        return self

    def define_metric(self, name: str, step_metric: str) -> None:
        self.axes[name] = step_metric

    def log(self, values: dict[str, float]) -> None:
        self.logged.append(values)

    def finish(self) -> None:
        self.finished += 1


def test_wandb_gets_each_step_and_epoch_and_a_stopped_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    with pytest.raises(Stopped):
        trained(tmp_path, "wandb", stop=2)
    assert wandb.finished == 1
    trained(tmp_path, "wandb")
    first, second = wandb.settings
    assert first["id"] == second["id"]
    assert first["resume"] == "allow"
    assert first["config"]["optimizer"]["batch"] == 32
    for stage in ("float", "quantized"):
        steps = [row for row in wandb.logged if f"{stage}/step/loss" in row]
        assert [row[f"{stage}/step/count"] for row in steps] == list(range(1, STEPS + 1))
        assert all(row[f"{stage}/step/learning_rate"] >= 0 for row in steps)
        (epoch,) = (row for row in wandb.logged if f"{stage}/epoch/loss" in row)
        mean = sum(row[f"{stage}/step/loss"] for row in steps) / STEPS
        assert epoch[f"{stage}/epoch/loss"] == pytest.approx(mean)
        assert 0 <= epoch[f"{stage}/epoch/top1_largest"] <= 1
        assert wandb.axes[f"{stage}/step/*"] == f"{stage}/step/count"


def test_tensorboards_files_hold_each_step_and_epoch(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trained(tmp_path, "tensorboard")
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    for stage in ("float", "quantized"):
        assert [event.step for event in events.Scalars(f"{stage}/step/loss")] == list(range(1, STEPS + 1))
        assert [event.step for event in events.Scalars(f"{stage}/epoch/top1_largest")] == [1]


def test_a_search_logs_its_generations_and_its_targets_once(tmp_path: Path) -> None:
    """A search that continues goes through its generations again, and shows them once."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    targets = [19_000.0, 20_000.0]
    for _ in range(2):
        found = search(
            "digits", fps=targets, population=10, generations=4, out=tmp_path / "out", track=["tensorboard"]
        )
    events = EventAccumulator(str(tmp_path / "out" / "tensorboard"))
    events.Reload()
    counts = events.Scalars("search/generation/evaluations")
    assert [(event.step, event.value) for event in counts] == [(1, 10), (2, 20), (3, 30), (4, 40)]
    for name in ("hypervolume", "best_at_20000_fps"):
        values = [event.value for event in events.Scalars(f"search/generation/{name}")]
        assert values == sorted(values)
    scores = [event.value for event in events.Scalars("search/target/score")]
    assert scores == pytest.approx([target.point.score for target in found.targets])
    assert not any(tag.startswith("search/network") for tag in events.Tags()["scalars"])
    with pytest.raises(InvalidValueError, match="give `out`"):
        search("digits", track=["wandb"])


def test_one_command_logs_training_and_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setattr(check, "SAMPLE", 2)
    monkeypatch.chdir(tmp_path)
    arguments = ["--recipe", "digits", "--fps", "19000", "--threads", "1", "--out", "found", "--log", "wandb"]
    for key in ("float_stage.epochs=1", "supernet_stage.epochs=1", "data.subset=128", "optimizer.batch=32"):
        arguments += ["--set", key]
    result = CliRunner().invoke(search_command, [*arguments, "--population", "4", "--generations", "2"])
    assert result.exit_code == 0, result.output
    training, searching = wandb.settings
    assert (training["name"], searching["name"]) == ("digits", "found")
    assert searching["config"]["population"] == 4
    assert wandb.finished == 2
    assert sum("supernet/step/loss" in row for row in wandb.logged) == STEPS
    assert [
        row["search/generation/evaluations"] for row in wandb.logged if "search/generation/count" in row
    ] == [4, 8]
    networks = [row["search/network/score"] for row in wandb.logged if "search/network/count" in row]
    assert len(networks) == 8
    assert all(0 <= score <= 1 for score in networks)
    (target,) = (row for row in wandb.logged if "search/target/count" in row)
    assert target["search/target/fps_with_host"] >= target["search/target/target_fps"] == 19_000
    assert 0 <= target["search/target/integer_top1"] <= 1


def test_the_folder_of_a_search_does_not_depend_on_its_log() -> None:
    options = {"supernet": None, "space": "digits", "board": None, "hardware": None}
    assert default_folder({**options, "track": ("wandb",)}) == default_folder({**options, "track": ()})


@pytest.mark.parametrize("name", ["wandb", "tensorboard"])
def test_a_tracker_that_is_not_installed_says_how_to_get_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(QuasarError, match=f"pip install {name}"):
        open_tracker(name, tmp_path, {})


def test_an_unknown_tracker_is_refused(tmp_path: Path) -> None:
    with pytest.raises(QuasarError, match="choose one of tensorboard, wandb"):
        open_tracker("mlflow", tmp_path, {})
