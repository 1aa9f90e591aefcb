"""The PetaLinux layer names the files that the build leaves and that its page tells the reader to copy."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from rtl import ROOT

import bitstream

LAYER = ROOT / "fpga" / "petalinux" / "meta-quasar"
RECIPES = sorted(LAYER.glob("recipes-*/*/*.bb"))


def sources(recipe: Path, board: str) -> set[str]:
    text = (
        recipe.read_text()
        .replace("${QUASAR_NAME}", "quasar-${QUASAR_BOARD}")
        .replace("${QUASAR_BOARD}", board)
    )
    (uris,) = re.findall(r'^SRC_URI = "(.*?)"', text, re.MULTILINE | re.DOTALL)
    return {uri.removeprefix("file://").split(";")[0] for uri in re.findall(r"file://\S+", uris)}


@pytest.mark.parametrize("board", ["kv260", "zcu102", "pynq-z2"])
def test_the_firmware_recipe_takes_what_the_build_leaves(board: str, tmp_path: Path) -> None:
    target = bitstream.read_target(board, None)
    folder = bitstream.write_firmware(target, tmp_path, b"", 150_000_000)
    # Where dtc is absent, the overlay is compiled by hand, to this name.
    left = {path.name for path in folder.iterdir()} - {f"{folder.name}.dtso"} | {f"{folder.name}.dtbo"}
    assert sources(LAYER / "recipes-firmware/quasar-firmware/quasar-firmware.bb", board) == {
        *left,
        f"{board}.json",
        "quasar-clock.dtbo",
    }


def test_the_page_copies_every_file_that_is_not_in_the_layer() -> None:
    page = (ROOT / "docs" / "boards" / "petalinux.md").read_text()
    for recipe in RECIPES:
        for name in sources(recipe, "kv260"):
            if not (recipe.parent / "files" / name).exists():
                assert re.search(rf"(^|[/ {{,]){re.escape(name)}\b", page, re.MULTILINE), name
        assert f"`{recipe.stem}`" in page


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_shell_functions_of_a_recipe_parse(recipe: Path) -> None:
    text = recipe.read_text()
    assert text.startswith("SUMMARY = ")
    for body in re.findall(r"^do_\w+\(\) (\{\n.*?^\})", text, re.MULTILINE | re.DOTALL):
        subprocess.run(["bash", "-n", "-c", f"f() {body}"], check=True)
