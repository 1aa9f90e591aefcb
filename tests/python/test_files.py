"""All writers on a full disk: each names the file and the reason, and the old file is unchanged."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest

from helpers import run
from quasar_rt import FileError, QuasarError, Subnet
from quasar_rt.files import MOST_TEXT_BYTES, read_small_text, replacing, write_bytes, write_text
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

    draw_timeline(replay(*design()), path, "digits")


def command(*arguments: str) -> Callable[[Path], None]:
    """Returns a writer that runs the command, of which an error is one line on stderr."""

    def write(path: Path) -> None:
        ended = run(*arguments, path, status=2)
        assert ended.output.count("\n") == 1, ended.output
        raise FileError(ended.output)

    return write


WRITERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "text": ("", lambda path: write_text(path, "new")),
    "bytes": ("", lambda path: write_bytes(path, b"new")),
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
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_leaves_the_old_file(name: str, tmp_path: Path, full_disk: FullDisk) -> None:
    needed, write = WRITERS[name]
    if needed:
        pytest.importorskip(needed)
    path = tmp_path / "old.png"
    path.write_bytes(b"old")
    with full_disk(2), pytest.raises(FileError, match=rf"{path}.*{REASON}"):
        write(path)
    assert contents(tmp_path) == {"old.png": b"old"}


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


def test_links_are_followed_and_modes_are_kept(tmp_path: Path) -> None:
    path, link = tmp_path / "folder" / "file", tmp_path / "link"
    path.parent.mkdir()
    link.symlink_to(path)
    before = os.umask(0o027)
    try:
        write_text(link, "new")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    path.chmod(0o600)
    write_text(link, "newer")
    assert link.is_symlink()
    assert path.read_text() == "newer"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


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
