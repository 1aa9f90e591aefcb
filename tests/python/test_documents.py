"""Runs the documents' console and Python blocks as a new user would, in a folder that looks like a fresh clone."""

from __future__ import annotations

import doctest
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path

import click
import pytest

import quasar_rt
from examples import ROOT, BadExampleError, Clone, examples, table_rows
from quasar_rt.cli import cli
from quasar_rt.datasets import load_fashion_mnist

PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "python/quasar_rt/**/*.md")
    for path in ROOT.glob(pattern)
    if path.name != "CHANGELOG.md"
)


def page_examples(path):
    return list(examples(path.read_text(encoding="utf-8"), str(path.relative_to(ROOT))))


def present(name):
    if name == "sim":
        return any((ROOT / "build" / "sim").glob("*.so"))
    if name == "fashion-mnist":
        try:
            load_fashion_mnist("test")
        except OSError:
            return False
        return True
    return importlib.util.find_spec(name) is not None


def checkpoint(folder, name, classes):
    """A timm checkpoint with random weights, photographs of two classes, made of noise, and class names."""
    import numpy as np
    import timm
    import torch
    from PIL import Image

    torch.manual_seed(0)
    random = np.random.default_rng(0)
    network = timm.create_model("vit_tiny_patch16_224", num_classes=len(classes))  # deit_tiny's shape, too
    torch.save(network.state_dict(), folder / name)
    (folder / "classes.txt").write_text("\n".join(classes) + "\n")
    for part in ("photos/train/cat", "photos/train/dog", "photos/val/cat", "photos/val/dog"):
        (folder / part).mkdir(parents=True)
        for i in range(2):
            blocks = random.integers(0, 256, (8, 10, 3), np.uint8)
            Image.fromarray(blocks).resize((320, 256)).save(folder / part / f"{i}.jpg")


def timm_files(folder):
    """A checkpoint with the reader's own classes."""
    checkpoint(folder, "vit.pth", ["cat", "dog"])


def imagenet_files(folder):
    """A checkpoint with ImageNet's number of classes."""
    checkpoint(folder, "deit_tiny.pth", ["cat", "dog", *(f"class {i}" for i in range(2, 1000))])
    (folder / "images").symlink_to("photos/train/cat")
    (folder / "cat.jpg").symlink_to("photos/val/cat/0.jpg")


def subnet_file(folder):
    """A subnet of the reader's own."""
    quasar_rt.Subnet.load("fashion-mnist").save(folder / "mine.qvit")


def photo_files(folder):
    """Photographs, made of noise, and subnets that give their embeddings and those of patches."""
    import numpy as np
    from PIL import Image

    if (folder / "photos.qvit").exists():
        return  # an example has made them
    random = np.random.default_rng(0)
    (folder / "photos").mkdir()
    for name in ("photos/cat.jpg", "photos/dog.jpg", "photos/tree.jpg", "cat.jpg"):
        Image.fromarray(random.integers(0, 256, (8, 10, 3), np.uint8)).resize((80, 64)).save(folder / name)
    shape = dict(embed=48, depth=2, heads=3, image_size=32, kernel=8, classes=2, embedding=True)
    quasar_rt.random_subnet(**shape).save(folder / "photos.qvit")
    quasar_rt.random_subnet(**shape, patch_tokens=True).save(folder / "patches.qvit")


def taught_files(folder):
    """Pictures in a folder for each class, and a small network in a folder of transformers."""
    import numpy as np
    import timm
    from PIL import Image

    from hugging_face_folders import as_transformers, write_folder

    shape = {"img_size": 32, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 0}
    network = timm.create_model("vit_tiny_patch16_224", **shape)
    write_folder(
        folder / "network", as_transformers(network, "vit"), {"model_type": "vit", "image_size": 32}, None
    )
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / "photos" / name).mkdir(parents=True)
        for i in range(6):
            blocks = random.integers(0, 256, (8, 10, 3), np.uint8)
            Image.fromarray(blocks).resize((40, 32)).save(folder / "photos" / name / f"{i}.png")


#: Files that the reader of an example has.
STAND_INS = {
    "timm": timm_files,
    "imagenet": imagenet_files,
    "mine": subnet_file,
    "photos": photo_files,
    "taught": taught_files,
}


@pytest.fixture
def clone(tmp_path):
    programs, folder = tmp_path / "bin", tmp_path / "clone"
    programs.mkdir()
    folder.mkdir()
    modules = {"python": "", "quasar-rt": "-m quasar_rt", "torchrun": "-m torch.distributed.run"}
    for name, module in modules.items():
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {module} "$@"\n')
        program.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(
            filter(None, (str(Path(quasar_rt.__file__).parents[1]), os.environ.get("PYTHONPATH")))
        ),
        "QUASAR_SIM_DIR": str(ROOT / "build" / "sim"),
        "COLUMNS": "120",
        "MPLBACKEND": "agg",
    }
    return Clone(folder, ROOT, environment)


def run_page(path, clone, slow):
    wrong: list[str] = []
    absent: set[str] = set()
    made: set[str] = set()
    for example in page_examples(path):
        if example.skip or (example.slow and not slow):
            continue
        if missing := [name for name in example.needs if not present(name)]:
            absent.update(missing)
            continue
        for name in set(example.stand_ins) - made:
            STAND_INS[name](clone.folder)
            made.add(name)
        wrong += clone.run(example)
    assert not wrong, "\n".join(wrong)
    if absent:
        pytest.skip(f"some blocks need {', '.join(sorted(absent))}")


def names(paths):
    return [str(path.relative_to(ROOT)) for path in paths]


ORDINARY = [path for path in PAGES if any(not (block.skip or block.slow) for block in page_examples(path))]
SLOW = [path for path in PAGES if any(block.slow for block in page_examples(path))]


@pytest.mark.parametrize("path", ORDINARY, ids=names(ORDINARY))
def test_examples_work_as_printed(path, clone):
    run_page(path, clone, slow=False)


@pytest.mark.slow
@pytest.mark.parametrize("path", SLOW, ids=names(SLOW))
def test_slow_examples_work_as_printed(path, clone):
    run_page(path, clone, slow=True)


def absent(line):
    """Returns what the commands of a line name and does not exist: an option, a target, a file; else ""."""
    words = shlex.split(line, comments=True)
    ends = [i for i, word in enumerate(words) if word in ("&&", "|")]
    commands = [words[i:j] for i, j in zip([0, *(i + 1 for i in ends)], [*ends, len(words)], strict=True)]
    return " ".join(filter(None, map(absent_of, commands)))


def absent_of(words):
    program = next(
        (i for i, word in enumerate(words) if re.search(r"(^|/)quasar-rt$|^quasar_rt$", word)), None
    )
    if words[:1] == ["make"] and not any("=" in word for word in words):
        plan = ["make", "-n", "-C", str(ROOT), *words[1:]]
        return subprocess.run(plan, capture_output=True, text=True, check=False).stderr
    if words[:2] == ["docker", "build"]:
        return "" if (ROOT / "Dockerfile").is_file() else "Dockerfile"
    if words[:1] == ["python"] and words[1].startswith("tools/"):
        text = (ROOT / words[1]).read_text(encoding="utf-8")
        options = {word for word in words[2:] if word.startswith("--")}
        return " ".join(option for option in options if not re.search(rf"{option}\b", text))
    if words[:2] == ["cargo", "run"]:
        example = words[words.index("--example") + 1]
        return "" if list(ROOT.glob(f"rust/*/examples/{example}.rs")) else f"example {example}"
    if program is None or words[0] == "pynq":
        # A wheel's name has the version and the platform's tags: nobody can know them from a page.
        return " ".join(word for word in words if re.search(r"quasar_rt-\d", word))
    name, *arguments = words[program + 1 :]
    command = cli.get_command(click.Context(cli), name)
    assert command is not None, name
    try:
        command.make_context(name, arguments)
    except click.UsageError as error:
        return "" if "does not exist" in error.message else error.format_message()
    return ""


@pytest.mark.parametrize("path", PAGES, ids=names(PAGES))
def test_commands_that_tests_cannot_run_name_what_exists(path):
    wrong = [
        f"{example.place}: {command}: {missing}"
        for example in page_examples(path)
        if example.skip and example.language == "console"
        for command, _ in example.commands()
        if (missing := absent(command.replace("\\\n", " ")))
    ]
    assert not wrong, "\n".join(wrong)


def test_a_command_that_names_what_does_not_exist_is_found():
    for command in (
        "quasar-rt infer --no-such-option image.png",
        "sudo -E env A=b ~/quasar/bin/quasar-rt watch",
        "make no-such-target",
        "python tools/lab/zoo.py --no-such-option",
        "cargo run --release --example no-such-example",
        "pip install 'dist/quasar_rt-0.1.0-cp310-abi3-linux_x86_64.whl[host]'",
    ):
        assert absent(command), command
    assert absent("quasar-rt infer --device uio image.png") == ""


def test_markers_name_what_exists():
    for path in PAGES:
        for example in page_examples(path):
            assert set(example.stand_ins) <= STAND_INS.keys(), example.place
            if example.language == "console":
                assert example.commands(), example.place


PAGE = "<!-- example: {} -->\n\n```{}\n{}```\n"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (PAGE.format("skip:", "console", "$ true\n"), "needs a reason"),
        (PAGE.format("sometimes", "console", "$ true\n"), "what is 'sometimes'"),
        (PAGE.format("needs", "console", "$ true\n"), "what is 'needs'"),
        (PAGE.format("slow", "text", "true\n"), "only console and python"),
        ("<!-- example: slow -->\n\nprose\n\n```console\n$ true\n```\n", "directly before"),
        ("```bash\ntrue\n```\n", "write ```console"),
        ("```console\ntrue\n```\n", "begins with"),
    ],
)
def test_a_block_that_is_neither_run_nor_marked_is_refused(text, complaint):
    with pytest.raises(BadExampleError, match=complaint):
        [example.commands() for example in examples(text, "page.md")]


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("$ false\n", "exit status 1 of: false"),
        ("$ true\n$ echo one\ntwo\n", "prints\none\n\nand not\ntwo"),
        ("$ make no-such-target\n", "exit status 2"),
        ("$ quasar-rt infer no-such.png\n", "exit status 1"),
    ],
)
def test_an_example_that_does_not_work_is_found(body, complaint, clone):
    (example,) = examples(f"```console\n{body}```\n", "page.md")
    assert any(complaint in wrong for wrong in clone.run(example))


def test_commands_may_go_on_and_outputs_may_leave_lines_out(clone):
    body = "$ printf 'a\\nb\\nc\\n' \\\n    && echo d   # a comment\na\n...\nd\n"
    (example,) = examples(f"```console\n{body}```\n", "page.md")
    assert clone.run(example) == []


def figure(page, head, row, column=1):
    """Returns a figure of a table, without its remark."""
    [cells] = [cells for cells in table_rows(page, head) if cells[0] == row]
    return cells[column].partition(" (")[0]


@pytest.mark.parametrize("page", ["README.md", "docs/index.md", "python/pypi.md"])
def test_the_front_has_the_figures_of_the_tables(page):
    text = " ".join((ROOT / page).read_text(encoding="utf-8").split())
    speed = ("docs/cpu-speed.md", "| with AMX, one frame")
    ours, theirs = (figure(*speed, name, 2) for name in ("quasar_rt", "OpenVINO int8"))
    assert ours in text
    assert f"(OpenVINO int8: {theirs})" in text
    if page != "python/pypi.md":
        share = figure("docs/solar-cells.md", "| network | top-1", "subnet, 224x224").partition(" ")[0]
        assert f"{share} % right" in text
        rate = figure("docs/solar-cells.md", "| image | FPS asked", "224x224", 2)
        assert f"{rate} frames a second | [modelled]" in text
        assert "no AMD tool and no board has run any of it" in text


def test_pypis_page_is_true_and_stands_without_the_repository():
    path = ROOT / "python/pypi.md"
    lines = doctest.DocTestParser().get_doctest(page_examples(path)[1].body, {}, path.name, None, 0)
    assert doctest.DocTestRunner().run(lines) == (0, 3)
    assert not re.findall(r"\]\(|<img|\.md\b|\bclone\b|\bmake \w", path.read_text(encoding="utf-8"))


def test_a_link_of_a_page_names_a_file_that_exists():
    wrong = []
    for path in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
            file = target.partition("#")[0]
            if file and ":" not in file and "." in file and not (path.parent / file).exists():
                wrong.append(f"{path.relative_to(ROOT)}: {target}")
    assert not wrong


def test_every_public_name_is_on_an_api_page_once():
    directive = re.compile(r"^\.\. auto(?:class|function|exception):: (?:quasar_rt\.)?(\w+)$", re.MULTILINE)
    pages = "\n".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "api").glob("*.md"))
    counts = Counter(directive.findall(pages))
    wrong = {name: counts[name] for name in quasar_rt.__all__ if name != "__version__" and counts[name] != 1}
    assert not wrong, (
        "docs/api/ has these names so many times: give each its directive on the page of its task"
    )
