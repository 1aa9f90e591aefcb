"""Copies ap_types, AMD's open ap_int.h in the hls4ml wheel, to a folder.

Uses an installed hls4ml without importing it, otherwise downloads the wheel with pip. Only tests need it.
"""

import importlib.util
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WHEEL = "hls4ml==1.3.0"
FOLDER = "templates/vivado/ap_types"


def main(out: Path) -> None:
    """Copies the headers to `out`."""
    spec = importlib.util.find_spec("hls4ml")
    for place in (spec.submodule_search_locations or []) if spec else []:
        if (Path(place) / FOLDER / "ap_int.h").is_file():
            shutil.copytree(Path(place) / FOLDER, out, dirs_exist_ok=True)
            return
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, WHEEL]
        if subprocess.run(pip, check=False).returncode:
            sys.exit(
                f"error: {WHEEL} could not be fetched; its ap_types are needed by the ap_int form of C simulation"
            )
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
            prefix = f"hls4ml/{FOLDER}/"
            for name in wheel.namelist():
                if name.startswith(prefix) and not name.endswith("/"):
                    target = out / name.removeprefix(prefix)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(wheel.read(name))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
