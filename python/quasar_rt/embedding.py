"""Reads the embedding of a subnet's configuration. Depends on nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def embedding_size(config: Mapping[str, Any]) -> int:
    """Returns the number of the embedding's values in a subnet of this configuration; 0 without an embedding."""
    if "embedding" not in config:
        return 0
    return int(config["embedding"].get("projected", {}).get("values", config["embed"]))
