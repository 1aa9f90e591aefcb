"""Hardware-aware search of a space for a board: which subnets are worth running, and what they cost there.

`run` has the search, `supernet` the scores of a trained supernet, `boards` the modelled boards, `result` what is found
and `report` its files, `folder` the state. ``quasar_rt.search`` and ``tools/search.py`` are the ways in.
"""

from __future__ import annotations

from .result import Integer, OnBoard, Point, Scoring, SearchResult, Target
from .run import search

__all__ = ["Integer", "OnBoard", "Point", "Scoring", "SearchResult", "Target", "search"]
