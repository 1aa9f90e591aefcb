"""One block of the trainable Vision Transformer, in float and as the integer model computes it.

`ViT` (`quasar_rt.train.model`) shares its LayerNorms, roundings and descriptions. Depends on: torch, numpy,
`quasar_rt.build`, `quasar_rt.space`, `quasar_rt.train.quantizers`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ..build import Affine, BlockSpec, LinearSpec, NormSpec, norm_out_range, norm_tensors
from ..space import BlockShape
from .quantizers import (
    ActQuantizer,
    RowLinear,
    Unrounded,
    attention,
    gelu,
    layer_norm,
    leading,
    round_half_up,
)

__all__ = ["Block", "affine", "float_norm", "linear_spec", "norm_codes", "norm_spec", "on_grid", "to_numpy"]

#: Below this GELU is flat to 0.005, so fc1's range need not reach further down.
GELU_FLOOR = -3.0


class Block(nn.Module):
    """LayerNorm, attention, residual; LayerNorm, MLP, residual (Dosovitskiy et al. 2021)."""

    def __init__(self, embed: int, shape: BlockShape, eps: float, layer_scale: float | None) -> None:
        super().__init__()
        self.embed, self.heads, self.head_dim = embed, shape.heads, shape.head_dim
        self.norm1 = nn.LayerNorm(embed, eps=eps)
        self.qkv = RowLinear(embed, 3 * shape.inner, parts=3)
        self.proj = RowLinear(shape.inner, embed)
        self.norm2 = nn.LayerNorm(embed, eps=eps)
        self.fc1 = RowLinear(embed, shape.hidden)
        self.fc2 = RowLinear(shape.hidden, embed)
        self.gamma1: nn.Parameter | None
        self.gamma2: nn.Parameter | None
        for name in ("gamma1", "gamma2"):
            scale = None if layer_scale is None else torch.full((embed,), layer_scale)
            self.register_parameter(name, None if scale is None else nn.Parameter(scale))
        self.norm1_out = ActQuantizer()
        self.qkv_out = ActQuantizer(groups=3 * shape.heads, parts=3, symmetric=True)
        self.attn_out = ActQuantizer(symmetric=True)
        self.norm2_out = ActQuantizer()
        self.fc1_out = ActQuantizer(floor=GELU_FLOOR)
        self.act_out = ActQuantizer()

    def activate(self, embed: int, shape: BlockShape) -> None:
        """Works on the leading `embed` channels and on `shape`."""
        self.embed, self.heads = embed, shape.heads
        *qkv, proj, fc1, fc2 = shape.eight_bit
        self.qkv.activate(3 * shape.inner, embed, qkv)
        self.proj.activate(embed, shape.inner, [proj])
        self.fc1.activate(shape.hidden, embed, [fc1])
        self.fc2.activate(embed, shape.hidden, [fc2])
        self.qkv_out.activate(3 * shape.heads)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """Computes the float block; x [batch, tokens, embed].

        `keep` [2, batch] multiplies each sample's attention branch and MLP branch.
        """
        y = float_norm(self.norm1, x)
        self.norm1_out.observe(y)
        qkv = self.qkv(y).unflatten(-1, (3 * self.heads, self.head_dim))
        self.qkv_out.observe(qkv)
        q, k, v = qkv.transpose(1, 2).chunk(3, dim=1)
        # Explicit products: the fused attention of PyTorch is slow in bfloat16 on a CPU.
        weights = (q @ k.transpose(-1, -2) * self.head_dim**-0.5).softmax(dim=-1)
        out = (weights.to(v.dtype) @ v).transpose(1, 2).flatten(2)
        self.attn_out.observe(out)
        x = x + _kept(self.proj(out, self._gamma(self.gamma1)), keep, 0)
        y = float_norm(self.norm2, x)
        self.norm2_out.observe(y)
        y = self.fc1(y)
        self.fc1_out.observe(y)
        y = F.gelu(y)
        self.act_out.observe(y)
        return x + _kept(self.fc2(y, self._gamma(self.gamma2)), keep, 1)

    def quantized(
        self,
        x: Tensor,
        residual_scale: Tensor,
        keep: Tensor | None = None,
        exact: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Computes the block with fake quantizers; x [batch, tokens, embed] is the residual stream.

        `keep` is that of `forward`. `exact` has the integer model's codes of the block's activations by name
        (`quasar_rt.train.integer.Trace`): they replace those that are found here, and the gradients are of these.
        """
        given = {} if exact is None else exact
        y = norm_codes(self.norm1, self.norm1_out, x, residual_scale).exactly(given.get("norm1"))
        qkv = self.qkv.requantized(y, self.qkv_out).exactly(given.get("qkv"))
        codes = qkv.codes().unflatten(-1, (3 * self.heads, self.head_dim))
        q, k, v = codes.transpose(1, 2).chunk(3, dim=1)
        q_scale, k_scale, v_scale = qkv.scale.chunk(3)
        mult = q_scale * k_scale * (2**20 * 64 * math.log2(math.e) * self.head_dim**-0.5)
        scale = self.attn_out.learned(x.shape[1] * self.heads * self.head_dim).squeeze(0)
        out = attention(q, k, v, mult, v_scale / scale).transpose(1, 2).flatten(2)
        y = Unrounded(out, scale, self.attn_out.zero_point).exactly(given.get("attn"))
        x = self._add(x, _kept(self.proj.update(y, self._gamma(self.gamma1)), keep, 0), residual_scale)

        y = norm_codes(self.norm2, self.norm2_out, x, residual_scale).exactly(given.get("norm2"))
        y = self.fc1.requantized(y, self.fc1_out).exactly(given.get("fc1"))
        y = gelu(y, self.act_out).exactly(given.get("act"))
        return self._add(x, _kept(self.fc2.update(y, self._gamma(self.gamma2)), keep, 1), residual_scale)

    def _gamma(self, gamma: Tensor | None) -> Tensor | None:
        return None if gamma is None else leading(gamma, self.embed)

    def _add(self, x: Tensor, update: Tensor, residual_scale: Tensor) -> Tensor:
        return on_grid(x + update, residual_scale, self.training)

    def spec(self) -> BlockSpec:
        """Returns the block for `quasar_rt.build`, the layer scale folded into proj and fc2."""
        scales = to_numpy(self.qkv_out.scale).reshape(3, self.heads)
        return BlockSpec(
            heads=self.heads,
            head_dim=self.head_dim,
            norm1=norm_spec(self.norm1, self.embed),
            qkv=linear_spec(self.qkv),
            proj=linear_spec(self.proj, self._gamma(self.gamma1)),
            norm2=norm_spec(self.norm2, self.embed),
            fc1=linear_spec(self.fc1),
            fc2=linear_spec(self.fc2, self._gamma(self.gamma2)),
            norm1_out=affine(self.norm1_out),
            q_scale=scales[0],
            k_scale=scales[1],
            v_scale=scales[2],
            attn_out=affine(self.attn_out).scale,
            norm2_out=affine(self.norm2_out),
            fc1_out=affine(self.fc1_out),
            act_out=affine(self.act_out),
        )


def _kept(update: Tensor, keep: Tensor | None, branch: int) -> Tensor:
    return update if keep is None else update * keep[branch].view(-1, 1, 1).to(update.dtype)


def norm_codes(norm: nn.LayerNorm, out: ActQuantizer, x: Tensor, residual_scale: Tensor) -> Unrounded:
    """Returns LayerNorm's output in the codes of `out`; outside training computed in integers, and rounded already."""
    d = x.shape[-1]
    scale = out.learned(x[0].numel()).squeeze(0)
    weight, bias = leading(norm.weight, d) / scale, leading(norm.bias, d) / scale + out.zero_point
    if out.training:
        return Unrounded(F.layer_norm(x, (d,), weight, bias, norm.eps), scale, out.zero_point)
    spec = norm_spec(norm, d)
    affine_out = norm_out_range(spec, affine(out))
    tensors = norm_tensors("norm", spec, affine_out, float(residual_scale))
    gain, offset = (torch.from_numpy(tensors[f"norm.{k}"]).int().to(x.device) for k in ("gain", "bias"))
    frac, epsilon = int(tensors["norm.frac"][0]), int(tensors["norm.epsilon"][0])
    codes = layer_norm(torch.round(x.detach() / residual_scale).int(), gain, offset, frac, epsilon).to(
        x.dtype
    )
    if torch.is_grad_enabled():
        smooth = F.layer_norm(x, (d,), weight, bias, norm.eps)
        codes = smooth + (codes - smooth).detach()
    return Unrounded(codes, torch.full_like(residual_scale, affine_out.scale), out.zero_point)


def float_norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """Applies LayerNorm over as many channels as `x` has."""
    d = x.shape[-1]
    return F.layer_norm(x, (d,), leading(norm.weight, d), leading(norm.bias, d), norm.eps)


def on_grid(x: Tensor, scale: Tensor, training: bool) -> Tensor:
    """Rounds the residual stream to int16. The rounding is far below every other one, so training leaves it out."""
    return x if training else (round_half_up(x / scale)).clamp(-32767, 32767) * scale


def to_numpy(x: Tensor) -> NDArray[np.float64]:
    """Copies a tensor to float64 on the CPU."""
    array: NDArray[np.float64] = x.detach().double().cpu().numpy()
    return array


def linear_spec(layer: RowLinear, gain: Tensor | None = None, fold: Tensor | None = None) -> LinearSpec:
    """Returns the active part, each row multiplied by `gain`; `fold` as in `RowLinear.quantized`.

    The weights are the values of their codes, so that they quantize to the same codes again.
    """
    codes, scales = layer.quantized(fold)
    factor = 1.0 if gain is None else to_numpy(gain)
    steps, bias = to_numpy(scales) * factor, to_numpy(layer.active_bias()) * factor
    weight = to_numpy(codes) * steps[:, None] * (1.0 if fold is None else to_numpy(fold))
    # A row of gain 0 is dead whatever its step is, but a step must be positive.
    return LinearSpec(weight, bias, layer.bits.cpu().numpy(), np.maximum(np.abs(steps), 1e-30))


def norm_spec(norm: nn.LayerNorm, embed: int) -> NormSpec:
    """Describes the active channels of a LayerNorm for `quasar_rt.build`."""
    return NormSpec(to_numpy(norm.weight[:embed]), to_numpy(norm.bias[:embed]), norm.eps)


def affine(quantizer: ActQuantizer) -> Affine:
    """Describes the scale and zero point of a quantizer of one group for `quasar_rt.build`."""
    return Affine(quantizer.scale.item(), int(quantizer.zero_point))
