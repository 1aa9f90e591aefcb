"""The fuzz corpus: an archive of named inputs for each target of rust/fuzz, with the same bytes for the same inputs."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

CORPUS = Path(__file__).resolve().parents[2] / "rust/fuzz/corpus"


def read(target: str, corpus: Path = CORPUS) -> dict[str, bytes]:
    """Returns the inputs of `target` by their names; a new target has none."""
    path = corpus / f"{target}.tar.gz"
    if not path.exists():
        return {}
    with tarfile.open(path) as archive:
        # All members are files: `write` makes them.
        return {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]


def write(target: str, inputs: dict[str, bytes], corpus: Path = CORPUS) -> None:
    """Writes the archive of `target`, unless it holds these inputs: another zlib may compress otherwise."""
    if inputs == read(target, corpus):
        return
    packed = io.BytesIO()
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=packed, compresslevel=9, mtime=0) as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name, data in sorted(inputs.items()):
            member = tarfile.TarInfo(name)  # of nobody, at time 0
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    (corpus / f"{target}.tar.gz").write_bytes(packed.getvalue())


def unpack(target: str, folder: Path) -> None:
    """Writes the inputs of `target` as files into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in read(target).items():
        (folder / name).write_bytes(data)
