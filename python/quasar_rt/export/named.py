"""Subnets whose classes are words: a head of text vectors behind the rows that make the embedding.

The head follows from the file's own embedding, so that other words need no calibration. Depends on: torch,
`quasar_rt.build`, `quasar_rt.engine`, `quasar_rt.networks`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ..build import Affine, LinearSpec
from ..build.network import append_rows, head_tensors, projection_tensors
from ..engine import Engine
from ..errors import InvalidValueError
from ..images import ImageLike
from ..networks.words import Words
from ..prediction import NO_EMBEDDING, named
from ..rows import unpack_rows
from ..subnet import Subnet

__all__ = ["attach", "headless"]

Float = NDArray[np.float64]
#: An embedding's range exceeds that of the pictures that it was measured on by this factor.
_MARGIN = 1.25


def headless(model: nn.Module, words: Words) -> nn.Module:
    """Returns an image tower without the projection that its folder keeps in a classifier's place.

    Raises:
        quasar_rt.InvalidValueError: it is no tower of the words' model.
    """
    sizes = getattr(model, "embed_dim", 0), getattr(model, "num_classes", 0)
    if sizes[0] != words.rows.shape[1] or sizes[1] not in (0, words.vectors.shape[1]):
        raise InvalidValueError(
            f"this network ({sizes[0]} features, {sizes[1]} classes) is not of the words' model"
        )
    if sizes[1]:
        model = copy.deepcopy(model)
        model.head, model.num_classes = nn.Identity(), 0
    return model


def attach(subnet: Subnet, words: Words, pictures: Iterable[ImageLike] | None = None) -> Subnet:
    """Gives a subnet the words' classes in the place of its own; the same words give the same bytes.

    Args:
        subnet: it has an embedding: the image tower's features or, if it has words, those of the shared space.
        words: the classes.
        pictures: are needed unless the subnet has words: the mean length of their embeddings is in the logits.

    Raises:
        quasar_rt.InvalidValueError: it has no embedding, has words of another model, or another number of features.
    """
    config, tensors = subnet.config, subnet.tensors()
    if not subnet.has_embedding or config["pool"] == "token_pair":
        raise InvalidValueError(f"'{subnet.name}': {NO_EMBEDDING}")
    before = dict(config["provenance"]["words"]) if named(config) else {}
    made, vectors, folder = _Embedding.read(config, tensors), words.vectors, words.record["model"]
    if before.get("text", words.record["text"]) != words.record["text"]:
        raise InvalidValueError(
            f"'{subnet.name}' was named by another model than '{folder}': give its own folder"
        )
    if subnet.embedding_size != (vectors if before else words.rows).shape[1]:
        raise InvalidValueError(
            f"'{subnet.name}' is no image tower of '{folder}': its embeddings have another size"
        )
    if not before:
        with Engine(subnet, "cpu") as engine:
            found = [one.embedding.values for one in engine.infer_batch(pictures or []) if one.embedding]
        if not found:
            raise InvalidValueError(
                f"'{subnet.name}' has no words yet: pictures are needed once, to measure its embedding's length"
            )
        features = np.stack(found).astype(np.float64)
        if words.projection is not None:
            features = features @ words.projection.T
            made = made.projected(words.projection, _MARGIN * features)
        lengths = np.linalg.norm(features, axis=1)
        norm, deviation = float(lengths.mean()), float(lengths.std() / lengths.mean())
        before = {"norm": norm, "norm_deviation": deviation, "images": len(lengths)}
    rows = words.scale / before["norm"] * vectors
    bits = np.full(len(rows), 8, np.uint8)
    head = LinearSpec(rows @ made.weight, rows @ made.offset + (words.bias or 0.0), bits)
    new, config["logit_scale"] = head_tensors({"head": head}, Affine(1.0))
    append_rows(new, made.rows)
    config |= {"classes": words.names, "embedding": made.entry}
    config["provenance"]["words"] = before | words.record | {"scale": words.scale, "bias": words.bias}
    return Subnet.from_parts(config, tensors | new)


class _Embedding(NamedTuple):
    """A subnet's embedding of the head's codes, ``weight @ codes + offset``; its rows, and its entry of the config."""

    weight: Float
    offset: Float
    rows: dict[str, NDArray[Any]]
    entry: dict[str, Any]

    @classmethod
    def read(cls, config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> _Embedding:
        entry, classes, columns = config["embedding"], len(config["classes"]), config["embed"]
        used = int(np.where(tensors["head.bits"][:classes] == 8, columns, -(-columns // 2)).sum())
        rows = {f"head.{part}": tensors[f"head.{part}"][classes:] for part in ("bits", "bias", "mult")}
        rows["head.weight"] = tensors["head.weight"][used:]
        zero = entry["scale"] * entry["zero_point"]
        if "projected" not in entry:
            return cls(entry["scale"] * np.eye(columns), np.full(columns, -zero), rows, entry)
        codes = unpack_rows(rows["head.weight"], rows["head.bits"], columns)
        step = rows["head.mult"] * (entry["scale"] / 2 ** (15 + entry["projected"]["shift"]))
        return cls(step[:, None] * codes, step * rows["head.bias"] - zero, rows, entry)

    def projected(self, projection: Float, values: Float) -> _Embedding:
        """Returns it with a matrix [values, embed] behind it; `values` behind it give the range of the codes."""
        weight, bits = projection @ self.weight, np.full(len(projection), 8, np.uint8)
        layer, out = (
            LinearSpec(weight, projection @ self.offset, bits),
            Affine.from_range(values.min(), values.max()),
        )
        rows, entry = projection_tensors(layer, Affine(1.0), out)
        # What the rows make counts, not what they stand for.
        return self.read({"embedding": entry, "classes": [], "embed": weight.shape[1]}, rows)
