"""The function that fits a network; torch is imported when it is called."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ..hardware import Board, Hardware, RatesOf
from ..images import ImageLike
from ..space import Space
from .result import Fit, Progress

if TYPE_CHECKING:
    from torch import nn

__all__ = ["fit"]


def fit(
    model: nn.Module | str | os.PathLike[str],
    calibration: Iterable[ImageLike],
    *,
    out: str | os.PathLike[str],
    board: Board | str | None = None,
    fps: float | Sequence[float] = (),
    curve: int | None = None,
    fps_of: RatesOf = "board",
    hardware: Hardware | None = None,
    space: Space | None = None,
    clock_mhz: float | None = None,
    image_size: int | tuple[int, int] | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Fit:
    """Makes subnets of a trained network that reach frame rates on a board; no supernet and no labels are needed.

    The patch embedding and the head have 8-bit rows. What 8 bits are worth for each other row is measured on the
    calibration images; the rows that get them are an exact knapsack over all matrices by the board's cost tables. Each
    result is quantized with GPTQ, read back from its file and replayed event by event. A quarter of the images is held
    out, to measure the errors.

    Args:
        model: a timm ``VisionTransformer``, or what `quasar_rt.networks.load_network` takes: a folder of Hugging Face's
            transformers, an ONNX file, a timm model's name.
        calibration: images as `Engine.infer` takes them; a few dozen, of the kind that the network will see.
        out: the folder for the subnets, the report and the measured worth. A fit that was interrupted goes on there.
        board: a board, or the name or path of one; by default that of `hardware`, or zcu102.
        fps: the frame rates wanted, frames a second.
        curve: this many subnets from 8 bits in all rows to 4 instead, at equal distances in frame rate; fewer where
            the processor is the bound. Without `fps` and `curve` there are 5.
        fps_of: ``board``: the rate that a user gets, with the gaps in which the processor starts segments and at most
            the processor's own rate; ``accelerator``: that of the accelerator alone.
        hardware: the accelerator's configuration; by default the one that runs the network fastest on the board.
        space: a space for which the default configuration is made instead.
        clock_mhz: the clock of the default configuration.
        image_size: of a network that is loaded here: a side, or height and width; positions of another grid are
            resampled.
        progress: gets, after each stage, its name, the number of stages done and their total.
        options: as `quasar_rt.export.export_timm` takes them: classes, name, mean, std, resize, percentile, equalize,
            embedding, correct, batch_size.

    Raises:
        quasar_rt.InvalidValueError: a rate that the board does not reach with 4 bits in all rows (the message has the
            fastest one), too few images, or a folder with a fit of another network or other images.
        quasar_rt.DoesNotFitError: the board is too small, whatever the array.
        Others: those of `quasar_rt.export.export_timm`.
    """
    try:
        from .run import run
    except ImportError as error:
        raise ImportError(f"{error}; install the host extra: pip install 'quasar-rt[host]'") from error

    return run(
        model,
        calibration,
        out=out,
        board=board,
        fps=fps,
        curve=curve,
        fps_of=fps_of,
        hardware=hardware,
        space=space,
        clock_mhz=clock_mhz,
        image_size=image_size,
        progress=progress,
        **options,
    )
