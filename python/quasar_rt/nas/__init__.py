"""Hardware-aware search of a space for a board: which subnets are worth running, and what they cost there.

``quasar_rt.search`` and ``quasar-rt search`` start a search. The modules:

- the search: `options` has the arguments and their defaults, `settings` completes them, `run` has the steps in order,
  and `nsga2` the algorithm; `several` searches for several boards and compares them;
- the scores: `scorer` is the interface and has the proxy, `supernet` scores a trained supernet's slices, `scores`
  predicts scores, `folder` stores them, and `check` compares them with the integer engine's;
- the costs: `boards` models the boards, `configurations` explores the accelerator's, and `layers` counts a network's
  weights and operations;
- the results: `document` assembles the results, `result` has their types, `record` and `notes` describe the search,
  and `report` writes the files;
- methods: `stats` has rank correlation and hypervolume; `knapsack` solves the fixed-architecture case exactly.
"""

from __future__ import annotations

from .result import Integer, OnBoard, Point, Scoring, SearchResult, Target
from .run import search
from .several import BoardsResult, search_boards

__all__ = [
    "BoardsResult",
    "Integer",
    "OnBoard",
    "Point",
    "Scoring",
    "SearchResult",
    "Target",
    "search",
    "search_boards",
]
