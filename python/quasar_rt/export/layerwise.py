"""Quantizes a network matrix by matrix: each on the inputs that the quantized part before it gives.

The float network and the quantized network run side by side on the calibration images. The quantized one is the integer
model (LayerNorm, attention's probabilities, tables, the grids of all stored activations) but for the roundings inside a
requantization, which are at most 1/64 of a code. Depends on: torch, `quasar_rt.build`, `quasar_rt.rows`,
`quasar_rt.train.quantizers`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ..build import (
    Affine,
    BlockSpec,
    EmbedNormSpec,
    LinearSpec,
    NormSpec,
    activation_table,
    embed_norm_tensors,
    norm_out_range,
    norm_tensors,
    unnormalised,
)
from ..build.integers import ATTENTION_GAIN_LIMIT, MULTIPLIER_LIMIT, at_least
from ..quantization import LayerReport, Method
from ..train.quantizers import attention, layer_norm
from .calibration import Ranges, Statistics
from .float_vit import Block, Linear, Norm, ViT, patches_of, scaled, single_tokens
from .gptq import Observed, Rows, best_ridge, gptq_rows, joint_rows, nearest_rows, shrunk
from .team import Team

__all__ = [
    "Quantized",
    "Widths",
    "Worth",
    "norm_spec",
    "quantize_layers",
]

#: Computes, for each row of a matrix, by how much 8 bits lower the loss against 4 bits: float64 [rows].
Worth = Callable[[], NDArray[np.float64]]
#: Chooses the width of each row of a matrix of the blocks, uint8 [rows], from its name, its number of rows and their
#: worth.
Widths = Callable[[str, int, Worth], NDArray[np.uint8]]


@dataclass
class Quantized:
    """A network's quantized parts."""

    embed: LinearSpec
    blocks: list[BlockSpec]
    norm_out: Affine
    head: LinearSpec
    residual_scale: float
    pooled_scale: float | None
    head_dist: LinearSpec | None
    embed_norm: EmbedNormSpec | None
    projection: LinearSpec | None
    projection_out: Affine | None


def quantize_layers(
    net: ViT,
    batches: list[Tensor],
    ranges: Ranges,
    statistics: Statistics,
    *,
    std: list[float],
    widths: Widths,
    method: Method,
    team: Team,
    on_layer: Callable[[LayerReport], object],
) -> Quantized:
    """Quantizes the matrices from the patch embedding to the head.

    Args:
        net: the float network.
        batches: normalised calibration images [images, channels, height, width].
        ranges: of the float network's activations.
        statistics: of the float network, for the gradients of the loss at the matrices' outputs.
        std: of pixel/255 by channel; the patch embedding acts on raw pixels.
        widths: chooses the widths of the rows of a matrix of the blocks. Embedding and head are all 8-bit.
        method: how weights are rounded.
        team: shares the work.
        on_layer: gets a report after each matrix.
    """
    with torch.no_grad():
        run = _Run(net, ranges, statistics, widths, method, team, on_layer)
        embed = run.embedding(batches, std)
        blocks = [run.block(f"blocks.{i}", block) for i, block in enumerate(net.blocks)]
        norm_out, heads = run.heads()
    return Quantized(
        embed,
        blocks,
        norm_out,
        heads["head"],
        run.residual_scale,
        run.pooled_scale,
        heads.get("head_dist"),
        run.embed_norm,
        heads.get("projection"),
        None if net.projection is None else ranges.affine("projection.out"),
    )


@dataclass(frozen=True)
class _Inputs:
    """The inputs of a matrix in the quantized network, and its outputs in the float network, by batch."""

    found: list[Tensor]
    exact: list[Tensor]


@dataclass
class _Run:
    """Quantizes the parts of a network in order; `stream` and `exact` are the residual streams of both networks."""

    net: ViT
    ranges: Ranges
    statistics: Statistics
    widths: Widths
    method: Method
    team: Team
    on_layer: Callable[[LayerReport], object]
    residual_scale: float = field(init=False)
    pooled_scale: float | None = field(init=False, default=None)
    embed_norm: EmbedNormSpec | None = field(init=False)
    exact: list[Tensor] = field(init=False)
    stream: list[Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.residual_scale = self._stream_scale("residual")
        self.embed_norm = self._embed_norm()

    def heads(self) -> tuple[Affine, dict[str, LinearSpec]]:
        """Quantizes heads and projection; returns the grid of the last LayerNorm, and them by name."""
        net, patches, spec = self.net, slice(len(self.net.prefix), None), norm_spec(self.net.norm)
        if self.pooled_scale is not None:
            spec = unnormalised(spec, self.pooled_scale)
        out = norm_out_range(spec, self.ranges.affine("norm.out"))
        readers = net.heads() | ({} if net.projection is None else {"projection": net.projection})
        if net.patch_tokens:
            tokens = self._norms(net.norm, out, [single_tokens(net, x) for x in self.stream])
            exact = [_norm(net.norm, single_tokens(net, x)) for x in self.exact]
            return out, {name: self._head(name, head, tokens, exact) for name, head in readers.items()}
        if net.pool == "attention":
            exact, stream = ([scaled(net.norm, x) for x in xs] for xs in (self.exact, self.stream))
            pooled = [(_codes(x, out) - out.zero_point) * out.scale for x in stream]
        elif net.pool in ("token", "token_pair"):
            first = slice(0, 2 if net.pool == "token_pair" else 1)
            exact = [_norm(net.norm, x[:, first]) for x in self.exact]
            pooled = [self._norm_codes(net.norm, out, x[:, first]) for x in self.stream]
        elif net.pool == "mean":
            exact, stream = ([_mean(x[:, patches]) for x in xs] for xs in (self.exact, self.stream))
            exact = [_norm(net.norm, x) for x in exact]
            pooled = [self._norm_codes(net.norm, out, self._on_grid(x)) for x in stream]
        else:
            exact = [_mean(_norm(net.norm, x[:, patches])) for x in self.exact]
            codes = self._norms(net.norm, out, [x[:, patches] for x in self.stream])
            pooled = [_round(_mean(x) / out.scale) * out.scale for x in codes]
        token = {"head_dist": 1}
        return out, {
            name: self._head(name, head, *([x[:, token.get(name, 0)] for x in xs] for xs in (pooled, exact)))
            for name, head in readers.items()
        }

    def _stream_scale(self, name: str) -> float:
        """Returns the step of int16 values that must not saturate on other images."""
        return float(1.5 * self.ranges.symmetric(name).max() * 127 / 32767)

    def _embed_norm(self) -> EmbedNormSpec | None:
        if self.net.norm_pre is None:
            return None
        low, high = (ends["norm_pre.out"] for ends in (self.ranges.low, self.ranges.high))
        # Other images reach a little further than the calibration images.
        room = 0.05 * (high - low)
        scale = self._stream_scale("embed_sum")
        return EmbedNormSpec(norm_spec(self.net.norm_pre), low - room, high + room, scale)

    def _head(self, name: str, head: Linear, inputs: list[Tensor], exact: list[Tensor]) -> LinearSpec:
        if not len(head.weight):
            none = np.zeros(0)
            return LinearSpec(head.weight.numpy(), none, none.astype(np.uint8), none)
        # One input an image is too little to fit a head to.
        return self._fit(
            name, head, _Inputs(inputs, self._outputs(head, exact)), "nearest", _all_eight_bits(head)
        )[1]

    def embedding(self, batches: list[Tensor], std: list[float]) -> LinearSpec:
        """Quantizes the patch embedding, whose rows are those of the layer on raw pixels."""
        net = self.net
        per_channel = net.kernel * net.kernel
        deviation = torch.tensor(np.repeat(255 * np.asarray(std), per_channel))
        patches = [patches_of(net, batch) for batch in batches]
        weight = net.embed.weight.double() / deviation
        # Around their mean, pixels are the normalised pixels times a factor, and the bias is the same.
        layer = Linear(weight.float(), net.embed.bias)
        pixels = [(batch.double() * deviation).float() for batch in patches]
        exact = self._outputs(net.embed, patches)
        layer, raw = self._fit("embed", layer, _Inputs(pixels, exact), bits=_all_eight_bits(layer))
        assert raw.scales is not None
        self.exact, self.stream = [], []
        for outputs, y in zip(exact, self._outputs(layer, pixels), strict=True):
            prefix = net.prefix.expand(len(y), -1, -1)
            exact_patches, patches_found = outputs + net.position, y + net.position
            if net.norm_pre is not None:
                exact_patches = _norm(net.norm_pre, exact_patches)
                assert self.embed_norm is not None
                patches_found = _normed_patches(self.embed_norm, patches_found)
            self.exact.append(torch.cat([prefix, exact_patches], dim=1))
            self.stream.append(self._on_grid(torch.cat([prefix, patches_found], dim=1)))
        return LinearSpec(raw.weight * deviation.numpy(), raw.bias, raw.bits, raw.scales)

    def block(self, name: str, block: Block) -> BlockSpec:
        """Quantizes a block."""
        return BlockSpec(**self._attention(name, block), **self._mlp(name, block))

    def _attention(self, name: str, block: Block) -> dict[str, Any]:
        """Quantizes the first half of a block; returns its parts of a `BlockSpec`."""
        ranges = self.ranges
        norm1_out = norm_out_range(norm_spec(block.norm1), ranges.affine(f"{name}.norm1.out"))
        seen = self._normed(block.norm1, norm1_out, block.qkv)
        layer, qkv = self._fit(f"{name}.qkv", block.qkv, seen)
        steps = (_scales(qkv) * norm1_out.scale).reshape(3, block.heads, -1).max(axis=2)
        scales = [
            at_least(
                np.broadcast_to(ranges.symmetric(f"{name}.{part}"), (block.heads,)),
                step * 64,
                MULTIPLIER_LIMIT,
            )
            for part, step in zip("qkv", steps, strict=True)
        ]
        finest = ATTENTION_GAIN_LIMIT * (1 - 2**-15)
        attn_out = float(at_least(ranges.symmetric(f"{name}.proj.in").max(), scales[2].max(), finest))
        inputs = self._each(
            lambda x: _attention_codes(block, F.linear(x, layer.weight, layer.bias), scales, attn_out),
            seen.found,
        )
        exact = self._outputs(block.proj, self._each(lambda y: _attention(block, y), seen.exact))
        del seen  # activations of all images
        if block.pools:
            self.pooled_scale = self._stream_scale("pooled")
            self.exact, self.stream = (
                [torch.zeros_like(x[:, :1]) for x in xs] for xs in (self.exact, self.stream)
            )
        return {
            "heads": block.heads,
            "head_dim": block.head_dim,
            "norm1": norm_spec(block.norm1),
            "norm1_out": norm1_out,
            "qkv": qkv,
            **dict(zip(("q_scale", "k_scale", "v_scale"), scales, strict=True)),
            "attn_out": attn_out,
            "proj": self._branch(f"{name}.proj", block.proj, _Inputs(inputs, exact)),
        }

    def _mlp(self, name: str, block: Block) -> dict[str, Any]:
        """Quantizes the second half of a block; returns its parts of a `BlockSpec`."""
        ranges = self.ranges
        norm2_out = norm_out_range(norm_spec(block.norm2), ranges.affine(f"{name}.norm2.out"))
        seen = self._normed(block.norm2, norm2_out, block.fc1)
        layer, fc1 = self._fit(f"{name}.fc1", block.fc1, seen)
        out = ranges.affine(f"{name}.fc1.out")
        finest = _scales(fc1).max() * norm2_out.scale * 64
        fc1_out = Affine(float(at_least(out.scale, finest, MULTIPLIER_LIMIT)), out.zero_point)
        act_out = ranges.affine(f"{name}.fc2.in")

        def activation(x: NDArray[np.float64]) -> NDArray[np.float64]:
            with torch.no_grad():
                values: NDArray[np.float64] = block.activation(torch.from_numpy(x)).numpy()
            return values

        codes = activation_table(activation, fc1_out, act_out).astype(np.float32)
        table = torch.from_numpy((codes - act_out.zero_point) * np.float32(act_out.scale))
        inputs = self._each(
            lambda x: table[_codes(F.linear(x, layer.weight, layer.bias), fc1_out).long() + 128], seen.found
        )
        exact = self._outputs(block.fc2, self._each(block.activation, seen.exact))
        del seen  # activations of all images
        return {
            "norm2": norm_spec(block.norm2),
            "norm2_out": norm2_out,
            "fc1": fc1,
            "fc1_out": fc1_out,
            "activation": activation,
            "act_out": act_out,
            "fc2": self._branch(f"{name}.fc2", block.fc2, _Inputs(inputs, exact)),
        }

    def _normed(self, norm: Norm, out: Affine, layer: Linear) -> _Inputs:
        """Returns the inputs of a matrix that reads a LayerNorm of the residual stream."""
        exact = self._outputs(layer, [_norm(norm, x) for x in self.exact])
        return _Inputs(self._norms(norm, out, self.stream), exact)

    def _branch(self, name: str, layer: Linear, seen: _Inputs) -> LinearSpec:
        """Quantizes a layer that adds to the residual stream, and adds its outputs in both networks."""
        fitted, spec = self._fit(name, layer, seen)
        self.exact = [x + y for x, y in zip(self.exact, seen.exact, strict=True)]
        outputs = self._outputs(fitted, seen.found)
        self.stream = [self._on_grid(x + y) for x, y in zip(self.stream, outputs, strict=True)]
        return spec

    def _fit(
        self,
        name: str,
        layer: Linear,
        inputs: _Inputs,
        method: Method | None = None,
        bits: NDArray[np.uint8] | None = None,
    ) -> tuple[Linear, LinearSpec]:
        """Quantizes a matrix; by default with the method and the choice of widths of all."""
        halves = Observed(layer), Observed(layer)
        parts = self.team.map(
            lambda pair: _halves(layer, *pair), zip(inputs.found, inputs.exact, strict=True)
        )
        for part in parts:
            for half, more in zip(halves, part, strict=True):
                half.merge(more)
        rounding = _Rounding(layer, halves, method or self.method)
        seen = rounding.seen

        def worth() -> NDArray[np.float64]:
            four, eight = map(rounding.errors, self.team.map(rounding.all_rows, (4, 8)))
            scores: NDArray[np.float64] = (
                self.statistics.gradients[f"{name}.out"].double() * (four - eight)
            ).numpy()
            return scores

        if bits is None:
            bits = self.widths(name, len(layer.weight), worth)
        costs = self.statistics.costs.get(f"{name}.out")
        if rounding.method == "gptq" and costs is not None and not bool((bits == 8).all()):
            rows = rounding.joint_rows(bits, shrunk(costs.double(), self.statistics.losses))
        else:
            rows = rounding.rows(bits)
        bias = rounding.bias(rows)
        after = seen.errors(rows.weight, bias)
        nearest = nearest_rows(layer.weight, bits)
        before = seen.errors(nearest.weight, layer.bias.double())
        variance = max(seen.variance(), 1e-30)
        first, last = (math.sqrt(float(error.sum()) / variance) for error in (before, after))
        count, columns = layer.weight.shape
        self.on_layer(LayerReport(name, count, columns, int((bits == 8).sum()), first, last))
        spec = LinearSpec(rows.weight.numpy(), bias.numpy(), bits, rows.scales.numpy())
        return Linear(rows.weight.float(), bias.float()), spec

    def _norm_codes(self, norm: Norm, out: Affine, x: Tensor) -> Tensor:
        """Computes the integer LayerNorm of the residual stream; returns the values that its codes stand for."""
        tensors = norm_tensors("norm", norm_spec(norm), out, self._step())
        codes = _integer_norm(tensors, "norm", torch.round(x / self._step()).int())
        return (codes - out.zero_point).float() * out.scale

    def _norms(self, norm: Norm, out: Affine, stream: list[Tensor]) -> list[Tensor]:
        return self._each(lambda x: self._norm_codes(norm, out, x), stream)

    def _outputs(self, layer: Linear, inputs: list[Tensor]) -> list[Tensor]:
        return self._each(lambda x: F.linear(x, layer.weight, layer.bias), inputs)

    def _each(self, function: Callable[[Tensor], Tensor], inputs: list[Tensor]) -> list[Tensor]:
        return list(self.team.map(function, inputs))

    def _on_grid(self, x: Tensor) -> Tensor:
        return _round(x / self._step()).clamp(-32767, 32767) * self._step()

    def _step(self) -> float:
        """Returns the step of the stream: that of the pooled token from its projection on."""
        return self.residual_scale if self.pooled_scale is None else self.pooled_scale


class _Rounding:
    """Rounds the rows of a matrix to 4 or 8 bits.

    GPTQ's target follows what the float network gives, so that it makes up for errors of earlier layers, as far as
    that holds on images that it was not fitted to (docs/exporting.md): `halves` saw other images each.
    """

    def __init__(self, layer: Linear, halves: tuple[Observed, Observed], method: Method) -> None:
        self._layer, self.seen, self.method = layer, Observed(layer), method
        for half in halves:
            self.seen.merge(half)
        self._rounded: dict[int, Rows] = {}
        if method == "gptq":
            self._covariance = self.seen.covariance()
            self._target = self.seen.target(self._covariance, best_ridge(halves))

    def all_rows(self, width: int) -> Rows:
        """Rounds all rows to one width; keeps them for `rows`."""
        self._rounded[width] = self._round(slice(None), width)
        return self._rounded[width]

    def rows(self, bits: NDArray[np.uint8]) -> Rows:
        """Rounds each row to its width."""
        eight = torch.from_numpy(bits == 8)
        if len(self._rounded) == 2:
            return self._rounded[8].where(eight, self._rounded[4])
        if bool(eight.all()) or not bool(eight.any()):
            return self.all_rows(int(bits[0]))
        return Rows.merged(eight, self._round(eight, 8), self._round(~eight, 4))

    def joint_rows(self, bits: NDArray[np.uint8], costs: Tensor) -> Rows:
        """Rounds each row to its width so that rows make up for each other's errors (`gptq.joint_rows`)."""
        return joint_rows(self._target, self._covariance, costs, torch.from_numpy(bits == 8))

    def bias(self, rows: Rows) -> Tensor:
        """Returns the bias [rows] that goes with the rounded rows."""
        return self.seen.bias(rows.weight) if self.method == "gptq" else self._layer.bias.double()

    def errors(self, rows: Rows) -> Tensor:
        """Returns the mean squared error of each row's outputs."""
        return self.seen.errors(rows.weight, self.bias(rows))

    def _round(self, which: slice | Tensor, width: int) -> Rows:
        if self.method == "gptq":
            return gptq_rows(self._target[which], self._covariance, width)
        return nearest_rows(self._layer.weight[which], width)


def _all_eight_bits(layer: Linear) -> NDArray[np.uint8]:
    return np.full(len(layer.weight), 8, np.uint8)


def _mean(x: Tensor) -> Tensor:
    return x.mean(dim=1, keepdim=True)


def _round(x: Tensor) -> Tensor:
    return torch.floor(x + 0.5)


def _codes(x: Tensor, grid: Affine) -> Tensor:
    return (_round(x / grid.scale) + grid.zero_point).clamp(-128, 127)


def _integer_norm(tensors: Mapping[str, NDArray[Any]], name: str, x: Tensor) -> Tensor:
    gain, offset = (torch.from_numpy(tensors[f"{name}.{part}"]).int() for part in ("gain", "bias"))
    return layer_norm(x, gain, offset, int(tensors[f"{name}.frac"][0]), int(tensors[f"{name}.epsilon"][0]))


def _halves(layer: Linear, x: Tensor, y: Tensor) -> tuple[Observed, Observed]:
    """Observes the images of a batch, each second one apart."""
    halves = Observed(layer), Observed(layer)
    for first, half in enumerate(halves):
        half.add(x[first::2], y[first::2])
    return halves


def _norm(norm: Norm, x: Tensor) -> Tensor:
    return F.layer_norm(x, (x.shape[-1],), norm.gamma, norm.beta, norm.eps)


def _normed_patches(spec: EmbedNormSpec, x: Tensor) -> Tensor:
    """Computes the integer LayerNorm of the embedded patches; returns the values of its codes."""
    tensors, layer = embed_norm_tensors(spec)
    codes = _integer_norm(tensors, "embed_norm", _round(x / spec.scale).clamp(-32767, 32767).int())
    bias, step = torch.from_numpy(layer.bias), torch.from_numpy(layer.step)
    return ((127 * codes.double() + bias) * step).float()


def norm_spec(part: Norm) -> NormSpec:
    """Describes a LayerNorm for `quasar_rt.build`."""
    return NormSpec(part.gamma.double().numpy(), part.beta.double().numpy(), part.eps)


def _scales(spec: LinearSpec) -> NDArray[np.float64]:
    return np.asarray(spec.scales, np.float64)


def _heads(block: Block, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Splits qkv's outputs [batch, tokens, rows] into rotated q and k, and v: [batch, heads, tokens, head_dim] each."""
    q, k, v = y.unflatten(-1, (3, block.heads, block.head_dim)).permute(2, 0, 3, 1, 4)
    return block.rotated(q[:, :, :1] if block.pools else q), block.rotated(k), v


def _attention(block: Block, y: Tensor) -> Tensor:
    q, k, v = _heads(block, y)
    out = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(block.head_dim), dim=-1) @ v
    return out.transpose(1, 2).flatten(2)


def _attention_codes(block: Block, y: Tensor, scales: list[NDArray[np.float64]], out: float) -> Tensor:
    """Computes attention on codes of q, k and v; returns the values that the output's codes stand for."""
    steps = [torch.from_numpy(scale).float().view(-1, 1, 1) for scale in scales]
    q, k, v = (
        _round(part / step).clamp(-128, 127) for part, step in zip(_heads(block, y), steps, strict=True)
    )
    mult = torch.from_numpy(
        2.0**20 * 64 * math.log2(math.e) * scales[0] * scales[1] / math.sqrt(block.head_dim)
    )
    attended = attention(q, k, v, mult.float()) * steps[2]
    return _round(attended.transpose(1, 2).flatten(2) / out).clamp(-128, 127) * out
