#!/usr/bin/env python3
"""Draws docs/_static/system-*.svg and accelerator-*.svg, for a light and a dark page, from the sources' structure.

The crates and their dependencies come from rust/*/Cargo.toml, the accelerator's units and queues from
rust/hardware/src/design/queues.rs. Only the places of the boxes are set here: a part without a place is an error.

    python tools/diagrams.py            # writes the pictures
    python tools/diagrams.py --check    # fails if they are not those of the sources
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from dataclasses import dataclass
from html import escape
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs/_static"

THEMES = {
    "light": {
        "ink": "#1b1f24",
        "soft": "#5c6570",
        "line": "#8b949e",
        "box": "#f2f5f9",
        "main": "#dbe8fd",
        "ground": "#ffffff",
    },
    "dark": {
        "ink": "#e7eaee",
        "soft": "#a2abb6",
        "line": "#7d8793",
        "box": "#22272e",
        "main": "#1f3a66",
        "ground": "#131416",
    },
}


@dataclass(frozen=True)
class Box:
    """A part: the place of its left upper corner, its size, its name and its task."""

    x: float
    y: float
    width: float
    height: float
    name: str
    task: str = ""
    main: bool = False

    @property
    def is_bar(self) -> bool:
        """True for a box as wide as the picture."""
        return self.width > 500

    def towards(self, other: Box) -> tuple[float, float]:
        """Returns the point of the border at which a straight line to another box's middle leaves this one."""
        cx, cy = self.x + self.width / 2, self.y + self.height / 2
        dx, dy = other.x + other.width / 2 - cx, other.y + other.height / 2 - cy
        if self.is_bar or other.is_bar:  # straight down or up, at the middle of the narrow one
            return (other.x + other.width / 2 if self.is_bar else cx), cy + self.height / 2 * (
                1 if dy > 0 else -1
            )
        scale = min(
            self.width / 2 / abs(dx) if dx else float("inf"),
            self.height / 2 / abs(dy) if dy else float("inf"),
        )
        return cx + dx * scale, cy + dy * scale


@dataclass(frozen=True)
class Arrow:
    """An arrow between two boxes, with a label; `dashed` for commands."""

    start: str
    end: str
    label: str = ""
    style: str = ""


DASHES = {"": "", "dashed": ' stroke-dasharray="7 4"'}


def picture(title: str, size: tuple[int, int], boxes: dict[str, Box], arrows: list[Arrow], theme: str) -> str:
    """Returns the SVG text of boxes and arrows."""
    colour = THEMES[theme]
    width, height = size
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'font-family="system-ui, -apple-system, Segoe UI, Roboto, Noto Sans, sans-serif">',
        f"<title>{escape(title)}</title>",
        f'<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
        f'orient="auto-start-reverse"><path d="M0 0L8 4L0 8z" fill="{colour["line"]}"/></marker></defs>',
    ]
    for arrow in arrows:
        start, end = boxes[arrow.start], boxes[arrow.end]
        (x0, y0), (x1, y1) = start.towards(end), end.towards(start)
        lines.append(
            f'<line x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}" stroke="{colour["line"]}" '
            f'stroke-width="1.5"{DASHES[arrow.style]} marker-end="url(#tip)"/>'
        )
        if arrow.label:
            flat = abs(x1 - x0) > abs(y1 - y0)
            x, y = (x0 + x1) / 2 + (0 if flat else 6), (y0 + y1) / 2 - (6 if flat else -4)
            lines.append(
                f'<text x="{x:.1f}" y="{y:.1f}" font-size="12" fill="{colour["soft"]}" '
                f'text-anchor="{"middle" if flat else "start"}" paint-order="stroke" stroke="{colour["ground"]}" '
                f'stroke-width="4">{escape(arrow.label)}</text>'
            )
    for box in boxes.values():
        fill, middle = colour["main" if box.main else "box"], box.x + box.width / 2
        lines.append(
            f'<rect x="{box.x}" y="{box.y}" width="{box.width}" height="{box.height}" rx="8" fill="{fill}" '
            f'stroke="{colour["line"]}"/>'
        )
        rows = box.task.split("\n") if box.task else []
        top = box.y + box.height / 2 + 5 - 8 * len(rows)
        lines.append(
            f'<text x="{middle:.1f}" y="{top:.1f}" font-size="14" font-weight="600" fill="{colour["ink"]}" '
            f'text-anchor="middle">{escape(box.name)}</text>'
        )
        for number, row in enumerate(rows, 1):
            lines.append(
                f'<text x="{middle:.1f}" y="{top + 16 * number:.1f}" font-size="12" fill="{colour["soft"]}" '
                f'text-anchor="middle">{escape(row)}</text>'
            )
    return "\n".join([*lines, "</svg>", ""])


# The system: crates and their dependencies.

#: Column and row of each crate, its box's second lines, and whether it runs on a board.
CRATES: dict[str, tuple[float, float, str, bool]] = {
    "py": (0, 0.9, "Python: Engine, train, fit,\nsearch, quasar-rt", True),
    "capi": (0, 2.7, "C library", True),
    "search": (1, 0, "search for a board", False),
    "device": (1, 1.8, "what an engine runs on", True),
    "cost": (2, 0, "cycles, resources, rates", False),
    "accelerator": (2, 1.8, "compiler, driver,\ncommands", True),
    "hardware": (3, 0.9, "boards, configurations", True),
    "core": (3, 2.2, "subnet file, pixels,\ninteger graph, CPU engine", True),
    "kernels": (3, 3.5, "SIMD tiers, scalar\nreference", True),
}


def crates() -> dict[str, set[str]]:
    """Returns the crates of the workspace, each with those that it needs directly and not through another one."""
    members = tomllib.loads((ROOT / "Cargo.toml").read_text(encoding="utf-8"))["workspace"]["members"]
    needs: dict[str, set[str]] = {}
    for member in members:
        manifest = tomllib.loads((ROOT / member / "Cargo.toml").read_text(encoding="utf-8"))
        found = {
            name.removeprefix("quasar-")
            for name, how in manifest.get("dependencies", {}).items()
            if name.startswith("quasar-") and not (isinstance(how, dict) and how.get("optional"))
        }
        needs[Path(member).name] = found

    def reach(crate: str) -> set[str]:
        return needs[crate].union(*(reach(other) for other in needs[crate]), set())

    return {
        crate: {other for other in direct if not any(other in reach(third) for third in direct - {other})}
        for crate, direct in needs.items()
    }


def system(theme: str) -> str:
    """Returns the diagram of the crates."""
    needs = crates()
    if missing := needs.keys() ^ CRATES.keys():
        raise SystemExit(f"tools/diagrams.py: CRATES and Cargo.toml differ in {', '.join(sorted(missing))}")
    boxes = {
        name: Box(14 + 204 * column, 14 + 86 * row, 178, 66, name, task, on_board)
        for name, (column, row, task, on_board) in CRATES.items()
    }
    arrows = [Arrow(crate, other) for crate, others in sorted(needs.items()) for other in sorted(others)]
    title = "The crates of quasar_rt: an arrow points to what a part needs; the blue ones run on a board"
    return picture(title, (818, 396), boxes, arrows, theme)


# The accelerator: units and queues.

#: Place of each unit's box, and its task. Commands come down from fetch, whose box is as wide as the picture.
UNITS: dict[str, tuple[float, float, str]] = {
    "load": (20, 430, "reads weights, patches"),
    "plan": (225, 130, "divides products\ninto passes"),
    "scores": (225, 275, "finds the largest score"),
    "array": (430, 275, "multiplies: DSP slices,\n4- and 8-bit rows"),
    "softmax": (430, 130, "exponentials, sums"),
    "drain": (738, 452, "plans the lanes' rows"),
    "lanes": (635, 275, "requantize, GELU,\nadd the residual"),
    "norm": (840, 362, "LayerNorm, pooling"),
    "store": (600, 530, "writes logits, interrupts"),
}
#: Boxes as wide as the picture: place and task.
BARS: dict[str, tuple[float, str]] = {
    "fetch": (20, "reads each frame's commands from DDR memory, hands them to the units"),
    "memory": (610, "commands, weights, patches, logits"),
}
#: Kinds of items that are no data.
KINDS = {
    **dict.fromkeys(("Command", "Pass", "Demand", "LaneJob", "LaneRow", "Tokens"), "dashed"),
    "Credit": "dotted",
}


def queues() -> list[tuple[str, str, str, str]]:
    """Returns name, writer, reader and item of each queue between the accelerator's units."""
    text = (ROOT / "rust/hardware/src/design/queues.rs").read_text(encoding="utf-8")
    found = re.findall(r'queue\(\s*"(\w+)",\s*"(\w+)",\s*"(\w+)",\s*\w+,\s*Item::(\w+),?\s*\)', text)
    if len(found) != text.split("pub const QUEUES", 1)[1].split("];", 1)[0].count("queue("):
        raise SystemExit("tools/diagrams.py: queues.rs has queues that are not understood")
    return found


def accelerator(theme: str) -> str:
    """Returns the diagram of the accelerator's units: one arrow for the queues of a kind between two units."""
    between: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for name, writer, reader, item in queues():
        between[writer, reader, KINDS.get(item, "")].append(name)
    units = {unit for pair in between for unit in pair[:2]} | {"memory"}
    if missing := units ^ (UNITS.keys() | BARS.keys()):
        raise SystemExit(f"tools/diagrams.py: UNITS and queues.rs differ in {', '.join(sorted(missing))}")
    boxes = {name: Box(x, y, 165, 66, name, task, True) for name, (x, y, task) in UNITS.items()}
    for name, (y, task) in BARS.items():
        boxes[name] = Box(20, y, 985, 52, "DDR memory" if name == "memory" else name, task, name != "memory")
    arrows = []
    for (writer, reader, style), names in between.items():
        if style != "dotted":  # credits return to plan from everywhere, and would hide the rest
            arrows.append(Arrow(writer, reader, "" if style else ", ".join(names), style))
    arrows += [Arrow("memory", "load"), Arrow("store", "memory")]
    title = "The accelerator: data (solid) and commands (dashed) pass through queues between its units"
    return picture(title, (1026, 682), boxes, arrows, theme)


def main() -> int:
    """Returns the exit status."""
    stale = []
    for name, draw in (("system", system), ("accelerator", accelerator)):
        for theme in THEMES:
            path, text = OUT / f"{name}-{theme}.svg", draw(theme)
            if "--check" not in sys.argv[1:]:
                path.write_text(text, encoding="utf-8")
            elif not path.exists() or path.read_text(encoding="utf-8") != text:
                stale.append(path.name)
    if stale:
        print(f"not those of the sources: {', '.join(stale)}; run python tools/diagrams.py", file=sys.stderr)
    return bool(stale)


if __name__ == "__main__":
    sys.exit(main())
