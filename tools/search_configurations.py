#!/usr/bin/env python3
"""Compare one configuration for a space with explored ones: the table of docs/searching.md.

    python tools/search_configurations.py

For each target rate, the best network on the space's own configuration and the best one on explored configurations come
from the exact fronts of the proxy score, so no search is involved; both are replayed event by event. The table has the
rates at equal scores: how much faster the fastest network is that scores at least as much.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np

from evidence_report import markdown, splice
from quasar_rt.files import write_text
from quasar_rt.nas.best_front import proxy_front
from quasar_rt.nas.boards import Modelled
from quasar_rt.nas.configurations import explore, specialised
from quasar_rt.nas.settings import Limits, frame_rates
from quasar_rt.space import Space

PAGE = Path(__file__).parents[1] / "docs" / "searching.md"
#: Spaces and boards of the table.
PAIRS = [
    ("tiny", "zcu102"),
    ("tiny", "kv260"),
    ("small", "zcu102"),
    ("fashion-mnist", "pynq-z2"),
    ("digits", "ultra96v2"),
]
#: Configurations that are explored.
MOST = 6


def row(space_name: str, board: str) -> list[str]:
    """Returns space and board, the number of configurations, and for each target the rates and the gain."""
    space = Space.load(space_name)
    own = Modelled.of(space, board)
    explored = explore(space, board, [], MOST, Limits(), lambda *_: None)
    cells = []
    front = proxy_front(space, own.designs)
    # The lowest rate is that of the network of the highest score.
    for target in [float(front.rates[-1]), *frame_rates(None, own)]:
        best = int(np.flatnonzero(front.rates >= target)[-1])
        genome, score = front.genomes[best], front.scores[best]
        before = float(own.rates(genome[None])[0])
        explored = specialised(explored, genome, [], Limits())
        found = proxy_front(space, explored.designs)
        # The fastest network that scores as much, and the first one itself.
        rivals = np.stack([genome, found.genomes[np.flatnonzero(found.scores >= score)[0]]])
        rates = explored.rates(np.ascontiguousarray(rivals))
        cells.append(f"{before:,.0f} to {rates.max():,.0f}, {rates.max() / before - 1:+.1%}")
    return [f"`{space_name}`, {board}", str(len(explored.designs)), *cells]


def table(pairs: Sequence[tuple[str, str]] = PAIRS) -> str:
    """Returns the table as Markdown."""
    columns = ["space, board", "configurations", "best score", "low target", "middle target", "high target"]
    return markdown(columns, [row(*pair) for pair in pairs])


@click.command()
def main() -> None:
    """Write the table of configurations into docs/searching.md."""
    write_text(PAGE, splice(PAGE.read_text("utf-8"), {"configurations": table()}))


if __name__ == "__main__":
    main()
