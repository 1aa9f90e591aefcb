#!/usr/bin/env python3
"""Checks the source files for what formatters and linters on stable toolchains leave alone.

A line of Rust, C++ or SystemVerilog has at most 100 columns; pragmas, long string literals and tables in
comments cannot be broken. A comment or docstring does not open with a question word that stands for a noun
("What is sent"): it starts with a verb or names its subject.

`python tools/check_style.py [FILE ...]` checks the given files, or all files of the repository.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
COLUMNS = 100
#: Languages whose lines are measured here; ruff measures Python's.
MEASURED = {".rs", ".c", ".cpp", ".h", ".hpp", ".sv", ".v"}
QUESTION = re.compile(r"(What|Whether|How|Which|That of|Where|When)\b")
#: Comments that are documentation. C++ and SystemVerilog have one kind of comment.
COMMENT = {".rs": re.compile(r"\s*(//[/!])(?!/)\s?(.*)"), ".py": re.compile(r"\s*(#:)\s?(.*)")}
#: Lines that cannot be broken.
WHOLE = re.compile(r'\s*(#pragma|//[/!]? \|)|.*("[^"]{40}|r#")')
PLAIN = re.compile(r"\s*(//)/?!?\s?(.*)")


def is_noun(text: str) -> bool:
    """Returns whether a comment opens with a question word as a noun phrase.

    "When a frame fails, ..." is a clause of a sentence and a question ends with a question mark: neither is meant.
    """
    opening = QUESTION.match(text)
    sentence = re.split(r"(?<=[.:?])\s", text)[0]
    return opening is not None and not (
        sentence.endswith("?") or (opening[0] in ("Where", "When", "How") and "," in sentence)
    )


def comments(path: Path, lines: list[str]) -> Iterator[tuple[int, str]]:
    """Yields line number and text of each documentation comment's first paragraph, each docstring's included."""
    pattern, previous = COMMENT.get(path.suffix, PLAIN), None
    block: list[str] = []
    start = 0
    for number, line in enumerate([*lines, ""], 1):
        found = pattern.fullmatch(line)
        if block and (found is None or found[1] != previous):
            yield start, " ".join(block)
            block = []
        if found:
            start = start if block else number
            block.append(found[2])
        previous = found and found[1]
    if path.suffix == ".py":
        for node in ast.walk(ast.parse("\n".join(lines))):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                text = ast.get_docstring(node)
                if text:
                    yield node.body[0].lineno, " ".join(text.split("\n\n")[0].split())


def faults(path: Path) -> Iterator[tuple[int, str]]:
    """Yields line number and description of each fault of a file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    if path.suffix in MEASURED:
        for number, line in enumerate(lines, 1):
            if len(line) > COLUMNS and not WHOLE.match(line):
                yield number, f"{len(line)} columns, at most {COLUMNS} are allowed"
    for number, text in comments(path, lines):
        if is_noun(text):
            yield number, f"a comment opens with {text.split()[0]!r}: start with a verb or the subject"


def main() -> int:
    """Returns the exit status."""
    names = sys.argv[1:]
    if not names:
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        names = [str(ROOT / name) for name in listed.stdout.split("\0") if name]
    paths = [
        path for path in map(Path, names) if path.suffix in {*MEASURED, ".py", ".pyi"} and path.is_file()
    ]
    found = [f"{path}:{number}: {fault}" for path in paths for number, fault in faults(path)]
    print("\n".join(found), end="\n" if found else "")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
