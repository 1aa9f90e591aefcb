"""The command line: tables for people, JSON for programs, exit codes that scripts can trust."""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from importlib.util import find_spec

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import quasar_rt
from helpers import COMMAND, json_of, run
from quasar_rt import cli as cli_module
from quasar_rt import device, packaged
from quasar_rt.cli import cli
from quasar_rt.cli.output import Pace, print_table
from quasar_rt.evaluate import wilson
from quasar_rt.packaged import sample_images

NEEDS_TORCH = pytest.mark.skipif(find_spec("torch") is None, reason="needs the [host] extra")


@pytest.fixture(autouse=True)
def no_forced_tier(monkeypatch):
    monkeypatch.delenv("QUASAR_TIER", raising=False)


@pytest.fixture(scope="session")
def subnet_file(gray_subnet, tmp_path_factory):
    path = tmp_path_factory.mktemp("subnets") / "gray.qvit"
    gray_subnet.save(path)
    return path


@pytest.fixture(scope="session")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)).save(path)
    return path


def script(*arguments, **options):
    """Runs the installed command in a process of its own."""
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def test_help_is_in_groups_and_within_80_columns():
    text = run("--help").stdout
    places = [text.index(f"{title}:") for title in cli_module._GROUPS]
    assert places == sorted(places)
    assert run("help").stdout == text
    assert "Exit codes: 0" in text
    assert run("--version").stdout.startswith("quasar-rt, version ")
    with_json = {"demo", "infer", "eval", "bench", "info", "disasm", "devices", "verify"}
    for command in cli_module._COMMANDS:
        shown = run(command, "--help").stdout
        assert run("help", command).stdout == shown
        assert command in text
        assert "--json" in shown or command not in with_json
        wide = [line for line in shown.splitlines() if len(line) > 80]
        assert not wide, command


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["infr", "x.png"], "infer"),
        (["help", "serch"], "search"),
        (["info", "fashion_minst"], "fashion-mnist"),
        (["demo", "Digits"], "digits"),
        (["estimate", "deit-tny"], "deit-tiny"),
        (["estimate", "digits", "--board", "KV260"], "kv260"),
        (["search", "--board", "pynqz2"], "pynq-z2"),
        (["search", "--space", "smal"], "small"),
        (["infer", "--device", "cppu", "x.png"], "cpu"),
        (["infer", "--device", "simm", "x.png"], "sim"),
    ],
)
def test_mistyped_names_are_answered_with_the_nearest_one(arguments, meant):
    assert f"did you mean '{meant}'?" in run(*arguments, status=2).stderr


def test_a_name_that_is_near_nothing_gets_no_suggestion():
    for arguments in (["sofa"], ["info", "sofa"], ["search", "--board", "sofa"]):
        assert "did you mean" not in run(*arguments, status=2).stderr


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["infer"], ["info"], ["eval", "x"], ["infer", "--threads", "0", "x"]]
)
def test_wrong_usage_is_2_on_stderr(arguments):
    result = run(*arguments, status=2)
    assert not result.stdout
    assert "Error: " in result.stderr


def test_a_piped_table_starts_at_once_and_is_not_filled_up():
    lines = run("devices").stdout.splitlines()
    assert lines[0].split() == ["device", "threads", "tier"]
    assert all(line == line.rstrip() and line for line in lines)


def test_a_piped_table_has_a_line_for_each_row_however_long(subnet_file, tmp_path):
    path = tmp_path / ("long" * 30) / "noise.png"
    path.parent.mkdir()
    Image.fromarray(np.zeros((28, 28), np.uint8)).save(path)
    lines = run("infer", "--subnet", subnet_file, "--top-k", 10, path, path).stdout.splitlines()
    assert len(lines) == 5
    assert all(str(path) in line for line in lines[3:])


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_a_terminal_of_any_width_breaks_no_number(monkeypatch, width):
    numbers = [["blocks.0-10.attn.scores", *map(str, range(1000, 1_000_000, 99_999)), "dependency"]] * 3
    names = ["stage", *(f">rows of {i}" for i in range(len(numbers[0]) - 2)), "bound"]
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "1")
    print_table(names, numbers, "A table")
    text = re.sub(r"\x1b\[\d*m", "", terminal.getvalue())
    assert all(text.count(number) == 3 for number in numbers[0][1:-1])
    assert text.startswith("A table\n")
    least = 10 + sum(map(len, numbers[0][1:-1])) + 10 + len(names) + 2
    assert max(map(len, text.splitlines())) <= max(width, least)


def test_infer_prints_a_table(subnet_file, picture):
    result = run("infer", "--subnet", subnet_file, picture, picture)
    assert result.stdout.count("noise.png") == 2
    assert "label" in result.stdout
    assert result.stdout.startswith("gray: 10 classes (class 0, class 1, class 2, ...), 28x28 gray\n")
    warning, note, *_ = result.stderr.splitlines()
    assert warning == "Warning: the subnet 'gray' is not trained: its labels mean nothing"
    assert note.startswith("Note: 2 of 2 pictures are in colour, and the network is for gray ones.")
    gray = run("infer", "--subnet", subnet_file, sample_images("fashion-mnist")[0].path)
    assert "Note" not in gray.stderr


def test_infer_takes_folders_and_skips_what_is_no_picture(subnet_file, picture, tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name in ("b.png", "deep/a.png", ".hidden.png"):
        (tmp_path / "in" / name).write_bytes(picture.read_bytes())
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    found = json_of("infer", "--subnet", subnet_file, tmp_path / "in")["images"]
    assert [one["image"] for one in found] == [
        str(tmp_path / "in" / name) for name in ("b.png", "deep/a.png")
    ]
    (tmp_path / "empty").mkdir()
    assert "has no image and no video" in run("infer", tmp_path / "empty", status=2).stderr


def test_infer_takes_a_frame_of_each_second_of_a_video(subnet_file, tmp_path):
    cv2 = pytest.importorskip("cv2")
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    random = np.random.default_rng(0)
    for _ in range(25):
        writer.write(random.integers(0, 256, (48, 64, 3), np.uint8))
    writer.release()
    found = json_of("infer", "--subnet", subnet_file, path)["images"]
    assert [one["image"] for one in found] == [f"{path} {second}.00 s" for second in range(3)]
    assert len(json_of("infer", "--subnet", subnet_file, "--step", 0, path)["images"]) == 25
    path.write_bytes(b"no video")
    assert "OpenCV cannot read it" in run("infer", "--subnet", subnet_file, path, status=1).stderr


def test_infer_saves_pictures_with_their_answers(subnet_file, picture, tmp_path):
    out = tmp_path / "out"
    result = run("infer", "--subnet", subnet_file, "--save", out, picture, picture)
    assert "wrote 2 pictures to" in result.stderr
    assert sorted(path.name for path in out.iterdir()) == ["noise-2.png", "noise.png"]
    # Neither what is there already nor a link is written over, and no input may be there.
    before = picture.read_bytes()
    (out / "noise-3.png").symlink_to(picture)
    run("infer", "--subnet", subnet_file, "--save", out, picture)
    assert (out / "noise-3.png").is_symlink()
    assert (out / "noise-4.png").is_file()
    (tmp_path / "deep").symlink_to(out)
    for folder in (picture.parent, picture.parent.parent):
        for one in (picture, picture.parent):
            refused = run("infer", "--subnet", subnet_file, "--save", folder, one, status=2).stderr
            assert f"the folder '{folder}' is or holds the input '{picture}'" in refused
    refused = run("infer", "--subnet", subnet_file, "--save", out, tmp_path / "deep" / "noise.png", status=2)
    assert "is or holds the input" in refused.stderr
    assert picture.read_bytes() == before
    with Image.open(picture) as before, Image.open(out / "noise.png") as after:
        factor = 240 // before.width
        assert after.size[0] == before.width * factor
        assert after.size[1] > before.height * factor
        corner = after.crop((0, 0, after.size[0], before.height * factor))
        assert (np.asarray(corner)[::factor, ::factor] == np.asarray(before.convert("RGB"))).all()
        below = after.crop((0, before.height * factor, *after.size))
        assert len(below.getcolors(1 << 16)) > 2, "there is no text"


def test_infer_leaves_the_answers_of_the_others_on_a_full_disk_and_after_faults(
    subnet_file, tmp_path, full_disk, monkeypatch
):
    for number in range(4):
        Image.fromarray(np.full((28, 28), 60 * number, np.uint8)).save(tmp_path / f"{number}.png")
    infer, command = quasar_rt.Engine.infer, ("infer", "--subnet", subnet_file, tmp_path)
    full = tmp_path.parent / "full"
    with full_disk(100):
        text = run(*command, "--save", full, status=1)
        images = json_of(*command, "--save", full, status=1)["images"]
    assert len(text.stdout.splitlines()) == 3 + 4
    *errors, last = text.stderr.splitlines()[1:]
    assert [error.endswith("png' cannot be written: File too large") for error in errors] == [True] * 4
    assert last == f"4 of 4 pictures failed: {', '.join(str(tmp_path / f'{i}.png') for i in range(4))}"
    assert all({"label", "error"} <= set(image) for image in images)
    assert not list(full.iterdir())

    def faulty(engine, image, **options):
        if image.max() == 60:
            raise quasar_rt.DeviceFaultError("the array has stopped")
        return infer(engine, image, **options)

    monkeypatch.setattr(quasar_rt.Engine, "infer", faulty)
    images = json_of(*command, status=1)["images"]
    assert ["label" in image for image in images] == [True, False, True, True]
    error = f"Error: '{tmp_path / '1.png'}': the array has stopped\n"
    assert run(*command, status=1).stderr.endswith(f"{error}1 of 4 pictures failed: {tmp_path / '1.png'}\n")
    # A device that fails again and again.
    monkeypatch.setattr(quasar_rt.Engine, "infer", lambda *_, **__: faulty(None, np.array([60])))
    ended = run(*command, *[tmp_path] * 3, status=2).stderr
    assert re.search("10 of 10 pictures failed: .* and 5 more\nError: the array has stopped\n$", ended)


def test_infer_prints_answers_as_they_come(subnet_file, picture):
    for as_json in ([], ["--json"]):
        command = [*COMMAND, "infer", *as_json, "--subnet", str(subnet_file), str(picture), "-"]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as one:
            limit = threading.Timer(60, one.kill)
            limit.start()
            # The second picture has not come yet.
            assert any(b"noise.png" in line for line in one.stdout)
            assert one.poll() is None
            rest = one.communicate(picture.read_bytes())[0]
            limit.cancel()
        assert one.returncode == 0
        assert b"-  " in rest or b'"image": "-"' in rest


def test_infer_prints_json(subnet_file, picture):
    result = run(
        "infer", "--json", "--top-k", 4, "--threads", 1, "--tier", "scalar", "--subnet", subnet_file, picture
    )
    document = json.loads(result.stdout)
    about = [document[key] for key in ("subnet", "device", "tier", "threads")]
    assert about == ["gray", "cpu", "scalar", 1]
    (entry,) = document["images"]
    with pytest.warns(quasar_rt.UntrainedWarning):
        expected = quasar_rt.Engine(subnet_file).infer(picture)
    assert entry.pop("image") == str(picture)
    assert set(entry.pop("timings")) == {"decode_ms", "preprocess_ms", "compute_ms"}
    document = expected.to_dict()
    assert entry == {key: document[key] for key in entry} | {"top_k": document["top_k"][:4]}


def test_infer_reads_a_picture_from_stdin(subnet_file, picture):
    arguments = ["infer", "--json", "--subnet", subnet_file]
    command = [*COMMAND, *map(str, arguments), "-"]
    done = subprocess.run(command, input=picture.read_bytes(), capture_output=True, check=True)
    (entry,) = json.loads(done.stdout)["images"]
    with pytest.warns(quasar_rt.UntrainedWarning):
        expected = quasar_rt.Engine(subnet_file).infer(picture).to_dict()
    assert (entry["image"], entry["top_k"]) == ("-", expected["top_k"][:3])
    done = subprocess.run(command, input=b"secret", capture_output=True, check=False)
    assert done.returncode == 1
    assert b"6 bytes" in done.stderr
    assert b"secret" not in done.stderr


def test_infer_goes_on_after_a_bad_image(subnet_file, picture, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_text("no picture")
    for as_json in ([], ["--json"]):
        result = run(
            "infer", *as_json, "--subnet", subnet_file, bad, picture, tmp_path / "missing.png", status=1
        )
        errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
        assert len(errors) == 2
        assert "bad.png" in errors[0]
        assert "missing.png" in errors[1]
        assert "noise.png" in result.stdout
    images = json.loads(result.stdout)["images"]
    assert [("error" in image, "label" in image) for image in images] == [
        (True, False),
        (False, True),
        (True, False),
    ]


def test_info_shows_the_subnet(subnet_file, gray_subnet):
    table = run("info", subnet_file)
    for text in ("gray", "blocks.1.fc2", gray_subnet.sha256, "no: random weights"):
        assert text in table.stdout
    document = json_of("info", subnet_file)
    assert document["config"] == gray_subnet.config
    assert document["sha256"] == gray_subnet.sha256
    assert document["macs"] == gray_subnet.summary().macs
    assert len(document["layers"]) == 10


@pytest.mark.parametrize(
    ("resize", "words"),
    [
        ({"mode": "none"}, "none: images must have the network's size"),
        (
            {"mode": "shorter", "size": [16], "filter": "bicubic"},
            "to 16, then cropped at the centre (bicubic)",
        ),
        ({"mode": "shorter", "size": [18], "filter": "box"}, "(box); images of 16 x 16 too, which takes"),
        ({"mode": "exact", "size": [16, 16], "filter": "bilinear"}, "to 16 x 16 (bilinear)"),
        (
            {"mode": "exact", "size": [20, 16], "filter": "box"},
            "to 20 x 16, then cropped at the centre (box);",
        ),
    ],
    ids=str,
)
def test_info_says_how_images_are_resized(tmp_path, resize, words):
    subnet = quasar_rt.random_subnet(
        embed=16, depth=1, heads=1, image_size=16, kernel=8, channels=1, classes=2, hidden=16
    )
    path = tmp_path / "a.qvit"
    quasar_rt.Subnet.from_parts({**subnet.config, "preprocess": {"resize": resize}}, subnet.tensors()).save(
        path
    )
    (line,) = [line for line in run("info", path).stdout.splitlines() if line.strip().startswith("resizing")]
    assert words in line
    assert ("takes time" in line) == (resize.get("size") in ([18], [20, 16]))


def test_devices_lists_what_is_not_there_too():
    assert "not on this machine" in run("devices").stdout
    found = json_of("devices")["devices"]
    cpu = next(entry for entry in found if entry["name"] == "cpu")
    assert cpu["best_tier"] == device.cpu().best_tier
    assert {tier["name"]: tier["supported"] for tier in cpu["tiers"]}["scalar"]


def test_verify_finds_every_backend_equal(subnet_file):
    result = run("verify", subnet_file, "--images", 2)
    assert "all bits are equal" in result.stdout
    document = json_of("verify", subnet_file, "--images", 1)
    assert document["equal"] is True
    status = {(check["backend"], check["threads"]): check["status"] for check in document["checks"]}
    assert status["oracle", None] == status["atoms", None] == "equal"
    for tier in device.cpu().tiers:
        for threads in (1, 2):
            assert status[tier.name, threads] == ("equal" if tier.supported else "skipped")


def test_verify_exits_with_1_where_bits_differ(subnet_file, monkeypatch):
    run_oracle = quasar_rt.oracle.run
    monkeypatch.setattr(quasar_rt.oracle, "run", lambda *arguments: run_oracle(*arguments) + 1)
    result = run("verify", subnet_file, status=1)
    assert "10 of 10 logits" in result.stdout
    result = run("verify", "--json", subnet_file, status=1)
    assert json.loads(result.stdout)["equal"] is False


def test_bench_measures(subnet_file):
    result = run("bench", subnet_file, "--seconds", 0.05)
    assert "GMAC/s" in result.stdout
    arguments = ["--json", "--seconds", 0.05, "--threads", 1, "--threads", 2, "--tier", "scalar"]
    measured = json.loads(run("bench", subnet_file, *arguments).stdout)["measured"]
    assert [(speed["tier"], speed["threads"]) for speed in measured] == [("scalar", 1), ("scalar", 2)]
    assert all(
        speed["median_ms"] > 0 and speed["frames"] >= 1 and speed["peak_share"] > 0 for speed in measured
    )


def test_bench_tells_each_stages_share_of_the_roof(subnet_file):
    arguments = ["--seconds", 0.05, "--threads", 1]
    assert "Where a frame's time goes" in run("bench", subnet_file, *arguments).stdout
    (measured,) = json_of("bench", subnet_file, *arguments)["measured"]
    stages = {stage["name"]: stage for stage in measured["stages"]}
    assert " ".join(stages) == "preprocess embed norm1 qkv attention proj norm2 fc1 fc2 pool head"
    for name, stage in stages.items():
        assert (stage["roof_ms"] > 0) == (name != "pool")


def test_bench_knows_random_shapes():
    result = run("bench", "deit-tiny", "--json", "--seconds", 0.05, "--threads", 1)
    document = json.loads(result.stdout)
    assert document["subnet"] == "deit-tiny"
    assert 1.2e9 < document["nominal_macs"] < 1.3e9
    assert not result.stderr


def test_hostile_names_reach_the_terminal_as_text(gray_subnet, tmp_path, picture):
    # Changes of direction are not control characters to the file format, but they are to a terminal.
    names = [f"\u202e[red]{index}\\" for index in range(10)]
    hostile = quasar_rt.Subnet.from_parts({**gray_subnet.config, "classes": names}, gray_subnet.tensors())
    path = tmp_path / "hostile\x1b[2J\x9b.qvit"
    hostile.save(path)
    image = tmp_path / "\x1b]0;image\x07\\"
    image.write_bytes(picture.read_bytes())
    for arguments in (["info", path], ["infer", "--subnet", path, image]):
        result = run(*arguments)
        assert "\\u202e[red]0\\" in result.stdout
        assert "\\\\" not in result.stdout
        assert not hostile_signs(result.output)
    for arguments in (["info", "--json", path], ["infer", "--json", "--subnet", path, image]):
        result = run(*arguments)
        assert not hostile_signs(result.stdout)
        json.loads(result.stdout)
    assert json_of("info", path)["config"]["classes"] == names


def test_hostile_names_in_errors_are_text_too(subnet_file, tmp_path):
    missing = tmp_path / "\x1b[2Jmissing\x7f"
    for arguments in (
        ["info", missing],
        ["infer", "--subnet", subnet_file, missing],
        ["infer", "--subnet", missing, missing],
        ["infer", "--json", "--subnet", subnet_file, missing],
        ["eval", subnet_file, "--data", missing],
        ["bench", missing],
    ):
        result = run(*arguments, status=None)
        assert result.exit_code in (1, 2)
        assert "missing" in result.output
        assert not hostile_signs(result.output)


def hostile_signs(text):
    return {sign for sign in text if not sign.isprintable()} - {"\n"}


# eval


@pytest.fixture(scope="session")
def folders(tmp_path_factory, gray_subnet):
    """Makes a folder of images by class, sorted by the random subnet's own labels: it scores 1 there."""
    root = tmp_path_factory.mktemp("folders")
    rng = np.random.default_rng(9)
    with pytest.warns(quasar_rt.UntrainedWarning):
        engine = quasar_rt.Engine(gray_subnet)
    for number in range(30):
        pixels = rng.integers(0, 256, (28, 28), np.uint8)
        folder = root / engine.infer(pixels).label.replace(" ", "_")
        folder.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


def test_eval_on_folders(subnet_file, folders):
    result = run("eval", subnet_file, "--data", folders, "--batch", 7)
    assert f"{wilson(30, 30).low:.2%} to 100.00%" in result.stdout
    assert "Intervals: Wilson's." in result.stdout
    document = json_of("eval", subnet_file, "--data", folders)
    assert document["top1"] == document["top5"] == 1.0
    assert document["images"] == 30
    assert document["top1_interval"] == {"low": wilson(30, 30).low, "high": 1.0}
    assert document["images_per_second"] > 0
    assert document["unreadable"] == 0
    assert json_of("eval", subnet_file, "--data", folders, "--limit", 4)["images"] == 4


def test_eval_leaves_out_what_cannot_be_read(subnet_file, folders, tmp_path):
    target = tmp_path / "data"
    for source in folders.rglob("*.png"):
        copy = target / source.relative_to(folders)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(source.read_bytes())
    copy.write_bytes(b"damaged")
    result = run("eval", subnet_file, "--data", target, "--json", status=1)
    document = json.loads(result.stdout)
    assert (document["images"], document["unreadable"], document["top1"]) == (29, 1, 1.0)
    assert copy.name in result.stderr


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    # Published examples: Newcombe 1998, table I.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_intervals_are_the_published_ones(right, count, low, high):
    found = wilson(right, count)
    assert found.value == right / count
    assert (round(found.low, 4), round(found.high, 4)) == (low, high)
    assert wilson(0, 0) == (0.0, 0.0, 1.0)


@pytest.fixture(scope="session")
def turned(gray_subnet, folders, tmp_path_factory):
    """Makes a subnet that calls the first two classes by each other's name."""
    names = gray_subnet.classes
    swapped = quasar_rt.Subnet.from_parts(
        {**gray_subnet.config, "classes": [names[1], names[0], *names[2:]]}, gray_subnet.tensors()
    )
    path = tmp_path_factory.mktemp("turned") / "turned.qvit"
    swapped.save(path)
    return path


def test_eval_counts_by_class(turned, folders, gray_subnet, tmp_path):
    csv = tmp_path / "confusion.csv"
    result = run("eval", turned, "--data", folders, "--json", "--per-class", "--confusion", csv)
    document = json.loads(result.stdout)
    names = quasar_rt.Subnet.load(turned).classes
    # The truth, counted from the folders; the subnet takes the first two classes for each other.
    truth = np.zeros((len(names), len(names)), int)
    other = {names[0]: 1, names[1]: 0}
    for index, name in enumerate(names):
        folder = folders / name.replace(" ", "_")
        truth[index, other.get(name, index)] = len(list(folder.glob("*.png"))) if folder.exists() else 0
    assert document["confusion"] == truth.tolist()
    lines = [line.split(",") for line in csv.read_text().splitlines()]
    assert lines[0] == ["true class", *names]
    assert [[int(count) for count in line[1:]] for line in lines[1:]] == truth.tolist()
    for index, row in enumerate(document["classes"]):
        images, predicted, right = truth[index].sum(), truth[:, index].sum(), truth[index, index]
        assert (row["name"], row["images"], row["predicted"]) == (names[index], images, predicted)
        assert row["top1"]["value"] == (right / images if images else 0)
        assert row["precision"]["value"] == (right / predicted if predicted else 0)
        wrong = index in (0, 1) and images
        assert row["mistaken_for"] == (names[1 - index] if wrong else None)
        assert row["mistakes"] == (images if wrong else 0)
    assert document["top1"] == np.trace(truth) / truth.sum()
    table = run("eval", turned, "--data", folders, "--per-class").stdout
    assert all(name in table for name in names)


def test_eval_draws_the_confusion_matrix(subnet_file, folders, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    path = tmp_path / "confusion.png"
    result = run("eval", subnet_file, "--data", folders, "--confusion", path)
    assert result.stderr.splitlines()[-1] == f"wrote {path}"
    with Image.open(path) as picture:
        assert picture.width > 400
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 20


def test_eval_refuses_a_confusion_file_before_the_run(subnet_file, folders, tmp_path, monkeypatch):
    from quasar_rt import evaluate

    monkeypatch.setattr(evaluate, "evaluate", lambda *_, **__: pytest.fail("the run has begun"))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for name, message in (
        ("x.txt", "must end in .png or .csv"),
        ("x.png", "pictures need matplotlib: pip install 'quasar-rt[host]'"),
        ("none/x.csv", "there is no folder"),
    ):
        result = run("eval", subnet_file, "--data", folders, "--confusion", tmp_path / name, status=2)
        assert message in result.stderr
    assert not list(tmp_path.iterdir())


def test_an_interrupted_eval_leaves_files_as_they_were(subnet_file, folders, tmp_path, monkeypatch):
    path = tmp_path / "confusion.csv"
    path.write_text("true class,of an earlier run")
    infer_batch = quasar_rt.Engine.infer_batch
    calls = []

    def interrupted(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return infer_batch(*arguments, **options)

    monkeypatch.setattr(quasar_rt.Engine, "infer_batch", interrupted)
    result = run(
        "eval", subnet_file, "--data", folders, "--batch", 4, "--json", "--confusion", path, status=130
    )
    assert not result.stdout
    assert "Interrupted" in result.stderr
    assert path.read_text() == "true class,of an earlier run"
    assert list(tmp_path.iterdir()) == [path]


def test_progress_is_lines_where_there_is_no_terminal(subnet_file, folders, monkeypatch):
    from quasar_rt.cli import output

    assert "eval:" not in run("eval", subnet_file, "--data", folders, "--json").stderr
    monkeypatch.setattr(output, "PROGRESS_SECONDS", 0.0)
    result = run("eval", subnet_file, "--data", folders, "--json", "--batch", 10)
    lines = [line for line in result.stderr.splitlines() if line.startswith("eval: ")]
    assert lines[0].startswith("eval: 1 of 30 after 0 s")
    assert lines[-1].startswith("eval: 30 of 30 after ")
    json.loads(result.stdout)


def test_the_remaining_time_leaves_out_what_was_done_before():
    pace = Pace(100.0, 300)
    assert pace.left(100.0, 300, 640) is None
    assert pace.left(100.1, 310, 640) is None, "the first parts may be quicker"
    assert pace.left(110.0, 310, 640) == pytest.approx(330.0)
    assert pace.left(110.0, 640, 640) is None


def test_eval_on_the_digits(subnet_file, colour_subnet, tmp_path, monkeypatch):
    from quasar_rt import datasets

    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    images, labels = datasets.load_digits("test")
    document = json_of("eval", subnet_file, "--data", "digits")
    with pytest.warns(quasar_rt.UntrainedWarning):
        predictions = quasar_rt.Engine(subnet_file).infer_batch(list(images))
    right = sum(prediction.index == label for prediction, label in zip(predictions, labels, strict=True))
    assert (document["images"], document["top1"]) == (360, right / 360)
    colour_subnet.save(tmp_path / "seven.qvit")
    result = run("eval", tmp_path / "seven.qvit", "--data", "digits", status=2)
    assert "'digits' has 10 classes, the subnet 7" in result.stderr
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    result = run("eval", subnet_file, "--data", "digits", status=2)
    assert "Error: the digits come with scikit-learn, which is not installed: pip install" in result.stderr


def test_eval_warns_once_of_a_data_set_with_other_classes():
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    other = run("eval", "fashion-mnist", "--data", "digits", "--json", "--batch", 100)
    (line,) = other.stderr.splitlines()
    assert line.startswith(
        "Warning: the classes of 'digits' are not the subnet's (class 0 is '0' in the data set, "
    )
    assert "'T-shirt/top' in the subnet" in line
    assert json.loads(other.stdout)["images"] == 360
    assert run("eval", "digits", "--data", "digits").stderr == ""


@pytest.mark.parametrize(
    ("change", "warned"),
    [
        (lambda names: names, None),
        (lambda names: [name.upper().replace("/", " ") for name in names], None),
        (
            lambda names: [names[0], *names[2:], names[1]],
            "class 1 is 'Trouser' in the data set, 'Pullover' in",
        ),
    ],
)
def test_class_names_of_a_known_data_set_are_compared_in_order(monkeypatch, change, warned):
    from quasar_rt import datasets, evaluate

    names = list(datasets.FASHION_MNIST_CLASSES)
    pictures = np.zeros((1, 28, 28), np.uint8), np.zeros(1, np.uint8)
    monkeypatch.setitem(
        evaluate._KNOWN, "fashion-mnist", (datasets.FASHION_MNIST_CLASSES, lambda part: pictures)
    )
    with pytest.warns(UserWarning, match=warned) if warned else contextlib.nullcontext():
        assert len(evaluate.open_dataset("fashion-mnist", change(names))) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["eval", "{subnet}", "--data", "nowhere"], "nowhere"),
        (["eval", "{subnet}", "--data", "{empty}"], "no image"),
        (["eval", "nowhere.qvit", "--data", "fashion-mnist"], "nowhere.qvit"),
        (["info", "nowhere.qvit"], "nowhere.qvit"),
        (["info", "no-such-name"], "fashion-mnist"),
        pytest.param(
            ["export", "--model", "deit_tinny", "--calibration", "{pictures}", "--out", "a.qvit"],
            "timm has no architecture 'deit_tinny'; did you mean",
            marks=NEEDS_TORCH,
        ),
        (["verify", "{picture}"], "subnet"),
        (["bench", "deit-huge"], "deit-huge"),
        (["infer", "--subnet", "{picture}", "{picture}"], "subnet"),
        (["infer", "--subnet", "{subnet}", "--device", "fpga", "{picture}"], "fpga"),
        (["infer", "--subnet", "{subnet}", "--tier", "mmx", "{picture}"], "mmx"),
    ],
)
def test_unusable_input_is_one_line_on_stderr_and_2(subnet_file, picture, tmp_path, arguments, message):
    places = {"subnet": subnet_file, "picture": picture, "pictures": picture.parent, "empty": tmp_path}
    result = run(*(argument.format(**places) for argument in arguments), status=2)
    assert not result.stdout
    assert message in result.stderr
    lines = [line for line in result.stderr.splitlines() if not line.startswith("Warning: ")]
    assert len(lines) == 1
    assert lines[0].startswith("Error: ")


# completion


def completed(*words):
    """Returns what bash completes for the last word, through the script that the command prints."""
    source = CliRunner().invoke(cli, ["completion", "bash"]).stdout
    lines = [
        "import sys; sys.argv[0] = 'quasar-rt'; from quasar_rt.cli import main; main()",
        'quasar-rt() { "$PYTHON" -c "$MAIN" "$@"; }',
        source,
        f"COMP_WORDS=({' '.join(words)!s}); COMP_CWORD={len(words) - 1}",
        # The script runs its first word as a command.
        '_quasar_rt_completion quasar-rt 2>/dev/null; printf "%s\\n" "${COMPREPLY[@]}"',
    ]
    environment = {**os.environ, "PYTHON": sys.executable, "MAIN": lines[0]}
    done = subprocess.run(
        ["bash", "-c", "\n".join(["export -f quasar-rt 2>/dev/null", *lines[1:]])],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["quasar-rt", "est"], {"estimate"}),
        (["quasar-rt", "estimate", "deit-t"], {"deit-tiny"}),
        (["quasar-rt", "estimate", "x", "--board", "zcu"], {"zcu102", "zcu104"}),
        (["quasar-rt", "train", "--config", "dig"], {"digits"}),
        (["quasar-rt", "info", "fash"], {"fashion-mnist"}),
        (["quasar-rt", "demo", "dig"], {"digits"}),
        (["quasar-rt", "completion", "f"], {"fish"}),
    ],
)
def test_bash_completes_commands_and_names(words, expected):
    assert set(completed(*words)) == expected


@pytest.mark.parametrize(("shell", "part"), [("zsh", "compdef"), ("fish", "complete --no-files")])
def test_other_shells_have_a_script_too(shell, part):
    result = run("completion", shell)
    assert part in result.stdout
    assert "quasar-rt" in result.stdout


def test_completing_a_command_imports_no_command():
    code = (
        "import sys; sys.argv[0] = 'quasar-rt'; from quasar_rt.cli import main\n"
        "try: main()\nfinally: print(sys.modules.keys())"
    )
    environment = {
        **os.environ,
        "_QUASAR_RT_COMPLETE": "bash_complete",
        "COMP_WORDS": "quasar-rt ",
        "COMP_CWORD": "1",
    }
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert "plain,estimate" in done.stdout
    assert "quasar_rt.cli.search" not in done.stdout


# demo


def test_demo():
    result = run("demo")
    assert not result.stderr
    assert "12 of 12 right" in result.stdout
    assert all(len(line) <= 80 for line in result.stdout.splitlines()), "wider than a terminal is by default"
    document = json_of("demo")
    assert len(document["images"]) == 12
    for image in document["images"]:
        assert image["image"] in result.stdout
        assert 0 < image["probability"] <= 1


def test_demo_of_another_packaged_subnet():
    result = run("demo", "digits")
    assert "of 12 right" in result.stdout
    assert "digits: 10 classes (0, 1, 2, ...), 8x8 gray" in result.stdout
    assert json_of("demo", "digits")["subnet"] == "digits"
    unknown = run("demo", "digit", status=2)
    assert "'digit'; did you mean 'digits'? (there are some of digits, fashion-mnist" in unknown.stderr


def test_demo_without_samples_says_what_to_do(monkeypatch):
    monkeypatch.setattr(packaged, "sample_images", lambda name: [])
    result = run("demo", status=2)
    assert "quasar-rt infer" in result.stderr


# As a process


def test_the_installed_script_works(subnet_file, picture):
    module = subprocess.run([sys.executable, "-m", "quasar_rt", "devices"], capture_output=True, text=True)
    assert module.returncode == 0, module.stderr
    assert "cpu" in module.stdout
    done = script("infer", "--json", "--subnet", subnet_file, picture)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images"][0]["label"].startswith("class")
    assert script("info", "nowhere.qvit").returncode == 2


def test_bench_compares_threads_in_turns(subnet_file):
    arguments = ["bench", subnet_file, "--scaling", "--threads", 2, "--seconds", 0.1]
    assert "frame / image" in run(*arguments).stdout
    (measured,) = json_of(*arguments)["measured"]
    assert measured["threads"] == 2
    assert measured["rounds"] >= 1
    assert 0 < measured["frame_to_image"]["low"] <= measured["frame_to_image"]["high"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--scaling", "--threads", 1], "several threads with one"),
        (["--scaling", "--device", "sim"], "the CPU's threads"),
    ],
)
def test_what_bench_cannot_compare_is_named(subnet_file, arguments, problem):
    assert problem in run("bench", subnet_file, *arguments, status=2).output


@pytest.mark.parametrize("stderr", ["", "2>&1"])
@pytest.mark.parametrize("arguments", [["info", "SUBNET", "--json"], ["devices"], ["--help"]])
def test_a_closed_pipe_ends_it_silently(subnet_file, arguments, stderr):
    words = [str(subnet_file) if word == "SUBNET" else word for word in arguments]
    # `true` ends before it is written to.
    command = f'"$@" {stderr} | true; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", command, "bash", *COMMAND, *words], capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux's /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [["--help"], ["devices"]])
def test_output_that_cannot_be_written_is_one_line_on_stderr(arguments, unbuffered):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*COMMAND, *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )
    assert done.stderr == "Error: standard output cannot be written: No space left on device\n"
    assert done.returncode == 2


def test_a_command_without_stdout_ends_in_silence():
    done = subprocess.run(
        ["sh", "-c", '"$@" >&-', "sh", *COMMAND, "devices"], stderr=subprocess.PIPE, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_errors_of_the_system_have_no_number(monkeypatch):
    def devices():
        raise OSError(36, "File name too long", "some/path")

    monkeypatch.setattr(device, "devices", devices)
    result = run("devices", status=2)
    assert result.stderr == "Error: 'some/path': File name too long\n"
