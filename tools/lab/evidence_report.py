#!/usr/bin/env python3
"""The tables and pictures of docs/evidence.md from docs/evidence/results.json, which tools/lab/evidence.py writes.

    python tools/lab/evidence_report.py         writes them again

Differences are paired by seed and have 95 % intervals of Student's t over seeds. Depends on matplotlib for the
pictures, else on the standard library and `quasar_rt`.
"""

from __future__ import annotations

import io
import json
import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from quasar_rt.files import write_bytes, write_text

__all__ = ["draw", "interval", "markdown", "mean_spread", "shown", "splice", "tables", "write"]

DOCS = Path(__file__).resolve().parents[2] / "docs"
Document = Mapping[str, Any]
Result = Mapping[str, Any]

#: Data sets, ways to 8-bit rows, and when they are measured.
DATA = {"digits": "Digits", "fashion-mnist": "Fashion-MNIST"}
STRATEGIES = {
    "rows": "row-wise, any rows",
    "fractions": "row-wise, five fractions",
    "layers": "layer-wise",
    "layers_measured": "layer-wise, measured",
    "one": "one fraction",
    "random": "random rows",
}
STAGES = {"nearest": "rounding", "gptq": "GPTQ", "tuned": "tuning"}
COLOURS = {
    "rows": "#1d5fd1",
    "fractions": "#6ea2f2",
    "layers": "#c9711a",
    "layers_measured": "#e3b23c",
    "one": "#2e7d4f",
    "random": "0.45",
}

#: 97.5 % quantiles of Student's t for 1, 2, ... 30 degrees of freedom (scipy.stats.t.ppf).
_T: tuple[float, ...] = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


def mean_spread(values: Sequence[float]) -> tuple[float, float]:
    """Returns mean and sample standard deviation; the latter is NaN for one value, both for none.

    >>> mean_spread([1.0, 2.0, 3.0])
    (2.0, 1.0)
    """
    mean = statistics.fmean(values) if values else math.nan
    return mean, statistics.stdev(values) if len(values) > 1 else math.nan


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Returns the mean and half of its 95 % interval (Student's t); the latter is NaN for one value, both for none.

    >>> [round(x, 3) for x in interval([1.0, 2.0, 3.0])]
    [2.0, 2.484]
    """
    mean, spread = mean_spread(values)
    if math.isnan(spread):
        return mean, spread
    quantile = _T[min(len(values) - 1, len(_T)) - 1]
    return mean, quantile * spread / math.sqrt(len(values))


def shown(
    values: Sequence[float],
    sign: bool = False,
    digits: int = 2,
    scale: float = 100.0,
    spread_of: Callable[[Sequence[float]], tuple[float, float]] = mean_spread,
) -> str:
    """Formats shares as ``mean ± spread`` in percent; a dash where there are none.

    `scale` is another factor than that of percent, `spread_of` another spread (`interval`).

    >>> shown([0.81, 0.82, 0.83]), shown([0.5]), shown([0.01, -0.03], sign=True)
    ('82.00 ± 1.00', '50.00', '−1.00 ± 2.83')
    """
    if not values:
        return "–"
    mean, spread = (scale * value for value in spread_of(values))
    text = f"{mean:{'+' if sign else ''}.{digits}f}".replace("-", "−")
    return text if math.isnan(spread) else f"{text} ± {spread:.{digits}f}"


def difference(found: Mapping[str, float], digits: int, scale: float) -> list[str]:
    """Formats paired differences: the mean with its interval, bold where that excludes 0; seeds below and above 0.

    >>> difference({"0": -0.5, "1": -0.5, "2": -0.75}, 1, 1.0)
    ['**−0.6 ± 0.4**', '3 / 0']
    """
    several = values(found)
    if not several:
        return ["–", "–"]
    mean, half = interval(several)
    text = shown(several, True, digits, scale, interval)
    below, above = sum(v < 0 for v in several), sum(v > 0 for v in several)
    return [f"**{text}**" if abs(mean) > half else text, f"{below} / {above}"]


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> str:
    """Formats a Markdown table; the first `texts` columns are texts, the others numbers."""
    rule = ["---"] * texts + ["---:"] * (len(header) - texts)
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *rows))


# Figures of the cells.


def by_seed(document: Document, cell: str, get: Callable[[Result], float | None]) -> dict[str, float]:
    """Returns ``get(result)`` of a cell by seed, of those seeds that have it."""
    found = {seed: get(result) for seed, result in document["cells"].get(cell, {}).items()}
    return {seed: float(value) for seed, value in found.items() if value is not None}


def allocated(
    document: Document, data: str, stage: str, budget: str, strategy: str | None, key: str
) -> dict[str, float]:
    """Returns a figure by seed, the mean over draws.

    Args:
        document: the results.
        data: of `DATA`.
        stage: of `STAGES`.
        budget: share of the slots; ``4`` or ``8`` for all rows of that width, which have no strategy.
        strategy: of `STRATEGIES`.
        key: ``fps``, ``slots``, ``logit_error``, ``kl``, ``nll``, ``top1``, ``lower`` or ``higher``.
    """
    if stage == "tuned":
        cell = f"tuning_{data}_{'ends' if strategy is None else budget}"
    else:
        cell = f"allocation_{data}"

    def get(result: Result) -> float | None:
        if stage == "tuned":
            found = result.get(budget if strategy is None else strategy)
        else:
            table = result["rounded"][stage][budget]
            found = table if strategy is None else table.get(strategy)
        return None if found is None else averaged(found, key)

    return by_seed(document, cell, get)


def budgets(document: Document, data: str, stage: str | None = None) -> list[str]:
    """Returns the budgets as the cells name them; of a stage those that have results."""
    names = [f"{budget:g}" for budget in document["settings"][data]["budgets"]]
    return [n for n in names if stage is None or allocated(document, data, stage, n, "rows", "fps")]


def paired(a: Mapping[str, float], b: Mapping[str, float]) -> dict[str, float]:
    """Returns ``a - b`` of the seeds that have both.

    >>> paired({"0": 0.5, "1": 0.75}, {"1": 0.25})
    {'1': 0.5}
    """
    return {seed: a[seed] - b[seed] for seed in a if seed in b}


def averaged(results: Result | Sequence[Result], key: str) -> float:
    """Returns a figure of one result, or its mean over several."""
    several: Sequence[Result] = [results] if isinstance(results, Mapping) else results
    return statistics.fmean(float(one[key]) for one in several)


def values(found: Mapping[str, float]) -> list[float]:
    """Returns the figures alone."""
    return list(found.values())


# Tables.


def tables(document: Document) -> dict[str, str]:
    """Returns every generated table by name."""
    by_data = {}
    for data in DATA:
        name = data.replace("-", "_")
        by_data[f"levels_{name}"] = levels_table(document, data)
        by_data[f"differences_{name}"] = differences_table(document, data)
    return by_data


def percent(budget: str) -> str:
    """Formats a share of slots."""
    return f"{100 * float(budget):g} %"


def levels_table(document: Document, data: str) -> str:
    """Formats slots and frame rates (with rounding's rows), logit errors and top-1 of every strategy."""
    header = ["budget", "strategy", "slots used, %", "FPS (modelled)", "off by at most, %"]
    header += [f"logit error, {label}, %" for label in STAGES.values()]
    header += [f"top-1, {label}, %" for label in STAGES.values()]

    def figures(budget: str, strategy: str | None) -> list[str]:
        errors = [values(allocated(document, data, s, budget, strategy, "logit_error")) for s in STAGES]
        top1 = [values(allocated(document, data, s, budget, strategy, "top1")) for s in STAGES]
        return [shown(v, digits=1, spread_of=interval) for v in errors + top1]

    def fps(budget: str, strategy: str | None, stage: str = "nearest") -> dict[str, float]:
        return allocated(document, data, stage, budget, strategy, "fps")

    def ends(budget: str, label: str) -> list[str]:
        rate = mean_spread(values(fps(budget, None)))[0]
        return [label, f"all {budget}-bit", "–", f"{rate:,.0f}", "–", *figures(budget, None)]

    rows = [ends("4", "0 %")]
    for budget in budgets(document, data):
        for strategy, label in STRATEGIES.items():
            rates = values(fps(budget, strategy))
            if not rates:
                continue
            off = [
                abs(rate / fps(budget, "layers", stage)[seed] - 1)
                for stage in STAGES
                for seed, rate in fps(budget, strategy, stage).items()
            ]
            used = statistics.fmean(values(allocated(document, data, "nearest", budget, strategy, "slots")))
            rate = f"{statistics.fmean(rates):,.0f}"
            rows.append(
                [
                    percent(budget),
                    label,
                    f"{100 * used:.1f}",
                    rate,
                    f"{100 * max(off):.2f}",
                    *figures(budget, strategy),
                ]
            )
    rows.append(ends("8", "100 %"))
    return markdown(header, rows, 2)


def differences_table(document: Document, data: str) -> str:
    """Formats row-wise (any rows) less every other strategy, paired by seed, of logits, losses and top-1."""
    keys = {
        "logit_error": ("logit error, points", 2, 100.0),
        "kl": ("KL, 0.001 nats", 2, 1000.0),
        "nll": ("NLL, 0.001 nats", 2, 1000.0),
        "top1": ("top-1, points", 2, 100.0),
    }
    header = ["after", "budget", "row-wise minus"]
    for label, _, _ in keys.values():
        header += [label, "seeds < / > 0"]
    header += ["images of lower / higher NLL, %"]
    rows = []
    for stage, stage_label in STAGES.items():
        for budget in budgets(document, data):
            for strategy, label in list(STRATEGIES.items())[1:]:
                line = [stage_label, percent(budget), label]
                for key, (_, digits, scale) in keys.items():
                    mine, other = (
                        allocated(document, data, stage, budget, s, key) for s in ("rows", strategy)
                    )
                    line += difference(paired(mine, other), digits, scale)
                image = [
                    values(allocated(document, data, stage, budget, strategy, k)) for k in ("lower", "higher")
                ]
                if image[0]:
                    line.append(" / ".join(f"{100 * statistics.fmean(v):.1f}" for v in image))
                    rows.append(line)
    return markdown(header, rows, 3)


def splice(text: str, blocks: Mapping[str, str]) -> str:
    r"""Replaces each block between its markers in the text.

    Raises:
        ValueError: a block has no markers in the text, or markers have no block.

    >>> splice("a\n<!-- generated: x -->\nold\n<!-- end -->\nb\n", {"x": "new"})
    'a\n<!-- generated: x -->\n\nnew\n\n<!-- end -->\nb\n'
    """
    pattern = re.compile(r"<!-- generated: (\w+) -->\n.*?<!-- end -->", re.DOTALL)
    there = pattern.findall(text)
    if sorted(there) != sorted(blocks):
        raise ValueError(f"the text has markers for {sorted(there)}, the blocks are {sorted(blocks)}")
    return pattern.sub(lambda m: f"<!-- generated: {m[1]} -->\n\n{blocks[m[1]]}\n\n<!-- end -->", text)


# Pictures.


def figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, Any]:
    """Makes a figure and its axes [rows, columns], with a pale grid."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(found)
    axes = found.subplots(rows, columns, squeeze=False)
    for one in axes.flat:
        one.grid(color="0.92")
        one.set_axisbelow(True)
    return found, axes


def png(found: Any) -> bytes:
    """Returns the picture; without the software's version the same figures give the same bytes."""
    buffer = io.BytesIO()
    found.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()


def points(
    axes: Any,
    at: float,
    found: Mapping[str, float],
    colour: str,
    label: str | None = None,
    spread_of: Callable[[Sequence[float]], tuple[float, float]] = mean_spread,
) -> None:
    """Plots each seed's figure in percent, small, and their mean with its spread."""
    y = [100 * value for value in found.values()]
    if not y:
        return
    mean, spread = spread_of(y)
    axes.scatter([at] * len(y), y, s=9, color=colour, alpha=0.5, linewidths=0)
    axes.errorbar(
        [at],
        [mean],
        yerr=None if math.isnan(spread) else [spread],
        fmt="o",
        ms=5,
        color=colour,
        capsize=3,
        lw=1.2,
        label=label,
    )


def allocation_picture(document: Document) -> bytes:
    """Draws the logit errors."""
    found, axes = figure(len(DATA), len(STAGES), (13, 7.5))
    for row, (data, title) in enumerate(DATA.items()):
        for axis, (stage, label) in zip(axes[row], STAGES.items(), strict=True):
            names = budgets(document, data, stage)
            for number, strategy in enumerate(STRATEGIES):
                for i, budget in enumerate(names):
                    at = i + 0.13 * (number - (len(STRATEGIES) - 1) / 2)
                    errors = allocated(document, data, stage, budget, strategy, "logit_error")
                    points(axis, at, errors, COLOURS[strategy], None, interval)
            for width, style in (("4", ":"), ("8", "--")):
                errors = allocated(document, data, stage, width, None, "logit_error")
                axis.axhline(100 * mean_spread(values(errors))[0], color="0.4", ls=style, lw=1)
            axis.set_xticks(range(len(names)), [percent(name) for name in names])
            axis.set_xlim(-0.6, len(names) - 0.4)
            axis.set_ylim(bottom=0)
            axis.set_title(f"{title}, after {label}", fontsize=10, loc="left")
            axis.set_xlabel("slots for 8-bit rows")
        axes[row][0].set_ylabel("logit error, %")
    legend(found, [(COLOURS[s], "-", label) for s, label in STRATEGIES.items()], all_widths=True)
    return png(found)


def legend(found: Any, entries: Sequence[tuple[str, str, str]], all_widths: bool = False) -> None:
    """Draws a legend of (colour, style, label) below the axes."""
    from matplotlib.lines import Line2D

    ends = [("0.4", ":", "all rows 4-bit"), ("0.4", "--", "all rows 8-bit")] if all_widths else []
    handles = [Line2D([], [], color=c, ls=style, label=label) for c, style, label in [*entries, *ends]]
    found.legend(handles=handles, fontsize=8, loc="outside lower left", ncols=8)


def differences_picture(document: Document) -> bytes:
    """Draws row-wise less the others: logit error, NLL and top-1."""
    keys = {"logit_error": "logit error, points", "nll": "NLL, 0.01 nats", "top1": "top-1, points"}
    others = [s for s in STRATEGIES if s != "rows"]
    found, axes = figure(len(DATA), len(keys), (13, 7.5))
    for row, (data, title) in enumerate(DATA.items()):
        places, labels = [], []
        for stage, name in STAGES.items():
            several = budgets(document, data, stage)
            places += [(stage, budget) for budget in several]
            middle = several[len(several) // 2] if several else None
            labels += [f"{percent(b)}\n{name if b == middle else ''}" for b in several]
        for axis, (key, label) in zip(axes[row], keys.items(), strict=True):
            for number, strategy in enumerate(others):
                for i, (stage, budget) in enumerate(places):
                    mine, other = (
                        allocated(document, data, stage, budget, s, key) for s in ("rows", strategy)
                    )
                    at = i + 0.15 * (number - (len(others) - 1) / 2)
                    points(axis, at, paired(mine, other), COLOURS[strategy], None, interval)
            axis.axhline(0, color="0.2", lw=0.8)
            axis.set_xticks(range(len(places)), labels, fontsize=8)
            axis.set_title(f"{title}: {label}", fontsize=10, loc="left")
        axes[row][0].set_ylabel("row-wise (any rows) minus the other")
    legend(found, [(COLOURS[s], "-", STRATEGIES[s]) for s in others])
    return png(found)


def draw(document: Document) -> dict[str, bytes]:
    """Draws every picture; returns them by their names in docs/evidence."""
    return {
        "allocation.png": allocation_picture(document),
        "differences.png": differences_picture(document),
    }


def write(document: Document, docs: Path = DOCS) -> None:
    """Writes results, tables and pictures into the documentation."""
    folder, page = docs / "evidence", docs / "evidence.md"
    folder.mkdir(exist_ok=True)
    write_text(folder / "results.json", json.dumps(document, indent=1) + "\n")
    write_text(page, splice(page.read_text(encoding="utf-8"), tables(document)))
    for name, data in draw(document).items():
        write_bytes(folder / name, data)


@click.command(help=(__doc__ or "").split("\n\n")[0])
def main() -> None:
    write(json.loads((DOCS / "evidence" / "results.json").read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
