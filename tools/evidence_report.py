#!/usr/bin/env python3
"""The tables and pictures of docs/evidence.md from docs/evidence/results.json, which tools/evidence.py writes.

    python tools/evidence_report.py         writes them again

Spreads are sample standard deviations over seeds; differences are paired by seed. Depends on matplotlib for the
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
from quasar_rt.hardware import CostTable, Hardware
from quasar_rt.space import Architecture, Space

__all__ = ["draw", "mean_spread", "shown", "splice", "tables", "write"]

TOOLS = Path(__file__).resolve().parent
DOCS = TOOLS.parent / "docs"
SPACE, HARDWARE = TOOLS / "evidence-space.toml", TOOLS / "evidence-hardware.toml"

Document = Mapping[str, Any]
Result = Mapping[str, Any]

STRATEGIES = {
    "rows": "row-wise",
    "layers": "layer-wise",
    "uniform4": "uniform 4-bit",
    "uniform8": "uniform 8-bit",
    "random": "random networks",
}
NETWORKS = {
    "largest": "largest, 8-bit",
    "largest4": "largest shape, 4-bit",
    "smallest": "smallest, 4-bit",
    "smallest8": "smallest shape, 8-bit",
    "random": "random networks, mean",
}
CRITERIA = ("loss", "magnitude", "variance", "random", "prefix")
COLOURS = {
    "rows": "#1d5fd1",
    "layers": "#c9711a",
    "uniform4": "#b3261e",
    "uniform8": "#2e7d4f",
    "random": "0.45",
}


def mean_spread(values: Sequence[float]) -> tuple[float, float]:
    """Returns mean and sample standard deviation; the latter is NaN for one value, both for none.

    >>> mean_spread([1.0, 2.0, 3.0])
    (2.0, 1.0)
    """
    mean = statistics.fmean(values) if values else math.nan
    return mean, statistics.stdev(values) if len(values) > 1 else math.nan


def shown(values: Sequence[float], sign: bool = False, digits: int = 2) -> str:
    """Formats shares as ``mean ± spread`` in percent; a dash where there are none.

    >>> shown([0.81, 0.82, 0.83]), shown([0.5]), shown([0.01, -0.03], sign=True)
    ('82.00 ± 1.00', '50.00', '−1.00 ± 2.83')
    """
    if not values:
        return "–"
    mean, spread = (100 * value for value in mean_spread(values))
    text = f"{mean:{'+' if sign else ''}.{digits}f}".replace("-", "−")
    return text if math.isnan(spread) else f"{text} ± {spread:.{digits}f}"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> str:
    """Formats a Markdown table; the first `texts` columns are texts, the others numbers."""
    rule = ["---"] * texts + ["---:"] * (len(header) - texts)
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *rows))


# Figures of the cells.


def seeds_of(document: Document) -> list[str]:
    """Returns the seeds, as the cells name them."""
    return [str(seed) for seed in document["seeds"]]


def by_seed(document: Document, cell: str, get: Callable[[Result], float | None]) -> dict[str, float]:
    """Returns ``get(result)`` of a cell by seed, of those seeds that have it."""
    results = document["cells"].get(cell, {})
    found = {seed: get(results[seed]) for seed in seeds_of(document) if seed in results}
    return {seed: float(value) for seed, value in found.items() if value is not None}


def selected(document: Document, strategy: str, target: float, key: str) -> dict[str, float]:
    """Returns a figure of the networks that a strategy selected for a target, by seed; none where it reached none."""

    def get(result: Result) -> float | None:
        return next((one.get(key) for one in result["picks"] if one["target"] == target), None)

    return by_seed(document, f"search_{strategy}", get)


def paired(a: Mapping[str, float], b: Mapping[str, float]) -> dict[str, float]:
    """Returns ``a - b`` of the seeds that have both.

    >>> paired({"0": 0.5, "1": 0.75}, {"1": 0.25})
    {'1': 0.5}
    """
    return {seed: a[seed] - b[seed] for seed in a if seed in b}


def over(groups: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Returns the mean over groups by seed, of the seeds that are in every group.

    >>> over([{"0": 1.0, "1": 2.0}, {"0": 3.0}])
    {'0': 2.0}
    """
    common = [seed for seed in groups[0] if all(seed in group for group in groups)] if groups else []
    return {seed: statistics.fmean(group[seed] for group in groups) for seed in common}


def averaged(results: Result | Sequence[Result], key: str) -> float:
    """Returns a figure of one result, or its mean over several."""
    several: Sequence[Result] = [results] if isinstance(results, Mapping) else results
    return statistics.fmean(float(one[key]) for one in several)


def scaled(document: Document, network: str, on: bool, key: str) -> dict[str, float]:
    """Returns a figure of a network of the supernets with layer scaling or without, by seed."""
    return by_seed(
        document, "scaling_on" if on else "scaling_off", lambda result: averaged(result[network], key)
    )


def ranked(document: Document, name: str, key: str) -> dict[str, float]:
    """Returns a figure of the narrow network without tuning, by seed."""
    return by_seed(document, "rows", lambda result: averaged(result[name], key))


def tuned(document: Document, criterion: str, key: str) -> dict[str, float]:
    """Returns a figure of the narrow network after tuning, by seed."""
    return by_seed(document, f"rows_trained_{criterion}", lambda result: result[key])


def retrained(document: Document, target: float, how: str, key: str = "top1") -> dict[str, float]:
    """Returns a figure of the row-wise selection for a target: ``inherited``, ``tuned`` or from ``scratch``."""
    return by_seed(document, f"inherited_{target:g}", lambda result: result[how][key])


def values(found: Mapping[str, float]) -> list[float]:
    """Returns the figures alone."""
    return list(found.values())


# Tables.


def tables(document: Document) -> dict[str, str]:
    """Returns every generated table by name."""
    return {
        "fronts": fronts_table(document),
        "remodelled": remodelled_table(document),
        "differences": differences_table(document),
        "scaling": scaling_table(document),
        "rows": rows_table(document),
        "rows_trained": rows_trained_table(document),
        "inherited": inherited_table(document),
    }


def fronts_table(document: Document) -> str:
    """Formats what each strategy selected for each target."""
    header = [
        "at least, FPS (modelled)",
        "strategy",
        "FPS (modelled)",
        "8-bit rows, %",
        "top-1, % (measured)",
        "logit error, %",
    ]
    rows, every = [], len(document["seeds"])
    for target in document["settings"]["targets"]:
        for strategy, label in STRATEGIES.items():
            fps = values(selected(document, strategy, target, "fps"))
            if not fps:
                rows.append([f"{target:,.0f}", label, "not reached", "–", "–", "–"])
                continue
            if len(fps) < every:
                label += f" ({len(fps)} of {every} seeds reach it)"
            share = values(selected(document, strategy, target, "eight_bit_share"))
            rows.append(
                [
                    f"{target:,.0f}",
                    label,
                    f"{statistics.fmean(fps):,.0f}",
                    f"{100 * statistics.fmean(share):.0f}",
                    shown(values(selected(document, strategy, target, "top1"))),
                    shown(values(selected(document, strategy, target, "logit_error")), digits=1),
                ]
            )
    return markdown(header, rows, 2)


def remodelled_table(document: Document) -> str:
    """Formats the recorded frame rates next to those that today's hardware model gives the same subnets."""
    table, space = CostTable(Space.load(SPACE), Hardware.load(HARDWARE)), Space.load(SPACE)

    def now(pick: Result) -> float:
        genome = space.encode(Architecture.from_dict(pick["architecture"]))
        return float(table.evaluate(genome[None])["fps"][0])

    rows = []
    for target in document["settings"]["targets"]:
        for strategy, label in STRATEGIES.items():
            cells = document["cells"].get(f"search_{strategy}", {})
            picks = [
                pick
                for seed in seeds_of(document)
                for pick in cells.get(seed, {"picks": []})["picks"]
                if pick["target"] == target and "architecture" in pick
            ]
            if not picks:
                continue
            rates = [now(pick) for pick in picks]
            rows.append(
                [
                    f"{target:,.0f}",
                    label,
                    f"{statistics.fmean(pick['fps'] for pick in picks):,.0f}",
                    f"{statistics.fmean(rates):,.0f}",
                    f"{min(rates):,.0f} to {max(rates):,.0f}",
                ]
            )
    return markdown(
        ["at least, FPS", "strategy", "FPS (recorded)", "FPS (today)", "range over seeds"], rows, 2
    )


def differences_table(document: Document) -> str:
    """Formats row-wise less every other strategy, paired by seed."""
    header = [
        "at least, FPS",
        "row-wise minus",
        "top-1, points",
        "seeds above / below",
        "logit error, points",
    ]
    targets = document["settings"]["targets"]
    rows = []
    for name, group in [*((f"{t:,.0f}", [t]) for t in targets), ("mean over targets", targets)]:
        for strategy, label in list(STRATEGIES.items())[1:]:
            by_key = {
                key: over(
                    [
                        paired(selected(document, "rows", t, key), selected(document, strategy, t, key))
                        for t in group
                    ]
                )
                for key in ("top1", "logit_error")
            }
            top1 = values(by_key["top1"])
            above, below = sum(v > 0 for v in top1), sum(v < 0 for v in top1)
            rows.append(
                [
                    name,
                    label,
                    shown(top1, sign=True),
                    f"{above} / {below}",
                    shown(values(by_key["logit_error"]), sign=True, digits=1),
                ]
            )
    return markdown(header, rows, 2)


def scaling_table(document: Document) -> str:
    """Formats slices of the supernets with layer scaling and without."""
    header = [
        "network",
        "with, top-1 %",
        "without, top-1 %",
        "difference, points",
        "with, logit error %",
        "without, logit error %",
    ]
    rows = []
    for network, label in NETWORKS.items():
        on, off = (scaled(document, network, on, "top1") for on in (True, False))
        errors = (scaled(document, network, on, "logit_error") for on in (True, False))
        rows.append(
            [
                label,
                shown(values(on)),
                shown(values(off)),
                shown(values(paired(on, off)), sign=True),
                *(shown(values(error), digits=1) for error in errors),
            ]
        )
    return markdown(header, rows)


def rows_table(document: Document) -> str:
    """Formats row criteria without tuning."""
    header = ["8-bit rows", "criterion", "top-1, %", "minus random, points", "logit error, %", "minus random"]
    no = ["–", "–"]
    one = next(iter(document["cells"]["rows"].values()))
    rows = []
    for name, label in (("uniform4", "0 %"), ("uniform8", "100 %")):
        assert name in one
        top1, error = (values(ranked(document, name, key)) for key in ("top1", "logit_error"))
        rows.append([label, "none", shown(top1), no[0], shown(error, digits=1), no[1]])
    found = []
    for fraction in document["settings"]["fractions"]:
        for criterion in CRITERIA:
            line = [f"{fraction:.0%}".replace("%", " %"), criterion]
            for key, digits in (("top1", 2), ("logit_error", 1)):
                mine = ranked(document, f"{criterion}_{fraction:g}", key)
                random = ranked(document, f"random_{fraction:g}", key)
                line.append(shown(values(mine), digits=digits))
                line.append(
                    no[0]
                    if criterion == "random"
                    else shown(values(paired(mine, random)), sign=True, digits=digits)
                )
            found.append(line)
    return markdown(header, [rows[0], *found, rows[1]], 2)


def rows_trained_table(document: Document) -> str:
    """Formats row criteria, each followed by tuning."""
    header = ["criterion", "top-1, %", "minus random, points", "logit error, %", "minus random"]
    rows = []
    for criterion in CRITERIA:
        line = [criterion]
        for key, digits in (("top1", 2), ("logit_error", 1)):
            mine, random = tuned(document, criterion, key), tuned(document, "random", key)
            line.append(shown(values(mine), digits=digits))
            line.append(
                "–" if criterion == "random" else shown(values(paired(mine, random)), True, digits=digits)
            )
        rows.append(line)
    return markdown(header, rows)


def inherited_table(document: Document) -> str:
    """Formats the row-wise selections: inherited, tuned, and trained on their own."""
    header = [
        "selected for, FPS",
        "inherited, top-1 %",
        "tuned from it, top-1 %",
        "from scratch, top-1 %",
        "tuned − inherited, points",
        "scratch − inherited, points",
        "scratch − tuned, points",
    ]
    targets = document["settings"]["targets"]
    rows = []
    for name, group in [*((f"{t:,.0f}", [t]) for t in targets), ("mean over targets", targets)]:
        inherited, by_tuning, scratch = (
            over([retrained(document, t, how) for t in group]) for how in ("inherited", "tuned", "scratch")
        )
        rows.append(
            [
                name,
                *(shown(values(found)) for found in (inherited, by_tuning, scratch)),
                shown(values(paired(by_tuning, inherited)), sign=True),
                shown(values(paired(scratch, inherited)), sign=True),
                shown(values(paired(scratch, by_tuning)), sign=True),
            ]
        )
    return markdown(header, rows)


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


def points(axes: Any, at: float, found: Mapping[str, float], colour: str, label: str | None = None) -> None:
    """Plots each seed's figure in percent, small, and their mean with its spread."""
    y = [100 * value for value in found.values()]
    if not y:
        return
    mean, spread = mean_spread(y)
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


def best_at(front: Sequence[Sequence[float]], fps: float) -> float:
    """Returns the best score of a front at that many FPS or more; NaN beyond it.

    >>> best_at([[10.0, 0.5], [5.0, 0.75]], 6.0)
    0.5
    """
    return max((score for at, score in front if at >= fps), default=math.nan)


def fronts_picture(document: Document) -> bytes:
    """Draws the searches' fronts and the selected networks' figures."""
    found, axes = figure(1, 3, (13, 4.2))
    left, middle, right = axes[0]
    targets = document["settings"]["targets"]
    for number, (strategy, label) in enumerate(STRATEGIES.items()):
        results = document["cells"].get(f"search_{strategy}", {})
        fronts = [results[seed]["front"] for seed in seeds_of(document) if seed in results]
        colour = COLOURS[strategy]
        if fronts:
            quickest = min(max(fps for fps, _ in front) for front in fronts)
            slowest = min(fps for front in fronts for fps, _ in front)
            grid = [slowest + (quickest - slowest) * i / 300 for i in range(301)]
            best = [[100 * best_at(front, fps) for front in fronts] for fps in grid]
            left.plot(grid, [statistics.fmean(b) for b in best], color=colour, lw=1.4, label=label)
            left.fill_between(
                grid, [min(b) for b in best], [max(b) for b in best], color=colour, alpha=0.12, lw=0
            )
        for i, target in enumerate(targets):
            at = i + 0.14 * (number - 2)
            points(middle, at, selected(document, strategy, target, "top1"), colour, None if i else label)
            points(right, at, selected(document, strategy, target, "logit_error"), colour)
    left.set_xlabel("modelled FPS, at least")
    left.set_ylabel("best top-1 in the search, %")
    left.set_title("Search images: mean and range over seeds", fontsize=10, loc="left")
    left.legend(fontsize=8, loc="lower left")
    for axis, label, title in (
        (middle, "top-1, %", "Picks, held-out images, integer engine"),
        (right, "logit error, %", "Picks: integer against float logits"),
    ):
        axis.set_xticks(range(len(targets)), [f"{t:,.0f}" for t in targets])
        axis.set_xlabel("target, modelled FPS")
        axis.set_ylabel(label)
        axis.set_title(title, fontsize=10, loc="left")
    return png(found)


def rows_picture(document: Document) -> bytes:
    """Draws row criteria before and after tuning: top-1 and logit error."""
    found, axes = figure(1, 4, (14, 3.8))
    fractions = document["settings"]["fractions"]
    shades = ["#1d5fd1", "#c9711a", "#2e7d4f"]
    for column, (key, label) in enumerate((("top1", "top-1, %"), ("logit_error", "logit error, %"))):
        before, after = axes[0][column], axes[0][2 + column]
        for number, fraction in enumerate(fractions):
            for i, criterion in enumerate(CRITERIA):
                at = i + 0.22 * (number - (len(fractions) - 1) / 2)
                legend = f"{fraction:.0%} of rows 8-bit" if i == 0 else None
                points(before, at, ranked(document, f"{criterion}_{fraction:g}", key), shades[number], legend)
        for i, criterion in enumerate(CRITERIA):
            points(after, i, tuned(document, criterion, key), shades[0])
        for name, style in (("uniform4", ":"), ("uniform8", "--")):
            mean = 100 * mean_spread(values(ranked(document, name, key)))[0]
            before.axhline(mean, color="0.4", ls=style, lw=1, label=f"all {name[-1]}-bit")
        epochs, share = document["settings"]["trained_epochs"], document["settings"]["trained_fraction"]
        for axis, title in (
            (before, "Without tuning"),
            (after, f"{share:.0%} 8-bit, {epochs} epochs of tuning"),
        ):
            axis.set_xticks(range(len(CRITERIA)), CRITERIA, fontsize=8, rotation=20)
            axis.set_ylabel(label)
            axis.set_title(title, fontsize=10, loc="left")
    found.legend(*axes[0][0].get_legend_handles_labels(), fontsize=8, loc="outside lower left", ncols=4)
    return png(found)


def inherited_picture(document: Document) -> bytes:
    """Draws each selection inherited, tuned, and trained on its own."""
    targets = document["settings"]["targets"]
    found, axes = figure(1, len(targets), (11, 3.8))
    ways = {"inherited": "inherited", "tuned": "tuned from it", "scratch": "from scratch"}
    for axis, target in zip(axes[0], targets, strict=True):
        for number, seed in enumerate(seeds_of(document)):
            line = [retrained(document, target, how).get(seed, math.nan) for how in ways]
            colour = list(COLOURS.values())[number % len(COLOURS)]
            axis.plot(range(3), [100 * v for v in line], marker="o", lw=1, color=colour, label=f"seed {seed}")
        axis.set_xticks(range(3), ways.values())
        axis.set_xlim(-0.3, 2.3)
        axis.set_title(f"selected for {target:,.0f} FPS (modelled)", fontsize=10, loc="left")
    axes[0][0].set_ylabel("held-out top-1, % (integer engine)")
    axes[0][0].legend(fontsize=8)
    limits = [axis.get_ylim() for axis in axes[0]]
    for axis in axes[0]:
        axis.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
    return png(found)


def draw(document: Document) -> dict[str, bytes]:
    """Draws every picture; returns them by their names in docs/evidence."""
    return {
        "fronts.png": fronts_picture(document),
        "rows.png": rows_picture(document),
        "inherited.png": inherited_picture(document),
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
