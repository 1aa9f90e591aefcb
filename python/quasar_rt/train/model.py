"""The trainable Vision Transformer: one set of parameters, a float forward pass and one that mirrors the integer model.

A network is a supernet: `ViT.activate` chooses the leading channels, heads, hidden units and blocks that it computes
with. A network that is never activated is an ordinary one. May depend on: torch, `quasar_rt.build`, `quasar_rt.space`,
`quasar_rt.train.block`, `quasar_rt.train.quantizers`, `quasar_rt.train.slices`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..build import NetworkSpec, build_subnet
from ..errors import InvalidValueError
from ..space import Architecture, Space
from .block import Block, affine, float_norm, linear_spec, norm_codes, norm_spec, on_grid, to_numpy
from .integer import IntegerModel, Trace, cut_patches
from .quantizers import ActQuantizer, RowLinear, leading, straight_through
from .slices import Region

__all__ = ["ViT", "ViTConfig"]


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


class ViT(nn.Module):
    """A pre-norm ViT with a class token and learned positions.

    `forward` computes in float until `quantized` is set. Then it gives the integer model's logits, bit for bit, in
    evaluation mode and, with `exact`, in training mode, with straight-through gradients; else those of fake quantizers,
    which come close (docs/training.md). Its input is uint8 [batch, channels, height, width]. `active` is the
    architecture that it computes (see `activate`). With `recompute`, only the inputs of blocks are kept for the
    gradients.
    """

    pixel_mean: Tensor
    pixel_std: Tensor
    residual_scale: Tensor

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        self.quantized = False
        self.exact = False
        self.recompute = False
        embed = config.architecture.embed
        rows, columns = config.grid
        self.embed = RowLinear(config.channels * config.kernel**2, embed)
        self.position = nn.Parameter(torch.empty(rows * columns, embed))
        self.prefix = nn.Parameter(torch.empty(1, embed))
        self.blocks = nn.ModuleList(
            Block(embed, shape, config.eps, config.layer_scale) for shape in config.architecture.blocks
        )
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
        self.embed.activate(a.embed, self.embed.columns, [1.0])
        for block, shape in zip(self.blocks, a.blocks, strict=False):
            block.activate(a.embed, shape)
        self.head.activate(self.config.classes, a.embed, [1.0])

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
        return cut_patches(images, c.kernel, c.stride, c.pad, c.pad_value) - self.pixel_mean

    def forward(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """Returns logits [batch, classes].

        `keep` [blocks, 2, batch] multiplies the branches of each block for each sample: 0 where a sample skips one. The
        integer model skips none, so a pass with `keep` is not exact. An exact pass rounds pixels that are not whole.
        """
        if not self.quantized:
            return self.float_logits(images, keep)
        if keep is not None or (self.training and not self.exact):
            return self._quantized(images, keep)
        images = torch.floor(images.float() + 0.5)
        trace: list[Trace] = []
        logits = self.integer()(images, trace)
        if not torch.is_grad_enabled():
            return logits
        return straight_through(logits, self._quantized(images, None, trace))

    def integer(self) -> IntegerModel:
        """Returns the active part in integers, as `spec` exports it now."""
        classes = [str(i) for i in range(self.config.classes)]
        subnet = build_subnet(self.spec("trained", classes, {"resize": {"mode": "none"}}, {}))
        return IntegerModel(subnet, self.prefix.device)

    def float_logits(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """Returns the logits of the float network, whatever `quantized` is; `keep` as in `forward`."""
        x = self._tokens(self.embed(self.patches(images) / self.pixel_std))
        for i, block in enumerate(self.blocks[: self.active.depth]):
            x = self._run(block, x, None if keep is None else keep[i])
        y = float_norm(self.norm, x[:, 0])
        self.norm_out.observe(y)
        return self.head(y)

    def _run(self, block: Callable[..., Tensor], x: Tensor, *arguments: Tensor | Trace | None) -> Tensor:
        if self.recompute and self.training and torch.is_grad_enabled():
            # Nothing in a block is random: `keep` is an argument.
            found: Tensor = checkpoint(block, x, *arguments, use_reentrant=False, preserve_rng_state=False)
            return found
        return block(x, *arguments)

    def _quantized(self, images: Tensor, keep: Tensor | None, exact: list[Trace] | None = None) -> Tensor:
        # The mean and std are folded into the patch embedding, whose input is the pixel itself (section Preprocess).
        # Centred pixels are no whole numbers, so bfloat16 does not hold them: this one product stays in float32.
        with torch.autocast(images.device.type, enabled=False):
            x = self.embed.integer(self.patches(images), fold=self.pixel_std)[0]
        x = on_grid(self._tokens(x), self.residual_scale, self.training)
        for i, block in enumerate(self.blocks[: self.active.depth]):
            codes = None if exact is None else exact[i]
            x = self._run(block.quantized, x, self.residual_scale, None if keep is None else keep[i], codes)
        pooled = norm_codes(self.norm, self.norm_out, x[:, 0], self.residual_scale)
        return self.head.update(pooled.exactly(None if exact is None else exact[-1]["pooled"]))

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
        out.quantized, out.exact = self.quantized, self.exact
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
        self,
        name: str,
        classes: list[str],
        preprocess: dict[str, Any],
        provenance: dict[str, Any],
        embedding: bool = False,
    ) -> NetworkSpec:
        """Returns the active part for `quasar_rt.build.build_subnet`, with the steps, widths and ranges of training.

        With `embedding` the subnet also gives the image's embedding.
        """
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
            embed=linear_spec(self.embed, fold=self.pixel_std),
            position=to_numpy(self.position[:, :d]),
            prefix=to_numpy(self.prefix[:, :d]),
            residual_scale=float(self.residual_scale),
            blocks=[block.spec() for block in self.blocks[: self.active.depth]],
            pool="token",
            norm=norm_spec(self.norm, d),
            norm_out=affine(self.norm_out),
            head=linear_spec(self.head),
            classes=classes,
            preprocess=preprocess,
            trained=True,
            provenance=provenance,
            embedding=embedding,
        )


def _check_part(part: Architecture, whole: Architecture) -> None:
    """Refuses a `part` that is no leading part of `whole`, and names what is not."""
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
