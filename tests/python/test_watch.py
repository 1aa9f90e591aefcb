"""quasar-rt watch: folders, cameras, outputs, and ends."""

import configparser
import errno
import io
import json
import os
import pty
import re
import select
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import pytest
from PIL import Image

import quasar_rt
from helpers import COMMAND, run, wait_until
from quasar_rt import Engine, Frame
from quasar_rt.packaged import sample_images
from quasar_rt.watch import CameraError, CameraSource, FolderSource, open_source, sightings
from quasar_rt.watch.live import thumbnail

SAMPLES = sorted(sample_images("fashion-mnist"), key=lambda sample: sample.path.name)
SECONDS = 20


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "incoming"
    folder.mkdir()
    return folder


def add(folder, place, name=None):
    path = folder / (name or SAMPLES[place].path.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(SAMPLES[place].path, path)
    return path


watch = partial(run, "watch")


class Collect:
    """Iterates over a source in a thread."""

    def __init__(self, source):
        self.found, self.error = [], None
        threading.Thread(target=self._run, args=(source,), daemon=True).start()

    def _run(self, source):
        try:
            iter_into(self.found, source)
        except Exception as error:
            self.error = error

    def wait(self, count):
        wait_until(lambda: len(self.found) >= count or self.error, SECONDS)
        return [path.name for path in self.found]


# Folders.


def test_a_folder_gives_what_comes_and_nothing_else(folder):
    add(folder, 0, "before.png")
    source = FolderSource(folder, interval=0.02)
    add(folder, 1, "meanwhile.png")  # before the first scan of the iterator
    collect = Collect(source)
    assert collect.wait(1) == ["meanwhile.png"]
    (folder / "notes.txt").write_text("no image")
    add(folder, 2, ".hidden.png")
    add(folder, 2, ".folder/hidden.png")
    add(folder, 2, "deep/er/new.JPG")
    assert collect.wait(2) == ["meanwhile.png", "new.JPG"]
    add(folder, 3, "before.png")  # changed
    (folder / "meanwhile.png").unlink()
    assert collect.wait(3)[2:] == ["before.png"]
    time.sleep(0.2)
    add(folder, 1, "meanwhile.png")  # there again
    assert collect.wait(4)[3:] == ["meanwhile.png"]
    time.sleep(0.2)
    assert len(collect.found) == 4
    shutil.rmtree(folder)
    wait_until(lambda: collect.error, SECONDS)
    assert "is gone" in str(collect.error)


def test_a_file_is_left_alone_while_it_is_written(folder):
    collect = Collect(FolderSource(folder, interval=0.4))
    data = SAMPLES[0].path.read_bytes()
    with (folder / "slow.png").open("wb") as file:
        for start in range(0, len(data), len(data) // 8 + 1):
            file.write(data[start : start + len(data) // 8 + 1])
            file.flush()
            time.sleep(0.03)
            assert not collect.found
    assert collect.wait(1) == ["slow.png"]


@pytest.fixture
def failing(monkeypatch):
    """Returns a set: folders in it cannot be listed."""
    failing, scandir = set(), os.scandir

    def failing_scandir(path):
        if Path(path) in failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", failing_scandir)
    return failing


@pytest.mark.parametrize("part", [".", "sub", "sub/folder"])
def test_a_folder_that_fails_and_comes_back_gives_only_what_is_new(folder, failing, part):
    add(folder, 0, "sub/folder/old.png")
    source, problems = FolderSource(folder, existing=True, interval=0.02), []
    source.on_problem = problems.append
    collect = Collect(source)
    add(folder, 1, "sub/folder/first.png")
    assert collect.wait(2) == ["old.png", "first.png"]
    failing.add(folder / part)
    add(folder, 2, "sub/folder/second.png")
    time.sleep(0.3)
    assert len(collect.found) == 2
    add(folder, 3, "sub/folder/first.png")
    failing.clear()
    assert sorted(collect.wait(4)[2:]) == ["first.png", "second.png"]
    time.sleep(0.2)
    assert len(collect.found) == 4
    assert problems == [f"cannot read '{folder / part}': Input/output error; trying again", None]


def test_what_cannot_be_read_at_the_start_is_not_new(folder, failing):
    add(folder, 0, "sub/folder/old.png")
    failing.update((folder / "sub", folder / "sub/folder"))
    collect = Collect(FolderSource(folder, interval=0.02))
    add(folder, 1, "new.png")
    assert collect.wait(1) == ["new.png"]
    failing.discard(folder / "sub")
    time.sleep(0.2)
    failing.clear()
    time.sleep(0.2)
    add(folder, 1, "sub/folder/new.png")
    assert collect.wait(2) == ["new.png", "new.png"]
    failing.add(folder)
    with pytest.raises(OSError, match="Input/output error"):
        FolderSource(folder)


def test_what_cannot_be_read_is_reported(folder):
    add(folder, 0)
    loop = folder / "z-loop.png"
    loop.symlink_to(loop.name)
    problem = f"cannot read '{loop}': Too many levels of symbolic links"
    result = watch(folder, "--once", status=1)
    assert "Ankle boot" in result.stdout
    assert f"{problem}\n" in result.stderr


def test_a_vanished_file_is_left_out_and_a_bad_one_is_an_error(folder):
    good, gone = add(folder, 0, "a.png"), add(folder, 1, "b.png")
    (folder / "c.png").write_bytes(b"none")

    class Vanishing(FolderSource):
        def __iter__(self):
            for path in super().__iter__():
                if path == gone:
                    path.unlink()
                yield path

    with Engine("fashion-mnist", metrics=True) as engine:
        first, second = sightings(engine, Vanishing(folder, once=True), top_k=2)
        assert first.image == "a.png"
        assert first.prediction == engine.infer(good, top_k=2)
    assert (second.image, second.prediction) == ("c.png", None)
    assert "not an image" in second.error
    assert json.loads(json.dumps(second.to_dict())).keys() == {"image", "time", "dropped", "error"}


def test_a_devices_faults_are_errors_of_images_until_there_are_ten(folder, monkeypatch):
    for place in range(12):
        add(folder, place % len(SAMPLES), f"{place:02}.png")
    with Engine("fashion-mnist", "cpu") as engine:
        outcomes = iter([False, True, *[False] * 10])

        def infer(self, image, **arguments):
            if next(outcomes):
                return prediction
            raise quasar_rt.DeviceFaultError("a fault")

        prediction = engine.infer(SAMPLES[0].path)
        monkeypatch.setattr(Engine, "infer", infer)
        found = []
        with pytest.raises(quasar_rt.DeviceFaultError):
            iter_into(found, sightings(engine, FolderSource(folder, once=True)))
    assert [sighting.error for sighting in found] == ["a fault", None, *["a fault"] * 9]


def iter_into(found, items):
    """Appends the items; those before an error are kept."""
    for item in items:
        found.append(item)


# The command.


def test_once_prints_a_line_an_image_and_the_counters(folder):
    for place in range(3):
        add(folder, place)
    result = watch(folder, "--once")
    lines = result.stdout.splitlines()
    assert [line.split("  ")[:2] for line in lines] == [
        [sample.path.name, label]
        for sample, label in zip(SAMPLES[:3], ("Ankle boot", "Pullover", "Trouser"), strict=True)
    ]
    assert re.search(r"^3 images · .*p50 .*0 dropped · 0 errors$", result.stderr, re.MULTILINE)


def test_json_lines_are_the_predictions_and_a_bad_image_exits_with_1(folder):
    add(folder, 0, "a.png")
    (folder / "b\x7f.png").write_bytes(b"none")
    result = watch(folder, "--once", "--json", "--top-k", 1, status=1)
    assert "\x7f" not in result.stdout
    good, bad = map(json.loads, result.stdout.splitlines())
    with Engine("fashion-mnist") as engine:
        expected = engine.infer(folder / "a.png", top_k=1).to_dict()
    assert {key: good[key] for key in ("label", "index", "probability", "top_k")} == {
        key: expected[key] for key in ("label", "index", "probability", "top_k")
    }
    assert good["image"] == "a.png"
    assert bad["image"] == "b\x7f.png"
    assert "not an image" in bad["error"]
    watch(folder, "--once", "--limit", 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "no folder or video 'nowhere'"),
        ([SAMPLES[0].path], "quasar-rt infer"),
        (["--size", "10x10", "."], "--size is for cameras"),
        (["--size", "10", "."], "no size such as 1280x720"),
        (["--port", "1", "."], "add --web"),
        (["--web", "--host", "0.0.0.0", "."], "token of 16 characters"),
        (["0"], "pip install 'quasar-rt[camera]'"),
    ],
)
def test_wrong_usage_is_named(arguments, message, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    result = watch(*arguments, status=2)
    assert message in " ".join(result.stderr.split())


class Running:
    """The command in a process of its own."""

    def __init__(self, *arguments, **options):
        command = [*COMMAND, "watch", *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        self.process = subprocess.Popen(command, text=True, **pipes)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_signals_end_it_cleanly(folder, sent, status):
    pytest.importorskip("uvicorn")
    add(folder, 0)
    with Running(folder, "--existing", "--json", "--web", "--port", 0) as running:
        assert json.loads(running.process.stdout.readline())["label"] == "Ankle boot"
        running.process.send_signal(sent)
        stdout, stderr = running.process.communicate(timeout=SECONDS)
    assert (running.process.returncode, stdout) == (status, "")
    assert re.fullmatch(r"Page: http://127\.0\.0\.1:\d+/\n(Interrupted\n)?", stderr)


@contextmanager
def in_terminal(*arguments, **environment):
    """Runs the command in a terminal; gives it and the terminal."""
    terminal, other = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", **environment}
    with Running(*arguments, stdout=other, stderr=other, stdin=other, env=environment) as running:
        os.close(other)
        yield running.process, terminal
    os.close(terminal)


def read_to_end(terminal):
    """Returns what a program still writes to its terminal, until it closes it or writes nothing for long."""
    written = b""
    while select.select([terminal], [], [], SECONDS)[0]:
        try:
            piece = os.read(terminal, 4096)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        written += piece
    return written.decode()


def test_a_terminal_gets_a_live_view(folder):
    add(folder, 0)
    (folder / "z\x1b[2J.png").write_bytes(b"none")
    (folder / "loop.png").symlink_to("loop.png")
    screen = ""
    with in_terminal(folder, "--existing", COLUMNS="100", LINES="30") as (process, terminal):
        deadline = time.monotonic() + SECONDS
        while not ("2J.png" in screen and "1 error" in screen) and time.monotonic() < deadline:
            screen += os.read(terminal, 4096).decode()
        process.send_signal(signal.SIGINT)
        screen += read_to_end(terminal)
        assert process.wait(SECONDS) == 130
    with Engine("fashion-mnist") as engine:
        percent = f"{engine.infer(SAMPLES[0].path).probability:.1%}"
    for text in ("waiting for the first image", "Ankle boot", percent, "p99", "dropped", "Ctrl-C ends"):
        assert text in screen
    assert "\x1b[31mcannot read " in screen
    assert "\x1b[2J" not in screen  # a file's name does not clear the screen
    assert "\x1b[?25h" in screen.rsplit("Ctrl-C ends", 1)[1]  # the cursor is back
    assert re.search(
        r"cannot read '.*loop.png': .*; trying again\r\n1 image · .*1 error\r\n.*Interrupted",
        screen.split("\x1b[?25h")[-1],
        re.DOTALL,
    )


# Cameras.


@pytest.fixture
def clip(tmp_path):
    cv2 = pytest.importorskip("cv2")
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for shade in range(0, 200, 20):
        writer.write(np.full((48, 64, 3), (shade, 0, 200 - shade), np.uint8))
    writer.release()
    return path


def test_a_stdout_without_the_views_signs_gets_others(clip):
    with in_terminal(clip, "--limit", 2, PYTHONIOENCODING="ascii") as (process, terminal):
        screen = read_to_end(terminal)
        assert process.wait(SECONDS) == 0
    assert re.search(r"\d images? \? \d", screen)


def test_a_video_is_classified_frame_by_frame_to_its_end(clip):
    result = watch(clip, "--json")
    documents = [json.loads(line) for line in result.stdout.splitlines()]
    assert [document["image"] for document in documents] == [f"frame {place}" for place in range(10)]
    assert {document["dropped"] for document in documents} == {0}
    assert len(watch(clip, "--once", "--json").stdout.splitlines()) == 1
    assert "a video has its own" in watch("--size", "10x10", clip, status=2).stderr


def test_a_videos_frames_are_bgr(clip):
    source = CameraSource(str(clip))
    frames = list(source)
    source.close()
    assert {(frame.format, frame.width, frame.height) for frame in frames} == {("bgr", 64, 48)}
    picture = np.asarray(Image.open(io.BytesIO(thumbnail(frames[0]))))
    assert picture.shape == (48, 64, 3)
    assert picture[..., 0].mean() > 180
    assert picture[..., 2].mean() < 20


class FakeCapture:
    """Stands for cv2.VideoCapture of a camera: a frame every few milliseconds, then a failure."""

    made = None
    frames = 30

    def __init__(self, source, backend):
        self.source, self.backend, self.settings, self.given, self.released = source, backend, {}, 0, False
        type(self).made = self

    def isOpened(self):
        return True

    def set(self, key, value):
        self.settings[key] = value

    def read(self):
        assert not self.released
        time.sleep(0.005)
        self.given += 1
        if self.given > self.frames:
            return False, None
        return True, np.full((48, 64, 3), self.given, np.uint8)

    def release(self):
        self.released = True


@pytest.fixture
def camera(monkeypatch):
    cv2 = pytest.importorskip("cv2")
    monkeypatch.setattr(cv2, "VideoCapture", FakeCapture)
    return cv2


def test_a_slow_network_gets_a_cameras_newest_frame(camera, monkeypatch):
    native = Engine._finish
    monkeypatch.setattr(Engine, "_finish", lambda *arguments: (time.sleep(0.03), native(*arguments))[1])
    with Engine("fashion-mnist", metrics=True) as engine:
        source = open_source("0", size=(64, 48))
        found = []
        with pytest.raises(CameraError, match="no frame after 30 frames: is it unplugged"):
            iter_into(found, sightings(engine, source))
        source.close()
        assert engine.metrics().dropped == found[-1].dropped > 0
        assert len(found) + found[-1].dropped == 30
    capture = FakeCapture.made
    assert capture.released
    assert capture.source == 0
    assert capture.settings[camera.CAP_PROP_FRAME_WIDTH] == 64
    assert found[-1].image == "frame 29"
    # The picture is the one that was classified.
    for sighting in found:
        assert isinstance(sighting.source, Frame)
        assert sighting.source.data[0] == int(sighting.image.removeprefix("frame ")) + 1
    assert [s.dropped for s in found] == sorted(s.dropped for s in found)


def test_a_cameras_stream_goes_on_after_a_devices_fault(camera, monkeypatch):
    native, calls = Engine._finish, iter(range(1000))

    def finish(*arguments):
        if next(calls) == 2:
            raise quasar_rt.DeviceFaultError("a fault")
        return native(*arguments)

    monkeypatch.setattr(Engine, "_finish", finish)
    found = []
    with Engine("fashion-mnist") as engine, pytest.raises(CameraError, match="no frame"):
        iter_into(found, sightings(engine, open_source("0")))
    assert [s.error for s in found[:5]] == [None, None, "a fault", None, None]
    assert len(found) > 5


def test_the_commands_camera_is_freed(camera):
    result = watch("0", "--limit", 3, "--json")
    assert len(result.stdout.splitlines()) == 3
    assert FakeCapture.made.released
    watch("0", status=2)


def test_a_camera_that_is_not_there_is_named():
    pytest.importorskip("cv2")
    for name in ("97", "/dev/video97"):
        with pytest.raises(CameraError, match=r"cannot open.*there is no /dev/video97 \(there are: "):
            CameraSource(name)


# The systemd unit.

UNIT = Path(__file__).parents[2] / "docs/quasar-watch.service"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_the_systemd_unit_is_valid(tmp_path):
    path = tmp_path / UNIT.name
    path.write_text(UNIT.read_text("utf-8").replace("/opt/quasar/bin/quasar-rt", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_systemd_units_commands_watch_the_folder_that_they_make(tmp_path):
    pytest.importorskip("uvicorn")
    unit = configparser.ConfigParser(interpolation=None, delimiters="=")
    unit.optionxform = str
    unit.read(UNIT, "utf-8")
    unit = unit["Service"]
    assert unit["Restart"] == "always"
    assert unit["SupplementaryGroups"].split()[0] == "quasar-incoming"
    prepare = shlex.split(unit["ExecStartPre"].removeprefix("+"))
    start = shlex.split(unit["ExecStart"])
    assert prepare[-3:] == ["-g", "quasar-incoming", start[-1]]
    assert start[0] == "/opt/quasar/bin/quasar-rt"
    folder, loop = tmp_path / "incoming", tmp_path / "incoming" / "loop.png"
    subprocess.run([*prepare[:-3], folder], check=True)
    # Members of the group add pictures, which the watcher may read and nobody else.
    assert stat.S_IMODE(folder.stat().st_mode) == 0o2770
    environment = {**os.environ, "QUASAR_WEB_TOKEN": "a-long-and-secret-token"}
    with Running(*start[2:-1], "--port", 0, folder, env=environment) as running:
        address = running.process.stderr.readline().removeprefix("Page: ").strip()
        add(folder, 0, "new.png")
        assert json.loads(running.process.stdout.readline())["image"] == "new.png"
        loop.symlink_to(loop.name)
        problem = running.process.stderr.readline()
        assert problem == f"cannot read '{loop}': Too many levels of symbolic links; trying again\n"
        page = Request(f"{address}state", headers={"Authorization": "Bearer a-long-and-secret-token"})
        with urlopen(page, timeout=SECONDS) as answer:
            assert json.load(answer)["problem"] == problem.strip()
        loop.unlink()
        assert running.process.stderr.readline() == f"all of '{folder}' can be read again\n"
        running.process.terminate()
        assert running.process.communicate(timeout=SECONDS) == ("", "")
    assert running.process.returncode == 0
