"""Classes in words: the text tower's agreement with transformers, the head's with float, new words, refusals."""

import json
import shutil

import numpy as np
import pytest

from helpers import json_of, run
from quasar_rt import Engine, InvalidValueError, QuasarError, Subnet
from simulated import library

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

from PIL import Image  # noqa: E402

from quasar_rt.export import export_named  # noqa: E402
from quasar_rt.export.named import attach  # noqa: E402
from quasar_rt.export.post_training import prepare  # noqa: E402
from quasar_rt.fitting.shape import workload_of  # noqa: E402
from quasar_rt.hardware import Workload  # noqa: E402
from quasar_rt.networks import load_network  # noqa: E402
from quasar_rt.networks.words import encode_words  # noqa: E402
from quasar_rt.quantization import ExportOptions  # noqa: E402

NAMES = ["cat", "a red car", "猫", "собака", "القط", "ship"]
SENTENCE = {"clip": "a photo of a {}.", "siglip": "This is a photo of {}."}


def tower(*sizes):
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    return dict(zip(names, sizes, strict=True))


def write(folder, kind, lowercase=False, seed=7):
    """Writes a folder with a tokenizer of bytes, for every script; returns transformers' model and tokenizer."""
    bytes_of = tokenizers.pre_tokenizers.ByteLevel()
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.normalizer = tokenizers.normalizers.Lowercase() if lowercase else None
    made.pre_tokenizer = bytes_of
    trainer = tokenizers.trainers.BpeTrainer(
        special_tokens=["<pad>", "<eos>", "<bos>"], initial_alphabet=bytes_of.alphabet(), vocab_size=300
    )
    made.train_from_iterator(SENTENCE.values(), trainer)
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 2), ("<eos>", 1)]
    )
    marks = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>"}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=made, **marks)
    text = tower(24, 56, 3, 3) | {"vocab_size": len(tokenizer), "max_position_embeddings": 41}
    text |= {"eos_token_id": 1, "bos_token_id": 2, "pad_token_id": 0, "projection_size": 40}
    towers = {"text_config": text, "vision_config": tower(40, 72, 2, 4) | {"image_size": 30, "patch_size": 6}}
    torch.manual_seed(seed)
    if kind == "clip":
        model = transformers.CLIPModel(transformers.CLIPConfig(**towers, projection_dim=29))
    else:
        model = transformers.SiglipModel(transformers.SiglipConfig(**towers))
        torch.nn.init.constant_(model.logit_bias, -1.5)
    for name, value in model.named_parameters():
        if value.ndim > 1:
            torch.nn.init.normal_(value, std=value[0].numel() ** -0.5)
        elif value.ndim and not name.endswith(("weight", "logit_bias", "logit_scale")):
            torch.nn.init.normal_(value, std=0.3)
    torch.nn.init.constant_(model.logit_scale, 2.3)
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    settings = {
        "image_mean": [0.4, 0.5, 0.6],
        "image_std": [0.3, 0.25, 0.2],
        "size": {"height": 30, "width": 30},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return model, tokenizer


def pictures(count):
    small = np.random.default_rng(count).integers(0, 256, (count, 5, 5, 3), dtype=np.uint8)
    return small.repeat(6, axis=1).repeat(6, axis=2)


@pytest.fixture(scope="module", params=SENTENCE)
def made(request, tmp_path_factory):
    """Returns a kind, a folder of it, transformers' model, a function of texts to its inputs, and an 8-bit subnet."""
    folder = tmp_path_factory.mktemp(request.param)
    model, tokenizer = write(folder, request.param)

    def tokens(texts):
        padding = "max_length" if request.param == "siglip" else True
        found = tokenizer(texts, padding=padding, max_length=41, truncation=True, return_tensors="pt")
        return {key: found[key] for key in ("input_ids", "attention_mask")}

    subnet = export_named(folder, NAMES, pictures(40), eight_bit_fraction=1.0)
    return request.param, folder, model, tokens, subnet


def normalised(images):
    mean, std = (torch.tensor(one).view(1, 3, 1, 1) for one in ([0.4, 0.5, 0.6], [0.3, 0.25, 0.2]))
    return (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - mean) / std


def expected(made, images, sentence=None):
    kind, _, model, tokens, _ = made
    texts = [(sentence or SENTENCE[kind]).replace("{}", name) for name in NAMES]
    with torch.no_grad():
        return model(pixel_values=normalised(images), **tokens(texts)).logits_per_image.numpy()


def test_float_classes_are_those_of_transformers(made):
    _, folder, model, tokens, _ = made
    images = pictures(9)
    with torch.no_grad():
        features = load_network(folder).model(normalised(images)).numpy()
        texts = [f"{start} {name}" for name in NAMES for start in ("my", "a drawing of a")]
        found = model.get_text_features(**tokens(texts))
    np.testing.assert_allclose(
        encode_words(folder, NAMES).logits(features), expected(made, images), atol=1e-4
    )
    alone = encode_words(folder, NAMES, ["{}"]).logits(features)
    np.testing.assert_allclose(alone, expected(made, images, "{}"), atol=1e-4)
    # The vectors of several sentences are averaged on the sphere.
    units = torch.nn.functional.normalize(getattr(found, "pooler_output", found), dim=1).unflatten(0, (-1, 2))
    mean = torch.nn.functional.normalize(units.mean(1), dim=1).numpy()
    several = encode_words(folder, ["", *NAMES, "  "], ["my {}", "a drawing of a {}"])
    np.testing.assert_allclose(several.vectors, mean, atol=1e-5)


def test_integers_order_the_classes_as_the_embedding_allows(made):
    kind, folder, _, _, subnet = made
    images = pictures(30)
    exact, words = expected(made, images), encode_words(folder, NAMES)
    with Engine(subnet, "cpu") as engine:
        found = engine.infer_batch(images, top_k=len(NAMES))
    # The head's rows and the embedding's codes are rounded.
    np.testing.assert_allclose(found.logits, words.logits(found.embeddings), atol=0.02 * words.scale)
    errors = np.abs(found.logits - exact).max()
    assert errors < 0.15
    first, second = np.triu_indices(len(NAMES), 1)
    apart, ours = exact[:, first] - exact[:, second], found.logits[:, first] - found.logits[:, second]
    certain = np.abs(apart) > 2 * errors
    assert certain.mean() > 0.5
    np.testing.assert_array_equal((apart > 0)[certain], (ours > 0)[certain])
    weights = np.exp(exact)
    chances = weights / (1 + weights if kind == "siglip" else weights.sum(axis=1, keepdims=True))
    for one, chance in zip(found, chances, strict=True):
        assert all(abs(score.probability - chance[score.index]) < 0.03 for score in one.top_k)
        assert one.none_of_these == (kind == "siglip" and one.probability < 0.5)
    assert any(one.none_of_these for one in found) == (kind == "siglip")


def test_a_simulated_accelerator_has_the_cpus_bits(made):
    library("tiny")
    images = pictures(3)
    with Engine(made[-1], "cpu") as cpu, Engine(made[-1], "sim:tiny") as engine:
        assert engine.infer_batch(images) == cpu.infer_batch(images)


def test_other_words_keep_the_embedding_and_the_first_ones_give_the_first_bytes(made, tmp_path):
    kind, folder, _, _, subnet = made
    other, images = attach(subnet, encode_words(folder, ["house", "boat"])), pictures(4)
    assert other.classes == ["house", "boat"]
    with Engine(subnet, "cpu") as before, Engine(other, "cpu") as after:
        assert [one.embedding for one in before.infer_batch(images)] == [
            one.embedding for one in after.infer_batch(images)
        ]
    assert attach(other, encode_words(folder, NAMES)).to_bytes() == subnet.to_bytes()
    write(tmp_path, kind, seed=8)
    with pytest.raises(InvalidValueError, match="was named by another model"):
        attach(subnet, encode_words(tmp_path, NAMES))


def test_a_fit_counts_the_rows_of_the_words(made):
    folder, few = made[1], pictures(2)
    words, model = encode_words(folder, NAMES), load_network(folder).model
    prepared = prepare(model, few, ExportOptions(model, few, words=words, rotate=False))
    subnet = export_named(folder, NAMES, few, eight_bit_fraction=1.0, rotate=False)
    assert workload_of(prepared, 8).settings == Workload.of_subnet(subnet).settings


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
        ([chr(0x4E00 + i) * 999 for i in range(300)], "at most 900,000 fit"),
        ("cat", "must be a list of class names"),
    ],
)
def test_words_that_cannot_be_classes_are_refused_before_work(made, words, problem):
    with pytest.raises(InvalidValueError, match=problem):
        export_named(made[1], words, never())


def test_words_of_the_same_tokens_and_templates_without_a_place_are_refused(tmp_path):
    write(tmp_path, "clip", lowercase=True)
    with pytest.raises(InvalidValueError, match="'Cat' and 'cat' are the same to the model's tokenizer"):
        export_named(tmp_path, ["dog", "Cat", "cat"], never())
    with pytest.raises(InvalidValueError, match=r"a template needs {} in the class's place: 'a photo'"):
        export_named(tmp_path, ["dog"], never(), templates=["{}", "a photo"])


def change(name, **entries):
    def write_changed(folder):
        document = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(document | entries))

    return write_changed


def without_text(folder):
    weights = transformers.AutoModel.from_pretrained(folder).vision_model.state_dict()
    torch.save({f"vision_model.{key}": one for key, one in weights.items()}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda folder: [one.unlink() for one in folder.glob("tokenizer*")], "it has no tokenizer"),
        (change("config.json", model_type="clip_vision_model"), "its model_type is 'clip_vision_model'"),
        (without_text, "no text tower"),
        (change("config.json", text_config=tower(48, 56, 3, 3)), "cannot be loaded"),
        (change("tokenizer.json", model=None), "cannot be loaded"),
    ],
)
def test_folders_without_a_text_tower_or_a_tokenizer_are_refused(made, tmp_path, spoil, problem):
    shutil.copytree(made[1], tmp_path / "broken")
    spoil(tmp_path / "broken")
    with pytest.raises(QuasarError, match=problem):
        export_named(tmp_path / "broken", NAMES, never())


def test_the_commands_name_and_rename(made, tmp_path):
    kind, folder, _, _, _ = made
    photos, named, alone = (tmp_path / name for name in ("photos", "named.qvit", "alone.qvit"))
    photos.mkdir()
    for number, picture in enumerate(pictures(5)):
        Image.fromarray(picture).save(photos / f"{number}.png")
    (photos / "broken.png").write_text("no picture")
    words, other, many, mine, link = (tmp_path / name for name in ("words", "other", "many", "mine", "link"))
    words.write_text("\ufeffcat\n\n  猫 \r\nship\n", encoding="utf-8")
    other.write_text("house\nboat\n")
    many.write_text("".join(f"class {i}\n" for i in range(20_000)))
    export = ["export", "--model", folder, "--calibration", photos, "--out"]
    assert "20,000 classes" in run(*export, named, "--words", many, status=2).output
    run(*export, named, "--words", words)
    assert Subnet.load(named).classes == ["cat", "猫", "ship"]
    first = named.read_bytes()
    run("name", named, other)
    answer = json_of("infer", photos / "1.png", "--subnet", named, "--device", "cpu")["images"][0]
    assert {score["label"] for score in answer["top_k"]} == {"house", "boat"}
    assert answer.get("none_of_these", False) == (kind == "siglip" and answer["probability"] < 0.5)
    for name in ("boat", "house"):
        shutil.copytree(photos, tmp_path / "lab" / name, ignore=lambda *_: ["broken.png"])
    compared = json_of("eval", named, "--data", tmp_path / "lab", "--against", folder, "--device", "cpu")
    assert compared["agreement"][0 if isinstance(compared["agreement"], list) else "value"] > 0.5
    run("eval", named, "--data", tmp_path / "lab", "--against", folder, "--embedding", "--device", "cpu")
    run("name", named, words, "--model", folder)
    assert named.read_bytes() == first
    mine.write_text("mine")
    link.symlink_to(named)
    for out, problem in ((mine, "it exists and is no subnet"), (link, "symbolic link")):
        assert problem in run("name", named, other, "--out", out, status=2).output
    assert "packaged" in run("name", "fashion-mnist", words, status=2).output
    run(*export, alone, "--embedding")  # without words
    assert "--calibration" in run("name", alone, words, "--model", folder, status=2).output
    run("name", alone, words, "--model", folder, "--calibration", photos)
    run("infer", photos / "1.png", "--subnet", alone, "--device", "cpu")
