"""WebDataset's shards, local ``.tar`` files: every shard is indexed once, then each sample is read by its place.

So images come in any order and the order of an epoch is exact, as with files in folders; nothing is shuffled in a
buffer. The names of shards and the grouping of members into samples are the library's (`webdataset`). An index is kept
in the user's cache until the shard changes. Depends on `webdataset`, which imports PyTorch where it is installed.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import itertools
import json
import os
import re
import tarfile
from array import array
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..datasets import IMAGE_SUFFIXES, DatasetError
from ..errors import ImageError
from ..files import MOST_TEXT_BYTES, cache_folder, open_regular, reason, write_bytes
from ..images import ImageLike
from ..texts import Texts
from .base import Name, Source, read_class_names

__all__ = ["ShardImages", "Shards"]

#: Words in a shard's name or folder, and the part that it belongs to; `validation` comes before `test`, as in folders.
_TRAIN = {"train", "training"}
_TESTS = ({"val", "valid", "validation"}, {"test", "testing"})
#: Members of up to this size that are no images are kept in the index: labels, and small JSON files.
_KEPT_BYTES = 4096
#: Changes with the form of the index.
_VERSION = 1
#: Shards that are indexed at the same time.
_THREADS = 4


class _Member(NamedTuple):
    """A file in a shard; `text` is the content of a small one."""

    name: str
    offset: int
    size: int
    text: str | None


class _Sample(NamedTuple):
    """The members of one sample by their field (the suffix, such as ``jpg`` or ``cls``), as in the index."""

    shard: str
    key: str
    fields: dict[str, list[Any]]

    def member(self, field: str) -> _Member:
        return _Member(*self.fields[field])

    def __str__(self) -> str:
        return f"the sample '{self.key}' of '{self.shard}'"


class _Range:
    """A file in a shard as a binary file object, read when `quasar_rt.images` decodes it."""

    def __init__(self, path: str, offset: int, size: int, key: str) -> None:
        self._path, self._offset, self._size, self._at = path, offset, size, 0
        self.name = f"{path}: {key}"

    def seekable(self) -> bool:
        return True

    def seek(self, position: int) -> int:
        self._at = position
        return position

    def read(self, size: int = -1) -> bytes:
        left = self._size - self._at
        size = left if size < 0 else min(size, left)
        data = _read_range(self._path, self._offset + self._at, size)
        if len(data) != size:
            raise ImageError(f"'{self._path}' ended within '{self.name}': the shard was changed or cut off")
        self._at += size
        return data


@dataclass(frozen=True, eq=False)
class ShardImages:
    """Images in shards: image `i` is in ``paths[shard[i]]``, ``size[i]`` bytes from ``offset[i]`` on."""

    paths: tuple[str, ...]
    shard: NDArray[np.int64]
    offset: NDArray[np.int64]
    size: NDArray[np.int64]
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.shard)

    def read(self, index: int) -> ImageLike:
        """Returns a binary file object of the image."""
        path = self.paths[self.shard[index]]
        return _Range(path, int(self.offset[index]), int(self.size[index]), self.names[index])

    def name(self, index: int) -> str:
        """Returns the name of the image's file in its shard, and the file's folder."""
        return "/".join(Path(self.names[index]).parts[-2:])


class Shards(Source):
    """Shards by name: ``wds:SHARDS``, a path with braces or wildcards, several such with ``::``, or a folder.

    A folder's shards are divided by the words ``train`` and ``val``, ``validation`` or ``test`` in their names and
    sub-folders; otherwise the option `test` names the test shards.

    Raises:
        DatasetError: `webdataset` is not installed, there are no such shards, or a shard is damaged.
    """

    def __init__(self, text: str) -> None:
        try:
            import webdataset
        except ImportError as error:
            raise DatasetError(
                f"'{text}' are WebDataset shards, which need webdataset: pip install 'quasar-rt[webdataset]'"
            ) from error
        self.name = name = Name.parse(text, "wds", ["test"])
        self._library: Any = webdataset
        if os.path.isdir(name.place):
            train, test = _of_folder(name)
        else:
            train, test = self._expand(name.place), []
        if "test" in name.options:
            test = self._expand(name.options["test"])
        if both := sorted(set(train) & set(test)):
            raise DatasetError(f"'{name.text}': the shard '{both[0]}' is named for training and for the test")
        self.names = read_class_names(name)
        self._paths = {part: paths for part, paths in (("train", train), ("test", test)) if paths}
        self.records = {part: self._records(paths) for part, paths in self._paths.items()}
        self.describe = f"the WebDataset shards `{os.path.basename(name.place.rstrip('/'))}`"

    def labels(self, part: str) -> list[int] | list[str]:
        """Returns the label of each sample: its field ``cls``, ``label`` in its JSON, or the folder in its key."""
        samples = self._samples(self._paths[part])
        first = next(samples)
        field = self.name.options.get("label") or self._label_field(first)
        texts = [self._label(sample, field) for sample in itertools.chain([first], samples)]
        # A folder's name is a name, even if all are numbers.
        if field != "folder" and all(re.fullmatch(r"-?\d+", text, re.ASCII) for text in texts):
            return self.numbers(part, texts)
        return texts

    def where(self, part: str, index: int) -> str:
        """Names a sample by its key and its shard."""
        return str(next(itertools.islice(self._samples(self._paths[part]), index, None)))

    def _expand(self, pattern: str) -> list[str]:
        if remote := re.search(r"\b(pipe:|[a-z][a-z0-9+]*://)", pattern):
            raise DatasetError(
                f"'{self.name.text}': shards are read in any order, so they must be local files, not {remote[0]}...: "
                "download them first"
            )
        try:
            found = self._library.shardlists.expand_urls(pattern)
        except Exception as error:  # braceexpand's errors, and an assertion for a missing variable
            raise DatasetError(f"'{self.name.text}': {error}") from error
        paths: list[str] = []
        for path in found:
            matches = sorted(glob.glob(path)) if glob.has_magic(path) else [path]
            if not matches:
                raise DatasetError(f"'{self.name.text}': no file matches '{path}'")
            paths += matches
        missing = [path for path in paths if not os.path.isfile(path)]
        if missing:
            raise DatasetError(
                f"'{self.name.text}': {len(missing)} of {len(paths)} shards are missing or no files, "
                f"first '{missing[0]}'"
            )
        if len(set(paths)) != len(paths):
            raise DatasetError(f"'{self.name.text}' names a shard twice")
        return paths

    def _samples(self, paths: Sequence[str]) -> Iterator[_Sample]:
        """Yields the samples of shards; all of them together would fill the memory."""
        group = self._library.tariterators.group_by_keys
        with ThreadPoolExecutor(_THREADS) as pool:
            # As many at a time as there are threads.
            for start in range(0, len(paths), _THREADS):
                for samples in pool.map(lambda path: _index(path, group), paths[start : start + _THREADS]):
                    yield from samples

    def _records(self, paths: Sequence[str]) -> ShardImages:
        numbers = {path: number for number, path in enumerate(paths)}
        shard, offset, size = array("i"), array("q"), array("q")
        names = Texts()
        for sample in self._samples(paths):
            image = sample.member(self._image_field(sample))
            shard.append(numbers[sample.shard])
            offset.append(image.offset)
            size.append(image.size)
            names.append(image.name)
        if not len(names):
            raise DatasetError(f"'{self.name.text}': the shards hold no sample, first '{paths[0]}'")
        shards, offsets, sizes = (np.array(values, np.int64) for values in (shard, offset, size))
        return ShardImages(tuple(paths), shards, offsets, sizes, names)

    def _image_field(self, sample: _Sample) -> str:
        if chosen := self.name.options.get("image"):
            # Several formats are alternatives, as in webdataset: jpg;png.
            found = [field for field in chosen.lower().split(";") if field in sample.fields]
            if not found:
                raise DatasetError(f"{sample} has no field '{chosen}' (it has {', '.join(sample.fields)})")
            return found[0]
        found = [field for field in sample.fields if f".{field}" in IMAGE_SUFFIXES]
        found = found or [
            field for field in sample.fields if os.path.splitext(f".{field}")[1] in IMAGE_SUFFIXES
        ]
        if not found:
            raise DatasetError(f"{sample} has no image (it has {', '.join(sample.fields)})")
        if len(found) > 1:
            raise self.name.choose("image", found, f"{sample} has several images")
        return found[0]

    def _label_field(self, first: _Sample) -> str:
        if "cls" in first.fields:
            return "cls"
        others = [field for field in first.fields if field != self._image_field(first)]
        if "json" in others and "label" in self._json(first, "json"):
            return "json.label"
        if not others and "/" in first.key:
            return "folder"
        choices = [f"json.{key}" for key in self._json(first, "json")] if "json" in others else []
        choices = [field for field in others if field != "json"] + choices + ["folder"] * ("/" in first.key)
        raise self.name.choose("label", choices, f"{first} has no field 'cls', so its label is not known")

    def _label(self, sample: _Sample, field: str) -> str:
        if field == "folder":
            if "/" not in sample.key:
                raise DatasetError(f"{sample} is in no folder, which would be its label")
            return sample.key.split("/")[-2]
        if field in sample.fields:
            return self._text(sample, field)
        owner, dot, key = field.rpartition(".")
        if dot and owner in sample.fields:
            values = self._json(sample, owner)
            if type(values.get(key)) in (int, str):
                return str(values[key])
            raise DatasetError(f"{sample}: '{key}' in its {owner} is no label (it has {', '.join(values)})")
        raise DatasetError(
            f"{sample} has no field '{field}' for its label (it has {', '.join(sample.fields)})"
        )

    def _json(self, sample: _Sample, field: str) -> dict[str, Any]:
        try:
            values = json.loads(self._text(sample, field))
        except (ValueError, RecursionError) as error:
            raise DatasetError(f"{sample}: its {field} is damaged: {error}") from error
        if not isinstance(values, dict):
            raise DatasetError(f"{sample}: its {field} is no JSON object")
        return values

    def _text(self, sample: _Sample, field: str) -> str:
        member = sample.member(field)
        if member.text is not None:
            return member.text.strip()
        if member.size > MOST_TEXT_BYTES:
            raise DatasetError(f"{sample}: its {field} is larger than {MOST_TEXT_BYTES:,} bytes")
        try:
            return _read_range(sample.shard, member.offset, member.size).decode().strip()
        except ValueError as error:
            raise DatasetError(f"{sample}: its {field} is no text: {error}") from error


def _of_folder(name: Name) -> tuple[list[str], list[str]]:
    """Returns the training shards and the test shards of a folder."""
    root = Path(name.place)
    found = sorted([*root.glob("*.tar"), *root.glob("*/*.tar")])
    if not found:
        raise DatasetError(f"'{name.text}': there is no .tar file in the folder or its sub-folders")
    words = {str(path): set(re.split("[^a-z]+", str(path.relative_to(root)).lower())) for path in found}
    train = [path for path, said in words.items() if said & _TRAIN]
    tests = [[path for path, said in words.items() if said & part] for part in _TESTS]
    other = set(words) - {path for paths in (train, *tests) for path in paths}
    if len(other) == len(words):
        return list(words), []
    if other or not train:
        unknown = f"'{min(other)}' has no such word" if other else "there is no 'train'"
        raise DatasetError(
            f"'{name.text}': a folder's shards are divided by 'train' and 'val' or 'test' in their names, and "
            f"{unknown}: name the shards: wds:TRAINING#test=TEST"
        )
    return train, next((paths for paths in tests if paths), [])


def _read_range(path: str, offset: int, size: int) -> bytes:
    # A descriptor for each read: there may be more shards than a process may have files open, and processes fork.
    try:
        with open_regular(path) as file:
            return os.pread(file.fileno(), size, offset)
    except OSError as error:
        raise ImageError(f"the shard '{path}' cannot be read: {reason(error)}") from error


def _index(path: str, group: Any) -> list[_Sample]:
    """Returns the samples of a shard, from the cache where an earlier index of the unchanged file is there."""
    try:
        state = os.stat(path)
        identity = json.dumps([_VERSION, os.path.realpath(path), state.st_size, state.st_mtime_ns])
        kept = _cache() / f"{hashlib.sha256(identity.encode()).hexdigest()}.json"
        # A missing or damaged index is made again.
        with contextlib.suppress(OSError, ValueError, TypeError):
            return [_Sample(path, key, fields) for key, fields in json.loads(kept.read_bytes())]
        found = list(_samples(path, group))
        # Without a cache the next start makes the index again.
        with contextlib.suppress(OSError):
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.unlink(missing_ok=True)
            write_bytes(kept, json.dumps(found).encode())
    except DatasetError:
        raise
    except (tarfile.TarError, OSError) as error:
        raise DatasetError(
            f"the shard '{path}' cannot be read: {reason(error)}; a shard is an uncompressed .tar file"
        ) from error
    return [_Sample(path, key, fields) for key, fields in found]


def _samples(path: str, group: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        for sample in group(_members(path)):
            yield sample["__key__"], {k: v for k, v in sample.items() if not k.startswith("__")}
    except ValueError as error:  # a sample with two files of one suffix
        raise DatasetError(f"the shard '{path}' is damaged: {error.args[0]}") from error


def _members(path: str) -> Iterator[dict[str, Any]]:
    """Yields the files of a shard as `webdataset.tariterators.tar_file_iterator` does, with places for contents."""
    with open_regular(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
        for info in tar:
            # Names in double underscores are webdataset's own.
            if not info.isreg() or re.match(r"__[^/]*__($|/)", info.name):
                continue
            if info.issparse():
                raise DatasetError(
                    f"the shard '{path}': the file '{info.name}' is sparse; pack it without -S"
                )
            text = None
            if info.size <= _KEPT_BYTES and os.path.splitext(info.name)[1].lower() not in IMAGE_SUFFIXES:
                try:
                    text = _read_range(path, info.offset_data, info.size).decode()
                except ValueError:
                    text = None
            member = _Member(info.name, info.offset_data, info.size, text)
            yield {"fname": info.name, "data": member, "__url__": path}
        # tarfile takes a damaged header for the end.
        if _read_range(path, tar.offset, tarfile.BLOCKSIZE).strip(b"\0"):
            raise DatasetError(f"the shard '{path}' is damaged at byte {tar.offset:,}")


def _cache() -> Path:
    return cache_folder() / "shards"
