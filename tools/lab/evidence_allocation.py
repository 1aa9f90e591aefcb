"""Part (a) of docs/evidence.md: which rows should have 8 bits, at equal frame rates?

A *strategy* chooses 8-bit rows of a trained network. All use the same scores and get the frame rate that layer-wise
widths have in the event model. Then the integer engine classifies held-out images: after rounding alone, and after
quantized tuning with the same widths.

An 8-bit row takes a slot of the array (a row pair) of its own, two 4-bit rows share one. So widths change two rows at
a time, and each change costs one slot for as many cycles as the matrix has columns. Depends on `evidence_networks`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evidence_networks import (
    DIGITS,
    FASHION_MNIST,
    Eight,
    Logits,
    Scores,
    Split,
    Task,
    all_rows,
    as_timm,
    figures,
    float_logits,
    integer_logits,
    losses,
    matrices,
    rounded,
    split,
    train,
    tuned,
)
from quasar_rt import Subnet
from quasar_rt.export.layerwise import Method
from quasar_rt.hardware import Hardware, replay
from quasar_rt.nas.knapsack import knapsack
from quasar_rt.rows import pack_rows
from quasar_rt.space import eight_bit_rows

__all__ = ["METHODS", "STRATEGIES", "Settings", "allocation", "choose", "cost", "tuning"]

#: Strategies whose scores add up, and what they may choose: see `choose`.
STRATEGIES = ("rows", "fractions", "layers", "one", "random")
#: The ways to round weights (`quasar_rt.export.export_timm`).
METHODS: tuple[Method, ...] = ("nearest", "gptq")
#: The fractions of 8-bit rows of a matrix that a search's genome can express.
FRACTIONS = (0.0, 0.25, 0.5, 0.75, 1.0)
#: Replays that are spent on bringing a strategy to the frame rate, and the difference that is close enough.
ATTEMPTS, CLOSE = 8, 0.001


@dataclass(frozen=True)
class Settings:
    """Settings that all seeds of a task share.

    `budgets` are shares of the slots that 8 bits in all rows cost over 4 bits. There are `draws` of random
    rows, of which the first is tuned. Networks are tuned for the budgets in `tuned`.
    """

    task: Task
    budgets: tuple[float, ...] = (0.125, 0.25, 0.5)
    tuned: tuple[float, ...] = (0.125, 0.25, 0.5)
    draws: int = 3


# Choosing rows.


class _Part(NamedTuple):
    """Rows of a matrix from which a strategy chooses a number: the best ones first."""

    name: str
    rows: NDArray[np.int64]
    columns: int

    def worth(self, scores: Scores) -> NDArray[np.float64]:
        """Returns the sum of the scores of the best 0, 2, 4, ... rows."""
        pairs = scores[self.name][self.rows].reshape(-1, 2).sum(axis=1)
        return np.concatenate([[0.0], pairs.cumsum()])

    @property
    def pairs(self) -> int:
        return len(self.rows) // 2


def _parts(task: Task, scores: Scores, apart: bool) -> Iterator[_Part]:
    """Yields the matrices, q, k and v as three if they are counted `apart`."""
    for name, (rows, columns) in matrices(task).items():
        count = 3 if apart and name.endswith("qkv") else 1
        for run in np.split(np.arange(rows), count):
            yield _Part(name, run[np.argsort(-scores[name][run], kind="stable")], columns)


def cost(task: Task, eight: Eight) -> int:
    """Returns the slots that these 8-bit rows cost over 4-bit ones, each times its columns."""
    return sum(int(eight[name].sum()) // 2 * columns for name, (_, columns) in matrices(task).items())


def choose(strategy: str, task: Task, scores: Scores, budget: int, seed: Sequence[int]) -> Eight:
    """Chooses 8-bit rows whose `cost` is at most `budget`.

    Args:
        strategy: ``rows``: any rows; ``fractions``: of q, k, v, proj, fc1 and fc2 of each block one of five fractions;
            ``layers``: all or none of each of these; ``one``: the same fraction of each, to within one pair of rows;
            ``random``: any rows at random. All but the last choose the best rows, exactly: the sum of the scores is
            the greatest that the budget allows.
        task: its network.
        scores: of the rows.
        budget: in units of `cost`.
        seed: of the random rows.
    """
    eight = all_rows(task, False)
    if strategy == "random":
        generator = np.random.default_rng(seed)
        every = [
            (name, pair, columns)
            for name, (rows, columns) in matrices(task).items()
            for pair in generator.permutation(rows).reshape(-1, 2)
        ]
        for i in generator.permutation(len(every)):
            name, pair, columns = every[i]
            if columns <= budget:
                eight[name][pair] = True
                budget -= columns
        return eight
    parts = list(_parts(task, scores, strategy != "rows"))
    if strategy == "rows":
        allowed = [list(range(part.pairs + 1)) for part in parts]
    elif strategy == "fractions":
        allowed = [[eight_bit_rows(len(part.rows), f) // 2 for f in FRACTIONS] for part in parts]
    elif strategy == "layers":
        allowed = [[0, part.pairs] for part in parts]
    elif strategy == "one":
        fractions = sorted({k / part.pairs for part in parts for k in range(part.pairs + 1)})
        counts = [[int(f * part.pairs + 1e-9) for part in parts] for f in fractions]
        costs = [sum(k * part.columns for k, part in zip(ks, parts, strict=True)) for ks in counts]
        least = counts[max(i for i, c in enumerate(costs) if c <= budget)]
        allowed = [sorted({k, min(k + 1, part.pairs)}) for k, part in zip(least, parts, strict=True)]
    else:
        raise ValueError(f"the strategy must be one of {', '.join(STRATEGIES)}, not {strategy!r}")
    found = knapsack(
        [part.worth(scores)[pairs].tolist() for part, pairs in zip(parts, allowed, strict=True)],
        [[part.columns * k for k in pairs] for part, pairs in zip(parts, allowed, strict=True)],
        budget,
    )
    for part, pairs, choice in zip(parts, allowed, found.choices, strict=True):
        eight[part.name][part.rows[: 2 * pairs[choice]]] = True
    return eight


# Equal frame rates.


class Rates:
    """Replays a network with other widths: the event model's frames a second depend on nothing else."""

    def __init__(self, task: Task, subnet: Subnet, hardware: Hardware) -> None:
        self.task, self.hardware = task, hardware
        self._config, self._tensors = subnet.config, subnet.tensors()
        self._ends = [self.period(all_rows(task, width)) for width in (False, True)]

    def fps(self, period: int) -> float:
        """Returns frames a second."""
        return float(self.hardware.settings["clock_mhz"]) * 1e6 / period

    def of(self, subnet: Subnet) -> float:
        """Returns the replayed frames a second of an exported network."""
        return self.fps(replay(subnet, self.hardware).period_cycles)

    def period(self, eight: Eight) -> int:
        """Returns the cycles of a frame with these widths."""
        tensors = dict(self._tensors)
        for name, shape in matrices(self.task).items():
            bits = np.where(eight[name], 8, 4).astype(np.uint8)
            tensors |= {f"{name}.bits": bits, f"{name}.weight": pack_rows(np.zeros(shape, np.int8), bits)}
        return replay(Subnet.from_parts(self._config, tensors), self.hardware).period_cycles

    def chosen(self, strategy: str, scores: Scores, anchor: Eight, seed: Sequence[int]) -> Eight:
        """Chooses rows with a budget at which the frame rate is closest to that of `anchor`."""
        wanted, budget = self.period(anchor), cost(self.task, anchor)
        slope = cost(self.task, all_rows(self.task, True)) / (self._ends[1] - self._ends[0])
        best: tuple[int, Eight] | None = None
        tried = set()
        for _ in range(ATTEMPTS):
            tried.add(budget)
            eight = choose(strategy, self.task, scores, budget, seed)
            off = self.period(eight) - wanted
            if best is None or abs(off) < best[0]:
                best = abs(off), eight
            budget = max(0, budget - round(off * slope))
            if abs(off) <= CLOSE * wanted or budget in tried:
                break
        assert best is not None
        return best[1]


# Figures.


class _Trained:
    """A seed's images and float network, with the scores of its rows."""

    def __init__(self, settings: Settings, seed: int, hardware: Hardware, root: Path | None) -> None:
        self.settings, self.seed = settings, seed
        task = self.task = settings.task
        self.data = split(task, seed, root)
        self.network = train(task, self.data, seed)
        self.model = as_timm(task, self.network)
        self.calibration = self.data.images[: task.calibration]
        self.wanted = float_logits(task, self.model, self.data.held_images)
        self.measured = _Measured(self.data, self.wanted)
        self.rates = Rates(task, self.rounded("nearest", all_rows(task, False)), hardware)

    def rounded(self, method: Method, eight: Eight) -> Subnet:
        """Exports the network with these 8-bit rows."""
        return rounded(self.task, self.model, self.calibration, method, eight)[0]

    def scores(self, method: Method) -> Scores:
        """Returns the exporter's scores of the rows, in a network of 4-bit rows."""
        return rounded(self.task, self.model, self.calibration, method, all_rows(self.task, False))[1]

    def anchor(self, scores: Scores, budget: float) -> Eight:
        """Chooses the rows whose frame rate all strategies get."""
        return choose("layers", self.task, scores, int(budget * self.slots(all_rows(self.task, True))), [])

    def chosen(self, scores: Scores, anchor: Eight, draws: int) -> dict[str, list[Eight]]:
        """Chooses the rows of every strategy, of ``random`` several times."""
        return {
            strategy: [
                anchor
                if strategy == "layers"
                else self.rates.chosen(strategy, scores, anchor, [self.seed, draw])
                for draw in range(draws if strategy == "random" else 1)
            ]
            for strategy in STRATEGIES
        }

    def slots(self, eight: Eight) -> int:
        """Returns the `cost` of these rows."""
        return cost(self.task, eight)

    def compared(
        self, chosen: dict[str, list[Eight]], subnets: dict[str, list[Subnet]]
    ) -> dict[str, list[dict[str, float]]]:
        """Measures the networks of all strategies, each next to the row-wise one image by image.

        ``lower`` is the share of images whose loss is lower with the rows of ``rows``, ``higher`` of those where it is
        higher; ``slots`` is the cost as a share of that of 8 bits in all rows.
        """
        by_rows = self.measured(subnets["rows"][0])[1]
        whole = self.slots(all_rows(self.task, True))
        table: dict[str, list[dict[str, float]]] = {}
        for strategy, several in subnets.items():
            table[strategy] = []
            for subnet, eight in zip(several, chosen[strategy], strict=True):
                found, by_image = self.measured(subnet)
                found |= {
                    "lower": float((by_rows < by_image).mean()),
                    "higher": float((by_rows > by_image).mean()),
                    "fps": self.rates.of(subnet),
                    "slots": self.slots(eight) / whole,
                }
                table[strategy].append(found)
        return table

    def end(self, subnet: Subnet) -> dict[str, float]:
        """Measures a network of one width."""
        return {**self.measured(subnet)[0], "fps": self.rates.of(subnet)}


def allocation(settings: Settings, seed: int, hardware: Hardware, root: Path | None = None) -> dict[str, Any]:
    """Trains a network and measures it, rounded, with the rows of every strategy, budget and method.

    `root` is that of `split`. A cell of results.json: ``float``, and in ``rounded`` by method the figures of all rows
    at ``4`` and ``8`` bits, and by budget and strategy.
    """
    one = _Trained(settings, seed, hardware, root)
    four, every = (all_rows(one.task, width) for width in (False, True))
    found: dict[str, Any] = {
        "float": figures(one.wanted, one.wanted, one.data.held_labels),
        "rounded": {},
    }
    for method in METHODS:
        scores = one.scores(method)
        table: dict[str, Any] = {
            name: one.end(one.rounded(method, eight)) for name, eight in (("4", four), ("8", every))
        }
        sensitivity = _sensitivity(one) if method == "nearest" else None
        for budget in settings.budgets:
            anchor = one.anchor(scores, budget)
            chosen = one.chosen(scores, anchor, settings.draws)
            if sensitivity is not None:
                chosen["layers_measured"] = [one.rates.chosen("layers", sensitivity, anchor, [])]
            subnets = {s: [one.rounded(method, eight) for eight in several] for s, several in chosen.items()}
            table[f"{budget:g}"] = one.compared(chosen, subnets)
        found["rounded"][method] = table
    return found


def tuning(
    settings: Settings, seed: int, hardware: Hardware, budget: float | None, root: Path | None = None
) -> dict[str, Any]:
    """Tunes a network with the rows that every strategy chooses for rounding at a budget: a cell of results.json.

    Without a budget, it tunes with all rows at ``4`` and at ``8`` bits. `root` is that of `split`.
    """
    one = _Trained(settings, seed, hardware, root)

    def after(eight: Eight) -> Subnet:
        return tuned(one.task, copy.deepcopy(one.network), one.data, eight, seed)

    if budget is None:
        return {name: one.end(after(all_rows(one.task, name == "8"))) for name in ("4", "8")}
    scores = one.scores("nearest")
    chosen = one.chosen(scores, one.anchor(scores, budget), 1)
    return one.compared(chosen, {s: [after(eight) for eight in several] for s, several in chosen.items()})


class _Measured:
    """Measures subnets on the held-out images of a seed."""

    def __init__(self, data: Split, wanted: Logits) -> None:
        self.data, self.wanted = data, wanted

    def __call__(self, subnet: Subnet) -> tuple[dict[str, float], NDArray[np.float64]]:
        """Returns `figures` and each image's loss."""
        logits = integer_logits(subnet, self.data.held_images)
        labels = self.data.held_labels
        return figures(logits, self.wanted, labels), losses(logits, labels)


def _sensitivity(one: _Trained) -> Scores:
    """Measures what 8 bits in each whole matrix are worth: the squared logit error that they take from 4-bit rows.

    On the calibration images, rounded, through the integer engine. Returned as scores of rows, which add up to it.
    """
    wanted = float_logits(one.task, one.model, one.calibration)

    def error(eight: Eight) -> float:
        logits = integer_logits(one.rounded("nearest", eight), one.calibration)
        return float(np.square(logits.astype(np.float64) - wanted).mean())

    base = error(all_rows(one.task, False))
    found = {name: np.zeros(rows) for name, (rows, _) in matrices(one.task).items()}
    for part in _parts(one.task, found, True):
        eight = all_rows(one.task, False)
        eight[part.name][part.rows] = True
        found[part.name][part.rows] = (base - error(eight)) / len(part.rows)
    return found


#: The tasks of the page, by the names of their cells.
TASKS = {"digits": Settings(DIGITS), "fashion-mnist": Settings(FASHION_MNIST, draws=2)}
