"""Recipes: what is read, and what is said of a faulty one."""

from __future__ import annotations

import pytest

from quasar_rt import SettingsError
from quasar_rt.space import Space
from quasar_rt.train.recipe import Recipe, find_recipe, load_recipe, recipe_names

DIGITS = find_recipe("digits")


@pytest.mark.parametrize("name", recipe_names())
def test_packaged_recipes_are_sound_and_have_the_stage_that_their_space_needs(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    space = Space.load(recipe.space)
    if recipe.supernet_stage is None:
        # A recipe for one network of a space stands next to the record of that network.
        assert space.size == 1 or find_recipe(name).with_suffix(".json").is_file()
    else:
        assert space.size > 1
    assert recipe.quantized_stage is not None
    assert len(recipe.data.mean) in (1, space.settings["image"]["channels"])


def test_a_recipe_survives_its_dictionary():
    for name in recipe_names():
        recipe = load_recipe(name)
        assert Recipe.from_dict(recipe.as_dict()) == recipe


def test_all_missing_keys_are_named_at_once():
    table = load_recipe("digits").as_dict()
    del table["seed"], table["data"]["validation"], table["quantization"]
    names = r"'quantization\.percentile', 'quantization\.calibration', 'quantization\.scoring'"
    with pytest.raises(SettingsError, match=rf"'seed', 'data\.validation', {names} are missing"):
        Recipe.from_dict(table)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed = 0", "seed = 0\nsede = 1", "unknown key 'sede'"),
        ("validation = 297", "validation = 297\nflop = 1", r"unknown key 'data\.flop'"),
        ("[sandwich]", "[sandwitch]", "unknown key 'sandwitch'"),
        ("seed = 0", "", "'seed' is missing"),
        ("batch = 64", "", r"'optimizer\.batch' is missing"),
        ("batch = 64", "batch = 64.5", r"'optimizer\.batch' must be int"),
        ("batch = 64", "batch = true", r"'optimizer\.batch' must be int"),
        ("batch = 64", "batch = 0", r"optimizer\.batch must be at least 1"),
        ("ema = 0.99", "ema = 1.5", r"optimizer\.ema must be in"),
        ("ema = 0.99", "ema = nan", r"optimizer\.ema must be in"),
        ("clip = 1.0", "clip = 0.0", r"optimizer\.clip must be positive"),
        ("mean = 0.305", 'mean = "grey"', r"'data\.mean' must be a number or a list"),
        ("mean = 0.305", "mean = [0.1, 0.2]", r"data\.mean must be in"),
        ("seed = 0", "seed = ", "digits.toml"),
        ("seed = 0", "seed = -1", "seed must be in"),
        ('name = "digits"\nvalidation', 'name = "cifar"\nvalidation', r"data\.name must be one of fashion"),
        ("validation = 297", "validation = 0", r"data\.validation must be at least 1"),
        ("validation = 297", 'validation = 297\nrandaugment = "rand-m9"', "for folders of images"),
        ("validation = 297", 'validation = 297\nrandaugment = "rand-mxyz"', r"data\.randaugment must be as"),
        ("validation = 297", 'validation = 297\nrandaugment = "augmix-m3"', r"data\.randaugment must be as"),
        ('criterion = "loss"', 'criterion = "lost"', r"quantization\.criterion must be one of"),
        ("percentile = 0.999", "percentile = 0.5", r"quantization\.percentile must be in"),
        ("random = 2", "random = -1", r"sandwich\.random must be in"),
        ("alike = 0.5", "alike = 1.5", r"sandwich\.alike must be in"),
        ("temperature = 1.0", "temperature = 0.0", r"sandwich\.temperature must be in \[0\.01, 100\]"),
        ("temperature = 1.0", "temperature = 1e300", r"sandwich\.temperature must be in"),
        ("std = 0.376", "std = 1e-300", r"data\.std must be in \[0\.001, 1\]"),
        ("weight_decay = 0.05", "weight_decay = 1e18", r"optimizer\.weight_decay must be in \[0, 100\]"),
        ("epochs = 60", "epochs = 0", r"float_stage\.epochs must be in \[1, 1000000\]"),
        ("epochs = 60", "epochs = 99999999999999999999", r"float_stage\.epochs must be in"),
        ("learning_rate = 8e-3", "learning_rate = -1.0", r"float_stage\.learning_rate must be in \(0, 100\]"),
        ("learning_rate = 8e-3", "learning_rate = 1e300", r"float_stage\.learning_rate must be in"),
        # Beyond all floats, more digits than Python reads, nesting without end.
        ("ema = 0.99", f"ema = {10**400}", r"optimizer\.ema must be in"),
        ("mean = 0.305", f"mean = -{10**400}", r"data\.mean must be in"),
        ("seed = 0", "seed = " + 5000 * "9", "digits.toml is not TOML"),
        ("seed = 0", "seed = " + 10_000 * "[", "digits.toml is not TOML"),
    ],
)
def test_a_faulty_recipe_is_named(tmp_path, old, new, message):
    text = DIGITS.read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "digits.toml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(SettingsError, match=message):
        load_recipe(path)


def test_files_that_are_no_text_are_refused_by_name_and_a_mark_of_the_encoding_is_not(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xff\xfe" + DIGITS.read_bytes())
    with pytest.raises(SettingsError, match=r"mine\.toml is not TOML: 'utf-8'"):
        load_recipe(path)
    path.write_bytes(b"\xef\xbb\xbf" + DIGITS.read_bytes())
    assert load_recipe(path) == load_recipe("digits")


def test_an_unknown_recipe_is_an_error_that_lists_the_packaged_ones():
    with pytest.raises(FileNotFoundError, match="digits, fashion-mnist"):
        load_recipe("digit")


def test_changes_are_toml_values():
    recipe = load_recipe("digits", ["optimizer.batch=32", 'quantization.criterion = "random"', "seed=3"])
    assert (recipe.optimizer.batch, recipe.quantization.criterion, recipe.seed) == (32, "random", 3)
    assert load_recipe("digits", ["optimizer.batch=32 # half"]).optimizer.batch == 32
    for faulty in (
        *("optimizer.batch", "optimizer.batch=", "criterion=loss", "seed.low=1"),
        *("optimizer.batch=32\nseed=3", "seed=" + 10_000 * "[", "seed=" + 5000 * "9"),
    ):
        with pytest.raises(SettingsError, match=r"KEY=VALUE|is no table"):
            load_recipe("digits", [faulty])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["seed=3", "optimizer.batch=0"], r"'optimizer\.batch=0': optimizer\.batch must be at least 1"),
        (["optimizer.batch=0", "optimizer.batch=-1"], r"'optimizer\.batch=-1': optimizer\.batch must"),
        (["optimizer.bath=8"], r"'optimizer\.bath=8': unknown key 'optimizer\.bath'"),
        (["optimizer.batch=1.5", "seed=3"], r"'optimizer\.batch=1\.5': 'optimizer\.batch' must be int"),
        (["sandwich=3"], r"'sandwich=3': 'sandwich' must be a table"),
        (
            ['data.randaugment="rand"'],
            r"""'data\.randaugment="rand"': data\.randaugment and data\.crop are""",
        ),
        (['data.randaugment="rand"', "data.crop=[0.5, 1]"], r"'data\.crop=\[0\.5, 1\]': data\.randaugment"),
    ],
)
def test_a_faulty_change_is_named_and_not_the_file(changes, message):
    with pytest.raises(SettingsError, match=message) as raised:
        load_recipe("digits", changes)
    assert "digits.toml" not in str(raised.value)


def test_a_fault_of_the_file_is_not_put_on_a_change(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(DIGITS.read_text(encoding="utf-8").replace("batch = 64", "batch = 0"), encoding="utf-8")
    with pytest.raises(SettingsError, match=r"mine\.toml: optimizer\.batch must"):
        load_recipe(path, ["seed=3"])
    assert load_recipe(path, ["optimizer.batch=8"]).optimizer.batch == 8


def test_a_space_is_looked_for_next_to_its_recipe(tmp_path):
    path = tmp_path / "mine.toml"
    text = DIGITS.read_text(encoding="utf-8").replace('space = "digits"', 'space = "space.toml"')
    path.write_text(text, encoding="utf-8")
    (tmp_path / "space.toml").write_text(Space.load("digits").to_toml(), encoding="utf-8")
    assert Space.load(load_recipe(path).space) == Space.load("digits")


def test_the_digest_is_of_what_changes_the_weights():
    digest = load_recipe("digits").digest()
    others = ["checkpoint_every=7", "checkpoint_minutes=1", "data.workers=1"]
    assert load_recipe("digits", others).digest() == digest
    for change in ("seed=1", "optimizer.beta2=0.98", "sandwich.random=1", "quantization.calibration=3"):
        assert load_recipe("digits", [change]).digest() != digest
