"""Networks to train on their own, read from files: architectures, and what a search found with its record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quasar_rt import QuasarError, Subnet, random_subnet, search, train
from quasar_rt.space import Space
from quasar_rt.train.architecture_file import load_architecture, search_line


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Runs a small search on a proxy; returns its folder."""
    out = tmp_path_factory.mktemp("search") / "out"
    search("digits", fps=[19000, 21000], population=8, generations=2, out=out)
    return out


@pytest.fixture(scope="module")
def record(folder):
    table: dict[str, Any] = Subnet.load(folder / "digits-zcu102-21000fps.qvit").config["provenance"]["search"]
    return table


def test_a_searchs_subnet_gives_its_architecture_and_its_record(folder, record):
    path = folder / "digits-zcu102-21000fps.qvit"
    found = load_architecture(path)
    assert found.search == record
    assert found.architecture.to_dict() == record["architecture"]
    assert found.architecture.embed == Subnet.load(path).config["embed"]
    line = search_line(record)
    assert "zcu102 at 21,000 FPS" in line
    with_host = f"{record['replayed_fps_with_host']:,.1f} FPS with the processor"
    alone = f"{record['modelled']['fps']:,.1f} FPS"
    assert f"modelled: {with_host}, {alone} of the accelerator alone" in line
    earlier = {key: value for key, value in record.items() if key != "replayed_fps_with_host"}
    assert search_line(earlier).endswith(f"modelled: {alone}")
    assert "`digits` (proxy score, seed 0)" in line


def test_the_record_or_an_architecture_alone_may_be_json(tmp_path, record):
    path = tmp_path / "found.json"
    path.write_text(json.dumps(record), encoding="utf-8")
    assert load_architecture(path) == load_architecture(path)._replace(search=record)
    assert load_architecture(path).architecture.to_dict() == record["architecture"]
    smallest = Space.load("digits").decode(Space.load("digits").smallest)
    path.write_text(json.dumps(smallest.to_dict()), encoding="utf-8")
    assert load_architecture(path) == (smallest, None, False)


def test_a_subnet_without_a_record_is_refused(tmp_path):
    path = tmp_path / "plain.qvit"
    random_subnet(embed=16, depth=1, heads=1, image_size=8, channels=1, kernel=4, classes=2, seed=1).save(
        path
    )
    with pytest.raises(QuasarError, match=r"plain\.qvit' has no record of a search"):
        load_architecture(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(QuasarError, match=r"plain\.qvit'"):
        load_architecture(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "neither a subnet .* nor JSON"),
        ("\x00", "neither a subnet .* nor JSON"),
        ("[" * 100_000, "neither a subnet .* nor JSON"),
        ("[]", "it is no JSON object"),
        ("{}", "an architecture is"),
        ('{"embed": 16}', "an architecture is .*'blocks'"),
        ('{"embed": 16.5, "blocks": []}', "an architecture is"),
        ('{"embed": "16", "blocks": []}', "an architecture is"),
        ('{"embed": 16, "blocks": [], "more": 1}', "unknown key 'more'"),
        ('{"architecture": {"embed": 16, "blocks": []}}', "a search record has .*'settings'"),
    ],
)
def test_other_json_is_refused_with_what_is_wrong(tmp_path, text, message):
    path = tmp_path / "x.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(QuasarError, match=rf"x\.json'.*{message}"):
        load_architecture(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"board": 3}, "board is 3"),
        ({"board": "a | b"}, "board is 'a | b'"),
        ({"board": "a\nb"}, "board is"),
        ({"target_fps": -1}, "target_fps is -1"),
        ({"target_fps": True}, "target_fps is True"),
        ({"target_fps": 10**400}, "OverflowError"),
        ({"modelled": {"fps": float("nan")}}, r"modelled\.fps is nan"),
        ({"modelled": 7}, "TypeError"),
        ({"replayed_fps_with_host": "many"}, "replayed_fps_with_host is 'many'"),
        ({"settings": {"space": "digits", "seed": 0.5}}, r"settings\.seed is 0\.5"),
        ({"score": float("inf")}, "inf is no number of JSON"),
        ({"more": [2**64]}, "beyond 64 bits"),
        ({"more": "\ud800"}, "surrogate"),
        ({"more": json.loads("[" * 50 + "]" * 50)}, "nested more than 32 deep"),
        ({"architecture": []}, "'architecture' is no object"),
        ({"architecture": {"embed": 16}}, "an architecture is"),
    ],
)
def test_a_record_of_wrong_form_is_refused(tmp_path, record, changes, message):
    path = tmp_path / "x.json"
    path.write_text(json.dumps({**record, **changes}), encoding="utf-8")
    with pytest.raises(QuasarError, match=rf"x\.json'.*{message}"):
        load_architecture(path)


def test_a_file_that_is_missing_is_named(tmp_path):
    for name in ("none.json", "none.qvit"):
        with pytest.raises(QuasarError, match=name):
            load_architecture(tmp_path / name)


def test_the_packaged_record_is_of_its_space_and_reached_its_target_then():
    found = load_architecture(Path(train.__file__).parent / "recipes" / "fashion-mnist.json")
    assert found.search is not None
    space = Space.load("fashion-mnist")
    assert found.search["settings"]["space_sha256"] == space.sha256
    assert found.search["genome"] == space.encode(found.architecture).tolist()
    # The record holds what the model said then.
    assert found.search["replayed_fps"] >= found.search["target_fps"] == 2500
