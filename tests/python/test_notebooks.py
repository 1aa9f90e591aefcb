"""Runs the package's notebooks from top to bottom, and looks at the outputs that are committed."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

import quasar_rt

FOLDER = Path(quasar_rt.__file__).parent / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
#: Modules that a notebook needs in addition to the package; one that is not here needs none, as on a board.
NEEDS = {
    "your_own_vit": ("torch", "timm", "sklearn"),
    "anomalies_and_segmentation": ("torch", "timm", "sklearn", "matplotlib"),
    "search_for_a_board": ("matplotlib",),
    "solar_cells": ("torch", "timm", "onnx", "sklearn", "matplotlib", "elpv_dataset"),
    "inside_a_frame": ("matplotlib",),
}
#: The one that ordinary tests run.
QUICK = "first_inference"


def execute(name: str, folder: Path) -> Any:
    nbformat = pytest.importorskip("nbformat", reason="needs the [test] extra")
    nbclient = pytest.importorskip("nbclient", reason="needs the [test] extra")
    for module in ("ipykernel", *NEEDS.get(name, ())):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs {module}")
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", 4)
    resources = {"metadata": {"path": str(folder)}}
    client = nbclient.NotebookClient(notebook, timeout=900, kernel_name="python3", resources=resources)
    client.execute(
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(FOLDER.parents[1]), os.environ.get("PYTHONPATH", "")]),
        }
    )
    return notebook


def printed(notebook: Any) -> str:
    return "".join(
        output.text
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.output_type == "stream" and output.name == "stdout"
    )


# The kernel's client opens sockets whose warnings are not ours.
@pytest.mark.filterwarnings("ignore")
def test_the_first_notebook_runs_and_is_right(tmp_path: Path) -> None:
    text = printed(execute(QUICK, tmp_path))
    assert text.count("  right") == 12
    assert "the same bits" in text
    assert "DIFFERENT" not in text


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in NAMES if name != QUICK])
def test_a_notebook_runs_from_top_to_bottom(name: str, tmp_path: Path) -> None:
    assert printed(execute(name, tmp_path))


@pytest.mark.parametrize("name", NAMES)
def test_committed_outputs_are_of_one_run_and_of_no_particular_machine(name: str) -> None:
    text = (FOLDER / f"{name}.ipynb").read_text(encoding="utf-8")
    code = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert outputs
    for output in outputs:
        assert output["output_type"] != "error"
        assert output.get("name") != "stderr"
        words = "".join([*output.get("text", []), *output.get("data", {}).get("text/plain", [])])
        assert not re.search(r"/(home|root|work|tmp|Users)/", words)
    assert len(text) < 300_000, "a notebook is read on boards: keep its pictures small"


def test_notebooks_for_a_board_import_no_more_than_the_package() -> None:
    for name in set(NAMES) - NEEDS.keys():
        text = (FOLDER / f"{name}.ipynb").read_text(encoding="utf-8")
        imported = set(re.findall(r'^ *"(?:import|from) (\w+)', text, re.MULTILINE))
        assert imported <= {"numpy", "PIL", "quasar_rt", "time"}, name


def test_every_notebook_is_on_the_site() -> None:
    page = FOLDER.parents[2] / "docs" / "notebooks.md"
    if not page.exists():
        pytest.skip("needs a checkout")
    assert set(re.findall(r"notebooks/(\w+)$", page.read_text(encoding="utf-8"), re.MULTILINE)) == set(NAMES)
