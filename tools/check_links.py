#!/usr/bin/env python3
"""Checks the links of the built site: each leads to a file of the site, and to a place that the file has.

python tools/check_links.py build/docs
"""

from __future__ import annotations

import re
import sys
from functools import cache
from html import unescape
from pathlib import Path
from urllib.parse import unquote


@cache
def places(page: Path) -> set[str]:
    """Returns the anchors of a page."""
    return set(re.findall(r'\b(?:id|name)="([^"]+)"', page.read_text(encoding="utf-8")))


def dead(site: Path) -> list[str]:
    """Returns the links within a site that lead nowhere, a line each."""
    found = set()
    for page in site.rglob("*.html"):
        for link in map(unescape, re.findall(r'<a [^>]*href="([^"]+)"', page.read_text(encoding="utf-8"))):
            path, _, place = link.partition("#")
            target = (page.parent / unquote(path)) if path else page
            if re.match(r"[a-z]+:", link) or target.is_dir():
                continue
            if not target.exists() or (
                place and target.suffix == ".html" and unquote(place) not in places(target)
            ):
                found.add(f"{page.relative_to(site)}: {link}")
    return sorted(found)


if __name__ == "__main__":
    lines = dead(Path(sys.argv[1]))
    print("".join(f"dead link: {line}\n" for line in lines), end="")
    sys.exit(bool(lines))
