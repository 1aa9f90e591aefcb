"""Processes that train together: their rank, the one sum of a step, and what must be alike in all of them.

One process is the plain case: every function then does nothing. Depends on: torch.
"""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..errors import QuasarError

__all__ = ["DistributedError", "Group", "choose_device", "init_process_group"]

T = TypeVar("T")

#: After this long without its neighbours a process gives up, so that a failed rank does not leave the others waiting.
TIMEOUT = dt.timedelta(minutes=10)


class DistributedError(QuasarError, RuntimeError):
    """Processes that should train together cannot."""


@dataclass
class Group:
    """The processes of a run: this one's `rank` among `world`, and the device it computes on."""

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self) -> bool:
        """True in the process that writes files and logs."""
        return self.rank == 0

    @torch.no_grad()
    def sum_gradients(self, parameters: Iterable[nn.Parameter], extra: Tensor) -> Tensor:
        """Sums every gradient in place by one all-reduce; returns the sum of `extra` float32 [n].

        Every process must hold gradients for the same parameters.
        """
        if self.world == 1:
            return extra
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([*(g.reshape(-1) for g in gradients), extra.to(gradients[0].device)])
        dist.all_reduce(flat)
        at = 0
        for gradient in gradients:
            gradient.copy_(flat[at : at + gradient.numel()].view_as(gradient))
            at += gradient.numel()
        return flat[at:].to(extra.device)

    def sum(self, values: Tensor) -> Tensor:
        """Returns the sum of `values` over the processes, on the CPU."""
        if self.world > 1:
            values = values.to(self.device)
            dist.all_reduce(values)
        return values.cpu()

    @torch.no_grad()
    def broadcast(self, model: nn.Module) -> None:
        """Gives every process the first one's parameters and buffers."""
        if self.world > 1:
            for tensor in model.state_dict().values():
                if isinstance(tensor, Tensor):
                    # Narrow and boolean types are not supported by every backend.
                    wide = tensor.to(
                        self.device, torch.float64 if tensor.is_floating_point() else torch.int64
                    )
                    dist.broadcast(wide, 0)
                    tensor.copy_(wide)

    def share(self, value: Any) -> Any:
        """Returns the first process's `value` in all of them."""
        if self.world == 1:
            return value
        box = [value if self.first else None]
        dist.broadcast_object_list(box, 0, device=self.device)
        return box[0]

    def from_first(self, make: Callable[[], T]) -> T:
        """Calls `make` in the first process and returns its result in all: the others need not see its files.

        Raises:
            Exception: in the first process what `make` raises.
            DistributedError: in the others then.
        """
        value: Any = None
        error: Exception | None = None
        if self.first:
            try:
                value = make()
            # Whatever it is, the others wait for an answer.
            except Exception as caught:
                error = caught
        value, failure = self.share((value, error and f"{type(error).__name__}: {error}"))
        if error is not None:
            raise error
        if failure:
            raise DistributedError(f"the first process failed: {failure}")
        made: T = value
        return made

    def barrier(self) -> None:
        """Waits for the others."""
        if self.world > 1:
            dist.barrier()

    def leave(self) -> None:
        """Ends the group (at the end of the process)."""
        if self.world > 1 and dist.is_initialized():
            dist.destroy_process_group()


#: The variables that torchrun sets in addition to WORLD_SIZE and LOCAL_RANK.
_RENDEZVOUS = ("RANK", "MASTER_ADDR", "MASTER_PORT")


def _number(name: str, default: int, least: int) -> int:
    """Reads a variable of the environment that torchrun sets."""
    text = os.environ.get(name, str(default))
    if not (text.isascii() and text.isdigit() and int(text) >= least):
        raise DistributedError(
            f"{name} is '{text}', no whole number from {least} on: torchrun sets it, or unset it"
        )
    return int(text)


def init_process_group(device: str | None = None, timeout: dt.timedelta = TIMEOUT) -> Group:
    """Joins the processes that ``torchrun`` started; without torchrun the group has one process.

    Args:
        device: ``cpu``, ``cuda`` or ``cuda:N``; without it CUDA where there is any, and one GPU for each process.
        timeout: after which a process that waits for the others fails.

    Raises:
        DistributedError: there is no such device, or more processes on this machine than GPUs, or what torchrun sets in
            the environment is missing or wrong.
    """
    world, local = _number("WORLD_SIZE", 1, 1), _number("LOCAL_RANK", 0, 0)
    if world > 1:
        if missing := [name for name in _RENDEZVOUS if name not in os.environ]:
            raise DistributedError(
                f"WORLD_SIZE is {world}, but {', '.join(missing)} not set: start with torchrun, or unset WORLD_SIZE"
            )
        if (rank := _number("RANK", 0, 0)) >= world:
            raise DistributedError(f"RANK is {rank}, but WORLD_SIZE {world}: ranks are below that")
    chosen = choose_device(device, local if world > 1 else None)
    if world == 1:
        return Group(device=chosen)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=timeout)
    return Group(dist.get_rank(), dist.get_world_size(), chosen)


def choose_device(device: str | None = None, local: int | None = None) -> torch.device:
    """Returns the device of this process, and makes a GPU the current one.

    Args:
        device: as for `init_process_group`.
        local: this process's number among those of this machine, each of which takes a GPU of its own.

    Raises:
        DistributedError: there is no such device, or more processes on this machine than GPUs.
    """
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(name)
    except RuntimeError as error:
        raise DistributedError(f"'{name}' is no device: use cpu, cuda or cuda:N") from error
    if chosen.type == "cuda":
        count = torch.cuda.device_count()
        index = (local or 0) if chosen.index is None else chosen.index
        if index >= count:
            raise DistributedError(
                f"process {local or 0} of this machine wants GPU {index}, but there are {count}: "
                "use --nproc-per-node with at most that many, or --device cpu"
            )
        chosen = torch.device("cuda", index)
        torch.cuda.set_device(chosen)
    elif chosen.type != "cpu":
        raise DistributedError(f"'{name}' is not supported: use cpu, cuda or cuda:N")
    return chosen
