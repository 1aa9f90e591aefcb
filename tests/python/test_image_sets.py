"""Image sets by name: shards and Hugging Face data sets give what a folder of the same images gives, bit for bit."""

from __future__ import annotations

import gzip
import json
import re
import sys
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from helpers import json_of, run
from image_folders import CLASSES, add, image_folder, pack
from quasar_rt import ImageError, random_subnet
from quasar_rt.datasets import DatasetError
from quasar_rt.engine import Engine
from quasar_rt.evaluate import evaluate, open_dataset
from quasar_rt.files import MOST_TEXT_BYTES
from quasar_rt.image_sets import ImageFiles, images_of, is_named, labelled_images, read_image_set, shards
from quasar_rt.images import to_pixels
from quasar_rt.texts import Texts


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def webdataset():
    return pytest.importorskip("webdataset", reason="needs the [webdataset] extra")


@pytest.fixture
def hugging_face(tmp_path, monkeypatch):
    library = pytest.importorskip("datasets", reason="needs the [datasets] extra")
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path / "cache" / "datasets")
    library.disable_progress_bars()
    return library


def index(name):
    return {"cls": str(CLASSES.index(name)).encode()}


def as_json(name):
    return {"json": json.dumps({"label": name, "caption": "x"}).encode()}


def sets(root):
    """Yields names of sets that hold the images of a folder, with the kind of each."""
    (root.parent / "classes.txt").write_text("\n".join(CLASSES), encoding="utf-8")
    for kind, label in (("cls", index), ("json", as_json), ("folder", lambda _: {})):
        place = root.parent / kind
        pack(root / "train", place / "train", 5, label)
        pack(root / "val", place / "val", 7, label)
    yield "cls", f"wds:{root.parent}/cls#classes={root.parent}/classes.txt"
    yield "json", f"{root.parent}/json/train-{{000..004}}.tar#test={root.parent}/json/val-*.tar"
    yield "folder", f"{root.parent}/folder"


def contents(images):
    return [to_pixels(image).tobytes() for image in images]


def same(found, expected, classes=None):
    assert found.classes == (classes or expected.classes)
    for part in ("train", "test"):
        mine, others = getattr(found, part), getattr(expected, part)
        assert mine.labels.tolist() == others.labels.tolist()
        assert contents(mine.images) == contents(others.images)


def test_shards_hold_what_a_folder_holds(tmp_path, webdataset):
    root = image_folder(tmp_path / "images")
    expected = read_image_set(root)
    for kind, name in sets(root):
        assert is_named(name), kind
        found = read_image_set(name)
        same(found, expected)
        # So a run may go on with the same images packed.
        assert [found.train.images.name(i) for i in range(24)] == [
            expected.train.images.name(i) for i in range(24)
        ]


def test_shards_that_the_library_writes_are_read(tmp_path, webdataset):
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (6, 9, 9, 3)).astype(np.uint8)
    with webdataset.ShardWriter(f"{tmp_path}/s-%02d.tar", maxcount=4, verbose=0) as writer:
        for number, picture in enumerate(pictures):
            writer.write({"__key__": f"{number:06d}", "png": picture, "cls": number % 2, "json": {"n": 1}})
    part = labelled_images(f"wds:{tmp_path}/s-{{00..01}}.tar", ["a", "b"])
    assert part.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert contents(part.images) == [picture.tobytes() for picture in pictures]


def test_hugging_face_data_sets_hold_what_a_folder_holds(tmp_path, hugging_face):
    root = image_folder(tmp_path / "images")
    expected = read_image_set(root)
    loaded = hugging_face.load_dataset(str(root))
    loaded.save_to_disk(tmp_path / "saved")
    for split, table in loaded.items():
        table.to_parquet(tmp_path / "parquet" / f"{split}-00000-of-00001.parquet")
    for name in (f"hf:{root}", f"hf:{tmp_path}/saved", f"{tmp_path}/saved", f"hf:{tmp_path}/parquet"):
        assert is_named(name)
        found = read_image_set(name)
        same(found, expected)
        part = labelled_images(name, ("Dog", "x", "eel", "cat"))
        assert part.labels.tolist() == [3] * 8 + [0] * 8 + [2] * 8
    assert contents(images_of(f"hf:{root}")) == contents(images_of(root / "train"))


def test_a_parquet_file_of_others_is_read_by_its_columns(tmp_path, hugging_face):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    root = image_folder(tmp_path / "images", ("all",), each=3)
    paths = sorted(root.glob("all/*/*"))
    data = [path.read_bytes() for path in paths]
    place = tmp_path / "table"
    place.mkdir()

    def write(**columns):
        parquet.write_table(pyarrow.table(columns), place / "train.parquet")
        return f"hf:{place}"

    labels = [path.parent.name for path in paths]
    name = write(picture=data, label=labels, caption=labels)
    found = read_image_set(name)
    same(found, read_image_set(root / "all"))
    with pytest.raises(
        DatasetError, match=r"several columns of images \(one of a, b\): append '#image=\.\.\.'"
    ):
        read_image_set(write(a=data, b=data, label=labels))
    with pytest.raises(DatasetError, match=r"no column is known to hold labels \(one of kind\): .*#label="):
        read_image_set(write(a=data, kind=labels))
    chosen = f"{write(a=data, kind=labels)}#label=kind,train=train"
    assert read_image_set(chosen).classes == CLASSES
    assert contents(images_of(f"hf:{place}")) == contents(paths)
    with pytest.raises(DatasetError, match=r"there is no column 'x' \(one of a, kind\): append ',image="):
        read_image_set(f"hf:{place}#label=kind,image=x")
    with pytest.raises(
        DatasetError, match=r"row 1 of the split 'train' of .* has None in its column 'label'"
    ):
        read_image_set(write(a=data[:2], label=["cat", None]))
    with pytest.raises(DatasetError, match=r"row 1 .* has the label -1, .* held back"):
        read_image_set(write(a=data[:2], label=[0, -1]))
    with pytest.raises(DatasetError, match=r"no split 'validation' \(one of train\): append ',test="):
        read_image_set(f"hf:{place}#train=train,test=validation")
    lacks = read_image_set(write(a=[*data[:8], None], label=[0, 1, 2] * 3))
    assert sorted(lacks.train.images.name(i) for i in range(6))[0] == f"row 0 ({len(data[0])} bytes)"
    with pytest.raises(ImageError, match=r"row 8 of the split 'train' of .* has no image in the column 'a'"):
        to_pixels(images_of(f"hf:{place}")[8])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"cannot be opened: .*OWNER/NAME of the Hub"):
        read_image_set(f"hf:{tmp_path}/empty")
    with pytest.raises(ImageError, match=r"row 0 of the split 'train' of .*'\" \(8 bytes\) is not an image"):
        to_pixels(read_image_set(write(a=[b"no image"] * 9, label=[0, 1, 2] * 3)).train.images[0])


def test_calibration_images_are_spread_over_the_classes(tmp_path, webdataset):
    root = image_folder(tmp_path / "images", ("all",))
    pack(root / "all", tmp_path / "shards" / "s", 9)
    few = images_of(tmp_path / "shards").spread(6)
    assert [few.name(i).split("/")[0] for i in range(6)] == ["cat", "cat", "dog", "dog", "eel", "eel"]
    assert contents(few) == contents(images_of(root).spread(6))
    assert len(images_of(root).spread(100)) == 24
    # A set of one part is divided as a folder is.
    pack(root / "all", tmp_path / "numbered" / "s", 9, index)
    same(read_image_set(tmp_path / "numbered"), read_image_set(root / "all"), ("0", "1", "2"))


@pytest.mark.filterwarnings("ignore:the subnet .* is not trained")
def test_accuracy_on_shards_is_that_on_the_image_folder(tmp_path, webdataset):
    root = image_folder(tmp_path / "images", ("val",))
    pack(root / "val", tmp_path / "s", 9)
    subnet = random_subnet(embed=16, depth=1, heads=2, image_size=16, kernel=8, hidden=24, classes=3)
    subnet.save(tmp_path / "net.qvit")
    names = subnet.classes
    for old, new in zip(CLASSES, names, strict=True):
        (root / "val" / old).rename(root / "val" / new)
    with Engine(subnet) as engine:
        expected = evaluate(engine, open_dataset(str(root / "val"), names))
        with pytest.raises(DatasetError, match=r"has the label 'cat', .* append '#by=index' to the name"):
            open_dataset(f"wds:{tmp_path}/s-*.tar", names)
        found = evaluate(engine, open_dataset(f"wds:{tmp_path}/s-*.tar#by=index", names))
    assert found.confusion.matrix.tolist() == expected.confusion.matrix.tolist()
    data = f"wds:{tmp_path}/s-*.tar#by=index"
    assert json_of("eval", tmp_path / "net.qvit", "--data", data, "--limit", 20)["images"] == 20
    result = run("eval", tmp_path / "net.qvit", "--data", "wds:none.tar", status=2)
    assert result.stderr.endswith(
        "Error: 'wds:none.tar': 1 of 1 shards are missing or no files, first 'none.tar'\n"
    )


def test_a_record_that_cannot_be_decoded_is_named(tmp_path, webdataset):
    with tarfile.open(tmp_path / "s-0.tar", "w") as tar:
        for number, data in enumerate((b"no image", b"", b"\x89PNG\r\n\x1a\n")):
            add(tar, f"deep/{number}.png", data)
            add(tar, f"deep/{number}.cls", b"0")
    part = labelled_images(f"{tmp_path}/s-0.tar", ["a"])
    for number, problem in enumerate(("is not an image", "is empty", "cannot read|is not an image")):
        with pytest.raises(ImageError, match=rf"s-0\.tar: deep/{number}\.png' .*({problem})"):
            to_pixels(part.images[number])
    # A shard that is changed while it is used.
    (tmp_path / "s-0.tar").write_bytes(b"")
    with pytest.raises(ImageError, match=r"'.*s-0\.tar' ended within .*deep/0\.png"):
        to_pixels(part.images[0])
    (tmp_path / "s-0.tar").unlink()
    with pytest.raises(ImageError, match=r"the shard '.*s-0\.tar' cannot be read"):
        to_pixels(part.images[0])


def test_a_damaged_shard_is_named(tmp_path, webdataset):
    root = image_folder(tmp_path / "images", ("all",))
    pack(root / "all", tmp_path / "s", 24, index)
    sound = (tmp_path / "s-000.tar").read_bytes()
    shard = tmp_path / "s.tar"

    def fails(data, match):
        shard.write_bytes(data)
        with pytest.raises(DatasetError, match=match):
            labelled_images(f"wds:{shard}", CLASSES)

    fails(b"", r"the shard '.*s\.tar' cannot be read: .*; a shard is an uncompressed \.tar file")
    fails(gzip.compress(sound), r"cannot be read: .*uncompressed")
    fails(sound[: len(sound) // 2], r"cannot be read: unexpected end of data")
    where = sound.index(b"dog/all-3.png")
    fails(sound[:where] + b"x" + sound[where + 1 :], rf"is damaged at byte {where:,}")
    fails(b"\0" * 1024, "the shards hold no sample")
    shard.write_bytes(sound)
    assert len(labelled_images(f"wds:{shard}", CLASSES)) == 24


def write(path, *files):
    with tarfile.open(path, "w") as tar:
        for name, data in files:
            add(tar, name, data)
    return f"wds:{path}"


@pytest.mark.parametrize(
    ("files", "options", "problem"),
    [
        ([("a.jpg", b"x"), ("a.png", b"x"), ("a.cls", b"0")], "", r"several images \(one of jpg, png\).*#"),
        ([("a.txt", b"x"), ("a.cls", b"0")], "", r"sample 'a' of '.*s\.tar' has no image \(it has txt, cls"),
        ([("a.jpg", b"x")], "", r"its label is not known \(none found\): append '#label="),
        ([("a.jpg", b"x"), ("a.json", b"{}")], "", r"its label is not known"),
        ([("a.jpg", b"x"), ("a.json", b'{"kind": 1}'), ("a.txt", b"")], "", r"one of txt, json\.kind\)"),
        ([("a.jpg", b"x"), ("a.json", b"{")], "", r"sample 'a' of .*: its json is damaged"),
        ([("a.jpg", b"x"), ("a.json", b"[]")], "", r"its json is no JSON object"),
        ([("a.jpg", b"x"), ("a.cls", b"0"), ("b.jpg", b"x")], "", r"sample 'b' .* has no field 'cls'"),
        ([("a.jpg", b"x"), ("a.cls", b"7")], "", r"sample 'a' of .* has the label 7, which is none of the 3"),
        ([("a.jpg", b"x"), ("a.cls", b"-1")], "", r"the label -1, .* held back"),
        ([("a.jpg", b"x"), ("a.cls", b"0")], "#image=webp", r"no field 'webp' \(it has jpg, cls\)"),
        ([("a.jpg", b"x"), ("a.cls", b"0")], "#by=size", r"neither by=name nor by=index"),
        ([("a.jpg", b"x"), ("a.cls", b"0")], "#colour=red", r"not 'colour=red' \(options: image, label"),
        ([("a.jpg", b"x"), ("a.cls", b"\xff")], "", r"sample 'a' of .*: its cls is no text"),
        ([("a.jpg", b"x"), ("a.jpg", b"x")], "", r"the shard '.*s\.tar' is damaged: a\.jpg: duplicate"),
        ([("a.jpg", b"x"), ("a.json", b'{"k": 1.5}')], "#label=json.k", r"'k' in its json is no label"),
        ([("a.jpg", b"x")], "#label=folder", r"sample 'a' of .* is in no folder"),
        (
            [("a.jpg", b"x"), ("a.cls", b"0"), ("b.jpg", b"x"), ("b.cls", b"7" * 10_000)],
            "",
            r"sample 'b' of '.*s\.tar' has a label of 10,000 characters, '777.*\.\.\..*7': the index of a class has at",
        ),
        # A name for each number up to the label would fill the memory.
        ([("a.jpg", b"x"), ("a.cls", b"7" * 18)], "", r"sample 'a' of .* has a label of 18 characters"),
        ([("a.jpg", b"x"), ("a.json", b'{"label": 7777777}')], "", r"has a label of 7 characters, '7777777'"),
        ([("a.jpg", b"x"), ("a.cls", b"-" + b"7" * 5000)], "", r"has a label of 5,001 characters"),
        (
            [("a.jpg", b"x"), ("a.json", b'{"label": ' + b"7" * 10_000 + b"}")],
            "",
            r"sample 'a' of .*: its json is damaged: Exceeds the limit|has a label of 10,000 characters",
        ),
        ([("a.jpg", b"x"), ("a.json", b'{"label": true}')], "", r"'label' in its json is no label"),
        ([("a.jpg", b"x"), ("a.json", b'{"label": 1e400}')], "", r"'label' in its json is no label"),
        # Digits of other scripts make a name, which is none of the classes.
        ([("a.jpg", b"x"), ("a.cls", "\u0661".encode())], "", r"has the label '\u0661', which is none of"),
        ([("a.jpg", b"x"), ("a.cls", b"0" * (MOST_TEXT_BYTES + 1))], "", r"its cls is larger than 1,048,576"),
    ],
)
def test_what_a_shard_lacks_is_named(tmp_path, webdataset, files, options, problem):
    name = write(tmp_path / "s.tar", *files)
    with pytest.raises(DatasetError, match=problem):
        labelled_images(name + options, CLASSES)


def test_shards_are_found_or_the_missing_one_is_named(tmp_path, webdataset):
    write(tmp_path / "a-0.tar", ("k.jpg", b"x"))
    for name, problem in (
        (f"wds:{tmp_path}/a-{{0..2}}.tar", r"2 of 3 shards are missing or no files, first '.*a-1\.tar'"),
        (f"wds:{tmp_path}/b-*.tar", r"no file matches '.*b-\*\.tar'"),
        (f"wds:{tmp_path}/a-0.tar::{tmp_path}/a-0.tar", "names a shard twice"),
        (f"wds:{tmp_path}/a-0.tar#test={tmp_path}/a-*.tar", "named for training and for the test"),
        ("wds:https://example.org/a.tar", r"must be local files, not https://\.\.\.: download them first"),
        ("wds:pipe:cat a.tar", r"must be local files, not pipe:\.\.\."),
        ("wds:", "names no data: wds:PLACE"),
        (f"wds:{tmp_path}/x", "1 of 1 shards are missing or no files"),
    ):
        with pytest.raises(DatasetError, match=problem):
            images_of(name)
    (tmp_path / "f").mkdir()
    with pytest.raises(DatasetError, match=r"there is no \.tar file"):
        images_of(f"wds:{tmp_path}/f")
    for name in ("train-0.tar", "0.tar"):
        write(tmp_path / "f" / name, ("k.jpg", b"x"))
    with pytest.raises(
        DatasetError, match=r"'.*/f/0\.tar' has no such word: name the shards: wds:TRAINING#test="
    ):
        images_of(f"{tmp_path}/f")
    # Archives next to the folders that they were unpacked to are no shards.
    (tmp_path / "f" / "train").mkdir()
    assert not is_named(f"{tmp_path}/f")


def test_a_shard_is_indexed_once_until_it_changes(tmp_path, webdataset, monkeypatch):
    name = write(tmp_path / "s.tar", ("a.jpg", b"x"), ("a.cls", b"1"))
    indexed: list[str] = []
    index = shards._samples

    def counted(path, group):
        indexed.append(path)
        return index(path, group)

    monkeypatch.setattr(shards, "_samples", counted)
    for _ in range(2):
        assert labelled_images(name, CLASSES).labels.tolist() == [1]
    assert len(indexed) == 1
    write(tmp_path / "s.tar", ("a.jpg", b"x"), ("a.cls", b"1"), ("b.jpg", b"x"), ("b.cls", b"2"))
    assert labelled_images(name, CLASSES).labels.tolist() == [1, 2]
    # A damaged index is made again, and a cache that cannot be written is done without.
    for file in (tmp_path / "cache").rglob("*.json"):
        file.write_text("{", encoding="utf-8")
    assert labelled_images(name, CLASSES).labels.tolist() == [1, 2]
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert labelled_images(name, CLASSES).labels.tolist() == [1, 2]


@pytest.mark.parametrize(("library", "name"), [("webdataset", "wds:x.tar"), ("datasets", "hf:x/y")])
def test_a_missing_library_is_named_with_its_extra(monkeypatch, library, name):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(DatasetError, match=re.escape(f"pip install 'quasar-rt[{library}]'")):
        images_of(name)
    assert f"pip install 'quasar-rt[{library}]'" in run("eval", "digits", "--data", name, status=2).stderr


def test_the_paths_of_many_images_lie_in_one_piece_of_memory():
    count = 20_000
    paths = [f"/data/imagenet/train/n{i // 1300:08d}/n{i // 1300:08d}_{i}.JPEG" for i in range(count)]
    tracemalloc.start()
    try:
        files = ImageFiles(path for path in paths)
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    # A little more than the bytes of a path and the 8 of its end; a path as an object of Python takes 3 times as much.
    assert taken < 1.3 * sum(len(path) + 8 for path in paths)
    assert [files.read(i) for i in (0, 9_999, -1)] == [Path(paths[i]) for i in (0, 9_999, -1)]
    assert files.name(9_999) == "n00000007/n00000007_9999.JPEG"
    with pytest.raises(IndexError):
        files.read(count)


def test_texts_are_a_sequence_of_any_file_names():
    names = ["a/b.png", "", "caf\u00e9/\U0001f600.jpg", "not \udcff utf-8"]
    texts = Texts(names)
    assert list(texts) == names
    assert texts[-1] == names[-1]
    assert texts[1:3] == names[1:3]
    assert texts.index(names[2]) == 2
    with pytest.raises(IndexError):
        texts[4]


def rows(hugging_face, tmp_path, images, labels=None):
    """Writes a Parquet file of images and labels as others would, and returns its set's name."""
    table = {"picture": images, "label": labels or [0] * len(images)}
    (tmp_path / "rows").mkdir()
    hugging_face.Dataset.from_dict(table).to_parquet(tmp_path / "rows" / "train.parquet")
    return f"hf:{tmp_path}/rows#image=picture"


def test_a_row_opens_regular_files_alone(tmp_path, hugging_face, waits):
    paths = [str(tmp_path / "pipe"), "/dev/zero", "no\0file", str(tmp_path), "missing.png"]
    name = rows(hugging_face, tmp_path, [{"bytes": None, "path": path} for path in paths])
    part = labelled_images(name, CLASSES)
    with waits(tmp_path / "pipe"):
        for number, problem in enumerate(
            ("not a regular file", "not a regular file", "null byte", "Is a directory", "No such file")
        ):
            with pytest.raises(
                ImageError, match=rf"row {number} of .*: its file cannot be read: .*{problem}"
            ):
                to_pixels(part.images[number])


def test_a_rows_file_has_the_limit_of_an_image(tmp_path, hugging_face, monkeypatch):
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(1 << 40)
    part = labelled_images(
        rows(hugging_face, tmp_path, [{"bytes": None, "path": str(tmp_path / "large.png")}]), CLASSES
    )
    for module in ("images", "image_sets.hugging_face"):
        monkeypatch.setattr(f"quasar_rt.{module}.MOST_ENCODED_BYTES", 1000)
    with pytest.raises(ImageError, match=r"row 0 of .* holds more than 1,000 bytes, the limit of an image"):
        to_pixels(part.images[0])


@pytest.mark.parametrize(
    "value",
    [{"bytes": None, "path": 0}, {"bytes": "text", "path": None}, {"bytes": None, "path": b"x"}, "text", 0],
)
def test_a_row_without_an_encoded_image_is_named(tmp_path, hugging_face, value):
    part = labelled_images(rows(hugging_face, tmp_path, [value]), CLASSES)
    for use in (lambda: to_pixels(part.images[0]), lambda: part.images.name(0)):
        with pytest.raises(ImageError, match=r"row 0 of .* has no encoded image in the column 'picture'"):
            use()


@pytest.mark.parametrize("label", [10**12, -(10**12), 2**63 - 1])
def test_numbers_of_no_class_in_rows_are_named(tmp_path, hugging_face, label):
    with pytest.raises(DatasetError, match=f"row 1 of .* has a label of .* characters, {label}: the index"):
        labelled_images(rows(hugging_face, tmp_path, [b"x", b"x"], [0, label]), CLASSES)


def test_a_pipe_among_the_shards_of_a_folder_is_not_waited_for(tmp_path, webdataset, waits):
    with (
        waits(tmp_path / "s.tar"),
        pytest.raises(DatasetError, match=r"s\.tar' cannot be read: it is not a regular"),
    ):
        labelled_images(f"wds:{tmp_path}", CLASSES)
