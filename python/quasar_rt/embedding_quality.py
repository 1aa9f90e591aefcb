"""Quality of a subnet's embeddings on labelled images, alone or next to the float network that it came from.

Depends on the engine and on `quasar_rt.evaluate`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .engine import Engine
from .errors import ImageError, InvalidValueError
from .evaluate import Estimate, bootstrap, decode, distances, wilson
from .images import ImageLike, preprocess
from .prediction import NO_EMBEDDING

__all__ = [
    "FOLDS",
    "NEIGHBOURS",
    "EmbeddingQuality",
    "Probes",
    "embedding_quality",
    "probes",
]

#: Neighbours that vote for an image's class, each with its cosine.
NEIGHBOURS = 5
#: Parts of the images for the linear probe: each part is classified by a probe that was fitted to the others.
FOLDS = 5
#: Ridge of the linear probe, as a share of the features' mean variance.
_RIDGE = 0.01
#: Images whose cosines to all others are computed at once.
_AT_ONCE = 1024

Float = NDArray[np.float32]
Labels = NDArray[np.int64]


class Probes(NamedTuple):
    """Share of images of which embeddings give the class, with Wilson's 95 % intervals."""

    neighbours: Estimate
    """By a vote of the `NEIGHBOURS` nearest other images."""
    linear: Estimate
    """By a linear classifier, fitted to the images of the other `FOLDS`."""


class EmbeddingQuality(NamedTuple):
    """A subnet's embeddings on labelled images; the last four are None without a float network."""

    images: int
    """Number of images."""
    unreadable: int
    """Number of images that could not be read; no other figure counts them."""
    found: Probes
    """The classes that the subnet's embeddings give."""
    expected: Probes | None = None
    """The classes that the float network's embeddings give."""
    cosine: Estimate | None = None
    """Mean cosine of an image's two embeddings, with an interval of a bootstrap over the images."""
    error: Estimate | None = None
    """``mean |subnet - float|``, divided by ``mean |float - its mean over the images|``; likewise."""
    same_nearest: Estimate | None = None
    """Share of images whose nearest other image is the same in both networks, with Wilson's interval."""


def embedding_quality(
    engine: Engine,
    labelled: Iterable[tuple[ImageLike, int]],
    network: Callable[[NDArray[np.uint8]], Float] | None = None,
    *,
    batch: int = 256,
    on_unreadable: Callable[[ImageError], None] | None = None,
) -> EmbeddingQuality:
    """Measures how well embeddings tell classes apart, and how near they are to the float network's.

    Args:
        engine: the engine of a subnet that gives embeddings.
        labelled: images (as ``Engine.infer`` takes them) with their class indices; read `batch` at a time.
        network: from preprocessed images, uint8 [images, height, width, channels], to embeddings, float32
            [images, embed]; `quasar_rt.export.reference_embeddings` makes one of a timm model. None to compare nothing.
        batch: number of images that are decoded and embedded at once.
        on_unreadable: called for each image that cannot be read; without it the first one raises.

    Raises:
        quasar_rt.ImageError: an image cannot be read and `on_unreadable` is None.
        quasar_rt.InvalidValueError: the subnet gives no embedding, fewer than two images could be used, or the network
            gives embeddings of another size.
    """
    config = engine.subnet.config
    if not engine.subnet.has_embedding:
        raise InvalidValueError(f"'{engine.subnet.name}': {NO_EMBEDDING}")
    size = tuple(config["image"][side] for side in ("height", "width", "channels"))
    unreadable, labels = 0, list[int]()
    found, real, exact = list[Float](), list[Float](), list[Float]()
    source = iter(labelled)
    while piece := list(islice(source, batch)):
        decoded = [(decode(image, on_unreadable), label) for image, label in piece]
        pixels = [image for image, _ in decoded if image is not None]
        unreadable += len(decoded) - len(pixels)
        labels += [label for image, label in decoded if image is not None]
        if not pixels:
            continue
        embeddings = [prediction.embedding for prediction in engine.infer_batch(pixels)]
        found += [embedding.vector for embedding in embeddings if embedding is not None]
        if network is not None:
            real += [embedding.values for embedding in embeddings if embedding is not None]
            seen = [preprocess(image, size, config["preprocess"]) for image in pixels]
            exact += list(network(np.stack(seen).reshape(-1, *size)))
    if len(labels) < 2:
        raise InvalidValueError(f"{len(labels)} images could be used; neighbours need two at least")
    vectors, truths = np.stack(found), np.array(labels, np.int64)
    own, nearest = probes(vectors, truths)
    if network is None:
        return EmbeddingQuality(len(labels), unreadable, own)
    if exact[0].shape != vectors[0].shape:
        raise InvalidValueError(
            f"the float network gives embeddings of {exact[0].shape[-1]} values, and the subnet of {vectors.shape[1]}: "
            "give the network that the subnet came from"
        )
    values, expected = np.stack(real), np.stack(exact)
    lengths = np.linalg.norm(expected, axis=1, keepdims=True)
    units = expected / np.maximum(lengths, 1e-30)
    theirs, float_nearest = probes(units, truths)
    distance, spread = distances(values, expected)
    cosine, error = bootstrap(
        np.vstack([(vectors * units).sum(axis=1), distance, spread]),
        lambda means: np.stack([means[..., 0], means[..., 1] / np.maximum(means[..., 2], 1e-30)], axis=-1),
    )
    same = wilson(int((nearest == float_nearest).sum()), len(labels))
    return EmbeddingQuality(len(labels), unreadable, own, theirs, cosine, error, same)


def probes(vectors: Float, labels: Labels) -> tuple[Probes, Labels]:
    """Classifies images by embeddings of length 1, [images, embed]; also returns each one's nearest other image."""
    classes, labels = np.unique(labels, return_inverse=True)
    right, nearest = 0, list[Labels]()
    for first in range(0, len(vectors), _AT_ONCE):
        cosines = vectors[first : first + _AT_ONCE] @ vectors.T
        rows = np.arange(len(cosines))
        cosines[rows, first + rows] = -np.inf
        order = np.argsort(-cosines, axis=1, kind="stable")[:, : min(NEIGHBOURS, len(vectors) - 1)]
        votes = np.zeros((len(rows), len(classes)))
        np.add.at(votes, (rows[:, None], labels[order]), np.take_along_axis(cosines, order, axis=1))
        right += int((votes.argmax(axis=1) == labels[first + rows]).sum())
        nearest.append(order[:, 0])
    linear = int((_by_ridge(vectors.astype(np.float64), labels, len(classes)) == labels).sum())
    return Probes(wilson(right, len(labels)), wilson(linear, len(labels))), np.concatenate(nearest)


def _by_ridge(vectors: NDArray[np.float64], labels: Labels, classes: int) -> Labels:
    """Returns the class that ridge regression to one value for each class gives every image, fold by fold."""
    # The images of a class take turns, so that every fold has its share of each class.
    folds = np.empty(len(labels), np.int64)
    folds[np.argsort(labels, kind="stable")] = np.arange(len(labels)) % FOLDS
    targets = np.eye(classes)[labels]
    found = np.zeros(len(labels), np.int64)
    for fold in range(FOLDS):
        known, asked = folds != fold, folds == fold
        if not known.any() or not asked.any():
            continue
        centre, level = vectors[known].mean(axis=0), targets[known].mean(axis=0)
        x = vectors[known] - centre
        gram = x.T @ x
        ridge = max(_RIDGE * np.trace(gram) / len(gram), 1e-12)
        weights = np.linalg.solve(gram + ridge * np.eye(len(gram)), x.T @ (targets[known] - level))
        found[asked] = ((vectors[asked] - centre) @ weights + level).argmax(axis=1)
    return found
