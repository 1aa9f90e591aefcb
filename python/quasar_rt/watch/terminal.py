"""The live view of a watch in a terminal: the last image, its classes as bars, counters."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .live import Live, Sighting

if TYPE_CHECKING:
    from ..metrics import Metrics

__all__ = ["View", "counters"]

#: Number of earlier images that the view lists.
_EARLIER = 5


def counters(metrics: Metrics) -> str:
    """Returns the counters in one line of words."""
    words = [
        f"{metrics.frames:,} image{'' if metrics.frames == 1 else 's'}",
        f"{metrics.fps:.1f} a second",
    ]
    if metrics.latency_ms is not None:
        words.append("latency p50 {:.2f}, p90 {:.2f}, p99 {:.2f} ms".format(*metrics.latency_ms))
    words += [f"{metrics.dropped:,} dropped", f"{metrics.errors:,} error{'' if metrics.errors == 1 else 's'}"]
    if metrics.device is not None:
        words.append(
            ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in metrics.device.items())
        )
    return " · ".join(words)


class View:
    """Renders a watch's state with rich.

    Args:
        live: the state.
        printable: makes a text safe for a terminal.
    """

    def __init__(self, live: Live, printable: Any) -> None:
        self._live = live
        self._printable = printable
        self._earlier: deque[Sighting] = deque(maxlen=_EARLIER + 1)

    def add(self, sighting: Sighting) -> None:
        """Notes a sighting for the list of earlier ones."""
        self._earlier.appendleft(sighting)

    def _text(self, text: str, style: str = "") -> Text:
        return Text(self._printable(text), style=style, overflow="ellipsis", no_wrap=True)

    def __rich__(self) -> Group:
        about = self._live.about
        _, last = self._live.last()
        parts: list[Any] = [
            self._text(f"{about['subnet']}: {about['knows']} · {about['device']} · {about['source']}", "dim"),
            Text(),
        ]
        if self._live.problem is not None:
            parts += [Text(self._printable(self._live.problem), style="red", overflow="fold"), Text()]
        if last is None:
            parts.append(Text("waiting for the first image"))
        else:
            parts.append(self._text(last.image, "bold"))
            if last.prediction is None:
                parts.append(Text(self._printable(last.error or ""), style="red", overflow="fold"))
            else:
                bars = Table.grid(padding=(0, 1), expand=False)
                bars.add_column(max_width=30)
                bars.add_column(justify="right")
                bars.add_column(width=30)
                for score in last.prediction.top_k:
                    bar = ProgressBar(total=1.0, completed=score.probability, width=30)
                    bars.add_row(self._text(score.label), f"{score.probability:.1%}", bar)
                parts.append(bars)
        parts.append(Text())
        earlier = list(self._earlier)[1:]
        if earlier:
            table = Table.grid(padding=(0, 2))
            for sighting in earlier:
                if sighting.prediction is None:
                    outcome = self._text("error", "red")
                else:
                    outcome = self._text(f"{sighting.prediction.label} {sighting.prediction.probability:.1%}")
                table.add_row(
                    self._text(f"{sighting.time.astimezone():%H:%M:%S}", "dim"),
                    self._text(sighting.image),
                    outcome,
                )
            parts += [table, Text()]
        parts.append(Text(f"{counters(self._live.metrics())} ({about['kind']})"))
        parts.append(Text("Ctrl-C ends", style="dim"))
        return Group(*parts)
