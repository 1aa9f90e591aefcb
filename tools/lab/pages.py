"""Writes generated blocks into Markdown pages."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> str:
    """Formats a Markdown table; the first `texts` columns are texts, the others numbers."""
    rule = ["---"] * texts + ["---:"] * (len(header) - texts)
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *rows))


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
