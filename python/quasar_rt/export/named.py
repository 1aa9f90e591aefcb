"""Subnets whose classes are words: a head of text vectors behind the rows that make the embedding.

The head follows from the file's own embedding, so that other words need no calibration. Depends on: torch,
`quasar_rt.build`, `quasar_rt.engine`, `quasar_rt.networks`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from ..build import Affine, LinearSpec
from ..build.network import append_rows, head_tensors, projection_tensors
from ..engine import Engine
from ..errors import InvalidValueError
from ..images import ImageLike
from ..networks import load_network
from ..networks.words import Words, encode_words
from ..options import StrPath
from ..prediction import NO_EMBEDDING, named
from ..rows import unpack_rows
from ..subnet import Subnet

__all__ = ["attach", "export_named", "features_of", "headless", "rename"]

Float = NDArray[np.float64]
#: An embedding's range exceeds that of the pictures that it was measured on by this factor.
_MARGIN = 1.25


def export_named(
    model: StrPath,
    words: Iterable[str],
    calibration: Iterable[ImageLike] | Tensor,
    *,
    templates: Sequence[str] | None = None,
    image_size: int | tuple[int, int] | None = None,
    **options: Any,
) -> Subnet:
    """Quantizes a folder of CLIP or SigLIP to a subnet whose classes are words.

    Args:
        model: the folder, with both towers and the tokenizer.
        words: the classes' names.
        calibration: as `quasar_rt.export.export_timm` takes it.
        templates: as `quasar_rt.networks.words.encode_words` takes them.
        image_size: as `quasar_rt.networks.load_network` takes it.
        options: others of `quasar_rt.export.export_timm`.

    Raises:
        Those of `quasar_rt.networks.words.encode_words` and `quasar_rt.export.export_timm`.
    """
    from .post_training import export_timm

    encoded = encode_words(model, words, templates)
    network = load_network(model, image_size=image_size)
    return export_timm(network.model, calibration, words=encoded, **{"name": network.name, **options})


def headless(model: nn.Module, words: Words) -> nn.Module:
    """Returns an image tower without the projection that its folder keeps in a classifier's place.

    Raises:
        quasar_rt.InvalidValueError: it is no tower of the words' model.
    """
    embed, shared = words.rows.shape[1], words.vectors.shape[1]
    count = getattr(model, "num_classes", 0)
    if getattr(model, "embed_dim", None) != embed or count not in (0, shared):
        raise InvalidValueError(
            f"the words are of a model with {embed} features, and not of this network "
            f"({getattr(model, 'embed_dim', 0)} features, {count} classes)"
        )
    if not count:
        return model
    tower = copy.deepcopy(model)
    tower.head, tower.num_classes = nn.Identity(), 0
    return tower


def attach(subnet: Subnet, words: Words, features: Float | None = None) -> Subnet:
    """Gives a subnet the words' classes in the place of its own; the same words give the same bytes.

    Args:
        subnet: it has an embedding: the features of the image tower or, if it has words, of the shared space.
        words: the classes.
        features: of pictures, float [pictures, embed]: the embedding's real values. They are needed unless the subnet
            has words: their mean length goes into the logits.

    Raises:
        quasar_rt.InvalidValueError: it has no embedding, has words of another model, or another number of features.
    """
    config, tensors = subnet.config, subnet.tensors()
    if "embedding" not in config or config["pool"] == "token_pair":
        raise InvalidValueError(f"'{subnet.name}': {NO_EMBEDDING}")
    before = dict(config["provenance"]["words"]) if named(config) else {}
    if before and before.get("text") != words.record["text"]:
        raise InvalidValueError(
            f"'{subnet.name}' was named by another model than '{words.record['model']}': give its own folder"
        )
    made = _Embedding.read(config, tensors)
    vectors, size = words.vectors, len(made.offset)
    if size != (vectors if before else words.rows).shape[1]:
        raise InvalidValueError(
            f"'{subnet.name}' has embeddings of {size} values, and is no image tower of '{words.record['model']}'"
        )
    if not before:
        if features is None:
            raise InvalidValueError(
                f"'{subnet.name}' has no words yet: pictures are needed once, to measure its embedding's length "
                "(--calibration)"
            )
        if words.projection is not None:
            features = features @ words.projection.T
            made = made.projected(words.projection, features)
            config["embedding"] = made.entry
        lengths = np.linalg.norm(features, axis=1)
        norm = float(lengths.mean())
        before = {"norm": norm, "norm_deviation": float(lengths.std()) / norm, "images": len(lengths)}
    factor = words.scale / float(before["norm"])
    head = LinearSpec(
        factor * (vectors @ made.weight),
        factor * (vectors @ made.offset) + (words.bias or 0.0),
        np.full(len(vectors), 8, np.uint8),
    )
    rows, config["logit_scale"] = head_tensors({"head": head}, Affine(1.0))
    append_rows(rows, made.rows)
    config["classes"] = words.names
    config["provenance"]["words"] = before | words.record | {"scale": words.scale, "bias": words.bias}
    return Subnet.from_parts(config, tensors | rows)


def rename(subnet: Subnet, words: Words, calibration: Iterable[ImageLike] | None = None) -> Subnet:
    """Gives a subnet other words. One that has none yet, but the embedding, needs some pictures.

    Raises:
        quasar_rt.InvalidValueError: as for `attach`.
    """
    if calibration is None or named(subnet.config) or not subnet.has_embedding:
        return attach(subnet, words)
    with Engine(subnet, "cpu") as engine:
        return attach(subnet, words, features_of(engine, calibration))


def features_of(engine: Engine, images: Iterable[ImageLike]) -> Float:
    """Returns the real values of pictures' embeddings, float64 [pictures, embed]."""
    found = [one.embedding.values for one in engine.infer_batch(images) if one.embedding is not None]
    if not found:
        raise InvalidValueError("no picture was given to measure the embedding's length")
    return np.stack(found).astype(np.float64)


@dataclass(frozen=True)
class _Embedding:
    """A subnet's embedding as a function of the head's codes, ``weight @ codes + offset``, and its rows."""

    weight: Float
    offset: Float
    rows: dict[str, NDArray[Any]]
    entry: dict[str, Any]
    """Of the config."""

    @classmethod
    def read(cls, config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> _Embedding:
        entry, classes, columns = config["embedding"], len(config["classes"]), config["embed"]
        used = int(np.where(tensors["head.bits"][:classes] == 8, columns, -(-columns // 2)).sum())
        rows = {f"head.{part}": tensors[f"head.{part}"][classes:] for part in ("bits", "bias", "mult")}
        rows["head.weight"] = tensors["head.weight"][used:]
        scale, zero = entry["scale"], entry["scale"] * entry["zero_point"]
        if "projected" not in entry:
            return cls(scale * np.eye(columns), np.full(columns, -zero), rows, entry)
        codes = unpack_rows(rows["head.weight"], rows["head.bits"], columns)
        step = rows["head.mult"] * (scale / 2 ** (15 + entry["projected"]["shift"]))
        return cls(step[:, None] * codes, step * rows["head.bias"] - zero, rows, entry)

    def projected(self, projection: Float, values: Float) -> _Embedding:
        """Returns it with a matrix behind it, [values, embed]; `values` of pictures behind it give the codes' range."""
        weight = projection @ self.weight
        layer = LinearSpec(weight, projection @ self.offset, np.full(len(weight), 8, np.uint8))
        out = Affine.from_range(_MARGIN * float(values.min()), _MARGIN * float(values.max()))
        rows, entry = projection_tensors(layer, Affine(1.0), out)
        # What the rows make counts, not what they stand for.
        return self.read({"embedding": entry, "classes": [], "embed": weight.shape[1]}, rows)
