"""The training recipe: one TOML file, every key of it known.

Depends on the standard library alone (and on `tomli` before Python 3.11).
"""

from __future__ import annotations

import dataclasses
import os
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Data", "Model", "Optimizer", "Quantization", "Recipe", "Stage", "load_recipe"]


@dataclass(frozen=True)
class Data:
    """`name`: the data set (``fashion-mnist``); `validation`: training images set aside for every choice.

    Augmentation: `flip` mirrors at random, `shift` moves by up to that many pixels each way, filled with 0.
    """

    name: str
    validation: int
    flip: bool
    shift: int
    mean: float
    std: float


@dataclass(frozen=True)
class Model:
    """The network's shape (`ViTConfig`)."""

    kernel: int
    stride: int
    pad: int
    pad_value: int
    embed: int
    depth: int
    heads: int
    head_dim: int
    hidden: int


@dataclass(frozen=True)
class Optimizer:
    """AdamW: decay on matrices alone; `ema` is the averaged model's decay for each step."""

    batch: int
    beta1: float
    beta2: float
    weight_decay: float
    clip: float
    label_smoothing: float
    ema: float
    bfloat16: bool
    compile: bool


@dataclass(frozen=True)
class Stage:
    """One schedule: linear warm-up over a share of its steps, then a cosine to `final` times the learning rate."""

    epochs: int
    learning_rate: float
    warmup: float
    final: float


@dataclass(frozen=True)
class Quantization:
    """`eight_bit_fraction` of the rows of each matrix in the blocks; the patch embedding and the head are all 8-bit.

    `calibration` images set the activations' ranges at `percentile`; `scoring` images rank the rows.
    """

    eight_bit_fraction: float
    percentile: float
    calibration: int
    scoring: int


@dataclass(frozen=True)
class Recipe:
    """Everything that a run depends on, with the data and the code."""

    name: str
    seed: int
    data: Data
    model: Model
    optimizer: Optimizer
    float_stage: Stage
    quantized_stage: Stage
    quantization: Quantization

    def as_dict(self) -> dict[str, Any]:
        """The recipe as its TOML file states it."""
        return dataclasses.asdict(self)


def load_recipe(path: str | os.PathLike[str]) -> Recipe:
    """Read a recipe.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not TOML, an unknown or a missing key, a value of the wrong type or out of range; names the key.
    """
    path = Path(path)
    with path.open("rb") as file:
        try:
            table = tomllib.load(file)
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"{path}: {error}") from error
    recipe: Recipe = _read(Recipe, table, str(path), "")
    _check(recipe, str(path))
    return recipe


def _read(kind: Any, table: dict[str, Any], path: str, prefix: str) -> Any:
    types = get_type_hints(kind)
    known = [field.name for field in fields(kind)]
    unknown = sorted(set(table) - set(known))
    if unknown:
        raise ValueError(f"{path}: unknown key {prefix + unknown[0]!r} (known here: {', '.join(known)})")
    values = {}
    for name in known:
        key = prefix + name
        if name not in table:
            raise ValueError(f"{path}: {key!r} is missing")
        value, wanted = table[name], types[name]
        if dataclasses.is_dataclass(wanted):
            if not isinstance(value, dict):
                raise ValueError(f"{path}: {key!r} must be a table")
            values[name] = _read(wanted, value, path, f"{key}.")
            continue
        if wanted is float and type(value) is int:
            value = float(value)
        if type(value) is not wanted:
            raise ValueError(f"{path}: {key!r} must be {wanted.__name__}, not {value!r}")
        values[name] = value
    return kind(**values)


def _check(recipe: Recipe, path: str) -> None:
    rules = {
        "data.name must be 'fashion-mnist'": recipe.data.name == "fashion-mnist",
        "data.validation must be in [0, 30000]": 0 <= recipe.data.validation <= 30000,
        "data.shift must be in [0, 8]": 0 <= recipe.data.shift <= 8,
        "data.std must be positive": recipe.data.std > 0,
        "optimizer.batch must be at least 1": recipe.optimizer.batch >= 1,
        "optimizer.ema must be in [0, 1)": 0 <= recipe.optimizer.ema < 1,
        "quantization.eight_bit_fraction must be in [0, 1]": 0 <= recipe.quantization.eight_bit_fraction <= 1,
        "quantization.percentile must be in [0.99, 1]": 0.99 <= recipe.quantization.percentile <= 1,
        "quantization.calibration must be at least 1": recipe.quantization.calibration >= 1,
        "quantization.scoring must be at least 1": recipe.quantization.scoring >= 1,
    }
    for name, stage in (("float_stage", recipe.float_stage), ("quantized_stage", recipe.quantized_stage)):
        rules[f"{name}.epochs must be at least 1"] = stage.epochs >= 1
        rules[f"{name}.learning_rate must be positive"] = stage.learning_rate > 0
        rules[f"{name}.warmup must be in [0, 1)"] = 0 <= stage.warmup < 1
        rules[f"{name}.final must be in [0, 1]"] = 0 <= stage.final <= 1
    for rule, holds in rules.items():
        if not holds:
            raise ValueError(f"{path}: {rule}")
