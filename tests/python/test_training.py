"""Training runs: data, stages, checkpoints that a killed run resumes from, several processes."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

torch = pytest.importorskip("torch", reason="needs the [host] extra")
pytest.importorskip("sklearn", reason="the digits come with scikit-learn")

from image_folders import image_folder, pack  # noqa: E402
from quasar_rt import Engine, FileError, ImageError, InvalidValueError, SettingsError, Subnet, search  # noqa: E402
from quasar_rt.cli.train import command as train_command  # noqa: E402
from quasar_rt.datasets import DatasetError, MissingDatasetError  # noqa: E402
from quasar_rt.space import Space  # noqa: E402
from quasar_rt.train import Trained, checkpoint, data, train, train_architecture  # noqa: E402
from quasar_rt.train.batches import Batches, augment  # noqa: E402
from quasar_rt.train.checkpoint import CheckpointError  # noqa: E402
from quasar_rt.train.data import FileSplit, Split  # noqa: E402
from quasar_rt.train.distributed import DistributedError, init_process_group  # noqa: E402
from quasar_rt.train.evaluation import evaluate, logits_of  # noqa: E402
from quasar_rt.train.loop import DivergedError, Loop, Stopped  # noqa: E402
from quasar_rt.train.networks import check_split, load_supernet, make_model, read_supernet  # noqa: E402
from quasar_rt.train.recipe import Recipe, load_recipe  # noqa: E402
from quasar_rt.train.report import export, finish, write_samples  # noqa: E402
from quasar_rt.train.schedule import learning_rate, sample_network  # noqa: E402
from small_networks import Code  # noqa: E402

torch.set_num_threads(1)

TOOL = Path(__file__).parents[2] / "tools" / "train.py"
LAUNCHER = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
Process: TypeAlias = "subprocess.Popen[str]"
FullDisk: TypeAlias = "Callable[[int], AbstractContextManager[None]]"
Start: TypeAlias = "Callable[[list[str]], Process]"
#: Two stages of a few steps on the digits.
SHORT = (
    "float_stage.epochs=1",
    "supernet_stage.epochs=2",
    "quantized_stage.epochs=2",
    "sandwich.random=1",
    "data.subset=160",
    "optimizer.batch=32",
    "quantization.scoring=64",
    "quantization.calibration=64",
)
POINT = """
name = "point"
classes = 10
head_dim = 8
eight_bit_per = "block"
[image]
height = 8
width = 8
channels = 1
[patch]
kernel = 2
stride = 2
pad = 0
pad_value = 0
[choices]
embed = [16]
depth = [1]
heads = [2]
mlp_ratio = [1.0]
eight_bit = [0.5]
"""


def short(*changes: str) -> Recipe:
    return load_recipe("digits", [*SHORT, *changes])


def quiet(_line: str) -> None:
    pass


def options(run: Path, *arguments: str) -> list[str]:
    """Returns the arguments of a short run of the tool."""
    sets = [word for change in SHORT for word in ("--set", change)]
    return ["--config", "digits", "--folder", str(run), "--threads", "1", *sets, *arguments]


def by_hand(run: Path, *arguments: str) -> Result:
    """Runs the command in this process: a process of its own would load torch anew."""
    return CliRunner().invoke(train_command, options(run, *arguments))


def smallest(path: Path) -> str:
    """Writes the smallest network of the digits' space to a file; returns its path."""
    space = Space.load("digits")
    path.write_text(json.dumps(space.decode(space.smallest).to_dict()), encoding="utf-8")
    return str(path)


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts processes; none of them is left when the test ends."""
    started: list[Process] = []

    def run(command: list[str]) -> Process:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        started.append(
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
            )
        )
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def wait_for(process: Process, path: Path, seconds: float = 600) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        assert time.monotonic() < end, f"{path} does not appear"
        time.sleep(0.005)


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert list(one) == list(other)
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trains a short run without a disturbance; returns its folder."""
    folder = tmp_path_factory.mktemp("whole")
    train(short(), folder, log=quiet)
    return folder


def test_a_supernet_trained_on_the_digits_knows_them(digits_supernet: Path, digits_recipe: Recipe) -> None:
    model, recipe, space = load_supernet(digits_supernet)
    assert recipe == digits_recipe
    assert space == Space.load("digits")
    assert model.quantized
    assert not model.training
    images = data.load(recipe)
    assert (len(images.train), len(images.validation)) == (1140, 297)
    largest = evaluate(model, images.validation)
    assert largest > 0.85
    model.activate(space.decode(space.smallest))
    assert 0.3 < evaluate(model, images.validation) < largest
    check_split(read_supernet(digits_supernet), digits_supernet, images)
    other = dataclasses.replace(recipe, seed=1)
    with pytest.raises(CheckpointError, match="would not be unseen"):
        check_split(read_supernet(digits_supernet), digits_supernet, data.load(other))


def test_a_run_leaves_a_log_and_a_picture(digits_supernet: Path, digits_recipe: Recipe) -> None:
    folder = digits_supernet.parent
    assert sorted(path.name for path in folder.iterdir()) == [
        "curves.png",
        "float.pt",
        "log.csv",
        "supernet.pt",
    ]
    with (folder / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    stage = digits_recipe.supernet_stage
    assert stage is not None
    assert len(rows) == digits_recipe.float_stage.epochs + stage.epochs
    first, last = rows[0], rows[-1]
    assert (first["stage"], last["stage"], last["epoch"]) == ("float", "supernet", str(stage.epochs))
    assert first["loss_smallest"] == ""
    mean = (
        sum(float(last[f"loss_{kind}"]) * n for kind, n in (("largest", 1), ("smallest", 1), ("random", 2)))
        / 4
    )
    assert float(last["loss"]) == pytest.approx(mean, rel=1e-5)
    assert 0 < float(last["learning_rate"]) < stage.learning_rate
    assert float(last["gradient_norm"]) > 0
    assert 0 < float(last["top1_smallest"]) < float(last["top1_largest"]) <= 1
    with Image.open(folder / "curves.png") as picture:
        assert picture.width > 500


def test_one_network_of_the_supernet_is_trained_further_from_its_slice(
    digits_supernet: Path, digits_recipe: Recipe, tmp_path: Path
) -> None:
    model, _, space = load_supernet(digits_supernet)
    network = space.decode(space.smallest)
    before = model.extract(network)
    trained = train_architecture(network, digits_recipe, tmp_path / "a", log=quiet, inherit=digits_supernet)
    assert trained.model.active == network
    assert list(trained.history) == ["quantized"]
    assert evaluate(trained.model, trained.data.validation) > evaluate(before, trained.data.validation)
    figures = finish(trained, tmp_path / "out", "a machine", "command", quiet, "smallest")
    subnet = Subnet.load(tmp_path / "out" / "smallest.qvit")
    assert subnet.trained
    assert figures.images == 360
    assert figures.differing == 0
    other = Space.from_toml(POINT.replace("head_dim = 8", "head_dim = 4"))
    with pytest.raises(InvalidValueError):
        train_architecture(other.decode(other.largest), digits_recipe, tmp_path / "b", log=quiet)


def test_one_network_ends_as_a_subnet_with_its_card(tmp_path: Path) -> None:
    (tmp_path / "space.toml").write_text(POINT, encoding="utf-8")
    recipe = short(
        f"space='{tmp_path / 'space.toml'}'", "float_stage.epochs=20", "baseline=true", "data.subset=0"
    )
    trained = train(recipe, tmp_path / "run", log=quiet)
    assert trained.path is None
    assert trained.baseline is not None
    assert not trained.baseline.quantized
    said: list[str] = []
    figures = finish(trained, tmp_path / "out", "a machine", "quasar-rt train", said.append)
    assert "top-1 on 360 test images: float" in said[0]
    subnet = Subnet.load(tmp_path / "out" / "digits.qvit")
    assert subnet.classes == list("0123456789")
    bits = subnet.tensors()["blocks.0.fc1.bits"]
    assert (bits == 8).sum() == 8
    assert subnet.config["provenance"]["figures"]["integer_top1"] == round(figures.integer_top1, 4)
    test = trained.data.test()
    with Engine(subnet) as engine:
        found = np.array([p.index for p in engine.infer_batch(list(test.first(360)[0]))])
    assert (found == test.labels.numpy()).mean() == figures.integer_top1
    assert figures.confusion.sum() == 360
    folder = tmp_path / "out" / "digits"
    card = (folder / "README.md").read_text(encoding="utf-8")
    for piece in (
        f"{figures.integer_top1:.2%} ±",
        subnet.sha256[:16],
        "seed 0",
        "float (the same recipe",
        "criterion `loss`",
    ):
        assert piece in card
    assert len(list((folder / "samples").glob("*.png"))) == 12
    with Image.open(folder / "confusion.png") as picture:
        assert picture.width > 300


def test_a_run_that_was_terminated_and_killed_ends_as_if_it_had_not_been(
    whole: Path, tmp_path: Path, start: Start
) -> None:
    part = tmp_path / "run" / "supernet.part.pt"
    # SIGTERM: the step is finished, a checkpoint written, and the process ends well.
    process = start([sys.executable, str(TOOL), *options(tmp_path / "run", "--set", "checkpoint_every=1")])
    wait_for(process, part)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=600)[0]
    assert process.returncode == 0, said
    assert "stopped (SIGTERM)" in said
    assert "continues from there" in said
    stopped = checkpoint.load(part)["step"]
    # SIGKILL: what was done since the last checkpoint is done again.
    process = start([sys.executable, str(TOOL), *options(tmp_path / "run", "--set", "checkpoint_every=1")])
    end = time.monotonic() + 600
    while checkpoint.load(part)["step"] < stopped + 2:
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    state = checkpoint.load(part)
    steps = 160 // 32
    assert stopped < state["step"] < 2 * steps
    assert state["sampler_position"] == 32 * (state["step"] % steps)
    lines: list[str] = []
    trained = train(short(), tmp_path / "run", log=lines.append)
    assert any(line.startswith("supernet: continues at step") for line in lines)
    same(checkpoint.load(whole / "supernet.pt")["model"], trained.model.state_dict())
    assert not list(tmp_path.glob("run/*.part.pt"))
    assert not list(tmp_path.glob("run/.*"))


def test_what_killed_processes_left_unfinished_is_removed(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    path = tmp_path / "weights.pt"
    running = tmp_path / f".weights.pt.{os.getppid()}.tmp"
    other = tmp_path / f".other.pt.{ended.pid}.tmp"
    for left in (tmp_path / f".weights.pt.{ended.pid}.tmp", running, other):
        left.write_bytes(b"a part")
    with checkpoint.write_atomically(path) as file:
        file.write(b"the whole")
    assert sorted(tmp_path.iterdir()) == sorted([path, running, other])


def test_the_last_epoch_has_the_bits_that_are_deployed(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "space.toml").write_text(POINT, encoding="utf-8")
    scratch = short(f"space='{tmp_path / 'space.toml'}'", "drop_path=0.1", "data.mixup=0.5")
    network = Space.load("digits").decode(Space.load("digits").smallest)
    exact: list[bool] = []
    gradients = Loop.gradients

    def watched(loop: Loop, *arguments: Any) -> Any:
        exact.append(loop.model.exact)
        return gradients(loop, *arguments)

    monkeypatch.setattr(Loop, "gradients", watched)
    for name in ("scratch", "inherited"):

        def run(stop: int | None = None, name: str = name) -> Trained:
            options: Any = {"log": quiet, "stop_after_steps": stop}
            if name == "scratch":
                return train(scratch, tmp_path / name, **options)
            inherit = whole / "supernet.pt"
            return train_architecture(network, short(), tmp_path / name, inherit=inherit, **options)

        exact.clear()
        # The float stage has 5 steps, each epoch with quantizers as many.
        with pytest.raises(Stopped):
            run(6 if name == "scratch" else 1)
        began = checkpoint.load(tmp_path / name / "quantized.part.pt")["model"]["residual_scale"]
        trained = run()
        assert exact == [False] * (10 if name == "scratch" else 5) + [True] * 5
        # The range of the residual is that of the last epoch, and no work follows it.
        assert not torch.equal(trained.model.residual_scale, began)
        same(trained.model.state_dict(), checkpoint.load(tmp_path / name / "quantized.pt")["model"])
        same(trained.model.state_dict(), run().model.state_dict())
        # What was evaluated is what is deployed.
        validation = trained.data.validation
        with Engine(export(trained, {})) as engine:
            found = engine.infer_batch(validation.for_engine(len(validation))).indices
        top1 = float((found == validation.labels.numpy()).mean())
        assert trained.history["quantized"][-1]["top1_largest"] == top1


@pytest.mark.parametrize("steps", [3, 5, 7])
def test_a_stop_at_any_step_changes_nothing(whole: Path, tmp_path: Path, steps: int) -> None:
    for _ in range(20):
        try:
            trained = train(short(), tmp_path, log=quiet, stop_after_steps=steps)
            break
        except Stopped:
            continue
    same(checkpoint.load(whole / "supernet.pt")["model"], trained.model.state_dict())
    for one, other in zip(
        checkpoint.load(whole / "supernet.pt")["history"], trained.history["supernet"], strict=True
    ):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}
    for name in ("float.pt", "supernet.pt"):
        assert checkpoint.load(tmp_path / name)["sha256"] == checkpoint.load(whole / name)["sha256"]


def test_equal_runs_have_checkpoints_of_equal_digests(tmp_path: Path) -> None:
    states = []
    for name, stops in (("one", [7]), ("other", [7]), ("resumed", [3, 4]), ("longer", [8])):
        for steps in stops:
            with pytest.raises(Stopped):
                train(short(), tmp_path / name, log=quiet, stop_after_steps=steps)
        files = [checkpoint.load(tmp_path / name / file) for file in ("float.pt", "supernet.part.pt")]
        assert files[0]["seconds"] > 0
        assert files[1]["elapsed"] > 0
        states.append([file["sha256"] for file in files])
    assert states[0] == states[1] == states[2]
    assert states[3][0] == states[0][0]
    assert states[3][1] != states[0][1]


def test_a_checkpoint_of_the_format_before_is_read_and_verified(tmp_path: Path) -> None:
    # Its digest covers times, too; this one was written by the code of then.
    path = tmp_path / "old.pt"
    state = {
        "seconds": 1.5,
        "history": [{"loss": 0.25, "seconds": 1.5}],
        "model": {"w": torch.arange(3.0)},
        "format": "quasar-rt checkpoint 1",
        "sha256": "c8db98a8d400ca43041645394d037ec6fe96a467ae18969f042ccb375484a456",
    }
    torch.save(state, path)
    found = checkpoint.load(path)
    assert found["history"] == state["history"]
    assert found["sha256"] == state["sha256"]
    for change in ({"seconds": 1.25}, {"model": {"w": torch.zeros(3)}}):
        torch.save({**state, **change}, path)
        with pytest.raises(CheckpointError, match="do not have the digest"):
            checkpoint.load(path)
    # In the format of now a time may differ, and nothing else.
    checkpoint.save({"seconds": 1.5, "loss": 0.25}, path)
    good = torch.load(path, weights_only=True)
    torch.save({**good, "seconds": 2.5}, path)
    assert checkpoint.load(path)["seconds"] == 2.5
    torch.save({**good, "loss": 0.5}, path)
    with pytest.raises(CheckpointError, match="do not have the digest"):
        checkpoint.load(path)


def test_two_processes_take_the_steps_that_one_takes(tmp_path: Path, start: Start) -> None:
    # 5 float steps, then 2 of the supernet's, with two random networks; a batch that does not halve.
    changes = ("optimizer.batch=31", "sandwich.random=2")
    sets = [word for change in changes for word in ("--set", change)]
    process = start([*LAUNCHER, str(TOOL), *options(tmp_path / "two", "--stop-after-steps", "7", *sets)])
    said = process.communicate(timeout=600)[0]
    assert process.returncode == 0, said
    assert said.count("stopped (limit of steps)") == 1
    with pytest.raises(Stopped):
        train(short(*changes), tmp_path / "one", log=quiet, stop_after_steps=7)

    def distance(one: dict[str, Any], other: dict[str, Any], begin: dict[str, Any] | None = None) -> float:
        """Returns the distance of two sets of tensors over that of the first from `begin` (or over its size)."""
        names = [name for name, value in one.items() if value.is_floating_point()]
        apart = sum(float((one[name] - other[name]).square().sum()) for name in names)
        moved = sum(float((one[name] - (begin[name] if begin else 0)).square().sum()) for name in names)
        return float(np.sqrt(apart / moved))

    one, two = (checkpoint.load(tmp_path / kind / "float.pt") for kind in ("one", "two"))
    assert distance(one["model"], two["model"], make_model(short(), Space.load("digits")).state_dict()) < 1e-3
    for row, other in zip(one["history"], two["history"], strict=True):
        for key in ("loss", "gradient_norm"):
            assert row[key] == pytest.approx(other[key], rel=1e-5)
    begin = one["model"]
    one, two = (checkpoint.load(tmp_path / kind / "supernet.part.pt") for kind in ("one", "two"))
    assert one["step"] == two["step"] == 2
    # With quantizers a sum in another order may round to another code, and AdamW makes whole steps of tiny gradients.
    for key, total in one["sums"].items():
        assert total == pytest.approx(two["sums"][key], rel=2e-3), key
    states = [
        {str(key): state["exp_avg"] for key, state in part["optimizer"]["state"].items()}
        for part in (one, two)
    ]
    assert distance(*states) < 0.03
    assert distance(one["model"], two["model"], begin) < 0.03


#: A process of two, each with a machine's folder of its own; what it ends with is in out0.json and out1.json.
MACHINE = """
import json, sys
from pathlib import Path
import torch
from quasar_rt import QuasarError
from quasar_rt.space import Space
from quasar_rt.train import checkpoint, distributed, load_recipe, train, train_architecture

torch.set_num_threads(1)
base, group = Path(sys.argv[1]), distributed.init_process_group("cpu")
recipe, seen = load_recipe("digits", sys.argv[2:]), {}
options = dict(log=lambda _: None, group=group)
mine = base / f"machine{group.rank}"

def weights(name, model):
    seen[name] = checkpoint._digest(model.state_dict(), frozenset())

def failure(name, work):
    try:
        work()
    except QuasarError as error:
        seen[name] = f"{type(error).__name__}: {error}"

failure("stop", lambda: train(recipe, mine / "stopped", stop_after_steps=7, **options))
weights("stopped", train(recipe, mine / "stopped", **options).model)
weights("read", train(recipe, mine / "stopped", **options).model)
weights("whole", train(recipe, mine / "whole", **options).model)
space, inherit = Space.load("digits"), mine / "whole" / "supernet.pt"
one = lambda name, **more: train_architecture(
    space.decode(space.smallest), recipe, mine / name, inherit=inherit, **options, **more
).model
failure("one stop", lambda: one("one", stop_after_steps=7))
weights("one stopped", one("one"))
weights("one read", one("one"))
weights("one whole", one("two"))
if group.first:
    (mine / "whole" / "float.pt").write_bytes(b"damaged")
failure("damaged", lambda: train(recipe, mine / "whole", **options))
other = load_recipe("digits", [*sys.argv[2:], f"seed={group.rank}"])
failure("data", lambda: train(other, mine / "other", **options))
(base / f"out{group.rank}.json").write_text(json.dumps(seen))
group.leave()
"""


@pytest.mark.slow
def test_only_the_first_of_several_machines_sees_the_folder(tmp_path: Path, start: Start) -> None:
    (tmp_path / "machine.py").write_text(MACHINE, encoding="utf-8")
    process = start([*LAUNCHER, str(tmp_path / "machine.py"), str(tmp_path), *SHORT])
    said = process.communicate(timeout=900)[0]
    assert process.returncode == 0, said
    one, two = (json.loads((tmp_path / f"out{rank}.json").read_text()) for rank in (0, 1))
    assert not (tmp_path / "machine1").exists()
    for seen in (one, two):
        assert seen["stop"].startswith("Stopped: stopped (limit of steps) at supernet")
        assert seen["one stop"].startswith("Stopped: stopped (limit of steps) at quantized")
        assert seen["stopped"] == seen["read"] == seen["whole"] == one["whole"]
        assert seen["one stopped"] == seen["one read"] == seen["one whole"] == one["one whole"]
        assert seen["data"].startswith("DatasetError: the processes do not have the same data")
    assert one["damaged"].startswith("CheckpointError: ")
    assert two["damaged"] == f"DistributedError: the first process failed: {one['damaged']}"


def test_another_recipes_run_is_refused(whole: Path) -> None:
    before = {path.name: path.read_bytes() for path in whole.iterdir()}
    with pytest.raises(CheckpointError, match=r"float.pt' is of another run .*: choose another folder"):
        train(short("seed=1"), whole, log=quiet)
    with pytest.raises(CheckpointError, match=r"supernet.pt' is of another run"):
        train(short("sandwich.temperature=2.0"), whole, log=quiet)
    assert {path.name: path.read_bytes() for path in whole.iterdir()} == before


def test_damaged_and_foreign_checkpoints_are_refused(whole: Path, tmp_path: Path) -> None:
    good = (whole / "supernet.pt").read_bytes()
    path = tmp_path / "supernet.pt"
    flipped = bytearray(good)
    # In the middle of a tensor: torch itself would not notice.
    weight = checkpoint.load(whole / "supernet.pt")["model"]["blocks.0.fc1.weight"].numpy().tobytes()
    flipped[good.index(weight) + 8] ^= 1
    for content in (good[: len(good) // 2], b"", b"no checkpoint", bytes(flipped)):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="damaged"):
            load_supernet(path)
    torch.save({"model": {}}, path)
    with pytest.raises(CheckpointError, match="not a checkpoint of this version"):
        load_supernet(path)
    with pytest.raises(CheckpointError, match="not a supernet"):
        load_supernet(whole / "float.pt")
    with pytest.raises(FileNotFoundError):
        load_supernet(tmp_path / "none.pt")


def test_code_in_a_checkpoint_is_not_run_and_the_message_does_not_advise_it(tmp_path: Path) -> None:
    path = tmp_path / "supernet.pt"
    for dump in (
        pickle.dumps,
        lambda evil: torch.save({"format": "quasar-rt checkpoint 2", "x": evil}, path),
    ):
        written = dump(Code(tmp_path / "run"))
        if written is not None:
            path.write_bytes(written)
        with pytest.raises(CheckpointError, match="damaged, or no checkpoint") as caught:
            checkpoint.load(path)
        assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "run").exists()
    # A few bytes that claim to be gigabytes.
    torch.save({"format": "quasar-rt checkpoint 2", "x": torch.zeros(1).expand(1 << 40)}, path)
    with pytest.raises(CheckpointError, match="damaged, or no checkpoint"):
        checkpoint.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("recipe"), r"does not hold what .*KeyError: 'recipe'"),
        (lambda s: s.update(recipe="[1]"), "does not hold what"),
        (lambda s: s.update(recipe="[" * 100_000), "does not hold what"),
        (lambda s: s.update(space=7), "does not hold what"),
        (lambda s: s.update(space="name = 'x'"), "invalid space"),
        (
            lambda s: s.update(space=Space.load("tiny").to_toml()),
            "is of another network: it lacks the tensor",
        ),
        (lambda s: s.update(model=[1]), "holds no weights"),
        (lambda s: s["model"].pop("head.bias"), r"it lacks the tensor 'head\.bias'"),
        (lambda s: s["model"].update({5: torch.zeros(1)}), "it has an unknown tensor '5'"),
        (lambda s: s["model"].update({"head.bias": "x"}), r"'head\.bias' is str, not torch\.float32 \[10\]"),
        (
            lambda s: s["model"].update({"head.bias": torch.zeros(10, dtype=torch.float64)}),
            r"'head\.bias' is torch\.float64 \[10\], not torch\.float32 \[10\]",
        ),
        (lambda s: s["model"].update({"head.bias": torch.zeros(3)}), r"float32 \[3\], not"),
        (
            lambda s: s["model"]["head.bias"].fill_(float("nan")),
            r"'head\.bias' has values that are not finite",
        ),
    ],
)
def test_a_supernet_of_wrong_contents_is_refused_by_name(
    whole: Path, tmp_path: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    state = {key: value for key, value in checkpoint.load(whole / "supernet.pt").items() if key != "sha256"}
    change(state)
    checkpoint.save(state, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=rf"(?s)x\.pt'.*{message}"):
        load_supernet(tmp_path / "x.pt")


def test_a_runs_own_checkpoints_of_wrong_contents_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        train(short(), tmp_path, log=quiet, stop_after_steps=7)
    part, finished = tmp_path / "supernet.part.pt", tmp_path / "float.pt"
    good, begun = checkpoint.load(part), checkpoint.load(finished)
    del good["sha256"], begun["sha256"], begun["history"]
    for change, message in (
        ({"step": 99}, "step 99 of 10"),
        ({"optimizer": 1}, "does not hold"),
        ({"elapsed": float("nan")}, "a time of nan seconds"),
        ({"elapsed": "1"}, "does not hold"),
        ({}, "'sums'"),
    ):
        state = {**good, **change}
        if not change:
            del state["sums"]
        checkpoint.save(state, part)
        with pytest.raises(CheckpointError, match=rf"supernet\.part\.pt' .*{message}"):
            train(short(), tmp_path, log=quiet)
    checkpoint.save(begun, finished)
    with pytest.raises(CheckpointError, match=r"float\.pt' .*'history'"):
        train(short(), tmp_path, log=quiet)


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    checkpoint.save({"step": 1}, path)
    with pytest.raises(Exception, match="pickle"):
        checkpoint.save({"step": lambda: None}, path)
    assert checkpoint.load(path)["step"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


def test_a_checkpoint_on_a_full_disk_leaves_the_old_one(tmp_path: Path, full_disk: FullDisk) -> None:
    path = tmp_path / "a.pt"
    checkpoint.save({"step": 1}, path)
    state = {"step": 2, "weights": [torch.zeros(5000), torch.zeros(7)]}
    checkpoint.save(state, tmp_path / "b.pt")
    size = (tmp_path / "b.pt").stat().st_size
    # Wherever it is that torch comes to the end of the disk: its own errors do not name it.
    for room in (*range(0, size, 1500), size - 1):
        with full_disk(room), pytest.raises(FileError, match=r"a\.pt' cannot be written: File too large; "):
            checkpoint.save(state, path)
        assert checkpoint.load(path)["step"] == 1
        assert sorted(p.name for p in tmp_path.iterdir()) == ["a.pt", "b.pt"]
    with full_disk(size):
        checkpoint.save(state, path)
    assert checkpoint.load(path)["step"] == 2


@pytest.mark.slow
def test_a_run_that_filled_the_disk_continues_when_there_is_space(
    whole: Path, tmp_path: Path, full_disk: FullDisk
) -> None:
    run = tmp_path / "run"
    assert by_hand(run, "--stop-after-steps", "7").exit_code == 0
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    with full_disk(len(before["supernet.part.pt"]) // 2):
        ended = by_hand(run)
    assert ended.exit_code == 2
    assert ended.output.splitlines()[-1] == (
        f"Error: '{run}/supernet.part.pt' cannot be written: File too large; remove the cause: the same command "
        "continues from the last checkpoint"
    )
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    assert by_hand(run).exit_code == 0
    same(checkpoint.load(whole / "supernet.pt")["model"], checkpoint.load(run / "supernet.pt")["model"])


def test_all_processes_end_cleanly_when_the_first_fills_the_disk(tmp_path: Path, start: Start) -> None:
    # In blocks of 512 or 1024 bytes: too few for the first checkpoint.
    full = ["sh", "-c", 'ulimit -f 40; exec "$@"', "sh"]
    process = start([*full, *LAUNCHER, "-m", "quasar_rt", "train", *options(tmp_path / "run")])
    output, _ = process.communicate(timeout=600)
    reason = f"'{tmp_path}/run/float.part.pt' cannot be written: File too large"
    assert f"Error: {reason}" in output
    assert f"Error: the first process failed: FileError: {reason}" in output
    assert "RuntimeError" not in output


def test_samples_on_a_full_disk_leave_the_earlier_ones(tmp_path: Path, full_disk: FullDisk) -> None:
    test = data.load(short(), None, Space.load("digits")).test()
    write_samples(test, "0123456789", tmp_path)
    (tmp_path / "00000-4.png").rename(tmp_path / "of another data set.png")
    (tmp_path / "of the user.png").write_bytes(b"a photograph")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with full_disk(3), pytest.raises(FileError, match=r"00000-.*png' cannot be written"):
        write_samples(test, "0123456789", tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    write_samples(test, "0123456789", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} ^ set(before) == {
        "00000-4.png",
        "of another data set.png",
    }


def test_a_diverged_run_says_so(tmp_path: Path) -> None:
    recipe = short("float_stage.epochs=9")
    wild = dataclasses.replace(recipe.float_stage, learning_rate=1e30)  # more than a recipe's file may say
    with pytest.raises(DivergedError, match=r"float: .* at step .*: lower float_stage\.learning_rate"):
        train(dataclasses.replace(recipe, float_stage=wild), tmp_path, log=quiet)


def test_the_command_ends_a_diverged_run_with_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverge(*_: object, **__: object) -> None:
        raise DivergedError("float: the loss is nan at step 3")

    monkeypatch.setattr("quasar_rt.train.train", diverge)
    said = by_hand(tmp_path / "run")
    assert (said.exit_code, said.output) == (1, "Error: float: the loss is nan at step 3\n")


def test_a_recipe_without_the_stage_that_its_space_needs_is_refused(tmp_path: Path) -> None:
    recipe = dataclasses.replace(short(), supernet_stage=None)
    with pytest.raises(SettingsError, match=r"\[supernet_stage\] is missing"):
        train(recipe, tmp_path, log=quiet)


# Data


NAMES = ("class0", "class1", "class2")


def folder_of_images(root: Path, split: bool) -> Path:
    return image_folder(root, ("train", "val") if split else ("",), NAMES)


FOLDER_SPACE = (
    POINT.replace("classes = 10", "classes = 3")
    .replace("= 8\nwidth = 8\nchannels = 1", "= 32\nwidth = 32\nchannels = 3")
    .replace("kernel = 2\nstride = 2", "kernel = 8\nstride = 8")
    .replace("embed = [16]", "embed = [16, 24]")
)


def folder_recipe(tmp_path: Path, root: Path, *changes: str) -> Recipe:
    (tmp_path / "space.toml").write_text(FOLDER_SPACE, encoding="utf-8")
    return load_recipe(
        "tiny",
        [
            f"space='{tmp_path / 'space.toml'}'",
            f"data.name='{root}'",
            "data.validation=6",
            "data.workers=0",
            "optimizer.batch=8",
            "float_stage.epochs=1",
            "supernet_stage.epochs=1",
            "quantized_stage.epochs=1",
            "quantization.calibration=8",
            "quantization.scoring=8",
            *changes,
        ],
    )


def test_the_imagenet_recipe_trains_on_a_small_folder(tmp_path: Path) -> None:
    root = folder_of_images(tmp_path / "images", split=True)
    recipe = folder_recipe(tmp_path, root)
    trained = train(recipe, tmp_path / "run", log=quiet)
    assert trained.data.classes == NAMES
    assert (len(trained.data.train), len(trained.data.validation), len(trained.data.test())) == (18, 6, 24)
    _, read, space = load_supernet(tmp_path / "run" / "supernet.pt")
    assert read.data.name == str(root)
    one = train_architecture(space.decode(space.smallest), recipe, tmp_path / "one", log=quiet)
    figures = finish(one, tmp_path / "one", "a machine", "command", quiet)
    assert figures.images == 24
    # The engine resizes the files by itself and sees what training saw.
    subnet = Subnet.load(tmp_path / "one" / "tiny.qvit")
    test = one.data.test()
    assert isinstance(test, FileSplit)
    with Engine(subnet) as engine:
        found = np.stack([p.logits for p in engine.infer_batch(list(test.images))])
    exact = logits_of(one.model, test.first(24)[0]).numpy()
    np.testing.assert_array_equal(found, exact)
    assert figures.differing == 0


def test_a_rectangular_network_takes_square_images(tmp_path: Path) -> None:
    recipe = folder_recipe(tmp_path, folder_of_images(tmp_path / "images", split=False))
    settings = Space.load(recipe.space).to_toml().replace("height = 32", "height = 24")
    space = Space.from_toml(settings)
    loaded = data.load(recipe, space=space)
    assert loaded.document["resize"]["mode"] == "exact"
    assert loaded.train.first(3)[0].shape[2:] == loaded.test().first(3)[0].shape[2:] == (24, 32)


def test_a_folders_batches_depend_on_the_step_alone(tmp_path: Path) -> None:
    root = folder_of_images(tmp_path / "images", split=False)
    recipe = folder_recipe(tmp_path, root, "data.shift=2")
    loaded = data.load(recipe)
    assert (len(loaded.train), len(loaded.validation), len(loaded.test())) == (18 - 6, 6, 6)

    def batches(first: int, last: int, rank: int = 0, world: int = 1, workers: int = 0) -> list[Any]:
        chosen = dataclasses.replace(recipe.data, workers=workers)
        source = Batches(loaded.train, chosen, 0, "float", 6, rank, world)
        return list(source.between(first, last))

    torch.manual_seed(5)
    state = torch.get_rng_state()
    straight = batches(0, 4)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    for found, (x, y) in zip([*batches(0, 1), *batches(1, 4)], straight, strict=True):
        assert torch.equal(found[0], x)
        assert torch.equal(found[1], y)
    for parts in zip(batches(0, 4, 0, 2), batches(0, 4, 1, 2), straight, strict=True):
        assert torch.equal(torch.cat([parts[0][0], parts[1][0]]), parts[2][0])
    if sys.version_info < (3, 12):  # later versions warn of fork in a process with threads
        for found, (x, _) in zip(batches(0, 4, workers=2), straight, strict=True):
            assert torch.equal(found[0], x)
    assert not torch.equal(straight[0][0], straight[2][0])


def test_the_seeds_of_an_epoch_are_made_when_they_are_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = folder_recipe(tmp_path, folder_of_images(tmp_path / "images", split=False))
    source = Batches(data.load(recipe).train, recipe.data, 0, "float", 2)
    made: list[tuple[int | str, ...]] = []

    def counted(*parts: int | str) -> int:
        made.append(parts)
        return data.key_of(*parts)

    monkeypatch.setattr("quasar_rt.train.batches.key_of", counted)
    batches = source.between(0, 4)
    next(batches)
    assert len(made) == 2
    assert len(list(batches)) == 3
    assert len(made) == 8


def packed(root: Path, out: Path, kind: str) -> str:
    """Packs a folder of images, and returns the name of the set."""
    if kind == "hf":
        library = pytest.importorskip("datasets", reason="needs the [datasets] extra")
        library.disable_progress_bars()
        table = library.load_dataset(str(root), cache_dir=str(out / "cache"))
        table.save_to_disk(out / "saved")
        return f"hf:{out / 'saved'}"
    pytest.importorskip("webdataset", reason="needs the [webdataset] extra")
    for part in ("train", "val"):
        pack(root / part, out / part, 8)
    return f"wds:{out}/train-{{000..002}}.tar#test={out}/val-*.tar"


@pytest.mark.parametrize("kind", ["wds", "hf"])
def test_packed_images_train_as_the_folder_does(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run on the packed images is stopped in mid-epoch and goes on."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = folder_of_images(tmp_path / "images", split=True)
    name = packed(root, tmp_path / "packed", kind)
    recipe = folder_recipe(tmp_path, root, "optimizer.batch=4")
    one, other = data.load(recipe), data.load(recipe, name)
    for mine, others in (
        (other.train, one.train),
        (other.validation, one.validation),
        (other.test(), one.test()),
    ):
        assert torch.equal(mine.first(24)[0], others.first(24)[0])
        assert torch.equal(mine.labels, others.labels)
    if sys.version_info < (3, 12):  # later versions warn of fork in a process with threads
        chosen = dataclasses.replace(recipe.data, workers=2)
        parts = [list(Batches(loaded.train, chosen, 0, "float", 4).between(1, 6)) for loaded in (one, other)]
        for mine, others in zip(*parts, strict=True):
            assert torch.equal(mine[0], others[0])
    recipe = dataclasses.replace(recipe, supernet_stage=dataclasses.replace(recipe.float_stage, epochs=1))
    train(recipe, tmp_path / "straight", log=quiet)
    with pytest.raises(Stopped, match="step 2 of 4"):
        train(recipe, tmp_path / "stopped", name, log=quiet, stop_after_steps=2)
    train(recipe, tmp_path / "stopped", name, log=quiet)
    weights = [torch.load(tmp_path / run / "float.pt")["model"] for run in ("straight", "stopped")]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())


def test_batches_in_memory_depend_on_the_step_alone() -> None:
    recipe = short("data.shift=1", "data.flip=true")
    split = data.load(recipe).train

    def batches(first: int, last: int, rank: int = 0, world: int = 1) -> list[Any]:
        return list(Batches(split, recipe.data, 0, "float", 31, rank, world).between(first, last))

    straight = batches(0, 7)
    for found, (x, y) in zip([*batches(0, 3), *batches(3, 7)], straight, strict=True):
        assert torch.equal(found[0], x)
        assert torch.equal(found[1], y)
    for parts in zip(*(batches(0, 7, rank, 3) for rank in range(3)), straight, strict=True):
        assert torch.equal(torch.cat([x for x, _ in parts[:3]]), parts[3][0])
    epoch = torch.cat([y for _, y in batches(0, 5)])
    assert len(epoch) == 155
    indices = torch.cat([Batches(split, recipe.data, 0, "float", 31).indices(step) for step in range(5)])
    assert len(set(indices.tolist())) == 155


def test_the_validation_images_are_not_trained_on() -> None:
    recipe = load_recipe("digits")
    one = data.load(recipe)
    assert isinstance(one.train, Split)

    def rows(split: Any) -> list[bytes]:
        return sorted(image.numpy().tobytes() for image in split.images)

    test = one.test()
    together = rows(one.train) + rows(one.validation) + rows(test)
    assert len(together) == 1797
    digits = pytest.importorskip("sklearn.datasets").load_digits().images
    assert sorted(together) == sorted(
        np.floor(image * (255 / 16) + 0.5).astype(np.uint8).tobytes() for image in digits
    )
    other = data.load(dataclasses.replace(recipe, seed=1))
    assert rows(other.validation) != rows(one.validation)
    assert rows(other.test()) == rows(test)
    assert other.identity != one.identity == data.load(recipe).identity


def test_missing_data_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QUASAR_RT_IMAGENET", raising=False)
    with pytest.raises(DatasetError, match=r"download ILSVRC2012 .* pass --data ROOT"):
        data.load(load_recipe("tiny"))
    with pytest.raises(MissingDatasetError, match=r"there is no folder .*none': .* ROOT/train/CLASS"):
        data.load(load_recipe("tiny"), tmp_path / "none")
    (tmp_path / "images" / "train" / "cat").mkdir(parents=True)
    with pytest.raises(DatasetError, match="one of 'train' and 'val' but not the other"):
        data.load(load_recipe("tiny"), tmp_path / "images")
    root = folder_of_images(tmp_path / "three", split=True)
    with pytest.raises(DatasetError, match="has 3 classes, the space 1000"):
        data.load(load_recipe("tiny"), root)
    (root / "val" / "dog").mkdir()
    Image.new("L", (9, 9)).save(root / "val" / "dog" / "a.png")
    with pytest.raises(DatasetError, match=r"is a class that .* lacks"):
        data.load(load_recipe("tiny"), root)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DatasetError, match="pip install scikit-learn"):
        data.load(load_recipe("digits"))
    with pytest.raises(DatasetError, match="dataset-fashion-mnist"):
        data.load(load_recipe("fashion-mnist"), tmp_path)
    monkeypatch.undo()
    with pytest.raises(DatasetError, match=r"the recipe trains on 'digits'.* --set data\.name='\"hf:a/b\"'"):
        data.load(load_recipe("digits"), "hf:a/b")
    with pytest.raises(DatasetError, match=r"data\.validation is 5000, but 'digits' has 1437"):
        data.load(load_recipe("digits", ["data.validation=5000"]))


def test_a_recipe_for_one_network_asks_for_it(tmp_path: Path) -> None:
    with pytest.raises(
        SettingsError, match=r"one network of the space 'fashion-mnist'.* --architecture FILE"
    ):
        train(load_recipe("fashion-mnist"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_cannot_be_read_is_named_on_one_line(tmp_path: Path, workers: int) -> None:
    if workers and sys.version_info >= (3, 12):
        pytest.skip("later versions warn of fork in a process with threads")
    root = folder_of_images(tmp_path / "images", split=True)
    recipe = folder_recipe(tmp_path, root, f"data.workers={workers}")
    loaded = data.load(recipe)
    for path in loaded.train.images if isinstance(loaded.train, FileSplit) else ():
        Path(path).write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"^'[^\n]*class\d/[\w-]+\.\w+' is not an image[^\n]*$"):
        list(Batches(loaded.train, recipe.data, 0, "float", 6).between(0, 1))


def test_a_subset_larger_than_the_training_set_is_refused() -> None:
    with pytest.raises(DatasetError, match=r"data\.subset is 1141, but 'digits' has 1140 training images"):
        data.load(load_recipe("digits", ["data.subset=1141"]))
    assert len(data.load(load_recipe("digits", ["data.subset=1140"])).train) == 1140


def test_a_folder_that_cannot_be_written_is_named_before_anything_is_trained(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match=r"nothing can be written to the folder '.*below'"):
        train(short(), tmp_path / "file" / "below", log=quiet)
    network = smallest(tmp_path / "network.json")
    out = ("--out", str(tmp_path / "file" / "below"))
    said = by_hand(tmp_path / "run", "--architecture", network, *out)
    assert said.exit_code == 2
    assert said.output.startswith("Error: nothing can be written to the folder")
    said = by_hand(tmp_path / "run", *out)
    assert said.exit_code == 2
    assert "--out goes with one network" in said.output
    said = by_hand(tmp_path / "run", "--embedding")
    assert said.exit_code == 2
    assert "--embedding goes with one network" in said.output
    # Neither does a batch that cannot be leave a folder.
    with pytest.raises(InvalidValueError, match=r"optimizer\.batch is 4000, but only 160"):
        train(short("optimizer.batch=4000"), tmp_path / "run", log=quiet)
    # Nor an init or a supernet that cannot be read.
    with pytest.raises(FileError, match=r"file' is no checkpoint of tensors"):
        train(short(f"init='{tmp_path / 'file'}'"), tmp_path / "run", log=quiet)
    inherit = ("--inherit", str(tmp_path / "nosuch.pt"), "--out", str(tmp_path / "out"))
    said = by_hand(tmp_path / "run", "--architecture", network, *inherit)
    assert said.exit_code == 2
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"WORLD_SIZE": "2"},
            "WORLD_SIZE is 2, but RANK, MASTER_ADDR, MASTER_PORT not set: start with torchrun",
        ),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost"}, "MASTER_PORT not set"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two', no whole number from 1 on"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0'"),
        ({"LOCAL_RANK": "-1"}, "LOCAL_RANK is '-1'"),
        (
            {"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"},
            "RANK is 2, but WORLD_SIZE 2",
        ),
    ],
)
def test_what_torchrun_sets_is_checked(
    variables: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(DistributedError, match=message):
        init_process_group("cpu")


def test_gray_images_serve_a_colour_space() -> None:
    space = Space.from_toml(Space.load("digits").to_toml().replace("channels = 1", "channels = 3"))
    loaded = data.load(load_recipe("digits"), space=space)
    images = loaded.train.first(5)[0]
    assert images.shape == (5, 3, 8, 8)
    assert torch.equal(images[:, 0], images[:, 2])


def test_shifts_move_whole_pixels_and_fill_with_zero() -> None:
    recipe = short("data.shift=2").data
    images = torch.arange(1, 145).to(torch.uint8).view(1, 1, 12, 12).expand(200, 1, 12, 12)
    moved = augment(images, recipe, torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(images[0, 0], (2,) * 4)
    possible = {padded[y : y + 12, x : x + 12].numpy().tobytes() for y in range(5) for x in range(5)}
    assert {image[0].numpy().tobytes() for image in moved} == possible


def test_mirroring_flips_about_half() -> None:
    recipe = short("data.flip=true").data
    one = torch.randint(0, 256, (1, 1, 12, 12), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    images = one.expand(400, 1, 12, 12)
    moved = augment(images, recipe, torch.Generator().manual_seed(0))
    mirrored = (moved == images.flip(-1)).flatten(1).all(dim=1)
    assert ((moved == images).flatten(1).all(dim=1) ^ mirrored).all()
    assert 150 < int(mirrored.sum()) < 250


def test_learning_rate_warms_up_and_ends_at_its_final_share() -> None:
    stage = load_recipe("fashion-mnist").float_stage
    rates = [learning_rate(stage, step, 1000) for step in range(1000)]
    assert max(rates) == pytest.approx(stage.learning_rate)
    assert rates[0] < 0.05 * stage.learning_rate
    assert rates[-1] == pytest.approx(stage.final * stage.learning_rate, rel=0.01)
    assert rates.index(max(rates)) == pytest.approx(50, abs=2)


def test_the_tool_trains_one_architecture(whole: Path, tmp_path: Path) -> None:
    inherit = ("--architecture", smallest(tmp_path / "network.json"), "--inherit", str(whole / "supernet.pt"))
    said = by_hand(tmp_path / "run", *inherit, "--embedding", "--out", str(tmp_path / "out"))
    assert said.exit_code == 0, said.output
    (subnet,) = (tmp_path / "out").glob("digits-*.qvit")
    assert Subnet.load(subnet).config["embed"] == 16
    assert Subnet.load(subnet).has_embedding
    assert "search" not in Subnet.load(subnet).config["provenance"]
    said = by_hand(tmp_path / "run", "--device", "warp")
    assert said.exit_code == 2
    assert said.output.startswith("Error: 'warp' is no device")


def test_the_tool_trains_what_a_search_found(whole: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"fps_of": "accelerator", "embedding": True, "population": 8, "generations": 2}
    search("digits", fps=110000, out=tmp_path / "search", **options)
    found = tmp_path / "search" / "digits-zcu102-110000fps.qvit"
    record = Subnet.load(found).config["provenance"]["search"]
    inherit = ("--architecture", str(found), "--inherit", str(whole / "supernet.pt"), "--name", "mine-1")
    said = by_hand(tmp_path / "run", *inherit, "--out", str(tmp_path / "out"))
    assert said.exit_code == 0, said.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["mine-1", "mine-1.qvit"]
    subnet = Subnet.load(tmp_path / "out" / "mine-1.qvit")
    assert (subnet.name, subnet.trained) == ("mine-1", True)
    assert subnet.has_embedding  # as the one that the search found
    assert subnet.config["provenance"]["search"] == record
    assert subnet.config["provenance"]["architecture"] == record["architecture"]
    card = (tmp_path / "out" / "mine-1" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("# Model card: mine-1\n")
    (line,) = [line for line in card.splitlines() if line.startswith("| found by |")]
    assert "zcu102 at 110,000 FPS" in line
    assert f"{record['modelled']['fps']:,.1f} FPS of the accelerator alone" in line


@pytest.mark.parametrize("name", ["", "a/b", "../a", ".a", "-a", "a b", "a\n", "a" * 101])
def test_a_name_that_is_no_file_name_is_refused(tmp_path: Path, name: str) -> None:
    said = by_hand(tmp_path / "run", f"--name={name}")
    assert said.exit_code == 2
    assert "--name must be at most 100 letters" in said.output
    assert not (tmp_path / "run").exists()


def test_a_seed_of_the_command_line_is_checked_as_the_recipes(tmp_path: Path) -> None:
    said = by_hand(tmp_path / "run", f"--seed={2**63}")
    assert said.exit_code == 2
    assert "seed must be in [0, 2^63)" in said.output
    assert not (tmp_path / "run").exists()


def test_the_tools_errors_are_one_line_whatever_they_quote(tmp_path: Path) -> None:
    said = by_hand(tmp_path / "run", "--set", "optimizer.batch=\n64\x1b[2J")
    assert said.exit_code == 2
    (line,) = said.output.splitlines()
    assert line.startswith(r"Error: 'optimizer.batch=\n64\x1b[2J' is not KEY=VALUE")


def test_half_of_the_random_networks_have_blocks_that_are_all_alike() -> None:
    space = Space.load("tiny")
    sampled = [sample_network(space, 0, step, k, 0.5) for step in range(200) for k in range(2)]
    alike = [a for a in sampled if len(set(a.blocks)) == 1 and len(set(a.blocks[0].eight_bit)) == 1]
    assert 160 <= len(alike) <= 240
    # Each corner is sampled: the largest embedding and depth with every row 4-bit, too.
    assert {a.blocks[0].eight_bit[0] for a in alike} == {0.0, 0.25, 0.5, 0.75, 1.0}
    for architecture in sampled:
        space.encode(architecture)
    assert sample_network(space, 0, 3, 1, 0.5) == sample_network(space, 0, 3, 1, 0.5)
    assert all(sample_network(space, 0, step, 0, 0.0) == space.sample(0, step, 0) for step in range(20))
