"""Fetching of published bitstreams: only when asked for, whole, and with the right digest."""

from __future__ import annotations

import hashlib
import importlib.util
import json

import pytest

import quasar_rt
from quasar_rt import overlays
from quasar_rt.overlays import files

CONTENT = {"pynq-z2.bit": b"bits", "pynq-z2.hwh": b"<hwh/>", "pynq-z2.json": b"{}"}


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A folder with a published bitstream, and the list that names it."""
    source = tmp_path / "published"
    source.mkdir()
    for name, content in CONTENT.items():
        (source / name).write_bytes(content)
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()}
    listing = tmp_path / "published.json"
    listing.write_text(json.dumps({"pynq-z2": {"url": source.as_uri(), "sha256": digests}}))
    monkeypatch.setattr(files, "PUBLISHED", listing)
    return source


def test_a_fetched_bitstream_is_found(published, tmp_path):
    path = overlays.fetch("Pynq-Z2", tmp_path)
    assert path == tmp_path / "pynq-z2" / "pynq-z2.bit" == overlays.bitstream("pynq-z2", tmp_path)
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == CONTENT


def test_the_board_of_a_pynq_image_is_the_default(published, tmp_path, monkeypatch):
    monkeypatch.setenv("BOARD", "Pynq-Z2")
    assert overlays.fetch(folder=tmp_path).name == "pynq-z2.bit"
    monkeypatch.delenv("BOARD")
    with pytest.raises(quasar_rt.DeviceUnavailableError, match="name the board"):
        overlays.fetch(folder=tmp_path)


def test_a_file_with_another_digest_is_refused_and_leaves_nothing(published, tmp_path):
    (published / "pynq-z2.bit").write_bytes(b"other")
    with pytest.raises(quasar_rt.DeviceUnavailableError, match="not the published file"):
        overlays.fetch("pynq-z2", tmp_path)
    assert list((tmp_path / "pynq-z2").iterdir()) == []


def test_what_is_there_is_not_downloaded_again_and_another_file_is_not_replaced(published, tmp_path):
    path = overlays.fetch("pynq-z2", tmp_path)
    path.write_bytes(b"built here")
    (published / "pynq-z2.hwh").unlink()
    with pytest.raises(
        quasar_rt.DeviceUnavailableError, match=r"pynq-z2\.bit is not the published file: remove"
    ):
        overlays.fetch("pynq-z2", tmp_path)
    assert path.read_bytes() == b"built here"
    path.unlink()
    assert overlays.fetch("pynq-z2", tmp_path).read_bytes() == b"bits"


def test_a_source_that_does_not_answer_is_named(published, tmp_path):
    (published / "pynq-z2.json").unlink()
    with pytest.raises(quasar_rt.DeviceUnavailableError, match=r"pynq-z2\.json cannot be downloaded"):
        overlays.fetch("pynq-z2", tmp_path)


def test_only_https_is_fetched(published, tmp_path):
    listing = json.loads(files.PUBLISHED.read_text())
    listing["pynq-z2"]["url"] = "http://example.org"
    files.PUBLISHED.write_text(json.dumps(listing))
    with pytest.raises(quasar_rt.DeviceUnavailableError, match="only https"):
        overlays.fetch("pynq-z2", tmp_path)


def test_a_board_without_a_published_bitstream_says_what_to_do(tmp_path):
    with pytest.raises(quasar_rt.DeviceUnavailableError, match="make bitstream BOARD=kv260"):
        overlays.fetch("kv260", tmp_path)
    assert not (tmp_path / "kv260").exists()
    with pytest.raises(quasar_rt.InvalidValueError, match="there are: kv260"):
        overlays.fetch("de10", tmp_path)


def test_the_packaged_list_names_files_with_digests_only():
    for board, entry in json.loads(files.PUBLISHED.read_text()).items():
        assert overlays.board_name(board) == board
        assert entry["url"].startswith("https://")
        assert entry["sha256"].keys() == {f"{board}{ending}" for ending in files.ENDINGS}


@pytest.mark.skipif(importlib.util.find_spec("pynq") is not None, reason="PYNQ is here")
def test_without_pynq_the_class_says_what_is_missing():
    with pytest.raises(ImportError, match="needs PYNQ"):
        overlays.QuasarOverlay  # noqa: B018
