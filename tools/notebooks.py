#!/usr/bin/env python3
"""Run the package's notebooks from top to bottom and keep their outputs.

    python tools/notebooks.py                    # all of them
    python tools/notebooks.py first_inference    # one
    python tools/notebooks.py --check            # run them, and leave the files as they are

Outputs lose what differs between machines without meaning: warnings on stderr, times, copies of a picture. A cell that
is tagged `remove-output` keeps none: what it draws may not be shipped.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click

FOLDER = Path(__file__).resolve().parents[1] / "python" / "quasar_rt" / "notebooks"


def run(notebook: Any, folder: str) -> None:
    """Runs a notebook (nbformat's) in a folder; its cells get their outputs. Raises the first cell's error."""
    from nbclient import NotebookClient

    resources = {"metadata": {"path": folder}}
    client = NotebookClient(
        notebook, timeout=3600, kernel_name="python3", resources=resources, record_timing=False
    )
    client.execute()


def clean(notebook: Any) -> None:
    """Joins what a cell prints, and drops stderr and second forms of pictures."""
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        kept: list[Any] = []
        for output in [] if "remove-output" in cell.metadata.get("tags", []) else cell.outputs:
            if output.output_type == "stream":
                if output.name == "stderr":
                    continue
                if kept and kept[-1].output_type == "stream":
                    kept[-1].text += output.text
                    continue
            elif "image/png" in output.get("data", {}):
                output.data.pop("image/jpeg", None)
            kept.append(output)
        cell.outputs = kept
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }


@click.command(help=(__doc__ or "").split("\n\n")[0])
@click.argument("names", nargs=-1)
@click.option("--check", "checks", is_flag=True, help="Leave the files as they are.")
def main(names: tuple[str, ...], checks: bool) -> None:
    import nbformat

    for path in sorted(FOLDER.glob("*.ipynb")):
        if names and path.stem not in names:
            continue
        notebook = nbformat.read(path, 4)
        with tempfile.TemporaryDirectory() as folder:
            run(notebook, folder)
        if not checks:
            clean(notebook)
            nbformat.write(notebook, path)
        click.echo(f"{path.name}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
