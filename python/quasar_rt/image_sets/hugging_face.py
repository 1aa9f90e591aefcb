"""Hugging Face data sets, through their library `datasets`: folders on disk, Parquet files, the Hub.

The library keeps a table in a memory-mapped file, so any row can be read at any time. Images stay encoded until
`quasar_rt.images` decodes them, as it decodes files. Depends on `datasets`.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..datasets import DatasetError
from ..errors import ImageError
from ..files import open_regular, reason
from ..images import MOST_ENCODED_BYTES, ImageLike
from .base import Name, Source, read_class_names

__all__ = ["SAVED", "HuggingFace", "Rows"]

#: Names of columns that hold labels, where no column has class names.
_LABELS = ("label", "labels", "class", "cls", "target", "y")
#: Splits that are the test set, the first one that is there; `validation` comes before `test`, as in folders.
_TESTS = ("validation", "val", "valid", "test")

#: Files that `save_to_disk` writes.
SAVED = ("dataset_dict.json", "state.json")


class _Row:
    """The image of a row as a binary file object, fetched when `quasar_rt.images` decodes it."""

    def __init__(self, rows: Rows, index: int) -> None:
        self._rows, self._index = rows, index
        self._data: io.BytesIO | None = None
        self.name = f"row {index} of {rows.place}"

    def seekable(self) -> bool:
        return True

    def seek(self, position: int) -> int:
        return self._file().seek(position)

    def read(self, size: int = -1) -> bytes:
        return self._file().read(size)

    def _file(self) -> io.BytesIO:
        if self._data is None:
            data, path = self._rows.value(self._index)
            if data is None and path is None:
                raise ImageError(f"{self.name} has no image in the column '{self._rows.column}'")
            if data is None:
                assert path is not None
                try:
                    with open_regular(path) as file:
                        data = file.read(MOST_ENCODED_BYTES + 1)  # the caller refuses more
                except (OSError, ValueError) as error:  # no file has a name with a null byte
                    raise ImageError(f"{self.name}: its file cannot be read: {reason(error)}") from error
            self._data = io.BytesIO(data)
        return self._data


@dataclass(frozen=True, eq=False)
class Rows:
    """The images in a column of a table; `place` names the table for messages."""

    table: Any
    column: str
    place: str

    def __len__(self) -> int:
        return len(self.table)

    def read(self, index: int) -> ImageLike:
        """Returns a binary file object of the image."""
        return _Row(self, index)

    def name(self, index: int) -> str:
        """Returns the row's number, the name of its file and the size of its image, as far as they are known."""
        data, path = self.value(index)
        known = [os.path.basename(path)] if path else []
        known += [f"{len(data)} bytes"] if data is not None else []
        return f"row {index} ({', '.join(known)})"

    def value(self, index: int) -> tuple[bytes | None, str | None]:
        """Returns the encoded image and the path of its file, of which either may be missing.

        Raises:
            ImageError: the column holds something else.
        """
        value = self.table[index][self.column]
        data, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
        # Parquet files of others have any types, and `open` takes a number for an open file.
        if not isinstance(data, (bytes, type(None))) or not isinstance(path, (str, type(None))):
            raise ImageError(
                f"row {index} of {self.place} has no encoded image in the column '{self.column}': neither bytes nor "
                "a path"
            )
        return data, path


class HuggingFace(Source):
    """A data set by name: ``hf:NAME`` of the Hub, or ``hf:FOLDER`` that `save_to_disk` wrote or `load_dataset` reads.

    Raises:
        DatasetError: `datasets` is not installed, there is no such data set, or its columns leave a choice open.
    """

    def __init__(self, text: str) -> None:
        try:
            import datasets
        except ImportError as error:
            raise DatasetError(
                f"'{text}' is a Hugging Face data set, which needs datasets: pip install 'quasar-rt[datasets]'"
            ) from error
        self._library: Any = datasets
        self.name = name = Name.parse(text, "hf", ["train", "test", "config", "revision"])
        tables = self._load()
        chosen = self._splits(list(tables))
        self._tables = {part: tables[split] for part, split in chosen.items()}
        self._features = next(iter(self._tables.values())).features
        self._column = self._image_column()
        self.names = read_class_names(name)
        self.records = {part: self._rows(part, split) for part, split in chosen.items()}
        place = name.place
        shown = os.path.basename(place.rstrip("/")) if os.path.isdir(place) else place
        self.describe = f"the Hugging Face data set `{shown}`"

    def labels(self, part: str) -> list[int] | list[str]:
        """Returns the column of class labels, or the one that is named like labels."""
        table, column = self._tables[part], self._label_column()
        if column not in table.features:
            raise DatasetError(
                f"{self._place(part)} has no column '{column}' (it has {', '.join(table.features)})"
            )
        found = list(table.select_columns([column])[:][column])
        for index, label in enumerate(found):
            if type(label) not in (int, str):
                raise DatasetError(
                    f"{self.where(part, index)} has {label!r} in its column '{column}', which is neither a number nor "
                    "the name of a class"
                )
        if self.names is None and isinstance(self._features[column], self._library.ClassLabel):
            self.names = tuple(self._features[column].names)
        return found if any(isinstance(label, str) for label in found) else self.numbers(part, found)

    def where(self, part: str, index: int) -> str:
        """Names a row by its number and its table."""
        return f"row {index} of {self._place(part)}"

    def _place(self, part: str) -> str:
        records = self.records[part]
        assert isinstance(records, Rows)
        return records.place

    def _load(self) -> dict[str, Any]:
        name, library = self.name, self._library
        path = Path(name.place)
        saved = path.is_dir() and any((path / file).is_file() for file in SAVED)
        try:
            if saved:
                if chosen := [key for key in ("config", "revision") if key in name.options]:
                    raise DatasetError(f"'{name.text}' is a saved data set, which has no {chosen[0]}")
                found = library.load_from_disk(name.place)
            else:
                place, options = name.place, name.options
                found = library.load_dataset(place, options.get("config"), revision=options.get("revision"))
        except DatasetError:
            raise
        # Its errors have no common base: of files, of the Hub, of builders, of Arrow.
        except Exception as error:
            why = " ".join(str(error).split())[:600] or type(error).__name__
            raise DatasetError(
                f"'{name.text}' cannot be opened: {why} (give a folder that save_to_disk wrote, a folder of Parquet "
                "files or of images, or OWNER/NAME of the Hub; '#config=NAME' chooses a configuration)"
            ) from error
        return dict(found) if isinstance(found, dict) else {"train": found}

    def _splits(self, splits: list[str]) -> dict[str, str]:
        """Returns the splits of the two parts."""
        options = self.name.options
        for key in ("train", "test"):
            if key in options and options[key] not in splits:
                raise self.name.choose(key, splits, f"there is no split '{options[key]}'")
        train = options.get("train")
        if train is None and ("train" in splits or len(splits) == 1):
            train = "train" if "train" in splits else splits[0]
        test = options.get("test") or next(
            (name for name in _TESTS if name in splits and name != train), None
        )
        if test is not None and test == train:
            raise DatasetError(
                f"'{self.name.text}': the split '{train}' is named for training and for the test"
            )
        chosen = {part: split for part, split in (("train", train), ("test", test)) if split is not None}
        if not chosen:
            raise self.name.choose("train", splits, "there is no split 'train'")
        return chosen

    def _image_column(self) -> str:
        features = self._features
        if "image" in self.name.options:
            return self._chosen("image")
        images: list[str] = [
            key for key, feature in features.items() if isinstance(feature, self._library.Image)
        ]
        # A table without the library's own notes: encoded images as they are, or next to their paths.
        images = images or [key for key, feature in features.items() if self._is_encoded(feature)]
        if len(images) != 1:
            what = "there are several columns of images" if images else "no column is known to hold images"
            raise self.name.choose("image", images or list(features), what)
        return images[0]

    def _is_encoded(self, feature: Any) -> bool:
        if isinstance(feature, dict):
            return set(feature) == {"bytes", "path"}
        return getattr(feature, "dtype", None) in ("binary", "large_binary")

    def _label_column(self) -> str:
        features = self._features
        if "label" in self.name.options:
            return self._chosen("label")
        found: list[str] = [
            key for key, feature in features.items() if isinstance(feature, self._library.ClassLabel)
        ]
        found = found or [key for key in features if key.lower() in _LABELS]
        if len(found) != 1:
            others = [key for key in features if key != self._column]
            what = "there are several columns of labels" if found else "no column is known to hold labels"
            raise self.name.choose("label", found or others, what)
        return found[0]

    def _chosen(self, option: str) -> str:
        """Returns the column that the user chose."""
        column = self.name.options[option]
        if column not in self._features:
            raise self.name.choose(option, list(self._features), f"there is no column '{column}'")
        return column

    def _rows(self, part: str, split: str) -> Rows:
        table, column, place = self._tables[part], self._column, f"the split '{split}' of '{self.name.place}'"
        if column not in table.features:
            raise DatasetError(f"{place} has no column '{column}' (it has {', '.join(table.features)})")
        table = table.select_columns([column])
        if isinstance(table.features[column], self._library.Image):
            table = table.cast_column(column, self._library.Image(decode=False))
        return Rows(table, column, place)
