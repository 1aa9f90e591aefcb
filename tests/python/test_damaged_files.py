"""Tests that damaged files of a search are refused by name: the folder, the architecture, a bitstream's description.

The files are sound ones with seeded changes of their JSON: values of other kinds, missing and extra members, extreme
numbers, and damaged bytes. The page that shows a search is written, never read, so its test is that no text from a
file breaks it.
"""

from __future__ import annotations

import copy
import json
import random
import re
from pathlib import Path

import pytest

from quasar_rt import QuasarError, Subnet, search
from quasar_rt.device import read_bitstream
from quasar_rt.hardware import Hardware
from quasar_rt.nas.folder import Folder
from quasar_rt.nas.report import page
from quasar_rt.train.architecture_file import load_architecture, search_line

ROOT = Path(__file__).resolve().parents[2]
CHANGES = 200
#: Values that a file may hold where another one belongs.
VALUES = [
    *(None, True, -1, 0, 2**63, -(2**70), 10**400, 0.5, float("nan"), float("inf"), 1e308),
    *("", "\x1b[31m", "\ud800", "\u2028</script>|`<>", "9" * 5000, [], {}, [[[[]]]], {"": {}}),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Runs a small search on a proxy; returns its folder."""
    out = tmp_path_factory.mktemp("search") / "out"
    search("digits", fps=[60000], fps_of="accelerator", population=8, generations=2, out=out)
    return out


def places(value):
    """Yields each container within a value with each of its keys."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places(value[key])


def changed(value, sample):
    """Returns a copy of a JSON value with one to three changes."""
    whole = [json.loads(json.dumps(value))]
    for _ in range(sample.randint(1, 3)):
        container, key = sample.choice(list(places(whole)))
        kind = sample.randrange(4)
        if kind == 0 and container is not whole:
            del container[key]
        elif kind == 1 and isinstance(container, dict):
            container[str(key) + "x"] = copy.deepcopy(sample.choice(VALUES))
        elif kind == 2 and type(container[key]) in (int, float):
            container[key] = sample.choice([-1, 2, 0, 1e300, 2**62]) * container[key]
        else:
            container[key] = copy.deepcopy(sample.choice(VALUES))
    return whole[0]


def damaged(data, sample):
    """Returns bytes with one to four of them changed, cut out or repeated."""
    for _ in range(sample.randint(1, 4)):
        at = sample.randrange(len(data) + 1)
        data = data[:at] + sample.choice([b"", b"\x00", b"\xff", b"[" * 3000, data[:9]]) + data[at + 1 :]
    return data


def texts(value, sample):
    """Yields changed documents, then damaged ones."""
    for _ in range(CHANGES):
        yield json.dumps(changed(value, sample)).encode()
    sound = json.dumps(value).encode()
    for _ in range(CHANGES):
        yield damaged(sound, sample)


def refused_or(read):
    """Returns True if a file is refused with a message that can be printed; any other error fails the test."""
    message = ""
    try:
        read()
    except QuasarError as error:
        message = str(error)
    assert message.replace("\n", " ").isprintable()
    return bool(message)


def test_a_changed_identity_is_another_search(folder, tmp_path):
    identity = json.loads((folder / "search.json").read_text("utf-8"))
    file = tmp_path / "search.json"
    for text in texts(identity, random.Random(1)):
        file.write_bytes(text)
        try:
            same = json.loads(text) == identity
        except (ValueError, RecursionError):
            same = False
        assert refused_or(lambda: Folder(tmp_path, identity)) != same


def test_a_changed_line_of_scores_is_refused_or_is_a_score(folder, tmp_path):
    identity = json.loads((folder / "search.json").read_text("utf-8"))
    (tmp_path / "search.json").write_text(json.dumps(identity), "utf-8")
    file = tmp_path / "scores.jsonl"
    genome = bytes(9)
    refused = 0
    for text in texts(["supernet", genome.hex(), 97], random.Random(2)):
        file.write_bytes(text + b"\n" + text[:5])

        def read():
            found = Folder(tmp_path, identity).get("supernet", genome, 100)
            assert found is None or (type(found) is int and 0 <= found <= 100)

        refused += refused_or(read)
    assert refused > CHANGES


def test_a_changed_architecture_is_refused_or_can_be_described(folder, tmp_path):
    record = Subnet.load(folder / "digits-zcu102-60000fps.qvit").config["provenance"]["search"]
    path = tmp_path / "found.json"
    refused = 0
    for value, seed in ((record, 3), (record["architecture"], 4)):
        for text in texts(value, random.Random(seed)):
            path.write_bytes(text)

            def read():
                found = load_architecture(path)
                if found.search is not None:
                    assert search_line(found.search).isprintable()
                    json.dumps(found.search, allow_nan=False).encode()

            refused += refused_or(read)
    assert refused > CHANGES


def test_a_changed_description_of_a_bitstream_is_refused_or_is_a_configuration(tmp_path):
    path = tmp_path / "board.json"
    hardware = Hardware.load(ROOT / "fpga/configs/pynq-z2.toml").to_toml()
    sound = {"hardware": hardware, "clock_hz": 100000000, "abi": 5, "sha256": {"board.bit": "0" * 64}}
    refused = 0
    for text in texts(sound, random.Random(5)):
        path.write_bytes(text)
        refused += refused_or(lambda: read_bitstream(path))
    assert refused > CHANGES


def test_no_text_breaks_out_of_the_page(folder):
    front = json.loads((folder / "front.json").read_text("utf-8"))
    shown = {"networks": [point["id"] for point in front["front"]]}
    sample = random.Random(6)
    signs = [*"<>&\u2028\u2029\"'\\\x00é", "</script>", "<!--", "]]>", "__DATA__"]
    for _ in range(100):
        note = "".join(sample.choices(signs, k=12))
        front["space"]["name"] = "".join(sample.choices(signs, k=12))
        text = page(front, {"score": [], "fps": []}, shown, [note])
        (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
        contents = json.loads(data)
        assert contents["notes"] == [note]
        assert contents["search"]["space"]["name"] == front["space"]["name"]
        # Only '<' can end a script, or begin one: a parser finds as many as the template has.
        assert "<" not in data
        assert len(re.findall(r"<script", text, re.IGNORECASE)) == 2
