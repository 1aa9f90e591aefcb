"""The archives of the fuzz corpus, and the log that the long runs share."""

import gzip
import re

import pytest

import fuzz_corpus
import run_log

TARGETS = sorted(path.name.removesuffix(".tar.gz") for path in fuzz_corpus.CORPUS.iterdir())


def test_every_target_has_an_archive():
    manifest = (fuzz_corpus.CORPUS.parent / "Cargo.toml").read_text("utf-8")
    assert sorted(re.findall('^name = "([a-z_]*)"$', manifest, re.MULTILINE)) == TARGETS


@pytest.mark.parametrize("target", TARGETS)
def test_the_same_inputs_give_the_same_archive(target, tmp_path):
    inputs = fuzz_corpus.read(target)
    fuzz_corpus.write(target, dict(reversed(inputs.items())), tmp_path)
    assert fuzz_corpus.read(target, tmp_path) == inputs
    # What zlib makes of an archive depends on its version.
    packed = [(folder / f"{target}.tar.gz").read_bytes() for folder in (fuzz_corpus.CORPUS, tmp_path)]
    assert gzip.decompress(packed[0]) == gzip.decompress(packed[1])


def test_an_archive_with_these_inputs_stays_as_it_is(tmp_path):
    fuzz_corpus.write("rows", {"a": b"1"}, tmp_path)
    archive = tmp_path / "rows.tar.gz"
    archive.write_bytes(gzip.compress(gzip.decompress(archive.read_bytes()), 1, mtime=1))
    before = archive.read_bytes()
    fuzz_corpus.write("rows", {"a": b"1"}, tmp_path)
    assert archive.read_bytes() == before
    fuzz_corpus.write("rows", {"a": b"1", "b": b""}, tmp_path)
    assert fuzz_corpus.read("rows", tmp_path) == {"a": b"1", "b": b""}


def test_a_run_replaces_the_line_of_the_last_one(tmp_path):
    page = tmp_path / "logs.md"
    page.write_text("Text.\n\n| target | case | date | commit | result |\n|---|---|---|---|---|\n")
    for target, case, result in [("soak", "b", "1"), ("fuzz", "rows", "2"), ("soak", "b", "3")]:
        run_log.note(target, case, result, at="c0ffee", page=page)
    found = re.sub(r"\d{4}-\d\d-\d\d", "DAY", page.read_text())
    lines = ["| fuzz | rows | DAY | c0ffee | 2 |", "| soak | b | DAY | c0ffee | 3 |"]
    assert found.splitlines()[-3:] == ["|---|---|---|---|---|", *lines]
    assert found.startswith("Text.\n")
