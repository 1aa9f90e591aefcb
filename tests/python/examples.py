"""Examples of the documents: console and Python blocks of Markdown pages, and what a test needs to run them.

A block is run in ordinary tests unless a comment before it, `<!-- example: WORDS -->`, says otherwise:

- `slow`: only `make test-slow` runs it;
- `needs NAME`: it is left out where NAME is absent (a module, `sim`, `fashion-mnist`);
- `exits N`: its last command ends with that status, not with 0;
- `with NAME`: files that a reader would have are put there first (`STAND_INS` of the test);
- `skip: REASON`: it cannot be run in tests, for that reason.

Words are separated by `; `, a skip's reason comes last.
"""

from __future__ import annotations

import doctest
import itertools
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

#: Names of code blocks that people would take for commands: they must be `console`.
ALIASES = ("bash", "sh", "shell", "zsh")
_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>[\w+-]*)[^\n`]*\n(?P<body>.*?)^(?P=indent)```\s*$", re.M | re.S
)
_MARKER = re.compile(r"<!-- example: (?P<words>(?:(?!-->).)*) -->\s*\Z", re.S)
_ANY_MARKER = re.compile(r"^<!-- example:", re.MULTILINE)
_PROMPTS = ("$ ", "# ")
ROOT = Path(__file__).resolve().parents[2]


class BadExampleError(Exception):
    """A block is not one that can be run, or its marker is not understood."""


@dataclass(frozen=True)
class Example:
    """A block of commands or of Python code.

    Attributes:
        place: page and line.
        language: `console` or `python`.
        body: the text between the fences.
        skip: the reason for which it is not run, or "".
        slow: whether only slow tests run it.
        needs: what must be there.
        stand_ins: the files to make before.
        status: the exit status of the last command.
    """

    place: str
    language: str
    body: str
    skip: str = ""
    slow: bool = False
    needs: tuple[str, ...] = ()
    stand_ins: tuple[str, ...] = ()
    status: int = 0

    def commands(self) -> list[tuple[str, str]]:
        """Returns the commands of a console block, each with the output that is shown."""
        prompt = self.body[:2]
        if prompt not in _PROMPTS:
            raise BadExampleError(f"{self.place}: a console block begins with `$ ` or, for root, `# `")
        commands: list[tuple[str, str]] = []
        for line in self.body.splitlines():
            if line.startswith(prompt):
                commands.append((line[2:], ""))
            elif commands[-1][0].endswith("\\"):
                commands[-1] = (f"{commands[-1][0]}\n{line}", "")
            else:
                command, output = commands[-1]
                commands[-1] = (command, f"{output}{line}\n")
        return commands


def examples(text: str, page: str) -> Iterator[Example]:
    """Returns the blocks of a page, in order.

    Raises:
        BadExampleError: a block has another shell's name, or a marker is not understood or stands before no block.
    """
    used = 0
    for fence in _FENCE.finditer(text):
        place = f"{page}:{text.count(chr(10), 0, fence.start()) + 1}"
        language = fence["language"]
        if language in ALIASES:
            raise BadExampleError(f"{place}: write ```console with prompts, not ```{language}")
        marker = _MARKER.search(text, 0, fence.start())
        used += marker is not None
        if language not in ("console", "python"):
            if marker is not None:
                raise BadExampleError(f"{place}: only console and python blocks have markers")
            continue
        body = re.sub(f"^{fence['indent']}", "", fence["body"], flags=re.M)
        yield _marked(place, language, body, " ".join(marker["words"].split()) if marker else "")
    if used != len(_ANY_MARKER.findall(text)):
        raise BadExampleError(f"{page}: a marker does not stand directly before a block")


def _marked(place: str, language: str, body: str, words: str) -> Example:
    before, skip, reason = words.partition("skip:")
    if skip and len(reason.split()) < 2:
        raise BadExampleError(f"{place}: `skip:` needs a reason")
    found: dict[str, list[str]] = {"needs": [], "with": []}
    slow, status = False, 0
    for word in filter(None, (word.strip() for word in before.split(";"))):
        kind, _, name = word.partition(" ")
        if word == "slow":
            slow = True
        elif kind == "exits" and name.isdigit():
            status = int(name)
        elif kind in found and name:
            found[kind].append(name)
        else:
            raise BadExampleError(f"{place}: what is {word!r}?")
    return Example(
        place, language, body, reason.strip(), slow, tuple(found["needs"]), tuple(found["with"]), status
    )


@dataclass
class Clone:
    """A folder that looks like a fresh clone, for examples that write files."""

    folder: Path
    root: Path
    environment: dict[str, str] = field(default_factory=dict)
    #: The Python code that ran so far: a page's blocks are one session.
    session: str = ""

    def __post_init__(self) -> None:
        for name in ("Makefile", "README.md", "docs", "fpga", "python", "rust", "tests", "tools"):
            (self.folder / name).symlink_to(self.root / name)

    def run(self, example: Example) -> list[str]:
        """Runs a block; returns what is wrong with it."""
        if example.language == "python":
            self.session += example.body
            return self._check(example.place, ["python", "-c", self.session], "python block", "")
        wrong = []
        commands = example.commands()
        for command, expected in commands:
            if command.startswith("make "):
                # The targets run elsewhere in CI: here make must know them, and plan them.
                script = f"make -n -C '{self.root}' {command[5:]}"
            else:
                script = command
            status = example.status if command == commands[-1][0] else 0
            wrong += self._check(example.place, ["bash", "-c", script], command, expected, status)
        return wrong

    def _check(self, place: str, command: list[str], shown: str, expected: str, status: int = 0) -> list[str]:
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=900, check=False,
        )  # fmt: skip
        if done.returncode != status:
            return [f"{place}: exit status {done.returncode} of: {shown}\n{done.stdout[-2000:]}"]
        flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        if expected and not doctest.OutputChecker().check_output(expected, done.stdout, flags):
            return [f"{place}: {shown} prints\n{done.stdout[-3000:]}\nand not\n{expected}"]
        return []


def table_rows(page: str, heading: str) -> list[list[str]]:
    """Returns the cells of the table whose first line starts with `heading`, without its first two lines."""
    lines = (ROOT / page).read_text(encoding="utf-8").split(f"\n{heading}", 1)[1].splitlines()[2:]
    table = itertools.takewhile(lambda line: line.startswith("|"), lines)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
