"""Writes the results of a search: front.json, front.csv, front.png and index.html.

All four come from one document, the contents of front.json (`docs/searching.md`), so that they cannot disagree.
Depends on `quasar_rt.files`; on matplotlib for the picture alone.
"""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..files import PNG_METADATA

__all__ = [
    "Cloud",
    "csv_text",
    "draw",
    "filled",
    "fronts",
    "nondominated",
    "page",
    "table",
    "to_json",
]

#: The scored subnets' scores and, for each board, their modelled FPS: ``{"score": [...], "fps": {board: [...]}}``.
Cloud = Mapping[str, Any]


def to_json(document: Mapping[str, Any]) -> str:
    """Returns the text of front.json, with a line for each subnet of the front."""
    points = [json.dumps(point) for point in document["front"]]
    rest = json.dumps({**document, "front": []}, indent=1)
    body, _, end = rest.rpartition('"front": []')
    return body + '"front": [\n  ' + ",\n  ".join(points) + "\n ]" + end + "\n"


def nondominated(points: Sequence[tuple[float, float]]) -> list[int]:
    """Returns indices of the points that no other one beats, by falling first number; both numbers are better larger.

    Of equal points the first is kept.

    >>> nondominated([(1.0, 5.0), (2.0, 4.0), (2.0, 3.0), (3.0, 1.0)])
    [3, 1, 0]
    """
    kept: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: (-points[i][0], -points[i][1], i)):
        if not kept or points[index][1] > points[kept[-1]][1]:
            kept.append(index)
    return kept


def fronts(points: Sequence[tuple[float, float]]) -> Iterator[list[int]]:
    """Yields the indices of the points that no other one beats, then of those that no other one of the rest beats...

    >>> list(fronts([(1.0, 5.0), (2.0, 4.0), (2.0, 3.0), (3.0, 1.0)]))
    [[3, 1, 0], [2]]
    """
    left = list(range(len(points)))
    while left:
        front = [left[i] for i in nondominated([points[j] for j in left])]
        yield front
        left = sorted(set(left) - set(front))


def table(document: Mapping[str, Any]) -> str:
    """Returns the text of front.csv, a line for each subnet of the front. The score's kind names its column."""
    searched = document["settings"]["board"]
    rows = []
    for point in document["front"]:
        here, integer, blocks = (
            point["modelled"][searched],
            point["integer"] or {},
            point["architecture"]["blocks"],
        )
        chosen = [f"{target['fps']:g}" for target in document["targets"] if target["point"] == point["id"]]
        rows.append(
            {
                "subnet": point["id"],
                "board": searched,
                "modelled_fps": here["fps"],
                "modelled_latency_ms": here["latency_ms"],
                "modelled_fps_with_host": here["fps_with_host"],
                "modelled_energy_mj": here["energy_mj"],
                "configuration": here["configuration"],
                document["score"]["column"]: point["score"],
                "score_standard_error": point["standard_error"],
                "integer_top1": integer.get("top1"),
                "integer_images": integer.get("images"),
                "chosen_for_fps": " ".join(chosen),
                "embed": point["embed"],
                "depth": point["depth"],
                "heads": " ".join(str(block["heads"]) for block in blocks),
                "hidden": " ".join(str(block["hidden"]) for block in blocks),
                # q, k, v, proj, fc1 and fc2 of each block.
                "eight_bit": " ".join(
                    "/".join(f"{part:g}" for part in block["eight_bit"]) for block in blocks
                ),
                "eight_bit_share": point["eight_bit_share"],
                "weight_bytes": point["weight_bytes"],
                "nominal_macs": point["nominal_macs"],
                "genome": " ".join(map(str, point["genome"])),
                **{
                    f"modelled_fps_{board}": on["fps"]
                    for board, on in point["modelled"].items()
                    if board != searched
                },
            }
        )
    return csv_text(rows)


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns a table as CSV, with the keys of the first row as its header."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def draw(document: Mapping[str, Any], cloud: Cloud) -> bytes:
    """Draws front.png: the front, the targets and every scored subnet.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    board, score, front = document["settings"]["board"], document["score"], document["front"]
    scale = 100.0 if score["accuracy"] else 1.0
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    axes.scatter(
        cloud["fps"][board],
        [scale * s for s in cloud["score"]],
        s=7,
        color="0.75",
        linewidths=0,
        zorder=1,
        label=f"all {document['search']['scored']:,} scored subnets",
    )
    rate = _rate(document)
    fps = [point["modelled"][board][rate] for point in front]
    scores = [scale * point["score"] for point in front]
    order = sorted(range(len(front)), key=fps.__getitem__)
    axes.step(
        [fps[i] for i in order], [scores[i] for i in order], where="pre", color="#1d5fd1", lw=1.2, alpha=0.7
    )
    axes.scatter(
        fps,
        scores,
        s=20 if len(front) <= 100 else 8,
        color="#1d5fd1",
        zorder=3,
        label=f"front, {len(front)} subnets",
    )
    scored = [point for point in front if point["integer"]]
    if scored:
        axes.scatter(
            [point["modelled"][board][rate] for point in scored],
            [100 * point["integer"]["top1"] for point in scored],
            marker="x",
            s=36,
            color="#c9711a",
            zorder=4,
            label=f"integer engine, {scored[0]['integer']['images']:,} {scored[0]['integer']['split']}",
        )
    _draw_targets(axes, document, scale)
    axes.xaxis.set_major_formatter("{x:,g}")
    of = "accelerator alone" if rate == "fps" else "with the processor"
    axes.set_xlabel(f"modelled FPS, {of} ({document['boards'][board]['label']})")
    axes.set_ylabel(score["label"] + (", %" if score["accuracy"] else ""))
    axes.set_title(
        f"Space {document['space']['name']}, seed {document['settings']['seed']}",
        fontsize=11,
        loc="left",
        pad=28,
    )
    axes.legend(fontsize=8.5, loc="lower left", framealpha=0.9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, metadata=PNG_METADATA)
    return buffer.getvalue()


def _rate(document: Mapping[str, Any]) -> str:
    """Returns the figure of a network that the targets are compared with."""
    return "fps" if document["settings"]["fps_of"] == "accelerator" else "fps_with_host"


def _draw_targets(axes: Any, document: Mapping[str, Any], scale: float) -> None:
    """Draws a line for each target, and a ring around its subnet."""
    board, front = document["settings"]["board"], document["front"]
    low, high = axes.get_xlim()
    before, level = -float("inf"), 0
    for i, target in enumerate(document["targets"]):
        axes.axvline(target["fps"], color="#b3261e", ls="--", lw=1, label=None if i else "targets")
        # Labels of targets that lie close together stand on two lines.
        level = 1 - level if target["fps"] - before < 0.1 * (high - low) else 0
        before = target["fps"]
        axes.annotate(
            f"{target['fps']:,g} FPS",
            (before, 1),
            xycoords=("data", "axes fraction"),
            color="#b3261e",
            fontsize=9,
            xytext=(0, 3 + 11 * level),
            textcoords="offset points",
            ha="center",
            va="bottom",
        )
        chosen = front[target["point"]]
        axes.scatter(
            [chosen["modelled"][board][_rate(document)]],
            [scale * chosen["score"]],
            s=110,
            facecolors="none",
            zorder=5,
            edgecolors="#b3261e",
            linewidths=1.3,
            label=None if i else "chosen for a target",
        )


def page(document: Mapping[str, Any], cloud: Cloud, layers: Mapping[str, Any], notes: Sequence[str]) -> str:
    """Returns the text of index.html, one page that needs no network.

    Args:
        document: front.json.
        cloud: every scored subnet.
        layers: the front's layers by part (`quasar_rt.nas.boards.Parts`).
        notes: how the search was made, a sentence or a few each.
    """
    title = f"{document['space']['name']} on {document['settings']['board']}: searched subnets"
    shown = [point for point in document["front"] if point["id"] in layers["networks"]]
    search = {**document, "front": shown, "front_size": len(document["front"])}
    contents = {"search": search, "cloud": cloud, **layers, "notes": list(notes)}
    return filled("page.html", title, contents)


def filled(template: str, title: str, contents: Mapping[str, Any]) -> str:
    """Returns a page of this folder with its head, its style, its helpers and its data in it.

    Args:
        template: the file's name.
        title: the page's title, as text.
        contents: what the page's script reads, as JSON.
    """
    folder = Path(str(files("quasar_rt"))) / "nas"
    text = (folder / template).read_text(encoding="utf-8")
    for mark, name in (("__HEAD__", "head.html"), ("__STYLE__", "style.css"), ("__HELPERS__", "helpers.js")):
        text = text.replace(mark, (folder / name).read_text(encoding="utf-8"))
    data = json.dumps(contents, separators=(",", ":"))
    # In a script element only '<' could end the data; the others are escaped for readers less strict than HTML5's.
    for sign in "<>&\u2028\u2029":
        data = data.replace(sign, f"\\u{ord(sign):04x}")
    head, _, tail = text.partition("__DATA__")
    return head.replace("__TITLE__", html.escape(title)) + data + tail
