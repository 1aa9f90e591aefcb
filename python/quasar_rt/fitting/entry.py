"""The function that fits a network; torch is imported when it is called."""

from __future__ import annotations

from ..options import takes
from ..quantization import FitOptions
from .result import Fit

__all__ = ["fit"]


@takes(FitOptions)
def fit(options: FitOptions) -> Fit:
    """Makes subnets of a trained network that reach frame rates on a board; no supernet and no labels are needed.

    The patch embedding and the head have 8-bit rows. What 8 bits are worth for each other row is measured on the
    calibration images; the rows that get them are an exact knapsack over all matrices by the board's cost tables. Each
    result is quantized with GPTQ, read back from its file and replayed event by event. A quarter of the images is held
    out, to measure the errors.

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

    return run(options)
