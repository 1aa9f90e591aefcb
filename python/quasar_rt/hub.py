"""Finds a subnet's file by a folder's name or on the Hugging Face Hub, for `Subnet.from_pretrained`.

A folder or repository holds a ``.qvit`` file, which is a safetensors container and executes no code. Depends on
`errors` and `packaged`; the Hub needs the extra ``[hub]``, huggingface_hub, which brings the cache and its settings.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from .arguments import shown
from .errors import FileError, InvalidValueError, MissingFileError
from .packaged import subnet_names, subnet_path

__all__ = ["find_pretrained"]

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def find_pretrained(
    source: str | os.PathLike[str],
    filename: str | None,
    revision: str | None,
    cache_dir: str | os.PathLike[str] | None,
    token: str | bool | None,
    local_files_only: bool,
) -> Path:
    """Returns the subnet's file; `Subnet.from_pretrained` describes the arguments.

    Raises:
        FileError: there is no such folder or repository (a `MissingFileError`), or no subnet in it.
        InvalidValueError: `filename` leads out of the folder.
        ImportError: the Hub is needed and huggingface_hub is missing; the message names the extra.
    """
    if filename is not None and (os.path.isabs(filename) or ".." in Path(filename).parts):
        raise InvalidValueError(
            f"filename is {shown(filename)}; it must be a file of the folder or repository"
        )
    if os.path.isdir(source):
        return _of_folder(Path(source), filename, f"the folder '{source}'")
    if os.path.isfile(source):
        return Path(source)
    if isinstance(source, str):
        if (path := subnet_path(source)) is not None:
            return path
        if _REPOSITORY.fullmatch(source):
            folder = _download(source, filename, revision, cache_dir, token, local_files_only)
            return _of_folder(folder, filename, f"the Hub's '{source}'")
    raise MissingFileError(
        f"there is no folder, file or packaged subnet '{source}' (there are: {', '.join(subnet_names()) or 'none'}), "
        "and it is no repository of the Hub (owner/name)"
    )


def _of_folder(folder: Path, filename: str | None, what: str) -> Path:
    if filename is not None:
        if not (folder / filename).is_file():
            raise FileError(f"{what} has no file '{filename}'{_listed(folder.glob('*.qvit'))}")
        return folder / filename
    found = sorted(path for path in folder.glob("*.qvit") if path.is_file())
    if len(found) == 1:
        return found[0]
    if not found:
        raise FileError(f"{what} has no .qvit file; `quasar-rt export` and Subnet.save_pretrained write one")
    raise FileError(f"{what} has {len(found)} subnets: choose one by filename={_listed(found)}")


def _listed(paths: Iterable[Path]) -> str:
    names = ", ".join(sorted(path.name for path in paths))
    return f" (there are: {names})" if names else ""


def _download(
    repository: str,
    filename: str | None,
    revision: str | None,
    cache_dir: str | os.PathLike[str] | None,
    token: str | bool | None,
    local_files_only: bool,
) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ImportError(
            f"there is no folder '{repository}' here, and the Hub needs huggingface_hub, which is not installed: "
            "pip install 'quasar-rt[hub]'"
        ) from error
    try:
        return Path(
            snapshot_download(
                repository,
                revision=revision,
                cache_dir=cache_dir,
                token=token,
                local_files_only=local_files_only,
                allow_patterns=[filename if filename is not None else "*.qvit"],
                library_name="quasar_rt",
            )
        )
    except Exception as error:  # its errors have no common base: of HTTP, of names, of the cache, of the disk
        at = f" at revision '{revision}'" if revision is not None else ""
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise FileError(
            f"there is no folder '{repository}' here, and the Hub gives none{at}: {reason}"
        ) from error
