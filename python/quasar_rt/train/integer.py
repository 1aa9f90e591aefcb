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

from ..oracle import clamp8, requant8, requant16, rotations, rshift, sat16, sat_residual
from ..rows import unpack_rows
from ..subnet import Subnet
from .quantizers import layer_norm, powers_of_two

__all__ = ["IntegerModel", "Trace", "attention", "cut_patches"]

#: Codes of a block's activations, int8 [batch, tokens, channels], by their names in the oracle's trace; ``fc1`` is what
#: the table reads. Behind the blocks: ``pooled``, int8 [batch, embed], of two tokens or patch tokens [batch, tokens,
#: embed].
Trace = dict[str, Tensor]

#: float32 holds every whole number up to here.
EXACT = 2**24


class IntegerModel:
    """Computes a subnet of any pooling, with rotary positions and patch tokens or without."""

    def __init__(self, subnet: Subnet, device: torch.device) -> None:
        self._config, self._tensors = subnet.config, subnet.tensors()
        self._integers = {
            name: torch.from_numpy(values.astype(np.int32)).to(device)
            for name, values in self._tensors.items()
            if not name.endswith((".weight", ".epsilon"))
        }
        self._layers: dict[str, _Linear] = {}
        self._turns: tuple[Tensor, ...] | None = None
        if self._config.get("rotary"):
            found = rotations(self._config, self._tensors)
            self._turns = tuple(torch.from_numpy(turn.astype(np.int32)).to(device) for turn in found)

    def __call__(self, images: Tensor, trace: list[Trace] | None = None) -> Tensor:
        """Returns the engine's logits, float32 [batch, classes], of images [batch, channels, height, width].

        `trace` receives the codes of each block, and of the head's input.
        """
        outputs = self.outputs(images, trace)[:, 0, : len(self._config["classes"])]
        return (outputs.double() * self._config["logit_scale"]).float()

    @torch.no_grad()
    def outputs(self, images: Tensor, trace: list[Trace] | None = None) -> Tensor:
        """Returns the head's integers as `quasar_rt.oracle.run` does, int64 [batch, tokens, values].

        The one token is the image's; with patch tokens those of the patches follow.
        """
        trace = [] if trace is None else trace
        config, integers = self._config, self._integers
        with torch.autocast(images.device.type, enabled=False):
            pixels = cut_patches(images, **config["patch"]) - 128
            stem = self._layer("embed", pixels)
            x = sat_residual(requant16(stem.accumulate(pixels), stem) + integers["position"])
            if config.get("embed_norm"):
                normed = self._norm("embed_norm", x)
                layer = self._layer("embed_proj", normed)
                x = sat_residual(requant16(layer.accumulate(normed), layer))
            if config["prefix_tokens"]:
                x = torch.cat([integers["prefix"].expand(len(x), -1, -1), x], dim=1)
            for i, block in enumerate(config["blocks"]):
                pools = config["pool"] == "attention" and i + 1 == len(config["blocks"])
                x, codes = self._block(f"blocks.{i}", block, x, pools)
                trace.append(codes)
            pooled = self._pooled(x)
            several = config["pool"] == "token_pair" or config.get("patch_tokens")
            trace.append({"pooled": (pooled if several else pooled[:, 0]).to(torch.int8)})
            if config["pool"] == "token_pair":
                return self._head("head", pooled[:, :1]) + self._head("head_dist", pooled[:, 1:])
            outputs = self._head("head", pooled)
            if not config.get("patch_tokens"):
                return outputs
            patches = outputs[:, config["prefix_tokens"] :]
            first = outputs[:, :1] if config["pool"] == "token" else _rounded_mean(patches)
            return torch.cat([first, patches], dim=1)

    def _pooled(self, x: Tensor) -> Tensor:
        """Returns the codes that the head reads, int32 [batch, tokens, embed], of the stream behind the blocks."""
        pool, patches = self._config["pool"], x[:, self._config["prefix_tokens"] :]
        if self._config.get("patch_tokens"):
            return self._norm("norm", x)
        if pool == "attention":
            gain, bias = (self._integers[f"norm.{part}"] for part in ("gain", "bias"))
            return clamp8(sat16(rshift(x * gain, 15) + bias) >> int(self._tensors["norm.frac"][0]))
        if pool == "mean":
            return self._norm("norm", _rounded_mean(patches))
        if pool == "mean_after_norm":
            return _rounded_mean(self._norm("norm", patches))
        return self._norm("norm", x[:, : 2 if pool == "token_pair" else 1])

    def _head(self, name: str, pooled: Tensor) -> Tensor:
        head = self._layer(name, pooled)
        return rshift(head.accumulate(pooled).long() * head.mult, 15)

    def _block(self, name: str, block: Mapping[str, int], x: Tensor, pools: bool) -> tuple[Tensor, Trace]:
        y = self._norm(f"{name}.norm1", x)
        layer = self._layer(f"{name}.qkv", y)
        acc = layer.accumulate(y)
        qkv = requant8(acc, layer, 0)
        if self._turns is not None:
            turned = requant16(acc, layer).unflatten(-1, (3 * block["heads"], -1))[
                ..., : 2 * block["heads"], :
            ]
            qkv = torch.cat([_rotated(turned, *self._turns).flatten(2), qkv.chunk(3, dim=-1)[2]], dim=-1)
        q, k, v = qkv.float().unflatten(-1, (3, block["heads"], -1)).permute(2, 0, 3, 1, 4)
        if pools:
            q, x = q[:, :, :1], torch.zeros_like(x[:, :1])
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


def _rounded_mean(x: Tensor) -> Tensor:
    """Computes ``floor((sum + floor(n/2)) / n)`` over the n tokens of x [batch, n, values]: [batch, 1, values]."""
    n = x.shape[1]
    return torch.div(x.sum(dim=1, keepdim=True) + n // 2, n, rounding_mode="floor").to(x.dtype)


def _rotated(z: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotates z, int32 [batch, tokens, heads, head_dim], as `quasar_rt.oracle.rotate` does."""
    even, odd = z[..., 0::2], z[..., 1::2]
    turned = torch.stack([even * cosine - odd * sine, odd * cosine + even * sine], dim=-1)
    return clamp8(rshift(turned, 20)).flatten(-2)


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
