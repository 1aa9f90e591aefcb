"""Corrects a subnet's outputs by a ridge regression behind the last norm, on pictures without labels.

A quantized network's features differ from the float network's by more than noise: a part of the difference follows from
the features themselves. So the rows that read the features, those of a classifier's head or of an embedding, are fitted
anew to the float network's outputs. This costs nothing at run time, except that the rows of an embedding, which repeat
the features otherwise, get 8 bits. `held_out` chooses the pictures that judge. Depends on: torch, `quasar_rt.build`,
`quasar_rt.engine`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ..build import Affine, LinearSpec, NetworkSpec, build_subnet
from ..engine import Engine
from ..evaluate import distances
from ..prediction import Prediction
from .float_vit import Linear, ViT, forward, unprobed
from .gptq import Observed, gptq_rows
from .held_out import HeldOut
from .inputs import normalised, pixels_of
from .team import Team

__all__ = ["Correction", "can_correct", "correct", "features", "measured"]

#: Fewer pictures correct nothing.
LEAST_IMAGES = 128
#: Ridges towards the rows as they were, as shares of the mean of the features' variances.
RIDGES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003)

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Correction:
    """Reports the correction of the logits or of the embedding: **measured** on held-out pictures by the engine.

    Errors are relative (`quasar_rt.evaluate.distances`): that of the image's outputs and, if there are, its patches'.
    """

    outputs: str
    ridge: float
    images: int
    held_out: int
    groups: int
    held_out_groups: int
    error_before: list[float]
    error_after: list[float]
    standard_error: float
    """Of the first error's fall, over the groups that are held out."""

    @property
    def kept(self) -> bool:
        """True if every error falls, and the image's by more than the standard error of its fall."""
        falls = [a - b for a, b in zip(self.error_before, self.error_after, strict=True)]
        return min(falls) > 0 and falls[0] > self.standard_error

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields for JSON."""
        return {**asdict(self), "smallest_ridge": self.ridge == RIDGES[-1], "kept": self.kept}


def can_correct(net: ViT, batches: Sequence[Tensor]) -> bool:
    """Returns True if there are enough pictures, and not two tokens whose heads make one result."""
    return sum(map(len, batches)) >= LEAST_IMAGES and net.pool != "token_pair"


def correct(
    spec: NetworkSpec,
    net: ViT,
    calibrated: ViT,
    batches: Sequence[Tensor],
    exact: Sequence[Tensor],
    held: HeldOut,
) -> tuple[NetworkSpec, list[Correction]]:
    """Fits the rows that read a quantized network's features; keeps them where held-out pictures gain.

    Args:
        spec: the quantized network.
        net: the float network.
        calibrated: the network that was quantized, on none that is held out; its features may have another basis.
        batches: normalised pictures [images, channels, height, width].
        exact: the float network's `features` of them.
        held: the pictures that are held out.

    Returns:
        the network and a report of each kind of outputs. Rows that gain are fitted again to all pictures, with the same
        ridge. The same arguments give the same bits, whatever the number of threads.
    """
    with torch.no_grad():
        return _Run(spec, net, calibrated, batches, exact, held).result()


def features(net: ViT, batches: Sequence[Tensor], mean: Any, std: Any) -> list[Tensor]:
    """Returns the float network's features of the pixels that are nearest to normalised pictures.

    Those of the image stand before those of its patches: [images, tokens, embed] of each batch.
    """
    embed = len(net.norm.gamma)
    headless = replace(net, head=Linear(torch.zeros(0, embed), torch.zeros(0)))

    def of_batch(batch: Tensor) -> Tensor:
        found = forward(headless, normalised(pixels_of(batch, mean, std), mean, std), unprobed)
        if not net.patch_tokens:
            return found[:, None]
        return found if net.pool == "token" else torch.cat([found.mean(1, True), found], dim=1)

    with Team() as team, torch.no_grad():
        return list(team.map(of_batch, batches))


def measured(spec: NetworkSpec, net: ViT, pixels: Pixels, exact: Tensor) -> float:
    """Returns the mean of the relative errors of a network's kinds of outputs.

    Args:
        spec: the quantized network.
        net: the float network.
        pixels: uint8 [images, height, width, channels].
        exact: the float network's `features` of them.
    """
    layers = {"logits": net.head} if spec.classes else {}
    layers |= {"embedding": _identity(len(net.norm.gamma))} if spec.embedding else {}
    with _engine(spec) as engine, torch.no_grad():
        found = {name: _outputs(engine, pixels, name) for name in layers}
    errors = [_relative(found[name], _through(layer, exact))[0] for name, layer in layers.items()]
    return sum(errors) / len(errors)


class _Run:
    """Holds the moments of the features and of what the float network gives, by kind of outputs."""

    def __init__(
        self,
        spec: NetworkSpec,
        net: ViT,
        calibrated: ViT,
        batches: Sequence[Tensor],
        exact: Sequence[Tensor],
        held: HeldOut,
    ) -> None:
        self.held_out, self.which = held, torch.from_numpy(held.which)
        self.spec, identity = spec, _identity(len(net.norm.gamma))
        before = {"logits": calibrated.head, "embedding": calibrated.projection or identity}
        self.exact = {"logits": net.head, "embedding": identity}
        if not spec.embedding:
            del before["embedding"]
        if not spec.classes:
            del before["logits"]
        # Of the pictures that rows are fitted to, and of those that are held out.
        self.fitted, self.others = ({name: Observed(one) for name, one in before.items()} for _ in range(2))
        self.held: list[tuple[Pixels, Tensor]] = []
        self.images, self.low, self.high = 0, 0.0, 0.0
        unprojected = replace(spec, embedding=True, projection=None, projection_out=None)
        with _engine(unprojected) as engine:
            for batch, values in zip(batches, exact, strict=True):
                pixels = pixels_of(batch, spec.mean, spec.std)
                self._observe(pixels, _outputs(engine, pixels, "embedding"), values)

    def _observe(self, pixels: Pixels, found: Tensor, exact: Tensor) -> None:
        held = self.which[self.images : self.images + len(pixels)]
        self.images += len(pixels)
        self.low, self.high = min(self.low, float(exact.min())), max(self.high, float(exact.max()))
        if held.any():
            self.held.append((pixels[held.numpy()], exact[held]))
        for seen, which in ((self.fitted, ~held), (self.others, held)):
            x, y = (_image_weighs_as_its_patches(values[which]) for values in (found, exact))
            for name, observed in seen.items():
                observed.add(x, _through(self.exact[name], y))

    def result(self) -> tuple[NetworkSpec, list[Correction]]:
        """Returns the network with the rows that are kept, and the reports."""
        ridges = {name: self._best_ridge(name) for name in self.fitted}
        corrected = self.spec
        for name, ridge in ridges.items():
            corrected = self._with_rows(corrected, name, ridge)
        before, after = self._found(self.spec), self._found(corrected)
        reports = []
        for name, ridge in ridges.items():
            exact = _through(self.exact[name], torch.cat([values for _, values in self.held]))
            reports.append(
                Correction(
                    outputs=name,
                    ridge=ridge,
                    images=self.images,
                    **self.held_out.as_dict(),
                    error_before=_relative(before[name], exact),
                    error_after=_relative(after[name], exact),
                    standard_error=self._standard_error(before[name], after[name], exact),
                )
            )
        kept = self.spec
        for one in reports:
            if one.kept:
                self.fitted[one.outputs].merge(self.others[one.outputs])
                kept = self._with_rows(kept, one.outputs, one.ridge)
        return kept, reports

    def _best_ridge(self, name: str) -> float:
        fitted, others = self.fitted[name], self.others[name]
        covariance = fitted.covariance()

        def error(ridge: float) -> float:
            weight = fitted.target(covariance, ridge)
            return float(others.errors(weight, fitted.bias(weight)).sum())

        return min(RIDGES, key=error)

    def _with_rows(self, spec: NetworkSpec, name: str, ridge: float) -> NetworkSpec:
        """Returns the network with fitted rows of 8 bits."""
        seen = self.fitted[name]
        covariance = seen.covariance()
        rows = gptq_rows(seen.target(covariance, ridge), covariance, 8)
        bits = np.full(len(rows.codes), 8, np.uint8)
        layer = LinearSpec(rows.weight.numpy(), seen.bias(rows.weight).numpy(), bits, rows.scales.numpy())
        if name == "logits":
            return replace(spec, head=layer)
        return replace(spec, projection=layer, projection_out=Affine.from_range(self.low, self.high))

    def _found(self, spec: NetworkSpec) -> dict[str, Tensor]:
        """Returns the outputs of the held-out pictures."""
        with _engine(spec) as engine:
            return {
                name: torch.cat([_outputs(engine, pixels, name) for pixels, _ in self.held])
                for name in self.fitted
            }

    def _standard_error(self, before: Tensor, after: Tensor, exact: Tensor) -> float:
        """Returns the standard error of the fall of the images' relative error, over the groups of pictures."""
        (first, spread), (second, _) = (
            distances(found[:, 0].numpy(), exact[:, 0].numpy()) for found in (before, after)
        )
        sums = np.bincount(self.held_out.group[self.held_out.which], first - second)
        sums = sums[np.unique(self.held_out.group[self.held_out.which])]
        return (
            float(sums.std(ddof=1) * len(sums) ** 0.5 / max(spread.sum(), 1e-30))
            if len(sums) > 1
            else math.inf
        )


def _identity(size: int) -> Linear:
    return Linear(torch.eye(size), torch.zeros(size))


def _through(layer: Linear, x: Tensor) -> Tensor:
    return F.linear(x, layer.weight, layer.bias)


def _engine(spec: NetworkSpec) -> Engine:
    """Returns an engine that takes pictures as they are."""
    return Engine(build_subnet(replace(spec, preprocess={"resize": {"mode": "none"}})))


def _outputs(engine: Engine, pixels: Pixels, name: str) -> Tensor:
    """Returns the outputs of pictures, those of the image before those of its patches: [images, tokens, values]."""

    def outputs(one: Prediction) -> Floats:
        if name == "logits":
            parts = [one.logits, one.patch_logits]
        else:
            parts = [None if e is None else e.values for e in (one.embedding, one.patch_embedding)]
        found = [part for part in parts if part is not None]
        return np.vstack([part.reshape(-1, found[0].size) for part in found])

    return torch.from_numpy(np.stack([outputs(one) for one in engine.infer_batch(pixels)]))


def _image_weighs_as_its_patches(x: Tensor) -> Tensor:
    """Returns tokens in which the first one is as often as all others together."""
    return torch.cat([x[:, :1].expand(-1, max(x.shape[1] - 1, 1), -1), x[:, 1:]], dim=1)


def _relative(found: Tensor, exact: Tensor) -> list[float]:
    """Returns the relative errors of tokens [images, tokens, values]: of the image's, and of the patches' if any."""
    errors = []
    for part in (slice(0, 1), slice(1, None))[: 1 + (found.shape[1] > 1)]:
        distance, spread = distances(*(x[:, part].flatten(0, 1).numpy() for x in (found, exact)))
        errors.append(float(distance.mean() / max(spread.mean(), 1e-30)))
    return errors
