#!/usr/bin/env python3
"""Writes python/pypi.md, the README as PyPI shows it: without pictures and links to files, which PyPI does not have.

python tools/pypi_readme.py
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def pypi_text(readme: str) -> str:
    """Returns the text for PyPI: a link to a file becomes its text, and a page the file's name in brackets.

    >>> pypi_text("See [how](docs/how.md) and [arXiv](https://arxiv.org).")
    'See how (`docs/how.md`) and [arXiv](https://arxiv.org).'
    >>> pypi_text("See [LICENSE](LICENSE).")
    'See LICENSE.'
    """
    text = re.sub(r"<picture>.*?</picture>\n\n", "", readme, flags=re.DOTALL)

    def plain(link: re.Match[str]) -> str:
        words, target = link[1], link[2].partition("#")[0]
        if "://" in target:
            return link[0]
        return words if words == target else f"{words} (`{target}`)"

    return re.sub(r"\[([^\]]+)\]\(([^)]+)\)", plain, text)


def main() -> None:
    """Writes the file."""
    text = pypi_text((ROOT / "README.md").read_text(encoding="utf-8"))
    (ROOT / "python/pypi.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
