"""Commands that compare pictures: indexes, the nearest pictures, heat maps; over links, existing and broken files."""

import base64
import json

import numpy as np
import pytest
from PIL import Image

from helpers import json_of, run
from quasar_rt import Engine, FileError, random_subnet
from quasar_rt.comparing import Index, heat_of

pytestmark = pytest.mark.filterwarnings("ignore::quasar_rt.UntrainedWarning")


@pytest.fixture
def place(tmp_path):
    """Returns a folder with a subnet, and pictures, one of them a link, one broken; a link to a folder is left out."""
    shape = dict(embed=24, depth=1, heads=2, head_dim=8, hidden=40, image_size=20, channels=3, kernel=5)
    random_subnet(**shape, classes=0, embedding=True, patch_tokens=True).save(tmp_path / "patches.qvit")
    rng = np.random.default_rng(0)
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for number in range(3):
        pixels = rng.integers(0, 256, (24, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "in" / "deep" / f"<{number}>.png")
    (tmp_path / "in" / "link.png").symlink_to(tmp_path / "in" / "deep" / "<0>.png")
    (tmp_path / "in" / "around").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "broken.png").write_text("no picture")
    return tmp_path


@pytest.mark.parametrize("ending", ["npz", "parquet"])
def test_an_index_finds_the_nearest_pictures(place, ending):
    if ending == "parquet":
        pytest.importorskip("pyarrow")
    out, page = place / f"index.{ending}", place / "page.html"
    for _ in range(2):  # an earlier index is replaced
        answer = run("embed", place / "patches.qvit", place / "in", "--out", out, "--device", "cpu", status=1)
    assert "1 of 5 pictures cannot be read" in answer.output
    index = Index.load(out)
    with Engine(place / "patches.qvit", "cpu") as engine:
        np.testing.assert_array_equal(index.vectors, engine.embed_batch(index.names))
    asked = place / "in" / "link.png"
    near = json_of("similar", out, asked, "--html", page, "--device", "cpu")["nearest"]
    assert len(near) == 4
    assert {one["picture"] for one in near[:2]} == {str(asked), str(place / "in" / "deep" / "<0>.png")}
    assert near[1]["cosine"] == 1 > near[2]["cosine"]
    shown = page.read_text().split('id="data">')[1].split("</script>")[0]
    assert "<0>" not in shown
    thumbnails = [base64.b64decode(one["jpeg"]) for one in json.loads(shown)["pictures"]]
    assert [one[:2] for one in thumbnails] == 5 * [b"\xff\xd8"]
    random_subnet(embed=24, depth=1, classes=0, embedding=True, seed=9).save(place / "patches.qvit")
    assert "is not the subnet that made" in run("similar", out, asked, status=2).output


def test_nothing_of_others_is_replaced(place):
    np.savez(place / "mine.npz", mine=np.zeros(3))
    (place / "page.html").write_text("mine")
    (place / "link.npz").symlink_to(place / "index.npz")
    embed = ["embed", place / "patches.qvit", place / "in" / "link.png", "--device", "cpu", "--out"]
    for name in ("mine.npz", "link.npz"):
        assert "cannot be written" in run(*embed, place / name, status=2).output
    run(*embed, place / "index.npz")
    similar = ["similar", place / "index.npz", place / "in" / "link.png", "--html", place / "page.html"]
    assert "is no page that quasar-rt wrote" in run(*similar, status=2).output
    with pytest.raises(FileError, match=r"mine\.npz' is no index"):
        Index.load(place / "mine.npz")
    heat = ["heat", place / "patches.qvit", place / "in", "--bank", place / "in"]
    assert "give the results a folder of their own" in run(*heat, "--save", place / "in", status=2).output


def test_a_heat_map_is_the_distance_to_the_nearest_sound_patch(place):
    sound, asked = place / "in" / "deep" / "<0>.png", place / "in" / "deep" / "<1>.png"
    heat = ["heat", place / "patches.qvit", sound, asked, "--bank", sound, "--device", "cpu"]
    found = json_of(*heat, "--save", place / "out")["pictures"]
    with Engine(place / "patches.qvit", "cpu") as engine:
        bank, tokens = (engine.embed(one, tokens="patch").values for one in (sound, asked))
    apart = np.linalg.norm(tokens[:, :, None] - bank.reshape(-1, bank.shape[-1]), axis=-1)
    np.testing.assert_allclose(found[0]["heat"], apart.min(axis=2), rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(heat_of(bank, bank.reshape(-1, 24)) < 1e-2, True)
    assert [one["picture"] for one in found] == [str(asked), str(sound)]
    run(*heat, "--save", place / "out")  # later maps get a number
    assert sorted(one.name for one in (place / "out").iterdir()) == [
        "_0_-2.png",
        "_0_.png",
        "_1_-2.png",
        "_1_.png",
    ]
    with Image.open(place / "out" / "_1_.png") as drawn:
        assert min(drawn.size) >= 200


def test_a_subnet_without_classes_names_the_commands(place):
    refused = run("infer", place / "in" / "link.png", "--subnet", place / "patches.qvit", status=2).output
    assert all(f"{command} " in refused for command in ("quasar-rt embed", "similar", "heat", "name"))
    random_subnet(embed=24, depth=1, classes=2).save(place / "classes.qvit")
    picture = place / "in" / "link.png"
    assert (
        "--embedding"
        in run("embed", place / "classes.qvit", picture, "--out", place / "i.npz", status=2).output
    )
    assert (
        "--tokens patch" in run("heat", place / "classes.qvit", picture, "--bank", picture, status=2).output
    )
