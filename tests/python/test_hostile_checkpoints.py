"""No file of weights runs code, wherever a command or a function takes one, whatever timm's version does by itself."""

from __future__ import annotations

import argparse
import gc
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

torch = pytest.importorskip("torch", reason="needs the [host] extra")
timm = pytest.importorskip("timm", reason="needs the [host] extra")
from safetensors.torch import save_file  # noqa: E402

import quasar_rt  # noqa: E402
from quasar_rt import FileError, QuasarError  # noqa: E402
from quasar_rt.cli import cli  # noqa: E402
from quasar_rt.space import Space  # noqa: E402
from quasar_rt.train import checkpoint, load_recipe, load_supernet  # noqa: E402
from quasar_rt.train.data import Shape  # noqa: E402
from quasar_rt.train.model import ViT, ViTConfig  # noqa: E402
from quasar_rt.train.pretrained import load_timm  # noqa: E402
from quasar_rt.train.teacher import TRUSTED, load_teacher  # noqa: E402
from quasar_rt.weights import make_timm, read_weights  # noqa: E402
from small_networks import Code  # noqa: E402

MODEL = "vit_tiny_patch16_224"
ARCHITECTURE = Path(quasar_rt.__file__).parent / "train" / "recipes" / "digits.json"


def plain(evil, path):
    path.write_bytes(pickle.dumps(evil))


def archive(evil, path):
    torch.save({"state_dict": {"head.weight": torch.zeros(1)}, "args": evil}, path)


def legacy(evil, path):
    torch.save({"model": evil}, path, _use_new_zipfile_serialization=False)


def after_a_type_error(evil, path):
    """Stops torch's unpickler by a TypeError, on which versions of timm read the file again with Python's own."""
    # An OrderedDict, whose state is a pair: Python sets attributes, and torch updates a dictionary with the pair.
    odd = b"\x80\x02ccollections\nOrderedDict\n)R(N}tb0"
    path.write_bytes(odd + pickle.dumps(evil, 2)[2:])


WRITERS = (plain, archive, legacy, after_a_type_error)


def command(*arguments):
    """Returns a function that runs a command on a file; FILE stands for its path, PICTURES for a folder of images."""

    def run(path, pictures):
        places = {"FILE": str(path), "PICTURES": str(pictures), "OUT": str(pictures / "out.qvit")}
        words = [str(word) for word in arguments]
        for name, place in places.items():
            words = [word.replace(name, place) for word in words]
        done = CliRunner().invoke(cli, words)
        assert done.exit_code == 2, done.output
        assert "weights_only" not in done.stderr
        raise QuasarError(done.stderr)

    return run


def start(path, pictures):
    load_timm(ViT(ViTConfig.of(Space.load("digits"), (0.5,), (0.5,))), path)


def teacher(**keys):
    def run(path, pictures):
        changes = [f"teacher.{key}={value.replace('FILE', str(path))!r}" for key, value in keys.items()]
        load_teacher(load_recipe("digits", changes), Shape(8, 8, 1, 10), torch.device("cpu"))

    return run


def resume(path, pictures):
    run = pictures / "run"
    run.mkdir()
    path.rename(run / "float.pt")
    command("train", "--config", "digits", "--run", run)(path, pictures)


EXPORT = ("export", "--calibration", "PICTURES", "--out", "OUT", "--model", MODEL)
READERS: dict[str, Callable[[Path, Path], Any]] = {
    "export --checkpoint": command(*EXPORT, "--checkpoint", "FILE"),
    "eval --against": command("eval", "digits", "--data", "digits", "--against", "FILE", "--model", MODEL),
    # Arguments that timm takes for files of its own.
    "export --model-arg checkpoint_path": command(*EXPORT, "--pretrained", "--model-arg", "checkpoint_path=FILE",
                                                  "--model-arg", "pretrained_cfg_overlay={'file': 'FILE'}"),
    "make_timm": lambda path, _: make_timm(MODEL, checkpoint_path=str(path)),
    "read_weights": lambda path, _: read_weights(path),
    "train: init": start,
    "train: teacher.checkpoint": teacher(model="timm:vit_tiny_patch16_224", checkpoint="FILE"),
    "train: teacher.model": teacher(model="FILE"),
    "train: a run's folder": resume,
    "train --inherit": command("train", "--config", "digits", "--architecture", ARCHITECTURE, "--inherit", "FILE",
                               "--run", "PICTURES/run"),
    "search --supernet": command("search", "--supernet", "FILE", "--out", "PICTURES/search"),
    "load_supernet": lambda path, _: load_supernet(path),
    "checkpoint.load": lambda path, _: checkpoint.load(path),
}  # fmt: skip


@pytest.fixture
def pictures(tmp_path):
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "pictures" / "0.png")
    return tmp_path / "pictures"


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
@pytest.mark.parametrize("reader", READERS)
def test_code_in_a_checkpoint_is_not_run(reader, write, tmp_path, pictures, monkeypatch):
    monkeypatch.delenv(TRUSTED, raising=False)
    file = tmp_path / "evil.pth"
    write(Code(tmp_path / "made"), file)
    with pytest.raises(Exception) as caught:  # noqa: PT011 - what matters is that no code ran
        READERS[reader](file, pictures)
    assert not (tmp_path / "made").exists()
    if reader != "make_timm":  # timm has errors of its own
        assert isinstance(caught.value, QuasarError)
    assert "weights_only" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".npz", ".npy"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # timm leaves the file open
def test_objects_in_numpys_files_are_not_made(suffix, tmp_path, pictures):
    objects = np.array([Code(tmp_path / "made")], object)
    path = tmp_path / f"evil{suffix}"
    np.savez(path, **{"embedding/kernel": objects}) if suffix == ".npz" else np.save(path, objects)
    with pytest.raises(QuasarError, match="does not hold the weights"):
        READERS["export --checkpoint"](path, pictures)
    gc.collect()
    assert not (tmp_path / "made").exists()


def test_a_folder_that_timm_takes_for_a_model_runs_no_code(tmp_path, pictures):
    place = tmp_path / "model"
    place.mkdir()
    (place / "config.json").write_text(json.dumps({"architecture": MODEL, "pretrained_cfg": {}}))
    archive(Code(tmp_path / "made"), place / "pytorch_model.bin")
    run = command(*EXPORT, "--pretrained", "--model", f"local-dir:{place}")
    with pytest.raises(QuasarError, match=r"holds more than tensors .code in a file is not run"):
        run(place, pictures)
    assert not (tmp_path / "made").exists()


def test_a_checkpoint_that_timm_downloads_runs_no_code(tmp_path):
    archive(Code(tmp_path / "made"), tmp_path / "evil.pth")
    # As timm does after a TypeError.
    with pytest.raises(pickle.UnpicklingError):
        timm.models._builder.load_state_dict_from_url(
            (tmp_path / "evil.pth").as_uri(), model_dir=tmp_path / "cache"
        )
    assert not (tmp_path / "made").exists()


def hostile_program(path, evil):
    """Writes a file of torch.export whose example is code."""
    program = torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(2, 2),))
    torch.export.save(program, path.with_suffix(".good"))
    with zipfile.ZipFile(path.with_suffix(".good")) as good, zipfile.ZipFile(path, "w") as bad:
        for name in good.namelist():
            data = good.read(name)
            if name.endswith("sample_inputs/model.pt"):
                torch.save(evil, buffer := io.BytesIO())
                data = buffer.getvalue()
            bad.writestr(name, data)


def test_a_program_is_a_teacher_only_if_the_user_trusts_just_this_file(tmp_path, pictures, monkeypatch):
    path = tmp_path / "evil.pt2"
    hostile_program(path, Code(tmp_path / "made"))
    for trusted in ("", str(tmp_path / "evil.good"), "1"):
        monkeypatch.setenv(TRUSTED, trusted)
        with pytest.raises(FileError, match=f"is a program, .* set {TRUSTED}=.*evil.pt2"):
            READERS["train: teacher.model"](path, pictures)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "reader", [name for name in READERS if "timm" not in name and "model-arg" not in name]
)
@pytest.mark.parametrize("suffix", [".pth", ".npz", ".safetensors"])
def test_a_pipe_is_not_waited_for_where_weights_are_expected(reader, suffix, tmp_path, pictures, waits):
    path = tmp_path / f"pipe{suffix}"
    with waits(path), pytest.raises((OSError, QuasarError), match="not a regular file"):
        READERS[reader](path, pictures)


def test_tensors_are_whole(tmp_path):
    """A file of a few bytes may claim to be of any size."""
    for name, tensor in {
        "expanded": torch.zeros(1).expand(1 << 40),
        "meta": torch.zeros(1 << 40, device="meta"),
        "sparse": torch.zeros(2).to_sparse(),
        "a number": 1,
    }.items():
        torch.save({"model": {"head.weight": tensor}}, tmp_path / name)
        with pytest.raises(FileError, match=f"'.*{name}' is no checkpoint of tensors"):
            read_weights(tmp_path / name)


def test_the_weights_of_a_trainings_checkpoint_are_found(tmp_path):
    one, two = {"a": torch.ones(2)}, {"a": torch.zeros(2)}
    for number, (state, expected) in enumerate(
        [
            (one, one),
            ({"model": one, "epoch": 3, "args": argparse.Namespace(lr=0.1)}, one),
            ({"state_dict": {"module._orig_mod.a": one["a"]}}, one),
            ({"state_dict": one, "state_dict_ema": two}, two),
            ({"model": one, "model_ema": two}, two),
            ({"model": one, "model_ema": None}, one),
        ]
    ):
        torch.save(state, tmp_path / str(number))
        found = read_weights(tmp_path / str(number))
        assert found.keys() == expected.keys()
        assert torch.equal(found["a"], expected["a"])
    save_file(one, tmp_path / "a.safetensors")
    assert torch.equal(read_weights(tmp_path / "a.safetensors")["a"], one["a"])
