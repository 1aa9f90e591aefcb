"""The integer model of a batch of images in torch: what an exported network computes, bit for bit, on any device.

Roundings and clamps are the oracle's. Products of codes are exact: floating-point sums of whole numbers, in float32
where none leaves 2^24 and in float64 elsewhere. May depend on: torch, `quasar_rt.oracle`, `quasar_rt.rows`,
`quasar_rt.subnet`, `quasar_rt.train.quantizers`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..oracle import clamp8, requant8, requant16, rshift, sat16, sat_residual
from ..rows import unpack_rows
from ..subnet import Subnet
from .quantizers import layer_norm, powers_of_two

__all__ = ["IntegerModel", "Trace", "attention", "cut_patches"]

#: Codes of a block's activations, int8 [batch, tokens, channels], by their names in the oracle's trace; ``fc1`` is what
#: the table reads. Behind the blocks: ``pooled``, int8 [batch, embed].
Trace = dict[str, Tensor]

#: float32 holds every whole number up to here.
EXACT = 2**24


class IntegerModel:
    """Computes a subnet that reads a class token and gives no patch tokens."""

    def __init__(self, subnet: Subnet, device: torch.device) -> None:
        self._config, self._tensors = subnet.config, subnet.tensors()
        self._integers = {
            name: torch.from_numpy(values.astype(np.int32)).to(device)
            for name, values in self._tensors.items()
            if not name.endswith((".weight", ".epsilon"))
        }
        self._layers: dict[str, _Linear] = {}

    @torch.no_grad()
    def __call__(self, images: Tensor, trace: list[Trace] | None = None) -> Tensor:
        """Returns the engine's logits, float32 [batch, classes], of images [batch, channels, height, width].

        `trace` receives the codes of each block, and of the head's input.
        """
        trace = [] if trace is None else trace
        config, integers = self._config, self._integers
        with torch.autocast(images.device.type, enabled=False):
            pixels = cut_patches(images, **config["patch"]) - 128
            stem = self._layer("embed", pixels)
            x = sat_residual(requant16(stem.accumulate(pixels), stem) + integers["position"])
            x = torch.cat([integers["prefix"].expand(len(x), -1, -1), x], dim=1)
            for i, block in enumerate(config["blocks"]):
                x, codes = self._block(f"blocks.{i}", block, x)
                trace.append(codes)
            pooled = self._norm("norm", x[:, 0])
            trace.append({"pooled": pooled.to(torch.int8)})
            head = self._layer("head", pooled)
            outputs = rshift(head.accumulate(pooled).long() * head.mult, 15)
            return (outputs[:, : len(config["classes"])].double() * config["logit_scale"]).float()

    def _block(self, name: str, block: Mapping[str, int], x: Tensor) -> tuple[Tensor, Trace]:
        y = self._norm(f"{name}.norm1", x)
        layer = self._layer(f"{name}.qkv", y)
        qkv = requant8(layer.accumulate(y), layer, 0)
        q, k, v = qkv.float().unflatten(-1, (3, block["heads"], -1)).permute(2, 0, 3, 1, 4)
        factors = (self._integers[f"{name}.attn.{part}"] for part in ("mult", "out_mult", "out_shift"))
        o = attention(q, k, v, *factors).transpose(1, 2).flatten(2)
        layer = self._layer(f"{name}.proj", o)
        x = sat_residual(x + requant16(layer.accumulate(o), layer))

        z = self._norm(f"{name}.norm2", x)
        layer = self._layer(f"{name}.fc1", z)
        fc1 = requant8(layer.accumulate(z), layer, block["fc1_zero_point"])
        act = self._integers[f"{name}.gelu"].index_select(0, (fc1 + 128).flatten()).view_as(fc1)
        layer = self._layer(f"{name}.fc2", act)
        x = sat_residual(x + requant16(layer.accumulate(act), layer))
        codes = {"norm1": y, "qkv": qkv, "attn": o, "norm2": z, "fc1": fc1, "act": act}
        return x, {part: value.to(torch.int8) for part, value in codes.items()}

    def _norm(self, name: str, x: Tensor) -> Tensor:
        gain, bias = (self._integers[f"{name}.{part}"] for part in ("gain", "bias"))
        frac, epsilon = (int(self._tensors[f"{name}.{part}"][0]) for part in ("frac", "epsilon"))
        return layer_norm(x, gain, bias, frac, epsilon)

    def _layer(self, name: str, inputs: Tensor) -> _Linear:
        if name not in self._layers:
            bits = self._tensors[f"{name}.bits"]
            codes = unpack_rows(self._tensors[f"{name}.weight"], bits, inputs.shape[-1])
            bias, mult = (self._integers[f"{name}.{part}"] for part in ("bias", "mult"))
            shift = self._integers.get(f"{name}.shift")
            self._layers[name] = _Linear(torch.from_numpy(codes), bias, mult, shift)
        return self._layers[name]


class _Linear:
    """A linear layer: bias, mult and shift int32 [rows] (no shift for the head); `codes`, int8 [rows, columns]."""

    def __init__(self, codes: Tensor, bias: Tensor, mult: Tensor, shift: Tensor | None) -> None:
        self.bias, self.mult, self.shift = bias, mult, shift
        largest = 128 * int(codes.abs().sum(dim=1).max())
        self._weight = codes.to(bias.device, torch.float32 if largest < EXACT else torch.float64)

    def accumulate(self, a: Tensor) -> Tensor:
        """Computes ``bias + W a`` for each row of `a` [..., columns]: int32 [..., rows]."""
        return F.linear(a.to(self._weight.dtype), self._weight).int() + self.bias


def attention(q: Tensor, k: Tensor, v: Tensor, mult: Tensor, out_mult: Tensor, out_shift: Tensor) -> Tensor:
    """Computes attention as `quasar_rt.oracle.attention` does, for all heads of a batch.

    Args:
        q, k, v: codes float32 [batch, heads, tokens, head_dim].
        mult, out_mult, out_shift: int32 [heads].

    Returns:
        codes int32 [batch, heads, tokens, head_dim].
    """
    tokens = k.shape[2]
    mult, out_mult, out_shift = (factor.view(-1, 1, 1) for factor in (mult, out_mult, out_shift))
    a = (q @ k.transpose(-1, -2)).int()
    d = torch.minimum(a.amax(dim=-1, keepdim=True) - a, (2**31 - 2**20) // mult)
    powers = powers_of_two(q.device)
    u = ((d * mult + 2**19) >> 20).clamp_(max=len(powers) - 1)
    e12 = powers.index_select(0, u.flatten()).view_as(u).int()
    e8 = (e12 + 8) >> 4
    s12 = e12.sum(dim=-1, keepdim=True)
    residue = (s12 - 16 * e8.sum(dim=-1, keepdim=True)).int()
    mean_factor = (2 * 2**20 + tokens) // (2 * tokens)
    mean = (v.sum(dim=-2, keepdim=True).int() * mean_factor + 2**15) >> 16
    wide = torch.float32 if 255 * 128 * tokens < EXACT else torch.float64
    num = 16 * (e8.to(wide) @ v.to(wide)).int() + ((residue * mean + 8) >> 4)

    b = torch.frexp(s12.double())[1]
    r = (out_mult.long() << b) // s12
    halve = (r >= 2**15).int()
    r, p = (r >> halve).int(), b - halve + out_shift - 21
    return clamp8(rshift(rshift(sat16(rshift(num, p)) * r, 15), 6))


def cut_patches(images: Tensor, kernel: int, stride: int, pad: int, pad_value: int) -> Tensor:
    """Cuts images [batch, channels, height, width] into the pixels of patches, float32 [batch, grid, columns].

    Columns are ordered (channel, ky, kx).
    """
    x = F.pad(images.float(), (pad,) * 4, value=float(pad_value))
    x = x.unfold(2, kernel, stride).unfold(3, kernel, stride)
    return x.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
