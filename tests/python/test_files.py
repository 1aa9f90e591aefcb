"""All writers: what they do with a file or a link that is there, with inputs in their folder, and on a full disk."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest

from helpers import run
from quasar_rt import FileError, QuasarError, Subnet
from quasar_rt.files import MOST_TEXT_BYTES, read_small_text, replacing, write_text
from quasar_rt.hardware import Board, Hardware, Workload, estimate, replay
from quasar_rt.image_sets.base import Name, read_class_names
from quasar_rt.nas import folder as search_folder
from quasar_rt.nas import search
from quasar_rt.pictures import draw_confusion
from quasar_rt.space import Space
from quasar_rt.tracking import open_tracker
from quasar_rt.train.architecture_file import load_architecture
from quasar_rt.train.recipe import load_recipe

FullDisk: TypeAlias = "Callable[[int], AbstractContextManager[None]]"
#: Of a write beyond the limit that stands for a full disk.
REASON = os.strerror(errno.EFBIG)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@cache
def design() -> tuple[Workload, Hardware]:
    workload = Workload.of_subnet(Subnet.load("digits"))
    return workload, Hardware.for_board("ultra96v2", workload)


def modelled(path: Path) -> None:
    from quasar_rt.hardware.pictures import draw

    draw(estimate(*design()), path)


def timeline(path: Path) -> None:
    from quasar_rt.hardware.pictures import draw_timeline

    draw_timeline(replay(*design()), path, "digits", cycles=4000)


def command(*arguments: str) -> Callable[[Path], None]:
    """Returns a writer that runs the command, of which an error is one line on stderr."""

    def write(path: Path) -> None:
        ended = run(*arguments, path, status=None)
        if ended.exit_code:
            assert (ended.exit_code, ended.output.count("\n")) == (2, 1), ended.output
            raise FileError(ended.output)

    return write


SEARCH = "search --space digits --fps 18000 --fps-of accelerator --population 8 --generations 2"
WRITERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "text": ("", lambda path: write_text(path, "# Written by quasar-rt\n")),
    "subnet": ("", lambda path: Subnet.load("digits").save(path)),
    "folder of a subnet": (
        "",
        lambda path: Subnet.load("digits").save_pretrained(path.parent, filename=path.name),
    ),
    "configuration": ("", lambda path: design()[1].save(path)),
    "estimate --save": ("", command("estimate", "digits", "--save")),
    "confusion matrix": ("matplotlib", lambda path: draw_confusion(np.eye(3, dtype=np.int64), "abc", path)),
    "estimate": ("matplotlib", modelled),
    "timeline": ("matplotlib", timeline),
    "ONNX": ("onnx", lambda path: Subnet.load("digits").to_onnx(path)),
    "onnx": ("onnx", command("onnx", "digits", "--out")),
}

#: Other commands, which write to OUT, and results whose place a foreign file may have. NETWORK is a folder of a small
#: network, PHOTOS one of pictures by class, ONE an architecture.
COMMANDS: dict[str, tuple[str, str]] = {
    "eval": ("eval digits --data digits --limit 20 --confusion OUT/found.csv", "found.csv"),
    "export": (
        "export --model NETWORK --calibration PHOTOS --embedding --images 4 --report --out OUT/mine.qvit",
        "mine.qvit mine.report.json",
    ),
    "teach": ("teach PHOTOS --model NETWORK --image-size 20 --out OUT/mine.qvit", "mine.qvit"),
    "fit": (
        "fit --model NETWORK --calibration PHOTOS --embedding --images 8 --curve 2 --out OUT",
        "report.json hardware.toml fit.png",
    ),
    "search": (f"{SEARCH} --board zcu102 --out OUT", "index.html"),
    "boards": (f"{SEARCH} --board zcu102 --board kv260 --out OUT", "boards.json boards.csv index.html"),
    "train": (
        "train --config digits --architecture ONE --threads 1 --set data.subset=200 --set optimizer.batch=32 "
        "--set float_stage.epochs=1 --set quantized_stage.epochs=1 --set quantization.scoring=64 "
        "--set quantization.calibration=64 --run OUT/run --out OUT --name mine",
        "run/log.csv run/curves.png mine.qvit mine/README.md mine/confusion.png",
    ),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_writer_replaces_its_own_kind_of_file_follows_no_link_and_may_find_the_disk_full(
    name: str, tmp_path: Path, full_disk: FullDisk
) -> None:
    needed, write = WRITERS[name]
    if needed:
        pytest.importorskip(needed)
    path, link = tmp_path / "a.png", tmp_path / "link.png"
    path.write_bytes(b"a photograph")
    with pytest.raises(FileError, match=rf"{path}.*it exists and is no .*: remove it"):
        write(path)
    assert contents(tmp_path) == {"a.png": b"a photograph"}
    path.write_bytes(b"")
    path.chmod(0o640)
    write(path)
    own = path.read_bytes()
    write(path)
    assert path.read_bytes()[:64] == own[:64]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    own = path.read_bytes()
    with full_disk(2), pytest.raises(FileError, match=rf"{path}.*{REASON}"):
        write(path)
    link.symlink_to(path.name)
    with pytest.raises(FileError, match=rf"{link}.*it is a symbolic link, and no link is followed"):
        write(link)
    assert link.is_symlink()
    assert contents(tmp_path) == {"a.png": own, "link.png": own}


def test_a_file_of_another_kind_is_not_replaced_and_a_link_to_nothing_makes_nothing(tmp_path: Path) -> None:
    path, link = tmp_path / "a", tmp_path / "link"
    write_text(path, "# Written by quasar-rt\n")
    with pytest.raises(FileError, match="it exists and is no log that quasar-rt wrote"):
        write_text(path, "stage,epoch,steps,loss\n")
    link.symlink_to("missing")
    with pytest.raises(FileError, match="it is a symbolic link"):
        write_text(link, "new")
    assert contents(tmp_path) == {"a": b"# Written by quasar-rt\n"}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_replaces_only_its_own_results_and_follows_no_link(
    name: str, tmp_path: Path, small_network: Path, photos: Path
) -> None:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    line, results = COMMANDS[name]
    space, one = Space.load("digits"), tmp_path / "one.json"
    one.write_text(json.dumps(space.decode(space.smallest).to_dict()))
    for place, path in {"NETWORK": small_network, "PHOTOS": photos, "ONE": one}.items():
        line = line.replace(place, str(path))
    for _ in "first run", "the same again":
        (tmp_path / "out").mkdir(exist_ok=True)
        run(*line.replace("OUT", str(tmp_path / "out")).split())
        assert all((tmp_path / "out" / result).stat().st_size for result in results.split())
    photograph = tmp_path / "photograph"
    photograph.write_bytes(b"a photograph")
    for number, (result, link) in enumerate(product(results.split(), (False, True))):
        folder = tmp_path / str(number)
        path = folder / result
        path.parent.mkdir(parents=True)
        path.symlink_to(photograph) if link else path.write_bytes(b"a photograph")
        refused = run(*line.replace("OUT", str(folder)).split(), status=2).stderr
        assert re.search(rf"'{path}' cannot be written: it|holds other files and no search", refused)
        assert [found for found in folder.rglob("*") if found.is_file()] == [path]
        assert path.read_bytes() == b"a photograph"
        assert path.is_symlink() == link


def test_a_search_follows_no_link_in_its_own_folder(tmp_path: Path) -> None:
    search_folder.Folder(tmp_path, {"seed": 1}).close()
    (tmp_path / "photograph").write_bytes(b"a photograph")
    (tmp_path / "scores.jsonl").symlink_to("photograph")
    with pytest.raises(search_folder.SearchFolderError, match=r"scores\.jsonl' is a symbolic link"):
        search_folder.Folder(tmp_path, {"seed": 1})
    assert (tmp_path / "photograph").read_bytes() == b"a photograph"


def test_results_do_not_go_among_the_inputs(tmp_path: Path, small_network: Path, photos: Path) -> None:
    before = contents(photos)
    for folder in (photos, photos.parent):
        for words in (
            ("fit", "--model", small_network, "--calibration", photos, "--embedding", "--out", folder),
            ("train", "--config", "tiny", "--data", photos, "--run", folder),
        ):
            assert f"the folder '{folder}' is or holds the input '{photos}" in run(*words, status=2).stderr
    assert contents(photos) == before


def test_a_disk_that_turns_out_full_when_it_is_synced_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileError) as caught:
        write_text(path, "new")
    assert str(caught.value) == f"'{path}' cannot be written: No space left on device"
    assert caught.value.errno == errno.ENOSPC
    with (
        pytest.raises(FileError, match=r"No space left on device; free some space: go on$"),
        replacing(path, "go on"),
    ):
        pass
    assert contents(tmp_path) == {"file": b"old"}


def test_what_else_fails_while_a_file_is_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write() -> None:
        with replacing(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert contents(tmp_path) == {"file": b"old"}


def test_a_new_file_takes_no_place_that_was_taken_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_hard_links(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    for number in range(2):
        path = tmp_path / f"{number}"
        with pytest.raises(FileError, match="cannot be written"), replacing(path):
            path.write_bytes(b"another's")
        assert path.read_bytes() == b"another's"
        monkeypatch.setattr(os, "link", without_hard_links)
    write_text(tmp_path / "2", "new")
    assert sorted(contents(tmp_path)) == ["0", "1", "2"]


def test_what_is_no_regular_file_is_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (tmp_path, pipe):
        with pytest.raises(FileError, match="cannot be written: it exists and is not a regular file"):
            write_text(path, "new")
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_search_on_a_full_disk_leaves_its_old_results(tmp_path: Path, full_disk: FullDisk) -> None:
    result = search(
        "digits", fps=[60_000], fps_of="accelerator", population=8, generations=2, out=tmp_path / "out"
    )
    before = contents(tmp_path)
    sizes = sorted({len(data) for data in before.values()})
    assert {"front.json", "index.html"} <= {Path(name).name for name in before}
    for size in (0, *(size - 1 for size in sizes if size)):
        with full_disk(size):
            # A size that only the scores exceed is enough for the results.
            if size >= max(len(data) for name, data in before.items() if "scores" not in name):
                continue
            with pytest.raises(FileError, match=rf"{tmp_path}/out/\S+.*{REASON}"):
                result.save(tmp_path / "out")
        assert contents(tmp_path) == before


def test_scores_that_do_not_fit_the_disk_do_not_spoil_those_that_do(
    tmp_path: Path, full_disk: FullDisk
) -> None:
    path = tmp_path / "out"
    folder = search_folder.Folder(path, {"seed": 1})
    folder.put("kind", {b"one": 1})
    before = contents(path)
    message = rf"scores\.jsonl' cannot be written: {REASON}; .*: the same search continues"
    # The disk takes a part of the line.
    with full_disk(len(before["scores.jsonl"]) + 5), pytest.raises(FileError, match=message):
        folder.put("kind", {b"two": 2})
    assert contents(path) == before
    folder.put("kind", {b"three": 3})
    folder.close()
    again = search_folder.Folder(path, {"seed": 1})
    assert [again.get("kind", genome, 9) for genome in (b"one", b"two", b"three")] == [1, None, 3]


@pytest.mark.skipif(find_spec("torch") is None, reason="needs the [host] extra")
def test_tensorboards_files_on_a_full_disk_are_named_without_a_traceback(
    tmp_path: Path, full_disk: FullDisk, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard")
    tracker = open_tracker("tensorboard", tmp_path, {})
    message = rf"TensorBoard's files in '{tmp_path}/tensorboard' cannot be written: {REASON}"
    with full_disk(0):
        tracker.scalars("float/step", 1, {"loss": 1.0})
        with pytest.raises(FileError, match=message):
            tracker.close()
    assert "Traceback" not in capfd.readouterr().err


def read_classes(path: Path) -> object:
    return read_class_names(Name.parse(f"wds:shard.tar#classes={path}", "wds", ["classes"]))


READERS: dict[str, Callable[[Path], object]] = {
    "text": read_small_text,
    "space": Space.load,
    "board": Board.load,
    "hardware": Hardware.load,
    "architecture": load_architecture,
    "class names": read_classes,
}


@pytest.mark.parametrize("kind", READERS)
def test_a_pipe_is_not_waited_for_where_a_text_file_is_expected(
    kind: str, tmp_path: Path, waits: Any
) -> None:
    path = tmp_path / "pipe.toml"
    with waits(path), pytest.raises((OSError, QuasarError), match="not a regular file"):
        READERS[kind](path)


@pytest.mark.parametrize("kind", [*READERS, "recipe"])
def test_text_files_have_a_limit(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "large.toml"
    path.write_bytes(b"#" * (MOST_TEXT_BYTES + 1))
    with pytest.raises((OSError, QuasarError), match="larger than 1,048,576 bytes"):
        {**READERS, "recipe": load_recipe}[kind](path)
    path.write_bytes(b"#" * MOST_TEXT_BYTES)
    assert len(read_small_text(path)) == MOST_TEXT_BYTES


def test_folders_and_missing_files_are_refused_as_text(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        read_small_text(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_small_text(tmp_path / "missing")
