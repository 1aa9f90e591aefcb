"""Search spaces: the family of networks that a supernet holds, and the genomes and architectures that name its members.

A space is a TOML file (``quasar_rt/spaces/*.toml`` are examples); it is parsed and checked in Rust
(``rust/search/src/space.rs``). Depends on the native module alone.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._native import Space as NativeSpace
from ._native import eight_bit_rows
from .errors import InvalidValueError
from .settings import SettingsFile, shipped_files

__all__ = ["MATRICES", "Architecture", "BlockShape", "Fractions", "Space", "eight_bit_rows", "space_names"]

#: The matrices of a block whose 8-bit fractions are chosen, in the order of a frame's path. The rows of queries, keys
#: and values, one matrix in a subnet's file (qkv), are counted apart.
MATRICES = ("q", "k", "v", "proj", "fc1", "fc2")

#: The fractions of a block's `MATRICES`.
Fractions: TypeAlias = tuple[float, float, float, float, float, float]


@dataclass(frozen=True)
class BlockShape:
    """One block: `hidden` are the rows of fc1, `eight_bit` the fractions of 8-bit rows of each of `MATRICES`."""

    heads: int
    head_dim: int
    hidden: int
    eight_bit: Fractions

    @property
    def inner(self) -> int:
        """Columns of q, of k, of v and of proj."""
        return self.heads * self.head_dim

    def rows(self, embed: int) -> tuple[int, int, int, int, int, int]:
        """Returns the rows of each of `MATRICES` in a network of this embedding size."""
        return self.inner, self.inner, self.inner, embed, self.hidden, embed

    def eight_bit_rows(self, embed: int) -> tuple[int, int, int, int, int, int]:
        """Returns the 8-bit rows of each of `MATRICES` in a network of this embedding size."""
        q, k, v, p, f, g = map(eight_bit_rows, self.rows(embed), self.eight_bit)
        return q, k, v, p, f, g


@dataclass(frozen=True)
class Architecture:
    """One network of a space: embedding size and blocks. Patch embedding and head are all 8-bit."""

    embed: int
    blocks: tuple[BlockShape, ...]

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    def to_dict(self) -> dict[str, Any]:
        """Returns the network as JSON takes it; `from_dict` reads it."""
        blocks = [{**dataclasses.asdict(block), "eight_bit": list(block.eight_bit)} for block in self.blocks]
        return {"embed": self.embed, "blocks": blocks}

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Architecture:
        """Reads what `to_dict` returned.

        Records from before q, k and v were counted apart have four fractions a block, of qkv, proj, fc1 and fc2: q, k
        and v then have qkv's fraction each.

        Raises:
            quasar_rt.InvalidValueError: a key is missing, unknown or of the wrong type.
        """
        try:
            blocks = []
            for block in table["blocks"]:
                block = dict(block)
                *qkv, p, f, g = map(float, block.pop("eight_bit"))
                q, k, v = qkv * 3 if len(qkv) == 1 else qkv
                sizes = {key: operator.index(value) for key, value in block.items()}
                blocks.append(BlockShape(**sizes, eight_bit=(q, k, v, p, f, g)))
            embed = operator.index(table["embed"])
            if unknown := set(table) - {"embed", "blocks"}:
                raise ValueError(f"unknown key {min(map(str, unknown))!r}")
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InvalidValueError(
                "an architecture is {'embed': n, 'blocks': [{'heads': n, 'head_dim': n, 'hidden': n, "
                f"'eight_bit': [the fractions of {', '.join(MATRICES)}]}}, ...]}}: {type(error).__name__}: {error}"
            ) from None
        return cls(embed, tuple(blocks))


class Space(SettingsFile[NativeSpace]):
    """A search space, immutable. A genome is uint8 [genes], one choice index for each of `genes`.

    >>> space = Space.load("digits")
    >>> len(space.genes), space.genes[2]
    (26, ('blocks.0.heads', 3))
    >>> space.decode(space.smallest).embed
    16
    """

    _made_by = "Space.load or Space.from_toml"
    _kind = "space"

    @classmethod
    def from_toml(cls, text: str) -> Space:
        """Reads the text of a space's file. Raises like `load`."""
        return cls._wrap(NativeSpace.from_toml(text))

    @property
    def sha256(self) -> str:
        """Digest (hex) of `to_toml`."""
        return self._inner.sha256()

    @property
    def name(self) -> str:
        """The space's name."""
        return str(self.settings["name"])

    @property
    def embedding(self) -> bool:
        """True if the networks also give the image's embedding (`Engine.embed`)."""
        return bool(self.settings.get("embedding", False))

    def with_embedding(self) -> Space:
        """Returns the space of the same networks, each of which also gives the image's embedding.

        Raises:
            quasar_rt.ConfigError: more classes than a head with an embedding may have.
        """
        return self if self.embedding else Space.from_toml("embedding = true\n" + self.to_toml())

    @property
    def genes(self) -> list[tuple[str, int]]:
        """Name and number of choices of each gene, in a genome's order."""
        return self._inner.genes()

    @property
    def size(self) -> float:
        """Number of different networks."""
        return self._inner.size()

    @property
    def tokens(self) -> int:
        """The class token and the patches of an image."""
        return self._inner.tokens()

    @property
    def largest(self) -> NDArray[np.uint8]:
        """The genome with the last choice everywhere."""
        return self._inner.largest()

    @property
    def smallest(self) -> NDArray[np.uint8]:
        """The genome with the first choice everywhere."""
        return self._inner.smallest()

    def decode(self, genome: ArrayLike) -> Architecture:
        """Returns the network that a genome names.

        Raises:
            quasar_rt.InvalidValueError: wrong length, or an index that its gene lacks.
        """
        embed, blocks = self._inner.decode(_genome(genome))
        return Architecture(embed, tuple(BlockShape(*block) for block in blocks))

    def encode(self, architecture: Architecture) -> NDArray[np.uint8]:
        """Returns the canonical genome of a network, uint8 [genes].

        Raises:
            quasar_rt.InvalidValueError: names what is not a choice of this space.
        """
        blocks = [(b.heads, b.head_dim, b.hidden, b.eight_bit) for b in architecture.blocks]
        return self._inner.encode(architecture.embed, blocks)

    def canonical(self, genome: ArrayLike) -> NDArray[np.uint8]:
        """Returns the genome with the genes of unused blocks set to 0. Raises like `decode`."""
        return self._inner.canonical(_genome(genome))

    def sample(self, seed: int, *stream: int) -> Architecture:
        """Samples a network, each gene uniformly: a pure function of its arguments, the same in every process."""
        return self.decode(self._inner.sample(seed, list(stream)))

    def __repr__(self) -> str:
        return f"<Space {self.name!r}: {len(self.genes)} genes, {self.size:.3g} networks>"


def space_names() -> list[str]:
    """Returns the names of the shipped spaces, sorted."""
    return list(shipped_files("spaces"))


def _genome(genome: ArrayLike) -> NDArray[np.uint8]:
    array = np.asarray(genome)
    if (
        array.ndim != 1
        or array.dtype.kind not in "iu"
        or (array.size and not 0 <= array.min() <= array.max() < 256)
    ):
        raise InvalidValueError(
            f"a genome is one row of choice indices 0 to 255, not {array.dtype} of shape {array.shape}"
        )
    return np.ascontiguousarray(array, np.uint8)
