"""Rewrite the SBOMs of a wheel without what differs from build to build: random id, time, folder of the checkout.

Usage: python tools/normalize_sbom.py WHEEL...

maturin has no option for it. All other files stay as they are, but for the SBOMs' lines in RECORD.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
import zipfile
from pathlib import Path

#: How cargo names a package of this repository, with the folder that it was built in.
_LOCAL_PACKAGE = re.compile(r'path\+file://[^#"]*#')
#: The same in a package URL.
_LOCAL_DOWNLOAD = re.compile(r'\?download_url=file://[^#"]*')


def normalized(sbom: str) -> str:
    """Returns a CycloneDX document (JSON) without serial number, time and local paths."""
    document = json.loads(_LOCAL_DOWNLOAD.sub("", _LOCAL_PACKAGE.sub("pkg:cargo/", sbom)))
    document.pop("serialNumber", None)
    document["metadata"].pop("timestamp", None)
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def rewrite(wheel: Path) -> None:
    """Rewrites the SBOMs of a wheel in place."""
    with zipfile.ZipFile(wheel) as archive:
        files = {entry: archive.read(entry) for entry in archive.infolist()}
    (record,) = (entry for entry in files if entry.filename.endswith(".dist-info/RECORD"))
    for entry, data in files.items():
        if ".dist-info/sboms/" in entry.filename:
            files[entry] = normalized(data.decode()).encode()
            digest = base64.urlsafe_b64encode(hashlib.sha256(files[entry]).digest()).rstrip(b"=").decode()
            line = f"{entry.filename},sha256={digest},{len(files[entry])}".encode()
            old = rb"^%b,.*$" % re.escape(entry.filename.encode())
            files[record] = re.sub(old, line, files[record], flags=re.MULTILINE)
    new = wheel.with_suffix(".new")
    with zipfile.ZipFile(new, "w") as archive:
        for entry, data in files.items():
            archive.writestr(entry, data)
    new.replace(wheel)


def main(arguments: list[str]) -> int:
    """Rewrites each wheel."""
    if not arguments:
        print("usage: python tools/normalize_sbom.py WHEEL...", file=sys.stderr)
        return 2
    for wheel in map(Path, arguments):
        rewrite(wheel)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
