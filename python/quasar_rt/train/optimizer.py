"""AdamW that leaves alone what the sampled subnets did not use.

Momentum and weight decay move a parameter even where its gradient is zero, so that plain AdamW changes weights outside
the sampled slice. Here they, their moments and their step counts keep every bit. May depend on: torch,
`quasar_rt.train.slices`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from .slices import Region

__all__ = ["SliceAdamW"]


class SliceAdamW(torch.optim.Optimizer):
    """Applies AdamW (Loshchilov and Hutter 2019) to the touched part of a model's parameters.

    Matrices and tables decay, vectors (biases, norms, steps, scales) do not. Each element's bias correction counts
    that element's own updates. Where everything is touched in every step it is ``torch.optim.AdamW(fused=True)``, bit
    for bit.

    Args:
        model: its parameters, by the names that `step` is given.
        lr: learning rate; ``param_groups[i]["lr"]`` changes it.
        betas: decay of the first and second moment.
        eps: added to the root of the second moment.
        weight_decay: of the matrices.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        self._names = {parameter: name for name, parameter in model.named_parameters()}
        groups = [
            {"params": [p for p in self._names if p.ndim >= 2], "weight_decay": weight_decay},
            {"params": [p for p in self._names if p.ndim < 2], "weight_decay": 0.0},
        ]
        # `fused` also makes load_state_dict bring the step counts to the parameters' device.
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "fused": True})

    @torch.no_grad()
    def step(self, touched: Mapping[str, Region] | None = None) -> None:
        """Updates the elements of `touched` (`ViT.touched`, `slices.union`) that have a gradient; None: all of them."""
        for group in self.param_groups:
            whole, parts = _Lists(), _Lists()
            selected: list[tuple[Tensor, tuple[Tensor, ...]]] = []
            for parameter in group["params"]:
                region = None if touched is None else touched.get(self._names[parameter])
                if parameter.grad is None or (touched is not None and region is None):
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                    state["exp_avg"] = torch.zeros_like(parameter)
                    state["exp_avg_sq"] = torch.zeros_like(parameter)
                if region is not None and region.whole:
                    region = None
                if region is None and state["step"].ndim == 0:
                    whole.append(parameter, parameter.grad, state)
                    continue
                if state["step"].ndim == 0 and parameter.ndim > 0:
                    state["step"] = torch.full_like(parameter, state["step"].item(), dtype=torch.float32)
                tensors = (parameter, parameter.grad, state["exp_avg"], state["exp_avg_sq"], state["step"])
                if region is None:
                    parts.extend(*([tensor] for tensor in tensors))
                elif region.rows is not None:
                    selected.append((region.rows.nonzero().squeeze(1), tensors))
                else:
                    parts.extend(*(list(region.views(tensor)) for tensor in tensors))
            if whole.parameters:
                _update_whole(whole, group)
            if selected:
                # Many short vectors: gathered into one, updated, and put back.
                gathered = [torch.cat([t[i][rows] for rows, t in selected]) for i in range(5)]
                parts.extend(*([tensor] for tensor in gathered))
            if parts.parameters:
                _update(parts, group)
            if selected:
                lengths = [len(rows) for rows, _ in selected]
                for i in (0, 2, 3, 4):
                    for (rows, t), values in zip(selected, gathered[i].split(lengths), strict=True):
                        t[i][rows] = values


class _Lists:
    """Holds the operands of one update: lists of equal length, of tensors of equal shapes."""

    def __init__(self) -> None:
        self.parameters: list[Tensor] = []
        self.gradients: list[Tensor] = []
        self.averages: list[Tensor] = []
        self.squares: list[Tensor] = []
        self.steps: list[Tensor] = []

    def append(self, parameter: Tensor, gradient: Tensor, state: dict[str, Tensor]) -> None:
        self.extend([parameter], [gradient], [state["exp_avg"]], [state["exp_avg_sq"]], [state["step"]])

    def extend(self, *lists: list[Tensor]) -> None:
        mine = (self.parameters, self.gradients, self.averages, self.squares, self.steps)
        for old, new in zip(mine, lists, strict=True):
            old.extend(new)


def _update_whole(lists: _Lists, group: dict[str, Any]) -> None:
    """Applies AdamW in place to whole parameters, which have one count each."""
    adamw(
        lists.parameters,
        lists.gradients,
        lists.averages,
        lists.squares,
        [],
        lists.steps,
        fused=True,
        amsgrad=False,
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        lr=group["lr"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=False,
    )


def _update(lists: _Lists, group: dict[str, Any]) -> None:
    """Applies AdamW in place, with bias corrections by each element's own count."""
    beta1, beta2 = group["betas"]
    torch._foreach_add_(lists.steps, 1.0)
    if group["weight_decay"]:
        torch._foreach_mul_(lists.parameters, 1 - group["lr"] * group["weight_decay"])
    torch._foreach_lerp_(lists.averages, lists.gradients, 1 - beta1)
    torch._foreach_mul_(lists.squares, beta2)
    torch._foreach_addcmul_(lists.squares, lists.gradients, lists.gradients, 1 - beta2)
    root = torch._foreach_div(lists.squares, _correction(lists.steps, beta2))
    torch._foreach_sqrt_(root)
    torch._foreach_add_(root, group["eps"])
    average = torch._foreach_div(lists.averages, _correction(lists.steps, beta1))
    torch._foreach_addcdiv_(lists.parameters, average, root, -group["lr"])


def _correction(steps: list[Tensor], beta: float) -> list[Tensor]:
    """Returns ``1 - beta^step``, without the cancellation that this form has in float32."""
    power: list[Tensor] = torch._foreach_mul(steps, math.log(beta) if beta else -math.inf)
    torch._foreach_expm1_(power)
    torch._foreach_neg_(power)
    return power
