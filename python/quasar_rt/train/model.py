"""The trainable Vision Transformer: one set of parameters, a float forward pass and one that mirrors the integer model.

A network is a supernet: `ViT.activate` chooses the leading channels, heads, hidden units and blocks that it computes
with. One that never is activated is an ordinary network. May depend on: torch, numpy, `quasar_rt.build`,
`quasar_rt.space`, `quasar_rt.train.quantizers`, `quasar_rt.train.slices`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ..build import Affine, BlockSpec, LinearSpec, NetworkSpec, NormSpec, norm_out_range, norm_tensors
from ..errors import InvalidValueError
from ..space import Architecture, BlockShape, Space
from .quantizers import (
    MULTIPLIER_LIMIT,
    ActQuantizer,
    RowLinear,
    attention,
    layer_norm,
    leading,
    round_half_up,
)
from .slices import Region

__all__ = ["ViT", "ViTConfig"]

#: Below this GELU is flat to 0.005, so fc1's range need not reach further down.
GELU_FLOOR = -3.0


@dataclass(frozen=True)
class ViTConfig:
    """Shape of a network. Lengths are in pixels; `mean` and `std` are of pixel/255, one for each channel.

    `architecture` is the network itself or, of a supernet, its largest. `layer_scale` is the initial value of a learned
    factor on every channel of both residual branches (Touvron et al. 2021); None leaves the factors out.
    """

    height: int
    width: int
    channels: int
    kernel: int
    stride: int
    pad: int
    pad_value: int
    architecture: Architecture
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    layer_scale: float | None = None
    eps: float = 1e-6

    @classmethod
    def of(
        cls,
        space: Space,
        mean: Sequence[float],
        std: Sequence[float],
        layer_scale: float | None = None,
    ) -> ViTConfig:
        """Returns the supernet's configuration for a space; `mean` and `std` as above."""
        s = space.settings
        return cls(
            **s["image"],
            **s["patch"],
            architecture=space.decode(space.largest),
            classes=s["classes"],
            mean=tuple(mean),
            std=tuple(std),
            layer_scale=layer_scale,
        )

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        rows = (self.height + 2 * self.pad - self.kernel) // self.stride + 1
        columns = (self.width + 2 * self.pad - self.kernel) // self.stride + 1
        return rows, columns


class Block(nn.Module):
    """LayerNorm, attention, residual; LayerNorm, MLP, residual (Dosovitskiy et al. 2021)."""

    def __init__(self, config: ViTConfig, shape: BlockShape) -> None:
        super().__init__()
        embed = config.architecture.embed
        self.embed, self.heads, self.head_dim = embed, shape.heads, shape.head_dim
        self.norm1 = nn.LayerNorm(embed, eps=config.eps)
        self.qkv = RowLinear(embed, 3 * shape.inner, parts=3)
        self.proj = RowLinear(shape.inner, embed)
        self.norm2 = nn.LayerNorm(embed, eps=config.eps)
        self.fc1 = RowLinear(embed, shape.hidden)
        self.fc2 = RowLinear(shape.hidden, embed)
        self.gamma1: nn.Parameter | None
        self.gamma2: nn.Parameter | None
        for name in ("gamma1", "gamma2"):
            scale = None if config.layer_scale is None else torch.full((embed,), config.layer_scale)
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
        layers = (self.qkv, self.proj, self.fc1, self.fc2)
        columns = (embed, shape.inner, embed, shape.hidden)
        for layer, rows, n, fraction in zip(layers, shape.rows(embed), columns, shape.eight_bit, strict=True):
            layer.activate(rows, n, fraction)
        self.qkv_out.activate(3 * shape.heads)

    def forward(self, x: Tensor) -> Tensor:
        """Computes the float block; x [batch, tokens, embed]."""
        y = _norm(self.norm1, x)
        self.norm1_out.observe(y)
        qkv = self.qkv(y).unflatten(-1, (3 * self.heads, self.head_dim))
        self.qkv_out.observe(qkv)
        q, k, v = qkv.transpose(1, 2).chunk(3, dim=1)
        # Explicit products: the fused attention of PyTorch is slow in bfloat16 on a CPU.
        weights = (q @ k.transpose(-1, -2) * self.head_dim**-0.5).softmax(dim=-1)
        out = (weights.to(v.dtype) @ v).transpose(1, 2).flatten(2)
        self.attn_out.observe(out)
        x = x + self.proj(out, self._gamma(self.gamma1))
        y = _norm(self.norm2, x)
        self.norm2_out.observe(y)
        y = self.fc1(y)
        self.fc1_out.observe(y)
        y = F.gelu(y)
        self.act_out.observe(y)
        return x + self.fc2(y, self._gamma(self.gamma2))

    def quantized(self, x: Tensor, residual_scale: Tensor) -> Tensor:
        """Computes the block as the integer model does; x [batch, tokens, embed] is the residual stream."""
        y, scale = _norm_codes(self.norm1, self.norm1_out, x, residual_scale)
        qkv, step = self.qkv.integer(y, scale)
        qkv = qkv.unflatten(-1, (3 * self.heads, self.head_dim))
        codes, scale = self.qkv_out(qkv, _finest(step, 3 * self.heads))
        scale = scale.squeeze(-1)
        q_scale, k_scale, v_scale = scale.chunk(3)
        q, k, v = codes.transpose(1, 2).chunk(3, dim=1)
        mult = q_scale * k_scale * (2**20 * 64 * math.log2(math.e) * self.head_dim**-0.5)
        out = attention(q, k, v, mult) * v_scale.view(-1, 1, 1)
        y, scale = self.attn_out(out.transpose(1, 2).flatten(2))
        x = self._add(x, self.proj.integer(y, scale, self._gamma(self.gamma1))[0], residual_scale)

        y, scale = _norm_codes(self.norm2, self.norm2_out, x, residual_scale)
        y, step = self.fc1.integer(y, scale)
        y, scale = self.fc1_out(y, _finest(step, 1))
        y, scale = self.act_out(F.gelu(y * scale))
        return self._add(x, self.fc2.integer(y, scale, self._gamma(self.gamma2))[0], residual_scale)

    def _gamma(self, gamma: Tensor | None) -> Tensor | None:
        return None if gamma is None else leading(gamma, self.embed)

    def _add(self, x: Tensor, update: Tensor, residual_scale: Tensor) -> Tensor:
        return _on_grid(x + update, residual_scale, self.training)

    def spec(self) -> BlockSpec:
        """Returns the block for `quasar_rt.build`, the layer scale folded into proj and fc2."""
        scales = _numpy(self.qkv_out.scale).reshape(3, self.heads)
        return BlockSpec(
            heads=self.heads,
            head_dim=self.head_dim,
            norm1=_norm_spec(self.norm1, self.embed),
            qkv=_linear_spec(self.qkv),
            proj=_linear_spec(self.proj, self._gamma(self.gamma1)),
            norm2=_norm_spec(self.norm2, self.embed),
            fc1=_linear_spec(self.fc1),
            fc2=_linear_spec(self.fc2, self._gamma(self.gamma2)),
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
    [batch, channels, height, width]. `active` is the architecture that it computes (see `activate`).
    """

    pixel_mean: Tensor
    pixel_std: Tensor
    residual_scale: Tensor

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        self.quantized = False
        embed = config.architecture.embed
        rows, columns = config.grid
        self.embed = RowLinear(config.channels * config.kernel**2, embed)
        self.position = nn.Parameter(torch.empty(rows * columns, embed))
        self.prefix = nn.Parameter(torch.empty(1, embed))
        self.blocks = nn.ModuleList(Block(config, shape) for shape in config.architecture.blocks)
        self.norm = nn.LayerNorm(embed, eps=config.eps)
        self.norm_out = ActQuantizer()
        self.head = RowLinear(embed, config.classes)
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
        self.active = config.architecture
        self.activate(None)
        # Loaded ranks choose other 8-bit rows.
        self.register_load_state_dict_post_hook(_reactivate)

    def activate(self, architecture: Architecture | None) -> None:
        """Computes with this part of the network from now on; None: with all of it, at its configuration's fractions.

        A part is the first `embed` channels, the first blocks and in each of them the first heads and hidden units;
        which of the active rows are 8-bit follows from the rows' ranks (`set_row_ranks`) and the block's fractions.

        Raises:
            quasar_rt.InvalidValueError: names what this network does not have.
        """
        a = self.config.architecture if architecture is None else architecture
        _check_part(a, self.config.architecture)
        self.active = a
        self.embed.activate(a.embed, self.embed.columns, 1.0)
        for block, shape in zip(self.blocks, a.blocks, strict=False):
            block.activate(a.embed, shape)
        self.head.activate(self.config.classes, a.embed, 1.0)

    def set_row_ranks(self, ranks: Mapping[str, Any]) -> None:
        """Ranks the rows of matrices, by their names in `matrices`: int [rows], 0 for the first to be 8-bit."""
        matrices = self.matrices()
        for name, rank in ranks.items():
            matrices[name].rank.copy_(torch.as_tensor(rank))
        self.activate(self.active)

    def patches(self, images: Tensor) -> Tensor:
        """Cuts images uint8 [batch, channels, height, width] into centred pixels [batch, grid, channels*kernel^2].

        Columns are ordered (channel, ky, kx). Padding is `pad_value` of the raw image, centred as any pixel is.
        """
        c = self.config
        x = F.pad(images.float(), (c.pad,) * 4, value=float(c.pad_value))
        x = x.unfold(2, c.kernel, c.stride).unfold(3, c.kernel, c.stride)
        return x.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2) - self.pixel_mean

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits [batch, classes]."""
        return self._quantized(images) if self.quantized else self.float_logits(images)

    def float_logits(self, images: Tensor) -> Tensor:
        """Returns the logits of the float network, whatever `quantized` is."""
        x = self._tokens(self.embed(self.patches(images) / self.pixel_std))
        for block in self.blocks[: self.active.depth]:
            x = block(x)
        y = _norm(self.norm, x[:, 0])
        self.norm_out.observe(y)
        return self.head(y)

    def _quantized(self, images: Tensor) -> Tensor:
        # The mean and std are folded into the patch embedding, whose input is the pixel itself (section Preprocess).
        # Centred pixels are no whole numbers, so bfloat16 does not hold them: this one product stays in float32.
        with torch.autocast(images.device.type, enabled=False):
            x = self.embed.integer(self.patches(images), fold=self.pixel_std)[0]
        x = _on_grid(self._tokens(x), self.residual_scale, self.training)
        for block in self.blocks[: self.active.depth]:
            x = block.quantized(x, self.residual_scale)
        y, scale = _norm_codes(self.norm, self.norm_out, x[:, 0], self.residual_scale)
        return self.head.integer(y, scale)[0]

    def _tokens(self, x: Tensor) -> Tensor:
        """Adds positions to embedded patches [batch, grid, embed] and puts the class token before them."""
        x = x + leading(self.position, len(self.position), self.active.embed)
        token = leading(self.prefix, 1, self.active.embed)
        return torch.cat([token.expand(x.shape[0], -1, -1), x], dim=1)

    def touched(self) -> dict[str, Region]:
        """Returns the part of each parameter that a training step of the active network changes.

        With quantizers that includes the steps of the rows that are 4-bit now, and the scales of the activations.
        """
        regions = self.regions()
        if not self.quantized:
            return {name: r for name, r in regions.items() if not name.endswith((".log_step", ".log_scale"))}
        for name, layer in self.matrices().items():
            key = f"{name}.log_step"
            if key not in regions:
                continue
            region = regions.pop(key)
            if not layer.eight.all():
                rows = torch.zeros(layer.weight.shape[0], dtype=torch.bool, device=layer.weight.device)
                next(region.views(rows)).copy_(~layer.eight.view(region.shape[0], -1, 1))
                regions[key] = Region(region.shape, rows=rows)
        return regions

    def regions(self) -> dict[str, Region]:
        """Returns the active part of every parameter."""
        d = self.active.embed
        regions = {
            "position": Region((1, *self.position.shape), ((len(self.position), d),)),
            "prefix": Region((1, *self.prefix.shape), ((1, d),)),
            "norm_out.log_scale": Region((1, 1, 1), ((1, 1),)),
        }

        def linear(name: str, layer: RowLinear) -> None:
            total, columns = layer.weight.shape
            each = layer.rows // layer.parts
            shape = (layer.parts, total // layer.parts)
            regions[f"{name}.weight"] = Region((*shape, columns), ((each, layer.columns),))
            for vector in ("bias", "log_step"):
                regions[f"{name}.{vector}"] = Region((*shape, 1), ((each, 1),))

        def channels(*names: str) -> None:
            for name in names:
                regions[name] = Region((1, self.config.architecture.embed, 1), ((d, 1),))

        linear("embed", self.embed)
        linear("head", self.head)
        channels("norm.weight", "norm.bias")
        for i, block in enumerate(self.blocks[: self.active.depth]):
            for name in ("qkv", "proj", "fc1", "fc2"):
                linear(f"blocks.{i}.{name}", getattr(block, name))
            for name in ("norm1", "norm2"):
                channels(f"blocks.{i}.{name}.weight", f"blocks.{i}.{name}.bias")
            if self.config.layer_scale is not None:
                channels(f"blocks.{i}.gamma1", f"blocks.{i}.gamma2")
            for name in ("norm1_out", "qkv_out", "attn_out", "norm2_out", "fc1_out", "act_out"):
                q = getattr(block, name)
                shape = (q.parts, len(q.log_scale) // q.parts, 1)
                regions[f"blocks.{i}.{name}.log_scale"] = Region(shape, ((q.groups // q.parts, 1),))
        return regions

    @torch.no_grad()
    def extract(self, architecture: Architecture | None = None) -> ViT:
        """Copies a part into a network of its own, with weights, ranks and ranges; None: the active part.

        It gives the same logits as this network with that part active, bit for bit, in float and with quantizers.
        Raises like `activate`.
        """
        before = self.active
        if architecture is not None:
            self.activate(architecture)
        with torch.random.fork_rng(devices=[]):
            out = ViT(dataclasses.replace(self.config, architecture=self.active))
        out.to(self.prefix.device).train(self.training)
        out.quantized = self.quantized
        mine, regions = dict(self.named_parameters()), self.regions()
        for name, parameter in out.named_parameters():
            view = next(regions[name].views(mine[name]))
            parameter.copy_(view.reshape(parameter.shape))
        buffers = dict(self.named_buffers())
        matrices = self.matrices()
        for name, buffer in out.named_buffers():
            layer = matrices.get(name.removesuffix(".rank"))
            if layer is None:
                buffer.copy_(buffers[name])
            else:
                buffer.copy_(layer.active_rank())
        out.activate(None)
        self.activate(before)
        return out

    def quantizers(self) -> dict[str, ActQuantizer]:
        """Returns every activation quantizer of the active part by name."""
        inside = {
            f"blocks.{i}.{name}": module
            for i, block in enumerate(self.blocks[: self.active.depth])
            for name, module in block.named_children()
            if isinstance(module, ActQuantizer)
        }
        return inside | {"norm_out": self.norm_out}

    def activation_scales(self) -> dict[str, list[float]]:
        """Returns the scales of every activation of the active part by name, and the residual's."""
        scales = {name: quantizer.scale.detach().tolist() for name, quantizer in self.quantizers().items()}
        return {"residual": [float(self.residual_scale)], **scales}

    def matrices(self) -> dict[str, RowLinear]:
        """Returns every row-wise quantized matrix by name, those of inactive blocks too."""
        return {name: module for name, module in self.named_modules() if isinstance(module, RowLinear)}

    @torch.no_grad()
    def calibrate(self, images: Tensor, percentile: float | None, batch: int = 250) -> None:
        """Sets the active part's activation scales and zero points and the residual's scale.

        They come from the float pass over `images`, uint8 [n, channels, height, width]. Without a `percentile` the
        activations keep their scales (learned ones, for example), and only the residual's scale is set.
        """
        largest: list[Tensor] = []

        def keep(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            largest.extend((inputs[0].abs().amax(), output.abs().amax()))

        hooks = [block.register_forward_hook(keep) for block in self.blocks]
        quantizers = [] if percentile is None else list(self.quantizers().values())
        for quantizer in quantizers:
            quantizer.observing = True
        try:
            for part in images.split(batch):
                self.float_logits(part.to(self.prefix.device))
        finally:
            for hook in hooks:
                hook.remove()
        # Half as much again as the largest value seen: the residual must not saturate on other images.
        self.residual_scale.copy_(1.5 * torch.stack(largest).max() / 32767)
        for quantizer in quantizers:
            assert percentile is not None
            quantizer.finish(percentile)

    def spec(
        self, name: str, classes: list[str], preprocess: dict[str, Any], provenance: dict[str, Any]
    ) -> NetworkSpec:
        """Returns the active part for `quasar_rt.build.build_subnet`, with the steps, widths and ranges of training."""
        c, d = self.config, self.active.embed
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
            embed=_linear_spec(self.embed, fold=self.pixel_std),
            position=_numpy(self.position[:, :d]),
            prefix=_numpy(self.prefix[:, :d]),
            residual_scale=float(self.residual_scale),
            blocks=[block.spec() for block in self.blocks[: self.active.depth]],
            pool="token",
            norm=_norm_spec(self.norm, d),
            norm_out=_affine(self.norm_out),
            head=_linear_spec(self.head),
            classes=classes,
            preprocess=preprocess,
            trained=True,
            provenance=provenance,
        )


def _norm_codes(
    norm: nn.LayerNorm, out: ActQuantizer, x: Tensor, residual_scale: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns LayerNorm's output as codes without zero point, and their scale; in integers outside training."""
    if out.training:
        codes, scale = out(_norm(norm, x))
        return codes, scale
    spec = _norm_spec(norm, x.shape[-1])
    affine = norm_out_range(spec, _affine(out))
    tensors = norm_tensors("norm", spec, affine, float(residual_scale))
    gain, bias = (torch.from_numpy(tensors[f"norm.{k}"]).int().to(x.device) for k in ("gain", "bias"))
    frac, epsilon = int(tensors["norm.frac"][0]), int(tensors["norm.epsilon"][0])
    codes = layer_norm(torch.round(x.detach() / residual_scale).int(), gain, bias, frac, epsilon).to(x.dtype)
    codes = codes - out.zero_point
    scale = torch.full_like(residual_scale, affine.scale)
    if torch.is_grad_enabled():
        smooth = out(_norm(norm, x))[0]
        codes = smooth + (codes - smooth).detach()
    return codes, scale


def _check_part(part: Architecture, whole: Architecture) -> None:
    """Refuses a `part` that is no leading part of `whole`, and name what is not."""
    sizes = [("embed", part.embed, whole.embed), ("depth", part.depth, whole.depth)]
    for i, (a, b) in enumerate(zip(part.blocks, whole.blocks, strict=False)):
        sizes += [(f"heads of block {i}", a.heads, b.heads), (f"hidden of block {i}", a.hidden, b.hidden)]
        if a.head_dim != b.head_dim:
            raise InvalidValueError(f"head_dim of block {i} is {a.head_dim}; this network's is {b.head_dim}")
    for name, size, largest in sizes:
        if not 1 <= size <= largest:
            raise InvalidValueError(f"{name} is {size}; this network holds 1 to {largest}")


def _reactivate(model: ViT, _keys: Any) -> None:
    """Chooses the 8-bit rows again, by the ranks that were loaded."""
    model.activate(model.active)


def _norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """Applies LayerNorm over as many channels as `x` has."""
    d = x.shape[-1]
    return F.layer_norm(x, (d,), leading(norm.weight, d), leading(norm.bias, d), norm.eps)


def _finest(step: Tensor, groups: int) -> Tensor:
    """Returns the finest output scale [groups] whose multiplier the integer model holds, for rows of these steps."""
    return step.detach().view(groups, -1).amax(dim=1) / MULTIPLIER_LIMIT


def _on_grid(x: Tensor, scale: Tensor, training: bool) -> Tensor:
    """Rounds the residual stream to int16. The rounding is far below every other one, so training leaves it out."""
    return x if training else (round_half_up(x / scale)).clamp(-32767, 32767) * scale


def _numpy(x: Tensor) -> NDArray[np.float64]:
    array: NDArray[np.float64] = x.detach().double().cpu().numpy()
    return array


def _linear_spec(layer: RowLinear, gain: Tensor | None = None, fold: Tensor | None = None) -> LinearSpec:
    """Returns the active part, each row multiplied by `gain`; `fold` as in `RowLinear.quantized`.

    The weights are given as their codes stand for them, so that they quantize to the same codes again.
    """
    codes, scales = layer.quantized(fold)
    factor = 1.0 if gain is None else _numpy(gain)
    steps, bias = _numpy(scales) * factor, _numpy(layer.active_bias()) * factor
    weight = _numpy(codes) * steps[:, None] * (1.0 if fold is None else _numpy(fold))
    # A row of gain 0 is dead whatever its step is, but a step must be positive.
    return LinearSpec(weight, bias, layer.bits.cpu().numpy(), np.maximum(np.abs(steps), 1e-30))


def _norm_spec(norm: nn.LayerNorm, embed: int) -> NormSpec:
    return NormSpec(_numpy(norm.weight[:embed]), _numpy(norm.bias[:embed]), norm.eps)


def _affine(quantizer: ActQuantizer) -> Affine:
    return Affine(quantizer.scale.item(), int(quantizer.zero_point))
