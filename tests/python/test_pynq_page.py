"""docs/boards/pynq.md, typed block by block in an environment like that of a PYNQ image.

tools/test-pynq.sh makes the environment and runs this before the wheel is in it: nothing here imports the package.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from examples import Clone, examples

WHEEL = os.environ.get("QUASAR_PYNQ_WHEEL")
PROFILE = "/etc/profile.d/pynq_venv.sh"
ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/boards/pynq.md"
#: Packages that pip may put in front of Ubuntu's.
NEWER = {"click", "pygments"}

pytestmark = pytest.mark.skipif(not WHEEL, reason="needs an environment like PYNQ's: make test-pynq")

VERSIONS = """
import json
from importlib.metadata import distributions

found = {}
for one in distributions():
    pure = "Root-Is-Purelib: true" in (one.read_text("WHEEL") or "")
    found.setdefault(one.metadata["Name"].lower(), (one.version, pure))
print(json.dumps(found))
"""


def versions():
    done = subprocess.run([sys.executable, "-c", VERSIONS], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_the_page_installs_what_the_image_lacks_and_compiles_nothing(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / Path(WHEEL).name).symlink_to(WHEEL)
    profile = tmp_path / "pynq_venv.sh"
    profile.write_text(f"source {Path(sys.prefix) / 'bin' / 'activate'}\n")
    folder = tmp_path / "root"
    folder.mkdir()
    # A login shell of the image has read the profile.
    root = Clone(folder, ROOT, {**os.environ, "BASH_ENV": str(profile), "COLUMNS": "120"})
    typed, before, wrong = [], versions(), []
    for block in examples(PAGE.read_text(encoding="utf-8"), "docs/boards/pynq.md"):
        if "make test-pynq types it" not in block.skip:
            continue
        body = block.body.replace(PROFILE, str(profile)).replace("/home/xilinx", str(home))
        wrong += root.run(replace(block, body=body))
        typed += [command for command, _ in block.commands()]
    assert not wrong, "\n".join(wrong)
    assert len(typed) >= 5, typed
    after = versions()
    assert {name for name, found in before.items() if after[name] != found} <= NEWER
    new = {name for name, found in after.items() if before.get(name) != found}
    assert {"quasar-rt", "rich"} <= new
    # A package that is pure Python has a wheel for every processor.
    assert [name for name in new if not after[name][1]] == ["quasar-rt"]
    assert list((home / "jupyter_notebooks").glob("quasar-rt/first_inference.ipynb"))
