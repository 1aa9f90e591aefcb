"""The trainable Vision Transformer: one set of parameters, a float forward pass and one that mirrors the integer model.

May depend on: torch, numpy, `quasar_rt.build`, `quasar_rt.train.quantizers`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ..build import Affine, BlockSpec, LinearSpec, NetworkSpec, NormSpec
from .quantizers import MULTIPLIER_LIMIT, ActQuantizer, RowLinear, attention, round_half_up

__all__ = ["ViT", "ViTConfig"]

#: Below this GELU is flat to 0.005, so fc1's range need not reach further down.
GELU_FLOOR = -3.0


@dataclass(frozen=True)
class ViTConfig:
    """Shape of a network. Lengths are in pixels; `mean` and `std` are of pixel/255, one for each channel."""

    height: int
    width: int
    channels: int
    kernel: int
    stride: int
    pad: int
    pad_value: int
    embed: int
    depth: int
    heads: int
    head_dim: int
    hidden: int
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    eps: float = 1e-6

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        rows = (self.height + 2 * self.pad - self.kernel) // self.stride + 1
        columns = (self.width + 2 * self.pad - self.kernel) // self.stride + 1
        return rows, columns


class Block(nn.Module):
    """LayerNorm, attention, residual; LayerNorm, MLP, residual (Dosovitskiy et al. 2021)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.heads, self.head_dim = config.heads, config.head_dim
        inner = config.heads * config.head_dim
        self.norm1 = nn.LayerNorm(config.embed, eps=config.eps)
        self.qkv = RowLinear(config.embed, 3 * inner)
        self.proj = RowLinear(inner, config.embed)
        self.norm2 = nn.LayerNorm(config.embed, eps=config.eps)
        self.fc1 = RowLinear(config.embed, config.hidden)
        self.fc2 = RowLinear(config.hidden, config.embed)
        self.norm1_out = ActQuantizer()
        self.qkv_out = ActQuantizer(groups=3 * config.heads, symmetric=True)
        self.attn_out = ActQuantizer(symmetric=True)
        self.norm2_out = ActQuantizer()
        self.fc1_out = ActQuantizer(floor=GELU_FLOOR)
        self.act_out = ActQuantizer()

    def forward(self, x: Tensor) -> Tensor:
        """The float block. x [batch, tokens, embed]."""
        y = self.norm1(x)
        self.norm1_out.observe(y)
        qkv = self.qkv(y).unflatten(-1, (3 * self.heads, self.head_dim))
        self.qkv_out.observe(qkv)
        q, k, v = qkv.transpose(1, 2).chunk(3, dim=1)
        # Explicit products: the fused attention of PyTorch is slow in bfloat16 on a CPU.
        weights = (q @ k.transpose(-1, -2) * self.head_dim**-0.5).softmax(dim=-1)
        out = (weights.to(v.dtype) @ v).transpose(1, 2).flatten(2)
        self.attn_out.observe(out)
        x = x + self.proj(out)
        y = self.norm2(x)
        self.norm2_out.observe(y)
        y = self.fc1(y)
        self.fc1_out.observe(y)
        y = F.gelu(y)
        self.act_out.observe(y)
        return x + self.fc2(y)

    def quantized(self, x: Tensor, residual_scale: Tensor) -> Tensor:
        """The block as the integer model computes it; x [batch, tokens, embed] is the residual stream."""
        y, scale = self.norm1_out(self.norm1(x))
        qkv, step = self.qkv.integer(y, scale)
        qkv = qkv.unflatten(-1, (3 * self.heads, self.head_dim))
        codes, scale = self.qkv_out(qkv, _finest(step, 3 * self.heads))
        scale = scale.squeeze(-1)
        q_scale, k_scale, v_scale = scale.chunk(3)
        q, k, v = codes.transpose(1, 2).chunk(3, dim=1)
        mult = q_scale * k_scale * (2**20 * 64 * math.log2(math.e) * self.head_dim**-0.5)
        out = attention(q, k, v, mult) * v_scale.view(-1, 1, 1)
        y, scale = self.attn_out(out.transpose(1, 2).flatten(2))
        x = self._add(x, y, scale, self.proj, residual_scale)

        y, scale = self.norm2_out(self.norm2(x))
        y, step = self.fc1.integer(y, scale)
        y, scale = self.fc1_out(y, _finest(step, 1))
        y, scale = self.act_out(F.gelu(y * scale))
        return self._add(x, y, scale, self.fc2, residual_scale)

    def _add(
        self, x: Tensor, codes: Tensor, scale: Tensor, layer: RowLinear, residual_scale: Tensor
    ) -> Tensor:
        return _on_grid(x + layer.integer(codes, scale)[0], residual_scale, self.training)

    def spec(self) -> BlockSpec:
        scales = self.qkv_out.scale.detach().double().numpy().reshape(3, self.heads)
        return BlockSpec(
            heads=self.heads,
            head_dim=self.head_dim,
            norm1=_norm_spec(self.norm1),
            qkv=_linear_spec(self.qkv),
            proj=_linear_spec(self.proj),
            norm2=_norm_spec(self.norm2),
            fc1=_linear_spec(self.fc1),
            fc2=_linear_spec(self.fc2),
            norm1_out=_affine(self.norm1_out),
            q_scale=scales[0],
            k_scale=scales[1],
            v_scale=scales[2],
            attn_out=_affine(self.attn_out).scale,
            norm2_out=_affine(self.norm2_out),
            fc1_out=_affine(self.fc1_out),
            act_out=_affine(self.act_out),
        )


class ViT(nn.Module):
    """A pre-norm ViT with a class token and learned positions.

    `forward` computes in float until `quantized` is set; then it mirrors the integer model. Its input is uint8
    [batch, channels, height, width].
    """

    pixel_mean: Tensor
    pixel_std: Tensor
    residual_scale: Tensor

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        self.quantized = False
        rows, columns = config.grid
        self.embed = RowLinear(config.channels * config.kernel**2, config.embed)
        self.position = nn.Parameter(torch.empty(rows * columns, config.embed))
        self.prefix = nn.Parameter(torch.empty(1, config.embed))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.embed, eps=config.eps)
        self.norm_out = ActQuantizer()
        self.head = RowLinear(config.embed, config.classes)
        per_channel = config.kernel**2
        self.register_buffer(
            "pixel_mean", 255 * torch.tensor(config.mean).repeat_interleave(per_channel), persistent=False
        )
        self.register_buffer(
            "pixel_std", 255 * torch.tensor(config.std).repeat_interleave(per_channel), persistent=False
        )
        self.register_buffer("residual_scale", torch.ones(()))
        for table in (self.position, self.prefix, self.head.weight):
            nn.init.trunc_normal_(table, std=0.02)

    def patches(self, images: Tensor) -> Tensor:
        """Images uint8 [batch, channels, height, width] to centred pixels [batch, grid, channels*kernel^2].

        Columns are ordered (channel, ky, kx). Padding is `pad_value` of the raw image, centred as any pixel is.
        """
        c = self.config
        x = F.pad(images.float(), (c.pad,) * 4, value=float(c.pad_value))
        x = x.unfold(2, c.kernel, c.stride).unfold(3, c.kernel, c.stride)
        return x.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2) - self.pixel_mean

    def forward(self, images: Tensor) -> Tensor:
        """Logits [batch, classes]."""
        return self._quantized(images) if self.quantized else self.float_logits(images)

    def float_logits(self, images: Tensor) -> Tensor:
        """Logits of the float network, whatever `quantized` says."""
        x = self.embed(self.patches(images) / self.pixel_std) + self.position
        x = torch.cat([self.prefix.expand(x.shape[0], -1, -1), x], dim=1)
        for block in self.blocks:
            x = block(x)
        y = self.norm(x[:, 0])
        self.norm_out.observe(y)
        return self.head(y)

    def _quantized(self, images: Tensor) -> Tensor:
        # The mean and std are folded into the patch embedding, whose input is the pixel itself (section Preprocess).
        if len(set(self.config.std)) > 1:
            raise ValueError(
                f"std is {self.config.std}: quantization-aware training needs the same value for every channel, "
                "as a row's step belongs to the whole row"
            )
        x = self.embed.integer(self.patches(images), 1 / self.pixel_std[0])[0] + self.position
        x = torch.cat([self.prefix.expand(x.shape[0], -1, -1), x], dim=1)
        x = _on_grid(x, self.residual_scale, self.training)
        for block in self.blocks:
            x = block.quantized(x, self.residual_scale)
        y, scale = self.norm_out(self.norm(x[:, 0]))
        return self.head.integer(y, scale)[0]

    def quantizers(self) -> list[ActQuantizer]:
        """Every activation quantizer, in forward order of the blocks."""
        return [module for module in self.modules() if isinstance(module, ActQuantizer)]

    def activation_scales(self) -> dict[str, list[float]]:
        """Every activation's scales by name, and the residual's."""
        scales = {"residual": [float(self.residual_scale)]}
        for name, module in self.named_modules():
            if isinstance(module, ActQuantizer):
                scales[name] = module.scale.detach().tolist()
        return scales

    def matrices(self) -> dict[str, RowLinear]:
        """Every row-wise quantized matrix by name."""
        return {name: module for name, module in self.named_modules() if isinstance(module, RowLinear)}

    @torch.no_grad()
    def calibrate(self, images: Tensor, percentile: float, batch: int = 250) -> None:
        """Set every activation's scale and zero point and the residual's scale from the float pass over `images`."""
        largest: list[Tensor] = []

        def keep(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            largest.extend((inputs[0].abs().amax(), output.abs().amax()))

        hooks = [block.register_forward_hook(keep) for block in self.blocks]
        for quantizer in self.quantizers():
            quantizer.observing = True
        try:
            for part in images.split(batch):
                self.float_logits(part)
        finally:
            for hook in hooks:
                hook.remove()
        # Half as much again as the largest value seen: the residual must not saturate on other images.
        self.residual_scale.copy_(1.5 * torch.stack(largest).max() / 32767)
        for quantizer in self.quantizers():
            quantizer.finish(percentile)

    def spec(
        self, name: str, classes: list[str], preprocess: dict[str, Any], provenance: dict[str, Any]
    ) -> NetworkSpec:
        """The network for `quasar_rt.build.build_subnet`, with the steps, widths and ranges that training used."""
        c = self.config
        return NetworkSpec(
            name=name,
            height=c.height,
            width=c.width,
            channels=c.channels,
            mean=c.mean,
            std=c.std,
            kernel=c.kernel,
            stride=c.stride,
            pad=c.pad,
            pad_value=c.pad_value,
            embed=_linear_spec(self.embed),
            position=_numpy(self.position),
            prefix=_numpy(self.prefix),
            residual_scale=float(self.residual_scale),
            blocks=[block.spec() for block in self.blocks],
            pool="token",
            norm=_norm_spec(self.norm),
            norm_out=_affine(self.norm_out),
            head=_linear_spec(self.head),
            classes=classes,
            preprocess=preprocess,
            trained=True,
            provenance=provenance,
        )


def _finest(step: Tensor, groups: int) -> Tensor:
    """The finest output scale [groups] whose multiplier the integer model holds, for rows of these steps."""
    return step.detach().view(groups, -1).amax(dim=1) / MULTIPLIER_LIMIT


def _on_grid(x: Tensor, scale: Tensor, training: bool) -> Tensor:
    """The residual stream in int16. Its rounding is far below every other one, so training leaves it out."""
    return x if training else (round_half_up(x / scale)).clamp(-32767, 32767) * scale


def _numpy(x: Tensor) -> NDArray[np.float64]:
    array: NDArray[np.float64] = x.detach().double().cpu().numpy()
    return array


def _linear_spec(layer: RowLinear) -> LinearSpec:
    scales = layer.quantized()[1]
    return LinearSpec(_numpy(layer.weight), _numpy(layer.bias), layer.bits.cpu().numpy(), _numpy(scales))


def _norm_spec(norm: nn.LayerNorm) -> NormSpec:
    return NormSpec(_numpy(norm.weight), _numpy(norm.bias), norm.eps)


def _affine(quantizer: ActQuantizer) -> Affine:
    return Affine(quantizer.scale.item(), int(quantizer.zero_point))
