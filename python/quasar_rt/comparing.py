"""Pictures by their embeddings: an index in a file, and maps of the patches that differ from those of sound pictures.

Depends on NumPy and Pillow; on pyarrow for an index in Parquet.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .errors import FileError
from .files import open_regular, reason, replacing

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .arrays import Pixels

__all__ = ["Index", "heat_of", "overlaid"]

#: Tokens of the bank at once.
_AT_ONCE = 8192
#: A scale of colours from low to high heat, RGB.
_COLOURS = np.array([(24, 16, 96), (176, 40, 120), (255, 130, 40), (255, 250, 150)], np.float64)
_MARK = "quasar-rt index "


class Index(NamedTuple):
    """The names of pictures, their unit vectors, float32 [pictures, embed], and the subnet: its path and its digest."""

    names: Sequence[str]
    vectors: NDArray[np.float32]
    subnet: str
    sha256: str

    def save(self, path: Path) -> None:
        """Writes ``.parquet`` or, with any other ending, NumPy's ``.npz``; the errors are those of `replacing`.

        Raises:
            ImportError: pyarrow is missing.
        """
        made = _MARK + json.dumps({"subnet": self.subnet, "sha256": self.sha256})
        # Names of files in other encodings cannot be text in UTF-8.
        names = [name.encode("utf-8", "backslashreplace").decode() for name in self.names]
        if path.suffix != ".parquet":
            with replacing(path) as file:
                np.savez(file, quasar_rt_index=np.array(made), names=np.array(names), vectors=self.vectors)
            return
        import pyarrow as pa
        from pyarrow import parquet

        rows = pa.FixedSizeListArray.from_arrays(pa.array(self.vectors.ravel()), self.vectors.shape[1])
        table = pa.table({"quasar_rt_index": [made] * len(names), "names": names, "vectors": rows})
        with replacing(path) as file:
            parquet.write_table(table, file, compression="none")

    @classmethod
    def load(cls, path: Path) -> Index:
        """Reads what `save` wrote.

        Raises:
            quasar_rt.FileError: it cannot be read, or is no index.
        """
        try:
            with open_regular(path) as file:
                if path.suffix == ".parquet":
                    from pyarrow import parquet

                    table = parquet.read_table(file)
                    made, names = str(table["quasar_rt_index"][0]), [str(name) for name in table["names"]]
                    vectors = np.stack(table["vectors"].to_numpy())
                else:
                    with np.load(file, allow_pickle=False) as found:
                        made, names = str(found["quasar_rt_index"]), found["names"].tolist()
                        vectors = found["vectors"]
            about = json.loads(made.removeprefix(_MARK))
            if vectors.dtype != np.float32 or vectors.ndim != 2 or len(vectors) != len(names):
                raise ValueError("its vectors do not fit its names")
            return cls(names, vectors, str(about["subnet"]), str(about["sha256"]))
        # NumPy and pyarrow raise nearly anything on a damaged file.
        except Exception as error:
            raise FileError(f"'{path}' is no index that can be read: {reason(error)}") from error


def heat_of(tokens: NDArray[np.float32], bank: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns each patch's distance to the nearest token of the bank, float32 [rows, columns] (PatchCore, 2106.08265).

    Args:
        tokens: float32 [rows, columns, embed].
        bank: float32 [tokens, embed].
    """
    flat = tokens.reshape(-1, tokens.shape[-1])
    parts = (bank[first : first + _AT_ONCE] for first in range(0, len(bank), _AT_ONCE))
    nearest = np.min([((part**2).sum(1) - 2 * flat @ part.T).min(1) for part in parts], axis=0)
    heat: NDArray[np.float32] = np.sqrt((nearest + (flat**2).sum(1)).clip(0))
    return heat.reshape(tokens.shape[:2])


def overlaid(pixels: Pixels, heat: NDArray[np.float32], most: float) -> Pixels:
    """Returns a picture, uint8 [height, width, 3], under its heat, above the scale of colours from 0 to `most`."""
    from PIL import Image

    height, width = pixels.shape[:2]
    smooth = Image.fromarray(heat / max(most, 1e-30)).resize((width, height))
    picture = 0.45 * pixels.mean(axis=2, keepdims=True) + 0.55 * _coloured(np.asarray(smooth))
    scale = np.broadcast_to(_coloured(np.linspace(0, 1, width)), (max(2, height // 16), width, 3))
    return np.concatenate([picture, scale]).astype(np.uint8)


def _coloured(shares: NDArray[np.floating]) -> NDArray[np.float64]:
    places = np.linspace(0, 1, len(_COLOURS))
    return np.stack([np.interp(shares, places, channel) for channel in _COLOURS.T], axis=-1)
