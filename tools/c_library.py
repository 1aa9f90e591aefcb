"""Build the C library into a folder: shared, static, the header, and a file for pkg-config.

    python tools/c_library.py build/c        make c-library calls it

The shared library is `libquasar_rt.so.VERSION`, with two links: its SONAME, which programs load, and `libquasar_rt.so`,
which linkers look for. cargo names the files that it made, wherever it builds (CARGO_TARGET_DIR, CARGO_BUILD_TARGET).
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: Without the crate's `rlib`, cargo takes the crates that the wheel's build left, and optimizes across them.
_BUILD = (
    *("cargo", "rustc", "--release", "--locked", "--package", "quasar-capi", "--lib"),
    *("--crate-type", "cdylib,staticlib"),
)

#: For pkg-config. The files may lie in any folder; docs/c.md has the command for a system's folders.
_PKG_CONFIG = """\
libdir=${{pcfiledir}}
includedir=${{pcfiledir}}

Name: quasar_rt
Description: Row-wise 4/8-bit Vision Transformers in integers, on CPUs and accelerators
Version: {version}
Libs: -L${{libdir}} -lquasar_rt
Libs.private: -lpthread -ldl -lm
Cflags: -I${{includedir}}
"""


def install(folder: Path) -> None:
    """Builds the library and copies it, with its links and the header."""
    command = (*_BUILD, "--message-format=json-render-diagnostics")
    output = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    messages = [json.loads(line) for line in output.splitlines()]
    ours = [message for message in messages if "/rust/capi#" in message.get("package_id", "")]
    (soname,) = (dict(m["env"])["QUASAR_SONAME"] for m in ours if m["reason"] == "build-script-executed")
    (library,) = (
        m for m in ours if m["reason"] == "compiler-artifact" and m["target"]["name"] == "quasar_rt"
    )
    version = re.split("[#@]", library["package_id"])[-1]
    folder.mkdir(parents=True, exist_ok=True)
    for file in map(Path, library["filenames"]):
        if file.suffix == ".a":
            shutil.copy(file, folder)
        elif file.suffix == ".so":
            real = folder / f"{file.name}.{version}"
            shutil.copy(file, real)
            for link in (folder / soname, folder / file.name):
                link.unlink(missing_ok=True)
                link.symlink_to(real.name)
    shutil.copy(ROOT / "rust/capi/include/quasar_rt.h", folder)
    (folder / "quasar_rt.pc").write_text(_PKG_CONFIG.format(version=version), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tools/c_library.py FOLDER")
    try:
        install(Path(sys.argv[1]))
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
