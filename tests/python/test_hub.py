"""Subnet.from_pretrained: folders first, then the Hub's cache; errors name the remedy."""

import sys

import pytest

import quasar_rt
from quasar_rt import FileError, Subnet

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub():
    return pytest.importorskip("huggingface_hub", reason="needs the [hub] extra")


def cached(folder, subnets, repository="someone/clothes", revision="main"):
    """Makes a cache of the Hub that holds a repository with these files."""
    place = folder / f"models--{repository.replace('/', '--')}"
    for name, subnet in subnets.items():
        subnet.save_pretrained(place / "snapshots" / COMMIT, filename=name)
    (place / "refs").mkdir(parents=True, exist_ok=True)
    (place / "refs" / revision).write_text(COMMIT)
    (place / "snapshots" / COMMIT).mkdir(parents=True, exist_ok=True)
    return folder


def test_a_saved_folder_is_read_again(tmp_path, gray_subnet):
    path = gray_subnet.save_pretrained(tmp_path / "deep" / "folder")
    assert path == tmp_path / "deep" / "folder" / "gray.qvit"
    for source in (path.parent, str(path.parent), path, str(path)):
        assert Subnet.from_pretrained(source) == gray_subnet
    assert Subnet.from_pretrained("fashion-mnist") == Subnet.load("fashion-mnist")


@pytest.mark.parametrize(
    ("name", "file"),
    [("a/b", "a_b.qvit"), ("../up", "_up.qvit"), ("Größe 2", "Größe_2.qvit"), ("..", "subnet.qvit")],
)
def test_a_name_becomes_a_files_name(tmp_path, gray_subnet, name, file):
    named = Subnet.from_parts({**gray_subnet.config, "name": name}, gray_subnet.tensors())
    assert named.save_pretrained(tmp_path) == tmp_path / file


def test_of_several_subnets_one_is_chosen(tmp_path, gray_subnet, colour_subnet):
    gray_subnet.save_pretrained(tmp_path)
    colour_subnet.save_pretrained(tmp_path)
    with pytest.raises(FileError, match=r"2 subnets.*filename.*colour\.qvit, gray\.qvit"):
        Subnet.from_pretrained(tmp_path)
    assert Subnet.from_pretrained(tmp_path, filename="colour.qvit") == colour_subnet
    with pytest.raises(FileError, match=r"no file 'other\.qvit' \(there are: colour"):
        Subnet.from_pretrained(tmp_path, filename="other.qvit")
    for filename in ("../gray.qvit", "/gray.qvit"):
        with pytest.raises(quasar_rt.InvalidValueError, match="filename"):
            Subnet.from_pretrained(tmp_path, filename=filename)


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(FileError, match=r"no \.qvit file; .*export"):
        Subnet.from_pretrained(tmp_path)
    for source in ("nothing", "a/b/c", "", "-/x", tmp_path / "none"):
        with pytest.raises(FileError, match=r"no folder, file or packaged subnet.*owner/name"):
            Subnet.from_pretrained(source)
    (tmp_path / "bad.qvit").write_bytes(b"no subnet, but long enough")
    with pytest.raises(quasar_rt.SubnetError, match="bad"):
        Subnet.from_pretrained(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="nothing can be written to the folder"):
        Subnet.load("fashion-mnist").save_pretrained(tmp_path / "file" / "folder")


def test_a_folder_comes_before_the_hub(tmp_path, gray_subnet, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    gray_subnet.save_pretrained("someone/clothes")
    assert Subnet.from_pretrained("someone/clothes") == gray_subnet


def test_a_repository_comes_from_the_cache_without_a_network(tmp_path, hub, gray_subnet, colour_subnet):
    cache = cached(tmp_path, {"gray.qvit": gray_subnet})
    arguments = dict(cache_dir=cache, local_files_only=True)
    for revision in (None, "main", COMMIT):
        assert Subnet.from_pretrained("someone/clothes", revision=revision, **arguments) == gray_subnet
    colour_subnet.save_pretrained(cache / "models--someone--clothes/snapshots" / COMMIT)
    with pytest.raises(FileError, match=r"the Hub's 'someone/clothes' has 2 subnets"):
        Subnet.from_pretrained("someone/clothes", **arguments)
    assert Subnet.from_pretrained("someone/clothes", filename="colour.qvit", **arguments) == colour_subnet


def test_a_repository_that_cannot_be_had_is_named(tmp_path, hub):
    with pytest.raises(
        FileError, match=r"no folder 'no/one' here, and the Hub gives none at revision 'v1': .+"
    ):
        Subnet.from_pretrained("no/one", revision="v1", cache_dir=tmp_path, local_files_only=True)
    cached(tmp_path, {})
    with pytest.raises(FileError, match=r"Hub's 'someone/clothes' has no \.qvit file"):
        Subnet.from_pretrained("someone/clothes", cache_dir=tmp_path, local_files_only=True)


def test_only_subnets_are_downloaded(tmp_path, hub, gray_subnet, monkeypatch):
    asked = []
    gray_subnet.save_pretrained(tmp_path)

    def download(repository, **arguments):
        asked.append((repository, arguments))
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", download)
    assert Subnet.from_pretrained("some.one/clo_thes-2", token=False) == gray_subnet
    Subnet.from_pretrained("some/one", filename="gray.qvit", revision="v1")
    assert [arguments["allow_patterns"] for _, arguments in asked] == [["*.qvit"], ["gray.qvit"]]
    assert asked[0][0] == "some.one/clo_thes-2"
    assert (asked[0][1]["token"], asked[1][1]["revision"]) == (False, "v1")


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"pip install 'quasar-rt\[hub\]'"):
        Subnet.from_pretrained("someone/clothes")
