"""A network of a space in numbers, and as a subnet with random weights.

Depends on `quasar_rt.space` and `quasar_rt.build`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ..build import random_subnet
from ..space import Architecture, Space
from ..subnet import Subnet

__all__ = [
    "LinearShape",
    "eight_bit_share",
    "linear_layers",
    "nominal_macs",
    "untrained_subnet",
    "weight_bytes",
]


class LinearShape(NamedTuple):
    """A matrix, named as the subnet's layer is."""

    name: str
    rows: int
    columns: int
    rows8: int
    """Rows of 8 bits; the others have 4."""


def linear_layers(space: Space, architecture: Architecture) -> list[LinearShape]:
    """Returns all matrices in the order of a frame's path. Patch embedding and head are all 8-bit."""
    settings, embed = space.settings, architecture.embed
    pixels = settings["image"]["channels"] * settings["patch"]["kernel"] ** 2
    layers = [LinearShape("embed", embed, pixels, embed)]
    for i, block in enumerate(architecture.blocks):
        (*qkv, proj, fc1, fc2), (*qkv8, proj8, fc18, fc28) = block.rows(embed), block.eight_bit_rows(embed)
        layers += [
            LinearShape(f"blocks.{i}.qkv", sum(qkv), embed, sum(qkv8)),
            LinearShape(f"blocks.{i}.proj", proj, block.inner, proj8),
            LinearShape(f"blocks.{i}.fc1", fc1, embed, fc18),
            LinearShape(f"blocks.{i}.fc2", fc2, block.hidden, fc28),
        ]
    values = embed if space.embedding else 0
    return [*layers, LinearShape("head", settings["classes"] + values, embed, settings["classes"])]


def weight_bytes(space: Space, architecture: Architecture) -> int:
    """Returns the bytes of all packed weights (``Subnet.summary().weight_bytes``)."""
    return sum(
        layer.rows8 * layer.columns + (layer.rows - layer.rows8) * ((layer.columns + 1) // 2)
        for layer in linear_layers(space, architecture)
    )


def nominal_macs(space: Space, architecture: Architecture) -> int:
    """Returns the multiply-accumulates of a frame, all tokens in all layers (``Subnet.summary().nominal_macs``)."""
    tokens = {"embed": space.tokens - 1, "head": 1}
    products = sum(2 * space.tokens**2 * block.inner for block in architecture.blocks)
    return products + sum(
        tokens.get(layer.name, space.tokens) * layer.rows * layer.columns
        for layer in linear_layers(space, architecture)
    )


def eight_bit_share(architecture: Architecture) -> float:
    """Returns the share of the blocks' rows that have 8 bits."""
    eight = sum(sum(block.eight_bit_rows(architecture.embed)) for block in architecture.blocks)
    return eight / sum(sum(block.rows(architecture.embed)) for block in architecture.blocks)


def untrained_subnet(
    space: Space, architecture: Architecture, seed: int, name: str, provenance: Mapping[str, Any]
) -> Subnet:
    """Builds the network with seeded random weights, marked untrained: its speed is real, its answers mean nothing."""
    settings = space.settings
    image, patch, blocks = settings["image"], settings["patch"], architecture.blocks
    return random_subnet(
        embed=architecture.embed,
        depth=architecture.depth,
        heads=[block.heads for block in blocks],
        head_dim=[block.head_dim for block in blocks],
        hidden=[block.hidden for block in blocks],
        image_size=(image["height"], image["width"]),
        channels=image["channels"],
        kernel=patch["kernel"],
        stride=patch["stride"],
        pad=patch["pad"],
        classes=settings["classes"],
        embedding=space.embedding,
        eight_bit_fraction=[block.eight_bit for block in blocks],
        seed=seed,
        name=name,
        provenance=provenance,
    )
