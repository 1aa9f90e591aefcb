"""Classes in words: the text tower's agreement with transformers, the head's with float, new words, refusals."""

import json
import shutil

import numpy as np
import pytest

from helpers import json_of, run
from quasar_rt import Engine, InvalidValueError, QuasarError, Subnet
from simulated import library

torch = pytest.importorskip("torch")
folders = pytest.importorskip("text_folders")

from PIL import Image  # noqa: E402

from quasar_rt.export import export_named  # noqa: E402
from quasar_rt.export.named import rename  # noqa: E402
from quasar_rt.export.post_training import prepare  # noqa: E402
from quasar_rt.fitting.shape import workload_of  # noqa: E402
from quasar_rt.hardware import Workload  # noqa: E402
from quasar_rt.networks import load_network  # noqa: E402
from quasar_rt.networks.words import encode_words  # noqa: E402
from quasar_rt.quantization import ExportOptions  # noqa: E402

NAMES = ["cat", "a red car", "猫", "собака", "القط", "ship"]
TEMPLATES = {"clip": ["a photo of a {}."], "siglip": ["This is a photo of {}."]}


def pictures(count):
    rng = np.random.default_rng(count)
    small = rng.integers(0, 256, (count, 5, 5, 3), dtype=np.uint8)
    return small.repeat(6, axis=1).repeat(6, axis=2)


@pytest.fixture(scope="module", params=folders.KINDS)
def made(request, tmp_path_factory):
    """Returns a folder's kind, the folder, transformers' model and tokenizer, and an 8-bit subnet."""
    folder = tmp_path_factory.mktemp(request.param)
    model, tokenizer = folders.write(folder, request.param)
    subnet = export_named(folder, NAMES, pictures(40), eight_bit_fraction=1.0)
    return request.param, folder, model, tokenizer, subnet


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, picture in enumerate(pictures(5)):
        Image.fromarray(picture).save(folder / f"{number}.png")
    return folder


def text_of(kind, tokenizer, texts):
    padding = "max_length" if kind == "siglip" else True
    found = tokenizer(texts, padding=padding, max_length=41, truncation=True, return_tensors="pt")
    return {key: found[key] for key in ("input_ids", "attention_mask")}


def normalised(images):
    mean, std = (torch.tensor(one).view(1, 3, 1, 1) for one in ([0.4, 0.5, 0.6], [0.3, 0.25, 0.2]))
    return (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - mean) / std


def expected(made, images, texts=None):
    """Returns transformers' logits_per_image."""
    kind, _, model, tokenizer, _ = made
    texts = texts or [TEMPLATES[kind][0].format(name) for name in NAMES]
    with torch.no_grad():
        return model(
            pixel_values=normalised(images), **text_of(kind, tokenizer, texts)
        ).logits_per_image.numpy()


def probabilities(kind, logits):
    if kind == "siglip":
        return 1 / (1 + np.exp(-logits))
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def test_float_classes_are_those_of_transformers(made):
    _, folder, _, _, _ = made
    images = pictures(9)
    with torch.no_grad():
        features = load_network(folder).model(normalised(images)).numpy()
    np.testing.assert_allclose(
        encode_words(folder, NAMES).logits(features), expected(made, images), atol=1e-4
    )
    alone = encode_words(folder, NAMES, ["{}"]).logits(features)
    np.testing.assert_allclose(alone, expected(made, images, NAMES), atol=1e-4)


def test_several_templates_are_averaged_on_the_sphere(made):
    kind, folder, model, tokenizer, _ = made
    texts = [f"{start} {name}" for name in NAMES for start in ("my", "a drawing of a")]
    with torch.no_grad():
        found = model.get_text_features(**text_of(kind, tokenizer, texts))
    units = torch.nn.functional.normalize(getattr(found, "pooler_output", found), dim=1)
    mean = units.reshape(len(NAMES), 2, -1).mean(1).numpy()
    words = encode_words(folder, ["", *NAMES, "  "], ["my {}", "a drawing of a {}"])
    np.testing.assert_allclose(words.vectors, mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-5)


def test_integers_order_the_classes_as_the_embedding_allows(made):
    kind, folder, _, _, subnet = made
    images = pictures(30)
    exact, words = expected(made, images), encode_words(folder, NAMES)
    with Engine(subnet, "cpu") as engine:
        found = engine.infer_batch(images, top_k=len(NAMES))
    vectors = words.vectors @ found.embeddings.T
    allowed = words.scale * vectors.T + (words.bias or 0)
    # Rounding of the head's rows and of the embedding's codes.
    np.testing.assert_allclose(found.logits, allowed, atol=0.02 * words.scale)
    errors = np.abs(found.logits - exact)
    assert errors.max() < 0.15
    first, second = np.triu_indices(len(NAMES), 1)
    apart = np.abs(exact[:, first] - exact[:, second]) > 2 * errors.max()
    assert apart.mean() > 0.5
    same = np.sign(found.logits[:, first] - found.logits[:, second]) == np.sign(
        exact[:, first] - exact[:, second]
    )
    assert same[apart].all()
    chances = probabilities(kind, exact)
    for one, chance in zip(found, chances, strict=True):
        for score in one.top_k:
            assert score.probability == pytest.approx(chance[score.index], abs=0.03)
        assert one.none_of_these == (kind == "siglip" and one.probability < 0.5)
    assert any(one.none_of_these for one in found) == (kind == "siglip")


def test_a_simulated_accelerator_has_the_cpus_bits(made):
    library("tiny")
    images = pictures(3)
    with Engine(made[-1], "cpu") as cpu, Engine(made[-1], "sim:tiny") as engine:
        expected = cpu.infer_batch(images)
        assert engine.infer_batch(images) == expected
        assert [one.top_k for one in engine.infer_batch(images)] == [one.top_k for one in expected]


def test_other_words_keep_the_embedding_and_the_first_ones_give_the_first_bytes(made, tmp_path):
    _, folder, _, _, subnet = made
    other = rename(subnet, encode_words(folder, ["house", "boat"]))
    assert other.classes == ["house", "boat"]
    images = pictures(4)
    with Engine(subnet, "cpu") as before, Engine(other, "cpu") as after:
        for one, another in zip(before.infer_batch(images), after.infer_batch(images), strict=True):
            assert one.embedding == another.embedding
    assert rename(other, encode_words(folder, NAMES)).to_bytes() == subnet.to_bytes()
    folders.write(tmp_path, made[0], seed=8)
    with pytest.raises(InvalidValueError, match="was named by another model"):
        rename(subnet, encode_words(tmp_path, NAMES))


def test_a_fit_counts_the_rows_of_the_words(made):
    _, folder, _, _, subnet = made
    words, model = encode_words(folder, NAMES), load_network(folder).model
    prepared = prepare(model, pictures(2), ExportOptions(model, pictures(2), words=words, rotate=False))
    head = [layer.rows for layer in subnet.summary().layers if layer.name == "head"]
    assert head == [len(NAMES) + subnet.embedding_size]
    plain = export_named(folder, NAMES, pictures(2), eight_bit_fraction=1.0, rotate=False)
    assert workload_of(prepared, 8).settings == Workload.of_subnet(plain).settings


def never():
    raise AssertionError("work has begun")
    yield


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["cat", "dog", " cat "], "two classes have one text: 'cat'"),
        (
            [f"class {i}" for i in range(20_000)],
            "20,000 classes in words were given; 1 to 10,000 are possible",
        ),
        (["", " "], "0 classes"),
        (["a\x1bb"], "a control character"),
        ([chr(0x4E00 + i) * 999 for i in range(300)], "at most 900,000 fit a subnet"),
        ("cat", "must be a list of class names"),
    ],
)
def test_words_that_cannot_be_classes_are_refused_before_work(made, words, problem):
    with pytest.raises(InvalidValueError, match=problem):
        export_named(made[1], words, never())


def test_words_of_the_same_tokens_are_refused(tmp_path):
    folders.write(tmp_path, "clip", lowercase=True)
    with pytest.raises(InvalidValueError, match="'Cat' and 'cat' are the same to the model's tokenizer"):
        export_named(tmp_path, ["dog", "Cat", "cat"], never())
    with pytest.raises(InvalidValueError, match=r"a template needs {} in the class's place: 'a photo'"):
        export_named(tmp_path, ["dog"], never(), templates=["{}", "a photo"])


def test_folders_without_a_text_tower_or_a_tokenizer_are_refused(made, tmp_path):
    kind, folder, model, _, _ = made

    def refused(problem, change):
        broken = tmp_path / "broken"
        shutil.rmtree(broken, ignore_errors=True)
        shutil.copytree(folder, broken)
        change(broken)
        with pytest.raises(QuasarError, match=problem):
            export_named(broken, NAMES, never())

    def of_another_kind(broken):
        (broken / "config.json").write_text(json.dumps({"model_type": f"{kind}_vision_model"}))

    def without_text(broken):
        state = {key: one for key, one in model.state_dict().items() if not key.startswith("text_")}
        folders.torch.save(state, broken / "pytorch_model.bin")
        (broken / "model.safetensors").unlink()

    def with_code(broken):
        settings = json.loads((broken / "tokenizer_config.json").read_text())
        settings |= {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}, "tokenizer_class": "Evil"}
        (broken / "tokenizer_config.json").write_text(json.dumps(settings))
        (broken / "evil.py").write_text("raise SystemExit('code was run')")

    def smaller(broken):
        config = json.loads((broken / "config.json").read_text())
        config["text_config"]["hidden_size"] = 48
        (broken / "config.json").write_text(json.dumps(config))

    refused("it has no tokenizer", lambda broken: [one.unlink() for one in broken.glob("tokenizer*")])
    refused(f"its model_type is '{kind}_vision_model'", of_another_kind)
    refused("no text tower", without_text)
    refused("cannot be loaded", smaller)
    refused("cannot be loaded", lambda broken: (broken / "tokenizer.json").write_text("{}"))
    try:
        refused("cannot be loaded", with_code)
    except AssertionError as error:  # read without its code
        assert str(error) == "work has begun"  # noqa: PT017


def test_the_commands_name_and_rename(made, photos, tmp_path):
    kind, folder, _, _, _ = made
    (tmp_path / "words.txt").write_text("\ufeffcat\n\n  猫 \r\nship\n", encoding="utf-8")
    (tmp_path / "other.txt").write_text("house\nboat\n")
    (tmp_path / "many.txt").write_text("".join(f"class {i}\n" for i in range(20_000)))
    (photos / "broken.png").write_text("no picture")
    named, model = tmp_path / "named.qvit", ["--model", folder, "--calibration", photos]
    assert (
        "20,000 classes"
        in run("export", "--words", tmp_path / "many.txt", *model, "--out", named, status=2).output
    )
    run("export", "--words", tmp_path / "words.txt", *model, "--out", named)
    assert Subnet.load(named).classes == ["cat", "猫", "ship"]
    first = named.read_bytes()
    run("name", named, tmp_path / "other.txt")
    answers = json_of("infer", photos / "1.png", "--subnet", named, "--device", "cpu")["images"][0]
    assert {score["label"] for score in answers["top_k"]} == {"house", "boat"}
    assert answers.get("none_of_these", False) == (kind == "siglip" and answers["probability"] < 0.5)
    run("name", named, tmp_path / "words.txt", "--model", folder)
    assert named.read_bytes() == first
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "link.qvit").symlink_to(named)
    for out, problem in (("mine.txt", "it exists and is no subnet"), ("link.qvit", "symbolic link")):
        refused = run("name", named, tmp_path / "other.txt", "--out", tmp_path / out, status=2)
        assert problem in refused.output
    assert "packaged" in run("name", "fashion-mnist", tmp_path / "words.txt", status=2).output
    # A subnet that was exported without words.
    alone = tmp_path / "alone.qvit"
    run("export", "--embedding", *model, "--out", alone)
    rename_alone = ["name", alone, tmp_path / "words.txt", "--model", folder]
    assert "--calibration" in run(*rename_alone, status=2).output
    run(*rename_alone, "--calibration", photos)
    assert Subnet.load(alone).classes == ["cat", "猫", "ship"]
    run("infer", photos / "1.png", "--subnet", alone, "--device", "cpu")
