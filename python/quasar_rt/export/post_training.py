"""Post-training quantization: a timm ``VisionTransformer`` becomes a subnet."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count
from typing import Any, TypeAlias, get_args

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..build import NetworkSpec, build_subnet
from ..images import ImageLike
from ..networks import load_network
from ..networks.words import Words, encode_words
from ..options import StrPath, takes
from ..quantization import ExportOptions, LayerReport, Method, Progress, QuantizationOptions, Tokens
from ..subnet import Subnet
from . import correction, rotation
from .float_vit import ViT, forward
from .held_out import LEAST_GROUPS, HeldOut, folder_of, hold_out
from .inputs import calibration_batches, pixels_of, preprocessing_of
from .layerwise import Quantized, Worth, norm_spec
from .named import attach, headless
from .network import Calibrated, calibrate, measure_worth
from .team import MEMBERS, Team
from .timm_reader import read, require
from .widths import widths_of_share

__all__ = ["Prepared", "calibration_apart", "export_named", "export_timm", "prepare"]

#: Stages of a calibration: channels, gradients and ranges.
CALIBRATION_STAGES = 3
#: At most so many images calibrate.
MOST_CALIBRATING = 128
#: With fewer images no rotation is tried.
LEAST_TRIED = 32


#: A calibrated network, its quantized parts, and the errors of its matrices.
Made: TypeAlias = tuple[Calibrated, Quantized, list[LayerReport]]


@takes(ExportOptions)
def export_timm(options: ExportOptions) -> Subnet:
    """Quantizes a timm ``VisionTransformer`` after training.

    Returns:
        A subnet marked as trained, its recipe in ``provenance``.

    Raises:
        UnsupportedModelError: names the part of the model that the integer model lacks.
        ValueError: calibration data or options of the wrong kind.
        quasar_rt.QuasarError: images that cannot be read or do not differ, weights that are not finite, shapes beyond
            the integer model's limits.
    """
    eight_bit_fraction, method = options.eight_bit_fraction, options.method
    if not 0 <= eight_bit_fraction <= 1:
        raise ValueError(f"eight_bit_fraction must be in [0, 1], not {eight_bit_fraction}")
    if method not in get_args(Method):
        raise ValueError(f"method must be one of {', '.join(get_args(Method))}, not {method!r}")
    chosen = eight_bit_fraction not in (0, 1)
    done = count(1)

    def step(what: str) -> None:
        if options.progress is not None:
            options.progress(what, next(done), prepared.stages(1 + chosen, 1, eight_bit_fraction == 1))

    prepared = prepare(options.model, options.calibration, options)
    calibrated, parts, layers = prepared.quantized(step, eight_bit_fraction, method)
    for layer in layers:
        if options.report is not None:
            options.report(layer)
    recorded = {"eight_bit_fraction": eight_bit_fraction, "method": method}
    return prepared.subnet(calibrated, parts, recorded, step)


def export_named(
    model: StrPath,
    words: Iterable[str],
    calibration: Iterable[ImageLike] | Tensor,
    *,
    templates: Sequence[str] | None = None,
    image_size: int | tuple[int, int] | None = None,
    **options: Any,
) -> Subnet:
    """Quantizes a folder of CLIP or SigLIP to a subnet whose classes are words, and which gives embeddings, too.

    Args:
        model: the folder, with both towers and the tokenizer.
        words: the classes' names.
        calibration: as `quasar_rt.export.export_timm` takes it, and so are the options that are not named here.
        templates: as `quasar_rt.networks.words.encode_words` takes them.
        image_size: as `quasar_rt.networks.load_network` takes it.

    Raises:
        Those of `quasar_rt.networks.words.encode_words` and `quasar_rt.export.export_timm`.
    """
    encoded = encode_words(model, words, templates)
    network = load_network(model, image_size=image_size)
    return export_timm(network.model, calibration, words=encoded, **{"name": network.name, **options})


@dataclass(frozen=True)
class Prepared:
    """A float network that was read, with its calibration images and the description that its subnets get."""

    net: ViT
    batches: list[Tensor]
    """Normalised calibration images [images, channels, height, width]."""
    name: str
    architecture: str | None
    classes: list[str]
    preprocessing: dict[str, Any]
    mean: list[float]
    std: list[float]
    percentile: float | None
    equalize: bool
    rotate: bool | None
    embedding: bool
    correct: bool
    words: Words | None
    folders: list[str]
    """Of each image (`folder_of`)."""

    def stages(self, passes: int, subnets: int, all_eight: bool = False) -> int:
        """Returns the stages of a calibration, of passes over all matrices, and of what each subnet gets then."""
        blocks, heads = len(self.net.blocks), len(self.net.heads()) * bool(self.classes)
        heads += self._may_rotate_back(all_eight)
        runs = 1 + self.tries * (1 if self.corrects else 2)
        return runs * (CALIBRATION_STAGES + passes * (1 + 4 * blocks + heads)) + subnets * self.corrects

    def normalised(self, images: Sequence[ImageLike], at_once: int = 8) -> list[Tensor]:
        """Returns images as the float network takes them: the pixels are those that a subnet gets."""
        return calibration_batches(images, self.net, self.preprocessing, self.mean, self.std, at_once)

    @property
    def _may_correct(self) -> bool:
        return self.correct and correction.can_correct(self.net, self.batches)

    @cached_property
    def _exact(self) -> list[Tensor]:
        """The float network's features of the calibration images, found once for all subnets."""
        return correction.features(self.net, self.batches, self.mean, self.std)

    @cached_property
    def _held(self) -> HeldOut:
        with Team():
            return hold_out(torch.cat([values[:, 0] for values in self._exact]), self.folders)

    @property
    def corrects(self) -> bool:
        """True if the outputs are corrected where that gains."""
        return self._may_correct and self._held.enough

    def projects(self, all_eight: bool) -> bool:
        """Returns True if the embedding may be a projection: corrected, or rotated back."""
        return self.embedding and (self._may_correct or self._may_rotate_back(all_eight))

    @property
    def _images(self) -> int:
        return sum(map(len, self.batches))

    def _may_rotate_back(self, all_eight: bool) -> bool:
        obstacle = rotation.stream_obstacle(self.net, self.embedding)
        may = self.rotate is None and self._images >= LEAST_TRIED
        turns = (may or self._rotates_untried(all_eight)) and obstacle is None
        return self.embedding and turns and not self.net.blocks[-1].pools

    def _rotates_untried(self, all_eight: bool) -> bool:
        return all_eight and not self.classes if self.rotate is None else self.rotate

    @property
    def tries(self) -> bool:
        """True if it is tried whether a rotation gains."""
        return self.rotate is None and self._images >= LEAST_TRIED and self._held.enough

    def calibrate(self, on_stage: Callable[[str], object], share: float) -> Calibrated:
        """Calibrates a copy of the network as `quantized` does, for subnets of other widths."""
        rotates, tried, found = self._choice(on_stage, share, "gptq")
        calibrated = found[0] if found else self._calibrated(rotates, not self.corrects, share, on_stage)
        return replace(calibrated, tried=tried)

    def quantized(self, on_stage: Callable[[str], object], share: float, method: Method = "gptq") -> Made:
        """Calibrates a copy of the network, and quantizes it with 8 bits for a share of the blocks' weights.

        It is rotated first where that was asked for. By default it is quantized both with and without a rotation, and
        what has the lesser error on images that are held out is taken.
        """
        rotates, tried, found = self._choice(on_stage, share, method)
        found = found or self._quantized(rotates, not self.corrects, on_stage, share, method)
        return replace(found[0], tried=tried), *found[1:]

    def _choice(
        self, on_stage: Callable[[str], object], share: float, method: Method
    ) -> tuple[bool, dict[str, float], Made | None]:
        """Returns whether to rotate, the figures that say so, and the network if held-out images stay held out."""
        if not self.tries:
            return self._rotates_untried(share == 1), {}, None
        both = [self._quantized(rotates, False, on_stage, share, method) for rotates in (False, True)]
        held = self._held.which
        pixels = pixels_of(torch.cat(self.batches)[held], self.mean, self.std)
        exact = torch.cat(self._exact)[held]
        plain, rotated = (
            correction.measured(self._spec(calibrated, parts, {}), self.net, pixels, exact)
            for calibrated, parts, _ in both
        )
        rotates = rotated < plain
        tried = {"error": plain, "error_rotated": rotated, **self._held.as_dict()}
        return rotates, tried, both[rotates] if self.corrects else None

    def _quantized(
        self, rotates: bool, every: bool, on_stage: Callable[[str], object], share: float, method: Method
    ) -> Made:
        calibrated, layers = self._calibrated(rotates, every, share, on_stage), []

        def on_layer(layer: LayerReport) -> None:
            layers.append(layer)
            on_stage(layer.name)

        def widths(name: str, rows: int, _worth: Worth) -> NDArray[np.uint8]:
            return np.full(rows, 8 if share else 4, np.uint8) if share in (0, 1) else bits[name]

        if share not in (0, 1):
            worth = measure_worth(calibrated, method, lambda layer: on_stage(layer.name))
            bits = widths_of_share(self.net, worth, share)
        return calibrated, calibrated.quantize(widths, method, on_layer), layers

    def _calibrated(
        self, rotates: bool, every: bool, share: float, on_stage: Callable[[str], object]
    ) -> Calibrated:
        """Calibrates a copy of the network on images at equal distances: of every one, or of those not held out."""
        numbers = np.arange(self._images) if every else np.flatnonzero(~self._held.which)
        at = np.linspace(0, len(numbers) - 1, min(len(numbers), MOST_CALIBRATING))
        images = torch.from_numpy(numbers[np.round(at).astype(np.intp)])
        net = copy.deepcopy(self.net)
        rotated = rotation.rotate(net, self.embedding) if rotates else "nothing"
        return calibrate(
            net,
            list(torch.cat(self.batches)[images].split(len(self.batches[0]))),
            std=self.std,
            all_eight=share == 1,
            equalize=self.equalize,
            percentile=self.percentile,
            rotated=rotated,
            on_stage=on_stage,
        )

    def subnet(
        self,
        calibrated: Calibrated,
        parts: Quantized,
        provenance: Mapping[str, Any],
        on_stage: Callable[[str], object],
    ) -> Subnet:
        """Builds the subnet of the quantized parts of a calibrated copy; corrects its outputs where that gains."""
        recorded = dict(provenance)
        spec = self._spec(calibrated, parts, recorded)
        if self.corrects:
            spec, corrections = correction.correct(
                spec, self.net, calibrated.net, self.batches, self._exact, self._held
            )
            recorded["corrections"] = [one.as_dict() for one in corrections]
            on_stage("correct outputs")
        elif self._may_correct:
            recorded["uncorrected"] = (
                f"{self._images} images are {self._held.groups} groups of near-duplicates, and {LEAST_GROUPS} must "
                "differ: give more kinds of pictures"
            )
        spec = replace(spec, provenance=spec.provenance | recorded)
        if self.words is None:
            return build_subnet(spec)
        pixels = (one for batch in self.batches for one in pixels_of(batch, self.mean, self.std))
        as_they_are = build_subnet(replace(spec, preprocess={"resize": {"mode": "none"}}))
        subnet = attach(as_they_are, self.words, pixels)
        return Subnet.from_parts(subnet.config | {"preprocess": self.preprocessing}, subnet.tensors())

    def _spec(self, calibrated: Calibrated, parts: Quantized, provenance: Mapping[str, Any]) -> NetworkSpec:
        net = calibrated.net
        recorded = {
            "exporter": "post-training quantization of a timm VisionTransformer",
            **({"architecture": self.architecture} if self.architecture else {}),
            "timm": timm.__version__,
            "calibration_images": sum(len(batch) for batch in calibrated.batches),
            "ranges": "least error" if self.percentile is None else f"quantile {self.percentile}",
            "equalize": self.equalize,
            "rotated": calibrated.rotated,
            **({"rotation_tried": calibrated.tried} if calibrated.tried else {}),
            "mean": self.mean,
            "std": self.std,
            **provenance,
        }
        return NetworkSpec(
            name=self.name,
            height=net.height,
            width=net.width,
            channels=net.channels,
            mean=self.mean,
            std=self.std,
            kernel=net.kernel,
            stride=net.kernel,
            pad=0,
            pad_value=0,
            position=net.position.double().numpy(),
            prefix=net.prefix.double().numpy(),
            pool=net.pool,
            norm=norm_spec(net.norm),
            classes=self.classes,
            preprocess=self.preprocessing,
            trained=True,
            embedding=self.embedding,
            patch_tokens=net.patch_tokens,
            rotary=None if net.rotary is None else (net.rotary[0].numpy(), net.rotary[1].numpy()),
            provenance=recorded,
            **vars(parts),
        )


def calibration_apart(report: Progress, what: str) -> Progress:
    """Returns a function for `progress` that reports a calibration apart from the other stages, which it calls `what`.

    A stage of a calibration takes as long as many matrices do: with one pace for all, the time left would be far off.
    """

    def progress(_stage: str, done: int, total: int) -> None:
        if done <= CALIBRATION_STAGES:
            report("calibration", done, CALIBRATION_STAGES)
        else:
            report(what, done - CALIBRATION_STAGES, total - CALIBRATION_STAGES)

    return progress


def prepare(
    model: nn.Module, calibration: Iterable[ImageLike] | Tensor, options: QuantizationOptions
) -> Prepared:
    """Reads a model and its calibration images; the errors are those of `export_timm`."""
    percentile, tokens = options.percentile, options.tokens
    if percentile is not None and not 0.9 <= percentile <= 1:
        raise ValueError(f"percentile must be in [0.9, 1], not {percentile}")
    if tokens not in get_args(Tokens):
        raise ValueError(f"tokens must be one of {', '.join(get_args(Tokens))}, not {tokens!r}")
    words = options.words
    if words is not None:
        if options.classes is not None:
            raise ValueError("give classes or words, not both")
        model = headless(model, words)
    net = read(model, headless=options.embedding or words is not None or tokens == "patch")
    embedding = options.embedding or not len(net.head.weight)
    preprocessing, means, deviations = preprocessing_of(model, net, options.mean, options.std, options.resize)
    names = (
        [f"class {i}" for i in range(len(net.head.weight))]
        if options.classes is None
        else list(options.classes)
    )
    if len(names) != len(net.head.weight):
        raise ValueError(f"the model has {len(net.head.weight)} classes, but {len(names)} names were given")
    folders: list[str] = []

    def images() -> Iterator[ImageLike]:
        for image in calibration:
            folders.append(folder_of(image))
            yield image

    given = calibration if isinstance(calibration, Tensor) else images()
    # The members of a team work on as many images in all.
    batches = calibration_batches(
        given, net, preprocessing, means, deviations, max(1, options.batch_size // MEMBERS)
    )
    net.cast(torch.float32)
    _check_same_function(model, net, batches[0])
    if tokens == "patch":
        require(net.pool != "token_pair", "it is distilled: none of its two heads is that of patch tokens")
        require(net.pool != "attention", "it pools by attention: its head does not read patch tokens")
        net.pool, net.patch_tokens = "token" if net.pool == "token" else "mean_after_norm", True
    architecture = getattr(model, "pretrained_cfg", {}).get("architecture")
    return Prepared(
        net=net,
        batches=batches,
        name=options.name or architecture or type(model).__name__,
        architecture=architecture,
        classes=names,
        preprocessing=preprocessing,
        mean=means,
        std=deviations,
        percentile=percentile,
        equalize=options.equalize,
        rotate=options.rotate,
        embedding=embedding,
        correct=options.correct,
        words=words,
        folders=folders or [""] * sum(map(len, batches)),
    )


def _check_same_function(model: nn.Module, net: ViT, batch: Tensor) -> None:
    """Refuses a model whose logits differ from those of the plain ViT that was read from it."""
    training = model.training
    parameter = next(model.parameters())
    model.eval()
    try:
        with torch.no_grad():
            expected = model(batch.to(parameter.device, parameter.dtype)).float().cpu()
            found = forward(net, batch, lambda _, value: value)
    finally:
        model.train(training)
    # Half-precision models round differently; all others agree to float32's accuracy.
    tolerance = 1e-3 if parameter.dtype == torch.float32 else 5e-2
    error = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-6))
    require(
        error < tolerance,
        f"its logits differ from those of the plain ViT with the same weights (relative difference {error:.2g}), "
        "so its forward pass does something that this exporter does not know",
    )
