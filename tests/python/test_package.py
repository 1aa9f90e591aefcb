"""The names and the cost of ``import quasar_rt``."""

import ast
from fnmatch import fnmatch
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import quasar_rt
from helpers import python


def test_the_public_names_can_be_imported_and_are_shown_alone():
    assert all(getattr(quasar_rt, name) is not None for name in quasar_rt.__all__)
    assert dir(quasar_rt) == sorted(quasar_rt.__all__)


def test_type_checkers_and_the_import_on_first_use_know_the_same_names():
    (checked,) = (
        node.body
        for node in ast.parse(Path(quasar_rt.__file__).read_text("utf-8")).body
        if isinstance(node, ast.If)
    )
    names = {
        a.asname: line.module for line in checked if isinstance(line, ast.ImportFrom) for a in line.names
    }
    assert names == quasar_rt._HOME


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nonsense"):
        quasar_rt.nonsense  # noqa: B018


def test_the_board_needs_no_host_packages():
    code = (
        "import sys, quasar_rt\n"
        "for name in quasar_rt.__all__: getattr(quasar_rt, name)\n"
        "heavy = {'torch', 'timm', 'torchvision', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    python(code)


def test_the_package_and_the_help_start_without_numpy():
    code = "import sys, quasar_rt, quasar_rt.cli\nassert not {'numpy', 'PIL', 'rich'} & set(sys.modules)"
    python(code)


def test_pytest_runs_the_examples_of_every_folder(pytestconfig):
    passed_over = pytestconfig.getini("norecursedirs")
    folders = {path.parent for path in (pytestconfig.rootpath / "python").rglob("*.py")}
    assert "build" in {folder.name for folder in folders}
    assert [f for f in folders if any(fnmatch(f.name, pattern) for pattern in passed_over)] == []


def imports(module, path, modules):
    """Yields the modules that a file imports anywhere, for type checkers or at run time."""
    parts = module.split(".") if path.stem == "__init__" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = parts[: len(parts) + 1 - node.level] if node.level else []
            source = ".".join([*package, *filter(None, [node.module])])
            # A name that is not a Python file, such as the native module, counts as its package.
            yield from (
                f"{source}.{a.name}" if f"{source}.{a.name}" in modules else source for a in node.names
            )


def test_no_modules_import_each_other_in_a_circle():
    root = Path(quasar_rt.__file__).parent
    modules = {
        ".".join(path.relative_to(root.parent).with_suffix("").parts).removesuffix(".__init__"): path
        for path in root.rglob("*.py")
    }
    graph = {name: set(imports(name, path, modules)) & modules.keys() for name, path in modules.items()}
    assert {"quasar_rt.device", "quasar_rt.subnet"} <= graph["quasar_rt.engine"]
    TopologicalSorter(graph).prepare()
