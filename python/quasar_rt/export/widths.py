"""The choice of the 8-bit rows of a network, over all its matrices at once.

The array multiplies rows in pairs: two 4-bit rows or one 8-bit row take one slot. A product of a matrix takes all its
slots together, so the rows of a product share one order of worth: those of proj, fc1 and fc2 each, and in qkv those of
values and those of queries and keys (in a last block that reads few tokens, keys and values and queries).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .float_vit import ViT

__all__ = ["Product", "products_of", "widths_of_share"]


@dataclass(frozen=True)
class Product:
    """Rows of a matrix that the array multiplies together."""

    matrix: str
    """The matrix's name."""
    rows: NDArray[np.intp]
    """Indices of the rows in the matrix, by falling worth of 8 bits."""
    worth: NDArray[np.float64]
    """float64 [rows], falling."""
    columns: int

    def gains(self) -> NDArray[np.float64]:
        """Returns the worth of the first n rows for n from 0 to their number: float64 [rows + 1]."""
        return np.concatenate([[0.0], np.cumsum(self.worth)])


def products_of(net: ViT, worth: Mapping[str, NDArray[np.float64]]) -> list[list[Product]]:
    """Returns the products of each block: queries and keys, values, proj, fc1, fc2.

    Args:
        net: the network.
        worth: of 8 bits for each row, by the matrix's name (`measure_worth`).
    """

    def product(matrix: str, rows: NDArray[np.intp], columns: int) -> Product:
        scores = np.maximum(worth[matrix][rows], 0.0)
        order = np.argsort(-scores, kind="stable")
        return Product(matrix, rows[order], scores[order], columns)

    found = []
    for i, block in enumerate(net.blocks):
        query, key, value = np.split(np.arange(len(block.qkv.weight)), 3)
        few_tokens = net.pool in ("token", "token_pair", "attention") and not net.patch_tokens
        if few_tokens and i + 1 == len(net.blocks):
            runs = [np.concatenate([key, value]), query]
        else:
            runs = [np.concatenate([query, key]), value]
        name, columns = f"blocks.{i}.qkv", block.qkv.weight.shape[1]
        if block.turns is not None:  # both rows of a pair that is rotated have one width
            pairs = worth[name].reshape(-1, 2).mean(axis=1)
            worth = {**worth, name: pairs.repeat(2)}
        products = [product(name, run, columns) for run in runs]
        for matrix, layer in (("proj", block.proj), ("fc1", block.fc1), ("fc2", block.fc2)):
            rows, columns = layer.weight.shape
            products.append(product(f"blocks.{i}.{matrix}", np.arange(rows), columns))
        found.append(products)
    return found


def widths_of(products: Sequence[Product], eight_bit: Sequence[int]) -> dict[str, NDArray[np.uint8]]:
    """Returns the width of each row, uint8 [rows] by the matrix's name: 8 for the first rows of each product."""
    sizes: dict[str, int] = {}
    for product in products:
        sizes[product.matrix] = sizes.get(product.matrix, 0) + len(product.rows)
    bits = {matrix: np.full(size, 4, np.uint8) for matrix, size in sizes.items()}
    for product, chosen in zip(products, eight_bit, strict=True):
        bits[product.matrix][product.rows[:chosen]] = 8
    return bits


def widths_of_share(
    net: ViT, worth: Mapping[str, NDArray[np.float64]], share: float
) -> dict[str, NDArray[np.uint8]]:
    """Returns widths of which about this share of the blocks' weights has 8 bits (`counts_of_share`)."""
    products = [product for block in products_of(net, worth) for product in block]
    return widths_of(products, counts_of_share(products, share))


def counts_of_share(products: Sequence[Product], share: float) -> list[int]:
    """Returns the 8-bit rows of each product for a share of the weights: the rows of most worth for a weight.

    Rows get 8 bits two at a time, so that no slot of the array stays half empty.
    """
    gains, weights, owner = [], [], []
    for i, product in enumerate(products):
        pairs = np.add.reduceat(product.worth, np.arange(0, len(product.worth), 2))
        gains.append(pairs / product.columns)
        weights.append(np.full(len(pairs), 2 * product.columns))
        owner.append(np.full(len(pairs), i))
    order = np.argsort(-np.concatenate(gains), kind="stable")
    total = np.cumsum(np.concatenate(weights)[order])
    taken = order[: int(np.searchsorted(total, share * total[-1], side="right"))]
    pairs_of = np.bincount(np.concatenate(owner)[taken], minlength=len(products))
    return [min(2 * int(n), len(p.rows)) for n, p in zip(pairs_of, products, strict=True)]
