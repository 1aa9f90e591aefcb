"""Metrics for TensorBoard and Weights & Biases, where a run asks for them.

Depends on tensorboard (with PyTorch's writer) or wandb, each only where it is asked for.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from .errors import InvalidValueError, QuasarError
from .files import refused

__all__ = ["TRACKERS", "Tracker", "open_tracker"]

#: Names that `open_tracker` takes.
TRACKERS = ("tensorboard", "wandb")


class Tracker(Protocol):
    """Takes the metrics of a run: of a training or of a search."""

    def scalars(self, group: str, count: int, values: Mapping[str, float]) -> None:
        """Takes values by name, at place `count` in a group such as ``float/step`` or ``search/generation``."""

    def close(self) -> None:
        """Writes what is left."""


def open_tracker(name: str, folder: Path, settings: Mapping[str, Any], from_start: bool = False) -> Tracker:
    """Opens a tracker of the run in `folder`.

    Args:
        name: one of `TRACKERS`.
        folder: of the run. TensorBoard's files go to ``tensorboard`` in it, those of wandb to ``wandb``.
        settings: what wandb shows as the run's settings.
        from_start: the run starts at count 0 again: TensorBoard shows this start in the place of earlier ones in the
            same folder. wandb shows the equal values of both.

    Raises:
        quasar_rt.InvalidValueError: no such tracker.
        quasar_rt.QuasarError: its package is not installed, or wandb cannot start.
        quasar_rt.FileError: TensorBoard's files cannot be written; `Tracker.scalars` and `Tracker.close` raise it, too.
    """
    if name == "tensorboard":
        return _TensorBoard(folder / "tensorboard", 0 if from_start else None)
    if name == "wandb":
        return _Wandb(folder, settings)
    raise InvalidValueError(f"there is no tracker '{name}': choose one of {', '.join(TRACKERS)}")


class _TensorBoard:
    def __init__(self, folder: Path, purge_step: int | None) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise QuasarError(
                "--log tensorboard needs TensorBoard and PyTorch: pip install tensorboard 'quasar-rt[host]', or leave "
                "it out"
            ) from error
        self._folder = folder
        with self._writing():
            self._writer = SummaryWriter(str(folder), purge_step=purge_step)
        self._print_failure, threading.excepthook = threading.excepthook, self._on_failure

    def scalars(self, group: str, count: int, values: Mapping[str, float]) -> None:
        with self._writing():
            for name, value in values.items():
                self._writer.add_scalar(f"{group}/{name}", value, count)

    def close(self) -> None:
        try:
            with self._writing():
                self._writer.close()
        finally:
            threading.excepthook = self._print_failure

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            what = f"TensorBoard's files in '{self._folder}' cannot be written"
            raise refused(
                what, error, "the same command continues (without --log tensorboard, too)"
            ) from error

    def _on_failure(self, failure: threading.ExceptHookArgs) -> None:
        # TensorBoard's thread prints what the next call raises anyway.
        if not type(failure.thread).__module__.startswith("tensorboard."):
            self._print_failure(failure)


class _Wandb:
    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError as error:
            raise QuasarError(
                "--log wandb needs Weights & Biases: pip install wandb, or leave it out; without a network set "
                "WANDB_MODE=offline"
            ) from error
        # The same folder continues the same run.
        identity = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
        try:
            self._run = wandb.init(
                project="quasar-rt",
                name=folder.name,
                id=identity,
                resume="allow",
                dir=str(folder),
                config=dict(settings),
            )
        # wandb has errors of many kinds: no login, no network, settings in the environment.
        except Exception as error:
            raise QuasarError(
                f"--log wandb: {error}; run 'wandb login', or set WANDB_MODE=offline"
            ) from error
        self._groups: set[str] = set()

    def scalars(self, group: str, count: int, values: Mapping[str, float]) -> None:
        axis = f"{group}/count"
        if group not in self._groups:
            self._groups.add(group)
            self._run.define_metric(f"{group}/*", step_metric=axis)
        self._run.log({axis: count, **{f"{group}/{name}": value for name, value in values.items()}})

    def close(self) -> None:
        self._run.finish()
