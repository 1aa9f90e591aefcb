"""The training recipe: one TOML file, every key of it known.

Depends on `quasar_rt.files`, `quasar_rt.rows.bits` (the names of its criteria), and on `tomli` before Python 3.11.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from ..arguments import did_you_mean
from ..errors import MissingFileError, SettingsError
from ..files import read_small_text, refused
from ..rows.bits import CRITERIA

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "NAME_RULE",
    "Data",
    "Optimizer",
    "Quantization",
    "Recipe",
    "Sandwich",
    "Stage",
    "Teacher",
    "find_recipe",
    "is_name",
    "load_recipe",
    "recipe_names",
]

#: Data sets known by name; any other name is that of an image set (`quasar_rt.image_sets`).
DATA_SETS = ("fashion-mnist", "digits", "imagenet")
#: The rule that `is_name` checks.
NAME_RULE = "at most 100 letters, digits, '-', '_' and '.', beginning with neither '-' nor '.'"

#: Marks a key that came after the first recipes: `Recipe.digest` leaves it out at its default.
_LATER = object()

#: The part of a RandAugment's description that timm reads; timm ignores the rest, or stops.
_RANDAUGMENT = r"rand(-(m|n|mmax)\d{1,2}|-mstd\d+(\.\d+)?|-p[01](\.\d+)?|-inc[01]|-t(weights|3aw?))*"


@dataclass(frozen=True)
class Data:
    """The images, and their variation in training.

    `name` is ``fashion-mnist``, ``digits``, ``imagenet`` (a folder that is named when training starts), the path of a
    folder of images by class, ``wds:SHARDS`` or ``hf:NAME``. `validation` images are taken out of the training set by
    the recipe's seed, for every choice; `subset` keeps that many of the others (0: all). `mean` and `std` are of
    pixel/255, one number or one for each channel.

    Augmentation: `flip` mirrors at random; `shift` moves by up to that many pixels each way, filled with 0. For folders
    alone: `crop`, the least and largest area of a random resized crop, as shares of the image, and `randaugment`, as
    timm describes it (such as ``rand-m9-mstd0.5-inc1``). `workers` processes decode a folder's images.

    On whole batches, by timm's code: `erasing` is the probability with which a rectangle of an image becomes the mean
    (Zhong et al. 2020); `mixup` and `cutmix` are the parameters alpha of the share with which two images of a batch are
    blended (Zhang et al. 2018) or cut together (Yun et al. 2019), 0 for none. With both, each batch gets one of them.
    """

    name: str
    validation: Annotated[int, "at least 1"]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    subset: Annotated[int, "at least 0"] = 0
    flip: bool = False
    shift: Annotated[int, "in [0, 64]"] = 0
    crop: tuple[float, ...] = (0.08, 1.0)
    randaugment: str = ""
    erasing: Annotated[float, "in [0, 1]", _LATER] = 0.0
    mixup: Annotated[float, "in [0, 100]", _LATER] = 0.0
    cutmix: Annotated[float, "in [0, 100]", _LATER] = 0.0
    workers: Annotated[int, "in [0, 256]"] = 4

    @property
    def folder(self) -> bool:
        """True if the images are decoded from files, one by one."""
        return self.name not in ("fashion-mnist", "digits")


@dataclass(frozen=True)
class Optimizer:
    """AdamW: decay on matrices alone; `ema` is the averaged model's decay for each step.

    `batch` is the joint batch of all processes. Each process divides its part by `accumulate`, and adds up the
    gradients of these smaller batches, which take less memory. `recompute` keeps only the inputs of blocks for the
    gradients and computes the rest again: less memory, about a third more time. `bfloat16` runs training steps under
    ``torch.autocast``: those of the float network on every device, those of the quantized network on a GPU only.
    `compile` uses torch.compile: on the network where its shape is fixed, on quantizers alone in a supernet's stage.
    """

    batch: int
    beta1: Annotated[float, "in [0, 1)"]
    beta2: Annotated[float, "in [0, 1)"]
    weight_decay: Annotated[float, "in [0, 100]"]
    clip: Annotated[float, "positive"]
    label_smoothing: Annotated[float, "in [0, 1)"]
    ema: Annotated[float, "in [0, 1)"]
    bfloat16: bool = False
    compile: bool = False
    accumulate: Annotated[int, _LATER] = 1
    recompute: Annotated[bool, _LATER] = False


@dataclass(frozen=True)
class Stage:
    """One schedule: linear warm-up over a share of its steps, then a cosine to `final` times the learning rate."""

    epochs: int
    learning_rate: Annotated[float, "in (0, 100]"]
    warmup: Annotated[float, "in [0, 1)"]
    final: Annotated[float, "in [0, 1]"]


@dataclass(frozen=True)
class Sandwich:
    """The networks that each step of the supernet stage trains: the largest, the smallest and `random` others.

    The largest learns from the labels; the others' loss is ``(1 - distillation)`` of theirs and ``distillation`` of the
    soft cross-entropy to the largest's logits at `temperature`.

    `alike` is the share of the random networks whose blocks are all alike, with one fraction of 8-bit rows throughout.
    If many genes are sampled one by one, their mean hardly varies. A large network of 4-bit rows would then never be
    trained, but a search looks at just such corners.
    """

    random: Annotated[int, "in [0, 64]"] = 2
    alike: Annotated[float, "in [0, 1]"] = 0.5
    distillation: Annotated[float, "in [0, 1]"] = 1.0
    temperature: Annotated[float, "in [0.01, 100]"] = 1.0


@dataclass(frozen=True)
class Teacher:
    """A trained network that the `stages` learn from, besides the labels.

    `model` is ``timm:NAME`` with a `checkpoint` of its weights (without one, timm's own are downloaded), or the path of
    a file that ``torch.export`` or TorchScript wrote. It gets images of `size` pixels a side (0: of the student's
    size), normalised by `mean` and `std` (of pixel/255; without them, by the student's), and returns the logits of the
    same classes in the same order.

    The loss on the labels becomes ``(1 - weight)`` of itself and `weight` of the cross-entropy to the teacher: to its
    probabilities at `temperature`, or, with `hard`, to its class. The teacher sees what the student sees, augmented and
    mixed.
    """

    model: str
    checkpoint: str = ""
    weight: Annotated[float, "in (0, 1]"] = 0.5
    hard: bool = False
    temperature: Annotated[float, "in [0.01, 100]"] = 1.0
    size: Annotated[int, "in [0, 4096]"] = 0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    stages: tuple[str, ...] = ("float", "supernet", "quantized")


@dataclass(frozen=True)
class Quantization:
    """The ranking of rows and the setting of ranges.

    `criterion` is one of `quasar_rt.rows.bits.CRITERIA`; `scoring` images give its statistics. Activation ranges are
    `percentile` of what `calibration` images give.
    """

    percentile: Annotated[float, "in [0.99, 1]"]
    calibration: Annotated[int, "at least 1"]
    scoring: Annotated[int, "at least 1"]
    criterion: str = "loss"


@dataclass(frozen=True)
class Recipe:
    """Everything that a run depends on, with the data, the space's file and the code.

    `space` is the name of a packaged space or the path of its TOML file. `init` is ``random``, ``timm:NAME``, or the
    path of a checkpoint of timm, of a folder of Hugging Face's transformers or of an ONNX file. `layer_scale` is the
    initial value of a learned factor on each channel of both residual branches (0: no such factors). `drop_path` is
    the probability with which a sample skips a branch of the last block in training; it falls linearly to 0 at the
    first block (stochastic depth, Huang et al. 2016). `baseline` also trains one network's last epochs in float, to
    compare with. `supernet_stage` is for spaces of several networks, `quantized_stage` for one network. `teacher` is
    a trained network to learn from. `checkpoint_every` (steps, 0: none) and `checkpoint_minutes` are the intervals of
    checkpoints within an epoch; each epoch ends with one.
    """

    name: str
    seed: int
    space: str
    data: Data
    optimizer: Optimizer
    float_stage: Stage
    quantization: Quantization
    supernet_stage: Stage | None = None
    quantized_stage: Stage | None = None
    teacher: Teacher | None = None
    sandwich: Sandwich = field(default_factory=Sandwich)
    init: str = "random"
    layer_scale: Annotated[float, "in [0, 10]"] = 1.0
    drop_path: Annotated[float, "in [0, 1)", _LATER] = 0.0
    baseline: bool = False
    checkpoint_every: Annotated[int, "at least 0"] = 0
    checkpoint_minutes: Annotated[float, "positive"] = 5.0

    def as_dict(self) -> dict[str, Any]:
        """Returns the recipe as its TOML file states it, with the defaults filled in."""
        table: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return {key: value for key, value in table.items() if value is not None}

    @classmethod
    def from_dict(cls, table: Mapping[str, Any], source: str = "recipe") -> Recipe:
        """Reads and checks what `as_dict` returns.

        Raises:
            SettingsError: an unknown key, missing keys, a value of the wrong type or out of range.
        """
        missing: list[str] = []
        recipe: Recipe = _read(cls, table, source, "", missing)
        if missing:
            verb = "is" if len(missing) == 1 else "are"
            raise SettingsError(f"{source}: {', '.join(map(repr, missing))} {verb} missing")
        _check(recipe, source)
        return recipe

    def digest(self, *also: str, without: Iterable[str] = ()) -> str:
        """Returns the SHA-256 (hex) of what changes the weights: not of paths, worker and checkpoint counts.

        Keys that came after the first recipes count only where they are set, so that older checkpoints stay valid.
        """
        table = self.as_dict()
        for key in ("space", "checkpoint_every", "checkpoint_minutes", *without):
            table.pop(key, None)
        del table["data"]["workers"]
        for path, one, value, notes in _annotated(self):
            if _LATER in notes and value == one.default:
                del (table[path[0]] if path else table)[one.name]
        return hashlib.sha256(json.dumps([table, *also], sort_keys=True).encode()).hexdigest()


def is_name(text: str) -> bool:
    """Returns whether `text` can name the files of a run."""
    return bool(re.fullmatch(r"\w[\w.-]*", text)) and len(text.encode()) <= 100


def recipe_names() -> list[str]:
    """Returns the names of the packaged recipes."""
    return sorted(path.stem for path in _folder().glob("*.toml"))


def find_recipe(name: str | os.PathLike[str]) -> Path:
    """Returns the file of a recipe: a path, or the name of a packaged one.

    Raises:
        quasar_rt.MissingFileError: neither.
    """
    if Path(name).is_file():
        return Path(name)
    packaged = _folder() / f"{name}.toml"
    if re.fullmatch(r"[\w-]+", str(name)) and packaged.is_file():
        return packaged
    raise MissingFileError(
        f"there is no recipe '{name}'{did_you_mean(str(name), recipe_names())} (give a TOML file, or one of "
        f"{', '.join(recipe_names())})"
    )


def load_recipe(path: str | os.PathLike[str], changes: Iterable[str] = ()) -> Recipe:
    """Reads a recipe.

    Args:
        path: the TOML file, or the name of a packaged recipe.
        changes: ``KEY=VALUE`` each, with TOML's values: ``optimizer.batch=64``.

    Raises:
        SettingsError: no such recipe, not TOML, an unknown key, missing keys, a value of the wrong type or out of
            range; names the keys, and the change where one is the cause.
        quasar_rt.FileError: the file cannot be read.
    """
    path = find_recipe(path)
    try:
        # Some editors begin a file with a mark of its encoding.
        table = tomllib.loads(read_small_text(path, "utf-8-sig"))
    except OSError as error:
        raise refused(f"the recipe '{path}' cannot be read", error) from error
    # Errors other than TOMLDecodeError: no UTF-8, a number of too many digits, nesting without end.
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{path} is not TOML: {error}") from error
    changes = list(changes)
    changed = _changed(table, changes, path.parent)
    try:
        return Recipe.from_dict(changed, str(path))
    except SettingsError as error:
        causes = _causes(str(error), table, changes, path)
        if not causes:
            raise
        problem = str(error).removeprefix(f"{path}: ")
        raise SettingsError(f"{' and '.join(map(repr, causes))}: {problem}") from None


def _folder() -> Path:
    return Path(__file__).parent / "recipes"


def _changed(table: dict[str, Any], changes: Iterable[str], folder: Path) -> dict[str, Any]:
    """Returns a copy of `table` with the changes made, and a space's path relative to the recipe's folder."""
    table = copy.deepcopy(table)
    for change in changes:
        _change(table, change)
    space = table.get("space")
    if isinstance(space, str) and space.endswith(".toml") and not Path(space).is_absolute():
        table["space"] = str(folder / space)
    return table


def _causes(error: str, table: dict[str, Any], changes: list[str], path: Path) -> list[str]:
    """Returns the change that causes the error, or else all of them; none where the file has the error itself."""

    def cause(without: list[str]) -> bool:
        try:
            Recipe.from_dict(_changed(table, without, path.parent), str(path))
        except SettingsError as other:
            return str(other) != error
        return True

    # Of changes of one key the last one counts.
    last = list({change.partition("=")[0].strip(): change for change in changes}.values())
    for change in last:
        if cause([other for other in last if other != change]):
            return [change]
    return last if cause([]) else []


def _change(table: dict[str, Any], change: str) -> None:
    key, equals, text = change.partition("=")
    try:
        parsed = tomllib.loads(f"value = {text}") if equals else {}
    except (ValueError, RecursionError):
        parsed = {}
    if list(parsed) != ["value"]:
        raise SettingsError(f"'{change}' is not KEY=VALUE with a value as in TOML (text in quotes)")
    *parents, last = key.strip().split(".")
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise SettingsError(f"'{change}': '{parent}' is no table")
    table[last] = parsed["value"]


def _read(kind: Any, table: Mapping[str, Any], path: str, prefix: str, missing: list[str]) -> Any:
    """Reads a table as a dataclass; adds required keys that it lacks to `missing`, and then returns None."""
    types = get_type_hints(kind)
    known = {f.name: f for f in fields(kind)}
    unknown = sorted(set(table) - set(known))
    if unknown:
        raise SettingsError(f"{path}: unknown key {prefix + unknown[0]!r} (known here: {', '.join(known)})")
    values = {}
    for name, spec in known.items():
        key = prefix + name
        if name not in table:
            if spec.default is MISSING and spec.default_factory is MISSING:
                if dataclasses.is_dataclass(types[name]):
                    _read(types[name], {}, path, f"{key}.", missing)
                else:
                    missing.append(key)
            continue
        values[name] = _value(types[name], table[name], path, key, missing)
    return None if missing else kind(**values)


def _value(wanted: Any, value: Any, path: str, key: str, missing: list[str]) -> Any:
    for kind in (Stage, Teacher):
        if wanted == kind | None:
            wanted = kind
    if dataclasses.is_dataclass(wanted):
        if not isinstance(value, Mapping):
            raise SettingsError(f"{path}: {key!r} must be a table")
        return _read(wanted, value, path, f"{key}.", missing)
    if wanted == tuple[float, ...]:
        numbers = value if isinstance(value, list) else [value]
        if not numbers or any(type(number) not in (int, float) for number in numbers):
            raise SettingsError(f"{path}: {key!r} must be a number or a list of numbers, not {value!r}")
        return tuple(_float(number) for number in numbers)
    if wanted == tuple[str, ...]:
        if not isinstance(value, list) or any(type(text) is not str for text in value):
            raise SettingsError(f"{path}: {key!r} must be a list of texts, not {value!r}")
        return tuple(value)
    if wanted is float and type(value) is int:
        value = _float(value)
    if type(value) is not wanted:
        raise SettingsError(f"{path}: {key!r} must be {wanted.__name__}, not {value!r}")
    return value


def _float(number: float) -> float:
    """Converts to a float; a whole number beyond all floats becomes infinite, which the rules then refuse."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def _annotated(part: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Field[Any], Any, tuple[Any, ...]]]:
    """Yields the keys of a recipe or of its table at `path`: the field, the value, and the notes on its type."""
    hints = get_type_hints(type(part), include_extras=True)
    for one in fields(part):
        value = getattr(part, one.name)
        if dataclasses.is_dataclass(value):
            yield from _annotated(value, *path, one.name)
        yield path, one, value, getattr(hints[one.name], "__metadata__", ())


def _within(value: float, bounds: str) -> bool:
    """Returns whether a number is ``positive``, ``at least 1``, ``in [0, 1)``..., as `bounds` states."""
    if bounds == "positive":
        return value > 0
    if bounds.startswith("at least "):
        return value >= int(bounds.removeprefix("at least "))
    low, high = (float(end) for end in bounds[4:-1].split(", "))
    above = low <= value if bounds[3] == "[" else low < value
    return above and (value <= high if bounds[-1] == "]" else value < high)


def _check(recipe: Recipe, path: str) -> None:
    rules = _rules(recipe)
    for parents, one, value, notes in _annotated(recipe):
        for bounds in notes:
            if bounds is not _LATER:
                rules[f"{'.'.join((*parents, one.name))} must be {bounds}"] = _within(value, bounds)
    for rule, holds in rules.items():
        if not holds:
            raise SettingsError(f"{path}: {rule}")


def _rules(recipe: Recipe) -> dict[str, bool]:
    """Returns the rules that are no bounds of a number, and whether they hold."""
    d, o, t = recipe.data, recipe.optimizer, recipe.teacher

    def shares(values: tuple[float, ...], least: float, lengths: tuple[int, ...] = (1, 3)) -> bool:
        return len(values) in lengths and all(least <= value <= 1 for value in values)

    randaugment = re.fullmatch(_RANDAUGMENT, d.randaugment) is not None
    rules = {
        f"name must be {NAME_RULE}": is_name(recipe.name),
        "seed must be in [0, 2^63)": 0 <= recipe.seed < 2**63,
        "init must be 'random', 'timm:NAME', a file or a folder": recipe.init.strip() not in ("", "timm:"),
        f"data.name must be one of {', '.join(DATA_SETS)}, or the path of a folder (with a '/')": (
            d.name in DATA_SETS or "/" in d.name or os.sep in d.name
        ),
        "data.mean must be in [0, 1], one number or one for each channel": shares(d.mean, 0),
        "data.std must be in [0.001, 1], one number or one for each channel": shares(d.std, 1e-3),
        "data.crop must be two shares of the area, the least first": (
            len(d.crop) == 2 and 0 < d.crop[0] <= d.crop[1] <= 1
        ),
        "data.randaugment must be as timm has it: 'rand', then '-m9' (strength), '-n2', '-p0.5', '-mstd0.5', "
        "'-mmax10', '-inc1' or '-tweights', in any order": d.randaugment == "" or randaugment,
        "data.randaugment and data.crop are for folders of images": (
            d.folder or (not d.randaugment and d.crop == Data.crop)
        ),
        "optimizer.batch must be at least 1": o.batch >= 1,
        "optimizer.accumulate must be in [1, optimizer.batch]": 1 <= o.accumulate <= o.batch,
        f"quantization.criterion must be one of {', '.join(CRITERIA)}": (
            recipe.quantization.criterion in CRITERIA
        ),
        "supernet_stage or quantized_stage is missing": (
            recipe.supernet_stage is not None or recipe.quantized_stage is not None
        ),
    }
    for name in ("float_stage", "supernet_stage", "quantized_stage"):
        if (stage := getattr(recipe, name)) is not None:
            least = 0 if name == "float_stage" and recipe.init != "random" else 1
            rules[f"{name}.epochs must be in [{least}, 1000000]"] = least <= stage.epochs <= 1_000_000
    if t is not None:
        rules |= {
            "teacher.model must be 'timm:NAME' or a file": t.model.strip() not in ("", "timm:"),
            "teacher.checkpoint goes with a teacher.model 'timm:NAME'": (
                not t.checkpoint or t.model.startswith("timm:")
            ),
            "teacher.mean must be in [0, 1], one number or one for each channel": shares(
                t.mean, 0, (0, 1, 3)
            ),
            "teacher.std must be in [0.001, 1], one number or one for each channel": (
                shares(t.std, 1e-3, (0, 1, 3))
            ),
            "teacher.stages must be some of float, supernet and quantized": (
                bool(t.stages) and set(t.stages) <= {"float", "supernet", "quantized"}
            ),
        }
    return rules
